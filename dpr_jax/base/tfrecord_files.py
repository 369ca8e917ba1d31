"""TFRecord files: payloads of bytes, one after another, each with its length and checksums; no TensorFlow."""

import os
import struct
import threading
from collections.abc import Iterable, Iterator
from typing import BinaryIO

import google_crc32c
import numpy as np

from dpr_jax.base.errors import BadInput
from dpr_jax.base.input_files import check_regular
from dpr_jax.base.output_files import atomic_output

# A TFRecord frame: the payload's length and its checksum, the payload and its checksum, little endian.
_HEADER = struct.Struct("<QI")
_CHECKSUM = struct.Struct("<I")
FRAME_BYTES = _HEADER.size + _CHECKSUM.size  # that a record takes beside its payload

_ONE_POSITION = threading.Lock()


def _masked_crc(data: bytes) -> int:
  """CRC-32C, rotated and shifted by a constant, as TFRecord (and LevelDB) store it."""
  crc = google_crc32c.value(data)
  return (((crc >> 15) | (crc << 17)) + 0xA282EAD8) & 0xFFFFFFFF


def write_record(stream: BinaryIO, payload: bytes) -> None:
  """Appends one TFRecord frame to an open file."""
  length = struct.pack("<Q", len(payload))
  stream.write(length + _CHECKSUM.pack(_masked_crc(length)))
  stream.write(payload)
  stream.write(_CHECKSUM.pack(_masked_crc(payload)))


def write_tfrecords(path: str | os.PathLike, payloads: Iterable[bytes]) -> int:
  """Writes a TFRecord file, which is complete or absent (`atomic_output`), over one of that name.

  Returns:
    The number of records.

  Raises:
    BadInput: the place cannot be written to (permission, disk full).
  """
  count = 0
  with atomic_output(path, overwrite=True) as temporary, temporary.open("wb") as file:
    for payload in payloads:
      write_record(file, payload)
      count += 1
  return count


def read_tfrecords(path: str | os.PathLike) -> Iterator[bytes]:
  """Yields the payloads of a TFRecord file in order, lengths and contents checked against their checksums.

  Raises:
    BadInput: the file cannot be read, is truncated or damaged; names the record, counted from 0.
  """
  with _open(path) as file:
    for index, offset in enumerate(_offsets(file)):
      yield _read_payload(file, offset, _record_name(file, index))


def record_offsets(path: str | os.PathLike) -> np.ndarray:
  """Where each record of a TFRecord file begins, `[N]` int64 bytes; reads the lengths, skips the payloads.

  Raises:
    BadInput: the file cannot be read, is truncated, or a length is damaged; names the record, counted from 0.
  """
  offsets, damage = readable_offsets(path)
  if damage:
    raise damage
  return offsets


def readable_offsets(path: str | os.PathLike) -> tuple[np.ndarray, BadInput | None]:
  """`record_offsets` up to the first damage to the file's structure, and that damage, which hides all that follows.

  Raises:
    BadInput: the file cannot be read.
  """
  offsets: list[int] = []
  with _open(path) as file:
    try:
      for offset in _offsets(file):
        offsets.append(offset)
    except BadInput as damage:
      return np.array(offsets, np.int64), damage
  return np.array(offsets, np.int64), None


def read_record_at(file: BinaryIO, offset: int, name: str = "") -> bytes:
  """The payload that begins at `offset` of a file opened with `open(path, "rb")`, which threads may share.

  Args:
    file: the shard.
    offset: of the record, in bytes.
    name: of the record in an error message; by default file and offset.

  Raises:
    BadInput: it is truncated, or does not fit its checksums.
  """
  return _read_payload(file, offset, name or f"{file.name}: the record at byte {offset}")


def _open(path: str | os.PathLike) -> BinaryIO:
  try:
    check_regular(path)
    return open(path, "rb", buffering=0)
  except OSError as error:
    raise BadInput(f"{path}: cannot be read ({error.strerror})") from error


def _record_name(file: BinaryIO, index: int) -> str:
  return f"{file.name}: record {index} (counted from 0)"


def _offsets(file: BinaryIO) -> Iterator[int]:
  size = os.fstat(file.fileno()).st_size
  offset = index = 0
  while offset < size:
    name = _record_name(file, index)
    end = offset + _HEADER.size + _read_length(file, offset, name) + _CHECKSUM.size
    if end > size:
      raise BadInput(f"{name} is truncated")
    yield offset
    offset, index = end, index + 1


def _read_length(file: BinaryIO, offset: int, name: str) -> int:
  header = _pread(file, _HEADER.size, offset, name)
  length, crc = _HEADER.unpack(header)
  if crc != _masked_crc(header[:8]):
    raise BadInput(f"{name} is damaged: its length does not fit its checksum")
  if length > os.fstat(file.fileno()).st_size - offset - _HEADER.size - _CHECKSUM.size:
    raise BadInput(f"{name} is truncated")
  return length


def _read_payload(file: BinaryIO, offset: int, name: str) -> bytes:
  length = _read_length(file, offset, name)
  data = _pread(file, length + _CHECKSUM.size, offset + _HEADER.size, name)
  payload = data[:length]
  if _CHECKSUM.unpack(data[length:])[0] != _masked_crc(payload):
    raise BadInput(f"{name} is damaged: its content does not fit its checksum")
  return payload


def _pread(file: BinaryIO, size: int, offset: int, name: str) -> bytes:
  if hasattr(os, "pread"):
    data = os.pread(file.fileno(), size, offset)  # has no position of its own, so that threads may share the file
  else:  # on Windows
    with _ONE_POSITION:
      file.seek(offset)
      data = file.read(size)
  if len(data) < size:
    raise BadInput(f"{name} is truncated")
  return data
