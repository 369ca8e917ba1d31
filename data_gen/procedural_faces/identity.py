"""Who is in the picture: the numbers that describe a procedural face, and how they are drawn."""

from typing import NamedTuple

import numpy as np

# Lengths in millimetres, angles in degrees, shares and strengths without unit. (lowest, highest); the adult ranges of
# anthropometric surveys (Farkas 1994), rounded, both sexes together.
RANGES = {
  "head_width": (145.0, 162.0),
  "face_length": (0.95, 1.05),
  "jaw_width": (94.0, 114.0),
  "chin_width": (14.0, 21.0),
  "chin_forward": (-3.0, 4.0),
  "forehead_slope": (-4.0, 5.0),
  "cheekbones": (0.0, 4.0),
  "cheek_fullness": (-3.5, 4.0),
  "brow_ridge": (0.0, 4.5),
  "eye_distance": (59.0, 67.0),
  "eye_width": (27.0, 31.5),
  "eye_height": (9.0, 11.5),
  "eye_tilt": (-0.5, 3.0),
  "eye_depth": (-2.0, 2.0),
  "lid_crease": (0.2, 1.3),
  "nose_length": (46.0, 54.0),
  "nose_width": (31.0, 41.0),
  "nose_tip": (16.0, 23.0),
  "nose_bridge": (2.0, 8.0),
  "nose_hump": (-1.5, 2.0),
  "mouth_width": (45.0, 56.0),
  "upper_lip": (5.5, 9.5),
  "lower_lip": (7.5, 12.0),
  "ear_length": (56.0, 68.0),
  "ear_angle": (12.0, 32.0),
  "neck_width": (92.0, 118.0),
  "smile": (0.0, 1.0),
  "mouth_open": (0.0, 10.0),
  "brow_raise": (-1.5, 4.0),
  "eye_open": (0.75, 1.05),
  "yaw": (-35.0, 35.0),
  "pitch": (-15.0, 15.0),
  "roll": (-10.0, 10.0),
  "gaze_right": (-8.0, 8.0),
  "gaze_up": (-4.0, 4.0),
  "skin_tone": (0.0, 1.0),
  "redness": (0.3, 1.0),
  "freckles": (0.0, 1.0),
  "skin_contrast": (0.5, 1.2),
  "lip_color": (0.3, 1.0),
  "brow_thickness": (0.6, 1.35),
  "beard": (0.0, 1.0),
  "hairline": (58.0, 74.0),
  "hair_volume": (8.0, 22.0),
  "parting": (-16.0, 16.0),
  "comb": (-0.4, 0.4),
}

HAIR_STYLES = ("bald", "short", "long")


class ProceduralFace(NamedTuple):
  """One person at one moment; plain numbers and strings, so that `json` can keep `_asdict()`.

  The fields of `RANGES` have its units. Lengths are those of the undistorted head; "right" is the picture's.

  Attributes:
    yaw: degrees by which the head looks to the picture's right.
    pitch: degrees by which it looks up.
    roll: degrees by which it leans clockwise in the picture.
    gaze_right: degrees by which the eyes look to the picture's right of where the head does.
    gaze_up: degrees by which they look up.
    skin_tone: 0 (lightest) to 1 (darkest), even steps of a ten-tone scale.
    parting: degrees from the middle, of long hair.
    comb: turns around the head by which locks drift on their way down.
    beard: 0 (shaved) over stubble to 1 (full beard).
    hair_style: one of `HAIR_STYLES`.
    hair: linear RGB albedo.
    iris: linear RGB albedo.
    clothes: linear RGB albedo.
    backdrop: two linear RGB colours that the background runs between.
    seed: of everything that is drawn too often to be a field: strokes, freckles, noise.
  """

  head_width: float
  face_length: float
  jaw_width: float
  chin_width: float
  chin_forward: float
  forehead_slope: float
  cheekbones: float
  cheek_fullness: float
  brow_ridge: float
  eye_distance: float
  eye_width: float
  eye_height: float
  eye_tilt: float
  eye_depth: float
  lid_crease: float
  nose_length: float
  nose_width: float
  nose_tip: float
  nose_bridge: float
  nose_hump: float
  mouth_width: float
  upper_lip: float
  lower_lip: float
  ear_length: float
  ear_angle: float
  neck_width: float
  smile: float
  mouth_open: float
  brow_raise: float
  eye_open: float
  yaw: float
  pitch: float
  roll: float
  gaze_right: float
  gaze_up: float
  skin_tone: float
  redness: float
  freckles: float
  skin_contrast: float
  lip_color: float
  brow_thickness: float
  beard: float
  hairline: float
  hair_volume: float
  parting: float
  comb: float
  hair_style: str
  hair: tuple[float, float, float]
  iris: tuple[float, float, float]
  clothes: tuple[float, float, float]
  backdrop: tuple[tuple[float, float, float], tuple[float, float, float]]
  seed: int


# From near black over brown to blond and gray, and red; linear RGB.
_HAIR = np.array(
  [
    [0.010, 0.008, 0.007],
    [0.022, 0.014, 0.010],
    [0.050, 0.028, 0.016],
    [0.105, 0.058, 0.030],
    [0.230, 0.140, 0.070],
    [0.400, 0.270, 0.145],
    [0.190, 0.062, 0.025],
    [0.160, 0.153, 0.147],
  ]
)
_IRIS = np.array([[0.035, 0.018, 0.010], [0.075, 0.038, 0.018], [0.120, 0.095, 0.040], [0.110, 0.160, 0.190]])


def draw_face(rng: np.random.Generator) -> ProceduralFace:
  """Draws a face; skin tones evenly, identity from a bell within `RANGES`, pose mostly near the front."""
  drawn = {name: low + (high - low) * rng.beta(2.2, 2.2) for name, (low, high) in RANGES.items()}
  for name in ("yaw", "pitch", "roll", "gaze_right", "gaze_up"):
    drawn[name] = RANGES[name][1] * np.clip(rng.normal(0, 0.4), -1, 1)
  drawn["skin_tone"] = rng.uniform()
  drawn["smile"] = rng.beta(0.8, 1.2)
  drawn["mouth_open"] = RANGES["mouth_open"][1] * rng.beta(1, 3) if rng.uniform() < 0.4 else 0.0
  drawn["freckles"] = rng.beta(0.6, 2)
  masculine = rng.uniform() < 0.5
  drawn["beard"] = rng.beta(0.8, 1.3) if masculine else 0.0
  style = rng.choice(HAIR_STYLES, p=(0.2, 0.65, 0.15) if masculine else (0.02, 0.28, 0.7))
  # The darker the skin, the rarer light hair and eyes.
  dark = drawn["skin_tone"] > 0.4
  hair = _HAIR[
    rng.choice(len(_HAIR), p=_shares(5, 3, 0.3, 0, 0, 0, 0, 0.5) if dark else _shares(1, 2, 3, 3, 2, 1, 1, 1))
  ]
  iris = _IRIS[rng.choice(len(_IRIS), p=_shares(4, 1.5, 0.1, 0) if dark else _shares(1, 1, 1, 1.3))]
  return ProceduralFace(
    **{name: float(value) for name, value in drawn.items()},
    hair_style=str(style),
    hair=_color(hair * rng.uniform(0.8, 1.25)),
    iris=_color(iris * rng.uniform(0.8, 1.3)),
    clothes=_color(rng.beta(1.0, 2.5, 3) * 0.35 + rng.beta(1, 2) * 0.4 + 0.01),
    backdrop=(_color(_backdrop(rng)), _color(_backdrop(rng))),
    seed=int(rng.integers(2**31)),
  )


def _shares(*weights: float) -> np.ndarray:
  return np.array(weights) / sum(weights)


def _color(rgb: np.ndarray) -> tuple[float, float, float]:
  return tuple(float(c) for c in np.clip(rgb, 0, 1))


def _backdrop(rng: np.random.Generator) -> np.ndarray:
  return rng.uniform(0.02, 0.6) * (1 + rng.uniform(-0.35, 0.35, 3))
