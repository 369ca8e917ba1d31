"""sRGB <-> Lab against OpenCV, which the authors used, and scikit-image."""

import itertools

import cv2
import jax
import jax.numpy as jnp
import numpy as np
import pytest
from skimage import color as skimage_color

from dpr_jax.image import color
from dpr_jax.image.color import lab_to_srgb, linear_to_lab, linearise, photo_luminance, srgb_to_lab

RANDOM = np.random.default_rng(0).uniform(size=(64, 64, 3)).astype(np.float32)
CORNERS = np.array(list(itertools.product((0, 1), repeat=3)), np.float32)
GRAYS = np.repeat(np.linspace(0, 1, 256, dtype=np.float32)[:, None], 3, axis=1)
# About both knees: sRGB's at 0.04045, and CIE's where the linear value is (6/29)^3.
DARK = np.random.default_rng(1).uniform(0, 0.12, size=(1000, 3)).astype(np.float32)
EDGES = np.concatenate([CORNERS, GRAYS, DARK, np.float32([[0.04045] * 3, [0, 0.04045, 1], [1 / 255, 0, 0]])])
COLOURS = np.concatenate([RANDOM.reshape(-1, 3), EDGES])


def opencv(colours, code):
  return cv2.cvtColor(colours[None], code)[0]


def test_against_opencv_float():
  """OpenCV interpolates in a table, and is half a gray level off in the dark."""
  expected = opencv(COLOURS, cv2.COLOR_RGB2Lab)
  lab = srgb_to_lab(COLOURS)
  assert np.abs(lab[:, 0] - expected[:, 0]).max() / 100 < 0.7 / 255
  assert np.abs(lab[:, 0] - expected[:, 0]).mean() / 100 < 0.25 / 255
  assert np.abs(lab[:, 1:] - expected[:, 1:]).max() < 0.8


def test_against_opencv_uint8():
  """The authors' input: L of uint8 Lab, divided by 255. In the dark OpenCV's whole numbers are coarse."""
  levels = np.round(COLOURS * 255).astype(np.uint8)
  expected = opencv(levels, cv2.COLOR_RGB2Lab).astype(np.float32)
  lab = srgb_to_lab(levels / np.float32(255))
  difference = np.abs(lab[:, 0] / 100 - expected[:, 0] / 255)
  assert difference[lab[:, 0] > 17].max() < 1 / 255
  assert difference.max() < 1.6 / 255
  assert difference.mean() < 0.31 / 255  # rounding alone makes 0.25
  assert np.abs(lab[:, 1:] + 128 - expected[:, 1:])[lab[:, 0] > 17].max() < 1.5
  assert np.abs(lab[:, 1:] + 128 - expected[:, 1:]).max() < 3


def test_back_against_opencv_float():
  lab = opencv(RANDOM.reshape(-1, 3), cv2.COLOR_RGB2Lab)
  np.testing.assert_allclose(lab_to_srgb(lab), opencv(lab, cv2.COLOR_Lab2RGB), atol=0.5 / 255)


def test_against_skimage():
  lab = srgb_to_lab(COLOURS.astype(np.float64))
  np.testing.assert_allclose(lab, skimage_color.rgb2lab(COLOURS.astype(np.float64)), atol=0.02)
  within = lab * [1, 0.5, 0.5]
  np.testing.assert_allclose(lab_to_srgb(within), skimage_color.lab2rgb(within), atol=5e-4)


def test_linear_light():
  np.testing.assert_allclose(linear_to_lab(linearise(COLOURS)), srgb_to_lab(COLOURS), atol=1e-4)
  linear = linearise(np.array([0, 0.04045, 0.5, 1]))
  np.testing.assert_allclose(linear, [0, 0.04045 / 12.92, 0.21404114, 1], atol=1e-6)
  assert (np.diff(linearise(GRAYS[:, 0])) > 0).all()


def test_luminance_in_closed_form():
  lab = srgb_to_lab(np.array([[0, 0, 0], [1, 1, 1], [0.02, 0.02, 0.02]]))
  np.testing.assert_allclose(lab[:2], [[0, 0, 0], [100, 0, 0]], atol=2e-3)
  assert lab[2, 0] == pytest.approx(24389 / 27 * 0.02 / 12.92, rel=1e-4)  # CIE's kappa times Y


@pytest.mark.parametrize(("dtype", "tolerance"), [(np.float32, 2e-5), (np.float64, 2e-6)])
def test_round_trip(dtype, tolerance):
  colours = COLOURS.astype(dtype)
  np.testing.assert_allclose(lab_to_srgb(srgb_to_lab(colours)), colours, atol=tolerance)


def test_out_of_gamut_is_clipped():
  lab = np.array([[0, 0, 0], [100, 0, 0], [120, 0, 0], [-10, 0, 0], [50, 127, -127], [50, -127, 127], [0, 100, 100]])
  srgb = lab_to_srgb(lab.astype(np.float32))
  assert np.isfinite(srgb).all()
  assert srgb.min() >= 0
  assert srgb.max() <= 1
  np.testing.assert_allclose(srgb[:4], np.repeat([[0], [1], [1], [0]], 3, axis=1), atol=1e-3)


@pytest.mark.parametrize("function", [srgb_to_lab, lab_to_srgb])
@pytest.mark.parametrize("dtype", [np.float16, np.float32, np.float64])
def test_numpy_in_numpy_out(function, dtype):
  image = np.full((2, 3, 4, 3), 0.5, dtype)
  converted = function(image)
  assert isinstance(converted, np.ndarray)
  assert converted.dtype == dtype
  assert converted.shape == image.shape


@pytest.mark.parametrize("function", [srgb_to_lab, lab_to_srgb])
def test_jnp_in_jnp_out(function):
  image = RANDOM[:4] if function is srgb_to_lab else srgb_to_lab(RANDOM[:4])
  converted = function(jnp.asarray(image))
  assert isinstance(converted, jax.Array)
  assert converted.dtype == jnp.float32
  np.testing.assert_allclose(converted, function(image), rtol=1e-5, atol=1e-4)
  np.testing.assert_allclose(jax.jit(jax.vmap(function))(image), function(image), rtol=1e-5, atol=1e-4)


@pytest.mark.parametrize("function", [srgb_to_lab, lab_to_srgb])
def test_products_in_full_precision(function):
  """A matrix product in an accelerator's default precision would cost several gray levels."""
  jaxpr = str(jax.make_jaxpr(function)(jnp.ones((2, 3))))
  assert "dot_general" not in jaxpr or "HIGHEST" in jaxpr


def batched_jacobian(function, points):
  return np.asarray(jax.jit(jax.vmap(jax.jacobian(function)))(jnp.asarray(points)))


def test_gradients_are_finite_everywhere():
  colours = np.concatenate([EDGES, RANDOM[0]])
  to_lab = batched_jacobian(srgb_to_lab, colours)
  assert np.isfinite(to_lab).all()
  # Luminance rises with every primary, from black to white.
  assert (to_lab[:, 0] > 0).all()
  outside = np.float32([[-10, 0, 0], [120, 0, 0], [50, 127, -127], [50, -127, 127], [0, 100, 100], [8, 0, 0]])
  assert np.isfinite(batched_jacobian(lab_to_srgb, np.concatenate([srgb_to_lab(colours), outside]))).all()
  there_and_back = batched_jacobian(lambda x: lab_to_srgb(srgb_to_lab(x)), RANDOM[0])
  np.testing.assert_allclose(there_and_back, np.broadcast_to(np.eye(3), there_and_back.shape), atol=2e-3)


def test_gradients_against_differences():
  """On both sides of the knees."""
  colours = np.concatenate([RANDOM[0], DARK[:50]]).astype(np.float64)
  step = 1e-6
  steps = step * np.eye(3)[:, None]
  for function, points in ((srgb_to_lab, colours), (lab_to_srgb, srgb_to_lab(colours))):
    differences = (function(points + steps) - function(points - steps)) / (2 * step)
    jacobians = batched_jacobian(function, points.astype(np.float32))
    np.testing.assert_allclose(jacobians, np.moveaxis(differences, 0, -1), rtol=1e-3, atol=1e-3)


def test_luminance_of_8_bits():
  """By the table what the network is shown of a photo."""
  grays = np.repeat(np.arange(256, dtype=np.uint8)[:, None, None], 3, axis=2)
  dark = np.random.default_rng(1).integers(0, 30, (50, 60, 3), np.uint8)
  colors = np.random.default_rng(0).integers(0, 256, (50, 60, 3), np.uint8)
  for pixels in (grays, dark, colors, colors[:, ::-1]):
    luminance = photo_luminance(pixels)
    assert luminance.dtype == np.float32
    np.testing.assert_allclose(luminance, srgb_to_lab(pixels / 255)[..., 0] / 100, atol=1e-6)
  assert photo_luminance(grays)[[0, 255], 0] == pytest.approx([0, 1], abs=1e-6)


def test_the_colours_of_lamps():
  np.testing.assert_allclose(color.lamp_colour(color.NEUTRAL), 1, atol=1e-6)
  weights = [0.212671, 0.715160, 0.072169]
  kelvins = np.geomspace(*color.COLOUR_TEMPERATURES, 50).clip(*color.COLOUR_TEMPERATURES)
  colours = np.stack([color.lamp_colour(kelvin) for kelvin in kelvins])
  np.testing.assert_allclose(colours @ weights, 1, atol=1e-5)
  red, blue = colours[:, 0], colours[:, 2]
  assert (np.diff(red) < 0).all()
  assert (np.diff(blue) >= 0).all()
  assert (np.diff(blue)[kelvins[1:] > 2_200] > 0).all()  # below, sRGB has no blue to give


@pytest.mark.parametrize(
  ("kelvin", "x", "y"),
  [(2_000, 0.5267, 0.4133), (2_856, 0.4476, 0.4074), (5_000, 0.3451, 0.3516), (10_000, 0.2807, 0.2884)],
)
def test_black_bodies_lie_where_the_tables_have_them(kelvin, x, y):
  """CIE 1931 chromaticities of Planck's law (Wyszecki & Stiles 1982, illuminant A among them)."""
  xyz = np.linalg.inv(color._WHITE_TO_RGB) @ color._black_body(kelvin) * color._WHITE_POINT
  np.testing.assert_allclose(xyz[:2] / xyz.sum(), [x, y], atol=1e-3)


@pytest.mark.parametrize("kelvin", [1_000, 30_000, float("nan")])
def test_no_lamp_is_that_cold_or_hot(kelvin):
  with pytest.raises(ValueError, match="1700 to 25000 kelvin"):
    color.lamp_colour(kelvin)
