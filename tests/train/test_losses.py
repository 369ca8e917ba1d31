"""The terms of the training loss: against loops over the paper's formulas, closed forms, symmetries, bad input."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from dpr_jax.train import losses

IMAGE_TERMS = (losses.image_l1, losses.gradient_l1)
image_terms = pytest.mark.parametrize("term", IMAGE_TERMS, ids=lambda term: term.__name__)


def pictures(number=2, shape=(3, 7, 6, 1), seed=0):
  return np.random.default_rng(seed).uniform(size=(number, *shape)).astype(np.float32)


def some_mask(shape=(3, 7, 6, 1), seed=1):
  """A ragged mask, another in every example."""
  return (np.random.default_rng(seed).uniform(size=shape) < 0.6).astype(np.float32)


def image_l1_by_loops(prediction, target, mask):
  values = []
  for p, t, m in zip(prediction[..., 0], target[..., 0], mask[..., 0], strict=True):
    inside = [(i, j) for i in range(p.shape[0]) for j in range(p.shape[1]) if m[i, j]]
    values.append(sum(abs(float(p[at]) - float(t[at])) for at in inside) / max(len(inside), 1))
  return np.mean(values)


def gradient_l1_by_loops(prediction, target, mask):
  values = []
  for p, t, m in zip(prediction[..., 0], target[..., 0], mask[..., 0], strict=True):
    p, t = p.astype(np.float64), t.astype(np.float64)
    total = 0
    for i in range(p.shape[0]):
      for j in range(p.shape[1]):
        for other in ((i, j + 1), (i + 1, j)):
          if other[0] < p.shape[0] and other[1] < p.shape[1] and m[i, j] and m[other]:
            total += abs((p[other] - p[i, j]) - (t[other] - t[i, j]))
    values.append(total / max(m.sum(), 1))
  return np.mean(values)


ORACLES = {losses.image_l1: image_l1_by_loops, losses.gradient_l1: gradient_l1_by_loops}


@image_terms
def test_image_terms_against_loops(term):
  prediction, target = pictures()
  mask = some_mask()
  everywhere = np.ones_like(mask)
  expected = ORACLES[term](prediction, target, everywhere)
  np.testing.assert_allclose(term(prediction=prediction, target=target), expected, rtol=1e-6)
  np.testing.assert_allclose(term(prediction=prediction, target=target, mask=everywhere), expected, rtol=1e-6)
  masked = ORACLES[term](prediction, target, mask)
  assert abs(masked - expected) > 1e-3
  for kind in (np.float32, bool, jnp.bfloat16):
    value = term(prediction=prediction, target=target, mask=mask.astype(kind))
    np.testing.assert_allclose(value, masked, rtol=1e-6)


def test_gradient_of_a_step_and_of_a_single_pixel():
  flat = np.zeros((1, 8, 5, 1), np.float32)
  step = flat.copy()
  step[:, :, 2:] = 0.25  # one jump in each of 8 rows, over 40 pixels
  np.testing.assert_allclose(losses.gradient_l1(prediction=step, target=flat), 8 * 0.25 / 40, rtol=1e-6)
  pixel = flat.copy()
  pixel[:, 3, 2] = 0.25  # two jumps across, two down
  np.testing.assert_allclose(losses.gradient_l1(prediction=flat, target=pixel), 4 * 0.25 / 40, rtol=1e-6)
  corner = flat.copy()
  corner[:, -1, -1] = 0.25  # has neighbours on two sides only
  np.testing.assert_allclose(losses.gradient_l1(prediction=corner, target=flat), 2 * 0.25 / 40, rtol=1e-6)


def test_gradient_does_not_see_brightness_nor_the_edge_of_the_mask():
  prediction, target = pictures()
  mask = some_mask()
  expected = losses.gradient_l1(prediction=prediction, target=target)
  np.testing.assert_allclose(losses.gradient_l1(prediction=prediction + 0.5, target=target), expected, rtol=1e-5)
  ramp = np.where(mask > 0, target + 0.5, target)  # jumps at the mask's edge, and nowhere else
  assert losses.gradient_l1(prediction=ramp, target=target) > 0.1
  np.testing.assert_allclose(losses.gradient_l1(prediction=ramp, target=target, mask=mask), 0, atol=1e-6)


@image_terms
def test_image_terms_do_not_change_where_the_picture_is_moved_or_turned(term):
  prediction, target = pictures()
  mask = some_mask()
  expected = term(prediction=prediction, target=target, mask=mask)
  for change in (
    lambda x: x[:, :, ::-1],
    lambda x: x[:, ::-1],
    lambda x: np.swapaxes(x, 1, 2),
    lambda x: x[::-1],
    lambda x: np.pad(x, ((0, 0), (2, 1), (0, 3), (0, 0))),  # moved on a larger canvas: the mask is 0 around it
  ):
    changed = term(prediction=change(prediction), target=change(target), mask=change(mask))
    np.testing.assert_allclose(changed, expected, rtol=1e-6)
  np.testing.assert_allclose(term(prediction=target, target=prediction, mask=mask), expected, rtol=1e-6)


@image_terms
def test_what_is_outside_the_mask_changes_nothing(term):
  prediction, target = pictures()
  mask = some_mask()
  elsewhere = np.where(mask > 0, prediction, 7)
  expected = term(prediction=prediction, target=target, mask=mask)
  assert term(prediction=elsewhere, target=target, mask=mask) == expected
  gradient = jax.grad(lambda p: term(prediction=p, target=target, mask=mask))(jnp.asarray(prediction))
  assert np.abs(gradient[mask > 0]).max() > 0
  assert np.abs(gradient[mask == 0]).max() == 0


@image_terms
def test_an_empty_mask_is_no_error_and_no_nan(term):
  prediction, target = pictures()
  mask = some_mask()
  mask[1] = 0
  value, gradient = jax.value_and_grad(lambda p: term(prediction=p, target=target, mask=mask))(jnp.asarray(prediction))
  # The example still counts: the batch's loss is the mean of its parts'.
  rest = [term(prediction=prediction[k : k + 1], target=target[k : k + 1], mask=mask[k : k + 1]) for k in range(3)]
  assert rest[1] == 0
  np.testing.assert_allclose(value, np.mean(rest), rtol=1e-6)
  assert np.isfinite(gradient).all()
  assert np.abs(gradient[1]).max() == 0


@image_terms
def test_a_batch_is_the_mean_of_its_parts_however_full_their_masks(term):
  prediction, target = pictures(shape=(4, 7, 6, 1))
  mask = some_mask((4, 7, 6, 1))
  mask[0, 1:] = 0
  whole = term(prediction=prediction, target=target, mask=mask)
  halves = [term(prediction=prediction[s], target=target[s], mask=mask[s]) for s in (slice(0, 2), slice(2, 4))]
  np.testing.assert_allclose(whole, np.mean(halves), rtol=1e-6)


def test_light_is_the_squared_distance_of_the_lights():
  prediction, target = pictures(shape=(3, 9))
  expected = np.mean(
    [sum((p - t) ** 2 for p, t in zip(a, b, strict=True)) for a, b in zip(prediction, target, strict=True)]
  )
  np.testing.assert_allclose(losses.light_l2(prediction=prediction, target=target), expected, rtol=1e-6)
  one_off = target.copy()
  one_off[0, 4] += 0.3
  np.testing.assert_allclose(losses.light_l2(prediction=one_off, target=target), 0.09 / 3, rtol=1e-5)
  gradient = jax.grad(lambda p: losses.light_l2(prediction=p, target=target))(jnp.asarray(prediction))
  np.testing.assert_allclose(gradient, 2 * (prediction - target) / 3, rtol=1e-5)


def test_a_light_far_off_does_not_drown_the_others():
  prediction, target = pictures(shape=(3, 13))
  squares = np.square(prediction - target).sum(axis=1)
  found = losses.light_cauchy(prediction=prediction, target=target)
  np.testing.assert_allclose(found, np.log1p(squares).mean(), rtol=1e-6)
  near = target + np.float32(1e-2) * (prediction - target)
  np.testing.assert_allclose(losses.light_cauchy(prediction=near, target=target), 1e-4 * squares.mean(), rtol=1e-2)
  far = target.copy()
  far[0] += 1e4
  gradient = jax.grad(lambda p: losses.light_cauchy(prediction=p, target=target))(jnp.asarray(far))
  assert np.abs(gradient).max() < 1e-4
  with pytest.raises(ValueError, match="lights must be"):
    losses.light_cauchy(prediction=target[0], target=target[0])


def test_feature_matching_is_the_mean_square_over_all_features():
  first, second = pictures(shape=(2, 3, 4, 5))
  pairs = list(zip(first.ravel(), second.ravel(), strict=True))
  expected = sum((float(a) - float(b)) ** 2 for a, b in pairs) / len(pairs)
  np.testing.assert_allclose(losses.feature_matching(first=first, second=second), expected, rtol=1e-6)
  assert losses.feature_matching(first=first, second=second) == losses.feature_matching(first=second, second=first)
  # Twice the resolution or the batch: the same loss.
  larger = [np.tile(x, (2, 2, 1, 1)) for x in (first, second)]
  np.testing.assert_allclose(losses.feature_matching(first=larger[0], second=larger[1]), expected, rtol=1e-6)


def test_least_squares_gan_against_its_closed_form():
  real, fake = pictures(shape=(2, 3, 4, 1))
  fake = np.concatenate([fake, fake[:1] * 3])  # three relit images to two real ones
  expected = np.mean((real.astype(np.float64) - 1) ** 2) + np.mean(fake.astype(np.float64) ** 2)
  np.testing.assert_allclose(losses.lsgan_discriminator(real=real, fake=fake), expected, rtol=1e-6)
  np.testing.assert_allclose(losses.lsgan_generator(fake=fake), np.mean((fake.astype(np.float64) - 1) ** 2), rtol=1e-6)


def test_least_squares_gan_pulls_the_scores_where_it_should():
  ones, zeros = np.ones((2, 3, 3, 1), np.float32), np.zeros((2, 3, 3, 1), np.float32)
  assert losses.lsgan_discriminator(real=ones, fake=zeros) == 0
  assert losses.lsgan_discriminator(real=zeros, fake=ones) == 2
  assert losses.lsgan_generator(fake=ones) == 0
  assert losses.lsgan_generator(fake=zeros) == 1
  half = jnp.full((2, 3, 3, 1), 0.5)
  real, fake = jax.grad(lambda r, f: losses.lsgan_discriminator(real=r, fake=f), argnums=(0, 1))(half, half)
  assert (real < 0).all()  # downhill is up
  assert (fake > 0).all()
  assert (jax.grad(lambda f: losses.lsgan_generator(fake=f))(half) < 0).all()


def all_terms(shape=(2, 4, 4, 1)):
  """Name, function of one array, an input."""
  base = pictures(1, shape)[0]
  light, features = pictures(1, (2, 9))[0], pictures(1, (2, 2, 2, 3))[0]
  mask = some_mask(shape)
  return {
    "image": (lambda x: losses.image_l1(prediction=x, target=base), base),
    "image_masked": (lambda x: losses.image_l1(prediction=x, target=base, mask=mask), base),
    "gradient": (lambda x: losses.gradient_l1(prediction=x, target=base), base),
    "gradient_masked": (lambda x: losses.gradient_l1(prediction=x, target=base, mask=mask), base),
    "light": (lambda x: losses.light_l2(prediction=x, target=light), light),
    "feature": (lambda x: losses.feature_matching(first=x, second=features), features),
    "discriminator": (lambda x: losses.lsgan_discriminator(real=x, fake=0 * x), np.ones_like(base)),
    "generator": (lambda x: losses.lsgan_generator(fake=x), np.ones_like(base)),
  }


@pytest.mark.parametrize("name", list(all_terms()))
def test_at_the_aim_a_term_is_zero_with_a_zero_gradient(name):
  term, aim = all_terms()[name]
  value, gradient = jax.jit(jax.value_and_grad(term))(jnp.asarray(aim))
  assert value == 0
  assert np.abs(gradient).max() == 0  # and not NaN
  value, gradient = jax.jit(jax.value_and_grad(term))(jnp.asarray(aim + pictures(1, aim.shape, seed=5)[0]))
  assert value > 0
  assert np.isfinite(gradient).all()
  assert np.abs(gradient).max() > 0


@pytest.mark.parametrize("name", list(all_terms()))
def test_terms_are_float32_scalars_whatever_comes_in(name):
  term, aim = all_terms()[name]
  x = aim + pictures(1, aim.shape, seed=5)[0]
  for dtype in (jnp.bfloat16, jnp.float16, jnp.float32):
    rounded = jnp.asarray(x, dtype)
    value = term(rounded)
    assert value.dtype == jnp.float32
    assert value.shape == ()
    # Only the input is rounded, nothing that is computed from it.
    np.testing.assert_allclose(value, term(rounded.astype(jnp.float32)), rtol=1e-6)


def test_a_large_half_precision_batch_is_added_up_in_float32():
  """In bfloat16 a sum of 65,536 ones stops at 256."""
  x = jnp.full((1, 256, 256, 1), 0.5, jnp.bfloat16)
  np.testing.assert_allclose(losses.image_l1(prediction=x, target=0 * x), 0.5, rtol=1e-6)
  np.testing.assert_allclose(losses.lsgan_generator(fake=x), 0.25, rtol=1e-6)


P = np.zeros((2, 4, 4, 1), np.float32)


@image_terms
@pytest.mark.parametrize(
  "arguments",
  [
    {"prediction": P, "target": P[:1]},
    {"prediction": P, "target": P[..., 0]},
    {"prediction": P, "target": P[:, :, :1]},
    {"prediction": P[..., 0], "target": P[..., 0]},
    {"prediction": np.repeat(P, 3, -1), "target": np.repeat(P, 3, -1)},
    {"prediction": P, "target": P.astype(np.uint8)},
    {"prediction": P.astype(np.int32), "target": P},
    {"prediction": P, "target": P, "mask": P[:1]},
    {"prediction": P, "target": P, "mask": P[..., 0]},
    {"prediction": P, "target": P, "mask": P.astype(np.uint8)},
  ],
)
def test_image_terms_refuse_what_does_not_fit(term, arguments):
  with pytest.raises(ValueError, match=r"shape|must be|does not fit"):
    term(**arguments)


@pytest.mark.parametrize(
  ("term", "arguments"),
  [
    (losses.light_l2, {"prediction": np.zeros((2, 9), np.float32), "target": np.zeros((1, 9), np.float32)}),
    (losses.light_l2, {"prediction": np.zeros((2, 9), np.float32), "target": np.zeros((2, 27), np.float32)}),
    (losses.light_l2, {"prediction": np.zeros(9, np.float32), "target": np.zeros(9, np.float32)}),
    (losses.light_l2, {"prediction": np.zeros((2, 9), int), "target": np.zeros((2, 9), int)}),
    (losses.feature_matching, {"first": P, "second": P[:1]}),
    (losses.feature_matching, {"first": P[0], "second": P[0]}),
    (losses.feature_matching, {"first": P, "second": P.astype(int)}),
    (losses.lsgan_discriminator, {"real": P, "fake": P[:, :2]}),
    (losses.lsgan_discriminator, {"real": P, "fake": P[..., 0]}),
    (losses.lsgan_discriminator, {"real": P.astype(int), "fake": P}),
    (losses.lsgan_generator, {"fake": np.repeat(P, 2, -1)}),
    (losses.lsgan_generator, {"fake": P > 0}),
  ],
)
def test_the_others_refuse_what_does_not_fit(term, arguments):
  with pytest.raises(ValueError, match=r"shape|must be|have"):
    term(**arguments)


def test_terms_take_keywords_only():
  with pytest.raises(TypeError):
    losses.image_l1(P, P)


def unit(vectors):
  return (vectors / np.linalg.norm(vectors, axis=-1, keepdims=True)).astype(np.float32)


def test_normals_are_compared_by_the_cosine_of_their_angle():
  rng = np.random.default_rng(0)
  target, weight = unit(rng.normal(size=(2, 4, 4, 3))), np.float32(rng.random((2, 4, 4, 1)))

  def cosine(prediction, weight):
    return float(losses.normal_cosine(prediction=prediction, target=target, weight=weight))

  assert cosine(target, weight) == pytest.approx(0, abs=1e-6)
  assert cosine(-target, weight) == pytest.approx(2)
  across = unit(np.cross(target, rng.normal(size=target.shape)))
  turned = np.float32(np.cos(0.3)) * target + np.float32(np.sin(0.3)) * across
  assert cosine(turned, weight) == pytest.approx(1 - np.cos(0.3), abs=1e-6)
  # Half of the weight of one of two faces lies where it is wrong: a quarter of 2.
  weight = np.zeros((2, 4, 4, 1), np.float32)
  weight[0, 0, :2], weight[1, 3, 3] = 0.3, 1
  prediction = target.copy()
  prediction[0, 0, 0] *= -1
  assert cosine(prediction, weight) == pytest.approx(0.5)
  with pytest.raises(ValueError, match="normals must be"):
    losses.normal_cosine(prediction=target[..., :2], target=target[..., :2], weight=weight)


def test_depths_are_compared_wherever_the_face_lies():
  rng = np.random.default_rng(0)
  target, mask = np.float32(rng.random((2, 6, 5, 1))), np.float32(rng.random((2, 6, 5, 1)) > 0.5)

  def off(prediction, mask, weight):
    return float(losses.depth_l1(prediction=prediction, target=target, mask=mask, weight=weight))

  assert off(target + 3, mask, mask) == pytest.approx(0, abs=1e-6)
  prediction = np.float32(rng.random((2, 6, 5, 1)))
  expected = []
  for one, other, face in zip(prediction, target, mask > 0, strict=True):
    expected.append(np.abs((one - one[face].mean()) - (other - other[face].mean()))[face].mean())
  assert off(prediction, mask, mask) == pytest.approx(np.mean(expected))
  # Beside the face it counts by its weight, from the face's mean.
  elsewhere = target + 9 * (1 - mask)
  assert off(elsewhere, mask, mask) == pytest.approx(0, abs=1e-6)
  weight = np.maximum(mask, np.float32(0.25))
  beside = [9 * 0.25 * (1 - face).sum() / (face + 0.25 * (1 - face)).sum() for face in mask]
  assert off(elsewhere, mask, weight) == pytest.approx(np.mean(beside), rel=1e-5)
  assert off(prediction, 0 * mask, 0 * mask) == 0
  with pytest.raises(ValueError, match="depths must be"):
    losses.depth_l1(prediction=target[0], target=target[0], mask=mask[0], weight=mask[0])


def test_framings_are_compared_number_by_number():
  target = np.float32([[1, 0, 0], [1.2, 0.1, -0.1]])
  assert float(losses.framing_l1(prediction=target, target=target)) == 0
  assert float(losses.framing_l1(prediction=target + np.float32([[0.3, 0, 0]]), target=target)) == pytest.approx(0.1)
  with pytest.raises(ValueError, match="framings must be"):
    losses.framing_l1(prediction=target[:, :2], target=target[:, :2])
