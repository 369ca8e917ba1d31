/** How bright a relit face is: its key, the 90th percentile of the skin, stays. See dpr_jax.light.exposure. */

const SHARE = 0.9;

/**
 * The 90th percentile of linear luminance over the skin, interpolated between cells.
 *
 * @param {Float32Array} luminance a number a cell.
 * @param {Float32Array} skin weights, 0 or more.
 */
export function key(luminance, skin) {
  return quantile(luminance, skin, SHARE);
}

/** The value below which a share of the weights lies. */
export function quantile(values, weights, share) {
  const order = Uint32Array.from(values, (_, k) => k).sort((a, b) => values[a] - values[b]);
  let total = 0;
  for (const weight of weights) total += weight + 1e-6;
  const target = share * total;
  let [upto, start, at] = [0, 0, 0];
  for (at = 0; at < order.length; at++) {
    start = upto;
    upto += weights[order[at]] + 1e-6;
    if (upto >= target) break;
  }
  at = Math.min(at, order.length - 1);
  const [low, high] = [values[order[Math.max(at - 1, 0)]], values[order[at]]];
  const position = Math.min(Math.max((target - start) / Math.max(upto - start, 1e-9), 0), 1);
  return low + (high - low) * position;
}
