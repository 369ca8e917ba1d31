"""The latitude-longitude map of directions: where a panorama's pixels lie, and what it shows in a direction.

A panorama is what a viewer at the subject sees: its centre lies behind the subject, straight into the scene (+y),
columns run to the viewer's right (the right quarter is image right, both edges are the camera's side), the top row is
up. Axes are those of `dpr_jax.light.sh`.
"""

import numpy as np

from dpr_jax.base.native_libraries import import_native


def pixel_directions(height: int, width: int) -> np.ndarray:
  """The unit directions `[H, W, 3]`, float64, to the centres of a panorama's pixels."""
  edges = _row_edges(height)
  elevation = ((edges[:-1] + edges[1:]) / 2)[:, None]
  longitude = (np.arange(width) + 0.5) / width * 2 * np.pi - np.pi
  level, up = np.cos(elevation), np.broadcast_to(np.sin(elevation), (height, width))
  return np.stack([level * np.sin(longitude), level * np.cos(longitude), up], axis=-1)


def pixel_solid_angles(height: int, width: int) -> np.ndarray:
  """The solid angles of a panorama's pixels in steradians, `[H, W]` float64, exact."""
  edges = _row_edges(height)
  # The integral of cos(elevation) over each row.
  of_row = (np.sin(edges[:-1]) - np.sin(edges[1:])) * (2 * np.pi / width)
  return np.broadcast_to(of_row[:, None], (height, width))


def _row_edges(height: int) -> np.ndarray:
  """The elevations in radians between which the rows lie, `[H + 1]`, from the top down."""
  return np.pi / 2 - np.linspace(0, np.pi, height + 1)


def look_up(panorama: np.ndarray, towards: np.ndarray) -> np.ndarray:
  """What a panorama shows in directions, linearly between its pixels.

  Args:
    panorama: `[H, W, C]`.
    towards: directions of any length, `[h, w, 3]`.

  Returns:
    `[h, w, C]`.
  """
  cv2 = import_native("cv2")
  longitude = np.arctan2(towards[..., 0], towards[..., 1])
  elevation = np.arctan2(towards[..., 2], np.hypot(towards[..., 0], towards[..., 1]))
  height, width = panorama.shape[:2]
  column = (longitude / (2 * np.pi) + 0.5) * width - 0.5
  row = (0.5 - elevation / np.pi) * height - 0.5
  # Cubic weights would leave black rings around lamps.
  return cv2.remap(
    panorama, column.astype(np.float32), row.astype(np.float32), cv2.INTER_LINEAR, borderMode=cv2.BORDER_WRAP
  )
