"""How fast a network trains: images a second, the time split into input, step and host, and memory.

  python benchmarks/train_throughput.py
  python benchmarks/train_throughput.py --pytorch=PYTHON          # a Python that has PyTorch, to compare with
  python benchmarks/train_throughput.py --stages                  # one stage of skip training after the other
  python benchmarks/train_throughput.py --size=256 --size=512 --size=1024 --dtype=bfloat16 --dtype=float32   # a GPU

Every row runs in a process of its own, so that its memory is its own, on procedural faces that are made for it. Each
face of a batch passes the network twice, under two lights: images are counted as they pass.
"""

import json
import os
import platform
import resource
import statistics
import subprocess
import sys
import tempfile
import time
from pathlib import Path

from absl import app, flags

_SIZES = flags.DEFINE_multi_integer("size", [128, 256], "sides of the images")
_DTYPES = flags.DEFINE_multi_string("dtype", ["float32"], "float32 or bfloat16")
_FACES = flags.DEFINE_integer("faces", 8, "faces in a batch")
_STEPS = flags.DEFINE_integer("steps", 15, "steps that are timed, or turns that the frameworks take")
_STAGES = flags.DEFINE_bool("stages", False, "time the stages of skip training, static and traced")
_PYTORCH = flags.DEFINE_string("pytorch", None, "a Python that has PyTorch: the generator step against pytorch_step.py")
_PEAK = flags.DEFINE_float("peak", None, "TFLOP/s that the device can do at most, to print the share of it")
_CHILD = flags.DEFINE_string("child", None, "for its own use")

# Has PyTorch keep its memory too, as `dpr_jax.base.cpu.keep_memory` does for JAX.
_KEEP_MEMORY = {"MALLOC_MMAP_MAX_": "0", "MALLOC_TRIM_THRESHOLD_": str(2**40)}


def _config(size: int, faces: int, dtype: str, gan: bool):
  from dpr_jax.train.config import check_config, default_config

  config = default_config()
  config.batch_size, config.data.size, config.network.dtype = faces, size, dtype
  if not gan:
    config.loss.adversarial = config.loss.feature = 0.0
  return check_config(config)


def _compiled(config, stage, mesh):
  """The step, the seconds that its compilation took, and the state it begins with."""
  import jax
  import jax.numpy as jnp

  from dpr_jax.base import cpu
  from dpr_jax.train import step as training
  from dpr_jax.train.views import Views

  b, s = config.batch_size, config.data.size
  shapes = Views(luminance=(2, b, s, s, 1), light=(2, b, 9), mask=(b, s, s, 1), original=(b, s, s, 1))
  batch = Views(*(jax.ShapeDtypeStruct(shape, jnp.float32) for shape in shapes))
  state = training.create_train_state(config, mesh)
  start = time.perf_counter()
  step = training.make_train_step(config, mesh).lower(state, batch, stage)
  step = step.compile(compiler_options=cpu.compiler_options())
  return step, time.perf_counter() - start, state


def _random_views(config):
  import numpy as np

  from dpr_jax.train.views import Views

  rng = np.random.default_rng(0)
  b, s = config.batch_size, config.data.size
  return Views(
    luminance=rng.random((2, b, s, s, 1), np.float32),
    light=rng.normal(size=(2, b, 9)).astype(np.float32),
    mask=np.ones((b, s, s, 1), np.float32),
    original=rng.random((b, s, s, 1), np.float32),
  )


def _measure(size: int, faces: int, dtype: str, gan: bool, steps: int) -> dict:
  """One row: training as it is, with its input pipeline."""
  import jax

  from data_gen.export import export_procedural_faces
  from dpr_jax.train import step as training
  from dpr_jax.train.input_pipeline import make_iterator

  config, mesh = _config(size, faces, dtype, gan), training.data_mesh()
  step, compile_s, state = _compiled(config, training.stage_at(config.num_steps, config), mesh)
  with tempfile.TemporaryDirectory() as place:
    folder = Path(place) / "faces"
    export_procedural_faces(folder, count=4 * faces, size=size, lights_per_image=config.data.lights_per_face)
    iterator = make_iterator(config, folder, "train", batch_size=faces, seed=0)
    alone = []  # the input with nothing beside it, behind what was kept ready
    for i in range(3 * config.data.prefetch):
      start = time.perf_counter()
      next(iterator)
      if i >= 2 * config.data.prefetch:
        alone.append(time.perf_counter() - start)
    times = {"all": [], "input": [], "step": []}
    for i in range(steps + 2):
      begin = time.perf_counter()
      batch = training.shard_batch(next(iterator), mesh)
      ready = time.perf_counter()
      state, metrics = step(state, batch)
      jax.block_until_ready(state)
      done = time.perf_counter()
      jax.device_get(metrics)
      if i >= 2:
        for name, seconds in (("all", time.perf_counter() - begin), ("input", ready - begin), ("step", done - ready)):
          times[name].append(seconds)
    iterator.close()
  whole, waited, stepped = (statistics.fmean(times[name]) for name in ("all", "input", "step"))
  cost = step.cost_analysis() or {}
  return {
    "images_s": 2 * faces / whole,
    "input": waited / whole,
    "host": (whole - waited - stepped) / whole,
    "step_ms": 1000 * statistics.median(times["step"]),
    "input_alone_ms": 1000 * statistics.fmean(alone),
    "compile_s": compile_s,
    "memory_mib": _memory_mib(),
    "tflops": cost.get("flops", float("nan")) / statistics.median(times["step"]) / 1e12,
    "device": jax.devices()[0].device_kind,
  }


def _memory_mib() -> float:
  """The largest so far: of the device, or of this process where that is the device."""
  import jax

  statistics_of_device = jax.devices()[0].memory_stats()
  if statistics_of_device:
    return statistics_of_device["peak_bytes_in_use"] / 2**20
  return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024


def _take_turns(size: int, faces: int, dtype: str) -> None:
  """The generator's step alone: answers every line with the seconds of one, as pytorch_step.py does."""
  import jax

  from dpr_jax.train import step as training

  config, mesh = _config(size, faces, dtype, gan=False), training.data_mesh()
  step, compile_s, state = _compiled(config, training.stage_at(config.num_steps, config), mesh)
  batch = training.shard_batch(_random_views(config), mesh)
  for _ in range(3):
    state, _ = step(state, batch)
  jax.block_until_ready(state)
  print(f"jax {jax.__version__}, {jax.default_backend()}, {compile_s:.1f} s to compile", flush=True)
  for _ in sys.stdin:
    start = time.perf_counter()
    state, _ = step(state, batch)
    jax.block_until_ready(state)
    print(time.perf_counter() - start, flush=True)


def _measure_stages(size: int, faces: int, dtype: str, steps: int) -> dict:
  """Milliseconds and compile seconds of a network with 0 to 4 skips, compiled for each and with a traced mask.

  The generator's forward and backward pass under an image loss; interleaved.
  """
  import functools

  import jax
  import jax.numpy as jnp

  from dpr_jax.base import cpu
  from dpr_jax.train import step as training

  config = _config(size, faces, dtype, gan=False)
  network, views = training.network_of(config), jax.tree.map(jnp.asarray, _random_views(config))
  state = training.create_train_state(config, training.data_mesh())

  def gradient(params, views, skip_mask):
    def loss(params):
      relit, updated = network.apply(
        {"params": params, "batch_stats": state.batch_stats},
        views.luminance.reshape(-1, size, size, 1),
        views.light[::-1].reshape(-1, 9),
        skip_mask,
        train=True,
        mutable=["batch_stats"],
      )
      return jnp.abs(relit.luminance - views.luminance[::-1].reshape(relit.luminance.shape)).mean(), updated

    return jax.grad(loss, has_aux=True)(params)

  def compiled(function, *arguments):
    start = time.perf_counter()
    compiled = jax.jit(function).lower(*arguments).compile(compiler_options=cpu.compiler_options())
    return compiled, time.perf_counter() - start

  masks = [tuple(level >= 4 - skips for level in range(4)) for skips in range(5)]
  work, rows = {}, {}
  for skips, mask in enumerate(masks):
    step, seconds = compiled(functools.partial(gradient, skip_mask=mask), state.params, views)
    work[f"{skips} skips"] = functools.partial(step, state.params, views)
    rows[f"{skips} skips"] = {"compile_s": seconds, "flops": step.cost_analysis()["flops"]}
  traced = jnp.asarray(masks[0], jnp.float32)
  step, seconds = compiled(gradient, state.params, views, traced)
  work["traced"] = functools.partial(step, state.params, views, traced)
  rows["traced"] = {"compile_s": seconds, "flops": step.cost_analysis()["flops"]}
  times = {name: [] for name in work}
  for i in range(steps + 2):
    for name, function in work.items():
      start = time.perf_counter()
      jax.block_until_ready(function())
      if i >= 2:
        times[name].append(time.perf_counter() - start)
  for name, row in rows.items():
    row["ms"] = 1000 * statistics.median(times[name])
  return rows


def _child(**what) -> list[str]:
  return [sys.executable, __file__, f"--child={json.dumps(what)}"]


def _run(**what) -> dict:
  output = subprocess.run(_child(**what), check=True, stdout=subprocess.PIPE, text=True).stdout
  return json.loads(output.splitlines()[-1])


def _against_pytorch(size: int, faces: int, steps: int) -> None:
  """Medians of ratios between neighbours in time."""
  torch = [_PYTORCH.value, str(Path(__file__).with_name("pytorch_step.py")), f"--size={size}", f"--batch={2 * faces}"]
  torch.append(f"--threads={os.cpu_count()}")
  commands = {"jax": _child(kind="turns", size=size, faces=faces, dtype="float32")}
  environments = {"jax": os.environ}
  for layout in ("channels_last", "contiguous"):
    for kept in (False, True):
      name = f"PyTorch, {layout.replace('_', ' ')}{', memory kept' if kept else ''}"
      commands[name] = [*torch, f"--layout={layout}"]
      environments[name] = os.environ | _KEEP_MEMORY if kept else os.environ
  servers = {}
  for name, command in commands.items():
    servers[name] = subprocess.Popen(
      command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True, env=environments[name]
    )
    print(f"{name}: {servers[name].stdout.readline().strip()}", flush=True)
  times = {name: [] for name in servers}
  for _ in range(steps):
    for name, server in servers.items():
      # The first of a turn finds the caches full of the other's numbers.
      turn = []
      for _ in range(2):
        server.stdin.write("\n")
        server.stdin.flush()
        turn.append(float(server.stdout.readline()))
      times[name].append(turn[-1])
  for server in servers.values():
    server.stdin.close()
    server.wait()
  print(f"\nThe generator's step, {size} x {size}, {2 * faces} images, medians of {steps} turns\n")
  print("| framework | ms | images/s | JAX against it |\n| --- | --- | --- | --- |")
  for name, seconds in times.items():
    ratio = statistics.median(other / own for own, other in zip(times["jax"], seconds, strict=True))
    median = statistics.median(seconds)
    print(f"| {name} | {1000 * median:.0f} | {2 * faces / median:.1f} | {ratio:.2f} |")
  print(flush=True)


def _print_stages(size: int) -> None:
  rows = _run(kind="stages", size=size, faces=_FACES.value, dtype=_DTYPES.value[0], steps=_STEPS.value)
  print(f"Generator, forward and backward, {size} x {size}, {2 * _FACES.value} images\n")
  print("| skips | ms | against the traced mask | GFLOP | compile, s |\n| --- | --- | --- | --- | --- |")
  for name, row in rows.items():
    share = row["ms"] / rows["traced"]["ms"]
    print(f"| {name} | {row['ms']:.0f} | {share:.2f} | {row['flops'] / 1e9:.1f} | {row['compile_s']:.1f} |")
  print(flush=True)


def main(_) -> None:
  if _CHILD.value:
    what = json.loads(_CHILD.value)
    from dpr_jax.base import cpu

    cpu.keep_memory()
    kind = what.pop("kind")
    if kind == "turns":
      _take_turns(**what)
    else:
      print(json.dumps((_measure if kind == "row" else _measure_stages)(**what)))
    return
  print(f"{platform.machine()}, {os.cpu_count()} cores, {_FACES.value} faces in a batch\n", flush=True)
  if _PYTORCH.value:
    for size in _SIZES.value:
      _against_pytorch(size, _FACES.value, _STEPS.value)
    return
  if _STAGES.value:
    for size in _SIZES.value:
      _print_stages(size)
    return
  titles = ["size", "dtype", "GAN", "images/s", "step, ms", "input", "host", "input alone, ms", "compile, s", "MiB"]
  titles += ["TFLOP/s", "of peak", "device"]
  print("| " + " | ".join(titles) + " |\n|" + " --- |" * len(titles))
  for size in _SIZES.value:
    for dtype in _DTYPES.value:
      for gan in (False, True):
        row = _run(kind="row", size=size, faces=_FACES.value, dtype=dtype, gan=gan, steps=_STEPS.value)
        cells = [str(size), dtype, "with" if gan else "without", f"{row['images_s']:.1f}", f"{row['step_ms']:.0f}"]
        cells += [f"{row['input']:.1%}", f"{row['host']:.1%}", f"{row['input_alone_ms']:.0f}"]
        cells += [f"{row['compile_s']:.1f}", f"{row['memory_mib']:.0f}", f"{row['tflops']:.3f}"]
        cells += [f"{row['tflops'] / _PEAK.value:.0%}" if _PEAK.value else "", row["device"]]
        print("| " + " | ".join(cells) + " |", flush=True)


if __name__ == "__main__":
  app.run(main)
