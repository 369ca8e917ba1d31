"""Lists the weights that have a name, or writes those of a training run as one small file for `--weights`.

dpr-jax weights
dpr-jax weights --weights=run --out=mine.npz

The file is in half precision and no pickle: whoever gets it can load it without trusting it.
"""

from absl import flags

from dpr_jax.base.errors import BadInput

_WEIGHTS = flags.DEFINE_string("weights", None, "a workdir or a checkpoint of train.py, or whatever relight.py takes")
_OUT = flags.DEFINE_string("out", None, "the file to write, .npz or .safetensors")
_OVERWRITE = flags.DEFINE_bool("overwrite", False, "replace an existing file")


def main() -> None:
  """Lists what there is, or writes a file where one is named."""
  if _WEIGHTS.value or _OUT.value:
    export()
    return
  from dpr_jax.network import registry

  print(registry.listing())


def export() -> None:
  """Writes a file."""
  if not (_WEIGHTS.value and _OUT.value):
    raise BadInput("--weights and --out are needed; --help lists all flags")
  from dpr_jax.network import weights as checkpoints  # seconds, which --help doesn't cost

  checkpoints.save_params(_OUT.value, checkpoints.load_params(_WEIGHTS.value), overwrite=_OVERWRITE.value)
  print(_OUT.value)
