"""How good a relit image and an estimated light are: one number an image, for evaluation.

Images are L / 100 in [0, 1], float, `[B, H, W, 1]` (the result is `[B]`) or `[H, W]` (the result is a scalar). A mask
of their shape, bool or float from 0 outside to 1 inside, limits the mean to the pixels inside; where there are none,
nothing was compared and the result is NaN. Nothing is broadcast: shapes that differ raise ValueError.

NumPy in, NumPy out; jnp in, jnp out, and then usable under `jit`. `ssim` is scikit-image's, and NumPy.
"""

import jax
import jax.numpy as jnp
import numpy as np
from skimage.metrics import structural_similarity

from dpr_jax.base.arrays import namespace

Array = jax.Array | np.ndarray

# The window of Wang et al. 2004: 11 x 11, as wide as a Gaussian of 1.5 pixels is cut off by scikit-image.
_SSIM_SIGMA = 1.5
_SSIM_BORDER = 5


def l1(*, prediction: Array, target: Array, mask: Array | None = None) -> Array:
  """Mean absolute error."""
  xp = namespace(prediction, target, mask)
  prediction, target, mask = _checked(prediction, target, mask)
  return _mean(xp.abs(prediction - target), mask)


def si_mse(*, prediction: Array, target: Array, mask: Array | None = None) -> Array:
  """Scale-invariant mean squared error: that of the prediction times the factor that makes it smallest.

  The factor is one per image, fitted over the mask. A black prediction has none and is compared as it is.
  """
  xp = namespace(prediction, target, mask)
  prediction, target, mask = _checked(prediction, target, mask)
  power = _sum(mask * xp.square(prediction))
  scale = _sum(mask * prediction * target) / xp.where(power > 0, power, 1)
  return _mean(xp.square(scale[..., None, None] * prediction - target), mask)


def ssim(*, prediction: Array, target: Array, mask: Array | None = None) -> np.ndarray:
  """Structural similarity (Wang et al. 2004), 1 for equal images: Gaussian window of 11 x 11 pixels, sigma 1.5.

  The mean runs over the pixels (of the mask) whose window lies inside the picture: a border of 5 pixels never counts.
  Windows at the mask's edge do see pixels outside of it.

  Returns:
    float64, NumPy.

  Raises:
    ValueError: an image smaller than the window, and what the module says.
  """

  def similarity(prediction, target):
    _, full = structural_similarity(
      prediction, target, gaussian_weights=True, sigma=_SSIM_SIGMA, use_sample_covariance=False, data_range=1, full=True
    )
    return full[_SSIM_BORDER:-_SSIM_BORDER, _SSIM_BORDER:-_SSIM_BORDER]

  prediction, target, mask = _checked(prediction, target, mask)
  window = 2 * _SSIM_BORDER + 1
  if min(prediction.shape[-2:]) < window:
    raise ValueError(f"SSIM needs images of at least {window} x {window} pixels, not {list(prediction.shape[-2:])}")
  # In single precision the variances of an even picture drown in rounding.
  prediction, target = np.asarray(prediction, np.float64), np.asarray(target, np.float64)
  if prediction.ndim == 2:
    full = similarity(prediction, target)
  else:
    full = np.stack([similarity(*pair) for pair in zip(prediction, target, strict=True)])
  mask = np.asarray(mask, np.float64)[..., _SSIM_BORDER:-_SSIM_BORDER, _SSIM_BORDER:-_SSIM_BORDER]
  return _mean(full, mask)


def light_angle(*, prediction: Array, target: Array) -> Array:
  """Degrees between the directions that two lights `[..., 9]` mainly come from (band 1) -> `[...]`, 0 to 180.

  NaN where a light comes from no side.
  """
  xp = namespace(prediction, target)
  _check_lights(prediction, target)
  # Band 1 as it is stored, (y, z, x), is a rotation of (x, y, z): angles are the same.
  a, b = prediction[..., 1:4], target[..., 1:4]
  lengths = [xp.sqrt(xp.sum(xp.square(v), axis=-1, keepdims=True)) for v in (a, b)]
  a, b = (v / xp.where(length > 0, length, xp.nan) for v, length in zip((a, b), lengths, strict=True))
  # Exact at small angles too, where the arc cosine is not (Kahan).
  half = xp.atan2(*(xp.sqrt(xp.sum(xp.square(v), axis=-1)) for v in (a - b, a + b)))
  return xp.degrees(2 * half)


def _check_floating(prediction: Array, target: Array) -> None:
  if prediction.shape != target.shape:
    raise ValueError(f"prediction {list(prediction.shape)} and target {list(target.shape)} differ in shape")
  for array in (prediction, target):
    if not jnp.issubdtype(array.dtype, jnp.floating):
      raise ValueError(f"prediction and target must be floating, not {array.dtype}")


def _check_lights(prediction: Array, target: Array) -> None:
  _check_floating(prediction, target)
  if prediction.shape[-1:] != (9,):
    raise ValueError(f"a light must be [..., 9], not {list(prediction.shape)}")


def _checked(prediction: Array, target: Array, mask: Array | None) -> tuple[Array, Array, Array]:
  """The three without their channel, `[B, H, W]` or `[H, W]`, at least in single precision."""
  xp = namespace(prediction, target, mask)
  _check_floating(prediction, target)
  if not (prediction.ndim == 2 or (prediction.ndim == 4 and prediction.shape[-1] == 1)):
    raise ValueError(f"images must be [B, H, W, 1] or [H, W], not {list(prediction.shape)}")
  if mask is None:
    mask = xp.ones(prediction.shape, bool)
  elif mask.shape != prediction.shape:
    raise ValueError(f"a mask {list(mask.shape)} does not fit images {list(prediction.shape)}")
  elif not (mask.dtype == bool or jnp.issubdtype(mask.dtype, jnp.floating)):
    raise ValueError(f"a mask must be bool or floating, not {mask.dtype}")
  dtype = xp.result_type(prediction.dtype, target.dtype, xp.float32)
  arrays = (xp.asarray(array, dtype) for array in (prediction, target, mask))
  return tuple(array[..., 0] if array.ndim == 4 else array for array in arrays)


def _sum(pictures: Array) -> Array:
  return pictures.sum(axis=(-2, -1))


def _mean(pictures: Array, mask: Array) -> Array:
  """The mean inside, `[..., H, W]` -> `[...]`."""
  xp = namespace(pictures, mask)
  pixels = _sum(mask)
  return _sum(mask * pictures) / xp.where(pixels > 0, pixels, xp.nan)
