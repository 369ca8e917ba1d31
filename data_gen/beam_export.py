"""The export of `data_gen.export` on Apache Beam: the same function for every portrait, on many machines.

Machines of one kind give the same bytes as the local export.

Sources, lights, models and the output are paths: all machines must see them, as on a shared file system.
"""

from collections.abc import Iterable, Iterator, Sequence
from pathlib import Path

import apache_beam as beam
from apache_beam.options.pipeline_options import PipelineOptions
from apache_beam.runners.runner import create_runner

from data_gen.export import plan_shards, prepare
from data_gen.export_folder import ExportFolder, Outcome, Summary, finished_after_a_kill, open_folder
from data_gen.export_workers import Worker
from data_gen.portraits import Rejection
from data_gen.synthesis import Settings
from data_gen.target_lights import LightSource
from dpr_jax.base.errors import BadInput


def export(settings: Settings, path: Path, *, runner: str, options: Sequence[str] = (), pages: int = 0) -> Summary:
  """Makes a dataset on a Beam runner, or goes on with one that was cut short; see `data_gen.export.export`.

  Args:
    settings: how; the records depend on nothing else.
    path: the dataset's folder, seen by all machines.
    runner: `DirectRunner`, `FlinkRunner`, `SparkRunner`, `DataflowRunner` ...
    options: the runner's own flags.
    pages: for how many portraits to draw a page of pictures.

  Raises:
    BadInput: as `data_gen.export.export`.
  """
  try:
    made_runner = create_runner(runner)
  except (ValueError, ImportError, AttributeError) as error:
    raise BadInput(f"--runner {runner}: not a runner of Apache Beam ({str(error).splitlines()[0]})") from error
  settings, source, lights = prepare(settings, path)
  if (summary := finished_after_a_kill(settings, path)) is not None:
    return summary
  shards = plan_shards(source.ids, settings)
  with open_folder(path, settings, shards, lights=lights.fingerprint, pages=pages, **source.made_from) as folder:
    jobs = [(shard, position) for shard in folder.unfinished() for position in range(len(shard.ids))]
    writer = ExportFolder(
      path.resolve(), settings, ()
    )  # without the names of all photos, which machines can do without
    with beam.Pipeline(runner=made_runner, options=PipelineOptions(list(options))) as pipeline:
      _ = (
        pipeline
        | "portraits" >> beam.Create([(shard.filename, position, shard.ids[position]) for shard, position in jobs])
        | "spread" >> beam.Reshuffle()
        | "make records" >> beam.ParDo(_MakeRecords(settings, lights, writer, frozenset(source.ids[:pages])))
        | "gather shards" >> beam.GroupByKey()
        | "write shards" >> beam.ParDo(_WriteShard(writer))
      )
    return folder.finish([*source.rejected, *(Rejection(*rejection) for rejection in lights.rejected)])


class _MakeRecords(beam.DoFn):
  """(shard, position, id) -> (shard, (position, outcome)), by the worker of the local export."""

  def __init__(self, settings: Settings, lights: LightSource, folder: ExportFolder, shown: frozenset[str]):
    self._settings, self._lights, self._folder, self._shown = settings, lights, folder, shown

  def setup(self) -> None:
    self._worker = Worker(self._settings, self._lights, self._shown)

  def process(self, job: tuple[str, int, str]) -> Iterator[tuple[str, tuple[int, Outcome]]]:
    shard, position, id = job
    outcome, pages = self._worker.make(id)
    self._folder.write_pages(pages)
    yield shard, (position, outcome)

  def teardown(self) -> None:
    self._worker.close()


class _WriteShard(beam.DoFn):
  """(shard, outcomes in any order) -> a file."""

  def __init__(self, folder: ExportFolder):
    self._folder = folder

  def process(self, gathered: tuple[str, Iterable[tuple[int, Outcome]]]) -> None:
    shard, outcomes = gathered
    in_order = sorted(outcomes, key=lambda positioned: positioned[0])
    self._folder.write_shard(shard, (outcome for _, outcome in in_order))
