"""Persons in films: painted figures whose coverage is known, and a segmenter that trembles."""

import cv2
import numpy as np
import pytest

from dpr_jax.film.moving_portrait import MovingPortrait
from dpr_jax.film.steady_person import SteadyPerson
from dpr_jax.portrait.faces import frame_face
from dpr_jax.portrait.person import find_person
from dpr_jax.portrait.portrait import Portrait
from tests.film.test_face_track import Detector
from tests.network.test_hourglass import SMALL_RATIO, random_variables
from tests.portrait.test_person import LIGHT_FROM_RIGHT, Painted, figure, levels, painted
from tests.portrait.test_portrait import face_at

FPS = 25
SIZE = 128
FACE = face_at(130, 110, 38)


class Nervous(Painted):
  """Its edge lies elsewhere in every frame; and now and then it sees nobody."""

  def __init__(self, blind=()):
    self._rng, self._blind, self.frame = np.random.default_rng(0), set(blind), 0

  def people(self, picture):
    if self.frame in self._blind:
      return np.zeros((256, 256), np.float32)
    likely = super().people(picture)
    return np.roll(likely, self._rng.integers(-3, 4, 2), axis=(0, 1))


def frame_of(alpha, seed):
  noise = np.random.default_rng(seed).normal(0, 3, (*alpha.shape, 3))
  return np.clip(np.rint(painted(alpha) + noise), 0, 255).astype(np.uint8)


def coverage(matte, shape):
  return cv2.warpAffine(matte.alpha, matte.matrix, shape[1::-1], flags=cv2.INTER_LINEAR | cv2.WARP_INVERSE_MAP)


def mattes(frames, faces, segmenter):
  """At the pixels of each frame, `[K, H, W]`."""
  person, seen = SteadyPerson(segmenter), []
  for k, (frame, face) in enumerate(zip(frames, faces, strict=True)):
    segmenter.frame = k
    matte = person.see(frame, face, frame_face(face, SIZE), [], k / FPS, 1 / FPS if k else 0.0)
    seen.append(np.zeros(frame.shape[:2], np.float32) if matte is None else coverage(matte, frame.shape))
  return np.stack(seen)


def test_the_matte_of_a_still_person_trembles_less():
  alpha = figure(130)
  frames = [frame_of(alpha, k) for k in range(20)]
  steady = mattes(frames, 20 * [FACE], Nervous())
  segmenter = Nervous()
  single = [find_person(segmenter, frame, FACE, frame_face(FACE, SIZE)) for frame in frames]
  single = np.stack([coverage(matte, frames[0].shape) for matte in single])
  change, unsteady = (np.abs(np.diff(each[8:], axis=0)).mean() for each in (steady, single))
  assert change < 0.35 * unsteady
  assert np.abs(steady[-1] - alpha).mean() < 1.1 * np.abs(single - alpha).mean()


def test_the_matte_goes_along_with_who_moves():
  """As good as in a still picture, at any speed; no ghost of where the head was."""
  middles = 130 + 6 * np.arange(14)
  alphas = [figure(middle, width=360) for middle in middles]
  faces = [face_at(middle, 110, 38) for middle in middles]
  seen = mattes([frame_of(alpha, k) for k, alpha in enumerate(alphas)], faces, Painted())
  errors = [np.abs(matte - alpha).mean() for matte, alpha in zip(seen, alphas, strict=True)]
  assert max(errors[1:]) < 1.5 * errors[0]


def test_somebody_who_is_not_seen_for_a_moment_stays():
  frames = [frame_of(figure(130), k) for k in range(9)]
  assert mattes(frames, 9 * [FACE], Nervous(blind=[4, 5]))[:, 115, 130].min() == 1
  late = mattes(frames, 9 * [FACE], Nervous(blind=range(5)))
  np.testing.assert_array_equal(late[:5], 0)
  assert late[5:, 115, 130].min() == 1


def test_who_reaches_beyond_the_picture_is_followed():
  """An arm is stretched out, far beyond what the person covered at first."""
  alpha = figure(130, width=700)
  stretched = alpha.copy()
  stretched[225:260, 130:640] = 1
  frames = [frame_of(alpha, k) for k in range(14)] + [frame_of(stretched, k) for k in range(14)]
  seen = mattes(frames, 28 * [FACE], Painted())
  assert seen[13, 240, 250:].max() == 0
  assert seen[-1, 240, 250:500].min() > 0.95
  assert seen[14:, 115, 130].min() == 1


@pytest.fixture(scope="module")
def params():
  return random_variables(SMALL_RATIO)


def test_the_first_frame_is_the_photo_to_a_few_levels(params):
  """What is matted is as large as it is in photos of this size, but reaches farther."""
  pixels = frame_of(figure(130), 0)
  photo = Portrait(params, pixels, [FACE], SIZE, segmenter=Painted()).relight(LIGHT_FROM_RIGHT)
  film = MovingPortrait(params, Detector(FACE), SIZE, segmenter=Painted())
  frame = film.see(pixels, 0.0).relight(LIGHT_FROM_RIGHT)
  difference = np.abs(levels(frame) - levels(photo))
  assert difference.mean() < 0.5
  assert np.percentile(difference, 99) < 6
  beside = cv2.dilate(figure(130), np.ones((15, 15))) == 0
  np.testing.assert_array_equal(frame[beside], pixels[beside])
  assert np.abs(levels(frame) - levels(pixels))[250:].max() > 5  # shoulders, beyond the square


def test_who_goes_lets_go_of_the_frame_bit_by_bit(params):
  pixels = frame_of(figure(130), 0)
  film = MovingPortrait(params, Detector(FACE), SIZE, segmenter=Painted())
  seen = film.see(pixels, 0.0)
  change = []
  film._tracker._finder.faces = []
  for k in range(1, 12):
    change.append(0.0 if seen is None else np.abs(levels(seen.relight(LIGHT_FROM_RIGHT)) - levels(pixels)).mean())
    seen = film.see(pixels, k / FPS)
  assert change[0] > 3
  assert max(-np.diff(change)) < 0.25 * change[0]
  assert change[-1] == 0
  assert film._persons == {}


def test_a_restored_film_goes_on_to_the_bit(params, tmp_path):
  clip = [frame_of(figure(130), seed) for seed in range(6)]

  def film():
    return MovingPortrait(params, Detector(FACE), SIZE, segmenter=Painted())

  def relit(film, frames):
    return [film.see(clip[k], k / FPS).relight(LIGHT_FROM_RIGHT) for k in frames]

  expected, first, again = relit(film(), range(6)), film(), film()
  relit(first, range(3))
  np.savez(tmp_path / "state.npz", **first.state())
  with np.load(tmp_path / "state.npz", allow_pickle=False) as state:
    again.restore(dict(state))
  np.testing.assert_array_equal(relit(again, range(3, 6)), expected[3:])
