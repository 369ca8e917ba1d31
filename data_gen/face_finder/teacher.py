"""MediaPipe's answers on portraits: what the embedded face finder learns from (distillation: Hinton et al. 2015)."""

from collections.abc import Sequence
from pathlib import Path
from typing import NamedTuple

import numpy as np

from dpr_jax.base.errors import BadInput
from dpr_jax.image.photo import read_photo, to_8_bits
from dpr_jax.image.photo_formats import PHOTO_SUFFIXES
from dpr_jax.portrait.faces import FaceFinder
from dpr_jax.records import split_of


class LabelledPortrait(NamedTuple):
  """A portrait with one face.

  Attributes:
    pixels: `[H, W, 3]` uint8 RGB.
    points: `[478, 3]` float32, x and y in pixels from the top left corner, z towards the viewer in the same unit.
  """

  pixels: np.ndarray
  points: np.ndarray


def split_portraits(folder: Path) -> tuple[list[Path], list[Path]]:
  """The portraits of a folder to learn from, and those that `export_dataset.py` keeps out of training, too.

  Raises:
    BadInput: not a readable folder.
  """
  try:
    paths = sorted(path for path in Path(folder).iterdir() if path.suffix.lower() in PHOTO_SUFFIXES)
  except OSError as error:
    raise BadInput(f"{folder}: not a readable folder ({error.strerror})") from error
  held_out = {path for path in paths if split_of(path.name) != "train"}
  return [path for path in paths if path not in held_out], sorted(held_out)


def label_portraits(paths: Sequence[Path], finder: FaceFinder) -> list[LabelledPortrait]:
  """Asks MediaPipe about photos with one face each, and leaves out those in which it sees none or several."""
  labelled = []
  for path in paths:
    pixels = to_8_bits(read_photo(path).pixels)
    faces = finder.find(pixels)
    if len(faces) == 1:
      points = np.column_stack([faces[0].landmarks, faces[0].depth]).astype(np.float32)
      labelled.append(LabelledPortrait(pixels, points))
  return labelled
