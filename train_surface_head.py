"""Teaches the weights of our network what to make of a face finder's landmarks; see docs/training.md.

python train_surface_head.py --weights=run_default --dataset=heads_256 --workdir=run_surface --out=default.npz

The dataset is one of rendered heads (export_dataset.py --source=heads). Given again, the command goes on with the views
that it has kept.
"""

from pathlib import Path

from absl import flags, logging

from dpr_jax.base import command_line
from dpr_jax.base.errors import BadInput

_WEIGHTS = flags.DEFINE_string("weights", None, "of the ratio network: a run of train.py, a file, a name")
_DATASET = flags.DEFINE_string("dataset", None, "a dataset of rendered heads, of 256 pixels or more")
_WORKDIR = flags.DEFINE_string("workdir", None, "keeps the views")
_OUT = flags.DEFINE_string("out", None, "the weights with the head, .npz or .safetensors")
_VIEWS = flags.DEFINE_integer("views", 6720, "of heads, to learn from")
_STEPS = flags.DEFINE_integer("steps", 2400, "of the training")
_BATCH = flags.DEFINE_integer("batch", 16, "views a step")
_SEED = flags.DEFINE_integer("seed", 0, "of every random draw")
_OVERWRITE = flags.DEFINE_bool("overwrite", False, "replace --out")


def main() -> None:
  for flag in (_WEIGHTS, _DATASET, _WORKDIR, _OUT):
    if not flag.value:
      raise BadInput(f"--{flag.name} is needed; --help lists all flags")
  for flag in (_VIEWS, _STEPS, _BATCH):
    if flag.value < 1:
      raise BadInput(f"--{flag.name} {flag.value}: must be at least 1")
  if _SEED.value < 0:
    raise BadInput(f"--seed {_SEED.value}: must not be negative")
  logging.set_verbosity(logging.INFO)
  from dpr_jax.base.cpu import keep_memory
  from dpr_jax.train.surface_head import make_surface_head

  keep_memory()
  make_surface_head(
    _WEIGHTS.value,
    Path(_DATASET.value),
    Path(_WORKDIR.value),
    Path(_OUT.value),
    views=_VIEWS.value,
    steps=_STEPS.value,
    batch=_BATCH.value,
    seed=_SEED.value,
    overwrite=_OVERWRITE.value,
  )


if __name__ == "__main__":
  command_line.run(main)
