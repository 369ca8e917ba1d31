"""Test pictures are made here, where it matters by another library or by hand than the code under test uses."""

import contextlib
import dataclasses
import io
import resource
import signal
import struct
import threading
import zlib

import cv2
import numpy as np
import pytest
from PIL import ExifTags, Image, ImageCms

from dpr_jax.errors import BadInput
from dpr_jax.photo import PHOTO_SUFFIXES, Photo, list_photos, read_photo, write_photo

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
    Photo(np.zeros((4, 4, 3), np.float32))
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
  monkeypatch.setattr("dpr_jax.photo._channels_to_write", lambda *_: pytest.fail("encoded"))
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


# Folders.


def test_list_photos(tmp_path):
  for name in ("b.JPG", "a.png", "c.avif", ".hidden.png", "notes.txt", "d"):
    (tmp_path / name).touch()
  (tmp_path / "folder.png").mkdir()
  assert [path.name for path in list_photos(tmp_path)] == ["a.png", "b.JPG", "c.avif"]
  assert {path.suffix.lower() for path in list_photos(tmp_path)} <= PHOTO_SUFFIXES


def test_folders_without_photos_are_refused(tmp_path):
  with pytest.raises(BadInput, match="holds no photo"):
    list_photos(tmp_path)
  with pytest.raises(BadInput, match=r"missing: not a readable folder \(No such file"):
    list_photos(tmp_path / "missing")
  with pytest.raises(BadInput, match="not a readable folder"):
    list_photos(saved(tmp_path, b""))
