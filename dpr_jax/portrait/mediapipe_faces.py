"""MediaPipe's face landmarker: 478 landmarks of every face, whatever the photo's size. Needs the extra `mediapipe`."""

from collections.abc import Iterator

import numpy as np

from dpr_jax.base.assets import asset_path
from dpr_jax.base.errors import BadInput
from dpr_jax.base.native_libraries import import_native, is_installed, missing_system_library, native_log_silenced
from dpr_jax.image.photo import to_8_bits
from dpr_jax.portrait.faces import SMALLEST_FACE, Face, mirror_image, overlap

cv2 = import_native("cv2")

# The detector looks at 128 x 128 pixels and misses faces that are under about a fifth of its picture. So it sees the
# photo whole, and again in overlapping tiles of a half and a quarter of the longer side.
_TILE_DIVISORS = (1, 2, 4)
_SMALLEST_TILE = 256
_DETECTION_SIDE = 640
# Every find is looked at twice more, alone and this much larger than its box, so that the landmarks are as precise in a
# group photo as in a portrait; the second time in a mirror, where MediaPipe sees another face: by 1.4% of the distance
# between the eyes.
_CLOSE_UP = 2.0
_MOST_FACES = 64
# MediaPipe's own default, 0.5, sees faces in curls and earrings; on the test photos 0.9 loses none.
_PRESENCE = 0.9


class MediaPipeFaceFinder:
  """MediaPipe's Face Landmarker, held open for many photos; use it in a `with` statement. See `faces.FaceFinder`.

  Raises:
    BadInput: the package `mediapipe` is not installed, or its model is not at hand (see `dpr_jax.base.assets`).
    MissingSystemLibrary: MediaPipe's own library cannot be loaded.
  """

  name = "mediapipe"

  def __init__(self):
    check_mediapipe()
    model = asset_path("face-landmarker")
    self._mediapipe = import_native("mediapipe")
    tasks = import_native("mediapipe.tasks.python")
    options = tasks.vision.FaceLandmarkerOptions(
      base_options=tasks.BaseOptions(model_asset_path=str(model)),
      num_faces=_MOST_FACES,
      min_face_presence_confidence=_PRESENCE,
    )
    self._closed = False
    with native_log_silenced():
      try:
        self._landmarker = tasks.vision.FaceLandmarker.create_from_options(options)
        self._landmarker.__class__ = quiet(type(self._landmarker))
      except OSError as error:
        raise missing_system_library("mediapipe", error) from error
      self._detect(np.zeros((64, 64, 3), np.uint8))  # its parts start, and speak, with the first picture

  def __enter__(self) -> "MediaPipeFaceFinder":
    return self

  def __exit__(self, *exception) -> None:
    self.close()

  def close(self) -> None:
    """Frees the model."""
    self._closed = True
    self._landmarker.close()

  def find(self, pixels: np.ndarray) -> list[Face]:
    """All faces of a photo `[H, W, 3]`, RGB of any of `photo.PIXEL_TYPES`; from left to right.

    If none is found, the photo is looked at once more upside down: heads may lean up to 90 degrees either way.
    """
    if self._closed:  # MediaPipe would find nothing, and not say why
      raise ValueError("this face finder is closed")
    faces = self._find(pixels)
    if not faces:
      extent = np.array(pixels.shape[1::-1])
      faces = [Face(extent - face.landmarks, face.depth) for face in self._find(pixels[::-1, ::-1])]
    return sorted(faces, key=lambda face: face.box[0])

  def follow(self, pixels: np.ndarray, face: Face) -> Face | None:
    """A face looked for where it was a moment ago; a single look, where `find` needs dozens for a large picture.

    Args:
      pixels: `[H, W, 3]`, RGB, uint8 or uint16; the frame of a film after the one that `face` was found in.
      face: where it was.

    Returns:
      The face that lies over the old one best, or None if none does.
    """
    if self._closed:
      raise ValueError("this face finder is closed")
    close = self._close_up(pixels, face)
    if close is None:  # the head may be upside down, as in `find`
      extent = np.array(pixels.shape[1::-1])
      close = self._close_up(pixels[::-1, ::-1], Face(extent - face.landmarks, face.depth))
      close = close and Face(extent - close.landmarks, close.depth)
    return close if close and overlap(close.box, face.box) > 0 else None

  def _find(self, pixels: np.ndarray) -> list[Face]:
    extent = np.array(pixels.shape[1::-1])
    found: list[Face] = []
    for left, top, side in _tiles(*pixels.shape[:2]):
      for face in self._find_in_square(pixels, left, top, side):
        start, end = np.array([left, top]), np.array([left, top]) + side
        cut_off = ((face.box[:2] < start + 1) & (start > 0)) | ((face.box[2:] > end - 1) & (end < extent))
        if not cut_off.any() and not _is_among(face, found):
          found.append(face)
    faces: list[Face] = []
    for face in found:
      face = self._close_up(pixels, face)
      if face and np.min(face.box[2:] - face.box[:2]) >= SMALLEST_FACE and not _is_among(face, faces):
        faces.append(face)
    return faces

  def _close_up(self, pixels: np.ndarray, face: Face) -> Face | None:
    """What is seen near a face, or None; the mean with what is seen in the mirror image, where that is a face, too."""
    width = pixels.shape[1]
    seen = self._look_closer(pixels, face)
    mirrored = seen and self._look_closer(pixels[:, ::-1], mirror_image(face, width))
    if not mirrored:
      return seen
    mirrored = mirror_image(mirrored, width)
    return Face((seen.landmarks + mirrored.landmarks) / 2, (seen.depth + mirrored.depth) / 2)

  def _look_closer(self, pixels: np.ndarray, face: Face) -> Face | None:
    centre, extent = (face.box[:2] + face.box[2:]) / 2, np.max(face.box[2:] - face.box[:2])
    left, top = (int(edge) for edge in np.round(centre - _CLOSE_UP / 2 * extent))
    seen = self._find_in_square(pixels, left, top, round(_CLOSE_UP * extent))
    return max(seen, key=lambda close: overlap(close.box, face.box), default=None)

  def _find_in_square(self, pixels: np.ndarray, left: int, top: int, side: int) -> list[Face]:
    """Faces inside a square of the photo, in pixels of the photo; the square may reach beyond it."""
    first = np.maximum([left, top], 0)
    part = pixels[first[1] : max(top + side, 0), first[0] : max(left + side, 0)]
    if 0 in part.shape:
      return []
    extent = np.array(part.shape[1::-1])
    scale = _DETECTION_SIDE / extent.max()
    if scale < 1:
      part = cv2.resize(part, np.maximum(1, np.round(extent * scale)).astype(int), interpolation=cv2.INTER_AREA)
    # MediaPipe counts depth away from the viewer, in widths of the picture.
    return [Face(unit[:, :2] * extent + first, -unit[:, 2] * extent[0]) for unit in self._detect(to_8_bits(part))]

  def _detect(self, image: np.ndarray) -> list[np.ndarray]:
    """Landmarks `[478, 3]` of every face in a uint8 `[H, W, 3]` image; x and y in [0, 1]."""
    image = self._mediapipe.Image(image_format=self._mediapipe.ImageFormat.SRGB, data=np.ascontiguousarray(image))
    return [np.array([(p.x, p.y, p.z) for p in face]) for face in self._landmarker.detect(image).face_landmarks]


def check_mediapipe() -> None:
  """Looks whether MediaPipe can be used, without importing it; fetches its model where that is not at hand.

  Raises:
    BadInput: the package is not installed, or the model is not at hand and cannot be fetched.
  """
  if not is_installed("mediapipe"):
    raise BadInput('--face_finder mediapipe: the package is not installed; pip install -e ".[mediapipe]"')
  asset_path("face-landmarker")


def _tiles(height: int, width: int) -> Iterator[tuple[int, int, int]]:
  """Left, top and side of the squares to search; neighbours overlap by half, so that no face is cut in all of them."""
  longer = max(height, width)
  for divisor in _TILE_DIVISORS:
    side = -(-longer // divisor)
    if divisor > 1 and side < _SMALLEST_TILE:
      return
    step = max(1, side // 2)
    for top in range(0, max(1, height - side + step), step):
      for left in range(0, max(1, width - side + step), step):
        yield left, top, side


def _is_among(face: Face, faces: list[Face]) -> bool:
  return any(overlap(face.box, other.box) > 0.5 for other in faces)


def quiet(landmarker: type) -> type:
  """MediaPipe's class, whose objects may outlive the interpreter: then the thread that would free them is gone, and
  theirs would end in a traceback.
  """
  return type(landmarker.__name__, (landmarker,), {"__del__": lambda _: None})
