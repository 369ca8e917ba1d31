/** A photo that a person opened, and what is saved of it. All of it stays in the browser. */

import { Painter } from "./painter.js";

const MOST_PIXELS = 50e6;
const MOST_BYTES = 100e6;
const TILE = 1024; // pixels along a side of what is painted at a time when the photo is saved

/** What a person did that cannot be done, in one line. */
export class Refusal extends Error {}

/**
 * Opens a picture.
 *
 * @param {Blob} file of any format that the browser reads.
 * @returns {Promise<HTMLCanvasElement>} upright, at its own size; transparency becomes white.
 * @throws {Refusal} no picture, or a too large one.
 */
export async function openPhoto(file) {
  if (file.size > MOST_BYTES) throw new Refusal(`this file is too large: at most ${MOST_BYTES / 1e6} MB are opened`);
  let bitmap;
  try {
    bitmap = await createImageBitmap(file);
  } catch {
    throw new Refusal("this is not a picture that the browser can open");
  }
  const { width, height } = bitmap;
  if (width * height > MOST_PIXELS) {
    throw new Refusal(`this picture is too large: at most ${MOST_PIXELS / 1e6} megapixels are opened`);
  }
  const canvas = newCanvas(width, height);
  const context = contextOf(canvas);
  context.fillStyle = "white";
  context.fillRect(0, 0, width, height);
  context.drawImage(bitmap, 0, 0);
  bitmap.close();
  return canvas;
}

/** The pixels of a canvas, or of a part of it. */
export function pixelsOf(canvas, left = 0, top = 0, width = canvas.width, height = canvas.height) {
  return contextOf(canvas).getImageData(left, top, width, height);
}

/** A canvas made smaller, so that its longer side has at most so many pixels. */
export function reduced(canvas, longest) {
  const scale = Math.min(1, longest / Math.max(canvas.width, canvas.height));
  if (scale === 1) return canvas;
  let [smaller, { width, height }] = [canvas, canvas];
  const [endWidth, endHeight] = [width, height].map((side) => Math.max(1, Math.round(side * scale)));
  do {
    // Halved again and again: browsers skip pixels where they shrink by more at once.
    [width, height] = [Math.max(endWidth, width >> 1), Math.max(endHeight, height >> 1)];
    const next = newCanvas(width, height);
    const context = contextOf(next);
    context.imageSmoothingQuality = "high";
    context.drawImage(smaller, 0, 0, width, height);
    smaller = next;
  } while (width !== endWidth || height !== endHeight);
  return smaller;
}

/**
 * The whole photo under a light, tile by tile; what no face's light reaches stays as it is.
 *
 * @param {HTMLCanvasElement} photo at its own size.
 * @param {object[]} faces as for `Painter.setFaces`.
 * @param {object[]} lines as for `Painter.setLines`.
 * @returns {HTMLCanvasElement}
 */
export function relit(photo, faces, lines) {
  const { width, height } = photo;
  const result = newCanvas(width, height);
  const context = contextOf(result);
  context.drawImage(photo, 0, 0);
  const painter = new Painter(document.createElement("canvas"));
  painter.setFaces(faces);
  painter.setLines(lines);
  for (let top = 0; top < height; top += TILE) {
    for (let left = 0; left < width; left += TILE) {
      painter.setPhoto(pixelsOf(photo, left, top, Math.min(TILE, width - left), Math.min(TILE, height - top)), left, top);
      context.putImageData(painter.read(), left, top);
    }
  }
  painter.close();
  return result;
}

/**
 * A canvas as a file.
 *
 * @param {string} kind "image/png" or "image/jpeg".
 * @returns {Promise<Blob>}
 */
export function fileOf(canvas, kind) {
  return new Promise((resolve, reject) => {
    const done = (blob) => (blob ? resolve(blob) : reject(new Refusal("this picture is too large to be saved here")));
    canvas.toBlob(done, kind, 0.95);
  });
}

function newCanvas(width, height) {
  return Object.assign(document.createElement("canvas"), { width, height });
}

function contextOf(canvas) {
  const context = canvas.getContext("2d", { alpha: false, willReadFrequently: true });
  if (!context) throw new Refusal("this picture is too large for this browser");
  return context;
}
