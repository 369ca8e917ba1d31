"""A run that is stopped, killed or fed with NaN: it goes on as if nothing had happened, or stops with the reason."""

import json
import os
import re
import signal
import socket
import subprocess
import sys
from pathlib import Path

import jax
import numpy as np
import orbax.checkpoint as ocp
import pytest
from PIL import Image

from dpr_jax import records
from dpr_jax.base.errors import BadInput
from dpr_jax.network import weights as checkpoints
from dpr_jax.train import run as training_run
from dpr_jax.train.config import default_config
from dpr_jax.train.processes import start_processes
from dpr_jax.train.run import describe, latest_step, train_and_evaluate

pytestmark = pytest.mark.usefixtures("quick_compilation")

ROOT = Path(__file__).resolve().parents[2]
SIZE = 32
_MEASURED = ("images_per_second", "input_wait_share")  # no two runs agree on them


def face(number: int) -> records.Record:
  rng = np.random.default_rng(number)
  normal = rng.normal(size=(SIZE, SIZE, 3)) - [0, 3, 0]
  normal = (normal / np.linalg.norm(normal, axis=-1, keepdims=True)).astype(np.float32)
  lights = rng.normal(0, 0.2, size=(3, 9)).astype(np.float32)
  lights[:, 0] = 0.8
  return records.Record(
    id=f"face {number}",
    original=rng.integers(0, 256, (SIZE, SIZE, 3), np.uint8),
    relit=rng.integers(0, 256, (2, SIZE, SIZE, 3), np.uint8),
    target_lights=lights[1:],
    source_light=lights[0],
    normal=normal,
    depth=np.zeros((SIZE, SIZE), np.float32),
    mask=np.ones((SIZE, SIZE), bool),
    light_names=("first", "second"),
  )


def write_dataset(folder: Path, **faces: int) -> Path:
  folder.mkdir()
  for split, count in faces.items():
    payloads = [records.encode_record(face(number)) for number in range(count)]
    records.write_tfrecords(folder / records.shard_filename(split, 0, 1), payloads)
  return folder


@pytest.fixture(scope="module")
def dataset(tmp_path_factory) -> Path:
  return write_dataset(tmp_path_factory.mktemp("data") / "dataset", train=7, validation=2)


def tiny(dataset: Path, **fields):
  """A run of six steps that a test can wait for; `fields` with __ for the dots."""
  config = default_config()
  config.num_steps = 6
  config.batch_size = 2
  config.network.base_filters = 2
  config.network.light_channels = 3
  config.data.folder = str(dataset)
  config.data.size = SIZE
  config.data.mode = "online"
  config.discriminator.base_filters = 2
  config.discriminator.levels = 1
  config.log_every = 1
  config.sample_every = config.evaluate_every = 3
  config.save_every = 2
  config.update_from_flattened_dict({name.replace("__", "."): value for name, value in fields.items()})
  return config


# Runs the config that it is given, with a kill where it is told. Its compiled programs are shared by all of them.
_PROGRAM = """
import json, os, signal
from dpr_jax.base import command_line
from dpr_jax.network import traced
from dpr_jax.train import log as training_log, run as training_run
from dpr_jax.train.config import default_config
fields, workdir, kill_at = json.loads(os.environ["PROGRAM"])
config = default_config()
config.update_from_flattened_dict(fields)
traced.enable_compilation_cache()
advance = training_log.TrainingLog.advance
def advance_or_die(log):
  advance(log)
  log.steps = getattr(log, "steps", 0) + 1
  if log.steps == kill_at:
    os.kill(os.getpid(), signal.SIGKILL)
training_log.TrainingLog.advance = advance_or_die
exec(os.environ.get("FIRST", ""))
command_line.run(lambda: training_run.train_and_evaluate(config, workdir))
"""


def start(config, workdir: Path, kill_at: int = 0, **environment) -> subprocess.Popen:
  flat = {}
  for name, value in config.items():
    flat |= {f"{name}.{inner}": field for inner, field in value.items()} if hasattr(value, "items") else {name: value}
  (workdir.parent / "program.py").write_text(_PROGRAM)
  return subprocess.Popen(
    [sys.executable, str(workdir.parent / "program.py")],
    env=os.environ
    | {"PYTHONPATH": str(ROOT), "JAX_PLATFORMS": "cpu", "PROGRAM": json.dumps([flat, str(workdir), kill_at])}
    | environment,
    stdout=subprocess.PIPE,
    stderr=subprocess.PIPE,
    text=True,
  )


def finish(process: subprocess.Popen) -> tuple[int, str, str]:
  out, error = process.communicate(timeout=600)
  # Orbax's, of a disk that is slower than six steps in a row.
  kept = [line for line in error.splitlines(keepends=True) if "Waiting for previous save" not in line]
  return process.returncode, out, "".join(kept)


def arrays(workdir: Path, step: int) -> dict[str, np.ndarray]:
  """All that a checkpoint holds, by its path."""
  found = {}
  for item in ("state", "ema"):
    tree = ocp.StandardCheckpointer().restore((workdir / "checkpoints" / str(step) / item).resolve())
    for path, leaf in jax.tree_util.tree_leaves_with_path(tree):
      found[item + jax.tree_util.keystr(path)] = np.asarray(leaf)
  return found


def lines(workdir: Path) -> list[dict]:
  rows = [json.loads(line) for line in (workdir / "metrics.jsonl").read_text().splitlines()]
  return [{name: value for name, value in row.items() if name not in _MEASURED} for row in rows]


def assert_same_runs(first: Path, second: Path, step: int):
  ours, theirs = arrays(first, step), arrays(second, step)
  assert ours.keys() == theirs.keys()
  for name in ours:
    np.testing.assert_array_equal(ours[name], theirs[name], err_msg=name)
  assert lines(first) == lines(second)
  iterators = [
    json.loads((run / f"checkpoints/{step}/iterator/process_0-of-1.json").read_text()) for run in (first, second)
  ]
  assert iterators[0] == iterators[1]


@pytest.fixture(scope="module")
def whole(dataset, tmp_path_factory, quick_compilation) -> Path:
  """A run that nothing disturbed."""
  workdir = tmp_path_factory.mktemp("whole") / "run"
  code, out, error = finish(start(tiny(dataset), workdir))
  assert code == 0, error
  assert error == ""
  assert out.splitlines()[-1] == f"trained to step 6: {workdir / 'relit.png'}"
  return workdir


def test_a_run_leaves_what_it_promises(whole):
  assert {path.name for path in whole.iterdir()} == {
    ".lock",
    "checkpoints",
    "config.json",
    "metrics.jsonl",
    "relit.png",
    "samples",
    "tensorboard",
  }
  assert sorted(path.name for path in (whole / "checkpoints").iterdir()) == ["2", "4", "6"]
  assert sorted(path.name for path in (whole / "samples").iterdir()) == ["step_00000003.png", "step_00000006.png"]
  assert json.loads((whole / "config.json").read_text())["network"]["base_filters"] == 2
  rows = lines(whole)
  assert [row["step"] for row in rows] == [1, 2, 3, 4, 5, 6]
  terms = {"image", "gradient", "light", "adversarial", "feature", "discriminator", "loss"}
  more = {"gradient_norm", "discriminator_gradient_norm", "learning_rate", "skips_on", "corrupt_records"}
  assert all(row.keys() >= terms | more for row in rows)
  scores = {
    f"validation/{name}" for name in ("l1", "si_mse", "ssim", "identity_l1", "identity_si_mse", "identity_ssim")
  }
  assert [row.keys() >= scores for row in rows] == [False, False, True, False, False, True]
  measured = [json.loads(line) for line in (whole / "metrics.jsonl").read_text().splitlines()]
  # The first step of a stage compiles it, and measures nothing else.
  assert [row.keys() >= set(_MEASURED) for row in measured] == [False, True, True, True, True, True]
  with Image.open(whole / "relit.png") as image:
    assert image.size == (6 * (SIZE + 8) + 8, 2 * (SIZE + 16 + 24) + 8)  # two held-out faces under five lights


def test_the_weights_can_be_used(whole):
  weights = checkpoints.load_params(whole)
  stored = arrays(whole, 6)
  kernel = weights["params"]["trunk"]["level0"]["down"]["conv1"]["kernel"]
  np.testing.assert_array_equal(kernel, stored["ema['params']['trunk']['level0']['down']['conv1']['kernel']"])


def test_killed_and_resumed_it_is_the_same_bit_for_bit(dataset, whole, tmp_path):
  killed = tmp_path / "run"
  code, _, _ = finish(start(tiny(dataset), killed, kill_at=5))
  assert code == -signal.SIGKILL
  assert latest_step(killed) in (2, 4)  # that of step 4 may still have been on its way
  code, out, error = finish(start(tiny(dataset), killed))
  assert (code, error) == (0, "")
  assert out.splitlines()[0].startswith("goes on from step ")
  assert_same_runs(whole, killed, 6)


@pytest.mark.slow
@pytest.mark.parametrize("mode", ["online", "offline"])
def test_killed_after_every_step_and_resumed_it_is_the_same(dataset, tmp_path, mode):
  config = tiny(dataset, data__mode=mode, save_every=1, num_steps=8, skip_steps=(1, 2, 4, 6), data__crop=0.1)
  whole, killed = tmp_path / "whole", tmp_path / "killed"
  assert finish(start(config, whole))[0] == 0
  kills = 0
  while finish(start(config, killed, kill_at=2))[0]:
    kills += 1
    assert kills < 30
  assert kills >= 4
  assert_same_runs(whole, killed, 8)


def at_step(monkeypatch, step: int, action):
  """Calls `action` at the end of so many steps of this process."""
  advance, count = training_run.TrainingLog.advance, [0]

  def counted(log):
    advance(log)
    count[0] += 1
    if count[0] == step:
      action()

  monkeypatch.setattr(training_run.TrainingLog, "advance", counted)


@pytest.fixture
def in_process(monkeypatch, whole):
  """Runs of this process use what the others have compiled."""
  from dpr_jax.network import traced

  names = (
    "jax_compilation_cache_dir",
    "jax_persistent_cache_min_compile_time_secs",
    "jax_persistent_cache_min_entry_size_bytes",
  )
  before = {name: getattr(jax.config, name) for name in names}
  traced.enable_compilation_cache()
  yield
  for name, value in before.items():
    jax.config.update(name, value)


@pytest.mark.parametrize("sent", [signal.SIGTERM, signal.SIGINT])
def test_a_signal_saves_the_step_and_the_run_goes_on_from_there(
  dataset, whole, tmp_path, monkeypatch, capsys, in_process, sent
):
  with monkeypatch.context() as patch:
    at_step(patch, 2, lambda: os.kill(os.getpid(), sent))
    if sent == signal.SIGINT:
      with pytest.raises(KeyboardInterrupt):
        train_and_evaluate(tiny(dataset), tmp_path / "run")
    else:
      train_and_evaluate(tiny(dataset), tmp_path / "run")
  assert capsys.readouterr().out.splitlines()[-1] == "stopped and saved at step 3; the same command goes on"
  assert latest_step(tmp_path / "run") == 3
  assert not (tmp_path / "run" / "relit.png").exists()
  assert signal.getsignal(signal.SIGTERM) == signal.SIG_DFL
  if sent == signal.SIGINT:
    return  # the way from here is that of the other signal
  train_and_evaluate(tiny(dataset, num_steps=4, log_every=2), tmp_path / "run")
  out = capsys.readouterr().out.splitlines()
  assert out[0] == f"goes on from step 3 of {tmp_path / 'run' / 'checkpoints'}"
  assert out[1] == "changed since then: log_every: 1 -> 2; num_steps: 6 -> 4"
  # The learning rate is constant, so that the same step comes out of the shorter run.
  ours, theirs = arrays(tmp_path / "run", 4), arrays(whole, 4)
  assert all((ours[name] == theirs[name]).all() for name in theirs)


@pytest.mark.parametrize("save_every", [1, 100])
def test_nan_stops_it_and_nothing_of_that_step_is_saved(dataset, tmp_path, monkeypatch, in_process, save_every):
  make = training_run.make_iterator

  def poisoned(*arguments, **more):
    iterator = make(*arguments, **more)
    draw, count = iterator.__class__.__next__, [0]

    class Poisoned(iterator.__class__):
      def __next__(self):
        batch = draw(self)
        count[0] += 1
        if count[0] == 3:
          batch.luminance[0, 5, 5] = np.nan
        return batch

    iterator.__class__ = Poisoned
    return iterator

  monkeypatch.setattr(training_run, "make_iterator", poisoned)
  config = tiny(dataset, save_every=save_every, log_every=100, sample_every=100, evaluate_every=100)
  with pytest.raises(BadInput) as error:
    train_and_evaluate(config, tmp_path / "run")
  message = str(error.value)
  assert message.startswith("step 3: ")
  assert {f"{term} is nan" for term in ("image", "gradient", "light")} <= set(message[8:].split("; ")[0].split(", "))
  assert "\n" not in message
  if save_every == 1:
    assert message.endswith("training stopped, the last checkpoint is of step 2")
    assert latest_step(tmp_path / "run") == 2
    assert all(np.isfinite(leaf).all() for leaf in arrays(tmp_path / "run", 2).values())
  else:
    assert message.endswith("training stopped, no checkpoint was written yet")
    assert latest_step(tmp_path / "run") is None


def test_only_what_is_not_finite_is_named():
  bad, fine = np.float32("nan"), np.float32(1)
  for metrics, named in (
    ({"image": fine, "light": bad, "gradient_norm": bad}, "light is nan"),
    ({"image": fine, "gradient_norm": np.float32("inf")}, "gradient_norm is inf"),
  ):
    with pytest.raises(BadInput, match=f"^step 7: {named}; training stopped, all is lost$"):
      training_run._Pending(7, metrics).numbers(lambda: "all is lost")
  assert training_run._Pending(7, {"image": fine}).numbers(str) == {"image": 1.0}


def test_a_workdir_of_another_model_is_refused(dataset, whole):
  before = (whole / "config.json").read_bytes()
  with pytest.raises(BadInput, match=r"config\.network\.base_filters = 2, now it is 3"):
    train_and_evaluate(tiny(dataset, network__base_filters=3), whole)
  assert (whole / "config.json").read_bytes() == before


def test_a_finished_run_is_not_trained_further(dataset, whole, capsys):
  before = (whole / "metrics.jsonl").read_bytes()
  train_and_evaluate(tiny(dataset), whole)
  assert "trained to step 6" in capsys.readouterr().out
  assert (whole / "metrics.jsonl").read_bytes() == before
  assert latest_step(whole) == 6


def test_a_truncated_shard_stops_it_at_once(tmp_path):
  folder = write_dataset(tmp_path / "dataset", train=4, validation=1)
  shard = folder / "dpr-train.tfrecord-00000-of-00001"
  os.truncate(shard, shard.stat().st_size - 10)
  with pytest.raises(BadInput, match=r"dpr-train.tfrecord-00000-of-00001: record 3 .* is truncated"):
    train_and_evaluate(tiny(folder), tmp_path / "run")
  assert latest_step(tmp_path / "run") is None


def test_without_held_out_faces_it_says_so_and_shows_others(tmp_path, capsys, in_process):
  folder = write_dataset(tmp_path / "dataset", train=7)
  train_and_evaluate(tiny(folder, num_steps=1), tmp_path / "run")
  assert f"{folder}: no face is in the validation split, so that nothing is evaluated" in capsys.readouterr().out
  assert (tmp_path / "run" / "relit.png").exists()
  assert not any(name.startswith("validation/") for name in lines(tmp_path / "run")[0])


def test_damaged_held_out_faces_stop_it_or_are_skipped(tmp_path, capsys, in_process):
  folder = write_dataset(tmp_path / "dataset", train=7, validation=2)
  shard = folder / "dpr-validation.tfrecord-00000-of-00001"
  os.truncate(shard, shard.stat().st_size - 10)
  with pytest.raises(BadInput, match=r"dpr-validation.* record 1 .* is truncated"):
    train_and_evaluate(tiny(folder), tmp_path / "stopped")
  train_and_evaluate(tiny(folder, num_steps=1, data__on_corrupt="skip"), tmp_path / "run")
  assert "validation/l1" in lines(tmp_path / "run")[0]
  assert "skipped" not in capsys.readouterr().out  # of the faces to train on none was


def test_damaged_faces_that_were_skipped_are_named_at_the_end(tmp_path, capsys, in_process, monkeypatch):
  folder = write_dataset(tmp_path / "dataset", train=7)
  shard = folder / "dpr-train.tfrecord-00000-of-00001"
  os.truncate(shard, shard.stat().st_size - 10)
  train_and_evaluate(tiny(folder, num_steps=1, data__on_corrupt="skip"), tmp_path / "run")
  *_, skipped, trained = capsys.readouterr().out.splitlines()
  assert re.fullmatch(rf"skipped: {re.escape(str(shard))}: record 6 .* is truncated.*", skipped)
  assert trained.startswith("trained to step 1")
  monkeypatch.setattr(training_run, "_MOST_NAMED", 0)
  train_and_evaluate(tiny(folder, num_steps=1, data__on_corrupt="skip"), tmp_path / "many")
  assert capsys.readouterr().out.splitlines()[-2] == "skipped: 1 more"


def test_data_that_are_not_there_leave_no_trace(tmp_path):
  (tmp_path / "empty").mkdir()
  for name, reason in (("none", "not a readable folder"), ("empty", "holds no dpr-train")):
    for act in (describe, train_and_evaluate):
      with pytest.raises(BadInput, match=f"{name}: {reason}"):
        act(tiny(tmp_path / name), tmp_path / "run")
  assert not (tmp_path / "run").exists()


def test_a_folder_is_needed_where_nobody_makes_faces(tmp_path):
  with pytest.raises(BadInput, match=r"config\.data\.folder is empty"):
    train_and_evaluate(tiny(Path(), data__folder=""), tmp_path / "run")


def test_a_bad_config_leaves_no_trace(dataset, tmp_path):
  with pytest.raises(BadInput, match=r"config\.data\.size"):
    train_and_evaluate(tiny(dataset, data__size=33), tmp_path / "run")
  assert not (tmp_path / "run").exists()


def test_the_plan_is_told_and_nothing_is_written(dataset, whole, tmp_path):
  told = describe(tiny(dataset), tmp_path / "run")
  assert f"data: {dataset}; 32 x 32 pixels, online" in told
  assert told.endswith(f"{tmp_path / 'run'}: begins anew")
  assert describe(tiny(dataset), whole).endswith(f"{whole}: goes on from step 6")
  assert f"\nnetwork.init {whole}\n" in describe(tiny(dataset, network__init=str(whole)), tmp_path / "run")
  told = describe(tiny(dataset, network__init="missing.t7"), tmp_path / "run")
  assert "\nnetwork.init missing.t7: not there yet\n" in told
  assert list(tmp_path.iterdir()) == []


def test_the_plan_refuses_what_the_run_would_refuse(dataset, whole, tmp_path):
  (tmp_path / "notes").touch()
  for workdir, fields, reason in (
    (whole, {"network__base_filters": 3}, r"config\.network\.base_filters = 2, now it is 3"),
    (tmp_path, {}, "holds 'notes', but no config.json of a training run"),
    (tmp_path / "notes", {}, "notes: not a readable folder"),
  ):
    with pytest.raises(BadInput, match=reason):
      describe(tiny(dataset, **fields), workdir)


def test_the_last_good_checkpoint_is_one_that_is_written(dataset, tmp_path, monkeypatch, in_process):
  numbers = training_run._Pending.numbers

  def full_disk(_):
    raise BadInput("the disk is full")

  def numbers_or_nan(pending, last_good):
    if pending.step == 3:
      raise BadInput(last_good())
    return numbers(pending, last_good)

  monkeypatch.setattr(training_run.Checkpoints, "save", lambda *_: None)  # of step 2: on its way, as far as is known
  monkeypatch.setattr(training_run.Checkpoints, "wait", full_disk)
  monkeypatch.setattr(training_run._Pending, "numbers", numbers_or_nan)
  with pytest.raises(BadInput, match=r"^no checkpoint was written yet$"):
    train_and_evaluate(tiny(dataset), tmp_path / "run")


@pytest.mark.parametrize(
  ("environment", "joins"),
  [
    ({}, False),
    ({"SLURM_JOB_ID": "7", "SLURM_NTASKS": "4", "SLURM_PROCID": "0"}, False),  # a shell within an allocation
    ({"SLURM_JOB_ID": "7", "SLURM_NTASKS": "1", "SLURM_STEP_NUM_TASKS": "1"}, False),
    ({"SLURM_JOB_ID": "7", "SLURM_NTASKS": "4", "SLURM_STEP_NUM_TASKS": "4"}, True),
    ({"OMPI_MCA_orte_hnp_uri": "1531576320.0;tcp://10.96.0.1:34911", "OMPI_COMM_WORLD_SIZE": "2"}, True),
    ({"OMPI_MCA_orte_hnp_uri": "1531576320.0;tcp://10.96.0.1:34911", "OMPI_COMM_WORLD_SIZE": "1"}, False),
    ({"JAX_COORDINATOR_ADDRESS": "10.0.0.1:1234"}, True),
    ({"TPU_SKIP_MDS_QUERY": "1"}, False),  # JAX, where it finds no TPU
    ({"TPU_ML_PLATFORM": "JAX", "TPU_WORKER_HOSTNAMES": "localhost"}, False),
    ({"TPU_ML_PLATFORM": "JAX", "TPU_WORKER_HOSTNAMES": "t1k-0,t1k-1"}, True),
    ({"TPU_ML_PLATFORM": "JAX"}, True),
  ],
)
def test_processes_are_joined_only_where_there_are_several(monkeypatch, environment, joins):
  for name in list(os.environ):
    if name.startswith(("SLURM", "OMPI", "TPU_", "JAX_")):
      monkeypatch.delenv(name)
  for name, value in environment.items():
    monkeypatch.setenv(name, value)
  calls = []
  monkeypatch.setattr(jax.distributed, "initialize", lambda **numbers: calls.append(numbers))
  start_processes()
  assert len(calls) == joins


def test_the_numbers_of_processes_are_taken_from_the_environment(monkeypatch):
  calls = []
  monkeypatch.setattr(jax.distributed, "initialize", lambda **numbers: calls.append(numbers))
  monkeypatch.setenv("JAX_COORDINATOR_ADDRESS", "10.0.0.1:1234")
  monkeypatch.setenv("JAX_NUM_PROCESSES", "2")
  with pytest.raises(BadInput, match="needed together"):
    start_processes()
  monkeypatch.setenv("JAX_PROCESS_ID", "one")
  with pytest.raises(BadInput, match="JAX_PROCESS_ID=one: not a whole number"):
    start_processes()
  monkeypatch.setenv("JAX_PROCESS_ID", "1")
  start_processes()
  assert {name: calls[0][name] for name in ("num_processes", "process_id")} == {"num_processes": 2, "process_id": 1}


def free_port() -> int:
  with socket.socket() as server:
    server.bind(("127.0.0.1", 0))
    return server.getsockname()[1]


def start_two(config, workdir: Path, programs: dict[int, str] | None = None) -> list[subprocess.Popen]:
  """Two processes of one run; `programs` is what one of them runs before it, by its number."""
  address = {"JAX_COORDINATOR_ADDRESS": f"127.0.0.1:{free_port()}", "JAX_NUM_PROCESSES": "2"}
  return [
    start(config, workdir, JAX_PROCESS_ID=str(number), FIRST=(programs or {}).get(number, ""), **address)
    for number in range(2)
  ]


@pytest.mark.slow
@pytest.mark.parametrize("damage", ["validation", "workdir", "log", "train", "input"])
def test_what_stops_one_of_two_processes_stops_both(tmp_path, damage):
  folder, workdir = write_dataset(tmp_path / "dataset", train=8, validation=1), tmp_path / "run"
  stopped, reason, programs = 0, "", {}
  if damage in ("validation", "train"):
    shard = folder / f"dpr-{damage}.tfrecord-00000-of-00001"
    os.truncate(shard, shard.stat().st_size - 10)
    reason = "is truncated"
  elif damage == "workdir":
    workdir.touch()
    reason = "run: cannot be written to (File exists)"
  elif damage == "log":
    programs[0] = _FULL_DISK
    reason = "run: the log cannot be written (No space left on device)"
  else:
    stopped, programs[1] = 1, _NO_INPUT
    reason = "a shard is gone"
  config = tiny(folder, num_steps=400, sample_every=400, evaluate_every=400, save_every=400)
  running = start_two(config, workdir, programs=programs)
  ended = [finish(process) for process in running]
  assert [code for code, _, _ in ended] == [2, 2], ended  # JAX, when it loses patience, ends them with SIGABRT
  errors = [error for _, _, error in ended]
  assert reason in errors[stopped]
  if damage != "train":  # which both find
    assert errors[1 - stopped] == f"program.py: process {stopped} stopped; see what it says\n"
  assert [len(error.splitlines()) for error in errors] == [1, 1]
  assert latest_step(workdir) is None


# What is wrong in one process alone, from its fourth step on.
_FULL_DISK = """
import errno
from dpr_jax.train import log as training_log
class FullDisk(training_log.EventsWriter):
  def write_event(self, event):
    if event.step >= 4:
      raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))
    return super().write_event(event)
training_log.EventsWriter = FullDisk
"""
_NO_INPUT = """
from dpr_jax.train import input_pipeline
from dpr_jax.base.errors import BadInput
draw, drawn = input_pipeline.BatchIterator.__next__, []
def draw_or_fail(iterator):
  drawn.append(1)
  if len(drawn) == 4:
    raise BadInput("a shard is gone")
  return draw(iterator)
input_pipeline.BatchIterator.__next__ = draw_or_fail
"""


@pytest.mark.slow
def test_two_processes_train_stop_together_and_resume(dataset, tmp_path):
  config = tiny(dataset, num_steps=400, log_every=1, sample_every=400, evaluate_every=400, save_every=400)
  # Adam makes full steps of rounding errors where a parameter has no gradient: short ones, so that losses stay close.
  config.optimizer.learning_rate = config.optimizer.discriminator_learning_rate = 1e-5
  both, one = tmp_path / "both", tmp_path / "one"
  running = start_two(config, both)
  while not (both / "metrics.jsonl").exists() or len(lines(both)) < 3:
    assert all(process.poll() is None for process in running), [finish(process) for process in running]
  running[1].send_signal(signal.SIGTERM)  # to one of them alone
  assert [finish(process)[0] for process in running] == [0, 0]
  stopped = latest_step(both)
  assert lines(both)[-1]["step"] == stopped < 400
  assert {path.name for path in (both / f"checkpoints/{stopped}/iterator").glob("*.json")} == {
    "process_0-of-2.json",
    "process_1-of-2.json",
  }

  code, _, error = finish(start(config, both))
  assert (code, error.splitlines()[-1].partition("iterator: ")[2]) == (
    2,
    "was written by 2 processes, now there are 1; start as many",
  )

  with config.unlocked():
    config.num_steps = stopped + 4
  assert [finish(process)[0] for process in start_two(config, both)] == [0, 0]
  assert finish(start(config, one))[0] == 0
  ours, theirs = lines(both), lines(one)
  assert [row["step"] for row in ours] == [row["step"] for row in theirs] == list(range(1, stopped + 5))
  # The sums over a batch run in another order; after some steps that shows.
  assert [row["loss"] for row in ours[:3]] == pytest.approx([row["loss"] for row in theirs[:3]], rel=1e-4)
