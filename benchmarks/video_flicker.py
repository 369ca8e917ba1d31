"""How much a relit film flickers, with and without smoothing, what a frame costs, and whether memory grows.

  python benchmarks/video_flicker.py

The clip is a still photo with a camera's noise (4 gray levels) and a hand's shake (0.3 pixels), both seeded. Without
smoothing, every frame is relit as a photo of its own. Changes are from frame to frame, in gray levels over the face:
of the source film; of the relit film; of the difference between the two, which is what relighting adds or takes; and
of that difference in blocks of 12 pixels, where noise and shake average out and what is left is what an eye sees
flicker. Memory is that of the whole process while `relight_film` writes a longer clip, at a smaller square.
"""

import argparse
import os
import platform
import tempfile
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import av
import cv2
import numpy as np
from skimage import data

from dpr_jax.film import video
from dpr_jax.film.moving_portrait import MovingPortrait
from dpr_jax.network import traced
from dpr_jax.network.networks import network_for
from dpr_jax.network.weights import load_params
from dpr_jax.portrait.faces import FACE_FINDERS, OVAL, FaceFinder, open_face_finder
from dpr_jax.portrait.lights import parse_light
from dpr_jax.portrait.portrait import Portrait

_FPS = 25
_NOISE, _SHAKE = 4.0, 0.3
_SETTLING = 6  # frames that are not counted, while the averages fill
_BLOCK = 12
_MEMORY_FRAMES = (50, 300)
_MEMORY_SIZE = 256
_PHOTO = np.ascontiguousarray(data.astronaut()[:360, :480])


def still_clip(frames: int) -> Iterator[np.ndarray]:
  """The clip, `[360, 480, 3]` uint8 each."""
  rng = np.random.default_rng(0)
  height, width = _PHOTO.shape[:2]
  for _ in range(frames):
    dx, dy = rng.normal(0, _SHAKE, 2)
    matrix = np.float32([[1, 0, dx], [0, 1, dy]])
    shaken = cv2.warpAffine(_PHOTO, matrix, (width, height), flags=cv2.INTER_CUBIC, borderMode=cv2.BORDER_REFLECT_101)
    yield np.clip(np.rint(shaken + rng.normal(0, _NOISE, shaken.shape)), 0, 255).astype(np.uint8)


def changes(source: list[np.ndarray], relit: list[np.ndarray], face: np.ndarray) -> list[float]:
  """The four columns of changes; `face` is `[H, W]` bool."""
  source, relit = (np.stack(frames[_SETTLING:]).astype(np.float32).mean(axis=-1) for frames in (source, relit))
  share = cv2.blur(face.astype(np.float32), (_BLOCK, _BLOCK))
  middles = np.zeros_like(face)
  middles[_BLOCK // 2 :: _BLOCK, _BLOCK // 2 :: _BLOCK] = True
  blocks = np.stack([cv2.blur(frame, (_BLOCK, _BLOCK)) for frame in relit - source])

  def change(frames: np.ndarray, where: np.ndarray) -> float:
    return float(np.abs(np.diff(frames[:, where], axis=0)).mean())

  return [
    change(source, face),
    change(relit, face),
    change(relit - source, face),
    change(blocks, middles & (share > 0.99)),
  ]


def measure_flicker(params, finder: FaceFinder, size: int, frames: int) -> None:
  """Prints the table of flicker and time."""
  light = parse_light("left")
  clip = list(still_clip(frames))
  outline = finder.find(_PHOTO)[0].landmarks[OVAL]
  face = cv2.fillConvexPoly(np.zeros(_PHOTO.shape[:2], np.uint8), np.round(outline).astype(np.int32), 1) > 0
  moving = MovingPortrait(params, finder, size)
  ways: dict[str, Callable[[int, np.ndarray], np.ndarray]] = {
    "every frame a photo": lambda k, frame: Portrait(params, frame, finder.find(frame), size).relight(light),
    "smoothed": lambda k, frame: moving.see(frame, k / _FPS).relight(light),
  }
  print("| | source | relit | relit - source | the same in blocks | s a frame |\n|" + " --- |" * 6)
  for name, relight in ways.items():
    relit, seconds = [], []
    for k, frame in enumerate(clip):
      start = time.perf_counter()
      relit.append(relight(k, frame))
      seconds.append(time.perf_counter() - start)
    cells = [f"{value:.2f}" for value in (*changes(clip, relit, face), float(np.median(seconds)))]
    print(f"| {name} | " + " | ".join(cells) + " |")


def resident_mib() -> float:
  """Of this process; Linux only."""
  pages = int(Path("/proc/self/statm").read_text().split()[1])
  return pages * os.sysconf("SC_PAGE_SIZE") / 2**20


def measure_memory(params, finder: FaceFinder) -> None:
  """Prints the memory in use at two moments of a film that is read, relit and written."""
  light = parse_light("left")
  seen = {}

  def relight(portrait: Portrait, k: int) -> np.ndarray:
    if k + 1 in _MEMORY_FRAMES:
      seen[k + 1] = resident_mib()
    return portrait.relight(light)

  with tempfile.TemporaryDirectory() as folder:
    source = Path(folder) / "still.mp4"
    with av.open(source, "w") as container:
      stream = container.add_stream("libx264", rate=_FPS, options={"crf": "12", "preset": "veryfast"})
      stream.pix_fmt, stream.height, stream.width = "yuv420p", *_PHOTO.shape[:2]
      for frame in still_clip(max(_MEMORY_FRAMES)):
        container.mux(stream.encode(av.VideoFrame.from_ndarray(frame, format="rgb24")))
      container.mux(stream.encode())
    video.relight_film(MovingPortrait(params, finder, _MEMORY_SIZE), relight, source, Path(folder) / "relit.mp4")
  print("\nmemory in use: " + ", ".join(f"{mib:.0f} MiB after {k} frames" for k, mib in seen.items()))


def main() -> None:
  parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
  parser.add_argument("--weights", default="official-512")
  parser.add_argument("--size", type=int, help="of the square; default: the one the weights were trained at")
  parser.add_argument("--face_finder", choices=FACE_FINDERS, help="as for relight.py")
  parser.add_argument("--frames", type=int, default=40)
  arguments = parser.parse_args()
  traced.enable_compilation_cache()
  params = load_params(arguments.weights)
  size = arguments.size or network_for(params).native_size
  print(f"{arguments.weights} at {size}, {arguments.frames} frames, {platform.machine()}, {os.cpu_count()} cores\n")
  with open_face_finder(arguments.face_finder) as finder:
    measure_flicker(params, finder, size, arguments.frames)
    measure_memory(params, finder)


if __name__ == "__main__":
  main()
