"""ONNX Runtime instead of JAX: the same pictures, from models that are converted once."""

import numpy as np
import pytest

from dpr_jax import Relighter
from dpr_jax.base.errors import BadInput
from dpr_jax.cli.relight_options import Options
from dpr_jax.image.pictures import astronaut
from dpr_jax.portable import jaxpr_to_onnx, onnx_engine

pytest.importorskip("onnx", reason="onnx (extra `onnx`) is not installed")
pytest.importorskip("onnxruntime", reason="onnxruntime (extra `onnx`) is not installed")
pytestmark = pytest.mark.usefixtures("quick_compilation")


def test_both_engines_give_the_same_picture(tmp_path, monkeypatch):
  monkeypatch.setattr(onnx_engine, "cache_folder", lambda: tmp_path)
  photo = astronaut()
  with Relighter(face_finder="embedded") as by_jax:
    faces = by_jax.finder.find(photo)
    expected = by_jax.relight(by_jax.encode(photo, faces=faces), "rembrandt")
  assert np.abs(expected.astype(int) - photo).max() > 50
  for kept in (False, True):
    if kept:  # another process converts nothing
      monkeypatch.delattr(jaxpr_to_onnx, "convert")
    with Relighter(face_finder="embedded", engine="onnx") as relighter:
      found = relighter.relight(relighter.encode(photo, faces=faces), "rembrandt")
    assert np.abs(found.astype(int) - expected).max() <= 1
  assert len(list((tmp_path / "onnx").iterdir())) == 2
  for model in (tmp_path / "onnx").iterdir():  # read, and not made by JAX
    model.write_bytes(b"damaged")
  with pytest.raises(ImportError), Relighter(face_finder="embedded", engine="onnx") as relighter:
    relighter.encode(photo, faces=faces)


def test_what_an_engine_cannot_do_is_said():
  with pytest.raises(BadInput, match="engine 'tpu': must be one of jax, onnx"):
    Relighter(engine="tpu")
  with pytest.raises(BadInput, match="takes no dtype"):
    Relighter(engine="onnx", dtype=np.float16)
  with pytest.raises(BadInput, match="--engine onnx: not with --no-align"):
    Options(engine="onnx", align=False)
