"""A face cut out of a photo as the networks were trained on it, and encoded: its shape or features, and its light."""

from collections.abc import Callable
from typing import NamedTuple

import jax.numpy as jnp
import numpy as np

from dpr_jax.base.native_libraries import import_native
from dpr_jax.image import color
from dpr_jax.light import sh
from dpr_jax.light.light import Light, rotate
from dpr_jax.network import traced
from dpr_jax.network.encoding import Encoding
from dpr_jax.network.networks import traits_of
from dpr_jax.network.shape import RatioEncoding
from dpr_jax.portrait import person_shape
from dpr_jax.portrait.faces import OVAL, Face, Framing, frame_face
from dpr_jax.portrait.landmark_mesh import mesh_surface
from dpr_jax.portrait.matte import head_weight
from dpr_jax.portrait.person import Matte
from dpr_jax.portrait.person_shape import PersonShape
from dpr_jax.portrait.relighting import Params, encode_luminance, first_light
from dpr_jax.portrait.square import cut_square, edge_inside

cv2 = import_native("cv2")

_SKIN_FINER = 4


class FramedFace(NamedTuple):
  """A face as the network has seen it; all it takes to put it under any light.

  Attributes:
    framing: where it is.
    luminance: L / 100 in the square, `[S, S]`.
    weight: how much of the relighting each pixel of the square receives, `[S, S]`.
    skin: 1 inside the oval of the face, else 0, `[S, S]`.
    encoding: the network's encoding of `luminance`.
    source_light: the light on this face as estimated, gray, in the photo's coordinates.
    matte: which pixels of the photo are the person's; None: nobody has looked.
    person: the shape of the whole person, which follows the light beyond the square, and then `weight` is how much of
      the light's change is the square's; None: the light ends with the weight.
    presence: 0 to 1: how much of its change of light a face of a film gets, which comes or goes; 1 in a photo.
  """

  framing: Framing
  luminance: np.ndarray
  weight: np.ndarray
  skin: np.ndarray
  encoding: Encoding | RatioEncoding
  source_light: Light
  matte: Matte | None = None
  person: "Person | None" = None
  presence: float = 1.0


class Person(NamedTuple):
  """The whole person of a face, where the network knows shape.

  Attributes:
    shape: of the whole person.
    shading: of `shape` under the photo's own light, `[N, N, 1]`.
  """

  shape: PersonShape
  shading: np.ndarray


def weigh_square(
  square: np.ndarray, framing: Framing, face: Face, shape: tuple[int, ...], matte: Matte | None = None
) -> np.ndarray:
  """How much of the relighting each pixel of a framed face receives; see `head_weight`.

  Args:
    square: `[S, S, 3]` uint8 RGB, from `cut_square`.
    framing: where the square lies.
    face: the face in it, in pixels of the photo.
    shape: of the photo.
    matte: of the person; None: the head is looked for in the square.

  Returns:
    `[S, S]` float32 in [0, 1].
  """
  landmarks, edge = _landmarks_in_square(face, framing), edge_inside(framing, shape)
  return head_weight(square, landmarks, edge, None if matte is None else _in_square(matte, framing))


def _in_square(matte: Matte, framing: Framing) -> np.ndarray:
  """The share of each pixel of a square that is a person's light, `[S, S]`."""
  to_photo = np.linalg.inv(np.vstack([framing.index_matrix, [0, 0, 1]]))
  matrix = (np.vstack([matte.matrix, [0, 0, 1]]) @ to_photo)[:2]
  flags = cv2.INTER_LINEAR | cv2.WARP_INVERSE_MAP
  return cv2.warpAffine(matte.share, matrix, (framing.size, framing.size), flags=flags, borderMode=cv2.BORDER_REPLICATE)


def with_person(face: FramedFace, matte: Matte) -> FramedFace:
  """A framed face with its person, who follows the light as a whole if the network knows shape."""
  face = face._replace(matte=matte)
  if not isinstance(face.encoding, RatioEncoding):
    return face
  shape = person_shape.person_shape(matte, face.framing, face.encoding.shape)
  own = person_shape.shading(shape, face.source_light)
  return face._replace(weight=person_shape.edge_weight(face.framing.size), person=Person(shape, own))


def skin_of(face: Face, framing: Framing) -> np.ndarray:
  """The oval of a face in its square, `[S, S]` float32, 1 inside, at its edge the share of a pixel that it covers."""
  oval = _landmarks_in_square(face, framing)[OVAL]
  # Drawn finer: of whole pixels a mirrored face would have more or fewer, and so another key.
  side = framing.size * _SKIN_FINER
  skin = np.zeros((side, side), np.uint8)
  cv2.fillConvexPoly(skin, cv2.convexHull(np.round((oval + 0.5) * _SKIN_FINER - 0.5).astype(np.int32)), 255)
  return cv2.resize(skin, (framing.size, framing.size), interpolation=cv2.INTER_AREA) / np.float32(255)


def _landmarks_in_square(face: Face, framing: Framing) -> np.ndarray:
  """`[478, 2]`, in pixels of the square counted from the middle of its first, as OpenCV counts."""
  return face.landmarks @ framing.matrix[:, :2].T + framing.matrix[:, 2] - 0.5


def encode_square(
  params: Params,
  square: np.ndarray,
  framing: Framing,
  face: Face,
  weight: np.ndarray,
  *,
  dtype: jnp.dtype | None = None,
  call: Callable = traced.call,
) -> FramedFace:
  """A framed face as the network sees it.

  Args:
    params: from `load_params`.
    square: `[S, S, 3]` RGB in gray levels, 0 to 255, uint8 or floating point.
    framing: where the square lies.
    face: the face in it, in pixels of the photo.
    weight: `[S, S]`, from `weigh_square`.
    dtype: compute type of the convolutions.
    call: as for `Portrait`.
  """
  lightness, encoding, source_light = _see(params, square, framing, face, dtype, call)
  return FramedFace(framing, lightness, weight, skin_of(face, framing), encoding, source_light)


def estimate_portrait_light(params: Params, pixels: np.ndarray, face: Face, size: int | None = None) -> Light:
  """The light on one face of a photo, gray, in the photo's coordinates; the arguments are those of `Portrait`."""
  framing = frame_face(face, traits_of(params).native_size if size is None else size)
  return _see(params, cut_square(pixels, framing), framing, face)[2]


def _see(
  params: Params,
  square: np.ndarray,
  framing: Framing,
  face: Face,
  dtype: jnp.dtype | None = None,
  call: Callable = traced.call,
) -> tuple[np.ndarray, Encoding | RatioEncoding, Light]:
  """What the network sees in a framed face: L / 100 `[S, S]`, its encoding, and the light in the photo."""
  lightness = color.srgb_to_lab(square.astype(np.float32) / 255)[..., 0] / 100
  surface = ()
  network = traits_of(params)
  if network.shape_cell and face.depth is not None and len(square) % network.size_multiple == 0:
    surface = (mesh_surface(face, framing, len(square) // network.shape_cell),)
  encoding = call(encode_luminance, params, lightness[None, ..., None], *surface, dtype=dtype)
  return lightness, encoding, rotate(first_light(encoding), sh.roll(-framing.roll))
