"""A photo of anybody, anywhere: relight every face in the framing the networks know, and carry the change back.

The networks were trained on square portraits framed like CelebA-HQ, at 512 or 1024 pixels. A face is cut out that way
(turned upright if the head leans, and the light turned with it), relit, and what returns to the photo is not the
network's picture but the *ratio* of new to old linear light: at the photo's own resolution every pore and hair stays,
and away from the head nothing changes.
"""

import math
from collections.abc import Callable, Iterator, Sequence
from typing import NamedTuple

import jax.numpy as jnp
import numpy as np
from numpy.typing import DTypeLike

from dpr_jax.base.native_libraries import import_native
from dpr_jax.image import color
from dpr_jax.image.photo import PIXEL_TYPES, to_8_bits
from dpr_jax.light import exposure, sh
from dpr_jax.light.light import MAX_LAMPS, Light, as_light, luminance, rotate, with_lamps
from dpr_jax.network import traced
from dpr_jax.network.encoding import Encoding
from dpr_jax.network.networks import traits_of
from dpr_jax.network.shape import RatioEncoding
from dpr_jax.portrait import person_shape
from dpr_jax.portrait.edits import Edit, apply_edits, within_stops
from dpr_jax.portrait.faces import OVAL, Face, Framing, frame_face
from dpr_jax.portrait.landmark_mesh import mesh_surface
from dpr_jax.portrait.matte import head_weight
from dpr_jax.portrait.person import Matte, Segmenter, find_person
from dpr_jax.portrait.person_shape import PersonShape
from dpr_jax.portrait.relighting import Params, decode_luminance, encode_luminance, log_ratio
from dpr_jax.portrait.room import room_log_ratio
from dpr_jax.portrait.square import cut_square, edge_inside, warp_to_photo

cv2 = import_native("cv2")

# Lamps that a network renders at a time, so that few shapes are compiled.
_LAMP_COUNTS = (1, MAX_LAMPS)
# The side of what the key of a face is taken from, and the least that it can be.
_KEY_SIDE, _LEAST_KEY = 64, 1e-4
_SKIN_FINER = 4
# `WholePhoto` with a strength: luminance (L / 100) added to both sides of the ratio.
_RATIO_OFFSET = 0.04
# The guided filter that ties the ratio to the photo's luminance: its radius in a square of 512, and the variance of
# L / 100 from which on it keeps an edge.
_GUIDE_RADIUS = 4
_GUIDE_EPSILON = 0.02**2
# How many stops brighter and darker what is only guessed of a person gets at most.
_GUESSED_STOPS = (1.0, 2.0)

_BAND = 64  # rows of a pass that are made at a time

PASSES = ("matte", "normals", "depth", "shading", "shadow")


class FramedFace(NamedTuple):
  """A face as the network has seen it; all it takes to put it under any light.

  Attributes:
    framing: where it is.
    luminance: L / 100 in the square, `[S, S]`.
    weight: how much of the relighting each pixel of the square receives, `[S, S]`.
    skin: 1 inside the oval of the face, else 0, `[S, S]`.
    encoding: the network's encoding of `luminance`.
    source_light: the light on this face as estimated, gray, in the photo's coordinates.
    matte: which pixels of the photo are the person's; None: nobody has looked.
    person: the shape of the whole person, which follows the light beyond the square, and then `weight` is how much of
      the light's change is the square's; None: the light ends with the weight.
  """

  framing: Framing
  luminance: np.ndarray
  weight: np.ndarray
  skin: np.ndarray
  encoding: Encoding | RatioEncoding
  source_light: Light
  matte: Matte | None = None
  person: "Person | None" = None


class Person(NamedTuple):
  """The whole person of a face, where the network knows shape.

  Attributes:
    shape: of the whole person.
    shading: of `shape` under the photo's own light, `[N, N, 1]`.
  """

  shape: PersonShape
  shading: np.ndarray


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
      largest = self.largest_face
      [gain] = (gain for face, gain in zip(self.faces, gains, strict=True) if face is largest)
      room = background * room_log_ratio(largest.source_light, light, gain)
    return apply_edits(self.pixels, edits, strength, room, backdrop)

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


class WholePhoto:
  """The authors' own procedure, for photos that are framed like the training data: no faces are looked for.

  The whole photo is resized to the network's square, L is replaced, and the square is resized back; so it costs the
  detail that a square of 512 or 1024 cannot hold. 8 bits, as the authors' demo, digit for digit.

  Attributes:
    pixels: the photo, `[H, W, 3]` uint8 RGB.
    source_light: its light as estimated, gray.
  """

  def __init__(self, params: Params, pixels: np.ndarray, size: int = 512, *, dtype: jnp.dtype | None = None):
    """Encodes the photo.

    Args:
      params: from `load_params`.
      pixels: `[H, W, 3]` RGB, uint8 or uint16; or float32, linear light.
      size: side of the square that the network sees.
      dtype: compute type of the convolutions.
    """
    self.pixels = to_8_bits(pixels)
    self._params, self._dtype = params, dtype
    square = cv2.resize(np.ascontiguousarray(self.pixels), (size, size))
    self._lab = cv2.cvtColor(square, cv2.COLOR_RGB2LAB)
    self._luminance = self._lab[..., 0].astype(np.float32) / 255
    self._encoding = encode_luminance(params, self._luminance[None, ..., None], dtype=dtype)
    self.source_light = _first_light(self._encoding)

  def relight(self, light: np.ndarray, strength: float = 1.0, *, brightness: float = 1.0) -> np.ndarray:
    """The photo under another light, `[H, W, 3]` uint8.

    Args:
      light: nine numbers, `[9]`.
      strength: exponent of the ratio of new to old L.
      brightness: a factor on the numbers that a published network is told. Ours keeps the photo's key whatever the
        brightness of a light, so that there it is a factor on that key.
    """
    light = np.asarray(light, np.float32)
    if light.shape != (9,) or not np.isfinite(light).all():
      raise ValueError(f"a light must be 9 finite numbers, not {light}")
    options = {"size": self._luminance.shape, "dtype": self._dtype}
    if isinstance(self._encoding, RatioEncoding):
      options["exposure_stops"] = math.log2(brightness)
    light = light[None] * np.float32(brightness)
    relit = np.asarray(decode_luminance(self._params, self._encoding, light, **options))[0, ..., 0]
    if strength != 1:
      log_ratio = np.log((relit + _RATIO_OFFSET) / (self._luminance + _RATIO_OFFSET))
      relit = np.clip((self._luminance + _RATIO_OFFSET) * np.exp(strength * log_ratio) - _RATIO_OFFSET, 0, 1)
    lab = self._lab.copy()
    lab[..., 0] = (relit * 255).astype(np.uint8)  # truncated, as the authors do
    return cv2.resize(cv2.cvtColor(lab, cv2.COLOR_LAB2RGB), self.pixels.shape[1::-1])


def weigh_square(
  square: np.ndarray, framing: Framing, face: Face, shape: tuple[int, ...], matte: Matte | None = None
) -> np.ndarray:
  """How much of the relighting each pixel of a framed face receives; see `head_weight`.

  Args:
    square: `[S, S, 3]` uint8 RGB, from `cut_square`.
    framing: where the square lies.
    face: the face in it, in pixels of the photo.
    shape: of the photo.
    matte: of the person; None: the head is looked for in the square.

  Returns:
    `[S, S]` float32 in [0, 1].
  """
  landmarks, edge = _landmarks_in_square(face, framing), edge_inside(framing, shape)
  return head_weight(square, landmarks, edge, None if matte is None else _in_square(matte, framing))


def _in_square(matte: Matte, framing: Framing) -> np.ndarray:
  """The share of each pixel of a square that is a person's light, `[S, S]`."""
  to_photo = np.linalg.inv(np.vstack([framing.index_matrix, [0, 0, 1]]))
  matrix = (np.vstack([matte.matrix, [0, 0, 1]]) @ to_photo)[:2]
  flags = cv2.INTER_LINEAR | cv2.WARP_INVERSE_MAP
  return cv2.warpAffine(matte.share, matrix, (framing.size, framing.size), flags=flags, borderMode=cv2.BORDER_REPLICATE)


def with_person(face: FramedFace, matte: Matte) -> FramedFace:
  """A framed face with its person, who follows the light as a whole if the network knows shape."""
  face = face._replace(matte=matte)
  if not isinstance(face.encoding, RatioEncoding):
    return face
  shape = person_shape.person_shape(matte, face.framing, face.encoding.shape)
  own = person_shape.shading(shape, face.source_light)
  return face._replace(weight=person_shape.edge_weight(face.framing.size), person=Person(shape, own))


def skin_of(face: Face, framing: Framing) -> np.ndarray:
  """The oval of a face in its square, `[S, S]` float32, 1 inside, at its edge the share of a pixel that it covers."""
  oval = _landmarks_in_square(face, framing)[OVAL]
  # Drawn finer: of whole pixels a mirrored face would have more or fewer, and so another key.
  side = framing.size * _SKIN_FINER
  skin = np.zeros((side, side), np.uint8)
  cv2.fillConvexPoly(skin, cv2.convexHull(np.round((oval + 0.5) * _SKIN_FINER - 0.5).astype(np.int32)), 255)
  return cv2.resize(skin, (framing.size, framing.size), interpolation=cv2.INTER_AREA) / np.float32(255)


def _landmarks_in_square(face: Face, framing: Framing) -> np.ndarray:
  """`[478, 2]`, in pixels of the square counted from the middle of its first, as OpenCV counts."""
  return face.landmarks @ framing.matrix[:, :2].T + framing.matrix[:, 2] - 0.5


def encode_square(
  params: Params,
  square: np.ndarray,
  framing: Framing,
  face: Face,
  weight: np.ndarray,
  *,
  dtype: jnp.dtype | None = None,
  call: Callable = traced.call,
) -> FramedFace:
  """A framed face as the network sees it.

  Args:
    params: from `load_params`.
    square: `[S, S, 3]` RGB in gray levels, 0 to 255, uint8 or floating point.
    framing: where the square lies.
    face: the face in it, in pixels of the photo.
    weight: `[S, S]`, from `weigh_square`.
    dtype: compute type of the convolutions.
    call: as for `Portrait`.
  """
  lightness, encoding, source_light = _see(params, square, framing, face, dtype, call)
  return FramedFace(framing, lightness, weight, skin_of(face, framing), encoding, source_light)


def estimate_portrait_light(params: Params, pixels: np.ndarray, face: Face, size: int | None = None) -> Light:
  """The light on one face of a photo, gray, in the photo's coordinates; the arguments are those of `Portrait`."""
  framing = frame_face(face, traits_of(params).native_size if size is None else size)
  return _see(params, cut_square(pixels, framing), framing, face)[2]


def _see(
  params: Params,
  square: np.ndarray,
  framing: Framing,
  face: Face,
  dtype: jnp.dtype | None = None,
  call: Callable = traced.call,
) -> tuple[np.ndarray, Encoding | RatioEncoding, Light]:
  """What the network sees in a framed face: L / 100 `[S, S]`, its encoding, and the light in the photo."""
  lightness = color.srgb_to_lab(square.astype(np.float32) / 255)[..., 0] / 100
  surface = ()
  network = traits_of(params)
  if network.shape_cell and face.depth is not None and len(square) % network.size_multiple == 0:
    surface = (mesh_surface(face, framing, len(square) // network.shape_cell),)
  encoding = call(encode_luminance, params, lightness[None, ..., None], *surface, dtype=dtype)
  return lightness, encoding, rotate(_first_light(encoding), sh.roll(-framing.roll))


def _first_light(encoding: Encoding | RatioEncoding) -> Light:
  """The light of the first photo of a batch, NumPy."""
  if isinstance(encoding, RatioEncoding):
    return Light(*(np.asarray(part)[0] for part in encoding.light))
  return as_light(np.asarray(encoding.light)[0])


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
