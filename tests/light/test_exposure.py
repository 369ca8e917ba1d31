"""The key of a photo: against NumPy's percentile, against pixels counted one by one, and what it does not depend on."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from dpr_jax.light import exposure


def picture(shape=(11, 13), seed=0):
  return np.random.default_rng(seed).uniform(0.01, 1, shape).astype(np.float32)


@pytest.mark.parametrize("shape", [(1, 1), (1, 2), (3, 5), (10, 10), (11, 13), (64, 64)])
def test_of_even_skin_it_is_the_90th_percentile(shape):
  luminance = picture(shape)
  expected = np.percentile(luminance.astype(np.float64), 90, method="interpolated_inverted_cdf")
  for skin in (np.ones(shape, np.float32), np.full(shape, 0.3, np.float32)):
    assert exposure.key(luminance, skin) == pytest.approx(expected, rel=1e-4)


def test_a_pixel_counts_as_much_as_it_is_skin():
  """Whole weights against as many copies of the pixel; their percentile is known to one pixel."""
  luminance = picture()
  copies = np.where(luminance > 0.7, 1, np.random.default_rng(1).integers(0, 9, luminance.shape))
  many = np.sort(np.repeat(luminance.ravel(), copies.ravel()))
  expected = np.percentile(many, 90, method="interpolated_inverted_cdf")
  seen = np.unique(many)
  step = np.diff(seen)[np.searchsorted(seen, expected) - 2 :][:3].max()
  assert exposure.key(luminance, copies.astype(np.float32)) == pytest.approx(expected, abs=float(step))
  assert abs(expected - np.percentile(luminance, 90)) > step


def test_what_is_no_skin_does_not_count():
  luminance, skin = picture(), np.zeros((11, 13), np.float32)
  skin[3:8, 2:9] = 1
  expected = exposure.key(luminance[3:8, 2:9], skin[3:8, 2:9])
  for elsewhere in (0.0, 0.5, 100.0):
    assert exposure.key(np.where(skin > 0, luminance, np.float32(elsewhere)), skin) == pytest.approx(expected, rel=1e-3)


def test_without_skin_it_is_that_of_the_whole_picture():
  luminance = picture()
  ones = np.ones_like(luminance)
  assert exposure.key(luminance, 0 * ones) == pytest.approx(exposure.key(luminance, ones), rel=1e-3)
  assert exposure.key(0 * ones, ones) == 0


@pytest.mark.parametrize("factor", [1e-4, 0.3, 50.0])
def test_it_is_as_many_times_as_bright_as_the_picture(factor):
  luminance, skin = picture(), picture(seed=1)
  expected = factor * exposure.key(luminance, skin)
  assert exposure.key(np.float32(factor) * luminance, skin) == pytest.approx(expected, rel=1e-5)
  assert exposure.key(luminance, np.float32(0.01) * skin) == pytest.approx(exposure.key(luminance, skin), rel=1e-2)


def test_it_does_not_matter_where_the_pixels_are():
  luminance, skin = picture(), picture(seed=1)
  order = np.random.default_rng(2).permutation(luminance.size)
  shuffled = (each.ravel()[order].reshape(13, 11) for each in (luminance, skin))
  assert exposure.key(*shuffled) == pytest.approx(exposure.key(luminance, skin), rel=1e-5)


def test_brighter_pixels_make_it_no_darker():
  luminance, skin = picture(), picture(seed=1)
  brighter = luminance + picture(seed=2)
  assert luminance.min() < exposure.key(luminance, skin) < exposure.key(brighter, skin) < brighter.max()


def test_every_picture_of_a_batch_has_its_own():
  luminance, skin = picture((2, 3, 6, 7)), picture((2, 3, 6, 7), seed=1)
  keys = exposure.key(luminance, skin)
  assert keys.shape == (2, 3)
  for index in np.ndindex(2, 3):
    assert keys[index] == pytest.approx(exposure.key(luminance[index], skin[index]), rel=1e-5)


def test_jnp_is_what_numpy_is():
  luminance, skin = picture((2, 6, 7)), picture((2, 6, 7), seed=1)
  expected = exposure.key(luminance, skin)
  assert isinstance(expected, np.ndarray)
  for one, other in ((jnp.asarray(luminance), skin), (luminance, jnp.asarray(skin))):
    found = exposure.key(one, other)
    assert isinstance(found, jax.Array)
    np.testing.assert_allclose(found, expected, rtol=1e-5)


def test_its_gradient_says_which_pixels_decide():
  """Two of them, as a percentile lies between two; it grows as the whole picture does, by Euler's theorem."""
  luminance, skin = jnp.asarray(picture()), jnp.asarray(picture(seed=1))
  value, gradient = jax.jit(jax.value_and_grad(exposure.key))(luminance, skin)
  assert np.isfinite(gradient).all()
  assert 1 <= np.count_nonzero(gradient) <= 2
  assert float(jnp.sum(gradient * luminance)) == pytest.approx(float(value), rel=1e-5)
