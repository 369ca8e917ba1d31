"""Packages in native code: a clear sentence where a system library is missing, and silence where they would talk.

A bare container lacks the OpenGL libraries that the OpenCV and MediaPipe wheels link against, and the loader's own
message names a shared object, not the package that brings it.
"""

import contextlib
import importlib
import importlib.util
import io
import os
import sys
import threading
from collections.abc import Iterator
from types import ModuleType

_SYSTEM_PACKAGES = {
  "cv2": "libgl1 libglib2.0-0",
  "mediapipe": "libegl1 libgles2 libgl1",
}


_silence = threading.RLock()
_alone = threading.RLock()  # of what is hidden from an import, other threads must see nothing twice


class MissingSystemLibrary(ImportError):
  """A shared object that no Python package brings is not on this system; the message says what installs it."""


def is_installed(package: str) -> bool:
  """Whether a package can be imported, without importing it."""
  try:
    return importlib.util.find_spec(package) is not None
  except ValueError:  # somebody has put a stand-in into sys.modules
    return package in sys.modules and sys.modules[package] is not None


def import_native(name: str) -> ModuleType:
  """Imports `name`, or a submodule of it, that links against system libraries.

  Raises:
    MissingSystemLibrary: a shared object cannot be loaded.
  """
  try:
    if name.startswith("mediapipe"):
      with _alone, _hidden("tensorflow"), _postponed("matplotlib.pyplot"):
        module = importlib.import_module(name)
    else:
      module = importlib.import_module(name)
  except (ImportError, OSError) as error:
    if ".so" not in str(error):
      raise
    raise missing_system_library(name, error) from error
  if name == "cv2":
    module.utils.logging.setLogLevel(module.utils.logging.LOG_LEVEL_SILENT)  # what it cannot read, we say
  return module


@contextlib.contextmanager
def native_log_silenced() -> Iterator[None]:
  """Keeps what native code prints from the user's terminal; its errors arrive as exceptions. One thread at a time.

  What Python prints is kept back too: a library's own binding may.
  """
  with _silence, contextlib.ExitStack() as stack:
    try:
      saved = os.dup(2)
    except OSError:  # stderr is closed: nothing to silence
      yield
      return
    stack.callback(os.close, saved)
    with open(os.devnull, "wb") as devnull:
      os.dup2(devnull.fileno(), 2)
    stack.callback(os.dup2, saved, 2)
    stack.enter_context(contextlib.redirect_stdout(io.StringIO()))
    yield


@contextlib.contextmanager
def _hidden(name: str) -> Iterator[None]:
  """Makes a package that nobody has imported yet look as if it were not installed.

  MediaPipe imports TensorFlow, where there is one, for a writer of files that nothing here needs: that costs seconds,
  half a gigabyte, and lines on the user's terminal.
  """
  if name in sys.modules:
    yield
    return
  sys.modules[name] = None  # type: ignore[assignment]
  try:
    yield
  finally:
    del sys.modules[name]


@contextlib.contextmanager
def _postponed(name: str) -> Iterator[None]:
  """Lets a submodule that nobody has imported yet be imported in name alone, until something of it is asked for.

  MediaPipe imports Matplotlib for drawings that nothing here makes: that costs a second.
  """
  package = name.partition(".")[0]
  if package in sys.modules:
    yield
    return
  sys.modules[package], sys.modules[name] = ModuleType(package), _Postponed(name)
  try:
    yield
  finally:
    del sys.modules[package], sys.modules[name]


class _Postponed(ModuleType):
  """A module that is imported when the first of its attributes is asked for."""

  def __getattr__(self, attribute: str):
    if attribute.startswith("__"):  # what the import itself looks for
      raise AttributeError(attribute)
    return getattr(importlib.import_module(self.__name__), attribute)


def missing_system_library(name: str, error: Exception) -> MissingSystemLibrary:
  """The clear sentence for a loader error that package `name` met (MediaPipe loads its library on first use)."""
  package = name.partition(".")[0]
  return MissingSystemLibrary(
    f"{package} needs a system library that is missing here ({error}); "
    f"on Debian or Ubuntu: apt-get install {_SYSTEM_PACKAGES[package]}"
  )
