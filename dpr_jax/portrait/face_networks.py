"""The two networks of the embedded face finder: one proposes faces, one lays landmarks on each and confirms it.

Both see luminance alone, so that gray photos and odd white balances are alike to them. Their layers are plain
convolutions of stride 1; the resolution falls by folding blocks of pixels into channels.
"""

from typing import NamedTuple

import jax
import jax.numpy as jnp
from flax import linen as nn

from dpr_jax.network.convolution import training_convolution
from dpr_jax.portrait.face_scales import NUM_LANDMARKS


class Proposals(NamedTuple):
  """What the detector says for each cell of `DETECTOR_STRIDE` pixels; all `[B, H / 8, W / 8, ...]`.

  Attributes:
    logit: `[...]`, log odds that a face of the size it knows is centred near the cell.
    offset: `[..., 2]`, from the centre of the cell to that of the face, x and y in units of `DETECTOR_SIDE`.
    log_side: `[...]`, natural logarithm of the face's side over `DETECTOR_SIDE`.
    direction: `[..., 2]`, cosine and sine of the angle by which the head leans clockwise, not normalised.
  """

  logit: jax.Array
  offset: jax.Array
  log_side: jax.Array
  direction: jax.Array


class FaceDetector(nn.Module):
  """Proposes faces of one octave of sizes, wherever they are; a pyramid of pictures shows it the others.

  Attributes:
    features: channels of its layers.
    depth: residual convolutions at the final resolution.
    train: whether batch norm uses the batch's own statistics.
  """

  features: int = 48
  depth: int = 3
  train: bool = False

  @nn.compact
  def __call__(self, luminance: jax.Array) -> Proposals:
    """Looks at pictures.

    Args:
      luminance: `[B, H, W, 1]` float32 in [0, 1], sRGB-encoded; H and W multiples of `DETECTOR_STRIDE`.
    """
    x = ConvNorm(32, 3, self.train)(fold(luminance - 0.5, 4))
    x = ConvNorm(self.features, 1, self.train)(fold(x, 2))
    for _ in range(self.depth):
      x = x + ConvNorm(self.features, 3, self.train)(x)
    x = nn.Conv(6, (1, 1))(x)
    return Proposals(x[..., 0], x[..., 1:3], x[..., 3], x[..., 4:6])


class Landmarks(NamedTuple):
  """What the landmark network says of a square around a face.

  Attributes:
    points: `[B, 478, 3]`: x to the right and y down, from the centre of the square, and z towards the viewer; in halves
      of the square's side, so that what is inside has x and y in [-1, 1].
    logit: `[B]`, log odds that there is a face.
  """

  points: jax.Array
  logit: jax.Array


class FaceLandmarker(nn.Module):
  """Lays MediaPipe's 478 landmarks on an upright face.

  Attributes:
    hidden: width of the layer between the picture and the landmarks.
    train: whether batch norm uses the batch's own statistics.
  """

  hidden: int = 160
  train: bool = False

  @nn.compact
  def __call__(self, luminance: jax.Array) -> Landmarks:
    """Looks at squares.

    Args:
      luminance: `[B, 128, 128, 1]` float32, sRGB-encoded, in any range: each square is standardised.
    """
    x = luminance - luminance.mean((1, 2, 3), keepdims=True)
    x = x / (jnp.sqrt(jnp.square(x).mean((1, 2, 3), keepdims=True)) + 0.02)
    x = ConvNorm(32, 3, self.train)(fold(x, 4))
    x = x + ConvNorm(32, 3, self.train)(x)
    for features in (64, 96):
      x = ConvNorm(features, 1, self.train)(fold(x, 2))
      for _ in range(2):
        x = x + ConvNorm(features, 3, self.train)(x)
    x = ConvNorm(32, 1, self.train)(x).reshape(len(x), -1)
    x = nn.relu(nn.Dense(self.hidden)(x))
    points = nn.Dense(NUM_LANDMARKS * 3, name="points")(x).reshape(-1, NUM_LANDMARKS, 3)
    return Landmarks(points, nn.Dense(1, name="presence")(x)[:, 0])


class ConvNorm(nn.Module):
  """Convolution of stride 1 that keeps the size, batch norm, ReLU."""

  features: int
  side: int
  train: bool

  @nn.compact
  def __call__(self, x: jax.Array) -> jax.Array:
    convolution = {"conv_general_dilated": training_convolution} if self.train else {}
    x = nn.Conv(self.features, (self.side, self.side), use_bias=False, **convolution)(x)
    return nn.relu(nn.BatchNorm(use_running_average=not self.train, momentum=0.98)(x))


def fold(x: jax.Array, block: int) -> jax.Array:
  """Blocks of pixels become channels, `[B, H, W, C] -> [B, H / block, W / block, block * block * C]`."""
  b, h, w, c = x.shape
  x = x.reshape(b, h // block, block, w // block, block, c)
  return x.transpose(0, 1, 3, 2, 4, 5).reshape(b, h // block, w // block, block * block * c)
