"""What a training run tells: a line on the console, TensorBoard files, and a line of JSON for every logged step."""

import json
import os
import sys
import time
from collections.abc import Mapping
from pathlib import Path
from types import TracebackType

import numpy as np
from PIL import Image
from tensorboardX import summary
from tensorboardX.event_file_writer import EventsWriter
from tensorboardX.proto.event_pb2 import Event, SessionLog
from tqdm import tqdm

from dpr_jax.base.errors import BadInput
from dpr_jax.base.output_files import atomic_output

METRICS = "metrics.jsonl"
TENSORBOARD = "tensorboard"
SAMPLES = "samples"

# Of the numbers of a step: what the bar shows, and what stands first in the line above it.
_IN_BAR = ("loss", "images_per_second", "skips_on")
_FIRST = (
  *("loss", "image", "gradient", "light", "adversarial", "feature", "normal", "depth", "framing", "discriminator"),
  *("images_per_second", "skips_on"),
)


class TrainingLog:
  """The log of a run from a step on; use it in a `with` statement. A silent one (`workdir` None) does nothing."""

  def __init__(self, workdir: Path | None, *, first_step: int, num_steps: int):
    """Opens the files, and removes what they say of steps after `first_step`: those are made once more.

    Args:
      workdir: of the run; None in all processes but one.
      first_step: updates that are done already.
      num_steps: of the whole run.

    Raises:
      BadInput: a file cannot be written.
    """
    self._workdir, self._silent = workdir, workdir is None
    self._bar = tqdm(
      total=num_steps, initial=first_step, unit=" steps", dynamic_ncols=True, disable=True if self._silent else None
    )
    if self._silent:
      return
    self._metrics_path = workdir / METRICS
    _drop_lines_after(self._metrics_path, first_step)
    try:
      self._metrics = self._metrics_path.open("a", encoding="utf-8")
      (workdir / TENSORBOARD).mkdir(exist_ok=True)
      # Not its SummaryWriter, whose thread dies of a full disk: the run would then wait for ever to hand it something.
      # A name that begins with the nanosecond: two starts in one second must not share a file.
      self._events = EventsWriter(str(workdir / TENSORBOARD / f"events-{time.time_ns()}"))
      # TensorBoard then forgets what earlier files say of this step and later ones.
      self._add_event(first_step + 1, session_log=SessionLog(status=SessionLog.START))
      self._events.flush()
    except OSError as error:
      raise self._unwritable(error) from error

  def __enter__(self) -> "TrainingLog":
    return self

  def __exit__(
    self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
  ) -> None:
    self._bar.close()
    if self._silent:
      return
    try:
      try:
        self._metrics.close()
      finally:
        self._events.close()
    except OSError as failed:
      if error is None:
        raise self._unwritable(failed) from failed

  def say(self, text: str) -> None:
    """Prints a line, above the progress bar where there is one."""
    if not self._silent:
      self._bar.write(text, file=sys.stdout)
      sys.stdout.flush()

  def advance(self, steps: int = 1) -> None:
    """Moves the progress bar."""
    self._bar.update(steps)

  def write(self, step: int, numbers: Mapping[str, float]) -> None:
    """Logs what is known of a step; to be called once for a step, in their order.

    Args:
      step: updates that are done.
      numbers: finite, by name; a name may have groups, as in `validation/l1`. `corrupt_records` is what this process
        alone has skipped, of its share, since it started.

    Raises:
      BadInput: a file cannot be written.
    """
    if self._silent:
      return
    try:
      self._metrics.write(json.dumps({"step": step, **numbers}, allow_nan=False) + "\n")
      self._metrics.flush()
      for name, number in numbers.items():
        self._add_event(step, summary=summary.scalar(name if "/" in name else f"train/{name}", number))
      self._events.flush()
    except OSError as error:
      raise self._unwritable(error) from error
    # What is of interest first stands first: a narrow terminal may show no more.
    shown = {name: f"{name} {numbers[name]:.4g}" for name in sorted(numbers, key=_place)}
    self.say(f"step {step} of {self._bar.total}: {', '.join(shown.values())}")
    self._bar.set_postfix_str(", ".join(shown[name] for name in _IN_BAR if name in shown), refresh=False)

  def picture(self, step: int, name: str, pixels: np.ndarray) -> None:
    """Writes a picture into the folder of samples and to TensorBoard.

    Args:
      step: updates that are done.
      name: the tag in TensorBoard.
      pixels: `[H, W, 3]` uint8.

    Raises:
      BadInput: a file cannot be written.
    """
    if self._silent:
      return
    write_picture(self._workdir / SAMPLES / f"step_{step:08d}.png", pixels)
    try:
      self._add_event(step, summary=summary.image(name, pixels, dataformats="HWC"))
      self._events.flush()
    except OSError as error:
      raise self._unwritable(error) from error

  def _add_event(self, step: int, **what) -> None:
    self._events.write_event(Event(step=step, wall_time=time.time(), **what))

  def _unwritable(self, error: OSError) -> BadInput:
    return BadInput(f"{self._workdir}: the log cannot be written ({error.strerror or error})")


def write_picture(path: Path, pixels: np.ndarray) -> None:
  """Writes `[H, W, 3]` uint8 as a PNG, over an earlier one; BadInput where it cannot be written."""
  with atomic_output(path, overwrite=True) as temporary:
    Image.fromarray(pixels).save(temporary)


def _drop_lines_after(path: Path, last_step: int) -> None:
  """Rewrites a file of metrics without the steps after `last_step`, and without what a kill left half written."""
  try:
    text = path.read_text(encoding="utf-8", errors="replace")
  except FileNotFoundError:
    return
  except OSError as error:
    raise BadInput(f"{path}: cannot be read ({error.strerror})") from error
  kept = "".join(line for line in text.splitlines(keepends=True) if _is_up_to(line, last_step))
  if kept != text:
    with atomic_output(path, overwrite=True) as temporary:
      temporary.write_text(kept, encoding="utf-8")
      with temporary.open("rb") as file:
        os.fsync(file.fileno())


def _is_up_to(line: str, last_step: int) -> bool:
  try:
    return line.endswith("\n") and json.loads(line)["step"] <= last_step
  except (ValueError, TypeError, KeyError):
    return False


def _place(name: str) -> int:
  """Where a number stands in its line: the known ones, those of an evaluation, the others."""
  if name in _FIRST:
    return _FIRST.index(name)
  return len(_FIRST) + (not name.startswith("validation/"))


class Stopwatch:
  """Where the time of a run goes; what is not training (compiling, evaluating, saving) can be left out."""

  def __init__(self):
    self.restart()

  def restart(self) -> None:
    """Forgets everything so far, and counts from now."""
    self._start, self._waited, self.steps = time.monotonic(), 0.0, 0

  def add_wait(self, seconds: float) -> None:
    """Counts time that the host waited for input."""
    self._waited += seconds

  def numbers(self, images_per_step: int) -> dict[str, float]:
    """Images a second, and the share of the time that was spent waiting for input; nothing before the first step."""
    seconds = time.monotonic() - self._start
    if self.steps == 0 or seconds <= 0:
      return {}
    return {
      "images_per_second": images_per_step * self.steps / seconds,
      "input_wait_share": min(1.0, self._waited / seconds),
    }
