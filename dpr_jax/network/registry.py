"""The weights that have a name: which network they are of, where they lie, who may use them, and how good they are."""

import dataclasses
import pathlib
from collections.abc import Mapping

import dpr_jax
from dpr_jax.base.assets import ASSETS, asset_path

DEFAULT = "default"


@dataclasses.dataclass(frozen=True)
class Weights:
  """What is known of weights before they are loaded.

  Attributes:
    name: as `load_params` and `--weights` take it.
    network: the class of the network, in `dpr_jax`.
    native_size: side in pixels of the square around a face that the network was trained at.
    light: what the network takes for a light.
    licence: who may use them for what; an SPDX identifier where there is one.
    trained_on: the data.
    file: name in the package's folder `weights`; None for an asset of the same name, which is fetched on first use.
    sha256: of the file, in hex.
    scores: on the linear images of the extended Yale B, a frontal flash relit to fourteen others (MODEL_CARD.md):
      `si_mse` (times 1000; the source itself has 39.3) and `ssim` (0.600) of L in [0, 1]. None: not measured.
  """

  name: str
  network: str
  native_size: int
  light: str
  licence: str
  trained_on: str
  file: str | None
  sha256: str
  scores: Mapping[str, float] | None

  @property
  def place(self) -> str:
    """Where they lie: a file of the package, or the address that they are fetched from."""
    return f"weights/{self.file}" if self.file else ASSETS[self.name].url

  def path(self) -> pathlib.Path:
    """The file, fetched first if it is not here yet.

    Raises:
      BadInput: as `dpr_jax.base.assets.asset_path`.
    """
    return pathlib.Path(dpr_jax.__file__).with_name("weights") / self.file if self.file else asset_path(self.name)


def _pinned(name: str) -> str:
  """The sha256 of an asset that has one."""
  sha256 = ASSETS[name].sha256
  assert sha256 is not None, name
  return sha256


_RESEARCH = "research use only"
_DPR = "the paper's dataset: 138,135 relit images of CelebA-HQ"
_NINE = "nine SH numbers; a lamp as the lobe around it"

WEIGHTS = {
  weights.name: weights
  for weights in (
    Weights(
      name=DEFAULT,
      network="RatioHourglassNet",
      native_size=256,
      light="nine SH numbers and lamps",
      licence="Apache-2.0",
      trained_on="799 official portraits of the Congress of the United States (public domain) and 1,500 rendered heads",
      file="default.npz",
      sha256="7d3c812de21535675d308491d947c47167084a58d449472df262ef8be21a643f",
      scores={"si_mse": 11.6, "ssim": 0.692},
    ),
    Weights(
      name="official-512",
      network="HourglassNet",
      native_size=512,
      light=_NINE,
      licence=_RESEARCH,
      trained_on=_DPR,
      file=None,
      sha256=_pinned("official-512"),
      scores={"si_mse": 18.9, "ssim": 0.653},
    ),
    Weights(
      name="official-1024",
      network="HourglassNet1024",
      native_size=1024,
      light=_NINE,
      licence=_RESEARCH,
      trained_on=_DPR,
      file=None,
      sha256=_pinned("official-1024"),
      scores=None,
    ),
  )
}


def listing() -> str:
  """All named weights for a console, one paragraph each."""
  return "\n\n".join(map(_described, WEIGHTS.values()))


def _described(weights: Weights) -> str:
  scores = "not measured"
  if weights.scores:
    scores = f"si-MSE x 1000 {weights.scores['si_mse']:.1f}, SSIM {weights.scores['ssim']:.3f} (extended Yale B)"
  rows = {
    "network": f"{weights.network}, {weights.native_size} pixels",
    "light": weights.light,
    "licence": weights.licence,
    "trained on": weights.trained_on,
    "scores": scores,
    "file": weights.place,
    "sha256": weights.sha256,
  }
  return "\n".join([weights.name, *(f"  {name:<10}  {value}" for name, value in rows.items())])
