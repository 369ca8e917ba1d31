"""SIGTERM and SIGINT in a training run: they end it after the step that is under way."""

import os
import signal
import threading
from types import FrameType

import jax
from jax.experimental import multihost_utils


class StopSignals:
  """Takes SIGTERM and SIGINT, in a `with` statement, as the wish to stop after the step that is under way.

  A second SIGINT interrupts at once. In several processes JAX's preemption service listens to SIGTERM, and agrees on
  a step at which all stop.

  Attributes:
    interrupted: whether a SIGINT came.
  """

  def __init__(self):
    self.interrupted = self._wanted = False
    self._several = jax.process_count() > 1
    self._handlers = {}

  def __enter__(self) -> "StopSignals":
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
    """Returns whether this step is to be the last one; every process asks this at every step."""
    return multihost_utils.reached_preemption_sync_point(step) if self._several else self._wanted
