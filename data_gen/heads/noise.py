"""Smooth random fields over space: value noise on a lattice that repeats."""

import numba
import numpy as np

_SIDE = 32  # of the lattice, a power of two


def lattice(rng: np.random.Generator) -> np.ndarray:
  """Random numbers of deviation 1 at the corners of a lattice, `[32, 32, 32]` float32."""
  return rng.standard_normal((_SIDE, _SIDE, _SIDE), np.float32)


def smooth_noise(table: np.ndarray, points: np.ndarray, wavelength: float | np.ndarray) -> np.ndarray:
  """Noise of deviation about 0.6 at points.

  Args:
    table: from `lattice`.
    points: `[N, 3]`.
    wavelength: the lattice's pitch in the unit of `points`; of each axis its own, `[3]`, for streaks.

  Returns:
    `[N]` float32.
  """
  pitch = np.broadcast_to(np.asarray(wavelength, np.float32), (3,))
  return _sample(table, np.ascontiguousarray(points, np.float32), np.float32(1) / pitch)


@numba.njit(cache=True, nogil=True)
def _sample(table, points, frequency):
  values = np.empty(len(points), np.float32)
  last = table.shape[0] - 1
  for n in range(len(points)):
    x, y, z = points[n, 0] * frequency[0], points[n, 1] * frequency[1], points[n, 2] * frequency[2]
    i, j, k = int(np.floor(x)), int(np.floor(y)), int(np.floor(z))
    x, y, z = x - i, y - j, z - k
    x, y, z = x * x * (3 - 2 * x), y * y * (3 - 2 * y), z * z * (3 - 2 * z)
    total = np.float32(0)
    for a in range(2):
      for b in range(2):
        for c in range(2):
          weight = (x if a else 1 - x) * (y if b else 1 - y) * (z if c else 1 - z)
          total += np.float32(weight) * table[(i + a) & last, (j + b) & last, (k + c) & last]
    values[n] = total
  return values
