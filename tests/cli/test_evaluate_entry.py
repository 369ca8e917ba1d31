"""`evaluate.py` as a user starts it; what it finds is checked in test_evaluation."""

import json
import os
import subprocess
import sys

import pytest

from dpr_jax.train.evaluation import Evaluator
from tests.cli.test_entry_points import fakes, start  # noqa: F401 (fixtures)
from tests.conftest import ROOT
from tests.network.test_checkpoints import save_step, tiny_variables
from tests.train.test_evaluation import lamp, make_record, write


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
  faces = [make_record(seed, [lamp(60 * k + 20 * seed) for k in range(2)]) for seed in range(3)]
  return write(tmp_path_factory.mktemp("entry") / "dataset", faces)


def evaluate(*arguments, cwd):
  return subprocess.run(
    [sys.executable, str(ROOT / "evaluate.py"), *arguments],
    cwd=cwd,
    env=os.environ | {"JAX_PLATFORMS": "cpu"},
    capture_output=True,
    text=True,
    timeout=600,
  )


def test_a_training_run_beside_its_earlier_checkpoint(folder, tmp_path):
  earlier, variables = tiny_variables(1), tiny_variables()
  save_step(tmp_path / "run", 9, earlier)
  save_step(tmp_path / "run", 20, variables)
  weights = ["--weights=run,identity", "--weights=run/checkpoints/9"]
  ended = evaluate(*weights, f"--data={folder}", "--out=out", cwd=tmp_path)
  assert ended.returncode == 0, ended.stderr
  title, overall, *_ = ended.stdout.split("\n\n")
  assert title == "3 faces of test, 6 pairs of 32 x 32 pixels; sources: the photos; compared: face"
  assert [line.split()[0] for line in overall.splitlines()[1:]] == ["identity", "run", "run/checkpoints/9"]
  assert sorted(path.name for path in (tmp_path / "out").iterdir()) == ["evaluation.json", "evaluation.png"]
  report = json.loads((tmp_path / "out" / "evaluation.json").read_text())
  for name, tree in (("run", variables), ("run/checkpoints/9", earlier)):
    found = Evaluator(folder, "test").run(tree)
    assert report["weights"][name]["light_error"] == pytest.approx(found["light_error"], rel=1e-5)
  assert len({report["weights"][name]["light_error"] for name in ("run", "run/checkpoints/9")}) == 2
  assert report["weights"]["identity"]["si_mse"] == pytest.approx(found["identity_si_mse"], rel=1e-5)
  again = evaluate("--weights=identity", f"--data={folder}", "--out=out", cwd=tmp_path)
  assert (again.returncode, again.stdout) == (2, "")
  assert again.stderr == "evaluate.py: out/evaluation.json: exists already (--overwrite replaces it)\n"


@pytest.mark.parametrize(
  ("arguments", "message"),
  [
    ([], "--weights and --data are needed; --help lists all flags"),
    (["--weights=identity"], "--weights and --data are needed; --help lists all flags"),
    (["--weights=,", "--data=d"], "--weights and --data are needed; --help lists all flags"),
    (["--weights=identity", "--data=d", "--size=big"], "flag --size=big: invalid literal"),
    (["identity"], "unexpected argument 'identity'; flags begin with --"),
  ],
)
def test_flags_that_are_wrong_are_refused_at_once(start, fakes, arguments, message):  # noqa: F811
  """Before any heavy import."""
  ended = start(ROOT / "evaluate.py", *arguments, **fakes("cv2", "jax", "grain"))
  assert (ended.returncode, ended.stdout) == (2, "")
  assert ended.stderr.startswith(f"evaluate.py: {message}")
  assert ended.stderr.count("\n") == 1


def test_help_needs_no_heavy_import(start, fakes):  # noqa: F811
  ended = start(ROOT / "evaluate.py", "--help", **fakes("cv2", "jax", "grain"))
  assert (ended.returncode, ended.stderr) == (1, "")
  assert "python evaluate.py --weights=workdir --data=dataset --out=evaluation" in ended.stdout
  for flag in ("weights", "data", "split", "size", "limit", "out"):
    assert f"\n  --{flag}:" in ended.stdout


@pytest.mark.parametrize(
  ("arguments", "message"),
  [
    (["--weights=none.t7"], "weights 'none.t7': no such file or training run; known names are default, official-512"),
    (["--weights=."], ".: holds no complete checkpoint of train.py"),
    (["--weights=identity", "--split=train"], "{folder}: holds no dpr-train.tfrecord-*"),
  ],
)
def test_what_cannot_be_evaluated_is_one_line(folder, tmp_path, arguments, message):
  ended = evaluate(f"--data={folder}", "--out=out", *arguments, cwd=tmp_path)
  assert (ended.returncode, ended.stdout) == (2, "")
  assert ended.stderr.startswith("evaluate.py: " + message.format(folder=folder))
  assert ended.stderr.count("\n") == 1
  assert not list(tmp_path.iterdir())
