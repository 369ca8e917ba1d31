"""The notebook for Colab: it is run as a script, and all that it names exists."""

import ast
import importlib.util
import json
import os
import re
import shlex
import subprocess
import sys

import numpy as np
import pytest

from tests.conftest import ROOT

NOTEBOOK = json.loads((ROOT / "notebooks/relight.ipynb").read_text(encoding="utf-8"))
CELLS = ["".join(cell["source"]) for cell in NOTEBOOK["cells"] if cell["cell_type"] == "code"]
COMMANDS = [line[1:] for cell in CELLS for line in cell.splitlines() if line.startswith("!")]


def as_python(cell):
  """A cell without the lines that a notebook gives to the system: `%pip` does nothing, `!command` is run."""
  cell = re.sub(r"^( *)%pip .*$", r"\1pass", cell, flags=re.M)
  return re.sub(r"^!(.*)$", lambda match: f"run({match[1]!r})", cell, flags=re.M)


def test_it_is_a_notebook_without_outputs():
  assert (NOTEBOOK["nbformat"], NOTEBOOK["metadata"]["kernelspec"]["name"]) == (4, "python3")
  for cell in NOTEBOOK["cells"]:
    assert cell["cell_type"] in ("code", "markdown")
    assert cell.get("outputs", []) == []
    assert cell.get("execution_count") is None


def test_what_it_names_exists():
  relighters = set()
  for cell in CELLS:
    for node in ast.walk(ast.parse(as_python(cell))):
      if isinstance(node, ast.ImportFrom) and node.module.startswith("dpr_jax"):
        assert all(hasattr(importlib.import_module(node.module), name.name) for name in node.names)
      if isinstance(node, ast.Attribute) and isinstance(node.value, ast.Name) and node.value.id == "relighter":
        relighters.add(node.attr)
  from dpr_jax import Relighter

  assert relighters
  assert all(hasattr(Relighter, name) for name in relighters)
  assert COMMANDS
  for command in COMMANDS:
    program, name, *words = shlex.split(command)
    assert program == "dpr-jax"
    defined = (ROOT / f"dpr_jax/cli/{name}.py").read_text(encoding="utf-8")
    for word in words:
      assert re.search(rf'DEFINE_\w+\(\s*"{word.removeprefix("--").partition("=")[0]}"', defined), word


def test_nothing_is_installed_before_a_source_is_named(monkeypatch):
  monkeypatch.setattr(importlib.util, "find_spec", lambda name: None)
  cell = CELLS[0].replace("%pip install --quiet {SOURCE}", "installed.append(SOURCE)")
  for given in ("", "dpr_jax-1.0-py3-none-any.whl"):
    names = {"installed": []}
    assert cell.count('SOURCE = ""') == 1
    code = cell.replace('SOURCE = ""', f"SOURCE = {given!r}")
    if given:
      exec(code, names)
      assert names["installed"] == [given]
    else:
      with pytest.raises(SystemExit, match="Write into SOURCE"):
        exec(code, names)
      assert names["installed"] == []


@pytest.mark.slow
def test_it_runs(tmp_path, monkeypatch):
  monkeypatch.chdir(tmp_path)
  pictures = []

  def run(command):
    words = [sys.executable, "-m", "dpr_jax", *shlex.split(command)[1:]]
    subprocess.run(words, env=os.environ | {"PYTHONPATH": str(ROOT)}, check=True)

  names = {"run": run}
  for number, cell in enumerate(CELLS):
    tree = ast.parse(as_python(cell))
    if isinstance(tree.body[-1], ast.Expr):  # which a notebook shows
      tree.body[-1] = ast.fix_missing_locations(
        ast.Assign([ast.Name("shown", ast.Store())], tree.body[-1].value, lineno=0)
      )
      exec(compile(tree, f"cell {number}", "exec"), names)
      pictures.append(names["shown"])
    else:
      exec(compile(tree, f"cell {number}", "exec"), names)
  photo, left, several, lamp, _, relit = pictures
  assert left.size == lamp.size == relit.size == photo.size
  assert several.size == (5 * photo.size[0], photo.size[1])
  assert all(np.abs(np.asarray(one, float) - np.asarray(photo)).mean() > 1 for one in (left, lamp, relit))
