"""Writes the weights of a training run as one small file, for `--weights` of relight.py and evaluate.py.

python export_weights.py --weights=run --out=mine.npz

Half precision, no pickle: whoever gets the file can load it without trusting it.
"""

from absl import flags

from dpr_jax import command_line
from dpr_jax.errors import BadInput

_WEIGHTS = flags.DEFINE_string("weights", None, "a workdir or a checkpoint of train.py, or whatever relight.py takes")
_OUT = flags.DEFINE_string("out", None, "the file to write, .npz")
_OVERWRITE = flags.DEFINE_bool("overwrite", False, "replace an existing file")


def main() -> None:
  if not (_WEIGHTS.value and _OUT.value):
    raise BadInput("--weights and --out are needed; --help lists all flags")
  from dpr_jax import checkpoints  # seconds, which --help doesn't cost

  checkpoints.save_params(_OUT.value, checkpoints.load_params(_WEIGHTS.value), overwrite=_OVERWRITE.value)
  print(_OUT.value)


if __name__ == "__main__":
  command_line.run(main)
