"""The contract between data generation and training: one face is one `tf.train.Example` in a TFRecord shard.

Neither writing nor reading needs TensorFlow; with it, `tfds.builder_from_directory(folder)` opens the folder too.

| feature | |
| --- | --- |
| `id` | the face's name |
| `image/original` | the photo, PNG or JPEG |
| `image/relit` | list of K, the photo under each target light |
| `image/normal` | PNG, 8 or 16 bits: (n + 1) / 2 of the unit normal; red, green, blue: x, y, z of `dpr_jax.light.sh` |
| `image/depth` | PNG, 16 bits: (d + 1) / 2 of the height towards the viewer, in shares of the picture's longer side |
| `image/mask` | PNG, 255 on the face, else 0 |
| `light/source` | [9] float32, the light of the photo |
| `light/target` | [K, 9] float32 |
| `light/target_color` | [K, 3, 9] float32, rows red, green, blue; only where the target lights are coloured |
| `light/name` | list of K |
| `ratio` | `linear` or `published`: what the ratio of two shadings multiplies, as `dpr_jax.image.ratio.KINDS` |
| `height`, `width` | of every image, pixels |
| `schema_version` | 3 |

All lights of a record are in one unit, that of `light/source`: with `ratio` linear, a relit picture has the photo's
linear luminance times the shading by its light over the shading by `light/source`. With `ratio` published the same is
true of L of Lab.
"""

import hashlib
import os
import re
import struct
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import NamedTuple

import numpy as np
from google.protobuf import descriptor_pb2, descriptor_pool, message, message_factory, text_format

from dpr_jax.base.errors import BadInput
from dpr_jax.base.native_libraries import import_native
from dpr_jax.base.tfrecord_files import FRAME_BYTES
from dpr_jax.base.tfrecord_files import read_record_at as read_record_at
from dpr_jax.base.tfrecord_files import read_tfrecords as read_tfrecords
from dpr_jax.base.tfrecord_files import readable_offsets as readable_offsets
from dpr_jax.base.tfrecord_files import record_offsets as record_offsets
from dpr_jax.base.tfrecord_files import write_record as write_record
from dpr_jax.base.tfrecord_files import write_tfrecords as write_tfrecords

cv2 = import_native("cv2")

SCHEMA_VERSION = 3
DATASET_NAME = "dpr"
SPLITS = ("train", "validation", "test")
_VALIDATION_SHARE, _TEST_SHARE = 0.05, 0.05
RATIOS = ("linear", "published")


class Record(NamedTuple):
  """One face under its own light and under K others.

  Attributes:
    id: the face's name.
    original: `[H, W, 3]` uint8 RGB, the photo.
    relit: `[K, H, W, 3]` uint8 RGB.
    target_lights: `[K, 9]` float32, the light of each relit image.
    source_light: `[9]` float32, the light of the photo.
    normal: `[H, W, 3]` float32 unit normals, axes of `dpr_jax.light.sh`.
    depth: `[H, W]` float32 in [-1, 1]: height towards the viewer, in shares of the longer side; its zero is arbitrary.
    mask: `[H, W]` bool, the face.
    light_names: K names.
    target_color_lights: `[K, 3, 9]` float32, rows red, green, blue, or None where the target lights are gray.
    ratio: one of `RATIOS`: what the ratio images multiplied, and so what all the lights are factors on: linear
      luminance, or (as published) L of Lab.
  """

  id: str
  original: np.ndarray
  relit: np.ndarray
  target_lights: np.ndarray
  source_light: np.ndarray
  normal: np.ndarray
  depth: np.ndarray
  mask: np.ndarray
  light_names: tuple[str, ...]
  target_color_lights: np.ndarray | None = None
  ratio: str = "linear"


# tf.train.Example (tensorflow/core/example/example.proto), declared here in a pool of its own: importing TensorFlow's
# takes seconds, and TensorFlow Datasets' copy 25 times the time and 20 times the memory of protobuf alone.
_EXAMPLE_PROTO = """
  name: "dpr_jax/example.proto" package: "dpr_jax" syntax: "proto3"
  message_type { name: "BytesList" field { name: "value" number: 1 label: LABEL_REPEATED type: TYPE_BYTES } }
  message_type { name: "FloatList" field { name: "value" number: 1 label: LABEL_REPEATED type: TYPE_FLOAT } }
  message_type { name: "Int64List" field { name: "value" number: 1 label: LABEL_REPEATED type: TYPE_INT64 } }
  message_type {
    name: "Feature"
    oneof_decl { name: "kind" }
    field { name: "bytes_list" number: 1 label: LABEL_OPTIONAL type_name: ".dpr_jax.BytesList" oneof_index: 0 }
    field { name: "float_list" number: 2 label: LABEL_OPTIONAL type_name: ".dpr_jax.FloatList" oneof_index: 0 }
    field { name: "int64_list" number: 3 label: LABEL_OPTIONAL type_name: ".dpr_jax.Int64List" oneof_index: 0 }
  }
  message_type {
    name: "Features"
    field { name: "feature" number: 1 label: LABEL_REPEATED type_name: ".dpr_jax.Features.FeatureEntry" }
    nested_type {
      name: "FeatureEntry" options { map_entry: true }
      field { name: "key" number: 1 label: LABEL_OPTIONAL type: TYPE_STRING }
      field { name: "value" number: 2 label: LABEL_OPTIONAL type_name: ".dpr_jax.Feature" }
    }
  }
  message_type {
    name: "Example"
    field { name: "features" number: 1 label: LABEL_OPTIONAL type_name: ".dpr_jax.Features" }
  }
"""


def _example_class() -> type[message.Message]:
  file = text_format.Parse(_EXAMPLE_PROTO, descriptor_pb2.FileDescriptorProto())
  pool = descriptor_pool.DescriptorPool()
  pool.AddSerializedFile(file.SerializeToString())
  return message_factory.GetMessageClass(pool.FindMessageTypeByName("dpr_jax.Example"))


_Example = _example_class()


def encode_record(record: Record, *, image_format: str = "png", quality: int = 95, normal_bits: int = 16) -> bytes:
  """A record as the bytes of a `tf.train.Example`; equal records give equal bytes.

  Args:
    record: the face.
    image_format: of the photo and its relit versions, "png" or "jpeg".
    quality: of JPEG, 1 to 100; its chroma keeps full resolution.
    normal_bits: 8 (normals within 0.4 degrees) or 16 (within 0.002).

  Raises:
    ValueError: the record is not as `Record` says (shapes, dtypes, unit normals, finite lights, K of at least 1, a
      ratio of `RATIOS`).
  """
  _check(record)
  if image_format not in ("png", "jpeg") or normal_bits not in (8, 16):
    raise ValueError(f"image_format {image_format!r}, normal_bits {normal_bits!r}: png or jpeg, 8 or 16")
  height, width = record.mask.shape
  full = 2**normal_bits - 1
  normal = np.rint((record.normal + 1) * (full / 2)).clip(0, full).astype(f"uint{normal_bits}")
  example = _Example()
  feature = example.features.feature

  def put_bytes(name, values):
    feature[name].bytes_list.value.extend(values)

  put_bytes("id", [record.id.encode()])
  put_bytes("ratio", [record.ratio.encode()])
  put_bytes("image/original", [_encode_image(record.original, image_format, quality)])
  put_bytes("image/relit", [_encode_image(image, image_format, quality) for image in record.relit])
  put_bytes("image/normal", [_encode_image(normal, "png")])
  put_bytes("image/depth", [_encode_image(np.rint((record.depth + 1) * (_DEPTH_FULL / 2)).astype(np.uint16), "png")])
  put_bytes("image/mask", [_encode_image(record.mask.astype(np.uint8) * 255, "png")])
  put_bytes("light/name", [name.encode() for name in record.light_names])
  for name, light in _lights(record).items():
    feature[name].float_list.value.extend(light.ravel().tolist())
  for name, number in (("height", height), ("width", width), ("schema_version", SCHEMA_VERSION)):
    feature[name].int64_list.value.append(number)
  return example.SerializeToString(deterministic=True)


def decode_record(payload: bytes, source: str = "record") -> Record:
  """The record that `encode_record` wrote; images as their format keeps them, normals brought back to unit length.

  Args:
    payload: a serialised `tf.train.Example`.
    source: where it comes from (file and record number), for the error message.

  Raises:
    BadInput: not an Example, another schema version, a field that is missing, of another type or size, or an image that
      cannot be decoded.
  """
  encoded = EncodedRecord(payload, source)
  fields, count = encoded.fields, encoded.count
  original = encoded.original()
  relit = encoded.relit(range(count))
  normal = encoded.normal()
  depth = encoded.depth()
  mask = encoded.mask()
  colored = "light/target_color" in fields.feature
  return Record(
    id=fields.texts("id", 1)[0],
    original=original,
    relit=np.stack(relit),
    target_lights=encoded.target_lights(),
    source_light=encoded.source_light(),
    normal=normal,
    depth=depth,
    mask=mask,
    light_names=tuple(fields.texts("light/name", count)),
    target_color_lights=fields.light("light/target_color", (count, 3, 9)) if colored else None,
    ratio=encoded.ratio,
  )


class EncodedRecord:
  """A record whose fields are decoded one by one, as they are asked for; their types are those of `Record`.

  Every method raises BadInput as `decode_record` does, for the field that it decodes.

  Attributes:
    source: where it comes from, for error messages.
    size: (height, width) of its pictures.
    count: K, how many of them are relit.
    ratio: one of `RATIOS`.
    whole_shape: whether normals and depth are known in the whole picture; else they go on smoothly beyond the face.
  """

  def __init__(self, payload: bytes, source: str = "record", whole_shape: bool = False):
    """Reads all but the pictures and lights.

    Args:
      payload: a serialised `tf.train.Example`.
      source: where it comes from (file and record number), for the error message.
      whole_shape: as the attribute; the export's notes know.

    Raises:
      BadInput: not an Example, another schema version, no size, no relit picture, an unknown ratio.
    """
    self.source, self.whole_shape = source, whole_shape
    try:
      self.fields = _Fields(_Example.FromString(payload).features.feature, source)
    except message.DecodeError:
      raise BadInput(f"{source}: not a tf.train.Example, or a damaged one") from None
    version = self.fields.number("schema_version")
    if version < SCHEMA_VERSION:
      raise BadInput(
        f"{source}: schema_version is {version}, made by an older program; make the dataset anew: python "
        "export_dataset.py --source=PORTRAITS --out=FOLDER"
      )
    if version != SCHEMA_VERSION:
      raise BadInput(f"{source}: schema_version is {version}; this program reads {SCHEMA_VERSION}")
    (self.ratio,) = self.fields.texts("ratio", 1)
    if self.ratio not in RATIOS:
      raise self.fields.error("ratio", f"is {self.ratio!r}, none of {', '.join(RATIOS)}")
    self.size = self.fields.number("height"), self.fields.number("width")
    if not all(0 < side <= _LONGEST_SIDE for side in self.size):
      raise BadInput(f"{source}: pictures of {self.size} pixels (height, width); a side has 1 to {_LONGEST_SIDE}")
    self.count = len(self.fields.values("image/relit", "bytes_list", None))

  def original(self) -> np.ndarray:
    return self.fields.images("image/original", self.size)[0]

  def relit(self, indices: Iterable[int]) -> list[np.ndarray]:
    """Those of the K relit pictures, `[H, W, 3]` uint8 each."""
    return self.fields.images("image/relit", self.size, self.count, indices)

  def normal(self) -> np.ndarray:
    flags = cv2.IMREAD_COLOR_RGB | cv2.IMREAD_ANYDEPTH
    return _unit_normals(self.fields.images("image/normal", self.size, flags=flags)[0])

  def depth(self) -> np.ndarray:
    (image,) = self.fields.images("image/depth", self.size, flags=cv2.IMREAD_GRAYSCALE | cv2.IMREAD_ANYDEPTH)
    if image.dtype != np.uint16:
      raise self.fields.error("image/depth", "holds an image of 8 bits instead of 16")
    return image.astype(np.float32) * (2 / _DEPTH_FULL) - 1

  def mask(self) -> np.ndarray:
    return self.fields.images("image/mask", self.size, flags=cv2.IMREAD_GRAYSCALE)[0] > 127

  def source_light(self) -> np.ndarray:
    return self.fields.light("light/source", (9,))

  def target_lights(self) -> np.ndarray:
    return self.fields.light("light/target", (self.count, 9))


class _Fields:
  """The features of one Example, each checked as it is taken."""

  def __init__(self, feature: Mapping[str, message.Message], source: str):
    self.feature, self.source = feature, source

  def error(self, name: str, problem: str) -> BadInput:
    return BadInput(f"{self.source}: field {name!r} {problem}")

  def values(self, name: str, kind: str, count: int | None) -> Sequence:
    """The list of one feature, of `count` values; None: of at least one."""
    if name not in self.feature:
      raise self.error(name, "is missing")
    feature = self.feature[name]
    if feature.WhichOneof("kind") != kind:
      raise self.error(name, f"is not a {kind}")
    values = getattr(feature, kind).value
    if len(values) != (count or max(1, len(values))):
      raise self.error(name, f"has {len(values)} values instead of {count or 'at least 1'}")
    return values

  def number(self, name: str) -> int:
    return self.values(name, "int64_list", 1)[0]

  def texts(self, name: str, count: int) -> list[str]:
    try:
      return [text.decode() for text in self.values(name, "bytes_list", count)]
    except UnicodeDecodeError:
      raise self.error(name, "is not UTF-8 text") from None

  def light(self, name: str, shape: tuple[int, ...]) -> np.ndarray:
    light = np.array(self.values(name, "float_list", int(np.prod(shape))), np.float32).reshape(shape)
    if not np.isfinite(light).all():
      raise self.error(name, "has values that are not finite")
    return light

  def images(
    self,
    name: str,
    size: tuple[int, int],
    count: int = 1,
    indices: Iterable[int] = (0,),
    flags: int = cv2.IMREAD_COLOR_RGB,
  ) -> list[np.ndarray]:
    """Of a list of `count` pictures those with the given indices."""
    values, images = self.values(name, "bytes_list", count), []
    for index in indices:
      written = _written_size(values[index])  # before memory is taken for its pixels
      if written is not None and written != size:
        raise self.error(name, f"holds an image of {written} instead of {size} pixels (height, width)")
      image = None if written is None else _decode_image(values[index], flags)
      if image is None or image.shape[:2] != size or image.dtype not in (np.uint8, np.uint16):
        raise self.error(name, "holds an image that cannot be decoded")
      images.append(image)
    return images


def _lights(record: Record) -> dict[str, np.ndarray]:
  lights = {"light/source": record.source_light, "light/target": record.target_lights}
  if record.target_color_lights is not None:
    lights["light/target_color"] = record.target_color_lights
  return lights


def _check(record: Record) -> None:
  """Raises ValueError naming what is not as `Record` says."""
  count, (height, width) = len(record.light_names), record.mask.shape
  expected = {
    "original": ((height, width, 3), np.uint8),
    "relit": ((count, height, width, 3), np.uint8),
    "target_lights": ((count, 9), np.float32),
    "source_light": ((9,), np.float32),
    "normal": ((height, width, 3), np.float32),
    "depth": ((height, width), np.float32),
    "mask": ((height, width), np.bool_),
    "target_color_lights": ((count, 3, 9), np.float32),
  }
  for name, (shape, dtype) in expected.items():
    array = getattr(record, name)
    if name == "target_color_lights" and array is None:
      continue
    if array.shape != shape or array.dtype != dtype:
      raise ValueError(
        f"record {record.id!r}: {name} is {array.shape} {array.dtype} instead of {shape} {np.dtype(dtype)}"
      )
  if record.ratio not in RATIOS:
    raise ValueError(f"record {record.id!r}: the ratio is {record.ratio!r}, none of {', '.join(RATIOS)}")
  if not record.id or count == 0 or record.mask.size == 0:
    raise ValueError(f"record {record.id!r}: a record needs an id, a target light and pixels")
  if not all(np.isfinite(light).all() for light in _lights(record).values()):
    raise ValueError(f"record {record.id!r}: a light has values that are not finite")
  length = np.einsum("hwc,hwc->hw", record.normal, record.normal)
  if not (np.abs(length - 1) < 1e-3).all():  # NaN is refused too
    raise ValueError(f"record {record.id!r}: the normals are not all of unit length")
  if not (np.abs(record.depth) <= 1).all():
    raise ValueError(f"record {record.id!r}: the depth does not lie in [-1, 1]")


_DEPTH_FULL = 2**16 - 1
# Hardly larger than at level 6, for a third of the time.
_PNG_OPTIONS = [cv2.IMWRITE_PNG_COMPRESSION, 2]


def _encode_image(image: np.ndarray, image_format: str, quality: int = 95) -> bytes:
  """[H, W, 3] RGB or [H, W] gray, uint8 or (PNG) uint16."""
  options = _PNG_OPTIONS
  if image_format == "jpeg":
    options = [cv2.IMWRITE_JPEG_QUALITY, quality]
    options += [cv2.IMWRITE_JPEG_SAMPLING_FACTOR, cv2.IMWRITE_JPEG_SAMPLING_FACTOR_444]
  if image.ndim == 3:
    image = cv2.cvtColor(image, cv2.COLOR_RGB2BGR)
  encoded, data = cv2.imencode("." + image_format, image, options)
  if not encoded:
    raise ValueError(f"an image of {image.shape} cannot be written as {image_format}")
  return data.tobytes()


def _written_size(data: bytes) -> tuple[int, int] | None:
  """(height, width) by the header of a PNG or JPEG; None of anything else."""
  if data[:8] == b"\x89PNG\r\n\x1a\n" and data[12:16] == b"IHDR" and len(data) >= 24:
    width, height = struct.unpack_from(">II", data, 16)
    return height, width
  if data[:2] != b"\xff\xd8":
    return None
  place = 2
  while place + 9 <= len(data) and data[place] == 0xFF:
    marker = data[place + 1]
    if 0xC0 <= marker <= 0xCF and marker not in (0xC4, 0xC8, 0xCC):  # the header of a frame
      return struct.unpack_from(">HH", data, place + 5)
    # 0xFF before a marker may be repeated.
    place += 1 if marker == 0xFF else 2 + struct.unpack_from(">H", data, place + 2)[0]
  return None


def _decode_image(data: bytes, flags: int) -> np.ndarray | None:
  try:
    return cv2.imdecode(np.frombuffer(data, np.uint8), flags)
  except cv2.error:  # no bytes, or a size beyond OpenCV's limits
    return None


def _unit_normals(image: np.ndarray) -> np.ndarray:
  """[H, W, 3] uint8 or uint16 -> float32. Never 0 / 0: no whole number maps to 0."""
  normal = image.astype(np.float32)
  normal *= 2 / np.iinfo(image.dtype).max
  normal -= 1
  normal /= np.sqrt(np.einsum("hwc,hwc->hw", normal, normal))[..., None]
  return normal


_LONGEST_SIDE = 8192  # of a picture in a record


def shard_filename(split: str, index: int, count: int) -> str:
  """`dpr-train.tfrecord-00000-of-00012`, the name by which TensorFlow Datasets finds shard `index` of `count`."""
  return f"{DATASET_NAME}-{split}.tfrecord-{index:05d}-of-{count:05d}"


def list_shards(folder: str | os.PathLike, split: str) -> list[Path]:
  """The shards of a split, in order.

  Raises:
    BadInput: the folder cannot be read, holds no shard of the split, lacks one (which it names), or mixes shards of
      two exports.
  """
  folder = Path(folder)
  try:
    names = os.listdir(folder)
  except OSError as error:
    raise BadInput(f"{folder}: not a readable folder ({error.strerror})") from error
  pattern = re.compile(rf"{DATASET_NAME}-{split}\.tfrecord-\d{{5,}}-of-(\d{{5,}})")
  counts = {int(match[1]) for match in map(pattern.fullmatch, names) if match}
  if not counts:
    raise BadInput(f"{folder}: holds no {DATASET_NAME}-{split}.tfrecord-*")
  if len(counts) > 1:
    raise BadInput(f"{folder}: mixes shards of {' and of '.join(map(str, sorted(counts)))} for {split}")
  (count,) = counts
  shards = [shard_filename(split, index, count) for index in range(count)]
  missing = sorted(set(shards) - set(names))
  if missing:
    raise BadInput(f"{folder / missing[0]}: this shard is missing ({len(missing)} of {count} are)")
  return [folder / shard for shard in shards]


def split_of(face_id: str) -> str:
  """The split of a face, by a hash of its id: the same on every machine, whatever other faces there are."""
  digest = hashlib.blake2b(face_id.encode(), digest_size=8).digest()
  position = int.from_bytes(digest, "big") / 2**64
  if position < _VALIDATION_SHARE:
    return "validation"
  return "test" if position < _VALIDATION_SHARE + _TEST_SHARE else "train"


def write_metadata(
  folder: str | os.PathLike, shard_lengths: Mapping[str, Sequence[int]], *, normal_bits: int, colored: bool
) -> None:
  """Writes `features.json` and `dataset_info.json` beside finished shards; TensorFlow Datasets then opens the folder.

  Args:
    folder: where the shards lie.
    shard_lengths: for each split with shards, the number of records in each.
    normal_bits: as given to `encode_record`.
    colored: whether the records have `light/target_color`.

  Raises:
    BadInput: a shard that `shard_lengths` counts is missing.
  """
  import tensorflow_datasets as tfds  # takes 0.5 s, once an export; it does not import TensorFlow

  folder = Path(folder)
  template = tfds.core.ShardedFileTemplate(
    data_dir=folder, dataset_name=DATASET_NAME, filetype_suffix="tfrecord", template=_FILENAME_TEMPLATE
  )
  split_infos = []
  for split in sorted(shard_lengths, key=SPLITS.index):
    lengths, shards = list(shard_lengths[split]), list_shards(folder, split)
    if len(lengths) != len(shards):
      raise BadInput(f"{folder}: has {len(shards)} shards of {split} instead of {len(lengths)}")
    num_bytes = sum(shard.stat().st_size for shard in shards) - sum(lengths) * FRAME_BYTES
    split_infos.append(tfds.core.SplitInfo(split, lengths, num_bytes, template.replace(split=split)))
  tfds.folder_dataset.write_metadata(
    data_dir=folder,
    features=_tfds_features(tfds.features, normal_bits, colored),
    split_infos=split_infos,
    filename_template=template,
    version=f"{SCHEMA_VERSION}.0.0",
    check_data=False,  # would read the first record, with TensorFlow
    description="Portraits relit by ratio images (after Zhou et al., Deep Single-Image Portrait Relighting, ICCV 2019)",
  )


_FILENAME_TEMPLATE = "{DATASET}-{SPLIT}.{FILEFORMAT}-{SHARD_X_OF_Y}"


def _tfds_features(features, normal_bits: int, colored: bool):
  photo = features.Image(shape=(None, None, 3))
  spec = {
    "id": features.Text(),
    "image/original": photo,
    "image/relit": features.Sequence(photo),
    "image/normal": features.Image(shape=(None, None, 3), dtype=np.dtype(f"uint{normal_bits}")),
    "image/depth": features.Image(shape=(None, None, 1), dtype=np.uint16),
    "image/mask": features.Image(shape=(None, None, 1)),
    "light/source": features.Tensor(shape=(9,), dtype=np.float32),
    "light/target": features.Tensor(shape=(None, 9), dtype=np.float32),
    "light/name": features.Sequence(features.Text()),
    "ratio": features.Text(),
    "height": np.int64,
    "width": np.int64,
    "schema_version": np.int64,
  }
  if colored:
    spec["light/target_color"] = features.Tensor(shape=(None, 3, 9), dtype=np.float32)
  return features.FeaturesDict(spec)
