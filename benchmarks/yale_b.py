"""Real photographs under known lights: relighting a frontal flash to fourteen other flashes of Extended Yale B.

  python benchmarks/yale_b.py --data=../shared/yale_b --weights=official-512,run

The faces are the cropped ones (Georghiades et al. 2001, Lee et al. 2005; research use only), a folder for each subject,
a file for each flash, named after its azimuth and elevation in degrees: `A+035E-20.png`; positive azimuth lights the
image's left side. The flash at the camera is the source; the same subject's own photo under another one is the target.

The camera was linear: its gray levels are proportional to light. They are encoded as sRGB before anything sees them,
and scores are taken in L / 100, as the eye sees. `--as_stored` takes the gray levels for sRGB, scores included, as
older figures of this benchmark did.

Networks see the crop in the place where CelebA-HQ's framing would have it. A target light is named in these ways:

- `fill 0` and `fill 0.05`: by direction, as a lamp of 5 degrees with so much even light beside it. Our network gets
  that light, a published one the nine numbers that say it (`light.told`).
- `ambient 0.3`: by direction, for published networks only: the nine numbers of `sh.directional`, which suit them best.
- `transfer`: the estimate of the network itself, averaged over six other subjects under that flash.

What is left of the old light is asked of the photos under flashes from 35 degrees of azimuth on: the share of the
difference between the cheeks, beyond that under the flash at the camera, that remains under even light.

By direction our network keeps the key of the photo; by transfer the picture is as bright as the estimate says.

Scores are those of L / 100 over an ellipse on the face: si-MSE x 1000, SSIM after the same scaling, L1 without any
scaling, and brightness, the mean of the relit picture over that of the true one. Methods without a network: the source
itself (identity), and ratio images of MediaPipe's mesh in linear light, whose source light is fitted: with soft target
lights of nine numbers, and with lamps that cast shadows, the source light fitted or known to be the flash.
"""

import argparse
import collections
import functools
import json
import os
import re
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import NamedTuple

import cv2
import jax
import numpy as np

from data_gen import face_mesh, light_estimation, normals, relief
from data_gen.synthesis import skin_mask
from dpr_jax.image import color, ratio
from dpr_jax.light import exposure, sh
from dpr_jax.light import light as light_module
from dpr_jax.light.light import Light
from dpr_jax.light.shading import face_shading
from dpr_jax.network import traced
from dpr_jax.network.networks import network_for
from dpr_jax.network.ratio_network import RatioHourglassNet
from dpr_jax.network.weights import load_params
from dpr_jax.portrait.face_finders import FACE_FINDERS, open_face_finder
from dpr_jax.portrait.faces import Face, FaceFinder, Framing
from dpr_jax.portrait.landmark_mesh import mesh_surface
from dpr_jax.portrait.relighting import decode_luminance, encode_luminance
from dpr_jax.train import metrics

SOURCE = "A+000E+00"
TARGETS = (
  *("A-070E+00", "A-050E+00", "A-035E+15", "A-020E+10", "A+020E+10", "A+035E+15", "A+050E+00", "A+070E+00"),
  *("A+000E+45", "A+000E-20", "A+035E+65", "A-035E+65", "A+035E-20", "A-035E-20"),
)
FROM_THE_SIDE = (*TARGETS[:3], *TARGETS[5:8], *TARGETS[-2:])
# For each score how it is titled and written.
SCORES = {
  "si_mse": ("si-MSE x 1000", ".2f"),
  "ssim": ("SSIM", ".3f"),
  "l1": ("L1", ".3f"),
  "brightness": ("brightness, relit / true", ".2f"),
}
TRANSFER = "transfer"
REFERENCE = "official-512"

_HEIGHT, _WIDTH = 192, 168
_SIDE, _TOP, _LEFT = 320, 74, 76  # of the square, and where in it the crop lies
_WHOLE = Framing(np.eye(2, 3), 0.0, _SIDE)  # the square as it is
_FLASH_SIZE = 5.0  # degrees
_AMBIENT = 0.3
_OTHERS = 6  # subjects whose estimates are averaged
_LEAST_AZIMUTH = 20  # of lights whose side is asked for
_CHEEKS = np.s_[104:132, 34:58], np.s_[104:132, 110:134]  # of the crop, in which eyes lie at the same places
_MOST_STOPS = 6.0  # by which a baseline's ratio image is made brighter or darker

_Y, _X = np.mgrid[:_HEIGHT, :_WIDTH]
FACE = ((_Y - 96) / 92) ** 2 + ((_X - 84) / 76) ** 2 <= 1


def angles(flash: str) -> tuple[int, int]:
  """Azimuth and elevation in degrees: "A+035E-20" -> (35, -20)."""
  return tuple(int(number) for number in re.fullmatch(r"A([+-]\d+)E([+-]\d+)", flash).groups())


def flash_light(flash: str, fill: float) -> Light:
  """A flash as a lamp of irradiance 1, and even light beside it, whose irradiance is `fill`; gray."""
  return light_module.even_light(fill)._replace(
    towards=sh.direction(*angles(flash))[None],
    irradiance=np.ones((1, 1), np.float32),
    size=np.full(1, _FLASH_SIZE, np.float32),
  )


# A flash -> its light, by the name of the way in which it is named.
DIRECTIONS: dict[str, Callable[[str], Light]] = {
  "fill 0": lambda flash: flash_light(flash, 0.0),
  "fill 0.05": lambda flash: flash_light(flash, 0.05),
  "ambient 0.3": lambda flash: light_module.soft_light(sh.directional(sh.direction(*angles(flash)), _AMBIENT)),
}
# Methods that are given lamps, and those that are given nine numbers which were made for the published networks.
_LAMPS, _PUBLISHED = ("fill 0", "fill 0.05"), tuple(DIRECTIONS)

# A light, and by how many stops the key of the face gets brighter (None: as bright as the light says) -> the relit
# square `[320, 320]`.
Relight = Callable[[Light, float | None], np.ndarray]


class Method(NamedTuple):
  """What is compared. Pictures are gray, sRGB-encoded, in [0, 1]; lights are gray and have no leading axes.

  Attributes:
    directions: those of `DIRECTIONS` that it is given; empty: it knows nothing of a light.
    estimate: a square `[320, 320]`, and its subject's under the flash at the camera -> the light; None: not asked.
    open: a square to be relit, and its subject's under the flash at the camera -> how to relight it.
  """

  directions: Sequence[str]
  estimate: Callable[[np.ndarray, np.ndarray], Light] | None
  open: Callable[[np.ndarray, np.ndarray], Relight]


def read_subject(folder: Path, *, as_stored: bool = False) -> dict[str, np.ndarray]:
  """The photos of a subject that are compared, by flash: gray, sRGB-encoded, in [0, 1], `[192, 168]` float32.

  Args:
    folder: of the subject.
    as_stored: the gray levels are taken for sRGB instead of linear light.
  """
  photos = {}
  for name in (SOURCE, *TARGETS):
    path = folder / f"{name}.png"
    if path.is_file():
      photo = cv2.imread(str(path), cv2.IMREAD_GRAYSCALE).astype(np.float32) / 255
      if photo.shape != (_HEIGHT, _WIDTH):
        raise SystemExit(f"{path}: has {photo.shape} pixels instead of {_HEIGHT} x {_WIDTH}")
      photos[name] = photo if as_stored else color.delinearise(photo)
  return photos


def square(photo: np.ndarray) -> np.ndarray:
  """The crop where CelebA-HQ's framing has it, its border repeated outwards: `[320, 320]`."""
  below, right = _SIDE - _TOP - _HEIGHT, _SIDE - _LEFT - _WIDTH
  return cv2.copyMakeBorder(photo, _TOP, below, _LEFT, right, cv2.BORDER_REPLICATE)


def crop(picture: np.ndarray) -> np.ndarray:
  """The inverse of `square`."""
  return picture[_TOP : _TOP + _HEIGHT, _LEFT : _LEFT + _WIDTH]


def lightness_of_gray(gray: np.ndarray) -> np.ndarray:
  """L / 100 of gray sRGB in [0, 1]."""
  return color.lightness_of_luminance(color.linearise(gray))


def gray_of_lightness(lightness: np.ndarray) -> np.ndarray:
  """The inverse of `lightness_of_gray`; what leaves [0, 1] is clipped."""
  return color.delinearise(np.clip(color.luminance_of_lightness(lightness), 0, 1))


def identity() -> Method:
  """Gives back the source."""
  return Method((), None, lambda picture, source: lambda light, stops: picture)


FindFace = Callable[[np.ndarray], Face]


def face_finding(finder: FaceFinder) -> FindFace:
  """How to find the face of a frontal photo, a square `[320, 320]`; each is looked at once."""
  found: dict[bytes, Face] = {}

  def find(source: np.ndarray) -> Face:
    key = source.tobytes()
    if key not in found:
      faces = finder.find(_pixels_of(source))
      if not faces:
        raise SystemExit("no face was found in a frontal photo")
      found[key] = faces[0]
    return found[key]

  return find


def _pixels_of(source: np.ndarray) -> np.ndarray:
  """A square `[320, 320]` as a photo, `[320, 320, 3]` uint8."""
  return np.repeat(np.rint(255 * source).astype(np.uint8)[..., None], 3, axis=-1)


def network(weights: str, size: int | None, find: FindFace) -> Method:
  """A relighting network, at a size or at the one that its kind is made for."""
  params = load_params(weights)
  kind = network_for(params)
  size = size or kind.native_size
  knows_shape = isinstance(kind, RatioHourglassNet)
  directions = _LAMPS if knows_shape else _PUBLISHED

  def encode(picture, source):
    picture = np.clip(cv2.resize(picture, (size, size), interpolation=cv2.INTER_CUBIC), 0, 1)
    # As `Portrait` does it: the landmarks are a second opinion on the shape.
    surface = [mesh_surface(find(source), _WHOLE, size // kind.shape_cell)] if knows_shape else []
    return encode_luminance(params, lightness_of_gray(picture)[None, ..., None], *surface)

  def estimate(picture, source):
    own = jax.tree.map(lambda part: np.asarray(part)[0], encode(picture, source).light)
    return light_module.as_light(own)

  def open_picture(picture, source):
    encoding = encode(picture, source)

    def relight(light, stops):
      batch = jax.tree.map(lambda part: part[None], light)
      relit = decode_luminance(params, encoding, batch, size=(size, size), exposure_stops=stops)
      return cv2.resize(gray_of_lightness(np.asarray(relit)[0, ..., 0]), (_SIDE, _SIDE), interpolation=cv2.INTER_AREA)

    return relight

  return Method(directions, estimate, open_picture)


class Shape(NamedTuple):
  """Normals `[320, 320, 3]`, depth `[320, 320]` and skin `[320, 320]` bool of a subject, whose head keeps its place."""

  normal: np.ndarray
  depth: np.ndarray
  skin: np.ndarray


class RatioImages:
  """The ratio images of MediaPipe's mesh, in linear light."""

  def __init__(self, find: FindFace):
    self._find = find
    self._shapes: dict[bytes, Shape] = {}

  def methods(self) -> dict[str, Method]:
    """The methods by their names."""
    return {
      "ratio image": Method(_LAMPS, self.estimate, functools.partial(self._open, shading=_soft_shading)),
      "ratio image, lamps": Method(_LAMPS, None, functools.partial(self._open, shading=_lamp_shading)),
      "ratio image, lamps, source known": Method(
        _LAMPS, None, functools.partial(self._open, shading=_lamp_shading, source_known=True)
      ),
    }

  def shape(self, source: np.ndarray) -> Shape:
    """The shape of the subject of a frontal photo, a square `[320, 320]`."""
    key = source.tobytes()
    if key not in self._shapes:
      maps = face_mesh.face_maps(_pixels_of(source), self._find(source))
      normal, mask = normals.extend_to_frame(maps)
      self._shapes[key] = Shape(normal, relief.extend_to_frame(maps), skin_mask(maps, mask))
    return self._shapes[key]

  def estimate(self, picture: np.ndarray, source: np.ndarray) -> Light:
    """The fitted light of a square, as bright as the photo: as if the albedo of the skin were 1."""
    shape, luminance = self.shape(source), color.linearise(picture)
    light = light_estimation.estimate_light(luminance, shape.normal, shape.skin)
    return light_module.soft_light(light * luminance[shape.skin].mean())

  def _open(self, picture: np.ndarray, source: np.ndarray, shading, source_known: bool = False) -> Relight:
    shape, luminance = self.shape(source), color.linearise(picture)
    own = None if source_known else self.estimate(picture, source)
    skin = shape.skin.astype(np.float32)

    def relight(light, stops):
      # Of a source that is known, the flash at the camera has the same even light beside it as the target.
      before = own or light._replace(towards=sh.direction(*angles(SOURCE))[None])
      shadings = [np.asarray(shading(shape, each)) for each in (before, light)]
      change = np.clip(
        ratio.of_shadings(ratio.fill_dark(shadings[0]), shadings[1]), 2.0**-_MOST_STOPS, 2.0**_MOST_STOPS
      )
      relit = luminance * change
      if stops is not None:
        relit *= 2**stops * exposure.key(luminance, skin) / exposure.key(relit, skin)
      return color.delinearise(np.clip(relit, 0, 1))

    return relight


def _soft_shading(shape: Shape, light: Light) -> np.ndarray:
  """`[320, 320]`: what nine numbers say of a light, lamps included, without cast shadows."""
  return light_module.shading(light_module.soft_light(light_module.harmonics(light)), shape.normal)[..., 0]


def _lamp_shading(shape: Shape, light: Light) -> jax.Array:
  """`[320, 320]`: with lamps and their shadows."""
  return _face_shading(shape.normal, shape.depth, shape.skin.astype(np.float32), light)[..., 0]


_face_shading = jax.jit(face_shading)


def scores(prediction: np.ndarray, target: np.ndarray) -> dict[str, float]:
  """The scores of `SCORES` of a picture `[192, 168]` in [0, 1] against the true one, over the face."""
  scale = np.sum(prediction * target, where=FACE) / max(np.sum(prediction**2, where=FACE), 1e-12)
  return {
    "si_mse": 1000 * float(metrics.si_mse(prediction=prediction, target=target, mask=FACE)),
    "ssim": float(metrics.ssim(prediction=scale * prediction, target=target, mask=FACE)),
    "l1": float(metrics.l1(prediction=prediction, target=target, mask=FACE)),
    "brightness": float(np.mean(prediction, where=FACE) / np.mean(target, where=FACE)),
  }


def evaluate(
  method: Method, subjects: Mapping[str, Mapping[str, np.ndarray]], *, as_stored: bool = False
) -> dict[str, list[dict]]:
  """Every source relit to every target.

  Args:
    method: what relights.
    subjects: the photos of each subject by flash, from `read_subject`.
    as_stored: scores are those of gray sRGB instead of L / 100.

  Returns:
    For each way to name a light a list of scores with subject and flash; as `lights` the lights that were estimated,
    as nine numbers; and as `even` what `under_even_light` gives. The scores of a method that knows nothing of a light
    are those of "".
  """
  rows = collections.defaultdict(list)
  compared = (lambda gray: gray) if as_stored else lightness_of_gray
  squares = {subject: {flash: square(photo) for flash, photo in photos.items()} for subject, photos in subjects.items()}
  estimates = {}
  if method.estimate:
    for subject, photos in squares.items():
      estimates[subject] = {flash: method.estimate(photo, photos[SOURCE]) for flash, photo in photos.items()}
      rows["lights"] += [
        {"subject": subject, "flash": flash, "light": light_module.harmonics(light)[0].tolist()}
        for flash, light in estimates[subject].items()
      ]
  for subject, photos in squares.items():
    relight = method.open(photos[SOURCE], photos[SOURCE])
    if method.estimate:
      rows["even"] += [{"subject": subject} | row for row in under_even_light(method, photos)]
    for flash in (flash for flash in TARGETS if flash in photos):
      named = {name: (DIRECTIONS[name](flash), 0.0) for name in method.directions} or {"": (None, None)}
      if method.estimate:
        named[TRANSFER] = transferred(estimates, subject, flash), None
      for naming, (light, stops) in named.items():
        relit = crop(relight(light, stops))
        score = scores(compared(relit), compared(crop(photos[flash])))
        rows[naming].append({"subject": subject, "flash": flash, **score})
  return dict(rows)


def under_even_light(method: Method, photos: Mapping[str, np.ndarray]) -> list[dict]:
  """What is left of the light of photos that are lit from the side.

  Args:
    method: what relights.
    photos: the squares of a subject by flash.

  Returns:
    For each such flash a dict: `flash`, and as `left` the share of the cheeks' difference that remains.
  """
  rows, albedo = [], unevenness(photos[SOURCE])
  for flash in (flash for flash in FROM_THE_SIDE if flash in photos):
    relit = method.open(photos[flash], photos[SOURCE])(light_module.even_light(), 0.0)
    before, after = (unevenness(each) - albedo for each in (photos[flash], relit))
    rows.append({"flash": flash, "left": abs(after / before)})
  return rows


def unevenness(square: np.ndarray) -> float:
  """By how much one cheek of a square `[320, 320]` is brighter than the other in linear light, a natural logarithm."""
  first, second = (float(np.median(color.linearise(crop(square)[cheek]))) for cheek in _CHEEKS)
  return float(np.log(max(first, 1e-4)) - np.log(max(second, 1e-4)))


def transferred(estimates: Mapping[str, Mapping[str, Light]], subject: str, flash: str) -> Light:
  """The mean estimate of a flash over the next subjects in the row, which has no end."""
  names = list(estimates)
  start = names.index(subject) + 1
  others = [name for name in names[start:] + names[: start - 1] if flash in estimates[name]]
  return mean_light([estimates[name][flash] for name in others[:_OTHERS]])


def mean_light(lights: Sequence[Light]) -> Light:
  """The mean of gray lights with equally many lamps: of lamps, that of the vectors as long as their irradiance."""
  lamps = np.mean([light.towards * light.irradiance for light in lights], axis=0)
  irradiance = np.linalg.norm(lamps, axis=-1, keepdims=True)
  return Light(
    soft=np.mean([light.soft for light in lights], axis=0),
    towards=lamps / np.maximum(irradiance, 1e-9),
    irradiance=irradiance,
    size=np.mean([light.size for light in lights], axis=0),
  )


def means(rows: list[dict], score: str) -> dict[str, float]:
  """The mean of a score, over all pairs and for each flash."""
  by_flash = collections.defaultdict(list)
  for row in rows:
    by_flash[row["flash"]].append(row[score])
  return {
    "all": float(np.mean([row[score] for row in rows])),
    **{flash: float(np.mean(by_flash[flash])) for flash in TARGETS if flash in by_flash},
  }


def light_scores(lights: list[dict]) -> dict[str, float]:
  """How well flashes beyond 20 degrees of azimuth are seen: share of sides that are right, and angular errors."""
  sides, errors = [], []
  for row in lights:
    azimuth, elevation = angles(row["flash"])
    if row["flash"] == SOURCE:
      continue
    light, truth = np.array(row["light"]), sh.directional(sh.direction(azimuth, elevation), _AMBIENT).astype(float)
    errors.append(float(metrics.light_angle(prediction=light, target=truth)))
    if abs(azimuth) > _LEAST_AZIMUTH:
      sides.append(light[3] * truth[3] > 0)
  return {
    "lit_side_right": float(np.mean(sides)),
    "angle_mean": float(np.mean(errors)),
    "angle_median": float(np.median(errors)),
  }


def better_flashes(result: Mapping[str, list[dict]], reference: Mapping[str, list[dict]], naming: str) -> dict:
  """On which flashes a method is better than a reference, which is taken by its best naming of the same kind.

  Args:
    result: of the method, from `evaluate`.
    reference: of the reference.
    naming: of the method. Its kind is `transfer`, or by direction.

  Returns:
    For "si_mse" and "ssim" the flashes, and as "worse" those of them all that have the larger si-MSE, in order.
  """
  rivals = [TRANSFER] if naming == TRANSFER else [name for name in DIRECTIONS if name in reference]
  better = {}
  for score, sign in (("si_mse", 1), ("ssim", -1)):
    own, theirs = means(result[naming], score), [means(reference[name], score) for name in rivals]
    flashes = [flash for flash in TARGETS if flash in own]
    better[score] = [flash for flash in flashes if sign * own[flash] < min(sign * each[flash] for each in theirs)]
  better["worse"] = [flash for flash in flashes if flash not in better["si_mse"]]
  return better


def _print_table(titles: list[str], rows: list[list]) -> None:
  print("| " + " | ".join(titles) + " |\n|" + " --- |" * len(titles))
  for row in rows:
    print("| " + " | ".join(map(str, row)) + " |")
  print(flush=True)


def main() -> None:
  parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
  shared = Path(os.environ.get("DPR_SHARED", "../shared"))
  parser.add_argument("--data", type=Path, default=shared / "yale_b", help="the folder of subjects")
  parser.add_argument("--weights", default="official-512,default", help="networks, as for relight.py")
  parser.add_argument("--face_finder", choices=FACE_FINDERS, help="as for relight.py")
  parser.add_argument("--size", type=int, help="side of what networks see, where they were trained at another one")
  parser.add_argument("--subjects", type=int, help="so many of them only; transfer needs two at least")
  parser.add_argument("--as_stored", action="store_true", help="take gray levels for sRGB, which they are not")
  parser.add_argument("--no-baselines", action="store_true", help="networks only")
  parser.add_argument("--out", type=Path, help="a JSON file for every single score")
  arguments = parser.parse_args()
  traced.enable_compilation_cache()
  folders = sorted(folder for folder in arguments.data.iterdir() if folder.is_dir())[: arguments.subjects]
  subjects = {folder.name: read_subject(folder, as_stored=arguments.as_stored) for folder in folders}
  results = {}
  with open_face_finder(arguments.face_finder) as finder:
    find = face_finding(finder)
    baselines = {} if arguments.no_baselines else {"identity": identity(), **RatioImages(find).methods()}
    for name, method in baselines.items():
      results[name] = evaluate(method, subjects, as_stored=arguments.as_stored)
    for weights in arguments.weights.split(","):
      results[weights] = evaluate(network(weights, arguments.size, find), subjects, as_stored=arguments.as_stored)
  _report(results, len(subjects), as_stored=arguments.as_stored)
  if arguments.out:
    arguments.out.write_text(json.dumps(results))


def _report(results: dict[str, dict[str, list[dict]]], count: int, *, as_stored: bool) -> None:
  rows, by_flash = [], []
  for name, result in results.items():
    for naming in ("", *DIRECTIONS, TRANSFER):
      if naming not in result:
        continue
      found = {score: means(result[naming], score) for score in SCORES}
      rows.append([name, naming, *(format(found[score]["all"], form) for score, (_, form) in SCORES.items())])
      flashes = [f"{found['si_mse'][f]:.1f} / {found['ssim'][f]:.2f}" if f in found["ssim"] else "" for f in TARGETS]
      by_flash.append([name, naming, *flashes])
  print(f"## {count} subjects, gray levels taken for {'sRGB' if as_stored else 'linear light, compared in L'}\n")
  _print_table(["", "light named by", *(title for title, _ in SCORES.values())], rows)
  print("## By flash: si-MSE x 1000 / SSIM\n")
  _print_table(["", "light named by", *TARGETS], by_flash)
  if REFERENCE in results:
    _report_wins(results)
  seen = {name: light_scores(result["lights"]) for name, result in results.items() if "lights" in result}
  print(f"## Lights as they are estimated (sides: beyond {_LEAST_AZIMUTH} degrees of azimuth)\n")
  _print_table(
    ["", "side right", "direction, degrees: mean", "median"],
    [
      [name, f"{s['lit_side_right']:.1%}", f"{s['angle_mean']:.1f}", f"{s['angle_median']:.1f}"]
      for name, s in seen.items()
    ],
  )
  _report_even(results)


def _report_even(results: dict[str, dict[str, list[dict]]]) -> None:
  """Prints what even light leaves of flashes from the side."""
  print("## What is left of the difference of the cheeks under even light, by flash from the side\n")
  rows = []
  for name, result in results.items():
    left = {flash: [row["left"] for row in result.get("even", ()) if row["flash"] == flash] for flash in FROM_THE_SIDE}
    values = [value for each in left.values() for value in each]
    if values:
      cells = (np.mean(values), np.median(values), *(np.mean(each) if each else np.nan for each in left.values()))
      rows.append([name, *(f"{cell:.2f}" for cell in cells)])
  _print_table(["", "mean", "median", *FROM_THE_SIDE], rows)


def _report_wins(results: dict[str, dict[str, list[dict]]]) -> None:
  """Prints on how many flashes each method is better than the reference network."""
  print(f"## On how many of the {len(TARGETS)} flashes a method is better than {REFERENCE}\n")
  print(f"By direction {REFERENCE} has, on each flash, the best of its namings; by transfer its transfer.\n")
  rows = []
  for name, result in results.items():
    for naming in (*DIRECTIONS, TRANSFER):
      if name != REFERENCE and naming in result:
        better = better_flashes(result, results[REFERENCE], naming)
        rows.append([name, naming, len(better["si_mse"]), len(better["ssim"]), " ".join(better["worse"]) or "none"])
  _print_table(["", "light named by", "by si-MSE", "by SSIM", "not by si-MSE"], rows)


if __name__ == "__main__":
  main()
