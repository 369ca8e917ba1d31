"""Real photographs under known lights: relighting a frontal flash to fourteen other flashes of Extended Yale B.

  python benchmarks/yale_b.py --data=../shared/yale_b --weights=official-512,run

The faces are the cropped ones (Georghiades et al. 2001, Lee et al. 2005; research use only), a folder for each subject,
a file for each flash, named after its azimuth and elevation in degrees: `A+035E-20.png`; positive azimuth lights the
image's left side. The flash at the camera is the source; the same subject's own photo under another one the target.

Networks see the crop in the place where CelebA-HQ's framing would have it. A target light is named in two ways:
`direction`, as a user would write it (azimuth, elevation, ambient 0.3), and `transfer`, the estimate of the network
itself, averaged over six other subjects under that flash. Scores are those of gray levels in [0, 1], over an ellipse on
the face: si-MSE x 1000, and SSIM after the same scaling. Rows without a network: the source itself (identity), and the
ratio image of MediaPipe's mesh, under the light as it is told, and under the lamp that it names with cast shadows.
"""

import argparse
import collections
import json
import os
import re
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import NamedTuple

import cv2
import jax
import numpy as np

from data_gen import face_mesh, light_estimation, normals, relief
from data_gen.synthesis import skin_mask
from dpr_jax import color, metrics, ratio, sh
from dpr_jax.checkpoints import load_params
from dpr_jax.faces import FACE_FINDERS, FaceFinder, open_face_finder
from dpr_jax.hourglass import network_for
from dpr_jax.relighting import decode_luminance, encode_luminance
from dpr_jax.views import Faces, lamps, relight_under

SOURCE = "A+000E+00"
TARGETS = (
  *("A-070E+00", "A-050E+00", "A-035E+15", "A-020E+10", "A+020E+10", "A+035E+15", "A+050E+00", "A+070E+00"),
  *("A+000E+45", "A+000E-20", "A+035E+65", "A-035E+65", "A+035E-20", "A-035E-20"),
)
NAMINGS = ("direction", "transfer")

_HEIGHT, _WIDTH = 192, 168
_SIDE, _TOP, _LEFT = 320, 74, 76  # of the square, and where in it the crop lies
_AMBIENT = 0.3
_OTHERS = 6  # subjects whose estimates are averaged
_SOFTNESS = 0.3  # of the shadows of the rendered lamps
_LEAST_AZIMUTH = 20  # of lights whose side is asked for

_Y, _X = np.mgrid[:_HEIGHT, :_WIDTH]
FACE = ((_Y - 96) / 92) ** 2 + ((_X - 84) / 76) ** 2 <= 1


class Method(NamedTuple):
  """What is compared.

  Attributes:
    estimate: a square `[320, 320]`, and its subject's, under the flash at the camera -> the light `[9]`; or None.
    relight: a square and lights `[T, 9]` -> squares `[T, 320, 320]`.
  """

  estimate: Callable[[np.ndarray, np.ndarray], np.ndarray] | None
  relight: Callable[[np.ndarray, np.ndarray], np.ndarray]


def angles(name: str) -> tuple[int, int]:
  """Azimuth and elevation in degrees: "A+035E-20" -> (35, -20)."""
  return tuple(int(number) for number in re.fullmatch(r"A([+-]\d+)E([+-]\d+)", name).groups())


def read_subject(folder: Path) -> dict[str, np.ndarray]:
  """The photos of a subject that are compared, by flash: gray in [0, 1], `[192, 168]` float32."""
  photos = {}
  for name in (SOURCE, *TARGETS):
    path = folder / f"{name}.png"
    if path.is_file():
      photos[name] = cv2.imread(str(path), cv2.IMREAD_GRAYSCALE).astype(np.float32) / 255
      if photos[name].shape != (_HEIGHT, _WIDTH):
        raise SystemExit(f"{path}: has {photos[name].shape} pixels instead of {_HEIGHT} x {_WIDTH}")
  return photos


def square(photo: np.ndarray) -> np.ndarray:
  """The crop where CelebA-HQ's framing has it, its border repeated outwards: `[320, 320]`."""
  below, right = _SIDE - _TOP - _HEIGHT, _SIDE - _LEFT - _WIDTH
  return cv2.copyMakeBorder(photo, _TOP, below, _LEFT, right, cv2.BORDER_REPLICATE)


def crop(picture: np.ndarray) -> np.ndarray:
  """The inverse of `square`."""
  return picture[_TOP : _TOP + _HEIGHT, _LEFT : _LEFT + _WIDTH]


def luminance_of_gray(gray: np.ndarray) -> np.ndarray:
  """L / 100 of gray sRGB."""
  return color.srgb_to_lab(np.repeat(gray[..., None], 3, axis=-1))[..., 0] / 100


def gray_of_luminance(luminance: np.ndarray) -> np.ndarray:
  """The inverse of `luminance_of_gray`."""
  lab = np.stack([100 * luminance, np.zeros_like(luminance), np.zeros_like(luminance)], axis=-1)
  return color.lab_to_srgb(lab)[..., 1]


def identity() -> Method:
  """Gives back the source."""
  return Method(None, lambda source, lights: np.broadcast_to(source, (len(lights), *source.shape)))


def network(weights: str, size: int | None) -> Method:
  """A relighting network, at a size or at the one that its kind is made for."""
  params = load_params(weights)
  size = size or network_for(params).native_size

  def see(picture):
    picture = np.clip(cv2.resize(picture, (size, size), interpolation=cv2.INTER_CUBIC), 0, 1)
    return encode_luminance(params, luminance_of_gray(picture)[None, ..., None])

  def relight(source, lights):
    encoding = see(source)
    relit = [np.asarray(decode_luminance(params, encoding, light[None], size=(size, size))) for light in lights]
    gray = [gray_of_luminance(luminance[0, ..., 0]) for luminance in relit]
    return np.stack([cv2.resize(picture, (_SIDE, _SIDE), interpolation=cv2.INTER_AREA) for picture in gray])

  return Method(lambda picture, source: np.asarray(see(picture).light)[0], relight)


class Shape(NamedTuple):
  """Normals `[320, 320, 3]`, depth `[320, 320]` and skin `[320, 320]` bool of a subject, whose head keeps its place."""

  normal: np.ndarray
  depth: np.ndarray
  skin: np.ndarray


class RatioImage:
  """The ratio image of MediaPipe's mesh and the constrained fit, on L as the dataset is made."""

  def __init__(self, finder: FaceFinder):
    self._finder = finder
    self._shapes: dict[bytes, Shape] = {}

  def shape(self, source: np.ndarray) -> Shape:
    key = source.tobytes()
    if key not in self._shapes:
      pixels = np.repeat(np.rint(255 * source).astype(np.uint8)[..., None], 3, axis=-1)
      faces = self._finder.find(pixels)
      if not faces:
        raise SystemExit("MediaPipe finds no face in a frontal photo")
      maps = face_mesh.face_maps(pixels, faces[0])
      normal, mask = normals.extend_to_frame(maps)
      self._shapes[key] = Shape(normal, relief.extend_to_frame(maps), skin_mask(maps, mask))
    return self._shapes[key]

  def estimate(self, picture: np.ndarray, source: np.ndarray) -> np.ndarray:
    shape = self.shape(source)
    return light_estimation.estimate_light(luminance_of_gray(picture), shape.normal, shape.skin)

  def relight(self, source: np.ndarray, lights: np.ndarray) -> np.ndarray:
    light = self.estimate(source, source)
    return gray_of_luminance(
      ratio.relight_luminance(luminance_of_gray(source), self.shape(source).normal, light, lights)
    )

  def relight_by_lamps(self, source: np.ndarray, lights: np.ndarray) -> np.ndarray:
    """As `relight`, under the lamps whose lobes the lights are (`views.lamps`)."""
    shape = self.shape(source)
    face = Faces(
      luminance=luminance_of_gray(source)[None, ..., None],
      normal=shape.normal[None],
      depth=shape.depth[None, ..., None],
      mask=np.ones((1, _SIDE, _SIDE, 1), np.float32),
      framing=np.float32([[1, 0, 0]]),
      source_light=self.estimate(source, source)[None],
    )
    band1 = lights[:, [3, 1, 2]]
    length = np.linalg.norm(band1, axis=-1)
    # The inverse of `sh.directional`, whose band 1 without even light is 2 / sqrt(3) of the first coefficient.
    even = np.clip(1 - length / lights[:, 0] * np.sqrt(3) / 2, 0, 1)
    lamp = lamps(band1 / length[:, None], even, lights[:, 0], np.full(len(lights), _SOFTNESS, np.float32))
    relit = _relight_under(face, jax.tree.map(lambda leaf: leaf[:, None], lamp))
    return gray_of_luminance(np.asarray(relit)[:, 0, ..., 0])


_relight_under = jax.jit(relight_under)


def scores(prediction: np.ndarray, target: np.ndarray) -> dict[str, float]:
  """si-MSE x 1000, and SSIM after the same scaling."""
  scale = np.sum(prediction * target, where=FACE) / max(np.sum(prediction**2, where=FACE), 1e-12)
  return {
    "si_mse": 1000 * float(metrics.si_mse(prediction=prediction, target=target, mask=FACE)),
    "ssim": float(metrics.ssim(prediction=scale * prediction, target=target, mask=FACE)),
  }


def evaluate(method: Method, subjects: Mapping[str, Mapping[str, np.ndarray]]) -> dict[str, list[dict]]:
  """Every source relit to every target: for each naming a list of scores with subject and flash; and `lights`."""
  rows = collections.defaultdict(list)
  squares = {subject: {flash: square(photo) for flash, photo in photos.items()} for subject, photos in subjects.items()}
  estimates = {}
  if method.estimate:
    for subject, photos in squares.items():
      estimates[subject] = {flash: method.estimate(photo, photos[SOURCE]) for flash, photo in photos.items()}
      rows["lights"] += [{"subject": subject, "flash": f, "light": e.tolist()} for f, e in estimates[subject].items()]
  for subject, photos in squares.items():
    flashes = [flash for flash in TARGETS if flash in photos]
    lights = {"direction": [sh.directional(sh.direction(*angles(flash)), _AMBIENT) for flash in flashes]}
    if method.estimate:
      lights["transfer"] = [_transferred(estimates, subject, flash) for flash in flashes]
    for naming, told in lights.items():
      relit = method.relight(photos[SOURCE], np.stack(told).astype(np.float32))
      for flash, picture in zip(flashes, relit, strict=True):
        score = scores(crop(picture), crop(photos[flash]))
        rows[naming].append({"subject": subject, "flash": flash, **score})
  return dict(rows)


def _transferred(estimates: Mapping[str, Mapping[str, np.ndarray]], subject: str, flash: str) -> np.ndarray:
  """The mean estimate of a flash over the next subjects in the row, which has no end."""
  names = list(estimates)
  start = names.index(subject) + 1
  others = [name for name in names[start:] + names[: start - 1] if flash in estimates[name]]
  return np.mean([estimates[name][flash] for name in others[:_OTHERS]], axis=0)


def means(rows: list[dict], score: str) -> dict[str, float]:
  """The mean of a score, over all pairs and for each flash."""
  by_flash = collections.defaultdict(list)
  for row in rows:
    by_flash[row["flash"]].append(row[score])
  return {"all": float(np.mean([row[score] for row in rows])), **{f: float(np.mean(by_flash[f])) for f in TARGETS}}


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
  parser.add_argument("--no-baselines", action="store_true", help="networks only")
  parser.add_argument("--out", type=Path, help="a JSON file for every single score")
  arguments = parser.parse_args()
  folders = sorted(folder for folder in arguments.data.iterdir() if folder.is_dir())
  subjects = {folder.name: read_subject(folder) for folder in folders}
  results = {}
  with open_face_finder(arguments.face_finder) as finder:
    methods = {}
    if not arguments.no_baselines:
      baseline = RatioImage(finder)
      methods = {
        "identity": identity,
        "ratio image": lambda: Method(baseline.estimate, baseline.relight),
        "ratio image, lamps": lambda: Method(baseline.estimate, baseline.relight_by_lamps),
      }
    for weights in arguments.weights.split(","):
      methods[weights] = lambda weights=weights: network(weights, arguments.size)
    for name, make in methods.items():
      results[name] = evaluate(make(), subjects)
  _report(results, len(subjects))
  if arguments.out:
    arguments.out.write_text(json.dumps(results))


def _report(results: dict[str, dict[str, list[dict]]], count: int) -> None:
  rows, by_flash = [], []
  for name, result in results.items():
    for naming in NAMINGS:
      if naming not in result:
        continue
      si_mse, ssim = (means(result[naming], score) for score in ("si_mse", "ssim"))
      rows.append([name, naming, f"{si_mse['all']:.2f}", f"{ssim['all']:.3f}"])
      by_flash.append([name, naming, *(f"{si_mse[f]:.1f} / {ssim[f]:.2f}" for f in TARGETS)])
  print(f"## {count} subjects, si-MSE x 1000 and SSIM\n")
  _print_table(["", "light named by", "si-MSE x 1000", "SSIM"], rows)
  _print_table(["", "light named by", *TARGETS], by_flash)
  seen = {name: light_scores(result["lights"]) for name, result in results.items() if "lights" in result}
  print(f"## Lights as they are estimated (sides: beyond {_LEAST_AZIMUTH} degrees of azimuth)\n")
  _print_table(
    ["", "side right", "direction, degrees: mean", "median"],
    [
      [name, f"{s['lit_side_right']:.1%}", f"{s['angle_mean']:.1f}", f"{s['angle_median']:.1f}"]
      for name, s in seen.items()
    ],
  )


if __name__ == "__main__":
  main()
