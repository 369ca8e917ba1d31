"""Makes a dataset of relit portraits: TFRecords, from photos, procedural faces or rendered heads.

dpr-jax export --out=dataset
dpr-jax export --source=portraits --out=dataset
dpr-jax export --source=heads --count=1500 --size=256 --out=heads
dpr-jax export --source=portraits --out=dataset --light_prior=bip2017 --normals=tddfa
dpr-jax export --source=portraits --out=dataset --dry_run
dpr-jax export --source=portraits --out=dataset --visualize

A run that was cut short goes on when the same command is given again.
"""

import signal
import sys
from pathlib import Path

from absl import flags

from dpr_jax.base.errors import BadInput

EXTRA = "data"  # of the package, which brings what this command imports

_SOURCE = flags.DEFINE_string(
  "source",
  "synthetic",
  "a folder of photos; synthetic: procedural faces; or heads: a morphable head (./heads is a folder)",
)
_OUT = flags.DEFINE_string("out", None, "the dataset's folder: new, empty, or one where this export was cut short")
_COUNT = flags.DEFINE_integer("count", 1000, "how many procedural faces or heads")
_SIZE = flags.DEFINE_integer("size", 1024, "side of the square portraits in pixels")
_ALIGNED = flags.DEFINE_bool("aligned", False, "the photos are square portraits already (CelebA-HQ): don't frame them")
_ALL_FACES = flags.DEFINE_bool("all_faces", False, "every face of a photo, not only the largest")
_KEEP_GRAY = flags.DEFINE_bool("keep_gray", False, "take photos without colours too; the networks see only luminance")
_FACE_FINDER = flags.DEFINE_enum(
  "face_finder",
  None,
  ["embedded", "mediapipe"],
  "who looks for faces; default: mediapipe where it is installed and its model is at hand, else embedded",
)
_NORMALS = flags.DEFINE_string(
  "normals",
  None,
  "face_mesh (of the face finder; default for photos), tddfa (3DDFA), synthetic (exact; of rendered faces only)",
)
_ARAP = flags.DEFINE_bool("arap", None, "warp the fitted face onto the detected landmarks; default: only for tddfa")
_RATIO = flags.DEFINE_enum(
  "ratio",
  "linear",
  ["linear", "published"],
  "what a change of light multiplies: linear light, or as published L of Lab, which reproduces the paper's dataset",
)
_LIGHT_ESTIMATOR = flags.DEFINE_string(
  "light_estimator",
  None,
  "fit (default for photos), sfsnet, network, or truth (default for procedural faces and heads)",
)
_WEIGHTS = flags.DEFINE_string("weights", "official-512", "the network of --light_estimator=network")
_LIGHT_PRIOR = flags.DEFINE_string(
  "light_prior",
  None,
  "a folder of lights, text files of 9 or 3 x 9 SH numbers, or .hdr, .exr and .pic maps; default: built in",
)
_LIGHT_NAMES = flags.DEFINE_string("light_names", None, "a text file of names, one a line: use only these lights")
_LIGHT_CONVENTION = flags.DEFINE_string("light_convention", "bip", "of text files in --light_prior: bip or dpr")
_COLOR = flags.DEFINE_bool("color", False, "coloured target lights")
_LIGHTS_PER_IMAGE = flags.DEFINE_integer("lights_per_image", 5, "target lights of each portrait")
_DENOISE = flags.DEFINE_string("denoise", "fast", "none, fast, or nlm: as the published pipeline, and slow")
_IMAGE_FORMAT = flags.DEFINE_string("image_format", "png", "png or jpeg")
_QUALITY = flags.DEFINE_integer("quality", 95, "of --image_format=jpeg")
_NORMAL_BITS = flags.DEFINE_integer("normal_bits", 8, "8 or 16")
_SHARD_MEGABYTES = flags.DEFINE_float("shard_megabytes", 128, "about how large a file of the dataset is")
_SEED = flags.DEFINE_integer("seed", 0, "of every random draw")
_WORKERS = flags.DEFINE_integer("workers", None, "processes; default: one a core")
_RUNNER = flags.DEFINE_string(
  "runner", "local", "local, or an Apache Beam runner: DirectRunner, FlinkRunner, SparkRunner, DataflowRunner"
)
_BEAM_OPTIONS = flags.DEFINE_string("beam_options", "", "of the Beam runner, such as --flink_master=host:8081")
_VISUALIZE = flags.DEFINE_bool("visualize", False, "draw pages of pictures, into the folder pages of --out")
_PAGES = flags.DEFINE_integer("pages", 50, "for so many portraits, the first ones, with --visualize")
_DRY_RUN = flags.DEFINE_bool("dry_run", False, "say what would be done, and stop")


def main() -> None:
  if not _OUT.value:
    raise BadInput("--out is needed; --help lists all flags")
  for flag in (_WORKERS, _PAGES):
    if flag.value is not None and flag.value < 1:
      raise BadInput(f"--{flag.name} {flag.value}: must be at least 1")
  signal.signal(signal.SIGTERM, lambda *_: sys.exit(128 + signal.SIGTERM))  # leaves nothing half done, as Ctrl-C
  from data_gen import export  # seconds, which --help doesn't cost
  from data_gen.synthesis import RENDERED, Settings
  from dpr_jax.base.cpu import available_cores

  rendered = _SOURCE.value in RENDERED
  normals = _NORMALS.value or ("synthetic" if rendered else "face_mesh")
  settings = Settings(
    source=_SOURCE.value if rendered else _resolved(_SOURCE.value),
    count=_COUNT.value,
    size=_SIZE.value,
    aligned=_ALIGNED.value,
    all_faces=_ALL_FACES.value,
    keep_gray=_KEEP_GRAY.value,
    face_finder=_FACE_FINDER.value,
    normals=normals,
    arap=normals == "tddfa" if _ARAP.value is None else _ARAP.value,
    ratio=_RATIO.value,
    light_estimator=_LIGHT_ESTIMATOR.value or ("truth" if rendered and normals == "synthetic" else "fit"),
    weights=_WEIGHTS.value,
    light_prior=_resolved(_LIGHT_PRIOR.value),
    light_names=_resolved(_LIGHT_NAMES.value),
    light_convention=_LIGHT_CONVENTION.value,
    color=_COLOR.value,
    lights_per_image=_LIGHTS_PER_IMAGE.value,
    denoise=_DENOISE.value,
    image_format=_IMAGE_FORMAT.value,
    quality=_QUALITY.value,
    normal_bits=_NORMAL_BITS.value,
    shard_megabytes=_SHARD_MEGABYTES.value,
    seed=_SEED.value,
  )
  out, workers = Path(_OUT.value), _WORKERS.value or available_cores()
  if _DRY_RUN.value:
    print(export.describe(settings, out))
    return
  pages = _PAGES.value if _VISUALIZE.value else 0
  if _RUNNER.value == "local":
    summary = export.export(settings, out, workers=workers, pages=pages)
  else:
    try:
      from data_gen import beam_export
    except ModuleNotFoundError as error:
      raise BadInput(f"--runner {_RUNNER.value}: needs {error.name}; pip install -e '.[beam]'") from None
    summary = beam_export.export(settings, out, runner=_RUNNER.value, options=_BEAM_OPTIONS.value.split(), pages=pages)
  print(summary)


def _resolved(path: str | None) -> str | None:
  """The same for all ways to name a place, from any working folder; empty stays empty."""
  return path and str(Path(path).resolve())
