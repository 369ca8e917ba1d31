"""Skip training: the network first learns without skip connections, then gets them one by one (Zhou et al. 2019).

A portrait that reached the output through an early skip would keep the old light: the light is exchanged at the
bottleneck alone. So the innermost connection is switched on first (number 3, at the lowest resolution), the outermost
last (number 0, at full resolution).

Steps are counted from 0, and step s is made with the mask of step s. `skip_steps` holds the first steps with one, two,
three and all four connections on, so that equal numbers switch several on at once and (0, 0, 0, 0) is no skip training
at all.
"""

import bisect
import itertools
import operator
from collections.abc import Sequence

from dpr_jax.base.errors import BadInput
from dpr_jax.network.encoding import NUM_LEVELS, skip_count_mask


def check_skip_steps(skip_steps: Sequence[int]) -> None:
  """Raises BadInput unless `skip_steps` are four whole numbers, none negative or smaller than the one before."""
  whole = [step for step in skip_steps if hasattr(step, "__index__") and not isinstance(step, bool)]
  if len(skip_steps) != NUM_LEVELS or len(whole) != NUM_LEVELS:
    raise BadInput(f"config.skip_steps must be {NUM_LEVELS} whole numbers of steps, not {skip_steps}")
  if skip_steps[0] < 0:
    raise BadInput(f"config.skip_steps must not be negative, as in {skip_steps}")
  if any(after < before for before, after in itertools.pairwise(skip_steps)):
    raise BadInput(f"config.skip_steps are in order, first the innermost connection's, and must not fall: {skip_steps}")


def skips_on(step: int, skip_steps: Sequence[int]) -> int:
  """How many skip connections step number `step` (from 0) has on, 0 to 4.

  Raises:
    ValueError: a negative step.
    BadInput: see `check_skip_steps`.
  """
  check_skip_steps(skip_steps)
  if step < 0:
    raise ValueError(f"steps are counted from 0, not {step}")
  return bisect.bisect_right(skip_steps, step)


def skip_mask(step: int, skip_steps: Sequence[int]) -> tuple[bool, ...]:
  """The skip mask of step number `step`, four bools, outermost first as the network takes them; see `skips_on`."""
  return skip_count_mask(NUM_LEVELS - skips_on(step, skip_steps))


def steps_of_epochs(epochs: float, *, faces: int, batch_size: int) -> int:
  """The step, to the nearest, before which `epochs` times all faces have been seen.

  Args:
    epochs: 0 or more, not only whole ones.
    faces: records in the training split.
    batch_size: faces in a batch, over all processes.

  Raises:
    ValueError: a negative number of epochs, no faces, or an empty batch.
  """
  faces, batch_size = operator.index(faces), operator.index(batch_size)
  if not (epochs >= 0 and faces > 0 and batch_size > 0):
    raise ValueError(f"no steps in {epochs} epochs of {faces} faces in batches of {batch_size}")
  return round(epochs * faces / batch_size)
