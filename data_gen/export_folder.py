"""The folder of a dataset while an export fills it: shards, notes on them, what lets a killed export go on.

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
import json
import os
import secrets
import shutil
import urllib.parse
from collections.abc import Iterable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import BinaryIO, NamedTuple

from data_gen.portraits import Rejection
from data_gen.synthesis import Settings
from dpr_jax import records
from dpr_jax.base.errors import BadInput
from dpr_jax.base.input_files import read_json
from dpr_jax.base.output_files import claimed

_WORK = ".export"
_SETTINGS = "settings.json"
_LOCK = ".lock"  # beside the work folder, which is renamed at the end: Windows renames none with an open file in it
_PARTIAL = ".partial"
_DONE = ".export-done"  # the work folder on its way out
_LONGEST_NAME = 200  # of a page; file systems allow 255 bytes
REJECTED = "rejected.csv"
SUMMARY = "export.json"
PAGES = "pages"


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


def holds_dataset(path: Path, settings: Settings) -> bool:
  """Whether the finished dataset of these settings is in a folder.

  Raises:
    BadInput: the folder holds a dataset of other settings, or its summary cannot be read.
  """
  if not (path / SUMMARY).exists() or (path / _WORK).exists():
    return False
  try:
    theirs = read_json(path / SUMMARY)["settings"]
  except (OSError, ValueError, KeyError, TypeError) as error:
    raise BadInput(f"{path / SUMMARY}: cannot be read as the summary of a dataset") from error
  for name, value in _without_places(settings).items():
    if theirs.get(name) != value:
      raise BadInput(f"{path}: holds a dataset with other {name} ({theirs.get(name)}, now {value}); remove it")
  return True


def _clear(path: Path) -> None:
  """Removes what a finished export has left beside its dataset."""
  _remove_lock(path)
  shutil.rmtree(path / _DONE, ignore_errors=True)  # the same command, given once more, may have been first


def _remove_lock(path: Path) -> None:
  with contextlib.suppress(OSError):  # none, or on Windows, where it goes when it is released
    (path / _LOCK).unlink()


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
      try:
        _check_free(path)  # another export may have finished meanwhile
      except BadInput:
        _remove_lock(path)
        raise
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
  theirs = unfinished_settings(folder.path)
  for name, value in ours.items():
    if theirs.get(name) != value:
      raise BadInput(
        f"{folder.path}: holds an unfinished export with other {name}"
        + ("" if isinstance(value, str) and len(value) == 64 else f" ({theirs.get(name)}, now {value})")
        + "; choose another folder"
      )


def _has_finished_shards(work: Path) -> bool:
  return any(work.glob("*.tfrecord-*.json"))


def unfinished_settings(path: Path) -> dict[str, object]:
  """The settings of an export that was cut short after its first shard; empty if there are none."""
  work = path / _WORK
  try:
    settings = read_json(work / _SETTINGS) if _has_finished_shards(work) else {}
  except (OSError, ValueError):
    settings = {}
  return settings if isinstance(settings, dict) else {}
