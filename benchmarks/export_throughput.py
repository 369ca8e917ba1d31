"""How long a portrait takes on its way into the dataset, stage by stage and with several workers, and what memory.

python benchmarks/export_throughput.py --source=FOLDER --portraits=40
python benchmarks/export_throughput.py --source=synthetic --portraits=500 --workers=2
"""

import multiprocessing
import os
import resource
import statistics
import tempfile
import time
from pathlib import Path

from absl import app, flags

from data_gen.export import export
from data_gen.portraits import Rejection
from data_gen.synthesis import SYNTHETIC, Settings, Synthesis

_SOURCE = flags.DEFINE_string("source", "synthetic", "a folder of photos, or synthetic")
_PORTRAITS = flags.DEFINE_integer("portraits", 40, "how many; a folder's first ones")
_SIZE = flags.DEFINE_integer("size", 1024, "side of the portraits")
_NORMALS = flags.DEFINE_string("normals", None, "as for export_dataset.py")
_FACE_FINDER = flags.DEFINE_string("face_finder", None, "as for export_dataset.py")
_RATIO = flags.DEFINE_enum("ratio", "linear", ["linear", "published"], "as for export_dataset.py")
_ARAP = flags.DEFINE_bool("arap", False, "as for export_dataset.py")
_WORKERS = flags.DEFINE_multi_integer("workers", [1, 2], "numbers of workers to try")


def _settings(source: str, count: int) -> Settings:
  synthetic = source == SYNTHETIC
  normals = _NORMALS.value or ("synthetic" if synthetic else "face_mesh")
  estimator = "truth" if normals == "synthetic" else "fit"
  return Settings(
    source=source,
    count=count,
    size=_SIZE.value,
    face_finder=_FACE_FINDER.value,
    normals=normals,
    arap=_ARAP.value,
    ratio=_RATIO.value,
    light_estimator=estimator,
  )


def _folder_of(count: int, place: Path) -> str:
  """A folder that holds the first `count` photos of the source, as links."""
  if _SOURCE.value == SYNTHETIC:
    return SYNTHETIC
  folder = place / f"first_{count}"
  folder.mkdir()
  for photo in sorted(Path(_SOURCE.value).resolve().iterdir())[:count]:
    (folder / photo.name).symlink_to(photo)
  return str(folder)


def _print_stages(settings: Settings) -> None:
  """Median milliseconds of each stage, in this process."""
  times: dict[str, list[float]] = {}
  rejected = 0
  with Synthesis(settings) as synthesis:
    for id in synthesis.source.ids:
      synthesis.seconds.clear()
      for result in synthesis.relit(id):
        if isinstance(result, Rejection):
          rejected += 1
          continue
        synthesis.encode(result.record)
        for stage, seconds in synthesis.seconds.items():
          times.setdefault(stage, []).append(seconds)
  print("| stage | median ms |\n| --- | --- |")
  for stage, seconds in times.items():
    print(f"| {stage} | {1000 * statistics.median(seconds):.0f} |")
  print(f"| all | {1000 * sum(map(statistics.median, times.values())):.0f} |")
  print(f"{rejected} of {len(synthesis.source.ids)} rejected; the first portrait also compiles\n")


def _measure_export(settings: Settings, workers: int, results) -> None:
  """Runs in a process of its own, so that the peak of its workers' memory is theirs alone."""
  with tempfile.TemporaryDirectory() as folder:
    start = time.perf_counter()
    export(settings, Path(folder) / "dataset", workers=workers)
    seconds = time.perf_counter() - start
  results.put((seconds, resource.getrusage(resource.RUSAGE_CHILDREN).ru_maxrss / 1024))


def _export(count: int, workers: int, place: Path) -> tuple[float, float]:
  context = multiprocessing.get_context("spawn")
  results = context.Queue()
  source = _folder_of(count, place)
  process = context.Process(target=_measure_export, args=(_settings(source, count), workers, results))
  process.start()
  measured = results.get()
  process.join()
  return measured


def main(_) -> None:
  few, many = max(2, _PORTRAITS.value // 4), _PORTRAITS.value
  print(f"{_SOURCE.value}, {_SIZE.value} x {_SIZE.value}, 5 lights, {os.cpu_count()} cores\n")
  with tempfile.TemporaryDirectory() as place:
    _print_stages(_settings(_folder_of(few, Path(place)), few))
  print(f"| workers | start-up s | s a portrait | MiB a worker after {few} | after {many} |")
  print("| --- | --- | --- | --- | --- |")
  for workers in _WORKERS.value:
    with tempfile.TemporaryDirectory() as place:
      few_seconds, few_memory = _export(few, workers, Path(place))
      many_seconds, many_memory = _export(many, workers, Path(place))
    each = (many_seconds - few_seconds) / (many - few)
    print(
      f"| {workers} | {few_seconds - few * each:.1f} | {each:.2f} | {few_memory:.0f} | {many_memory:.0f} |", flush=True
    )


if __name__ == "__main__":
  app.run(main)
