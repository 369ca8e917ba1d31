"""Faces in a photo: what is known of each, the square that the networks expect, and what a face finder can do."""

from typing import NamedTuple, Protocol

import numpy as np

from dpr_jax.portrait.canonical_face import mirrored_landmarks

SMALLEST_FACE = 24  # pixels; a smaller one has no shading to change

# MediaPipe's 478 landmarks. Left and right as seen in the picture.
LEFT_EYE = [33, 7, 163, 144, 145, 153, 154, 155, 133, 173, 157, 158, 159, 160, 161, 246]
RIGHT_EYE = [362, 382, 381, 380, 374, 373, 390, 249, 263, 466, 388, 387, 386, 385, 384, 398]
MOUTH_CORNERS = [61, 291]
# The face's outline, from the middle of the forehead around.
OVAL = [
  *(10, 338, 297, 332, 284, 251, 389, 356, 454, 323, 361, 288, 397, 365, 379, 378, 400, 377),
  *(152, 148, 176, 149, 150, 136, 172, 58, 132, 93, 234, 127, 162, 21, 54, 103, 67, 109),
]  # fmt: skip


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


def mirror_image(face: Face, width: int) -> Face:
  """A face as it lies in the mirror image of its photo, which is `width` pixels wide; its own inverse."""
  partner = mirrored_landmarks()
  landmarks = face.landmarks[partner] * (-1, 1) + (width, 0)
  return Face(landmarks, None if face.depth is None else face.depth[partner])


class Framing(NamedTuple):
  """The upright square around a face, framed like CelebA-HQ.

  Attributes:
    matrix: `[2, 3]`, photo pixels -> pixels of the square, both from the top left corner, as landmarks count.
    roll: degrees by which the head leans clockwise in the photo.
    size: side of the square in its own pixels.
  """

  matrix: np.ndarray
  roll: float
  size: int

  @property
  def index_matrix(self) -> np.ndarray:
    """`matrix` for pixels that are counted from the middle of the first, as OpenCV counts."""
    linear, shift = self.matrix[:, :2], self.matrix[:, 2]
    return np.column_stack([linear, shift + linear @ (0.5, 0.5) - 0.5])

  @property
  def side(self) -> float:
    """The length of the square's side in pixels of the photo."""
    return self.size / float(np.sqrt(np.abs(np.linalg.det(self.matrix[:, :2]))))

  @property
  def middle(self) -> np.ndarray:
    """The middle of the square, `[2]`, in pixels of the photo."""
    return np.linalg.solve(self.matrix[:, :2], self.size / 2 - self.matrix[:, 2])


def frame_face(face: Face, size: int) -> Framing:
  """The framing of CelebA-HQ (Karras et al. 2018, appendix C), which the networks were trained on.

  Args:
    face: where eyes and mouth are.
    size: side of the square in pixels.
  """
  eyes = [face.landmarks[outline].mean(axis=0) for outline in (LEFT_EYE, RIGHT_EYE)]
  mouth = face.landmarks[MOUTH_CORNERS].mean(axis=0)
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


class FaceFinder(Protocol):
  """Looks for faces; held open for many photos, in a `with` statement. Get one from
  `face_finders.open_face_finder`.

  Attributes:
    name: one of `face_finders.FACE_FINDERS`.
  """

  name: str

  def find(self, pixels: np.ndarray) -> list[Face]:
    """All faces of a photo `[H, W, 3]`, RGB of any of `photo.PIXEL_TYPES`; from left to right."""

  def follow(self, pixels: np.ndarray, face: Face) -> Face | None:
    """A face looked for where it was a moment ago; a single look, where `find` needs many for a large picture.

    Args:
      pixels: `[H, W, 3]`, RGB, uint8 or uint16; the frame of a film after the one that `face` was found in.
      face: where it was.

    Returns:
      The face that lies over the old one best, or None if none does.
    """

  def close(self) -> None:
    """Frees what it holds."""

  def __enter__(self) -> "FaceFinder": ...

  def __exit__(self, *exception) -> None: ...


def overlap(a: np.ndarray, b: np.ndarray) -> float:
  """Intersection of two boxes over the smaller of them."""
  inner = np.minimum(a[2:], b[2:]) - np.maximum(a[:2], b[:2])
  if (inner <= 0).any():
    return 0.0
  return float(np.prod(inner) / min(np.prod(a[2:] - a[:2]), np.prod(b[2:] - b[:2])))
