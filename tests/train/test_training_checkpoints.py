"""A workdir is of one model and one run at a time; a checkpoint is whole or absent, whatever happens meanwhile."""

import json
import random
import re
import subprocess
import sys
import time
from pathlib import Path

import grain
import jax
import jax.numpy as jnp
import numpy as np
import pytest

from dpr_jax.base.errors import BadInput
from dpr_jax.train import checkpoints as training_checkpoints
from dpr_jax.train.checkpoints import Checkpoints, as_json, changed_fields, check_same_model, claim_workdir, read_config
from dpr_jax.train.config import TrainingConfig, check_config, default_config
from dpr_jax.train.step import TrainState

ROOT = Path(__file__).resolve().parents[2]


def state_of(step: int, side: int = 4, discriminator: bool = True) -> TrainState:
  """A state whose every array says which step it is of, on noise that cannot be compressed."""
  noise = np.random.default_rng(0).uniform(size=(side, side)).astype(np.float32)

  def tree(offset):
    return {"conv": {"kernel": jnp.asarray(noise + np.float32(step + offset))}}

  return TrainState(
    step=jnp.asarray(step, jnp.int32),
    params=tree(0.1),
    batch_stats=tree(0.2),
    optimizer_state=(tree(0.3),),
    ema={"params": tree(0.4), "batch_stats": tree(0.5)},
    discriminator_params=tree(0.6) if discriminator else None,
    discriminator_optimizer_state=(tree(0.7),) if discriminator else None,
  )


def numbers() -> grain.DatasetIterator:
  return iter(grain.MapDataset.range(1000).seed(0).shuffle().repeat().to_iter_dataset())


def assert_same(first, second):
  jax.tree.map(np.testing.assert_array_equal, first, second)
  assert jax.tree.structure(first) == jax.tree.structure(second)


@pytest.fixture
def saved(tmp_path) -> Path:
  """A workdir with the checkpoints of steps 2 and 3, after as many draws from the input."""
  training_checkpoints.write_config(tmp_path, TrainingConfig())
  iterator = numbers()
  with Checkpoints(tmp_path, keep=2) as checkpoints:
    for step in (1, 2, 3):
      next(iterator)
      checkpoints.save(step, state_of(step), iterator, TrainingConfig())
  return tmp_path


def test_what_was_saved_comes_back_and_old_ones_go(saved):
  expected = numbers()
  drawn = [next(expected) for _ in range(4)]
  with Checkpoints(saved, keep=2) as checkpoints:
    assert checkpoints.latest == 3
    assert sorted(path.name for path in (saved / "checkpoints").iterdir()) == ["2", "3"]
    assert_same(checkpoints.restore(3, state_of(0)), state_of(3))
    assert_same(checkpoints.restore(2, state_of(0)), state_of(2))
    assert checkpoints.config(3) == as_json(TrainingConfig())
    iterator = numbers()
    checkpoints.restore_iterator(3, iterator)
    assert next(iterator) == drawn[3]
    checkpoints.restore_iterator(2, iterator)
    assert next(iterator) == drawn[2]


def test_the_running_mean_is_an_item_of_its_own(saved):
  items = {path.name for path in (saved / "checkpoints" / "3").iterdir() if path.is_dir()}
  assert items == {"state", "ema", "iterator", "config"}


def test_a_state_may_be_overwritten_as_soon_as_save_returns(tmp_path):
  """As donation does to it."""
  add = jax.jit(lambda tree: jax.tree.map(lambda leaf: leaf + 1, tree), donate_argnums=0)
  state = state_of(0, 128)
  iterator = numbers()
  with Checkpoints(tmp_path, keep=5) as checkpoints:
    for step in range(1, 6):
      state = add(state)
      checkpoints.save(step, state, iterator, TrainingConfig())
    for step in range(1, 6):
      checkpoints.wait()
      restored = checkpoints.restore(step, state)
      assert int(restored.step) == step
      jax.tree.map(lambda leaf, base: np.testing.assert_allclose(leaf, base, rtol=1e-5), restored, state_of(step, 128))


def test_without_a_discriminator_nothing_is_saved_of_it(tmp_path):
  with Checkpoints(tmp_path, keep=1) as checkpoints:
    checkpoints.save(1, state_of(1, discriminator=False), numbers(), TrainingConfig())
    checkpoints.wait()
    assert_same(checkpoints.restore(1, state_of(0, discriminator=False)), state_of(1, discriminator=False))
    with pytest.raises(BadInput, match=r"discriminator_optimizer_state/0/conv/kernel is missing there, \[4, 4\] here"):
      checkpoints.restore(1, state_of(0))


def test_arrays_of_another_model_are_named(saved):
  with (
    Checkpoints(saved, keep=2) as checkpoints,
    pytest.raises(BadInput, match=r"3/state: was written by another model: .*kernel is \[4, 4\] there, \[5, 5\] here"),
  ):
    checkpoints.restore(3, state_of(0, side=5))


def test_another_number_of_processes_is_refused(saved):
  folder = saved / "checkpoints" / "3" / "iterator"
  (folder / "process_0-of-1.json").rename(folder / "process_0-of-2.json")
  (folder / "process_1-of-2.json").touch()
  with (
    Checkpoints(saved, keep=2) as checkpoints,
    pytest.raises(BadInput, match="was written by 2 processes, now there are 1"),
  ):
    checkpoints.restore_iterator(3, numbers())


def test_a_damaged_checkpoint_is_one_line(saved):
  for path in (saved / "checkpoints" / "3" / "state").rglob("*"):
    if path.is_file() and path.parent.name == "d":
      path.unlink()
  with (
    Checkpoints(saved, keep=2) as checkpoints,
    pytest.raises(BadInput, match="checkpoints/3: cannot be read") as error,
  ):
    checkpoints.restore(3, state_of(0))
  assert "\n" not in str(error.value)


@pytest.mark.parametrize("content", ["3", "[]", "{", ""])
def test_a_config_that_is_none_is_one_line(tmp_path, content):
  path = tmp_path / "checkpoints" / "5" / "config" / "metadata"
  path.parent.mkdir(parents=True)
  path.write_text(content)
  with pytest.raises(BadInput, match="metadata: cannot be read") as refused:
    read_config(tmp_path, 5)
  assert "\n" not in str(refused.value)


def changed(**fields) -> dict:
  config = default_config()
  config.update_from_flattened_dict({name.replace("__", "."): value for name, value in fields.items()})
  return as_json(check_config(config))


@pytest.mark.parametrize(
  ("field", "value"),
  [
    ("network__name", "1024"),
    ("network__base_filters", 8),
    ("network__light_channels", 9),
    ("discriminator__base_filters", 8),
    ("discriminator__levels", 2),
    ("loss__adversarial", 0.0),
  ],
)
def test_a_field_of_the_model_must_be_the_same(field, value):
  theirs, ours = changed(), changed(**{field: value})
  name = field.replace("__", ".")
  with pytest.raises(BadInput, match=rf"there: was trained with config\.{name} = .*, now it is {value!r}"):
    check_same_model(ours, theirs, Path("there"))
  check_same_model(ours, ours, Path("there"))


def test_other_fields_may_change_and_are_named():
  theirs = changed(loss__adversarial=0.0)
  ours = changed(loss__adversarial=0.0, discriminator__levels=2, num_steps=7, skip_steps=(1, 2, 3, 4))
  check_same_model(ours, theirs, Path("there"))  # a discriminator that neither has
  assert changed_fields(ours, theirs) == [
    "discriminator.levels: 3 -> 2",
    "num_steps: 100000 -> 7",
    "skip_steps: [0, 0, 0, 0] -> [1, 2, 3, 4]",
  ]
  assert changed_fields(ours, ours) == []


def test_a_folder_of_something_else_is_left_alone(tmp_path):
  (tmp_path / "thesis.tex").write_text("chapter 1")
  with pytest.raises(BadInput, match=r"holds 'thesis.tex', but no config\.json"), claim_workdir(tmp_path):
    pass
  (tmp_path / "config.json").write_text('{"name": "of another program"}')
  with pytest.raises(BadInput, match=r"holds 'config.json', but no"), claim_workdir(tmp_path):
    pass
  assert sorted(path.name for path in tmp_path.iterdir()) == ["config.json", "thesis.tex"]
  with pytest.raises(BadInput, match="cannot be written to"), claim_workdir(tmp_path / "thesis.tex" / "run"):
    pass


def test_a_workdir_is_claimed_by_one_run_at_a_time(tmp_path):
  with claim_workdir(tmp_path):
    with pytest.raises(BadInput, match="another run is training there"), claim_workdir(tmp_path):
      pass
    training_checkpoints.write_config(tmp_path, TrainingConfig())
  (tmp_path / ".0123456789abcdef.json").touch()  # left over by a kill
  with claim_workdir(tmp_path):
    assert sorted(path.name for path in tmp_path.iterdir()) == [".lock", "config.json"]
  assert json.loads((tmp_path / "config.json").read_text()) == as_json(TrainingConfig())


# Writes checkpoints of 8 MB without end.
_WRITER = """
import sys
from pathlib import Path
from tests.train.test_training_checkpoints import Checkpoints, TrainingConfig, numbers, state_of
from dpr_jax.base.errors import BadInput
try:
  with Checkpoints(Path(sys.argv[1]), keep=2) as checkpoints:
    step = checkpoints.latest or 0
    while True:
      step += 1
      checkpoints.save(step, state_of(step, side=500), numbers(), TrainingConfig())
      print(step, flush=True)
except BadInput as error:
  print(error)
"""


def kill_while_writing(workdir: Path, times: int) -> int:
  """How many kills left a checkpoint half written."""
  rng, torn = random.Random(0), 0
  for _ in range(times):
    writer = subprocess.Popen(
      [sys.executable, "-c", _WRITER, str(workdir)], cwd=ROOT, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL
    )
    writer.stdout.readline()
    writer.stdout.readline()  # the first checkpoint is complete: the second one waits for it
    time.sleep(rng.uniform(0, 0.5))
    writer.kill()
    writer.communicate()
    torn += any("tmp" in path.name for path in (workdir / "checkpoints").iterdir())
    with Checkpoints(workdir, keep=2) as checkpoints:
      latest = checkpoints.latest
      assert_same(checkpoints.restore(latest, state_of(0, side=500)), state_of(latest, side=500))
      checkpoints.restore_iterator(latest, numbers())
      assert checkpoints.config(latest) == as_json(TrainingConfig())
  with Checkpoints(workdir, keep=2) as checkpoints:
    checkpoints.save(latest + 1, state_of(latest + 1, side=500), numbers(), TrainingConfig())
  assert {path.name for path in (workdir / "checkpoints").iterdir()} <= {str(latest + step) for step in (-1, 0, 1)}
  return torn


def test_killed_while_it_writes_a_checkpoint_the_last_whole_one_stays(tmp_path):
  kill_while_writing(tmp_path, 2)


@pytest.mark.slow
def test_killed_often_while_it_writes_a_checkpoint(tmp_path):
  torn = kill_while_writing(tmp_path, 25)
  print(f"{torn} of 25 kills left a checkpoint half written")
  assert torn > 5  # otherwise the kills prove little


def test_a_full_disk_is_one_line_and_the_older_checkpoint_stays(saved):
  # A limit on the size of a file, in KiB: what `saved` holds fits, the writer's arrays don't.
  limited = ["bash", "-c", 'ulimit -f 60; exec "$@"', "bash", sys.executable, "-c", _WRITER, str(saved)]
  done = subprocess.run(limited, cwd=ROOT, capture_output=True, text=True, timeout=600)
  last = done.stdout.splitlines()[-1]
  assert re.match(rf"{re.escape(str(saved))}/checkpoints/[0-9]+: ", last), done.stderr  # which one it was
  assert "cannot be written" in last
  with Checkpoints(saved, keep=2) as checkpoints:
    assert checkpoints.latest == 3
    assert_same(checkpoints.restore(3, state_of(0)), state_of(3))
