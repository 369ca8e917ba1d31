"""Cast shadows of a face on itself: what of a far lamp each pixel sees past the relief of the picture.

A horizon map (Max 1988) for the one azimuth that is asked for: a ray towards the lamp climbs over the picture, and the
steepest of what it passes is the pixel's horizon. A lamp above the horizon is seen.
"""

import jax
import jax.numpy as jnp
import numpy as np

# Where a ray looks, in shares of the side: near steps are short, since what is near is what hides a low lamp.
_NEAREST, _FARTHEST, _STEPS = 0.012, 0.42, 24
_DISTANCES = np.geomspace(_NEAREST, _FARTHEST, _STEPS)
# Beyond the picture nothing casts shadows.
_ABYSS = -9.0
_LEAST_ACROSS = 1e-3


def visibility(depth: jax.Array, towards: jax.Array, softness: jax.Array) -> jax.Array:
  """What share of a far lamp each pixel sees past the relief; surfaces that face away are no matter of this function.

  Args:
    depth: height towards the viewer in shares of the side, `[H, W]`, as records have it.
    towards: unit direction to the lamp, `[3]`, axes of `dpr_jax.sh`.
    softness: width of the shadows' edges as a difference in slope, positive: 0.1 is a bare bulb, 0.6 a large softbox.

  Returns:
    `[H, W]` in [0, 1].
  """
  right, down, near = towards[0], -towards[2], -towards[1]
  across = jnp.hypot(right, down)
  # A lamp at the camera sees all that the camera sees.
  slope = near / jnp.maximum(across, _LEAST_ACROSS)
  horizon = _horizon(depth, right / jnp.maximum(across, _LEAST_ACROSS), down / jnp.maximum(across, _LEAST_ACROSS))
  return jnp.clip((slope - horizon) / softness + 0.5, 0, 1)


def _horizon(depth: jax.Array, right: jax.Array, down: jax.Array) -> jax.Array:
  """The steepest climb from each pixel of `[H, W]` along a direction in the picture, as a slope."""
  height, width = depth.shape
  reach = int(np.ceil(_FARTHEST * max(height, width))) + 1
  around = jnp.pad(depth, reach, constant_values=_ABYSS)
  horizon = jnp.full_like(depth, -jnp.inf)
  for distance in _DISTANCES * max(height, width):
    # Whole pixels: shifts of the picture, which cost no interpolation.
    rows, columns = jnp.round(down * distance).astype(int), jnp.round(right * distance).astype(int)
    passed = jax.lax.dynamic_slice(around, (reach + rows, reach + columns), (height, width))
    steps = jnp.maximum(jnp.hypot(rows, columns), 1) / max(height, width)
    horizon = jnp.maximum(horizon, (passed - depth) / steps)
  return horizon
