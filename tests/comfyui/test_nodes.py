"""ComfyUI's nodes, called as ComfyUI calls them: by the names that a folder's `__init__.py` gives."""

import importlib.util
import sys
import types

import numpy as np
import pytest
from PIL import Image
from skimage import data

from dpr_jax import Relighter, parse_light
from dpr_jax.base.errors import BadInput
from dpr_jax.image.color import lamp_colour
from dpr_jax.light.light import tint_lamps
from dpr_jax.network.registry import WEIGHTS
from tests.conftest import ROOT

ASTRONAUT = np.ascontiguousarray(data.astronaut()[:300, 70:370])
PICTURE = np.float32(ASTRONAUT) / 255


@pytest.fixture(scope="module")
def pack():
  """The folder as a module, as ComfyUI imports it: by its path."""
  folder = ROOT / "comfyui"
  name = "custom_nodes_dpr_jax"
  spec = importlib.util.spec_from_file_location(name, folder / "__init__.py", submodule_search_locations=[str(folder)])
  module = importlib.util.module_from_spec(spec)
  sys.modules[name] = module
  spec.loader.exec_module(module)
  yield module
  for each in [each for each in sys.modules if each.partition(".")[0] == name]:
    del sys.modules[each]


@pytest.fixture(scope="module")
def run(pack):
  """Runs a node with these inputs; all that it requires must be among them, and nothing that it does not know."""

  def call(name, **inputs):
    node = pack.NODE_CLASS_MAPPINGS[name]
    asked = node.INPUT_TYPES()
    assert set(asked["required"]) <= set(inputs) <= {*asked["required"], *asked.get("optional", ())}
    results = getattr(node(), node.FUNCTION)(**inputs)
    assert len(results) == len(node.RETURN_TYPES)
    return results

  return call


@pytest.fixture(scope="module")
def relighter(run):
  (relighter,) = run("DPRLoadRelighter", weights="default", face_finder="embedded")
  with relighter:
    yield relighter


def test_every_node_has_a_name_and_types(pack):
  assert set(pack.NODE_CLASS_MAPPINGS) == set(pack.NODE_DISPLAY_NAME_MAPPINGS)
  made = {kind for node in pack.NODE_CLASS_MAPPINGS.values() for kind in node.RETURN_TYPES}
  for node in pack.NODE_CLASS_MAPPINGS.values():
    assert callable(getattr(node, node.FUNCTION))
    for kind, *_ in node.INPUT_TYPES()["required"].values():
      assert isinstance(kind, list) or kind in {*made, "IMAGE", "STRING"}
  weights, _ = pack.NODE_CLASS_MAPPINGS["DPRLoadRelighter"].INPUT_TYPES()["required"]["weights"]
  assert weights == [*WEIGHTS]


def test_the_picture_is_that_of_the_package(run, relighter):
  (light,) = run("DPRPortraitLight", light="rembrandt")
  batch = np.stack([PICTURE, PICTURE[:, ::-1]])
  (relit,) = run("DPRRelightPortrait", image=batch, relighter=relighter, light=light, exposure=-0.5)
  relit = np.asarray(relit)
  assert (relit.shape, relit.dtype) == (batch.shape, np.float32)
  assert (relit.min() >= 0, relit.max() <= 1) == (True, True)
  with Relighter(face_finder="embedded") as other:
    expected = other.relight(ASTRONAUT, "rembrandt", exposure=-0.5)
  assert np.abs(255 * relit[0] - expected).max() <= 1
  assert np.abs(relit[0] - PICTURE).max() > 0.2
  assert np.abs(relit[1] - relit[0][:, ::-1]).mean() > 0.005  # the light stays where it is


class Tensor:
  """As much of PyTorch's as the nodes may ask for."""

  def __init__(self, values):
    self.values = values

  def __array__(self, dtype=None, copy=None):
    return np.asarray(self.values, dtype)


def test_tensors_go_in_and_come_out(run, relighter, monkeypatch):
  torch = types.ModuleType("torch")
  torch.Tensor, torch.from_numpy = Tensor, Tensor
  monkeypatch.setitem(sys.modules, "torch", torch)
  light = parse_light("left")
  (relit,) = run("DPRRelightPortrait", image=Tensor(PICTURE[None]), relighter=relighter, light=light, strength=0.0)
  assert isinstance(relit, Tensor)
  np.testing.assert_allclose(relit.values[0], PICTURE, atol=1 / 65535)


def test_a_lamp_takes_its_temperature(run):
  (plain,), (warm,) = run("DPRPortraitLight", light="left"), run("DPRPortraitLight", light="left", temperature=3000.0)
  expected = tint_lamps(parse_light("left"), lamp_colour(3000))
  for part, wanted in zip(warm, expected, strict=True):
    np.testing.assert_array_equal(part, wanted)
  assert (plain.channels, warm.channels) == (1, 3)


@pytest.mark.parametrize(
  ("inputs", "message"),
  [
    ({"light": "sideways"}, "sideways"),
    ({"light": "left", "temperature": 50.0}, "temperature 50"),
    ({"light": "left", "env_rotate": 90.0}, "environment maps"),
    ({"light": "left", "portrait": PICTURE[None]}, "connect a relighter"),
  ],
)
def test_lights_that_are_none_are_refused(run, inputs, message):
  with pytest.raises(BadInput, match=message):
    run("DPRPortraitLight", **inputs)


def test_the_light_of_another_portrait(run, relighter, tmp_path):
  (light,) = run("DPRPortraitLight", light="left", portrait=PICTURE[None], relighter=relighter)
  expected = relighter.source_light(np.rint(65535 * PICTURE).astype(np.uint16))
  for part, wanted in zip(light, expected, strict=True):
    np.testing.assert_array_equal(part, wanted)
  Image.fromarray(ASTRONAUT).save(tmp_path / "other.png")
  (of_file,) = run("DPRPortraitLight", light=str(tmp_path / "other.png"), relighter=relighter)
  np.testing.assert_allclose(of_file.soft, light.soft, atol=1e-3)
  with pytest.raises(BadInput, match="not of 2"):
    run("DPRPortraitLight", light="left", portrait=np.stack([PICTURE] * 2), relighter=relighter)
  with pytest.raises(BadInput, match=r"^picture 1: no face found$"):
    run("DPRPortraitLight", light="left", portrait=np.zeros_like(PICTURE)[None], relighter=relighter)


def test_a_picture_without_a_face_is_named(run, relighter):
  batch = np.stack([PICTURE, np.zeros_like(PICTURE)])
  with pytest.raises(BadInput, match=r"^picture 2: no face found$"):
    run("DPRRelightPortrait", image=batch, relighter=relighter, light=parse_light("left"))


def test_passes_need_a_shape(run, relighter):
  with pytest.raises(BadInput, match=r"^picture 1: passes need"):
    run("DPRRelightingPasses", image=PICTURE[None], relighter=relighter, light=parse_light("left"))


def test_passes_are_those_of_the_package(run, shared):
  shared("models/face_landmarker.task")
  shared("models/selfie_segmentation.tflite")
  pytest.importorskip("mediapipe", reason="MediaPipe (extra `mediapipe`) is not installed")
  (relighter,) = run("DPRLoadRelighter", weights="default", face_finder="mediapipe")
  with relighter:
    light = parse_light("left")
    found = run("DPRRelightingPasses", image=PICTURE[None], relighter=relighter, light=light)
    expected = relighter.encode(np.rint(65535 * PICTURE).astype(np.uint16)).passes(light)
  for values, (name, wanted) in zip(map(np.asarray, found), expected.items(), strict=True):
    assert values.shape == (1, *ASTRONAUT.shape[: 2 if name == "matte" else 3])
    assert (values.min() >= 0, values.max() <= 1) == (True, True)
    np.testing.assert_allclose(values[0] if values[0].ndim == wanted.ndim else values[0, ..., 0], wanted, atol=1e-6)
