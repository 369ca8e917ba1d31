"""A page of pictures of one portrait, for people to judge: photo, mesh, normals, lights."""

import numpy as np

from data_gen.face_maps import FaceMaps, Label
from data_gen.synthesis import Relit
from dpr_jax.base.native_libraries import import_native
from dpr_jax.image.pictures import contact_sheet, shrink

cv2 = import_native("cv2")

_CELL_SIDE = 384
_QUALITY = 90
_LABEL_COLORS = {
  Label.SKIN: (240, 190, 160),
  Label.FEATURE: (200, 60, 80),
  Label.EAR: (90, 160, 90),
  Label.NECK: (90, 110, 190),
}
_MESH_COLOR = (255, 255, 255)
_DETECTED_COLOR = (60, 255, 60)


def page(result: Relit) -> bytes:
  """The photo (with the sphere of its own light), the fitted face, its labels, the normals, and the photo relit.

  Returns:
    A JPEG.
  """
  portrait, maps, record = result
  pictures = [
    portrait.pixels,
    _mesh(portrait.pixels, maps),
    _labels(maps),
    normal_picture(record.normal),
    *record.relit,
  ]
  lights = [record.source_light, None, None, None, *record.target_lights]
  sheet = contact_sheet([shrink(picture, _CELL_SIDE) for picture in pictures], lights)
  return cv2.imencode(".jpg", sheet[..., ::-1], [cv2.IMWRITE_JPEG_QUALITY, _QUALITY])[1].tobytes()


def normal_picture(normal: np.ndarray) -> np.ndarray:
  """Normals `[H, W, 3]` in the usual colours, `[H, W, 3]` uint8: red to the right, green up, blue to the viewer."""
  right, into, up = np.moveaxis(normal, -1, 0)
  return np.rint((np.stack([right, up, -into], axis=-1) + 1) * 127.5).astype(np.uint8)


def _mesh(pixels: np.ndarray, maps: FaceMaps) -> np.ndarray:
  """Where the face was fitted, over the photo: its landmarks, triangulated, and where a detector saw them."""
  from scipy.spatial import Delaunay  # a third of a second, which only pages need

  picture = np.ascontiguousarray(pixels // 2)
  width = max(1, round(len(pixels) / _CELL_SIDE))
  if len(maps.landmarks) >= 4:
    corners = maps.landmarks[Delaunay(maps.landmarks).simplices]
    cv2.polylines(picture, list(np.rint(corners * 16).astype(np.int32)), True, _MESH_COLOR, width, cv2.LINE_AA, 4)
  for x, y in np.rint(maps.detected * 16).astype(int):
    cv2.circle(picture, (x, y), 16 * width, _DETECTED_COLOR, -1, cv2.LINE_AA, 4)
  return picture


def _labels(maps: FaceMaps) -> np.ndarray:
  """The labels in colours, shaded by the rendered normals as if lit by a lamp at the camera."""
  colors = np.zeros((max(Label) + 1, 3), np.float32)
  for label, color in _LABEL_COLORS.items():
    colors[label] = color
  facing = np.maximum(-maps.normal[..., 1:2], 0)
  return (colors[maps.label] * (0.3 + 0.7 * facing)).astype(np.uint8)
