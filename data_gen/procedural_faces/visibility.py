"""Who sees whom: depth maps from where the light comes."""

import numba
import numpy as np

from data_gen.rasterize import rasterize


def sphere(number: int) -> np.ndarray:
  """Unit directions `[N, 3]` spread evenly over the sphere (a Fibonacci lattice)."""
  z = 1 - (2 * np.arange(number) + 1) / number
  angle = np.arange(number) * np.pi * (3 - np.sqrt(5))
  radius = np.sqrt(1 - z * z)
  return np.stack([radius * np.cos(angle), radius * np.sin(angle), z], axis=1)


def disc(direction: np.ndarray, softness: float, number: int = 9) -> np.ndarray:
  """Unit directions `[N, 3]` spread evenly (a sunflower) over a disc around `direction`.

  Args:
    direction: `[3]`.
    softness: radius of the disc in degrees; 0 gives the direction alone.
    number: of directions otherwise.
  """
  direction = direction / np.linalg.norm(direction)
  if softness == 0:
    return direction[None]
  radius = np.tan(np.radians(softness)) * np.sqrt((np.arange(number) + 0.5) / number)
  angle = np.arange(number) * np.pi * (3 - np.sqrt(5))
  first, second = _across(direction)
  spread = direction + radius[:, None] * (np.cos(angle)[:, None] * first + np.sin(angle)[:, None] * second)
  return spread / np.linalg.norm(spread, axis=1, keepdims=True)


def _across(direction: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
  """Two unit vectors at right angles to `direction` and each other."""
  first = np.cross(direction, np.eye(3)[np.argmin(np.abs(direction))])
  first /= np.linalg.norm(first)
  return first, np.cross(direction, first)


def lit(vertices: np.ndarray, triangles: np.ndarray, points: np.ndarray, towards: np.ndarray, side: int) -> np.ndarray:
  """Whether a far lamp sees points past a mesh, by a depth map from where the lamp is (Williams 1978).

  All in the axes of `data_gen.rasterize`.

  Args:
    vertices: `[V, 3]` of what casts shadows.
    triangles: `[T, 3]`.
    points: `[N, 3]`, lifted off the mesh by more than a pixel of the depth map.
    towards: `[3]`, unit, towards the lamp.
    side: of the depth map, which just holds the mesh.

  Returns:
    `[N]` float32, 0 or 1, and between at the edges of shadows.
  """
  points, towards = np.asarray(points, np.float32), np.asarray(towards, np.float32)
  axes = np.stack([*_across(towards), towards], axis=1).astype(np.float32)
  turned = vertices @ axes
  low, high = turned[:, :2].min(axis=0), turned[:, :2].max(axis=0)
  scale = np.float32((side - 3) / (high - low).max())
  turned[:, :2] = (turned[:, :2] - low) * scale + 1
  nearest = rasterize(turned, triangles, np.zeros((len(turned), 0), np.float32), side, side)[1]
  at = points @ axes
  at[:, :2] = (at[:, :2] - low) * scale + 1
  return _compare(nearest, at)


@numba.njit(cache=True, nogil=True)
def _compare(nearest, at):
  """Percentage-closer filtering: four comparisons with the depth map, weighted as in bilinear interpolation."""
  share = np.empty(len(at), np.float32)
  last = len(nearest) - 2
  for n in range(len(at)):
    x, y, z = at[n]
    column, row = min(max(int(x), 0), last), min(max(int(y), 0), last)
    right, down = x - column, y - row
    top = (nearest[row, column] <= z) * (1 - right) + (nearest[row, column + 1] <= z) * right
    bottom = (nearest[row + 1, column] <= z) * (1 - right) + (nearest[row + 1, column + 1] <= z) * right
    share[n] = top * (1 - down) + bottom * down
  return share
