"""What is a photo: known by its content, in one place for all that take photos."""

import os
import re
import stat
from collections.abc import Callable
from pathlib import Path
from typing import BinaryIO, NamedTuple

from PIL.AvifImagePlugin import AvifImageFile
from PIL.BmpImagePlugin import BmpImageFile
from PIL.GifImagePlugin import GifImageFile
from PIL.ImageFile import ImageFile
from PIL.JpegImagePlugin import JpegImageFile
from PIL.PngImagePlugin import PngImageFile
from PIL.TiffImagePlugin import TiffImageFile
from PIL.WebPImagePlugin import WebPImageFile

from dpr_jax.base.errors import BadInput
from dpr_jax.base.exr_files import MAGIC

HEAD_BYTES = 512
# Under which photos usually go: only where there is no content to look at.
PHOTO_SUFFIXES = frozenset(
  {".jpg", ".jpeg", ".jpe", ".jfif", ".mpo", ".png", ".webp", ".tif", ".tiff", ".bmp", ".dib", ".gif", ".avif", ".heic"}
  | {".heif", ".hif", ".dng", ".cr2", ".cr3", ".nef", ".arw", ".raf", ".orf", ".rw2", ".pef"}
)
WRITTEN_FORMATS = {
  ".jpg": "JPEG",
  ".jpeg": "JPEG",
  ".jpe": "JPEG",
  ".jfif": "JPEG",
  ".png": "PNG",
  ".webp": "WEBP",
  ".tif": "TIFF",
  ".tiff": "TIFF",
  ".bmp": "BMP",
  ".exr": "EXR",
}


def _heif(file: BinaryIO) -> ImageFile:
  from pillow_heif import HeifImageFile  # 20 MB that only these need

  return HeifImageFile(file)


class PhotoFormat(NamedTuple):
  """A kind of photo.

  Attributes:
    name: as people call it.
    signature: a pattern of its first bytes.
    open: reads the header of an open file, where Pillow is who reads it; Pillow's own `Image.open` is not used: it
      applies a process-wide limit instead of ours, and it would try formats that call external programs.
  """

  name: str
  signature: bytes
  open: Callable[[BinaryIO], ImageFile] | None


RAW, EXR = "RAW", "EXR"
_FORMATS = (
  # Canon's, Fujifilm's, Olympus's and Panasonic's; others look like TIFF (`tiff_pixels.is_raw`).
  PhotoFormat(RAW, rb"II\*\0.{4}CR|.{4}ftypcrx |FUJIFILMCCD-RAW|IIR[OS]|MMOR|IIU\0", None),
  PhotoFormat(EXR, re.escape(MAGIC), None),
  PhotoFormat("JPEG", rb"\xff\xd8\xff", JpegImageFile),
  PhotoFormat("PNG", rb"\x89PNG\r\n\x1a\n", PngImageFile),
  PhotoFormat("WebP", rb"RIFF.{4}WEBP", WebPImageFile),
  PhotoFormat("TIFF", rb"II[*+]\0|MM\0[*+]", TiffImageFile),
  PhotoFormat("BMP", rb"BM.{12}[\x0c\x28\x38\x40\x6c\x7c]\0\0\0", BmpImageFile),
  PhotoFormat("GIF", rb"GIF8[79]a", GifImageFile),
  PhotoFormat("AVIF", rb".{4}ftyp(.{4})*?avi[fs]", AvifImageFile),
  PhotoFormat("HEIC", rb".{4}ftyp(.{4})*?(heic|heix|heim|heis|hevc|hevx|mif1|msf1)", _heif),
)
KNOWN = "JPEG, PNG, WebP, TIFF, BMP, GIF, AVIF, HEIC, EXR and RAW"


def format_of(head: bytes) -> PhotoFormat | None:
  """The kind of photo that begins with these bytes, or None."""
  if head[4:8] == b"ftyp":  # the list of brands ends with its box
    head = head[: max(int.from_bytes(head[:4], "big"), 16)]
  return next((each for each in _FORMATS if re.match(each.signature, head, re.DOTALL)), None)


def why_no_photo(path: str | os.PathLike) -> str | None:
  """Why a file cannot be a photo, or None if it begins like one; only regular files are opened."""
  try:
    status = os.stat(path)
  except OSError as error:
    return "a link to nowhere" if os.path.islink(path) else f"cannot be read ({error.strerror})"
  except ValueError:  # a zero byte in a name
    return "not the name of a file"
  if stat.S_ISDIR(status.st_mode):
    return "a folder"
  if not stat.S_ISREG(status.st_mode):
    return "not a file"
  if not status.st_size:
    return "is empty"
  try:
    with open(path, "rb") as file:
      return None if format_of(file.read(HEAD_BYTES)) else f"not a photo (known are {KNOWN})"
  except OSError as error:
    return f"cannot be read ({error.strerror})"


def is_photo(path: str | os.PathLike) -> bool:
  """Whether a file begins like a photo, whatever it is called."""
  return why_no_photo(path) is None


def sort_photos(folder: str | os.PathLike) -> tuple[list[Path], dict[Path, str]]:
  """The photos directly in a folder, by content and sorted, and of all else there why it is none.

  Hidden files are left out of both. A file that is called like a photo but is empty, cannot be read or begins like
  none counts as one: whoever reads it says what is wrong with it.

  Raises:
    BadInput: there is no such folder, it cannot be read, or it holds no photo.
  """
  folder = Path(folder)
  try:
    entries = sorted(entry for entry in folder.iterdir() if not entry.name.startswith("."))
  except OSError as error:
    raise BadInput(f"{folder}: not a readable folder ({error.strerror})") from error
  photos, others = [], {}
  for entry in entries:
    reason = why_no_photo(entry)
    if reason is None or (entry.suffix.lower() in PHOTO_SUFFIXES and os.path.isfile(entry)):
      photos.append(entry)
    else:
      others[entry] = reason
  if not photos:
    raise BadInput(f"{folder}: holds no photo (known are {KNOWN})")
  return photos, others
