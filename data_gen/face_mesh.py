"""Normals from MediaPipe's face mesh: 468 landmarks with depth, straightened, subdivided smoothly and rasterised.

Both face finders lay MediaPipe's landmarks. Axes of a mesh here: x to the right and y up in the plane of the photo, z
towards the viewer.
"""

import functools
from typing import NamedTuple

import igl
import numpy as np

from data_gen.face_maps import FaceMaps, Label
from data_gen.rasterize import rasterize
from dpr_jax.base.native_libraries import import_native
from dpr_jax.portrait.canonical_face import canonical_face
from dpr_jax.portrait.faces import LEFT_EYE, OVAL, RIGHT_EYE, Face
from dpr_jax.portrait.landmark_mesh import canonical_rotation, face_mesh

cv2 = import_native("cv2")

# Numbers of landmarks, from MediaPipe's documentation of the face mesh. Left and right as seen in the picture.
LEFT_BROW = [46, 52, 53, 55, 63, 65, 66, 70, 105, 107]
RIGHT_BROW = [276, 282, 283, 285, 293, 295, 296, 300, 334, 336]
LIPS = [
  *(0, 13, 14, 17, 37, 39, 40, 61, 78, 80, 81, 82, 84, 87, 88, 91, 95, 146, 178, 181, 185, 191, 267, 269, 270, 291),
  *(308, 310, 311, 312, 314, 317, 318, 321, 324, 375, 402, 405, 409, 415),
]  # fmt: skip
NOSE = [
  *(1, 2, 4, 5, 6, 19, 45, 48, 64, 94, 97, 98, 115, 168, 195, 197, 220, 275, 278, 294, 326, 327, 344, 440),
]  # fmt: skip
# What ARAP holds on to, in the order of their numbers.
CONTOURS = sorted({*OVAL, *LEFT_EYE, *RIGHT_EYE, *LEFT_BROW, *RIGHT_BROW, *LIPS, *NOSE})

_SUBDIVISIONS = 2
# Standard deviation, relative to the mesh's height, of the blur that takes away what 468 points don't know: ripples,
# and slivers of the folds at nostrils and lips, which would shine as thin bright lines. On procedural faces it brings
# the normals closer to the truth.
_SMOOTHING = 0.012


class HeadPose(NamedTuple):
  """How a head is turned, in degrees: nodded by pitch, then turned by yaw, then leant by roll in the picture's plane.

  Attributes:
    yaw: in [-90, 90], positive if the nose points to the picture's right.
    pitch: positive if it points up. Frontal portraits have -3 on average: the canonical face looks up a little.
    roll: positive if the head leans clockwise in the picture, like `dpr_jax.portrait.faces.Framing.roll`.
  """

  yaw: float
  pitch: float
  roll: float


def face_maps(pixels: np.ndarray, face: Face) -> FaceMaps:
  """Normals and labels of one face in its photo.

  The mesh ends below the hairline, before the ears and at the chin: there are no labels EAR and NECK.

  Args:
    pixels: `[H, W, 3]` uint8 RGB, the photo.
    face: as a face finder found it there, with depth.

  Raises:
    ValueError: the face has no depth.
  """
  vertices, triangles = subdivided(face_mesh(face))
  normals = igl.per_vertex_normals(vertices, triangles)
  visible = normals[triangles, 2].max(axis=1) > 0
  corners = vertices * (1, -1, 1) - (0.5, 0.5, 0)  # rows grow downwards, integers are pixel centres
  box, shift = _box(corners, *pixels.shape[:2])
  normal = np.zeros(pixels.shape, np.float32)
  label = np.zeros(pixels.shape[:2], np.uint8)
  depth = np.full(pixels.shape[:2], -np.inf, np.float32)
  size = label[box].shape
  drawn, near = rasterize(corners - (*shift, 0), triangles[visible], normals[:, [0, 2, 1]] * (1, -1, 1), *size)
  drawn = cv2.GaussianBlur(drawn, (0, 0), _SMOOTHING * float(np.ptp(corners[:, 1])))
  drawn[~np.isfinite(near)] = 0
  normal[box] = drawn / np.maximum(np.sqrt(np.einsum("hwc,hwc->hw", drawn, drawn)), 1e-6)[..., None]
  part = np.where(_features(face.landmarks - 0.5 - shift, *size), Label.FEATURE, Label.SKIN)
  label[box] = np.where(np.isfinite(near), part, Label.BACKGROUND)
  depth[box] = near
  landmarks = face.landmarks[CONTOURS] - 0.5
  return FaceMaps(normal, label, landmarks, landmarks, depth)


def head_pose(face: Face) -> HeadPose:
  """The rotation that lays the canonical face on the straightened mesh (Umeyama 1991), in degrees.

  Raises:
    ValueError: the face has no depth.
  """
  rotation = canonical_rotation(face_mesh(face))
  yaw = np.arcsin(np.clip(-rotation[2, 0], -1, 1))
  pitch = np.arctan2(-rotation[2, 1], rotation[2, 2])
  roll = np.arctan2(-rotation[1, 0], rotation[0, 0])
  return HeadPose(*(float(angle) for angle in np.degrees([yaw, pitch, roll])))


def subdivided(mesh: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
  """The smooth surface through the vertices of a mesh `[468, 3]`: vertices `[7257, 3]` and triangles `[14368, 3]`.

  Loop's subdivision (1987) of a control mesh which is chosen such that the given vertices stay where they are.
  """
  # Not @: under full load, waking the threads of BLAS takes longer than the product.
  control = np.einsum("ij,jk->ik", _control(), mesh)
  return igl.loop(control, canonical_face().triangles, _SUBDIVISIONS)


@functools.cache
def _control() -> np.ndarray:
  """`[468, 468]`: vertices -> the control mesh whose subdivision passes through them."""
  triangles = canonical_face().triangles
  count = triangles.max() + 1
  return np.linalg.inv(igl.loop(np.eye(count), triangles, _SUBDIVISIONS)[0][:count])


def _box(corners: np.ndarray, height: int, width: int) -> tuple[tuple[slice, slice], np.ndarray]:
  """The part of a picture that a mesh touches: rows and columns, and its top left pixel (x, y)."""
  size = np.array([width, height])
  first = np.clip(np.floor(corners[:, :2].min(axis=0)).astype(int), 0, size)
  last = np.clip(np.ceil(corners[:, :2].max(axis=0)).astype(int) + 1, 0, size)
  return (slice(first[1], last[1]), slice(first[0], last[0])), first


def _features(landmarks: np.ndarray, height: int, width: int) -> np.ndarray:
  """`[H, W]` bool: the convex hulls of eyes, brows and mouth."""
  features = np.zeros((height, width), np.uint8)
  for part in (LEFT_EYE, RIGHT_EYE, LEFT_BROW, RIGHT_BROW, LIPS):
    cv2.fillConvexPoly(features, cv2.convexHull(np.round(landmarks[part]).astype(np.int32)), 1)
  return features.astype(bool)
