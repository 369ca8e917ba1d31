/**
 * Foreground against background by their colours (GrabCut: Rother et al. 2004): a mixture of Gaussians for either, and a
 * cut that parts neighbours the less readily the more alike they are.
 */

import { graphCut } from "./graph_cut.js";

const COMPONENTS = 5;
const ROUNDS = 3;
const COHESION = 50;
const CERTAIN = 9 * COHESION; // what it costs to part with what is known
const NOISE = 0.01; // gray levels squared, so that no Gaussian is flat

/** What is known of a pixel before its colour is looked at. */
export const [BACKGROUND, PROBABLY_BACKGROUND, PROBABLY_FOREGROUND, FOREGROUND] = [0, 1, 2, 3];

/**
 * @param {object} picture a square of four channels, in gray levels.
 * @param {Uint8Array} labels for each pixel one of the above.
 * @returns {Uint8Array} 1 where a pixel is foreground.
 */
export function segmented(picture, labels) {
  const { data, width: side } = picture;
  const bonds = neighbours(data, side);
  let front = labels.map((label) => (label >= PROBABLY_FOREGROUND ? 1 : 0));
  let groups = null;
  for (let round = 0; round < ROUNDS; round++) {
    const mixtures = [0, 1].map((which) => {
      const members = [];
      front.forEach((each, k) => each === which && members.push(k));
      return members;
    });
    if (mixtures.some((members) => members.length < 10 * COMPONENTS)) return front;
    groups = mixtures.map((members, which) => grouped(data, members, groups?.[which]));
    const excess = new Float32Array(labels.length);
    labels.forEach((label, k) => {
      if (label === FOREGROUND) excess[k] = CERTAIN;
      else if (label === BACKGROUND) excess[k] = -CERTAIN;
      else excess[k] = likelihood(groups[1], data, k) - likelihood(groups[0], data, k);
    });
    front = graphCut(excess, bonds.slice(), side);
  }
  return front;
}

/** What it costs to part each pixel from its eight neighbours, as `graphCut` takes it. */
function neighbours(data, side) {
  const apart = (a, b) => {
    const [r, g, b_] = [data[4 * a] - data[4 * b], data[4 * a + 1] - data[4 * b + 1], data[4 * a + 2] - data[4 * b + 2]];
    return r * r + g * g + b_ * b_;
  };
  const pairs = []; // of a pixel the neighbours to the right, below, lower right and lower left
  let sum = 0;
  for (let k = 0; k < side * side; k++) {
    const [x, y] = [k % side, (k / side) | 0];
    for (const [way, right, down] of [[0, 1, 0], [2, 0, 1], [4, 1, 1], [6, -1, 1]]) { // prettier-ignore
      if (x + right < 0 || x + right >= side || y + down >= side) continue;
      const other = k + down * side + right;
      const difference = apart(k, other);
      sum += difference;
      pairs.push(k, other, way, difference);
    }
  }
  const beta = sum > 0 ? pairs.length / 4 / (2 * sum) : 0;
  const bonds = new Float32Array(8 * side * side);
  for (let n = 0; n < pairs.length; n += 4) {
    const way = pairs[n + 2];
    const bond = (COHESION * Math.exp(-beta * pairs[n + 3])) / (way >= 4 ? Math.SQRT2 : 1);
    bonds[8 * pairs[n] + way] = bond;
    bonds[8 * pairs[n + 1] + way + 1] = bond;
  }
  return bonds;
}

/** A mixture of Gaussians of some pixels' colours, which were nearest to one of a former mixture, or are by distance. */
function grouped(data, members, former) {
  const nearest = former ? (k) => likeliest(former, data, k) : clustered(data, members);
  const sums = Array.from({ length: COMPONENTS }, () => new Float64Array(10)); // count, colour, products
  for (const k of members) {
    const into = sums[nearest(k)];
    const [r, g, b] = [data[4 * k], data[4 * k + 1], data[4 * k + 2]];
    [1, r, g, b, r * r, r * g, r * b, g * g, g * b, b * b].forEach((value, n) => (into[n] += value));
  }
  return sums.filter(([count]) => count > 0).map((sum) => gaussian(sum, members.length));
}

/** From a pixel to the number of its cluster (k-means, from evenly spread brightnesses on). */
function clustered(data, members) {
  const bright = (k) => 0.299 * data[4 * k] + 0.587 * data[4 * k + 1] + 0.114 * data[4 * k + 2];
  const sorted = [...members].sort((a, b) => bright(a) - bright(b));
  let middles = Array.from({ length: COMPONENTS }, (_, n) => {
    const k = sorted[Math.floor(((n + 0.5) * sorted.length) / COMPONENTS)];
    return [data[4 * k], data[4 * k + 1], data[4 * k + 2]];
  });
  const nearest = (k) => {
    let best = 0;
    let least = Infinity;
    for (let n = 0; n < COMPONENTS; n++) {
      const middle = middles[n];
      const r = data[4 * k] - middle[0];
      const g = data[4 * k + 1] - middle[1];
      const b = data[4 * k + 2] - middle[2];
      const far = r * r + g * g + b * b;
      if (far < least) {
        least = far;
        best = n;
      }
    }
    return best;
  };
  for (let round = 0; round < 6; round++) {
    const sums = middles.map(() => [0, 0, 0, 0]);
    for (const k of members) {
      const into = sums[nearest(k)];
      for (let c = 0; c < 3; c++) into[c] += data[4 * k + c];
      into[3]++;
    }
    middles = sums.map(([r, g, b, count], n) => (count ? [r / count, g / count, b / count] : middles[n]));
  }
  return nearest;
}

/** A Gaussian of sums: its middle, the inverse of its covariance, and the logarithm of its share and height. */
function gaussian([count, r, g, b, rr, rg, rb, gg, gb, bb], total) {
  const [x, y, z] = [r / count, g / count, b / count];
  const [xx, yy, zz] = [rr / count - x * x + NOISE, gg / count - y * y + NOISE, bb / count - z * z + NOISE];
  const [xy, xz, yz] = [rg / count - x * y, rb / count - x * z, gb / count - y * z];
  const inverse = [yy * zz - yz * yz, xz * yz - xy * zz, xy * yz - xz * yy, xx * zz - xz * xz, xz * xy - xx * yz, xx * yy - xy * xy]; // prettier-ignore
  const determinant = Math.max(xx * inverse[0] + xy * inverse[1] + xz * inverse[2], 1e-9);
  return {
    middle: [x, y, z],
    inverse: inverse.map((each) => each / determinant),
    height: Math.log(count / total) - 0.5 * Math.log(determinant),
  };
}

/** The logarithm of how likely a pixel's colour is of a Gaussian. */
function density({ middle, inverse, height }, data, k) {
  const x = data[4 * k] - middle[0];
  const y = data[4 * k + 1] - middle[1];
  const z = data[4 * k + 2] - middle[2];
  const squares = inverse[0] * x * x + inverse[3] * y * y + inverse[5] * z * z;
  return height - 0.5 * squares - inverse[1] * x * y - inverse[2] * x * z - inverse[4] * y * z;
}

function likelihood(mixture, data, k) {
  let sum = 0;
  for (const each of mixture) sum += Math.exp(density(each, data, k));
  return Math.log(Math.max(sum, 1e-300));
}

function likeliest(mixture, data, k) {
  let [best, most] = [0, -Infinity];
  mixture.forEach((each, n) => {
    const value = density(each, data, k);
    if (value > most) [best, most] = [n, value];
  });
  return best;
}
