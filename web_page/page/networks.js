/** The three networks, run by ONNX Runtime Web in WebAssembly: it is there in every browser, and one thread is enough. */

import { CANVAS, BATCH } from "./face_finder.js";

export const SIZE = 256; // of the square that the network sees
export const CELLS = 64; // of what it gives of the shape of a face
const LANDMARK_SQUARE = 128;

/**
 * Loads the runtime and the networks, from beside this file.
 *
 * @param {(done: number, total: number) => void} progress is told how many files have come.
 */
export async function openNetworks(progress) {
  const beside = (name) => new URL(name, import.meta.url).href;
  const files = ["detector", "landmarker", "encode"].map((name) => beside(`models/${name}.onnx`));
  let done = 0;
  const counted = async (promise) => {
    const result = await promise;
    progress(++done, files.length + 2);
    return result;
  };
  const [ort, face, ...models] = await Promise.all([
    counted(import("./runtime/ort.wasm.min.mjs")),
    counted(fetched(beside("models/face.json")).then((answer) => answer.json())),
    ...files.map((file) => counted(fetched(file).then((answer) => answer.arrayBuffer()))),
  ]);
  ort.env.wasm.wasmPaths = beside("runtime/");
  ort.env.wasm.numThreads = 1; // more need headers that a plain server does not send
  const sessions = [];
  for (const model of models) sessions.push(await ort.InferenceSession.create(model, { executionProviders: ["wasm"] }));
  const [detector, landmarker, encode] = sessions;
  const tensor = (values, ...shape) => new ort.Tensor("float32", values, shape);
  return {
    face,
    finder: {
      detector: async (canvas) => (await detector.run({ canvas: tensor(canvas, CANVAS.height, CANVAS.width) })).answer.data,
      landmarker: async (squares) => {
        const { points, logit } = await landmarker.run({
          squares: tensor(squares, BATCH, LANDMARK_SQUARE, LANDMARK_SQUARE, 1),
        });
        return { points: points.data, logit: logit.data };
      },
    },
    /** What the network sees in a square: L / 100, and the surface of `meshSurface`. */
    encode: async (lightness, surface) => {
      const outputs = await encode.run({
        luminance: tensor(lightness, 1, SIZE, SIZE, 1),
        surface_normal: tensor(surface.normal, 1, CELLS, CELLS, 3),
        surface_depth: tensor(surface.depth, 1, CELLS, CELLS, 1),
        surface_weight: tensor(surface.weight, 1, CELLS, CELLS, 1),
      });
      return Object.fromEntries(Object.entries(outputs).map(([name, output]) => [name, output.data]));
    },
  };
}

async function fetched(address) {
  const answer = await fetch(address);
  if (!answer.ok) throw new Error(`${new URL(address).pathname}: ${answer.status} ${answer.statusText}`);
  return answer;
}
