/**
 * Pictures made smaller, turned and moved. A picture is {data, width, height, channels}, `data` row by row; bytes stay
 * bytes, rounded. A matrix is [a, b, c, d, e, f]: (x, y) goes to (a x + b y + c, d x + e y + f).
 */

/** The matrix that undoes another. */
export function inverse([a, b, c, d, e, f]) {
  const determinant = a * e - b * d;
  const [A, B, D, E] = [e, -b, -d, a].map((each) => each / determinant);
  return [A, B, -(A * c + B * f), D, E, -(D * c + E * f)];
}

/** Where a matrix leads a point. */
export const moved = ([a, b, c, d, e, f], x, y) => [a * x + b * y + c, d * x + e * y + f];

/** A matrix between places counted from corners, for places counted from the middle of the first pixel. */
export const betweenCentres = ([a, b, c, d, e, f]) => [
  a, b, c + 0.5 * (a + b) - 0.5, d, e, f + 0.5 * (d + e) - 0.5,
]; // prettier-ignore

/** By how much a matrix enlarges. */
export const scaleOf = ([a, b, , d, e]) => Math.sqrt(Math.abs(a * e - b * d));

const like = (picture, length) => new picture.data.constructor(length);

/** A part of a picture. */
export function part(picture, left, top, width, height) {
  const { data, channels } = picture;
  if (width === picture.width && height === picture.height) return picture;
  const cut = like(picture, width * height * channels);
  for (let y = 0; y < height; y++) {
    const from = ((top + y) * picture.width + left) * channels;
    cut.set(data.subarray(from, from + width * channels), y * width * channels);
  }
  return { data: cut, width, height, channels };
}

/** A picture made smaller: each new pixel is the mean of what it covers of the old ones. */
export function shrunk(picture, width, height) {
  if (width === picture.width && height === picture.height) return picture;
  const { channels } = picture;
  const columns = shares(picture.width, width);
  const rows = shares(picture.height, height);
  const wide = new Float32Array(width * channels);
  const sums = new Float32Array(width * channels);
  const small = like(picture, width * height * channels);
  for (let y = 0; y < height; y++) {
    sums.fill(0);
    for (const [row, weight] of rows[y]) {
      wide.fill(0);
      for (let x = 0; x < width; x++) {
        for (const [column, share] of columns[x]) {
          const from = (row * picture.width + column) * channels;
          for (let c = 0; c < channels; c++) wide[x * channels + c] += share * picture.data[from + c];
        }
      }
      for (let k = 0; k < sums.length; k++) sums[k] += weight * wide[k];
    }
    small.set(sums, y * width * channels);
  }
  return { data: small, width, height, channels };
}

/** For each new pixel along a side, the old ones that it covers, each with its share. */
function shares(before, after) {
  const scale = before / after;
  return Array.from({ length: after }, (_, k) => {
    const [start, end] = [k * scale, Math.min((k + 1) * scale, before)];
    const covered = [];
    for (let at = Math.floor(start + 1e-6); at < end - 1e-6; at++) {
      covered.push([at, (Math.min(at + 1, end) - Math.max(at, start)) / (end - start)]);
    }
    return covered;
  });
}

/**
 * A picture seen through a matrix, which leads from its pixels to the new ones, both counted from the middle of the first.
 *
 * @param {object} picture any.
 * @param {number[]} matrix see above.
 * @param {number} width of the new picture.
 * @param {number} height of the new picture.
 * @param {boolean} mirrored whether the picture goes on mirrored about its border pixels, instead of being 0 there.
 */
export function warped(picture, matrix, width, height, mirrored = false) {
  const { data, channels } = picture;
  const [a, b, c, d, e, f] = inverse(matrix);
  const seen = like(picture, width * height * channels);
  const across = (k) => (mirrored ? mirror(k, picture.width) : k < 0 || k >= picture.width ? -1 : k);
  const down = (k) => (mirrored ? mirror(k, picture.height) : k < 0 || k >= picture.height ? -1 : k);
  for (let y = 0, to = 0; y < height; y++) {
    for (let x = 0; x < width; x++, to += channels) {
      const [u, v] = [a * x + b * y + c, d * x + e * y + f];
      const [column, row] = [Math.floor(u), Math.floor(v)];
      const [right, below] = [u - column, v - row];
      const [x0, x1, y0, y1] = [across(column), across(column + 1), down(row), down(row + 1)];
      for (let k = 0; k < channels; k++) {
        const at = (i, j) => (i < 0 || j < 0 ? 0 : data[(j * picture.width + i) * channels + k]);
        const upper = at(x0, y0) + right * (at(x1, y0) - at(x0, y0));
        const lower = at(x0, y1) + right * (at(x1, y1) - at(x0, y1));
        seen[to + k] = upper + below * (lower - upper);
      }
    }
  }
  return { data: seen, width, height, channels };
}

/** The pixel that lies where pixel k of a side would be if the picture went on mirrored. */
function mirror(k, side) {
  if (side === 1) return 0;
  const period = 2 * (side - 1);
  const within = ((k % period) + period) % period;
  return within < side ? within : period - within;
}

/** A picture turned counterclockwise by so many quarters. */
export function turned(picture, quarters) {
  const { width, height, channels, data } = picture;
  if (quarters === 0) return picture;
  const [newWidth, newHeight] = quarters === 2 ? [width, height] : [height, width];
  const result = like(picture, data.length);
  for (let y = 0, to = 0; y < newHeight; y++) {
    for (let x = 0; x < newWidth; x++, to += channels) {
      const [column, row] = { 1: [width - 1 - y, x], 2: [width - 1 - x, height - 1 - y], 3: [y, height - 1 - x] }[quarters];
      for (let c = 0; c < channels; c++) result[to + c] = data[(row * width + column) * channels + c];
    }
  }
  return { data: result, width: newWidth, height: newHeight, channels };
}

/** Luminance in gray levels, `round(0.299 R + 0.587 G + 0.114 B)`, of a picture of four channels. */
export function gray({ data, width, height }) {
  const levels = new Uint8ClampedArray(width * height);
  for (let k = 0; k < levels.length; k++) {
    levels[k] = 0.299 * data[4 * k] + 0.587 * data[4 * k + 1] + 0.114 * data[4 * k + 2];
  }
  return { data: levels, width, height, channels: 1 };
}
