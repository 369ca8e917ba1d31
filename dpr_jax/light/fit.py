"""The light that a photo was taken in, fitted to the skin: what shading of a known shape explains its luminance.

Lobes all around the face, none of them negative, and one lamp that casts shadows, by least squares that leave out what
does not look like skin. Albedo is taken to be even: so what comes out is as bright as the skin.
"""

import math

import jax
import jax.numpy as jnp
import numpy as np

from dpr_jax.base.arrays import ramp
from dpr_jax.light import exposure, sh, shadows
from dpr_jax.light.light import Light, facing
from dpr_jax.light.shading import BOUNCE, face_shading

NUM_LOBES = 64

_ROUNDS = 4  # of leaving out
_UPDATES = 240  # of the irradiances, in each round
_RIDGE = 0.02  # on the lobes, in shares of the mean of the squares
# Relative errors are cut off at so many standard deviations of theirs (Beaton & Tukey 1974).
_OUTLIER = 6.0
# Degrees from a lamp from which on lobes are no part of it, and up to which they are altogether.
_CLOSE = (40.0, 20.0)
# The share of a lamp in all irradiance, as it was learnt, from which on it is one, and from which on it is altogether.
_LAMP_SHARE = (0.3, 0.6)
_LEARNT = 0.3  # how much what was learnt counts beside the fit
_DARK = 0.1  # of the mean luminance, below which errors count as absolute ones


def _lobe_directions(count: int) -> np.ndarray:
  """Unit directions `[count, 3]` all around, in pairs of mirror images: what is fitted to them is as symmetric."""
  index = np.arange(count // 2) + 0.5
  z = 1 - 4 * index / count
  longitude = index * np.pi * (3 - np.sqrt(5)) % np.pi
  level = np.sqrt(1 - z * z)
  # The half sphere on image right (x > 0), then the other one.
  right = np.stack([level * np.sin(longitude), level * np.cos(longitude), z], axis=-1)
  return np.concatenate([right, right * (-1, 1, 1)]).astype(np.float32)


LOBES = _lobe_directions(NUM_LOBES)
LOBE_HARMONICS = sh.basis(LOBES).astype(np.float32)


def fit_lobes(luminance: jax.Array, normal: jax.Array, skin: jax.Array) -> jax.Array:
  """Lobes alone, by plain least squares and without shadows.

  Args:
    luminance: linear, `[B, h, w]`.
    normal: unit normals, `[B, h, w, 3]`.
    skin: weights, `[B, h, w]`.

  Returns:
    The irradiance of each, `[B, 64]`.
  """
  return _non_negative(_lobe_transport(normal), luminance, skin, updates=40)


def fit_light(luminance: jax.Array, normal: jax.Array, depth: jax.Array, skin: jax.Array, lamp: Light) -> Light:
  """The lobes, as a soft part of nine numbers, and how bright a lamp is whose direction and size are known.

  Args:
    luminance: linear, `[B, h, w]`.
    normal: unit normals, `[B, h, w, 3]`.
    depth: `[B, h, w]`, as `shadows.visibility` takes it.
    skin: weights, `[B, h, w]`.
    lamp: gray lights of one lamp, of which `towards` and `size` are taken.

  Returns:
    Gray, every part with a leading axis B.
  """
  towards, size = lamp.towards[:, 0], lamp.size[:, 0]
  cosine = jnp.einsum("bhwc,bc->bhw", normal, towards)
  lit = facing(cosine, size[:, None, None]) * jax.vmap(shadows.visibility)(depth, towards, size)
  transport = jnp.concatenate([_lobe_transport(normal), lit[..., None]], axis=-1)
  # What is thrown back belongs to each, as in `face_shading`.
  share = skin[..., None] / (skin.sum((1, 2)) + 1e-6)[:, None, None, None]
  transport += BOUNCE * (transport * share).sum((1, 2), keepdims=True)
  mean = (luminance * share[..., 0]).sum((1, 2), keepdims=True)

  def leave_out(fit: tuple[jax.Array, jax.Array], _) -> tuple[tuple[jax.Array, jax.Array], None]:
    irradiance = _non_negative(transport, luminance, fit[1], updates=_UPDATES)
    fitted = jnp.einsum("bhwk,bk->bhw", transport, irradiance)
    error = jnp.abs(luminance - fitted) / (fitted + _DARK * mean + 1e-6)
    spread = 1.4826 * exposure.quantile(error, skin, 0.5)[:, None, None] + 1e-3
    return (irradiance, skin * jnp.square(jnp.maximum(1 - jnp.square(error / (_OUTLIER * spread)), 0))), None

  none = jnp.zeros((transport.shape[0], transport.shape[-1]), transport.dtype)
  (irradiance, weights), _ = jax.lax.scan(leave_out, (none, skin), length=_ROUNDS)
  # Lobes close to a lamp are the lamp, as far as there is one.
  lobes, irradiance = irradiance[:, :-1], irradiance[:, -1]
  cosines = towards @ LOBES.T
  close = ramp(cosines, *np.cos(np.radians(_CLOSE)))
  moved = lobes * close * _is_lamp(lamp)[:, None]
  irradiance += jnp.sum(moved * jnp.maximum(cosines, 0), axis=-1)
  soft = (lobes - moved) @ LOBE_HARMONICS
  fit = Light(soft[:, None], lamp.towards, irradiance[:, None, None], lamp.size)
  # What was learnt of the light and what fits the skin err in different ways: the mean of both is nearer than either.
  shading = jax.vmap(face_shading)(normal, depth, skin, lamp)[..., 0]
  factor = (weights * luminance * shading).sum((1, 2)) / ((weights * shading**2).sum((1, 2)) + 1e-9)
  learnt = scale_each(lamp, factor)
  return Light(
    (1 - _LEARNT) * fit.soft + _LEARNT * learnt.soft,
    lamp.towards,
    (1 - _LEARNT) * fit.irradiance + _LEARNT * learnt.irradiance,
    lamp.size,
  )


def scale_each(lights: Light, factors: jax.Array) -> Light:
  """Lights of B, each as many times as bright as `factors` `[B]` say."""
  factors = factors[:, None, None]
  return lights._replace(soft=lights.soft * factors, irradiance=lights.irradiance * factors)


def _is_lamp(light: Light) -> jax.Array:
  """Whether light comes from a lamp in the main, `[B]` in [0, 1]: by the share of the lamp in all irradiance."""
  even = light.soft[:, 0, 0] * (math.sqrt(math.pi) / 2)
  return ramp(light.irradiance[:, 0, 0] / (light.irradiance[:, 0, 0] + jnp.maximum(even, 1e-6)), *_LAMP_SHARE)


def _lobe_transport(normal: jax.Array) -> jax.Array:
  """What each lobe sends to surfaces, `[B, h, w, 3] -> [B, h, w, 64]`."""
  return jnp.maximum(jnp.einsum("bhwc,kc->bhwk", normal, LOBES), 0)


def _non_negative(transport: jax.Array, luminance: jax.Array, weights: jax.Array, updates: int) -> jax.Array:
  """Non-negative least squares by multiplicative updates (Lee & Seung 2001), `[B, K]`."""
  weighted = transport * weights[..., None]
  gram = jnp.einsum("bhwj,bhwk->bjk", weighted, transport)
  wanted = jnp.einsum("bhwj,bhw->bj", weighted, luminance)
  count = gram.shape[-1]
  ridge = _RIDGE * jnp.trace(gram, axis1=1, axis2=2)[:, None, None] / count + 1e-9
  gram += ridge * jnp.eye(count, dtype=gram.dtype)[None]

  def update(_, irradiance):
    return irradiance * wanted / (jnp.einsum("bjk,bk->bj", gram, irradiance) + 1e-9)

  start = jnp.ones_like(wanted) * (jnp.sum(wanted, -1, keepdims=True) / (jnp.sum(gram, (1, 2))[:, None] + 1e-9))
  return jax.lax.fori_loop(0, updates, update, start)
