"""What strangers' machines do with the repository: workflows, hooks and the container name things that there are."""

import ast
import re
import runpy
import tomllib

import pytest
import yaml

import dpr_jax
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
  named = {hook["id"] for repository in hooks["repos"] for hook in repository["hooks"]}
  assert {"ruff-check", "ruff-format", "mypy"} <= named


def test_a_type_checker_knows_what_the_package_offers():
  """What is imported when it is asked for is named once more for type checkers, which look at all files that say it."""
  tree = ast.parse((ROOT / "dpr_jax/__init__.py").read_text(encoding="utf-8"))
  (block,) = (node for node in tree.body if isinstance(node, ast.If))
  known = {name.asname: f"{node.module}.{name.name}" for node in block.body for name in node.names}
  assert known == {name: f"dpr_jax.{module}.{name}" for name, module in dpr_jax._PUBLIC.items()}
  checked = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))["tool"]["mypy"]["files"]
  for place in checked:
    assert (ROOT / place).exists(), place
  for path in known.values():
    file = path.rpartition(".")[0].replace(".", "/") + ".py"
    assert any(file.startswith(place) for place in checked), file


def test_the_site_has_every_page_and_everything_that_is_offered():
  """Whether its links lead anywhere, and docstrings can be read, `mkdocs build --strict` says."""
  nav = re.findall(r"^ +- (?:.+: )?([\w/]+\.md)$", (ROOT / "mkdocs.yml").read_text(encoding="utf-8"), re.M)
  pages = {str(path.relative_to(ROOT / "docs")) for path in (ROOT / "docs").rglob("*.md")}
  assert pages == {page for page in nav if not page.startswith("project/")}
  shown = {
    name
    for path in (ROOT / "docs" / "reference").glob("*.md")
    for name in re.findall(r"^::: (.+)$", path.read_text(encoding="utf-8"), re.M)
  }
  assert {f"dpr_jax.{name}" for name in dpr_jax.__all__} <= shown
  for name in shown - {f"dpr_jax.{name}" for name in dpr_jax.__all__}:
    assert (ROOT / f"{name.replace('.', '/')}.py").exists(), name
