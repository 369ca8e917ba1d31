"""Imports of packages that need system libraries, with a clear sentence where those are missing.

A bare container lacks the OpenGL libraries that the OpenCV and MediaPipe wheels link against, and the loader's own
message names a shared object, not the package that brings it.
"""

import importlib
from types import ModuleType

_SYSTEM_PACKAGES = {
  "cv2": "libgl1 libglib2.0-0",
  "mediapipe": "libegl1 libgles2 libgl1",
}


def import_native(name: str) -> ModuleType:
  """Imports `name`, or a submodule of it, that links against system libraries.

  Raises:
    ImportError: a shared object is missing; the message says which system packages bring it.
  """
  try:
    return importlib.import_module(name)
  except (ImportError, OSError) as error:
    if ".so" not in str(error):
      raise
    packages = _SYSTEM_PACKAGES[name.partition(".")[0]]
    raise ImportError(
      f"{name} needs a system library that is missing here ({error}); on Debian or Ubuntu: apt-get install {packages}"
    ) from error
