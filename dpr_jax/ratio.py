"""The ratio image: a portrait under a new light without knowing its albedo, I* = I f(N, L*) / f(N, L).

Shashua & Riklin-Raviv 2001; Zhou et al. 2019, equations 1 to 3. On Lab's L, as the paper does. NumPy in, NumPy out;
jnp in, jnp out, and then usable under `jit`, `vmap` and `grad`.
"""

import jax
import numpy as np

from dpr_jax import sh

Array = jax.Array | np.ndarray

# Keeps the division finite, and a clipped L off the very ends, as the published pipeline does.
_EPSILON = 1e-6


def fill_dark(shading: Array) -> Array:
  """A shading `[H, W]` whose values at or below 0 are replaced by its smallest positive one.

  Second-order SH light can go negative where no light can; a ratio over such a pixel would mean nothing. A shading
  without any positive value comes back as all ones: it says nothing about the photo.
  """
  xp = shading.__array_namespace__()
  lit = shading > 0
  smallest = xp.min(xp.where(lit, shading, xp.inf))
  filled = xp.where(lit, shading, xp.where(xp.isfinite(smallest), smallest, 1.0))
  return filled.astype(shading.dtype)


def relight(luminance: Array, source_shading: Array, target_shading: Array) -> Array:
  """Carries a photo's luminance from one shading to another, clipped to [1e-6, 1 - 1e-6] where it leaves [0, 1].

  Args:
    luminance: L / 100, `[..., H, W]`.
    source_shading: `[..., H, W]`, positive: `fill_dark` of the photo's own shading.
    target_shading: `[..., H, W]`, of the new light; what is negative turns black.

  Returns:
    Relit L / 100, `[..., H, W]`.
  """
  xp = luminance.__array_namespace__()
  relit = luminance * (target_shading / (source_shading + _EPSILON))
  return xp.where(relit > 1, 1 - _EPSILON, xp.where(relit < 0, _EPSILON, relit)).astype(luminance.dtype)


def relight_luminance(luminance: Array, normal: Array, source: Array, targets: Array) -> Array:
  """A portrait's luminance under new lights.

  Args:
    luminance: L / 100, `[H, W]`.
    normal: unit normals of every pixel, `[H, W, 3]`, in the axes of `dpr_jax.sh`.
    source: the photo's own light `[9]`.
    targets: the new lights `[K, 9]`.

  Returns:
    Relit L / 100, `[K, H, W]`.
  """
  xp = luminance.__array_namespace__()
  shadings = xp.moveaxis(sh.shading(normal, xp.concatenate([source[None], targets])), -1, 0)
  return relight(luminance[None], fill_dark(shadings[0])[None], shadings[1:])
