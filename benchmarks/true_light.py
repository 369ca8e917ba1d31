"""A head under lamps and environment maps with true cast shadows: what relit pictures are measured against.

Lamps are discs, and environment maps a few hundred small parts; each part of either lights the head from one direction,
past the meshes that lie in the way: a shadow map for each. Skin mirrors a little, and what surfaces throw on each other
is part of the soft light (`Surface.open_share`).
"""

import numba
import numpy as np

from data_gen.heads import portraits
from data_gen.heads.environments import Environment
from data_gen.heads.portraits import Surface, View
from data_gen.rasterize import rasterize
from dpr_jax.base.native_libraries import import_native
from dpr_jax.light import light as light_module
from dpr_jax.light import sh
from dpr_jax.light.environment_lamps import panorama_light
from dpr_jax.light.light import LUMINANCE_WEIGHTS, Light
from dpr_jax.light.panorama import pixel_directions, pixel_solid_angles

cv2 = import_native("cv2")

_MAP_SIDE = 448  # pixels of a shadow map
_OFF_SURFACE, _BIAS = 0.12, 0.12  # cm: along the normal, and towards the lamp
_DISC_PARTS, _SPHERE_PARTS = 24, 160
_BOUNCE = 0.05  # of the mean irradiance, thrown back by skin and room
_MIRRORED, _ROUGHNESS = 0.026, 0.45  # reflectance head on of skin, and its roughness (GGX)


class Stage:
  """A view made ready to be lit from any direction."""

  def __init__(self, view: View, surface: Surface):
    """Takes a view and what it shows."""
    self._surface = surface
    # A pixel at an edge is lit where the nearest of what it shows lies: between two surfaces there is nothing.
    shown, fine = surface.fragments, view.size * portraits.SUPERSAMPLING
    row, column = np.divmod(shown.place, fine)
    pixel = row // portraits.SUPERSAMPLING * view.size + column // portraits.SUPERSAMPLING
    nearest = np.full(view.size**2, -1)
    order = np.argsort(shown.depth, kind="stable")
    nearest[pixel[order]] = order
    self._seen = (nearest >= 0).reshape(view.size, view.size)
    chosen = nearest[nearest >= 0]
    flat = np.stack([column, row], axis=-1)[chosen] + 0.5
    self._points = view.places(flat / portraits.SUPERSAMPLING, shown.depth[chosen]).astype(np.float32)
    normals = shown.of(chosen).gather(np.concatenate(view.normals))
    normals /= np.maximum(np.linalg.norm(normals, axis=-1, keepdims=True), 1e-6)
    normals[normals[:, 2] < 0] *= -1  # sheets of hair have two sides
    self._normals = normals
    starts = np.cumsum([0, *(len(placed) for placed in view.placed)])
    self._vertices = np.concatenate(view.placed).astype(np.float32)
    self._triangles = np.concatenate(
      [part.triangles + start for part, start in zip(view.person.parts, starts, strict=False)]
    ).astype(np.int32)
    towards = np.array([0, 0, view.camera.distance], np.float32) - self._points
    self._view = towards / np.linalg.norm(towards, axis=-1, keepdims=True)

  def lit(self, directions: np.ndarray, irradiance: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """The light of small sources past all that is in the way.

    Args:
      directions: `[K, 3]` unit, axes of `dpr_jax.light.sh`.
      irradiance: `[K]`, by each, of a surface that faces it.

    Returns:
      What arrives, `[S, S]`, and what is mirrored to the camera, `[S, S]`; 0 where nothing is.
    """
    arrives, mirrored = np.zeros(len(self._points), np.float32), np.zeros(len(self._points), np.float32)
    for (x, into, up), strength in zip(directions, irradiance, strict=True):
      towards = np.float32([x, up, -into])
      cosine = self._normals @ towards
      facing = cosine > 0
      if strength <= 0 or not facing.any():
        continue
      points = self._points[facing] + np.float32(_OFF_SURFACE) * self._normals[facing]
      received = np.float32(strength) * cosine[facing] * sees(points, self._vertices, self._triangles, towards)
      arrives[facing] += received
      mirrored[facing] += received * _mirror(self._normals[facing], self._view[facing], towards)
    return self._picture(arrives), self._picture(mirrored)

  def _picture(self, values: np.ndarray) -> np.ndarray:
    picture = np.zeros(self._seen.shape, np.float32)
    picture[self._seen] = values
    return picture

  def under_lamps(self, light: Light) -> np.ndarray:
    """Linear RGB `[S, S, 3]` times coverage, under a gray light whose lamps are discs and cast shadows."""
    surface = self._surface
    soft = np.maximum(light_module.shading(light._replace(irradiance=0 * light.irradiance), surface.normal)[..., 0], 0)
    parts = [disc(*lamp) for lamp in zip(light.towards, light.size, strict=True)]
    directions = np.concatenate(parts) if parts else np.zeros((0, 3))
    strengths = np.repeat(light.irradiance[:, 0], _DISC_PARTS) / _DISC_PARTS
    return self._reflected(soft, *self.lit(directions, strengths))

  def under_map(self, environment: Environment, degrees: float) -> np.ndarray:
    """Linear RGB `[S, S, 3]` times coverage, under the luminance of a map that is turned as `sh.turn`."""
    directions, irradiance = sphere_parts(environment.radiance @ LUMINANCE_WEIGHTS)
    arrives, mirrored = self.lit(directions @ sh.turn(degrees).T, irradiance)
    # What is in the way is not black but throws light back; `open_share` has that of even light.
    return self._reflected(0 * arrives, arrives, mirrored)

  def _reflected(self, soft: np.ndarray, arrives: np.ndarray, mirrored: np.ndarray) -> np.ndarray:
    surface = self._surface
    face = surface.label > 0
    mean = float((soft + arrives)[face].mean()) if face.any() else 0.0
    received = (soft + _BOUNCE * mean)[..., None] * surface.open_share + arrives[..., None]
    return surface.albedo * received + (mirrored * face)[..., None]


def map_light(environment: Environment, degrees: float) -> Light:
  """The gray light of a turned map, its brightest sources as lamps: how a network is told of it."""
  light = panorama_light(environment.radiance @ LUMINANCE_WEIGHTS)
  return light_module.rotate(light, sh.turn(degrees))


def disc(towards: np.ndarray, size: float) -> np.ndarray:
  """Directions `[K, 3]` to parts of a lamp of equal size, spread evenly over it (Vogel's spiral).

  Args:
    towards: `[3]`, to its middle.
    size: its angular diameter in degrees.
  """
  number = np.arange(_DISC_PARTS) + 0.5
  radius = np.tan(np.radians(size) / 2) * np.sqrt(number / _DISC_PARTS)
  angle = number * np.pi * (3 - np.sqrt(5))
  right, up = _across(towards)
  around = towards + (radius * np.cos(angle))[:, None] * right + (radius * np.sin(angle))[:, None] * up
  return around / np.linalg.norm(around, axis=1, keepdims=True)


def sphere_parts(luminance: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
  """A map `[H, W]` as small sources: directions `[K, 3]` in the axes of `dpr_jax.light.sh` and irradiances `[K]`.

  Each part of the sphere sends its light from where most of it comes from, so that a sun keeps its place.
  """
  towards = pixel_directions(*luminance.shape).reshape(-1, 3)
  flux = (luminance * pixel_solid_angles(*luminance.shape)).ravel()
  number = np.arange(_SPHERE_PARTS) + 0.5
  up, around = 1 - 2 * number / _SPHERE_PARTS, number * np.pi * (3 - np.sqrt(5))
  centres = np.column_stack([np.sqrt(1 - up**2) * np.cos(around), np.sqrt(1 - up**2) * np.sin(around), up])
  nearest = np.argmax(np.float32(towards) @ np.float32(centres).T, axis=1)
  vectors = np.stack([np.bincount(nearest, flux * axis, _SPHERE_PARTS) for axis in towards.T], axis=1)
  length = np.linalg.norm(vectors, axis=1)
  kept = length > 0
  return vectors[kept] / length[kept, None], length[kept]


def _across(towards: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
  helper = np.array([0.0, 0, 1]) if abs(towards[2]) < 0.9 else np.array([1.0, 0, 0])
  right = np.cross(helper, towards)
  right /= np.linalg.norm(right)
  return right, np.cross(towards, right)


def _mirror(normals: np.ndarray, view: np.ndarray, towards: np.ndarray) -> np.ndarray:
  """What skin mirrors, `[P]`, in the unit of albedo: GGX (Walter et al. 2007) with Schlick's Fresnel."""
  half = view + towards
  half /= np.maximum(np.linalg.norm(half, axis=-1, keepdims=True), 1e-6)
  squared = _ROUGHNESS**4
  spread = (normals * half).sum(axis=-1) ** 2 * (squared - 1) + 1
  fresnel = _MIRRORED + (1 - _MIRRORED) * (1 - np.clip((view * half).sum(axis=-1), 0, 1)) ** 5
  facing, seen = np.clip(normals @ towards, 0.1, 1), np.clip((normals * view).sum(axis=-1), 0.1, 1)
  return (np.pi * fresnel * squared / (np.pi * spread**2) / (4 * facing * seen) * np.minimum(facing, seen)).astype(
    np.float32
  )


def sees(points: np.ndarray, vertices: np.ndarray, triangles: np.ndarray, towards: np.ndarray) -> np.ndarray:
  """What share of a far small lamp points see past a mesh, by a shadow map (Williams 1978) looked up between pixels.

  Args:
    points: `[P, 3]` in cm, a little off the surface.
    vertices: `[V, 3]` in cm.
    triangles: `[T, 3]`; both sides block.
    towards: `[3]` unit, to the lamp, in the same axes.

  Returns:
    `[P]` float32 in [0, 1].
  """
  right, up = _across(np.asarray(towards, np.float64))
  axes = np.float32(np.stack([right, up, towards], axis=1))
  flat, mesh = points @ axes, vertices @ axes
  low, high = flat[:, :2].min(axis=0), flat[:, :2].max(axis=0)
  scale = np.float32((_MAP_SIDE - 5) / max(float((high - low).max()), 1e-3))
  mesh[:, :2] = (mesh[:, :2] - low) * scale + 2
  flat[:, :2] = (flat[:, :2] - low) * scale + 2
  _, depth = rasterize(mesh, triangles, np.zeros((len(mesh), 0)), _MAP_SIDE, _MAP_SIDE)
  return _compare(flat, depth, np.float32(_BIAS))


@numba.njit(cache=True, nogil=True)
def _compare(points, depth, bias):
  lit = np.empty(len(points), np.float32)
  for p in range(len(points)):
    x, y, z = points[p, 0], points[p, 1], points[p, 2] + bias
    column, row = int(np.floor(x)), int(np.floor(y))
    right, down = x - column, y - row
    total = np.float32(0)
    for b in range(2):
      for a in range(2):
        weight = (right if a else 1 - right) * (down if b else 1 - down)
        if depth[row + b, column + a] <= z:
          total += np.float32(weight)
    lit[p] = total
  return lit
