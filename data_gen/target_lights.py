"""Target lights for relighting: a folder of SH files or environment maps, or the built-in prior.

The lights of a folder are used as the authors of DPR used those of the Basel Illumination Prior (Zhou et al. 2019,
section 3.1): drawn with replacement, turned about the vertical by a uniform angle, made gray, and scaled to a first
coefficient between 0.7 and 0.9. That scale is the brightness of a picture in the published pipeline alone; in linear
light a picture is exposed afterwards (`data_gen.synthesis.relight`).
"""

import functools
import hashlib
import os
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import NamedTuple, Protocol

import jax
import numpy as np

from dpr_jax.base.errors import BadInput
from dpr_jax.base.input_files import read_text
from dpr_jax.base.native_libraries import import_native
from dpr_jax.light import sh
from dpr_jax.light.environment_files import ENVIRONMENT_SUFFIXES, read_environment
from dpr_jax.light.files import read_coefficients
from dpr_jax.light.prior import DC_RANGE, GRAY_WEIGHTS, draw_color_light

cv2 = import_native("cv2")

# Of a light that is nowhere negative no number is over sqrt(5) times the first one; colours and rounding get some room.
_LARGEST_COEFFICIENT = 20
_TEXT_SUFFIXES = (".txt", ".csv")

# Larger maps are averaged down: second-order SH does not see the difference, and memory does.
_ENVIRONMENT_HEIGHT = 256


class TargetLight(NamedTuple):
  """A light to relight a portrait with.

  Attributes:
    name: the file it came from, without suffix, or `built_in_<seed>`.
    sh: `[9]` float32, conventions of `dpr_jax.light.sh`.
    color: `[3, 9]` float32, rows red, green, blue, of which `sh` is the gray; None where colours were not asked for.
  """

  name: str
  sh: np.ndarray
  color: np.ndarray | None


class LightSource(Protocol):
  """Where target lights come from; can be pickled.

  Attributes:
    name: for people.
    fingerprint: the same for sources that draw the same lights.
    rejected: the files that hold no usable light, each with the reason.
  """

  name: str
  fingerprint: str
  rejected: Sequence[tuple[str, str]]

  def draw(self, rng: np.random.Generator, count: int) -> list[TargetLight]:
    """Draws `count` lights, which depend on the state of `rng` alone."""


def open_light_source(
  folder: str | os.PathLike | None,
  *,
  names: str | os.PathLike | None = None,
  convention: str = "bip",
  color: bool = False,
) -> LightSource:
  """The lights of a folder, or without one the built-in prior.

  Args:
    folder: of text files (.txt, .csv) of 9 SH numbers or of 27, red, green, blue, as three times nine or as nine lines
      of three; or of latitude-longitude environment maps (.hdr, .exr, .pic), whose centre is straight behind the
      subject.
    names: a text file of lights, one file name a line, with or without suffix: only these are used.
    convention: of the text files, one of `sh.CONVENTIONS`.
    color: whether to draw colours; the gray lights are then the same as without.

  Raises:
    BadInput: there is no such folder or list, no usable light, or a listed light that the folder does not hold.
  """
  if folder is None:
    if names is not None:
      raise BadInput(f"{names}: a list of lights needs a folder of lights")
    return BuiltInLights(color)
  return FolderLights(folder, names=names, convention=convention, color=color)


class BuiltInLights:
  """Lights of `dpr_jax.light.prior`, whose scenes are turned already."""

  name = "the built-in prior"
  fingerprint = "built in"
  rejected = ()

  def __init__(self, color: bool):
    self._color = color

  def draw(self, rng: np.random.Generator, count: int) -> list[TargetLight]:
    seeds = rng.integers(2**32, size=count, dtype=np.uint32)
    return [self._light(seed) for seed in seeds]

  def _light(self, seed: np.uint32) -> TargetLight:
    color = _draw_from_prior(seed)
    return TargetLight(f"built_in_{seed}", GRAY_WEIGHTS @ color, color if self._color else None)


def _draw_from_prior(seed: np.uint32) -> np.ndarray:
  """`[3, 9]`; on the CPU, so that an accelerator is neither taken up nor changes the numbers."""
  with jax.default_device(jax.local_devices(backend="cpu")[0]):
    return np.asarray(_jitted_prior()(seed))


@functools.cache
def _jitted_prior() -> Callable:
  """One light at a time: compiled once, whatever count is asked for, which changes no number then either."""
  return jax.jit(lambda seed: draw_color_light(jax.random.key(seed)))


class FolderLights:
  """Lights of a folder of files; all are read at once, and the bad ones left out."""

  def __init__(self, folder: str | os.PathLike, *, names: str | os.PathLike | None, convention: str, color: bool):
    """As `open_light_source`."""
    if convention not in sh.CONVENTIONS:
      raise BadInput(f"unknown SH convention {convention!r}; known: {', '.join(sh.CONVENTIONS)}")
    files = _list_files(Path(folder), names)
    lights = [_read(file, convention) for file in files]
    self.rejected = [(file.name, light) for file, light in zip(files, lights, strict=True) if isinstance(light, str)]
    read = [(file, light) for file, light in zip(files, lights, strict=True) if not isinstance(light, str)]
    if not read:
      raise BadInput(f"{folder}: none of {len(files)} files is a light; {self.rejected[0][0]}: {self.rejected[0][1]}")
    self._names = [file.stem for file, _ in read]
    self._lights = np.stack([light for _, light in read])
    self._color = color
    self.fingerprint = hashlib.sha256(self._lights.tobytes() + "\0".join(self._names).encode()).hexdigest()
    self.name = f"{folder} ({len(read)} lights)"

  def draw(self, rng: np.random.Generator, count: int) -> list[TargetLight]:
    chosen = rng.integers(len(self._names), size=count)
    degrees = rng.uniform(0, 360, count)
    dc = rng.uniform(*DC_RANGE, count)
    lights = (turned_light(self._lights[i], *how) for i, *how in zip(chosen, degrees, dc, strict=True))
    return [
      TargetLight(self._names[i], GRAY_WEIGHTS @ light, light if self._color else None)
      for i, light in zip(chosen, lights, strict=True)
    ]


def turned_light(light: np.ndarray, degrees: float, dc: float) -> np.ndarray:
  """A coloured light `[3, 9]` turned about the vertical and scaled so that its gray light has the coefficient `dc`.

  `degrees` are those of `sh.turn`; the authors' log has them as an angle in radians.
  """
  light = sh.rotate(light, sh.turn(degrees))
  return (light * (dc / (GRAY_WEIGHTS @ light[:, 0]))).astype(np.float32)


def _list_files(folder: Path, names: str | os.PathLike | None) -> list[Path]:
  """The files that may hold lights, sorted; those of the list where there is one."""
  try:
    files = sorted(file for file in folder.iterdir() if file.suffix.lower() in _TEXT_SUFFIXES + ENVIRONMENT_SUFFIXES)
  except OSError as error:
    raise BadInput(f"{folder}: not a readable folder ({error.strerror})") from error
  files = [file for file in files if not file.name.startswith(".") and file.is_file()]
  if not files:
    raise BadInput(f"{folder}: holds no light ({', '.join(_TEXT_SUFFIXES + ENVIRONMENT_SUFFIXES)})")
  if names is None:
    return files
  known = {name: file for file in files for name in (file.stem, file.name)}
  try:
    lines = read_text(names, encoding="utf-8-sig").splitlines()
  except (OSError, ValueError) as error:
    raise BadInput(f"{names}: cannot be read as a list of names ({getattr(error, 'strerror', error)})") from error
  wanted = [line.strip() for line in lines if line.strip()]
  for name in wanted:
    if name not in known:
      raise BadInput(f"{names}: {name} is not in {folder}")
  if not wanted:
    raise BadInput(f"{names}: lists no light")
  return sorted({known[name] for name in wanted})


def _is_text(file: Path) -> bool:
  return file.suffix.lower() in _TEXT_SUFFIXES


def _read(file: Path, convention: str) -> np.ndarray | str:
  """A light `[3, 9]` float32 of positive first coefficient; or why the file holds none."""
  try:
    if _is_text(file):
      with np.errstate(over="ignore", invalid="ignore"):  # what overflows is refused below
        light = sh.convert(read_coefficients(file), convention)
    else:
      light = _read_environment(file)
    light = np.tile(light, (3, 1)) if light.ndim == 1 else light
    gray = GRAY_WEIGHTS.astype(np.float64) @ light[:, 0]
    if not gray > 0:
      raise BadInput(f"{file}: dark, its first SH number is not positive")
    if not np.abs(light).max() <= _LARGEST_COEFFICIENT * gray:
      raise BadInput(f"{file}: no light: a number is over {_LARGEST_COEFFICIENT} times the first one of its gray")
  except BadInput as error:
    return str(error).removeprefix(f"{file}: ")
  return light


def _read_environment(file: Path) -> np.ndarray:
  """`[9]` or `[3, 9]`, in our convention."""
  panorama = read_environment(str(file))
  height, width = panorama.shape[:2]
  shrink = max(1, height / _ENVIRONMENT_HEIGHT)
  size = max(1, round(width / shrink)), max(1, round(height / shrink))
  panorama = cv2.resize(panorama, size, interpolation=cv2.INTER_AREA)
  panorama /= max(panorama.max(), 1e-30)  # so that the sum neither overflows nor vanishes
  return sh.environment(panorama)
