"""Pictures of a run that is under way: what its network makes of a few faces, most often held-out ones."""

import dataclasses
import functools
from collections.abc import Iterator
from itertools import islice
from pathlib import Path
from typing import TYPE_CHECKING, Any

import jax
import numpy as np

from dpr_jax.base.errors import BadInput
from dpr_jax.image.color import photo_luminance
from dpr_jax.image.pictures import contact_sheet, relighting_grid, shrink
from dpr_jax.light import sh
from dpr_jax.train.augmentation import Augmentation
from dpr_jax.train.config import TrainingConfig
from dpr_jax.train.record_source import RecordSource

if TYPE_CHECKING:
  from dpr_jax.network.networks import Network

_SAMPLE_FACES = 4
_RELIT_FACES = 6
_SHOWN_SIDE = 256  # of a face in a picture, at most
# Of relit.png: left, right, top, bottom and front of the viewer, in degrees, as `sh.direction` counts them.
_SHOWN_DIRECTIONS = ((65, 10), (-65, 10), (0, 65), (0, -45), (0, 10))
_SHOWN_AMBIENT = 0.3


class HeldOutPictures:
  """The pictures of a run, which show the first faces of one split of its dataset each time.

  Its methods take the network's variables as they are at that step, on one device, and the `Stage.skip_mask` of it.
  """

  def __init__(self, config: TrainingConfig, folder: Path, split: str, network: "Network"):
    """Opens no file: the faces are read for the first picture, and kept for the others.

    Args:
      config: the config of the run, whose `data` give the side of a face.
      folder: the folder of the dataset.
      split: the split that is shown, such as "validation".
      network: the network that relights the faces.
    """
    self._config, self._folder, self._split, self._network = config, folder, split, network
    self._faces = None

  def sample_grid(self, variables: Any, skip_mask: tuple[bool, ...]) -> np.ndarray:
    """Returns a picture `[H, W, 3]` uint8 whose rows show source, target and output of up to four faces.

    Raises:
      BadInput: the split cannot be read.
    """
    faces = self._samples(_SAMPLE_FACES)
    sources, lights = np.stack([f.source for f in faces]), np.stack([f.target_light for f in faces])
    relit = self._relit(sources, lights, variables, skip_mask)
    rows = [
      (_shown(face.source), face.source_light, _shown(face.target), face.target_light, _shown(output))
      for face, output in zip(faces, relit, strict=True)
    ]
    return relighting_grid(rows)

  def relit_sheet(self, variables: Any, skip_mask: tuple[bool, ...]) -> np.ndarray:
    """Returns a picture `[H, W, 3]` uint8 of up to six faces in rows: the source, and the same under five lights.

    Raises:
      BadInput: the split cannot be read.
    """
    lights = [sh.directional(sh.direction(*angles), _SHOWN_AMBIENT) for angles in _SHOWN_DIRECTIONS]
    pictures, below = [], []
    for face in self._samples(_RELIT_FACES):
      sources = np.repeat(face.source[None], len(lights), axis=0)
      outputs = self._relit(sources, np.stack(lights), variables, skip_mask)
      for luminance in (face.source, *outputs):
        pictures.append(np.repeat(np.rint(255 * _shown(luminance)).astype(np.uint8)[..., None], 3, axis=-1))
      below += [face.source_light, *lights]
    return contact_sheet(pictures, below)

  def _relit(self, luminance: np.ndarray, lights: np.ndarray, variables: Any, skip_mask) -> np.ndarray:
    """`[B, H, W]` and `[B, 9]` -> `[B, H, W]`."""
    return np.asarray(_relight(self._network, skip_mask, variables, luminance[..., None], lights))[..., 0]

  def _samples(self, count: int) -> list["_Sample"]:
    if self._faces is None:
      faces = _sample_faces(self._config, self._folder, self._split)
      self._faces = list(islice(faces, max(_SAMPLE_FACES, _RELIT_FACES)))
    return self._faces[:count]


@dataclasses.dataclass(frozen=True)
class _Sample:
  """A face under two lights: luminance `[S, S]` in [0, 1], lights `[9]`."""

  source: np.ndarray
  source_light: np.ndarray
  target: np.ndarray
  target_light: np.ndarray


def _sample_faces(config: TrainingConfig, folder: Path, split: str) -> Iterator[_Sample]:
  """The first faces of a split that can be read: the first relit picture as source, the last as target."""
  source, move = RecordSource(folder, split, config.data.on_corrupt), Augmentation(config.data.size)
  for index in range(len(source)):
    try:
      record = source[index]
    except BadInput:
      continue  # the input stops at it, or counts it
    pictures, lights = [record.original, *record.relit], [record.source_light, *record.target_lights]
    first = 1 if len(record.relit) > 1 else 0
    luminance = [photo_luminance(move.resize(pictures[shown])) for shown in (first, -1)]
    yield _Sample(luminance[0], lights[first], luminance[1], lights[-1])


def _shown(luminance: np.ndarray) -> np.ndarray:
  return shrink(np.clip(luminance, 0, 1), _SHOWN_SIDE)


@functools.partial(jax.jit, static_argnums=(0, 1))
def _relight(network, skip_mask, variables, luminance, lights):
  return network.apply(variables, luminance, lights, skip_mask).luminance
