"""Cast shadows of a face on itself: what of a far lamp each pixel sees past the relief of the picture.

A horizon map (Max 1988) for the one azimuth that is asked for: a ray towards the lamp climbs over the picture, and the
steepest of what it passes is the pixel's horizon. A lamp above the horizon is seen.
"""

import jax
import jax.numpy as jnp
import numpy as np

from dpr_jax.base.arrays import smooth_step

# Where a ray looks, in shares of the side: near steps are short, since what is near is what hides a low lamp.
_NEAREST, _FARTHEST, _STEPS = 0.012, 0.42, 24
_DISTANCES = np.geomspace(_NEAREST, _FARTHEST, _STEPS)
# Beyond the picture nothing casts shadows.
_ABYSS = -9.0
_LEAST_ACROSS = 1e-3
# Degrees: finer shadows than the relief is known for would only be jagged, and lie beside the true ones.
_SMALLEST_LAMP = 20.0


def visibility(depth: jax.Array, towards: jax.Array, size: jax.Array) -> jax.Array:
  """What share of a far lamp each pixel sees past the relief; surfaces that face away are no matter of this function.

  The lamp sets behind the horizon like a disc, so that a shadow's edge is the softer the farther away what casts it is.

  Args:
    depth: height towards the viewer in shares of the side, `[H, W]`, as records have it.
    towards: unit direction to the lamp, `[3]`, axes of `dpr_jax.light.sh`.
    size: angular diameter of the lamp in degrees, as in `light.Light`.

  Returns:
    `[H, W]` in [0, 1].
  """
  right, down, near = towards[0], -towards[2], -towards[1]
  across = jnp.hypot(right, down)
  horizon = _horizon(depth, right / jnp.maximum(across, _LEAST_ACROSS), down / jnp.maximum(across, _LEAST_ACROSS))
  # A lamp at the camera stands in the zenith, and is seen by all that the camera sees.
  above = jnp.arctan2(near, across) - jnp.arctan(horizon)
  return _disc_above(above / jnp.radians(jnp.hypot(size, _SMALLEST_LAMP)))


def _disc_above(height: jax.Array) -> jax.Array:
  """The share of a disc of diameter 1 above a line, for the height of its centre above that line (nearly)."""
  return smooth_step(height + 0.5)


def _horizon(depth: jax.Array, right: jax.Array, down: jax.Array) -> jax.Array:
  """The steepest climb from each pixel of `[H, W]` along a direction in the picture, as a slope."""
  height, width = depth.shape
  side = max(height, width)
  reach = int(np.ceil(_FARTHEST * side)) + 2
  around = jnp.pad(depth, reach, constant_values=_ABYSS)

  def look(horizon: jax.Array, distance: jax.Array) -> tuple[jax.Array, None]:
    # Between pixels, linearly: in whole pixels shadows would jump as a lamp goes round.
    rows, columns = down * distance, right * distance
    row, column = jnp.floor(rows), jnp.floor(columns)
    passed = jax.lax.dynamic_slice(
      around, (reach + row.astype(int), reach + column.astype(int)), (height + 1, width + 1)
    )
    passed = passed[:-1] + (rows - row) * (passed[1:] - passed[:-1])
    passed = passed[:, :-1] + (columns - column) * (passed[:, 1:] - passed[:, :-1])
    return jnp.maximum(horizon, (passed - depth) * (side / distance)), None

  distances = np.maximum(_DISTANCES * side, 1.0)  # no pixel is its own horizon
  horizon, _ = jax.lax.scan(look, jnp.full_like(depth, -jnp.inf), distances.astype(depth.dtype), unroll=2)
  return horizon


# Normals of a grazing surface say little of its slope, and much of nothing.
_LEAST_FACING = 0.15


def depth_of_normals(normal: jax.Array) -> jax.Array:
  """The relief whose slopes are nearest to those of normals, in the mean of squares (Frankot & Chellappa 1988).

  Poisson's equation with free borders, solved by cosine transforms (Simchony et al. 1990).

  Args:
    normal: unit normals that face the camera, `[..., H, W, 3]`, axes of `dpr_jax.light.sh`.

  Returns:
    Height towards the viewer in shares of the longer side, 0 in the mean, `[..., H, W]`.
  """
  height, width = normal.shape[-3:-1]
  facing = jnp.maximum(-normal[..., 1], _LEAST_FACING)
  right, down = -normal[..., 0] / facing, normal[..., 2] / facing  # slopes, between pixels their means
  right, down = (right[..., 1:] + right[..., :-1]) / 2, (down[..., 1:, :] + down[..., :-1, :]) / 2
  along, across = [(0, 0)] * (right.ndim - 1), [(0, 0)] * (down.ndim - 2)
  divergence = jnp.diff(jnp.pad(right, [*along, (1, 1)]), axis=-1)
  divergence += jnp.diff(jnp.pad(down, [*across, (1, 1), (0, 0)]), axis=-2)
  rows, columns = _cosines(height), _cosines(width)
  eigenvalues = _eigenvalues(height)[:, None] + _eigenvalues(width)
  eigenvalues[0, 0] = np.inf  # the mean, which slopes do not tell
  with jax.default_matmul_precision("highest"):
    spectrum = jnp.einsum("ki,...ij,lj->...kl", rows, divergence, columns)
    spectrum /= jnp.asarray(eigenvalues, normal.dtype).reshape((1,) * (spectrum.ndim - 2) + eigenvalues.shape)
    return jnp.einsum("ki,...kl,lj->...ij", rows, spectrum, columns) / max(height, width)


def _cosines(size: int) -> np.ndarray:
  """The orthonormal cosine transform, `[size, size]` float32."""
  k, i = np.mgrid[:size, :size]
  return np.float32(np.sqrt(2 / size) * np.cos(np.pi * k * (i + 0.5) / size) / np.where(k == 0, np.sqrt(2), 1))


def _eigenvalues(size: int) -> np.ndarray:
  """Of the second difference with free borders, for each row of `_cosines`."""
  return 2 * np.cos(np.pi * np.arange(size) / size) - 2
