"""How bright a relit face is: as a photographer exposes, by the bright side of the skin.

A photo's key is the 90th percentile of the skin's linear luminance. Under another light the same face keeps it, so that
a lamp at the side gives a lit side and a shadow, and not a dark picture.
"""

import jax
import numpy as np

from dpr_jax.base.arrays import namespace

Array = jax.Array | np.ndarray

_SHARE = 0.9


def key(luminance: Array, skin: Array) -> Array:
  """The 90th percentile of linear luminance over the skin.

  Args:
    luminance: `[..., H, W]`, or a shading.
    skin: how much of each pixel is skin, of the same shape, 0 or more.

  Returns:
    `[...]`; where there is no skin at all, that of the whole picture.
  """
  return quantile(luminance, skin, _SHARE)


def quantile(values: Array, weights: Array, share: float) -> Array:
  """The value below which a share of the weights lies, interpolated between pixels.

  Args:
    values: `[..., H, W]`.
    weights: of the same shape, 0 or more; where all are 0 they count alike.
    share: 0 to 1.

  Returns:
    `[...]`.
  """
  xp = namespace(values, weights)
  shape = values.shape[:-2]
  values, weights = values.reshape(*shape, -1), weights.reshape(*shape, -1) + 1e-6
  order = xp.argsort(values, axis=-1)
  values, weights = (xp.take_along_axis(array, order, axis=-1) for array in (values, weights))
  upto = xp.cumsum(weights, axis=-1)
  # The pixels on either side of the share, each by how near it is.
  target = share * upto[..., -1:]
  above = xp.minimum(xp.sum(upto < target, axis=-1, keepdims=True), values.shape[-1] - 1)
  below = xp.maximum(above - 1, 0)
  (low, high), (start, end) = (
    tuple(xp.take_along_axis(array, index, axis=-1) for index in (below, above)) for array in (values, upto)
  )
  position = xp.clip((target - start) / xp.maximum(end - start, 1e-9), 0, 1)
  return (low + (high - low) * position)[..., 0]
