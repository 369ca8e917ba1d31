"""The records of a dataset's shards by number, read when they are asked for; TensorFlow is not needed."""

import os
from collections.abc import Sequence
from pathlib import Path

import numpy as np

from dpr_jax import records
from dpr_jax.base.errors import BadInput
from dpr_jax.base.input_files import read_json
from dpr_jax.records import EncodedRecord, Record


class RecordSource:
  """The records of a split, in the order of their shards; opening it reads where they begin, not what they hold.

  It holds no open file: threads may share it, and it can be pickled.

  Attributes:
    lost: how many records cannot be reached because a shard is truncated or a record's length is damaged, as far as is
      known; 0 with `on_corrupt="stop"`.
    lost_reasons: one line for each such shard.
    whole_shape: as of `EncodedRecord`, of all records: that of rendered heads, which have their own normals.
  """

  def __init__(self, folder: str | os.PathLike, split: str, on_corrupt: str = "stop"):
    """Finds the records.

    Args:
      folder: of `export_dataset.py`.
      split: one of `records.SPLITS`.
      on_corrupt: "stop" at a damaged shard, or "skip" what cannot be reached.

    Raises:
      BadInput: no such folder, split or shard, a damaged shard (with "stop"), or not one record.
    """
    self._shards = records.list_shards(folder, split)
    self.lost_reasons: list[str] = []
    self.lost = 0
    self.whole_shape = _has_whole_shapes(Path(folder))
    lengths = _shard_lengths(Path(folder), split, len(self._shards))
    offsets = []
    for shard, length in zip(self._shards, lengths, strict=True):
      found, damage = records.readable_offsets(shard)
      offsets.append(found)
      if not damage and length is not None and len(found) != length:
        damage = BadInput(f"{shard}: holds {len(found)} records instead of the {length} of dataset_info.json")
      if not damage:
        continue
      if on_corrupt == "stop":
        raise damage
      self.lost += max(1, length - len(found)) if length is not None else 1
      self.lost_reasons.append(str(damage))
    self._ends = np.cumsum([len(found) for found in offsets])
    self._offsets = np.concatenate(offsets)
    if not len(self):
      raise BadInput(
        f"{folder}: the split {split} holds no readable record" + "".join(f"; {r}" for r in self.lost_reasons)
      )

  def __len__(self) -> int:
    return len(self._offsets)

  def __getitem__(self, index: int) -> Record:
    """The whole record, numbered from 0 over all shards.

    Raises:
      BadInput: it is damaged; names the shard and the record's number in it.
    """
    payload, name = self._payload(index)
    return records.decode_record(payload, name)

  def encoded(self, index: int) -> EncodedRecord:
    """The record, of which only what is asked for will be decoded; raises as `[index]` does."""
    return EncodedRecord(*self._payload(index), whole_shape=self.whole_shape)

  def _payload(self, index: int) -> tuple[bytes, str]:
    shard = int(np.searchsorted(self._ends, index, side="right"))
    number = index - (self._ends[shard - 1] if shard else 0)
    name = f"{self._shards[shard]}: record {number} (counted from 0)"
    try:
      # Opened for each record, which takes microseconds: a data set may have more shards than a process open files.
      with open(self._shards[shard], "rb", buffering=0) as file:
        return records.read_record_at(file, int(self._offsets[index]), name), name
    except OSError as error:
      raise BadInput(f"{name} cannot be read ({error.strerror})") from error


class MixedSource:
  """The records of several datasets, one after the other.

  Attributes:
    sizes: how many each has.
    lost: the sum of their `RecordSource.lost`.
    lost_reasons: the lines of all their `RecordSource.lost_reasons`.
  """

  def __init__(self, sources: Sequence[RecordSource]):
    """Takes one source of each dataset."""
    self._sources = sources
    self.sizes = tuple(len(source) for source in sources)
    self.lost = sum(source.lost for source in sources)
    self.lost_reasons = [reason for source in sources for reason in source.lost_reasons]

  def __len__(self) -> int:
    return sum(self.sizes)

  def encoded(self, index: int) -> EncodedRecord:
    """As `RecordSource.encoded`, for a record numbered from 0 over all datasets."""
    for source in self._sources:
      if index < len(source):
        return source.encoded(index)
      index -= len(source)
    raise IndexError(f"record {index} beyond the last one")


def _shard_lengths(folder: Path, split: str, count: int) -> list[int | None]:
  """How many records the export wrote into each shard, or None where its notes do not say."""
  try:
    splits = read_json(folder / "dataset_info.json")["splits"]
    (lengths,) = (info["shardLengths"] for info in splits if info["name"] == split)
    lengths = [int(length) for length in lengths]
  except (OSError, ValueError, KeyError, TypeError):
    return [None] * count
  return lengths if len(lengths) == count else [None] * count


def _has_whole_shapes(folder: Path) -> bool:
  """Whether the export says that it is of rendered heads, with their own normals; False where it says nothing.

  Procedural faces have normals in the whole picture, too, but no depth beside the face.
  """
  try:
    settings = read_json(folder / "export.json")["settings"]
    return settings["source"] == "heads" and settings["normals"] == "synthetic"
  except (OSError, ValueError, KeyError, TypeError):
    return False
