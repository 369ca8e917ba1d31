/** Regions of a square: convex polygons, and distances to them. Places are [x, y] in pixels, counted from the corner. */

/** The convex hull of places, in order (Andrew 1979). */
export function convexHull(points) {
  const sorted = [...points].sort(([ax, ay], [bx, by]) => ax - bx || ay - by);
  const half = (ordered) => {
    const chain = [];
    for (const point of ordered) {
      while (chain.length > 1 && !turnsLeft(chain[chain.length - 2], chain[chain.length - 1], point)) chain.pop();
      chain.push(point);
    }
    return chain.slice(0, -1);
  };
  return [...half(sorted), ...half(sorted.reverse())];
}

const turnsLeft = ([ax, ay], [bx, by], [cx, cy]) => (bx - ax) * (cy - ay) - (by - ay) * (cx - ax) > 0;

/**
 * What share of each pixel a convex polygon covers.
 *
 * @param {number[][]} polygon its corners, in order.
 * @param {number} size side of the square.
 * @returns {Float32Array} a number a pixel, in [0, 1].
 */
export function covered(polygon, size) {
  const shares = new Float32Array(size * size);
  const lines = 4; // a row of pixels
  for (let line = 0; line < size * lines; line++) {
    const y = (line + 0.5) / lines;
    let [left, right] = [Infinity, -Infinity];
    polygon.forEach(([ax, ay], k) => {
      const [bx, by] = polygon[(k + 1) % polygon.length];
      if (ay <= y === by <= y) return;
      const x = ax + ((y - ay) / (by - ay)) * (bx - ax);
      [left, right] = [Math.min(left, x), Math.max(right, x)];
    });
    const row = Math.floor(line / lines) * size;
    for (let x = Math.max(Math.floor(left), 0); x < Math.min(right, size); x++) {
      shares[row + x] += Math.max(Math.min(right, x + 1) - Math.max(left, x), 0) / lines;
    }
  }
  return shares;
}

/**
 * The distance of each pixel to the nearest one that is marked, Infinity where none is (Felzenszwalb & Huttenlocher 2012).
 *
 * @param {ArrayLike<number>} marked not 0 where a pixel is.
 * @param {number} size side of the square.
 */
export function distanceTo(marked, size) {
  const squares = Float64Array.from(marked, (each) => (each ? 0 : Infinity));
  const line = new Float64Array(size);
  const along = (start, step) => {
    for (let k = 0; k < size; k++) line[k] = squares[start + k * step];
    const [places, borders] = [[], []];
    for (let k = 0; k < size; k++) {
      if (line[k] === Infinity) continue;
      let border = -Infinity;
      while (places.length) {
        const last = places[places.length - 1];
        border = (line[k] + k * k - line[last] - last * last) / (2 * (k - last));
        if (border > borders[borders.length - 1]) break;
        places.pop();
        borders.pop();
        border = -Infinity;
      }
      places.push(k);
      borders.push(border);
    }
    for (let k = 0, n = 0; k < size && places.length; k++) {
      while (n + 1 < places.length && borders[n + 1] < k) n++;
      squares[start + k * step] = (k - places[n]) ** 2 + line[places[n]];
    }
  };
  for (let x = 0; x < size; x++) along(x, size);
  for (let y = 0; y < size; y++) along(y * size, 1);
  return Float32Array.from(squares, Math.sqrt);
}
