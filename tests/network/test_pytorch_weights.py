"""Weight files built opcode by opcode, honest and hostile, and the official ones; PyTorch is never there."""

import io
import itertools
import pickle
import struct
import subprocess
import sys
import zipfile

import ml_dtypes
import numpy as np
import pytest

from dpr_jax.base.errors import BadInput
from dpr_jax.network.pytorch_weights import _MakeMapping, read_state_dict
from tests.base.test_restricted_pickle import nested

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


def test_a_pickle_too_deep_for_the_stack_is_refused(tmp_path):
  """Hashing a tuple nested this deep ends CPython itself, so the attempt is made in a process of its own."""
  path = tmp_path / "deep.pth"
  path.write_bytes(b"\x80\x02}" + b")" + b"\x85" * 200_000 + b"K\x01s.")
  code = f"from dpr_jax.network.pytorch_weights import read_state_dict; read_state_dict({str(path)!r})"
  result = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=False)
  assert result.returncode == 1
  assert "more than 100 containers in each other" in result.stderr


def test_pairs_of_an_ordered_dict_have_plain_keys():
  with pytest.raises(ValueError, match="neither a text nor a number"):
    _MakeMapping()([[nested(3), 1]])
  assert _MakeMapping()([["a", 1]]) == {"a": 1}


def test_hostile_files_get_a_line(shared):
  for name in ("hashbomb", "nestkey", "numelint", "protoint", "reprbomb"):
    with pytest.raises(BadInput) as refused:
      read_state_dict(shared(f"cases/hostile/{name}.t7"))
    assert "\n" not in str(refused.value)
