"""Our network: it sees a face's shape and light, and relights the photo by the ratio of two shadings.

`I* = I f(N, L*) / f(N, L)` (Zhou et al. 2019, equations 1 to 3), in linear light, with lamps and the shadows that they
cast. An hourglass gives normals, depth, skin and the photo's own light at a quarter of the resolution; nothing that is
learnt comes between a target light and the picture. So pores and hair need not pass the network, a shadow lies where
the shape says, and a further light costs a fraction of the first.
"""

from collections.abc import Sequence
from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from flax import linen as nn

from dpr_jax.image import color
from dpr_jax.light import exposure, light, sh, shadows
from dpr_jax.light.fit import LOBE_HARMONICS, LOBES, fit_light, fit_lobes
from dpr_jax.light.light import Light
from dpr_jax.light.shading import believed_shading, face_shading, shadow_doubt
from dpr_jax.network.convolution import max_pool
from dpr_jax.network.encoding import NUM_LEVELS
from dpr_jax.network.hourglass import ResidualBlock, Stem, conv_layer
from dpr_jax.network.shape import RatioEncoding, Shape, Surface

# Pixels to a side of what the hourglass sees as one: shading is smooth, and costs a sixteenth.
_SHRINK = 4
# Each number of the mean face is learnt by itself: the gain makes the steps of Adam, alike for all parameters, large
# enough.
_MEAN_FACE_SIDE, _MEAN_FACE_GAIN = 64, 20.0
_LANDMARKS = 8
_LIGHT_HIDDEN = 128
_LEARNT = 0.2
# How much a surface that is known from elsewhere counts beside what the network sees.
_SURFACE_SHARE = 0.5
_SURFACE_FILTERS, _SURFACE_DEPTH_GAIN = 24, 10.0
_LAMP_SIZES = (2.0, 40.0)  # degrees
_TOWARDS_RIGHT = np.array([-1.0, 1.0, 1.0], np.float32)  # a direction in a mirror


class RatioRelit(NamedTuple):
  """What the network returns.

  Attributes:
    luminance: `[B, H, W, 1]`, the relit L / 100; while training it may exceed 1, so that the loss can say so.
    source_light: as `RatioEncoding.light`.
    face: as `RatioEncoding.face`.
    shape: see `Shape`.
  """

  luminance: jax.Array
  source_light: Light
  face: jax.Array
  shape: Shape


class RatioHourglassNet(nn.Module):
  """The network of this project's own weights.

  Attributes:
    base_filters: channels at a quarter of the photo's resolution.
    dtype: compute type of the convolutions (bfloat16 on accelerators); all that is geometry or light is float32.
    knows_surfaces: whether it has learnt what to make of a `Surface`; otherwise shape is the mean of both.
  """

  base_filters: int = 24
  dtype: jnp.dtype | None = None
  knows_surfaces: bool = False

  native_size = 256
  size_multiple = _SHRINK * 2**NUM_LEVELS
  shape_cell = _SHRINK
  gray = True
  light_size = 9

  def setup(self):
    c = self.base_filters
    widths = (c, c, 2 * c, 4 * c, 8 * c)

    def block(features):
      return ResidualBlock(features, batch_norm=True, dtype=self.dtype)

    self.stem = Stem(c, self.dtype)
    self.skips = [block(features) for features in widths[:-1]]
    self.downs = [block(features) for features in widths[1:]]
    self.ups = [block(features) for features in widths[:-1]]
    self.framing_head = FramingHead(self.dtype)
    self.normal_head = MeanFaceHead(3, self.dtype)
    self.skin_head = MeanFaceHead(1, self.dtype)
    self.depth_head = DepthHead()
    self.light_head = LightHead()
    if self.knows_surfaces:
      self.surface_head = SurfaceHead(self.dtype)

  def encode(self, luminance: jax.Array, train: bool = False, surface: Surface | None = None) -> RatioEncoding:
    """Everything that does not depend on the target light.

    After training a photo is seen twice, the second time in a mirror, and the answers are averaged: so the relit mirror
    image is the mirror image of the relit photo.

    Args:
      luminance: `[B, H, W, 1]`, L / 100 in [0, 1]; H and W multiples of `size_multiple`.
      train: batch statistics of this batch instead of the running ones.
      surface: of these faces, where more is known of it than the photo shows.

    Raises:
      ValueError: wrong rank, channels or size.
    """
    if luminance.ndim != 4 or luminance.shape[-1] != 1:
      raise ValueError(f"luminance must be [B, H, W, 1], not {luminance.shape}")
    if any(side % self.size_multiple for side in luminance.shape[1:3]):
      raise ValueError(f"height and width must be multiples of {self.size_multiple}, not {luminance.shape[1:3]}")
    if train:
      face, own, shape = self._estimate_knowing(luminance, train, surface)
    else:
      both = None if surface is None else jax.tree.map(lambda *pair: jnp.concatenate(pair), surface, _mirrored(surface))
      seen = self._estimate_knowing(jnp.concatenate([luminance, jnp.flip(luminance, 2)]), train, both)
      face, own, shape = _mean_of_mirror_images(*seen)
    bright, skin = _shrunk_luminance(shape.luminance)[..., 0], shape.skin[..., 0]
    if train:
      shading = render(shape, own)
      # The brightness of a light cannot be seen apart from the albedo; so that of the skin is 1 at its key.
      factor = jax.lax.stop_gradient(exposure.key(bright, skin) / exposure.key(shading[..., 0], skin))
      own = own._replace(soft=own.soft * factor[:, None, None], irradiance=own.irradiance * factor[:, None, None])
      return RatioEncoding(face, own, shape, shading * factor[:, None, None, None])
    own = fit_light(bright, shape.normal, shape.depth[..., 0], skin, own)
    shading = render(shape, own)
    doubt = jax.vmap(shadow_doubt)(bright, shading[..., 0], skin)
    shape = shape._replace(doubt=doubt[..., None])
    return RatioEncoding(face, own, shape, jax.vmap(believed_shading)(shading, skin, doubt))

  def _estimate_knowing(
    self, luminance: jax.Array, train: bool, surface: Surface | None = None
  ) -> tuple[jax.Array, Light, Shape]:
    face, own, shape, features = self.estimate(luminance, train)
    if self.knows_surfaces and self.is_initializing():
      surface = Surface(shape.normal, shape.depth, shape.skin)
    if surface is None:
      return face, own, shape
    if self.knows_surfaces:
      return face, own, self.surface_head(shape, surface, features, train)
    return face, own, _mean_shape(shape, surface)

  def estimate(self, luminance: jax.Array, train: bool = False) -> tuple[jax.Array, Light, Shape, jax.Array]:
    """What the network sees in photos `[B, H, W, 1]` by itself, each looked at once.

    Returns:
      Features at the bottleneck, light and shape, as `RatioEncoding` has them; and the features `[B, h, w, C]` by which
      shape is seen.
    """
    small = _shrink(luminance)
    # Where a pixel lies says much of its normal: faces are framed, if not always alike.
    place = jnp.broadcast_to(jnp.stack(_places(*small.shape[1:3]), axis=-1).astype(small.dtype), (*small.shape[:3], 2))
    x = self.stem(jnp.concatenate([small, place], axis=-1), train)
    skips = []
    for skip, down in zip(self.skips, self.downs, strict=True):
      skips.append(skip(x, train))
      x = down(max_pool(x), train)
    face = x
    for skip, up in zip(reversed(skips), reversed(self.ups), strict=True):
      x = up(x, train)
      b, h, w, c = x.shape
      x = jax.image.resize(x, (b, 2 * h, 2 * w, c), "linear") + skip
    framing = self.framing_head(x, train)
    place = jax.lax.stop_gradient(framing)
    right, near, up = jnp.split(self.normal_head(x, place, train), 3, axis=-1)
    normal = jnp.concatenate([right, -nn.softplus(near) - 1e-2, up], axis=-1)
    normal *= jax.lax.rsqrt(jnp.sum(jnp.square(normal), axis=-1, keepdims=True))
    skin = nn.sigmoid(self.skin_head(x, place, train))
    fixed = jax.lax.stop_gradient(normal)
    depth = self.depth_head(fixed, place)
    own = self.light_head(_shrunk_luminance(luminance)[..., 0], fixed, jax.lax.stop_gradient(skin[..., 0]), face)
    shape = Shape(luminance, framing, normal, depth, skin, jnp.zeros_like(skin))
    return face, own, shape, jnp.concatenate([x, small], axis=-1)

  def log_ratio(self, encoding: RatioEncoding, target: Light, exposure_stops: float | None = None) -> jax.Array:
    """The natural logarithm of the ratio image: by how much linear light changes.

    Args:
      encoding: from `encode`.
      target: every part with a leading axis B; gray or RGB.
      exposure_stops: the skin keeps the key of the photo, made so many stops brighter; None: as bright as the target
        light says.

    Returns:
      `[B, H, W, C]`, C the light's channels.
    """
    shading = render(encoding.shape, target)
    ratio = jnp.log(shading) - jnp.log(encoding.shading)
    if exposure_stops is not None:
      luminance = _shrunk_luminance(encoding.shape.luminance)
      relit = light.luminance(luminance * jnp.exp(ratio))
      skin = encoding.shape.skin[..., 0]
      gain = exposure.key(luminance[..., 0], skin) / exposure.key(relit, skin)
      ratio += (jnp.log(gain) + np.log(2) * exposure_stops)[:, None, None, None]
    return jax.image.resize(ratio, (*encoding.shape.luminance.shape[:3], ratio.shape[-1]), "linear")

  def decode(
    self,
    encoding: RatioEncoding,
    target: Light | jax.Array,
    skip_mask: Sequence[bool] = (),
    train: bool = False,
    exposure_stops: float | None = 0.0,
  ) -> jax.Array:
    """The photo of `encoding` under a target light.

    Args:
      encoding: from `encode`.
      target: gray, every part with a leading axis B; or nine numbers, `[B, 9]`, a soft light.
      skip_mask: for the other networks' sake: the skip connections of this one carry shape, and are all on.
      train: the photo becomes as bright as the target light says, and L may exceed 1.
      exposure_stops: as for `log_ratio`.

    Returns:
      Relit L / 100, `[B, H, W, 1]`.

    Raises:
      ValueError: a light of another batch size or in colour, or a skip connection that is off.
    """
    if not isinstance(target, Light):
      target = _batch_of_soft(target)
    if target.soft.shape != (encoding.face.shape[0], 1, 9):
      raise ValueError(f"a light must be gray, for {encoding.face.shape[0]} photos, not {list(target.soft.shape)}")
    if not isinstance(skip_mask, jax.Array) and not all(skip_mask):
      raise ValueError("the skip connections of a ratio network are all on")
    luminance = color.luminance_of_lightness(encoding.shape.luminance)
    ratio = jnp.exp(self.log_ratio(encoding, target, None if train else exposure_stops))
    relit = color.lightness_of_luminance(luminance * ratio)
    return relit if train else jnp.clip(relit, 0, 1)

  def __call__(
    self, luminance: jax.Array, target: Light | jax.Array, skip_mask: Sequence[bool] = (), train: bool = False
  ) -> RatioRelit:
    """`encode`, then `decode`; see there."""
    encoding = self.encode(luminance, train)
    relit = self.decode(encoding, target, skip_mask, train)
    return RatioRelit(relit, encoding.light, encoding.face, encoding.shape)


def _batch_of_soft(coefficients: jax.Array) -> Light:
  """Soft lights of nine numbers `[B, 9]`."""
  if coefficients.ndim != 2 or coefficients.shape[-1] != 9:
    raise ValueError(f"light must be [B, 9], not {list(coefficients.shape)}")
  return jax.vmap(light.soft_light)(coefficients)


def light_numbers(lit: Light, unit: Light) -> jax.Array:
  """Gray lights of one lamp as numbers to compare, `[B, 13]`, in units of the first coefficient of whole lights.

  The soft part, the lamp as a vector as long as its irradiance, and how large the lamp is: the logarithm of its size,
  which counts as much as its irradiance in `unit`.

  Args:
    lit: every part with a leading axis B.
    unit: the lights whose first coefficient is the unit, and whose lamps say what size counts.
  """
  one = light.harmonics(unit)[:, 0, :1]
  size = jnp.log(lit.size / _LAMP_SIZES[0]) / np.log(_LAMP_SIZES[1] / _LAMP_SIZES[0]) * unit.irradiance[:, 0]
  return jnp.concatenate([lit.soft[:, 0], (lit.towards * lit.irradiance)[:, 0], 0.3 * size], axis=-1) / one


def render(shape: Shape, lights: Light) -> jax.Array:
  """Shading, as far as it is believed, of B faces under B lights (all parts with a leading axis B), `[B, h, w, C]`."""
  # Shape is taught by shapes alone: through light, pictures would teach it with far larger gradients.
  normal, depth, skin, doubt = jax.lax.stop_gradient((shape.normal, shape.depth, shape.skin, shape.doubt))
  shading = jax.vmap(face_shading)(normal, depth[..., 0], skin[..., 0], lights)
  return jax.vmap(believed_shading)(shading, skin[..., 0], doubt[..., 0])


class FramingHead(nn.Module):
  """Features `[B, h, w, C]` -> where the face lies, `[B, 3]`: factor, right, down, as in `views.Faces`; float32.

  From the mean places of a few learnt landmarks (spatial softmax: Finn et al. 2016).

  Attributes:
    dtype: see `RatioHourglassNet`.
  """

  dtype: jnp.dtype | None = None

  @nn.compact
  def __call__(self, x: jax.Array, train: bool) -> jax.Array:
    b, h, w, _ = x.shape
    x = conv_layer(_LANDMARKS, 3, "landmarks", train, self.dtype, use_bias=False)(x).astype(
      jnp.promote_types(x.dtype, jnp.float32)
    )
    weights = nn.softmax(x.reshape(b, h * w, _LANDMARKS), axis=1)
    places = jnp.stack(_places(h, w), axis=-1).reshape(h * w, 2).astype(x.dtype)
    means = jnp.einsum("bpk,pc->bkc", weights, places).reshape(b, 2 * _LANDMARKS)
    return jnp.array([1.0, 0.0, 0.0], x.dtype)[None] + nn.Dense(3, name="framing")(means)


class MeanFaceHead(nn.Module):
  """Features `[B, h, w, C]` -> a map `[B, h, w, features]`; float32.

  Most of a map of a face follows from where in the face a pixel lies: the features say how this face differs from a
  learnt mean face, which is laid where this face is.

  Attributes:
    features: channels of the map.
    dtype: see `RatioHourglassNet`.
  """

  features: int
  dtype: jnp.dtype | None = None

  @nn.compact
  def __call__(self, x: jax.Array, framing: jax.Array, train: bool) -> jax.Array:
    """`framing` `[B, 3]`, as `FramingHead` gives it."""
    shape = (_MEAN_FACE_SIDE, _MEAN_FACE_SIDE, self.features)
    mean_face = self.param("mean_face", nn.initializers.zeros_init(), shape)
    x = conv_layer(self.features, 3, "conv", train, self.dtype)(x).astype(jnp.promote_types(x.dtype, jnp.float32))
    return x + _placed(_MEAN_FACE_GAIN * mean_face, framing, *x.shape[1:3])


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
    return shadows.depth_of_normals(normal)[..., None] + factor * _placed(mean_face, framing, *normal.shape[1:3])


class SurfaceHead(nn.Module):
  """Joins what the network sees of a shape and what is known of it from elsewhere; float32.

  The two err in different ways, and their mean less than either. By how much that mean is wrong, and where, is learnt
  from shapes that are known exactly.

  Attributes:
    dtype: see `RatioHourglassNet`.
  """

  dtype: jnp.dtype | None = None

  @nn.compact
  def __call__(self, shape: Shape, surface: Surface, features: jax.Array, train: bool) -> Shape:
    """`shape` with other normals and depth; `features` `[B, h, w, C]` are what it was seen by."""

    def block(features: int, x: jax.Array) -> jax.Array:
      return ResidualBlock(features, batch_norm=True, dtype=self.dtype)(x, train)

    known = surface.weight
    apart = _SURFACE_DEPTH_GAIN * known * (_level(surface, shape.depth) - shape.depth)
    x = [shape.normal, known * surface.normal, known, apart, shape.skin, features]
    x, skips = jnp.concatenate(jax.lax.stop_gradient(x), axis=-1), []
    for _ in range(2):
      x = block(_SURFACE_FILTERS, x)
      skips.append(x)
      x = max_pool(x)
    x = block(_SURFACE_FILTERS, block(2 * _SURFACE_FILTERS, x))
    for skip in reversed(skips):
      x = block(_SURFACE_FILTERS, skip + jax.image.resize(x, skip.shape, "linear"))
    lacking = conv_layer(4, 3, "lacking", train, self.dtype, kernel_init=nn.initializers.zeros_init())(x)
    lacking = lacking.astype(jnp.promote_types(x.dtype, jnp.float32))
    mean = _mean_shape(shape, surface)
    normal = mean.normal + lacking[..., :3]
    return mean._replace(
      normal=normal * jax.lax.rsqrt(jnp.sum(jnp.square(normal), axis=-1, keepdims=True) + 1e-9),
      depth=mean.depth + lacking[..., 3:] / _SURFACE_DEPTH_GAIN,
    )


class LightHead(nn.Module):
  """The light that a photo was taken in, one soft part and one lamp; gray, of whatever brightness.

  What the shape says of it comes first: lobes all around the face whose shading fits the luminance of the skin (least
  squares, none of them negative). What is learnt from pictures under lights that are known then moves part of that into
  a lamp, and sets right what albedo and shadows have led astray.
  """

  @nn.compact
  def __call__(self, luminance: jax.Array, normal: jax.Array, skin: jax.Array, features: jax.Array) -> Light:
    """Linear luminance `[B, h, w]`, normals `[B, h, w, 3]`, skin `[B, h, w]`, features `[B, k, l, C]`."""
    bright = exposure.key(luminance, skin)[:, None]
    lobes = jax.lax.stop_gradient(fit_lobes(luminance, normal, skin)) / bright
    pooled = features.mean(axis=(1, 2), dtype=jnp.promote_types(features.dtype, jnp.float32))
    x = nn.relu(nn.Dense(_LIGHT_HIDDEN, name="hidden")(jnp.concatenate([pooled, jnp.sqrt(lobes + 1e-6)], axis=-1)))
    soft, lamp, kept, moved, size = jnp.split(nn.Dense(15, name="light")(x), (9, 12, 13, 14), axis=-1)
    # It begins near what the lobes say, all of it soft.
    soft = _LEARNT * soft + nn.sigmoid(kept + 2) * (lobes @ LOBE_HARMONICS)
    lamp = _LEARNT * lamp + nn.sigmoid(moved - 2) * (lobes @ LOBES)
    irradiance = jnp.sqrt(jnp.sum(jnp.square(lamp), axis=-1, keepdims=True) + 1e-6)
    low, high = np.log(_LAMP_SIZES)
    return Light(
      soft=soft[:, None],
      towards=(lamp / irradiance)[:, None],
      irradiance=irradiance[:, None],
      size=jnp.exp(low + (high - low) * nn.sigmoid(size)),
    )


def _placed(mean_face: jax.Array, framing: jax.Array, height: int, width: int) -> jax.Array:
  """A mean face `[side, side, C]` laid where the faces lie, `[B, height, width, C]`: a warp with bilinear weights."""
  columns, rows = _places(height, width)
  factor, right, down = (framing[:, k, None] for k in range(3))
  columns, rows = (columns[0][None] - right) / factor, (rows[:, 0][None] - down) / factor
  return jnp.einsum("bhi,bwj,ijc->bhwc", _linear_weights(rows), _linear_weights(columns), mean_face)


def _places(height: int, width: int) -> tuple[jax.Array, jax.Array]:
  """Where the pixels of a picture lie, right and down of the centre in half sides, `[H, W]` each."""
  return tuple(jnp.meshgrid(*((2 * jnp.arange(size) + 1) / size - 1 for size in (width, height))))


def _linear_weights(places: jax.Array) -> jax.Array:
  """Weights of linear interpolation in the mean face, `[B, N] -> [B, N, side]`; its edge goes on for ever."""
  last = _MEAN_FACE_SIDE - 1
  at = jnp.clip((places + 1) / 2 * _MEAN_FACE_SIDE - 0.5, 0, last)
  return jnp.maximum(1 - jnp.abs(at[..., None] - jnp.arange(_MEAN_FACE_SIDE, dtype=at.dtype)[None, None]), 0)


def _shrink(x: jax.Array) -> jax.Array:
  """Each square of pixels becomes channels: `[B, H, W, 1] -> [B, H/4, W/4, 16]`."""
  b, h, w, _ = x.shape
  f = _SHRINK
  return x.reshape(b, h // f, f, w // f, f).transpose(0, 1, 3, 2, 4).reshape(b, h // f, w // f, f * f)


def _shrunk_luminance(lightness: jax.Array) -> jax.Array:
  """L / 100 `[B, H, W, 1]` -> linear luminance `[B, H/4, W/4, 1]`."""
  return _shrink(color.luminance_of_lightness(lightness)).mean(axis=-1, keepdims=True)


def _mean_shape(shape: Shape, surface: Surface) -> Shape:
  """What the network sees and what is known beside: they err in different ways, and their mean less than either."""
  share = _SURFACE_SHARE * surface.weight
  normal = (1 - share) * shape.normal + share * surface.normal
  return shape._replace(
    normal=normal * jax.lax.rsqrt(jnp.sum(jnp.square(normal), axis=-1, keepdims=True)),
    depth=(1 - share) * shape.depth + share * _level(surface, shape.depth),
  )


def _level(surface: Surface, depth: jax.Array) -> jax.Array:
  """The depth of a surface from the zero of another depth, where each has an unknown one."""
  apart = ((depth - surface.depth) * surface.weight).sum((1, 2), keepdims=True)
  return surface.depth + apart / (surface.weight.sum((1, 2), keepdims=True) + 1e-6)


def _mirrored(surface: Surface) -> Surface:
  """What is known of the mirror image."""
  normal, depth, weight = (jnp.flip(part, 2) for part in surface)
  return Surface(normal * _TOWARDS_RIGHT[None, None, None], depth, weight)


def _mean_of_mirror_images(face: jax.Array, own: Light, shape: Shape) -> tuple[jax.Array, Light, Shape]:
  """Of photos and their mirror images, `[2B, ...]`, the photos `[B, ...]`, with what both answers say: where they
  differ, one of them is wrong.
  """

  def both(array: jax.Array, mirror) -> jax.Array:
    seen, mirrored = jnp.split(array, 2)
    return (seen + mirror(mirrored)) / 2

  def flip(array):
    return jnp.flip(array, 2)

  normal = both(shape.normal, lambda array: flip(array) * _TOWARDS_RIGHT[None, None, None])
  lamp = both(own.towards * own.irradiance, lambda array: array * _TOWARDS_RIGHT[None, None])
  irradiance = jnp.sqrt(jnp.sum(jnp.square(lamp), axis=-1, keepdims=True) + 1e-6)
  return (
    jnp.split(face, 2)[0],
    Light(
      soft=both(own.soft, lambda array: array * sh.MIRROR[None, None]),
      towards=lamp / irradiance,
      irradiance=irradiance,
      size=both(own.size, lambda array: array),
    ),
    Shape(
      luminance=jnp.split(shape.luminance, 2)[0],
      framing=both(shape.framing, lambda array: array * jnp.array([1.0, -1.0, 1.0], jnp.float32)[None]),
      normal=normal * jax.lax.rsqrt(jnp.sum(jnp.square(normal), axis=-1, keepdims=True)),
      depth=both(shape.depth, flip),
      skin=both(shape.skin, flip),
      doubt=both(shape.doubt, flip),
    ),
  )
