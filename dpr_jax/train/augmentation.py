"""A face brought to the size of training and changed at random: its picture, normals, depth, mask and lights alike."""

from typing import NamedTuple

import numpy as np

from dpr_jax.base.native_libraries import import_native
from dpr_jax.image.color import lightness_of_luminance, luminance_of_lightness
from dpr_jax.light import sh

cv2 = import_native("cv2")


class Augmentation(NamedTuple):
  """One way to bring the maps of a face to the size of training: resized, mirrored, shifted and scaled in one warp,
  darker, and cut.

  What comes in from beyond the edge is mirrored there, pictures and normals alike, so that each pixel keeps its own
  normal; it belongs to no face.

  Attributes:
    size: side of the result, in pixels.
    flip: whether left and right are exchanged.
    warp: `[2, 3]`, from pixels of the resized picture to those of the result, or None: neither shifted nor scaled.
    exposure: factor on linear luminance, at most 1: so nothing is burnt, and the photo's light stays what it is but
      for its brightness.
    seen: first and last row and column that the photo shows, `[4]`, or None: all. Beyond them the last one goes on, as
      in a photo that ends at the face and was padded.
  """

  size: int
  flip: bool = False
  warp: np.ndarray | None = None
  exposure: float = 1.0
  seen: np.ndarray | None = None

  @classmethod
  def draw(cls, data: dict, rng: np.random.Generator) -> "Augmentation":
    """Draws what `flip`, `crop`, `scale`, `darken` and `cut` of `config.DataConfig` allow."""
    size, (coin, *numbers) = data["size"], rng.random(4)
    move = cls(size, flip=bool(data["flip"] and coin < 0.5))
    if data["crop"] or data["scale"]:
      right, down, larger = 2 * np.array(numbers) - 1
      factor, shift, centre = 1 + data["scale"] * larger, data["crop"] * size * np.array([right, down]), (size - 1) / 2
      move = move._replace(warp=np.column_stack([factor * np.eye(2), shift + (1 - factor) * centre]))
    if data["darken"]:
      move = move._replace(exposure=float(2 ** -rng.uniform(0, data["darken"])))
    if data["cut"] and rng.random() < 0.5:
      cut = (data["cut"] * size * rng.random(4)).astype(int)
      move = move._replace(seen=np.array([cut[0], size - 1 - cut[1], cut[2], size - 1 - cut[3]]))
    return move

  def resize(self, image: np.ndarray) -> np.ndarray:
    """`[H, W]` or `[H, W, C]` -> `[S, S]` or `[S, S, C]`; smaller by the mean of what falls into a pixel."""
    if image.shape[:2] == (self.size, self.size):
      return image
    smaller = self.size < image.shape[0]
    return cv2.resize(image, (self.size, self.size), interpolation=cv2.INTER_AREA if smaller else cv2.INTER_LINEAR)

  def picture(self, luminance: np.ndarray) -> np.ndarray:
    """L / 100 of a resized picture, `[S, S]`."""
    luminance = self._moved(luminance)
    if self.seen is not None:
      top, bottom, left, right = self.seen
      margins = top, self.size - 1 - bottom, left, self.size - 1 - right
      luminance = cv2.copyMakeBorder(luminance[top : bottom + 1, left : right + 1], *margins, cv2.BORDER_REPLICATE)
    if self.exposure == 1:
      return luminance
    return lightness_of_luminance(luminance_of_lightness(luminance) * np.float32(self.exposure))

  def normal(self, normal: np.ndarray) -> np.ndarray:
    """Unit normals `[H, W, 3]` -> `[S, S, 3]`; a mirrored face turns its x the other way."""
    moved = self._moved(self.resize(normal))
    if self.warp is not None or moved.shape != normal.shape:
      moved = _unit(moved)
    if self.flip:
      moved[..., 0] *= -1  # `moved` is a new array
    return moved

  def depth(self, depth: np.ndarray) -> np.ndarray:
    """Height towards the viewer in shares of the side, `[H, W]` -> `[S, S]`; it grows with the picture."""
    moved = self._moved(self.resize(depth))
    return moved if self.warp is None else moved * np.float32(self.warp[0, 0])

  def mask(self, mask: np.ndarray) -> np.ndarray:
    """`[H, W]` bool -> `[S, S]` float32, 0 or 1."""
    moved = self._moved(self.resize(mask.astype(np.float32)), cv2.BORDER_CONSTANT)
    moved = (moved > 0.5).astype(np.float32)
    if self.seen is None:
      return moved
    top, bottom, left, right = self.seen
    seen = np.zeros_like(moved)
    seen[top : bottom + 1, left : right + 1] = moved[top : bottom + 1, left : right + 1]
    return seen

  def framing(self) -> np.ndarray:
    """Factor, right and down, `[3]` float32, as in `Faces`."""
    if self.warp is None:
      return np.float32([1, 0, 0])
    centre = (self.size - 1) / 2
    moved = self.warp @ [centre, centre, 1] - centre
    return np.float32([self.warp[0, 0], *(2 * moved / self.size)])

  def light(self, light: np.ndarray) -> np.ndarray:
    """`[..., 9]`, for the moved face."""
    return light * sh.MIRROR if self.flip else light

  def _moved(self, image: np.ndarray, border: int = cv2.BORDER_REFLECT) -> np.ndarray:
    if self.flip:
      image = cv2.flip(image, 1)
    if self.warp is None:
      return image
    return cv2.warpAffine(image, self.warp, (self.size, self.size), flags=cv2.INTER_LINEAR, borderMode=border)


def _unit(vectors: np.ndarray) -> np.ndarray:
  """Vectors `[H, W, 3]` brought to length 1, in OpenCV's vectorised loops: in NumPy it takes ten times as long."""
  squared = cv2.transform(cv2.multiply(vectors, vectors), np.ones((3, 3), np.float32))
  if squared.min() < 1e-12:  # opposite normals that cancelled where they were averaged: towards the camera
    cancelled = squared < 1e-12
    vectors = np.where(cancelled, np.array([0, -1, 0], np.float32), vectors)
    squared = np.where(cancelled, np.float32(1), squared)
  return cv2.divide(vectors, cv2.sqrt(squared))
