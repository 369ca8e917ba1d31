"""Photos as files: read upright with what belongs to them, written back as the same kind of picture."""

import contextlib
import dataclasses
import io
import os
import re
import stat
import struct
import threading
import warnings
import zlib
from collections.abc import Callable
from pathlib import Path
from typing import BinaryIO

import numpy as np
from PIL import ExifTags, Image, ImageCms
from PIL.ImageFile import ImageFile
from PIL.JpegImagePlugin import JpegImageFile
from PIL.PngImagePlugin import PngImageFile, PngInfo
from PIL.TiffImagePlugin import ImageFileDirectory_v2, TiffImageFile

from dpr_jax.base.errors import BadInput
from dpr_jax.base.exr_files import ExrPicture, read_exr, write_exr
from dpr_jax.base.native_libraries import import_native, native_log_silenced
from dpr_jax.base.output_files import atomic_output
from dpr_jax.image import color, color_tags, raw_photos
from dpr_jax.image.photo_formats import EXR, HEAD_BYTES, KNOWN, RAW, WRITTEN_FORMATS, format_of
from dpr_jax.image.tiff_pixels import TiffPixels, is_raw

cv2 = import_native("cv2")
warnings.filterwarnings("ignore", module=r"PIL\.")  # of damaged tags, without which photos are read

PIXEL_TYPES = (np.uint8, np.uint16, np.float32)
_FORMATS_WITH_ALPHA = {"PNG", "WEBP", "TIFF", EXR}
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
  ExifTags.Base.Rating,
  ExifTags.Base.RatingPercent,
  ExifTags.IFD.Exif,
  ExifTags.IFD.GPSInfo,
}
_EXIF_PREFIX = b"Exif\0\0"
_LONGEST_JPEG_EXIF = 65533  # a JPEG segment's length has 16 bits and counts its own 2 bytes
_LONGEST_JPEG_XMP = 65504  # after the name of its namespace
_LONGEST_XMP = 2**20
_PNG_XMP = "XML:com.adobe.xmp"
_METRES_PER_INCH = 0.0254
# Of a progressive JPEG: cameras and encoders write about ten, at most 16. Each passes over the whole picture, so that
# of a large one more of them are refused earlier.
_MOST_SCANS, _USUAL_SCANS, _MOST_SCANNED_PIXELS = 100, 16, 2**28
_ORIENTATIONS_ON_THE_SIDE = (5, 6, 7, 8)  # the first row is the left or the right side

_SAME_LEVELS = 2  # of 255, by which the colours of an sRGB profile may be off

_pillow_limit_lock = threading.Lock()


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
    raise BadInput(f"{path}: cannot be read ({error.strerror or _reason(error)})") from error
  except Exception as error:  # Pillow's decoders answer damaged files with nearly any exception
    raise BadInput(f"{path}: damaged, or of an unknown variant ({_reason(error)})") from error


def write_photo(path: str | os.PathLike, photo: Photo, *, overwrite: bool = False, quality: int = 95) -> None:
  """Writes `photo` in the format of the suffix, one of `photo_formats.WRITTEN_FORMATS`.

  The file is complete or absent (see `atomic_output`); missing folders are created. What the format cannot hold is
  left out: alpha in JPEG and BMP (the pixels stay as they are), profile, EXIF and XMP in BMP, density in BMP and WebP,
  an EXIF block or XMP packet too long for JPEG, all but chromaticities in EXR. 16 bits are kept in PNG and TIFF and
  rounded to 8 elsewhere; EXR holds linear light in 16 or 32 bits, of which other formats show what is not brighter than
  white. A gray photo has one channel, except in WebP, which knows only colour, and with 16-bit alpha, which readers
  expect beside colour.

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
    image_format = WRITTEN_FORMATS[path.suffix.lower()]
  except KeyError:
    raise BadInput(f"{path}: the suffix must be one of {', '.join(WRITTEN_FORMATS)}") from None
  with atomic_output(path, overwrite) as temporary:
    try:
      if image_format == EXR:
        _write_exr(temporary, photo)
        return
      channels = _channels_to_write(photo, image_format)
      if image_format == "TIFF":
        data = _encode_tiff(channels, photo)
      elif channels.dtype == np.uint16:
        data = _encode_16_bit_png(channels, photo)
      else:
        data = _encode_with_pillow(channels, photo, image_format, quality)
    except (ValueError, OSError, OverflowError, RuntimeError, cv2.error, ImageCms.PyCMSError) as error:
      raise BadInput(f"{path}: cannot be written as {image_format} ({_reason(error)})") from error
    temporary.write_bytes(data)


def _libtiff_silenced(file: BinaryIO) -> contextlib.AbstractContextManager[None]:
  """Alone among the decoders, it prints what it finds wrong."""
  photo_format = format_of(file.read(HEAD_BYTES))
  file.seek(0)
  return native_log_silenced() if photo_format is not None and photo_format.name == "TIFF" else contextlib.nullcontext()


def _reason(error: Exception) -> str:
  return " ".join(str(error).split())[:200]  # OpenCV's messages have several


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
  return _Opened(image.size, lambda: _decode(image, file))


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
      exif.load(_EXIF_PREFIX + file.read())
    return Photo(pixels, exif=_exif(exif, pixels.shape[1::-1]))

  return _Opened(opened.size, read)


def _decode_tiff(tiff: TiffPixels) -> Photo:
  channels = tiff.decode(_load)
  with TiffImageFile(io.BytesIO(tiff.file)) as image:
    return _photo(channels, tiff.gray, tiff.has_alpha, tiff.orientation, image)


def _decode(image: ImageFile, file: BinaryIO) -> Photo:
  if isinstance(image, JpegImageFile) and image.info.get("progressive"):
    _check_scans(file, image.width * image.height)
  # Pillow reads 16-bit colour as 8 bits (gray it keeps), which only this raw mode, gone after loading, betrays.
  raw_mode = _raw_mode(image)
  _load(image)  # in full, so that a truncated file is noticed: OpenCV would fill the rest with gray
  # After loading: PNG may hold its EXIF behind the pixels, and TIFF Pillow turns upright itself, whereupon it takes the
  # tag away.
  orientation = 1
  with contextlib.suppress(Exception):
    orientation = image.getexif().get(ExifTags.Base.Orientation, 1)
  gray = image.mode in ("1", "L", "LA", "La") or image.mode.startswith("I;16") or raw_mode.startswith("LA")
  transparent = image.has_transparency_data
  if re.match(r"(RGB|RGBA|LA);16", raw_mode):
    channels = _decode_16_bit_colour(file, image)
  elif image.mode.startswith("I;16"):
    channels = np.asarray(image).astype(np.uint16)[..., None]
    if (key := image.info.get("transparency")) is not None:
      channels = np.dstack([channels, np.where(channels == key, 0, np.uint16(65535))])
  elif image.mode in ("I", "F"):
    raise ValueError("32 bits a channel")
  else:
    if image.mode == "CMYK":
      image = _cmyk_to_srgb(image)
    mode = ("L" if gray else "RGB") + ("A" if transparent else "")
    channels = _as_mode(image, mode, raw_mode)
  photo, tags = _photo(channels, gray, transparent, orientation, image), _color_tags(image, file)
  return photo if tags is None else _with_color_tags(photo, tags)


def _color_tags(image: ImageFile, file: BinaryIO) -> color_tags.ColorTags | None:
  if isinstance(image, PngImageFile):
    return color_tags.png_color_tags(file, image.info)
  return color_tags.heif_color_tags(file, image.info) if image.format in ("HEIF", "AVIF") else None


def _as_mode(image: Image.Image, mode: str, raw_mode: str) -> np.ndarray:
  """Pixels `[H, W, C]` uint8 in one of Pillow's modes."""
  key = image.info.get("transparency")
  if image.mode in ("1", "L") and mode == "LA" and isinstance(key, int):  # the key is in the file's own few bits
    levels = {"L;2": 3, "L;4": 15}.get(raw_mode, 255)  # of one bit Pillow has widened it
    pixels = np.asarray(image.convert("L"))
    return np.dstack([pixels, np.where(pixels == key * 255 // levels, 0, np.uint8(255))])
  return np.atleast_3d(np.asarray(image if image.mode == mode else image.convert(mode)))


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
    _exif(image, size),
    _xmp(image, size),
    _dpi(image, on_its_side),
  )


def _with_color_tags(photo: Photo, tags: color_tags.ColorTags) -> Photo:
  pixels = photo.pixels if tags.power is None else color_tags.to_srgb_curve(photo.pixels, tags.power)
  profile = None if tags.primaries is None or photo.gray else color_tags.rgb_profile(tags.primaries)
  return dataclasses.replace(photo, pixels=pixels, icc_profile=profile)


def _raw_mode(image: ImageFile) -> str:
  """How the file stores a pixel, in Pillow's words: "RGB;16B" is big-endian 16-bit RGB."""
  arguments = image.tile[0].args if image.tile else ""
  return arguments if isinstance(arguments, str) else str(arguments[0])


def _check_scans(file: BinaryIO, pixels: int) -> None:
  """Raises ValueError on a progressive JPEG of so many scans that decoding takes minutes.

  Source: ITU-T T.81, annex B. In coded data 0xFF is followed by 0 or a restart marker; elsewhere lengths are counted.
  """
  most = min(_MOST_SCANS, max(_USUAL_SCANS, _MOST_SCANNED_PIXELS // max(pixels, 1)))
  file.seek(0)
  content, place, scans = file.read(), 2, 0
  while marker := re.compile(rb"\xff+([^\x00\xd0-\xd7\xff])", re.DOTALL).search(content, place):
    place = marker.end()
    code = marker[1][0]
    if code == 0xD9 or place + 2 > len(content):
      return
    if code == 0xDA:
      scans += 1
      if scans > most:
        raise ValueError(f"a progressive JPEG of more than {most} scans")
    place += struct.unpack_from(">H", content, place)[0]


def _load(image: ImageFile) -> None:
  """Loads the pixels; of TIFF (alone) Pillow compares their number with its own process-wide limit once more."""
  if isinstance(image, TiffImageFile):
    with _pillow_limit_lock:
      limit, Image.MAX_IMAGE_PIXELS = Image.MAX_IMAGE_PIXELS, None
      try:
        image.load_prepare()
      finally:
        Image.MAX_IMAGE_PIXELS = limit
  image.load()


def _exif(source: Image.Image | Image.Exif, size: tuple[int, int]) -> bytes | None:
  """What to keep of EXIF, for upright pixels of a size.

  EXIF in the wild is often damaged, which is no reason to refuse the photo.
  """
  with contextlib.suppress(Exception):
    exif = source if isinstance(source, Image.Exif) else source.getexif()
    for tag in set(exif) - _KEPT_EXIF:
      del exif[tag]
    shot = exif.get_ifd(ExifTags.IFD.Exif) if ExifTags.IFD.Exif in exif else {}
    for tag, length in zip((ExifTags.Base.ExifImageWidth, ExifTags.Base.ExifImageHeight), size, strict=True):
      if tag in shot:
        shot[tag] = length
    if exif:
      return exif.tobytes()
  return None


# Fields of XMP that say how the pixels lie: they hold for the file that is read, not for upright pixels.
_XMP_FIELDS = rb"(tiff:Orientation|tiff:ImageWidth|tiff:ImageLength|exif:PixelXDimension|exif:PixelYDimension)"


def _xmp(image: Image.Image, size: tuple[int, int]) -> bytes | None:
  """The XMP packet for upright pixels of a size, or None."""
  packet = image.info.get("xmp") or (image.info.get(_PNG_XMP) if isinstance(image, PngImageFile) else None)
  if packet is None and isinstance(image, TiffImageFile):
    packet = image.tag_v2.get(ExifTags.Base.XMLPacket)
  if isinstance(packet, str):
    packet = packet.encode()
  if not isinstance(packet, bytes) or not packet.strip(b"\0 ") or len(packet) > _LONGEST_XMP:
    return None
  width, height = (str(length).encode() for length in size)
  numbers = {b"Orientation": b"1", b"ImageWidth": width, b"ImageLength": height}
  numbers |= {b"PixelXDimension": width, b"PixelYDimension": height}

  for before, after in ((rb"([\s])", rb"(\s*=\s*[\"'])"), (rb"(<)", rb"(\s*>\s*)")):
    pattern = before + _XMP_FIELDS + after + rb"\d+"
    packet = re.sub(pattern, lambda m: m[1] + m[2] + m[3] + numbers[m[2].partition(b":")[2]], packet)
  return packet


def _dpi(image: Image.Image, on_its_side: bool) -> tuple[float, float] | None:
  """Pixels an inch, across and down upright pixels."""
  with contextlib.suppress(Exception):
    across, down = (float(number) for number in image.info["dpi"])
    if 2 <= across <= 1e5 and 2 <= down <= 1e5:  # Pillow makes 1 of a TIFF that says nothing
      return (down, across) if on_its_side else (across, down)
  return None


def _decode_16_bit_colour(file: BinaryIO, image: ImageFile) -> np.ndarray:
  """Of a PNG, whose 8-bit reading is `image`: `[H, W, 3 or 4]` uint16 RGB, perhaps with alpha."""
  file.seek(0)
  with native_log_silenced():
    pixels = cv2.imdecode(np.frombuffer(file.read(), np.uint8), cv2.IMREAD_UNCHANGED)
  if pixels is None or pixels.dtype != np.uint16 or pixels.ndim != 3:
    raise ValueError("16-bit pixels that OpenCV cannot decode")
  pixels = cv2.cvtColor(pixels, cv2.COLOR_BGRA2RGBA if pixels.shape[2] == 4 else cv2.COLOR_BGR2RGB)
  # Pillow drops the lower byte. Whatever OpenCV may have made of the file besides, as of its EXIF, would show.
  seen = np.asarray(image if image.mode in ("RGB", "RGBA") else image.convert("RGBA" if image.mode == "LA" else "RGB"))
  if seen.shape[:2] != pixels.shape[:2]:
    raise ValueError("16-bit pixels that two decoders read differently")
  for row, seen_row in zip(pixels, seen, strict=True):  # of a whole photo, differences would take gigabytes
    if (np.abs((row[:, :3] >> 8).astype(np.int16) - seen_row[:, :3]) > 1).any():
      raise ValueError("16-bit pixels that two decoders read differently")
  return pixels


def _cmyk_to_srgb(image: Image.Image) -> Image.Image:
  if icc_profile := image.info.get("icc_profile"):
    with contextlib.suppress(ImageCms.PyCMSError):  # a broken profile
      srgb = ImageCms.createProfile("sRGB")
      converted = ImageCms.profileToProfile(image, io.BytesIO(icc_profile), srgb, outputMode="RGB")
      converted.info = {name: value for name, value in image.info.items() if name != "icc_profile"}
      return converted
  converted = image.convert("RGB")
  converted.info.pop("icc_profile", None)
  return converted


def _upright(channels: np.ndarray, orientation: int) -> np.ndarray:
  """Undoes an EXIF orientation: it says which sides of the picture the file's first row and first column show."""
  if orientation in _ORIENTATIONS_ON_THE_SIDE:
    channels = channels.swapaxes(0, 1)
  if orientation in (3, 4, 7, 8):
    channels = channels[::-1]
  if orientation in (2, 3, 6, 7):
    channels = channels[:, ::-1]
  return channels


def _channels_to_write(photo: Photo, image_format: str) -> np.ndarray:
  """Returns [H, W, 1 to 4] gray or RGB, with alpha behind, as the format can hold it."""
  alpha = photo.alpha if image_format in _FORMATS_WITH_ALPHA else None
  deep = photo.pixels.dtype != np.uint8 and image_format in _FORMATS_WITH_16_BITS
  dtype = np.dtype(np.uint16 if deep else np.uint8)
  gray = photo.gray and not (deep and alpha is not None)
  channels = as_type(photo.pixels[..., :1] if gray else photo.pixels, dtype)
  if alpha is not None:
    channels = np.dstack([channels, as_type(alpha, dtype, linear=True)])
  return np.ascontiguousarray(channels)


def _write_exr(path: Path, photo: Photo) -> None:
  """Linear light: floating point of the photo's own primaries, where they are known, all else of sRGB's."""
  pixels, kind = photo.pixels, np.dtype(np.float32)
  if pixels.dtype != kind and photo.icc_profile is not None and not photo.gray:
    pixels = _in_srgb(pixels, photo.icc_profile)
  colours = as_type(pixels, kind)
  alpha = None if photo.alpha is None else as_type(photo.alpha, kind, linear=True)
  if alpha is not None:
    colours = np.where(alpha[..., None] > 0, colours * alpha[..., None], colours)
  half = photo.half if photo.pixels.dtype == kind else photo.pixels.dtype == np.uint8
  places = photo.chromaticities if photo.pixels.dtype == kind else None
  write_exr(path, ExrPicture(colours[..., 0] if photo.gray else colours, alpha, places, half))


def _in_srgb(pixels: np.ndarray, icc_profile: bytes) -> np.ndarray:
  """Integers `[H, W, 3]` in the colours of a profile as sRGB's, of 16 bits only where both are the same.

  Raises:
    ValueError: 16 bits, which Pillow cannot convert, of a profile that changes them.
    ImageCms.PyCMSError: a broken profile, or one that is not of RGB.
  """
  profile, srgb = ImageCms.ImageCmsProfile(io.BytesIO(icc_profile)), ImageCms.createProfile("sRGB")
  if pixels.dtype == np.uint8:
    return np.asarray(ImageCms.profileToProfile(Image.fromarray(np.ascontiguousarray(pixels)), profile, srgb))
  levels = np.uint8(np.meshgrid(*[range(0, 256, 17)] * 3)).reshape(3, 1, -1).transpose(1, 2, 0)
  shown = np.asarray(ImageCms.profileToProfile(Image.fromarray(levels), profile, srgb))
  if np.abs(shown.astype(int) - levels).max() > _SAME_LEVELS:
    raise ValueError("its colours are not those of sRGB but of another ICC profile; convert it to sRGB first")
  return pixels


def _encode_with_pillow(channels: np.ndarray, photo: Photo, image_format: str, quality: int) -> memoryview:
  """Into memory, as Pillow takes no notice of a disk that fills up while it writes to a file."""
  options = {}
  if photo.icc_profile:
    options["icc_profile"] = photo.icc_profile
  if photo.exif and not (image_format == "JPEG" and len(photo.exif) > _LONGEST_JPEG_EXIF):
    options["exif"] = photo.exif
  if photo.dpi and image_format in ("JPEG", "PNG"):
    options["dpi"] = photo.dpi
  if photo.xmp and image_format == "PNG":
    options["pnginfo"] = PngInfo()
    options["pnginfo"].add_itxt(_PNG_XMP, photo.xmp.decode(errors="replace"))
  elif photo.xmp and not (image_format == "JPEG" and len(photo.xmp) > _LONGEST_JPEG_XMP):
    options["xmp"] = photo.xmp
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


def _encode_16_bit_png(channels: np.ndarray, photo: Photo) -> np.ndarray | bytes:
  """Through OpenCV, as Pillow writes 16 bits only of gray."""
  if channels.shape[2] > 1:
    channels = cv2.cvtColor(channels, cv2.COLOR_RGBA2BGRA if channels.shape[2] == 4 else cv2.COLOR_RGB2BGR)
  metadata = {}
  if photo.icc_profile:
    metadata[cv2.IMAGE_METADATA_ICCP] = np.frombuffer(photo.icc_profile, np.uint8)
  if photo.exif:
    metadata[cv2.IMAGE_METADATA_EXIF] = np.frombuffer(photo.exif.removeprefix(_EXIF_PREFIX), np.uint8)
  if photo.xmp:
    metadata[cv2.IMAGE_METADATA_XMP] = np.frombuffer(photo.xmp, np.uint8)
  written, data = cv2.imencodeWithMetadata(".png", channels, list(metadata), list(metadata.values()))
  if not written:
    raise ValueError("OpenCV refuses")
  if photo.dpi is None:
    return data
  chunk = b"pHYs" + struct.pack(">IIB", *(round(number / _METRES_PER_INCH) for number in photo.dpi), 1)
  header = 33  # the signature and IHDR, behind which it may stand
  content = data.tobytes()
  return content[:header] + struct.pack(">I", 9) + chunk + struct.pack(">I", zlib.crc32(chunk)) + content[header:]


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
  if photo.dpi:
    directory[ExifTags.Base.XResolution], directory[ExifTags.Base.YResolution] = photo.dpi
    directory[ExifTags.Base.ResolutionUnit] = 2  # inch
  if photo.xmp:
    directory[ExifTags.Base.XMLPacket] = photo.xmp
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
