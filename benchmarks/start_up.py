"""How long the command line takes to start: wall and CPU seconds of whole processes, with either finder.

  python benchmarks/start_up.py
  python benchmarks/start_up.py --rounds=9 --finders=embedded

Every number is of a process of its own: Python's start, the imports, one photo (scikit-image's astronaut) relit from
file to file. Fresh: nothing has been kept of an earlier run; warm: the second and later ones. MediaPipe's row takes its
models from `DPR_ASSETS`. Rounds are interleaved, so that all rows see the same machine; CPU seconds, user and system,
of all threads together, depend less on what else the machine does.
"""

import argparse
import os
import platform
import resource
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Mapping, Sequence
from pathlib import Path

from PIL import Image

from dpr_jax.image import pictures

SCRIPT = Path(__file__).resolve().parents[1] / "relight.py"


def timed(command: Sequence[str], environment: Mapping[str, str], expected: int = 0) -> tuple[float, float]:
  """Wall and CPU seconds of a process.

  Raises:
    RuntimeError: it ended with another exit code than expected.
  """
  before, start = resource.getrusage(resource.RUSAGE_CHILDREN), time.perf_counter()
  ended = subprocess.run(command, env=dict(environment), capture_output=True, text=True, check=False)
  wall, after = time.perf_counter() - start, resource.getrusage(resource.RUSAGE_CHILDREN)
  if ended.returncode != expected:
    raise RuntimeError(f"{' '.join(command)}: {ended.stderr.strip()[-500:]}")
  return wall, after.ru_utime + after.ru_stime - before.ru_utime - before.ru_stime


def main() -> None:
  parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
  parser.add_argument("--rounds", type=int, default=5)
  parser.add_argument("--finders", default="embedded,mediapipe")
  arguments = parser.parse_args()
  rows: dict[str, list[tuple[float, float]]] = {}
  with tempfile.TemporaryDirectory() as text:
    folder = Path(text)
    photo, out = folder / "astronaut.png", folder / "relit.png"
    Image.fromarray(pictures.astronaut()).save(photo)
    relight = [sys.executable, str(SCRIPT), f"--image={photo}", "--light=left", f"--out={out}", "--overwrite"]

    def measure(name: str, command: Sequence[str], cache: str, expected: int = 0) -> None:
      environment = {**os.environ, "DPR_CACHE": str(folder / cache)}
      environment.pop("JAX_COMPILATION_CACHE_DIR", None)
      rows.setdefault(name, []).append(timed(command, environment, expected))

    for k in range(arguments.rounds):
      measure("`import jax`", [sys.executable, "-c", "import jax"], "unused")
      measure("a call that is refused: a flag", [*relight, "--strength=9"], "unused", expected=2)
      measure("a call that is refused: a missing photo", [*relight, "--image=missing.png"], "unused", expected=2)
      for finder in arguments.finders.split(","):
        command = [*relight, f"--face_finder={finder}"]
        measure(f"one photo, {finder}, fresh", command, f"{finder}-{k}")
        measure(f"one photo, {finder}, warm", command, f"{finder}-{k}")
  print(f"{platform.machine()}, {os.cpu_count()} cores, medians of {arguments.rounds} rounds\n")
  print("| process | wall, s | CPU, s | least CPU, s |\n| --- | --- | --- | --- |")
  for name, values in rows.items():
    wall, cpu = (statistics.median(each) for each in zip(*values, strict=True))
    print(f"| {name} | {wall:.2f} | {cpu:.2f} | {min(cpu for _, cpu in values):.2f} |")


if __name__ == "__main__":
  main()
