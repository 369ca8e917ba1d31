"""The losses of the embedded face finder's two networks, and the loops that lower them."""

import functools
import time
from collections.abc import Callable, Iterator

import jax
import jax.numpy as jnp
import numpy as np
import optax
from absl import logging

from data_gen.face_finder.examples import DetectorBatch, LandmarkBatch
from dpr_jax.base.cpu import compiler_options
from dpr_jax.portrait.face_networks import FaceDetector, FaceLandmarker, Landmarks, Proposals
from dpr_jax.portrait.faces import LEFT_EYE, MOUTH_CORNERS, OVAL, RIGHT_EYE

# Log odds that a cell holds a face, before anything is learnt: nearly none does.
RARE = -4.0

_LOG_EVERY = 100


def landmark_loss(predicted: Landmarks, batch: LandmarkBatch) -> dict[str, jax.Array]:
  """The terms of the landmark network's loss, each a mean over the batch.

  `points` is the distance of the landmarks, in halves of the square's side, with more weight on eyes, mouth and outline
  than inside, and less on depth; `framing` that of the middles of the eyes and of the mouth's corners, on which the
  portrait's framing rests; `presence` the cross entropy of the answer whether there is a face.
  """
  known = (batch.present == 1).astype(jnp.float32)
  weights = np.ones((len(predicted.points[0]), 3), np.float32)
  weights[[*LEFT_EYE, *RIGHT_EYE, *MOUTH_CORNERS]] = 2.0
  weights[OVAL] = 1.5
  weights[:, 2] *= 0.3
  weights /= weights.mean()
  error = jnp.abs(predicted.points - batch.points)
  points = jnp.mean(error * weights[None], (1, 2))
  framing = jnp.mean(jnp.abs(framing_points(predicted.points) - framing_points(batch.points)), (1, 2))
  presence = optax.sigmoid_binary_cross_entropy(predicted.logit, jnp.maximum(batch.present, 0))
  count = jnp.maximum(known.sum(), 1)
  return {
    "points": jnp.sum(points * known) / count,
    "framing": jnp.sum(framing * known) / count,
    "presence": jnp.mean(presence * (batch.present >= 0)),
  }


def framing_points(points: jax.Array) -> jax.Array:
  """The middle of either eye and the corners of the mouth, `[..., 478, D] -> [..., 4, 2]`."""
  plane = points[..., :2]
  eyes = [plane[..., np.array(eye), :].mean(-2) for eye in (LEFT_EYE, RIGHT_EYE)]
  return jnp.stack([*eyes, *(plane[..., corner, :] for corner in MOUTH_CORNERS)], axis=-2)


def detector_loss(predicted: Proposals, batch: DetectorBatch) -> dict[str, jax.Array]:
  """The terms of the detector's loss.

  `presence` is the focal loss (Lin et al. 2017, gamma 2) over a face's number of cells; the others are mean absolute
  errors where there is a face.
  """
  yes, no = (batch.present == 1).astype(jnp.float32), (batch.present == 0).astype(jnp.float32)
  probability = jax.nn.sigmoid(predicted.logit)
  focal = -yes * (1 - probability) ** 2 * jax.nn.log_sigmoid(predicted.logit)
  focal -= no * probability**2 * jax.nn.log_sigmoid(-predicted.logit)
  count = jnp.maximum(yes.sum(), 1)

  def where_present(error: jax.Array) -> jax.Array:
    return jnp.sum(error * yes) / count

  return {
    "presence": focal.sum() / count,
    "offset": where_present(jnp.abs(predicted.offset - batch.targets[..., :2]).mean(-1)),
    "side": where_present(jnp.abs(predicted.log_side - batch.targets[..., 2])),
    "direction": where_present(jnp.abs(predicted.direction - batch.targets[..., 3:]).mean(-1)),
  }


LANDMARK_WEIGHTS = {"points": 10.0, "framing": 10.0, "presence": 0.3}
DETECTOR_WEIGHTS = {"presence": 1.0, "offset": 1.0, "side": 1.0, "direction": 0.5}


def train(
  network: FaceDetector | FaceLandmarker,
  variables,
  batches: Iterator,
  loss: Callable,
  weights: dict[str, float],
  *,
  steps: int,
  learning_rate: float,
  save: Callable,
  save_every: int = 500,
):
  """Lowers a loss with AdamW, the learning rate falling to zero as a cosine.

  Args:
    network: with `train` set.
    variables: of `network`.
    batches: one for each step.
    loss: of `network`'s answer and a batch; a dict of terms.
    weights: of the terms.
    steps: how many.
    learning_rate: the highest.
    save: called with the variables every `save_every` steps and at the end.
    save_every: steps.

  Returns:
    The variables after the last step.

  Raises:
    FloatingPointError: a term that is not finite, with its name and the step.
  """
  schedule = optax.warmup_cosine_decay_schedule(0.0, learning_rate, min(300, (steps - 1) // 10), steps)
  optimizer = optax.chain(optax.clip_by_global_norm(1.0), optax.adamw(schedule, weight_decay=1e-3))

  @functools.partial(jax.jit, compiler_options=compiler_options())
  def step(params, batch_stats, state, batch):
    def total(params):
      predicted, updated = network.apply(
        {"params": params, "batch_stats": batch_stats}, batch[0], mutable=["batch_stats"]
      )
      terms = loss(predicted, batch)
      return sum(weight * terms[name] for name, weight in weights.items()), (terms, updated["batch_stats"])

    gradients, (terms, batch_stats) = jax.grad(total, has_aux=True)(params)
    updates, state = optimizer.update(gradients, state, params)
    return optax.apply_updates(params, updates), batch_stats, state, terms

  params, batch_stats = variables["params"], variables["batch_stats"]
  state, means, began = optimizer.init(params), {}, time.perf_counter()
  for number in range(1, steps + 1):
    params, batch_stats, state, terms = step(params, batch_stats, state, next(batches))
    for name, value in terms.items():
      means[name] = means.get(name, 0.0) + float(value) / _LOG_EVERY
      if not np.isfinite(means[name]):
        raise FloatingPointError(f"step {number}: {name} is not finite")
    if number % _LOG_EVERY == 0:
      said = ", ".join(f"{name} {value:.4f}" for name, value in means.items())
      logging.info("step %d: %s; %.0f s", number, said, time.perf_counter() - began)
      means = {}
    if number % save_every == 0 or number == steps:
      save({"params": params, "batch_stats": batch_stats})
  return {"params": params, "batch_stats": batch_stats}
