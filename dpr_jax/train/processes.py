"""The processes of one training run, on one machine or several: how they find each other, and how they agree."""

import itertools
import os
from collections.abc import Callable, Mapping
from typing import TypeVar

import jax
import numpy as np
import orbax.checkpoint as ocp
from jax.experimental import multihost_utils

from dpr_jax.base.errors import BadInput

# How long processes wait for the first one, which may have a dataset to make.
_LONGEST_WAIT_MS = 24 * 3600 * 1000

# How long a process that failed waits at its end for the others, who may be waiting for it.
_LONGEST_PARTING_SECONDS = 60

_T = TypeVar("_T")


def start_processes() -> None:
  """Calls `jax.distributed.initialize` where the environment speaks of several processes; else it does nothing.

  The environment does so with `JAX_COORDINATOR_ADDRESS` (with `JAX_NUM_PROCESSES` and `JAX_PROCESS_ID`, or in a cluster
  that JAX knows), in a Slurm step or an Open MPI job of more than one process, and on a TPU pod.

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


def in_first_process(action: Callable[[], _T]) -> _T | None:
  """Runs an action in the first process alone, while the others wait for it.

  Every process calls this at the same place.

  Returns:
    What `action` returns, in the first process; None in the others.

  Raises:
    BadInput: in the other processes, where the action failed in the first one; there, what `in_all_processes` raises.
  """
  return in_all_processes(action if jax.process_index() == 0 else lambda: None)


def in_all_processes(action: Callable[[], _T]) -> _T:
  """Runs an action in every process; where it fails in some, all stop, so that none waits for one that is gone.

  Every process calls this at the same place, and waits there for the others.

  Returns:
    What `action` returns in this process.

  Raises:
    BadInput: the action raised an `OSError`, which is told in one line, or another process failed. All else that
      `action` raises passes as it is.
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
