/**
 * What a light changes in the square of a face: the drag of the light calls nothing else. See dpr_jax.portrait.portrait,
 * `_log_ratio` and `_local_lines`.
 */

import { boxBlur } from "./blur.js";
import { LUMINANCE_WEIGHTS, luminanceOfLightness } from "./color.js";
import { key } from "./exposure.js";
import { roll } from "./lights.js";
import { faceShading, litShape } from "./shading.js";

// The guided filter that ties the ratio to the photo's lightness: radius in a square of 256, least variance of an edge.
const RADIUS = 2;
const EPSILON = 0.02 ** 2;
const LEAST_KEY = 1e-4;
/** How many stops darker and brighter a pixel may get, as natural logarithms. */
export const WITHIN = [-7 * Math.LN2, 3.5 * Math.LN2];

/** A face that can be put under any light; made once a photo. */
export class FaceRatio {
  /**
   * @param {object} face `lightness` L / 100 of the square, `skin` the oval of the face in it, `roll` degrees by which
   *   the head leans; and of the network `normal`, `depth`, `skinWeight`, `doubt` and `shading` under its light.
   * @param {number} size side of the square.
   * @param {number} cells side of what the network gives.
   */
  constructor(face, size, cells) {
    [this.size, this.cells, this.roll] = [size, cells, face.roll];
    this.shape = litShape(face.normal, face.depth, face.skinWeight, face.doubt, cells);
    this.source = face.shading.map((value) => Math.log(value));
    this.guide = face.lightness;
    this.before = face.lightness.map(luminanceOfLightness);
    this.skin = averaged(face.skin, size, cells);
    this.key = Math.max(key(averaged(this.before, size, cells), this.skin), LEAST_KEY);
    this.taps = linearTaps(size, cells);
    this.meanGuide = boxBlur(this.guide, size, RADIUS);
    this.variance = boxBlur(this.guide.map((value) => value * value), size, RADIUS);
    for (let k = 0; k < this.variance.length; k++) this.variance[k] -= this.meanGuide[k] ** 2;
  }

  /**
   * The logarithm of new over old linear light, so that the face keeps the photo's key.
   *
   * @param {object} light in the photo's coordinates.
   * @param {number} stops by how many stops the key of the face gets brighter.
   * @returns {Float32Array[]} a number a pixel of the square for each channel of the light.
   */
  logRatio(light, stops = 0) {
    const shading = faceShading(this.shape, roll(light, this.roll));
    const ratios = shading.map((channel) =>
      enlarged(channel.map((value, k) => Math.log(value) - this.source[k]), this.taps, this.size, this.cells),
    );
    const weights = ratios.length === 1 ? [1] : LUMINANCE_WEIGHTS;
    const after = new Float32Array(this.before.length);
    ratios.forEach((ratio, c) => {
      for (let k = 0; k < after.length; k++) after[k] += weights[c] * Math.exp(ratio[k]);
    });
    for (let k = 0; k < after.length; k++) after[k] *= this.before[k];
    const gain = Math.log(this.key / Math.max(key(averaged(after, this.size, this.cells), this.skin), LEAST_KEY));
    for (const ratio of ratios) for (let k = 0; k < ratio.length; k++) ratio[k] += gain + stops * Math.LN2;
    return ratios;
  }

  /**
   * The log ratio as local lines a L + b of the lightness (He & Sun 2015): so it follows the edges of the whole photo.
   *
   * @returns {{a: Float32Array, b: Float32Array}[]} for each channel of the light.
   */
  lines(light, stops = 0) {
    const { guide, meanGuide, variance, size } = this;
    return this.logRatio(light, stops).map((ratio) => {
      const product = new Float32Array(ratio.length);
      for (let k = 0; k < ratio.length; k++) {
        ratio[k] = Math.min(Math.max(ratio[k], WITHIN[0]), WITHIN[1]);
        product[k] = guide[k] * ratio[k];
      }
      const [meanRatio, meanProduct] = [boxBlur(ratio, size, RADIUS), boxBlur(product, size, RADIUS)];
      const a = product;
      for (let k = 0; k < a.length; k++) {
        a[k] = (meanProduct[k] - meanGuide[k] * meanRatio[k]) / (variance[k] + EPSILON);
        meanRatio[k] -= a[k] * meanGuide[k];
      }
      return { a: boxBlur(a, size, RADIUS), b: boxBlur(meanRatio, size, RADIUS) };
    });
  }
}

/** Means of blocks of pixels: a square of `size` as one of `cells`. */
function averaged(values, size, cells) {
  const block = size / cells;
  const means = new Float32Array(cells * cells);
  for (let y = 0, k = 0; y < size; y++) {
    const row = Math.floor(y / block) * cells;
    for (let x = 0; x < cells; x++) {
      for (let n = 0; n < block; n++, k++) means[row + x] += values[k];
    }
  }
  return means.map((sum) => sum / block ** 2);
}

/** For each pixel along a side: the two cells between which it lies, and how near it is to the second. */
function linearTaps(size, cells) {
  const taps = { first: new Uint16Array(size), second: new Uint16Array(size), share: new Float32Array(size) };
  for (let x = 0; x < size; x++) {
    const place = Math.min(Math.max(((x + 0.5) * cells) / size - 0.5, 0), cells - 1);
    taps.first[x] = Math.floor(place);
    taps.second[x] = Math.min(taps.first[x] + 1, cells - 1);
    taps.share[x] = place - taps.first[x];
  }
  return taps;
}

/** Cells enlarged to pixels, linearly. */
function enlarged(values, { first, second, share }, size, cells) {
  const wide = new Float32Array(size * cells);
  for (let row = 0; row < cells; row++) {
    for (let x = 0; x < size; x++) {
      const left = values[row * cells + first[x]];
      wide[row * size + x] = left + share[x] * (values[row * cells + second[x]] - left);
    }
  }
  const large = new Float32Array(size * size);
  for (let y = 0; y < size; y++) {
    const upper = first[y] * size;
    const lower = second[y] * size;
    const below = share[y];
    for (let x = 0; x < size; x++) large[y * size + x] = wide[upper + x] + below * (wide[lower + x] - wide[upper + x]);
  }
  return large;
}
