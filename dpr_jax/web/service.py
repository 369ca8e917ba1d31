"""Relighting for many people at once: weights, a face finder and encoded photos, held once for a whole server."""

import collections
import contextlib
import dataclasses
import os
import threading
from collections.abc import Callable, Hashable
from pathlib import Path
from typing import Any, NamedTuple

import jax
import numpy as np

from dpr_jax.base.errors import BadInput
from dpr_jax.image import pictures
from dpr_jax.image.color import COLOUR_TEMPERATURES, NEUTRAL, lamp_colour
from dpr_jax.image.decoder_process import MOST_BYTES, SECONDS, Decoders
from dpr_jax.image.photo import Photo, to_8_bits
from dpr_jax.light import light as light_module
from dpr_jax.light import sh
from dpr_jax.light.light import Light
from dpr_jax.portrait.face_finders import open_face_finder
from dpr_jax.portrait.faces import Face
from dpr_jax.portrait.framed_face import estimate_portrait_light
from dpr_jax.portrait.lights import AZIMUTHS, ELEVATIONS, FILLS, SIZES, Direction, radiance_light, studio_light
from dpr_jax.portrait.passes import pass_photos
from dpr_jax.portrait.portrait import Portrait
from dpr_jax.portrait.relighter import Relighter

MAX_PIXELS = 50_000_000
_MAX_ENVIRONMENT_PIXELS = 2**25  # 8,192 x 4,096
_SCREEN_SIDE = 1024  # of photos while their light is being moved
_MOST_FACES = 12  # relit together: a crowd under official-512 would need gigabytes
_KEPT_BYTES = 2**29
# What decoding takes at most of each pixel beyond the usual limit: 16 bits with alpha, and EXR, are the most.
_DECODING_BYTES, _DECODING_SECONDS = 48, 3e-7  # a pixel


@dataclasses.dataclass(frozen=True)
class Wish:
  """The light that somebody wants.

  Attributes:
    direction: a key lamp and its fill; None is even light from everywhere.
    environment: an environment map that takes the lamp's place, or None.
    reference: a portrait whose light takes the lamp's place, or None.
    strength: exponent of the ratio, 0 to 3.
    kelvin: colour temperature of the lamps, in `color.COLOUR_TEMPERATURES`; `color.NEUTRAL` leaves colours alone.
    exposure: stops by which the lit side of a face becomes brighter than it is in the photo, -3 to 3.
    env_rotate: degrees by which the environment map is turned about the vertical, as `sh.turn`; -360 to 360.
    background: how much of the light's change, 0 to 1, the room around the persons takes.

  Raises:
    BadInput: a number out of its range.
  """

  direction: Direction | None
  environment: Path | None = None
  reference: Path | None = None
  strength: float = 1.0
  kelvin: float = NEUTRAL
  exposure: float = 0.0
  env_rotate: float = 0.0
  background: float = 0.0

  def __post_init__(self):
    ranges = {
      "strength": (self.strength, 0, 3),
      "colour temperature": (self.kelvin, *COLOUR_TEMPERATURES),
      "exposure": (self.exposure, -3, 3),
      "rotation of the map": (self.env_rotate, *AZIMUTHS),
      "room": (self.background, 0, 1),
    }
    if self.direction is not None:
      limits = (AZIMUTHS, ELEVATIONS, FILLS, SIZES)
      for name, value, limit in zip(("azimuth", "elevation", "fill", "lamp size"), self.direction, limits, strict=True):
        ranges[name] = (value, *limit)
    for name, (value, low, high) in ranges.items():
      if not isinstance(value, (int, float)) or not low <= value <= high:  # NaN is refused too
        raise BadInput(f"{name} {value}: must lie in {low:g} to {high:g}")


class RelightService:
  """Relights photos that lie in files; every method may be called by many threads. Use it in a `with` statement.

  Files are decoded in processes of their own (`decoder_process`). A photo is decoded and encoded when it is first asked
  for, at the size of a screen, and kept, with others, as long as they fit into half a gigabyte: moving its light then
  costs a decode. Files must not change.

  Args:
    weights: names or paths for `load_params`; the first is taken where none is named. No others are ever loaded.
    max_pixels: the most pixels of a photo that is decoded.
    face_finder: one of `face_finders.FACE_FINDERS`, or None: chosen by `face_finders.open_face_finder`.

  Raises:
    BadInput: as `load_params` and `open_face_finder`, and for weights of coloured lights.
  """

  def __init__(
    self, weights: tuple[str, ...] = ("default",), max_pixels: int = MAX_PIXELS, face_finder: str | None = None
  ):
    self.weights = tuple(weights)
    self._max_pixels = max_pixels
    self._relighters = {name: Relighter(name, face_finder=face_finder) for name in self.weights}
    self._finder, self._finder_lock = open_face_finder(face_finder), threading.Lock()
    self._kept = _Kept(_KEPT_BYTES)
    seconds = max(SECONDS, round(_DECODING_SECONDS * max_pixels))
    self._decoders = Decoders(seconds, MOST_BYTES + _DECODING_BYTES * max(0, max_pixels - MAX_PIXELS))

  def __enter__(self) -> "RelightService":
    return self

  def __exit__(self, *exception) -> None:
    with contextlib.ExitStack() as stack:  # closes the others, too, where one cannot be closed
      for each in (self._decoders, *self._relighters.values(), self._finder):
        stack.callback(each.close)

  def count_faces(self, path: str | os.PathLike) -> int:
    """How many faces a photo has.

    Raises:
      BadInput: it cannot be read, or has none.
    """
    return len(self._seen(path).faces)

  def screen_photo(self, path: str | os.PathLike) -> np.ndarray:
    """The photo at the size of a screen, `[H, W, 3]` uint8.

    Raises:
      BadInput: as `count_faces`.
    """
    return self._seen(path).pixels

  def source_light(self, path: str | os.PathLike, weights: str | None = None, face: int | None = None) -> Light:
    """The light on a photo as estimated, gray: of the face that is asked for, or of the largest.

    Raises:
      BadInput: as `relight`.
    """
    return self._encoded(path, weights, face).largest_face.source_light

  def light(self, wish: Wish, weights: str | None = None) -> Light:
    """The target light of a wish, its lamps in their colour.

    Raises:
      BadInput: an environment map or a portrait that cannot be used.
    """
    light = self._white_light(wish, weights)
    return light if wish.kelvin == NEUTRAL else light_module.tint_lamps(light, lamp_colour(wish.kelvin))

  def _white_light(self, wish: Wish, weights: str | None) -> Light:
    if wish.environment is not None:
      light = self._kept.get(
        (wish.environment, "environment"),
        lambda: self._environment_light(wish.environment),
      )
      return light_module.rotate(light, sh.turn(wish.env_rotate)) if wish.env_rotate else light
    if wish.reference is not None:
      name = self._name(weights)
      return self._kept.get((wish.reference, name, "light"), lambda: self._reference_light(wish.reference, name))
    return studio_light(wish.direction)

  def relight_for_screen(
    self, path: str | os.PathLike, wish: Wish, weights: str | None = None, face: int | None = None
  ) -> np.ndarray:
    """The photo under the light of a wish, at the size of a screen; the arguments are those of `relight`."""
    return _relight(self._encoded(path, weights, face), self.light(wish, weights), wish)

  def relight(self, path: str | os.PathLike, wish: Wish, weights: str | None = None, face: int | None = None) -> Photo:
    """The photo under the light of a wish, in full resolution, with all that belongs to it.

    Args:
      path: the photo.
      wish: the light.
      weights: one of `self.weights`, or None: the first.
      face: relight only this one, counted from 1, left to right; None relights all.

    Raises:
      BadInput: a photo that cannot be read, is too large, or has no face or not this one; too many faces for all; other
        weights; what `light` raises.
    """
    light = self.light(wish, weights)
    photo, portrait = self._encoded_in_full(path, weights, face)
    return dataclasses.replace(photo, pixels=_relight(portrait, light, wish))

  def passes(
    self, path: str | os.PathLike, wish: Wish, weights: str | None = None, face: int | None = None
  ) -> collections.abc.Iterator[tuple[str, Photo]]:
    """What compositors ask for, in full resolution, one after another (`pass_photos`); the arguments are those of
    `relight`.

    Raises:
      BadInput: as `relight`, and where the shape of a person is not known.
    """
    light = self.light(wish, weights)
    return pass_photos(self._encoded_in_full(path, weights, face)[1], light)

  def _encoded_in_full(self, path: str | os.PathLike, weights: str | None, face: int | None) -> tuple[Photo, Portrait]:
    relighter = self._relighters[self._name(weights)]
    faces = _chosen(path, self._seen(path).faces, face)
    photo = self._decoders.read_photo(path, self._max_pixels)
    return photo, relighter.encode(photo.pixels, faces=faces)

  def turn(
    self, path: str | os.PathLike, wish: Wish, frames: int, weights: str | None = None, face: int | None = None
  ) -> collections.abc.Iterator[np.ndarray]:
    """The photo at the size of a screen while the light goes once round the view axis, frame by frame."""
    encoded, light = self._encoded(path, weights, face), self.light(wish, weights)
    for k in range(frames):
      yield _relight(encoded, light_module.rotate(light, sh.roll(-360 * k / frames)), wish)

  def _name(self, weights: str | None) -> str:
    name = self.weights[0] if weights is None else weights
    if name not in self._relighters:
      raise BadInput(f"weights {name!r}: this server has {', '.join(self.weights)}")
    return name

  def _seen(self, path: str | os.PathLike) -> "_Seen":
    def see():
      pixels = self._decoders.read_photo(path, self._max_pixels).pixels
      with self._finder_lock:
        faces = self._finder.find(pixels)
      if not faces:
        raise BadInput(f"{Path(path).name}: no face found")
      return _Seen(pictures.shrink(to_8_bits(pixels), _SCREEN_SIDE), pixels.shape[1], faces)

    return self._kept.get((os.fspath(path), "photo"), see)

  def _encoded(self, path: str | os.PathLike, weights: str | None, face: int | None) -> Portrait:
    name = self._name(weights)

    def encode():
      seen = self._seen(path)
      return self._relighters[name].encode(seen.pixels, faces=_chosen(path, seen.screen_faces, face))

    return self._kept.get((os.fspath(path), name, face), encode)

  def _environment_light(self, path: Path) -> Light:
    return radiance_light(self._decoders.read_environment(path, _MAX_ENVIRONMENT_PIXELS), path)

  def _reference_light(self, path: Path, name: str) -> Light:
    seen = self._seen(path)
    largest = max(seen.screen_faces, key=lambda face: np.prod(face.box[2:] - face.box[:2]))
    return estimate_portrait_light(self._relighters[name].params, seen.pixels, largest)


class _Seen(NamedTuple):
  """A photo at the size of a screen, how wide it is in full, and where its faces are there."""

  pixels: np.ndarray
  full_width: int
  faces: list[Face]

  @property
  def screen_faces(self) -> list[Face]:
    """In the pixels of the screen."""
    scale = self.pixels.shape[1] / self.full_width
    return [Face(face.landmarks * scale, face.depth * scale) for face in self.faces]


def _chosen(path: str | os.PathLike, faces: list[Face], face: int | None) -> list[Face]:
  if face is None:
    if len(faces) > _MOST_FACES:
      raise BadInput(
        f"{Path(path).name}: has {len(faces)} faces; choose one (at most {_MOST_FACES} are relit together)"
      )
    return faces
  if not 1 <= face <= len(faces):
    raise BadInput(f"{Path(path).name}: has {len(faces)} face{'s'[: len(faces) > 1]}, there is no face {face}")
  return [faces[face - 1]]


def _relight(portrait: Portrait, light: Light, wish: Wish) -> np.ndarray:
  return portrait.relight(light, wish.strength, exposure=wish.exposure, background=wish.background)


class _Kept:
  """What has been computed, the least recently used of it forgotten first; nothing is computed twice at a time."""

  def __init__(self, most_bytes: int):
    self._most_bytes, self._bytes = most_bytes, 0
    self._lock = threading.Lock()
    self._values: collections.OrderedDict[Hashable, tuple[Any, int]] = collections.OrderedDict()
    self._making: dict[Hashable, threading.Event] = {}

  def get(self, key: Hashable, make: Callable[[], Any]) -> Any:
    """The value of `key`, made where it is not at hand. An error of `make` reaches only its own caller: who waited for
    the value tries anew.
    """
    while True:
      with self._lock:
        if key in self._values:
          self._values.move_to_end(key)
          return self._values[key][0]
        made = self._making.get(key)
        if made is None:
          mine = self._making[key] = threading.Event()
          break
      made.wait()
    try:
      value = make()
      self._keep(key, value)
      return value
    finally:
      with self._lock:
        del self._making[key]
      mine.set()

  def _keep(self, key: Hashable, value: Any) -> None:
    size = _bytes(value)
    with self._lock:
      self._values[key] = value, size
      self._bytes += size
      while self._bytes > self._most_bytes:
        _, (_, freed) = self._values.popitem(last=False)
        self._bytes -= freed


def _bytes(value: Any) -> int:
  """Of all arrays in a portrait, a tuple or an array."""
  parts = (value.pixels, value.faces) if isinstance(value, Portrait) else value
  return sum(leaf.nbytes for leaf in jax.tree.leaves(parts) if hasattr(leaf, "nbytes"))
