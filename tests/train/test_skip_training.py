"""The schedule of skip training: every boundary, one step to either side, and the order on the network itself."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from dpr_jax.base.errors import BadInput
from dpr_jax.network.encoding import ALL_SKIPS
from dpr_jax.network.hourglass import HourglassNet
from dpr_jax.train import skip_training

STEPS = (10, 20, 35, 50)

# Outermost first, as the network takes it.
NONE = (False, False, False, False)
INNERMOST = (False, False, False, True)
TWO = (False, False, True, True)
THREE = (False, True, True, True)
ALL = (True, True, True, True)


@pytest.mark.parametrize(
  ("step", "expected"),
  [
    (0, NONE),
    (9, NONE),
    (10, INNERMOST),
    (11, INNERMOST),
    (19, INNERMOST),
    (20, TWO),
    (21, TWO),
    (34, TWO),
    (35, THREE),
    (36, THREE),
    (49, THREE),
    (50, ALL),
    (51, ALL),
    (10**9, ALL),
  ],
)
def test_mask_at_every_boundary_and_a_step_to_either_side(step, expected):
  assert skip_training.skip_mask(step, STEPS) == expected
  assert skip_training.skips_on(step, STEPS) == sum(expected)


@pytest.mark.parametrize(
  ("skip_steps", "masks"),
  [
    ((0, 0, 0, 0), [ALL, ALL]),  # no skip training
    ((0, 1, 2, 3), [INNERMOST, TWO, THREE, ALL]),
    ((1, 1, 1, 1), [NONE, ALL, ALL]),
    ((0, 0, 2, 2), [TWO, TWO, ALL]),
    ((1, 2, 2, 4), [NONE, INNERMOST, THREE, THREE, ALL]),
  ],
)
def test_stages_that_coincide(skip_steps, masks):
  assert [skip_training.skip_mask(step, skip_steps) for step in range(len(masks))] == masks
  assert skip_training.skip_mask(0, list(skip_steps)) == masks[0]  # as a config read from a file has it


def test_a_connection_that_is_on_stays_on_and_the_inner_ones_are_on_already():
  masks = np.array([skip_training.skip_mask(step, STEPS) for step in range(60)])
  assert (np.diff(masks.astype(int), axis=0) >= 0).all()
  assert (np.diff(masks.astype(int), axis=1) >= 0).all()
  assert len(np.unique(masks, axis=0)) == 5
  first_on = [int(np.argmax(masks[:, level])) for level in range(4)]
  assert first_on == [50, 35, 20, 10]


def test_the_mask_is_static():
  """Plain bools, whatever counts the steps: the network compiles once a stage."""
  for step in (20, np.int64(20), jnp.int32(20)):
    mask = skip_training.skip_mask(step, STEPS)
    assert [type(on) for on in mask] == [bool] * 4
    assert type(skip_training.skips_on(step, STEPS)) is int
    assert {mask: "stage"}[TWO] == "stage"
  assert skip_training.skip_mask(50, STEPS) == ALL_SKIPS


def test_the_network_gets_its_lowest_resolution_first():
  """The order in the network itself: which skip branches its output depends on, by their resolution."""
  network = HourglassNet(base_filters=4)
  key, x, light = jax.random.key(0), jnp.zeros((1, 16, 16, 1)), jnp.full((1, 9), 0.3)
  shapes = jax.eval_shape(network.init, key, x, light)
  shapes = shapes, jax.eval_shape(lambda variables: network.apply(variables, x, method="encode"), shapes)
  rng = np.random.default_rng(0)
  # All positive: no unit is dead.
  variables, encoding = jax.tree.map(lambda leaf: jnp.asarray(rng.uniform(0, 0.3, leaf.shape), leaf.dtype), shapes)

  def live_resolutions(mask):
    def output(skips):
      relit = network.apply(variables, encoding._replace(skips=skips), light, mask, method="decode")
      return jnp.vdot(relit, rng.normal(size=relit.shape).astype(np.float32))

    gradients = jax.jit(jax.grad(output))(encoding.skips)
    return [gradient.shape[1] for gradient in gradients if np.abs(gradient).max() > 0]

  live = [live_resolutions(skip_training.skip_mask(step, STEPS)) for step in (10, 35)]
  assert live == [[2], [8, 4, 2]]


@pytest.mark.parametrize(
  "skip_steps",
  [(), (1, 2, 3), (1, 2, 3, 4, 5), (1.0, 2, 3, 4), (1, 2, 3, True), (1, 2, 3, "4"), (1, 2, 3, None), "1234"],
)
def test_what_are_not_four_whole_numbers_is_refused(skip_steps):
  with pytest.raises(BadInput, match=r"^config\.skip_steps must be 4 whole numbers"):
    skip_training.check_skip_steps(skip_steps)


@pytest.mark.parametrize("skip_steps", [(2, 1, 3, 4), (1, 2, 3, 2), (50, 35, 20, 10), (0, 5, 4, 6)])
def test_steps_that_fall_are_refused(skip_steps):
  for check in (skip_training.check_skip_steps, lambda s: skip_training.skip_mask(0, s)):
    with pytest.raises(BadInput, match=r"^config\.skip_steps .* must not fall"):
      check(skip_steps)


def test_negative_steps_are_refused():
  with pytest.raises(BadInput, match=r"^config\.skip_steps must not be negative"):
    skip_training.check_skip_steps((-1, 0, 0, 0))
  with pytest.raises(ValueError, match="counted from 0"):
    skip_training.skips_on(-1, STEPS)


def test_epochs_to_steps():
  steps = [skip_training.steps_of_epochs(epochs, faces=100, batch_size=8) for epochs in (0, 1, 2, 0.5, 5)]
  assert steps == [0, 12, 25, 6, 62]  # 12.5, 6.25 and 62.5 batches to the nearest step
  assert all(type(step) is int for step in steps)
  # A whole number of batches is exact, also where floats are not: 1.1 * 10 is not 11.
  assert skip_training.steps_of_epochs(1.1, faces=10, batch_size=1) == 11
  assert skip_training.steps_of_epochs(1, faces=3, batch_size=16) == 0
  recipe = tuple(skip_training.steps_of_epochs(epochs, faces=27_000, batch_size=16) for epochs in (5, 6, 7, 8))
  skip_training.check_skip_steps(recipe)
  assert recipe[0] * 16 / 27_000 == pytest.approx(5, rel=1e-4)


@pytest.mark.parametrize(("epochs", "faces", "batch_size"), [(-1, 10, 2), (1, 0, 2), (1, 10, 0), (float("nan"), 10, 2)])
def test_epochs_that_mean_nothing_are_refused(epochs, faces, batch_size):
  with pytest.raises(ValueError, match="no steps in"):
    skip_training.steps_of_epochs(epochs, faces=faces, batch_size=batch_size)
