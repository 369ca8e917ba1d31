"""Layers of a PyTorch state dict as those of a Flax module: other names, and kernels laid out another way."""

from collections.abc import Mapping

import numpy as np

from dpr_jax.base.errors import BadInput


class Layers:
  """Moves tensors from PyTorch's names to Flax paths, layer by layer.

  Channel counts are named, not fixed: the first tensor that mentions a name sets it, all others must agree.
  """

  def __init__(self, tensors: Mapping[str, np.ndarray], source: str):
    self.remaining = dict(tensors)
    self.source = source
    self.channels: dict[str, int] = {}
    self.variables: dict[str, np.ndarray] = {}

  def refuse(self, reason: str) -> BadInput:
    return BadInput(f"{self.source}: weights of another network: {reason}")

  def take(self, name: str, *dimensions: int | str) -> np.ndarray:
    """Removes a tensor whose dimensions are the given numbers and named channel counts; returns it as float32."""
    if name not in self.remaining:
      raise self.refuse(f"{name!r} is missing")
    tensor = self.remaining.pop(name)
    fits = tensor.ndim == len(dimensions) and all(
      length == (self.channels.setdefault(wanted, length) if isinstance(wanted, str) else wanted)
      for wanted, length in zip(dimensions, tensor.shape, strict=True)
    )
    if not fits:
      expected = ", ".join(str(self.channels.get(wanted, wanted)) for wanted in dimensions)
      raise self.refuse(f"{name!r} has shape {tensor.shape}, expected ({expected})")
    if tensor.dtype.kind != "f":
      raise self.refuse(f"{name!r} is {tensor.dtype}, expected floating point numbers")
    return tensor.astype(np.float32)

  def conv(self, name: str, path: str, size: int, inputs: str, outputs: str, *, bias: bool = False) -> None:
    kernel = self.take(f"{name}.weight", outputs, inputs, size, size)
    self.variables[f"params/{path}/kernel"] = np.ascontiguousarray(kernel.transpose(2, 3, 1, 0))  # OIHW -> HWIO
    if bias:
      self.variables[f"params/{path}/bias"] = self.take(f"{name}.bias", outputs)

  def dense(self, name: str, path: str, inputs: str, outputs: str) -> None:
    kernel = self.take(f"{name}.weight", outputs, inputs, 1, 1)
    self.variables[f"params/{path}/kernel"] = np.ascontiguousarray(kernel[:, :, 0, 0].T)

  def prelu(self, name: str, path: str) -> None:
    self.variables[f"params/{path}/negative_slope"] = self.take(f"{name}.weight", 1).reshape(())

  def norm(self, name: str, path: str, channels: str) -> None:
    self.variables[f"params/{path}/scale"] = self.take(f"{name}.weight", channels)
    self.variables[f"params/{path}/bias"] = self.take(f"{name}.bias", channels)
    self.variables[f"batch_stats/{path}/mean"] = self.take(f"{name}.running_mean", channels)
    self.variables[f"batch_stats/{path}/var"] = self.take(f"{name}.running_var", channels)
    self.remaining.pop(f"{name}.num_batches_tracked", None)  # PyTorch's counter, absent before 0.4.1
