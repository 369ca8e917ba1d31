"""A DNG made by hand: a mosaic whose camera sees linear sRGB."""

import io
import sys

import numpy as np
import pytest
import tifffile
from PIL import ExifTags, Image

from dpr_jax.base.errors import BadInput
from dpr_jax.image import color
from dpr_jax.image.photo import read_photo
from dpr_jax.image.photo_formats import sort_photos

_XYZ_OF_SRGB = [[0.4124, 0.3576, 0.1805], [0.2126, 0.7152, 0.0722], [0.0193, 0.1192, 0.9505]]
_WHITE = 16383


def dng(path, linear, orientation=1):
  """Writes linear RGB `[H, W, 3]` as RGGB."""
  mosaic = linear[..., 1].copy()
  mosaic[::2, ::2], mosaic[1::2, 1::2] = linear[::2, ::2, 0], linear[1::2, 1::2, 2]
  matrix = [number for value in np.linalg.inv(_XYZ_OF_SRGB).ravel() for number in (round(1e4 * value), 10_000)]
  tags = [
    (33421, "H", 2, (2, 2), True),  # CFARepeatPatternDim
    (33422, "B", 4, bytes([0, 1, 1, 2]), True),  # CFAPattern
    (50706, "B", 4, bytes([1, 4, 0, 0]), True),  # DNGVersion
    (50708, "s", 0, "Made by hand", True),  # UniqueCameraModel
    (50714, "H", 1, 0, True),  # BlackLevel
    (50717, "I", 1, _WHITE, True),  # WhiteLevel
    (50721, 10, 9, matrix, True),  # ColorMatrix1
    (50728, 5, 3, (1, 1) * 3, True),  # AsShotNeutral
    (50778, "H", 1, 21, True),  # CalibrationIlluminant1: D65
    (271, "s", 0, "Maker", True),
    (272, "s", 0, "Made by hand", True),
    (274, "H", 1, orientation, True),
  ]
  with tifffile.TiffWriter(path) as file:
    file.write(np.round(_WHITE * mosaic).astype(np.uint16), photometric=32803, metadata=None, extratags=tags)
  return path


def scene(height=64, width=96):
  y, x = np.mgrid[:height, :width]
  return np.stack([0.1 + 0.8 * x / width, 0.2 + 0.5 * y / height, np.full((height, width), 0.3)], axis=-1)


@pytest.mark.parametrize("orientation", [1, 6])
def test_a_dng_is_developed_upright(tmp_path, orientation):
  pytest.importorskip("rawpy", reason="rawpy (extra `raw`) is not installed")
  linear = scene()
  photo = read_photo(dng(tmp_path / "x.dng", linear, orientation))
  pixels = photo.pixels if orientation == 1 else np.rot90(photo.pixels)
  assert pixels.shape == linear.shape
  assert pixels.dtype == np.uint16
  seen = color.linearise(pixels / 65535)[8:-8, 8:-8]
  inner = linear[8:-8, 8:-8]
  gain = (seen * inner).sum() / (inner**2).sum()  # it is made as bright as it can be
  np.testing.assert_allclose(seen / gain, inner, atol=0.02)
  exif = Image.Exif()
  exif.load(photo.exif)
  assert (exif[ExifTags.Base.Make], ExifTags.Base.Orientation in exif) == ("Maker", False)
  with pytest.raises(BadInput, match="are more than the 1000 allowed"):
    read_photo(tmp_path / "x.dng", 1000)


def test_without_rawpy_a_line_names_the_extra(tmp_path, monkeypatch):
  monkeypatch.setitem(sys.modules, "rawpy", None)
  path = dng(tmp_path / "x.dng", scene())
  with pytest.raises(BadInput) as refused:
    read_photo(path)
  assert str(refused.value) == (
    f'{path}: a RAW photo of a camera needs the package rawpy, of an extra: pip install "dpr_jax[raw]"'
  )


def nef(small):
  """A NEF as its beginning looks: the first picture is a small one of the other."""
  buffer = io.BytesIO()
  with tifffile.TiffWriter(buffer) as file:
    file.write(small, photometric="rgb", subfiletype=1, subifds=1, metadata=None)
    file.write(np.zeros((8, 8), np.uint16), photometric=32803, metadata=None)
  return buffer.getvalue()


@pytest.mark.parametrize(
  "content",
  [
    nef(np.zeros((16, 24, 3), np.uint8)),
    b"II*\0\x10\0\0\0CR\2\0" + bytes(100),
    b"\0\0\0\x18ftypcrx \0\0\0\1crx isom" + bytes(100),
    b"FUJIFILMCCD-RAW 0201" + bytes(100),
    b"IIRO\x08\0\0\0" + bytes(100),
    b"IIU\0\x18\0\0\0" + bytes(100),
  ],
  ids=["NEF", "CR2", "CR3", "RAF", "ORF", "RW2"],
)
def test_raw_is_known_by_its_content_and_its_small_picture_is_not_taken_for_it(tmp_path, content):
  pytest.importorskip("rawpy", reason="rawpy (extra `raw`) is not installed")
  path = tmp_path / "photo"
  path.write_bytes(content)
  assert sort_photos(tmp_path) == ([path], {})
  with pytest.raises(BadInput) as refused:
    read_photo(path)
  assert "a RAW photo that LibRaw cannot read" in str(refused.value) or "damaged" in str(refused.value)
  assert "\n" not in str(refused.value)


def test_a_tiff_with_smaller_pictures_behind_it_is_none(tmp_path):
  with tifffile.TiffWriter(tmp_path / "x.tif") as file:
    file.write(np.full((16, 24, 3), 7, np.uint8), photometric="rgb", subifds=1, metadata=None)
    file.write(np.zeros((8, 12, 3), np.uint8), photometric="rgb", subfiletype=1, metadata=None)
  assert read_photo(tmp_path / "x.tif").pixels.shape == (16, 24, 3)
