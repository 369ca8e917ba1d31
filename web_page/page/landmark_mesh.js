/**
 * The surface that the landmarks of a face span, a second opinion on its shape: dpr_jax.portrait.landmark_mesh. Axes of
 * the mesh: x to the right and y up in the plane of the photo, z towards the viewer.
 */

import { moved, scaleOf } from "./pictures.js";

const LEAN = 0.07; // by which the landmarks' depth grows too much per unit of height on the face
const SMOOTHING = 0.012; // standard deviation of a blur, of the mesh's height
const MARGIN = 0.06; // over which the surface gives way at its outline, in shares of the side

/**
 * @param {number[][]} landmarks [x, y, z] in pixels of the photo.
 * @param {{matrix: number[], size: number}} framing of the square.
 * @param {{vertices: number[][], triangles: number[][]}} canonical MediaPipe's mean face.
 * @param {number} cells along a side of the square.
 * @returns {{normal: Float32Array, depth: Float32Array, weight: Float32Array}} as the network takes them.
 */
export function meshSurface(landmarks, framing, canonical, cells) {
  const mesh = upright(landmarks.slice(0, canonical.vertices.length), canonical.vertices);
  const scale = cells / framing.size;
  const enlarged = scale * scaleOf(framing.matrix);
  const corners = mesh.map(([x, y, z]) => {
    const [right, down] = moved(framing.matrix, x, -y);
    return [scale * right - 0.5, scale * down - 0.5, enlarged * z];
  });
  const { values, known } = drawn(corners, canonical.triangles, vertexNormals(corners, canonical.triangles), cells);
  const heights = corners.map(([, y]) => y);
  const kernel = gaussian(SMOOTHING * (Math.max(...heights) - Math.min(...heights)));
  const covered = blurred(known, cells, kernel);
  const [x, y, z, depth] = values.map((channel) =>
    blurred(channel, cells, kernel).map((value, k) => value / Math.max(covered[k], 1e-6)),
  );
  const normal = new Float32Array(3 * cells * cells);
  for (let k = 0; k < x.length; k++) {
    const length = Math.max(Math.hypot(x[k], y[k], z[k]), 1e-6);
    normal.set([x[k] / length, y[k] / length, z[k] / length], 3 * k);
  }
  return { normal, depth: depth.map((value) => value / cells), weight: fading(known, cells) };
}

/** The mesh of landmarks, y upwards, without the lean of their depth. */
function upright(landmarks, canonical) {
  const mesh = landmarks.map(([x, y, z]) => [x, -y, z]);
  const up = upOf(mesh, canonical);
  const [middleX, middleY] = [0, 1].map((axis) => mesh.reduce((sum, point) => sum + point[axis], 0) / mesh.length);
  const length = Math.hypot(...up);
  return mesh.map(([x, y, z]) => [x, y, z - (LEAN * ((x - middleX) * up[0] + (y - middleY) * up[1])) / length]);
}

/** Where the head's way up points in the photo: of the best rotation from the canonical face (Horn 1987). */
function upOf(mesh, canonical) {
  const middle = (points) => [0, 1, 2].map((axis) => points.reduce((sum, point) => sum + point[axis], 0) / points.length);
  const [to, from] = [middle(mesh), middle(canonical)];
  const s = [0, 1, 2].map((i) =>
    [0, 1, 2].map((j) => mesh.reduce((sum, point, k) => sum + (canonical[k][i] - from[i]) * (point[j] - to[j]), 0)),
  );
  const [[xx, xy, xz], [yx, yy, yz], [zx, zy, zz]] = s;
  const matrix = [
    [xx + yy + zz, yz - zy, zx - xz, xy - yx],
    [yz - zy, xx - yy - zz, xy + yx, zx + xz],
    [zx - xz, xy + yx, yy - xx - zz, yz + zy],
    [xy - yx, zx + xz, yz + zy, zz - xx - yy],
  ];
  const [w, x, y, z] = largestEigenvector(matrix);
  return [2 * (x * y - w * z), w * w - x * x + y * y - z * z];
}

/** The eigenvector of the largest eigenvalue of a symmetric matrix, of length 1, by powers of it. */
function largestEigenvector(matrix) {
  const most = Math.max(...matrix.map((row) => row.reduce((sum, each) => sum + Math.abs(each), 0)));
  let power = matrix.map((row, i) => row.map((each, j) => each / most + (i === j ? 1 : 0))); // none is negative
  for (let round = 0; round < 12; round++) {
    const square = power.map((row) => row.map((_, j) => row.reduce((sum, each, k) => sum + each * power[k][j], 0)));
    const trace = square.reduce((sum, row, k) => sum + row[k], 0);
    power = square.map((row) => row.map((each) => each / trace));
  }
  const column = power.reduce((best, row) => (Math.hypot(...row) > Math.hypot(...best) ? row : best));
  const length = Math.hypot(...column);
  return column.map((each) => each / length);
}

/** The mean normal of the triangles around each vertex by their areas; x right, y into the scene, z up. */
function vertexNormals(corners, triangles) {
  const normals = corners.map(() => [0, 0, 0]);
  for (const triangle of triangles) {
    const [[ax, ay, az], [bx, by, bz], [cx, cy, cz]] = triangle.map((k) => corners[k]);
    const [ux, uy, uz, vx, vy, vz] = [cx - ax, cy - ay, cz - az, bx - ax, by - ay, bz - az];
    const area = [uy * vz - uz * vy, uz * vx - ux * vz, ux * vy - uy * vx];
    for (const k of triangle) {
      normals[k][0] += area[0];
      normals[k][1] -= area[2];
      normals[k][2] -= area[1];
    }
  }
  return normals.map((normal) => normal.map((each) => each / Math.max(Math.hypot(...normal), 1e-9)));
}

/** Normal and z of the nearest triangle that faces the viewer at the middle of each cell, 0 where there is none. */
function drawn(corners, triangles, normals, cells) {
  const values = [0, 1, 2, 3].map(() => new Float32Array(cells * cells));
  const nearest = new Float32Array(cells * cells).fill(-Infinity);
  for (const triangle of triangles) {
    if (triangle.some((k) => normals[k][1] >= 0)) continue;
    const [[ax, ay, az], [bx, by, bz], [cx, cy, cz]] = triangle.map((k) => corners[k]);
    const area = (bx - ax) * (cy - ay) - (cx - ax) * (by - ay);
    if (area === 0) continue;
    const [left, right] = [Math.max(Math.ceil(Math.min(ax, bx, cx)), 0), Math.min(Math.max(ax, bx, cx), cells - 1)];
    const [top, bottom] = [Math.max(Math.ceil(Math.min(ay, by, cy)), 0), Math.min(Math.max(ay, by, cy), cells - 1)];
    for (let y = top; y <= bottom; y++) {
      for (let x = left; x <= right; x++) {
        const first = ((bx - x) * (cy - y) - (cx - x) * (by - y)) / area;
        const second = ((cx - x) * (ay - y) - (ax - x) * (cy - y)) / area;
        const third = 1 - first - second;
        const k = y * cells + x;
        const z = first * az + second * bz + third * cz;
        if (first < 0 || second < 0 || third < 0 || z < nearest[k]) continue;
        nearest[k] = z;
        const [one, two, three] = triangle.map((n) => normals[n]);
        for (let c = 0; c < 3; c++) values[c][k] = first * one[c] + second * two[c] + third * three[c];
        values[3][k] = z;
      }
    }
  }
  return { values, known: nearest.map((z) => (z === -Infinity ? 0 : 1)) };
}

/** The weights of a blur, as OpenCV chooses how many. */
function gaussian(deviation) {
  const reach = Math.round(deviation * 8 + 1) >> 1;
  const weights = Array.from({ length: 2 * reach + 1 }, (_, k) => Math.exp(-((k - reach) ** 2) / (2 * deviation ** 2)));
  const total = weights.reduce((sum, each) => sum + each, 0);
  return weights.map((weight) => weight / total);
}

/** A blur of a square; it goes on mirrored about its border cells. */
function blurred(values, cells, kernel) {
  const reach = kernel.length >> 1;
  const mirrored = (k) => (k < 0 ? -k : k >= cells ? 2 * cells - 2 - k : k);
  const along = (from, step, line) =>
    values.map((_, k) => {
      const place = line(k);
      return kernel.reduce((sum, weight, n) => sum + weight * from[k + (mirrored(place + n - reach) - place) * step], 0);
    });
  return along(along(values, 1, (k) => k % cells), cells, (k) => Math.floor(k / cells));
}

/** 1 well inside of what is known, 0 outside, smooth in between; what the square cuts off ends there. */
function fading(known, cells) {
  const most = MARGIN * cells;
  const reach = Math.ceil(most) + 1;
  const outside = (x, y) => x < 0 || y < 0 || x >= cells || y >= cells || !known[y * cells + x];
  return known.map((each, k) => {
    if (!each) return 0;
    const [x, y] = [k % cells, Math.floor(k / cells)];
    let distance = Infinity;
    for (let down = -reach; down <= reach; down++) {
      for (let right = -reach; right <= reach; right++) {
        if (outside(x + right, y + down)) distance = Math.min(distance, Math.hypot(right, down));
      }
    }
    const share = Math.min(Math.max((distance - 1) / most, 0), 1);
    return share * share * (3 - 2 * share);
  });
}
