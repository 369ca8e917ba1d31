"""Where MediaPipe's 478 landmarks lie on the morphable head.

The places are in `landmarks.csv`, written by `data_gen.heads.registration`.
"""

from pathlib import Path
from typing import NamedTuple

import numpy as np

from data_gen.heads.morphable_head import MorphableHead
from dpr_jax.base.errors import BadInput
from dpr_jax.portrait.landmark_mesh import LEAN

COUNT = 478
CORRESPONDENCE = Path(__file__).with_name("landmarks.csv")


class SurfacePoints(NamedTuple):
  """Points on a mesh.

  Attributes:
    corners: `[N, 3]` vertex numbers.
    weights: `[N, 3]` barycentric coordinates.
  """

  corners: np.ndarray
  weights: np.ndarray

  def positions(self, vertices: np.ndarray) -> np.ndarray:
    """`[N, C]`: values at vertices `[V, C]` carried over to the points."""
    return np.einsum("nk,nkc->nc", self.weights, vertices[self.corners])


def load_correspondence(model: MorphableHead, path: str | Path = CORRESPONDENCE) -> SurfacePoints:
  """Where the 478 landmarks lie on a model.

  Args:
    model: the head.
    path: a table with a line for each landmark: three vertex numbers of the model's file, three weights.

  Raises:
    BadInput: no such table, or one that does not fit the model.
  """
  try:
    table = np.loadtxt(path, delimiter=",", comments="#", ndmin=2)
  except (OSError, ValueError) as error:
    raise BadInput(f"{path}: cannot be read as a table of landmarks: {error}".splitlines()[0]) from error
  if table.shape != (COUNT, 6) or not np.isfinite(table).all():
    raise BadInput(f"{path}: must have {COUNT} lines of 6 numbers")
  file_vertex = table[:, :3].astype(int)
  corners = np.searchsorted(model.file_vertex, file_vertex)
  if (corners >= len(model.file_vertex)).any() or (model.file_vertex[corners] != file_vertex).any():
    raise BadInput(f"{path}: names vertices that the head does not have")
  return SurfacePoints(corners, table[:, 3:])


def lean(points: np.ndarray, rotation: np.ndarray) -> np.ndarray:
  """Depth `[478]` as MediaPipe gives it, whose faces lean.

  The lean is the shear that `dpr_jax.portrait.landmark_mesh.face_mesh` takes out.

  Args:
    points: `[478, 3]`, x, y and true depth in pixels, y down.
    rotation: `[3, 3]`, how the head is turned; y up.
  """
  up = rotation[:2, 1] / np.linalg.norm(rotation[:2, 1])
  flat = points[:, :2] * (1, -1)
  return points[:, 2] + LEAN * (flat - flat[:468].mean(axis=0)) @ up
