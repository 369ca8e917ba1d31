"""relight_fn and its relatives: shapes, equivalences, transformations, refusals."""

import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from PIL import Image

from dpr_jax.image import color
from dpr_jax.light import light, sh
from dpr_jax.light.light import Light
from dpr_jax.network.weights import load_params
from dpr_jax.portrait.compositing import multiply_light
from dpr_jax.portrait.relighting import (
  decode_luminance,
  encode_luminance,
  estimate_light,
  log_ratio,
  relight_fn,
  relight_lights,
  relight_luminance,
)
from tests.network.test_hourglass import SMALL_512, SMALL_1024, SMALL_RATIO, random_variables

pytestmark = pytest.mark.usefixtures("quick_compilation")

PARAMS = random_variables(SMALL_512)
PARAMS_1024 = random_variables(SMALL_1024)
PARAMS_RATIO = random_variables(SMALL_RATIO)
# Sides that are multiples of nothing.
IMAGES = np.random.default_rng(0).uniform(size=(2, 37, 51, 3)).astype(np.float32)
LIGHTS = np.asarray(sh.directional(np.array([[-1.0, 0, 0], [0, -1, 0], [0, 0, 1]]))).astype(np.float32)
LAMP = light.key_and_fill(sh.direction(50, 20), 0.3, 15)
WARM = light.tint_lamps(LAMP, np.float32([1.6, 0.9, 0.3]))
both_kinds = pytest.mark.parametrize("params", [PARAMS, PARAMS_RATIO], ids=["512", "ratio"])


# ---------------------------------------------------------------------------------------------------------------------
# What goes in, what comes out.


@both_kinds
def test_every_form_of_images_and_lights(params):
  one = relight_fn(params, IMAGES[0], LIGHTS[0])
  assert isinstance(one, jax.Array)
  assert one.shape == (37, 51, 3)
  assert one.dtype == jnp.float32
  assert one.min() >= 0
  assert one.max() <= 1
  assert np.abs(one - IMAGES[0]).max() > 0.01

  several = relight_fn(params, IMAGES[0], LIGHTS)
  assert several.shape == (3, 37, 51, 3)
  np.testing.assert_allclose(several[0], one, atol=5e-4)
  assert np.abs(several[0] - several[1]).max() > 1e-3
  np.testing.assert_array_equal(relight_lights(params, IMAGES[0], LIGHTS), several)
  alone = relight_fn(params, IMAGES[0], LIGHTS[:1])
  assert alone.shape == (1, 37, 51, 3)
  np.testing.assert_allclose(alone[0], one, atol=5e-4)

  pairs = relight_fn(params, IMAGES, LIGHTS[1:])
  assert pairs.shape == (2, 37, 51, 3)
  np.testing.assert_allclose(pairs[0], several[1], atol=5e-4)
  shared_light = relight_fn(params, IMAGES, LIGHTS[1])
  np.testing.assert_allclose(shared_light[0], pairs[0], atol=5e-4)
  assert np.abs(shared_light[1] - pairs[1]).max() > 1e-3


def test_relight_lights_equals_single_calls():
  together = relight_lights(PARAMS, IMAGES[1], LIGHTS)
  for each, relit in zip(LIGHTS, together, strict=True):
    np.testing.assert_allclose(relit, relight_fn(PARAMS, IMAGES[1], each), atol=1e-5)


@pytest.mark.parametrize("params", [PARAMS, PARAMS_1024], ids=["512", "1024"])
def test_luminance_is_relit_and_chroma_stays(params):
  lab = color.srgb_to_lab(jnp.asarray(IMAGES))
  luminance, source_light = relight_luminance(params, lab[..., :1] / 100, LIGHTS[:2])
  assert luminance.shape == (2, 37, 51, 1)
  assert source_light.shape == (2, 9)
  assert luminance.dtype == source_light.dtype == jnp.float32
  expected = color.lab_to_srgb(jnp.concatenate([100 * luminance, lab[..., 1:]], axis=-1))
  np.testing.assert_allclose(relight_fn(params, IMAGES, LIGHTS[:2]), expected, atol=1e-5)
  np.testing.assert_allclose(estimate_light(params, IMAGES), source_light, atol=1e-5)


@pytest.mark.parametrize(("params", "network"), [(PARAMS, SMALL_512), (PARAMS_1024, SMALL_1024)], ids=["512", "1024"])
def test_any_size_is_padded_by_repeating_the_edge(params, network):
  luminance = color.srgb_to_lab(IMAGES)[..., :1] / 100
  bottom, right = -37 % network.size_multiple, -51 % network.size_multiple
  padded = np.pad(luminance, ((0, 0), (0, bottom), (0, right), (0, 0)), mode="edge")
  expected = jax.jit(network.apply)(params, padded, LIGHTS[:2])
  relit, source_light = relight_luminance(params, luminance, LIGHTS[:2])
  np.testing.assert_allclose(relit, expected.luminance[:, :37, :51], atol=1e-5)
  np.testing.assert_allclose(source_light, expected.source_light, atol=1e-5)


# ---------------------------------------------------------------------------------------------------------------------
# Lights of a soft part and lamps.


def batch(lit, count=2):
  return jax.tree.map(lambda part: np.repeat(part[None], count, axis=0), lit)


def test_our_network_multiplies_linear_light():
  """All of a pixel alike, and by what the network says."""
  luminance = jnp.asarray(color.srgb_to_lab(IMAGES)[..., :1] / 100)
  encoding = encode_luminance(PARAMS_RATIO, luminance)
  for lit, stops in ((LAMP, None), (WARM, -1.0)):  # gray and coloured, exposed by itself and as asked for
    ratio = jax.jit(functools.partial(SMALL_RATIO.apply, exposure_stops=stops, method="log_ratio"))(
      PARAMS_RATIO, encoding, batch(lit)
    )
    expected = color.delinearise(multiply_light(color.linearise(jnp.asarray(IMAGES)), ratio[:, :37, :51]))
    found = relight_fn(PARAMS_RATIO, IMAGES, lit, exposure_stops=stops)
    np.testing.assert_allclose(found, expected, atol=5e-4)
  np.testing.assert_allclose(relight_fn(PARAMS_RATIO, IMAGES[1], lit, exposure_stops=stops), found[1], atol=5e-4)


def test_the_ratio_of_our_network_is_as_bright_as_the_light():
  luminance = jnp.asarray(color.srgb_to_lab(IMAGES)[..., :1] / 100)
  encoding = encode_luminance(PARAMS_RATIO, luminance)
  dim, bright = (log_ratio(PARAMS_RATIO, encoding, luminance, batch(light.scale(LAMP, k))) for k in (1.0, 4.0))
  assert dim.shape == (2, 37, 51, 1)
  np.testing.assert_allclose(bright - dim, np.log(4), atol=1e-2)
  assert log_ratio(PARAMS_RATIO, encoding, luminance, batch(WARM)).shape == (2, 37, 51, 3)


def test_a_published_network_is_told_in_nine_numbers():
  """Of a coloured light once a channel, as bright as a white one: the colour is multiplied in linear light.

  The ratio is that of the two luminances, a little light added to both.
  """
  luminance = jnp.asarray(color.srgb_to_lab(IMAGES)[..., :1] / 100)
  encoding = encode_luminance(PARAMS, luminance)
  before = color.luminance_of_lightness(np.asarray(luminance)) + 0.002
  for lit in (LAMP, WARM):
    numbers = np.asarray(light.told(lit))
    colour = numbers[:, 0] / light.luminance(numbers[:, 0])
    numbers = numbers / colour[:, None]
    np.testing.assert_allclose(numbers[:, 0], 0.75, rtol=1e-5)
    relit = [decode_luminance(PARAMS, encoding, np.repeat(each[None], 2, 0), size=(37, 51)) for each in numbers]
    after = color.luminance_of_lightness(np.concatenate(relit, axis=-1)) + 0.002
    found = log_ratio(PARAMS, encoding, luminance, batch(lit))
    np.testing.assert_allclose(found, np.log(colour * after / before), atol=1e-4)
  gray = decode_luminance(PARAMS, encoding, batch(LAMP), size=(37, 51))
  told = batch(light.told(LAMP)[0])
  np.testing.assert_allclose(gray, decode_luminance(PARAMS, encoding, told, size=(37, 51)), atol=1e-6)
  expected = relight_fn(PARAMS, IMAGES, light.told(LAMP)[0])
  np.testing.assert_allclose(relight_fn(PARAMS, IMAGES, LAMP), expected, atol=1e-5)


def test_a_published_network_takes_every_colour_of_a_light():
  """L has none: linear light is multiplied."""
  luminance = jnp.asarray(color.srgb_to_lab(IMAGES[:1])[..., :1] / 100)
  warm = Light(*(part[None] for part in WARM))
  ratio = log_ratio(PARAMS, encode_luminance(PARAMS, luminance), luminance, warm)[0]
  relit = relight_fn(PARAMS, IMAGES[0], WARM)
  np.testing.assert_allclose(relight_lights(PARAMS, IMAGES[0], [LAMP, WARM])[1], relit, atol=1e-5)
  expected = multiply_light(jnp.asarray(color.linearise(IMAGES[0])), ratio)
  np.testing.assert_allclose(relit, np.clip(color.delinearise(expected), 0, 1), atol=1e-5)
  gray = relight_fn(PARAMS, IMAGES[0], light.gray(WARM))
  warmth = [float(np.mean(x[..., 0]) / np.mean(x[..., 2])) for x in (relit, gray)]
  assert warmth[0] > 1.3 * warmth[1]


def test_nine_numbers_are_a_light_without_lamps():
  expected = relight_fn(PARAMS_RATIO, IMAGES, LIGHTS[0])
  np.testing.assert_allclose(relight_fn(PARAMS_RATIO, IMAGES, light.soft_light(LIGHTS[0])), expected, atol=5e-4)


def test_our_network_estimates_a_light_that_can_be_transferred():
  """Under its own light, as bright as it is, a photo stays as it is."""
  own = estimate_light(PARAMS_RATIO, IMAGES[0])
  assert isinstance(own, Light)
  assert [part.shape for part in own] == [(1, 9), (1, 3), (1, 1), (1,)]
  together = estimate_light(PARAMS_RATIO, IMAGES)
  for one, many in zip(own, together, strict=True):
    np.testing.assert_allclose(one, many[0], atol=1e-4)
  kept = relight_fn(PARAMS_RATIO, IMAGES[0], own, exposure_stops=None)
  np.testing.assert_allclose(kept, IMAGES[0], atol=5e-3)
  assert np.abs(relight_fn(PARAMS_RATIO, IMAGES[0], LAMP, exposure_stops=None) - IMAGES[0]).max() > 0.05


@pytest.mark.parametrize(
  ("lit", "message"),
  [
    (batch(LAMP), r"sh must be one light, not \[2\] of them"),
    (LAMP._replace(size=np.full(1, np.nan, np.float32)), "not finite"),
    (LAMP._replace(towards=np.zeros((2, 3), np.float32)), "do not fit together"),
  ],
)
def test_lights_that_are_not_one(lit, message):
  with pytest.raises(ValueError, match=message):
    relight_fn(PARAMS_RATIO, IMAGES, lit)


# ---------------------------------------------------------------------------------------------------------------------
# Sizes and types.


def test_one_pixel():
  relit = relight_fn(PARAMS, np.full((1, 1, 3), 0.4, np.float32), LIGHTS[0])
  assert relit.shape == (1, 1, 3)
  assert np.isfinite(relit).all()


def test_encode_once_decode_many():
  luminance = color.srgb_to_lab(IMAGES)[..., :1] / 100
  encoding = encode_luminance(PARAMS, luminance)
  for lights in (LIGHTS[:2], LIGHTS[1:]):
    decoded = decode_luminance(PARAMS, encoding, lights, size=(37, 51))
    np.testing.assert_allclose(decoded, relight_luminance(PARAMS, luminance, lights)[0], atol=1e-6)


def test_estimate_light():
  lights = estimate_light(PARAMS, IMAGES)
  assert lights.shape == (2, 9)
  one = estimate_light(PARAMS, IMAGES[1])
  assert one.shape == (9,)
  np.testing.assert_allclose(one, lights[1], atol=1e-5)
  assert np.abs(lights[0] - lights[1]).max() > 1e-6


@pytest.mark.parametrize("dtype", [np.float16, np.float64, jnp.bfloat16])
def test_other_floating_point_types(dtype):
  image, lights = IMAGES[0].astype(dtype), LIGHTS.astype(dtype)
  relit = relight_fn(PARAMS, image, lights)
  assert relit.dtype == jnp.float32
  as_float32 = relight_fn(PARAMS, image.astype(np.float32), lights.astype(np.float32))
  np.testing.assert_array_equal(relit, as_float32)
  assert estimate_light(PARAMS, image).dtype == jnp.float32


def test_lights_in_whole_numbers_and_lists():
  numbers = [1, 0, 0, 1, 0, 0, 0, 0, 0]
  expected = relight_fn(PARAMS, IMAGES[0], np.array(numbers, np.float32))
  np.testing.assert_array_equal(relight_fn(PARAMS, IMAGES[0], np.array(numbers)), expected)
  np.testing.assert_array_equal(relight_fn(PARAMS, jnp.asarray(IMAGES[0]), jnp.array(numbers)), expected)


def test_bfloat16_compute():
  relit = relight_fn(PARAMS, IMAGES[0], LIGHTS, dtype=jnp.bfloat16)
  assert relit.dtype == jnp.float32
  difference = np.abs(relit - relight_fn(PARAMS, IMAGES[0], LIGHTS))
  assert 0 < difference.max() < 0.1
  assert difference.mean() < 0.01


def test_the_tolerance_of_the_range():
  """Resampling overshoots a little; that is not the user's mistake."""
  image = IMAGES[0].copy()
  image[0, 0], image[1, 1] = -5e-4, 1 + 5e-4
  assert np.isfinite(relight_fn(PARAMS, image, LIGHTS[0])).all()


# ---------------------------------------------------------------------------------------------------------------------
# jit, vmap, grad.


def test_jit_and_vmap():
  expected = relight_fn(PARAMS, IMAGES, LIGHTS[:2])
  np.testing.assert_allclose(jax.jit(relight_fn)(PARAMS, IMAGES, LIGHTS[:2]), expected, atol=1e-5)

  @jax.jit
  @jax.vmap
  def mapped(image, numbers):
    return relight_fn(PARAMS, image, numbers), estimate_light(PARAMS, image)

  relit, source_lights = mapped(IMAGES, LIGHTS[:2])
  np.testing.assert_allclose(relit, expected, atol=1e-5)
  np.testing.assert_allclose(source_lights, estimate_light(PARAMS, IMAGES), atol=1e-5)


@both_kinds
def test_gradients_are_finite(params):
  """By the weights, the photo and the light; black, white and saturated pixels included."""
  image = IMAGES[0].copy()
  image[:8], image[8:16], image[16:20] = 0, 1, [1, 0, 0]
  weights = np.random.default_rng(2).normal(size=image.shape)

  def loss(params, image, numbers):
    return (weights * relight_fn(params, image, numbers)).sum()

  of_params, of_image, of_light = jax.jit(jax.grad(loss, argnums=(0, 1, 2)))(params, image, LIGHTS[0])
  for leaf in jax.tree.leaves(of_params):
    assert np.isfinite(leaf).all()
  assert np.isfinite(of_image).all()
  assert (np.abs(of_image[20:]) > 0).mean() > 0.9
  assert np.isfinite(of_light).all()
  assert (of_light != 0).all()
  step = 3e-4 * np.sign(of_light)  # a longer one meets pixels that start or cease to be lit
  difference = float(loss(params, image, LIGHTS[0] + step) - loss(params, image, LIGHTS[0] - step)) / 2
  assert difference == pytest.approx(float(of_light @ step), rel=0.05)


def test_gradients_by_a_lamp_are_finite():
  def loss(lit):
    return relight_fn(PARAMS_RATIO, IMAGES[0], lit, exposure_stops=None).sum()

  gradient = jax.jit(jax.grad(loss))(jax.tree.map(jnp.asarray, LAMP))
  assert all(np.isfinite(leaf).all() for leaf in gradient)
  assert gradient.irradiance[0, 0] > 0
  assert gradient.soft[0, 0] > 0


# ---------------------------------------------------------------------------------------------------------------------
# Refusals. The message names the argument.

NAN_IMAGE = IMAGES[0].copy()
NAN_IMAGE[3, 4, 1] = np.nan
NAN_LIGHT = np.where(np.arange(9) == 4, np.nan, 1).astype(np.float32)

every_function_of_an_image = pytest.mark.parametrize(
  "function",
  [
    relight_fn,
    lambda params, image, numbers: relight_lights(params, image, numbers[None]),
    lambda params, image, _: estimate_light(params, image),
  ],
  ids=["relight_fn", "relight_lights", "estimate_light"],
)
bad_images = pytest.mark.parametrize(
  ("image", "message"),
  [
    (np.zeros((8, 8, 3), np.uint8), r"img must be floating point in \[0, 1\], not uint8"),
    (np.zeros((8, 8, 3), int), r"img must be floating point in \[0, 1\], not int"),
    (np.zeros((8, 8, 3), bool), r"img must be floating point in \[0, 1\], not bool"),
    (NAN_IMAGE, r"img must lie in \[0, 1\], but spans nan"),
    (jnp.asarray(NAN_IMAGE), r"img must lie in \[0, 1\], but spans nan"),
    (IMAGES[0] - 0.1, r"img must lie in \[0, 1\], but spans -0\.\d+ to 0\.\d+"),
    (IMAGES[0] * 255, r"img must lie in \[0, 1\], but spans"),
    (np.full((8, 8, 3), np.inf), r"img must lie in \[0, 1\], but spans inf"),
    (np.zeros((0, 8, 3)), r"img is empty: \[0, 8, 3\]"),
    (np.zeros((8, 0, 3)), r"img is empty: \[8, 0, 3\]"),
    (np.zeros((8, 8)), r"img must be \[H, W, 3\].*, not \[8, 8\]"),
    (np.zeros((8, 8, 1)), r"img must be \[H, W, 3\].*, not \[8, 8, 1\]"),
    (np.zeros((8, 8, 4)), r"img must be \[H, W, 3\].*, not \[8, 8, 4\]"),
    (np.zeros((1, 1, 8, 8, 3)), r"img must be \[H, W, 3\].*, not \[1, 1, 8, 8, 3\]"),
    (np.float32(0.5), r"img must be \[H, W, 3\].*, not \[\]"),
  ],
)


@every_function_of_an_image
@bad_images
def test_bad_images(function, image, message):
  with pytest.raises(ValueError, match=message):
    function(PARAMS, image, LIGHTS[0])


def test_a_batch_without_images():
  with pytest.raises(ValueError, match=r"img is empty: \[0, 8, 8, 3\]"):
    relight_fn(PARAMS, np.zeros((0, 8, 8, 3)), LIGHTS[0])


@pytest.mark.parametrize(
  ("numbers", "message"),
  [
    (np.ones(8), r"must be .*\[B, 9\], not \[8\]"),
    (np.ones((2, 27)), r"must be .*\[B, 9\], not \[2, 27\]"),
    (np.ones((1, 2, 9)), r"must be .*\[B, 9\], not \[1, 2, 9\]"),
    (np.float32(1), r"must be .*\[B, 9\], not \[\]"),
    (NAN_LIGHT, "has values that are not finite"),
    (jnp.asarray(NAN_LIGHT), "has values that are not finite"),
    (np.full((3, 9), np.inf), "has values that are not finite"),
  ],
)
def test_bad_lights(numbers, message):
  with pytest.raises(ValueError, match="sh " + message):
    relight_fn(PARAMS, IMAGES[0], numbers)
  if np.ndim(numbers) != 1:
    with pytest.raises(ValueError, match="shs " + message):
      relight_lights(PARAMS, IMAGES[0], numbers)


def test_one_image_only_for_relight_lights():
  with pytest.raises(ValueError, match=r"img must be \[H, W, 3\], not \[2, 37, 51, 3\]"):
    relight_lights(PARAMS, IMAGES, LIGHTS)
  with pytest.raises(ValueError, match=r"shs must be \[B, 9\], not \[9\]"):
    relight_lights(PARAMS, IMAGES[0], LIGHTS[0])


def test_as_many_lights_as_images():
  with pytest.raises(ValueError, match="2 images, but 3 lights"):
    relight_fn(PARAMS, IMAGES, LIGHTS)
  with pytest.raises(ValueError, match="2 images, but 3 lights"):
    relight_luminance(PARAMS, IMAGES[..., :1], LIGHTS)


@pytest.mark.parametrize(
  ("luminance", "lights", "message"),
  [
    (IMAGES, LIGHTS[:2], r"luminance must be \[B, H, W, 1\]"),
    (IMAGES[0, ..., :1], LIGHTS[:1], r"luminance must be \[B, H, W, 1\]"),
    (IMAGES[..., :1] * 100, LIGHTS[:2], r"luminance must lie in \[0, 1\]"),
    ((IMAGES[..., :1] * 255).astype(np.uint8), LIGHTS[:2], "luminance must be floating point"),
    (IMAGES[:0, ..., :1], LIGHTS[:0], "luminance is empty"),
    (IMAGES[..., :1], LIGHTS[0], r"sh must be \[B, 9\]"),
    (IMAGES[..., :1], np.full((2, 9), np.nan), "sh has values that are not finite"),
  ],
)
def test_bad_luminance(luminance, lights, message):
  with pytest.raises(ValueError, match=message):
    relight_luminance(PARAMS, luminance, lights)


def test_shapes_are_checked_under_jit_too():
  with pytest.raises(ValueError, match=r"sh must be .*, not \[8\]"):
    jax.eval_shape(relight_fn, PARAMS, IMAGES[0], np.ones(8))
  with pytest.raises(ValueError, match="img must be floating point"):
    jax.eval_shape(relight_fn, PARAMS, np.zeros((8, 8, 3), np.uint8), LIGHTS[0])


def test_params_of_something_else():
  for params in ({}, PARAMS["params"]):
    with pytest.raises(ValueError, match="params are of none"):
      relight_fn(params, IMAGES[0], LIGHTS[0])


# ---------------------------------------------------------------------------------------------------------------------
# With the official weights.


def test_a_portrait_under_its_own_and_other_lights(shared):
  shared("reference/dpr/trained_model_03.t7")
  params = load_params("official-512")
  photo = Image.open(shared("reference/dpr/obama.jpg")).resize((512, 512), Image.Resampling.LANCZOS)
  image = np.asarray(photo, np.float32) / 255
  own = np.asarray(estimate_light(params, image))
  assert 0.5 < own[0] < 1.2
  left, right = (np.asarray(sh.directional(sh.direction(azimuth, 10))) for azimuth in (65, -65))
  kept, from_left, from_right = np.asarray(relight_lights(params, image, np.stack([own, left, right])))
  change = np.abs(kept - image).mean()
  assert change < 0.04
  assert change < 0.25 * min(np.abs(other - image).mean() for other in (from_left, from_right))
  # Seen by the viewer, each half of the face is brighter with the lamp on its side.
  face_left, face_right = np.s_[120:360, 140:240], np.s_[120:360, 280:380]
  assert from_left[face_left].mean() > 1.5 * from_right[face_left].mean()
  assert from_right[face_right].mean() > 1.5 * from_left[face_right].mean()
