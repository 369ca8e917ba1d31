/**
 * Means of the window of `radius` around each pixel of a square; it goes on mirrored about its border pixels.
 *
 * @param {Float32Array} values a number a pixel.
 * @param {number} size side of the square.
 * @param {number} radius of the window.
 * @returns {Float32Array}
 */
export function boxBlur(values, size, radius) {
  const width = 2 * radius + 1;
  const mirrored = (k) => (k < 0 ? -k : k >= size ? 2 * size - 2 - k : k);
  const across = new Float32Array(values.length);
  const line = new Float32Array(size + 2 * radius);
  for (let row = 0; row < values.length; row += size) {
    for (let k = 0; k < line.length; k++) line[k] = values[row + mirrored(k - radius)];
    let sum = 0;
    for (let k = 0; k < width - 1; k++) sum += line[k];
    for (let x = 0; x < size; x++) {
      sum += line[x + width - 1];
      across[row + x] = sum;
      sum -= line[x];
    }
  }
  const sums = new Float64Array(size);
  for (let k = -radius; k < radius; k++) {
    for (let x = 0, row = mirrored(k) * size; x < size; x++) sums[x] += across[row + x];
  }
  const means = new Float32Array(values.length);
  for (let y = 0; y < size; y++) {
    const [entering, leaving] = [mirrored(y + radius) * size, mirrored(y - radius) * size];
    for (let x = 0; x < size; x++) {
      sums[x] += across[entering + x];
      means[y * size + x] = sums[x] / width ** 2;
      sums[x] -= across[leaving + x];
    }
  }
  return means;
}
