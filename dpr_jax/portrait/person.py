"""Which pixels of a photo are a person's: hair, face, neck, clothes, down to strands.

A small network (MediaPipe's segmenter) says roughly where the person of a face is. Around its edge each pixel is then
taken for a mixture of the colours of person and background nearby, which finds strands of hair (`Matte`).
"""

import sys
from collections.abc import Sequence
from typing import NamedTuple, Protocol

import numpy as np

from dpr_jax.base.assets import asset_at_hand, asset_path_within
from dpr_jax.base.errors import BadInput
from dpr_jax.base.native_libraries import MissingSystemLibrary, import_native
from dpr_jax.image import color
from dpr_jax.image.photo import to_8_bits
from dpr_jax.light.light import luminance
from dpr_jax.portrait.faces import OVAL, Face, Framing

cv2 = import_native("cv2")

_FETCH_SECONDS = 5
# The longer side of a matte in pixels.
_MATTE_SIDE = 1024
# Regions that are looked at, in sides of the square around the head: their extent, and how far their middle lies below
# that of the square. The network sees all of a region in 256 x 256 pixels, so the head gets a look of its own; the
# largest region is that of a person who stands, and is looked at if the person goes on beyond the middle one.
_CLOSE_UP, _BUST, _WHOLE = (2.0, 0.2), (3.5, 0.8), (8.0, 2.6)
_MARGIN = 0.1  # around the person, in sides of the square
_CUT_OFF = 0.01  # of a picture: a strip of the photo beyond it that is too narrow to matter
_TINY = 1e-6  # pixels that are no pixels
_PERSON = 0.5  # probability
# What is surely person or background lies so far inside its own side of the edge, in sides of the square.
_UNSURE = 0.035
_SURE = 0.9
_HOLE = 0.2  # the side of a hole that is filled, in sides of the square
# Radii within which colours are looked for, in sides of the square; wider ones where the nearer find nothing.
_NEARBY = (0.05, 0.12, 0.3)
_COLOUR_SIDE = 320
_NOISE = 0.02**2  # variance of sRGB values that says nothing
_LOYALTY = 3.0
_STRETCH = (0.08, 0.92)  # mixtures from which on a pixel is taken for pure


class Segmenter(Protocol):
  """Says where people are; held open for many photos.

  Attributes:
    name: of its model.
  """

  name: str

  def people(self, picture: np.ndarray) -> np.ndarray:
    """How likely each pixel of `[h, w, 3]` uint8 RGB shows a person, `[256, 256]` float32 in [0, 1], stretched."""

  def close(self) -> None:
    """Frees what it holds."""


class Matte(NamedTuple):
  """One person in a photo, in pixels of a picture of the part of the photo around the person.

  Attributes:
    matrix: `[2, 3]`, photo pixels -> pixels of the matte, both counted from the middle of the first, as OpenCV counts.
    alpha: `[h, w]` float32 in [0, 1], how much of each pixel the person covers.
    share: `[h, w]` float32 in [0, 1], how much of each pixel's light comes from the person. Dark hair before a white
      wall covers half a pixel and gives a tenth of its light; only that follows the person's light.
    foreground: `[h', w', 3]` float32, a smaller picture of the same part: linear RGB of the person near the edge,
      without what shines through.
  """

  matrix: np.ndarray
  alpha: np.ndarray
  share: np.ndarray
  foreground: np.ndarray


def open_segmenter() -> Segmenter | None:
  """MediaPipe's segmenter; None, with a line on stderr, where its model is not at hand.

  The model of six classes is taken where the user has put it into a folder of `DPR_ASSETS` or into the cache, otherwise
  the small one, which is fetched within five seconds or not at all.
  """
  from dpr_jax.portrait.mediapipe_people import MediaPipeSegmenter

  try:
    path = asset_at_hand("person-segmenter-multiclass") or asset_path_within("person-segmenter", _FETCH_SECONDS)
    return MediaPipeSegmenter(path)
  except (BadInput, MissingSystemLibrary) as error:
    print(f"people: not looked for, for {error}. The light ends around the head", file=sys.stderr)
    return None


def find_person(
  segmenter: Segmenter, pixels: np.ndarray, face: Face, framing: Framing, others: Sequence[Face] = ()
) -> Matte | None:
  """The person whom a face belongs to.

  Args:
    segmenter: from `open_segmenter`.
    pixels: the photo, `[H, W, 3]` RGB, uint8 or uint16; or float32, linear light.
    face: the person's face.
    framing: of the face.
    others: other faces of the photo, whose people are not this one.

  Returns:
    The matte; None if the segmenter sees no person where the face is.
  """
  look = look_for_person(segmenter, pixels, face, framing, others)
  return None if look is None else matte_of(look, framing)


class Look(NamedTuple):
  """Roughly where a person is, in a picture of the part of the photo around the person.

  Attributes:
    matrix: `[2, 3]`, photo pixels -> pixels of the picture, both counted from the middle of the first.
    picture: `[h, w, 3]` uint8 RGB.
    likely: `[h, w]` float32, how likely each pixel is the person's.
  """

  matrix: np.ndarray
  picture: np.ndarray
  likely: np.ndarray

  def is_cut_off(self, shape: Sequence[int]) -> bool:
    """Whether the person goes on beyond the picture, where a photo of `shape` does."""
    region = _extent(self.matrix, self.likely.shape)
    slack = _CUT_OFF * (region[1] - region[0]).max()
    region = np.stack([region[0] - slack, region[1] + slack])
    return _goes_on(self.likely > _PERSON, region, shape)


def look_for_person(
  segmenter: Segmenter,
  pixels: np.ndarray,
  face: Face,
  framing: Framing,
  others: Sequence[Face] = (),
  *,
  longer_side: int = _MATTE_SIDE,
  margin: float = _MARGIN,
) -> Look | None:
  """Where the person of a face is, as for `find_person`; None for nowhere.

  Args:
    segmenter: finds the person's pixels in a picture.
    pixels: the photo.
    face: the person's face.
    framing: the framing of that face.
    others: the other faces in the photo.
    longer_side: the most pixels that the longer side of the picture has.
    margin: how far the picture reaches beyond the person, in sides of the square around the head.
  """
  for extent in (_BUST, _WHOLE):
    region = _region(framing, extent, pixels.shape)
    matrix, shape = _grid(region, longer_side)
    picture = _drawn(pixels, matrix, shape)
    likely = _stretched(segmenter.people(picture), picture)
    person = _connected(likely > _PERSON, face, matrix)
    if person is None:
      return None
    if not _goes_on(person, region, pixels.shape):
      break
  # The person, and no more.
  rows, columns = (np.flatnonzero(person.any(axis=axis)) for axis in (1, 0))
  margin, scale = margin * framing.side, matrix[0, 0]
  corners = np.array([(columns[0], rows[0]), (columns[-1] + 1, rows[-1] + 1)]) / scale + region[0]
  square = _region(framing, (1.0, 0.0), pixels.shape)
  box = np.stack([np.minimum(corners[0] - margin, square[0]), np.maximum(corners[1] + margin, square[1])])
  region = np.stack([np.maximum(np.floor(box[0]), region[0]), np.minimum(np.ceil(box[1]), region[1])]).astype(int)
  return look_again(segmenter, pixels, face, framing, others, *_grid(region, longer_side))


def look_again(
  segmenter: Segmenter,
  pixels: np.ndarray,
  face: Face,
  framing: Framing,
  others: Sequence[Face],
  matrix: np.ndarray,
  shape: tuple[int, int],
) -> Look | None:
  """Where the person of a face is in a part of the photo that is known to hold it; None for nowhere.

  Args:
    segmenter: as the further ones, for `find_person`.
    pixels: the photo.
    face: of the person.
    framing: of the face.
    others: other faces.
    matrix: of the `Look`; it does not turn.
    shape: of its picture, h and w.
  """
  picture = _drawn(pixels, matrix, shape)
  likely = _stretched(segmenter.people(picture), picture)
  _look_closer(likely, segmenter, pixels, _region(framing, _CLOSE_UP, pixels.shape), matrix)
  person = _connected(likely > _PERSON, face, matrix)
  if person is None:
    return None
  side = framing.side * matrix[0, 0]
  likely *= _within(person, 2 * _UNSURE * side)
  _fill_holes(likely, (_HOLE * side) ** 2)
  likely *= _nearest_face(face, others, matrix, likely.shape)
  return Look(matrix, picture, likely)


def matte_of(look: Look, framing: Framing) -> Matte:
  """The matte of a person whose face is framed so."""
  return Matte(look.matrix, *_mixture(look.picture, look.likely, framing.side * look.matrix[0, 0]))


def _region(framing: Framing, extent: tuple[float, float], shape: Sequence[int]) -> np.ndarray:
  """A part of the photo around and below a head, `[2, 2]` int: left and top, right and bottom."""
  linear, shift = framing.matrix[:, :2], framing.matrix[:, 2]
  size, below = extent
  middle = np.linalg.solve(linear, framing.size * np.array([0.5, 0.5 + below]) - shift)
  corners = middle + np.array([[-0.5], [0.5]]) * size * framing.side
  return np.clip(np.round(corners), 0, shape[1::-1]).astype(int)


def _grid(region: np.ndarray, longer_side: int) -> tuple[np.ndarray, tuple[int, int]]:
  """Of a picture of a region of the photo, no larger than `longer_side`: the matrix from the photo, h and w."""
  extent = region[1] - region[0]
  size = np.maximum(1, np.round(extent * min(1.0, longer_side / extent.max()))).astype(int)
  factors = size / extent
  return np.column_stack([np.diag(factors), factors * (0.5 - region[0]) - 0.5]), (int(size[1]), int(size[0]))


def _extent(matrix: np.ndarray, shape: Sequence[int]) -> np.ndarray:
  """The part of the photo that a picture shows, `[2, 2]`: left and top, right and bottom; the inverse of `_grid`."""
  factors = np.diag(matrix[:, :2])
  first = 0.5 - (matrix[:, 2] + 0.5) / factors
  return np.stack([first, first + np.array(shape[1::-1]) / factors])


def _drawn(pixels: np.ndarray, matrix: np.ndarray, shape: tuple[int, int]) -> np.ndarray:
  """A picture of a part of the photo, `[h, w, 3]` uint8; the photo's edges go on beyond it.

  Args:
    pixels: the photo.
    matrix: photo pixels -> pixels of the picture; it does not turn.
    shape: h and w.
  """
  region = _extent(matrix, shape)
  first, last = np.floor(region[0] + _TINY), np.ceil(region[1] - _TINY)
  limit = np.array(pixels.shape[1::-1])
  (left, top), (right, bottom) = np.stack([np.clip(first, 0, limit - 1), np.clip(last, 1, limit)]).astype(int)
  part = pixels[top:bottom, left:right]
  factors = np.minimum(np.diag(matrix[:, :2]), 1)
  size = np.maximum(1, np.round(np.array(part.shape[1::-1]) * factors)).astype(int)
  picture = to_8_bits(cv2.resize(np.ascontiguousarray(part), size.tolist(), interpolation=cv2.INTER_AREA))
  own = size / part.shape[1::-1]  # what the shrinking, to whole pixels, has done
  rest = np.diag(matrix[:, :2]) / own
  shift = matrix[:, 2] - rest * (own * (0.5 - np.array([left, top])) - 0.5)
  if picture.shape[:2] == shape and np.abs(rest - 1).max() < _TINY and np.abs(shift).max() < _TINY:
    return picture
  matrix = np.column_stack([np.diag(rest), shift])
  return cv2.warpAffine(picture, matrix, shape[::-1], flags=cv2.INTER_LINEAR, borderMode=cv2.BORDER_REPLICATE)


def _stretched(likely: np.ndarray, picture: np.ndarray) -> np.ndarray:
  return np.clip(cv2.resize(likely, picture.shape[1::-1], interpolation=cv2.INTER_CUBIC), 0, 1)


def _connected(person: np.ndarray, face: Face, matrix: np.ndarray) -> np.ndarray | None:
  """Of the pixels `[h, w]` bool those that hang together with a face; None if they are none."""
  _, labels = cv2.connectedComponents(person.astype(np.uint8))
  oval = np.zeros(person.shape, np.uint8)
  cv2.fillConvexPoly(
    oval, cv2.convexHull(np.round(face.landmarks[OVAL] @ matrix[:, :2].T + matrix[:, 2]).astype(int)), 1
  )
  seen = labels[(oval > 0) & person]
  if 2 * len(seen) <= oval.sum():
    return None
  return labels == np.bincount(seen).argmax()


def _goes_on(person: np.ndarray, region: np.ndarray, shape: Sequence[int]) -> bool:
  """Whether a person is cut off by the region's edge, where the photo goes on."""
  (left, top), (right, bottom) = region
  inside = (left > 0, top > 0, right < shape[1], bottom < shape[0])
  return any(cut and edge.any() for cut, edge in zip(inside, _edges(person), strict=True))


def _edges(array: np.ndarray) -> tuple[np.ndarray, ...]:
  """Views of the left, upper, right and lower edge."""
  return array[:, 0], array[0], array[:, -1], array[-1]


def _look_closer(
  likely: np.ndarray, segmenter: Segmenter, pixels: np.ndarray, close: np.ndarray, matrix: np.ndarray
) -> None:
  """Puts what is seen in a close-up of the head into `likely`, in place, with a smooth seam."""
  region = _extent(matrix, likely.shape)
  close = np.stack(
    [np.maximum(close[0], np.ceil(region[0] - _TINY)), np.minimum(close[1], np.floor(region[1] + _TINY))]
  )
  (left, top), (right, bottom) = np.round((close - region[0]) * np.diag(matrix[:, :2])).astype(int)
  part = likely[top:bottom, left:right]
  if not part.size:
    return
  picture = _drawn(pixels, *_grid(close.astype(int), _MATTE_SIDE))
  seen = cv2.resize(segmenter.people(picture), part.shape[1::-1], interpolation=cv2.INTER_CUBIC)
  seam = np.zeros((part.shape[0] + 2, part.shape[1] + 2), np.uint8)
  seam[1:-1, 1:-1] = 1
  height, width = likely.shape
  # Nothing to hide where the picture ends.
  for ends, edge in zip((left == 0, top == 0, right >= width, bottom >= height), _edges(seam), strict=True):
    edge[:] = ends
  weight = cv2.distanceTransform(seam, cv2.DIST_L2, cv2.DIST_MASK_PRECISE)[1:-1, 1:-1] / (0.15 * max(part.shape))
  weight = np.clip(weight, 0, 1)
  part += weight * (np.clip(seen, 0, 1) - part)


def _within(inside: np.ndarray, distance: float) -> np.ndarray:
  """Which pixels lie no farther than `distance` from those of `[h, w]` bool."""
  return cv2.distanceTransform((~inside).astype(np.uint8), cv2.DIST_L2, cv2.DIST_MASK_PRECISE) <= max(distance, 1)


def _fill_holes(likely: np.ndarray, area: float) -> None:
  """Makes a person of what is no larger than `area` and has a person all around, in place: earrings, and the like."""
  _, labels, boxes, _ = cv2.connectedComponentsWithStats((likely <= _SURE).astype(np.uint8))
  small = boxes[:, cv2.CC_STAT_AREA] <= area
  small[0] = False  # the person
  for edge in _edges(labels):
    small[edge] = False  # nobody knows how large they are
  likely[small[labels]] = 1


def _nearest_face(face: Face, others: Sequence[Face], matrix: np.ndarray, shape: Sequence[int]) -> np.ndarray | float:
  """1 where this face is nearer than any other, in sizes of each, 0 elsewhere, with a soft border: `[h, w]` or 1."""
  if not others:
    return 1.0
  y, x = np.mgrid[: shape[0], : shape[1]].astype(np.float32)

  def distance(each: Face) -> np.ndarray:
    outline = each.landmarks[OVAL] @ matrix[:, :2].T + matrix[:, 2]
    centre, radius = outline.mean(axis=0), np.ptp(outline, axis=0).max() / 2
    return np.hypot(x - centre[0], y - centre[1]) / radius

  own, nearest = distance(face), np.min([distance(other) for other in others], axis=0)
  return np.clip(0.5 + 8 * (nearest - own) / (nearest + own), 0, 1).astype(np.float32)


def _mixture(picture: np.ndarray, likely: np.ndarray, side: float) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
  """Mattes the edge between what is surely person and surely background.

  Each pixel is a mixture of the mean colours of both nearby: where they differ by more than they vary, its own colour
  says how much of each; elsewhere the segmenter does.

  Args:
    picture: `[h, w, 3]` uint8 RGB.
    likely: `[h, w]`, how likely each pixel is the person's.
    side: of the square around the head, in pixels.

  Returns:
    alpha, share and foreground as in `Matte`.
  """
  surely = ~_within(likely <= _SURE, _UNSURE * side)
  never = ~_within(likely >= 1 - _SURE, _UNSURE * side)
  # Means of colours are smooth, and taken from a smaller picture.
  shrink = min(1.0, _COLOUR_SIDE / max(likely.shape))
  small = tuple(max(1, round(extent * shrink)) for extent in likely.shape[::-1])
  radii = [max(1, round(radius * side * shrink)) for radius in _NEARBY]
  srgb = picture.astype(np.float32) / 255
  colours = cv2.merge([srgb, cv2.transform(srgb * srgb, np.ones((1, 3), np.float32))])
  (own, own_variance), (other, other_variance) = (
    _colours_nearby(colours, pure, small, radii) for pure in (surely, never)
  )
  apart = own - other
  distance = (apart**2).sum(axis=-1)
  confidence = (distance / (distance + 4 * (own_variance + other_variance) + 3 * _NOISE)) ** 2
  # The share of the person is (colour - other) . apart / distance: a plane over the colours.
  slope = apart / np.maximum(distance, 1e-6)[..., None]
  offset = -(other * slope).sum(axis=-1)
  # The rest is about the pixels in question alone.
  where = np.flatnonzero(~(surely | never))
  shape = likely.shape

  def there(small: np.ndarray) -> np.ndarray:
    return _enlarged(small, shape).reshape(likely.size, *small.shape[2:])[where]

  slope, offset, confidence = (there(part) for part in (slope, offset, confidence))
  pixels, rough = srgb.reshape(-1, 3)[where], likely.reshape(-1)[where]
  low, high = _STRETCH
  mixed = np.clip(((pixels * slope).sum(axis=-1) + offset - low) / (high - low), 0, 1)
  loyalty = 1 + _LOYALTY * np.clip(2 * rough - 1, 0, 1)
  rough = np.clip((rough - 0.25) / 0.5, 0, 1)
  # Strands that the segmenter lost are believed. That what it is sure of is background is believed less, unless the
  # colours are far apart: a face's dark side before a dark wall has the wall's colour too.
  confidence = np.where(mixed < rough, confidence**loyalty, confidence)
  covered = rough + confidence * (mixed - rough)
  # Of the light of a mixed pixel.
  own = color.linearise(np.clip(own, 0, 1)).astype(np.float32)
  other = color.linearise(np.clip(other, 0, 1)).astype(np.float32)
  bright, behind = there(luminance(own)) * covered, there(luminance(other)) * (1 - covered)
  alpha = surely.astype(np.float32)
  share = alpha.copy()
  alpha.reshape(-1)[where] = covered
  share.reshape(-1)[where] = bright / np.maximum(bright + behind, 1e-5)
  return alpha, share, own


def _enlarged(small: np.ndarray, shape: Sequence[int]) -> np.ndarray:
  return cv2.resize(small.astype(np.float32), shape[1::-1], interpolation=cv2.INTER_LINEAR)


def _colours_nearby(
  colours: np.ndarray, pure: np.ndarray, size: tuple[int, int], radii: Sequence[int]
) -> tuple[np.ndarray, np.ndarray]:
  """The mean `[h, w, 3]` and variance `[h, w]` of the pure pixels' colours around each pixel, in the nearest window
  that holds some.

  Args:
    colours: sRGB in [0, 1] and the sum of its squares, `[H, W, 4]`.
    pure: `[H, W]` bool.
    size: w and h.
    radii: of the windows, in pixels of the result.
  """
  weighted = (cv2.copyTo(colours, pure.view(np.uint8)), pure.astype(np.float32))
  stack = np.dstack([cv2.resize(part, size, interpolation=cv2.INTER_AREA) for part in weighted])
  everywhere = stack.reshape(-1, 5).sum(axis=0)
  if everywhere[4] == 0:  # a picture full of one kind: any colour may be the other
    return cv2.resize(colours[..., :3], size, interpolation=cv2.INTER_AREA), np.ones(size[::-1], np.float32)
  total, found = np.zeros_like(stack), np.zeros_like(stack[..., 4])
  for radius in radii:
    near = cv2.blur(stack, (2 * radius + 1, 2 * radius + 1), borderType=cv2.BORDER_REFLECT)
    take = np.clip(near[..., 4] / 0.05, 0, 1) * (1 - found)
    total += take[..., None] * near / np.maximum(near[..., 4:], 1e-6)
    found += take
  total += (1 - found)[..., None] * (everywhere / everywhere[4])
  mean = total[..., :3]
  return mean, np.maximum(total[..., 3] - (mean**2).sum(axis=-1), 0)
