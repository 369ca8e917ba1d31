"""The discriminator of the GAN loss: a PatchGAN (Isola et al. 2017, appendix 6.1.2) on the luminance."""

import jax
import jax.numpy as jnp
from flax import linen as nn

_KERNEL = 4
_LEAK = 0.2
_MAX_WIDENING = 8
_EPSILON = 1e-5


def minimum_size(levels: int) -> int:
  """The smallest side, in pixels, of an image that has a score (whose patch then reaches into the padding)."""
  return 3 * 2**levels


class PatchDiscriminator(nn.Module):
  """Scores overlapping square patches, high for real images: `[B, H, W, 1] -> [B, h, w, 1]`.

  4x4 convolutions with a padding of one pixel: `levels` of stride 2, one of stride 1, and one to a single channel. h is
  `H // 2**levels - 2`. Instance norm without affine parameters lies between, except after the first and the last
  convolution. There is no state but the parameters: an image's scores never depend on the others in its batch.

  Attributes:
    base_filters: channels after the first convolution; they double with each, to at most eight times as many.
    levels: convolutions of stride 2, at least 1; with three of them a score is about a square of 70 x 70 pixels.
    dtype: compute type of the convolutions (bfloat16 on accelerators). Parameters, the norm's statistics and the scores
      stay float32.
  """

  base_filters: int = 64
  levels: int = 3
  dtype: jnp.dtype | None = None

  @nn.compact
  def __call__(self, luminance: jax.Array) -> jax.Array:
    """Scores of the patches, float32.

    Args:
      luminance: L / 100 in [0, 1], `[B, H, W, 1]`; H and W at least `minimum_size(levels)`.

    Raises:
      ValueError: wrong rank, channels or type, an image that is too small, no levels.
    """
    if self.levels < 1:
      raise ValueError(f"the discriminator needs at least one level, not {self.levels}")
    if luminance.ndim != 4 or luminance.shape[-1] != 1:
      raise ValueError(f"luminance must be [B, H, W, 1], not {list(luminance.shape)}")
    if not jnp.issubdtype(luminance.dtype, jnp.floating):
      raise ValueError(f"luminance must be floating, not {luminance.dtype}")
    smallest = minimum_size(self.levels)
    if min(luminance.shape[1:3]) < smallest:
      height, width = luminance.shape[1:3]
      raise ValueError(f"{self.levels} levels need images of at least {smallest} pixels a side, not {height} x {width}")
    x = 2 * luminance - 1  # in [-1, 1], as the PatchGAN's images
    for i in range(self.levels + 1):
      features = self.base_filters * min(2**i, _MAX_WIDENING)
      x = self._conv(features, 2 if i < self.levels else 1, use_bias=i == 0, name=f"conv{i}")(x)
      if i > 0:
        x = self._instance_norm(name=f"norm{i}")(x)
      x = nn.leaky_relu(x, _LEAK)
    x = self._conv(1, 1, use_bias=True, name="output")(x)
    return x.astype(jnp.promote_types(x.dtype, jnp.float32))

  def _conv(self, features: int, stride: int, use_bias: bool, name: str) -> nn.Conv:
    return nn.Conv(features, (_KERNEL, _KERNEL), stride, padding=1, use_bias=use_bias, dtype=self.dtype, name=name)

  def _instance_norm(self, name: str) -> nn.InstanceNorm:
    return nn.InstanceNorm(epsilon=_EPSILON, use_bias=False, use_scale=False, dtype=self.dtype, name=name)
