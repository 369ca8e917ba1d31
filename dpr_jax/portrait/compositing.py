"""What a change of light makes of colours: linear light is multiplied, and stays within what sRGB can show."""

import jax
import numpy as np

from dpr_jax.light.light import luminance

Array = jax.Array | np.ndarray

# Luminance from which on what gets brighter is compressed, as film does, instead of being cut off at white.
_SHOULDER = 0.75
_LEAST = 1e-9  # below the darkest colour of 16 bits


def multiply_light(linear: Array, log_ratio: Array) -> Array:
  """Linear RGB `[..., 3]` in [0, 1] times the ratio of two lights, in [0, 1].

  What would get brighter than `_SHOULDER` approaches white without reaching it, and never gets darker than it was;
  colours that leave the gamut are drawn towards their luminance. A ratio of 1 changes nothing.

  Args:
    linear: `[..., 3]`.
    log_ratio: the natural logarithm of the ratio, `[..., 1]` of white lights, or `[..., 3]`.
  """
  xp = linear.__array_namespace__()
  relit = linear * xp.exp(log_ratio)
  before, after = luminance(linear), luminance(relit)
  room = 1 - _SHOULDER
  compressed = 1 - room * xp.exp(-(xp.maximum(after, _SHOULDER) - _SHOULDER) / room)
  wanted = xp.where((after > _SHOULDER) & (after > before), xp.maximum(compressed, before), after)
  relit = relit * (wanted / xp.maximum(after, _LEAST))[..., None]
  excess = xp.max(relit, axis=-1) - wanted
  kept = xp.minimum((1 - wanted) / xp.maximum(excess, _LEAST), 1)
  gray = wanted[..., None]
  return xp.clip(gray + kept[..., None] * (relit - gray), 0, 1)
