"""What a fitted face says about every pixel of a photo: the one thing all sources of normals hand on."""

import enum
from typing import NamedTuple

import numpy as np


class Label(enum.IntEnum):
  """What a pixel shows."""

  BACKGROUND = 0
  SKIN = 1  # what the source light is fitted on
  FEATURE = 2  # eyes, brows, lips, the open mouth: part of the face, of another albedo
  EAR = 3
  NECK = 4


class FaceMaps(NamedTuple):
  """A face rendered into its photo's pixels.

  Attributes:
    normal: `[H, W, 3]` float32 unit normals in the axes of `dpr_jax.light.sh` (x right, y into the scene, z up: a
      normal that faces the camera is (0, -1, 0)); zero where `label` is BACKGROUND.
    label: `[H, W]` uint8 of `Label`.
    landmarks: `[K, 2]` float64, where the rendered face has the landmarks `detected` in the photo: x and y in pixels,
      with integers at pixel centres.
    detected: `[K, 2]` float64, the same landmarks as a detector sees them in the photo: the handles of ARAP.
    depth: `[H, W]` float32, height towards the viewer in pixels, above a plane of any distance; -inf where
      `label` is BACKGROUND.
  """

  normal: np.ndarray
  label: np.ndarray
  landmarks: np.ndarray
  detected: np.ndarray
  depth: np.ndarray
