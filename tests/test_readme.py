"""Every command and every line of Python that the README shows."""

import json
import re
import runpy
import shlex
import subprocess
import sys
from pathlib import Path

import av
import cv2
import jax
import numpy as np
import pytest

from data_gen.export import export
from data_gen.synthesis import Settings
from dpr_jax.base.assets import ASSETS
from dpr_jax.image.pictures import astronaut, write_films
from dpr_jax.light import sh
from dpr_jax.network.weights import load_params
from tests.conftest import ROOT

README = (ROOT / "README.md").read_text(encoding="utf-8")


def code_blocks(language):
  return re.findall(rf"^```{language}\n(.*?)^```", README, re.MULTILINE | re.DOTALL)


COMMANDS = [line for block in code_blocks("bash") for line in block.splitlines() if line]
WITH_A_RUN = "--weights=run"  # of the train command
RELIGHT_COMMANDS = [
  command for command in COMMANDS if command.startswith("python relight.py") and WITH_A_RUN not in command
]
EXPORT_COMMANDS = [command for command in COMMANDS if command.startswith("python export_dataset.py")]
TRAIN_COMMANDS = [command for command in COMMANDS if command.startswith("python train.py")]
EVALUATE_COMMANDS = [command for command in COMMANDS if command.startswith("python evaluate.py")]
LONG_COMMANDS = [line for block in code_blocks("console") for line in block.splitlines()]


@pytest.fixture(scope="module")
def desk(tmp_path_factory, group_photo):
  """A folder with the files that the README's commands name; all people are scikit-image's astronaut."""
  folder = tmp_path_factory.mktemp("readme")
  photo = np.ascontiguousarray(astronaut()[..., ::-1])
  other = cv2.resize(photo[:, ::-1], (400, 400), interpolation=cv2.INTER_CUBIC)
  (folder / "photos").mkdir()
  for name, picture in (
    ("photo.jpg", photo),
    ("other_portrait.jpg", other),
    ("group.jpg", cv2.imread(str(group_photo))),
    ("photos/one.jpg", photo),
    ("photos/two.png", other),
  ):
    assert cv2.imwrite(str(folder / name), picture)
  panorama = np.full((16, 32, 3), 0.2, np.float32)
  panorama[4:8, 2:5] = 20
  assert cv2.imwrite(str(folder / "studio.hdr"), panorama)
  np.savetxt(folder / "light.txt", sh.directional(sh.direction(65, 10)))
  frames = [cv2.cvtColor(photo, cv2.COLOR_BGR2RGB)] * 3
  write_films(folder / "in.mp4", folder / "in.gif", frames, 10)
  (folder / "lights").mkdir()
  (folder / "lights" / "room.txt").write_text("0.8 0.1 0.1 0 0 0 0 0 0")
  export(Settings(count=4, size=128, lights_per_image=1), folder / "dataset", workers=1)
  return folder


@pytest.fixture(scope="module")
def run(desk, quick_compilation):
  """The workdir that the README's train command fills, and the faces to evaluate it on."""
  (command,) = TRAIN_COMMANDS
  start("train.py", command, desk)
  export(Settings(count=46, size=64, lights_per_image=2), desk / "faces", workers=1)
  return desk / "run"


def start(script, command, folder, *more):
  """Runs a command of the README in a folder."""
  words = shlex.split(command)[2:]
  result = subprocess.run(
    [sys.executable, str(ROOT / script), *words, *more], cwd=folder, capture_output=True, text=True, check=False
  )
  assert result.returncode == 0, result.stderr
  return result.stdout


def needs_what_it_names(command, shared):
  """The official weights are the one thing that a command of the README may need and the package may not bring."""
  for name in ("official-512", "official-1024"):
    if name in command:
      shared(f"reference/dpr/{ASSETS[name].filename}")


def flags_of(command):
  return dict(word.removeprefix("--").partition("=")[::2] for word in shlex.split(command)[2:])


def test_the_readme_shows_commands():
  assert len(RELIGHT_COMMANDS) >= 8
  assert all(command.startswith(("python ", "pip install -e ")) for command in COMMANDS), COMMANDS


@pytest.mark.parametrize("command", RELIGHT_COMMANDS)
def test_relight_command(command, desk, shared):
  needs_what_it_names(command, shared)
  words = shlex.split(command)
  result = subprocess.run(
    [sys.executable, str(ROOT / "relight.py"), *words[2:]], cwd=desk, capture_output=True, text=True, check=False
  )
  assert result.returncode == 0, result.stderr
  out = desk / flags_of(command)["out"]
  if out.is_dir():
    assert sorted(path.name for path in out.iterdir()) == ["one.jpg", "two.png"]
  elif "video" in flags_of(command):
    with av.open(out) as film:
      assert len(list(film.decode(video=0))) == 3
  elif "rotate" in flags_of(command):
    assert out.stat().st_size > 0
    assert out.with_suffix(".gif").stat().st_size > 0
  else:
    source, relit = cv2.imread(str(desk / flags_of(command)["image"])), cv2.imread(str(out))
    assert relit is not None
    if "grid" not in flags_of(command):
      assert relit.shape == source.shape
      assert np.abs(relit.astype(int) - source).mean() > 1


@pytest.mark.parametrize("command", EXPORT_COMMANDS)
def test_export_command(command, desk, tmp_path):
  """At a small size, and into a folder of its own."""
  words = [*shlex.split(command)[2:], "--size=128", "--count=2", f"--out={tmp_path / 'out'}", "--workers=1"]
  result = subprocess.run(
    [sys.executable, str(ROOT / "export_dataset.py"), *words], cwd=desk, capture_output=True, text=True, check=False
  )
  assert result.returncode == 0, result.stderr
  assert ("2 photos of " if "dry_run" in command else "2 portraits: ") in result.stdout
  assert (tmp_path / "out").exists() != ("dry_run" in command)
  assert (tmp_path / "out" / "pages").exists() == ("visualize" in command)


@pytest.mark.nightly
def test_train_command(run):
  """The smoke recipe, whole: it makes its faces, passes every stage of skip training, and ends with a relit picture."""
  lines = [json.loads(line) for line in (run / "metrics.jsonl").read_text().splitlines()]
  assert sorted({line["skips_on"] for line in lines}) == [0, 1, 2, 3, 4]
  assert {"image", "gradient", "light", "adversarial", "feature", "discriminator"} <= lines[-1].keys()
  assert lines[-1]["loss"] < lines[0]["loss"]
  assert cv2.imread(str(run / "relit.png")).std() > 10


@pytest.mark.nightly
@pytest.mark.parametrize("command", EVALUATE_COMMANDS)
def test_evaluate_command(command, run, shared):
  needs_what_it_names(command, shared)
  table = start("evaluate.py", command, run.parent)
  assert "identity" in table
  if "out" in flags_of(command):
    out = run.parent / flags_of(command)["out"]
    assert sorted(path.name for path in out.iterdir()) == ["evaluation.json", "evaluation.png"]


@pytest.mark.nightly
@pytest.mark.parametrize(
  "command", [command for command in COMMANDS if command.startswith("python relight.py") and WITH_A_RUN in command]
)
def test_relight_with_own_weights(command, run):
  start("relight.py", command, run.parent)
  assert cv2.imread(str(run.parent / flags_of(command)["out"])) is not None


@pytest.mark.nightly
@pytest.mark.parametrize("command", [command for command in COMMANDS if command.startswith("python export_weights.py")])
def test_export_weights_command(command, run):
  out = run.parent / flags_of(command)["out"]
  assert start("export_weights.py", command, run.parent).strip() == out.name
  for exported, trained in zip(jax.tree.leaves(load_params(out)), jax.tree.leaves(load_params(run)), strict=True):
    np.testing.assert_allclose(exported, trained, rtol=1e-3, atol=1e-6)


@pytest.mark.parametrize("command", LONG_COMMANDS)
def test_recipes_are_planned(command, desk):
  plan = start("train.py", command, desk, "--dry_run")
  assert f"{flags_of(command)['workdir']}: begins anew" in plan
  assert not (desk / flags_of(command)["workdir"]).exists()


def test_install_commands_name_existing_extras(monkeypatch):
  """The commands themselves are run by `.ci/run` and by hand, in a new virtual environment."""
  recorded = {}
  monkeypatch.setattr("setuptools.setup", lambda **keywords: recorded.update(keywords))
  monkeypatch.chdir(ROOT)
  runpy.run_path("setup.py")
  shown = set(
    re.findall(r"\[(\w+)\]", "\n".join(command for command in COMMANDS + LONG_COMMANDS if command.startswith("pip")))
  )
  assert shown
  assert shown <= set(recorded["extras_require"])


@pytest.mark.parametrize("block", code_blocks("python"))
def test_python_block(block, desk, monkeypatch, capsys):
  monkeypatch.chdir(desk)
  names = {}
  exec(compile(block, "README.md", "exec"), names)
  assert names["relit"].shape[-1] == 3
  assert np.isfinite(np.asarray(names["relit"], np.float32)).all()
  capsys.readouterr()


def test_it_is_read_in_five_minutes():
  assert len(README.split()) < 1_000


def test_linked_files_exist():
  for target in re.findall(r"\]\((?!https?:)([^)#]+)\)", README):
    assert Path(ROOT / target).exists(), target
