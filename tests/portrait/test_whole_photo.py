"""Whole photos are relit as the authors' own demo relights them."""

import cv2
import numpy as np
import pytest

from dpr_jax.network.weights import load_params
from dpr_jax.portrait import whole_photo
from dpr_jax.portrait.whole_photo import WholePhoto
from tests.portrait.test_portrait import levels, lightness, smooth_photo, stub_encode


@pytest.fixture(scope="module")
def params(shared):
  return load_params(shared("reference/dpr/trained_model_03.t7"))


@pytest.fixture(scope="module")
def encoded(shared, params):
  return WholePhoto(params, cv2.imread(str(shared("reference/dpr/obama.jpg")))[..., ::-1])


def authors_light(shared, number):
  return 0.7 * np.loadtxt(shared("reference/dpr/example_light") / f"rotate_light_0{number}.txt")


@pytest.mark.parametrize("number", range(7))
def test_the_authors_published_pictures(shared, encoded, number):
  """They are JPEGs; what remains of the difference is their compression."""
  published = cv2.imread(str(shared("reference/dpr/published") / f"obama_0{number}.jpg"))[..., ::-1]
  relit = encoded.relight(authors_light(shared, number))
  assert relit.shape == published.shape
  assert relit.dtype == np.uint8
  difference = np.abs(levels(relit) - levels(published)).mean()
  print(f"obama_0{number}.jpg: mean absolute difference {difference:.3f} levels")
  assert difference <= 0.9


def test_a_whole_photo_of_16_bits_is_taken_at_8(shared, params, encoded):
  light = authors_light(shared, 2)
  deep = WholePhoto(params, encoded.pixels.astype(np.uint16) * 257)
  np.testing.assert_array_equal(deep.relight(light), encoded.relight(light), strict=True)
  np.testing.assert_array_equal(deep.source_light.soft, encoded.source_light.soft)


def test_the_source_light_of_a_whole_photo(shared, encoded):
  """As the official network sees it."""
  with np.load(shared("reference/dpr/expected.npz")) as expected:
    np.testing.assert_allclose(encoded.source_light.soft[0], expected["light512"], atol=1e-4)


def test_the_strength_of_a_whole_photo(shared, encoded):
  """The exponent of the ratio of L, as this pipeline multiplies it."""

  def change(after, before):
    offset = whole_photo._RATIO_OFFSET
    return np.log((lightness(after) + offset) / (lightness(before) + offset))

  light = authors_light(shared, 2)
  none, half, full = (encoded.relight(light, strength) for strength in (0, 0.5, 1))
  resized = cv2.resize(np.ascontiguousarray(encoded.pixels), (512, 512))
  resized = cv2.resize(resized, encoded.pixels.shape[1::-1])
  assert np.abs(levels(none) - levels(resized)).mean() < 0.5
  between = np.abs(change(half, none) - 0.5 * change(full, none))
  assert between.mean() < 0.01
  assert np.percentile(between, 99) < 0.05
  assert np.abs(change(full, none)).mean() > 0.1


@pytest.mark.parametrize("light", [np.zeros(8), np.zeros((2, 9)), np.zeros(27), np.full(9, np.nan), [np.inf] + [0] * 8])
def test_a_light_that_is_none_is_refused(monkeypatch, light):
  monkeypatch.setattr(whole_photo, "encode_luminance", stub_encode)
  with pytest.raises(ValueError, match="9 finite numbers"):
    WholePhoto({}, smooth_photo(120, 160), 128).relight(light)
