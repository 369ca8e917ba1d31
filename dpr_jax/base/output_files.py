"""Output files that are either whole or absent, and places that one program fills at a time."""

import contextlib
import os
import secrets
from collections.abc import Iterator
from pathlib import Path

import filelock

from dpr_jax.base.errors import BadInput


@contextlib.contextmanager
def atomic_output(path: str | os.PathLike, overwrite: bool = False) -> Iterator[Path]:
  """Yields a path to write to, and moves what was written there to `path` when the block ends without an error.

  The yielded path does not exist yet; it is hidden, lies in the folder of `path` (which is created where missing) and
  has its suffix, for writers that choose the format by it. Where the block raises, it is removed and `path` is left as
  it was. Any number of writers may aim at one path: it always holds the whole output of one of them, without
  `overwrite` that of the first to finish.

  Args:
    path: where the output shall lie.
    overwrite: whether a file already at `path` may be replaced.

  Raises:
    BadInput: `path` exists and `overwrite` is False (found before the block runs, or at its end where another writer
      came first), `path` is a folder, or the system refuses to write there (permission, disk full). An `OSError` of the
      block that names some other file passes as it is.
  """
  path = Path(path)
  check_free(path, overwrite)
  try:
    path.parent.mkdir(parents=True, exist_ok=True)
  except OSError as error:
    raise BadInput(f"{path.parent}: cannot be made a folder ({error.strerror})") from error
  temporary = path.with_name(f".{secrets.token_hex(8)}{path.suffix}")
  try:
    yield temporary
    if overwrite:
      os.replace(temporary, path)
    else:
      _move_to_free_path(temporary, path)
  except OSError as error:
    if error.filename is not None and Path(error.filename) not in (temporary, path):
      raise
    check_free(path, overwrite)
    raise BadInput(f"{path}: cannot be written ({error.strerror or error})") from error
  finally:
    with contextlib.suppress(OSError):
      temporary.unlink()


def check_free(path: str | os.PathLike, overwrite: bool) -> None:
  """Raises BadInput if `path` is a folder, or exists without `overwrite`: ask before long work, not only after it."""
  if os.path.isdir(path):  # unlike Path.is_dir, false where the system refuses to look
    raise BadInput(f"{path}: is a folder, not a file to write to")
  if not overwrite and os.path.lexists(path):
    raise BadInput(f"{path}: exists already (--overwrite replaces it)")


@contextlib.contextmanager
def claimed(lock: Path, taken: str) -> Iterator[None]:
  """Holds a lock file for as long as the block lasts.

  The system frees it where the process is killed. Where the file system knows no locks, filelock takes the file's being
  there for the lock: what a killed process leaves of it may then have to be removed by hand.

  Args:
    lock: the file, which stays where it is as far as the system locks it.
    taken: what to say where another one holds it.

  Raises:
    BadInput: another one holds it.
    OSError: it cannot be written.
  """
  claim = filelock.FileLock(lock, timeout=0)
  try:
    claim.acquire()
  except filelock.Timeout:
    raise BadInput(taken) from None
  try:
    yield
  finally:
    claim.release()


def _move_to_free_path(temporary: Path, path: Path) -> None:
  """Moves `temporary` to `path`, where nothing may lie yet: os.replace alone would replace it silently."""
  try:
    os.link(temporary, path)
  except OSError:
    # Something lies there, or no hard links here (FAT, some network mounts): claim the name, then fill it.
    os.close(os.open(path, os.O_CREAT | os.O_EXCL | os.O_WRONLY))
    try:
      os.replace(temporary, path)
    except BaseException:
      path.unlink()
      raise
