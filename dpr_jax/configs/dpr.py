"""The paper's recipe at 512 pixels, on the stored pairs of a dataset.

python export_dataset.py --source=celeba_hq --aligned --size=512 --ratio=published --out=dataset
python train.py --config=dpr --workdir=runs/dpr --config.data.folder=dataset

The paper's pictures are relit in L of Lab, which `--ratio=published` asks for; the recipe takes linear ones as well.

`dpr:smoke` is the same in small, with a procedural dataset of its own, for two CPU cores.

From the paper (Zhou et al. 2019) as we remember it, which was not at hand to be checked: images of 512 pixels; 27,627
photos of CelebA-HQ, each relit under 5 lights, 138,135 images; the terms of the loss and their divisors, and 0.5 as
weight of the adversarial term and of feature matching (lambda and mu); Adam; 14 epochs, 5 without any skip connection,
then one more connection with each epoch, innermost first, and 5 epochs more.

Ours: the batch size; the learning rates, Adam's default for the generator, that of PatchGANs for the discriminator
(Isola et al. 2017), and that they stay; the running mean of the weights; flipped images; the discriminator's size, and
that both its terms and feature matching are on from the first step; that an epoch is as many images passed through
the network as the dataset has relit ones. Epochs become steps when the dataset is known; with 27,627 faces, a tenth of
them held out, and batches of 16 the run has about 54,400.
"""

from ml_collections import ConfigDict

from dpr_jax.base.errors import BadInput
from dpr_jax.train.config import default_config

_LIGHTS = 5
# A pass over the faces shows two views of each, so that an epoch of the paper, over its relit images, is 2.5 of ours.
_PASSES = _LIGHTS / 2
_EPOCHS = 14
_SKIP_EPOCHS = (5, 6, 7, 8)


def get_config(arg: str = "") -> ConfigDict:
  """The recipe, or `smoke`.

  Raises:
    BadInput: another variant.
  """
  config = default_config()
  config.batch_size = 16
  config.data.size = 512
  config.data.mode = "offline"
  config.data.lights_per_face = _LIGHTS

  config.loss.image = config.loss.gradient = config.loss.light = 1.0
  config.loss.adversarial = config.loss.feature = 0.5

  config.optimizer.learning_rate = 1e-3
  config.optimizer.discriminator_learning_rate = 2e-4

  config.num_steps, config.num_epochs = 0, _EPOCHS * _PASSES
  config.skip_steps, config.skip_epochs = (), tuple(epoch * _PASSES for epoch in _SKIP_EPOCHS)
  return variant(config, arg, smoke=smoke)


def smoke(config: ConfigDict) -> None:
  """Changes a recipe to a run of less than three minutes on two cores that goes through all of its stages."""
  in_steps(config, 48, (8, 16, 24, 32))
  config.batch_size = 4
  config.data.folder = ""
  config.data.procedural_faces = 48
  config.data.lights_per_face = 2
  config.data.size = 64
  config.discriminator.base_filters = 16
  config.discriminator.levels = 2
  config.optimizer.warmup_steps = 0
  config.log_every = 4
  config.sample_every = config.evaluate_every = config.save_every = 24


def in_steps(config: ConfigDict, num_steps: int, skip_steps: tuple[int, ...]) -> None:
  """Gives a recipe a length in steps in the place of epochs."""
  config.num_steps, config.num_epochs = num_steps, 0.0
  config.skip_steps, config.skip_epochs = skip_steps, ()


def variant(config: ConfigDict, arg: str, **variants) -> ConfigDict:
  """The recipe, changed by the variant that `arg` names; BadInput if it names none."""
  if arg:
    if arg not in variants:
      raise BadInput(f"config variant {arg!r} is not known: {', '.join(variants)}")
    variants[arg](config)
  return config
