"""sRGB <-> CIE Lab (D65) with OpenCV's constants; differentiable everywhere.

Computed, where OpenCV looks up tables: in the dark (L < 16) its float L is up to 0.6 gray levels off ours, its uint8 L
up to 1.5.

The networks see L / 100, in [0, 1]; the chroma channels a and b pass by them unchanged (Zhou et al. 2019, section 3.2).
NumPy in, NumPy out; jnp in, jnp out.
"""

from collections.abc import Sequence

import jax
import numpy as np

from dpr_jax.base.native_libraries import import_native

Array = jax.Array | np.ndarray

# Linear sRGB -> CIE XYZ, each row divided by the white point's component, so that white is (1, 1, 1).
_WHITE_POINT = np.array([0.950456, 1.0, 1.088754])
_RGB_TO_XYZ = np.array(
  [
    [0.412453, 0.357580, 0.180423],
    [0.212671, 0.715160, 0.072169],
    [0.019334, 0.119193, 0.950227],
  ]
)
_RGB_TO_WHITE = (_RGB_TO_XYZ / _WHITE_POINT[:, None]).tolist()
_WHITE_TO_RGB = np.linalg.inv(_RGB_TO_WHITE).tolist()

# CIE's f(t): a cube root, with a straight line below (6/29)^3.
_KNEE = (6 / 29) ** 3
_SLOPE = (29 / 6) ** 2 / 3
_OFFSET = 4 / 29


def _power(x: Array, exponent: float) -> Array:
  """`x ** exponent` for positive x; four times as fast as `pow` on a CPU, and exact to 1e-6."""
  xp = x.__array_namespace__()
  return xp.exp(exponent * xp.log(x))


def linearise(srgb: Array) -> Array:
  """From sRGB in [0, 1] to linear light in [0, 1] (IEC 61966-2-1)."""
  xp = srgb.__array_namespace__()
  curved = xp.maximum(srgb, 0.04045)  # keeps the power's gradient finite where the other branch is taken
  return xp.where(srgb <= 0.04045, srgb / 12.92, _power((curved + 0.055) / 1.055, 2.4))


def delinearise(linear: Array) -> Array:
  """The inverse of `linearise`."""
  xp = linear.__array_namespace__()
  curved = xp.maximum(linear, 0.0031308)
  return xp.where(linear <= 0.0031308, linear * 12.92, 1.055 * _power(curved, 1 / 2.4) - 0.055)


def _compress(t: Array) -> Array:
  xp = t.__array_namespace__()
  return xp.where(t > _KNEE, _power(xp.maximum(t, _KNEE), 1 / 3), t * _SLOPE + _OFFSET)


def _expand(f: Array) -> Array:
  xp = f.__array_namespace__()
  return xp.where(f > 6 / 29, f * f * f, (f - _OFFSET) / _SLOPE)


def _mix(matrix: Sequence[Sequence[float]], channels: Sequence[Array]) -> list[Array]:
  """A 3x3 matrix times three channels, written out: as a matrix product it would be far slower, and on accelerators
  in default precision wrong by several gray levels.
  """
  return [sum(weight * channel for weight, channel in zip(row, channels, strict=True)) for row in matrix]


def linear_to_lab(linear: Array) -> Array:
  """`[..., 3]` linear RGB in [0, 1] -> `[..., 3]` Lab, L in [0, 100], a and b in about [-127, 127]."""
  xp = linear.__array_namespace__()
  x, y, z = (_compress(t) for t in _mix(_RGB_TO_WHITE, [linear[..., c] for c in range(3)]))
  return xp.stack([116 * y - 16, 500 * (x - y), 200 * (y - z)], axis=-1)


def srgb_to_lab(srgb: Array) -> Array:
  """`[..., 3]` sRGB in [0, 1] -> `[..., 3]` Lab, L in [0, 100], a and b in about [-127, 127]."""
  return linear_to_lab(linearise(srgb))


def lab_to_srgb(lab: Array) -> Array:
  """`[..., 3]` Lab -> `[..., 3]` sRGB, clipped to [0, 1]."""
  xp = lab.__array_namespace__()
  y = (lab[..., 0] + 16) / 116
  xyz = [_expand(f) for f in (y + lab[..., 1] / 500, y, y - lab[..., 2] / 200)]
  rgb = [delinearise(xp.clip(channel, 0, 1)) for channel in _mix(_WHITE_TO_RGB, xyz)]
  return xp.clip(xp.stack(rgb, axis=-1), 0, 1)


def luminance_of_lightness(lightness: Array) -> Array:
  """Linear luminance Y in [0, 1] of L / 100 (CIE 1976)."""
  xp = lightness.__array_namespace__()
  bright = ((lightness + 0.16) / 1.16) ** 3
  return xp.where(bright > _KNEE, bright, lightness / (1.16 * _SLOPE))


def lightness_of_luminance(luminance: Array) -> Array:
  """L / 100 of linear luminance Y, 0 or more (CIE 1976); the inverse of `luminance_of_lightness`."""
  return 1.16 * _compress(luminance) - 0.16


COLOUR_TEMPERATURES = (1_700, 25_000)  # kelvin, of which `lamp_colour` knows
NEUTRAL = 6_504  # kelvin: D65, the white of sRGB


def lamp_colour(kelvin: float) -> np.ndarray:
  """The colour of a lamp, `[3]` linear sRGB of luminance 1, where that of `NEUTRAL` is white, (1, 1, 1).

  Of black bodies (Kim et al. 2002, the cubic splines for the Planckian locus), each beside the one of `NEUTRAL`, so
  that a photo which its camera has balanced for D65 keeps its colours there. What sRGB cannot show is cut off at 0.

  Args:
    kelvin: in `COLOUR_TEMPERATURES`; 2,700 is a bulb, 5,500 noon, 10,000 blue sky.

  Raises:
    ValueError: outside of these.
  """
  low, high = COLOUR_TEMPERATURES
  if not low <= kelvin <= high:
    raise ValueError(f"a colour temperature must lie in {low} to {high} kelvin, not {kelvin:g}")
  colour = np.maximum(_black_body(kelvin) / _black_body(NEUTRAL), 0)
  return np.float32(colour / (np.array(_RGB_TO_XYZ[1]) @ colour))


def _black_body(kelvin: float) -> np.ndarray:
  """`[3]` linear sRGB of luminance 1."""
  t = 1000 / kelvin
  if kelvin <= 4_000:
    x = np.polyval([-0.2661239, -0.2343589, 0.8776956, 0.179910], t)
  else:
    x = np.polyval([-3.0258469, 2.1070379, 0.2226347, 0.240390], t)
  if kelvin <= 2_222:
    y = np.polyval([-1.1063814, -1.34811020, 2.18555832, -0.20219683], x)
  elif kelvin <= 4_000:
    y = np.polyval([-0.9549476, -1.37418593, 2.09137015, -0.16748867], x)
  else:
    y = np.polyval([3.0817580, -5.87338670, 3.75112997, -0.37001483], x)
  return np.array(_WHITE_TO_RGB) @ (np.array([x / y, 1, (1 - x - y) / y]) / _WHITE_POINT)


# What each 8-bit value of red, green and blue adds to Y, whose weights are those of the three primaries.
_LUMINANCE = np.float32(linearise(np.arange(256) / 255)[:, None] * _RGB_TO_XYZ[1])[:, None]


def photo_luminance(pixels: np.ndarray) -> np.ndarray:
  """L / 100 of sRGB `[H, W, 3]` uint8, `[H, W]` float32; NumPy only.

  `srgb_to_lab` by a table of the 256 values of each channel: as exact, and as fast as OpenCV's 8-bit Lab.
  """
  cv2 = import_native("cv2")  # which nothing else here needs, nor does who converts arrays alone
  y = cv2.transform(cv2.LUT(pixels, _LUMINANCE), np.ones((1, 3), np.float32))
  return np.where(y > _KNEE, np.float32(1.16) * np.cbrt(y) - np.float32(0.16), y * np.float32(1.16 * _SLOPE))
