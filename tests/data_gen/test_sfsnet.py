"""SfSNet against the public port's numbers, its two kinds of weight files honest and damaged, its light in ours."""

import pickle

import jax
import numpy as np
import pytest

from data_gen import sfsnet
from data_gen.sfsnet import SfSNet, face_window, load_variables, read_caffe_pickle, sfsnet_light, sfsnet_variables
from dpr_jax.base.errors import BadInput
from dpr_jax.light import sh
from dpr_jax.network.pytorch_weights import read_state_dict

WEIGHTS = "reference/sfsnet/random_weights.pth"


@pytest.fixture(scope="module")
def state_dict(shared):
  return read_state_dict(shared(WEIGHTS))


@pytest.fixture(scope="module")
def expected(shared):
  with np.load(shared("reference/sfsnet/expected.npz")) as arrays:
    return dict(arrays)


def channels_last(array):
  return array.transpose(0, 2, 3, 1)


def test_outputs_are_those_of_the_port(shared, expected):
  variables = load_variables(shared(WEIGHTS))
  outputs = jax.jit(SfSNet().apply)(variables, channels_last(expected["image_bgr01"]))
  references = [channels_last(expected["normal"]), channels_last(expected["albedo"]), expected["light"]]
  for output, reference in zip(outputs, references, strict=True):
    assert output.shape == reference.shape
    difference = np.abs(output - reference).max() / np.ptp(reference)
    print(f"{difference:.1e} of the range")
    assert difference <= 1e-4


def test_light_of_a_photo(shared, expected):
  """The picture goes in blue first, and comes from uint8; nine numbers of red come first."""
  pixels = np.round(channels_last(expected["image_bgr01"])[0, ..., ::-1] * 255).astype(np.uint8)
  light = sfsnet_light(load_variables(shared(WEIGHTS)), pixels)
  red, green, blue = expected["light"].reshape(3, 9)
  gray = 0.299 * red + 0.587 * green + 0.114 * blue
  assert light.dtype == np.float32
  np.testing.assert_allclose(light, sh.convert(gray, "sfsnet"), atol=1e-5)


@pytest.mark.parametrize(
  ("coefficient", "normal", "shading"),
  [
    (0, (0, -1, 0), 0.8862),  # Basri & Jacobs 2003: pi / sqrt(4 pi), 2pi/3 sqrt(3 / 4 pi) and pi/4 sqrt(5 / 4 pi)
    (1, (0, -1, 0), 1.0233),  # z, towards the viewer
    (2, (0, 0, -1), 1.0233),  # x, down
    (3, (1, 0, 0), 1.0233),  # y, right
    (4, (0, -1, 0), 0.4954),
  ],
)
def test_harmonics_have_the_scale_of_ours(monkeypatch, coefficient, normal, shading):
  lights = np.tile(np.eye(9)[coefficient], 3)[None]
  monkeypatch.setattr(sfsnet, "_light", lambda variables, image: lights)
  light = sfsnet_light(None, np.zeros((128, 128, 3), np.uint8))
  np.testing.assert_allclose(sh.shading(np.array(normal, float), light), shading, atol=1e-4)


# ---------------------------------------------------------------------------------------------------------------------
# Weight files.


def caffe_layers(state_dict):
  """The port's pickle: layers under Caffe's names, batch norm without scale and bias."""
  layers = {}
  for name, tensor in state_dict.items():
    layer, kind = name.rsplit(".", 1)
    if "_res" in layer:
      branch, unit = layer.split("_res")
      number, unit = unit.split(".")
      layer = f"{branch}{unit.removesuffix('r')}{number}{'r' * unit.endswith('r')}"
    if "bn" not in layer or kind in ("running_mean", "running_var"):
      layers.setdefault(layer, {})[kind] = tensor
  return layers


def without_affine(state_dict):
  """Scale 1 and bias 0 in every batch norm."""
  return {
    name: (np.ones_like if name.endswith("weight") else np.zeros_like)(tensor)
    if name.rsplit(".", 2)[-2].rstrip("r").rstrip("0123456789").endswith("bn") and name.endswith(("weight", "bias"))
    else tensor
    for name, tensor in state_dict.items()
  }


def test_caffe_pickle(tmp_path, state_dict):
  plain = without_affine({name: tensor for name, tensor in state_dict.items() if "num_batches" not in name})
  layers = caffe_layers(plain)
  assert set(layers["nbn1r"]) == {"running_mean", "running_var"}
  assert layers["aup6"]["weight"].shape == (128, 1, 4, 4)
  assert "n_res1" not in layers
  path = tmp_path / "weights.pkl"
  path.write_bytes(pickle.dumps(layers, 2))
  jax.tree.map(np.testing.assert_array_equal, load_variables(path), sfsnet_variables(plain, "it"))


def test_caffe_pickle_of_python_2(tmp_path):
  """NumPy's old module names, text for bytes and a big-endian array in Fortran order, opcode by opcode."""
  values = np.array([[1.5, -2, 3], [4, 5, 6]], ">f8")
  raw = values.tobytes(order="F")
  array = (
    b"cnumpy.core.multiarray\n_reconstruct\n(cnumpy\nndarray\n(K\x00tU\x01btR"
    b"(K\x01(K\x02K\x03tcnumpy\ndtype\n(U\x02f8K\x00K\x01tR(K\x03U\x01>NNNJ\xff\xff\xff\xffJ\xff\xff\xff\xffK\x00tb"
    b"\x88U" + bytes([len(raw)]) + raw + b"tb"
  )
  path = tmp_path / "weights.pkl"
  path.write_bytes(b"\x80\x02}U\x05conv1}U\x06weight" + array + b"ss.")
  (read,) = read_caffe_pickle(path).values()
  np.testing.assert_array_equal(read, values)


class Call:
  def __reduce__(self):
    return print, ("executed",)


@pytest.mark.parametrize(
  ("content", "message"),
  [
    (pickle.dumps({"conv1": {"weight": Call()}}, 2), "refuses to load global '__builtin__.print'"),
    (pickle.dumps({"conv1": {"weight": np.zeros((2, 2))}}, 2)[:-20], "not a complete pickle"),
    (b"", "not a complete pickle"),
    (pickle.dumps([1, 2], 2), "not a pickle of layers"),
    (pickle.dumps({"conv1": 3}, 2), "not a pickle of layers"),
    (pickle.dumps({"conv1": {"weight": 3}}, 2), "'conv1.weight' is not a whole array"),
    (pickle.dumps({"conv1": {"weight": np.zeros(3, complex)}}, 2), "'conv1.weight' is not a whole array"),
    (pickle.dumps({"conv1": {"weight": np.array([Call()])}}, 2), "refuses to load global"),
    (pickle.dumps({"conv1": {"weight": np.zeros(3)}}, 2).replace(b"K\x03\x85", b"K\x04\x85"), "not a whole array"),
    (pickle.dumps({"conv1": {"weight": np.zeros((64, 3, 7, 7))}}, 2), "is missing"),
  ],
)
def test_bad_pickles(tmp_path, capfd, content, message):
  path = tmp_path / "weights.pkl"
  path.write_bytes(content)
  with pytest.raises(BadInput, match=message) as error:
    load_variables(path)
  assert str(path) in str(error.value)
  assert "\n" not in str(error.value)
  assert not capfd.readouterr().out


def test_every_tensor_is_needed(state_dict):
  for name in state_dict:
    rest = {other: tensor for other, tensor in state_dict.items() if other != name}
    if name.endswith("num_batches_tracked"):
      sfsnet_variables(rest, "it")
      continue
    with pytest.raises(BadInput, match=f"^it: not weights of SfSNet: '{name}' is missing$"):
      sfsnet_variables(rest, "it")


@pytest.mark.parametrize(
  ("name", "change", "message"),
  [
    ("n_res6.conv.weight", lambda tensor: np.zeros(3), "'n_res6.conv.weight' is not part of it"),
    ("fc_light.weight", lambda tensor: tensor.T, r"'fc_light.weight' has shape \(128, 27\)"),
    ("nup6.weight", lambda tensor: tensor[..., :3], r"'nup6.weight' has shape \(128, 1, 4, 3\)"),
    ("lbn1.running_var", lambda tensor: tensor[0], r"'lbn1.running_var' has shape \(\)"),
    ("conv2.bias", lambda tensor: tensor * np.nan, "'conv2.bias' holds something else than finite"),
    ("conv2.bias", lambda tensor: tensor.astype(int), "'conv2.bias' holds something else than finite"),
  ],
)
def test_tensors_that_do_not_fit(state_dict, name, change, message):
  with pytest.raises(BadInput, match=message):
    sfsnet_variables(state_dict | {name: change(state_dict.get(name))}, "it")


def test_file_that_is_not_there(tmp_path):
  for name in ("weights.pth", "weights.pkl"):
    with pytest.raises(BadInput, match=f"{name}: cannot be read"):
      load_variables(tmp_path / name)


def test_the_asset_is_the_default(shared, state_dict, tmp_path, monkeypatch):
  (tmp_path / "SfSNet.pth").symlink_to(shared(WEIGHTS))
  monkeypatch.setenv("DPR_ASSETS", str(tmp_path))
  jax.tree.map(np.testing.assert_array_equal, load_variables(), sfsnet_variables(state_dict, "it"))


# ---------------------------------------------------------------------------------------------------------------------
# What it is shown.


@pytest.mark.parametrize(
  ("top", "left", "height", "width", "expected"),
  [
    (100, 120, 101, 51, (slice(80, 221), slice(75, 216))),  # 1.4 times the longer side, about the middle
    (0, 0, 101, 101, (slice(0, 141), slice(0, 141))),  # moved into the photo
    (199, 299, 101, 101, (slice(159, 300), slice(259, 400))),
    (0, 0, 300, 400, (slice(0, 300), slice(50, 350))),  # no larger than the photo
  ],
)
def test_face_window(top, left, height, width, expected):
  skin = np.zeros((300, 400), bool)
  skin[top : top + height, left : left + width] = True
  assert face_window(skin) == expected
