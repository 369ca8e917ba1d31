"""The few smooth functions that shapes and colours are made of; elementwise."""

import numpy as np


def bell(x: np.ndarray, sigma: float) -> np.ndarray:
  """1 at 0, falling as a Gaussian."""
  return np.exp(-0.5 * (x / sigma) ** 2)


def bump(x: np.ndarray, y: np.ndarray, centre: tuple[float, float], sigma: tuple[float, float]) -> np.ndarray:
  """1 at a centre, falling as a Gaussian with its own width in x and y."""
  return np.exp(-0.5 * (((x - centre[0]) / sigma[0]) ** 2 + ((y - centre[1]) / sigma[1]) ** 2))


def smooth_maximum(a: np.ndarray, b: np.ndarray, width: float) -> np.ndarray:
  """The larger of two heights, with the crease between them rounded over about `width`."""
  difference = a - b
  return (a + b + np.sqrt(difference * difference + width * width)) / 2
