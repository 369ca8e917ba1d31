"""What makes XLA fast on a CPU: memory that a program keeps, and the choice of its convolution library."""

import ctypes
import os
import sys

import jax

# glibc's mallopt, from malloc.h.
_M_TRIM_THRESHOLD, _M_MMAP_MAX = -1, -4

# Convolutions by Eigen: YNNPACK, the default for small ones, takes up to twice as long with the shapes of the network.
_OPTIONS: dict[str, str | bool] = {
  "xla_cpu_experimental_ynn_fusion_type": "LIBRARY_FUSION_TYPE_INDIVIDUAL_DOT,LIBRARY_FUSION_TYPE_REDUCE",
}


def keep_memory() -> bool:
  """Lets this process keep the memory that computations on the CPU give back; called before the first one.

  XLA asks for the temporaries of every call anew, and glibc maps and unmaps anything large: the kernel then zeroes the
  hundreds of MiB of a training step page by page, a third of its time. Without effect where no glibc is, or where JAX
  has an accelerator. The process stays as large as it once was.

  Returns:
    Whether anything was changed.
  """
  # Only what the main thread asks for can come from memory that is kept, so XLA has to run in it.
  jax.config.update("jax_cpu_enable_async_dispatch", False)
  if not sys.platform.startswith("linux") or jax.default_backend() != "cpu":
    return False
  mallopt = getattr(ctypes.CDLL(None), "mallopt", None)
  return mallopt is not None and bool(mallopt(_M_MMAP_MAX, 0)) and bool(mallopt(_M_TRIM_THRESHOLD, -1))


def available_cores() -> int:
  """How many cores this process may use; where the platform does not tell, all of them."""
  return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1


def compiler_options() -> dict[str, str | bool]:
  """What to give `jax.jit` as `compiler_options`; nothing on accelerators, or where this JAX knows no such options."""
  if jax.default_backend() != "cpu":
    return {}
  try:
    jax.jit(lambda: 0).lower().compile(compiler_options=_OPTIONS)
  except jax.errors.JaxRuntimeError:  # an unknown option, or an unknown value
    return {}
  return dict(_OPTIONS)
