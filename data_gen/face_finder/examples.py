"""What the two networks of the embedded face finder learn from, drawn anew at every step.

Portraits with MediaPipe's landmarks and rendered heads with exact ones, turned, scaled, relit, blurred, covered in
part, before backgrounds without faces.
"""

import queue
import threading
from collections.abc import Iterator, Sequence
from typing import NamedTuple

import numpy as np

from data_gen.face_finder.patterns import dead_leaves
from dpr_jax.base.native_libraries import import_native
from dpr_jax.portrait.embedded_faces import FaceSquare, face_square, warp
from dpr_jax.portrait.face_scales import CLOSE_UP, DETECTOR_SIDE, DETECTOR_STRIDE, LANDMARK_SIZE, NUM_LANDMARKS

cv2 = import_native("cv2")

CANVAS = 96  # side of the pictures that the detector learns from
_LEVELS = 4  # halvings kept of each picture, to shrink it without aliasing

# A face counts as seen by the detector between these sides in pixels; outside of the wider range it counts as none, and
# between the two as neither. A pyramid with a factor of two shows every face in the narrower range.
_SEEN = (13.5, 34.0)
_IGNORED = (8.0, 46.0)
_POSITIVE, _NEAR = 0.25, 0.5  # of the side, from the centre: cells that must say yes, and that may


class FaceExample(NamedTuple):
  """A picture of one face.

  Attributes:
    levels: of an image pyramid, each half as large: `[h, w, 3]` uint8 RGB, or `[h, w, 4]` with coverage.
    normals: `[h, w, 3]` float16 of the first level, x right, y into the scene, z up; None where light is left as it is.
    points: `[478, 3]` in pixels of the first level.
    square: of the points.
  """

  levels: list[np.ndarray]
  normals: np.ndarray | None
  points: np.ndarray
  square: FaceSquare


def face_example(pixels: np.ndarray, points: np.ndarray, normals: np.ndarray | None = None) -> FaceExample:
  """Makes an example of a picture `[H, W, 3 or 4]` and its landmarks `[478, 3]` in pixels."""
  normals = None if normals is None else normals.astype(np.float16)
  return FaceExample(pyramid(pixels), normals, points.astype(np.float32), face_square(points[:, :2]))


def pyramid(pixels: np.ndarray) -> list[np.ndarray]:
  """The picture and its halvings."""
  levels = [pixels]
  while len(levels) < _LEVELS and min(levels[-1].shape[:2]) >= 16:
    height, width = levels[-1].shape[:2]
    levels.append(cv2.resize(levels[-1], (width // 2, height // 2), interpolation=cv2.INTER_AREA))
  return levels


class LandmarkBatch(NamedTuple):
  """A step's squares for the landmark network.

  Attributes:
    luminance: `[B, 128, 128, 1]` float32.
    points: `[B, 478, 3]` float32 as `dpr_jax.portrait.face_networks.Landmarks.points`; 0 where there is no face.
    present: `[B]` float32, 1 where there is a face that the network must accept, 0 where it must not, -1 where it may.
  """

  luminance: np.ndarray
  points: np.ndarray
  present: np.ndarray


class DetectorBatch(NamedTuple):
  """A step's pictures for the detector; targets as `dpr_jax.portrait.face_networks.Proposals`.

  Attributes:
    luminance: `[B, S, S, 1]` float32.
    present: `[B, S / 8, S / 8]` float32: 1 where it must say yes, 0 where no, -1 where either.
    targets: `[B, S / 8, S / 8, 5]` float32: offset, logarithm of the side, cosine and sine of the lean.
  """

  luminance: np.ndarray
  present: np.ndarray
  targets: np.ndarray


class Examples:
  """Draws batches for either network."""

  def __init__(
    self,
    rng: np.random.Generator,
    portraits: Sequence[FaceExample],
    heads: Sequence[FaceExample],
    backgrounds: Sequence[np.ndarray],
    partner: np.ndarray,
    hard_negatives: np.ndarray | None = None,
    empty: float = 0.2,
  ):
    """Nothing is drawn yet.

    Args:
      rng: of every draw.
      portraits: photos.
      heads: rendered, with coverage.
      backgrounds: `[H, W, 3]` uint8 RGB, without faces.
      partner: `[478]`, see `mirrored_landmarks`.
      hard_negatives: `[N, 128, 128]` uint8 luminance, squares without a face that were taken for faces; or None.
      empty: share of the landmark network's squares that hold no face.
    """
    self._rng, self._portraits, self._heads, self._partner = rng, portraits, heads, partner
    self._backgrounds = [pyramid(background) for background in backgrounds]
    self._empty = empty
    self._hard_negatives = np.empty((0, 0, 0), np.uint8) if hard_negatives is None else hard_negatives

  # -------------------------------------------------------------------------------------------------------------------
  # Squares for the landmark network.

  def landmark_batch(self, size: int) -> LandmarkBatch:
    """Draws faces in their squares as a detector would leave them, and some squares without a face."""
    rng = self._rng
    batch = LandmarkBatch(
      np.empty((size, LANDMARK_SIZE, LANDMARK_SIZE, 1), np.float32),
      np.zeros((size, NUM_LANDMARKS, 3), np.float32),
      np.zeros(size, np.float32),
    )
    for i in range(size):
      if rng.random() < self._empty:
        batch.luminance[i, ..., 0] = self._no_face()
      else:
        batch.luminance[i, ..., 0], batch.points[i], batch.present[i] = self._face_in_its_square()
    return batch

  def _face_in_its_square(self) -> tuple[np.ndarray, np.ndarray, float]:
    rng = self._rng
    example = self._draw_face(0.55)
    # A detector leaves a square that is off by a fifth; the second look one that is off by little.
    first = rng.random() < 0.5
    spread = np.array([0.10, 0.10, 12.0]) if first else np.array([0.02, 0.02, 3.0])
    off = rng.normal(0, spread[0], 2) * example.square.side
    side = example.square.side * np.exp(np.clip(rng.normal(0, spread[1]), -0.35, 0.35))
    roll = example.square.roll + np.clip(rng.normal(0, spread[2]), -40, 40)
    square = FaceSquare(example.square.centre + np.clip(off, -0.25 * side, 0.25 * side), side, roll)
    matrix = square.crop(LANDMARK_SIZE)
    picture = self._picture(example, matrix, LANDMARK_SIZE)
    points = example.points.copy()
    points[:, :2] = (points[:, :2] @ matrix[:, :2].T + matrix[:, 2]) * (2 / LANDMARK_SIZE) - 1
    points[:, 2] *= 2 / (CLOSE_UP * side)
    if rng.random() < 0.5:
      picture, points = picture[:, ::-1], points[self._partner] * (-1, 1, 1)
    return self._developed(picture, coarsest=0.22), points, 1.0

  def _no_face(self) -> np.ndarray:
    rng = self._rng
    if len(self._hard_negatives) and rng.random() < 0.6:
      square = self._hard_negatives[rng.integers(len(self._hard_negatives))].astype(np.float32) / 255
      return self._developed(square[:, ::-1] if rng.random() < 0.5 else square, coarsest=0.5)
    if rng.random() < 0.25:  # a part of a face
      example = self._draw_face(0.8)
      angle, far = rng.uniform(0, 360), rng.uniform(0.65, 1.3) * example.square.side
      side = example.square.side * np.exp(rng.uniform(-1.2, 0.3))
      square = FaceSquare(example.square.centre + far * _direction(angle), side, rng.uniform(-90, 90))
      return self._developed(self._picture(example, square.crop(LANDMARK_SIZE), LANDMARK_SIZE), coarsest=0.22)
    return self._developed(self._background(LANDMARK_SIZE), coarsest=0.15)

  # -------------------------------------------------------------------------------------------------------------------
  # Pictures for the detector.

  def detector_batch(self, size: int) -> DetectorBatch:
    """Draws pictures with faces of many sizes, and some without."""
    cells = CANVAS // DETECTOR_STRIDE
    batch = DetectorBatch(
      np.empty((size, CANVAS, CANVAS, 1), np.float32),
      np.zeros((size, cells, cells), np.float32),
      np.zeros((size, cells, cells, 5), np.float32),
    )
    for i in range(size):
      batch.luminance[i, ..., 0] = self._scene(batch.present[i], batch.targets[i])
    return batch

  def _scene(self, present: np.ndarray, targets: np.ndarray) -> np.ndarray:
    rng = self._rng
    picture, placed = self._background(CANVAS), []
    for number in range(rng.choice(4, p=[0.2, 0.45, 0.2, 0.15])):
      side = np.exp(rng.uniform(np.log(_SEEN[0]), np.log(_SEEN[1])) if rng.random() < 0.8 else rng.uniform(2.0, 4.5))
      roll = rng.normal(0, 22) if rng.random() < 0.75 else rng.uniform(-80, 80)
      centre = rng.uniform(-0.1 * side, CANVAS + 0.1 * side, 2)
      if any(np.abs(centre - other).max() < 0.8 * (side + size) for other, size in placed):
        continue
      example = self._draw_face(0.7)
      # The square as it lies in the photo, and where it comes to lie in the picture.
      matrix = FaceSquare(example.square.centre, example.square.side, example.square.roll - roll).crop(
        CANVAS, margin=CANVAS / side
      )
      matrix[:, 2] += centre - CANVAS / 2
      if mirrored := rng.random() < 0.5:
        matrix[0] = -matrix[0] + (0, 0, 2 * centre[0])
      picture = self._picture(example, matrix, CANVAS, behind=picture, fill=number == 0 and rng.random() < 0.3)
      placed.append((centre, side))
      _mark(present, targets, centre, side, -roll if mirrored else roll)
    return self._developed(picture, coarsest=0.5)

  # -------------------------------------------------------------------------------------------------------------------
  # Pictures.

  def _draw_face(self, portraits: float) -> FaceExample:
    rng = self._rng
    group = self._portraits if not self._heads or rng.random() < portraits else self._heads
    return group[rng.integers(len(group))]

  def _picture(
    self, example: FaceExample, matrix: np.ndarray, size: int, behind: np.ndarray | None = None, fill: bool = False
  ) -> np.ndarray:
    """A face, relit, seen through a matrix, before a background; luminance `[S, S]` in [0, 1]."""
    rng = self._rng
    scale = np.sqrt(abs(np.linalg.det(matrix[:, :2])))
    level = int(np.clip(np.floor(-np.log2(max(scale, 1e-6)) + 0.3), 0, len(example.levels) - 1))
    pixels = example.levels[level]
    to_level = matrix.copy()
    to_level[:, :2] *= 2.0**level
    has_coverage = pixels.shape[2] == 4
    whole = fill or (behind is None and not has_coverage and rng.random() < 0.7)
    border = cv2.BORDER_REPLICATE if whole and not has_coverage else cv2.BORDER_CONSTANT
    drawn = warp(pixels, to_level, size, border).astype(np.float32) / 255
    picture = np.clip(drawn[..., :3] @ _luminance_weights(rng), 0, 1)
    if example.normals is not None and rng.random() < 0.5:
      normals = warp(example.normals.astype(np.float32), matrix, size, border)
      picture = _relit(rng, picture, normals)
    if whole and not has_coverage:
      return picture
    if behind is None:
      behind = self._background(size)
    coverage = drawn[..., 3] if has_coverage else self._cut_out(example, matrix, size)
    return picture * coverage + behind * (1 - coverage)

  def _cut_out(self, example: FaceExample, matrix: np.ndarray, size: int) -> np.ndarray:
    """Coverage `[S, S]` of a photo: all of it, or an oval around the head, so that no straight edge betrays a face."""
    rng = self._rng
    coverage = warp(np.ones(example.levels[0].shape[:2], np.float32), matrix, size)
    if rng.random() < 0.3:
      return coverage
    scale = np.sqrt(abs(np.linalg.det(matrix[:, :2]))) * example.square.side
    up = matrix[:, :2] @ _direction(example.square.roll - 90)
    middle = matrix[:, :2] @ example.square.centre + matrix[:, 2] + 0.12 * scale * up / np.linalg.norm(up)
    axes = scale * rng.uniform((0.52, 0.62), (0.8, 0.9))
    oval = np.zeros((size, size), np.float32)
    angle = float(np.degrees(np.arctan2(up[1], up[0]))) + 90
    cv2.ellipse(oval, (tuple(middle.tolist()), tuple((2 * axes).tolist()), angle), 1.0, -1)
    return coverage * cv2.GaussianBlur(oval, (0, 0), max(0.3, 0.03 * scale))

  def _background(self, size: int) -> np.ndarray:
    """Luminance `[S, S]` in [0, 1] without a face."""
    rng = self._rng
    kind = rng.random()
    if kind < 0.12 or not self._backgrounds:
      return dead_leaves(rng, size, size)
    if kind < 0.2:
      ramp = np.linspace(rng.uniform(), rng.uniform(), size, dtype=np.float32)
      return np.broadcast_to(ramp[:, None] if rng.random() < 0.5 else ramp, (size, size)).copy()
    levels = self._backgrounds[rng.integers(len(self._backgrounds))]
    pixels = levels[min(int(rng.integers(len(levels))), int(rng.integers(len(levels))))]
    height, width = pixels.shape[:2]
    side = min(size * np.exp(rng.uniform(-1.0, 0.35)), height, width)
    centre = rng.uniform(side / 2, np.maximum((width, height), side) - side / 2 + 1e-3)
    square = FaceSquare(centre, side, rng.choice((0.0, rng.normal(0, 20), rng.uniform(-180, 180)), p=(0.5, 0.3, 0.2)))
    drawn = warp(pixels, square.crop(size, margin=1.0), size, cv2.BORDER_REFLECT_101).astype(np.float32) / 255
    return np.clip(drawn @ _luminance_weights(rng), 0, 1)

  def _developed(self, picture: np.ndarray, coarsest: float) -> np.ndarray:
    """What exposure, optics, compression and things in front do to a picture `[S, S]` in [0, 1]."""
    rng, size = self._rng, len(picture)
    picture = np.ascontiguousarray(picture, np.float32)
    if rng.random() < 0.2:
      picture = self._covered(picture)
    if rng.random() < 0.5:
      picture = np.clip(picture, 0, 1) ** np.exp(rng.normal(0, 0.4))
    if rng.random() < 0.15:
      direction = rng.uniform(-1, 1, 2)
      y, x = np.mgrid[-1 : 1 : size * 1j, -1 : 1 : size * 1j]
      picture = picture * np.clip(0.7 + 0.5 * (direction[0] * x + direction[1] * y), 0.05, 1.5).astype(np.float32)
    if rng.random() < 0.5:
      picture = np.clip((picture - 0.5) * np.exp(rng.normal(0, 0.3)) + 0.5 + rng.normal(0, 0.08), 0, 1)
    if rng.random() < 0.4:
      small = max(8, round(size * np.exp(rng.uniform(np.log(coarsest), 0))))
      way = (cv2.INTER_AREA, cv2.INTER_LINEAR, cv2.INTER_CUBIC)
      picture = cv2.resize(picture, (small, small), interpolation=way[rng.integers(2)])
      picture = cv2.resize(picture, (size, size), interpolation=way[1 + rng.integers(2)])
    elif rng.random() < 0.2:
      picture = cv2.GaussianBlur(picture, (0, 0), rng.uniform(0.4, size / 60))
    if rng.random() < 0.4:
      noise = rng.standard_normal(picture.shape, np.float32) * rng.uniform(0, 0.07)
      picture = picture + (cv2.GaussianBlur(noise, (0, 0), 0.7) * 1.6 if rng.random() < 0.4 else noise)
    picture = np.clip(picture, 0, 1)
    if rng.random() < 0.25:
      quality = [cv2.IMWRITE_JPEG_QUALITY, int(rng.integers(15, 90))]
      _, coded = cv2.imencode(".jpg", np.round(picture * 255).astype(np.uint8), quality)
      picture = cv2.imdecode(coded, cv2.IMREAD_GRAYSCALE).astype(np.float32) / 255
    return picture

  def _covered(self, picture: np.ndarray) -> np.ndarray:
    rng, size = self._rng, len(picture)
    cover = np.zeros(picture.shape, np.uint8)
    centre = tuple(int(place) for place in rng.uniform(0.1, 0.9, 2) * size)
    axes = tuple(int(axis) for axis in rng.uniform(0.06, 0.28, 2) * size)
    if rng.random() < 0.5:
      cv2.ellipse(cover, centre, axes, rng.uniform(0, 180), 0, 360, 1, -1)
    else:
      box = cv2.boxPoints((centre, axes, float(rng.uniform(0, 90))))
      cv2.fillConvexPoly(cover, np.round(box).astype(np.int32), 1)
    over = self._background(size) if rng.random() < 0.6 else np.full(picture.shape, rng.uniform(), np.float32)
    return np.where(cover > 0, over, picture)


def _mark(present: np.ndarray, targets: np.ndarray, centre: np.ndarray, side: float, roll: float) -> None:
  """Writes a face into the targets of the detector, `[h, w]` and `[h, w, 5]`."""
  cells = (np.arange(len(present)) + 0.5) * DETECTOR_STRIDE
  offset = np.stack(
    [np.broadcast_to(centre[0] - cells, present.shape), np.broadcast_to((centre[1] - cells)[:, None], present.shape)],
    axis=-1,
  )
  distance = np.linalg.norm(offset, axis=-1)
  radius = max(side, _SEEN[0])
  if not _IGNORED[0] <= side <= _IGNORED[1]:
    if side < _IGNORED[0]:
      present[(distance < 0.5 * radius) & (present == 0)] = -1
    return
  present[(distance < _NEAR * radius) & (present != 1)] = -1
  if _SEEN[0] <= side <= _SEEN[1]:
    near = distance < max(_POSITIVE * side, 0.71 * DETECTOR_STRIDE)
    present[near] = 1
    targets[near, :2] = offset[near] / DETECTOR_SIDE
    targets[near, 2] = np.log(side / DETECTOR_SIDE)
    targets[near, 3:] = np.cos(np.radians(roll)), np.sin(np.radians(roll))


def _direction(degrees: float) -> np.ndarray:
  return np.array([np.cos(np.radians(degrees)), np.sin(np.radians(degrees))])


def _luminance_weights(rng: np.random.Generator) -> np.ndarray:
  """How a film or a camera of another kind sees colours; the usual weights on average."""
  weights = np.array([0.299, 0.587, 0.114]) * np.exp(rng.normal(0, 0.35, 3))
  return (weights / weights.sum()).astype(np.float32)


def _relit(rng: np.random.Generator, picture: np.ndarray, normals: np.ndarray) -> np.ndarray:
  """The ratio image under a lamp and a little fill, in linear light; the photo's own light is taken as even."""
  lamp = rng.normal(0, 1, 3) * (1, 0.6, 0.8) - (0, 0.7, -0.2)
  lamp /= np.linalg.norm(lamp)
  fill = np.exp(rng.uniform(np.log(0.03), np.log(0.6)))
  shading = fill + (1 - fill) * np.maximum(normals @ lamp.astype(np.float32), 0) * rng.uniform(1.0, 1.8)
  even = 0.45 + 0.55 * np.maximum(-normals[..., 1], 0)
  return np.clip(picture * (shading / even) ** (1 / 2.2), 0, 1).astype(np.float32)


def in_background(batches: Iterator, ahead: int = 4) -> Iterator:
  """Draws in a thread of its own while the network learns; the order, and so every number, stays the same.

  What goes wrong while a batch is drawn is raised where that batch is asked for.
  """
  waiting: queue.Queue = queue.Queue(ahead)
  end = object()

  def draw() -> None:
    try:
      for batch in batches:
        waiting.put(batch)
      waiting.put(end)
    except Exception as error:
      waiting.put(error)

  threading.Thread(target=draw, daemon=True).start()
  for batch in iter(waiting.get, end):
    if isinstance(batch, Exception):
      raise batch
    yield batch
