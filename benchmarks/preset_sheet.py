"""Every named light on real portraits, in figures and in pictures to look at.

  python benchmarks/preset_sheet.py --weights=official-512,default --out=sheet
  python benchmarks/preset_sheet.py --held-out-count=0 --lights=rembrandt,split --environments= --full=large

Photos are cropped to the surroundings of their largest face, and relit under every preset and under environment maps.
Nobody knows how they should look, but over the oval of the face the figures say what a photographer would not keep:

- brightness: the mean of L of the relit face over that of the photo;
- new black: the share of pixels that get darker than L / 100 = 0.15 and were not;
- new burnt: the share of pixels with a channel at 254 or above that had none;
- asymmetry: how far `left` is from the mirror image of the mirrored photo under `right`, in gray levels, as a mean; the
  face is found anew in the mirrored photo, and, in a second column, its landmarks are the mirrored ones;
- jump: the largest change from frame to frame of a light that goes round in 60 steps, over the median one, and over the
  mean of the one before and the one after.

`--out` gets contact sheets, a row for each photo and network, a column for each light. `--full` gets a file for each
photo and light, with the photo and what each network makes of it side by side.
"""

import argparse
import collections
import json
import os
import statistics
import sys
import time
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import NamedTuple

import cv2
import jax
import numpy as np
from real_portraits import largest, largest_jump, mean_change, photos, reached, roughest_step, turning_changes
from skimage import data

from data_gen.face_finder.teacher import split_portraits
from dpr_jax.image import color
from dpr_jax.image.photo import Photo, read_photo, to_8_bits
from dpr_jax.image.photo_writing import write_photo
from dpr_jax.image.pictures import shrink, sphere
from dpr_jax.light.light import Light
from dpr_jax.network import traced
from dpr_jax.network.weights import load_params
from dpr_jax.portrait.face_finders import FACE_FINDERS, open_face_finder
from dpr_jax.portrait.faces import OVAL, Face, FaceFinder, frame_face, mirror_image, overlap
from dpr_jax.portrait.lights import PRESETS, parse_light
from dpr_jax.portrait.portrait import Portrait
from dpr_jax.portrait.relighting import encode_luminance, log_ratio

ASTRONAUT = "astronaut"
ENVIRONMENTS = ("park", "studio", "venice")
FIGURES = ("brightness", "black", "burnt")

_BLACK, _BURNT = 0.15, 254
_MARGIN = 0.1  # of the square that the network sees, around it
_SIDE = 640  # of a cropped photo, at most
_TEXT_HEIGHT, _GAP, _GRAY = 22, 4, 104
_ROUNDS = 7


class Sitter(NamedTuple):
  """A photo cropped to the surroundings of its largest face.

  Attributes:
    name: what the photo is called.
    pixels: `[H, W, 3]` uint8 RGB.
    face: where the face is.
    oval: `[H, W]` bool, the pixels of the face.
  """

  name: str
  pixels: np.ndarray
  face: Face
  oval: np.ndarray


def crop_to_face(pixels: np.ndarray, face: Face, side: int = _SIDE) -> tuple[np.ndarray, Face]:
  """A photo cut down to what the network sees of a face and a margin, no larger than `side`, and the face in it."""
  framing = frame_face(face, 2)
  corners = (np.array([(0, 0), (2, 0), (2, 2), (0, 2)]) - framing.matrix[:, 2]) @ np.linalg.inv(framing.matrix[:, :2]).T
  margin = _MARGIN * np.ptp(corners, axis=0)
  left, top = np.maximum(np.floor(corners.min(axis=0) - margin), 0).astype(int)
  right, bottom = np.minimum(np.ceil(corners.max(axis=0) + margin), pixels.shape[1::-1]).astype(int)
  cropped = np.ascontiguousarray(pixels[top:bottom, left:right])
  small = shrink(cropped, side)
  scale = np.array(small.shape[1::-1]) / cropped.shape[1::-1]
  landmarks = (face.landmarks - (left, top)) * scale
  return small, Face(landmarks, None if face.depth is None else face.depth * scale[0])


def oval_of(face: Face, shape: Sequence[int]) -> np.ndarray:
  """`[H, W]` bool: the pixels inside the outline of a face."""
  outline = cv2.convexHull(np.round(face.landmarks[OVAL]).astype(np.int32))
  return cv2.fillConvexPoly(np.zeros(shape[:2], np.uint8), outline, 1) > 0


def measure(photo: np.ndarray, relit: np.ndarray, oval: np.ndarray) -> dict[str, float]:
  """The three figures of `FIGURES`.

  Args:
    photo: `[H, W, 3]` uint8 RGB.
    relit: the same under another light.
    oval: `[H, W]` bool, where to look.

  Returns:
    `brightness`, a quotient; `black` and `burnt`, shares in [0, 1].
  """
  before, after = (color.photo_luminance(pixels)[oval] for pixels in (photo, relit))
  burnt_before, burnt_after = ((pixels[oval] >= _BURNT).any(axis=-1) for pixels in (photo, relit))
  return {
    "brightness": float(after.mean() / max(before.mean(), 1e-6)),
    "black": float(np.mean((after < _BLACK) & (before >= _BLACK))),
    "burnt": float(np.mean(burnt_after & ~burnt_before)),
  }


def asymmetry(params, sitter: Sitter, portrait: Portrait, in_mirror: Face) -> float:
  """Gray levels between `left` and the mirror image of `right` on the mirrored photo, on average over the face.

  Args:
    params: of the network.
    sitter: the photo.
    portrait: of the photo.
    in_mirror: the face in the mirrored photo.
  """
  flipped = np.ascontiguousarray(sitter.pixels[:, ::-1])
  other = Portrait(params, flipped, [in_mirror]).relight(parse_light("right"))
  return mean_change(portrait.relight(parse_light("left")), other[:, ::-1], sitter.oval)


def sitters(paths: Sequence[Path | str], finder: FaceFinder) -> Iterator[Sitter]:
  """The photos that have a face; the others are named on stderr."""
  for path in paths:
    pixels = data.astronaut() if path == ASTRONAUT else to_8_bits(read_photo(path).pixels)
    faces = finder.find(pixels)
    if faces:
      pixels, face = crop_to_face(pixels, largest(faces))
      yield Sitter(Path(path).stem, pixels, face, oval_of(face, pixels.shape))
    else:
      print(f"{path}: no face found", file=sys.stderr)


def named_lights(presets: Sequence[str], maps: Sequence[Path]) -> dict[str, Light]:
  """Lights by what their columns are called."""
  lights = {name: parse_light(name) for name in presets}
  return lights | {f"map: {path.stem}": parse_light(os.fspath(path)) for path in maps}


class Measured:
  """What one network has been found to do."""

  def __init__(self):
    self.figures: dict[str, list[dict]] = collections.defaultdict(list)  # by light
    self.asymmetry: list[float] = []
    self.asymmetry_given: list[float] = []
    self.turning: list[tuple[float, float]] = []
    self.seconds: dict[str, list[float]] = collections.defaultdict(list)

  def mean(self, light: str, figure: str) -> float:
    """Over the photos."""
    return float(np.mean([each[figure] for each in self.figures[light]]))

  def rows(self) -> list[list[str]]:
    """The table of lights."""
    rows = []
    for light, each in self.figures.items():
      values = {figure: np.array([one[figure] for one in each]) for figure in FIGURES}
      bright, black, burnt = (values[figure] for figure in FIGURES)
      rows.append(
        [light, f"{bright.mean():.2f}", f"{bright.min():.2f} to {bright.max():.2f}"]
        + [f"{shares.mean():.1%}, {shares.max():.1%}" for shares in (black, burnt)]
      )
    return rows

  def overall(self) -> list[str]:
    """What the worst light does, symmetry, jumps."""
    bright = [self.mean(light, "brightness") for light in self.figures]
    shares = []
    for figure in ("black", "burnt"):
      worst = max(self.figures, key=lambda light: self.mean(light, figure))
      shares.append(f"{self.mean(worst, figure):.1%} ({worst})")
    levels = [
      f"{np.mean(each):.2f}, {max(each):.2f}" if each else "-" for each in (self.asymmetry, self.asymmetry_given)
    ]
    jump = ", ".join(f"{most:.2f}" for most in np.max(self.turning, axis=0)) if self.turning else "-"
    return [f"{min(bright):.2f} to {max(bright):.2f}", *shares, *levels, jump]


def look_at(
  params, sitter: Sitter, finder: FaceFinder, lights: Mapping[str, Light], turning: bool, found: Measured
) -> dict[str, np.ndarray]:
  """Relights one photo in every way, and notes in `found` what came out.

  Returns:
    The relit photos by light.
  """
  begin = time.perf_counter()
  portrait = Portrait(params, sitter.pixels, [sitter.face])
  found.seconds["a new photo"].append(time.perf_counter() - begin)
  relit = {}
  for name, light in lights.items():
    begin = time.perf_counter()
    relit[name] = portrait.relight(light)
    found.seconds["a new light"].append(time.perf_counter() - begin)
    found.figures[name].append(measure(sitter.pixels, relit[name], sitter.oval))
  given = mirror_image(sitter.face, sitter.pixels.shape[1])
  found.asymmetry_given.append(asymmetry(params, sitter, portrait, given))
  again = finder.find(np.ascontiguousarray(sitter.pixels[:, ::-1]))
  again = max(again, key=lambda face: overlap(face.box, given.box), default=None)
  if again is not None:
    found.asymmetry.append(asymmetry(params, sitter, portrait, again))
  if turning:
    changes = turning_changes(portrait, reached(portrait))
    found.turning.append((largest_jump(changes), roughest_step(changes)))
  if len(found.asymmetry_given) == 1:
    _time_network(params, portrait, found)
  return relit


def _time_network(params, portrait: Portrait, found: Measured) -> None:
  """Encode and decode alone, of one face."""
  luminance = portrait.faces[0].luminance[None, ..., None]
  encoding = portrait.faces[0].encoding
  lamp = jax.tree.map(lambda part: part[None], parse_light("rembrandt"))
  work = {
    "encode": lambda: encode_luminance(params, luminance),
    "decode": lambda: log_ratio(params, encoding, luminance, lamp),
  }
  for function in work.values():
    jax.block_until_ready(function())
  for _ in range(_ROUNDS):
    for name, function in work.items():
      begin = time.perf_counter()
      jax.block_until_ready(function())
      found.seconds[name].append(time.perf_counter() - begin)


def text_strip(text: str, width: int) -> np.ndarray:
  """A strip `[22, width, 3]` with a line of text, or as much of its end as there is room for."""
  strip, font, size = np.full((_TEXT_HEIGHT, width, 3), _GRAY, np.uint8), cv2.FONT_HERSHEY_SIMPLEX, 0.4
  while len(text) > 3 and cv2.getTextSize(text, font, size, 1)[0][0] > width - 2 * _GAP:
    text = "..." + text.removeprefix("...")[1:]
  return cv2.putText(strip, text, (_GAP, _TEXT_HEIGHT - 7), font, size, (255, 255, 255), 1, cv2.LINE_AA)


def cell_of(pixels: np.ndarray, side: int) -> np.ndarray:
  """A picture in the middle of a gray square `[side, side, 3]`, as large as fits, with a gap on the right."""
  picture = shrink(pixels, side - _GAP)
  cell = np.full((side, side, 3), _GRAY, np.uint8)
  top, left = ((side - _GAP - length) // 2 for length in picture.shape[:2])
  cell[top : top + picture.shape[0], left : left + picture.shape[1]] = picture
  return cell


def sheet_head(lights: Mapping[str, Light], side: int) -> np.ndarray:
  """The row above all others: the spheres under the lights, and what they are called."""
  cells = [np.full((side, side, 3), _GRAY, np.uint8)]
  for light in lights.values():
    cell, ball = cells[0].copy(), sphere(light, side // 2)
    at = slice(side // 4, side // 4 + len(ball))
    cell[at, at] = np.where(ball.any(axis=-1, keepdims=True), ball, _GRAY)
    cells.append(cell)
  names = np.hstack([text_strip(name, side) for name in ("the photo", *lights)])
  return np.vstack([np.hstack(cells), names])


def sheet_row(title: str, pictures: Sequence[np.ndarray], side: int) -> np.ndarray:
  """A photo and what it becomes under the lights, below a title."""
  return np.vstack([text_strip(title, side * len(pictures)), np.hstack([cell_of(each, side) for each in pictures])])


def main() -> None:
  parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
  shared = Path(os.environ.get("DPR_SHARED", "../shared"))
  some = f"{shared}/photos,{shared}/reference/dpr/obama.jpg,{ASTRONAUT}"
  parser.add_argument("--photos", default=some, help=f"photos, folders, and the word {ASTRONAUT} for scikit-image's")
  parser.add_argument("--held-out", type=Path, default=shared / "portraits" / "congress", help="a folder")
  parser.add_argument("--held-out-count", type=int, default=40, help="how many portraits that no training saw")
  parser.add_argument("--weights", default="official-512,default", help="networks, as for relight.py")
  parser.add_argument("--lights", default=",".join(PRESETS), help="presets")
  parser.add_argument("--environments", default=",".join(ENVIRONMENTS), help="maps by name, or none")
  parser.add_argument("--environment-folder", type=Path, default=shared / "environments")
  parser.add_argument("--turning", type=int, default=3, help="on how many of the photos the light goes round")
  parser.add_argument("--face_finder", choices=FACE_FINDERS, help="as for relight.py")
  parser.add_argument("--out", type=Path, help="a folder for contact sheets")
  parser.add_argument("--cell", type=int, default=144, help="side of a picture on them")
  parser.add_argument("--photos-a-page", type=int, default=6)
  parser.add_argument("--full", type=Path, help="a folder for single pictures")
  parser.add_argument("--scores", type=Path, help="a JSON file for every single figure")
  arguments = parser.parse_args()
  traced.enable_compilation_cache()
  networks = {name: load_params(name) for name in arguments.weights.split(",")}
  maps = [arguments.environment_folder / f"{name}.hdr" for name in arguments.environments.split(",") if name]
  lights = named_lights([name for name in arguments.lights.split(",") if name], maps)
  found = {name: Measured() for name in networks}
  page, pages = [], 0
  with open_face_finder(arguments.face_finder) as finder:
    for count, sitter in enumerate(sitters(_paths(arguments), finder)):
      relit = {}
      for name, params in networks.items():
        relit[name] = look_at(params, sitter, finder, lights, count < arguments.turning, found[name])
        page.append(
          sheet_row(f"{sitter.name}, {name}", [sitter.pixels, *relit[name].values()], arguments.cell)
          if arguments.out
          else None
        )
      if arguments.full:
        _write_full(arguments.full, sitter, relit)
      if arguments.out and len(page) == arguments.photos_a_page * len(networks):
        pages, page = _write_page(arguments.out, lights, page, pages, arguments.cell), []
  if arguments.out and page:
    _write_page(arguments.out, lights, page, pages, arguments.cell)
  _report(found)
  if arguments.scores:
    arguments.scores.write_text(json.dumps({name: vars(each) for name, each in found.items()}))


def _paths(arguments: argparse.Namespace) -> list[Path | str]:
  paths = []
  for text in arguments.photos.split(","):
    paths += [text] if text == ASTRONAUT else photos([text] if text else [])
  if arguments.held_out_count:
    paths += split_portraits(arguments.held_out)[1][: arguments.held_out_count]
  return paths


def _write_page(folder: Path, lights: Mapping[str, Light], rows: list, number: int, side: int) -> int:
  """Returns the number of the next page."""
  folder.mkdir(parents=True, exist_ok=True)
  page = np.vstack([sheet_head(lights, side), *rows])
  write_photo(folder / f"page_{number + 1:02d}.jpg", Photo(page), overwrite=True)
  return number + 1


def _write_full(folder: Path, sitter: Sitter, relit: Mapping[str, Mapping[str, np.ndarray]]) -> None:
  folder.mkdir(parents=True, exist_ok=True)
  for light in next(iter(relit.values())):
    pictures = {f"{sitter.name}": sitter.pixels} | {f"{light}, {name}": each[light] for name, each in relit.items()}
    cells = [np.vstack([text_strip(title, pixels.shape[1]), pixels]) for title, pixels in pictures.items()]
    name = f"{light.replace(': ', '_')}_{sitter.name}.jpg"
    write_photo(folder / name, Photo(np.hstack(cells)), overwrite=True)


def _print_table(titles: Sequence[str], rows: Sequence[Sequence[str]]) -> None:
  print("| " + " | ".join(titles) + " |\n|" + " --- |" * len(titles))
  for row in rows:
    print("| " + " | ".join(row) + " |")
  print(flush=True)


def _report(found: Mapping[str, Measured]) -> None:
  for name, each in found.items():
    print(f"## {name}, {len(each.asymmetry_given)} photos\n")
    titles = ("light", "brightness", "of single photos", "new black: mean, most", "new burnt: mean, most")
    _print_table(titles, each.rows())
  print("## All lights\n")
  titles = ("brightness of lights", "new black, worst light", "new burnt, worst light")
  titles += ("asymmetry, gray levels: mean, most", "the same, landmarks mirrored")
  titles += ("largest jump over the median, over its neighbours",)
  _print_table(("", *titles), [[name, *each.overall()] for name, each in found.items()])
  print("## Medians, ms\n")
  work = ("encode", "decode", "a new photo", "a new light")
  _print_table(
    ("", *work),
    [[name, *(f"{1000 * statistics.median(each.seconds[key]):.0f}" for key in work)] for name, each in found.items()],
  )


if __name__ == "__main__":
  main()
