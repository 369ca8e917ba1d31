"""The shading of a face under a light: irradiance, with attached and cast shadows and some light thrown back."""

import jax
import jax.numpy as jnp

from dpr_jax.light import light, shadows
from dpr_jax.light.light import Light

# What skin and room throw back of the mean light on the face: no shadow is black.
BOUNCE = 0.05
_LEAST = 1e-4  # keeps logarithms and quotients finite


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
  skin = skin[..., None]
  mean = jnp.sum(shading * skin, axis=(0, 1), keepdims=True) / (jnp.sum(skin, axis=(0, 1), keepdims=True) + 1e-6)
  return shading + BOUNCE * mean + _LEAST
