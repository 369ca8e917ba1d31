"""Reads the morphable head of `ict_facekit.npz` out of a clone of the project ICT-FaceKit.

The project (https://github.com/ICT-VGL/ICT-FaceKit, MIT; Li et al., "Learning Formation of Physically-Based Face
Attributes", CVPR 2020) keeps each shape of its model "Light" as a whole head in a Wavefront OBJ file: the mean head,
the mean head moved along each identity mode by one standard deviation, and with each expression at weight 1. All have
the same vertices and polygons in the same order. The file keeps the mean head and the displacements.
"""

from collections.abc import Sequence
from pathlib import Path
from typing import NamedTuple

import numpy as np

from data_gen.heads.wavefront import Mesh, read_mesh, read_surface, read_text_file, triangulate
from dpr_jax.base.errors import BadInput
from dpr_jax.base.input_files import read_json

NEUTRAL, INDICES = "generic_neutral_mesh", "vertex_indices.json"
_VERTEX_LISTS = {
  "landmarks68": "idx_to_landmark_verts",
  "rigid_vertices": "idx_to_rigid_verts",
  "fitting_vertices": "idx_to_fitting_verts",
}
_MOST_LICENSE_BYTES = 2**16


class Region(NamedTuple):
  """A part of the head: its name, and how many vertices and polygons it has."""

  name: str
  vertices: int
  polygons: int


class Layout(NamedTuple):
  """What the files of a model hold, as far as they do not say it themselves.

  Attributes:
    regions: the parts, in the order in which their vertices and polygons follow each other.
    materials: the names that polygons may have for their material, in the order of their numbers.
    identities: how many identity modes there are.
    expressions: how many expressions there are.
    jaw_right: the vertices of the outline from the right ear to the chin, for heads seen from the side.
    jaw_left: the same on the other side, from the chin to the left ear.
  """

  regions: Sequence[Region]
  materials: Sequence[str]
  identities: int
  expressions: int
  jaw_right: Sequence[int]
  jaw_left: Sequence[int]

  @property
  def vertices(self) -> int:
    """How many vertices each shape has."""
    return sum(region.vertices for region in self.regions)

  @property
  def polygons(self) -> int:
    """How many polygons each shape has."""
    return sum(region.polygons for region in self.regions)


# From the project's README.
LIGHT = Layout(
  regions=(
    Region("Face", 9409, 9230),
    Region("Head and Neck", 1839, 1914),
    Region("Mouth socket", 2046, 2082),
    Region("Eye socket left", 384, 404),
    Region("Eye socket right", 384, 404),
    Region("Gums and tongue", 2977, 2972),
    Region("Teeth", 4412, 4490),
    Region("Eyeball left", 1570, 1598),
    Region("Eyeball right", 1570, 1598),
    Region("Lacrimal fluid left", 204, 163),
    Region("Lacrimal fluid right", 204, 163),
    Region("Eye blend left", 24, 15),
    Region("Eye blend right", 24, 15),
    Region("Eye occlusion left", 152, 128),
    Region("Eye occlusion right", 152, 128),
    Region("Eyelashes left", 684, 540),
    Region("Eyelashes right", 684, 540),
  ),
  materials=(
    *("M_Face", "M_BackHead", "M_GumsTongue", "M_Teeth", "M_ScleraLeft", "M_IrisLeft", "M_ScleraRight"),
    *("M_IrisRight", "M_LacrimalFluid", "M_EyeBlend", "M_EyeOcclusion", "M_EyeLashes"),
  ),
  identities=100,
  expressions=53,
  jaw_right=(1280, 1278, 1275, 1272, 1248, 12, 820, 1834, 1902, 243, 844, 781, 1673, 2199, 801, 1447, 800),
  jaw_left=(3041, 3661, 3042, 4390, 3880, 3022, 3085, 2484, 4102, 4036, 3061, 2253, 3466, 3490, 3493, 3496, 3498),
)


def read_head(facekit: str | Path, layout: Layout = LIGHT) -> dict[str, np.ndarray]:
  """Reads the model of a clone of ICT-FaceKit as the arrays of the file that `load_morphable_head` reads.

  These are: `neutral` `[V, 3]` float32 in the units of the source (cm); `identity` `[I, V, 3]` and `expression`
  `[E, V, 3]` float16, with `identity_names` and `expression_names`; `faces` `[T, 3]` int32, the source's polygons with
  quads cut along the shorter diagonal, with `face_polygon`, `face_region` and `face_material` `[T]`; `uv` `[N, 2]`
  float32, v up, and `face_uv` `[T, 3]`; `vertex_region` `[V]`, `region_names`, `material_names`; the vertex numbers
  `landmarks68` (in Multi-PIE's order), `jaw_right`, `jaw_left`, `rigid_vertices`, `fitting_vertices`; and `license`,
  the text of the source's licence.

  Args:
    facekit: the folder with `LICENSE` and the folder `FaceXModel`.
    layout: what the files must hold.

  Raises:
    BadInput: a file is missing or damaged, or is not as `layout` says.
  """
  terms = read_text_file(Path(facekit) / "LICENSE", _MOST_LICENSE_BYTES)
  folder = Path(facekit) / "FaceXModel"
  neutral = _read_shape(folder / f"{NEUTRAL}.obj", layout)
  triangles = _triangles(neutral, layout)
  expression_names, vertex_lists = _read_indices(folder / INDICES, layout)
  identity_names = [f"identity{number:03d}" for number in range(layout.identities)]
  return {
    "neutral": neutral.vertices.astype(np.float32),
    "identity": _displacements(folder, identity_names, neutral, layout),
    "expression": _displacements(folder, expression_names, neutral, layout),
    "identity_names": np.array(identity_names),
    "expression_names": np.array(expression_names),
    **triangles,
    "region_names": np.array([region.name for region in layout.regions]),
    "material_names": np.array(layout.materials),
    "vertex_region": _numbered([region.vertices for region in layout.regions]),
    **vertex_lists,
    "jaw_right": np.array(layout.jaw_right, np.int32),
    "jaw_left": np.array(layout.jaw_left, np.int32),
    "license": np.array(terms),
  }


def _read_shape(path: Path, layout: Layout) -> Mesh:
  """Reads a mesh that has as many vertices and polygons as the layout says."""
  mesh = read_mesh(path)
  polygons = sum(statement.startswith("f ") for statement in mesh.statements)
  for what, found, count in (
    ("vertices", len(mesh.vertices), layout.vertices),
    ("polygons", polygons, layout.polygons),
  ):
    if found != count:
      raise BadInput(f"{path}: has {found} {what}, and not the model's {count}")
  return mesh


def _displacements(folder: Path, names: Sequence[str], neutral: Mesh, layout: Layout) -> np.ndarray:
  """`[N, V, 3]` float16: from the vertices of the neutral head to those of each shape."""
  displacements = np.empty((len(names), *neutral.vertices.shape), np.float16)
  for displacement, name in zip(displacements, names, strict=True):
    shape = _read_shape(folder / f"{name}.obj", layout)
    if shape.statements != neutral.statements:  # then its vertices may be in another order
      raise BadInput(f"{shape.path}: its polygons are not those of {neutral.path.name}")
    displacement[:] = shape.vertices - neutral.vertices
  return displacements


def _triangles(mesh: Mesh, layout: Layout) -> dict[str, np.ndarray]:
  """The polygons of a mesh as triangles, and what is known of each."""
  surface = read_surface(mesh)
  strange = set(surface.materials).difference(layout.materials)
  if strange:
    raise BadInput(f"{mesh.path}: has polygons of no known material, such as {min(strange)!r}")
  place = mesh.vertices[surface.corners[..., 0]]
  diagonals = np.linalg.norm(place[:, :2] - place[:, 2:], axis=-1)
  triangles, polygon = triangulate(surface, diagonals[:, 1] < diagonals[:, 0])
  material = np.array([layout.materials.index(name) for name in surface.materials], np.int8)
  return {
    "faces": triangles[..., 0],
    "face_uv": triangles[..., 1],
    "uv": surface.uv.astype(np.float32),
    "face_polygon": polygon,
    "face_region": _numbered([region.polygons for region in layout.regions])[polygon],
    "face_material": material[polygon],
  }


def _read_indices(path: Path, layout: Layout) -> tuple[list[str], dict[str, np.ndarray]]:
  """The names of the expressions, and the lists of vertices as `[N]` int32."""
  try:
    indices = read_json(path)
  except OSError as error:
    raise BadInput(f"{path}: cannot be read ({error.strerror})") from error
  except ValueError as error:
    raise BadInput(f"{path}: is not JSON") from error
  indices = indices if isinstance(indices, dict) else {}
  names = indices.get("expressions")
  if not isinstance(names, list) or not all(isinstance(name, str) and name.isidentifier() for name in names):
    raise BadInput(f"{path}: has no list of names under expressions")
  if len(names) != layout.expressions:
    raise BadInput(f"{path}: has {len(names)} expressions, and not the model's {layout.expressions}")
  lists = {}
  for name, key in _VERTEX_LISTS.items():
    numbers = indices.get(key)
    if not isinstance(numbers, list) or not all(type(n) is int and 0 <= n < layout.vertices for n in numbers):
      raise BadInput(f"{path}: has no list of existing vertices under {key}")
    lists[name] = np.array(numbers, np.int32)
  if len(lists["landmarks68"]) != 68:
    raise BadInput(f"{path}: has {len(lists['landmarks68'])} landmarks, and not 68")
  return names, lists


def _numbered(counts: Sequence[int]) -> np.ndarray:
  """`[sum of counts]` int8: 0 as often as the first count says, 1 as often as the second, and so on."""
  return np.repeat(np.arange(len(counts), dtype=np.int8), counts)
