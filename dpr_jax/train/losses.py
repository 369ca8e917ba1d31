"""The terms of the training loss, one pure function each (Zhou et al. 2019); `config.loss` weighs them.

Every term is the mean over the batch of one number per example, so that the loss of a batch is the mean of those of its
equal parts: neither the number of devices nor the accumulation of gradients changes it. All is computed in float32,
whatever the floating type that comes in. Shapes must match exactly: nothing is broadcast.

With a mask `[B, H, W, 1]`, bool or float from 0 outside to 1 inside, N_I is the number of the example's pixels inside.
An example without any contributes 0, and still counts in the mean over the batch.
"""

import jax
import jax.numpy as jnp
import numpy as np

Array = jax.Array | np.ndarray


def image_l1(*, prediction: Array, target: Array, mask: Array | None = None) -> jax.Array:
  """How far the relit image is off, 1/N_I ||I_t - I_t*||_1: first part of the paper's image loss.

  Args:
    prediction: relit L / 100, `[B, H, W, 1]`.
    target: `[B, H, W, 1]`.
    mask: pixels that count, `[B, H, W, 1]`.

  Returns:
    Scalar, in units of L / 100.

  Raises:
    ValueError: other or different shapes, or a type that is not floating.
  """
  prediction, target, mask = _pictures(prediction, target, mask)
  return jnp.mean(_per_pixel(_sum(mask * _absolute(prediction - target)), mask))


def gradient_l1(*, prediction: Array, target: Array, mask: Array | None = None) -> jax.Array:
  """How far the relit image's edges are off, 1/N_I ||grad I_t - grad I_t*||_1: second part of the image loss.

  The gradient at a pixel is the difference to its right neighbour and the difference to the one below; both absolute
  errors are added up, over all pixels, and divided by the number of pixels N_I = H * W. The last column has no right
  neighbour and the last row none below: these differences are left out of the sum, N_I stays. A mask leaves out the
  differences that reach across its edge as well.

  Args, Returns and Raises: as `image_l1`.
  """
  prediction, target, mask = _pictures(prediction, target, mask)
  error = prediction - target
  across = mask[:, :, 1:] * mask[:, :, :-1] * _absolute(error[:, :, 1:] - error[:, :, :-1])
  down = mask[:, 1:] * mask[:, :-1] * _absolute(error[:, 1:] - error[:, :-1])
  return jnp.mean(_per_pixel(_sum(across) + _sum(down), mask))


def light_l2(*, prediction: Array, target: Array) -> jax.Array:
  """How far the estimated light is off, (L_s - L_s*)^2: last part of the paper's image loss.

  The subscript is the source's: the network reads this light off its input, whose own light is the target here. The
  light that the image is relit to has no place in it.

  Args:
    prediction: the source light that the network estimates, `[B, 9]` SH coefficients (27 for colour).
    target: the light that the source was taken in, of the same shape.

  Returns:
    Scalar: the squares added up over the coefficients (the paper divides the image by N_I, the light by nothing).

  Raises:
    ValueError: other or different shapes, or a type that is not floating.
  """
  prediction, target = _float32("light", prediction, target)
  if prediction.ndim != 2:
    raise ValueError(f"lights must be [B, N], not {list(prediction.shape)}")
  return jnp.mean(jnp.sum(jnp.square(prediction - target), axis=1))


def light_cauchy(*, prediction: Array, target: Array) -> jax.Array:
  """The mean of log(1 + d^2), d the distance of two lights: `light_l2` where they are close, and one that is far off,
  of which a face under light from behind says little, does not drown the others (Cauchy's loss; Barron 2019).

  Ours: the paper's lights are soft, and its network is told their brightness.

  Args:
    prediction: the light that the network estimates, `[B, N]` SH coefficients.
    target: the light that the photo was taken in, `[B, N]`.

  Returns:
    Scalar.

  Raises:
    ValueError: other or different shapes, or a type that is not floating.
  """
  prediction, target = _float32("light", prediction, target)
  if prediction.ndim != 2:
    raise ValueError(f"lights must be [B, N], not {list(prediction.shape)}")
  return jnp.mean(jnp.log1p(jnp.sum(jnp.square(prediction - target), axis=1)))


def lsgan_discriminator(*, real: Array, fake: Array) -> jax.Array:
  """What the discriminator minimises, E (D(real) - 1)^2 + E D(fake)^2: least-squares GAN (Mao et al. 2017).

  Args:
    real: scores of real images, `[B, h, w, 1]`, one a patch.
    fake: scores of relit images, `[N, h, w, 1]`; there may be more or fewer of them.

  Returns:
    Scalar.

  Raises:
    ValueError: not scores of patches, of different numbers of patches, or of a type that is not floating.
  """
  real, fake = _scores(real), _scores(fake)
  if real.shape[1:] != fake.shape[1:]:
    raise ValueError(f"real images have {list(real.shape)} scores, relit ones {list(fake.shape)}")
  return jnp.mean(jnp.square(real - 1)) + jnp.mean(jnp.square(fake))


def lsgan_generator(*, fake: Array) -> jax.Array:
  """What the generator minimises of the least-squares GAN, E (D(fake) - 1)^2; see `lsgan_discriminator`."""
  return jnp.mean(jnp.square(_scores(fake) - 1))


def feature_matching(*, first: Array, second: Array) -> jax.Array:
  """How far the face features of one face depend on its light, 1/N_F (Z_f1 - Z_f2)^2: the feature matching loss.

  Args:
    first: Z_f of faces under one light, `[B, h, w, C]`: the bottleneck without its light channels.
    second: Z_f of the same faces under another light.

  Returns:
    Scalar; N_F = h * w * C.

  Raises:
    ValueError: other or different shapes, or a type that is not floating.
  """
  first, second = _float32("features", first, second)
  if first.ndim != 4:
    raise ValueError(f"features must be [B, h, w, C], not {list(first.shape)}")
  return jnp.mean(jnp.square(first - second))


def normal_cosine(*, prediction: Array, target: Array, weight: Array) -> jax.Array:
  """How far normals are turned from those of the head: the mean of 1 - cos over the pixels by their weights.

  Ours: the paper's network knows no normals.

  Args:
    prediction: the network's unit normals, `[B, h, w, 3]`.
    target: the head's unit normals, `[B, h, w, 3]`.
    weight: how much each pixel counts, `[B, h, w, 1]`; the faces of a batch count alike.

  Returns:
    Scalar, 0 to 2.

  Raises:
    ValueError: other or different shapes, or a type that is not floating.
  """
  prediction, target = _float32("normals", prediction, target)
  if prediction.ndim != 4 or prediction.shape[-1] != 3:
    raise ValueError(f"normals must be [B, h, w, 3], not {list(prediction.shape)}")
  turned = 1 - jnp.sum(prediction * target, axis=-1, keepdims=True)
  weight, _ = _float32("weights and pixels", weight, turned)
  return jnp.mean(_weighted_mean(turned, weight))


def depth_l1(*, prediction: Array, target: Array, mask: Array, weight: Array) -> jax.Array:
  """How far a relief is from that of the head, each counted from its own mean on the face.

  Ours, as `normal_cosine`.

  Args:
    prediction: the network's height towards the viewer in shares of the side, `[B, h, w, 1]`.
    target: the head's height in the same unit, `[B, h, w, 1]`.
    mask: how much of a pixel is face, 0 to 1, `[B, h, w, 1]`: over it the two means are taken.
    weight: how much each pixel counts, 0 or more, `[B, h, w, 1]`; the pictures of a batch count alike.

  Returns:
    Scalar, in shares of the side; a picture whose weights are all 0 adds 0 to the mean.

  Raises:
    ValueError: other or different shapes, or a type that is not floating.
  """
  prediction, target = _float32("depths", prediction, target)
  mask, _ = _float32("depths and mask", mask, target)
  weight, _ = _float32("depths and weights", weight, target)
  if prediction.ndim != 4 or prediction.shape[-1] != 1:
    raise ValueError(f"depths must be [B, h, w, 1], not {list(prediction.shape)}")
  off = prediction - target
  off -= _weighted_mean(off, mask)
  return jnp.mean(_weighted_mean(_absolute(off), weight))


def _weighted_mean(array: jax.Array, weight: jax.Array) -> jax.Array:
  """Over the pixels of each picture, `[B, h, w, 1] -> [B, 1, 1, 1]`; 0 where nothing counts."""
  total = jnp.maximum(jnp.sum(weight, axis=(1, 2), keepdims=True), 1e-6)
  return jnp.sum(weight * array, axis=(1, 2), keepdims=True) / total


def framing_l1(*, prediction: Array, target: Array) -> jax.Array:
  """How far off a network is about where the face lies; ours, as `normal_cosine`.

  Args:
    prediction: the factor, right and down that the network estimates, `[B, 3]`, as `framing` of `views.Faces`.
    target: those by which the picture was moved, `[B, 3]`.

  Returns:
    Scalar, in half sides.

  Raises:
    ValueError: other or different shapes, or a type that is not floating.
  """
  prediction, target = _float32("framings", prediction, target)
  if prediction.ndim != 2 or prediction.shape[-1] != 3:
    raise ValueError(f"framings must be [B, 3], not {list(prediction.shape)}")
  return jnp.mean(_absolute(prediction - target))


def skin_cross_entropy(*, prediction: Array, target: Array) -> jax.Array:
  """How far off a network is about where the face's skin is: binary cross entropy, the mean over the pixels; ours.

  Args:
    prediction: probabilities, `[B, h, w, 1]`.
    target: shares of skin in [0, 1], of the same shape.

  Returns:
    Scalar, in nats.

  Raises:
    ValueError: other or different shapes, or a type that is not floating.
  """
  prediction, target, _ = _pictures(prediction, target, None)
  prediction = jnp.clip(prediction, 1e-5, 1 - 1e-5)
  return -jnp.mean(target * jnp.log(prediction) + (1 - target) * jnp.log(1 - prediction))


def _float32(name: str, first: Array, second: Array) -> tuple[jax.Array, jax.Array]:
  if first.shape != second.shape:
    raise ValueError(f"{name} of different shapes: {list(first.shape)} and {list(second.shape)}")
  for array in (first, second):
    if not jnp.issubdtype(array.dtype, jnp.floating):
      raise ValueError(f"{name} must be floating, not {array.dtype}")
  return jnp.asarray(first, jnp.float32), jnp.asarray(second, jnp.float32)


def _pictures(prediction: Array, target: Array, mask: Array | None) -> tuple[jax.Array, jax.Array, jax.Array]:
  prediction, target = _float32("images", prediction, target)
  if prediction.ndim != 4 or prediction.shape[-1] != 1:
    raise ValueError(f"images must be [B, H, W, 1], not {list(prediction.shape)}")
  if mask is None:
    return prediction, target, jnp.ones_like(prediction)
  if mask.shape != prediction.shape:
    raise ValueError(f"a mask {list(mask.shape)} does not fit images {list(prediction.shape)}")
  if not (mask.dtype == bool or jnp.issubdtype(mask.dtype, jnp.floating)):
    raise ValueError(f"a mask must be bool or floating, not {mask.dtype}")
  return prediction, target, jnp.asarray(mask, jnp.float32)


def _scores(scores: Array) -> jax.Array:
  if scores.ndim != 4 or scores.shape[-1] != 1 or not jnp.issubdtype(scores.dtype, jnp.floating):
    raise ValueError(f"scores must be [B, h, w, 1] and floating, not {list(scores.shape)} {scores.dtype}")
  return jnp.asarray(scores, jnp.float32)


def _absolute(x: jax.Array) -> jax.Array:
  """|x| whose gradient at 0 is 0: that of `jnp.abs` is 1 there, which would pull a perfect pixel down."""
  return x * jnp.sign(x)


def _sum(pictures: jax.Array) -> jax.Array:
  """`[B, H, W, 1]` -> `[B]`."""
  return jnp.sum(pictures, axis=(1, 2, 3))


def _per_pixel(total: jax.Array, mask: jax.Array) -> jax.Array:
  """`total` `[B]` over the pixels inside; 0 where there are none."""
  pixels = _sum(mask)
  return total / jnp.where(pixels > 0, pixels, 1)
