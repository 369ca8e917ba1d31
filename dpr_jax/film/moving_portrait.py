"""A portrait that moves: every frame of a film relit as `Portrait` relights a photo, without flicker.

What flickers, frame by frame, is the framing (the detector trembles), the network's answer (it enhances what noise the
camera adds), and the matte (a segmentation decides anew every time). All three are held still *before* the light comes
in: the landmarks (`face_track`), the picture in the square that the network sees, and the weight. What the network
makes of the steady square is a function of the light alone, so a light may turn as fast as it likes: nothing of it is
averaged over time, and nothing lags. (Averaged ratios would lag; and under a still light, averaging them on top would
take off no more than a further twentieth of the flicker.)
"""

import dataclasses

import numpy as np

from dpr_jax.base.native_libraries import import_native
from dpr_jax.film.face_track import FaceTracker, TrackedFace
from dpr_jax.network.networks import network_for
from dpr_jax.portrait.faces import FaceFinder, Framing, frame_face
from dpr_jax.portrait.portrait import FramedFace, Portrait, encode_square, skin_of, weigh_square
from dpr_jax.portrait.relighting import Params
from dpr_jax.portrait.square import cut_square

cv2 = import_native("cv2")

# Time constants of the averages, in seconds: noise changes from frame to frame, the matte in slower waves.
_PICTURE_SECONDS = 0.25
_WEIGHT_SECONDS = 0.4
# The average is given up where the picture changes: from the first to the second of these differences, in gray levels.
# They are blurred first, which takes the noise out of them; by pixels of a square of 512, but no less than by the
# photo's own, for in an enlarged square noise is coarse. What a shift by less than the tolerance explains is no change:
# a camera in a hand shakes, and at every edge it would be one.
_CHANGE = (4, 12)
_BLUR = 2.0
_BLUR_IN_PHOTO = 1.5
_SHIFT_TOLERANCE = 1.5
_SHIFT_TOLERANCE_IN_PHOTO = 0.75
_REACH = 4  # pixels of a square of 512, by which what has changed is enlarged


@dataclasses.dataclass
class SteadySquare:
  """The framed face of one track, averaged over time where nothing moves.

  Attributes:
    picture: `[S, S, 3]` float32 RGB in gray levels.
    weight: `[S, S]` float32.
  """

  picture: np.ndarray
  weight: np.ndarray | None = None
  _change: np.ndarray | float = 1.0

  def see(self, square: np.ndarray, seconds: float, grain: float = 1.0) -> None:
    """Takes the next frame's square `[S, S, 3]` into `picture`.

    Args:
      square: uint8 RGB.
      seconds: since the last one.
      grain: size of a photo's pixel in the square's.
    """
    difference = square.astype(np.float32) - self.picture
    self._change = _change(self.picture, difference, grain)
    self.picture = self.picture + self._share(seconds, _PICTURE_SECONDS)[..., None] * difference

  def weigh(self, weight: np.ndarray, seconds: float) -> None:
    """Takes the next frame's weight `[S, S]` into `weight`; after `see`."""
    self.weight = (
      weight if self.weight is None else self.weight + self._share(seconds, _WEIGHT_SECONDS) * (weight - self.weight)
    )

  def _share(self, seconds: float, time_constant: float) -> np.ndarray:
    """How much the new frame counts, `[S, S]`."""
    share = np.float32(1 - np.exp(-seconds / time_constant))
    return share + (1 - share) * self._change


def _change(before: np.ndarray, difference: np.ndarray, grain: float) -> np.ndarray:
  """Where a picture shows something else now, `[S, S]` in [0, 1]; its noise and a slight shift are nothing else.

  Args:
    before: `[S, S, 3]` float32 RGB in gray levels.
    difference: what to add to it to get the picture now.
    grain: size of a photo's pixel in the square's.
  """
  unit = len(before) / 512
  blur, shift = (
    max(_BLUR * unit, _BLUR_IN_PHOTO * grain),
    max(_SHIFT_TOLERANCE * unit, _SHIFT_TOLERANCE_IN_PHOTO * grain),
  )
  before, difference = (
    cv2.GaussianBlur(cv2.cvtColor(picture, cv2.COLOR_RGB2GRAY), (0, 0), blur) for picture in (before, difference)
  )
  gradient = [cv2.Sobel(before, cv2.CV_32F, *order, ksize=3, scale=1 / 8) for order in ((1, 0), (0, 1))]
  unexplained = np.abs(difference) - shift * np.hypot(*gradient)
  reach = 2 * max(1, round(_REACH * unit)) + 1
  change = (cv2.dilate(unexplained, np.ones((reach, reach), np.uint8)) - _CHANGE[0]) / (_CHANGE[1] - _CHANGE[0])
  change = np.clip(change, 0, 1)
  return change * change * (3 - 2 * change)


class MovingPortrait:
  """Makes a film ready for relighting, frame by frame; see the module.

  Attributes:
    faces_seen: whether any frame so far had a face.
  """

  def __init__(self, params: Params, finder: FaceFinder, size: int | None = None):
    """Before the first frame.

    Args:
      params: from `load_params`.
      finder: an open one.
      size: side of the square that the network sees; None: the one it was trained at.
    """
    self._params, self._size = params, network_for(params).native_size if size is None else size
    self._tracker = FaceTracker(finder)
    self._squares: dict[int, SteadySquare] = {}
    self._time = 0.0
    self.faces_seen = False

  def see(self, pixels: np.ndarray, time: float) -> Portrait | None:
    """The next frame, made ready for any light; None if it has no face.

    Args:
      pixels: `[H, W, 3]` RGB, uint8 or uint16; every frame of one size.
      time: of the frame, in seconds; it does not run backwards.
    """
    tracked = self._tracker.update(pixels, time)
    self._squares = {face.number: self._squares[face.number] for face in tracked if face.number in self._squares}
    framed = [self._framed(pixels, face, time - self._time) for face in tracked]
    self._time = time
    if not framed:
      return None
    self.faces_seen = True
    return Portrait.of_framed(self._params, pixels, framed)

  def _framed(self, pixels: np.ndarray, tracked: TrackedFace, seconds: float) -> FramedFace:
    framing = frame_face(tracked.face, self._size)
    square = cut_square(pixels, framing)
    steady = self._squares.get(tracked.number)
    if steady is None:
      steady = self._squares[tracked.number] = SteadySquare(square.astype(np.float32))
    else:
      steady.see(square, seconds, _grain(framing))
    picture = np.clip(np.rint(steady.picture), 0, 255).astype(np.uint8)
    steady.weigh(weigh_square(picture, framing, tracked.face, pixels.shape), seconds)
    weight, skin = np.float32(tracked.presence) * steady.weight, skin_of(tracked.face, framing)
    return encode_square(self._params, steady.picture, framing, weight, skin)

  def state(self) -> dict[str, np.ndarray]:
    """All that the next frame depends on, as arrays by name; for `restore`."""
    state = self._tracker.state() | {"time": np.array(self._time), "faces_seen": np.array(self.faces_seen)}
    for number, steady in self._squares.items():
      state |= {f"square{number}.picture": steady.picture, f"square{number}.weight": steady.weight}
    return state

  def restore(self, state: dict[str, np.ndarray]) -> None:
    """Goes on, to the bit, where another portrait was when it gave `state`."""
    self._tracker.restore(state)
    self._time, self.faces_seen = float(state["time"]), bool(state["faces_seen"])
    self._squares = {
      number: SteadySquare(state[f"square{number}.picture"], state[f"square{number}.weight"])
      for number in state["numbers"].tolist()
    }


def _grain(framing: Framing) -> float:
  """Size of the photo's pixels in the square's."""
  return float(np.sqrt(np.abs(np.linalg.det(framing.matrix[:, :2]))))
