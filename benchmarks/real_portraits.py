"""Real portraits: what a network does where nobody knows the truth, but everybody knows what must not happen.

  python benchmarks/real_portraits.py --photos=photo.jpg,folder --held-out=portraits --weights=official-512,run

A photo relit to the light that the network itself sees in it should stay as it is: the mean change of its gray levels
over the head. And a light that goes round the face in 60 steps should move the picture evenly: the largest change from
one frame to the next over the median of all, and over the mean of its neighbours, which tells a jump from a face that
changes faster while the light passes above or below it. `benchmarks/preset_sheet.py` asks more of the named lights.

`--held-out` takes of a folder those portraits that `export_dataset.py` keeps out of training. `--grid=FILE --faces=8`
draws some of them under six lights, by each of the networks; `--sheets=FOLDER` all photos, large.
"""

import argparse
import os
from collections.abc import Iterator, Sequence
from pathlib import Path

import cv2
import numpy as np

from dpr_jax.image.photo import Photo, read_photo, to_8_bits
from dpr_jax.image.photo_formats import PHOTO_SUFFIXES
from dpr_jax.image.photo_writing import write_photo
from dpr_jax.image.pictures import contact_sheet, shrink, sphere
from dpr_jax.light import light as light_module
from dpr_jax.light import sh
from dpr_jax.network import traced
from dpr_jax.network.weights import load_params
from dpr_jax.portrait.face_finders import FACE_FINDERS, open_face_finder
from dpr_jax.portrait.faces import Face, FaceFinder
from dpr_jax.portrait.lights import parse_light
from dpr_jax.portrait.portrait import Portrait
from dpr_jax.records import split_of

STEPS = 60
GRID_LIGHTS = ("left", "right", "top", "rembrandt", "split-right", "bottom")
_GRID_SIDE = 192
_SHEET_SIDE = 768
_MOST_HELD_OUT = 40


def photos(texts: Sequence[str]) -> Iterator[Path]:
  """Photos and the photos of folders, in order."""
  for text in texts:
    path = Path(text)
    inside = sorted(path.iterdir()) if path.is_dir() else [path]
    yield from (each for each in inside if each.suffix.lower() in PHOTO_SUFFIXES)


def held_out(folder: Path) -> list[Path]:
  """The portraits of a folder that no training saw; ids are file names."""
  return [path for path in photos([str(folder)]) if split_of(path.name) != "train"][:_MOST_HELD_OUT]


def largest(faces: Sequence[Face]) -> Face:
  """The face that a photo is of."""
  return max(faces, key=lambda face: np.prod(face.box[2:] - face.box[:2]))


def reached(portrait: Portrait) -> np.ndarray:
  """`[H, W]` bool: the pixels that relighting changes."""
  return (portrait.relight(parse_light("left")) != portrait.pixels).any(axis=-1)


def own_light_change(portrait: Portrait, head: np.ndarray) -> float:
  """Gray levels by which the head changes under its own light as the network sees it."""
  return mean_change(portrait.pixels, portrait.relight(portrait.faces[0].source_light), head)


def turning_changes(portrait: Portrait, head: np.ndarray) -> np.ndarray:
  """By how much the picture changes from frame to frame while a light goes round, in gray levels, `[STEPS]`."""
  light = parse_light("left")
  frames = [portrait.relight(light_module.rotate(light, sh.roll(-360 * step / STEPS))) for step in range(STEPS)]
  return np.array([mean_change(frames[k - 1], frames[k], head) for k in range(STEPS)])


def largest_jump(changes: np.ndarray) -> float:
  """The largest of `turning_changes` over the median one."""
  return float(changes.max() / np.median(changes))


def roughest_step(changes: np.ndarray) -> float:
  """The largest of `turning_changes` over the mean of the one before and the one after: 1 where all is smooth."""
  return float((changes / ((np.roll(changes, 1) + np.roll(changes, -1)) / 2)).max())


def mean_change(one: np.ndarray, other: np.ndarray, head: np.ndarray) -> float:
  """Gray levels between two pictures, on average over `head`."""
  return float(np.abs(gray(one)[head] - gray(other)[head]).mean())


def gray(pixels: np.ndarray) -> np.ndarray:
  """The gray levels of RGB pixels, `[H, W, 3] -> [H, W]`."""
  return pixels.astype(np.float32) @ np.float32([0.299, 0.587, 0.114])


def main() -> None:
  parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
  shared = Path(os.environ.get("DPR_SHARED", "../shared"))
  parser.add_argument("--photos", default=f"{shared}/reference/dpr/obama.jpg,{shared}/photos", help="photos, folders")
  parser.add_argument("--held-out", type=Path, default=shared / "portraits" / "congress", help="a folder")
  parser.add_argument("--weights", default="official-512,default", help="networks, as for relight.py")
  parser.add_argument("--face_finder", choices=FACE_FINDERS, help="as for relight.py")
  parser.add_argument("--grid", type=Path, help="a picture to write")
  parser.add_argument("--faces", type=int, default=8, help="rows of the grid")
  parser.add_argument("--sheets", type=Path, help="a folder for large pictures")
  parser.add_argument("--no-figures", action="store_true", help="pictures only")
  arguments = parser.parse_args()
  traced.enable_compilation_cache()
  networks = {name: load_params(name) for name in arguments.weights.split(",")}
  groups = {"photos": list(photos(arguments.photos.split(","))), "held-out portraits": held_out(arguments.held_out)}
  if not arguments.no_figures:
    _report(networks, groups, arguments.face_finder)
  if arguments.grid:
    _draw_grid(networks, groups["held-out portraits"][: arguments.faces], arguments.grid, arguments.face_finder)
  if arguments.sheets:
    _draw_sheets(
      networks, [path for paths in groups.values() for path in paths], arguments.sheets, arguments.face_finder
    )


def _portraits(
  params, paths: Sequence[Path], finder: FaceFinder, longest: int = 1024
) -> Iterator[tuple[Path, Portrait]]:
  for path in paths:
    pixels = shrink(to_8_bits(read_photo(path).pixels), longest)
    faces = finder.find(pixels)
    if faces:
      yield path, Portrait(params, pixels, [largest(faces)])


def _report(networks, groups, face_finder: str | None) -> None:
  print("| | | faces | own light: mean change, gray levels | largest ", end="")
  print("| turning light: largest jump over the median | over its neighbours |")
  print("| --- | --- | --- | --- | --- | --- | --- |")
  with open_face_finder(face_finder) as finder:
    for name, params in networks.items():
      for group, paths in groups.items():
        changes, jumps, rough = [], [], []
        for _, portrait in _portraits(params, paths, finder, 512):
          head = reached(portrait)
          changes.append(own_light_change(portrait, head))
          turning = turning_changes(portrait, head)
          jumps.append(largest_jump(turning))
          rough.append(roughest_step(turning))
        row = (name, group, len(changes), *(f"{x:.2f}" for x in (np.mean(changes), *map(max, (changes, jumps, rough)))))
        print("| " + " | ".join(map(str, row)) + " |", flush=True)


def _draw_grid(networks, paths: Sequence[Path], target: Path, face_finder: str | None) -> None:
  """Rows of a face under the lights, the networks below each other."""
  rows = []
  with open_face_finder(face_finder) as finder:
    made = {name: dict(_portraits(params, paths, finder)) for name, params in networks.items()}
  for path in paths:
    for name, by_path in made.items():
      portrait, lights = by_path[path], [parse_light(light, networks[name]) for light in GRID_LIGHTS]
      cells = [portrait.pixels, *(portrait.relight(light) for light in lights)]
      rows.append(np.hstack([_square(cell) for cell in cells]))
  spheres = [sphere(light, _GRID_SIDE // 2) for light in lights]
  around = _GRID_SIDE // 4
  spheres = [np.pad(sphere, ((8, 8), (around, around), (0, 0)), constant_values=104) for sphere in spheres]
  head = np.hstack([np.full_like(spheres[0], 104), *spheres])
  write_photo(target, Photo(np.vstack([head, *rows])), overwrite=True)


def _square(pixels: np.ndarray) -> np.ndarray:
  """The middle of a picture, `[192, 192, 3]`."""
  side = min(pixels.shape[:2])
  top, left = (pixels.shape[0] - side) // 4, (pixels.shape[1] - side) // 2
  return cv2.resize(
    pixels[top : top + side, left : left + side], (_GRID_SIDE, _GRID_SIDE), interpolation=cv2.INTER_AREA
  )


def _draw_sheets(networks, paths: Sequence[Path], folder: Path, face_finder: str | None) -> None:
  with open_face_finder(face_finder) as finder:
    for name, params in networks.items():
      lights = [parse_light(light, params) for light in GRID_LIGHTS[:5]]
      for path, portrait in _portraits(params, paths, finder):
        cells = [portrait.pixels, *(portrait.relight(light) for light in lights)]
        sheet = contact_sheet([shrink(cell, _SHEET_SIDE) for cell in cells], [portrait.faces[0].source_light, *lights])
        write_photo(folder / f"{path.stem}_{name.replace('/', '_')}.jpg", Photo(sheet), overwrite=True)


if __name__ == "__main__":
  main()
