"""A portrait's passes as files hold them."""

import numpy as np

from dpr_jax.base.errors import BadInput
from dpr_jax.image.photo import Photo
from dpr_jax.light.light import Light
from dpr_jax.portrait.portrait import Portrait


def pass_photos(portrait: Portrait, light: Light) -> dict[str, Photo]:
  """`Portrait.passes`, each as a photo of 16 bits: 65535 is 1.

  Raises:
    BadInput: the shape of a person is not known.
  """
  if not portrait.has_shapes:
    raise BadInput("passes: need weights that know shape, as default does, and MediaPipe's segmenter")
  photos = {}
  for name, values in portrait.passes(light).items():
    values, gray = np.round(65535 * values).astype(np.uint16), values.ndim == 2
    photos[name] = Photo(np.dstack([values] * 3) if gray else values, gray=gray)
  return photos
