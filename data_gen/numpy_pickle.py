"""Pickled NumPy arrays, as old releases of other projects ship them, read without running anything from the file."""

import io
import math
import os

import numpy as np

from dpr_jax.base.errors import BadInput
from dpr_jax.base.input_files import read_bytes
from dpr_jax.base.restricted_pickle import load_pickle

_TYPES = {"f4", "f8", "i4", "i8", "u2", "u4"}
_DEEPEST = 2  # dicts in dicts
_MOST_DIMENSIONS = 32
_MOST_BYTES = 2**30


class _Notes:
  """A stand-in for an array or a dtype: what the pickle made it of, and the state it then gave it."""

  __slots__ = ("arguments", "state")

  def __init__(self, arguments):
    self.arguments, self.state = arguments, None

  def __setstate__(self, state):
    self.state = state


class _TakeNotes:
  __slots__ = ()

  def __call__(self, *arguments):
    return _Notes(arguments)


class _EncodeText:
  """Python 3 writes bytes into an old pickle as text."""

  __slots__ = ()

  def __call__(self, text, encoding):
    return text.encode("latin1")


_GLOBALS = {
  ("numpy.core.multiarray", "_reconstruct"): _TakeNotes(),
  ("numpy._core.multiarray", "_reconstruct"): _TakeNotes(),  # since NumPy 2
  ("numpy", "ndarray"): object(),
  ("numpy", "dtype"): _TakeNotes(),
  ("_codecs", "encode"): _EncodeText(),
}


def read_numpy_pickle(path: str | os.PathLike) -> object:
  """Reads a pickle of arrays, or of dicts of arrays.

  Returns:
    What was pickled, with whole arrays of plain numbers as NumPy arrays; anything else that NumPy wrote is an inert
    object, so look before use.

  Raises:
    BadInput: the file cannot be read, is truncated, or asks for code.
  """
  try:
    content = read_bytes(path, _MOST_BYTES)
  except OSError as error:
    raise BadInput(f"{path}: cannot be read ({error.strerror})") from None
  return _resolved(load_pickle(io.BytesIO(content), str(path), _GLOBALS), _DEEPEST)


def read_array(path: str | os.PathLike) -> np.ndarray:
  """Reads one pickled array.

  Raises:
    BadInput: as `read_numpy_pickle`, or the file holds something else than a whole array of plain numbers.
  """
  return _expect_array(read_numpy_pickle(path), "its content", path)


def read_arrays(path: str | os.PathLike, *names: str) -> list[np.ndarray]:
  """Reads some arrays of a pickled dict; it may hold more.

  Raises:
    BadInput: as `read_array`, or a name is missing.
  """
  pickled = read_numpy_pickle(path)
  for name in names:
    if not isinstance(pickled, dict) or name not in pickled:
      raise BadInput(f"{path}: has no {name!r}")
  return [_expect_array(pickled[name], repr(name), path) for name in names]


def _expect_array(value: object, name: str, path: str | os.PathLike) -> np.ndarray:
  if not isinstance(value, np.ndarray):
    raise BadInput(f"{path}: {name} is not a whole NumPy array of plain numbers")
  return value


def _resolved(noted: object, depth: int) -> object:
  if isinstance(noted, dict) and depth:
    return {name: _resolved(value, depth - 1) for name, value in noted.items()}
  array = _array(noted)
  return noted if array is None else array


def _array(noted: object) -> np.ndarray | None:
  match noted:
    case _Notes(
      state=(_, tuple(shape), _Notes(arguments=(str(code), *_), state=(_, "<" | ">" as order, *_)), fortran, raw)
    ) if code in _TYPES:
      dtype = np.dtype(order + code)
      raw = raw.encode("latin1", "replace") if isinstance(raw, str) else raw  # Python 2 wrote text
      whole = len(shape) <= _MOST_DIMENSIONS and all(type(length) is int and length >= 0 for length in shape)
      if whole and isinstance(raw, bytes) and len(raw) == math.prod(shape) * dtype.itemsize:
        return np.frombuffer(raw, dtype).reshape(shape, order="F" if fortran else "C")
  return None
