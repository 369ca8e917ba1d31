"""The light of a photo, fitted to the skin of faces that are known: spheres under lights that are known."""

import functools

import jax
import numpy as np
import pytest

from dpr_jax.light import light, sh
from dpr_jax.light.fit import LOBE_HARMONICS, LOBES, fit_light, fit_lobes, scale_each
from dpr_jax.light.light import Light
from dpr_jax.light.shading import face_shading

pytestmark = pytest.mark.usefixtures("quick_compilation")

SIDE = 32
NORMAL, DISC = sh.sphere_normals(SIDE)
DEPTH = np.where(DISC, -0.5 * NORMAL[..., 1], 0).astype(np.float32)
SKIN = DISC.astype(np.float32)
EVEN = light.even_light(0.6)
WINDOW = light.soft_light(sh.directional(sh.direction(50, 30), ambient=0.4))
MIRROR = np.float32([-1, 1, 1])
fitted_lobes = jax.jit(fit_lobes)
fitted = jax.jit(fit_light)


def batch(*arrays):
  return tuple(np.asarray(array)[None] for array in arrays)


def lobes_of(luminance, normal=NORMAL, skin=SKIN):
  return np.asarray(fitted_lobes(*batch(luminance, normal, skin)))[0]


def shading_of(lobes):
  return np.maximum(NORMAL @ LOBES.T, 0) @ lobes


def rms(error):
  return np.sqrt(np.mean(np.square(error)))


# Lobes alone.


def test_lobes_are_all_around_in_pairs_of_mirror_images():
  np.testing.assert_allclose(np.linalg.norm(LOBES, axis=-1), 1, atol=1e-6)
  np.testing.assert_allclose(LOBES[32:], LOBES[:32] * MIRROR, atol=1e-7)
  nearest = np.degrees(np.arccos(np.clip((LOBES @ LOBES.T - 2 * np.eye(64)).max(axis=1), -1, 1)))
  assert nearest.max() < 35
  assert np.linalg.norm(LOBES.mean(axis=0)) < 0.05
  np.testing.assert_allclose(LOBE_HARMONICS, sh.basis(LOBES), rtol=1e-6)


@pytest.mark.parametrize("lit", [EVEN, WINDOW], ids=["even", "window"])
def test_lobes_recover_a_soft_light(lit):
  luminance = light.shading(lit, NORMAL)[..., 0]
  lobes = lobes_of(luminance)
  assert lobes.shape == (64,)
  assert lobes.min() >= 0
  assert rms((shading_of(lobes) - luminance)[DISC]) < 0.03 * luminance[DISC].mean()


def test_lobes_point_to_where_the_light_comes_from():
  towards = sh.direction(50, 30)
  vector = lobes_of(light.shading(WINDOW, NORMAL)[..., 0]) @ LOBES
  assert vector @ towards > np.cos(np.radians(12)) * np.linalg.norm(vector)


def test_lobes_are_fitted_to_the_skin_alone_and_are_as_bright_as_it_is():
  luminance, skin = light.shading(WINDOW, NORMAL)[..., 0], SKIN.copy()
  skin[:, 20:] = 0
  expected = lobes_of(luminance, skin=skin)
  elsewhere = np.where(skin > 0, luminance, 5).astype(np.float32)
  np.testing.assert_allclose(lobes_of(elsewhere, skin=skin), expected, rtol=1e-3, atol=1e-5)
  np.testing.assert_allclose(lobes_of(np.float32(3) * luminance), 3 * lobes_of(luminance), rtol=1e-3, atol=1e-5)
  assert np.isfinite(lobes_of(luminance, skin=0 * skin)).all()


def test_lobes_of_a_mirror_image_are_in_the_mirror():
  luminance = light.shading(WINDOW, NORMAL)[..., 0]
  found = lobes_of(luminance[:, ::-1], NORMAL[:, ::-1] * MIRROR, SKIN[:, ::-1])
  np.testing.assert_allclose(found, np.roll(lobes_of(luminance), 32), rtol=1e-3, atol=1e-4)


# Lobes and a lamp.


def key_light(azimuth=50, elevation=20, fill=0.3, size=12.0, irradiance=1.0):
  return light.scale(light.key_and_fill(sh.direction(azimuth, elevation), fill, size), np.float32(irradiance))


@functools.cache
def photo_under(*arguments):
  """The luminance of a white face under `key_light(*arguments)`, as `face_shading` has it."""
  return np.asarray(face_shading(NORMAL, DEPTH, SKIN, key_light(*arguments)))[..., 0]


def light_of(luminance, lamp, skin=SKIN, normal=NORMAL, depth=DEPTH):
  lamps = Light(*batch(*lamp))
  return Light(*(np.asarray(part)[0] for part in fitted(*batch(luminance, normal, depth, skin), lamps)))


def shading_under(lit):
  return np.asarray(face_shading(NORMAL, DEPTH, SKIN, lit))[..., 0]


@pytest.mark.parametrize("arguments", [(50, 20, 0.3), (-70, 10, 0.15), (0, 45, 0.8)])
def test_a_lamp_and_its_fill_are_found_again(arguments):
  """Whose direction and size are known; how bright it was learnt to be does not matter. Lobes get a part of it."""
  luminance, true = photo_under(*arguments), key_light(*arguments)
  found = light_of(luminance, light.scale(true, np.float32(0.1)))
  np.testing.assert_array_equal(found.towards, true.towards)
  np.testing.assert_array_equal(found.size, true.size)
  assert rms((shading_under(found) - luminance)[DISC]) < 0.12 * luminance[DISC].mean()
  assert 0.5 < found.irradiance[0, 0] < 1.1
  first, expected = (light.harmonics(each)[0, 0] for each in (found, true))
  assert first == pytest.approx(expected, rel=0.2)


def test_the_fit_sets_right_what_was_learnt():
  """A lamp that was learnt three times too weak beside its fill."""
  luminance, learnt = photo_under(), key_light(fill=0.9)
  found = light_of(luminance, learnt)
  before = shading_under(light.scale(learnt, luminance[DISC].mean() / shading_under(learnt)[DISC].mean()))
  assert rms((shading_under(found) - luminance)[DISC]) < 0.7 * rms((before - luminance)[DISC])


def test_what_does_not_look_like_skin_is_left_out():
  """Brows and highlights, on a tenth of the face."""
  luminance, true = photo_under(), key_light()
  expected = light_of(luminance, true)
  chance = np.random.default_rng(0).random(DISC.shape)
  blemished = np.where(chance < 0.06, 0.05 * luminance, np.where(chance > 0.96, luminance + 3, luminance))
  found = light_of(blemished.astype(np.float32), true)
  np.testing.assert_allclose(shading_under(found)[DISC], shading_under(expected)[DISC], rtol=0.05)
  assert np.abs(blemished - luminance)[DISC].mean() > 0.05 * luminance[DISC].mean()


def test_a_brighter_photo_has_a_brighter_light():
  luminance, true = photo_under(), key_light()
  one, four = light_of(luminance, true), light_of(4 * luminance, true)
  np.testing.assert_allclose(four.soft, 4 * one.soft, rtol=0.02, atol=2e-3)
  np.testing.assert_allclose(four.irradiance, 4 * one.irradiance, rtol=0.02)


def test_the_light_of_a_mirror_image_is_in_the_mirror():
  luminance, true = photo_under(), key_light()
  expected = light_of(luminance, true)
  mirrored = true._replace(soft=true.soft * sh.MIRROR, towards=true.towards * MIRROR)
  found = light_of(luminance[:, ::-1], mirrored, SKIN[:, ::-1], NORMAL[:, ::-1] * MIRROR, DEPTH[:, ::-1])
  np.testing.assert_allclose(found.soft, expected.soft * sh.MIRROR, atol=1e-4)
  np.testing.assert_allclose(found.irradiance, expected.irradiance, atol=1e-4)


def test_soft_light_stays_soft():
  """Where no lamp was learnt, lobes are not made into one."""
  luminance = np.asarray(face_shading(NORMAL, DEPTH, SKIN, WINDOW))[..., 0]
  learnt = light.with_lamps(WINDOW, 1)._replace(towards=sh.direction(50, 30)[None], size=np.float32([12]))
  found = light_of(luminance, learnt)
  assert rms((shading_under(found) - luminance)[DISC]) < 0.06 * luminance[DISC].mean()
  lobes_only = light.shading(found._replace(irradiance=0 * found.irradiance), NORMAL)[..., 0]
  assert lobes_only[DISC].mean() > 0.7 * luminance[DISC].mean()


def test_without_skin_or_light_it_is_finite():
  for luminance, skin in ((photo_under(), 0 * SKIN), (0 * photo_under(), SKIN)):
    found = light_of(luminance, key_light(), skin)
    assert all(np.isfinite(part).all() for part in found)
  np.testing.assert_allclose(found.irradiance, 0, atol=1e-3)


def test_each_light_is_scaled_by_its_own_factor():
  lights = Light(*(np.repeat(part[None], 2, axis=0) for part in key_light()))
  scaled = scale_each(lights, np.float32([2, 0.5]))
  for b, factor in enumerate((2, 0.5)):
    for part, expected in zip(scaled, light.scale(key_light(), np.float32(factor)), strict=True):
      np.testing.assert_array_equal(part[b], expected)
