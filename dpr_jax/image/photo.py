"""A photo in memory, and how it is read from a file: upright, with what belongs to it."""

import contextlib
import dataclasses
import io
import os
import stat
import warnings
from collections.abc import Callable
from pathlib import Path
from typing import BinaryIO

import numpy as np
from PIL import Image
from PIL.ImageFile import ImageFile
from PIL.PngImagePlugin import PngImageFile
from PIL.TiffImagePlugin import TiffImageFile

from dpr_jax.base.errors import BadInput, reason_of
from dpr_jax.base.exr_files import read_exr
from dpr_jax.base.native_libraries import native_log_silenced
from dpr_jax.image import color, color_tags, pillow_pixels, raw_photos
from dpr_jax.image.photo_formats import EXR, HEAD_BYTES, KNOWN, RAW, format_of
from dpr_jax.image.photo_metadata import EXIF_PREFIX, density, kept_exif, kept_xmp
from dpr_jax.image.tiff_pixels import TiffPixels, is_raw

warnings.filterwarnings("ignore", module=r"PIL\.")  # of damaged tags, without which photos are read

PIXEL_TYPES = (np.uint8, np.uint16, np.float32)

_ORIENTATIONS_ON_THE_SIDE = (5, 6, 7, 8)  # the first row is the left or the right side


@dataclasses.dataclass(frozen=True, eq=False)
class Photo:
  """A photo in memory; `dataclasses.replace(photo, pixels=...)` is the same photo with other pixels.

  Attributes:
    pixels: [H, W, 3] uint8 or uint16 RGB, upright, in the colour space of `icc_profile` (sRGB where None); or float32,
      linear light of sRGB's primaries or those of `chromaticities`, 1 is white and whatever is brighter has more. May
      be read-only.
    alpha: [H, W] of the same dtype, 0 transparent, white or 1 opaque, or None. The pixels are not multiplied by it.
    gray: whether the photo has one channel, written back as one; the three of `pixels` are then equal.
    icc_profile: an ICC profile, or None.
    exif: an EXIF block with its "Exif" prefix and without orientation or thumbnail, or None.
    xmp: an XMP packet that fits the pixels as they are, or None.
    dpi: pixels an inch, across and down, or None.
    chromaticities: of float32 pixels: x and y of red, green, blue and white, or None.
    half: of float32 pixels: whether EXR stores them in 16 bits.
  """

  pixels: np.ndarray
  alpha: np.ndarray | None = None
  gray: bool = False
  icc_profile: bytes | None = None
  exif: bytes | None = None
  xmp: bytes | None = None
  dpi: tuple[float, float] | None = None
  chromaticities: tuple[float, ...] | None = None
  half: bool = False

  def __post_init__(self):
    if self.pixels.ndim != 3 or self.pixels.shape[2] != 3 or self.pixels.dtype not in PIXEL_TYPES:
      raise ValueError(
        f"pixels must be [H, W, 3] uint8, uint16 or float32, not {self.pixels.shape} {self.pixels.dtype}"
      )
    if self.alpha is not None and (self.alpha.shape != self.pixels.shape[:2] or self.alpha.dtype != self.pixels.dtype):
      raise ValueError(
        f"alpha {self.alpha.shape} {self.alpha.dtype} does not fit pixels {self.pixels.shape} {self.pixels.dtype}"
      )


def to_8_bits(pixels: np.ndarray) -> np.ndarray:
  """Pixels of any type as uint8 with sRGB's curve; rounded, so that white stays white, and cut off there."""
  return as_type(pixels, np.dtype(np.uint8))


def as_type(pixels: np.ndarray, dtype: np.dtype, *, linear: bool = False) -> np.ndarray:
  """Pixels of any of `PIXEL_TYPES` as another: integers have sRGB's curve, floating point is linear light.

  Args:
    pixels: of any shape.
    dtype: what they shall be.
    linear: whether the integers are linear, too: of alpha.
  """
  if pixels.dtype == dtype:
    return pixels
  if dtype.kind == "f":
    levels = np.arange(np.iinfo(pixels.dtype).max + 1, dtype=np.float32) / np.float32(np.iinfo(pixels.dtype).max)
    return (levels if linear else color.linearise(levels))[pixels]
  most = np.iinfo(dtype).max
  if pixels.dtype.kind == "f":
    shown = np.clip(np.nan_to_num(pixels, nan=0, posinf=1), 0, 1)
    return np.rint(most * (shown if linear else color.delinearise(shown))).astype(dtype)
  return (
    pixels.astype(np.uint16) * 257 if dtype == np.uint16 else ((pixels.astype(np.uint32) + 128) // 257).astype(dtype)
  )


def read_photo(path: str | os.PathLike, max_pixels: int = 200_000_000) -> Photo:
  """Reads a JPEG, PNG, WebP, TIFF, BMP, GIF, AVIF, HEIC, EXR or RAW file (known by its content), the first picture of
  several.

  16 bits a channel are kept for PNG and TIFF, whatever their layout; EXR is linear light in floating point, and a
  camera's RAW photo is developed to 16 bits (extra `raw`). CMYK is converted to sRGB through its profile, or
  by Pillow's rule of thumb without one. A PNG, HEIC or AVIF without a profile that says what its colours are (gAMA,
  cHRM, cICP, colr) is converted to the curve of sRGB, and given a profile where its primaries are others. Thread safe.

  Args:
    path: the file.
    max_pixels: the most pixels to decode; the header is asked before.

  Raises:
    BadInput: no such file, a folder, a device, unreadable, empty, no photo, truncated or damaged, a kind of pixels
      without a plain meaning as RGB (32-bit, Lab, high dynamic range), a progressive JPEG of many more scans than
      encoders write, or more than `max_pixels`.
  """
  path = Path(path)
  if os.path.isdir(path):
    raise BadInput(f"{path}: is a folder, not a photo")
  try:
    if not stat.S_ISREG(path.stat().st_mode):
      raise BadInput(f"{path}: is not a file")
    with path.open("rb") as file, _libtiff_silenced(file):
      opened = _open(path, file, max_pixels)
      width, height = opened.size
      if width * height > max_pixels:
        raise BadInput(f"{path}: {width} x {height} pixels are more than the {max_pixels} allowed")
      return opened.read()
  except BadInput:
    raise
  except MemoryError:
    raise BadInput(f"{path}: takes more memory to decode than there is") from None
  except OSError as error:
    raise BadInput(f"{path}: cannot be read ({error.strerror or reason_of(error)})") from error
  except Exception as error:  # Pillow's decoders answer damaged files with nearly any exception
    raise BadInput(f"{path}: damaged, or of an unknown variant ({reason_of(error)})") from error


def _libtiff_silenced(file: BinaryIO) -> contextlib.AbstractContextManager[None]:
  """Alone among the decoders, it prints what it finds wrong."""
  photo_format = format_of(file.read(HEAD_BYTES))
  file.seek(0)
  return native_log_silenced() if photo_format is not None and photo_format.name == "TIFF" else contextlib.nullcontext()


@dataclasses.dataclass(frozen=True)
class _Opened:
  """A photo whose header has been read: its width and height, and what reads the rest."""

  size: tuple[int, int]
  read: Callable[[], Photo]


def _open(path: Path, file: BinaryIO, max_pixels: int) -> _Opened:
  """Reads the header; the pixels stay in the file."""
  head = file.read(HEAD_BYTES)
  file.seek(0)
  if not head:
    raise BadInput(f"{path}: is empty")
  photo_format = format_of(head)
  if photo_format is None:
    raise BadInput(f"{path}: not a photo (known are {KNOWN})")
  if photo_format.name == EXR:
    return _Opened((0, 0), lambda: _read_exr(path, max_pixels))  # which looks at more sizes than this one
  if photo_format.name == RAW:
    return _open_raw(path, file)
  if photo_format.name == "TIFF":
    content = file.read()
    if is_raw(content):
      return _open_raw(path, file)
    if TiffPixels.fits(content):
      pixels = TiffPixels(content)
      return _Opened(pixels.size, lambda: _decode_tiff(pixels))
  file.seek(0)
  image = photo_format.open(file)
  return _Opened(image.size, lambda: _read_with_pillow(image, file))


def _read_exr(path: Path, max_pixels: int) -> Photo:
  """Linear light. Alpha, by which colours in EXR are multiplied, is taken out of them where it is more than 0."""

  def check_size(width: int, height: int) -> None:
    if width * height > max_pixels:
      raise BadInput(f"{path}: {width} x {height} pixels are more than the {max_pixels} allowed")

  colours, alpha, places, half = read_exr(os.fspath(path), check_size, max_pixels, "a photo")
  gray = colours.ndim == 2
  pixels = np.repeat(colours[..., None], 3, axis=2) if gray else colours
  if alpha is not None:
    pixels = np.divide(pixels, alpha[..., None], out=pixels.copy(), where=alpha[..., None] > 0)
  profile = None if places is None or gray else color_tags.rgb_profile_of(places)
  return Photo(np.ascontiguousarray(pixels), alpha, gray, profile, chromaticities=places, half=half)


def _open_raw(path: Path, file: BinaryIO) -> _Opened:
  opened = raw_photos.open_raw(path)

  def read() -> Photo:
    pixels, exif = opened.develop(), Image.Exif()
    file.seek(0)
    with contextlib.suppress(Exception):  # of RAW that is no TIFF
      exif.load(EXIF_PREFIX + file.read())
    return Photo(pixels, exif=kept_exif(exif, pixels.shape[1::-1]))

  return _Opened(opened.size, read)


def _decode_tiff(tiff: TiffPixels) -> Photo:
  channels = tiff.decode(pillow_pixels.load)
  with TiffImageFile(io.BytesIO(tiff.file)) as image:
    return _photo(channels, tiff.gray, tiff.has_alpha, tiff.orientation, image)


def _read_with_pillow(image: ImageFile, file: BinaryIO) -> Photo:
  decoded = pillow_pixels.decode(image, file)
  photo, tags = _photo(*decoded), _color_tags(decoded.image, file)
  return photo if tags is None else _with_color_tags(photo, tags)


def _color_tags(image: Image.Image, file: BinaryIO) -> color_tags.ColorTags | None:
  if isinstance(image, PngImageFile):
    return color_tags.png_color_tags(file, image.info)
  return color_tags.heif_color_tags(file, image.info) if image.format in ("HEIF", "AVIF") else None


def _photo(channels: np.ndarray, gray: bool, transparent: bool, orientation: int, image: Image.Image) -> Photo:
  """Upright, with what belongs to it."""
  channels = _upright(channels, orientation)
  colours = 1 if channels.shape[2] < 3 else 3
  pixels = channels[..., :3] if colours == 3 else np.repeat(channels[..., :1], 3, axis=2)
  alpha = np.ascontiguousarray(channels[..., colours]) if transparent and channels.shape[2] > colours else None
  size = pixels.shape[1], pixels.shape[0]
  on_its_side = orientation in _ORIENTATIONS_ON_THE_SIDE
  return Photo(
    np.ascontiguousarray(pixels),
    alpha,
    gray,
    image.info.get("icc_profile"),
    kept_exif(image, size),
    kept_xmp(image, size),
    density(image, on_its_side),
  )


def _with_color_tags(photo: Photo, tags: color_tags.ColorTags) -> Photo:
  pixels = photo.pixels if tags.power is None else color_tags.to_srgb_curve(photo.pixels, tags.power)
  profile = None if tags.primaries is None or photo.gray else color_tags.rgb_profile(tags.primaries)
  return dataclasses.replace(photo, pixels=pixels, icc_profile=profile)


def _upright(channels: np.ndarray, orientation: int) -> np.ndarray:
  """Undoes an EXIF orientation: it says which sides of the picture the file's first row and first column show."""
  if orientation in _ORIENTATIONS_ON_THE_SIDE:
    channels = channels.swapaxes(0, 1)
  if orientation in (3, 4, 7, 8):
    channels = channels[::-1]
  if orientation in (2, 3, 6, 7):
    channels = channels[:, ::-1]
  return channels
