"""Makes the file of the morphable head, which `export --source=heads` renders, out of a clone of ICT-FaceKit.

dpr-jax convert-head --facekit=ICT-FaceKit --out=heads/ict_facekit.npz

The head is that of https://github.com/ICT-VGL/ICT-FaceKit, "Light", under the MIT licence of its authors (Li et al.,
CVPR 2020); the file carries the licence as the array license, and the command prints it.
"""

from absl import flags

from dpr_jax.base.errors import BadInput, one_line

_FACEKIT = flags.DEFINE_string("facekit", None, "the clone: a folder with LICENSE and FaceXModel")
_OUT = flags.DEFINE_string("out", None, "the file to write; an export looks for ict_facekit.npz")
_OVERWRITE = flags.DEFINE_bool("overwrite", False, "replace an existing file")


def main() -> None:
  """Writes the file, and shows the licence of what is in it."""
  if not (_FACEKIT.value and _OUT.value):
    raise BadInput("--facekit and --out are needed; --help lists all flags")
  from data_gen.heads.facekit import convert  # NumPy, which --help doesn't cost

  terms = convert(_FACEKIT.value, _OUT.value, overwrite=_OVERWRITE.value)
  print(f"{_OUT.value} holds ICT-FaceKit's head under these terms:", "", *map(one_line, terms.splitlines()), sep="\n")
