"""The wheel, installed into an empty environment outside the repository, relights a photo."""

import os
import shutil
import subprocess
import sys
import zipfile

import cv2
import numpy as np
import pytest

from tests.conftest import ROOT


@pytest.fixture
def elsewhere(tmp_path):
  """A folder that is deleted at once: an environment is a gigabyte."""
  yield tmp_path
  shutil.rmtree(tmp_path)


@pytest.mark.slow
def test_the_wheel_relights_the_astronaut(elsewhere):
  # An egg-info on the path would have pip believe that the package is installed.
  environment = {name: value for name, value in os.environ.items() if name not in ("PYTHONPATH", "DPR_ASSETS")}

  def run(*words):
    done = subprocess.run(
      [str(word) for word in words], cwd=elsewhere, env=environment, capture_output=True, text=True, check=False
    )
    assert done.returncode == 0, done.stderr
    return done.stdout

  run(sys.executable, "-m", "build", "--outdir", "dist", ROOT)
  (wheel,) = (elsewhere / "dist").glob("*.whl")
  (sdist,) = (elsewhere / "dist").glob("*.tar.gz")
  names = zipfile.ZipFile(wheel).namelist()
  assert {name.partition("/")[0] for name in names if ".dist-info" not in name} == {"dpr_jax", "data_gen"}
  assert {"dpr_jax/weights/default.npz", "dpr_jax/configs/dpr.py", "dpr_jax/py.typed"} <= set(names)
  assert sdist.stat().st_size > 1e6
  run(sys.executable, "-m", "venv", "environment")
  programs = elsewhere / "environment" / ("Scripts" if os.name == "nt" else "bin")
  run(programs / "python", "-m", "pip", "install", "--quiet", wheel)
  run(programs / "dpr-jax", "relight", "--demo", "--out=demo")
  relit = cv2.imread(str(elsewhere / "demo" / "astronaut_relit.png"))
  assert relit.shape == (300, 300, 3)
  assert np.ptp(relit) > 100
  assert "Apache-2.0" in run(programs / "dpr-jax", "weights")
