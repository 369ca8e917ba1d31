"""What both face finders share: the framing, against the published rule, and which finder is taken."""

import sys
import types

import numpy as np
import pytest

from dpr_jax.base.errors import BadInput
from dpr_jax.base.native_libraries import MissingSystemLibrary
from dpr_jax.image.pictures import astronaut
from dpr_jax.portrait import face_finders, mediapipe_faces
from dpr_jax.portrait.face_finders import choose_face_finder, find_faces, open_face_finder
from dpr_jax.portrait.faces import Face, frame_face, mirror_image

# MediaPipe's landmark numbers, copied from its documentation of the face mesh; left and right as seen in the picture.
LEFT_EYE = [33, 7, 163, 144, 145, 153, 154, 155, 133, 173, 157, 158, 159, 160, 161, 246]
RIGHT_EYE = [263, 249, 390, 373, 374, 380, 381, 382, 362, 398, 384, 385, 386, 387, 388, 466]
LEFT_MOUTH_CORNER, RIGHT_MOUTH_CORNER = 61, 291


# The framing of CelebA-HQ.


def face_with(left_eye, right_eye, mouth, mouth_width=30.0):
  """A face by hand: rings of landmarks around the eyes, two at the mouth, the others where they must not matter."""
  landmarks = np.full((478, 2), -1e4)
  ring = 2 * np.pi * np.arange(16) / 16
  for outline, centre in ((LEFT_EYE, left_eye), (RIGHT_EYE, right_eye)):
    landmarks[outline] = np.array(centre) + np.column_stack([12 * np.cos(ring), 5 * np.sin(ring)])
  along = np.subtract(right_eye, left_eye) / np.linalg.norm(np.subtract(right_eye, left_eye))
  landmarks[LEFT_MOUTH_CORNER] = mouth - along * mouth_width / 2
  landmarks[RIGHT_MOUTH_CORNER] = mouth + along * mouth_width / 2
  return Face(landmarks)


def test_a_mirror_image_of_a_face_has_its_eyes_on_the_other_sides():
  """Landmarks count from the corner of the first pixel: the left edge becomes the right one, `width` away."""
  face = face_with((100, 50), (160, 70), (120, 120))._replace(depth=np.arange(478.0))
  mirrored = mirror_image(face, 400)
  np.testing.assert_allclose(mirrored.landmarks[LEFT_EYE].mean(axis=0), (240, 70))
  np.testing.assert_allclose(mirrored.landmarks[RIGHT_EYE].mean(axis=0), (300, 50))
  assert mirrored.depth[33] == face.depth[263]
  again = mirror_image(mirrored, 400)
  np.testing.assert_allclose(again.landmarks, face.landmarks)
  np.testing.assert_array_equal(again.depth, face.depth)


def framed(framing, points):
  return np.asarray(points, float) @ framing.matrix[:, :2].T + framing.matrix[:, 2]


def karras_rule(face, size, points):
  """Karras et al. 2018, appendix C, in complex numbers: x' - Rotate90(y') is x' + i y' where y grows downwards."""

  def position(indices):
    return complex(*face.landmarks[indices].mean(axis=0))

  e0, e1, m = position(LEFT_EYE), position(RIGHT_EYE), position([LEFT_MOUTH_CORNER, RIGHT_MOUTH_CORNER])
  x, y = e1 - e0, (e0 + e1) / 2 - m
  c, s = (e0 + e1) / 2 - 0.1 * y, max(4.0 * abs(x), 3.6 * abs(y))
  x = (x + 1j * y) / abs(x + 1j * y)
  q = (np.asarray(points, float) @ [1, 1j] - c) / x * size / s + size * (0.5 + 0.5j)
  return np.column_stack([q.real, q.imag]), np.degrees(np.angle(x))


@pytest.mark.parametrize(
  ("mouth_below", "side"),
  [(100, 400.0), (120, 432.0)],  # 4 eye distances, or 3.6 times from the eyes to the mouth, whichever is more
)
def test_an_upright_face_is_framed_by_the_rule(mouth_below, side):
  framing = frame_face(face_with((300, 400), (400, 400), (350, 400 + mouth_below)), 512)
  centre = np.array([350, 400 + 0.1 * mouth_below])
  assert framing.roll == pytest.approx(0, abs=1e-9)
  assert framing.size == 512
  corners = centre + side / 2 * np.array([(-1, -1), (1, -1), (1, 1), (-1, 1)])
  np.testing.assert_allclose(framed(framing, corners), [(0, 0), (512, 0), (512, 512), (0, 512)], atol=1e-9)


@pytest.mark.parametrize("size", [64, 512, 1024])
@pytest.mark.parametrize(
  "points",
  [
    ((300, 400), (400, 400), (350, 500)),
    ((300, 400), (400, 400), (390, 480)),  # half turned away
    ((310, 380), (395, 440), (300, 500)),
    ((100, 100), (90, 150), (40, 120)),
    ((400, 400), (300, 400), (350, 300)),  # upside down
  ],
)
def test_any_face_is_framed_by_the_rule(points, size):
  face = face_with(*points)
  framing = frame_face(face, size)
  somewhere = np.random.default_rng(0).uniform(-500, 1500, (20, 2))
  expected, roll = karras_rule(face, size, somewhere)
  np.testing.assert_allclose(framed(framing, somewhere), expected, atol=1e-8)
  assert (framing.roll - roll + 180) % 360 - 180 == pytest.approx(0, abs=1e-9)


@pytest.mark.parametrize("degrees", [-170, -90, -35, 10, 45, 90])
@pytest.mark.parametrize("scale", [0.2, 1, 7])
def test_the_framing_moves_with_the_face(degrees, scale):
  face = face_with((300, 400), (400, 410), (360, 500))
  angle = np.radians(degrees)
  turn = scale * np.array([[np.cos(angle), -np.sin(angle)], [np.sin(angle), np.cos(angle)]])  # clockwise, as y is down
  moved = Face(face.landmarks @ turn.T + (37, -52))
  before, after = frame_face(face, 256), frame_face(moved, 256)
  np.testing.assert_allclose(framed(after, moved.landmarks), framed(before, face.landmarks), rtol=1e-9, atol=1e-7)
  assert (after.roll - before.roll - degrees + 180) % 360 - 180 == pytest.approx(0, abs=1e-9)


def test_the_box_holds_the_landmarks():
  landmarks = np.array([(5.0, 9.0), (3.0, 20.0), (8.0, 11.0)])
  np.testing.assert_array_equal(Face(landmarks).box, [3, 9, 8, 20])


# Which finder is taken.


class Finder:
  def __init__(self):
    self.closed = False

  def __enter__(self):
    return self

  def __exit__(self, *exception):
    self.close()

  def close(self):
    self.closed = True

  def find(self, pixels):
    return [self.name]


class MediaPipe(Finder):
  name = "mediapipe"


class Embedded(Finder):
  name = "embedded"


@pytest.fixture
def undecided(monkeypatch, tmp_path):
  """A process that has not looked for a face yet, in which MediaPipe is at hand; both finders are stand-ins."""
  monkeypatch.setattr(face_finders, "_default", None)
  monkeypatch.setattr(face_finders, "is_installed", lambda package: True)
  monkeypatch.setattr(mediapipe_faces, "is_installed", lambda package: True)
  monkeypatch.setattr(face_finders, "asset_path_within", lambda name, seconds: tmp_path)
  monkeypatch.setattr(mediapipe_faces, "asset_path", lambda name: tmp_path)
  monkeypatch.setattr(mediapipe_faces, "MediaPipeFaceFinder", MediaPipe)
  embedded = types.ModuleType("dpr_jax.portrait.embedded_faces")
  embedded.EmbeddedFaceFinder = Embedded
  monkeypatch.setitem(sys.modules, "dpr_jax.portrait.embedded_faces", embedded)
  monkeypatch.setattr("dpr_jax.portrait.embedded_faces", embedded, raising=False)
  return monkeypatch


def raising(error):
  def refuse(*arguments):
    raise error

  return refuse


def test_mediapipe_is_taken_where_it_is_at_hand(undecided, capsys):
  assert open_face_finder().name == choose_face_finder() == "mediapipe"
  assert find_faces(np.zeros((8, 8, 3), np.uint8)) == ["mediapipe"]
  assert capsys.readouterr().err == ""


NOT_INSTALLED = 'the package mediapipe is not installed (pip install -e ".[mediapipe]")'
NOT_FETCHED = "face_landmarker.task cannot be fetched (ConnectTimeout)"
NO_LIBRARY = "mediapipe needs a system library that is missing here (libEGL.so.1)"


@pytest.mark.parametrize("missing", [NOT_INSTALLED, NOT_FETCHED, NO_LIBRARY])
@pytest.mark.parametrize("first", [open_face_finder, choose_face_finder])
def test_otherwise_the_embedded_one_is_taken_and_one_line_says_why(undecided, capsys, missing, first):
  if missing == NOT_INSTALLED:
    undecided.setattr(face_finders, "is_installed", lambda package: False)
  elif missing == NOT_FETCHED:
    undecided.setattr(face_finders, "asset_path_within", raising(BadInput(missing)))
  else:
    undecided.setattr(mediapipe_faces, "MediaPipeFaceFinder", raising(MissingSystemLibrary(missing)))
  first()
  assert open_face_finder().name == choose_face_finder() == "embedded"
  assert find_faces(np.zeros((8, 8, 3), np.uint8)) == ["embedded"]
  [line] = capsys.readouterr().err.splitlines()
  assert line == (
    f"face finder: embedded, for {missing}. MediaPipe's landmarks are more precise, most of all on heads turned by "
    "up to 45 degrees"
  )


def test_a_process_does_not_change_its_mind(undecided, tmp_path):
  undecided.setattr(face_finders, "asset_path_within", raising(BadInput(NOT_FETCHED)))
  assert choose_face_finder() == "embedded"
  undecided.setattr(face_finders, "asset_path_within", lambda name, seconds: tmp_path)
  assert open_face_finder().name == choose_face_finder() == "embedded"
  assert open_face_finder("mediapipe").name == choose_face_finder("mediapipe") == "mediapipe"


def test_a_choice_leaves_no_finder_open(undecided):
  opened = []
  undecided.setattr(mediapipe_faces, "MediaPipeFaceFinder", lambda: opened.append(MediaPipe()) or opened[-1])
  assert choose_face_finder() == "mediapipe"
  assert [finder.closed for finder in opened] == [True]


def test_a_named_finder_is_taken_without_a_word(undecided, capsys):
  undecided.setattr(face_finders, "asset_path_within", raising(AssertionError("not asked")))
  for name in ("embedded", "mediapipe"):
    assert open_face_finder(name).name == choose_face_finder(name) == name
    assert find_faces(np.zeros((8, 8, 3), np.uint8), name) == [name]
  assert capsys.readouterr().err == ""
  assert face_finders._default is None


@pytest.mark.parametrize("function", [open_face_finder, choose_face_finder])
def test_an_unknown_finder_is_refused(function):
  with pytest.raises(BadInput, match=r"^--face_finder dlib: must be one of embedded, mediapipe$"):
    function("dlib")


@pytest.mark.parametrize("function", [open_face_finder, choose_face_finder])
def test_mediapipe_by_name_has_to_be_there(monkeypatch, tmp_path, function):
  monkeypatch.setattr(mediapipe_faces, "is_installed", lambda package: False)
  with pytest.raises(BadInput) as caught:
    function("mediapipe")
  assert str(caught.value) == '--face_finder mediapipe: the package is not installed; pip install -e ".[mediapipe]"'
  monkeypatch.setattr(mediapipe_faces, "is_installed", lambda package: True)
  monkeypatch.setattr(mediapipe_faces, "asset_path", raising(BadInput("face_landmarker.task: cannot be fetched")))
  with pytest.raises(BadInput, match=r"^face_landmarker.task: cannot be fetched$"):
    function("mediapipe")


def test_find_faces_finds_what_a_finder_finds():
  with open_face_finder() as finder:
    [expected] = finder.find(astronaut())
  for face_finder in (None, finder.name):
    [face] = find_faces(astronaut(), face_finder)
    np.testing.assert_array_equal(face.landmarks, expected.landmarks)
