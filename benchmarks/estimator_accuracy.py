"""How right the estimates behind a dataset are: the normals of MediaPipe's mesh, and the light of a photo.

python benchmarks/estimator_accuracy.py
python benchmarks/estimator_accuracy.py --faces=100 --network
python benchmarks/estimator_accuracy.py --faces=0 --portraits=FOLDER

Procedural faces know their normals and their light. They are rendered three times: as the paper's model has it, shading
times the L of Lab; in linear light, shading times albedo; and as a camera sees them, in linear light under a lamp with
cast shadows and a soft fill, both kept off by the head itself, and with shine. A folder of frontal portraits shows the
lean of MediaPipe's depth: nobody knows the normals there, but on average people don't look at the ground.
"""

import collections
import contextlib
from collections.abc import Iterator
from pathlib import Path
from typing import NamedTuple
from unittest import mock

import numpy as np
from absl import app, flags

from data_gen import face_mesh, srgb
from data_gen.face_maps import FaceMaps, Label
from data_gen.light_estimation import Estimator, estimate_light, make_estimator
from data_gen.normals import extend_to_frame
from data_gen.portraits import FramedPortrait, ProceduralFaces, Truth, generator
from data_gen.procedural_faces import Lamp, draw_face, geometry, radiance
from data_gen.synthesis import Settings, denoise, luminance_of, skin_mask
from data_gen.target_lights import BuiltInLights
from dpr_jax.base.errors import BadInput
from dpr_jax.image import ratio
from dpr_jax.image.photo import read_photo, to_8_bits
from dpr_jax.image.photo_formats import PHOTO_SUFFIXES
from dpr_jax.light import sh
from dpr_jax.light.light import LUMINANCE_WEIGHTS
from dpr_jax.portrait import landmark_mesh
from dpr_jax.portrait.faces import Face
from dpr_jax.portrait.mediapipe_faces import MediaPipeFaceFinder

_FACES = flags.DEFINE_integer("faces", 40, "how many procedural faces; 0 leaves them out", lower_bound=0)
_SEED = flags.DEFINE_integer("seed", 0, "of the procedural faces and their lights")
_NETWORK = flags.DEFINE_bool("network", False, "estimate lights with the official 512 network too")
_PORTRAITS = flags.DEFINE_string("portraits", None, "a folder of frontal portraits, for the lean of MediaPipe's depth")

_SIZE = 512
_LEANS = {"MediaPipe": 0.0, "straightened": landmark_mesh.LEAN}
_CAMERA = "camera"
_KINDS = {"L x shading": "published", "linear light": "linear"}  # of ratio, by the model of a photo
_MODELS = (*_KINDS, _CAMERA)
# Of the camera's photos, evenly drawn: azimuth and elevation of the lamp, the radius of its disc in degrees, and the
# mean shading by the fill over that of a surface that faces the lamp.
_LAMP_AZIMUTH, _LAMP_ELEVATION, _LAMP_SOFTNESS, _FILL = (-75, 75), (-15, 60), (1, 8), (0.08, 0.8)
_BRIGHTEST = 0.6  # linear luminance that the brightest hundredth of head and neck gets
_MOST_EXPOSURE = 3.0


class LightError(NamedTuple):
  """Of one estimate.

  Attributes:
    degrees: between the dominant directions, which band 1 gives.
    shading: root mean square of the difference over the skin, each shading divided by its mean.
  """

  degrees: float
  shading: float


def _elevation(normals: np.ndarray) -> float:
  """Degrees by which the mean of normals `[N, 3]` points up."""
  x, y, z = normals.mean(axis=0, dtype=np.float64)
  return float(np.degrees(np.arctan2(z, np.hypot(x, y))))


def _angles(first: np.ndarray, second: np.ndarray) -> np.ndarray:
  """Degrees between vectors `[..., 3]`."""
  product = np.linalg.norm(first, axis=-1) * np.linalg.norm(second, axis=-1)
  return np.degrees(np.arccos(np.clip(np.sum(first * second, axis=-1) / product, -1, 1)))


def _mean_and_sd(values: list[float]) -> list[float]:
  return [float(np.mean(values)), float(np.std(values))]


def _print_table(titles: list[str], rows: list[list]) -> None:
  print("| " + " | ".join(titles) + " |\n|" + " --- |" * len(titles))
  for row in rows:
    print("| " + " | ".join(cell if isinstance(cell, str) else f"{cell:.2f}" for cell in row) + " |")
  print(flush=True)


# ---------------------------------------------------------------------------------------------------------------------
# The lean of MediaPipe's depth.


def _print_lean(folder: Path) -> None:
  elevations, pitches = collections.defaultdict(list), collections.defaultdict(list)
  for pixels, face in _faces_of_photos(folder):
    for name, lean in _LEANS.items():
      with mock.patch.object(landmark_mesh, "LEAN", lean):
        elevations[name].append(_visible_elevation(pixels, face))
        pitches[name].append(face_mesh.head_pose(face).pitch)
  rows = [[name, *_mean_and_sd(elevations[name]), *_mean_and_sd(pitches[name])] for name in elevations]
  with mock.patch.object(landmark_mesh, "LEAN", 0.0):
    rows.append(["canonical face", _visible_elevation(*_canonical()), "", 0.0, ""])
  count = max(map(len, elevations.values()), default=0)
  print(f"## Elevation of the mean visible normal: {count} portraits of {folder.name}, degrees\n")
  _print_table(["depth", "elevation", "sd", "pitch of the head", "sd"], rows)


def _faces_of_photos(folder: Path) -> Iterator[tuple[np.ndarray, Face]]:
  """Photos with one face, and that face."""
  with MediaPipeFaceFinder() as finder:
    for path in sorted(path for path in folder.iterdir() if path.suffix.lower() in PHOTO_SUFFIXES):
      pixels = to_8_bits(read_photo(path).pixels)
      found = finder.find(pixels)
      if len(found) == 1:
        yield pixels, found[0]


def _visible_elevation(pixels: np.ndarray, face: Face) -> float:
  maps = face_mesh.face_maps(pixels, face)
  return _elevation(maps.normal[maps.label != Label.BACKGROUND])


def _canonical() -> tuple[np.ndarray, Face]:
  """MediaPipe's mean face as if it had been found in a photo, straight from the front."""
  x, y, z = (face_mesh.canonical_face().vertices * 12).T  # cm -> pixels
  return np.zeros((_SIZE, _SIZE, 3), np.uint8), Face(np.column_stack([x, -y]) + _SIZE / 2, z)


# ---------------------------------------------------------------------------------------------------------------------
# Procedural faces.


def _print_procedural() -> None:
  estimators = _estimators()
  angles, elevations = collections.defaultdict(list), collections.defaultdict(list)
  light_errors: dict[tuple[str, str, str], list[LightError | None]] = collections.defaultdict(list)
  found = collections.Counter()
  for model, portrait in _portraits():
    found[model] += 1
    if model == _MODELS[0]:
      for row, (pixels, elevation) in _normal_errors(portrait).items():
        angles[row].append(pixels)
        elevations[row].append(elevation)
    for row, error in _light_errors(portrait, estimators).items():
      light_errors[(model, *row)].append(error)
  print(
    f"{_SIZE} x {_SIZE}, seed {_SEED.value}; MediaPipe finds "
    + ", ".join(f"{found[model]} of {_FACES.value} faces ({model})" for model in _MODELS)
    + "\n"
  )
  _print_normals(angles, elevations)
  _print_lights(light_errors)


def _portraits() -> Iterator[tuple[str, FramedPortrait]]:
  """Each face, as MediaPipe found it, under one light and rendered by each of the models."""
  with contextlib.ExitStack() as stack:
    for model, kind in _KINDS.items():
      source = ProceduralFaces(_FACES.value, _SIZE, _SEED.value, find=True, face_finder="mediapipe", ratio=kind)
      stack.enter_context(contextlib.closing(source)).open()
      for id in source.ids:
        with contextlib.suppress(BadInput):
          (portrait,) = source.load(id)
          yield model, portrait
    finder = stack.enter_context(MediaPipeFaceFinder())
    for id in source.ids:
      portrait = _camera_portrait(id)
      if faces := finder.find(portrait.pixels):
        yield _CAMERA, portrait._replace(face=faces[0])


def _camera_portrait(id: str) -> FramedPortrait:
  """A face under a lamp and a fill; its light is both, the lamp as a point."""
  scene = geometry(draw_face(generator(_SEED.value, "face", id)), _SIZE, occluded=True)
  rng = generator(_SEED.value, "camera", id)
  towards = sh.direction(rng.uniform(*_LAMP_AZIMUTH), rng.uniform(*_LAMP_ELEVATION)).astype(np.float32)
  (fill,) = BuiltInLights(color=False).draw(generator(_SEED.value, "light", id), 1)
  soft = fill.sh * np.float32(rng.uniform(*_FILL) / (sh.shading(towards, fill.sh[0] * np.eye(9)[0])))
  linear = radiance(scene, soft, Lamp(towards, 1.0, rng.uniform(*_LAMP_SOFTNESS)), gloss=0.7)
  brightest = np.percentile((linear @ LUMINANCE_WEIGHTS)[scene.label != Label.BACKGROUND], 99)
  pixels = srgb.from_linear(linear * min(_BRIGHTEST / brightest, _MOST_EXPOSURE))
  maps = FaceMaps(scene.normal, scene.label, scene.landmarks, scene.landmarks, scene.depth)
  return FramedPortrait(id, pixels, truth=Truth(maps, scene.normal, soft + sh.basis(towards)))


# ---------------------------------------------------------------------------------------------------------------------
# Normals.


def _normal_errors(portrait: FramedPortrait) -> dict[tuple[str, str], tuple[np.ndarray, float]]:
  """(depth, region) -> degrees at its pixels `[N]`, and degrees by which their mean normal points too high."""
  truth, errors = portrait.truth.maps, {}
  _, truth_mask = extend_to_frame(truth)
  for name, lean in _LEANS.items():
    with mock.patch.object(landmark_mesh, "LEAN", lean):
      maps = face_mesh.face_maps(portrait.pixels, portrait.face)
    normal, mask = extend_to_frame(maps)
    face = _is_face(maps) & _is_face(truth)
    regions = {
      "whole mesh": face,
      "mask of the record": face & mask,
      "skin": skin_mask(maps, mask) & skin_mask(truth, truth_mask),
    }
    for region, pixels in regions.items():
      # Beyond the mask normals are no longer the mesh's own.
      seen = (maps.normal if region == "whole mesh" else normal)[pixels]
      exact = truth.normal[pixels]
      errors[name, region] = _angles(seen, exact), _elevation(seen) - _elevation(exact)
  return errors


def _is_face(maps: FaceMaps) -> np.ndarray:
  return (maps.label == Label.SKIN) | (maps.label == Label.FEATURE)


def _print_normals(angles: dict, elevations: dict) -> None:
  rows = []
  for row in angles:
    degrees = np.concatenate(angles[row])
    percentile = np.percentile(degrees, 95)
    rows.append([*row, degrees.mean(), np.median(degrees), percentile, *_mean_and_sd(elevations[row])])
  print("## Normals of the face mesh against exact ones, degrees\n")
  _print_table(["depth", "region", "mean", "median", "95%", "too high", "sd"], rows)


# ---------------------------------------------------------------------------------------------------------------------
# Lights.


class _Estimator(NamedTuple):
  """A way to estimate lights, of which kind of ratio."""

  kind: str
  estimate: Estimator


def _estimators() -> dict[str, _Estimator]:
  lights = BuiltInLights(color=False).draw(np.random.default_rng(_SEED.value), 500)
  mean_light = np.mean([light.sh for light in lights], axis=0)
  estimators = {"none: mean of the prior": _Estimator("linear", lambda *_: mean_light)}
  for kind in ratio.KINDS:
    of_kind = f", {kind}"
    estimators[f"fit{of_kind}"] = _Estimator(kind, make_estimator("fit", ratio=kind))
    estimators[f"fit, not robust{of_kind}"] = _Estimator(
      kind, lambda _, luminance, normal, skin: estimate_light(luminance, normal, skin, robust=False)
    )
    if _NETWORK.value:
      estimators[f"network{of_kind}"] = _Estimator(kind, make_estimator("network", ratio=kind))
  return estimators


def _light_errors(
  portrait: FramedPortrait, estimators: dict[str, _Estimator]
) -> dict[tuple[str, str], LightError | None]:
  """(normals, estimator) -> error, or None where the estimator rejects the photo.

  Shadings are compared where both the exact maps and the mesh see skin, each computed from its own normals.
  """
  smooth = denoise(portrait.pixels, Settings().denoise)
  luminance = {kind: luminance_of(smooth, kind) for kind in ratio.KINDS}
  sources = {"exact": portrait.truth.maps, "face mesh": face_mesh.face_maps(portrait.pixels, portrait.face)}
  normals = {name: extend_to_frame(maps) for name, maps in sources.items()}
  skins = {name: skin_mask(maps, normals[name][1]) for name, maps in sources.items()}
  common = skins["exact"] & skins["face mesh"]
  true_light = portrait.truth.light
  true_shading = _shading(sources["exact"].normal[common], true_light)
  errors = {}
  for name, (normal, _) in normals.items():
    for estimator, (kind, estimate) in estimators.items():
      try:
        light = estimate(portrait.pixels, luminance[kind], normal, skins[name])
      except BadInput:
        errors[name, estimator] = None
        continue
      difference = _shading(normal[common], light) - true_shading
      degrees = _angles(light[[3, 1, 2]], true_light[[3, 1, 2]])
      errors[name, estimator] = LightError(float(degrees), float(np.sqrt(np.mean(difference**2))))
  return errors


def _shading(normals: np.ndarray, light: np.ndarray) -> np.ndarray:
  """`[N]`, its mean 1."""
  shading = sh.shading(normals, light)
  return shading / shading.mean()


def _print_lights(light_errors: dict) -> None:
  rows = []
  for row, errors in sorted(light_errors.items(), key=lambda item: _MODELS.index(item[0][0])):
    kept = np.reshape([error for error in errors if error], (-1, 2))
    degrees, shading = kept.T if len(kept) else np.full((2, 1), np.nan)
    rows.append([*row, degrees.mean(), np.median(degrees), np.percentile(degrees, 90)])
    rows[-1] += [100 * shading.mean(), 100 * np.percentile(shading, 90), str(len(errors) - len(kept))]
  print("## Source light: dominant direction in degrees, and rms of the relative shading over the skin in per cent\n")
  _print_table(["photo", "normals", "estimator", "degrees", "median", "90%", "shading", "90%", "rejected"], rows)


def main(_) -> None:
  if _PORTRAITS.value:
    _print_lean(Path(_PORTRAITS.value))
  if _FACES.value:
    _print_procedural()


if __name__ == "__main__":
  app.run(main)
