"""Decoding the files of strangers in processes of their own, which have a deadline and so much memory and no more.

What a file's header says bounds its pixels, but not how long its decoder works on each: a JPEG may pass over them a
hundred times, and there are decoders of a dozen formats here. Whatever goes wrong in one ends its process alone.
"""

import contextlib
import dataclasses
import json
import os
import re
import signal
import subprocess
import sys
import tempfile
import threading
from collections.abc import Iterator
from pathlib import Path
from typing import Any, BinaryIO

import numpy as np

from dpr_jax.base.errors import BadInput

SECONDS = 15  # of a processor; photos of 50 megapixels and 16 bits take up to 10
MOST_BYTES = 3 * 2**30  # of address space, of which code and what is idle take 0.7 GiB
_PROCESSES = 3  # at a time
_WALL_FACTOR = 8  # seconds by the clock for each of a processor, which is shared
_LONGEST_HEAD = 2**16
_LAST_WORDS, _MOST_WORDS = 2**12, 2**20  # bytes that are looked at, and that may be printed
_NO_MEMORY = re.compile(rb"bad_alloc|(?i:out of memory|cannot allocate memory|insufficient memory)")
_DTYPES = ("uint8", "uint16", "float32")
_BYTES, _TUPLES = ("icc_profile", "exif", "xmp"), ("dpi", "chromaticities")  # fields of a photo


class Decoders:
  """Reads photos and environment maps as `read_photo` and `read_environment` do, in other processes.

  These are kept for the next file, and end with the one who made them. Every method may be called by many threads.

  Args:
    seconds: of a processor that a file may take; by the clock it is more, as processors are shared.
    most_bytes: of memory that a process may take, where the system can be told so.
  """

  def __init__(self, seconds: int = SECONDS, most_bytes: int = MOST_BYTES):
    self._seconds, self._most_bytes = seconds, most_bytes
    self._lock, self._places = threading.Lock(), threading.BoundedSemaphore(_PROCESSES)
    self._idle: list[_Decoder] = [self._start()]  # it imports while others do something else

  def close(self) -> None:
    """Ends the processes."""
    with self._lock:
      while self._idle:
        self._idle.pop().end()

  def read_photo(self, path: str | os.PathLike, max_pixels: int):
    """As `photo.read_photo`.

    Raises:
      BadInput: as `photo.read_photo`, and for a file that takes too long or too much memory.
    """
    from dpr_jax.image.photo import Photo

    values = self._ask("photo", path, max_pixels)
    values |= {name: values[name].tobytes() for name in _BYTES if values[name] is not None}
    values |= {name: tuple(values[name]) for name in _TUPLES if values[name] is not None}
    return Photo(**values)

  def read_environment(self, path: str | os.PathLike, max_pixels: int) -> np.ndarray:
    """As `environment_files.read_environment`, but that what has been mended is not said.

    Raises:
      BadInput: as `environment_files.read_environment`, and for a file that takes too long or too much memory.
    """
    return self._ask("environment", path, max_pixels)["radiance"]

  def _ask(self, kind: str, path: str | os.PathLike, max_pixels: int) -> dict[str, Any]:
    path = os.fspath(path)
    with self._places:
      with self._lock:
        decoder = self._idle.pop() if self._idle else None
      if decoder is not None and not decoder.is_running():
        decoder.end()
        decoder = None
      if decoder is None:
        decoder = self._start()
      values = decoder.ask({"kind": kind, "path": path, "max_pixels": max_pixels})
      if values is None:
        raise BadInput(f"{path}: cannot be decoded ({decoder.why_ended()})")
      with self._lock:
        self._idle.append(decoder)
    if (refusal := values.get("refusal")) is not None:
      raise BadInput(refusal)
    return values

  def _start(self) -> "_Decoder":
    return _Decoder(self._seconds, self._most_bytes)


class _Decoder:
  """One process, asked by one thread at a time."""

  def __init__(self, seconds: int, most_bytes: int):
    self._seconds, self._most_bytes, self._is_late = seconds, most_bytes, False
    self._said = tempfile.TemporaryFile()  # noqa: SIM115 - what libraries have to say of files; closed by `end`
    folders = [str(Path(__file__).parents[2]), os.environ.get("PYTHONPATH", "")]
    self._process = subprocess.Popen(
      [sys.executable, "-m", "dpr_jax.image.decoder_process", str(seconds), str(most_bytes)],
      stdin=subprocess.PIPE,
      stdout=subprocess.PIPE,
      stderr=self._said,
      env=os.environ | {"PYTHONPATH": os.pathsep.join(filter(None, folders)), "OMP_NUM_THREADS": "1"},
      start_new_session=True,  # Ctrl-C is for whoever asks
    )

  def is_running(self) -> bool:
    return self._process.poll() is None

  def ask(self, request: dict[str, Any]) -> dict[str, Any] | None:
    """What it answers, or None: it has ended instead."""
    deadline = threading.Timer(_WALL_FACTOR * self._seconds, self._be_late)
    deadline.start()
    try:
      self._said.seek(0)  # its place is the process's as well
      self._said.truncate()  # what was said of earlier files tells nothing of this one
      self._process.stdin.write(json.dumps(request).encode() + b"\n")
      self._process.stdin.flush()
      return _receive(self._process.stdout)
    except (OSError, ValueError, KeyError, TypeError):
      self.end()
      return None
    except BaseException:
      self.end()
      raise
    finally:
      deadline.cancel()

  def _be_late(self) -> None:
    self._is_late = True
    self._process.kill()

  def why_ended(self) -> str:
    if self._is_late or self._process.returncode == -getattr(signal, "SIGXCPU", 0):
      return f"it takes more than {self._seconds} seconds"
    # The system kills who has too much; native code that gets none says so, or dies of it as of anything else.
    if self._process.returncode == -getattr(signal, "SIGKILL", 0) or _NO_MEMORY.search(self._last_words):
      return f"it takes more than {self._most_bytes // 2**20} MiB of memory, or than there is"
    return "it is damaged, and its decoder crashed over it"

  def end(self) -> None:
    with contextlib.suppress(OSError):
      self._process.stdin.close()
    try:
      self._process.wait(0.5)  # what ends by itself says why; one that has nothing to read ends at once
    except subprocess.TimeoutExpired:
      self._process.kill()
      self._process.wait()
    self._process.stdout.close()
    if not self._said.closed:
      self._said.seek(max(0, self._said.seek(0, os.SEEK_END) - _LAST_WORDS))
      self._last_words = self._said.read()
      self._said.close()


def _send(stream: BinaryIO, values: dict[str, Any]) -> None:
  """One line of JSON that says what follows, and the bytes of the arrays."""
  arrays = {name: np.ascontiguousarray(value) for name, value in values.items() if isinstance(value, np.ndarray)}
  head = {name: value for name, value in values.items() if name not in arrays}
  layout = [[name, array.dtype.name, array.shape] for name, array in arrays.items()]
  stream.write(json.dumps([head, layout]).encode() + b"\n")
  for array in arrays.values():
    stream.write(array.reshape(-1).view(np.uint8))
  stream.flush()


def _receive(stream: BinaryIO) -> dict[str, Any]:
  head = stream.readline(_LONGEST_HEAD)
  values, layout = json.loads(head)
  for name, dtype, shape in layout:
    if dtype not in _DTYPES:
      raise ValueError(f"pixels of {dtype}")
    values[name] = np.empty(shape, dtype)
    rest = memoryview(values[name].reshape(-1).view(np.uint8))
    while len(rest):
      count = stream.readinto(rest)
      if not count:
        raise ValueError("ends before it is complete")
      rest = rest[count:]
  return values


def _read_photo(path: str, max_pixels: int) -> dict[str, Any]:
  from dpr_jax.image.photo import read_photo

  photo = read_photo(path, max_pixels)
  values = {field.name: getattr(photo, field.name) for field in dataclasses.fields(photo)}
  return values | {name: np.frombuffer(values[name], np.uint8) for name in _BYTES if values[name] is not None}


def _read_environment(path: str, max_pixels: int) -> dict[str, Any]:
  from dpr_jax.light.environment_files import read_environment

  return {"radiance": np.asarray(read_environment(path, max_pixels, note=lambda _: None), np.float32)}


def _limit_memory(most_bytes: int) -> None:
  with contextlib.suppress(ImportError):  # Windows has none
    import resource

    # FSIZE: nothing is written but what is printed.
    for name, most in (("FSIZE", _MOST_WORDS), ("CORE", 0), ("AS", most_bytes)):
      with contextlib.suppress(AttributeError, OSError, ValueError):  # macOS heeds no AS
        resource.setrlimit(getattr(resource, f"RLIMIT_{name}"), (most, most))


@contextlib.contextmanager
def _limited_time(seconds: int) -> Iterator[None]:
  """Ends the process if the block takes more than so many seconds of a processor, and one more as they are whole."""
  try:
    import resource
  except ImportError:
    yield
    return
  usage, (_, hard) = resource.getrusage(resource.RUSAGE_SELF), resource.getrlimit(resource.RLIMIT_CPU)
  until = int(usage.ru_utime + usage.ru_stime) + 1 + seconds
  resource.setrlimit(resource.RLIMIT_CPU, (until if hard == resource.RLIM_INFINITY else min(until, hard), hard))
  yield
  resource.setrlimit(resource.RLIMIT_CPU, (hard, hard))


def _serve(seconds: int, most_bytes: int) -> None:
  """Answers requests, a line of JSON each, until there are no more."""
  replies = os.fdopen(os.dup(1), "wb")
  os.dup2(2, 1)  # what libraries print is no reply
  _limit_memory(most_bytes)
  from dpr_jax.image import photo  # noqa: F401 - before somebody waits for them
  from dpr_jax.light import environment_files  # noqa: F401 - before somebody waits for them

  readers = {"photo": _read_photo, "environment": _read_environment}
  for line in sys.stdin.buffer:
    request = json.loads(line)
    try:
      with _limited_time(seconds):
        values = readers[request["kind"]](request["path"], request["max_pixels"])
    except BadInput as error:
      values = {"refusal": str(error)}
    except MemoryError:
      values = {"refusal": f"{request['path']}: takes more memory to decode than there is"}
    _send(replies, values)
    del values  # else it is there while the next one is read


if __name__ == "__main__":
  _serve(*(int(number) for number in sys.argv[1:]))
