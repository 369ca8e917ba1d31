"""The benchmark on real photographs under known lights: how lights are named, averaged, scored and compared."""

import sys
from pathlib import Path

import cv2
import numpy as np
import pytest

from dpr_jax.image import color
from dpr_jax.light import light, sh

sys.path.insert(0, str(Path(__file__).resolve().parents[2] / "benchmarks"))
import yale_b

FLASH = "A+035E-20"


@pytest.fixture
def face():
  """A picture `[192, 168]` in [0.2, 0.8]."""
  return np.random.default_rng(0).uniform(0.2, 0.8, (192, 168)).astype(np.float32)


class TestLights:
  def test_a_flash_is_a_lamp_and_even_light(self):
    lit = yale_b.flash_light(FLASH, 0.05)
    towards = sh.direction(35, -20)
    np.testing.assert_allclose(light.shading(lit, towards[None])[0], 1.05, rtol=1e-5)
    np.testing.assert_allclose(light.shading(lit, -towards[None])[0], 0.05, rtol=1e-5)
    assert (lit.towards[0, [0, 2]] < 0).all(), "from the left of the image, and from below"

  @pytest.mark.parametrize("name", yale_b.DIRECTIONS)
  def test_a_published_network_is_told_of_the_direction(self, name):
    told = light.told(yale_b.DIRECTIONS[name](FLASH))[0]
    np.testing.assert_allclose(told[0], 0.75, rtol=1e-5)
    band1 = told[[3, 1, 2]]
    np.testing.assert_allclose(band1 / np.linalg.norm(band1), sh.direction(35, -20), atol=1e-5)

  def test_the_mean_of_lamps_is_that_of_vectors(self):
    mean = yale_b.mean_light([yale_b.flash_light("A+035E+00", 0.2), yale_b.flash_light("A-035E+00", 0.4)])
    np.testing.assert_allclose(mean.towards, sh.direction(0, 0)[None], atol=1e-6)
    np.testing.assert_allclose(mean.irradiance, [[np.cos(np.radians(35))]], rtol=1e-5)
    np.testing.assert_allclose(mean.soft, light.even_light(0.3).soft, rtol=1e-5)
    np.testing.assert_allclose(mean.size, 5)

  def test_lights_without_lamps_have_a_mean(self):
    mean = yale_b.mean_light([light.even_light(1.0), light.even_light(3.0)])
    np.testing.assert_allclose(mean.soft, light.even_light(2.0).soft, rtol=1e-6)
    assert light.as_light(mean).towards.shape == (0, 3)

  def test_transfer_leaves_the_subject_itself_out(self):
    estimates = {name: {FLASH: light.even_light(value)} for name, value in zip("abc", (1.0, 2.0, 4.0), strict=True)}
    np.testing.assert_allclose(yale_b.transferred(estimates, "b", FLASH).soft, light.even_light(2.5).soft, rtol=1e-6)


class TestScores:
  def test_a_scaled_picture_differs_in_brightness_alone(self, face):
    scores = yale_b.scores(0.5 * face, face)
    assert scores["si_mse"] < 1e-6
    assert scores["ssim"] == pytest.approx(1, abs=1e-6)
    assert scores["brightness"] == pytest.approx(0.5)
    assert scores["l1"] == pytest.approx(0.5 * face[yale_b.FACE].mean(), rel=1e-4)

  def test_what_is_left_of_a_side_is_counted_from_the_frontal_photo(self, face):
    face = 0.2 + 0.6 * face / face.max()
    side = face * np.linspace(1, 0.3, 168, dtype=np.float32)
    front, lit = yale_b.square(face), yale_b.square(side)
    photos = {yale_b.SOURCE: front, yale_b.FROM_THE_SIDE[0]: lit, "A+000E+45": lit}
    for relit, left in ((lit, 1), (front, 0), ((front + lit) / 2, 0.5)):
      method = yale_b.Method((), None, lambda picture, source, relit=relit: lambda light, stops: relit)
      (row,) = yale_b.under_even_light(method, photos)
      assert row["flash"] == yale_b.FROM_THE_SIDE[0]
      assert row["left"] == pytest.approx(left, abs=0.15)
    assert yale_b.unevenness(lit) > yale_b.unevenness(front) + 0.3

  def test_better_flashes_are_counted_against_the_best_naming_of_the_kind(self):
    def rows(*values):
      return [
        {"flash": flash, "si_mse": value, "ssim": -value} for flash, value in zip(yale_b.TARGETS, values, strict=False)
      ]

    reference = {"fill 0": rows(3, 9, 5), "ambient 0.3": rows(9, 3, 5), "transfer": rows(1, 1, 1)}
    better = yale_b.better_flashes({"fill 0": rows(2, 4, 6)}, reference, "fill 0")
    assert better["si_mse"] == better["ssim"] == [yale_b.TARGETS[0]]
    assert better["worse"] == list(yale_b.TARGETS[1:3])
    assert len(yale_b.better_flashes({"transfer": rows(0, 2, 0)}, reference, "transfer")["si_mse"]) == 2


class TestPhotos:
  def test_gray_levels_are_linear_unless_taken_as_stored(self, tmp_path):
    levels = np.tile(np.arange(168, dtype=np.uint8), (192, 1))
    cv2.imwrite(str(tmp_path / f"{FLASH}.png"), levels)
    linear, stored = (yale_b.read_subject(tmp_path, as_stored=as_stored)[FLASH] for as_stored in (False, True))
    np.testing.assert_allclose(stored, levels / np.float32(255))
    np.testing.assert_allclose(color.linearise(linear), levels / np.float32(255), atol=1e-5)

  def test_lightness_and_back(self, face):
    np.testing.assert_allclose(yale_b.gray_of_lightness(yale_b.lightness_of_gray(face)), face, atol=1e-5)

  def test_a_crop_comes_back_from_its_square(self, face):
    assert yale_b.square(face).shape == (320, 320)
    np.testing.assert_array_equal(yale_b.crop(yale_b.square(face)), face)

  def test_nothing_done_is_scored_against_every_flash(self, face):
    photos = dict.fromkeys((yale_b.SOURCE, *yale_b.TARGETS), face)
    rows = yale_b.evaluate(yale_b.identity(), {"one": photos})
    assert [row["flash"] for row in rows[""]] == list(yale_b.TARGETS)
    assert yale_b.means(rows[""], "brightness")["all"] == pytest.approx(1)
    assert yale_b.means(rows[""], "l1")["all"] == pytest.approx(0)
