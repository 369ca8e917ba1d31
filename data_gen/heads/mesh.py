"""What the surface of a mesh is like at its vertices."""

import numba
import numpy as np


def vertex_normals(vertices: np.ndarray, triangles: np.ndarray) -> np.ndarray:
  """Unit normals `[V, 3]` of a mesh whose triangles go round counterclockwise seen from outside, y up."""
  return _vertex_normals(np.ascontiguousarray(vertices), np.ascontiguousarray(triangles, np.int32))


@numba.njit(cache=True, nogil=True)
def _vertex_normals(vertices, triangles):
  normals = np.zeros_like(vertices)
  for t in range(len(triangles)):
    i, j, k = triangles[t, 0], triangles[t, 1], triangles[t, 2]
    x, y, z = vertices[i, 0], vertices[i, 1], vertices[i, 2]
    ax, ay, az = vertices[j, 0] - x, vertices[j, 1] - y, vertices[j, 2] - z
    bx, by, bz = vertices[k, 0] - x, vertices[k, 1] - y, vertices[k, 2] - z
    nx, ny, nz = ay * bz - az * by, az * bx - ax * bz, ax * by - ay * bx
    for v in (i, j, k):
      normals[v, 0] += nx
      normals[v, 1] += ny
      normals[v, 2] += nz
  for v in range(len(normals)):
    length = np.sqrt(normals[v, 0] ** 2 + normals[v, 1] ** 2 + normals[v, 2] ** 2)
    if length > 0:
      for c in range(3):
        normals[v, c] /= length
  return normals
