"""What load_params accepts, and how it refuses the rest."""

import io
import json
import os
import re
import subprocess
import sys
import zipfile

import jax
import jax.numpy as jnp
import numpy as np
import orbax.checkpoint as ocp
import pytest
import safetensors.numpy

from dpr_jax.base import assets
from dpr_jax.base.errors import BadInput
from dpr_jax.cli import relight_command
from dpr_jax.image.photo import Photo, read_photo
from dpr_jax.image.photo_writing import write_photo
from dpr_jax.light import light
from dpr_jax.network.hourglass import HourglassNet, HourglassNet1024
from dpr_jax.network.official_weights import dpr_variables
from dpr_jax.network.ratio_network import RatioHourglassNet
from dpr_jax.network.weights import OFFICIAL, load_params, read_archive, read_safetensors, save_params
from dpr_jax.portrait.whole_photo import WholePhoto
from tests.network.test_official_weights import official_state_dict
from tests.network.test_pytorch_weights import save

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


def test_the_weights_of_the_package_need_nothing_else(monkeypatch):
  monkeypatch.setattr(assets, "asset_path", lambda name: pytest.fail(f"asks for {name}"))
  params = load_params("default")
  assert tree_of(params) == init_tree(RatioHourglassNet(base_filters=24, knows_surfaces=True))
  assert all(isinstance(leaf, jax.Array) for leaf in jax.tree.leaves(params))


def ratio_variables():
  rng = np.random.default_rng(0)
  network = RatioHourglassNet(base_filters=2)
  return jax.tree.map(
    lambda leaf: jnp.asarray(rng.normal(size=leaf[0]), leaf[1]),
    init_tree(network),
    is_leaf=lambda leaf: isinstance(leaf, tuple),
  )


@pytest.mark.parametrize("suffix", [".npz", ".safetensors"])
def test_saved_weights_come_back_in_half_precision(tmp_path, suffix):
  variables, path = ratio_variables(), tmp_path / f"mine{suffix}"
  save_params(path, variables)
  params = load_params(path)
  assert tree_of(params) == tree_of(variables)
  jax.tree.map(lambda a, b: np.testing.assert_allclose(a, b, rtol=2**-11, atol=1e-7), params, variables)
  first = path.read_bytes()
  save_params(path, params, overwrite=True)
  assert path.read_bytes() == first
  with pytest.raises(BadInput, match="exists already"):
    save_params(path, variables)
  assert path.read_bytes() == first


def test_safetensors_hold_what_archives_hold(tmp_path):
  """Names, shapes, types and bits; an array that is not contiguous is written by its order, not by its memory."""
  variables = ratio_variables()
  turned = jax.tree.map(lambda leaf: np.asarray(leaf).T.copy().T, variables)
  for path in (tmp_path / "mine.npz", tmp_path / "mine.safetensors"):
    save_params(path, turned)
  with np.load(tmp_path / "mine.npz") as archive:
    arrays = safetensors.numpy.load_file(tmp_path / "mine.safetensors")
    assert arrays.keys() == set(archive.files)
    for name in archive.files:
      assert arrays[name].dtype == archive[name].dtype
      np.testing.assert_array_equal(arrays[name], archive[name])
  npz, tensors = read_archive(tmp_path / "mine.npz"), read_safetensors(tmp_path / "mine.safetensors")
  jax.tree.map(np.testing.assert_array_equal, npz, tensors)


def test_weights_that_cannot_be_saved_leave_nothing(tmp_path):
  with pytest.raises(BadInput, match="half precision"):
    save_params(tmp_path / "mine.npz", {"params": {"a": np.float32([1e6])}})
  with pytest.raises(BadInput, match=r"written as \.npz"):
    save_params(tmp_path / "mine.pth", {"params": {"a": np.float32([1])}})
  assert not list(tmp_path.iterdir())


def edited_archive(path, **changes):
  """An archive of good weights with some arrays changed, or taken away by None."""
  leaves = jax.tree_util.tree_leaves_with_path(ratio_variables())
  arrays = {"/".join(key.key for key in keys): leaf for keys, leaf in leaves}
  arrays = changes | {name: array for name, array in arrays.items() if name not in changes}
  np.savez(path, **{name: array for name, array in arrays.items() if array is not None})
  return path


STEM = "params/stem/conv/bias"


@pytest.mark.parametrize(
  ("changes", "reason"),
  [
    ({STEM: None}, "is missing"),
    ({STEM: np.zeros(3)}, "weights of another network"),
    ({STEM: np.zeros(2, int)}, "no floating-point numbers"),
    ({STEM: np.array([np.nan, 1])}, "not finite"),
    ({STEM: np.array([{}, {}])}, "not an archive of weights"),
    ({"params/stem": np.zeros(3)}, "contradict each other"),
    ({"params/more": np.zeros(3)}, "weights of another network"),
  ],
)
def test_archives_of_other_things_are_refused(tmp_path, changes, reason):
  message = refusal(edited_archive(tmp_path / "mine.npz", **changes))
  assert message.startswith(str(tmp_path / "mine.npz"))
  assert reason in message


@pytest.mark.parametrize("damage", [lambda data: data[:-500], lambda data: b"", lambda data: b"PK" + data[:50]])
def test_damaged_archives_are_refused(tmp_path, damage):
  path = edited_archive(tmp_path / "mine.npz")
  path.write_bytes(damage(path.read_bytes()))
  assert "not an archive of weights" in refusal(path)


def edited_safetensors(path, **changes):
  """As `edited_archive`."""
  arrays = dict(np.load(edited_archive(path.with_suffix(".npz"), **changes)))
  path.write_bytes(safetensors.numpy.save(arrays))
  return path


@pytest.mark.parametrize(
  ("changes", "reason"),
  [
    ({STEM: np.zeros(3)}, "weights of another network"),
    ({STEM: np.zeros(2, int)}, "no floating-point numbers"),
    ({"params/stem": np.zeros(3)}, "contradict each other"),
  ],
)
def test_safetensors_of_other_things_are_refused(tmp_path, changes, reason):
  message = refusal(edited_safetensors(tmp_path / "mine.safetensors", **changes))
  assert message.startswith(str(tmp_path / "mine.safetensors"))
  assert reason in message


def with_header(header: str, data: bytes = b"") -> bytes:
  return len(header).to_bytes(8, "little") + header.encode() + data


@pytest.mark.parametrize(
  "content",
  [
    b"",
    b"PK",
    with_header("{}")[:-1],
    with_header("[" * 10_000),
    (2**40).to_bytes(8, "little") + b"{}",
    with_header(" " * 2**21 + "{}"),
    with_header('{"a":{"dtype":"F16","shape":[2],"data_offsets":[0,4]}}', b"\0"),
    with_header('{"a":{"dtype":"F16","shape":[4611686018427387904,4],"data_offsets":[0,0]}}'),
    with_header('{"a":{"dtype":"BF16","shape":[1],"data_offsets":[0,2]}}', b"\0\0\0"),
    with_header('{"a":{"dtype":"F8_E8M0","shape":[1],"data_offsets":[0,1]}}', b"\0"),
  ],
)
def test_damaged_safetensors_are_refused(tmp_path, content):
  path = tmp_path / "mine.safetensors"
  path.write_bytes(content)
  assert re.search("not a safetensors file of weights|no floating-point numbers", refusal(path))


def test_safetensors_larger_than_any_weights_are_refused_unread(tmp_path):
  path = tmp_path / "mine.safetensors"
  with path.open("wb") as file:
    file.truncate(2**28 + 1)  # a hole: it takes no room
  assert "more than 268435456 bytes" in refusal(path)


def test_an_archive_that_unpacks_to_gigabytes_is_refused_unread(tmp_path):
  path = tmp_path / "mine.npz"
  with zipfile.ZipFile(path, "w", zipfile.ZIP_DEFLATED) as archive, archive.open("a.npy", "w") as member:
    for _ in range(300):
      member.write(bytes(2**20))
  assert "more than any weights have" in refusal(path)


@pytest.mark.parametrize(
  "source", ["official", "official-256", "", "no/such.pth", "face-landmarker", "x" * 5000, "a\0b"]
)
def test_no_such_name_or_file(source):
  message = refusal(source)
  assert "no such file" in message
  assert repr(source) in message
  assert all(name in message for name in OFFICIAL)


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
    ({"sh": 4}, "params are of none of the relighting networks"),
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


# Training runs: plain Orbax in the layout of train.py's checkpoints.

TINY = HourglassNet(base_filters=2, light_channels=3)


def tiny_variables(seed=0, network=TINY):
  rng = np.random.default_rng(seed)
  return jax.tree.map(
    lambda spec: jnp.asarray(rng.normal(size=spec[0]) ** 2 / 8, spec[1]),  # variances are positive
    init_tree(network),
    is_leaf=lambda spec: isinstance(spec, tuple),
  )


def save_step(workdir, step, ema):
  """A checkpoint of a step: the running mean, and beside it what only training needs."""
  items = {"state": ocp.args.StandardSave({"step": np.int32(step)})}
  if ema is not None:
    items["ema"] = ocp.args.StandardSave(ema)
  folder = workdir / "checkpoints" / str(step)
  with ocp.Checkpointer(ocp.CompositeCheckpointHandler()) as checkpointer:
    checkpointer.save(folder, args=ocp.args.Composite(**items))
  return folder


@pytest.mark.parametrize(
  "network",
  [TINY, HourglassNet1024(base_filters=2, light_channels=3), RatioHourglassNet(base_filters=2)],
  ids=["512", "1024", "ratio"],
)
def test_a_training_run(tmp_path, network):
  trees = {step: tiny_variables(step, network) for step in (900, 5000, 10000)}
  folders = {step: save_step(tmp_path, step, tree) for step, tree in trees.items()}
  # Newest by number, not by spelling; the folder of the checkpoints, and each of them, will do too.
  sources = {tmp_path: 10000}
  if network is TINY:  # whose tree is soon compared
    sources |= {str(tmp_path / "checkpoints"): 10000} | {folder: step for step, folder in folders.items()}
  for source, step in sources.items():
    params = load_params(source)
    assert tree_of(params) == init_tree(network)
    assert all(isinstance(leaf, jax.Array) for leaf in jax.tree.leaves(params))
    jax.tree.map(np.testing.assert_array_equal, params, trees[step])


@pytest.mark.parametrize(("step", "on"), [(2, 0), (3, 1), (6, 2), (9, 4)])
def test_it_is_said_where_skip_training_had_not_come_to_its_end(tmp_path, caplog, step, on):
  save_step(tmp_path, step, tiny_variables())
  config = tmp_path / "checkpoints" / str(step) / "config"
  config.mkdir()
  (config / "metadata").write_text(json.dumps({"skip_steps": [2, 4, 7, 8]}))
  with caplog.at_level("WARNING", "absl"):
    load_params(tmp_path)
  assert [record.getMessage().partition(": ")[2] for record in caplog.records] == (
    [] if on == 4 else [f"{on} of 4 skip connections are trained so far; all will be used"]
  )


def test_what_a_kill_left_half_written_is_passed_over(tmp_path):
  trees = {step: tiny_variables(step) for step in (1, 2)}
  for step, tree in trees.items():
    save_step(tmp_path, step, tree)
  # Orbax writes under another name and renames when all is there.
  half = tmp_path / "checkpoints" / "2.orbax-checkpoint-tmp"
  (tmp_path / "checkpoints" / "2").rename(half)
  jax.tree.map(np.testing.assert_array_equal, load_params(tmp_path), trees[1])
  assert refusal(half) == f"{half}: a checkpoint that was not written to its end"
  (tmp_path / "checkpoints" / "1").rename(tmp_path / "checkpoints" / "1.orbax-checkpoint-tmp")
  assert refusal(tmp_path) == f"{tmp_path}: holds no complete checkpoint of train.py"


def test_folders_that_are_no_training_run(tmp_path):
  (tmp_path / "12").touch()
  (tmp_path / "empty" / "checkpoints").mkdir(parents=True)
  for folder in (tmp_path, tmp_path / "empty", tmp_path / "empty" / "checkpoints"):
    assert refusal(folder) == f"{folder}: holds no complete checkpoint of train.py"
  step = save_step(tmp_path, 3, None)
  assert refusal(tmp_path) == f"{step}: a checkpoint without weights (it has no 'ema')"


def damage(folder, name, change):
  """Changes the files of that name below `folder`; how many there were."""
  files = [path for path in folder.rglob(name) if path.is_file()]
  for path in files:
    change(path)
  return len(files)


@pytest.mark.parametrize("name", ["_METADATA", "manifest.ocdbt", "[0-9a-f]*[0-9a-f]"])
@pytest.mark.parametrize(
  "change", [lambda path: path.unlink(), lambda path: path.write_bytes(path.read_bytes()[: path.stat().st_size // 2])]
)
def test_a_damaged_checkpoint_is_named(tmp_path, name, change):
  save_step(tmp_path, 6, tiny_variables(6))
  step = save_step(tmp_path, 7, tiny_variables(7))
  assert damage(step / "ema", name, change) > 0
  assert refusal(tmp_path).startswith(f"{step / 'ema'}: damaged, or no checkpoint of train.py (")


@pytest.mark.parametrize(
  ("change", "reason"),
  [
    (lambda tree: tree["params"]["stem"].pop("conv"), "params are of none of the relighting networks"),
    (
      lambda tree: tree["params"]["head"]["output"].pop("bias"),
      "weights of another network: ['params']['head']['output']['bias'] is missing, not (1,)",
    ),
    (
      lambda tree: tree["params"]["head"].update(more=jnp.zeros(2)),
      "weights of another network: ['params']['head']['more'] is (2,), not known",
    ),
    (
      lambda tree: tree["params"]["head"]["output"].update(bias=jnp.full(1, jnp.nan)),
      "['params']['head']['output']['bias'] has values that are not finite",
    ),
  ],
)
def test_a_checkpoint_of_another_network(tmp_path, change, reason):
  tree = tiny_variables()
  change(tree)
  step = save_step(tmp_path, 1, tree)
  assert refusal(tmp_path) == f"{step / 'ema'}: {reason}"


_SAVE_ON_FOUR_DEVICES = """
import sys
import jax, orbax.checkpoint as ocp
from jax.sharding import NamedSharding, PartitionSpec
assert jax.device_count() == 4
source, target = sys.argv[1:]
mesh = jax.make_mesh((4,), ("data",))
tree = jax.device_put(ocp.StandardCheckpointer().restore(source), NamedSharding(mesh, PartitionSpec()))
light = tree["params"]["trunk"]["light"]["embed1"]
light["kernel"] = jax.device_put(light["kernel"], NamedSharding(mesh, PartitionSpec(None, "data")))
with ocp.Checkpointer(ocp.CompositeCheckpointHandler()) as checkpointer:
  checkpointer.save(target, args=ocp.args.Composite(ema=ocp.args.StandardSave(tree)))
"""


def test_weights_trained_on_more_devices_than_there_are_here(tmp_path):
  flags = os.environ.get("XLA_FLAGS", "") + " --xla_force_host_platform_device_count=4"
  environment = os.environ | {"XLA_FLAGS": flags, "JAX_PLATFORMS": "cpu"}
  source, target = save_step(tmp_path / "plain", 8, tiny_variables(5)) / "ema", tmp_path / "sharded" / "8"
  command = [sys.executable, "-c", _SAVE_ON_FOUR_DEVICES, str(source), str(target)]
  subprocess.run(command, env=environment, check=True, timeout=600)
  jax.tree.map(np.testing.assert_array_equal, load_params(target), tiny_variables(5))


def test_relight_a_photo_with_weights_of_a_training_run(tmp_path):
  """`relight.py --weights=WORKDIR`: its command, in this process."""
  save_step(tmp_path / "run", 2, tiny_variables())
  pixels = np.random.default_rng(0).integers(0, 256, (90, 80, 3), np.uint8)
  write_photo(tmp_path / "photo.png", Photo(pixels))
  options = relight_command.Options(lights=["left"], weights=str(tmp_path / "run"), size=256, align=False)
  relight_command.relight(options, tmp_path / "photo.png", tmp_path / "relit.png", sheet=False, film_frames=None)
  relit = read_photo(tmp_path / "relit.png").pixels
  assert relit.shape == pixels.shape
  with relight_command.Studio(options) as studio:
    np.testing.assert_array_equal(relit, studio.relight(studio.encode(pixels, "photo"), studio.lights[0]))
    expected = WholePhoto(tiny_variables(), pixels, 256).relight(light.told(studio.lights[0])[0], 1.0)
  np.testing.assert_array_equal(relit, expected)


def test_archives_that_are_none_get_a_line(tmp_path, shared):
  """Other files than arrays, headers that are no Python or no shape, damaged deflate, sizes that no network has."""
  for name in ("baddefl", "chan", "notnpy", "shape_type", "token"):
    with pytest.raises(BadInput) as refused:
      load_params(shared(f"cases/hostile/{name}.npz"))
    assert str(refused.value).startswith(str(shared(f"cases/hostile/{name}.npz")))
    assert "\n" not in str(refused.value)


def test_a_member_that_is_called_an_array_and_is_none_is_refused(tmp_path):
  with zipfile.ZipFile(tmp_path / "text.npz", "w") as archive:
    archive.writestr("a.npy", b"a text")
  with pytest.raises(BadInput, match="no floating-point numbers"):
    load_params(tmp_path / "text.npz")


def test_numbers_beyond_float32_are_read_as_infinite_without_a_word(tmp_path):
  numbers = np.array([1e300, -1e300, 1.0, 0.0])
  numbers[3:].view(np.uint64)[:] = 0x7FF0000000000001  # a NaN that signals
  np.savez(tmp_path / "large.npz", a=numbers)
  np.testing.assert_array_equal(read_archive(tmp_path / "large.npz")["a"], np.float32([np.inf, -np.inf, 1, np.nan]))


def test_a_header_that_python_2_wrote_is_read_without_a_word(tmp_path):
  file = io.BytesIO()
  np.save(file, np.float32([1, 2, 3]))
  with zipfile.ZipFile(tmp_path / "old.npz", "w") as archive:
    archive.writestr("a.npy", file.getvalue().replace(b"(3,), }", b"(3L,),}"))
  np.testing.assert_array_equal(read_archive(tmp_path / "old.npz")["a"], [1, 2, 3])


def test_an_archive_does_not_unpack_to_much_more_than_it_is(tmp_path):
  np.savez_compressed(tmp_path / "zeros.npz", a=np.zeros(2**20, np.float16))
  with pytest.raises(BadInput, match="bytes unpacked, more than any weights have"):
    load_params(tmp_path / "zeros.npz")
