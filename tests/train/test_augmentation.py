"""A face moved, darkened and cut stays one face: picture, normals, depth, mask and lights still belong together."""

import numpy as np
import pytest

from dpr_jax.base.native_libraries import import_native
from dpr_jax.image import color, ratio
from dpr_jax.image.color import photo_luminance
from dpr_jax.light import sh
from dpr_jax.train.augmentation import Augmentation
from tests.train.test_input_pipeline import FACES, SIZE, mirrored_light

cv2 = import_native("cv2")


def test_a_mirrored_face_is_the_face_under_the_mirrored_light():
  """Relighting the flipped face is flipping the relit one."""
  record, flip = FACES[2], Augmentation(SIZE, flip=True)
  rng = np.random.default_rng(3)
  light = np.float32(rng.normal(size=(4, 9)))
  np.testing.assert_allclose(flip.light(light), mirrored_light(light), atol=1e-6)
  np.testing.assert_array_equal(flip.light(flip.light(light)), light)
  luminance = photo_luminance(record.original)
  relit = ratio.relight_luminance(luminance, record.normal, record.source_light, light)
  moved = ratio.relight_luminance(
    flip.picture(luminance), flip.normal(record.normal), flip.light(record.source_light), flip.light(light)
  )
  np.testing.assert_allclose(moved, relit[..., ::-1], atol=1e-4)
  np.testing.assert_array_equal(flip.mask(record.mask), record.mask[:, ::-1])


def ball(size):
  """A smooth face: a half sphere, its shading under one light, and its disc."""
  normal, disc = sh.sphere_normals(size)
  light = np.asarray(sh.directional(sh.direction(40, 30), 0.3, 0.8))
  return normal, np.float32(0.5 * sh.shading(normal, light)), disc, light


STILL = {"flip": False, "crop": 0.0, "scale": 0.0, "darken": 0.0, "cut": 0.0}


@pytest.mark.parametrize("seed", range(4))
def test_pictures_normals_and_masks_move_together(seed):
  normal, luminance, disc, light = ball(96)
  data = STILL | {"size": 64, "flip": True, "crop": 0.15, "scale": 0.2}
  move = Augmentation.draw(data, np.random.default_rng(seed))
  moved_normal, moved_mask = move.normal(normal), move.mask(disc)
  moved = move.picture(move.resize(luminance))
  assert moved_normal.shape == (64, 64, 3)
  np.testing.assert_allclose(np.linalg.norm(moved_normal, axis=-1), 1, atol=1e-5)
  shading = np.float32(0.5 * sh.shading(moved_normal, move.light(light)))
  inside = moved_mask > 0
  assert inside.mean() > 0.4
  # Away from the rim, where the normals of neighbours are far apart.
  inside = cv2.erode(np.uint8(inside), np.ones((9, 9), np.uint8)) > 0
  np.testing.assert_allclose(moved[inside], shading[inside], atol=0.01)
  # The depth of a ball is its normals' own, in shares of a side that the ball has outgrown by the factor.
  moved_depth = move.depth(np.float32(-0.5 * normal[..., 1]))
  np.testing.assert_allclose(moved_depth[inside], -0.5 * move.warp[0, 0] * moved_normal[inside, 1], atol=0.01)
  # Where the disc is: its centre and size are those of the warp.
  area = np.pi / 4 * 64**2
  rows, columns = np.nonzero(moved_mask)
  factor, centre = move.warp[0, 0], move.warp @ [31.5, 31.5, 1]
  np.testing.assert_allclose(move.framing(), [factor, *((centre - 31.5) / 32)], atol=1e-6)
  if abs(centre - 31.5).max() + 32 * factor < 31:  # all of it in the frame
    assert len(rows) == pytest.approx(area * factor**2, rel=0.03)
    np.testing.assert_allclose([columns.mean(), rows.mean()], centre, atol=0.3)


def test_the_warp_stays_within_its_bounds_and_reaches_them():
  data = STILL | {"size": 100, "crop": 0.1, "scale": 0.25}
  warps = np.stack([Augmentation.draw(data, np.random.default_rng(seed)).warp for seed in range(400)])
  factors, centres = warps[:, 0, 0], warps @ [49.5, 49.5, 1] - 49.5
  for values, bound in ((factors - 1, 0.25), (centres[:, 0], 10), (centres[:, 1], 10)):
    assert -bound <= values.min() < -0.9 * bound
    assert 0.9 * bound < values.max() <= bound
  np.testing.assert_array_equal(warps[:, [0, 1], [1, 0]], 0)
  assert Augmentation.draw(data | {"crop": 0.0, "scale": 0.0}, np.random.default_rng(0)).warp is None


def test_what_comes_in_from_beyond_the_edge_is_no_face():
  right = Augmentation(8, warp=np.array([[1.0, 0, 3], [0, 1, 0]]))  # by 3 pixels
  picture = np.float32(np.arange(64).reshape(8, 8))
  expected = picture[:, [2, 1, 0, 0, 1, 2, 3, 4]]
  np.testing.assert_array_equal(right.picture(picture), expected)
  normal = FACES[0].normal[:8, :8]
  np.testing.assert_allclose(right.normal(normal), normal[:, [2, 1, 0, 0, 1, 2, 3, 4]], atol=1e-6)
  mask = right.mask(np.ones((8, 8), bool))
  np.testing.assert_array_equal(mask, np.float32(np.arange(8) >= 3) * np.ones((8, 1), np.float32))


def test_a_darker_picture_has_less_light_in_linear_light_and_the_same_shape():
  data = STILL | {"size": 16, "darken": 1.5}
  moves = [Augmentation.draw(data, np.random.default_rng(seed)) for seed in range(200)]
  stops = np.log2([move.exposure for move in moves])
  assert -1.5 <= stops.min() < -1.4
  assert -0.1 < stops.max() <= 0
  record, move = FACES[1], moves[0]
  luminance = np.float32(np.random.default_rng(0).random((SIZE, SIZE)))
  linear = color.luminance_of_lightness(luminance)
  np.testing.assert_allclose(color.luminance_of_lightness(move.picture(luminance)), linear * move.exposure, rtol=1e-4)
  np.testing.assert_array_equal(move.normal(record.normal), record.normal)
  np.testing.assert_array_equal(move.mask(record.mask), record.mask)


def test_a_cut_picture_goes_on_with_its_last_rows_and_columns():
  """The shape stays, known beyond the edge of the photo; the face that counts ends there."""
  move = Augmentation(8, seen=np.array([1, 6, 2, 5]))
  picture = np.float32(np.arange(64).reshape(8, 8))
  rows, columns = np.clip(np.arange(8), 1, 6), np.clip(np.arange(8), 2, 5)
  np.testing.assert_array_equal(move.picture(picture), picture[rows][:, columns])
  normal = FACES[0].normal[:8, :8]
  np.testing.assert_array_equal(move.normal(normal), normal)
  seen = np.zeros((8, 8))
  seen[1:7, 2:6] = 1
  np.testing.assert_array_equal(move.mask(np.ones((8, 8), bool)), seen)


def test_half_of_the_pictures_are_cut_within_the_bound():
  data = STILL | {"size": 100, "cut": 0.2}
  moves = [Augmentation.draw(data, np.random.default_rng(seed)) for seed in range(400)]
  cut = np.array([move.seen for move in moves if move.seen is not None])
  assert abs(len(cut) - 200) < 40
  margins = np.column_stack([cut[:, 0], 99 - cut[:, 1], cut[:, 2], 99 - cut[:, 3]])
  assert (margins.min(), margins.max()) == (0, 19)
  assert np.abs(margins.mean(axis=0) - 9.5).max() < 1.5


def test_pictures_are_brought_to_size_without_aliasing():
  """A board of single black and white pixels turns gray; a small picture is enlarged."""
  board = np.uint8(255 * (np.indices((32, 32)).sum(axis=0) % 2))[..., None].repeat(3, axis=-1)
  shrunk = Augmentation(16).resize(board)
  assert shrunk.shape == (16, 16, 3)
  assert np.abs(shrunk - 127.5).max() <= 1
  gradient = np.float32(np.linspace(0, 1, 48)[None].repeat(48, axis=0))
  np.testing.assert_allclose(Augmentation(32).resize(gradient).mean(), 0.5, atol=1e-3)  # 3 to 2: no whole number
  opposite = np.zeros((2, 2, 3), np.float32)
  opposite[..., 0] = [[1, -1], [1, -1]]
  np.testing.assert_array_equal(Augmentation(1).normal(opposite), [[[0, -1, 0]]])
