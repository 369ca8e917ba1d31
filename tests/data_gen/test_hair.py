"""The file of hair styles: what is read of it, and what is refused."""

import io
import zipfile
from types import SimpleNamespace

import numpy as np
import pytest

from data_gen.heads.hair import load_hair
from dpr_jax.base.errors import BadInput

HEAD = SimpleNamespace(file_vertex=np.array([4, 2, 7]))  # three of the vertices of its file
# Two triangles whose texture is cut apart along the edge that they share.
WIG = {
  "vertices": np.float32([[0, 0, 0], [2, 0, 0], [2, 2, 0], [0, 2, 0]]),
  "faces": np.int32([[0, 1, 2], [0, 2, 3]]),
  "uv": np.float32([[0, 0], [0.5, 0], [0.5, 1], [0.6, 0], [1, 1], [0.6, 1]]),
  "face_uv": np.int32([[0, 1, 2], [3, 4, 5]]),
  "bind": np.int32([4, 7, 2, 4]),
}


def written(folder, **changes):
  np.savez(folder / "hair.npz", **{f"wig_{name}": array for name, array in (WIG | changes).items()})
  return folder / "hair.npz"


def test_a_style_is_read(tmp_path):
  hair = load_hair(written(tmp_path), HEAD, ["wig"])["wig"]
  np.testing.assert_array_equal(hair.vertices, WIG["vertices"])
  np.testing.assert_array_equal(hair.bind, [0, 2, 1, 0])
  np.testing.assert_array_equal(hair.corner[hair.corner_triangles], hair.triangles)
  assert len(hair.corner) == 6
  along = hair.strands[hair.corner_triangles, 0].ravel() / hair.strands[:, 0].max()
  np.testing.assert_allclose(along, WIG["uv"][WIG["face_uv"].ravel(), 0])
  assert hair.strands[:, 2].max() == 0  # all of it is edge


@pytest.mark.parametrize(
  "changes",
  [
    {"bind": np.int32([4, 7, 2, 3])},  # no vertex of the head
    {"bind": np.int32([4, 7, 2])},
    {"vertices": np.zeros((4, 2), np.float32)},
    {"faces": np.int32([[0, 1, 2], [0, 2, 4]])},
    {"faces": np.int32([[0, 1, 2], [0, 2, -1]])},
    {"face_uv": np.int32([[0, 1, 2], [3, 4, 6]])},
    {"face_uv": np.int32([[0, 1, 2], [3, 4, -1]])},
    {"face_uv": np.int32([[0, 1, 2]])},
  ],
)
def test_a_damaged_style_is_refused_by_name(tmp_path, changes):
  path = written(tmp_path, **changes)
  with pytest.raises(BadInput, match="the hair style wig") as caught:
    load_hair(path, HEAD, ["wig"])
  assert str(caught.value) == f"{path}: the hair style wig is damaged"


@pytest.mark.parametrize("damage", ["a member's data", "a member's header", "how it is packed"])
def test_damage_of_any_kind_is_one_line(tmp_path, damage):
  path = tmp_path / "hair.npz"
  np.savez_compressed(path, wig_vertices=np.random.default_rng(0).normal(size=(500, 3)))
  content = bytearray(path.read_bytes())
  if damage == "a member's data":
    content[200:240] = bytes([255] * 40)
  elif damage == "how it is packed":
    for at in (8, content.index(b"PK\1\2") + 10):  # the method, which zipfile doesn't know then
      content[at] = 99
  path.write_bytes(content)
  if damage == "a member's header":
    file = io.BytesIO()
    np.save(file, np.zeros((4, 3)))
    with zipfile.ZipFile(path, "w") as archive:
      archive.writestr("wig_vertices.npy", file.getvalue().replace(b"(4, 3)", b"(4, ''"))
  with pytest.raises(BadInput) as caught:
    load_hair(path, HEAD, ["wig"])
  assert str(caught.value).startswith(f"{path}: cannot be read as hair styles: ")
  assert "\n" not in str(caught.value)


def test_other_files_are_refused(tmp_path):
  with pytest.raises(BadInput, match="not a file of hair styles: bob"):
    load_hair(written(tmp_path), HEAD, ["wig", "bob"])
  (tmp_path / "text.npz").write_text("no archive")
  for name in ("text.npz", "missing.npz"):
    with pytest.raises(BadInput, match="cannot be read as hair styles"):
      load_hair(tmp_path / name, HEAD, ["wig"])
