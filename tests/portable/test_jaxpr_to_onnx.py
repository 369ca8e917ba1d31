"""Functions of JAX as ONNX models: each kind of operation gives JAX's numbers, for any number of photos."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from dpr_jax.network.hourglass import ResidualBlock

pytest.importorskip("onnx", reason="onnx (extra `onnx`) is not installed")
onnxruntime = pytest.importorskip("onnxruntime", reason="onnxruntime (extra `onnx`) is not installed")

from dpr_jax.portable.jaxpr_to_onnx import convert, symbolic_batch  # noqa: E402

SHAPE = (6, 8, 4)  # of one photo
PLACES = np.array([[2, 1], [7, -3], [0, 5]], np.int32)


def loop(x):
  """Values that are handed on, values of each round, and values that all rounds read."""

  def round_of(carry, k):
    return carry * 0.5 + x * k, carry.sum((1, 2, 3))

  last, sums = jax.lax.scan(round_of, jnp.zeros_like(x), np.arange(4, dtype=np.float32))
  return last + jax.lax.fori_loop(0, 3, lambda _, y: jnp.sin(y), x), sums.T


def slices(x):
  """Parts whose places depend on the photo; a place beyond the end is moved inside."""
  starts = (x[:, 0, 0, :2] * 20).astype(int) - 5
  return jax.vmap(lambda photo, at: jax.lax.dynamic_slice(photo, (at[0], at[1], 0), (3, 2, 4)))(x, starts)


def order(x):
  flat = jnp.floor(8 * x.reshape(x.shape[0], -1)) / 8  # with equal elements
  order = jnp.argsort(flat, axis=-1)
  return order, jnp.take_along_axis(flat, order, axis=-1), jnp.cumsum(flat, axis=1), flat[:, -3:-2]


def angles(x):
  y = x - 0.5
  axes = jnp.arctan2(jnp.array([[0.0, 0, 1, -1, 0]]), jnp.array([[0.0, -1, 0, 0, 1]]))
  return jnp.arctan2(y, jnp.flip(y, 2)), x[:, 0, 0, :1] + axes, jnp.hypot(y, x), jax.nn.softplus(y)


def products(x):
  kernel = np.linspace(-1, 1, 32, dtype=np.float32).reshape(8, 4)
  gram = jnp.einsum("bhwj,bhwk->bjk", x, x)
  return gram, jnp.einsum("bjk,bk->bj", gram, x[:, 0, 0]), jnp.einsum("wc,bhwc->hb", kernel, x), x @ kernel.T


def _block(batch_norm):
  """A block with weights of no special values."""
  block = ResidualBlock(5, batch_norm=batch_norm)
  channels = 4 if batch_norm else 5
  shapes = jax.eval_shape(lambda: block.init(jax.random.key(0), jnp.zeros((1, 6, 8, channels)), False))
  generator = np.random.default_rng(0)
  variables = jax.tree.map(lambda leaf: generator.uniform(0.1, 1, leaf.shape).astype(np.float32) - 0.2, shapes)
  if batch_norm:
    variables["batch_stats"] = jax.tree.map(lambda leaf: leaf + 0.3, variables["batch_stats"])
  return lambda x: block.apply(variables, x, False)


def layers(x):
  for batch_norm in (True, False):
    x = _block(batch_norm)(x)
  x = jax.lax.reduce_window(x, -np.inf, jax.lax.max, (1, 2, 2, 1), (1, 2, 2, 1), "VALID")
  b, h, w, c = x.shape
  larger = jnp.broadcast_to(x[:, :, None, :, None], (b, h, 2, w, 2, c)).reshape(b, 2 * h, 2 * w, c)
  return larger, jax.image.resize(x, (b, 9, 12, c), "linear")


def shapes(x):
  both = jnp.concatenate([x, jnp.flip(jnp.concatenate([x[:, :, 3:3], x], axis=2), 2)])
  one, other = jnp.split(both, 2)
  padded = jnp.pad(other, ((0, 0), (1, 2), (0, 0), (0, 0)), constant_values=-9)
  return (
    padded,
    jnp.stack([one, x * jnp.ones((x.shape[0], 1, 1, 1))], axis=2),
    jax.lax.slice_in_dim(x, 1, 6, 2, axis=1)[:, :, 1:3],
    x.transpose(0, 3, 1, 2),
  )


def choices(x):
  masks = (x > 0.3) & (x <= 0.7) | (x == 0)
  return jnp.where(masks, x, -x), jnp.clip(x, 0.2, 0.6), x.astype(int), x**3, x**2.5, jnp.sign(x - 0.5), x.max((1, 2))


@pytest.mark.parametrize("function", [loop, slices, order, angles, products, layers, shapes, choices])
def test_it_gives_the_numbers_of_jax_for_any_batch(function):
  def named(values):
    results = function(values["x"])
    return {f"y{k}": y for k, y in enumerate(results if isinstance(results, tuple) else (results,))}

  batch = symbolic_batch()
  model = convert(named, {"x": jax.ShapeDtypeStruct((batch, *SHAPE), np.float32)}, batch=batch)
  session = onnxruntime.InferenceSession(model.SerializeToString(), providers=["CPUExecutionProvider"])
  for photos in (1, 3):
    x = np.random.default_rng(photos).random((photos, *SHAPE), np.float32)
    expected = named({"x": jnp.asarray(x)})
    found = session.run(list(expected), {"x": x})
    for array, (name, wanted) in zip(found, expected.items(), strict=True):
      np.testing.assert_allclose(array, wanted, rtol=1e-5, atol=1e-6, err_msg=f"{function.__name__} {name}")
      assert array.dtype == wanted.dtype


def test_a_normalisation_becomes_part_of_the_convolution():
  batch = symbolic_batch()
  block = _block(True)
  arguments = {"x": jax.ShapeDtypeStruct((batch, *SHAPE), np.float32)}
  model = convert(lambda values: {"y": block(values["x"])}, arguments, batch=batch)
  operations = [node.op_type for node in model.graph.node]
  assert (operations.count("Conv"), operations.count("Relu")) == (3, 2)
  assert not {"Mul", "Sub", "Sqrt", "Expand"} & set(operations)


@pytest.mark.parametrize(("function", "named"), [(jnp.fft.rfft, "fft"), (jax.lax.erf_inv, "erf_inv")])
def test_what_onnx_has_no_counterpart_for_is_named(function, named):
  arguments = {"x": jax.ShapeDtypeStruct((4,), np.float32)}
  with pytest.raises(NotImplementedError, match=f"primitive '{named}'"):
    convert(lambda values: {"y": function(values["x"])}, arguments)
