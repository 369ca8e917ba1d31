"""MediaPipe's image segmenter: person or not, in 256 x 256 pixels. Needs the extra `mediapipe`."""

import threading
from pathlib import Path

import numpy as np

from dpr_jax.base.native_libraries import import_native, missing_system_library, native_log_silenced
from dpr_jax.portrait.mediapipe_faces import quiet

cv2 = import_native("cv2")

_SIDE = 256


class MediaPipeSegmenter:
  """An image segmenter, held open for many pictures; see `person.Segmenter`.

  Attributes:
    name: of the model's file.

  Raises:
    MissingSystemLibrary: MediaPipe's own library cannot be loaded.
  """

  def __init__(self, model: Path):
    """Loads a model of one class (person) or of several (of which the first is background)."""
    self.name = model.stem
    self._mediapipe, self._lock = import_native("mediapipe"), threading.Lock()
    tasks = import_native("mediapipe.tasks.python")
    options = tasks.vision.ImageSegmenterOptions(
      base_options=tasks.BaseOptions(model_asset_path=str(model)), output_confidence_masks=True
    )
    with native_log_silenced():
      try:
        self._segmenter = tasks.vision.ImageSegmenter.create_from_options(options)
        self._segmenter.__class__ = quiet(type(self._segmenter))
      except OSError as error:
        raise missing_system_library("mediapipe", error) from error
      self.people(np.zeros((_SIDE, _SIDE, 3), np.uint8))  # its parts start, and speak, with the first picture

  def people(self, picture: np.ndarray) -> np.ndarray:
    """How likely each pixel of `[h, w, 3]` uint8 RGB shows a person, `[256, 256]` float32 in [0, 1], stretched."""
    # MediaPipe's own enlarging shows blocks, so it gets the picture as its network sees it.
    small = np.ascontiguousarray(cv2.resize(picture, (_SIDE, _SIDE), interpolation=cv2.INTER_AREA))
    image = self._mediapipe.Image(image_format=self._mediapipe.ImageFormat.SRGB, data=small)
    with self._lock:
      found = self._segmenter.segment(image).confidence_masks
      masks = [mask.numpy_view().reshape(_SIDE, _SIDE) for mask in found]
      return np.array(masks[0] if len(masks) == 1 else 1 - masks[0], np.float32)

  def close(self) -> None:
    """Frees the model."""
    self._segmenter.close()
