"""`train.py` as a user starts it: flags, exit codes, faces made for the run, signals."""

import json
import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

from data_gen import export
from dpr_jax.base.errors import BadInput

pytestmark = pytest.mark.usefixtures("quick_compilation")

ROOT = Path(__file__).resolve().parents[2]

_CONFIG = """
from dpr_jax.train.config import default_config

def get_config(variant=None):
  if variant not in (None, "long"):
    raise ValueError(f"no variant {variant!r}")
  config = default_config()
  config.num_steps = 100_000 if variant else 2
  config.batch_size = 2
  config.network.base_filters = 2
  config.network.light_channels = 3
  config.data.size = 64
  config.data.procedural_faces = 4
  config.data.lights_per_face = 2
  config.loss.adversarial = 0.0
  config.log_every = 1
  return config
"""


@pytest.fixture(scope="module")
def folder(tmp_path_factory) -> Path:
  path = tmp_path_factory.mktemp("entry")
  (path / "recipe.py").write_text(_CONFIG)
  (path / "broken.py").write_text("x = \n")
  return path


def command(*arguments: str) -> list[str]:
  return [sys.executable, str(ROOT / "train.py"), *arguments]


def train(folder: Path, *arguments: str) -> subprocess.CompletedProcess:
  return subprocess.run(command(*arguments), cwd=folder, capture_output=True, text=True, timeout=600)


@pytest.fixture(scope="module")
def trained(folder, quick_compilation) -> Path:
  """A run that made its own faces."""
  done = train(folder, "--config=recipe.py", "--workdir=run")
  assert done.returncode == 0, done.stderr
  assert done.stdout.splitlines()[-1] == f"trained to step 2: {folder / 'run' / 'relit.png'}"
  return folder / "run"


def test_without_data_it_makes_faces_and_uses_them_again(folder, trained):
  summary = json.loads((trained / "data" / "export.json").read_text())
  assert summary["settings"]["count"] == 4
  assert summary["settings"]["size"] == 64
  before = {path.name: path.stat().st_mtime_ns for path in (trained / "data").iterdir()}
  done = train(folder, "--config=recipe.py", "--workdir=run", "--config.num_steps=3")
  assert done.returncode == 0, done.stderr
  assert done.stdout.splitlines()[0] == f"goes on from step 2 of {trained / 'checkpoints'}"
  assert {path.name: path.stat().st_mtime_ns for path in (trained / "data").iterdir()} == before
  with pytest.raises(BadInput, match=r"holds a dataset with other count \(4, now 5\)"):
    export.export_procedural_faces(trained / "data", count=5, size=64, lights_per_image=2)


@pytest.mark.parametrize(
  ("arguments", "message"),
  [
    ([], "--config and --workdir are needed; --help lists all flags"),
    (["--config=recipe.py"], "--config and --workdir are needed; --help lists all flags"),
    (["--config=recipe.py", "--config.data.sise=3"], "--config.data.sise: no such field; did you mean size?"),
    (["--config=recipe.py", "--config.dada.size=3"], "--config.dada.size: no such field"),
    (["--config=recipe.py", "--config.data.size=big"], "flag --config.data.size=big: invalid literal for int() "),
    (["--config=recipe.py:fast"], "--config=recipe.py:fast: ValueError: no variant 'fast'"),
    (["--config=broken.py"], "--config=broken.py: SyntaxError: invalid syntax (broken.py, line 1)"),
    (["--config=missing.py"], "--config=missing.py: [Errno 2] No such file or directory: 'missing.py'"),
    (["--config=recipe.py", "--config.data.size=33"], "config.data.size is 33, no multiple of 16"),
  ],
)
def test_mistakes_are_one_line(folder, arguments, message):
  workdir = ["--workdir=new"] if arguments and arguments != ["--config=recipe.py"] else []
  done = train(folder, *arguments, *workdir)
  assert (done.returncode, done.stdout) == (2, "")
  assert len(done.stderr.splitlines()) == 1, done.stderr
  assert done.stderr.startswith(f"train.py: {message}")
  assert not (folder / "new").exists()


def test_a_dry_run_writes_nothing(folder):
  done = train(folder, "--config=recipe.py", "--workdir=new", "--config.num_steps=7", "--dry_run")
  assert (done.returncode, done.stderr) == (0, "")
  assert "4 procedural faces, made in new/data; 64 x 64 pixels, offline" in done.stdout
  assert "7 steps in batches of 2 faces" in done.stdout
  assert done.stdout.endswith("new: begins anew\n")
  assert not (folder / "new").exists()


def stop(folder: Path, trained: Path, workdir: str, sent: signal.Signals) -> tuple[int, str, str]:
  """A run without end, which gets a signal after its first steps."""
  arguments = ["--config=recipe.py:long", f"--workdir={workdir}", f"--config.data.folder={trained / 'data'}"]
  process = subprocess.Popen(command(*arguments), cwd=folder, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)
  while process.poll() is None and not process.stdout.readline().startswith("step 2 of"):
    time.sleep(0.01)
  process.send_signal(sent)
  out, error = process.communicate(timeout=600)
  return process.returncode, out, error


def test_sigterm_saves_and_exits_0(folder, trained):
  code, out, error = stop(folder, trained, "terminated", signal.SIGTERM)
  assert (code, error) == (0, "")
  (step,) = os.listdir(folder / "terminated" / "checkpoints")
  assert out.splitlines()[-1] == f"stopped and saved at step {step}; the same command goes on"
  rows = (folder / "terminated" / "metrics.jsonl").read_text().splitlines()
  assert json.loads(rows[-1])["step"] == int(step)


@pytest.mark.slow
def test_sigint_saves_and_exits_130(folder, trained):
  code, out, error = stop(folder, trained, "interrupted", signal.SIGINT)
  assert (code, error) == (130, "interrupted\n")
  assert out.splitlines()[-1].startswith("stopped and saved at step ")


def test_the_flags_are_shown_without_a_heavy_import(folder, tmp_path):
  for name in ("cv2", "jax", "orbax", "grain"):
    (tmp_path / name).mkdir()
    (tmp_path / name / "__init__.py").write_text("raise ImportError('must not be imported')")
  environment = os.environ | {"PYTHONPATH": str(tmp_path), "PYTHONDONTWRITEBYTECODE": "1"}
  done = subprocess.run(command("--help"), cwd=folder, env=environment, capture_output=True, text=True)
  assert (done.returncode, done.stderr) == (1, "")
  assert "python train.py --config=portraits_256:smoke --workdir=run" in done.stdout
  for flag in ("--config:", "--workdir:", "--[no]dry_run:"):
    assert flag in done.stdout
