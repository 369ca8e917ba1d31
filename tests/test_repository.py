"""What strangers' machines do with the repository: workflows, hooks and the container name things that there are."""

import re
import runpy

import pytest
import yaml

from dpr_jax.cli.program import COMMANDS
from tests.conftest import ROOT

DOCKERFILE = (ROOT / "Dockerfile").read_text(encoding="utf-8")


@pytest.fixture
def package(monkeypatch):
  """What `setup.py` says of the package."""
  recorded = {}
  monkeypatch.setattr("setuptools.setup", lambda **keywords: recorded.update(keywords))
  monkeypatch.chdir(ROOT)
  runpy.run_path("setup.py")
  return recorded


def test_the_container_is_made_of_what_is_there(package):
  copied = [line.split()[1:-1] for line in DOCKERFILE.splitlines() if line.startswith("COPY ")]
  assert all((ROOT / name).exists() for names in copied for name in names)
  passed = (ROOT / ".dockerignore").read_text(encoding="utf-8").splitlines()
  assert {f"!{name}" for names in copied for name in names} == {line for line in passed if line.startswith("!")}
  for extras in re.findall(r"EXTRAS=([\w,]+)", DOCKERFILE):
    assert set(extras.split(",")) <= set(package["extras_require"])
  assert re.search(r'CMD \["(\w+)"', DOCKERFILE)[1] in COMMANDS


def test_workflows_run_the_readme_s_commands(package):
  workflow = yaml.safe_load((ROOT / ".github/workflows/tests.yml").read_text(encoding="utf-8"))
  runs = [step["run"] for job in workflow["jobs"].values() for step in job["steps"] if "run" in step]
  (tests,) = re.findall(r"^pip install .* && python -m pytest$", (ROOT / "README.md").read_text(encoding="utf-8"), re.M)
  assert set(tests.split(" && ")) <= set(runs)
  for command in re.findall(r"dpr-jax (\w+)", "\n".join(runs)):
    assert command in COMMANDS
  assert "dpr-jax = dpr_jax.cli.program:main" in package["entry_points"]["console_scripts"]


def test_hooks_are_those_of_the_workflow():
  hooks = yaml.safe_load((ROOT / ".pre-commit-config.yaml").read_text(encoding="utf-8"))
  assert {"ruff-check", "ruff-format"} <= {hook["id"] for repository in hooks["repos"] for hook in repository["hooks"]}
