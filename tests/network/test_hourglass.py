"""The networks against the official PyTorch ones' numbers, and what their structure promises."""

import functools

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax import traverse_util

from dpr_jax.network.encoding import ALL_SKIPS, skip_count_mask
from dpr_jax.network.hourglass import HourglassNet, HourglassNet1024
from dpr_jax.network.networks import network_for
from dpr_jax.network.ratio_network import RatioHourglassNet
from dpr_jax.network.weights import load_params

pytestmark = pytest.mark.usefixtures("quick_compilation")

SMALL_512 = HourglassNet(base_filters=2, light_channels=3)
SMALL_1024 = HourglassNet1024(base_filters=2, light_channels=3)
SMALL_RATIO = RatioHourglassNet(base_filters=2)
small_networks = pytest.mark.parametrize("network", [SMALL_512, SMALL_1024], ids=["512", "1024"])


@functools.cache
def shapes(network):
  """The variable tree of `network` as shapes and dtypes."""
  side = network.size_multiple
  luminance, light = jnp.zeros((1, side, side, 1)), jnp.zeros((1, network.light_size))
  return jax.eval_shape(network.init, jax.random.key(0), luminance, light)


def random_variables(network, seed=0):
  """Variables as after some training, drawn by NumPy: `network.init` compiles for longer than all these tests run."""
  rng = np.random.default_rng(seed)

  def draw(path, leaf):
    name = path[-1].key
    if name == "kernel":
      values = rng.normal(size=leaf.shape) * np.sqrt(2 / np.prod(leaf.shape[:-1]))
    elif name in ("scale", "var"):
      values = rng.uniform(0.5, 1.5, size=leaf.shape)
    else:
      values = 0.1 * rng.normal(size=leaf.shape)
    return jnp.asarray(values, leaf.dtype)

  return jax.tree_util.tree_map_with_path(draw, shapes(network))


@functools.partial(jax.jit, static_argnames=("network", "method"))
def apply(network, variables, *inputs, method="__call__"):
  return network.apply(variables, *inputs, method=method)


def photo_and_light(network, batch=2, seed=0):
  rng = np.random.default_rng(seed)
  side = network.size_multiple
  luminance = jnp.asarray(rng.uniform(size=(batch, 2 * side, side, 1)), jnp.float32)
  return luminance, jnp.asarray(rng.normal(size=(batch, network.light_size)), jnp.float32)


# ---------------------------------------------------------------------------------------------------------------------
# Against the official networks.


@pytest.fixture(scope="module")
def expected(shared):
  with np.load(shared("reference/dpr/expected.npz")) as arrays:
    return dict(arrays)


@pytest.fixture(scope="module")
def official_512(shared):
  shared("reference/dpr/trained_model_03.t7")
  return load_params("official-512")


@pytest.fixture(scope="module")
def official_1024(shared):
  shared("reference/dpr/trained_model_1024_03.t7")
  return load_params("official-1024")


def as_input(luminance):
  """`[H, W]` uint8 or float -> `[1, H, W, 1]`."""
  return jnp.asarray(luminance / np.float32(255) if luminance.dtype == np.uint8 else luminance)[None, ..., None]


def test_official_512(expected, official_512):
  network = HourglassNet()
  encoding = apply(network, official_512, as_input(expected["L512"]), method="encode")
  np.testing.assert_allclose(encoding.light[0], expected["light512"], atol=1e-5)
  for number in (0, 3):
    relit = apply(network, official_512, encoding, expected["sh"][number, None], method="decode")
    np.testing.assert_allclose(relit[0, ..., 0], expected[f"out512_sh{number}"], atol=1e-5)


def test_official_512_without_skips(expected, official_512):
  network = HourglassNet()
  encoding = apply(network, official_512, as_input(expected["x128"]), method="encode")
  light = expected["sh"][1, None]
  for skip_count in range(5):
    mask = skip_count_mask(skip_count)
    wanted = expected[f"out128_skipcount{skip_count}"]
    static = network.apply(official_512, encoding, light, mask, method="decode")
    np.testing.assert_allclose(static[0, ..., 0], wanted, atol=1e-5)
    traced = apply(network, official_512, encoding, light, jnp.asarray(mask, jnp.float32), method="decode")
    np.testing.assert_allclose(traced[0, ..., 0], wanted, atol=1e-5)


def test_official_1024(expected, official_1024):
  light = expected["sh"][2, None]
  relit = apply(HourglassNet1024(), official_1024, as_input(expected["L1024"]), light)
  np.testing.assert_allclose(relit.luminance[0, ..., 0], expected["out1024_sh2"].astype(np.float32), atol=1e-3)
  np.testing.assert_allclose(relit.source_light[0], expected["light1024"], atol=1e-5)
  face = np.moveaxis(relit.face[0], -1, 0)
  assert face.shape == (128, 32, 32)
  np.testing.assert_allclose(face[:, ::16, ::16], expected["feat1024_sub"], atol=1e-4)


# ---------------------------------------------------------------------------------------------------------------------
# Structure.


@small_networks
def test_call_is_encode_then_decode(network):
  variables = random_variables(network)
  luminance, light = photo_and_light(network)
  relit = apply(network, variables, luminance, light)
  encoding = apply(network, variables, luminance, method="encode")
  decoded = apply(network, variables, encoding, light, method="decode")
  np.testing.assert_allclose(relit.luminance, decoded, atol=5e-6)
  np.testing.assert_allclose(relit.source_light, encoding.light, atol=5e-6)
  np.testing.assert_allclose(relit.face, encoding.face, rtol=1e-5, atol=1e-5)

  side = 16 if network is SMALL_512 else 32
  assert network.size_multiple == side
  assert relit.luminance.shape == luminance.shape
  assert relit.source_light.shape == (2, 9)
  assert relit.face.shape == (2, 2, 1, 8 * 2)
  outer = 1 if network is SMALL_512 else 2
  height, width = 2 * side // outer, side // outer
  assert [skip.shape for skip in encoding.skips] == [
    (2, height, width, 2),
    (2, height // 2, width // 2, 2),
    (2, height // 4, width // 4, 4),
    (2, height // 8, width // 8, 8),
  ]
  assert relit.luminance.min() > 0
  assert relit.luminance.max() < 1
  assert np.ptp(relit.luminance) > 0.01


def test_the_light_enters_at_the_bottleneck_and_nowhere_else():
  network, variables = SMALL_512, random_variables(SMALL_512)
  luminance, light = photo_and_light(network)
  one, other = (apply(network, variables, luminance, x) for x in (light, light + 1))
  assert np.abs(one.luminance - other.luminance).max() > 1e-3
  np.testing.assert_array_equal(one.face, other.face)
  np.testing.assert_array_equal(one.source_light, other.source_light)
  # Nothing that `encode` returns depends on the light; the decoder does not read the photo's own.
  encoding = apply(network, variables, luminance, method="encode")
  blind = encoding._replace(light=jnp.full_like(encoding.light, jnp.nan))
  decoded = apply(network, variables, blind, light, method="decode")
  np.testing.assert_allclose(decoded, one.luminance, atol=5e-6)

  @jax.jit
  def sensitivities(light):
    def outputs(light):
      relit = network.apply(variables, luminance, light)
      return relit.luminance.sum(), relit.face.sum() + relit.source_light.sum()

    return jax.jacrev(outputs)(light)

  of_luminance, of_encoding = sensitivities(light)
  assert (np.abs(of_luminance) > 0).any(axis=1).all()
  np.testing.assert_array_equal(of_encoding, 0)


def test_photos_of_a_batch_do_not_mix():
  network, variables = SMALL_512, random_variables(SMALL_512)
  luminance, light = photo_and_light(network)
  together = apply(network, variables, luminance, light)
  # The first photo stays at its place: at another one, XLA may sum in another order on some processors.
  others = (jnp.asarray(each).at[1:].set(jnp.nan) for each in (luminance, light))
  beside_nothing = apply(network, variables, *others)
  for one, other in zip(jax.tree.leaves(together), jax.tree.leaves(beside_nothing), strict=True):
    np.testing.assert_allclose(one[0], other[0], atol=5e-6)
    assert np.isnan(other[1:]).any()


def test_a_skip_that_is_off_is_not_read():
  network, variables = SMALL_512, random_variables(SMALL_512)
  luminance, light = photo_and_light(network)
  encoding = apply(network, variables, luminance, method="encode")
  decode = functools.partial(network.apply, variables, method="decode")
  with_all = apply(network, variables, encoding, light, method="decode")
  mask = (True, False, True, False)
  without = decode(encoding, light, mask)
  assert np.abs(with_all - without).max() > 1e-3
  skips = tuple(skip if on else jnp.full_like(skip, jnp.nan) for skip, on in zip(encoding.skips, mask, strict=True))
  np.testing.assert_array_equal(decode(encoding._replace(skips=skips), light, mask), without)
  # However the mask is written.
  for form in (list(mask), np.array(mask), np.array(mask, np.float32), jnp.array(mask), jnp.array(mask, jnp.float32)):
    np.testing.assert_allclose(decode(encoding, light, form), without, atol=5e-6)


def test_skip_count():
  assert skip_count_mask(0) == ALL_SKIPS == (True, True, True, True)
  assert skip_count_mask(1) == (False, True, True, True)  # full resolution first
  assert skip_count_mask(4) == (False, False, False, False)
  for skip_count in (-1, 5):
    with pytest.raises(ValueError, match="skip_count must be 0 to 4"):
      skip_count_mask(skip_count)


@small_networks
def test_coloured_light(network):
  network = network.clone(gray=False)
  variables = random_variables(network)
  assert network.light_size == 27
  luminance, light = photo_and_light(network)
  assert light.shape == (2, 27)
  relit = jax.eval_shape(network.apply, variables, luminance, light)
  assert relit.source_light.shape == (2, 27)
  assert relit.luminance.shape == luminance.shape
  with pytest.raises(ValueError, match=r"light must be \[2, 27\], not \[2, 9\]"):
    jax.eval_shape(network.apply, variables, luminance, light[:, :9])


# ---------------------------------------------------------------------------------------------------------------------
# Training.


# A batch norm takes away what these add; they matter only where it uses the running statistics.
CANCELLED = ("conv/bias", "conv1/bias", "conv2/bias", "conv3/bias")


@small_networks
def test_gradients(network):
  network = network.clone(base_filters=4, light_channels=5)
  variables = random_variables(network)
  luminance, light = photo_and_light(network, batch=3)
  weights = jax.tree.map(lambda x: np.random.default_rng(1).normal(size=x.shape), (luminance, light))

  def loss(params, skip_mask):
    relit, updated = network.apply(
      {**variables, "params": params}, luminance, light, skip_mask, train=True, mutable=["batch_stats"]
    )
    return (weights[0] * relit.luminance).sum() + (weights[1] * relit.source_light).sum(), updated

  gradient = jax.jit(jax.grad(loss, has_aux=True))
  gradients, updated = gradient(variables["params"], jnp.ones(4))
  sizes = {path: np.abs(leaf).max() for path, leaf in traverse_util.flatten_dict(gradients, sep="/").items()}
  assert np.isfinite(list(sizes.values())).all()
  cancelled = {path for path in sizes if path.endswith(CANCELLED)}
  assert len(cancelled) == 4
  assert max(sizes[path] for path in cancelled) < max(5e-4, 1e-6 * max(sizes.values()))  # rounding
  assert min(size for path, size in sizes.items() if path not in cancelled) > 1e-5

  # The luminance teaches the face features, the source light those that carry light.
  at_bottleneck = np.abs(gradients["trunk"]["level3"]["down"]["norm2"]["scale"])
  assert at_bottleneck[: network.light_channels].max() > 1e-4
  assert at_bottleneck[network.light_channels :].max() > 1e-4

  # The statistics have moved a tenth of the way to those of this batch.
  before, after = (traverse_util.flatten_dict(tree["batch_stats"], sep="/") for tree in (variables, updated))
  assert before.keys() == after.keys()
  for path, leaf in after.items():
    assert leaf.dtype == jnp.float32
    assert np.abs(leaf - before[path]).max() > 1e-4
  stem = variables["params"]["stem" if "stem" in variables["params"] else "stem_1024"]["conv"]
  convolved = jax.lax.conv_general_dilated(
    luminance, stem["kernel"], (1, 1), "SAME", dimension_numbers=("NHWC", "HWIO", "NHWC")
  )
  path = next(path for path in after if path.startswith("stem") and path.endswith("mean"))
  expected = 0.9 * before[path] + 0.1 * (convolved.mean((0, 1, 2)) + stem["bias"])
  np.testing.assert_allclose(after[path], expected, atol=1e-5)

  # A skip that is off learns nothing, everything else still does.
  for off in range(4):
    gradients, _ = gradient(variables["params"], jnp.ones(4).at[off].set(0))
    for level in range(4):
      of_skip = jax.tree.leaves(gradients["trunk"][f"level{level}"]["skip"])
      of_rest = jax.tree.leaves([gradients["trunk"][f"level{level}"][part] for part in ("down", "up")])
      assert all(np.abs(leaf).max() == 0 for leaf in of_skip) == (level == off)
      assert all(np.abs(leaf).max() > 0 for leaf in of_rest)


def test_training_uses_the_statistics_of_the_batch():
  network, variables = SMALL_512, random_variables(SMALL_512)
  luminance, light = photo_and_light(network)

  @functools.partial(jax.jit, static_argnames="train")
  def luminance_of(batch_stats, train):
    variables_now = {"params": variables["params"], "batch_stats": batch_stats}
    return network.apply(variables_now, luminance, light, train=train, mutable=["batch_stats"])

  shifted = jax.tree.map(lambda x: x + 1, variables["batch_stats"])
  (one, _), (other, _) = (luminance_of(stats, True) for stats in (variables["batch_stats"], shifted))
  np.testing.assert_array_equal(one.luminance, other.luminance)
  (one, kept), (other, _) = (luminance_of(stats, False) for stats in (variables["batch_stats"], shifted))
  assert np.abs(one.luminance - other.luminance).max() > 1e-3
  jax.tree.map(np.testing.assert_array_equal, kept["batch_stats"], variables["batch_stats"])


# ---------------------------------------------------------------------------------------------------------------------
# Types.


@small_networks
def test_bfloat16_computes_in_bfloat16_and_keeps_float32(network):
  network = network.clone(dtype=jnp.bfloat16)
  assert {leaf.dtype for leaf in jax.tree.leaves(shapes(network))} == {jnp.dtype(jnp.float32)}
  variables = random_variables(network)
  luminance, light = photo_and_light(network)
  relit, updated = jax.eval_shape(
    functools.partial(network.apply, train=True, mutable=["batch_stats"]), variables, luminance, light
  )
  assert {leaf.dtype for leaf in jax.tree.leaves(updated)} == {jnp.dtype(jnp.float32)}
  assert relit.luminance.dtype == relit.source_light.dtype == jnp.float32
  encoding = jax.eval_shape(functools.partial(network.apply, method="encode"), variables, luminance)
  assert {x.dtype for x in (encoding.face, *encoding.skips)} == {jnp.dtype(jnp.bfloat16)}

  equations = jax.make_jaxpr(network.apply)(variables, luminance, light).eqns
  norms = [equation for equation in equations if equation.params.get("name") == "instance_norm"]
  equations += [equation for norm in norms for equation in norm.params["jaxpr"].eqns]
  # The norms divide by standard deviations in float32.
  for primitive, number, dtype in (("conv_general_dilated", 25, jnp.bfloat16), ("rsqrt", 15, jnp.float32)):
    types = [equation.outvars[0].aval.dtype for equation in equations if equation.primitive.name == primitive]
    assert len(types) > number
    assert set(types) == {jnp.dtype(dtype)}


def test_bfloat16_is_close(expected, official_512):
  light = expected["sh"][1, None]
  relit = apply(HourglassNet(dtype=jnp.bfloat16), official_512, as_input(expected["x128"]), light)
  difference = np.abs(relit.luminance[0, ..., 0] - expected["out128_skipcount0"])
  assert difference.mean() < 0.01
  assert difference.max() < 0.1


# ---------------------------------------------------------------------------------------------------------------------
# Refusals.


@small_networks
@pytest.mark.parametrize(
  ("luminance", "light", "mask", "message"),
  [
    ((2, 64, 64), (2, 9), ALL_SKIPS, r"luminance must be \[B, H, W, 1\]"),
    ((2, 64, 64, 3), (2, 9), ALL_SKIPS, r"luminance must be \[B, H, W, 1\]"),
    ((2, 64, 63, 1), (2, 9), ALL_SKIPS, "height and width must be multiples of"),
    ((2, 24, 64, 1), (2, 9), ALL_SKIPS, "height and width must be multiples of"),
    ((2, 64, 64, 1), (2, 8), ALL_SKIPS, r"light must be \[2, 9\], not \[2, 8\]"),
    ((2, 64, 64, 1), (2, 27), ALL_SKIPS, r"light must be \[2, 9\], not \[2, 27\]"),
    ((2, 64, 64, 1), (1, 9), ALL_SKIPS, r"light must be \[2, 9\], not \[1, 9\]"),
    ((2, 64, 64, 1), (9,), ALL_SKIPS, r"light must be \[2, 9\], not \[9\]"),
    ((2, 64, 64, 1), (2, 9, 1, 1), ALL_SKIPS, "light must be"),
    ((2, 64, 64, 1), (2, 9), (True, True, True), "skip mask must have 4 entries, not 3"),
    ((2, 64, 64, 1), (2, 9), np.ones(5), "skip mask must have 4 entries, not 5"),
  ],
)
def test_wrong_shapes(network, luminance, light, mask, message):
  variables = shapes(network)
  with pytest.raises(ValueError, match=message):
    jax.eval_shape(lambda v, x, y: network.apply(v, x, y, mask), variables, jnp.zeros(luminance), jnp.zeros(light))


NETWORKS = [
  HourglassNet(base_filters=3, light_channels=5),
  HourglassNet(base_filters=3, light_channels=5, gray=False),
  HourglassNet1024(base_filters=3, light_channels=5),
  HourglassNet1024(base_filters=3, light_channels=5, gray=False),
  RatioHourglassNet(base_filters=3),
]


@pytest.mark.parametrize("dtype", [None, jnp.bfloat16])
@pytest.mark.parametrize("network", NETWORKS, ids=lambda network: f"{type(network).__name__}, {network.light_size}")
def test_network_for(network, dtype):
  network = network.clone(dtype=dtype)
  assert network_for(shapes(network), dtype) == network
  assert network_for(random_variables(network), dtype) == network


class _Garbage(nn.Module):
  @nn.compact
  def __call__(self, x):
    return nn.Dense(3)(x)


@pytest.mark.parametrize(
  "variables",
  [
    None,
    {},
    [],
    "official-512",
    np.zeros(3),
    {"params": None},
    {"params": {}},
    {"params": [1, 2]},
    {"params": {"stem": {"conv": {"kernel": np.zeros((5, 5, 1, 4))}}}},
    {"params": {"stem": 1, "trunk": {"light": {}}}},
    jax.eval_shape(_Garbage().init, jax.random.key(0), jnp.zeros((1, 2))),
  ],
)
def test_network_for_other_things(variables):
  with pytest.raises(ValueError, match="none of the relighting networks"):
    network_for(variables)


@small_networks
def test_network_for_a_damaged_tree(network):
  variables = random_variables(network)
  params = variables["params"]
  light = params["trunk"]["light"]
  for damaged in (
    params,  # without its "params" key
    {"params": {key: tree for key, tree in params.items() if key != "trunk"}},
    {"params": params | {"trunk": {"light": light | {"estimate2": {"kernel": jnp.zeros((128, 13))}}}}},
    {"params": params | {"trunk": {"light": light | {"embed2": {"kernel": jnp.zeros(())}}}}},
  ):
    with pytest.raises(ValueError, match="none of the relighting networks"):
      network_for(damaged)


def test_network_for_a_damaged_tree_of_the_ratio_network():
  params = random_variables(SMALL_RATIO)["params"]
  for damaged in (
    params,
    {"params": {key: tree for key, tree in params.items() if key != "stem"}},
    {"params": params | {"stem": {"conv": {"kernel": 1}}}},
  ):
    with pytest.raises(ValueError, match="none of the relighting networks"):
      network_for(damaged)
