/** sRGB, linear light and L of CIE Lab, as dpr_jax.image.color has them. */

/** What red, green and blue add to luminance (Rec. 709). */
export const LUMINANCE_WEIGHTS = [0.2126, 0.7152, 0.0722];

// Those of OpenCV's Lab, by which the network was trained.
const Y_WEIGHTS = [0.212671, 0.71516, 0.072169];
const KNEE = (6 / 29) ** 3;
const SLOPE = (29 / 6) ** 2 / 3;
const OFFSET = 4 / 29;
// Linear sRGB -> CIE XYZ, each row divided by the white point's component.
const WHITE_POINT = [0.950456, 1, 1.088754];
const RGB_TO_WHITE = [
  [0.412453, 0.35758, 0.180423],
  [0.212671, 0.71516, 0.072169],
  [0.019334, 0.119193, 0.950227],
].map((row, k) => row.map((number) => number / WHITE_POINT[k]));

/** The white of sRGB, in kelvin. */
export const NEUTRAL = 6504;

/** From an sRGB value in [0, 1] to linear light in [0, 1]. */
export const linearise = (srgb) => (srgb <= 0.04045 ? srgb / 12.92 : ((srgb + 0.055) / 1.055) ** 2.4);

/** The inverse of `linearise`. */
export const delinearise = (linear) => (linear <= 0.0031308 ? linear * 12.92 : 1.055 * linear ** (1 / 2.4) - 0.055);

/** L / 100 of linear luminance, 0 or more. */
export const lightnessOfLuminance = (y) => 1.16 * (y > KNEE ? Math.cbrt(y) : y * SLOPE + OFFSET) - 0.16;

/** Linear luminance in [0, 1] of L / 100. */
export function luminanceOfLightness(lightness) {
  const bright = ((lightness + 0.16) / 1.16) ** 3;
  return bright > KNEE ? bright : lightness / (1.16 * SLOPE);
}

const LINEAR = Float64Array.from({ length: 256 }, (_, level) => linearise(level / 255));

/**
 * L / 100 of a picture.
 *
 * @param {{data: Uint8ClampedArray, width: number, height: number}} picture sRGB with four channels.
 * @returns {Float32Array} a number a pixel, in [0, 1].
 */
export function lightness({ data, width, height }) {
  const found = new Float32Array(width * height);
  for (let k = 0; k < found.length; k++) {
    const y = Y_WEIGHTS.reduce((sum, weight, c) => sum + weight * LINEAR[data[4 * k + c]], 0);
    found[k] = lightnessOfLuminance(y);
  }
  return found;
}

/**
 * The colour of a lamp: a black body beside one of `NEUTRAL` kelvin (Kim et al. 2002).
 *
 * @param {number} kelvin 1,700 to 25,000.
 * @returns {number[]} linear red, green and blue of luminance 1.
 */
export function lampColour(kelvin) {
  const neutral = blackBody(NEUTRAL);
  const colour = blackBody(kelvin).map((channel, c) => Math.max(channel / neutral[c], 0));
  const y = Y_WEIGHTS.reduce((sum, weight, c) => sum + weight * colour[c], 0);
  return colour.map((channel) => channel / y);
}

function blackBody(kelvin) {
  const polynomial = (coefficients, x) => coefficients.reduce((sum, each) => sum * x + each, 0);
  const t = 1000 / kelvin;
  const x = polynomial(
    kelvin <= 4000 ? [-0.2661239, -0.2343589, 0.8776956, 0.17991] : [-3.0258469, 2.1070379, 0.2226347, 0.24039],
    t,
  );
  let y;
  if (kelvin <= 2222) y = polynomial([-1.1063814, -1.3481102, 2.18555832, -0.20219683], x);
  else if (kelvin <= 4000) y = polynomial([-0.9549476, -1.37418593, 2.09137015, -0.16748867], x);
  else y = polynomial([3.081758, -5.8733867, 3.75112997, -0.37001483], x);
  const xyz = [x / y, 1, (1 - x - y) / y].map((number, k) => number / WHITE_POINT[k]);
  return solve(RGB_TO_WHITE, xyz);
}

/** The solution of three linear equations, by Cramer's rule. */
function solve(matrix, right) {
  const determinant = ([[a, b, c], [d, e, f], [g, h, i]]) =>
    a * (e * i - f * h) - b * (d * i - f * g) + c * (d * h - e * g);
  return [0, 1, 2].map(
    (column) =>
      determinant(matrix.map((row, r) => row.map((number, c) => (c === column ? right[r] : number)))) /
      determinant(matrix),
  );
}
