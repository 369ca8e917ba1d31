"""Pictures of heads with exactly known landmarks: identity, expression, colours, hair, clothes, light and camera.

A head is turned about its own middle, then seen by a camera; its landmarks are points of its surface that the same
camera sees.
"""

from pathlib import Path
from typing import NamedTuple

import numba
import numpy as np

from data_gen.heads import attachments, lighting, materials
from data_gen.heads import morphable_head as parts
from data_gen.heads.environments import all_maps, read_map
from data_gen.heads.hair import HAIR_FILE, HairMesh, load_hair
from data_gen.heads.landmarks import SurfacePoints, lean, load_correspondence
from data_gen.heads.morphable_head import HEAD_FILE, MorphableHead, draw_expression, draw_identity, load_morphable_head
from data_gen.heads.pose import DEPTH_ORIGIN, FRONTAL, MIDDLE, Camera, rotation
from data_gen.heads.texture import PortraitTexture
from data_gen.rasterize import rasterize, vertex_normals
from dpr_jax.base.errors import BadInput
from dpr_jax.base.native_libraries import import_native
from dpr_jax.light import sh

cv2 = import_native("cv2")

_SUPERSAMPLING = 2
_MAP_SIZE = (128, 64)


class HeadModel(NamedTuple):
  """All that heads are drawn from.

  Attributes:
    head: the morphable head.
    regions: where its colours go.
    landmarks: where MediaPipe's 478 landmarks lie on it.
    hair: hair styles by name.
    environments: `[N, 3, 9]` lights of environment maps, or None.
  """

  head: MorphableHead
  regions: materials.Regions
  landmarks: SurfacePoints
  hair: dict[str, HairMesh]
  environments: np.ndarray | None


class RenderedHead(NamedTuple):
  """A picture of one head.

  Attributes:
    rgba: `[S, S, 4]` uint8, sRGB and coverage; colours are not multiplied by coverage.
    landmarks: `[478, 3]` float64: x and y in pixels from the picture's top left corner, and depth in pixels towards the
      viewer, as in `dpr_jax.portrait.faces.Face`, with MediaPipe's lean.
    yaw: degrees, as in `data_gen.face_mesh.HeadPose`.
    pitch: degrees.
    roll: degrees.
  """

  rgba: np.ndarray
  landmarks: np.ndarray
  yaw: float
  pitch: float
  roll: float


def load_head_model(folder: str | Path, environments: str | Path | None = None) -> HeadModel:
  """Reads `ict_facekit.npz` and `makehuman_hair/hair_on_ict.npz` of a folder.

  Args:
    folder: of the head and the hair.
    environments: a folder of latitude-longitude `.hdr` maps to light heads with, or None.

  Raises:
    BadInput: a file is missing or damaged.
  """
  folder = Path(folder)
  head = load_morphable_head(folder / HEAD_FILE)
  return HeadModel(
    head=head,
    regions=materials.regions(head),
    landmarks=load_correspondence(head),
    hair=load_hair(folder / HAIR_FILE, head, attachments.STYLES),
    environments=None if environments is None else _load_environments(Path(environments)),
  )


def draw_head(
  rng: np.random.Generator,
  model: HeadModel,
  *,
  size: int,
  yaw: float,
  pitch: float,
  roll: float,
  portrait: PortraitTexture | None = None,
) -> RenderedHead:
  """Draws a random head in a given pose; everything else comes from `rng` alone.

  The box of its landmarks fills 45 to 60 % of the picture.

  Args:
    rng: the randomness.
    model: from `load_head_model`.
    size: side S of the picture in pixels.
    yaw: degrees by which the nose turns to the picture's right.
    pitch: degrees by which it points up.
    roll: degrees by which the head leans clockwise in the picture.
    portrait: shape and colours taken from a photo; None draws both at random.
  """
  head, where = model.head, model.regions
  look = materials.draw_look(rng)
  identity = draw_identity(rng, head)
  expression = draw_expression(rng, head)
  if portrait is not None:
    look = look._replace(skin=portrait.skin, beard=0.0, moustache=0.0, shadow=0.0, freckles=0.0)
    identity = 0.35 * identity
    identity[: len(portrait.identity)] += portrait.identity * rng.uniform(0.7, 1.0)
    if rng.random() < 0.7:
      expression = np.clip(portrait.expression + 0.3 * expression * (rng.random() < 0.5), 0, 1)
  gaze = rng.normal(0, (12, 6)) if rng.random() < 0.6 else np.zeros(2)
  vertices = head.vertices(identity, expression, (gaze[0], gaze[1]))
  albedo = materials.skin_albedo(rng, head, where, look)
  if portrait is not None:
    share = (where.front * portrait.known)[:, None]
    albedo = albedo * (1 - share) + portrait.albedo * share
  materials.eye_and_mouth_albedo(rng, head, where, look, albedo)
  normals = vertex_normals(vertices, head.triangles)
  landmarks = model.landmarks.positions(vertices)

  pose = rotation(yaw, pitch, roll) @ FRONTAL
  turned = (landmarks.astype(np.float64) - MIDDLE) @ pose.T
  camera = _draw_camera(rng, turned, size)

  skin, meshes = vertices.copy(), []
  _dress(rng, model, look, skin, normals, albedo, meshes)
  meshes.extend(_wear_glasses(rng, landmarks) if rng.random() < 0.22 else [])
  chest = attachments.torso(rng)

  shown = head.triangles[shown_triangles(head, expression)]
  surfaces = [attachments.Mesh(skin, shown, albedo, two_sided=False), *meshes]
  placed = [_place(mesh.vertices, pose) for mesh in surfaces]
  body = rotation(yaw * rng.uniform(0.2, 0.9), 0.3 * pitch, 0.3 * roll) @ FRONTAL
  below = (0, rng.uniform(-1, 1), 0)
  surfaces.append(chest)
  placed.append(_place(chest.vertices + below, body))

  light = lighting.draw_lighting(rng, model.environments)
  return RenderedHead(
    picture_of(light, camera, surfaces, placed, np.flatnonzero(where.front > 0.5), size),
    _landmarks(camera, turned, pose),
    yaw,
    pitch,
    roll,
  )


def _landmarks(camera: Camera, turned: np.ndarray, pose: np.ndarray) -> np.ndarray:
  points = camera.project(turned)
  points[:, 2] -= camera.scale * (pose @ (DEPTH_ORIGIN - MIDDLE))[2]
  points[:, 2] = lean(points, pose @ FRONTAL.T)
  return points


def _place(vertices: np.ndarray, pose: np.ndarray) -> np.ndarray:
  return (vertices.astype(np.float32) - np.float32(MIDDLE)) @ np.float32(pose.T)


def _draw_camera(rng: np.random.Generator, turned: np.ndarray, size: int) -> Camera:
  distance = np.exp(rng.uniform(np.log(35), np.log(300)))
  points = Camera(distance, 1.0, (0.0, 0.0)).project(turned)
  low, high = points[:, :2].min(axis=0), points[:, :2].max(axis=0)
  scale = rng.uniform(0.45, 0.6) * size / (high - low).max()
  centre = size / 2 - scale * (low + high) / 2 + rng.uniform(-0.03, 0.03, 2) * size
  return Camera(distance, scale, (float(centre[0]), float(centre[1])))


def shown_triangles(head: MorphableHead, expression: np.ndarray) -> np.ndarray:
  """`[T]` bool: the inside of the mouth is left out of closed mouths."""
  mouth = ("jawOpen", "mouth")
  opened = sum(w for name, w in zip(head.expression_names, expression, strict=True) if name.startswith(mouth))
  return ~np.isin(head.region, parts.INSIDE_MOUTH) if opened < 0.02 else np.ones(len(head.region), bool)


def _dress(
  rng: np.random.Generator,
  model: HeadModel,
  look: materials.Look,
  skin: np.ndarray,
  normals: np.ndarray,
  albedo: np.ndarray,
  meshes: list[attachments.Mesh],
) -> None:
  """Gives the head hair, a hat or a scarf and a collar, moving its `skin` and painting its `albedo` in place."""
  head, where = model.head, model.regions
  base = skin.copy()
  kind = rng.choice(["style", "cropped", "bald", "hat", "scarf"], p=[0.58, 0.2, 0.08, 0.08, 0.06])
  x, y, z = head.neutral.T
  outer = where.skin > 0
  if kind in ("style", "cropped", "hat"):
    amount = where.scalp * (1.0 if kind != "cropped" else rng.uniform(0.4, 1))
    hair = attachments.hair_albedo(rng, head.neutral, look.hair)
    albedo[:] = albedo * (1 - amount[:, None]) + hair * amount[:, None]
    if kind == "cropped":
      skin += normals * (rng.uniform(0.05, 0.8) * where.scalp)[:, None]
  if kind == "style":
    style = model.hair[attachments.STYLES[rng.integers(len(attachments.STYLES))]]
    meshes.append(attachments.hair(rng, style, look.hair, head, base))
  if kind == "hat":
    edge = rng.uniform(7.0, 10.0) + rng.uniform(0.0, 0.35) * (z - 9)
    cover = np.clip((y - edge) / 0.4, 0, 1) * outer
  elif kind == "scarf":
    inside = (x / rng.uniform(6.2, 7.2)) ** 2 + ((y - 1.5) / rng.uniform(9.0, 10.5)) ** 2
    cover = np.clip(np.maximum(inside - 1, (4.5 - z) / 2) * 4, 0, 1) * outer
  if kind in ("hat", "scarf"):
    cloth = attachments.cloth_albedo(rng, head.neutral)
    albedo[:] = albedo * (1 - cover[:, None]) + cloth * cover[:, None]
    skin += normals * (rng.uniform(0.4, 1.2) * cover)[:, None]
  if rng.random() < 0.8:
    collar = np.clip((-rng.uniform(11.0, 14.5) - 0.25 * (z - 3) - y) / 0.3, 0, 1) * outer
    cloth = attachments.cloth_albedo(rng, head.neutral)
    albedo[:] = albedo * (1 - collar[:, None]) + cloth * collar[:, None]
    skin += normals * (0.4 * collar)[:, None]


def _wear_glasses(rng: np.random.Generator, landmarks: np.ndarray) -> list[attachments.Mesh]:
  left, right = landmarks[[362, 263]].mean(axis=0), landmarks[[33, 133]].mean(axis=0)
  return attachments.glasses(rng, left, right, landmarks[168])


def picture_of(
  light: lighting.Lighting,
  camera: Camera,
  surfaces: list[attachments.Mesh],
  placed: list[np.ndarray],
  metered: np.ndarray,
  size: int,
) -> np.ndarray:
  """`[S, S, 4]` uint8: the surfaces at their places in cm, shaded; exposed for vertices `metered` of the first."""
  starts = np.cumsum([0, *(len(points) for points in placed)])
  vertices = np.concatenate(placed)
  triangles = [(mesh.triangles + start).astype(np.int32) for mesh, start in zip(surfaces, starts, strict=False)]
  normals = np.concatenate(
    [vertex_normals(points, mesh.triangles) for mesh, points in zip(surfaces, placed, strict=True)]
  )
  towards = np.array([0, 0, camera.distance], np.float32) - vertices
  turned_away = np.einsum("vc,vc->v", normals, towards) < 0
  two_sided = np.concatenate([np.full(len(points), m.two_sided) for m, points in zip(surfaces, placed, strict=True)])
  normals[turned_away & two_sided] *= -1

  fine = camera.project(vertices)
  fine[:, :2] = fine[:, :2] * _SUPERSAMPLING - 0.5
  visible = np.concatenate(
    [
      part if mesh.two_sided else part[_towards_camera(fine, part)]
      for mesh, part in zip(surfaces, triangles, strict=True)
    ]
  )
  lit = np.ones(len(vertices), np.float32)
  if light.casts_shadow and light.lamp_color.any():
    lit = lighting.cast_shadow(vertices, np.concatenate(triangles), light.lamp)
  albedo = np.concatenate([mesh.albedo for mesh in surfaces], dtype=np.float32)
  shaded = lighting.shade(light, albedo, normals, lit)
  metered = metered[normals[metered, 2] > 0.2]
  level = shaded[metered].mean() if len(metered) else 1.0
  # Dark skin is darker in a picture too, if by less than its albedo.
  level /= max(albedo[metered].mean() / 0.3, 1e-3) ** 0.4 if len(metered) else 1.0
  shaded = np.clip(shaded * (light.brightness / max(level, 1e-6)), 0, 1)
  picture, depth = rasterize(fine, visible, shaded, size * _SUPERSAMPLING, size * _SUPERSAMPLING)
  covered = np.isfinite(depth).astype(np.float32)
  small = cv2.resize(np.dstack([picture, covered]), (size, size), interpolation=cv2.INTER_AREA)
  color = _srgb(small[..., :3] / np.maximum(small[..., 3:], 1e-6))
  return np.round(np.dstack([np.clip(color, 0, 1), small[..., 3]]) * 255).astype(np.uint8)


def _srgb(linear: np.ndarray) -> np.ndarray:
  return np.where(linear <= 0.0031308, 12.92 * linear, 1.055 * np.maximum(linear, 0.0031308) ** (1 / 2.4) - 0.055)


def _load_environments(folder: Path) -> np.ndarray:
  maps = all_maps(folder)
  if not maps:
    raise BadInput(f"{folder}: no environment maps (.hdr)")
  return np.stack([sh.environment(read_map(path, _MAP_SIZE)) for path in maps])


@numba.njit(cache=True, nogil=True)
def _towards_camera(picture, triangles):
  """`[M]` bool: triangles that go round counterclockwise as seen in a picture whose y points down."""
  towards = np.zeros(len(triangles), np.bool_)
  for t in range(len(triangles)):
    i, j, k = triangles[t, 0], triangles[t, 1], triangles[t, 2]
    x, y = picture[i, 0], picture[i, 1]
    towards[t] = (picture[j, 0] - x) * (picture[k, 1] - y) < (picture[k, 0] - x) * (picture[j, 1] - y)
  return towards
