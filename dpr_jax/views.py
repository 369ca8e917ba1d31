"""What a batch is made of, and faces relit inside the training step (Zhou et al. 2019, section 3.1, without the files).

Offline training reads pairs of lit pictures (`Views`); online training reads photos with their normals (`Faces`), and
`relight_faces` makes pairs of them under lights that no other step has seen.
"""

import functools
import math
from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from ml_collections import ConfigDict

from dpr_jax import light_prior, ratio, sh

Array = jax.Array | np.ndarray


class Faces(NamedTuple):
  """A batch of photos that can be relit.

  Attributes:
    luminance: L / 100 in [0, 1], `[B, H, W, 1]` float32.
    normal: unit normals of every pixel, `[B, H, W, 3]` float32, axes of `dpr_jax.sh`.
    mask: 1 on the face, else 0, `[B, H, W, 1]` float32.
    source_light: the light of each photo, `[B, 9]` float32.
  """

  luminance: Array
  normal: Array
  mask: Array
  source_light: Array


class Views(NamedTuple):
  """A batch of faces under two lights each; every view is the source of the other.

  Attributes:
    luminance: L / 100 in [0, 1], `[2, B, H, W, 1]` float32.
    light: `[2, B, 9]` float32.
    mask: 1 on the face, else 0, `[B, H, W, 1]` float32.
    original: the photos themselves, `[B, H, W, 1]` float32.
  """

  luminance: Array
  light: Array
  mask: Array
  original: Array


# Which axis of each field counts the faces.
FACE_AXES = {Faces: Faces(0, 0, 0, 0), Views: Views(luminance=1, light=1, mask=0, original=0)}


class Lights(NamedTuple):
  """Lights to relight faces with: what the network is told, and hard lamps that nine numbers cannot say.

  The shading is `sh.shading` of `told`, or where there is a lamp `even + strength max(0, n . towards)`.

  Attributes:
    told: `[..., 9]`.
    hard: whether there is a lamp, `[...]` bool.
    towards: unit direction to the lamp, `[..., 3]`.
    strength: shading that the lamp adds to a surface that faces it, `[...]`.
    even: shading by light from everywhere, `[...]`.
  """

  told: Array
  hard: Array
  towards: Array
  strength: Array
  even: Array


# Of hard lamps, in degrees, evenly drawn: azimuth from the camera to either side, elevation upwards.
LAMP_AZIMUTH = (-100.0, 100.0)
LAMP_ELEVATION = (-15.0, 70.0)

_BAND0 = 1 / (2 * math.sqrt(math.pi))
# Up to band 2, a point lamp of mean radiance 1 sends 1 + 3 c + 5 (3 c^2 - 1) / 2 from where the cosine to its direction
# is c; -1.8 at the lowest. With this share of even light the nine numbers are as negative as the prior lets others be:
# what the network is told does not give the lamp away.
_LOWEST_OF_A_POINT = -1.8
_LEAST_AMBIENT = (light_prior.LOWEST_RADIANCE / _BAND0 - _LOWEST_OF_A_POINT) / (1 - _LOWEST_OF_A_POINT)
LAMP_AMBIENT = (_LEAST_AMBIENT, 0.8)


def soft_lights(told: Array) -> Lights:
  """Lights `[..., 9]` without lamps."""
  nothing = jnp.zeros(told.shape[:-1])
  return Lights(jnp.asarray(told), nothing > 0, jnp.zeros((*nothing.shape, 3)), nothing, nothing)


def lamps(towards: Array, ambient: Array, dc: Array) -> Lights:
  """Points of light, each with even light from everywhere.

  What is told is the projection of this very light, for a point `strength * basis(towards)`. `sh.shading` of it is the
  true shading in bands 0 to 2: the same mean, the same contrast. It lacks bands 4, 6, ... of max(0, n . towards) (Basri
  & Jacobs 2003), at most 3/32 of `strength`, where the surface turns away from the lamp. `sh.directional` says another
  light: a lamp as wide as a cosine lobe, with 2/3 of this band 1 and 1/4 of this band 2.

  Args:
    towards: unit directions to the lamps, `[..., 3]`.
    ambient: the share of even light in the mean radiance, `[...]`.
    dc: the first coefficient, `[...]`, which sets the mean radiance as with any other light.
  """
  towards, ambient, dc = map(jnp.asarray, (towards, ambient, dc))
  mean = math.pi * _BAND0 * dc  # of the shading, over all normals
  strength, even = 4 * (1 - ambient) * mean, ambient * mean  # max(0, cos) has a mean of 1/4
  told = (jnp.expand_dims(strength, -1) * sh.basis(towards)).at[..., 0].set(dc)
  return Lights(told, jnp.ones(dc.shape, bool), towards, strength, even)


def draw_lights(key: jax.Array, shape: tuple[int, ...], lamp_share: float) -> Lights:
  """Draws lights `[*shape]` from `dpr_jax.light_prior`, the share `lamp_share` of them replaced by hard lamps."""
  draw = light_prior.draw_light
  for _ in shape:
    draw = jax.vmap(draw)
  told = draw(jax.random.split(key, shape))
  if not lamp_share:
    return soft_lights(told)
  numbers = jax.random.uniform(jax.random.fold_in(key, 1), (4, *shape))
  azimuth, elevation, ambient = (
    low + (high - low) * number
    for (low, high), number in zip((LAMP_AZIMUTH, LAMP_ELEVATION, LAMP_AMBIENT), numbers[:3], strict=True)
  )
  hard = lamps(_direction(jnp.radians(azimuth), jnp.radians(elevation)), ambient, told[..., 0])
  is_hard = numbers[3] < lamp_share
  return hard._replace(told=jnp.where(is_hard[..., None], hard.told, told), hard=is_hard)


def _direction(azimuth: jax.Array, elevation: jax.Array) -> jax.Array:
  """`sh.direction` of radians, in jnp."""
  level = jnp.cos(elevation)
  return jnp.stack([-jnp.sin(azimuth) * level, -jnp.cos(azimuth) * level, jnp.sin(elevation)], axis=-1)


def relight_faces(key: jax.Array, faces: Faces, online: ConfigDict) -> Views:
  """Each face under two lights, fresh for every key.

  The second view is always relit; the first is the photo itself, under its own light, for a share
  `online.original_share` of the faces, and else relit under a light of its own. Relit means what `data_gen.synthesis`
  means by it, without its 8 bits and its denoising. Lights are taken as they are: a photo whose `source_light` shades
  its skin to 1 on average gets darker under most target lights, in both.

  Args:
    key: one key; what a face gets depends on its place in the batch too, never on devices.
    faces: the batch.
    online: `original_share` and `lamp_share` of `training_config`, numbers.
  """
  lights_key, photo_key = jax.random.split(key)
  count = faces.luminance.shape[0]
  lights = draw_lights(lights_key, (2, count), online.lamp_share)
  luminance = relight_under(faces, lights)
  is_photo = jax.random.uniform(photo_key, (count,)) < online.original_share
  first = jnp.where(is_photo[:, None, None, None], faces.luminance, luminance[0])
  told = jnp.where(is_photo[:, None], faces.source_light, lights.told[0])
  return Views(
    luminance=jnp.stack([first, luminance[1]]),
    light=jnp.stack([told, lights.told[1]]),
    mask=faces.mask,
    original=faces.luminance,
  )


def relight_under(faces: Faces, lights: Lights) -> jax.Array:
  """L / 100 of the faces under lights `[N, B]`: the ratio image (equations 1 to 3), `[N, B, H, W, 1]`."""
  return jax.vmap(_relight_face, in_axes=(0, 1), out_axes=1)(faces, lights)


def _relight_face(face: Faces, lights: Lights) -> jax.Array:
  """One face, without the axis of the batch, under lights `[N]` -> `[N, H, W, 1]`."""
  source = _shading(face.normal, face.source_light)
  relight = functools.partial(ratio.relight, face.luminance[..., 0], ratio.fill_dark(source))

  def under(light):
    facing = jnp.maximum(sum(face.normal[..., axis] * light.towards[axis] for axis in range(3)), 0)
    return relight(jnp.where(light.hard, light.even + light.strength * facing, _shading(face.normal, light.told)))

  return jax.vmap(under)(lights)[..., None]


def _shading(normal: jax.Array, light: jax.Array) -> jax.Array:
  """`sh.shading`, `[H, W]`, as a sum that XLA fuses with what is around it: with a matrix product, which needs all nine
  harmonics in memory, `relight_faces` takes over ten times as long on a CPU.
  """
  harmonics, light = sh.basis(normal), light * sh.LAMBERTIAN
  return sum(harmonics[..., k] * light[k] for k in range(9))
