"""Faces in a photo: MediaPipe's landmarks, whatever the photo's size, and the square that the networks expect."""

import contextlib
import os
from collections.abc import Iterator
from typing import NamedTuple

import numpy as np

from dpr_jax.assets import asset_path
from dpr_jax.native_libraries import import_native, missing_system_library
from dpr_jax.photo import to_8_bits

cv2 = import_native("cv2")

# MediaPipe's 478 landmarks. Left and right as seen in the picture.
_LEFT_EYE = [33, 7, 163, 144, 145, 153, 154, 155, 133, 173, 157, 158, 159, 160, 161, 246]
_RIGHT_EYE = [362, 382, 381, 380, 374, 373, 390, 249, 263, 466, 388, 387, 386, 385, 384, 398]
_MOUTH_CORNERS = [61, 291]
# The face's outline, from the middle of the forehead around.
OVAL = [
  *(10, 338, 297, 332, 284, 251, 389, 356, 454, 323, 361, 288, 397, 365, 379, 378, 400, 377),
  *(152, 148, 176, 149, 150, 136, 172, 58, 132, 93, 234, 127, 162, 21, 54, 103, 67, 109),
]  # fmt: skip

# The detector looks at 128 x 128 pixels and misses faces that are under about a fifth of its picture. So it sees the
# photo whole, and again in overlapping tiles of a half and a quarter of the longer side.
_TILE_DIVISORS = (1, 2, 4)
_SMALLEST_TILE = 256
_DETECTION_SIDE = 640
# Every find is looked at once more, alone and this much larger than its box, so that the landmarks are as precise in a
# group photo as in a portrait.
_CLOSE_UP = 2.0
_SMALLEST_FACE = 24  # pixels; a smaller one has no shading to change
_MOST_FACES = 64
# MediaPipe's own default, 0.5, sees faces in curls and earrings; on the test photos 0.9 loses none.
_PRESENCE = 0.9


class Face(NamedTuple):
  """One face.

  Attributes:
    landmarks: `[478, 2]`, x and y in pixels of the photo, from its top left corner.
    depth: `[478]`, z towards the viewer (larger is nearer) in the same pixels, from about the middle of the head, as
      MediaPipe guesses it; None for a face put together by hand.
  """

  landmarks: np.ndarray
  depth: np.ndarray | None = None

  @property
  def box(self) -> np.ndarray:
    """`[4]`: left, top, right, bottom of the landmarks, in pixels."""
    return np.concatenate([self.landmarks.min(axis=0), self.landmarks.max(axis=0)])


class Framing(NamedTuple):
  """The upright square around a face, framed like CelebA-HQ.

  Attributes:
    matrix: `[2, 3]`, photo pixels -> pixels of the square.
    roll: degrees by which the head leans clockwise in the photo.
    size: side of the square in its own pixels.
  """

  matrix: np.ndarray
  roll: float
  size: int


def frame_face(face: Face, size: int) -> Framing:
  """The framing of CelebA-HQ (Karras et al. 2018, appendix C), which the networks were trained on.

  Args:
    face: where eyes and mouth are.
    size: side of the square in pixels.
  """
  eyes = [face.landmarks[outline].mean(axis=0) for outline in (_LEFT_EYE, _RIGHT_EYE)]
  mouth = face.landmarks[_MOUTH_CORNERS].mean(axis=0)
  between_eyes, eye_to_eye = (eyes[0] + eyes[1]) / 2, eyes[1] - eyes[0]
  eye_to_mouth = mouth - between_eyes
  right = eye_to_eye + np.array([eye_to_mouth[1], -eye_to_mouth[0]])
  right /= np.hypot(*right)
  down = np.array([-right[1], right[0]])
  half_side = max(2.0 * np.hypot(*eye_to_eye), 1.8 * np.hypot(*eye_to_mouth))
  linear = np.stack([right, down]) * (size / (2 * half_side))
  centre = between_eyes + 0.1 * eye_to_mouth
  matrix = np.column_stack([linear, size / 2 - linear @ centre])
  return Framing(matrix, float(np.degrees(np.arctan2(right[1], right[0]))), size)


class FaceFinder:
  """MediaPipe's Face Landmarker, held open for many photos; use it in a `with` statement.

  Raises:
    BadInput: its model is not at hand (see `dpr_jax.assets`).
    MissingSystemLibrary: MediaPipe's own library cannot be loaded.
  """

  def __init__(self):
    model = asset_path("face-landmarker")
    self._mediapipe = import_native("mediapipe")
    tasks = import_native("mediapipe.tasks.python")
    options = tasks.vision.FaceLandmarkerOptions(
      base_options=tasks.BaseOptions(model_asset_path=str(model)),
      num_faces=_MOST_FACES,
      min_face_presence_confidence=_PRESENCE,
    )
    self._closed = False
    with _native_log_silenced():
      try:
        self._landmarker = tasks.vision.FaceLandmarker.create_from_options(options)
      except OSError as error:
        raise missing_system_library("mediapipe", error) from error
      self._detect(np.zeros((64, 64, 3), np.uint8))  # its parts start, and speak, with the first picture

  def __enter__(self) -> "FaceFinder":
    return self

  def __exit__(self, *exception) -> None:
    self.close()

  def close(self) -> None:
    """Frees the model; MediaPipe complains if the interpreter ends before."""
    self._closed = True
    self._landmarker.close()

  def find(self, pixels: np.ndarray) -> list[Face]:
    """All faces of a photo `[H, W, 3]`, RGB, uint8 or uint16; from left to right.

    If none is found, the photo is looked at once more upside down: heads may lean up to 90 degrees either way.
    """
    if self._closed:  # MediaPipe would find nothing, and not say why
      raise ValueError("this FaceFinder is closed")
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
      raise ValueError("this FaceFinder is closed")
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
      if face and np.min(face.box[2:] - face.box[:2]) >= _SMALLEST_FACE and not _is_among(face, faces):
        faces.append(face)
    return faces

  def _close_up(self, pixels: np.ndarray, face: Face) -> Face | None:
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


def find_faces(pixels: np.ndarray) -> list[Face]:
  """`FaceFinder.find` for a single photo."""
  with FaceFinder() as finder:
    return finder.find(pixels)


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


def overlap(a: np.ndarray, b: np.ndarray) -> float:
  """Intersection of two boxes over the smaller of them."""
  inner = np.minimum(a[2:], b[2:]) - np.maximum(a[:2], b[:2])
  if (inner <= 0).any():
    return 0.0
  return float(np.prod(inner) / min(np.prod(a[2:] - a[:2]), np.prod(b[2:] - b[:2])))


def _is_among(face: Face, faces: list[Face]) -> bool:
  return any(overlap(face.box, other.box) > 0.5 for other in faces)


@contextlib.contextmanager
def _native_log_silenced() -> Iterator[None]:
  """Keeps the start-up chatter of MediaPipe's native code from the user's terminal; its errors arrive as exceptions."""
  try:
    saved = os.dup(2)
  except OSError:  # stderr is closed: nothing to silence
    yield
    return
  try:
    with open(os.devnull, "wb") as devnull:
      os.dup2(devnull.fileno(), 2)
    yield
  finally:
    os.dup2(saved, 2)
    os.close(saved)
