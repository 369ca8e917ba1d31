"""The networks by what their weights look like."""

from typing import Any

import jax.numpy as jnp

from dpr_jax.network.hourglass import HourglassNet, HourglassNet1024
from dpr_jax.network.ratio_network import RatioHourglassNet

Network = HourglassNet | HourglassNet1024 | RatioHourglassNet


def network_for(variables: Any, dtype: jnp.dtype | None = None) -> Network:
  """The network that a variable tree (or a tree of its shapes) belongs to.

  Args:
    variables: `{"params": ..., "batch_stats": ...}`.
    dtype: compute type.

  Raises:
    ValueError: the tree is of none of the networks.
  """
  try:
    params = variables["params"]
    if "normal_head" in params:
      return RatioHourglassNet(base_filters=params["stem"]["conv"]["kernel"].shape[-1], dtype=dtype)
    network = HourglassNet1024 if "stem_1024" in params else HourglassNet
    stem = params["stem_1024" if network is HourglassNet1024 else "stem"]
    light = params["trunk"]["light"]
    base_filters = stem["conv"]["kernel"].shape[-1]
    gray = {9: True, 27: False}[light["estimate2"]["kernel"].shape[-1]]
    light_channels = light["embed2"]["kernel"].shape[-1]
  except (KeyError, TypeError, AttributeError, IndexError):
    raise ValueError("params are of none of the relighting networks") from None
  return network(base_filters=base_filters, light_channels=light_channels, gray=gray, dtype=dtype)
