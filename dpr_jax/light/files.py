"""Lights as files of numbers: whatever people save nine or 27 numbers as."""

import contextlib
import io
import math
import os
import re
import stat

import numpy as np

from dpr_jax.base.errors import BadInput
from dpr_jax.base.input_files import numpy_silenced

_MOST_BYTES = 2**16
_COMMENT = re.compile(r"(#|%|//).*")
# The time that the patterns take grows with the length of the text, not with its square, whatever stands in it.
_BLOCK_COMMENT = re.compile(r"/\*.*?(?:\*/|\Z)", re.DOTALL)
# The name of a variable, or of the one key of JSON.
_NAME = re.compile(r"[\"']?(?<![A-Za-z_])[A-Za-z_][\w \[\]]{0,99}[\"']?\s*[:=]")
_MINUS = "\N{MINUS SIGN}"
_WORDS = re.compile(
  r"\b(?:(?:np|numpy)\.)?(?:array|asarray)\b|\b(?:dtype\s*=\s*)?(?:(?:np|numpy)\.)?float\d*\b|\bvec3\b|(?<=[\d.])[fF]\b"
)
_DECIMAL_COMMA = re.compile(r"[-+]?\d+(,\d+)?([eE][-+]?\d+)?")
_COUNTS = (9, 27)
_DARKEST, _BRIGHTEST = 1e-3, 5.0  # first numbers of lights that networks know are about 1
# Of light that is nowhere negative, a number of the first band is at most 1.73 times the first one, of the second 2.24
# times (the maxima of spherical harmonics). Estimated lights go a little beyond.
_LARGEST_BY_FIRST = 3.0


def read_coefficients(path: str | os.PathLike) -> np.ndarray:
  """A file of SH numbers, in whatever convention they are: `[9]` float32, or `[3, 9]`, red, green, blue.

  Text in UTF-8, UTF-16 or Windows' code page, or `.npy`. Numbers may stand between commas, semicolons and brackets,
  behind the name of a variable or the one key of JSON, and have a decimal comma where that is clear; what follows `#`,
  `%` or `//`, or stands between `/*` and `*/`, is a comment. Coloured lights may be three times nine
  numbers, nine lines of three, or 27 in one row or column if their values tell which of both they are.

  Raises:
    BadInput: it cannot be read, or holds neither 9 nor 27 finite numbers, or 27 in an order that cannot be told.
  """
  numbers, rows = _read(path)
  if numbers.size not in _COUNTS:
    raise BadInput(f"{path}: has {numbers.size} numbers; a light file holds 9, or 27 (9 each of red, green, blue)")
  if not np.isfinite(numbers).all():
    raise BadInput(f"{path}: has numbers that are not finite")
  if numbers.size == 9:
    return numbers
  if rows == [3] * 9:  # nine lines of red, green, blue
    return numbers.reshape(9, 3).T
  if rows == [9] * 3:
    return numbers.reshape(3, 9)
  by_colour, by_coefficient = numbers.reshape(3, 9), numbers.reshape(9, 3).T
  likely = [order for order in (by_colour, by_coefficient) if why_no_light(order) is None]
  if len(likely) == 2:
    # The colours of a light differ less than its coefficients do.
    spread = [np.abs(order - order.mean(axis=0)).sum() for order in likely]
    if max(spread) > 2 * min(spread):
      likely = [likely[int(np.argmin(spread))]]
  if len(likely) != 1:
    raise BadInput(
      f"{path}: 27 numbers whose order cannot be told; write three lines of nine (red, green, blue), or nine of three"
    )
  return likely[0]


def check_light(path: str | os.PathLike, numbers: np.ndarray) -> None:
  """Raises BadInput if numbers `[9]` or `[3, 9]` in our convention are no light that networks could know."""
  if reason := why_no_light(numbers):
    raise BadInput(f"{path}: no light: {reason}")


def why_no_light(numbers: np.ndarray) -> str | None:
  """What keeps numbers `[..., 9]` from being a light, or None."""
  rows = np.reshape(numbers, (-1, 9)).astype(np.float64)
  first = rows[:, 0]
  if not (first > 0).all():
    return f"its first number, the brightness, must be positive and is {first.min():g}"
  if first.max() > _BRIGHTEST:
    return f"its first number, the brightness, is {first.max():g}; those of lights are about 1, at most {_BRIGHTEST:g}"
  if first.max() < _DARKEST:
    return f"its first number, the brightness, is {first.max():g}; those of lights are about 1, at least {_DARKEST:g}"
  largest = np.abs(rows[:, 1:]).max(axis=1) / first
  if largest.max() > _LARGEST_BY_FIRST:
    return f"a number is {largest.max():.3g} times the first one, which no light can be (at most {_LARGEST_BY_FIRST:g})"
  return None


def _read(path: str | os.PathLike) -> tuple[np.ndarray, list[int]]:
  """All numbers, float32, and how many stand in each row."""
  try:
    if not stat.S_ISREG(os.stat(path).st_mode):
      raise BadInput(f"{path}: is not a file")
    with open(path, "rb") as file:
      content = file.read(_MOST_BYTES + 1)
  except FileNotFoundError:
    raise BadInput(f"{path}: no such file") from None
  except (OSError, ValueError) as error:  # ValueError: a zero byte in a name
    raise BadInput(f"{path}: cannot be read ({getattr(error, 'strerror', None) or error})") from None
  if len(content) > _MOST_BYTES:
    raise BadInput(f"{path}: has more than {_MOST_BYTES} bytes; a light file holds 9 or 27 numbers")
  if content.startswith(b"\x93NUMPY"):
    return _read_npy(path, content)
  text = _decoded(path, content)
  rows = _rows(text)
  try:
    with numpy_silenced():
      return np.array([float(word) for row in rows for word in row], np.float32), [len(row) for row in rows]
  except ValueError as error:
    raise BadInput(f"{path}: {str(error)[:80]}; a light file holds 9 or 27 numbers") from None


def _read_npy(path: str | os.PathLike, content: bytes) -> tuple[np.ndarray, list[int]]:
  try:
    stream = io.BytesIO(content)
    version = np.lib.format.read_magic(stream)
    read_header = np.lib.format.read_array_header_1_0 if version == (1, 0) else np.lib.format.read_array_header_2_0
    shape, _, dtype = read_header(stream)
    if dtype.kind not in "fiu" or math.prod(shape) not in _COUNTS:
      raise BadInput(f"{path}: an array {shape} {dtype}; a light file holds 9 or 27 numbers")
    stream.seek(0)
    with numpy_silenced():
      array = np.load(stream, allow_pickle=False).astype(np.float32)
  except BadInput:
    raise
  except Exception as error:  # NumPy's parser of headers lets many through
    raise BadInput(f"{path}: a damaged .npy file ({type(error).__name__})") from None
  rows = [size for size in array.shape if size != 1]
  return array.ravel(), [rows[1]] * rows[0] if len(rows) == 2 else [1] * array.size


def _decoded(path: str | os.PathLike, content: bytes) -> str:
  if content[:2] in (b"\xff\xfe", b"\xfe\xff"):
    encoding = "utf-16"
  elif content[1:2] == b"\0":
    encoding = "utf-16-le"
  elif content[:1] == b"\0":
    encoding = "utf-16-be"
  else:
    encoding = "utf-8-sig"
  for each in (encoding, "cp1252"):  # in which editors on Windows write comments
    with contextlib.suppress(ValueError):
      text = content.decode(each).removeprefix("\ufeff")
      if all(letter.isprintable() or letter.isspace() for letter in text):
        return text
  raise BadInput(f"{path}: cannot be read as text; a light file holds 9 or 27 numbers")


def _rows(text: str) -> list[list[str]]:
  """The words of each row: of a line, or of what inner brackets hold."""
  text = _BLOCK_COMMENT.sub("", text.replace(_MINUS, "-"))
  text = "\n".join(" ".join(_COMMENT.sub("", line).split()) for line in text.splitlines() if line.strip())
  text = _WORDS.sub(" ", _NAME.sub(" ", text, count=1))
  text = re.sub(r"[\[({][\s,;]*+[\[({]", "\n", text)  # nested brackets make rows
  text = re.sub(r"[\])}]\s*+[,;]?\s*+[\[({]", "\n", text)
  text = re.sub(r"[\[\](){}]", " ", text)
  lines = [line for line in text.splitlines() if line.replace(",", " ").replace(";", " ").split()]
  with_comma = [line.replace(";", " ").split() for line in lines]
  words = [word for row in with_comma for word in row]
  if len(words) in _COUNTS and any("," in word for word in words) and all(map(_DECIMAL_COMMA.fullmatch, words)):
    return [[word.replace(",", ".") for word in row] for row in with_comma]
  if any(";" in line for line in lines):  # rows of a matrix, as MATLAB writes them, or numbers
    parts = [part.replace(",", " ").split() for line in lines for part in line.split(";")]
    parts = [part for part in parts if part]
    if len({len(part) for part in parts}) == 1:
      return parts
  return [line.replace(",", " ").replace(";", " ").split() for line in lines]
