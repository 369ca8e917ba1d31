"""Makes the files that `export --source=heads` renders, a morphable head and hair, out of clones of three projects.

dpr-jax convert-head --facekit=ICT-FaceKit --makehuman=makehuman --makehuman_assets=makehuman-assets --out=heads

The head is that of https://github.com/ICT-VGL/ICT-FaceKit, "Light", under the MIT licence of its authors (Li et al.,
CVPR 2020). The hair is that of https://github.com/makehumancommunity/makehuman-assets, which is laid on the head by way
of the base mesh of https://github.com/makehumancommunity/makehuman; both are CC0. Each file carries the licence as the
array license, and the command prints the head's, which is to go with it.
"""

from pathlib import Path

from absl import flags

from dpr_jax.base.errors import BadInput, one_line
from dpr_jax.base.output_files import atomic_output, check_free

_FACEKIT = flags.DEFINE_string("facekit", None, "the clone of ICT-FaceKit, which has the head")
_MAKEHUMAN = flags.DEFINE_string("makehuman", None, "the clone of makehuman, which has the base mesh")
_ASSETS = flags.DEFINE_string("makehuman_assets", None, "the clone of makehuman-assets, which has the hair")
_OUT = flags.DEFINE_string("out", None, "the folder to write to; an export looks for heads in a folder of DPR_ASSETS")
_OVERWRITE = flags.DEFINE_bool("overwrite", False, "replace existing files")


def main() -> None:
  """Writes both files, and shows the licence of the head."""
  if not (_FACEKIT.value and _MAKEHUMAN.value and _ASSETS.value and _OUT.value):
    raise BadInput("--facekit, --makehuman, --makehuman_assets and --out are needed; --help lists all flags")
  import numpy as np  # which --help doesn't cost, nor what follows

  from data_gen.heads.facekit import read_head
  from data_gen.heads.hair import HAIR_FILE
  from data_gen.heads.makehuman import read_hair
  from data_gen.heads.morphable_head import HEAD_FILE

  head_file, hair_file = Path(_OUT.value) / HEAD_FILE, Path(_OUT.value) / HAIR_FILE
  for path in (head_file, hair_file):
    check_free(path, _OVERWRITE.value)
  head = read_head(_FACEKIT.value)
  hair = read_hair(_MAKEHUMAN.value, _ASSETS.value, head)
  for path, arrays in ((head_file, head), (hair_file, hair)):
    with atomic_output(path, _OVERWRITE.value) as temporary, temporary.open("wb") as file:
      np.savez_compressed(file, **arrays)
  print(f"{hair_file} holds MakeHuman's hair, CC0 1.0 Universal.")
  terms = str(head["license"]).splitlines()
  print(f"{head_file} holds ICT-FaceKit's head under these terms:", "", *map(one_line, terms), sep="\n")
