"""Faces relit inside the step: the ratio image in linear light, how bright it is, and how lights are drawn."""

import math
from types import SimpleNamespace

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from data_gen.synthesis import Settings, Synthesis
from dpr_jax.image.color import luminance_of_lightness, photo_luminance
from dpr_jax.light import exposure, light, shading, shadows
from dpr_jax.light import prior as light_prior
from dpr_jax.train.views import (
  Faces,
  relight_faces,
  relight_under,
)

pytestmark = pytest.mark.usefixtures("quick_compilation")

relit_under = jax.jit(relight_under)
drawn = jax.jit(light_prior.draw_lights_with_lamps, static_argnums=1)

SIDE = 8
UNMOVED = np.float32([[1, 0, 0]])


def unit(vectors):
  return (vectors / np.linalg.norm(vectors, axis=-1, keepdims=True)).astype(np.float32)


def random_faces(count, seed=0, size=SIDE):
  """Grain that looks at the camera, under a light that is mostly even."""
  rng = np.random.default_rng(seed)
  normal = rng.normal(size=(count, size, size, 3))
  normal[..., 1] -= 2
  return Faces(
    luminance=np.float32(rng.uniform(0.05, 0.6, (count, size, size, 1))),
    normal=unit(normal),
    depth=np.float32(rng.uniform(-0.05, 0.05, (count, size, size, 1))),
    mask=np.float32(rng.random((count, size, size, 1)) < 0.7),
    framing=np.float32(rng.normal(size=(count, 3))),
    source_light=np.float32(rng.normal(size=(count, 9)) * 0.2 + np.eye(9)[0]),
    shape_weight=np.float32(rng.random((count, size, size, 1))),
  )


def some_lights(count, seed=0):
  """Of two views, every part `[2, count, ...]`."""
  return jax.device_get(drawn(jax.random.key(seed), (2, count), 0.5))


def stops_of(count, seed=0):
  return np.float32(np.random.default_rng(seed).uniform(-1, 0.5, (2, count)))


def online(original_share=0.5, lamp_share=0.0):
  """The part of a config; the shares may be traced, which saves compiling."""
  return SimpleNamespace(original_share=original_share, lamp_share=lamp_share)


def one(tree, *index):
  return jax.tree.map(lambda leaf: leaf[index], tree)


def shading_by_hand(faces, b, lit):
  """`[H, W]`, in NumPy: the light on the face, and the twentieth of its mean that comes back."""
  seen = [
    np.asarray(shadows.visibility(faces.depth[b, ..., 0], *lamp)) for lamp in zip(lit.towards, lit.size, strict=True)
  ]
  direct = light.shading(lit, faces.normal[b], np.stack(seen, axis=-1) if seen else None)[..., 0]
  mask = faces.mask[b, ..., 0]
  return direct + 0.05 * (direct * mask).sum() / mask.sum() + 1e-4


def key_by_hand(picture, faces, b):
  """Of every fourth row and column."""
  return float(exposure.key(np.asarray(picture)[::4, ::4], faces.mask[b, ::4, ::4, 0]))


# The ratio image.


def test_a_view_is_the_photo_times_the_ratio_of_two_shadings():
  """In linear light, and but for one factor."""
  faces, lights, stops = random_faces(3), some_lights(3), stops_of(3)
  assert {0.0, 1.0} == set(lights.irradiance.ravel())  # with and without lamps
  relit, _ = relit_under(faces, lights, stops)
  assert (relit.shape, relit.dtype) == ((2, 3, SIDE, SIDE, 1), jnp.float32)
  clipped = 0
  for view, b in np.ndindex(2, 3):
    ratio = shading_by_hand(faces, b, one(lights, view, b)) / shading_by_hand(
      faces, b, light.soft_light(faces.source_light[b])
    )
    expected = luminance_of_lightness(faces.luminance[b, ..., 0]) * ratio
    found = luminance_of_lightness(np.asarray(relit[view, b, ..., 0]))
    inside = found < 0.999
    clipped += np.sum(~inside)
    factors = found[inside] / expected[inside]
    np.testing.assert_allclose(factors, np.median(factors), rtol=1e-3)
    assert np.ptp(np.log(ratio)) > 0.1
    assert (expected[~inside] * np.median(factors) > 0.99).all()
  assert clipped < 50


def test_a_view_is_so_many_stops_brighter_than_the_photo():
  faces, lights, stops = random_faces(3), some_lights(3), stops_of(3)
  relit, _ = relit_under(faces, lights, stops)
  for view, b in np.ndindex(2, 3):
    before, after = (
      key_by_hand(luminance_of_lightness(x[..., 0]), faces, b) for x in (faces.luminance[b], np.asarray(relit)[view, b])
    )
    assert after / before == pytest.approx(2 ** stops[view, b], rel=1e-3)


def test_a_light_is_as_bright_as_its_view():
  """The key of its shading is that of the view's luminance; direction, colour and size stay."""
  faces, lights, stops = random_faces(3), some_lights(3), stops_of(3)
  relit, told = jax.device_get(relit_under(faces, lights, stops))
  for view, b in np.ndindex(2, 3):
    lit = one(told, view, b)
    wanted = key_by_hand(luminance_of_lightness(relit[view, b, ..., 0]), faces, b)
    assert key_by_hand(shading_by_hand(faces, b, lit), faces, b) == pytest.approx(wanted, rel=2e-3)
    given = one(lights, view, b)
    np.testing.assert_array_equal(lit.towards, given.towards)
    np.testing.assert_array_equal(lit.size, given.size)
    factor = lit.soft[0, 0] / given.soft[0, 0]
    np.testing.assert_allclose(lit.soft, factor * given.soft, rtol=1e-4, atol=1e-6)
    np.testing.assert_allclose(lit.irradiance, factor * given.irradiance, rtol=1e-4, atol=1e-6)


def test_how_bright_a_light_was_drawn_does_not_matter():
  faces, lights, stops = random_faces(3), some_lights(3), stops_of(3)
  expected, told = relit_under(faces, lights, stops)
  relit, again = relit_under(faces, light.scale(lights, np.float32(7)), stops)
  np.testing.assert_allclose(relit, expected, atol=1e-3)  # of a black shading the least is left
  np.testing.assert_allclose(again.soft, told.soft, rtol=2e-3, atol=1e-4)


def test_one_view_is_relit_to_the_other_by_the_ratio_of_their_lights():
  """What a network is to learn: nothing of the photo's own light is left in it.

  But for one factor: a key of the picture is where albedo and shading are high together.
  """
  faces, lights = random_faces(3), some_lights(3)
  relit, told = jax.device_get(relit_under(faces, lights, np.full((2, 3), -2, np.float32)))
  assert relit.max() < 1
  for b in range(3):
    first, second = (luminance_of_lightness(relit[view, b, ..., 0]) for view in (0, 1))
    shadings = [shading_by_hand(faces, b, one(told, view, b)) for view in (0, 1)]
    factors = second / first / (shadings[1] / shadings[0])
    np.testing.assert_allclose(factors, np.median(factors), rtol=0.04)  # the least is not scaled with the light
    assert 0.4 < np.median(factors) < 2.5  # of so few pixels


def test_a_procedural_record_agrees():
  """With what the export wrote into its relit pictures, under lights without lamps; but for the bounce, and 8 bits."""
  settings = Settings(count=1, size=64, lights_per_image=2, denoise="none", seed=3)
  with Synthesis(settings) as synthesis:
    (made,) = synthesis.relit(synthesis.source.ids[0])
  record = made.record
  faces = Faces(
    photo_luminance(record.original)[None, ..., None],
    record.normal[None],
    record.depth[None, ..., None],
    record.mask[None, ..., None].astype(np.float32),
    UNMOVED,
    record.source_light[None],
    record.mask[None, ..., None].astype(np.float32),
  )
  soft = jax.vmap(jax.vmap(lambda numbers: light.with_lamps(light.soft_light(numbers), 1)))
  relit, told = jax.device_get(relit_under(faces, soft(record.target_lights[:, None]), np.zeros((2, 1), np.float32)))
  for view in range(2):
    difference = 255 * (relit[view, 0, ..., 0] - photo_luminance(record.relit[view]))[record.mask]
    assert abs(np.median(difference)) < 5
    assert np.percentile(np.abs(difference - np.median(difference)), 90) < 8
    # The record's lights are as bright as its pictures; ours are in another unit.
    numbers = told.soft[view, 0, 0]
    np.testing.assert_allclose(
      numbers / numbers[0], record.target_lights[view] / record.target_lights[view, 0], atol=1e-4
    )


def test_views_can_always_be_learnt_from():
  """Whatever the source light: a light from nowhere, shadows everywhere, a strong one; and without a face."""
  faces = random_faces(4)
  odd = np.float32([[0] * 9, [-1] + [0] * 8, [0.01, 3, 0, 0, 0, 0, 0, 0, 0], [1e6] + [0] * 8])
  for mask in (faces.mask, 0 * faces.mask):
    luminance, told = relit_under(faces._replace(source_light=odd, mask=mask), some_lights(4), stops_of(4))
    assert all(np.isfinite(leaf).all() for leaf in jax.tree.leaves((luminance, told)))
    assert (luminance >= 0).all()
    assert (luminance <= 1).all()


def test_a_face_does_not_depend_on_the_others():
  faces, lights, stops = random_faces(3), some_lights(3), stops_of(3)
  together = relit_under(faces, lights, stops)
  others = jax.tree.map(
    lambda leaf: np.where(np.arange(3).reshape(3, *[1] * (leaf.ndim - 1)) == 1, leaf, np.nan), faces
  )
  beside_nothing = relit_under(others, lights, stops)
  for ours, alone in zip(jax.tree.leaves(together), jax.tree.leaves(beside_nothing), strict=True):
    np.testing.assert_allclose(alone[:, 1], ours[:, 1], atol=1e-6)
  assert np.isnan(beside_nothing[0][:, ::2]).all()


# Which views there are.


@pytest.fixture(scope="module")
def relit_of_many():
  """400 faces, and the jitted function from a key and a share of photos to their views."""
  faces = random_faces(400, size=2)
  return faces, jax.jit(lambda key, share: relight_faces(key, faces, online(share, 0.5)))


@pytest.mark.parametrize("share", [0.0, 0.5, 1.0])
def test_first_views_are_photos_as_often_as_asked(share, relit_of_many):
  """And such a photo is itself, under its own light."""
  faces, relit_of = relit_of_many
  views = jax.device_get(relit_of(jax.random.key(3), share))
  ratios = views.light.soft[0, :, 0] / faces.source_light
  is_photo = np.ptp(ratios, axis=-1) < 1e-3 * np.abs(ratios[:, 0])
  assert abs(is_photo.mean() - share) <= 4 * math.sqrt(share * (1 - share) / 400)
  np.testing.assert_allclose(views.luminance[0][is_photo], faces.luminance[is_photo], atol=1e-5)
  assert (views.light.irradiance[0][is_photo] == 0).all()
  assert (np.abs(views.luminance[0][~is_photo] - faces.luminance[~is_photo]).max(axis=(1, 2, 3)) > 1e-4).all()
  assert (np.abs(views.luminance[1] - faces.luminance).max(axis=(1, 2, 3)) > 1e-4).all()
  np.testing.assert_array_equal(views.original, faces.luminance)
  np.testing.assert_array_equal(views.mask, faces.mask)


def test_views_are_brighter_and_darker_than_the_photo(relit_of_many):
  """One pixel of four is asked for the key."""
  faces, relit_of = relit_of_many
  views = jax.device_get(relit_of(jax.random.key(5), 0.0))
  keys = [luminance_of_lightness(x[..., 0, 0, 0]) for x in (views.luminance, faces.luminance)]
  stops = np.log2(keys[0] / keys[1])
  assert stops.min() == pytest.approx(-0.7, abs=0.02)
  assert stops.max() == pytest.approx(0.3, abs=0.02)
  assert stops.mean() == pytest.approx(-0.2, abs=0.05)


def test_lights_are_fresh_for_each_face_view_and_key():
  faces = random_faces(5, size=2)
  compiled = 0

  @jax.jit
  def views_of(key):
    nonlocal compiled
    compiled += 1
    return relight_faces(key, faces, online(0.0, 0.3))

  lights = np.concatenate([views_of(jax.random.key(seed)).light.soft.reshape(-1, 9) for seed in range(4)])
  assert len(np.unique((lights / lights[:, :1]).round(5), axis=0)) == 40
  assert compiled == 1
  again = jax.tree.leaves(views_of(jax.random.key(2)))
  for value, expected in zip(jax.tree.leaves(views_of(jax.random.key(2))), again, strict=True):
    np.testing.assert_array_equal(value, expected)


def test_the_shading_of_views_is_the_networks():
  """They are rendered alike, so that a perfect estimate of shape and light makes a perfect picture."""
  from dpr_jax.network import ratio_network
  from dpr_jax.train import views

  assert views.face_shading is ratio_network.face_shading is shading.face_shading
