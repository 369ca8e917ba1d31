"""MediaPipe's mesh as normals; the geometry is checked on the canonical face, turned about by hand."""

import cv2
import igl
import numpy as np
import pytest

from data_gen import face_mesh
from data_gen.face_maps import Label
from data_gen.face_mesh import CONTOURS, LEFT_BROW, LIPS, NOSE, RIGHT_BROW, face_maps, head_pose, subdivided
from dpr_jax.base.native_libraries import import_native, is_installed
from dpr_jax.image.photo import read_photo
from dpr_jax.portrait.canonical_face import PACKAGED, canonical_face, read_model, write
from dpr_jax.portrait.faces import LEFT_EYE, OVAL, RIGHT_EYE, Face, frame_face
from dpr_jax.portrait.landmark_mesh import LEAN

# MediaPipe's numbers, from its documentation of the face mesh.
NOSE_TIP, CHIN, FOREHEAD = 4, 152, 10
FEATURES = {"left eye": [33, 133, 159, 145], "right eye": [263, 362, 386, 374], "lips": [0, 13, 14, 17, 61, 291]}


@pytest.fixture(scope="module")
def canonical():
  return canonical_face()


@pytest.fixture(scope="module")
def portrait(shared, finder):
  pixels = read_photo(shared("photos/ffhq_00300.png")).pixels
  [face] = finder.find(pixels)
  return pixels, face, face_maps(pixels, face)


def rotation(yaw=0.0, pitch=0.0, roll=0.0):
  """Right-handed; x right, y up, z to the viewer: yaw to the picture's right, pitch up, roll clockwise."""
  (cy, cp, cr), (sy, sp, sr) = np.cos(np.radians([yaw, pitch, roll])), np.sin(np.radians([yaw, pitch, roll]))
  turn = np.array([[cy, 0, sy], [0, 1, 0], [-sy, 0, cy]])
  nod = np.array([[1, 0, 0], [0, cp, sp], [0, -sp, cp]])
  return np.array([[cr, sr, 0], [-sr, cr, 0], [0, 0, 1]]) @ turn @ nod


def as_seen(vertices, lean=LEAN, scale=20.0, centre=(256.0, 256.0)):
  """The face as MediaPipe would report a head with these vertices `[468, 3]`, lean and all."""
  up = vertices[FOREHEAD, :2] - vertices[CHIN, :2]
  height = (vertices[:, :2] - vertices[:, :2].mean(axis=0)) @ up / np.linalg.norm(up)
  landmarks = np.zeros((478, 2))
  depth = np.zeros(478)
  landmarks[:468] = scale * vertices[:, :2] * (1, -1) + centre
  depth[:468] = scale * (vertices[:, 2] + lean * height)
  return Face(landmarks, depth)


def canvas(size=512):
  return np.zeros((size, size, 3), np.uint8)


def elevation(normals):
  """Degrees by which the mean of `[N, 3]` points up; axes of `dpr_jax.light.sh`."""
  x, y, z = normals.mean(axis=0)
  return np.degrees(np.arctan2(z, np.hypot(x, y)))


def angles(a, b):
  return np.degrees(np.arccos(np.clip(np.sum(a * b, axis=-1), -1, 1)))


# The canonical face.


def directed_edges(triangles):
  return [(t[i], t[(i + 1) % 3]) for t in triangles.tolist() for i in range(3)]


@pytest.fixture(scope="module")
def documented():
  """The connections that MediaPipe names, by name: pairs of landmarks."""
  if not is_installed("mediapipe"):
    pytest.skip("MediaPipe (extra `mediapipe`) is not installed")
  connections = import_native("mediapipe.tasks.python.vision").FaceLandmarksConnections
  return {
    name.removeprefix("FACE_LANDMARKS_"): [(connection.start, connection.end) for connection in pairs]
    for name, pairs in vars(connections).items()
    if name.startswith("FACE_LANDMARKS_")
  }


def test_the_packaged_face_is_that_of_mediapipes_model(shared, tmp_path, canonical):
  face = read_model(shared("models/face_landmarker.task"))
  np.testing.assert_array_equal(canonical.vertices, face.vertices)
  np.testing.assert_array_equal(canonical.triangles, face.triangles)
  write(face, tmp_path / "again.npz")
  with np.load(tmp_path / "again.npz") as again, np.load(PACKAGED) as packaged:
    for name in ("vertices", "triangles"):
      assert again[name].dtype == packaged[name].dtype
      np.testing.assert_array_equal(again[name], packaged[name])


def test_the_landmark_numbers_are_mediapipes(documented):
  """Its left and right are the subject's."""
  parts = {
    "RIGHT_EYE": LEFT_EYE,
    "LEFT_EYE": RIGHT_EYE,
    "RIGHT_EYEBROW": LEFT_BROW,
    "LEFT_EYEBROW": RIGHT_BROW,
    "LIPS": LIPS,
    "NOSE": NOSE,
  }
  for name, numbers in parts.items():
    assert len(numbers) == len(set(numbers))
    assert set(numbers) == {end for pair in documented[name] for end in pair}, name
  assert sorted({end for pair in documented["CONTOURS"] + documented["NOSE"] for end in pair}) == CONTOURS


def test_the_outlines_that_mediapipe_documents_are_edges_of_the_mesh(canonical, documented):
  edges = {frozenset(edge) for edge in directed_edges(canonical.triangles)}
  for part in ("FACE_OVAL", "LEFT_EYE", "RIGHT_EYE", "LIPS"):
    for pair in documented[part]:
      assert frozenset(pair) in edges


def test_the_canonical_face_is_one_disc_turned_outwards(canonical):
  vertices, triangles = canonical
  assert vertices.shape == (468, 3)
  assert triangles.shape == (898, 3)
  directed = directed_edges(triangles)
  assert len(set(directed)) == len(directed)  # no edge is run through twice in one direction
  border = {a for a, b in directed if (b, a) not in set(directed)}
  assert border == set(OVAL)  # no hole at eyes or mouth
  mirrored = vertices * (-1, 1, 1)
  distance = np.linalg.norm(mirrored[:, None] - vertices[None], axis=-1).min(axis=1)
  assert distance.max() < 1e-4
  assert vertices[NOSE_TIP, 2] > vertices[CHIN, 2]
  assert vertices[FOREHEAD, 1] > vertices[CHIN, 1]
  normals = igl.per_vertex_normals(vertices, triangles)
  assert normals[:, 2].mean() > 0.5


def test_subdivision_passes_through_the_landmarks_and_is_smooth(canonical):
  vertices, triangles = subdivided(canonical.vertices)
  assert vertices.shape == (7257, 3)
  assert triangles.shape == (14368, 3)
  np.testing.assert_allclose(vertices[:468], canonical.vertices, atol=1e-9)
  plain = igl.loop(canonical.vertices, canonical.triangles, 2)[0][:468]
  assert np.linalg.norm(plain - canonical.vertices, axis=1).max() > 0.1  # cm; what the control mesh makes good

  def bend(vertices, triangles):
    """Median angle between the two triangles at an edge."""
    a, b, c = vertices[triangles].swapaxes(0, 1)
    normals = np.cross(b - a, c - a)
    normals /= np.linalg.norm(normals, axis=1, keepdims=True)
    at = {edge: number // 3 for number, edge in enumerate(directed_edges(triangles))}
    pairs = np.array([(number, at[b, a]) for (a, b), number in at.items() if (b, a) in at])
    return np.median(angles(*normals[pairs].swapaxes(0, 1)))

  assert bend(vertices, triangles) < bend(*canonical) / 3


# Pose.


TURNS = [
  *((0, 0, 0), (30, 0, 0), (-60, 0, 0), (0, 20, 0), (0, -25, 0), (0, 0, 40), (0, 0, -80), (0, 0, 170)),
  *((25, -10, 15), (-40, 12, -5), (20, 8, 90)),
]  # fmt: skip


@pytest.mark.parametrize("turn", TURNS)
def test_the_pose_of_a_turned_head_is_known(canonical, turn):
  """All signs and the order; and that the lean, which looks like a nod, does not count as one."""
  face = as_seen(canonical.vertices @ rotation(*turn).T)
  np.testing.assert_allclose(head_pose(face), turn, atol=0.3)
  assert frame_face(face, 512).roll == pytest.approx(turn[2], abs=8)


def test_the_nose_points_where_the_pose_says(canonical):
  for turn, axis, sign in (((20, 0, 0), 0, 1), ((0, 20, 0), 1, -1)):  # rows grow downwards
    face = as_seen(canonical.vertices @ rotation(*turn).T)
    assert sign * (face.landmarks[NOSE_TIP] - face.landmarks[OVAL].mean(axis=0))[axis] > 20
    assert head_pose(face)[axis] == pytest.approx(20, abs=0.3)


def test_scale_and_place_do_not_change_the_pose(canonical):
  turned = canonical.vertices @ rotation(25, -10, 15).T
  expected = head_pose(as_seen(turned))
  np.testing.assert_allclose(head_pose(as_seen(turned, scale=3.0, centre=(-70.0, 900.0))), expected, atol=1e-6)


def test_the_mirrored_head_has_the_mirrored_pose(finder, portrait):
  pixels, face, _ = portrait
  [mirrored] = finder.find(pixels[:, ::-1])
  np.testing.assert_allclose(head_pose(mirrored), np.array(head_pose(face)) * (-1, 1, -1), atol=2.5)


# The lean.


@pytest.mark.parametrize("turn", TURNS)
def test_the_lean_is_taken_out_of_depth_whatever_the_pose(canonical, turn):
  turned = canonical.vertices @ rotation(*turn).T
  true, leaning = as_seen(turned, lean=0.0), as_seen(turned)
  mesh = face_mesh.face_mesh(leaning)
  np.testing.assert_array_equal(mesh[:, :2] * (1, -1), leaning.landmarks[:468])  # they lie right in the photo
  error = mesh[:, 2] - true.depth[:468]
  assert error.std() < 0.15 * (leaning.depth - true.depth)[:468].std()


def test_a_head_that_looks_down_stays_so(canonical):
  """The correction turns the mean normal by as much for every pitch."""
  turned = {}
  for pitch in (-15, 0, 15):
    leaning = as_seen(canonical.vertices @ rotation(0, pitch, 0).T)
    uncorrected = np.column_stack([leaning.landmarks[:468] * (1, -1), leaning.depth[:468]])
    before, after = (
      igl.per_vertex_normals(mesh, canonical.triangles)[:, [0, 2, 1]] * (1, -1, 1)
      for mesh in (uncorrected, face_mesh.face_mesh(leaning))
    )
    turned[pitch] = elevation(after) - elevation(before)
  assert turned[0] == pytest.approx(3, abs=1)
  assert turned[15] == pytest.approx(turned[0], abs=1)
  assert turned[-15] == pytest.approx(turned[0], abs=1)


# The maps.


def test_the_canonical_face_is_drawn_with_its_own_normals(canonical):
  face = as_seen(canonical.vertices)
  maps = face_maps(canvas(), face)
  normals = igl.per_vertex_normals(canonical.vertices, canonical.triangles)[:, [0, 2, 1]] * (1, -1, 1)
  columns, rows = np.round(face.landmarks[:468] - 0.5).astype(int).T
  seen = -normals[:, 1] > 0.5
  assert np.median(angles(maps.normal[rows, columns], normals)[seen]) < 4
  covered = maps.label != Label.BACKGROUND
  assert elevation(maps.normal[covered]) == pytest.approx(-2.1, abs=0.5)
  np.testing.assert_allclose(maps.normal[covered][:, 0].mean(), 0, atol=0.01)
  forehead, chin = (
    maps.normal[tuple(np.round(face.landmarks[number] - 0.5).astype(int)[::-1] + step)]
    for number, step in ((FOREHEAD, (10, 0)), (CHIN, (-5, 0)))
  )
  assert forehead[2] > 0.1
  assert chin[2] < -0.1


def test_a_photos_maps_are_complete(portrait):
  pixels, face, maps = portrait
  assert maps.normal.shape == pixels.shape
  assert maps.normal.dtype == np.float32
  assert maps.label.shape == pixels.shape[:2]
  assert maps.label.dtype == np.uint8
  assert set(np.unique(maps.label)) == {Label.BACKGROUND, Label.SKIN, Label.FEATURE}
  covered = maps.label != Label.BACKGROUND
  np.testing.assert_allclose(np.linalg.norm(maps.normal[covered], axis=-1), 1, atol=1e-5)
  assert not maps.normal[~covered].any()
  # One piece without holes: the area inside the outline.
  [outline], _ = cv2.findContours(covered.astype(np.uint8), cv2.RETR_EXTERNAL, cv2.CHAIN_APPROX_NONE)
  filled = cv2.drawContours(np.zeros(covered.shape, np.uint8), [outline], -1, 1, cv2.FILLED)
  assert (filled.astype(bool) == covered).all()
  oval = cv2.fillPoly(np.zeros(covered.shape, np.uint8), [np.round(face.landmarks[OVAL] - 0.5).astype(np.int32)], 1)
  assert (covered != oval.astype(bool)).sum() < 0.01 * oval.sum()
  for name, numbers in FEATURES.items():
    x, y = np.round(face.landmarks[numbers].mean(axis=0) - 0.5).astype(int)
    assert maps.label[y, x] == Label.FEATURE, name
  x, y = np.round(face.landmarks[NOSE_TIP] - 0.5).astype(int)
  assert maps.label[y, x] == Label.SKIN


def test_a_photos_normals_have_no_facets(portrait):
  """Little changes from pixel to pixel; facets, of some 15 pixels, would jump by tens of degrees."""
  *_, maps = portrait
  skin = cv2.erode((maps.label == Label.SKIN).astype(np.uint8), np.ones((9, 9))).astype(bool)
  step = angles(maps.normal[:, 1:], maps.normal[:, :-1])[skin[:, 1:]]
  assert np.percentile(step, 99) < 5


def test_the_landmarks_lie_on_the_photo(portrait):
  _, face, maps = portrait
  np.testing.assert_array_equal(maps.landmarks, maps.detected)
  assert 100 < len(maps.landmarks) < 200
  nearest = np.linalg.norm(face.landmarks[:, None] - 0.5 - maps.landmarks[None], axis=-1).min(axis=0)
  assert nearest.max() == 0


def test_larger_photos_have_the_same_normals(portrait):
  pixels, face, maps = portrait
  half = face_maps(pixels[::2, ::2], Face(face.landmarks / 2, face.depth / 2))
  skin = cv2.erode((half.label == Label.SKIN).astype(np.uint8), np.ones((5, 5))).astype(bool)
  between = cv2.resize(maps.normal, None, fx=0.5, fy=0.5, interpolation=cv2.INTER_AREA)
  between /= np.maximum(np.linalg.norm(between, axis=-1, keepdims=True), 1e-6)
  assert np.median(angles(between, half.normal)[skin]) < 0.1


@pytest.mark.parametrize("shift", [(-200, 0), (300, 40), (0, 350), (10, -250)])
def test_a_face_cut_by_the_border_is_drawn_as_far_as_it_goes(canonical, shift):
  whole = face_maps(canvas(1512), as_seen(canonical.vertices, centre=(756.0, 756.0)))
  cut = face_maps(canvas(), as_seen(canonical.vertices, centre=(256.0 + shift[0], 256.0 + shift[1])))
  left, top = 500 - np.array(shift)
  part = np.s_[top : top + 512, left : left + 512]
  assert (cut.label != whole.label[part]).mean() < 2e-4  # rounding, along contours
  # The blur sees beyond the border in the one, and a mirror in the other.
  inner = np.zeros((512, 512), bool)
  inner[32:-32, 32:-32] = cut.label[32:-32, 32:-32] > 0
  np.testing.assert_allclose(cut.normal[inner], whole.normal[part][inner], atol=0.02)


def test_folds_at_nostrils_and_lips_do_not_shine(portrait):
  """Slivers that face upwards below the nose would be thin bright lines under light from above."""
  _, _, maps = portrait
  width = maps.detected[:, 0].max() - maps.detected[:, 0].min()
  side = 2 * round(0.01 * width) + 1
  inside = cv2.erode((maps.label > 0).astype(np.uint8), np.ones((2 * side + 1,) * 2)) > 0
  upwards = maps.normal[..., 2]
  lines = upwards - cv2.morphologyEx(upwards, cv2.MORPH_OPEN, np.ones((side, side)))
  assert lines[inside].max() < 0.25


def test_a_profile_shows_no_back_faces(canonical):
  maps = face_maps(canvas(), as_seen(canonical.vertices @ rotation(70).T))
  covered = maps.label != Label.BACKGROUND
  assert (maps.normal[covered][:, 1] < 0.05).all()
  assert maps.normal[covered][:, 0].mean() > 0.3


def test_a_face_without_depth_is_refused(portrait):
  pixels, face, _ = portrait
  for function in (head_pose, face_mesh.face_mesh, lambda flat: face_maps(pixels, flat)):
    with pytest.raises(ValueError, match="without depth"):
      function(Face(face.landmarks))
