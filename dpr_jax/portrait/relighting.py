"""A photo and a light in, the relit photo out: pure functions of (params, image, light).

The published networks put the relit L of Lab in the place of the photo's; ours multiplies linear light by a ratio.

`params` is what `load_params` returns, `{"params": ..., "batch_stats": ...}`; which network it belongs to follows from
its structure. Every function here can be used under `jit`, `vmap` and `grad`. Concrete arguments are checked for range
and NaN, traced ones only for shape.
"""

import functools
from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

import jax
import jax.numpy as jnp
import numpy as np

from dpr_jax.image import color
from dpr_jax.light import light
from dpr_jax.light.light import Light
from dpr_jax.network.encoding import Encoding
from dpr_jax.network.networks import network_for, traits_of
from dpr_jax.network.shape import RatioEncoding, Surface
from dpr_jax.portrait.compositing import multiply_light

if TYPE_CHECKING:
  from dpr_jax.network.networks import Network

Params = Any  # {"params": ..., "batch_stats": ...}, nested dicts of arrays
Array = jax.Array | np.ndarray

_RANGE_TOLERANCE = 1e-3
# Linear luminance added to both sides of a published network's ratio: black may become lighter, and noise in it is not
# amplified.
_RATIO_OFFSET = 0.002
# Of the luminance of a coloured light, what its weakest channel has at least.
_LEAST_CHANNEL = 0.01


def _check_image(image: Array, name: str, ranks: tuple[int, ...], channels: int) -> jax.Array:
  """Float32 (or better) image in [0, 1], or ValueError."""
  if np.ndim(image) not in ranks or np.shape(image)[-1] != channels:
    forms = " or ".join("[H, W, 3]" if rank == 3 else f"[B, H, W, {channels}]" for rank in ranks)
    raise ValueError(f"{name} must be {forms}, not {list(np.shape(image))}")
  if 0 in np.shape(image):
    raise ValueError(f"{name} is empty: {list(np.shape(image))}")
  if not jnp.issubdtype(jnp.result_type(image), jnp.floating):
    raise ValueError(f"{name} must be floating point in [0, 1], not {jnp.result_type(image)} (divide by 255)")
  if not isinstance(image, jax.core.Tracer):
    image = image if isinstance(image, jax.Array) else np.asarray(image)
    # Comparisons catch NaN; XLA's min and max on a CPU drop it.
    if not ((image >= -_RANGE_TOLERANCE) & (image <= 1 + _RANGE_TOLERANCE)).all():
      image = np.asarray(image)
      raise ValueError(f"{name} must lie in [0, 1], but spans {float(image.min()):g} to {float(image.max()):g}")
  return jnp.asarray(image, jnp.promote_types(jnp.result_type(image), jnp.float32))


def _check_lights(lights: Any, name: str, ranks: tuple[int, ...], size: int) -> jax.Array:
  if np.ndim(lights) not in ranks or np.shape(lights)[-1] != size:
    forms = " or ".join(("", f"[{size}]", f"[B, {size}]")[rank] for rank in ranks)
    raise ValueError(f"{name} must be {forms}, not {list(np.shape(lights))}")
  if not isinstance(lights, jax.core.Tracer) and not bool(jnp.isfinite(jnp.asarray(lights)).all()):
    raise ValueError(f"{name} has values that are not finite")
  return jnp.asarray(lights, jnp.promote_types(jnp.result_type(lights), jnp.float32))


def _apply(network: "Network", *arguments, **options) -> Any:
  """As `network.apply` without mutable collections, whose declared result is what it would be with them."""
  return network.apply(*arguments, **options)


def _pad_to_multiple(luminance: jax.Array, multiple: int) -> jax.Array:
  """Repeats the last row and column of `[B, H, W, 1]` until both sides are multiples of `multiple`."""
  _, h, w, _ = luminance.shape
  return jnp.pad(luminance, ((0, 0), (0, -h % multiple), (0, -w % multiple), (0, 0)), mode="edge")


@functools.partial(jax.jit, static_argnames="dtype")
def encode_luminance(
  params: Params, luminance: jax.Array, surface: Surface | None = None, *, dtype: jnp.dtype | None = None
) -> Encoding | RatioEncoding:
  """The part of the network before the target light; see `HourglassNet.encode` and `RatioHourglassNet.encode`.

  Args:
    params: of any of the networks.
    luminance: L / 100, `[B, H, W, 1]` of any size.
    surface: what is known of the faces' shape; for our network, and sides that are multiples of its `size_multiple`.
    dtype: compute type of the convolutions.
  """
  network = network_for(params, dtype)
  options = {} if surface is None else {"surface": surface}
  return _apply(network, params, _pad_to_multiple(luminance, network.size_multiple), method="encode", **options)


def first_light(encoding: Encoding | RatioEncoding) -> Light:
  """The source light of the first photo of an encoded batch, in NumPy arrays."""
  if isinstance(encoding, RatioEncoding):
    return Light(*(np.asarray(part)[0] for part in encoding.light))
  return light.as_light(np.asarray(encoding.light)[0])


@functools.partial(jax.jit, static_argnames=("size", "dtype", "exposure_stops"))
def decode_luminance(
  params: Params,
  encoding: Encoding | RatioEncoding,
  sh: jax.Array | Light,
  *,
  size: tuple[int, int],
  dtype: jnp.dtype | None = None,
  exposure_stops: float | None = 0.0,
) -> jax.Array:
  """The part of the network behind the target light; see `HourglassNet.decode` and `RatioHourglassNet.decode`.

  Args:
    params: of the network that made `encoding`.
    encoding: from `encode_luminance`.
    sh: target lights: nine numbers `[B, 9]`, or a gray `Light` every part of which has a leading axis B. A published
      network is told of it in nine numbers (`light.told`).
    size: height and width of the luminance that was encoded.
    dtype: compute type of the convolutions.
    exposure_stops: for our network: the skin keeps the photo's key, made so many stops brighter; None: the picture is
      as bright as the light says, as it always is with a published network.

  Returns:
    Relit L / 100, `[B, H, W, 1]`.
  """
  network = network_for(params, dtype)
  options = {"exposure_stops": exposure_stops} if traits_of(params).shape_cell else {}
  numbers = light.told(light.gray(sh))[:, 0] if isinstance(sh, Light) and not options else sh
  return _apply(network, params, encoding, numbers, method="decode", **options)[:, : size[0], : size[1]]


@functools.partial(jax.jit, static_argnames="dtype")
def log_ratio(
  params: Params,
  encoding: Encoding | RatioEncoding,
  luminance: jax.Array,
  target: Light,
  *,
  dtype: jnp.dtype | None = None,
) -> jax.Array:
  """By how much linear light changes, as a natural logarithm; as bright as the light says.

  Args:
    params: of the network that made `encoding`.
    encoding: from `encode_luminance`.
    luminance: L / 100 of the photos, `[B, H, W, 1]`.
    target: every part with a leading axis B; gray or RGB.
    dtype: compute type of the convolutions.

  Returns:
    `[B, H, W, C]`, C the light's channels.
  """
  network, size = network_for(params, dtype), luminance.shape[1:3]
  if traits_of(params).shape_cell:
    return _apply(network, params, encoding, target, method="log_ratio")[:, : size[0], : size[1]]
  # Each channel is told at the brightness that the network knows; the colour is multiplied in linear light.
  numbers = light.told(target)
  colour = numbers[..., 0] / light.luminance(numbers[..., 0])[:, None]
  colour = jnp.maximum(colour, _LEAST_CHANNEL)
  channels = [
    _apply(network, params, encoding, numbers[:, channel] / colour[:, channel, None], method="decode")
    for channel in range(target.channels)
  ]
  relit = jnp.concatenate(channels, axis=-1)[:, : size[0], : size[1]]
  before, after = (color.luminance_of_lightness(x) + _RATIO_OFFSET for x in (luminance, relit))
  return jnp.log(after) - jnp.log(before) + jnp.log(colour)[:, None, None]


def relight_luminance(
  params: Params, luminance: Array, sh: Array, *, dtype: jnp.dtype | None = None
) -> tuple[jax.Array, Array | Light]:
  """The network itself, whichever `params` are of.

  Args:
    params: from `load_params`.
    luminance: L / 100 in [0, 1], `[B, H, W, 1]`; sides that are no multiple of 16 (1024 network: 32) are padded inside.
    sh: target lights `[B, 9]`, in the conventions of `dpr_jax.light.sh`.
    dtype: compute type of the convolutions, e.g. `jnp.bfloat16` on accelerators.

  Returns:
    Relit L / 100 `[B, H, W, 1]` and the source light, `[B, 9]` or a `Light` with a leading axis B.

  Raises:
    ValueError: wrong shapes, types or ranges.
  """
  luminance = _check_image(luminance, "luminance", (4,), 1)
  sh = _check_lights(sh, "sh", (2,), traits_of(params).light_size)
  if len(sh) != len(luminance):
    raise ValueError(f"{len(luminance)} images, but {len(sh)} lights")
  encoding = encode_luminance(params, luminance, dtype=dtype)
  return decode_luminance(params, encoding, sh, size=luminance.shape[1:3], dtype=dtype), encoding.light


def _replace_luminance(lab: Array, luminance: Array) -> Array:
  return color.lab_to_srgb(jnp.concatenate([100 * luminance, lab[..., 1:]], axis=-1))


@functools.partial(jax.jit, static_argnames=("dtype", "exposure_stops"))
def _relight(
  params: Params,
  images: jax.Array,
  lights: jax.Array | Light,
  *,
  dtype: jnp.dtype | None,
  exposure_stops: float | None,
) -> jax.Array:
  """Images `[B, H, W, 3]`, each under N lights (arrays `[N, B, ...]`) -> `[N, B, H, W, 3]`."""
  lab = color.srgb_to_lab(images)
  luminance = lab[..., :1] / 100
  encoding = encode_luminance(params, luminance, dtype=dtype)
  network, size = network_for(params, dtype), images.shape[1:3]

  def under(target):
    if traits_of(params).shape_cell:
      target = target if isinstance(target, Light) else jax.vmap(light.soft_light)(target)
      ratio = _apply(network, params, encoding, target, exposure_stops, method="log_ratio")[:, : size[0], : size[1]]
    elif isinstance(target, Light) and target.channels == 3:  # there is no colour in L
      ratio = log_ratio(params, encoding, luminance, target, dtype=dtype)
    else:
      return _replace_luminance(lab, decode_luminance(params, encoding, target, size=size, dtype=dtype))
    return jnp.clip(color.delinearise(multiply_light(color.linearise(images), ratio)), 0, 1)

  # One light after another: memory stays that of a single decode.
  return jax.lax.map(under, lights)


def relight_fn(
  params: Params,
  img: Array,
  sh: Array | Light,
  *,
  dtype: jnp.dtype | None = None,
  exposure_stops: float | None = 0.0,
) -> jax.Array:
  """Relights whole images.

  With a published network L of Lab goes through it and the chroma stays (Zhou et al. 2019, section 3.2); with ours, and
  under coloured light, linear RGB is multiplied by the ratio of the lights.

  Args:
    params: from `load_params`.
    img: sRGB in [0, 1], `[H, W, 3]` or `[B, H, W, 3]`, any size (the networks were trained on faces in the framing of
      CelebA-HQ at 256, 512 or 1024; `dpr_jax.portrait.portrait` cuts that out of any photo).
    sh: target light: a `Light` without leading axes, nine numbers `[9]`, or `[B, 9]`: one for each image, or several
      for a single image.
    dtype: compute type of the convolutions.
    exposure_stops: see `decode_luminance`.

  Returns:
    sRGB in [0, 1], `[H, W, 3]` for one image and one light, otherwise `[B, H, W, 3]`.

  Raises:
    ValueError: wrong shapes, types or ranges.
  """
  img = _check_image(img, "img", (3, 4), 3)
  options = {"dtype": dtype, "exposure_stops": exposure_stops}
  images = img if img.ndim == 4 else img[None]
  if isinstance(sh, Light):
    lights = light.as_light(sh)
    if lights.soft.ndim != 2:
      raise ValueError(f"sh must be one light, not {list(lights.soft.shape[:-2])} of them")
    lights = jax.tree.map(lambda part: jnp.broadcast_to(part, (1, len(images), *part.shape)), lights)
    relit = _relight(params, images, lights, **options)[0]
    return relit if img.ndim == 4 else relit[0]
  sh = _check_lights(sh, "sh", (1, 2), traits_of(params).light_size)
  if img.ndim == 3:
    relit = _relight(params, images, jnp.atleast_2d(sh)[:, None], **options)[:, 0]
    return relit[0] if sh.ndim == 1 else relit
  shs = jnp.broadcast_to(sh, (len(img), sh.shape[-1])) if sh.ndim == 1 else sh
  if len(shs) != len(img):
    raise ValueError(f"{len(img)} images, but {len(shs)} lights")
  return _relight(params, images, shs[None], **options)[0]


def relight_lights(
  params: Params,
  img: Array,
  shs: Array | Sequence[Array | Light],
  *,
  dtype: jnp.dtype | None = None,
  exposure_stops: float | None = 0.0,
) -> jax.Array:
  """One image under many lights; it passes the encoder once.

  Args:
    params: from `load_params`.
    img: sRGB in [0, 1], `[H, W, 3]`.
    shs: N target lights: nine numbers `[N, 9]`, or `Light`s.
    dtype: compute type of the convolutions.
    exposure_stops: see `decode_luminance`.

  Returns:
    sRGB in [0, 1], `[N, H, W, 3]`.

  Raises:
    ValueError: wrong shapes, types or ranges.
  """
  img = _check_image(img, "img", (3,), 3)
  if isinstance(shs, Sequence) and any(isinstance(each, Light) for each in shs):
    stacked: Array | Light = light.stack(shs)
  else:
    stacked = _check_lights(shs, "shs", (2,), traits_of(params).light_size)
  lights = jax.tree.map(lambda part: part[:, None], stacked)
  return _relight(params, img[None], lights, dtype=dtype, exposure_stops=exposure_stops)[:, 0]


def estimate_light(params: Params, img: Array, *, dtype: jnp.dtype | None = None) -> Array | Light:
  """The light that the network sees in a portrait.

  Our network tells it as bright as the photo: with `exposure_stops=None`, another photo of the same person gets as
  bright under it as this one.

  Args:
    params: from `load_params`.
    img: sRGB in [0, 1], `[H, W, 3]` or `[B, H, W, 3]`.
    dtype: compute type of the convolutions.

  Returns:
    Of a published network nine numbers, `[9]` or `[B, 9]`; of ours a gray `Light` with one lamp, for a batch with a
    leading axis B.

  Raises:
    ValueError: wrong shape, type or range.
  """
  img = _check_image(img, "img", (3, 4), 3)
  images = img if img.ndim == 4 else img[None]
  own = encode_luminance(params, color.srgb_to_lab(images)[..., :1] / 100, dtype=dtype).light
  return own if img.ndim == 4 else jax.tree.map(lambda part: part[0], own)
