"""Measures how well networks relight held-out faces, beside the identity baseline, which gives back the source.

dpr-jax evaluate --weights=workdir --data=dataset --out=evaluation
dpr-jax evaluate --weights=workdir,official-512 --data=dataset --size=512 --out=evaluation
dpr-jax evaluate --weights=workdir/checkpoints/5000 --weights=model.t7 --data=dataset --split=validation
dpr-jax evaluate --weights=identity --data=dataset --relit_sources --limit=100
"""

from absl import flags

from dpr_jax.base.errors import BadInput

EXTRA = "train"  # of the package, which brings what this command imports

_WEIGHTS = flags.DEFINE_multi_string(
  "weights",
  [],
  "a workdir or a checkpoint of train.py, default, official-512, official-1024, a .npz, .safetensors, .t7 or .pth "
  "file, hf:OWNER/NAME, or identity; several, with commas or the flag again, are shown side by side",
)
_DATA = flags.DEFINE_string("data", None, "a dataset of export_dataset.py")
_SPLIT = flags.DEFINE_string("split", "test", "test, validation or train")
_SIZE = flags.DEFINE_integer(
  "size",
  None,
  "side of the images in pixels: what the networks see, and what is compared; default: that of the records",
)
_LIMIT = flags.DEFINE_integer("limit", None, "so many faces, the first ones; default: all")
_RELIT_SOURCES = flags.DEFINE_bool("relit_sources", False, "not only the photos as sources, their relit images too")
_WHOLE_PICTURE = flags.DEFINE_bool("whole_picture", False, "compare the whole picture, not only the face")
_ON_CORRUPT = flags.DEFINE_enum("on_corrupt", "stop", ["stop", "skip"], "at a damaged record, or skip it")
_PICTURES = flags.DEFINE_integer("pictures", 8, "faces in the grid of pictures")
_OUT = flags.DEFINE_string("out", None, "a folder for evaluation.json and evaluation.png; default: only the table")
_OVERWRITE = flags.DEFINE_bool("overwrite", False, "replace existing outputs")


def main() -> None:
  weights = [name for text in _WEIGHTS.value for name in text.split(",") if name]
  if not weights or not _DATA.value:
    raise BadInput("--weights and --data are needed; --help lists all flags")
  from dpr_jax.network import traced  # seconds, which neither the above nor --help costs
  from dpr_jax.train import evaluation

  traced.enable_compilation_cache()
  table = evaluation.evaluate(
    weights,
    _DATA.value,
    _SPLIT.value,
    size=_SIZE.value,
    limit=_LIMIT.value,
    out=_OUT.value,
    overwrite=_OVERWRITE.value,
    relit_sources=_RELIT_SOURCES.value,
    whole_picture=_WHOLE_PICTURE.value,
    on_corrupt=_ON_CORRUPT.value,
    num_pictures=_PICTURES.value,
  )
  print(table)
