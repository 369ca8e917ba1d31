"""The colour of skin from its two pigments: melanin in the epidermis over a dermis that holds blood.

Light passes the epidermis, is scattered back by the dermis and passes the epidermis again (as in Donner & Jensen 2006
and Jimenez et al. 2010). The dermis is a half-space of diffuse reflectance (Flock et al. 1989), blood absorbs as Prahl
tabulated it, and melanin as a power of the wavelength. Constants are near the published ones (Jacques 2013), chosen
such that the tones are those of photographs: light skin pinker, dark skin less orange.
"""

import functools

import numpy as np

from dpr_jax.base.native_libraries import import_native
from dpr_jax.light.light import LUMINANCE_WEIGHTS

cv2 = import_native("cv2")

# Shares of the volume that the table spans: melanosomes of the epidermis, blood of the dermis.
MELANIN, BLOOD = (0.002, 0.6), (0.001, 0.4)
_ROWS, _COLUMNS = 48, 32
_TYPICAL_BLOOD = 0.02

_WAVELENGTHS = np.arange(420.0, 700.0, 10.0)  # nm
# Molar extinction of oxygenated and deoxygenated haemoglobin, 1 / (cm M), at those wavelengths (Prahl 1999).
_OXYGENATED = np.array(
  [
    *(480360, 246072, 102580, 62816, 44480, 33209, 26629, 23684, 20933, 20035, 24202, 39957, 53236, 43016),
    *(32613, 44496, 50104, 14401, 3200, 1506, 942, 610, 442, 368, 320, 294, 278, 276),
  ],
  float,
)
_DEOXYGENATED = np.array(
  [
    *(407560, 528600, 413280, 103292, 23389, 16156, 14550, 16684, 20862, 25774, 31590, 39036, 46592, 53412),
    *(53788, 45072, 37020, 28324, 14677, 9444, 6510, 5149, 4345, 3750, 3227, 2795, 2408, 2052),
  ],
  float,
)
_SATURATION = 0.75
_BLOOD_OF_MOLAR = 2.303 * 150 / 64500  # whole blood's absorption in 1 / cm
_EPIDERMIS = 0.006  # cm
_PATH = 2.2  # through the epidermis and back, slanted, in thicknesses
_MELANIN_ABSORPTION, _MELANIN_POWER = 494.0, -2.5  # 1 / cm at 550 nm
_INSIDE = 1.25  # what the boundary of skin and air sends back is seen too, in part
_SURFACE = 0.016  # mirrored by the surface, seen from everywhere
# Centres and widths in nm of a camera's red, green and blue.
_CAMERA = ((605.0, 35.0), (540.0, 38.0), (460.0, 28.0))


def skin_colour(melanin: np.ndarray, blood: np.ndarray) -> np.ndarray:
  """The albedo of skin, linear RGB `[..., 3]` float32.

  Args:
    melanin: `[...]`, share of the epidermis, clipped to `MELANIN`.
    blood: `[...]`, share of the dermis, clipped to `BLOOD`.
  """
  row = _place(melanin, MELANIN, _ROWS)
  column = _place(blood, BLOOD, _COLUMNS)
  shape = np.broadcast_shapes(row.shape, column.shape)
  row, column = (np.ascontiguousarray(np.broadcast_to(part, shape), np.float32).ravel() for part in (row, column))
  # Remapped in rows of a length that OpenCV takes.
  width = min(len(row), 8192)
  padding = -len(row) % width
  row, column = (np.pad(part, (0, padding)).reshape(-1, width) for part in (row, column))
  colour = cv2.remap(_table(), column, row, cv2.INTER_LINEAR, borderMode=cv2.BORDER_REPLICATE)
  return colour.reshape(-1, 3)[: int(np.prod(shape))].reshape(*shape, 3)


def melanin_of_luminance(luminance: float) -> float:
  """How much melanin skin with a usual share of blood has whose albedo has a luminance in [0, 1]."""
  shares = np.geomspace(*MELANIN, 256)
  seen = skin_colour(shares, np.full(len(shares), _TYPICAL_BLOOD)) @ LUMINANCE_WEIGHTS
  return float(np.interp(-luminance, -seen, shares))


def _place(share: np.ndarray, limits: tuple[float, float], count: int) -> np.ndarray:
  """Where in a table of `count` entries, evenly spaced in their logarithms, a share lies."""
  low, high = np.log(limits)
  share = np.clip(np.asarray(share, np.float32), *limits)
  return (np.log(share) - np.float32(low)) * np.float32((count - 1) / (high - low))


@functools.cache
def _table() -> np.ndarray:
  """Linear RGB by melanin and blood, `[48, 32, 3]` float32."""
  wavelength = _WAVELENGTHS
  melanin = np.geomspace(*MELANIN, _ROWS)[:, None, None]
  blood = np.geomspace(*BLOOD, _COLUMNS)[None, :, None]
  bare = 0.244 + 85.3 * np.exp(-(wavelength - 154) / 66.2)  # skin without pigment, 1 / cm
  epidermis = melanin * _MELANIN_ABSORPTION * (wavelength / 550) ** _MELANIN_POWER + (1 - melanin) * bare
  haemoglobin = _SATURATION * _OXYGENATED + (1 - _SATURATION) * _DEOXYGENATED
  dermis = blood * _BLOOD_OF_MOLAR * haemoglobin + (1 - blood) * bare
  scattering = 46 * (wavelength / 500) ** -1.421  # reduced, 1 / cm (Jacques 2013)
  albedo = scattering / (scattering + dermis)
  depth = np.sqrt(3 * (1 - albedo))
  reflectance = albedo / 2 * (1 + np.exp(-4 / 3 * 1.8 * depth)) * np.exp(-depth)
  spectrum = np.exp(-_PATH * _EPIDERMIS * epidermis) * reflectance
  sensors = np.stack([np.exp(-(((wavelength - centre) / width) ** 2) / 2) for centre, width in _CAMERA])
  seen = spectrum @ (sensors / sensors.sum(axis=1, keepdims=True)).T
  return np.float32(np.minimum(_INSIDE * seen + _SURFACE, 0.95))
