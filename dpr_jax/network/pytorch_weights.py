"""Reads PyTorch weight files without PyTorch, and maps the official networks onto our Flax modules.

A `.t7` or `.pth` file is a pickle, and a pickle is a program that may call anything. Here it may call only the
stand-ins of an explicit allow-list, all inert; any other name in the file ends the reading.

Formats: `torch/serialization.py` of PyTorch 0.4 (a stream of pickles followed by raw storages) and of PyTorch 1.6 and
later (an uncompressed zip archive).
"""

import contextlib
import io
import os
import pathlib
import pickle
import pickletools
import re
import struct
import textwrap
import zipfile
from collections.abc import Callable, Iterator, Mapping
from typing import Any, NamedTuple

import ml_dtypes
import numpy as np
from flax import traverse_util

from dpr_jax.base.errors import BadInput
from dpr_jax.base.input_files import check_regular

_LEGACY_MAGIC = 0x1950A86A20F9469CFC6C
_LEGACY_PROTOCOL = 1001
# The official files take 13,000 at most. A tuple nested 200,000 deep would exhaust the interpreter's stack.
_MAX_OPERATIONS = 50_000
_DEEPEST = 100  # containers in containers
_MOST_INTEGER_BITS = 128  # the magic number of torch.save has 77
_MOST_DIMENSIONS = 32
# What may be a key: hashing a tuple takes as long as its nesting lets it, which two hundred bytes make for ever.
_KEY_KINDS = {"int", "int_or_bool", "bool", "str", "bytes", "bytes_or_str", "string", "unicode", "None"}
_SETS = {"EMPTY_SET", "ADDITEMS", "FROZENSET"}
_NEWEST_PROTOCOL = 5


@contextlib.contextmanager
def _malformed(source: str, what: str) -> Iterator[None]:
  """Turns whatever goes wrong inside into a one-line `BadInput`; hostile bytes raise nearly every kind of exception."""
  try:
    yield
  except BadInput:
    raise
  except Exception as error:
    reason = textwrap.shorten(f"{type(error).__name__}: {error}", 200)
    raise BadInput(f"{source}: {what} ({reason})") from None


# ---------------------------------------------------------------------------------------------------------------------
# Pickles that execute nothing.


class _RestrictedUnpickler(pickle.Unpickler):
  """Resolves every global from an allow-list and imports nothing."""

  def __init__(self, stream, source, allowed, persistent_load):
    super().__init__(stream, encoding="latin1")  # Python 2 wrote the official files, its `str` holds bytes
    self._source = source
    self._allowed = allowed
    self._persistent_load = persistent_load

  def find_class(self, module, name):
    try:
      return self._allowed[module, name]
    except KeyError:
      unwanted = textwrap.shorten(repr(f"{module}.{name}"[:150]), 150)
      raise BadInput(f"{self._source}: refuses to load global {unwanted}, which weights do not need") from None

  def persistent_load(self, pid):
    if self._persistent_load is None:
      raise BadInput(f"{self._source}: the pickle refers to an object outside itself")
    return self._persistent_load(pid)


class _Checker:
  """Follows a pickle's operations on a stack of kinds and depths, to refuse what would hang or recurse."""

  def __init__(self, source: str):
    self._source = source
    self._stack: list[tuple[str, int]] = []
    self._memo: dict[int, tuple[str, int]] = {}

  def _refuse(self, what: str) -> BadInput:
    return BadInput(f"{self._source}: the pickle holds {what}, which weights do not need")

  def follow(self, opcode: pickletools.OpcodeInfo, argument: Any) -> None:
    """One operation; raises BadInput, or IndexError where the stack has too little on it."""
    if opcode.name in _SETS:
      raise self._refuse("a set")
    if isinstance(argument, int) and argument.bit_length() > _MOST_INTEGER_BITS:
      raise self._refuse(f"an integer of {argument.bit_length()} bits")
    if opcode.name == "PROTO" and argument > _NEWEST_PROTOCOL:
      raise BadInput(f"{self._source}: a pickle of the unknown protocol {argument}")
    if opcode.name in ("PUT", "BINPUT", "LONG_BINPUT", "MEMOIZE"):
      self._memo[len(self._memo) if opcode.name == "MEMOIZE" else argument] = self._stack[-1]
      return
    if opcode.name == "DUP":
      self._stack.append(self._stack[-1])
      return
    if opcode.name in ("GET", "BINGET", "LONG_BINGET"):
      self._stack.append(self._memo[argument])
      return
    taken = self._take(opcode)
    keys = {"SETITEM": taken[1:2], "SETITEMS": taken[1::2], "DICT": taken[::2]}.get(opcode.name, [])
    if any(kind not in _KEY_KINDS for kind, _ in keys):
      raise self._refuse("a key that is neither a text nor a number")
    depth = max((depth for _, depth in taken), default=0) + bool(taken)
    if depth > _DEEPEST:
      raise self._refuse(f"more than {_DEEPEST} containers in each other")
    self._stack += [(each.name, depth) for each in opcode.stack_after]

  def _take(self, opcode: pickletools.OpcodeInfo) -> list[tuple[str, int]]:
    """What an operation takes from the stack, without the mark."""
    before = opcode.stack_before
    if pickletools.markobject not in before:
      place = len(self._stack) - len(before)
    else:
      mark = max(k for k, (kind, _) in enumerate(self._stack) if kind == pickletools.markobject.name)
      place = mark - before.index(pickletools.markobject)
    if place < 0:
      raise IndexError("it takes more from its stack than is there")
    taken = self._stack[place:]
    del self._stack[place:]
    return [each for each in taken if each[0] != pickletools.markobject.name]


def load_pickle(
  stream: io.BytesIO,
  source: str,
  allowed: Mapping[tuple[str, str], object],
  persistent_load: Callable[[Any], Any] | None = None,
) -> Any:
  """Loads one pickle and calls nothing but what `allowed` holds.

  Args:
    stream: in memory, positioned at the pickle; left right behind it.
    source: what to call the file in errors.
    allowed: (module, name) as the file spells them -> the object to use instead. The pickle can call these objects
      with any arguments and try to set any of their attributes, so give immutable ones: instances of a class with
      empty `__slots__`, or types written in C, never a plain function or class.
    persistent_load: resolves persistent ids; without it a pickle that has any is refused.

  Raises:
    BadInput: truncated or not a pickle, it asks for a global that is not allowed, or it holds what would take for ever:
      sets, keys other than texts and numbers, enormous integers, deep nesting.
  """
  start = stream.tell()
  with _malformed(source, "not a complete pickle"):
    # The C unpickler allocates what an opcode announces before it looks whether that is there: lengths (checked by
    # genops) and memo indices, which in an honest pickle count up from 0 or 1.
    checker = _Checker(source)
    for count, (opcode, argument, _) in enumerate(pickletools.genops(stream)):
      if count > _MAX_OPERATIONS:
        raise BadInput(f"{source}: the pickle has more than {_MAX_OPERATIONS} operations, weights need far fewer")
      if opcode.name in ("PUT", "BINPUT", "LONG_BINPUT") and argument > count:
        raise BadInput(f"{source}: the pickle puts object {argument} into its memo after {count} operations")
      checker.follow(opcode, argument)
    end = stream.tell()
  stream.seek(start)
  with _malformed(source, "the pickle cannot be loaded"):
    loaded = _RestrictedUnpickler(stream, source, allowed, persistent_load).load()
  stream.seek(end)
  return loaded


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
  with _malformed(source, "not a readable zip archive"), zipfile.ZipFile(path) as archive:
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
  with _malformed(source, f"tensor {name!r} has an impossible shape"):
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


# ---------------------------------------------------------------------------------------------------------------------
# The official module tree -> our Flax variables.

# The official hourglasses nest, and each is also an attribute of the network, so a state dict names its tensors up to
# five times: HG2.middle.low1 is HG1.low1, and four `middle` below HG3 lies the lighting network, `light`.
_NESTED = re.compile(r"(?P<network>(?:model_512\.)?)HG(?P<number>[0-3])(?P<middles>(?:\.middle)+)\.(?P<rest>.+)")

# Present in the 1024 file, unused by its forward pass, which has its own.
_UNUSED_1024 = re.compile(r"model_512\.(pre_conv|pre_bn|conv_[123]|bn_[123]|output)\.\w+")


def is_1024(state_dict: Mapping[str, np.ndarray]) -> bool:
  """Tells whether these are weights of the official 1024 network, which wraps the 512 one as `model_512`."""
  return any(name.startswith("model_512.") for name in state_dict)


def _without_aliases(state_dict: Mapping[str, np.ndarray], source: str) -> dict[str, np.ndarray]:
  """Gives each tensor its shortest official name: HG0 ... HG3 and light, none nested."""
  tensors: dict[str, np.ndarray] = {}
  for name, tensor in state_dict.items():
    short = name
    if nested := _NESTED.fullmatch(name):
      number = int(nested["number"]) - nested["middles"].count(".middle")
      if number >= -1:
        short = f"{nested['network']}{'light' if number < 0 else f'HG{number}'}.{nested['rest']}"
    if not np.array_equal(tensors.setdefault(short, tensor), tensor, equal_nan=True):
      raise BadInput(f"{source}: weights of another network: {name!r} and {short!r} should be one tensor, but differ")
  return tensors


class Layers:
  """Moves tensors from official names to Flax paths, layer by layer.

  Channel counts are named, not fixed: the first tensor that mentions a name sets it, all others must agree.
  """

  def __init__(self, tensors: Mapping[str, np.ndarray], source: str):
    self.remaining = dict(tensors)
    self.source = source
    self.channels: dict[str, int] = {}
    self.variables: dict[str, np.ndarray] = {}

  def refuse(self, reason: str) -> BadInput:
    return BadInput(f"{self.source}: weights of another network: {reason}")

  def take(self, name: str, *dimensions: int | str) -> np.ndarray:
    """Removes a tensor whose dimensions are the given numbers and named channel counts; returns it as float32."""
    if name not in self.remaining:
      raise self.refuse(f"{name!r} is missing")
    tensor = self.remaining.pop(name)
    fits = tensor.ndim == len(dimensions) and all(
      length == (self.channels.setdefault(wanted, length) if isinstance(wanted, str) else wanted)
      for wanted, length in zip(dimensions, tensor.shape, strict=True)
    )
    if not fits:
      expected = ", ".join(str(self.channels.get(wanted, wanted)) for wanted in dimensions)
      raise self.refuse(f"{name!r} has shape {tensor.shape}, expected ({expected})")
    if tensor.dtype.kind != "f":
      raise self.refuse(f"{name!r} is {tensor.dtype}, expected floating point numbers")
    return tensor.astype(np.float32)

  def conv(self, name: str, path: str, size: int, inputs: str, outputs: str, *, bias: bool = False) -> None:
    kernel = self.take(f"{name}.weight", outputs, inputs, size, size)
    self.variables[f"params/{path}/kernel"] = np.ascontiguousarray(kernel.transpose(2, 3, 1, 0))  # OIHW -> HWIO
    if bias:
      self.variables[f"params/{path}/bias"] = self.take(f"{name}.bias", outputs)

  def dense(self, name: str, path: str, inputs: str, outputs: str) -> None:
    kernel = self.take(f"{name}.weight", outputs, inputs, 1, 1)
    self.variables[f"params/{path}/kernel"] = np.ascontiguousarray(kernel[:, :, 0, 0].T)

  def prelu(self, name: str, path: str) -> None:
    self.variables[f"params/{path}/negative_slope"] = self.take(f"{name}.weight", 1).reshape(())

  def norm(self, name: str, path: str, channels: str) -> None:
    self.variables[f"params/{path}/scale"] = self.take(f"{name}.weight", channels)
    self.variables[f"params/{path}/bias"] = self.take(f"{name}.bias", channels)
    self.variables[f"batch_stats/{path}/mean"] = self.take(f"{name}.running_mean", channels)
    self.variables[f"batch_stats/{path}/var"] = self.take(f"{name}.running_var", channels)
    self.remaining.pop(f"{name}.num_batches_tracked", None)  # PyTorch's counter, absent before 0.4.1

  def block(self, name: str, path: str, inputs: str, outputs: str, *, batch_norm: bool = False) -> None:
    self.conv(f"{name}.conv1", f"{path}/conv1", 3, inputs, outputs)
    self.conv(f"{name}.conv2", f"{path}/conv2", 3, outputs, outputs)
    if batch_norm:
      self.norm(f"{name}.bn1", f"{path}/norm1", outputs)
      self.norm(f"{name}.bn2", f"{path}/norm2", outputs)
    if self.channels[inputs] != self.channels[outputs]:
      self.conv(f"{name}.shortcuts", f"{path}/shortcut", 1, inputs, outputs)
    else:
      self.remaining.pop(f"{name}.shortcuts.weight", None)  # the official forward pass adds the input itself

  def stem_and_head(self, stem: str, head: str) -> None:
    self.conv("pre_conv", f"{stem}/conv", 5, "image", "level0", bias=True)
    self.norm("pre_bn", f"{stem}/norm", "level0")
    for number, size in ((1, 3), (2, 1), (3, 1)):
      self.conv(f"conv_{number}", f"{head}/conv{number}", size, "level0", "level0", bias=True)
      self.norm(f"bn_{number}", f"{head}/norm{number}", "level0")
    self.conv("output", f"{head}/output", 1, "level0", "image", bias=True)

  def trunk(self, network: str) -> None:
    for level in range(4):
      hourglass, path = f"{network}HG{3 - level}", f"trunk/level{level}"
      outer, inner = f"level{level}", f"level{level + 1}"
      self.block(f"{hourglass}.upper", f"{path}/skip", outer, outer)
      self.block(f"{hourglass}.low1", f"{path}/down", outer, inner, batch_norm=True)
      self.block(f"{hourglass}.low2", f"{path}/up", inner, outer)
    light, path = f"{network}light", "trunk/light"
    self.dense(f"{light}.predict_FC1", f"{path}/estimate1", "light features", "estimate")
    self.prelu(f"{light}.predict_relu1", f"{path}/estimate_prelu")
    self.dense(f"{light}.predict_FC2", f"{path}/estimate2", "estimate", "sh")
    self.dense(f"{light}.post_FC1", f"{path}/embed1", "sh", "embed")
    self.prelu(f"{light}.post_relu1", f"{path}/embed_prelu")
    self.dense(f"{light}.post_FC2", f"{path}/embed2", "embed", "light features")
    if self.channels["light features"] >= self.channels["level4"]:
      raise self.refuse(f"'{light}.predict_FC1.weight' takes all channels of the bottleneck, none is left for the face")


def dpr_variables(state_dict: Mapping[str, np.ndarray], source: str) -> dict[str, dict]:
  """Maps an official state dict (512 or 1024 network, any base width, gray or color light) onto our Flax modules.

  Not mapped, because the official forward pass does not use them: `num_batches_tracked`, the `shortcuts` of blocks
  that keep their channel count, in the 1024 file the stem and head inside `model_512`; and the further names of a
  tensor that the nesting of the official modules gives it.

  Args:
    state_dict: what `read_state_dict` returns.
    source: what to call the file in errors.

  Returns:
    `{"params": ..., "batch_stats": ...}`, nested dicts of float32 arrays of their own memory: `stem`, `trunk`
    (`level0`, the outermost, ... `level3`, `light`) and `head`; in the 1024 network `stem_1024`, `trunk`, `head_1024`.
    Convolution kernels are [H, W, in, out], those of the lighting network's 1x1 convolutions [in, out], slopes [].

  Raises:
    BadInput: a tensor is missing, unexpected, of the wrong rank or of a size that contradicts another.
  """
  layers = Layers(_without_aliases(state_dict, source), source)
  if is_1024(state_dict):
    layers.stem_and_head("stem_1024", "head_1024")
    layers.trunk("model_512.")
    layers.remaining = {name: tensor for name, tensor in layers.remaining.items() if not _UNUSED_1024.fullmatch(name)}
  else:
    layers.stem_and_head("stem", "head")
    layers.trunk("")
  if layers.remaining:
    raise layers.refuse(f"{next(iter(layers.remaining))!r} is not part of it")
  return traverse_util.unflatten_dict(layers.variables, sep="/")
