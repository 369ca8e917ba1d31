"""A portrait that moves: every frame of a film relit as `Portrait` relights a photo, without flicker.

What flickers, frame by frame, is the framing (the detector trembles), the network's answer (it enhances what noise the
camera adds), and the matte (a segmentation decides anew every time). All three are held still *before* the light comes
in: the landmarks (`face_track`), the picture in the square that the network sees (`steady_square`), and the person
around it (`steady_person`), or, where nobody looks for persons, the weight in the square. What the network
makes of the steady square is a function of the light alone, so a light may turn as fast as it likes: nothing of it is
averaged over time, and nothing lags. (Averaged ratios would lag; and under a still light, averaging them on top would
take off no more than a further twentieth of the flicker.)
"""

from collections.abc import Sequence

import numpy as np

from dpr_jax.film.face_track import FaceTracker, TrackedFace
from dpr_jax.film.steady_person import SteadyPerson
from dpr_jax.film.steady_square import SteadySquare
from dpr_jax.network.networks import traits_of
from dpr_jax.portrait.faces import Face, FaceFinder, Framing, frame_face
from dpr_jax.portrait.framed_face import FramedFace, encode_square, weigh_square, with_person
from dpr_jax.portrait.person import Segmenter
from dpr_jax.portrait.portrait import Portrait
from dpr_jax.portrait.relighting import Params
from dpr_jax.portrait.square import cut_square


class MovingPortrait:
  """Makes a film ready for relighting, frame by frame; see the module.

  Attributes:
    faces_seen: whether any frame so far had a face.
  """

  def __init__(
    self, params: Params, finder: FaceFinder, size: int | None = None, *, segmenter: Segmenter | None = None
  ):
    """Before the first frame.

    Args:
      params: from `load_params`.
      finder: an open one.
      size: side of the square that the network sees; None: the one it was trained at.
      segmenter: from `open_segmenter`, finds the persons of the faces; None: the light ends around the heads.
    """
    self._params, self._size = params, traits_of(params).native_size if size is None else size
    self._tracker = FaceTracker(finder)
    self._squares: dict[int, SteadySquare] = {}
    self._segmenter = segmenter
    self._persons: dict[int, SteadyPerson] = {}
    self._time = 0.0
    self.faces_seen = False

  def see(self, pixels: np.ndarray, time: float) -> Portrait | None:
    """The next frame, made ready for any light; None if it has no face.

    Args:
      pixels: `[H, W, 3]` RGB, uint8 or uint16; every frame of one size.
      time: of the frame, in seconds; it does not run backwards.
    """
    tracked = self._tracker.update(pixels, time)
    numbers = {face.number for face in tracked}
    self._squares = {number: square for number, square in self._squares.items() if number in numbers}
    self._persons = {number: person for number, person in self._persons.items() if number in numbers}
    framed = []
    for face in tracked:
      others = [other.face for other in tracked if other is not face]
      framed.append(self._framed(pixels, face, others, time))
    self._time = time
    if not framed:
      return None
    self.faces_seen = True
    return Portrait.of_framed(self._params, pixels, framed)

  def _framed(self, pixels: np.ndarray, tracked: TrackedFace, others: Sequence[Face], time: float) -> FramedFace:
    framing, seconds = frame_face(tracked.face, self._size), time - self._time
    square = cut_square(pixels, framing)
    steady = self._squares.get(tracked.number)
    if steady is None:
      steady = self._squares[tracked.number] = SteadySquare(square.astype(np.float32))
    else:
      steady.see(square, seconds, _grain(framing))
    matte = None
    if self._segmenter is not None:
      person = self._persons.setdefault(tracked.number, SteadyPerson(self._segmenter))
      matte = person.see(pixels, tracked.face, framing, others, time, seconds)
    picture = np.clip(np.rint(steady.picture), 0, 255).astype(np.uint8)
    steady.weigh(weigh_square(picture, framing, tracked.face, pixels.shape, matte), seconds)
    presence = np.float32(tracked.presence)
    framed = encode_square(self._params, steady.picture, framing, tracked.face, presence * steady.weight)
    framed = framed._replace(presence=float(presence))
    return framed if matte is None else with_person(framed, matte._replace(share=presence * matte.share))

  def state(self) -> dict[str, np.ndarray]:
    """All that the next frame depends on, as arrays by name; for `restore`."""
    state = self._tracker.state() | {"time": np.array(self._time), "faces_seen": np.array(self.faces_seen)}
    for number, steady in self._squares.items():
      state |= {f"square{number}.picture": steady.picture, f"square{number}.weight": steady.weight}
    for number, person in self._persons.items():
      state |= {f"person{number}.{name}": values for name, values in person.state().items()}
    return state

  def restore(self, state: dict[str, np.ndarray]) -> None:
    """Goes on, to the bit, where another portrait was when it gave `state`."""
    self._tracker.restore(state)
    self._time, self.faces_seen = float(state["time"]), bool(state["faces_seen"])
    self._squares, self._persons = {}, {}
    for number in state["numbers"].tolist():
      self._squares[number] = SteadySquare(state[f"square{number}.picture"], state[f"square{number}.weight"])
      if self._segmenter is not None:
        self._persons[number] = person = SteadyPerson(self._segmenter)
        own = f"person{number}."
        person.restore({name.removeprefix(own): state[name] for name in state if name.startswith(own)})


def _grain(framing: Framing) -> float:
  """Size of the photo's pixels in the square's."""
  return float(np.sqrt(np.abs(np.linalg.det(framing.matrix[:, :2]))))
