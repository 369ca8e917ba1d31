"""`dpr-jax convert-head` on files that the reference files tell of."""

import os
import shutil
import subprocess
import sys

import numpy as np
import pytest
from scipy import sparse
from scipy.sparse import linalg

from tests.conftest import ROOT
from tests.data_gen import test_facekit as facekit
from tests.data_gen import test_makehuman as makehuman

FLAGS = ["--facekit=ICT-FaceKit", "--makehuman=makehuman", "--makehuman_assets=makehuman-assets", "--out=heads"]
HEAD_FILE, HAIR_FILE = "ict_facekit.npz", "makehuman_hair/hair_on_ict.npz"


@pytest.fixture
def references(shared, tmp_path):
  """The head and the hair of the reference files, after writing clones that hold them into `tmp_path`.

  All shapes of the head but three are the neutral one, which saves writing them.
  """
  head, hair = (load(shared(f"heads/{name}")) for name in (HEAD_FILE, HAIR_FILE))
  write_facekit(tmp_path / "ICT-FaceKit" / "FaceXModel", head)
  source = shared("heads/makehuman_hair")
  assets = tmp_path / "makehuman-assets"
  for name in hair["names"]:
    for suffix in ("obj", "mhclo"):
      path = assets / "base" / "hair" / name / f"{name}.{suffix}"
      path.parent.mkdir(parents=True, exist_ok=True)
      shutil.copy(source / f"{name}.{suffix}", path)
  shutil.copy(source / "LICENSE.txt", assets)
  makehuman.write_base(tmp_path, base_mesh(source, hair))
  return head, hair


def load(path):
  with np.load(path, allow_pickle=False) as file:
    return dict(file)


def convert(tmp_path, *flags):
  return subprocess.run(
    [sys.executable, ROOT / "convert_head.py", *FLAGS, *flags], cwd=tmp_path, capture_output=True, text=True
  )


def test_the_command_makes_the_reference_files(references, tmp_path):
  head, hair = references
  ended = convert(tmp_path)
  assert (ended.returncode, ended.stderr) == (0, "")
  assert ended.stdout == (
    f"heads/{HAIR_FILE} holds MakeHuman's hair, CC0 1.0 Universal.\n"
    f"heads/{HEAD_FILE} holds ICT-FaceKit's head under these terms:\n\n{facekit.TERMS}"
  )
  for name, reference in ((HEAD_FILE, head), (HAIR_FILE, hair)):
    made = load(tmp_path / "heads" / name)
    assert set(made) == {*reference, "license"}
    for key, array in reference.items():
      assert made[key].dtype == array.dtype
      if name == HAIR_FILE and key.endswith("_vertices"):  # 0.001 mm, as the base mesh is known no better
        np.testing.assert_allclose(made[key], array, rtol=0, atol=1e-4, err_msg=key)
      else:
        np.testing.assert_array_equal(made[key], array, err_msg=key)
  assert made["license"] == (tmp_path / "makehuman-assets" / "LICENSE.txt").read_text()


def test_files_that_exist_are_replaced_only_where_that_is_wanted(tmp_path):
  path = tmp_path / "heads" / HAIR_FILE
  path.parent.mkdir(parents=True)
  path.write_text("of the user")
  ended = convert(tmp_path)
  assert (ended.returncode, ended.stdout) == (2, "")
  assert ended.stderr == f"convert_head.py: heads/{HAIR_FILE}: exists already (--overwrite replaces it)\n"
  ended = convert(tmp_path, "--overwrite")  # which then looks for the clones
  assert ended.stderr == "convert_head.py: ICT-FaceKit/LICENSE: cannot be read (No such file or directory)\n"
  assert path.read_text() == "of the user"


def test_one_clone_that_cannot_be_used_leaves_nothing_behind(references, tmp_path):
  (tmp_path / "makehuman-assets" / "base" / "hair" / "short04" / "short04.obj").unlink()
  ended = convert(tmp_path)
  assert (ended.returncode, ended.stdout) == (2, "")
  assert ended.stderr == (
    "convert_head.py: makehuman-assets/base/hair/short04/short04.obj: cannot be read (No such file or directory)\n"
  )
  assert not (tmp_path / "heads").exists()


def write_facekit(folder, head):
  """Writes ICT-FaceKit's files, and takes from `head` the shapes that are left out of them."""
  folder.mkdir(parents=True)
  (folder.parent / "LICENSE").write_text(facekit.TERMS)
  neutral, faces = head["neutral"].astype(float), polygons_of(head)
  facekit.write_obj(folder / "generic_neutral_mesh.obj", neutral, faces, head["uv"])
  for modes in ("identity", "expression"):
    first, *others = head[f"{modes}_names"].tolist()
    facekit.write_obj(folder / f"{first}.obj", neutral + head[modes][0], faces, head["uv"])
    for name in others:
      os.link(folder / "generic_neutral_mesh.obj", folder / f"{name}.obj")
    head[modes][1:] = 0
  facekit.write_indices(
    folder,
    expressions=head["expression_names"].tolist(),
    idx_to_landmark_verts=head["landmarks68"].tolist(),
    idx_to_rigid_verts=head["rigid_vertices"].tolist(),
    idx_to_fitting_verts=head["fitting_vertices"].tolist(),
  )


def polygons_of(reference):
  """The lines on polygons and materials of the OBJ file that the reference file was made of."""
  corners = np.stack([reference["faces"], reference["face_uv"]], axis=-1) + 1
  lines, last = [], None
  for polygon in np.split(np.arange(len(corners)), np.flatnonzero(np.diff(reference["face_polygon"])) + 1):
    material = reference["material_names"][reference["face_material"][polygon[0]]]
    if material != last:
      lines.append(f"usemtl {material}")
      last = material
    outline = list(corners[polygon[0]])
    if len(polygon) == 2:
      other = corners[polygon[1]]
      if (outline[0] == other[0]).all():  # cut between the first and the third corner
        outline.append(other[2])
      else:
        outline.insert(2, other[1])
    lines.append("f " + " ".join(f"{vertex}/{uv}" for vertex, uv in outline))
  return lines


def base_mesh(source, hair):
  """`[19158, 3]`: vertices on which all hair styles lie where the reference file has them.

  Where the hair lies is linear in the vertices of the base mesh and in the three distances that stretch offsets.
  """
  weights, offsets, places = [], [], []
  to_base = np.linalg.inv(hair["hm08_to_ict"][:, :3].astype(float))
  for name in hair["names"]:
    lines = [line.split() for line in (source / f"{name}.mhclo").read_text().splitlines()]
    scales = {words[0]: words[1:] for words in lines if words and words[0].endswith("_scale")}
    rows = np.array([words for words in lines if words and words[0].isdecimal()], float)
    row = np.repeat(np.arange(len(rows)), 3)
    weights.append(sparse.csr_array((rows[:, 3:6].ravel(), (row, rows[:, :3].ravel().astype(int))), (len(rows), 19158)))
    offsets.append(rows[:, 6:] / [float(scales[f"{axis}_scale"][2]) for axis in "xyz"])
    places.append((hair[f"{name}_vertices"] - hair["hm08_to_ict"][:, 3].astype(float)) @ to_base.T)
  base = np.empty((19158, 3))
  for number, axis in enumerate("xyz"):
    start, end = map(int, scales[f"{axis}_scale"][:2])  # the same of all styles
    distance = sparse.csr_array(([-1.0, 1, -1], ([0, 0, 0], [start, end, 19158])), (1, 19159))
    system = sparse.vstack([sparse.hstack([sparse.vstack(weights), np.concatenate(offsets)[:, [number]]]), distance])
    damped = sparse.csc_array(system.T @ system + 1e-9 * sparse.eye_array(19159))
    sought = np.append(np.concatenate(places)[:, number], 0)
    base[:, number] = linalg.splu(damped).solve(system.T @ sought)[:-1]
  return base
