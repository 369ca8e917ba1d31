"""The built-in prior against the lights that the authors published, and against what it promises."""

import math

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from dpr_jax.light import prior as light_prior
from dpr_jax.light import sh
from dpr_jax.light.light import Light

COUNT = 3000


@pytest.fixture(scope="module")
def gray():
  return np.asarray(jax.jit(jax.vmap(light_prior.draw_light))(jax.random.split(jax.random.key(0), COUNT)), np.float64)


@pytest.fixture(scope="module")
def coloured():
  draw = jax.jit(jax.vmap(light_prior.draw_color_light))
  return np.asarray(draw(jax.random.split(jax.random.key(0), COUNT)), np.float64)


@pytest.fixture(scope="module")
def published(shared):
  """The five BIP lights of the authors' relit portrait, turned and scaled as they used them."""
  folder = shared("reference/ri_render/relighting/imgHQ00000")
  return np.stack([np.loadtxt(folder / f"imgHQ00000_light_{index:02d}.txt") for index in range(5)])


def darkest(lights):
  """The smallest radiance over the first coefficient, of each."""
  return np.array([sh.minimum(light) / light[0] for light in lights])


def contrast(lights):
  """The strength of bands 1 and 2 over the first coefficient, `[N, 2]`."""
  bands = [np.linalg.norm(lights[:, 1:4], axis=1), np.linalg.norm(lights[:, 4:], axis=1)]
  return np.stack(bands, axis=1) / lights[:, :1]


def test_a_draw_depends_on_its_key_alone(gray, coloured):
  key = jax.random.split(jax.random.key(0), COUNT)[7]
  light = jax.jit(light_prior.draw_light)(key)
  assert light.shape == (9,)
  assert light.dtype == jnp.float32
  np.testing.assert_allclose(light, gray[7], atol=2e-6)
  np.testing.assert_allclose(jax.jit(light_prior.draw_color_light)(key), coloured[7], atol=2e-6)
  assert len(np.unique(gray[:, 0])) > 0.99 * COUNT


def test_the_gray_light_is_the_coloured_one_made_gray(gray, coloured):
  np.testing.assert_allclose(np.einsum("c,nck->nk", light_prior.GRAY_WEIGHTS, coloured), gray, atol=2e-6)


def test_the_first_coefficient_is_uniform(gray):
  first = np.sort(gray[:, 0])
  assert first[0] >= 0.7 - 1e-6
  assert first[-1] <= 0.9 + 1e-6
  assert np.abs(first - np.linspace(0.7, 0.9, COUNT)).max() < 0.2 * 1.95 / np.sqrt(COUNT)  # Kolmogorov, 0.1 %


def test_no_light_is_more_negative_than_the_worst_published_one(gray, coloured, published):
  worst = darkest(published).min()
  assert worst == pytest.approx(-0.1483, abs=1e-4)
  assert darkest(gray[:1000]).min() > worst
  lowest = darkest(coloured[:300].reshape(-1, 9)).min()
  assert lowest > worst
  # And the bound is used: some lights are as hard.
  assert lowest < light_prior.LOWEST_RADIANCE + 0.02


def test_the_limit_holds_for_any_light():
  lights = np.random.default_rng(0).normal(size=(100, 3, 9)).astype(np.float32)
  lights[..., 0] = np.abs(lights[..., 0]) + 0.05
  limited = np.asarray(jax.vmap(light_prior.limit_contrast)(jnp.asarray(lights)), np.float64)
  lowest = np.array([darkest(light).min() for light in limited])
  assert lowest.min() > -0.1483
  # No further than needed, and by one share for all channels, so that colours stay.
  changed = np.abs(limited - lights).max(axis=(1, 2)) > 0
  assert changed.mean() > 0.9
  assert lowest[changed].max() < light_prior.LOWEST_RADIANCE + 1e-3
  share = limited[..., 1:] / lights[..., 1:]
  np.testing.assert_allclose(share, np.broadcast_to(share[:, :1, :1], share.shape), rtol=1e-4)
  assert share.max() <= 1
  np.testing.assert_array_equal(limited[..., 0], lights[..., 0])


@pytest.mark.parametrize("light", [np.eye(9)[:1], sh.directional(sh.direction(40, 30), 0.2)[None]])
def test_the_limit_leaves_mild_lights_alone(light):
  light = light.astype(np.float32)
  np.testing.assert_array_equal(light_prior.limit_contrast(jnp.asarray(light)), light)


def test_contrast_spans_that_of_the_authors_lights(gray, published, shared):
  """Their BIP lights lie within the middle 90 % of ours in either band, the harder example lights of their demo too."""
  low, high = np.percentile(contrast(gray), [5, 95], axis=0)
  example = np.loadtxt(shared("reference/dpr/example_light/rotate_light_00.txt"))
  for light in contrast(np.vstack([published, example])):
    assert (low < light).all()
    assert (light < high).all()


def test_light_comes_from_above_and_the_front_more_often_but_not_always(gray, published):
  up = gray[:, 2] > 0
  assert 0.88 < up.mean() < 0.98
  assert (published[:, 2] > 0).all()
  into_the_scene = gray[:, 1]
  assert 0.6 < (into_the_scene < 0).mean() < 0.75


def test_left_and_right_are_alike(gray):
  """No odd harmonic in x has a mean, and each side is the brighter one in half of the draws."""
  for index in (3, 4, 7):
    assert abs(gray[:, index].mean()) < 4 * gray[:, index].std() / np.sqrt(COUNT)
  assert abs((gray[:, 3] > 0).mean() - 0.5) < 2 / np.sqrt(COUNT)


def test_every_face_stays_lit(gray):
  """Shading, which relit pixels are multiplied by, is well above 0 on all normals that a camera sees."""
  normals, disc = sh.sphere_normals(31)
  harmonics = sh.basis(normals[disc].astype(np.float64))
  shading = harmonics @ (gray * sh.LAMBERTIAN).T
  assert shading.min() > 0.1
  assert 1.0 < shading.max(axis=0).mean() < 1.5


def test_colours_are_those_of_lamps_and_sky(coloured):
  """Tints stay near white after white balance; outdoors the sky side is bluer than the ground side."""
  tint = coloured[..., 0] / np.einsum("c,nc->n", light_prior.GRAY_WEIGHTS, coloured[..., 0])[:, None]
  assert tint.min() > 0.6
  assert tint.max() < 1.4
  red, blue = coloured[:, 0, 2] / coloured[:, 0, 0], coloured[:, 2, 2] / coloured[:, 2, 0]  # what comes from above
  assert (blue > red).mean() > 0.6
  # Warm and cool sides differ: the channels are not one light in three strengths.
  spread = np.abs(coloured[:, 0] / coloured[:, 0, :1] - coloured[:, 2] / coloured[:, 2, :1])[:, 1:4].max(axis=1)
  assert np.median(spread) > 0.05


def test_black_bodies_against_planck_and_white():
  color = np.asarray(light_prior._black_body(jnp.array([2500.0, 4000.0, 6500.0, 12000.0])))
  np.testing.assert_allclose(color @ light_prior.GRAY_WEIGHTS, 1, rtol=1e-5)
  np.testing.assert_allclose(color[2], 1, rtol=1e-5)
  red_over_blue = color[:, 0] / color[:, 2]
  assert (np.diff(red_over_blue) < 0).all()
  # Wien's law, which holds within a percent for visible light from lamps.
  wien = np.exp(0.014388 * (1 / 465e-9 - 1 / 612e-9) * (1 / 2500 - 1 / 6500))
  assert red_over_blue[0] == pytest.approx(wien, rel=0.03)


def test_lobes_are_spread_points():
  """Focus 1 is a point light, 0 even light; 2/3 nearly the clamped cosine; directions are those of `sh.direction`."""
  azimuth, elevation = np.array([30.0, -100.0, 200.0], np.float32), np.array([10.0, 60.0, -45.0], np.float32)
  directions = sh.direction(jnp.asarray(azimuth), jnp.asarray(elevation))
  expected = np.stack([sh.direction(*angles) for angles in zip(azimuth, elevation, strict=True)])
  np.testing.assert_allclose(directions, expected, atol=1e-6)
  point, cosine, even = np.asarray(light_prior._lobes(directions, jnp.array([1.0, 2 / 3, 0.0])))
  harmonics = sh.basis(expected)
  np.testing.assert_allclose(point, harmonics[0] / harmonics[0, 0], atol=1e-6)
  np.testing.assert_allclose(cosine, sh.directional(expected[1], ambient=0, dc=1), atol=0.11)
  np.testing.assert_allclose(even, np.eye(9)[0], atol=1e-6)


def test_the_prior_works_inside_a_training_step():
  """Under `jit` and `vmap`, with keys folded from the step as the trainer does."""

  @jax.jit
  def step(key, number):
    return jax.vmap(light_prior.draw_light)(jax.random.split(jax.random.fold_in(key, number), 4))

  first, second = step(jax.random.key(3), 0), step(jax.random.key(3), 1)
  assert first.shape == (4, 9)
  assert not np.allclose(first, second)
  np.testing.assert_array_equal(first, step(jax.random.key(3), 0))


# Lights of which some have a lamp.


drawn = jax.jit(light_prior.draw_lights_with_lamps, static_argnums=1)


@pytest.fixture(scope="module")
def thousand():
  return jax.device_get(drawn(jax.random.key(1), (2, 500), 0.3))


def test_lamps_are_as_frequent_as_asked_and_lie_in_their_ranges(thousand):
  has_lamp = thousand.irradiance[..., 0, 0] > 0
  assert abs(has_lamp.mean() - 0.3) <= 4 * math.sqrt(0.3 * 0.7 / 1000)
  assert set(np.unique(thousand.irradiance)) == {0, 1}
  towards, size = thousand.towards[has_lamp, 0], thousand.size[has_lamp, 0]
  np.testing.assert_allclose(np.linalg.norm(towards, axis=-1), 1, atol=1e-5)
  elevation, azimuth = np.degrees(np.arcsin(towards[:, 2])), np.degrees(np.arctan2(-towards[:, 0], -towards[:, 1]))
  fill = thousand.soft[has_lamp, 0, 0] * math.sqrt(math.pi) / 2  # the mean irradiance
  for values, (low, high) in (
    (azimuth, light_prior.LAMP_AZIMUTH),
    (elevation, light_prior.LAMP_ELEVATION),
    (np.log(fill), np.log(light_prior.LAMP_FILL)),
    (np.log(size), np.log(light_prior.LAMP_SIZE)),
  ):
    assert (low - 0.1 < values.min(), values.max() < high + 0.1) == (True, True)
    assert np.ptp(values) > 0.9 * (high - low)
    assert values.mean() == pytest.approx((low + high) / 2, abs=0.1 * (high - low))  # evenly


def test_soft_parts_are_the_priors_and_of_a_mean_irradiance_of_1(thousand):
  soft, alone = thousand.soft[..., 0, :], thousand.irradiance[..., 0, 0] == 0
  np.testing.assert_allclose(soft[alone][:, 0] * math.sqrt(math.pi) / 2, 1, rtol=1e-5)
  prior = jax.jit(jax.vmap(jax.vmap(light_prior.draw_light)))(jax.random.split(jax.random.key(1), (2, 500)))
  np.testing.assert_allclose(soft / soft[..., :1], prior / prior[..., :1], atol=1e-5)


@pytest.mark.parametrize("share", [0.0, 1.0])
def test_no_light_or_every_light_has_a_lamp(share):
  lights = drawn(jax.random.key(0), (50,), share)
  assert isinstance(lights, Light)
  assert [part.shape for part in lights] == [(50, 1, 9), (50, 1, 3), (50, 1, 1), (50, 1)]
  assert (np.asarray(lights.irradiance) == share).all()
