"""MediaPipe's canonical face: the mean face whose 468 vertices are the first of its landmarks.

It lies in this package as `canonical_face.npz`, so that nobody needs MediaPipe for it. Its authors, the MediaPipe
authors, licence it under Apache-2.0. `python -m dpr_jax.portrait.canonical_face` writes the file anew, from the
geometry metadata inside MediaPipe's own model file.
"""

import functools
import zipfile
from collections.abc import Iterator
from pathlib import Path
from typing import NamedTuple

import numpy as np

from dpr_jax.base.output_files import atomic_output

PACKAGED = Path(__file__).with_name("canonical_face.npz")

# The irises are not in the canonical face: of their ten points, the partner of each on the other side. MediaPipe counts
# the centre, then the rim from the eye's right over the top.
_IRISES = (473, 476, 475, 474, 477, 468, 471, 470, 469, 472)
_METADATA = "geometry_pipeline_metadata_landmarks.binarypb"


class CanonicalFace(NamedTuple):
  """MediaPipe's mean face, looking straight at the camera.

  Attributes:
    vertices: `[468, 3]` in cm; x to the picture's right, y up, z towards the viewer.
    triangles: `[898, 3]` vertex numbers, counterclockwise seen from outside. One sheet without holes: eyes and mouth
      are closed.
  """

  vertices: np.ndarray
  triangles: np.ndarray


@functools.cache
def canonical_face() -> CanonicalFace:
  """Returns the canonical face of this package."""
  with np.load(PACKAGED, allow_pickle=False) as stored:
    return CanonicalFace(stored["vertices"].astype(float), stored["triangles"].astype(int))


@functools.cache
def mirrored_landmarks() -> np.ndarray:
  """`[478]`: the number that each of MediaPipe's landmarks has in the mirror image of a face.

  Raises:
    ValueError: the canonical face is not symmetric.
  """
  vertices = canonical_face().vertices
  distances = np.linalg.norm(vertices[:, None] * (-1, 1, 1) - vertices[None], axis=-1)
  partner = distances.argmin(axis=1)
  if (partner[partner] != np.arange(len(partner))).any():
    raise ValueError("the canonical face is not its own mirror image")
  return np.concatenate([partner, _IRISES])


def read_model(path: Path) -> CanonicalFace:
  """Reads the canonical face inside MediaPipe's face landmarker.

  Args:
    path: `face_landmarker.task`.

  Returns:
    float32 vertices and int16 triangles, as they are packaged.
  """
  with zipfile.ZipFile(path) as model:
    metadata = model.read(_METADATA)
  # mediapipe/tasks/cc/vision/face_geometry/proto: GeometryPipelineMetadata.canonical_mesh is field 1; in Mesh3d the
  # vertices (x, y, z, u, v) are field 3, the triangles field 4.
  [mesh] = (value for number, value in _protobuf_fields(metadata) if number == 1)
  fields = list(_protobuf_fields(mesh))
  vertices = np.frombuffer(b"".join(value for number, value in fields if number == 3), "<f4").reshape(-1, 5)
  triangles = np.array([value for number, value in fields if number == 4]).reshape(-1, 3)
  return CanonicalFace(vertices[:, :3].copy(), triangles.astype(np.int16))


def write(face: CanonicalFace, path: Path) -> None:
  """Writes what `canonical_face` reads; the same bytes for the same face."""
  with atomic_output(path, overwrite=True) as aside, open(aside, "wb") as file:
    np.savez_compressed(file, vertices=face.vertices, triangles=face.triangles)


def _protobuf_fields(message: bytes) -> Iterator[tuple[int, int | bytes]]:
  """Number and value of each field: an int for varints, the bytes of anything else."""
  position = 0

  def take(count: int) -> bytes:
    nonlocal position
    position += count
    return message[position - count : position]

  def varint() -> int:
    [byte] = take(1)
    return byte if byte < 128 else byte - 128 + 128 * varint()

  while position < len(message):
    number, wire_type = divmod(varint(), 8)
    if wire_type == 0:
      yield number, varint()
    else:
      yield number, take({1: 8, 5: 4}.get(wire_type) or varint())


if __name__ == "__main__":
  from dpr_jax.base.assets import asset_path

  write(read_model(asset_path("face-landmarker")), PACKAGED)
