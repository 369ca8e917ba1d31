"""Every field of a training run is checked, and a wrong one is named."""

import dataclasses
import json

import pytest
from ml_collections import ConfigDict

from dpr_jax.base.errors import BadInput
from dpr_jax.train.config import _CHOICES, TrainingConfig, check_config, default_config


def fields(config, prefix=""):
  for name, value in config.items():
    if isinstance(value, ConfigDict):
      yield from fields(value, f"{prefix}{name}.")
    else:
      yield prefix + name


def changed(**dotted):
  """The default config with some fields replaced, whatever their types; `__` stands for a dot."""
  plain = default_config().to_dict()
  for name, value in dotted.items():
    *path, last = name.split("__")
    inside = plain
    for part in path:
      inside = inside[part]
    inside[last] = value
  return ConfigDict(plain)


def refused(config, num_devices=1):
  with pytest.raises(BadInput) as caught:
    check_config(config, num_devices)
  message = str(caught.value)
  assert "\n" not in message
  return message


def test_the_default_passes_and_is_locked():
  config = default_config()
  check_config(config)
  with pytest.raises(AttributeError):
    config.num_stepps = 1


def test_whole_numbers_pass_as_floats_and_lists_as_tuples():
  check_config(changed(loss__image=1, optimizer__clip_norm=5, skip_steps=[0, 1, 1, 7]))


def test_a_config_survives_json():
  assert check_config(ConfigDict(json.loads(default_config().to_json()))) == TrainingConfig()


def test_what_is_checked_is_frozen_and_has_the_types_of_the_fields():
  config = changed(loss__light=2, skip_steps=[0, 1, 1, 7], data__folder="a", data__others=["b"])
  frozen = check_config(config)
  assert (frozen.loss.light, type(frozen.loss.light), frozen.skip_steps) == (2.0, float, (0, 1, 1, 7))
  assert frozen.data.others == ("b",)
  config.loss.image = 3.0
  assert frozen.loss.image == 1.0
  for section in (frozen, frozen.loss):
    for field in dataclasses.fields(section):
      with pytest.raises(dataclasses.FrozenInstanceError):
        setattr(section, field.name, 1)


@pytest.mark.parametrize(
  ("mistyped", "meant"),
  [
    ("num_stepps", "num_steps"),
    ("loss__gradeint", "loss.gradient"),
    ("optimizer__learning_rates", "optimizer.learning_rate"),
  ],
)
def test_an_unknown_field_is_named_with_its_neighbour(mistyped, meant):
  message = refused(changed(**{mistyped: 1}))
  assert message == f"config.{mistyped.replace('__', '.')}: no such field; is it config.{meant}?"


def test_an_unknown_section_is_named():
  assert refused(changed(optimiser={"b1": 0.5})) == "config.optimiser.b1: no such field; is it config.optimizer.b1?"


@pytest.mark.parametrize("name", sorted(fields(default_config())))
def test_a_missing_field_is_named(name):
  plain = default_config().to_dict()
  *path, last = name.split(".")
  inside = plain
  for part in path:
    inside = inside[part]
  del inside[last]
  assert refused(ConfigDict(plain)) == f"config.{name} is missing"


@pytest.mark.parametrize("name", sorted(fields(default_config())))
def test_a_value_of_another_type_is_named(name):
  assert refused(changed(**{name.replace(".", "__"): b"7"})).startswith(f"config.{name} is b'7', not")
  assert refused(changed(**{name.replace(".", "__"): None})).startswith(f"config.{name} is None, not")


def test_true_is_no_number_and_1_is_not_true():
  assert refused(changed(num_steps=True)) == "config.num_steps is True, not a whole number"
  assert refused(changed(loss__image=True)) == "config.loss.image is True, not a number"
  assert refused(changed(data__flip=1)) == "config.data.flip is 1, not true or false"
  assert refused(changed(batch_size=2.0)) == "config.batch_size is 2.0, not a whole number"


@pytest.mark.parametrize(
  ("name", "values"),
  [
    ("num_steps", [0]),
    ("batch_size", [0, -4]),
    ("accumulate", [0]),
    ("seed", [-1]),
    ("keep", [0]),
    ("log_every", [0]),
    ("save_every", [0]),
    ("data.size", [0, -16]),
    ("data.workers", [-1]),
    ("data.crop", [-0.1, 1.0]),
    ("data.scale", [1.5]),
    ("data.darken", [-0.1]),
    ("data.cut", [-0.1, 0.5]),
    ("data.procedural_faces", [0]),
    ("discriminator.levels", [0]),
    ("network.base_filters", [0]),
    ("online.original_share", [-0.5, 1.5]),
    ("online.lamp_share", [1.5]),
    ("loss.image", [-1.0, float("nan")]),
    ("loss.feature", [-0.5, float("inf")]),
    ("loss.adversarial_from", [-1]),
    ("optimizer.learning_rate", [0.0, -1e-3, float("nan")]),
    ("optimizer.b1", [1.0]),
    ("optimizer.b2", [-0.1]),
    ("optimizer.ema_decay", [1.0]),
    ("optimizer.warmup_steps", [-1]),
    ("optimizer.clip_norm", [-1.0]),
    *((name, ["something"]) for name in _CHOICES),
  ],
)
def test_an_impossible_value_is_named(name, values):
  for value in values:
    assert refused(changed(**{name.replace(".", "__"): value})).startswith(f"config.{name} is {value!r}")


@pytest.mark.parametrize(
  ("fields", "said"),
  [
    ({"folder": "a", "others": (1,)}, "config.data.others is (1,), no list"),
    ({"folder": "", "others": ("b",)}, "which is empty"),
    ({"folder": "a", "others": ("b",), "shares": (1,)}, "there are 2 datasets"),
    ({"folder": "a", "others": ("b",), "shares": (1, 0)}, "more than 0"),
    ({"folder": "a", "others": ("b",), "shares": (1, "x")}, "are numbers"),
  ],
)
def test_datasets_that_cannot_be_mixed_are_refused(fields, said):
  assert said in refused(changed(**{f"data__{name}": value for name, value in fields.items()}))


@pytest.mark.parametrize("skip_steps", [(3, 2, 4, 5), (-1, 0, 0, 0), (0, 0, 0), (0, 0, 0, 1.5)])
def test_skip_steps_in_no_order_are_refused(skip_steps):
  assert refused(changed(skip_steps=skip_steps)).startswith("config.skip_steps")


def test_fields_must_fit_each_other():
  assert "no multiple of 16" in refused(changed(data__size=40))
  check_config(changed(data__size=48))
  assert "no multiple of 32" in refused(changed(data__size=48, network__name="1024"))
  assert "config.discriminator.levels" in refused(changed(data__size=16))
  check_config(changed(data__size=16, loss__adversarial=0.0))
  assert refused(changed(loss__image=0.0, loss__gradient=0.0, loss__adversarial=0.0)).startswith("config.loss.image")
  assert refused(changed(num_steps=10, optimizer__warmup_steps=10)).startswith("config.optimizer.warmup_steps is 10")


def test_a_batch_is_shared_evenly():
  check_config(changed(batch_size=16, accumulate=2), num_devices=8)
  message = refused(changed(batch_size=16, accumulate=4), num_devices=8)
  assert message.startswith("config.batch_size is 16, no multiple of 8 devices x 4 microbatches")
  assert refused(changed(batch_size=12), num_devices=8).startswith("config.batch_size is 12")


def test_shape_is_learnt_by_the_ratio_network_from_photos_with_normals():
  ratio = {"network__name": "ratio", "data__size": 128, "data__mode": "online"}
  check_config(changed(**ratio, loss__normal=5.0, loss__depth=1.0, loss__framing=3.0, loss__skin=1.0))
  assert refused(changed(loss__normal=1.0)).startswith("config.loss.normal is 1.0: only with")
  assert refused(changed(loss__depth=1.0)).startswith("config.loss.depth is 1.0: only with")
  assert refused(changed(loss__framing=1.0)).startswith("config.loss.framing is 1.0: only with")
  assert refused(changed(loss__skin=1.0)).startswith("config.loss.skin is 1.0: only with")
  offline = ratio | {"data__mode": "offline"}
  assert refused(changed(**offline)).startswith("config.data.mode is offline: the ratio network is trained online")
  assert "no multiple of 64" in refused(changed(**ratio | {"data__size": 96}))
  assert "skip connections are all on" in refused(changed(**ratio, skip_steps=(0, 0, 0, 1)))
