"""The morphable head read out of OBJ files: small ones written here."""

import json
import os

import numpy as np
import pytest

from data_gen.heads.facekit import Layout, Region, read_head
from data_gen.heads.morphable_head import load_morphable_head
from dpr_jax.base.errors import BadInput

SMALL = Layout(
  regions=(Region("Face", 6, 2), Region("Head and Neck", 3, 1)),
  materials=("M_Face", "M_BackHead"),
  identities=2,
  expressions=1,
  jaw_right=(0, 3),
  jaw_left=(3, 5),
)
# Two quads that lean towards each other, and a triangle behind them.
VERTICES = np.array([(0, 0, 1), (2, 0, 1), (4, 0, 1), (1, 1, 1), (2, 1, 1), (3, 1, 1), (0, 0, 0), (1, 0, 0), (0, 1, 0)])
UV = np.array([(0.25, 0.5), (0.5, 0.125), (1.5, 0.75)])
# The shorter diagonals are from the first quad's second corner, and from the other one's first.
FACES = ["usemtl M_Face", "f 1/1 2/2 5/3 4/1", "f 2/1 3/2 6/2 5/3", "usemtl M_BackHead", "f 7/1 8/3 9/2"]
MODES = {"identity000": (0, 0, 0.5), "identity001": (-1.25, 0, 0), "jawOpen": (0, -2, 0.25)}
TERMS = "MIT License\n\nCopyright (c) 2020 the authors\n"


def write_obj(path, vertices, faces=FACES, uv=UV):
  lines = ["# of a test", "mtllib some.mtl", *(f"v {' '.join(map(repr, vertex))}" for vertex in vertices.tolist())]
  lines += [*(f"vt {u!r} {v!r}" for u, v in uv.tolist()), *faces]
  path.write_text("\n".join(lines) + "\n")


def shape(name):
  """The small head moved along a mode, a vertex more than the one before it."""
  return VERTICES + np.arange(9)[:, None] * np.array(MODES[name])


@pytest.fixture
def clone(tmp_path):
  """A small model as the project keeps its own."""
  folder = tmp_path / "ICT-FaceKit" / "FaceXModel"
  folder.mkdir(parents=True)
  (folder.parent / "LICENSE").write_text(TERMS)
  write_obj(folder / "generic_neutral_mesh.obj", VERTICES.astype(float))
  for name in MODES:
    write_obj(folder / f"{name}.obj", shape(name))
  write_indices(folder)
  return folder.parent


def write_indices(folder, **changes):
  indices = {
    "expressions": ["jawOpen"],
    "idx_to_landmark_verts": [5, *[2] * 67],
    "idx_to_rigid_verts": [8, 1],
    "idx_to_fitting_verts": [0, 4, 3],
  }
  (folder / "vertex_indices.json").write_text(json.dumps(indices | changes))


def test_the_renderer_gets_the_model_that_the_files_hold(clone, tmp_path):
  np.savez(tmp_path / "head.npz", **read_head(clone, SMALL))
  head = load_morphable_head(tmp_path / "head.npz")
  np.testing.assert_array_equal(head.neutral, VERTICES)
  for modes, names in ((head.identity, ["identity000", "identity001"]), (head.expression, ["jawOpen"])):
    np.testing.assert_array_equal(head.neutral + modes, [shape(name) for name in names])
  assert head.expression_names == ("jawOpen",)
  np.testing.assert_array_equal(head.triangles, [(0, 1, 3), (1, 4, 3), (1, 2, 5), (1, 5, 4), (6, 7, 8)])
  np.testing.assert_array_equal(head.region, [0, 0, 0, 0, 1])
  np.testing.assert_array_equal(head.landmarks68, [5, *[2] * 67])


def test_it_keeps_what_else_is_known_of_the_mesh(clone):
  arrays = read_head(clone, SMALL)
  expected = {
    "uv": UV,
    "face_uv": [(0, 1, 0), (1, 2, 0), (0, 1, 1), (0, 1, 2), (0, 2, 1)],
    "face_polygon": [0, 0, 1, 1, 2],
    "face_material": [0, 0, 0, 0, 1],
    "vertex_region": [0] * 6 + [1] * 3,
    "region_names": ["Face", "Head and Neck"],
    "material_names": ["M_Face", "M_BackHead"],
    "identity_names": ["identity000", "identity001"],
    "rigid_vertices": [8, 1],
    "fitting_vertices": [0, 4, 3],
    "jaw_right": [0, 3],
    "jaw_left": [3, 5],
    "license": TERMS,
  }
  for name, array in expected.items():
    np.testing.assert_array_equal(arrays[name], array, err_msg=name)


FAULTS = {
  "a shape is missing": (
    lambda folder: (folder / "identity001.obj").unlink(),
    r"identity001\.obj: cannot be read \(No such file or directory\)",
  ),
  "the licence is missing": (
    lambda folder: (folder.parent / "LICENSE").unlink(),
    r"LICENSE: cannot be read \(No such file or directory\)",
  ),
  "a shape is a pointer to a file elsewhere": (
    lambda folder: (folder / "jawOpen.obj").write_text("version https://git-lfs.github.com/spec/v1\n"),
    r"jawOpen\.obj: has 0 vertices, and not the model's 9",
  ),
  "a shape has a vertex more": (
    lambda folder: write_obj(folder / "jawOpen.obj", np.zeros((10, 3))),
    r"jawOpen\.obj: has 10 vertices, and not the model's 9",
  ),
  "the head has a polygon less": (
    lambda folder: write_obj(folder / "generic_neutral_mesh.obj", VERTICES, FACES[:-1]),
    r"generic_neutral_mesh\.obj: has 2 polygons, and not the model's 3",
  ),
  "a shape has its polygons in another order": (
    lambda folder: write_obj(folder / "jawOpen.obj", VERTICES, [FACES[0], FACES[2], FACES[1], *FACES[3:]]),
    r"jawOpen\.obj: its polygons are not those of generic_neutral_mesh\.obj",
  ),
  "a file is larger than any shape": (
    lambda folder: os.truncate(folder / "jawOpen.obj", 2**23 + 1),
    r"jawOpen\.obj: cannot be read \(it has more than 8388608 bytes\)",
  ),
  "a file is no text": (
    lambda folder: (folder / "jawOpen.obj").write_bytes(b"v \xff 0 0\n"),
    r"jawOpen\.obj: is not a text in UTF-8",
  ),
  "the indices are no JSON": (
    lambda folder: (folder / "vertex_indices.json").write_text("{"),
    r"vertex_indices\.json: is not JSON",
  ),
  "the indices are a list": (
    lambda folder: (folder / "vertex_indices.json").write_text("[]"),
    "has no list of names under expressions",
  ),
  "an expression is a path": (
    lambda folder: write_indices(folder, expressions=["../jawOpen"]),
    "has no list of names under expressions",
  ),
  "there are expressions too many": (
    lambda folder: write_indices(folder, expressions=["jawOpen"] * 3),
    "has 3 expressions, and not the model's 1",
  ),
  "a list of vertices is missing": (
    lambda folder: write_indices(folder, idx_to_rigid_verts=None),
    "has no list of existing vertices under idx_to_rigid_verts",
  ),
  "a list names a vertex that does not exist": (
    lambda folder: write_indices(folder, idx_to_fitting_verts=[0, 9]),
    "has no list of existing vertices under idx_to_fitting_verts",
  ),
  "a landmark is missing": (
    lambda folder: write_indices(folder, idx_to_landmark_verts=[0] * 67),
    "has 67 landmarks, and not 68",
  ),
}


@pytest.mark.parametrize("fault", FAULTS)
def test_a_clone_that_cannot_be_used_is_one_line(clone, fault):
  spoil, message = FAULTS[fault]
  spoil(clone / "FaceXModel")
  refused(clone, message)


@pytest.mark.parametrize(
  ("coordinate", "what"),
  [
    ("nan", "not finite"),
    ("-inf", "not finite"),
    ("1e30", "not finite, or beyond 10000"),
    ("two", "not 3 numbers"),
    ("", "not 3 numbers"),
  ],
)
def test_a_coordinate_that_is_none_is_one_line(clone, coordinate, what):
  path = clone / "FaceXModel" / "identity001.obj"
  path.write_text(path.read_text().replace("v 0.0 0.0 1.0", f"v 0.0 0.0 {coordinate}"))
  refused(clone, rf"identity001\.obj: has coordinates that are {what}")


@pytest.mark.parametrize("polygon", ["7/1 8/3 10/2", "0/1 8/3 9/2", "-1/1 8/3 9/2", "7/1 8/3 9/4"])
def test_a_polygon_names_only_what_exists(clone, polygon):
  write_obj(clone / "FaceXModel" / "generic_neutral_mesh.obj", VERTICES, [*FACES[:-1], f"f {polygon}"])
  refused(clone, r"generic_neutral_mesh\.obj: a polygon names a vertex that does not exist")


@pytest.mark.parametrize(
  "faces",
  [
    [*FACES[:-1], "f 7/1 8/3"],
    [*FACES[:-1], "f 7/1 8/3 9/2 6/1 5/1"],
    [*FACES[:-1], "f 7 8 9"],
    [*FACES[:-1], "f 7//1 8//3 9//2"],
    [*FACES[:-1], "f 7/1 8/3 x/2"],
    [*FACES[:-1], f"f 7/1 8/3 {2**70}/2"],
  ],
)
def test_a_polygon_has_corners(clone, faces):
  write_obj(clone / "FaceXModel" / "generic_neutral_mesh.obj", VERTICES, faces)
  refused(clone, r"generic_neutral_mesh\.obj: has a polygon that is not 3 or 4 corners")


@pytest.mark.parametrize(
  ("faces", "name"),
  [
    ([*FACES[:-2], "usemtl M_Hat", FACES[-1]], "M_Hat"),
    ([*FACES[:-2], "usemtl", FACES[-1]], ""),
    (FACES[1:], ""),
  ],
)
def test_a_polygon_has_a_material(clone, faces, name):
  write_obj(clone / "FaceXModel" / "generic_neutral_mesh.obj", VERTICES, faces)
  refused(clone, rf"generic_neutral_mesh\.obj: has polygons of no known material, such as '{name}'")


def refused(clone, message):
  """Reading ends in one line."""
  with pytest.raises(BadInput, match=message) as caught:
    read_head(clone, SMALL)
  assert "\n" not in str(caught.value)
