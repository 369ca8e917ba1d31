"""The shape of skull, face and neck, as grids of points in millimetres.

The axes are the head's own: x to the right of a picture that it faces, y up, z out of the face; the origin lies between
the pupils in x and y, and between the ears in z. Rings give skull, jaw and neck: each runs through a point of the front
profile, of the sides and of the back. The face is then carved into their front as a height field: smooth bumps and
hollows, and smooth maxima of simple surfaces where a face has creases (lids, nose, wings of the nose).
"""

from typing import NamedTuple

import numpy as np

from data_gen.procedural_faces.falloff import bell, bump, smooth_maximum
from data_gen.procedural_faces.identity import ProceduralFace
from dpr_jax.base.arrays import ramp

# The rings from the crown to the shoulders: front y and z, half width, side y and z, back y and z, and how boxed the
# ring is (0: an ellipse; above: fuller corners; below: more pointed).
_RINGS = np.array(
  [
    [115, -10, 0, 115, -10, 115, -10, 0],
    [107, 36, 40, 104, -12, 106, -52, 0],
    [90, 68, 62, 82, -14, 84, -82, 0],
    [65, 87, 73, 56, -14, 50, -99, 0.02],
    [40, 94, 76, 34, -12, 22, -102, 0.05],
    [20, 95, 75, 14, -8, 0, -96, 0.05],
    [0, 92, 72.5, -4, -4, -20, -86, 0.03],
    [-22, 90, 70, -22, -1, -38, -75, 0],
    [-45, 91, 64.5, -42, 2, -54, -66, -0.03],
    [-67, 91, 58.5, -60, 6, -68, -61, -0.05],
    [-88, 89, 52, -74, 8, -80, -58, -0.07],
    [-103, 86, 47, -84, 7, -90, -57, -0.09],
    [-110, 77, 44.5, -91, 3, -98, -57, -0.08],
    [-112, 60, 44, -98, -3, -106, -57, -0.04],
    [-115, 43, 46, -108, -9, -116, -58, 0],
    [-124, 33, 48, -122, -14, -130, -60, 0],
    [-147, 30, 52, -145, -17, -150, -64, 0],
    [-185, 34, 66, -170, -20, -180, -70, 0],
    [-230, 50, 100, -185, -22, -220, -80, 0],
  ],
  np.float64,
)
FRONT_Y, FRONT_Z, WIDTH, SIDE_Y, SIDE_Z, BACK_Y, BACK_Z, BOXED = range(8)
EYE_RADIUS = 12.2
IRIS_RADIUS = 5.9


class Grid(NamedTuple):
  """A part as a grid of points, `[R, C, ...]`.

  Attributes:
    points: `[R, C, 3]`.
    chart: `[R, C, 4]`, the coordinates that colours are painted in. Of the head: x and y before the face was carved
      (see `Features`), degrees around from the front, and the number of the ring (about 12.4 is the edge of the jaw).
      Of the other parts: two that run along the part, then zeros.
    present: `[R, C]` bool, which points carry triangles; None for all.
  """

  points: np.ndarray
  chart: np.ndarray
  present: np.ndarray | None = None

  @property
  def normals(self) -> np.ndarray:
    """`[R, C, 3]`, unit, out of the part, by central differences over the grid."""
    down = np.gradient(self.points, axis=0)
    right = np.gradient(self.points, axis=1)
    if np.allclose(self.points[:, 0], self.points[:, -1]):  # a closed ring: its first column is its last
      across = (self.points[:, 1] - self.points[:, -2]) / 2
      right[:, 0] = right[:, -1] = across
    normals = np.cross(down, right)
    length = np.linalg.norm(normals, axis=-1, keepdims=True)
    return np.where(length > 1e-9, normals / np.maximum(length, 1e-9), (0.0, 1.0, 0.0))

  @property
  def triangles(self) -> np.ndarray:
    """`[T, 3]` numbers of points in row order."""
    rows, columns = self.points.shape[:2]
    corner = (np.arange(rows - 1)[:, None] * columns + np.arange(columns - 1)).reshape(-1, 1)
    triangles = np.concatenate([corner + np.array(offsets) for offsets in ((0, columns, 1), (1, columns, columns + 1))])
    return triangles if self.present is None else triangles[self.present.ravel()[triangles].all(axis=1)]

  def thinned(self, rows: np.ndarray, columns: np.ndarray) -> "Grid":
    """The same part with only the points of these rows and columns, numbers `[R']` and `[C']`."""
    return Grid(*(None if each is None else each[rows][:, columns] for each in self))


class Features:
  """Where the features of a face lie, in the x and y of the smooth head. Left and right are the picture's."""

  def __init__(self, face: ProceduralFace):
    scale = face.face_length
    self.eye = face.eye_distance / 2
    self.eye_y = 0.3 * face.eye_tilt
    self.eye_z = 70.5 + face.eye_depth
    self.nose_base = -face.nose_length * 0.92 * scale
    self.tip = self.nose_base + 9.5
    self.mouth = self.nose_base - 21 * scale
    self.half_mouth = face.mouth_width / 2 * (1 + 0.12 * face.smile)
    self.jaw_drop = 0.8 * face.mouth_open
    self.chin = -97 * scale - self.jaw_drop
    self.upper_lip = face.upper_lip * (1 - 0.22 * face.smile)
    self.lower_lip = face.lower_lip * (1 - 0.15 * face.smile)
    self.mouth_corner = self.mouth + 6.5 * face.smile - 1.0
    self.nostril = face.nose_width / 2 - 10.6, self.nose_base + 1.0
    self._face = face

  def lids(self, x: np.ndarray) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """The edges of the upper and the lower lid at x, and the place between the corners, -1 (nose side) to 1."""
    face = self._face
    t = (np.abs(x) - self.eye) / (face.eye_width / 2)
    inside = np.maximum(1 - t * t, 0)
    corner_line = face.eye_tilt * (t + 0.3) * 0.6
    height = face.eye_height * face.eye_open
    upper = corner_line + 0.50 * height * inside**0.7 * (1 - 0.12 * t)
    lower = corner_line - (0.47 - 0.1 * face.smile) * height * inside**0.8 * (1 + 0.15 * t)
    return upper, lower, t

  def between_lids(self, chart: np.ndarray) -> np.ndarray:
    """Whether points of `Grid.chart` `[..., 4]` lie where the eyes are open."""
    upper, lower, t = self.lids(chart[..., 0])
    return (np.abs(t) < 1) & (chart[..., 1] < upper) & (chart[..., 1] > lower) & (np.abs(chart[..., 2]) < 85)

  def brow(self, x: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """The middle of the brow at x, and the place along it: 0 at the nose, 1 at the temple."""
    t = (np.abs(x) - self.eye + 19) / 41
    arch = 5.5 * np.sin(np.pi * np.clip(t * 0.78, -0.2, 1))
    inner = 1.0 - self._face.eye_open * 0.5
    return 17.0 + arch + self._face.brow_raise * (0.6 + 0.4 * t) - inner * (1 - t), t

  def lips(self, x: np.ndarray) -> tuple[np.ndarray, np.ndarray, np.ndarray, np.ndarray]:
    """Four edges at x, from above: upper lip's rim, opening's top, opening's bottom, lower lip's rim."""
    face = self._face
    t = np.clip(np.abs(x) / self.half_mouth, 0, 1)
    inside = 1 - t * t
    line = self.mouth + (self.mouth_corner - self.mouth) * t**2 - 0.8 * bell(x, 3.5)
    opening = face.mouth_open * inside**0.8
    bow = 1.1 * bell(np.abs(x) - 5.5, 3.2) - 0.9 * bell(x, 2.6)
    top = line + 0.2 * opening
    bottom = line - 0.8 * opening
    rim_above = top + self.upper_lip * (0.9 * inside**0.95) + bow * inside
    rim_below = bottom - self.lower_lip * inside**0.75
    return rim_above, top, bottom, rim_below

  def crease(self, x: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """The fold of the upper lid at x, and how deep it is there: 1 over the middle of the eye, 0 from its corners on."""
    upper, _, t = self.lids(x)
    depth = np.sqrt(np.clip(1 - t * t, 0, 1))
    return upper + 2.2 + 2.6 * self._face.lid_crease * depth, depth

  def beside_opening(self, x: np.ndarray, y: np.ndarray) -> np.ndarray:
    """Millimetres up or down to the opening of the mouth; 0 in it."""
    _, top, bottom, _ = self.lips(x)
    return np.maximum(np.maximum(y - top, bottom - y), 0)


def rings(face: ProceduralFace) -> np.ndarray:
  """The rings of a face's head, `[19, 8]`; see `FRONT_Y` and its neighbours for the columns."""
  adapted = _RINGS.copy()
  number = np.arange(len(adapted))
  neck = ramp(number, 12.5, 15)
  adapted[:, WIDTH] *= face.head_width / 153
  adapted[:, WIDTH] += (face.jaw_width / 2 - 52) * bell(number - 11, 1.9)
  adapted[:, WIDTH] += (face.neck_width / 2 - 52) * neck
  adapted[:, FRONT_Z] -= face.forehead_slope * bell(number - 2.2, 1.2)
  lower_face = ramp(number, 5, 9) * (1 - neck)
  for column in (FRONT_Y, SIDE_Y):
    adapted[:, column] *= 1 + (face.face_length - 1) * lower_face
  chin = bell(number - 11.3, 1.1)
  adapted[:, FRONT_Y] -= 0.8 * face.mouth_open * chin
  adapted[:, FRONT_Z] += (face.chin_forward - 0.3 * face.mouth_open) * chin
  return adapted


def _spline(knots: np.ndarray, at: np.ndarray) -> np.ndarray:
  """Catmull-Rom through rings at fractional ring numbers; smooth over the crown, where front and back change places."""
  beyond_crown = knots[1, [BACK_Y, BACK_Z, WIDTH, SIDE_Y, SIDE_Z, FRONT_Y, FRONT_Z, BOXED]]
  beyond_crown[WIDTH] *= -1
  padded = np.vstack([beyond_crown, knots, 2 * knots[-1] - knots[-2]])
  i = np.clip(at.astype(int), 0, len(knots) - 2)
  t = (at - i)[:, None]
  a, b, c, d = (padded[i + k] for k in range(4))
  return b + 0.5 * t * (c - a + t * (2 * a - 5 * b + 4 * c - d + t * (3 * (b - c) + d - a)))


def loft(knots: np.ndarray, at: np.ndarray, columns: int) -> tuple[np.ndarray, np.ndarray]:
  """The surface through rings.

  Args:
    knots: `[K, 8]`, the rings.
    at: `[R]`, fractional numbers of rings.
    columns: points on a ring; the last falls on the first, at the back, and they lie denser in front.

  Returns:
    points: `[R, C, 3]`.
    angle: `[C]`, radians from the front.
  """
  t = np.linspace(-1, 1, columns)
  angle = np.pi * t - 0.6 * np.sin(np.pi * t)
  cos = np.cos(angle)
  ring = _spline(knots, at)[:, :, None]

  def through(front, side, back):
    half, mean = (ring[:, front] - ring[:, back]) / 2, (ring[:, front] + ring[:, back]) / 2
    return ring[:, side] + half * cos + (mean - ring[:, side]) * cos**2

  x = ring[:, WIDTH] * np.sin(angle + ring[:, BOXED] * np.sin(2 * angle))
  return np.stack([x, through(FRONT_Y, SIDE_Y, BACK_Y), through(FRONT_Z, SIDE_Z, BACK_Z)], axis=-1), angle


def _dense_on_face(number: int) -> np.ndarray:
  """`[number]` fractional ring numbers, from the crown to the shoulders, four times as dense on the face."""
  fine = np.linspace(0, len(_RINGS) - 1, 2000)
  cumulative = np.cumsum(0.35 + ramp(fine, 2.5, 4) * (1 - ramp(fine, 12.5, 14)))
  return np.interp(np.linspace(cumulative[0], cumulative[-1], number), cumulative, fine)


def chart(*coordinates: np.ndarray) -> np.ndarray:
  """Up to four coordinates that broadcast together -> `Grid.chart`."""
  zeros = (0.0,) * (4 - len(coordinates))
  return np.stack(np.broadcast_arrays(*coordinates, *zeros), axis=-1)


def head(face: ProceduralFace, rows: int) -> Grid:
  """Skull, face and neck, `rows` by about 1.2 `rows` points."""
  at = _dense_on_face(rows)
  points, angle = loft(rings(face), at, round(1.2 * rows))
  where = chart(points[..., 0], points[..., 1], np.degrees(angle), at[:, None])
  share = np.broadcast_to(ramp(np.cos(angle), 0.05, 0.45), points.shape[:2])
  front = (share > 0) & (points[..., 1] < 100) & (points[..., 2] > 25)
  points[front, 2] = _carve(face, points[front], share[front])
  return Grid(points, where)


def _carve(face: ProceduralFace, points: np.ndarray, share: np.ndarray) -> np.ndarray:
  """The z of the face at points `[N, 3]` of the smooth head; `share` fades the features out towards the sides."""
  features = Features(face)
  x, y, z = points.T
  z = z + share * (_bones(face, features, x, y) + _folds(face, features, x, y) + _mouth(face, features, x, y))
  z = _eyes(face, features, x, y, z)
  return _nose(face, features, x, y, z)


def _bones(face, features, x, y):
  side, (brow, _) = np.abs(x), features.brow(x)
  relief = face.brow_ridge * bell(y - brow + 3, 6.5) * (1 - ramp(side, 38, 62))
  relief += 0.6 * face.brow_ridge * bump(x, y, (0, 21), (12, 8))
  relief -= 2.5 * bump(side, y, (64, 26), (12, 18))  # temples
  relief -= 9.5 * bump(side, y, (features.eye + 1, 4), (14.5, 9.0))  # eye sockets, and deeper beside the nose
  relief -= (8.5 - 0.3 * face.nose_bridge) * bump(side, y, (15.5, 4), (6.5, 10))
  relief += (2.0 + face.cheekbones) * bump(side, y, (51, -17), (12, 10))
  relief += (face.cheek_fullness - 2.0) * bump(side, y, (46, -62), (14, 18))
  relief += 5.5 * bump(x, y, (0, features.chin), (face.chin_width, 10.5))
  teeth = bump(x, y, (0, features.mouth - 0.5 * features.jaw_drop), (24, 21))
  return relief + 5.0 * teeth


def _folds(face, features, x, y):
  side, smile = np.abs(x), face.smile
  relief = (3.0 + 0.5 * face.cheek_fullness + 2.5 * smile) * bump(side, y, (36, -30 + 3 * smile), (13, 12))  # cheek
  relief -= 1.2 * bell(y + 14.5 + 0.16 * (side - features.eye), 3.0) * bell(side - 22, 9)  # under the eye
  # From the wing of the nose to the corner of the mouth: a hollow, with the cheek full behind it.
  start = features.nose_base + 6
  t = (start - y) / (start - features.mouth)
  across = side - (face.nose_width / 2 + 3.5 + 11.5 * np.clip(t, -0.3, 1.5))
  along = ramp(t, -0.2, 0.25) * (1 - ramp(t, 0.9, 1.5))
  relief += (0.7 + 1.8 * smile) * along * (bell(across - 4, 4.5) - 1.1 * bell(across, 2.2))
  return relief - 3.2 * bump(x, y, (0, features.chin + 15), (face.chin_width + 4, 4.5))  # between lip and chin


def _mouth(face, features, x, y):
  side, half = np.abs(x), features.half_mouth
  rim_above, top, bottom, rim_below = features.lips(x)
  t = np.clip(side / half, 0, 1)
  lip = 1 - t**2.2
  # The column between nose and mouth: a groove with two ridges.
  column = ramp(y, features.mouth + 3, features.mouth + 9)
  column = column * (1 - ramp(y, features.nose_base - 5, features.nose_base + 1))
  relief = 0.9 * column * (bell(side - 5.5, 2.2) - bell(x, 2.6))
  up = (y - top) / np.maximum(rim_above - top, 0.6)  # 0 at the opening, 1 at the rim
  down = (bottom - y) / np.maximum(bottom - rim_below, 0.6)
  relief += lip * (4.2 * bell(up - 0.45, 0.62) + 0.5 * bell(up - 1, 0.12) + 5.0 * bell(down - 0.42, 0.50))
  depth = (3.2 + 0.45 * face.mouth_open * lip) * (1 - t**6)
  relief -= depth * bell(features.beside_opening(x, y), 1.6 - 0.5 * lip)
  return relief - (1.2 + 0.8 * face.smile) * bump(side, y, (half + 1.5, features.mouth_corner), (5.0, 5.0))


def _eyes(face, features, x, y, z):
  upper, lower, _ = features.lids(x)
  crease, near = features.crease(x)
  # Closed lids: a ball, a little wider than high, that goes on as a cone where it leaves the socket.
  radius = EYE_RADIUS + 1.0
  d = np.hypot((np.abs(x) - features.eye) / 1.14, y - features.eye_y) / radius
  ball = np.where(d < 0.8, np.sqrt(np.maximum(1 - d * d, 0.1)), 0.6 - 4 / 3 * (d - 0.8) - 0.9 * (d - 0.8) ** 2)
  z = smooth_maximum(z, features.eye_z + radius * ball, 2.2)
  relief = 1.2 * bell(y - crease - 3.5, 2.6) - 1.1 * min(face.lid_crease, 1) * bell(y - crease, 0.9)
  relief += 0.55 * (bell(y - upper - 0.8, 0.8) + bell(y - lower + 0.8, 0.8))  # the edges of the lids
  relief += 0.5 * (bell(y - lower + 5.5, 2.2) - bell(y - lower + 9.5, 1.8))
  return z + near * relief


def _nose(face, features, x, y, z):
  side, tip_y, base = np.abs(x), features.tip, features.nose_base
  root_y, root_z, tip_z = 9.0, 89.0 + face.nose_bridge, 91.0 + face.nose_tip
  t = (root_y - y) / (root_y - tip_y)  # 0 at the root, 1 at the tip
  between = np.clip(t, 0, 1)
  ridge = root_z + (tip_z - root_z) * t * (0.85 + 0.15 * t) + 4 * face.nose_hump * between * (1 - between)
  below = np.maximum(tip_y - y, -30)
  under = tip_z + 0.8 - 1.3 * (np.sqrt(below**2 + 9) + below - 3)
  ridge = -smooth_maximum(-np.minimum(ridge, tip_z + 3), -under, 2.5) - 0.05 * np.maximum(y - root_y, 0) ** 2
  roundness = 3.2 + 2.3 * between + 1.5 * bell(y - root_y, 8) + 8.0 * ramp(y, root_y, root_y + 16)
  wall = ridge - (1.25 + 0.2 * between) * (np.hypot(side, roundness) - roundness)
  z = smooth_maximum(z, wall - 0.02 * np.maximum(side - 20, 0) ** 2, 3.5)
  bulb = 8.0 + 0.15 * (face.nose_width - 35)
  z = smooth_maximum(z, tip_z + 1.0 - 4.5 * ((x / bulb) ** 2 + ((y - tip_y) / 7.6) ** 2), 2.5)
  across, up = side - (face.nose_width / 2 - 6.8), y - base - 6.2
  wing = (across / 6.8) ** 2 + ((up + 0.2 * across) / np.where(up > 0, 9.5, 7.0)) ** 2
  z = smooth_maximum(z, 93.5 + 0.46 * face.nose_tip - 9.0 * wing - 0.25 * across, 1.1)
  column = tip_z - 5 - 0.9 * np.maximum(tip_y - y, 0) - 1.5 * np.maximum(base - 0.5 - y, 0) ** 2
  column = column - np.maximum(y - tip_y, 0) ** 2 - 3 * (x / 2.6) ** 2
  z = smooth_maximum(z, column, 1.0)
  return z - 2.6 * bump(side, y, features.nostril, (2.3, 1.3))
