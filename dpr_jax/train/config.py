"""What a training run is made of: every field, its default and its meaning. `dpr_jax/configs/` holds the recipes."""

import dataclasses
import difflib
import functools
import math
from collections.abc import Iterator, Mapping
from typing import Any

from ml_collections import ConfigDict

from dpr_jax.base.errors import BadInput
from dpr_jax.network.encoding import NUM_LEVELS
from dpr_jax.network.hourglass import HourglassNet, HourglassNet1024
from dpr_jax.network.ratio_network import RatioHourglassNet
from dpr_jax.train.discriminator import minimum_size
from dpr_jax.train.skip_training import check_skip_steps, steps_of_epochs

NETWORKS = {"512": HourglassNet, "1024": HourglassNet1024, "ratio": RatioHourglassNet}


@dataclasses.dataclass(frozen=True)
class NetworkConfig:
  """The network that is trained."""

  name: str = "512"  # or 1024, or ratio
  base_filters: int = 16
  light_channels: int = 27
  dtype: str = "float32"  # of the convolutions, or bfloat16
  # Weights to begin with (see `load_params`; a workdir of train.py too); a 1024 network takes the trunk of a 512 one.
  init: str = ""


@dataclasses.dataclass(frozen=True)
class DataConfig:
  """The faces, and what is done to them."""

  folder: str = ""  # of export_dataset.py; empty: procedural faces are made first
  # More datasets to train on, and the share of the faces that comes from each, that of the folder first; (): from each
  # as many as it has. Evaluated are faces of the folder alone, and an epoch counts its faces.
  others: tuple[str, ...] = ()
  shares: tuple[float, ...] = ()
  procedural_faces: int = 500  # how many, where the folder is empty
  lights_per_face: int = 5  # relit images of each
  size: int = 512  # side of the square images, a multiple of the network's size_multiple
  mode: str = "offline"  # pairs among the stored images, or online: fresh lights in every step
  on_corrupt: str = "stop"  # at a damaged record, or skip it
  flip: bool = True
  crop: float = 0.0  # up to which share of its side a picture is shifted and cut
  scale: float = 0.0  # up to which share of its size it is made smaller or larger
  darken: float = 0.0  # the picture is made darker by up to so many stops
  # Up to which share of its side half of the pictures end earlier, on each side: padded by the last row.
  cut: float = 0.0
  workers: int = 0  # processes that decode; 0: threads of this one
  prefetch: int = 4  # batches kept ready


@dataclasses.dataclass(frozen=True)
class OnlineConfig:
  """The lights that are drawn in a step."""

  original_share: float = 0.5  # of the faces whose first view is the photo itself, under its own light
  lamp_share: float = 0.0  # of the drawn lights that have a lamp, which casts shadows


@dataclasses.dataclass(frozen=True)
class LossConfig:
  """The weights of the terms, and when they begin."""

  image: float = 1.0
  gradient: float = 1.0
  light: float = 1.0
  adversarial: float = 0.5
  feature: float = 0.5
  # Of normals, depth, place and skin of the face that a ratio network sees; with data.mode online, which has the truth.
  normal: float = 0.0
  depth: float = 0.0
  framing: float = 0.0
  skin: float = 0.0
  masked: bool = False  # image and gradient terms on the face only
  adversarial_from: int = 0  # first step of the adversarial terms
  feature_from: int = 0  # first step of feature matching


@dataclasses.dataclass(frozen=True)
class DiscriminatorConfig:
  """The network that tells relit pictures from real ones."""

  base_filters: int = 64
  levels: int = 3  # of stride 2; 3 see patches of 70 pixels
  real: str = "original"  # the photos, or relit: the targets


@dataclasses.dataclass(frozen=True)
class OptimizerConfig:
  """Adam, of both networks."""

  learning_rate: float = 1e-3
  discriminator_learning_rate: float = 1e-3
  b1: float = 0.9
  b2: float = 0.999
  warmup_steps: int = 0
  schedule: str = "constant"  # or cosine, to 0 at num_steps
  clip_norm: float = 0.0  # of the gradient; 0: not clipped
  ema_decay: float = 0.999  # of the generator that is evaluated and shipped


@dataclasses.dataclass(frozen=True)
class TrainingConfig:
  """Everything that a training run is told; `check_config` makes it of what recipes and flags have set.

  Everything that counts steps counts updates of the generator.
  """

  seed: int = 0
  # One of the two, the other is 0. An epoch passes each face of the training split once.
  num_steps: int = 100_000
  num_epochs: float = 0.0
  # Faces in a batch, over all processes and all microbatches. Each is shown under two lights, and each of the two is
  # relit to the other: twice as many images pass the network.
  batch_size: int = 16
  accumulate: int = 1  # microbatches that a batch is cut into

  network: NetworkConfig = NetworkConfig()
  data: DataConfig = DataConfig()
  online: OnlineConfig = OnlineConfig()
  loss: LossConfig = LossConfig()
  discriminator: DiscriminatorConfig = DiscriminatorConfig()
  optimizer: OptimizerConfig = OptimizerConfig()

  # First step with one, two, three and all four skip connections, innermost first; or in epochs, the other is ().
  skip_steps: tuple[int, ...] = (0,) * NUM_LEVELS
  skip_epochs: tuple[float, ...] = ()

  log_every: int = 50
  sample_every: int = 1000
  evaluate_every: int = 1000
  save_every: int = 1000
  keep: int = 3  # checkpoints


def default_config() -> ConfigDict:
  """The fields of a `TrainingConfig`, locked: a recipe sets them, and a name that is not here raises."""
  return ConfigDict(dataclasses.asdict(TrainingConfig())).lock()


_WHOLE_FROM_0 = (
  "seed",
  "num_steps",
  "data.workers",
  "loss.adversarial_from",
  "loss.feature_from",
  "optimizer.warmup_steps",
)
_WHOLE_FROM_1 = (
  "batch_size",
  "accumulate",
  "network.base_filters",
  "network.light_channels",
  "data.procedural_faces",
  "data.lights_per_face",
  "data.size",
  "data.prefetch",
  "discriminator.base_filters",
  "discriminator.levels",
  "log_every",
  "sample_every",
  "evaluate_every",
  "save_every",
  "keep",
)
_NOT_NEGATIVE = (
  "num_epochs",
  "loss.image",
  "loss.gradient",
  "loss.light",
  "loss.adversarial",
  "loss.feature",
  "loss.normal",
  "loss.depth",
  "loss.framing",
  "loss.skin",
  "data.darken",
  "optimizer.clip_norm",
)
_POSITIVE = ("optimizer.learning_rate", "optimizer.discriminator_learning_rate")
_SHARES = ("online.original_share", "online.lamp_share")  # from 0 to 1
_BELOW_HALF = ("data.cut",)  # and from 0
_BELOW_1 = ("data.crop", "data.scale", "optimizer.b1", "optimizer.b2", "optimizer.ema_decay")  # and from 0
_CHOICES = {
  "network.name": tuple(NETWORKS),
  "network.dtype": ("float32", "bfloat16"),
  "data.mode": ("offline", "online"),
  "data.on_corrupt": ("stop", "skip"),
  "discriminator.real": ("original", "relit"),
  "optimizer.schedule": ("constant", "cosine"),
}


def check_config(config: ConfigDict, num_devices: int = 1) -> TrainingConfig:
  """Freezes a config, once it is known that a run can be made with it.

  Args:
    config: with every field of `default_config` and no other, each of its type; whole numbers pass where a float is
      asked for, and a list as skip_steps.
    num_devices: of all processes, which share a batch.

  Raises:
    BadInput: a run cannot be made with it; names the field.
  """
  frozen = _frozen(TrainingConfig, _checked_fields(config))
  _check_values(frozen)
  check_batch(frozen, num_devices)
  return frozen


def check_batch(config: TrainingConfig, num_devices: int) -> None:
  """Raises BadInput where a batch cannot be shared evenly by the devices of all processes, and by its microbatches."""
  if config.batch_size % (num_devices * config.accumulate):
    raise BadInput(
      f"config.batch_size is {config.batch_size}, no multiple of {num_devices} devices x {config.accumulate} "
      "microbatches (config.accumulate)"
    )


def _check_values(config: TrainingConfig) -> None:
  """Raises BadInput, naming the field, where a value is none that a run can be made with."""
  fields = dict(_fields(dataclasses.asdict(config)))
  for names, low, wanted in ((_WHOLE_FROM_0, 0, "0 or more"), (_WHOLE_FROM_1, 1, "1 or more")):
    _check(fields, names, lambda value, low=low: value >= low, wanted)
  _check(fields, _NOT_NEGATIVE, lambda value: value >= 0, "0 or more")
  _check(fields, _POSITIVE, lambda value: value > 0, "more than 0")
  _check(fields, _SHARES, lambda value: 0 <= value <= 1, "0 to 1")
  _check(fields, _BELOW_1, lambda value: 0 <= value < 1, "at least 0 and less than 1")
  _check(fields, _BELOW_HALF, lambda value: 0 <= value < 0.5, "at least 0 and less than 0.5")
  for name, choices in _CHOICES.items():
    if fields[name] not in choices:
      raise BadInput(f"config.{name} is {fields[name]!r}, none of {', '.join(choices)}")
  _check_length(config)
  _check_datasets(config.data)
  _check_ratio_network(config)
  multiple = NETWORKS[config.network.name].size_multiple
  if config.data.size % multiple:
    raise BadInput(
      f"config.data.size is {config.data.size}, no multiple of {multiple} as the {config.network.name} network needs"
    )
  if config.loss.adversarial > 0 and config.data.size < minimum_size(config.discriminator.levels):
    raise BadInput(
      f"config.data.size is {config.data.size}; a discriminator of {config.discriminator.levels} levels "
      f"(config.discriminator.levels) needs {minimum_size(config.discriminator.levels)}"
    )
  if not any(getattr(config.loss, term) for term in ("image", "gradient", "adversarial")):
    raise BadInput("config.loss.image, gradient and adversarial are all 0: nothing says what a relit image is like")
  if config.num_steps and config.optimizer.warmup_steps >= config.num_steps:
    raise BadInput(
      f"config.optimizer.warmup_steps is {config.optimizer.warmup_steps}, but config.num_steps {config.num_steps}"
    )


def _check_datasets(data: DataConfig) -> None:
  """Other datasets are folders beside the first, each with a share or all without."""
  if not all(isinstance(folder, str) and folder for folder in data.others):
    raise BadInput(f"config.data.others is {data.others}, no list of folders")
  if data.others and not data.folder:
    raise BadInput("config.data.others names datasets beside config.data.folder, which is empty")
  if not data.shares:
    return
  if len(data.shares) != 1 + len(data.others):
    raise BadInput(f"config.data.shares is {data.shares}: there are {1 + len(data.others)} datasets")
  numbers = all(isinstance(share, (int, float)) and not isinstance(share, bool) for share in data.shares)
  if not numbers or not all(0 < share < math.inf for share in data.shares):
    raise BadInput(f"config.data.shares is {data.shares}: shares are numbers, more than 0")


def _check_ratio_network(config: TrainingConfig) -> None:
  """Shape is learnt by the ratio network alone, from records that have it; its skip connections are all on."""
  ratio = config.network.name == "ratio"
  for term in ("normal", "depth", "framing", "skin"):
    if (weight := getattr(config.loss, term)) and not ratio:
      raise BadInput(f"config.loss.{term} is {weight}: only with config.network.name ratio")
  if ratio and config.data.mode != "online":
    raise BadInput(f"config.data.mode is {config.data.mode}: the ratio network is trained online, on shapes and lamps")
  if ratio and (any(config.skip_steps) or any(config.skip_epochs)):
    raise BadInput(
      "config.network.name is ratio, whose skip connections are all on: config.skip_steps must be 0, 0, 0, 0"
    )


def _check_length(config: TrainingConfig) -> None:
  """How long a run is, and when skip connections come on: each said once, in steps or in epochs."""
  if (config.num_steps > 0) == (config.num_epochs > 0):
    raise BadInput(
      f"config.num_steps is {config.num_steps} and config.num_epochs {config.num_epochs}: one must be 0, the other not"
    )
  if bool(config.skip_steps) == bool(config.skip_epochs):
    raise BadInput(
      f"config.skip_steps is {config.skip_steps} and config.skip_epochs {config.skip_epochs}: "
      "one must be (), the other not"
    )
  if config.skip_steps:
    check_skip_steps(config.skip_steps)
  else:
    epochs = config.skip_epochs
    if len(epochs) != NUM_LEVELS or not all(isinstance(epoch, (int, float)) and epoch >= 0 for epoch in epochs):
      raise BadInput(f"config.skip_epochs must be {NUM_LEVELS} numbers of epochs, not {epochs}")
    if sorted(epochs) != list(epochs):
      raise BadInput(f"config.skip_epochs are in order, first the innermost connection's, and must not fall: {epochs}")
  for unit, length, skips in (
    ("steps", config.num_steps, config.skip_steps),
    ("epochs", config.num_epochs, config.skip_epochs),
  ):
    if length and skips and skips[-1] >= length:
      raise BadInput(
        f"config.skip_{unit} is {skips}, but the run has {length} {unit}: it would end without the outermost connection"
      )


def in_steps(config: TrainingConfig, faces: int) -> TrainingConfig:
  """The config with epochs turned into steps.

  Args:
    config: from `check_config`.
    faces: in the training split.

  Raises:
    BadInput: skip connections come on, or a warmup ends, after the last step.
  """
  steps = functools.partial(steps_of_epochs, faces=faces, batch_size=config.batch_size)
  if config.num_epochs:
    config = dataclasses.replace(config, num_steps=max(1, steps(config.num_epochs)), num_epochs=0.0)
  if config.skip_epochs:
    config = dataclasses.replace(config, skip_steps=tuple(map(steps, config.skip_epochs)), skip_epochs=())
  _check_values(config)
  return config


def _checked_fields(config: ConfigDict) -> dict[str, Any]:
  """The fields of a config by their dotted names, if they are those of `default_config` and of their types."""
  expected, given = dict(_fields(dataclasses.asdict(TrainingConfig()))), dict(_fields(config.to_dict()))
  for name in sorted(given.keys() - expected.keys()):
    close = difflib.get_close_matches(name, expected.keys() - given.keys() or expected, n=1)
    raise BadInput(f"config.{name}: no such field" + (f"; is it config.{close[0]}?" if close else ""))
  for name in sorted(expected.keys() - given.keys()):
    raise BadInput(f"config.{name} is missing")
  for name, value in given.items():
    wanted = type(expected[name])
    if not isinstance(value, _ACCEPTED[wanted]) or (isinstance(value, bool) and wanted is not bool):
      raise BadInput(f"config.{name} is {value!r}, not {_TYPE_NAMES[wanted]}")
    if wanted is float and not math.isfinite(value):
      raise BadInput(f"config.{name} is {value}")
  return given


_ACCEPTED = {bool: bool, int: int, float: (int, float), str: str, tuple: (tuple, list)}
_TYPE_NAMES = {bool: "true or false", int: "a whole number", float: "a number", str: "a text", tuple: "a list"}


def _frozen(kind: type, fields: Mapping[str, Any], prefix: str = "") -> Any:
  """The dataclass of checked fields, which are given by their dotted names; each gets the type of its default."""

  def value(field):
    if dataclasses.is_dataclass(field.default):
      return _frozen(type(field.default), fields, f"{prefix}{field.name}.")
    given = fields[prefix + field.name]
    return type(field.default)(given) if isinstance(field.default, (float, tuple)) else given

  return kind(**{field.name: value(field) for field in dataclasses.fields(kind)})


def _fields(config: Mapping[str, Any], prefix: str = "") -> Iterator[tuple[str, Any]]:
  for name, value in config.items():
    if isinstance(value, Mapping):
      yield from _fields(value, f"{prefix}{name}.")
    else:
      yield prefix + name, value


def _check(fields, names, fits, wanted: str) -> None:
  for name in names:
    if not fits(fields[name]):
      raise BadInput(f"config.{name} is {fields[name]}, not {wanted}")
