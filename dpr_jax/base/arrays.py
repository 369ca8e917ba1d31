"""Functions of arrays that are NumPy's or JAX's."""

from typing import Any

import jax
import jax.numpy as jnp
import numpy as np


def namespace(*arrays: Any) -> Any:
  """`jax.numpy` where one of the arrays is JAX's, else `numpy`; they may also be numbers or None."""
  return jnp if any(isinstance(array, jax.Array) for array in arrays) else np


def smooth_step(x: Any) -> Any:
  """The polynomial 3 x^2 - 2 x^3 of each element: 0 up to x = 0, 1 from x = 1 on, smooth between. Keeps the type."""
  x = namespace(x).clip(x, 0, 1)
  return x * x * (3 - 2 * x)


def ramp(x: Any, low: float, high: float) -> Any:
  """0 up to x = `low`, 1 from `high` on, by `smooth_step` between; falling where `high` is below `low`."""
  return smooth_step((x - low) / (high - low))
