"""The shading of a face: closed forms of lights that are known, and what it has of light's own laws."""

import jax
import numpy as np
import pytest

from dpr_jax.light import light, sh, shading, shadows
from dpr_jax.light.light import Light

SIDE = 32
NORMAL, DISC = sh.sphere_normals(SIDE)
BALL = np.where(DISC, np.sqrt(np.maximum(1 - NORMAL[..., 0] ** 2 - NORMAL[..., 2] ** 2, 0)) / 2, 0).astype(np.float32)
FLAT = np.zeros((SIDE, SIDE), np.float32)
TOWARDS_CAMERA = np.broadcast_to(np.float32([0, -1, 0]), (SIDE, SIDE, 3))
SKIN = DISC.astype(np.float32)

face_shading = jax.jit(shading.face_shading)


def lamp(azimuth, elevation, fill=0.2, size=10.0):
  return light.key_and_fill(sh.direction(azimuth, elevation), fill, size)


def light_on_face(lit, normal=NORMAL, depth=BALL, skin=SKIN):
  """Without the little that keeps logarithms finite."""
  return np.asarray(face_shading(normal, depth, skin, lit), np.float64) - shading._LEAST


def test_even_light_is_even_and_a_twentieth_comes_back():
  for skin in (SKIN, 0.5 * SKIN):
    np.testing.assert_allclose(light_on_face(light.even_light(0.8), skin=skin), 0.8 * 1.05, rtol=1e-4)


def test_a_lamp_lights_by_the_cosine_what_its_light_reaches():
  """A ball throws no shadow on itself but its own dark side."""
  lit = lamp(50, 20)
  direct = np.asarray(light.shading(lit, NORMAL))
  mean = direct[DISC].mean()
  np.testing.assert_allclose(light_on_face(lit, depth=FLAT), direct + 0.05 * mean, atol=2e-3)
  assert np.ptp(direct[DISC]) > 0.9


def test_what_the_relief_hides_gets_fill_and_bounce_alone():
  depth = FLAT.copy()
  depth[:, 13:17] = 0.2  # a lamp at 45 degrees from the left hides 0.2 of the side behind it
  lit = lamp(45, 0, fill=0.3, size=1)
  found = light_on_face(lit, TOWARDS_CAMERA, depth, np.ones_like(FLAT))[..., 0]
  seen = np.asarray(shadows.visibility(depth, lit.towards[0], lit.size[0]))
  expected = 0.3 + np.sqrt(0.5) * seen
  np.testing.assert_allclose(found, expected + 0.05 * expected.mean(), atol=1e-4)
  assert found[:, 18:20].max() < 0.4 * found[:, 28].min()


def test_only_light_that_falls_on_the_skin_comes_back():
  lit = lamp(60, 0, fill=0.1)
  seen = np.asarray(shadows.visibility(BALL, lit.towards[0], lit.size[0]))
  direct = light.shading(lit, NORMAL, seen[..., None])
  means = []
  for side in (-1, 1):
    skin = SKIN * (side * NORMAL[..., 0] > 0)
    means.append(direct[skin > 0].mean())
    np.testing.assert_allclose(light_on_face(lit, skin=skin), direct + 0.05 * means[-1], atol=1e-5)
  assert means[0] > 3 * means[1]


@pytest.mark.parametrize("factor", [0.5, 8.0])
def test_twice_the_light_is_twice_the_shading(factor):
  lit = lamp(-30, 40)
  np.testing.assert_allclose(light_on_face(light.scale(lit, factor)), factor * light_on_face(lit), rtol=1e-3, atol=1e-6)


def test_two_lamps_add_up():
  one, other = lamp(60, 10), lamp(-40, 30, fill=0.0)
  both = Light(one.soft + other.soft, *(np.concatenate([a, b]) for a, b in zip(one[1:], other[1:], strict=True)))
  np.testing.assert_allclose(light_on_face(both), light_on_face(one) + light_on_face(other), rtol=1e-3, atol=1e-5)
  off = light.with_lamps(one, 4)
  np.testing.assert_allclose(light_on_face(off), light_on_face(one), atol=1e-6)


def test_colours_do_not_mix():
  lit, colour = lamp(50, 20), np.float32([1.5, 1.0, 0.2])
  found = light_on_face(light.tint_lamps(lit, colour))
  assert found.shape == (SIDE, SIDE, 3)
  for channel, share in enumerate(colour):
    alone = lit._replace(irradiance=lit.irradiance * share)
    np.testing.assert_allclose(found[..., channel], light_on_face(alone)[..., 0], rtol=1e-4, atol=1e-6)


def test_no_shadow_is_black():
  """Whatever the light, its ratio to another stays finite."""
  for lit in (lamp(180, 0, fill=0.0), light.even_light(0), light.soft_light(-np.eye(9, dtype=np.float32)[0])):
    for skin in (SKIN, 0 * SKIN):
      found = np.asarray(face_shading(NORMAL, BALL, skin, lit))
      assert np.isfinite(found).all()
      assert found.min() >= shading._LEAST


def test_a_mirrored_face_is_lit_in_the_mirror():
  rng = np.random.default_rng(0)
  depth = BALL + 0.02 * rng.normal(size=BALL.shape).astype(np.float32)
  mirrored = np.ascontiguousarray(NORMAL[:, ::-1] * np.float32([-1, 1, 1]))
  found = light_on_face(lamp(-50, 20), mirrored, depth[:, ::-1], SKIN[:, ::-1])
  np.testing.assert_allclose(found, light_on_face(lamp(50, 20), depth=depth)[:, ::-1], atol=1e-6)


def test_gradients_are_finite_and_reach_light_and_shape():
  def total(normal, skin, lit):
    return shading.face_shading(normal, BALL, skin, lit).sum()

  of_normal, of_skin, of_light = jax.jit(jax.grad(total, argnums=(0, 1, 2)))(NORMAL, SKIN, lamp(50, 20))
  for leaf in (of_normal, of_skin, *of_light):
    assert np.isfinite(leaf).all()
  for leaf in (of_normal, of_skin, of_light.soft[0, :4], of_light.irradiance):
    assert (np.abs(leaf) > 0).any()


def believed(lit, luminance, normal=NORMAL, skin=SKIN):
  """Doubt, and the shading as far as it is believed."""
  plain = face_shading(normal, BALL, skin, lit)
  doubt = shading.shadow_doubt(luminance, plain[..., 0], skin)
  return np.asarray(doubt), np.asarray(shading.believed_shading(plain, skin, doubt))


def test_a_shadow_that_the_photo_has_is_believed():
  """However the skin is mottled, up to a fifth brighter than in the middle; a beard is dark in any light."""
  lit = lamp(60, 20)
  plain = np.asarray(face_shading(NORMAL, BALL, SKIN, lit))
  for albedo in (0.4, 0.4 * np.random.default_rng(0).choice([0.3, 1, 1, 1.15], (SIDE, SIDE))):
    doubt, shaded = believed(lit, albedo * plain[..., 0])
    assert doubt[DISC].max() < 1e-5
    np.testing.assert_allclose(shaded[DISC], plain[DISC], rtol=1e-4)


def test_a_shadow_that_the_photo_denies_is_not_divided_by():
  """The shape has a pit, and a shadow in it, where the photo is as bright as around it."""
  lit, true = lamp(60, 20), np.asarray(face_shading(NORMAL, BALL, SKIN, lamp(60, 20)))[..., 0]
  normal = NORMAL.copy()
  normal[14:18, 8:12] = np.float32([1, -0.2, -0.3]) / np.linalg.norm([1, -0.2, -0.3])
  luminance = np.float32(0.4 * true)
  plain = np.asarray(face_shading(normal, BALL, SKIN, lit))
  doubt, shaded = believed(lit, luminance, normal)
  pit = np.s_[14:18, 8:12]
  assert (0.4 * true / plain[..., 0])[pit].min() > 2  # what albedo would have to be, at 0.4 around
  assert doubt[pit].min() > 0.5
  mean = np.average(plain[..., 0], weights=SKIN)
  assert (luminance / shaded[..., 0])[pit].max() < max(0.55, 1.05 * (luminance / mean)[pit].max())
  # Under even light it does not glow.
  even = np.asarray(face_shading(normal, BALL, SKIN, light.even_light(0.8)))
  relit = luminance * np.asarray(shading.believed_shading(even, SKIN, doubt) / shaded)[..., 0]
  around = np.median(relit[DISC])
  glowing = (luminance * even[..., 0] / plain[..., 0])[pit]
  assert relit[pit].max() < 2 * around
  assert glowing.min() > 1.5 * relit[pit].max()


def test_what_is_not_believed_is_the_mean_over_the_skin():
  plain = np.asarray(face_shading(NORMAL, BALL, SKIN, lamp(60, 20)))
  everywhere = np.asarray(shading.believed_shading(plain, SKIN, np.ones((SIDE, SIDE), np.float32)))
  np.testing.assert_allclose(everywhere, plain[DISC].mean(), rtol=1e-4)
  nowhere = shading.believed_shading(plain, SKIN, np.zeros((SIDE, SIDE), np.float32))
  np.testing.assert_array_equal(nowhere, plain)


def test_of_a_face_in_the_dark_something_is_known():
  """More than half of its pixels are black, and some are not."""
  luminance = np.where(np.arange(SIDE)[:, None] < 10, 0.3, np.zeros((SIDE, SIDE))).astype(np.float32)
  doubt, shaded = believed(lamp(60, 20), luminance)
  assert np.isfinite(doubt).all()
  assert (shaded > 0).all()
