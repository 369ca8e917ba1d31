"""The authors' own procedure: the whole photo through the network, no face looked for."""

import math

import jax.numpy as jnp
import numpy as np

from dpr_jax.base.native_libraries import import_native
from dpr_jax.image.photo import to_8_bits
from dpr_jax.network.shape import RatioEncoding
from dpr_jax.portrait.relighting import Params, decode_luminance, encode_luminance, first_light

cv2 = import_native("cv2")

# With a strength: luminance (L / 100) added to both sides of the ratio.
_RATIO_OFFSET = 0.04


class WholePhoto:
  """For photos that are framed like the training data: no faces are looked for.

  The whole photo is resized to the network's square, L is replaced, and the square is resized back; so it costs the
  detail that a square of 512 or 1024 cannot hold. 8 bits, as the authors' demo, digit for digit.

  Attributes:
    pixels: the photo, `[H, W, 3]` uint8 RGB.
    source_light: its light as estimated, gray.
  """

  def __init__(self, params: Params, pixels: np.ndarray, size: int = 512, *, dtype: jnp.dtype | None = None):
    """Encodes the photo.

    Args:
      params: from `load_params`.
      pixels: `[H, W, 3]` RGB, uint8 or uint16; or float32, linear light.
      size: side of the square that the network sees.
      dtype: compute type of the convolutions.
    """
    self.pixels = to_8_bits(pixels)
    self._params, self._dtype = params, dtype
    square = cv2.resize(np.ascontiguousarray(self.pixels), (size, size))
    self._lab = cv2.cvtColor(square, cv2.COLOR_RGB2LAB)
    self._luminance = self._lab[..., 0].astype(np.float32) / 255
    self._encoding = encode_luminance(params, self._luminance[None, ..., None], dtype=dtype)
    self.source_light = first_light(self._encoding)

  def relight(self, light: np.ndarray, strength: float = 1.0, *, brightness: float = 1.0) -> np.ndarray:
    """The photo under another light, `[H, W, 3]` uint8.

    Args:
      light: nine numbers, `[9]`.
      strength: exponent of the ratio of new to old L.
      brightness: a factor on the numbers that a published network is told. Ours keeps the photo's key whatever the
        brightness of a light, so that there it is a factor on that key.
    """
    light = np.asarray(light, np.float32)
    if light.shape != (9,) or not np.isfinite(light).all():
      raise ValueError(f"a light must be 9 finite numbers, not {light}")
    options = {"size": self._luminance.shape, "dtype": self._dtype}
    if isinstance(self._encoding, RatioEncoding):
      options["exposure_stops"] = math.log2(brightness)
    light = light[None] * np.float32(brightness)
    relit = np.asarray(decode_luminance(self._params, self._encoding, light, **options))[0, ..., 0]
    if strength != 1:
      log_ratio = np.log((relit + _RATIO_OFFSET) / (self._luminance + _RATIO_OFFSET))
      relit = np.clip((self._luminance + _RATIO_OFFSET) * np.exp(strength * log_ratio) - _RATIO_OFFSET, 0, 1)
    lab = self._lab.copy()
    lab[..., 0] = (relit * 255).astype(np.uint8)  # truncated, as the authors do
    return cv2.resize(cv2.cvtColor(lab, cv2.COLOR_LAB2RGB), self.pixels.shape[1::-1])
