"""JAX and ONNX Runtime side by side: how long the networks take on this CPU, one photo at a time.

  python benchmarks/engines.py
  python benchmarks/engines.py --weights=default,official-512,official-1024 --rounds=15

Every row is one function of `dpr_jax.portrait.relighting` at the network's own size, as `Relighter(engine=...)` runs
it: `encode` before the target light, `decode` behind it, under a lamp; the arrays come back to NumPy. The engines take
turns in one process, so that ratios compare neighbours in time. Wall and CPU milliseconds (of all threads) are medians;
a ratio is the median of ONNX Runtime's wall time over JAX's, so that above 1 JAX is faster.
"""

import argparse
import os
import platform
import statistics
import time
from collections.abc import Callable

import jax
import numpy as np

from dpr_jax.image import color
from dpr_jax.image.pictures import astronaut
from dpr_jax.network import traced
from dpr_jax.network.networks import traits_of
from dpr_jax.network.weights import load_params
from dpr_jax.portable.onnx_engine import OnnxEngine
from dpr_jax.portrait.lights import parse_light
from dpr_jax.portrait.relighting import encode_luminance, log_ratio


def works(params) -> dict[str, Callable]:
  """What is timed, by name; each is given an engine's `call`."""
  size = traits_of(params).native_size
  photo = jax.image.resize(astronaut() / np.float32(255), (size, size, 3), "linear")
  luminance = np.asarray(color.srgb_to_lab(photo)[None, ..., :1] / 100)
  lamp = jax.tree.map(lambda part: part[None], parse_light("rembrandt"))
  encoding = jax.device_get(encode_luminance(params, luminance))
  return {
    "encode": lambda call: call(encode_luminance, params, luminance),
    "decode": lambda call: call(log_ratio, params, encoding, luminance, lamp),
  }


def timed(function: Callable, call: Callable) -> tuple[float, float]:
  """Wall and CPU seconds of a function, until its numbers are NumPy's."""
  wall, processor = time.perf_counter(), time.process_time()
  jax.device_get(function(call))
  return time.perf_counter() - wall, time.process_time() - processor


def main() -> None:
  parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
  parser.add_argument("--weights", default="default,official-512", help="networks, as for relight.py")
  parser.add_argument("--rounds", type=int, default=9)
  arguments = parser.parse_args()
  traced.enable_compilation_cache()
  print(f"{platform.machine()}, {os.cpu_count()} cores, medians of {arguments.rounds} rounds\n")
  print(
    "| network | | JAX, ms: wall / CPU | ONNX Runtime | wall, ONNX Runtime over JAX |\n| --- | --- | --- | --- | --- |"
  )
  for name in arguments.weights.split(","):
    params = load_params(name)
    calls = {"jax": traced.call, "onnx": OnnxEngine(params).call}
    for what, function in works(params).items():
      for call in calls.values():
        timed(function, call)  # compiled, converted
      seconds: dict[str, list[tuple[float, float]]] = {engine: [] for engine in calls}
      for _ in range(arguments.rounds):
        for engine, call in calls.items():
          seconds[engine].append(timed(function, call))
      walls = {engine: [wall for wall, _ in each] for engine, each in seconds.items()}
      ratio = statistics.median(onnx / ours for onnx, ours in zip(walls["onnx"], walls["jax"], strict=True))
      cells = [
        " / ".join(f"{1000 * statistics.median(each):.0f}" for each in zip(*seconds[engine], strict=True))
        for engine in calls
      ]
      print(f"| {name} | {what} | {cells[0]} | {cells[1]} | {ratio:.2f} |", flush=True)


if __name__ == "__main__":
  main()
