"""The face finder of the package: geometry, what it finds in photos that packages ship, and beside MediaPipe."""

import cv2
import jax
import numpy as np
import pytest
from skimage import data

from dpr_jax.base.errors import BadInput
from dpr_jax.network.weights import check_structure, read_archive, save_params
from dpr_jax.portrait import embedded_faces
from dpr_jax.portrait.embedded_faces import (
  WEIGHTS,
  EmbeddedFaceFinder,
  FaceSquare,
  detector_squares,
  face_square,
  initial_variables,
  read_weights,
  shrunk,
  warp,
)
from dpr_jax.portrait.faces import LEFT_EYE, MOUTH_CORNERS, RIGHT_EYE, overlap

# Where MediaPipe sees the middles of the eyes and the corners of the mouth in scikit-image's astronaut.
ASTRONAUT = np.array([(203.8, 101.5), (246.5, 103.5), (202.2, 139.1), (244.7, 140.4)])


def framing_points(landmarks):
  return np.stack([landmarks[LEFT_EYE].mean(0), landmarks[RIGHT_EYE].mean(0), *landmarks[MOUTH_CORNERS]])


def framing_error(landmarks, expected):
  """The mean distance of the four points, as a share of the distance between the eyes."""
  return np.linalg.norm(framing_points(landmarks) - expected, axis=1).mean() / np.linalg.norm(expected[0] - expected[1])


def on_canvas(pixels, size, place, gray=110):
  canvas = np.full((*size, 3), gray, np.uint8)
  canvas[place[1] : place[1] + pixels.shape[0], place[0] : place[0] + pixels.shape[1]] = pixels
  return canvas


# ---------------------------------------------------------------------------------------------------------------------
# Geometry.


def test_a_square_turns_and_scales_with_its_face():
  landmarks = np.random.default_rng(0).normal(0, 10, (478, 2))
  landmarks[LEFT_EYE], landmarks[RIGHT_EYE] = (-20, -10), (20, -10)
  landmarks[MOUTH_CORNERS] = [(-12, 25), (12, 25)]
  square = face_square(landmarks)
  assert square.roll == pytest.approx(0, abs=1e-9)
  assert square.side == pytest.approx(np.ptp(landmarks, axis=0).max())
  angle = np.radians(33.0)
  turn = np.array([[np.cos(angle), -np.sin(angle)], [np.sin(angle), np.cos(angle)]])
  turned = face_square(2 * landmarks @ turn.T + (300, 40))
  assert turned.roll == pytest.approx(33)
  assert turned.side == pytest.approx(2 * square.side)
  np.testing.assert_allclose(turned.centre, 2 * turn @ square.centre + (300, 40))


def test_a_crop_shows_the_square_upright():
  square = FaceSquare(np.array([100.0, 60.0]), 40.0, 90.0)
  matrix = square.crop(128, margin=1.0)
  # A head that leans clockwise by 90 degrees looks with its crown to the right: the right edge is the crop's top.
  np.testing.assert_allclose(matrix @ (120, 60, 1), (64, 0), atol=1e-9)
  np.testing.assert_allclose(matrix @ (100, 80, 1), (128, 64), atol=1e-9)


def test_warping_by_whole_pixels_moves_pixels():
  picture = np.arange(48, dtype=np.uint8).reshape(6, 8)
  matrix = np.array([[1.0, 0, -2], [0, 1, -1]])
  np.testing.assert_array_equal(warp(picture, matrix, 4), picture[1:5, 2:6])


def test_what_is_shrunk_is_averaged():
  rows = np.zeros((1024, 1024), np.uint8)
  rows[::2] = 200  # a stripe a pixel: sampled without averaging it is all 200 or all 0
  small = shrunk(rows, np.array([[0.125, 0, 0], [0, 0.125, 0]]), 128)
  np.testing.assert_allclose(small[4:-4, 4:-4], 100, atol=2)


def test_shrinking_leaves_things_where_they_are():
  y, x = np.mgrid[:600, :800]
  picture = np.clip(0.2 * x + 0.1 * y, 0, 255).astype(np.uint8)
  square = FaceSquare(np.array([410.0, 290.0]), 300.0, 20.0)
  matrix = square.crop(64)
  inside = (slice(8, 56), slice(8, 56))
  expected = cv2.resize(warp(picture, square.crop(512), 512), (64, 64), interpolation=cv2.INTER_AREA)
  np.testing.assert_allclose(shrunk(picture, matrix, 64)[inside].astype(float), expected[inside], atol=1.6)


@pytest.mark.parametrize("shape", [(1225, 1633), (1633, 1225), (275, 225), (40, 40), (30, 900), (24, 25)])
def test_the_pyramid_lays_pictures_apart(shape):
  picture = np.random.default_rng(0).integers(0, 120, shape).astype(np.uint8)  # nothing as bright as the gaps
  canvas, places = embedded_faces._pyramid(picture)
  taken = np.zeros(canvas.shape, int)
  for scale, (left, top, width, height) in places:
    assert left % embedded_faces.DETECTOR_STRIDE == top % embedded_faces.DETECTOR_STRIDE == 0
    taken[top : top + height, left : left + width] += 1
    assert max(width, height) == pytest.approx(scale * max(shape), abs=1)
  assert taken.max() == 1
  np.testing.assert_array_equal(canvas[taken == 0], 128)
  assert max(places[-1][1][2:]) < 2 * embedded_faces.DETECTOR_SIDE
  assert places[0][0] <= 1


def test_cells_that_speak_of_one_face_are_blended():
  said = np.array(
    [
      [2.0, 100, 50, np.log(40), 1, 0],
      [2.0, 102, 50, np.log(40), 0, 1],
      [0.5, 300, 50, np.log(30), 1, 0],
    ]
  )
  near, far = embedded_faces._blended(said)
  np.testing.assert_allclose(near.centre, (101, 50))
  assert near.side == pytest.approx(40)
  assert near.roll == pytest.approx(45)
  np.testing.assert_allclose(far.centre, (300, 50))


# ---------------------------------------------------------------------------------------------------------------------
# Photos that packages ship.


def test_the_astronaut_is_found_where_mediapipe_finds_her(embedded_finder):
  [face] = embedded_finder.find(data.astronaut())
  assert face.landmarks.shape == (478, 2)
  assert face.depth.shape == (478,)
  assert framing_error(face.landmarks, ASTRONAUT) < 0.05
  # The tip of the nose is nearer than the outline.
  assert face.depth[4] > face.depth[[234, 454]].max()


def test_a_face_in_a_mirror_is_the_mirrored_face(embedded_finder):
  photo = data.astronaut()
  [face], [mirrored] = embedded_finder.find(photo), embedded_finder.find(np.ascontiguousarray(photo[:, ::-1]))
  expected = framing_points(face.landmarks)[[1, 0, 3, 2]] * (-1, 1) + (photo.shape[1], 0)
  assert framing_error(mirrored.landmarks, expected) < 0.02


@pytest.mark.parametrize("degrees", [-45, -20, 20, 45, 90, 180, 270])
def test_a_leaning_head_is_found(embedded_finder, degrees):
  photo = data.astronaut()
  matrix = FaceSquare(np.array([256.0, 200.0]), 400.0, -degrees).crop(512, margin=1.28)
  [face] = embedded_finder.find(warp(photo, matrix, 512, cv2.BORDER_REFLECT_101))
  expected = ASTRONAUT @ matrix[:, :2].T + matrix[:, 2]
  assert framing_error(face.landmarks, expected) < 0.06
  assert (face_square(face.landmarks).roll - degrees + 180) % 360 - 180 == pytest.approx(0, abs=6)


@pytest.mark.parametrize("side", [40, 80, 160])
def test_a_small_face_in_a_large_photo_is_found(embedded_finder, side):
  photo = data.astronaut()[:300, 60:400]
  scale = side / 108  # she fills 108 pixels
  small = cv2.resize(photo, None, fx=scale, fy=scale, interpolation=cv2.INTER_AREA)
  [face] = embedded_finder.find(on_canvas(small, (1225, 1633), (900, 500)))
  assert framing_error(face.landmarks, (ASTRONAUT - (60, 0)) * scale + (900, 500)) < 0.08


def test_a_face_that_fills_the_picture_is_found(embedded_finder):
  [face] = embedded_finder.find(data.astronaut())
  left, top, right, bottom = np.round(face.box).astype(int)
  [close] = embedded_finder.find(data.astronaut()[top - 4 : bottom + 4, left - 4 : right + 4])
  assert framing_error(close.landmarks, ASTRONAUT - (left - 4, top - 4)) < 0.08


def test_several_faces_come_from_left_to_right(embedded_finder):
  photo = data.astronaut()[:300, 60:400]
  half = cv2.resize(photo, None, fx=0.5, fy=0.5, interpolation=cv2.INTER_AREA)
  faces = embedded_finder.find(np.hstack([photo, on_canvas(half, photo.shape[:2], (100, 60)), photo]))
  assert len(faces) == 3
  lefts = [face.box[0] for face in faces]
  assert lefts == sorted(lefts)
  assert np.ptp(faces[1].box[::2]) == pytest.approx(np.ptp(faces[0].box[::2]) / 2, rel=0.1)


def test_gray_and_16_bits_are_the_same_photo(embedded_finder):
  photo = data.astronaut()
  [expected] = embedded_finder.find(photo)
  [deep] = embedded_finder.find(photo.astype(np.uint16) * 257)
  np.testing.assert_allclose(deep.landmarks, expected.landmarks, atol=1e-6)
  gray = cv2.cvtColor(cv2.cvtColor(photo, cv2.COLOR_RGB2GRAY), cv2.COLOR_GRAY2RGB)
  [gray] = embedded_finder.find(gray)
  np.testing.assert_allclose(gray.landmarks, expected.landmarks, atol=0.5)


@pytest.mark.parametrize("light", [0.25, 3.0])
def test_a_dark_or_a_bright_photo_has_its_face(embedded_finder, light):
  exposed = np.clip(255 * light ** (1 / 2.2) * (data.astronaut() / 255.0), 0, 255).astype(np.uint8)
  [face] = embedded_finder.find(exposed)
  assert framing_error(face.landmarks, ASTRONAUT) < 0.06


@pytest.mark.parametrize("name", ["coffee", "chelsea", "rocket", "coins", "page", "brick", "gravel", "motorcycle"])
def test_no_face_is_seen_where_none_is(embedded_finder, name):
  picture = data.stereo_motorcycle()[0] if name == "motorcycle" else getattr(data, name)()
  picture = picture if picture.ndim == 3 else np.repeat(picture[..., None], 3, axis=2)
  assert embedded_finder.find(np.ascontiguousarray(picture[..., :3])) == []


@pytest.mark.parametrize("picture", ["black", "noise", "one pixel", "a line"])
def test_odd_pictures_hold_no_face(embedded_finder, picture):
  noise = np.random.default_rng(0).integers(0, 256, (300, 400, 3)).astype(np.uint8)
  shown = {"black": np.zeros((64, 64, 3), np.uint8), "noise": noise, "one pixel": noise[:1, :1], "a line": noise[:1]}
  assert embedded_finder.find(shown[picture]) == []


def test_following_finds_the_face_where_it_went(embedded_finder):
  photo = data.astronaut()
  [face] = embedded_finder.find(photo)
  moved = np.roll(photo, (6, 9), axis=(0, 1))
  followed = embedded_finder.follow(moved, face)
  assert framing_error(followed.landmarks, ASTRONAUT + np.array([9, 6])) < 0.05
  assert embedded_finder.follow(np.full_like(photo, 90), face) is None


def test_a_closed_finder_says_so():
  finder = EmbeddedFaceFinder()
  with finder:
    pass
  with pytest.raises(ValueError, match="closed"):
    finder.find(data.astronaut())


# ---------------------------------------------------------------------------------------------------------------------
# Weights.


def test_the_packaged_weights_are_small():
  assert WEIGHTS.stat().st_size <= 4_000_000


def test_the_packaged_weights_are_of_these_networks():
  check_structure(read_archive(WEIGHTS), jax.eval_shape(initial_variables, jax.random.key(0)), WEIGHTS)


def test_partners_in_a_mirror_come_in_pairs():
  partner = np.asarray(read_weights(WEIGHTS)["partner"])
  np.testing.assert_array_equal(partner[partner], np.arange(478))
  assert set(partner[LEFT_EYE]) == set(RIGHT_EYE)


def write(path, change):
  shapes = jax.eval_shape(initial_variables, jax.random.key(0))
  random = np.random.default_rng(0)  # as numbers that were learnt, these hardly shrink; noughts would not be believed
  variables = jax.tree.map(lambda leaf: random.normal(size=leaf.shape).astype(np.float32), shapes)
  variables["partner"] = np.arange(478, dtype=np.float32)
  change(variables)
  save_params(path, variables)
  return path


def test_weights_that_are_missing_or_damaged_are_named(tmp_path):
  with pytest.raises(BadInput, match=r"nowhere\.npz: .*missing"):
    EmbeddedFaceFinder(tmp_path / "nowhere.npz")
  (tmp_path / "cut.npz").write_bytes(WEIGHTS.read_bytes()[:5000])
  with pytest.raises(BadInput, match=r"cut\.npz"):
    EmbeddedFaceFinder(tmp_path / "cut.npz")


def test_weights_of_another_network_are_named(tmp_path):
  def shorten(variables):
    variables["landmarker"]["params"]["presence"]["bias"] = np.zeros(2, np.float32)

  with pytest.raises(BadInput, match=r"other\.npz: .*presence"):
    EmbeddedFaceFinder(write(tmp_path / "other.npz", shorten))

  def lose_a_partner(variables):
    variables["partner"][3] = 4

  with pytest.raises(BadInput, match=r"twice\.npz: 'partner'"):
    EmbeddedFaceFinder(write(tmp_path / "twice.npz", lose_a_partner))


# ---------------------------------------------------------------------------------------------------------------------
# Beside MediaPipe.


def test_every_face_that_mediapipe_finds_is_found(embedded_finder, finder, shared):
  from dpr_jax.image.photo import read_photo, to_8_bits

  photos = [*sorted(shared("photos").iterdir()), shared("reference/dpr/obama.jpg")]
  for path in photos:
    pixels = to_8_bits(read_photo(path).pixels)
    expected, found = finder.find(pixels), embedded_finder.find(pixels)
    assert len(found) == len(expected), path.name
    for face, other in zip(found, expected, strict=True):
      assert overlap(face.box, other.box) > 0.7, path.name


def test_held_out_portraits_are_framed_as_mediapipe_frames_them(embedded_finder, finder, shared):
  from data_gen.face_finder.teacher import label_portraits, split_portraits

  _, held_out = split_portraits(shared("portraits/congress"))
  errors = []
  for portrait in label_portraits(held_out, finder):
    [face] = embedded_finder.find(portrait.pixels)
    errors.append(framing_error(face.landmarks, framing_points(portrait.points[:, :2])))
  assert np.median(errors) <= 0.025
  assert np.percentile(errors, 95) <= 0.06


def test_proposals_of_a_photo_hold_its_face():
  variables = read_weights(WEIGHTS)["detector"]
  photo = cv2.cvtColor(data.astronaut(), cv2.COLOR_RGB2GRAY)
  middle = ASTRONAUT.mean(axis=0)
  first = detector_squares(variables, photo)[0]
  assert np.linalg.norm(first.centre - middle) < 0.2 * first.side
