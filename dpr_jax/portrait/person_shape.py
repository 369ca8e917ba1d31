"""The shape of a whole person: as the network sees it around the face, and inflated from the outline beyond.

Nobody knows the shape of a coat from one photo, but light needs little of it: that shoulders and arms are round, which
way they face, and that a head stands before them and throws its shadow on them.
"""

from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from dpr_jax.base.arrays import smooth_step
from dpr_jax.base.native_libraries import import_native
from dpr_jax.light import exposure, sh, shadows
from dpr_jax.light.light import Light, luminance
from dpr_jax.light.shading import believed_shading, face_shading
from dpr_jax.network import traced
from dpr_jax.network.shape import Shape
from dpr_jax.portrait.faces import Framing
from dpr_jax.portrait.person import Matte

cv2 = import_native("cv2")

# Cells to a side of the map, which holds the person. A bust has cells about as large as the network's.
SIDE = 192
# The network's shape ends this far before the edge of its square, in sides of the square.
_SEAM = 0.2
# Blurs of the outline that add up to its relief, in sides of the square, and the slope that each gives its edge.
_BLURS, _SLOPE = (0.05, 0.12, 0.25, 0.5), 0.4
# In cells: far from what casts a shadow its rays take long steps, and would show a chin or a nose many times over.
_DEPTH_BLUR = 2.5
_NOTHING = -1.0  # depth of what is no person, which throws no shadows


class PersonShape(NamedTuple):
  """A person as light sees it, in square cells over the person's part of the photo.

  Attributes:
    matrix: `[2, 3]`, photo pixels -> cells, both counted from the middle of the first.
    normal: `[N, N, 3]`, unit, axes of `dpr_jax.light.sh` in the photo (not of a head that leans).
    depth: `[N, N]`, height towards the viewer in shares of N cells.
    skin: `[N, N]`, how likely each cell is to be the face's, in [0, 1].
    doubt: `[N, N]`, how little the shading is to be believed, in [0, 1].
    inside: `[N, N]` float32, 1 where the cell is the person's, else 0.
    known: `[N, N]` float32, how much of the shape is the network's, in [0, 1].
  """

  matrix: np.ndarray
  normal: np.ndarray
  depth: np.ndarray
  skin: np.ndarray
  doubt: np.ndarray
  inside: np.ndarray
  known: np.ndarray


def person_shape(matte: Matte, framing: Framing, seen: Shape) -> PersonShape:
  """The shape of the person of a matte.

  Args:
    matte: of the person.
    framing: of the person's face.
    seen: what the network knows of the square, a batch of one.
  """
  height, width = matte.alpha.shape
  scale = SIDE / max(height, width)
  size = tuple(max(1, round(extent * scale)) for extent in (width, height))
  scales = np.array(size) / (width, height)
  matrix = scales[:, None] * matte.matrix
  matrix[:, 2] += (scales - 1) / 2
  inside = cv2.resize(matte.alpha, size, interpolation=cv2.INTER_AREA)
  # What the photo cuts off goes on.
  inside = cv2.copyMakeBorder(inside, 0, SIDE - size[1], 0, SIDE - size[0], cv2.BORDER_REPLICATE)

  normal = np.asarray(seen.normal)[0]
  depth, skin, doubt = (np.asarray(part)[0, ..., 0] for part in (seen.depth, seen.skin, seen.doubt))
  shrink = framing.size / len(depth)
  to_square = framing.index_matrix / shrink
  to_square[:, 2] += (1 / shrink - 1) / 2
  to_photo = np.linalg.inv(np.vstack([matrix, [0, 0, 1]]))
  from_cells = (np.vstack([to_square, [0, 0, 1]]) @ to_photo)[:2]
  cells = 1 / np.sqrt(np.abs(np.linalg.det(from_cells[:, :2])))  # a cell of the network's in ours

  def warp_to_person(array: np.ndarray, border: int = cv2.BORDER_REPLICATE) -> np.ndarray:
    flags = cv2.INTER_LINEAR | cv2.WARP_INVERSE_MAP
    return cv2.warpAffine(array, from_cells, (SIDE, SIDE), flags=flags, borderMode=border)

  known = warp_to_person(edge_weight(len(depth)), cv2.BORDER_CONSTANT)
  normal_there = warp_to_person(normal @ np.asarray(sh.roll(framing.roll), np.float32))
  lacking = np.asarray(traced.call(_lacking, normal, depth)) * np.float32(cells * len(depth) / SIDE)
  blurs = [np.float32(blur * cells * len(depth)) for blur in _BLURS]
  relief = sum(
    _SLOPE * np.sqrt(2 * np.pi) * blur * cv2.GaussianBlur(inside, (0, 0), float(blur), borderType=cv2.BORDER_REPLICATE)
    for blur in blurs
  )
  normal, depth = traced.call(_composed, relief, normal_there, warp_to_person(lacking), known)
  inside = (inside > 0.5).astype(np.float32)
  depth = cv2.GaussianBlur(np.asarray(depth), (0, 0), _DEPTH_BLUR, borderType=cv2.BORDER_REPLICATE)
  depth = np.where(inside > 0, depth, np.float32(_NOTHING))
  skin, doubt = (warp_to_person(each, cv2.BORDER_CONSTANT) for each in (skin, doubt))
  return PersonShape(matrix, np.asarray(normal), depth, skin, doubt, inside, known)


def edge_weight(side: int) -> np.ndarray:
  """`[side, side]` float32: 1 in the middle of a square, 0 at its edge, smooth in between."""
  from_edge = np.minimum(np.arange(side) + 0.5, side - 0.5 - np.arange(side))
  along = smooth_step(from_edge / (_SEAM * side))
  return np.float32(along[:, None] * along)


@jax.jit
def _lacking(normal: jax.Array, depth: jax.Array) -> jax.Array:
  """What the slopes of normals lack of the depth, in shares of the side."""
  return depth - shadows.depth_of_normals(normal)


@jax.jit
def _composed(
  relief: jax.Array, normal: jax.Array, lacking: jax.Array, known: jax.Array
) -> tuple[jax.Array, jax.Array]:
  """Normals and depth of the person: the network's where known, the relief's elsewhere."""
  down, right = jnp.gradient(relief)
  inflated = jnp.stack([-right, -jnp.ones_like(right), down], axis=-1)
  inflated *= jax.lax.rsqrt(jnp.sum(jnp.square(inflated), axis=-1, keepdims=True))
  mixed = known[..., None] * normal + (1 - known[..., None]) * inflated
  mixed *= jax.lax.rsqrt(jnp.sum(jnp.square(mixed), axis=-1, keepdims=True))
  return mixed, shadows.depth_of_normals(mixed) + known * lacking


@jax.jit
def _shaded(normal: jax.Array, depth: jax.Array, skin: jax.Array, doubt: jax.Array, lit: Light) -> jax.Array:
  return believed_shading(face_shading(normal, depth, skin, lit), skin, doubt)


def shading(shape: PersonShape, light: Light) -> np.ndarray:
  """The shading of a person, as far as it is believed, under a light in the photo's coordinates, `[N, N, C]`."""
  return np.asarray(traced.call(_shaded, shape.normal, shape.depth, shape.skin, shape.doubt, light))


@jax.jit
def _seen_of_lamps(depth: jax.Array, lit: Light) -> jax.Array:
  """How much of the lamps' light is not held up, `[N, N]`; 1 without lamps."""
  seen = jax.vmap(shadows.visibility, in_axes=(None, 0, 0), out_axes=-1)(depth, lit.towards, lit.size)
  weight = lit.irradiance.mean(axis=-1)
  return (jnp.sum(seen * weight[None, None], axis=-1) + 1e-6) / (jnp.sum(weight) + 1e-6)


def passes(shape: PersonShape, light: Light) -> dict[str, np.ndarray]:
  """What is known of a person's cells under a light of at least one lamp; see `Portrait.passes`.

  Returns:
    `normals` `[N, N, 3]`, `depth` `[N, N, 1]`, `shading` `[N, N, C]` and `shadow` `[N, N, 1]`, in [0, 1].
  """
  lit = shading(shape, light)
  key = max(float(exposure.key(luminance(lit), shape.skin)), 1e-6)
  heights = shape.depth[shape.inside > 0]
  low, high = (heights.min(), heights.max()) if heights.size else (0.0, 1.0)
  right, far, up = np.moveaxis(shape.normal, -1, 0)
  return {
    "normals": (np.stack([right, up, -far], axis=-1) + 1) / 2,
    "depth": np.clip((shape.depth - low) / max(high - low, 1e-6), 0, 1)[..., None],
    "shading": lit / (2 * key),
    "shadow": np.asarray(traced.call(_seen_of_lamps, shape.depth, light))[..., None],
  }


def beyond_the_outline(shape: PersonShape, values: np.ndarray) -> np.ndarray:
  """Values `[N, N, C]` of a person's cells, gone on outwards: strands of hair are lit as the hair that they leave."""
  inside = cv2.erode(shape.inside, np.ones((3, 3), np.uint8), borderValue=1)
  weighted, weight = values * inside[..., None], inside
  filled, total = weighted.copy(), weight.copy()
  for blur in (1.5, 4, 12):
    near = cv2.GaussianBlur(weight, (0, 0), blur)
    spread = cv2.GaussianBlur(weighted, (0, 0), blur).reshape(values.shape)
    share = np.clip(near / 0.05, 0, 1) * (1 - total)
    filled += share[..., None] * spread / np.maximum(near, 1e-6)[..., None]
    total += share
  mean = weighted.sum(axis=(0, 1)) / max(float(weight.sum()), 1.0)
  return (filled + (1 - total)[..., None] * mean).astype(np.float32)
