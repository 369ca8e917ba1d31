"""The folder of a server's own in which lie what people upload and what is made of it: its limits, and whose it is."""

import contextlib
import os
import secrets
import shutil
import stat
import tempfile
import threading
import time
from collections.abc import Iterator
from pathlib import Path

import filelock

from dpr_jax.base.errors import BadInput

KEPT_SECONDS = 3600  # of files that nobody uses

_PREFIX = "dpr_jax_app_"
_LOCK_SUFFIX = ".lock"
_SAFE_SECONDS = 60  # of files that may be in use just now
_TIDY_SECONDS = 5  # between two looks at the whole folder, where nobody needs room
_FINISH_SECONDS = 60  # for those who are at work here when the server ends
_REMOVE_SECONDS = 5


class UploadFolder:
  """A folder for the files of strangers; every method may be called by many threads. `opened` makes one.

  Attributes:
    path: where it is, without symbolic links.
    closing: whether the server that it belongs to is about to end, so that what fails now is nobody's concern.
  """

  def __init__(self, path: Path, max_bytes: int):
    self.closing = False
    self.path = path.resolve()
    self._users, self._changed = 0, threading.Condition()
    self._max_bytes, self._reserved = max_bytes, 0
    self._kept: frozenset[Path] = frozenset()
    self._lock, self._tidied = threading.Lock(), 0.0

  def accept(self, path: str | os.PathLike) -> Path:
    """The file that a request names, which counts as used now.

    Raises:
      BadInput: it is no regular file inside this folder, whatever links lead to it; the message does not tell whether
        there is such a file elsewhere.
    """
    with contextlib.suppress(OSError, ValueError, RuntimeError):  # too long, a zero byte in it, links in a circle
      resolved = Path(path).resolve(strict=True)
      if resolved.is_relative_to(self.path) and stat.S_ISREG(resolved.lstat().st_mode):
        os.utime(resolved)
        return resolved
    raise BadInput(f"{_shown(path)}: was not uploaded to this server, or is there no longer")

  def new_path(self, name: str) -> Path:
    """A path that nobody can guess, for a file to be made."""
    self.make_room(0)
    path = self.path / secrets.token_hex(16) / name
    path.parent.mkdir()
    return path

  @contextlib.contextmanager
  def used(self) -> Iterator[None]:
    """The folder stays while the block runs: whatever reads or writes here does so inside of one.

    Raises:
      BadInput: the server ends.
    """
    with self._changed:
      if self.closing:
        raise BadInput("this server stops")
      self._users += 1
    try:
      yield
    finally:
      with self._changed:
        self._users -= 1
        self._changed.notify_all()

  def close(self) -> None:
    """Nobody begins to use the folder any more, and those who do have come to their end, or are beyond patience."""
    with self._changed:
      self.closing = True
      self._changed.wait_for(lambda: not self._users, _FINISH_SECONDS)

  def keep_all(self) -> None:
    """What lies here now stays until the end."""
    self._kept = frozenset(path for path, _ in self._files())

  @contextlib.contextmanager
  def reserved(self, count: int) -> Iterator[None]:
    """Room for `count` bytes that somebody is about to send.

    Raises:
      BadInput: there is none, even without all that is not in use.
    """
    self.make_room(count)
    try:
      yield
    finally:
      with self._lock:
        self._reserved -= count

  def make_room(self, count: int) -> None:
    """Removes what nobody has used for an hour, and then the least recently used, until `count` bytes more fit.

    Files that were used a minute ago stay. The room counts as taken until `reserved` ends.

    Raises:
      BadInput: they do not fit.
    """
    with self._lock:
      now = time.time()
      if not count and now - self._tidied < _TIDY_SECONDS:
        return
      self._tidied = now
      files = sorted(
        ((status.st_mtime, status.st_size, path) for path, status in self._files() if path not in self._kept),
      )
      taken = sum(size for _, size, _ in files) + self._reserved + count
      for used, size, path in files:
        if used > now - _SAFE_SECONDS or (used > now - KEPT_SECONDS and taken <= self._max_bytes):
          break
        with contextlib.suppress(OSError):
          path.unlink()
          taken -= size
          path.parent.rmdir()  # where it was the last
      if count and taken > self._max_bytes:
        raise BadInput(f"too much has been uploaded to this server; try again in {_SAFE_SECONDS} seconds")
      self._reserved += count

  def _files(self) -> Iterator[tuple[Path, os.stat_result]]:
    for folder, _, names in os.walk(self.path):
      for name in names:
        path = Path(folder, name)
        with contextlib.suppress(OSError):
          status = path.lstat()
          if stat.S_ISREG(status.st_mode):
            yield path, status


@contextlib.contextmanager
def opened(max_bytes: int) -> Iterator[UploadFolder]:
  """A new folder among the system's temporary files, which is gone afterwards.

  Those of servers that were killed are removed first: a folder is theirs if nobody holds its lock.

  Args:
    max_bytes: that all its files may have together.
  """
  parent = Path(tempfile.gettempdir())
  _sweep(parent)
  lock = filelock.FileLock(parent / f"{_PREFIX}{secrets.token_hex(8)}{_LOCK_SUFFIX}", mode=0o600)
  with lock:
    path = Path(lock.lock_file).with_suffix("")
    path.mkdir(mode=0o700)
    folder = UploadFolder(path, max_bytes)
    try:
      yield folder
    finally:
      folder.close()
      _remove(path, Path(lock.lock_file))


def _sweep(parent: Path) -> None:
  for note in parent.glob(f"{_PREFIX}*{_LOCK_SUFFIX}"):
    with contextlib.suppress(OSError, filelock.Timeout):
      status = note.lstat()
      if not stat.S_ISREG(status.st_mode) or (hasattr(os, "getuid") and status.st_uid != os.getuid()):
        continue
      with filelock.FileLock(note, timeout=0):
        _remove(note.with_suffix(""), note)


def _remove(folder: Path, note: Path) -> None:
  """Removes a folder, and then the file whose lock says whose it is: by what is left, the next server knows what to do.

  Somebody may still be writing there, and makes a removal fail that has passed the place.
  """
  until = time.monotonic() + _REMOVE_SECONDS
  while os.path.lexists(folder) and not folder.is_symlink():
    shutil.rmtree(folder, ignore_errors=True)
    if time.monotonic() > until:
      return
    time.sleep(0.01)
  with contextlib.suppress(OSError):
    note.unlink()


def _shown(path: object) -> str:
  """The name of a file as a stranger wrote it, short and in one line."""
  name = str(path).replace("\\", "/").rpartition("/")[2]
  return "".join(letter if letter.isprintable() else "?" for letter in name)[:80] or "the file"
