"""The ratio image: against albedo times shading, against the published relit portraits, and at its edges."""

import functools

import cv2
import jax
import jax.numpy as jnp
import numpy as np
import pytest

from dpr_jax.image import ratio
from dpr_jax.image.color import lightness_of_luminance, luminance_of_lightness
from dpr_jax.light import sh

FACE = "reference/ri_render"


def half_sphere(size=64):
  normals, _ = sh.sphere_normals(size)
  return normals


def lights(*azimuths):
  """A soft lamp at each azimuth."""
  return [sh.directional(sh.direction(azimuth, 20), ambient=0.6, dc=0.7).astype(np.float32) for azimuth in azimuths]


def encoded(brightness, kind):
  """L / 100 of what a ratio of this kind multiplies."""
  return lightness_of_luminance(brightness) if kind == "linear" else brightness


@pytest.mark.parametrize("kind", ratio.KINDS)
def test_relit_is_albedo_times_the_new_shading(kind):
  """A painted ball under one light, relit, is that ball rendered under the other: by the one of the two kinds alone."""
  rng = np.random.default_rng(0)
  normal = half_sphere()
  albedo = rng.uniform(0.2, 0.6, normal.shape[:2]).astype(np.float32)
  source, *targets = lights(0, 40, -60)
  luminance = encoded(albedo * sh.shading(normal, source), kind)
  expected = [encoded(np.clip(albedo * sh.shading(normal, target), 0, 1), kind) for target in targets]
  relit = ratio.relight_luminance(luminance, normal, source, np.stack(targets), kind=kind)
  assert relit.dtype == np.float32
  np.testing.assert_allclose(relit, expected, atol=2e-5)
  (other,) = set(ratio.KINDS) - {kind}
  wrong = ratio.relight_luminance(luminance, normal, source, np.stack(targets), kind=other)
  assert np.abs(wrong - expected).mean() > 0.01


def test_half_the_light_is_half_of_linear_luminance_and_not_of_lightness():
  luminance = np.linspace(0.1, 1, 50, dtype=np.float32)[None]
  shading = np.full_like(luminance, 0.8)
  halved = ratio.relight(luminance, shading, shading / 2)
  np.testing.assert_allclose(luminance_of_lightness(halved), luminance_of_lightness(luminance) / 2, rtol=1e-5, atol=0)
  assert 0.73 < halved[0, -1] < 0.77  # of L 1
  np.testing.assert_allclose(ratio.relight(luminance, shading, shading / 2, kind="published"), luminance / 2, rtol=1e-5)


@pytest.mark.parametrize("kind", ratio.KINDS)
def test_to_its_own_light_nothing_changes(kind):
  rng = np.random.default_rng(1)
  normal = half_sphere()
  light = sh.directional(sh.direction(30, 10), ambient=0.5).astype(np.float32)
  luminance = rng.uniform(0.01, 0.99, normal.shape[:2]).astype(np.float32)
  relit = ratio.relight_luminance(luminance, normal, light, light[None], kind=kind)
  np.testing.assert_allclose(relit[0], luminance, atol=1e-5)


def test_the_darkest_side_still_gets_some_light():
  shading = np.array([[0.5, -0.2, 0.0], [0.03, 2.0, -np.inf]], np.float32)
  np.testing.assert_allclose(ratio.fill_dark(shading), [[0.5, 0.1, 0.1], [0.1, 2.0, 0.1]], rtol=1e-6)
  np.testing.assert_allclose(ratio.fill_dark(3 * shading), 3 * ratio.fill_dark(shading), rtol=1e-6)
  np.testing.assert_array_equal(ratio.fill_dark(-np.ones((2, 2), np.float32)), np.ones((2, 2), np.float32))


def test_dark_shading_takes_the_smallest_positive_value_as_published():
  shading = np.array([[0.5, -0.2, 0.0], [0.03, 2.0, -np.inf]], np.float32)
  expected = np.float32([[0.5, 0.03, 0.03], [0.03, 2.0, 0.03]])
  np.testing.assert_array_equal(ratio.fill_dark(shading, kind="published"), expected)
  dark = -np.ones((2, 2), np.float32)
  np.testing.assert_array_equal(ratio.fill_dark(dark, kind="published"), -dark)


def test_what_leaves_the_range_is_clipped():
  luminance = np.full((1, 3), 0.5, np.float32)
  shadings = np.ones((1, 3), np.float32), np.float32([[9.0, -1.0, 1.0]])
  np.testing.assert_allclose(ratio.relight(luminance, *shadings), [[1, 0, 0.5]], atol=1e-6)
  assert ratio.relight(luminance, *shadings).max() <= 1
  relit = ratio.relight(luminance, *shadings, kind="published")
  np.testing.assert_allclose(relit, [[1 - 1e-6, 1e-6, 0.5]], atol=1e-6)
  assert (relit * 255).astype(np.uint8).tolist() == [[254, 0, 127]]


@pytest.mark.parametrize("kind", ratio.KINDS)
def test_jnp_gives_the_same_under_jit_and_a_finite_gradient(kind):
  rng = np.random.default_rng(2)
  normal = half_sphere(16)
  luminance = rng.uniform(0, 1, normal.shape[:2]).astype(np.float32)
  source = rng.normal(size=9).astype(np.float32) + np.float32(np.eye(9)[0] * 2)
  targets = rng.normal(size=(2, 9)).astype(np.float32)
  relight = functools.partial(ratio.relight_luminance, kind=kind)
  ours = relight(luminance, normal, source, targets)
  assert isinstance(ours, np.ndarray)
  assert ours.dtype == np.float32
  luminance, normal, source, targets = map(jnp.asarray, (luminance, normal, source, targets))
  np.testing.assert_allclose(jax.jit(relight)(luminance, normal, source, targets), ours, atol=1e-4)
  gradient = jax.jit(jax.grad(lambda light: relight(luminance, normal, light, targets).sum()))(source)
  assert np.isfinite(gradient).all()
  assert np.abs(gradient).max() > 0


def test_other_kinds_are_refused():
  ones = np.ones((1, 1), np.float32)
  for call in (lambda: ratio.relight(ones, ones, ones, kind="gamma"), lambda: ratio.fill_dark(ones, kind="gamma")):
    with pytest.raises(ValueError, match="'gamma': must be one of linear, published"):
      call()


@pytest.fixture(scope="module")
def published(shared):
  """The reference face: its 8-bit Lab after the authors' denoising, its normals in our axes, its light."""
  root = shared(FACE)
  image = cv2.imread(str(root / "data/imgHQ00000.png"))
  lab = cv2.cvtColor(cv2.fastNlMeansDenoisingColored(image, None, 5, 3, 3, 21), cv2.COLOR_BGR2LAB)
  normal = cv2.imread(str(root / "result/imgHQ00000/warp/full_normal_faceRegion_faceBoundary_extend.png"))
  normal = (normal.astype(np.float32) + 0.5) / 255 * 2 - 1  # truncated to 8 bits: half a level is missing
  normal /= np.linalg.norm(normal, axis=-1, keepdims=True)
  right, down, into = np.moveaxis(normal, -1, 0)
  return lab, np.stack([right, into, -down], axis=-1), np.loadtxt(root / "relighting/imgHQ00000/ori_sh.txt")


def test_published_relit_portraits(published, shared):
  lab, normal, source = published
  folder = shared(FACE) / "relighting/imgHQ00000"
  targets = np.stack([np.loadtxt(folder / f"imgHQ00000_light_{k:02d}.txt") for k in range(5)]).astype(np.float32)
  lightness = lab[..., 0].astype(np.float32) / 255
  luminance = ratio.relight_luminance(lightness, normal, source.astype(np.float32), targets, kind="published")
  for k in range(5):
    relit = np.dstack([(luminance[k] * 255).astype(np.uint8), lab[..., 1:]])
    expected = cv2.imread(str(folder / f"imgHQ00000_{k:02d}.png"))
    difference = np.abs(cv2.cvtColor(relit, cv2.COLOR_LAB2BGR).astype(int) - expected).mean()
    print(f"target light {k}: {difference:.3f} levels")
    assert difference <= 0.35
