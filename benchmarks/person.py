"""How well the light falls on whole persons, in figures: seams of the ratio, and mattes of rendered heads.

  python benchmarks/person.py --weights default --photos 14
  python benchmarks/person.py --photos 0 --heads 8

On photos (public portraits, the test photos and the astronaut) under four lights, without a truth: the log ratio of new
to old luminance,

- `hairline`, `collar`: its jump from 3 pixels inside to 3 outside of the line where the face ends upwards, and of a
  line below the chin;
- `end of the square`: the same at the lower edge of the square that the network sees;
- `clothes`: how much it varies below the square, where the person goes on there;
- `beside`: the share of pixels away from every person that change at all.

All but the last are relative to how much it varies over the face; median and 95th percentile over points and photos.
Without MediaPipe's segmenter (`--no-segmenter`) the light ends around the head, as with the embedded finder.

On rendered heads with hair before environment maps, whose coverage is known: the sum of absolute differences of mattes,
and that of their gradients' squares (Rhemann et al. 2009), in thousands of pixels of the head's square of 256.
"""

import argparse
import os
from collections.abc import Iterator
from pathlib import Path

import cv2
import numpy as np
from skimage import data

from dpr_jax.image import color
from dpr_jax.image.photo import read_photo, to_8_bits
from dpr_jax.network import traced
from dpr_jax.network.weights import load_params
from dpr_jax.portrait.face_finders import open_face_finder
from dpr_jax.portrait.faces import OVAL, Face, FaceFinder, Framing, frame_face
from dpr_jax.portrait.lights import parse_light
from dpr_jax.portrait.matte import head_weight
from dpr_jax.portrait.person import Matte, Segmenter, find_person, open_segmenter
from dpr_jax.portrait.portrait import Portrait

LIGHTS = ("left", "right", "top", "rembrandt")
_APART = 3  # pixels to either side of a line
_ENLARGED = 640  # shorter side of small photos
_BESIDE = 0.12  # of the square's side: farther from a person no pixel may change
_GRADIENT_SIGMA = 1.4


def photos(count: int) -> Iterator[tuple[str, np.ndarray]]:
  """Names and pixels of so many photos; small ones are enlarged."""
  shared = Path(os.environ.get("DPR_SHARED", "../shared"))
  named = [shared / "reference/dpr/obama.jpg", *sorted((shared / "photos").glob("*"))]
  congress = sorted((shared / "portraits/congress").glob("*.jpg"))
  named += [congress[k] for k in np.random.default_rng(1).permutation(len(congress))]
  yield from [("astronaut", data.astronaut())][:count]
  for path in named[: max(count - 1, 0)]:
    pixels = to_8_bits(read_photo(path).pixels)
    factor = _ENLARGED / min(pixels.shape[:2])
    yield path.stem, pixels if factor <= 1 else cv2.resize(pixels, None, fx=factor, fy=factor)


def jumps(ratio: np.ndarray, framing: Framing, face: Face, person: np.ndarray) -> dict[str, np.ndarray]:
  """The jumps across the three lines, relative to the spread over the face; see the module.

  Args:
    ratio: log ratio of luminance, `[H, W]`.
    framing: of the face.
    face: in pixels of the photo.
    person: `[H, W]` bool.
  """
  smooth = cv2.blur(ratio, (3, 3))
  outline = face.landmarks[OVAL].astype(np.float32)
  oval = cv2.fillConvexPoly(np.zeros(ratio.shape, np.uint8), cv2.convexHull(np.round(outline).astype(np.int32)), 1) > 0
  spread = max(float(np.subtract(*np.percentile(ratio[oval], (95, 5)))), 1e-3)
  to_photo = np.linalg.inv(framing.index_matrix[:, :2])
  down = to_photo @ (0, 1) / np.linalg.norm(to_photo @ (0, 1))
  centre = outline.mean(axis=0)
  along = (outline - centre) @ down
  upper = outline[along < 0.4 * along.min()]
  hairline = centre + 1.06 * (upper - centre)
  outwards = (upper - centre) / np.linalg.norm(upper - centre, axis=-1, keepdims=True)
  across = np.linspace(-0.2, 0.2, 15)[:, None] * (to_photo @ (framing.size, 0))
  chin = centre + down * along.max()
  collar = chin + down * 0.3 * along.max() + across
  end = (np.array([framing.size / 2, framing.size - 1]) - framing.index_matrix[:, 2]) @ to_photo.T + across

  def jump(points: np.ndarray, towards: np.ndarray) -> np.ndarray:
    inner, outer = ((points + sign * _APART * towards).round().astype(int) for sign in (-1, 1))
    extent = np.array(ratio.shape[::-1])
    kept = ((np.minimum(inner, outer) >= 0) & (np.maximum(inner, outer) < extent)).all(axis=-1)
    kept[kept] = person[outer[kept, 1], outer[kept, 0]] & person[inner[kept, 1], inner[kept, 0]]
    inner, outer = inner[kept], outer[kept]
    return np.abs(smooth[inner[:, 1], inner[:, 0]] - smooth[outer[:, 1], outer[:, 0]]) / spread

  y, x = np.mgrid[: ratio.shape[0], : ratio.shape[1]]
  below = (np.stack([x, y], axis=-1) @ framing.index_matrix[1, :2] + framing.index_matrix[1, 2]) > framing.size
  below &= person
  clothes = np.subtract(*np.percentile(ratio[below], (95, 5))) / spread if below.mean() > 0.02 else np.nan
  return {
    "hairline": jump(hairline, outwards),
    "collar": jump(collar, down),
    "end of the square": jump(end, down),
    "clothes": np.array([clothes]),
  }


def measure_photos(
  weights: str, count: int, finder: FaceFinder, segmenter: Segmenter | None, looked: Segmenter
) -> None:
  """Prints the table of photos; `looked` says where the persons are, whoever the light is limited by."""
  params, found, beside = load_params(weights), {}, []
  for _, pixels in photos(count):
    faces = finder.find(pixels)
    if not faces:
      continue
    portrait = Portrait(params, pixels, faces, segmenter=segmenter)
    framings = [framed.framing for framed in portrait.faces]
    mattes = [find_person(looked, pixels, *pair) for pair in zip(faces, framings, strict=True)]
    persons = [in_photo(matte, pixels.shape) for matte in mattes if matte]
    if not persons:
      continue
    anybody = np.max(persons, axis=0)
    side = portrait.faces[0].framing.size / np.sqrt(abs(np.linalg.det(portrait.faces[0].framing.matrix[:, :2])))
    away = cv2.distanceTransform((anybody < 0.02).astype(np.uint8), cv2.DIST_L2, 5) > _BESIDE * side
    before = color.linearise(pixels / np.float32(255)) @ np.float32([0.2126, 0.7152, 0.0722])
    for light in LIGHTS:
      relit = portrait.relight(parse_light(light))
      beside.append((relit != pixels).any(axis=-1)[away].mean() if away.any() else 0.0)
      after = color.linearise(relit / np.float32(255)) @ np.float32([0.2126, 0.7152, 0.0722])
      ratio = np.log((after + 2e-3) / (before + 2e-3)).astype(np.float32)
      for name, values in jumps(ratio, framings[0], faces[0], anybody > 0.95).items():
        found.setdefault(name, []).extend(values[np.isfinite(values)])
  print("| relative to the spread over the face | median | 95% | points |\n| --- | --- | --- | --- |")
  for name, values in found.items():
    print(f"| {name} | {np.median(values):.3f} | {np.percentile(values, 95):.3f} | {len(values)} |")
  print(f"\nbeside every person {np.mean(beside):.4%} of the pixels change\n", flush=True)


def in_photo(matte: Matte, shape: tuple[int, ...]) -> np.ndarray:
  """The coverage at the photo's pixels, `[H, W]`."""
  return cv2.warpAffine(matte.alpha, matte.matrix, shape[1::-1], flags=cv2.INTER_LINEAR | cv2.WARP_INVERSE_MAP)


def gradient_error(matte: np.ndarray, truth: np.ndarray) -> float:
  """The sum of squared differences of the gradients' lengths (Rhemann et al. 2009)."""

  def steepness(array: np.ndarray) -> np.ndarray:
    smooth = cv2.GaussianBlur(array.astype(np.float32), (0, 0), _GRADIENT_SIGMA)
    return np.hypot(*(cv2.Sobel(smooth, cv2.CV_32F, *order, scale=1 / 8) for order in ((1, 0), (0, 1))))

  return float(np.square(steepness(matte) - steepness(truth)).sum())


def measure_heads(count: int, finder: FaceFinder, segmenter: Segmenter) -> None:
  """Prints the table of rendered heads."""
  from data_gen import srgb
  from data_gen.heads import portraits
  from data_gen.heads.environments import load_environments
  from data_gen.heads.people import load_people_model
  from data_gen.portraits import generator

  model = load_people_model(portraits.heads_folder(), "held out")
  environments = load_environments(portraits.environments_folder(), held_out=True)
  rows = {"GrabCut": [], "person": [], "segmenter alone": []}
  for number in range(count):
    id = f"held-out-{number:04d}"
    view = portraits.draw_view(generator(0, "held-out head", id), model, 256, "held out")
    rng = generator(0, "held-out picture", id)
    surface = portraits.render_surface(rng, model, view)
    behind = portraits.draw_backdrop(rng, 256, (environments[number % len(environments)], 40.0 * number))
    lit = np.clip(0.35 - 0.65 * surface.normal[..., 1:2], 0, 1) * surface.open_share.reshape(256, 256, -1)
    linear = surface.albedo * lit + (1 - surface.coverage)[..., None] * behind
    pixels = srgb.from_linear(np.clip(linear, 0, 1))
    for face in finder.find(pixels)[:1]:
      framing = frame_face(face, 256)
      matte = find_person(segmenter, pixels, face, framing)
      landmarks = face.landmarks @ framing.matrix[:, :2].T + framing.matrix[:, 2] - 0.5
      warp = {"flags": cv2.INTER_LINEAR, "borderMode": cv2.BORDER_REPLICATE}
      square = cv2.warpAffine(pixels, framing.index_matrix, (256, 256), **warp)
      truth = cv2.warpAffine(surface.coverage.astype(np.float32), framing.index_matrix, (256, 256), **warp)
      rough = cv2.resize(segmenter.people(pixels), (256, 256))
      mattes = {
        "GrabCut": head_weight(square, landmarks, np.zeros((256, 256), bool)),
        "segmenter alone": cv2.warpAffine(rough, framing.index_matrix, (256, 256), **warp),
        "person": cv2.warpAffine(in_photo(matte, pixels.shape), framing.index_matrix, (256, 256), **warp)
        if matte
        else np.zeros((256, 256)),
      }
      for name, seen in mattes.items():
        rows[name].append((np.abs(seen - truth).sum() / 1000, gradient_error(seen, truth) / 1000))
  print(f"{len(rows['person'])} heads\n\n| matte | SAD | gradient |\n| --- | --- | --- |")
  for name, values in rows.items():
    print("| " + " | ".join([name, *(f"{mean:.3f}" for mean in np.mean(values, axis=0))]) + " |", flush=True)


def main() -> None:
  parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
  parser.add_argument("--weights", default="default", help="as for relight.py")
  parser.add_argument("--photos", type=int, default=14, help="how many")
  parser.add_argument("--heads", type=int, default=0, help="how many; needs ../shared/heads")
  parser.add_argument("--no-segmenter", action="store_true", help="let the light end around the head")
  arguments = parser.parse_args()
  traced.enable_compilation_cache()
  segmenter = open_segmenter()
  if segmenter is None:
    raise SystemExit("needs MediaPipe's segmenter")
  with open_face_finder("mediapipe") as finder:
    if arguments.photos:
      limit = None if arguments.no_segmenter else segmenter
      measure_photos(arguments.weights, arguments.photos, finder, limit, segmenter)
    if arguments.heads:
      measure_heads(arguments.heads, finder, segmenter)


if __name__ == "__main__":
  main()
