"""Cast shadows on reliefs whose shadows can be said beforehand, and against rays marched one by one."""

import jax
import numpy as np
import pytest
from scipy.ndimage import map_coordinates

from dpr_jax.light import sh
from dpr_jax.light.shadows import depth_of_normals, visibility

SIDE = 64
POINT = 0.5  # degrees: the sun
SMALLEST = 20.0  # degrees: what smaller lamps are taken for
visible = jax.jit(visibility)


def wall(height=0.2, column=20):
  depth = np.zeros((SIDE, SIDE), np.float32)
  depth[:, column - 5 : column + 1] = height
  return depth


def hills(seed=0):
  """A smooth relief, in shares of the side."""
  rng = np.random.default_rng(seed)
  y, x = np.mgrid[:SIDE, :SIDE] / SIDE
  depth = np.zeros((SIDE, SIDE))
  for u, v in rng.uniform(0.2, 0.8, (5, 2)):
    depth += 0.15 * np.exp(-((x - u) ** 2 + (y - v) ** 2) / 0.01)
  return depth.astype(np.float32)


@pytest.mark.parametrize("elevation", [30, 45, 60])
def test_a_wall_hides_a_lamp_as_far_as_its_height_says(elevation):
  """Its shadow ends where a ray at that elevation over the picture has come down by the wall's height."""
  towards = sh.direction(90 - elevation, 0)  # from the left, so high above the picture
  lit = np.asarray(visible(wall(), towards, POINT))
  reach = 0.2 * SIDE / np.tan(np.radians(elevation))
  row = lit[SIDE // 2]
  # Rays look for the wall in steps of up to a sixth of the distance, and so may find it that much later.
  assert 0.84 * reach < 1 + np.interp(0.5, row[21:], np.arange(SIDE - 21)) < 1.02 * reach
  # The whole of it is seen from where the edge lies half its size below its middle.
  assert row[21:][: int(0.2 * SIDE / np.tan(np.radians(elevation + SMALLEST / 2))) - 2].max() < 0.01
  assert row[21:][int(0.2 * SIDE / np.tan(np.radians(elevation - SMALLEST / 2))) + 3 :].min() > 0.99
  assert row[:15].min() > 0.99


@pytest.mark.parametrize(("azimuth", "elevation"), [(0, 0), (0, 50), (50, 0), (-60, 40), (65, -35)])
def test_a_plain_is_lit_wherever_the_lamp_stands_before_it(azimuth, elevation):
  depth = np.full((SIDE, SIDE), 0.3, np.float32)
  np.testing.assert_array_equal(visible(depth, sh.direction(azimuth, elevation), 5.0), 1)


def test_behind_a_plain_the_lamp_is_hidden():
  lit = np.asarray(visible(np.zeros((SIDE, SIDE), np.float32), sh.direction(120, 0), 5.0))
  assert lit[:, SIDE // 2 :].max() == 0


@pytest.mark.parametrize(("azimuth", "elevation"), [(65, 10), (-40, 50), (20, -65), (-75, -20)])
def test_rays_marched_one_by_one_agree(azimuth, elevation):
  depth, towards = hills(), sh.direction(azimuth, elevation).astype(float)
  lit = np.asarray(visible(depth, towards.astype(np.float32), POINT))
  # Sub-pixel steps and interpolation.
  rows, columns = np.mgrid[:SIDE, :SIDE].astype(float)
  hidden = np.zeros((SIDE, SIDE), bool)
  across = np.hypot(towards[0], towards[2])
  for distance in np.arange(0.6, 27, 0.25):
    at = rows - towards[2] / across * distance, columns + towards[0] / across * distance
    passed = map_coordinates(depth, at, order=1, cval=-9)
    hidden |= passed > depth + distance / SIDE * -towards[1] / across
  assert 0.1 < hidden.mean() < 0.6
  # Ours look at whole pixels, and at fewer of them the farther away.
  assert np.mean((lit < 0.5) != hidden) < 0.05


def test_a_small_picture_has_the_shadows_of_a_large_one():
  """Of a lamp so low that half of it would be hidden from a pixel that took itself for the horizon."""
  towards = sh.direction(88, 0)
  large = np.asarray(visible(hills(), towards, 15.0))
  small = np.asarray(visible(hills()[1::4, 1::4], towards, 15.0))
  large = large.reshape(SIDE // 4, 4, SIDE // 4, 4).mean((1, 3))
  assert np.abs(small - large).mean() < 0.1
  assert small.max() > 0.95


def test_a_mirrored_face_has_mirrored_shadows():
  depth = hills(3)
  lit = np.asarray(visible(depth, sh.direction(60, 20), 15.0))
  mirrored = np.asarray(visible(depth[:, ::-1], sh.direction(-60, 20), 15.0))
  np.testing.assert_allclose(mirrored, lit[:, ::-1], atol=1e-5)


def penumbra(height, size, elevation=45):
  """Where the shadow of a wall's edge begins and ends, in pixels from the wall; the lamp stands on the left."""
  row = np.asarray(visible(wall(height), sh.direction(90 - elevation, 0), size))[SIDE // 2, 21:]
  assert (np.diff(row) >= -1e-6).all()
  return tuple(np.interp(share, row, 1 + np.arange(len(row))) for share in (0.1, 0.9))


def width(height, size):
  begins, ends = penumbra(height, size)
  return ends - begins


def test_a_penumbra_widens_with_the_distance_of_what_casts_it():
  """And in proportion: it is the lamp as seen past the edge."""
  widths = [width(height, 20.0) for height in (0.08, 0.16, 0.32)]
  assert widths[1] == pytest.approx(2 * widths[0], rel=0.35)
  assert widths[2] == pytest.approx(2 * widths[1], rel=0.35)


def test_a_penumbra_widens_with_the_lamp():
  sizes = (POINT, 20.0, 40.0)
  widths = np.array([width(0.25, size) for size in sizes])
  assert widths[0] > 1
  # In the angle at which the edge is seen; the plain cuts that obliquely.
  across = np.radians(np.hypot(sizes, SMALLEST)) * 0.304
  reach = 0.25 * SIDE
  expected = reach / np.tan(np.pi / 4 - across) - reach / np.tan(np.pi / 4 + across)
  np.testing.assert_allclose(widths, expected, rtol=0.2)
  middles = [np.mean(penumbra(0.25, size)) for size in sizes[:2]]
  np.testing.assert_allclose(middles, 0.25 * SIDE, atol=3)  # it stays where it is


def test_a_penumbra_ends_where_the_whole_lamp_has_risen():
  """A tenth of a disc of 30 degrees stands above the edge when its middle stands 0.304 of that below it."""
  begins, ends = penumbra(0.2, 30.0)
  across = np.hypot(30.0, SMALLEST)
  for found, share in ((begins, 0.304), (ends, -0.304)):
    expected = 0.2 * SIDE / np.tan(np.radians(45 + share * across))
    assert 0.84 * expected - 1 < found < expected + 1


def test_shadows_are_no_sharper_than_the_relief_is_known():
  """A point and a lamp of some degrees cast the same."""
  point, sun = (np.asarray(visible(hills(), sh.direction(65, 10), size)) for size in (0.0, POINT))
  np.testing.assert_allclose(point, sun, atol=0.01)
  assert ((point > 0.05) & (point < 0.95)).any()


@pytest.mark.parametrize("size", [0.0, 15.0, 60.0])
def test_a_lamp_at_the_camera_is_seen_by_all(size):
  np.testing.assert_array_equal(visible(hills(1), np.float32([0, -1, 0]), size), 1)


def test_gradients_are_finite():
  def total(towards):
    return visibility(hills(2), towards, 15.0).sum()

  for towards in (sh.direction(60, 20), np.float32([0, -1, 0])):
    assert np.isfinite(jax.grad(total)(towards)).all()


def normals_of(depth):
  """Of a relief in shares of the side, by central differences."""
  down, right = np.gradient(depth * SIDE)
  normal = np.stack([-right, -np.ones_like(depth), down], axis=-1)
  return np.float32(normal / np.linalg.norm(normal, axis=-1, keepdims=True))


def test_depth_follows_from_normals():
  depth = hills(4)[None] * np.float32([[[1.0]], [[-0.5]]])
  found = np.asarray(jax.jit(depth_of_normals)(np.stack([normals_of(each) for each in depth])))
  np.testing.assert_allclose(found.mean(axis=(1, 2)), 0, atol=1e-6)
  np.testing.assert_allclose(found, depth - depth.mean(axis=(1, 2), keepdims=True), atol=5e-3)
  assert np.ptp(depth) > 0.1


def test_depth_of_a_slope_that_is_not_square():
  """A plane that rises by 1 for 2 to the right and falls by 1 for 4 downwards: shares of the longer side."""
  normal = np.float32([-0.5, -1, -0.25]) / np.sqrt(np.float32(1.3125))
  found = np.asarray(depth_of_normals(np.broadcast_to(normal, (32, 64, 3))))
  rows, columns = np.mgrid[:32, :64]
  expected = (0.5 * columns - 0.25 * rows) / 64
  np.testing.assert_allclose(found, expected - expected.mean(), atol=1e-4)


def test_grazing_normals_give_finite_depth():
  normal = np.broadcast_to(np.float32([1, 0, 0]), (16, 16, 3))
  assert np.isfinite(np.asarray(depth_of_normals(normal))).all()
