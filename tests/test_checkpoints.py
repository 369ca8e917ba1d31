"""What load_params accepts, and how it refuses the rest."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from test_pytorch_weights import official_state_dict, save

from dpr_jax import assets
from dpr_jax.checkpoints import OFFICIAL, load_params
from dpr_jax.errors import BadInput
from dpr_jax.hourglass import HourglassNet, HourglassNet1024
from dpr_jax.pytorch_weights import dpr_variables

# A small network of the official kind: 128 hidden features in the lighting network, 8 * base + 3 at the bottleneck.
SIZES = {"base": 2, "light_features": 3, "hidden": 128}


def tree_of(variables):
  return jax.tree.map(lambda leaf: (leaf.shape, leaf.dtype), variables)


def init_tree(network):
  """Names, shapes and dtypes of the variables that `network` starts from."""
  side = network.size_multiple
  luminance, light = jnp.zeros((1, side, side, 1)), jnp.zeros((1, network.light_size))
  return tree_of(jax.eval_shape(network.init, jax.random.key(0), luminance, light))


def refusal(source):
  """The one line with which `source` is refused."""
  with pytest.raises(BadInput) as caught:
    load_params(source)
  assert "\n" not in str(caught.value)
  return str(caught.value)


@pytest.mark.parametrize(
  ("name", "network"), [("official-512", HourglassNet()), ("official-1024", HourglassNet1024())], ids=OFFICIAL
)
def test_official_weights(shared, name, network):
  path = shared(f"reference/dpr/{assets.ASSETS[name].filename}")
  params = load_params(name)
  assert tree_of(params) == init_tree(network)
  assert all(isinstance(leaf, jax.Array) for leaf in jax.tree.leaves(params))
  jax.tree.map(np.testing.assert_array_equal, load_params(path), params)
  jax.tree.map(np.testing.assert_array_equal, load_params(str(path)), params)


@pytest.mark.parametrize("file_format", ["legacy", "zip"])
@pytest.mark.parametrize("sh", [9, 27])
@pytest.mark.parametrize("network_class", [HourglassNet, HourglassNet1024])
def test_a_file(tmp_path, network_class, sh, file_format):
  state_dict = official_state_dict(**SIZES, sh=sh, large=network_class is HourglassNet1024)
  path = save(tmp_path / "weights.pth", state_dict, file_format)
  params = load_params(path)
  assert tree_of(params) == init_tree(network_class(base_filters=2, light_channels=3, gray=sh == 9))
  assert all(isinstance(leaf, jax.Array) for leaf in jax.tree.leaves(params))
  jax.tree.map(np.testing.assert_array_equal, params, dpr_variables(state_dict, "weights.pth"))


def test_names():
  assert set(OFFICIAL) <= set(assets.ASSETS)
  message = refusal("default")
  assert message.startswith("weights 'default': none are packaged yet")
  assert all(name in message for name in OFFICIAL)


@pytest.mark.parametrize(
  "source", ["official", "official-256", "", "no/such.pth", "face-landmarker", "x" * 5000, "a\0b"]
)
def test_no_such_name_or_file(source):
  message = refusal(source)
  assert "no such file" in message
  assert repr(source) in message
  assert all(name in message for name in OFFICIAL)


def test_a_folder(tmp_path):
  assert refusal(tmp_path) == f"weights {str(tmp_path)!r}: no such file; known names are official-512, official-1024"


@pytest.mark.parametrize("content", [b"", b"not weights", b"PK\x03\x04", b"\x80\x02}."])
def test_not_weights(tmp_path, content):
  path = tmp_path / "weights.pth"
  path.write_bytes(content)
  assert refusal(path).startswith(f"{path}: ")


@pytest.mark.parametrize(
  ("sizes", "reason"),
  [
    # Consistent in themselves, but of no network that exists here.
    (
      {"hidden": 5},
      "weights of another network: ['params']['trunk']['light']['embed1']['kernel'] is (9, 5), not (9, 128)",
    ),
    ({"image": 3}, "weights of another network: ['params']['head']['output']['bias'] is (3,), not (1,)"),
    ({"sh": 4}, "params are of neither HourglassNet nor HourglassNet1024"),
  ],
)
def test_weights_of_another_network(tmp_path, sizes, reason):
  path = save(tmp_path / "weights.pth", official_state_dict(**SIZES | sizes), "zip")
  assert refusal(path) == f"{path}: {reason}"


def test_a_bottleneck_of_another_width(tmp_path):
  """All sizes agree with each other, but 8 * base_filters channels carry the face, not 7."""
  state_dict = official_state_dict(**SIZES)
  narrow = {}
  for name, array in state_dict.items():
    # 19 is the number of channels at the bottleneck, and of nothing else.
    for axis in range(array.ndim):
      if array.shape[axis] == 8 * 2 + 3:
        array = np.ascontiguousarray(np.delete(array, -1, axis))
    narrow[name] = array
  path = save(tmp_path / "weights.pth", narrow, "zip")
  message = refusal(path)
  assert message.startswith(f"{path}: weights of another network: ['batch_stats']['trunk']['level3']['down']")
  assert "is (18,), not (19,)" in message


@pytest.mark.parametrize("large", [False, True])
def test_a_missing_and_an_unknown_tensor(tmp_path, large):
  state_dict = {
    name: array for name, array in official_state_dict(**SIZES, large=large).items() if ".middle" not in name
  }
  trunk = "model_512." if large else ""
  for name in ("pre_conv.bias", f"{trunk}HG1.low1.conv2.weight", f"{trunk}light.post_relu1.weight"):
    path = save(tmp_path / "weights.pth", {other: x for other, x in state_dict.items() if other != name}, "zip")
    assert refusal(path) == f"{path}: weights of another network: {name!r} is missing"
  path = save(tmp_path / "weights.pth", state_dict | {"conv_4.weight": np.zeros((2, 2, 1, 1), np.float32)}, "zip")
  assert refusal(path) == f"{path}: weights of another network: 'conv_4.weight' is not part of it"


def test_wrong_shape_of_one_tensor(tmp_path):
  state_dict = {name: array for name, array in official_state_dict(**SIZES).items() if ".middle" not in name}
  for name, array in (
    ("conv_1.weight", np.zeros((2, 2, 5, 5), np.float32)),
    ("HG0.upper.conv1.weight", np.zeros((8, 4, 3, 3), np.float32)),
    ("output.bias", np.zeros((), np.float32)),
  ):
    path = save(tmp_path / "weights.pth", state_dict | {name: array}, "zip")
    message = refusal(path)
    assert message.startswith(f"{path}: weights of another network: {name!r} has shape {array.shape}")


def test_weights_of_other_projects(shared):
  for relative in ("reference/sfsnet/random_weights.pth", "reference/tddfa/mb05_120x120.pth"):
    path = shared(relative)
    assert refusal(path).startswith(f"{path}: weights of another network: ")
