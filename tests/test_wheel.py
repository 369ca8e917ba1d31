"""The wheel, installed into an empty environment outside the repository, relights a photo."""

import os
import subprocess
import sys
import zipfile

import cv2
import numpy as np
import pytest
from conftest import ROOT


@pytest.mark.slow
def test_the_wheel_relights_the_astronaut(tmp_path):
  build = [sys.executable, "-m", "build", "--outdir", str(tmp_path / "dist"), str(ROOT)]
  subprocess.run(build, check=True, capture_output=True, text=True)
  (wheel,) = (tmp_path / "dist").glob("*.whl")
  (sdist,) = (tmp_path / "dist").glob("*.tar.gz")
  names = zipfile.ZipFile(wheel).namelist()
  assert {name.partition("/")[0] for name in names if ".dist-info" not in name} == {"dpr_jax", "data_gen"}
  assert {"dpr_jax/weights/default.npz", "dpr_jax/configs/dpr.py", "dpr_jax/py.typed"} <= set(names)
  assert sdist.stat().st_size > 1e6
  subprocess.run([sys.executable, "-m", "venv", str(tmp_path / "environment")], check=True)
  programs = tmp_path / "environment" / "bin"
  subprocess.run([str(programs / "pip"), "install", "--quiet", str(wheel)], check=True)
  environment = {name: value for name, value in os.environ.items() if name not in ("PYTHONPATH", "DPR_ASSETS")}
  (tmp_path / "cwd").mkdir()

  def run(*words):
    done = subprocess.run(
      [str(programs / "dpr-jax"), *words], cwd=tmp_path / "cwd", env=environment, capture_output=True, text=True
    )
    assert done.returncode == 0, done.stderr
    return done.stdout

  run("relight", "--demo", "--out=demo")
  relit = cv2.imread(str(tmp_path / "cwd" / "demo" / "astronaut_relit.png"))
  assert relit.shape == (300, 300, 3)
  assert np.ptp(relit) > 100
  assert "Apache-2.0" in run("weights")
