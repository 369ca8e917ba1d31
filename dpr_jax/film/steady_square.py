"""A picture around a face, held still over time where nothing moves; `moving_portrait` says what for."""

import dataclasses

import numpy as np

from dpr_jax.base.arrays import ramp
from dpr_jax.base.native_libraries import import_native

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

  It may as well be a picture `[h, w]` of the person whom the face belongs to; `side` says how large the square is.

  Attributes:
    picture: `[S, S, 3]` float32 RGB in gray levels.
    weight: `[S, S]` float32.
    side: of the square around the face, in pixels of the picture; None: S.
  """

  picture: np.ndarray
  weight: np.ndarray | None = None
  side: float | None = None
  _change: np.ndarray | float = 1.0

  def see(self, square: np.ndarray, seconds: float, grain: float = 1.0) -> None:
    """Takes the next frame's square `[S, S, 3]` into `picture`.

    Args:
      square: uint8 RGB.
      seconds: since the last one.
      grain: size of a photo's pixel in the square's.
    """
    difference = square.astype(np.float32) - self.picture
    self._change = _change(self.picture, difference, grain, self.side or len(square))
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


def _change(before: np.ndarray, difference: np.ndarray, grain: float, side: float) -> np.ndarray:
  """Where a picture shows something else now, `[S, S]` in [0, 1]; its noise and a slight shift are nothing else.

  Args:
    before: `[S, S, 3]` float32 RGB in gray levels.
    difference: what to add to it to get the picture now.
    grain: size of a photo's pixel in the square's.
    side: of the square, in pixels.
  """
  unit = side / 512
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
  return ramp(cv2.dilate(unexplained, np.ones((reach, reach), np.uint8)), *_CHANGE)
