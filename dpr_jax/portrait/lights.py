"""Where a light comes from: a preset, a direction, a file of SH numbers, an environment map, a reference portrait."""

import os
import re
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np

from dpr_jax.base.errors import BadInput
from dpr_jax.image import color
from dpr_jax.image.photo import read_photo
from dpr_jax.image.photo_formats import PHOTO_SUFFIXES, is_photo
from dpr_jax.light import light as light_module
from dpr_jax.light import sh
from dpr_jax.light.environment_files import ENVIRONMENT_SUFFIXES, read_environment
from dpr_jax.light.environment_lamps import panorama_light
from dpr_jax.light.files import check_light, read_coefficients
from dpr_jax.light.light import Light
from dpr_jax.portrait.face_finders import find_faces

_ENVIRONMENT_DC = 0.8  # first coefficient of the gray projection of a map
# What a camera takes of a scene's mean tint by its white balance, and how weak a channel it still balances.
_WHITE_BALANCE, _LEAST_TINT = 0.75, 0.05
_NUMBER_SUFFIXES = (".txt", ".csv", ".npy", ".json")

AZIMUTHS = (-360.0, 360.0)
ELEVATIONS = (-90.0, 90.0)
FILLS = (0.0, 4.0)
SIZES = (0.5, 60.0)


class Direction(NamedTuple):
  """A key lamp as a photographer places it, and the fill.

  Attributes:
    azimuth: degrees from the camera to the image's left.
    elevation: degrees upwards.
    fill: irradiance by the fill over that by the key lamp, each of a surface that faces it. The lighting ratio of a
      studio, (key + fill) : fill, is 1 + 1 / fill.
    size: angular diameter of the lamp in degrees, as seen from the face: 0.5 is the sun, 30 a large softbox close by.
  """

  azimuth: float
  elevation: float
  fill: float = 0.25
  size: float = 15.0


# None is even light from everywhere, without a lamp. The fills make lighting ratios of 2:1 (1.0), 3:1 (0.5), 4:1
# (0.33), 5:1 (0.25) and 8:1 (0.14).
PRESETS: dict[str, Direction | None] = {
  "front": Direction(0, 10, 1.0, 20),
  "left": Direction(65, 10, 0.25, 15),
  "right": Direction(-65, 10, 0.25, 15),
  "top": Direction(0, 60, 0.33, 25),
  "bottom": Direction(0, -45, 0.25, 15),
  "left-top": Direction(50, 40, 0.25, 15),
  "right-top": Direction(-50, 40, 0.25, 15),
  "left-bottom": Direction(50, -30, 0.25, 15),
  "right-bottom": Direction(-50, -30, 0.25, 15),
  "rembrandt": Direction(45, 45, 0.14, 20),
  "rembrandt-right": Direction(-45, 45, 0.14, 20),
  "loop": Direction(30, 25, 0.33, 20),
  "loop-right": Direction(-30, 25, 0.33, 20),
  "butterfly": Direction(0, 45, 0.5, 20),
  "split": Direction(72, 5, 0.14, 10),
  "split-right": Direction(-72, 5, 0.14, 10),
  "flat": None,
}


def parse_light(
  text: str, params: dict[str, Any] | None = None, face_finder: str | None = None, *, env_rotate: float = 0.0
) -> Light:
  """A target light from what a user writes.

  Args:
    text: one of
      - a preset: `left`, `right`, `top`, `rembrandt`, ... (`PRESETS`); left is the image's left, the viewer's;
      - `azimuth,elevation[,fill[,size]]`, the numbers of `Direction`;
      - a text file of 9 SH numbers in the conventions of `dpr_jax.light.sh`, taken as they are: a gray light without
        lamps; or of 27, red, green and blue, as three times nine or as nine lines of three: an RGB light without lamps;
      - a latitude-longitude environment map, `.hdr`, `.pic` or `.exr`, its centre straight behind the subject: an RGB
        light whose lamps are the brightest compact sources of the map, as `environment_light` makes it;
      - a photo of a face, whose light is estimated by the network and transferred.
    params: from `load_params`; needed for a photo only.
    face_finder: who looks for the face of a photo, one of `face_finders.FACE_FINDERS`; None: as
      `face_finders.open_face_finder`.
    env_rotate: degrees by which an environment map is turned about the vertical, as `sh.turn`.

  Returns:
    A `Light` of NumPy arrays, in no particular unit: how bright a photo becomes is a matter of its exposure.

  Raises:
    BadInput: none of these, a file that cannot be used, or a rotation of what is no environment map.
  """
  text = text.strip()
  suffix = Path(text).suffix.lower()
  if suffix in ENVIRONMENT_SUFFIXES:
    return environment_light(text, rotate=env_rotate)
  if env_rotate:
    raise BadInput(f"--env_rotate {env_rotate:g}: turns environment maps alone, and {text!r} is none")
  name = text.lower().replace("_", "-").replace(" ", "-")
  if name in PRESETS:
    return studio_light(PRESETS[name])
  if suffix in PHOTO_SUFFIXES or is_photo(text):
    return _from_portrait(text, params, face_finder)
  if suffix in _NUMBER_SUFFIXES or os.path.isfile(text):  # Path.is_file raises on a name that is too long
    numbers = read_coefficients(text)
    check_light(text, numbers)
    return light_module.soft_light(numbers)
  return studio_light(_parse_direction(text))


def studio_light(direction: Direction | None) -> Light:
  """The gray light of a key lamp of irradiance 1 and its fill; None: even light of irradiance 1, without a lamp."""
  if direction is None:
    return light_module.even_light()
  towards = sh.direction(direction.azimuth, direction.elevation)
  return light_module.key_and_fill(towards, direction.fill, direction.size)


def parse_colour(text: str) -> np.ndarray:
  """The colour of a lamp as users write it, `#ffb070` or `255,176,112`: sRGB, red, green and blue.

  Returns:
    `[3]` float32 linear RGB, scaled to luminance 1.

  Raises:
    BadInput: it is neither, or black.
  """
  text = text.strip()
  if match := re.fullmatch(r"#([0-9a-fA-F]{2})([0-9a-fA-F]{2})([0-9a-fA-F]{2})", text):
    levels = [int(part, 16) for part in match.groups()]
  elif re.fullmatch(r"\s*\d{1,3}\s*(,\s*\d{1,3}\s*){2}", text, re.ASCII):
    levels = [int(part) for part in text.split(",")]
  else:
    levels = []
  if not levels or max(levels) > 255:
    raise BadInput(f"color {text!r}: must be #rrggbb, or red,green,blue of 0 to 255")
  if not any(levels):
    raise BadInput(f"color {text!r}: a black lamp gives no light")
  linear = color.linearise(np.array(levels) / 255)
  return np.asarray(linear / (light_module.LUMINANCE_WEIGHTS @ linear), np.float32)


def _parse_direction(text: str) -> Direction:
  try:
    numbers = [float(part) for part in text.split(",")]
  except ValueError:
    numbers = []
  if len(numbers) not in (2, 3, 4):
    raise BadInput(
      f"light {text!r}: neither a file, nor azimuth,elevation[,fill[,size]], nor one of {', '.join(sorted(PRESETS))}"
    )
  direction = Direction(*numbers)
  for name, value, (low, high), unit in (
    ("azimuth", direction.azimuth, AZIMUTHS, " degrees"),
    ("elevation", direction.elevation, ELEVATIONS, " degrees"),
    ("fill", direction.fill, FILLS, " of the key lamp"),
    ("size", direction.size, SIZES, " degrees"),
  ):
    if not low <= value <= high:  # NaN is refused too
      raise BadInput(f"light {text!r}: {name} must lie in {low:g} to {high:g}{unit}")
  return direction


def environment_light(path: str | os.PathLike, rotate: float = 0.0) -> Light:
  """The light of an environment map: its brightest compact sources as lamps, the rest as the soft part.

  See `environment_lamps.panorama_light`. As a camera would, it is balanced for the colour of the place: of the tint of
  the map's mean radiance a quarter is left, as an exponent, and differences between its parts stay. The unit is not the
  map's own either: the gray projection of the whole has a first coefficient of 0.8.

  Args:
    path: a file as for `read_environment`.
    rotate: degrees by which the map is turned about the vertical; positive as `sh.turn`, light from the front to image
      left.

  Returns:
    RGB, or gray of a map that has luminance alone.

  Raises:
    BadInput: as `read_environment`, and for a black map.
  """
  light = radiance_light(read_environment(path), path)
  return light_module.rotate(light, sh.turn(rotate)) if rotate else light


def radiance_light(panorama: np.ndarray, path: str | os.PathLike) -> Light:
  """`environment_light` of what `read_environment` has read from `path`.

  Raises:
    BadInput: it is black.
  """
  brightest = panorama.max()
  if brightest == 0:
    raise BadInput(f"{path}: the environment map is black")
  light = panorama_light(panorama / brightest)  # so that sums neither overflow nor vanish
  if light.channels == 3:
    mean = light_module.harmonics(light)[:, 0]
    tint = np.maximum(mean / light_module.luminance(mean), _LEAST_TINT)
    light = light_module.tint(light, np.asarray(tint**-_WHITE_BALANCE, np.float32))
  first = light_module.harmonics(light_module.gray(light))[0, 0]
  return light_module.scale(light, np.float32(_ENVIRONMENT_DC / first))


def _from_portrait(path: str, params: dict[str, Any] | None, face_finder: str | None) -> Light:
  if params is None:
    raise BadInput(f"{path}: the light of a portrait is estimated by the network; its params are needed")
  from dpr_jax.portrait import framed_face  # with Flax: half a second that other kinds of light do without

  pixels = read_photo(path).pixels
  faces = find_faces(pixels, face_finder)
  if not faces:
    raise BadInput(f"{path}: no face found whose light could be taken")
  largest = max(faces, key=lambda face: np.prod(face.box[2:] - face.box[:2]))
  return framed_face.estimate_portrait_light(params, pixels, largest)
