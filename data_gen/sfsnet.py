"""SfSNet: normals, albedo and light of a face from one small picture (Sengupta et al. 2018, section 3 and figure 2).

Modules are named as in the public PyTorch port (Mannix1994/SfSNet-Pytorch), so that converting its weights is a rule
and not a table. The authors' own weights are Caffe's; the port's pickle of them can be read as well.
"""

import functools
import os
import pathlib
import re
from collections.abc import Mapping
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from flax import linen as nn
from flax import traverse_util

from data_gen.numpy_pickle import read_numpy_pickle
from dpr_jax.base.assets import asset_path
from dpr_jax.base.errors import BadInput
from dpr_jax.base.native_libraries import import_native
from dpr_jax.light import sh
from dpr_jax.light.prior import GRAY_WEIGHTS
from dpr_jax.network.pytorch_weights import read_state_dict

cv2 = import_native("cv2")

SIZE = 128  # the side of the pictures it was trained on

_EPSILON = 1e-5

# The port's crop is a square of four times the way from eye to mouth, which is about 1.4 times the height of the skin.
_WINDOW = 1.4


# ---------------------------------------------------------------------------------------------------------------------
# The network.


def _conv(features: int, size: int, name: str, stride: int = 1) -> nn.Conv:
  return nn.Conv(features, (size, size), strides=stride, padding=size // 2, name=name)


def _norm_relu(x: jax.Array, name: str) -> jax.Array:
  return nn.relu(nn.BatchNorm(use_running_average=True, epsilon=_EPSILON, name=name)(x))


class ResidualBlock(nn.Module):
  """Two pre-activated 3x3 convolutions and the identity, `[B, H, W, C]` to the same."""

  @nn.compact
  def __call__(self, x: jax.Array) -> jax.Array:
    channels = x.shape[-1]
    y = _conv(channels, 3, "conv")(_norm_relu(x, "bn"))
    return x + _conv(channels, 3, "convr")(_norm_relu(y, "bnr"))


class SfSNet(nn.Module):
  """The network at inference."""

  @nn.compact
  def __call__(self, image: jax.Array) -> tuple[jax.Array, jax.Array, jax.Array]:
    """Decomposes pictures of faces.

    Args:
      image: `[B, 128, 128, 3]` in [0, 1], blue, green, red.

    Returns:
      normal: `[B, 128, 128, 3]`, (normal + 1) / 2 with z, y, x for channels, not of unit length.
      albedo: `[B, 128, 128, 3]`, blue, green, red.
      light: `[B, 27]`, nine numbers of red, then of green, then of blue, in SfSNet's convention (see
        `dpr_jax.light.sh`).
    """
    x = _norm_relu(_conv(64, 7, "conv1")(image), "bn1")
    x = _norm_relu(_conv(128, 3, "conv2")(x), "bn2")
    shared = _conv(128, 3, "conv3", stride=2)(x)
    normal, normal_features = self._decode(shared, "n")
    albedo, albedo_features = self._decode(shared, "a")
    x = jnp.concatenate([normal_features, albedo_features, shared], axis=-1)
    x = _norm_relu(_conv(128, 1, "lconv1")(x), "lbn1")
    return normal, albedo, nn.Dense(27, name="fc_light")(x.mean(axis=(1, 2)))

  def _decode(self, x: jax.Array, branch: str) -> tuple[jax.Array, jax.Array]:
    """Returns a picture `[B, 128, 128, 3]` and the features `[B, 64, 64, 128]` that it was made from."""
    for number in range(1, 6):
      x = ResidualBlock(name=f"{branch}_res{number}")(x)
    features = _norm_relu(x, f"{branch}bn6r")
    # A transposed convolution, channel by channel: twofold upsampling, bilinear before training.
    upsample = nn.Conv(
      128, (4, 4), padding=2, input_dilation=2, feature_group_count=128, use_bias=False, name=f"{branch}up6"
    )
    x = _norm_relu(_conv(128, 1, f"{branch}conv6")(upsample(features)), f"{branch}bn6")
    x = _norm_relu(_conv(64, 3, f"{branch}conv7")(x), f"{branch}bn7")
    return _conv(3, 1, f"{branch.upper()}conv0")(x), features


@jax.jit
def _light(variables: Any, image: jax.Array) -> jax.Array:
  return SfSNet().apply(variables, image)[2]


# ---------------------------------------------------------------------------------------------------------------------
# Weights.

_TORCH_NAMES = {"kernel": "weight", "scale": "weight", "bias": "bias", "mean": "running_mean", "var": "running_var"}


@functools.cache
def _expected_shapes() -> dict[tuple[str, ...], tuple[int, ...]]:
  """The shape of every variable by its path, e.g. ("params", "n_res1", "conv", "kernel")."""
  variables = jax.eval_shape(SfSNet().init, jax.random.key(0), jax.ShapeDtypeStruct((1, SIZE, SIZE, 3), jnp.float32))
  return {path: leaf.shape for path, leaf in traverse_util.flatten_dict(variables).items()}


def _flax_layout(tensor: np.ndarray, name: str) -> np.ndarray:
  """Reorders the axes of a PyTorch tensor, whatever its shape."""
  if tensor.ndim != 4:
    return tensor.T
  if name in ("nup6.weight", "aup6.weight"):
    tensor = tensor[:, :, ::-1, ::-1]  # PyTorch's transposed convolution mirrors its kernel
  return tensor.transpose(2, 3, 1, 0)


def sfsnet_variables(state_dict: Mapping[str, np.ndarray], source: str) -> dict[str, dict]:
  """Maps a state dict of the public PyTorch port onto `SfSNet`.

  Args:
    state_dict: what `read_state_dict` or `read_caffe_pickle` returns.
    source: what to call the file in errors.

  Returns:
    `{"params": ..., "batch_stats": ...}`, float32.

  Raises:
    BadInput: a tensor is missing, unexpected, of the wrong shape or type, or not finite.
  """
  remaining = {name: tensor for name, tensor in state_dict.items() if not name.endswith(".num_batches_tracked")}
  variables = {}
  for path, shape in _expected_shapes().items():
    name = ".".join([*path[1:-1], _TORCH_NAMES[path[-1]]])
    if name not in remaining:
      raise BadInput(f"{source}: not weights of SfSNet: {name!r} is missing")
    tensor = remaining.pop(name)
    array = _flax_layout(tensor, name)
    if array.shape != shape:
      raise BadInput(f"{source}: not weights of SfSNet: {name!r} has shape {tensor.shape}")
    if array.dtype.kind != "f" or not np.isfinite(array).all():
      raise BadInput(f"{source}: not weights of SfSNet: {name!r} holds something else than finite real numbers")
    variables[path] = np.ascontiguousarray(array, np.float32)
  if remaining:
    raise BadInput(f"{source}: not weights of SfSNet: {next(iter(remaining))!r} is not part of it")
  return traverse_util.unflatten_dict(variables)


def load_variables(path: str | os.PathLike | None = None) -> dict[str, dict]:
  """Reads the weights of SfSNet.

  Args:
    path: the port's `.pth`, or its `.pkl` of the Caffe weights; None is the asset `sfsnet`.

  Raises:
    BadInput: the file is not there, is damaged, asks for code or holds other weights.
  """
  path = pathlib.Path(asset_path("sfsnet") if path is None else path)
  read = read_caffe_pickle if path.suffix == ".pkl" else read_state_dict
  return sfsnet_variables(read(path), str(path))


# ---------------------------------------------------------------------------------------------------------------------
# The pickle of Caffe's weights: {layer: {"weight", "bias"} or {"running_mean", "running_var"}}, NumPy arrays.

# Where the port's names differ from Caffe's: nbn2r -> n_res2.bnr.
_CAFFE_RESIDUAL = re.compile(r"([na])(bn|conv)([1-5])(r?)")


def read_caffe_pickle(path: str | os.PathLike) -> dict[str, np.ndarray]:
  """Reads the port's pickle of the authors' Caffe weights; runs nothing from it.

  Caffe's batch norm has no scale and bias of its own: they become 1 and 0.

  Returns:
    The tensors under the port's names.

  Raises:
    BadInput: the file cannot be read, is damaged, asks for code or has another layout.
  """
  source = str(path)
  layers = read_numpy_pickle(path)
  if not isinstance(layers, dict) or not all(isinstance(arrays, dict) for arrays in layers.values()):
    raise BadInput(f"{source}: not a pickle of layers and their weights")
  state_dict = {}
  for layer, arrays in layers.items():
    name = _CAFFE_RESIDUAL.sub(r"\1_res\3.\2\4", str(layer)) if _CAFFE_RESIDUAL.fullmatch(str(layer)) else str(layer)
    for kind, array in arrays.items():
      if not isinstance(array, np.ndarray):
        raise BadInput(f"{source}: '{layer}.{kind}' is not a whole array of numbers")
      state_dict[f"{name}.{kind}"] = array
    if "running_var" in arrays:
      channels = state_dict[f"{name}.running_var"].shape
      state_dict |= {f"{name}.weight": np.ones(channels, np.float32), f"{name}.bias": np.zeros(channels, np.float32)}
  return state_dict


# ---------------------------------------------------------------------------------------------------------------------
# The light of a photo.


def face_window(skin: np.ndarray) -> tuple[slice, slice]:
  """The square of a photo to show to SfSNet: around the skin `[H, W]` bool, moved or cut to lie inside the photo."""
  rows, columns = np.flatnonzero(skin.any(axis=1)), np.flatnonzero(skin.any(axis=0))
  side = min(round(_WINDOW * max(np.ptp(rows), np.ptp(columns)) + 1), *skin.shape)

  def window(places, length):
    start = int(np.clip((places[0] + places[-1] + 1 - side) // 2, 0, length - side))
    return slice(start, start + side)

  return window(rows, skin.shape[0]), window(columns, skin.shape[1])


def sfsnet_light(variables: Any, pixels: np.ndarray) -> np.ndarray:
  """The light that SfSNet sees in a face, gray, in the convention of `dpr_jax.light.sh`.

  SfSNet's harmonics are orthonormal and its shading multiplies the bands by pi, 2pi/3 and pi/4, as ours do. Its scale
  is that of its own albedo; `light_estimation` sets ours.

  Args:
    variables: from `load_variables`.
    pixels: a square picture of a face, uint8 RGB `[H, W, 3]`.

  Returns:
    `[9]` float32.
  """
  resized = cv2.resize(pixels, (SIZE, SIZE), interpolation=cv2.INTER_AREA)
  image = resized[None, :, :, ::-1].astype(np.float32) / 255
  light = np.asarray(_light(variables, image)).reshape(3, 9)
  return sh.convert(GRAY_WEIGHTS @ light, "sfsnet").astype(np.float32)
