"""Who finds the faces of a photo.

There are two finders. MediaPipe's (`dpr_jax.portrait.mediapipe_faces`) is the more precise one; it needs the package
`mediapipe` and its model file. The embedded one (`dpr_jax.portrait.embedded_faces`) needs nothing that this package
does not bring.
"""

import sys

import numpy as np

from dpr_jax.base.assets import asset_path_within
from dpr_jax.base.errors import BadInput
from dpr_jax.base.native_libraries import MissingSystemLibrary, is_installed
from dpr_jax.portrait.faces import Face, FaceFinder

FACE_FINDERS = ("embedded", "mediapipe")
_FETCH_SECONDS = 5
_LOST = "landmarks are more precise, most of all on heads turned by up to 45 degrees"

_default: str | None = None  # which finder this process takes where none is named


def open_face_finder(name: str | None = None) -> FaceFinder:
  """Opens a face finder.

  Where none is named, MediaPipe's is taken if its package is installed and its model lies in a folder of `DPR_ASSETS`
  or in the cache, or can be fetched within five seconds. Otherwise the embedded one is taken, and one line on stderr
  says so and why. This is decided once in a process; other processes that work on the same thing have to be given the
  `name` of the finder. A fetch that failed is remembered in the cache folder, in `face_landmarker.task.not-fetched`,
  and not tried again for a day, so that a network that drops packets costs its seconds once.

  Args:
    name: one of `FACE_FINDERS`, or None: chosen as above.

  Raises:
    BadInput: an unknown name; or MediaPipe was named, and its package or its model is missing.
    MissingSystemLibrary: MediaPipe was named, and its own library cannot be loaded.
  """
  name = name or _default
  if name is None:
    return _decide() or open_face_finder("embedded")
  if name == "mediapipe":
    from dpr_jax.portrait.mediapipe_faces import MediaPipeFaceFinder

    return MediaPipeFaceFinder()
  if name == "embedded":
    from dpr_jax.portrait.embedded_faces import EmbeddedFaceFinder

    return EmbeddedFaceFinder()
  raise _unknown(name)


def choose_face_finder(name: str | None = None) -> str:
  """The name of the finder that `open_face_finder(name)` opens, to be given to other processes.

  Raises:
    BadInput: as `open_face_finder`.
  """
  if name == "mediapipe":
    from dpr_jax.portrait.mediapipe_faces import check_mediapipe

    check_mediapipe()
  elif name is None and _default is None:
    if finder := _decide():
      finder.close()
  elif name not in (None, *FACE_FINDERS):
    raise _unknown(name)
  chosen = name or _default
  assert chosen is not None  # `_decide` saw to it
  return chosen


def _decide() -> FaceFinder | None:
  """Decides which finder this process takes where none is named. Returns MediaPipe's, opened, if it is that one."""
  global _default
  try:
    if not is_installed("mediapipe"):
      raise BadInput('the package mediapipe is not installed (pip install -e ".[mediapipe]")')
    asset_path_within("face-landmarker", _FETCH_SECONDS)
    finder = open_face_finder("mediapipe")
  except (BadInput, MissingSystemLibrary) as error:
    print(f"face finder: embedded, for {error}. MediaPipe's {_LOST}", file=sys.stderr)
    _default = "embedded"
    return None
  _default = "mediapipe"
  return finder


def _unknown(name: str) -> BadInput:
  return BadInput(f"--face_finder {name}: must be one of {', '.join(FACE_FINDERS)}")


def find_faces(pixels: np.ndarray, face_finder: str | None = None) -> list[Face]:
  """`FaceFinder.find` for a single photo, by the finder of that name."""
  with open_face_finder(face_finder) as finder:
    return finder.find(pixels)
