"""Kills exports, trainings and films at random moments, and starts them again: they must end with the same bytes.

python benchmarks/kills.py
python benchmarks/kills.py --jobs=export --kills=100 --seed=7

A small job of each kind is run undisturbed, and then again and again in another place: its processes are killed
(SIGKILL) after a random part of the time that it takes, every other time only the parent, whose workers must then end
by themselves; the same command follows at once. What ends in spite of all is compared with the undisturbed one, and
begun anew. Of a dataset and a film all bytes are compared; of a training the bytes of its picture, every number of its
last checkpoint, where its input stands, and its log but for what is measured by the clock.
"""

import json
import os
import random
import shutil
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from pathlib import Path
from typing import NamedTuple

import numpy as np
from absl import app, flags, logging

_JOBS = flags.DEFINE_list("jobs", ["export", "train", "film"], "which")
_KILLS = flags.DEFINE_integer("kills", None, "of each; default: 100, and 30 of the film")
_SECONDS = flags.DEFINE_float("seconds", 86_400, "after which nothing more is killed, of each")
_SEED = flags.DEFINE_integer("seed", 0, "of the moments")

_ROOT = Path(__file__).resolve().parents[1]
_MEASURED = ("images_per_second", "input_wait_share")  # no two runs agree on them
_STEPS, _FILM_SECONDS, _FPS = 12, 20, 5
_DONE = ("holds a finished dataset", "exists already")  # of one that was killed when nothing but its exit was left
_PATIENCE = 60  # seconds that orphaned workers have to end


class Job(NamedTuple):
  """Something that is killed.

  Attributes:
    kills: how often by default.
    flags: of the command that writes to a place.
    seen: what must be the same at the end, of that place.
  """

  kills: int
  flags: Callable[[Path], list[str]]
  seen: Callable[[Path], object]


def _files(place: Path) -> dict[str, bytes]:
  files = [place] if place.is_file() else [path for path in place.rglob("*") if path.is_file()]
  return {path.relative_to(place.parent).as_posix().partition("/")[2]: path.read_bytes() for path in files}


def _training(workdir: Path) -> object:
  import jax
  import orbax.checkpoint as ocp

  checkpoint, numbers = workdir / "checkpoints" / str(_STEPS), {}
  for item in ("state", "ema"):
    tree = ocp.StandardCheckpointer().restore((checkpoint / item).resolve())
    for path, leaf in jax.tree_util.tree_leaves_with_path(tree):
      numbers[item + jax.tree_util.keystr(path)] = np.asarray(leaf).tobytes()
  rows = [json.loads(line) for line in (workdir / "metrics.jsonl").read_text().splitlines()]
  log = [{name: value for name, value in row.items() if name not in _MEASURED} for row in rows]
  place = (checkpoint / "iterator" / "process_0-of-1.json").read_text()
  return numbers, log, json.loads(place), (workdir / "relit.png").read_bytes()


def _write_film(path: Path) -> None:
  import av
  from skimage import data

  photo, rng = np.ascontiguousarray(data.astronaut()[:240, 80:320]), np.random.default_rng(0)
  with av.open(path, "w") as container:
    stream = container.add_stream("libx264", rate=_FPS)
    stream.height, stream.width, stream.pix_fmt = *photo.shape[:2], "yuv420p"
    for _ in range(_FILM_SECONDS * _FPS):
      noisy = np.clip(photo + rng.normal(0, 3, photo.shape), 0, 255).astype(np.uint8)
      container.mux(stream.encode(av.VideoFrame.from_ndarray(noisy, format="rgb24")))
    container.mux(stream.encode())


def jobs(folder: Path) -> dict[str, Job]:
  """All kinds; what they read lies in `folder`."""
  dataset, film = folder / "dataset", folder / "in.mp4"
  made = ["export_dataset.py", "--count=12", "--size=128", "--lights_per_image=2", "--shard_megabytes=0.2"]
  if "train" in _JOBS.value:
    subprocess.run([sys.executable, *made, f"--out={dataset}"], check=True, cwd=_ROOT, stdout=subprocess.DEVNULL)
  if "film" in _JOBS.value:
    _write_film(film)
  recipe = {"data.folder": dataset, "num_steps": _STEPS, "skip_steps": "(2,4,6,8)", "batch_size": 2}
  recipe |= {"network.base_filters": 4, "discriminator.base_filters": 4, "log_every": 1, "save_every": 2}
  recipe |= {"sample_every": 6, "evaluate_every": 6}
  train = ["train.py", "--config=portraits_256:smoke", *(f"--config.{name}={value}" for name, value in recipe.items())]
  relight = ["relight.py", f"--video={film}", "--light=left", "--face_finder=embedded"]
  return {
    "export": Job(100, lambda place: [*made, "--workers=2", "--visualize", "--pages=3", f"--out={place}"], _files),
    "train": Job(100, lambda place: [*train, f"--workdir={place}"], _training),
    "film": Job(30, lambda place: [*relight, f"--out={place.with_suffix('.mp4')}"],
                lambda place: _files(place.with_suffix(".mp4"))),
  }  # fmt: skip


def _remove(place: Path) -> None:
  for path in (place, place.with_suffix(".mp4"), place.with_suffix(".mp4.parts"), place / ".export-done"):
    if path.is_dir():
      shutil.rmtree(path)
    else:
      path.unlink(missing_ok=True)


def _members(group: int) -> int:
  """How many processes of a group there still are, zombies aside."""
  count = 0
  for stat in Path("/proc").glob("[0-9]*/stat"):
    try:
      state, _, pgrp = stat.read_text().rpartition(")")[2].split()[:3]
    except OSError:
      continue
    count += int(pgrp) == group and state != "Z"
  return count


class _Run:
  """The processes of one command."""

  def __init__(self, words: list[str], errors: Path):
    with errors.open("w") as stderr:
      self._process = subprocess.Popen(
        [sys.executable, *words], cwd=_ROOT, stdout=subprocess.DEVNULL, stderr=stderr, start_new_session=True
      )
    self._errors = errors

  def ends_within(self, seconds: float) -> bool:
    try:
      self._process.wait(seconds)
    except subprocess.TimeoutExpired:
      return False
    said = self._errors.read_text()
    if self._process.returncode and not any(words in said for words in _DONE):
      raise RuntimeError(f"ended with {self._process.returncode}: {said[-2000:]}")
    return True

  def kill(self, only_parent: bool) -> None:
    if only_parent:
      self._process.kill()
    else:
      os.killpg(self._process.pid, signal.SIGKILL)
    self._process.wait()

  def has_no_orphans(self) -> bool:
    until = time.monotonic() + _PATIENCE
    while _members(self._process.pid):
      if time.monotonic() > until:
        return False
      time.sleep(0.2)
    return True


def kill_and_compare(job: Job, folder: Path, kills: int, rng: random.Random) -> dict[str, float]:
  """Counts; raises RuntimeError where a command fails, or leaves workers behind."""
  whole, place, errors = folder / "whole", folder / "killed", folder / "errors.txt"
  folder.mkdir()
  begin = time.monotonic()
  if not _Run(job.flags(whole), errors).ends_within(3600):
    raise RuntimeError("does not end within an hour")
  seconds, expected = time.monotonic() - begin, job.seen(whole)
  counts = dict.fromkeys(("kills", "of the parent", "ends", "the same"), 0) | {"seconds": seconds}
  orphaned, until, in_a_row = [], time.monotonic() + _SECONDS.value, 0
  while True:
    begin, is_fresh = time.monotonic(), in_a_row == 0
    run, limit = _Run(job.flags(place), errors), rng.uniform(0.1, 1.1) * seconds
    is_last = counts["kills"] >= kills or time.monotonic() > until
    if run.ends_within(3600 if is_last else limit):
      # A busy machine is not as fast at every time: what a moment is a part of follows it.
      seconds = time.monotonic() - begin if is_fresh else 0.9 * seconds
      in_a_row = 0
      counts["ends"] += 1
      counts["the same"] += job.seen(place) == expected
      _remove(place)
      if is_last:
        break
      continue
    only_parent = counts["kills"] % 2 == 1
    run.kill(only_parent)
    counts["kills"] += 1
    in_a_row += 1
    seconds *= 1.2 if in_a_row % 5 == 0 else 1
    counts["of the parent"] += only_parent
    print(f"kill {counts['kills']}", end="\r", file=sys.stderr, flush=True)
    orphaned += [run] * only_parent
  if not all(run.has_no_orphans() for run in orphaned):
    raise RuntimeError("workers of a killed parent are left")
  return counts


def main(_) -> None:
  with tempfile.TemporaryDirectory() as folder:
    known, rows = jobs(Path(folder)), []
    for name in _JOBS.value:
      counts = kill_and_compare(
        known[name], Path(folder, name), _KILLS.value or known[name].kills, random.Random(_SEED.value)
      )
      rows.append([name, *(f"{counts[column]:.0f}" for column in ("kills", "of the parent", "ends", "the same")),
                   f"{counts['seconds']:.1f} s"])  # fmt: skip
      print(" | ".join(rows[-1]), flush=True)
  print("\n| job | kills | of the parent alone | ends compared | the same | one run undisturbed |")
  print("| --- " * 6 + "|")
  for row in rows:
    print("| " + " | ".join(row) + " |")
  sys.exit(any(row[3] != row[4] for row in rows))


if __name__ == "__main__":
  logging.set_verbosity(logging.WARNING)
  app.run(main)
