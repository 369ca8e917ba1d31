"""The 1024 network: a trained 512 network between a new stem and a new head, fine-tuned at 1024 pixels.

python export_dataset.py --source=celeba_hq --aligned --size=1024 --ratio=published --out=dataset_1024
python train.py --config=dpr_1024 --workdir=runs/dpr_1024 --config.data.folder=dataset_1024

It begins with the 512 network of the run in runs/dpr (`dpr`); `--config.network.init` names another workdir
or file of weights, official-512, or official-1024 to go on from a whole network. `dpr_1024:smoke` is the
same in small, around a random trunk, with a procedural dataset of its own, for two CPU cores.

That the 512 network is wrapped and then trained further is the authors'; batch size, number of steps and learning rates
are ours.
"""

from ml_collections import ConfigDict

from dpr_jax.configs import dpr

_ALL_ON = (0, 0, 0, 0)  # the trunk has learnt to relight without skip connections


def get_config(arg: str = "") -> ConfigDict:
  """The recipe, or `smoke`.

  Raises:
    BadInput: another variant.
  """
  config = dpr.get_config()
  config.network.name = "1024"
  config.network.init = "runs/dpr"
  config.data.size = 1024
  config.batch_size = 8
  dpr.in_steps(config, 20_000, _ALL_ON)
  config.optimizer.learning_rate = config.optimizer.discriminator_learning_rate = 1e-4
  config.optimizer.schedule = "cosine"
  config.optimizer.warmup_steps = 500  # until the new stem and head fit the trunk
  return dpr.variant(config, arg, smoke=_smoke)


def _smoke(config: ConfigDict) -> None:
  dpr.smoke(config)
  dpr.in_steps(config, 24, _ALL_ON)
  config.network.init = ""
  config.sample_every = config.evaluate_every = config.save_every = 12
