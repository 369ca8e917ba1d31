"""Colours of a head: skin, lips, brows, beard, eyes, teeth, cropped hair and clothes as albedo at its vertices."""

import itertools
from typing import NamedTuple

import numpy as np

from data_gen.heads import morphable_head as parts
from data_gen.heads.morphable_head import MorphableHead
from dpr_jax.base.arrays import ramp
from dpr_jax.image.color import linearise

# sRGB of skin from the darkest to the lightest.
_SKIN_TONES = np.array(
  [[45, 30, 24], [78, 52, 40], [118, 80, 60], [160, 114, 88], [196, 150, 122], [224, 184, 158], [240, 208, 188]]
)
HAIR_TONES = np.array(
  [
    *([14, 11, 10], [32, 22, 17], [66, 44, 30], [108, 72, 44], [150, 108, 62], [198, 164, 110]),
    *([146, 140, 136], [214, 210, 204], [134, 62, 30]),  # gray, white, red
  ]
)
IRIS_TONES = np.array([[44, 26, 16], [78, 48, 26], [98, 82, 46], [92, 112, 74], [98, 124, 146], [124, 134, 140]])
_IRIS_ANGLE = 22.5  # degrees between the eye's axis and the rim of the iris
_EYE_AXIS = np.array([0.12, 0.03, 1.0])  # of the subject's left eye


class Regions(NamedTuple):
  """Soft masks `[V]` in [0, 1] over the vertices of the neutral head, and what else is painted by place.

  Attributes:
    skin: the outer skin, lids and lips included.
    brows: eyebrows.
    lips: the red of the lips.
    cheeks: where a face blushes: cheeks, nose, ears.
    beard: where a beard grows.
    moustache: where a moustache grows.
    scalp: where hair grows; falls from 1 to 0 across the hairline.
    lids: the edge of the eyelids.
    front: skin that a frontal portrait shows well, inside the outline of the face.
    eye_angle: `[V]` degrees from the eye's axis; 180 for vertices outside the eyeballs.
    depth_in_mouth: `[V]` in [0, 1], how far inside the mouth a vertex lies.
  """

  skin: np.ndarray
  brows: np.ndarray
  lips: np.ndarray
  cheeks: np.ndarray
  beard: np.ndarray
  moustache: np.ndarray
  scalp: np.ndarray
  lids: np.ndarray
  front: np.ndarray
  eye_angle: np.ndarray
  depth_in_mouth: np.ndarray


class Look(NamedTuple):
  """The colours of one person, linear RGB `[3]`, and strengths in [0, 1]."""

  skin: np.ndarray
  hair: np.ndarray
  iris: np.ndarray
  lip_redness: float
  lip_paint: np.ndarray | None
  blush: float
  freckles: float
  mottling: float
  brow_strength: float
  brow_thickness: float
  beard: float
  moustache: float
  shadow: float


def draw_look(rng: np.random.Generator) -> Look:
  """A random person's colours: every skin tone from very dark to very light, every hair colour."""
  place = (len(_SKIN_TONES) - 1) * rng.uniform(0, 1) ** 0.8
  low = int(min(place, len(_SKIN_TONES) - 2))
  skin = _SKIN_TONES[low] + (place - low) * (_SKIN_TONES[low + 1] - _SKIN_TONES[low])
  skin = skin * rng.normal(1, (0.05, 0.03, 0.05))
  # Dark skin goes with dark hair most of the time.
  tones = len(HAIR_TONES) if place > 3 or rng.random() < 0.15 else 3
  hair = HAIR_TONES[rng.integers(tones)] * rng.uniform(0.75, 1.2) * rng.normal(1, 0.03, 3)
  iris = IRIS_TONES[rng.integers(len(IRIS_TONES) if place > 3 else 2)] * rng.uniform(0.7, 1.2)
  beard = rng.random() < 0.3
  return Look(
    skin=_linear(skin),
    hair=_linear(hair),
    iris=_linear(iris),
    lip_redness=rng.uniform(0.15, 1),
    lip_paint=_linear(rng.uniform((110, 10, 20), (220, 80, 110))) if rng.random() < 0.15 else None,
    blush=rng.uniform(0, 1) ** 2,
    freckles=rng.uniform(0, 1) ** 3,
    mottling=rng.uniform(0.2, 1),
    brow_strength=rng.uniform(0.15, 1),
    brow_thickness=rng.uniform(0.6, 1.4),
    beard=rng.uniform(0.2, 1) if beard else 0.0,
    moustache=rng.uniform(0.2, 1) if beard or rng.random() < 0.1 else 0.0,
    shadow=rng.uniform(0, 0.5) if rng.random() < 0.4 else 0.0,
  )


def regions(model: MorphableHead) -> Regions:
  """Where a model's neutral head has its brows, lips, beard and so on."""
  points = model.neutral.astype(np.float64)
  landmarks = points[model.landmarks68]
  x, y, z = points.T
  skin = model.vertex_region <= parts.HEAD
  outer = skin.astype(np.float64)
  brows = np.zeros(len(points))
  for line in (landmarks[17:22], landmarks[22:27][::-1]):
    middle = line - (0, 0.15, 0)
    distance, along = _distance_to_line(points, middle)
    half = 0.42 - 0.22 * (1 - along)
    brows = np.maximum(brows, np.clip(1.3 - distance / half, 0, 1))
  mouth = landmarks[48:60, :2]
  lips = soft_inside(points[:, :2], mouth, 0.12) * (z > 8.5) * outer
  cheeks = np.zeros(len(points))
  for centre, radius in (((4.4, 0.0, 8.3), 2.0), ((-4.4, 0.0, 8.3), 2.0), ((0, 0.2, 13.0), 1.2)):
    cheeks = np.maximum(cheeks, np.exp(-((points - centre) ** 2).sum(axis=1) / radius**2))
  cheeks = np.maximum(cheeks, ramp(np.abs(x), 7.6, 8.4) * (np.abs(y - 2) < 5))
  # A beard's upper edge runs from the mouth's corners back up to the ears.
  edge = -3.2 + 0.75 * np.maximum(8.0 - z, 0)
  beard = ramp(edge - y, -0.4, 0.6) * ramp(y + 10.5, -0.5, 1.0) * ramp(z, 2.6, 3.8) * (1 - lips) * outer
  beard *= 1 - ramp(np.abs(x), 7.7, 8.1)
  moustache = soft_inside(
    points[:, :2], np.array([(-3, -3.6), (-2.2, -2.2), (0, -1.6), (2.2, -2.2), (3, -3.6), (0, -2.7)]), 0.25
  )
  moustache = moustache * (z > 8.5) * (1 - lips) * outer
  ear = (np.abs(x) > 7.25) & (y < 6.2) & (y > -3) & (z > -3.2) & (z < 4.6)
  scalp = ramp(y - hairline(z), -0.35, 0.35) * outer * ~ear
  lids = np.zeros(len(points))
  for outline in (landmarks[36:42], landmarks[42:48]):
    distance, _ = _distance_to_line(points, np.vstack([outline, outline[:1]]))
    lids = np.maximum(lids, np.clip(1 - distance / 0.3, 0, 1))
  ellipse = (x / 7.2) ** 2 + ((y - 0.8) / 9.0) ** 2
  front = (1 - ramp(ellipse, 0.75, 1.0)) * ramp(z, 3.5, 5.5) * outer
  eye_angle = np.full(len(points), 180.0)
  for region, side in ((parts.LEFT_EYEBALL, 1), (parts.RIGHT_EYEBALL, -1)):
    eyeball = model.vertex_region == region
    offset = points[eyeball] - parts.sphere_centre(points[eyeball])
    axis = _EYE_AXIS * (side, 1, 1) / np.linalg.norm(_EYE_AXIS)
    cosine = offset @ axis / np.linalg.norm(offset, axis=1)
    eye_angle[eyeball] = np.degrees(np.arccos(np.clip(cosine, -1, 1)))
  depth_in_mouth = np.clip((10.9 - z) / 4, 0, 1)
  masks = (outer, brows * outer, lips, cheeks * outer, beard, moustache, scalp, lids * outer, front)
  return Regions(*(np.float32(mask) for mask in (*masks, eye_angle, depth_in_mouth)))


def hairline(z: np.ndarray) -> np.ndarray:
  """The height `[V]` in cm above which hair grows on the neutral head, by how far forward a place lies."""
  return np.interp(z, [-9.5, -4.0, 1.0, 3.5, 6.0, 8.0, 9.5], [-5.0, -3.0, 2.5, 4.5, 8.0, 10.0, 10.6])


def smooth_noise(rng: np.random.Generator, points: np.ndarray, wavelength: float, waves: int = 8) -> np.ndarray:
  """`[N]` random waves over points `[N, 3]`, about normal with deviation 1."""
  directions = rng.standard_normal((3, waves))
  directions *= 2 * np.pi / wavelength / np.linalg.norm(directions, axis=0) * rng.uniform(0.6, 1.6, waves)
  phases = rng.uniform(0, 2 * np.pi, waves)
  angles = points.astype(np.float32) @ directions.astype(np.float32) + phases.astype(np.float32)
  return np.cos(angles) @ np.full(waves, np.sqrt(2 / waves), np.float32)


def skin_albedo(rng: np.random.Generator, model: MorphableHead, where: Regions, look: Look) -> np.ndarray:
  """`[V, 3]` linear albedo of the skin and all that is painted on it; the rest is left as skin."""
  points = model.neutral
  skin = np.tile(np.float32(look.skin), (len(points), 1))
  skin *= np.exp(0.07 * look.mottling * smooth_noise(rng, points, 4.0))[:, None]
  skin *= np.exp(0.04 * look.mottling * rng.standard_normal(len(points), np.float32))[:, None]
  if look.freckles > 0.2:
    spots = np.clip(smooth_noise(rng, points, 0.8, 6) - 1, 0, 1) * look.freckles
    skin = skin * (1 - spots[:, None] * np.float32((0.25, 0.4, 0.5)))
  flush = (0.3 * look.blush + 0.1) * where.cheeks[:, None]
  skin = skin * (1 - flush * np.float32((0.0, 0.35, 0.3)))
  lip = look.skin * (1 - look.lip_redness * np.array([0.15, 0.5, 0.45])) if look.lip_paint is None else look.lip_paint
  strength = where.lips * (0.4 + 0.6 * look.lip_redness if look.lip_paint is None else 0.9)
  skin = _mix(skin, lip, strength)
  skin = _mix(skin, skin * 0.45, 0.7 * where.lids)
  hairs = 0.75 + 0.25 * rng.random(len(points), np.float32)
  brows = np.clip(where.brows * look.brow_thickness * 1.2, 0, 1)
  skin = _mix(skin, look.hair * 0.8, brows * look.brow_strength * hairs)
  shadow = np.clip(where.beard + where.moustache, 0, 1)
  skin = _mix(skin, 0.5 * look.skin * (0.75, 0.95, 1.05), look.shadow * shadow)
  skin = _mix(skin, look.hair, np.clip(look.beard * 1.6 * where.beard * hairs, 0, 0.95))
  return _mix(skin, look.hair, np.clip(look.moustache * 1.6 * where.moustache * hairs, 0, 0.95))


def eye_and_mouth_albedo(
  rng: np.random.Generator, model: MorphableHead, where: Regions, look: Look, albedo: np.ndarray
) -> None:
  """Paints eyeballs, teeth, gums, tongue and the insides of mouth and eye sockets into `albedo` `[V, 3]`."""
  region = model.vertex_region
  eyes = where.eye_angle < 180
  angle = where.eye_angle[eyes]
  sclera = _linear(np.array([218, 208, 200]) * rng.uniform(0.82, 1.04))
  redness = ramp(angle, 25, 65)[:, None]
  colour = sclera * (1 - redness * (0.25, 0.5, 0.5))
  iris = look.iris * (0.7 + 0.6 * rng.random((len(angle), 1)))
  iris = _mix(iris, look.iris * 0.3, ramp(angle, 18, 22))
  colour = _mix(colour, iris, 1 - ramp(angle, _IRIS_ANGLE - 1.5, _IRIS_ANGLE + 1.5))
  pupil = rng.uniform(6, 12)
  albedo[eyes] = _mix(colour, np.full(3, 0.004), 1 - ramp(angle, pupil - 1.5, pupil + 1.5))
  shade = 1 - 0.9 * where.depth_in_mouth[:, None]
  teeth = _linear(np.array([226, 214, 190]) * rng.uniform(0.75, 1.05))
  for number, paint in ((parts.TEETH, teeth), (parts.GUMS, _linear(np.array([168, 80, 78])))):
    albedo[region == number] = paint * shade[region == number]
  albedo[region == parts.MOUTH] = _linear(np.array([90, 40, 36])) * shade[region == parts.MOUTH] ** 2
  albedo[(region == 3) | (region == 4)] = look.skin * (0.45, 0.3, 0.3)


def _linear(srgb: np.ndarray) -> np.ndarray:
  return linearise(np.clip(srgb, 0, 255) / 255)


def _mix(below: np.ndarray, above: np.ndarray, share: np.ndarray) -> np.ndarray:
  share = np.reshape(share, (-1, 1)).astype(np.float32)
  return below + share * (np.asarray(above, np.float32) - below)


def _distance_to_line(points: np.ndarray, line: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
  """Distance of points `[N, 3]` to a polyline `[M, 3]`, and how far along it, in [0, 1], the nearest place is."""
  best, along = np.full(len(points), np.inf), np.zeros(len(points))
  for number, (start, end) in enumerate(itertools.pairwise(line)):
    direction = end - start
    t = np.clip((points - start) @ direction / (direction @ direction), 0, 1)
    distance = np.linalg.norm(points - start - t[:, None] * direction, axis=1)
    nearer = distance < best
    best[nearer], along[nearer] = distance[nearer], (number + t[nearer]) / (len(line) - 1)
  return best, along


def soft_inside(points: np.ndarray, polygon: np.ndarray, width: float) -> np.ndarray:
  """1 inside a polygon `[M, 2]`, 0 outside, over a soft edge of `width`, for points `[N, 2]`."""
  x, y = points.T
  inside = np.zeros(len(points), bool)
  for (x0, y0), (x1, y1) in zip(polygon, np.roll(polygon, -1, axis=0), strict=True):
    crosses = (y0 > y) != (y1 > y)
    inside ^= crosses & (x < (x1 - x0) * (y - y0) / (y1 - y0 if y1 != y0 else 1) + x0)
  flat = np.column_stack([points, np.zeros(len(points))])
  outline = np.column_stack([np.vstack([polygon, polygon[:1]]), np.zeros(len(polygon) + 1)])
  distance, _ = _distance_to_line(flat, outline)
  return ramp(np.where(inside, distance, -distance), -width, width)
