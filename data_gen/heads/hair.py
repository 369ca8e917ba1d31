"""Hair styles as meshes on the morphable head.

In the axes and cm of `data_gen.heads.morphable_head`; `data_gen.heads.makehuman` makes their file.
"""

from collections.abc import Iterable
from pathlib import Path
from typing import NamedTuple

import numpy as np

from data_gen.heads.buffers import OPAQUE
from data_gen.heads.morphable_head import MorphableHead
from dpr_jax.base.errors import BadInput, reason_of
from dpr_jax.base.input_files import numpy_silenced

HAIR_FILE = "makehuman_hair/hair_on_ict.npz"  # in the folder of the head

_STRANDS_PER_UV = 260.0
_STRAND_LENGTHS_PER_UV = 9.0
_FRAYED = {"afro01": 0.6}  # cm from the edge within which sheets of hair have holes
_USUALLY_FRAYED = 1.1


class HairMesh(NamedTuple):
  """Hair on the neutral head.

  Attributes:
    vertices: `[N, 3]` in cm.
    triangles: `[M, 3]` of these vertices.
    bind: `[N]`, the head's vertex that each vertex moves with.
    corner: `[K]`, the vertex of each corner; a vertex that has several places in uv is several corners.
    corner_triangles: `[M, 3]` of corners.
    strands: `[K, 3]`, as for `buffers.rasterize_fragments`.
  """

  vertices: np.ndarray
  triangles: np.ndarray
  bind: np.ndarray
  corner: np.ndarray
  corner_triangles: np.ndarray
  strands: np.ndarray


def load_hair(path: Path, head: MorphableHead, names: Iterable[str]) -> dict[str, HairMesh]:
  """Reads hair styles of `hair_on_ict.npz`, by their names.

  Raises:
    BadInput: the file is missing or damaged, does not fit the head, or lacks one of the styles.
  """
  number = np.full(head.file_vertex.max() + 1, -1, np.int32)
  number[head.file_vertex] = np.arange(len(head.file_vertex))
  styles = {}
  try:
    # NumPy leaves a file open that it cannot read.
    with path.open("rb") as stream, numpy_silenced(), np.load(stream, allow_pickle=False) as file:
      for name in names:
        vertices, triangles = file[f"{name}_vertices"].astype(np.float64), file[f"{name}_faces"].astype(np.int32)
        uv, uv_triangles = file[f"{name}_uv"].astype(np.float32), file[f"{name}_face_uv"].astype(np.int32)
        bind = number[file[f"{name}_bind"]]
        whole = triangles.shape == uv_triangles.shape and vertices.shape == (len(bind), 3) and bind.min() >= 0
        if not whole or not (_within(triangles, len(bind)) and _within(uv_triangles, len(uv))):
          raise BadInput(f"{path}: the hair style {name} is damaged")
        pairs, inverse = np.unique(
          np.stack([triangles.ravel(), uv_triangles.ravel()], axis=1), axis=0, return_inverse=True
        )
        frayed = np.clip(_distance_from_edge(vertices, triangles) / _FRAYED.get(name, _USUALLY_FRAYED), 0, OPAQUE)
        strands = np.column_stack([uv[pairs[:, 1]] * (_STRANDS_PER_UV, _STRAND_LENGTHS_PER_UV), frayed[pairs[:, 0]]])
        styles[name] = HairMesh(
          vertices, triangles, bind, pairs[:, 0], inverse.reshape(-1, 3).astype(np.int32), strands.astype(np.float32)
        )
  except KeyError as error:
    raise BadInput(f"{path}: not a file of hair styles: {error.args[0]}") from error
  except BadInput:
    raise
  except Exception as error:  # zipfile, zlib and NumPy's parser of headers answer damage with nearly any exception
    raise BadInput(f"{path}: cannot be read as hair styles: {reason_of(error)}") from error
  return styles


def _within(numbers: np.ndarray, count: int) -> bool:
  return numbers.min() >= 0 and numbers.max() < count


def _distance_from_edge(vertices: np.ndarray, triangles: np.ndarray) -> np.ndarray:
  """`[N]` in cm, along the edges of a mesh, from the nearest edge that belongs to one triangle alone."""
  from scipy import sparse
  from scipy.sparse import csgraph

  edges = np.sort(triangles[:, [[0, 1], [1, 2], [2, 0]]].reshape(-1, 2), axis=1)
  edges, counts = np.unique(edges, axis=0, return_counts=True)
  rim = np.unique(edges[counts == 1])
  length = np.linalg.norm(vertices[edges[:, 0]] - vertices[edges[:, 1]], axis=1) + 1e-6
  graph = sparse.coo_matrix((length, (edges[:, 0], edges[:, 1])), (len(vertices), len(vertices)))
  if not len(rim):
    return np.full(len(vertices), np.inf)
  return csgraph.dijkstra(graph, directed=False, indices=rim, min_only=True)
