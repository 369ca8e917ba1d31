"""The benchmark of named lights: its figures on pictures whose figures are known."""

import sys
from pathlib import Path

import numpy as np
import pytest

from dpr_jax.image import color
from dpr_jax.portrait.faces import LEFT_EYE, MOUTH_CORNERS, OVAL, RIGHT_EYE, Face, frame_face

sys.path.insert(0, str(Path(__file__).resolve().parents[2] / "benchmarks"))
import preset_sheet


@pytest.fixture
def face():
  """An outline of 60 x 80 pixels around (200, 150), with eyes and mouth."""
  landmarks = np.full((478, 2), (200.0, 150.0))
  angles = np.linspace(0, 2 * np.pi, len(OVAL), endpoint=False)
  landmarks[OVAL] += np.column_stack([30 * np.sin(angles), -40 * np.cos(angles)])
  landmarks[LEFT_EYE], landmarks[RIGHT_EYE] = (188, 140), (212, 140)
  landmarks[MOUTH_CORNERS] = (190, 168), (210, 168)
  return Face(landmarks, np.arange(478.0))


def plain(level: int) -> np.ndarray:
  return np.full((8, 8, 3), level, np.uint8)


class TestMeasure:
  everywhere = np.ones((8, 8), bool)

  def test_a_photo_against_itself(self):
    figures = preset_sheet.measure(plain(120), plain(120), self.everywhere)
    assert figures == {"brightness": pytest.approx(1), "black": 0, "burnt": 0}

  def test_brightness_is_that_of_lightness(self):
    expected = color.photo_luminance(plain(60)).mean() / color.photo_luminance(plain(120)).mean()
    assert preset_sheet.measure(plain(120), plain(60), self.everywhere)["brightness"] == pytest.approx(expected)

  def test_only_new_black_and_burnt_pixels_count(self):
    photo, relit = plain(120), plain(120)
    relit[:2] = 5  # a quarter turns black
    relit[4, :, 0] = 254  # an eighth has a channel that burns out
    figures = preset_sheet.measure(photo, relit, self.everywhere)
    assert (figures["black"], figures["burnt"]) == (0.25, 0.125)
    photo[:2], photo[4, :, 0] = 5, 255
    figures = preset_sheet.measure(photo, relit, self.everywhere)
    assert (figures["black"], figures["burnt"]) == (0, 0)

  def test_what_is_beside_the_face_does_not_count(self):
    relit = plain(120)
    relit[4:] = 0
    inside = np.arange(8)[:, None] < np.full(8, 4)
    assert preset_sheet.measure(plain(120), relit, inside)["black"] == 0


class TestFaces:
  def test_the_oval(self, face):
    oval = preset_sheet.oval_of(face, (300, 400, 3))
    assert oval.sum() == pytest.approx(np.pi * 30 * 40, rel=0.05)
    assert oval[150, 200]
    assert not oval[150, 240]

  def test_a_crop_keeps_what_the_network_sees(self, face):
    pixels = np.random.default_rng(0).integers(0, 256, (300, 400, 3), np.uint8)
    cropped, moved = preset_sheet.crop_to_face(pixels, face)
    before, after = frame_face(face, 256), frame_face(moved, 256)
    left, top = face.landmarks[0] - moved.landmarks[0]
    np.testing.assert_array_equal(cropped[60:70, 50:60], pixels[int(top) + 60 :, int(left) + 50 :][:10, :10])
    np.testing.assert_allclose(after.matrix[:, :2], before.matrix[:, :2])
    assert cropped.shape[0] < 300

  def test_a_crop_may_shrink(self, face):
    pixels = np.zeros((300, 400, 3), np.uint8)
    large, there = preset_sheet.crop_to_face(pixels, face)
    small, here = preset_sheet.crop_to_face(pixels, face, side=50)
    scale = 50 / max(large.shape)
    assert max(small.shape) == 50
    np.testing.assert_allclose(np.ptp(here.landmarks, axis=0), scale * np.ptp(there.landmarks, axis=0), rtol=0.02)


class TestSheet:
  def test_a_row_is_as_wide_as_its_head(self):
    lights = preset_sheet.named_lights(["left", "flat"], [])
    head = preset_sheet.sheet_head(lights, 64)
    row = preset_sheet.sheet_row("somebody", [plain(0), plain(90), plain(200)], 64)
    assert head.shape[1] == row.shape[1] == 3 * 64
    assert row.dtype == head.dtype == np.uint8

  def test_overall_figures_are_those_of_the_worst_light(self):
    found = preset_sheet.Measured()
    found.figures["left"] = [
      {"brightness": 0.8, "black": 0.2, "burnt": 0.0},
      {"brightness": 1.0, "black": 0, "burnt": 0.1},
    ]
    found.figures["flat"] = [{"brightness": 1.2, "black": 0.0, "burnt": 0.02}]
    bright, black, burnt, *_ = found.overall()
    assert (bright, black, burnt) == ("0.90 to 1.20", "10.0% (left)", "5.0% (left)")
