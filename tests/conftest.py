"""Where the reference data are, and a JAX that forgives nothing."""

import atexit
import collections
import os
import shutil
import sys
import tempfile
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest

# XLA's newer emitters of fused loops take about as long to compile as all else together, and tests compile for longer
# than they compute. What tests start inherits it. `XLA_FLAGS= python -m pytest` compiles as users do.
os.environ.setdefault("XLA_FLAGS", "--xla_cpu_use_fusion_emitters=false")

import jax

ROOT = Path(__file__).resolve().parent.parent
SHARED = Path(os.environ.get("DPR_SHARED", ROOT.parent / "shared")).resolve()

# Weights and models as a user would supply them by hand; tests never download.
_FOLDERS = ("reference/dpr", "reference/tddfa", "models")
os.environ.setdefault("DPR_ASSETS", os.pathsep.join(str(SHARED / folder) for folder in _FOLDERS))

# The user's own cache is left alone; the entry scripts that tests start share one. It says that MediaPipe's model could
# not be fetched, so that nobody tries: where the reference data have none, tests run with the embedded face finder.
os.environ["DPR_CACHE"] = tempfile.mkdtemp(prefix="dpr_jax_cache_")
Path(os.environ["DPR_CACHE"], "face_landmarker.task.not-fetched").write_text("face_landmarker.task is not fetched here")
atexit.register(shutil.rmtree, os.environ["DPR_CACHE"], ignore_errors=True)

jax.config.update("jax_numpy_rank_promotion", "raise")


@pytest.fixture(autouse=True)
def nothing_traced_is_kept():
  """What a command keeps of traced functions lasts no longer than the test that ran it in this process."""
  yield
  if traced := sys.modules.get("dpr_jax.network.traced"):
    traced.keep_in(None)


@pytest.fixture(scope="session")
def shared() -> Callable[[str], Path]:
  """The path of a file or folder of the reference data; skips, naming it, where it is absent."""

  def find(relative: str) -> Path:
    path = SHARED / relative
    if not path.exists():
      pytest.skip(f"reference data missing (DPR_SHARED): {relative}")
    return path

  return find


@pytest.fixture(scope="module")
def quick_compilation():
  """For modules that compile for longer than they compute, and what they start."""
  jax.config.update("jax_disable_most_optimizations", True)
  os.environ["JAX_DISABLE_MOST_OPTIMIZATIONS"] = "1"
  yield
  jax.config.update("jax_disable_most_optimizations", False)
  del os.environ["JAX_DISABLE_MOST_OPTIMIZATIONS"]


@pytest.fixture(scope="module")
def finder(shared):
  """MediaPipe's face finder, open."""
  from dpr_jax.base.native_libraries import is_installed
  from dpr_jax.portrait.mediapipe_faces import MediaPipeFaceFinder

  shared("models/face_landmarker.task")
  if not is_installed("mediapipe"):
    pytest.skip("MediaPipe (extra `mediapipe`) is not installed")
  with MediaPipeFaceFinder() as finder:
    yield finder


@pytest.fixture(scope="module")
def embedded_finder():
  """The embedded face finder, open; it needs nothing."""
  from dpr_jax.portrait.embedded_faces import EmbeddedFaceFinder

  with EmbeddedFaceFinder() as finder:
    yield finder


@pytest.fixture(scope="session")
def group_photo(tmp_path_factory) -> Path:
  """Two people side by side, who are scikit-image's astronaut and her mirror image: `two_faces.png`, 300 x 600."""
  from dpr_jax.image.photo import Photo
  from dpr_jax.image.photo_writing import write_photo
  from dpr_jax.image.pictures import astronaut

  path = tmp_path_factory.mktemp("group") / "two_faces.png"
  write_photo(path, Photo(np.hstack([astronaut(), astronaut()[:, ::-1]])))
  return path


@pytest.fixture(scope="module")
def obama(shared):
  """The authors' demo photo, `[909, 727, 3]` uint8 RGB."""
  from dpr_jax.image.photo import read_photo

  return read_photo(shared("reference/dpr/obama.jpg")).pixels


def pytest_terminal_summary(terminalreporter):
  """What was left out, and for want of what."""
  reports = terminalreporter.stats.get("skipped", [])
  wants = collections.Counter(report.longrepr[2].removeprefix("Skipped: ") for report in reports)
  if wants:
    terminalreporter.section(f"skipped: {len(reports)}")
    for want, count in sorted(wants.items()):
      terminalreporter.line(f"{count:5d}  {want}")
