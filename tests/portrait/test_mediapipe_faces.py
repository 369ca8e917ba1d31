"""MediaPipe's face finder, which needs its model from the reference data."""

import importlib
import os
import subprocess
import sys

import cv2
import numpy as np
import pytest
from skimage import data

from dpr_jax.base.errors import BadInput
from dpr_jax.base.native_libraries import MissingSystemLibrary, import_native, is_installed
from dpr_jax.image.photo import read_photo
from dpr_jax.portrait import mediapipe_faces
from dpr_jax.portrait.faces import OVAL, Face, frame_face, mirror_image
from dpr_jax.portrait.mediapipe_faces import MediaPipeFaceFinder
from dpr_jax.portrait.square import cut_square

if not is_installed("mediapipe"):
  pytest.skip("MediaPipe (extra `mediapipe`) is not installed", allow_module_level=True)

# MediaPipe's landmark numbers, copied from its documentation of the face mesh; left and right as seen in the picture.
LEFT_EYE = [33, 7, 163, 144, 145, 153, 154, 155, 133, 173, 157, 158, 159, 160, 161, 246]
RIGHT_EYE = [263, 249, 390, 373, 374, 380, 381, 382, 362, 398, 384, 385, 386, 387, 388, 466]
LEFT_MOUTH_CORNER, RIGHT_MOUTH_CORNER = 61, 291


@pytest.fixture(scope="module")
def two_faces(shared):
  return read_photo(shared("photos/two_faces.jpg")).pixels


def height_of(face):
  return face.box[3] - face.box[1]


def relative_error(face, expected):
  """Mean distance of the landmarks over the height of the face."""
  return np.linalg.norm(face.landmarks - expected.landmarks, axis=1).mean() / height_of(expected)


def depth_error(face, expected, scale=1.0):
  """Mean error of the depth over the height of the face."""
  return np.abs(face.depth - scale * expected.depth).mean() / (scale * height_of(expected))


def on_canvas(pixels, height, width, left, top):
  canvas = np.full((height, width, 3), 128, np.uint8)
  canvas[top : top + pixels.shape[0], left : left + pixels.shape[1]] = pixels
  return canvas


# Known photos.


@pytest.mark.parametrize(
  ("name", "count"),
  [
    ("photos/two_faces.jpg", 2),
    ("photos/crowd.jpg", 3),
    ("photos/ffhq_00300.png", 1),
    ("photos/ffhq_00508.png", 1),  # curls are no faces
    ("reference/dpr/obama.jpg", 1),
  ],
)
def test_every_face_of_a_photo_is_found_once(shared, finder, name, count):
  found = finder.find(read_photo(shared(name)).pixels)
  assert len(found) == count
  lefts = [face.box[0] for face in found]
  assert lefts == sorted(lefts)
  for face in found:
    assert face.landmarks.shape == (478, 2)
    left, top, right, bottom = face.box
    assert 0.5 < (right - left) / (bottom - top) < 1.2


def test_the_astronaut_is_found_where_she_is(finder):
  [face] = finder.find(data.astronaut())
  eyes = [face.landmarks[outline].mean(axis=0) for outline in (LEFT_EYE, RIGHT_EYE)]
  np.testing.assert_allclose(eyes, [(203, 101), (247, 104)], atol=3)  # as read off the picture
  mouth = face.landmarks[[LEFT_MOUTH_CORNER, RIGHT_MOUTH_CORNER]]
  np.testing.assert_allclose(mouth, [(203, 140), (246, 140)], atol=3)


@pytest.mark.parametrize(
  "pixels",
  [
    data.coffee(),
    np.zeros((300, 400, 3), np.uint8),
    np.full((700, 300, 3), 255, np.uint8),
    np.full((600, 800, 3), 30000, np.uint16),
    np.zeros((1, 1, 3), np.uint8),
    np.full((3, 5000, 3), 90, np.uint8),
    np.full((5000, 3, 3), 90, np.uint8),
  ],
  ids=lambda pixels: "x".join(map(str, pixels.shape[:2])),
)
def test_no_face_is_found_where_there_is_none(finder, pixels):
  assert finder.find(pixels) == []


def test_a_shrunk_crowd_has_no_more_faces(shared, finder):
  """At MediaPipe's own threshold it has."""
  crowd = read_photo(shared("photos/crowd.jpg")).pixels
  assert len(finder.find(cv2.resize(crowd, None, fx=0.3, fy=0.3, interpolation=cv2.INTER_AREA))) == 3


def test_the_order_is_left_to_right_in_the_mirror_too(finder, two_faces):
  width = two_faces.shape[1]
  found = finder.find(two_faces)
  mirrored = finder.find(two_faces[:, ::-1])
  assert len(found) == len(mirrored) == 2
  for face, mirror in zip(found, reversed(mirrored), strict=True):
    centre, mirror_centre = (frame.landmarks[OVAL].mean(axis=0) for frame in (face, mirror))
    np.testing.assert_allclose(mirror_centre, (width - centre[0], centre[1]), atol=0.02 * height_of(face))


def test_faces_upside_down_are_found_where_they_are(finder, two_faces):
  upright, turned = finder.find(two_faces), finder.find(two_faces[::-1, ::-1])
  extent = np.array(two_faces.shape[1::-1])
  assert len(turned) == len(upright) == 2
  for face, expected in zip(turned, reversed(upright), strict=True):
    assert relative_error(Face(extent - face.landmarks), expected) < 0.02
    roll = frame_face(face, 512).roll - frame_face(expected, 512).roll
    assert abs((roll + 360) % 360 - 180) < 2


def test_16_bits_give_the_same_faces(finder, two_faces, obama):
  for pixels in (two_faces, obama, data.astronaut()):
    deep = pixels.astype(np.uint16) * 257
    for face, deep_face in zip(finder.find(pixels), finder.find(deep), strict=True):
      np.testing.assert_allclose(deep_face.landmarks, face.landmarks, atol=0.05)


def test_a_read_only_photo_will_do(finder):
  pixels = data.astronaut()
  pixels.flags.writeable = False
  assert len(finder.find(pixels)) == 1


# Small faces and large photos.


@pytest.mark.parametrize(("x", "y"), [(0.06, 0.06), (0.5, 0.5), (0.74, 0.26), (0.95, 0.95)])
def test_a_face_of_a_twentieth_of_the_frame_is_found(finder, obama, x, y):
  [portrait] = finder.find(obama)
  scale = 0.05 * 2048 / height_of(portrait)
  small = cv2.resize(obama, None, fx=scale, fy=scale, interpolation=cv2.INTER_AREA)
  left, top = (round(share * (2048 - side)) for share, side in ((x, small.shape[1]), (y, small.shape[0])))
  [face] = finder.find(on_canvas(small, 2048, 2048, left, top))
  assert relative_error(Face((face.landmarks - (left, top)) / scale), portrait) < 0.01


def test_landmarks_are_as_precise_in_a_large_photo(finder, obama):
  [portrait] = finder.find(obama)
  [face] = finder.find(on_canvas(obama, 3000, 4200, 2300, 1400))
  assert relative_error(Face(face.landmarks - (2300, 1400)), portrait) < 0.004


def test_landmarks_scale_with_the_photo(finder, obama):
  [portrait] = finder.find(obama)
  [face] = finder.find(cv2.resize(obama, None, fx=2, fy=2, interpolation=cv2.INTER_CUBIC))
  assert relative_error(Face(face.landmarks / 2), portrait) < 0.004


@pytest.mark.parametrize("shape", [(1000, 1000), (689, 1536), (1901, 3913), (4001, 300), (512, 511), (257, 100)])
def test_whatever_is_under_half_a_tile_lies_whole_in_one(shape):
  longer = max(shape)
  by_side = {}
  for left, top, side in mediapipe_faces._tiles(*shape):
    by_side.setdefault(side, []).append((left, top))
  halves = [-(-longer // divisor) for divisor in (2, 4)]
  assert set(by_side) == {longer} | {side for side in halves if side >= 256}
  assert by_side[longer] == [(0, 0)]
  for side, corners in by_side.items():
    for extent, starts in ((shape[1], {left for left, _ in corners}), (shape[0], {top for _, top in corners})):
      whole = side // 2  # as long as what is looked for
      for position in range(max(1, extent - whole + 1)):
        assert any(start <= position and position + whole <= start + side for start in starts)
    assert len(set(corners)) == len(corners)


# What is made of MediaPipe's finds, by a script of them: (left, top, side) of the square searched -> faces.


def box_face(left, top, right, bottom):
  return Face(np.tile([(left, top), (right, bottom)], (239, 1)).astype(float), np.zeros(478))


def found_with(monkeypatch, finder, script, shape=(600, 600, 3)):
  """The boxes that are found where MediaPipe sees what `script` says of left, top and side of a square of the photo."""
  width = shape[1]

  def look(self, pixels, left, top, side):
    if pixels.strides[1] > 0:
      return script(left, top, side)
    return [mirror_image(face, width) for face in script(width - left - side, top, side)]

  monkeypatch.setattr(MediaPipeFaceFinder, "_find_in_square", look)
  return [face.box.tolist() for face in finder.find(np.zeros(shape, np.uint8))]


def test_two_views_of_one_face_count_once(monkeypatch, finder):
  views = [box_face(100, 100, 200, 200), box_face(180, 100, 280, 200)]
  script = {600: views, 300: views[:1], 200: [box_face(150, 100, 250, 200)]}  # the last are the close-ups
  assert found_with(monkeypatch, finder, lambda left, top, side: script[side]) == [[150, 100, 250, 200]]


def test_a_close_up_decides(monkeypatch, finder):
  """Of several faces that it shows, the one that was meant is taken; without any, there was none."""
  views = [box_face(100, 100, 200, 200), box_face(300, 100, 400, 200), box_face(300, 400, 400, 500)]
  close_ups = {
    (50, 50): [box_face(195, 100, 290, 200), box_face(104, 101, 203, 202)],
    (250, 50): [],
    (250, 350): [box_face(301, 401, 399, 499)],
  }
  expected = [[104, 101, 203, 202], [301, 401, 399, 499]]

  def script(left, top, side):
    return close_ups[left, top] if side == 200 else views

  assert found_with(monkeypatch, finder, script) == expected


def test_a_face_is_where_photo_and_mirror_image_say_on_average(monkeypatch, finder):
  looks = iter([box_face(100, 100, 200, 200), box_face(99, 104, 201, 206)])
  views = {600: [box_face(99, 101, 203, 199)], 300: []}
  found = found_with(monkeypatch, finder, lambda left, top, side: views[side] if side in views else [next(looks)])
  assert found == [[99.5, 102, 200.5, 203]]


@pytest.mark.parametrize("looks", [([box_face(101, 100, 202, 200)], []), ([],)], ids=["photo", "nowhere"])
def test_the_look_at_the_photo_decides_whether_there_is_a_face(monkeypatch, finder, looks):
  answers = iter(looks)
  views = {600: [box_face(100, 100, 200, 200)], 300: []}
  found = found_with(monkeypatch, finder, lambda left, top, side: views[side] if side in views else next(answers, []))
  assert found == [face.box.tolist() for face in looks[0]]


def test_a_mirrored_photo_has_the_mirrored_face(finder, obama):
  [face], [other] = finder.find(obama), finder.find(np.ascontiguousarray(obama[:, ::-1]))
  other = mirror_image(other, obama.shape[1])
  eyes = np.linalg.norm(np.subtract(*(face.landmarks[eye].mean(axis=0) for eye in (LEFT_EYE, RIGHT_EYE))))
  assert np.linalg.norm(other.landmarks - face.landmarks, axis=1).mean() < 0.005 * eyes
  np.testing.assert_allclose(other.depth, face.depth, atol=0.03 * eyes)


def test_a_face_that_a_tile_cuts_off_is_left_to_the_other_tiles(monkeypatch, finder):
  cut, at_the_photos_edge = box_face(180, 50, 299.5, 150), box_face(500, 50, 599.5, 150)

  def script(left, top, side):
    if side == 300:
      return {(0, 0): [cut], (300, 0): [at_the_photos_edge]}.get((left, top), [])
    return [] if side == 600 else [cut if left < 300 else at_the_photos_edge]

  assert found_with(monkeypatch, finder, script) == [[500, 50, 599.5, 150]]


def test_faces_too_small_to_have_shading_are_left_out(monkeypatch, finder):
  views = [box_face(100, 100, 123, 130), box_face(300, 100, 325, 130)]

  def script(left, top, side):
    return views if side in (300, 600) else [views[0] if left < 200 else views[1]]

  assert found_with(monkeypatch, finder, script) == [[300, 100, 325, 130]]


# Depth.


def test_the_nose_is_nearest_and_the_outline_farthest(finder, two_faces, obama):
  for face in [*finder.find(two_faces), *finder.find(obama)]:
    assert face.depth.shape == (478,)
    nose_tip, eye_corners = 4, [33, 133, 362, 263]
    assert face.depth[nose_tip] > face.depth[eye_corners].max() > face.depth[OVAL].mean()
    # As deep as a head is, in the photo's pixels.
    assert 0.2 < (face.depth[nose_tip] - face.depth[OVAL].min()) / height_of(face) < 1.0


def test_depth_is_in_pixels_of_the_photo_wherever_the_face_is(finder, obama):
  [portrait] = finder.find(obama)
  [upscaled] = finder.find(cv2.resize(obama, None, fx=2, fy=2, interpolation=cv2.INTER_CUBIC))
  assert depth_error(upscaled, portrait, 2) < 0.01
  [on_a_large_canvas] = finder.find(on_canvas(obama, 3000, 4200, 2300, 1400))
  assert depth_error(on_a_large_canvas, portrait) < 0.01


def test_depth_survives_the_look_upside_down(finder, two_faces):
  upright, turned = finder.find(two_faces), finder.find(two_faces[::-1, ::-1])
  for face, expected in zip(turned, reversed(upright), strict=True):
    assert depth_error(face, expected) < 0.03


# Rotated photos.


def rotated(pixels, degrees):
  """The photo turned clockwise on a black canvas that holds all of it, and the matrix that turned it."""
  height, width = pixels.shape[:2]
  side = int(np.hypot(height, width))
  matrix = cv2.getRotationMatrix2D((width / 2, height / 2), -degrees, 1)
  matrix[:, 2] += (side - width) / 2, (side - height) / 2
  return cv2.warpAffine(pixels, matrix, (side, side)), matrix


def assert_framed_alike(finder, pixels, degrees):
  turned, matrix = rotated(pixels, degrees)
  upright, found = finder.find(pixels), finder.find(turned)
  assert len(found) == len(upright)
  for face in upright:
    expected = frame_face(face, 256)
    centre = matrix[:, :2] @ face.landmarks[OVAL].mean(axis=0) + matrix[:, 2]
    nearest = min(found, key=lambda other: np.linalg.norm(other.landmarks[OVAL].mean(axis=0) - centre))
    framing = frame_face(nearest, 256)
    assert framing.roll - expected.roll == pytest.approx(degrees, abs=2)
    # Where the upright photo's framing puts a point, this one puts it too, within a few of 256 pixels.
    corners = np.array([(0, 0), (256, 0), (256, 256), (0, 256)]) - expected.matrix[:, 2]
    corners = corners @ np.linalg.inv(expected.matrix[:, :2]).T @ matrix[:, :2].T + matrix[:, 2]
    corners = corners @ framing.matrix[:, :2].T + framing.matrix[:, 2]
    np.testing.assert_allclose(corners, [(0, 0), (256, 0), (256, 256), (0, 256)], atol=8)
    middle = np.s_[48:208, 48:208]
    difference = cut_square(turned, framing)[middle].astype(float) - cut_square(pixels, expected)[middle]
    assert np.abs(difference).mean() < 10


@pytest.mark.parametrize("degrees", [-60, -40, -20, 20, 40, 60])
def test_a_leaning_head_is_framed_upright(finder, degrees):
  assert_framed_alike(finder, data.astronaut(), degrees)


@pytest.mark.parametrize("degrees", [-60, 40])
def test_leaning_heads_are_framed_upright(shared, finder, two_faces, degrees):
  assert_framed_alike(finder, two_faces, degrees)
  assert_framed_alike(finder, read_photo(shared("photos/ffhq_00508.png")).pixels, degrees)


def test_the_landmark_numbers_are_mediapipes():
  connections = import_native("mediapipe.tasks.python.vision").FaceLandmarksConnections

  def numbers(connections):
    return {end for connection in connections for end in (connection.start, connection.end)}

  # MediaPipe's left and right are the subject's.
  assert numbers(connections.FACE_LANDMARKS_RIGHT_EYE) == set(LEFT_EYE)
  assert numbers(connections.FACE_LANDMARKS_LEFT_EYE) == set(RIGHT_EYE)
  assert numbers(connections.FACE_LANDMARKS_FACE_OVAL) == set(OVAL)
  follows = {(c.start, c.end) for c in connections.FACE_LANDMARKS_FACE_OVAL}
  assert set(zip(OVAL, OVAL[1:] + OVAL[:1], strict=True)) == follows


# The life of a finder.


def test_a_finder_is_used_for_several_photos_and_closed(shared, two_faces):
  shared("models/face_landmarker.task")
  with MediaPipeFaceFinder() as finder:
    first = finder.find(data.astronaut())
    assert len(finder.find(two_faces)) == 2
    assert finder.find(data.coffee()) == []
    again = finder.find(data.astronaut())
    np.testing.assert_array_equal(again[0].landmarks, first[0].landmarks)
  with pytest.raises(ValueError, match="closed"):
    finder.find(data.astronaut())
  finder.close()  # once more does no harm


def test_the_native_log_stays_off_the_terminal(shared):
  shared("models/face_landmarker.task")
  program = """
import sys
import numpy as np
from dpr_jax.portrait.mediapipe_faces import MediaPipeFaceFinder

with MediaPipeFaceFinder() as finder:
  finder.find(np.zeros((700, 300, 3), np.uint8))
with MediaPipeFaceFinder() as finder:
  print("found", len(finder.find(np.zeros((64, 64, 3), np.uint8))))
print("but this is", file=sys.stderr)
"""
  run = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, timeout=600, check=True)
  assert run.stdout == "found 0\n"
  assert run.stderr == "but this is\n"


def test_a_closed_stderr_does_no_harm(shared):
  shared("models/face_landmarker.task")
  code = "import numpy as np; from dpr_jax.portrait.mediapipe_faces import MediaPipeFaceFinder as Finder"
  code += "; print(Finder().find(np.zeros((64, 64, 3), np.uint8)))"
  command = ["sh", "-c", f'exec "{sys.executable}" -c "{code}" 2>&-']
  assert subprocess.run(command, stdout=subprocess.PIPE, text=True, check=True).stdout == "[]\n"


def test_a_wrong_model_is_refused(tmp_path, monkeypatch):
  (tmp_path / "face_landmarker.task").write_bytes(b"another model")
  monkeypatch.setenv("DPR_ASSETS", str(tmp_path))
  with pytest.raises(BadInput, match="not the expected file"):
    MediaPipeFaceFinder()


SENTENCE = (
  "mediapipe needs a system library that is missing here (libEGL.so.1: cannot open shared object file: No such file or "
  "directory); on Debian or Ubuntu: apt-get install libegl1 libgles2 libgl1"
)


def fail_to_load(*arguments, **options):
  raise OSError("libEGL.so.1: cannot open shared object file: No such file or directory")


def test_mediapipe_brings_neither_tensorflow_nor_matplotlib(tmp_path):
  (tmp_path / "tensorflow.py").write_text("print('tensorflow was imported')")
  program = """
import sys
from dpr_jax.base.native_libraries import import_native
import_native("mediapipe.tasks.python")
assert not {"tensorflow", "matplotlib", "matplotlib.pyplot"} & sys.modules.keys()
import tensorflow  # who wants it gets it
from mediapipe.tasks.python.vision import drawing_utils
assert callable(drawing_utils.plt.figure)
import matplotlib.pyplot
assert matplotlib.pyplot.figure is drawing_utils.plt.figure
"""
  result = subprocess.run(
    [sys.executable, "-c", program], env=os.environ | {"PYTHONPATH": str(tmp_path)}, capture_output=True, text=True
  )
  assert result.returncode == 0, result.stderr
  assert result.stdout == "tensorflow was imported\n"


def test_a_missing_library_is_named_on_import(shared, monkeypatch):
  shared("models/face_landmarker.task")
  monkeypatch.setattr(importlib, "import_module", fail_to_load)
  with pytest.raises(MissingSystemLibrary) as caught:
    MediaPipeFaceFinder()
  assert str(caught.value) == SENTENCE


def test_a_missing_library_is_named_on_first_use(shared, monkeypatch, capfd):
  shared("models/face_landmarker.task")
  vision = import_native("mediapipe.tasks.python.vision")
  monkeypatch.setattr(vision.FaceLandmarker, "create_from_options", fail_to_load)
  with pytest.raises(MissingSystemLibrary) as caught:
    MediaPipeFaceFinder()
  assert str(caught.value) == SENTENCE
  os.write(2, b"heard again")
  assert capfd.readouterr().err == "heard again"


# From frame to frame.


@pytest.mark.parametrize("turns", [0, 2])
def test_a_face_is_followed(finder, turns):
  """A single look finds what a search of the whole picture finds, also with the head upside down."""
  before = on_canvas(data.astronaut()[:256, 64:320], 400, 500, 40, 60)
  after = on_canvas(data.astronaut()[:256, 64:320], 400, 500, 52, 55)
  before, after = (np.ascontiguousarray(np.rot90(frame, turns)) for frame in (before, after))
  [seen], [expected] = finder.find(before), finder.find(after)
  followed = finder.follow(after, seen)
  assert relative_error(followed, expected) < 0.02
  assert depth_error(followed, expected) < 0.05
  assert relative_error(seen, expected) > 0.1


def test_a_face_that_is_gone_is_not_followed(finder):
  frame = on_canvas(data.astronaut()[:256, 64:320], 400, 900, 20, 60)
  [seen] = finder.find(frame)
  assert finder.follow(np.full_like(frame, 128), seen) is None
  assert finder.follow(np.roll(frame, 500, axis=1), seen) is None


def test_a_closed_finder_follows_nothing(shared):
  shared("models/face_landmarker.task")
  with MediaPipeFaceFinder() as finder:
    pass
  with pytest.raises(ValueError, match="closed"):
    finder.follow(np.zeros((64, 64, 3), np.uint8), Face(np.zeros((478, 2))))
