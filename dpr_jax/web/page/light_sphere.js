// The lit sphere: shows a light, and lets a person drag a lamp over it. Gradio hands in `element`, `props`, `trigger`
// and `watch`; `props.value` is {azimuth, elevation, fill, size, lamp, light}: degrees to the image's left and up from
// the camera, the fill's light over the lamp's, the lamp's diameter in degrees, whether that lamp is the light that is
// shown, and this light, {soft, towards, irradiance, size} as dpr_jax.light.light.Light has them.

const DISC = 0.76; // radius of the sphere, of half the canvas; around it lies what is behind the head
const FARTHEST = 130; // degrees from the camera that a lamp can be dragged to
const STEP = 5; // degrees, of an arrow key
const PAUSE = 60; // milliseconds between two messages to the server

const canvas = () => element.querySelector("canvas");
const degrees = (radians) => (radians * 180) / Math.PI;
const radians = (degrees) => (degrees * Math.PI) / 180;

// dpr_jax.light.light.facing.
function facing(cosine, size) {
  const half = Math.max(Math.sin(radians(size) / 2), 1e-4);
  return cosine > half ? cosine : Math.max(cosine + half, 0) ** 2 / (4 * half);
}

// dpr_jax.light.light.shading of a normal, [red, green, blue] or [gray]. Axes of dpr_jax.light.sh: x to the right, y away from the
// camera, z up; harmonics in the order of sh.basis, each times what the clamped cosine leaves of its band.
function shading(x, y, z, { soft, towards, irradiance, size }) {
  const root = Math.sqrt(Math.PI);
  const [b0, b1, b2] = [1 / (2 * root), Math.sqrt(3) / (2 * root), Math.sqrt(15) / (2 * root)];
  const [l0, l1, l2] = [Math.PI, (2 * Math.PI) / 3, Math.PI / 4];
  const shades = soft.map((light) =>
    Math.max(
      l0 * b0 * light[0] +
        l1 * b1 * (y * light[1] + z * light[2] + x * light[3]) +
        l2 * b2 *
          (x * y * light[4] + y * z * light[5] + ((3 * z * z - 1) / (2 * Math.sqrt(3))) * light[6] +
            x * z * light[7] + ((x * x - y * y) / 2) * light[8]),
      0,
    ),
  );
  towards.forEach(([a, b, c], lamp) => {
    const lit = facing(a * x + b * y + c * z, size[lamp]);
    irradiance[lamp].forEach((amount, channel) => (shades[channel] += lit * amount));
  });
  return shades;
}

const luminance = (shades) =>
  shades.length === 1 ? shades[0] : 0.2126 * shades[0] + 0.7152 * shades[1] + 0.0722 * shades[2];

function direction({ azimuth, elevation }) {
  const [a, e] = [radians(azimuth), radians(elevation)];
  return [-Math.sin(a) * Math.cos(e), -Math.cos(a) * Math.cos(e), Math.sin(e)];
}

// Where a lamp is drawn, in radii of the sphere: on its brightest point, and outside of the rim if behind the head.
function place(lamp) {
  const [x, y, z] = direction(lamp);
  const across = Math.hypot(x, z);
  const angle = degrees(Math.atan2(across, -y));
  const radius = angle <= 90 ? across : 1 + ((Math.min(angle, FARTHEST) - 90) / (FARTHEST - 90)) * (1 / DISC - 1) * 0.8;
  return across < 1e-6 ? [0, 0] : [(radius * x) / across, (radius * z) / across];
}

function lampAt(right, up) {
  const radius = Math.hypot(right, up);
  const behind = Math.min((radius - 1) / ((1 / DISC - 1) * 0.8), 1);
  const angle = radius <= 1 ? Math.asin(radius) : radians(90 + behind * (FARTHEST - 90));
  const [x, z] = radius < 1e-6 ? [0, 0] : [(right / radius) * Math.sin(angle), (up / radius) * Math.sin(angle)];
  const y = -Math.cos(angle);
  return {
    azimuth: Math.round(degrees(Math.atan2(-x, -y))),
    elevation: Math.round(degrees(Math.asin(Math.max(-1, Math.min(1, z))))),
  };
}

function paint() {
  const board = canvas();
  const value = props.value;
  if (!board || !value) return;
  const side = board.width;
  const half = side / 2;
  const context = board.getContext("2d");
  const picture = context.createImageData(side, side);
  const shades = new Float32Array(side * side).fill(NaN);
  const tints = new Map(); // of coloured lights: each pixel's colour at luminance 1, as the eye has it
  let [darkest, brightest] = [Infinity, -Infinity];
  for (let row = 0; row < side; row++) {
    for (let column = 0; column < side; column++) {
      const x = (column + 0.5 - half) / (half * DISC);
      const z = (half - row - 0.5) / (half * DISC);
      const rest = 1 - x * x - z * z;
      if (rest < 0) continue;
      const colour = shading(x, -Math.sqrt(rest), z, value.light);
      const shade = luminance(colour);
      shades[row * side + column] = shade;
      if (colour.length === 3 && shade > 0) {
        tints.set(row * side + column, colour.map((channel) => (channel / shade) ** (1 / 2.2)));
      }
      darkest = Math.min(darkest, shade);
      brightest = Math.max(brightest, shade);
    }
  }
  const span = Math.max(brightest - darkest, 1e-3 * brightest, 1e-6);
  const even = brightest - darkest < 0.02 * brightest;
  const rim = half * DISC;
  for (let k = 0; k < shades.length; k++) {
    if (Number.isNaN(shades[k])) continue;
    const level = even ? 235 : 18 + 230 * Math.sqrt((shades[k] - darkest) / span);
    const away = Math.hypot((k % side) + 0.5 - half, Math.floor(k / side) + 0.5 - half);
    const tint = tints.get(k) ?? [1, 0.985, 0.95];
    const most = Math.max(255, ...tint.map((channel) => level * channel)) / 255;
    const alpha = 255 * Math.max(0, Math.min(1, rim - away));
    picture.data.set([...tint.map((channel) => (level * channel) / most), alpha], 4 * k);
  }
  context.putImageData(picture, 0, 0);
  element.querySelector(".says").textContent = props.movable ? inWords(value) : "";
  if (!props.movable) return;
  context.strokeStyle = "rgba(128, 128, 128, 0.45)";
  context.lineWidth = side / 256;
  context.setLineDash([side / 64, side / 64]);
  context.beginPath();
  context.arc(half, half, half * (DISC + (1 - DISC) * 0.8), 0, 2 * Math.PI);
  context.stroke();
  context.setLineDash([]);
  if (!value.lamp) return;
  const [right, up] = place(value);
  context.beginPath();
  context.arc(half + right * rim, half - up * rim, side / 28, 0, 2 * Math.PI);
  context.fillStyle = "rgba(255, 190, 60, 0.95)";
  context.fill();
  context.strokeStyle = "rgba(30, 30, 30, 0.9)";
  context.lineWidth = side / 128;
  context.stroke();
}

function inWords({ azimuth, elevation, lamp }) {
  if (!lamp) return "drag to place a lamp instead";
  const across = azimuth === 0 ? "in front" : `${Math.abs(azimuth)}° ${azimuth > 0 ? "left" : "right"}`;
  return elevation === 0 ? across : `${across}, ${Math.abs(elevation)}° ${elevation > 0 ? "up" : "down"}`;
}

// A gray lamp and its fill: dpr_jax.light.light.key_and_fill, for a picture that follows the finger; the server's is the one
// that counts, and the two agree.
function lampLight(lamp, fill, size) {
  const soft = [(fill / 2 / Math.PI) * Math.sqrt(4 * Math.PI), 0, 0, 0, 0, 0, 0, 0, 0];
  soft[1] = (-fill / 2 / ((2 * Math.PI) / 3)) * Math.sqrt((4 * Math.PI) / 3);
  return { soft: [soft], towards: [direction(lamp)], irradiance: [[1]], size: [size] };
}

let timer = null;
function move(lamp, last) {
  const { fill, size } = props.value;
  props.value = { ...lamp, fill, size, lamp: true, light: lampLight(lamp, fill, size) };
  paint();
  if (last) {
    clearTimeout(timer);
    timer = null;
    trigger("input");
  } else if (timer === null) {
    timer = setTimeout(() => {
      timer = null;
      trigger("input");
    }, PAUSE);
  }
}

function pointed(event) {
  const box = canvas().getBoundingClientRect();
  const rim = (box.width / 2) * DISC;
  return lampAt((event.clientX - box.left - box.width / 2) / rim, (box.top + box.height / 2 - event.clientY) / rim);
}

if (props.movable) {
  let dragging = false;
  element.addEventListener("pointerdown", (event) => {
    if (event.target !== canvas()) return;
    dragging = true;
    canvas().setPointerCapture(event.pointerId);
    move(pointed(event), false);
  });
  element.addEventListener("pointermove", (event) => dragging && move(pointed(event), false));
  element.addEventListener("pointerup", (event) => {
    if (dragging) move(pointed(event), true);
    dragging = false;
  });
  element.addEventListener("pointercancel", () => (dragging = false));
  element.addEventListener("keydown", (event) => {
    const [left, up] = { ArrowLeft: [1, 0], ArrowRight: [-1, 0], ArrowUp: [0, 1], ArrowDown: [0, -1] }[event.key] ?? [0, 0];
    if (event.target !== canvas() || (!left && !up)) return;
    event.preventDefault();
    const { azimuth, elevation } = props.value;
    const limited = (angle, most) => Math.max(-most, Math.min(most, angle));
    move({ azimuth: limited(azimuth + STEP * left, FARTHEST), elevation: limited(elevation + STEP * up, 90) }, true);
  });
}
watch("value", paint);
paint();
