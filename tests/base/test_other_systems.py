"""What Linux has and other systems lack is never needed: here it is hidden, since no other system is at hand."""

import os
import subprocess
import sys

from tests.conftest import ROOT

# Of the standard library; what is left of it and of the packages copes without them by itself.
_HIDE = """
import os, signal, sys
for name in ("fcntl", "resource", "grp", "pwd", "termios"):
  sys.modules[name] = None
hidden = {os: ("sched_getaffinity", "getuid", "pread", "mkfifo", "O_NOFOLLOW"), signal: ("SIGXCPU",)}
for module, names in hidden.items():
  for name in names:
    if hasattr(module, name):
      delattr(module, name)
"""

_USE = """
import sys
from pathlib import Path

from data_gen import export
from dpr_jax.base import cpu
from dpr_jax.base.errors import BadInput
from dpr_jax.base.output_files import atomic_output, claimed
from dpr_jax.film import relighting
from dpr_jax.image.decoder_process import Decoders
from dpr_jax.records import read_record_at, read_tfrecords, record_offsets, write_tfrecords
from dpr_jax.train import run
from dpr_jax.train.checkpoints import claim_workdir

assert cpu.available_cores() >= 1
folder = Path(sys.argv[1])
for _ in range(2):
  with claim_workdir(folder / "run"):
    try:
      with claim_workdir(folder / "run"):
        print("two runs in one folder")
    except BadInput as error:
      print(str(error).partition(": ")[2])
with atomic_output(folder / "out.txt") as path:
  path.write_text("whole")
write_tfrecords(folder / "two.tfrecord", [b"one", b"two"])
print(list(read_tfrecords(folder / "two.tfrecord")))
with (folder / "two.tfrecord").open("rb") as file:
  print([read_record_at(file, offset) for offset in record_offsets(folder / "two.tfrecord")])
print(Decoders().read_photo(folder / "photo.png", 10**6).pixels.shape)
"""


def test_what_only_linux_has_is_not_needed(tmp_path):
  from dpr_jax.image.photo import Photo
  from dpr_jax.image.photo_writing import write_photo
  from dpr_jax.image.pictures import astronaut

  write_photo(tmp_path / "photo.png", Photo(astronaut()))
  (tmp_path / "sitecustomize.py").write_text(_HIDE)
  ended = subprocess.run(
    [sys.executable, "-c", _USE, str(tmp_path)],
    env=os.environ | {"PYTHONPATH": os.pathsep.join([str(tmp_path), str(ROOT)])},
    capture_output=True,
    text=True,
    check=False,
  )
  assert ended.returncode == 0, ended.stderr
  expected = ["another run is training there"] * 2 + ["[b'one', b'two']"] * 2 + ["(300, 300, 3)"]
  assert ended.stdout.splitlines() == expected
