/** The irradiance of a face under a light, with shadows that it casts on itself: dpr_jax.light.shading and .shadows. */

import { facing, harmonics, LAMBERTIAN, radians } from "./lights.js";

const BOUNCE = 0.05; // what skin and room throw back of the mean light on the face
const LEAST = 1e-4;
// Where a ray towards a lamp looks, in shares of the side.
const [NEAREST, FARTHEST, STEPS] = [0.012, 0.42, 24];
const ABYSS = -9; // beyond the picture nothing casts shadows
const LEAST_ACROSS = 1e-3;
const SMALLEST_LAMP = 20; // degrees

/**
 * The shape of a face, made ready to be lit.
 *
 * @param {Float32Array} normal three numbers a cell: unit normals.
 * @param {Float32Array} depth height towards the viewer in shares of the side.
 * @param {Float32Array} skin weights.
 * @param {Float32Array} doubt how little the shading of each cell is believed, in [0, 1].
 * @param {number} side cells.
 */
export function litShape(normal, depth, skin, doubt, side) {
  const basis = new Float32Array(9 * side * side);
  for (let k = 0; k < side * side; k++) {
    basis.set(harmonics(normal[3 * k], normal[3 * k + 1], normal[3 * k + 2]), 9 * k);
  }
  const reach = Math.ceil(FARTHEST * side) + 2;
  const around = new Float32Array((side + 2 * reach) ** 2).fill(ABYSS);
  for (let row = 0; row < side; row++) {
    around.set(depth.subarray(row * side, (row + 1) * side), (row + reach) * (side + 2 * reach) + reach);
  }
  return { normal, depth, skin, doubt, side, basis, around, reach };
}

/**
 * The irradiance of a face, as far as it is believed, and else its mean over the skin.
 *
 * @param {object} shape from `litShape`.
 * @param {object} light see `lights.js`.
 * @returns {Float32Array[]} a number a cell for each channel of the light, positive.
 */
export function faceShading(shape, light) {
  const { normal, skin, doubt, side, basis } = shape;
  const seen = light.towards.map((towards, lamp) => {
    const lit = visibility(shape, towards, light.size[lamp]);
    for (let k = 0; k < lit.length; k++) {
      const cosine = normal[3 * k] * towards[0] + normal[3 * k + 1] * towards[1] + normal[3 * k + 2] * towards[2];
      lit[k] *= facing(cosine, light.size[lamp]);
    }
    return lit;
  });
  return light.soft.map((numbers, channel) => {
    const weights = numbers.map((number, k) => number * LAMBERTIAN[k]);
    const shading = new Float32Array(side * side);
    let [sum, total] = [0, 0];
    for (let k = 0; k < shading.length; k++) {
      let value = 0;
      for (let n = 0; n < 9; n++) value += basis[9 * k + n] * weights[n];
      value = Math.max(value, 0);
      for (let lamp = 0; lamp < seen.length; lamp++) value += seen[lamp][k] * light.irradiance[lamp][channel];
      shading[k] = value;
      sum += value * skin[k];
      total += skin[k];
    }
    const back = (BOUNCE * sum) / (total + 1e-6) + LEAST;
    const mean = (sum + back * total) / (total + 1e-6);
    return shading.map((value, k) => value + back + doubt[k] * (mean - value - back));
  });
}

/**
 * What share of a far lamp each cell sees past the relief, in [0, 1]: the steepest climb towards the lamp is a cell's
 * horizon, behind which the lamp sets like a disc.
 */
export function visibility({ depth, side, around, reach }, towards, size) {
  const [right, down, near] = [towards[0], -towards[2], -towards[1]];
  const across = Math.hypot(right, down);
  const unit = Math.max(across, LEAST_ACROSS);
  const width = side + 2 * reach;
  const horizon = new Float32Array(side * side).fill(-Infinity);
  for (let step = 0; step < STEPS; step++) {
    const share = NEAREST * (FARTHEST / NEAREST) ** (step / (STEPS - 1));
    const distance = Math.max(share * side, 1); // no cell is its own horizon
    const [rows, columns] = [(down / unit) * distance, (right / unit) * distance];
    const [row, column] = [Math.floor(rows), Math.floor(columns)];
    const [below, beside] = [rows - row, columns - column];
    const slope = side / distance;
    for (let y = 0; y < side; y++) {
      let from = (y + reach + row) * width + reach + column;
      for (let k = y * side; k < (y + 1) * side; k++, from++) {
        const first = around[from] + below * (around[from + width] - around[from]);
        const second = around[from + 1] + below * (around[from + width + 1] - around[from + 1]);
        const climb = (first + beside * (second - first) - depth[k]) * slope;
        if (climb > horizon[k]) horizon[k] = climb;
      }
    }
  }
  const zenith = Math.atan2(near, across);
  const diameter = radians(Math.hypot(size, SMALLEST_LAMP));
  return horizon.map((slope) => {
    const x = Math.min(Math.max((zenith - Math.atan(slope)) / diameter + 0.5, 0), 1);
    return x * x * (3 - 2 * x);
  });
}
