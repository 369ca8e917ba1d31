"""What is put onto the head: ears, hair and clothes, as grids in the head's axes and millimetres."""

import numpy as np

from data_gen.procedural_faces.falloff import bell, bump
from data_gen.procedural_faces.head import (
  BACK_Y,
  BACK_Z,
  FRONT_Y,
  FRONT_Z,
  SIDE_Y,
  WIDTH,
  Grid,
  chart,
  loft,
  rings,
)
from data_gen.procedural_faces.identity import ProceduralFace
from dpr_jax.base.arrays import ramp


def ears(face: ProceduralFace, number: int) -> list[Grid]:
  """Both ears: discs of `number` circles, with rim, fold, bowl and lobe; charts are across and along, in [-1, 1]."""
  r, angle = np.meshgrid(np.linspace(0, 1, number), np.linspace(0, 2 * np.pi, 2 * number), indexing="ij")
  along, across = r * np.cos(angle), r * np.sin(angle)  # up, and away from the face
  half = face.ear_length / 2
  outline = 1 + 0.10 * np.cos(angle) * (np.sin(angle) > 0) - 0.06 * np.cos(2 * angle)
  up = half * along * outline
  back = half * (0.58 * (1 + across * outline * (1 + 0.18 * along)) + 0.06 * along)
  out = 3.2 * bell(r - 0.88, 0.09) * ramp(along - 0.6 * across, -1.05, -0.2)  # the rim
  out += 2.6 * bell(np.hypot(along, across + 0.12) - 0.55, 0.09) * ramp(across, -0.35, 0.2)  # the fold inside it
  out -= 6.0 * bump(across, along, (-0.1, -0.12), (0.30, 0.27))  # the bowl
  out += 1.5 * bump(across, along, (-0.1, -0.78), (0.3, 0.22))  # the lobe
  out += 2.8 * bump(across, along, (-0.52, -0.1), (0.12, 0.14))  # the tragus
  out -= 5.5 * ramp(r, 0.86, 1.0) * (1 - 0.8 * ramp(-along, 0.4, 0.9)) + 2.0  # turned in at the edge
  cos, sin = np.cos(np.radians(face.ear_angle + 4)), np.sin(np.radians(face.ear_angle + 4))
  x = 0.455 * face.head_width - 1.0 + back * sin + out * cos
  z = 8 - 0.15 * up - back * cos + out * sin
  left = Grid(np.stack([-x, up - 14, z], axis=-1), chart(across, along))
  right = Grid(left.points[:, ::-1] * (-1, 1, 1), left.chart[:, ::-1])  # the other way round, to face outwards
  return [left, right]


def hairline(face: ProceduralFace, around: np.ndarray) -> np.ndarray:
  """The y at which hair begins, over degrees from the front."""
  front = face.hairline
  degrees = [0, 12, 28, 40, 50, 58, 66, 72, 78, 85, 93, 101, 112, 127, 180]
  heights = [front, front + 1, front + 5, front + 4, front - 12, 38, 17, -2, -12, 2, 16, 8, -30, -75, -92]
  line = np.interp(np.arange(-5, 186), degrees, heights)
  window = np.hanning(13)[1:-1] / np.hanning(13).sum()
  return np.interp(np.abs(around), np.arange(181), np.convolve(line, window, "valid"))


def hair(face: ProceduralFace, rows: int, locks: np.ndarray) -> Grid | None:
  """A shell over the skull that dives under the skin where no hair grows; None for the bald.

  Its chart: down along the locks and around, in [0, 1], and the distance from the shell's edge in millimetres.

  Args:
    face: whose.
    rows: of the grid.
    locks: `[H, W]` in about [-1, 1]: their relief, over the height and once around.
  """
  if face.hair_style == "bald":
    return None
  long = face.hair_style == "long"
  knots = _hanging(face, rings(face)) if long else rings(face)[:16]
  points, angle = loft(knots, np.linspace(0, len(knots) - 1, rows), round(1.4 * rows))
  around, y = np.degrees(angle), points[..., 1]
  within = y - hairline(face, around)
  if long:
    within = np.maximum(within, np.minimum(_beside_face(face, around, y), 90 - y))
  down = np.linspace(0, 1, rows)[:, None]
  turn = (angle + np.pi) / (2 * np.pi) + face.comb * (1 if not long else 0.2) * down
  lock = _sample(locks, turn, down)
  within = within + (5 if long else 8) * lock
  rise = ramp(within, 0, 36 if long else 50)
  top = 0.5 + 0.5 * ramp(y, 20, 95)
  thickness = rise * (face.hair_volume * top * (0.7 if long else 1) + 2.8 * lock)
  thickness = np.where(within > 0, thickness, np.maximum(within, -12) * 0.8) + 0.4
  moved = points + thickness[..., None] * Grid(points, points).normals
  return Grid(moved, chart(down, turn, within), within > -2)


def _hanging(face: ProceduralFace, knots: np.ndarray) -> np.ndarray:
  """Rings that leave the skull below the temples and hang down."""
  number = np.arange(len(knots))
  down = ramp(number, 5, 9)
  knots[:, WIDTH] = np.maximum(knots[:, WIDTH], (number > 3) * (75 + down * (3 + 0.7 * face.hair_volume)))
  height = np.interp(number, [6, 18], [-4, -210])
  for column in (FRONT_Y, SIDE_Y, BACK_Y):
    knots[:, column] += down * (height - knots[:, column])
  knots[:, BACK_Z] = np.minimum(knots[:, BACK_Z], -100 * down)
  knots[:, FRONT_Z] += down * (60 - knots[:, FRONT_Z])
  return knots


def _beside_face(face: ProceduralFace, around: np.ndarray, y: np.ndarray) -> np.ndarray:
  """Millimetres from the edge of the window that long hair, parted above it, leaves for the face."""
  window = np.interp(y, [-120, -15, 25, 50, face.hairline + 4], [52, 62, 56, 40, 4]) + 2 * np.sin(y / 40 + face.parting)
  return 1.3 * (np.abs(around - face.parting * ramp(y, 0, 60)) - window)


def _sample(picture: np.ndarray, across: np.ndarray, down: np.ndarray) -> np.ndarray:
  """Bilinear; `down` in [0, 1], and the picture repeats across."""
  column, row = across * picture.shape[1], down * (len(picture) - 1)
  left, above = np.floor(column).astype(int), np.minimum(row.astype(int), len(picture) - 2)
  u, v = column - left, row - above
  left, right = left % picture.shape[1], (left + 1) % picture.shape[1]
  top = picture[above, left] * (1 - u) + picture[above, right] * u
  return top * (1 - v) + (picture[above + 1, left] * (1 - u) + picture[above + 1, right] * u) * v


def clothes(face: ProceduralFace, rows: int) -> Grid:
  """A garment over neck and shoulders; its chart is x and y."""
  points, _ = loft(rings(face)[-4:], np.linspace(0.55, 3, rows), 2 * rows)
  t = np.linspace(0, 1, rows)[:, None]
  thickness = 2.5 + 5.0 * t + 1.5 * bell(t - 0.06, 0.03)  # thicker at the collar's hem
  return Grid(points + thickness[..., None] * Grid(points, points).normals, chart(points[..., 0], points[..., 1]))
