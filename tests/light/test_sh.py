"""Spherical harmonics against SciPy, SHTOOLS, exact quadrature and the published definitions of others."""

import itertools

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from PIL import Image
from pyshtools.rotate import SHRotateRealCoef, djpi2
from scipy import optimize, special
from scipy.spatial.transform import Rotation

from dpr_jax.light import sh as sh_lib

DEGREES_AND_ORDERS = [(degree, order) for degree in range(3) for order in range(-degree, degree + 1)]
BAND = np.array([degree for degree, _ in DEGREES_AND_ORDERS])

# x to the image's right, y into the scene, z up.
SIX_DIRECTIONS = {
  "left": [-1, 0, 0],
  "right": [1, 0, 0],
  "top": [0, 0, 1],
  "bottom": [0, 0, -1],
  "front": [0, -1, 0],
  "back": [0, 1, 0],
}
six_directions = pytest.mark.parametrize(("name", "towards"), list(SIX_DIRECTIONS.items()), ids=list(SIX_DIRECTIONS))


def random_lights(number, seed=0):
  return np.random.default_rng(seed).normal(size=(number, 9))


def random_directions(number, seed=1):
  directions = np.random.default_rng(seed).normal(size=(number, 3))
  return directions / np.linalg.norm(directions, axis=1, keepdims=True)


def random_rotations(number, seed=2):
  return Rotation.random(number, rng=np.random.default_rng(seed)).as_matrix()


def sphere_quadrature(cosines=8, hemisphere=False):
  """Directions `[N, 3]` and weights `[N]` that integrate polynomials exactly over the sphere, or the half z > 0."""
  z, weights = np.polynomial.legendre.leggauss(cosines)
  if hemisphere:
    z, weights = (z + 1) / 2, weights / 2
  longitude = 2 * np.pi * np.arange(2 * cosines) / (2 * cosines)
  z, longitude = np.meshgrid(z, longitude, indexing="ij")
  across = np.sqrt(1 - z**2)
  directions = np.stack([across * np.cos(longitude), across * np.sin(longitude), z], axis=-1).reshape(-1, 3)
  return directions, np.repeat(weights, 2 * cosines) * (2 * np.pi / (2 * cosines))


def clamped_cosine_quadrature(normal):
  """Directions and weights that integrate max(0, n.w) times a polynomial: the quadrature's half sphere laid above n."""
  directions, weights = sphere_quadrature(hemisphere=True)
  pole_to_normal = Rotation.align_vectors(normal[None], [[0, 0, 1]])[0]
  return pole_to_normal.apply(directions), weights * directions[:, 2]


# ---------------------------------------------------------------------------------------------------------------------
# Basis, radiance, shading.


def test_basis_against_scipy():
  directions = random_directions(200)
  x, y, z = directions.T
  polar, azimuth = np.arccos(z), np.arctan2(y, x)
  expected = []
  for degree, order in DEGREES_AND_ORDERS:
    # SciPy's complex harmonics have the Condon-Shortley phase, which these real ones undo.
    harmonic = special.sph_harm_y(degree, abs(order), polar, azimuth) * (-1) ** order
    expected.append(harmonic.real if order == 0 else np.sqrt(2) * (harmonic.imag if order < 0 else harmonic.real))
  np.testing.assert_allclose(sh_lib.basis(directions), np.stack(expected, axis=-1), atol=1e-12)


def test_basis_is_orthonormal():
  directions, weights = sphere_quadrature()
  harmonics = sh_lib.basis(directions)
  np.testing.assert_allclose(np.einsum("nj,n,nk->jk", harmonics, weights, harmonics), np.eye(9), atol=1e-12)


def test_a_light_is_the_projection_of_its_radiance():
  directions, weights = sphere_quadrature()
  for light in random_lights(5):
    projected = (sh_lib.radiance(light, directions) * weights) @ sh_lib.basis(directions)
    np.testing.assert_allclose(projected, light, atol=1e-12)


def test_shading_is_the_integral_over_the_hemisphere():
  for light, normal in zip(random_lights(20), random_directions(20), strict=True):
    directions, cosine_weights = clamped_cosine_quadrature(normal)
    integral = cosine_weights @ sh_lib.radiance(light, directions)
    np.testing.assert_allclose(sh_lib.shading(normal, light), integral, rtol=1e-6, atol=1e-6)


def test_shading_of_any_shape():
  normals = random_directions(12).reshape(3, 4, 3)
  light = random_lights(1)[0]
  shade = sh_lib.shading(normals, light)
  assert shade.shape == (3, 4)
  assert shade[2, 1] == pytest.approx(sh_lib.shading(normals[2, 1], light), abs=1e-12)
  assert sh_lib.radiance(light, normals).shape == (3, 4)


def results_of_all_functions(directions, light):
  return (
    sh_lib.basis(directions),
    sh_lib.radiance(light, directions),
    sh_lib.shading(directions, light),
    sh_lib.rotate(light, sh_lib.turn(20)),
    sh_lib.convert(light, "sfsnet"),
    sh_lib.directional(directions),
  )


@pytest.mark.parametrize("dtype", [np.float32, np.float64])
def test_numpy_in_numpy_out(dtype):
  for result in results_of_all_functions(random_directions(4).astype(dtype), random_lights(1)[0].astype(dtype)):
    assert isinstance(result, np.ndarray)
    assert result.dtype == dtype


def test_jnp_in_jnp_out():
  directions, light = random_directions(4), random_lights(1)[0]
  results = results_of_all_functions(jnp.asarray(directions), jnp.asarray(light))
  for result, by_numpy in zip(results, results_of_all_functions(directions, light), strict=True):
    assert isinstance(result, jax.Array)
    assert result.dtype == jnp.float32
    np.testing.assert_allclose(result, by_numpy, rtol=1e-5, atol=2e-6)
  for mixed in (
    sh_lib.shading(jnp.asarray(directions), light),
    sh_lib.shading(directions, jnp.asarray(light)),
    sh_lib.rotate(jnp.asarray(light), sh_lib.turn(20)),
    sh_lib.rotate(light, jnp.asarray(sh_lib.turn(20))),
  ):
    assert isinstance(mixed, jax.Array)


@pytest.mark.parametrize("xp", [np, jnp])
def test_many_azimuths_at_one_elevation(xp):
  expected = [sh_lib.direction(azimuth, 20) for azimuth in (0, 90, -30)]
  around = sh_lib.direction(xp.array([0, 90, -30]), 20)
  np.testing.assert_allclose(around, expected, atol=1e-6)
  assert isinstance(around, type(xp.zeros(1)))
  assert sh_lib.direction(10.0, xp.zeros((2, 3))).shape == (2, 3, 3)


def test_whole_numbers_are_directions_too():
  for towards in (np.array([0, -1, 0]), jnp.array([0, -1, 0])):
    np.testing.assert_allclose(sh_lib.basis(towards), sh_lib.basis(np.array([0.0, -1.0, 0.0])), rtol=1e-6)


@pytest.mark.parametrize("function", [lambda n, s: sh_lib.shading(n, s), lambda n, s: sh_lib.radiance(s, n)])
def test_products_in_full_precision(function):
  """An accelerator's default precision would cost up to a gray level."""
  jaxpr = str(jax.make_jaxpr(function)(jnp.ones((2, 3)), jnp.ones(9)))
  assert "dot_general" in jaxpr
  assert "HIGHEST" in jaxpr


@pytest.mark.parametrize("light", [np.ones(8), np.ones((3, 10)), np.ones(()), np.ones((9, 1))], ids=lambda x: x.shape)
@pytest.mark.parametrize(
  "function",
  [
    lambda light: sh_lib.shading(np.array([0.0, -1.0, 0.0]), light),
    lambda light: sh_lib.radiance(light, np.array([0.0, -1.0, 0.0])),
    lambda light: sh_lib.rotate(light, np.eye(3)),
    lambda light: sh_lib.convert(light, "bip"),
    sh_lib.minimum,
    sh_lib.sphere_picture,
  ],
  ids=["shading", "radiance", "rotate", "convert", "minimum", "sphere_picture"],
)
def test_other_than_nine_numbers(function, light):
  with pytest.raises(ValueError, match="a light must be"):
    function(light)


# ---------------------------------------------------------------------------------------------------------------------
# Rotation.


def shtools_rotate(light, angles):
  # SHTOOLS keeps the cosines of order m at [0, degree, m], the sines at [1, degree, m].
  at = tuple(np.transpose([(int(order < 0), degree, abs(order)) for degree, order in DEGREES_AND_ORDERS]))
  coefficients = np.zeros((2, 3, 3))
  coefficients[at] = light
  return SHRotateRealCoef(coefficients, np.asarray(angles, float), djpi2(2))[at]


def test_rotate_against_shtools():
  """SHTOOLS turns the coordinates: about z, the new y, the new z. Seen from them, the light turns the other way."""
  for light, angles in zip(random_lights(20), np.random.default_rng(3).uniform(-np.pi, np.pi, (20, 3)), strict=True):
    axes = Rotation.from_euler("ZYZ", angles).as_matrix()
    np.testing.assert_allclose(sh_lib.rotate(light, axes.T), shtools_rotate(light, angles), atol=2e-6)


def test_rotate_against_projection():
  """Light that came from d comes from R d: the rotated light at w is the light at R^-1 w. Mirrors included."""
  directions, weights = sphere_quadrature()
  for light, rotation in zip(random_lights(10), random_rotations(10), strict=True):
    for matrix in (rotation, -rotation, rotation @ np.diag([1, 1, -1])):
      projected = (sh_lib.radiance(light, directions @ matrix) * weights) @ sh_lib.basis(directions)
      np.testing.assert_allclose(sh_lib.rotate(light, matrix), projected, atol=2e-6)


def test_rotations_compose_and_undo():
  lights = random_lights(6)
  for first, second in itertools.pairwise(random_rotations(6)):
    one_by_one = sh_lib.rotate(sh_lib.rotate(lights, first), second)
    np.testing.assert_allclose(sh_lib.rotate(lights, second @ first), one_by_one, atol=5e-6)
    np.testing.assert_allclose(sh_lib.rotate(sh_lib.rotate(lights, first), first.T), lights, atol=5e-6)
  np.testing.assert_allclose(sh_lib.rotate(lights, np.eye(3)), lights, atol=1e-6)


def test_rotation_keeps_the_norm_of_every_band():
  lights = random_lights(20)
  for rotation in random_rotations(3):
    rotated = np.asarray(sh_lib.rotate(lights, rotation))
    assert np.abs(rotated - lights).max() > 0.1
    for band in range(3):
      before, after = (np.linalg.norm(x[:, band == BAND], axis=1) for x in (lights, rotated))
      np.testing.assert_allclose(after, before, rtol=1e-5)


def test_a_mirror_swaps_left_and_right():
  light = random_lights(1)[0]
  mirrored = sh_lib.rotate(light, np.diag([-1, 1, 1]))
  directions = random_directions(20)
  expected = sh_lib.radiance(light, directions * [-1, 1, 1])
  np.testing.assert_allclose(sh_lib.radiance(np.asarray(mirrored), directions), expected, atol=1e-5)
  np.testing.assert_allclose(mirrored, light * [1, 1, 1, -1, -1, 1, 1, -1, 1], atol=1e-6)


def test_rotate_any_leading_shape():
  lights = random_lights(6).reshape(2, 3, 9)
  rotated = sh_lib.rotate(lights, random_rotations(1)[0])
  assert rotated.shape == (2, 3, 9)
  np.testing.assert_allclose(rotated[1, 2], sh_lib.rotate(lights[1, 2], random_rotations(1)[0]), atol=1e-6)
  np.testing.assert_allclose(sh_lib.rotate(np.arange(9), np.eye(3, dtype=int)), np.arange(9), atol=1e-5)


def brightest_direction(light):
  """Of the linear part."""
  vector = np.asarray(light)[[3, 1, 2]]
  return vector / np.linalg.norm(vector)


def test_turn_goes_from_front_to_left_to_back():
  front = sh_lib.directional(np.array(SIX_DIRECTIONS["front"]))
  for degrees, name in ((0, "front"), (90, "left"), (180, "back"), (270, "right"), (-90, "right")):
    turned = sh_lib.rotate(front, sh_lib.turn(degrees))
    np.testing.assert_allclose(brightest_direction(turned), SIX_DIRECTIONS[name], atol=1e-5)
  between = brightest_direction(sh_lib.rotate(front, sh_lib.turn(30)))
  np.testing.assert_allclose(between, [-0.5, -np.sqrt(3) / 2, 0], atol=1e-5)
  np.testing.assert_array_equal(sh_lib.turn(37) @ [0, 0, 1], [0, 0, 1])


def test_roll_goes_from_right_to_top_to_left():
  right = sh_lib.directional(np.array(SIX_DIRECTIONS["right"]))
  for degrees, name in ((0, "right"), (90, "top"), (180, "left"), (270, "bottom"), (-90, "bottom")):
    rolled = sh_lib.rotate(right, sh_lib.roll(degrees))
    np.testing.assert_allclose(brightest_direction(rolled), SIX_DIRECTIONS[name], atol=1e-5)
  between = brightest_direction(sh_lib.rotate(right, sh_lib.roll(30)))
  np.testing.assert_allclose(between, [np.sqrt(3) / 2, 0, 0.5], atol=1e-5)
  np.testing.assert_array_equal(sh_lib.roll(37) @ [0, 1, 0], [0, 1, 0])


@pytest.mark.parametrize("function", [sh_lib.turn, sh_lib.roll])
def test_turn_and_roll_are_rotations(function):
  matrix = function(123.4)
  assert matrix.dtype == np.float32
  np.testing.assert_allclose(matrix @ matrix.T, np.eye(3), atol=1e-6)
  assert np.linalg.det(matrix) == pytest.approx(1, abs=1e-6)
  np.testing.assert_allclose(function(20) @ function(30), function(50), atol=1e-6)


def test_direction():
  for angles, name in (
    ((0, 0), "front"),
    ((90, 0), "left"),
    ((-90, 0), "right"),
    ((180, 0), "back"),
    ((0, 90), "top"),
    ((77, -90), "bottom"),
  ):
    np.testing.assert_allclose(sh_lib.direction(*angles), SIX_DIRECTIONS[name], atol=1e-6)
  for azimuth, elevation in ((30, 20), (-120, 55), (170, -40)):
    towards = sh_lib.direction(azimuth, elevation)
    assert towards.dtype == np.float32
    assert np.linalg.norm(towards) == pytest.approx(1, abs=1e-6)
    assert np.degrees(np.arcsin(towards[2])) == pytest.approx(elevation, abs=1e-4)
    horizontal = sh_lib.turn(azimuth) @ sh_lib.direction(0, elevation)
    np.testing.assert_allclose(towards, horizontal, atol=1e-6)


# ---------------------------------------------------------------------------------------------------------------------
# Conventions.


@pytest.mark.parametrize(("source", "target"), list(itertools.product(sh_lib.CONVENTIONS, repeat=2)))
def test_there_and_back(source, target):
  lights = random_lights(10).astype(np.float32)
  there = sh_lib.convert(lights, source, target)
  np.testing.assert_allclose(sh_lib.convert(there, target, source), lights, atol=2e-6)
  through_ours = sh_lib.convert(sh_lib.convert(lights, source), "dpr", target)
  np.testing.assert_allclose(there, through_ours, atol=2e-6)
  if source == target:
    np.testing.assert_allclose(there, lights, atol=2e-6)
  else:
    assert np.abs(there - lights).max() > 0.1


def sfsnet_shading(normals, light):
  """As SfSNet's published code shades normals in its own axes (`create_shading_recon`)."""
  x, y, z = normals.T
  att = np.pi * np.array([1, 2 / 3, 1 / 4])
  c1 = att[0] * np.sqrt(1 / (4 * np.pi))
  c2 = att[1] * np.sqrt(3 / (4 * np.pi))
  c3 = att[2] * 0.5 * np.sqrt(5 / (4 * np.pi))
  c4 = att[2] * 3 * np.sqrt(5 / (12 * np.pi))
  c5 = att[2] * 3 * np.sqrt(5 / (48 * np.pi))
  harmonics = [
    c1 * np.ones_like(x),
    c2 * z,
    c2 * x,
    c2 * y,
    c3 * (2 * z * z - x * x - y * y),
    c4 * x * z,
    c4 * y * z,
    c5 * (x * x - y * y),
    c4 * x * y,
  ]
  return np.stack(harmonics, axis=-1) @ light


def scalismo_shading(normals, light):
  """As scalismo-faces, which the Basel Illumination Prior was made with, shades normals in its own axes."""
  x, y, z = normals.T
  n0, n1 = np.sqrt(1 / np.pi) / 2, np.sqrt(3 / np.pi) / 2
  n2_2, n2_1, n2_0 = np.sqrt(15 / np.pi) / 4, np.sqrt(15 / np.pi) / 2, np.sqrt(5 / np.pi) / 4
  lambert = [3.141593, 2.094395, 2.094395, 2.094395, 0.785398, 0.785398, 0.785398, 0.785398, 0.785398]
  harmonics = [
    n0 * np.ones_like(x),
    n1 * y,
    n1 * z,
    n1 * x,
    n2_1 * x * y,
    n2_1 * y * z,
    n2_0 * (2 * z * z - x * x - y * y),
    n2_1 * z * x,
    n2_2 * (x * x - y * y),
  ]
  return np.stack(harmonics, axis=-1) @ (lambert * light)


# (right, into the scene, up) -> their x, y, z.
THEIR_SHADING = {
  "sfsnet": (sfsnet_shading, lambda right, into, up: (-up, right, -into)),
  "bip": (scalismo_shading, lambda right, into, up: (right, up, -into)),
  "camera": (scalismo_shading, lambda right, into, up: (right, -up, into)),
  "dpr": (scalismo_shading, lambda right, into, up: (right, into, up)),
}


@pytest.mark.parametrize("name", list(sh_lib.CONVENTIONS))
def test_a_converted_light_shades_as_theirs(name):
  their_shading, their_axes = THEIR_SHADING[name]
  normals = random_directions(100)
  their_normals = np.stack(their_axes(*normals.T), axis=-1)
  for light in random_lights(5):
    ours = np.asarray(sh_lib.convert(light, name))
    np.testing.assert_allclose(sh_lib.shading(normals, ours), their_shading(their_normals, light), atol=1e-5)


def test_sfsnet_against_the_rotation_of_the_authors():
  """DPR's `sfs2shtools`: coefficients in SHTOOLS order, coordinates turned by 0, -pi/2, pi/2."""
  sfsnet_order = ["1", "z", "x", "y", "3z^2-1", "xz", "yz", "x^2-y^2", "xy"]
  shtools_order = ["1", "y", "z", "x", "xy", "yz", "3z^2-1", "xz", "x^2-y^2"]
  for light in random_lights(10):
    reordered = light[[sfsnet_order.index(harmonic) for harmonic in shtools_order]]
    expected = shtools_rotate(reordered, [0, -np.pi / 2, np.pi / 2])
    np.testing.assert_allclose(sh_lib.convert(light, "sfsnet"), expected, atol=2e-6)


@pytest.mark.parametrize("name", list(sh_lib.CONVENTIONS))
def test_conventions_are_right_handed(name):
  axes, order = sh_lib.CONVENTIONS[name]
  np.testing.assert_array_equal(axes @ axes.T, np.eye(3))
  assert np.linalg.det(axes) == pytest.approx(1)
  assert sorted(order) == list(range(9))


def test_unknown_convention():
  for names in (("sh", "dpr"), ("dpr", "SfSNet")):
    with pytest.raises(ValueError, match=r"unknown SH convention .* known: dpr, bip, sfsnet, camera"):
      sh_lib.convert(np.ones(9), *names)


# ---------------------------------------------------------------------------------------------------------------------
# Where light comes from, as seen on a sphere.


def side_brightness(picture):
  """Mean brightness of the disc's left, right, top and bottom half and of its centre and rim."""
  disc = sh_lib.sphere_normals(len(picture))[1]
  row, column = np.mgrid[-1 : 1 : len(picture) * 1j, -1 : 1 : len(picture) * 1j]
  radius = np.hypot(row, column)
  parts = {
    "left": column < 0,
    "right": column > 0,
    "top": row < 0,
    "bottom": row > 0,
    "front": radius < 0.5,
    "rim": radius > 0.8,
  }
  return {name: picture[disc & part].mean() for name, part in parts.items()}


OPPOSITE = {"left": "right", "right": "left", "top": "bottom", "bottom": "top"}


@six_directions
def test_the_lit_side_of_a_sphere_is_the_bright_one(name, towards):
  light = np.asarray(sh_lib.directional(np.array(towards)))
  normals, disc = sh_lib.sphere_normals(65)
  shade = sh_lib.shading(normals, light)
  for picture in (shade, sh_lib.sphere_picture(light, 65).astype(float)):
    sides = side_brightness(picture)
    if name in OPPOSITE:
      assert sides[name] > 1.5 * sides[OPPOSITE[name]]
      across = [side for side in OPPOSITE if side not in (name, OPPOSITE[name])]
      assert sides[across[0]] == pytest.approx(sides[across[1]], rel=0.02)
      middle = picture[32]
      along = {"left": middle[::-1], "right": middle, "top": picture[::-1, 32], "bottom": picture[:, 32]}[name]
      assert (np.diff(along[disc[32]]) >= 0).mean() > 0.9
    else:
      assert (sides["front"] > 1.2 * sides["rim"]) == (name == "front")
      assert (sides["rim"] > 1.2 * sides["front"]) == (name == "back")
      for one, other in OPPOSITE.items():
        assert sides[one] == pytest.approx(sides[other], rel=0.02)
  if name == "back":
    assert np.unravel_index(np.where(disc, shade, np.inf).argmin(), shade.shape) == (32, 32)
    front = np.asarray(sh_lib.directional(np.array(SIX_DIRECTIONS["front"])))
    assert shade[disc].max() < sh_lib.shading(normals, front)[disc].mean()


@six_directions
def test_light_from_a_direction_is_strongest_there(name, towards):
  light = np.asarray(sh_lib.directional(np.array(towards)))
  directions = random_directions(500)
  assert (sh_lib.radiance(light, directions) <= sh_lib.radiance(light, np.array(towards)) + 1e-5).all()
  assert (sh_lib.shading(directions, light) <= sh_lib.shading(np.array(towards), light) + 1e-5).all()


def test_sphere_normals():
  normals, disc = sh_lib.sphere_normals(33)
  assert normals.shape == (33, 33, 3)
  assert normals.dtype == np.float32
  assert disc.dtype == bool
  np.testing.assert_allclose(np.linalg.norm(normals, axis=-1), 1, atol=1e-6)
  np.testing.assert_array_equal(normals[~disc], np.broadcast_to([0, -1, 0], normals[~disc].shape))
  np.testing.assert_allclose(normals[16, 16], [0, -1, 0])  # the centre faces the camera
  np.testing.assert_allclose(normals[16, 0], [-1, 0, 0])
  np.testing.assert_allclose(normals[0, 16], [0, 0, 1])
  assert (normals[..., 1] <= 0).all()
  assert disc.mean() == pytest.approx(np.pi / 4 * (32 / 33) ** 2, abs=0.01)


def test_sphere_picture_as_published(shared):
  for number in range(7):
    light = np.loadtxt(shared(f"reference/dpr/example_light/rotate_light_{number:02d}.txt"))[:9] * 0.7
    published = np.asarray(Image.open(shared(f"reference/dpr/published/light_{number:02d}.png")))
    picture = sh_lib.sphere_picture(light)
    assert picture.dtype == np.uint8
    difference = np.abs(picture.astype(int) - published)
    assert difference.max() <= 1
    assert (difference > 0).mean() < 1e-3


def test_sphere_picture_of_even_light():
  picture = sh_lib.sphere_picture(np.eye(9)[0], 16)
  np.testing.assert_array_equal(picture, 255 * sh_lib.sphere_normals(16)[1])
  dark = sh_lib.sphere_picture(np.zeros(9), 16)
  np.testing.assert_array_equal(dark, picture)


# ---------------------------------------------------------------------------------------------------------------------
# directional, minimum.


def test_directional_is_a_lamp_and_even_light():
  directions, weights = sphere_quadrature()
  towards = random_directions(1)[0]
  lamp, even = (np.asarray(sh_lib.directional(towards, ambient, dc=0.8)) for ambient in (0, 1))
  np.testing.assert_allclose(even, 0.8 * np.eye(9)[0], atol=1e-6)
  half_sphere, cosine_weights = clamped_cosine_quadrature(towards)
  lobe = cosine_weights @ sh_lib.basis(half_sphere)
  np.testing.assert_allclose(lamp, lobe * (0.8 / lobe[0]), atol=1e-6)
  for ambient in (0.1, 0.3, 0.75):
    mixed = np.asarray(sh_lib.directional(towards, ambient, dc=0.8))
    np.testing.assert_allclose(mixed, ambient * even + (1 - ambient) * lamp, atol=1e-6)
    mean = (sh_lib.radiance(mixed, directions) * weights).sum() / (4 * np.pi)
    assert mean == pytest.approx(0.8 / (2 * np.sqrt(np.pi)), rel=1e-5)


def test_directional_defaults_match_the_example_lights(shared):
  ours = np.asarray(sh_lib.directional(sh_lib.direction(30, 20)))
  assert ours[0] == pytest.approx(0.75)
  for number in range(7):
    theirs = np.loadtxt(shared(f"reference/dpr/example_light/rotate_light_{number:02d}.txt"))
    for light in (ours, theirs):
      assert np.linalg.norm(light[1:4]) / light[0] == pytest.approx(0.78, rel=0.05)


def test_directional_is_physical():
  for towards in random_directions(20):
    for ambient in (0.3, 0.5, 1.0):
      assert sh_lib.minimum(np.asarray(sh_lib.directional(towards, ambient))) > 0
  assert -0.2 * 0.75 < sh_lib.minimum(np.asarray(sh_lib.directional(random_directions(1)[0], 0.0))) < 0


def test_directional_many_at_once():
  towards = random_directions(6).reshape(2, 3, 3)
  lights = sh_lib.directional(towards, 0.2, 0.9)
  assert lights.shape == (2, 3, 9)
  np.testing.assert_allclose(lights[..., 0], 0.9, rtol=1e-6)
  np.testing.assert_allclose(lights[1, 0], sh_lib.directional(towards[1, 0], 0.2, 0.9), atol=1e-6)


def from_form(constant, linear, eigenvalues, axes):
  """The light with radiance c + b.d + d^T A d, A traceless with the given eigenvalues and axes (columns)."""
  directions, weights = sphere_quadrature()
  matrix = axes @ np.diag(eigenvalues - np.mean(eigenvalues)) @ axes.T
  values = constant + directions @ linear + np.einsum("ni,ij,nj->n", directions, matrix, directions)
  return (values * weights) @ sh_lib.basis(directions)


def awkward_lights():
  """Lights with a part missing, repeated eigenvalues, and b across the lowest axis, exactly or nearly."""
  rng = np.random.default_rng(5)
  for bands in ([], [0], [1], [2], [0, 1], [0, 2], [1, 2]):
    yield rng.normal(size=9) * np.isin(BAND, bands)
  for eigenvalues in ([0, 0, 0], [-1, -1, 2], [-2, 1, 1], [-3, 1, 2]):
    for axes in (np.eye(3), random_rotations(1, seed=7)[0]):
      for along in ([1, 0, 0], [0, 1, 0], [0, 0, 1], [0, 1, 1], [1e-9, 1, 0.5], [1e-5, 0, 1], [1e-13, 0.1, 0]):
        for size in (1e-14, 1e-6, 0.5, 3.0, 20.0):
          yield from_form(0.3, axes @ np.array(along) * size, np.array(eigenvalues, float), axes)


GRID = random_directions(20_000, seed=9)
GRID_HARMONICS = sh_lib.basis(GRID)


def searched_minimum(light):
  """A dense grid, then descent from its lowest points."""
  values = GRID_HARMONICS @ light

  def value(d):
    return float(sh_lib.radiance(light, d / np.linalg.norm(d)))

  starts = GRID[np.argsort(values)[:2]]
  found = min(optimize.minimize(value, start, method="BFGS", options={"gtol": 1e-7}).fun for start in starts)
  assert found <= values.min() + 1e-12
  return found


def test_minimum_of_random_lights():
  for number, light in enumerate(random_lights(60, seed=11)):
    light = light * 10 ** (number % 5 - 2)
    scale = np.linalg.norm(light)
    assert sh_lib.minimum(light) == pytest.approx(searched_minimum(light), abs=1e-6 * scale)


@pytest.mark.filterwarnings("ignore:Desired error not necessarily achieved")
def test_minimum_of_awkward_lights():
  lights = list(awkward_lights())
  assert len(lights) > 250
  grid_values = np.stack(lights) @ GRID_HARMONICS.T
  for light, on_grid in zip(lights, grid_values, strict=True):
    minimum, scale = sh_lib.minimum(light), max(1e-9, np.linalg.norm(light))
    assert isinstance(minimum, float)
    # Nowhere is it lower, and near it the grid has something nearly as low.
    assert minimum - 1e-8 * scale <= on_grid.min() <= minimum + 0.01 * scale
  for light in lights[::9]:
    assert sh_lib.minimum(light) == pytest.approx(searched_minimum(light), abs=1e-6 * max(1e-9, np.linalg.norm(light)))


def test_minimum_in_closed_form():
  assert sh_lib.minimum(np.zeros(9)) == 0
  assert sh_lib.minimum(np.eye(9)[0]) == pytest.approx(1 / (2 * np.sqrt(np.pi)))
  # Linear only: the opposite of the brightest direction.
  light = np.array([0, 3, 0, 4, 0, 0, 0, 0, 0])
  assert sh_lib.minimum(light) == pytest.approx(-5 * np.sqrt(3 / (4 * np.pi)))
  # 3z^2 - 1 is lowest all around the equator, its negative at both poles.
  assert sh_lib.minimum(np.eye(9)[6]) == pytest.approx(-np.sqrt(5 / (16 * np.pi)))
  assert sh_lib.minimum(-np.eye(9)[6]) == pytest.approx(-2 * np.sqrt(5 / (16 * np.pi)))
  # The hard case: b lies in the equator's plane, across the lowest axis z, and the minimum off both.
  light = from_form(0, np.array([1.0, 0, 0]), np.array([1.0, 1.0, -2.0]), np.eye(3))
  x = -1 / 6  # where b.d + 3 (x^2 + y^2) - 2 is lowest
  assert sh_lib.minimum(light) == pytest.approx(x + 3 * x**2 - 2)


# ---------------------------------------------------------------------------------------------------------------------
# Environment maps.


@pytest.mark.parametrize(
  ("row", "column", "towards"),
  [
    (32, 64, "back"),
    (32, 96, "right"),
    (32, 32, "left"),
    (32, 0, "front"),
    (32, 127, "front"),
    (0, 5, "top"),
    (63, 77, "bottom"),
  ],
)
def test_one_bright_pixel(row, column, towards):
  """The panorama's centre lies behind the subject, straight into the scene; its right quarter is image right."""
  panorama = np.zeros((64, 128))
  panorama[row, column] = 10
  light = sh_lib.environment(panorama)
  assert light.dtype == np.float32
  towards = np.array(SIX_DIRECTIONS[towards])
  assert brightest_direction(light) @ towards > np.cos(np.radians(3))
  # Ten times the pixel's solid angle, seen through the harmonics.
  elevation = np.pi / 2 - np.array([row, row + 1]) * np.pi / 64
  solid_angle = (np.sin(elevation[0]) - np.sin(elevation[1])) * 2 * np.pi / 128
  assert light[0] == pytest.approx(10 * solid_angle / (2 * np.sqrt(np.pi)), rel=1e-5)
  expected = 10 * solid_angle * sh_lib.basis(towards.astype(float))
  np.testing.assert_allclose(light, expected, atol=0.1 * 10 * solid_angle)


def test_pixels_run_left_to_right_and_top_to_bottom():
  panorama = np.zeros((32, 64))
  panorama[8, 40] = 1
  x, y, z = brightest_direction(sh_lib.environment(panorama))
  assert np.degrees(np.arctan2(x, y)) == pytest.approx((40.5 / 64 - 0.5) * 360, abs=1e-3)
  assert np.degrees(np.arcsin(z)) == pytest.approx(90 - 8.5 / 32 * 180, abs=1e-3)


@pytest.mark.parametrize("shape", [(64, 128), (33, 70)])
def test_a_constant_panorama_has_only_dc(shape):
  light = sh_lib.environment(np.full(shape, 0.7))
  assert light[0] == pytest.approx(0.7 * 2 * np.sqrt(np.pi), rel=1e-6)
  np.testing.assert_allclose(light[1:], 0, atol=3e-3)


def panorama_directions(height, width):
  elevation = np.pi / 2 - (np.arange(height) + 0.5) / height * np.pi
  longitude = (np.arange(width) + 0.5) / width * 2 * np.pi
  elevation, longitude = np.meshgrid(elevation, longitude, indexing="ij")
  across = np.cos(elevation)  # the left edge is the camera's side, the first quarter is image left
  return np.stack([-across * np.sin(longitude), -across * np.cos(longitude), np.sin(elevation)], axis=-1)


def test_a_band_limited_panorama_comes_back():
  directions = panorama_directions(128, 256)
  lights = random_lights(3)
  panorama = np.stack([sh_lib.radiance(light, directions) for light in lights], axis=-1)
  projected = sh_lib.environment(panorama)
  assert projected.shape == (3, 9)
  np.testing.assert_allclose(projected, lights, atol=2e-3)
  for channel in range(3):
    np.testing.assert_array_equal(sh_lib.environment(panorama[..., channel]), projected[channel])


def test_panoramas_of_any_type_and_channels():
  panorama = np.random.default_rng(0).integers(0, 255, (6, 12, 2), np.uint8)
  np.testing.assert_allclose(sh_lib.environment(panorama), sh_lib.environment(panorama.astype(np.float64)))
  assert sh_lib.environment(panorama[..., :1]).shape == (1, 9)
  assert sh_lib.environment(panorama[:1, :1, 0]).shape == (9,)


@pytest.mark.parametrize("shape", [(), (8,), (0, 8), (8, 0), (8, 8, 0), (2, 8, 8, 3)])
def test_not_a_panorama(shape):
  with pytest.raises(ValueError, match=r"a panorama must be \[H, W\]"):
    sh_lib.environment(np.zeros(shape))


@pytest.mark.parametrize("value", [np.nan, np.inf])
def test_panorama_not_finite(value):
  panorama = np.ones((4, 8, 3))
  panorama[1, 2, 0] = value
  with pytest.raises(ValueError, match="not finite"):
    sh_lib.environment(panorama)


# ---------------------------------------------------------------------------------------------------------------------
# jit, vmap, grad.

NORMALS = random_directions(5).astype(np.float32)
TRANSFORMED = {
  "basis": lambda light: sh_lib.basis(light[:3] / jnp.linalg.norm(light[:3])),
  "radiance": lambda light: sh_lib.radiance(light, jnp.asarray(NORMALS)),
  "shading": lambda light: sh_lib.shading(jnp.asarray(NORMALS), light),
  "numpy normals": lambda light: sh_lib.shading(NORMALS, light),
  "rotate": lambda light: sh_lib.rotate(light, sh_lib.turn(20)),
  "convert": lambda light: sh_lib.convert(light, "sfsnet"),
  "directional": lambda light: sh_lib.directional(light[:3] / jnp.linalg.norm(light[:3]), light[3], light[4]),
}


@pytest.mark.parametrize("function", list(TRANSFORMED.values()), ids=list(TRANSFORMED))
def test_jit_vmap_and_grad(function):
  lights = jnp.asarray(random_lights(3), jnp.float32)
  batched = jax.jit(jax.vmap(function))
  values = np.asarray(batched(lights))
  np.testing.assert_allclose(values[1], function(lights[1]), rtol=1e-5, atol=1e-5)
  jacobians = np.asarray(jax.jit(jax.vmap(jax.jacobian(function)))(lights))
  assert jacobians.shape == (*values.shape, 9)
  assert np.isfinite(jacobians).all()
  step = 1e-2 * np.random.default_rng(0).normal(size=(3, 9)).astype(np.float32)
  difference = (batched(lights + step) - batched(lights - step)) / 2
  tolerance = 2e-3 * max(1, np.abs(values).max())
  np.testing.assert_allclose(np.einsum("b...i,bi->b...", jacobians, step), difference, atol=tolerance)


def test_gradient_by_the_rotation():
  gradient = jax.jit(jax.grad(lambda r: sh_lib.rotate(jnp.arange(9.0), r)[5]))(jnp.eye(3))
  assert np.isfinite(gradient).all()
  assert np.abs(gradient).max() > 0.1


def test_sphere_normals_have_unit_length_at_every_size():
  for size in range(1, 130):
    normals, _ = sh_lib.sphere_normals(size)
    np.testing.assert_allclose(np.linalg.norm(normals, axis=-1), 1, atol=1e-6)


def test_a_mirror_exchanges_left_and_right():
  directions = np.random.default_rng(0).normal(size=(50, 3))
  directions /= np.linalg.norm(directions, axis=-1, keepdims=True)
  np.testing.assert_allclose(
    sh_lib.basis(directions * [-1, 1, 1]), sh_lib.basis(directions) * sh_lib.MIRROR, atol=1e-12
  )
