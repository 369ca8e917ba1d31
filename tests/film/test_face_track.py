"""The filter against its published algorithm; the tracker by a detector that plays a part written for it."""

import numpy as np
import pytest

from dpr_jax.film.face_track import FaceTracker, OneEuroFilter
from dpr_jax.portrait.faces import Face, overlap

GRAY = np.full((90, 160, 3), 120, np.uint8)
FPS = 25


# The 1 Euro filter.


def published(values, seconds, min_cutoff, beta, derivative_cutoff):
  """Algorithm 1 of Casiez et al. 2012 for a scalar, word by word."""

  def alpha(rate, cutoff):
    tau = 1 / (2 * np.pi * cutoff)
    period = 1 / rate
    return 1 / (1 + tau / period)

  filtered, derivative, results = values[0], 0.0, [values[0]]
  for x, period in zip(values[1:], seconds, strict=True):
    rate = 1 / period
    dx = (x - filtered) * rate
    derivative = alpha(rate, derivative_cutoff) * dx + (1 - alpha(rate, derivative_cutoff)) * derivative
    cutoff = min_cutoff + beta * abs(derivative)
    filtered = alpha(rate, cutoff) * x + (1 - alpha(rate, cutoff)) * filtered
    results.append(filtered)
  return results


@pytest.mark.parametrize("constants", [(1.0, 10.0, 1.0), (0.3, 0.0, 1.0), (2.0, 0.5, 3.0)])
def test_a_scalar_is_filtered_as_published(constants):
  rng = np.random.default_rng(0)
  values, seconds = np.cumsum(rng.normal(0, 0.1, 50)), rng.uniform(0.01, 0.1, 49)
  steady = OneEuroFilter(*constants)
  ours = [float(steady(value, period)) for value, period in zip(values, [1.0, *seconds], strict=True)]
  np.testing.assert_allclose(ours, published(values, seconds, *constants), rtol=1e-12)


@pytest.mark.parametrize("speed", [0.05, 0.5, 5.0])
def test_what_moves_steadily_lags_by_its_speed_over_the_cutoff(speed):
  steady, values = OneEuroFilter(1.0, 10.0), speed * np.arange(2000) / FPS
  for value in values:
    filtered = steady(value, 1 / FPS)
  lag = values[-1] - filtered
  # The published speed is that from the filtered value to the next one given: the lag is a part of it.
  assert steady.derivative == pytest.approx(speed + lag * FPS, rel=1e-6)
  assert lag == pytest.approx(speed / (2 * np.pi * (1 + 10 * steady.derivative)), rel=1e-6)
  assert lag < 1 / (2 * np.pi * 10)


def test_trembling_at_rest_is_stilled():
  noise = np.random.default_rng(0).normal(0, 0.002, 500)
  steady = OneEuroFilter()
  filtered = np.array([steady(value, 1 / FPS) for value in 1 + noise])[50:]
  assert filtered.std() < noise.std() / 2
  assert np.abs(np.diff(filtered)).mean() < np.abs(np.diff(noise)).mean() / 4


def test_points_are_filtered_as_one():
  """A part at rest is not pulled along, and two that move alike keep their distance."""
  steady = OneEuroFilter()
  for k in range(30):
    filtered = steady(np.array([[0.02 * k, 5.0], [0.02 * k + 1, 7.0]]), 1 / FPS)
  np.testing.assert_allclose(filtered[:, 1], [5, 7], rtol=0, atol=1e-12)
  assert filtered[1, 0] - filtered[0, 0] == pytest.approx(1, abs=1e-12)


def test_the_unit_of_speed_makes_the_size_irrelevant():
  values = np.cumsum(np.random.default_rng(0).normal(0, 0.05, (40, 3)), axis=0)
  small, large = OneEuroFilter(), OneEuroFilter()
  for value in values:
    np.testing.assert_allclose(large(300 * value, 1 / FPS, unit=300), 300 * small(value, 1 / FPS), rtol=1e-9)


# The tracker.


class Detector:
  """Sees `faces`, whatever is in the picture; `follow` sees the one that lies over the old face best."""

  def __init__(self, *faces):
    self.faces, self.searches, self.looks = list(faces), 0, 0

  def find(self, pixels):
    self.searches += 1
    return list(self.faces)

  def follow(self, pixels, face):
    self.looks += 1
    best = max(self.faces, key=lambda other: overlap(other.box, face.box), default=None)
    return best if best and overlap(best.box, face.box) > 0 else None


def face(x, y, size=40.0):
  """A face of landmarks all over a disc."""
  angles = np.linspace(0, 20 * np.pi, 478)
  disc = np.column_stack([np.cos(angles), np.sin(angles)]) * np.linspace(0.1, 1, 478)[:, None]
  return Face(size / 2 * disc + (x, y), np.linspace(-1, 1, 478) * size)


def numbers(tracked):
  return [each.number for each in tracked]


def presences(tracked):
  return [each.presence for each in tracked]


def test_the_first_frame_has_its_faces_at_once_as_they_are():
  detector = Detector(face(40, 40), face(110, 50))
  tracked = FaceTracker(detector).update(GRAY, 0.0)
  assert presences(tracked) == [1, 1]
  for each, seen in zip(tracked, detector.faces, strict=True):
    np.testing.assert_array_equal(each.face.landmarks, seen.landmarks)
    np.testing.assert_array_equal(each.face.depth, seen.depth)


def test_the_whole_picture_is_searched_once_a_second():
  detector = Detector(face(40, 40))
  tracker = FaceTracker(detector)
  for k in range(3 * FPS + 1):
    tracker.update(GRAY, k / FPS)
  assert detector.searches == 4
  assert detector.looks == 3 * FPS


def test_a_trembling_face_is_held_still():
  rng = np.random.default_rng(0)
  detector = Detector()
  tracker, places, held = FaceTracker(detector), [], []
  for k in range(100):
    detector.faces = [face(*(rng.normal(0, 0.3, 2) + 50))]
    [tracked] = tracker.update(GRAY, k / FPS)
    places.append(detector.faces[0].landmarks[0])
    held.append(tracked.face.landmarks[0])
  assert np.abs(np.diff(held[20:], axis=0)).mean() < np.abs(np.diff(places[20:], axis=0)).mean() / 3


def test_a_moving_face_keeps_its_number_and_is_hardly_behind():
  detector = Detector()
  tracker = FaceTracker(detector)
  for k in range(60):
    detector.faces = [face(30 + 5 * k, 45)]
    [tracked] = tracker.update(GRAY, k / FPS)
    assert tracked.number == 0
  lag = detector.faces[0].landmarks - tracked.face.landmarks
  assert 0 < lag[:, 0].max() < 0.016 * 40


def test_a_blink_of_the_detector_does_not_show():
  detector = Detector(face(50, 45))
  tracker = FaceTracker(detector)
  before = tracker.update(GRAY, 0.0)[0].face.landmarks
  for k in range(1, 20):
    detector.faces = [] if k in (5, 6) else [face(50, 45)]
    [tracked] = tracker.update(GRAY, k / FPS)
    assert tracked.number == 0
    assert tracked.presence >= 0.79
    np.testing.assert_allclose(tracked.face.landmarks, before, atol=1e-9)
  assert tracked.presence == 1


def test_a_face_that_goes_fades_out_where_it_was():
  detector = Detector(face(50, 45))
  tracker = FaceTracker(detector)
  tracker.update(GRAY, 0.0)
  detector.faces = []
  seen = [tracker.update(GRAY, k / 20) for k in range(1, 12)]
  np.testing.assert_allclose([presences(tracked)[0] for tracked in seen[:7]], 1 - np.arange(1, 8) / 8, atol=1e-9)
  assert seen[8:] == [[], [], []]
  assert detector.searches <= 5  # not in every frame, though the face is missing


def test_a_face_that_comes_fades_in():
  detector = Detector(face(40, 45))
  tracker = FaceTracker(detector)
  for k in range(60):
    if k == 10:
      detector.faces = [face(40, 45), face(110, 45)]
    tracked = tracker.update(GRAY, k / 20)
    assert tracked[0].presence == 1
    assert len(tracked) == (1 if k < 20 else 2)
    if k >= 20:
      assert tracked[1].presence == pytest.approx(min((k - 19) / 8, 1))


def test_after_a_cut_faces_are_there_at_once_and_the_old_ones_gone():
  detector = Detector(face(40, 45))
  tracker = FaceTracker(detector)
  for k in range(4):
    tracker.update(GRAY, k / FPS)
  detector.faces = [face(60, 45), face(120, 45)]
  tracked = tracker.update(GRAY + np.uint8(60), 4 / FPS)
  assert numbers(tracked) == [1, 2]
  assert presences(tracked) == [1, 1]
  np.testing.assert_array_equal(tracked[0].face.landmarks, detector.faces[0].landmarks)


def test_noise_is_no_cut():
  detector = Detector(face(40, 45))
  tracker = FaceTracker(detector)
  rng = np.random.default_rng(0)
  for k in range(5):
    noisy = np.clip(GRAY + rng.normal(0, 60, GRAY.shape), 0, 255).astype(np.uint8)
    assert numbers(tracker.update(noisy, k / FPS)) == [0]


def test_a_face_hidden_behind_another_is_not_taken_for_it():
  detector = Detector(face(50, 45), face(80, 45))
  tracker = FaceTracker(detector)
  assert len(tracker.update(GRAY, 0.0)) == 2
  detector.faces = [face(55, 45)]
  first, second = tracker.update(GRAY, 1 / FPS)
  assert first.presence == 1
  assert second.presence < 1
  np.testing.assert_array_equal(second.face.landmarks, face(80, 45).landmarks)


def test_a_neighbour_is_not_taken_for_a_face_that_is_missing():
  """The look near the old place sees what touches it."""
  detector = Detector(face(50, 45))
  tracker = FaceTracker(detector)
  tracker.update(GRAY, 0.0)
  detector.faces = [face(80, 50)]
  [tracked] = tracker.update(GRAY, 1 / FPS)
  assert tracked.presence < 1
  np.testing.assert_array_equal(tracked.face.landmarks, face(50, 45).landmarks)
  assert numbers(tracker.update(GRAY, 0.24)) == [0, 1]


def test_frames_at_the_same_moment_are_borne():
  tracker = FaceTracker(Detector(face(50, 45)))
  for time in (0.0, 0.0, 0.0):
    [tracked] = tracker.update(GRAY, time)
  assert np.isfinite(tracked.face.landmarks).all()


def test_a_restored_tracker_goes_on_to_the_bit(tmp_path):
  def part(k):
    """Trembles; a second face comes, and the first one is missing for a while."""
    rng = np.random.default_rng(k)
    first = [face(*(rng.normal(0, 0.5, 2) + 45))] if not 20 <= k < 26 else []
    return first + ([face(110 + 0.2 * k, 45)] if k > 12 else [])

  def run(tracker, detector, frames):
    seen = []
    for k in frames:
      detector.faces = part(k)
      seen.append(tracker.update(GRAY, k / FPS))
    return seen

  detector = Detector()
  expected = run(FaceTracker(detector), detector, range(60))
  for stop in (1, 14, 23, 40):
    tracker, again = FaceTracker(detector), FaceTracker(detector)
    run(tracker, detector, range(stop))
    np.savez(tmp_path / "state.npz", **tracker.state())
    with np.load(tmp_path / "state.npz", allow_pickle=False) as state:
      again.restore(dict(state))
    for ours, theirs in zip(run(again, detector, range(stop, 60)), expected[stop:], strict=True):
      assert [each[::2] for each in ours] == [each[::2] for each in theirs]
      for a, b in zip(ours, theirs, strict=True):
        np.testing.assert_array_equal(a.face.landmarks, b.face.landmarks)
        np.testing.assert_array_equal(a.face.depth, b.face.depth)
