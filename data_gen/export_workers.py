"""Worker processes that make the records of portraits, one thread each.

A `Worker` is what a process of the local export keeps between portraits, and a machine of a cluster, too.
"""

import collections
import contextlib
import itertools
import multiprocessing.util
import os
import signal
import threading
import time
import traceback
from collections.abc import Iterator, Sequence
from concurrent.futures import BrokenExecutor, ProcessPoolExecutor

from data_gen.export_folder import Outcome
from data_gen.pages import page
from data_gen.portraits import Rejection
from data_gen.synthesis import Relit, Settings, Synthesis
from data_gen.target_lights import LightSource
from dpr_jax.base.errors import BadInput
from dpr_jax.base.native_libraries import MissingSystemLibrary, import_native
from dpr_jax.network import traced

cv2 = import_native("cv2")

# How many portraits a worker may be ahead of the one that is written next: what they weigh is kept in memory.
_AHEAD = 3


def make_records(
  settings: Settings, lights: LightSource, ids: Sequence[str], shown: frozenset[str], workers: int
) -> Iterator[tuple[Outcome, dict[str, bytes]]]:
  """Makes the records of all ids in worker processes; yields them in order.

  Args:
    settings: how to make records.
    lights: the target lights.
    ids: of the source.
    shown: the ids to draw pages of pictures for.
    workers: how many processes.

  Returns:
    For each id what became of it, and its pages of pictures; close it to end the workers early.

  Raises:
    BadInput: a worker was killed, or something is wrong that concerns all portraits.
    MissingSystemLibrary: a worker lacks one.
  """
  pool = ProcessPoolExecutor(
    workers,
    mp_context=multiprocessing.get_context("spawn"),  # JAX and MediaPipe have threads, which don't survive a fork
    initializer=_start_worker,
    initargs=(settings, lights, shown, os.getpid()),
  )
  waiting, pending = iter(ids), collections.deque()
  try:
    with _worker_surroundings(settings):  # the first job starts all workers
      for id in itertools.islice(waiting, _AHEAD * workers):
        pending.append(pool.submit(_work, id))
    while pending:
      yield pending.popleft().result()
      for id in itertools.islice(waiting, 1):
        pending.append(pool.submit(_work, id))
  except BrokenExecutor:
    raise BadInput(
      "a worker was killed (too little memory?); the same command with fewer --workers goes on from the finished shards"
    ) from None
  finally:
    pool.shutdown(cancel_futures=True)


@contextlib.contextmanager
def _worker_surroundings(settings: Settings) -> Iterator[None]:
  """What processes inherit that are started inside the block."""
  # One thread each: there are as many workers as cores. Only the relighting network is worth an accelerator.
  theirs = {f"{library}_NUM_THREADS": "1" for library in ("OMP", "OPENBLAS", "MKL")}
  if settings.light_estimator != "network":
    theirs["JAX_PLATFORMS"] = "cpu"
  ours = {name: os.environ.get(name) for name in theirs}
  os.environ.update(theirs)
  # Ctrl-C is for the parent, which then ends its workers.
  main_thread = threading.current_thread() is threading.main_thread()
  handler = signal.signal(signal.SIGINT, signal.SIG_IGN) if main_thread else None
  try:
    yield
  finally:
    if main_thread:
      signal.signal(signal.SIGINT, handler)
    for name, value in ours.items():
      os.environ.pop(name)
      if value is not None:
        os.environ[name] = value


class Worker:
  """What makes records, kept between portraits: by a process of the local export, or a machine of a cluster."""

  def __init__(self, settings: Settings, lights: LightSource, shown: frozenset[str]):
    """Opens all that the settings ask for; see `Synthesis`.

    Args:
      settings: how to make records.
      lights: the target lights.
      shown: the ids to draw pages of pictures for.
    """
    cv2.setNumThreads(1)
    self._shown = shown
    self._synthesis = Synthesis(settings, lights)
    self.close = self._synthesis.close

  def make(self, id: str) -> tuple[Outcome, dict[str, bytes]]:
    """The records of one id, and its pages of pictures."""
    outcome, pages = Outcome([], []), {}
    try:
      for result in self._synthesis.relit(id):
        if isinstance(result, Rejection):
          outcome.rejections.append(result)
          continue
        outcome.payloads.append(self._synthesis.encode(result.record))
        if id in self._shown:
          pages |= _drawn(result)
    except Exception as error:  # one portrait must not end a run of thousands; what failed is on record
      traceback.print_exc()
      outcome.rejections.append(Rejection(id, f"unexpected {type(error).__name__}: {' '.join(str(error).split())}"))
    return outcome, pages


def _drawn(result: Relit) -> dict[str, bytes]:
  """The page of a portrait by its id; a page that cannot be drawn changes nothing about the record."""
  try:
    return {result.record.id: page(result)}
  except Exception:
    traceback.print_exc()
    return {}


_worker: Worker | BadInput | MissingSystemLibrary  # of this process


def _start_worker(settings: Settings, lights: LightSource, shown: frozenset[str], parent: int) -> None:
  global _worker
  threading.Thread(target=_end_with, args=(parent,), daemon=True).start()
  traced.enable_compilation_cache()
  try:
    _worker = Worker(settings, lights, shown)
  except Exception as error:  # raised here, the pool would only say that it is broken
    _worker = error
    return
  multiprocessing.util.Finalize(None, _worker.close, exitpriority=1)  # a pool's process ends without atexit


def _end_with(parent: int) -> None:
  """Ends this process when its parent was killed; it would wait for work for ever."""
  while os.getppid() == parent:
    time.sleep(0.5)
  os._exit(1)


def _work(id: str) -> tuple[Outcome, dict[str, bytes]]:
  if isinstance(_worker, Exception):
    raise _worker
  return _worker.make(id)
