"""Maps the weights of the official networks, named as their PyTorch modules are, onto our Flax modules."""

import re
from collections.abc import Mapping

import numpy as np
from flax import traverse_util

from dpr_jax.base.errors import BadInput
from dpr_jax.network.pytorch_layers import Layers

# The official hourglasses nest, and each is also an attribute of the network, so a state dict names its tensors up to
# five times: HG2.middle.low1 is HG1.low1, and four `middle` below HG3 lies the lighting network, `light`.
_NESTED = re.compile(r"(?P<network>(?:model_512\.)?)HG(?P<number>[0-3])(?P<middles>(?:\.middle)+)\.(?P<rest>.+)")

# Present in the 1024 file, unused by its forward pass, which has its own.
_UNUSED_1024 = re.compile(r"model_512\.(pre_conv|pre_bn|conv_[123]|bn_[123]|output)\.\w+")


def is_1024(state_dict: Mapping[str, np.ndarray]) -> bool:
  """Tells whether these are weights of the official 1024 network, which wraps the 512 one as `model_512`."""
  return any(name.startswith("model_512.") for name in state_dict)


def _without_aliases(state_dict: Mapping[str, np.ndarray], source: str) -> dict[str, np.ndarray]:
  """Gives each tensor its shortest official name: HG0 ... HG3 and light, none nested."""
  tensors: dict[str, np.ndarray] = {}
  for name, tensor in state_dict.items():
    short = name
    if nested := _NESTED.fullmatch(name):
      number = int(nested["number"]) - nested["middles"].count(".middle")
      if number >= -1:
        short = f"{nested['network']}{'light' if number < 0 else f'HG{number}'}.{nested['rest']}"
    if not np.array_equal(tensors.setdefault(short, tensor), tensor, equal_nan=True):
      raise BadInput(f"{source}: weights of another network: {name!r} and {short!r} should be one tensor, but differ")
  return tensors


class _OfficialLayers(Layers):
  """The blocks of which the official networks are made."""

  def block(self, name: str, path: str, inputs: str, outputs: str, *, batch_norm: bool = False) -> None:
    self.conv(f"{name}.conv1", f"{path}/conv1", 3, inputs, outputs)
    self.conv(f"{name}.conv2", f"{path}/conv2", 3, outputs, outputs)
    if batch_norm:
      self.norm(f"{name}.bn1", f"{path}/norm1", outputs)
      self.norm(f"{name}.bn2", f"{path}/norm2", outputs)
    if self.channels[inputs] != self.channels[outputs]:
      self.conv(f"{name}.shortcuts", f"{path}/shortcut", 1, inputs, outputs)
    else:
      self.remaining.pop(f"{name}.shortcuts.weight", None)  # the official forward pass adds the input itself

  def stem_and_head(self, stem: str, head: str) -> None:
    self.conv("pre_conv", f"{stem}/conv", 5, "image", "level0", bias=True)
    self.norm("pre_bn", f"{stem}/norm", "level0")
    for number, size in ((1, 3), (2, 1), (3, 1)):
      self.conv(f"conv_{number}", f"{head}/conv{number}", size, "level0", "level0", bias=True)
      self.norm(f"bn_{number}", f"{head}/norm{number}", "level0")
    self.conv("output", f"{head}/output", 1, "level0", "image", bias=True)

  def trunk(self, network: str) -> None:
    for level in range(4):
      hourglass, path = f"{network}HG{3 - level}", f"trunk/level{level}"
      outer, inner = f"level{level}", f"level{level + 1}"
      self.block(f"{hourglass}.upper", f"{path}/skip", outer, outer)
      self.block(f"{hourglass}.low1", f"{path}/down", outer, inner, batch_norm=True)
      self.block(f"{hourglass}.low2", f"{path}/up", inner, outer)
    light, path = f"{network}light", "trunk/light"
    self.dense(f"{light}.predict_FC1", f"{path}/estimate1", "light features", "estimate")
    self.prelu(f"{light}.predict_relu1", f"{path}/estimate_prelu")
    self.dense(f"{light}.predict_FC2", f"{path}/estimate2", "estimate", "sh")
    self.dense(f"{light}.post_FC1", f"{path}/embed1", "sh", "embed")
    self.prelu(f"{light}.post_relu1", f"{path}/embed_prelu")
    self.dense(f"{light}.post_FC2", f"{path}/embed2", "embed", "light features")
    if self.channels["light features"] >= self.channels["level4"]:
      raise self.refuse(f"'{light}.predict_FC1.weight' takes all channels of the bottleneck, none is left for the face")


def dpr_variables(state_dict: Mapping[str, np.ndarray], source: str) -> dict[str, dict]:
  """Maps an official state dict (512 or 1024 network, any base width, gray or color light) onto our Flax modules.

  Not mapped, because the official forward pass does not use them: `num_batches_tracked`, the `shortcuts` of blocks
  that keep their channel count, in the 1024 file the stem and head inside `model_512`; and the further names of a
  tensor that the nesting of the official modules gives it.

  Args:
    state_dict: what `read_state_dict` returns.
    source: what to call the file in errors.

  Returns:
    `{"params": ..., "batch_stats": ...}`, nested dicts of float32 arrays of their own memory: `stem`, `trunk`
    (`level0`, the outermost, ... `level3`, `light`) and `head`; in the 1024 network `stem_1024`, `trunk`, `head_1024`.
    Convolution kernels are [H, W, in, out], those of the lighting network's 1x1 convolutions [in, out], slopes [].

  Raises:
    BadInput: a tensor is missing, unexpected, of the wrong rank or of a size that contradicts another.
  """
  layers = _OfficialLayers(_without_aliases(state_dict, source), source)
  if is_1024(state_dict):
    layers.stem_and_head("stem_1024", "head_1024")
    layers.trunk("model_512.")
    layers.remaining = {name: tensor for name, tensor in layers.remaining.items() if not _UNUSED_1024.fullmatch(name)}
  else:
    layers.stem_and_head("stem", "head")
    layers.trunk("")
  if layers.remaining:
    raise layers.refuse(f"{next(iter(layers.remaining))!r} is not part of it")
  return traverse_util.unflatten_dict(layers.variables, sep="/")
