"""One step: against the paper's terms computed by hand, across devices and microbatches, and where training begins."""

import functools
import json
import math
import os
import subprocess
import sys

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
from flax.traverse_util import flatten_dict

from dpr_jax.base.errors import BadInput
from dpr_jax.light.light import Light, as_told
from dpr_jax.network.encoding import ALL_SKIPS
from dpr_jax.network.hourglass import HourglassNet, HourglassNet1024
from dpr_jax.network.ratio_network import RatioHourglassNet, light_numbers
from dpr_jax.train import step as training
from dpr_jax.train.config import OnlineConfig, TrainingConfig, check_config, default_config
from dpr_jax.train.discriminator import PatchDiscriminator
from dpr_jax.train.step import Stage, create_train_state, data_mesh, make_train_step, shard_batch, stage_at
from dpr_jax.train.views import Faces, Views, relight_faces
from tests.conftest import ROOT

pytestmark = pytest.mark.usefixtures("quick_compilation")

SIZE, FACES = 32, 4
RATIO_SIZE = 64


def small_config():
  config = default_config()
  config.batch_size = FACES
  config.network.base_filters = 4
  config.data.size = SIZE
  config.discriminator.base_filters = 4
  config.discriminator.levels = 1
  return config


def ratio_config():
  """Of the ratio network, as its recipe trains it."""
  config = small_config()
  config.batch_size = 2
  config.network.name, config.data.size, config.data.mode = "ratio", RATIO_SIZE, "online"
  config.online.lamp_share, config.online.original_share = 0.5, 0.25
  config.loss.adversarial = config.loss.feature = config.loss.gradient = 0.0
  config.loss.update(RATIO_WEIGHTS)
  return config


RATIO_WEIGHTS = {"image": 1.0, "light": 0.3, "normal": 10.0, "depth": 1.0, "framing": 3.0, "skin": 0.5}


def smooth(rng, count, size=SIZE):
  """`[count, size, size, 1]` pictures in [0, 1] that a small network can tell apart."""
  y, x = np.mgrid[:size, :size] / size
  a, b, c = rng.uniform(-3, 3, (3, count, 1, 1))
  grain = rng.uniform(-0.1, 0.1, (count, size, size))  # instance norm divides by what varies in 2 x 2 pixels
  return (0.5 + 0.4 * np.sin(a * x + b * y + c) + grain)[..., None].astype(np.float32)


def some_views(seed=0, count=FACES):
  rng = np.random.default_rng(seed)
  light = rng.normal(0, 0.2, (2, count, 9)).astype(np.float32)
  light[:, :, 0] = 0.8
  y, x = np.mgrid[:SIZE, :SIZE] / SIZE - 0.5
  mask = np.hypot(x, y) < rng.uniform(0.2, 0.4, (count, 1, 1))
  return Views(
    luminance=np.stack([smooth(rng, count), smooth(rng, count)]),
    light=light,
    mask=mask[..., None].astype(np.float32),
    original=smooth(rng, count),
  )


def some_faces(seed=0, count=FACES, size=SIZE):
  rng = np.random.default_rng(seed)
  normal = rng.normal(0, 0.3, (count, size, size, 3)).astype(np.float32)
  normal[..., 1] = -1
  normal /= np.linalg.norm(normal, axis=-1, keepdims=True)
  light = np.tile(np.float32([0.8, -0.3, 0.2, 0.1, 0, 0, 0, 0, 0]), (count, 1))
  mask = np.ones((count, size, size, 1), np.float32)
  mask[:, size // 2 :, : size // 4] = 0
  framing = np.tile(np.float32([1, 0, 0]), (count, 1))
  return Faces(
    smooth(rng, count, size),
    normal,
    0.1 * smooth(rng, count, size),
    mask,
    framing,
    light,
    np.maximum(mask, np.float32(0.3)),
  )


def part_of(views, faces):
  return Views(views.luminance[:, faces], views.light[:, faces], views.mask[faces], views.original[faces])


# Half the time, for what is done here a few times.
COMPILER_OPTIONS = {"xla_backend_optimization_level": 0}


@functools.cache
def compiled_step(config, mesh):
  """A compiled step for the first stage of a frozen config."""
  count, size = config.batch_size, config.data.size
  online = config.data.mode == "online"
  batch = shard_batch(some_faces(count=count, size=size) if online else some_views(count=count), mesh)
  state = create_train_state(config, mesh)
  return make_train_step(config, mesh).lower(state, batch, stage_at(0, config)).compile(COMPILER_OPTIONS)


def run(config, batches):
  """States (the first one included) and metrics of a step for each batch, as NumPy."""
  mesh, config = data_mesh(), check_config(config)
  state, step = create_train_state(config, mesh), compiled_step(config, mesh)
  states, metrics = [jax.device_get(state)], []
  for batch in batches:
    state, measured = step(state, shard_batch(batch, mesh))
    states.append(jax.device_get(state))
    metrics.append({name: float(value) for name, value in measured.items()})
  return states, metrics


def adam_gradient(state):
  """The gradient of a first step, from Adam's first moment, clipped if it was."""
  return jax.tree.map(lambda moment: moment / (1 - 0.9), optax.tree.get(state.optimizer_state, "mu"))


def norm(tree):
  return math.sqrt(sum(float(np.sum(np.square(leaf, dtype=np.float64))) for leaf in jax.tree.leaves(tree)))


def assert_close(a, b, rtol, atol=0.0):
  jax.tree.map(lambda x, y: np.testing.assert_allclose(x, y, rtol=rtol, atol=atol), a, b)


@functools.cache
def forward(network):
  """The jitted pass of a network in training."""
  return jax.jit(
    lambda *args: network.apply(*args, ALL_SKIPS, True, mutable="batch_stats")[0], compiler_options=COMPILER_OPTIONS
  )


score = jax.jit(PatchDiscriminator(base_filters=4, levels=1).apply, compiler_options=COMPILER_OPTIONS)


def variables_of(state):
  return {"params": state.params, "batch_stats": state.batch_stats}


def terms_by_hand(state, views, config):
  """The metrics of a step that are losses, in NumPy from two passes of the networks: view 0 to 1 and 1 to 0."""
  source = np.concatenate([views.luminance[0], views.luminance[1]])
  target = np.concatenate([views.luminance[1], views.luminance[0]])
  source_light = np.concatenate([views.light[0], views.light[1]])
  target_light = np.concatenate([views.light[1], views.light[0]])
  relit = forward(HourglassNet(base_filters=4))(variables_of(state), source, target_light)
  luminance, light, face = map(np.asarray, relit[:3])
  weight = np.concatenate([views.mask] * 2) if config.loss.masked else np.ones_like(source)
  pixels = weight.sum((1, 2, 3))
  error = (luminance - target).astype(np.float64)
  across = np.abs(np.diff(error, axis=2)) * weight[:, :, 1:] * weight[:, :, :-1]
  down = np.abs(np.diff(error, axis=1)) * weight[:, 1:] * weight[:, :-1]
  real = target if config.discriminator.real == "relit" else views.original
  real, fake = (np.asarray(score({"params": state.discriminator_params}, image)) for image in (real, luminance))
  return {
    "image": np.mean((np.abs(error) * weight).sum((1, 2, 3)) / pixels),
    "gradient": np.mean((across.sum((1, 2, 3)) + down.sum((1, 2, 3))) / pixels),
    "light": np.mean(((light - source_light) ** 2).sum(1)),
    "adversarial": np.mean((fake - 1) ** 2),
    "feature": np.mean((face[: len(face) // 2] - face[len(face) // 2 :]) ** 2),
    "discriminator": np.mean((real - 1) ** 2) + np.mean(fake**2),
    "discriminator_real": real.mean(),
    "discriminator_fake": fake.mean(),
  }


STEPS = 30
WEIGHTS = {"image": 1.0, "gradient": 0.5, "light": 2.0, "adversarial": 0.25, "feature": 0.75}


def overfit_config():
  config = small_config()
  config.num_steps = STEPS
  config.loss.update(WEIGHTS)
  config.optimizer.clip_norm = 1.0
  config.optimizer.learning_rate = 5e-3
  config.optimizer.schedule = "cosine"
  config.optimizer.warmup_steps = 3
  config.optimizer.ema_decay = 0.7
  return config


@pytest.fixture(scope="module")
def overfit():
  """States and metrics of a network that is shown the same four faces again and again."""
  return run(overfit_config(), [some_views()] * STEPS)


def test_the_terms_are_those_of_the_paper_in_both_directions(overfit):
  states, metrics = overfit
  expected = terms_by_hand(states[0], some_views(), overfit_config())
  assert {name: metrics[0][name] for name in expected} == pytest.approx(expected, rel=1e-5)
  for measured in metrics:
    assert measured["loss"] == pytest.approx(sum(WEIGHTS[name] * measured[name] for name in WEIGHTS), rel=1e-5)


def test_it_learns_one_batch_by_heart(overfit):
  _, metrics = overfit
  first, last = (metrics[i]["image"] + metrics[i]["gradient"] + metrics[i]["light"] for i in (0, -1))
  assert last < 0.5 * first
  assert all(math.isfinite(value) for measured in metrics for value in measured.values())


def test_the_gradient_is_clipped_and_adam_follows_it(overfit):
  states, metrics = overfit
  gradient = adam_gradient(states[1])
  assert metrics[0]["gradient_norm"] > 2
  assert norm(gradient) == pytest.approx(1.0, rel=1e-4)
  updates = jax.tree.map(np.subtract, states[1].params, states[0].params)
  rate = metrics[0]["learning_rate"]
  expected = jax.tree.map(lambda g: -rate * g / (np.abs(g) + 1e-8), gradient)
  assert_close(updates, expected, rtol=1e-3, atol=2e-3 * rate)
  assert metrics[0]["update_norm"] == pytest.approx(norm(expected), rel=1e-3)
  assert metrics[0]["parameter_norm"] == pytest.approx(norm(states[1].params), rel=1e-5)


def test_the_learning_rate_rises_in_a_line_and_falls_along_half_a_cosine(overfit):
  rates = [measured["learning_rate"] / 5e-3 for measured in overfit[1]]
  assert rates[:4] == pytest.approx([0.25, 0.5, 0.75, 1.0], rel=1e-5)
  assert rates[3:] == pytest.approx([0.5 + 0.5 * math.cos(math.pi * t / 27) for t in range(27)], rel=1e-4)


def test_the_running_mean_forgets_the_random_start(overfit):
  states, _ = overfit
  mean = variables_of(states[0])
  for step, state in enumerate(states[1:]):
    decay = min(0.7, (1 + step) / (10 + step))
    mean = jax.tree.map(lambda m, p, decay=decay: decay * m + (1 - decay) * p, mean, variables_of(state))
    assert_close(state.ema, mean, rtol=1e-4, atol=1e-5)
  decays = [float(training.ema_decay(step, small_config())) for step in (0, 90, 100_000)]
  assert decays == pytest.approx([0.1, 0.91, 0.999])


def test_the_discriminator_learns_on_the_same_fakes(overfit):
  states, metrics = overfit
  before, after = (flatten_dict(state.discriminator_params) for state in states[:2])
  assert all((before[name] != after[name]).any() for name in before)
  moments = optax.tree.get(states[1].discriminator_optimizer_state, "mu")
  assert metrics[0]["discriminator_gradient_norm"] > 0
  clipped = min(1.0, metrics[0]["discriminator_gradient_norm"])
  assert norm(moments) / (1 - 0.9) == pytest.approx(clipped, rel=1e-4)
  assert states[-1].step == STEPS


def lowered(config, stage):
  mesh, config = data_mesh(), check_config(config)
  state, batch = create_train_state(config, mesh), shard_batch(some_views(), mesh)
  return make_train_step(config, mesh).lower(state, batch, stage)


def test_what_is_off_costs_nothing_and_is_not_reported():
  config = small_config()
  config.loss.adversarial_from, config.loss.feature_from = 5, 7
  config.skip_steps = (1, 2, 3, 4)
  assert stage_at(0, config) == Stage((False,) * 4, False, False)
  assert stage_at(5, config) == Stage(ALL_SKIPS, True, False)
  assert stage_at(7, config) == Stage(ALL_SKIPS, True, True)

  def flops(config, step):
    stage = lowered(config, stage_at(step, config))
    return stage.cost_analysis()["flops"], set(stage.out_info[1])

  (none, few), (skips, same), (gan, most), (everything, all_terms) = (flops(config, step) for step in (0, 4, 5, 7))
  assert none < skips < gan < everything
  assert (
    few
    == same
    == {*("image", "gradient", "light", "loss", "gradient_norm", "update_norm", "parameter_norm", "learning_rate")}
  )
  assert most - few == {"adversarial", *("discriminator" + name for name in ("", "_real", "_fake", "_gradient_norm"))}
  assert all_terms - most == {"feature"}

  plain = small_config()
  plain.loss.adversarial = plain.loss.feature = plain.loss.light = 0.0
  state = create_train_state(check_config(plain), data_mesh())
  assert state.discriminator_params is None
  assert state.discriminator_optimizer_state is None
  fewer, terms = flops(plain, 10**6)
  assert "light" not in terms
  assert fewer < skips


def test_the_state_is_used_up():
  # All leaves have buffers of their own: one that is given away twice is refused.
  state = create_train_state(check_config(small_config()), data_mesh())
  leaves = jax.tree.leaves(state)
  assert len({leaf.unsafe_buffer_pointer() for leaf in leaves}) == len(leaves)
  info = lowered(small_config(), stage_at(0, small_config())).args_info[0]
  assert all(leaf.donated for leaf in jax.tree.leaves(info[0]))
  assert not any(leaf.donated for leaf in jax.tree.leaves(info[1]))


def test_microbatches_add_up_to_their_mean():
  config = small_config()
  config.loss.masked, config.discriminator.real = True, "relit"
  views = some_views(1)
  config.accumulate = 2
  (_, after), (metrics,) = run(config, [views])
  config.accumulate, config.batch_size = 1, 2
  parts = [run(config, [part_of(views, faces)]) for faces in ([0, 2], [1, 3])]
  by_hand = [terms_by_hand(parts[0][0][0], part_of(views, faces), config) for faces in ([0, 2], [1, 3])]
  expected = {name: np.mean([terms[name] for terms in by_hand]) for name in by_hand[0]}
  assert {name: metrics[name] for name in expected} == pytest.approx(expected, rel=1e-5)

  (_, one), (_, other) = (states for states, _ in parts)
  mean = jax.tree.map(lambda a, b: (a + b) / 2, adam_gradient(one), adam_gradient(other))
  assert_close(adam_gradient(after), mean, rtol=1e-3, atol=1e-4 * norm(mean))
  assert metrics["gradient_norm"] == pytest.approx(norm(mean), rel=1e-4)

  # Batch statistics move once with each microbatch: s -> 0.9 s + 0.1 b.
  start = parts[0][0][0].batch_stats
  moved = jax.tree.map(lambda s, a, b: 0.9 * a + (b - 0.9 * s), start, one.batch_stats, other.batch_stats)
  assert_close(after.batch_stats, moved, rtol=1e-4, atol=1e-5)


def test_lights_are_drawn_from_seed_and_step():
  config = small_config()
  config.seed, config.data.mode, config.online.lamp_share = 3, "online", 0.5
  faces = some_faces()
  states, metrics = run(config, [faces, faces])
  drawn = []
  for step, measured in enumerate(metrics):
    key = jax.random.fold_in(jax.random.key(3), step)
    views = jax.device_get(drawing(key, faces, config.online))
    # A published network is told of a lamp in nine numbers.
    drawn.append(views._replace(light=np.asarray(as_told(views.light))))
    expected = terms_by_hand(states[step], drawn[-1], config)
    assert {name: measured[name] for name in expected} == pytest.approx(expected, rel=1e-4)
  assert np.abs(drawn[0].light - drawn[1].light).max() > 0.01


@jax.jit
def views_of(key, faces, original_share, lamp_share):
  return relight_faces(key, faces, OnlineConfig(original_share, lamp_share))


def drawing(key, faces, online):
  return views_of(key, faces, online.original_share, online.lamp_share)


def ratio_terms_by_hand(state, faces, views):
  """The losses of a step of the ratio network, in NumPy from two passes: view 0 to 1 and 1 to 0."""
  source, target = np.concatenate(views.luminance), np.concatenate(views.luminance[::-1])
  own, other = (Light(*(np.concatenate(part[::step]) for part in views.light)) for step in (1, -1))
  relit = jax.device_get(forward(RatioHourglassNet(base_filters=4))(variables_of(state), source, other))

  def shrunk(pictures):
    small = RATIO_SIZE // 4
    return np.concatenate([pictures] * 2).reshape(len(source), small, 4, small, 4, -1).mean((2, 4))

  normal, mask, depth, weight = map(shrunk, (faces.normal, faces.mask, faces.depth, faces.shape_weight))
  normal = normal / np.linalg.norm(normal, axis=-1, keepdims=True)
  area, total = (each.sum((1, 2, 3), keepdims=True) for each in (mask, weight))
  off = relit.shape.depth - depth
  off = off - (off * mask).sum((1, 2, 3), keepdims=True) / area
  turned = 1 - np.sum(relit.shape.normal * normal, axis=-1, keepdims=True)
  skin = relit.shape.skin
  numbers = np.asarray(light_numbers(relit.source_light, own)) - np.asarray(light_numbers(own, own))
  return {
    "image": np.abs(relit.luminance - target).mean(),
    "light": np.log1p(np.square(numbers).sum(1)).mean(),
    "normal": np.mean((turned * weight).sum((1, 2, 3), keepdims=True) / total),
    "depth": np.mean((np.abs(off) * weight).sum((1, 2, 3), keepdims=True) / total),
    "framing": np.abs(relit.shape.framing - np.concatenate([faces.framing] * 2)).mean(),
    "skin": -np.mean(mask * np.log(skin) + (1 - mask) * np.log1p(-skin)),
  }


RATIO_STEPS = 12


@pytest.fixture(scope="module")
def ratio_overfit():
  """States and metrics of a ratio network that is shown the same two faces again and again."""
  config = ratio_config()
  config.optimizer.learning_rate, config.optimizer.clip_norm = 5e-3, 1.0
  return run(config, [some_faces(count=2, size=RATIO_SIZE)] * RATIO_STEPS)


def test_the_terms_of_the_ratio_network(ratio_overfit):
  states, metrics = ratio_overfit
  faces, key = some_faces(count=2, size=RATIO_SIZE), jax.random.fold_in(jax.random.key(0), 0)
  expected = ratio_terms_by_hand(states[0], faces, jax.device_get(drawing(key, faces, ratio_config().online)))
  assert {name: metrics[0][name] for name in expected} == pytest.approx(expected, rel=3e-3)
  for measured in metrics:
    assert measured["loss"] == pytest.approx(sum(RATIO_WEIGHTS[name] * measured[name] for name in expected), rel=1e-5)


def test_the_ratio_network_learns_shape(ratio_overfit):
  """Of faces whose lights are others in every step."""
  _, metrics = ratio_overfit
  assert all(np.isfinite(value) for measured in metrics for value in measured.values())
  for name in ("normal", "depth", "skin"):
    assert metrics[-1][name] < 0.9 * metrics[0][name]


def test_bfloat16_keeps_the_parameters_in_float32(overfit):
  (_, after, *_), (exact, *_) = overfit
  config = overfit_config()
  config.network.dtype = "bfloat16"
  (_, reduced), (metrics,) = run(config, [some_views()])
  assert {leaf.dtype for leaf in jax.tree.leaves((reduced.params, reduced.ema))} == {np.dtype(np.float32)}
  assert jax.tree.map(np.shape, reduced) == jax.tree.map(np.shape, after)
  for name in ("image", "gradient", "light", "adversarial", "feature", "discriminator", "loss"):
    assert metrics[name] == pytest.approx(exact[name], rel=0.03)
  assert metrics["image"] != exact["image"]


_ACROSS_DEVICES = """
import json, sys
import jax, numpy as np
from jax.sharding import Mesh
jax.config.update("jax_numpy_rank_promotion", "raise")
import tests.train.test_training as t

config = t.small_config()
config.batch_size, config.accumulate, config.data.mode, config.online.lamp_share = 16, 2, "online", 0.5
# Parameters without gradient (a bias before batch norm) take steps of this size along rounding errors.
config.optimizer.learning_rate = config.optimizer.discriminator_learning_rate = 1e-4
config = t.check_config(config)
faces = t.some_faces(count=16)
found = []
for count in (1, 8):
  mesh = Mesh(np.array(jax.devices()[:count]), ("data",))
  state, step, batch = t.create_train_state(config, mesh), t.compiled_step(config, mesh), t.shard_batch(faces, mesh)
  moved = [name for name in ("all-gather", "all-to-all", "collective-permute") if name in step.as_text()]
  metrics, stats = [], None
  for _ in range(4):
    state, measured = step(state, batch)
    stats = stats or [leaf.ravel().tolist() for leaf in jax.tree.leaves(jax.device_get(state.batch_stats))]
    metrics.append({name: float(value) for name, value in measured.items()})
  shards = [batch.luminance.addressable_shards[0].data.shape[0], len(state.step.sharding.device_set)]
  views = jax.device_get(t.drawing(jax.random.key(1), batch, config.online))
  views = [views.luminance.mean((2, 3, 4)).tolist(), [part.ravel().tolist() for part in views.light]]
  found.append({"metrics": metrics, "moved": moved, "stats": stats, "shards": shards, "views": views})
print(json.dumps(found))
"""


@pytest.mark.nightly
def test_eight_devices_give_the_losses_of_one():
  flags = "--xla_force_host_platform_device_count=8 --xla_backend_optimization_level=0"
  environment = os.environ | {"XLA_FLAGS": flags, "JAX_PLATFORMS": "cpu"}
  done = subprocess.run(
    [sys.executable, "-c", _ACROSS_DEVICES], env=environment, cwd=ROOT, capture_output=True, text=True, check=False
  )
  assert done.returncode == 0, done.stderr
  one, eight = json.loads(done.stdout)
  assert one["shards"] == [16, 1]
  assert eight["shards"] == [2, 8]
  assert eight["moved"] == []  # gradients and statistics are summed, faces stay where they are
  for by_one, by_eight in zip(one["metrics"], eight["metrics"], strict=True):
    norms = {"gradient_norm", "discriminator_gradient_norm", "update_norm", "parameter_norm"}
    losses = by_one.keys() - norms
    # The discriminator sees a picture with shadows, and makes more of its last bits than other losses do.
    assert {name: by_eight[name] for name in losses} == pytest.approx({name: by_one[name] for name in losses}, rel=3e-5)
    assert {name: by_eight[name] for name in norms} == pytest.approx({name: by_one[name] for name in norms}, rel=1e-3)
  # Lights are drawn for the whole batch.
  for by_one, by_eight in zip(
    [one["views"][0], *one["views"][1]], [eight["views"][0], *eight["views"][1]], strict=True
  ):
    np.testing.assert_allclose(by_eight, by_one, rtol=1e-4, atol=1e-5)
  # Statistics of the whole batch, not of a device's share.
  for by_one, by_eight in zip(one["stats"], eight["stats"], strict=True):
    np.testing.assert_allclose(by_eight, by_one, rtol=1e-4, atol=1e-6)


@pytest.mark.parametrize("module", [HourglassNet(), RatioHourglassNet(), PatchDiscriminator()])
def test_random_weights_are_distributed_as_flax_draws_them(module):
  rng = np.random.default_rng(0)
  inputs = [jnp.zeros((1, 64, 64, 1))] + [jnp.zeros((1, 9))] * (not isinstance(module, PatchDiscriminator))
  ours = flatten_dict(training._random_variables(module, rng, *inputs))
  flax = flatten_dict(jax.jit(module.init)(jax.random.key(0, impl="unsafe_rbg"), *inputs))
  assert {name: leaf.shape for name, leaf in ours.items()} == {name: leaf.shape for name, leaf in flax.items()}
  kernels = 0
  for name, leaf in ours.items():
    assert leaf.dtype == np.float32
    if name[-1] != "kernel":
      np.testing.assert_array_equal(leaf, flax[name])
      continue
    kernels += 1
    std = math.prod(leaf.shape[:-1]) ** -0.5
    few = 6 / math.sqrt(2 * leaf.size)  # of which a standard deviation is measured
    assert leaf.std() / std == pytest.approx(1, abs=few)
    assert abs(leaf.mean()) / std < few
    assert np.abs(leaf).max() <= 2.28 * std
    assert np.asarray(flax[name]).std() / std == pytest.approx(1, abs=few)
    assert np.abs(flax[name]).max() <= 2.28 * std
  assert kernels > 4


def test_the_seed_decides_the_start():
  def first(seed):
    config = small_config()
    config.seed = seed
    return jax.tree.leaves(jax.device_get(create_train_state(check_config(config), data_mesh()).params))

  one, again, other = first(1), first(1), first(2)
  assert all((a == b).all() for a, b in zip(one, again, strict=True))
  assert not all((a == b).all() for a, b in zip(one, other, strict=True))


@pytest.fixture
def weights_of(monkeypatch):
  """Puts the random weights of a network in the place of every file."""

  def place(module):
    side = module.size_multiple
    shapes = jax.ShapeDtypeStruct((1, side, side, 1), jnp.float32), jax.ShapeDtypeStruct((1, 9), jnp.float32)
    variables = training._random_variables(module, np.random.default_rng(7), *shapes)
    monkeypatch.setattr(training, "load_params", lambda source: jax.tree.map(jnp.asarray, variables))
    return variables

  return place


def started_from(name, **fields):
  config = small_config()
  config.network.name, config.network.init = name, "runs/first"
  if name == "ratio":
    config = ratio_config()
    config.network.init = "runs/first"
  config.network.update(fields)
  state = jax.device_get(create_train_state(check_config(config), data_mesh()))
  return variables_of(state), state.ema


def test_init_takes_a_whole_network(weights_of):
  variables = weights_of(HourglassNet(base_filters=4))
  for started in started_from("512"):
    assert_close(started, variables, rtol=0)


def test_init_takes_a_ratio_network(weights_of):
  variables = weights_of(RatioHourglassNet(base_filters=4))
  for started in started_from("ratio"):
    assert_close(started, variables, rtol=0)


def test_init_leaves_out_a_surface_head(weights_of):
  """Which was taught by other features; a run that has it could not be resumed."""
  variables = weights_of(RatioHourglassNet(base_filters=4, knows_surfaces=True))
  assert "surface_head" in variables["params"]
  for started in started_from("ratio"):
    for collection in ("params", "batch_stats"):
      assert started[collection].keys() == variables[collection].keys() - {"surface_head"}


def test_init_gives_a_1024_network_the_trunk_of_a_512_one(weights_of):
  variables = weights_of(HourglassNet(base_filters=4))
  for started in started_from("1024"):
    for collection in ("params", "batch_stats"):
      assert started[collection].keys() == {"stem_1024", "trunk", "head_1024"}
      assert_close(started[collection]["trunk"], variables[collection]["trunk"], rtol=0)
    fresh, given = started["params"]["stem_1024"]["conv"], variables["params"]["stem"]["conv"]
    assert np.abs(fresh["kernel"] - given["kernel"]).max() > 0.01


@pytest.mark.parametrize(
  ("module", "name", "fields"),
  [
    (HourglassNet1024(base_filters=4), "512", {}),
    (HourglassNet(base_filters=8), "512", {}),
    (HourglassNet(base_filters=8), "1024", {}),
    (HourglassNet(base_filters=4), "512", {"light_channels": 9}),
    (HourglassNet(base_filters=4), "ratio", {}),
    (RatioHourglassNet(base_filters=4), "512", {}),
    (RatioHourglassNet(base_filters=8), "ratio", {}),
  ],
)
def test_init_says_what_does_not_fit(weights_of, module, name, fields):
  weights_of(module)
  with pytest.raises(BadInput, match=r"config\.network\.init 'runs/first': a \d+ network of .* does not fit into a"):
    started_from(name, **fields)


def test_init_names_weights_that_are_missing():
  config = small_config()
  config.network.init = "nowhere/at/all"
  with pytest.raises(BadInput, match="nowhere/at/all"):
    create_train_state(check_config(config), data_mesh())


def test_a_config_that_does_not_fit_the_devices_is_refused():
  config = TrainingConfig(batch_size=4, accumulate=3)
  with pytest.raises(BadInput, match="batch_size"):
    make_train_step(config, data_mesh())
  with pytest.raises(BadInput, match="batch_size"):
    create_train_state(config, data_mesh())
