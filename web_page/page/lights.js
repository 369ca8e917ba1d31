/**
 * Lights, as dpr_jax.light.light and dpr_jax.portrait.lights have them.
 *
 * A light is {soft, towards, irradiance, size}: `soft` holds nine spherical harmonics coefficients a channel, one channel
 * if gray and three if in colour; of each lamp `towards` is the unit direction to it, `irradiance` a number a channel,
 * and `size` its angular diameter in degrees. Axes: x to the right of the picture, y into the scene, z up.
 */

/** The key lamps of photographers, [azimuth, elevation, fill, size], as in docs/lights.md; null is even light. */
export const PRESETS = {
  front: [0, 10, 1.0, 20],
  left: [65, 10, 0.25, 15],
  right: [-65, 10, 0.25, 15],
  top: [0, 60, 0.33, 25],
  bottom: [0, -45, 0.25, 15],
  "left-top": [50, 40, 0.25, 15],
  "right-top": [-50, 40, 0.25, 15],
  "left-bottom": [50, -30, 0.25, 15],
  "right-bottom": [-50, -30, 0.25, 15],
  rembrandt: [45, 45, 0.14, 20],
  "rembrandt-right": [-45, 45, 0.14, 20],
  loop: [30, 25, 0.33, 20],
  "loop-right": [-30, 25, 0.33, 20],
  butterfly: [0, 45, 0.5, 20],
  split: [72, 5, 0.14, 10],
  "split-right": [-72, 5, 0.14, 10],
  flat: null,
};

export const degrees = (radians) => (radians * 180) / Math.PI;
export const radians = (degrees) => (degrees * Math.PI) / 180;

const ROOT_PI = Math.sqrt(Math.PI);
const [BAND0, BAND1, BAND2] = [1 / (2 * ROOT_PI), Math.sqrt(3) / (2 * ROOT_PI), Math.sqrt(15) / (2 * ROOT_PI)];
const ROOT_3 = Math.sqrt(3);
/** What the clamped cosine leaves of each harmonic (Basri & Jacobs 2003). */
export const LAMBERTIAN = [1, 2, 2, 2, 3, 3, 3, 3, 3].map((band) => [0, 1, 2 / 3, 1 / 4][band] * Math.PI);

/** The nine harmonics at a unit direction. */
export function harmonics(x, y, z) {
  return [
    BAND0,
    BAND1 * y,
    BAND1 * z,
    BAND1 * x,
    BAND2 * x * y,
    BAND2 * y * z,
    (BAND2 / (2 * ROOT_3)) * (3 * z * z - 1),
    BAND2 * x * z,
    (BAND2 / 2) * (x * x - y * y),
  ];
}

/** The unit direction of degrees to the picture's left and up from the camera. */
export function direction(azimuth, elevation) {
  const [a, e] = [radians(azimuth), radians(elevation)];
  return [-Math.sin(a) * Math.cos(e), -Math.cos(a) * Math.cos(e), Math.sin(e)];
}

/** The same light from everywhere, of irradiance 1. */
export function evenLight() {
  return { soft: [[(2 * ROOT_PI) / Math.PI, 0, 0, 0, 0, 0, 0, 0, 0]], towards: [], irradiance: [], size: [] };
}

/**
 * A studio's light: one lamp of irradiance 1, and a fill from around the camera.
 *
 * @param {number} azimuth degrees from the camera to the picture's left.
 * @param {number} elevation degrees upwards.
 * @param {number} fill irradiance by the fill over that by the lamp, each of a surface that faces it.
 * @param {number} size angular diameter of the lamp in degrees.
 */
export function keyAndFill(azimuth, elevation, fill, size) {
  const soft = [((fill / 2 / Math.PI) * 2 * ROOT_PI), 0, 0, 0, 0, 0, 0, 0, 0];
  soft[1] = -(fill / 2 / LAMBERTIAN[1]) * Math.sqrt((4 * Math.PI) / 3);
  return { soft: [soft], towards: [direction(azimuth, elevation)], irradiance: [[1]], size: [size] };
}

/**
 * A gray light with lamps of another colour and the soft part as it is; without lamps all of it is tinted.
 *
 * @param {object} light gray.
 * @param {number[]} colour linear red, green and blue; of luminance 1 it leaves brightness as it is.
 */
export function tintLamps(light, colour) {
  if (colour.every((channel) => Math.abs(channel - 1) < 1e-6)) return light;
  const soft = colour.map((channel) => light.soft[0].map((number) => number * (light.towards.length ? 1 : channel)));
  const irradiance = light.irradiance.map(([amount]) => colour.map((channel) => amount * channel));
  return { ...light, soft, irradiance };
}

/** The light turned about the view axis: light from the right of the picture goes to the top, then to the left. */
export function roll(light, angle) {
  const [c, s] = [Math.cos(radians(angle)), Math.sin(radians(angle))];
  const turned = ([x, y, z]) => [c * x - s * z, y, s * x + c * z];
  return {
    ...light,
    soft: light.soft.map((numbers) => rolled(numbers, c, s)),
    towards: light.towards.map(turned),
  };
}

/** Band 1 is a vector; band 2 a quadratic form, whose matrix is turned from both sides. */
function rolled(n, c, s) {
  const half = BAND2 / 2;
  const [xx, yy, zz] = [-n[6] / ROOT_3 + n[8], -n[6] / ROOT_3 - n[8], (2 * n[6]) / ROOT_3].map((each) => half * each);
  const [xy, yz, xz] = [n[4], n[5], n[7]].map((each) => half * each);
  const turnedXX = c * c * xx - 2 * c * s * xz + s * s * zz;
  const turnedZZ = s * s * xx + 2 * c * s * xz + c * c * zz;
  const turnedXZ = c * s * (xx - zz) + (c * c - s * s) * xz;
  return [
    n[0],
    n[1],
    s * n[3] + c * n[2],
    c * n[3] - s * n[2],
    (c * xy - s * yz) / half,
    (s * xy + c * yz) / half,
    (ROOT_3 / 2 / half) * turnedZZ,
    turnedXZ / half,
    (turnedXX - yy) / (2 * half),
  ];
}

/** max(0, cos) of a lamp that is no point: as it sets, its last part is still seen. */
export function facing(cosine, size) {
  const half = Math.max(Math.sin(radians(size) / 2), 1e-4);
  return cosine > half ? cosine : Math.max(cosine + half, 0) ** 2 / (4 * half);
}
