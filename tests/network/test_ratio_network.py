"""Our network: what its structure promises whatever was learnt, and its parts against closed forms."""

import dataclasses
import functools

import cv2
import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax import traverse_util

from dpr_jax.image import color
from dpr_jax.light import exposure, light, sh, shadows
from dpr_jax.light.fit import LOBES, fit_lobes
from dpr_jax.light.light import Light
from dpr_jax.light.shading import believed_shading, face_shading
from dpr_jax.network import ratio_network
from dpr_jax.network.networks import network_for
from dpr_jax.network.ratio_network import (
  DepthHead,
  FramingHead,
  LightHead,
  MeanFaceHead,
  light_numbers,
)
from dpr_jax.network.shape import RatioEncoding, Shape, Surface
from tests.network.test_hourglass import SMALL_RATIO, apply, random_variables, shapes

pytestmark = pytest.mark.usefixtures("quick_compilation")

NETWORK, VARIABLES = SMALL_RATIO, random_variables(SMALL_RATIO)
HEIGHT, WIDTH = 128, 64
PHOTOS = np.random.default_rng(0).uniform(0.05, 0.95, (2, HEIGHT, WIDTH, 1)).astype(np.float32)
encode = functools.partial(apply, NETWORK, VARIABLES, method="encode")
log_ratio = functools.partial(apply, NETWORK, VARIABLES, method="log_ratio")
encode_knowing = jax.jit(lambda surface: NETWORK.apply(VARIABLES, PHOTOS, surface=surface, method="encode"))
decode = functools.partial(apply, NETWORK, VARIABLES, method="decode")


@functools.partial(jax.jit, static_argnames="train")
def encode_with(batch_stats, train):
  """The encoding, and the statistics after it."""
  variables = {"params": VARIABLES["params"], "batch_stats": batch_stats}
  encoding, kept = NETWORK.apply(variables, PHOTOS, train, method="encode", mutable=["batch_stats"])
  return encoding, kept["batch_stats"]


@functools.partial(jax.jit, static_argnames="stops")
def log_ratio_exposed(encoding, target, stops):
  return NETWORK.apply(VARIABLES, encoding, target, stops, method="log_ratio")


def lamps(*directions, fill=0.3, size=12.0):
  """One light a photo, each of a lamp and fill."""
  lights = [light.key_and_fill(sh.direction(*each), fill, size) for each in directions]
  return jax.tree.map(lambda *parts: np.stack(parts), *lights)


TARGET = lamps((50, 20), (-65, 40))


def mirrored(lights):
  towards = lights.towards * np.float32([-1, 1, 1])
  return lights._replace(soft=lights.soft * sh.MIRROR, towards=towards)


@pytest.fixture(scope="module")
def seen():
  """The encoding of `PHOTOS`, NumPy."""
  return jax.device_get(encode(PHOTOS))


# What is promised whatever was learnt.


def test_call_is_encode_then_decode(seen):
  relit = apply(NETWORK, VARIABLES, PHOTOS, TARGET)
  np.testing.assert_allclose(relit.luminance, decode(seen, TARGET), atol=2e-4)
  assert relit.luminance.shape == PHOTOS.shape
  assert (relit.luminance.min() >= 0, relit.luminance.max() <= 1) == (True, True)
  assert relit.face.shape == seen.face.shape == (2, HEIGHT // 64, WIDTH // 64, 16)
  assert jax.tree.map(np.shape, relit.source_light) == Light((2, 1, 9), (2, 1, 3), (2, 1, 1), (2, 1))
  small = (2, HEIGHT // 4, WIDTH // 4)
  one = (*small, 1)
  assert jax.tree.map(np.shape, seen.shape) == Shape(PHOTOS.shape, (2, 3), (*small, 3), one, one, one)
  np.testing.assert_array_equal(seen.shape.luminance, PHOTOS)
  np.testing.assert_allclose(np.linalg.norm(seen.shape.normal, axis=-1), 1, atol=1e-5)
  assert seen.shape.normal[..., 1].max() < 0  # what one sees faces the camera
  assert 0 < seen.shape.skin.min() < seen.shape.skin.max() < 1
  np.testing.assert_allclose(np.linalg.norm(seen.light.towards, axis=-1), 1, atol=1e-4)
  assert ((seen.light.size >= 2) & (seen.light.size <= 40)).all()


def test_a_mirrored_photo_has_mirrored_shape_and_light(seen):
  other = jax.device_get(encode(PHOTOS[:, :, ::-1]))
  for ours, expected in zip(other.light, mirrored(seen.light), strict=True):
    np.testing.assert_allclose(ours, expected, rtol=1e-3, atol=1e-4)
  # At another place in a batch, XLA may sum in another order.
  np.testing.assert_allclose(other.shape.normal, seen.shape.normal[:, :, ::-1] * [-1, 1, 1], atol=1e-4)
  for name in ("depth", "skin", "doubt"):
    np.testing.assert_allclose(getattr(other.shape, name), getattr(seen.shape, name)[:, :, ::-1], atol=1e-5)
  np.testing.assert_allclose(other.shape.framing, seen.shape.framing * np.float32([1, -1, 1]), atol=1e-5)


def test_the_relit_mirror_image_is_the_mirror_image(seen):
  expected = np.asarray(decode(seen, TARGET))
  other = decode(encode(PHOTOS[:, :, ::-1]), mirrored(TARGET))
  np.testing.assert_allclose(other[:, :, ::-1], expected, atol=5e-4)
  assert np.abs(expected - expected[:, :, ::-1]).max() > 0.1


def test_under_its_own_light_a_photo_stays_as_it_is(seen):
  """Nothing is subtracted for it: it is the same picture rendered twice."""
  np.testing.assert_allclose(log_ratio(seen, seen.light), 0, atol=1e-4)
  np.testing.assert_allclose(decode(seen, seen.light), PHOTOS, atol=1e-4)
  assert np.abs(log_ratio(seen, TARGET)).max() > 0.3


@jax.jit
def _see(photos):
  return NETWORK.apply(VARIABLES, photos, method="estimate")[2]


def see(photos):
  return jax.device_get(_see(photos))


def unit(vectors):
  return vectors / np.linalg.norm(vectors, axis=-1, keepdims=True)


def tilted(weight):
  """A surface that is known where `weight` `[h, w]` says, leaning to the right, of some unknown zero."""
  normal = np.float32([0.6, -0.8, 0]) * np.ones((2, *weight.shape, 1), np.float32)
  depth = 7 - 0.75 * np.arange(weight.shape[1], dtype=np.float32) / max(weight.shape)
  depth = np.broadcast_to(depth[:, None], (2, *weight.shape, 1))
  return Surface(normal, depth, np.broadcast_to(weight[..., None], (2, *weight.shape, 1)).astype(np.float32))


def test_where_nothing_is_known_of_a_surface_the_shape_is_the_networks(seen):
  nothing = jax.device_get(encode_knowing(tilted(np.zeros((HEIGHT // 4, WIDTH // 4)))))
  jax.tree.map(functools.partial(np.testing.assert_allclose, rtol=1e-3, atol=1e-4), nothing, seen)


def test_a_known_surface_is_half_of_the_shape(seen):
  weight = np.zeros((HEIGHT // 4, WIDTH // 4))
  weight[8:24, 4:12] = 1
  surface = tilted(weight)
  mixed = jax.device_get(encode_knowing(surface))
  inside = weight > 0
  # Photo and mirror image are looked at apart.
  looks = see(np.concatenate([PHOTOS, PHOTOS[:, :, ::-1]])).normal
  turned = np.float32([-1, 1, 1])
  looks = looks[:2], looks[2:, :, ::-1] * turned
  half = sum(unit(look[:, inside] + surface.normal[:, inside]) for look in looks)
  half = unit(half)
  np.testing.assert_allclose(mixed.shape.normal[:, inside], half, atol=1e-4)
  np.testing.assert_allclose(mixed.shape.normal[:, ~inside], seen.shape.normal[:, ~inside], atol=1e-4)
  np.testing.assert_allclose(mixed.shape.depth[:, ~inside], seen.shape.depth[:, ~inside], atol=1e-4)
  # The zero of what is known is moved to the network's: no wall stands at its border.
  both = (mixed.shape.depth - seen.shape.depth)[:, inside]
  np.testing.assert_allclose(both.mean(axis=1), 0, atol=1e-4)
  slope = (seen.shape.depth + surface.depth)[:, inside] / 2
  np.testing.assert_allclose(
    mixed.shape.depth[:, inside] - slope,
    (mixed.shape.depth[:, inside] - slope)[:, :1].repeat(inside.sum(), 1),
    atol=1e-4,
  )
  np.testing.assert_allclose(log_ratio(mixed, mixed.light), 0, atol=1e-4)


def luminance_seen(photo):
  """Linear, at the size of the shape."""
  return color.luminance_of_lightness(photo[..., 0]).reshape(HEIGHT // 4, 4, WIDTH // 4, 4).mean((1, 3))


def shading_of(encoding, b, lights):
  shape, lit = encoding.shape, jax.tree.map(lambda part: np.asarray(part)[b], lights)
  normal, depth, skin, doubt = (part[b] for part in (shape.normal, shape.depth, shape.skin, shape.doubt))
  shading = face_shading(normal, depth[..., 0], skin[..., 0], lit)
  return np.asarray(believed_shading(shading, skin[..., 0], doubt[..., 0]))


def test_while_training_a_light_is_as_bright_as_the_key_of_the_photo():
  """Which is how bright the lights of views are told to be."""
  encoding, _ = jax.device_get(encode_with(VARIABLES["batch_stats"], True))
  for b in range(2):
    wanted, skin = (
      exposure.key(luminance_seen(PHOTOS[b]), encoding.shape.skin[b, ..., 0]),
      encoding.shape.skin[b, ..., 0],
    )
    for shading in (encoding.shading[b, ..., 0], shading_of(encoding, b, encoding.light)[..., 0]):
      assert float(exposure.key(shading, skin)) == pytest.approx(float(wanted), rel=5e-3)


def test_after_training_a_light_is_the_one_that_fits_the_skin(seen):
  """And its shading is what lights are compared with."""
  for b in range(2):
    np.testing.assert_allclose(shading_of(seen, b, seen.light), seen.shading[b], rtol=1e-4)
    skin = seen.shape.skin[b, ..., 0]
    mean = np.average(luminance_seen(PHOTOS[b]), weights=skin)
    assert np.average(seen.shading[b, ..., 0], weights=skin) == pytest.approx(mean, rel=0.2)


def test_photos_of_a_batch_do_not_mix(seen):
  relit, coarse = decode(seen, TARGET), log_ratio(seen, TARGET)
  # The first photo stays at its place: at another one, XLA may sum in another order on some processors.
  alone = encode(np.where(np.arange(2)[:, None, None, None] == 0, PHOTOS, np.nan))
  beside_nothing = jax.tree.map(lambda part: np.asarray(part).copy(), TARGET)
  for part in beside_nothing:
    part[1] = np.nan
  np.testing.assert_allclose(log_ratio(alone, beside_nothing)[0], coarse[0], atol=1e-4)
  np.testing.assert_allclose(decode(alone, beside_nothing)[0], relit[0], atol=1e-4)
  assert np.isnan(log_ratio(alone, beside_nothing)[1]).all()


def test_nothing_learnt_lies_behind_the_target_light(seen):
  """The decoder has no weights."""
  without = apply(NETWORK, {}, seen, TARGET, method="log_ratio")
  np.testing.assert_allclose(without, log_ratio(seen, TARGET), atol=1e-4)


def test_nine_numbers_are_a_soft_light(seen):
  numbers = np.float32(np.random.default_rng(1).normal(0, 0.2, (2, 9)) + np.eye(9)[0])
  soft = jax.vmap(light.soft_light)(numbers)
  np.testing.assert_allclose(decode(seen, numbers), decode(seen, soft), atol=1e-4)
  off = jax.vmap(lambda each: light.with_lamps(each, 2))(soft)
  np.testing.assert_allclose(log_ratio(seen, off), log_ratio(seen, soft), atol=1e-4)


def test_colours_do_not_mix_and_gray_is_three_of_the_same(seen):
  coloured = jax.vmap(lambda each: light.tint_lamps(each, np.float32([1, 1, 1])))(TARGET)
  expected = log_ratio(seen, TARGET)
  np.testing.assert_allclose(log_ratio(seen, coloured), np.repeat(expected, 3, axis=-1), atol=1e-4)
  warm = jax.vmap(lambda each: light.tint_lamps(each, np.float32([1.6, 0.9, 0.3])))(TARGET)
  found = np.asarray(log_ratio(seen, warm))
  for channel, share in enumerate((1.6, 0.9, 0.3)):
    alone = TARGET._replace(irradiance=np.float32(share) * TARGET.irradiance)
    np.testing.assert_allclose(found[..., channel : channel + 1], log_ratio(seen, alone), atol=1e-4)


@pytest.mark.parametrize("colour", [None, (1.6, 0.9, 0.3)])
def test_the_skin_keeps_the_key_of_the_photo(seen, colour):
  """By one factor a photo; and so many stops brighter, that much more."""
  target = light.scale(TARGET, np.float32(0.2))
  if colour:
    target = jax.vmap(lambda each: light.tint_lamps(each, np.float32(colour)))(target)
  found = np.asarray(log_ratio_exposed(seen, target, 0.0))
  factor = found - np.asarray(log_ratio(seen, target))
  np.testing.assert_allclose(factor, np.broadcast_to(factor[:, :1, :1, :1], factor.shape), atol=1e-4)
  np.testing.assert_allclose(log_ratio_exposed(seen, target, 1.5), found + 1.5 * np.log(2), atol=1e-4)
  for b in range(2):
    before, skin = luminance_seen(PHOTOS[b]), seen.shape.skin[b, ..., 0]
    after = light.luminance(before[..., None] * shading_of(seen, b, target) / seen.shading[b])
    gain = np.log(exposure.key(before, skin) / exposure.key(after, skin))
    np.testing.assert_allclose(factor[b].mean(), gain, atol=1e-3)


KNOWING = dataclasses.replace(NETWORK, knows_surfaces=True)
KNOWING_VARIABLES = random_variables(KNOWING)


def test_what_has_learnt_nothing_of_surfaces_takes_the_mean():
  """The head begins as the mean of network and surface."""
  weight = np.zeros((HEIGHT // 4, WIDTH // 4))
  weight[8:24, 4:12] = 0.7
  surface = tilted(weight)
  assert network_for(KNOWING_VARIABLES).knows_surfaces
  assert not network_for(VARIABLES).knows_surfaces
  untaught = jax.tree.map(np.zeros_like, KNOWING_VARIABLES["params"]["surface_head"])
  variables = {
    "params": VARIABLES["params"] | {"surface_head": untaught},
    "batch_stats": KNOWING_VARIABLES["batch_stats"] | VARIABLES["batch_stats"],
  }
  encode_untaught = jax.jit(lambda surface: KNOWING.apply(variables, PHOTOS, surface=surface, method="encode"))
  mean, untaught = (jax.device_get(function(surface)).shape for function in (encode_knowing, encode_untaught))
  np.testing.assert_allclose(untaught.normal, mean.normal, atol=1e-4)
  np.testing.assert_allclose(untaught.depth, mean.depth, atol=1e-4)


def test_a_mirrored_photo_with_its_mirrored_surface_has_the_mirrored_shape():
  weight = np.zeros((HEIGHT // 4, WIDTH // 4))
  weight[8:24, 2:9] = 1
  surface = tilted(weight)
  encode_taught = jax.jit(
    lambda photos, surface: KNOWING.apply(KNOWING_VARIABLES, photos, surface=surface, method="encode").shape
  )
  shape = jax.device_get(encode_taught(PHOTOS, surface))
  turned = Surface(*(part[:, :, ::-1] for part in surface))
  turned = turned._replace(normal=turned.normal * np.float32([-1, 1, 1]))
  other = jax.device_get(encode_taught(PHOTOS[:, :, ::-1], turned))
  np.testing.assert_allclose(other.normal[:, :, ::-1] * np.float32([-1, 1, 1]), shape.normal, atol=1e-4)
  np.testing.assert_allclose(other.depth[:, :, ::-1], shape.depth, atol=1e-4)
  blank = jax.device_get(encode_taught(PHOTOS, tilted(0 * weight)))
  assert np.abs(blank.normal - shape.normal).max() > 0.1


def test_the_ratio_is_that_of_two_shadings():
  """Of a face that is known, seen large."""
  normal, disc = sh.sphere_normals(16)
  depth = -0.3 * normal[..., 1] * disc
  skin, framing = disc.astype(np.float32), np.float32([[1, 0, 0]])
  own, target = lamps((0, 0), fill=1.0), lamps((60, 15))
  before, after = (
    np.asarray(face_shading(normal, depth, skin, jax.tree.map(lambda part: part[0], each))) for each in (own, target)
  )
  photo = np.full((1, 64, 64, 1), 0.5, np.float32)
  maps = (normal, depth[..., None], skin[..., None], 0 * skin[..., None])
  shape = Shape(photo, framing, *(each[None] for each in maps))
  encoding = RatioEncoding(np.zeros((1, 1, 1, 16), np.float32), own, shape, before[None])
  found = np.asarray(apply(NETWORK, {}, encoding, target, method="log_ratio"))[0, ..., 0]
  expected = np.log(after / before)[..., 0]
  enlarged = cv2.resize(expected, (64, 64), interpolation=cv2.INTER_LINEAR)
  np.testing.assert_allclose(found, enlarged, atol=1e-4)
  assert found[32, 20] > found[32, 44] + 0.8  # lit from the left
  as_bright_as_it_is = jax.jit(functools.partial(NETWORK.apply, {}, exposure_stops=None, method="decode"))
  relit = as_bright_as_it_is(encoding, target)[0, ..., 0]
  expected = color.lightness_of_luminance(color.luminance_of_lightness(photo[0, ..., 0]) * np.exp(enlarged))
  np.testing.assert_allclose(relit, np.clip(expected, 0, 1), atol=1e-4)


# The parts.


def sphere_under(*lights, size=32):
  """Luminance, normals and skin of white spheres, one a light."""
  normal, disc = sh.sphere_normals(size)
  luminance = np.stack([light.shading(each, normal)[..., 0] for each in lights]) * disc
  return luminance, np.repeat(normal[None], len(lights), 0), np.repeat(disc[None].astype(np.float32), len(lights), 0)


def test_before_training_a_light_is_what_the_lobes_say():
  """Most of it soft; and as bright, in units of the key, however bright the photo is."""
  window = light.soft_light(sh.directional(sh.direction(50, 30), ambient=0.4))
  luminance, normal, skin = sphere_under(window, light.key_and_fill(sh.direction(-40, 10), 0.2, 10))
  features = np.zeros((2, 1, 1, 4), np.float32)
  shapes = jax.eval_shape(LightHead().init, jax.random.key(0), luminance, normal, skin, features)
  zeros = jax.tree.map(lambda leaf: np.zeros(leaf.shape, np.float32), shapes)
  light_of = jax.jit(LightHead().apply)
  own = jax.device_get(light_of(zeros, luminance, normal, skin, features))
  bright = np.asarray(exposure.key(luminance, skin))
  lobes = np.asarray(fit_lobes(luminance, normal, skin)) / bright[:, None]
  kept, moved = 1 / (1 + np.exp(-2)), 1 / (1 + np.exp(2))
  np.testing.assert_allclose(own.soft[:, 0], kept * lobes @ sh.basis(LOBES), rtol=1e-3, atol=1e-4)
  np.testing.assert_allclose((own.towards * own.irradiance)[:, 0], moved * lobes @ LOBES, rtol=1e-3, atol=1e-3)
  np.testing.assert_allclose(own.size, np.sqrt(2 * 40), rtol=1e-5)
  assert own.towards[1, 0] @ sh.direction(-40, 10) > np.cos(np.radians(8))
  brighter = light_of(zeros, np.float32(4) * luminance, normal, skin, features)
  for ours, expected in zip(brighter, own, strict=True):
    np.testing.assert_allclose(ours, expected, rtol=1e-3, atol=1e-3)


def test_depth_is_that_of_the_normals_and_a_mean_face_where_the_face_lies():
  normal, _ = sh.sphere_normals(64)
  head, normal = DepthHead(), jnp.asarray(normal)[None]
  bump = np.zeros((64, 64, 1), np.float32)
  bump[20:24, 40:44] = 0.1  # right of the middle and above it
  flat = head.apply({"params": {"mean_face": 0 * bump}}, normal, jnp.array([[1.0, 0, 0]]))
  np.testing.assert_array_equal(flat[..., 0], shadows.depth_of_normals(normal))
  for factor, right, down in ((1.0, 0, 0), (1.0, -0.25, 0.125), (1.5, 0, 0)):
    laid = head.apply({"params": {"mean_face": bump}}, normal, jnp.array([[factor, right, down]])) - flat
    rows, columns = np.nonzero(np.asarray(laid[0, ..., 0]) > 0.05 * factor)
    centre = (np.array([columns.mean(), rows.mean()]) + 0.5) / 32 - 1
    np.testing.assert_allclose(centre, factor * (np.array([42, 22]) / 32 - 1) + (right, down), atol=0.03)
    assert float(laid.max()) == pytest.approx(0.1 * factor, rel=1e-3)


def test_the_mean_face_is_laid_where_the_face_is():
  """Moved by the framing as a warp of the picture moves it."""
  rng = np.random.default_rng(0)
  coarse = cv2.resize(rng.normal(size=(8, 8, 3)).astype(np.float32), (64, 64), interpolation=cv2.INTER_CUBIC)
  params = {"mean_face": coarse / 20, "conv": {"kernel": np.zeros((3, 3, 2, 3)), "bias": np.zeros(3)}}
  framing = np.float32([[1, 0, 0], [1.25, 0.2, -0.1]])
  found = MeanFaceHead(3).apply({"params": params}, np.zeros((2, 64, 64, 2), np.float32), framing, False)
  # Pixels are counted from the centre of the first, half sides from the picture's centre.
  warp = np.float32([[1.25, 0, -0.25 * 31.5 + 6.4], [0, 1.25, -0.25 * 31.5 - 3.2]])
  moved = cv2.warpAffine(coarse, warp, (64, 64), borderMode=cv2.BORDER_REPLICATE)
  np.testing.assert_allclose(found[0], coarse, atol=1e-4)
  assert np.abs(found[1] - moved).mean() < 0.02


def test_a_framing_follows_the_landmarks():
  """One landmark, a bright pixel: the framing moves as it does."""
  x = np.zeros((1, 16, 16, 1), np.float32)
  x[0, 4, 11] = 1
  kernel = np.zeros((3, 3, 1, 8), np.float32)
  kernel[1, 1, 0, 0] = 100
  dense = np.zeros((16, 3), np.float32)
  dense[:2, 1:] = np.eye(2)
  params = {"landmarks": {"kernel": kernel}, "framing": {"kernel": dense, "bias": np.zeros(3, np.float32)}}
  found = FramingHead().apply({"params": params}, x, False)
  np.testing.assert_allclose(found, [[1, (11 + 0.5) / 8 - 1, (4 + 0.5) / 8 - 1]], atol=1e-5)


def test_pixels_become_channels():
  picture = jnp.arange(2 * 12 * 8.0).reshape(2, 12, 8, 1)
  small = ratio_network._shrink(picture)
  assert small.shape == (2, 3, 2, 16)
  np.testing.assert_array_equal(small[1, 2, 1], picture[1, 8:, 4:, 0].ravel())


def test_lights_are_compared_in_units_of_the_true_one():
  true = TARGET
  np.testing.assert_allclose(light_numbers(true, true), light_numbers(light.scale(true, 3.0), light.scale(true, 3.0)))
  numbers = np.asarray(light_numbers(true, true))
  first = np.asarray(light.harmonics(true))[:, 0, :1]
  np.testing.assert_allclose(numbers[:, :9], true.soft[:, 0] / first, rtol=1e-5)
  np.testing.assert_allclose(numbers[:, 9:12], true.towards[:, 0] / first, rtol=1e-5)
  # A lamp of twice the size is as far off as said, and where there is no lamp its size is nothing.
  larger = np.asarray(light_numbers(true._replace(size=2 * true.size), true)) - numbers
  np.testing.assert_allclose(larger[:, 12:], 0.3 * np.log(2) / np.log(20) / first, rtol=1e-4)
  np.testing.assert_array_equal(larger[:, :12], 0)
  dark = true._replace(irradiance=0 * true.irradiance)
  np.testing.assert_array_equal(light_numbers(dark, dark)[:, 9:], 0)


# Training, types and refusals.


def test_gradients_are_finite_and_reach_every_weight():
  """Pictures teach the light, and leave the shape alone; losses of its own teach the shape."""
  variables = VARIABLES
  rng = np.random.default_rng(1)

  def loss(params, of_rest):
    relit, updated = NETWORK.apply({**variables, "params": params}, PHOTOS, TARGET, train=True, mutable=["batch_stats"])
    rest = (light_numbers(relit.source_light, TARGET), *relit.shape[1:])
    rest = sum((rng.normal(size=part.shape) * part).sum() for part in rest)
    return (rng.normal(size=PHOTOS.shape) * relit.luminance).sum() + of_rest * rest, updated

  gradient = jax.jit(jax.grad(loss, has_aux=True))
  gradients, updated = gradient(variables["params"], 1.0)
  sizes = {path: np.abs(leaf).max() for path, leaf in traverse_util.flatten_dict(gradients, sep="/").items()}
  assert np.isfinite(list(sizes.values())).all()
  cancelled = {"stem/conv/bias"}  # a batch norm takes away what it adds
  assert max(sizes[path] for path in cancelled) < 1e-5 * max(sizes.values())
  assert {path for path, size in sizes.items() if size < 1e-5} - cancelled == set()
  before, after = (traverse_util.flatten_dict(tree["batch_stats"], sep="/") for tree in (variables, updated))
  assert before.keys() == after.keys()
  for path, leaf in after.items():
    assert leaf.dtype == jnp.float32
    assert np.abs(leaf - before[path]).max() > 1e-4

  gradients, _ = gradient(variables["params"], 0.0)
  for name in ("framing_head", "normal_head", "skin_head", "depth_head"):
    assert max(np.abs(leaf).max() for leaf in jax.tree.leaves(gradients[name])) == 0
  assert min(np.abs(leaf).max() for leaf in jax.tree.leaves(gradients["light_head"])) > 0


def test_training_uses_the_statistics_of_the_batch():
  shifted = jax.tree.map(lambda x: x + 1, VARIABLES["batch_stats"])
  (one, _), (other, _) = (encode_with(stats, True) for stats in (VARIABLES["batch_stats"], shifted))
  np.testing.assert_array_equal(one.shape.framing, other.shape.framing)
  (one, kept), (other, _) = (encode_with(stats, False) for stats in (VARIABLES["batch_stats"], shifted))
  assert np.abs(one.shape.framing - other.shape.framing).max() > 1e-4
  jax.tree.map(np.testing.assert_array_equal, kept, VARIABLES["batch_stats"])


def test_bfloat16_computes_in_bfloat16_and_keeps_float32():
  network = NETWORK.clone(dtype=jnp.bfloat16)
  assert {leaf.dtype for leaf in jax.tree.leaves(shapes(network))} == {jnp.dtype(jnp.float32)}
  encoding = jax.eval_shape(functools.partial(network.apply, method="encode"), VARIABLES, PHOTOS)
  assert encoding.face.dtype == jnp.bfloat16
  assert {leaf.dtype for leaf in jax.tree.leaves(encoding._replace(face=encoding.light))} == {jnp.dtype(jnp.float32)}
  relit, updated = jax.eval_shape(
    functools.partial(network.apply, train=True, mutable=["batch_stats"]), VARIABLES, PHOTOS, TARGET
  )
  assert relit.luminance.dtype == jnp.float32
  assert {leaf.dtype for leaf in jax.tree.leaves(updated)} == {jnp.dtype(jnp.float32)}
  equations = jax.make_jaxpr(network.apply)(VARIABLES, PHOTOS, TARGET).eqns
  types = [e.outvars[0].aval.dtype for e in equations if e.primitive.name == "conv_general_dilated"]
  assert len(types) > 25
  assert set(types) == {jnp.dtype(jnp.bfloat16)}


def test_bfloat16_is_close(seen):
  network = NETWORK.clone(dtype=jnp.bfloat16)
  found = jax.jit(functools.partial(network.apply, method="encode"))(VARIABLES, PHOTOS)
  for name in ("normal", "skin"):
    assert np.abs(getattr(found.shape, name) - getattr(seen.shape, name)).mean() < 0.03


@pytest.mark.parametrize(
  ("photos", "target", "message"),
  [
    (np.zeros((2, 64, 64)), TARGET, r"luminance must be \[B, H, W, 1\]"),
    (np.zeros((2, 64, 64, 3)), TARGET, r"luminance must be \[B, H, W, 1\]"),
    (np.zeros((2, 64, 96, 1)), TARGET, "height and width must be multiples of 64"),
    (PHOTOS, np.zeros((2, 8)), r"light must be \[B, 9\], not \[2, 8\]"),
    (PHOTOS, np.zeros(9), r"light must be \[B, 9\], not \[9\]"),
    (PHOTOS, np.zeros((3, 9), np.float32), "a light must be gray, for 2 photos"),
    (PHOTOS, lamps((0, 0)), "a light must be gray, for 2 photos"),
    (PHOTOS, TARGET._replace(soft=np.zeros((2, 3, 9), np.float32)), "a light must be gray"),
  ],
)
def test_wrong_shapes(photos, target, message):
  with pytest.raises(ValueError, match=message):
    jax.eval_shape(NETWORK.apply, VARIABLES, photos, target)


def test_skip_connections_that_are_off_are_refused(seen):
  for on in ((), (True,) * 4):
    NETWORK.apply({}, seen, TARGET, on, method="decode")
  with pytest.raises(ValueError, match="are all on"):
    NETWORK.apply({}, seen, TARGET, (False, True, True, True), method="decode")
