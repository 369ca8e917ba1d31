"""Environment maps that light rendered heads."""

from pathlib import Path
from typing import NamedTuple

import numpy as np

from dpr_jax.base.native_libraries import import_native
from dpr_jax.light import sh
from dpr_jax.light.environment_files import read_environment
from dpr_jax.light.light import LUMINANCE_WEIGHTS

cv2 = import_native("cv2")

# Environment maps that training never sees; all others are for it.
HELD_OUT_MAPS = ("bridge", "hall", "park", "studio", "sunset", "venice")
_SIZE = (512, 256)


class Environment(NamedTuple):
  """An environment map.

  Attributes:
    name: of its file.
    radiance: `[256, 512, 3]` float32, of mean luminance 1.
    light: `[9]`, the projection of its luminance.
  """

  name: str
  radiance: np.ndarray
  light: np.ndarray


def load_environments(folder: Path | None, *, held_out: bool) -> list[Environment]:
  """The environment maps of a folder for tests or for training; none without a folder.

  Raises:
    BadInput: one cannot be read.
  """
  found = []
  for path in chosen_maps(folder, held_out=held_out):
    radiance = read_map(path, _SIZE)
    luminance = radiance @ LUMINANCE_WEIGHTS
    found.append(Environment(path.stem, radiance / luminance.mean(), sh.environment(luminance / luminance.mean())))
  return found


def chosen_maps(folder: Path | None, *, held_out: bool) -> list[Path]:
  """The files of the maps that `load_environments` reads."""
  return [path for path in all_maps(folder) if (path.stem in HELD_OUT_MAPS) == held_out] if folder else []


def all_maps(folder: Path) -> list[Path]:
  """The `.hdr` files of a folder, sorted."""
  return sorted(folder.glob("*.hdr"))


def read_map(path: Path, size: tuple[int, int]) -> np.ndarray:
  """A map averaged to a width and a height: linear radiance, `[height, width, 3]` float32.

  Raises:
    BadInput: it cannot be read.
  """
  radiance = read_environment(path)
  radiance = np.repeat(radiance[..., None], 3, axis=-1) if radiance.ndim == 2 else radiance
  return cv2.resize(np.ascontiguousarray(radiance), size, interpolation=cv2.INTER_AREA)
