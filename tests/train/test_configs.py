"""Every recipe and every variant loads, is a config that a run can be made with, and trains."""

import importlib
import runpy

import jax
import numpy as np
import pytest

from dpr_jax.base.errors import BadInput
from dpr_jax.network.encoding import ALL_SKIPS
from dpr_jax.network.hourglass import HourglassNet1024
from dpr_jax.train.config import check_config, in_steps
from dpr_jax.train.step import create_train_state, data_mesh, make_train_step, network_of, shard_batch, stage_at
from dpr_jax.train.views import Faces, Views
from tests.conftest import ROOT

pytestmark = pytest.mark.usefixtures("quick_compilation")

RECIPES = sorted(path.stem for path in ROOT.glob("dpr_jax/configs/*.py") if path.stem != "__init__")
VARIANTS = [(name, arg) for name in RECIPES for arg in ("", "smoke")] + [
  ("portraits_256", "procedural"),
  ("portraits_256", "default"),
]


def recipe(name, arg=""):
  return importlib.import_module(f"dpr_jax.configs.{name}").get_config(arg)


def test_these_are_the_recipes():
  assert RECIPES == ["dpr", "dpr_1024", "portraits_256"]


def test_a_checkout_has_them_by_their_paths():
  assert sorted(path.stem for path in ROOT.glob("configs/*.py")) == RECIPES
  for name in RECIPES:
    recipe_of = runpy.run_path(str(ROOT / "configs" / f"{name}.py"))["get_config"]
    assert recipe_of is importlib.import_module(f"dpr_jax.configs.{name}").get_config


@pytest.mark.parametrize(("name", "arg"), VARIANTS)
def test_recipe_can_be_run_and_is_locked(name, arg):
  config = recipe(name, arg)
  assert config.is_locked
  config = in_steps(check_config(config), faces=1_000)
  assert stage_at(0, config).skip_mask == (ALL_SKIPS if name == "dpr_1024" or arg == "default" else (False,) * 4)
  last = stage_at(config.num_steps - 1, config)
  assert last == (ALL_SKIPS, arg not in ("procedural", "default"), arg != "default")
  assert (config.data.folder, config.data.mode) == ("", "online" if name == "portraits_256" else "offline")
  for every in (config.log_every, config.sample_every, config.evaluate_every, config.save_every):
    assert config.num_steps >= every


@pytest.mark.parametrize("name", RECIPES)
def test_unknown_variants_are_refused(name):
  with pytest.raises(BadInput, match="'smok'"):
    recipe(name, "smok")


def test_the_paper_s_numbers():
  config = recipe("dpr")
  assert (config.data.size, config.data.lights_per_face) == (512, 5)
  assert (config.loss.adversarial, config.loss.feature) == (0.5, 0.5)
  config = in_steps(check_config(config), faces=27_627)
  epoch = config.num_steps / 14
  assert epoch * config.batch_size * 2 == pytest.approx(27_627 * 5, rel=1e-4)
  assert config.skip_steps == pytest.approx([5 * epoch, 6 * epoch, 7 * epoch, 8 * epoch], abs=1)


def test_epochs_follow_the_batch_and_the_dataset():
  config = recipe("dpr")
  config.batch_size = 32
  assert in_steps(check_config(config), faces=1_000).num_steps == round(35 * 1_000 / 32)


def test_the_1024_recipe_grows_out_of_the_512_run():
  config = recipe("dpr_1024")
  assert isinstance(network_of(check_config(config)), HourglassNet1024)
  assert config.network.init == "runs/dpr"
  assert config.network.base_filters == recipe("dpr").network.base_filters


@pytest.mark.parametrize(
  ("name", "arg", "side"),
  [
    pytest.param("dpr_1024", "smoke", 32, marks=pytest.mark.nightly),
    pytest.param("portraits_256", "smoke", 32, marks=pytest.mark.nightly),
    ("portraits_256", "default", 64),
  ],
)
def test_recipe_trains(name, arg, side):
  config = recipe(name, arg)
  config.batch_size, config.data.size, config.network.base_filters = 2, side, 4
  config = check_config(config)
  rng = np.random.default_rng(0)
  luminance = rng.uniform(size=(2, 2, side, side, 1)).astype(np.float32)
  mask, light = np.ones((2, side, side, 1), np.float32), np.full((2, 2, 9), 0.1, np.float32)
  if config.data.mode == "online":
    normal = np.broadcast_to(np.float32([0, -1, 0]), (2, side, side, 3)).copy()
    framing = np.tile(np.float32([1, 0, 0]), (2, 1))
    batch = Faces(luminance[0], normal, 0 * mask, mask, framing, light[0], mask)
  else:
    batch = Views(luminance, light, mask, luminance[0])
  mesh = data_mesh()
  last = stage_at(config.num_steps - 1, config)
  state, batch = create_train_state(config, mesh), shard_batch(batch, mesh)
  step = make_train_step(config, mesh).lower(state, batch, last).compile({"xla_backend_optimization_level": 0})
  state, metrics = step(state, batch)
  assert state.step == 1
  assert all(np.isfinite(value) for value in jax.device_get(metrics).values())
  assert metrics["normal" if arg == "default" else "adversarial"] > 0
