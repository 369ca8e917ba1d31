"""Linear light times a ratio: exact where it can be, and kept within the gamut where it cannot."""

import itertools

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from dpr_jax.image import color
from dpr_jax.portrait.compositing import multiply_light

WEIGHTS = np.array([0.2126, 0.7152, 0.0722])
COLOURS = np.random.default_rng(0).uniform(size=(500, 3)).astype(np.float32)
CORNERS = np.array(list(itertools.product((0, 0.04, 1), repeat=3)), np.float32)
ALL = np.concatenate([COLOURS, CORNERS])
# Brown, in linear light: a sixteenth of white at most.
DARK_SKIN = np.float32([0.062, 0.031, 0.018])


def gray(stops, count=1):
  """The log ratio of a white light that is so many stops brighter, `[count, 1]`."""
  return np.full((count, 1), np.log(2) * stops, np.float32)


def luminance(linear):
  return np.asarray(linear, np.float64) @ WEIGHTS


@pytest.mark.parametrize("bits", [8, 16])
def test_a_ratio_of_one_changes_no_bit_of_a_photo(bits):
  white = 2**bits - 1
  rng = np.random.default_rng(0)
  levels = np.concatenate(
    [rng.integers(0, white, (2000, 3), endpoint=True), rng.integers(0, 40, (500, 3)), np.eye(3, dtype=int)]
  )
  levels = np.concatenate([levels, np.repeat(np.arange(0, white + 1, max(1, white // 4000))[:, None], 3, axis=1)])
  linear = color.linearise((levels / white).astype(np.float32))
  for log_ratio in (gray(0), np.zeros((1, 3), np.float32)):
    encoded = color.delinearise(multiply_light(linear, log_ratio)) * white
    np.testing.assert_array_equal(np.round(encoded), levels)


@pytest.mark.parametrize("stops", [-3, -1, -0.25])
def test_less_light_is_that_much_less_of_each_channel(stops):
  np.testing.assert_allclose(multiply_light(ALL, gray(stops)), 2.0**stops * ALL, rtol=1e-5, atol=1e-7)


def test_twice_the_light_is_twice_of_each_channel_where_there_is_room():
  dim = 0.3 * COLOURS
  np.testing.assert_allclose(multiply_light(dim, gray(1)), 2 * dim, rtol=1e-5, atol=1e-7)


def test_a_coloured_ratio_multiplies_channel_by_channel():
  dim, log_ratio = 0.2 * COLOURS, np.log(np.float32([[1.5, 1.0, 0.25]]))
  np.testing.assert_allclose(multiply_light(dim, log_ratio), dim * [1.5, 1.0, 0.25], rtol=1e-5, atol=1e-7)
  alike = multiply_light(ALL, np.repeat(gray(1.3), 3, axis=1))
  np.testing.assert_allclose(alike, multiply_light(ALL, gray(1.3)), atol=1e-6)


@pytest.mark.parametrize("stops", [0.3, 1, 2, 3.5, 8])
@pytest.mark.parametrize("tint", [(1, 1, 1), (1.6, 0.9, 0.3), (0.2, 1, 2.5)])
def test_nothing_leaves_the_gamut(stops, tint):
  relit = multiply_light(ALL, gray(stops) + np.log(np.float32([tint])))
  assert np.isfinite(relit).all()
  assert relit.min() >= 0
  assert relit.max() <= 1


@pytest.mark.parametrize("tint", [(1, 1, 1), (1.6, 0.9, 0.3)])
def test_more_light_makes_no_pixel_darker(tint):
  """However bright it was: also from white, which has no room left."""
  stops = np.linspace(-6, 6, 97)
  series = np.stack([luminance(multiply_light(ALL, gray(each) + np.log(np.float32([tint])))) for each in stops])
  assert (np.diff(series, axis=0) > -1e-6).all()
  jumps = np.diff(series, axis=0)
  assert jumps.max() < 0.1  # an eighth of a stop: no step anywhere
  if tint == (1, 1, 1):
    assert (series[stops > 0] >= luminance(ALL) - 1e-6).all()


def test_what_would_burn_out_is_compressed_as_by_film():
  """Above three quarters of white the way to it is halved by each 0.17 more; below, nothing is touched."""
  linear = np.full((200, 3), 0.5, np.float32)
  wanted = np.linspace(0.1, 3, 200)
  relit = multiply_light(linear, np.log(wanted / 0.5)[:, None].astype(np.float32))
  expected = np.where(wanted < 0.75, wanted, 1 - 0.25 * np.exp(-(wanted - 0.75) / 0.25))
  np.testing.assert_allclose(relit, np.repeat(expected[:, None], 3, axis=1), atol=1e-5)
  assert relit.max() < 1


def shoulder(before, after):
  return np.where(after > 0.75, np.maximum(1 - 0.25 * np.exp(-(after - 0.75) / 0.25), before), after)


def test_colours_near_the_end_of_the_gamut_are_drawn_towards_their_luminance():
  """Their hue stays, and so does their luminance: only saturation is lost, so that no channel is cut off."""
  relit = multiply_light(COLOURS, gray(0.6)).astype(np.float64)
  full = COLOURS * 2.0**0.6
  bright = luminance(full)
  wanted = shoulder(luminance(COLOURS), bright)
  np.testing.assert_allclose(luminance(relit), wanted, atol=1e-5)
  strongest = shoulder(COLOURS.max(axis=1), full.max(axis=1))
  full *= (wanted / bright)[:, None]
  share = np.linalg.norm(relit - wanted[:, None], axis=1) / np.linalg.norm(full - wanted[:, None], axis=1)
  np.testing.assert_allclose(relit, wanted[:, None] + share[:, None] * (full - wanted[:, None]), atol=1e-5)
  compressed = full.max(axis=1) > strongest
  assert 0.2 < compressed.mean() < 0.95
  np.testing.assert_allclose(share[~compressed], 1, atol=1e-4)
  np.testing.assert_allclose(relit[compressed].max(axis=1), strongest[compressed], atol=1e-5)
  brighter = COLOURS.max(axis=1) < 1
  assert relit[brighter].max() < 1


@pytest.mark.parametrize("stops", [-4, -1, 1, 2.5, 3.5])
def test_dark_skin_keeps_its_chromaticity(stops):
  """No red glow in a shadow, no orange under a lamp."""
  relit = multiply_light(DARK_SKIN[None], gray(stops))[0]
  np.testing.assert_allclose(relit / relit.sum(), DARK_SKIN / DARK_SKIN.sum(), rtol=1e-5)


def test_black_stays_black():
  np.testing.assert_array_equal(multiply_light(np.zeros((1, 3), np.float32), gray(3.5)), 0)


def test_jnp_is_what_numpy_is():
  log_ratio = np.random.default_rng(1).normal(0, 1.5, (len(ALL), 3)).astype(np.float32)
  for each in (log_ratio, log_ratio[:, :1]):
    expected = multiply_light(ALL, each)
    assert isinstance(expected, np.ndarray)
    assert expected.dtype == np.float32
    found = jax.jit(multiply_light)(jnp.asarray(ALL), jnp.asarray(each))
    np.testing.assert_allclose(found, expected, atol=2e-6)


def test_gradients_are_finite_at_black_white_and_the_shoulder():
  def total(linear, log_ratio):
    return multiply_light(linear, log_ratio).sum()

  edges = jnp.asarray(np.concatenate([CORNERS, np.full((1, 3), 0.75, np.float32)]))
  for stops in (-2, 0, 2):
    for gradient in jax.jit(jax.grad(total, argnums=(0, 1)))(edges, jnp.asarray(gray(stops, len(edges)))):
      assert np.isfinite(gradient).all()
