"""The networks by what their weights look like.

What has been traced already is run without Flax, which takes long to import: the classes themselves are imported only
for who traces them.
"""

from typing import TYPE_CHECKING, Any, NamedTuple

import jax.numpy as jnp

from dpr_jax.network.encoding import NUM_LEVELS

if TYPE_CHECKING:
  from dpr_jax.network.hourglass import HourglassNet, HourglassNet1024
  from dpr_jax.network.ratio_network import RatioHourglassNet

  Network = HourglassNet | HourglassNet1024 | RatioHourglassNet


class Traits(NamedTuple):
  """What whoever hands photos to a network must know of it.

  Attributes:
    name: of its class.
    native_size: side in pixels of the square that it was trained at.
    size_multiple: of what number the sides of a picture are multiples.
    light_size: numbers of a light, 9 or 27.
    base_filters: channels at the highest resolution.
    light_channels: channels of the bottleneck that carry light; None in our network.
    shape_cell: pixels to a side of a cell of the shape that it gives; None where it gives none.
  """

  name: str
  native_size: int
  size_multiple: int
  light_size: int
  base_filters: int
  light_channels: int | None = None
  shape_cell: int | None = None

  @property
  def gray(self) -> bool:
    """Whether a light is nine numbers."""
    return self.light_size == 9


def traits_of(variables: Any) -> Traits:
  """What network a variable tree (or a tree of its shapes) belongs to.

  Args:
    variables: `{"params": ..., "batch_stats": ...}`.

  Raises:
    ValueError: the tree is of none of the networks.
  """
  try:
    params = variables["params"]
    if "normal_head" in params:
      return Traits("RatioHourglassNet", 256, 4 * 2**NUM_LEVELS, 9, _filters(params["stem"]), shape_cell=4)
    large = "stem_1024" in params
    light = params["trunk"]["light"]
    light_size = light["estimate2"]["kernel"].shape[-1]
    light_channels = light["embed2"]["kernel"].shape[-1]
    base_filters = _filters(params["stem_1024" if large else "stem"])
  except (KeyError, TypeError, AttributeError, IndexError):
    light_size = None
  if light_size not in (9, 27):
    raise ValueError("params are of none of the relighting networks")
  if large:
    return Traits("HourglassNet1024", 1024, 2 ** (NUM_LEVELS + 1), light_size, base_filters, light_channels)
  return Traits("HourglassNet", 512, 2**NUM_LEVELS, light_size, base_filters, light_channels)


def _filters(stem: Any) -> int:
  return stem["conv"]["kernel"].shape[-1]


def network_for(variables: Any, dtype: jnp.dtype | None = None) -> "Network":
  """The network that a variable tree (or a tree of its shapes) belongs to.

  Args:
    variables: `{"params": ..., "batch_stats": ...}`.
    dtype: compute type.

  Raises:
    ValueError: the tree is of none of the networks.
  """
  from dpr_jax.network.hourglass import HourglassNet, HourglassNet1024
  from dpr_jax.network.ratio_network import RatioHourglassNet

  traits = traits_of(variables)
  if traits.light_channels is None:
    knows_surfaces = "surface_head" in variables["params"]
    return RatioHourglassNet(base_filters=traits.base_filters, dtype=dtype, knows_surfaces=knows_surfaces)
  network = HourglassNet1024 if traits.name == "HourglassNet1024" else HourglassNet
  return network(base_filters=traits.base_filters, light_channels=traits.light_channels, gray=traits.gray, dtype=dtype)
