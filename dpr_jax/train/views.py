"""What a batch is made of, and faces relit inside the training step (Zhou et al. 2019, section 3.1, without the files).

Offline training reads pairs of lit pictures (`Views`); online training reads photos with their normals (`Faces`), and
`relight_faces` makes pairs of them under lights that no other step has seen.
"""

from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from dpr_jax.image import color
from dpr_jax.light import exposure, light, prior
from dpr_jax.light.light import Light
from dpr_jax.light.shading import face_shading
from dpr_jax.train.config import OnlineConfig

Array = jax.Array | np.ndarray


class Faces(NamedTuple):
  """A batch of photos that can be relit.

  Attributes:
    luminance: L / 100 in [0, 1], `[B, H, W, 1]` float32.
    normal: unit normals of every pixel, `[B, H, W, 3]` float32, axes of `dpr_jax.light.sh`.
    depth: height towards the viewer in shares of the side, `[B, H, W, 1]` float32.
    mask: 1 on the face, else 0, `[B, H, W, 1]` float32.
    framing: how augmentation has moved each photo, `[B, 3]` float32: factor, right, down; what lay at p, counted from
      the centre in half sides, lies at factor * p + (right, down).
    source_light: the light of each photo, fitted in linear light, `[B, 9]` float32.
    shape_weight: what the shape of each pixel is worth learning, in [0, 1], `[B, H, W, 1]` float32: 1 on the face;
      beside it 0 where a fitted face merely goes on smoothly, more where hair, neck and shoulders have their own.
  """

  luminance: Array
  normal: Array
  depth: Array
  mask: Array
  framing: Array
  source_light: Array
  shape_weight: Array


class Views(NamedTuple):
  """A batch of faces under two lights each; every view is the source of the other.

  Attributes:
    luminance: L / 100 in [0, 1], `[2, B, H, W, 1]` float32.
    light: their lights: a gray `Light` with one lamp, every part `[2, B, ...]`, as bright as the views are
      (`relight_faces`); of stored pictures nine numbers, `[2, B, 9]` float32.
    mask: 1 on the face, else 0, `[B, H, W, 1]` float32.
    original: the photos themselves, `[B, H, W, 1]` float32.
  """

  luminance: Array
  light: Light | Array
  mask: Array
  original: Array


# Which axis of each field counts the faces.
FACE_AXES = {Faces: Faces(0, 0, 0, 0, 0, 0, 0), Views: Views(luminance=1, light=1, mask=0, original=0)}

# By how many stops a view is darker or brighter than the photo.
_EXPOSURE = (-0.7, 0.3)
_KEY_STEP = 4  # every so many rows and columns are asked for the key


def relight_faces(key: jax.Array, faces: Faces, online: OnlineConfig) -> Views:
  """Each face under two lights, fresh for every key.

  The second view is always relit; the first is the photo itself, under its own light, for a share
  `online.original_share` of the faces, and else relit under a light of its own. Views differ in exposure, too. The
  light of a view is as bright as the view: its shading has, over the skin, the key of the view's linear luminance.

  Args:
    key: one key; what a face gets depends on its place in the batch too, never on devices.
    faces: the batch.
    online: the shares of photos and of lamps.
  """
  lights_key, photo_key, exposure_key = jax.random.split(key, 3)
  count = faces.luminance.shape[0]
  lights = prior.draw_lights_with_lamps(lights_key, (2, count), online.lamp_share)
  stops = jax.random.uniform(exposure_key, (2, count), minval=_EXPOSURE[0], maxval=_EXPOSURE[1])
  is_photo = jax.random.uniform(photo_key, (count,)) < online.original_share
  photo_light = jax.vmap(lambda numbers: light.with_lamps(light.soft_light(numbers), 1))(faces.source_light)
  lights = jax.tree.map(
    lambda drawn, own: drawn.at[0].set(jnp.where(is_photo.reshape(-1, *[1] * (own.ndim - 1)), own, drawn[0])),
    lights,
    photo_light,
  )
  stops = stops.at[0].set(jnp.where(is_photo, 0, stops[0]))
  luminance, lights = relight_under(faces, lights, stops)
  return Views(luminance, lights, faces.mask, faces.luminance)


def relight_under(faces: Faces, lights: Light, stops: Array) -> tuple[jax.Array, Light]:
  """The ratio image in linear light (Zhou et al. 2019, equations 1 to 3).

  Args:
    faces: B of them.
    lights: every part `[N, B, ...]`.
    stops: by how much the key of a view is brighter than the photo's, `[N, B]`.

  Returns:
    L / 100, `[N, B, H, W, 1]`, and the lights, as bright as the views are.
  """
  return jax.vmap(jax.vmap(_relight_face), in_axes=(None, 0, 0))(faces, lights, stops)


def _relight_face(face: Faces, lit: Light, stops: jax.Array) -> tuple[jax.Array, Light]:
  """One face, without the axis of the batch, under one light."""
  skin = face.mask[..., 0]

  def shaded(lit):
    return face_shading(face.normal, face.depth[..., 0], skin, lit)[..., 0]

  luminance = color.luminance_of_lightness(face.luminance[..., 0])
  shading = shaded(lit)
  relit = luminance * shading / shaded(light.soft_light(face.source_light))
  wanted = _key(luminance, skin) * 2.0**stops
  relit *= wanted / _key(relit, skin)
  relit = jnp.clip(color.lightness_of_luminance(relit), 0, 1)
  return relit[..., None], light.scale(lit, wanted / _key(shading, skin))


def _key(luminance: jax.Array, skin: jax.Array) -> jax.Array:
  """`exposure.key` of a part of the pixels: it sorts them."""
  return exposure.key(luminance[::_KEY_STEP, ::_KEY_STEP], skin[::_KEY_STEP, ::_KEY_STEP])
