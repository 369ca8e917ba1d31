"""What a light changes, applied to a photo at its own resolution."""

import os
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from typing import NamedTuple

import numpy as np

from dpr_jax.base.native_libraries import import_native
from dpr_jax.image import color
from dpr_jax.light.light import luminance
from dpr_jax.portrait.compositing import multiply_light
from dpr_jax.portrait.faces import Framing
from dpr_jax.portrait.person import Matte
from dpr_jax.portrait.room import stretched
from dpr_jax.portrait.square import corners, warp_to_photo

cv2 = import_native("cv2")

# How many stops darker and brighter a pixel may get: what is brightened more shows little but noise.
_STOPS = (-7.0, 3.5)
# Coverage from which on a pixel's colour is taken for the person's alone.
_OPAQUE = 0.9
# 8 bits are encoded by a table of so many steps of linear light, a fortieth of a level in the dark.
_FINE_LEVELS, _TABLE = 255, 2**16
# A photo is edited in strips, so that memory does not grow with it; of so few rows that they stay in a core's cache.
_STRIP_ROWS = 16
_STRIP_THREADS = min(4, os.cpu_count() or 1)


class Edit(NamedTuple):
  """What a light changes around one face, and on its person.

  Attributes:
    framing: of the face.
    square: the log ratio in the square, as lines a L + b, and how much it counts: `[S, S, 2 C + 1]`.
    matte: of the person, or None.
    to_person: `[2, 3]`, photo pixels -> cells of `beyond`, or None.
    beyond: the log ratio on the whole person, `[N, N, C]`, or None: it ends with the square.
  """

  framing: Framing
  square: np.ndarray
  matte: Matte | None = None
  to_person: np.ndarray | None = None
  beyond: np.ndarray | None = None

  @property
  def corners(self) -> np.ndarray:
    """Of what it changes, in the photo, `[4, 2]`."""
    if self.beyond is None:
      return corners(self.framing)
    (scale_x, _, x), (_, scale_y, y) = self.matte.matrix
    height, width = self.matte.alpha.shape
    left, top, right, bottom = -x / scale_x, -y / scale_y, (width - 1 - x) / scale_x, (height - 1 - y) / scale_y
    return np.array([(left, top), (right, top), (right, bottom), (left, bottom)])


def within_stops(log_ratio: np.ndarray) -> np.ndarray:
  """A log ratio within what a pixel may change."""
  return np.clip(log_ratio, *(np.log(2) * np.array(_STOPS))).astype(np.float32)


def apply_edits(
  pixels: np.ndarray,
  edits: Sequence[Edit],
  strength: float,
  room: np.ndarray | None = None,
  backdrop: np.ndarray | None = None,
) -> np.ndarray:
  """Applies the faces' edits to the photo; where faces overlap, their weighted mean.

  Of floating point, which is linear light, nothing is compressed or cut off: what is brighter than white stays so many
  times as bright, and changes as white does.

  Args:
    pixels: the photo.
    edits: one a face.
    strength: factor on all logarithms of ratios.
    room: the log ratio of what is nobody's, stretched over the photo, `[n, n, C]`; None: 0.
    backdrop: of the photo's shape and type, instead of what is nobody's.
  """
  out = pixels.copy()
  reach = np.concatenate([edit.corners for edit in edits])
  if room is not None or backdrop is not None:
    reach = np.array([(0, 0), pixels.shape[1::-1]])
  left, top = np.maximum(np.floor(reach.min(axis=0)).astype(int), 0)
  right, bottom = np.minimum(np.ceil(reach.max(axis=0)).astype(int) + 1, pixels.shape[1::-1])
  linear_of, multiply, encoded = _arithmetic(pixels.dtype)

  def relight_strip(start: int) -> None:
    strip = out[start : min(start + _STRIP_ROWS, bottom), left:right]
    shape = strip.shape[:2]
    maps = [_maps(edit, left, start, shape) for edit in edits if _reaches(edit, left, start, shape)]
    total = sum((each.share for each in maps), np.zeros(shape, np.float32)).reshape(-1)
    everywhere = room is not None or backdrop is not None
    where = slice(None) if everywhere else np.flatnonzero(total)
    values = np.ascontiguousarray(strip).reshape(-1, 3)
    old, total = values[where], total[where, None]
    linear = linear_of(old)
    lightness = color.lightness_of_luminance(np.clip(luminance(linear), 0, 1))
    ratio = np.float32(strength) * _log_ratio(lightness, maps, where) / np.maximum(total, np.float32(1e-6))
    share = np.minimum(total, 1)
    if backdrop is not None:
      alpha, own = _cut_out(linear.reshape(*shape, 3), left, start, edits)
      behind = linear_of(backdrop[start : start + len(strip), left:right])
      relit = multiply(own, ratio.reshape(*shape, -1))
      strip[:] = encoded(alpha[..., None] * relit + (1 - alpha[..., None]) * behind)
      return
    if room is not None:
      around = strength * stretched(room, left, start, shape, pixels.shape).reshape(len(ratio), -1)
      ratio = np.log(share * np.exp(ratio) + (1 - share) * np.exp(around))
    else:
      # A pixel that shows a person in part changes by that part of its light.
      in_part = np.flatnonzero(share < 1)
      ratio[in_part] = np.log1p(share[in_part] * np.expm1(ratio[in_part]))
    new = encoded(multiply(linear, ratio))
    same = np.flatnonzero((ratio == 0).all(axis=-1))
    new[same] = old[same]
    values[where] = new
    strip[:] = values.reshape(strip.shape)

  with ThreadPoolExecutor(_STRIP_THREADS) as threads:  # NumPy and OpenCV let go of the interpreter while they compute
    for _ in threads.map(relight_strip, range(top, bottom, _STRIP_ROWS)):
      pass
  return out


def _arithmetic(dtype: np.dtype) -> tuple[Callable, Callable, Callable]:
  """Of pixels of a type: what makes them linear light, multiplies that by the exponential of a log ratio, and back."""
  if dtype.kind == "f":
    return lambda values: values, lambda linear, log_ratio: linear * np.exp(log_ratio), lambda linear: linear
  white = np.iinfo(dtype).max
  linear_of_level = color.linearise(np.arange(white + 1, dtype=np.float32) / white)
  if white > _FINE_LEVELS:
    return linear_of_level.__getitem__, multiply_light, lambda linear: np.round(color.delinearise(linear) * white)
  level_of_linear = np.round(color.delinearise(np.linspace(0, 1, _TABLE, dtype=np.float32)) * white).astype(dtype)

  def encoded(linear: np.ndarray) -> np.ndarray:
    return level_of_linear[(linear * np.float32(_TABLE - 1) + np.float32(0.5)).astype(np.uint16)]

  return linear_of_level.__getitem__, multiply_light, encoded


def _cut_out(linear: np.ndarray, left: int, top: int, edits: Sequence[Edit]) -> tuple[np.ndarray, np.ndarray]:
  """How much of each pixel of a part of the photo the persons cover, `[h, w]`, and their linear RGB, `[h, w, 3]`."""
  alpha, colours = np.zeros(linear.shape[:2], np.float32), np.zeros_like(linear)
  for edit in edits:
    matte = edit.matte
    own = warp_to_photo(matte.alpha, matte.matrix, left, top, linear.shape)
    scale = np.array(matte.foreground.shape[1::-1]) / matte.alpha.shape[1::-1]
    matrix = scale[:, None] * matte.matrix
    matrix[:, 2] += (scale - 1) / 2
    colours += own[..., None] * warp_to_photo(matte.foreground, matrix, left, top, linear.shape, cv2.BORDER_REPLICATE)
    alpha += own
  colours /= np.maximum(alpha, 1e-6)[..., None]
  alpha = np.minimum(alpha, 1)
  pure = np.clip((alpha - _OPAQUE) / (1 - _OPAQUE), 0, 1)[..., None]
  return alpha, colours + pure * (linear - colours)


class _Maps(NamedTuple):
  """What an edit says of each pixel of a part of the photo.

  Attributes:
    lines: the log ratio in the square, `[h, w, C, 2]`.
    weight: how much that counts, `[h, w]`.
    beyond: the log ratio on the whole person, `[h, w, C]`, or None.
    share: how much of the pixel's light is the person's, `[h, w]`.
  """

  lines: np.ndarray
  weight: np.ndarray
  beyond: np.ndarray | None
  share: np.ndarray


def _reaches(edit: Edit, left: int, top: int, shape: tuple[int, int]) -> bool:
  reach = edit.corners - (left, top)
  return bool((reach.max(axis=0) >= 0).all() and (reach.min(axis=0) <= shape[::-1]).all())


def _maps(edit: Edit, left: int, top: int, shape: tuple[int, int]) -> _Maps:
  """The maps of an edit at the part of the photo that begins at column `left` and row `top`."""
  # OpenCV warps at most four channels at a time.
  parts = [edit.square[..., k : k + 4] for k in range(0, edit.square.shape[-1], 4)]
  warped = np.dstack([warp_to_photo(part, edit.framing.index_matrix, left, top, shape) for part in parts])
  lines, weight = warped[..., :-1].reshape(*shape, -1, 2), warped[..., -1]
  if edit.beyond is None:
    return _Maps(lines, weight, None, weight)
  beyond = warp_to_photo(edit.beyond, edit.to_person, left, top, shape, cv2.BORDER_REPLICATE).reshape(*shape, -1)
  return _Maps(lines, weight, beyond, warp_to_photo(edit.matte.share, edit.matte.matrix, left, top, shape))


def _log_ratio(lightness: np.ndarray, maps: Sequence[_Maps], where: np.ndarray | slice) -> np.ndarray:
  """The sum of the edits' log ratios, each times its share.

  Args:
    lightness: L / 100, `[n]`.
    maps: of each edit.
    where: the n pixels in question, in the flattened maps.

  Returns:
    `[n, C]`; 0 without edits.
  """
  weighted = np.zeros((len(lightness), 1), np.float32)
  for lines, weight, beyond, share in maps:
    pixels = weight.size
    lines = lines.reshape(pixels, -1, 2)[where]
    ratio = within_stops(lines[..., 0] * lightness[:, None] + lines[..., 1])
    if beyond is not None:
      beyond = beyond.reshape(pixels, -1)[where]
      ratio = beyond + weight.reshape(pixels, 1)[where] * (ratio - beyond)
    weighted = weighted + share.reshape(pixels, 1)[where] * ratio
  return weighted
