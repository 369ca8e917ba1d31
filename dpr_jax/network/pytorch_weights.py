"""Reads PyTorch weight files without PyTorch.

A `.t7` or `.pth` file is a pickle, a program that may call anything. Here it may call only inert stand-ins for what
`torch.save` writes; see `dpr_jax.base.restricted_pickle`.

Formats: `torch/serialization.py` of PyTorch 0.4 (a stream of pickles followed by raw storages) and of PyTorch 1.6 and
later (an uncompressed zip archive).
"""

import io
import os
import pathlib
import pickle
import re
import struct
import textwrap
import zipfile
from collections.abc import Mapping
from typing import Any, NamedTuple

import ml_dtypes
import numpy as np

from dpr_jax.base.errors import BadInput
from dpr_jax.base.input_files import check_regular
from dpr_jax.base.restricted_pickle import load_pickle, malformed

_LEGACY_MAGIC = 0x1950A86A20F9469CFC6C
_LEGACY_PROTOCOL = 1001
_MOST_DIMENSIONS = 32


# ---------------------------------------------------------------------------------------------------------------------
# Stand-ins for what torch.save writes. They only take notes: arrays are made after the pickle has ended.


class _StorageType(NamedTuple):
  dtype: np.dtype


class _Storage(NamedTuple):
  dtype: np.dtype
  key: str
  numel: int


class _Tensor(NamedTuple):
  storage: Any
  offset: Any
  size: Any
  stride: Any


class _Mapping(dict):
  """Stands for an OrderedDict; the attributes a pickle gives it (torch keeps module versions there) are dropped."""

  __slots__ = ()

  def __setstate__(self, state):
    pass


class _MakeMapping:
  __slots__ = ()

  def __call__(self, items=()):
    pairs = [(key, value) for key, value in items]
    if not all(isinstance(key, (str, int, bytes)) for key, _ in pairs):
      raise ValueError("a key that is neither a text nor a number")
    return _Mapping(pairs)


class _RebuildTensor:
  __slots__ = ()

  def __call__(self, storage, offset, size, stride, *gradient_and_metadata):
    return _Tensor(storage, offset, size, stride)


class _RebuildParameter:
  __slots__ = ()

  def __call__(self, data, *gradient):
    return data


_STORAGE_DTYPES = {
  "FloatStorage": np.float32,
  "DoubleStorage": np.float64,
  "HalfStorage": np.float16,
  "BFloat16Storage": ml_dtypes.bfloat16,
  "LongStorage": np.int64,
  "IntStorage": np.int32,
  "ShortStorage": np.int16,
  "CharStorage": np.int8,
  "ByteStorage": np.uint8,
  "BoolStorage": np.bool_,
}

_TORCH_GLOBALS = {
  ("collections", "OrderedDict"): _MakeMapping(),
  ("torch._utils", "_rebuild_tensor"): _RebuildTensor(),
  ("torch._utils", "_rebuild_tensor_v2"): _RebuildTensor(),
  ("torch._utils", "_rebuild_parameter"): _RebuildParameter(),
} | {
  (module, name): _StorageType(np.dtype(dtype))
  for name, dtype in _STORAGE_DTYPES.items()
  for module in ("torch", "torch.storage")
}


def _load_object(stream: io.BytesIO, source: str) -> tuple[Any, dict[str, _Storage]]:
  """Returns the saved object, with a `_Tensor` for each tensor, and the storages it refers to."""
  storages: dict[str, _Storage] = {}

  def persistent_load(pid):
    match pid:
      case ("storage", _StorageType(dtype), str(key), _, int(numel), *view) if numel >= 0:
        if any(part is not None for part in view):
          raise BadInput(f"{source}: storage {key!r} is a view of another, as only PyTorch before 0.4 wrote them")
        storage = _Storage(dtype, key, numel)
        if storages.setdefault(key, storage) != storage:
          raise BadInput(f"{source}: storage {key!r} is described in two ways")
        return storage
      case _:
        raise BadInput(f"{source}: the pickle refers to something that is not a tensor storage")

  return load_pickle(stream, source, _TORCH_GLOBALS, persistent_load), storages


# ---------------------------------------------------------------------------------------------------------------------
# The two file formats.


def _values(raw: bytes, dtype: np.dtype, byteorder: str = "little") -> np.ndarray:
  """Decodes a storage; bfloat16, which plain NumPy lacks, is widened to float32 without loss."""
  words = np.frombuffer(raw, np.dtype(f"u{dtype.itemsize}").newbyteorder(byteorder))
  values = words.astype(words.dtype.newbyteorder("=")).view(dtype)
  if dtype == ml_dtypes.bfloat16:
    values = values.astype(np.float32)
  values.flags.writeable = False  # tensors of one storage share it
  return values


def _read_legacy(content: bytes, source: str) -> tuple[Any, dict[str, np.ndarray]]:
  """Reads magic number, protocol, system info, object and storage keys (all pickles), then length and bytes of each."""
  stream = io.BytesIO(content)
  if load_pickle(stream, source, {}) != _LEGACY_MAGIC:
    raise BadInput(f"{source}: a pickle, but not one that torch.save wrote")
  if (protocol := load_pickle(stream, source, {})) != _LEGACY_PROTOCOL:
    told = protocol if isinstance(protocol, int) else type(protocol).__name__  # what a file holds is never printed
    raise BadInput(f"{source}: torch.save protocol {told} is unknown, expected {_LEGACY_PROTOCOL}")
  load_pickle(stream, source, {})  # sizes of C types where the file was written; the storages don't depend on them
  saved, storages = _load_object(stream, source)
  keys = load_pickle(stream, source, {})
  if not isinstance(keys, list) or not all(isinstance(key, str) and key in storages for key in keys):
    raise BadInput(f"{source}: the list of storages does not match the tensors")
  arrays = {}
  for key in keys:
    _, _, numel = storage = storages[key]
    header = stream.read(8)
    if len(header) < 8:
      raise BadInput(f"{source}: truncated before storage {key!r}")
    if (written := struct.unpack("<q", header)[0]) != numel:
      raise BadInput(f"{source}: storage {key!r} holds {written} elements, its tensors expect {numel}")
    length = numel * storage.dtype.itemsize
    if length > len(content) - stream.tell():
      raise BadInput(f"{source}: truncated inside storage {key!r}, which should take {length} bytes")
    arrays[key] = _values(stream.read(length), storage.dtype)
  return saved, arrays


def _read_zip(path: pathlib.Path, source: str) -> tuple[Any, dict[str, np.ndarray]]:
  """Reads `<archive>/data.pkl` and the `<archive>/data/<key>` that it refers to."""
  with malformed(source, "not a readable zip archive"), zipfile.ZipFile(path) as archive:
    entries = {entry.filename: entry for entry in archive.infolist()}
    pickles = [name for name in entries if re.fullmatch(r"[^/]+/data\.pkl", name)]
    if len(pickles) != 1:
      raise BadInput(f"{source}: a zip archive without the data.pkl that torch.save writes")
    # torch.save stores and never compresses, so no honest entry, nor all together, can outgrow the file.
    if any(entry.compress_type != zipfile.ZIP_STORED for entry in entries.values()):
      raise BadInput(f"{source}: a compressed zip archive, which torch.save never writes")
    if sum(max(entry.file_size, entry.compress_size) for entry in archive.infolist()) > path.stat().st_size:
      raise BadInput(f"{source}: the entries of the zip archive claim more bytes than the file has")
    folder = pickles[0].removesuffix("data.pkl")
    byteorder = archive.read(folder + "byteorder").decode() if folder + "byteorder" in entries else "little"
    if byteorder not in ("little", "big"):
      raise BadInput(f"{source}: byte order {byteorder!r} is unknown")
    saved, storages = _load_object(io.BytesIO(archive.read(pickles[0])), source)
    arrays = {}
    for key, storage in storages.items():
      name = f"{folder}data/{key}"
      length = storage.numel * storage.dtype.itemsize
      if name not in entries:
        raise BadInput(f"{source}: the archive lacks entry {name!r}")
      if entries[name].file_size != length:
        raise BadInput(f"{source}: entry {name!r} has {entries[name].file_size} bytes, its tensors expect {length}")
      arrays[key] = _values(archive.read(name), storage.dtype, byteorder)
  return saved, arrays


def _array(tensor: _Tensor, arrays: Mapping[str, np.ndarray], name: str, source: str) -> np.ndarray:
  """Returns a read-only view of the tensor's storage, proven to lie inside it."""
  storage, offset, size, stride = tensor
  if not isinstance(storage, _Storage) or storage.key not in arrays:
    raise BadInput(f"{source}: tensor {name!r} has no storage in the file")
  match size, stride:
    case tuple(), tuple() if len(size) == len(stride) <= _MOST_DIMENSIONS:
      geometry = (offset, *size, *stride)
    case _:
      raise BadInput(f"{source}: tensor {name!r} has an unreadable shape")
  if any(type(number) is not int or number < 0 for number in geometry):
    raise BadInput(f"{source}: tensor {name!r} has a negative or non-integer offset, size or stride")
  values = arrays[storage.key]
  numel = 1
  for length in size:
    numel *= length
  last = offset + sum((length - 1) * step for length, step in zip(size, stride, strict=True))
  # A tensor with more elements than its storage would repeat them (stride 0): tiny on disk, boundless once copied.
  if numel > values.size or (numel > 0 and last >= values.size):
    raise BadInput(f"{source}: tensor {name!r} reaches outside its storage of {values.size} elements")
  with malformed(source, f"tensor {name!r} has an impossible shape"):
    if numel == 0:
      return np.zeros(size, values.dtype)
    return np.ndarray(size, values.dtype, values, offset * values.itemsize, [step * values.itemsize for step in stride])


def read_state_dict(path: str | os.PathLike) -> dict[str, np.ndarray]:
  """Reads the tensors of a file that `torch.save` wrote; runs nothing from it.

  Args:
    path: a legacy stream (the official `.t7` files, written by Python 2) or a zip archive (`.pth` since PyTorch 1.6)
      of a state dict, or of a mapping with a `"state_dict"` entry, which is then taken.

  Returns:
    The tensors under the names and in the order of the file, as NumPy arrays of the file's shapes and dtypes
    (bfloat16 becomes float32). They are read-only; tensors that share a storage share memory.

  Raises:
    BadInput: the file cannot be read, is truncated or damaged, asks for code, or holds something else than tensors.
  """
  path = pathlib.Path(path)
  source = str(path)
  try:
    check_regular(path)
    with path.open("rb") as file:
      start = file.read(4)
      content = start + file.read() if start[:1] == pickle.PROTO else b""
  except OSError as error:
    raise BadInput(f"{source}: cannot be read ({error.strerror})") from None
  if start == b"PK\x03\x04":
    saved, arrays = _read_zip(path, source)
  elif content:
    saved, arrays = _read_legacy(content, source)
  else:
    raise BadInput(f"{source}: not a PyTorch weight file")
  if isinstance(saved, dict) and isinstance(saved.get("state_dict"), dict):
    saved = saved["state_dict"]
  if not isinstance(saved, dict) or not saved:
    raise BadInput(f"{source}: holds no state dict")
  for name, tensor in saved.items():
    if not isinstance(name, str) or not isinstance(tensor, _Tensor):
      raise BadInput(f"{source}: entry {textwrap.shorten(ascii(name), 200)} of the state dict is not a named tensor")
  return {name: _array(tensor, arrays, name, source) for name, tensor in saved.items()}
