"""The colours: linear RGB albedo of skin, brows, lips, eyes, hair and cloth, and which pixel is what."""

import numpy as np

from data_gen.face_maps import Label
from data_gen.procedural_faces.attachments import hairline
from data_gen.procedural_faces.falloff import bell, bump
from data_gen.procedural_faces.head import IRIS_RADIUS, Features
from data_gen.procedural_faces.identity import ProceduralFace
from data_gen.procedural_faces.textures import Textures, strokes_at, tiled
from dpr_jax.base.arrays import ramp
from dpr_jax.base.native_libraries import import_native
from dpr_jax.image.color import linearise

cv2 = import_native("cv2")

# Ten skin tones from the lightest to the darkest: sRGB of evenly lit skin, after the Monk scale, as warm as in photos.
_SKIN = np.array(
  [
    (230, 192, 170),
    (224, 182, 155),
    (215, 170, 139),
    (202, 154, 120),
    (182, 134, 99),
    (157, 111, 79),
    (129, 88, 62),
    (103, 69, 50),
    (80, 54, 41),
    (62, 43, 34),
  ]
)
_DARKEST, _LIGHTEST = 0.003, 0.95


def skin_color(tone: float) -> np.ndarray:
  """Linear RGB albedo of a skin tone from 0 (lightest) to 1 (darkest)."""
  at = np.interp(tone, np.linspace(0, 1, len(_SKIN)), np.arange(len(_SKIN)))
  return linearise(np.array([np.interp(at, np.arange(len(_SKIN)), channel) for channel in _SKIN.T]) / 255)


def _mix(color: np.ndarray, other: np.ndarray, share: np.ndarray) -> np.ndarray:
  return color + (np.asarray(other, np.float32) - color) * share[:, None]


def _scale(color: np.ndarray, share: np.ndarray, factor: tuple[float, float, float]) -> np.ndarray:
  """Multiplies RGB by `factor` where `share` is 1."""
  return color * (1 + share[:, None] * (np.array(factor, np.float32) - 1))


def _albedo(color: np.ndarray) -> np.ndarray:
  return np.clip(color, _DARKEST, _LIGHTEST).astype(np.float32)


def paint_head(face: ProceduralFace, textures: Textures, chart: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
  """Skin with everything on it but the eyeballs.

  Args:
    face: whose.
    textures: its textures.
    chart: `[N, 4]` of `head.Grid`.

  Returns:
    albedo: `[N, 3]`, linear RGB.
    label: `[N]` uint8 of `Label`.
  """
  x, y, around, ring = chart.T
  grain = tiled(textures.grain, 3.84 * around, -3 * y)
  label = np.where(ring < 12.4, Label.SKIN, Label.NECK).astype(np.uint8)
  color = skin_color(face.skin_tone).astype(np.float32)
  color = color * (1 + face.skin_contrast * (grain @ np.float32([0.06, 0.06, 0.05, 0.04])))[:, None]
  front = np.abs(around) < 85
  color[front] = _complexion(face, color[front], x[front], y[front], grain[front])
  if face.beard > 0.02:
    lower = front & (y < -20)
    color[lower] = _beard(face, textures, color[lower], chart[lower], grain[lower])
  color, scalp = _scalp(face, textures, color, chart, grain)
  label[front & (scalp > 0.3)] = Label.BACKGROUND
  features = Features(face)
  eyes = front & (np.abs(np.abs(x) - features.eye) < 26) & (y > -16) & (y < 46)
  color[eyes], label[eyes] = _eye_region(face, textures, color[eyes], label[eyes], x[eyes], y[eyes])
  mouth = front & (np.abs(x) < features.half_mouth + 8) & (np.abs(y - features.mouth) < 34)
  color[mouth], label[mouth] = _mouth(face, color[mouth], label[mouth], x[mouth], y[mouth], grain[mouth, 1])
  hole = front * (1 - ramp(_from_centre(np.abs(x), y, features.nostril, (3.9, 1.7)), 0.7, 1.35))
  label[hole > 0.4] = Label.FEATURE
  return _albedo(_scale(color, hole, (0.19, 0.15, 0.14))), label


def _from_centre(x, y, centre, radii):
  """Distance in radii: 1 on the ellipse."""
  return np.hypot((x - centre[0]) / radii[0], (y - centre[1]) / radii[1])


def _complexion(face, color, x, y, grain):
  """Red cheeks, nose, chin; dark around the eyes; light forehead; freckles."""
  side, features = np.abs(x), Features(face)
  blush = 0.8 * bump(side, y, (38, -32), (15, 13)) + 0.8 * bump(x, y, (0, features.tip), (11, 9))
  blush += 0.35 * bump(x, y, (0, features.chin), (14, 9)) + 0.3 * bump(x, y, (0, 45), (40, 10)) + 0.25 * grain[:, 2]
  color = _scale(color, blush * face.redness * (1 - 0.5 * face.skin_tone), (1.02, 0.86, 0.88))
  dark = 0.9 * bump(side, y, (features.eye, -11), (12, 4.5)) + 0.5 * bump(side, y, (features.eye, 8), (14, 6))
  dark += 0.7 * bump(side, y, (17, 2), (4, 7))
  dark += 0.5 * bump(side, y, (face.nose_width / 2 + 1, features.nose_base + 6), (2.5, 6))
  color = _scale(color, dark, (0.84, 0.78, 0.80))
  light = bump(x, y, (0, 48), (34, 14)) + 0.6 * bump(x, y, (0, features.tip + 14), (5, 14))
  color = _scale(color, light, (1.05, 1.05, 1.05))
  freckles = face.freckles**2 * ramp(grain[:, 1] + 0.5 * grain[:, 2], 0.45, 0.85) * bump(side, y, (22, -18), (26, 16))
  return _scale(color, freckles, (0.78, 0.64, 0.55))


def _beard(face, textures, color, chart, grain):
  x, y, around, _ = chart.T
  side, features = np.abs(x), Features(face)
  ragged = 2.5 * grain[:, 1]
  height = features.nose_base - features.mouth + 7
  from_mouth = _from_centre(side, y, (0, features.mouth - 10), (features.half_mouth + 8, height))
  bare = 0.7 * bump(side, y, (13, features.mouth - 15), (5, 4))  # below the corners of the mouth
  region = (1 - ramp(from_mouth + 0.03 * ragged, 0.85, 1.05)) * (1 - bare)
  cheek_line = features.nose_base - 12 + 0.0095 * np.maximum(side - 22, 0) ** 2
  region = np.maximum(region, ramp(cheek_line + ragged - y, 0, 14) * ramp(side, 20, 34))
  region = np.maximum(region, ramp(features.mouth - 20 - y, 0, 10)) * ramp(y + ragged, -133, -114)
  hairs = ramp(tiled(textures.strands, 11.5 * around + 0.5 * y + 25 * grain[:, 1], -12 * y), -0.7, 0.6)
  dots = ramp(grain[:, 0] + 0.3 * grain[:, 1], -0.1, 0.9)
  stubble = min(2.2 * face.beard, 1) * (0.14 + 0.36 * dots)
  full = ramp(face.beard, 0.45, 0.9) * (0.62 + 0.25 * hairs + 0.15 * dots)
  return _mix(color, 0.7 * np.array(face.hair) + 0.12 * skin_color(face.skin_tone), region * np.maximum(stubble, full))


def _scalp(face, textures, color, chart, grain):
  """The roots of the hair, or what a razor leaves of them; also the share `[N]` that they cover."""
  _, y, around, ring = chart.T
  cover = 0.9 if face.hair_style != "bald" else 0.35 * face.beard
  ragged = 4 * tiled(textures.strands, 7.7 * around, -4 * y) + 2 * grain[:, 1]
  share = cover * ramp(y - hairline(face, around) + ragged, -5, 6) * (ring < 12)
  return _mix(color, 0.9 * np.array(face.hair) + 0.05 * skin_color(face.skin_tone), share), share


def _eye_region(face, textures, color, label, x, y):
  features = Features(face)
  brow, lash = strokes_at(textures, x, y)
  upper, lower, t = features.lids(x)
  crease, near = features.crease(x)
  color = _scale(color, near * bell(y - crease, 0.8), (0.7, 0.7, 0.7))
  color = _scale(color, 0.7 * bell(y - lower + 0.35, 0.5) * (np.abs(t) < 1), (1.12, 0.88, 0.85))  # the lower lid's edge
  hair = 0.55 * np.array(face.hair) + 0.002
  color = _mix(color, hair, np.minimum(1.04 * brow, 0.9))
  lashes = 0.75 * bell((y - upper - 0.3) / (1 + 0.5 * np.clip(t, 0, 1)), 0.5) * (np.abs(t) < 1.02)
  lashes = lashes + lash * (0.85 * (y > upper) + 0.6 * (y < lower))
  color = _mix(color, np.minimum(0.5 * hair, 0.02), np.minimum(lashes, 0.95))
  label[(brow > 0.25) & (y > 8)] = Label.FEATURE
  label[(np.abs(t) < 1.05) & (y < upper + 1.5) & (y > lower - 1.2)] = Label.FEATURE
  return color, label


def _mouth(face, color, label, x, y, grain):
  features, side = Features(face), np.abs(x)
  half, beside = features.half_mouth, features.beside_opening(x, y)
  rim_above, top, bottom, rim_below = features.lips(x)
  lip = ramp(rim_above - y, -0.9, 0.9) * ramp(y - rim_below, -1.2, 1.2) * (1 - ramp(side, half - 3, half))
  red = 1 - (0.35 + 0.65 * face.lip_color) * (1 - np.array([0.88, 0.45, 0.50]) * (1 - 0.25 * face.skin_tone))
  wrinkles = 1 + 0.10 * grain + 0.05 * np.sin(3.3 * x + 2 * grain)
  shade = wrinkles * np.where(y > (top + bottom) / 2, 0.82, 1.0)  # the upper lip is darker
  color = _mix(color, skin_color(face.skin_tone) * red * shade[:, None], 0.95 * lip)
  line = bell(beside, 0.75) * (1 - ramp(side, half - 1, half + 2.5))
  color = _scale(color, line, (0.28, 0.28, 0.28))
  opening = ramp(top - y, -0.1, 0.5) * ramp(y - bottom, -0.1, 0.5) * (side < half)
  color = _mix(color, (0.035, 0.010, 0.009), opening)
  teeth = ramp(y - top + 6.0 - 0.004 * x**2, 0, 0.8) * ramp(top - y, 0.9, 2.6)
  between_teeth = 1 - 0.35 * bell((side + 3.8) % 7.6 - 3.8, 0.35)
  fading = np.clip(1 - (x / (0.95 * half)) ** 2, 0, 1)
  color = _mix(color, (0.62, 0.55, 0.46), opening * teeth * between_teeth * fading)
  label[(lip > 0.35) | ((beside < 1) & (side < half))] = Label.FEATURE
  return color, label


def paint_eyeball(
  face: ProceduralFace, textures: Textures, chart: np.ndarray, from_axis: np.ndarray, azimuth: np.ndarray
) -> np.ndarray:
  """Albedo `[N, 3]` of the eyeballs.

  Args:
    face: whose.
    textures: its textures.
    chart: `[N, 4]` of the lids that would be there if the eyes were closed.
    from_axis: `[N]` millimetres from the eye's axis, on the ball.
    azimuth: `[N]` radians around it.
  """
  y, (upper, lower, t) = chart[:, 1], Features(face).lids(chart[:, 0])
  mottled = 1 + 0.03 * tiled(textures.grain, 60 * azimuth, 3 * from_axis)[:, 1] - 0.12 * ramp(np.abs(t), 0.55, 1)
  color = np.array([0.48, 0.44, 0.41]) * (1 - 0.45 * face.skin_tone) * mottled[:, None]
  color = _mix(color, (0.50, 0.27, 0.23), 0.75 * ramp(-t, 0.72, 0.95) + 0.35 * ramp(t, 0.75, 1))  # red corners
  fibres = 1 + 0.5 * tiled(textures.strands, azimuth / (2 * np.pi) * 512, 20 * from_axis)
  fibres = fibres * (1.35 - 0.5 * ramp(from_axis, 2.6, 5.4))
  iris = np.array(face.iris) * (fibres * (1 - 0.66 * ramp(from_axis, IRIS_RADIUS - 1.3, IRIS_RADIUS - 0.2)))[:, None]
  color = _mix(color, iris, 1 - ramp(from_axis, IRIS_RADIUS - 0.35, IRIS_RADIUS + 0.35))
  color = _mix(color, (0, 0, 0), 1 - ramp(from_axis, 1.9, 2.3))
  # The upper lid and its lashes keep light from the ball, the lower ones a little.
  dark = 0.55 * np.exp(-np.maximum(upper - y, 0) / 1.5) + 0.15 * np.exp(-np.maximum(y - lower, 0) / 0.7)
  return _albedo(color * (1 - dark)[:, None])


def paint_ears(face: ProceduralFace, textures: Textures, chart: np.ndarray) -> np.ndarray:
  """Albedo `[N, 3]`; redder than the face, dark in the bowl."""
  across, along = chart[:, :2].T
  mottled = 1 + 0.04 * tiled(textures.grain, 90 * across, 90 * along)[:, 1:3].sum(axis=1)
  bowl = bump(across, along, (-0.12, -0.1), (0.20, 0.20))
  return _albedo(skin_color(face.skin_tone) * (1, 0.86, 0.84) * (mottled * (1 - 0.65 * bowl))[:, None])


def paint_hair(face: ProceduralFace, textures: Textures, chart: np.ndarray) -> np.ndarray:
  """Albedo `[N, 3]`: locks, dark between them."""
  locks = tiled(textures.locks, 512 * chart[:, 1], 512 * chart[:, 0])
  return _albedo(np.array(face.hair) * np.exp(0.5 * _strands(textures, chart) + 0.3 * locks)[:, None])


def covers(textures: Textures, chart: np.ndarray) -> np.ndarray:
  """Where the shell of hair hides what is under it, `[N]` bool: its edge frays into strands."""
  return chart[:, 2] > 3.5 + 4 * np.clip(_strands(textures, chart), -1.5, 1.5)


def solid(chart: np.ndarray) -> np.ndarray:
  """The points of hair `[..., 4]` -> `[...]` bool, where it has no gaps."""
  return chart[..., 2] > 9.5


def _strands(textures, chart):
  return tiled(textures.strands, 1536 * chart[:, 1], 512 * chart[:, 0])


def paint_clothes(face: ProceduralFace, textures: Textures, chart: np.ndarray) -> np.ndarray:
  """Albedo `[N, 3]`: a weave."""
  weave = tiled(textures.grain, 6 * chart[:, 0], 6 * chart[:, 1]) @ np.float32([0.12, 0, 0.08, 0])
  return _albedo(np.array(face.clothes) * (1 + weave)[:, None])


def paint_backdrop(face: ProceduralFace, size: int) -> np.ndarray:
  """Radiance `[size, size, 3]` of what is far behind: two colours, out of focus."""
  rng = np.random.default_rng(face.seed + 1)
  blend = cv2.resize(rng.standard_normal((6, 6)).astype(np.float32), (64, 64), interpolation=cv2.INTER_CUBIC)
  slope = rng.normal(0, 2.4, 2)
  v, u = np.mgrid[0:64, 0:64].astype(np.float32) / 64 - 0.5
  share = 1 / (1 + np.exp(-(0.9 * cv2.GaussianBlur(blend, (0, 0), 4) + slope[0] * u + slope[1] * v)))[..., None]
  a, b = (np.array(c, np.float32) for c in face.backdrop)
  smooth = cv2.resize((a * share + b * (1 - share)).astype(np.float32), (size, size), interpolation=cv2.INTER_CUBIC)
  grain = rng.standard_normal((size, size, 1), np.float32)  # hides the steps of 8 bits
  return smooth * (1 + 0.02 * grain)
