"""What is not a regular file of a fit size is not waited for, by whoever reads it."""

import os
import signal

import pytest

from data_gen.numpy_pickle import read_numpy_pickle
from data_gen.target_lights import _list_files
from dpr_jax import records
from dpr_jax.base import input_files
from dpr_jax.base.errors import BadInput
from dpr_jax.film.reader import check_film
from dpr_jax.image.photo import read_photo
from dpr_jax.light.environment_files import read_environment
from dpr_jax.light.files import read_coefficients
from dpr_jax.network.pytorch_weights import read_state_dict
from dpr_jax.network.weights import load_params
from dpr_jax.train import checkpoints as training_checkpoints


@pytest.fixture
def in_time():
  """Fails a test that waits: for a pipe that nobody writes to, or for the end of what has none."""

  def late(*_):
    raise TimeoutError("waits for ever")

  before = signal.signal(signal.SIGALRM, late)
  signal.alarm(60)
  yield
  signal.alarm(0)
  signal.signal(signal.SIGALRM, before)


def read_config(path):
  place = path.parent / "checkpoints" / "5" / "config" / "metadata"
  place.parent.mkdir(parents=True)
  place.symlink_to(path)
  training_checkpoints.read_config(path.parent, 5)


READERS = {
  "config": read_config,
  "light": read_coefficients,
  "list of lights": lambda path: _list_files(path.parent, path),
  "map": read_environment,
  "film": check_film,
  "photo": read_photo,
  "pickle": read_numpy_pickle,
  "records": lambda path: next(records.read_tfrecords(path)),
  "weights": load_params,
  "PyTorch weights": read_state_dict,
}


@pytest.mark.usefixtures("in_time")
@pytest.mark.parametrize("what", ["pipe", "device"])
@pytest.mark.parametrize("name", list(READERS))
def test_pipes_and_devices_are_refused_in_one_line(name, what, tmp_path):
  path = tmp_path / "input.exr"
  (tmp_path / "a.txt").write_text("1 0 0 0 0 0 0 0 0")
  if what == "pipe":
    os.mkfifo(path)
  else:
    path.symlink_to("/dev/zero")
  with pytest.raises(BadInput) as refused:
    READERS[name](path)
  assert "\n" not in str(refused.value)
  assert len(str(refused.value)) < 300


def test_what_is_larger_than_such_files_are_is_not_read(tmp_path):
  path = tmp_path / "note.json"
  path.write_text('{"a": 1}')
  assert input_files.read_json(path) == {"a": 1}
  assert input_files.read_bytes(path, 8) == b'{"a": 1}'
  with pytest.raises(OSError, match="more than 7 bytes"):
    input_files.read_bytes(path, 7)
  with pytest.raises(IsADirectoryError):
    input_files.read_bytes(tmp_path)
  path.write_text("[" * 100_000)
  with pytest.raises(ValueError, match="nested too deeply"):
    input_files.read_json(path)
  path.write_bytes(b"\xff")
  with pytest.raises(ValueError, match="utf-8"):
    input_files.read_json(path)
