"""The square around a face that the network sees: cut out of the photo, and maps laid back over the photo."""

import numpy as np

from dpr_jax.base.native_libraries import import_native
from dpr_jax.image.photo import to_8_bits
from dpr_jax.portrait.faces import Framing

cv2 = import_native("cv2")


def cut_square(pixels: np.ndarray, framing: Framing) -> np.ndarray:
  """The framed face as a picture, `[S, S, 3]` uint8; where it reaches beyond the photo, the photo is mirrored."""
  reach = corners(framing)
  height, width = pixels.shape[:2]
  # A margin for the interpolation, and only what the photo has: the mirror then starts at the photo's edge.
  left, top = np.maximum(np.floor(reach.min(axis=0)).astype(int) - 2, 0)
  right, bottom = np.minimum(np.ceil(reach.max(axis=0)).astype(int) + 3, (width, height))
  part, matrix = pixels[top:bottom, left:right], shifted(framing.index_matrix, left, top)
  # A warp alone would skip pixels where it shrinks, and alias. So whole pixels are averaged first, down to under 4 for
  # a pixel of the square (memory must not grow with the photo), then a finer square is drawn, and averaged in turn.
  scale = 1 / np.sqrt(np.abs(np.linalg.det(matrix[:, :2])))
  shrink = max(1, int(scale / 2))
  if shrink > 1:
    rows, columns = (max(1, side // shrink) for side in part.shape[:2])
    part = cv2.resize(part[: rows * shrink, : columns * shrink], (columns, rows), interpolation=cv2.INTER_AREA)
    # Pixel j of the small picture is centred on pixel shrink * j + (shrink - 1) / 2 of the large one.
    matrix = np.column_stack([matrix[:, :2] * shrink, shifted(matrix, *[(shrink - 1) / 2] * 2)[:, 2]])
  finer = max(1, int(np.ceil(scale / shrink - 0.01)))
  matrix = np.column_stack([finer * matrix[:, :2], finer * matrix[:, 2] + (finer - 1) / 2])
  part, side = np.ascontiguousarray(to_8_bits(part)), framing.size * finer
  square = cv2.warpAffine(part, matrix, (side, side), flags=cv2.INTER_LINEAR, borderMode=cv2.BORDER_REFLECT_101)
  return cv2.resize(square, (framing.size, framing.size), interpolation=cv2.INTER_AREA)


def shifted(matrix: np.ndarray, left: int, top: int) -> np.ndarray:
  """`matrix` for coordinates that start at (left, top)."""
  return np.column_stack([matrix[:, :2], matrix[:, :2] @ (left, top) + matrix[:, 2]])


def corners(framing: Framing) -> np.ndarray:
  """The square's corners in the photo, `[4, 2]`."""
  side = framing.size - 1
  square = np.array([(0, 0), (side, 0), (side, side), (0, side)], float)
  return (square - framing.index_matrix[:, 2]) @ np.linalg.inv(framing.index_matrix[:, :2]).T


def edge_inside(framing: Framing, shape: tuple[int, ...]) -> np.ndarray:
  """`[S, S]` bool: border pixels of the square that lie inside a photo of `shape`."""
  edge = np.ones((framing.size, framing.size), bool)
  edge[1:-1, 1:-1] = False
  y, x = np.nonzero(edge)
  in_photo = (np.column_stack([x, y]) - framing.index_matrix[:, 2]) @ np.linalg.inv(framing.index_matrix[:, :2]).T
  edge[y, x] = ((in_photo > 0) & (in_photo < np.array(shape[1::-1]) - 1)).all(axis=1)
  return edge


def warp_to_photo(
  maps: np.ndarray,
  matrix: np.ndarray,
  left: int,
  top: int,
  shape: tuple[int, ...],
  border: int = cv2.BORDER_CONSTANT,
) -> np.ndarray:
  """Maps that `matrix` leads to from the photo, at a part of the photo's pixels, `[h, w, ...]`."""
  flags = cv2.INTER_LINEAR | cv2.WARP_INVERSE_MAP
  return cv2.warpAffine(maps, shifted(matrix, left, top), shape[1::-1], flags=flags, borderMode=border)
