"""Portraits in, a folder of TFRecord shards out: with all cores, and resumable after a kill."""

import contextlib
import itertools
from collections.abc import Iterable, Iterator
from pathlib import Path

from tqdm import tqdm

from data_gen.export_folder import (
  Outcome,
  Shard,
  Summary,
  finished_after_a_kill,
  holds_dataset,
  open_folder,
  unfinished_settings,
)
from data_gen.export_workers import make_records
from data_gen.portraits import Rejection, Source
from data_gen.synthesis import (
  HEADS,
  RENDERED,
  SYNTHETIC,
  Settings,
  check_models,
  open_lights,
  open_source,
  with_face_finder,
)
from data_gen.target_lights import LightSource
from dpr_jax import records
from dpr_jax.base.cpu import available_cores
from dpr_jax.base.errors import BadInput

_RENDERED_NAMES = {SYNTHETIC: "procedural faces", HEADS: "rendered heads"}
_MULTIPLIED = {"linear": "linear light", "published": "L of Lab, as published"}
# About what an image takes.
_BYTES_PER_PIXEL = {"png": 1.6, "jpeg": 0.5}


def plan_shards(ids: Iterable[str], settings: Settings) -> list[Shard]:
  """Which id goes into which file: the split by a hash of the id, then shards of about the size asked for."""
  by_split: dict[str, list[str]] = {split: [] for split in records.SPLITS}
  for id in ids:
    by_split[records.split_of(id)].append(id)
  per_shard = max(1, round(settings.shard_megabytes * 1e6 / _portrait_bytes(settings)))
  shards = []
  for split, members in by_split.items():
    starts = range(0, len(members), per_shard)
    for index, start in enumerate(starts):
      filename = records.shard_filename(split, index, len(starts))
      shards.append(Shard(filename, split, tuple(members[start : start + per_shard])))
  return shards


def _portrait_bytes(settings: Settings) -> float:
  """About what a record takes: its images, and the normals."""
  return (settings.lights_per_image + 2) * settings.size**2 * _BYTES_PER_PIXEL[settings.image_format]


def describe(settings: Settings, path: Path) -> str:
  """What `export` would do, for people.

  Raises:
    BadInput: as `export`, for what can be found out without opening a photo.
  """
  settings, source, lights = prepare(settings, path)
  shards = plan_shards(source.ids, settings)
  counts = {split: sum(len(shard.ids) for shard in shards if shard.split == split) for split in records.SPLITS}
  size = len(source.ids) * _portrait_bytes(settings)
  lines = [
    f"{len(source.ids)} {_RENDERED_NAMES.get(settings.source, f'photos of {settings.source}')}: "
    + ", ".join(f"{count} {split}" for split, count in counts.items()),
    f"square portraits of {settings.size} x {settings.size} pixels, normals by {settings.normals}"
    f"{', aligned by ARAP' if settings.arap else ''}, source light by {settings.light_estimator}"
    f"{f', faces found by {settings.face_finder}' if settings.face_finder else ''}",
    f"{settings.lights_per_image} {'coloured' if settings.color else 'gray'} target lights each, from {lights.name}; "
    f"a change of light multiplies {_MULTIPLIED[settings.ratio]}",
    f"{path}: {len(shards)} shards of {settings.image_format.upper()}, about {size / 1e6:,.0f} MB",
    *(f"{name} would be left out: {reason}" for name, reason in [*source.rejected, *lights.rejected]),
  ]
  return "\n".join(lines)


def prepare(settings: Settings, path: Path) -> tuple[Settings, Source, LightSource]:
  """Opens source and lights, and looks for models, before anything is written.

  Returns:
    The settings with the face finder that all processes take (where an export goes on: the one it began with), the
    source, and the lights.

  Raises:
    BadInput: one of them is missing or cannot be used, or `path` lies inside the source.
  """
  if settings.source not in RENDERED and Path(settings.source).resolve() in [path.resolve(), *path.resolve().parents]:
    raise BadInput(f"{path}: lies inside --source, where its pictures would be taken for photos")
  source = open_source(settings)
  _ = source.ids  # what is wrong with the folder is said before a model is fetched
  settings = with_face_finder(settings, unfinished_settings(path).get("face_finder"))
  check_models(settings)
  return settings, source, open_lights(settings)


def export(settings: Settings, path: Path, *, workers: int, pages: int = 0) -> Summary:
  """Makes a dataset on this machine, or goes on with one that was cut short.

  Args:
    settings: how; the records depend on nothing else.
    path: the dataset's folder.
    workers: processes.
    pages: for how many portraits to draw a page of pictures.

  Raises:
    BadInput: something that concerns the whole run: a folder, a model, the disk. A portrait that cannot be used is
      rejected instead.
  """
  settings, source, lights = prepare(settings, path)
  if (summary := finished_after_a_kill(settings, path)) is not None:
    return summary
  shards = plan_shards(source.ids, settings)
  with open_folder(path, settings, shards, lights=lights.fingerprint, pages=pages, **source.made_from) as folder:
    unfinished = folder.unfinished()
    jobs = [id for shard in unfinished for id in shard.ids]
    shown = frozenset(source.ids[:pages])
    with (
      tqdm(
        total=len(source.ids),
        initial=len(source.ids) - len(jobs),
        unit=" portraits",
        disable=None,
        dynamic_ncols=True,
      ) as bar,
      contextlib.closing(make_records(settings, lights, jobs, shown, workers)) as results,
    ):

      def outcomes(shard: Shard) -> Iterator[Outcome]:
        for outcome, drawn in itertools.islice(results, len(shard.ids)):
          folder.write_pages(drawn)
          yield outcome
          bar.update()

      for shard in unfinished:
        folder.write_shard(shard.filename, outcomes(shard))
    return folder.finish([*source.rejected, *(Rejection(*rejection) for rejection in lights.rejected)])


def export_procedural_faces(path: Path, *, count: int, size: int, lights_per_image: int) -> None:
  """Fills a folder with procedural faces, all cores at work; nothing is done where they are there already.

  Args:
    path: the dataset's folder.
    count: how many faces.
    size: side of the square portraits in pixels.
    lights_per_image: target lights of each.

  Raises:
    BadInput: as `export`; or the folder holds another dataset.
  """
  settings = Settings(count=count, size=size, lights_per_image=lights_per_image)
  if not holds_dataset(path, settings):
    export(settings, path, workers=available_cores())
