"""One step of training: the generator, and the discriminator on the same fakes (Zhou et al. 2019, section 3.3).

A batch is cut over a one-dimensional mesh of all devices, by faces; the state is the same on each. One device, eight
of them or several hosts run the same program, and the same numbers come out but for the order of sums: batch norm sees
the whole microbatch, and lights are drawn for the whole batch.
"""

import functools
from collections.abc import Callable
from typing import TYPE_CHECKING, NamedTuple

import flax
import jax
import jax.numpy as jnp
import numpy as np
import optax
from jax.sharding import Mesh, NamedSharding, PartitionSpec
from scipy import special

from dpr_jax.base import cpu
from dpr_jax.base.errors import BadInput
from dpr_jax.light.light import Light, as_told
from dpr_jax.network.networks import network_for
from dpr_jax.network.ratio_network import RatioHourglassNet, light_numbers
from dpr_jax.network.weights import load_params
from dpr_jax.train import losses
from dpr_jax.train.config import NETWORKS, TrainingConfig, check_batch
from dpr_jax.train.discriminator import PatchDiscriminator
from dpr_jax.train.skip_training import skip_mask
from dpr_jax.train.views import FACE_AXES, Faces, Views, relight_faces

if TYPE_CHECKING:
  from dpr_jax.network.networks import Network

_AXIS = "data"


@flax.struct.dataclass
class TrainState:
  """Everything that a step changes; the discriminator's fields are None in a run without adversarial loss.

  Attributes:
    step: updates so far, int32.
    params: of the generator, float32.
    batch_stats: of the generator.
    optimizer_state: of the generator.
    ema: `{"params", "batch_stats"}`, running means of the two: what is evaluated and shipped.
    discriminator_params: float32.
    discriminator_optimizer_state: of the discriminator.
  """

  step: jax.Array
  params: dict
  batch_stats: dict
  optimizer_state: optax.OptState
  ema: dict
  discriminator_params: dict | None
  discriminator_optimizer_state: optax.OptState | None


class Stage(NamedTuple):
  """What a step is specialised to, so that what is off costs nothing: each stage is compiled once.

  Attributes:
    skip_mask: which skip connections are on, outermost first.
    adversarial: whether the discriminator is at work.
    feature: whether face features are matched.
  """

  skip_mask: tuple[bool, ...]
  adversarial: bool
  feature: bool


def stage_at(step: int, config: TrainingConfig) -> Stage:
  """The stage of the step that follows `step` updates."""
  loss = config.loss
  return Stage(
    skip_mask=skip_mask(step, config.skip_steps),
    adversarial=loss.adversarial > 0 and step >= loss.adversarial_from,
    feature=loss.feature > 0 and step >= loss.feature_from,
  )


def data_mesh() -> Mesh:
  """All devices of all processes in a row."""
  return Mesh(np.array(jax.devices()), (_AXIS,))


def _over_faces(axis: int) -> PartitionSpec:
  return PartitionSpec(*[None] * axis, _AXIS)


def _batch_shardings(kind: type[Faces] | type[Views], mesh: Mesh) -> Faces | Views:
  axes = FACE_AXES[kind]
  return type(axes)(*(NamedSharding(mesh, _over_faces(axis)) for axis in axes))


def shard_batch(batch: Faces | Views, mesh: Mesh) -> Faces | Views:
  """This process's share of a batch (NumPy) as arrays over all devices, which hold the whole batch between them."""
  return jax.tree.map(jax.make_array_from_process_local_data, _batch_shardings(type(batch), mesh), batch)


def network_of(config: TrainingConfig) -> "Network":
  """The network of a run."""
  kind, network = NETWORKS[config.network.name], config.network
  channels = {} if kind is RatioHourglassNet else {"light_channels": network.light_channels}
  return kind(base_filters=network.base_filters, dtype=jnp.dtype(network.dtype), **channels)


def _discriminator_of(config: TrainingConfig) -> PatchDiscriminator:
  discriminator = config.discriminator
  return PatchDiscriminator(
    base_filters=discriminator.base_filters, levels=discriminator.levels, dtype=jnp.dtype(config.network.dtype)
  )


def create_train_state(config: TrainingConfig, mesh: Mesh) -> TrainState:
  """The state before the first step, replicated over the mesh; random weights are those of `config.seed`.

  Raises:
    BadInput: as `check_batch`, or `config.network.init` names weights that cannot be read or are of another network.
  """
  check_batch(config, mesh.size)
  rng = np.random.default_rng(config.seed)
  network = network_of(config)
  side = network.size_multiple
  image = jax.ShapeDtypeStruct((1, side, side, 1), jnp.float32)
  light = jax.ShapeDtypeStruct((1, network.light_size), jnp.float32)
  variables = _random_variables(network, rng, image, light)
  if config.network.init:
    weights = _fitting_weights(config.network.init, network)
    # Weights may have more: a surface head, which is taught after all else.
    variables = {
      collection: {name: weights[collection].get(name, random) for name, random in tree.items()}
      for collection, tree in variables.items()
    }
  discriminator_params = None
  if config.loss.adversarial > 0:
    image = jax.ShapeDtypeStruct((1, config.data.size, config.data.size, 1), jnp.float32)
    discriminator_params = _random_variables(_discriminator_of(config), rng, image)["params"]

  def state(variables, discriminator_params):
    optimizer = _optimizer(config)
    return TrainState(
      step=jnp.zeros((), jnp.int32),
      params=variables["params"],
      batch_stats=variables["batch_stats"],
      optimizer_state=optimizer.init(variables["params"]),
      ema=variables,
      discriminator_params=discriminator_params,
      discriminator_optimizer_state=None if discriminator_params is None else optimizer.init(discriminator_params),
    )

  # Outputs of a compiled function have buffers of their own, also where two are equal, as donation needs them.
  return jax.jit(state, out_shardings=NamedSharding(mesh, PartitionSpec()))(variables, discriminator_params)


def _random_variables(module, rng: np.random.Generator, *inputs: jax.ShapeDtypeStruct) -> dict:
  """Random variables as `module.init` draws them, in NumPy: to compile its hundred draws takes XLA over ten seconds."""
  shapes = jax.eval_shape(module.init, jax.random.key(0), *inputs)

  def draw(path, leaf):
    name = path[-1].key
    if name == "kernel":
      return _lecun_normal(rng, leaf.shape)
    return np.full(leaf.shape, _CONSTANTS[name], np.float32)

  return jax.tree_util.tree_map_with_path(draw, shapes)


_CONSTANTS = {"mean_face": 0, "bias": 0, "scale": 1, "mean": 0, "var": 1, "negative_slope": 0.25}
_TRUNCATION = 2.0  # standard deviations
# Of a standard normal that is cut at `_TRUNCATION`.
_TRUNCATED_STD = 0.87962566103423978


def _lecun_normal(rng: np.random.Generator, shape: tuple[int, ...]) -> np.ndarray:
  """A kernel `[..., inputs, outputs]`: normal, cut at two standard deviations, variance 1 / fan-in."""
  fan_in = int(np.prod(shape[:-1]))
  share = special.ndtr(_TRUNCATION)
  normal = special.ndtri(rng.uniform(1 - share, share, shape))
  return (normal / (_TRUNCATED_STD * np.sqrt(fan_in))).astype(np.float32)


def _fitting_weights(source: str, network: "Network") -> dict:
  """The weights that `source` names, for `network`: all, or the trunk alone for a 1024 network from a 512 one."""
  weights = jax.device_get(load_params(source))
  given = network_for(weights)
  if _kind(given) == _kind(network):
    return weights
  if _kind(given) == ("512", *_kind(network)[1:]):
    return {collection: {"trunk": tree["trunk"]} for collection, tree in weights.items()}
  raise BadInput(f"config.network.init {source!r}: {_in_words(given)} does not fit into {_in_words(network)}")


def _kind(network: "Network") -> tuple[str, int, int, int]:
  light_channels = getattr(network, "light_channels", 0)  # the ratio network's bottleneck has none apart
  return str(network.native_size), network.base_filters, light_channels, network.light_size


def _in_words(network: "Network") -> str:
  size, base_filters, light_channels, light_size = _kind(network)
  channels = f"{base_filters} base filters, {light_channels} light channels"
  return f"a {size} network of {channels} and lights of {light_size} numbers"


def _optimizer(config: TrainingConfig) -> optax.GradientTransformation:
  """Gradients to directions; the learning rate is not in it, since it follows the step of the run."""
  optimizer = config.optimizer
  clip = optax.clip_by_global_norm(optimizer.clip_norm) if optimizer.clip_norm > 0 else optax.identity()
  return optax.chain(clip, optax.scale_by_adam(b1=optimizer.b1, b2=optimizer.b2))


def learning_rate_share(step: jax.Array, config: TrainingConfig) -> jax.Array:
  """The share of the learning rate at a step: up in a line over the warmup, then constant, or a half cosine to 0."""
  warmup = config.optimizer.warmup_steps
  share = jnp.minimum(1.0, (step + 1) / (warmup + 1))
  if config.optimizer.schedule == "cosine":
    done = jnp.clip((step - warmup) / max(1, config.num_steps - warmup), 0.0, 1.0)
    share *= 0.5 * (1 + jnp.cos(jnp.pi * done))
  return share


def ema_decay(step: jax.Array, config: TrainingConfig) -> jax.Array:
  """What the running mean keeps of itself at a step.

  At most (1 + step) / (10 + step), so that it begins as a mean of about the last tenth of the run: neither the random
  start nor the first wild steps stay in it.
  """
  return jnp.minimum(config.optimizer.ema_decay, (1 + step) / (10 + step))


def make_train_step(
  config: TrainingConfig, mesh: Mesh
) -> Callable[[TrainState, Faces | Views, Stage], tuple[TrainState, dict[str, jax.Array]]]:
  """`train_step`, compiled once for each stage: `step(state, batch, stage)`.

  The state that is given to it is used up (donated). The batch is `Faces` in online mode, `Views` in offline mode, as
  `shard_batch` returns them.
  """
  check_batch(config, mesh.size)
  replicated = NamedSharding(mesh, PartitionSpec())
  return jax.jit(
    functools.partial(train_step, config=config, mesh=mesh),
    in_shardings=(replicated, _batch_shardings(Faces if config.data.mode == "online" else Views, mesh)),
    out_shardings=(replicated, replicated),
    donate_argnums=0,
    static_argnums=2,
    compiler_options=cpu.compiler_options(),
  )


class _Pairs(NamedTuple):
  """What passes the network: each face twice, one after the other, each view the target of the other.

  Attributes:
    source: `[2B, H, W, 1]`, L / 100.
    source_light: the source's own: of the paper's networks nine numbers, `[2B, 9]`, of the ratio network a `Light`.
    target: `[2B, H, W, 1]`.
    target_light: as `source_light`.
    mask: `[2B, H, W, 1]`.
    real: what the discriminator is shown as real, `[B, H, W, 1]` the photos or `[2B, H, W, 1]` the targets.
    faces: what the views were made of, each face twice; None where the views are stored pictures.
  """

  source: jax.Array
  source_light: jax.Array | Light
  target: jax.Array
  target_light: jax.Array | Light
  mask: jax.Array
  real: jax.Array
  faces: Faces | None


def train_step(
  state: TrainState, batch: Faces | Views, stage: Stage, *, config: TrainingConfig, mesh: Mesh
) -> tuple[TrainState, dict[str, jax.Array]]:
  """One update of the generator and, at an adversarial stage, of the discriminator.

  Returns:
    The new state; and float32 scalars: `image`, `gradient`, `light`, `adversarial` and `feature`, the terms before
    their weights, those that are off left out; `loss`, their weighted sum; `gradient_norm` before clipping,
    `update_norm`, `parameter_norm`, `learning_rate`; and at an adversarial stage `discriminator`, its loss,
    `discriminator_real` and `discriminator_fake`, its mean scores, and `discriminator_gradient_norm`.
  """
  faces, views = None, batch
  if isinstance(batch, Faces):
    key = jax.random.fold_in(jax.random.key(config.seed), state.step)
    faces, views = batch, relight_faces(key, batch, config.online)

  def gradients(batch_stats, views, faces):
    return _gradients(state, batch_stats, _pairs(views, faces, config), stage, config)

  if config.accumulate == 1:
    grads, batch_stats, metrics = gradients(state.batch_stats, views, faces)
  else:

    def add(carry, microbatch):
      total, batch_stats = carry
      grads, batch_stats, metrics = gradients(batch_stats, *microbatch)
      return (jax.tree.map(jnp.add, total, grads), batch_stats), metrics

    trained = state.params, state.discriminator_params if stage.adversarial else None
    zeros = jax.tree.map(jnp.zeros_like, trained)
    (total, batch_stats), metrics = jax.lax.scan(
      add,
      (zeros, state.batch_stats),
      (
        _microbatches(views, config.accumulate, mesh),
        None if faces is None else _microbatches(faces, config.accumulate, mesh),
      ),
      # Inside a loop XLA's CPU compiler has no fast kernel for the gradients of the discriminator's convolutions.
      unroll=mesh.devices.flat[0].platform == "cpu",
    )
    grads = jax.tree.map(lambda leaf: leaf / config.accumulate, total)
    metrics = jax.tree.map(jnp.mean, metrics)

  generator_grads, discriminator_grads = grads
  share = learning_rate_share(state.step, config)
  learning_rate = config.optimizer.learning_rate * share
  updates, optimizer_state = _update(config, generator_grads, state.optimizer_state, learning_rate)
  params = optax.apply_updates(state.params, updates)
  decay = ema_decay(state.step, config)
  trained = {"params": params, "batch_stats": batch_stats}
  metrics |= {
    "gradient_norm": optax.tree.norm(generator_grads),
    "update_norm": optax.tree.norm(updates),
    "parameter_norm": optax.tree.norm(params),
    "learning_rate": learning_rate,
  }
  state = state.replace(
    step=state.step + 1,
    params=params,
    batch_stats=batch_stats,
    optimizer_state=optimizer_state,
    ema=jax.tree.map(lambda mean, leaf: decay * mean + (1 - decay) * leaf, state.ema, trained),
  )
  if stage.adversarial:
    updates, optimizer_state = _update(
      config,
      discriminator_grads,
      state.discriminator_optimizer_state,
      config.optimizer.discriminator_learning_rate * share,
    )
    metrics["discriminator_gradient_norm"] = optax.tree.norm(discriminator_grads)
    state = state.replace(
      discriminator_params=optax.apply_updates(state.discriminator_params, updates),
      discriminator_optimizer_state=optimizer_state,
    )
  return state, {name: jnp.asarray(value, jnp.float32) for name, value in metrics.items()}


def _update(config: TrainingConfig, grads, optimizer_state: optax.OptState, learning_rate: jax.Array):
  directions, optimizer_state = _optimizer(config).update(grads, optimizer_state)
  return jax.tree.map(lambda direction: -learning_rate * direction, directions), optimizer_state


def _microbatches(batch: Faces | Views, count: int, mesh: Mesh) -> Faces | Views:
  """A batch as `[count, ...]` microbatches: every `count`-th face goes into the same.

  So no face leaves its device, and a microbatch has the same faces whatever the number of devices.
  """

  def cut(axis, array):
    shape = array.shape
    array = array.reshape(*shape[:axis], shape[axis] // count, count, *shape[axis + 1 :])
    array = jnp.moveaxis(array, axis + 1, 0)
    return jax.lax.with_sharding_constraint(array, NamedSharding(mesh, _over_faces(axis + 1)))

  def cut_field(axis, field):  # a light has several parts
    return jax.tree.map(functools.partial(cut, axis), field)

  return jax.tree.map(cut_field, FACE_AXES[type(batch)], batch)


def _pairs(views: Views, faces: Faces | None, config: TrainingConfig) -> _Pairs:
  def by_face(array):  # [2, B, ...] -> [2B, ...], both views of a face side by side: they stay on their device
    return jnp.moveaxis(array, 0, 1).reshape(-1, *array.shape[2:])

  def twice(array):
    return jnp.repeat(array, 2, axis=0)

  lights = views.light
  if isinstance(lights, Light) and config.network.name != "ratio":
    lights = as_told(lights)
  target = by_face(views.luminance[::-1])
  return _Pairs(
    source=by_face(views.luminance),
    source_light=jax.tree.map(by_face, lights),
    target=target,
    target_light=jax.tree.map(lambda part: by_face(part[::-1]), lights),
    mask=twice(views.mask),
    real=target if config.discriminator.real == "relit" else views.original,
    faces=jax.tree.map(twice, faces),
  )


def _gradients(state: TrainState, batch_stats: dict, pairs: _Pairs, stage: Stage, config: TrainingConfig):
  """Gradients of generator and discriminator (None where it is off), new batch statistics, and metrics."""
  grads, (batch_stats, metrics, relit) = jax.grad(_generator_loss, has_aux=True)(
    state.params, batch_stats, state.discriminator_params, pairs, stage, config
  )
  if not stage.adversarial:
    return (grads, None), batch_stats, metrics
  discriminator_grads, of_discriminator = jax.grad(_discriminator_loss, has_aux=True)(
    state.discriminator_params, pairs.real, relit, config
  )
  return (grads, discriminator_grads), batch_stats, metrics | of_discriminator


def _generator_loss(params, batch_stats, discriminator_params, pairs: _Pairs, stage: Stage, config: TrainingConfig):
  weights = config.loss
  relit, updated = network_of(config).apply(
    {"params": params, "batch_stats": batch_stats},
    pairs.source,
    pairs.target_light,
    stage.skip_mask,
    True,
    mutable=["batch_stats"],
  )
  terms = {}
  mask = pairs.mask if weights.masked else None
  if weights.image:
    terms["image"] = losses.image_l1(prediction=relit.luminance, target=pairs.target, mask=mask)
  if weights.gradient:
    terms["gradient"] = losses.gradient_l1(prediction=relit.luminance, target=pairs.target, mask=mask)
  if weights.light:
    estimated, true = relit.source_light, pairs.source_light
    if isinstance(true, Light):
      estimated, true = (light_numbers(each, true) for each in (estimated, true))
      terms["light"] = losses.light_cauchy(prediction=estimated, target=true)
    else:
      terms["light"] = losses.light_l2(prediction=estimated, target=true)
  if stage.adversarial:
    scores = _discriminator_of(config).apply({"params": discriminator_params}, relit.luminance)
    terms["adversarial"] = losses.lsgan_generator(fake=scores)
  if stage.feature:
    views = relit.face.reshape(-1, 2, *relit.face.shape[1:])
    terms["feature"] = losses.feature_matching(first=views[:, 0], second=views[:, 1])
  if weights.normal or weights.depth:
    weight = _shrunk_to(relit.shape.depth, pairs.faces.shape_weight)
  if weights.normal:
    target = _shrunk_to(relit.shape.normal, pairs.faces.normal)
    target *= jax.lax.rsqrt(jnp.sum(jnp.square(target), axis=-1, keepdims=True) + 1e-6)
    terms["normal"] = losses.normal_cosine(prediction=relit.shape.normal, target=target, weight=weight)
  if weights.depth:
    depth, face = (_shrunk_to(relit.shape.depth, each) for each in (pairs.faces.depth, pairs.mask))
    terms["depth"] = losses.depth_l1(prediction=relit.shape.depth, target=depth, mask=face, weight=weight)
  if weights.framing:
    terms["framing"] = losses.framing_l1(prediction=relit.shape.framing, target=pairs.faces.framing)
  if weights.skin:
    target = _shrunk_to(relit.shape.skin, pairs.mask)
    terms["skin"] = losses.skin_cross_entropy(prediction=relit.shape.skin, target=target)
  loss = sum((getattr(weights, name) * term for name, term in terms.items()), start=jnp.float32(0))
  return loss, (updated["batch_stats"], terms | {"loss": loss}, relit.luminance)


def _shrunk_to(small: jax.Array, pictures: jax.Array) -> jax.Array:
  """`[B, H, W, C]` at the size of `small`, by the means of what falls into a pixel."""
  b, h, w, c = small.shape
  _, height, width, _ = pictures.shape
  return pictures.reshape(b, h, height // h, w, width // w, c).mean(axis=(2, 4))


def _discriminator_loss(params, real: jax.Array, fake: jax.Array, config: TrainingConfig):
  """On fakes that are taken as they are: no gradient reaches the generator."""
  discriminator = _discriminator_of(config)
  real, fake = (discriminator.apply({"params": params}, luminance) for luminance in (real, fake))
  loss = losses.lsgan_discriminator(real=real, fake=fake)
  return loss, {"discriminator": loss, "discriminator_real": real.mean(), "discriminator_fake": fake.mean()}
