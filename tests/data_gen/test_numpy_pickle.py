"""Pickled arrays: read as they were written, refused where they are anything else, and nothing is ever run."""

import os
import pickle

import numpy as np
import pytest

from data_gen.numpy_pickle import read_array, read_arrays, read_numpy_pickle
from dpr_jax.base.errors import BadInput


def write_pickle(path, value, protocol=4):
  path.write_bytes(pickle.dumps(value, protocol))
  return path


@pytest.mark.parametrize("protocol", [3, 4])
@pytest.mark.parametrize("dtype", [np.float32, np.float64, np.int32, np.int64, np.uint16, ">f4"])
def test_pickled_arrays_are_read(tmp_path, dtype, protocol):
  arrays = {
    "a": np.arange(12, dtype=dtype).reshape(3, 4),
    "b": np.asfortranarray(np.arange(6, dtype=dtype).reshape(2, 3)),
  }
  path = write_pickle(tmp_path / "arrays.pkl", {**arrays, "not asked for": 1}, protocol)
  for read, array in zip(read_arrays(path, *arrays), arrays.values(), strict=True):
    np.testing.assert_array_equal(read, array, strict=True)
  path = write_pickle(tmp_path / "array.pkl", arrays["a"], protocol)
  np.testing.assert_array_equal(read_array(path), arrays["a"], strict=True)


class Touch:
  """Runs a command when it is unpickled, by a reader that trusts it."""

  def __init__(self, path):
    self.path = path

  def __reduce__(self):
    return os.mkdir, (str(self.path),)


def test_a_pickle_with_code_runs_nothing(tmp_path):
  path = write_pickle(tmp_path / "evil.pkl", {"mean": Touch(tmp_path / "touched")})
  with pytest.raises(BadInput, match=r"refuses to load global '(posix|nt)\.mkdir'"):
    read_arrays(path, "other")
  assert not (tmp_path / "touched").exists()


@pytest.mark.parametrize(
  "value",
  [
    1,
    np.array([{}]),
    np.array(["text"]),
    np.zeros(3, complex),
  ],
)
def test_pickles_of_something_else(tmp_path, value):
  with pytest.raises(BadInput, match="its content is not a whole NumPy array of plain numbers") as caught:
    read_array(write_pickle(tmp_path / "other.pkl", value))
  assert "\n" not in str(caught.value)
  with pytest.raises(BadInput, match="has no 'a'"):
    read_arrays(write_pickle(tmp_path / "other.pkl", value), "a")


def test_arrays_that_lie_about_their_size(tmp_path):
  content = pickle.dumps({"a": np.zeros(3, np.float32)}, 2 + 1)
  path = tmp_path / "lie.pkl"
  path.write_bytes(content.replace(b"K\x01K\x03\x85", b"K\x01K\x04\x85"))
  with pytest.raises(BadInput, match="'a' is not a whole NumPy array"):
    read_arrays(path, "a")


def test_dicts_of_dicts_and_other_things(tmp_path):
  value = {"layer": {"weight": np.eye(2, dtype=np.float32)}, "name": "net", "odd": np.array([{}])}
  read = read_numpy_pickle(write_pickle(tmp_path / "dicts.pkl", value))
  np.testing.assert_array_equal(read["layer"]["weight"], np.eye(2))
  assert read["name"] == "net"
  assert not isinstance(read["odd"], np.ndarray)


def test_a_dict_that_holds_itself(tmp_path):
  value = {}
  value["self"] = value
  assert "self" in read_numpy_pickle(write_pickle(tmp_path / "loop.pkl", value))
