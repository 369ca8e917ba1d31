/**
 * Faces in a photo, by the two networks of the package's own face finder: dpr_jax.portrait.embedded_faces. One proposes
 * squares that may hold a face, the other lays landmarks on each and says whether it is one.
 */

import { framed } from "./framing.js";
import { degrees, radians } from "./lights.js";
import { betweenCentres, gray, inverse, moved, part, scaleOf, shrunk, turned, warped } from "./pictures.js";

// The canvas that the detector sees, and the longer side of the largest picture of the photo on it.
export const CANVAS = { width: 1024, height: 640 };
const LARGEST = 640;
const SMALLEST_FACE = 24; // pixels of the photo
const STRIDE = 8; // pixels for each of which the detector answers once
const DETECTOR_SIDE = 22; // of a face whose logarithm the detector calls 0
const SQUARE = 128; // what the landmark network sees, and how much of it the face fills
const CLOSE_UP = 1.5;
export const BATCH = 4; // squares that the landmark network sees at a time
const GAP = 8;
// Log odds: of what is proposed, of what is left after a first look, and of what is a face after the last.
const [PROPOSED, DOUBTED, PRESENT] = [-0.7, -2, 2.5];
const MOST_PROPOSALS = 24;
const [SAME_CENTRE, SAME_LOG_SIDE, SAME] = [0.45, 0.5, 0.5];
// Of the last look: the scale of the square, and whether its mirror image is looked at.
const VIEWS = [[0.93, false], [0.93, true], [1.07, false], [1.07, true]]; // prettier-ignore

export class FaceFinder {
  /**
   * @param {object} networks `detector(canvas)` gives six numbers a cell, `landmarker(squares)` gives `points` and
   *   `logit` of `BATCH` squares; both take Float32Arrays in [0, 1] and are asynchronous.
   * @param {number[]} partner the number that each landmark has in the mirror image of a face.
   */
  constructor(networks, partner) {
    [this.networks, this.partner] = [networks, partner];
  }

  /**
   * All faces of a photo, the largest first. A photo without any is looked at again upside down and from either side.
   *
   * @param {object} photo a picture of four channels.
   * @returns {Promise<number[][][]>} of each face 478 landmarks [x, y, z] in pixels of the photo, z towards the viewer.
   */
  async find(photo) {
    const levels = gray(photo);
    for (const quarters of [0, 2, 1, 3]) {
      const faces = await this.#find(turned(levels, quarters));
      if (faces.length) {
        return faces.map((face) => turnedBack(face, levels, quarters)).sort((a, b) => extent(b) - extent(a));
      }
    }
    return [];
  }

  async #find(picture) {
    const faces = [];
    let waiting = await this.#doubted(picture, await this.#proposals(picture));
    while (waiting.length) {
      const apart = [];
      for (const square of waiting) if (!among(boxOfSquare(square), apart.map(boxOfSquare))) apart.push(square);
      for (const square of apart) {
        const face = await this.#confirmed(picture, square);
        if (!face) continue;
        const box = boxOf(face);
        const large = Math.min(box[2] - box[0], box[3] - box[1]) >= SMALLEST_FACE;
        if (large && !among(box, faces.map(boxOf))) faces.push(face);
      }
      // Several proposals may have led to one face: the others are looked at again only if the first came to nothing.
      waiting = waiting.filter((each) => !apart.includes(each) && !among(boxOfSquare(each), faces.map(boxOf)));
    }
    return faces;
  }

  /** Squares that may hold a face, the likeliest first, none over another. */
  async #proposals(picture) {
    const { canvas, places } = pyramid(picture);
    const answer = await this.networks.detector(canvas);
    const columns = CANVAS.width / STRIDE;
    const cells = [];
    for (const { scale, left, top, width, height } of places) {
      for (let row = top / STRIDE; row < Math.ceil((top + height) / STRIDE); row++) {
        for (let column = left / STRIDE; column < Math.ceil((left + width) / STRIDE); column++) {
          const [logit, x, y, logSide, cosine, sine] = answer.subarray(6 * (row * columns + column));
          if (logit <= PROPOSED) continue;
          cells.push({
            logit,
            x: ((column + 0.5) * STRIDE + x * DETECTOR_SIDE - left) / scale,
            y: ((row + 0.5) * STRIDE + y * DETECTOR_SIDE - top) / scale,
            logSide: logSide + Math.log(DETECTOR_SIDE / scale),
            cosine,
            sine,
          });
        }
      }
    }
    return blended(cells);
  }

  /** Where a first look has put the faces of the squares, without those that are surely none. */
  async #doubted(picture, squares) {
    const seen = await this.#look(picture, squares.map((square) => [square, false]));
    return seen.filter(({ logit }) => logit >= DOUBTED).map(({ points }) => squareOf(points));
  }

  /** The face in a square that fits one, the mean of several looks; null where there is none. */
  async #confirmed(picture, square) {
    const views = VIEWS.map(([scale, mirrored]) => [{ ...square, side: square.side * scale }, mirrored]);
    const seen = await this.#look(picture, views);
    if (seen.reduce((sum, { logit }) => sum + logit, 0) / seen.length < PRESENT) return null;
    return seen[0].points.map((_, k) =>
      [0, 1, 2].map((axis) => seen.reduce((sum, { points }) => sum + points[k][axis], 0) / seen.length),
    );
  }

  /** What the landmark network says of squares, each with whether it is shown in a mirror. */
  async #look(picture, views) {
    const answers = [];
    for (let start = 0; start < views.length; start += BATCH) {
      const chunk = views.slice(start, start + BATCH);
      const input = new Float32Array(BATCH * SQUARE * SQUARE);
      const matrices = chunk.map(([square, mirrored], n) => {
        const matrix = crop(square);
        const seen = closeUp(picture, matrix).data;
        for (let k = 0; k < seen.length; k++) {
          const from = mirrored ? k - (k % SQUARE) + SQUARE - 1 - (k % SQUARE) : k;
          input[n * seen.length + k] = seen[from] / 255;
        }
        return matrix;
      });
      const { points, logit } = await this.networks.landmarker(input);
      chunk.forEach(([square, mirrored], n) => {
        const back = inverse(matrices[n]);
        const half = (CLOSE_UP * square.side) / 2;
        const landmarks = this.partner.map((partner, k) => {
          const from = 3 * (n * this.partner.length + (mirrored ? partner : k));
          const [x, y, z] = points.subarray(from, from + 3);
          return [...moved(back, (((mirrored ? -x : x) + 1) * SQUARE) / 2, ((y + 1) * SQUARE) / 2), z * half];
        });
        answers.push({ points: landmarks, logit: logit[n] });
      });
    }
    return answers;
  }
}

/** One square for all cells that speak of the same face: their mean, weighted by the odds that each gives. */
function blended(cells) {
  const squares = [];
  cells.sort((a, b) => b.logit - a.logit);
  while (cells.length && squares.length < MOST_PROPOSALS) {
    const first = cells[0];
    const reach = SAME_CENTRE * Math.exp(first.logSide);
    const same = (cell) =>
      Math.max(Math.abs(cell.x - first.x), Math.abs(cell.y - first.y)) < reach &&
      Math.abs(cell.logSide - first.logSide) < SAME_LOG_SIDE;
    const alike = cells.filter(same);
    const odds = alike.map(({ logit }) => Math.exp(logit));
    const total = odds.reduce((sum, each) => sum + each, 0);
    const mean = (name) => alike.reduce((sum, cell, k) => sum + odds[k] * cell[name], 0) / total;
    squares.push({
      centre: [mean("x"), mean("y")],
      side: Math.exp(mean("logSide")),
      roll: degrees(Math.atan2(mean("sine"), mean("cosine"))),
    });
    cells = cells.filter((cell) => !same(cell));
  }
  return squares;
}

/** The picture at half of each former size on one canvas, and where: what is large in one is small in the next. */
function pyramid(picture) {
  const longer = Math.max(picture.width, picture.height);
  const canvas = new Float32Array(CANVAS.width * CANVAS.height).fill(128 / 255);
  const places = [];
  let [level, left, top] = [picture, 0, 0];
  for (let side = Math.min(longer, LARGEST); ; side /= 2) {
    const [width, height] = [picture.width, picture.height].map((each) => Math.max(1, Math.round((each * side) / longer)));
    level = shrunk(level, width, height);
    for (let y = 0; y < height; y++) {
      for (let x = 0; x < width; x++) canvas[(top + y) * CANVAS.width + left + x] = level.data[y * width + x] / 255;
    }
    places.push({ scale: Math.max(width, height) / longer, left, top, width, height });
    if (left === 0) left = roundedUp(width + GAP);
    else top = roundedUp(top + height + GAP);
    if (Math.max(width, height) < 2 * DETECTOR_SIDE) return { canvas, places };
  }
}

const roundedUp = (value) => Math.ceil(value / STRIDE) * STRIDE;

/** The square that landmarks just fit into, upright. */
function squareOf(points) {
  const { roll } = framed(points, 1);
  const [c, s] = [Math.cos(radians(roll)), Math.sin(radians(roll))];
  const upright = points.map(([x, y]) => [c * x + s * y, c * y - s * x]);
  const [left, top, right, bottom] = boxOf(upright);
  const [x, y] = [(left + right) / 2, (top + bottom) / 2];
  return { centre: [c * x - s * y, s * x + c * y], side: Math.max(right - left, bottom - top), roll };
}

/** From the picture to what the landmark network sees of a square, both counted from corners. */
function crop({ centre, side, roll }) {
  const scale = SQUARE / (CLOSE_UP * side);
  const [c, s] = [scale * Math.cos(radians(roll)), scale * Math.sin(radians(roll))];
  const [x, y] = moved([c, s, 0, -s, c, 0], ...centre);
  return [c, s, SQUARE / 2 - x, -s, c, SQUARE / 2 - y];
}

/** A picture seen through a matrix, made smaller first where it would be sampled too thinly otherwise. */
function closeUp(picture, matrix) {
  const scale = scaleOf(matrix);
  if (scale > 0.6) return warped(picture, betweenCentres(matrix), SQUARE, SQUARE);
  const back = inverse(matrix);
  const corners = [[0, 0], [SQUARE, 0], [0, SQUARE], [SQUARE, SQUARE]].map(([x, y]) => moved(back, x, y)); // prettier-ignore
  const [low, high] = [[], []];
  for (const [axis, most] of [picture.width, picture.height].entries()) {
    const places = corners.map((corner) => corner[axis]);
    low[axis] = Math.min(Math.max(Math.floor(Math.min(...places)) - 4, 0), most - 1);
    high[axis] = Math.min(Math.max(Math.ceil(Math.max(...places)) + 4, low[axis] + 1), most);
  }
  const [width, height] = [high[0] - low[0], high[1] - low[1]];
  const [newWidth, newHeight] = [width, height].map((side) => Math.max(1, Math.round(side * scale)));
  const small = shrunk(part(picture, ...low, width, height), newWidth, newHeight);
  const [x, y] = moved(matrix, ...low);
  const [u, v] = [width / newWidth, height / newHeight];
  const onto = [matrix[0] * u, matrix[1] * v, x, matrix[3] * u, matrix[4] * v, y];
  return warped(small, betweenCentres(onto), SQUARE, SQUARE);
}

function boxOf(points) {
  const [xs, ys] = [points.map(([x]) => x), points.map(([, y]) => y)];
  return [Math.min(...xs), Math.min(...ys), Math.max(...xs), Math.max(...ys)];
}

const boxOfSquare = ({ centre: [x, y], side }) => [x - side / 2, y - side / 2, x + side / 2, y + side / 2];

/** The larger side of a face's box. */
function extent(face) {
  const [left, top, right, bottom] = boxOf(face);
  return Math.max(right - left, bottom - top);
}

/** Whether a box lies over one of others, by more than half of the smaller one. */
function among(box, others) {
  return others.some((other) => {
    const width = Math.min(box[2], other[2]) - Math.max(box[0], other[0]);
    const height = Math.min(box[3], other[3]) - Math.max(box[1], other[1]);
    const area = ([left, top, right, bottom]) => (right - left) * (bottom - top);
    return width > 0 && height > 0 && (width * height) / Math.min(area(box), area(other)) > SAME;
  });
}

/** A face in the picture as it was before it was turned counterclockwise by so many quarters. */
function turnedBack(face, { width, height }, quarters) {
  return face.map(([x, y, z]) => {
    const place = { 0: [x, y], 1: [width - y, x], 2: [width - x, height - y], 3: [y, height - x] }[quarters];
    return [...place, z];
  });
}
