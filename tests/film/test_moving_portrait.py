"""The network is a closed form that makes much of noise, and the detector plays a part: what flickers is known."""

import itertools

import cv2
import numpy as np
import pytest

from dpr_jax.film.moving_portrait import MovingPortrait
from dpr_jax.film.steady_square import SteadySquare
from dpr_jax.light import sh
from dpr_jax.portrait import matte
from dpr_jax.portrait.faces import frame_face
from dpr_jax.portrait.portrait import Portrait
from dpr_jax.portrait.square import cut_square
from tests.film.test_face_track import Detector
from tests.portrait.test_portrait import OBLIQUE, face_at, painted_photo, stub_log_ratio, stub_network

FPS = 25
SIZE = 128
FACE = face_at(130, 110, 50)
PHOTO = painted_photo(260, 260, FACE)
FAR_LEFT = np.array([0.8, 0, 0, -0.5, 0, 0, 0, 0, 0], np.float32)
FAR_RIGHT = np.array([0.8, 0, 0, 0.5, 0, 0, 0, 0, 0], np.float32)


def nervous_log_ratio(params, encoding, luminance, target, *, dtype=None):
  """A ramp towards the light, and a wild function of every pixel."""
  return stub_log_ratio(params, encoding, luminance, target) + 0.5 * np.sin(40 * np.asarray(luminance))


@pytest.fixture(autouse=True)
def stub(monkeypatch):
  stub_network(monkeypatch, nervous_log_ratio)


def noisy(pixels, seed, level=4.0):
  noise = np.random.default_rng(seed).normal(0, level, pixels.shape)
  return np.clip(np.rint(pixels + noise), 0, 255).astype(np.uint8)


def on_face(shape):
  y, x = np.mgrid[: shape[0], : shape[1]]
  return np.hypot(x - 130, y - 130) < 40


def moving():
  return MovingPortrait({}, Detector(FACE), SIZE)


# Stillness.


def test_a_still_clip_flickers_less():
  clip = [noisy(PHOTO, seed) for seed in range(20)]
  rng = np.random.default_rng(0)
  trembling = [face_at(*rng.normal((130, 110), 0.3), 50) for _ in clip]
  detector = Detector()
  film = MovingPortrait({}, detector, SIZE)

  def relit(frame, k):
    detector.faces = [trembling[k]]
    return film.see(frame, k / FPS).relight(OBLIQUE)

  smoothed = [relit(frame, k) for k, frame in enumerate(clip)]
  single = [Portrait({}, frame, [face], SIZE).relight(OBLIQUE) for frame, face in zip(clip, trembling, strict=True)]
  face = on_face(PHOTO.shape)

  def flicker(frames):
    """Of patches: the noise itself, which the ratio of a patch dims or brightens, is not what is meant."""
    added = np.stack(frames[5:]).astype(float) - np.stack(clip[5:])
    return np.abs(np.diff([cv2.GaussianBlur(frame, (0, 0), 3)[face] for frame in added], axis=0)).mean()

  assert flicker(smoothed) < 0.5 * flicker(single)


def test_the_matte_flickers_less(monkeypatch):
  """A segmentation that changes its mind in every frame."""
  minds = itertools.cycle([0.0, 1.0])
  monkeypatch.setattr(matte, "_segment", lambda square, *_: np.full(square.shape[:2], next(minds), np.float32))
  film = moving()
  weights = [film.see(PHOTO, k / FPS).faces[0].weight.max() for k in range(60)]
  assert np.abs(np.diff(weights[30:])).max() < 0.1
  assert np.mean(weights[30:]) == pytest.approx(0.5, abs=0.06)


def test_noise_is_averaged_and_a_slight_shake_is_borne():
  rng = np.random.default_rng(0)
  base = np.repeat(100 + 60 * (np.arange(512) % 64 > 32)[None, :, None], 512, axis=0).astype(float)
  base = np.repeat(base, 3, axis=2)

  def square(shift=0.0):
    shaken = (1 - abs(shift)) * base + abs(shift) * np.roll(base, int(np.sign(shift)), axis=1)
    return np.clip(np.rint(shaken + rng.normal(0, 5, base.shape)), 0, 255).astype(np.uint8)

  for shake in (0.0, 0.5):
    steady = SteadySquare(square().astype(np.float32))
    for _ in range(30):
      before = steady.picture
      steady.see(square(rng.uniform(-shake, shake)), 1 / FPS)
    assert np.abs(steady.picture - before).mean() < 0.25 * 5
    flat = np.abs(steady.picture - base)[:, 8:24]
    assert np.sqrt(np.mean(flat**2)) < 0.4 * 5


# Motion.


def test_what_moves_leaves_no_ghost():
  """A bar that jumps is gone from its old place and is at its new one, at once."""
  empty = np.full((512, 512, 3), 90, np.uint8)
  steady = SteadySquare(empty.astype(np.float32))
  for k in range(20):
    square = empty.copy()
    square[:, 20 * k : 20 * k + 30] = 200
    steady.see(square, 1 / FPS)
    assert np.abs(steady.picture - square).max() < 1


def test_a_small_change_takes_its_time():
  """Which is what makes the noise go: of 4 levels, the share of one frame."""
  steady = SteadySquare(np.full((64, 64, 3), 100, np.float32))
  steady.see(np.full((64, 64, 3), 104, np.uint8), 1 / FPS)
  np.testing.assert_allclose(steady.picture, 100 + 4 * (1 - np.exp(-1 / FPS / 0.25)), rtol=1e-5)


@pytest.mark.parametrize("seconds", [1 / 120, 1 / 24, 1.0])
def test_the_average_is_one_over_time_not_over_frames(seconds):
  steady = SteadySquare(np.full((64, 64, 3), 100, np.float32))
  for _ in range(round(1 / seconds)):
    steady.see(np.full((64, 64, 3), 104, np.uint8), seconds)
  np.testing.assert_allclose(steady.picture, 104 - 4 * np.exp(-1 / 0.25), rtol=1e-5)


def test_a_face_that_moves_is_seen_as_it_is_now():
  """Before another background in every frame, and fast: half its eyes' distance in a frame's time."""
  detector = Detector()
  film = MovingPortrait({}, detector, SIZE)
  for k in range(12):
    detector.faces = [face_at(90 + 15 * k, 110, 30)]
    pixels = painted_photo(220, 360, *detector.faces)
    [seen] = film.see(pixels, k / FPS).faces
    difference = np.abs(film._squares[0].picture - cut_square(pixels, seen.framing))
    assert difference.mean() < 4.5
    assert np.percentile(difference, 99) < 16
    # And is where it is, to a few hundredths of the square.
    nose = np.array([*detector.faces[0].landmarks[1], 1])
    assert np.abs((seen.framing.matrix - frame_face(detector.faces[0], SIZE).matrix) @ nose).max() < 0.05 * SIZE


# Light.


def test_a_light_that_turns_does_not_lag():
  """Every frame of a clip without noise is the photo under the light of that moment, be it ever so new."""
  film, photo = moving(), Portrait({}, PHOTO, [FACE], SIZE)
  lights = [np.asarray(sh.rotate(FAR_LEFT, sh.roll(-30 * k))) for k in range(8)] + [FAR_RIGHT, FAR_LEFT]
  for k, light in enumerate(lights):
    np.testing.assert_array_equal(film.see(PHOTO, k / FPS).relight(light), photo.relight(light))


# Coming, going, and going on.


def test_a_face_that_is_missing_lets_go_of_the_frame_bit_by_bit():
  film = moving()
  change = [np.abs(film.see(PHOTO, 0.0).relight(FAR_LEFT).astype(int) - PHOTO).mean()]
  film._tracker._finder.faces = []
  for k in range(1, 11):
    seen = film.see(PHOTO, k / FPS)
    change.append(0.0 if seen is None else np.abs(seen.relight(FAR_LEFT).astype(int) - PHOTO).mean())
  assert change[0] > 3
  assert (np.diff(change) < 0).all() or change[-1] == 0
  assert max(-np.diff(change)) < 0.25 * change[0]
  assert film.see(PHOTO, 0.5) is None
  assert film._squares == {}
  assert film.faces_seen


def test_a_film_without_a_face():
  film = MovingPortrait({}, Detector(), SIZE)
  assert film.see(PHOTO, 0.0) is None
  assert not film.faces_seen


def test_a_restored_film_goes_on_to_the_bit(tmp_path):
  clip = [noisy(PHOTO, seed) for seed in range(12)]

  def relit(film, frames):
    return [film.see(clip[k], k / FPS).relight(OBLIQUE) for k in frames]

  expected = relit(moving(), range(12))
  film, again = moving(), moving()
  relit(film, range(5))
  np.savez(tmp_path / "state.npz", **film.state())
  with np.load(tmp_path / "state.npz", allow_pickle=False) as state:
    again.restore(dict(state))
  assert again.faces_seen
  np.testing.assert_array_equal(relit(again, range(5, 12)), expected[5:])
  assert (relit(moving(), range(5, 6))[0] != expected[5]).any()  # without its past, the frame is another
