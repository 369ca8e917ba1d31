"""Where a light comes from: a preset, a direction, a file of SH numbers, an environment map, a reference portrait."""

import os
import re
from pathlib import Path
from typing import NamedTuple

import numpy as np

from dpr_jax import sh
from dpr_jax.errors import BadInput
from dpr_jax.faces import find_faces
from dpr_jax.light_prior import GRAY_WEIGHTS
from dpr_jax.native_libraries import import_native
from dpr_jax.photo import PHOTO_SUFFIXES, read_photo

_ENVIRONMENT_SUFFIXES = (".hdr", ".exr")
_MAX_ENVIRONMENT_PIXELS = 2**27
_HDR_HEADER = 2**16  # bytes at most
_NUMBER_SUFFIXES = (".txt", ".csv")
_DEFAULT_AMBIENT = 0.3


class Direction(NamedTuple):
  """A lamp as a photographer places it.

  Attributes:
    azimuth: degrees from the camera to the image's left.
    elevation: degrees upwards.
    ambient: the share of the light that comes evenly from everywhere, 0 to 1.
  """

  azimuth: float
  elevation: float
  ambient: float = _DEFAULT_AMBIENT


PRESETS = {
  "front": Direction(0, 10),
  "left": Direction(65, 10),
  "right": Direction(-65, 10),
  "top": Direction(0, 65),
  "bottom": Direction(0, -45),
  "left-top": Direction(50, 40),
  "right-top": Direction(-50, 40),
  "left-bottom": Direction(50, -30),
  "right-bottom": Direction(-50, -30),
  "rembrandt": Direction(45, 45, 0.15),
  "rembrandt-right": Direction(-45, 45, 0.15),
  "loop": Direction(30, 25),
  "loop-right": Direction(-30, 25),
  "butterfly": Direction(0, 45, 0.2),
  "split": Direction(90, 5, 0.15),
  "split-right": Direction(-90, 5, 0.15),
  "flat": Direction(0, 0, 1.0),
}


def parse_light(text: str, params=None, face_finder: str | None = None) -> np.ndarray:
  """A target light from what a user writes.

  Args:
    text: one of
      - a preset: `left`, `right`, `top`, `rembrandt`, ... (`PRESETS`); left is the image's left, the viewer's;
      - `azimuth,elevation[,ambient]`: degrees to the image's left and upwards from the camera, and the share of even
        light, 0 to 1;
      - a text file of 9 SH numbers in the conventions of `dpr_jax.sh`, taken as they are; or of 27, red, green and
        blue, as three times nine or as nine lines of three, which are made gray;
      - a latitude-longitude environment map, `.hdr` or `.exr`, its centre straight behind the subject; scaled to the
        mean brightness that the networks were trained on;
      - a photo of a face, whose light is estimated by the network and transferred.
    params: from `load_params`; needed for a photo only, but lamps are as bright as suits their network.
    face_finder: who looks for the face of a photo, one of `faces.FACE_FINDERS`; None: as `faces.open_face_finder`.

  Returns:
    `[9]` float32.

  Raises:
    BadInput: none of these, or a file that cannot be used.
  """
  text = text.strip()
  preset = PRESETS.get(text.lower().replace("_", "-").replace(" ", "-"))
  if preset is not None:
    return lamp(preset, params)
  suffix = Path(text).suffix.lower()
  if suffix in _ENVIRONMENT_SUFFIXES:
    return environment_light(text)
  if suffix in PHOTO_SUFFIXES:
    return _from_portrait(text, params, face_finder)
  if suffix in _NUMBER_SUFFIXES or os.path.isfile(text):  # Path.is_file raises on a name that is too long
    return _from_numbers(text)
  return lamp(_parse_direction(text), params)


def lamp(light: Direction, params=None) -> np.ndarray:
  """`[9]` of a lamp with its even light, as bright as suits the network of `params`, or `sh.directional`."""
  towards = sh.direction(light.azimuth, light.elevation)
  if params is None:
    return sh.directional(towards, light.ambient)
  from dpr_jax.hourglass import network_for  # Flax takes half a second to import

  return sh.directional(towards, light.ambient, network_for(params).lamp_dc)


def _parse_direction(text: str) -> Direction:
  try:
    numbers = [float(part) for part in text.split(",")]
  except ValueError:
    numbers = []
  if len(numbers) not in (2, 3):
    raise BadInput(
      f"light {text!r}: neither a file, nor azimuth,elevation[,ambient], nor one of {', '.join(sorted(PRESETS))}"
    )
  light = Direction(*numbers)
  if not (-360 <= light.azimuth <= 360 and -90 <= light.elevation <= 90):  # NaN is refused too
    raise BadInput(f"light {text!r}: azimuth must lie in -360 to 360 degrees, elevation in -90 to 90")
  if not 0 <= light.ambient <= 1:
    raise BadInput(f"light {text!r}: ambient must lie in 0 to 1")
  return light


def _from_numbers(path: str) -> np.ndarray:
  light = read_coefficients(path)
  return light if light.ndim == 1 else GRAY_WEIGHTS @ light


def read_coefficients(path: str | os.PathLike) -> np.ndarray:
  """A text file of SH numbers, in whatever convention they are: `[9]` float32, or `[3, 9]`, red, green, blue.

  Coloured lights may be three times nine numbers, or nine lines of three.

  Raises:
    BadInput: it cannot be read, or holds neither 9 nor 27 finite numbers.
  """
  try:
    lines = Path(path).read_text(encoding="utf-8-sig").splitlines()
  except FileNotFoundError:
    raise BadInput(f"{path}: no such file") from None
  except (OSError, ValueError) as error:
    raise BadInput(f"{path}: cannot be read as a text file of SH numbers ({error})") from None
  rows = [line.replace(",", " ").split() for line in lines]
  try:
    with np.errstate(over="ignore"):  # becomes infinite, and is refused as such
      numbers = np.array([float(word) for row in rows for word in row], np.float32)
  except ValueError as error:
    raise BadInput(f"{path}: {str(error)[:80]}; a light file holds 9 or 27 numbers") from None
  if numbers.size not in (9, 27):
    raise BadInput(f"{path}: has {numbers.size} numbers; a light file holds 9, or 27 (9 each of red, green, blue)")
  if not np.isfinite(numbers).all():
    raise BadInput(f"{path}: has numbers that are not finite")
  if numbers.size == 9:
    return numbers
  by_coefficient = [len(row) for row in rows if row] == [3] * 9  # nine lines of red, green, blue
  return numbers.reshape(9, 3).T if by_coefficient else numbers.reshape(3, 9)


def environment_light(path: str | os.PathLike, max_pixels: int = _MAX_ENVIRONMENT_PIXELS) -> np.ndarray:
  """The light `[9]` of an environment map, as `parse_light` makes it; arguments and errors of `read_environment`, and
  BadInput for a black map.
  """
  panorama = read_environment(path, max_pixels)
  brightest = panorama.max()
  if brightest == 0:
    raise BadInput(f"{path}: the environment map is black")
  light = sh.environment(panorama / brightest)  # so that the sum neither overflows nor vanishes
  if light.ndim == 2:
    light = GRAY_WEIGHTS @ light
  return sh.normalise(light)


def read_environment(path: str | os.PathLike, max_pixels: int = _MAX_ENVIRONMENT_PIXELS) -> np.ndarray:
  """A `.hdr` or `.exr` environment map as linear radiance, float32, `[H, W, 3]` RGB or `[H, W]`.

  Args:
    path: the file.
    max_pixels: the most pixels to decode; the header is asked before. The default holds 16,384 x 8,192.

  Raises:
    BadInput: it cannot be read, has more than `max_pixels`, or holds values that are negative or not finite.
  """
  if not os.path.isfile(path):
    raise BadInput(f"{path}: no such file")
  read = _read_exr if Path(path).suffix.lower() == ".exr" else _read_hdr
  panorama = read(os.fspath(path), max_pixels)
  if not np.isfinite(panorama).all() or panorama.min() < 0:
    raise BadInput(f"{path}: the environment map has values that are negative or not finite")
  return panorama


def _check_size(path: str, width: int, height: int, max_pixels: int) -> None:
  if width * height > max_pixels:
    raise BadInput(f"{path}: {width} x {height} pixels are more than the {max_pixels} allowed")


def _read_hdr(path: str, max_pixels: int) -> np.ndarray:
  cv2 = import_native("cv2")
  data = np.fromfile(path, np.uint8)
  # The line of the size ends the header; any signs, and either axis first.
  size = re.search(rb"\n[-+][XY] +(\d+) +[-+][XY] +(\d+)\n", data[:_HDR_HEADER].tobytes())
  if data[:2].tobytes() != b"#?" or size is None:
    raise BadInput(f"{path}: not a Radiance HDR file, or a damaged one")
  _check_size(path, int(size[2]), int(size[1]), max_pixels)
  panorama = cv2.imdecode(data, cv2.IMREAD_UNCHANGED)
  if panorama is None or panorama.dtype != np.float32:
    raise BadInput(f"{path}: not a Radiance HDR file, or a damaged one")
  return panorama[..., ::-1]


def _read_exr(path: str, max_pixels: int) -> np.ndarray:
  import OpenEXR  # 5 MB that only this kind of light needs

  try:
    with OpenEXR.File(path, header_only=True) as file:
      low, high = file.header()["dataWindow"]
      width, height = (int(last) - int(first) + 1 for first, last in zip(low, high, strict=True))
    _check_size(path, width, height, max_pixels)
    with OpenEXR.File(path, separate_channels=True) as file:
      channels = {name: channel.pixels for name, channel in file.channels().items()}
  except BadInput:
    raise
  except (RuntimeError, ValueError, TypeError, KeyError) as error:
    raise BadInput(f"{path}: not an OpenEXR file, or a damaged one ({str(error).splitlines()[0]})") from None
  names = next((names for names in (("R", "G", "B"), ("Y",)) if all(name in channels for name in names)), None)
  if names is None:
    raise BadInput(f"{path}: has channels {', '.join(sorted(channels))}; an environment map needs R, G, B or Y")
  panorama = np.stack([channels[name] for name in names], axis=-1).astype(np.float32)
  return panorama if len(names) == 3 else panorama[..., 0]


def _from_portrait(path: str, params, face_finder: str | None) -> np.ndarray:
  if params is None:
    raise BadInput(f"{path}: the light of a portrait is estimated by the network; its params are needed")
  from dpr_jax import portrait  # Flax takes half a second to import, which other kinds of light do without
  from dpr_jax.hourglass import network_for

  pixels = read_photo(path).pixels
  faces = find_faces(pixels, face_finder)
  if not faces:
    raise BadInput(f"{path}: no face found whose light could be taken")
  largest = max(faces, key=lambda face: np.prod(face.box[2:] - face.box[:2]))
  return portrait.estimate_portrait_light(params, pixels, largest, network_for(params).native_size)
