"""Every tensor of the official networks finds its place, at any width, and no other network is taken for one."""

import itertools

import flax.linen as nn
import jax
import numpy as np
import pytest

from dpr_jax.base.errors import BadInput
from dpr_jax.network.official_weights import dpr_variables, is_1024
from dpr_jax.network.pytorch_weights import read_state_dict
from tests.network.test_pytorch_weights import OFFICIAL_512, OFFICIAL_1024, both_formats, save


def official_state_dict(base=4, light_features=3, sh=9, hidden=5, image=1, *, large=False) -> dict[str, np.ndarray]:
  """Random weights under the names that the official modules give them, aliases and unused ones included."""
  rng = np.random.default_rng(0)

  def conv(name, inputs, outputs, size, bias=False):
    layer = {f"{name}.weight": rng.normal(size=(outputs, inputs, size, size)).astype(np.float32)}
    return layer | ({f"{name}.bias": rng.normal(size=outputs).astype(np.float32)} if bias else {})

  def norm(name, channels):
    four = ("weight", "bias", "running_mean", "running_var")
    layer = {f"{name}.{part}": rng.normal(size=channels).astype(np.float32) for part in four}
    return layer | {f"{name}.num_batches_tracked": np.array(9)}

  def block(name, inputs, outputs, batch_norm=False):
    layers = conv(f"{name}.conv1", inputs, outputs, 3) | conv(f"{name}.conv2", outputs, outputs, 3)
    if batch_norm:
      layers |= norm(f"{name}.bn1", outputs) | norm(f"{name}.bn2", outputs)
    return layers | conv(f"{name}.shortcuts", inputs, outputs, 1)

  def under(prefix, layers):
    return {f"{prefix}.{name}": array for name, array in layers.items()}

  def stem_and_head():
    layers = conv("pre_conv", image, base, 5, bias=True) | norm("pre_bn", base)
    for number, size in ((1, 3), (2, 1), (3, 1)):
      layers |= conv(f"conv_{number}", base, base, size, bias=True) | norm(f"bn_{number}", base)
    return layers | conv("output", base, image, 1, bias=True)

  inner = (
    conv("predict_FC1", light_features, hidden, 1)
    | {"predict_relu1.weight": np.array([0.25], np.float32)}
    | conv("predict_FC2", hidden, sh, 1)
    | conv("post_FC1", sh, hidden, 1)
    | {"post_relu1.weight": np.array([0.75], np.float32)}
    | conv("post_FC2", hidden, light_features, 1)
  )
  widths = [8 * base + light_features, 4 * base, 2 * base, base, base]
  network = stem_and_head() | under("light", inner)
  for number in range(4):
    narrow, wide = widths[number + 1], widths[number]
    inner = (
      block("upper", narrow, narrow)
      | block("low1", narrow, wide, batch_norm=True)
      | under("middle", inner)
      | block("low2", wide, narrow)
    )
    network |= under(f"HG{number}", inner)
  return under("model_512", network) | stem_and_head() if large else network


def flattened(tree) -> dict[str, np.ndarray]:
  leaves = jax.tree_util.tree_flatten_with_path(tree)[0]
  return {"/".join(part.key for part in path): leaf for path, leaf in leaves}


def number_of_parameters(base, light_features, sh, hidden, image) -> int:
  """Of what the forward pass uses, from the paper's figure 3 and its supplement."""
  widths = [base, base, 2 * base, 4 * base, 8 * base + light_features]
  total = 25 * image * base + base + 2 * base  # stem
  for narrow, wide in itertools.pairwise(widths):
    total += 2 * 9 * narrow**2  # skip
    total += 9 * narrow * wide + 9 * wide**2 + 2 * 2 * wide  # down
    total += 9 * wide * narrow + 9 * narrow**2  # up
    total += 2 * narrow * wide if narrow != wide else 0  # shortcuts of both
  total += 2 * light_features * hidden + 2 * hidden * sh + 2  # light
  return total + 9 * base**2 + 2 * base**2 + 3 * base + 3 * 2 * base + base * image + image  # head


@pytest.mark.parametrize(("path", "large"), [(OFFICIAL_512, False), (OFFICIAL_1024, True)])
def test_official_files(shared, path, large):
  state_dict = read_state_dict(shared(path))
  sizes = {"base": 16, "light_features": 27, "sh": 9, "hidden": 128, "image": 1}
  expected = official_state_dict(**sizes, large=large)
  assert {name: array.shape for name, array in state_dict.items()} == {
    name: array.shape for name, array in expected.items()
  }
  assert is_1024(state_dict) is large
  variables = dpr_variables(state_dict, path)
  parameters = sum(array.size for array in jax.tree.leaves(variables["params"]))
  assert parameters == number_of_parameters(**sizes) == 684_592
  statistics = flattened(variables["batch_stats"])
  assert len(statistics) == 2 * (1 + 4 * 2 + 3)
  assert all((array > 0).all() for name, array in statistics.items() if name.endswith("/var"))


@pytest.mark.parametrize("large", [False, True])
@pytest.mark.parametrize(
  "sizes",
  [{}, {"base": 8, "light_features": 27, "sh": 27, "hidden": 16, "image": 3}, {"base": 2, "hidden": 1}],
)
def test_any_size_is_mapped(sizes, large):
  variables = dpr_variables(official_state_dict(**sizes, large=large), "a.t7")
  sizes = {"base": 4, "light_features": 3, "sh": 9, "hidden": 5, "image": 1} | sizes
  assert sum(array.size for array in jax.tree.leaves(variables["params"])) == number_of_parameters(**sizes)
  assert {array.dtype for array in jax.tree.leaves(variables)} == {np.dtype(np.float32)}
  assert all(array.flags.writeable and array.flags.c_contiguous for array in jax.tree.leaves(variables))


@pytest.mark.parametrize("large", [False, True])
def test_the_tree(large):
  variables = dpr_variables(official_state_dict(large=large), "a.t7")
  stem, head = ("stem_1024", "head_1024") if large else ("stem", "head")
  kernel, affine, statistics = ["kernel"], ["scale", "bias"], ["mean", "var"]
  params = {f"{stem}/conv": ["kernel", "bias"], f"{stem}/norm": affine, f"{head}/output": ["kernel", "bias"]}
  batch_stats = {f"{stem}/norm": statistics}
  for number in (1, 2, 3):
    params |= {f"{head}/conv{number}": ["kernel", "bias"], f"{head}/norm{number}": affine}
    batch_stats |= {f"{head}/norm{number}": statistics}
  for level in range(4):
    for block in ("skip", "down", "up"):
      params |= {f"trunk/level{level}/{block}/conv{number}": kernel for number in (1, 2)}
      if block != "skip" and level > 0:  # the outermost hourglass keeps its width
        params |= {f"trunk/level{level}/{block}/shortcut": kernel}
    params |= {f"trunk/level{level}/down/norm{number}": affine for number in (1, 2)}
    batch_stats |= {f"trunk/level{level}/down/norm{number}": statistics for number in (1, 2)}
  for part in ("estimate", "embed"):
    params |= {f"trunk/light/{part}1": kernel, f"trunk/light/{part}2": kernel}
    params |= {f"trunk/light/{part}_prelu": ["negative_slope"]}
  expected = {f"params/{path}/{leaf}" for path, leaves in params.items() for leaf in leaves}
  expected |= {f"batch_stats/{path}/{leaf}" for path, leaves in batch_stats.items() for leaf in leaves}
  assert set(flattened(variables)) == expected


@pytest.mark.parametrize("large", [False, True])
def test_every_tensor_lands_where_it_belongs(large):
  state_dict = official_state_dict(large=large)
  trunk = "model_512." if large else ""
  variables = flattened(dpr_variables(state_dict, "a.t7"))
  top = "_1024" if large else ""

  def assert_conv(path, name):
    np.testing.assert_array_equal(np.einsum("hwio->oihw", variables[f"params/{path}/kernel"]), state_dict[name])

  def assert_dense(path, name):
    np.testing.assert_array_equal(variables[f"params/{path}/kernel"].T[..., None, None], state_dict[name])

  def assert_norm(path, name):
    for ours, official in (("scale", "weight"), ("bias", "bias")):
      np.testing.assert_array_equal(variables[f"params/{path}/{ours}"], state_dict[f"{name}.{official}"])
    for ours in ("mean", "var"):
      np.testing.assert_array_equal(variables[f"batch_stats/{path}/{ours}"], state_dict[f"{name}.running_{ours}"])

  assert_conv(f"stem{top}/conv", "pre_conv.weight")
  assert_norm(f"stem{top}/norm", "pre_bn")
  np.testing.assert_array_equal(variables[f"params/stem{top}/conv/bias"], state_dict["pre_conv.bias"])
  for number in (1, 2, 3):
    assert_conv(f"head{top}/conv{number}", f"conv_{number}.weight")
    assert_norm(f"head{top}/norm{number}", f"bn_{number}")
    np.testing.assert_array_equal(variables[f"params/head{top}/conv{number}/bias"], state_dict[f"conv_{number}.bias"])
  assert_conv(f"head{top}/output", "output.weight")
  hourglass = f"{trunk}HG3"  # named as the forward pass reaches them, from the outermost hourglass inwards
  for level in range(4):
    for ours, official in (("skip", "upper"), ("down", "low1"), ("up", "low2")):
      for number in (1, 2):
        assert_conv(f"trunk/level{level}/{ours}/conv{number}", f"{hourglass}.{official}.conv{number}.weight")
      if ours != "skip" and level > 0:
        assert_conv(f"trunk/level{level}/{ours}/shortcut", f"{hourglass}.{official}.shortcuts.weight")
    for number in (1, 2):
      assert_norm(f"trunk/level{level}/down/norm{number}", f"{hourglass}.low1.bn{number}")
    hourglass += ".middle"
  for ours, official in (("estimate", "predict"), ("embed", "post")):
    for number in (1, 2):
      assert_dense(f"trunk/light/{ours}{number}", f"{hourglass}.{official}_FC{number}.weight")
    slope = variables[f"params/trunk/light/{ours}_prelu/negative_slope"]
    assert slope == state_dict[f"{hourglass}.{official}_relu1.weight"]
    assert slope.shape == nn.PReLU().init(jax.random.key(0), np.zeros(2, np.float32))["params"]["negative_slope"].shape


def test_aliases_may_be_absent_but_not_differ():
  state_dict = official_state_dict()
  nested = {name: array for name, array in state_dict.items() if not name.startswith(("HG0", "HG1", "HG2", "light"))}
  flat = {name: array for name, array in state_dict.items() if ".middle" not in name}
  assert len(nested) == len(flat) < len(state_dict)
  expected = flattened(dpr_variables(state_dict, "a.t7"))
  for part in (nested, flat):
    variables = flattened(dpr_variables(part, "a.t7"))
    assert variables.keys() == expected.keys()
    for path, array in variables.items():
      np.testing.assert_array_equal(array, expected[path])
  name = "HG2.middle.middle.middle.post_FC2.weight"
  with pytest.raises(BadInput, match=r"^a\.t7: weights of another network: .*'light\.post_FC2\.weight'.* differ$"):
    dpr_variables(state_dict | {name: state_dict[name] + 1}, "a.t7")


@pytest.mark.parametrize("large", [False, True])
def test_every_missing_tensor_is_named(large):
  """Whatever name a variable came from, without it the file is refused; nothing else is needed."""
  state_dict = {name: array for name, array in official_state_dict(large=large).items() if ".middle" not in name}
  ignored = set()
  messages = []
  for name in state_dict:
    try:
      dpr_variables({other: array for other, array in state_dict.items() if other != name}, "a.t7")
      ignored.add(name)
    except BadInput as error:
      messages.append((str(error), f"a.t7: weights of another network: {name!r} is missing"))
  for message, expected in messages:
    assert message == expected
  trunk = "model_512." if large else ""
  unused = {name for name in state_dict if name.endswith("num_batches_tracked")}
  unused |= {f"{trunk}HG{number}.upper.shortcuts.weight" for number in range(4)}
  unused |= {f"{trunk}HG3.low1.shortcuts.weight", f"{trunk}HG3.low2.shortcuts.weight"}
  unused |= {name for name in state_dict if name.startswith("model_512.") and not name[10:].startswith(("HG", "light"))}
  assert ignored == unused


@pytest.mark.parametrize(
  ("name", "array"),
  [
    ("HG1.low1.conv2.weight", np.zeros((16, 15, 3, 3), np.float32)),
    ("HG1.low1.conv2.weight", np.zeros((16, 16, 1, 1), np.float32)),
    ("HG1.low1.conv2.weight", np.zeros((16, 16, 9), np.float32)),
    ("HG3.low1.bn1.running_var", np.zeros(5, np.float32)),
    ("HG2.low2.shortcuts.weight", np.zeros((4, 8, 3, 3), np.float32)),
    ("light.predict_relu1.weight", np.zeros(5, np.float32)),
    ("light.post_FC1.weight", np.zeros((5, 27, 1, 1), np.float32)),
    ("output.weight", np.zeros((3, 4, 1, 1), np.float32)),
    ("pre_conv.bias", np.zeros((), np.float32)),
    ("pre_conv.bias", np.zeros(4, np.int64)),
    ("fc.weight", np.zeros((2, 2), np.float32)),
    ("HG4.low1.conv1.weight", np.zeros((2, 2), np.float32)),
    ("HG0.middle.middle.upper.conv1.weight", np.zeros((2, 2), np.float32)),
  ],
)
def test_weights_of_another_network(name, array):
  state_dict = {name: array for name, array in official_state_dict().items() if ".middle" not in name}
  with pytest.raises(BadInput) as caught:
    dpr_variables(state_dict | {name: array}, "a.t7")
  assert str(caught.value).startswith(f"a.t7: weights of another network: {name!r} ")


def test_a_bottleneck_without_room_for_the_face():
  state_dict = official_state_dict()
  for name in (
    "HG0.middle.",
    "HG1.middle.middle.",
    "HG2.middle.middle.middle.",
    "HG3.middle.middle.middle.middle.",
    "",
  ):
    light = name or "light."
    state_dict[f"{light}predict_FC1.weight"] = np.zeros((5, 35, 1, 1), np.float32)
    state_dict[f"{light}post_FC2.weight"] = np.zeros((35, 5, 1, 1), np.float32)
  with pytest.raises(BadInput, match="none is left for the face"):
    dpr_variables(state_dict, "a.t7")


def test_other_networks_are_refused(shared):
  for path in ("reference/sfsnet/random_weights.pth", "reference/tddfa/mb05_120x120.pth"):
    with pytest.raises(BadInput, match="weights of another network"):
      dpr_variables(read_state_dict(shared(path)), path)


@both_formats
def test_a_file_written_and_mapped(tmp_path, file_format):
  state_dict = official_state_dict()
  read = read_state_dict(save(tmp_path / "a.pth", state_dict, file_format))
  expected = flattened(dpr_variables(state_dict, "a.pth"))
  for path, array in flattened(dpr_variables(read, "a.pth")).items():
    np.testing.assert_array_equal(array, expected[path])
