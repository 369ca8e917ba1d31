"""Normals for the whole picture: the face's own, carried on smoothly to the frame (Zhou et al. 2019, section 3.1)."""

import numba
import numpy as np

from data_gen.face_maps import FaceMaps, Label
from dpr_jax.base.errors import BadInput
from dpr_jax.base.native_libraries import import_native

cv2 = import_native("cv2")

# Lengths of the published pipeline, in pixels of a picture of 1024 x 1024; other sizes scale them.
_PINHOLE = 7  # diameter of the gaps in the face that are closed
_EROSION = 16  # normals are unreliable this near to the face's edge
_MARGIN = 40  # how far beyond the picture the frame with its prescribed normals lies

_COARSEST = 16  # pixels a side, at least, of the coarsest grid
_CYCLES = 5


def extend_to_frame(maps: FaceMaps) -> tuple[np.ndarray, np.ndarray]:
  """Gives every pixel a normal: the face keeps its own, the rest solves Laplace's equation.

  Ears and neck are dropped and the face is eroded. A frame just outside the picture takes the normals of the face's
  contour in the same direction, with the slant of the contour's most grazing normal; between face and frame (and in an
  open mouth) each component is harmonic, solved at half resolution.

  Args:
    maps: a rendered face.

  Returns:
    normal: `[H, W, 3]` float32, unit everywhere, in the axes of `maps.normal`.
    mask: `[H, W]` bool, the pixels that kept the normal of `maps`.

  Raises:
    BadInput: as `face_mask` and `fill_to_frame`.
  """
  mask = face_mask(maps)
  return fill_to_frame(maps.normal, mask), mask


def face_mask(maps: FaceMaps) -> np.ndarray:
  """`[H, W]` bool: the pixels whose normals can be relied on, the face without ears, neck and its edge.

  Raises:
    BadInput: a normal is not finite, or no face is left.
  """
  if not np.isfinite(maps.normal).all():
    raise BadInput("the face's normals are not all finite")
  mask = _reliable(maps)
  if not mask.any():
    raise BadInput("no face is left once ears, neck and the face's edge are dropped")
  return mask


def fill_to_frame(normal: np.ndarray, mask: np.ndarray) -> np.ndarray:
  """Carries the normals inside a mask on to the frame, as `extend_to_frame` says.

  Args:
    normal: `[H, W, 3]`, unit and facing the camera wherever `mask` is.
    mask: `[H, W]` bool.

  Returns:
    `[H, W, 3]` float32, unit everywhere; inside the mask those of `normal`.

  Raises:
    BadInput: the mask holds too little.
  """
  scale = np.sqrt(mask.size) / 1024
  margin = round(_MARGIN / 2 * scale) + 1  # at half resolution; the frame is its outermost pixel
  filled, known = _half_with_margin(np.where(mask[..., None], normal, 0), mask, margin)
  if not known.any():
    raise BadInput("no face is left once its edge is dropped: it is too small")
  _set_frame(filled, known)
  filled = _full_without_margin(harmonic_fill(filled, known), *mask.shape)
  filled[mask] = normal[mask]
  # Never zero: all known normals face the camera, and so do their means.
  return filled / np.linalg.norm(filled, axis=-1, keepdims=True)


def _reliable(maps: FaceMaps) -> np.ndarray:
  """The face without ears, neck and its edge."""
  scale = np.sqrt(maps.label.size) / 1024
  # A pinhole that the rasteriser left would grow as the face's outer edge does: close it for the erosion, but don't
  # take a normal from it.
  usable = (maps.label != Label.BACKGROUND) & (maps.normal[..., 1] < 0)
  pinhole = 2 * round((_PINHOLE - 1) / 2 * scale) + 1
  closed = cv2.morphologyEx(
    usable.astype(np.uint8), cv2.MORPH_CLOSE, cv2.getStructuringElement(cv2.MORPH_ELLIPSE, (pinhole, pinhole))
  )
  closed[np.isin(maps.label, [Label.EAR, Label.NECK])] = 0
  erosion = 2 * max(round(_EROSION * scale), 1) + 1
  eroded = cv2.erode(closed, np.ones((erosion, erosion), np.uint8))
  return (eroded & cv2.erode(usable.astype(np.uint8), np.ones((3, 3), np.uint8))).astype(bool)


def _half_with_margin(normal: np.ndarray, mask: np.ndarray, margin: int) -> tuple[np.ndarray, np.ndarray]:
  """Averages pixels 2 x 2, within a margin of `margin` half-resolution pixels; known is what lies in `mask` fully."""
  height, width = mask.shape
  padding = ((2 * margin, 2 * margin + height % 2), (2 * margin, 2 * margin + width % 2))
  normal = np.pad(normal, (*padding, (0, 0)))
  known = np.pad(mask, padding).astype(np.float32)
  return _halve(normal), _halve(known) == 1


def _full_without_margin(normal: np.ndarray, height: int, width: int) -> np.ndarray:
  """The inverse of `_half_with_margin`."""
  top, left = normal.shape[0] - (height + 1) // 2, normal.shape[1] - (width + 1) // 2
  return _double(normal)[top : top + height, left : left + width]


def _set_frame(normal: np.ndarray, known: np.ndarray) -> None:
  """Writes the outermost pixels of `normal`, and marks them in `known`.

  The published pipeline measures angles about the picture's centre, and drops a photo whose centre is not on the face
  (or is in an open mouth). Here only the face's outline has to go around it; failing that, the outline's centroid
  serves.
  """
  outlines, _ = cv2.findContours(known.astype(np.uint8), cv2.RETR_EXTERNAL, cv2.CHAIN_APPROX_NONE)
  outline = max(outlines, key=cv2.contourArea)
  height, width = known.shape
  centre = np.array([width / 2, height / 2])
  if cv2.pointPolygonTest(outline, centre, False) < 0:
    centre = outline[:, 0].mean(axis=0)

  def angle(pixels):
    return np.arctan2(*(pixels - centre).T)

  order = np.argsort(angle(outline[:, 0]), kind="stable")
  outline = outline[order, 0]
  normals = normal[outline[:, 1], outline[:, 0]]
  frame = np.ones_like(known)
  frame[1:-1, 1:-1] = False
  following = np.searchsorted(angle(outline), angle(np.argwhere(frame)[:, ::-1]))
  normals = normals[np.minimum(following, len(outline) - 1)] * [1, 0, 1] + [0, normals[:, 1].max(), 0]
  normal[frame] = normals / np.linalg.norm(normals, axis=1, keepdims=True)
  known |= frame


def harmonic_fill(values: np.ndarray, known: np.ndarray) -> np.ndarray:
  """Solves Laplace's equation between known pixels, each component by itself.

  Every unknown pixel becomes the mean of its four neighbours. Full multigrid: the coarser picture's solution is where
  V-cycles of red-black Gauss-Seidel sweeps start (Briggs, Henson & McCormick, "A Multigrid Tutorial", chapters 3, 5).

  Args:
    values: `[H, W, 3]`; what unknown pixels hold is ignored.
    known: `[H, W]` bool, true on all of the border.

  Returns:
    `[H, W, 3]` float32, within 2e-4 of the exact solution for unit normals about a face.

  Raises:
    ValueError: a border pixel is unknown.
  """
  border = known.copy()
  border[1:-1, 1:-1] = True
  if not border.all():
    raise ValueError("Laplace's equation needs known values on all of the border")
  height, width = known.shape
  levels = max(int(np.log2(min(height, width) / _COARSEST)), 0)
  padding = [(0, -height % 2**levels), (0, -width % 2**levels)]
  values = np.pad(np.where(known[..., None], values, 0).astype(np.float32), [*padding, (0, 0)], mode="edge")
  unknown = [~np.pad(known, padding, constant_values=True)]
  for _ in range(levels):
    unknown.append(_halve(unknown[-1].astype(np.float32)) == 1)
  return _full_multigrid(values, unknown)[:height, :width]


def _full_multigrid(values, unknown):
  if len(unknown) > 1:
    weight = (~unknown[0]).astype(np.float32)
    coarse = _halve(values) / np.maximum(_halve(weight), 0.25)[..., None]
    coarse = _double(_full_multigrid(coarse, unknown[1:]))
    values = np.where(unknown[0][..., None], coarse, values)
  right = np.zeros_like(values)
  for _ in range(_CYCLES):
    _v_cycle(values, right, unknown)
  return values


def _v_cycle(values, right, unknown):
  """Improves 4 values - (sum of the neighbours' values) = right on unknown pixels, in place."""
  if len(unknown) == 1:
    _relax(values, right, unknown[0], 60)
    return
  _relax(values, right, unknown[0], 2)
  residual = _residual(values, right, unknown[0])
  correction = np.zeros_like(residual[::2, ::2])
  # Four times the mean: the grid's squared pitch, which the equation leaves out.
  _v_cycle(correction, 4 * _halve(residual), unknown[1:])
  values += np.where(unknown[0][..., None], _double(correction), 0)
  _relax(values, right, unknown[0], 2)


def _halve(picture: np.ndarray) -> np.ndarray:
  return cv2.resize(picture, None, fx=0.5, fy=0.5, interpolation=cv2.INTER_AREA)


def _double(picture: np.ndarray) -> np.ndarray:
  return cv2.resize(picture, None, fx=2, fy=2, interpolation=cv2.INTER_LINEAR)


@numba.njit(cache=True, nogil=True)
def _relax(values, right, unknown, sweeps):
  height, width, channels = values.shape
  for half_sweep in range(2 * sweeps):
    for y in range(1, height - 1):
      for x in range(1 + (y + half_sweep) % 2, width - 1, 2):
        if unknown[y, x]:
          for c in range(channels):
            neighbours = values[y - 1, x, c] + values[y + 1, x, c] + values[y, x - 1, c] + values[y, x + 1, c]
            values[y, x, c] = (neighbours + right[y, x, c]) / 4


@numba.njit(cache=True, nogil=True)
def _residual(values, right, unknown):
  height, width, channels = values.shape
  residual = np.zeros_like(values)
  for y in range(1, height - 1):
    for x in range(1, width - 1):
      if unknown[y, x]:
        for c in range(channels):
          neighbours = values[y - 1, x, c] + values[y + 1, x, c] + values[y, x - 1, c] + values[y, x + 1, c]
          residual[y, x, c] = right[y, x, c] - 4 * values[y, x, c] + neighbours
  return residual
