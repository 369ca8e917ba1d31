"""Batches out of the TFRecord shards: shuffled, sharded by process, augmented, decoded ahead, and resumable.

What the n-th batch holds, and in which order, follows from its size, the data, the seed and n alone: neither how many
threads or processes decode nor over how many hosts it is spread changes anything. TensorFlow is not needed.
"""

import dataclasses
import functools
import os
import signal
import sys
import threading
import time
from collections.abc import Sequence
from pathlib import Path
from typing import NamedTuple

import grain
import numpy as np
from absl import flags

from dpr_jax import records
from dpr_jax.base.errors import BadInput
from dpr_jax.base.input_files import read_json
from dpr_jax.base.native_libraries import import_native
from dpr_jax.image.color import lightness_of_luminance, luminance_of_lightness, photo_luminance
from dpr_jax.light import sh
from dpr_jax.records import EncodedRecord, Record
from dpr_jax.train.config import DataConfig, TrainingConfig
from dpr_jax.train.views import FACE_AXES, Faces, Views

cv2 = import_native("cv2")

_MOST_THREADS = 16
_MOST_NAMED = 3  # damaged records of those that are all damaged


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


def make_iterator(
  config: TrainingConfig,
  folder: str | os.PathLike,
  split: str,
  *,
  batch_size: int,
  seed: int,
  process_index: int = 0,
  process_count: int = 1,
) -> "BatchIterator":
  """Endless batches, `Faces` or, with `config.data.mode == "offline"`, `Views`, of NumPy arrays.

  With `config.data.others` faces come from several datasets, and from each the share that `config.data.shares` says.

  In every epoch all records are shuffled anew; epochs follow each other without a gap, so a batch may lie across two of
  them, and may hold a face twice where a split is smaller than a batch. The batches of all processes, one after the
  other, are the batch that one process would make of this row; but not where records are skipped: each process fills up
  its batch from its own share, which then runs ahead of the others' by as many faces.

  Pictures of another size than `config.data.size` are brought to it, smaller ones enlarged.

  `Faces` are to be relit in linear light: with `config.data.mode == "online"` the records' source lights must be
  factors on linear luminance, as `export_dataset.py --ratio=linear` writes them. `Views` are taken as they were stored.

  Args:
    config: read is `config.data`.
    folder: of `export_dataset.py`.
    split: one of `records.SPLITS`.
    batch_size: faces in a batch of this process, as many as in every other.
    seed: of shuffling and augmentation, the same in all processes.
    process_index: of this process among those that train together.
    process_count: how many they are.

  Raises:
    BadInput: as `RecordSource`; or the first record is of `--ratio=published`, and the mode online.
    ValueError: an empty batch, or no such process.
  """
  if batch_size < 1:
    raise ValueError(f"a batch of {batch_size} faces")
  if not 0 <= process_index < process_count:
    raise ValueError(f"process {process_index} of {process_count}")
  sources = [RecordSource(each, split, config.data.on_corrupt) for each in (folder, *config.data.others)]
  if config.data.mode == "online":
    for source in sources:
      _check_first_is_linear(source)
  source = MixedSource(sources) if config.data.others else sources[0]
  return BatchIterator(source, config.data, batch_size, seed, process_index, process_count)


def _check_first_is_linear(source: RecordSource) -> None:
  """Raises BadInput where online training cannot use a dataset, before it has begun."""
  try:
    record = source.encoded(0)
  except BadInput:  # damage is dealt with when the record's turn comes
    return
  _check_linear(record)


def _check_linear(record: EncodedRecord) -> None:
  if record.ratio != "linear":
    raise BadInput(
      f"{record.source}: was made with --ratio={record.ratio}, but online training multiplies linear light; set "
      "config.data.mode to offline, or export the dataset anew with --ratio=linear"
    )


class BatchIterator(grain.DatasetIterator):
  """What `make_iterator` returns.

  Its state is a position, whatever the number of decoding threads and processes and of batches decoded ahead. It is of
  one process, and means the same face only with the same `batch_size` and `process_count`: each process saves its own.
  `grain.checkpoint.CheckpointSave` and `CheckpointRestore` take it.
  """

  def __init__(
    self,
    source: RecordSource | MixedSource,
    data: DataConfig,
    batch_size: int,
    seed: int,
    process_index: int,
    process_count: int,
  ):
    super().__init__()
    self._source, self._data, self._batch_size = source, data, batch_size
    self._seed, self._process_index, self._process_count = seed, process_index, process_count
    self._damaged: dict[int, str] = {}
    self._lock = threading.Lock()
    self._position = 0  # examples of this process that were handed out, or skipped
    self._batches: grain.DatasetIterator | None = None

  @property
  def skipped(self) -> int:
    """How many records were found to be unusable since this iterator was made, each counted once.

    In the shares that this process has read, ahead of its batches too; after an epoch of one process, all there are.
    """
    with self._lock:
      return self._source.lost + len(self._damaged)

  @property
  def skipped_reasons(self) -> list[str]:
    """One line for each shard that is cut short, then one for each record that was skipped."""
    with self._lock:
      return [*self._source.lost_reasons, *self._damaged.values()]

  def __next__(self) -> Faces | Views:
    """The next batch.

    Raises:
      BadInput: a damaged record, with `on_corrupt` "stop"; all records are damaged, with "skip".
    """
    self.start_prefetch()
    try:
      self._position, batch = next(self._batches)
    except BaseException:
      self._stop()  # the next call begins at the same place again
      raise
    return batch

  def get_state(self) -> dict[str, int]:
    """`{"position": int}`: how many faces of this process's endless row have been handed out, or skipped."""
    return {"position": self._position}

  def set_state(self, state: dict[str, int]) -> None:
    """Goes on after the batch at which `get_state` was called, with the very same batches if nothing else changed."""
    self._stop()
    self._position = int(state["position"])

  def start_prefetch(self) -> None:
    """Begins to decode in the background.

    Raises:
      ValueError: the iterator has been closed.
    """
    if self._closed:
      raise ValueError("this iterator has been closed")
    if self._batches is None:
      self._batches = iter(self._pipeline())
      self._batches.start_prefetch()

  def close(self) -> None:
    """Ends the threads and processes that decode."""
    self._closed = True
    self._stop()

  def _stop(self) -> None:
    if self._batches is not None:
      self._batches.close()
      self._batches = None

  def _pipeline(self) -> grain.IterDataset:
    """Batches from the current position on, each with the position after it."""
    share = _Share(self._batch_size, self._process_index, self._process_count)
    examples = _Examples(self._source, self._data, self._seed, share)
    order = grain.MapDataset.range(self._position, sys.maxsize).map(examples)
    threads = min(_MOST_THREADS, os.cpu_count() or 1)
    read = grain.ReadOptions(num_threads=threads, prefetch_buffer_size=max(2 * threads, self._batch_size))
    if self._data.workers:
      read = grain.ReadOptions(num_threads=1, prefetch_buffer_size=2)
    stream = order.to_iter_dataset(read)
    if self._data.workers:
      if not flags.FLAGS.is_parsed():
        flags.FLAGS.mark_as_parsed()  # Grain looks at flags of its own, and `absl.app.run` may not be in use
      options = grain.MultiprocessingOptions(
        num_workers=self._data.workers, per_worker_buffer_size=max(2, -(-self._batch_size // self._data.workers))
      )
      # Pictures come through a pipe: a container has 64 MB of shared memory unless it is asked for more, and Grain
      # leaves some of it behind.
      piped = grain.experimental.DatasetOptions(min_shm_size=sys.maxsize)
      stream = grain.experimental.WithOptionsIterDataset(stream, piped)
      stream = stream.mp_prefetch(options, worker_init_fn=functools.partial(_start_worker, os.getpid()))
    # Damage arrives here as a value, not as an exception: the same from a thread and from another process.
    stream = stream.filter(self._is_usable).batch(self._batch_size, batch_fn=_stack)
    return grain.experimental.ThreadPrefetchIterDataset(stream, prefetch_buffer_size=self._data.prefetch)

  def _is_usable(self, example: "_Example") -> bool:
    if example.damage is None:
      return True
    if self._data.on_corrupt == "stop":
      raise BadInput(example.damage)
    with self._lock:
      self._damaged[example.record] = example.damage
      if len(self._damaged) == len(self._source):
        reasons = [self._damaged[record] for record in sorted(self._damaged)]
        raise BadInput(f"all {len(reasons)} records are damaged: " + "; ".join(reasons[:_MOST_NAMED]))
    return False


def _start_worker(parent: int, index: int, count: int) -> None:
  """Readies a decoding process; `index` of `count` does not matter."""
  cv2.setNumThreads(1)
  signal.signal(signal.SIGINT, signal.SIG_IGN)  # Ctrl-C is for the parent, which then ends its workers
  threading.Thread(target=_end_with, args=(parent,), daemon=True).start()


def _end_with(parent: int) -> None:
  """Ends this process when its parent was killed; it would wait for room in its queue for ever."""
  while os.getppid() == parent:
    time.sleep(0.5)
  os._exit(1)


def _shuffle_seed(seed: int, dataset: int) -> int:
  """Spreads seeds, from which Grain makes those of the epochs by adding 1: neighbours would share their epochs."""
  return int(np.random.SeedSequence([seed, dataset]).generate_state(1)[0])


class _Example(NamedTuple):
  """One face of the endless row, or what is wrong with it.

  Attributes:
    position: of the next one.
    record: its number in the source.
    face: a batch of it alone, without the axis of the batch; or None.
    damage: one line, or None.
  """

  position: int
  record: int
  face: Faces | Views | None
  damage: str | None


class _Share(NamedTuple):
  """What a process reads of the endless row: of each batch of all processes, one block."""

  batch_size: int
  process_index: int
  process_count: int

  def place(self, position: int) -> int:
    """Where a face stands in the row, from how many of this process come before it."""
    batch, face = divmod(position, self.batch_size)
    return (batch * self.process_count + self.process_index) * self.batch_size + face


class _Examples:
  """From a position of this process to the example there."""

  def __init__(self, source: RecordSource | MixedSource, data: DataConfig, seed: int, share: _Share):
    self._source, self._seed, self._share = source, seed, share
    self._data = {field.name: getattr(data, field.name) for field in dataclasses.fields(DataConfig)}
    sizes = source.sizes if isinstance(source, MixedSource) else (len(source),)
    ends = np.cumsum(sizes).tolist()
    rows = [
      grain.MapDataset.range(end - size, end).shuffle(_shuffle_seed(seed, number)).repeat()
      for number, (size, end) in enumerate(zip(sizes, ends, strict=True))
    ]
    self._row = rows[0] if len(rows) == 1 else grain.MapDataset.mix(rows, list(data.shares or sizes))

  def __call__(self, position: int) -> _Example:
    place = self._share.place(position)
    record, epoch = self._row[place], place // len(self._source)
    if isinstance(self._source, MixedSource):
      epoch = place  # a record of a small dataset may come several times while a large one is gone through once
    rng = np.random.default_rng([self._seed, 1, epoch, record])
    load = load_faces if self._data["mode"] == "online" else load_views
    try:
      return _Example(position + 1, record, load(self._source.encoded(record), self._data, rng), None)
    except BadInput as error:
      return _Example(position + 1, record, None, str(error))


def _stack(examples: Sequence[_Example]) -> tuple[int, Faces | Views]:
  faces = [example.face for example in examples]
  axes = FACE_AXES[type(faces[0])]
  fields = zip(zip(*faces, strict=True), axes, strict=True)
  return examples[-1].position, type(axes)(*(np.stack(field, axis) for field, axis in fields))


# What the shape of hair, neck and shoulders weighs in learning beside that of the face.
_BESIDE_FACE = np.float32(0.3)


def load_faces(record: EncodedRecord, data: dict, rng: np.random.Generator) -> Faces:
  """One photo with its normals, augmented; arrays as in `Faces`, without the axis of the batch.

  Raises:
    BadInput: the record is damaged, not square, or not of linear light.
  """
  _check_linear(record)
  move = Augmentation.draw(data, rng)
  _check_square(record)
  mask = move.mask(record.mask())[..., None]
  beside = _BESIDE_FACE * move.mask(np.ones(record.size, bool))[..., None] if record.whole_shape else 0
  return Faces(
    luminance=move.picture(photo_luminance(move.resize(record.original())))[..., None],
    normal=move.normal(record.normal()),
    depth=move.depth(record.depth())[..., None],
    mask=mask,
    framing=move.framing(),
    source_light=move.light(record.source_light()),
    shape_weight=np.maximum(mask, beside),
  )


def load_views(record: EncodedRecord, data: dict, rng: np.random.Generator) -> Views:
  """Two different pictures of the photo and its relit versions, augmented alike; arrays as in `Views`, without the
  axis of the batch.
  """
  move = Augmentation.draw(data, rng)
  _check_square(record)
  pair = rng.choice(record.count + 1, 2, replace=False)
  original = record.original()
  decoded = dict(zip(pair[pair > 0], record.relit(pair[pair > 0] - 1), strict=True)) | {0: original}
  luminance = {index: move.picture(photo_luminance(move.resize(picture))) for index, picture in decoded.items()}
  lights = np.concatenate([record.source_light()[None], record.target_lights()])[pair]
  return Views(
    luminance=np.stack([luminance[index] for index in pair])[..., None],
    light=move.light(lights),
    mask=move.mask(record.mask())[..., None],
    original=luminance[0][..., None],
  )


def _check_square(record: EncodedRecord) -> None:
  height, width = record.size
  if height != width:
    raise BadInput(f"{record.source}: its pictures have {width} x {height} pixels; training takes square ones")


class Augmentation(NamedTuple):
  """One way to bring the maps of a face to the size of training: resized, mirrored, shifted and scaled in one warp,
  darker, and cut.

  What comes in from beyond the edge is mirrored there, pictures and normals alike, so that each pixel keeps its own
  normal; it belongs to no face.

  Attributes:
    size: side of the result, in pixels.
    flip: whether left and right are exchanged.
    warp: `[2, 3]`, from pixels of the resized picture to those of the result, or None: neither shifted nor scaled.
    exposure: factor on linear luminance, at most 1: so nothing is burnt, and the photo's light stays what it is but
      for its brightness.
    seen: first and last row and column that the photo shows, `[4]`, or None: all. Beyond them the last one goes on, as
      in a photo that ends at the face and was padded.
  """

  size: int
  flip: bool = False
  warp: np.ndarray | None = None
  exposure: float = 1.0
  seen: np.ndarray | None = None

  @classmethod
  def draw(cls, data: dict, rng: np.random.Generator) -> "Augmentation":
    """Draws what `flip`, `crop`, `scale`, `darken` and `cut` of `config.DataConfig` allow."""
    size, (coin, *numbers) = data["size"], rng.random(4)
    move = cls(size, flip=bool(data["flip"] and coin < 0.5))
    if data["crop"] or data["scale"]:
      right, down, larger = 2 * np.array(numbers) - 1
      factor, shift, centre = 1 + data["scale"] * larger, data["crop"] * size * np.array([right, down]), (size - 1) / 2
      move = move._replace(warp=np.column_stack([factor * np.eye(2), shift + (1 - factor) * centre]))
    if data["darken"]:
      move = move._replace(exposure=float(2 ** -rng.uniform(0, data["darken"])))
    if data["cut"] and rng.random() < 0.5:
      cut = (data["cut"] * size * rng.random(4)).astype(int)
      move = move._replace(seen=np.array([cut[0], size - 1 - cut[1], cut[2], size - 1 - cut[3]]))
    return move

  def resize(self, image: np.ndarray) -> np.ndarray:
    """`[H, W]` or `[H, W, C]` -> `[S, S]` or `[S, S, C]`; smaller by the mean of what falls into a pixel."""
    if image.shape[:2] == (self.size, self.size):
      return image
    smaller = self.size < image.shape[0]
    return cv2.resize(image, (self.size, self.size), interpolation=cv2.INTER_AREA if smaller else cv2.INTER_LINEAR)

  def picture(self, luminance: np.ndarray) -> np.ndarray:
    """L / 100 of a resized picture, `[S, S]`."""
    luminance = self._moved(luminance)
    if self.seen is not None:
      top, bottom, left, right = self.seen
      margins = top, self.size - 1 - bottom, left, self.size - 1 - right
      luminance = cv2.copyMakeBorder(luminance[top : bottom + 1, left : right + 1], *margins, cv2.BORDER_REPLICATE)
    if self.exposure == 1:
      return luminance
    return lightness_of_luminance(luminance_of_lightness(luminance) * np.float32(self.exposure))

  def normal(self, normal: np.ndarray) -> np.ndarray:
    """Unit normals `[H, W, 3]` -> `[S, S, 3]`; a mirrored face turns its x the other way."""
    moved = self._moved(self.resize(normal))
    if self.warp is not None or moved.shape != normal.shape:
      moved = _unit(moved)
    if self.flip:
      moved[..., 0] *= -1  # `moved` is a new array
    return moved

  def depth(self, depth: np.ndarray) -> np.ndarray:
    """Height towards the viewer in shares of the side, `[H, W]` -> `[S, S]`; it grows with the picture."""
    moved = self._moved(self.resize(depth))
    return moved if self.warp is None else moved * np.float32(self.warp[0, 0])

  def mask(self, mask: np.ndarray) -> np.ndarray:
    """`[H, W]` bool -> `[S, S]` float32, 0 or 1."""
    moved = self._moved(self.resize(mask.astype(np.float32)), cv2.BORDER_CONSTANT)
    moved = (moved > 0.5).astype(np.float32)
    if self.seen is None:
      return moved
    top, bottom, left, right = self.seen
    seen = np.zeros_like(moved)
    seen[top : bottom + 1, left : right + 1] = moved[top : bottom + 1, left : right + 1]
    return seen

  def framing(self) -> np.ndarray:
    """Factor, right and down, `[3]` float32, as in `Faces`."""
    if self.warp is None:
      return np.float32([1, 0, 0])
    centre = (self.size - 1) / 2
    moved = self.warp @ [centre, centre, 1] - centre
    return np.float32([self.warp[0, 0], *(2 * moved / self.size)])

  def light(self, light: np.ndarray) -> np.ndarray:
    """`[..., 9]`, for the moved face."""
    return light * sh.MIRROR if self.flip else light

  def _moved(self, image: np.ndarray, border: int = cv2.BORDER_REFLECT) -> np.ndarray:
    if self.flip:
      image = cv2.flip(image, 1)
    if self.warp is None:
      return image
    return cv2.warpAffine(image, self.warp, (self.size, self.size), flags=cv2.INTER_LINEAR, borderMode=border)


def _unit(vectors: np.ndarray) -> np.ndarray:
  """Vectors `[H, W, 3]` brought to length 1, in OpenCV's vectorised loops: in NumPy it takes ten times as long."""
  squared = cv2.transform(cv2.multiply(vectors, vectors), np.ones((3, 3), np.float32))
  if squared.min() < 1e-12:  # opposite normals that cancelled where they were averaged: towards the camera
    cancelled = squared < 1e-12
    vectors = np.where(cancelled, np.array([0, -1, 0], np.float32), vectors)
    squared = np.where(cancelled, np.float32(1), squared)
  return cv2.divide(vectors, cv2.sqrt(squared))
