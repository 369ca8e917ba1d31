"""RAW photos of cameras, developed by LibRaw through rawpy (extra `raw`)."""

import os
from types import ModuleType
from typing import Any

import numpy as np

from dpr_jax.base.errors import BadInput
from dpr_jax.base.native_libraries import native_log_silenced

# Of the pixels: what gets burnt out when the photo is made as bright as it can be. LibRaw's own is ten times as much.
_BURNT = 0.001
_SRGB_CURVE = (2.4, 12.92)  # as LibRaw is told of it: the power, and the slope of the line below


class OpenedRaw:
  """A RAW photo whose header has been read.

  Attributes:
    size: width and height, upright.
  """

  def __init__(self, raw: Any):
    self._raw = raw
    sizes = raw.sizes
    turned = sizes.flip & 4
    self.size = (sizes.height, sizes.width) if turned else (sizes.width, sizes.height)

  def develop(self) -> np.ndarray:
    """`[H, W, 3]` uint16 in sRGB, upright, in the white balance of the camera and as bright as LibRaw makes it."""
    rawpy = _rawpy("")
    with native_log_silenced(), self._raw as raw:
      return raw.postprocess(
        use_camera_wb=True,
        output_color=rawpy.ColorSpace.sRGB,
        output_bps=16,
        gamma=_SRGB_CURVE,
        auto_bright_thr=_BURNT,
      )


def open_raw(path: str | os.PathLike) -> OpenedRaw:
  """Reads the header of a RAW photo.

  Raises:
    BadInput: rawpy is not installed, or LibRaw does not know such files.
  """
  rawpy = _rawpy(path)
  try:
    with native_log_silenced():
      return OpenedRaw(rawpy.imread(os.fspath(path)))
  except rawpy.LibRawError as error:
    reason = error.args[0].decode(errors="replace") if error.args and isinstance(error.args[0], bytes) else str(error)
    raise BadInput(f"{path}: a RAW photo that LibRaw cannot read ({reason[:100]})") from None


def _rawpy(path: str | os.PathLike) -> ModuleType:
  try:
    import rawpy  # 10 MB that only these photos need
  except ImportError:
    raise BadInput(
      f'{path}: a RAW photo of a camera needs the package rawpy, of an extra: pip install "dpr_jax[raw]"'
    ) from None
  return rawpy
