"""8-bit sRGB to linear light and back, by tables: exact to the rounding of 8 bits, and fast on large pictures."""

import numpy as np

from dpr_jax.base.native_libraries import import_native
from dpr_jax.image.color import linearise

cv2 = import_native("cv2")

_STEPS = 65535
_LINEAR = linearise(np.arange(256) / 255).astype(np.float32)
# Each step of linear light goes to the level whose rounding it falls into.
_LEVELS = np.searchsorted(linearise((np.arange(255) + 0.5) / 255), np.arange(_STEPS + 1) / _STEPS).astype(np.uint8)


def to_linear(pixels: np.ndarray) -> np.ndarray:
  """Linear light in [0, 1], `[H, W, 3]` float32, of sRGB `[H, W, 3]` uint8."""
  return cv2.LUT(pixels, _LINEAR)


def from_linear(linear: np.ndarray) -> np.ndarray:
  """The nearest sRGB, uint8, of linear light of any shape; what leaves [0, 1] is clipped."""
  return _LEVELS[(np.clip(linear, 0, 1) * np.float32(_STEPS) + np.float32(0.5)).astype(np.uint16)]
