"""Photos as files: read upright with what belongs to them, written back as the same kind of picture."""

import contextlib
import dataclasses
import io
import os
import re
import threading
import zlib
from pathlib import Path
from typing import BinaryIO

import numpy as np
from PIL import ExifTags, Image, ImageCms
from PIL.AvifImagePlugin import AvifImageFile
from PIL.BmpImagePlugin import BmpImageFile
from PIL.GifImagePlugin import GifImageFile
from PIL.ImageFile import ImageFile
from PIL.JpegImagePlugin import JpegImageFile
from PIL.PngImagePlugin import PngImageFile
from PIL.TiffImagePlugin import ImageFileDirectory_v2, TiffImageFile
from PIL.WebPImagePlugin import WebPImageFile

from dpr_jax.errors import BadInput
from dpr_jax.native_libraries import import_native
from dpr_jax.output_files import atomic_output

cv2 = import_native("cv2")

PHOTO_SUFFIXES = frozenset({".jpg", ".jpeg", ".png", ".webp", ".tif", ".tiff", ".bmp", ".gif", ".avif"})

# Image.open is not used: it applies Pillow's process-wide pixel limit instead of ours, and it would try formats that
# call external programs.
_READERS = (
  (rb"\xff\xd8\xff", JpegImageFile),
  (rb"\x89PNG\r\n\x1a\n", PngImageFile),
  (rb"RIFF.{4}WEBP", WebPImageFile),
  (rb"II[*+]\0|MM\0[*+]", TiffImageFile),
  (rb"BM", BmpImageFile),
  (rb"GIF8[79]a", GifImageFile),
  (rb".{4}ftyp.*?avi[fs]", AvifImageFile),
)
_WRITTEN_FORMATS = {
  ".jpg": "JPEG",
  ".jpeg": "JPEG",
  ".png": "PNG",
  ".webp": "WEBP",
  ".tif": "TIFF",
  ".tiff": "TIFF",
  ".bmp": "BMP",
}
_FORMATS_WITH_ALPHA = {"PNG", "WEBP", "TIFF"}
_FORMATS_WITH_16_BITS = {"PNG", "TIFF"}

# What EXIF tells of the picture; its other tags describe how the file it came from stored the pixels.
_KEPT_EXIF = {
  ExifTags.Base.ImageDescription,
  ExifTags.Base.Make,
  ExifTags.Base.Model,
  ExifTags.Base.XResolution,
  ExifTags.Base.YResolution,
  ExifTags.Base.ResolutionUnit,
  ExifTags.Base.Software,
  ExifTags.Base.DateTime,
  ExifTags.Base.Artist,
  ExifTags.Base.Copyright,
  ExifTags.IFD.Exif,
  ExifTags.IFD.GPSInfo,
}
_EXIF_PREFIX = b"Exif\0\0"
_LONGEST_JPEG_EXIF = 65533  # a JPEG segment's length has 16 bits and counts its own 2 bytes

_pillow_limit_lock = threading.Lock()


@dataclasses.dataclass(frozen=True, eq=False)
class Photo:
  """A photo in memory; `dataclasses.replace(photo, pixels=...)` is the same photo with other pixels.

  Attributes:
    pixels: [H, W, 3] uint8 or uint16 RGB, upright, in the colour space of `icc_profile` (sRGB where None). May be
      read-only.
    alpha: [H, W] of the same dtype, 0 transparent, or None. The pixels are not multiplied by it.
    gray: whether the photo has one channel, written back as one; the three of `pixels` are then equal.
    icc_profile: an ICC profile, or None.
    exif: an EXIF block with its "Exif" prefix and without orientation or thumbnail, or None.
  """

  pixels: np.ndarray
  alpha: np.ndarray | None = None
  gray: bool = False
  icc_profile: bytes | None = None
  exif: bytes | None = None

  def __post_init__(self):
    if self.pixels.ndim != 3 or self.pixels.shape[2] != 3 or self.pixels.dtype not in (np.uint8, np.uint16):
      raise ValueError(f"pixels must be [H, W, 3] uint8 or uint16, not {self.pixels.shape} {self.pixels.dtype}")
    if self.alpha is not None and (self.alpha.shape != self.pixels.shape[:2] or self.alpha.dtype != self.pixels.dtype):
      raise ValueError(
        f"alpha {self.alpha.shape} {self.alpha.dtype} does not fit pixels {self.pixels.shape} {self.pixels.dtype}"
      )


def to_8_bits(pixels: np.ndarray) -> np.ndarray:
  """Pixels or alpha, uint8 or uint16, as uint8; rounded, so that white stays white."""
  return pixels if pixels.dtype == np.uint8 else ((pixels.astype(np.uint32) + 128) // 257).astype(np.uint8)


def list_photos(folder: str | os.PathLike) -> list[Path]:
  """Returns the photos directly in `folder`, by suffix (`PHOTO_SUFFIXES`, any case), sorted; hidden files are left out.

  Raises:
    BadInput: there is no such folder, it cannot be read, or it holds no photo.
  """
  folder = Path(folder)
  try:
    entries = sorted(folder.iterdir())
  except OSError as error:
    raise BadInput(f"{folder}: not a readable folder ({error.strerror})") from error
  photos = [
    entry
    for entry in entries
    if entry.suffix.lower() in PHOTO_SUFFIXES and not entry.name.startswith(".") and entry.is_file()
  ]
  if not photos:
    raise BadInput(f"{folder}: holds no photo ({', '.join(sorted(PHOTO_SUFFIXES))})")
  return photos


def read_photo(path: str | os.PathLike, max_pixels: int = 200_000_000) -> Photo:
  """Reads a JPEG, PNG, WebP, TIFF, BMP, GIF or AVIF file (known by its content), the first picture where it holds more.

  16 bits a channel are kept for PNG and TIFF; TIFF with premultiplied alpha is read at 8. CMYK is converted to sRGB
  through its profile, or by Pillow's rule of thumb without one. Thread safe.

  Args:
    path: the file.
    max_pixels: the most pixels to decode; the header is asked before.

  Raises:
    BadInput: no such file, a folder, unreadable, empty, no photo, truncated or damaged, a kind of pixels without a
      plain meaning as RGB (32-bit, Lab), or more than `max_pixels`.
  """
  path = Path(path)
  if os.path.isdir(path):
    raise BadInput(f"{path}: is a folder, not a photo")
  try:
    with path.open("rb") as file:
      image = _open(path, file)
      width, height = image.size
      if width * height > max_pixels:
        raise BadInput(f"{path}: {width} x {height} pixels are more than the {max_pixels} allowed")
      return _decode(image, file)
  except (BadInput, MemoryError):
    raise
  except OSError as error:
    raise BadInput(f"{path}: cannot be read ({error.strerror or error})") from error
  except Exception as error:  # Pillow's decoders answer damaged files with nearly any exception
    raise BadInput(f"{path}: damaged, or of an unknown variant ({_one_line(error)})") from error


def write_photo(path: str | os.PathLike, photo: Photo, *, overwrite: bool = False, quality: int = 95) -> None:
  """Writes `photo` in the format of the suffix: .jpg, .jpeg, .png, .webp, .tif, .tiff or .bmp.

  The file is complete or absent (see `atomic_output`); missing folders are created. What the format cannot hold is
  left out: alpha in JPEG and BMP (the pixels stay as they are), profile and EXIF in BMP, an EXIF block too long for
  JPEG. 16 bits are kept in PNG and TIFF and rounded to 8 elsewhere. A gray photo has one channel, except in WebP, which
  knows only colour, and with 16-bit alpha, which readers expect beside colour.

  Args:
    path: where to write.
    photo: what to write.
    overwrite: whether a file already at `path` may be replaced.
    quality: of JPEG (always with full-resolution chroma) and WebP, 1 to 100.

  Raises:
    BadInput: an unknown suffix, an existing `path` without `overwrite`, a picture too large for the format, or a place
      that cannot be written (permission, disk full).
  """
  path = Path(path)
  try:
    image_format = _WRITTEN_FORMATS[path.suffix.lower()]
  except KeyError:
    raise BadInput(f"{path}: the suffix must be one of {', '.join(_WRITTEN_FORMATS)}") from None
  with atomic_output(path, overwrite) as temporary:
    channels = _channels_to_write(photo, image_format)
    try:
      if image_format == "TIFF":
        data = _encode_tiff(channels, photo)
      elif channels.dtype == np.uint16:
        data = _encode_16_bit_png(channels, photo)
      else:
        data = _encode_with_pillow(channels, photo, image_format, quality)
    except (ValueError, OSError, OverflowError, cv2.error) as error:
      raise BadInput(f"{path}: cannot be written as {image_format} ({_one_line(error)})") from error
    temporary.write_bytes(data)


def _one_line(error: Exception) -> str:
  return " ".join(str(error).split())  # OpenCV's messages have several


def _open(path: Path, file: BinaryIO) -> ImageFile:
  """Reads the header; the pixels stay in the file."""
  head = file.read(64)
  file.seek(0)
  if not head:
    raise BadInput(f"{path}: is empty")
  for signature, reader in _READERS:
    if re.match(signature, head, re.DOTALL):
      return reader(file)
  raise BadInput(f"{path}: not a photo (known are JPEG, PNG, WebP, TIFF, BMP, GIF and AVIF)")


def _decode(image: ImageFile, file: BinaryIO) -> Photo:
  # Pillow reads 16-bit colour as 8 bits (gray it keeps), which only this raw mode, gone after loading, betrays.
  # Premultiplied alpha ("RGBa") is left to it, as OpenCV would not divide by it.
  raw_mode = _raw_mode(image)
  deep_colour = re.match(r"(RGB|RGBX|RGBA|LA);16", raw_mode)
  if isinstance(image, TiffImageFile):
    _allocate(image)
  image.load()  # in full, so that a truncated file is noticed: OpenCV would fill the rest with gray
  # After loading: PNG may hold its EXIF behind the pixels, and of TIFF both Pillow and OpenCV turn the pixels upright
  # themselves, whereupon Pillow takes the tag away.
  orientation, exif = _exif(image)
  icc_profile = image.info.get("icc_profile")
  gray = image.mode in ("1", "L", "LA", "La") or image.mode.startswith("I;16") or raw_mode.startswith("LA")
  transparent = image.has_transparency_data
  if deep_colour:
    channels = _decode_16_bit_colour(file)
  elif image.mode.startswith("I;16"):
    channels = np.asarray(image).astype(np.uint16)[..., None]
  elif image.mode in ("I", "F"):
    raise ValueError("32 bits a channel")
  else:
    if image.mode == "CMYK":
      image, icc_profile = _cmyk_to_srgb(image, icc_profile), None
    mode = ("L" if gray else "RGB") + ("A" if transparent else "")
    channels = np.atleast_3d(np.asarray(image if image.mode == mode else image.convert(mode)))
  channels = _upright(channels, orientation)
  colours = 1 if channels.shape[2] < 3 else 3
  pixels = channels[..., :3] if colours == 3 else np.repeat(channels[..., :1], 3, axis=2)
  alpha = np.ascontiguousarray(channels[..., colours]) if transparent and channels.shape[2] > colours else None
  return Photo(np.ascontiguousarray(pixels), alpha, gray, icc_profile, exif)


def _raw_mode(image: ImageFile) -> str:
  """How the file stores a pixel, in Pillow's words: "RGB;16B" is big-endian 16-bit RGB."""
  arguments = image.tile[0].args if image.tile else ""
  return arguments if isinstance(arguments, str) else str(arguments[0])


def _allocate(image: TiffImageFile) -> None:
  """Makes room for the pixels, where Pillow compares TIFF (alone) with its own process-wide limit once more."""
  with _pillow_limit_lock:
    limit, Image.MAX_IMAGE_PIXELS = Image.MAX_IMAGE_PIXELS, None
    try:
      image.load_prepare()
    finally:
      Image.MAX_IMAGE_PIXELS = limit


def _exif(image: ImageFile) -> tuple[int, bytes | None]:
  """Returns the orientation that the pixels still need (1 to 8) and what to keep of EXIF.

  EXIF in the wild is often damaged, which is no reason to refuse the photo.
  """
  orientation = 1
  with contextlib.suppress(Exception):
    exif = image.getexif()
    orientation = exif.get(ExifTags.Base.Orientation, 1)
    for tag in set(exif) - _KEPT_EXIF:
      del exif[tag]
    if exif:
      return orientation, exif.tobytes()
  return orientation, None


def _decode_16_bit_colour(file: BinaryIO) -> np.ndarray:
  """Returns [H, W, 3 or 4] uint16 RGB(A)."""
  file.seek(0)
  pixels = cv2.imdecode(np.frombuffer(file.read(), np.uint8), cv2.IMREAD_UNCHANGED)
  if pixels is None or pixels.dtype != np.uint16 or pixels.ndim != 3:
    raise ValueError("16-bit pixels that OpenCV cannot decode")
  return cv2.cvtColor(pixels, cv2.COLOR_BGRA2RGBA if pixels.shape[2] == 4 else cv2.COLOR_BGR2RGB)


def _cmyk_to_srgb(image: Image.Image, icc_profile: bytes | None) -> Image.Image:
  if icc_profile:
    with contextlib.suppress(ImageCms.PyCMSError):  # a broken profile
      srgb = ImageCms.createProfile("sRGB")
      return ImageCms.profileToProfile(image, io.BytesIO(icc_profile), srgb, outputMode="RGB")
  return image.convert("RGB")


def _upright(channels: np.ndarray, orientation: int) -> np.ndarray:
  """Undoes an EXIF orientation: it says which sides of the picture the file's first row and first column show."""
  if orientation in (5, 6, 7, 8):  # the first row is the left or the right side
    channels = channels.swapaxes(0, 1)
  if orientation in (3, 4, 7, 8):
    channels = channels[::-1]
  if orientation in (2, 3, 6, 7):
    channels = channels[:, ::-1]
  return channels


def _channels_to_write(photo: Photo, image_format: str) -> np.ndarray:
  """Returns [H, W, 1 to 4] gray or RGB, with alpha behind, as the format can hold it."""
  alpha = photo.alpha if image_format in _FORMATS_WITH_ALPHA else None
  deep = photo.pixels.dtype == np.uint16 and image_format in _FORMATS_WITH_16_BITS
  gray = photo.gray and not (deep and alpha is not None)
  channels = photo.pixels[..., :1] if gray else photo.pixels
  if alpha is not None:
    channels = np.dstack([channels, alpha])
  return np.ascontiguousarray(channels if deep else to_8_bits(channels))


def _encode_with_pillow(channels: np.ndarray, photo: Photo, image_format: str, quality: int) -> memoryview:
  """Into memory, as Pillow takes no notice of a disk that fills up while it writes to a file."""
  options = {}
  if photo.icc_profile:
    options["icc_profile"] = photo.icc_profile
  if photo.exif and not (image_format == "JPEG" and len(photo.exif) > _LONGEST_JPEG_EXIF):
    options["exif"] = photo.exif
  if image_format == "JPEG":
    options.update(quality=quality, subsampling="4:4:4")
  elif image_format == "PNG":
    options.update(compress_level=2)  # less than half the time of Pillow's own choice, for a seventh more bytes
  elif image_format == "WEBP":
    options.update(quality=quality, exact=True)  # exact: keep the colour of transparent pixels
  image = Image.fromarray(channels[..., 0] if channels.shape[2] == 1 else channels)
  buffer = io.BytesIO()
  image.save(buffer, image_format, **options)
  return buffer.getbuffer()


def _encode_16_bit_png(channels: np.ndarray, photo: Photo) -> np.ndarray:
  """Through OpenCV, as Pillow writes 16 bits only of gray."""
  if channels.shape[2] > 1:
    channels = cv2.cvtColor(channels, cv2.COLOR_RGBA2BGRA if channels.shape[2] == 4 else cv2.COLOR_RGB2BGR)
  metadata = {}
  if photo.icc_profile:
    metadata[cv2.IMAGE_METADATA_ICCP] = np.frombuffer(photo.icc_profile, np.uint8)
  if photo.exif:
    metadata[cv2.IMAGE_METADATA_EXIF] = np.frombuffer(photo.exif.removeprefix(_EXIF_PREFIX), np.uint8)
  written, data = cv2.imencodeWithMetadata(".png", channels, list(metadata), list(metadata.values()))
  if not written:
    raise ValueError("OpenCV refuses")
  return data


def _encode_tiff(channels: np.ndarray, photo: Photo) -> memoryview:
  """One strip, deflated after differencing along the rows (TIFF 6.0, section 14).

  Pillow writes no 16-bit colour and OpenCV no profile, without which wide-gamut photos change colour.
  """
  channels = channels.astype(channels.dtype.newbyteorder("<"))
  height, width, count = channels.shape
  differences = channels.copy()
  differences[:, 1:] -= channels[:, :-1]
  strip = zlib.compress(differences, level=3)
  directory = ImageFileDirectory_v2(prefix=b"II")
  if photo.exif:
    exif = Image.Exif()
    exif.load(photo.exif)
    for tag in exif:
      directory[tag] = exif.get_ifd(tag) if tag in (ExifTags.IFD.Exif, ExifTags.IFD.GPSInfo) else exif[tag]
  if photo.icc_profile:
    directory[ExifTags.Base.InterColorProfile] = photo.icc_profile
  directory[ExifTags.Base.ImageWidth] = width
  directory[ExifTags.Base.ImageLength] = height
  directory[ExifTags.Base.BitsPerSample] = (8 * channels.itemsize,) * count
  directory[ExifTags.Base.Compression] = 8  # deflate
  directory[ExifTags.Base.PhotometricInterpretation] = 2 if count > 2 else 1  # RGB or black is zero
  directory[ExifTags.Base.StripOffsets] = 0  # counted from the directory's end
  directory[ExifTags.Base.SamplesPerPixel] = count
  directory[ExifTags.Base.RowsPerStrip] = height
  directory[ExifTags.Base.StripByteCounts] = len(strip)
  directory[ExifTags.Base.Predictor] = 2  # horizontal differencing
  if count in (2, 4):
    directory[ExifTags.Base.ExtraSamples] = 2  # alpha the pixels are not multiplied by
  buffer = io.BytesIO()
  directory.save(buffer)
  buffer.write(strip)
  return buffer.getbuffer()
