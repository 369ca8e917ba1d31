"""How long relighting takes, and how much memory: every network, one light and many, encode and decode apart.

  python benchmarks/relight_latency.py

Every network runs in a process of its own, so that its peak memory is its own: 256 is this project's network, 512 and
1024 are the published ones. Weights are random: they do not change the work. Lights are soft, nine numbers, but for the
column of a lamp, whose shadows this project's network casts, and for the photo. Times are medians over interleaved
rounds, so that a ratio compares neighbours in time.
"""

import argparse
import json
import os
import platform
import resource
import statistics
import subprocess
import sys
import time
from collections.abc import Callable

COLUMNS = {
  "network": "network",
  "compile_s": "compile, s",
  "single_ms": "one light, ms",
  "encode_ms": "encode, ms",
  "decode_ms": "decode, ms",
  "lamp_ms": "decode of a lamp, ms",
  "many_ms": "{lights} lights, ms",
  "ratio": "of {lights} single calls",
  "photo_ms": "whole photo, ms",
  "peak_mib": "peak memory, MiB",
}


def measure(size: int, lights: int, rounds: int) -> dict[str, float | str]:
  """Times one network in this process."""
  import jax
  import jax.numpy as jnp
  import numpy as np

  from dpr_jax.network.hourglass import HourglassNet, HourglassNet1024
  from dpr_jax.network.ratio_network import RatioHourglassNet
  from dpr_jax.portrait import relighting
  from dpr_jax.portrait.lights import parse_light

  kinds = {kind.native_size: kind for kind in (RatioHourglassNet, HourglassNet, HourglassNet1024)}
  params = _random_weights(kinds[size]())
  rng = np.random.default_rng(0)
  image = jnp.asarray(rng.random((size, size, 3), np.float32))
  luminance = image[None, ..., :1]
  shs = jnp.asarray(rng.normal(size=(lights, 9)), jnp.float32)
  lamp = jax.tree.map(lambda part: jnp.asarray(part)[None], parse_light("rembrandt"))

  def timed(function: Callable[[], jax.Array]) -> float:
    start = time.perf_counter()
    jax.block_until_ready(function())
    return time.perf_counter() - start

  compile_s = timed(lambda: relighting.relight_fn(params, image, shs[0]))
  single_peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024
  encoding = relighting.encode_luminance(params, luminance)
  work = {
    "single": lambda: relighting.relight_fn(params, image, shs[0]),
    "encode": lambda: relighting.encode_luminance(params, luminance),
    "decode": lambda: relighting.decode_luminance(params, encoding, shs[:1], size=(size, size)),
    "lamp": lambda: relighting.decode_luminance(params, encoding, lamp, size=(size, size)),
    "many": lambda: relighting.relight_lights(params, image, shs),
  }
  for function in work.values():
    jax.block_until_ready(function())
  times = {name: [] for name in work}
  for _ in range(rounds):
    for name, function in work.items():
      times[name].append(timed(function))
  median = {name: 1000 * statistics.median(values) for name, values in times.items()}
  ratios = [many / (lights * single) for many, single in zip(times["many"], times["single"], strict=True)]
  return {
    "network": str(size),
    "compile_s": compile_s,
    "single_ms": median["single"],
    "encode_ms": median["encode"],
    "decode_ms": median["decode"],
    "lamp_ms": median["lamp"],
    "many_ms": median["many"],
    "ratio": statistics.median(ratios),
    "photo_ms": _photo_ms(params, size, rounds),
    "peak_mib": single_peak,
  }


def _random_weights(network):
  """Weights with which numbers stay finite on their way through a network; compiling its `init` takes longer."""
  import jax
  import jax.numpy as jnp
  import numpy as np

  side, rng = network.size_multiple, np.random.default_rng(0)
  shapes = jax.eval_shape(network.init, jax.random.key(0), jnp.zeros((1, side, side, 1)), jnp.zeros((1, 9)))

  def draw(leaf):
    inputs = np.prod(leaf.shape[:-1])
    return jnp.asarray(rng.uniform(0.5, 1.5, leaf.shape) / inputs if len(leaf.shape) > 1 else np.ones(leaf.shape), "f4")

  return jax.tree.map(draw, shapes)


def _photo_ms(params, size: int, rounds: int) -> float:
  """A 12-megapixel photo under one more light: decode, and the ratio carried to the photo's own pixels."""
  import numpy as np

  from dpr_jax.portrait.faces import Face
  from dpr_jax.portrait.lights import parse_light
  from dpr_jax.portrait.portrait import Portrait

  rng = np.random.default_rng(0)
  pixels = rng.integers(0, 256, (3000, 4000, 3), np.uint8)
  # An ellipse of landmarks, with eyes and mouth where the framing looks for them.
  angles = np.linspace(0, 2 * np.pi, 478, endpoint=False)
  landmarks = np.column_stack([2000 + 500 * np.cos(angles), 1500 + 700 * np.sin(angles)])
  landmarks[[33, 133]], landmarks[[362, 263]], landmarks[[61, 291]] = (1700, 1300), (2300, 1300), (2000, 1900)
  portrait = Portrait(params, pixels, [Face(landmarks)], size)
  light = parse_light("left")
  times = []
  for _ in range(max(2, rounds // 3)):
    start = time.perf_counter()
    portrait.relight(light)
    times.append(time.perf_counter() - start)
  return 1000 * statistics.median(times)


def main() -> None:
  parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
  parser.add_argument("--sizes", type=int, nargs="+", choices=[256, 512, 1024], default=[256, 512, 1024])
  parser.add_argument("--lights", type=int, default=16)
  parser.add_argument("--rounds", type=int, default=7)
  parser.add_argument("--child", type=int, help=argparse.SUPPRESS)
  arguments = parser.parse_args()
  if arguments.child:
    print(json.dumps(measure(arguments.child, arguments.lights, arguments.rounds)))
    return
  rows = []
  for size in arguments.sizes:
    command = [sys.executable, __file__, "--child", str(size)]
    command += ["--lights", str(arguments.lights), "--rounds", str(arguments.rounds)]
    output = subprocess.run(command, check=True, stdout=subprocess.PIPE, text=True).stdout
    rows.append(json.loads(output.splitlines()[-1]))
  print(f"{platform.machine()}, {os.cpu_count()} cores, medians of {arguments.rounds} rounds\n")
  titles = [title.format(lights=arguments.lights) for title in COLUMNS.values()]
  print("| " + " | ".join(titles) + " |\n|" + " --- |" * len(titles))
  for row in rows:
    cells = [row[key] if isinstance(row[key], str) else f"{row[key]:.{3 if key == 'ratio' else 0}f}" for key in COLUMNS]
    print("| " + " | ".join(cells) + " |")


if __name__ == "__main__":
  main()
