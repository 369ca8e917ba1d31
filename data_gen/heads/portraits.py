"""Portraits of rendered heads with all that is known of them: the source `heads` of `export_dataset.py`.

A portrait is albedo times the shading of its normals under nine numbers of soft light, in linear light, so that the
ratio image of the record is the truth. What falls short of even light between nose, lips and hair (ambient occlusion)
is part of the albedo, as it is in the albedo of photos; no lamp casts shadows.
"""

import functools
import hashlib
import os
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import NamedTuple

import numpy as np

from data_gen import srgb
from data_gen.face_maps import FaceMaps, Label
from data_gen.face_mesh import CONTOURS
from data_gen.heads import morphable_head as parts
from data_gen.heads.buffers import Fragments, ambient_occlusion, averaged, rasterize_fragments
from data_gen.heads.environments import Environment, chosen_maps, load_environments
from data_gen.heads.hair import HAIR_FILE
from data_gen.heads.lighting import scene_axes
from data_gen.heads.morphable_head import HEAD_FILE
from data_gen.heads.painting import paint
from data_gen.heads.people import GLASSES, HAIR, PeopleModel, Person, draw_person, load_people_model
from data_gen.heads.pose import FRONTAL, MIDDLE, Camera, rotation
from data_gen.normals import fill_to_frame
from data_gen.portraits import FramedPortrait, Truth, generator
from data_gen.target_lights import BuiltInLights
from dpr_jax.base.arrays import ramp
from dpr_jax.base.errors import BadInput
from dpr_jax.base.native_libraries import import_native
from dpr_jax.image import color
from dpr_jax.light import sh
from dpr_jax.light.light import LUMINANCE_WEIGHTS
from dpr_jax.light.panorama import look_up
from dpr_jax.portrait.faces import OVAL, Face, frame_face

cv2 = import_native("cv2")

SUPERSAMPLING = 2
_REACH = 3.5  # cm in which even light is blocked
_TWIST = (-6.5, -13.0)  # cm, between which the neck turns
# The darkest twentieth of the face gets at least this share of the mean irradiance: the light is soft.
_LEAST_SHADING = 0.25
_ORIGINAL_LIGHT_SHARE = 0.55  # of portraits lit by the built-in prior, the others by environment maps


class View(NamedTuple):
  """A person before the camera.

  Attributes:
    person: who.
    placed: the vertices of each part in cm, x to the square's right, y up, z towards the camera.
    normals: the unit normals of each part, `[N, 3]`, in the same axes.
    camera: where it is, and how the square lies in its picture.
    matrix: `[2, 3]`, from the camera's pixels at a scale of 1 to those of the square.
    landmarks: `[478, 2]` in pixels of the square, from its top left corner.
    size: side of the square.
  """

  person: Person
  placed: list[np.ndarray]
  normals: list[np.ndarray]
  camera: Camera
  matrix: np.ndarray
  landmarks: np.ndarray
  size: int

  @property
  def scale(self) -> float:
    """Pixels of the square for each cm at the middle of the head."""
    return float(np.sqrt(np.linalg.det(self.matrix[:, :2])))

  def project(self, points: np.ndarray) -> np.ndarray:
    """Points `[N, 3]` in cm -> x and y from the square's top left corner and z towards the viewer, in pixels."""
    seen = self.camera.project(points)
    flat = seen[:, :2] @ self.matrix[:, :2].T + self.matrix[:, 2]
    return np.column_stack([flat, seen[:, 2] * self.scale])

  def places(self, flat: np.ndarray, depth: np.ndarray) -> np.ndarray:
    """Points `[N, 3]` in cm from x and y `[N, 2]` and depth `[N]` in pixels: the inverse of `project`."""
    near = depth / self.scale
    enlargement = self.scale / (1 - near / self.camera.distance)
    x, y = (flat - self.matrix[:, 2]).T / enlargement
    return np.stack([x, -y, near], axis=-1)


class Surface(NamedTuple):
  """What a view shows in the square `[S, S]`.

  Attributes:
    albedo: `[S, S, 3]` linear float32, times coverage.
    open_share: `[S, S, 3]` in [0, 1], how much of even light arrives, thrown from surface to surface too.
    coverage: `[S, S]` in [0, 1].
    normal: `[S, S, 3]` unit in the axes of `dpr_jax.light.sh`; 0 where nothing is.
    depth: `[S, S]` in pixels towards the viewer; -inf where nothing is.
    label: `[S, S]` uint8 of `Label`.
    glint: `[S, S]` share of the pixel where the cornea mirrors the brightest light.
    fragments: what each pixel shows, at `SUPERSAMPLING` times the size.
    lightness: L of Lab of the bare skin.
  """

  albedo: np.ndarray
  open_share: np.ndarray
  coverage: np.ndarray
  normal: np.ndarray
  depth: np.ndarray
  label: np.ndarray
  glint: np.ndarray
  fragments: Fragments
  lightness: float


def heads_folder() -> Path:
  """Where the head and its hair lie: `heads` in `DPR_SHARED`, or a folder of `DPR_ASSETS` or `heads` in one.

  Raises:
    BadInput: nowhere.
  """
  for folder in _folders():
    for place in (folder / "heads", folder):
      if (place / HEAD_FILE).is_file() and (place / HAIR_FILE).is_file():
        return place
  raise BadInput(
    f"--source heads: {HEAD_FILE} and {HAIR_FILE} are in no folder that DPR_ASSETS names (nor in heads of DPR_SHARED); "
    "dpr-jax convert-head makes them"
  )


def environments_folder() -> Path | None:
  """Where environment maps lie, `environments` in `DPR_SHARED` or in a folder of `DPR_ASSETS`; None: nowhere."""
  return next((folder / "environments" for folder in _folders() if (folder / "environments").is_dir()), None)


def _folders() -> list[Path]:
  named = [*os.environ.get("DPR_ASSETS", "").split(os.pathsep), os.environ.get("DPR_SHARED", "")]
  return [Path(folder).expanduser() for folder in named if folder]


class RenderedHeads:
  """Heads out of a seed, each under a soft light that is known; see the module's text.

  Attributes:
    ids: `head-00000000` and so on.
    rejected: none.
    made_from: `environment_maps`, the digest of all maps that training may see.
  """

  rejected = ()

  def __init__(self, count: int, size: int, seed: int):
    """Nothing is drawn yet.

    Args:
      count: how many.
      size: side of the portraits.
      seed: the same seed gives the same heads.

    Raises:
      BadInput: the files of the head are missing.
    """
    self._size, self._seed, self._folder = size, seed, heads_folder()
    self.ids = tuple(f"head-{number:08d}" for number in range(count))

  @functools.cached_property
  def made_from(self) -> Mapping[str, str]:
    """The maps' names and contents, since other maps make other heads of the same seed.

    Raises:
      BadInput: one cannot be read.
    """
    digest = hashlib.sha256()
    for path in chosen_maps(environments_folder(), held_out=False):
      try:
        content = path.read_bytes()
      except OSError as error:
        raise BadInput(f"{path}: cannot be read ({error.strerror})") from error
      digest.update(f"{path.name} {hashlib.sha256(content).hexdigest()}\n".encode())
    return {"environment_maps": digest.hexdigest()}

  def open(self) -> None:
    """Reads head, hair and environment maps."""
    self._model = load_people_model(self._folder)
    self._environments = load_environments(environments_folder(), held_out=False)

  def close(self) -> None:
    """Nothing is held open."""

  def load(self, id: str) -> Iterator[FramedPortrait]:
    """One head; `id` is one of `ids`."""
    yield portrait(self._model, self._environments, self._size, self._seed, id)


def portrait(model: PeopleModel, environments: list[Environment], size: int, seed: int, id: str) -> FramedPortrait:
  """A head with its truth, which depends on all of the arguments and nothing else."""
  view = draw_view(generator(seed, "head", id), model, size)
  rng = generator(seed, "head's picture", id)
  surface = render_surface(rng, model, view)
  light, place = _draw_light(rng, generator(seed, "light", id), environments, surface)
  usable = (surface.coverage > 0.5) & (surface.normal[..., 1] < -0.02)
  normal = fill_to_frame(surface.normal, usable)
  shading = sh.shading(normal, light)
  exposure = draw_exposure(rng, surface, shading)
  backdrop = draw_backdrop(rng, size, place)
  linear = surface.albedo * surface.open_share * (np.maximum(shading, 0) * exposure)[..., None]
  linear += surface.glint[..., None] * 0.7
  picture = linear * _draw_tint(rng) + (1 - surface.coverage)[..., None] * backdrop
  pixels = srgb.from_linear(_sensor(rng, picture))
  face = Face(view.landmarks)
  maps = FaceMaps(surface.normal, surface.label, *[view.landmarks[CONTOURS] - 0.5] * 2, _finite(surface))
  return FramedPortrait(id, pixels, face, Truth(maps, normal, np.float32(light * exposure), surface.depth))


def _finite(surface: Surface) -> np.ndarray:
  return np.where(surface.label == Label.BACKGROUND, -np.inf, surface.depth).astype(np.float32)


def draw_view(rng: np.random.Generator, model: PeopleModel, size: int, styles: str = "training") -> View:
  """A random person in a random pose, framed as the faces of photos are; `styles` as for `load_people_model`."""
  person = draw_person(rng, model, styles)
  # Two in three within 20 degrees, one in ten beyond 35.
  yaw = float(
    np.clip(rng.choice([rng.normal(0, 11), rng.normal(0, 24), rng.uniform(-60, 60)], p=[0.5, 0.35, 0.15]), -60, 60)
  )
  pitch, roll = rng.normal(-1, 8), rng.normal(0, 6)
  pose, body = rotation(yaw, pitch, roll) @ FRONTAL, rotation(0.35 * yaw, 0.2 * pitch, 0.15 * roll) @ FRONTAL
  camera = Camera(float(np.exp(rng.uniform(np.log(55), np.log(280)))), 1.0, (0.0, 0.0))
  turned = (person.landmarks - MIDDLE) @ pose.T
  framing = frame_face(Face(camera.project(turned)[:, :2]), size)
  # Finders of faces err a little.
  matrix = framing.matrix * np.exp(rng.normal(0, 0.02))
  matrix[:, 2] += (1 - matrix[0, 0] / framing.matrix[0, 0]) * size / 2 + rng.normal(0, 0.008, 2) * size
  upright = matrix[:, :2] / np.sqrt(np.linalg.det(matrix[:, :2]))  # of the picture, whose y points down
  upright = np.array([[upright[0, 0], -upright[0, 1], 0], [-upright[1, 0], upright[1, 1], 0], [0, 0, 1]])
  placed, normals = [], []
  for number, part in enumerate(person.parts):
    vertices, normal = _turn(part, pose, body, twisted=number == 0 or (part.material == HAIR).all())
    placed.append(vertices @ upright.T)
    normals.append(normal @ upright.T)
  # The picture is turned upright already, so that what is left of the framing is its scale and shift.
  straight = np.column_stack([np.eye(2) * np.sqrt(np.linalg.det(matrix[:, :2])), matrix[:, 2]])
  view = View(person, placed, normals, camera, straight, np.zeros((0, 2)), size)
  return view._replace(landmarks=view.project(turned @ upright.T)[:, :2])


def _turn(part, pose: np.ndarray, body: np.ndarray, *, twisted: bool) -> tuple[np.ndarray, np.ndarray]:
  """Vertices and normals of a part as the head is turned, and below the neck as the body is."""
  vertices = (part.vertices - MIDDLE) @ pose.T
  normals = part.normals @ pose.T
  if not twisted:
    return vertices, normals
  start, end = _TWIST
  share = ramp(part.vertices[:, 1], start, end)[:, None]
  pivot = np.array([0.0, start, -1.0])
  below = (part.vertices - pivot) @ body.T + (pivot - MIDDLE) @ pose.T
  normals = normals + share * (part.normals @ body.T - normals)
  length = np.linalg.norm(normals, axis=1, keepdims=True)  # 0 where no triangle is left
  return vertices + share * (below - vertices), normals / np.maximum(length, 1e-6)


def render_surface(rng: np.random.Generator, model: PeopleModel, view: View) -> Surface:
  """What a view shows, before any light; `rng` paints the skin's grain."""
  person, fine = view.person, view.size * SUPERSAMPLING
  counts = [len(part.vertices) for part in person.parts]
  starts = np.cumsum([0, *counts])
  vertices = np.concatenate([view.project(points) for points in view.placed])
  vertices[:, :2] = vertices[:, :2] * SUPERSAMPLING - 0.5
  triangles = np.concatenate([part.triangles + start for part, start in zip(person.parts, starts, strict=False)])
  owner = np.repeat(np.arange(len(person.parts)), [len(part.triangles) for part in person.parts])
  one_sided = np.array([part.one_sided for part in person.parts])[owner]
  strands = np.concatenate([part.strands for part in person.parts])
  shown = rasterize_fragments(vertices, triangles.astype(np.int32), one_sided, strands, fine)
  material = np.concatenate([part.material for part in person.parts])[shown.triangle]
  albedo, at = paint(rng, model, person, shown, owner[shown.triangle], material)
  normal = shown.gather(np.concatenate(view.normals))
  two_sided = ~one_sided[shown.triangle]
  normal[two_sided & (normal[:, 2] < 0)] *= -1
  normal /= np.maximum(np.linalg.norm(normal, axis=1, keepdims=True), 1e-6)
  of_head = owner[shown.triangle] == 0
  label = _labels(view, shown, of_head, material, at)
  glint = np.isin(material, (parts.LEFT_EYEBALL, parts.RIGHT_EYEBALL)) * _glint(rng, normal)

  everything = np.column_stack([albedo, normal, shown.depth, glint, np.ones(len(glint)), of_head])
  small = averaged(shown.place, everything, view.size, SUPERSAMPLING)
  coverage = small[..., 8]
  # Through gaps of the mesh, as in the corners of the eyes, one sees into the dark and not what is behind the head.
  whole = (small[..., 9] > 0.99).astype(np.uint8)
  coverage = np.maximum(coverage, cv2.morphologyEx(whole, cv2.MORPH_CLOSE, np.ones((5, 5), np.uint8)))
  share = np.maximum(small[..., 8], 1e-6)
  normals = small[..., 3:6] / np.maximum(np.linalg.norm(small[..., 3:6], axis=-1, keepdims=True), 1e-6)
  depth = np.where(small[..., 8] > 0, small[..., 6] / share, -np.inf).astype(np.float32)
  open_share = ambient_occlusion(depth, normals, _REACH * view.scale)
  labels = np.zeros(fine * fine, np.uint8)
  labels[shown.place] = label
  labels = labels.reshape(fine, fine)[::SUPERSAMPLING, ::SUPERSAMPLING].copy()
  labels[(coverage < 0.5) | (normals[..., 2] <= 0)] = Label.BACKGROUND
  return Surface(
    albedo=small[..., :3],
    open_share=_brightened(open_share, small[..., :3] / share[..., None]).astype(np.float32),
    coverage=coverage,
    normal=scene_axes(normals.reshape(-1, 3)).reshape(normals.shape).astype(np.float32),
    depth=depth,
    label=labels,
    glint=small[..., 7],
    fragments=shown,
    lightness=_lightness(person),
  )


def _lightness(person: Person) -> float:
  from data_gen.heads.pigments import skin_colour

  skin = skin_colour(np.array([person.look.melanin]), np.array([person.look.blood]))[0]
  return float(100 * color.lightness_of_luminance(skin @ LUMINANCE_WEIGHTS))


def _glint(rng: np.random.Generator, normal: np.ndarray) -> np.ndarray:
  """`[P]` in [0, 1]: where a window or lamp in front of the face is mirrored."""
  towards = np.array([rng.uniform(-0.35, 0.35), rng.uniform(0.05, 0.4), 1.0], np.float32)
  cosine = normal @ (towards / np.linalg.norm(towards))
  return np.clip((cosine - np.cos(np.radians(9))) / 0.006, 0, 1).astype(np.float32)


def _brightened(open_share: np.ndarray, albedo: np.ndarray) -> np.ndarray:
  """Ambient occlusion `[S, S, 3]` with the light that surfaces of an albedo throw on each other (Jimenez 2016)."""
  seen, albedo = open_share[..., None], np.clip(albedo, 0, 0.8)
  a, b, c = 2.0404 * albedo - 0.3324, -4.7951 * albedo + 0.6417, 2.7552 * albedo + 0.6903
  return np.maximum(seen, ((seen * a + b) * seen + c) * seen)


def _labels(
  view: View, shown: Fragments, on_head: np.ndarray, material: np.ndarray, at: dict[str, np.ndarray]
) -> np.ndarray:
  """`[P]` uint8 of `Label`: the face is what MediaPipe's outline surrounds on the head, less hair before it."""
  label = np.full(len(material), Label.BACKGROUND, np.uint8)
  kind = material[on_head]
  of_head = np.where(at["oval"] > 0.5, Label.SKIN, Label.NECK).astype(np.uint8)
  of_head[at["ear"] > 0.5] = Label.EAR
  look = view.person.look
  bearded = (look.beard > 0) & (at["beard"] > 0.4) | (look.moustache > 0) & (at["moustache"] > 0.4)
  feature = (at["brows"] > 0.3) | (at["lips"] > 0.4) | (at["lids"] > 0.3) | bearded
  of_head[(of_head == Label.SKIN) & feature] = Label.FEATURE
  of_head[kind >= parts.MOUTH] = Label.FEATURE
  of_head[at["collar"] > 0] = Label.BACKGROUND
  if view.person.wears_hair:
    of_head[(at["hairline"] > 0) & (kind <= parts.HEAD)] = Label.BACKGROUND
  label[on_head] = of_head
  # Glasses are worn on the face.
  rims = np.flatnonzero(material == GLASSES)
  outline = view.landmarks[OVAL] * SUPERSAMPLING - 0.5
  inside = np.zeros((view.size * SUPERSAMPLING,) * 2, np.uint8)
  cv2.fillConvexPoly(inside, cv2.convexHull(np.round(outline).astype(np.int32)), 1)
  label[rims] = np.where(inside.ravel()[shown.place[rims]] > 0, Label.FEATURE, Label.BACKGROUND)
  return label


def _draw_light(
  rng: np.random.Generator, prior: np.random.Generator, environments: list[Environment], surface: Surface
) -> tuple[np.ndarray, tuple[Environment, float] | None]:
  """A soft light `[9]`, and the environment map and its turn in degrees that it comes from, if it does."""
  place = None
  (drawn,) = BuiltInLights(color=False).draw(prior, 1)
  light = drawn.sh
  if environments and rng.random() > _ORIGINAL_LIGHT_SHARE:
    place = environments[rng.integers(len(environments))], float(rng.uniform(-180, 180))
    light = sh.rotate(place[0].light, sh.turn(place[1]))
    light = light * (0.8 / light[0])
  face = np.isin(surface.label, (Label.SKIN, Label.FEATURE))
  return soften(light, surface.normal[face]), place


def soften(light: np.ndarray, normals: np.ndarray) -> np.ndarray:
  """A light `[9]` blended with even light of the same mean shading until no part of a face is dark.

  Args:
    light: any light.
    normals: `[N, 3]` of the face.
  """
  shading = sh.shading(normals, light)
  mean, low = float(shading.mean()), float(np.percentile(shading, 5))
  even = np.eye(9)[0] * mean / float(sh.shading(normals[:1], np.eye(9)[0])[0])
  share = min(1.0, (1 - _LEAST_SHADING) / max(1 - low / mean, 1e-6))
  return (share * light + (1 - share) * even).astype(np.float32)


def draw_exposure(rng: np.random.Generator, surface: Surface, shading: np.ndarray) -> np.float32:
  """The factor on light by which a photographer, or a camera, would expose the face."""
  face = np.isin(surface.label, (Label.SKIN, Label.FEATURE))
  bright = ((surface.albedo * surface.open_share) @ LUMINANCE_WEIGHTS)[face] * shading[face]
  key, brightest = np.percentile(bright, (90, 99.9))
  # Dark skin is darker in a picture too, if by less than its albedo.
  wanted = 0.5 * (surface.lightness / 75) ** 1.1 * np.exp(rng.normal(0, 0.25))
  return np.float32(min(wanted / key, 0.9 / brightest))


def draw_backdrop(rng: np.random.Generator, size: int, place: tuple[Environment, float] | None) -> np.ndarray:
  """What is behind the head, `[S, S, 3]` linear: plain, dark, a gradient, or the blurred place that lights it."""
  if place is not None and rng.random() < 0.75:
    return _blurred_place(rng, size, *place)
  colour = np.exp(rng.uniform(np.log(0.004), np.log(0.85))) * np.exp(rng.normal(0, 0.3, 3))
  if rng.random() < 0.25:
    colour = colour * 0.05
  other = colour * np.exp(rng.normal(0, 0.5)) * np.exp(rng.normal(0, 0.1, 3))
  angle, (y, x) = rng.uniform(0, 2 * np.pi), np.mgrid[:size, :size] / size - 0.5
  along = x * np.cos(angle) + y * np.sin(angle) if rng.random() < 0.5 else 1.4 * np.hypot(x, y) - 0.5
  share = np.clip(along + 0.5, 0, 1)[..., None]
  cloudy = cv2.resize(rng.normal(0, rng.uniform(0, 0.25), (6, 6)), (size, size), interpolation=cv2.INTER_CUBIC)
  return np.clip((colour + share * (other - colour)) * np.exp(cloudy)[..., None], 0, 1).astype(np.float32)


def _blurred_place(rng: np.random.Generator, size: int, environment: Environment, degrees: float) -> np.ndarray:
  half = np.tan(np.radians(rng.uniform(14, 35)))
  lift = rng.uniform(-0.1, 0.25)
  side = 64
  y, x = (np.mgrid[:side, :side] + 0.5) / side * 2 - 1
  towards = np.stack([x * half, np.ones_like(x), -y * half + lift], axis=-1)
  towards = towards @ sh.turn(degrees)  # the inverse rotation, of row vectors
  seen = look_up(environment.radiance, towards)
  seen = seen * np.exp(rng.uniform(np.log(0.15), np.log(1.0))) / max(float(np.median(seen)), 0.05)
  seen = cv2.GaussianBlur(np.minimum(seen, 8), (0, 0), rng.uniform(0.8, 4))
  picture = cv2.resize(seen, (size, size), interpolation=cv2.INTER_CUBIC)
  return np.clip(1 - np.exp(-np.maximum(picture, 0)), 0, 1).astype(np.float32)


def _draw_tint(rng: np.random.Generator) -> np.ndarray:
  """A cast of colour `[3]` of luminance 1: white balances err."""
  tint = np.exp(rng.normal(0, 1) * np.array([0.06, 0.0, -0.08]) + rng.normal(0, 0.015, 3))
  return np.float32(tint / (LUMINANCE_WEIGHTS @ tint))


def _sensor(rng: np.random.Generator, linear: np.ndarray) -> np.ndarray:
  """A picture with the blur and noise of a camera."""
  blur, noise = rng.uniform(0, 0.7), rng.uniform(0, 0.012)
  if blur > 0.25:
    linear = cv2.GaussianBlur(linear, (0, 0), blur)
  grain = rng.standard_normal(linear.shape, np.float32)
  return linear + np.float32(noise) * np.sqrt(np.maximum(linear, 0) * 0.5 + 0.001) * grain
