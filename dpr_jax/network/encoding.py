"""What the published networks know of a photo and return, and how skip connections are counted and switched."""

from collections.abc import Sequence
from typing import NamedTuple

import jax

NUM_LEVELS = 4
ALL_SKIPS = (True,) * NUM_LEVELS

# A skip mask: four Python bools (the network is specialised to them, a skip that is off costs nothing) or an array [4]
# of 0 and 1 (traced: one compilation serves every mask).
SkipMask = Sequence[bool] | jax.Array


class Encoding(NamedTuple):
  """What `encode` knows of a photo, before any target light.

  Attributes:
    face: `[B, H/16, W/16, 8 * base_filters]`, the face features Z_f at the bottleneck (H/32 for the 1024 network).
    light: `[B, 9]`, the photo's own light as the network estimates it (`[B, 27]` if the network is not gray).
    skips: the outputs of the four skip branches, outermost first; level k is `[B, H/2^k, W/2^k, C_k]` (half that size
      in the 1024 network).
  """

  face: jax.Array
  light: jax.Array
  skips: tuple[jax.Array, ...]


class Relit(NamedTuple):
  """What a network returns.

  Attributes:
    luminance: `[B, H, W, 1]`, the relit L in [0, 1].
    source_light: `[B, 9]`, the light of the input photo.
    face: the bottleneck face features Z_f, for the feature matching loss.
  """

  luminance: jax.Array
  source_light: jax.Array
  face: jax.Array


def skip_count_mask(skip_count: int) -> tuple[bool, ...]:
  """The official `skip_count` as a skip mask: the `skip_count` outermost skips are off."""
  if not 0 <= skip_count <= NUM_LEVELS:
    raise ValueError(f"skip_count must be 0 to {NUM_LEVELS}, not {skip_count}")
  return tuple(level >= skip_count for level in range(NUM_LEVELS))
