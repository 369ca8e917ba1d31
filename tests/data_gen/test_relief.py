"""The relief of a face and what is around it."""

import numpy as np
import pytest

from data_gen.face_maps import FaceMaps, Label
from data_gen.relief import extend_to_frame
from dpr_jax.base.errors import BadInput

NO_LANDMARKS = np.zeros((0, 2))


def ball(size=200, radius=60.0, shift=0.0, height=None):
  """A ball as a face, its depth in pixels."""
  y, x = np.mgrid[: height or size, :size] - (size - 1) / 2
  inside = x**2 + y**2 < (0.98 * radius) ** 2
  depth = np.where(inside, np.sqrt(np.maximum(radius**2 - x**2 - y**2, 0)) + shift, -np.inf).astype(np.float32)
  normal = np.zeros((*inside.shape, 3), np.float32)
  label = np.where(inside, Label.SKIN, Label.BACKGROUND).astype(np.uint8)
  return FaceMaps(normal, label, NO_LANDMARKS, NO_LANDMARKS, depth)


def test_the_face_keeps_its_depth():
  maps = ball()
  relief = extend_to_frame(maps)
  face = np.isfinite(maps.depth)
  inner = np.hypot(*(np.mgrid[:200, :200] - 99.5)) < 50
  expected = maps.depth / 200 - (maps.depth[face] / 200).mean()
  assert (relief.dtype, relief.shape) == (np.float32, (200, 200))
  np.testing.assert_allclose(relief[inner], expected[inner], atol=2e-3)


def test_where_depth_begins_does_not_matter():
  np.testing.assert_allclose(extend_to_frame(ball(shift=4321)), extend_to_frame(ball()), atol=1e-4)


def test_size_does_not_matter():
  half, whole = extend_to_frame(ball(100, 30.0)), extend_to_frame(ball())
  np.testing.assert_allclose(half[50, ::5], whole[100, 1::10], atol=0.025)


def test_around_the_face_it_falls_back_and_then_no_further():
  row = extend_to_frame(ball(400, 60.0))[200]
  right = row[200:]
  assert (np.diff(right[62:]) <= 1e-6).all()
  assert right[62] - right[120] == pytest.approx(58 / 400, abs=0.02)
  assert right[65] - right[199] < 0.51
  far = extend_to_frame(ball(400, 10.0))[200, 200:]
  assert far[20] - far[199] == pytest.approx(0.44, abs=0.03)


def test_there_is_no_step_at_the_edge():
  relief = extend_to_frame(ball())
  assert np.abs(np.diff(relief, axis=1)).max() < 0.04


def test_pictures_need_not_be_square():
  relief = extend_to_frame(ball(height=260))
  assert relief.shape == (260, 200)
  assert np.isfinite(relief).all()


def test_no_face_and_no_depth_are_refused():
  maps = ball()
  with pytest.raises(BadInput, match="no face"):
    extend_to_frame(maps._replace(label=np.zeros_like(maps.label)))
  with pytest.raises(BadInput, match="not finite"):
    extend_to_frame(maps._replace(depth=np.full_like(maps.depth, -np.inf)))
