"""The pixels of the photos that Pillow opens, with the help of OpenCV where a PNG has 16 bits a channel and colour."""

import contextlib
import io
import re
import struct
import threading
from typing import BinaryIO, NamedTuple

import numpy as np
from PIL import ExifTags, Image, ImageCms
from PIL.ImageFile import ImageFile
from PIL.JpegImagePlugin import JpegImageFile
from PIL.TiffImagePlugin import TiffImageFile

from dpr_jax.base.native_libraries import import_native, native_log_silenced

cv2 = import_native("cv2")

# Of a progressive JPEG: cameras and encoders write about ten, at most 16. Each passes over the whole picture, so that
# of a large one more of them are refused earlier.
_MOST_SCANS, _USUAL_SCANS, _MOST_SCANNED_PIXELS = 100, 16, 2**28

_pillow_limit_lock = threading.Lock()


class PillowPixels(NamedTuple):
  """The pixels of a photo as they lie in its file.

  Attributes:
    channels: `[H, W, C]` uint8 or uint16: gray or RGB, perhaps with alpha behind.
    gray: whether the photo has one channel besides alpha.
    transparent: whether the photo has alpha.
    orientation: of EXIF, 1 to 8.
    image: which holds whatever else is in the file.
  """

  channels: np.ndarray
  gray: bool
  transparent: bool
  orientation: int
  image: Image.Image


def decode(image: ImageFile, file: BinaryIO) -> PillowPixels:
  """Decodes a photo.

  Args:
    image: as Pillow has opened it.
    file: what it was opened from.

  Raises:
    ValueError: 32 bits a channel, a progressive JPEG of too many scans, or what OpenCV cannot decode.
    Exception: nearly any, of damaged files.
  """
  if isinstance(image, JpegImageFile) and image.info.get("progressive"):
    _check_scans(file, image.width * image.height)
  # Pillow reads 16-bit colour as 8 bits (gray it keeps), which only this raw mode, gone after loading, betrays.
  raw_mode = _raw_mode(image)
  load(image)  # in full, so that a truncated file is noticed: OpenCV would fill the rest with gray
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
  return PillowPixels(channels, gray, transparent, orientation, image)


def _as_mode(image: Image.Image, mode: str, raw_mode: str) -> np.ndarray:
  """Pixels `[H, W, C]` uint8 in one of Pillow's modes."""
  key = image.info.get("transparency")
  if image.mode in ("1", "L") and mode == "LA" and isinstance(key, int):  # the key is in the file's own few bits
    levels = {"L;2": 3, "L;4": 15}.get(raw_mode, 255)  # of one bit Pillow has widened it
    pixels = np.asarray(image.convert("L"))
    return np.dstack([pixels, np.where(pixels == key * 255 // levels, 0, np.uint8(255))])
  return np.atleast_3d(np.asarray(image if image.mode == mode else image.convert(mode)))


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


def load(image: ImageFile) -> None:
  """Loads the pixels; of TIFF (alone) Pillow compares their number with its own process-wide limit once more."""
  if isinstance(image, TiffImageFile):
    with _pillow_limit_lock:
      limit, Image.MAX_IMAGE_PIXELS = Image.MAX_IMAGE_PIXELS, None
      try:
        image.load_prepare()
      finally:
        Image.MAX_IMAGE_PIXELS = limit
  image.load()


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
