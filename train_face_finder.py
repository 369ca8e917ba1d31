"""Makes the weights of the embedded face finder, dpr_jax/weights/face_finder.npz.

python train_face_finder.py --portraits=congress --heads=heads --environments=environments --workdir=run --out=mine.npz

MediaPipe must be at hand (pip install -e ".[mediapipe]"): it is the teacher. A run that was cut short goes on with the
stage that it was in when the same command is given again.
"""

from pathlib import Path

from absl import flags, logging

from dpr_jax.base import command_line
from dpr_jax.base.errors import BadInput

_PORTRAITS = flags.DEFINE_string("portraits", None, "a folder of photos with one face each")
_HEADS = flags.DEFINE_string(
  "heads", None, "a folder with ict_facekit.npz and makehuman_hair/; default: portraits alone"
)
_ENVIRONMENTS = flags.DEFINE_string("environments", None, "a folder of .hdr maps: light for heads, and backgrounds")
_BACKGROUNDS = flags.DEFINE_string(
  "backgrounds", None, "a folder of photos without a face, beside those of scikit-image"
)
_WORKDIR = flags.DEFINE_string("workdir", None, "keeps the result of every stage")
_OUT = flags.DEFINE_string("out", None, "the archive, .npz")
_HEAD_COUNT = flags.DEFINE_integer("head_count", 6000, "rendered heads")
_DETECTOR_STEPS = flags.DEFINE_integer("detector_steps", 3500, "of the detector's training")
_LANDMARK_STEPS = flags.DEFINE_integer("landmark_steps", 4500, "of the landmark network's training")
_BATCH = flags.DEFINE_integer("batch", 64, "pictures a step")
_SEED = flags.DEFINE_integer("seed", 0, "of every random draw")
_OVERWRITE = flags.DEFINE_bool("overwrite", False, "replace --out")


def main() -> None:
  for flag in (_PORTRAITS, _WORKDIR, _OUT):
    if not flag.value:
      raise BadInput(f"--{flag.name} is needed; --help lists all flags")
  for flag in (_HEAD_COUNT, _DETECTOR_STEPS, _LANDMARK_STEPS, _BATCH):
    if flag.value < 1:
      raise BadInput(f"--{flag.name} {flag.value}: must be at least 1")
  logging.set_verbosity(logging.INFO)
  from dpr_jax.base.cpu import available_cores, keep_memory

  keep_memory()
  from data_gen.face_finder.recipe import Recipe, make_face_finder

  recipe = Recipe(
    portraits=Path(_PORTRAITS.value),
    heads=_HEADS.value and Path(_HEADS.value),
    environments=_ENVIRONMENTS.value and Path(_ENVIRONMENTS.value),
    backgrounds=_BACKGROUNDS.value and Path(_BACKGROUNDS.value),
    head_count=_HEAD_COUNT.value,
    detector_steps=_DETECTOR_STEPS.value,
    landmark_steps=_LANDMARK_STEPS.value,
    batch=_BATCH.value,
    seed=_SEED.value,
  )
  make_face_finder(
    recipe, Path(_WORKDIR.value), Path(_OUT.value), workers=available_cores(), overwrite=_OVERWRITE.value
  )


if __name__ == "__main__":
  command_line.run(main)
