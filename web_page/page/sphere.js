/** The lit sphere: shows a light, and lets a person drag a lamp over it. */

import { LUMINANCE_WEIGHTS } from "./color.js";
import { degrees, direction, facing, harmonics, LAMBERTIAN, radians } from "./lights.js";

const SIDE = 176; // pixels of the canvas
const DISC = 0.76; // radius of the sphere, of half the canvas; around it lies what is behind the head
const RIM = (1 / DISC - 1) * 0.8; // how far outside of the sphere lamps are drawn, in radii
const FARTHEST = 130; // degrees from the camera that a lamp can be dragged to
const STEP = 5; // degrees, of an arrow key

export class LightSphere {
  /**
   * @param {HTMLCanvasElement} canvas a slider that can be focused.
   * @param {(lamp: {azimuth: number, elevation: number}) => void} moved is told where the lamp was dragged to.
   */
  constructor(canvas, moved) {
    [this.canvas, this.moved] = [canvas, moved];
    canvas.width = canvas.height = SIDE;
    canvas.addEventListener("pointerdown", (event) => {
      canvas.setPointerCapture(event.pointerId);
      this.#drag(event);
    });
    canvas.addEventListener("pointermove", (event) => canvas.hasPointerCapture(event.pointerId) && this.#drag(event));
    canvas.addEventListener("keydown", (event) => this.#press(event));
  }

  /** Shows a light, and its lamp, {azimuth, elevation}; null: no lamp can be shown. */
  show(light, lamp) {
    this.lamp = lamp;
    this.canvas.setAttribute("aria-valuenow", lamp ? lamp.azimuth : 0);
    this.canvas.setAttribute("aria-valuetext", inWords(lamp));
    paint(this.canvas, light, lamp);
  }

  #drag(event) {
    const { left, top, width, height } = this.canvas.getBoundingClientRect();
    const right = (2 * (event.clientX - left)) / width - 1;
    const up = 1 - (2 * (event.clientY - top)) / height;
    this.moved(lampAt(right / DISC, up / DISC));
  }

  #press(event) {
    const arrows = { ArrowLeft: [1, 0], ArrowRight: [-1, 0], ArrowUp: [0, 1], ArrowDown: [0, -1] };
    if (!arrows[event.key]) return;
    event.preventDefault();
    const [left, up] = arrows[event.key];
    const { azimuth, elevation } = this.lamp ?? { azimuth: 0, elevation: 0 };
    const moved = {
      azimuth: ((azimuth + STEP * left + 540) % 360) - 180,
      elevation: Math.max(-90, Math.min(90, elevation + STEP * up)),
    };
    const towardsCamera = -direction(moved.azimuth, moved.elevation)[1];
    if (towardsCamera >= Math.cos(radians(FARTHEST)) - 1e-6) this.moved(moved);
  }
}

/** Where a lamp stands, as one says it. */
export function inWords(lamp) {
  if (!lamp) return "even light from everywhere";
  const { azimuth, elevation } = lamp;
  const across = azimuth === 0 ? "in front" : `${Math.abs(azimuth)}° ${azimuth > 0 ? "left" : "right"}`;
  return elevation === 0 ? across : `${across}, ${Math.abs(elevation)}° ${elevation > 0 ? "up" : "down"}`;
}

/** Where a lamp is drawn, in radii of the sphere: on its brightest point, and outside of the rim if behind the head. */
function placeOf({ azimuth, elevation }) {
  const [x, y, z] = direction(azimuth, elevation);
  const across = Math.hypot(x, z);
  const angle = degrees(Math.atan2(across, -y));
  const radius = angle <= 90 ? across : 1 + ((Math.min(angle, FARTHEST) - 90) / (FARTHEST - 90)) * RIM;
  return across < 1e-6 ? [0, 0] : [(radius * x) / across, (radius * z) / across];
}

/** The inverse of `placeOf`, in whole degrees. */
export function lampAt(right, up) {
  const radius = Math.hypot(right, up);
  const behind = Math.min((radius - 1) / RIM, 1);
  const angle = radius <= 1 ? Math.asin(radius) : radians(90 + behind * (FARTHEST - 90));
  const [x, z] = radius < 1e-6 ? [0, 0] : [(right / radius) * Math.sin(angle), (up / radius) * Math.sin(angle)];
  return {
    azimuth: Math.round(degrees(Math.atan2(-x, Math.cos(angle)))),
    elevation: Math.round(degrees(Math.asin(Math.max(-1, Math.min(1, z))))),
  };
}

/** The pixels of the sphere: where each lies on the canvas, how opaque it is, and harmonics and direction of its normal. */
const PIXELS = (() => {
  const [places, normals] = [[], []];
  const half = SIDE / 2;
  for (let k = 0; k < SIDE * SIDE; k++) {
    const x = ((k % SIDE) + 0.5 - half) / (half * DISC);
    const z = (half - Math.floor(k / SIDE) - 0.5) / (half * DISC);
    if (x * x + z * z > 1) continue;
    places.push(k);
    normals.push([x, -Math.sqrt(1 - x * x - z * z), z]);
  }
  return {
    places,
    alpha: Float32Array.from(normals, ([x, , z]) => 255 * Math.min(half * DISC * (1 - Math.hypot(x, z)), 1)),
    normals: Float32Array.from(normals.flat()),
    basis: Float32Array.from(normals.flatMap((normal) => harmonics(...normal).map((value, k) => value * LAMBERTIAN[k]))),
  };
})();

/** The irradiance of each pixel of the sphere, for each channel of a light. */
function shadings(light) {
  const { places, normals, basis } = PIXELS;
  return light.soft.map((numbers, channel) => {
    const shades = new Float32Array(places.length);
    for (let k = 0; k < shades.length; k++) {
      let value = 0;
      for (let n = 0; n < 9; n++) value += numbers[n] * basis[9 * k + n];
      value = Math.max(value, 0);
      for (let lamp = 0; lamp < light.towards.length; lamp++) {
        const [a, b, c] = light.towards[lamp];
        const cosine = a * normals[3 * k] + b * normals[3 * k + 1] + c * normals[3 * k + 2];
        value += facing(cosine, light.size[lamp]) * light.irradiance[lamp][channel];
      }
      shades[k] = value;
    }
    return shades;
  });
}

function paint(canvas, light, lamp) {
  const half = SIDE / 2;
  const context = canvas.getContext("2d");
  const picture = context.createImageData(SIDE, SIDE);
  const channels = shadings(light);
  const shades = new Float32Array(PIXELS.places.length);
  let [darkest, brightest] = [Infinity, 0];
  for (let k = 0; k < shades.length; k++) {
    const [red, green, blue] = LUMINANCE_WEIGHTS;
    const colour = channels.length > 1;
    shades[k] = colour ? red * channels[0][k] + green * channels[1][k] + blue * channels[2][k] : channels[0][k];
    darkest = Math.min(darkest, shades[k]);
    brightest = Math.max(brightest, shades[k]);
  }
  const even = brightest - darkest < 0.02 * brightest;
  const span = Math.max(brightest - darkest, 1e-6);
  const tint = [1, 0.985, 0.95];
  for (let k = 0; k < shades.length; k++) {
    const level = even ? 235 : 18 + 230 * Math.sqrt((shades[k] - darkest) / span);
    for (let c = 0; c < 3 && channels.length > 1; c++) tint[c] = Math.sqrt(channels[c][k] / Math.max(shades[k], 1e-6));
    const most = Math.max(255, level * tint[0], level * tint[1], level * tint[2]) / 255;
    const to = 4 * PIXELS.places[k];
    for (let c = 0; c < 3; c++) picture.data[to + c] = (level * tint[c]) / most;
    picture.data[to + 3] = PIXELS.alpha[k];
  }
  context.putImageData(picture, 0, 0);
  context.strokeStyle = "rgba(128, 128, 128, 0.45)";
  context.lineWidth = SIDE / 256;
  context.setLineDash([SIDE / 64, SIDE / 64]);
  context.beginPath();
  context.arc(half, half, half * DISC * (1 + RIM), 0, 2 * Math.PI);
  context.stroke();
  context.setLineDash([]);
  if (!lamp) return;
  const [right, up] = placeOf(lamp);
  context.beginPath();
  context.arc(half + right * half * DISC, half - up * half * DISC, SIDE / 24, 0, 2 * Math.PI);
  context.fillStyle = "rgba(255, 190, 60, 0.95)";
  context.fill();
  context.strokeStyle = "rgba(30, 30, 30, 0.9)";
  context.lineWidth = SIDE / 112;
  context.stroke();
}
