"""The embedded face finder beside MediaPipe's: what they find, how precisely, how fast, and how pictures differ.

  python benchmarks/face_finder.py
  python benchmarks/face_finder.py --head-count=0 --no-relit --photos=photo.jpg,folder --empty=folder_without_faces

Errors are distances of the four framing points (middles of the eyes, corners of the mouth), their mean over a face, as
a share of the distance between the eyes. On photos they are taken against MediaPipe's answer; on rendered heads against
the truth, and the distance between the eyes is that in space, which does not shrink as the head turns.
"""

import argparse
import os
import time
from collections.abc import Sequence
from pathlib import Path

import cv2
import jax
import numpy as np
from skimage import data

from data_gen.face_finder.teacher import split_portraits
from data_gen.heads.rendering import draw_head, load_head_model
from data_gen.heads.texture import portrait_texture
from dpr_jax.image.photo import read_photo, to_8_bits
from dpr_jax.image.photo_formats import PHOTO_SUFFIXES
from dpr_jax.network.weights import load_params
from dpr_jax.portrait.embedded_faces import EmbeddedFaceFinder
from dpr_jax.portrait.faces import LEFT_EYE, MOUTH_CORNERS, OVAL, RIGHT_EYE, Face, FaceFinder, overlap
from dpr_jax.portrait.lights import parse_light
from dpr_jax.portrait.mediapipe_faces import MediaPipeFaceFinder
from dpr_jax.portrait.portrait import Portrait

_SAME = 0.5  # overlap of boxes from which on two finds are one face
_YAWS = (0, 15, 30, 45, 60)
_REPEATS = 15


def framing_points(landmarks: np.ndarray) -> np.ndarray:
  """The middles of the eyes and the corners of the mouth, `[4, 2]`."""
  return np.stack([landmarks[LEFT_EYE].mean(axis=0), landmarks[RIGHT_EYE].mean(axis=0), *landmarks[MOUTH_CORNERS]])


def framing_error(found: np.ndarray, expected: np.ndarray, between_eyes: float | None = None) -> float:
  """The mean distance of the framing points over the distance between the eyes."""
  points, truth = framing_points(found), framing_points(expected)
  return np.linalg.norm(points - truth, axis=1).mean() / (between_eyes or np.linalg.norm(truth[0] - truth[1]))


def match(found: Sequence[Face], expected: Sequence[Face]) -> list[tuple[Face | None, Face]]:
  """For each expected face the found one that lies over it."""
  pairs = []
  for face in expected:
    best = max(found, key=lambda other: overlap(other.box, face.box), default=None)
    pairs.append((best if best and overlap(best.box, face.box) > _SAME else None, face))
  return pairs


def measure_photos(name: str, photos: Sequence[np.ndarray], ours: FaceFinder, theirs: FaceFinder) -> None:
  """A row of the first table: finds against MediaPipe's."""
  hits, count, false, errors = 0, 0, 0, []
  for pixels in photos:
    found, expected = ours.find(pixels), theirs.find(pixels)
    pairs = [(face, other) for face, other in match(found, expected) if face]
    hits, count, false = hits + len(pairs), count + len(expected), false + len(found) - len(pairs)
    errors += [framing_error(face.landmarks, other.landmarks) for face, other in pairs]
  middle, most = np.percentile(errors or [np.nan], (50, 95))
  print(f"| {name} | {hits} of {count} | {false} | {middle:.1%} | {most:.1%} |")


def measure_heads(heads: Path, environments: Path, portraits: Sequence[Path], count: int, finders: dict) -> None:
  """The table of rendered heads, by yaw."""
  model = load_head_model(heads, environments)
  theirs = finders["MediaPipe"]
  textures = []
  for path in portraits:
    pixels = to_8_bits(read_photo(path).pixels)
    if len(faces := theirs.find(pixels)) == 1:
      textures.append(portrait_texture(model.head, model.regions, model.landmarks, pixels, faces[0]))
  print(f"\n| yaw, degrees | {' | '.join(f'{name}: found | error, median | 95%' for name in finders)} |")
  print(f"| --- |{' --- | --- | --- |' * len(finders)}")
  for yaw in _YAWS:
    found = {name: [] for name in finders}
    for number in range(count // len(_YAWS)):
      rng = np.random.default_rng([7, yaw, number])
      side = (-1) ** number
      texture = textures[rng.integers(len(textures))] if number % 4 < 2 else None
      pitch = float(rng.normal(0, 8))
      head = draw_head(rng, model, size=384, yaw=float(side * yaw), pitch=pitch, roll=0.0, portrait=texture)
      left, right = (head.landmarks[eye].mean(axis=0) for eye in (LEFT_EYE, RIGHT_EYE))
      between = float(np.linalg.norm(left - right))
      coverage = head.rgba[..., 3:] / 255.0
      pixels = np.round(head.rgba[..., :3] * coverage + rng.uniform(40, 200) * (1 - coverage)).astype(np.uint8)
      truth = Face(head.landmarks[:, :2], head.landmarks[:, 2])
      for name, finder in finders.items():
        [(face, _)] = match(finder.find(pixels), [truth])
        found[name].append(framing_error(face.landmarks, truth.landmarks, between) if face else np.nan)
    cells = []
    for errors in found.values():
      seen = np.array(errors)[np.isfinite(errors)]
      cells.append(f"{len(seen)} of {len(errors)} | {np.median(seen):.1%} | {np.percentile(seen, 95):.1%}")
    print(f"| {yaw} | {' | '.join(cells)} |")


def measure_relit(photos: dict[str, np.ndarray], ours: FaceFinder, theirs: FaceFinder, lights: Sequence[str]) -> None:
  """How far the relit pictures differ on the face, in gray levels, where either finder has framed it."""
  params = load_params("default")
  differences = []
  for name, pixels in photos.items():
    pairs = match(ours.find(pixels), theirs.find(pixels))
    if not pairs or not all(face for face, _ in pairs):
      continue
    region = np.zeros(pixels.shape[:2], np.uint8)
    for _, face in pairs:
      cv2.fillConvexPoly(region, cv2.convexHull(np.round(face.landmarks[OVAL]).astype(np.int32)), 1)
    one, two = (Portrait(params, pixels, [pair[i] for pair in pairs]) for i in (0, 1))
    for text in lights:
      light = parse_light(text, params)
      change = np.abs(one.relight(light).astype(float) - two.relight(light))[region > 0].mean()
      differences.append((change, name, text))
  values = [change for change, *_ in differences]
  worst, name, text = max(differences)
  print(f"\nRelit with either finder, {len(photos)} photos x {len(lights)} lights, mean difference on the face:")
  print(f"mean {np.mean(values):.2f}, median {np.median(values):.2f}, largest {worst:.2f} gray levels ({name}, {text})")


def measure_time(photo: np.ndarray, finders: dict) -> None:
  """Milliseconds to find the faces of a photo of two megapixels."""
  height, width = photo.shape[:2]
  scale = np.sqrt(2e6 / (height * width))
  pixels = cv2.resize(photo, (round(width * scale), round(height * scale)), interpolation=cv2.INTER_CUBIC)
  print(f"\nTime to find, {pixels.shape[1]} x {pixels.shape[0]} pixels, {os.cpu_count()} cores:")
  for name, finder in finders.items():
    finder.find(pixels)
    times = []
    for _ in range(_REPEATS):
      began = time.perf_counter()
      finder.find(pixels)
      times.append(1e3 * (time.perf_counter() - began))
    print(f"{name}: median {np.median(times):.0f} ms, least {min(times):.0f}")


def load_all(paths: Sequence[Path]) -> dict[str, np.ndarray]:
  """Photos by name, 8 bits; those of folders too, in order."""
  files = []
  for path in paths:
    files += sorted(path.rglob("*")) if path.is_dir() else [path]
  return {path.name: to_8_bits(read_photo(path).pixels) for path in files if path.suffix.lower() in PHOTO_SUFFIXES}


def main() -> None:
  shared = Path(os.environ.get("DPR_SHARED", Path(__file__).resolve().parents[2] / "shared"))
  parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
  parser.add_argument("--photos", default=f"{shared / 'photos'},{shared / 'reference/dpr/obama.jpg'}")
  parser.add_argument("--portraits", type=Path, default=shared / "portraits" / "congress", help="a folder")
  parser.add_argument("--heads", type=Path, default=shared / "heads", help="of data_gen.heads")
  parser.add_argument("--environments", type=Path, default=shared / "environments", help="of .hdr maps")
  parser.add_argument("--empty", default="", help="photos or folders without any face")
  parser.add_argument("--head-count", type=int, default=200, help="rendered heads; 0 leaves them out")
  parser.add_argument("--relit", action=argparse.BooleanOptionalAction, default=True, help="compare relit pictures")
  arguments = parser.parse_args()
  _, held_out = split_portraits(arguments.portraits)
  photos = load_all([Path(text) for text in arguments.photos.split(",")]) | {"astronaut": data.astronaut()}
  portraits = load_all(held_out)
  print(f"{jax.devices()[0].device_kind}, {os.cpu_count()} cores\n")
  with MediaPipeFaceFinder() as theirs, EmbeddedFaceFinder() as ours:
    finders = {"embedded": ours, "MediaPipe": theirs}
    print("| photos | found | false | error, median | 95% |\n| --- | --- | --- | --- | --- |")
    for name, pixels in photos.items():
      measure_photos(name, [pixels], ours, theirs)
    measure_photos(f"{len(portraits)} held-out portraits", list(portraits.values()), ours, theirs)
    if arguments.empty:
      empty = load_all([Path(text) for text in arguments.empty.split(",")])
      counts = [len(ours.find(pixels)) for pixels in empty.values()]
      theirs_too = sum(len(theirs.find(pixels)) for pixels in empty.values())
      print(f"\n{len(empty)} photos without a face: {sum(counts)} finds in {np.count_nonzero(counts)} of them", end="")
      print(f" (MediaPipe: {theirs_too} finds)")
    if arguments.head_count:
      measure_heads(arguments.heads, arguments.environments, held_out, arguments.head_count, finders)
    if arguments.relit:
      some = dict(list(portraits.items())[: 20 - len(photos)])
      measure_relit(photos | some, ours, theirs, ("left", "top", "right"))
    measure_time(next(iter(photos.values())), finders)


if __name__ == "__main__":
  main()
