"""The relighting networks: an hourglass whose bottleneck exchanges the light (Zhou et al. 2019, section 3.2, figure 3).

`HourglassNet` and `HourglassNet1024` are the published ones; `RatioHourglassNet` is ours.

In the published networks the target light enters at the bottleneck and nowhere else; in ours behind the hourglass.
Everything before it, the skip branches included, depends on the photo alone: `encode` computes that once, `decode`
turns it into as many relit images as there are lights.

Layout is `[B, H, W, C]`. H and W must be multiples of `size_multiple`. Skip connections are numbered from the outside
in: 0 = full resolution ... 3 = innermost.
"""

import functools
from collections.abc import Sequence
from typing import NamedTuple

import jax
import jax.numpy as jnp
from flax import linen as nn

from dpr_jax import sh, shadows
from dpr_jax.convolution import max_pool, training_convolution

NUM_LEVELS = 4
ALL_SKIPS = (True,) * NUM_LEVELS

# A skip mask: four Python bools (the network is specialised to them, a skip that is off costs nothing) or an array [4]
# of 0 and 1 (traced: one compilation serves every mask).
SkipMask = Sequence[bool] | jax.Array

_EPSILON = 1e-5  # of every normalisation, as the official network
_BATCH_NORM_MOMENTUM = 0.9
_FACE_FEATURES_PER_BASE_FILTER = 8
_LIGHT_HIDDEN = 128


class Encoding(NamedTuple):
  """What `encode` knows of a photo, before any target light.

  Attributes:
    face: `[B, H/16, W/16, 8 * base_filters]`, the face features Z_f at the bottleneck (H/32 for the 1024 network).
    light: `[B, 9]`, the photo's own light as the network estimates it (`[B, 27]` if the network is not gray).
    skips: the outputs of the four skip branches, outermost first; level k is `[B, H/2^k, W/2^k, C_k]` (half that size
      in the 1024 network, a quarter in the ratio network).
    surface: what the ratio network knows of the face's shape; None in the others.
  """

  face: jax.Array
  light: jax.Array
  skips: tuple[jax.Array, ...]
  surface: "Surface | None" = None


class Surface(NamedTuple):
  """What `RatioHourglassNet` knows of a photo beside its light, at a quarter of the photo's resolution.

  Attributes:
    luminance: `[B, H, W, 1]`, the photo itself.
    framing: `[B, 3]`, where the face lies: factor, right, down, as in `views.Faces`.
    normal: `[B, H/4, W/4, 3]`, unit, axes of `dpr_jax.sh`.
    features: `[B, H/4, W/4, C]`, whatever else the decoder asks for.
    depth: `[B, H/4, W/4, 1]`, height towards the viewer in shares of the side, from anywhere.
    shading: `[B, H/4, W/4, 1]`, under the photo's own light.
    own_log_ratio: `[B, H, W, 1]`, what the network would change under the photo's own light, where nothing should
      change: it is taken off every ratio. None while training.
  """

  luminance: jax.Array
  framing: jax.Array
  normal: jax.Array
  features: jax.Array
  depth: jax.Array | None = None
  shading: jax.Array | None = None
  own_log_ratio: jax.Array | None = None


class Relit(NamedTuple):
  """What a network returns.

  Attributes:
    luminance: `[B, H, W, 1]`, the relit L in [0, 1].
    source_light: `[B, 9]`, the light of the input photo.
    face: the bottleneck face features Z_f, for the feature matching loss.
    surface: see `Encoding`.
  """

  luminance: jax.Array
  source_light: jax.Array
  face: jax.Array
  surface: Surface | None = None


def skip_count_mask(skip_count: int) -> tuple[bool, ...]:
  """The official `skip_count` as a skip mask: the `skip_count` outermost skips are off."""
  if not 0 <= skip_count <= NUM_LEVELS:
    raise ValueError(f"skip_count must be 0 to {NUM_LEVELS}, not {skip_count}")
  return tuple(level >= skip_count for level in range(NUM_LEVELS))


def _instance_norm(x: jax.Array, dtype: jnp.dtype | None) -> jax.Array:
  """Instance normalisation without affine parameters, in float32 whatever the compute type."""
  x = x.astype(jnp.promote_types(x.dtype, jnp.float32))
  mean = x.mean(axis=(1, 2), keepdims=True)
  centred = x - mean
  variance = jnp.square(centred).mean(axis=(1, 2), keepdims=True)
  x = centred * jax.lax.rsqrt(variance + _EPSILON)
  return x if dtype is None else x.astype(dtype)


def _batch_norm(name: str | None, train: bool, dtype: jnp.dtype | None) -> nn.BatchNorm:
  return nn.BatchNorm(
    use_running_average=not train, momentum=_BATCH_NORM_MOMENTUM, epsilon=_EPSILON, dtype=dtype, name=name
  )


def _conv(
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
      return _batch_norm(name, train, self.dtype)(y) if self.batch_norm else _instance_norm(y, self.dtype)

    def conv(side: int, name: str) -> nn.Conv:
      return _conv(self.features, side, name, train, self.dtype, use_bias=False)

    y = conv(3, "conv1")(x)
    y = nn.relu(normalise(y, "norm1"))
    y = conv(3, "conv2")(y)
    y = normalise(y, "norm2")
    if x.shape[-1] != self.features:
      x = conv(1, "shortcut")(x)
    return nn.relu(y + x)


class ModulatedBlock(nn.Module):
  """A `ResidualBlock` whose instance norms get their scale and shift from the light.

  Shading is bilinear in light and normals (Basri & Jacobs 2003): channels that say how a surface is turned, each scaled
  by what the light sends from there, and added up. (The instance norms of the official decoder take away what the light
  adds to a whole channel.) After Huang & Belongie 2017, adaptive instance normalisation.

  Attributes: see `ResidualBlock`.
  """

  features: int
  dtype: jnp.dtype | None = None

  @nn.compact
  def __call__(self, x: jax.Array, light: jax.Array, train: bool) -> jax.Array:
    """`light` is the codes of target and source light, `[B, K]`."""

    def modulated(y: jax.Array, name: str) -> jax.Array:
      numbers = nn.Dense(2 * self.features, kernel_init=nn.initializers.zeros_init(), dtype=self.dtype, name=name)(
        light
      )
      scale, shift = jnp.split(numbers[:, None, None, :], 2, axis=-1)
      return _instance_norm(y, self.dtype) * (1 + scale) + shift

    y = _conv(self.features, 3, "conv1", train, self.dtype, use_bias=False)(x)
    y = nn.relu(modulated(y, "light1"))
    y = _conv(self.features, 3, "conv2", train, self.dtype, use_bias=False)(y)
    y = modulated(y, "light2")
    if x.shape[-1] != self.features:
      x = _conv(self.features, 1, "shortcut", train, self.dtype, use_bias=False)(x)
    return nn.relu(y + x)


class Level(nn.Module):
  """One level of the hourglass: the skip branch, the way down and the way up.

  Attributes:
    outer: channels outside (at this level's resolution).
    inner: channels inside (at half of it).
    dtype: see `ResidualBlock`.
    absolute: batch norm everywhere and linear enlargement, for maps whose values matter; the official network has
      instance norm in skip branch and decoder, and repeats pixels.
  """

  outer: int
  inner: int
  dtype: jnp.dtype | None = None
  absolute: bool = False

  def setup(self):
    self.skip = ResidualBlock(self.outer, batch_norm=self.absolute, dtype=self.dtype)
    self.down = ResidualBlock(self.inner, batch_norm=True, dtype=self.dtype)
    self.up = ResidualBlock(self.outer, batch_norm=self.absolute, dtype=self.dtype)

  def encode(self, x: jax.Array, train: bool) -> tuple[jax.Array, jax.Array]:
    """`[B, H, W, outer]` -> `[B, H/2, W/2, inner]` and the skip branch's `[B, H, W, outer]`."""
    return self.down(max_pool(x), train), self.skip(x, train)

  def decode(self, x: jax.Array, skip: jax.Array, skip_on: bool | jax.Array, train: bool) -> jax.Array:
    """`[B, H/2, W/2, inner]` -> `[B, H, W, outer]`."""
    x = self.up(x, train)
    if self.absolute:
      b, h, w, c = x.shape
      x = jax.image.resize(x, (b, 2 * h, 2 * w, c), "linear")
    else:
      x = _upsample(x)
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

  def code(self, light: jax.Array) -> jax.Array:
    """Target light `[B, light_size]` -> `[B, 128]`, what all that is made of the light begins with."""
    return self.embed_prelu(self.embed1(light))

  def embed(self, code: jax.Array) -> jax.Array:
    """The light's code -> light features `[B, 1, 1, channels]`, the same at every position."""
    return nn.relu(self.embed2(code))[:, None, None, :]


class Trunk(nn.Module):
  """The four levels and the light net between them: what the 512 and the 1024 network share.

  Attributes:
    base_filters: channels at full resolution; they double at every level inwards.
    light_channels: bottleneck channels that carry light.
    light_size: numbers of a light, 9 or 27.
    dtype: see `ResidualBlock`.
    absolute: see `Level`.
  """

  base_filters: int
  light_channels: int
  light_size: int
  dtype: jnp.dtype | None = None
  absolute: bool = False

  def setup(self):
    c = self.base_filters
    bottleneck = _FACE_FEATURES_PER_BASE_FILTER * c + self.light_channels
    self.level0 = Level(c, c, self.dtype, self.absolute)
    self.level1 = Level(c, 2 * c, self.dtype, self.absolute)
    self.level2 = Level(2 * c, 4 * c, self.dtype, self.absolute)
    self.level3 = Level(4 * c, bottleneck, self.dtype, self.absolute)
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
    embedded = self.light.embed(self.light.code(light)).astype(encoding.face.dtype)
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
    x = _conv(self.features, 5, "conv", train, self.dtype)(x)
    return nn.relu(_batch_norm("norm", train, self.dtype)(x))


class Head(nn.Module):
  """Features `[B, H, W, features]` -> relit L `[B, H, W, 1]` in [0, 1], float32."""

  features: int
  dtype: jnp.dtype | None = None

  @nn.compact
  def __call__(self, x: jax.Array, train: bool) -> jax.Array:
    for i, side in enumerate((3, 1, 1), start=1):
      x = _conv(self.features, side, f"conv{i}", train, self.dtype)(x)
      x = nn.relu(_batch_norm(f"norm{i}", train, self.dtype)(x))
    x = _conv(1, 1, "output", train, self.dtype)(x)
    return nn.sigmoid(x.astype(jnp.promote_types(x.dtype, jnp.float32)))


class _Relighting(nn.Module):
  """What the networks have in common; they differ in what is around the trunk."""

  base_filters: int = 16
  light_channels: int = 27
  gray: bool = True
  dtype: jnp.dtype | None = None

  # The first coefficient of a lamp that exposes a photo well: `sh.directional`'s own.
  lamp_dc = 0.75

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
    return Relit(self.decode(encoding, light, skip_mask, train), encoding.light, encoding.face, encoding.surface)


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


# The modules of `RatioHourglassNet` whose kernels are zero before training: it begins with the rendered ratio alone.
STARTS_AT_ZERO = ("light1", "light2", "log_ratio")

# Luminance (L / 100) added to both sides of a ratio, so that black can become lighter. A larger one makes deep shadows
# black: on Yale B 0.04 cost 0.06 of SSIM.
RATIO_OFFSET = 0.004

# Pixels to a side of what the trunk sees as one: shading is smooth, and costs a sixteenth.
_SHRINK = 4

_LEAST_SHADING = 0.02
# Each of its numbers is learnt by itself: the gain makes the steps of Adam, alike for all parameters, large enough.
_MEAN_FACE_SIDE, _MEAN_FACE_GAIN = 64, 20.0
_LANDMARKS = 8
_SHADOW_SOFTNESS = 0.3


class FramingHead(nn.Module):
  """Features `[B, h, w, C]` -> where the face lies, `[B, 3]`: factor, right, down, as in `views.Faces`; float32.

  From the mean places of a few learnt landmarks (spatial softmax: Finn et al. 2016).

  Attributes:
    dtype: see `ResidualBlock`.
  """

  dtype: jnp.dtype | None = None

  @nn.compact
  def __call__(self, x: jax.Array, train: bool) -> jax.Array:
    b, h, w, _ = x.shape
    x = _conv(_LANDMARKS, 3, "landmarks", train, self.dtype, use_bias=False)(x).astype(
      jnp.promote_types(x.dtype, jnp.float32)
    )
    weights = nn.softmax(x.reshape(b, h * w, _LANDMARKS), axis=1)
    places = jnp.stack(_places(h, w), axis=-1).reshape(h * w, 2).astype(x.dtype)
    means = jnp.einsum("bpk,pc->bkc", weights, places).reshape(b, 2 * _LANDMARKS)
    return jnp.array([1.0, 0.0, 0.0], x.dtype)[None] + nn.Dense(3, name="framing")(means)


class NormalHead(nn.Module):
  """Features `[B, h, w, C]` -> unit normals `[B, h, w, 3]` that face the camera; float32.

  Most of a normal follows from where in the face it lies: the features say how a face differs from a learnt mean face,
  which is laid where this face is.

  Attributes:
    dtype: see `ResidualBlock`.
  """

  dtype: jnp.dtype | None = None

  @nn.compact
  def __call__(self, x: jax.Array, framing: jax.Array, train: bool) -> jax.Array:
    """`framing` `[B, 3]`, as `FramingHead` gives it."""
    mean_face = self.param("mean_face", nn.initializers.zeros_init(), (_MEAN_FACE_SIDE, _MEAN_FACE_SIDE, 3))
    x = _conv(3, 3, "conv", train, self.dtype)(x).astype(jnp.promote_types(x.dtype, jnp.float32))
    x = x + _lay(_MEAN_FACE_GAIN * mean_face, framing, *x.shape[1:3])
    right, near, up = jnp.split(x, 3, axis=-1)
    normal = jnp.concatenate([right, -nn.softplus(near) - 1e-2, up], axis=-1)
    return normal * jax.lax.rsqrt(jnp.sum(jnp.square(normal), axis=-1, keepdims=True))


class DepthHead(nn.Module):
  """Unit normals `[B, h, w, 3]` -> height towards the viewer in shares of the side, `[B, h, w, 1]`; float32.

  The relief that follows from the normals, and what it lacks on a mean face, which is learnt: where a surface turns
  away, at nose and jaw, its normals say too little of its slope.
  """

  @nn.compact
  def __call__(self, normal: jax.Array, framing: jax.Array) -> jax.Array:
    """`framing` `[B, 3]`, as `FramingHead` gives it."""
    mean_face = self.param("mean_face", nn.initializers.zeros_init(), (_MEAN_FACE_SIDE, _MEAN_FACE_SIDE, 1))
    factor = framing[:, 0, None, None, None]
    return shadows.depth_of_normals(normal)[..., None] + factor * _lay(mean_face, framing, *normal.shape[1:3])


def _lay(mean_face: jax.Array, framing: jax.Array, height: int, width: int) -> jax.Array:
  """A mean face `[side, side, C]` laid where the faces lie, `[B, height, width, C]`."""
  columns, rows = _places(height, width)
  factor, right, down = (framing[:, k, None] for k in range(3))
  columns, rows = (columns[0][None] - right) / factor, (rows[:, 0][None] - down) / factor
  return jnp.einsum("bhi,bwj,ijc->bhwc", _hats(rows), _hats(columns), mean_face)


def _places(height: int, width: int) -> tuple[jax.Array, jax.Array]:
  """Where the pixels of a picture lie, right and down of the centre in half sides, `[H, W]` each."""
  return tuple(jnp.meshgrid(*((2 * jnp.arange(size) + 1) / size - 1 for size in (width, height))))


def _hats(places: jax.Array) -> jax.Array:
  """Weights of linear interpolation in the mean face, `[B, N] -> [B, N, side]`; its edge goes on for ever."""
  last = _MEAN_FACE_SIDE - 1
  at = jnp.clip((places + 1) / 2 * _MEAN_FACE_SIDE - 0.5, 0, last)
  return jnp.maximum(1 - jnp.abs(at[..., None] - jnp.arange(_MEAN_FACE_SIDE, dtype=at.dtype)[None, None]), 0)


class Illumination(nn.Module):
  """How nine numbers light a surface: the shading under them, `[B, h, w, 1]`.

  A mixture of the soft light that they are by themselves (Basri & Jacobs 2003) and of the lamp that they may stand for
  (`views.lamps`): even light, and max(0, n . l) where the lamp is seen past the face. How much of each, and how much of
  the lamp's light is even, is learnt as functions of the light.
  """

  @nn.compact
  def __call__(self, normal: jax.Array, depth: jax.Array, light: jax.Array, code: jax.Array) -> jax.Array:
    """`normal` `[B, h, w, 3]`, `depth` `[B, h, w, 1]`, `light` `[B, 9]`, `code` `[B, K]`; all float32."""
    numbers = nn.Dense(3, name="mixture")(code)[:, None, None, :]
    lamp_share, even_share = jnp.split(nn.sigmoid(numbers[..., :2]), 2, axis=-1)
    band1 = light[:, jnp.array([3, 1, 2])]
    towards = band1 / jnp.sqrt(jnp.sum(jnp.square(band1), axis=-1, keepdims=True) + 1e-6)
    facing = jnp.maximum(jnp.sum(normal * towards[:, None, None, :], axis=-1, keepdims=True), 0)
    # What a lamp sees changes in steps: it has no useful gradient.
    see = jax.vmap(functools.partial(shadows.visibility, softness=_SHADOW_SOFTNESS))
    seen = see(depth[..., 0], jax.lax.stop_gradient(towards))[..., None]
    lamp = even_share + (1 - even_share) * facing * seen
    harmonics = sh.basis(normal)
    weights = light * jnp.asarray(sh.LAMBERTIAN)[None]
    # As a sum, which XLA fuses: a product with a matrix would need all nine harmonics in memory.
    soft = sum(harmonics[..., k] * weights[:, k, None, None] for k in range(9))[..., None]
    brightness = jnp.exp(numbers[..., 2:])
    shading = lamp_share * brightness * lamp + (1 - lamp_share) * jnp.maximum(soft, 0)
    return jnp.maximum(shading, 0) + _LEAST_SHADING


class RatioHead(nn.Module):
  """The logarithm of the ratio image, `[B, H, W, 1]` float32, from both shadings and from what the surface is like.

  The ratio of the two shadings, and a correction, 16 numbers for the 4 x 4 pixels of each place (Shi et al. 2016,
  sub-pixel convolution).

  Attributes: see `Stem`.
  """

  features: int
  dtype: jnp.dtype | None = None

  @nn.compact
  def __call__(self, surface: Surface, shading: jax.Array, codes: jax.Array, train: bool) -> jax.Array:
    """`shading` `[B, H/4, W/4, 1]` under the target, `codes` `[B, K]` of both lights."""
    logs = [jnp.log(shading), jnp.log(surface.shading)]
    seen = [*logs, surface.normal, _shrink(surface.luminance).mean(axis=-1, keepdims=True)]
    x = jnp.concatenate([surface.features, *(each.astype(surface.features.dtype) for each in seen)], axis=-1)
    x = ModulatedBlock(self.features, self.dtype, name="block")(x, codes, train)
    x = _conv(_SHRINK**2, 3, "log_ratio", train, self.dtype, kernel_init=nn.initializers.zeros_init())(x)
    rendered = jax.image.resize(logs[0] - logs[1], surface.luminance.shape, "linear")
    return rendered + _enlarge(x.astype(rendered.dtype))


def _shrink(x: jax.Array) -> jax.Array:
  """Each square of pixels becomes channels: `[B, H, W, 1] -> [B, H/4, W/4, 16]`."""
  b, h, w, _ = x.shape
  f = _SHRINK
  return x.reshape(b, h // f, f, w // f, f).transpose(0, 1, 3, 2, 4).reshape(b, h // f, w // f, f * f)


def _enlarge(x: jax.Array) -> jax.Array:
  """The inverse of `_shrink`."""
  b, h, w, _ = x.shape
  f = _SHRINK
  return x.reshape(b, h, w, f, f).transpose(0, 1, 3, 2, 4).reshape(b, f * h, f * w, 1)


class RatioHourglassNet(_Relighting):
  """The network of this project's own weights: an hourglass that sees the face's shape, and a ratio image made of it.

  The whole hourglass belongs to `encode`: at a quarter of the resolution it gives normals, taught by those of the
  fitted mesh, depth, and the photo's own light. `decode` renders the shading under the
  target light and under the photo's own, cast shadows included, and multiplies the photo by their ratio and by a learnt
  correction. So pores and hair need not pass the network, a shadow lies where the shape says, and a further light costs
  a fraction of the first.

  Its skip connections carry shape, not light; they are all on. Lights are gray: `gray` False raises ValueError.

  Attributes: see `HourglassNet`.
  """

  native_size = 256
  lamp_dc = 0.95  # of a lamp with shadows, under which less of a face is lit
  size_multiple = _SHRINK * 2**NUM_LEVELS

  def setup(self):
    if not self.gray:
      raise ValueError("a ratio network takes gray lights, of 9 numbers")
    self.stem = Stem(self.base_filters, self.dtype)
    self.trunk = Trunk(self.base_filters, self.light_channels, self.light_size, self.dtype, absolute=True)
    self.framing_head = FramingHead(self.dtype)
    self.normal_head = NormalHead(self.dtype)
    self.depth_head = DepthHead()
    self.illumination = Illumination()
    self.ratio_head = RatioHead(self.base_filters, self.dtype)

  def encode(self, luminance: jax.Array, train: bool = False) -> Encoding:
    """See `HourglassNet.encode`. After training, a photo is seen twice, the second time in a mirror."""
    self._check_luminance(luminance)
    if train:
      encoding = self._see(luminance, train)
    else:
      encoding = _mean_of_mirror_images(self._see(jnp.concatenate([luminance, jnp.flip(luminance, 2)]), train))
    surface = encoding.surface
    # Shape is taught by the mesh's alone: through the ratio, pictures would teach it with far larger gradients.
    depth = self.depth_head(jax.lax.stop_gradient(surface.normal), jax.lax.stop_gradient(surface.framing))
    shading = self._shading(surface.normal, depth, encoding.light)
    encoding = encoding._replace(surface=surface._replace(depth=depth, shading=shading))
    if train:
      return encoding
    own = self._log_ratio(encoding, encoding.light, shading, train)
    return encoding._replace(surface=encoding.surface._replace(own_log_ratio=own))

  def _log_ratio(self, encoding: Encoding, light: jax.Array, shading: jax.Array, train: bool) -> jax.Array:
    codes = jnp.concatenate([self.trunk.light.code(each) for each in (light, encoding.light)], axis=-1)
    return self.ratio_head(encoding.surface, shading, codes, train)

  def _see(self, luminance: jax.Array, train: bool) -> Encoding:
    """An encoding whose surface has neither depth nor shading yet."""
    encoding = super().encode(luminance, train)
    # The trunk's own decoder, lit as the photo is.
    features = self.trunk.decode(encoding, encoding.light, ALL_SKIPS, train)
    framing = self.framing_head(features, train)
    normal = self.normal_head(features, jax.lax.stop_gradient(framing), train)
    return encoding._replace(surface=Surface(luminance, framing, normal, features))

  def decode(
    self, encoding: Encoding, light: jax.Array, skip_mask: SkipMask = ALL_SKIPS, train: bool = False
  ) -> jax.Array:
    """See `HourglassNet.decode`; while training, L may leave [0, 1], so that the loss can say so.

    Raises:
      ValueError: also where a skip connection is off.
    """
    self._check(encoding, light, skip_mask)
    if not isinstance(skip_mask, jax.Array) and not all(skip_mask):
      raise ValueError("the skip connections of a ratio network are all on")
    surface = encoding.surface
    shading = self._shading(surface.normal, surface.depth, light)
    log_ratio = self._log_ratio(encoding, light, shading, train)
    if surface.own_log_ratio is not None:
      log_ratio -= surface.own_log_ratio
    relit = (surface.luminance + RATIO_OFFSET) * jnp.exp(log_ratio) - RATIO_OFFSET
    return relit if train else jnp.clip(relit, 0, 1)

  def _shading(self, normal: jax.Array, depth: jax.Array, light: jax.Array) -> jax.Array:
    normal, depth = jax.lax.stop_gradient((normal, depth))
    return self.illumination(normal, depth, light, self.trunk.light.code(light))

  def _stem(self, luminance: jax.Array, train: bool) -> jax.Array:
    # Where a pixel lies says much of its normal: faces are framed, if not always alike.
    x = _shrink(luminance)
    place = jnp.broadcast_to(jnp.stack(_places(*x.shape[1:3]), axis=-1).astype(x.dtype), (*x.shape[:3], 2))
    return self.stem(jnp.concatenate([x, place], axis=-1), train)


def _mean_of_mirror_images(encoding: Encoding) -> Encoding:
  """Of photos and their mirror images, `[2B, ...]`, the photos `[B, ...]`, with what both answers say of normals,
  framing and light: where they differ, one of them is wrong.
  """
  seen, mirrored = (jax.tree.map(lambda leaf, half=half: jnp.split(leaf, 2)[half], encoding) for half in (0, 1))
  normal = seen.surface.normal + jnp.flip(mirrored.surface.normal, 2).at[..., 0].multiply(-1)
  normal *= jax.lax.rsqrt(jnp.sum(jnp.square(normal), axis=-1, keepdims=True))
  framing = (seen.surface.framing + mirrored.surface.framing.at[:, 1].multiply(-1)) / 2
  light = (seen.light + mirrored.light * sh.MIRROR[None]) / 2
  return seen._replace(light=light, surface=seen.surface._replace(framing=framing, normal=normal))


# By what their params have and the 512 network's have not.
_TELLTALES = {"stem_1024": HourglassNet1024, "ratio_head": RatioHourglassNet}

Network = HourglassNet | HourglassNet1024 | RatioHourglassNet


def network_for(variables, dtype: jnp.dtype | None = None) -> Network:
  """The network that a variable tree (or a tree of its shapes) belongs to.

  Args:
    variables: `{"params": ..., "batch_stats": ...}`.
    dtype: compute type.

  Raises:
    ValueError: the tree is of none of the networks.
  """
  try:
    params = variables["params"]
    network = next((kind for name, kind in _TELLTALES.items() if name in params), HourglassNet)
    stem = params["stem_1024" if network is HourglassNet1024 else "stem"]
    light = params["trunk"]["light"]
    base_filters = stem["conv"]["kernel"].shape[-1]
    gray = {9: True, 27: False}[light["estimate2"]["kernel"].shape[-1]]
    light_channels = light["embed2"]["kernel"].shape[-1]
  except (KeyError, TypeError, AttributeError, IndexError):
    raise ValueError("params are of none of the relighting networks") from None
  return network(base_filters=base_filters, light_channels=light_channels, gray=gray, dtype=dtype)
