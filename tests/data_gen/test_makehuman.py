"""Hair read out of small files written here, and laid on a small head."""

import os

import numpy as np
import pytest

from data_gen.heads.makehuman import HM08_TO_ICT, read_hair
from dpr_jax.base.errors import BadInput
from tests.data_gen.test_facekit import write_obj

TERMS = "Creative Commons Legal Code\n\nCC0 1.0 Universal\n"
UV = np.array([(0.25, 0.5), (0.5, 0.125), (1.5, 0.75)])
FACES = ["f 1/1 2/2 4/3 3/1", "f 3/3 4/2 5/1"]
# On hm08, in decimetres: two vertices of its head, and one of which only the height counts.
BASE = np.array([(0, 8, 1), (0.5, 8, 1), (0, 7, 0), *[(0, 0, 0)] * 19155])
HEADER = """# of a test
name Wig
basemesh hm08
x_scale 0 1 0.25
z_scale 1 2 2
y_scale 2 0 1

"""
PLACES = [
  " 0 1 2 0.5 0.25 0.25 0 0 0",
  "0 1 2 1 0 0 0.25 0 0",
  "0 1 2 1 0 0 0 0.25 0",
  "0 1 2 1 0 0 0 0 0.25",
  "2 1 0 -0.5 1.5 0 0 0 0",
]
# Offsets count twice along x and half along z: what the style was made for is half as wide, and twice as deep.
ON_BASE = np.array([(0.125, 7.75, 0.75), (0.5, 8, 1), (0, 8.25, 1), (0, 8, 1.125), (0.75, 8.5, 1.5)])


@pytest.fixture
def clones(tmp_path):
  """A base mesh and a hair style as the two projects keep their own."""
  write_base(tmp_path, BASE)
  wig = tmp_path / "makehuman-assets" / "base" / "hair" / "wig"
  wig.mkdir(parents=True)
  (tmp_path / "makehuman-assets" / "LICENSE.txt").write_text(TERMS)
  write_obj(wig / "wig.obj", np.zeros((5, 3)), FACES, UV)
  write_places(wig)
  return tmp_path


def write_base(folder, vertices):
  path = folder / "makehuman" / "makehuman" / "data" / "3dobjs" / "base.obj"
  path.parent.mkdir(parents=True, exist_ok=True)
  write_obj(path, vertices, ["g body", "f 1/1 2/1 3/1"], UV)


def write_places(wig, places=PLACES, header=HEADER):
  (wig / "wig.mhclo").write_text("\n".join([header, "verts 0", "material wig.mhmat", *places]) + "\n")


def on_head(points):
  return points @ HM08_TO_ICT[:, :3].T + HM08_TO_ICT[:, 3]


def read(clones):
  """The wig on a head that has skin beside each vertex of the wig, and an eyeball at the first."""
  neutral = np.float32([on_head(ON_BASE)[0], *on_head(ON_BASE + 0.001)[::-1]])
  head = {"neutral": neutral, "vertex_region": np.array([7, 0, 1, 0, 1, 0], np.int8)}
  return read_hair(clones / "makehuman", clones / "makehuman-assets", head, styles=["wig"])


def test_a_style_lies_on_the_head_as_it_does_on_the_base_mesh(clones):
  arrays = read(clones)
  np.testing.assert_allclose(arrays["wig_vertices"], on_head(ON_BASE), rtol=1e-6, atol=1e-6)
  np.testing.assert_array_equal(arrays["wig_faces"], [(0, 1, 3), (0, 3, 2), (2, 3, 4)])
  np.testing.assert_array_equal(arrays["wig_face_uv"], [(0, 1, 2), (0, 2, 0), (2, 1, 0)])
  np.testing.assert_array_equal(arrays["wig_uv"], UV)
  assert arrays["names"].tolist() == ["wig"]
  assert arrays["license"] == TERMS


def test_hair_moves_with_the_skin_that_is_nearest(clones):
  np.testing.assert_array_equal(read(clones)["wig_bind"], [5, 4, 3, 2, 1])


def test_hair_below_the_neck_moves_with_the_neck(clones):
  head = {"neutral": np.float32([(0, -11, 0), (0, -13, 0)]), "vertex_region": np.zeros(2, np.int8)}
  write_base(clones, BASE - (0, 10, 0))
  arrays = read_hair(clones / "makehuman", clones / "makehuman-assets", head, styles=["wig"])
  assert arrays["wig_vertices"][:, 1].max() < -13
  np.testing.assert_array_equal(arrays["wig_bind"], 0)


def test_the_way_from_one_head_to_the_other_keeps_shapes_and_sides():
  axes = HM08_TO_ICT[:, :3]
  scale = np.cbrt(np.linalg.det(axes))
  np.testing.assert_allclose(scale, 10.418, atol=1e-3)
  np.testing.assert_allclose(axes.T @ axes, scale**2 * np.eye(3), atol=1e-6)


def replaced(old, new):
  """Changes a line of the placement."""

  def spoil(wig):
    assert old in HEADER or old in PLACES
    write_places(wig, [new if place == old else place for place in PLACES], HEADER.replace(old, new))

  return spoil


NO_PLACE, NO_SCALE = (
  rf"wig\.mhclo: has {what} vertices of hm08 and {others} more numbers"
  for what, others in (("a place that is not 3", 6), ("a scale that is not 2", 1))
)
FAULTS = {
  "the licence is missing": (
    lambda wig: (wig.parents[2] / "LICENSE.txt").unlink(),
    r"LICENSE\.txt: cannot be read \(No such file or directory\)",
  ),
  "the licence is another": (
    lambda wig: (wig.parents[2] / "LICENSE.txt").write_text("GNU AFFERO GENERAL PUBLIC LICENSE"),
    r"LICENSE\.txt: is not CC0 1\.0 Universal",
  ),
  "the base mesh is another": (
    lambda wig: write_base(wig.parents[3], BASE[:-1]),
    r"base\.obj: has 19157 vertices, and not the 19158 of hm08",
  ),
  "the polygons are missing": (
    lambda wig: (wig / "wig.obj").unlink(),
    r"wig\.obj: cannot be read \(No such file or directory\)",
  ),
  "the placement is missing": (
    lambda wig: (wig / "wig.mhclo").unlink(),
    r"wig\.mhclo: cannot be read \(No such file or directory\)",
  ),
  "the placement is larger than any": (
    lambda wig: os.truncate(wig / "wig.mhclo", 2**21 + 1),
    r"wig\.mhclo: cannot be read \(it has more than 2097152 bytes\)",
  ),
  "the placement is for another mesh": (
    replaced("basemesh hm08", "basemesh alpha_7"),
    r"wig\.mhclo: is not made for the base mesh hm08",
  ),
  "the placement is a pointer to a file elsewhere": (
    lambda wig: (wig / "wig.mhclo").write_text("version https://git-lfs.github.com/spec/v1\n"),
    r"wig\.mhclo: is not made for the base mesh hm08",
  ),
  "the polygons are a pointer to a file elsewhere": (
    lambda wig: (wig / "wig.obj").write_text("version https://git-lfs.github.com/spec/v1\n"),
    r"wig\.obj: has 0 vertices, and wig\.mhclo places 5",
  ),
  "a vertex has no place": (
    lambda wig: write_places(wig, PLACES[:-1]),
    r"wig\.obj: has 5 vertices, and wig\.mhclo places 4",
  ),
  "there are no places": (lambda wig: write_places(wig, []), NO_PLACE),
  "a place is short": (replaced(PLACES[1], "0 1 2 1 0 0 0.25 0"), NO_PLACE),
  "all places are short": (lambda wig: write_places(wig, ["0 1 2 1 0 0"] * 3), NO_PLACE),
  "a place is not a number": (replaced(PLACES[1], "0 1 2 1 0 0 one 0 0"), NO_PLACE),
  "a place is not finite": (replaced(PLACES[1], "0 1 2 1 0 0 nan 0 0"), NO_PLACE),
  "a place is far away": (replaced(PLACES[1], "0 1 2 1 0 0 1e300 0 0"), NO_PLACE),
  "a place is on a vertex that does not exist": (replaced(PLACES[1], "0 1 19158 1 0 0 0 0 0"), NO_PLACE),
  "a place is on a vertex before the first": (replaced(PLACES[1], "-1 1 2 1 0 0 0 0 0"), NO_PLACE),
  "a place is between two vertices": (replaced(PLACES[1], "0.5 1 2 1 0 0 0 0 0"), NO_PLACE),
  "a scale is missing": (replaced("x_scale 0 1 0.25\n", ""), NO_SCALE),
  "a scale is short": (replaced("x_scale 0 1 0.25", "x_scale 0 1"), NO_SCALE),
  "a scale is of nothing": (
    replaced("x_scale 0 1 0.25", "x_scale 0 1 0"),
    r"wig\.mhclo: has a scale of less than 0\.01",
  ),
}


@pytest.mark.parametrize("fault", FAULTS)
def test_clones_that_cannot_be_used_are_one_line(clones, fault):
  spoil, message = FAULTS[fault]
  spoil(clones / "makehuman-assets" / "base" / "hair" / "wig")
  with pytest.raises(BadInput, match=message) as caught:
    read(clones)
  assert "\n" not in str(caught.value)
