"""The finished segments of a film that is being relit: what a run that was interrupted goes on from.

A segment is some seconds of finished film in a folder beside the output; with it lies what the next frame depends on.
"""

import json
import os
import shutil
from pathlib import Path
from typing import Any

import numpy as np

from dpr_jax.base.errors import BadInput
from dpr_jax.base.input_files import read_json
from dpr_jax.base.output_files import atomic_output
from dpr_jax.film.moving_portrait import MovingPortrait

FILM_SUFFIX = ".mp4"

_DISCARD = "remove the folder, or --overwrite discards it"


def parts_folder(target: Path) -> Path:
  """Where the finished segments of `target` lie until all are there."""
  return target.with_name(f"{target.name}.parts")


def job_of_parts(target: Path) -> dict[str, Any]:
  """The `job` of an earlier run whose parts wait for `target`; empty if there are none."""
  return Parts(parts_folder(target)).job()


class Parts:
  """The folder of finished segments.

  A segment is there if its film is: its state, `<number>.npz`, is written before. Old states are removed.
  """

  def __init__(self, folder: Path):
    self._folder, self._note = folder, folder / "job.json"

  def job(self) -> dict[str, Any]:
    """Of the run whose parts lie here; empty where nothing readable says so."""
    try:
      job = read_json(self._note)
    except (OSError, ValueError):
      return {}
    return job if isinstance(job, dict) else {}

  def begin(self, job: dict[str, Any], overwrite: bool) -> None:
    """Makes the folder, or checks that what lies there is of the same job.

    Raises:
      BadInput: it is of another job and `overwrite` is False, or it cannot be written.
    """
    if os.path.lexists(self._folder):
      others = self.job()
      if others == job:
        return
      # A folder without a readable note is nobody's, or was being begun: nothing in it can be used.
      differing = [name for name in job | others if others.get(name, ...) != job.get(name, ...)]
      if not overwrite:
        raise BadInput(f"{self._folder}: holds parts of another run (other {', '.join(differing)}); {_DISCARD}")
      self.remove()
    with atomic_output(self._note) as aside:
      aside.write_text(json.dumps(job), encoding="utf-8")

  def remove(self) -> None:
    """Removes the folder with all that is in it."""
    if self._folder.is_symlink() or not self._folder.is_dir():
      raise BadInput(f"{self._folder}: not a folder")
    shutil.rmtree(self._folder, ignore_errors=True)

  def segments(self) -> list[Path]:
    """The finished ones, in order."""
    return sorted(path for path in self._folder.glob(f"*{FILM_SUFFIX}") if not path.name.startswith("."))

  def segment(self, number: int):
    """A context that yields a path to write segment `number` to."""
    return atomic_output(self._folder / f"{number:08d}{FILM_SUFFIX}", overwrite=True)

  def keep(self, number: int, moving: MovingPortrait, done: int) -> None:
    """Keeps the state after segment `number`, before that segment counts as finished."""
    with atomic_output(self._folder / f"{number:08d}.npz", overwrite=True) as aside:
      np.savez(aside, frames_done=done, **moving.state())
    finished = {path.stem for path in self.segments()[-1:]}
    for state in self._folder.glob("*.npz"):
      if state.stem not in finished | {f"{number:08d}"}:
        state.unlink(missing_ok=True)

  def restore(self, moving: MovingPortrait) -> int:
    """Puts `moving` where it was after the last finished segment; returns how many frames are done."""
    segments = self.segments()
    if not segments:
      return 0
    try:
      with segments[-1].with_suffix(".npz").open("rb") as file:
        state = dict(np.load(file, allow_pickle=False))
      moving.restore(state)
      return int(state["frames_done"])
    except Exception:  # zipfile, zlib and NumPy's parser of headers answer damage with nearly any exception
      raise BadInput(f"{self._folder}: damaged; {_DISCARD}") from None
