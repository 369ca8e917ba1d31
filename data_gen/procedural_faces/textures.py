"""What is drawn once a face, then looked up: noise, strands of hair, the single hairs of brows and lashes."""

from typing import NamedTuple

import numpy as np

from data_gen.procedural_faces.head import Features
from data_gen.procedural_faces.identity import ProceduralFace
from dpr_jax.base.native_libraries import import_native

cv2 = import_native("cv2")

# The canvas that single hairs are drawn on: pixels per millimetre, its left and top edge and its size in millimetres.
_SCALE = 8
_LEFT, _TOP = -66, 46
_SIZE = 132, 62


class Textures(NamedTuple):
  """What hangs on a face's seed.

  Attributes:
    grain: `[512, 512, 4]`, tileable noise in about [-1, 1]: fine, middle, coarse and very coarse.
    strands: `[512, 512]` in about [-1, 1]: hairs that run down.
    locks: `[512, 512]`, the same, broader.
    strokes: `[H, W, 2]` in [0, 1]: hairs of the brows, and lashes, in the head's x and y.
  """

  grain: np.ndarray
  strands: np.ndarray
  locks: np.ndarray
  strokes: np.ndarray


def draw_textures(face: ProceduralFace) -> Textures:
  """The same for the same face, always."""
  rng = np.random.default_rng(face.seed)
  grain = np.stack([_noise(rng, sigma, sigma) for sigma in (0.9, 2.5, 9, 36)], axis=-1)
  strands = 0.75 * _noise(rng, 1.0, 50) + 0.5 * _noise(rng, 3, 60)
  locks = 0.5 * _noise(rng, 2.2, 60) + 0.5 * _noise(rng, 5, 80) + 0.5 * _noise(rng, 12, 90)
  return Textures(grain, strands, locks, _strokes(face, rng))


def tiled(picture: np.ndarray, x: np.ndarray, y: np.ndarray) -> np.ndarray:
  """Looks up a picture, which repeats for ever, at pixels `[N]`: `[N, ...]`."""
  return _look_up(picture, x % picture.shape[1], y % picture.shape[0], cv2.BORDER_WRAP)


def strokes_at(textures: Textures, x: np.ndarray, y: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
  """How much of brow and of lash there is at x and y `[N]` of the head, in [0, 1]."""
  return _look_up(textures.strokes, (x - _LEFT) * _SCALE, (_TOP - y) * _SCALE, cv2.BORDER_CONSTANT).T


def _noise(rng: np.random.Generator, across: float, along: float) -> np.ndarray:
  """Gaussian noise, smooth over so many pixels, tileable."""
  down, right = np.fft.fftfreq(512)[:, None], np.fft.rfftfreq(512)
  window = np.exp(-2 * np.pi**2 * ((along * down) ** 2 + (across * right) ** 2)).astype(np.float32)
  spectrum = rng.standard_normal((2, *window.shape), np.float32)
  smooth = np.fft.irfft2((spectrum[0] + 1j * spectrum[1]) * window, s=(512, 512))
  return (smooth / (2 * smooth.std())).astype(np.float32)


def _strokes(face: ProceduralFace, rng: np.random.Generator) -> np.ndarray:
  brows, lashes = (np.zeros((_SIZE[1] * _SCALE, _SIZE[0] * _SCALE), np.uint8) for _ in range(2))
  for side in (-1, 1):
    _draw_brow(brows, side, face, rng)
    _draw_lashes(lashes, side, face, rng)
  return np.stack([cv2.GaussianBlur(layer, (0, 0), 1.0).astype(np.float32) / 255 for layer in (brows, lashes)], axis=-1)


def _draw_brow(canvas, side, face, rng):
  number = int(750 * face.brow_thickness)
  t = rng.beta(1.15, 1.25, number)  # 0 at the nose, 1 at the temple
  features = Features(face)
  x = features.eye - 19 + 41 * t
  half = 3.6 * face.brow_thickness * np.clip(1.15 * (1 - t) ** 0.6, 0.16, 0.95) * np.clip(0.55 + 3 * t, 0, 1)
  offset = rng.uniform(-1, 1, number)
  lean = np.radians(np.interp(t, [0, 0.15, 0.5, 1], [75, 42, 16, -28])) - 0.35 * offset * np.clip(2 * t, 0, 1)
  length = rng.uniform(3.5, 6.5, number) * np.interp(t, [0, 0.2, 1], [0.75, 1, 0.8])
  _draw_hairs(canvas, side, x, features.brow(x)[0] + offset * half, lean, length, rng.uniform(0.4, 0.9, number))


def _draw_lashes(canvas, side, face, rng, number=70):
  features = Features(face)
  for edge, longest, sign, strength in ((0, 5.0, 1, 0.85), (1, 2.2, -1, 0.35)):
    t = rng.uniform(-0.75, 1.0, number)
    x = features.eye + t * face.eye_width / 2
    length = longest * np.clip(0.55 + 0.45 * t, 0.2, 1) * rng.uniform(0.6, 1, number)
    lean = sign * np.radians(90 - 48 * t + rng.normal(0, 8, number))
    _draw_hairs(canvas, side, x, features.lids(x)[edge], lean, length * 0.75, np.full(number, strength))


def _draw_hairs(canvas, side, x, y, lean, length, strength):
  """Straight hairs from x and y, in millimetres; `side` -1 mirrors them to the left."""
  roots = np.stack([side * x, y], axis=1)
  tips = roots + np.stack([side * np.cos(lean), np.sin(lean)], axis=1) * length[:, None]
  # cv2.line takes sixteenths of pixels when told that 4 bits are a fraction.
  ends = [(((p - (_LEFT, _TOP)) * (_SCALE, -_SCALE)) * 16).astype(int).tolist() for p in (roots, tips)]
  for root, tip, gray in zip(*ends, (255 * strength).astype(int).tolist(), strict=True):
    cv2.line(canvas, root, tip, gray, 1, cv2.LINE_AA, 4)


def _look_up(picture: np.ndarray, x: np.ndarray, y: np.ndarray, border: int) -> np.ndarray:
  """Samples at pixels `[N]`; cv2.remap takes at most 32767 rows or columns, so in rows of 4096."""
  number = len(x)
  padding = 4096 - number % 4096  # never empty, which remap would refuse
  maps = [np.pad(c.astype(np.float32), (0, padding)).reshape(-1, 4096) for c in (x, y)]
  found = cv2.remap(picture, *maps, cv2.INTER_LINEAR, borderMode=border)
  return found.reshape(-1, *picture.shape[2:])[:number]
