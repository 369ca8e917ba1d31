"""What a PNG, HEIC or AVIF says of its colours without an ICC profile, and a profile that says the same.

Sources: PNG 3rd edition (gAMA, cHRM, sRGB, cICP and which of them counts), ISO/IEC 14496-12 (boxes, colr)
and 23008-12 (items and their properties), ITU-T H.273 (the numbers of cICP and colr), ICC.1:2022 (profiles), Lindbloom
(Bradford adaptation).
"""

import io
import struct
from collections.abc import Iterator, Sequence
from typing import BinaryIO, NamedTuple

import numpy as np

_D65 = (0.3127, 0.3290)
_SRGB = ((0.64, 0.33), (0.30, 0.60), (0.15, 0.06))
# By their numbers in H.273: red, green, blue; all of white D65.
_PRIMARIES = {
  1: _SRGB,
  5: ((0.64, 0.33), (0.29, 0.60), (0.15, 0.06)),
  6: ((0.630, 0.340), (0.310, 0.595), (0.155, 0.070)),
  7: ((0.630, 0.340), (0.310, 0.595), (0.155, 0.070)),
  9: ((0.708, 0.292), (0.170, 0.797), (0.131, 0.046)),
  12: ((0.680, 0.320), (0.265, 0.690), (0.150, 0.060)),
}
_UNSPECIFIED = 2
_SRGB_CURVE = 13
_HDR_CURVES = {16: "PQ", 18: "HLG"}
_POWERS = {4: 2.2, 5: 2.8, 8: 1.0}
# Cameras' curves. Screens show such pictures with about the curve of sRGB.
_VIDEO_CURVES = (1, 6, 14, 15)
_SAME_POWER = 0.02  # by which a power of 1/2.2 may differ and still be meant for sRGB's curve
_SAME_PLACE = 0.002  # of chromaticities
_MOST_PROPERTIES = 2**20  # bytes of a HEIC or AVIF, at whose beginning its properties lie


class ColorTags(NamedTuple):
  """What a picture says of its colours.

  Attributes:
    power: to which values must be raised to become linear; None where they have sRGB's curve.
    primaries: chromaticities of red, green, blue and white, `[4, 2]`; None where they are sRGB's.
  """

  power: float | None = None
  primaries: np.ndarray | None = None


def png_color_tags(file: BinaryIO, info: dict) -> ColorTags | None:
  """The colours of a PNG that are not in a profile; None where its profile, or sRGB, holds.

  Args:
    file: the PNG; its place is not kept.
    info: what Pillow found in it.

  Raises:
    ValueError: high dynamic range, or colours that no table names.
  """
  if (code := _cicp(file)) is not None:
    return _of_cicp(*code)
  if "icc_profile" in info or "srgb" in info:
    return None
  gamma, places = info.get("gamma"), info.get("chromaticity")
  power = None
  if gamma and 0.1 <= gamma <= 10 and abs(gamma * 2.2 - 1) > _SAME_POWER:
    power = 1 / gamma
  primaries = None
  if places is not None and len(places) == 8:
    white, *colours = np.reshape(np.float64(places), (4, 2))
    given = np.array([*colours, white])
    if np.abs(given - [*_SRGB, _D65]).max() > _SAME_PLACE and _is_gamut(given):
      primaries = given
  return None if power is None and primaries is None else ColorTags(power, primaries)


def _cicp(file: BinaryIO) -> tuple[int, int, int] | None:
  file.seek(8)
  while len(head := file.read(8)) == 8:
    length, name = struct.unpack(">I4s", head)
    if name == b"cICP":
      data = file.read(4)
      return (data[0], data[1], data[2]) if length == 4 and len(data) == 4 else None
    if name in (b"IDAT", b"IEND"):
      return None
    file.seek(length + 4, 1)
  return None


def heif_color_tags(file: BinaryIO, info: dict) -> ColorTags | None:
  """The colours of a HEIC or AVIF that are not in a profile; None where its profile, or sRGB, holds.

  Args:
    file: the HEIC or AVIF; its place is not kept.
    info: what Pillow found in it.

  Raises:
    ValueError: high dynamic range, or colours that no table names.
  """
  if "icc_profile" in info:
    return None
  file.seek(0)
  meta = _box(file.read(_MOST_PROPERTIES), b"meta")[4:]  # a version and flags
  known = list(_boxes(_box(_box(meta, b"iprp"), b"ipco")))
  properties_of = _properties_of_items(_box(meta, b"iprp"))
  for item in _primary_items(meta):
    for place in properties_of.get(item, ()):
      box, inner = known[place - 1] if 0 < place <= len(known) else (b"", b"")
      if box == b"colr" and inner[:4] == b"nclx" and len(inner) >= 8:
        return _of_h273(*struct.unpack_from(">HH", inner, 4), "colr")
  return None


def _primary_items(meta: bytes) -> list[int]:
  """The item that is the picture, and the tiles of which it is made."""
  box = io.BytesIO(_box(meta, b"pitm"))
  primary = _number(box, 2 if _version(box) == 0 else 4)
  references = io.BytesIO(_box(meta, b"iref"))
  size = 2 if _version(references) == 0 else 4
  for name, inner in _boxes(references.read()):
    reference = io.BytesIO(inner)
    if name == b"dimg" and _number(reference, size) == primary:
      return [primary, *(_number(reference, size) for _ in range(_number(reference, 2)))]
  return [primary]


def _properties_of_items(iprp: bytes) -> dict[int, list[int]]:
  """The places of an item's properties, counted from 1."""
  properties: dict[int, list[int]] = {}
  for name, inner in _boxes(iprp):
    if name != b"ipma":
      continue
    box = io.BytesIO(inner)
    version, flags = _number(box, 1), _number(box, 3)
    size = 2 if flags & 1 else 1
    essential = 1 << (8 * size - 1)
    for _ in range(min(_number(box, 4), len(inner))):
      places = properties.setdefault(_number(box, 2 if version == 0 else 4), [])
      places.extend(_number(box, size) % essential for _ in range(_number(box, 1)))
  return properties


def _version(box: BinaryIO) -> int:
  """Of a box that has one, which its flags follow."""
  return _number(box, 4) >> 24


def _number(box: BinaryIO, size: int) -> int:
  return int.from_bytes(box.read(size), "big")  # 0 behind the end


def _box(content: bytes, name: bytes) -> bytes:
  """The content of the first one of a name; nothing if there is none."""
  return next((inner for box, inner in _boxes(content) if box == name), b"")


def _boxes(content: bytes) -> Iterator[tuple[bytes, bytes]]:
  """The name and the content of each."""
  place = 0
  while place + 8 <= len(content):
    length, name = struct.unpack_from(">I4s", content, place)
    head = 8
    if length == 1 and place + 16 <= len(content):  # the length follows, as it needs 64 bits
      (length,), head = struct.unpack_from(">Q", content, place + 8), 16
    elif length == 0:  # to the end
      length = len(content) - place
    if length < head:
      return
    yield name, content[place + head : place + length]
    place += length


def _of_cicp(primaries: int, curve: int, matrix: int) -> ColorTags | None:
  if matrix not in (0, _UNSPECIFIED):
    raise ValueError(f"its cICP tag says that it is no RGB (matrix {matrix})")
  return _of_h273(primaries, curve, "cICP")


def _of_h273(primaries: int, curve: int, tag: str) -> ColorTags | None:
  if curve in _HDR_CURVES:
    raise ValueError(f"high dynamic range ({_HDR_CURVES[curve]} by its {tag} tag); convert it to SDR first")
  if curve not in (_SRGB_CURVE, _UNSPECIFIED, *_POWERS, *_VIDEO_CURVES):
    raise ValueError(f"its {tag} tag names a curve that is not known here ({curve})")
  if primaries not in (*_PRIMARIES, _UNSPECIFIED):
    raise ValueError(f"its {tag} tag names primaries that are not known here ({primaries})")
  colours = _PRIMARIES.get(primaries, _SRGB)
  given = None if colours == _SRGB else np.array([*colours, _D65])
  tags = ColorTags(_POWERS.get(curve), given)
  return None if tags.power is None and given is None else tags


def _is_gamut(primaries: np.ndarray) -> bool:
  return bool((primaries[:, 1] > 0.01).all() and abs(np.linalg.det(_xyz(primaries[:3]).T)) > 1e-3)


def to_srgb_curve(values: np.ndarray, power: float) -> np.ndarray:
  """Encoded values, uint8 or uint16, of a picture of another curve, as sRGB's curve encodes the same light."""
  most = np.iinfo(values.dtype).max
  linear = (np.arange(most + 1) / most) ** power
  encoded = np.where(linear <= 0.0031308, 12.92 * linear, 1.055 * linear ** (1 / 2.4) - 0.055)
  return np.rint(most * encoded).astype(values.dtype)[values]


def _xyz(places: np.ndarray) -> np.ndarray:
  """Chromaticities `[..., 2]` as XYZ of Y = 1, `[..., 3]`."""
  x, y = np.moveaxis(np.asarray(places, np.float64), -1, 0)
  return np.stack([x / y, np.ones_like(x), (1 - x - y) / y], axis=-1)


def rgb_profile_of(places: Sequence[float]) -> bytes | None:
  """`rgb_profile` of x and y of red, green, blue and white, one after another; None where they are sRGB's, or none."""
  given = np.reshape(np.float64(places), (4, 2))
  is_srgb = np.abs(given - [*_SRGB, _D65]).max() <= _SAME_PLACE
  return None if is_srgb or not _is_gamut(given) else rgb_profile(given)


def rgb_profile(primaries: np.ndarray) -> bytes:
  """An ICC profile (version 4) of sRGB's curve and the given primaries.

  Args:
    primaries: chromaticities of red, green, blue and white, `[4, 2]`.
  """
  white, d50 = _xyz(primaries[3]), np.array([0.9642, 1.0, 0.8249])
  bradford = np.array([[0.8951, 0.2664, -0.1614], [-0.7502, 1.7135, 0.0367], [0.0389, -0.0685, 1.0296]])
  adaptation = np.linalg.inv(bradford) @ np.diag((bradford @ d50) / (bradford @ white)) @ bradford
  colours = _xyz(primaries[:3]).T
  colours = adaptation @ (colours * np.linalg.solve(colours, white))

  def fixed(numbers) -> bytes:
    return struct.pack(f">{np.size(numbers)}i", *np.rint(np.ravel(numbers) * 65536).astype(int))

  def text(words: str) -> bytes:
    return (
      b"mluc"
      + struct.pack(">5I", 0, 1, 12, 0x656E5553, 2 * len(words))
      + struct.pack(">I", 28)
      + words.encode("utf-16-be")
    )

  curve = b"para" + struct.pack(">IHH", 0, 3, 0) + fixed([2.4, 1 / 1.055, 0.055 / 1.055, 1 / 12.92, 0.04045])
  tags = {
    b"desc": text("RGB as the picture says"),
    b"cprt": text("No copyright, use freely"),
    b"wtpt": b"XYZ \0\0\0\0" + fixed(d50),
    b"chad": b"sf32\0\0\0\0" + fixed(adaptation),
  }
  for name, column in zip("rgb", colours.T, strict=True):
    tags[f"{name}XYZ".encode()] = b"XYZ \0\0\0\0" + fixed(column)
    tags[f"{name}TRC".encode()] = curve
  table, data, start = struct.pack(">I", len(tags)), b"", 132 + 12 * len(tags)
  for name, content in tags.items():
    table += struct.pack(">4sII", name, start + len(data), len(content))
    data += content + b"\0" * (-len(content) % 4)
  kind, date = (b"mntr", b"RGB ", b"XYZ "), (2026, 1, 1, 0, 0, 0)
  header = struct.pack(">I4sI4s4s4s6H4s", start + len(data), b"", 0x04300000, *kind, *date, b"acsp")
  header = header.ljust(68, b"\0") + fixed(d50)
  return header.ljust(128, b"\0") + table + data
