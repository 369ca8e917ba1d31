"""Faces followed through a film: found cheaply from frame to frame, and held still where only the detector trembles."""

import dataclasses
from typing import NamedTuple

import numpy as np

from dpr_jax.base.native_libraries import import_native
from dpr_jax.portrait.faces import Face, FaceFinder, overlap

cv2 = import_native("cv2")

# MediaPipe's landmarks of a still face tremble by some thousandths of the face's size. With these, what lies below
# 1 Hz passes; a face that moves steadily lags by less than 1 / (2 pi 10) of its size, however fast it is.
_MIN_CUTOFF = 1.0
_BETA = 10.0
# A look all over the picture costs as much as dozens of looks near a known face. Seconds of film between two of them;
# and while a face is missing.
_SEARCH_EVERY = 1.0
_SEARCH_EVERY_WHEN_LOST = 0.2
_FADE_SECONDS = 0.4
_SAME_FACE = 0.3  # of the smaller box; faces beside each other overlap less
# Mean change of a thumbnail, in gray levels, from which on a frame is taken for the first of another scene. On it the
# past says nothing.
_CUT_LEVELS = 25
_THUMBNAIL = (32, 18)
_SHORTEST_FRAME = 1e-3  # seconds; films exist whose frames have equal timestamps


class OneEuroFilter:
  """The 1 Euro filter (Casiez et al. 2012, algorithm 1): a low-pass whose cutoff rises with the speed.

  A scalar is filtered as published. Points `[..., D]` are filtered as one, by the root mean square of their speeds, so
  that they keep their places among each other; and the noise of the speed averages out.

  With cutoff = min_cutoff + beta * speed, a value that moves steadily lags by speed / (2 pi cutoff), which is less than
  1 / (2 pi beta) at any speed.

  Attributes:
    value: the filtered value after the last one given, or None.
    derivative: its filtered change in a second, or None.
  """

  def __init__(self, min_cutoff: float = _MIN_CUTOFF, beta: float = _BETA, derivative_cutoff: float = 1.0):
    """Nothing given yet.

    Args:
      min_cutoff: in Hz, of a value at rest.
      beta: Hz more for each unit of speed.
      derivative_cutoff: in Hz, of the speed.
    """
    self._min_cutoff, self._beta, self._derivative_cutoff = min_cutoff, beta, derivative_cutoff
    self.value: np.ndarray | None = None
    self.derivative: np.ndarray | None = None

  def __call__(self, value: np.ndarray, seconds: float, unit: float = 1.0) -> np.ndarray:
    """The filtered value; the first one given comes back as it is.

    Args:
      value: a number, or points `[..., D]`, always as many.
      seconds: since the last value, positive.
      unit: in which the speed is measured, e.g. the size of a face in pixels.
    """
    value = np.asarray(value, np.float64)
    if self.value is None:
      self.value, self.derivative = value, np.zeros_like(value)
      return value
    change = (value - self.value) / seconds
    self.derivative = self.derivative + _smoothing(self._derivative_cutoff, seconds) * (change - self.derivative)
    speed = np.sqrt(np.mean(np.square(np.linalg.norm(np.atleast_1d(self.derivative), axis=-1)))) / unit
    share = _smoothing(self._min_cutoff + self._beta * speed, seconds)
    self.value = self.value + share * (value - self.value)
    return self.value


def _smoothing(cutoff: float, seconds: float) -> float:
  """The factor alpha of an exponential filter with a cutoff in Hz (Casiez et al. 2012, equations 4 and 5)."""
  return 1 / (1 + 1 / (2 * np.pi * cutoff * seconds))


class TrackedFace(NamedTuple):
  """A face in one frame of a film.

  Attributes:
    number: the same for this face in all frames.
    face: where it is, held still; for a face that is missing, where it was.
    presence: 1 for a face that has been there for a while, 0 for one that has just come or is gone.
  """

  number: int
  face: Face
  presence: float


@dataclasses.dataclass
class _Track:
  """What is known of a face: where it was seen last, unfiltered, and when."""

  number: int
  seen: Face
  seen_at: float
  presence: float
  steady: OneEuroFilter = dataclasses.field(default_factory=OneEuroFilter)

  def see(self, face: Face, time: float) -> None:
    depth = np.zeros(len(face.landmarks)) if face.depth is None else face.depth
    size = np.max(face.box[2:] - face.box[:2])
    self.steady(np.column_stack([face.landmarks, depth]), max(time - self.seen_at, _SHORTEST_FRAME), size)
    self.seen, self.seen_at = face, time

  @property
  def face(self) -> Face:
    return Face(self.steady.value[:, :2], None if self.seen.depth is None else self.steady.value[:, 2])


class FaceTracker:
  """The faces of a film, frame after frame.

  Once found, a face is looked for only near its last place. All of the picture is searched in the first frame, about
  every second, sooner while a face is missing, and after a cut. A face that comes fades in; one that is missing stays
  where it was and fades out, so that a blink of the detector does not show. In the first frame of the film, and of
  every scene, faces are there at once.
  """

  def __init__(self, finder: FaceFinder):
    self._finder = finder
    self._tracks: list[_Track] = []
    self._next_number = 0
    self._time = self._searched_at = -np.inf
    self._thumbnail: np.ndarray | None = None

  def update(self, pixels: np.ndarray, time: float) -> list[TrackedFace]:
    """The faces of the next frame.

    Args:
      pixels: `[H, W, 3]`, RGB, uint8 or uint16; every frame of one size.
      time: of the frame, in seconds; it does not run backwards.
    """
    if self._begins_scene(pixels):
      self._tracks, self._searched_at = [], -np.inf
    begins = self._searched_at == -np.inf
    seen = self._followed(pixels)
    if time - self._searched_at >= (_SEARCH_EVERY if 0 < len(self._tracks) == len(seen) else _SEARCH_EVERY_WHEN_LOST):
      self._search(pixels, time, seen, presence=1.0 if begins else 0.0)
      self._searched_at = time
    step = 0 if begins else (time - self._time) / _FADE_SECONDS
    for track in self._tracks:
      if track.number in seen:
        track.see(seen[track.number], time)
      track.presence = float(np.clip(track.presence + (step if track.number in seen else -step), 0, 1))
    self._tracks = [track for track in self._tracks if track.number in seen or track.presence > 0]
    self._time = time
    return [TrackedFace(track.number, track.face, track.presence) for track in self._tracks]

  def _begins_scene(self, pixels: np.ndarray) -> bool:
    """Whether this frame has little to do with the one before; True for the first."""
    before = self._thumbnail
    small = cv2.resize(pixels, _THUMBNAIL, interpolation=cv2.INTER_AREA)
    self._thumbnail = small.mean(axis=-1) * (255 / np.iinfo(pixels.dtype).max)
    return before is None or bool(np.abs(self._thumbnail - before).mean() > _CUT_LEVELS)

  def _followed(self, pixels: np.ndarray) -> dict[int, Face]:
    """By number, the faces that are about where they were. None of them twice: a face that hides behind another one
    would otherwise be taken for it.
    """
    candidates = []
    for track in self._tracks:
      face = self._finder.follow(pixels, track.seen)
      if face is not None and (match := overlap(face.box, track.seen.box)) > _SAME_FACE:
        candidates.append((match, track.number, face))
    followed: dict[int, Face] = {}
    for _, number, face in sorted(candidates, key=lambda candidate: -candidate[0]):
      if not _is_among(face, followed.values()):
        followed[number] = face
    return followed

  def _search(self, pixels: np.ndarray, time: float, seen: dict[int, Face], presence: float) -> None:
    """Adds to `seen` the faces that were missing, and to the tracks those that are new."""
    for face in self._finder.find(pixels):
      if _is_among(face, seen.values()):
        continue
      missing = [track for track in self._tracks if track.number not in seen]
      track = max(missing, key=lambda track: overlap(face.box, track.seen.box), default=None)
      if track is None or overlap(face.box, track.seen.box) <= _SAME_FACE:
        track = _Track(self._next_number, face, time, presence)
        self._tracks.append(track)
        self._next_number += 1
      seen[track.number] = face

  def state(self) -> dict[str, np.ndarray]:
    """All that the next frame's faces depend on, as arrays by name; for `restore`."""
    state = {
      "clock": np.array([self._time, self._searched_at]),
      "next_number": np.array(self._next_number),
      "numbers": np.array([track.number for track in self._tracks], np.int64),
    }
    if self._thumbnail is not None:
      state["thumbnail"] = self._thumbnail
    for track in self._tracks:
      name = f"track{track.number}"
      depth = np.zeros((0,)) if track.seen.depth is None else track.seen.depth
      state |= {f"{name}.landmarks": track.seen.landmarks, f"{name}.depth": depth}
      state |= {f"{name}.value": track.steady.value, f"{name}.derivative": track.steady.derivative}
      state[f"{name}.seen_at_and_presence"] = np.array([track.seen_at, track.presence])
    return state

  def restore(self, state: dict[str, np.ndarray]) -> None:
    """Goes on where another tracker was when it gave `state`."""
    self._time, self._searched_at = (float(moment) for moment in state["clock"])
    self._next_number = int(state["next_number"])
    self._thumbnail = state.get("thumbnail")
    self._tracks = []
    for number in state["numbers"].tolist():
      name = f"track{number}"
      depth = state[f"{name}.depth"]
      face = Face(state[f"{name}.landmarks"], depth if len(depth) else None)
      seen_at, presence = (float(value) for value in state[f"{name}.seen_at_and_presence"])
      track = _Track(number, face, seen_at, presence)
      track.steady.value, track.steady.derivative = state[f"{name}.value"], state[f"{name}.derivative"]
      self._tracks.append(track)


def _is_among(face: Face, others) -> bool:
  return any(overlap(face.box, other.box) > 0.5 for other in others)
