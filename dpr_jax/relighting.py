"""A photo and a light in, the relit photo out: pure functions of (params, image, light).

`params` is what `load_params` returns, `{"params": ..., "batch_stats": ...}`; which network it belongs to follows from
its structure. Every function here can be used under `jit`, `vmap` and `grad`. Concrete arguments are checked for range
and NaN, traced ones only for shape.
"""

import functools
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from dpr_jax import color
from dpr_jax.hourglass import Encoding, network_for

Params = Any  # {"params": ..., "batch_stats": ...}, nested dicts of arrays

_RANGE_TOLERANCE = 1e-3


def _check_image(image: jax.Array, name: str, ranks: tuple[int, ...], channels: int) -> jax.Array:
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


def _check_lights(lights: jax.Array, name: str, ranks: tuple[int, ...], size: int) -> jax.Array:
  if np.ndim(lights) not in ranks or np.shape(lights)[-1] != size:
    forms = " or ".join(("", f"[{size}]", f"[B, {size}]")[rank] for rank in ranks)
    raise ValueError(f"{name} must be {forms}, not {list(np.shape(lights))}")
  if not isinstance(lights, jax.core.Tracer) and not bool(jnp.isfinite(jnp.asarray(lights)).all()):
    raise ValueError(f"{name} has values that are not finite")
  return jnp.asarray(lights, jnp.promote_types(jnp.result_type(lights), jnp.float32))


def _pad_to_multiple(luminance: jax.Array, multiple: int) -> jax.Array:
  """Repeats the last row and column of `[B, H, W, 1]` until both sides are multiples of `multiple`."""
  _, h, w, _ = luminance.shape
  return jnp.pad(luminance, ((0, 0), (0, -h % multiple), (0, -w % multiple), (0, 0)), mode="edge")


@functools.partial(jax.jit, static_argnames="dtype")
def encode_luminance(params: Params, luminance: jax.Array, *, dtype: jnp.dtype | None = None) -> Encoding:
  """The part of the network before the target light; see `HourglassNet.encode`.

  Args:
    params: of either network.
    luminance: L / 100, `[B, H, W, 1]` of any size.
    dtype: compute type of the convolutions.
  """
  network = network_for(params, dtype)
  return network.apply(params, _pad_to_multiple(luminance, network.size_multiple), method="encode")


@functools.partial(jax.jit, static_argnames=("size", "dtype"))
def decode_luminance(
  params: Params, encoding: Encoding, sh: jax.Array, *, size: tuple[int, int], dtype: jnp.dtype | None = None
) -> jax.Array:
  """The part of the network behind the target light; see `HourglassNet.decode`.

  Args:
    params: of the network that made `encoding`.
    encoding: from `encode_luminance`.
    sh: target lights `[B, 9]`.
    size: height and width of the luminance that was encoded.
    dtype: compute type of the convolutions.

  Returns:
    Relit L / 100, `[B, H, W, 1]`.
  """
  luminance = network_for(params, dtype).apply(params, encoding, sh, method="decode")
  return luminance[:, : size[0], : size[1]]


def relight_luminance(
  params: Params, luminance: jax.Array, sh: jax.Array, *, dtype: jnp.dtype | None = None
) -> tuple[jax.Array, jax.Array]:
  """The network itself, 512 or 1024, whichever `params` are of.

  Args:
    params: from `load_params`.
    luminance: L / 100 in [0, 1], `[B, H, W, 1]`; sides that are no multiple of 16 (1024 network: 32) are padded inside.
    sh: target lights `[B, 9]`, in the conventions of `dpr_jax.sh`.
    dtype: compute type of the convolutions, e.g. `jnp.bfloat16` on accelerators.

  Returns:
    Relit L / 100 `[B, H, W, 1]` and the source light `[B, 9]`.

  Raises:
    ValueError: wrong shapes, types or ranges.
  """
  luminance = _check_image(luminance, "luminance", (4,), 1)
  sh = _check_lights(sh, "sh", (2,), network_for(params).light_size)
  if len(sh) != len(luminance):
    raise ValueError(f"{len(luminance)} images, but {len(sh)} lights")
  encoding = encode_luminance(params, luminance, dtype=dtype)
  return decode_luminance(params, encoding, sh, size=luminance.shape[1:3], dtype=dtype), encoding.light


def _replace_luminance(lab: jax.Array, luminance: jax.Array) -> jax.Array:
  return color.lab_to_srgb(jnp.concatenate([100 * luminance, lab[..., 1:]], axis=-1))


@functools.partial(jax.jit, static_argnames="dtype")
def _relight_batch(params: Params, images: jax.Array, shs: jax.Array, dtype: jnp.dtype | None) -> jax.Array:
  lab = color.srgb_to_lab(images)
  encoding = encode_luminance(params, lab[..., :1] / 100, dtype=dtype)
  return _replace_luminance(lab, decode_luminance(params, encoding, shs, size=images.shape[1:3], dtype=dtype))


@functools.partial(jax.jit, static_argnames="dtype")
def _relight_one(params: Params, image: jax.Array, shs: jax.Array, dtype: jnp.dtype | None) -> jax.Array:
  lab = color.srgb_to_lab(image)
  encoding = encode_luminance(params, lab[None, ..., :1] / 100, dtype=dtype)

  def under(sh):
    luminance = decode_luminance(params, encoding, sh[None], size=image.shape[:2], dtype=dtype)
    return _replace_luminance(lab, luminance[0])

  # One light after another: memory stays that of a single decode.
  return jax.lax.map(under, shs)


def relight_fn(params: Params, img: jax.Array, sh: jax.Array, *, dtype: jnp.dtype | None = None) -> jax.Array:
  """Relights whole images: L of Lab goes through the network, the chroma stays (Zhou et al. 2019, section 3.2).

  Args:
    params: from `load_params`.
    img: sRGB in [0, 1], `[H, W, 3]` or `[B, H, W, 3]`, any size (the networks were trained on faces in the framing of
      CelebA-HQ at 512 or 1024; `dpr_jax.portrait` cuts that out of any photo).
    sh: target light `[9]`, or `[B, 9]`: one for each image, or several for a single image.
    dtype: compute type of the convolutions.

  Returns:
    sRGB in [0, 1], `[H, W, 3]` for one image and one light, otherwise `[B, H, W, 3]`.

  Raises:
    ValueError: wrong shapes, types or ranges.
  """
  img = _check_image(img, "img", (3, 4), 3)
  sh = _check_lights(sh, "sh", (1, 2), network_for(params).light_size)
  if img.ndim == 3:
    relit = _relight_one(params, img, jnp.atleast_2d(sh), dtype)
    return relit[0] if sh.ndim == 1 else relit
  shs = jnp.broadcast_to(sh, (len(img), sh.shape[-1])) if sh.ndim == 1 else sh
  if len(shs) != len(img):
    raise ValueError(f"{len(img)} images, but {len(shs)} lights")
  return _relight_batch(params, img, shs, dtype)


def relight_lights(params: Params, img: jax.Array, shs: jax.Array, *, dtype: jnp.dtype | None = None) -> jax.Array:
  """One image under many lights; it passes the encoder once.

  Args:
    params: from `load_params`.
    img: sRGB in [0, 1], `[H, W, 3]`.
    shs: target lights `[N, 9]`.
    dtype: compute type of the convolutions.

  Returns:
    sRGB in [0, 1], `[N, H, W, 3]`.

  Raises:
    ValueError: wrong shapes, types or ranges.
  """
  img = _check_image(img, "img", (3,), 3)
  return _relight_one(params, img, _check_lights(shs, "shs", (2,), network_for(params).light_size), dtype)


def estimate_light(params: Params, img: jax.Array, *, dtype: jnp.dtype | None = None) -> jax.Array:
  """The light that the network sees in a portrait.

  Args:
    params: from `load_params`.
    img: sRGB in [0, 1], `[H, W, 3]` or `[B, H, W, 3]`.
    dtype: compute type of the convolutions.

  Returns:
    `[9]` or `[B, 9]`.

  Raises:
    ValueError: wrong shape, type or range.
  """
  img = _check_image(img, "img", (3, 4), 3)
  images = img if img.ndim == 4 else img[None]
  light = encode_luminance(params, color.srgb_to_lab(images)[..., :1] / 100, dtype=dtype).light
  return light if img.ndim == 4 else light[0]
