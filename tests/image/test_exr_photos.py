"""Photos of linear light in floating point, in and out."""

import dataclasses
import time

import numpy as np
import OpenEXR
import pytest
from PIL import ImageCms

from dpr_jax.base.errors import BadInput
from dpr_jax.image import color
from dpr_jax.image.decoder_process import Decoders
from dpr_jax.image.photo import Photo, as_type, read_photo, to_8_bits
from dpr_jax.image.photo_formats import sort_photos
from dpr_jax.image.photo_writing import write_photo


def light(shape=(6, 9, 3), dtype=np.float32):
  """Linear light up to 40 times white, some of it outside of the gamut."""
  values = np.random.default_rng(3).lognormal(-1, 1.5, shape)
  values[0, 0], values[1, 1] = 40, -0.02
  return values.astype(dtype)


def written(path, channels, **header):
  header = {"compression": OpenEXR.ZIP_COMPRESSION, "type": OpenEXR.scanlineimage} | header
  OpenEXR.File(header, channels).write(str(path))
  return path


def channels_of(path):
  with OpenEXR.File(str(path), separate_channels=True) as file:
    return {name: np.array(channel.pixels) for name, channel in file.channels().items()}, dict(file.header())


@pytest.mark.parametrize("dtype", [np.float16, np.float32])
def test_every_bit_comes_back(tmp_path, dtype):
  values = light(dtype=dtype)
  photo = read_photo(written(tmp_path / "in.exr", {"RGB": values}))
  assert (photo.pixels.dtype, photo.half) == (np.float32, dtype == np.float16)
  np.testing.assert_array_equal(photo.pixels, values)
  write_photo(tmp_path / "out.exr", photo)
  channels, _ = channels_of(tmp_path / "out.exr")
  for name, plane in zip("RGB", np.moveaxis(values, -1, 0), strict=True):
    assert channels[name].dtype == dtype
    np.testing.assert_array_equal(channels[name], plane)


def test_what_16_bits_cannot_hold_is_cut_off(tmp_path):
  photo = Photo(np.full((2, 2, 3), 1e6, np.float32), half=True)
  write_photo(tmp_path / "x.exr", photo)
  np.testing.assert_array_equal(read_photo(tmp_path / "x.exr").pixels, np.full((2, 2, 3), 65504))


def test_gray_alpha_and_primaries_are_kept(tmp_path):
  values = light((4, 5))
  alpha = np.linspace(0, 1, 20, dtype=np.float32).reshape(4, 5)
  acescg = (0.713, 0.293, 0.165, 0.83, 0.128, 0.044, 0.32168, 0.33767)
  path = written(tmp_path / "y.exr", {"Y": values * alpha, "A": alpha}, chromaticities=acescg)
  photo = read_photo(path)
  assert photo.gray
  np.testing.assert_array_equal(photo.alpha, alpha)
  np.testing.assert_allclose(photo.pixels[..., 2].ravel()[1:], values.ravel()[1:], rtol=1e-6)  # not multiplied by it
  write_photo(tmp_path / "again.exr", photo)
  channels, header = channels_of(tmp_path / "again.exr")
  np.testing.assert_allclose(channels["Y"], values * alpha, rtol=1e-6)
  assert set(channels) == {"Y", "A"}
  np.testing.assert_allclose(header["chromaticities"], acescg, atol=1e-6)
  coloured = read_photo(written(tmp_path / "c.exr", {"RGB": light()}, chromaticities=acescg))
  write_photo(tmp_path / "c.png", coloured)
  assert read_photo(tmp_path / "c.png").icc_profile == coloured.icc_profile is not None
  srgb = (0.64, 0.33, 0.3, 0.6, 0.15, 0.06, 0.3127, 0.329)
  assert read_photo(written(tmp_path / "s.exr", {"RGB": light()}, chromaticities=srgb)).icc_profile is None


@pytest.mark.parametrize("suffix", [".png", ".tif", ".jpg"])
def test_other_formats_show_what_is_not_brighter_than_white(tmp_path, suffix):
  values = np.float32([[[0, 0, 0], [0.18, 0.18, 0.18], [1, 1, 1], [30, 30, 30], [np.nan, np.inf, -1]]]).repeat(8, 0)
  write_photo(tmp_path / f"x{suffix}", Photo(values.repeat(8, 1)))
  again = read_photo(tmp_path / f"x{suffix}")
  white = 255 if suffix == ".jpg" else 65535
  assert again.pixels.dtype == (np.uint8 if suffix == ".jpg" else np.uint16)
  expected = np.array([0, 0.46135612, 1, 1]) * white
  np.testing.assert_allclose(again.pixels[4, 4:32:8, 1], expected, atol=1 if suffix == ".jpg" else 0.6)
  if suffix != ".jpg":
    assert again.pixels[4, -4].tolist() == [0, white, 0]


@pytest.mark.parametrize("dtype", [np.uint8, np.uint16])
def test_integers_become_linear_and_come_back(tmp_path, dtype):
  pixels = np.random.default_rng(0).integers(0, np.iinfo(dtype).max, (7, 8, 3), dtype, endpoint=True)
  photo = Photo(pixels, pixels[..., 0])
  write_photo(tmp_path / "x.exr", photo)
  again = read_photo(tmp_path / "x.exr")
  assert again.half == (dtype == np.uint8)
  np.testing.assert_allclose(
    again.pixels, color.linearise(pixels / np.iinfo(dtype).max), atol=1e-3 if again.half else 1e-6
  )
  np.testing.assert_array_equal(as_type(again.pixels, pixels.dtype), pixels)
  np.testing.assert_allclose(again.alpha, pixels[..., 0] / np.iinfo(dtype).max, atol=1e-3)
  assert as_type(np.float32(0.5), np.dtype(np.uint8), linear=True) == 128
  np.testing.assert_array_equal(to_8_bits(again.pixels), to_8_bits(pixels))


def test_colours_of_a_profile_are_converted_or_refused(tmp_path):
  from dpr_jax.image import color_tags

  p3 = color_tags.rgb_profile(np.array([(0.68, 0.32), (0.265, 0.69), (0.15, 0.06), (0.3127, 0.329)]))
  photo = Photo(np.full((2, 2, 3), (234, 51, 35), np.uint8), icc_profile=p3)
  write_photo(tmp_path / "x.exr", photo)
  np.testing.assert_allclose(read_photo(tmp_path / "x.exr").pixels[0, 0], (1, 0, 0), atol=0.02)  # CSS Color 4
  deep = dataclasses.replace(photo, pixels=photo.pixels.astype(np.uint16) * 257)
  with pytest.raises(BadInput, match="of another ICC profile; convert it to sRGB first"):
    write_photo(tmp_path / "y.exr", deep)
  assert not (tmp_path / "y.exr").exists()


def test_16_bits_of_an_srgb_profile_are_written_as_they_are(tmp_path):
  srgb = ImageCms.ImageCmsProfile(ImageCms.createProfile("sRGB")).tobytes()
  photo = Photo(np.random.default_rng(1).integers(0, 65535, (5, 6, 3), np.uint16))
  for name, profile in (("bare", None), ("tagged", srgb)):
    write_photo(tmp_path / f"{name}.exr", dataclasses.replace(photo, icc_profile=profile))
  bare, tagged = (read_photo(tmp_path / f"{name}.exr").pixels for name in ("bare", "tagged"))
  np.testing.assert_array_equal(tagged, bare)


@pytest.mark.parametrize("dtype", [np.uint8, np.uint16])
def test_a_profile_that_is_not_of_rgb_or_broken_is_a_line(tmp_path, dtype):
  gray = ImageCms.ImageCmsProfile(ImageCms.createProfile("LAB")).tobytes()
  for profile in (gray, b"no profile"):
    with pytest.raises(BadInput, match=r"x\.exr: cannot be written as EXR"):
      write_photo(tmp_path / "x.exr", Photo(np.zeros((2, 2, 3), dtype), icc_profile=profile))


def test_what_has_become_srgb_has_no_other_primaries(tmp_path):
  """As of 8 bits that were made of a photo in linear light."""
  rec2020 = (0.708, 0.292, 0.17, 0.797, 0.131, 0.046, 0.3127, 0.329)
  photo = read_photo(written(tmp_path / "in.exr", {"RGB": np.float32([[[0.5, 0.5, 0.5]]])}, chromaticities=rec2020))
  assert photo.icc_profile is not None
  write_photo(tmp_path / "out.exr", dataclasses.replace(photo, pixels=to_8_bits(photo.pixels)))
  assert "chromaticities" not in channels_of(tmp_path / "out.exr")[1]


def test_luminance_and_chroma_are_not_taken_for_gray(tmp_path):
  planes = {name: light((4, 6)) for name in ("Y", "RY", "BY")}
  with pytest.raises(BadInput, match=r"has luminance and chroma \(Y, RY, BY\)"):
    read_photo(written(tmp_path / "x.exr", planes))


def test_what_is_no_photo_is_refused(tmp_path):
  deep = written(tmp_path / "z.exr", {"Z": light((4, 5))})
  with pytest.raises(BadInput, match="has channels Z; a photo needs R, G, B or Y"):
    read_photo(deep)
  large = written(tmp_path / "large.exr", {"RGB": light((40, 50, 3))})
  with pytest.raises(BadInput, match="50 x 40 pixels are more than the 1000 allowed"):
    read_photo(large, 1000)
  large.write_bytes(large.read_bytes()[:-200])
  with pytest.raises(BadInput, match="not an OpenEXR file, or a damaged one"):
    read_photo(large)


def test_other_parts_are_not_decoded(shared):
  """Of the file, whose second part has 192 megapixels."""
  before = time.process_time()
  assert read_photo(shared("cases/hostile/parts.exr")).pixels.size < 1000
  assert time.process_time() - before < 3


def test_it_is_a_photo_by_its_content_and_passes_between_processes(tmp_path):
  path = written(tmp_path / "named.jpg", {"RGB": light(dtype=np.float16)}, chromaticities=(0.6,) * 8)
  assert sort_photos(tmp_path) == ([path], {})
  decoders = Decoders()
  try:
    photo, there = read_photo(path), decoders.read_photo(path, 1000)
  finally:
    decoders.close()
  np.testing.assert_array_equal(there.pixels, photo.pixels)
  assert (there.half, there.chromaticities) == (True, photo.chromaticities)
