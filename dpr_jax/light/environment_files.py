"""Environment maps as files: Radiance and OpenEXR, as cameras, renderers and stitchers write them.

Sizes are taken from the headers as decoders read them, before memory is. Sources: Greg Ward's `color.c` and "Real
Pixels".
"""

import os
import re
import sys
from collections.abc import Callable
from pathlib import Path

import numpy as np

from dpr_jax.base.errors import BadInput, one_line
from dpr_jax.base.exr_files import LARGEST_HALF, MAGIC, read_exr
from dpr_jax.base.native_libraries import import_native

ENVIRONMENT_SUFFIXES = (".hdr", ".exr", ".pic")  # .pic is Radiance's, too
MAX_PIXELS = 2**27
_HEADER_BYTES = 2**16
_LONGEST_RUN_LENGTH_SIDE = 32767  # of scanlines that are coded channel by channel
_MOST_STRAY = 0.01  # of pixels that are no numbers, or of light that is negative: more is no accident
# Beyond so many pixels a file must be as large as pictures are, which do not repeat one pixel for ever.
_PIXELS_OF_ANY_FILE, _PIXELS_A_BYTE = 2**25, 2
_ASPECTS = (1.9, 2.1)  # of latitude-longitude, 2:1

_SIZE_LINE = re.compile(rb"([-+])([XY]) +(\d{1,6}) +([-+])([XY]) +(\d{1,6})[ \r]*\n")


def read_environment(
  path: str | os.PathLike, max_pixels: int = MAX_PIXELS, note: Callable[[str], None] | None = None
) -> np.ndarray:
  """A `.hdr` or `.exr` environment map as linear radiance, float32, `[H, W, 3]` RGB or `[H, W]`.

  Radiance files may begin at any corner and along either axis, and be flat or run-length encoded in the old or new way.
  Of EXR the data window is put into the display window, black around it. Stray pixels that are not finite or negative
  are mended.

  Args:
    path: the file, of either kind whatever it is called.
    max_pixels: the most pixels to decode; the header is asked before. The default holds 16,384 x 8,192.
    note: is given a line on what has been mended; None: it goes to stderr.

  Raises:
    BadInput: it cannot be read, has more than `max_pixels`, holds more than stray values that are negative or not
      finite, or is no latitude-longitude map: neither cube crosses nor angular maps are.
  """
  path = os.fspath(path)
  if not os.path.isfile(path):
    raise BadInput(f"{path}: no such file")
  try:
    with open(path, "rb") as file:
      head = file.read(4)
  except OSError as error:
    raise BadInput(f"{path}: cannot be read ({error.strerror})") from None
  is_exr = head == MAGIC or (head[:2] != b"#?" and Path(path).suffix.lower() == ".exr")
  panorama = _read_exr(path, max_pixels) if is_exr else _read_hdr(path, max_pixels)
  _check_layout(path, *panorama.shape[1::-1])
  return _mended(path, panorama, note or _to_stderr)


def _to_stderr(line: str) -> None:
  print(one_line(line), file=sys.stderr)


def _check_layout(path: str, width: int, height: int) -> None:
  aspect = width / height
  if _ASPECTS[0] <= aspect <= _ASPECTS[1]:
    return
  shapes = {3 / 4: "a vertical cross of a cube", 4 / 3: "a horizontal cross of a cube", 6: "a strip of cube faces"}
  shapes |= {1: "an angular map or mirror ball", 1 / 6: shapes[6]}
  shape = next((name for ratio, name in shapes.items() if abs(aspect / ratio - 1) < 0.01), "a part of the sphere")
  raise BadInput(
    f"{path}: {width} x {height} pixels, perhaps {shape}: not a latitude-longitude map, which is twice as wide as high;"
    " convert it to one"
  )


def _mended(path: str, panorama: np.ndarray, note: Callable[[str], None]) -> np.ndarray:
  finite = np.isfinite(panorama)
  count = panorama.size - np.count_nonzero(finite)
  one_pixel = panorama.size // (panorama.shape[0] * panorama.shape[1])
  if count > max(_MOST_STRAY * panorama.size, one_pixel):
    raise BadInput(f"{path}: the environment map has {count} values that are not finite")
  if count:
    most = max(float(panorama.max(where=finite, initial=0)), 0.0)
    brightest = LARGEST_HALF if most <= LARGEST_HALF else most
    panorama = np.nan_to_num(panorama, nan=0.0, posinf=brightest, neginf=0.0)
    note(f"{path}: {count} values of the environment map are not finite; taken as 0, infinite ones as {brightest:g}")
  if (lowest := panorama.min()) < 0:
    negative = panorama < 0
    dark = -float(panorama.sum(where=negative, dtype=np.float64))
    if dark > _MOST_STRAY * float(panorama.sum(where=~negative, dtype=np.float64)):
      raise BadInput(f"{path}: the environment map has negative values (down to {lowest:g}), more than stray ones")
    note(f"{path}: {np.count_nonzero(negative)} values of the environment map are negative; taken as 0")
    panorama = np.maximum(panorama, 0)
  return panorama


def _check_size(path: str, width: int, height: int, max_pixels: int) -> None:
  if width * height > max_pixels:
    raise BadInput(f"{path}: {width} x {height} pixels are more than the {max_pixels} allowed")
  if not (width and height):
    raise BadInput(f"{path}: {width} x {height} pixels")
  size = os.path.getsize(path)
  if width * height > max(_PIXELS_OF_ANY_FILE, _PIXELS_A_BYTE * size):
    raise BadInput(f"{path}: {width} x {height} pixels in {size} bytes are more than such a map can have")


def _read_hdr(path: str, max_pixels: int) -> np.ndarray:
  damaged = BadInput(f"{path}: not a Radiance HDR file, or a damaged one")
  with open(path, "rb") as file:
    head = file.read(_HEADER_BYTES)
    # The header ends with an empty line; the size is the line behind it, and nothing in the header is.
    blank = re.search(rb"\n\r?\n", head)
    size = _SIZE_LINE.match(head, blank.end()) if blank else None
    if head[:2] != b"#?" or size is None or size[2] == size[5]:
      raise damaged
    if re.search(rb"^FORMAT=\s*32-bit_rle_xyze", head[: blank.end()], re.MULTILINE):
      raise BadInput(f"{path}: its colours are XYZ; convert it to RGB (ra_xyze -r)")
    lines, length = int(size[3]), int(size[6])
    width, height = (length, lines) if size[2] == b"Y" else (lines, length)
    _check_size(path, width, height, max_pixels)
    file.seek(size.end())
    # What scanlines take at most; whatever follows is none.
    coded = np.frombuffer(file.read(lines * (8 + 8 * length)), np.uint8)
  if _is_run_length_encoded(coded, length):
    panorama = _run_length_decoded(coded, lines, length)
  else:
    panorama = _old_decoded(coded, lines * length)
  if panorama is None:
    raise damaged
  panorama = panorama.reshape(lines, length, 3)
  if size[2] == b"X":
    panorama = panorama.swapaxes(0, 1)
  signs = {size[2]: size[1], size[5]: size[4]}
  return panorama[:: 1 if signs[b"Y"] == b"-" else -1, :: 1 if signs[b"X"] == b"+" else -1]


def _is_run_length_encoded(coded: np.ndarray, length: int) -> bool:
  head = coded[:4].tolist()
  return 8 <= length <= _LONGEST_RUN_LENGTH_SIDE and head == [2, 2, length >> 8, length & 255]


def _run_length_decoded(coded: np.ndarray, lines: int, length: int) -> np.ndarray | None:
  """By OpenCV, under a header that says no more than the size that has been checked."""
  header = f"#?RADIANCE\nFORMAT=32-bit_rle_rgbe\n\n-Y {lines} +X {length}\n".encode()
  content = np.concatenate([np.frombuffer(header, np.uint8), coded])
  panorama = import_native("cv2").imdecode(content, -1)
  return panorama[..., ::-1] if panorama is not None and panorama.shape == (lines, length, 3) else None


def _old_decoded(coded: np.ndarray, count: int) -> np.ndarray | None:
  """`[count, 3]` of pixels one after another, in which 1, 1, 1, n repeats the last one n times.

  Of several such in a row the first has the lowest eight bits of the number, the second the next, and so on.
  """
  rgbe = coded[: len(coded) // 4 * 4].reshape(-1, 4)[:count]
  repeats = (rgbe[:, :3] == 1).all(axis=1)
  if repeats.any():
    place = np.arange(len(rgbe))
    last = np.maximum.accumulate(np.where(repeats, -1, place))
    rank = place - last - 1  # of a repetition within its row
    if last[0] < 0 or (rank[repeats] > 3).any():
      return None
    times = np.where(repeats, rgbe[:, 3].astype(np.int64) << np.maximum(8 * rank, 0), 1)
    ends = np.cumsum(times)
    whole = int(np.searchsorted(ends, count)) + 1
    if whole > len(rgbe) or ends[whole - 1] != count:
      return None
    rgbe = np.repeat(rgbe[last[:whole]], times[:whole], axis=0)
  if len(rgbe) != count:
    return None
  scale = np.ldexp(np.float32(1), rgbe[:, 3].astype(np.int32) - 136) * (rgbe[:, 3] > 0)
  return rgbe[:, :3] * scale[:, None].astype(np.float32)


def _read_exr(path: str, max_pixels: int) -> np.ndarray:
  return read_exr(
    path, lambda width, height: _check_size(path, width, height, max_pixels), max_pixels, "an environment map"
  ).colours
