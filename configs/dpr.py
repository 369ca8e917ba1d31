"""The paper's recipe at 512 pixels, on the stored pairs of a dataset.

python export_dataset.py --source=celeba_hq --size=512 --out=dataset
python train.py --config=configs/dpr.py --workdir=runs/dpr --config.data.folder=dataset

`configs/dpr.py:smoke` is the same in small, with a procedural dataset of its own, for two CPU cores.

From the paper (Zhou et al. 2019) as we remember it, which was not at hand to be checked: images of 512 pixels; 27,627
photos of CelebA-HQ, each relit under 5 lights, 138,135 images; the terms of the loss and their divisors, and 0.5 as
weight of the adversarial term and of feature matching (lambda and mu); Adam; 14 epochs, 5 without any skip connection,
then one more connection with each epoch, innermost first, and 5 epochs more.

Ours: the batch size; the learning rates, Adam's default for the generator, that of PatchGANs for the discriminator
(Isola et al. 2017), and that they stay; the running mean of the weights; flipped images; the discriminator's size, and
that both its terms and feature matching are on from the first step; that an epoch is as many images passed through
the network as the dataset has relit ones.
"""

from ml_collections import ConfigDict

from dpr_jax.errors import BadInput
from dpr_jax.skip_training import steps_of_epochs
from dpr_jax.training_config import default_config

_FACES = 27_627
# One step shows each face of its batch under two lights, an epoch every relit image once.
_LIGHTS, _VIEWS = 5, 2
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

  def steps(epochs):
    return steps_of_epochs(epochs * _LIGHTS / _VIEWS, faces=_FACES, batch_size=config.batch_size)

  config.num_steps = steps(_EPOCHS)
  config.skip_steps = tuple(map(steps, _SKIP_EPOCHS))
  return variant(config, arg, smoke=smoke)


def smoke(config: ConfigDict) -> None:
  """Changes a recipe to a run of less than three minutes on two cores that goes through all of its stages."""
  config.num_steps = 48
  config.skip_steps = (8, 16, 24, 32)
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


def variant(config: ConfigDict, arg: str, **variants) -> ConfigDict:
  """The recipe, changed by the variant that `arg` names; BadInput if it names none."""
  if arg:
    if arg not in variants:
      raise BadInput(f"config variant {arg!r} is not known: {', '.join(variants)}")
    variants[arg](config)
  return config
