"""Lights of a soft part and lamps, against closed forms, quadrature over the sphere and each other."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from scipy.spatial.transform import Rotation

from dpr_jax.light import light as light_lib
from dpr_jax.light import sh
from dpr_jax.light.light import LUMINANCE_WEIGHTS, MAX_LAMPS, Light

CAMERA, LEFT, TOP = (np.array(each, np.float32) for each in ([0, -1, 0], [-1, 0, 0], [0, 0, 1]))


def unit(vectors):
  return (vectors / np.linalg.norm(vectors, axis=-1, keepdims=True)).astype(np.float32)


def normals_all_around(count=4000):
  """Unit vectors, evenly over the sphere (a Fibonacci lattice)."""
  z = 1 - (2 * np.arange(count) + 1) / count
  turn = np.arange(count) * np.pi * (3 - np.sqrt(5))
  across = np.sqrt(1 - z**2)
  return np.stack([across * np.cos(turn), across * np.sin(turn), z], axis=-1).astype(np.float32)


def drawn_light(seed=0, channels=3, lamps=2):
  """Any light: its soft part is mostly even, so that no surface gets a negative sum."""
  rng = np.random.default_rng(seed)
  soft = 0.05 * rng.normal(size=(channels, 9)) + np.eye(9)[0]
  parts = soft, unit(rng.normal(size=(lamps, 3))), rng.uniform(0.2, 1, (lamps, channels)), rng.uniform(1, 30, lamps)
  return Light(*(np.float32(part) for part in parts))


def drawn_rotation(seed=0):
  return Rotation.random(rng=np.random.default_rng(seed)).as_matrix().astype(np.float32)


def assert_lights_equal(one, other, atol=0.0):
  for name, part in one._asdict().items():
    np.testing.assert_allclose(part, getattr(other, name), rtol=0, atol=atol, err_msg=name)


def disc(towards, size, rings=60):
  """Directions `[N, 3]` evenly over a round lamp of a diameter in degrees, and their solid angles."""
  edges = np.cos(np.linspace(0, np.radians(size / 2), rings + 1))
  z = (edges[1:] + edges[:-1]) / 2
  turn = 2 * np.pi * (np.arange(rings) + 0.5) / rings
  z, turn = (each.ravel() for each in np.meshgrid(z, turn, indexing="ij"))
  around = np.stack([np.sqrt(1 - z**2) * np.cos(turn), np.sqrt(1 - z**2) * np.sin(turn), z], axis=-1)
  directions = Rotation.align_vectors(towards[None], [[0, 0, 1]])[0].apply(around)
  return directions, np.repeat((edges[:-1] - edges[1:]) * 2 * np.pi / rings, rings)


# What a light is.


@pytest.mark.parametrize("channels", [1, 3])
def test_nine_numbers_are_a_light_without_lamps(channels):
  numbers = np.random.default_rng(0).normal(size=(channels, 9)).astype(np.float32)
  light = light_lib.soft_light(numbers)
  assert light.channels == channels
  np.testing.assert_array_equal(light.soft, numbers)
  assert [part.shape for part in light[1:]] == [(0, 3), (0, channels), (0,)]
  assert {part.dtype for part in light} == {np.dtype(np.float32)}
  if channels == 1:
    assert_lights_equal(light_lib.soft_light(numbers[0]), light)


@pytest.mark.parametrize("shape", [(), (8,), (10,), (2, 9), (4, 9), (9, 3), (1, 1, 9), (0, 9)])
def test_other_shapes_are_no_soft_light(shape):
  with pytest.raises(ValueError, match=r"a soft light must be \[9\], \[1, 9\] or \[3, 9\], not \["):
    light_lib.soft_light(np.zeros(shape, np.float32))
  with pytest.raises(ValueError, match="a soft light must be"):
    light_lib.as_light(np.zeros(shape, np.float32))


def test_whatever_takes_a_light_takes_nine_numbers():
  light = drawn_light()
  assert light_lib.as_light(light) is light
  numbers = np.arange(9, dtype=np.float32)
  np.testing.assert_array_equal(light_lib.as_light(numbers).soft, numbers[None])
  assert light_lib.as_light(light.soft).channels == 3


@pytest.mark.parametrize(
  "parts",
  [
    {"soft": np.zeros((2, 9))},
    {"soft": np.zeros((3, 8))},
    {"soft": np.zeros((1, 9))},  # with lamps in colour
    {"towards": np.zeros((2, 2))},
    {"towards": np.zeros((1, 3))},
    {"irradiance": np.zeros((3, 3))},
    {"size": np.zeros(1)},
  ],
  ids=lambda parts: "{} {}".format(*next((name, list(part.shape)) for name, part in parts.items())),
)
def test_parts_that_do_not_fit_are_refused(parts):
  with pytest.raises(ValueError, match="do not fit together"):
    light_lib.as_light(drawn_light()._replace(**parts))


@pytest.mark.parametrize("name", Light._fields)
@pytest.mark.parametrize("value", [np.nan, np.inf])
def test_numbers_that_are_not_finite_are_refused(name, value):
  light = drawn_light()
  part = getattr(light, name).copy()
  part.flat[0] = value
  with pytest.raises(ValueError, match="not finite"):
    light_lib.as_light(light._replace(**{name: part}))


# How much of it arrives.


@pytest.mark.parametrize("fill", [0, 0.14, 1, 4])
def test_key_and_fill_are_in_the_proportion_that_is_said(fill):
  light = light_lib.key_and_fill(TOP, fill, 10)
  normals = np.stack([TOP, CAMERA, LEFT, -CAMERA, -TOP])
  key = light_lib.shading(light._replace(soft=np.zeros_like(light.soft)), normals)[:, 0]
  of_fill = light_lib.shading(light._replace(irradiance=np.zeros_like(light.irradiance)), normals)[:, 0]
  np.testing.assert_allclose(of_fill, np.array([0.5, 1, 0.5, 0, 0.5]) * fill, atol=1e-6)
  edge = np.sin(np.radians(5)) / 4  # half of a lamp of 10 degrees stands above the horizon
  np.testing.assert_allclose(key, [1, edge, edge, edge, 0], atol=1e-6)


def test_the_fill_is_the_light_of_half_the_world_behind_the_camera():
  """Of an umbrella of even radiance a surface that is turned aside by t gets (1 + cos t) / 2 of one that faces it."""
  normals = normals_all_around()
  light = light_lib.key_and_fill(LEFT, 0.5, 10)
  got = light_lib.shading(light._replace(irradiance=np.zeros_like(light.irradiance)), normals)[:, 0]
  np.testing.assert_allclose(got, 0.5 * (1 + normals @ CAMERA) / 2, atol=1e-6)


def test_even_light_is_the_same_for_every_surface():
  np.testing.assert_allclose(light_lib.shading(light_lib.even_light(0.7), normals_all_around()), 0.7, rtol=1e-6)


@pytest.mark.parametrize("channels", [1, 3])
def test_shading_is_that_of_the_soft_part_and_of_each_lamp(channels):
  light, normals = drawn_light(1, channels, lamps=3), normals_all_around()
  expected = np.stack([sh.shading(normals, light.soft[c]) for c in range(channels)], axis=-1)
  for towards, irradiance, size in zip(*light[1:], strict=True):
    expected += light_lib.facing(normals @ towards, size)[:, None] * irradiance
  np.testing.assert_allclose(light_lib.shading(light, normals), expected, atol=1e-5)


def test_a_lamp_that_is_not_seen_gives_nothing():
  light, normals = drawn_light(2), normals_all_around(50)
  visible = np.random.default_rng(0).uniform(size=(50, 2)).astype(np.float32)
  visible[:, 1] = 0
  one = light_lib.shading(light._replace(irradiance=light.irradiance * np.float32([[1], [0]])), normals, visible)
  np.testing.assert_array_equal(light_lib.shading(light, normals, visible), one)
  none = light_lib.shading(light_lib.soft_light(light.soft), normals)
  full = light_lib.shading(light._replace(irradiance=light.irradiance * np.float32([[1], [0]])), normals)
  np.testing.assert_allclose(one, none + visible[:, :1] * (full - none), atol=1e-5)


def test_shading_is_never_negative():
  """Nine numbers of a point are, on its far side."""
  harsh = light_lib.soft_light(sh.basis(LEFT))
  assert sh.shading(normals_all_around(), harsh.soft[0]).min() < -0.03
  assert light_lib.shading(harsh, normals_all_around()).min() == 0


@pytest.mark.parametrize("size", [5, 20, 40])
def test_a_large_lamp_sets_as_its_disc_does(size):
  """The irradiance by an even disc, summed over its points, beside the one that a surface facing it gets."""
  angles = np.radians(np.linspace(0, 180, 181))
  normals = np.stack([np.sin(angles), 0 * angles, np.cos(angles)], axis=-1)
  points, solid_angle = disc(TOP, size)
  whole = np.maximum(normals @ points.T, 0) @ solid_angle
  np.testing.assert_allclose(light_lib.facing(np.cos(angles), size), whole / whole[0], atol=0.02 * size / 40)


def test_a_point_is_the_clamped_cosine():
  cosine = np.linspace(-1, 1, 101)
  np.testing.assert_allclose(light_lib.facing(cosine, 0.0), np.maximum(cosine, 0), atol=3e-5)


# Nine numbers of it.


def test_harmonics_of_a_lamp_are_those_of_its_points():
  """A disc of constant radiance, projected by summing over its points; of a small one the bands lose little."""
  points, solid_angle = disc(unit(np.array([1, -2, 0.5])), 4)
  light = Light(np.zeros((1, 9)), unit(np.array([[1, -2, 0.5]])), np.ones((1, 1)), np.full(1, 4.0))
  projected = solid_angle @ sh.basis(points) / solid_angle.sum()
  np.testing.assert_allclose(light_lib.harmonics(light)[0], projected, atol=2e-3)


def test_harmonics_shade_as_the_light_does_but_for_what_nine_numbers_cannot_say():
  """Band by band the projection of the shading is the shading of the projection (Ramamoorthi & Hanrahan 2001)."""
  light, normals = drawn_light(3, lamps=4), normals_all_around(100_000)
  light = light._replace(size=np.full(4, 0.1, np.float32))
  projected = np.mean(light_lib.shading(light, normals)[..., None] * sh.basis(normals)[:, None], axis=0) * 4 * np.pi
  np.testing.assert_allclose(projected, light_lib.harmonics(light) * sh.LAMBERTIAN, atol=2e-3)


@pytest.mark.parametrize("function", [light_lib.harmonics, lambda light: light_lib.gray(light)])
def test_projections_are_linear(function):
  """Lights add up: their soft parts, and the lists of their lamps."""
  one, other = drawn_light(4), drawn_light(5)
  both = Light(
    one.soft + 2 * other.soft,
    np.concatenate([one.towards, other.towards]),
    np.concatenate([one.irradiance, 2 * other.irradiance]),
    np.concatenate([one.size, other.size]),
  )
  parts = [light_lib.harmonics(light_lib.as_light(function(light))) for light in (one, other, both)]
  np.testing.assert_allclose(parts[0] + 2 * parts[1], parts[2], atol=1e-5)


def test_official_networks_are_told_of_soft_light_as_it_is():
  numbers = np.float32([0.7, -0.31, 0.125, 0.2, 1e-3, -0.04, 7e-2, 0.055, -0.061])
  np.testing.assert_array_equal(light_lib.told(light_lib.soft_light(numbers)), numbers[None])
  coloured = np.outer([0.5, 1, 2], numbers).astype(np.float32)
  np.testing.assert_array_equal(light_lib.told(light_lib.soft_light(coloured)), coloured)


@pytest.mark.parametrize("fill", [0, 0.3])
def test_official_networks_are_told_of_a_lamp_as_of_their_lobe(fill):
  told = light_lib.told(light_lib.scale(light_lib.key_and_fill(unit(np.array([-1, -1, 1])), fill, 5), 17))
  assert told.shape == (1, 9)
  told = told[0]
  assert told[0] == pytest.approx(0.75)
  if not fill:
    np.testing.assert_allclose(told, sh.directional(unit(np.array([-1, -1, 1])), ambient=0), atol=1e-6)
  else:
    assert told[1] < 0.75 * told[2] * -1  # the fill comes from the camera


@pytest.mark.parametrize("channels", [1, 3])
def test_official_networks_are_told_of_lamps_at_a_brightness_of_theirs(channels):
  light = drawn_light(6, channels)
  told = light_lib.told(light)
  assert told.shape == (channels, 9)
  assert light_lib.luminance(told[:, 0]) == pytest.approx(0.75)
  np.testing.assert_allclose(light_lib.told(light_lib.scale(light, 3)), told, rtol=1e-5)
  gray = light_lib.told(light_lib.gray(light))[0]
  np.testing.assert_allclose(gray, [light_lib.luminance(told[:, k]) for k in range(9)], atol=1e-6)


# What can be done to it.


def test_a_light_turned_shades_turned_surfaces():
  light, rotation, normals = drawn_light(7), drawn_rotation(), normals_all_around()
  turned = light_lib.rotate(light, rotation)
  np.testing.assert_allclose(
    light_lib.shading(turned, normals @ rotation.T), light_lib.shading(light, normals), atol=2e-5
  )
  np.testing.assert_allclose(light_lib.harmonics(turned), sh.rotate(light_lib.harmonics(light), rotation), atol=1e-5)


def test_there_and_back():
  light, rotation = drawn_light(8), drawn_rotation(1)
  assert_lights_equal(light_lib.rotate(light_lib.rotate(light, rotation), rotation.T), light, atol=1e-5)


def test_a_mirror_is_a_rotation_too():
  """Left and right exchanged: lamps by their x, the soft part by the signs of `sh.MIRROR`."""
  light = drawn_light(9)
  mirrored = light_lib.rotate(light, np.diag(np.float32([-1, 1, 1])))
  assert_lights_equal(
    mirrored, light._replace(soft=light.soft * sh.MIRROR, towards=light.towards * np.float32([-1, 1, 1])), atol=1e-6
  )
  np.testing.assert_allclose(light_lib.harmonics(mirrored), light_lib.harmonics(light) * sh.MIRROR, atol=1e-6)


def test_twice_as_bright():
  light, normals = drawn_light(10), normals_all_around(50)
  doubled = light_lib.shading(light_lib.scale(light, 2), normals)
  np.testing.assert_allclose(doubled, 2 * light_lib.shading(light, normals), rtol=1e-5)


def test_gray_is_luminance():
  light, normals = drawn_light(11), normals_all_around()
  gray = light_lib.gray(light)
  assert gray.channels == 1
  np.testing.assert_allclose(
    light_lib.shading(gray, normals)[:, 0], light_lib.shading(light, normals) @ LUMINANCE_WEIGHTS, rtol=1e-5
  )
  assert light_lib.gray(gray) is gray


@pytest.mark.parametrize("channels", [1, 3])
def test_lamps_are_tinted_and_the_soft_part_is_not(channels):
  colour = np.float32([1.8, 0.8, 0.3])
  light, normals = drawn_light(12, channels), normals_all_around()
  tinted = light_lib.tint_lamps(light, colour)
  assert tinted.channels == 3
  soft = light_lib.shading(light_lib.soft_light(light.soft), normals)
  lamps = light_lib.shading(light, normals) - soft
  np.testing.assert_allclose(light_lib.shading(tinted, normals), soft + lamps * colour, atol=1e-5)


def test_of_a_light_without_lamps_all_is_tinted():
  colour, light = np.float32([1.8, 0.8, 0.3]), light_lib.even_light()
  shading = light_lib.shading(light_lib.tint_lamps(light, colour), normals_all_around(20))
  np.testing.assert_allclose(shading, np.broadcast_to(colour, (20, 3)), rtol=1e-5)


def test_a_colour_of_luminance_1_leaves_brightness_alone():
  colour = np.float32([1.8, 0.8, 0.3])
  colour /= colour @ LUMINANCE_WEIGHTS
  light = drawn_light(13, channels=1)
  assert_lights_equal(light_lib.gray(light_lib.tint_lamps(light, colour)), light, atol=1e-6)


@pytest.mark.parametrize("lamps", range(MAX_LAMPS + 2))
def test_lamps_that_are_off_change_nothing(lamps):
  light, normals = drawn_light(14, lamps=lamps), normals_all_around(50)
  padded = light_lib.with_lamps(light, MAX_LAMPS)
  assert padded.towards.shape == (max(lamps, MAX_LAMPS), 3)
  light_lib.as_light(padded)
  np.testing.assert_allclose(light_lib.shading(padded, normals), light_lib.shading(light, normals), rtol=1e-6)
  np.testing.assert_allclose(light_lib.harmonics(padded), light_lib.harmonics(light), atol=1e-6)


# As JAX has it.

COLOUR = np.float32([1.8, 0.8, 0.3])
NORMALS = normals_all_around(30).reshape(5, 6, 3)
FUNCTIONS = {
  "harmonics": light_lib.harmonics,
  "told": light_lib.told,
  "shading": lambda light: light_lib.shading(light, NORMALS),
  "rotate": lambda light: light_lib.rotate(light, drawn_rotation()),
  "scale": lambda light: light_lib.scale(light, 3.0),
  "gray": light_lib.gray,
  "tint_lamps": lambda light: light_lib.tint_lamps(light, COLOUR),
  "with_lamps": lambda light: light_lib.with_lamps(light, MAX_LAMPS),
}


@pytest.mark.parametrize("channels", [1, 3])
@pytest.mark.parametrize("lamps", [0, 2])
@pytest.mark.parametrize("name", FUNCTIONS)
def test_numpy_and_jnp_agree(name, lamps, channels):
  light = drawn_light(15, channels, lamps)
  plain = FUNCTIONS[name](light)
  traced = jax.jit(FUNCTIONS[name])(jax.tree.map(jnp.asarray, light))
  for one, other in zip(jax.tree.leaves(plain), jax.tree.leaves(traced), strict=True):
    assert isinstance(one, np.ndarray)
    assert isinstance(other, jax.Array)
    assert one.shape == other.shape
    np.testing.assert_allclose(one, other, atol=2e-5)


@pytest.mark.parametrize("name", ["harmonics", "told", "rotate", "gray", "tint_lamps", "with_lamps", "shading"])
def test_several_lights_at_once_are_each_by_itself(name):
  lights = [drawn_light(seed) for seed in range(3)]
  together = jax.vmap(FUNCTIONS[name])(jax.tree.map(lambda *parts: jnp.stack(parts), *lights))
  for k, light in enumerate(lights):
    for one, other in zip(jax.tree.leaves(FUNCTIONS[name](light)), jax.tree.leaves(together), strict=True):
      np.testing.assert_allclose(one, other[k], atol=2e-5)


@pytest.mark.parametrize("cosine", [-0.5, -np.sin(np.radians(5)), 0.0, np.sin(np.radians(5)), 0.5])
@pytest.mark.parametrize("size", [0.0, 10.0])
def test_gradients_are_finite_where_a_lamp_rises_and_sets(cosine, size):
  slopes = jax.jit(jax.grad(light_lib.facing, argnums=(0, 1)))(jnp.float32(cosine), jnp.float32(size))
  assert np.isfinite(slopes).all()


def test_the_gradient_of_shading_is_finite_and_right():
  light, normals = jax.tree.map(jnp.asarray, drawn_light(16)), normals_all_around(40)

  def mean(light):
    return light_lib.shading(light, normals).mean()

  slopes = jax.jit(jax.grad(mean))(light)
  assert all(np.isfinite(part).all() for part in slopes)
  # Shading is linear in soft part and irradiance, where it isn't cut off: Euler's theorem gives it back.
  from_slopes = sum(jnp.sum(getattr(slopes, name) * getattr(light, name)) for name in ("soft", "irradiance"))
  np.testing.assert_allclose(from_slopes, mean(light), rtol=1e-5)
  assert np.abs(slopes.towards).max() > 1e-3
