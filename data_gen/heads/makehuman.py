"""Reads the hair of `hair_on_ict.npz` out of clones of MakeHuman and of its assets, and lays it on the morphable head.

Both projects (https://github.com/makehumancommunity/makehuman and makehuman-assets) give their meshes away under CC0.
A hair style is an OBJ file for its polygons, and an `.mhclo` file that says where its vertices lie on MakeHuman's base
mesh, hm08: each at a weighted sum of three vertices of that mesh, plus an offset, which is stretched along each axis as
the distance between two vertices of the mesh is to the one that the style was made for.
"""

from collections.abc import Mapping, Sequence
from pathlib import Path

import numpy as np
from scipy.spatial import cKDTree

from data_gen.heads.morphable_head import FACE, HEAD
from data_gen.heads.people import STYLES
from data_gen.heads.wavefront import read_mesh, read_surface, read_text_file, triangulate
from dpr_jax.base.errors import BadInput

HAIR_STYLES = tuple(sorted(name for styles in STYLES.values() for name in styles))
BASE_MESH = "makehuman/data/3dobjs/base.obj"
# From hm08 (decimetres) to the mean head of ICT-FaceKit (cm): 10.42 times as large, and the face raised by 3.1 degrees.
# Both meshes are fixed, and so is this: it was found once, by a fit of the one head to the other that is not kept here.
# Of hm08's vertices above the neck, the four fifths that lie closest to the skin are 0.29 cm from it, root mean square.
# The heads differ in shape: fits by iterated closest points differ from this one by 1 to 8 mm of hair on average.
HM08_TO_ICT = np.array(
  [
    (10.417978535275, 0.00092330873485, 0.0040888988034, -0.0075399672090),
    (-0.0011426244634, 10.402798017923, 0.56221563991, -73.098842836368),
    (-0.0040331131622, -0.56221604287, 10.402797277088, -0.99884665160),
  ]
)
_BASE_VERTICES = 19158
_LOWEST_SKIN = -12.0  # cm: hair that hangs lower moves with the neck, and not with the open edge of the bust
_SHORTEST, _MOST_NUMBER = 0.01, 1e5  # dm; no person is as small or as large, and there are fewer vertices
_MOST_BYTES = 2**21  # The largest .mhclo file has 0.4 MB.


def read_hair(
  makehuman: str | Path, assets: str | Path, head: Mapping[str, np.ndarray], styles: Sequence[str] = HAIR_STYLES
) -> dict[str, np.ndarray]:
  """Reads hair styles, laid on a head, as the arrays of the file that `load_people_model` reads.

  These are `names`; for each style NAME `NAME_vertices` `[N, 3]` float32 in cm, `NAME_faces` and `NAME_face_uv`
  `[T, 3]` int32, `NAME_uv` `[M, 2]` float32, v up, and `NAME_bind` `[N]` int32, the vertex of the skin of the head
  and neck that is nearest, with which a vertex of the hair moves; `hm08_to_ict` `[3, 4]`, the similarity that took
  MakeHuman's coordinates to the head's; and `license`, the text of the source's licence.

  Args:
    makehuman: the folder of MakeHuman.
    assets: the folder of MakeHuman's assets, with `LICENSE.txt` and `base/hair/NAME`.
    head: `neutral` and `vertex_region` of the head, as `facekit.read_head` gives them.
    styles: the names.

  Raises:
    BadInput: a file is missing or damaged, or does not fit the others, or the assets' licence is not CC0.
  """
  terms_file = Path(assets) / "LICENSE.txt"
  terms = read_text_file(terms_file, _MOST_BYTES)
  if "CC0 1.0 Universal" not in terms:
    raise BadInput(f"{terms_file}: is not CC0 1.0 Universal, under which the hair is known to be given away")
  base = read_mesh(Path(makehuman) / BASE_MESH)
  if len(base.vertices) != _BASE_VERTICES:
    raise BadInput(f"{base.path}: has {len(base.vertices)} vertices, and not the {_BASE_VERTICES} of hm08")
  skin = np.flatnonzero(np.isin(head["vertex_region"], (FACE, HEAD)) & (head["neutral"][:, 1] > _LOWEST_SKIN))
  tree = cKDTree(head["neutral"][skin])
  arrays = {"names": np.array(styles), "hm08_to_ict": HM08_TO_ICT.astype(np.float32), "license": np.array(terms)}
  for name in styles:
    folder = Path(assets) / "base" / "hair" / name
    style = _read_style(folder / f"{name}.obj", folder / f"{name}.mhclo", base.vertices)
    arrays |= {f"{name}_{part}": array for part, array in style.items()}
    arrays[f"{name}_bind"] = skin[tree.query(style["vertices"])[1]].astype(np.int32)
  return arrays


def _read_style(polygons: Path, placement: Path, base: np.ndarray) -> dict[str, np.ndarray]:
  """Reads a hair style, laid on the mean head of ICT-FaceKit.

  Args:
    polygons: the OBJ file.
    placement: the `.mhclo` file.
    base: `[V, 3]`, the vertices of hm08.

  Returns:
    `vertices`, `faces`, `uv` and `face_uv`, as `read_hair` names them.
  """
  on_base = _placed(placement, base)
  mesh = read_mesh(polygons)
  if len(mesh.vertices) != len(on_base):
    raise BadInput(f"{polygons}: has {len(mesh.vertices)} vertices, and {placement.name} places {len(on_base)}")
  surface = read_surface(mesh)
  triangles, _ = triangulate(surface, np.zeros(len(surface.is_quad), bool))
  return {
    "vertices": (on_base @ HM08_TO_ICT[:, :3].T + HM08_TO_ICT[:, 3]).astype(np.float32),
    "faces": triangles[..., 0],
    "uv": surface.uv.astype(np.float32),
    "face_uv": triangles[..., 1],
  }


def _placed(path: Path, base: np.ndarray) -> np.ndarray:
  """`[N, 3]`: where the vertices of a style lie on hm08, whose vertices are `base`, by its `.mhclo` file."""
  settings: dict[str, list[str]] = {}
  places = []
  for line in read_text_file(path, _MOST_BYTES).splitlines():
    word, *words = line.split() or "#"
    if word[0].isalpha():
      settings[word] = words
    elif word[0] != "#":
      places.append([word, *words])
  if settings.get("basemesh") != ["hm08"]:
    raise BadInput(f"{path}: is not made for the base mesh hm08")
  ends, length = _numbers(path, [settings.get(f"{axis}_scale", []) for axis in "xyz"], 2, 1, "a scale", base)
  if (length < _SHORTEST).any():
    raise BadInput(f"{path}: has a scale of less than {_SHORTEST}")
  axes = np.arange(3)
  stretched = np.abs(base[ends[:, 0], axes] - base[ends[:, 1], axes]) / length[:, 0]
  corners, numbers = _numbers(path, places, 3, 6, "a place", base)
  weights, offsets = numbers[:, :3], numbers[:, 3:]
  return (base[corners] * weights[..., None]).sum(axis=1) + offsets * stretched


def _numbers(
  path: Path, lines: list[list[str]], vertices: int, others: int, what: str, base: np.ndarray
) -> tuple[np.ndarray, np.ndarray]:
  """Lines of so many vertices of `base`, `[N, vertices]` int, and other numbers, `[N, others]` float64."""
  try:
    numbers = np.array([[float(word) for word in words] for words in lines])
  except ValueError:  # what is no number, or lines of different lengths
    numbers = np.empty(0)
  known = numbers.shape == (len(lines), vertices + others) and (np.abs(numbers) < _MOST_NUMBER).all()
  if not known or not np.isin(numbers[:, :vertices], np.arange(len(base))).all():
    raise BadInput(f"{path}: has {what} that is not {vertices} vertices of hm08 and {others} more numbers")
  return numbers[:, :vertices].astype(int), numbers[:, vertices:]
