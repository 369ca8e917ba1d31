"""The settings for CPUs, in processes of their own: they outlast a test."""

import os
import subprocess
import sys

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from dpr_jax.base import cpu

_FAULTS = """
import resource, sys
import jax, jax.numpy as jnp
from dpr_jax.base import cpu
kept = cpu.keep_memory() if sys.argv[1] == "keep" else None

@jax.jit
def f(x):  # a temporary of 64 MiB
  return jnp.cumsum(jnp.fft.fft(x).real)[-1]

def faults():
  before = resource.getrusage(resource.RUSAGE_SELF).ru_minflt
  f(x).block_until_ready()
  return resource.getrusage(resource.RUSAGE_SELF).ru_minflt - before

x = jnp.ones(1 << 22)
faults(), faults()
print(kept, min(faults() for _ in range(3)))
"""


@pytest.mark.skipif(not sys.platform.startswith("linux"), reason="glibc")
def test_memory_is_kept():
  def run(how):
    output = subprocess.run([sys.executable, "-c", _FAULTS, how], check=True, stdout=subprocess.PIPE, text=True).stdout
    kept, faults = output.split()
    return kept, int(faults)

  assert run("not")[1] > 5000  # 4 KiB each
  kept, faults = run("keep")
  assert kept == "True"
  assert faults < 100


_EIGHT_DEVICES = """
import jax, jax.numpy as jnp
from jax.sharding import NamedSharding, PartitionSpec
from dpr_jax.base import cpu
cpu.keep_memory()
mesh = jax.make_mesh((8,), ("data",), axis_types=(jax.sharding.AxisType.Auto,))
x = jax.device_put(jnp.arange(8.0), NamedSharding(mesh, PartitionSpec("data")))
f = jax.jit(lambda x: (x - x.mean()).sum() + x.sum(), compiler_options=cpu.compiler_options())
print([float(f(x + i)) for i in range(3)])
"""


def test_eight_devices_still_exchange():
  flags = os.environ.get("XLA_FLAGS", "") + " --xla_force_host_platform_device_count=8"
  environment = os.environ | {"XLA_FLAGS": flags, "JAX_PLATFORMS": "cpu"}
  output = subprocess.run(
    [sys.executable, "-c", _EIGHT_DEVICES], check=True, stdout=subprocess.PIPE, text=True, env=environment, timeout=600
  ).stdout
  assert output.strip() == "[28.0, 36.0, 44.0]"


def test_compiler_options(monkeypatch):
  x = jnp.ones((1, 8, 8, 16))

  def convolve(x):
    kernel = jnp.ones((3, 3, 16, 16))
    return jax.lax.conv_general_dilated(x, kernel, (1, 1), "SAME", dimension_numbers=("NHWC", "HWIO", "NHWC"))

  with_options = jax.jit(convolve, compiler_options=cpu.compiler_options())(x)
  np.testing.assert_allclose(with_options, jax.jit(convolve)(x), rtol=1e-6)
  monkeypatch.setattr(cpu, "_OPTIONS", {"xla_cpu_no_such_option": "1"})
  assert cpu.compiler_options() == {}
  monkeypatch.undo()
  monkeypatch.setattr(jax, "default_backend", lambda: "gpu")
  assert cpu.compiler_options() == {}
