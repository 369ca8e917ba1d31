"""Lists the weights that have a name, or writes those of a training run as one small file for `--weights`.

dpr-jax weights
dpr-jax weights --weights=run --out=mine.npz
dpr-jax weights --weights=run --push=hf:owner/name --card=README.md

The file, .npz or .safetensors, is in half precision and no pickle: whoever gets it can load it without trusting it.
--push puts it on the Hugging Face hub (extra hub), into a private repository if there is none yet; HF_TOKEN says who
you are.
"""

import hashlib
import os
import tempfile
from pathlib import Path

from absl import flags

from dpr_jax.base.errors import BadInput

_WEIGHTS = flags.DEFINE_string("weights", None, "a workdir or a checkpoint of train.py, or whatever relight.py takes")
_OUT = flags.DEFINE_string("out", None, "the file to write, .npz or .safetensors")
_OVERWRITE = flags.DEFINE_bool("overwrite", False, "replace an existing file")
_PUSH = flags.DEFINE_string("push", None, "the repository of the Hugging Face hub to put them into, hf:OWNER/NAME")
_CARD = flags.DEFINE_string("card", None, "with --push: a model card, which becomes the repository's README.md")


def main() -> None:
  """Lists what there is, or writes where a place is named."""
  if _WEIGHTS.value or _OUT.value or _PUSH.value:
    export()
    return
  from dpr_jax.network import registry

  print(registry.listing())


def export() -> None:
  """Writes a file, or into a repository."""
  if not (_WEIGHTS.value and (_OUT.value or _PUSH.value)):
    raise BadInput("--weights and --out (or --push) are needed; --help lists all flags")
  if _CARD.value and not _PUSH.value:
    raise BadInput("--card goes with --push")
  from dpr_jax.network import hub
  from dpr_jax.network import weights as checkpoints  # seconds, which --help doesn't cost

  if _PUSH.value:
    hub.check(_PUSH.value)
    if _CARD.value and not Path(_CARD.value).is_file():
      raise BadInput(f"{_CARD.value}: no such file")
  params = checkpoints.load_params(_WEIGHTS.value)
  if _PUSH.value and _is_official(_WEIGHTS.value):
    raise BadInput(f"{_WEIGHTS.value}: research use only, by its authors' terms; it is not put on a hub from here")
  if _OUT.value:
    checkpoints.save_params(_OUT.value, params, overwrite=_OVERWRITE.value)
    print(_OUT.value)
  if _PUSH.value:
    with tempfile.TemporaryDirectory() as folder:
      file = Path(folder) / hub.FILE
      checkpoints.save_params(file, params)
      print(hub.push(_PUSH.value, file, Path(_CARD.value) if _CARD.value else None))


def _is_official(weights: str) -> bool:
  """Whether these are weights of the paper's authors: by their name, or a file of theirs under whatever name."""
  from dpr_jax.network import registry
  from dpr_jax.network import weights as checkpoints

  if weights in checkpoints.OFFICIAL or not os.path.isfile(weights):
    return weights in checkpoints.OFFICIAL
  with open(weights, "rb") as file:
    checksum = hashlib.file_digest(file, "sha256").hexdigest()
  return checksum in {registry.WEIGHTS[name].sha256 for name in checkpoints.OFFICIAL}
