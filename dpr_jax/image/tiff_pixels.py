"""The pixels of gray and RGB TIFF files of 8 or 16 bits, whatever their layout.

Pillow reads 16-bit colour as 8 bits, and neither it nor OpenCV minds every planar configuration and photometric
interpretation. But Pillow's decompressors and its reading of plain gray are sound. So a file is given to it as gray
pictures: chunky samples as one of so many times the width, planes as a picture each. Differencing (the predictor, which
reaches from a sample to the same of the next pixel) is undone here.

Sources: TIFF 6.0, sections 8, 14, 15 and 18; the BigTIFF specification.
"""

import io
import struct
from typing import NamedTuple

import numpy as np
from PIL.TiffImagePlugin import TiffImageFile

_KIND, _WIDTH, _HEIGHT, _BITS, _COMPRESSION, _PHOTOMETRIC = 254, 256, 257, 258, 259, 262
_STRIP_OFFSETS, _ORIENTATION, _SAMPLES, _STRIP_BYTES, _PLANAR = 273, 274, 277, 279, 284
_OTHERS, _DNG_VERSION = 330, 50706
_PREDICTOR, _TILE_WIDTH, _TILE_OFFSETS, _TILE_BYTES, _EXTRA_SAMPLES, _SAMPLE_FORMAT = 317, 322, 324, 325, 338, 339
# Those in which a strip of three samples a pixel is one of one sample and three times the width.
_COMPRESSIONS = {1: "none", 5: "LZW", 8: "deflate", 32773: "PackBits", 32946: "deflate", 34925: "LZMA", 50000: "ZSTD"}
_WHITE_IS_ZERO, _BLACK_IS_ZERO, _RGB = 0, 1, 2
_PREMULTIPLIED, _ALPHA = 1, 2  # of ExtraSamples
_MOST_SAMPLES = 8
_MOST_ENTRIES = 1000
_TYPE_BYTES = {1: 1, 3: 2, 4: 4, 13: 4, 16: 8}
_TYPE_CODES = {1: "B", 3: "H", 4: "I", 13: "I", 16: "Q"}


class _Entry(NamedTuple):
  """Of a directory: the type of its values, their number, and its last bytes, which hold the values or their place."""

  kind: int
  count: int
  value: bytes


class _Directory:
  """The first directory of a TIFF file in memory."""

  def __init__(self, content: bytes):
    self._content = content
    self._order = {b"II": "<", b"MM": ">"}[content[:2]]
    self._big = self._number("H", 2) == 43
    self._word, self._length = ("Q", "Q") if self._big else ("I", "H")
    start = self._number(self._word, 8 if self._big else 4)
    count = self._number(self._length, start)
    if count > _MOST_ENTRIES:
      raise ValueError(f"a directory of {count} entries")
    size, start = 20 if self._big else 12, start + struct.calcsize(self._length)
    self.entries: dict[int, _Entry] = {}
    for place in range(start, start + count * size, size):
      tag, kind, number = struct.unpack_from(f"{self._order}HH{self._word}", content, place)
      self.entries.setdefault(tag, _Entry(kind, number, content[place + size - (8 if self._big else 4) : place + size]))

  def _number(self, code: str, place: int) -> int:
    return struct.unpack_from(self._order + code, self._content, place)[0]

  def values(self, tag: int, default: tuple[int, ...] = ()) -> tuple[int, ...]:
    """The whole numbers of an entry."""
    if tag not in self.entries:
      return default
    kind, count, value = self.entries[tag]
    if kind not in _TYPE_BYTES or count * _TYPE_BYTES[kind] > len(self._content):
      raise ValueError(f"an unreadable TIFF tag {tag}")
    layout = f"{self._order}{count}{_TYPE_CODES[kind]}"
    if struct.calcsize(layout) <= len(value):
      return struct.unpack_from(layout, value)
    return struct.unpack_from(layout, self._content, struct.unpack(self._order + self._word, value)[0])

  def value(self, tag: int, default: int | None = None) -> int:
    """The one number of an entry."""
    values = self.values(tag, () if default is None else (default,))
    if not values:
      raise ValueError(f"no TIFF tag {tag}")
    return values[0]

  def with_changes(self, changes: dict[int, tuple[int, ...] | None]) -> bytes:
    """The file with some entries of its first directory set to other numbers, or taken away (None).

    Pillow does not know the big-endian BigTIFF, of which a classic TIFF is made; what other directories hold is lost.
    """
    classic = self._big and self._order == ">"
    word, length, kind = ("I", "H", 4) if classic else (self._word, self._length, 16 if self._big else 4)
    kept = {tag: entry for tag, entry in self.entries.items() if tag not in changes}
    written = {tag: (kind, numbers) for tag, numbers in changes.items() if numbers is not None}
    if classic:
      written |= {tag: (4, self.values(tag)) for tag, entry in kept.items() if entry.kind in (3, 4, 13, 16)}
      written |= {tag: (entry.kind, self._bytes(tag)) for tag, entry in kept.items() if entry.kind in (1, 2, 7)}
      kept = {}
    content = self._content + b"\0" * (len(self._content) % 2)
    appended = bytearray()
    for tag, (kind_of_entry, numbers) in written.items():
      code = _TYPE_CODES.get(kind_of_entry, "B")
      value = struct.pack(f"{self._order}{len(numbers)}{code}", *numbers)
      if len(value) > struct.calcsize(word):
        place = len(content) + len(appended)
        appended += value + b"\0" * (len(value) % 2)
        value = struct.pack(self._order + word, place)
      kept[tag] = _Entry(kind_of_entry, len(numbers), value.ljust(struct.calcsize(word), b"\0"))
    place = len(content) + len(appended)
    appended += struct.pack(self._order + length, len(kept))
    for tag, (kind_of_entry, count, value) in sorted(kept.items()):
      appended += struct.pack(f"{self._order}HH{word}", tag, kind_of_entry, count) + value
    appended += struct.pack(self._order + word, 0)
    head = content[:2] + struct.pack(f"{self._order}H", 42) if classic else content[: 8 if self._big else 4]
    head += struct.pack(self._order + word, place)
    return head + content[len(head) :] + bytes(appended)

  def _bytes(self, tag: int) -> bytes:
    """The values of an entry of single bytes."""
    _, count, value = self.entries[tag]
    if count <= len(value):
      return value[:count]
    place = struct.unpack(self._order + self._word, value)[0]
    return self._content[place : place + count]


def is_raw(content: bytes) -> bool:
  """Whether a TIFF file is a camera's RAW photo: a DNG, or one that begins with a small picture of another.

  May raise on damaged ones.
  """
  tags = _Directory(content)
  return _DNG_VERSION in tags.entries or bool(_OTHERS in tags.entries and tags.value(_KIND, 0) & 1)


class TiffPixels:
  """A TIFF file of gray or RGB with whole numbers of 8 or 16 bits.

  Attributes:
    size: width and height.
    gray: whether it has one channel, and perhaps alpha.
    orientation: that the pixels still need, as EXIF counts, 1 to 8.
    file: the same file, gray of three times the width or whatever it takes, with all else that it says: for what
      belongs to the picture.
  """

  def __init__(self, content: bytes):
    """Reads the header.

    Raises:
      ValueError: a layout that has no plain meaning as gray or RGB; or damage, which may raise others too.
    """
    tags = self._tags = _Directory(content)
    self.size = tags.value(_WIDTH), tags.value(_HEIGHT)
    self._samples = tags.value(_SAMPLES, 1)
    self._photometric = tags.value(_PHOTOMETRIC)
    self.gray = self._photometric != _RGB
    self.orientation = tags.value(_ORIENTATION, 1)
    bits = tags.values(_BITS, (1,))
    self._bits = bits[0]
    colours = 1 if self.gray else 3
    self._extra = tags.values(_EXTRA_SAMPLES) if self._samples > colours else ()
    self._planar = tags.value(_PLANAR, 1) == 2 and self._samples > 1
    self._predictor = tags.value(_PREDICTOR, 1)
    compression = tags.value(_COMPRESSION, 1)
    if set(bits) != {self._bits} or self._bits not in (8, 16):
      raise ValueError(f"{'/'.join(map(str, bits[:4]))} bits a channel")
    if any(form != 1 for form in tags.values(_SAMPLE_FORMAT, (1,))):
      raise ValueError(f"{self._bits}-bit numbers that are signed or floating point")
    if not colours <= self._samples <= _MOST_SAMPLES:
      raise ValueError(f"{self._samples} samples a pixel")
    if compression not in _COMPRESSIONS:
      raise ValueError(f"{self._bits}-bit pixels under TIFF compression {compression}")
    if self._predictor not in (1, 2):
      raise ValueError(f"whole numbers under TIFF predictor {self._predictor}")
    self.file = self._as_gray()

  @staticmethod
  def fits(content: bytes) -> bool:
    """Whether a file is for this reader: gray or RGB of more than 4 bits, not lossy. May raise on damaged ones."""
    tags = _Directory(content)
    return (
      tags.value(_PHOTOMETRIC, -1) in (_WHITE_IS_ZERO, _BLACK_IS_ZERO, _RGB)
      and max(tags.values(_BITS, (1,))) > 4
      and not (tags.value(_COMPRESSION, 1) not in _COMPRESSIONS and tags.value(_BITS, 1) == 8)
    )

  @property
  def has_alpha(self) -> bool:
    """Whether the first sample beside the colours is opacity."""
    return self._extra[:1] in ((_PREMULTIPLIED,), (_ALPHA,))

  def _as_gray(self, plane: int = 0) -> bytes:
    """The file with one sample a pixel: all of them side by side, or one of its planes."""
    changes: dict[int, tuple[int, ...] | None] = {
      _SAMPLES: (1,),
      _BITS: (self._bits,),
      _PHOTOMETRIC: (_BLACK_IS_ZERO,),
      _PLANAR: (1,),
      _PREDICTOR: (1,),
      _EXTRA_SAMPLES: None,
      _SAMPLE_FORMAT: None,
      _ORIENTATION: None,  # by which Pillow would turn the pixels, samples and all
    }
    if self._planar:
      for tag in (_STRIP_OFFSETS, _STRIP_BYTES, _TILE_OFFSETS, _TILE_BYTES):
        if places := self._tags.values(tag):
          count, rest = divmod(len(places), self._samples)
          if rest:
            raise ValueError(f"{len(places)} strips or tiles for {self._samples} planes")
          changes[tag] = places[plane * count : (plane + 1) * count]
    else:
      changes[_WIDTH] = (self.size[0] * self._samples,)
      if _TILE_WIDTH in self._tags.entries:
        changes[_TILE_WIDTH] = (self._tags.value(_TILE_WIDTH) * self._samples,)
    return self._tags.with_changes(changes)

  def decode(self, load) -> np.ndarray:
    """The pixels `[H, W, C]` uint8 or uint16: gray or RGB, with alpha behind where the file has it, not multiplied.

    Args:
      load: takes a `TiffImageFile` and loads its pixels, in full or not at all.
    """
    planes = range(self._samples if self._planar else 1)
    pictures = [self._load(self.file if plane == 0 else self._as_gray(plane), load) for plane in planes]
    width, height = self.size
    samples = np.stack(pictures, axis=-1) if self._planar else pictures[0].reshape(height, width, self._samples)
    if self._predictor == 2:
      samples = self._undone(samples)
    colours = samples[..., : 1 if self.gray else 3]
    if self._photometric == _WHITE_IS_ZERO:
      colours = ~colours
    if not self.has_alpha:
      return np.ascontiguousarray(colours)
    alpha = samples[..., colours.shape[2], None]
    if self._extra[0] == _PREMULTIPLIED:
      white = np.iinfo(samples.dtype).max
      colours = np.minimum(colours, alpha).astype(np.uint32) * white + alpha // 2
      colours = (colours // np.maximum(alpha, 1)).astype(samples.dtype)
    return np.concatenate([colours, alpha], axis=2)

  def _load(self, content: bytes, load) -> np.ndarray:
    with TiffImageFile(io.BytesIO(content)) as image:
      if image.mode != "L" and not image.mode.startswith("I;16"):
        raise ValueError(f"gray pixels that Pillow reads as {image.mode}")
      load(image)
      return np.asarray(image).astype(np.uint8 if self._bits == 8 else np.uint16)

  def _undone(self, samples: np.ndarray) -> np.ndarray:
    """Sums of differences along the rows, in each tile for itself."""
    width = samples.shape[1]
    step = self._tags.value(_TILE_WIDTH, width)
    parts = [np.cumsum(samples[:, x : x + step], axis=1, dtype=samples.dtype) for x in range(0, width, max(step, 1))]
    return np.concatenate(parts, axis=1)
