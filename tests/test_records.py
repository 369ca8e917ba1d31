"""The contract: what is written is read again, with TensorFlow too, and any damage is named."""

import re
import struct
import subprocess
import sys
import textwrap

import cv2
import google_crc32c
import numpy as np
import pytest

from dpr_jax import records
from dpr_jax.base.errors import BadInput
from dpr_jax.image import ratio
from dpr_jax.records import Record, decode_record, encode_record


def face(seed=0, height=9, width=7, count=2, colored=False):
  """A record of random numbers."""
  rng = np.random.default_rng(seed)
  normal = rng.normal(size=(height, width, 3))
  return Record(
    id=f"face/{seed} Zoë 渋谷.jpg",
    original=rng.integers(0, 256, (height, width, 3), np.uint8),
    relit=rng.integers(0, 256, (count, height, width, 3), np.uint8),
    target_lights=rng.normal(size=(count, 9)).astype(np.float32),
    source_light=rng.normal(size=9).astype(np.float32),
    depth=rng.uniform(-1, 1, (height, width)).astype(np.float32),
    normal=(normal / np.linalg.norm(normal, axis=-1, keepdims=True)).astype(np.float32),
    mask=rng.random((height, width)) < 0.5,
    light_names=tuple(f"lamp {i} µ" for i in range(count)),
    target_color_lights=rng.normal(size=(count, 3, 9)).astype(np.float32) if colored else None,
    ratio=records.RATIOS[seed % 2],
  )


def smooth_photo(height, width, phase=0):
  y, x = np.mgrid[:height, :width]
  waves = [np.sin(x / 9 + phase), np.cos(y / 7 - phase), np.sin((x + y) / 11)]
  return np.uint8(127 + 100 * np.stack(waves, axis=-1))


def assert_same(read, written, skip=("normal", "depth")):
  for name in set(Record._fields) - set(skip):
    expected, value = getattr(written, name), getattr(read, name)
    assert type(value) is type(expected)
    np.testing.assert_array_equal(value, expected, err_msg=name)
    if isinstance(expected, np.ndarray):
      assert value.dtype == expected.dtype


def edited(payload, edit):
  """The payload after `edit(feature map)`."""
  example = records._Example.FromString(payload)
  edit(example.features.feature)
  return example.SerializeToString()


def refusal(call, *arguments):
  with pytest.raises(BadInput) as caught:
    call(*arguments)
  line = str(caught.value)
  assert "\n" not in line
  return line


@pytest.mark.parametrize("seed", range(12))
def test_png_records_come_back_exactly(seed):
  height, width, count = np.random.default_rng([seed, 1]).integers(1, [40, 40, 6])
  record = face(seed, height, width, count, colored=seed % 2 == 1)
  read = decode_record(encode_record(record))
  assert_same(read, record)


def test_depth_comes_back_within_half_a_quantum():
  record = face()
  read = decode_record(encode_record(record)).depth
  assert read.dtype == np.float32
  np.testing.assert_allclose(read, record.depth, atol=1 / (2**16 - 1) + 1e-6, rtol=0)
  ends = face(height=1, width=3)._replace(depth=np.float32([[-1, 0, 1]]))
  np.testing.assert_allclose(decode_record(encode_record(ends)).depth, ends.depth, atol=2e-5)


@pytest.mark.parametrize(("bits", "degrees"), [(8, 0.4), (16, 0.002)])
def test_normals_come_back_unit_and_within_half_a_quantum(bits, degrees):
  record = face(3, 60, 50)
  payload = encode_record(record, normal_bits=bits)
  stored = records._Example.FromString(payload).features.feature["image/normal"].bytes_list.value[0]
  pixels = cv2.imdecode(np.frombuffer(stored, np.uint8), cv2.IMREAD_UNCHANGED)[..., ::-1]  # BGR: z is blue
  assert pixels.dtype == f"uint{bits}"
  full = 2**bits - 1
  assert np.abs(pixels / full * 2 - 1 - record.normal).max() <= 1 / full + 1e-6
  normal = decode_record(payload).normal
  assert normal.dtype == np.float32
  np.testing.assert_allclose(np.linalg.norm(normal, axis=-1), 1, atol=1e-6)
  sine = np.linalg.norm(np.cross(normal.astype(np.float64), record.normal), axis=-1)
  assert np.degrees(np.arcsin(sine)).max() < degrees


def test_the_axes_survive_the_extremes():
  axes = np.concatenate([np.eye(3), -np.eye(3)]).astype(np.float32)[None]
  for bits in (8, 16):
    read = decode_record(encode_record(face(height=1, width=6)._replace(normal=axes), normal_bits=bits)).normal
    np.testing.assert_allclose(read, axes, atol=2 / 2**bits)


def test_jpeg_records_come_back_close():
  record = face(0, 64, 48)._replace(
    original=smooth_photo(64, 48), relit=np.stack([smooth_photo(64, 48, phase) for phase in (1, 2)])
  )
  payload = encode_record(record, image_format="jpeg", quality=95)
  assert len(encode_record(record, image_format="jpeg", quality=60)) < len(payload)
  read = decode_record(payload)
  assert_same(read, record, skip=("normal", "depth", "original", "relit"))
  for value, expected in ((read.original, record.original), (read.relit, record.relit)):
    assert value.shape == expected.shape
    difference = np.abs(value.astype(int) - expected)
    assert difference.mean() < 1.5
    assert difference.max() < 12  # in every channel: no chroma is halved, red and blue are not swapped


def test_equal_records_give_equal_bytes():
  one, other = (encode_record(face(5, colored=True)) for _ in range(2))
  assert one == other
  assert one != encode_record(face(6, colored=True))
  # The map of features has no order of its own: what was read and is written again is the same too.
  assert records._Example.FromString(one).SerializeToString(deterministic=True) == one


WITHOUT_TARGETS = {
  "relit": np.zeros((0, 9, 7, 3), np.uint8),
  "target_lights": np.zeros((0, 9), np.float32),
  "light_names": (),
}


@pytest.mark.parametrize(
  ("change", "problem"),
  [
    (WITHOUT_TARGETS, "a target light"),
    ({"id": ""}, "needs an id"),
    ({"light_names": ("one",)}, "relit is"),
    ({"original": np.zeros((9, 7, 3), np.float32)}, "original is"),
    ({"original": np.zeros((9, 8, 3), np.uint8)}, "original is"),
    ({"normal": np.zeros((9, 7, 3), np.float32)}, "unit length"),
    ({"normal": np.full((9, 7, 3), np.nan, np.float32)}, "unit length"),
    ({"depth": np.full((9, 7), 1.01, np.float32)}, "depth"),
    ({"depth": np.full((9, 7), np.nan, np.float32)}, "depth"),
    ({"source_light": np.full(9, np.nan, np.float32)}, "finite"),
    ({"target_color_lights": np.full((2, 3, 9), np.inf, np.float32)}, "finite"),
    ({"target_color_lights": np.zeros((2, 9, 3), np.float32)}, "target_color_lights is"),
    ({"ratio": "gamma"}, "the ratio is 'gamma', none of linear, published"),
  ],
)
def test_what_is_no_record_is_not_written(change, problem):
  with pytest.raises(ValueError, match=problem) as caught:
    encode_record(face()._replace(**change))
  assert not isinstance(caught.value, BadInput)


@pytest.mark.parametrize("options", [{"image_format": "webp"}, {"normal_bits": 12}])
def test_unknown_formats_are_refused(options):
  with pytest.raises(ValueError, match="png or jpeg, 8 or 16"):
    encode_record(face(), **options)


@pytest.mark.parametrize("name", sorted(records._Example.FromString(encode_record(face())).features.feature))
def test_a_missing_field_is_named(name):
  payload = edited(encode_record(face()), lambda feature: feature.pop(name))
  line = refusal(decode_record, payload, "shard 3, record 8")
  assert line == f"shard 3, record 8: field {name!r} is missing"


def set_bytes(name, *values):
  def edit(feature):
    feature[name].bytes_list.value[:] = values

  return edit


def set_number(name, value):
  def edit(feature):
    feature[name].int64_list.value[:] = [value]

  return edit


def truncate_original(feature):
  data = feature["image/original"].bytes_list.value[0]
  feature["image/original"].bytes_list.value[:] = [data[: len(data) * 2 // 3]]


def make_number_a_text(feature):
  feature["height"].bytes_list.value.append(b"9")


def make_light_infinite(feature):
  feature["light/target"].float_list.value[4] = np.inf


def drop_one_coefficient(feature):
  del feature["light/source"].float_list.value[-1]


PIXEL = records._encode_image(np.zeros((1, 1, 3), np.uint8), "png")


@pytest.mark.parametrize(
  ("edit", "problem"),
  [
    (set_number("schema_version", 4), "schema_version is 4; this program reads 3"),
    (set_bytes("ratio", b"gamma"), "field 'ratio' is 'gamma', none of linear, published"),
    (set_number("height", 10), "field 'image/original' holds an image of (9, 7) instead of (10, 7)"),
    (truncate_original, "field 'image/original' holds an image that cannot be decoded"),
    (set_bytes("image/original", b""), "field 'image/original' holds an image that cannot be decoded"),
    (set_bytes("image/mask", b"no image"), "field 'image/mask' holds an image that cannot be decoded"),
    (set_bytes("image/depth", PIXEL), "field 'image/depth' holds an image of (1, 1)"),
    (set_bytes("image/normal", PIXEL), "field 'image/normal' holds an image of (1, 1)"),
    (set_bytes("image/relit"), "field 'image/relit'"),
    (set_bytes("light/name", b"one", b"two", b"three"), "field 'light/name' has 3 values instead of 2"),
    (set_bytes("id", b"\xff"), "field 'id' is not UTF-8"),
    (make_number_a_text, "field 'height' is not a int64_list"),
    (make_light_infinite, "field 'light/target' has values that are not finite"),
    (drop_one_coefficient, "field 'light/source' has 8 values instead of 9"),
  ],
)
def test_damage_is_named(edit, problem, capfd):
  line = refusal(decode_record, edited(encode_record(face()), edit), "a.tfrecord: record 4")
  assert line.startswith("a.tfrecord: record 4: ")
  assert problem in line


@pytest.mark.parametrize("version", [1, 2])
def test_records_of_older_programs_are_refused_with_what_makes_them_anew(version):
  def make_older(feature):
    set_number("schema_version", version)(feature)
    del feature["ratio"]

  assert refusal(decode_record, edited(encode_record(face()), make_older), "a.tfrecord: record 4") == (
    f"a.tfrecord: record 4: schema_version is {version}, made by an older program; make the dataset anew: python "
    "export_dataset.py --source=PORTRAITS --out=FOLDER"
  )


def test_the_two_ratios_are_those_of_the_ratio_image():
  assert records.RATIOS == ratio.KINDS
  assert {decode_record(encode_record(face(seed))).ratio for seed in range(2)} == set(ratio.KINDS)


def test_fields_are_decoded_one_by_one():
  """What is asked for is as `decode_record` has it; damage elsewhere goes unnoticed."""
  record = face(5, 12, 12, count=4)
  payload = encode_record(record)
  whole, encoded = decode_record(payload), records.EncodedRecord(payload, "here")
  assert (encoded.source, encoded.size, encoded.count, encoded.ratio) == ("here", (12, 12), 4, record.ratio)
  np.testing.assert_array_equal(np.stack(encoded.relit([3, 0])), whole.relit[[3, 0]])
  assert encoded.relit([]) == []
  for name in ("original", "normal", "depth", "mask", "source_light", "target_lights"):
    np.testing.assert_array_equal(getattr(encoded, name)(), getattr(whole, name), err_msg=name)

  def damage(feature):
    feature["image/relit"].bytes_list.value[1] = b"no image"
    del feature["image/normal"], feature["light/source"]

  encoded = records.EncodedRecord(edited(payload, damage), "here")
  np.testing.assert_array_equal(encoded.relit([0, 2])[1], whole.relit[2])
  assert refusal(encoded.relit, [0, 1]) == "here: field 'image/relit' holds an image that cannot be decoded"
  assert refusal(encoded.normal) == "here: field 'image/normal' is missing"
  assert refusal(encoded.source_light) == "here: field 'light/source' is missing"


def test_other_bytes_are_no_example():
  assert refusal(decode_record, b"\x89PNG and so on", "here") == "here: not a tf.train.Example, or a damaged one"
  assert "'schema_version' is missing" in refusal(decode_record, b"", "here")


def test_crc_is_castagnoli():
  assert google_crc32c.implementation == "c"
  assert google_crc32c.value(b"123456789") == 0xE3069283  # the check value of CRC-32C (RFC 3720, appendix B.4)


PAYLOADS = [b"first", b"", bytes(range(256)) * 40, "Zoë".encode()]


@pytest.fixture
def shard(tmp_path):
  path = tmp_path / "some.tfrecord"
  assert records.write_tfrecords(path, iter(PAYLOADS)) == len(PAYLOADS)
  return path


def test_tfrecords_come_back_in_order_and_at_random(shard):
  assert list(records.read_tfrecords(shard)) == PAYLOADS
  offsets = records.record_offsets(shard)
  assert offsets.dtype == np.int64
  assert offsets.tolist() == [0, 21, 37, 37 + 16 + 10240]  # 16 bytes of frame each
  with open(shard, "rb") as file:
    for index in (3, 0, 2, 1, 3):
      assert records.read_record_at(file, offsets[index]) == PAYLOADS[index]
  assert [path.name for path in shard.parent.iterdir()] == [shard.name]


def test_an_empty_file_has_no_records(tmp_path):
  path = tmp_path / "empty"
  assert records.write_tfrecords(path, []) == 0
  assert list(records.read_tfrecords(path)) == []
  assert records.record_offsets(path).shape == (0,)


def test_a_failing_writer_leaves_the_old_file(shard):
  def fail():
    yield b"new"
    raise RuntimeError

  with pytest.raises(RuntimeError):
    records.write_tfrecords(shard, fail())
  assert list(records.read_tfrecords(shard)) == PAYLOADS
  assert [path.name for path in shard.parent.iterdir()] == [shard.name]


def test_every_truncation_is_noticed(shard):
  whole = shard.read_bytes()
  ends = [0, *(records.record_offsets(shard)[1:]), len(whole)]
  for size in [*range(1, 60), *range(len(whole) - 40, len(whole))]:
    shard.write_bytes(whole[:size])
    if size in ends:
      continue
    index = np.searchsorted(ends, size) - 1
    for read in (lambda path: list(records.read_tfrecords(path)), records.record_offsets):
      assert refusal(read, shard) == f"{shard}: record {index} (counted from 0) is truncated"


def test_what_lies_before_a_truncation_can_be_read(shard):
  offsets, damage = records.readable_offsets(shard)
  assert (len(offsets), damage) == (4, None)
  shard.write_bytes(shard.read_bytes()[: offsets[2] + 20])
  found, damage = records.readable_offsets(shard)
  assert (found.tolist(), found.dtype) == (offsets[:2].tolist(), np.int64)
  assert str(damage) == f"{shard}: record 2 (counted from 0) is truncated"
  with open(shard, "rb") as file:
    assert records.read_record_at(file, found[1], "by its name") == PAYLOADS[1]
    assert refusal(records.read_record_at, file, offsets[2], "by its name") == "by its name is truncated"
  assert "cannot be read" in refusal(records.readable_offsets, shard.parent / "none")


def test_every_flipped_byte_is_noticed(shard):
  whole = shard.read_bytes()
  offsets = records.record_offsets(shard)
  for position in [*range(0, 60), 5000, *range(len(whole) - 30, len(whole))]:
    damaged = bytearray(whole)
    damaged[position] ^= 0x10
    shard.write_bytes(damaged)
    index = np.searchsorted(offsets, position, side="right") - 1
    line = refusal(lambda path: list(records.read_tfrecords(path)), shard)
    assert line.startswith(f"{shard}: record {index} (counted from 0) is damaged: its ")
    with open(shard, "rb") as file:
      line = refusal(records.read_record_at, file, offsets[index])
    assert line.startswith(f"{shard}: the record at byte {offsets[index]} is damaged: its ")


def test_records_before_the_damage_are_read(shard):
  whole = bytearray(shard.read_bytes())
  whole[-6] ^= 1
  shard.write_bytes(whole)
  reader = records.read_tfrecords(shard)
  assert [next(reader) for _ in range(3)] == PAYLOADS[:3]
  assert "record 3" in refusal(next, reader)


def test_a_file_that_cannot_be_opened_is_named(tmp_path):
  for read in (lambda path: list(records.read_tfrecords(path)), records.record_offsets):
    assert refusal(read, tmp_path / "none") == f"{tmp_path / 'none'}: cannot be read (No such file or directory)"
    assert refusal(read, tmp_path).startswith(f"{tmp_path}: cannot be read")


def test_shards_are_listed_only_when_complete(tmp_path):
  names = [records.shard_filename("train", index, 12) for index in range(12)]
  assert names[0] == "dpr-train.tfrecord-00000-of-00012"
  for name in [*reversed(names), records.shard_filename("test", 0, 1), ".dpr-train.tfrecord-00000-of-00013", "log"]:
    (tmp_path / name).touch()
  assert records.list_shards(tmp_path, "train") == [tmp_path / name for name in names]
  assert len(records.list_shards(tmp_path, "test")) == 1
  assert "holds no dpr-validation" in refusal(records.list_shards, tmp_path, "validation")
  (tmp_path / names[7]).unlink()
  assert refusal(records.list_shards, tmp_path, "train").startswith(
    f"{tmp_path / names[7]}: this shard is missing (1 of"
  )
  (tmp_path / records.shard_filename("train", 0, 3)).touch()
  assert "mixes shards of 3 and of 12" in refusal(records.list_shards, tmp_path, "train")
  assert "not a readable folder" in refusal(records.list_shards, tmp_path / "none", "train")


def test_splits_are_stable_and_have_their_shares():
  # Written down: these must never move, or a test face of one export trains the next.
  known = {"imgHQ00000": "train", "imgHQ00002": "test", "imgHQ00011": "validation", "渋谷": "train"}
  assert {name: records.split_of(name) for name in known} == known
  splits = [records.split_of(f"face_{index}") for index in range(20_000)]
  shares = {split: splits.count(split) / len(splits) for split in records.SPLITS}
  for split, share in (("train", 0.9), ("validation", 0.05), ("test", 0.05)):
    assert abs(shares[split] - share) < 4 * np.sqrt(share * (1 - share) / len(splits))


def write_dataset(folder, colored, normal_bits):
  """Two splits in shards, one of them empty, of faces of several sizes; returns the faces by split."""
  seeds = {"train": [[1, 2], [3, 4, 5]], "test": [[6], [], [7, 8]]}
  faces = {
    split: [[face(seed, 5 + seed, 7, 1 + seed % 3, colored) for seed in shard] for shard in shards]
    for split, shards in seeds.items()
  }
  for split, shards in faces.items():
    for index, shard in enumerate(shards):
      path = folder / records.shard_filename(split, index, len(shards))
      records.write_tfrecords(path, [encode_record(record, normal_bits=normal_bits) for record in shard])
  lengths = {split: [len(shard) for shard in shards] for split, shards in faces.items()}
  records.write_metadata(folder, lengths, normal_bits=normal_bits, colored=colored)
  return {split: [record for shard in shards for record in shard] for split, shards in faces.items()}


def run(program, *arguments):
  command = [sys.executable, "-c", textwrap.dedent(program), *map(str, arguments)]
  return subprocess.run(command, capture_output=True, text=True, timeout=600)


WITH_TENSORFLOW = """
  import sys
  from pathlib import Path
  import numpy as np
  import tensorflow as tf
  import tensorflow_datasets as tfds

  found = {}
  for folder in map(Path, sys.argv[2:]):
    builder = tfds.builder_from_directory(folder)
    for split, info in builder.info.splits.items():
      examples = list(builder.as_dataset(split=split).as_numpy_iterator())
      assert len(examples) == info.num_examples, split
      for number, example in enumerate(examples):
        for name, value in example.items():
          found[f"{folder.name}|{split}|{number}|{name}"] = value

  # Without TFDS: TensorFlow's own reader and parser.
  spec = {
    "id": tf.io.FixedLenFeature([], tf.string),
    "image/original": tf.io.FixedLenFeature([], tf.string),
    "image/relit": tf.io.FixedLenSequenceFeature([], tf.string, allow_missing=True),
    "light/source": tf.io.FixedLenFeature([9], tf.float32),
    "light/target": tf.io.FixedLenSequenceFeature([9], tf.float32, allow_missing=True),
    "height": tf.io.FixedLenFeature([], tf.int64),
  }
  shards = sorted(str(path) for path in folder.glob("dpr-train.tfrecord-*"))
  for number, payload in enumerate(tf.data.TFRecordDataset(shards)):
    example = tf.io.parse_single_example(payload, spec)
    for name in ("id", "light/source", "light/target", "height"):
      found[f"plain|{number}|{name}"] = example[name].numpy()
    found[f"plain|{number}|relit"] = np.stack([tf.io.decode_image(image) for image in example["image/relit"]])

  np.savez(sys.argv[1], **{name.replace("/", "_"): np.asarray(value) for name, value in found.items()})
"""


def test_tensorflow_reads_what_was_written(tmp_path):
  """`tfds.builder_from_directory`, and `tf.data.TFRecordDataset` with `tf.io.parse_single_example`."""
  if run("import importlib.util as u, sys; sys.exit(u.find_spec('tensorflow') is None)").returncode:
    pytest.skip("TensorFlow is not installed")
  folders = {"gray": (False, 8), "colored": (True, 16)}
  faces = {name: write_dataset(tmp_path / name, *options) for name, options in folders.items()}
  done = run(WITH_TENSORFLOW, tmp_path / "found.npz", *(tmp_path / name for name in folders))
  assert done.returncode == 0, done.stderr[-2000:]
  with np.load(tmp_path / "found.npz", allow_pickle=True) as file:
    found = dict(file)
  for folder, splits in faces.items():
    for split, written in splits.items():
      # TensorFlow Datasets interleaves the shards: faces are known by their ids.
      numbers = {bytes(found[f"{folder}|{split}|{n}|id"].item()).decode(): n for n in range(len(written))}
      assert set(numbers) == {record.id for record in written}
      for record in written:
        example = {
          key.split("|")[3]: value
          for key, value in found.items()
          if key.startswith(f"{folder}|{split}|{numbers[record.id]}|")
        }
        np.testing.assert_array_equal(example["image_original"], record.original)
        np.testing.assert_array_equal(example["image_relit"], record.relit)
        np.testing.assert_array_equal(example["image_mask"][..., 0], np.uint8(record.mask) * 255)
        normal = example["image_normal"] / np.iinfo(example["image_normal"].dtype).max * 2 - 1
        np.testing.assert_allclose(normal, record.normal, atol=0.004 if folder == "gray" else 2e-5)
        np.testing.assert_array_equal(example["light_target"], record.target_lights)
        assert bytes(example["ratio"].item()).decode() == record.ratio
        np.testing.assert_array_equal(example["light_source"], record.source_light)
        assert [name.decode() for name in example["light_name"]] == list(record.light_names)
        assert (example["height"], example["width"], example["schema_version"]) == (*record.mask.shape, 3)
        if folder == "colored":
          np.testing.assert_array_equal(example["light_target_color"], record.target_color_lights)
        else:
          assert "light_target_color" not in example
  for number, record in enumerate(faces["colored"]["train"]):
    assert bytes(found[f"plain|{number}|id"].item()).decode() == record.id
    assert found[f"plain|{number}|height"] == record.mask.shape[0]
    np.testing.assert_array_equal(found[f"plain|{number}|light_source"], record.source_light)
    np.testing.assert_array_equal(found[f"plain|{number}|light_target"], record.target_lights)
    np.testing.assert_array_equal(found[f"plain|{number}|relit"], record.relit)


def test_nothing_imports_tensorflow_and_the_metadata_is_the_same_each_time(tmp_path):
  write_dataset(tmp_path / "a", False, 8)
  program = """
    import sys
    from pathlib import Path

    def hide(finder):
      class Finder:
        def find_spec(self, name, *arguments):
          return None if name.split(".")[0] == "tensorflow" else finder.find_spec(name, *arguments)
        def __getattr__(self, name):
          return getattr(finder, name)
      return Finder()

    if sys.argv[2] == "hidden":
      sys.meta_path[:] = map(hide, sys.meta_path)
    from dpr_jax import records
    assert not any(name.startswith(("tensorflow", "jax")) for name in sys.modules), "records is light"
    records.write_metadata(sys.argv[1], {"test": [1, 0, 2], "train": [2, 3]}, normal_bits=8, colored=False)
    assert "tensorflow" not in sys.modules
  """
  written = {path.name: path.read_bytes() for path in tmp_path.glob("a/*.json")}
  assert set(written) == {"features.json", "dataset_info.json"}
  for mode in ("hidden", "there"):
    done = run(program, tmp_path / "a", mode)
    assert (done.returncode, done.stdout, done.stderr) == (0, "", "")
    assert {path.name: path.read_bytes() for path in tmp_path.glob("a/*.json")} == written
  assert str(tmp_path).encode() not in b"".join(written.values())


def test_metadata_of_missing_shards_is_refused(tmp_path):
  write_dataset(tmp_path, False, 8)
  call = lambda lengths: records.write_metadata(tmp_path, lengths, normal_bits=8, colored=False)  # noqa: E731
  assert "has 2 shards of train instead of 3" in refusal(call, {"train": [2, 3, 1]})
  assert "holds no dpr-validation" in refusal(call, {"validation": [2]})


def test_the_frame_is_as_tensorflow_documents_it(shard):
  """Length, masked checksum of the length, payload, masked checksum: worked out here on its own."""

  def masked(data):
    crc = google_crc32c.value(data)
    return (((crc >> 15) | (crc << 17)) + 0xA282EAD8) % 2**32

  length = struct.pack("<Q", 5)
  frame = length + struct.pack("<I", masked(length)) + b"first" + struct.pack("<I", masked(b"first"))
  assert re.match(re.escape(frame), shard.read_bytes())


# What others may have written.


def test_forged_lengths_take_no_memory(shared):
  for name in ("huge", "huge63"):
    with shared(f"cases/hostile/{name}.tfrecord").open("rb") as file, pytest.raises(BadInput, match="is truncated"):
      records.read_record_at(file, 0)


def test_pictures_are_looked_at_before_they_are_decoded(monkeypatch):
  """One that is a decompression bomb, and those of formats in which OpenCV reads floating-point numbers."""
  large = b"\x89PNG\r\n\x1a\n" + struct.pack(">I4sII", 13, b"IHDR", 30_000, 30_000) + bytes(9)
  floats = cv2.imencode(".tiff", np.zeros((9, 7, 3), np.float32))[1].tobytes()
  radiance = cv2.imencode(".hdr", np.zeros((9, 7, 3), np.float32))[1].tobytes()
  payload = encode_record(face())
  decode = records._decode_image
  decoded = []
  monkeypatch.setattr(records, "_decode_image", lambda data, flags: decoded.append(data) or decode(data, flags))
  for name in ("image/original", "image/normal", "image/mask"):
    for data, reason in (
      (large, "holds an image of (30000, 30000) instead of (9, 7) pixels"),
      (floats, "holds an image that cannot be decoded"),
      (radiance, "holds an image that cannot be decoded"),
    ):
      line = refusal(decode_record, edited(payload, set_bytes(name, data)))
      assert f"field {name!r} {reason}" in line
      assert data not in decoded


def test_the_hostile_records_get_a_line(shared):
  for name in ("bomb", "floatnormal"):
    refusal(decode_record, shared(f"cases/hostile/{name}.rec").read_bytes())


def test_pictures_of_forged_sizes_are_refused():
  for side in (0, -1, 10**9):
    line = refusal(decode_record, edited(encode_record(face()), set_number("height", side)))
    assert "a side has 1 to 8192" in line


@pytest.mark.parametrize("progressive", [False, True])
def test_sizes_are_those_of_the_headers(progressive):
  image = np.zeros((13, 17, 3), np.uint8)
  options = [cv2.IMWRITE_JPEG_PROGRESSIVE, int(progressive)]
  assert records._written_size(cv2.imencode(".jpg", image, options)[1].tobytes()) == (13, 17)
  assert records._written_size(cv2.imencode(".png", image)[1].tobytes()) == (13, 17)
  assert records._written_size(cv2.imencode(".tiff", image)[1].tobytes()) is None
  for damaged in (b"", b"\xff\xd8", b"\xff\xd8\xff\xe0\0\x10", b"\x89PNG\r\n\x1a\n"):
    assert records._written_size(damaged) is None
