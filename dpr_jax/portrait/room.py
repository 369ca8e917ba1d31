"""The room behind the persons: it may take a share of the light's change, though nobody knows its shape."""

import numpy as np

from dpr_jax.base.native_libraries import import_native
from dpr_jax.light.light import Light, shading
from dpr_jax.portrait.square import warp_to_photo

cv2 = import_native("cv2")

# The room behind the persons: how far its sides are turned to the sides, how much light it throws back, and by how many
# stops it may change.
_CELLS, _BULGE, _FILL, _STOPS = 33, 0.7, 0.2, 2.0


def room_log_ratio(source: Light, light: Light, gain: float) -> np.ndarray:
  """The logarithm of new over old light on a room, from its left to its right: `[n, n, C]`.

  Nobody knows the room. Where it is nearer to a lamp it is brighter: as a dome would be that bulges towards the camera.
  """
  down, right = np.float32(_BULGE) * np.mgrid[-1 : 1 : _CELLS * 1j, -1 : 1 : _CELLS * 1j].astype(np.float32)
  dome = np.stack([right, -np.ones_like(right), -down], axis=-1)
  dome /= np.linalg.norm(dome, axis=-1, keepdims=True)
  before, after = (shading(each, dome) for each in (source, light))
  before, after = (lit + _FILL * lit.mean(axis=(0, 1)) + 1e-4 for lit in (before, after))
  limit = np.log(2) * _STOPS
  return np.clip(np.log(after) - np.log(before) + gain, -limit, limit).astype(np.float32)


def stretched(room: np.ndarray, left: int, top: int, shape: tuple[int, ...], photo: tuple[int, ...]) -> np.ndarray:
  """`[n, n, C]` over a whole photo, at a part of its pixels, `[h, w, C]`."""
  scale = (np.array(room.shape[:2]) - 1) / np.maximum(np.array(photo[1::-1]) - 1, 1)
  matrix = np.column_stack([np.diag(scale), np.zeros(2)])
  return warp_to_photo(room, matrix, left, top, shape, cv2.BORDER_REPLICATE).reshape(*shape[:2], -1)
