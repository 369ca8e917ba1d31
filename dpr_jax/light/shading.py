"""The shading of a face under a light: irradiance, with attached and cast shadows and some light thrown back."""

import jax
import jax.numpy as jnp

from dpr_jax.light import exposure, light, shadows
from dpr_jax.light.light import Light

# What skin and room throw back of the mean light on the face: no shadow is black.
BOUNCE = 0.05
_LEAST = 1e-4  # keeps logarithms and quotients finite
# Albedo in terms of its median over the skin: on rendered heads, in cells of 4 pixels of 256, 95% have less than 1.18.
_BRIGHTEST_SKIN = 1.2
# In terms of the mean shading of the skin: what is darker is a shadow, wholly from so much further down.
_SHADOW, _SHADOW_STEP = 0.8, 0.2


def face_shading(normal: jax.Array, depth: jax.Array, skin: jax.Array, lit: Light) -> jax.Array:
  """The irradiance of a face.

  Args:
    normal: unit normals, `[H, W, 3]`, axes of `dpr_jax.light.sh`.
    depth: height towards the viewer in shares of the longer side, `[H, W]`.
    skin: weights, `[H, W]`; where the light falls that is thrown back.
    lit: one light.

  Returns:
    `[H, W, C]`, positive, C the light's channels.
  """
  see = jax.vmap(shadows.visibility, in_axes=(None, 0, 0), out_axes=-1)
  # What a lamp sees changes in steps: it has no useful gradient.
  lamps = jax.lax.stop_gradient((lit.towards, lit.size))
  shading = light.shading(lit, normal, see(depth, *lamps) if lit.towards.shape[0] else None)
  return shading + BOUNCE * _mean(shading, skin) + _LEAST


def believed_shading(shading: jax.Array, skin: jax.Array, doubt: jax.Array) -> jax.Array:
  """A shading as far as it is believed, and where it is not, the mean over the skin, as if light came from all sides.

  Args:
    shading: `[H, W, C]`.
    skin: weights, `[H, W]`.
    doubt: `[H, W]` in [0, 1], see `shadow_doubt`.

  Returns:
    `[H, W, C]`.
  """
  return shading + doubt[..., None] * (_mean(shading, skin) - shading)


def shadow_doubt(luminance: jax.Array, shading: jax.Array, skin: jax.Array) -> jax.Array:
  """Where a photo denies a shadow: in it, skin would have to be brighter than skin gets.

  A lid, a nostril or a corner of the mouth that is a little wrong in a shape makes a shadow in the shading of the photo
  that is not in the photo. Divided by it, the skin would glow under every other light. Albedo hardly exceeds its median
  by more than `_BRIGHTEST_SKIN`, so that a photo's luminance says how dark the shading can be at most.

  Args:
    luminance: of the photo, linear, `[H, W]`.
    shading: `face_shading` of the photo, gray, `[H, W]`.
    skin: weights, `[H, W]`.

  Returns:
    `[H, W]` in [0, 1]: the least share of the mean shading of the skin, in `believed_shading`, by which albedo stays in
    its bounds; 0 outside of shadows, and where there is no skin, as hair and clothes may be whiter.
  """
  albedo = jnp.maximum(exposure.quantile(luminance / shading, skin, 0.5), _LEAST)  # a photo may be black
  least = luminance / (_BRIGHTEST_SKIN * albedo)
  mean = _mean(shading[..., None], skin)[..., 0]
  step = _SHADOW_STEP * mean
  share = jnp.clip((least - shading) / jnp.maximum(mean - shading, step), 0, 1)
  return skin * share * jnp.clip((_SHADOW * mean - shading) / step, 0, 1)


def _mean(shading: jax.Array, skin: jax.Array) -> jax.Array:
  """Over the skin, `[H, W, C] -> [1, 1, C]`."""
  skin = skin[..., None]
  return jnp.sum(shading * skin, axis=(0, 1), keepdims=True) / (jnp.sum(skin, axis=(0, 1), keepdims=True) + 1e-6)
