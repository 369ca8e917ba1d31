"""The networks against the official PyTorch ones' numbers, and what their structure promises."""

import functools

import cv2
import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax import traverse_util

from dpr_jax import sh, shadows
from dpr_jax.checkpoints import load_params
from dpr_jax.hourglass import (
  ALL_SKIPS,
  RATIO_OFFSET,
  STARTS_AT_ZERO,
  DepthHead,
  HourglassNet,
  HourglassNet1024,
  Illumination,
  NormalHead,
  RatioHourglassNet,
  _enlarge,
  _shrink,
  network_for,
  skip_count_mask,
)

SMALL_512 = HourglassNet(base_filters=2, light_channels=3)
SMALL_1024 = HourglassNet1024(base_filters=2, light_channels=3)
SMALL_RATIO = RatioHourglassNet(base_filters=2, light_channels=3)
small_networks = pytest.mark.parametrize("network", [SMALL_512, SMALL_1024, SMALL_RATIO], ids=["512", "1024", "ratio"])


@pytest.fixture(autouse=True, scope="module")
def _quick_compilation():
  """Compiling is most of what these tests do."""
  jax.config.update("jax_disable_most_optimizations", True)
  yield
  jax.config.update("jax_disable_most_optimizations", False)


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
      if path[-2].key == "log_ratio":
        values *= 0.03  # ratios up to about 2
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


@pytest.mark.parametrize("network", [SMALL_512, SMALL_1024], ids=["512", "1024"])
def test_call_is_encode_then_decode(network):
  variables = random_variables(network)
  luminance, light = photo_and_light(network)
  relit = apply(network, variables, luminance, light)
  encoding = apply(network, variables, luminance, method="encode")
  decoded = apply(network, variables, encoding, light, method="decode")
  np.testing.assert_allclose(relit.luminance, decoded, atol=1e-6)
  np.testing.assert_allclose(relit.source_light, encoding.light, atol=1e-6)
  np.testing.assert_allclose(relit.face, encoding.face, atol=1e-6)

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
  np.testing.assert_allclose(decoded, one.luminance, atol=1e-6)

  @jax.jit
  def sensitivities(light):
    def outputs(light):
      relit = network.apply(variables, luminance, light)
      return relit.luminance.sum(), relit.face.sum() + relit.source_light.sum()

    return jax.jacrev(outputs)(light)

  of_luminance, of_encoding = sensitivities(light)
  assert (np.abs(of_luminance) > 0).any(axis=1).all()
  np.testing.assert_array_equal(of_encoding, 0)


@pytest.mark.parametrize("network", [SMALL_512, SMALL_RATIO], ids=["512", "ratio"])
def test_photos_of_a_batch_do_not_mix(network):
  variables = random_variables(network)
  luminance, light = photo_and_light(network)
  together = apply(network, variables, luminance, light)
  # The first photo stays at its place: at another one, XLA may sum in another order on some processors.
  others = (jnp.asarray(each).at[1:].set(jnp.nan) for each in (luminance, light))
  beside_nothing = apply(network, variables, *others)
  for one, other in zip(jax.tree.leaves(together), jax.tree.leaves(beside_nothing), strict=True):
    np.testing.assert_allclose(one[0], other[0], atol=1e-6)
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
    np.testing.assert_allclose(decode(encoding, light, form), without, atol=1e-6)


def test_skip_count():
  assert skip_count_mask(0) == ALL_SKIPS == (True, True, True, True)
  assert skip_count_mask(1) == (False, True, True, True)  # full resolution first
  assert skip_count_mask(4) == (False, False, False, False)
  for skip_count in (-1, 5):
    with pytest.raises(ValueError, match="skip_count must be 0 to 4"):
      skip_count_mask(skip_count)


@pytest.mark.parametrize("network", [SMALL_512, SMALL_1024], ids=["512", "1024"])
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
# The ratio network.


def test_a_mirrored_face_has_mirrored_shape_and_light():
  """After training; and each photo of a batch its own."""
  network, variables = SMALL_RATIO, random_variables(SMALL_RATIO)
  luminance, _ = photo_and_light(network)
  seen, mirrored, alone = (
    jax.device_get(apply(network, variables, photos, method="encode"))
    for photos in (luminance, luminance[:, :, ::-1], luminance[1:])
  )
  np.testing.assert_allclose(mirrored.light, seen.light * sh.MIRROR, atol=1e-5)
  np.testing.assert_allclose(mirrored.surface.normal, seen.surface.normal[:, :, ::-1] * [-1, 1, 1], atol=1e-4)
  framing = seen.surface.framing * np.float32([1, -1, 1])
  np.testing.assert_allclose(mirrored.surface.framing, framing, atol=1e-4)
  np.testing.assert_allclose(alone.surface.normal, seen.surface.normal[1:], atol=1e-4)


def test_the_ratio_network_is_encode_then_decode_too():
  network, variables = SMALL_RATIO, random_variables(SMALL_RATIO)
  luminance, light = photo_and_light(network)
  relit = apply(network, variables, luminance, light)
  encoding = apply(network, variables, luminance, method="encode")
  decoded = apply(network, variables, encoding, light, method="decode")
  np.testing.assert_allclose(relit.luminance, decoded, atol=1e-5)
  surface = encoding.surface
  np.testing.assert_array_equal(surface.luminance, luminance)
  np.testing.assert_allclose(np.linalg.norm(surface.normal, axis=-1), 1, atol=1e-5)
  assert surface.normal[..., 1].max() < 0  # what one sees faces the camera
  assert surface.framing.shape == (2, 3)
  assert [array.shape for array in surface[2:6]] == [(2, 32, 16, channels) for channels in (3, 2, 1, 1)]
  assert surface.own_log_ratio.shape == luminance.shape
  assert (relit.luminance.min() >= 0, relit.luminance.max() <= 1) == (True, True)
  other = apply(network, variables, encoding, light + 1, method="decode")
  assert np.abs(other - decoded).max() > 1e-3
  with pytest.raises(ValueError, match="are all on"):
    network.apply(variables, encoding, light, (False, True, True, True), method="decode")
  with pytest.raises(ValueError, match="gray"):
    shapes(network.clone(gray=False))


def untrained(network):
  """Variables with the zeros that training begins with."""

  def start(path, leaf):
    return 0 * leaf if any(step.key in STARTS_AT_ZERO for step in path) else leaf

  return jax.tree_util.tree_map_with_path(start, random_variables(network))


def test_modules_that_start_at_zero_are_those_that_flax_starts_there():
  luminance, light = photo_and_light(SMALL_RATIO)
  drawn = traverse_util.flatten_dict(jax.jit(SMALL_RATIO.init)(jax.random.key(0), luminance, light)["params"])
  zero = {path[-2] for path, leaf in drawn.items() if path[-1] == "kernel" and not leaf.any()}
  assert zero == set(STARTS_AT_ZERO)


def test_under_its_own_light_a_photo_stays_as_it_is():
  """After training, whatever was learnt."""
  network, variables = SMALL_RATIO, random_variables(SMALL_RATIO)
  luminance, _ = photo_and_light(network)
  encoding = apply(network, variables, luminance, method="encode")
  same = apply(network, variables, encoding, encoding.light, method="decode")
  np.testing.assert_allclose(same, luminance, atol=1e-4)
  assert np.abs(encoding.surface.own_log_ratio).max() > 0.01


def test_before_training_the_photo_is_rendered_anew_and_its_own_light_changes_nothing():
  network, variables = SMALL_RATIO, untrained(SMALL_RATIO)
  luminance, light = photo_and_light(network)
  encoding = apply(network, variables, luminance, method="encode")
  same = apply(network, variables, encoding, encoding.light, method="decode")
  np.testing.assert_allclose(same, luminance, atol=1e-5)
  assert np.abs(apply(network, variables, encoding, light, method="decode") - luminance).max() > 1e-3


def test_the_ratio_multiplies_the_photo():
  """Before training whatever the photo holds is multiplied by one ratio: its grain goes to the output."""
  network, variables = SMALL_RATIO, untrained(SMALL_RATIO)
  luminance, light = photo_and_light(network)
  encoding = apply(network, variables, luminance, method="encode")
  decode = functools.partial(network.apply, variables, method="decode", train=True, mutable=["batch_stats"])
  one, _ = decode(encoding, light)
  turned = encoding._replace(surface=encoding.surface._replace(luminance=luminance[:, ::-1]))
  other, _ = decode(turned, light)
  ratio = (one + RATIO_OFFSET) / (luminance + RATIO_OFFSET)
  np.testing.assert_allclose((other + RATIO_OFFSET) / (luminance[:, ::-1] + RATIO_OFFSET), ratio, rtol=1e-4)
  assert np.ptp(ratio) > 1e-3


def test_depth_is_that_of_the_normals_and_a_mean_face_where_the_face_lies():
  head, normal = DepthHead(), jnp.asarray(ball_normals(64))[None]
  bump = np.zeros((64, 64, 1), np.float32)
  bump[20:24, 40:44] = 0.1  # right of the middle and above it
  flat = head.apply({"params": {"mean_face": 0 * bump}}, normal, jnp.array([[1.0, 0, 0]]))
  np.testing.assert_array_equal(flat[..., 0], shadows.depth_of_normals(normal))
  for factor, right, down in ((1.0, 0, 0), (1.0, -0.25, 0.125), (1.5, 0, 0)):
    laid = head.apply({"params": {"mean_face": bump}}, normal, jnp.array([[factor, right, down]])) - flat
    rows, columns = np.nonzero(np.asarray(laid[0, ..., 0]) > 0.05 * factor)
    centre = (np.array([columns.mean(), rows.mean()]) + 0.5) / 32 - 1
    np.testing.assert_allclose(centre, factor * (np.array([42, 22]) / 32 - 1) + (right, down), atol=0.03)
    assert float(laid.max()) == pytest.approx(0.1 * factor, rel=1e-3)


def ball_normals(size):
  normal, _ = sh.sphere_normals(size)
  return normal


@pytest.mark.parametrize("lamp_share", [0.0, 1.0])
def test_illumination_is_what_the_dataset_calls_it(lamp_share):
  """As a lamp: even light and the lamp seen past the face; as soft light: `sh.shading`."""
  rng = np.random.default_rng(0)
  normal = rng.normal(size=(1, 8, 8, 3)).astype(np.float32)
  normal /= np.linalg.norm(normal, axis=-1, keepdims=True)
  depth = rng.uniform(0, 0.2, (1, 8, 8, 1)).astype(np.float32)
  towards = sh.direction(40, 20)
  light = sh.directional(towards, 0.3, 0.8)[None]
  bias = np.float32([40 * (2 * lamp_share - 1), np.log(0.2 / 0.8), np.log(1.3)])
  params = {"mixture": {"kernel": np.zeros((4, 3), np.float32), "bias": bias}}
  shading = Illumination().apply({"params": params}, normal, depth, light, np.zeros((1, 4), np.float32))[0, ..., 0]
  seen = shadows.visibility(depth[0, ..., 0], towards, 0.3)
  lamp = 1.3 * (0.2 + 0.8 * np.maximum(normal[0] @ towards, 0) * seen)
  expected = lamp if lamp_share else np.maximum(sh.shading(normal[0], light[0]), 0)
  np.testing.assert_allclose(shading, expected + 0.02, atol=2e-3)


def test_the_mean_face_is_laid_where_the_face_is():
  """Moved by the framing as a warp of the picture moves it."""
  rng = np.random.default_rng(0)
  coarse = cv2.resize(rng.normal(size=(8, 8, 3)).astype(np.float32), (64, 64), interpolation=cv2.INTER_CUBIC)
  params = {"mean_face": coarse / 20, "conv": {"kernel": np.zeros((3, 3, 2, 3)), "bias": np.zeros(3)}}
  framing = np.float32([[1, 0, 0], [1.25, 0.2, -0.1]])
  normal = NormalHead().apply({"params": params}, np.zeros((2, 64, 64, 2), np.float32), framing, False)
  # Pixels are counted from the centre of the first, half sides from the picture's centre.
  warp = np.float32([[1.25, 0, -0.25 * 31.5 + 6.4], [0, 1.25, -0.25 * 31.5 - 3.2]])
  moved = cv2.warpAffine(coarse, warp, (64, 64), borderMode=cv2.BORDER_REPLICATE)
  for laid, face, tolerance in ((normal[0], coarse, 1e-5), (normal[1], moved, 0.01)):
    right, near, up = np.split(face, 3, axis=-1)
    expected = np.concatenate([right, -np.log1p(np.exp(near)) - 1e-2, up], axis=-1)
    expected /= np.linalg.norm(expected, axis=-1, keepdims=True)
    assert np.abs(laid - expected).mean() < tolerance


def test_pixels_keep_their_places():
  picture = jnp.arange(2 * 12 * 8.0).reshape(2, 12, 8, 1)
  small = _shrink(picture)
  np.testing.assert_array_equal(small[1, 2, 1], picture[1, 8:, 4:, 0].ravel())
  np.testing.assert_array_equal(_enlarge(small), picture)


# ---------------------------------------------------------------------------------------------------------------------
# Training.


def with_places(luminance):
  """What the stem of a ratio network sees: squares of pixels as channels, and where they lie."""
  small = _shrink(luminance)
  y, x = ((2 * np.arange(side) + 1) / side - 1 for side in small.shape[1:3])
  x, y = jnp.meshgrid(x.astype(np.float32), y.astype(np.float32))
  places = jnp.broadcast_to(jnp.stack([x, y], axis=-1), (*small.shape[:3], 2))
  return jnp.concatenate([small, places], axis=-1)


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
    surface = relit.surface
    of_shape = 0.0 if surface is None else surface.framing.sum() + surface.depth.sum()  # learnt by losses of their own
    return (weights[0] * relit.luminance).sum() + (weights[1] * relit.source_light).sum() + of_shape, updated

  gradient = jax.jit(jax.grad(loss, has_aux=True))
  gradients, updated = gradient(variables["params"], jnp.ones(4))
  sizes = {path: np.abs(leaf).max() for path, leaf in traverse_util.flatten_dict(gradients, sep="/").items()}
  assert np.isfinite(list(sizes.values())).all()
  cancelled = {
    path
    for path in sizes
    if path.endswith(CANCELLED) and not path.startswith(("ratio_head", "normal_head", "framing_head"))
  }
  assert len(cancelled) == (1 if isinstance(network, RatioHourglassNet) else 4)
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
    with_places(luminance) if isinstance(network, RatioHourglassNet) else luminance,
    stem["kernel"],
    (1, 1),
    "SAME",
    dimension_numbers=("NHWC", "HWIO", "NHWC"),
  )
  path = next(path for path in after if path.startswith("stem") and path.endswith("mean"))
  expected = 0.9 * before[path] + 0.1 * (convolved.mean((0, 1, 2)) + stem["bias"])
  np.testing.assert_allclose(after[path], expected, atol=1e-5)

  if isinstance(network, RatioHourglassNet):
    return  # its skips are all on
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


@pytest.mark.parametrize("dtype", [None, jnp.bfloat16])
@pytest.mark.parametrize(
  ("network_class", "gray"),
  [
    (HourglassNet, True),
    (HourglassNet, False),
    (HourglassNet1024, True),
    (HourglassNet1024, False),
    (RatioHourglassNet, True),
  ],
)
def test_network_for(network_class, dtype, gray):
  network = network_class(base_filters=3, light_channels=5, gray=gray, dtype=dtype)
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
