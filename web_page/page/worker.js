/** Beside the page's own thread: finds the faces of a photo, and what the network sees in each. */

import { FaceFinder } from "./face_finder.js";
import { lightness } from "./color.js";
import { cutSquare, framed } from "./framing.js";
import { meshSurface } from "./landmark_mesh.js";
import { headWeight, inSquare, ovalOf } from "./matte.js";
import { CELLS, openNetworks, SIZE } from "./networks.js";

const opened = openNetworks((done, total) => postMessage({ progress: done / total }));
opened.then(
  () => postMessage({ ready: true }),
  (error) => postMessage({ failed: error.message }),
);

/** Takes {id, photo, most}, a picture of four channels; answers {id, faces, found, milliseconds} or {id, failed}. */
self.onmessage = async ({ data: { id, photo, most } }) => {
  try {
    const networks = await opened;
    const milliseconds = {};
    const timed = async (name, work) => {
      const start = performance.now();
      const result = await work();
      milliseconds[name] = (milliseconds[name] ?? 0) + performance.now() - start;
      return result;
    };
    const finder = new FaceFinder(networks.finder, networks.face.partner);
    const found = await timed("find", () => finder.find(photo));
    const faces = [];
    for (const landmarks of found.slice(0, most)) faces.push(await encoded(networks, photo, landmarks, timed));
    postMessage({ id, faces, found: found.length, milliseconds });
  } catch (error) {
    postMessage({ id, failed: error.message });
  }
};

/** A face as the network sees it; all that `FaceRatio` and `Painter` need of it. */
async function encoded(networks, photo, landmarks, timed) {
  const framing = framed(landmarks, SIZE);
  const square = await timed("frame", () => cutSquare(photo, framing));
  const surface = await timed("mesh", () => meshSurface(landmarks, framing, networks.face, CELLS));
  const places = inSquare(landmarks, framing);
  const light = lightness(square);
  const seen = await timed("encode", () => networks.encode(light, surface));
  const weight = await timed("matte", () => headWeight(square, places, framing, photo));
  return {
    framing,
    roll: framing.roll,
    lightness: light,
    skin: ovalOf(places, SIZE),
    normal: seen.normal,
    depth: seen.depth,
    skinWeight: seen.skin,
    doubt: seen.doubt,
    shading: seen.shading,
    weight,
  };
}
