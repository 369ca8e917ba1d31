"""A light: a soft part, as spherical harmonics say it, and lamps, which they cannot say.

Everything is linear and in one unit: what `sh.shading` of the soft part gives, and what a lamp adds to a surface that
faces it, are both irradiance. Lights are gray (one channel) or linear RGB (three). Axes and order of the nine numbers
are those of `dpr_jax.light.sh`; a direction points to where the light comes from.

Functions give NumPy for NumPy and jnp for jnp, and can be used under `jit`, `vmap` and `grad`.
"""

from collections.abc import Sequence
from typing import NamedTuple, cast

import jax
import numpy as np

from dpr_jax.base.arrays import namespace
from dpr_jax.light import sh

Array = jax.Array | np.ndarray

MAX_LAMPS = 4
# Rec. 709 (and sRGB): what red, green and blue add to luminance.
LUMINANCE_WEIGHTS = np.array([0.2126, 0.7152, 0.0722], np.float32)
# The first coefficient of lights that the official networks were trained on lies between 0.7 and 0.9.
_OFFICIAL_DC = 0.75


class Light(NamedTuple):
  """The light that arrives at a face, in C channels: 1 if gray, 3 if linear RGB.

  Attributes:
    soft: `[..., C, 9]`, spherical harmonics coefficients of the radiance of everything but the lamps.
    towards: `[..., N, 3]`, unit directions to N lamps; N may be 0.
    irradiance: `[..., N, C]`, of a surface that faces the lamp and sees all of it.
    size: `[..., N]`, the angular diameter of each lamp in degrees. It makes the edges of shadows soft: 0.5 is the sun,
      5 a bare flash, 20 a softbox.
  """

  soft: Array
  towards: Array
  irradiance: Array
  size: Array

  @property
  def channels(self) -> int:
    """1 if gray, 3 if linear RGB."""
    return self.soft.shape[-2]


def soft_light(coefficients: Array) -> Light:
  """A light without lamps, from nine numbers `[9]`, or `[C, 9]` of C channels."""
  xp = namespace(coefficients)
  soft = xp.asarray(coefficients, xp.float32)
  if soft.ndim not in (1, 2) or soft.shape[-1] != 9 or (soft.ndim == 2 and len(soft) not in (1, 3)):
    raise ValueError(f"a soft light must be [9], [1, 9] or [3, 9], not {list(soft.shape)}")
  soft = soft.reshape(-1, 9)
  return Light(soft, xp.zeros((0, 3), soft.dtype), xp.zeros((0, len(soft)), soft.dtype), xp.zeros((0,), soft.dtype))


def as_light(light: "Light | Array") -> Light:
  """A `Light` as it is, and `[9]` or `[C, 9]` as one without lamps.

  Raises:
    ValueError: of other shapes, or with numbers that are not finite.
  """
  light = light if isinstance(light, Light) else soft_light(np.asarray(light) if np.ndim(light) == 0 else light)
  lamps = light.towards.shape[:-1]
  shapes = light.soft.shape[-1:] == (9,) and light.irradiance.shape == (*lamps, light.channels)
  if not shapes or light.channels not in (1, 3) or light.towards.shape[-1:] != (3,) or light.size.shape != lamps:
    raise ValueError(f"the parts of a light do not fit together: {[list(np.shape(part)) for part in light]}")
  if not any(isinstance(part, jax.core.Tracer) for part in light) and not all(
    np.isfinite(part).all() for part in light
  ):
    raise ValueError("a light has numbers that are not finite")
  return light


def key_and_fill(towards: Array, fill: float, size: float) -> Light:
  """A studio's light: one lamp of irradiance 1, and a fill from around the camera.

  The fill is an umbrella as wide as the world behind the camera: a surface that faces the camera gets `fill` of it, one
  that is turned aside by 90 degrees half of that.

  Args:
    towards: unit direction to the lamp, `[3]`.
    fill: irradiance by the fill over that by the lamp, each of a surface that faces it; 0 or more.
    size: angular diameter of the lamp in degrees.
  """
  band1 = fill / 2 / (2 * np.pi / 3) * np.sqrt(4 * np.pi / 3)
  soft = np.zeros((1, 9), np.float32)
  soft[0, 0], soft[0, 1] = fill / 2 / np.pi * np.sqrt(4 * np.pi), -band1
  return Light(soft, np.asarray(towards, np.float32)[None], np.ones((1, 1), np.float32), np.full(1, size, np.float32))


def even_light(irradiance: float = 1.0) -> Light:
  """The same from everywhere: every surface gets `irradiance`."""
  return soft_light(np.eye(9, dtype=np.float32)[0] * np.float32(irradiance / np.pi * np.sqrt(4 * np.pi)))


def harmonics(light: Light) -> Array:
  """The projection of the whole light, lamps included, on nine numbers a channel, `[..., C, 9]`.

  A lamp is a point here: of its nine numbers the higher ones are as large as the first.
  """
  xp = namespace(*light)
  return light.soft + xp.einsum("...nc,...nk->...ck", light.irradiance, sh.basis(light.towards))


def told(light: Light) -> Array:
  """The nine numbers a channel, `[..., C, 9]`, by which the official networks are told of a light.

  Without lamps they are the soft part as it is. A lamp is told as the lobe max(0, cos) around it, as hard as the lights
  that those networks were trained on, and the whole is scaled to a first coefficient of theirs, in luminance.
  """
  xp = namespace(*light)
  if light.towards.shape[-2] == 0:
    return light.soft
  lobes = sh.basis(light.towards)
  lobes = lobes * np.broadcast_to(sh.LAMBERTIAN / sh.LAMBERTIAN[0], lobes.shape)
  whole = light.soft + xp.einsum("...nc,...nk->...ck", light.irradiance, lobes)
  return whole * (_OFFICIAL_DC / luminance(whole[..., 0]))[..., None, None]


def nine_numbers(lights: "Light | Array") -> Array:
  """Gray lights as nine numbers, `[B, 9]`: `harmonics` of a `Light` of B, and nine numbers as they are."""
  return harmonics(lights)[:, 0] if isinstance(lights, Light) else lights


def as_told(lights: Light) -> Array:
  """`told` of gray lights whose parts have two leading axes, `[N, B, 9]`."""
  return told(lights)[..., 0, :]


def shading(light: Light, normals: Array, visible: Array | None = None) -> Array:
  """The irradiance of surfaces, `[..., C]`; never negative.

  Args:
    light: one light, whose parts have no leading axes.
    normals: unit normals, `[..., 3]`.
    visible: how much of each lamp the surface sees past what is around it, `[..., N]` in [0, 1]; None: all.
  """
  xp = namespace(normals, *light)
  basis = sh.basis(normals)
  # As sums, which XLA fuses with what is around them: a product with a matrix would need all nine in memory.
  weights = light.soft * sh.LAMBERTIAN[None]
  channels = range(light.channels)
  total = [xp.maximum(sum(basis[..., k] * weights[c, k] for k in range(9)), 0) for c in channels]
  for n in range(light.towards.shape[0]):
    cosine = cast(Array, sum(normals[..., axis] * light.towards[n, axis] for axis in range(3)))
    lit = facing(cosine, light.size[n])
    lit = lit if visible is None else lit * visible[..., n]
    total = [total[c] + lit * light.irradiance[n, c] for c in channels]
  return xp.stack(total, axis=-1)


def facing(cosine: Array, size: Array) -> Array:
  """max(0, cos) of a lamp that is no point: as it sets, its last part is still seen.

  Args:
    cosine: between normal and the middle of the lamp.
    size: angular diameter in degrees.
  """
  xp = namespace(cosine, size)
  half = xp.maximum(xp.sin(xp.radians(size) / 2), 1e-4)
  return xp.where(cosine > half, cosine, xp.square(xp.maximum(cosine + half, 0)) / (4 * half))


def rotate(light: Light, rotation: Array) -> Light:
  """The light turned by `rotation` `[3, 3]`: what came from direction d then comes from `rotation @ d`."""
  return light._replace(soft=sh.rotate(light.soft, rotation), towards=light.towards @ rotation.T)


def scale(light: Light, factor: Array | float | np.floating) -> Light:
  """The light `factor` times as bright."""
  return light._replace(soft=light.soft * factor, irradiance=light.irradiance * factor)


def gray(light: Light) -> Light:
  """The light without colour: each part's luminance, `C = 1`."""
  if light.channels == 1:
    return light
  soft = sum(LUMINANCE_WEIGHTS[c] * light.soft[..., c : c + 1, :] for c in range(3))
  irradiance = sum(LUMINANCE_WEIGHTS[c] * light.irradiance[..., c : c + 1] for c in range(3))
  return light._replace(soft=soft, irradiance=irradiance)


def luminance(channels: Array) -> Array:
  """Linear luminance `[...]` of `[..., C]`, gray or linear RGB."""
  if channels.shape[-1] == 1:
    return channels[..., 0]
  return cast(Array, sum(float(weight) * channels[..., c] for c, weight in enumerate(LUMINANCE_WEIGHTS)))


def tint(light: Light, colour: Array) -> Light:
  """The whole light times a colour, `[3]` linear RGB; of luminance 1 it leaves brightness as it is."""
  return light._replace(soft=light.soft * colour[:, None], irradiance=light.irradiance * colour)


def tint_lamps(light: Light, colour: Array) -> Light:
  """The light with lamps of another colour, the soft part as it is; without lamps all of it is tinted.

  Args:
    light: gray or RGB.
    colour: `[3]` linear RGB; of luminance 1 it leaves brightness as it is.
  """
  xp = namespace(colour, *light)
  own = [0, 0, 0] if light.channels == 1 else [0, 1, 2]
  of_soft = np.ones(3, np.float32) if light.towards.shape[-2] else colour
  return light._replace(
    soft=xp.stack([light.soft[..., own[c], :] * of_soft[c] for c in range(3)], axis=-2),
    irradiance=xp.stack([light.irradiance[..., own[c]] * colour[c] for c in range(3)], axis=-1),
  )


def stack(lights: "Sequence[Light | Array]") -> Light:
  """Lights as one, every part with a leading axis: with as many lamps as the most has, in colour if any is."""
  parts = [as_light(each) for each in lights]
  count, channels = max(each.size.shape[0] for each in parts), max(each.channels for each in parts)
  parts = [with_lamps(each, count) for each in parts]
  if channels == 3:
    parts = [tint(each, np.ones(3, np.float32)) if each.channels == 1 else each for each in parts]
  xp = namespace(*(part for each in parts for part in each))
  return Light(*(xp.stack(same) for same in zip(*parts, strict=True)))


def with_lamps(light: Light, count: int) -> Light:
  """The light with lamps that are off added until there are `count`, so that few shapes are compiled."""
  missing = count - light.towards.shape[-2]
  if missing <= 0:
    return light
  xp = namespace(*light)
  lead = light.towards.shape[:-2]
  off = np.broadcast_to(np.array([0, -1, 0], np.float32), (*lead, missing, 3))
  return light._replace(
    towards=xp.concatenate([light.towards, off], axis=-2),
    irradiance=xp.concatenate([light.irradiance, xp.zeros((*lead, missing, light.channels), xp.float32)], axis=-2),
    size=xp.concatenate([light.size, xp.ones((*lead, missing), xp.float32)], axis=-1),
  )
