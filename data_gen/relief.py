"""How far each pixel lies towards the viewer: what casts shadows, carried on beyond the fitted face."""

import numpy as np

from data_gen.face_maps import FaceMaps, Label
from dpr_jax.base.errors import BadInput
from dpr_jax.base.native_libraries import import_native

cv2 = import_native("cv2")

# Beyond the face it falls back by as much as one goes away from it, as the sides of a head do, and then no further;
# in shares of the picture's side.
_FALL = 1.0
_DEEPEST_FALL = 0.5
# Standard deviations of blurs, in shares of the side: on the face one that takes away the steps between triangles, and
# around it one that takes away the ridges that the outline's corners would draw to the frame.
_SMOOTHING, _SMOOTHING_AROUND = 0.006, 0.03


def extend_to_frame(maps: FaceMaps, depth: np.ndarray | None = None) -> np.ndarray:
  """The relief of a face and of what is around it.

  Args:
    maps: a rendered face.
    depth: `[H, W]`, as `maps.depth`, of all whose depth is known, hair and shoulders too; None: of the face alone.

  Returns:
    `[H, W]` float32 in [-1, 1]: height towards the viewer in shares of the picture's longer side, 0 in the mean over
    the face.

  Raises:
    BadInput: there is no face, or its depth is not finite.
  """
  face = maps.label != Label.BACKGROUND
  if not face.any():
    raise BadInput("there is no face whose depth could be taken")
  side = max(face.shape)
  if not np.isfinite(maps.depth[face]).all():
    raise BadInput("the face's depth is not finite everywhere")
  known = face if depth is None else face | np.isfinite(depth)
  height = np.where(known, (maps.depth if depth is None else depth) / side, 0).astype(np.float32)
  height[known] -= height[face].mean(dtype=np.float64)
  distance, nearest = cv2.distanceTransformWithLabels(
    (~known).astype(np.uint8), cv2.DIST_L2, cv2.DIST_MASK_5, labelType=cv2.DIST_LABEL_PIXEL
  )
  height_of = np.zeros(nearest.max() + 1, np.float32)
  height_of[nearest[known]] = height[known]
  around = height_of[nearest] - np.minimum(_FALL * distance / side, _DEEPEST_FALL)
  around = _blur(np.where(known, height, around), _SMOOTHING_AROUND * side)
  return np.clip(_blur(np.where(known, height, around), _SMOOTHING * side), -1, 1)


def _blur(height: np.ndarray, deviation: float) -> np.ndarray:
  return cv2.GaussianBlur(height.astype(np.float32), (0, 0), deviation)
