"""The folder of a training run and its checkpoints: whole or absent, of one model, filled by one run at a time.

A workdir holds `config.json`, `checkpoints/<step>/`, `metrics.jsonl`, `tensorboard/`, `samples/`, at the end
`relit.png`, and `data/` where faces were made for the run. A checkpoint has four items: `state` (all that a step
changes but the running mean), `ema` (`{"params", "batch_stats"}`, that mean, so that weights can be read alone),
`iterator` (where the input stood, a file for each process) and `config`.
"""

import contextlib
import dataclasses
import json
import re
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import jax
import orbax.checkpoint as ocp
from grain.checkpoint import CheckpointHandler as IteratorHandler
from grain.checkpoint import CheckpointRestore as IteratorRestore
from grain.checkpoint import CheckpointSave as IteratorSave

from dpr_jax.base.errors import BadInput
from dpr_jax.base.input_files import read_json
from dpr_jax.base.output_files import atomic_output, claimed
from dpr_jax.network.weights import CHECKPOINTS, EMA, read_every_piece
from dpr_jax.train.config import TrainingConfig
from dpr_jax.train.step import TrainState

CONFIG = "config.json"
DATA = "data"
_LOCK = ".lock"
_LEFT_OVER = re.compile(r"\.[0-9a-f]{16}\.\w+")  # of atomic_output, after a kill

# What the arrays of a checkpoint depend on.
_NETWORK_FIELDS = ("network.name", "network.base_filters", "network.light_channels")
_DISCRIMINATOR_FIELDS = ("discriminator.base_filters", "discriminator.levels")


@contextlib.contextmanager
def claim_workdir(workdir: Path) -> Iterator[None]:
  """Makes a folder the workdir of this run alone, for as long as the block lasts.

  Raises:
    BadInput: it holds something that no training run wrote, another run is at work in it, or it cannot be written to.
  """
  with contextlib.ExitStack() as stack:
    try:
      workdir.mkdir(parents=True, exist_ok=True)
      check_not_foreign(workdir)
      stack.enter_context(claimed(workdir / _LOCK, f"{workdir}: another run is training there"))
    except OSError as error:
      raise BadInput(f"{workdir}: cannot be written to ({error.strerror})") from error
    for folder in (workdir, workdir / "samples"):
      for path in folder.glob(".*"):
        if _LEFT_OVER.fullmatch(path.name):
          path.unlink(missing_ok=True)
    yield


def check_not_foreign(workdir: Path) -> None:
  """Raises BadInput if a folder holds something that no training run wrote, or is none; it may not exist yet."""
  try:
    foreign = sorted(path.name for path in workdir.iterdir() if not path.name.startswith("."))
  except FileNotFoundError:
    return
  except OSError as error:
    raise BadInput(f"{workdir}: not a readable folder ({error.strerror})") from error
  if foreign and not _is_config(workdir / CONFIG):
    raise BadInput(
      f"{workdir}: holds {foreign[0]!r}, but no {CONFIG} of a training run; choose another --workdir, or a new one"
    )


def _is_config(path: Path) -> bool:
  try:
    written = read_json(path)
  except (OSError, ValueError):
    return False
  return isinstance(written, dict) and {"network", "data", "num_steps"} <= written.keys()


def write_config(workdir: Path, config: TrainingConfig) -> None:
  """Writes the resolved config as `config.json`, over an earlier one.

  Raises:
    BadInput: it cannot be written.
  """
  with atomic_output(workdir / CONFIG, overwrite=True) as temporary:
    temporary.write_text(json.dumps(as_json(config), indent=2) + "\n", encoding="utf-8")


def read_config(workdir: Path, step: int) -> dict[str, Any]:
  """The config that the checkpoint of a step was written with, without opening the others.

  Raises:
    BadInput: it cannot be read.
  """
  path = workdir / CHECKPOINTS / str(step) / "config" / "metadata"  # orbax's name for a JSON item
  try:
    config = read_json(path)
  except (OSError, ValueError) as error:
    raise BadInput(f"{path}: cannot be read ({getattr(error, 'strerror', None) or error})") from error
  if not isinstance(config, dict):
    raise BadInput(f"{path}: cannot be read (it is no config)")
  return config


def as_json(config: TrainingConfig) -> dict[str, Any]:
  """A config as JSON holds it: plain dicts of sorted fields, lists for tuples."""
  return json.loads(json.dumps(dataclasses.asdict(config), sort_keys=True))


def check_same_model(ours: Mapping[str, Any], theirs: Mapping[str, Any], place: Path) -> None:
  """Refuses to go on with the checkpoint of another model.

  Args:
    ours: the config of this run, as `as_json` has it.
    theirs: that of the checkpoint.
    place: to name.

  Raises:
    BadInput: a field differs on which the arrays depend; names it and both values.
  """
  ours, theirs = _flat(ours), _flat(theirs)
  fields = _NETWORK_FIELDS
  adversarial = [bool(config.get("loss.adversarial", 0)) for config in (ours, theirs)]
  if adversarial[0] != adversarial[1]:  # with a discriminator or without one
    fields += ("loss.adversarial",)
  elif adversarial[0]:
    fields += _DISCRIMINATOR_FIELDS
  for field in fields:
    if ours.get(field) != theirs.get(field):
      raise BadInput(
        f"{place}: was trained with config.{field} = {theirs.get(field)!r}, now it is {ours.get(field)!r}; "
        "choose another --workdir"
      )


def changed_fields(ours: Mapping[str, Any], theirs: Mapping[str, Any]) -> list[str]:
  """What differs between two configs, each as `field: old -> new`, for people."""
  ours, theirs = _flat(ours), _flat(theirs)
  return [
    f"{field}: {theirs.get(field)!r} -> {ours.get(field)!r}"
    for field in sorted(ours.keys() | theirs.keys())
    if ours.get(field) != theirs.get(field)
  ]


def _flat(config: Mapping[str, Any], prefix: str = "") -> dict[str, Any]:
  """Nested fields by their dotted names."""
  fields = {}
  for name, value in config.items():
    fields |= _flat(value, f"{prefix}{name}.") if isinstance(value, Mapping) else {prefix + name: value}
  return fields


class Checkpoints:
  """The checkpoints of a workdir; use it in a `with` statement. All processes of a run call its methods together."""

  def __init__(self, workdir: Path, keep: int):
    """Opens the folder, and removes what a kill left half written.

    Args:
      workdir: of the run.
      keep: how many checkpoints stay; older ones are removed when a new one is complete.
    """
    self.folder = workdir.resolve() / CHECKPOINTS
    handlers = {
      "state": ocp.StandardCheckpointHandler(),
      EMA: ocp.StandardCheckpointHandler(),
      "iterator": IteratorHandler(),
      "config": ocp.JsonCheckpointHandler(),
    }
    self._written: int | None = None  # the step that is written in the background, or was last
    with self._errors("opened"):
      self._manager = ocp.CheckpointManager(
        self.folder,
        item_handlers=handlers,
        options=ocp.CheckpointManagerOptions(max_to_keep=keep, cleanup_tmp_directories=True),
      )

  def __enter__(self) -> "Checkpoints":
    return self

  def __exit__(self, kind, error, traceback) -> None:
    if error is None:
      with self._errors("written", self._written):
        self._manager.close()
      return
    with contextlib.suppress(Exception):  # what went wrong first is what the user is told
      self._manager.close()

  @property
  def latest(self) -> int | None:
    """The step of the last complete checkpoint, or None."""
    return self._manager.latest_step()

  def path(self, step: int) -> Path:
    """Where the checkpoint of a step lies."""
    return self.folder / str(step)

  def save(self, step: int, state: TrainState, iterator: Any, config: TrainingConfig) -> None:
    """Copies the state, and writes it in the background; the state may be donated as soon as this returns.

    Args:
      step: updates that made the state.
      state: to save.
      iterator: of the input, after the batch of that update.
      config: of the run.

    Raises:
      BadInput: this checkpoint, or the one before it, cannot be written. Those that were complete stay as they are.
    """
    self.wait()  # as orbax would, which took a failure of the one before for one of this
    self._written = step
    with self._errors("written", step):
      self._manager.save(
        step,
        force=True,
        args=ocp.args.Composite(
          state=ocp.args.StandardSave(state.replace(ema=None)),
          iterator=IteratorSave(iterator),
          config=ocp.args.JsonSave(as_json(config)),
          **{EMA: ocp.args.StandardSave(state.ema)},
        ),
      )

  def wait(self) -> None:
    """Returns when what was saved is safely on the disk; raises as `save`."""
    with self._errors("written", self._written):
      self._manager.wait_until_finished()

  def check(self) -> None:
    """Raises as `save` if a checkpoint that is written in the background has failed; does not wait."""
    with self._errors("written", self._written):
      self._manager.check_for_errors()

  def config(self, step: int) -> dict[str, Any]:
    """The config that the checkpoint of a step was written with."""
    with self._errors("read", step):
      return self._manager.restore(step, args=ocp.args.Composite(config=ocp.args.JsonRestore()))["config"]

  def restore(self, step: int, state: TrainState) -> TrainState:
    """The state of a checkpoint, in the shapes and shardings of `state`.

    Raises:
      BadInput: it cannot be read, or its arrays are not those of `state`; names the first that differs.
    """
    place = self.path(step)
    abstract = jax.tree.map(ocp.utils.to_shape_dtype_struct, state)
    parts = {"state": abstract.replace(ema=None), EMA: abstract.ema}
    with self._errors("read", step):
      for name in parts:
        read_every_piece(place / name)
      stored = self._manager.item_metadata(step)
    for name, part in parts.items():
      _check_same_arrays(_shapes(part), _shapes(stored[name].tree), f"{place / name}")
    with self._errors("read", step):
      restored = self._manager.restore(
        step, args=ocp.args.Composite(**{name: ocp.args.StandardRestore(part) for name, part in parts.items()})
      )
    return restored["state"].replace(ema=restored[EMA])

  def restore_iterator(self, step: int, iterator: Any) -> None:
    """Sets the input to where it stood.

    Raises:
      BadInput: it was written by another number of processes, or cannot be read.
    """
    folder = self.path(step) / "iterator"
    count = len(list(folder.glob("process_*.json")))
    if count != jax.process_count():
      raise BadInput(f"{folder}: was written by {count} processes, now there are {jax.process_count()}; start as many")
    with self._errors("read", step):
      self._manager.restore(step, args=ocp.args.Composite(iterator=IteratorRestore(iterator)))

  @contextlib.contextmanager
  def _errors(self, verb: str, step: int | None = None) -> Iterator[None]:
    """Turns what orbax and the system raise into one line with the place."""
    try:
      yield
    except BadInput:
      raise
    except Exception as error:
      place = self.folder if step is None else self.path(step)
      raise BadInput(f"{place}: cannot be {verb} ({_reason(error)})") from error


def _reason(error: BaseException) -> str:
  """The first line of what was raised, or of the system's error below it."""
  cause: BaseException | None = error
  while cause is not None:
    if isinstance(cause, OSError) and cause.strerror:
      return cause.strerror
    cause = cause.__cause__ or cause.__context__
  return " ".join(str(error).split())[:300] or type(error).__name__


def _shapes(tree: Any) -> dict[str, tuple[int, ...]]:
  """Shapes by path, a path in the same words for a tree of classes and for the dicts that orbax makes of them."""
  leaves = jax.tree_util.tree_leaves_with_path(tree, is_leaf=lambda leaf: hasattr(leaf, "shape"))
  return {
    "/".join(_word(key) for key in path): tuple(leaf.shape)
    for path, leaf in leaves
    if getattr(leaf, "shape", None) is not None
  }


def _word(key: Any) -> str:
  return str(next(getattr(key, name) for name in ("key", "name", "idx") if hasattr(key, name)))


def _check_same_arrays(ours: Mapping[str, tuple], theirs: Mapping[str, tuple], place: str) -> None:
  for name in sorted(ours.keys() | theirs.keys()):
    if ours.get(name) != theirs.get(name):
      there, here = (list(shapes[name]) if name in shapes else "missing" for shapes in (theirs, ours))
      raise BadInput(f"{place}: was written by another model: {name} is {there} there, {here} here")
