"""How a head is turned and seen: rotation, camera, and the place of points in the picture."""

from typing import NamedTuple

import numpy as np

# The point that a head turns about, in the morphable head's cm.
MIDDLE = np.array([0.0, 1.0, 4.0])
# The point that MediaPipe counts depth from. This and the next were measured by `data_gen.heads.registration`.
DEPTH_ORIGIN = np.array([0.0, 0.0, 9.7])
# Turns the morphable head's axes to those of MediaPipe's canonical face: degrees of pitch.
_FRONTAL_PITCH = -2.1


class Camera(NamedTuple):
  """A camera that looks along -z at the origin.

  Attributes:
    distance: from the origin in cm; infinite for an orthographic picture.
    scale: pixels per cm at the origin.
    centre: `[2]`, x and y in pixels of the origin's image, from the picture's top left corner.
  """

  distance: float
  scale: float
  centre: tuple[float, float]

  def project(self, points: np.ndarray) -> np.ndarray:
    """Points `[N, 3]` in cm (x right, y up, z towards the camera) -> x, y, z in pixels (y down, z towards it)."""
    x, y, z = points.T
    enlargement = self.scale / (1 - z / self.distance)
    return np.stack([x * enlargement + self.centre[0], self.centre[1] - y * enlargement, z * self.scale], axis=1)


def rotation(yaw: float, pitch: float, roll: float) -> np.ndarray:
  """`[3, 3]`, in the convention of `data_gen.face_mesh.HeadPose`.

  Args:
    yaw: degrees by which the nose turns to the picture's right.
    pitch: degrees by which it points up.
    roll: degrees by which the head leans clockwise in the picture.
  """
  yaw, pitch, roll = np.radians([yaw, pitch, roll])
  turn = np.array([[np.cos(yaw), 0, np.sin(yaw)], [0, 1, 0], [-np.sin(yaw), 0, np.cos(yaw)]])
  nod = np.array([[1, 0, 0], [0, np.cos(pitch), np.sin(pitch)], [0, -np.sin(pitch), np.cos(pitch)]])
  lean = np.array([[np.cos(roll), np.sin(roll), 0], [-np.sin(roll), np.cos(roll), 0], [0, 0, 1]])
  return lean @ turn @ nod


FRONTAL = rotation(0.0, _FRONTAL_PITCH, 0.0)
