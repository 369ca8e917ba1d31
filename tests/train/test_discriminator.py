"""The PatchGAN: what its patches see, shapes, types, and what it refuses."""

import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax import linen as nn

from dpr_jax.train import discriminator
from dpr_jax.train.discriminator import PatchDiscriminator

pytestmark = pytest.mark.usefixtures("quick_compilation")

SMALL = PatchDiscriminator(base_filters=4, levels=2)
scores_of = jax.jit(SMALL.apply)


@functools.partial(jax.jit, static_argnums=0)
def init(network, key, x):
  return network.init(key, x)


def luminance(shape=(2, 32, 24, 1), seed=0):
  return jnp.asarray(np.random.default_rng(seed).uniform(size=shape), jnp.float32)


def bypass_norm(call, args, kwargs, context):
  """Instance norm spreads every pixel over the whole picture; the reach of the convolutions shows without it."""
  return args[0] if isinstance(context.module, nn.InstanceNorm) else call(*args, **kwargs)


@pytest.mark.parametrize(("levels", "size"), [(1, 16), (2, 34), (3, 70), (4, 142)])
def test_one_score_sees_a_patch_of_the_size_it_says(levels, size):
  """The pixels that a score in the middle depends on, by its gradient."""
  network = PatchDiscriminator(base_filters=1, levels=levels)
  side = size + 4 * 2**levels
  x = luminance((1, side, side, 1))
  params = init(network, jax.random.key(0), x)
  params = jax.tree.map(lambda leaf: 0.1 + jnp.abs(leaf), params)  # no two ways cancel

  def middle_score(x):
    with nn.intercept_methods(bypass_norm):
      scores = network.apply(params, x)
    return scores[0, scores.shape[1] // 2, scores.shape[2] // 2, 0]

  seen = np.argwhere(np.asarray(jax.jit(jax.grad(middle_score))(x))[0, ..., 0] != 0)
  first, last = seen.min(axis=0), seen.max(axis=0)
  assert first.min() > 0  # the whole patch lies inside the picture
  assert last.max() < side - 1
  np.testing.assert_array_equal(last - first + 1, [size, size])
  assert len(seen) == size**2


def test_neighbouring_patches_lie_a_stride_apart():
  """Without the norm, a picture moved by 2**levels pixels has its scores moved by one."""
  x = luminance((1, 72, 72, 1))
  params = init(SMALL, jax.random.key(0), x)
  with nn.intercept_methods(bypass_norm):
    apply = jax.jit(lambda picture: SMALL.apply(params, picture))  # traced while the norm is passed by
    scores, moved = (apply(picture) for picture in (x, jnp.roll(x, (4, 4), axis=(1, 2))))
  inner = slice(6, -6)  # away from the padding
  np.testing.assert_allclose(moved[:, inner, inner], scores[:, 5:-7, 5:-7], rtol=1e-4, atol=1e-5)
  assert np.abs(moved[:, inner, inner] - scores[:, inner, inner]).max() > 1e-2


@pytest.mark.parametrize(("levels", "side", "expected"), [(3, 256, 30), (3, 70, 6), (3, 24, 1), (2, 64, 14), (1, 6, 1)])
def test_number_of_scores(levels, side, expected):
  """256 pixels and three levels: the 30 x 30 scores of Isola et al. 2017."""
  network = PatchDiscriminator(base_filters=2, levels=levels)
  scores, variables = jax.eval_shape(
    network.init_with_output, jax.random.key(0), jax.ShapeDtypeStruct((3, side, side + 8, 1), jnp.float32)
  )
  assert scores.shape == (3, expected, (side + 8) // 2**levels - 2, 1)
  assert set(variables) == {"params"}  # no batch statistics


def test_layers_of_the_70_pixel_discriminator():
  """C64-C128-C256-C512 and one channel (Isola et al. 2017); a bias only where no norm would take it away."""
  variables = jax.eval_shape(PatchDiscriminator().init, jax.random.key(0), jnp.zeros((1, 64, 64, 1)))
  shapes = jax.tree.map(lambda leaf: leaf.shape, variables["params"])
  assert shapes == {
    "conv0": {"kernel": (4, 4, 1, 64), "bias": (64,)},
    "conv1": {"kernel": (4, 4, 64, 128)},
    "conv2": {"kernel": (4, 4, 128, 256)},
    "conv3": {"kernel": (4, 4, 256, 512)},
    "output": {"kernel": (4, 4, 512, 1), "bias": (1,)},
  }
  deeper = jax.eval_shape(PatchDiscriminator(levels=5).init, jax.random.key(0), jnp.zeros((1, 128, 128, 1)))
  assert deeper["params"]["conv5"]["kernel"].shape == (4, 4, 512, 512)  # never more than eightfold


@pytest.mark.parametrize(("contrast", "gain", "tolerance"), [(1, 1, 1e-5), (3e-3, 100, 1e-3)])
def test_forward_pass_against_plain_convolutions(contrast, gain, tolerance):
  """Every layer written out once more, in float64 and without Flax; of a bright, nearly even picture as well."""
  x = 0.95 + contrast * (luminance((1, 16, 16, 1)) - 0.95)
  params = init(SMALL, jax.random.key(1), x)["params"]
  params["conv0"]["kernel"] *= gain

  def convolve(image, layer, stride):
    kernel = np.asarray(layer["kernel"], np.float64)
    image = np.pad(image, ((1, 1), (1, 1), (0, 0)))
    windows = np.lib.stride_tricks.sliding_window_view(image, (4, 4), axis=(0, 1))[::stride, ::stride]
    return np.einsum("hwcij,ijcf->hwf", windows, kernel) + np.asarray(layer.get("bias", 0), np.float64)

  def normalise(image):
    return (image - image.mean((0, 1))) / np.sqrt(image.var((0, 1)) + 1e-5)

  def leaky(image):
    return np.where(image > 0, image, 0.2 * image)

  y = leaky(convolve(2 * np.asarray(x[0], np.float64) - 1, params["conv0"], 2))
  y = leaky(normalise(convolve(y, params["conv1"], 2)))
  y = leaky(normalise(convolve(y, params["conv2"], 1)))
  y = convolve(y, params["output"], 1)
  assert np.std(y) > 0.1
  np.testing.assert_allclose(scores_of({"params": params}, x)[0], y, atol=tolerance * np.std(y))


def test_scores_depend_neither_on_the_batch_nor_on_the_call():
  x = luminance((3, 32, 32, 1))
  params = init(SMALL, jax.random.key(0), x)
  assert jax.tree.all(jax.tree.map(jnp.array_equal, params, init(SMALL, jax.random.key(0), x)))
  scores = scores_of(params, x)
  np.testing.assert_array_equal(scores_of(params, x), scores)
  for k in range(3):
    np.testing.assert_allclose(scores_of(params, x[k : k + 1])[0], scores[k], rtol=1e-4, atol=1e-5)
  assert np.abs(scores[0] - scores[1]).max() > 1e-2


def test_brightness_is_seen_and_even_pictures_have_finite_gradients():
  x = luminance((1, 32, 32, 1))
  params = init(SMALL, jax.random.key(0), x)
  assert np.abs(scores_of(params, x) - scores_of(params, 0.5 * x)).max() > 1e-3
  gradient = jax.jit(jax.grad(lambda p, y: jnp.sum(SMALL.apply(p, y) ** 2), argnums=(0, 1)))
  for picture in (jnp.zeros_like(x), jnp.full_like(x, 0.5), jnp.ones_like(x), x):
    gradients = gradient(params, picture)
    assert jax.tree.all(jax.tree.map(lambda leaf: bool(jnp.isfinite(leaf).all()), gradients))


def test_bfloat16_computes_in_bfloat16_and_keeps_the_rest_in_float32():
  x = luminance((2, 32, 32, 1))
  network = PatchDiscriminator(base_filters=8, levels=2, dtype=jnp.bfloat16)
  params = init(network, jax.random.key(0), x)
  assert {leaf.dtype for leaf in jax.tree.leaves(params)} == {jnp.dtype("float32")}
  scores, state = jax.jit(functools.partial(network.apply, capture_intermediates=True))(params, x)
  dtypes = {name: calls["__call__"][0].dtype for name, calls in state["intermediates"].items() if name != "__call__"}
  assert set(dtypes) == {"conv0", "conv1", "norm1", "conv2", "norm2", "output"}
  assert set(dtypes.values()) == {jnp.dtype("bfloat16")}
  assert scores.dtype == jnp.float32
  single = jax.jit(PatchDiscriminator(base_filters=8, levels=2, dtype=jnp.float32).apply)(params, x)
  assert np.sqrt(np.mean((scores - single) ** 2)) < 0.03 * np.std(single)


@pytest.mark.parametrize("shape", [(2, 11, 32, 1), (2, 32, 11, 1)])
def test_a_picture_too_small_for_a_score_is_refused(shape):
  assert discriminator.minimum_size(2) == 12
  assert SMALL.init_with_output(jax.random.key(0), luminance((2, 12, 12, 1)))[0].shape == (2, 1, 1, 1)
  with pytest.raises(ValueError, match="2 levels need images of at least 12 pixels a side, not"):
    SMALL.init(jax.random.key(0), luminance(shape))


@pytest.mark.parametrize("picture", [jnp.zeros((32, 32, 1)), jnp.zeros((1, 32, 32, 3)), jnp.zeros((1, 32, 32, 1), int)])
def test_what_is_no_luminance_is_refused(picture):
  with pytest.raises(ValueError, match="luminance must be"):
    SMALL.init(jax.random.key(0), picture)


def test_no_levels_are_refused():
  with pytest.raises(ValueError, match="at least one level"):
    PatchDiscriminator(levels=0).init(jax.random.key(0), luminance())
