"""Photos into files: written as the picture they are, with all that belongs to it and the format can hold."""

import io
import os
import struct
import zlib
from pathlib import Path

import numpy as np
from PIL import ExifTags, Image, ImageCms
from PIL.PngImagePlugin import PngInfo
from PIL.TiffImagePlugin import ImageFileDirectory_v2

from dpr_jax.base.errors import BadInput, reason_of
from dpr_jax.base.exr_files import ExrPicture, write_exr
from dpr_jax.base.native_libraries import import_native
from dpr_jax.base.output_files import atomic_output
from dpr_jax.image.photo import Photo, as_type
from dpr_jax.image.photo_formats import EXR, WRITTEN_FORMATS
from dpr_jax.image.photo_metadata import EXIF_PREFIX, PNG_XMP

cv2 = import_native("cv2")

_FORMATS_WITH_ALPHA = {"PNG", "WEBP", "TIFF", EXR}
_FORMATS_WITH_16_BITS = {"PNG", "TIFF"}
_LONGEST_JPEG_EXIF = 65533  # a JPEG segment's length has 16 bits and counts its own 2 bytes
_LONGEST_JPEG_XMP = 65504  # after the name of its namespace
_METRES_PER_INCH = 0.0254
_SAME_LEVELS = 2  # of 255, by which the colours of an sRGB profile may be off


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
      raise BadInput(f"{path}: cannot be written as {image_format} ({reason_of(error)})") from error
    temporary.write_bytes(data)


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
    options["pnginfo"].add_itxt(PNG_XMP, photo.xmp.decode(errors="replace"))
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
    metadata[cv2.IMAGE_METADATA_EXIF] = np.frombuffer(photo.exif.removeprefix(EXIF_PREFIX), np.uint8)
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
