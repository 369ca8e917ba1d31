"""Networks as files: both halves give JAX's pictures, for any number of photos, and say whose they are."""

import dataclasses
import json

import jax
import numpy as np
import pytest
from jax import export

from dpr_jax.base.errors import BadInput
from dpr_jax.network.hourglass import HourglassNet
from dpr_jax.network.registry import WEIGHTS
from dpr_jax.network.weights import load_params, save_params
from dpr_jax.portable import model_files
from dpr_jax.portable.model_files import TOLERANCE, example_inputs, export_model, network_parts

SIDE = 64

pytestmark = pytest.mark.usefixtures("quick_compilation")


@pytest.fixture(scope="module")
def weights(tmp_path_factory):
  """Weights of both kinds of network by name: the package's own, and a published network with few channels."""
  file = tmp_path_factory.mktemp("weights") / "small.npz"
  network = HourglassNet(base_filters=4, light_channels=5)
  light, photo = np.zeros((1, 9), np.float32), np.zeros((1, SIDE, SIDE, 1), np.float32)
  shapes = jax.eval_shape(network.init, jax.random.key(0), photo, light)
  generator = np.random.default_rng(0)

  def drawn(leaf):
    if leaf.ndim < 2:
      return generator.uniform(0.5, 1.5, leaf.shape).astype(np.float32)
    return generator.normal(0, np.sqrt(2 / np.prod(leaf.shape[:-1])), leaf.shape).astype(np.float32)

  save_params(file, jax.tree.map(drawn, shapes))
  return {"ours": "default", "published": str(file)}


@pytest.mark.parametrize("kind", ["published", "ours"])
def test_onnx_files_give_the_pictures_of_jax(kind, weights, tmp_path):
  pytest.importorskip("onnx", reason="onnx (extra `onnx`) is not installed")
  onnxruntime = pytest.importorskip("onnxruntime", reason="onnxruntime (extra `onnx`) is not installed")
  written = export_model(weights[kind], tmp_path, size=SIDE)
  assert list(written) == [tmp_path / "encode.onnx", tmp_path / "decode.onnx"]
  assert all(difference <= TOLERANCE for difference in written.values())
  sessions = {
    file.stem: onnxruntime.InferenceSession(file.read_bytes(), providers=["CPUExecutionProvider"]) for file in written
  }

  def relit(photos):
    """As another program does it: from the photo through both files."""
    for name in ("encode", "decode"):
      inputs = {each.name: photos[each.name] for each in sessions[name].get_inputs()}
      outputs = [each.name for each in sessions[name].get_outputs()]
      photos = photos | dict(zip(outputs, sessions[name].run(outputs, inputs), strict=True))
    return photos["relit"]

  # A photo gives the same whatever it is in a batch with.
  parts = network_parts(load_params(weights[kind]), SIDE, export.symbolic_shape("batch")[0])
  inputs = parts["decode"].inputs | parts["encode"].inputs
  photos = {name: array for name, array in example_inputs(inputs, batch=3).items() if name[:6] in ("lumina", "target")}
  together = relit(photos)
  assert together.shape == (3, SIDE, SIDE, 1)
  assert np.abs(together[1] - together[0]).max() > 0.01
  for k in range(3):
    alone = relit({name: array[k : k + 1] for name, array in photos.items()})
    np.testing.assert_allclose(together[k : k + 1], alone, atol=1e-4)
  about = sessions["decode"].get_modelmeta().custom_metadata_map
  assert (about["part"], about["size"]) == ("decode", str(SIDE))
  assert "1, y, z, x, xy" in about["spherical_harmonics"]
  if kind == "ours":
    own = WEIGHTS["default"]
    assert (about["licence"], about["weights_sha256"], about["network"]) == (own.licence, own.sha256, own.network)


def test_a_file_that_would_differ_from_jax_is_not_written(weights, tmp_path, monkeypatch):
  pytest.importorskip("onnx", reason="onnx (extra `onnx`) is not installed")
  pytest.importorskip("onnxruntime", reason="onnxruntime (extra `onnx`) is not installed")
  monkeypatch.setattr(model_files, "TOLERANCE", 1e-12)
  with pytest.raises(BadInput, match=r"encode\.onnx: not written, as it would differ from JAX by"):
    export_model(weights["published"], tmp_path / "out", size=SIDE)
  assert not (tmp_path / "out").exists()


def test_stablehlo_modules_give_the_numbers_of_jax(weights, tmp_path):
  written = export_model(weights["published"], tmp_path, file_format="stablehlo", size=SIDE)
  notes = json.loads((tmp_path / "model.json").read_text())
  [batch] = export.symbolic_shape("batch")
  params = load_params(weights["published"])
  open_parts, parts = (network_parts(params, SIDE, size) for size in (batch, 2))
  for file in written:
    part = open_parts[file.stem]
    assert file.stat().st_size > 10_000
    assert list(notes[file.stem]["inputs"]) == sorted(part.inputs)
    if file.stem == "encode":
      continue
    exported = export.export(jax.jit(part.function))(dict(part.inputs))
    stored = dataclasses.replace(exported, mlir_module_serialized=file.read_bytes())
    values = example_inputs(part.inputs, batch=2)
    for name, array in jax.jit(parts[file.stem].function)(values).items():
      np.testing.assert_allclose(stored.call(values)[name], array, atol=1e-6)
      assert notes[file.stem]["outputs"][name][1:] == list(array.shape[1:])


@pytest.mark.parametrize(
  ("options", "said"),
  [
    ({"size": 250}, "--size 250: must be a multiple of 64 from 64 to 2048"),
    ({"size": 4096}, "--size 4096"),
    ({"lamps": 5}, "--lamps 5: must lie in 0 to 4"),
    ({"file_format": "tflite"}, "--format tflite: must be one of onnx, stablehlo"),
  ],
)
def test_what_cannot_be_is_said(options, said, tmp_path):
  with pytest.raises(BadInput, match=said):
    export_model("default", tmp_path, **options)


def test_files_that_exist_stay(tmp_path):
  (tmp_path / "decode.onnx").write_text("mine")
  with pytest.raises(BadInput, match=r"decode\.onnx: exists already"):
    export_model("default", tmp_path)
  assert [(path.name, path.read_text()) for path in tmp_path.iterdir()] == [("decode.onnx", "mine")]
