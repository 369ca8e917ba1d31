"""A photo of anybody, anywhere: relight every face in the framing the networks know, and carry the change back.

The networks were trained on square portraits framed like CelebA-HQ, at 512 or 1024 pixels. A face is cut out that way
(turned upright if the head leans, and the light turned with it), relit, and what returns to the photo is not the
network's picture but the *ratio* of new to old linear light: at the photo's own resolution every pore and hair stays,
and away from the head nothing changes.
"""

from collections.abc import Callable, Iterator, Sequence

import jax.numpy as jnp
import numpy as np
from numpy.typing import DTypeLike

from dpr_jax.base.native_libraries import import_native
from dpr_jax.image import color
from dpr_jax.image.photo import PIXEL_TYPES
from dpr_jax.light import exposure, sh
from dpr_jax.light.light import MAX_LAMPS, Light, as_light, luminance, rotate, with_lamps
from dpr_jax.network import traced
from dpr_jax.network.networks import traits_of
from dpr_jax.portrait import person_shape
from dpr_jax.portrait.edits import Edit, apply_edits, within_stops
from dpr_jax.portrait.faces import Face, frame_face
from dpr_jax.portrait.framed_face import FramedFace, Person, encode_square, weigh_square, with_person
from dpr_jax.portrait.person import Segmenter, find_person
from dpr_jax.portrait.relighting import Params, log_ratio
from dpr_jax.portrait.room import room_log_ratio
from dpr_jax.portrait.square import cut_square, warp_to_photo

cv2 = import_native("cv2")

# Lamps that a network renders at a time, so that few shapes are compiled.
_LAMP_COUNTS = (1, MAX_LAMPS)
# The side of what the key of a face is taken from, and the least that it can be.
_KEY_SIDE, _LEAST_KEY = 64, 1e-4
# The guided filter that ties the ratio to the photo's luminance: its radius in a square of 512, and the variance of
# L / 100 from which on it keeps an edge.
_GUIDE_RADIUS = 4
_GUIDE_EPSILON = 0.02**2
# How many stops brighter and darker what is only guessed of a person gets at most.
_GUESSED_STOPS = (1.0, 2.0)

_BAND = 64  # rows of a pass that are made at a time

PASSES = ("matte", "normals", "depth", "shading", "shadow")


class Portrait:
  """A photo whose faces have been encoded: every further light costs only a decode.

  Attributes:
    pixels: the photo, `[H, W, 3]` RGB, uint8 or uint16; or float32, linear light.
    faces: one `FramedFace` a face.
  """

  def __init__(
    self,
    params: Params,
    pixels: np.ndarray,
    faces: Sequence[Face],
    size: int | None = None,
    *,
    segmenter: Segmenter | None = None,
    others: Sequence[Face] = (),
    dtype: jnp.dtype | None = None,
    call: Callable = traced.call,
  ):
    """Encodes the faces.

    Args:
      params: from `load_params`.
      pixels: `[H, W, 3]` RGB, uint8 or uint16; or float32, linear light.
      faces: from `find_faces`, at least one.
      size: side of the square that the network sees; None: the one it was trained at.
      segmenter: from `open_segmenter`, finds the persons of the faces; None: the light ends around the heads.
      others: faces that are to keep their light, and their persons with them.
      dtype: compute type of the convolutions.
      call: runs the network's functions, as `traced.call` does.

    Raises:
      ValueError: pixels of another shape or type, or no faces.
    """
    if pixels.ndim != 3 or pixels.shape[-1] != 3 or pixels.dtype not in PIXEL_TYPES:
      raise ValueError(f"pixels must be [H, W, 3] uint8, uint16 or float32, not {list(pixels.shape)} {pixels.dtype}")
    if not faces:
      raise ValueError("a portrait needs at least one face")
    self.pixels = pixels
    self._params, self._dtype, self._call = params, dtype, call
    size = traits_of(params).native_size if size is None else size
    everybody = [*faces, *others]
    self.faces = tuple(
      self._encode(face, size, segmenter, [other for other in everybody if other is not face]) for face in faces
    )

  @classmethod
  def of_framed(cls, params: Params, pixels: np.ndarray, faces: Sequence[FramedFace]) -> "Portrait":
    """A portrait whose faces have been encoded already, by `encode_square`; arguments as of the constructor."""
    portrait = cls.__new__(cls)
    portrait.pixels, portrait.faces = pixels, tuple(faces)
    portrait._params, portrait._dtype, portrait._call = params, None, traced.call
    return portrait

  @property
  def largest_face(self) -> FramedFace:
    """The face that fills most of the photo: the one whose square is a picture of it from farthest away."""
    return min(self.faces, key=lambda face: abs(np.linalg.det(face.framing.matrix[:, :2])))

  def _encode(self, face: Face, size: int, segmenter: Segmenter | None, others: Sequence[Face]) -> FramedFace:
    framing = frame_face(face, size)
    square = cut_square(self.pixels, framing)
    matte = segmenter and find_person(segmenter, self.pixels, face, framing, others)
    weight = weigh_square(square, framing, face, self.pixels.shape, matte)
    framed = encode_square(self._params, square, framing, face, weight, dtype=self._dtype, call=self._call)
    return framed if matte is None else with_person(framed, matte)

  def relight(
    self,
    light: Light | np.ndarray,
    strength: float = 1.0,
    *,
    exposure: float = 0.0,
    background: float = 0.0,
    backdrop: np.ndarray | None = None,
  ) -> np.ndarray:
    """The photo under another light.

    Each face keeps the key of the photo: the 90th percentile of the linear luminance of its skin.

    Args:
      light: in the photo's coordinates, gray or RGB; or nine numbers, `[9]`, a soft light.
      strength: exponent of the ratio: 0 leaves the photo as it is, 1 is the light as asked for.
      exposure: by how many stops the key of the faces gets brighter.
      background: how much of the light's change, 0 to 1, the room around the persons takes.
      backdrop: what to put the persons before, `[H, W, 3]`, of the photo's shape and type; None: where they are.

    Returns:
      Pixels of the photo's shape and type. With neither background nor backdrop, pixels that no person's light reaches
      are the photo's own, bit for bit.

    Raises:
      ValueError: a light of another shape, or one with values that are not finite; a backdrop of another shape or
        type, or one where `has_mattes` is false.
    """
    light = as_light(light)
    if backdrop is not None and (backdrop.shape, backdrop.dtype) != (self.pixels.shape, self.pixels.dtype):
      raise ValueError(f"a backdrop must be {list(self.pixels.shape)} {self.pixels.dtype}")
    if backdrop is not None and not self.has_mattes:
      raise ValueError("no matte of these persons, so that nothing can be put behind them")
    edits, gains = zip(*(self._edit(face, light, exposure) for face in self.faces), strict=True)
    room = None
    if background and backdrop is None:
      room = background * self._room_log_ratio(light, gains)
    return apply_edits(self.pixels, edits, strength, room, backdrop)

  def _room_log_ratio(self, light: Light, gains: Sequence[float]) -> np.ndarray:
    """`room_log_ratio` by the light on each face, the mean by their areas, so that in films nothing switches; as far as
    the faces are present.
    """
    presences = np.array([face.presence for face in self.faces], np.float32)
    areas = np.array([1 / abs(np.linalg.det(face.framing.matrix[:, :2])) for face in self.faces], np.float32)
    rooms = [room_log_ratio(face.source_light, light, gain) for face, gain in zip(self.faces, gains, strict=True)]
    weights = (presences + np.float32(1e-6)) * areas  # a mean also where all of them are only coming
    return presences.max() * np.tensordot(weights / weights.sum(), np.stack(rooms), 1)

  @property
  def has_mattes(self) -> bool:
    """Whether it is known of every face's person which pixels are theirs."""
    return all(face.matte is not None for face in self.faces)

  def passes(self, light: Light | np.ndarray) -> dict[str, np.ndarray]:
    """What compositors ask for, in [0, 1], each `[H, W]` or `[H, W, 3]` float32; 0 where nobody is.

    `matte`: coverage. `normals`: right, up and towards the viewer, (n + 1) / 2. `depth`: height towards the viewer, the
    nearest point of each person 1 and the farthest 0. `shading`: irradiance under the light, 0.5 at its
    90th percentile over the skin. `shadow`: how much of the lamps is seen, 0 in the shadow.

    Raises:
      ValueError: where `has_shapes` is false, or the light is of another shape.
    """
    return dict(self.each_pass(light))

  def each_pass(self, light: Light | np.ndarray, dtype: DTypeLike = np.float32) -> Iterator[tuple[str, np.ndarray]]:
    """The names and values of `passes`, made one at a time: all of them of a large photo take gigabytes.

    Args:
      light: as of `passes`.
      dtype: float32; or an unsigned integer, whose most is 1.

    Raises:
      ValueError: as `passes`, when the first one is asked for.
    """
    if not self.has_shapes:
      raise ValueError("no shape is known of these persons")
    light = _of_few_shapes(as_light(light))
    shapes = [face.person.shape for face in self.faces]
    cells = [person_shape.passes(shape, light) for shape in shapes]
    for name in PASSES:
      if name == "matte":
        yield name, self._in_bands(1, None, dtype)
        continue
      values = [person_shape.beyond_the_outline(*each) for each in zip(shapes, (c[name] for c in cells), strict=True)]
      yield name, self._in_bands(values[0].shape[-1], values, dtype)

  def _in_bands(self, channels: int, values: Sequence[np.ndarray] | None, dtype: DTypeLike) -> np.ndarray:
    """A pass of the whole photo, `[H, W]` or `[H, W, channels]`, of each person's cells; None: the persons' coverage.

    A band of rows at a time, so that little beside the result takes memory.
    """
    height, width = self.pixels.shape[:2]
    whole = np.empty((height, width, channels), dtype)
    most = np.iinfo(dtype).max if whole.dtype.kind == "u" else None
    for top in range(0, height, _BAND):
      band = whole[top : top + _BAND]
      shape = band.shape[:2]
      alphas = [warp_to_photo(face.matte.alpha, face.matte.matrix, 0, top, shape)[..., None] for face in self.faces]
      total = sum(alphas)
      if values is None:
        mixed = total
      else:
        mixed = np.zeros(band.shape, np.float32)
        for face, alpha, own in zip(self.faces, alphas, values, strict=True):
          there = warp_to_photo(own, face.person.shape.matrix, 0, top, shape, cv2.BORDER_REPLICATE)
          mixed += alpha * there.reshape(band.shape)
        mixed /= np.maximum(total, 1)
      mixed = np.clip(mixed, 0, 1)
      band[:] = mixed if most is None else np.rint(most * mixed)
    return whole[..., 0] if channels == 1 else whole

  @property
  def has_shapes(self) -> bool:
    """Whether the shape of every face's person is known."""
    return all(face.person is not None for face in self.faces)

  def _edit(self, face: FramedFace, light: Light, stops: float) -> tuple[Edit, float]:
    """What a light changes around a face and on its person, and the log of the gain by which the face keeps its key."""
    ratio, gain = self._log_ratio(face, light)
    brighter = np.log(2) * stops
    lines = _local_lines(face.luminance, within_stops(ratio + gain + brighter))
    maps = np.dstack([lines.reshape(*face.weight.shape, -1), face.weight]).astype(np.float32)
    if face.person is None:
      return Edit(face.framing, maps, face.matte), gain + brighter
    beyond = _person_log_ratio(face.person, light, gain) + np.float32(brighter)
    return Edit(face.framing, maps, face.matte, face.person.shape.matrix, beyond), gain + brighter

  def _log_ratio(self, face: FramedFace, light: Light) -> tuple[np.ndarray, float]:
    """The logarithm of new over old linear light in the square, `[S, S, C]`, and what to add to keep the key."""
    # A published network, too, is told of it as of lamps: scaled to a brightness that it knows.
    upright = _of_few_shapes(rotate(light, sh.roll(face.framing.roll)))
    batch = Light(*(part[None] for part in upright))
    lightness = face.luminance[None, ..., None]
    ratio = self._call(log_ratio, self._params, face.encoding, lightness, batch, dtype=self._dtype)
    ratio = np.asarray(ratio)[0]
    before = color.luminance_of_lightness(face.luminance)
    after = luminance(before[..., None] * np.exp(ratio))
    return ratio, float(np.log(_key(before, face.skin) / _key(after, face.skin)))


def _of_few_shapes(light: Light) -> Light:
  """The light with lamps that are off added, so that few shapes are compiled.

  Raises:
    ValueError: it has more than `MAX_LAMPS`.
  """
  lamps = len(light.towards)
  if lamps > MAX_LAMPS:
    raise ValueError(f"a light of {lamps} lamps; at most {MAX_LAMPS} are rendered")
  return with_lamps(light, next(count for count in _LAMP_COUNTS if count >= lamps))


def _person_log_ratio(person: Person, light: Light, gain: float) -> np.ndarray:
  """The logarithm of new over old linear light on a whole person, `[N, N, C]`."""
  lit = person_shape.shading(person.shape, _of_few_shapes(light))
  ratio = np.log(lit) - np.log(person.shading) + gain
  # Where shape is guessed from an outline, less is changed: burnt white shirts tell of every error.
  change = np.log(luminance(np.exp(ratio)))
  limit = np.log(2) * np.where(change > 0, *_GUESSED_STOPS)
  ratio += ((1 - person.shape.known) * (limit * np.tanh(change / limit) - change))[..., None]
  return person_shape.beyond_the_outline(person.shape, within_stops(ratio))


def _key(luminance: np.ndarray, skin: np.ndarray) -> float:
  """`exposure.key` of a small picture of a square; sorting all of a large one would take longer than the network."""
  side = min(_KEY_SIDE, len(luminance))
  small = (cv2.resize(picture, (side, side), interpolation=cv2.INTER_AREA) for picture in (luminance, skin))
  return max(float(exposure.key(*small)), _LEAST_KEY)


def _local_lines(guide: np.ndarray, log_ratio: np.ndarray) -> np.ndarray:
  """Each channel of a log ratio in the square, as a local line a * L + b: `[S, S, C, 2]`."""
  radius = max(1, round(_GUIDE_RADIUS * len(guide) / 512))
  channels = range(log_ratio.shape[-1])
  return np.stack([_local_line(guide, log_ratio[..., c], radius, _GUIDE_EPSILON) for c in channels], axis=-2)


def _local_line(guide: np.ndarray, target: np.ndarray, radius: int, epsilon: float) -> np.ndarray:
  """The guided filter's local linear model, target = a * guide + b (He et al. 2013, equations 5, 6 and 8).

  Kept as a and b instead of being evaluated: enlarged to the photo and evaluated on the photo's own luminance, they
  give a ratio that follows edges which the small square does not even hold (He & Sun 2015, fast guided filter).

  Args:
    guide: `[S, S]`.
    target: `[S, S]`.
    radius: of the box window.
    epsilon: variance of the guide below which a window counts as flat.

  Returns:
    `[S, S, 2]`: a and b.
  """

  def mean(x):
    return cv2.blur(x, (2 * radius + 1, 2 * radius + 1))

  mean_guide, mean_target = mean(guide), mean(target)
  variance = mean(guide * guide) - mean_guide**2
  a = (mean(guide * target) - mean_guide * mean_target) / (variance + epsilon)
  return np.stack([mean(a), mean(mean_target - a * mean_guide)], axis=-1)
