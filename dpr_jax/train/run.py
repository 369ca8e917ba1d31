"""A training run from its first step to its last, over any number of kills: `train_and_evaluate(config, workdir)`."""

import contextlib
import dataclasses
import math
import os
import time
from collections.abc import Callable
from pathlib import Path

import jax
import numpy as np
from ml_collections import ConfigDict

from dpr_jax import records
from dpr_jax.base.errors import BadInput
from dpr_jax.network.weights import CHECKPOINTS, OFFICIAL
from dpr_jax.train import checkpoints as training_checkpoints
from dpr_jax.train.checkpoints import Checkpoints
from dpr_jax.train.config import TrainingConfig, check_batch, check_config, in_steps
from dpr_jax.train.evaluation import Evaluator
from dpr_jax.train.held_out_pictures import HeldOutPictures
from dpr_jax.train.input_pipeline import make_iterator
from dpr_jax.train.log import Stopwatch, TrainingLog, write_picture
from dpr_jax.train.processes import in_all_processes, in_first_process, start_processes
from dpr_jax.train.record_source import RecordSource
from dpr_jax.train.step import (
  Stage,
  create_train_state,
  data_mesh,
  make_train_step,
  network_of,
  shard_batch,
  stage_at,
)
from dpr_jax.train.stop_signals import StopSignals
from dpr_jax.train.views import Faces, Views

RELIT = "relit.png"

_HELD_OUT = "validation"  # the split that is evaluated and shown
_MOST_NAMED = 20  # of damaged records
_EVALUATED_FACES = 64  # in the evaluations of a run; evaluate.py takes all
_TERMS = ("image", "gradient", "light", "adversarial", "feature", "normal", "depth", "framing", "discriminator")

MakeFaces = Callable[[TrainingConfig, Path], None]


def train_and_evaluate(config: ConfigDict, workdir: str | os.PathLike, *, make_faces: MakeFaces | None = None) -> None:
  """Trains to `config.num_steps`, or goes on from the last checkpoint of `workdir`.

  SIGTERM and SIGINT end the step that is under way, save it and stop; the same call goes on from there. All processes
  of a run on several machines call this, and see the same `workdir`.

  Args:
    config: from `default_config` or a recipe.
    workdir: see `training_checkpoints`; new, empty, or of a run of the same model.
    make_faces: called with the frozen config and a folder to fill it with a dataset, where `config.data.folder` is
      empty; has nothing to do where it did so before.

  Raises:
    BadInput: config, data, workdir or disk; or a loss that is not finite: names step and terms, and leaves the last
      good checkpoint.
    KeyboardInterrupt: after SIGINT, when the state is saved.
  """
  checked = check_config(config)
  workdir = Path(workdir).resolve()
  start_processes()
  with contextlib.ExitStack() as stack:
    folder = _prepare(checked, workdir, make_faces, stack)
    run = _Run(checked, workdir, folder, stack)
    run.train()


def _prepare(config: TrainingConfig, workdir: Path, make_faces: MakeFaces | None, stack: contextlib.ExitStack) -> Path:
  """Claims the workdir and makes the data, in the first process, while the others wait; returns the data's folder."""
  folder = Path(config.data.folder) if config.data.folder else workdir / training_checkpoints.DATA

  def prepare():
    if config.data.folder:
      records.list_shards(folder, "train")  # before anything is written
    elif make_faces is None:
      raise BadInput("config.data.folder is empty: name a folder of export_dataset.py")
    stack.enter_context(training_checkpoints.claim_workdir(workdir))
    if latest_step(workdir) is None:
      training_checkpoints.write_config(workdir, config)
    if not config.data.folder:
      make_faces(config, folder)

  in_first_process(prepare)
  return folder


@dataclasses.dataclass
class _Pending:
  """Metrics that the device may still be computing.

  Attributes:
    step: updates that are done with this one.
    metrics: by name.
  """

  step: int
  metrics: dict[str, jax.Array]

  def numbers(self, last_good: Callable[[], str]) -> dict[str, float]:
    """The metrics, when they are there; BadInput if one is not finite, which ends with what `last_good` says."""
    numbers = {name: float(value) for name, value in jax.device_get(self.metrics).items()}
    wrong = [name for name, value in numbers.items() if not math.isfinite(value)]
    if wrong:
      # The norms follow the terms; they are of interest where all terms are fine.
      described = ", ".join(f"{name} is {numbers[name]}" for name in [*filter(_TERMS.__contains__, wrong)] or wrong)
      raise BadInput(f"step {self.step}: {described}; training stopped, {last_good()}")
    return numbers


class _Run:
  """What `train_and_evaluate` has open."""

  def __init__(self, config: TrainingConfig, workdir: Path, folder: Path, stack: contextlib.ExitStack):
    config = in_all_processes(lambda: _in_steps(config, folder))
    self._config, self._workdir, self._folder = config, workdir, folder
    self._first_process = jax.process_index() == 0
    self._mesh = data_mesh()
    check_batch(config, self._mesh.size)
    self._checkpoints = stack.enter_context(Checkpoints(workdir, config.keep))
    first = self._checkpoints.latest
    theirs, ours = None, training_checkpoints.as_json(config)
    if first is not None:
      theirs = self._checkpoints.config(first)
      training_checkpoints.check_same_model(ours, theirs, self._checkpoints.path(first))
      # The weights to begin with are in the checkpoint, and may be gone.
      config = dataclasses.replace(config, network=dataclasses.replace(config.network, init=""))
    self._iterator = in_all_processes(
      lambda: make_iterator(
        config,
        folder,
        "train",
        batch_size=config.batch_size // jax.process_count(),
        seed=config.seed,
        process_index=jax.process_index(),
        process_count=jax.process_count(),
      )
    )
    stack.callback(self._iterator.close)
    self._batch = self._input_failure = None  # the last one, and why there is no other
    self._state = in_all_processes(lambda: create_train_state(config, self._mesh))
    changes = []
    if first is not None:
      self._state = self._checkpoints.restore(first, self._state)
      self._checkpoints.restore_iterator(first, self._iterator)
      changes = training_checkpoints.changed_fields(ours, theirs)
      in_first_process(lambda: training_checkpoints.write_config(workdir, self._config))
    self._step = self._saved = first or 0
    seen_by = workdir if self._first_process else None
    self._log = stack.enter_context(
      in_all_processes(lambda: TrainingLog(seen_by, first_step=self._step, num_steps=config.num_steps))
    )
    if first is not None:
      self._log.say(f"goes on from step {first} of {self._checkpoints.folder}")
    if changes:
      self._log.say("changed since then: " + "; ".join(changes))
    self._evaluator = in_first_process(self._open_evaluator)
    split = _HELD_OUT if self._evaluator is not None else "train"
    self._pictures = HeldOutPictures(config, folder, split, network_of(config))

  def _open_evaluator(self) -> Evaluator | None:
    """Before the first step: nobody wants to learn of a damaged file after the thousandth."""
    if not any(self._folder.glob(f"{records.DATASET_NAME}-{_HELD_OUT}.tfrecord-*")):
      self._log.say(f"{self._folder}: no face is in the {_HELD_OUT} split, so that nothing is evaluated")
      return None
    data = self._config.data
    return Evaluator(self._folder, _HELD_OUT, data.size, _EVALUATED_FACES, on_corrupt=data.on_corrupt)

  def train(self) -> None:
    """The steps that are left, and the last picture."""
    with StopSignals() as signals:
      stopped = self._train(signals)
      in_all_processes(self._checkpoints.wait)
      self._name_skipped()
      if stopped:
        self._log.say(f"stopped and saved at step {self._step}; the same command goes on")
    if not stopped:
      path = self._workdir / RELIT
      stage = stage_at(max(0, self._step - 1), self._config)
      in_first_process(lambda: write_picture(path, self._pictures.relit_sheet(self._ema, stage.skip_mask)))
      self._log.say(f"trained to step {self._step}: {path}")
    if signals.interrupted and stopped:
      raise KeyboardInterrupt

  def _name_skipped(self) -> None:
    """Says which records of this process's share could not be read."""
    reasons = self._iterator.skipped_reasons
    for reason in reasons[:_MOST_NAMED]:
      self._log.say(f"skipped: {reason}")
    if len(reasons) > _MOST_NAMED:
      self._log.say(f"skipped: {len(reasons) - _MOST_NAMED} more")

  def _train(self, signals: StopSignals) -> bool:
    """Whether the run was asked to stop before its last step."""
    config, mesh = self._config, self._mesh
    train_step = make_train_step(config, mesh)
    watch, pending, stage = Stopwatch(), None, None
    while self._step < config.num_steps:
      compiles, stage = stage != (new := stage_at(self._step, config)), new
      waits_from = time.monotonic()
      batch = self._next_batch()
      watch.add_wait(time.monotonic() - waits_from)
      self._state, metrics = train_step(self._state, shard_batch(batch, mesh), stage)
      if pending is not None:
        self._numbers(pending)  # while the device is at work on the next step
      self._step += 1
      watch.steps += 1
      pending = _Pending(self._step, metrics)
      stop = signals.stop_after(self._step)
      last = stop or self._step == config.num_steps
      logs, evaluates, samples, saves = (
        last or self._step % every == 0
        for every in (config.log_every, config.evaluate_every, config.sample_every, config.save_every)
      )
      if compiles or logs or evaluates or samples or saves:
        numbers = self._numbers(pending)
        pending = None
        if compiles:
          watch.restart()  # what XLA takes is no measure of training
        if logs:
          numbers |= {"skips_on": sum(stage.skip_mask), "corrupt_records": self._iterator.skipped}
          numbers |= watch.numbers(2 * config.batch_size)
        self._report(numbers if logs else {}, stage, evaluates=evaluates and not stop, samples=samples and not stop)
        if saves:
          self._save()
        if logs or evaluates or samples or saves:
          watch.restart()
      self._log.advance()
      if stop:
        return self._step < config.num_steps
    return False

  def _next_batch(self) -> Faces | Views:
    """The next batch of this process.

    Where it fails in one of several processes, the others are on their way into the step and can't be told: they get
    NaN from it, as long as that takes to show, and `_numbers` tells the reason. That costs a good step nothing.
    """
    if self._batch is None:
      self._batch = in_all_processes(lambda: next(self._iterator))
    elif self._input_failure is None:
      try:
        self._batch = next(self._iterator)
      except Exception as error:
        if jax.process_count() == 1:
          raise
        self._input_failure = error
        self._batch = jax.tree.map(lambda leaf: np.full_like(leaf, np.nan), self._batch)
    return self._batch

  def _numbers(self, pending: "_Pending") -> dict[str, float]:
    """As `_Pending.numbers`, which raises in all processes or in none."""
    try:
      return pending.numbers(self._last_good)
    except BadInput:
      in_all_processes(self._raise_input_failure)
      raise

  def _raise_input_failure(self) -> None:
    if self._input_failure is not None:
      raise self._input_failure

  def _last_good(self) -> str:
    with contextlib.suppress(BadInput):  # one that can't be written is no good one
      self._checkpoints.wait()
    step = latest_step(self._workdir)
    return "no checkpoint was written yet" if step is None else f"the last checkpoint is of step {step}"

  def _report(self, numbers: dict[str, float], stage: Stage, *, evaluates: bool, samples: bool) -> None:
    """Logs this step: what it measured, and what the running mean does on held-out faces."""

    def report():
      self._checkpoints.check()
      if not self._first_process:
        return
      held_out = self._evaluation(stage) if evaluates else {}
      if samples:
        self._log.picture(self._step, "samples", self._pictures.sample_grid(self._ema, stage.skip_mask))
      if numbers or held_out:
        self._log.write(self._step, numbers | held_out)

    in_all_processes(report)

  def _save(self) -> None:
    if self._saved != self._step:
      self._checkpoints.save(self._step, self._state, self._iterator, self._config)
      self._saved = self._step

  @property
  def _ema(self):
    """The running mean, on one device of this process."""
    return jax.tree.map(lambda leaf: leaf.addressable_data(0), self._state.ema)

  def _evaluation(self, stage: Stage) -> dict[str, float]:
    """What the running mean makes of held-out faces, by name; without an angle that is not defined."""
    if self._evaluator is None:
      return {}
    numbers = self._evaluator.run(self._ema, stage.skip_mask)
    return {f"validation/{name}": value for name, value in numbers.items() if math.isfinite(value)}


def describe(config: ConfigDict, workdir: str | os.PathLike) -> str:
  """What `train_and_evaluate` would do, for people; writes nothing.

  Raises:
    BadInput: it would refuse the config, the workdir, or the data's folder.
  """
  checked = check_config(config)
  workdir = Path(workdir)
  training_checkpoints.check_not_foreign(workdir)
  if checked.data.folder:
    checked = _in_steps(checked, Path(checked.data.folder))
  latest, data = latest_step(workdir), checked.data
  if latest is not None:
    theirs = training_checkpoints.read_config(workdir, latest)
    training_checkpoints.check_same_model(training_checkpoints.as_json(checked), theirs, workdir)
  length = f"{checked.num_steps} steps" if checked.num_steps else f"{checked.num_epochs:g} epochs"
  skips = ", ".join(f"{number:g}" for number in checked.skip_steps or checked.skip_epochs)
  source = data.folder or f"{data.procedural_faces} procedural faces, made in {workdir / training_checkpoints.DATA}"
  lines = [
    str(ConfigDict(dataclasses.asdict(checked))).rstrip(),
    "",
    f"network {checked.network.name} with {checked.network.base_filters} base filters, {checked.network.dtype}",
    f"data: {source}; {data.size} x {data.size} pixels, {data.mode}",
    f"{length} in batches of {checked.batch_size} faces, each under two lights; "
    f"skip connections on, one after the other, at {'steps' if checked.skip_steps else 'epochs'} {skips}",
    f"{workdir}: " + ("begins anew" if latest is None else f"goes on from step {latest}"),
  ]
  if (init := checked.network.init) and latest is None:
    missing = init not in OFFICIAL and not os.path.exists(init)
    lines.insert(-1, f"network.init {init}" + (": not there yet" if missing else ""))
  return "\n".join(lines)


def _in_steps(config: TrainingConfig, folder: Path) -> TrainingConfig:
  """The config with a length in steps, now that its data are known."""
  return in_steps(config, len(RecordSource(folder, "train", config.data.on_corrupt)))


def latest_step(workdir: Path) -> int | None:
  """The step of the last complete checkpoint of a workdir, or None; opens nothing."""
  folder = workdir / CHECKPOINTS
  steps = [int(path.name) for path in folder.glob("*") if path.name.isdecimal()] if folder.is_dir() else []
  return max(steps, default=None)
