"""Each face once an epoch, on one process only, mirrored with its light; and a state that goes on exactly."""

import itertools
import json
import pickle
import signal
import subprocess
import sys
import textwrap
import time
from pathlib import Path

import grain
import numpy as np
import orbax.checkpoint as ocp
import pytest

from dpr_jax import records
from dpr_jax.base.errors import BadInput
from dpr_jax.base.native_libraries import import_native
from dpr_jax.image.color import photo_luminance
from dpr_jax.light import sh
from dpr_jax.records import Record, encode_record, record_offsets
from dpr_jax.train.config import DataConfig, TrainingConfig
from dpr_jax.train.input_pipeline import make_iterator
from dpr_jax.train.record_source import RecordSource
from dpr_jax.train.views import FACE_AXES, Faces, Views

cv2 = import_native("cv2")

SIZE = 16
MODES = ("offline", "online")


def face(number, size=SIZE, lights=2):
  """A record of random numbers, known by the first number of its lights: `number`, and 1, 2, ... hundredths more."""
  rng = np.random.default_rng(number)
  normal = rng.normal(size=(size, size, 3))
  source_light, target_lights = rng.normal(size=9), rng.normal(size=(lights, 9))
  source_light[0], target_lights[:, 0] = number, number + (1 + np.arange(lights)) / 100
  return Record(
    id=f"face {number}",
    original=rng.integers(0, 256, (size, size, 3), np.uint8),
    relit=rng.integers(0, 256, (lights, size, size, 3), np.uint8),
    target_lights=np.float32(target_lights),
    source_light=np.float32(source_light),
    normal=np.float32(normal / np.linalg.norm(normal, axis=-1, keepdims=True)),
    depth=np.float32(rng.uniform(-0.5, 0.5, (size, size))),
    mask=rng.random((size, size)) < 0.5,
    light_names=tuple(f"lamp {k}" for k in range(lights)),
  )


def write(folder, shards, split="train", metadata=True):
  """Shards of encoded records; returns their paths."""
  folder.mkdir(exist_ok=True)
  paths = [folder / records.shard_filename(split, index, len(shards)) for index in range(len(shards))]
  for path, payloads in zip(paths, shards, strict=True):
    records.write_tfrecords(path, payloads)
  if metadata:
    records.write_metadata(folder, {split: [len(shard) for shard in shards]}, normal_bits=16, colored=False)
  return paths


FACES = [face(number, lights=1 + number % 3) for number in range(7)]
PAYLOADS = [encode_record(record) for record in FACES]


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
  """Seven faces of 16 pixels in three shards, one of them empty."""
  folder = tmp_path_factory.mktemp("faces")
  write(folder, [PAYLOADS[:3], [], PAYLOADS[3:]])
  return folder


def settings(**fields):
  data = {"size": SIZE, "mode": "online", "crop": 0.1, "scale": 0.1} | fields
  return TrainingConfig(data=DataConfig(**data))


@pytest.fixture
def iterate():
  """`make_iterator`, with the fields of `config.data` by name; closed at the end."""
  opened = []

  def make(folder, batch_size=3, seed=5, process=(0, 1), split="train", **fields):
    iterator = make_iterator(
      settings(**fields),
      folder,
      split,
      batch_size=batch_size,
      seed=seed,
      process_index=process[0],
      process_count=process[1],
    )
    opened.append(iterator)
    return iterator

  yield make
  for iterator in opened:
    iterator.close()


def numbers(batch):
  """Which faces a batch holds."""
  light = batch.source_light if isinstance(batch, Faces) else batch.light[0]
  return np.floor(light[:, 0] + 1e-3).astype(int).tolist()


@pytest.fixture(scope="module")
def other_folder(tmp_path_factory):
  """Two faces more, 100 and 101, of another dataset."""
  folder = tmp_path_factory.mktemp("others")
  write(folder, [[encode_record(face(number)) for number in (100, 101)]])
  return folder


def test_datasets_are_mixed_by_their_shares(folder, other_folder, iterate):
  batches = itertools.islice(iterate(folder, 4, others=(str(other_folder),), shares=(3, 1)), 14)
  seen = all_numbers(batches)
  assert sum(number >= 100 for number in seen) == len(seen) // 4
  assert {*seen} == {*range(7), 100, 101}
  own = [number for number in seen if number < 100]
  assert all(sorted(own[start : start + 7]) == [*range(7)] for start in (0, 7, 14))


def test_without_shares_each_dataset_gives_as_much_as_it_has(folder, other_folder, iterate):
  seen = all_numbers(itertools.islice(iterate(folder, 9, others=(str(other_folder),)), 4))
  assert sum(number >= 100 for number in seen) == 8


def test_a_mixed_row_goes_on_where_it_was_left_and_moves_a_face_anew_each_time(folder, other_folder, iterate):
  mixed = {"others": (str(other_folder),), "shares": (1, 3)}
  whole = iterate(folder, 3, **mixed)
  first, state, expected = next(whole), whole.get_state(), [next(whole) for _ in range(2)]
  again = iterate(folder, 3, **mixed)
  again.set_state(state)
  for batch in expected:
    np.testing.assert_array_equal(next(again).luminance, batch.luminance)
  faces = [(n, x) for b in (first, *expected) for n, x in zip(numbers(b), b.luminance, strict=True) if n == 100]
  assert len(faces) > 1
  assert not np.array_equal(faces[0][1], faces[1][1])


def all_numbers(batches):
  return [number for batch in batches for number in numbers(batch)]


def assert_equal(batch, expected):
  assert type(batch) is type(expected)
  for value, wanted in zip(batch, expected, strict=True):
    np.testing.assert_array_equal(value, wanted)


def refusal(call, *arguments, **named):
  with pytest.raises(BadInput) as caught:
    call(*arguments, **named)
  line = str(caught.value)
  assert "\n" not in line
  return line


def take(iterator, count):
  return list(itertools.islice(iterator, count))


# The source


def test_records_are_found_by_number_across_shards(folder):
  source = RecordSource(folder, "train")
  assert (len(source), source.lost, source.lost_reasons) == (7, 0, [])
  for again in (source, pickle.loads(pickle.dumps(source))):
    assert [again[index].id for index in range(7)] == [record.id for record in FACES]
  np.testing.assert_array_equal(source[4].relit, FACES[4].relit)
  assert source.encoded(4).count == 2


@pytest.mark.parametrize(("index", "shard", "number"), [(1, 0, 1), (4, 2, 1)])
def test_damage_is_named_by_shard_and_number(tmp_path, index, shard, number):
  paths = write(tmp_path, [PAYLOADS[:3], [], PAYLOADS[3:]])
  flip_byte(paths[shard], number)
  line = refusal(RecordSource(tmp_path, "train").__getitem__, index)
  assert line == f"{paths[shard]}: record {number} (counted from 0) is damaged: its content does not fit its checksum"
  paths[0].unlink()
  assert "missing" in refusal(RecordSource, tmp_path, "train")


def test_a_shard_that_goes_away_is_named(tmp_path):
  (path,) = write(tmp_path, [PAYLOADS])
  source = RecordSource(tmp_path, "train")
  path.unlink()
  assert refusal(source.encoded, 2).startswith(f"{path}: record 2 (counted from 0) cannot be read (No such file")


def flip_byte(path, number):
  """Damages the content of one record of a shard."""
  data = bytearray(path.read_bytes())
  data[record_offsets(path)[number] + 100] ^= 1
  path.write_bytes(data)


def cut(path, number, more):
  """Ends a shard `more` bytes into a record."""
  path.write_bytes(path.read_bytes()[: record_offsets(path)[number] + more])


# Order and sharding


def test_every_face_comes_once_an_epoch_in_another_order(folder, iterate):
  seen = all_numbers(take(iterate(folder, batch_size=7), 6))
  epochs = [seen[start : start + 7] for start in range(0, 42, 7)]
  assert [sorted(epoch) for epoch in epochs] == [list(range(7))] * 6
  assert len(set(map(tuple, epochs))) > 4
  other = all_numbers(take(iterate(folder, batch_size=7, seed=6), 6))
  assert seen[7:] != other[:-7]  # seed 6 does not begin where seed 5 goes on
  # A batch over the end of an epoch, larger than the data set: no gap, nothing dropped.
  assert all_numbers(take(iterate(folder, batch_size=10), 4)) == seen[:40]


@pytest.mark.parametrize("mode", MODES)
@pytest.mark.parametrize(("count", "share"), [(2, 3), (4, 1), (4, 2), (9, 1)])
def test_processes_together_read_what_one_would(folder, iterate, mode, count, share):
  """Their batches one after the other, byte for byte; over ends of epochs, and from a state too."""
  alone = iterate(folder, batch_size=count * share, mode=mode)
  together = [iterate(folder, batch_size=share, mode=mode, process=(index, count)) for index in range(count)]
  for step in range(5):
    if step == 3:
      for index, iterator in enumerate(together):
        assert iterator.get_state() == {"position": 3 * share}
        together[index] = iterate(folder, batch_size=share, mode=mode, process=(index, count))
        together[index].set_state(iterator.get_state())
    assert_equal(joined([next(iterator) for iterator in together]), next(alone))


def joined(batches):
  """One batch of several, as the devices of several processes hold it."""
  axes = FACE_AXES[type(batches[0])]
  return type(axes)(*map(np.concatenate, zip(*batches, strict=True), axes))


def test_processes_fill_up_their_own_batches_where_records_are_skipped(tmp_path, iterate):
  """Their shares stay disjoint, and nothing else is left out."""
  (path,) = write(tmp_path, [PAYLOADS])
  flip_byte(path, 4)
  alone = all_numbers(take(iterate(folder=tmp_path, batch_size=6, on_corrupt="skip"), 6))
  assert sorted(alone) == sorted(6 * [0, 1, 2, 3, 5, 6])
  seen = []
  for index in range(2):
    iterator = iterate(tmp_path, batch_size=1, process=(index, 2), on_corrupt="skip")
    while iterator.get_state()["position"] < 21:  # of 42 places, 6 epochs
      seen += numbers(next(iterator))
  assert sorted(seen) == sorted(alone)


def test_batches_are_float32_arrays(folder, iterate):
  batch = next(iterate(folder, batch_size=4))
  pictures = [(4, SIZE, SIZE, channels) for channels in (1, 3, 1, 1)]
  assert [field.shape for field in batch] == [*pictures, (4, 3), (4, 9), (4, SIZE, SIZE, 1)]
  views = next(iterate(folder, batch_size=4, mode="offline"))
  assert [field.shape for field in views] == [
    (2, 4, SIZE, SIZE, 1),
    (2, 4, 9),
    (4, SIZE, SIZE, 1),
    (4, SIZE, SIZE, 1),
  ]
  for field in (*batch, *views):
    assert (type(field), field.dtype) == (np.ndarray, np.float32)
  for luminance in (batch.luminance, views.luminance, views.original):
    assert (luminance.min() >= 0, luminance.max() <= 1) == (True, True)
  assert set(np.unique(batch.mask)) == {0, 1}
  np.testing.assert_allclose(np.linalg.norm(batch.normal, axis=-1), 1, atol=1e-5)


@pytest.mark.parametrize(
  ("source", "normals", "beside"),
  [("heads", "synthetic", 0.3), ("heads", "face_mesh", 0), ("synthetic", "synthetic", 0), ("photos", "face_mesh", 0)],
)
def test_shape_counts_beside_the_face_where_it_is_known_there(source, normals, beside, tmp_path, iterate):
  """A rendered head has its own hair, neck and shoulders; a fitted face merely goes on, as does procedural depth."""
  write(tmp_path, [PAYLOADS[:4]])
  (tmp_path / "export.json").write_text(json.dumps({"settings": {"source": source, "normals": normals}}))
  batch = next(iterate(tmp_path, batch_size=4, crop=0.0, scale=0.0))
  np.testing.assert_allclose(batch.shape_weight, np.where(batch.mask, 1, beside))


def test_augmentation_depends_on_seed_epoch_and_face_alone(folder, iterate):
  def by_face(batch_size, batches, process=(0, 1), **fields):
    """Luminance and normals of each face, one for each epoch."""
    found = {}
    for batch in take(iterate(folder, batch_size=batch_size, process=process, **fields), batches):
      for row, number in enumerate(numbers(batch)):
        found.setdefault(number, []).append((batch.luminance[row].tobytes(), batch.normal[row].tobytes()))
    return found

  once, again = by_face(7, 3), by_face(3, 7)
  assert once == again
  assert all(len(set(pictures)) == 3 for pictures in once.values())  # another one in every epoch
  assert all(once[number][0] != pictures[0] for number, pictures in by_face(7, 1, seed=6).items())
  plain = by_face(7, 2, flip=False, crop=0.0, scale=0.0)
  assert all(len(set(pictures)) == 1 for pictures in plain.values())
  flipped = by_face(7, 12, crop=0.0, scale=0.0)
  assert all(len(set(pictures)) == 2 for pictures in flipped.values())


# Decoding ahead, and going on


@pytest.mark.parametrize("mode", MODES)
@pytest.mark.parametrize("prefetch", [1, 4])
def test_a_state_goes_on_exactly(folder, iterate, mode, prefetch):
  """Over ends of epochs (7 faces, batches of 3), from every place, with batches decoded ahead."""
  make = lambda: iterate(folder, mode=mode, prefetch=prefetch)  # noqa: E731
  iterator = make()
  states, batches = [iterator.get_state()], []
  for _ in range(6):
    batches.append(next(iterator))
    states.append(iterator.get_state())
  assert states[2] == {"position": 6}
  for place in (0, 2, 3, 5):
    iterator.set_state(states[place])  # the same iterator, ahead by several batches
    fresh = make()
    fresh.set_state(states[place])
    assert fresh.get_state() == states[place]
    for expected in batches[place:]:
      assert_equal(next(iterator), expected)
      assert_equal(next(fresh), expected)


def test_orbax_saves_and_restores_it(folder, iterate, tmp_path):
  iterator = iterate(folder, process=(1, 2))
  take(iterator, 3)
  with ocp.CheckpointManager(tmp_path / "checkpoints") as manager:
    manager.save(3, args=ocp.args.Composite(iterator=grain.checkpoint.CheckpointSave(iterator)))
    manager.wait_until_finished()
    expected = take(iterator, 3)
    fresh = iterate(folder, process=(1, 2))
    manager.restore(3, args=ocp.args.Composite(iterator=grain.checkpoint.CheckpointRestore(fresh)))
  for batch in expected:
    assert_equal(next(fresh), batch)


@pytest.mark.parametrize("mode", MODES)
def test_processes_decode_what_threads_do(folder, iterate, mode, tmp_path):
  """The same batches and states; and damage comes through as it is."""
  threads, workers = iterate(folder, mode=mode), iterate(folder, mode=mode, workers=2)
  for batch in take(workers, 4):
    assert_equal(batch, next(threads))
  assert workers.get_state() == threads.get_state()
  if mode == "offline":
    return
  fresh = iterate(folder, mode=mode)
  fresh.set_state(workers.get_state())
  assert_equal(next(fresh), next(threads))

  shards = write(tmp_path / "damaged", [PAYLOADS[:3], PAYLOADS[3:]])
  flip_byte(shards[1], 2)
  line = refusal(take, iterate(tmp_path / "damaged", workers=1), 3)
  assert line == f"{shards[1]}: record 2 (counted from 0) is damaged: its content does not fit its checksum"
  skipping = iterate(tmp_path / "damaged", workers=1, on_corrupt="skip")
  assert 5 not in all_numbers(take(skipping, 4))
  assert (skipping.skipped, skipping.skipped_reasons) == (1, [line])


KILLED = """
  import multiprocessing, os, signal, sys
  from dpr_jax.train.input_pipeline import make_iterator
  from dpr_jax.train.config import DataConfig, TrainingConfig

  if __name__ == "__main__":
    config = TrainingConfig(data=DataConfig(size=16, workers=1))
    iterator = make_iterator(config, sys.argv[1], "train", batch_size=2, seed=0)
    next(iterator)
    print(*(worker.pid for worker in multiprocessing.active_children()), flush=True)
    os.kill(os.getpid(), signal.SIGKILL)
"""


def test_a_killed_run_leaves_no_process(folder, tmp_path):
  program = tmp_path / "killed.py"
  program.write_text(textwrap.dedent(KILLED))
  done = subprocess.run(
    [sys.executable, program, folder], stdout=subprocess.PIPE, stderr=subprocess.DEVNULL, timeout=600
  )
  assert done.returncode == -signal.SIGKILL
  (worker,) = map(int, done.stdout.split())
  deadline = time.monotonic() + 600
  while Path(f"/proc/{worker}").exists() and time.monotonic() < deadline:
    time.sleep(0.1)
  assert not Path(f"/proc/{worker}").exists()


def test_a_closed_iterator_says_so(folder, iterate):
  iterator = iterate(folder)
  next(iterator)
  iterator.close()
  iterator.close()
  with pytest.raises(ValueError, match="closed"):
    next(iterator)


def test_tensorflow_is_not_imported(folder):
  program = f"""
    import sys
    from dpr_jax.train.input_pipeline import make_iterator
    from dpr_jax.train.config import DataConfig, TrainingConfig

    config = TrainingConfig(data=DataConfig(size={SIZE}))
    iterator = make_iterator(config, sys.argv[1], "train", batch_size=2, seed=0)
    next(iterator), next(iterator)
    assert not [name for name in sys.modules if name.split(".")[0] in ("tensorflow", "tensorflow_datasets")]
  """
  command = [sys.executable, "-W", "error", "-c", textwrap.dedent(program), str(folder)]
  done = subprocess.run(command, capture_output=True, text=True, timeout=600)
  assert (done.returncode, done.stdout, done.stderr) == (0, "", "")


# What a face becomes


def test_online_faces_are_the_records(folder, iterate):
  batch = next(iterate(folder, batch_size=7, flip=False, crop=0.0, scale=0.0))
  for row, number in enumerate(numbers(batch)):
    record = FACES[number]
    np.testing.assert_allclose(batch.luminance[row, ..., 0], photo_luminance(record.original))
    np.testing.assert_allclose(batch.normal[row], record.normal, atol=5e-5)
    np.testing.assert_allclose(batch.depth[row, ..., 0], record.depth, atol=5e-5)
    np.testing.assert_array_equal(batch.mask[row, ..., 0], record.mask)
    np.testing.assert_array_equal(batch.source_light[row], record.source_light)


def test_offline_views_are_two_pictures_of_a_record_under_their_lights(folder, iterate):
  """Every ordered pair, each about as often; K of 1 to 3."""
  pairs = {number: [] for number in range(7)}
  for batch in take(iterate(folder, batch_size=7, mode="offline", flip=False, crop=0.0, scale=0.0), 60):
    for row, number in enumerate(numbers(batch)):
      record = FACES[number]
      lights = np.concatenate([record.source_light[None], record.target_lights])
      pair = tuple(np.rint(100 * (batch.light[:, row, 0] - number)).astype(int))
      pairs[number].append(pair)
      for view in range(2):
        picture = [record.original, *record.relit][pair[view]]
        np.testing.assert_allclose(batch.luminance[view, row, ..., 0], photo_luminance(picture))
        np.testing.assert_array_equal(batch.light[view, row], lights[pair[view]])
      np.testing.assert_allclose(batch.original[row, ..., 0], photo_luminance(record.original))
      np.testing.assert_array_equal(batch.mask[row, ..., 0], record.mask)
  for number, drawn in pairs.items():
    possible = list(itertools.permutations(range(2 + number % 3), 2))
    assert set(drawn) == set(possible)
    expected = 60 / len(possible)
    assert max(abs(drawn.count(pair) - expected) for pair in possible) < 4.5 * np.sqrt(expected)


@pytest.mark.parametrize(("mode", "most"), [("online", 3), ("offline", 4)])
def test_only_what_is_needed_is_decoded(tmp_path, iterate, monkeypatch, mode, most):
  write(tmp_path, [[encode_record(face(0, lights=9))]])
  decoded = []
  decode = records._decode_image
  monkeypatch.setattr(records, "_decode_image", lambda data, flags: decoded.append(flags) or decode(data, flags))
  next(iterate(tmp_path, batch_size=20, mode=mode))
  assert 20 * (most - 1) < len(decoded)
  faces = 20 + 20 + 2 * 16 + 4 * 2  # those of the batch, and at most what is decoded ahead
  assert len(decoded) <= faces * 5 * most


def mirrored_light(light):
  return sh.rotate(light, np.diag([-1.0, 1.0, 1.0]).astype(np.float32))


@pytest.mark.parametrize("mode", MODES)
def test_lights_are_mirrored_with_their_pictures(folder, iterate, mode):
  batch = next(iterate(folder, batch_size=40, mode=mode, crop=0.0, scale=0.0))
  flips = 0
  for row, number in enumerate(numbers(batch)):
    record = FACES[number]
    picture = batch.luminance[row] if mode == "online" else batch.original[row]
    flipped = np.allclose(picture[..., 0], photo_luminance(record.original)[:, ::-1])
    flips += flipped
    lights = np.concatenate([record.source_light[None], record.target_lights])
    expected = mirrored_light(lights) if flipped else lights
    told = batch.source_light[None, row] if mode == "online" else batch.light[:, row]
    for light in told:
      assert np.abs(expected - light).max(axis=1).min() < 1e-5
    if mode == "online":
      sign = [-1, 1, 1] if flipped else [1, 1, 1]
      normal = record.normal[:, :: -1 if flipped else 1] * sign
      np.testing.assert_allclose(batch.normal[row], normal, atol=5e-5)
    np.testing.assert_array_equal(batch.mask[row, ..., 0], record.mask[:, :: -1 if flipped else 1])
  assert 8 < flips < 32


def test_pictures_of_any_size_come_in_one(tmp_path, iterate):
  write(tmp_path, [[encode_record(face(0, 8)), encode_record(face(1, 40)), encode_record(face(2, 23))]])
  for mode in MODES:
    batch = next(iterate(tmp_path, batch_size=3, mode=mode))
    assert batch.mask.shape == (3, SIZE, SIZE, 1)
    assert np.isfinite(np.concatenate([np.ravel(field) for field in batch if field is not None])).all()


# Damage


def edited(payload, edit):
  example = records._Example.FromString(payload)
  edit(example.features.feature)
  return example.SerializeToString()


def without_normal(feature):
  del feature["image/normal"]


def of_another_version(feature):
  feature["schema_version"].int64_list.value[:] = [1]


def as_published(feature):
  feature["ratio"].bytes_list.value[:] = [b"published"]


def with_half_a_photo(feature):
  photo = feature["image/original"].bytes_list.value
  photo[0] = photo[0][: len(photo[0]) // 2]


def not_square(feature):
  feature["height"].int64_list.value[:] = [SIZE + 1]


EDITS = {
  without_normal: "field 'image/normal' is missing",
  of_another_version: "schema_version is 1, made by an older program; make the dataset anew: python export_dataset.py "
  "--source=PORTRAITS --out=FOLDER",
  as_published: "was made with --ratio=published, but online training multiplies linear light; set config.data.mode to "
  "offline, or export the dataset anew with --ratio=linear",
  with_half_a_photo: "field 'image/original' holds an image that cannot be decoded",
  not_square: f"its pictures have {SIZE} x {SIZE + 1} pixels; training takes square ones",
}


@pytest.mark.parametrize("edit", EDITS)
def test_damaged_records_stop_or_are_skipped_and_counted(tmp_path, iterate, edit):
  payloads = [*PAYLOADS[:4], edited(PAYLOADS[4], edit), *PAYLOADS[5:]]
  paths = write(tmp_path, [payloads[:3], payloads[3:]])
  expected = f"{paths[1]}: record 1 (counted from 0): {EDITS[edit]}"
  stopping = iterate(tmp_path, batch_size=7)
  for _ in range(2):  # and stays there
    assert refusal(next, stopping) == expected
    assert stopping.get_state() == {"position": 0}
  skipping = iterate(tmp_path, batch_size=6, on_corrupt="skip")
  assert skipping.skipped == 0
  for batch in take(skipping, 3):  # epoch by epoch
    assert sorted(numbers(batch)) == [0, 1, 2, 3, 5, 6]
  assert (skipping.skipped, skipping.skipped_reasons) == (1, [expected])


@pytest.mark.parametrize("on_corrupt", ["stop", "skip"])
def test_a_published_dataset_is_for_offline_training_alone(tmp_path, iterate, on_corrupt):
  """It is refused before anything is decoded; a first record that is damaged is dealt with when its turn comes."""
  (path,) = write(tmp_path, [[edited(payload, as_published) for payload in PAYLOADS]])
  line = refusal(iterate, tmp_path, on_corrupt=on_corrupt)
  assert line == f"{path}: record 0 (counted from 0): {EDITS[as_published]}"
  assert sorted(numbers(next(iterate(tmp_path, batch_size=7, mode="offline")))) == list(range(7))
  flip_byte(path, 0)
  assert "published" in refusal(next, iterate(tmp_path, batch_size=7, on_corrupt="skip"))


def test_a_state_goes_on_exactly_over_skipped_records(tmp_path, iterate):
  (path,) = write(tmp_path, [PAYLOADS])
  flip_byte(path, 1)
  flip_byte(path, 6)
  iterator = iterate(tmp_path, batch_size=2, on_corrupt="skip")
  states, batches = [], []
  for _ in range(10):
    states.append(iterator.get_state())
    batches.append(next(iterator))
  assert states[-1]["position"] > 18  # skipped ones count
  for place, state in enumerate(states):
    fresh = iterate(tmp_path, batch_size=2, on_corrupt="skip")
    fresh.set_state(state)
    for expected in batches[place : place + 2]:
      assert_equal(next(fresh), expected)
  assert iterator.skipped == 2


@pytest.mark.parametrize("metadata", [True, False])
@pytest.mark.parametrize("more", [0, 7, 60])
def test_a_truncated_shard_is_found_when_it_is_opened(tmp_path, iterate, metadata, more):
  paths = write(tmp_path, [PAYLOADS[:2], PAYLOADS[2:]], metadata=metadata)
  cut(paths[1], 2, more)
  if more:
    problem = f"{paths[1]}: record 2 (counted from 0) is truncated"
  elif metadata:
    problem = f"{paths[1]}: holds 2 records instead of the 5 of dataset_info.json"
  else:
    assert len(RecordSource(tmp_path, "train")) == 4  # nobody can tell
    return
  assert refusal(iterate, tmp_path) == problem
  iterator = iterate(tmp_path, batch_size=4, on_corrupt="skip")
  for batch in take(iterator, 2):
    assert sorted(numbers(batch)) == [0, 1, 2, 3]
  assert iterator.skipped == (3 if metadata else 1)
  assert iterator.skipped_reasons == [problem]


@pytest.mark.parametrize("process", [(0, 1), (1, 2)])
def test_nothing_but_damage_is_an_end(tmp_path, iterate, process):
  (path,) = write(tmp_path, [PAYLOADS[:4]])
  for number in range(4):
    flip_byte(path, number)
  line = refusal(next, iterate(tmp_path, process=process, on_corrupt="skip"))
  assert line.startswith(f"all 4 records are damaged: {path}: record 0 (counted from 0) is damaged: its content")
  cut(path, 0, 5)
  for on_corrupt in ("stop", "skip"):
    assert f"{path}: record 0 (counted from 0) is truncated" in refusal(iterate, tmp_path, on_corrupt=on_corrupt)


def test_folders_without_records_are_refused(tmp_path, folder, iterate):
  assert "not a readable folder" in refusal(iterate, tmp_path / "none")
  assert "holds no dpr-train" in refusal(iterate, tmp_path)
  assert "holds no dpr-test" in refusal(iterate, folder, split="test")
  write(tmp_path, [[]], metadata=False)
  assert refusal(iterate, tmp_path) == f"{tmp_path}: the split train holds no readable record"


def test_empty_batches_and_processes_that_do_not_exist_are_refused(folder, iterate):
  with pytest.raises(ValueError, match="a batch of 0 faces"):
    iterate(folder, batch_size=0)
  for process in ((2, 2), (-1, 2)):
    with pytest.raises(ValueError, match=f"process {process[0]} of 2"):
      iterate(folder, process=process)


def test_views_are_the_batches_of_the_step(folder, iterate):
  assert isinstance(next(iterate(folder, mode="offline")), Views)
  assert isinstance(next(iterate(folder, mode="online")), Faces)
