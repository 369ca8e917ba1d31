"""Every layout of 8- and 16-bit gray and RGB, written by tifffile, an independent implementation."""

import io
import itertools

import numpy as np
import pytest
import tifffile

from dpr_jax.image.photo import read_photo
from dpr_jax.image.tiff_pixels import TiffPixels

SIDES = (37, 53)
TAGS = {"associated": "assocalpha", "alpha": "unassalpha", "extra": "unspecified", "opaque": None}


def written(samples, *, gray, extra, white_is_zero, planar, order, compression, tile, predictor, big):
  buffer = io.BytesIO()
  tifffile.imwrite(
    buffer,
    np.moveaxis(samples, -1, 0) if planar else samples[..., 0] if samples.shape[2] == 1 else samples,
    photometric="miniswhite" if white_is_zero else "minisblack" if gray else "rgb",
    planarconfig=None if samples.shape[2] == 1 else "separate" if planar else "contig",
    byteorder=order,
    compression=compression,
    predictor=predictor,
    tile=tile,
    rowsperstrip=None if tile else 8,
    bigtiff=big,
    extrasamples=None if extra is None else [extra],
    metadata=None,
  )
  return buffer.getvalue()


@pytest.mark.parametrize("compression", [None, "zlib", "lzw", "packbits", "zstd"])
@pytest.mark.parametrize("extra", TAGS)
@pytest.mark.parametrize("kind", ["rgb", "black is zero", "white is zero"])
@pytest.mark.parametrize("bits", [8, 16])
def test_every_layout_is_read_as_it_was_written(tmp_path, bits, kind, extra, compression):
  if compression not in (None, "zlib"):
    pytest.importorskip("imagecodecs", reason="imagecodecs (extra `test`) is not installed")
  gray = kind != "rgb"
  colours = 1 if gray else 3
  channels = colours + (extra != "opaque")
  samples = np.random.default_rng(bits).integers(0, 2**bits, (*SIDES, channels)).astype(f"u{bits // 8}")
  samples[:9, :9] = 0
  samples[:9, 9:19] = 2**bits - 1
  if extra == "associated":  # no colour is brighter than its alpha
    samples[..., :colours] = np.minimum(samples[..., :colours], samples[..., colours:])
  expected = samples.astype(np.int64)
  if kind == "white is zero":
    expected[..., :colours] = 2**bits - 1 - expected[..., :colours]
    if extra == "associated":
      expected[..., :colours] = np.minimum(expected[..., :colours], expected[..., colours:])
  if extra == "associated":
    alpha = expected[..., colours:]
    expected[..., :colours] = np.where(
      alpha, (expected[..., :colours] * (2**bits - 1) + alpha // 2) // np.maximum(alpha, 1), 0
    )
  for order, planar, tile, predictor, big in itertools.product(
    "<>", (False, True), (None, (16, 32)), *[(False, True)] * 2
  ):
    if (planar and channels == 1) or (predictor and compression in (None, "packbits")):
      continue
    layout = {"order": order, "planar": planar, "tile": tile, "predictor": predictor, "big": big}
    content = written(
      samples, gray=gray, extra=TAGS[extra], white_is_zero=kind == "white is zero", compression=compression, **layout
    )
    (tmp_path / "x.tif").write_bytes(content)
    photo = read_photo(tmp_path / "x.tif")
    assert photo.gray == gray
    assert photo.pixels.dtype == samples.dtype
    np.testing.assert_array_equal(photo.pixels[..., :colours], expected[..., :colours], err_msg=str(layout))
    if extra in ("alpha", "associated"):
      np.testing.assert_array_equal(photo.alpha, expected[..., colours], err_msg=str(layout))
    else:
      assert photo.alpha is None


@pytest.mark.parametrize(
  ("samples", "options", "message"),
  [
    (np.zeros((4, 5), np.int16), {}, "16-bit numbers that are signed or floating point"),
    (np.zeros((4, 5, 3), np.float16), {"photometric": "rgb"}, "16-bit numbers that are signed or floating point"),
    (np.zeros((4, 5), np.uint32), {}, "32 bits a channel"),
    (np.zeros((4, 5, 3), np.float32), {"photometric": "rgb"}, "32/32/32 bits a channel"),
    (np.zeros((4, 5, 12), np.uint16), {"photometric": "rgb", "planarconfig": "contig"}, "12 samples a pixel"),
  ],
)
def test_what_has_no_plain_meaning_is_refused_by_name(samples, options, message):
  buffer = io.BytesIO()
  tifffile.imwrite(buffer, samples, **({"photometric": "minisblack"} | options))
  with pytest.raises(ValueError, match=message):
    TiffPixels(buffer.getvalue())


def test_what_belongs_to_the_picture_stays(tmp_path):
  """In both orders, and in the big-endian BigTIFF, which Pillow does not read."""
  for order, big in itertools.product("<>", (False, True)):
    extratags = [(34675, 7, 8, b"profile!", True), (700, 1, 12, b"<x:xmpmeta/>", True), (271, 2, 6, "Maker", True)]
    tifffile.imwrite(
      tmp_path / "x.tif",
      np.zeros((4, 5, 3), np.uint16),
      photometric="rgb",
      byteorder=order,
      bigtiff=big,
      extratags=extratags,
      resolution=(300, 300),
      resolutionunit="inch",
    )
    photo = read_photo(tmp_path / "x.tif")
    assert photo.icc_profile == b"profile!"
    assert photo.xmp == b"<x:xmpmeta/>"
    assert b"Maker" in photo.exif
    if not (big and order == ">"):
      assert photo.dpi == (300, 300)
