"""What persons can be put before: a picture, or what a camera sees of an environment map."""

import os
from collections.abc import Sequence
from pathlib import Path

import numpy as np

from dpr_jax.base.native_libraries import import_native
from dpr_jax.image.photo import as_type, read_photo
from dpr_jax.light import sh
from dpr_jax.light.environment_files import ENVIRONMENT_SUFFIXES, read_environment
from dpr_jax.light.light import luminance
from dpr_jax.light.panorama import look_up

cv2 = import_native("cv2")

_VIEW = 40.0  # degrees, what a portrait lens sees along the longer side
_GRAY = 0.18  # linear luminance that the median of a map gets
_BLUR = 1 / 250  # of the longer side: a portrait lens is focused on the person


def is_environment(file: str | None) -> bool:
  """Whether a file is taken for an environment map: by its suffix."""
  return file is not None and Path(file).suffix.lower() in ENVIRONMENT_SUFFIXES


def backdrop(file: str, shape: Sequence[int], dtype: np.dtype, env_rotate: float = 0.0) -> np.ndarray:
  """A backdrop for a photo.

  Args:
    file: a picture, or an environment map.
    shape: of the photo, `[H, W, 3]`.
    dtype: of the photo: uint8, uint16, or float32 of linear light.
    env_rotate: degrees by which an environment map is turned about the vertical, as its light is.

  Returns:
    RGB of that shape and type: the middle of the picture, as large as covers all, or what a camera that looks at the
    middle of the map sees, a little out of focus.

  Raises:
    BadInput: the file cannot be read.
  """
  height, width = shape[:2]
  if not is_environment(file):
    pixels = read_photo(file).pixels
    scale = max(height / pixels.shape[0], width / pixels.shape[1])
    size = [max(extent, round(scale * own)) for extent, own in zip((width, height), pixels.shape[1::-1], strict=True)]
    pixels = cv2.resize(
      np.ascontiguousarray(pixels), size, interpolation=cv2.INTER_AREA if scale < 1 else cv2.INTER_CUBIC
    )
    top, left = (size[1] - height) // 2, (size[0] - width) // 2
    return as_type(pixels[top : top + height, left : left + width], np.dtype(dtype))
  panorama = np.atleast_3d(read_environment(os.fspath(file)))
  panorama = np.repeat(panorama, 3, axis=-1) if panorama.shape[-1] == 1 else panorama
  seen = view(panorama.astype(np.float32), height, width, env_rotate)
  seen = cv2.GaussianBlur(seen, (0, 0), max(_BLUR * max(height, width), 0.1))
  middle = max(float(np.median(luminance(seen))), 1e-9)
  shown = 1 - np.exp(-np.maximum(seen, 0) * (-np.log(1 - _GRAY) / middle))
  return as_type(shown.astype(np.float32), np.dtype(dtype))


def view(panorama: np.ndarray, height: int, width: int, env_rotate: float = 0.0) -> np.ndarray:
  """What a camera sees that looks at the middle of a latitude-longitude map `[H, W, C]`: `[height, width, C]`."""
  reach = np.tan(np.radians(_VIEW) / 2) / (max(height, width) / 2)
  right = (np.arange(width, dtype=np.float32) + 0.5 - width / 2) * np.float32(reach)
  up = -(np.arange(height, dtype=np.float32) + 0.5 - height / 2) * np.float32(reach)
  right, up = np.meshgrid(right, up)
  # What comes from d before the map is turned comes from turn @ d after it.
  towards = np.stack([right, np.ones_like(right), up], axis=-1) @ np.float32(sh.turn(env_rotate))
  return look_up(panorama, towards)
