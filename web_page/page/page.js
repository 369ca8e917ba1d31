/** The page: a photo comes in, its faces follow the lamp that is dragged, and the result is saved. */

import { lampColour, NEUTRAL } from "./color.js";
import { evenLight, keyAndFill, PRESETS, tintLamps } from "./lights.js";
import { CELLS, SIZE } from "./networks.js";
import { MOST_FACES, Painter } from "./painter.js";
import { fileOf, openPhoto, pixelsOf, reduced, Refusal, relit } from "./photo.js";
import { FaceRatio } from "./ratio.js";
import { inWords, LightSphere } from "./sphere.js";

const LONGEST = 1280; // pixels of what is shown; the photo is saved at its own size
const element = (id) => document.getElementById(id);

/** What is shown: the photo's canvas and name, its faces and their `FaceRatio`s; null before the first photo. */
let shown = null;
let painter = null;
/** The lamp, {azimuth, elevation}; null is even light. */
let lamp = { azimuth: PRESETS.left[0], elevation: PRESETS.left[1] };
let pending = 0; // the frame that will be painted next
let opened = 0; // photos so far
let asked = 0; // questions to the worker so far
let broken = null; // why the worker answers nothing any more

const worker = startWorker();
const sphere = new LightSphere(element("sphere"), (moved) => {
  lamp = moved;
  element("preset").value = "";
  repaint();
});

/** A worker from a blob keeps to this page's Content-Security-Policy; one from an address would have none of its own. */
function startWorker() {
  const module = new URL("worker.js", import.meta.url).href;
  const source = URL.createObjectURL(new Blob([`import ${JSON.stringify(module)};`], { type: "text/javascript" }));
  return new Worker(source, { type: "module" });
}

worker.onmessage = ({ data }) => {
  if (data.progress !== undefined && data.progress < 1) say(`Loading the networks: ${Math.round(100 * data.progress)}%`);
  if (data.ready && !opened) say("Ready.");
  if (data.failed && !data.id) refuse(new Error(`the networks cannot be loaded (${data.failed})`));
};
worker.onerror = (event) => {
  broken = new Error(`the networks cannot be loaded (${event.message ?? "no answer"})`);
  refuse(broken);
};

/** What the worker sees in the faces of a photo. */
function seen(photo) {
  const id = ++asked;
  return new Promise((resolve, reject) => {
    if (broken) return reject(broken);
    worker.addEventListener("error", () => reject(broken), { once: true });
    const answered = ({ data }) => {
      if (data.failed && data.id === undefined) reject(new Error(data.failed));
      if (data.id !== id) return;
      worker.removeEventListener("message", answered);
      if (data.failed) reject(new Error(data.failed));
      else resolve(data);
    };
    worker.addEventListener("message", answered);
    const { data, width, height } = pixelsOf(photo);
    worker.postMessage({ id, photo: { data, width, height, channels: 4 }, most: MOST_FACES }, [data.buffer]);
  });
}

async function open(file) {
  const number = ++opened;
  element("error").textContent = "";
  say("Looking for faces …");
  try {
    const canvas = await openPhoto(file);
    const { faces, found, milliseconds } = await seen(canvas);
    if (opened !== number) return; // another photo was opened meanwhile
    if (!faces.length) throw new Refusal("no face found in this photo");
    const ratios = faces.map((face) => new FaceRatio(face, SIZE, CELLS));
    const preview = reduced(canvas, LONGEST);
    painter ??= new Painter(element("picture"));
    painter.setFaces(faces);
    painter.setPhoto(pixelsOf(preview), 0, 0, canvas.width / preview.width);
    shown = { canvas, faces, ratios, name: (file.name ?? "photo").replace(/\.[^.]*$/, "") };
    element("picture").hidden = false;
    element("invitation").hidden = true;
    element("stage").classList.add("filled");
    element("light").disabled = false;
    for (const [name, duration] of Object.entries(milliseconds)) performance.measure(name, { start: 0, duration });
    const all = found === faces.length ? faces.length : `The largest ${faces.length} of ${found}`;
    say(found === 1 ? "Drag the lamp over the sphere." : `${all} faces follow the lamp.`);
    repaint();
  } catch (error) {
    if (opened === number) refuse(error);
  }
}

/** The light that the controls say. */
function chosenLight() {
  const number = (id) => Number(element(id).value);
  const light = lamp ? keyAndFill(lamp.azimuth, lamp.elevation, number("fill"), number("size")) : evenLight();
  const neutral = Math.abs(number("kelvin") - NEUTRAL) < 50;
  return neutral ? light : tintLamps(light, lampColour(number("kelvin")));
}

const linesOf = ({ ratios }, light) => ratios.map((ratio) => ratio.lines(light, Number(element("exposure").value)));

/** Paints with the next frame of the screen, however often it is called before that. */
function repaint() {
  if (pending) return;
  pending = requestAnimationFrame(() => {
    pending = 0;
    const start = performance.now();
    const light = chosenLight();
    sphere.show(light, lamp);
    element("words").textContent = inWords(lamp);
    tell();
    if (!shown) return;
    const original = element("original").getAttribute("aria-pressed") === "true";
    if (!original) painter.setLines(linesOf(shown, light));
    painter.draw(!original);
    performance.clearMeasures("frame"); // the last one is enough
    performance.measure("frame", { start, end: performance.now() });
  });
}

/** The numbers beside the sliders. */
function tell() {
  const value = (id) => element(id).value;
  element("fill-says").textContent = value("fill");
  element("size-says").textContent = `${value("size")}°`;
  element("exposure-says").textContent = `${Number(value("exposure")) > 0 ? "+" : ""}${value("exposure")} stops`;
  element("kelvin-says").textContent = `${value("kelvin")} K`;
}

async function save(kind, suffix) {
  const [photo, light] = [shown, chosenLight()]; // another one may be opened meanwhile
  try {
    say("Saving …");
    await new Promise((resolve) => setTimeout(resolve)); // so that it is said first
    const file = await fileOf(relit(photo.canvas, photo.faces, linesOf(photo, light)), kind);
    const link = document.createElement("a");
    link.href = URL.createObjectURL(file);
    link.download = `${photo.name}_relit.${suffix}`;
    link.click();
    setTimeout(() => URL.revokeObjectURL(link.href), 60_000);
    say(`Saved ${photo.canvas.width} × ${photo.canvas.height} pixels.`);
  } catch (error) {
    refuse(error);
  }
}

function say(text) {
  element("status").textContent = text;
}

function refuse(error) {
  say("");
  const text = error.message || "something went wrong";
  element("error").textContent = `${text[0].toUpperCase()}${text.slice(1)}.`;
  if (!(error instanceof Refusal)) console.error(error);
}

/** The first picture among what was dropped or pasted. */
function openFirst(files) {
  const file = [...files].find(({ type }) => type.startsWith("image/")) ?? files[0];
  if (file) open(file);
}

function begin() {
  const preset = element("preset");
  preset.append(new Option("—", ""), ...Object.keys(PRESETS).map((name) => new Option(name, name)));
  preset.value = "left";
  preset.addEventListener("change", () => {
    if (!preset.value) return;
    const [azimuth, elevation, fill, size] = PRESETS[preset.value] ?? [];
    lamp = PRESETS[preset.value] && { azimuth, elevation };
    if (lamp) [element("fill").value, element("size").value] = [fill, size];
    repaint();
  });
  element("controls").addEventListener("input", repaint);
  element("controls").addEventListener("submit", (event) => event.preventDefault());
  element("original").addEventListener("click", ({ target }) => {
    target.setAttribute("aria-pressed", target.getAttribute("aria-pressed") !== "true");
    repaint();
  });
  element("save-png").addEventListener("click", () => save("image/png", "png"));
  element("save-jpeg").addEventListener("click", () => save("image/jpeg", "jpg"));
  element("file").addEventListener("change", ({ target }) => {
    openFirst(target.files);
    target.value = ""; // so that the same file can be opened again
  });
  element("example").addEventListener("click", async () => {
    try {
      const answer = await fetch("models/example.jpg");
      if (!answer.ok) throw new Error(`the example cannot be loaded (${answer.status})`);
      open(new File([await answer.blob()], "example.jpg"));
    } catch (error) {
      refuse(error);
    }
  });
  document.addEventListener("paste", (event) => openFirst(event.clipboardData.files));
  document.addEventListener("dragover", (event) => {
    event.preventDefault();
    element("stage").classList.add("over");
  });
  document.addEventListener("dragleave", () => element("stage").classList.remove("over"));
  document.addEventListener("drop", (event) => {
    event.preventDefault();
    element("stage").classList.remove("over");
    openFirst(event.dataTransfer.files);
  });
  repaint();
}

begin();
