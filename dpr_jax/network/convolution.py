"""Convolution and max pooling whose gradients run as fast as their forward passes; values are those of Flax's own.

XLA's CPU compiler has fast kernels for a convolution in one order of dimensions, and brings others into it only outside
of loops: the gradients that autodiff writes run 70 times slower inside `lax.scan`, as gradient accumulation uses it.
The gradient of its max pooling searches every window once more, with indices of 32 bits for every pixel.
"""

import jax
import jax.numpy as jnp
from flax import linen as nn
from jax import lax

_DIMENSIONS = ("NHWC", "HWIO", "NHWC")


@jax.custom_jvp
def max_pool(x: jax.Array) -> jax.Array:
  """Largest of every 2x2 window, `[B, 2h, 2w, C] -> [B, h, w, C]`; the gradient goes to the first of equal ones.

  Raises:
    ValueError: odd sides.
  """
  if x.shape[1] % 2 or x.shape[2] % 2:
    raise ValueError(f"height and width must be even, not {x.shape[1:3]}")
  return nn.max_pool(x, (2, 2), strides=(2, 2))


@max_pool.defjvp
def _max_pool_jvp(primals, tangents):
  (x,), (tangent,) = primals, tangents
  y = max_pool(x)
  b, h, w, c = y.shape
  largest = x.reshape(b, h, 2, w, 2, c) == y[:, :, None, :, None, :]
  top_left, top_right, bottom_left = largest[:, :, 0, :, 0], largest[:, :, 0, :, 1], largest[:, :, 1, :, 0]
  first = jnp.where(top_left, 0, jnp.where(top_right, 1, jnp.where(bottom_left, 2, 3))).astype(jnp.int8)
  place = jnp.arange(4, dtype=jnp.int8).reshape(1, 1, 2, 1, 2, 1)
  chosen = first[:, :, None, :, None, :] == place
  return y, jnp.where(chosen, tangent.reshape(b, h, 2, w, 2, c), 0).sum((2, 4))


@jax.custom_vjp
def convolve(x: jax.Array, kernel: jax.Array) -> jax.Array:
  """Convolution of stride 1 that keeps the size (zeros around), for training; differentiable in reverse mode only.

  Args:
    x: `[B, H, W, I]`.
    kernel: `[k, k, I, O]`, k odd.

  Returns:
    `[B, H, W, O]`.

  Raises:
    ValueError: an even k.
  """
  if any(side % 2 == 0 for side in kernel.shape[:2]):
    raise ValueError(f"sides of the kernel must be odd, not {kernel.shape[:2]}")
  return lax.conv_general_dilated(x, kernel, (1, 1), "SAME", dimension_numbers=_DIMENSIONS)


def _convolve_forward(x, kernel):
  return convolve(x, kernel), (x, kernel)


def _convolve_backward(residuals, gradient):
  return lax.platform_dependent(*residuals, gradient, cpu=_gradients_on_cpu, default=_gradients)


def _gradients(x: jax.Array, kernel: jax.Array, gradient: jax.Array) -> tuple[jax.Array, jax.Array]:
  def convolution(x, kernel):
    return lax.conv_general_dilated(x, kernel, (1, 1), "SAME", dimension_numbers=_DIMENSIONS)

  return jax.vjp(convolution, x, kernel)[1](gradient)


def _gradients_on_cpu(x: jax.Array, kernel: jax.Array, gradient: jax.Array) -> tuple[jax.Array, jax.Array]:
  """`_gradients`, every convolution in `_DIMENSIONS`."""
  reach = tuple((side // 2, side // 2) for side in kernel.shape[:2])
  flipped = kernel[::-1, ::-1].swapaxes(2, 3)
  of_x = lax.conv_general_dilated(gradient, flipped, (1, 1), reach, dimension_numbers=_DIMENSIONS)
  if kernel.shape[:2] == (1, 1):
    return of_x, jnp.einsum("bhwi,bhwo->io", x, gradient)[None, None]
  # The input channels become the batch; what is summed over is the batch and, in windows as large as the picture, H, W.
  of_kernel = lax.conv_general_dilated(
    x.transpose(3, 1, 2, 0), gradient.transpose(1, 2, 0, 3), (1, 1), reach, dimension_numbers=_DIMENSIONS
  )
  return of_x, of_kernel.transpose(1, 2, 0, 3)


convolve.defvjp(_convolve_forward, _convolve_backward)


def training_convolution(x: jax.Array, kernel: jax.Array, strides, padding, **options) -> jax.Array:
  """`convolve`, for the argument `conv_general_dilated` of a `nn.Conv` with no other options than its defaults."""
  if tuple(strides) != (1, 1) or padding != "SAME":
    raise ValueError(f"only stride 1 with SAME padding, not {tuple(strides)} with {padding}")
  return convolve(x, kernel)
