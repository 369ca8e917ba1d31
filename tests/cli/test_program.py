"""`dpr-jax COMMAND`: one program for all commands, which does what the scripts of a checkout do."""

import ast
import os
import runpy

import pytest

from dpr_jax.base import command_line
from dpr_jax.base.command_line import EXTRAS, _with_recipe
from dpr_jax.cli.program import COMMANDS
from dpr_jax.image.photo import Photo
from dpr_jax.image.photo_writing import write_photo
from dpr_jax.image.pictures import astronaut
from tests.cli.test_entry_points import fakes, files, start  # noqa: F401 (fixtures)
from tests.conftest import ROOT

SCRIPTS = {
  "relight": "relight.py",
  "export": "export_dataset.py",
  "convert-head": "convert_head.py",
  "train": "train.py",
  "evaluate": "evaluate.py",
  "app": "app.py",
  "export-model": "export_model.py",
  "weights": "export_weights.py",
}
HEAVY = ("cv2", "jax", "mediapipe", "numba", "av")
RECIPES = ROOT / "dpr_jax" / "configs"


def program(start, *arguments, **environment):  # noqa: F811
  path = os.pathsep.join(filter(None, [environment.get("PYTHONPATH", ""), str(ROOT)]))
  return start("-m", "dpr_jax", *arguments, **environment | {"PYTHONPATH": path, "PYTHONDONTWRITEBYTECODE": "1"})


def test_it_lists_its_commands(start, fakes):  # noqa: F811
  assert set(SCRIPTS) == set(COMMANDS)
  absent = fakes(*HEAVY)
  for arguments in ([], ["--help"]):
    ended = program(start, *arguments, **absent)
    assert (ended.returncode, ended.stderr) == (0, "")
    assert all(f"\n  {name} " in ended.stdout for name in COMMANDS)


def test_a_command_that_is_none_is_one_line(start):  # noqa: F811
  ended = program(start, "relit", "--image=x")
  assert (ended.returncode, ended.stdout) == (2, "")
  assert ended.stderr == f"dpr-jax: unknown command 'relit'; known are {', '.join(COMMANDS)}\n"


@pytest.mark.parametrize("name", ["relight", "export", "convert-head", "app", "export-model", "weights"])
def test_a_command_shows_its_own_flags_and_the_script_the_same(start, fakes, name):  # noqa: F811
  absent = fakes(*HEAVY)
  ended, script = program(start, name, "--help", **absent), start(ROOT / SCRIPTS[name], "--help", **absent)
  assert (ended.returncode, ended.stderr) == (script.returncode, script.stderr) == (1, "")  # absl's own exit code
  assert f"dpr-jax {name}" in ended.stdout
  flags = [line for line in ended.stdout.splitlines() if line.startswith("  --")]
  assert len(flags) >= 3
  assert flags == [line for line in script.stdout.splitlines() if line.startswith("  --")]


def test_what_goes_wrong_is_said_in_the_program_s_name(start, fakes):  # noqa: F811
  ended = program(start, "relight", "--image=x", **fakes(*HEAVY))
  assert (ended.returncode, ended.stdout) == (2, "")
  assert (
    ended.stderr == "dpr-jax relight: --image (or --video) and --out are needed, or --demo; --help lists all flags\n"
  )


def test_the_weights_are_listed_without_loading_any(start, fakes):  # noqa: F811
  ended = program(start, "weights", **fakes("cv2", "jax", "mediapipe"))
  assert (ended.returncode, ended.stderr) == (0, "")
  assert "official-1024\n  network " in ended.stdout


@pytest.mark.parametrize("script", SCRIPTS.values())
def test_scripts_are_a_few_lines(script):
  tree = ast.parse((ROOT / script).read_text(encoding="utf-8"))
  assert sum(isinstance(node, ast.stmt) for node in ast.walk(tree)) <= 6


def test_relighting_a_photo_imports_nothing_that_only_other_commands_need(start, fakes):  # noqa: F811
  """The wheel, in an environment without these packages, relights one in test_wheel.py."""
  absent = fakes(*EXTRAS, "optax")
  path = os.pathsep.join([absent["PYTHONPATH"], str(ROOT)])
  ended = start(
    "-c",
    "from dpr_jax.cli import relight_command; from dpr_jax.portrait import embedded_faces",
    **absent | {"PYTHONPATH": path},
  )
  assert (ended.returncode, ended.stderr) == (0, "")


def test_a_package_that_is_not_installed_is_named_with_its_extra(start, tmp_path):  # noqa: F811
  (tmp_path / "sitecustomize.py").write_text("import sys\nsys.modules['av'] = None\n")
  write_photo(tmp_path / "photo.png", Photo(astronaut()))
  ended = program(
    start, "relight", f"--video={tmp_path / 'photo.png'}", "--light=left", "--out=o.mp4", PYTHONPATH=str(tmp_path)
  )
  assert ended.returncode == 2
  assert ended.stderr == 'dpr-jax relight: this needs the package av, of an extra: pip install "dpr_jax[film]"\n'


def test_all_packages_that_are_not_installed_are_named_at_once(start, tmp_path):  # noqa: F811
  absent = ["grain", "google_crc32c", "numba"]
  (tmp_path / "sitecustomize.py").write_text(f"import sys\nsys.modules.update(dict.fromkeys({absent}))\n")
  arguments = ["--config=portraits_256:smoke", f"--workdir={tmp_path / 'run'}"]
  ended = program(start, "train", *arguments, PYTHONPATH=str(tmp_path))
  assert ended.returncode == 2
  assert ended.stderr == (
    'dpr-jax train: this needs the packages google_crc32c, grain, numba, of an extra: pip install "dpr_jax[train]"\n'
  )
  assert not (tmp_path / "run").exists()


def test_an_extra_brings_what_its_commands_need(monkeypatch):
  recorded = {}
  monkeypatch.setattr("setuptools.setup", lambda **keywords: recorded.update(keywords))
  monkeypatch.chdir(ROOT)
  runpy.run_path("setup.py")
  for extra, others in command_line._INCLUDED.items():
    for other in others:
      assert set(recorded["extras_require"][other]) <= set(recorded["extras_require"][extra])


def test_every_package_of_an_extra_can_be_had(monkeypatch):
  recorded = {}
  monkeypatch.setattr("setuptools.setup", lambda **keywords: recorded.update(keywords))
  monkeypatch.chdir(ROOT)
  runpy.run_path("setup.py")
  extras = recorded["extras_require"]
  assert set(EXTRAS.values()) <= set(extras)
  assert set(extras["all"]) <= set(extras["test"])


@pytest.mark.parametrize(
  ("word", "meant"),
  [
    ("--config=dpr", f"--config={RECIPES / 'dpr.py'}"),
    ("--config=dpr_1024:smoke", f"--config={RECIPES / 'dpr_1024.py'}:smoke"),
    ("--config=configs/portraits_256.py:smoke", f"--config={RECIPES / 'portraits_256.py'}:smoke"),
    ("--config=mine/dpr.py", "--config=mine/dpr.py"),
    ("--config=nowhere", "--config=nowhere"),
    ("--config.network.init=dpr", "--config.network.init=dpr"),
  ],
)
def test_recipes_have_names(word, meant, tmp_path, monkeypatch):
  monkeypatch.chdir(tmp_path)
  assert _with_recipe(word) == meant


def test_a_file_of_the_user_s_goes_before_a_recipe(tmp_path, monkeypatch):
  monkeypatch.chdir(tmp_path)
  (tmp_path / "configs").mkdir()
  (tmp_path / "configs" / "dpr.py").touch()
  assert _with_recipe("--config=configs/dpr.py:smoke") == "--config=configs/dpr.py:smoke"
