"""What the embedded face finder learns from, its losses, and its recipe from portraits to weights."""

import shutil
import subprocess
import sys

import cv2
import jax
import jax.numpy as jnp
import numpy as np
import pytest

from data_gen.face_finder import patterns, training
from data_gen.face_finder.examples import (
  CANVAS,
  DetectorBatch,
  Examples,
  LandmarkBatch,
  _mark,
  face_example,
  in_background,
)
from data_gen.face_finder.teacher import split_portraits
from dpr_jax.portrait import embedded_faces
from dpr_jax.portrait.canonical_face import mirrored_landmarks
from dpr_jax.portrait.face_networks import FaceLandmarker, Landmarks, Proposals
from dpr_jax.portrait.face_scales import DETECTOR_SIDE, DETECTOR_STRIDE
from dpr_jax.portrait.faces import LEFT_EYE, MOUTH_CORNERS, RIGHT_EYE
from tests.conftest import ROOT

pytestmark = pytest.mark.usefixtures("quick_compilation")


def ball_face(size=200, nose=(110, 95)):
  """A picture of which only one landmark can be seen: a bright dot at number 4, the tip of the nose."""
  points = np.random.default_rng(0).uniform(60, 150, (478, 3)).astype(np.float32)
  points[LEFT_EYE, :2], points[RIGHT_EYE, :2] = (80, 80), (130, 80)
  points[MOUTH_CORNERS, :2] = [(90, 130), (120, 130)]
  points[4, :2] = nose
  pixels = np.full((size, size, 3), 60, np.uint8)
  cv2.circle(pixels, (round(nose[0] - 0.5), round(nose[1] - 0.5)), 5, (250, 250, 250), -1)
  return face_example(pixels, points)


def examples(seed=0, **options):
  background = np.full((120, 160, 3), 60, np.uint8)
  given = {"portraits": [ball_face()], "heads": [], "backgrounds": [background], "partner": mirrored_landmarks()}
  return Examples(np.random.default_rng(seed), **(given | options))


def test_partners_in_a_mirror_lie_on_the_other_side():
  partner = mirrored_landmarks()
  np.testing.assert_array_equal(partner[partner], np.arange(478))
  assert set(partner[LEFT_EYE]) == set(RIGHT_EYE)
  assert partner[MOUTH_CORNERS[0]] == MOUTH_CORNERS[1]


def test_the_same_seed_draws_the_same_batches():
  for draw in (Examples.landmark_batch, Examples.detector_batch):
    for one, two in zip(draw(examples(), 4), draw(examples(), 4), strict=True):
      np.testing.assert_array_equal(one, two)
      assert np.isfinite(one).all()


def test_landmarks_lie_where_the_picture_shows_them():
  batch = examples().landmark_batch(120)
  partner_of_nose = mirrored_landmarks()[4]
  assert partner_of_nose == 4
  off = []
  for picture, points, present in zip(batch.luminance[..., 0], batch.points, batch.present, strict=True):
    if present == 1:
      smooth = cv2.GaussianBlur(picture, (0, 0), 2)
      brightest = np.array(np.unravel_index(smooth.argmax(), smooth.shape))[::-1] + 0.5
      off.append(np.linalg.norm((points[4, :2] + 1) * 64 - brightest))
  assert len(off) > 80
  assert np.median(off) < 1.5  # some are covered, or lie in noise


def test_the_detectors_targets_say_where_the_face_is():
  present, targets = np.zeros((12, 12), np.float32), np.zeros((12, 12, 5), np.float32)
  _mark(present, targets, np.array([41.0, 30.0]), 26.0, 35.0)
  rows, columns = np.nonzero(present == 1)
  assert len(rows) >= 1
  for row, column in zip(rows, columns, strict=True):
    x, y, log_side, cosine, sine = targets[row, column]
    centre = (np.array([column, row]) + 0.5) * DETECTOR_STRIDE + np.array([x, y]) * DETECTOR_SIDE
    np.testing.assert_allclose(centre, (41, 30), atol=1e-4)
    assert DETECTOR_SIDE * np.exp(log_side) == pytest.approx(26, rel=1e-5)
    assert np.degrees(np.arctan2(sine, cosine)) == pytest.approx(35, abs=1e-4)
  assert (present == 0).sum() > 100


def test_a_face_of_another_octave_is_no_face_here():
  present, targets = np.zeros((12, 12), np.float32), np.zeros((12, 12, 5), np.float32)
  _mark(present, targets, np.array([48.0, 48.0]), 70.0, 0.0)
  assert (present == 0).all()
  _mark(present, targets, np.array([48.0, 48.0]), 38.0, 0.0)
  assert (present == -1).any()
  assert not (present == 1).any()


def test_scenes_mark_faces_that_are_drawn():
  batch = examples(3).detector_batch(40)
  assert batch.luminance.shape == (40, CANVAS, CANVAS, 1)
  assert 0 <= batch.luminance.min() <= batch.luminance.max() <= 1
  marked = (batch.present == 1).any(axis=(1, 2)).mean()
  assert 0.3 < marked < 0.9


def test_patterns_are_pictures():
  for kind in (
    patterns.dead_leaves,
    patterns.cloud,
    patterns.rings,
    patterns.tiles,
    patterns.text,
    patterns.twigs,
    patterns.draw_pattern,
  ):
    picture = kind(np.random.default_rng(1), 60, 90)
    assert picture.shape == (60, 90)
    assert np.isfinite(picture).all()
    assert picture.std() > 0.01
    np.testing.assert_array_equal(picture, kind(np.random.default_rng(1), 60, 90))


def test_a_perfect_answer_loses_nothing():
  rng = np.random.default_rng(0)
  points = rng.normal(0, 0.3, (3, 478, 3)).astype(np.float32)
  batch = LandmarkBatch(None, points, np.array([1, 1, 0], np.float32))
  terms = training.landmark_loss(Landmarks(jnp.asarray(points), jnp.array([30.0, 30.0, -30.0])), batch)
  assert all(float(value) < 1e-6 for value in terms.values())
  present = np.zeros((1, 3, 3), np.float32)
  present[0, 1, 1] = 1
  targets = rng.normal(0, 1, (1, 3, 3, 5)).astype(np.float32)
  logit = jnp.where(present == 1, 30.0, -30.0)
  proposals = Proposals(
    logit, jnp.asarray(targets[..., :2]), jnp.asarray(targets[..., 2]), jnp.asarray(targets[..., 3:])
  )
  terms = training.detector_loss(proposals, DetectorBatch(None, present, targets))
  assert all(float(value) < 1e-6 for value in terms.values())


def test_losses_have_their_known_values():
  points = np.zeros((2, 478, 3), np.float32)
  batch = LandmarkBatch(None, points, np.array([1, 0], np.float32))
  predicted = Landmarks(jnp.asarray(points + 0.1), jnp.zeros(2))
  terms = training.landmark_loss(predicted, batch)
  assert float(terms["points"]) == pytest.approx(0.1, rel=1e-4)
  assert float(terms["framing"]) == pytest.approx(0.1, rel=1e-4)
  assert float(terms["presence"]) == pytest.approx(np.log(2), rel=1e-4)
  # The focal loss of an even answer is log(2) / 4 a cell.
  present = np.array([[[1, 0], [0, -1]]], np.float32)
  zeros = jnp.zeros((1, 2, 2))
  proposals = Proposals(zeros, jnp.zeros((1, 2, 2, 2)), zeros, jnp.zeros((1, 2, 2, 2)))
  batch = DetectorBatch(None, present, np.ones((1, 2, 2, 5), np.float32))
  terms = training.detector_loss(proposals, batch)
  assert float(terms["presence"]) == pytest.approx(3 * np.log(2) / 4, rel=1e-4)
  assert float(terms["side"]) == pytest.approx(1)


def learn(steps, luminance=0.0):
  network = FaceLandmarker(hidden=8, train=True)
  batch = examples(1).landmark_batch(4)
  batch = batch._replace(luminance=batch.luminance + np.float32(luminance))
  variables = jax.jit(network.init)(jax.random.key(0), jnp.asarray(batch.luminance))
  saved = []
  trained = training.train(
    network,
    variables,
    iter([batch] * steps),
    training.landmark_loss,
    training.LANDMARK_WEIGHTS,
    steps=steps,
    learning_rate=3e-3,
    save=saved.append,
  )
  answer = jax.jit(lambda *args: network.apply(*args, mutable=["batch_stats"])[0])
  before, after = (training.landmark_loss(answer(each, batch.luminance), batch) for each in (variables, trained))
  return before, after, saved


def test_training_lowers_the_loss_and_saves():
  before, after, saved = learn(30)
  assert float(after["points"]) < 0.8 * float(before["points"])
  assert len(saved) == 1


def test_a_loss_that_is_not_finite_stops_the_training():
  with pytest.raises(FloatingPointError, match="step 1: "):
    learn(2, luminance=np.nan)


@pytest.mark.nightly
def test_the_recipe_makes_weights_that_the_finder_reads(shared, tmp_path):
  shared("models/face_landmarker.task")
  learnt, _ = split_portraits(shared("portraits/congress"))
  (tmp_path / "portraits").mkdir()
  for path in learnt[:3]:
    shutil.copy(path, tmp_path / "portraits")
  command = [sys.executable, str(ROOT / "train_face_finder.py"), "--portraits=portraits", "--workdir=work"]
  command += [f"--heads={shared('heads')}", "--head_count=3", "--detector_steps=2", "--landmark_steps=5", "--batch=4"]

  def run(*more):
    return subprocess.run([*command, *more], cwd=tmp_path, capture_output=True, text=True, check=False)

  ended = run("--out=mine.npz")
  assert ended.returncode == 0, ended.stderr
  with embedded_faces.EmbeddedFaceFinder(tmp_path / "mine.npz") as finder:
    finder.find(np.zeros((64, 64, 3), np.uint8))
  kept = {path.name: path.stat().st_mtime_ns for path in (tmp_path / "work").iterdir()}
  assert {"portraits.npz", "heads-00000.npz", "detector.npz", "negatives.npz", "landmarker.npz"} <= kept.keys()
  # The second time, every stage is done already.
  ended = run("--out=again.npz")
  assert ended.returncode == 0, ended.stderr
  assert {path.name: path.stat().st_mtime_ns for path in (tmp_path / "work").iterdir()} == kept
  assert (tmp_path / "again.npz").read_bytes() == (tmp_path / "mine.npz").read_bytes()
  # Stages of one recipe don't become part of another.
  command[command.index("--batch=4")] = "--batch=5"
  ended = run("--out=other.npz")
  assert ended.returncode == 2
  assert "work: begun with --batch=4, not 5" in ended.stderr
  assert not (tmp_path / "other.npz").exists()


def test_what_goes_wrong_while_drawing_is_raised():
  def batches():
    yield 1
    raise ValueError("cannot be drawn")

  drawn = in_background(batches())
  assert next(drawn) == 1
  with pytest.raises(ValueError, match="cannot be drawn"):
    next(drawn)
  assert list(in_background(iter(range(20)))) == list(range(20))


@pytest.mark.parametrize(
  ("arguments", "message"),
  [
    ([], "--portraits is needed"),
    (["--portraits=nowhere", "--workdir=w", "--out=o.npz"], "nowhere"),
    (["--portraits=.", "--workdir=w", "--out=o.npz", "--batch=0"], "--batch 0: must be at least 1"),
  ],
)
def test_bad_commands_end_in_one_line(arguments, message, tmp_path):
  ended = subprocess.run(
    [sys.executable, str(ROOT / "train_face_finder.py"), *arguments],
    cwd=tmp_path,
    capture_output=True,
    text=True,
    check=False,
  )
  assert ended.returncode == 2
  assert message in ended.stderr
  assert "Traceback" not in ended.stderr
