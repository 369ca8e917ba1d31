"""How `relight.py` is to relight, and which wishes are refused: told before JAX, which takes a second, is imported."""

import dataclasses
import stat
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from dpr_jax.base.errors import BadInput
from dpr_jax.portrait.face_finders import FACE_FINDERS

if TYPE_CHECKING:
  import numpy as np

_EXPOSURES = (-5.0, 5.0)  # stops
_ROTATIONS = (-360.0, 360.0)  # degrees


@dataclasses.dataclass(frozen=True)
class Options:
  """How to relight; see the flags of `relight.py`.

  Attributes:
    lights: as for `parse_light`.
    weights: as for `load_params`, or None: this project's own.
    size: side of the network's square, or None: the one the weights were trained at.
    strength: exponent of the ratio.
    exposure: stops by which the lit side of a face becomes brighter than it is in the photo.
    intensity: factor on the light, which is `log2(intensity)` more stops.
    temperature: colour temperature of the lamps in kelvin, or None: as the light has them.
    color: colour of the lamps, as for `lights.parse_colour`, or None.
    env_rotate: degrees by which environment maps are turned about the vertical, as `sh.turn`.
    face: relight only this one, counted from 1, left to right; None relights all.
    align: relight the faces, framed; otherwise the whole photo, as the authors' demo does.
    overwrite: whether existing outputs may be replaced.
    background: how much of the light's change the room around the persons takes, 0 to 1.
    replace_background: a picture or an environment map to put the persons before, or None.
    passes: whether matte, normals, depth, shading and shadow are written beside a relit photo.
    face_finder: one of `face_finders.FACE_FINDERS`, or None: chosen by `face_finders.open_face_finder`.
    engine: what runs the network on a photo, `jax` or `onnx`.
  """

  lights: Sequence[str] = ()
  weights: str | None = None
  size: int | None = None
  strength: float = 1.0
  exposure: float = 0.0
  intensity: float = 1.0
  temperature: float | None = None
  color: str | None = None
  env_rotate: float = 0.0
  face: int | None = None
  align: bool = True
  overwrite: bool = False
  face_finder: str | None = None
  engine: str = "jax"
  background: float = 0.0
  replace_background: str | None = None
  passes: bool = False

  def __post_init__(self):
    if not 0 <= self.background <= 1:
      raise BadInput(f"--background {self.background:g}: must lie in 0 to 1")
    if self.background and self.replace_background is not None:
      raise BadInput("--background and --replace_background: one of them at a time")
    if not self.align and (self.background or self.replace_background is not None or self.passes):
      raise BadInput("--background, --replace_background and --passes: not with --no-align, which looks for no persons")
    if not 0 <= self.strength <= 3:
      raise BadInput(f"--strength {self.strength:g}: must lie in 0 to 3")
    if not 0 < self.intensity <= 10:
      raise BadInput(f"--intensity {self.intensity:g}: must be above 0, at most 10")
    if not _EXPOSURES[0] <= self.exposure <= _EXPOSURES[1]:
      raise BadInput(f"--exposure {self.exposure:g}: must lie in {_EXPOSURES[0]:g} to {_EXPOSURES[1]:g} stops")
    self._check_lamps()
    if not _ROTATIONS[0] <= self.env_rotate <= _ROTATIONS[1]:
      raise BadInput(f"--env_rotate {self.env_rotate:g}: must lie in {_ROTATIONS[0]:g} to {_ROTATIONS[1]:g} degrees")
    if self.size is not None and not 256 <= self.size <= 2048:
      raise BadInput(f"--size {self.size}: must lie in 256 to 2048; the networks were trained at 256, 512 and 1024")
    if self.face is not None and self.face < 1:
      raise BadInput(f"--face {self.face}: faces are counted from 1, left to right")
    if self.face is not None and not self.align:
      raise BadInput(f"--face {self.face}: not with --no-align, which looks for no faces")
    if self.engine != "jax" and not self.align:
      raise BadInput(f"--engine {self.engine}: not with --no-align")
    if self.face_finder not in (None, *FACE_FINDERS):
      raise BadInput(f"--face_finder {self.face_finder}: must be one of {', '.join(FACE_FINDERS)}")

  def _check_lamps(self) -> None:
    """BadInput if the lamps cannot have the colour that is asked for."""
    if self.temperature is None and self.color is None:
      return
    from dpr_jax.image.color import COLOUR_TEMPERATURES
    from dpr_jax.portrait.lights import parse_colour

    low, high = COLOUR_TEMPERATURES
    if self.temperature is not None and not low <= self.temperature <= high:
      raise BadInput(f"--temperature {self.temperature:g}: must lie in {low} to {high} kelvin")
    if self.temperature is not None and self.color is not None:
      raise BadInput("--temperature and --color: one of them at a time")
    if not self.align:
      raise BadInput("--temperature and --color: not with --no-align, which changes no colours")
    if self.color is not None:
      try:
        parse_colour(self.color)
      except BadInput as error:
        raise BadInput(f"--{error}") from None

  @property
  def lamp_colour(self) -> "np.ndarray | None":
    """`[3]` linear RGB of luminance 1, by which the lamps are tinted; None: not at all."""
    if self.color is None and self.temperature is None:
      return None
    from dpr_jax.image.color import lamp_colour
    from dpr_jax.portrait.lights import parse_colour

    if self.color is not None:
      return parse_colour(self.color)
    return lamp_colour(self.temperature)


def names_folder(image: Path) -> bool:
  """Whether a path is a folder's.

  Raises:
    BadInput: there is nothing, or what cannot be looked at.
  """
  try:
    return stat.S_ISDIR(image.stat().st_mode)
  except OSError as error:
    raise BadInput(f"{image}: cannot be read ({error.strerror})") from None
