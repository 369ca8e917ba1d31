r"""Portraits at 256 pixels, relit to fresh lights in every step: no face is ever seen twice under the same light.

python export_dataset.py --source=portraits --size=256 --out=dataset_256
python train.py --config=portraits_256 --workdir=runs/portraits_256 --config.data.folder=dataset_256

`portraits_256:smoke` is the same in small, with a procedural dataset of its own, for two CPU cores.

python train.py --config=portraits_256:procedural --workdir=runs/procedural

is its bigger sister: 128 pixels, 1200 procedural faces (which it makes first), no discriminator; 35 minutes on two busy
CPU cores. On held-out faces and lights its si-MSE is 0.161 of the identity baseline's (curve and grid: BUILD_NOTES.md).

python export_dataset.py --source=portraits --keep_gray --size=256 --ratio=linear --out=dataset_256
python export_dataset.py --source=heads --count=1500 --size=256 --seed=1 --lights_per_image=1 --denoise=none \
  --out=heads_256
python train.py --config=portraits_256:default --workdir=runs/default --config.data.folder=dataset_256 \
  --config.data.others="('heads_256',)" --config.data.shares="(2, 1)"
python train_surface_head.py --weights=runs/default --dataset=heads_256 --workdir=runs/surface --out=default.npz

is the recipe of the weights `default`, from portraits to the file in the package: the ratio network, taught by faces
under soft light and under lamps with cast shadows (`online.lamp_share`), and by shape, that of the fitted mesh on
portraits and the exact one on rendered heads, without a discriminator; and what the landmarks of a face finder are
worth, on the heads. With 725 portraits and 1,500 heads it took two
hours and twenty minutes on two CPU cores that had other work beside. What it makes of real photos is in MODEL_CARD.md.

Loss and Adam as in `dpr` where nothing else is said; everything else is ours.
"""

from ml_collections import ConfigDict

from dpr_jax.configs import dpr


def get_config(arg: str = "") -> ConfigDict:
  """The recipe, `smoke`, `procedural`, or `default`.

  Raises:
    BadInput: another variant.
  """
  config = dpr.get_config()
  dpr.in_steps(config, 60_000, (20_000, 24_000, 28_000, 32_000))
  config.data.size = 256
  config.data.mode = "online"
  config.data.crop = 0.05
  config.data.scale = 0.05
  config.online.lamp_share = 0.0
  config.optimizer.schedule = "cosine"
  config.optimizer.warmup_steps = 500
  return dpr.variant(config, arg, smoke=dpr.smoke, procedural=_procedural, default=_default)


def _procedural(config: ConfigDict) -> None:
  dpr.in_steps(config, 3_000, (600, 800, 1_000, 1_200))
  config.batch_size = 8
  config.data.folder = ""
  config.data.procedural_faces = 1_200
  config.data.size = 128
  config.loss.adversarial = 0.0
  config.optimizer.warmup_steps = 100
  config.optimizer.ema_decay = 0.995
  config.log_every = 25
  config.sample_every = config.save_every = 500
  config.evaluate_every = 250


def _default(config: ConfigDict) -> None:
  config.network.name = "ratio"
  config.network.base_filters = 24
  config.batch_size = 16
  dpr.in_steps(config, 2_600, (0, 0, 0, 0))
  # Framings, exposures and margins differ, and the network learns where the face lies.
  config.data.crop, config.data.scale, config.data.darken, config.data.cut = 0.12, 0.3, 1.0, 0.25
  config.online.lamp_share = 0.75
  config.online.original_share = 0.25
  # Shape, skin and light are known; features at the bottleneck carry light here, and need not match.
  config.loss.adversarial = config.loss.feature = config.loss.gradient = 0.0
  config.loss.normal, config.loss.depth, config.loss.framing, config.loss.skin = 10.0, 1.0, 3.0, 1.0
  config.loss.light = 0.3
  config.optimizer.learning_rate = 1e-3
  config.optimizer.warmup_steps = 200
  config.optimizer.clip_norm = 1.0
  config.optimizer.ema_decay = 0.998
  config.sample_every = config.evaluate_every = 1_000
  config.save_every = 250
