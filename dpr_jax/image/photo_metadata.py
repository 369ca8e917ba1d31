"""What photos say of themselves: EXIF, XMP and density, as they hold for the picture once it is upright."""

import contextlib
import re

from PIL import ExifTags, Image
from PIL.PngImagePlugin import PngImageFile
from PIL.TiffImagePlugin import TiffImageFile

EXIF_PREFIX = b"Exif\0\0"
PNG_XMP = "XML:com.adobe.xmp"

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
_LONGEST_XMP = 2**20
# Fields of XMP that say how the pixels lie: they hold for the file that is read, not for upright pixels.
_XMP_FIELDS = rb"(tiff:Orientation|tiff:ImageWidth|tiff:ImageLength|exif:PixelXDimension|exif:PixelYDimension)"


def kept_exif(source: Image.Image | Image.Exif, size: tuple[int, int]) -> bytes | None:
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


def kept_xmp(image: Image.Image, size: tuple[int, int]) -> bytes | None:
  """The XMP packet of a photo for upright pixels of a size, or None."""
  packet = image.info.get("xmp") or (image.info.get(PNG_XMP) if isinstance(image, PngImageFile) else None)
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


def density(image: Image.Image, on_its_side: bool) -> tuple[float, float] | None:
  """Pixels an inch, across and down upright pixels."""
  with contextlib.suppress(Exception):
    across, down = (float(number) for number in image.info["dpi"])
    if 2 <= across <= 1e5 and 2 <= down <= 1e5:  # Pillow makes 1 of a TIFF that says nothing
      return (down, across) if on_its_side else (across, down)
  return None
