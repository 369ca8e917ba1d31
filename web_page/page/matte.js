/** Where in the square of a face the new light belongs: on the head, not on the wall behind it. See dpr_jax.portrait.matte. */

import { boxBlur } from "./blur.js";
import { OVAL } from "./framing.js";
import { betweenCentres, inverse, moved, shrunk } from "./pictures.js";
import { convexHull, covered, distanceTo } from "./regions.js";
import { BACKGROUND, FOREGROUND, PROBABLY_BACKGROUND, PROBABLY_FOREGROUND, segmented } from "./segmentation.js";

// The outline of the landmarks, enlarged to hold hair, ears and neck.
const HEAD_SCALE = [1.3, 1.35];
const HEAD_LIFT = 0.06; // of the square's side, upwards
const EDGE_FADE = 0.15; // of the square's side, over which everything fades out towards its edge
const SEGMENT_SIDE = 192;
// The segmentation is drawn along the photo's edges by a guided filter; what little that leaks across one is cut.
const EDGE_RADIUS = 1 / 90; // of the square's side
const EDGE_EPSILON = 1e-5;
const EDGE_RANGE = [0.25, 0.8];

/** The places of landmarks in the square. */
export const inSquare = (landmarks, framing) => landmarks.map(([x, y]) => moved(framing.matrix, x, y));

/** The oval of a face in its square: the share of each pixel that it covers. */
export const ovalOf = (places, size) => covered(convexHull(OVAL.map((k) => places[k])), size);

/**
 * How much of the relighting each pixel of the square receives.
 *
 * @param {object} square a picture of four channels.
 * @param {number[][]} places of the landmarks in it.
 * @param {object} framing where the square lies.
 * @param {{width: number, height: number}} photo its size: nothing fades out where the photo ends first.
 * @returns {Float32Array} a number a pixel, in [0, 1].
 */
export function headWeight(square, places, framing, photo) {
  const { size } = framing;
  const outline = convexHull(OVAL.map((k) => places[k]));
  const centre = [0, 1].map((axis) => outline.reduce((sum, point) => sum + point[axis], 0) / outline.length);
  const head = outline.map(([x, y]) => [
    centre[0] + (x - centre[0]) * HEAD_SCALE[0],
    centre[1] + (y - centre[1]) * HEAD_SCALE[1] - HEAD_LIFT * size,
  ]);
  const region = covered(head, size).map((share) => (share >= 0.5 ? 1 : 0));
  const person = segment(square, outline, head);
  const [fromHead, fromEdge] = [distanceTo(region, size), distanceTo(edgeInside(framing, photo), size)];
  return person.map((share, k) => {
    if (fromEdge[k] === Infinity) return share;
    const nearness = fromEdge[k] / (fromEdge[k] + fromHead[k] + 1e-3);
    return share * smoothStep(nearness) * smoothStep(fromEdge[k] / (EDGE_FADE * size));
  });
}

/** Which border pixels of the square lie inside the photo. */
function edgeInside({ matrix, size }, { width, height }) {
  const back = inverse(betweenCentres(matrix));
  const edge = new Uint8Array(size * size);
  for (let k = 0; k < edge.length; k++) {
    const [column, row] = [k % size, Math.floor(k / size)];
    if (column % (size - 1) && row % (size - 1)) continue;
    const [x, y] = moved(back, column, row);
    edge[k] = x > 0 && y > 0 && x < width - 1 && y < height - 1;
  }
  return edge;
}

/** The head, and what of the body has its colours, against the background: a number a pixel, in [0, 1]. */
function segment(square, outline, head) {
  const { width: size } = square;
  const side = Math.min(SEGMENT_SIDE, size);
  const small = shrunk(square, side, side);
  const shrink = (polygon) => covered(polygon.map((point) => point.map((each) => (each * side) / size)), side);
  const [face, region] = [shrink(outline), shrink(head)];
  // Neck and chest fill the middle of the lowest fifth; the upper border is background unless the hair reaches it.
  const [fifth, margin] = [Math.floor(side / 5), Math.max(1, Math.floor(side / 40))];
  const labels = Uint8Array.from(region, (inside, k) => {
    const [x, y] = [k % side, Math.floor(k / side)];
    if (face[k] >= 0.5) return FOREGROUND;
    const upper = y < margin || (y < 3 * fifth && (x < margin || x >= side - margin));
    if (upper && inside < 0.5) return BACKGROUND;
    const chest = y >= side - fifth && x >= fifth && x < side - fifth;
    return inside >= 0.5 || chest ? PROBABLY_FOREGROUND : PROBABLY_BACKGROUND;
  });
  const found = enlarged(segmented(small, labels), side, size);
  const [low, high] = EDGE_RANGE;
  return guided(square, found, Math.max(1, Math.round(EDGE_RADIUS * size))).map((share) =>
    smoothStep((share - low) / (high - low)),
  );
}

/** A small square enlarged linearly. */
function enlarged(values, side, size) {
  const at = (x, y) => values[Math.min(Math.max(y, 0), side - 1) * side + Math.min(Math.max(x, 0), side - 1)];
  return Float32Array.from({ length: size * size }, (_, k) => {
    const x = ((k % size) + 0.5) * (side / size) - 0.5;
    const y = (Math.floor(k / size) + 0.5) * (side / size) - 0.5;
    const [column, row] = [Math.floor(x), Math.floor(y)];
    const upper = at(column, row) + (x - column) * (at(column + 1, row) - at(column, row));
    const lower = at(column, row + 1) + (x - column) * (at(column + 1, row + 1) - at(column, row + 1));
    return upper + (y - row) * (lower - upper);
  });
}

/** A map drawn along the edges of a picture in colour (He et al. 2013). */
function guided({ data, width: size }, target, radius) {
  const mean = (values) => boxBlur(values, size, radius);
  const times = (a, b) => a.map((value, k) => value * b[k]);
  const guide = [0, 1, 2].map((c) => target.map((_, k) => data[4 * k + c] / 255));
  const means = guide.map(mean);
  const meanTarget = mean(target);
  const pairs = [[0, 0], [0, 1], [0, 2], [1, 1], [1, 2], [2, 2]].map(([i, j]) => { // prettier-ignore
    const product = mean(times(guide[i], guide[j]));
    return product.map((value, k) => value - means[i][k] * means[j][k] + (i === j ? EDGE_EPSILON : 0));
  });
  const shared = guide.map((channel, c) =>
    mean(times(channel, target)).map((value, k) => value - means[c][k] * meanTarget[k]),
  );
  const lines = [0, 1, 2, 3].map(() => new Float32Array(target.length));
  for (let k = 0; k < target.length; k++) {
    const [rr, rg, rb] = [pairs[0][k], pairs[1][k], pairs[2][k]];
    const [gg, gb, bb] = [pairs[3][k], pairs[4][k], pairs[5][k]];
    const [r, g, b] = [shared[0][k], shared[1][k], shared[2][k]];
    // Of the inverse of the covariance.
    const [rrI, rgI, rbI] = [gg * bb - gb * gb, rb * gb - rg * bb, rg * gb - rb * gg];
    const [ggI, gbI, bbI] = [rr * bb - rb * rb, rb * rg - rr * gb, rr * gg - rg * rg];
    const determinant = rr * rrI + rg * rgI + rb * rbI;
    lines[0][k] = (rrI * r + rgI * g + rbI * b) / determinant;
    lines[1][k] = (rgI * r + ggI * g + gbI * b) / determinant;
    lines[2][k] = (rbI * r + gbI * g + bbI * b) / determinant;
    lines[3][k] = meanTarget[k] - lines[0][k] * means[0][k] - lines[1][k] * means[1][k] - lines[2][k] * means[2][k];
  }
  const [red, green, blue, offset] = lines.map(mean);
  return offset.map((b, k) => b + red[k] * guide[0][k] + green[k] * guide[1][k] + blue[k] * guide[2][k]);
}

function smoothStep(x) {
  const within = Math.min(Math.max(x, 0), 1);
  return within * within * (3 - 2 * within);
}
