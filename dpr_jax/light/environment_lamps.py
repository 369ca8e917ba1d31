"""The lamps of an environment map, and what is left of it without them.

A threshold rises over the map's luminance. What is brighter than it falls apart into connected components, and a
component becomes a lamp as soon as it is compact and round, as long as what it holds above the threshold is a share of
the map's light that a shadow could be seen of. So a sun is a lamp with the glow close around it, a softbox is one lamp,
a pair of bulbs two; a wide window, an overcast sky and a long tube are none.
"""

import numpy as np

from dpr_jax.base.native_libraries import import_native
from dpr_jax.light import sh
from dpr_jax.light.light import LUMINANCE_WEIGHTS, MAX_LAMPS, Light
from dpr_jax.light.panorama import pixel_directions, pixel_solid_angles

_MOST_COLUMNS = 512  # of the map in which lamps are looked for
_THRESHOLDS_PER_OCTAVE = 2
# Of all the light of the map: a lamp of a share s lights a surface that faces it s / (1 - s) times four as much as even
# light of the rest does. At 0.04 its shadow is by a seventh darker than what is around it.
_LEAST_SHARE = 0.04
_LARGEST = 35.0  # degrees of diameter
_BAR = 1.4  # degrees
# Diameter by spread over diameter by area: 1 of a disc, larger of what is long, hollow, or several. (Suns with the glow
# that a lens gives them reach 2.5.)
_LEAST_ROUND = 2.5
# How much of the light of a lamp's pixels lies above the threshold: less is the top of a broad glow.
_LEAST_PROMINENT = 0.7


def panorama_light(panorama: np.ndarray) -> Light:
  """The light of an environment map, its brightest compact sources as lamps and the rest as the soft part.

  A lamp points to where the mean of its light comes from, and has the irradiance of a surface that faces that way. The
  soft part is the projection of the whole map less that of the lamps as points, so `light.harmonics` of the result is
  the projection of the map, whatever was found.

  Args:
    panorama: linear radiance, `[H, W]` or `[H, W, 3]` RGB, not negative; axes as of `dpr_jax.light.panorama`. Values
      near the limits of floating point are for the caller to scale.

  Returns:
    In the map's own unit, of one channel or three; up to `MAX_LAMPS` lamps, the brightest first.

  Raises:
    ValueError: wrong shape or non-finite values.
  """
  whole = np.atleast_2d(sh.environment(panorama)).astype(np.float64)
  small = _shrunk(np.atleast_3d(panorama))
  lamps = sorted(_find_lamps(small), key=lambda lamp: -_luminance(lamp[0]))[:MAX_LAMPS]
  irradiance = np.array([lamp[0] for lamp in lamps]).reshape(-1, len(whole))
  towards = np.array([lamp[1] for lamp in lamps]).reshape(-1, 3)
  size = np.array([lamp[2] for lamp in lamps])
  soft = whole - irradiance.T @ sh.basis(towards)
  return Light(*(np.float32(part) for part in (soft, towards, irradiance, size)))


def _find_lamps(radiance: np.ndarray) -> list[tuple[np.ndarray, np.ndarray, float]]:
  """Irradiance `[C]`, direction `[3]` and diameter in degrees of each lamp of a map `[H, W, C]`, in no order."""
  luminance = _luminance(radiance)
  towards, solid_angle = pixel_directions(*luminance.shape), pixel_solid_angles(*luminance.shape)
  total = (luminance * solid_angle).sum()
  lowest, highest = total / (4 * np.pi), luminance.max()
  lamps = []
  if highest <= lowest:
    return lamps
  steps = np.arange(np.floor(_THRESHOLDS_PER_OCTAVE * np.log2(highest / lowest)) + 1)
  for threshold in lowest * 2 ** (steps / _THRESHOLDS_PER_OCTAVE):
    above = np.maximum(luminance - threshold, 0) * solid_angle
    if above.sum() < _LEAST_SHARE * total:
      break
    labels, count = _components(above > 0)
    flux = _sums(above, labels, count)
    vector = np.stack([_sums(above * towards[..., axis], labels, count) for axis in range(3)], axis=-1)
    area = flux**2 / np.maximum(_sums(above**2 / solid_angle, labels, count), np.finfo(float).tiny)
    spread, size = _diameter_by_spread(flux, vector), _diameter_by_area(area)
    prominent = flux >= _LEAST_PROMINENT * _sums(luminance * solid_angle, labels, count)
    is_lamp = (flux >= _LEAST_SHARE * total) & (spread <= _LARGEST) & (spread <= _LEAST_ROUND * size) & prominent
    for label in np.nonzero(is_lamp[1:])[0] + 1:
      pixels = labels == label
      share = above[pixels] / luminance[pixels]  # of their light that the lamp takes, times the solid angle
      middle = vector[label] / np.linalg.norm(vector[label])
      irradiance = (share * (towards[pixels] @ middle)) @ radiance[pixels]
      lamps.append((irradiance, middle, max(float(spread[label]), 180 / len(radiance))))
      luminance = np.where(pixels, 0, luminance)  # a higher threshold finds nothing more in it
  return lamps


def _diameter_by_spread(flux: np.ndarray, vector: np.ndarray) -> np.ndarray:
  """The angular diameter in degrees of the even disc whose light has as long a vector sum beside its plain sum."""
  return np.degrees(2 * np.arccos(np.clip(2 * np.linalg.norm(vector, axis=-1) / np.maximum(flux, 1e-300) - 1, -1, 1)))


def _diameter_by_area(area: np.ndarray) -> np.ndarray:
  """The angular diameter in degrees of a disc of so many steradians."""
  return np.degrees(2 * np.arccos(np.clip(1 - area / (2 * np.pi), -1, 1)))


def _components(bright: np.ndarray) -> tuple[np.ndarray, int]:
  """Labels the connected parts of a map `[H, W]` bool, 0 where it is dark; left and right edge touch, and each pole.

  What is no farther apart than the bars of a window are wide counts as connected.
  """
  cv2 = import_native("cv2")
  reach = 2 * round(_BAR / 2 / (180 / len(bright))) + 1
  joined = cv2.dilate(bright.astype(np.uint8), np.ones((reach, reach), np.uint8))
  count, labels = cv2.connectedComponents(joined, connectivity=8)
  left, right = labels[:, 0], labels[:, -1]
  touching = [(left, right), (left[1:], right[:-1]), (left[:-1], right[1:])]
  touching += [(np.full_like(row, row.max()), row) for row in (labels[0], labels[-1])]
  one, other = (np.concatenate(side) for side in zip(*touching, strict=True))
  one, other = (side[(one > 0) & (other > 0)] for side in (one, other))
  first = np.arange(count)  # of each label, the smallest that it is known to be the same as
  while True:
    before, lower = first.copy(), np.minimum(first[one], first[other])
    np.minimum.at(first, one, lower)
    np.minimum.at(first, other, lower)
    first = first[first]
    if (first == before).all():
      return np.where(bright, first[labels], 0), count


def _sums(values: np.ndarray, labels: np.ndarray, count: int) -> np.ndarray:
  """The sums of values `[H, W]` over the pixels of each label, `[count]`."""
  return np.bincount(labels.ravel(), values.ravel(), count)


def _luminance(rgb: np.ndarray) -> np.ndarray:
  """Of linear RGB or gray `[..., C]` -> `[...]`."""
  return rgb @ LUMINANCE_WEIGHTS.astype(np.float64) if rgb.shape[-1] == 3 else rgb[..., 0]


def _shrunk(radiance: np.ndarray) -> np.ndarray:
  """The map `[H, W, C]` at `_MOST_COLUMNS` or fewer, float64."""
  height, width = radiance.shape[:2]
  if width > _MOST_COLUMNS:
    cv2 = import_native("cv2")
    size = (_MOST_COLUMNS, max(1, round(height * _MOST_COLUMNS / width)))
    radiance = cv2.resize(np.ascontiguousarray(radiance, np.float32), size, interpolation=cv2.INTER_AREA)
  return radiance.reshape(*radiance.shape[:2], -1).astype(np.float64)
