"""Decoding in processes of their own: what they read is what is read here, and nothing takes them too long or down."""

import dataclasses
import io
import os
import signal
import struct
import threading
import time
from concurrent.futures import ThreadPoolExecutor

import cv2
import numpy as np
import pytest
from PIL import Image

from dpr_jax.base.errors import BadInput
from dpr_jax.image import decoder_process
from dpr_jax.image.decoder_process import Decoders
from dpr_jax.image.photo import Photo, read_photo
from dpr_jax.image.photo_writing import write_photo
from dpr_jax.image.pictures import astronaut
from dpr_jax.light.environment_files import read_environment


@pytest.fixture(scope="module")
def decoders():
  decoders = Decoders()
  yield decoders
  decoders.close()


def assert_photos_equal(one, other):
  for field in dataclasses.fields(Photo):
    of_one, of_other = getattr(one, field.name), getattr(other, field.name)
    assert type(of_one) is type(of_other), field.name
    np.testing.assert_array_equal(of_one, of_other)
    if isinstance(of_one, np.ndarray):
      assert of_one.dtype == of_other.dtype


def many_scans(scans, side):
  """A progressive JPEG of so many scans: its last one again and again."""
  buffer = io.BytesIO()
  Image.effect_noise((side, side), 60).save(buffer, "JPEG", progressive=True)
  content = buffer.getvalue()
  last = content[content.rindex(b"\xff\xda") : -2]
  return content[:-2] + last * (scans - content.count(b"\xff\xda")) + content[-2:]


def test_photos_are_what_they_are_here(decoders, tmp_path):
  rng = np.random.default_rng(0)
  exif = Image.Exif()
  exif[0x010F] = "A camera"
  deep = rng.integers(0, 2**16, (31, 17, 3), dtype=np.uint16)
  photos = {
    "deep.tif": Photo(deep, deep[..., 0], exif=exif.tobytes(), xmp=b"<x:xmpmeta/>", dpi=(300.0, 240.0)),
    "gray.png": Photo(np.repeat(rng.integers(0, 255, (5, 9, 1), dtype=np.uint8), 3, axis=2), gray=True),
    "astronaut.jpg": Photo(astronaut(), icc_profile=b"a profile"),
  }
  for name, photo in photos.items():
    write_photo(tmp_path / name, photo)
    assert_photos_equal(decoders.read_photo(tmp_path / name, 10**6), read_photo(tmp_path / name))


def test_environment_maps_are_what_they_are_here(decoders, tmp_path):
  for suffix, gray in ((".hdr", False), (".exr", True)):
    path = tmp_path / f"map{suffix}"
    radiance = np.random.default_rng(1).random((16, 32, 3), np.float32)
    if gray:
      import OpenEXR

      OpenEXR.File({}, {"Y": radiance[..., 0].copy()}).write(str(path))
    else:
      cv2.imwrite(str(path), radiance)
    there, here = decoders.read_environment(path, 10**6), read_environment(path)
    assert there.dtype == here.dtype == np.float32
    np.testing.assert_array_equal(there, here)


def test_what_is_refused_here_is_refused_there_in_the_same_words(decoders, tmp_path):
  write_photo(tmp_path / "photo.png", Photo(astronaut()))
  (tmp_path / "cut.png").write_bytes((tmp_path / "photo.png").read_bytes()[:5000])
  (tmp_path / "text.png").write_text("a text")
  os.mkfifo(tmp_path / "pipe.png")
  for name, most in (("photo.png", 1000), ("cut.png", 10**6), ("text.png", 10**6), ("none\n.png", 1), ("pipe.png", 1)):
    with pytest.raises(BadInput) as here:
      read_photo(tmp_path / name, most)
    with pytest.raises(BadInput) as there:
      decoders.read_photo(tmp_path / name, most)
    assert str(there.value) == str(here.value)


def test_a_photo_without_end_is_given_up_and_the_next_one_read(tmp_path, monkeypatch):
  monkeypatch.setattr(decoder_process, "_WALL_FACTOR", 60)  # a busy machine takes long to start the next process
  (tmp_path / "scans.jpg").write_bytes(many_scans(16, 5600))
  write_photo(tmp_path / "photo.png", Photo(astronaut()))
  decoders = Decoders(seconds=1)
  try:
    with pytest.raises(BadInput, match=r"scans\.jpg: cannot be decoded \(it takes more than 1 seconds\)"):
      decoders.read_photo(tmp_path / "scans.jpg", 10**8)
    for _ in range(40):  # time is counted for each: together they take more
      assert_photos_equal(decoders.read_photo(tmp_path / "photo.png", 10**8), Photo(astronaut()))
  finally:
    decoders.close()


def test_whoever_sleeps_is_late_by_the_clock(tmp_path, monkeypatch):
  monkeypatch.setattr(decoder_process, "_WALL_FACTOR", 0.2)
  write_photo(tmp_path / "photo.png", Photo(astronaut()))
  decoders = Decoders(seconds=1)
  try:
    os.kill(decoders._idle[0]._process.pid, signal.SIGSTOP)
    with pytest.raises(BadInput, match="it takes more than 1 seconds"):
      decoders.read_photo(tmp_path / "photo.png", 10**8)
  finally:
    decoders.close()


def test_memory_is_bounded(tmp_path):
  header = struct.pack("<2sIHHI", b"BM", 10**9, 0, 0, 54) + struct.pack(
    "<IiiHHIIiiII", 40, 2**15, 2**15, 1, 24, *[0] * 6
  )
  (tmp_path / "large.bmp").write_bytes(header)
  decoders = Decoders(most_bytes=2**30)
  try:
    with pytest.raises(BadInput, match=r"large\.bmp: takes more memory to decode than there is"):
      decoders.read_photo(tmp_path / "large.bmp", 2**31)
  finally:
    decoders.close()


@pytest.mark.parametrize(
  ("dies", "why"),
  [
    ("os.kill(os.getpid(), 11)", "it is damaged, and its decoder crashed over it"),
    ("os.kill(os.getpid(), 9)", "it takes more than 3072 MiB of memory, or than there is"),
    ("os.write(2, b'what():  std::bad_alloc'); os.abort()", "it takes more than 3072 MiB of memory, or than there is"),
  ],
)
def test_a_crash_is_told_from_a_lack_of_memory(tmp_path, monkeypatch, dies, why):
  (tmp_path / "sitecustomize.py").write_text(
    f"import os, sys\nif 'decoder_process' in ' '.join(sys.orig_argv): sys.stdin.readline(); {dies}"
  )
  monkeypatch.setenv("PYTHONPATH", str(tmp_path), prepend=os.pathsep)
  decoders = Decoders()
  try:
    with pytest.raises(BadInput) as refused:
      decoders.read_photo(tmp_path / "photo.png", 10**8)
    assert str(refused.value) == f"{tmp_path / 'photo.png'}: cannot be decoded ({why})"
  finally:
    decoders.close()


def test_words_about_an_earlier_file_tell_nothing_of_this_one(tmp_path):
  write_photo(tmp_path / "photo.png", Photo(astronaut()))
  decoders = Decoders()
  try:
    decoders.read_photo(tmp_path / "photo.png", 10**8)
    decoder = decoders._idle[0]
    decoder._said.write(b"out of memory")
    decoder._said.flush()
    os.kill(decoder._process.pid, signal.SIGSTOP)  # else it might answer first
    killer = threading.Timer(0.3, os.kill, (decoder._process.pid, signal.SIGSEGV))
    killer.start()
    threading.Timer(0.4, os.kill, (decoder._process.pid, signal.SIGCONT)).start()
    with pytest.raises(BadInput, match="its decoder crashed over it"):
      decoders.read_photo(tmp_path / "photo.png", 10**8)
  finally:
    decoders.close()


def test_a_process_that_is_killed_costs_its_own_photo_at_most(tmp_path):
  (tmp_path / "scans.jpg").write_bytes(many_scans(16, 5600))
  write_photo(tmp_path / "photo.png", Photo(astronaut()))
  decoders = Decoders()
  try:
    process = decoders._idle[0]._process
    decoders.read_photo(tmp_path / "photo.png", 10**8)
    killer = threading.Timer(0.3, process.kill)
    killer.start()
    with pytest.raises(BadInput, match="cannot be decoded"):
      decoders.read_photo(tmp_path / "scans.jpg", 10**8)
    decoders.read_photo(tmp_path / "photo.png", 10**8)
    decoders._idle[0]._process.kill()  # while nobody uses it
    decoders._idle[0]._process.wait()
    decoders.read_photo(tmp_path / "photo.png", 10**8)
  finally:
    decoders.close()


def test_many_threads_share_few_processes_that_end_with_them(tmp_path):
  rng = np.random.default_rng(2)
  photos = [Photo(rng.integers(0, 255, (50 + k, 40, 3), dtype=np.uint8)) for k in range(12)]
  for k, photo in enumerate(photos):
    write_photo(tmp_path / f"{k}.png", photo)
  decoders = Decoders()
  with ThreadPoolExecutor(12) as threads:
    read = threads.map(lambda k: decoders.read_photo(tmp_path / f"{k}.png", 10**8), range(12))
    for one, other in zip(read, photos, strict=True):
      assert_photos_equal(one, other)
  processes = [decoder._process for decoder in decoders._idle]
  assert 1 <= len(processes) <= decoder_process._PROCESSES
  begun = time.monotonic()
  decoders.close()
  assert all(process.returncode is not None for process in processes)
  assert time.monotonic() - begun < 30
