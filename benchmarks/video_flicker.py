"""How much a relit film flickers, with and without smoothing, what a frame costs, and whether memory grows.

  python benchmarks/video_flicker.py
  python benchmarks/video_flicker.py --weights=default --moving --background=0.5

The clip is a still photo with a camera's noise (4 gray levels) and a hand's shake (0.3 pixels), both seeded; with
`--moving` the camera moves by and zooms in as well. Without smoothing, every frame is relit as a photo of its own.
Changes are from frame to frame, at the same places of the photo, in gray levels over the face: of the source film; of
the relit film; of the difference between the two, which is what relighting adds or takes; and of that difference in
blocks of 12 pixels, where noise and shake average out and what is left is what an eye sees flicker. The last one is
also taken in blocks of 4 pixels along the outline of the hair (`hair`), with MediaPipe's segmenter, where a matte
crawls, and in blocks of 12 pixels where nobody is (`room`), which takes a share of the light with `--background`.
Memory is that of the whole process while `relight_film` writes a longer clip, at a smaller square.
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

from dpr_jax.film.moving_portrait import MovingPortrait
from dpr_jax.film.relighting import relight_film
from dpr_jax.network import traced
from dpr_jax.network.networks import network_for
from dpr_jax.network.weights import load_params
from dpr_jax.portrait.face_finders import FACE_FINDERS, open_face_finder
from dpr_jax.portrait.faces import OVAL, FaceFinder, frame_face
from dpr_jax.portrait.lights import parse_light
from dpr_jax.portrait.person import Segmenter, find_person, open_segmenter
from dpr_jax.portrait.portrait import Portrait

_FPS = 25
_NOISE, _SHAKE = 4.0, 0.3
_SETTLING = 6  # frames that are not counted, while the averages fill
_BLOCK, _FINE_BLOCK = 12, 4
_HAIR = 5  # pixels to either side of the outline
_ZOOM, _PAN = 1.004, (0.8, -0.2)  # a frame of a moving clip: a factor, and pixels
_MEMORY_FRAMES = (50, 300)
_MEMORY_SIZE = 256
_PHOTO = np.ascontiguousarray(data.astronaut()[:360, :480])


def camera(k: int, moving: bool) -> np.ndarray:
  """Where the photo lies in frame k, but for the shake: `[2, 3]`."""
  if not moving:
    return np.eye(2, 3)
  middle, zoom = np.array(_PHOTO.shape[1::-1]) / 2, _ZOOM**k
  return np.column_stack([zoom * np.eye(2), (1 - zoom) * middle + k * np.array(_PAN)])


def clip_frames(frames: int, moving: bool = False) -> Iterator[np.ndarray]:
  """The clip, `[360, 480, 3]` uint8 each."""
  rng = np.random.default_rng(0)
  height, width = _PHOTO.shape[:2]
  for k in range(frames):
    matrix = camera(k, moving)
    matrix[:, 2] += rng.normal(0, _SHAKE, 2)
    shaken = cv2.warpAffine(_PHOTO, matrix, (width, height), flags=cv2.INTER_CUBIC, borderMode=cv2.BORDER_REFLECT_101)
    yield np.clip(np.rint(shaken + rng.normal(0, _NOISE, shaken.shape)), 0, 255).astype(np.uint8)


def outlines(finder: FaceFinder, segmenter: Segmenter) -> tuple[np.ndarray, np.ndarray]:
  """The pixels of the photo along the outline of the head above the chin, and those away from the person, `[H, W]`."""
  face = finder.find(_PHOTO)[0]
  matte = find_person(segmenter, _PHOTO, face, frame_face(face, 256))
  alpha = cv2.warpAffine(matte.alpha, matte.matrix, _PHOTO.shape[1::-1], flags=cv2.INTER_LINEAR | cv2.WARP_INVERSE_MAP)
  reach = np.ones((2 * _HAIR + 1, 2 * _HAIR + 1), np.uint8)
  person = (alpha > 0.5).astype(np.uint8)
  outline = cv2.dilate(person, reach) > cv2.erode(person, reach)
  outline[int(face.landmarks[OVAL].max(axis=0)[1]) :] = False
  return outline, cv2.dilate(np.float32(alpha > 0), np.ones((2 * _BLOCK, 2 * _BLOCK), np.uint8)) == 0


def changes(
  source: list[np.ndarray],
  relit: list[np.ndarray],
  face: np.ndarray,
  around: tuple[np.ndarray, np.ndarray] | None,
  moving: bool,
) -> list[float]:
  """The columns of changes; `face` `[H, W]` bool, `around` from `outlines`."""

  def in_photo(frames: list[np.ndarray]) -> np.ndarray:
    size, flags = _PHOTO.shape[1::-1], cv2.INTER_CUBIC | cv2.WARP_INVERSE_MAP
    gray = [frame.astype(np.float32).mean(axis=-1) for frame in frames]
    laid = [cv2.warpAffine(frame, camera(k, moving), size, flags=flags) for k, frame in enumerate(gray)]
    return np.stack(laid[_SETTLING:])

  shown = in_photo([np.full(frame.shape, 255, np.uint8) for frame in source]).min(axis=0) > 254  # by every frame
  shown = cv2.erode(np.uint8(shown), np.ones((_BLOCK, _BLOCK), np.uint8), borderValue=0) > 0
  source, relit = in_photo(source), in_photo(relit)
  share = cv2.blur(face.astype(np.float32), (_BLOCK, _BLOCK))
  middles = np.zeros_like(face)
  middles[_BLOCK // 2 :: _BLOCK, _BLOCK // 2 :: _BLOCK] = True
  blocks, fine = (
    np.stack([cv2.blur(frame, (side, side)) for frame in relit - source]) for side in (_BLOCK, _FINE_BLOCK)
  )

  def change(frames: np.ndarray, where: np.ndarray) -> float:
    return float(np.abs(np.diff(frames[:, where], axis=0)).mean())

  return [
    change(source, face),
    change(relit, face),
    change(relit - source, face),
    change(blocks, middles & (share > 0.99)),
    np.nan if around is None else change(fine, around[0]),
    np.nan if around is None else change(blocks, middles & around[1] & shown),
  ]


def measure_flicker(
  params,
  finder: FaceFinder,
  segmenter: Segmenter | None,
  size: int,
  frames: int,
  moving: bool,
  background: float,
) -> None:
  """Prints the table of flicker and time."""
  light = parse_light("left")
  clip = list(clip_frames(frames, moving))
  outline = finder.find(_PHOTO)[0].landmarks[OVAL]
  face = cv2.fillConvexPoly(np.zeros(_PHOTO.shape[:2], np.uint8), np.round(outline).astype(np.int32), 1) > 0
  around = segmenter and outlines(finder, segmenter)
  ways: dict[str, Callable[[int, np.ndarray], Portrait]] = {}

  def add(name: str, segmenter: Segmenter | None) -> None:
    film = MovingPortrait(params, finder, size, segmenter=segmenter)
    photo = {"size": size, "segmenter": segmenter}
    ways[f"{name}, every frame a photo"] = lambda k, frame: Portrait(params, frame, finder.find(frame), **photo)
    ways[f"{name}, smoothed"] = lambda k, frame: film.see(frame, k / _FPS)

  add("head", None)
  if segmenter is not None:
    add("person", segmenter)
  columns = ("", "source", "relit", "relit - source", "the same in blocks", "hair", "room", "s a frame", "CPU s")
  print("| " + " | ".join(columns) + " |\n|" + " --- |" * len(columns))
  for name, see in ways.items():
    relit, seconds, busy = [], [], []
    for k, frame in enumerate(clip):
      start, used = time.perf_counter(), time.process_time()
      relit.append(see(k, frame).relight(light, background=background))
      seconds.append(time.perf_counter() - start)
      busy.append(time.process_time() - used)
    medians = [float(np.median(each)) for each in (seconds, busy)]
    cells = [f"{value:.2f}" for value in (*changes(clip, relit, face, around, moving), *medians)]
    print(f"| {name} | " + " | ".join(cells) + " |")


def resident_mib() -> float:
  """Of this process; Linux only."""
  pages = int(Path("/proc/self/statm").read_text().split()[1])
  return pages * os.sysconf("SC_PAGE_SIZE") / 2**20


def measure_memory(params, finder: FaceFinder, segmenter: Segmenter | None) -> None:
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
      for frame in clip_frames(max(_MEMORY_FRAMES)):
        container.mux(stream.encode(av.VideoFrame.from_ndarray(frame, format="rgb24")))
      container.mux(stream.encode())
    film = MovingPortrait(params, finder, _MEMORY_SIZE, segmenter=segmenter)
    relight_film(film, relight, source, Path(folder) / "relit.mp4")
  print("\nmemory in use: " + ", ".join(f"{mib:.0f} MiB after {k} frames" for k, mib in seen.items()))


def main() -> None:
  parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
  parser.add_argument("--weights", default="official-512")
  parser.add_argument("--size", type=int, help="of the square; default: the one the weights were trained at")
  parser.add_argument("--face_finder", choices=FACE_FINDERS, help="as for relight.py")
  parser.add_argument("--frames", type=int, default=40)
  parser.add_argument("--moving", action="store_true", help="let the camera move")
  parser.add_argument("--background", type=float, default=0.0, help="as for relight.py")
  parser.add_argument("--memory", action=argparse.BooleanOptionalAction, default=True)
  arguments = parser.parse_args()
  traced.enable_compilation_cache()
  params = load_params(arguments.weights)
  size = arguments.size or network_for(params).native_size
  print(f"{arguments.weights} at {size}, {arguments.frames} frames, {platform.machine()}, {os.cpu_count()} cores\n")
  with open_face_finder(arguments.face_finder) as finder:
    segmenter = open_segmenter() if finder.name == "mediapipe" else None
    measure_flicker(params, finder, segmenter, size, arguments.frames, arguments.moving, arguments.background)
    if arguments.memory:
      measure_memory(params, finder, segmenter)


if __name__ == "__main__":
  main()
