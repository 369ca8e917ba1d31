"""The latitude-longitude map: directions, solid angles and the look-up belong together."""

import numpy as np

from dpr_jax.light.panorama import look_up, pixel_directions, pixel_solid_angles


def test_pixels_lie_where_a_viewer_at_the_subject_sees_them():
  directions = pixel_directions(3, 4)
  np.testing.assert_allclose(np.linalg.norm(directions, axis=-1), 1)
  np.testing.assert_allclose(
    directions[1], np.sqrt(0.5) * np.array([[-1, -1, 0], [-1, 1, 0], [1, 1, 0], [1, -1, 0]]), atol=1e-12
  )
  np.testing.assert_allclose(directions[0, :, 2], np.sin(np.pi / 3))


def test_solid_angles_are_those_of_the_whole_sphere():
  angles = pixel_solid_angles(5, 7)
  assert angles.shape == (5, 7)
  np.testing.assert_allclose(angles.sum(), 4 * np.pi)
  np.testing.assert_allclose(angles[0], 2 * np.pi / 7 * (1 - np.cos(np.pi / 5)))  # of a cap, by its height


def test_a_pixel_shows_in_its_direction():
  panorama = np.random.default_rng(0).random((8, 16, 3), np.float32)
  np.testing.assert_allclose(look_up(panorama, 5 * pixel_directions(8, 16)), panorama, atol=1e-6)


def test_both_edges_touch():
  panorama = np.zeros((2, 4, 1), np.float32)
  panorama[:, 0], panorama[:, -1] = 1, 3
  seen = look_up(panorama, np.array([[[0, -1, 0.0]]]))
  np.testing.assert_allclose(seen, 2)
