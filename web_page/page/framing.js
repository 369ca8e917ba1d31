/** The upright square around a face, framed like CelebA-HQ: dpr_jax.portrait.faces and .square. */

import { degrees } from "./lights.js";
import { betweenCentres, inverse, moved, part, scaleOf, shrunk, warped } from "./pictures.js";

const LEFT_EYE = [33, 7, 163, 144, 145, 153, 154, 155, 133, 173, 157, 158, 159, 160, 161, 246];
const RIGHT_EYE = [362, 382, 381, 380, 374, 373, 390, 249, 263, 466, 388, 387, 386, 385, 384, 398];
const MOUTH_CORNERS = [61, 291];
/** The face's outline, from the middle of the forehead around. */
export const OVAL = [
  10, 338, 297, 332, 284, 251, 389, 356, 454, 323, 361, 288, 397, 365, 379, 378, 400, 377, 152, 148, 176, 149, 150, 136,
  172, 58, 132, 93, 234, 127, 162, 21, 54, 103, 67, 109,
];

/**
 * The framing of a face.
 *
 * @param {number[][]} landmarks [x, y, z] of each of MediaPipe's 478, in pixels of the photo from its corner.
 * @param {number} size side of the square in its own pixels.
 * @returns {{matrix: number[], roll: number, size: number}} `matrix` leads from the photo to the square, both counted
 *   from the corner; `roll` is by how many degrees the head leans clockwise.
 */
export function framed(landmarks, size) {
  const mean = (numbers) => [0, 1].map((axis) => numbers.reduce((sum, n) => sum + landmarks[n][axis], 0) / numbers.length);
  const [left, right, mouth] = [mean(LEFT_EYE), mean(RIGHT_EYE), mean(MOUTH_CORNERS)];
  const between = [(left[0] + right[0]) / 2, (left[1] + right[1]) / 2];
  const across = [right[0] - left[0], right[1] - left[1]];
  const toMouth = [mouth[0] - between[0], mouth[1] - between[1]];
  const along = [across[0] + toMouth[1], across[1] - toMouth[0]];
  const length = Math.hypot(...along);
  const [c, s] = [along[0] / length, along[1] / length];
  const scale = size / (2 * Math.max(2 * Math.hypot(...across), 1.8 * Math.hypot(...toMouth)));
  const centre = [between[0] + 0.1 * toMouth[0], between[1] + 0.1 * toMouth[1]];
  const linear = [c * scale, s * scale, 0, -s * scale, c * scale, 0];
  const [x, y] = moved(linear, ...centre);
  return {
    matrix: [linear[0], linear[1], size / 2 - x, linear[3], linear[4], size / 2 - y],
    roll: degrees(Math.atan2(s, c)),
    size,
  };
}

/** The framed face as a picture; where it reaches beyond the photo, the photo is mirrored. */
export function cutSquare(photo, framing) {
  const { size } = framing;
  const onto = betweenCentres(framing.matrix);
  const back = inverse(onto);
  const corners = [[0, 0], [size - 1, 0], [0, size - 1], [size - 1, size - 1]].map(([x, y]) => moved(back, x, y)); // prettier-ignore
  const [xs, ys] = [corners.map(([x]) => x), corners.map(([, y]) => y)];
  const left = Math.min(Math.max(Math.floor(Math.min(...xs)) - 2, 0), photo.width - 1);
  const top = Math.min(Math.max(Math.floor(Math.min(...ys)) - 2, 0), photo.height - 1);
  const right = Math.max(Math.min(Math.ceil(Math.max(...xs)) + 3, photo.width), left + 1);
  const bottom = Math.max(Math.min(Math.ceil(Math.max(...ys)) + 3, photo.height), top + 1);
  let cut = part(photo, left, top, right - left, bottom - top);
  let matrix = shifted(onto, left, top);
  // A warp alone would skip pixels where it shrinks: so whole pixels are averaged before it, and a finer square after it.
  const scale = 1 / scaleOf(matrix);
  const factor = Math.max(1, Math.floor(scale / 2));
  if (factor > 1) {
    const [columns, rows] = [cut.width, cut.height].map((side) => Math.max(1, Math.floor(side / factor)));
    cut = shrunk(part(cut, 0, 0, columns * factor, rows * factor), columns, rows);
    const middle = shifted(matrix, (factor - 1) / 2, (factor - 1) / 2);
    matrix = matrix.map((each, k) => (k % 3 === 2 ? middle[k] : each * factor));
  }
  const finer = Math.max(1, Math.ceil(scale / factor - 0.01));
  matrix = matrix.map((each, k) => finer * each + (k % 3 === 2 ? (finer - 1) / 2 : 0));
  return shrunk(warped(cut, matrix, size * finer, size * finer, true), size, size);
}

/** A matrix for coordinates that start at (left, top). */
export function shifted(matrix, left, top) {
  const [x, y] = moved(matrix, left, top);
  return [matrix[0], matrix[1], x, matrix[3], matrix[4], y];
}
