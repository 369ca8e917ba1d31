"""What `relight.py` does: photos, lights and wishes in, relit photos, contact sheets and films out."""

import dataclasses
import math
import os
import sys
import zlib
from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING

import jax
import numpy as np
from tqdm import tqdm

from dpr_jax.base.errors import BadInput, BadInputs, one_line
from dpr_jax.base.output_files import atomic_output, check_free
from dpr_jax.cli.relight_options import Options, names_folder
from dpr_jax.image import pictures
from dpr_jax.image.photo import Photo, as_type, read_photo, to_8_bits
from dpr_jax.image.photo_formats import WRITTEN_FORMATS, sort_photos
from dpr_jax.image.photo_writing import write_photo
from dpr_jax.light import light as light_module
from dpr_jax.light import sh
from dpr_jax.light.light import Light
from dpr_jax.network.registry import DEFAULT
from dpr_jax.portrait import backdrops
from dpr_jax.portrait.passes import pass_photos
from dpr_jax.portrait.portrait import PASSES, Portrait
from dpr_jax.portrait.relighter import Relighter
from dpr_jax.portrait.whole_photo import WholePhoto

if TYPE_CHECKING:
  from dpr_jax.film.moving_portrait import MovingPortrait

_SHEET_LIGHTS = ("left", "left-top", "top", "right-top", "right", "bottom", "rembrandt")
_DEMO_LIGHTS = ("left", "left-top", "right", "top", "bottom")
_SHEET_SOURCE_SIDE = 1600  # enough for a face in a group photo
_SHEET_CELL_SIDE = 512
_FILM_SIDE = 1080
_FILM_SECONDS = 4  # for a full turn, where that gives a bearable rate
_FILM_FPS = (10, 30)
_FILM_SUFFIXES = (".mp4", ".gif")
_LIGHT_MISSING = "--light is missing: a preset, azimuth,elevation, a file or a photo"
_ONE_LIGHT = "more than one --light: only --grid takes several"


class Studio:
  """A `Relighter`, and lights, as the options say; use it in a `with` statement.

  Attributes:
    lights: the target lights, tinted and turned as the options say.
    size: side of the square that the network sees.
  """

  def __init__(self, options: Options):
    self._options = options
    self._relighter = Relighter(
      options.weights or DEFAULT, size=options.size, face_finder=options.face_finder, engine=options.engine
    )
    self.size = self._relighter.size
    self.lights = [self._light(text) for text in options.lights]
    self._finder = self._relighter.finder if options.align else None
    self._kept_backdrop: np.ndarray | None = None

  def __enter__(self) -> "Studio":
    return self

  def __exit__(self, *exception) -> None:
    self._relighter.close()

  def _light(self, text: str) -> Light:
    light, colour = self._relighter.light(text, env_rotate=self._options.env_rotate), self._options.lamp_colour
    return light if colour is None else light_module.tint_lamps(light, colour)

  def encode(self, pixels: np.ndarray, name: str) -> Portrait | WholePhoto:
    """A photo made ready for any light.

    Args:
      pixels: `[H, W, 3]` RGB, uint8 or uint16; or float32, linear light.
      name: what an error calls it.

    Raises:
      BadInput: no face, or not as many as `--face` asks for.
    """
    if self._finder is None:
      return WholePhoto(self._relighter.params, pixels, self.size)
    faces = self._finder.find(pixels)
    if not faces:
      raise BadInput(f"{name}: no face found (--no-align relights the whole photo)")
    wanted = self._options.face
    if wanted is not None and wanted > len(faces):
      raise BadInput(f"{name}: has {len(faces)} face{'s'[: len(faces) > 1]}, there is no --face {wanted}")
    return self._relighter.encode(pixels, face=wanted, faces=faces)

  @property
  def face_finder(self) -> str | None:
    """The name of the face finder; None with `--no-align`."""
    return self._finder and self._finder.name

  @property
  def segmenter(self) -> str | None:
    """The name of the model that finds persons; None: they are not looked for."""
    segmenter = self._relighter.segmenter
    return None if segmenter is None else segmenter.name

  @property
  def writes_passes(self) -> bool:
    """Whether `--passes` was given."""
    return self._options.passes

  def moving_portrait(self) -> "MovingPortrait":
    """What relights the frames of one film; not with `--no-align`."""
    from dpr_jax.film.moving_portrait import MovingPortrait

    return MovingPortrait(self._relighter.params, self._finder, self.size, segmenter=self._relighter.segmenter)

  def weights_checksum(self) -> int:
    """The same for the same weights, wherever they came from."""
    checksum = 0
    for leaf in jax.tree.leaves(self._relighter.params):
      checksum = zlib.crc32(np.ascontiguousarray(leaf), checksum)
    return checksum

  def relight(self, encoded: Portrait | WholePhoto, light: Light) -> np.ndarray:
    """Pixels under a light, with `--strength`, `--exposure` and `--intensity` applied.

    With `--no-align` exposure and intensity are a factor on the light.
    """
    options = self._options
    if self._finder is None:
      factor = options.intensity * 2.0**options.exposure
      return encoded.relight(light_module.told(light_module.gray(light))[0], options.strength, brightness=factor)
    return self._relighter.relight(
      encoded,
      light,
      strength=options.strength,
      exposure=self.exposure,
      background=options.background,
      backdrop=self._backdrop(encoded),
    )

  def _backdrop(self, portrait: Portrait) -> np.ndarray | None:
    """What `--replace_background` puts behind the persons of a photo, of its shape and type; one photo's is kept."""
    file = self._options.replace_background
    if file is None:
      return None
    if not portrait.has_mattes:
      raise BadInput(f"--replace_background {file}: no person was found to put before it, or no segmenter to look")
    pixels = portrait.pixels
    kept = self._kept_backdrop
    if kept is None or (kept.shape, kept.dtype) != (pixels.shape, pixels.dtype):
      self._kept_backdrop = backdrops.backdrop(file, pixels.shape, pixels.dtype, self._options.env_rotate)
    return self._kept_backdrop

  @property
  def exposure(self) -> float:
    """In stops, the intensity included."""
    return self._options.exposure + math.log2(self._options.intensity)


def relight_photo(studio: Studio, source: Path, target: Path, overwrite: bool) -> None:
  """One photo under the first of the studio's lights, in full resolution."""
  _check_target(target, overwrite)
  files = _pass_files(target) if studio.writes_passes else {}
  for file in files.values():
    check_free(file, overwrite)
  photo = read_photo(source)
  encoded = studio.encode(photo.pixels, str(source))
  relit = studio.relight(encoded, studio.lights[0])
  passes = pass_photos(encoded, studio.lights[0]) if files else ()
  write_photo(target, _with_pixels(photo, relit), overwrite=overwrite)
  for name, layer in passes:
    write_photo(files[name], layer, overwrite=overwrite)
    del layer  # before the next one is made


def _pass_files(target: Path) -> dict[str, Path]:
  """Where `--passes` writes: PNGs beside the relit photo."""
  return {name: target.with_name(f"{target.stem}_{name}.png") for name in PASSES}


def _check_target(target: Path, overwrite: bool) -> None:
  """BadInput if `write_photo` would refuse `target`: better before the work than after it."""
  check_free(target, overwrite)
  if target.suffix.lower() not in WRITTEN_FORMATS:
    raise BadInput(f"{target}: the suffix must be one of {', '.join(WRITTEN_FORMATS)}")


def _with_pixels(photo: Photo, pixels: np.ndarray) -> Photo:
  """`photo` with other pixels, possibly of fewer bits."""
  alpha = None if photo.alpha is None else as_type(photo.alpha, pixels.dtype, linear=True)
  return dataclasses.replace(photo, pixels=pixels, alpha=alpha)


def relight_folder(studio: Studio, source: Path, target: Path, overwrite: bool) -> None:
  """Every photo of a folder, into another folder under the same names.

  Raises:
    BadInputs: after all others are done, if some could not be relit; the message lists them.
  """
  if os.path.lexists(target) and not os.path.isdir(target):
    raise BadInput(f"{target}: not a folder; the photos of a folder go into a folder")
  # Those that keep their names come first: none of them gives way to a GIF or AVIF that becomes a PNG.
  photos, others = sort_photos(source)
  for path, reason in others.items():
    print(one_line(f"{path}: passed over: {reason}"), file=sys.stderr)
  photos = sorted(photos, key=lambda path: path.suffix.lower() not in WRITTEN_FORMATS)
  failures = []
  source_of: dict[str, Path] = {}
  for path in tqdm(photos, unit="photo", disable=None):
    name = path.name if path.suffix.lower() in WRITTEN_FORMATS else f"{path.stem}.png"
    written = [target / name, *(_pass_files(target / name).values() if studio.writes_passes else ())]
    try:
      for file in written:
        if file.name in source_of:
          raise BadInput(f"{path}: would be written to {file.name}, as {source_of[file.name].name} is")
      source_of |= {file.name: path for file in written}
      relight_photo(studio, path, target / name, overwrite)
    except BadInput as error:
      failures.append(str(error))
  done = len(photos) - len(failures)
  if failures:
    raise BadInputs(f"{done} of {len(photos)} photos relit, {len(failures)} failed", failures)
  print(f"{done} photos relit into {target}")


def relight_to_sheet(studio: Studio, source: Path, target: Path, overwrite: bool) -> None:
  """The photo, what each of the studio's lights makes of it, and the lit spheres, as one picture."""
  _check_target(target, overwrite)
  photo = read_photo(source)
  pixels = pictures.shrink(to_8_bits(photo.pixels), _SHEET_SOURCE_SIDE)
  sheet = _sheet(studio, studio.encode(pixels, str(source)))
  profile = None if photo.gray else photo.icc_profile  # a sheet has three channels, the profile of a gray photo one
  write_photo(target, Photo(sheet, icc_profile=profile), overwrite=overwrite)


def _sheet(studio: Studio, encoded: Portrait | WholePhoto) -> np.ndarray:
  relit = (studio.relight(encoded, light) for light in tqdm(studio.lights, unit="light", disable=None))
  cells = [pictures.shrink(pixels, _SHEET_CELL_SIDE) for pixels in (encoded.pixels, *relit)]
  return pictures.contact_sheet(cells, [None, *studio.lights])


def relight_to_films(studio: Studio, source: Path, target: Path, frames: int, overwrite: bool) -> None:
  """The photo while the light goes round the view axis once, as an MP4 and a GIF beside it.

  The photo is made no larger than a screen and encoded once.
  """
  mp4, gif = _film_targets(target, overwrite)
  pixels = pictures.shrink(to_8_bits(read_photo(source).pixels), _FILM_SIDE)
  if min(pixels.shape[:2]) < 2:
    raise BadInput(f"{source}: too narrow for a film")
  encoded = studio.encode(pixels, str(source))

  def turning() -> Iterator[np.ndarray]:
    for k in tqdm(range(frames), unit="frame", disable=None):
      yield studio.relight(encoded, _turned(studio.lights[0], k / frames))

  with atomic_output(mp4, overwrite) as mp4_aside, atomic_output(gif, overwrite) as gif_aside:
    pictures.write_films(mp4_aside, gif_aside, turning(), int(np.clip(frames / _FILM_SECONDS, *_FILM_FPS)))


def _turned(light: Light, turns: float) -> Light:
  """A light after it has gone round the view axis, left to top to right."""
  return light_module.rotate(light, sh.roll(-360 * turns))


def _film_targets(target: Path, overwrite: bool) -> tuple[Path, Path]:
  """The MP4 and the GIF that `target`, either of them, stands for; BadInput if one cannot be written."""
  if target.suffix.lower() not in _FILM_SUFFIXES:
    raise BadInput(f"{target}: films have the suffix .mp4 or .gif; both are written")
  films = target.with_suffix(".mp4"), target.with_suffix(".gif")
  for path in films:
    check_free(path, overwrite)
  return films


def relight_film(options: Options, source: Path, target: Path, *, turn_frames: int | None = None) -> None:
  """Relights every face of a film, frame by frame and without flicker; see `dpr_jax.film.relighting`.

  Args:
    options: how.
    source: a film.
    target: an MP4 to write.
    turn_frames: the first light (left if none is given) goes round once in so many frames; None: it stays.

  Raises:
    BadInput: anything of the above cannot be used.
  """
  from dpr_jax.film import parts, reader, relighting  # and with them 35 MB that only films need

  if not options.align:
    raise BadInput("--no-align: not with --video; the faces of a film are followed")
  if options.replace_background is not None or options.passes:
    raise BadInput("--replace_background and --passes: not with --video")
  if options.engine != "jax":
    raise BadInput(f"--engine {options.engine}: not with --video")
  if options.face is not None:
    raise BadInput(f"--face {options.face}: not with --video, where faces come and go; all are relit")
  if not options.lights:
    if turn_frames is None:
      raise BadInput(_LIGHT_MISSING)
    options = dataclasses.replace(options, lights=("left",))
  if len(options.lights) > 1:
    raise BadInput(_ONE_LIGHT)
  _check_turn(turn_frames)
  reader.check_film(source)
  relighting.check_target(target, options.overwrite)
  if options.face_finder is None and not options.overwrite:  # go on with the finder that an earlier run began with
    options = dataclasses.replace(options, face_finder=parts.job_of_parts(target).get("face finder"))
  with Studio(options) as studio:
    [light] = studio.lights
    job = {
      "light": {name: np.asarray(part).tolist() for name, part in light._asdict().items()},
      "turn": turn_frames,
      "strength": options.strength,
      "exposure": studio.exposure,
      "size": studio.size,
      "weights": studio.weights_checksum(),
      "face finder": studio.face_finder,
    }
    if studio.segmenter is not None:
      job["person segmenter"] = studio.segmenter
    if options.background:
      job["background"] = options.background
    relighting.relight_film(
      studio.moving_portrait(),
      lambda portrait, k: studio.relight(portrait, light if turn_frames is None else _turned(light, k / turn_frames)),
      source,
      target,
      job=job,
      overwrite=options.overwrite,
    )


def _check_turn(frames: int | None) -> None:
  if frames is not None and not 2 <= frames <= 3600:
    raise BadInput(f"--rotate {frames}: must lie in 2 to 3600")


def demo(options: Options, folder: Path) -> None:
  """Relights scikit-image's astronaut: a photo and a contact sheet, which replace those of an earlier demo."""
  with Studio(dataclasses.replace(options, lights=options.lights or _DEMO_LIGHTS)) as studio:
    encoded = studio.encode(pictures.astronaut(), "astronaut")
    relit = studio.relight(encoded, studio.lights[0])
    write_photo(folder / "astronaut_relit.png", Photo(relit), overwrite=True)
    write_photo(folder / "astronaut_sheet.png", Photo(_sheet(studio, encoded)), overwrite=True)
  print(f"{folder / 'astronaut_relit.png'} and {folder / 'astronaut_sheet.png'}")


def relight(options: Options, image: Path, out: Path, *, sheet: bool = False, film_frames: int | None = None) -> None:
  """Relights a photo or a folder of them.

  Args:
    options: how.
    image: a photo, or a folder (not for sheets and films).
    out: where to write: a file, or a folder if `image` is one.
    sheet: make a contact sheet of all lights (a standard set if none are given).
    film_frames: make films of so many frames, with the first light (left if none is given) going round.

  Raises:
    BadInput: anything of the above cannot be used; nothing has been written then, except by a folder run.
  """
  if not options.lights and not sheet and film_frames is None and backdrops.is_environment(options.replace_background):
    options = dataclasses.replace(options, lights=(options.replace_background,))  # lit by where they are put
  if not options.lights:
    if not sheet and film_frames is None:
      raise BadInput(_LIGHT_MISSING)
    options = dataclasses.replace(options, lights=_SHEET_LIGHTS if sheet else ("left",))
  if len(options.lights) > 1 and not sheet:
    raise BadInput(_ONE_LIGHT)
  _check_turn(film_frames)
  if options.passes and (sheet or film_frames is not None):
    raise BadInput("--passes: not with --grid and --rotate; they belong to one photo under one light")
  if sheet and film_frames is not None:
    raise BadInput("--grid and --rotate: one of them at a time")
  is_folder = names_folder(image)
  if is_folder and (sheet or film_frames is not None):
    raise BadInput(f"{image}: is a folder; --grid and --rotate take one photo")
  # Before weights are fetched and networks compiled.
  if film_frames is not None:
    _film_targets(out, options.overwrite)
  elif not is_folder:
    _check_target(out, options.overwrite)
  with Studio(options) as studio:
    if sheet:
      relight_to_sheet(studio, image, out, options.overwrite)
    elif film_frames is not None:
      relight_to_films(studio, image, out, film_frames, options.overwrite)
    elif is_folder:
      relight_folder(studio, image, out, options.overwrite)
    else:
      relight_photo(studio, image, out, options.overwrite)
