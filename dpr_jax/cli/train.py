"""Trains a relighting network on the TFRecords of export_dataset.py, or on procedural faces.

dpr-jax train --config=portraits_256:smoke --workdir=run
dpr-jax train --config=dpr --workdir=run --config.data.folder=dataset
dpr-jax train --config=dpr --workdir=run --config.data.folder=dataset --config.batch_size=32
dpr-jax train --config=dpr --workdir=run --dry_run

A run that was killed goes on when the same command is given again. Several processes (Slurm, Open MPI, TPU pods, or
JAX_COORDINATOR_ADDRESS, JAX_NUM_PROCESSES and JAX_PROCESS_ID) train together when each is given the same command.
"""

import signal
import sys
from pathlib import Path
from typing import TYPE_CHECKING

from absl import flags
from ml_collections import ConfigDict, config_flags

from dpr_jax.base import command_line
from dpr_jax.base.errors import BadInput

if TYPE_CHECKING:
  from dpr_jax.train.config import TrainingConfig

EXTRA = "train"  # of the package, which brings what this command imports

_CONFIG = config_flags.DEFINE_config_file(
  "config", None, "a file with get_config(), with :smoke for its small variant; --config.x.y=z sets a field of it"
)
_WORKDIR = flags.DEFINE_string("workdir", None, "checkpoints, logs and pictures: new, empty, or of a run to go on with")
_DRY_RUN = flags.DEFINE_bool("dry_run", False, "say what would be done, and stop")


def main() -> None:
  config = _config()
  if not config or not _WORKDIR.value:
    raise BadInput("--config and --workdir are needed; --help lists all flags")
  signal.signal(signal.SIGTERM, lambda *_: sys.exit(128 + signal.SIGTERM))  # until there is something to save
  from dpr_jax.base import cpu  # seconds, which --help doesn't cost
  from dpr_jax.network import traced
  from dpr_jax.train import run as training_run
  from dpr_jax.train.processes import start_processes

  traced.enable_compilation_cache()

  if _DRY_RUN.value:
    print(training_run.describe(config, _WORKDIR.value))
    return
  start_processes()
  cpu.keep_memory()
  training_run.train_and_evaluate(config, _WORKDIR.value, make_faces=_make_faces)


def _config() -> ConfigDict | None:
  """The config with what the flags set; the file runs when it is asked for."""
  try:
    config = _CONFIG.value
    if config is not None:
      config.keys()  # a file that could not be read says so only when it is used
    return config
  except Exception as error:
    raise BadInput(command_line.config_problem(error)) from error


def _make_faces(config: "TrainingConfig", folder: Path) -> None:
  from data_gen import export

  export.export_procedural_faces(
    folder,
    count=config.data.procedural_faces,
    size=config.data.size,
    lights_per_image=config.data.lights_per_face,
  )
