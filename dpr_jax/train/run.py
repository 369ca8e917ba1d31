"""A training run from its first step to its last, over any number of kills: `train_and_evaluate(config, workdir)`."""

import contextlib
import dataclasses
import functools
import itertools
import math
import os
import signal
import threading
import time
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from types import FrameType
from typing import TypeVar

import jax
import numpy as np
import orbax.checkpoint as ocp
from jax.experimental import multihost_utils
from ml_collections import ConfigDict

from dpr_jax import records
from dpr_jax.base.errors import BadInput
from dpr_jax.image.color import photo_luminance
from dpr_jax.image.pictures import contact_sheet, relighting_grid, shrink
from dpr_jax.light import sh
from dpr_jax.network.weights import CHECKPOINTS, OFFICIAL
from dpr_jax.train import checkpoints as training_checkpoints
from dpr_jax.train.checkpoints import Checkpoints
from dpr_jax.train.config import check_config, in_steps
from dpr_jax.train.evaluation import Evaluator
from dpr_jax.train.input_pipeline import Augmentation, RecordSource, make_iterator
from dpr_jax.train.log import Stopwatch, TrainingLog, write_picture
from dpr_jax.train.step import (
  Stage,
  create_train_state,
  data_mesh,
  make_train_step,
  network_of,
  shard_batch,
  stage_at,
)
from dpr_jax.train.views import Faces, Views

RELIT = "relit.png"

_HELD_OUT = "validation"  # the split that is evaluated and shown
_EVALUATED_FACES = 64  # in the evaluations of a run; evaluate.py takes all
_TERMS = ("image", "gradient", "light", "adversarial", "feature", "normal", "depth", "framing", "discriminator")
_SAMPLE_FACES = 4
_RELIT_FACES = 6
_SHOWN_SIDE = 256  # of a face in a picture, at most
# Of relit.png: left, right, top, bottom and front of the viewer, in degrees, as `sh.direction` counts them.
_SHOWN_DIRECTIONS = ((65, 10), (-65, 10), (0, 65), (0, -45), (0, 10))
_SHOWN_AMBIENT = 0.3
# How long processes wait for the first one, which may have a dataset to make.
_LONGEST_WAIT_MS = 24 * 3600 * 1000

# How long a process that failed waits at its end for the others, who may be waiting for it.
_LONGEST_PARTING_SECONDS = 60

MakeFaces = Callable[[ConfigDict, Path], None]
_T = TypeVar("_T")


def train_and_evaluate(config: ConfigDict, workdir: str | os.PathLike, *, make_faces: MakeFaces | None = None) -> None:
  """Trains to `config.num_steps`, or goes on from the last checkpoint of `workdir`.

  SIGTERM and SIGINT end the step that is under way, save it and stop; the same call goes on from there. All processes
  of a run on several machines call this, and see the same `workdir`.

  Args:
    config: from `default_config` or a recipe.
    workdir: see `training_checkpoints`; new, empty, or of a run of the same model.
    make_faces: called with the config and a folder to fill it with a dataset, where `config.data.folder` is empty; has
      nothing to do where it did so before.

  Raises:
    BadInput: config, data, workdir or disk; or a loss that is not finite: names step and terms, and leaves the last
      good checkpoint.
    KeyboardInterrupt: after SIGINT, when the state is saved.
  """
  check_config(config)
  workdir = Path(workdir).resolve()
  start_processes()
  with contextlib.ExitStack() as stack:
    folder = _prepare(config, workdir, make_faces, stack)
    run = _Run(config, workdir, folder, stack)
    run.train()


def start_processes() -> None:
  """`jax.distributed.initialize` where the environment speaks of several processes; nothing on a plain machine.

  That is: `JAX_COORDINATOR_ADDRESS` (with `JAX_NUM_PROCESSES` and `JAX_PROCESS_ID`, or in a cluster that JAX knows), a
  Slurm step or an Open MPI job of more than one process, or a TPU pod.

  Raises:
    BadInput: the environment contradicts itself, or the others cannot be reached.
  """
  if jax.distributed.is_initialized() or not _speaks_of_processes(os.environ):
    return
  numbers = {}
  if "JAX_COORDINATOR_ADDRESS" in os.environ:
    for argument, name in (("num_processes", "JAX_NUM_PROCESSES"), ("process_id", "JAX_PROCESS_ID")):
      if name in os.environ:
        try:
          numbers[argument] = int(os.environ[name])
        except ValueError:
          raise BadInput(f"{name}={os.environ[name]}: not a whole number") from None
    if len(numbers) == 1:
      raise BadInput("JAX_NUM_PROCESSES and JAX_PROCESS_ID are needed together, beside JAX_COORDINATOR_ADDRESS")
  try:
    jax.distributed.initialize(**numbers, shutdown_timeout_seconds=_LONGEST_PARTING_SECONDS)
  except (RuntimeError, ValueError, KeyError) as error:
    raise BadInput(f"the other processes cannot be joined ({' '.join(str(error).split())[:300]})") from error


def _speaks_of_processes(environment: Mapping[str, str]) -> bool:
  """Whether more than one process was started; see `start_processes`."""
  if environment.get("JAX_COORDINATOR_ADDRESS"):
    return True
  # A step's own count: a shell inside an allocation, which is one process, has SLURM_NTASKS too.
  slurm = "SLURM_JOB_ID" in environment and environment.get("SLURM_STEP_NUM_TASKS", "1") != "1"
  # Open MPI 5 tells no address: there, JAX_COORDINATOR_ADDRESS is needed.
  open_mpi = "OMPI_MCA_orte_hnp_uri" in environment and environment.get("OMPI_COMM_WORLD_SIZE", "1") != "1"
  if slurm or open_mpi:
    return True
  if "TPU_ML_PLATFORM" not in environment or environment.get("JAX_PLATFORMS", "tpu") == "cpu":  # set by JAX on TPU VMs
    return False
  hosts = environment.get("TPU_WORKER_HOSTNAMES")
  return "TPU_SKIP_MDS_QUERY" not in environment if hosts is None else "," in hosts


def _prepare(config: ConfigDict, workdir: Path, make_faces: MakeFaces | None, stack: contextlib.ExitStack) -> Path:
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

  _in_first_process(prepare)
  return folder


def _in_first_process(action: Callable[[], _T]) -> _T | None:
  """What `action` returns in the first process, and None in the others; raises in all, as `_in_all_processes`."""
  return _in_all_processes(action if jax.process_index() == 0 else lambda: None)


def _in_all_processes(action: Callable[[], _T]) -> _T:
  """What `action` returns; where it fails in some processes, all stop: none waits for one that is gone.

  Every process calls this at the same place, and waits there for the others.

  Raises:
    BadInput: an `OSError` of this process in one line, or that another process failed. All else that `action` raises
      passes as it is.
  """
  result = failure = None
  try:
    result = action()
  except Exception as error:
    failure = error
  if jax.process_count() > 1:
    _wait_for_all(f"agreed {next(_agreements)}")
    (failed,) = np.nonzero(multihost_utils.process_allgather(np.int32(failure is not None)))
    if failed.size and failure is None:
      raise BadInput(f"process {failed[0]} stopped; see what it says")
  if isinstance(failure, OSError):
    place = "" if failure.filename is None else f"{failure.filename}: "
    raise BadInput(f"{place}{failure.strerror or failure}") from failure
  if failure is not None:
    raise failure
  return result


_agreements = itertools.count()


def _wait_for_all(name: str) -> None:
  """A barrier of the host processes: unlike one of devices, it does not lose patience."""
  if jax.process_count() > 1:
    ocp.multihost.get_barrier_sync_fn()(key=f"dpr_jax {name}", timeout_ms=_LONGEST_WAIT_MS)


def latest_step(workdir: Path) -> int | None:
  """The step of the last complete checkpoint of a workdir, or None; opens nothing."""
  folder = workdir / CHECKPOINTS
  steps = [int(path.name) for path in folder.glob("*") if path.name.isdecimal()] if folder.is_dir() else []
  return max(steps, default=None)


def describe(config: ConfigDict, workdir: str | os.PathLike) -> str:
  """What `train_and_evaluate` would do, for people; writes nothing.

  Raises:
    BadInput: it would refuse the config, the workdir, or the data's folder.
  """
  check_config(config)
  workdir = Path(workdir)
  training_checkpoints.check_not_foreign(workdir)
  if config.data.folder:
    config = _in_steps(config, Path(config.data.folder))
  latest, data = latest_step(workdir), config.data
  if latest is not None:
    theirs = training_checkpoints.read_config(workdir, latest)
    training_checkpoints.check_same_model(training_checkpoints.as_json(config), theirs, workdir)
  length = f"{config.num_steps} steps" if config.num_steps else f"{config.num_epochs:g} epochs"
  skips = ", ".join(f"{number:g}" for number in config.skip_steps or config.skip_epochs)
  source = data.folder or f"{data.procedural_faces} procedural faces, made in {workdir / training_checkpoints.DATA}"
  lines = [
    str(config).rstrip(),
    "",
    f"network {config.network.name} with {config.network.base_filters} base filters, {config.network.dtype}",
    f"data: {source}; {data.size} x {data.size} pixels, {data.mode}",
    f"{length} in batches of {config.batch_size} faces, each under two lights; "
    f"skip connections on, one after the other, at {'steps' if config.skip_steps else 'epochs'} {skips}",
    f"{workdir}: " + ("begins anew" if latest is None else f"goes on from step {latest}"),
  ]
  if (init := config.network.init) and latest is None:
    missing = init not in OFFICIAL and not os.path.exists(init)
    lines.insert(-1, f"network.init {init}" + (": not there yet" if missing else ""))
  return "\n".join(lines)


def _in_steps(config: ConfigDict, folder: Path) -> ConfigDict:
  """The config with a length in steps, now that its data are known."""
  return in_steps(config, len(RecordSource(folder, "train", config.data.on_corrupt)))


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


class _StopSignals:
  """SIGTERM and SIGINT as the wish to stop after the step that is under way; a second SIGINT interrupts at once.

  In several processes JAX's preemption service listens to SIGTERM, and agrees on a step at which all stop.
  """

  def __init__(self):
    self.interrupted = self._wanted = False
    self._several = jax.process_count() > 1
    self._handlers = {}

  def __enter__(self) -> "_StopSignals":
    if threading.current_thread() is threading.main_thread():  # others may not set handlers
      for number in (signal.SIGINT,) if self._several else (signal.SIGINT, signal.SIGTERM):
        self._handlers[number] = signal.signal(number, self._handle)
    return self

  def __exit__(self, *_) -> None:
    for number, handler in self._handlers.items():
      signal.signal(number, handler)

  def _handle(self, number: int, frame: FrameType | None) -> None:
    if number == signal.SIGINT:
      if self.interrupted:
        raise KeyboardInterrupt
      self.interrupted = True
      if self._several:
        os.kill(os.getpid(), signal.SIGTERM)
    self._wanted = True

  def stop_after(self, step: int) -> bool:
    """Whether this step is the last one; to be asked at every step, by all processes."""
    return multihost_utils.reached_preemption_sync_point(step) if self._several else self._wanted


class _Run:
  """What `train_and_evaluate` has open."""

  def __init__(self, config: ConfigDict, workdir: Path, folder: Path, stack: contextlib.ExitStack):
    config = _in_all_processes(lambda: _in_steps(config, folder))
    self._config, self._workdir, self._folder = config, workdir, folder
    self._first_process = jax.process_index() == 0
    self._mesh = data_mesh()
    check_config(config, num_devices=self._mesh.size)
    self._checkpoints = stack.enter_context(Checkpoints(workdir, config.keep))
    first = self._checkpoints.latest
    theirs, ours = None, training_checkpoints.as_json(config)
    if first is not None:
      theirs = self._checkpoints.config(first)
      training_checkpoints.check_same_model(ours, theirs, self._checkpoints.path(first))
      config = config.copy_and_resolve_references()
      config.network.init = ""  # is in the checkpoint, and may be gone
    self._iterator = _in_all_processes(
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
    self._state = _in_all_processes(lambda: create_train_state(config, self._mesh))
    changes = []
    if first is not None:
      self._state = self._checkpoints.restore(first, self._state)
      self._checkpoints.restore_iterator(first, self._iterator)
      changes = training_checkpoints.changed_fields(ours, theirs)
      _in_first_process(lambda: training_checkpoints.write_config(workdir, self._config))
    self._step = self._saved = first or 0
    seen_by = workdir if self._first_process else None
    self._log = stack.enter_context(
      _in_all_processes(lambda: TrainingLog(seen_by, first_step=self._step, num_steps=config.num_steps))
    )
    if first is not None:
      self._log.say(f"goes on from step {first} of {self._checkpoints.folder}")
    if changes:
      self._log.say("changed since then: " + "; ".join(changes))
    self._network = network_of(config)
    self._faces = None  # of the pictures; read when they are needed first
    self._evaluator = _in_first_process(self._open_evaluator)

  def _open_evaluator(self) -> Evaluator | None:
    """Before the first step: nobody wants to learn of a damaged file after the thousandth."""
    if not any(self._folder.glob(f"{records.DATASET_NAME}-{_HELD_OUT}.tfrecord-*")):
      self._log.say(f"{self._folder}: no face is in the {_HELD_OUT} split, so that nothing is evaluated")
      return None
    data = self._config.data
    return Evaluator(self._folder, _HELD_OUT, data.size, _EVALUATED_FACES, on_corrupt=data.on_corrupt)

  def train(self) -> None:
    """The steps that are left, and the last picture."""
    with _StopSignals() as signals:
      stopped = self._train(signals)
      _in_all_processes(self._checkpoints.wait)
      if stopped:
        self._log.say(f"stopped and saved at step {self._step}; the same command goes on")
    if not stopped:
      path = self._workdir / RELIT
      stage = stage_at(max(0, self._step - 1), self._config)
      _in_first_process(lambda: write_picture(path, self._relit_sheet(stage)))
      self._log.say(f"trained to step {self._step}: {path}")
    if signals.interrupted and stopped:
      raise KeyboardInterrupt

  def _train(self, signals: _StopSignals) -> bool:
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
      self._batch = _in_all_processes(lambda: next(self._iterator))
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
      _in_all_processes(self._raise_input_failure)
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
        self._log.picture(self._step, "samples", self._sample_grid(stage))
      if numbers or held_out:
        self._log.write(self._step, numbers | held_out)

    _in_all_processes(report)

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

  def _sample_grid(self, stage: Stage) -> np.ndarray:
    """Source, target and output for some faces, `[H, W, 3]` uint8."""
    faces = self._samples(_SAMPLE_FACES)
    relit = self._relit(np.stack([f.source for f in faces]), np.stack([f.target_light for f in faces]), stage)
    rows = [
      (_shown(face.source), face.source_light, _shown(face.target), face.target_light, _shown(output))
      for face, output in zip(faces, relit, strict=True)
    ]
    return relighting_grid(rows)

  def _relit_sheet(self, stage: Stage) -> np.ndarray:
    """Faces in rows: the source, and the same under one light after another; `[H, W, 3]` uint8."""
    lights = [sh.directional(sh.direction(*angles), _SHOWN_AMBIENT) for angles in _SHOWN_DIRECTIONS]
    pictures, below = [], []
    for face in self._samples(_RELIT_FACES):
      outputs = self._relit(np.repeat(face.source[None], len(lights), axis=0), np.stack(lights), stage)
      for luminance in (face.source, *outputs):
        pictures.append(np.repeat(np.rint(255 * _shown(luminance)).astype(np.uint8)[..., None], 3, axis=-1))
      below += [face.source_light, *lights]
    return contact_sheet(pictures, below)

  def _relit(self, luminance: np.ndarray, lights: np.ndarray, stage: Stage) -> np.ndarray:
    """`[B, H, W]` and `[B, 9]` -> `[B, H, W]`, by the running mean with the skip connections of a stage."""
    return np.asarray(_relight(self._network, stage.skip_mask, self._ema, luminance[..., None], lights))[..., 0]

  def _samples(self, count: int) -> list["_Sample"]:
    if self._faces is None:
      split = _HELD_OUT if self._evaluator is not None else "train"
      self._faces = list(
        itertools.islice(_sample_faces(self._config, self._folder, split), max(_SAMPLE_FACES, _RELIT_FACES))
      )
    return self._faces[:count]


@dataclasses.dataclass(frozen=True)
class _Sample:
  """A face under two lights: luminance `[S, S]` in [0, 1], lights `[9]`."""

  source: np.ndarray
  source_light: np.ndarray
  target: np.ndarray
  target_light: np.ndarray


def _sample_faces(config: ConfigDict, folder: Path, split: str) -> Iterator[_Sample]:
  """The first faces of a split that can be read: the first relit picture as source, the last as target."""
  source, move = RecordSource(folder, split, config.data.on_corrupt), Augmentation(config.data.size)
  for index in range(len(source)):
    try:
      record = source[index]
    except BadInput:
      continue  # the input stops at it, or counts it
    pictures, lights = [record.original, *record.relit], [record.source_light, *record.target_lights]
    first = 1 if len(record.relit) > 1 else 0
    luminance = [photo_luminance(move.resize(pictures[shown])) for shown in (first, -1)]
    yield _Sample(luminance[0], lights[first], luminance[1], lights[-1])


def _shown(luminance: np.ndarray) -> np.ndarray:
  return shrink(np.clip(luminance, 0, 1), _SHOWN_SIDE)


@functools.partial(jax.jit, static_argnums=(0, 1))
def _relight(network, skip_mask, variables, luminance, lights):
  return network.apply(variables, luminance, lights, skip_mask).luminance
