"""The matte of one person in a film, steady in time.

The picture that is matted moves along with the face, so that hair stays where it is in it. Picture and segmentation are
averaged over time where nothing moves, as the square around the face is; the matte is a function of both. Where a
person comes to reach beyond the picture, another picture is begun, and what is known goes on in it.
"""

from collections.abc import Sequence

import numpy as np

from dpr_jax.base.native_libraries import import_native
from dpr_jax.film.steady_square import SteadySquare
from dpr_jax.portrait.faces import Face, Framing
from dpr_jax.portrait.person import Look, Matte, Segmenter, look_again, look_for_person, matte_of

cv2 = import_native("cv2")

# Of the picture: its longer side in pixels, and how far it reaches beyond the person, in sides of the square around the
# head.
_LONGER_SIDE, _MARGIN = 640, 0.3
# A person who reaches beyond the picture is looked for elsewhere so many seconds after the last time.
_AGAIN_SECONDS = 0.5


class SteadyPerson:
  """One person, frame after frame."""

  def __init__(self, segmenter: Segmenter):
    """Nobody seen yet."""
    self._segmenter = segmenter
    self._steady: SteadySquare | None = None
    # Of the square around the face, in the picture: its sides and its middle, `[2, 2]`.
    self._place = np.zeros((2, 2))
    self._looked_at = -np.inf

  def see(
    self, pixels: np.ndarray, face: Face, framing: Framing, others: Sequence[Face], time: float, seconds: float
  ) -> Matte | None:
    """The matte in the next frame; None as long as nobody has been seen.

    Args:
      pixels: `[H, W, 3]` RGB, uint8 or uint16.
      face: of the person.
      framing: of the face.
      others: other faces of the frame, whose people are not this one.
      time: of the frame, in seconds.
      seconds: since the last one.
    """
    if self._steady is None:
      look = self._look_for(pixels, face, framing, others)
      if look is not None:
        self._steady, self._looked_at = SteadySquare(look.picture.astype(np.float32), look.likely), time
        self._settle(look, framing)
    else:
      shape = self._steady.weight.shape
      look = look_again(self._segmenter, pixels, face, framing, others, self._matrix(framing), shape)
      if look is not None and look.is_cut_off(pixels.shape) and time - self._looked_at >= _AGAIN_SECONDS:
        look, self._looked_at = self._look_for(pixels, face, framing, others) or look, time
        self._move_to(look, framing)
      if look is not None:  # nobody there for a moment: where they were
        self._steady.see(look.picture, seconds, float(look.matrix[0, 0]))
        self._steady.weigh(look.likely, seconds)
    if self._steady is None:
      return None
    picture = np.clip(np.rint(self._steady.picture), 0, 255).astype(np.uint8)
    return matte_of(Look(self._matrix(framing), picture, self._steady.weight), framing)

  def _look_for(self, pixels: np.ndarray, face: Face, framing: Framing, others: Sequence[Face]) -> Look | None:
    size = {"longer_side": _LONGER_SIDE, "margin": _MARGIN}
    return look_for_person(self._segmenter, pixels, face, framing, others, **size)

  def _settle(self, look: Look, framing: Framing) -> None:
    """Ties a picture to the face."""
    self._place = np.array([framing.side * np.diag(look.matrix[:, :2]), look.matrix @ [*framing.middle, 1]])
    self._steady.side = float(self._place[0, 0])

  def _matrix(self, framing: Framing) -> np.ndarray:
    """`[2, 3]`, photo pixels -> pixels of the picture."""
    sides, middle = self._place
    scales = sides / framing.side
    return np.column_stack([np.diag(scales), middle - scales * framing.middle])

  def _move_to(self, look: Look, framing: Framing) -> None:
    """Lays what is known into another picture; where nothing is, what is seen there."""
    old, new = (np.vstack([matrix, [0, 0, 1]]) for matrix in (self._matrix(framing), look.matrix))
    matrix = (new @ np.linalg.inv(old))[:2]
    size, known = look.likely.shape[::-1], np.ones_like(self._steady.weight)
    known, picture, likely = (
      cv2.warpAffine(part, matrix, size) for part in (known, self._steady.picture, self._steady.weight)
    )
    picture += (1 - known)[..., None] * look.picture
    self._steady = SteadySquare(picture, likely + (1 - known) * look.likely)
    self._settle(look, framing)

  def state(self) -> dict[str, np.ndarray]:
    """All that the next frame's matte depends on, as arrays by name; for `restore`."""
    if self._steady is None:
      return {}
    moment = np.array(self._looked_at)
    return {"picture": self._steady.picture, "likely": self._steady.weight, "place": self._place, "looked_at": moment}

  def restore(self, state: dict[str, np.ndarray]) -> None:
    """Goes on, to the bit, where another one was when it gave `state`."""
    if state:
      self._place, self._looked_at = state["place"], float(state["looked_at"])
      self._steady = SteadySquare(state["picture"], state["likely"], float(self._place[0, 0]))
