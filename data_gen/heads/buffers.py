"""Meshes to pixels in two steps: which triangle each pixel shows and where in it, then whatever is known at vertices.

Mesh axes are those of `data_gen.rasterize`: x to the right and y downwards in pixels (integers at pixel centres), z
towards the viewer.
"""

from typing import NamedTuple

import numba
import numpy as np

OPAQUE = np.float32(1e9)  # the `edge` of what has no frayed edge
_STRANDS = 64  # side of the table of strands


class Fragments(NamedTuple):
  """The P pixels of a picture that show a triangle.

  Attributes:
    place: `[P]` their places in the flattened picture.
    triangle: `[P]` int32.
    corners: `[P, 3]` int32 vertex numbers.
    weights: `[P, 3]` float32 barycentric coordinates.
    depth: `[P]` float32, z.
  """

  place: np.ndarray
  triangle: np.ndarray
  corners: np.ndarray
  weights: np.ndarray
  depth: np.ndarray

  def gather(self, attributes: np.ndarray) -> np.ndarray:
    """Values at vertices `[V, C]` -> `[P, C]` float32."""
    return _gather(np.ascontiguousarray(attributes, np.float32), self.corners, self.weights)

  def of(self, chosen: np.ndarray) -> "Fragments":
    """Those that `chosen` `[P]` bool says."""
    return Fragments(*(part[chosen] for part in self))


def rasterize_fragments(
  vertices: np.ndarray, triangles: np.ndarray, one_sided: np.ndarray, strands: np.ndarray, size: int
) -> Fragments:
  """The nearest triangle of each pixel of a square picture.

  Args:
    vertices: `[V, 3]` in mesh axes.
    triangles: `[T, 3]` int32.
    one_sided: `[T]` bool; of these only those count that go round counterclockwise seen with y up.
    strands: `[V, 3]` float32: u across hairs, v along them, and the distance in [0, 1] from the frayed edge of a sheet
      of hair, which has holes between its strands; `OPAQUE` for what has none.
    size: side in pixels.
  """
  number = np.full((size, size), -1, np.int32)
  depth = np.full((size, size), -np.inf, np.float32)
  weights = np.zeros((size, size, 3), np.float32)
  _fill(
    np.ascontiguousarray(vertices, np.float32),
    np.ascontiguousarray(triangles, np.int32),
    one_sided,
    np.ascontiguousarray(strands, np.float32),
    _strand_ends(),
    number,
    depth,
    weights,
  )
  place = np.flatnonzero(number.ravel() >= 0)
  triangle = number.ravel()[place]
  return Fragments(place, triangle, triangles[triangle], weights.reshape(-1, 3)[place], depth.ravel()[place])


def _strand_ends() -> np.ndarray:
  """Up to which distance from the edge each strand is missing, `[64, 64]` float32 in [0, 1]."""
  return np.random.default_rng(7).random((_STRANDS, _STRANDS), np.float32)


@numba.njit(cache=True, nogil=True)
def _fill(vertices, triangles, one_sided, strands, ends, number, depth, weights):
  height, width = depth.shape
  for t in range(len(triangles)):
    i, j, k = triangles[t, 0], triangles[t, 1], triangles[t, 2]
    x0, y0, z0 = vertices[i, 0], vertices[i, 1], vertices[i, 2]
    x1, y1, z1 = vertices[j, 0], vertices[j, 1], vertices[j, 2]
    x2, y2, z2 = vertices[k, 0], vertices[k, 1], vertices[k, 2]
    whole = (x1 - x0) * (y2 - y0) - (x2 - x0) * (y1 - y0)
    if whole == 0 or (one_sided[t] and whole > 0):
      continue
    left = int(max(np.ceil(min(x0, x1, x2)), 0))
    right = int(min(np.floor(max(x0, x1, x2)), width - 1))
    top = int(max(np.ceil(min(y0, y1, y2)), 0))
    bottom = int(min(np.floor(max(y0, y1, y2)), height - 1))
    frayed = min(strands[i, 2], strands[j, 2], strands[k, 2]) < 1
    for y in range(top, bottom + 1):
      for x in range(left, right + 1):
        a0 = (x1 - x) * (y2 - y) - (x2 - x) * (y1 - y)
        a1 = (x2 - x) * (y0 - y) - (x0 - x) * (y2 - y)
        a2 = (x0 - x) * (y1 - y) - (x1 - x) * (y0 - y)
        area = a0 + a1 + a2
        if area == 0 or min(a0, a1, a2) < 0 < max(a0, a1, a2):
          continue
        w0, w1, w2 = a0 / area, a1 / area, a2 / area
        z = w0 * z0 + w1 * z1 + w2 * z2
        if z <= depth[y, x]:
          continue
        if frayed:
          edge = w0 * strands[i, 2] + w1 * strands[j, 2] + w2 * strands[k, 2]
          u = w0 * strands[i, 0] + w1 * strands[j, 0] + w2 * strands[k, 0]
          v = w0 * strands[i, 1] + w1 * strands[j, 1] + w2 * strands[k, 1]
          if edge < ends[int(u) % ends.shape[0], int(v) % ends.shape[1]]:
            continue
        depth[y, x] = z
        number[y, x] = t
        weights[y, x, 0], weights[y, x, 1], weights[y, x, 2] = w0, w1, w2


@numba.njit(cache=True, nogil=True)
def _gather(attributes, corners, weights):
  count, channels = len(corners), attributes.shape[1]
  values = np.empty((count, channels), np.float32)
  for p in range(count):
    i, j, k = corners[p, 0], corners[p, 1], corners[p, 2]
    a, b, c = weights[p, 0], weights[p, 1], weights[p, 2]
    for channel in range(channels):
      values[p, channel] = a * attributes[i, channel] + b * attributes[j, channel] + c * attributes[k, channel]
  return values


def averaged(place: np.ndarray, values: np.ndarray, side: int, finer: int) -> np.ndarray:
  """Fragments' values over the pixels of a picture of which each has `finer` x `finer` of theirs.

  Args:
    place: `[P]`, in the flattened fine picture; elsewhere values are 0.
    values: `[P, C]` float32.
    side: S, of the picture.
    finer: how many to a side.

  Returns:
    `[S, S, C]` float32.
  """
  picture = np.zeros((side, side, values.shape[1]), np.float32)
  _add(place, np.ascontiguousarray(values, np.float32), finer, picture)
  return picture


@numba.njit(cache=True, nogil=True)
def _add(place, values, finer, picture):
  fine, share = picture.shape[1] * finer, np.float32(1) / (finer * finer)
  for p in range(len(place)):
    row, column = place[p] // fine // finer, place[p] % fine // finer
    for channel in range(picture.shape[2]):
      picture[row, column, channel] += values[p, channel] * share


def ambient_occlusion(depth: np.ndarray, normal: np.ndarray, reach: float) -> np.ndarray:
  """How much of even light reaches each pixel past the relief around it (Bavoil & Sainz 2008).

  Args:
    depth: `[H, W]` z in pixels towards the viewer; -inf where there is nothing.
    normal: `[H, W, 3]` unit, x right, y up, z towards the viewer.
    reach: how far blockers are looked for, in pixels.

  Returns:
    `[H, W]` float32 in [0, 1]; 1 where there is nothing.
  """
  steps = np.geomspace(1.2, max(reach, 2.0), 6).astype(np.float32)
  angles = (np.arange(10) + 0.5) * (2 * np.pi / 10)
  return _occlusion(
    np.ascontiguousarray(depth, np.float32),
    np.ascontiguousarray(normal, np.float32),
    np.stack([np.cos(angles), np.sin(angles)], axis=1).astype(np.float32),
    steps,
  )


@numba.njit(cache=True, nogil=True, fastmath={"nsz", "arcp", "contract", "afn", "reassoc"})
def _occlusion(depth, normal, directions, steps):
  height, width = depth.shape
  seen = np.ones((height, width), np.float32)
  farness = np.float32(1) / (np.float32(1.5) * steps[-1]) ** 2
  for y in range(height):
    for x in range(width):
      here = depth[y, x]
      if here == -np.inf:
        continue
      facing = max(normal[y, x, 2], np.float32(0.15))
      blocked = np.float32(0)
      for d in range(len(directions)):
        right, down = directions[d, 0], directions[d, 1]
        # The surface's own slope that way; y of normals points up.
        slope = -(normal[y, x, 0] * right - normal[y, x, 1] * down) / facing
        own = slope / np.sqrt(1 + slope * slope)
        most = np.float32(0)
        for s in range(len(steps)):
          step = steps[s]
          column, row = int(x + right * step + np.float32(0.5)), int(y + down * step + np.float32(0.5))
          if column < 0 or row < 0 or column >= width or row >= height:
            break
          climb = depth[row, column] - here
          if climb == -np.inf:
            continue
          squared = climb * climb + step * step
          fade = 1 - squared * farness
          if fade > 0:
            most = max(most, (climb / np.sqrt(squared) - own) * fade)
        blocked += most
      seen[y, x] = min(max(1 - blocked / len(directions), np.float32(0)), np.float32(1))
  return seen
