"""The metrics of evaluation: against loops, scikit-image, least squares and lights whose directions are known."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from scipy import ndimage
from scipy.spatial.transform import Rotation
from skimage.metrics import structural_similarity

from dpr_jax.light import sh
from dpr_jax.train import metrics

ERRORS = (metrics.l1, metrics.si_mse)
errors = pytest.mark.parametrize("metric", ERRORS, ids=lambda metric: metric.__name__)
all_metrics = pytest.mark.parametrize("metric", [*ERRORS, metrics.ssim], ids=lambda metric: metric.__name__)


def pictures(shape=(3, 24, 20, 1), seed=0, dtype=np.float32):
  """A smooth picture and the same with noise, in [0, 1]."""
  rng = np.random.default_rng(seed)
  target = ndimage.gaussian_filter(rng.uniform(size=shape), [2 if n > 3 else 0 for n in shape])
  target = (target - target.min()) / np.ptp(target)
  prediction = np.clip(0.7 * target + 0.1 + 0.05 * rng.normal(size=shape), 0, 1)
  return {"prediction": prediction.astype(dtype), "target": target.astype(dtype)}


def disc(shape=(3, 24, 20, 1)):
  """A disc, of another size in every example."""
  y, x = np.mgrid[: shape[1], : shape[2]]
  radius = np.hypot(y - shape[1] / 2, x - shape[2] / 2)
  return np.stack([radius < 6 + 2 * k for k in range(shape[0])])[..., None]


def least_squares_error(p, t):
  scale, residual, *_ = np.linalg.lstsq(p.astype(np.float64)[:, None], t.astype(np.float64), rcond=None)
  assert scale.shape == (1,)
  return residual[0] / len(p)


BY_PIXELS = {
  metrics.l1: lambda p, t: np.abs(p.astype(np.float64) - t).mean(),
  metrics.si_mse: least_squares_error,
}


@errors
def test_errors_against_float64_over_the_pixels_inside(metric):
  images, mask = pictures(), disc()
  for inside in (np.ones_like(mask), mask):
    expected = [
      BY_PIXELS[metric](p[m], t[m]) for p, t, m in zip(images["prediction"], images["target"], inside, strict=True)
    ]
    np.testing.assert_allclose(metric(**images, mask=inside), expected, rtol=1e-5)
    np.testing.assert_allclose(metric(**images, mask=inside.astype(np.float32)), expected, rtol=1e-5)
  np.testing.assert_array_equal(metric(**images), metric(**images, mask=np.ones_like(mask)))


def test_si_mse_does_not_see_the_prediction_s_scale():
  images, mask = pictures(), disc()
  expected = metrics.si_mse(**images, mask=mask)
  inside = np.where(mask, images["prediction"] - images["target"], np.nan)
  assert (expected < np.nanmean(inside**2, axis=(1, 2, 3))).all()
  for scale in (0.05, 3):
    scaled = images | {"prediction": scale * images["prediction"]}
    np.testing.assert_allclose(metrics.si_mse(**scaled, mask=mask), expected, rtol=1e-4)
  multiple = {"prediction": np.float32(0.3) * images["target"], "target": images["target"]}
  np.testing.assert_allclose(metrics.si_mse(**multiple, mask=mask), 0, atol=1e-12)
  # The other way round it is another number: the target gives the unit.
  swapped = {"prediction": images["target"], "target": 2 * images["prediction"]}
  np.testing.assert_allclose(
    metrics.si_mse(**swapped), 4 * metrics.si_mse(**(swapped | {"target": images["prediction"]})), rtol=1e-4
  )


def test_si_mse_fits_its_factor_inside_the_mask():
  images, mask = pictures(), disc()
  elsewhere = images | {"prediction": np.where(mask, images["prediction"], 1 - images["prediction"])}
  np.testing.assert_allclose(metrics.si_mse(**elsewhere, mask=mask), metrics.si_mse(**images, mask=mask), rtol=1e-5)


def test_a_black_prediction_is_compared_as_it_is():
  target = pictures()["target"]
  expected = (target.astype(np.float64) ** 2).mean(axis=(1, 2, 3))
  np.testing.assert_allclose(metrics.si_mse(prediction=0 * target, target=target), expected, rtol=1e-5)


def test_ssim_is_scikit_image_s_and_its_border_never_counts():
  images = pictures()
  values = metrics.ssim(**images)
  assert values.shape == (3,)
  for value, p, t in zip(values, images["prediction"][..., 0], images["target"][..., 0], strict=True):
    options = {"gaussian_weights": True, "sigma": 1.5, "use_sample_covariance": False, "data_range": 1}
    expected = structural_similarity(p.astype(np.float64), t.astype(np.float64), **options)
    assert 0.1 < expected < 0.95
    np.testing.assert_allclose(value, expected, rtol=1e-12)
  everywhere = np.ones_like(images["target"])
  np.testing.assert_allclose(metrics.ssim(**images, mask=everywhere), values, rtol=1e-12)


def ssim_at(p, t, i, j):
  """Structural similarity of the windows around one pixel, by Wang et al. 2004, equation 13."""
  offsets = np.arange(-5, 6)
  weights = np.exp(-(offsets[:, None] ** 2 + offsets**2) / (2 * 1.5**2))
  weights /= weights.sum()
  p, t = (x[i - 5 : i + 6, j - 5 : j + 6].astype(np.float64) for x in (p, t))
  mean_p, mean_t = (weights * p).sum(), (weights * t).sum()
  variance_p, variance_t = (weights * (p - mean_p) ** 2).sum(), (weights * (t - mean_t) ** 2).sum()
  covariance = (weights * (p - mean_p) * (t - mean_t)).sum()
  c1, c2 = 0.01**2, 0.03**2
  return ((2 * mean_p * mean_t + c1) * (2 * covariance + c2)) / (
    (mean_p**2 + mean_t**2 + c1) * (variance_p + variance_t + c2)
  )


def test_ssim_over_a_mask_against_its_definition():
  images, mask = pictures(), disc()
  values = metrics.ssim(**images, mask=mask)
  for value, p, t, m in zip(values, images["prediction"][..., 0], images["target"][..., 0], mask[..., 0], strict=True):
    inside = [(i, j) for i in range(5, 24 - 5) for j in range(5, 20 - 5) if m[i, j]]
    assert len(inside) > 60
    np.testing.assert_allclose(value, np.mean([ssim_at(p, t, i, j) for i, j in inside]), rtol=1e-9)


def test_ssim_of_equal_even_pictures_is_one():
  grey = np.full((16, 16), 0.73, np.float32)
  assert abs(metrics.ssim(prediction=grey, target=grey) - 1) < 1e-9
  assert metrics.ssim(prediction=grey, target=1 - grey) < 0.8


def test_ssim_needs_a_window():
  images = pictures((2, 11, 11, 1))
  assert metrics.ssim(**images).shape == (2,)
  with pytest.raises(ValueError, match="11 x 11"):
    metrics.ssim(**pictures((2, 11, 10, 1)))


@all_metrics
def test_one_picture_alone_is_the_same_as_in_a_batch(metric):
  images, mask = pictures(), disc()
  batch = metric(**images, mask=mask)
  for k in range(3):
    alone = metric(**{name: image[k, ..., 0] for name, image in images.items()}, mask=mask[k, ..., 0])
    assert alone.shape == ()
    np.testing.assert_allclose(alone, batch[k], rtol=1e-6)


@all_metrics
def test_an_empty_mask_gives_nan_to_that_picture_alone(metric):
  images, mask = pictures(), disc()
  mask[1] = False
  values = metric(**images, mask=mask)
  np.testing.assert_array_equal(np.isnan(values), [False, True, False])
  assert np.isnan(metric(**{name: image[1, ..., 0] for name, image in images.items()}, mask=mask[1, ..., 0]))


@errors
def test_jnp_in_jnp_out_under_jit(metric):
  images, mask = pictures(), disc()
  ours = metric(**images, mask=mask)
  assert isinstance(ours, np.ndarray)
  assert ours.dtype == np.float32
  on_device = {name: jnp.asarray(image) for name, image in images.items()}
  values = jax.jit(lambda **arrays: metric(**arrays))(**on_device, mask=jnp.asarray(mask))
  assert isinstance(values, jax.Array)
  np.testing.assert_allclose(values, ours, rtol=1e-5)
  half = metric(**{name: image.astype(jnp.bfloat16) for name, image in on_device.items()})
  assert half.dtype == jnp.float32
  np.testing.assert_array_equal(metrics.ssim(**on_device, mask=jnp.asarray(mask)), metrics.ssim(**images, mask=mask))
  assert metric(**pictures(dtype=np.float64)).dtype == np.float64


P = np.full((2, 16, 16, 1), 0.5, np.float32)


@all_metrics
@pytest.mark.parametrize(
  "arguments",
  [
    {"prediction": P, "target": P[:1]},
    {"prediction": P, "target": P[..., 0]},
    {"prediction": P[..., 0], "target": P[..., 0]},
    {"prediction": np.repeat(P, 3, -1), "target": np.repeat(P, 3, -1)},
    {"prediction": P.astype(np.uint8), "target": P.astype(np.uint8)},
    {"prediction": P, "target": P, "mask": P[..., 0]},
    {"prediction": P, "target": P, "mask": P[:1]},
    {"prediction": P, "target": P, "mask": P.astype(np.uint8)},
  ],
)
def test_what_does_not_fit_is_refused(metric, arguments):
  with pytest.raises(ValueError, match=r"shape|must be|does not fit"):
    metric(**arguments)


def test_light_angle_between_lamps_at_known_directions():
  for degrees in (0, 1e-3, 0.5, 30, 90, 150, 180):
    one, other = (sh.directional(sh.direction(azimuth, 0)) for azimuth in (-20, degrees - 20))
    np.testing.assert_allclose(metrics.light_angle(prediction=one, target=other), degrees, rtol=1e-3, atol=1e-4)
  # Upwards as well: elevation goes into z, and neither strength nor ambient light matters.
  one, other = sh.directional(sh.direction(0, 0), dc=0.2), sh.directional(sh.direction(0, 40), ambient=0.8)
  np.testing.assert_allclose(metrics.light_angle(prediction=one, target=other), 40, rtol=1e-5)


def test_light_angle_is_that_of_the_directions_whatever_the_axes():
  """Directions over all three axes: a wrong order of x, y, z in one of the two would show."""
  a, b = Rotation.random(2, rng=np.random.default_rng(3)).apply([0.0, 0.0, 1.0])
  expected = np.degrees(np.arccos(a @ b))
  lights = [sh.directional(d) for d in (a, b)]
  np.testing.assert_allclose(metrics.light_angle(prediction=lights[0], target=lights[1]), expected, rtol=1e-6)
  for rotation in Rotation.random(4, rng=np.random.default_rng(4)).as_matrix():
    turned = [sh.rotate(light, rotation) for light in lights]
    np.testing.assert_allclose(metrics.light_angle(prediction=turned[0], target=turned[1]), expected, rtol=1e-5)
    one_turned = metrics.light_angle(prediction=lights[0], target=turned[0])
    np.testing.assert_allclose(one_turned, np.degrees(np.arccos(a @ rotation @ a)), rtol=1e-5)


def test_light_angle_of_even_light_is_nan():
  even = np.eye(9, dtype=np.float32)[0]
  lamp = sh.directional(sh.direction(30, 0)).astype(np.float32)
  values = metrics.light_angle(prediction=np.stack([even, lamp, lamp]), target=np.stack([lamp, even, lamp]))
  np.testing.assert_array_equal(np.isnan(values), [True, True, False])
  values = jax.jit(metrics.light_angle)(prediction=jnp.asarray([even, lamp]), target=jnp.asarray([lamp, lamp]))
  np.testing.assert_array_equal(np.isnan(values), [True, False])


def test_lights_that_do_not_fit_are_refused():
  light = np.zeros((2, 9), np.float32)
  for prediction, target in ((light, light[:1]), (light[:, :4], light[:, :4]), (light, light.astype(int))):
    with pytest.raises(ValueError, match=r"shape|must be"):
      metrics.light_angle(prediction=prediction, target=target)
