"""Feeds damaged files to everything that reads files of strangers: what is not read must be refused in one line.

python benchmarks/fuzz.py
python benchmarks/fuzz.py --readers=photo,film --seconds=600 --seed=7
python benchmarks/fuzz.py --readers=photo --seed=7 --only=1234 --keep=input.bin

Inputs are small files of each kind with a few bytes, numbers or pieces changed, headers more often than the rest; sums
that guard a file are made right again half of the time, so that what lies behind them is reached. Input number k of a
reader depends on the seed and k alone: --only tries it again, in this process, and --keep writes it to a file. Each
reader works in a process of its own, with 3 GiB of address space; one that crashes, or takes more than half a minute
over an input, is counted and started again behind it. The table counts what was read, what was refused, and faults: any
other exception, a message of several lines or more than 300 letters beside the path, a line that a library has printed,
a crash, a hang.
"""

import collections
import contextlib
import io
import json
import os
import pickle
import queue
import struct
import subprocess
import sys
import tempfile
import threading
import time
import types
import zipfile
import zlib
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import NamedTuple

import numpy as np
from absl import app, flags

from dpr_jax.base.errors import BadInput

_READERS = flags.DEFINE_list("readers", [], "which; default: all")
_SECONDS = flags.DEFINE_float("seconds", 60, "for each reader")
_INPUTS = flags.DEFINE_integer("inputs", 20_000, "for each reader, at most")
_SEED = flags.DEFINE_integer("seed", 0, "of all inputs")
_ONLY = flags.DEFINE_integer("only", None, "the number of the one input to try")
_KEEP = flags.DEFINE_string("keep", None, "where to write the input of --only")
_WORKER = flags.DEFINE_integer("worker", None, "for this program's own use: be a reader's process, from this input on")

_MOST_SIDE_PIXELS = 2**22
_LONGEST_MESSAGE = 300
_SECONDS_AN_INPUT = 30
_ADDRESS_SPACE = 3 * 2**30

_INTEGERS = (0, 1, 2, 127, 128, 255, 256, 32767, 65535, 2**31 - 1, 2**31, 2**32 - 1, 2**63 - 1)
_WORDS = (b"nan", b"-inf", b"1e999", b"9" * 400, b"[", b"]" * 50, b"{" * 2000, b"\0", b"\xff\xfe", b"null", b"-1", b'"')


class Reader(NamedTuple):
  """Something that reads files.

  Attributes:
    suffix: what its files are called.
    seeds: makes the files that inputs are changes of.
    read: reads the file at a path, to its end.
    wrap: puts the changed content of a seed into a container, or makes its sums right again.
    is_quiet: whether its libraries must not print. OpenCV's PNG and JPEG libraries do, and a lock around them would
      make training wait.
  """

  suffix: str
  seeds: Callable[[], list[bytes]]
  read: Callable[[Path], None]
  wrap: Callable[[bytes], bytes] | None = None
  is_quiet: bool = True


# Seeds.


def _written(suffix: str, write: Callable[[Path], None]) -> bytes:
  with tempfile.TemporaryDirectory() as folder:
    path = Path(folder, f"seed{suffix}")
    write(path)
    return path.read_bytes()


def _photos() -> list[bytes]:
  from PIL import Image

  from dpr_jax.image.photo import Photo
  from dpr_jax.image.photo_writing import write_photo

  rng = np.random.default_rng(20)
  pixels = rng.integers(0, 256, (24, 17, 3), dtype=np.uint8)
  deep = pixels.astype(np.uint16) * 257
  exif = Image.Exif()
  exif[0x0112], exif[0x010F] = 6, "A camera"
  photos = {
    ".jpg": Photo(pixels, exif=exif.tobytes(), xmp=b"<x:xmpmeta/>"),
    ".webp": Photo(pixels),
    ".bmp": Photo(pixels),
  }
  photos |= {".png": Photo(deep, deep[..., 0]), ".tif": Photo(deep, dpi=(72, 72))}
  written = [_written(suffix, lambda path, photo=photo: write_photo(path, photo)) for suffix, photo in photos.items()]
  for kind, options in (
    ("GIF", {}),
    ("AVIF", {}),
    ("JPEG", {"progressive": True}),
    ("PNG", {"optimize": True}),
    ("TIFF", {"compression": "tiff_lzw"}),
    ("TIFF", {"compression": "packbits"}),
    ("TIFF", {"tiled": True}),
  ):
    buffer = io.BytesIO()
    with contextlib.suppress(KeyError, OSError):
      Image.fromarray(pixels).save(buffer, kind, **options)
      written.append(buffer.getvalue())
  buffer = io.BytesIO()
  Image.fromarray(pixels).convert("P").save(buffer, "PNG", transparency=3)
  return [*written, buffer.getvalue(), *_heics(pixels), *_maps()[-2:], _dng()]


def _heics(pixels: np.ndarray) -> list[bytes]:
  import pillow_heif
  from PIL import Image

  buffer = io.BytesIO()
  pillow_heif.from_pillow(Image.fromarray(pixels)).save(buffer, color_primaries=12, transfer_characteristic=13)
  return [buffer.getvalue()]


def _dng() -> bytes:
  """A TIFF that LibRaw takes for a DNG; its matrix and its pixels lie behind the directory."""
  side, matrix = 64, struct.pack("<18i", *(number for k in range(9) for number in (int(k % 4 == 0), 1)))
  mosaic = np.random.default_rng(20).integers(0, 65536, (side, side), dtype=np.uint16).astype("<u2").tobytes()
  longs = {254: 0, 256: side, 257: side, 273: 0, 278: side, 279: len(mosaic), 50717: 65535}
  shorts = {258: 16, 259: 1, 262: 32803, 277: 1}
  entries = {tag: (4, 1, struct.pack("<I", value)) for tag, value in longs.items()}
  entries |= {tag: (3, 1, struct.pack("<H", value)) for tag, value in shorts.items()}
  entries |= {271: (2, 2, b"A"), 272: (2, 2, b"B"), 33421: (3, 2, b"\2\0\2"), 33422: (1, 4, b"\0\1\1\2")}
  entries |= {50706: (1, 4, b"\1\4"), 50708: (2, 2, b"B"), 50721: (10, 9, b"")}
  behind = 8 + 2 + 12 * len(entries) + 4
  entries[50721], entries[273] = (10, 9, struct.pack("<I", behind)), (4, 1, struct.pack("<I", behind + len(matrix)))
  rows = (struct.pack("<HHI", tag, *entries[tag][:2]) + entries[tag][2].ljust(4, b"\0") for tag in sorted(entries))
  return b"II*\0\x08\0\0\0" + struct.pack("<H", len(entries)) + b"".join(rows) + bytes(4) + matrix + mosaic


def _with_right_sums(content: bytes) -> bytes:
  """A PNG whose chunks have the sums that they should have; other files as they are."""
  if not content.startswith(b"\x89PNG\r\n\x1a\n"):
    return content
  place, parts = 8, [content[:8]]
  while place + 12 <= len(content):
    (length,) = struct.unpack_from(">I", content, place)
    chunk = content[place + 4 : place + 8 + length]
    parts += [content[place : place + 4], chunk, struct.pack(">I", zlib.crc32(chunk))]
    place += 12 + length
  return b"".join([*parts, content[place:]])


def _films() -> list[bytes]:
  from dpr_jax.image import pictures

  rng = np.random.default_rng(20)
  frames = [rng.integers(0, 256, (48, 64, 3), dtype=np.uint8) for _ in range(4)]
  films = {}
  with tempfile.TemporaryDirectory() as folder:
    mp4, gif = Path(folder, "film.mp4"), Path(folder, "film.gif")
    pictures.write_films(mp4, gif, iter(frames), 15)
    films["mp4"] = mp4.read_bytes()
    import av

    for suffix, codec, kind in (
      (".mkv", "mpeg4", "yuv420p"),
      (".avi", "mjpeg", "yuvj420p"),
      (".mov", "mpeg4", "yuv420p"),
    ):
      path = Path(folder, f"film{suffix}")
      with av.open(str(path), "w") as container:
        stream = container.add_stream(codec, rate=15)
        stream.width, stream.height, stream.pix_fmt = 64, 48, kind
        for frame in frames:
          container.mux(stream.encode(av.VideoFrame.from_ndarray(frame, format="rgb24")))
        container.mux(stream.encode(None))
      films[suffix] = path.read_bytes()
  return list(films.values())


def _maps() -> list[bytes]:
  import cv2
  import OpenEXR

  rng = np.random.default_rng(20)
  radiance = rng.random((16, 32, 3)).astype(np.float32)
  maps = [_written(".hdr", lambda path: cv2.imwrite(str(path), radiance))]
  flat = np.full((8 * 16, 4), 100, np.uint8)
  maps.append(b"#?RADIANCE\nFORMAT=32-bit_rle_rgbe\n\n-Y 8 +X 16\n" + flat.tobytes())
  maps.append(b"#?RGBE\nFORMAT=32-bit_rle_rgbe\n\n+X 16 -Y 8\n" + (flat[:1].tobytes() + b"\1\1\1\x7f"))
  compressions = (OpenEXR.ZIP_COMPRESSION, OpenEXR.PIZ_COMPRESSION, OpenEXR.RLE_COMPRESSION, OpenEXR.DWAA_COMPRESSION)
  for kind, compression in zip((np.float16, np.float32, np.float16, np.float32), compressions, strict=True):
    header = {"compression": compression, "type": OpenEXR.scanlineimage}
    maps.append(
      _written(
        ".exr",
        lambda path, header=header, kind=kind: OpenEXR.File(header, {"RGB": radiance.astype(kind)}).write(str(path)),
      )
    )
  return maps


def _lights() -> list[bytes]:
  numbers = np.array([0.8, 0.1, 0.05, -0.3, 0.02, 0.01, 0.07, -0.04, 0.03])
  lines = "\n".join(f"{number}" for number in numbers)
  rows = "\n".join(" ".join(f"{number * tint:.4f}" for number in numbers) for tint in (1, 0.9, 0.8))
  array = io.BytesIO()
  np.save(array, numbers)
  return [
    lines.encode(),
    rows.encode(),
    f"# a light\n[{', '.join(map(str, numbers))}]".encode(),
    lines.replace(".", ",").encode("utf-16"),
    rows.replace(" ", "; ").encode(),
    array.getvalue(),
  ]


def _records() -> list[bytes]:
  from dpr_jax.records import Record, encode_record

  rng = np.random.default_rng(20)
  normal = np.zeros((8, 9, 3), np.float32)
  normal[..., 1] = -1
  pixels = rng.integers(0, 256, (3, 8, 9, 3), dtype=np.uint8)
  lights = np.tile(np.eye(1, 9, dtype=np.float32), (2, 1))
  record = Record(
    "face",
    pixels[0],
    pixels[1:],
    lights,
    lights[0],
    normal,
    np.zeros((8, 9), np.float32),
    normal[..., 1] < 0,
    ("a", "b"),
  )
  return [encode_record(record), encode_record(record, image_format="jpeg", normal_bits=8)]


def _shards() -> list[bytes]:
  from dpr_jax.records import write_tfrecords

  return [_written(".tfrecord", lambda path: write_tfrecords(path, [b"a", *_records()]))]


def _arrays() -> list[bytes]:
  arrays = []
  for array in (np.zeros((3, 4), np.float16), np.arange(6.0, dtype=np.float32), np.ones(4)):
    buffer = io.BytesIO()
    np.save(buffer, array)
    arrays.append(buffer.getvalue())
  return arrays


def _as_archive(content: bytes) -> bytes:
  buffer = io.BytesIO()
  with zipfile.ZipFile(buffer, "w", zipfile.ZIP_DEFLATED) as archive:
    archive.writestr("params/conv/kernel.npy", content)
    archive.writestr("params/conv/bias.npy", _arrays()[1])
  return buffer.getvalue()


def _safetensors() -> list[bytes]:
  from safetensors.numpy import save

  return [
    save({"params/conv/kernel": np.zeros((3, 4), np.float16), "params/conv/bias": np.arange(6, dtype=np.float32)})
  ]


def _pushed(value: object) -> bytes:
  return pickle.dumps(value, 2)[2:-1]


def _pickled_tensor(view: bytes) -> bytes:
  """What PyTorch pickles for `{"w": a tensor of 2 x 3}`."""
  ordered = b"ccollections\nOrderedDict\n)R"
  storage = (
    b"(" + _pushed("storage") + b"ctorch\nFloatStorage\n" + _pushed("0") + _pushed("cpu") + _pushed(6) + view + b"tQ"
  )
  tensor = b"ctorch._utils\n_rebuild_tensor_v2\n(" + storage + _pushed(0) + _pushed((2, 3)) + _pushed((3, 1)) + b"\x89"
  return b"\x80\x02" + ordered + b"(" + _pushed("w") + tensor + ordered + b"tRu."


def _legacy_weights() -> list[bytes]:
  head = [0x1950A86A20F9469CFC6C, 1001, {"protocol_version": 1001, "little_endian": True}]
  content = b"".join(pickle.dumps(part, 2) for part in head) + _pickled_tensor(b"N") + pickle.dumps(["0"], 2)
  return [content + struct.pack("<q", 6) + np.arange(6, dtype="<f4").tobytes()]


def _as_zipped_weights(content: bytes) -> bytes:
  buffer = io.BytesIO()
  with zipfile.ZipFile(buffer, "w") as archive:
    archive.writestr("weights/data.pkl", content)
    archive.writestr("weights/data/0", np.arange(6, dtype="<f4").tobytes())
  return buffer.getvalue()


def _pickles() -> list[bytes]:
  array = np.arange(6, dtype=np.float32).reshape(2, 3)
  return [pickle.dumps(array, 2), pickle.dumps({"a": array, "b": {"c": array.astype(np.int64)}}, 2)]


def _hair_styles() -> list[bytes]:
  style = {"vertices": np.eye(3), "faces": np.int32([[0, 1, 2]]), "uv": np.eye(3)[:, :2]}
  style |= {"face_uv": style["faces"], "bind": np.int32([0, 1, 2])}
  arrays = {f"wig_{name}": array for name, array in style.items()}
  return [_written(".npz", lambda path, save=save: save(path, **arrays)) for save in (np.savez, np.savez_compressed)]


def _film_states() -> list[bytes]:
  state = {"time": np.array(1.5), "numbers": np.arange(2), "frames_done": np.array(100)}
  return [_written(".npz", lambda path, save=save: save(path, **state)) for save in (np.savez, np.savez_compressed)]


def _configs() -> list[bytes]:
  from dpr_jax.train.checkpoints import as_json
  from dpr_jax.train.config import TrainingConfig

  return [json.dumps(as_json(TrainingConfig())).encode()]


# Readers.


def _read_photo(path: Path) -> None:
  from dpr_jax.image.photo import read_photo

  read_photo(path, _MOST_SIDE_PIXELS)


def _read_film(path: Path) -> None:
  from dpr_jax.film.reader import FilmReader

  with FilmReader(path) as film:
    for frame in film.frames():
      film.pixels(frame)
      film.upright_aspect(frame)


def _read_map(path: Path) -> None:
  from dpr_jax.light.environment_files import read_environment

  read_environment(path, _MOST_SIDE_PIXELS, note=lambda _: None)


def _read_light(path: Path) -> None:
  from dpr_jax.light.files import check_light, read_coefficients

  check_light(path, read_coefficients(path))


def _read_record(path: Path) -> None:
  from dpr_jax.records import decode_record

  decode_record(path.read_bytes(), str(path))


def _read_shard(path: Path) -> None:
  from dpr_jax.records import read_tfrecords, readable_offsets

  readable_offsets(path)
  collections.deque(read_tfrecords(path), maxlen=0)


def _read_archive(path: Path) -> None:
  from dpr_jax.network.weights import read_archive

  read_archive(path)


def _read_safetensors(path: Path) -> None:
  from dpr_jax.network.weights import read_safetensors

  read_safetensors(path)


def _read_weights(path: Path) -> None:
  from dpr_jax.network.pytorch_weights import read_state_dict

  read_state_dict(path)


def _read_pickle(path: Path) -> None:
  from data_gen.numpy_pickle import read_numpy_pickle

  read_numpy_pickle(path)


def _read_hair(path: Path) -> None:
  from data_gen.heads.hair import load_hair

  load_hair(path, types.SimpleNamespace(file_vertex=np.arange(3)), ["wig"])


def _read_film_state(path: Path) -> None:
  from dpr_jax.film.parts import Parts

  folder = path.parent / "parts"
  folder.mkdir(exist_ok=True)
  (folder / "00000000.mp4").touch()
  (folder / "00000000.npz").write_bytes(path.read_bytes())
  Parts(folder).restore(types.SimpleNamespace(restore=lambda state: [state["time"], state["numbers"].tolist()]))


def _read_config(path: Path) -> None:
  from dpr_jax.train import checkpoints as training_checkpoints
  from dpr_jax.train.config import TrainingConfig

  place = path.parent / training_checkpoints.CHECKPOINTS / "5" / "config" / "metadata"
  place.parent.mkdir(parents=True, exist_ok=True)
  place.write_bytes(path.read_bytes())
  ours, theirs = training_checkpoints.as_json(TrainingConfig()), training_checkpoints.read_config(path.parent, 5)
  training_checkpoints.check_same_model(ours, theirs, place)
  training_checkpoints.changed_fields(ours, theirs)


READERS = {
  "photo": Reader(".jpg", _photos, _read_photo, _with_right_sums),
  "film": Reader(".mp4", _films, _read_film),
  "map": Reader(".hdr", _maps, _read_map),
  "light": Reader(".txt", _lights, _read_light),
  "record": Reader(".bin", _records, _read_record, is_quiet=False),
  "shard": Reader(".tfrecord", _shards, _read_shard),
  "npz": Reader(".npz", lambda: [_as_archive(array) for array in _arrays()], _read_archive),
  "array in an npz": Reader(".npz", _arrays, _read_archive, _as_archive),
  "safetensors": Reader(".safetensors", _safetensors, _read_safetensors),
  "t7": Reader(".t7", _legacy_weights, _read_weights),
  "pth": Reader(".pth", lambda: [_as_zipped_weights(_pickled_tensor(b""))], _read_weights),
  "pickle in a pth": Reader(".pth", lambda: [_pickled_tensor(b"")], _read_weights, _as_zipped_weights),
  "pickle": Reader(".pkl", _pickles, _read_pickle),
  "hair": Reader(".npz", _hair_styles, _read_hair),
  "film state": Reader(".npz", _film_states, _read_film_state),
  "config": Reader(".json", _configs, _read_config),
}


# Inputs.


def changed(rng: np.random.Generator, content: bytes, other: bytes) -> bytes:
  """`content` with one to eight changes; `other` is what a piece may be taken from."""
  data = bytearray(content)
  for _ in range(int(rng.choice([1, 1, 2, 3, 8]))):
    end = len(data) if rng.random() < 0.5 else min(len(data), 256)
    place = int(rng.integers(0, end + 1))
    length = int(rng.choice([1, 2, 4, 16, 200]))
    kind = rng.integers(0, 10)
    if kind == 0 and data:
      data[place % len(data)] ^= 1 << int(rng.integers(0, 8))
    elif kind == 1 and data:
      data[place % len(data)] = int(rng.integers(0, 256))
    elif kind in (2, 3):
      size, order = int(rng.choice([1, 2, 4, 8])), str(rng.choice(["little", "big"]))
      number = int(rng.choice(_INTEGERS[: 9 if size < 4 else None], 1)[0]) % 2 ** (8 * size)
      data[place : place + size] = number.to_bytes(size, order)
    elif kind == 4:
      del data[place : place + length]
    elif kind == 5:
      data[place:place] = data[place : place + length] * int(rng.choice([1, 2, 50]))
    elif kind == 6:
      data[place:place] = rng.bytes(length)
    elif kind == 7:
      del data[place + int(rng.integers(0, 2)) * length :]
    elif kind == 8:
      data[place:] = other[int(rng.integers(0, len(other) + 1)) :]
    else:
      data[place : place + int(rng.integers(0, 4))] = _WORDS[rng.integers(0, len(_WORDS))]
  return bytes(data)


def inputs(reader: Reader, seed: int, first: int = 0) -> Iterator[bytes]:
  """Inputs number `first`, `first + 1`, ... of a reader."""
  seeds, number = reader.seeds(), first
  while True:
    rng = np.random.default_rng([seed, number])
    content = changed(rng, *(seeds[k] for k in rng.integers(0, len(seeds), 2)))
    if reader.wrap is not None and (reader.wrap is not _with_right_sums or rng.random() < 0.5):
      content = reader.wrap(content)
    yield content
    number += 1


def outcome(reader: Reader, content: bytes, folder: Path) -> str:
  """What a reader made of an input: "read", "refused", or, in one line, what is wrong with how it took it."""
  path = folder / f"input{reader.suffix}"
  path.write_bytes(content)
  try:
    reader.read(path)
  except BadInput as error:
    message = str(error)
    if not message or "\n" in message or len(message.replace(str(path), "")) > _LONGEST_MESSAGE:
      return f"a message of {message.count(chr(10)) + 1} lines and {len(message)} letters: {message[:100]!r}"
    return "refused"
  except Exception as error:  # which is what is looked for
    last = error.__traceback__
    while last.tb_next is not None:
      last = last.tb_next
    place = f"{Path(last.tb_frame.f_code.co_filename).name}:{last.tb_lineno}"
    return " ".join(f"{type(error).__name__} at {place}: {str(error)[:100]}".split())
  return "read"


def _work(name: str) -> None:
  """Tries inputs and says so, one line before each and one after, until somebody ends it."""
  with contextlib.suppress(ImportError):
    import resource

    resource.setrlimit(resource.RLIMIT_AS, (_ADDRESS_SPACE, _ADDRESS_SPACE))
    resource.setrlimit(resource.RLIMIT_CORE, (0, 0))
  reader, answers = READERS[name], os.fdopen(os.dup(1), "w")
  with tempfile.TemporaryDirectory() as folder, tempfile.TemporaryFile() as printed:
    os.dup2(printed.fileno(), 1)
    os.dup2(printed.fileno(), 2)
    for content in inputs(reader, _SEED.value, _WORKER.value):
      print("begin", file=answers, flush=True)
      result = outcome(reader, content, Path(folder))
      sys.stdout.flush()
      if os.fstat(printed.fileno()).st_size:
        if reader.is_quiet:
          result = f"prints {os.pread(printed.fileno(), 120, 0).replace(folder.encode(), b'')!r}"
        os.ftruncate(printed.fileno(), 0)
        os.lseek(printed.fileno(), 0, os.SEEK_SET)
      print("end", result, file=answers, flush=True)


class _Worker:
  """A process that tries the inputs of a reader from one on."""

  def __init__(self, name: str, first: int):
    command = [sys.executable, __file__, f"--readers={name}", f"--worker={first}", f"--seed={_SEED.value}"]
    self.process = subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL, text=True)
    self._lines: queue.Queue[str] = queue.Queue()
    threading.Thread(target=self._listen, daemon=True).start()

  def _listen(self) -> None:
    for line in self.process.stdout:
      self._lines.put(line)
    self._lines.put("")

  def next_line(self, seconds: float) -> str | None:
    """A line, "" if it has ended, None if it says nothing for so long."""
    with contextlib.suppress(queue.Empty):
      return self._lines.get(timeout=seconds)
    return None

  def end(self) -> int:
    self.process.kill()
    return self.process.wait()


def fuzz(name: str, seconds: float, most: int) -> tuple[collections.Counter, float]:
  """How often each outcome was, of the inputs of one reader, and the most seconds of one."""
  counts, number, longest, until = collections.Counter(), 0, 0.0, None
  worker = None
  while number < most and (until is None or time.monotonic() < until):
    worker = worker or _Worker(name, number)
    if (line := worker.next_line(10 * _SECONDS_AN_INPUT)) != "begin\n":
      raise RuntimeError(f"the process of {name} does not begin with input {number}: {line!r}")
    begin = time.monotonic()
    line = worker.next_line(10 * _SECONDS_AN_INPUT if until is None else _SECONDS_AN_INPUT)
    longest = 0.0 if until is None else max(longest, time.monotonic() - begin)
    until = until or time.monotonic() + seconds  # the first input imports what reads it
    if line:
      result = line.removeprefix("end ").strip()
    else:
      status = worker.end()
      result = f"more than {_SECONDS_AN_INPUT} seconds" if line is None else f"a crash: status {status}"
      worker = None
    counts[result if result in ("read", "refused") else "fault"] += 1
    if result not in ("read", "refused"):
      print(f"{name} --only={number}: {result}", flush=True)
    number += 1
  if worker:
    worker.end()
  return counts, longest


def _try_one(name: str) -> None:
  reader = READERS[name]
  content = next(inputs(reader, _SEED.value, _ONLY.value))
  if _KEEP.value:
    Path(_KEEP.value).write_bytes(content)
  with tempfile.TemporaryDirectory() as folder:
    print(outcome(reader, content, Path(folder)))
    path = Path(folder, f"input{reader.suffix}")
    reader.read(path)


def main(argv: list[str]) -> None:
  del argv
  names = _READERS.value or list(READERS)
  if unknown := [name for name in names if name not in READERS]:
    raise app.UsageError(f"--readers {', '.join(unknown)}: none of {', '.join(READERS)}")
  if _WORKER.value is not None:
    _work(names[0])
  if _ONLY.value is not None:
    return _try_one(names[0])
  rows, begin = [], time.monotonic()
  for name in names:
    counts, longest = fuzz(name, _SECONDS.value, _INPUTS.value)
    rows.append([name, counts.total(), counts["read"], counts["refused"], counts["fault"], f"{longest:.1f} s"])
  print(f"\nseed {_SEED.value}, {time.monotonic() - begin:.0f} s\n")
  print("| reader | inputs | read | refused | faults | longest |\n| --- | --- | --- | --- | --- | --- |")
  for row in rows:
    print("| " + " | ".join(str(cell) for cell in row) + " |")
  sys.exit(1 if any(row[4] for row in rows) else 0)


if __name__ == "__main__":
  app.run(main)
