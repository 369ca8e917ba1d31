"""Faces in a photo without anything but this package: two small networks of our own, taught by MediaPipe and heads."""

import functools
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

import dpr_jax
from dpr_jax.base.cpu import compiler_options
from dpr_jax.base.errors import BadInput
from dpr_jax.base.native_libraries import import_native
from dpr_jax.image.photo import to_8_bits
from dpr_jax.network import traced
from dpr_jax.network.weights import check_finite, check_structure, read_archive
from dpr_jax.portrait.face_scales import CLOSE_UP, DETECTOR_SIDE, DETECTOR_STRIDE, LANDMARK_SIZE, NUM_LANDMARKS
from dpr_jax.portrait.faces import SMALLEST_FACE, Face, frame_face, overlap

cv2 = import_native("cv2")

WEIGHTS = Path(dpr_jax.__file__).with_name("weights") / "face_finder.npz"

# The detector sees the photo at these longer sides: the smallest that leaves a face of 40 pixels its 14 pixels or more.
_SIDES = (160, 320, 480, 640, 960, 1280, 1920, 2560)
_LEAST_SCALE = 0.36
# Between the pictures of the pyramid, which share one canvas, and around the canvas, so that few shapes are compiled.
_GAP = 8
_CANVAS_STEPS = (32, 64)
# Log odds.
_PROPOSED = -0.7
# After the first look, whose square may be off, and after the last. On the test photos and held-out portraits faces
# have 0.3 and more after the first; after the last 5.4 and more, and everything else at most -0.2.
_DOUBTED, _PRESENT = -2.0, 2.5
# So many proposals are looked at in any case, and beyond them those with even odds or better.
_DOUBTFUL_PROPOSALS, _MOST_PROPOSALS = 16, 128
# Cells speak of the same face if their centres differ by less than this of its side, and the logarithms of the sides by
# less than that. What is much smaller may be a face in what only looks like a larger one.
_SAME_CENTRE, _SAME_LOG_SIDE = 0.45, 0.5
_SAME = 0.5  # overlap of boxes, of the smaller one, from which on two finds are one face
# Of the last look: the scale of the square, and whether its mirror image is looked at.
_VIEWS = ((0.93, False), (0.93, True), (1.07, False), (1.07, True))
_BATCHES = (1, 2, 4, 8, 12, 16)


class FaceSquare(NamedTuple):
  """The upright square that the landmarks of a face just fit into.

  Attributes:
    centre: `[2]`, x and y in pixels of the photo, from its top left corner.
    side: in the same pixels.
    roll: degrees by which the head leans clockwise in the photo, like `Framing.roll`.
  """

  centre: np.ndarray
  side: float
  roll: float

  @property
  def box(self) -> np.ndarray:
    """`[4]`: left, top, right, bottom of the square, as if it did not lean."""
    return np.concatenate([self.centre - self.side / 2, self.centre + self.side / 2])

  def crop(self, size: int, *, margin: float = CLOSE_UP) -> np.ndarray:
    """`[2, 3]`: photo -> a picture of `size` pixels a side that shows `margin` times the square, upright.

    Both sides count from the corners of the first pixel.
    """
    return _turned(self.roll, size / (margin * self.side), self.centre, size / 2)


def face_square(landmarks: np.ndarray) -> FaceSquare:
  """The square of landmarks `[478, 2]`, in pixels of the photo."""
  roll = frame_face(Face(landmarks), 1).roll
  upright = _turned(roll, 1.0, np.zeros(2), 0.0)[:, :2]
  turned = landmarks @ upright.T
  low, high = turned.min(axis=0), turned.max(axis=0)
  return FaceSquare((low + high) / 2 @ upright, float(np.max(high - low)), roll)


def _turned(roll: float, scale: float, centre: np.ndarray, place: float) -> np.ndarray:
  """`[2, 3]`: turns counterclockwise by `roll` degrees, scales, and moves `centre` to (`place`, `place`)."""
  cosine, sine = scale * np.cos(np.radians(roll)), scale * np.sin(np.radians(roll))
  linear = np.array([[cosine, sine], [-sine, cosine]])
  return np.column_stack([linear, place - linear @ centre])


def warp(picture: np.ndarray, matrix: np.ndarray, size: int, border: int = cv2.BORDER_CONSTANT, value=0) -> np.ndarray:
  """A picture seen through a matrix whose both sides count from the corners of the first pixel."""
  shifted = matrix.copy()
  shifted[:, 2] += 0.5 * (matrix[:, 0] + matrix[:, 1]) - 0.5  # OpenCV counts from the centres
  return cv2.warpAffine(picture, shifted, (size, size), flags=cv2.INTER_LINEAR, borderMode=border, borderValue=value)


class EmbeddedFaceFinder:
  """The face finder that comes with this package; use it in a `with` statement, like MediaPipe's.

  Attributes:
    name: "embedded".
  """

  name = "embedded"

  def __init__(self, weights: Path | dict = WEIGHTS):
    """Reads the weights.

    Args:
      weights: an archive that `python train_face_finder.py` wrote, or what `read_weights` made of one.

    Raises:
      BadInput: no such file, or not the weights of these networks.
    """
    self._variables = weights if isinstance(weights, dict) else read_weights(weights)
    self._closed = False

  def __enter__(self) -> "EmbeddedFaceFinder":
    return self

  def __exit__(self, *exception) -> None:
    self.close()

  def close(self) -> None:
    """Frees the weights."""
    self._closed, self._variables = True, None

  def find(self, pixels: np.ndarray) -> list[Face]:
    """All faces of a photo `[H, W, 3]`, RGB of any of `photo.PIXEL_TYPES`; from left to right.

    If none is found, the photo is looked at once more upside down and from either side: heads may lie any way.
    """
    picture = self._luminance(pixels)
    for quarters in (0, 2, 1, 3):
      faces = [_turned_back(face, picture.shape, quarters) for face in self._find(np.rot90(picture, quarters))]
      if faces:
        break
    return sorted(faces, key=lambda face: face.box[0])

  def follow(self, pixels: np.ndarray, face: Face) -> Face | None:
    """A face looked for where it was a moment ago, without a search.

    Args:
      pixels: `[H, W, 3]`, RGB, uint8 or uint16; the frame of a film after the one that `face` was found in.
      face: where it was.

    Returns:
      The face that lies over the old one, or None if none does.
    """
    picture = self._luminance(pixels)
    for found in self._confirm(picture, self._doubted(picture, [face_square(face.landmarks)])):
      if found and overlap(found.box, face.box) > 0:
        return found
    return None

  def _luminance(self, pixels: np.ndarray) -> np.ndarray:
    if self._closed:
      raise ValueError("this face finder is closed")
    return cv2.cvtColor(to_8_bits(pixels), cv2.COLOR_RGB2GRAY)

  def _find(self, picture: np.ndarray) -> list[Face]:
    """Faces of a picture `[H, W]` uint8, heads more or less upright."""
    faces: list[Face] = []
    waiting = self._doubted(picture, detector_squares(self._variables["detector"], picture))
    while waiting:
      # Several proposals may have led to one face: the others are looked at again only if the first comes to nothing.
      apart: list[FaceSquare] = []
      for square in waiting:
        if not _is_among(square.box, apart):
          apart.append(square)
      for face in self._confirm(picture, apart):
        if face and np.min(face.box[2:] - face.box[:2]) >= SMALLEST_FACE and not _is_among(face.box, faces):
          faces.append(face)
      done = {id(square) for square in apart}
      waiting = [square for square in waiting if id(square) not in done and not _is_among(square.box, faces)]
    return faces

  def _doubted(self, picture: np.ndarray, squares: Sequence[FaceSquare]) -> list[FaceSquare]:
    """Where a first look has put the faces of the squares, without those that are surely none."""
    return [face_square(points[:, :2]) for points, logit in self.look(picture, squares) if logit >= _DOUBTED]

  def _confirm(self, picture: np.ndarray, squares: Sequence[FaceSquare]) -> list[Face | None]:
    """The face in each square that fits one, looked at closely; None where there is none."""
    # A little nearer and a little farther, and either in a mirror: the mean is more precise than a single answer.
    scaled = [square._replace(side=square.side * scale) for square in squares for scale, _ in _VIEWS]
    mirrored = [in_mirror for _ in squares for _, in_mirror in _VIEWS]
    faces: list[Face | None] = []
    for answers in _chunks(list(self.look(picture, scaled, mirrored)), len(_VIEWS)):
      points = np.mean([points for points, _ in answers], axis=0)
      present = np.mean([logit for _, logit in answers]) >= _PRESENT
      faces.append(Face(points[:, :2], points[:, 2]) if present else None)
    return faces

  def look(
    self, picture: np.ndarray, squares: Sequence[FaceSquare], mirrored: Sequence[bool] | None = None
  ) -> Iterator[tuple[np.ndarray, float]]:
    """What the landmark network says of each square.

    Args:
      picture: `[H, W]` uint8 luminance, sRGB-encoded.
      squares: where to look.
      mirrored: of each square, whether the network is shown its mirror image; None: of none.

    Returns:
      Landmarks `[478, 3]` in pixels of the picture, and the log odds that they are a face's.
    """
    mirrored = [False] * len(squares) if mirrored is None else mirrored
    for chunk in _chunks(list(zip(squares, mirrored, strict=True)), _BATCHES[-1]):
      count = next(count for count in _BATCHES if count >= len(chunk))
      crops = np.zeros((count, LANDMARK_SIZE, LANDMARK_SIZE), np.uint8)
      matrices = [square.crop(LANDMARK_SIZE) for square, _ in chunk]
      for crop, matrix, (_, in_mirror) in zip(crops, matrices, chunk, strict=False):
        crop[:] = shrunk(picture, matrix, LANDMARK_SIZE)[:, :: -1 if in_mirror else 1]
      seen = _run(_run_landmarker, self._variables["landmarker"], crops)
      answers = (np.asarray(each, np.float64) for each in seen)
      for matrix, (square, in_mirror), points, logit in zip(matrices, chunk, *answers, strict=False):
        if in_mirror:
          points = points[self._variables["partner"]] * (-1, 1, 1)
        half = CLOSE_UP * square.side / 2
        plane = (points[:, :2] + 1) * LANDMARK_SIZE / 2
        linear = np.linalg.inv(matrix[:, :2])
        yield np.column_stack([(plane - matrix[:, 2]) @ linear.T, points[:, 2] * half]), float(logit)


def detector_squares(variables, picture: np.ndarray) -> list[FaceSquare]:
  """Squares of a picture that may hold a face, the likeliest first, none over another.

  Args:
    variables: of a `FaceDetector`.
    picture: `[H, W]` uint8 luminance, sRGB-encoded, heads more or less upright.
  """
  canvas, places = _pyramid(picture)
  answer = np.asarray(_run(_run_detector, variables, canvas))
  cells = []
  for scale, (left, top, width, height) in places:
    rows = slice(top // DETECTOR_STRIDE, -(-(top + height) // DETECTOR_STRIDE))
    columns = slice(left // DETECTOR_STRIDE, -(-(left + width) // DETECTOR_STRIDE))
    part = answer[rows, columns]
    row, column = np.nonzero(part[..., 0] > _PROPOSED)
    logit, x, y, log_side, cosine, sine = part[row, column].astype(np.float64).T
    x = ((column + 0.5) * DETECTOR_STRIDE + x * DETECTOR_SIDE) / scale
    y = ((row + 0.5) * DETECTOR_STRIDE + y * DETECTOR_SIDE) / scale
    cells.append(np.stack([logit, x, y, log_side + np.log(DETECTOR_SIDE / scale), cosine, sine], axis=-1))
  return _blended(np.concatenate(cells))


def _blended(cells: np.ndarray) -> list[FaceSquare]:
  """One square for all cells that speak of the same face: their mean, weighted by the odds that each gives.

  Args:
    cells: `[N, 6]`: log odds, centre and logarithm of the side in pixels, cosine and sine of the lean.
  """
  squares: list[FaceSquare] = []
  cells = cells[np.argsort(-cells[:, 0], kind="stable")]
  while len(cells) and len(squares) < (_DOUBTFUL_PROPOSALS if cells[0, 0] < 0 else _MOST_PROPOSALS):
    same = (np.abs(cells[:, 1:3] - cells[0, 1:3]).max(axis=1) < _SAME_CENTRE * np.exp(cells[0, 3])) & (
      np.abs(cells[:, 3] - cells[0, 3]) < _SAME_LOG_SIDE
    )
    alike = cells[same]
    _, x, y, log_side, cosine, sine = np.average(alike, axis=0, weights=np.exp(alike[:, 0]))
    squares.append(FaceSquare(np.array([x, y]), float(np.exp(log_side)), float(np.degrees(np.arctan2(sine, cosine)))))
    cells = cells[~same]
  return squares


def shrunk(picture: np.ndarray, matrix: np.ndarray, size: int) -> np.ndarray:
  """`warp`, of a picture halved first as often as it would be sampled too thinly otherwise."""
  scale = float(np.sqrt(np.linalg.det(matrix[:, :2])))
  if scale > 0.6:
    return warp(picture, matrix, size)
  # Only what the square shows, with the pixels around it that the halving needs.
  corners = (np.array([[0, 0], [size, 0], [0, size], [size, size]]) - matrix[:, 2]) @ np.linalg.inv(matrix[:, :2]).T
  extent = np.array(picture.shape[1::-1])
  low = np.clip(np.floor(corners.min(axis=0)) - 4, 0, extent - 1).astype(int)
  high = np.clip(np.ceil(corners.max(axis=0)) + 4, low + 1, extent).astype(int)
  part = picture[low[1] : high[1], low[0] : high[0]]
  smaller = np.maximum(1, np.round(np.array(part.shape[1::-1]) * scale)).astype(int)
  part = cv2.resize(part, smaller, interpolation=cv2.INTER_AREA)
  moved = matrix.copy()
  moved[:, 2] += matrix[:, :2] @ low
  moved[:, :2] *= (high - low) / smaller
  return warp(part, moved, size)


def _pyramid(picture: np.ndarray) -> tuple[np.ndarray, list[tuple[float, tuple[int, int, int, int]]]]:
  """The picture at half of each former size on one canvas: what is large in one is small in the next.

  Returns:
    canvas: `[h, w]` uint8, gray between the pictures.
    places: of each picture its scale, and left, top, width, height on the canvas.
  """
  height, width = picture.shape
  longer = max(height, width)
  side = min(longer, next((side for side in _SIDES if side >= _LEAST_SCALE * longer), _SIDES[-1]))
  levels = []
  while not levels or max(levels[-1].shape) >= 2 * DETECTOR_SIDE:
    size = np.maximum(1, np.round(np.array([width, height]) * side / longer)).astype(int)
    levels.append(cv2.resize(levels[-1] if levels else picture, size, interpolation=cv2.INTER_AREA))
    side /= 2
  places, left, top = [], 0, 0
  for level in levels:
    places.append((max(level.shape) / longer, (left, top, level.shape[1], level.shape[0])))
    if left == 0:
      left = _rounded_up(level.shape[1] + _GAP, DETECTOR_STRIDE)
    else:
      top = _rounded_up(top + level.shape[0] + _GAP, DETECTOR_STRIDE)
  step = _CANVAS_STEPS[max(levels[0].shape) >= 480]
  right = max(x + w for _, (x, _, w, _) in places)
  bottom = max(y + h for _, (_, y, _, h) in places)
  canvas = np.full((_rounded_up(bottom, step), _rounded_up(right, step)), 128, np.uint8)
  for level, (_, (x, y, w, h)) in zip(levels, places, strict=True):
    canvas[y : y + h, x : x + w] = level
  return canvas, places


def _rounded_up(value: int, step: int) -> int:
  return -(-value // step) * step


def _chunks(items: Sequence, size: int) -> Iterator[Sequence]:
  for start in range(0, len(items), size):
    yield items[start : start + size]


def _is_among(box: np.ndarray, others: Sequence[Face | FaceSquare]) -> bool:
  return any(overlap(box, other.box) > _SAME for other in others)


def _turned_back(face: Face, shape: tuple[int, int], quarters: int) -> Face:
  """A face in the picture as it was before `np.rot90` turned it counterclockwise; `shape` is that picture's."""
  height, width = shape
  x, y = face.landmarks.T
  back = {0: (x, y), 1: (width - y, x), 2: (width - x, height - y), 3: (y, height - x)}[quarters]
  return Face(np.stack(back, axis=-1), face.depth)


def _run_detector(variables, canvas: jax.Array) -> jax.Array:
  """What the detector says of a canvas `[h, w]` uint8: `[h / 8, w / 8, 6]`."""
  from dpr_jax.portrait.face_networks import FaceDetector  # with Flax, which what is traced already does without

  proposals = FaceDetector().apply(variables, canvas[None, ..., None].astype(jnp.float32) / 255)
  parts = (proposals.logit[..., None], proposals.offset, proposals.log_side[..., None], proposals.direction)
  return jnp.concatenate(parts, axis=-1)[0]


def _run_landmarker(variables, crops: jax.Array) -> tuple[jax.Array, jax.Array]:
  """What the landmark network says of crops `[N, 128, 128]` uint8: `[N, 478, 3]` and `[N]`, as `Landmarks`."""
  from dpr_jax.portrait.face_networks import FaceLandmarker

  return tuple(FaceLandmarker().apply(variables, crops[..., None].astype(jnp.float32) / 255))


def _run(network: Callable, variables, pixels: np.ndarray, **static):
  """One of the above, traced and compiled once."""
  return traced.call(network, variables, pixels, compiler_options=_compiler_options(), **static)


# Not on import, since it asks for the devices.
_compiler_options = functools.cache(compiler_options)


@functools.cache
def read_weights(path: Path):
  """What the finder needs of an archive: `{"detector", "landmarker"}`, the variables of the networks, and `"partner"`.

  `partner` is `[478]` int32, the number that each landmark has in the mirror image of a face.

  Raises:
    BadInput: no such file, or not the weights of these networks.
  """
  if not path.is_file():
    raise BadInput(f"{path}: the face finder's weights are missing; is the package installed as a whole?")
  variables = read_archive(path)
  if path != WEIGHTS:  # a test holds those of the package to this: tracing both networks takes most of a second
    check_structure(variables, jax.eval_shape(initial_variables, jax.random.key(0)), path)
  check_finite(variables, path)
  partner = variables["partner"].astype(np.int32)
  if (np.sort(partner) != np.arange(NUM_LANDMARKS)).any():
    raise BadInput(f"{path}: 'partner' does not number {NUM_LANDMARKS} landmarks")
  return {**jax.device_put({name: variables[name] for name in ("detector", "landmarker")}), "partner": partner}


def initial_variables(key: jax.Array):
  """Untrained weights of both networks, in the structure that `read_weights` reads."""
  from dpr_jax.portrait.face_networks import FaceDetector, FaceLandmarker

  keys, side = jax.random.split(key), DETECTOR_STRIDE
  return {
    "detector": FaceDetector().init(keys[0], jnp.zeros((1, side, side, 1))),
    "landmarker": FaceLandmarker().init(keys[1], jnp.zeros((1, LANDMARK_SIZE, LANDMARK_SIZE, 1))),
    "partner": jnp.arange(NUM_LANDMARKS, dtype=jnp.float32),
  }
