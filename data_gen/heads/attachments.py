"""What people wear on the head and below it: hair styles, hats, glasses and clothes.

All in the axes and cm of `data_gen.heads.morphable_head`.
"""

from typing import NamedTuple

import numpy as np

from data_gen.heads.hair import HairMesh
from data_gen.heads.materials import smooth_noise
from data_gen.heads.morphable_head import MorphableHead

# The other styles of the collection hide the front of the face.
STYLES = ("afro01", "braid01", "long01", "ponytail01", "short01", "short02", "short04")


class Mesh(NamedTuple):
  """A part beside the head.

  Attributes:
    vertices: `[N, 3]` in cm.
    triangles: `[M, 3]`, either way round.
    albedo: `[N, 3]` linear.
    two_sided: whether its triangles are sheets seen from both sides.
  """

  vertices: np.ndarray
  triangles: np.ndarray
  albedo: np.ndarray
  two_sided: bool


def hair(
  rng: np.random.Generator, style: HairMesh, color: np.ndarray, model: MorphableHead, vertices: np.ndarray
) -> Mesh:
  """A hair style on the head `vertices` `[V, 3]`, streaked along its strands."""
  placed = style.vertices + vertices[style.bind] - model.neutral[style.bind]
  return Mesh(placed, style.triangles, hair_albedo(rng, style.vertices, color), two_sided=True)


def hair_albedo(rng: np.random.Generator, points: np.ndarray, color: np.ndarray) -> np.ndarray:
  """`[N, 3]`: `color` with streaks that run down around the head."""
  streaks = smooth_noise(rng, points * (1, 0.15, 1), 0.9) + smooth_noise(rng, points, 5.0)
  return np.float32(color) * np.exp(np.float32(rng.uniform(0.15, 0.4)) * streaks)[:, None]


def glasses(rng: np.random.Generator, left_eye: np.ndarray, right_eye: np.ndarray, bridge: np.ndarray) -> list[Mesh]:
  """Rims, bridge and temples around the eyes' centres `[3]`; sometimes with dark lenses.

  Args:
    rng: the randomness.
    left_eye: centre of the subject's left eye, on its surface.
    right_eye: of the right eye.
    bridge: the place between them on the nose.
  """
  color = np.exp(rng.uniform(np.log(0.005), np.log(0.3))) * rng.uniform(0.5, 1, 3)
  radius = rng.uniform(0.08, 0.22)
  width, height = rng.uniform(2.0, 2.7), rng.uniform(1.5, 2.3)
  power = rng.uniform(2.0, 4.5)  # 2 is an ellipse, more a rounded rectangle
  drop, front = rng.uniform(0, 0.4), bridge[2] + rng.uniform(0.1, 0.5)
  angle = np.linspace(0, 2 * np.pi, 40, endpoint=False)
  shape = np.column_stack([np.cos(angle), np.sin(angle)])
  shape /= (np.abs(shape) ** power).sum(axis=1, keepdims=True) ** (1 / power)
  meshes = []
  dark = rng.random() < 0.25
  rims = []
  for eye in (left_eye, right_eye):
    x, y = eye[0] + shape[:, 0] * width, eye[1] - drop + shape[:, 1] * height
    # The frame curves around the face.
    rim = np.column_stack([x, y, front - 0.035 * x**2])
    rims.append(rim)
    meshes.append(_tube(np.vstack([rim, rim[:1]]), radius, color))
    if dark:
      lens = np.vstack([rim, rim.mean(axis=0)])
      around = np.arange(len(rim))
      triangles = np.column_stack([around, np.roll(around, -1), np.full(len(rim), len(rim))])
      tint = 0.01 * rng.uniform(0.3, 3) * rng.uniform(0.6, 1, 3)
      meshes.append(Mesh(lens, triangles, np.tile(tint, (len(lens), 1)), two_sided=True))
  inner = [rims[0][np.argmin(rims[0][:, 0])], rims[1][np.argmax(rims[1][:, 0])]]
  arch = (inner[0] + inner[1]) / 2 + (0, 0.3, 0.1)
  meshes.append(_tube(np.array([inner[0], arch, inner[1]]), radius, color))
  for rim, side in ((rims[0], 1), (rims[1], -1)):
    hinge = rim[np.argmax(side * rim[:, 0])]
    ear = np.array([side * rng.uniform(7.9, 8.3), 4.6, 0.5])
    meshes.append(_tube(np.array([hinge, hinge + np.array([side * 0.4, 0.3, -0.6]), ear]), radius, color))
  return meshes


def torso(rng: np.random.Generator) -> Mesh:
  """Shoulders and chest in plain or striped cloth, below the neck."""
  half = np.array([rng.uniform(17, 22), rng.uniform(9, 11), rng.uniform(7.5, 9.5)])
  top = -rng.uniform(14.0, 16.0)
  u, v = np.meshgrid(np.linspace(0, 2 * np.pi, 48), np.linspace(-np.pi / 2, np.pi / 2, 24))
  x, y, z = np.cos(v) * np.cos(u), np.sin(v), np.cos(v) * np.sin(u)
  power = 0.75
  points = np.stack([np.sign(c) * np.abs(c) ** power for c in (x, y, z)], axis=-1).reshape(-1, 3) * half
  points += (0, top - half[1], -3.5)
  rows, columns = u.shape
  start = (np.arange(rows - 1)[:, None] * columns + np.arange(columns - 1)).ravel()
  triangles = np.concatenate(
    [
      np.column_stack([start, start + columns, start + 1]),
      np.column_stack([start + 1, start + columns, start + columns + 1]),
    ]
  )
  return Mesh(points, triangles, cloth_albedo(rng, points), two_sided=True)


def cloth_albedo(rng: np.random.Generator, points: np.ndarray) -> np.ndarray:
  """`[N, 3]` linear albedo of a random cloth."""
  color = np.exp(rng.uniform(np.log(0.01), np.log(0.8))) * np.exp(rng.normal(0, 0.35, 3))
  albedo = np.tile(color, (len(points), 1))
  if rng.random() < 0.3:
    stripes = np.sin(points @ rng.standard_normal(3) * rng.uniform(1, 4)) > 0
    albedo[stripes] = rng.uniform(0.01, 0.8, 3)
  return np.clip(albedo * np.exp(0.08 * rng.standard_normal((len(points), 1))), 0.005, 0.9)


def _tube(line: np.ndarray, radius: float, color: np.ndarray, sides: int = 5) -> Mesh:
  """A tube along a polyline `[N, 3]`."""
  ahead = np.gradient(line, axis=0)
  ahead /= np.linalg.norm(ahead, axis=1, keepdims=True)
  across = np.cross(ahead, (0.05, 0.1, 1.0))
  across /= np.maximum(np.linalg.norm(across, axis=1, keepdims=True), 1e-6)
  up = np.cross(across, ahead)
  angle = np.arange(sides) * 2 * np.pi / sides
  ring = np.cos(angle)[:, None, None] * across + np.sin(angle)[:, None, None] * up
  points = (line + radius * ring).reshape(-1, 3)
  count = len(line)
  side, place = np.meshgrid(np.arange(sides), np.arange(count - 1), indexing="ij")
  a, b = side * count + place, (side + 1) % sides * count + place
  triangles = np.concatenate(
    [np.stack([a, b, a + 1], axis=-1).reshape(-1, 3), np.stack([a + 1, b, b + 1], axis=-1).reshape(-1, 3)]
  )
  return Mesh(points, triangles, np.tile(color, (len(points), 1)), two_sided=True)
