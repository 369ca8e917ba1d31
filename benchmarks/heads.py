"""Rendered heads that no training has seen under known lights: relit pictures, normals and source lights against truth.

  python benchmarks/heads.py --weights default official-512 --heads 24 --scenes scenes --sheet sheet.png

The heads of `data_gen.heads`, with hair styles and environment maps that are held out, and identities and skins from
random numbers of their own. Each is seen in three lights, and is to be put into three others:

- `soft`: nine numbers, as the heads of training;
- `lamp`: one lamp of 2 to 20 degrees from the side or above, and a fill of 0.08 to 0.3, with true cast shadows;
- `map`: an environment map, with all that it casts.

Skin mirrors a little under lamps and maps. Light is gray, so that a method needs luminance only; pictures have the
colours of the head. A target light is told (by its lamps, or as nine numbers to published networks), or transferred:
the network's own estimate from the true picture of the same head, or of another one, under that light. Every relit
picture keeps the key of the source, as the program does.

What is left of the old light is asked where a cheek is at least 1.4 times as bright as the other one under a lamp or a
map: the share of that difference, in stops, that remains under the preset `flat`.

PSNR is that of sRGB over the face, si-MSE x 1000 and L1 those of L / 100. `true shape` multiplies by the ratio of the
shadings of the exact normals and depth under the exact lights, as training has it: what a network could reach by shape
and light alone. Rendering takes most of the time; `--scenes` keeps what was rendered.
"""

import argparse
import collections
import os
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import NamedTuple

import cv2
import jax
import numpy as np
import true_light

from data_gen import face_mesh, normals, relief, srgb
from data_gen.face_maps import FaceMaps
from data_gen.heads import portraits
from data_gen.heads.environments import Environment, load_environments
from data_gen.heads.people import PeopleModel, load_people_model
from data_gen.portraits import generator
from data_gen.target_lights import BuiltInLights
from dpr_jax.image import color
from dpr_jax.light import exposure, sh
from dpr_jax.light import light as light_module
from dpr_jax.light.light import LUMINANCE_WEIGHTS, MAX_LAMPS, Light
from dpr_jax.light.shading import face_shading
from dpr_jax.network import traced
from dpr_jax.network.networks import network_for
from dpr_jax.network.ratio_network import RatioHourglassNet
from dpr_jax.network.shape import RatioEncoding, Surface
from dpr_jax.network.weights import load_params
from dpr_jax.portrait.face_finders import FACE_FINDERS, open_face_finder
from dpr_jax.portrait.faces import FaceFinder, Framing
from dpr_jax.portrait.landmark_mesh import mesh_surface
from dpr_jax.portrait.lights import parse_light
from dpr_jax.portrait.relighting import decode_luminance, encode_luminance
from dpr_jax.train import metrics

KINDS = ("soft", "lamp", "map")
STYLES = "held out"
TOLD, SAME, OTHER = "told", "transfer, same head", "transfer, another"
# Of L of Lab of the bare skin.
TONES = {"dark": (0, 45), "middle": (45, 60), "light": (60, 101)}
_CHEEKS, _CHEEK_RADIUS = (50, 280), 0.16  # of the landmarks, in shares of the distance of the outer corners of the eyes
_SIDE_LIT = 0.35  # in natural logarithms
_KEY = 0.5  # linear luminance of the bright side of the lightest skin
_SEED = 0


class Scene(NamedTuple):
  """A head under its lights; pictures and lights by name: each of `KINDS`, and the same with ` target`.

  Attributes:
    id: of the head.
    lightness: L of Lab of its bare skin.
    mask: `[S, S]` bool, the face.
    normal: `[S, S, 3]` unit.
    depth: `[S, S]` as in records.
    pictures: `[S, S, 3]` uint8 each.
    lights: gray, with `MAX_LAMPS` lamps each.
  """

  id: str
  lightness: float
  mask: np.ndarray
  normal: np.ndarray
  depth: np.ndarray
  pictures: dict[str, np.ndarray]
  lights: dict[str, Light]


class Seen(NamedTuple):
  """What a method sees in a picture.

  Attributes:
    light: `[9]`, the picture's own light, or None.
    normal: `[S, S, 3]` unit, or None.
    relight: a light, or nine numbers `[9]` -> L / 100, `[S, S]`, of any brightness.
    estimate: the light that it passes on, or None.
  """

  light: np.ndarray | None
  normal: np.ndarray | None
  relight: Callable[[Light | np.ndarray], np.ndarray]
  estimate: Light | np.ndarray | None


Method = Callable[[Scene, str], Seen]


def draw_lights(number: int, environments: Sequence[Environment]) -> dict[str, Light | tuple[Environment, float]]:
  """The lights of a head by name; heads 2 n and 2 n + 1 have the same targets. A map comes with its turn in degrees."""
  lights = {}
  for suffix, rng in (
    ("", generator(_SEED, "held-out light", str(number))),
    (" target", generator(_SEED, "held-out target light", str(number // 2))),
  ):
    (soft,) = BuiltInLights(color=False).draw(rng, 1)
    lights["soft" + suffix] = light_module.soft_light(soft.sh)
    azimuth = rng.choice([-1, 1]) * rng.uniform(20, 80)
    towards = sh.direction(float(azimuth), float(rng.uniform(-10, 55)))
    lights["lamp" + suffix] = light_module.key_and_fill(towards, rng.uniform(0.08, 0.3), rng.uniform(2, 20))
    lights["map" + suffix] = environments[rng.integers(len(environments))], float(rng.uniform(-180, 180))
  return lights


def render(model: PeopleModel, environments: Sequence[Environment], number: int, size: int) -> Scene:
  """A held-out head under its six lights; a quarter of a minute."""
  id = f"held-out-{number:04d}"
  view = portraits.draw_view(generator(_SEED, "held-out head", id), model, size, STYLES)
  rng = generator(_SEED, "held-out picture", id)
  surface = portraits.render_surface(rng, model, view)
  maps = FaceMaps(surface.normal, surface.label, np.zeros((0, 2)), np.zeros((0, 2)), surface.depth)
  mask, stage = normals.face_mask(maps), true_light.Stage(view, surface)
  normal = normals.fill_to_frame(surface.normal, (surface.coverage > 0.5) & (surface.normal[..., 1] < -0.02))
  key = _KEY * (surface.lightness / 75) ** 1.1
  pictures, lights = {}, {}
  for name, light in draw_lights(number, environments).items():
    place = None
    if isinstance(light, Light):
      lights[name] = light
    else:
      place, lights[name] = light, true_light.map_light(*light)
    if name.startswith("soft"):
      # Nine numbers are less than no light here and there, and a soft light is soft.
      nine = portraits.soften(light.soft[0], surface.normal[mask])
      lights[name] = light_module.soft_light(nine)
      linear = surface.albedo * surface.open_share * np.maximum(sh.shading(normal, nine), 0)[..., None]
    else:
      linear = stage.under_lamps(light) if place is None else stage.under_map(*place)
    linear = linear + 0.6 * surface.glint[..., None] * np.percentile(linear[mask], 90)
    linear = linear * (key / exposure.key(linear @ LUMINANCE_WEIGHTS, mask.astype(np.float32)))
    backdrop = portraits.draw_backdrop(rng, size, place)
    pictures[name] = srgb.from_linear(linear + (1 - surface.coverage)[..., None] * backdrop)
  lights = {name: light_module.with_lamps(light, MAX_LAMPS) for name, light in lights.items()}
  return Scene(id, surface.lightness, mask, normal, relief.extend_to_frame(maps, surface.depth), pictures, lights)


def scene(
  model: Callable[[], tuple[PeopleModel, Sequence[Environment]]], folder: Path | None, number: int, size: int
) -> Scene:
  """`render`, or what an earlier run kept in the folder."""
  path = folder and folder / f"held-out-{number:04d}-{size}.npz"
  if path and path.is_file():
    with np.load(path, allow_pickle=False) as file:
      names = [str(name) for name in file["names"]]
      lights = {name: Light(*(file[f"{name}/{part}"] for part in Light._fields)) for name in names}
      pictures = dict(zip(names, file["pictures"], strict=True))
      about = (str(file["id"]), float(file["lightness"]), file["mask"], file["normal"], file["depth"])
      return Scene(*about, pictures, lights)
  made = render(*model(), number, size)
  if path:
    folder.mkdir(parents=True, exist_ok=True)
    parts = {
      f"{name}/{part}": value
      for name, light in made.lights.items()
      for part, value in zip(Light._fields, light, strict=True)
    }
    about = made._asdict() | {"pictures": np.stack(list(made.pictures.values())), "names": list(made.pictures)}
    del about["lights"]
    np.savez_compressed(path, **about, **parts)
  return made


def luminance_of(pixels: np.ndarray) -> np.ndarray:
  """Linear luminance `[S, S]` float32 of sRGB pixels."""
  return srgb.to_linear(np.ascontiguousarray(pixels)) @ LUMINANCE_WEIGHTS


def identity(scene: Scene, name: str) -> Seen:
  """Gives back the source."""
  lightness = color.lightness_of_luminance(luminance_of(scene.pictures[name]))
  return Seen(None, None, lambda light: lightness, None)


def true_shape(scene: Scene, name: str) -> Seen:
  """Relights by the exact normals, depth and lights."""
  shaded = _shading(scene, scene.lights[name])
  own = luminance_of(scene.pictures[name])
  numbers = light_module.harmonics(scene.lights[name])[0]

  def relight(light):
    return color.lightness_of_luminance(own * _shading(scene, light) / np.maximum(shaded, 1e-4))

  return Seen(numbers, scene.normal, relight, None)


def _shading(scene: Scene, light: Light) -> np.ndarray:
  return np.asarray(_face_shading(scene.normal, scene.depth, scene.mask.astype(np.float32), light))[..., 0]


_face_shading = jax.jit(face_shading)


def mesh(finder: FaceFinder) -> Method:
  """MediaPipe's landmarks as a mesh: normals alone."""

  def see(scene: Scene, name: str) -> Seen:
    faces = finder.find(scene.pictures[name])
    if not faces:
      return Seen(None, None, None, None)
    return Seen(None, face_mesh.face_maps(scene.pictures[name], faces[0]).normal, None, None)

  return see


def network(weights: str, finder: FaceFinder) -> Method:
  """A relighting network at the size that its kind is made for; ours knows of the landmarks, as in `Portrait`."""
  params = load_params(weights)
  kind = network_for(params)
  native = kind.native_size

  def surface(pixels: np.ndarray) -> list[Surface]:
    faces = finder.find(pixels) if isinstance(kind, RatioHourglassNet) else []
    whole = Framing(np.eye(2, 3), 0.0, len(pixels))
    return [mesh_surface(face, whole, native // kind.shape_cell) for face in faces[:1]]

  def see(scene: Scene, name: str) -> Seen:
    size = len(scene.mask)
    lightness = color.lightness_of_luminance(luminance_of(scene.pictures[name]))
    square = cv2.resize(lightness, (native, native), interpolation=cv2.INTER_CUBIC if native > size else cv2.INTER_AREA)
    encoding = encode_luminance(params, np.clip(square, 0, 1)[None, ..., None], *surface(scene.pictures[name]))
    own = jax.tree.map(lambda part: np.asarray(part)[0], encoding.light)
    numbers = light_module.harmonics(own)[0] if isinstance(own, Light) else own

    def relight(light):
      # As many lamps for all lights, so that one program is compiled; nine numbers stay what they are.
      light = light_module.with_lamps(light, MAX_LAMPS) if isinstance(light, Light) else light
      batch = jax.tree.map(lambda part: np.asarray(part)[None], light)
      relit = np.asarray(decode_luminance(params, encoding, batch, size=(native, native)))[0, ..., 0]
      return cv2.resize(relit, (size, size), interpolation=cv2.INTER_AREA if native > size else cv2.INTER_CUBIC)

    normal = None
    if isinstance(encoding, RatioEncoding):
      normal = cv2.resize(np.asarray(encoding.shape.normal)[0], (size, size), interpolation=cv2.INTER_LINEAR)
      normal /= np.linalg.norm(normal, axis=-1, keepdims=True)
    return Seen(np.asarray(numbers, np.float32), normal, relight, own)

  return see


def relit_picture(scene: Scene, name: str, lightness: np.ndarray) -> np.ndarray:
  """The picture with another luminance, whose key is that of the picture; `[S, S, 3]` float32, sRGB in [0, 1].

  Args:
    scene: the head.
    name: of the source picture.
    lightness: L / 100, `[S, S]`.
  """
  linear, skin = srgb.to_linear(scene.pictures[name]), scene.mask.astype(np.float32)
  before, after = linear @ LUMINANCE_WEIGHTS, color.luminance_of_lightness(np.maximum(lightness, 0))
  after = after * (exposure.key(before, skin) / max(float(exposure.key(after, skin)), 1e-6))
  return color.delinearise(np.clip(linear * (after / np.maximum(before, 1e-4))[..., None], 0, 1)).astype(np.float32)


def scores(picture: np.ndarray, truth: np.ndarray, mask: np.ndarray) -> dict[str, float]:
  """PSNR, si-MSE x 1000 and L1 of a picture `[S, S, 3]` in [0, 1] against the true pixels, over a mask."""
  error = np.square(picture - truth.astype(np.float32) / 255)[mask].mean()
  ours = color.lightness_of_luminance(color.linearise(picture) @ LUMINANCE_WEIGHTS).astype(np.float32)
  theirs = color.lightness_of_luminance(luminance_of(truth)).astype(np.float32)
  return {
    "psnr": float(-10 * np.log10(max(error, 1e-10))),
    "si_mse": 1000 * float(metrics.si_mse(prediction=ours, target=theirs, mask=mask)),
    "l1": float(metrics.l1(prediction=ours, target=theirs, mask=mask)),
  }


def angle_between(normal: np.ndarray, truth: np.ndarray, mask: np.ndarray) -> float:
  """Degrees between normals `[S, S, 3]`, the mean where both are known inside the mask; NaN if nowhere."""
  known = mask & (np.abs(normal).sum(axis=-1) > 0)
  if not known.any():
    return float("nan")
  return float(np.degrees(np.arccos(np.clip((normal * truth).sum(axis=-1)[known], -1, 1))).mean())


def find_cheeks(finder: FaceFinder, scene: Scene) -> list[np.ndarray]:
  """The pixels of both cheeks, `[S, S]` bool each, as far as they are the face's; none where one is not to be seen."""
  faces = finder.find(scene.pictures["soft"])
  if not faces:
    return []
  landmarks = faces[0].landmarks
  radius = _CHEEK_RADIUS * np.linalg.norm(landmarks[33] - landmarks[263])
  down, right = np.mgrid[: len(scene.mask), : len(scene.mask)] + 0.5
  discs = [np.hypot(right - x, down - y) < radius for x, y in landmarks[list(_CHEEKS)]]
  return [disc & scene.mask for disc in discs] if all(scene.mask[disc].mean() > 0.5 for disc in discs) else []


def unevenness(lightness: np.ndarray, cheeks: Sequence[np.ndarray]) -> float:
  """By how much the first cheek is brighter than the second one, of L / 100; a natural logarithm."""
  first, second = (float(np.median(color.luminance_of_lightness(lightness[cheek]))) for cheek in cheeks)
  return float(np.log(max(first, 1e-4)) - np.log(max(second, 1e-4)))


def evaluate(method: Method, scenes: Sequence[Scene], cheeks: Sequence[Sequence[np.ndarray]]) -> dict[str, list[dict]]:
  """All pictures of all heads put into all target lights.

  Args:
    method: what relights.
    scenes: the heads.
    cheeks: of each, from `find_cheeks`.

  Returns:
    `relit`: a row for each with `id`, `lightness`, `source`, `target`, `named` and `scores`; `seen`: a row for each
    source picture with `source`, `normal` and `light`, degrees of error; `flat`: a row for each that is lit from the
    side, with `source` and `left`, the share of the cheeks' difference that is left under even light.
  """
  rows = {"relit": [], "seen": [], "flat": []}
  passed_on = {}
  for index, scene in enumerate(scenes):
    for kind in KINDS:
      passed_on[index, kind] = method(scene, f"{kind} target").estimate
  for index, scene in enumerate(scenes):
    for source in KINDS:
      seen = method(scene, source)
      truth = light_module.harmonics(scene.lights[source])[0]
      about = {"id": scene.id, "lightness": scene.lightness, "source": source}
      angle = np.nan if seen.light is None else metrics.light_angle(prediction=seen.light, target=truth)
      normal = np.nan if seen.normal is None else angle_between(seen.normal, scene.normal, scene.mask)
      rows["seen"].append(about | {"normal": normal, "light": float(angle)})
      if seen.relight is None:
        continue
      if cheeks[index] and source != "soft":
        own = color.lightness_of_luminance(luminance_of(scene.pictures[source]))
        before, after = (unevenness(each, cheeks[index]) for each in (own, seen.relight(parse_light("flat"))))
        if abs(before) > _SIDE_LIT:
          rows["flat"].append(about | {"left": abs(after / before)})
      for target in KINDS:
        name = f"{target} target"
        named = {TOLD: scene.lights[name], SAME: passed_on[index, target]}
        if (index ^ 1) < len(scenes):
          named[OTHER] = passed_on[index ^ 1, target]
        for naming, light in named.items():
          if light is not None:
            picture = relit_picture(scene, source, seen.relight(light))
            score = scores(picture, scene.pictures[name], scene.mask)
            rows["relit"].append(about | {"target": target, "named": naming} | score)
  return rows


def mean(rows: Sequence[Mapping], score: str, **chosen) -> float:
  """The mean of a score over the rows whose fields are as `chosen`; NaN if there are none."""
  values = [row[score] for row in rows if all(row[field] == value for field, value in chosen.items())]
  values = [value for value in values if np.isfinite(value)]
  return float(np.mean(values)) if values else float("nan")


def report(results: Mapping[str, Mapping[str, list[dict]]]) -> None:
  """Prints the tables."""
  lines = []
  for name, result in results.items():
    for source in KINDS:
      for naming in (TOLD, SAME, OTHER):
        chosen = {"source": source, "named": naming}
        if np.isfinite(mean(result["relit"], "psnr", **chosen)):
          by_target = [f"{mean(result['relit'], 'psnr', target=target, **chosen):.1f}" for target in KINDS]
          overall = [
            format(mean(result["relit"], score, **chosen), form)
            for score, form in (("psnr", ".2f"), ("si_mse", ".2f"), ("l1", ".3f"))
          ]
          lines.append([name, source, naming, *overall, *by_target])
  print("## Relit pictures\n")
  titles = ["", "source", "light named by", "PSNR, dB", "si-MSE x 1000", "L1", *(f"PSNR to {kind}" for kind in KINDS)]
  _print_table(titles, lines)
  print("## By skin tone (L of the bare skin), light told: PSNR, dB / L1 (heads)\n")
  lines = []
  for name, result in results.items():
    cells = []
    for low, high in TONES.values():
      rows = [row for row in result["relit"] if low <= row["lightness"] < high and row["named"] == TOLD]
      heads = len({row["id"] for row in rows})
      cells.append(f"{mean(rows, 'psnr'):.2f} / {mean(rows, 'l1'):.3f} ({heads})")
    if result["relit"]:
      lines.append([name, *cells])
  _print_table(["", *(f"{name}, {low} to {high}" for name, (low, high) in TONES.items())], lines)
  print("## What is seen in a source: normals on the face and the light's main direction, mean error in degrees\n")
  lines = []
  for name, result in results.items():
    cells = [f"{mean(result['seen'], score, source=kind):.1f}" for score in ("normal", "light") for kind in KINDS]
    if any(cell != "nan" for cell in cells):
      lines.append([name, *(cell.replace("nan", "-") for cell in cells)])
  _print_table(["", *(f"{what}, {kind}" for what in ("normals", "light") for kind in KINDS)], lines)
  _report_flat(results)


def _report_flat(results: Mapping[str, Mapping[str, list[dict]]]) -> None:
  print("## What is left of the difference of the cheeks under `flat`: mean, median (pictures)\n")
  lines = []
  for name, result in results.items():
    cells = []
    for source in KINDS[1:]:
      left = [row["left"] for row in result["flat"] if row["source"] == source]
      cells.append(f"{np.mean(left):.2f}, {np.median(left):.2f} ({len(left)})" if left else "-")
    if result["flat"]:
      lines.append([name, *cells])
  _print_table(["", *KINDS[1:]], lines)


def _print_table(titles: list[str], rows: list[list]) -> None:
  print("| " + " | ".join(titles) + " |\n|" + " --- |" * len(titles))
  for row in rows:
    print("| " + " | ".join(map(str, row)) + " |")
  print(flush=True)


def draw_sheet(path: Path, scenes: Sequence[Scene], methods: Mapping[str, Method]) -> None:
  """A row for each head: source, truth and what each method makes, from soft to lamp, lamp to map and map to soft."""
  rows = []
  for scene in scenes:
    cells = []
    for source, target in (("soft", "lamp"), ("lamp", "map"), ("map", "soft")):
      name = f"{target} target"
      cells += [scene.pictures[source], scene.pictures[name]]
      for method in methods.values():
        relit = relit_picture(scene, source, method(scene, source).relight(scene.lights[name]))
        cells.append(np.rint(255 * relit).astype(np.uint8))
    rows.append(np.hstack(cells))
  cv2.imwrite(str(path), np.vstack(rows)[..., ::-1])


def main() -> None:
  parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
  parser.add_argument("--weights", nargs="+", default=["default", "official-512"], help="networks, as for relight.py")
  parser.add_argument("--heads", type=int, default=24, help="how many; even, so that each has another one")
  parser.add_argument("--size", type=int, default=256, help="side of the pictures")
  parser.add_argument("--scenes", type=Path, help="a folder that keeps what was rendered")
  parser.add_argument("--sheet", type=Path, help="a picture to write")
  parser.add_argument("--sheet_heads", type=int, default=8, help="rows of the sheet")
  parser.add_argument("--face_finder", choices=FACE_FINDERS, help="as for relight.py; of the mesh's normals")
  arguments = parser.parse_args()
  traced.enable_compilation_cache()
  opened = []

  def model():
    if not opened:
      folder = portraits.environments_folder()
      if folder is None:
        raise SystemExit(f"no folder environments in DPR_SHARED ({os.environ.get('DPR_SHARED')}) or DPR_ASSETS")
      opened.append((load_people_model(portraits.heads_folder(), STYLES), load_environments(folder, held_out=True)))
    return opened[0]

  scenes = [scene(model, arguments.scenes, number, arguments.size) for number in range(arguments.heads)]
  results = collections.OrderedDict()
  with open_face_finder(arguments.face_finder) as finder:
    baselines = {"identity": identity, "true shape": true_shape, f"mesh of {finder.name}": mesh(finder)}
    networks = {name: network(name, finder) for name in arguments.weights}
    cheeks = [find_cheeks(finder, scene) for scene in scenes]
    for name, method in (baselines | networks).items():
      results[name] = evaluate(method, scenes, cheeks)
    report(results)
    if arguments.sheet:
      shown = {"true shape": true_shape} | networks
      draw_sheet(arguments.sheet, scenes[: arguments.sheet_heads], shown)


if __name__ == "__main__":
  main()
