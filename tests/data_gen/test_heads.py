"""Rendered heads: landmarks against symmetry, the surface that is drawn, the head's own 68 points and MediaPipe."""

import numpy as np
import pytest

from data_gen.face_mesh import head_pose
from data_gen.heads.landmarks import load_correspondence
from data_gen.heads.morphable_head import load_morphable_head
from data_gen.heads.pose import FRONTAL, MIDDLE, Camera, rotation
from data_gen.heads.rendering import draw_head, load_head_model
from data_gen.heads.texture import fit, portrait_texture
from data_gen.rasterize import rasterize, vertex_normals
from dpr_jax.base.errors import BadInput
from dpr_jax.image.photo import read_photo
from dpr_jax.portrait.faces import Face

# Counterparts on both sides of the face, from MediaPipe's documentation: eye corners, mouth corners, oval, irises.
SIDES = [(33, 263), (133, 362), (61, 291), (234, 454), (58, 288), (468, 473), (105, 334)]


@pytest.fixture(scope="module")
def model(shared):
  shared("heads/makehuman_hair/hair_on_ict.npz")
  return load_head_model(shared("heads"))


def draw(model, seed=0, yaw=0.0, pitch=0.0, roll=0.0, size=128, portrait=None):
  rng = np.random.default_rng(seed)
  return draw_head(rng, model, size=size, yaw=yaw, pitch=pitch, roll=roll, portrait=portrait)


def on_gray(head):
  share = head.rgba[..., 3:] / 255
  return np.round(head.rgba[..., :3] * share + 128 * (1 - share)).astype(np.uint8)


def test_same_randomness_draws_the_same_bytes(model):
  first, second, other = draw(model, 4), draw(model, 4), draw(model, 5)
  np.testing.assert_array_equal(first.rgba, second.rgba)
  np.testing.assert_array_equal(first.landmarks, second.landmarks)
  assert not np.array_equal(first.rgba, other.rgba)


@pytest.mark.parametrize("yaw", [0.0, 40.0, -70.0])
def test_the_landmarks_fill_the_box_that_is_promised(model, yaw):
  head = draw(model, 1, yaw, size=160)
  assert head.rgba.shape == (160, 160, 4)
  assert head.rgba.dtype == np.uint8
  assert head.landmarks.shape == (478, 3)
  assert 0.45 - 1e-6 <= np.ptp(head.landmarks[:, :2], axis=0).max() / 160 <= 0.6 + 1e-6
  column, row = np.floor(head.landmarks[:, :2]).astype(int).T
  assert np.mean(head.rgba[row, column, 3] == 255) > 0.85  # the rest lies on the outline


def test_a_symmetric_head_turned_the_other_way_is_its_mirror_image(model):
  points = model.landmarks.positions(model.head.neutral.astype(np.float64))
  camera = Camera(80.0, 10.0, (0.0, 0.0))
  seen = [camera.project((points - MIDDLE) @ (rotation(yaw, 10, 0) @ FRONTAL).T) for yaw in (35, -35)]
  for left, right in SIDES:
    np.testing.assert_allclose(seen[0][left], seen[1][right] * (-1, 1, 1), atol=0.5)  # 0.05 cm
    assert points[left, 0] < 0 < points[right, 0]


def test_a_turned_head_shows_the_side_that_it_should(model):
  left, right = draw(model, 2, yaw=-40).landmarks, draw(model, 2, yaw=40).landmarks
  eyes = (left[[33, 263], 0].mean(), right[[33, 263], 0].mean())
  assert left[4, 0] < eyes[0]
  assert right[4, 0] > eyes[1]
  assert right[33, 2] > right[263, 2]  # the eye at the picture's left is the nearer one
  up, down = draw(model, 2, pitch=25).landmarks, draw(model, 2, pitch=-25).landmarks
  assert up[152, 2] - up[10, 2] > down[152, 2] - down[10, 2]


def test_visible_landmarks_lie_on_the_surface_that_is_drawn(model):
  head = model.head
  vertices = head.vertices(np.random.default_rng(0).standard_normal(100), head.named_expression(jawOpen=0.3))
  placed = (vertices.astype(np.float64) - MIDDLE) @ rotation(45, -10, 0).T
  seen = Camera(np.inf, 20.0, (255.5, 255.5)).project(placed)
  _, depth = rasterize(seen, head.triangles, np.zeros((len(seen), 0)), 512, 512)
  points = model.landmarks.positions(seen)
  facing = model.landmarks.positions(vertex_normals(placed, head.triangles))[:, 2]
  column, row = np.round(points[:, :2]).astype(int).T
  behind = depth[row, column] - points[:, 2]
  behind = behind[facing > 0.4]
  # Lips, nostrils and lids hide some of the landmarks that face the viewer.
  assert np.percentile(np.abs(behind), 80) < 1  # 0.05 cm
  # Only at an edge may the pixel beside a landmark show what is farther away.
  assert (behind > -1.5).mean() > 0.97


def test_the_correspondence_agrees_with_the_heads_own_landmarks(model):
  neutral = model.head.neutral.astype(np.float64)
  points, own = model.landmarks.positions(neutral), neutral[model.head.landmarks68]
  pairs = {33: 36, 133: 39, 362: 42, 263: 45, 61: 48, 291: 54, 4: 30, 152: 8}
  for ours, theirs in pairs.items():
    limit = 1.2 if ours in (4, 152) else 0.35  # which point is the tip of the nose or the chin is a matter of taste
    assert np.linalg.norm(points[ours] - own[theirs]) < limit, (ours, theirs)
  for iris, eye in ((468, slice(36, 42)), (473, slice(42, 48))):
    assert np.linalg.norm(points[iris, :2] - own[eye, :2].mean(axis=0)) < 0.35


def test_mediapipe_finds_the_landmarks_where_they_are(model, finder):
  errors, poses = [], []
  for seed in range(12):
    head = draw(model, seed, yaw=(seed % 3 - 1) * 12.0, size=320)
    for face in finder.find(on_gray(head)):
      eyes = np.linalg.norm(np.diff(head.landmarks[[468, 473], :2], axis=0))
      errors.append(np.linalg.norm(face.landmarks - head.landmarks[:, :2], axis=1).mean() / eyes)
      truth = head_pose(Face(head.landmarks[:, :2], head.landmarks[:, 2]))
      poses.append((truth.yaw - head.yaw, truth.pitch - head.pitch, truth.roll))
  assert len(errors) >= 8
  assert np.median(errors) < 0.06
  assert np.abs(np.median(poses, axis=0)).max() < 3


def test_a_portrait_lends_its_face(model, finder, shared):
  pixels = read_photo(shared("portraits/congress/A000014.jpg")).pixels
  [face] = finder.find(pixels)
  identity, expression, (scale, turn, shift) = fit(model.head, model.landmarks, face)
  vertices = model.head.vertices(identity, expression)
  fitted = scale * model.landmarks.positions(vertices.astype(np.float64)) @ turn.T + shift
  between = np.linalg.norm(np.diff(face.landmarks[[468, 473]], axis=0))
  error = np.linalg.norm(fitted[:468, :2] * (1, -1) - face.landmarks[:468], axis=1)
  assert error.mean() / between < 0.04
  assert 0 <= expression.min() <= expression.max() <= 1
  texture = portrait_texture(model.head, model.regions, model.landmarks, pixels, face)
  assert np.isfinite(texture.albedo).all()
  assert (texture.known[model.regions.front > 0.9] > 0.5).mean() > 0.6  # nostrils and the lips' insides are never seen
  assert not np.array_equal(draw(model, 3, portrait=texture).rgba, draw(model, 3).rgba)


def test_a_file_that_is_no_head_is_said_to_be_none(tmp_path, model):
  with pytest.raises(BadInput, match="missing"):
    load_morphable_head(tmp_path / "missing.npz")
  damaged = tmp_path / "damaged.npz"
  damaged.write_bytes(b"PK\x03\x04 and no more")
  with pytest.raises(BadInput, match="damaged"):
    load_morphable_head(damaged)
  np.savez_compressed(damaged, neutral=np.random.default_rng(0).normal(size=(500, 3)))
  content = bytearray(damaged.read_bytes())
  content[200:240] = bytes([255] * 40)
  damaged.write_bytes(content)
  with pytest.raises(BadInput, match=r"damaged\.npz: cannot be read as a morphable head: [^\n]+$"):
    load_morphable_head(damaged)
  np.savez(tmp_path / "other.npz", neutral=np.zeros((3, 3)))
  with pytest.raises(BadInput, match="identity"):
    load_morphable_head(tmp_path / "other.npz")
  (tmp_path / "short.csv").write_text("1,2,3,0.2,0.3,0.5\n")
  with pytest.raises(BadInput, match="478"):
    load_correspondence(model.head, tmp_path / "short.csv")
