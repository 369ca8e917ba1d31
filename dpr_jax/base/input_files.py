"""Files that are read whole: regular ones, of a size that such files have."""

import contextlib
import errno
import json
import os
import stat
import threading
import warnings
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np

NOTE_BYTES = 2**24  # of what programs note down for themselves in JSON, or people in a list


class UnfitFile(OSError):
  """A file that is not read; `strerror` says why, as the system's own errors do."""


def check_regular(path: str | os.PathLike) -> None:
  """Raises OSError unless there is a regular file: reading another may wait for ever, or never come to an end."""
  mode = os.stat(path).st_mode
  if stat.S_ISDIR(mode):
    raise IsADirectoryError(errno.EISDIR, os.strerror(errno.EISDIR))
  if not stat.S_ISREG(mode):
    raise UnfitFile(None, "it is not a file")


def read_bytes(path: str | os.PathLike, most: int = NOTE_BYTES) -> bytes:
  """The content of a file of at most so many bytes.

  Raises:
    OSError: it cannot be read, is no regular file, or has more.
  """
  check_regular(path)
  with Path(path).open("rb") as file:
    content = file.read(most + 1)
  if len(content) > most:
    raise UnfitFile(None, f"it has more than {most} bytes")
  return content


def read_text(path: str | os.PathLike, most: int = NOTE_BYTES, encoding: str = "utf-8") -> str:
  """As `read_bytes`, decoded.

  Raises:
    OSError: as `read_bytes`.
    ValueError: it is no such text.
  """
  return read_bytes(path, most).decode(encoding)


_alone = threading.RLock()  # which warnings are shown is a matter of the whole process


@contextlib.contextmanager
def numpy_silenced() -> Iterator[None]:
  """Keeps NumPy from warning of what a file holds: a header that Python 2 wrote, numbers that float32 does not.

  Numbers that are too large become infinite, NaNs that signal quiet ones; whoever reads a file refuses them as such.
  One thread at a time.
  """
  with _alone, warnings.catch_warnings(), np.errstate(over="ignore", invalid="ignore"):
    warnings.simplefilter("ignore", UserWarning)
    yield


def read_json(path: str | os.PathLike) -> Any:
  """What a small file of JSON in UTF-8 holds.

  Raises:
    OSError: as `read_bytes`.
    ValueError: it is no JSON, or nested without end.
  """
  try:
    return json.loads(read_text(path))
  except RecursionError:
    raise ValueError("it is nested too deeply") from None
