"""Lights drawn from a built-in prior of studio and outdoor scenes, in jnp: inside a jitted step, or offline.

A scene has six sources: a key lamp (outdoors the sun), a fill on its other side, a rim lamp from behind, the sky or
ceiling, the ground or floor, and even light from everywhere. What they send is never negative, but nine numbers of a
hard lamp are, on its far side; contrast is then taken back until a light is no more negative than the lights that the
authors of DPR drew from the Basel Illumination Prior (Egger et al. 2018).

The prior needs no further rotation about the vertical: outdoors the sun stands in any direction, in the studio the key
lamp mostly in front of the face, on either side alike.
"""

import math
from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from dpr_jax.light import sh
from dpr_jax.light.light import Light

# OpenCV's weights of red, green and blue in gray, as the authors made coloured lights gray.
GRAY_WEIGHTS = np.array([0.299, 0.587, 0.114], np.float32)

# The first coefficient of a gray light (Zhou et al. 2019, as their program draws it).
DC_RANGE = (0.7, 0.9)

# The smallest radiance on the sphere over the first coefficient. The worst of the five published BIP lights has -0.148;
# the rest is what the smallest of `_DIRECTIONS` may miss.
LOWEST_RADIANCE = -0.14

_STUDIO_SHARE = 0.5


class _Sources(NamedTuple):
  """The six sources of a kind of scene, `[6, 2]` each: drawn evenly from low to high.

  Attributes:
    power: mean radiance, before all are scaled together.
    focus: how hard the light is, 0 (even) to 1 (a point): what is left of band 1; see `_lobes`.
    kelvin: colour temperature.
    azimuth: degrees to the side of the key lamp, from the camera.
    elevation: degrees upwards.
  """

  power: np.ndarray
  focus: np.ndarray
  kelvin: np.ndarray
  azimuth: np.ndarray
  elevation: np.ndarray


def _sources(*rows: tuple) -> _Sources:
  return _Sources(*np.moveaxis(np.array(rows, np.float32), 1, 0))


_UP, _DOWN = (90, 90), (-90, -90)
_STUDIO = _sources(
  # power, focus, kelvin, azimuth, elevation
  ((0.6, 1.0), (0.55, 0.90), (2500, 9000), (0, 100), (-15, 60)),  # key
  ((0.0, 0.5), (0.35, 0.65), (2500, 9000), (-90, -15), (-15, 35)),  # fill
  ((-0.6, 0.6), (0.60, 0.90), (2500, 9000), (-230, -130), (0, 60)),  # rim, in every second scene
  ((0.0, 0.4), (0.40, 0.60), (3000, 6500), (0, 0), _UP),  # ceiling
  ((0.0, 0.2), (0.40, 0.60), (2500, 5000), (0, 0), _DOWN),  # floor
  ((0.05, 0.5), (0.00, 0.00), (3000, 6500), (0, 0), (0, 0)),  # even
)
_OUTDOOR = _sources(
  ((-0.3, 1.0), (0.75, 0.95), (2800, 6000), (0, 180), (5, 70)),  # sun, or an overcast sky
  ((0.0, 0.3), (0.40, 0.65), (3000, 6500), (0, 360), (-10, 25)),  # a wall that it shines on
  ((0.0, 0.0), (0.00, 0.00), (5000, 5000), (0, 0), (0, 0)),  # no rim
  ((0.1, 0.6), (0.40, 0.65), (6000, 15000), (0, 0), _UP),  # sky
  ((0.05, 0.3), (0.40, 0.60), (3500, 5500), (0, 0), _DOWN),  # ground
  ((0.05, 0.3), (0.00, 0.00), (5500, 9000), (0, 0), (0, 0)),  # even
)
_FROM_BELOW_SHARE = 0.05  # of the key lamps


def draw_light(key: jax.Array) -> jax.Array:
  """A gray light `[9]` float32, first coefficient 0.7 to 0.9; `jax.vmap` over keys draws many."""
  with jax.default_matmul_precision("highest"):
    return jnp.asarray(GRAY_WEIGHTS) @ draw_color_light(key)


def draw_color_light(key: jax.Array) -> jax.Array:
  """A coloured light `[3, 9]` float32, rows red, green, blue; made gray it is `draw_light(key)`."""
  # All numbers in one draw: each further one would take half a second to compile.
  sources, (kind, side, below, balance, dc) = jnp.split(jax.random.uniform(key, (35,)), [30])
  power, focus, kelvin, directions = _scene(sources.reshape(6, 5), kind, side, below)
  with jax.default_matmul_precision("highest"):
    light = (power[:, None] * _black_body(kelvin)).T @ _lobes(directions, focus)
    light = limit_contrast(_white_balance(light, 0.5 + 0.5 * balance))
    gray = jnp.asarray(GRAY_WEIGHTS) @ light[:, 0]
  low, high = DC_RANGE
  return light * ((low + (high - low) * dc) / gray)


# Of lamps, evenly drawn: azimuth in degrees from the camera to either side, elevation upwards; the irradiance by all
# other light over that by the lamp, and the lamp's angular diameter in degrees, evenly in their logarithms.
LAMP_AZIMUTH = (-110.0, 110.0)
LAMP_ELEVATION = (-40.0, 75.0)
LAMP_FILL = (0.02, 1.5)
LAMP_SIZE = (2.0, 40.0)


def draw_lights_with_lamps(key: jax.Array, shape: tuple[int, ...], lamp_share: float) -> Light:
  """Draws gray lights, every part `[*shape, ...]`: soft ones by `draw_light`, and a share of them with a lamp.

  A soft part has a mean irradiance of 1 by itself; beside a lamp, which has the irradiance 1, a share of it that is
  drawn. Where there is no lamp its irradiance is 0.
  """
  draw = draw_light
  for _ in shape:
    draw = jax.vmap(draw)
  soft = draw(jax.random.split(key, shape))
  soft /= _EVEN_IRRADIANCE * soft[..., :1]
  numbers = jax.random.uniform(jax.random.fold_in(key, 1), (5, *shape))
  azimuth, elevation, fill, size = (
    low + (high - low) * number
    for (low, high), number in zip(
      (LAMP_AZIMUTH, LAMP_ELEVATION, np.log(LAMP_FILL), np.log(LAMP_SIZE)), numbers[:4], strict=True
    )
  )
  has_lamp = numbers[4] < lamp_share
  return Light(
    soft=(soft * jnp.where(has_lamp, jnp.exp(fill), 1)[..., None])[..., None, :],
    towards=sh.direction(azimuth, elevation)[..., None, :],
    irradiance=has_lamp.astype(jnp.float32)[..., None, None],
    size=jnp.exp(size)[..., None],
  )


def limit_contrast(light: jax.Array) -> jax.Array:
  """Blends a light `[C, 9]` of C channels with even light, all by one share, until no channel is too negative.

  Afterwards no channel's radiance is below `LOWEST_RADIANCE` times its first coefficient in any of 1,024 directions; a
  light that is not to begin with stays as it is.
  """
  dc, rest = light[:, :1], light[:, 1:]
  with jax.default_matmul_precision("highest"):
    darkest = jnp.min(rest @ jnp.asarray(_REST_BASIS), axis=1, keepdims=True)
  # Radiance dc * band0 + share * darkest, which shall be at least LOWEST_RADIANCE * dc.
  share = (_BAND0 - LOWEST_RADIANCE) * dc / jnp.maximum(-darkest, 1e-6 * dc)
  return jnp.concatenate([dc, jnp.minimum(1, jnp.min(share)) * rest], axis=1)


def _scene(
  sources: jax.Array, kind: jax.Array, side: jax.Array, below: jax.Array
) -> tuple[jax.Array, jax.Array, jax.Array, jax.Array]:
  """Power, focus and kelvin `[6]`, directions `[6, 3]`, from numbers in 0 to 1: `[6, 5]` and three scalars."""
  studio = kind < _STUDIO_SHARE
  ranges = jnp.where(studio, np.stack(_STUDIO, axis=1), np.stack(_OUTDOOR, axis=1))
  low, high = ranges[..., 0], ranges[..., 1]
  power, focus, kelvin, azimuth, elevation = (low + (high - low) * sources).T
  from_below = studio & (below < _FROM_BELOW_SHARE) & (jnp.arange(6) == 0)
  elevation = jnp.where(from_below, -jnp.abs(elevation), elevation)
  azimuth = jnp.where(side < 0.5, azimuth, -azimuth)
  return jnp.maximum(power, 0), focus, kelvin, sh.direction(azimuth, elevation)


def _lobes(directions: jax.Array, focus: jax.Array) -> jax.Array:
  """Lights `[N, 9]` of first coefficient 1: a point at `directions` `[N, 3]`, spread on the sphere like heat.

  The heat kernel keeps exp(-l (l + 1) t) of band l, so the cube of what is left of band 1 is left of band 2. A focus of
  2/3 is nearly the clamped cosine, `sh.directional` without ambient.
  """
  kept = jnp.stack([jnp.ones_like(focus), focus, focus**3], axis=-1)[:, _BAND]
  return sh.basis(directions) / _BAND0 * kept


def _black_body(kelvin: jax.Array) -> jax.Array:
  """Linear RGB `[N, 3]` of luminance 1 of a black body: Planck's law at the wavelengths of sRGB's primaries.

  White at 6500 K. `color.lamp_colour` is nearer to the eye's; this one follows any temperature under `jit`, and the
  numbers of datasets depend on it.
  """

  def planck(kelvin):
    return 1 / jnp.expm1(_SECOND_RADIATION_CONSTANT / (jnp.asarray(_WAVELENGTHS) * kelvin[:, None]))

  color = planck(kelvin) / planck(jnp.array([6500.0]))
  return color / (color @ jnp.asarray(GRAY_WEIGHTS))[:, None]


def _white_balance(light: jax.Array, share: jax.Array) -> jax.Array:
  """Takes `share` of the mean tint from a coloured light `[3, 9]`, as a camera does."""
  return light * (light[:, :1] / jnp.mean(light[:, 0])) ** -share


_BAND = np.repeat([0, 1, 2], [1, 3, 5])
_BAND0 = 1 / (2 * math.sqrt(math.pi))
# Irradiance by even light whose first coefficient is 1.
_EVEN_IRRADIANCE = math.sqrt(math.pi) / 2
_WAVELENGTHS = np.array([[612e-9, 549e-9, 465e-9]], np.float32)  # metres
_SECOND_RADIATION_CONSTANT = 0.014388  # metres times kelvin


def _fibonacci_directions(count: int) -> np.ndarray:
  """Directions `[count, 3]` spread evenly over the sphere."""
  index = np.arange(count) + 0.5
  z = 1 - 2 * index / count
  longitude = index * np.pi * (3 - math.sqrt(5))
  level = np.sqrt(1 - z * z)
  return np.stack([level * np.cos(longitude), level * np.sin(longitude), z], axis=-1)


_REST_BASIS = sh.basis(_fibonacci_directions(1024))[:, 1:].T.astype(np.float32)
