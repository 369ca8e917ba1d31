"""Meshes in Wavefront OBJ files: vertices, texture coordinates, and polygons of three or four corners."""

from collections.abc import Sequence
from pathlib import Path
from typing import NamedTuple

import numpy as np

from dpr_jax.base.errors import BadInput
from dpr_jax.base.input_files import read_text

_MOST_OBJ_BYTES = 2**23  # The largest that the heads and their hair are made of has 2.6 MB.
_MOST_COORDINATE = 1e4  # No head is 100 m large, and half precision ends at 6.5e4.


class Mesh(NamedTuple):
  """A mesh in an OBJ file.

  Attributes:
    path: the file.
    vertices: `[V, 3]` float64.
    statements: the lines on polygons and their materials, as they stand in the file.
    uv: the lines on texture coordinates.
  """

  path: Path
  vertices: np.ndarray
  statements: list[str]
  uv: list[str]


class Surface(NamedTuple):
  """The polygons of a mesh.

  Attributes:
    corners: `[P, 4, 2]`, the numbers of vertices and of texture coordinates from 0 on; triangles have their last corner
      twice.
    is_quad: `[P]` bool.
    materials: the name of each polygon's material; empty where the file names none.
    uv: `[N, 2]` float64.
  """

  corners: np.ndarray
  is_quad: np.ndarray
  materials: list[str]
  uv: np.ndarray


def read_text_file(path: Path, most: int) -> str:
  """A text in UTF-8 of at most so many bytes.

  Raises:
    BadInput: the file cannot be read, has more, or is no such text.
  """
  try:
    return read_text(path, most)
  except OSError as error:
    raise BadInput(f"{path}: cannot be read ({error.strerror})") from error
  except ValueError as error:
    raise BadInput(f"{path}: is not a text in UTF-8") from error


def read_mesh(path: Path) -> Mesh:
  """Reads an OBJ file; polygons and texture coordinates stay text, which `read_surface` reads.

  Raises:
    BadInput: the file is missing or too large, or a vertex is not three coordinates.
  """
  vertices, uv, statements = [], [], []
  lists = {"v": vertices, "vt": uv, "f": statements, "usemtl": statements}
  for line in read_text_file(path, _MOST_OBJ_BYTES).splitlines():
    kept = lists.get(line.partition(" ")[0])
    if kept is not None:
      kept.append(line)
  return Mesh(path, read_coordinates(path, vertices, range(1, 4)), statements, uv)


def read_coordinates(path: Path, lines: list[str], columns: Sequence[int]) -> np.ndarray:
  """`[N, C]` float64: the numbers in these columns of each line.

  Raises:
    BadInput: a line lacks one, or one is not finite or too large.
  """
  if not lines:
    return np.zeros((0, len(columns)))
  try:
    coordinates = np.loadtxt(lines, usecols=columns, ndmin=2)
  except ValueError as error:
    raise BadInput(f"{path}: has coordinates that are not {len(columns)} numbers") from error
  if not (np.abs(coordinates) < _MOST_COORDINATE).all():
    raise BadInput(f"{path}: has coordinates that are not finite, or beyond {_MOST_COORDINATE:.0f}")
  return coordinates


def read_surface(mesh: Mesh) -> Surface:
  """Reads the polygons of a mesh.

  Raises:
    BadInput: a polygon has not three or four corners with both numbers, or names what does not exist.
  """
  corners, materials, material = [], [], ""
  try:
    for keyword, *words in map(str.split, mesh.statements):
      if keyword == "usemtl":
        material = " ".join(words)
      else:
        corners.append([[int(number) for number in word.split("/")[:2]] for word in words])
        materials.append(material)
    is_quad = np.array([len(polygon) for polygon in corners]) == 4
    padded = np.array([polygon + polygon[2:] if len(polygon) == 3 else polygon for polygon in corners], np.int64) - 1
    if padded.shape != (len(corners), 4, 2):
      raise ValueError
  except (ValueError, OverflowError) as error:
    raise BadInput(f"{mesh.path}: has a polygon that is not 3 or 4 corners VERTEX/TEXTURE") from error
  uv = read_coordinates(mesh.path, mesh.uv, range(1, 3))
  if (padded < 0).any() or (padded >= (len(mesh.vertices), len(uv))).any():
    raise BadInput(f"{mesh.path}: a polygon names a vertex that does not exist")
  return Surface(padded, is_quad, materials, uv)


def triangulate(surface: Surface, second: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
  """Cuts quads in two.

  Args:
    surface: the polygons.
    second: `[P]` bool, whether a quad is cut between its second and its fourth corner, and not the first and the third.

  Returns:
    `[T, 3, 2]` int32, the corners of the triangles; `[T]` int32, the polygon that each is of.
  """
  cut = np.where((surface.is_quad & second)[:, None], (0, 1, 3, 1, 2, 3), (0, 1, 2, 0, 2, 3))
  kept = np.stack([np.ones_like(surface.is_quad), surface.is_quad], axis=1)
  triangles = np.take_along_axis(surface.corners, cut[..., None], axis=1).reshape(-1, 2, 3, 2)[kept]
  return triangles.astype(np.int32), np.nonzero(kept)[0].astype(np.int32)
