"""A photo of anybody, anywhere: relight every face in the framing the networks know, and carry the change back.

The networks were trained on square portraits framed like CelebA-HQ, at 512 or 1024 pixels. A face is cut out that way
(turned upright if the head leans, and the light turned with it), relit, and what returns to the photo is not the
network's picture but the *ratio* of new to old luminance: at the photo's own resolution every pore and hair stays, and
away from the head nothing changes.
"""

import os
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from typing import NamedTuple

import numpy as np

from dpr_jax import color, sh
from dpr_jax.faces import Face, Framing, frame_face
from dpr_jax.hourglass import Encoding
from dpr_jax.matte import head_weight
from dpr_jax.native_libraries import import_native
from dpr_jax.photo import to_8_bits
from dpr_jax.relighting import Params, decode_luminance, encode_luminance

cv2 = import_native("cv2")

# Luminance (L / 100) added to both sides of the ratio: black stays black, and noise in shadows is not amplified.
_RATIO_OFFSET = 0.04
_MAX_LOG_RATIO = np.log(12)
# L + 16, a and b are all proportional to the cube root of the light, but for the darkest colours.
_LAB_BLACK = 16
# The guided filter that ties the ratio to the photo's luminance: its radius in a square of 512, and the variance of
# L / 100 from which on it keeps an edge.
_GUIDE_RADIUS = 4
_GUIDE_EPSILON = 0.02**2
# A photo is edited in strips, so that memory does not grow with it.
_STRIP_ROWS = 128
_STRIP_THREADS = min(4, os.cpu_count() or 1)


class FramedFace(NamedTuple):
  """A face as the network has seen it; all it takes to put it under any light.

  Attributes:
    framing: where it is.
    luminance: L / 100 in the square, `[S, S]`.
    weight: how much of the relighting each pixel of the square receives, `[S, S]`.
    encoding: the network's encoding of `luminance`.
    source_light: `[9]`, the light on this face as estimated, in the photo's coordinates.
  """

  framing: Framing
  luminance: np.ndarray
  weight: np.ndarray
  encoding: Encoding
  source_light: np.ndarray


class Portrait:
  """A photo whose faces have been encoded: every further light costs only a decode.

  Attributes:
    pixels: the photo, `[H, W, 3]` RGB, uint8 or uint16.
    faces: one `FramedFace` a face.
  """

  def __init__(self, params: Params, pixels: np.ndarray, faces: Sequence[Face], size: int = 512, *, dtype=None):
    """Encodes the faces.

    Args:
      params: from `load_params`.
      pixels: `[H, W, 3]` RGB, uint8 or uint16.
      faces: from `find_faces`, at least one.
      size: side of the square that the network sees, 512 or 1024 for the networks of those names.
      dtype: compute type of the convolutions.

    Raises:
      ValueError: pixels of another shape or type, or no faces.
    """
    if pixels.ndim != 3 or pixels.shape[-1] != 3 or pixels.dtype not in (np.uint8, np.uint16):
      raise ValueError(f"pixels must be [H, W, 3] uint8 or uint16, not {list(pixels.shape)} {pixels.dtype}")
    if not faces:
      raise ValueError("a portrait needs at least one face")
    self.pixels = pixels
    self._params, self._dtype = params, dtype
    self.faces = tuple(self._encode(face, size) for face in faces)

  @classmethod
  def of_framed(cls, params: Params, pixels: np.ndarray, faces: Sequence[FramedFace], *, dtype=None) -> "Portrait":
    """A portrait whose faces have been encoded already, by `encode_square`; arguments as of the constructor."""
    portrait = cls.__new__(cls)
    portrait.pixels, portrait.faces = pixels, tuple(faces)
    portrait._params, portrait._dtype = params, dtype
    return portrait

  def _encode(self, face: Face, size: int) -> FramedFace:
    framing = frame_face(face, size)
    square = cut_square(self.pixels, framing)
    weight = weigh_square(square, framing, face, self.pixels.shape)
    return encode_square(self._params, square, framing, weight, dtype=self._dtype)

  def relight(
    self,
    light: np.ndarray,
    strength: float = 1.0,
    *,
    lamp_colour: np.ndarray | None = None,
    ambient: float = 0.0,
  ) -> np.ndarray:
    """The photo under another light.

    Args:
      light: `[9]`, in the photo's coordinates.
      strength: exponent of the ratio: 0 leaves the photo as it is, 1 is the light as asked for.
      lamp_colour: `[3]` linear RGB of luminance 1 (`color.lamp_colour`): what the light does not send evenly from
        everywhere has this colour; None is white.
      ambient: the share of `light` that comes evenly from everywhere and stays white.

    Returns:
      Pixels of the photo's shape and type. Pixels that no face's square reaches are the photo's own, bit for bit.

    Raises:
      ValueError: a light of another shape, or one with values that are not finite.
    """
    light = _checked(light)
    edits = []
    for face in self.faces:
      relit = self._relit(face, light)
      tint = None if lamp_colour is None else self._tint(face, light, relit, ambient)
      edits.append((face, self._log_ratio(face, relit), tint))
    return _carry(self.pixels, edits, strength, lamp_colour)

  def _relit(self, face: FramedFace, light: np.ndarray) -> np.ndarray:
    """L / 100 in the square under a light, `[S, S]`."""
    upright = sh.rotate(light, sh.roll(face.framing.roll))
    size = face.luminance.shape
    relit = decode_luminance(self._params, face.encoding, upright[None], size=size, dtype=self._dtype)
    return np.asarray(relit)[0, ..., 0]

  def _tint(self, face: FramedFace, light: np.ndarray, relit: np.ndarray, ambient: float) -> np.ndarray:
    """The lamp's share of the light on each pixel of the square, `[S, S]`: what is missing under even light alone."""
    if not ambient:
      return np.ones_like(relit)
    even = self._relit(face, np.float32(np.eye(9)[0] * ambient * light[0]))
    share = 1 - _linear_luminance(even) / np.maximum(_linear_luminance(relit), 1e-3)
    return cv2.blur(np.clip(share, 0, 1), (9, 9))  # where it is dark, shares are noise

  def _log_ratio(self, face: FramedFace, relit: np.ndarray) -> np.ndarray:
    """The new over the old luminance in the square, as a local line: log ratio = a * L + b; `[S, S, 2]`."""
    size = face.luminance.shape
    log_ratio = np.log((relit + _RATIO_OFFSET) / (face.luminance + _RATIO_OFFSET))
    log_ratio = np.clip(log_ratio, -_MAX_LOG_RATIO, _MAX_LOG_RATIO)
    return _local_line(face.luminance, log_ratio, max(1, round(_GUIDE_RADIUS * size[0] / 512)), _GUIDE_EPSILON)


class WholePhoto:
  """The authors' own procedure, for photos that are framed like the training data: no faces are looked for.

  The whole photo is resized to the network's square, L is replaced, and the square is resized back; so it costs the
  detail that a square of 512 or 1024 cannot hold. 8 bits, as the authors' demo, digit for digit.

  Attributes:
    pixels: the photo, `[H, W, 3]` uint8 RGB.
    source_light: `[9]`, its light as estimated.
  """

  def __init__(self, params: Params, pixels: np.ndarray, size: int = 512, *, dtype=None):
    """Encodes the photo.

    Args:
      params: from `load_params`.
      pixels: `[H, W, 3]` RGB, uint8 or uint16.
      size: side of the square that the network sees.
      dtype: compute type of the convolutions.
    """
    self.pixels = to_8_bits(pixels)
    self._params, self._dtype = params, dtype
    square = cv2.resize(np.ascontiguousarray(self.pixels), (size, size))
    self._lab = cv2.cvtColor(square, cv2.COLOR_RGB2LAB)
    self._luminance = self._lab[..., 0].astype(np.float32) / 255
    self._encoding = encode_luminance(params, self._luminance[None, ..., None], dtype=dtype)
    self.source_light = np.asarray(self._encoding.light)[0]

  def relight(self, light: np.ndarray, strength: float = 1.0) -> np.ndarray:
    """The photo under another light, `[H, W, 3]` uint8; see `Portrait.relight`."""
    light = _checked(light)[None]
    relit = decode_luminance(self._params, self._encoding, light, size=self._luminance.shape, dtype=self._dtype)
    relit = np.asarray(relit)[0, ..., 0]
    if strength != 1:
      log_ratio = np.log((relit + _RATIO_OFFSET) / (self._luminance + _RATIO_OFFSET))
      relit = np.clip((self._luminance + _RATIO_OFFSET) * np.exp(strength * log_ratio) - _RATIO_OFFSET, 0, 1)
    lab = self._lab.copy()
    lab[..., 0] = (relit * 255).astype(np.uint8)  # truncated, as the authors do
    return cv2.resize(cv2.cvtColor(lab, cv2.COLOR_LAB2RGB), self.pixels.shape[1::-1])


def weigh_square(square: np.ndarray, framing: Framing, face: Face, shape: tuple[int, ...]) -> np.ndarray:
  """How much of the relighting each pixel of a framed face receives; see `head_weight`.

  Args:
    square: `[S, S, 3]` uint8 RGB, from `cut_square`.
    framing: where the square lies.
    face: the face in it, in pixels of the photo.
    shape: of the photo.

  Returns:
    `[S, S]` float32 in [0, 1].
  """
  landmarks = face.landmarks @ framing.matrix[:, :2].T + framing.matrix[:, 2]
  return head_weight(square, landmarks, _edge_inside(framing, shape))


def encode_square(
  params: Params, square: np.ndarray, framing: Framing, weight: np.ndarray, *, dtype=None
) -> FramedFace:
  """A framed face as the network sees it.

  Args:
    params: from `load_params`.
    square: `[S, S, 3]` RGB in gray levels, 0 to 255, uint8 or floating point.
    framing: where the square lies.
    weight: `[S, S]`, from `weigh_square`.
    dtype: compute type of the convolutions.
  """
  luminance, encoding, source_light = _see(params, square, framing, dtype)
  return FramedFace(framing, luminance, weight, encoding, source_light)


def estimate_portrait_light(params: Params, pixels: np.ndarray, face: Face, size: int = 512) -> np.ndarray:
  """The light `[9]` on one face of a photo, in the photo's coordinates; the arguments are those of `Portrait`."""
  framing = frame_face(face, size)
  return _see(params, cut_square(pixels, framing), framing, None)[2]


def _see(params: Params, square: np.ndarray, framing: Framing, dtype) -> tuple[np.ndarray, Encoding, np.ndarray]:
  """What the network sees in a framed face: L / 100 `[S, S]`, its encoding, and the light `[9]` in the photo."""
  luminance = color.srgb_to_lab(square.astype(np.float32) / 255)[..., 0] / 100
  encoding = encode_luminance(params, luminance[None, ..., None], dtype=dtype)
  return luminance, encoding, sh.rotate(np.asarray(encoding.light)[0], sh.roll(-framing.roll))


def _checked(light: np.ndarray) -> np.ndarray:
  light = np.asarray(light, np.float32)
  if light.shape != (9,) or not np.isfinite(light).all():
    raise ValueError(f"a light must be 9 finite numbers, not {light}")
  return light


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


def cut_square(pixels: np.ndarray, framing: Framing) -> np.ndarray:
  """The framed face as a picture, `[S, S, 3]` uint8; where it reaches beyond the photo, the photo is mirrored."""
  corners = _corners(framing)
  height, width = pixels.shape[:2]
  # A margin for the interpolation, and only what the photo has: the mirror then starts at the photo's edge.
  left, top = np.maximum(np.floor(corners.min(axis=0)).astype(int) - 2, 0)
  right, bottom = np.minimum(np.ceil(corners.max(axis=0)).astype(int) + 3, (width, height))
  part, matrix = pixels[top:bottom, left:right], _shifted(framing.matrix, left, top)
  # A warp alone would skip pixels where it shrinks, and alias. So whole pixels are averaged first, down to under 4 for
  # a pixel of the square (memory must not grow with the photo), then a finer square is drawn, and averaged in turn.
  scale = 1 / np.sqrt(np.abs(np.linalg.det(matrix[:, :2])))
  shrink = max(1, int(scale / 2))
  if shrink > 1:
    rows, columns = (max(1, side // shrink) for side in part.shape[:2])
    part = cv2.resize(part[: rows * shrink, : columns * shrink], (columns, rows), interpolation=cv2.INTER_AREA)
    # Pixel j of the small picture is centred on pixel shrink * j + (shrink - 1) / 2 of the large one.
    matrix = np.column_stack([matrix[:, :2] * shrink, _shifted(matrix, *[(shrink - 1) / 2] * 2)[:, 2]])
  finer = max(1, int(np.ceil(scale / shrink - 0.01)))
  matrix = np.column_stack([finer * matrix[:, :2], finer * matrix[:, 2] + (finer - 1) / 2])
  part, side = np.ascontiguousarray(to_8_bits(part)), framing.size * finer
  square = cv2.warpAffine(part, matrix, (side, side), flags=cv2.INTER_LINEAR, borderMode=cv2.BORDER_REFLECT_101)
  return cv2.resize(square, (framing.size, framing.size), interpolation=cv2.INTER_AREA)


def _shifted(matrix: np.ndarray, left: int, top: int) -> np.ndarray:
  """`matrix` for coordinates that start at (left, top)."""
  return np.column_stack([matrix[:, :2], matrix[:, :2] @ (left, top) + matrix[:, 2]])


def _corners(framing: Framing) -> np.ndarray:
  """The square's corners in the photo, `[4, 2]`."""
  side = framing.size - 1
  square = np.array([(0, 0), (side, 0), (side, side), (0, side)], float)
  return (square - framing.matrix[:, 2]) @ np.linalg.inv(framing.matrix[:, :2]).T


def _edge_inside(framing: Framing, shape: tuple[int, ...]) -> np.ndarray:
  """`[S, S]` bool: border pixels of the square that lie inside a photo of `shape`."""
  edge = np.ones((framing.size, framing.size), bool)
  edge[1:-1, 1:-1] = False
  y, x = np.nonzero(edge)
  in_photo = (np.column_stack([x, y]) - framing.matrix[:, 2]) @ np.linalg.inv(framing.matrix[:, :2]).T
  edge[y, x] = ((in_photo > 0) & (in_photo < np.array(shape[1::-1]) - 1)).all(axis=1)
  return edge


def _linear_luminance(luminance: np.ndarray) -> np.ndarray:
  """L / 100 -> Y (CIE 1976)."""
  gray = np.zeros((*luminance.shape, 3), np.float32)
  gray[..., 0] = 100 * luminance
  return color.linearise(color.lab_to_srgb(gray)[..., 1])


def _carry(
  pixels: np.ndarray,
  edits: Sequence[tuple[FramedFace, np.ndarray, np.ndarray | None]],
  strength: float,
  lamp_colour: np.ndarray | None,
) -> np.ndarray:
  """Applies the faces' ratios (`_local_line`s of log ratios) to the photo, and the lamp's colour where the lamp shines
  (its share in the square); where faces overlap, their weighted mean.
  """
  out = pixels.copy()
  corners = np.concatenate([_corners(face.framing) for face, *_ in edits])
  left, top = np.maximum(np.floor(corners.min(axis=0)).astype(int), 0)
  right, bottom = np.minimum(np.ceil(corners.max(axis=0)).astype(int) + 1, pixels.shape[1::-1])
  maps = []
  for face, line, tint in edits:
    tint = np.zeros_like(face.weight) if tint is None else tint
    maps.append((face.framing, np.dstack([line, face.weight, tint]).astype(np.float32)))
  white = np.iinfo(pixels.dtype).max
  linear_of_level = color.linearise(np.arange(white + 1, dtype=np.float32) / white)

  def relight_strip(start: int) -> None:
    strip = out[start : min(start + _STRIP_ROWS, bottom), left:right]
    linear = linear_of_level[strip]
    lab = color.linear_to_lab(linear)
    log_ratio, tint = _edits_in_strip(lab[..., 0] / 100, left, start, maps)
    log_ratio, tint = strength * log_ratio, min(strength, 1) * tint
    changed = (log_ratio != 0) | (tint != 0)
    luminance, lab = lab[..., 0][changed] / 100, lab[changed]
    if lamp_colour is not None:
      tinted = linear[changed] * (1 + tint[changed][:, None] * (lamp_colour - 1))
      lab = color.linear_to_lab(tinted.astype(np.float32))
    relit = (luminance + _RATIO_OFFSET) * np.exp(log_ratio[changed]) - _RATIO_OFFSET
    relit = 100 * np.clip(relit, 0, 1)
    # Light scales the three linear channels alike, and so chroma as L + 16 (CIE 1976). With the old chroma a shadow
    # would glow and a highlight pale.
    lab[:, 1:] *= ((relit + _LAB_BLACK) / (lab[:, 0] + _LAB_BLACK))[:, None]
    lab[:, 0] = relit
    strip[changed] = np.round(color.lab_to_srgb(lab) * white)

  with ThreadPoolExecutor(_STRIP_THREADS) as threads:  # NumPy and OpenCV let go of the interpreter while they compute
    for _ in threads.map(relight_strip, range(top, bottom, _STRIP_ROWS)):
      pass
  return out


def _edits_in_strip(
  luminance: np.ndarray, left: int, top: int, maps: Sequence[tuple[Framing, np.ndarray]]
) -> tuple[np.ndarray, np.ndarray]:
  """The log ratio, and the lamp's share, at the photo's own pixels.

  Args:
    luminance: L / 100 of a part of the photo, `[h, w]`.
    left: where the part begins.
    top: likewise.
    maps: for each face its framing, and a, b, weight and the lamp's share in its square, `[S, S, 4]`.

  Returns:
    Both `[h, w]`, 0 where no face reaches.
  """
  height, width = luminance.shape
  weighted, tinted, total = (np.zeros_like(luminance) for _ in range(3))
  for framing, face_maps in maps:
    corners = _corners(framing) - (left, top)
    if (corners.max(axis=0) < 0).any() or (corners.min(axis=0) > (width, height)).any():
      continue
    flags = cv2.INTER_LINEAR | cv2.WARP_INVERSE_MAP
    a, b, weight, tint = cv2.split(
      cv2.warpAffine(face_maps, _shifted(framing.matrix, left, top), (width, height), flags=flags)
    )
    weighted += weight * np.clip(a * luminance + b, -_MAX_LOG_RATIO, _MAX_LOG_RATIO)
    tinted += weight * tint
    total += weight
  total = np.maximum(total, 1)
  return weighted / total, tinted / total
