"""The ratio image: against albedo times shading, against the published relit portraits, and at its edges."""

import cv2
import jax
import jax.numpy as jnp
import numpy as np
import pytest

from dpr_jax import ratio, sh

FACE = "reference/ri_render"


def half_sphere(size=64):
  normals, _ = sh.sphere_normals(size)
  return normals


def test_relit_is_albedo_times_the_new_shading():
  rng = np.random.default_rng(0)
  normal = half_sphere()
  albedo = rng.uniform(0.2, 0.6, normal.shape[:2]).astype(np.float32)
  source, *targets = [
    sh.directional(sh.direction(azimuth, 20), ambient=0.6, dc=0.7).astype(np.float32) for azimuth in (0, 40, -60)
  ]
  luminance = albedo * sh.shading(normal, source)
  relit = ratio.relight_luminance(luminance, normal, source, np.stack(targets))
  expected = [np.clip(albedo * sh.shading(normal, target), 0, 1) for target in targets]
  np.testing.assert_allclose(relit, expected, atol=2e-5)


def test_to_its_own_light_nothing_changes():
  rng = np.random.default_rng(1)
  normal = half_sphere()
  light = sh.directional(sh.direction(30, 10), ambient=0.5).astype(np.float32)
  luminance = rng.uniform(0.01, 0.99, normal.shape[:2]).astype(np.float32)
  np.testing.assert_allclose(ratio.relight_luminance(luminance, normal, light, light[None])[0], luminance, atol=1e-5)


def test_dark_shading_takes_the_smallest_positive_value():
  shading = np.array([[0.5, -0.2, 0.0], [0.03, 2.0, -np.inf]], np.float32)
  np.testing.assert_array_equal(ratio.fill_dark(shading), np.float32([[0.5, 0.03, 0.03], [0.03, 2.0, 0.03]]))
  np.testing.assert_array_equal(ratio.fill_dark(-np.ones((2, 2), np.float32)), np.ones((2, 2), np.float32))


def test_what_leaves_the_range_is_clipped_as_published():
  luminance = np.full((1, 3), 0.5, np.float32)
  relit = ratio.relight(luminance, np.ones((1, 3), np.float32), np.float32([[3.0, -1.0, 1.0]]))
  np.testing.assert_allclose(relit, [[1 - 1e-6, 1e-6, 0.5]], atol=1e-6)
  assert (relit * 255).astype(np.uint8).tolist() == [[254, 0, 127]]


def test_jnp_gives_the_same_under_jit_and_a_finite_gradient():
  rng = np.random.default_rng(2)
  normal = half_sphere(16)
  luminance = rng.uniform(0, 1, normal.shape[:2]).astype(np.float32)
  source = rng.normal(size=9).astype(np.float32) + np.float32(np.eye(9)[0] * 2)
  targets = rng.normal(size=(2, 9)).astype(np.float32)
  ours = ratio.relight_luminance(luminance, normal, source, targets)
  assert isinstance(ours, np.ndarray)
  assert ours.dtype == np.float32
  luminance, normal, source, targets = map(jnp.asarray, (luminance, normal, source, targets))
  np.testing.assert_allclose(jax.jit(ratio.relight_luminance)(luminance, normal, source, targets), ours, atol=1e-4)
  gradient = jax.grad(lambda light: ratio.relight_luminance(luminance, normal, light, targets).sum())(source)
  assert np.isfinite(gradient).all()
  assert np.abs(gradient).max() > 0


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
  luminance = ratio.relight_luminance(lab[..., 0].astype(np.float32) / 255, normal, source.astype(np.float32), targets)
  for k in range(5):
    relit = np.dstack([(luminance[k] * 255).astype(np.uint8), lab[..., 1:]])
    expected = cv2.imread(str(folder / f"imgHQ00000_{k:02d}.png"))
    difference = np.abs(cv2.cvtColor(relit, cv2.COLOR_LAB2BGR).astype(int) - expected).mean()
    print(f"target light {k}: {difference:.3f} levels")
    assert difference <= 0.35
