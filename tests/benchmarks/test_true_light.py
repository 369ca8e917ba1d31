"""True shadows against geometry, maps against integrals; the benchmark of heads on a head made by hand."""

import sys

import numpy as np
import pytest

from data_gen.heads import portraits
from data_gen.heads.environments import Environment
from data_gen.heads.pose import Camera
from dpr_jax.light import light as light_module
from dpr_jax.light import sh
from dpr_jax.portrait.lights import Direction, studio_light
from tests.conftest import ROOT

sys.path.insert(0, str(ROOT / "benchmarks"))

import heads as benchmark
import true_light

TOWARDS = np.float32([0.6, 0.0, 0.8])


def test_a_square_casts_its_shadow_where_the_lamp_says():
  square = np.float32([[-2, -2, 4], [2, -2, 4], [2, 2, 4], [-2, 2, 4]])
  triangles = np.int32([[0, 1, 2], [0, 2, 3]])
  x, y = np.meshgrid(np.linspace(-10, 10, 81), np.linspace(-10, 10, 81))
  points = np.stack([x, y, 0 * x], axis=-1).reshape(-1, 3).astype(np.float32)
  lit = true_light.sees(points, square, triangles, TOWARDS).reshape(81, 81)
  # Four above the ground, the shadow lies 4 * 0.6 / 0.8 = 3 to the left.
  inside = (np.abs(x + 3) < 1.8) & (np.abs(y) < 1.8)
  outside = (np.abs(x + 3) > 2.2) | (np.abs(y) > 2.2)
  assert lit[inside].max() == 0
  assert lit[outside].min() > 0.999
  assert true_light.sees(points + np.float32([0, 0, 5]), square, triangles, TOWARDS).min() > 0.999


def test_a_lamp_is_a_disc_of_its_size():
  towards = sh.direction(50, 30)
  parts = true_light.disc(towards, 20)
  np.testing.assert_allclose(np.linalg.norm(parts, axis=1), 1)
  angle = np.degrees(np.arccos(parts @ towards))
  assert 9 < angle.max() < 10
  assert np.degrees(np.arccos(parts.mean(axis=0) @ towards / np.linalg.norm(parts.mean(axis=0)))) < 1
  assert 0.4 < (angle < 7.07).mean() < 0.6  # half of the area


def test_the_parts_of_a_map_have_all_of_its_light():
  rng = np.random.default_rng(0)
  even = true_light.sphere_parts(np.ones((64, 128)))
  normals = rng.standard_normal((20, 3))
  normals /= np.linalg.norm(normals, axis=1, keepdims=True)
  irradiance = np.maximum(normals @ even[0].T, 0) @ even[1]
  np.testing.assert_allclose(irradiance, np.pi, rtol=0.03)
  sun = np.full((64, 128), 0.1)
  sun[20, 90] = 5000
  directions, strength = true_light.sphere_parts(sun)
  brightest = directions[np.argmax(strength)]
  longitude, latitude = np.degrees(np.arctan2(brightest[0], brightest[1])), np.degrees(np.arcsin(brightest[2]))
  assert abs(longitude - (90.5 / 128 * 360 - 180)) < 1.5
  assert abs(latitude - (90 - 20.5 / 64 * 180)) < 1.5


def test_pixels_lie_where_they_were_projected_from():
  matrix = np.array([[9.0, 0, 50], [0, 9.0, 44]])
  view = portraits.View(None, [], [], Camera(70.0, 1.0, (0.0, 0.0)), matrix, np.zeros((0, 2)), 96)
  rng = np.random.default_rng(1)
  flat, depth = rng.uniform(0, 96, (50, 2)), rng.uniform(-30, 60, 50)
  np.testing.assert_allclose(view.project(view.places(flat, depth)), np.column_stack([flat, depth]), atol=1e-9)


@pytest.fixture
def scene():
  """A ball of even albedo, whose pictures are its shadings: a head that physics relights exactly."""
  row, column = (np.mgrid[:48, :48] - 23.5) / 40
  facing = np.sqrt(1 - column**2 - row**2)
  normal = np.stack([column, -facing, -row], axis=-1).astype(np.float32)
  mask = column**2 + row**2 < 0.25
  lights = {}
  for number, kind in enumerate(benchmark.KINDS):
    lights[kind] = studio_light(Direction(20 + 10 * number, 0, 1.0))
    lights[f"{kind} target"] = studio_light(Direction(-20 - 10 * number, 10, 1.0))
  lights = {name: light_module.with_lamps(light, 4) for name, light in lights.items()}
  empty = benchmark.Scene("ball", 60.0, mask, normal, np.zeros((48, 48), np.float32), {}, lights)
  pictures = {}
  for name, light in lights.items():
    shading = benchmark._shading(empty, light)
    gray = benchmark.srgb.from_linear(0.4 * shading / np.percentile(shading[mask], 90))
    pictures[name] = np.repeat(gray[..., None], 3, axis=-1)
  return empty._replace(pictures=pictures)


def test_true_shape_relights_a_ball_and_identity_does_not(scene):
  result = benchmark.evaluate(benchmark.true_shape, [scene], [[]])
  assert len(result["relit"]) == 9
  assert benchmark.mean(result["relit"], "psnr") > 38
  assert benchmark.mean(result["seen"], "normal") == pytest.approx(0, abs=0.1)
  assert benchmark.mean(result["seen"], "light") == pytest.approx(0, abs=1e-3)
  assert benchmark.mean(benchmark.evaluate(benchmark.identity, [scene], [[]])["relit"], "psnr") < 30


def test_the_true_shape_makes_cheeks_even_and_identity_leaves_them(scene):
  cheeks = [np.zeros((48, 48), bool) for _ in range(2)]
  cheeks[0][20:28, 12:16], cheeks[1][20:28, 32:36] = True, True
  side = studio_light(Direction(60, 0, 0.3))
  shading = benchmark._shading(scene, light_module.with_lamps(side, 4))
  gray = benchmark.srgb.from_linear(0.4 * shading / np.percentile(shading[scene.mask], 90))
  lit = scene._replace(
    pictures=scene.pictures | {"lamp": np.repeat(gray[..., None], 3, axis=-1)},
    lights=scene.lights | {"lamp": light_module.with_lamps(side, 4)},
  )
  for method, left in ((benchmark.true_shape, 0), (benchmark.identity, 1)):
    rows = benchmark.evaluate(method, [lit], [cheeks])["flat"]
    assert [row["source"] for row in rows] == ["lamp"]  # the other pictures are lit from the front
    assert rows[0]["left"] == pytest.approx(left, abs=0.03)


def test_what_is_as_it_was_has_no_error(scene):
  lightness = benchmark.color.lightness_of_luminance(benchmark.luminance_of(scene.pictures["soft"]))
  same = benchmark.relit_picture(scene, "soft", lightness)
  score = benchmark.scores(same, scene.pictures["soft"], scene.mask)
  assert score["psnr"] > 60
  assert score["l1"] < 1e-3
  brighter = benchmark.relit_picture(scene, "soft", 1.3 * lightness)  # keeps the key
  assert benchmark.scores(brighter, scene.pictures["soft"], scene.mask)["psnr"] > 30


def test_two_heads_share_their_target_lights_and_no_sources():
  maps = [Environment(str(number), np.zeros((1, 1, 3)), np.zeros(9)) for number in range(9)]
  first, second, third = (benchmark.draw_lights(number, maps) for number in (2, 3, 4))
  np.testing.assert_array_equal(first["lamp target"].towards, second["lamp target"].towards)
  assert first["map target"] == second["map target"]
  assert not np.array_equal(first["lamp"].towards, second["lamp"].towards)
  assert not np.array_equal(first["soft target"].soft, third["soft target"].soft)


def test_scenes_are_kept(scene, tmp_path, monkeypatch):
  monkeypatch.setattr(benchmark, "render", lambda *arguments: scene)
  first = benchmark.scene(lambda: (None, None), tmp_path, 3, 48)
  again = benchmark.scene(None, tmp_path, 3, 48)  # needs no model
  assert first is scene
  assert (again.id, again.lightness) == ("ball", 60.0)
  for name in scene.pictures:
    np.testing.assert_array_equal(again.pictures[name], scene.pictures[name])
    np.testing.assert_array_equal(again.lights[name].towards, scene.lights[name].towards)
