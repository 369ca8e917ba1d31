"""Makes `ict_facekit.npz`, the file of the morphable head, out of a clone of the project ICT-FaceKit.

The project (https://github.com/ICT-VGL/ICT-FaceKit, MIT; Li et al., "Learning Formation of Physically-Based Face
Attributes", CVPR 2020) keeps each shape of its model "Light" as a whole head in a Wavefront OBJ file: the mean head,
the mean head moved along each identity mode by one standard deviation, and with each expression at weight 1. All have
the same vertices and polygons in the same order. The file keeps the mean head and the displacements.
"""

from collections.abc import Sequence
from pathlib import Path
from typing import NamedTuple

import numpy as np

from dpr_jax.base.errors import BadInput
from dpr_jax.base.input_files import read_json, read_text
from dpr_jax.base.output_files import atomic_output, check_free

NEUTRAL, INDICES = "generic_neutral_mesh", "vertex_indices.json"
_VERTEX_LISTS = {
  "landmarks68": "idx_to_landmark_verts",
  "rigid_vertices": "idx_to_rigid_verts",
  "fitting_vertices": "idx_to_fitting_verts",
}
_MOST_OBJ_BYTES = 2**23  # the project's have 2.6 MB
_MOST_LICENSE_BYTES = 2**16
_MOST_COORDINATE = 1e4  # No head is 100 m large, and half precision ends at 6.5e4.


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


class _Mesh(NamedTuple):
  """A mesh in an OBJ file.

  Attributes:
    path: the file.
    vertices: `[V, 3]` float64.
    statements: the lines on polygons and their materials, as they stand in the file.
    uv: the lines on texture coordinates.
  """

  path: Path
  vertices: np.ndarray
  statements: list[str]
  uv: list[str]


def convert(facekit: str | Path, out: str | Path, *, layout: Layout = LIGHT, overwrite: bool = False) -> str:
  """Writes the model of a clone of ICT-FaceKit as one file, which `load_morphable_head` reads.

  Its arrays: `neutral` `[V, 3]` float32 in the units of the source (cm); `identity` `[I, V, 3]` and `expression`
  `[E, V, 3]` float16, with `identity_names` and `expression_names`; `faces` `[T, 3]` int32, the source's polygons with
  quads cut along the shorter diagonal, with `face_polygon`, `face_region` and `face_material` `[T]`; `uv` `[N, 2]`
  float32, v up, and `face_uv` `[T, 3]`; `vertex_region` `[V]`, `region_names`, `material_names`; the vertex numbers
  `landmarks68` (in Multi-PIE's order), `jaw_right`, `jaw_left`, `rigid_vertices`, `fitting_vertices`; and `license`,
  the text of the source's licence.

  Args:
    facekit: the folder with `LICENSE` and the folder `FaceXModel`.
    out: the file to write.
    layout: what the files must hold.
    overwrite: whether an existing file may be replaced.

  Returns:
    The text of the licence.

  Raises:
    BadInput: `out` exists, or cannot be written; a file is missing or damaged, or is not as `layout` says.
  """
  check_free(out, overwrite)
  terms = _read(Path(facekit) / "LICENSE", _MOST_LICENSE_BYTES)
  folder = Path(facekit) / "FaceXModel"
  neutral = _read_mesh(folder / f"{NEUTRAL}.obj", layout)
  triangles = _triangles(neutral, layout)
  expression_names, vertex_lists = _read_indices(folder / INDICES, layout)
  identity_names = [f"identity{number:03d}" for number in range(layout.identities)]
  arrays = {
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
  with atomic_output(out, overwrite) as temporary, temporary.open("wb") as file:
    np.savez_compressed(file, **arrays)
  return terms


def _read(path: Path, most: int) -> str:
  try:
    return read_text(path, most)
  except OSError as error:
    raise BadInput(f"{path}: cannot be read ({error.strerror})") from error
  except ValueError as error:
    raise BadInput(f"{path}: is not a text in UTF-8") from error


def _read_mesh(path: Path, layout: Layout) -> _Mesh:
  """Reads a mesh that has as many vertices and polygons as the layout says."""
  lines: dict[str, list[str]] = {"v": [], "vt": [], "f": [], "usemtl": []}
  statements = []
  for line in _read(path, _MOST_OBJ_BYTES).splitlines():
    keyword = line.partition(" ")[0]
    if keyword in lines:
      lines[keyword].append(line)
      if keyword in ("f", "usemtl"):
        statements.append(line)
  for keyword, what, count in (("v", "vertices", layout.vertices), ("f", "polygons", layout.polygons)):
    if len(lines[keyword]) != count:
      raise BadInput(f"{path}: has {len(lines[keyword])} {what}, and not the model's {count}")
  return _Mesh(path, _coordinates(path, lines["v"], 3), statements, lines["vt"])


def _coordinates(path: Path, lines: list[str], count: int) -> np.ndarray:
  """`[N, count]` of lines that hold a word and so many numbers."""
  if not lines:
    return np.zeros((0, count))
  try:
    coordinates = np.loadtxt(lines, usecols=range(1, count + 1), ndmin=2)
  except ValueError as error:
    raise BadInput(f"{path}: has coordinates that are not {count} numbers") from error
  if not (np.abs(coordinates) < _MOST_COORDINATE).all():
    raise BadInput(f"{path}: has coordinates that are not finite, or beyond {_MOST_COORDINATE:.0f}")
  return coordinates


def _displacements(folder: Path, names: Sequence[str], neutral: _Mesh, layout: Layout) -> np.ndarray:
  """`[N, V, 3]` float16: from the vertices of the neutral head to those of each shape."""
  displacements = np.empty((len(names), *neutral.vertices.shape), np.float16)
  for displacement, name in zip(displacements, names, strict=True):
    shape = _read_mesh(folder / f"{name}.obj", layout)
    if shape.statements != neutral.statements:  # then its vertices may be in another order
      raise BadInput(f"{shape.path}: its polygons are not those of {neutral.path.name}")
    displacement[:] = shape.vertices - neutral.vertices
  return displacements


def _triangles(mesh: _Mesh, layout: Layout) -> dict[str, np.ndarray]:
  """The polygons of a mesh as triangles, and what is known of each."""
  corners, is_quad, material = _polygons(mesh, layout)
  uv = _coordinates(mesh.path, mesh.uv, 2)
  if (corners < 0).any() or (corners >= (len(mesh.vertices), len(uv))).any():
    raise BadInput(f"{mesh.path}: a polygon names a vertex that does not exist")
  place = mesh.vertices[corners[..., 0]]
  diagonals = np.linalg.norm(place[:, :2] - place[:, 2:], axis=-1)
  cut = np.where((is_quad & (diagonals[:, 1] < diagonals[:, 0]))[:, None], (0, 1, 3, 1, 2, 3), (0, 1, 2, 0, 2, 3))
  kept = np.stack([np.ones_like(is_quad), is_quad], axis=1)
  triangles = np.take_along_axis(corners, cut[..., None], axis=1).reshape(-1, 2, 3, 2)[kept].astype(np.int32)
  polygon = np.nonzero(kept)[0].astype(np.int32)
  return {
    "faces": triangles[..., 0],
    "face_uv": triangles[..., 1],
    "uv": uv.astype(np.float32),
    "face_polygon": polygon,
    "face_region": _numbered([region.polygons for region in layout.regions])[polygon],
    "face_material": material[polygon],
  }


def _polygons(mesh: _Mesh, layout: Layout) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
  """Corners, what is a quad, and materials of all polygons.

  Returns:
    `[P, 4, 2]` numbers of vertices and of texture coordinates from 0 on, where triangles have their last corner twice;
    `[P]` bool; `[P]` int8.
  """
  corners, materials, material = [], [], -1
  try:
    for keyword, *words in map(str.split, mesh.statements):
      if keyword == "usemtl":
        material = layout.materials.index(words[0])
      else:
        corners.append([[int(number) for number in word.split("/")[:2]] for word in words])
        materials.append(material)
    is_quad = np.array([len(polygon) for polygon in corners]) == 4
    padded = np.array([polygon + polygon[2:] if len(polygon) == 3 else polygon for polygon in corners], np.int64)
    if padded.shape != (len(corners), 4, 2) or min(materials) < 0:
      raise ValueError
  except (ValueError, IndexError, OverflowError) as error:
    raise BadInput(
      f"{mesh.path}: has a polygon that is not 3 or 4 corners VERTEX/TEXTURE of a known material"
    ) from error
  return padded - 1, is_quad, np.array(materials, np.int8)


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
