"""The ratio image: a portrait under a new light without knowing its albedo, I* = I f(N, L*) / f(N, L).

Shashua & Riklin-Raviv 2001; Zhou et al. 2019, equations 1 to 3. There are two kinds of it:

- `linear` multiplies linear luminance Y, which is proportional to light. It is the one to light a photo with.
- `published` multiplies L of Lab, as the paper and its authors' program do. L goes about as the cube root of light, so
  that every lamp comes out about 2.3 times too contrasty. It reproduces their dataset, digit for digit.

A light belongs to the kind that it was estimated for: the same photo has another source light in L than in Y.

NumPy in, NumPy out; jnp in, jnp out, and then usable under `jit`, `vmap` and `grad`.
"""

import jax
import numpy as np

from dpr_jax.image import color
from dpr_jax.light import sh

Array = jax.Array | np.ndarray

KINDS = ("linear", "published")

# In the published pipeline: keeps the division finite, and a clipped L off the very ends.
_EPSILON = 1e-6
# In linear light: of the largest shading of a photo, what its darkest side gets at least. Of faces under a lamp with a
# fill of 0.1 to 1, relit by fitted lights, 0.16% of the skin burns out with it and 0.39% with 0; with 0.2 the dark side
# of a photo would be taken for dark skin.
_LEAST_SHADING = 0.05


def fill_dark(shading: Array, *, kind: str = "linear") -> Array:
  """A photo's own shading without its darkest values, over which a ratio would mean nothing.

  Second-order SH light can go to 0 and below, where no light can: other surfaces reflect some onto the darkest side.
  A shading without any positive value comes back as all ones: it says nothing about the photo.

  Args:
    shading: `[H, W]`, of one photo.
    kind: with `linear` no value is left below 0.05 of the largest; with `published` values at or below 0 are replaced
      by the smallest positive one.

  Returns:
    `[H, W]`, positive.

  Raises:
    ValueError: an unknown kind.
  """
  _check(kind)
  xp = shading.__array_namespace__()
  if kind == "linear":
    largest = xp.max(shading)
    return xp.where(largest > 0, xp.maximum(shading, _LEAST_SHADING * largest), 1.0).astype(shading.dtype)
  lit = shading > 0
  smallest = xp.min(xp.where(lit, shading, xp.inf))
  filled = xp.where(lit, shading, xp.where(xp.isfinite(smallest), smallest, 1.0))
  return filled.astype(shading.dtype)


def of_shadings(source_shading: Array, target_shading: Array) -> Array:
  """The ratio of two shadings in linear light: the factor on each pixel's light, 0 or more.

  Args:
    source_shading: `[..., H, W]`, positive: `fill_dark` of the photo's own shading.
    target_shading: `[..., H, W]`, of the new light; what is negative turns black.

  Returns:
    `[..., H, W]`.
  """
  xp = source_shading.__array_namespace__()
  return xp.maximum(target_shading, 0) / source_shading


def relight(luminance: Array, source_shading: Array, target_shading: Array, *, kind: str = "linear") -> Array:
  """Carries a photo's luminance from one shading to another.

  What leaves the range is clipped: linear Y to [0, 1], and so L; published L to 1 - 1e-6 above 1 and to 1e-6 below 0.

  Args:
    luminance: L / 100, `[..., H, W]`.
    source_shading: `[..., H, W]`, positive: `fill_dark` of the photo's own shading.
    target_shading: `[..., H, W]`, of the new light; what is negative turns black.
    kind: one of `KINDS`: whether the shadings are factors on linear luminance or on L.

  Returns:
    Relit L / 100, `[..., H, W]`.

  Raises:
    ValueError: an unknown kind.
  """
  _check(kind)
  xp = luminance.__array_namespace__()
  if kind == "linear":
    relit = color.luminance_of_lightness(luminance) * of_shadings(source_shading, target_shading)
    return color.lightness_of_luminance(xp.clip(relit, 0, 1)).astype(luminance.dtype)
  relit = luminance * (target_shading / (source_shading + _EPSILON))
  return xp.where(relit > 1, 1 - _EPSILON, xp.where(relit < 0, _EPSILON, relit)).astype(luminance.dtype)


def relight_luminance(luminance: Array, normal: Array, source: Array, targets: Array, *, kind: str = "linear") -> Array:
  """A portrait's luminance under new lights.

  Args:
    luminance: L / 100, `[H, W]`.
    normal: unit normals of every pixel, `[H, W, 3]`, in the axes of `dpr_jax.light.sh`.
    source: the photo's own light `[9]`, estimated for the same kind.
    targets: the new lights `[K, 9]`.
    kind: one of `KINDS`.

  Returns:
    Relit L / 100, `[K, H, W]`, clipped as by `relight`.

  Raises:
    ValueError: an unknown kind.
  """
  xp = luminance.__array_namespace__()
  shadings = xp.moveaxis(sh.shading(normal, xp.concatenate([source[None], targets])), -1, 0)
  return relight(luminance[None], fill_dark(shadings[0], kind=kind)[None], shadings[1:], kind=kind)


def _check(kind: str) -> None:
  if kind not in KINDS:
    raise ValueError(f"a ratio of kind {kind!r}: must be one of {', '.join(KINDS)}")
