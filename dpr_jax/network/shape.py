"""What our network knows of a photo: the shape of a face and its light. Apart from the network, which takes Flax."""

from typing import NamedTuple

import jax

from dpr_jax.light.light import Light


class Shape(NamedTuple):
  """What the network knows of a face beside its light; h = H/4, w = W/4.

  Attributes:
    luminance: `[B, H, W, 1]`, the photo itself, L / 100.
    framing: `[B, 3]`, where the face lies: factor, right, down, as in `views.Faces`.
    normal: `[B, h, w, 3]`, unit, axes of `dpr_jax.light.sh`.
    depth: `[B, h, w, 1]`, height towards the viewer in shares of the side, from an unknown zero.
    skin: `[B, h, w, 1]`, how likely each pixel is to be a face's, in [0, 1].
    doubt: `[B, h, w, 1]`, how little the shading by this shape is to be believed, in [0, 1]: see
      `shading.shadow_doubt`.
  """

  luminance: jax.Array
  framing: jax.Array
  normal: jax.Array
  depth: jax.Array
  skin: jax.Array
  doubt: jax.Array


class Surface(NamedTuple):
  """What is known from elsewhere of the shape of faces: a second opinion, as of a face finder's landmarks.

  Attributes:
    normal: `[B, h, w, 3]`, as `Shape.normal`; unit where `weight` is positive.
    depth: `[B, h, w, 1]`, as `Shape.depth`.
    weight: `[B, h, w, 1]` in [0, 1], where it is known.
  """

  normal: jax.Array
  depth: jax.Array
  weight: jax.Array


class RatioEncoding(NamedTuple):
  """What `RatioHourglassNet.encode` knows of a photo, before any target light.

  Attributes:
    face: `[B, H/64, W/64, C]`, features at the bottleneck.
    light: the photo's own light: gray, every part with a leading axis B, one lamp; as bright as the photo's skin.
    shape: see `Shape`.
    shading: `[B, h, w, 1]`, under that light.
  """

  face: jax.Array
  light: Light
  shape: Shape
  shading: jax.Array
