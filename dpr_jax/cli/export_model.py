"""Writes a network as two files for other runtimes: encode, once a photo, and decode, once a light.

dpr-jax export-model --out=model
dpr-jax export-model --weights=official-512 --format=stablehlo --out=model

ONNX needs the extra onnx; each file is run beside JAX on two portraits before it is written, and refused if they
differ by more than 1e-4.
"""

from absl import flags

from dpr_jax.base.errors import BadInput

_WEIGHTS = flags.DEFINE_string("weights", None, "as relight.py takes them; default: this project's own")
_OUT = flags.DEFINE_string("out", None, "the folder to write encode and decode into")
_FORMAT = flags.DEFINE_enum("format", "onnx", ["onnx", "stablehlo"], "of the files")
_SIZE = flags.DEFINE_integer("size", None, "side of the photos in pixels; default: what the network was trained at")
_LAMPS = flags.DEFINE_integer("lamps", 1, "how many lamps a light of our network has, 0 to 4")
_OVERWRITE = flags.DEFINE_bool("overwrite", False, "replace existing files")


def main() -> None:
  """Writes the files, and says how far they are from JAX."""
  if not _OUT.value:
    raise BadInput("--out is needed; --help lists all flags")
  from dpr_jax.network.registry import DEFAULT
  from dpr_jax.portable.model_files import export_model  # seconds, which --help doesn't cost

  written = export_model(
    _WEIGHTS.value or DEFAULT,
    _OUT.value,
    file_format=_FORMAT.value,
    size=_SIZE.value,
    lamps=_LAMPS.value,
    overwrite=_OVERWRITE.value,
  )
  for file, difference in written.items():
    print(file if difference is None else f"{file}: {difference:.1e} from JAX")
