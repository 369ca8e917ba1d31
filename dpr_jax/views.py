"""What a batch is made of, and faces relit inside the training step (Zhou et al. 2019, section 3.1, without the files).

Offline training reads pairs of lit pictures (`Views`); online training reads photos with their normals (`Faces`), and
`relight_faces` makes pairs of them under lights that no other step has seen.
"""

import functools
from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from ml_collections import ConfigDict

from dpr_jax import light_prior, ratio, sh, shadows

Array = jax.Array | np.ndarray


class Faces(NamedTuple):
  """A batch of photos that can be relit.

  Attributes:
    luminance: L / 100 in [0, 1], `[B, H, W, 1]` float32.
    normal: unit normals of every pixel, `[B, H, W, 3]` float32, axes of `dpr_jax.sh`.
    depth: height towards the viewer in shares of the side, `[B, H, W, 1]` float32.
    mask: 1 on the face, else 0, `[B, H, W, 1]` float32.
    framing: how augmentation has moved each photo, `[B, 3]` float32: factor, right, down; what lay at p, counted from
      the centre in half sides, lies at factor * p + (right, down).
    source_light: the light of each photo, `[B, 9]` float32.
  """

  luminance: Array
  normal: Array
  depth: Array
  mask: Array
  framing: Array
  source_light: Array


class Views(NamedTuple):
  """A batch of faces under two lights each; every view is the source of the other.

  Attributes:
    luminance: L / 100 in [0, 1], `[2, B, H, W, 1]` float32.
    light: `[2, B, 9]` float32.
    mask: 1 on the face, else 0, `[B, H, W, 1]` float32.
    original: the photos themselves, `[B, H, W, 1]` float32.
    normal: as in `Faces`, where the views were made of them; None of stored pictures.
    depth: likewise.
    framing: likewise.
  """

  luminance: Array
  light: Array
  mask: Array
  original: Array
  normal: Array | None = None
  depth: Array | None = None
  framing: Array | None = None


# Which axis of each field counts the faces.
FACE_AXES = {Faces: Faces(0, 0, 0, 0, 0, 0), Views: Views(luminance=1, light=1, mask=0, original=0)}
FACE_AXES_OF_FACES = FACE_AXES[Views]._replace(normal=0, depth=0, framing=0)  # of views that were made of `Faces`


class Lights(NamedTuple):
  """Lights to relight faces with: what the network is told, and hard lamps that nine numbers cannot say.

  The shading is `sh.shading` of `told`, or where there is a lamp `even + strength visible max(0, n . towards)`, where
  `visible` is what the pixel sees of the lamp past the face (`shadows.visibility`).

  Attributes:
    told: `[..., 9]`.
    hard: whether there is a lamp, `[...]` bool.
    towards: unit direction to the lamp, `[..., 3]`.
    strength: shading that the lamp adds to a surface that faces it, `[...]`.
    even: shading by light from everywhere, `[...]`.
    softness: of the edges of cast shadows, as `shadows.visibility` takes it, `[...]`.
  """

  told: Array
  hard: Array
  towards: Array
  strength: Array
  even: Array
  softness: Array


# Of hard lamps, evenly drawn: azimuth in degrees from the camera to either side, elevation upwards, the share of even
# light (its square root is drawn: dark shadows are hard to learn), the first coefficient, and the softness of shadows.
LAMP_AZIMUTH = (-100.0, 100.0)
LAMP_ELEVATION = (-40.0, 75.0)
LAMP_AMBIENT_ROOT = (0.0, 0.8)
LAMP_DC = (0.6, 0.9)
LAMP_SOFTNESS = (0.1, 0.6)

# Shading of a surface that faces a lamp, over the first coefficient: with that of `sh.directional`, 1.5 where a photo's
# own shading is 1 on average. With less the lit side of a face gets no brighter than it was, and the whole too dark.
_FULL_SHADING = 2.0


def soft_lights(told: Array) -> Lights:
  """Lights `[..., 9]` without lamps."""
  nothing = jnp.zeros(told.shape[:-1])
  return Lights(jnp.asarray(told), nothing > 0, jnp.zeros((*nothing.shape, 3)), nothing, nothing, nothing + 1)


def lamps(towards: Array, ambient: Array, dc: Array, softness: Array) -> Lights:
  """Points of light, each with even light from everywhere, told as `sh.directional` of the same numbers.

  Nine numbers hold no point: what is told is the lobe by which users name a lamp, and the network learns that a lobe
  means a lamp with its attached and cast shadows. `ambient` is here what is left in a shadow, of the brightness of a
  surface that faces the lamp, which is the same under every lamp of one `dc`: so a photographer exposes. (By mean
  radiance, as in the lobe, an ambient share of 0.3 would leave a tenth, and portraits as dark as by night.)

  Args:
    towards: unit directions to the lamps, `[..., 3]`.
    ambient: the share of even light in the brightness of a surface that faces the lamp, `[...]`.
    dc: the first coefficient, `[...]`.
    softness: see `Lights`, `[...]`.
  """
  towards, ambient, dc, softness = map(jnp.asarray, (towards, ambient, dc, softness))
  full = _FULL_SHADING * dc
  told = sh.directional(towards, jnp.expand_dims(ambient, -1), jnp.expand_dims(dc, -1))
  return Lights(told, jnp.ones(dc.shape, bool), towards, (1 - ambient) * full, ambient * full, softness)


def draw_lights(key: jax.Array, shape: tuple[int, ...], lamp_share: float) -> Lights:
  """Draws lights `[*shape]` from `dpr_jax.light_prior`, the share `lamp_share` of them replaced by hard lamps."""
  draw = light_prior.draw_light
  for _ in shape:
    draw = jax.vmap(draw)
  told = draw(jax.random.split(key, shape))
  if not lamp_share:
    return soft_lights(told)
  numbers = jax.random.uniform(jax.random.fold_in(key, 1), (6, *shape))
  azimuth, elevation, ambient_root, dc, softness = (
    low + (high - low) * number
    for (low, high), number in zip(
      (LAMP_AZIMUTH, LAMP_ELEVATION, LAMP_AMBIENT_ROOT, LAMP_DC, LAMP_SOFTNESS), numbers[:5], strict=True
    )
  )
  hard = lamps(_direction(jnp.radians(azimuth), jnp.radians(elevation)), ambient_root**2, dc, softness)
  is_hard = numbers[5] < lamp_share
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
    online: `original_share`, `lamp_share` and `cast_shadows` of `training_config`.
  """
  lights_key, photo_key = jax.random.split(key)
  count = faces.luminance.shape[0]
  lights = draw_lights(lights_key, (2, count), online.lamp_share)
  luminance = relight_under(faces, lights, online.lamp_share > 0 and online.cast_shadows)
  is_photo = jax.random.uniform(photo_key, (count,)) < online.original_share
  first = jnp.where(is_photo[:, None, None, None], faces.luminance, luminance[0])
  told = jnp.where(is_photo[:, None], faces.source_light, lights.told[0])
  return Views(
    luminance=jnp.stack([first, luminance[1]]),
    light=jnp.stack([told, lights.told[1]]),
    mask=faces.mask,
    original=faces.luminance,
    normal=faces.normal,
    depth=faces.depth,
    framing=faces.framing,
  )


def relight_under(faces: Faces, lights: Lights, cast_shadows: bool = True) -> jax.Array:
  """L / 100 of the faces under lights `[N, B]`: the ratio image (equations 1 to 3), `[N, B, H, W, 1]`."""
  relight = functools.partial(_relight_face, cast_shadows=cast_shadows)
  return jax.vmap(relight, in_axes=(0, 1), out_axes=1)(faces, lights)


def _relight_face(face: Faces, lights: Lights, *, cast_shadows: bool) -> jax.Array:
  """One face, without the axis of the batch, under lights `[N]` -> `[N, H, W, 1]`."""
  source = _shading(face.normal, face.source_light)
  relight = functools.partial(ratio.relight, face.luminance[..., 0], ratio.fill_dark(source))

  def under(light):
    lamplight = light.strength * jnp.maximum(sum(face.normal[..., axis] * light.towards[axis] for axis in range(3)), 0)
    if cast_shadows:
      lamplight *= shadows.visibility(face.depth[..., 0], light.towards, light.softness)
    return relight(jnp.where(light.hard, light.even + lamplight, _shading(face.normal, light.told)))

  return jax.vmap(under)(lights)[..., None]


def _shading(normal: jax.Array, light: jax.Array) -> jax.Array:
  """`sh.shading`, `[H, W]`, as a sum that XLA fuses with what is around it: with a matrix product, which needs all nine
  harmonics in memory, `relight_faces` takes over ten times as long on a CPU.
  """
  harmonics, light = sh.basis(normal), light * sh.LAMBERTIAN
  return sum(harmonics[..., k] * light[k] for k in range(9))
