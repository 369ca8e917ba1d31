"""The published networks: an hourglass whose bottleneck exchanges the light (Zhou et al. 2019, section 3.2, figure 3).

The target light enters at the bottleneck and nowhere else. Everything before it, the skip branches included, depends on
the photo alone: `encode` computes that once, `decode` turns it into as many relit images as there are lights.

Layout is `[B, H, W, C]`. H and W must be multiples of `size_multiple`. Skip connections are numbered from the outside
in: 0 = full resolution ... 3 = innermost.
"""

import functools

import jax
import jax.numpy as jnp
from flax import linen as nn

from dpr_jax.network.convolution import max_pool, training_convolution
from dpr_jax.network.encoding import ALL_SKIPS, NUM_LEVELS, Encoding, Relit, SkipMask

EPSILON = 1e-5  # of every normalisation, as the official network
_BATCH_NORM_MOMENTUM = 0.9
_FACE_FEATURES_PER_BASE_FILTER = 8
_LIGHT_HIDDEN = 128


@functools.partial(jax.jit, static_argnames="dtype")  # a name, by which exports find it
def instance_norm(x: jax.Array, dtype: jnp.dtype | None) -> jax.Array:
  """Instance normalisation without affine parameters, in float32 whatever the compute type."""
  x = x.astype(jnp.promote_types(x.dtype, jnp.float32))
  mean = x.mean(axis=(1, 2), keepdims=True)
  centred = x - mean
  variance = jnp.square(centred).mean(axis=(1, 2), keepdims=True)
  x = centred * jax.lax.rsqrt(variance + EPSILON)
  return x if dtype is None else x.astype(dtype)


def _batch_norm(name: str | None, train: bool, dtype: jnp.dtype | None) -> nn.BatchNorm:
  return nn.BatchNorm(
    use_running_average=not train, momentum=_BATCH_NORM_MOMENTUM, epsilon=EPSILON, dtype=dtype, name=name
  )


def conv_layer(
  features: int, side: int, name: str, train: bool, dtype: jnp.dtype | None, use_bias: bool = True, **options
) -> nn.Conv:
  if train:
    options["conv_general_dilated"] = training_convolution
  return nn.Conv(features, (side, side), use_bias=use_bias, dtype=dtype, name=name, **options)


def _upsample(x: jax.Array) -> jax.Array:
  """Nearest neighbour, twofold."""
  b, h, w, c = x.shape
  x = jnp.broadcast_to(x[:, :, None, :, None, :], (b, h, 2, w, 2, c))
  return x.reshape(b, 2 * h, 2 * w, c)


class ResidualBlock(nn.Module):
  """Two 3x3 convolutions and a shortcut, `[B, H, W, C] -> [B, H, W, features]`.

  Attributes:
    features: output channels. The shortcut is the identity if the input has as many, a 1x1 convolution otherwise.
    batch_norm: batch norm (the single-branch path) or instance norm (skip branches and decoder).
    dtype: compute type of the convolutions; None promotes inputs and parameters.
  """

  features: int
  batch_norm: bool
  dtype: jnp.dtype | None = None

  @nn.compact
  def __call__(self, x: jax.Array, train: bool) -> jax.Array:
    def normalise(y: jax.Array, name: str) -> jax.Array:
      return _batch_norm(name, train, self.dtype)(y) if self.batch_norm else instance_norm(y, self.dtype)

    def conv(side: int, name: str) -> nn.Conv:
      return conv_layer(self.features, side, name, train, self.dtype, use_bias=False)

    y = conv(3, "conv1")(x)
    y = nn.relu(normalise(y, "norm1"))
    y = conv(3, "conv2")(y)
    y = normalise(y, "norm2")
    if x.shape[-1] != self.features:
      x = conv(1, "shortcut")(x)
    return nn.relu(y + x)


class Level(nn.Module):
  """One level of the hourglass: the skip branch, the way down and the way up.

  Attributes:
    outer: channels outside (at this level's resolution).
    inner: channels inside (at half of it).
    dtype: see `ResidualBlock`.
  """

  outer: int
  inner: int
  dtype: jnp.dtype | None = None

  def setup(self):
    self.skip = ResidualBlock(self.outer, batch_norm=False, dtype=self.dtype)
    self.down = ResidualBlock(self.inner, batch_norm=True, dtype=self.dtype)
    self.up = ResidualBlock(self.outer, batch_norm=False, dtype=self.dtype)

  def encode(self, x: jax.Array, train: bool) -> tuple[jax.Array, jax.Array]:
    """`[B, H, W, outer]` -> `[B, H/2, W/2, inner]` and the skip branch's `[B, H, W, outer]`."""
    return self.down(max_pool(x), train), self.skip(x, train)

  def decode(self, x: jax.Array, skip: jax.Array, skip_on: bool | jax.Array, train: bool) -> jax.Array:
    """`[B, H/2, W/2, inner]` -> `[B, H, W, outer]`."""
    x = _upsample(self.up(x, train))
    if isinstance(skip_on, jax.Array):
      return x + skip_on.astype(skip.dtype) * skip
    return x + skip if skip_on else x


class LightNet(nn.Module):
  """The light's way out of the bottleneck and into it (section 3.2).

  Attributes:
    channels: bottleneck channels that carry light.
    light_size: numbers of a light, 9 or 27.
    dtype: see `ResidualBlock`.
  """

  channels: int
  light_size: int
  dtype: jnp.dtype | None = None

  def setup(self):
    def dense(features):
      return nn.Dense(features, use_bias=False, dtype=self.dtype)

    self.estimate1 = dense(_LIGHT_HIDDEN)
    self.estimate_prelu = nn.PReLU(negative_slope_init=0.25)
    self.estimate2 = dense(self.light_size)
    self.embed1 = dense(_LIGHT_HIDDEN)
    self.embed_prelu = nn.PReLU(negative_slope_init=0.25)
    self.embed2 = dense(self.channels)

  def estimate(self, features: jax.Array) -> jax.Array:
    """Light features `[B, h, w, channels]` -> the source light `[B, light_size]`, float32."""
    # The mean runs over up to 4,096 positions: float32, whatever the compute type.
    pooled = features.mean(axis=(1, 2), dtype=jnp.promote_types(features.dtype, jnp.float32))
    light = self.estimate2(self.estimate_prelu(self.estimate1(pooled)))
    return light.astype(pooled.dtype)

  def embed(self, light: jax.Array) -> jax.Array:
    """Target light `[B, light_size]` -> light features `[B, 1, 1, channels]`, the same at every position."""
    return nn.relu(self.embed2(self.embed_prelu(self.embed1(light))))[:, None, None, :]


class Trunk(nn.Module):
  """The four levels and the light net between them: what the 512 and the 1024 network share.

  Attributes:
    base_filters: channels at full resolution; they double at every level inwards.
    light_channels: bottleneck channels that carry light.
    light_size: numbers of a light, 9 or 27.
    dtype: see `ResidualBlock`.
  """

  base_filters: int
  light_channels: int
  light_size: int
  dtype: jnp.dtype | None = None

  def setup(self):
    c = self.base_filters
    bottleneck = _FACE_FEATURES_PER_BASE_FILTER * c + self.light_channels
    self.level0 = Level(c, c, self.dtype)
    self.level1 = Level(c, 2 * c, self.dtype)
    self.level2 = Level(2 * c, 4 * c, self.dtype)
    self.level3 = Level(4 * c, bottleneck, self.dtype)
    self.light = LightNet(self.light_channels, self.light_size, self.dtype)

  @property
  def _levels(self) -> tuple[Level, ...]:
    return self.level0, self.level1, self.level2, self.level3

  def encode(self, x: jax.Array, train: bool) -> Encoding:
    skips = []
    for level in self._levels:
      x, skip = level.encode(x, train)
      skips.append(skip)
    light_features, face = jnp.split(x, [self.light_channels], axis=-1)
    return Encoding(face=face, light=self.light.estimate(light_features), skips=tuple(skips))

  def decode(self, encoding: Encoding, light: jax.Array, skip_mask: SkipMask, train: bool) -> jax.Array:
    embedded = self.light.embed(light).astype(encoding.face.dtype)
    b, h, w, _ = encoding.face.shape
    x = jnp.concatenate([jnp.broadcast_to(embedded, (b, h, w, self.light_channels)), encoding.face], axis=-1)
    for k in reversed(range(NUM_LEVELS)):
      x = self._levels[k].decode(x, encoding.skips[k], skip_mask[k], train)
    return x


class Stem(nn.Module):
  """L `[B, H, W, 1]` -> features `[B, H, W, features]`."""

  features: int
  dtype: jnp.dtype | None = None

  @nn.compact
  def __call__(self, x: jax.Array, train: bool) -> jax.Array:
    x = conv_layer(self.features, 5, "conv", train, self.dtype)(x)
    return nn.relu(_batch_norm("norm", train, self.dtype)(x))


class Head(nn.Module):
  """Features `[B, H, W, features]` -> relit L `[B, H, W, 1]` in [0, 1], float32."""

  features: int
  dtype: jnp.dtype | None = None

  @nn.compact
  def __call__(self, x: jax.Array, train: bool) -> jax.Array:
    for i, side in enumerate((3, 1, 1), start=1):
      x = conv_layer(self.features, side, f"conv{i}", train, self.dtype)(x)
      x = nn.relu(_batch_norm(f"norm{i}", train, self.dtype)(x))
    x = conv_layer(1, 1, "output", train, self.dtype)(x)
    return nn.sigmoid(x.astype(jnp.promote_types(x.dtype, jnp.float32)))


class _Relighting(nn.Module):
  """What the networks have in common; they differ in what is around the trunk."""

  base_filters: int = 16
  light_channels: int = 27
  gray: bool = True
  dtype: jnp.dtype | None = None

  @property
  def light_size(self) -> int:
    """Numbers of a light: 9, or 27 (9 each of red, green, blue) if not gray."""
    return 9 if self.gray else 27

  def _trunk(self) -> Trunk:
    return Trunk(self.base_filters, self.light_channels, self.light_size, self.dtype)

  def encode(self, luminance: jax.Array, train: bool = False) -> Encoding:
    """Everything that does not depend on the target light.

    Args:
      luminance: `[B, H, W, 1]`, L / 100 in [0, 1]; H and W multiples of `size_multiple`.
      train: batch statistics of this batch instead of the running ones.

    Raises:
      ValueError: wrong rank, channels or size.
    """
    self._check_luminance(luminance)
    return self.trunk.encode(self._stem(luminance, train), train)

  def decode(
    self, encoding: Encoding, light: jax.Array, skip_mask: SkipMask = ALL_SKIPS, train: bool = False
  ) -> jax.Array:
    """The photo of `encoding` under a target light.

    Args:
      encoding: from `encode`.
      light: `[B, light_size]` SH coefficients.
      skip_mask: which skip connections are on, outermost first.
      train: batch statistics of this batch instead of the running ones.

    Returns:
      Relit L `[B, H, W, 1]` in [0, 1].

    Raises:
      ValueError: a light of another batch size or length, a mask of another length.
    """
    self._check(encoding, light, skip_mask)
    return self._head(self.trunk.decode(encoding, light, skip_mask, train), train)

  def _check_luminance(self, luminance: jax.Array) -> None:
    if luminance.ndim != 4 or luminance.shape[-1] != 1:
      raise ValueError(f"luminance must be [B, H, W, 1], not {luminance.shape}")
    if any(side % self.size_multiple for side in luminance.shape[1:3]):
      raise ValueError(f"height and width must be multiples of {self.size_multiple}, not {luminance.shape[1:3]}")

  def _check(self, encoding: Encoding, light: jax.Array, skip_mask: SkipMask) -> None:
    expected = (encoding.face.shape[0], self.light_size)
    if light.shape != expected:
      raise ValueError(f"light must be {list(expected)}, not {list(light.shape)}")
    if len(skip_mask) != NUM_LEVELS:
      raise ValueError(f"skip mask must have {NUM_LEVELS} entries, not {len(skip_mask)}")

  def __call__(
    self, luminance: jax.Array, light: jax.Array, skip_mask: SkipMask = ALL_SKIPS, train: bool = False
  ) -> Relit:
    """`encode`, then `decode`; see there."""
    encoding = self.encode(luminance, train)
    return Relit(self.decode(encoding, light, skip_mask, train), encoding.light, encoding.face)


class HourglassNet(_Relighting):
  """The 512 network.

  Attributes:
    base_filters: channels at full resolution.
    light_channels: bottleneck channels that carry light; 8 * base_filters more carry the face.
    gray: lights are 9 numbers; otherwise 27.
    dtype: compute type of the convolutions (bfloat16 on accelerators). Parameters, norms' statistics and outputs stay
      float32.
  """

  native_size = 512  # what the official weights were trained at
  size_multiple = 2**NUM_LEVELS

  def setup(self):
    self.stem = Stem(self.base_filters, self.dtype)
    self.trunk = self._trunk()
    self.head = Head(self.base_filters, self.dtype)

  def _stem(self, luminance: jax.Array, train: bool) -> jax.Array:
    return self.stem(luminance, train)

  def _head(self, features: jax.Array, train: bool) -> jax.Array:
    return self.head(features, train)


class HourglassNet1024(_Relighting):
  """The 1024 network: the trunk of a 512 network between a stem and a head at twice the resolution.

  Attributes: see `HourglassNet`.
  """

  native_size = 1024
  size_multiple = 2 ** (NUM_LEVELS + 1)

  def setup(self):
    self.stem_1024 = Stem(self.base_filters, self.dtype)
    self.trunk = self._trunk()
    self.head_1024 = Head(self.base_filters, self.dtype)

  def _stem(self, luminance: jax.Array, train: bool) -> jax.Array:
    return max_pool(self.stem_1024(luminance, train))

  def _head(self, features: jax.Array, train: bool) -> jax.Array:
    return self.head_1024(_upsample(features), train)
