// The lit sphere: shows a light, and lets a person drag a lamp over it. Gradio hands in `element`, `props`, `trigger`
// and `watch`; `props.value` is {azimuth, elevation, sh}: degrees to the image's left and up from the camera, and the
// nine numbers of the light that is shown.

const DISC = 0.76; // radius of the sphere, of half the canvas; around it lies what is behind the head
const FARTHEST = 130; // degrees from the camera that a lamp can be dragged to
const STEP = 5; // degrees, of an arrow key
const PAUSE = 60; // milliseconds between two messages to the server

const canvas = () => element.querySelector("canvas");
const degrees = (radians) => (radians * 180) / Math.PI;
const radians = (degrees) => (degrees * Math.PI) / 180;

// dpr_jax.sh: x to the right, y away from the camera, z up; harmonics in the order of sh.basis, each times what the
// clamped cosine leaves of its band (sh.LAMBERTIAN).
function shading(x, y, z, light) {
  const root = Math.sqrt(Math.PI);
  const [b0, b1, b2] = [1 / (2 * root), Math.sqrt(3) / (2 * root), Math.sqrt(15) / (2 * root)];
  const [l0, l1, l2] = [Math.PI, (2 * Math.PI) / 3, Math.PI / 4];
  return (
    l0 * b0 * light[0] +
    l1 * b1 * (y * light[1] + z * light[2] + x * light[3]) +
    l2 * b2 *
      (x * y * light[4] + y * z * light[5] + ((3 * z * z - 1) / (2 * Math.sqrt(3))) * light[6] +
        x * z * light[7] + ((x * x - y * y) / 2) * light[8])
  );
}

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
  let [darkest, brightest] = [Infinity, -Infinity];
  for (let row = 0; row < side; row++) {
    for (let column = 0; column < side; column++) {
      const x = (column + 0.5 - half) / (half * DISC);
      const z = (half - row - 0.5) / (half * DISC);
      const rest = 1 - x * x - z * z;
      if (rest < 0) continue;
      const shade = Math.max(shading(x, -Math.sqrt(rest), z, value.sh), 0);
      shades[row * side + column] = shade;
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
    picture.data.set([level, level * 0.985, level * 0.95, 255 * Math.max(0, Math.min(1, rim - away))], 4 * k);
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

// A lamp with even light around it: sh.directional, for a picture that follows the finger; the server's is the one
// that counts, and the two agree.
function lampLight(lamp, ambient) {
  const [x, y, z] = direction(lamp);
  const root = Math.sqrt(Math.PI);
  const [b1, b2] = [Math.sqrt(3) / (2 * root), Math.sqrt(15) / (2 * root)];
  const scale = (1 - ambient) * 0.75 * 2 * root;
  const [one, two] = [(2 / 3) * b1 * scale, (1 / 4) * b2 * scale];
  return [
    0.75, one * y, one * z, one * x, two * x * y, two * y * z,
    (two * (3 * z * z - 1)) / (2 * Math.sqrt(3)), two * x * z, (two * (x * x - y * y)) / 2,
  ];
}

let timer = null;
function move(lamp, last) {
  const ambient = props.value.ambient ?? 0.3;
  props.value = { ...lamp, ambient, lamp: true, sh: lampLight(lamp, ambient) };
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
