"""The surface that a face finder's landmarks span, as a network sees it: a second opinion on the shape of a face.

Axes of a mesh here: x to the right and y up in the plane of the photo, z towards the viewer.
"""

import numpy as np

from dpr_jax.base.arrays import smooth_step
from dpr_jax.base.native_libraries import import_native
from dpr_jax.network.shape import Surface
from dpr_jax.portrait.canonical_face import canonical_face
from dpr_jax.portrait.faces import Face, Framing

cv2 = import_native("cv2")

# MediaPipe's depth grows by this much too much per unit of height on the face, so that its normals point down. Measured
# on 799 frontal portraits against structure from motion: when a head turns, its landmarks move sideways by their true
# depth.
LEAN = 0.07
# Standard deviation of a blur, relative to the mesh's height: 468 points don't know ripples, nor the folds at nostrils.
_SMOOTHING = 0.012
_GROUPS = 16
_MARGIN = 0.06  # over which the surface gives way at its outline, in shares of the square's side


def face_mesh(face: Face) -> np.ndarray:
  """The mesh `[468, 3]` of the landmarks in pixels of the photo, its lean corrected; y is minus the photo's.

  The lean is a shear of depth along the height of the face: in the head's own frame z = z_true + LEAN * y. It is taken
  out of z alone, as the landmarks lie right in the photo, and along the way up of the head as the photo shows it.

  Raises:
    ValueError: the face has no depth.
  """
  if face.depth is None:
    raise ValueError("a face without depth has no mesh")
  count = len(canonical_face().vertices)  # the landmarks beyond are the irises
  mesh = np.column_stack([face.landmarks[:count] * (1, -1), face.depth[:count]])
  up = canonical_rotation(mesh)[:2, 1]
  mesh[:, 2] -= LEAN * (mesh[:, :2] - mesh[:, :2].mean(axis=0)) @ up / np.linalg.norm(up)
  return mesh


def canonical_rotation(mesh: np.ndarray) -> np.ndarray:
  """`[3, 3]`: from the canonical face to a mesh, with the best scale and shift (Umeyama 1991)."""
  canonical = canonical_face().vertices
  u, _, vt = np.linalg.svd((mesh - mesh.mean(axis=0)).T @ (canonical - canonical.mean(axis=0)))
  return u @ np.diag([1, 1, np.sign(np.linalg.det(u @ vt))]) @ vt


def mesh_surface(face: Face, framing: Framing, cells: int) -> Surface:
  """The mesh of a face in its square, as a batch of one, float32.

  Args:
    face: with depth.
    framing: of the square.
    cells: along a side of the square, at the resolution that a network knows shape at.

  Raises:
    ValueError: the face has no depth.
  """
  mesh, scale = face_mesh(face), cells / framing.size
  place = (mesh[:, :2] * (1, -1)) @ framing.matrix[:, :2].T + framing.matrix[:, 2]
  corners = np.column_stack([scale * place, scale * np.sqrt(abs(np.linalg.det(framing.matrix[:, :2]))) * mesh[:, 2]])
  corners -= (0.5, 0.5, 0)
  triangles = canonical_face().triangles
  picture = _draw(corners, triangles, _vertex_normals(corners, triangles), cells)
  known = np.isfinite(picture[..., 3])
  deviation = _SMOOTHING * float(np.ptp(corners[:, 1]))
  covered = cv2.GaussianBlur(known.astype(np.float32), (0, 0), deviation)[..., None]
  picture = cv2.GaussianBlur(np.where(known[..., None], picture, 0), (0, 0), deviation) / np.maximum(covered, 1e-6)
  normal = picture[..., :3] / np.maximum(np.linalg.norm(picture[..., :3], axis=-1, keepdims=True), 1e-6)
  inside = np.pad(known, 1).astype(np.uint8)  # what the picture cuts off ends there
  distance = cv2.distanceTransform(inside, cv2.DIST_L2, cv2.DIST_MASK_PRECISE)[1:-1, 1:-1] - 1
  weight = np.float32(smooth_step(distance / (_MARGIN * cells)))
  return Surface(normal[None], picture[None, ..., 3:] / cells, weight[None, ..., None])


def _vertex_normals(corners: np.ndarray, triangles: np.ndarray) -> np.ndarray:
  """The mean normal of the triangles around each vertex by their areas, `[V, 3]`, axes of `dpr_jax.light.sh`.

  Corners have y down; a triangle that faces the viewer goes round counterclockwise.
  """
  first, second, third = (corners[triangles[:, k]] for k in range(3))
  areas = np.cross(third - first, second - first)
  index = triangles.ravel()
  x, y, z = (np.bincount(index, np.repeat(area, 3), len(corners)) for area in areas.T)
  normals = np.stack([x, -z, -y], axis=-1)
  return normals / np.maximum(np.linalg.norm(normals, axis=-1, keepdims=True), 1e-9)


def _draw(corners: np.ndarray, triangles: np.ndarray, attributes: np.ndarray, cells: int) -> np.ndarray:
  """Attributes and z of the nearest triangle that faces the viewer at the middle of each cell, `[n, n, C + 1]` float32.

  -inf as the z of what none covers.
  """
  triangles = triangles[attributes[triangles, 1].max(axis=1) < 0]
  vertices = np.column_stack([attributes, corners[:, 2]])
  xy = corners[triangles, :2]
  first = np.clip(np.ceil(xy.min(axis=1)), 0, cells).astype(int)
  reach = (np.clip(np.floor(xy.max(axis=1)) + 1, 0, cells).astype(int) - first).max(axis=1)
  drawn = []
  # Those of about one size together: all in boxes of the largest would take much memory.
  for some in np.array_split(np.argsort(reach), _GROUPS):
    steps = np.arange(reach[some].max(initial=0))
    steps = np.stack(np.meshgrid(steps, steps), axis=-1).reshape(-1, 2)
    at = first[some, None] + steps  # the cells around each triangle: [T, K, 2]
    edges = xy[some, None] - at[:, :, None]
    following, last = np.roll(edges, -1, axis=2), np.roll(edges, -2, axis=2)
    shares = following[..., 0] * last[..., 1] - last[..., 0] * following[..., 1]
    area = shares.sum(axis=-1, keepdims=True)
    shares /= np.where(area == 0, np.inf, area)
    hit = (shares.min(axis=-1) >= 0) & (area[..., 0] != 0) & (at < cells).all(axis=-1)
    which, cell = np.nonzero(hit)
    values = np.einsum("nk,nkc->nc", shares[which, cell], vertices[triangles[some[which]]])
    drawn.append((at[which, cell], values))
  at, values = (np.concatenate(parts) for parts in zip(*drawn, strict=True))
  order = np.argsort(values[:, -1], kind="stable")  # of those at one cell the nearest is written last
  picture = np.zeros((cells, cells, values.shape[-1]), np.float32)
  picture[..., -1] = -np.inf
  picture[at[order, 1], at[order, 0]] = values[order]
  return picture
