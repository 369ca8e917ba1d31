"""Functions that NumPy and JAX share."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from dpr_jax.base.arrays import namespace, ramp, smooth_step


def test_jax_wins():
  assert namespace(np.ones(2), None, 3.0) is np
  assert namespace(np.ones(2), jnp.ones(2)) is jnp
  assert jax.jit(lambda x: namespace(1.0, x) is jnp)(1.0)


@pytest.mark.parametrize("xp", [np, jnp])
def test_a_smooth_step(xp):
  x = xp.asarray([-2, 0, 0.25, 0.5, 1, 7], xp.float32)
  stepped = smooth_step(x)
  assert isinstance(stepped, type(x))
  assert stepped.dtype == np.float32
  np.testing.assert_allclose(stepped, [0, 0, 3 / 16 - 1 / 32, 0.5, 1, 1], atol=1e-7)


def test_a_ramp_rises_from_low_to_high_and_falls_the_other_way_round():
  x = np.array([1.0, 2, 2.5, 3, 4])
  np.testing.assert_allclose(ramp(x, 2, 4), [0, 0, smooth_step(np.array(0.25)), 0.5, 1])
  np.testing.assert_allclose(ramp(x, 4, 2), 1 - ramp(x, 2, 4))
