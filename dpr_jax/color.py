"""sRGB <-> CIE Lab (D65), as OpenCV's float conversion computes it; differentiable everywhere.

The networks see L / 100, in [0, 1]; the chroma channels a and b pass by them unchanged (Zhou et al. 2019, section 3.2).
NumPy in, NumPy out; jnp in, jnp out.
"""

import jax
import numpy as np

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
_RGB_TO_WHITE = np.asarray(_RGB_TO_XYZ / _WHITE_POINT[:, None], np.float32)
_WHITE_TO_RGB = np.asarray(np.linalg.inv(_RGB_TO_XYZ / _WHITE_POINT[:, None]), np.float32)

# CIE's f(t): a cube root, with a straight line below (6/29)^3.
_KNEE = (6 / 29) ** 3
_SLOPE = (29 / 6) ** 2 / 3
_OFFSET = 4 / 29


def _linearise(srgb: Array) -> Array:
  """IEC 61966-2-1."""
  xp = srgb.__array_namespace__()
  curved = xp.maximum(srgb, 0.04045)  # keeps the power's gradient finite where the other branch is taken
  return xp.where(srgb <= 0.04045, srgb / 12.92, ((curved + 0.055) / 1.055) ** 2.4)


def _delinearise(linear: Array) -> Array:
  xp = linear.__array_namespace__()
  curved = xp.maximum(linear, 0.0031308)
  return xp.where(linear <= 0.0031308, linear * 12.92, 1.055 * curved ** (1 / 2.4) - 0.055)


def _compress(t: Array) -> Array:
  xp = t.__array_namespace__()
  return xp.where(t > _KNEE, xp.cbrt(xp.maximum(t, _KNEE)), t * _SLOPE + _OFFSET)


def _expand(f: Array) -> Array:
  xp = f.__array_namespace__()
  return xp.where(f > 6 / 29, f**3, (f - _OFFSET) / _SLOPE)


def _transform(matrix: np.ndarray, x: Array) -> Array:
  xp = x.__array_namespace__()
  # Full precision: on accelerators a default-precision product would cost several gray levels.
  precision = {} if xp is np else {"precision": jax.lax.Precision.HIGHEST}
  return xp.matmul(x, matrix.T.astype(x.dtype), **precision)


def srgb_to_lab(srgb: Array) -> Array:
  """`[..., 3]` sRGB in [0, 1] -> `[..., 3]` Lab, L in [0, 100], a and b in about [-127, 127]."""
  xp = srgb.__array_namespace__()
  x, y, z = xp.moveaxis(_compress(_transform(_RGB_TO_WHITE, _linearise(srgb))), -1, 0)
  return xp.stack([116 * y - 16, 500 * (x - y), 200 * (y - z)], axis=-1)


def lab_to_srgb(lab: Array) -> Array:
  """`[..., 3]` Lab -> `[..., 3]` sRGB, clipped to [0, 1]."""
  xp = lab.__array_namespace__()
  lightness, a, b = xp.moveaxis(lab, -1, 0)
  y = (lightness + 16) / 116
  xyz = _expand(xp.stack([y + a / 500, y, y - b / 200], axis=-1))
  return xp.clip(_delinearise(xp.clip(_transform(_WHITE_TO_RGB, xyz), 0, 1)), 0, 1)
