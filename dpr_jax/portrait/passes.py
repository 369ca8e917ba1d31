"""A portrait's passes as files hold them."""

from collections.abc import Iterator

import numpy as np

from dpr_jax.base.errors import BadInput
from dpr_jax.image.photo import Photo
from dpr_jax.light.light import Light
from dpr_jax.portrait.portrait import Portrait


def pass_photos(portrait: Portrait, light: Light) -> Iterator[tuple[str, Photo]]:
  """The names of `Portrait.passes`, each with a photo of 16 bits: 65535 is 1. Each is made when it is asked for, and
  whoever lets go of it before the next needs memory for one.

  Raises:
    BadInput: the shape of a person is not known.
  """
  if not portrait.has_shapes:
    raise BadInput("passes: need weights that know shape, as default does, and MediaPipe's segmenter")
  return (_photo(*each) for each in portrait.each_pass(light, np.uint16))


def _photo(name: str, values: np.ndarray) -> tuple[str, Photo]:
  gray = values.ndim == 2
  pixels = np.broadcast_to(values[..., None], (*values.shape, 3)) if gray else values  # one channel is written of gray
  return name, Photo(pixels, gray=gray)
