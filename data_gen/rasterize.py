"""Triangles to pixels: normals of a mesh, textures at its vertices, and a z-buffer that turns both into maps.

Mesh axes are those of the picture: x to the right and y downwards in pixels (integers at pixel centres), z towards the
viewer, so that larger is nearer.
"""

import numba
import numpy as np


def vertex_normals(vertices: np.ndarray, triangles: np.ndarray) -> np.ndarray:
  """The mean normal of the triangles around each vertex, weighted by their areas.

  Args:
    vertices: `[V, 3]` in mesh axes.
    triangles: `[T, 3]` vertex numbers; a triangle that faces the viewer goes round clockwise in the picture.

  Returns:
    `[V, 3]` float64 of unit length in mesh axes, outwards; zero for a vertex of no triangle, or of empty ones only.
  """
  corners = np.asarray(vertices, np.float64)[triangles]
  areas = np.cross(corners[:, 1] - corners[:, 0], corners[:, 2] - corners[:, 0])
  index = triangles.ravel()
  sums = [np.bincount(index, np.repeat(area, 3), len(vertices)) for area in areas.T]
  normals = np.stack(sums, axis=-1)
  return normals / np.maximum(np.linalg.norm(normals, axis=-1, keepdims=True), np.finfo(np.float64).tiny)


def to_scene_axes(normals: np.ndarray) -> np.ndarray:
  """Turns normals `[..., 3]` from mesh axes into those of `dpr_jax.light.sh`: x right, y into the scene, z up."""
  x, y, z = np.moveaxis(normals, -1, 0)
  return np.stack([x, -z, -y], axis=-1)


def rasterize(
  vertices: np.ndarray, triangles: np.ndarray, attributes: np.ndarray, height: int, width: int
) -> tuple[np.ndarray, np.ndarray]:
  """Interpolates per-vertex attributes over the nearest triangle of each pixel.

  Orthographic; back faces are drawn too. A pixel belongs to a triangle if its centre lies inside or on the edge, so
  triangles that share an edge leave no gap along it; of triangles at the same depth the first wins.

  Args:
    vertices: `[V, 3]` in mesh axes.
    triangles: `[T, 3]` vertex numbers, either way round.
    attributes: `[V, C]`.
    height: of the picture.
    width: of the picture.

  Returns:
    attributes: `[H, W, C]` float32, 0 where there is no triangle.
    depth: `[H, W]` float32, z; -inf where there is no triangle.

  Raises:
    ValueError: a wrong shape, a vertex number out of range, or a vertex that is not finite.
  """
  vertices = np.ascontiguousarray(vertices, np.float64)
  triangles = np.ascontiguousarray(triangles, np.int32)
  attributes = np.ascontiguousarray(attributes, np.float32)
  if vertices.ndim != 2 or vertices.shape[1] != 3:
    raise ValueError(f"vertices must be [V, 3], not {list(vertices.shape)}")
  if triangles.ndim != 2 or triangles.shape[1] != 3:
    raise ValueError(f"triangles must be [T, 3], not {list(triangles.shape)}")
  if attributes.ndim != 2 or len(attributes) != len(vertices):
    raise ValueError(f"attributes must be [{len(vertices)}, C], not {list(attributes.shape)}")
  if not np.isfinite(vertices).all():
    raise ValueError("the mesh has vertices that are not finite")
  if triangles.size and not 0 <= triangles.min() <= triangles.max() < len(vertices):
    raise ValueError(f"a triangle names a vertex outside 0 to {len(vertices) - 1}")
  picture = np.zeros((height, width, attributes.shape[1]), np.float32)
  depth = np.full((height, width), -np.inf, np.float32)
  _fill(vertices, triangles, attributes, picture, depth)
  return picture, depth


def normal_map(vertices: np.ndarray, triangles: np.ndarray, height: int, width: int) -> np.ndarray:
  """The normals of a mesh in the picture, in the axes of `dpr_jax.light.sh`.

  Args:
    vertices: `[V, 3]` in mesh axes.
    triangles: `[T, 3]` vertex numbers, those that face the viewer clockwise in the picture.
    height: of the picture.
    width: of the picture.

  Returns:
    `[H, W, 3]` float32 of unit length; zero where there is no mesh or one sees its inside.
  """
  normals, _ = rasterize(vertices, triangles, vertex_normals(vertices, triangles), height, width)
  length = np.sqrt(np.einsum("hwc,hwc->hw", normals, normals))
  normals /= np.where(normals[..., 2] > 0, length, np.inf)[..., None]
  return to_scene_axes(normals)


@numba.njit(cache=True, nogil=True)
def _fill(vertices, triangles, attributes, picture, depth):
  height, width = depth.shape
  for t in range(len(triangles)):
    i, j, k = triangles[t]
    x0, y0, z0 = vertices[i]
    x1, y1, z1 = vertices[j]
    x2, y2, z2 = vertices[k]
    # Clipped before they become integers, which hold less than floats do.
    left = int(max(np.ceil(min(x0, x1, x2)), 0))
    right = int(min(np.floor(max(x0, x1, x2)), width - 1))
    top = int(max(np.ceil(min(y0, y1, y2)), 0))
    bottom = int(min(np.floor(max(y0, y1, y2)), height - 1))
    for y in range(top, bottom + 1):
      for x in range(left, right + 1):
        # Twice the areas of the triangles that the pixel makes with each edge. Seen from the other side of an edge the
        # same number comes out with the other sign, to the last bit: no pixel falls between two triangles.
        a0 = (x1 - x) * (y2 - y) - (x2 - x) * (y1 - y)
        a1 = (x2 - x) * (y0 - y) - (x0 - x) * (y2 - y)
        a2 = (x0 - x) * (y1 - y) - (x1 - x) * (y0 - y)
        area = a0 + a1 + a2
        if area == 0 or min(a0, a1, a2) < 0 < max(a0, a1, a2):
          continue
        w0, w1, w2 = a0 / area, a1 / area, a2 / area
        z = np.float32(w0 * z0 + w1 * z1 + w2 * z2)
        if z > depth[y, x]:
          depth[y, x] = z
          for c in range(picture.shape[2]):
            picture[y, x, c] = w0 * attributes[i, c] + w1 * attributes[j, c] + w2 * attributes[k, c]
