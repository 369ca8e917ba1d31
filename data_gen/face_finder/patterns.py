"""Pictures without faces, drawn: what a face finder must not be taken in by."""

from collections.abc import Callable

import numpy as np

from dpr_jax.base.native_libraries import import_native

cv2 = import_native("cv2")

_WORDS = ("light", "portrait", "lamp", "sun", "shade", "photo", "relit", "left", "right", "0123456789", "@#%&")


def draw_pattern(rng: np.random.Generator, height: int, width: int) -> np.ndarray:
  """One of several kinds of pattern, `[H, W]` float32 in [0, 1]."""
  kinds: list[Callable] = [dead_leaves, cloud, rings, tiles, text, twigs]
  picture = kinds[rng.integers(len(kinds))](rng, height, width)
  if rng.random() < 0.4:
    share = rng.uniform(0.2, 0.7)
    picture = share * picture + (1 - share) * kinds[rng.integers(len(kinds))](rng, height, width)
  if rng.random() < 0.4:
    picture = cv2.GaussianBlur(picture, (0, 0), rng.uniform(0.5, 3))
  return np.clip(picture, 0, 1).astype(np.float32)


def dead_leaves(rng: np.random.Generator, height: int, width: int) -> np.ndarray:
  """Shapes over shapes (Matheron's dead leaves): edges, blobs and dots that may look like faces by chance."""
  picture = np.full((height, width), rng.uniform(), np.float32)
  count = 60 if max(height, width) < 200 else 400
  for radius in np.exp(np.sort(rng.uniform(np.log(2), np.log(min(height, width) / 2), count)))[::-1]:
    centre = _place(rng, height, width)
    axes = (int(radius), max(1, int(radius * rng.uniform(0.3, 1))))
    cv2.ellipse(picture, centre, axes, rng.uniform(0, 180), 0, 360, float(rng.uniform()), -1, cv2.LINE_AA)
  return picture


def cloud(rng: np.random.Generator, height: int, width: int) -> np.ndarray:
  """Noise whose spectrum falls with frequency, as that of natural pictures does."""
  fy, fx = np.meshgrid(np.fft.fftfreq(height), np.fft.rfftfreq(width), indexing="ij")
  spectrum = np.maximum(np.hypot(fx, fy), 1 / max(height, width)) ** -rng.uniform(0.8, 2.2)
  picture = np.fft.irfft2(spectrum * np.exp(2j * np.pi * rng.random(spectrum.shape)), (height, width))
  return 0.5 + picture / (4 * picture.std())


def rings(rng: np.random.Generator, height: int, width: int) -> np.ndarray:
  """A lattice of rings and discs, each with something in it."""
  picture = np.full((height, width), rng.uniform(), np.float32)
  step = rng.uniform(10, 90)
  for y in np.arange(0, height + step, step):
    for x in np.arange(0, width + step, step * rng.uniform(0.9, 1.3)):
      centre = (int(x + rng.normal(0, step / 12)), int(y + rng.normal(0, step / 12)))
      for share in np.sort(rng.uniform(0.08, 0.55, rng.integers(1, 5)))[::-1]:
        width_of_line = int(rng.choice((-1, 1, 2, 3)))
        cv2.circle(picture, centre, max(1, int(share * step)), float(rng.uniform()), width_of_line, cv2.LINE_AA)
  return picture


def tiles(rng: np.random.Generator, height: int, width: int) -> np.ndarray:
  """Rectangles side by side, with windows, and stripes across."""
  step = int(rng.integers(6, 70))
  cells = rng.uniform(size=(height // step + 2, width // step + 2)).astype(np.float32)
  picture = np.kron(cells, np.ones((step, step), np.float32))[:height, :width].copy()
  for _ in range(int(rng.integers(0, 60))):
    x, y = _place(rng, height, width)
    end = (x + int(rng.integers(2, 2 * step)), y + int(rng.integers(2, 2 * step)))
    cv2.rectangle(picture, (x, y), end, float(rng.uniform()), int(rng.choice((-1, 1, 2))))
  if rng.random() < 0.3:
    picture += 0.3 * np.sin(np.arange(width) * rng.uniform(0.1, 1.5) + rng.uniform(0, 6)).astype(np.float32)
  return picture


def text(rng: np.random.Generator, height: int, width: int) -> np.ndarray:
  """Lines of words and signs."""
  picture = np.full((height, width), int(rng.uniform(128, 255)), np.uint8)
  size, color = rng.uniform(0.3, 2.5), int(rng.uniform(0, 128))
  for y in np.arange(0, height + 40, 30 * size):
    line = " ".join(_WORDS[i] for i in rng.integers(0, len(_WORDS), 12))
    font, thickness = int(rng.choice((0, 2, 3, 4, 6))), int(rng.integers(1, 4))
    cv2.putText(picture, line, (int(rng.uniform(-40, 10)), int(y)), font, size, color, thickness, cv2.LINE_AA)
  picture = picture.astype(np.float32) / 255
  return picture if rng.random() < 0.7 else 1 - picture


def twigs(rng: np.random.Generator, height: int, width: int) -> np.ndarray:
  """Strokes and leaves in one place's direction, as grass, hair and foliage are."""
  picture = np.full((height, width), rng.uniform(0, 0.6), np.float32)
  towards, spread = rng.uniform(0, 180), rng.uniform(5, 90)
  for _ in range(int(rng.integers(200, 1200))):
    length = rng.uniform(3, 40)
    axes = (int(length), max(1, int(length * rng.uniform(0.04, 0.4))))
    angle = towards + rng.normal(0, spread)
    cv2.ellipse(picture, _place(rng, height, width), axes, angle, 0, 360, float(rng.uniform()), -1, cv2.LINE_AA)
  return picture


def _place(rng: np.random.Generator, height: int, width: int) -> tuple[int, int]:
  return int(rng.uniform(0, width)), int(rng.uniform(0, height))
