"""Weight files built opcode by opcode, honest and hostile, and the official ones; PyTorch is never there."""

import io
import itertools
import pickle
import struct
import subprocess
import sys
import zipfile

import flax.linen as nn
import jax
import ml_dtypes
import numpy as np
import pytest

from dpr_jax.base.errors import BadInput
from dpr_jax.network.pytorch_weights import _MakeMapping, dpr_variables, is_1024, load_pickle, read_state_dict

OFFICIAL_512 = "reference/dpr/trained_model_03.t7"
OFFICIAL_1024 = "reference/dpr/trained_model_1024_03.t7"


# ---------------------------------------------------------------------------------------------------------------------
# What torch.save would write.


def opcodes(value) -> bytes:
  """The opcodes that push a built-in value."""
  return pickle.dumps(value, 2)[2:-1]


def global_(module: str, name: str) -> bytes:
  return f"c{module}\n{name}\n".encode()


ORDERED_DICT = global_("collections", "OrderedDict") + b")R"


def storage(kind, key, numel, *, module="torch", view=b"") -> bytes:
  return (
    b"(" + opcodes("storage") + global_(module, kind) + opcodes(key) + opcodes("cpu") + opcodes(numel) + view + b"tQ"
  )


def tensor(pushed_storage, offset, size, stride, *, rebuild="_rebuild_tensor_v2") -> bytes:
  hooks = b"\x89" + ORDERED_DICT if rebuild == "_rebuild_tensor_v2" else b""
  geometry = opcodes(offset) + opcodes(size) + opcodes(stride)
  return global_("torch._utils", rebuild) + b"(" + pushed_storage + geometry + hooks + b"tR"


def mapping(entries: dict[str, bytes]) -> bytes:
  """An OrderedDict with the `_metadata` attribute of a state dict."""
  items = b"".join(opcodes(name) + value for name, value in entries.items())
  return ORDERED_DICT + b"(" + items + b"u" + b"}" + opcodes("_metadata") + ORDERED_DICT + b"sb"


def pickled(body: bytes) -> bytes:
  return b"\x80\x02" + body + b"."


def legacy_file(body: bytes, storages: dict[str, tuple[int, bytes]], *, keys=None) -> bytes:
  preamble = [0x1950A86A20F9469CFC6C, 1001, {"protocol_version": 1001, "little_endian": True}]
  content = b"".join(pickle.dumps(part, 2) for part in preamble) + pickled(body)
  content += pickle.dumps(list(storages) if keys is None else keys, 2)
  return content + b"".join(struct.pack("<q", numel) + raw for numel, raw in storages.values())


def zip_file(body: bytes, storages: dict[str, tuple[int, bytes]], *, compression=zipfile.ZIP_STORED, **extra) -> bytes:
  content = io.BytesIO()
  with zipfile.ZipFile(content, "w", compression) as archive:
    archive.writestr("weights/data.pkl", pickled(body))
    for name, text in extra.items():
      archive.writestr(f"weights/{name}", text)
    for key, (_, raw) in storages.items():
      archive.writestr(f"weights/data/{key}", raw)
  return content.getvalue()


def save(path, state_dict: dict[str, np.ndarray], file_format: str):
  """Writes float32, contiguous arrays, one storage each."""
  none = b"N" if file_format == "legacy" else b""
  entries, storages = {}, {}
  for number, (name, array) in enumerate(state_dict.items()):
    kind = {"float32": "FloatStorage", "int64": "LongStorage"}[array.dtype.name]
    strides = tuple(step // array.itemsize for step in array.strides)
    entries[name] = tensor(storage(kind, str(number), array.size, view=none), 0, array.shape, strides)
    storages[str(number)] = array.size, array.tobytes()
  path.write_bytes(FORMATS[file_format](mapping(entries), storages))
  return path


FORMATS = {"legacy": legacy_file, "zip": zip_file}
both_formats = pytest.mark.parametrize("file_format", list(FORMATS))


def one_float_tensor(file_format, *, offset=0, size=(2, 3), stride=(3, 1), numel=6) -> tuple[bytes, dict]:
  """Body and storages of a file with one tensor `w` over the storage 0, 1, ... 5, which claims `numel` elements."""
  none = b"N" if file_format == "legacy" else b""
  body = mapping({"w": tensor(storage("FloatStorage", "0", numel, view=none), offset, size, stride)})
  return body, {"0": (numel, np.arange(6, dtype="<f4").tobytes())}


def refusal(path, content: bytes | None = None) -> str:
  """Reads a file that must be refused in one line that names it; returns the line without the name."""
  if content is not None:
    path.write_bytes(content)
  with pytest.raises(BadInput) as caught:
    read_state_dict(path)
  assert "\n" not in str(caught.value)
  assert str(caught.value).startswith(f"{path}: ")
  return str(caught.value).removeprefix(f"{path}: ")


# ---------------------------------------------------------------------------------------------------------------------
# Reading.


@both_formats
def test_what_was_written_is_read(tmp_path, file_format):
  rng = np.random.default_rng(0)
  written = {
    "conv.weight": rng.normal(size=(4, 3, 5, 5)).astype(np.float32),
    "bn.num_batches_tracked": np.array(77),
    "empty": np.zeros((0, 3), np.float32),
  }
  read = read_state_dict(save(tmp_path / "a.pth", written, file_format))
  assert list(read) == list(written)
  for name, array in written.items():
    assert read[name].dtype == array.dtype
    np.testing.assert_array_equal(read[name], array)


@pytest.mark.parametrize("module", ["torch", "torch.storage"])
@pytest.mark.parametrize(
  ("kind", "dtype"),
  [
    ("FloatStorage", "<f4"),
    ("DoubleStorage", "<f8"),
    ("HalfStorage", "<f2"),
    ("LongStorage", "<i8"),
    ("IntStorage", "<i4"),
    ("ShortStorage", "<i2"),
    ("CharStorage", "i1"),
    ("ByteStorage", "u1"),
    ("BoolStorage", "?"),
  ],
)
def test_every_storage_type(tmp_path, kind, dtype, module):
  values = np.array([0, 1, 0, 1]).astype(dtype) if dtype == "?" else np.array([0, 1, 100, 37]).astype(dtype)
  body = mapping({"w": tensor(storage(kind, "0", 4, module=module), 0, (4,), (1,))})
  (tmp_path / "a.pth").write_bytes(zip_file(body, {"0": (4, values.tobytes())}))
  read = read_state_dict(tmp_path / "a.pth")["w"]
  assert read.dtype == values.dtype
  np.testing.assert_array_equal(read, values)


def test_bfloat16_is_widened_without_loss(tmp_path):
  values = np.array([1.5, -3.0e38, 2.0**-130, np.inf], ml_dtypes.bfloat16)
  body = mapping({"w": tensor(storage("BFloat16Storage", "0", 4), 0, (4,), (1,))})
  (tmp_path / "a.pth").write_bytes(zip_file(body, {"0": (4, values.tobytes())}))
  read = read_state_dict(tmp_path / "a.pth")["w"]
  assert read.dtype == np.float32
  np.testing.assert_array_equal(read, values.astype(np.float32))


@pytest.mark.parametrize(("order", "dtype"), [("little", "<f4"), ("big", ">f4")])
def test_byte_order_of_a_zip(tmp_path, order, dtype):
  body, _ = one_float_tensor("zip")
  (tmp_path / "a.pth").write_bytes(zip_file(body, {"0": (6, np.arange(6, dtype=dtype).tobytes())}, byteorder=order))
  np.testing.assert_array_equal(read_state_dict(tmp_path / "a.pth")["w"], [[0, 1, 2], [3, 4, 5]])


@both_formats
def test_strides_offsets_and_sharing(tmp_path, file_format):
  none = b"N" if file_format == "legacy" else b""
  shared_storage = storage("FloatStorage", "0", 6, view=none)
  body = mapping(
    {
      "transposed": tensor(shared_storage, 0, (3, 2), (1, 3)),
      "column": tensor(shared_storage, 1, (2,), (3,), rebuild="_rebuild_tensor"),
      "scalar": tensor(shared_storage, 5, (), ()),
      "parameter": global_("torch._utils", "_rebuild_parameter")
      + b"("
      + tensor(shared_storage, 0, (2, 3), (3, 1))
      + b"\x88"
      + ORDERED_DICT
      + b"tR",
    }
  )
  raw = np.arange(6, dtype="<f4")
  (tmp_path / "a.pth").write_bytes(FORMATS[file_format](body, {"0": (6, raw.tobytes())}))
  read = read_state_dict(tmp_path / "a.pth")
  np.testing.assert_array_equal(read["transposed"], raw.reshape(2, 3).T)
  np.testing.assert_array_equal(read["column"], [1, 4])
  assert read["scalar"] == 5
  assert read["scalar"].shape == ()
  np.testing.assert_array_equal(read["parameter"], raw.reshape(2, 3))
  assert np.shares_memory(read["transposed"], read["column"])
  with pytest.raises(ValueError, match="read-only"):
    read["column"][0] = 1


def test_strings_of_python_2(tmp_path):
  """Python 2 pickled its byte strings as SHORT_BINSTRING, in whatever encoding."""
  body, storages = one_float_tensor("legacy")
  (tmp_path / "a.t7").write_bytes(legacy_file(body.replace(opcodes("w"), b"U\x02\xe9w"), storages))
  assert list(read_state_dict(tmp_path / "a.t7")) == ["\xe9w"]


@both_formats
def test_a_nested_state_dict_is_taken(tmp_path, file_format):
  body, storages = one_float_tensor(file_format)
  checkpoint = b"}(" + opcodes("epoch") + opcodes(3) + opcodes("state_dict") + body + b"u"
  (tmp_path / "a.pth").write_bytes(FORMATS[file_format](checkpoint, storages))
  assert list(read_state_dict(tmp_path / "a.pth")) == ["w"]


def test_real_files(shared):
  sfsnet = read_state_dict(shared("reference/sfsnet/random_weights.pth"))
  assert sfsnet["conv1.weight"].shape == (64, 3, 7, 7)
  mobilenet = read_state_dict(shared("reference/tddfa/mb05_120x120.pth"))
  assert mobilenet["module.conv1.weight"].shape == (16, 3, 3, 3)
  for state_dict in (sfsnet, mobilenet):
    assert all(np.isfinite(array).all() for array in state_dict.values())
    assert all((array > 0).all() for name, array in state_dict.items() if name.endswith("running_var"))


# ---------------------------------------------------------------------------------------------------------------------
# Hostile pickles. Each would create a file.


def hostile_bodies(touch: str) -> dict[str, bytes]:
  command = opcodes(touch)
  getattr_, import_ = global_("builtins", "getattr"), global_("builtins", "__import__")
  system = getattr_ + b"(" + import_ + opcodes("os") + b"\x85R" + opcodes("system") + b"tR"
  return {
    "GLOBAL and REDUCE": global_("os", "system") + command + b"\x85R",
    "STACK_GLOBAL": opcodes("os") + opcodes("system") + b"\x93" + command + b"\x85R",
    "dotted STACK_GLOBAL": b"\x80\x04" + opcodes("os") + opcodes("path.os.system") + b"\x93" + command + b"\x85R",
    "INST": b"(" + command + b"ios\nsystem\n",
    "OBJ": b"(" + global_("os", "system") + command + b"o",
    "NEWOBJ": global_("subprocess", "Popen") + opcodes(["sh", "-c", touch]) + b"\x85\x81",
    "getattr chain": system + command + b"\x85R",
    "eval": global_("builtins", "eval") + opcodes(f"__import__('os').system({touch!r})") + b"\x85R",
    "persistent id": b"(" + opcodes("storage") + global_("os", "system") + command + b"\x85R" + b"tQ",
    "Python 2 name": global_("__builtin__", "eval") + opcodes(f"__import__('os').system({touch!r})") + b"\x85R",
  }


class TrustingUnpickler(pickle.Unpickler):
  def persistent_load(self, pid):
    return None


@pytest.mark.parametrize("trick", list(hostile_bodies("")))
def test_hostile_pickles_would_run_elsewhere(tmp_path, trick):
  """The control: shows that the next test refuses live code, not duds."""
  witness = tmp_path / "witness"
  process = TrustingUnpickler(io.BytesIO(pickled(hostile_bodies(f"touch {witness}")[trick]))).load()
  if trick == "NEWOBJ":
    assert process.__class__.__name__ == "Popen"  # NEWOBJ skips __init__, so this one never starts anything
  else:
    assert witness.exists()


@both_formats
@pytest.mark.parametrize("trick", list(hostile_bodies("")))
def test_hostile_pickles_run_nothing(tmp_path, trick, file_format):
  witness = tmp_path / "witness"
  body = hostile_bodies(f"touch {witness}")[trick]
  message = refusal(tmp_path / "a.pth", FORMATS[file_format](mapping({"w": body}), {}))
  assert not witness.exists()
  assert message.startswith("refuses to load global '")


def test_the_refusal_names_the_global(tmp_path):
  assert "'os.system'" in refusal(tmp_path / "a.pth", zip_file(global_("os", "system"), {}))
  # A pickle in the preamble may not even use what tensors may.
  assert "'torch.FloatStorage'" in refusal(tmp_path / "a.pth", pickled(global_("torch", "FloatStorage")))


@pytest.mark.parametrize(
  "stand_in",
  [("torch._utils", "_rebuild_tensor_v2"), ("torch", "FloatStorage"), ("collections", "OrderedDict")],
)
@pytest.mark.parametrize(
  "state",
  [
    {"__call__": 1},
    (None, {"__call__": 1}),
    (None, {"dtype": "f8"}),
    (None, {"__class__": 1}),
    (None, {"__doc__": 1}),
  ],
)
def test_stand_ins_cannot_be_changed(tmp_path, stand_in, state):
  """BUILD sets attributes; were it to succeed, every later file in this process would be read wrong."""
  body, storages = one_float_tensor("zip")
  hostile = global_(*stand_in) + opcodes(state) + b"b"
  assert "cannot be loaded" in refusal(tmp_path / "a.pth", zip_file(hostile, storages))
  (tmp_path / "good.pth").write_bytes(zip_file(body, storages))
  read = read_state_dict(tmp_path / "good.pth")["w"]
  assert read.dtype == np.float32
  np.testing.assert_array_equal(read, [[0, 1, 2], [3, 4, 5]])


@pytest.mark.parametrize("state", [{"items": 1, "get": 1, "__class__": 1}, (None, {"items": 1, "__setstate__": 1})])
def test_attributes_of_a_state_dict_are_dropped(tmp_path, state):
  body, storages = one_float_tensor("zip")
  (tmp_path / "a.pth").write_bytes(zip_file(body + opcodes(state) + b"b", storages))
  assert list(read_state_dict(tmp_path / "a.pth")) == ["w"]


@pytest.mark.parametrize(
  "pid",
  [
    opcodes("storage"),
    opcodes(("module", 1, 2, 3)),
    opcodes(("storage", "FloatStorage", "0", "cpu", 6)),
    storage("FloatStorage", "0", -1)[:-1],
    storage("FloatStorage", 0, 6)[:-1],
    storage("FloatStorage", "0", "6")[:-1],
    storage("FloatStorage", "0", 6)[:-1] + b"Q\x85",
  ],
)
def test_strange_persistent_ids(tmp_path, pid):
  message = refusal(tmp_path / "a.pth", zip_file(pid + b"Q", {}))
  assert "something that is not a tensor storage" in message


def test_storage_views_and_contradictions(tmp_path):
  view = storage("FloatStorage", "0", 6, view=opcodes(("1", 0, 3)))
  assert "is a view" in refusal(tmp_path / "a.t7", legacy_file(view, {}))
  twice = storage("FloatStorage", "0", 6) + storage("DoubleStorage", "0", 6) + b"\x86"
  assert "'0' is described in two ways" in refusal(tmp_path / "a.pth", zip_file(twice, {}))


def test_load_pickle_takes_another_allow_list():
  """As needed for the NumPy pickles of the 3DDFA basis."""
  array = np.arange(6.0).reshape(2, 3)
  stream = io.BytesIO(pickle.dumps(array, 4) + b"what follows")
  allowed = {
    ("numpy._core.multiarray", "_reconstruct"): np._core.multiarray._reconstruct,
    ("numpy", "ndarray"): np.ndarray,
    ("numpy", "dtype"): np.dtype,
  }
  np.testing.assert_array_equal(load_pickle(stream, "a.pkl", allowed), array)
  assert stream.read() == b"what follows"
  with pytest.raises(BadInput, match=r"^a\.pkl: the pickle refers to an object outside itself"):
    load_pickle(io.BytesIO(pickled(b"NQ")), "a.pkl", {})


# ---------------------------------------------------------------------------------------------------------------------
# Damage and lies.


@both_formats
def test_every_truncation_is_refused(tmp_path, file_format):
  content = FORMATS[file_format](*one_float_tensor(file_format))
  for length in range(len(content)):
    refusal(tmp_path / "a.pth", content[:length])
  (tmp_path / "a.pth").write_bytes(content)
  read_state_dict(tmp_path / "a.pth")


@both_formats
def test_flipped_bytes_never_escape(tmp_path, file_format):
  """Whatever a byte becomes, the file is read or refused, nothing else."""
  content = FORMATS[file_format](*one_float_tensor(file_format))
  refused = 0
  for position, value in itertools.product(range(len(content)), (0x00, 0x80, 0xFF)):
    (tmp_path / "a.pth").write_bytes(content[:position] + bytes([value]) + content[position + 1 :])
    try:
      read_state_dict(tmp_path / "a.pth")
    except BadInput:
      refused += 1
  assert refused > len(content)


def test_other_files_are_refused(tmp_path, shared):
  for content in (b"", b"PK", b"\xff\xd8\xff\xe0\x00\x10JFIF", b"learning rate: 0.1\n", b"\x89PNG\r\n\x1a\n"):
    assert refusal(tmp_path / "a.pth", content) == "not a PyTorch weight file"
  assert refusal(tmp_path / "missing.pth") == "cannot be read (No such file or directory)"
  assert refusal(tmp_path).startswith("cannot be read (")
  assert refusal(shared("reference/dpr/obama.jpg")) == "not a PyTorch weight file"
  assert "without the data.pkl" in refusal(shared("reference/dpr/expected.npz"))


def test_other_pickles_are_refused(tmp_path):
  assert "not one that torch.save wrote" in refusal(tmp_path / "a.t7", pickle.dumps({"a": 1}, 2))
  wrong_protocol = pickle.dumps(0x1950A86A20F9469CFC6C, 2) + pickle.dumps(1002, 2)
  assert "protocol 1002 is unknown" in refusal(tmp_path / "a.t7", wrong_protocol)


@pytest.mark.parametrize(
  ("body", "message"),
  [
    (opcodes([1, 2]), "holds no state dict"),
    (mapping({}), "holds no state dict"),
    (opcodes({"state_dict": {}}), "holds no state dict"),
    (opcodes({"lr": 0.1}), "entry 'lr' of the state dict is not a named tensor"),
    (mapping({"w": opcodes((1, 0, (2,), (1,)))}), "entry 'w' of the state dict is not a named tensor"),
    (mapping({"w": tensor(opcodes(("f4", "0", 6)), 0, (1,), (1,))}), "tensor 'w' has no storage in the file"),
    (b"N" * 3 + b"0R", "the pickle cannot be loaded"),
  ],
)
@both_formats
def test_other_contents_are_refused(tmp_path, body, message, file_format):
  assert refusal(tmp_path / "a.pth", FORMATS[file_format](body, {})).startswith(message)


@both_formats
@pytest.mark.parametrize(
  ("geometry", "message"),
  [
    ({"size": (2, 4), "stride": (4, 1)}, "reaches outside"),
    ({"size": (2, 3), "stride": (4, 1)}, "reaches outside"),
    ({"offset": 1}, "reaches outside"),
    ({"offset": 2**70}, "reaches outside"),
    ({"size": (2**40,), "stride": (0,)}, "reaches outside"),
    ({"size": (2, 3), "stride": (0, 2**62)}, "reaches outside"),
    ({"size": (2**32, 2**32), "stride": (1, 1)}, "reaches outside"),
    ({"size": (0, 2**70), "stride": (1, 1)}, "impossible shape"),
    ({"size": (1,) * 70, "stride": (1,) * 70}, "unreadable shape"),
    ({"offset": -1}, "negative"),
    ({"size": (-2, -3)}, "negative"),
    ({"offset": 5, "stride": (-3, -1)}, "negative"),
    ({"size": (2.0, 3)}, "non-integer"),
    ({"size": (True, 3)}, "non-integer"),
    ({"offset": None}, "non-integer"),
    ({"size": (2, 3), "stride": (1,)}, "unreadable shape"),
    ({"size": 6, "stride": 1}, "unreadable shape"),
  ],
)
def test_tensors_outside_their_storage(tmp_path, geometry, message, file_format):
  content = FORMATS[file_format](*one_float_tensor(file_format, **geometry))
  line = refusal(tmp_path / "a.pth", content)
  assert line.startswith("tensor 'w' ")
  assert message in line


@both_formats
@pytest.mark.parametrize("numel", [7, 2**40, 2**62, 2**63 - 1])
def test_storages_longer_than_the_file(tmp_path, numel, file_format):
  message = refusal(tmp_path / "a.pth", FORMATS[file_format](*one_float_tensor(file_format, numel=numel)))
  assert str(4 * numel) in message


def test_legacy_storages_that_lie(tmp_path):
  body, storages = one_float_tensor("legacy")
  raw = storages["0"][1]
  lying = legacy_file(body, {"0": (-6, raw)})
  assert "storage '0' holds -6 elements, its tensors expect 6" in refusal(tmp_path / "a.t7", lying)
  for keys in (["1"], [0], "0", [["0"]]):
    assert "list of storages" in refusal(tmp_path / "a.t7", legacy_file(body, storages, keys=keys))
  assert "no storage" in refusal(tmp_path / "a.t7", legacy_file(body, storages, keys=[]))


def test_zip_archives_that_lie(tmp_path):
  body, storages = one_float_tensor("zip")
  assert "lacks entry 'weights/data/0'" in refusal(tmp_path / "a.pth", zip_file(body, {}))
  assert "byte order 'middle'" in refusal(tmp_path / "a.pth", zip_file(body, storages, byteorder="middle"))
  bomb = zip_file(body, {"0": (6, bytes(10**7))}, compression=zipfile.ZIP_DEFLATED)
  assert "compressed" in refusal(tmp_path / "a.pth", bomb)
  # A directory whose every entry claims the bytes of the largest.
  good = zip_file(body, storages)
  central = good.index(b"PK\x01\x02")
  for size in (len(good), 2**32 - 2):
    sizes = struct.pack("<II", size, size)
    lying = good[: central + 20] + sizes + good[central + 28 :]
    assert "claim more bytes than the file has" in refusal(tmp_path / "a.pth", lying)
  encrypted = good[: central + 8] + b"\x01" + good[central + 9 :]
  assert "not a readable zip archive" in refusal(tmp_path / "a.pth", encrypted)


@both_formats
@pytest.mark.parametrize(
  "bomb",
  [
    b"Nr\xff\xff\xff\x7f",  # LONG_BINPUT, which would allocate 32 GiB of memo
    b"p9999999999\n",  # PUT
    b"\x8e" + struct.pack("<Q", 2**40) + b"x",  # BINBYTES8
    b"\x96" + struct.pack("<Q", 2**40) + b"x",  # BYTEARRAY8
    b"\x8d" + struct.pack("<Q", 2**63 - 1) + b"x",  # BINUNICODE8
    b"\x8b\xff\xff\xff\x7f1",  # LONG4
    b"T\xff\xff\xff\x7f1",  # BINSTRING
    b"\x95" + struct.pack("<Q", 2**62),  # FRAME
  ],
)
def test_opcodes_that_announce_too_much(tmp_path, bomb, file_format):
  message = refusal(tmp_path / "a.pth", FORMATS[file_format](bomb, {}))
  assert "pickle" in message
  assert "MemoryError" not in message


# ---------------------------------------------------------------------------------------------------------------------
# The official module tree.


def official_state_dict(base=4, light_features=3, sh=9, hidden=5, image=1, *, large=False) -> dict[str, np.ndarray]:
  """Random weights under the names that the official modules give them, aliases and unused ones included."""
  rng = np.random.default_rng(0)

  def conv(name, inputs, outputs, size, bias=False):
    layer = {f"{name}.weight": rng.normal(size=(outputs, inputs, size, size)).astype(np.float32)}
    return layer | ({f"{name}.bias": rng.normal(size=outputs).astype(np.float32)} if bias else {})

  def norm(name, channels):
    four = ("weight", "bias", "running_mean", "running_var")
    layer = {f"{name}.{part}": rng.normal(size=channels).astype(np.float32) for part in four}
    return layer | {f"{name}.num_batches_tracked": np.array(9)}

  def block(name, inputs, outputs, batch_norm=False):
    layers = conv(f"{name}.conv1", inputs, outputs, 3) | conv(f"{name}.conv2", outputs, outputs, 3)
    if batch_norm:
      layers |= norm(f"{name}.bn1", outputs) | norm(f"{name}.bn2", outputs)
    return layers | conv(f"{name}.shortcuts", inputs, outputs, 1)

  def under(prefix, layers):
    return {f"{prefix}.{name}": array for name, array in layers.items()}

  def stem_and_head():
    layers = conv("pre_conv", image, base, 5, bias=True) | norm("pre_bn", base)
    for number, size in ((1, 3), (2, 1), (3, 1)):
      layers |= conv(f"conv_{number}", base, base, size, bias=True) | norm(f"bn_{number}", base)
    return layers | conv("output", base, image, 1, bias=True)

  inner = (
    conv("predict_FC1", light_features, hidden, 1)
    | {"predict_relu1.weight": np.array([0.25], np.float32)}
    | conv("predict_FC2", hidden, sh, 1)
    | conv("post_FC1", sh, hidden, 1)
    | {"post_relu1.weight": np.array([0.75], np.float32)}
    | conv("post_FC2", hidden, light_features, 1)
  )
  widths = [8 * base + light_features, 4 * base, 2 * base, base, base]
  network = stem_and_head() | under("light", inner)
  for number in range(4):
    narrow, wide = widths[number + 1], widths[number]
    inner = (
      block("upper", narrow, narrow)
      | block("low1", narrow, wide, batch_norm=True)
      | under("middle", inner)
      | block("low2", wide, narrow)
    )
    network |= under(f"HG{number}", inner)
  return under("model_512", network) | stem_and_head() if large else network


def flattened(tree) -> dict[str, np.ndarray]:
  leaves = jax.tree_util.tree_flatten_with_path(tree)[0]
  return {"/".join(part.key for part in path): leaf for path, leaf in leaves}


def number_of_parameters(base, light_features, sh, hidden, image) -> int:
  """Of what the forward pass uses, from the paper's figure 3 and its supplement."""
  widths = [base, base, 2 * base, 4 * base, 8 * base + light_features]
  total = 25 * image * base + base + 2 * base  # stem
  for narrow, wide in itertools.pairwise(widths):
    total += 2 * 9 * narrow**2  # skip
    total += 9 * narrow * wide + 9 * wide**2 + 2 * 2 * wide  # down
    total += 9 * wide * narrow + 9 * narrow**2  # up
    total += 2 * narrow * wide if narrow != wide else 0  # shortcuts of both
  total += 2 * light_features * hidden + 2 * hidden * sh + 2  # light
  return total + 9 * base**2 + 2 * base**2 + 3 * base + 3 * 2 * base + base * image + image  # head


@pytest.mark.parametrize(("path", "large"), [(OFFICIAL_512, False), (OFFICIAL_1024, True)])
def test_official_files(shared, path, large):
  state_dict = read_state_dict(shared(path))
  sizes = {"base": 16, "light_features": 27, "sh": 9, "hidden": 128, "image": 1}
  expected = official_state_dict(**sizes, large=large)
  assert {name: array.shape for name, array in state_dict.items()} == {
    name: array.shape for name, array in expected.items()
  }
  assert is_1024(state_dict) is large
  variables = dpr_variables(state_dict, path)
  parameters = sum(array.size for array in jax.tree.leaves(variables["params"]))
  assert parameters == number_of_parameters(**sizes) == 684_592
  statistics = flattened(variables["batch_stats"])
  assert len(statistics) == 2 * (1 + 4 * 2 + 3)
  assert all((array > 0).all() for name, array in statistics.items() if name.endswith("/var"))


@pytest.mark.parametrize("large", [False, True])
@pytest.mark.parametrize(
  "sizes",
  [{}, {"base": 8, "light_features": 27, "sh": 27, "hidden": 16, "image": 3}, {"base": 2, "hidden": 1}],
)
def test_any_size_is_mapped(sizes, large):
  variables = dpr_variables(official_state_dict(**sizes, large=large), "a.t7")
  sizes = {"base": 4, "light_features": 3, "sh": 9, "hidden": 5, "image": 1} | sizes
  assert sum(array.size for array in jax.tree.leaves(variables["params"])) == number_of_parameters(**sizes)
  assert {array.dtype for array in jax.tree.leaves(variables)} == {np.dtype(np.float32)}
  assert all(array.flags.writeable and array.flags.c_contiguous for array in jax.tree.leaves(variables))


@pytest.mark.parametrize("large", [False, True])
def test_the_tree(large):
  variables = dpr_variables(official_state_dict(large=large), "a.t7")
  stem, head = ("stem_1024", "head_1024") if large else ("stem", "head")
  kernel, affine, statistics = ["kernel"], ["scale", "bias"], ["mean", "var"]
  params = {f"{stem}/conv": ["kernel", "bias"], f"{stem}/norm": affine, f"{head}/output": ["kernel", "bias"]}
  batch_stats = {f"{stem}/norm": statistics}
  for number in (1, 2, 3):
    params |= {f"{head}/conv{number}": ["kernel", "bias"], f"{head}/norm{number}": affine}
    batch_stats |= {f"{head}/norm{number}": statistics}
  for level in range(4):
    for block in ("skip", "down", "up"):
      params |= {f"trunk/level{level}/{block}/conv{number}": kernel for number in (1, 2)}
      if block != "skip" and level > 0:  # the outermost hourglass keeps its width
        params |= {f"trunk/level{level}/{block}/shortcut": kernel}
    params |= {f"trunk/level{level}/down/norm{number}": affine for number in (1, 2)}
    batch_stats |= {f"trunk/level{level}/down/norm{number}": statistics for number in (1, 2)}
  for part in ("estimate", "embed"):
    params |= {f"trunk/light/{part}1": kernel, f"trunk/light/{part}2": kernel}
    params |= {f"trunk/light/{part}_prelu": ["negative_slope"]}
  expected = {f"params/{path}/{leaf}" for path, leaves in params.items() for leaf in leaves}
  expected |= {f"batch_stats/{path}/{leaf}" for path, leaves in batch_stats.items() for leaf in leaves}
  assert set(flattened(variables)) == expected


@pytest.mark.parametrize("large", [False, True])
def test_every_tensor_lands_where_it_belongs(large):
  state_dict = official_state_dict(large=large)
  trunk = "model_512." if large else ""
  variables = flattened(dpr_variables(state_dict, "a.t7"))
  top = "_1024" if large else ""

  def assert_conv(path, name):
    np.testing.assert_array_equal(np.einsum("hwio->oihw", variables[f"params/{path}/kernel"]), state_dict[name])

  def assert_dense(path, name):
    np.testing.assert_array_equal(variables[f"params/{path}/kernel"].T[..., None, None], state_dict[name])

  def assert_norm(path, name):
    for ours, official in (("scale", "weight"), ("bias", "bias")):
      np.testing.assert_array_equal(variables[f"params/{path}/{ours}"], state_dict[f"{name}.{official}"])
    for ours in ("mean", "var"):
      np.testing.assert_array_equal(variables[f"batch_stats/{path}/{ours}"], state_dict[f"{name}.running_{ours}"])

  assert_conv(f"stem{top}/conv", "pre_conv.weight")
  assert_norm(f"stem{top}/norm", "pre_bn")
  np.testing.assert_array_equal(variables[f"params/stem{top}/conv/bias"], state_dict["pre_conv.bias"])
  for number in (1, 2, 3):
    assert_conv(f"head{top}/conv{number}", f"conv_{number}.weight")
    assert_norm(f"head{top}/norm{number}", f"bn_{number}")
    np.testing.assert_array_equal(variables[f"params/head{top}/conv{number}/bias"], state_dict[f"conv_{number}.bias"])
  assert_conv(f"head{top}/output", "output.weight")
  hourglass = f"{trunk}HG3"  # named as the forward pass reaches them, from the outermost hourglass inwards
  for level in range(4):
    for ours, official in (("skip", "upper"), ("down", "low1"), ("up", "low2")):
      for number in (1, 2):
        assert_conv(f"trunk/level{level}/{ours}/conv{number}", f"{hourglass}.{official}.conv{number}.weight")
      if ours != "skip" and level > 0:
        assert_conv(f"trunk/level{level}/{ours}/shortcut", f"{hourglass}.{official}.shortcuts.weight")
    for number in (1, 2):
      assert_norm(f"trunk/level{level}/down/norm{number}", f"{hourglass}.low1.bn{number}")
    hourglass += ".middle"
  for ours, official in (("estimate", "predict"), ("embed", "post")):
    for number in (1, 2):
      assert_dense(f"trunk/light/{ours}{number}", f"{hourglass}.{official}_FC{number}.weight")
    slope = variables[f"params/trunk/light/{ours}_prelu/negative_slope"]
    assert slope == state_dict[f"{hourglass}.{official}_relu1.weight"]
    assert slope.shape == nn.PReLU().init(jax.random.key(0), np.zeros(2, np.float32))["params"]["negative_slope"].shape


def test_aliases_may_be_absent_but_not_differ():
  state_dict = official_state_dict()
  nested = {name: array for name, array in state_dict.items() if not name.startswith(("HG0", "HG1", "HG2", "light"))}
  flat = {name: array for name, array in state_dict.items() if ".middle" not in name}
  assert len(nested) == len(flat) < len(state_dict)
  expected = flattened(dpr_variables(state_dict, "a.t7"))
  for part in (nested, flat):
    variables = flattened(dpr_variables(part, "a.t7"))
    assert variables.keys() == expected.keys()
    for path, array in variables.items():
      np.testing.assert_array_equal(array, expected[path])
  name = "HG2.middle.middle.middle.post_FC2.weight"
  with pytest.raises(BadInput, match=r"^a\.t7: weights of another network: .*'light\.post_FC2\.weight'.* differ$"):
    dpr_variables(state_dict | {name: state_dict[name] + 1}, "a.t7")


@pytest.mark.parametrize("large", [False, True])
def test_every_missing_tensor_is_named(large):
  """Whatever name a variable came from, without it the file is refused; nothing else is needed."""
  state_dict = {name: array for name, array in official_state_dict(large=large).items() if ".middle" not in name}
  ignored = set()
  messages = []
  for name in state_dict:
    try:
      dpr_variables({other: array for other, array in state_dict.items() if other != name}, "a.t7")
      ignored.add(name)
    except BadInput as error:
      messages.append((str(error), f"a.t7: weights of another network: {name!r} is missing"))
  for message, expected in messages:
    assert message == expected
  trunk = "model_512." if large else ""
  unused = {name for name in state_dict if name.endswith("num_batches_tracked")}
  unused |= {f"{trunk}HG{number}.upper.shortcuts.weight" for number in range(4)}
  unused |= {f"{trunk}HG3.low1.shortcuts.weight", f"{trunk}HG3.low2.shortcuts.weight"}
  unused |= {name for name in state_dict if name.startswith("model_512.") and not name[10:].startswith(("HG", "light"))}
  assert ignored == unused


@pytest.mark.parametrize(
  ("name", "array"),
  [
    ("HG1.low1.conv2.weight", np.zeros((16, 15, 3, 3), np.float32)),
    ("HG1.low1.conv2.weight", np.zeros((16, 16, 1, 1), np.float32)),
    ("HG1.low1.conv2.weight", np.zeros((16, 16, 9), np.float32)),
    ("HG3.low1.bn1.running_var", np.zeros(5, np.float32)),
    ("HG2.low2.shortcuts.weight", np.zeros((4, 8, 3, 3), np.float32)),
    ("light.predict_relu1.weight", np.zeros(5, np.float32)),
    ("light.post_FC1.weight", np.zeros((5, 27, 1, 1), np.float32)),
    ("output.weight", np.zeros((3, 4, 1, 1), np.float32)),
    ("pre_conv.bias", np.zeros((), np.float32)),
    ("pre_conv.bias", np.zeros(4, np.int64)),
    ("fc.weight", np.zeros((2, 2), np.float32)),
    ("HG4.low1.conv1.weight", np.zeros((2, 2), np.float32)),
    ("HG0.middle.middle.upper.conv1.weight", np.zeros((2, 2), np.float32)),
  ],
)
def test_weights_of_another_network(name, array):
  state_dict = {name: array for name, array in official_state_dict().items() if ".middle" not in name}
  with pytest.raises(BadInput) as caught:
    dpr_variables(state_dict | {name: array}, "a.t7")
  assert str(caught.value).startswith(f"a.t7: weights of another network: {name!r} ")


def test_a_bottleneck_without_room_for_the_face():
  state_dict = official_state_dict()
  for name in (
    "HG0.middle.",
    "HG1.middle.middle.",
    "HG2.middle.middle.middle.",
    "HG3.middle.middle.middle.middle.",
    "",
  ):
    light = name or "light."
    state_dict[f"{light}predict_FC1.weight"] = np.zeros((5, 35, 1, 1), np.float32)
    state_dict[f"{light}post_FC2.weight"] = np.zeros((35, 5, 1, 1), np.float32)
  with pytest.raises(BadInput, match="none is left for the face"):
    dpr_variables(state_dict, "a.t7")


def test_other_networks_are_refused(shared):
  for path in ("reference/sfsnet/random_weights.pth", "reference/tddfa/mb05_120x120.pth"):
    with pytest.raises(BadInput, match="weights of another network"):
      dpr_variables(read_state_dict(shared(path)), path)


@both_formats
def test_a_file_written_and_mapped(tmp_path, file_format):
  state_dict = official_state_dict()
  read = read_state_dict(save(tmp_path / "a.pth", state_dict, file_format))
  expected = flattened(dpr_variables(state_dict, "a.pth"))
  for path, array in flattened(dpr_variables(read, "a.pth")).items():
    np.testing.assert_array_equal(array, expected[path])


def test_a_pickle_too_deep_for_the_stack_is_refused(tmp_path):
  """Hashing a tuple nested this deep ends CPython itself, so the attempt is made in a process of its own."""
  path = tmp_path / "deep.pth"
  path.write_bytes(b"\x80\x02}" + b")" + b"\x85" * 200_000 + b"K\x01s.")
  code = f"from dpr_jax.network.pytorch_weights import read_state_dict; read_state_dict({str(path)!r})"
  result = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=False)
  assert result.returncode == 1
  assert "more than 100 containers in each other" in result.stderr


# What would hang, recurse or be printed for ever.


def nested(times, make=lambda inner: (inner, inner)):
  value = ()
  for _ in range(times):
    value = make(value)
  return value


@pytest.mark.parametrize(
  ("content", "reason"),
  [
    # A key whose hash takes 2**60 steps, so not made here: an empty tuple, doubled sixty times.
    (b"\x80\x02})" + 60 * b"2\x86" + b"K\x01s.", "a key that is neither a text nor a number"),
    (pickle.dumps({(1, 2): 1}), "a key that is neither a text nor a number"),
    (pickle.dumps([{"a": 1}, {("b",): 2, "c": 3}], 0), "a key that is neither a text nor a number"),
    (pickle.dumps({1}), "a set"),
    (pickle.dumps(frozenset([1])), "a set"),
    (pickle.dumps(nested(101, lambda inner: [inner])), "more than 100 containers in each other"),
    (pickle.dumps(nested(101, lambda inner: {"a": inner})), "more than 100 containers in each other"),
    (pickle.dumps(10**6000), "an integer of 19932 bits"),
    (pickle.dumps(-(10**4000), 0), "an integer of"),
    (b"\x80\x06N.", "the unknown protocol 6"),
    (b"0.", "not a complete pickle"),
    (b"u.", "not a complete pickle"),
  ],
)
def test_pickles_that_would_take_for_ever_are_refused(content, reason):
  with pytest.raises(BadInput) as refused:
    load_pickle(io.BytesIO(content), "weights", {})
  assert reason in str(refused.value)
  assert len(str(refused.value)) < 300


def test_pickles_as_they_are_pass():
  value = {"a": [1, 2.5, None, True], 3: ("x", b"y", {"deep": [[[()]]]}), b"z": -(2**100)}
  for protocol in range(6):
    stream = io.BytesIO(pickle.dumps(value, protocol))
    if protocol < 3:  # which write bytes as a call of a codec
      stream = io.BytesIO(pickle.dumps({"a": value["a"], 3: ("x", {"deep": [[[()]]]})}, protocol))
    assert load_pickle(stream, "weights", {})["a"] == value["a"]


def test_pairs_of_an_ordered_dict_have_plain_keys():
  with pytest.raises(ValueError, match="neither a text nor a number"):
    _MakeMapping()([[nested(3), 1]])
  assert _MakeMapping()([["a", 1]]) == {"a": 1}


def test_hostile_files_get_a_line(shared):
  for name in ("hashbomb", "nestkey", "numelint", "protoint", "reprbomb"):
    with pytest.raises(BadInput) as refused:
      read_state_dict(shared(f"cases/hostile/{name}.t7"))
    assert "\n" not in str(refused.value)
