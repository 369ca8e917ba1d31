"""Every benchmark can be imported: what it takes from the packages is still where it looks for it."""

import runpy
from pathlib import Path

import pytest
from absl import flags

FILES = sorted(Path(__file__).resolve().parents[2].glob("benchmarks/*.py"))
PROGRAMS = [path for path in FILES if path.stem != "true_light"]  # a part of heads.py


@pytest.fixture
def own_flags():
  """Takes away the flags that the test defines: benchmarks share names."""
  before = set(flags.FLAGS)
  yield
  for name in set(flags.FLAGS) - before:
    delattr(flags.FLAGS, name)


@pytest.mark.parametrize("path", PROGRAMS, ids=lambda path: path.stem)
def test_a_benchmark_can_be_imported(path, own_flags, monkeypatch):
  monkeypatch.syspath_prepend(str(path.parent))
  if path.stem == "pytorch_step":
    pytest.importorskip("torch", reason="PyTorch is in none of the extras")
  assert callable(runpy.run_path(str(path), run_name=path.stem)["main"])
