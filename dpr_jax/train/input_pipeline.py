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
from typing import NamedTuple

import grain
import numpy as np
from absl import flags

from dpr_jax.base.errors import BadInput
from dpr_jax.base.native_libraries import import_native
from dpr_jax.image.color import photo_luminance
from dpr_jax.records import EncodedRecord
from dpr_jax.train.augmentation import Augmentation
from dpr_jax.train.config import DataConfig, TrainingConfig
from dpr_jax.train.record_source import MixedSource, RecordSource
from dpr_jax.train.views import FACE_AXES, Faces, Views

cv2 = import_native("cv2")

_MOST_THREADS = 16
_MOST_NAMED = 3  # damaged records of those that are all damaged


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
