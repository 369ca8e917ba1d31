"""Light on a head: second-order spherical harmonics, a hard lamp with gloss and a cast shadow, and the exposure.

Axes: x to the picture's right, y up, z towards the viewer.
"""

from typing import NamedTuple

import numpy as np

from data_gen.rasterize import rasterize
from dpr_jax.light import sh

_SHADOW_MAP = 160  # pixels
_SHADOW_BIAS = 0.5  # cm


class Lighting(NamedTuple):
  """The light of one picture.

  Attributes:
    ambient: `[3, 9]`, red, green and blue in the conventions of `dpr_jax.light.sh`.
    lamp: `[3]`, unit direction to a hard lamp.
    lamp_color: `[3]`, its irradiance on a surface that faces it; zero without a lamp.
    gloss: how strongly skin mirrors the lamp.
    hardness: exponent of the highlight.
    casts_shadow: whether the lamp's light is blocked by the head itself.
    brightness: mean of the shaded skin in linear light after exposure, in [0, 1].
  """

  ambient: np.ndarray
  lamp: np.ndarray
  lamp_color: np.ndarray
  gloss: float
  hardness: float
  casts_shadow: bool
  brightness: float


def draw_lighting(rng: np.random.Generator, environments: np.ndarray | None = None) -> Lighting:
  """A random light: an environment or lobes of light, and often a lamp from anywhere, from the side and behind too.

  Args:
    rng: the randomness.
    environments: `[N, 3, 9]`, lights of environment maps to choose from.
  """
  if environments is not None and rng.random() < 0.4:
    ambient = sh.rotate(environments[rng.integers(len(environments))], sh.turn(rng.uniform(-180, 180)))
    # A camera balances most of the colour away.
    ambient = ambient / np.maximum(ambient[:, :1], 1e-6) ** rng.uniform(0.6, 1)
    ambient = ambient / max(float(ambient[:, 0].mean()), 1e-6)
  else:
    ambient = np.zeros((3, 9))
    for _ in range(rng.integers(1, 4)):
      direction = sh.direction(rng.uniform(-180, 180), rng.uniform(-50, 80))
      color = rng.uniform(0.1, 1) * _tint(rng)
      ambient += color[:, None] * sh.directional(direction, ambient=rng.uniform(0.1, 0.9))
    ambient /= ambient[:, 0].mean()
  lamp = rng.standard_normal(3) + np.array([0, 0.4, 0.5])
  if rng.random() < 0.2:  # from the side, or from behind
    lamp = np.array([rng.choice([-1, 1]), rng.uniform(-0.2, 0.6), rng.uniform(-0.9, 0.2)])
  strength = rng.uniform(0.3, 4) if rng.random() < 0.5 else 0.0
  return Lighting(
    ambient=ambient,
    lamp=lamp / np.linalg.norm(lamp),
    lamp_color=strength * _tint(rng),
    gloss=rng.uniform(0.0, 0.12),
    hardness=rng.uniform(8, 50),
    casts_shadow=rng.random() < 0.6,
    brightness=float(np.exp(rng.uniform(np.log(0.09), np.log(0.5)))),
  )


def shade(lighting: Lighting, albedo: np.ndarray, normals: np.ndarray, lit: np.ndarray) -> np.ndarray:
  """Reflected light `[V, 3]` of vertices before exposure.

  Args:
    lighting: the light.
    albedo: `[V, 3]` linear.
    normals: `[V, 3]` of unit length.
    lit: `[V]` in [0, 1], how much of the lamp each vertex sees.
  """
  normals, color = normals.astype(np.float32), lighting.lamp_color.astype(np.float32)
  irradiance = np.maximum(sh.shading(scene_axes(normals), lighting.ambient.astype(np.float32)) / np.pi, 0.02)
  irradiance = irradiance.astype(np.float32)
  if not color.any():
    return albedo * irradiance
  facing = np.maximum(normals @ lighting.lamp.astype(np.float32), 0) * lit
  half = lighting.lamp + np.array([0, 0, 1])
  half = (half / max(np.linalg.norm(half), 1e-6)).astype(np.float32)
  mirrored = np.maximum(normals @ half, 0) ** np.float32(lighting.hardness)
  highlight = np.float32(lighting.gloss * (lighting.hardness + 2) / 8) * mirrored * facing
  return albedo * (irradiance + facing[:, None] * color) + highlight[:, None] * color


def cast_shadow(vertices: np.ndarray, triangles: np.ndarray, lamp: np.ndarray) -> np.ndarray:
  """`[V]` in [0, 1]: whether vertices `[V, 3]` in cm see a lamp in the direction `lamp` past the triangles."""
  helper = np.array([0.0, 1, 0]) if abs(lamp[1]) < 0.9 else np.array([1.0, 0, 0])
  right = np.cross(helper, lamp)
  right /= np.linalg.norm(right)
  seen = vertices @ np.stack([right, np.cross(lamp, right), lamp], axis=1)
  low, high = seen[:, :2].min(axis=0), seen[:, :2].max(axis=0)
  scale = (_SHADOW_MAP - 3) / (high - low).max()
  flat = (seen[:, :2] - low) * scale + 1
  _, depth = rasterize(
    np.column_stack([flat, seen[:, 2]]), triangles, np.zeros((len(seen), 0), np.float32), _SHADOW_MAP, _SHADOW_MAP
  )
  column, row = np.floor(flat).astype(int).T
  lit = np.zeros(len(seen), np.float32)
  for i in (0, 1):
    for j in (0, 1):
      lit += 0.25 * np.clip((seen[:, 2] + _SHADOW_BIAS - depth[row + i, column + j]) / 0.3 + 1, 0, 1)
  return lit


def scene_axes(normals: np.ndarray) -> np.ndarray:
  """From x right, y up, z towards the viewer to the axes of `dpr_jax.light.sh`: x right, y into the scene, z up."""
  return np.stack([normals[:, 0], -normals[:, 2], normals[:, 1]], axis=1)


def _tint(rng: np.random.Generator) -> np.ndarray:
  return np.exp(rng.uniform(-1, 1) * np.array([0.2, 0.0, -0.25]) + rng.normal(0, 0.04, 3))
