"""Portraits in, a folder of TFRecord shards out: with all cores, and resumable after a kill.

While an export runs, its folder holds finished shards and a work folder `.export`: the settings, a note on every
finished shard, and whatever is half done. A shard is written there and renamed when it is complete, so that it is
whole or absent; what a kill leaves half done is made again, to the same bytes.
"""

import collections
import contextlib
import csv
import dataclasses
import hashlib
import io
import itertools
import json
import multiprocessing.util
import os
import secrets
import shutil
import signal
import threading
import time
import traceback
import urllib.parse
from collections.abc import Iterable, Iterator, Mapping, Sequence
from concurrent.futures import BrokenExecutor, ProcessPoolExecutor
from pathlib import Path
from typing import BinaryIO, NamedTuple

from tqdm import tqdm

from data_gen.pages import page
from data_gen.portraits import Rejection, Source
from data_gen.synthesis import (
  HEADS,
  RENDERED,
  SYNTHETIC,
  Relit,
  Settings,
  Synthesis,
  check_models,
  open_lights,
  open_source,
  with_face_finder,
)
from data_gen.target_lights import LightSource
from dpr_jax import records
from dpr_jax.base.cpu import available_cores
from dpr_jax.base.errors import BadInput
from dpr_jax.base.input_files import read_json
from dpr_jax.base.native_libraries import MissingSystemLibrary, import_native
from dpr_jax.base.output_files import claimed
from dpr_jax.network import traced

cv2 = import_native("cv2")

_WORK = ".export"
_SETTINGS = "settings.json"
_LOCK = ".lock"  # beside the work folder, which is renamed at the end: Windows renames none with an open file in it
_PARTIAL = ".partial"
_DONE = ".export-done"  # the work folder on its way out
_LONGEST_NAME = 200  # of a page; file systems allow 255 bytes
REJECTED = "rejected.csv"
SUMMARY = "export.json"
PAGES = "pages"

_RENDERED_NAMES = {SYNTHETIC: "procedural faces", HEADS: "rendered heads"}
_MULTIPLIED = {"linear": "linear light", "published": "L of Lab, as published"}
# About what an image takes.
_BYTES_PER_PIXEL = {"png": 1.6, "jpeg": 0.5}
# How many portraits a worker may be ahead of the one that is written next: what they weigh is kept in memory.
_AHEAD = 3


class Shard(NamedTuple):
  """A file of the dataset and what goes into it.

  Attributes:
    filename: as `records.shard_filename` has it.
    split: of its records.
    ids: of the source, in order.
  """

  filename: str
  split: str
  ids: tuple[str, ...]


class Outcome(NamedTuple):
  """What became of one id of the source.

  Attributes:
    payloads: the records, encoded.
    rejections: what could not be used.
  """

  payloads: list[bytes]
  rejections: list[Rejection]


class ShardNote(NamedTuple):
  """What became of a shard.

  Attributes:
    records: how many it holds.
    rejections: what could not be used.
  """

  records: int
  rejections: list[Rejection]


@dataclasses.dataclass(frozen=True)
class Summary:
  """What an export has made.

  Attributes:
    records: by split.
    rejections: photos, faces and lights that could not be used, each with its reason.
  """

  records: Mapping[str, int]
  rejections: Sequence[Rejection]

  def __str__(self) -> str:
    total = sum(self.records.values())
    noun = "portrait" if total == 1 else "portraits"
    lines = [f"{total} {noun}: " + ", ".join(f"{count} {split}" for split, count in self.records.items())]
    reasons = collections.Counter(rejection.reason.split(":")[0] for rejection in self.rejections)
    if reasons:
      counted = ", ".join(f"{count} {reason}" for reason, count in reasons.most_common())
      lines.append(f"{len(self.rejections)} rejected (see {REJECTED}): {counted}")
    return "\n".join(lines)


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


class ExportFolder:
  """The folder that an export fills; get it from `open_folder`."""

  def __init__(self, path: Path, settings: Settings, shards: Sequence[Shard]):
    """Takes a claimed folder; see `open_folder`."""
    self.path, self._work = path, path / _WORK
    self._settings, self._shards = settings, shards

  def note(self, shard: Shard) -> ShardNote | None:
    """What became of a shard, or None if it is not finished."""
    try:
      note = read_json(self._work / f"{shard.filename}.json")
      if (self.path / shard.filename).stat().st_size != note["bytes"]:
        return None
    except (FileNotFoundError, ValueError):  # a power cut may leave an empty note
      return None
    return ShardNote(note["records"], [Rejection(*rejection) for rejection in note["rejections"]])

  def unfinished(self) -> list[Shard]:
    """The shards that are still to be made."""
    return [shard for shard in self._shards if self.note(shard) is None]

  def write_shard(self, filename: str, outcomes: Iterable[Outcome]) -> None:
    """Writes a shard and then the note on it, each whole or not at all."""
    count, rejections = 0, []
    with self._replacing(filename) as file:
      for outcome in outcomes:
        rejections += outcome.rejections
        count += len(outcome.payloads)
        for payload in outcome.payloads:
          records.write_record(file, payload)
      size = file.tell()
    note = {"records": count, "bytes": size, "rejections": rejections}
    self.write_text(f"{_WORK}/{filename}.json", json.dumps(note))

  def write_text(self, name: str, text: str) -> None:
    """Writes a small file, whole or not at all."""
    with self._replacing(name) as file:
      file.write(text.encode())

  def write_pages(self, pages: Mapping[str, bytes]) -> None:
    """Writes pages of pictures, by the id of the face."""
    for id, picture in pages.items():
      name = urllib.parse.quote(id, safe=" #()+,;=@[]") + ".jpg"
      if len(name) > _LONGEST_NAME:
        name = hashlib.sha256(id.encode()).hexdigest() + ".jpg"
      with self._replacing(f"{PAGES}/{name}") as file:
        file.write(picture)

  def finish(self, rejections: Sequence[Rejection]) -> Summary:
    """Writes what describes the whole dataset, and removes the work folder.

    Args:
      rejections: what belongs to no shard: lights, and what is no photo.

    Raises:
      BadInput: a shard is missing, or no portrait could be used.
    """
    rejections, lengths = list(rejections), collections.defaultdict(list)
    for shard in self._shards:
      note = self.note(shard)
      if note is None:
        raise BadInput(f"{self.path / shard.filename}: is not finished; the same command makes it again")
      rejections += note.rejections
      lengths[shard.split].append(note.records)
    summary = Summary({split: sum(counts) for split, counts in lengths.items() if any(counts)}, rejections)
    table = io.StringIO()
    csv.writer(table, lineterminator="\n").writerows([Rejection._fields, *rejections])
    self.write_text(REJECTED, table.getvalue())
    for shard in self._shards:
      if shard.split not in summary.records:  # a split without a record has no files either
        (self.path / shard.filename).unlink(missing_ok=True)
    if summary.records:
      records.write_metadata(
        self.path,
        {split: lengths[split] for split in summary.records},
        normal_bits=self._settings.normal_bits,
        colored=self._settings.color,
      )
    about = {"settings": _without_places(self._settings), "records": summary.records, "rejected": len(rejections)}
    self.write_text(SUMMARY, json.dumps(about, indent=2) + "\n")
    # At one stroke: half of the notes would be taken for an unfinished export.
    os.rename(self._work, self.path / _DONE)
    _clear(self.path)
    if not summary.records:
      raise BadInput(f"{self.path}: no portrait could be used; {self.path / REJECTED} says why")
    return summary

  @contextlib.contextmanager
  def _replacing(self, name: str) -> Iterator[BinaryIO]:
    """A file in the work folder that becomes `name` when it is complete and safely on the disk."""
    # A name of its own each time: a cluster may try the same shard twice at once.
    partial = self._work / f"{secrets.token_hex(8)}{_PARTIAL}"
    path = self.path / name
    try:
      with partial.open("wb") as file:
        yield file
        file.flush()
        os.fsync(file.fileno())
      path.parent.mkdir(parents=True, exist_ok=True)
      os.replace(partial, path)
    except OSError as error:
      raise BadInput(
        f"{path}: cannot be written ({error.strerror or error}); the same command goes on from the finished shards"
      ) from error
    finally:
      partial.unlink(missing_ok=True)


def _without_places(settings: Settings) -> dict[str, object]:
  """The settings, without where on this machine their files lie."""
  described = dataclasses.asdict(settings)
  for name in ("source", "light_prior", "light_names", "weights"):
    if described[name]:
      described[name] = Path(described[name]).name
  return described


def finished_after_a_kill(settings: Settings, path: Path) -> Summary | None:
  """What an export of these settings has made that was killed while it removed its notes; they are removed now.

  Returns:
    None where there is nothing of the kind.
  """
  if not (path / _DONE).is_dir() or (path / _WORK).exists():
    return None
  try:
    about = read_json(path / SUMMARY)
    with (path / REJECTED).open(newline="", encoding="utf-8") as file:
      _, *rejections = csv.reader(file)
    if about["settings"] != json.loads(json.dumps(_without_places(settings))) or not about["records"]:
      return None
    summary = Summary(about["records"], [Rejection(*rejection) for rejection in rejections])
  except (OSError, ValueError, KeyError, TypeError):
    return None
  _clear(path)
  return summary


def _clear(path: Path) -> None:
  """Removes what a finished export has left beside its dataset."""
  with contextlib.suppress(OSError):  # none, or on Windows, where it goes when it is released
    (path / _LOCK).unlink()
  shutil.rmtree(path / _DONE, ignore_errors=True)  # the same command, given once more, may have been first


@contextlib.contextmanager
def open_folder(path: Path, settings: Settings, shards: Sequence[Shard], **more: object) -> Iterator[ExportFolder]:
  """Claims a folder for an export: a new or empty one, or one where the same export was cut short.

  Args:
    path: the folder.
    settings: of the export.
    shards: what it shall hold.
    more: whatever else must be the same when an export goes on.

  Raises:
    BadInput: it holds something else, an export with other settings, or another process is filling it.
  """
  work = path / _WORK
  with contextlib.ExitStack() as stack:
    try:
      path.mkdir(parents=True, exist_ok=True)
      _check_free(path)  # nothing is written into a folder of something else
      stack.enter_context(claimed(path / _LOCK, f"{path}: another export is filling it"))
      _check_free(path)  # another export may have finished meanwhile
      shutil.rmtree(path / _DONE, ignore_errors=True)
      work.mkdir(exist_ok=True)
    except OSError as error:
      raise BadInput(f"{path}: cannot be written to ({error.strerror})") from error
    for partial in work.glob(f"*{_PARTIAL}"):
      partial.unlink()
    folder = ExportFolder(path, settings, shards)
    ids = json.dumps([shard.ids for shard in shards])
    _check_same_export(
      folder, dataclasses.asdict(settings) | {"photos": hashlib.sha256(ids.encode()).hexdigest()} | more
    )
    yield folder


def _check_free(path: Path) -> None:
  """A folder that an export may fill holds nothing, or an export that was cut short."""
  ours = (_LOCK, _DONE)
  if not (path / _WORK).exists() and any(each.name not in ours for each in path.iterdir()):
    finished = (path / SUMMARY).exists()
    raise BadInput(f"{path}: {'holds a finished dataset' if finished else 'is not empty'}; choose another folder")


def _check_same_export(folder: ExportFolder, ours: Mapping[str, object]) -> None:
  """Writes down what is exported where no shard is finished yet; otherwise it must be what was written down."""
  work = folder.path / _WORK
  if not _has_finished_shards(work):
    folder.write_text(f"{_WORK}/{_SETTINGS}", json.dumps(ours))
    return
  theirs = _written_settings(work)
  for name, value in ours.items():
    if theirs.get(name) != value:
      raise BadInput(
        f"{folder.path}: holds an unfinished export with other {name}"
        + ("" if isinstance(value, str) and len(value) == 64 else f" ({theirs.get(name)}, now {value})")
        + "; choose another folder"
      )


def _has_finished_shards(work: Path) -> bool:
  return any(work.glob("*.tfrecord-*.json"))


def _written_settings(work: Path) -> dict[str, object]:
  """Those of an export that was cut short after its first shard; empty if there are none."""
  try:
    settings = read_json(work / _SETTINGS) if _has_finished_shards(work) else {}
  except (OSError, ValueError):
    settings = {}
  return settings if isinstance(settings, dict) else {}


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
  settings = with_face_finder(settings, _written_settings(path / _WORK).get("face_finder"))
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
      contextlib.closing(_results(settings, lights, jobs, shown, workers)) as results,
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
  if (path / SUMMARY).exists() and not (path / _WORK).exists():
    try:
      theirs = read_json(path / SUMMARY)["settings"]
    except (OSError, ValueError, KeyError, TypeError) as error:
      raise BadInput(f"{path / SUMMARY}: cannot be read as the summary of a dataset") from error
    for name, value in _without_places(settings).items():
      if theirs.get(name) != value:
        raise BadInput(f"{path}: holds a dataset with other {name} ({theirs.get(name)}, now {value}); remove it")
    return
  export(settings, path, workers=available_cores())


def _results(
  settings: Settings, lights: LightSource, ids: Sequence[str], shown: frozenset[str], workers: int
) -> Iterator[tuple[Outcome, dict[str, bytes]]]:
  """What the workers make of each id, in order."""
  pool = ProcessPoolExecutor(
    workers,
    mp_context=multiprocessing.get_context("spawn"),  # JAX and MediaPipe have threads, which don't survive a fork
    initializer=_start_worker,
    initargs=(settings, lights, shown, os.getpid()),
  )
  waiting, pending = iter(ids), collections.deque()
  try:
    with _worker_surroundings(settings):  # the first job starts all workers
      for id in itertools.islice(waiting, _AHEAD * workers):
        pending.append(pool.submit(_work, id))
    while pending:
      yield pending.popleft().result()
      for id in itertools.islice(waiting, 1):
        pending.append(pool.submit(_work, id))
  except BrokenExecutor:
    raise BadInput(
      "a worker was killed (too little memory?); the same command with fewer --workers goes on from the finished shards"
    ) from None
  finally:
    pool.shutdown(cancel_futures=True)


@contextlib.contextmanager
def _worker_surroundings(settings: Settings) -> Iterator[None]:
  """What processes inherit that are started inside the block."""
  # One thread each: there are as many workers as cores. Only the relighting network is worth an accelerator.
  theirs = {f"{library}_NUM_THREADS": "1" for library in ("OMP", "OPENBLAS", "MKL")}
  if settings.light_estimator != "network":
    theirs["JAX_PLATFORMS"] = "cpu"
  ours = {name: os.environ.get(name) for name in theirs}
  os.environ.update(theirs)
  # Ctrl-C is for the parent, which then ends its workers.
  main_thread = threading.current_thread() is threading.main_thread()
  handler = signal.signal(signal.SIGINT, signal.SIG_IGN) if main_thread else None
  try:
    yield
  finally:
    if main_thread:
      signal.signal(signal.SIGINT, handler)
    for name, value in ours.items():
      os.environ.pop(name)
      if value is not None:
        os.environ[name] = value


class Worker:
  """What makes records, kept between portraits: by a process of the local export, or a machine of a cluster."""

  def __init__(self, settings: Settings, lights: LightSource, shown: frozenset[str]):
    """Opens all that the settings ask for; see `Synthesis`.

    Args:
      settings: how to make records.
      lights: the target lights.
      shown: the ids to draw pages of pictures for.
    """
    cv2.setNumThreads(1)
    self._shown = shown
    self._synthesis = Synthesis(settings, lights)
    self.close = self._synthesis.close

  def make(self, id: str) -> tuple[Outcome, dict[str, bytes]]:
    """The records of one id, and its pages of pictures."""
    outcome, pages = Outcome([], []), {}
    try:
      for result in self._synthesis.relit(id):
        if isinstance(result, Rejection):
          outcome.rejections.append(result)
          continue
        outcome.payloads.append(self._synthesis.encode(result.record))
        if id in self._shown:
          pages |= _drawn(result)
    except Exception as error:  # one portrait must not end a run of thousands; what failed is on record
      traceback.print_exc()
      outcome.rejections.append(Rejection(id, f"unexpected {type(error).__name__}: {' '.join(str(error).split())}"))
    return outcome, pages


def _drawn(result: Relit) -> dict[str, bytes]:
  """The page of a portrait by its id; a page that cannot be drawn changes nothing about the record."""
  try:
    return {result.record.id: page(result)}
  except Exception:
    traceback.print_exc()
    return {}


_worker: Worker | BadInput | MissingSystemLibrary  # of this process


def _start_worker(settings: Settings, lights: LightSource, shown: frozenset[str], parent: int) -> None:
  global _worker
  threading.Thread(target=_end_with, args=(parent,), daemon=True).start()
  traced.enable_compilation_cache()
  try:
    _worker = Worker(settings, lights, shown)
  except (BadInput, MissingSystemLibrary) as error:  # raised here, the pool would only say that it is broken
    _worker = error
    return
  multiprocessing.util.Finalize(None, _worker.close, exitpriority=1)  # a pool's process ends without atexit


def _end_with(parent: int) -> None:
  """Ends this process when its parent was killed; it would wait for work for ever."""
  while os.getppid() == parent:
    time.sleep(0.5)
  os._exit(1)


def _work(id: str) -> tuple[Outcome, dict[str, bytes]]:
  if isinstance(_worker, Exception):
    raise _worker
  return _worker.make(id)
