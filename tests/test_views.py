"""Relighting inside the step is what the offline export does; hard lamps are told by their lobes, and cast shadows."""

import math
from types import SimpleNamespace

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from data_gen.synthesis import Settings, Synthesis, relight
from data_gen.target_lights import BuiltInLights
from dpr_jax import light_prior, ratio, sh
from dpr_jax.color import photo_luminance
from dpr_jax.native_libraries import import_native
from dpr_jax.views import (
  LAMP_AMBIENT_ROOT,
  LAMP_AZIMUTH,
  LAMP_DC,
  LAMP_ELEVATION,
  LAMP_SOFTNESS,
  Faces,
  Lights,
  draw_lights,
  lamps,
  relight_faces,
  relight_under,
  soft_lights,
)

cv2 = import_native("cv2")

relit_under = jax.jit(relight_under)

UNMOVED = np.float32([[1, 0, 0]])


def unit(vectors):
  return (vectors / np.linalg.norm(vectors, axis=-1, keepdims=True)).astype(np.float32)


def random_faces(count, size=8, seed=0):
  rng = np.random.default_rng(seed)
  return Faces(
    luminance=rng.random((count, size, size, 1), np.float32),
    normal=unit(rng.normal(size=(count, size, size, 3))),
    depth=np.float32(rng.uniform(-0.2, 0.2, (count, size, size, 1))),
    mask=np.float32(rng.random((count, size, size, 1)) < 0.5),
    framing=np.float32(rng.normal(size=(count, 3))),
    source_light=np.float32(rng.normal(size=(count, 9)) * 0.6 + 0.8 * np.eye(9)[0]),
  )


def online(original_share=0.5, lamp_share=0.0):
  """The part of a config; the first share may be traced, which saves compiling."""
  return SimpleNamespace(original_share=original_share, lamp_share=lamp_share, cast_shadows=True)


def directions(count=4000):
  """Spread evenly over the sphere, `[count, 3]`: a mean over them is one over all directions."""
  index = np.arange(count) + 0.5
  z, longitude = 1 - 2 * index / count, index * np.pi * (3 - math.sqrt(5))
  level = np.sqrt(1 - z * z)
  return np.stack([level * np.cos(longitude), level * np.sin(longitude), z], axis=-1)


def test_given_lights_give_the_ratio_image():
  faces = random_faces(3)
  told = np.float32(np.random.default_rng(1).normal(size=(2, 3, 9)) * 0.3 + 0.8 * np.eye(9)[0])
  relit = relit_under(faces, soft_lights(told))
  assert (relit.shape, relit.dtype) == ((2, 3, 8, 8, 1), jnp.float32)
  for b in range(3):
    expected = ratio.relight_luminance(
      faces.luminance[b, ..., 0], faces.normal[b], faces.source_light[b], np.stack([told[0, b], told[1, b]])
    )
    # A ratio is large, and its rounding with it, where the photo's shading is near 0.
    np.testing.assert_allclose(relit[:, b, ..., 0], expected, atol=2e-4)
    assert np.median(np.abs(relit[:, b, ..., 0] - expected)) < 1e-6
  dark = sum((sh.shading(faces.normal[b], faces.source_light[b]) <= 0).sum() for b in range(3))
  assert dark > 5  # shadows that are filled, each with its own face's smallest shading


def test_the_export_writes_the_same_up_to_its_8_bits():
  """Gray, so that no colour leaves the gamut: L and nothing else is what the two have in common."""
  y, x = np.mgrid[:64, :64]
  gray = np.uint8(np.clip(110 + 60 * np.sin(x / 9) * np.cos(y / 7), 60, 200))
  photo = np.repeat(gray[..., None], 3, axis=2)
  normal, _ = sh.sphere_normals(64)
  rng = np.random.default_rng(0)
  (source, *targets) = BuiltInLights(color=False).draw(rng, 4)
  source = 1.3 * source.sh
  written = relight(cv2.cvtColor(photo, cv2.COLOR_RGB2LAB), normal, source, targets)
  faces = Faces(
    photo_luminance(photo)[None, ..., None],
    normal[None],
    np.zeros((1, 64, 64, 1), np.float32),
    np.ones((1, 64, 64, 1), np.float32),
    UNMOVED,
    source[None],
  )
  relit = relit_under(faces, soft_lights(np.stack([target.sh for target in targets])[:, None]))[:, 0, ..., 0]
  offline = np.stack([photo_luminance(image) for image in written])
  # Half a level in the photo, multiplied by the ratio; one that is cut off at the end, and half a level of RGB.
  gain = np.asarray(relit) / np.maximum(faces.luminance[0, ..., 0], 1e-3)
  difference = 255 * (np.asarray(relit) - offline)
  assert (difference > -0.8 * gain - 0.8).all()
  assert (difference < 0.8 * gain + 1.8).all()
  assert 0.2 < difference.mean() < 0.8  # truncation


def test_a_procedural_record_agrees():
  """A whole record, colours and the estimated light included; not denoised, which only the export can afford."""
  settings = Settings(count=1, size=64, lights_per_image=2, denoise="none", seed=3)
  with Synthesis(settings) as synthesis:
    (made,) = synthesis.relit(synthesis.source.ids[0])
  record = made.record
  faces = Faces(
    photo_luminance(record.original)[None, ..., None],
    record.normal[None],
    record.depth[None, ..., None],
    np.ones((1, 64, 64, 1), np.float32),
    UNMOVED,
    record.source_light[None],
  )
  relit = np.asarray(relit_under(faces, soft_lights(record.target_lights[:, None])))[:, 0, ..., 0]
  offline = np.stack([photo_luminance(image) for image in record.relit])
  difference = 255 * (relit - offline)
  assert 0 < np.median(difference) < 1  # truncation
  assert np.percentile(np.abs(difference), 95) < 3
  # Exposed alike: not scaled to each other.
  np.testing.assert_allclose(relit.mean(axis=(1, 2)), offline.mean(axis=(1, 2)), atol=1.5 / 255)


@pytest.fixture(scope="module")
def relit_of_many():
  """400 faces, and the jitted function from a key and a share of photos to their views."""
  faces = random_faces(400, size=2)
  return faces, jax.jit(lambda key, share: relight_faces(key, faces, online(share)))


@pytest.mark.parametrize("share", [0.0, 0.5, 1.0])
def test_first_views_are_photos_as_often_as_asked(share, relit_of_many):
  faces, relit_of = relit_of_many
  views = relit_of(jax.random.key(3), share)
  is_photo = (views.luminance[0] == faces.luminance).all(axis=(1, 2, 3))
  np.testing.assert_array_equal(is_photo, (views.light[0] == faces.source_light).all(axis=1))
  assert abs(is_photo.mean() - share) <= 4 * math.sqrt(share * (1 - share) / 400)
  assert not (views.light[1] == faces.source_light).all(axis=1).any()
  np.testing.assert_array_equal(views.original, faces.luminance)
  np.testing.assert_array_equal(views.mask, faces.mask)
  np.testing.assert_array_equal(views.normal, faces.normal)
  np.testing.assert_array_equal(views.depth, faces.depth)
  np.testing.assert_array_equal(views.framing, faces.framing)
  relit = relit_under(faces, soft_lights(views.light))
  np.testing.assert_allclose(views.luminance[1], relit[1], atol=1e-4)
  np.testing.assert_allclose(
    views.luminance[0], np.where(is_photo[:, None, None, None], faces.luminance, relit[0]), atol=1e-4
  )


def test_lights_are_fresh_for_each_face_view_and_key_and_drawn_from_the_prior():
  faces = random_faces(5)
  compiled = 0

  @jax.jit
  def views_of(key):
    nonlocal compiled
    compiled += 1
    return relight_faces(key, faces, online(0.0, 0.3))

  lights = np.concatenate([views_of(jax.random.key(seed)).light.reshape(-1, 9) for seed in range(4)])
  assert len(np.unique(lights.round(5), axis=0)) == 40
  (low, high), lamp_range = light_prior.DC_RANGE, LAMP_DC
  low, high = min(low, lamp_range[0]), max(high, lamp_range[1])
  assert ((lights[:, 0] > low - 1e-6) & (lights[:, 0] < high + 1e-6)).all()
  assert compiled == 1
  again = views_of(jax.random.key(2))
  for value, expected in zip(views_of(jax.random.key(2)), again, strict=True):
    np.testing.assert_array_equal(value, expected)


def test_views_can_always_be_learnt_from():
  """Whatever the source light: a light from nowhere, shadows everywhere, a strong one."""
  faces = random_faces(4)
  odd = np.float32([[0] * 9, [-1] + [0] * 8, [0.01, 3, 0, 0, 0, 0, 0, 0, 0], [1e6] + [0] * 8])
  lights = soft_lights(np.tile(random_faces(4, seed=2).source_light, (2, 1, 1)))
  luminance = relit_under(faces._replace(source_light=odd), lights)
  assert np.isfinite(luminance).all()
  assert (luminance >= 0).all()
  assert (luminance <= 1).all()


def test_a_face_does_not_depend_on_the_others():
  faces = random_faces(3)
  rng = np.random.default_rng(0)
  told, towards = np.float32(rng.normal(size=(2, 3, 9))), unit(rng.normal(size=(2, 3, 3)))
  hard, strength, even = rng.random((2, 3)) < 0.5, rng.random((2, 3), np.float32), rng.random((2, 3), np.float32)
  lights = Lights(told, hard, towards, strength, even, np.full((2, 3), 0.3, np.float32))
  together = relit_under(faces, lights)
  for b in range(3):
    alone = relit_under(Faces(*(leaf[b : b + 1] for leaf in faces)), Lights(*(leaf[:, b : b + 1] for leaf in lights)))
    np.testing.assert_allclose(alone[:, 0], together[:, b], atol=1e-5)


LAMPS = [(0, 0, 0.5, 0.8), (70, 20, 0.0, 0.7), (-100, 60, 0.7, 0.9), (30, -15, 1.0, 0.75)]


@pytest.mark.parametrize(("azimuth", "elevation", "ambient", "dc"), LAMPS)
def test_lamps_are_told_by_the_lobe_that_names_them(azimuth, elevation, ambient, dc):
  towards = sh.direction(azimuth, elevation)
  lamp = jax.device_get(lamps(towards, ambient, dc, 0.3))
  np.testing.assert_allclose(lamp.told, sh.directional(towards, ambient, dc), atol=1e-6)
  # What the lamp does not see keeps the ambient share.
  assert lamp.even == pytest.approx(ambient * (lamp.even + lamp.strength), abs=1e-6)
  # What faces a lamp of one `dc` is equally bright, whatever the even light.
  assert lamp.even + lamp.strength == pytest.approx(float(sum(jax.device_get(lamps(towards, 0.2, dc, 0.3))[3:5])))


def lit_faces(normals, depth):
  """One gray face in a photo of even light, whose shading is 1 / sqrt(pi) for a first coefficient of 2."""
  flat = np.float32(np.eye(9)[:1] * 2)
  shape = (1, *normals.shape[:2], 1)
  gray, mask = np.full(shape, 0.3, np.float32), np.ones(shape, np.float32)
  return Faces(gray, normals[None], depth.reshape(shape), mask, UNMOVED, flat)


def one_lamp(towards, ambient=0.5, softness=0.3):
  return jax.tree.map(lambda leaf: leaf[None, None], lamps(towards, ambient, 0.8, softness))


def test_lamps_shade_hard():
  """Away from the lamp there is even light and nothing else; towards it the shading follows the cosine."""
  normals = np.float32(directions(64).reshape(8, 8, 3))
  towards = sh.direction(60, 25)
  lamp = one_lamp(towards)
  relit = np.asarray(relit_under(lit_faces(normals, np.zeros((8, 8), np.float32)), lamp))[0, 0, ..., 0]
  cosine = normals @ towards
  expected = 0.3 * (lamp.even[0, 0] + lamp.strength[0, 0] * np.maximum(cosine, 0)) / math.sqrt(math.pi)
  np.testing.assert_allclose(relit, np.minimum(expected, 1), atol=1e-5)
  assert np.ptp(relit[cosine < 0]) < 1e-6
  assert (cosine < 0).sum() > 20


def test_what_a_ridge_hides_from_the_lamp_has_even_light_only():
  normals = np.tile(np.float32([0, -1, 0]), (32, 32, 1))
  depth = np.zeros((32, 32), np.float32)
  depth[:, 13:17] = 0.2  # a lamp at 45 degrees from the left hides 0.2 of the side behind it
  faces, lamp = lit_faces(normals, depth), one_lamp(sh.direction(45, 0), softness=0.01)
  relit = np.asarray(relit_under(faces, lamp))[0, 0, ..., 0]
  shadow, light = 0.3 * lamp.even[0, 0] / math.sqrt(math.pi), relit[0, 0]
  np.testing.assert_allclose(relit[:, 18:21], shadow, atol=1e-5)
  np.testing.assert_allclose(relit[:, 25:], light, atol=1e-5)
  assert light > 1.5 * shadow
  without = np.asarray(jax.jit(relight_under, static_argnums=2)(faces, lamp, False))[0, 0, ..., 0]
  np.testing.assert_allclose(without, light, atol=1e-5)


def test_lamps_are_as_frequent_as_asked_and_lie_in_their_ranges():
  lights = jax.device_get(jax.jit(lambda key: draw_lights(key, (2, 500), 0.3))(jax.random.key(1)))
  assert abs(np.mean(lights.hard) - 0.3) <= 4 * math.sqrt(0.3 * 0.7 / 1000)
  hard = Lights(*(field[lights.hard] for field in lights))
  np.testing.assert_allclose(np.linalg.norm(hard.towards, axis=-1), 1, atol=1e-5)
  elevation = np.degrees(np.arcsin(hard.towards[:, 2]))
  azimuth = np.degrees(np.arctan2(-hard.towards[:, 0], -hard.towards[:, 1]))
  for angles, (low, high) in ((azimuth, LAMP_AZIMUTH), (elevation, LAMP_ELEVATION)):
    assert (low - 0.1 < angles.min(), angles.max() < high + 0.1) == (True, True)
    assert np.ptp(angles) > 0.9 * (high - low)
  # Each is told by its own lobe.
  ambient = hard.even / (hard.strength + hard.even)
  told = sh.directional(hard.towards, ambient[:, None], hard.told[:, :1])
  np.testing.assert_allclose(hard.told, told, atol=1e-5)
  for values, (low, high) in (
    (np.sqrt(ambient), LAMP_AMBIENT_ROOT),
    (hard.told[:, 0], LAMP_DC),
    (hard.softness, LAMP_SOFTNESS),
  ):
    assert (low - 1e-3 < values.min(), values.max() < high + 1e-3) == (True, True)
    assert np.ptp(values) > 0.9 * (high - low)
  # The others are the prior's.
  drawn = jax.jit(jax.vmap(jax.vmap(light_prior.draw_light)))(jax.random.split(jax.random.key(1), (2, 500)))
  np.testing.assert_allclose(lights.told[~lights.hard], drawn[~lights.hard], atol=1e-5)
