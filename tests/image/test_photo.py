"""Test pictures are made here, where it matters by another library or by hand than the code under test uses."""

import contextlib
import dataclasses
import io
import itertools
import os
import re
import resource
import signal
import struct
import threading
import zlib
from pathlib import Path

import cv2
import numpy as np
import pillow_heif
import pytest
from PIL import ExifTags, Image, ImageCms

from dpr_jax.base.errors import BadInput
from dpr_jax.image import color_tags
from dpr_jax.image.photo import Photo, read_photo
from dpr_jax.image.photo_formats import KNOWN, sort_photos
from dpr_jax.image.photo_writing import write_photo

ICC = ImageCms.ImageCmsProfile(ImageCms.createProfile("sRGB")).tobytes()

# EXIF 2.3, tag 0x0112: which side of the upright picture the stored first row and first column show.
SIDES = {
  1: ("top", "left"),
  2: ("top", "right"),
  3: ("bottom", "right"),
  4: ("bottom", "left"),
  5: ("left", "top"),
  6: ("right", "top"),
  7: ("right", "bottom"),
  8: ("left", "bottom"),
}


def noise(shape, dtype=np.uint8, seed=0):
  return np.random.default_rng(seed).integers(0, np.iinfo(dtype).max, shape, dtype, endpoint=True)


def smooth(height, width):
  """A colour gradient without symmetry, which JPEG keeps within a few levels."""
  y, x = np.mgrid[:height, :width]
  return np.stack([255 * x / (width - 1), 255 * y / (height - 1), 128 + 60 * x / (width - 1)], -1).astype(np.uint8)


def photo_like(dtype, gray=False, alpha=False, **metadata):
  pixels = noise((5, 7, 3), dtype)
  if gray:
    pixels = np.repeat(pixels[..., :1], 3, axis=2)
  return Photo(pixels, noise((5, 7), dtype, seed=1) if alpha else None, gray, **metadata)


def exif_bytes(orientation=None):
  exif = Image.Exif()
  exif[ExifTags.Base.Make] = "Maker"
  exif[ExifTags.IFD.Exif] = {ExifTags.Base.ExposureTime: 0.008}
  exif[ExifTags.IFD.GPSInfo] = {ExifTags.GPS.GPSLatitudeRef: "N"}
  if orientation:
    exif[ExifTags.Base.Orientation] = orientation
  return exif.tobytes()


def png(width, height, bits, colour_type, rows=b"", *chunks):
  """A PNG by hand: `rows` unfiltered (each led by a zero byte), `chunks` (type, data) before them."""
  header = struct.pack(">IIBBBBB", width, height, bits, colour_type, 0, 0, 0)
  parts = [(b"IHDR", header), *chunks, (b"IDAT", zlib.compress(rows)), (b"IEND", b"")]
  return b"\x89PNG\r\n\x1a\n" + b"".join(
    struct.pack(">I", len(data)) + name + data + struct.pack(">I", zlib.crc32(name + data)) for name, data in parts
  )


def encoded(image, image_format, **options):
  buffer = io.BytesIO()
  image.save(buffer, image_format, **options)
  return buffer.getvalue()


def saved(tmp_path, data, name="photo"):
  path = tmp_path / name
  path.write_bytes(data)
  return path


def refusal(path, **options):
  """The line with which reading `path` is refused."""
  with pytest.raises(BadInput) as caught:
    read_photo(path, **options)
  line = str(caught.value)
  assert line.startswith(f"{path}: ")
  assert "\n" not in line
  return line


def assert_same(photo, expected):
  np.testing.assert_array_equal(photo.pixels, expected.pixels, strict=True)
  assert (photo.alpha is None) == (expected.alpha is None)
  if expected.alpha is not None:
    np.testing.assert_array_equal(photo.alpha, expected.alpha, strict=True)
  assert photo.gray == expected.gray


# Round trips.


@pytest.mark.parametrize("alpha", [False, True], ids=["opaque", "alpha"])
@pytest.mark.parametrize("gray", [False, True], ids=["colour", "gray"])
@pytest.mark.parametrize("dtype", [np.uint8, np.uint16], ids=["8", "16"])
@pytest.mark.parametrize("suffix", [".png", ".tif", ".TIFF"])
def test_png_and_tiff_keep_everything(tmp_path, suffix, dtype, gray, alpha):
  photo = photo_like(dtype, gray, alpha)
  write_photo(tmp_path / f"x{suffix}", photo)
  if dtype == np.uint16 and gray and alpha:
    photo = dataclasses.replace(photo, gray=False)
  assert_same(read_photo(tmp_path / f"x{suffix}"), photo)


@pytest.mark.parametrize(
  ("suffix", "dtype", "alpha"),
  [
    (".png", np.uint8, False),
    (".png", np.uint8, True),
    (".png", np.uint16, False),
    (".png", np.uint16, True),
    (".tif", np.uint8, False),  # with alpha, OpenCV multiplies the pixels by it
    (".tif", np.uint16, False),
    (".tif", np.uint16, True),
  ],
)
def test_another_reader_sees_the_same_pixels(tmp_path, suffix, dtype, alpha):
  photo = photo_like(dtype, alpha=alpha)
  write_photo(tmp_path / f"x{suffix}", photo)
  seen = cv2.imread(str(tmp_path / f"x{suffix}"), cv2.IMREAD_UNCHANGED)
  np.testing.assert_array_equal(seen[..., 2::-1], photo.pixels, strict=True)
  if alpha:
    np.testing.assert_array_equal(seen[..., 3], photo.alpha, strict=True)


def test_bmp_keeps_the_pixels_and_drops_alpha(tmp_path):
  for gray in (False, True):
    photo = photo_like(np.uint8, gray, alpha=True, icc_profile=ICC, exif=exif_bytes())
    write_photo(tmp_path / "x.bmp", photo, overwrite=True)
    assert_same(read_photo(tmp_path / "x.bmp"), dataclasses.replace(photo, alpha=None))


@pytest.mark.parametrize("gray", [False, True], ids=["colour", "gray"])
@pytest.mark.parametrize("suffix", [".jpg", ".jpeg", ".webp"])
def test_lossy_formats_stay_close(tmp_path, suffix, gray):
  pixels = smooth(40, 60)
  if gray:
    pixels = np.repeat(pixels[..., :1], 3, axis=2)
  alpha = np.full((40, 60), 77, np.uint8)
  write_photo(tmp_path / f"x{suffix}", Photo(pixels, alpha, gray))
  photo = read_photo(tmp_path / f"x{suffix}")
  assert np.abs(photo.pixels.astype(int) - pixels).max() <= 8
  assert photo.gray == (gray and suffix != ".webp")
  assert (photo.alpha is not None) == (suffix == ".webp")
  if suffix == ".webp":
    np.testing.assert_array_equal(photo.alpha, alpha)


def test_jpeg_has_full_chroma_and_the_asked_quality(tmp_path):
  photo = Photo(noise((64, 64, 3)))
  for quality in (60, 95):
    write_photo(tmp_path / f"{quality}.jpg", photo, quality=quality)
    with Image.open(tmp_path / f"{quality}.jpg") as image:
      assert {layer[1:3] for layer in image.layer} == {(1, 1)}
      expected = encoded(Image.fromarray(photo.pixels), "JPEG", quality=quality, subsampling=0)
      assert image.quantization == Image.open(io.BytesIO(expected)).quantization


def test_alpha_kept_or_dropped_leaves_the_pixels_as_they_are(tmp_path):
  photo = Photo(smooth(40, 60), np.zeros((40, 60), np.uint8))
  for name in ("x.jpg", "x.webp", "x.png", "x.tif"):
    write_photo(tmp_path / name, photo)
    assert np.abs(read_photo(tmp_path / name).pixels.astype(int) - photo.pixels).max() <= 8


def test_16_bits_are_rounded_to_8(tmp_path):
  values = np.arange(65536, dtype=np.uint16).reshape(256, 256)
  write_photo(tmp_path / "x.bmp", Photo(np.repeat(values[..., None], 3, axis=2)))
  expected = np.rint(values / 257).astype(np.uint8)
  np.testing.assert_array_equal(read_photo(tmp_path / "x.bmp").pixels[..., 1], expected, strict=True)


@pytest.mark.parametrize("dtype", [np.uint8, np.uint16], ids=["8", "16"])
@pytest.mark.parametrize("gray", [False, True], ids=["colour", "gray"])
@pytest.mark.parametrize("suffix", [".jpg", ".png", ".webp", ".tif"])
def test_profile_and_exif_are_carried_over(tmp_path, suffix, gray, dtype):
  profile = ICC if not gray else ICC[:16] + b"GRAY" + ICC[20:]
  write_photo(tmp_path / f"a{suffix}", photo_like(dtype, gray, icc_profile=profile, exif=exif_bytes()))
  write_photo(tmp_path / f"b{suffix}", read_photo(tmp_path / f"a{suffix}"))
  photo = read_photo(tmp_path / f"b{suffix}")
  assert photo.icc_profile == profile
  exif = Image.Exif()
  exif.load(photo.exif)
  assert dict(exif).keys() == {ExifTags.Base.Make, ExifTags.IFD.Exif, ExifTags.IFD.GPSInfo}
  assert exif[ExifTags.Base.Make] == "Maker"
  assert exif.get_ifd(ExifTags.IFD.Exif) == {ExifTags.Base.ExposureTime: 0.008}
  assert exif.get_ifd(ExifTags.IFD.GPSInfo) == {ExifTags.GPS.GPSLatitudeRef: "N"}


def test_a_png_holds_exif_without_its_jpeg_prefix(tmp_path):
  for dtype in (np.uint8, np.uint16):
    write_photo(tmp_path / "x.png", photo_like(dtype, exif=exif_bytes()), overwrite=True)
    assert (tmp_path / "x.png").read_bytes().partition(b"eXIf")[2][:2] in (b"II", b"MM")


def test_exif_too_long_for_jpeg_is_left_out(tmp_path):
  exif = Image.Exif()
  exif[ExifTags.Base.ImageDescription] = "x" * 70_000
  photo = Photo(noise((4, 4, 3)), exif=exif.tobytes())
  write_photo(tmp_path / "x.jpg", photo)
  write_photo(tmp_path / "x.png", photo)
  assert read_photo(tmp_path / "x.jpg").exif is None
  assert read_photo(tmp_path / "x.png").exif == photo.exif


@pytest.mark.filterwarnings("ignore::UserWarning:PIL")
@pytest.mark.parametrize("image_format", ["JPEG", "WEBP"])
@pytest.mark.parametrize("exif", [b"II*\0\x08\0\0\0\x05\0junk", b"no EXIF at all"])
def test_damaged_exif_does_not_refuse_the_photo(tmp_path, exif, image_format):
  data = encoded(Image.fromarray(noise((4, 4, 3))), image_format, exif=b"Exif\0\0" + exif)
  photo = read_photo(saved(tmp_path, data))
  assert photo.pixels.shape == (4, 4, 3)


# Orientation.


@pytest.mark.parametrize("orientation", SIDES)
@pytest.mark.parametrize("kind", ["8.png", "16.png", "8.tif", "16.tif", "8.jpg", "8.webp"])
def test_photos_are_read_upright(tmp_path, kind, orientation):
  upright = np.kron(smooth(3, 5), np.ones((16, 16, 1), np.uint8))
  if kind.startswith("16"):
    upright = upright.astype(np.uint16) * 257
  path = tmp_path / kind
  write_photo(path, Photo(as_stored(upright, orientation), exif=exif_bytes(orientation)))
  photo = read_photo(path)
  assert photo.pixels.shape == upright.shape
  assert np.abs(photo.pixels.astype(int) - upright).max() <= (0 if path.suffix in (".png", ".tif") else 40)

  exif = Image.Exif()
  exif.load(photo.exif)
  assert exif[ExifTags.Base.Make] == "Maker"
  assert exif.get(ExifTags.Base.Orientation, 1) == 1
  write_photo(path, photo, overwrite=True)
  assert read_photo(path).pixels.shape == upright.shape


def test_alpha_turns_with_the_pixels(tmp_path):
  for dtype in (np.uint8, np.uint16):
    upright = photo_like(dtype, alpha=True)
    stored = Photo(as_stored(upright.pixels, 6), as_stored(upright.alpha, 6), exif=exif_bytes(6))
    for name in ("x.png", "x.tif"):
      write_photo(tmp_path / name, stored, overwrite=True)
      assert_same(read_photo(tmp_path / name), upright)


def as_stored(upright, orientation):
  """What a camera stores of `upright` [H, W, ...] under an EXIF orientation."""
  height, width = upright.shape[:2]
  row_side, column_side = SIDES[orientation]
  shape = (height, width) if row_side in ("top", "bottom") else (width, height)
  stored = np.empty((*shape, *upright.shape[2:]), upright.dtype)
  for row, column in np.ndindex(shape):
    distance = {row_side: row, column_side: column}
    y = distance["top"] if "top" in distance else height - 1 - distance["bottom"]
    x = distance["left"] if "left" in distance else width - 1 - distance["right"]
    stored[row, column] = upright[y, x]
  return stored


# Kinds of pixels that are read but not written.


def test_palette_with_transparency(tmp_path):
  image = Image.new("P", (2, 1))
  image.putpalette([10, 20, 30, 40, 50, 60])
  image.putpixel((1, 0), 1)
  expected = np.array([[[10, 20, 30], [40, 50, 60]]], np.uint8)
  assert_same(read_photo(saved(tmp_path, encoded(image, "PNG"))), Photo(expected))
  assert_same(read_photo(saved(tmp_path, encoded(image, "GIF"))), Photo(expected))
  data = encoded(image, "PNG", transparency=b"\x80\xff")
  assert_same(read_photo(saved(tmp_path, data)), Photo(expected, np.array([[128, 255]], np.uint8)))
  data = encoded(image, "GIF", transparency=1)
  assert_same(read_photo(saved(tmp_path, data)), Photo(expected, np.array([[255, 0]], np.uint8)))


def test_a_transparent_colour_becomes_alpha(tmp_path):
  expected = Photo(np.array([[[1, 2, 3], [4, 5, 6]]], np.uint8), np.array([[0, 255]], np.uint8))
  data = png(2, 1, 8, 2, b"\0\1\2\3\4\5\6", (b"tRNS", struct.pack(">3H", 1, 2, 3)))
  assert_same(read_photo(saved(tmp_path, data)), expected)
  expected = Photo(np.array([[[1, 2, 3], [40000, 5, 6]]], np.uint16), np.array([[0, 65535]], np.uint16))
  rows = b"\0" + struct.pack(">6H", 1, 2, 3, 40000, 5, 6)
  data = png(2, 1, 16, 2, rows, (b"tRNS", struct.pack(">3H", 1, 2, 3)))
  assert_same(read_photo(saved(tmp_path, data)), expected)


def test_one_bit_and_16_bit_gray(tmp_path):
  expected = np.repeat(np.array([[[255], [0]]], np.uint8), 3, axis=2)
  assert_same(read_photo(saved(tmp_path, png(2, 1, 1, 0, b"\0\x80"))), Photo(expected, gray=True))
  expected = np.repeat(np.array([[[1000], [3000]]], np.uint16), 3, axis=2)
  data = png(2, 1, 16, 0, b"\0" + struct.pack(">2H", 1000, 3000))
  assert_same(read_photo(saved(tmp_path, data)), Photo(expected, gray=True))
  data = png(2, 1, 16, 4, b"\0" + struct.pack(">4H", 1000, 2, 3000, 65535))
  assert_same(read_photo(saved(tmp_path, data)), Photo(expected, np.array([[2, 65535]], np.uint16), gray=True))


def test_big_endian_16_bit_tiff(tmp_path):
  for expected in (photo_like(np.uint16), photo_like(np.uint16, gray=True)):
    samples = expected.pixels[..., :1] if expected.gray else expected.pixels
    data = big_endian_tiff(samples)
    assert_same(read_photo(saved(tmp_path, data)), expected)


def test_cmyk_jpeg(tmp_path):
  ink = Image.new("CMYK", (16, 16), (0, 255, 255, 0))
  photo = read_photo(saved(tmp_path, encoded(ink, "JPEG", quality=100)))
  assert np.abs(photo.pixels.astype(int) - (255, 0, 0)).max() <= 4
  # A profile that is none of CMYK: Pillow's rule instead, and it is not passed on as that of the RGB pixels.
  with_profile = read_photo(saved(tmp_path, encoded(ink, "JPEG", quality=100, icc_profile=ICC)))
  assert_same(with_profile, photo)
  assert with_profile.icc_profile is None


def test_avif_and_the_first_frame_of_gif_and_webp(tmp_path):
  pixels = smooth(32, 48)
  photo = read_photo(saved(tmp_path, encoded(Image.fromarray(pixels), "AVIF", quality=95)))
  assert np.abs(photo.pixels.astype(int) - pixels).max() <= 12
  frames = [Image.new("RGB", (8, 8), colour) for colour in ("red", "blue")]
  for options in ({"image_format": "GIF"}, {"image_format": "WEBP", "lossless": True}):
    data = encoded(frames[0], save_all=True, append_images=frames[1:], **options)
    assert read_photo(saved(tmp_path, data)).pixels[4, 4].tolist() == [255, 0, 0]


@pytest.mark.parametrize(("mode", "sample"), [("F", 0.5), ("I", 7)])
def test_pixels_without_a_plain_meaning_are_refused(tmp_path, mode, sample):
  data = encoded(Image.new(mode, (2, 2), sample), "TIFF")
  assert "32 bits a channel" in refusal(saved(tmp_path, data))


def big_endian_tiff(samples):
  """An uncompressed big-endian TIFF of [H, W, C] uint16, by hand."""
  height, width, count = samples.shape
  data = samples.astype(">u2").tobytes()
  bits_at = 8 + 2 + 9 * 12 + 4
  bits = (3, 1, 16 << 16) if count == 1 else (3, count, bits_at)
  entries = [
    (256, 4, 1, width),
    (257, 4, 1, height),
    (258, *bits),
    (259, 3, 1, 1 << 16),
    (262, 3, 1, (1 if count == 1 else 2) << 16),
    (273, 4, 1, bits_at + 2 * count),
    (277, 3, 1, count << 16),
    (278, 4, 1, height),
    (279, 4, 1, len(data)),
  ]
  directory = struct.pack(">H", len(entries)) + b"".join(struct.pack(">HHII", *entry) for entry in entries)
  return b"MM\0*" + struct.pack(">I", 8) + directory + bytes(4) + struct.pack(f">{count}H", *[16] * count) + data


# Refusals.


@pytest.mark.parametrize("kind", ["8.jpg", "8.png", "16.png", "8.tif", "16.tif", "8.bmp", "8.webp", "raw.tif", "8.gif"])
@pytest.mark.parametrize("share", [0.02, 0.3, 0.6, 0.95])
def test_a_truncated_file_is_refused(tmp_path, kind, share):
  path = tmp_path / kind
  pixels = noise((40, 60, 3), np.uint16 if kind.startswith("16") else np.uint8)
  if kind == "raw.tif":
    path.write_bytes(encoded(Image.fromarray(pixels), "TIFF"))
  elif kind == "8.gif":
    path.write_bytes(encoded(Image.fromarray(pixels), "GIF"))
  else:
    write_photo(path, Photo(pixels))
  read_photo(path)
  data = path.read_bytes()
  path.write_bytes(data[: max(4, int(share * len(data)))])
  refusal(path)


def test_a_damaged_png_is_refused(tmp_path):
  data = bytearray(encoded(Image.fromarray(noise((40, 60, 3))), "PNG"))
  data[len(data) // 2] ^= 0xFF
  refusal(saved(tmp_path, bytes(data)))


def test_a_decompression_bomb_is_refused_by_its_header(tmp_path):
  path = saved(tmp_path, png(60_000, 60_000, 8, 2), "bomb.png")
  assert "60000 x 60000 pixels are more than the 200000000 allowed" in refusal(path)


@pytest.mark.parametrize("suffix", [".png", ".tif", ".jpg", ".webp", ".bmp"])
def test_only_our_own_limit_counts(tmp_path, monkeypatch, suffix):
  write_photo(tmp_path / f"x{suffix}", photo_like(np.uint8))
  # Pillow warns above its limit and raises above twice that. (WebP asks it before the size is known to us.)
  monkeypatch.setattr(Image, "MAX_IMAGE_PIXELS", 20 if suffix == ".webp" else 10)
  assert read_photo(tmp_path / f"x{suffix}", max_pixels=35).pixels.shape == (5, 7, 3)
  assert "7 x 5 pixels are more than the 34 allowed" in refusal(tmp_path / f"x{suffix}", max_pixels=34)
  assert Image.MAX_IMAGE_PIXELS in (10, 20)


def test_what_is_no_photo_is_refused(tmp_path):
  assert "not a photo" in refusal(saved(tmp_path, b"Dear diary,\n" * 20, "letter.jpg"))
  assert "not a photo" in refusal(saved(tmp_path, b"%!PS-Adobe-3.0 EPSF-3.0\n", "drawing.eps"))
  assert "is empty" in refusal(saved(tmp_path, b"", "empty.png"))
  assert "is a folder" in refusal(tmp_path)
  assert "cannot be read (No such file or directory)" in refusal(tmp_path / "missing.jpg")
  refusal(saved(tmp_path, png(0, 5, 8, 2), "zero.png"))


def test_the_content_decides_and_not_the_suffix(tmp_path):
  pixels = noise((4, 4, 3))
  assert_same(read_photo(saved(tmp_path, encoded(Image.fromarray(pixels), "PNG"), "x.jpg")), Photo(pixels))


def test_photo_checks_its_shapes():
  with pytest.raises(ValueError, match="pixels must be"):
    Photo(np.zeros((4, 4), np.uint8))
  with pytest.raises(ValueError, match="pixels must be"):
    Photo(np.zeros((4, 4, 3), np.float64))
  with pytest.raises(ValueError, match="does not fit"):
    Photo(np.zeros((4, 4, 3), np.uint8), alpha=np.zeros((4, 4, 1), np.uint8))
  with pytest.raises(ValueError, match="does not fit"):
    Photo(np.zeros((4, 4, 3), np.uint8), alpha=np.zeros((4, 4), np.uint16))


# Writing to difficult places.


def test_unknown_suffixes_are_refused(tmp_path):
  for name in ("x.xyz", "x", "x.gif"):
    with pytest.raises(BadInput, match=rf"{name}: the suffix must be one of .*\.png"):
      write_photo(tmp_path / "new" / name, photo_like(np.uint8))
  assert list(tmp_path.iterdir()) == []


def test_nothing_is_encoded_where_the_output_exists(tmp_path, monkeypatch):
  path = saved(tmp_path, b"old", "x.png")
  monkeypatch.setattr("dpr_jax.image.photo_writing._channels_to_write", lambda *_: pytest.fail("encoded"))
  with pytest.raises(BadInput, match="exists already"):
    write_photo(path, photo_like(np.uint8))
  assert path.read_bytes() == b"old"


def test_a_picture_too_large_for_its_format_leaves_nothing(tmp_path):
  for name, width, dtype in (("x.webp", 16384, np.uint8), ("x.jpg", 65536, np.uint8), ("x.png", 1_000_001, np.uint16)):
    with pytest.raises(BadInput, match=rf"{name}: cannot be written") as caught:
      write_photo(tmp_path / name, Photo(np.zeros((1, width, 3), dtype)))
    assert "\n" not in str(caught.value)
  assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize("name", ["8.jpg", "8.png", "16.png", "8.webp", "8.tif", "16.tif", "8.bmp"])
def test_a_full_disk_leaves_the_old_file(tmp_path, name):
  path = saved(tmp_path, b"old", name)
  photo = Photo(noise((100, 100, 3), np.uint16 if name.startswith("16") else np.uint8))
  with files_no_longer_than(1000), pytest.raises(BadInput, match=rf"{name}: cannot be written"):
    write_photo(path, photo, overwrite=True)
  assert list(tmp_path.iterdir()) == [path]
  assert path.read_bytes() == b"old"


def test_concurrent_readers_and_writers(tmp_path):
  path = tmp_path / "x.tif"
  photos = [Photo(noise((40, 60, 3), seed=seed)) for seed in range(4)]
  write_photo(path, photos[0])
  known = {photo.pixels.tobytes() for photo in photos}
  unknown = []

  def work(photo):
    for _ in range(10):
      write_photo(path, photo, overwrite=True)
      if read_photo(path).pixels.tobytes() not in known:
        unknown.append(photo)

  threads = [threading.Thread(target=work, args=(photo,)) for photo in photos]
  for thread in threads:
    thread.start()
  for thread in threads:
    thread.join()
  assert not unknown
  assert list(tmp_path.iterdir()) == [path]


@contextlib.contextmanager
def files_no_longer_than(size):
  """Makes the system refuse longer files, as it does on a full disk."""
  limits = resource.getrlimit(resource.RLIMIT_FSIZE)
  handler = signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
  resource.setrlimit(resource.RLIMIT_FSIZE, (size, limits[1]))
  try:
    yield
  finally:
    resource.setrlimit(resource.RLIMIT_FSIZE, limits)
    signal.signal(signal.SIGXFSZ, handler)


# What files say of themselves.


@pytest.mark.parametrize("suffix", [".heic", ".png"])  # the content decides
def test_heic_as_phones_write_it(tmp_path, suffix):
  import pillow_heif

  pixels = smooth(48, 64)
  picture = pillow_heif.from_pillow(Image.fromarray(pixels))
  picture.info["exif"] = exif_bytes(orientation=6)
  picture.save(tmp_path / f"x{suffix}", quality=95)
  photo = read_photo(tmp_path / f"x{suffix}")
  assert photo.pixels.shape == (64, 48, 3)  # orientation 6: the first row is the right side
  assert np.abs(photo.pixels.astype(int) - np.rot90(pixels, -1)).mean() < 4
  assert b"Maker" in photo.exif


def test_gray16_with_a_transparent_level(tmp_path):
  levels = np.array([[0, 12345, 12346], [65535, 12345, 7]], ">u2")
  rows = b"".join(b"\0" + row.tobytes() for row in levels)
  photo = read_photo(saved(tmp_path, png(3, 2, 16, 0, rows, (b"tRNS", struct.pack(">H", 12345)))))
  np.testing.assert_array_equal(photo.pixels[..., 0], levels)
  np.testing.assert_array_equal(photo.alpha, [[65535, 0, 65535], [65535, 0, 65535]])
  assert photo.gray


@pytest.mark.parametrize("bits", [1, 2, 4, 8])
def test_gray_of_few_bits_with_a_transparent_level(tmp_path, bits):
  levels = np.arange(8) % 2**bits
  row = np.packbits(((levels[:, None] >> np.arange(bits)[::-1]) & 1).ravel().astype(np.uint8)).tobytes()
  photo = read_photo(saved(tmp_path, png(8, 1, bits, 0, b"\0" + row, (b"tRNS", struct.pack(">H", 1)))))
  np.testing.assert_array_equal(photo.pixels[0, :, 0], levels * 255 // (2**bits - 1))
  np.testing.assert_array_equal(photo.alpha[0], np.where(levels == 1, 0, 255))


def srgb(linear):
  return np.where(linear <= 0.0031308, 12.92 * linear, 1.055 * linear ** (1 / 2.4) - 0.055)


def colour_png(tmp_path, bits, *chunks):
  levels = np.linspace(0, 2**bits - 1, 30).astype(">u2" if bits == 16 else np.uint8)
  row = b"\0" + np.repeat(levels[:, None], 3, axis=1).tobytes()
  return levels.astype(float) / (2**bits - 1), saved(tmp_path, png(30, 1, bits, 2, row, *chunks))


@pytest.mark.parametrize("bits", [8, 16])
@pytest.mark.parametrize(("gamma", "power"), [(1.0, 1.0), (0.55556, 1.8), (0.45455, None), (0.4545, None)])
def test_gamma_is_applied(tmp_path, gamma, power, bits):
  values, path = colour_png(tmp_path, bits, (b"gAMA", struct.pack(">I", round(gamma * 100_000))))
  expected = values if power is None else srgb(values**power)
  photo = read_photo(path)
  np.testing.assert_allclose(photo.pixels[0, :, 1] / (2**bits - 1), expected, atol=0.6 / 255 if bits == 8 else 1e-3)
  assert photo.icc_profile is None


def in_srgb(photo):
  """What another program shows: through the profile, by LittleCMS."""
  image = Image.fromarray(photo.pixels)
  if photo.icc_profile is None:
    return photo.pixels.astype(int)
  profile = ImageCms.ImageCmsProfile(io.BytesIO(photo.icc_profile))
  return np.asarray(ImageCms.profileToProfile(image, profile, ImageCms.createProfile("sRGB"))).astype(int)


P3 = struct.pack(">8I", *(round(1e5 * x) for x in (0.3127, 0.329, 0.68, 0.32, 0.265, 0.69, 0.15, 0.06)))
SRGB_PLACES = struct.pack(">8I", *(round(1e5 * x) for x in (0.3127, 0.329, 0.64, 0.33, 0.3, 0.6, 0.15, 0.06)))


@pytest.mark.parametrize(
  "chunks",
  [
    [(b"cICP", bytes([12, 13, 0, 1]))],
    [(b"gAMA", struct.pack(">I", 45455)), (b"cHRM", P3)],
    [(b"cICP", bytes([12, 13, 0, 1])), (b"sRGB", b"\0"), (b"gAMA", struct.pack(">I", 100_000))],  # cICP counts
  ],
  ids=["cICP", "cHRM", "both"],
)
def test_primaries_become_a_profile(tmp_path, chunks):
  """Known pairs of Display P3 and sRGB, from the matrices of CSS Color 4."""
  colours = np.uint8([[117, 251, 76], [234, 51, 35], [128, 128, 128], [255, 255, 255]])
  shown = [[0, 255, 0], [255, 0, 0], [128, 128, 128], [255, 255, 255]]
  path = saved(tmp_path, png(4, 1, 8, 2, b"\0" + colours.tobytes(), *chunks))
  photo = read_photo(path)
  np.testing.assert_array_equal(photo.pixels[0], colours)
  np.testing.assert_allclose(in_srgb(photo)[0], shown, atol=3)
  write_photo(tmp_path / "again.png", photo)
  assert read_photo(tmp_path / "again.png").icc_profile == photo.icc_profile


@pytest.mark.parametrize(
  "chunks",
  [
    [(b"sRGB", b"\0"), (b"gAMA", struct.pack(">I", 100_000))],
    [(b"cICP", bytes([1, 13, 0, 1]))],
    [(b"cICP", bytes([1, 1, 0, 1]))],
    [(b"cHRM", SRGB_PLACES)],
    [(b"cHRM", bytes(32))],
    [(b"gAMA", bytes(4))],
    [(b"cICP", b"\1")],
  ],
)
def test_what_says_srgb_or_nothing_changes_nothing(tmp_path, chunks):
  values, path = colour_png(tmp_path, 8, *chunks)
  photo = read_photo(path)
  np.testing.assert_allclose(photo.pixels[0, :, 0] / 255, values)
  assert photo.icc_profile is None


@pytest.mark.parametrize(
  ("code", "reason"),
  [
    ((9, 16, 0, 1), "high dynamic range .PQ"),
    ((9, 18, 0, 1), "HLG"),
    ((1, 13, 9, 1), "no RGB"),
    ((99, 13, 0, 1), "99"),
  ],
)
def test_colours_that_cannot_be_kept_are_refused_by_name(tmp_path, code, reason):
  _, path = colour_png(tmp_path, 8, (b"cICP", bytes(code)))
  assert re.search(reason, refusal(path))


def nclx(kind, primaries, curve):
  """A HEIC or AVIF whose colr box says these numbers."""
  if kind == "AVIF":
    data = encoded(Image.fromarray(smooth(16, 24)), kind)
  else:
    buffer = io.BytesIO()
    pillow_heif.from_pillow(Image.fromarray(smooth(16, 24))).save(
      buffer, color_primaries=1, transfer_characteristic=13, matrix_coefficients=6, full_range_flag=1
    )
    data = buffer.getvalue()
  place = data.index(b"colrnclx") + 8
  return data[:place] + struct.pack(">HH", primaries, curve) + data[place + 4 :]


@pytest.mark.parametrize("kind", ["HEIC", "AVIF"])
def test_primaries_of_heic_and_avif_are_kept_as_those_of_png_are(tmp_path, kind):
  plain, wide = (read_photo(saved(tmp_path, nclx(kind, primaries, 13))) for primaries in (1, 12))
  assert plain.icc_profile is None
  _, path = colour_png(tmp_path, 8, (b"cICP", bytes([12, 13, 0, 1])))
  assert wide.icc_profile == read_photo(path).icc_profile
  np.testing.assert_array_equal(wide.pixels, plain.pixels)
  linear = read_photo(saved(tmp_path, nclx(kind, 1, 8)))
  np.testing.assert_array_equal(linear.pixels, color_tags.to_srgb_curve(plain.pixels, 1.0))
  assert "high dynamic range (PQ" in refusal(saved(tmp_path, nclx(kind, 9, 16)))
  assert "primaries" in refusal(saved(tmp_path, nclx(kind, 99, 13)))


def test_of_several_pictures_in_a_heic_the_primary_ones_colours_count():
  def box(name, content):
    return struct.pack(">I4s", 8 + len(content), name) + content

  def tags(primary, version, wide, tiles=()):
    colours = b"".join(box(b"colr", b"nclx" + struct.pack(">HHHB", kind, 13, 6, 128)) for kind in (9, 12))
    item, place = "I" if version else "H", "H" if wide else "B"
    essential = 0x8000 if wide else 0x80
    owners = b"".join(struct.pack(f">{item}B{place}", owner, 1, essential + owner) for owner in (1, 2))
    owners = struct.pack(">BBHI", version, 0, wide, 2) + owners
    parts = box(b"pitm", struct.pack(f">B3x{item}", version, primary))
    parts += box(b"iprp", box(b"ipco", colours) + box(b"ipma", owners))
    if tiles:
      made = struct.pack(f">{item}H{len(tiles)}{item}", primary, len(tiles), *tiles)
      parts += box(b"iref", struct.pack(">B3x", version) + box(b"dimg", made))
    found = color_tags.heif_color_tags(io.BytesIO(box(b"ftyp", b"heic") + box(b"meta", bytes(4) + parts)), {})
    return found and found.primaries[0].tolist()

  rec2020, p3 = [0.708, 0.292], [0.68, 0.32]
  for version, wide in itertools.product((0, 1), (0, 1)):
    assert tags(1, version, wide) == rec2020
    assert tags(2, version, wide) == p3
    assert tags(3, version, wide) is None
    assert tags(3, version, wide, (2, 1)) == p3


XMP = (
  b'<x:xmpmeta xmlns:x="adobe:ns:meta/"><rdf:RDF xmlns:rdf="http://www.w3.org/1999/02/22-rdf-syntax-ns#"><rdf:Description'
  b' xmlns:xmp="http://ns.adobe.com/xap/1.0/" xmp:Rating="4" tiff:Orientation="6" exif:PixelXDimension=\'7\'>'
  b"<exif:PixelYDimension> 5</exif:PixelYDimension></rdf:Description></rdf:RDF></x:xmpmeta>"
)


@pytest.mark.parametrize("dtype", [np.uint8, np.uint16])
@pytest.mark.parametrize("suffix", [".jpg", ".png", ".tif", ".webp"])
def test_rating_and_density_are_carried_over(tmp_path, suffix, dtype):
  photo = photo_like(dtype, xmp=XMP.replace(b'"6"', b'"1"'), dpi=(300.0, 150.0))
  write_photo(tmp_path / f"x{suffix}", photo)
  again = read_photo(tmp_path / f"x{suffix}")
  assert b'xmp:Rating="4"' in again.xmp
  if suffix != ".webp":  # which has no place for it
    assert again.dpi == pytest.approx((300, 150), abs=0.02)


def test_what_tells_of_the_size_follows_rotation(tmp_path):
  exif = Image.Exif()
  exif[ExifTags.Base.Orientation] = 6
  exif[ExifTags.Base.Rating] = 4
  exif[ExifTags.IFD.Exif] = {ExifTags.Base.ExifImageWidth: 7, ExifTags.Base.ExifImageHeight: 5}
  path = saved(tmp_path, encoded(Image.fromarray(noise((5, 7, 3))), "JPEG", exif=exif, xmp=XMP, dpi=(300, 150)))
  photo = read_photo(path)
  assert photo.pixels.shape == (7, 5, 3)
  kept = Image.Exif()
  kept.load(photo.exif)
  shot = kept.get_ifd(ExifTags.IFD.Exif)
  assert (shot[ExifTags.Base.ExifImageWidth], shot[ExifTags.Base.ExifImageHeight]) == (5, 7)
  assert kept[ExifTags.Base.Rating] == 4
  assert photo.dpi == (150, 300)
  for field in (b'tiff:Orientation="1"', b"exif:PixelXDimension='5'", b"<exif:PixelYDimension> 7<", b'xmp:Rating="4"'):
    assert field in photo.xmp


def with_scans(data, count):
  """A progressive JPEG with its last scan repeated."""
  last = data.rindex(b"\xff\xda")
  return data[:last] + (data[last:-2]) * count + b"\xff\xd9"


def test_a_jpeg_of_endless_scans_is_refused_before_it_is_decoded(tmp_path, monkeypatch):
  data = encoded(Image.fromarray(smooth(32, 32)), "JPEG", progressive=True)
  before = read_photo(saved(tmp_path, data))
  assert read_photo(saved(tmp_path, with_scans(data, 50))).pixels.shape == (32, 32, 3)
  # In a segment, what looks like a scan is none.
  decoy = b"\xff\xfe" + struct.pack(">H", 602) + b"\xff\xda\0" * 200
  assert_same(read_photo(saved(tmp_path, data[:2] + decoy + data[2:])), before)
  monkeypatch.setattr("dpr_jax.image.pillow_pixels.load", lambda _: pytest.fail("decoded"))
  assert "more than 100 scans" in refusal(saved(tmp_path, with_scans(data, 200)))
  large = with_scans(encoded(Image.new("L", (3000, 3000)), "JPEG", progressive=True), 40)
  assert "more than 29 scans" in refusal(saved(tmp_path, large))


def test_what_libraries_say_of_16_bits_stays_with_them(tmp_path, capfd):
  rows = b"".join(b"\0" + row.tobytes() for row in noise((4, 5, 3), np.uint16).astype(">u2"))
  assert read_photo(saved(tmp_path, png(5, 4, 16, 2, rows + bytes(99)))).pixels.dtype == np.uint16
  assert capfd.readouterr() == ("", "")


def test_a_lack_of_memory_is_a_line(tmp_path, monkeypatch):
  monkeypatch.setattr("dpr_jax.image.pillow_pixels.load", lambda _: bytearray(2**62))
  assert refusal(saved(tmp_path, encoded(Image.fromarray(noise((4, 5, 3))), "PNG"))).endswith(
    "takes more memory to decode than there is"
  )


def test_the_odd_cases_look_like_the_plain_one(shared):
  """The synthetic face as cameras and tools write it; each with the mean difference that its own coding makes."""
  plain = read_photo(shared("cases/odd/plain.jpg")).pixels.astype(float)
  gray = np.repeat((plain @ [0.299, 0.587, 0.114])[..., None], 3, axis=2)
  cases = {"IMG_0001.HEIC": 2, "photo.jfif": 0, "photo.mpo": 2, "rgb16_planar.tif": 2, "cicp_p3.png": 2, "xmp.jpg": 0}
  cases |= {"miniswhite16.tif": 1, "miniswhite16_deflate.tif": 1, "gama_linear8.png": 3}
  for name, most in cases.items():
    photo = read_photo(shared(f"cases/odd/{name}"))
    pixels = photo.pixels / (257 if photo.pixels.dtype == np.uint16 else 1)
    assert np.abs(pixels - (gray if photo.gray else plain)).mean() <= most, name
  assert read_photo(shared("cases/odd/cicp_p3.png")).icc_profile is not None
  assert (read_photo(shared("cases/odd/gray16_trns.png")).alpha == 0).sum() == 3600
  assert read_photo(shared("cases/odd/xmp.jpg")).dpi == (300, 300)
  assert "a progressive JPEG of more than 16 scans" in refusal(shared("cases/hostile/scans.jpg"))


# Folders.


def test_the_photos_of_a_folder_are_known_by_their_content(tmp_path):
  picture = Image.fromarray(noise((4, 5, 3)))
  jpeg, png = encoded(picture, "JPEG"), encoded(picture, "PNG")
  names = {"b.JPG": jpeg, "a.jfif": jpeg, "c.mpo": jpeg, "d": png, "e.txt": png, "f.webp": jpeg, ".hidden.png": png}
  for name, content in names.items():
    saved(tmp_path, content, name)
  saved(tmp_path, b"some notes", "notes.txt")
  saved(tmp_path, b"no picture", "broken.png")  # whoever reads it says so
  saved(tmp_path, b"", "empty.jpg")
  (tmp_path / "folder.png").mkdir()
  (tmp_path / "dead.jpg").symlink_to(tmp_path / "nowhere.jpg")
  (tmp_path / "link").symlink_to(tmp_path / "d")
  os.mkfifo(tmp_path / "pipe.jpg")
  photos, others = sort_photos(tmp_path)
  read = ["a.jfif", "b.JPG", "broken.png", "c.mpo", "d", "e.txt", "empty.jpg", "f.webp", "link"]
  assert [path.name for path in photos] == read
  assert {path.name: reason for path, reason in others.items()} == {
    "notes.txt": f"not a photo (known are {KNOWN})",
    "folder.png": "a folder",
    "dead.jpg": "a link to nowhere",
    "pipe.jpg": "not a file",
  }


def test_what_is_no_regular_file_is_not_opened(tmp_path):
  os.mkfifo(tmp_path / "pipe.jpg")
  for path in (tmp_path / "pipe.jpg", Path("/dev/zero")):
    assert refusal(path).endswith("is not a file")


def test_folders_without_photos_are_refused(tmp_path):
  with pytest.raises(BadInput, match="holds no photo"):
    sort_photos(tmp_path)
  with pytest.raises(BadInput, match=r"missing: not a readable folder \(No such file"):
    sort_photos(tmp_path / "missing")
  with pytest.raises(BadInput, match="not a readable folder"):
    sort_photos(saved(tmp_path, b""))
