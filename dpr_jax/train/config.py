"""What a training run is made of: every field, its default and its meaning. `dpr_jax/configs/` holds the recipes."""

import difflib
import functools
import math
from collections.abc import Iterator

from ml_collections import ConfigDict

from dpr_jax.base.errors import BadInput
from dpr_jax.network.encoding import NUM_LEVELS
from dpr_jax.network.hourglass import HourglassNet, HourglassNet1024
from dpr_jax.network.ratio_network import RatioHourglassNet
from dpr_jax.train.discriminator import minimum_size
from dpr_jax.train.skip_training import check_skip_steps, steps_of_epochs

NETWORKS = {"512": HourglassNet, "1024": HourglassNet1024, "ratio": RatioHourglassNet}


def default_config() -> ConfigDict:
  """The fields of a training run, locked: a recipe sets them, and a name that is not here raises.

  Everything that counts steps counts updates of the generator.
  """
  config = ConfigDict()
  config.seed = 0
  # One of the two, the other is 0. An epoch passes each face of the training split once.
  config.num_steps = 100_000
  config.num_epochs = 0.0
  # Faces in a batch, over all processes and all microbatches. Each is shown under two lights, and each of the two is
  # relit to the other: twice as many images pass the network.
  config.batch_size = 16
  config.accumulate = 1  # microbatches that a batch is cut into

  config.network = network = ConfigDict()
  network.name = "512"  # or 1024, or ratio
  network.base_filters = 16
  network.light_channels = 27
  network.dtype = "float32"  # of the convolutions, or bfloat16
  # Weights to begin with (see `load_params`; a workdir of train.py too); a 1024 network takes the trunk of a 512 one.
  network.init = ""

  config.data = data = ConfigDict()
  data.folder = ""  # of export_dataset.py; empty: procedural faces are made first
  # More datasets to train on, and the share of the faces that comes from each, that of the folder first; (): from each
  # as many as it has. Evaluated are faces of the folder alone, and an epoch counts its faces.
  data.others = ()
  data.shares = ()
  data.procedural_faces = 500  # how many, where the folder is empty
  data.lights_per_face = 5  # relit images of each
  data.size = 512  # side of the square images, a multiple of the network's size_multiple
  data.mode = "offline"  # pairs among the stored images, or online: fresh lights in every step
  data.on_corrupt = "stop"  # at a damaged record, or skip it
  data.flip = True
  data.crop = 0.0  # up to which share of its side a picture is shifted and cut
  data.scale = 0.0  # up to which share of its size it is made smaller or larger
  data.darken = 0.0  # the picture is made darker by up to so many stops
  data.cut = 0.0  # up to which share of its side half of the pictures end earlier, on each side: padded by the last row
  data.workers = 0  # processes that decode; 0: threads of this one
  data.prefetch = 4  # batches kept ready

  config.online = online = ConfigDict()
  online.original_share = 0.5  # of the faces whose first view is the photo itself, under its own light
  online.lamp_share = 0.0  # of the drawn lights that have a lamp, which casts shadows

  config.loss = loss = ConfigDict()
  loss.image = 1.0
  loss.gradient = 1.0
  loss.light = 1.0
  loss.adversarial = 0.5
  loss.feature = 0.5
  # Of normals, depth, place and skin of the face that a ratio network sees; with data.mode online, which has the truth.
  loss.normal = 0.0
  loss.depth = 0.0
  loss.framing = 0.0
  loss.skin = 0.0
  loss.masked = False  # image and gradient terms on the face only
  loss.adversarial_from = 0  # first step of the adversarial terms
  loss.feature_from = 0  # first step of feature matching

  config.discriminator = discriminator = ConfigDict()
  discriminator.base_filters = 64
  discriminator.levels = 3  # of stride 2; 3 see patches of 70 pixels
  discriminator.real = "original"  # the photos, or relit: the targets

  config.optimizer = optimizer = ConfigDict()
  optimizer.learning_rate = 1e-3
  optimizer.discriminator_learning_rate = 1e-3
  optimizer.b1 = 0.9
  optimizer.b2 = 0.999
  optimizer.warmup_steps = 0
  optimizer.schedule = "constant"  # or cosine, to 0 at num_steps
  optimizer.clip_norm = 0.0  # of the gradient; 0: not clipped
  optimizer.ema_decay = 0.999  # of the generator that is evaluated and shipped

  # First step with one, two, three and all four skip connections, innermost first; or in epochs, the other is ().
  config.skip_steps = (0,) * NUM_LEVELS
  config.skip_epochs = ()

  config.log_every = 50
  config.sample_every = 1000
  config.evaluate_every = 1000
  config.save_every = 1000
  config.keep = 3  # checkpoints
  return config.lock()


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


def check_config(config: ConfigDict, num_devices: int = 1) -> None:
  """Raises BadInput, naming the field, where a config is none that a run can be made with.

  Args:
    config: with every field of `default_config` and no other, each of its type; whole numbers pass where a float is
      asked for, and a list as skip_steps.
    num_devices: of all processes, which share a batch.
  """
  fields = _checked_fields(config)
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
  if not any(config.loss[term] for term in ("image", "gradient", "adversarial")):
    raise BadInput("config.loss.image, gradient and adversarial are all 0: nothing says what a relit image is like")
  if config.batch_size % (num_devices * config.accumulate):
    raise BadInput(
      f"config.batch_size is {config.batch_size}, no multiple of {num_devices} devices x {config.accumulate} "
      "microbatches (config.accumulate)"
    )
  if config.num_steps and config.optimizer.warmup_steps >= config.num_steps:
    raise BadInput(
      f"config.optimizer.warmup_steps is {config.optimizer.warmup_steps}, but config.num_steps {config.num_steps}"
    )


def _check_datasets(data: ConfigDict) -> None:
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


def _check_ratio_network(config: ConfigDict) -> None:
  """Shape is learnt by the ratio network alone, from records that have it; its skip connections are all on."""
  ratio = config.network.name == "ratio"
  for term in ("normal", "depth", "framing", "skin"):
    if config.loss[term] and not ratio:
      raise BadInput(f"config.loss.{term} is {config.loss[term]}: only with config.network.name ratio")
  if ratio and config.data.mode != "online":
    raise BadInput(f"config.data.mode is {config.data.mode}: the ratio network is trained online, on shapes and lamps")
  if ratio and (any(config.skip_steps) or any(config.skip_epochs)):
    raise BadInput(
      "config.network.name is ratio, whose skip connections are all on: config.skip_steps must be 0, 0, 0, 0"
    )


def _check_length(config: ConfigDict) -> None:
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


def in_steps(config: ConfigDict, faces: int) -> ConfigDict:
  """The config with epochs turned into steps.

  Args:
    config: checked.
    faces: in the training split.
  """
  steps = functools.partial(steps_of_epochs, faces=faces, batch_size=config.batch_size)
  config = config.copy_and_resolve_references()
  if config.num_epochs:
    config.num_steps, config.num_epochs = max(1, steps(config.num_epochs)), 0.0
  if config.skip_epochs:
    config.skip_steps, config.skip_epochs = tuple(steps(epoch) for epoch in config.skip_epochs), ()
  check_config(config)
  return config


def _checked_fields(config: ConfigDict) -> dict[str, object]:
  """The fields of a config by their dotted names, if they are those of `default_config` and of their types."""
  expected, given = dict(_fields(default_config())), dict(_fields(config))
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


def _fields(config: ConfigDict, prefix: str = "") -> Iterator[tuple[str, object]]:
  for name, value in config.items():
    if isinstance(value, ConfigDict):
      yield from _fields(value, f"{prefix}{name}.")
    else:
      yield prefix + name, value


def _check(fields, names, fits, wanted: str) -> None:
  for name in names:
    if not fits(fields[name]):
      raise BadInput(f"config.{name} is {fields[name]}, not {wanted}")
