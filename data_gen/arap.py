"""As-rigid-as-possible alignment: rendered maps are bent until their landmarks lie on the photo's.

Zhou et al. 2019, section 3.1; the deformation is that of Igarashi et al. 2005 with the energy of Sorkine & Alexa 2007,
as libigl solves it. The published pipeline takes its mesh from Shewchuk's Triangle, whose licence is not free; here it
is a Delaunay triangulation with a hexagonal grid of interior points.
"""

import igl
import numpy as np
from scipy import spatial

from data_gen.face_maps import FaceMaps, Label
from data_gen.rasterize import rasterize
from dpr_jax.base.errors import BadInput
from dpr_jax.base.native_libraries import import_native

cv2 = import_native("cv2")

_ITERATIONS = 100  # the published run's
_POINTS_A_SIDE = 50  # of the frame, corners included
_INTERIOR_POINTS = 913  # what a picture without landmarks gets, about; the published mesh has 913 beside its handles
_COINCIDENT = 0.1  # landmarks within about this many spacings of the frame's points are one handle
_LARGEST_MOVE = 0.25  # of a landmark, relative to the face's size
_LARGEST_FOLD = 0.01  # relative to the face's area; a jitter of 0.4% of the picture folds 0.1%


def align(maps: FaceMaps) -> FaceMaps:
  """Bends a rendered face so that `maps.landmarks` come to lie on `maps.detected`; the picture's frame stays.

  Landmarks outside the picture or nearly on its frame don't count: they would cross the frame's fixed points. Of
  landmarks that nearly coincide their mean counts.

  Returns:
    the maps in the photo's geometry (normals resampled linearly and made unit again, labels and depth from the
    nearest pixel), with `detected` as their landmarks.

  Raises:
    BadInput: landmarks that are not finite, all lie outside, would move by more than a quarter of the face's size, or
      cross.
    ValueError: `landmarks` and `detected` are not both `[K, 2]`.
  """
  if maps.landmarks.shape != maps.detected.shape or maps.landmarks.shape[1:] != (2,):
    raise ValueError(f"landmarks {list(maps.landmarks.shape)} and detected {list(maps.detected.shape)} must be [K, 2]")
  if not (np.isfinite(maps.landmarks).all() and np.isfinite(maps.detected).all()):
    raise BadInput("the face's landmarks are not all finite")
  height, width = maps.label.shape
  rest, target = _handles(maps, height, width)
  face_area = np.prod(np.ptp(maps.landmarks, axis=0))
  move = np.linalg.norm(target - rest, axis=1).max()
  if move > _LARGEST_MOVE * np.sqrt(face_area):
    raise BadInput(f"a landmark lies {move:.0f} pixels from where the fitted face has it: fit and photo disagree")
  vertices, triangles = mesh(rest, height, width)
  positions = np.concatenate([target, vertices[len(rest) :][: 4 * _POINTS_A_SIDE - 4]])
  moved = deform(vertices, triangles, np.arange(len(positions)), positions)
  folded = _signed_area(moved, triangles) <= 0
  fold = _signed_area(vertices, triangles)[folded].sum()
  if fold > _LARGEST_FOLD * face_area:
    raise BadInput(f"the landmarks cross: to align them would fold {fold / face_area:.0%} of the face over")
  bent = resample(maps, rest_coordinates(vertices, moved, triangles, height, width))
  return bent._replace(landmarks=maps.detected)


def _handles(maps: FaceMaps, height: int, width: int) -> tuple[np.ndarray, np.ndarray]:
  """The landmarks that count, `[H, 2]` each: where the rendered face has them, and where they go."""
  last = np.array([width - 1, height - 1])
  spacing = last / (_POINTS_A_SIDE - 1)
  inside = np.ones(len(maps.landmarks), bool)
  for points in (maps.landmarks, maps.detected):
    inside &= ((points >= spacing / 2) & (points <= last - spacing / 2)).all(axis=1)
  if not inside.any():
    raise BadInput("no landmark of the face lies inside the picture")
  cells = np.round(maps.landmarks[inside] / (spacing * _COINCIDENT))
  _, group, members = np.unique(cells, axis=0, return_inverse=True, return_counts=True)
  pairs = np.zeros((len(members), 4))
  np.add.at(pairs, group, np.concatenate([maps.landmarks, maps.detected], axis=1)[inside])
  return tuple(np.split(pairs / members[:, None], 2, axis=1))


def mesh(landmarks: np.ndarray, height: int, width: int) -> tuple[np.ndarray, np.ndarray]:
  """Triangulates a picture: landmarks, the frame, and a hexagonal grid that keeps away from both.

  Args:
    landmarks: `[K, 2]` distinct points inside the picture, in pixels.
    height: of the picture.
    width: of the picture.

  Returns:
    vertices: `[V, 2]` float64; the landmarks come first, then the 196 points on the frame.
    triangles: `[T, 3]`, all turning the same way, none degenerate; together they cover the picture once.
  """
  x, y = np.linspace(0, width - 1, _POINTS_A_SIDE), np.linspace(0, height - 1, _POINTS_A_SIDE)
  frame = [(u, v) for v in (0, height - 1) for u in x] + [(u, v) for u in (0, width - 1) for v in y[1:-1]]
  fixed = np.concatenate([landmarks, frame])
  pitch = np.sqrt(height * width / _INTERIOR_POINTS * 2 / np.sqrt(3))
  row, column = np.mgrid[: height / (pitch * np.sqrt(0.75)), -1 : width / pitch + 1]
  grid = np.stack([(column + row % 2 / 2) * pitch, row * pitch * np.sqrt(0.75)], axis=-1).reshape(-1, 2)
  grid = grid[((grid > 0) & (grid < [width - 1, height - 1])).all(axis=1)]
  distance, _ = spatial.KDTree(fixed).query(grid)
  vertices = np.concatenate([fixed, grid[distance > pitch / 2]])
  triangles = spatial.Delaunay(vertices).simplices
  area = _signed_area(vertices, triangles)
  triangles = np.where((area < 0)[:, None], triangles[:, ::-1], triangles)
  return vertices, triangles[np.abs(area) > 1e-9]


def deform(vertices: np.ndarray, triangles: np.ndarray, handles: np.ndarray, positions: np.ndarray) -> np.ndarray:
  """Moves a flat mesh as rigidly as possible while some of its vertices go where they are told.

  Args:
    vertices: `[V, 2]`.
    triangles: `[T, 3]` vertex numbers.
    handles: `[H]` distinct vertex numbers.
    positions: `[H, 2]`, where the handles go.

  Returns:
    `[V, 2]` float64, after 100 iterations from the rest position.
  """
  data = igl.ARAPData()
  data.max_iter = _ITERATIONS
  igl.arap_precomputation(vertices, triangles.astype(np.int64), 2, handles.astype(np.int32), data)
  return igl.arap_solve(positions, data, vertices)


def rest_coordinates(
  vertices: np.ndarray, moved: np.ndarray, triangles: np.ndarray, height: int, width: int
) -> np.ndarray:
  """Where each pixel of the bent picture comes from: `[H, W, 2]` float32, x and y at rest."""
  flat = np.pad(moved, ((0, 0), (0, 1)))
  return rasterize(flat, triangles, vertices, height, width)[0]


def resample(maps: FaceMaps, coordinates: np.ndarray) -> FaceMaps:
  """Reads normals, labels and depth at `coordinates` `[H, W, 2]`; landmarks stay as they are."""
  label = cv2.remap(maps.label, coordinates, None, cv2.INTER_NEAREST)
  normal = cv2.remap(maps.normal, coordinates, None, cv2.INTER_LINEAR)
  # Beside the background the normal is shorter, but not turned.
  normal /= np.maximum(np.linalg.norm(normal, axis=-1, keepdims=True), 1e-6)
  normal[label == Label.BACKGROUND] = 0
  # From the nearest pixel: a mean with the background would be infinitely far away.
  depth = cv2.remap(maps.depth, coordinates, None, cv2.INTER_NEAREST)
  return maps._replace(normal=normal, label=label, depth=depth)


def _signed_area(vertices, triangles):
  a, b, c = np.moveaxis(vertices[triangles], 1, 0)
  (x1, y1), (x2, y2) = (b - a).T, (c - a).T
  return (x1 * y2 - x2 * y1) / 2
