"""The convolution and the max pooling against Flax's and XLA's own, and their gradients in float64."""

import functools
import os
import subprocess
import sys
import time

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
import pytest

from dpr_jax.network.convolution import _gradients, _gradients_on_cpu, convolve, max_pool, training_convolution


def plain(x, kernel):
  return jax.lax.conv_general_dilated(x, kernel, (1, 1), "SAME", dimension_numbers=("NHWC", "HWIO", "NHWC"))


def plain_pool(x):
  return nn.max_pool(x, (2, 2), strides=(2, 2))


def draw(*shape, seed=0, dtype=np.float64):
  return jnp.asarray(np.random.default_rng(seed).normal(size=shape), dtype)


@pytest.fixture
def _float64():
  with jax.enable_x64(True):
    yield


@pytest.mark.usefixtures("_float64")
@pytest.mark.parametrize(
  ("size", "side", "channels"),
  [
    ((6, 4), 3, (3, 5)),
    ((5, 7), 1, (4, 2)),
    ((8, 6), 5, (1, 3)),
    ((1, 1), 3, (2, 2)),  # the bottleneck of a 16-pixel picture
    ((2, 3), 5, (2, 1)),  # smaller than the kernel
  ],
)
def test_convolution(size, side, channels):
  x, kernel = draw(2, *size, channels[0]), draw(side, side, *channels, seed=1)
  gradient = draw(2, *size, channels[1], seed=2)
  expected, pull = jax.vjp(plain, x, kernel)
  got, pull_got = jax.vjp(convolve, x, kernel)
  np.testing.assert_allclose(got, expected, atol=1e-12)
  for gradients in (pull_got(gradient), _gradients_on_cpu(x, kernel, gradient), _gradients(x, kernel, gradient)):
    assert [leaf.dtype for leaf in gradients] == [np.float64] * 2
    jax.tree.map(lambda a, b: np.testing.assert_allclose(a, b, atol=1e-11), gradients, pull(gradient))


@pytest.mark.usefixtures("_float64")
@pytest.mark.parametrize("side", [1, 3])
def test_convolution_under_vmap_scan_and_twice(side):
  xs, kernels = draw(3, 2, 4, 4, 2), draw(3, side, side, 2, 3, seed=1)

  def loss(convolution, x, kernel):
    return jnp.sin(convolution(x, kernel)).sum()

  def gradients(convolution):
    one = jax.grad(functools.partial(loss, convolution), argnums=(0, 1))

    def body(total, x):
      return total + one(x, kernels[0])[1], None

    return (
      jax.jit(jax.vmap(one))(xs, kernels),
      jax.vmap(one, in_axes=(0, None))(xs, kernels[0]),
      jax.lax.scan(body, jnp.zeros_like(kernels[0]), xs)[0],
      jax.grad(lambda kernel: jnp.square(one(xs[0], kernel)[1]).sum())(kernels[0]),
    )

  jax.tree.map(lambda a, b: np.testing.assert_allclose(a, b, atol=1e-11), gradients(convolve), gradients(plain))


@pytest.mark.parametrize("dtype", [np.float32, jnp.bfloat16])
def test_types(dtype):
  x, kernel = draw(1, 4, 4, 2, dtype=dtype), draw(3, 3, 2, 3, dtype=dtype)
  y, pull = jax.vjp(convolve, x, kernel)
  assert {y.dtype, *(leaf.dtype for leaf in pull(y))} == {jnp.dtype(dtype)}
  assert max_pool(x).dtype == jax.grad(lambda x: max_pool(x).sum())(x).dtype == dtype


@pytest.mark.usefixtures("_float64")
@pytest.mark.parametrize("levels", [None, 2], ids=["", "ties"])
def test_max_pool(levels):
  x = draw(2, 6, 4, 3)
  if levels:  # a relu's many zeros: the first of equal ones takes all
    x = jnp.asarray(np.random.default_rng(0).integers(levels, size=x.shape), np.float64)
  gradient = draw(2, 3, 2, 3, seed=1)
  expected, pull = jax.vjp(plain_pool, x)
  got, pull_got = jax.vjp(max_pool, x)
  np.testing.assert_array_equal(got, expected)
  np.testing.assert_array_equal(pull_got(gradient)[0], pull(gradient)[0])
  tangent = draw(*x.shape, seed=2)
  _, forward = jax.jvp(max_pool, (x,), (tangent,))
  np.testing.assert_allclose((forward * gradient).sum(), (tangent * pull(gradient)[0]).sum(), rtol=1e-12)


_SHARDED = """
import jax, jax.numpy as jnp, numpy as np
from jax.sharding import NamedSharding, PartitionSpec as P
from dpr_jax.network.convolution import convolve, max_pool
mesh = jax.make_mesh((8,), ("data",), axis_types=(jax.sharding.AxisType.Auto,))
rng = np.random.default_rng(0)
x, kernel = (rng.normal(size=shape).astype(np.float32) for shape in ((16, 8, 8, 2), (3, 3, 2, 4)))
point = rng.normal(size=(1, 1, 4, 3)).astype(np.float32)
def loss(x, kernel, point):
  return jnp.square(convolve(max_pool(convolve(x, kernel)), point)).mean()
grad = jax.grad(loss, argnums=(0, 1, 2))
alone = jax.jit(grad)(x, kernel, point)
over, whole = NamedSharding(mesh, P("data")), NamedSharding(mesh, P())
step = jax.jit(grad, in_shardings=(over, whole, whole), out_shardings=(over, whole, whole))
jax.tree.map(lambda a, b: np.testing.assert_allclose(a, b, rtol=1e-4, atol=1e-6), step(x, kernel, point), alone)
text = step.lower(x, kernel, point).compile().as_text()
print("all-reduce" in text, "all-gather" in text or "all-to-all" in text)
"""


def test_gradients_over_eight_devices_only_sum():
  flags = os.environ.get("XLA_FLAGS", "") + " --xla_force_host_platform_device_count=8"
  environment = os.environ | {"XLA_FLAGS": flags, "JAX_PLATFORMS": "cpu"}
  output = subprocess.run(
    [sys.executable, "-c", _SHARDED], check=True, stdout=subprocess.PIPE, text=True, env=environment
  ).stdout
  assert output.split() == ["True", "False"]


@pytest.mark.slow
def test_gradients_are_fast_in_a_loop():
  """Where autodiff's own take some 70 times as long."""
  xs, kernel = jnp.ones((4, 4, 32, 32, 16)), jnp.ones((3, 3, 16, 16))

  def seconds(convolution):
    def loss(kernel):
      return jax.lax.scan(lambda total, x: (total + jnp.square(convolution(x, kernel)).sum(), None), 0.0, xs)[0]

    gradient = jax.jit(jax.grad(loss))
    gradient(kernel).block_until_ready()
    times = []
    for _ in range(5):
      start = time.perf_counter()
      gradient(kernel).block_until_ready()
      times.append(time.perf_counter() - start)
    return min(times)

  assert seconds(convolve) < seconds(plain) / 5


def test_what_they_refuse():
  with pytest.raises(ValueError, match="sides of the kernel must be odd"):
    convolve(jnp.zeros((1, 4, 4, 1)), jnp.zeros((2, 2, 1, 1)))
  with pytest.raises(ValueError, match="height and width must be even"):
    max_pool(jnp.zeros((1, 3, 4, 1)))
  for layer in (nn.Conv(1, (3, 3), strides=2), nn.Conv(1, (3, 3), padding="VALID")):
    with pytest.raises(ValueError, match="only stride 1 with SAME padding"):
      layer.clone(conv_general_dilated=training_convolution).init(jax.random.key(0), jnp.zeros((1, 4, 4, 1)))
