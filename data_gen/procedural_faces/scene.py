"""The face as the camera sees it, but for its light: exact normals, albedo, labels, depth."""

from typing import NamedTuple

import numpy as np

from data_gen.face_maps import Label
from data_gen.procedural_faces import attachments, paint, visibility
from data_gen.procedural_faces.head import EYE_RADIUS, IRIS_RADIUS, Features, Grid, head
from data_gen.procedural_faces.identity import ProceduralFace
from data_gen.procedural_faces.textures import Textures, draw_textures
from data_gen.rasterize import rasterize, to_scene_axes
from dpr_jax.light import sh as sh_lib

_HEAD, _EAR, _HAIR, _CLOTHES = 1, 2, 3, 4
to_mesh_axes = to_scene_axes  # its own inverse
_CORNEA_RADIUS, _CORNEA_CENTRE = 7.8, 5.0  # millimetres; its centre lies so far in front of the eyeball's


class Scene(NamedTuple):
  """A face from where the camera is.

  Attributes:
    normal: `[S, S, 3]` float32, unit, in the axes of `dpr_jax.light.sh`; zero where nothing is.
    albedo: `[S, S, 3]` float32, linear RGB.
    label: `[S, S]` uint8 of `Label`; hair and clothes are BACKGROUND.
    depth: `[S, S]` float32, pixels towards the viewer from between the ears; -inf where nothing is.
    foreground: `[S, S]` bool: head, hair or clothes.
    cornea: `[S, S, 3]` float32: normals of the eyes' wet surface, which reflects; zero elsewhere.
    occlusion: `[S, S, 9]` float32; occlusion @ light is the part of `sh.shading(normal, light)` that head, hair and
      clothes keep from the pixel. Zero unless asked for.
    backdrop: `[S, S, 3]` float32, linear RGB radiance.
    landmarks: `[7, 2]` float64, x and y in pixels: left and right pupil, tip of the nose, left and right corner of the
      mouth, middle of the chin, middle of the hairline.
    vertices: `[V, 3]` float32 in pixels, z towards the viewer: what casts shadows.
    triangles: `[T, 3]` int32.
    millimetre: pixels per millimetre.
  """

  normal: np.ndarray
  albedo: np.ndarray
  label: np.ndarray
  depth: np.ndarray
  foreground: np.ndarray
  cornea: np.ndarray
  occlusion: np.ndarray
  backdrop: np.ndarray
  landmarks: np.ndarray
  vertices: np.ndarray
  triangles: np.ndarray
  millimetre: float


class _Camera(NamedTuple):
  """Weak perspective: a rotation `[3, 3]` into x right, y up, z to the viewer; pixels per millimetre; offset `[2]`."""

  rotation: np.ndarray
  scale: float
  offset: np.ndarray

  def project(self, points: np.ndarray) -> np.ndarray:
    """Points `[..., 3]` of the head, in millimetres -> in mesh axes, in pixels."""
    x, y, z = np.moveaxis(points @ self.rotation.T * self.scale, -1, 0)
    return np.stack([x + self.offset[0], self.offset[1] - y, z], axis=-1)

  def turn(self, directions: np.ndarray) -> np.ndarray:
    """Directions `[..., 3]` of the head -> in mesh axes."""
    return directions @ self.rotation.T * (1, -1, 1)


def _rotation(face: ProceduralFace) -> np.ndarray:
  yaw, pitch, roll = np.radians([face.yaw, face.pitch, face.roll])
  turn = np.array([[np.cos(yaw), 0, np.sin(yaw)], [0, 1, 0], [-np.sin(yaw), 0, np.cos(yaw)]])
  nod = np.array([[1, 0, 0], [0, np.cos(pitch), np.sin(pitch)], [0, -np.sin(pitch), np.cos(pitch)]])
  lean = np.array([[np.cos(roll), np.sin(roll), 0], [-np.sin(roll), np.cos(roll), 0], [0, 0, 1]])
  return lean @ nod @ turn


def _points_of_interest(face: ProceduralFace) -> np.ndarray:
  features = Features(face)
  return np.array(
    [
      [-features.eye, 0, features.eye_z + EYE_RADIUS],
      [features.eye, 0, features.eye_z + EYE_RADIUS],
      [0, features.tip, 91 + face.nose_tip],
      [-features.half_mouth, features.mouth_corner, 83],
      [features.half_mouth, features.mouth_corner, 83],
      [0, features.chin, 94],
      [0, face.hairline, 88],
    ]
  )


def _frame(face: ProceduralFace, size: int) -> _Camera:
  """The camera that sees CelebA-HQ's square (see `dpr_jax.portrait.faces.frame_face`), but upright."""
  rotation = _rotation(face)
  points = (_points_of_interest(face) @ rotation.T)[:, :2]
  between, mouth = points[:2].mean(axis=0), points[3:5].mean(axis=0)
  half_side = max(2.0 * np.hypot(*(points[1] - points[0])), 1.8 * np.hypot(*(mouth - between)))
  centre = between + 0.1 * (mouth - between)
  scale = size / (2 * half_side)
  return _Camera(rotation, scale, (size - 1) / 2 - scale * centre * (1, -1))


def geometry(face: ProceduralFace, size: int, occluded: bool = False) -> Scene:
  """Everything about a face but its light.

  Args:
    face: from `draw_face`, or made by hand.
    size: side of the picture in pixels, 128 to 1024.
    occluded: whether the head shall shade itself from environment light too (precomputed radiance transfer: Sloan et
      al. 2002), as in a photo; otherwise shading is exactly `sh.shading` of the normals, as the estimators assume.
  """
  camera = _frame(face, size)
  textures = draw_textures(face)
  parts = _parts(face, textures, rows=int(np.clip(0.36 * size, 150, 320)))
  normals = [camera.turn(grid.normals) for _, grid in parts]
  grids = [grid._replace(points=camera.project(grid.points)) for _, grid in parts]
  # What casts shadows has open eyes: the lids' mesh would keep all light from the balls behind it.
  casters = [grids[0]._replace(present=~Features(face).between_lids(grids[0].chart)), *grids[1:]]
  hidden = _occlusion(casters, normals, camera.scale) if occluded else [grid.points[..., :0] for grid in grids]
  attributes = [np.concatenate(each, axis=-1) for each in zip(normals, (g.chart for g in grids), hidden, strict=True)]
  part, seen, depth = _see([number for number, _ in parts], grids, attributes, textures, size)
  normal, chart, hidden = np.split(seen, [3, 7], axis=-1)
  normal = _towards_viewer(normal)
  albedo, label = _colors(face, textures, chart, part)
  cornea = _look_into_eyes(face, textures, camera, chart, part, normal, depth, albedo)
  vertices, triangles = _joined([_thinned(grid, 1 if size < 512 else 2) for grid in casters])
  return Scene(
    normal=to_scene_axes(normal).astype(np.float32),
    albedo=albedo,
    label=label,
    depth=depth,
    foreground=part > 0,
    cornea=cornea,
    occlusion=hidden if occluded else np.zeros((size, size, 9), np.float32),
    backdrop=paint.paint_backdrop(face, size),
    landmarks=camera.project(_points_of_interest(face))[:, :2],
    vertices=vertices,
    triangles=triangles,
    millimetre=float(camera.scale),
  )


def _parts(face: ProceduralFace, textures: Textures, rows: int) -> list[tuple[int, Grid]]:
  parts = [(_HEAD, head(face, rows)), *((_EAR, ear) for ear in attachments.ears(face, rows // 6))]
  if (hair := attachments.hair(face, round(0.75 * rows), textures.locks)) is not None:
    parts.append((_HAIR, hair))
  return [*parts, (_CLOTHES, attachments.clothes(face, rows // 4))]


def _see(numbers, grids, attributes, textures, size):
  """Which part each pixel shows `[S, S]`, 0 for none, with the attributes `[S, S, C]` and the depth `[S, S]` there."""
  part = np.zeros((size, size), np.uint8)
  seen = np.zeros((size, size, attributes[0].shape[-1]), np.float32)
  depth = np.full((size, size), -np.inf, np.float32)
  for number, grid, values in zip(numbers, grids, attributes, strict=True):
    layers = [grid]
    if number == _HAIR:  # its frayed edge, and behind the gaps in it whatever is solid
      layers.append(grid._replace(present=paint.solid(grid.chart)))
    for layer in layers:
      corners = layer.points.reshape(-1, 3)
      maps, near = rasterize(corners, layer.triangles, values.reshape(len(corners), -1), size, size)
      nearer = np.nonzero(near > depth)
      if number == _HAIR:
        covered = paint.covers(textures, maps[nearer][:, 3:7])
        nearer = tuple(axis[covered] for axis in nearer)
      part[nearer], seen[nearer], depth[nearer] = number, maps[nearer], near[nearer]
  return part, seen, depth


def _towards_viewer(normal: np.ndarray) -> np.ndarray:
  """Interpolated normals `[S, S, 3]` in mesh axes -> of unit length (or zero), none of them away from the viewer."""
  x, y, z = np.moveaxis(normal, -1, 0)
  # Far away: the inside of a part, seen through its open edge. A little: rounding on an outline, where z is 0.
  side = np.where(z < -0.35, -1, 1)
  normal = np.stack([side * x, side * y, np.maximum(side * z, 0)], axis=-1)
  length = np.sqrt(np.einsum("hwc,hwc->hw", normal, normal))
  return normal / np.where(length == 0, 1, length)[..., None]


def _colors(face, textures, chart, part):
  """Albedo and labels; the eyes still closed."""
  albedo, label = np.zeros((*part.shape, 3), np.float32), np.zeros(part.shape, np.uint8)
  skin, ear, hair, clothes = (part == number for number in (_HEAD, _EAR, _HAIR, _CLOTHES))
  albedo[skin], label[skin] = paint.paint_head(face, textures, chart[skin])
  albedo[ear], label[ear] = paint.paint_ears(face, textures, chart[ear]), Label.EAR
  albedo[hair] = paint.paint_hair(face, textures, chart[hair])
  albedo[clothes] = paint.paint_clothes(face, textures, chart[clothes])
  return albedo, label


def _look_into_eyes(face, textures, camera, chart, part, normal, depth, albedo):
  """Opens the lids: puts the eyeballs into normal, depth and albedo; returns the normals of the corneas."""
  cornea = np.zeros_like(albedo)
  features = Features(face)
  pixels = np.nonzero((part == _HEAD) & (np.abs(chart[..., 1]) < 14))
  rows, columns = (axis[features.between_lids(chart[pixels])] for axis in pixels)
  # The corners, which no ball fills, keep the shape of the lids.
  beyond = np.full(len(rows), EYE_RADIUS)
  albedo[rows, columns] = paint.paint_eyeball(face, textures, chart[rows, columns], beyond, 0 * beyond)
  for side in (-1, 1):
    centre = camera.project(np.array([side * features.eye, features.eye_y, features.eye_z]))
    mm = (np.stack([columns, rows], axis=1) - centre[:2]) / camera.scale
    hit = (np.sum(mm**2, axis=1) < (0.97 * EYE_RADIUS) ** 2) & (np.sign(chart[rows, columns, 0]) == side)
    at, mm = (rows[hit], columns[hit]), mm[hit]
    ball = _bulge(mm / EYE_RADIUS)
    right, up = np.radians([face.gaze_right - 1.5 * side, face.gaze_up])
    axis = np.array([np.sin(right) * np.cos(up), np.sin(up), np.cos(right) * np.cos(up)])
    x, y, _ = local = (ball * (1, -1, 1) @ camera.rotation).T
    from_axis = EYE_RADIUS * np.arccos(np.clip(axis @ local, -1, 1))
    albedo[at] = paint.paint_eyeball(face, textures, chart[at], from_axis, np.arctan2(y, x))
    normal[at] = ball
    depth[at] = centre[2] + camera.scale * EYE_RADIUS * ball[:, 2]
    wet = _bulge((mm - _CORNEA_CENTRE * camera.turn(axis)[:2]) / _CORNEA_RADIUS)
    cornea[at] = to_scene_axes(np.where(from_axis[:, None] < IRIS_RADIUS, wet, ball))
  return cornea


def _bulge(across: np.ndarray) -> np.ndarray:
  """Unit normals `[N, 3]` of a sphere, in mesh axes, from their x and y."""
  return np.column_stack([across, np.sqrt(np.maximum(1 - np.sum(across**2, axis=1), 0))])


def _joined(grids: list[Grid]) -> tuple[np.ndarray, np.ndarray]:
  """All parts as one mesh: `[V, 3]` float32 and `[T, 3]` int32."""
  vertices = [grid.points.reshape(-1, 3) for grid in grids]
  first = np.cumsum([0, *map(len, vertices[:-1])])
  triangles = [grid.triangles + start for grid, start in zip(grids, first, strict=True)]
  return np.concatenate(vertices).astype(np.float32), np.concatenate(triangles).astype(np.int32)


def _thinned(grid: Grid, spacing: int) -> Grid:
  return grid.thinned(*(_every(length, spacing) for length in grid.points.shape[:2]))


def _occlusion(grids: list[Grid], normals: list[np.ndarray], scale: float, directions: int = 80) -> list[np.ndarray]:
  """`Scene.occlusion` at the points of grids, `[R, C, 9]` each: found about every 4 millimetres, linear between."""
  spacing = len(grids[0].points) // 50
  thin = [_thinned(grid, spacing) for grid in grids]
  vertices, triangles = _joined(thin)
  normals, _ = _joined([_thinned(g._replace(points=n), spacing) for g, n in zip(grids, normals, strict=True)])
  seen = normals[:, 2] > -0.2
  normals, points = normals[seen], vertices[seen] + 1.8 * scale * normals[seen]
  hidden = np.zeros((len(vertices), 9), np.float32)
  for direction in visibility.sphere(directions).astype(np.float32):
    towards = to_mesh_axes(direction)
    cosine = np.maximum(normals @ towards, 0)
    facing = cosine > 0
    cosine[facing] *= 1 - visibility.lit(vertices, triangles, points[facing], towards, 256)
    hidden[seen] += cosine[:, None] * sh_lib.basis(direction) * np.float32(4 * np.pi / directions)
  ends = np.cumsum([grid.points[..., 0].size for grid in thin])[:-1]
  return [
    _between(values.reshape(*small.points.shape[:2], 9), *(_every(n, spacing) for n in grid.points.shape[:2]))
    for values, small, grid in zip(np.split(hidden, ends), thin, grids, strict=True)
  ]


def _every(length: int, spacing: int) -> np.ndarray:
  """Numbers from 0 to length - 1, both ends among them, about `spacing` apart."""
  return np.unique(np.round(np.linspace(0, length - 1, (length - 1) // spacing + 1)).astype(int))


def _between(values: np.ndarray, rows: np.ndarray, columns: np.ndarray) -> np.ndarray:
  """Values at some rows and columns -> at all of them, bilinear."""
  down, right = (
    np.stack([np.interp(np.arange(at[-1] + 1), at, e) for e in np.eye(len(at))], axis=1).astype(np.float32)
    for at in (rows, columns)
  )
  return np.tensordot(right, np.tensordot(down, values, 1), axes=(1, 1)).swapaxes(0, 1)
