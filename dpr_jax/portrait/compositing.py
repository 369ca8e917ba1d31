"""What a change of light makes of colours: linear light is multiplied, and stays within what sRGB can show."""

import jax
import numpy as np

from dpr_jax.light.light import luminance

Array = jax.Array | np.ndarray

# From which on what gets brighter is compressed, as film does, instead of being cut off: luminance at white, and the
# strongest channel at the end of the gamut.
_SHOULDER = 0.75
_LEAST = 1e-9  # below the darkest colour of 16 bits


def multiply_light(linear: Array, log_ratio: Array) -> Array:
  """Linear RGB `[..., 3]` in [0, 1] times the ratio of two lights, in [0, 1].

  What would get brighter than `_SHOULDER` approaches white without reaching it, and never gets darker than it was;
  colours whose strongest channel would are drawn towards their luminance until it does the same. A ratio of 1 changes
  nothing.

  Args:
    linear: `[..., 3]`.
    log_ratio: the natural logarithm of the ratio, `[..., 1]` of white lights, or `[..., 3]`.
  """
  xp = linear.__array_namespace__()
  relit = linear * xp.exp(log_ratio)
  before, after = luminance(linear), luminance(relit)
  wanted = _compressed(before, after, xp)
  strongest = _compressed(xp.max(linear, axis=-1), xp.max(relit, axis=-1), xp)
  relit = relit * (wanted / xp.maximum(after, _LEAST))[..., None]
  kept = xp.minimum((strongest - wanted) / xp.maximum(xp.max(relit, axis=-1) - wanted, _LEAST), 1)
  gray = wanted[..., None]
  return xp.clip(gray + kept[..., None] * (relit - gray), 0, 1)


def _compressed(before: Array, after: Array, xp) -> Array:
  """What is to become of values that are multiplied: `after`, but for those that get brighter beyond the shoulder."""
  room = 1 - _SHOULDER
  compressed = 1 - room * xp.exp(-(xp.maximum(after, _SHOULDER) - _SHOULDER) / room)
  return xp.where((after > _SHOULDER) & (after > before), xp.maximum(compressed, before), after)
