"""Light on a scene: shading, cast shadows, shine, and the photo."""

from typing import NamedTuple

import numpy as np

from data_gen import srgb
from data_gen.face_maps import Label
from data_gen.procedural_faces import visibility
from data_gen.procedural_faces.scene import Scene, to_mesh_axes
from dpr_jax.base.native_libraries import import_native
from dpr_jax.light import sh as sh_lib

cv2 = import_native("cv2")


class Lamp(NamedTuple):
  """A lamp far away that casts shadows.

  Attributes:
    direction: `[3]`, unit, towards the lamp, in the axes of `dpr_jax.light.sh`.
    strength: shading of a white surface that faces it.
    softness: radius of its disc in degrees; 0 gives hard shadows.
  """

  direction: np.ndarray
  strength: float
  softness: float = 0.0


def shadow(scene: Scene, direction: np.ndarray, softness: float = 0.0) -> np.ndarray:
  """What share of a far lamp each pixel sees, past head, hair and clothes; 0 where it faces away.

  Args:
    scene: from `geometry`.
    direction: `[3]`, unit, towards the lamp, in the axes of `dpr_jax.light.sh`.
    softness: radius of the lamp's disc in degrees.

  Returns:
    `[S, S]` float32 in [0, 1]; 1 on the backdrop.
  """
  rows, columns = np.nonzero(scene.foreground)
  normal = to_mesh_axes(scene.normal[rows, columns])
  # Lifted off the surface, so that it does not shade itself.
  points = np.stack([columns, rows, scene.depth[rows, columns]], axis=1) + 1.3 * scene.millimetre * normal
  side = int(np.clip(1.25 * len(scene.depth), 256, 1024 if softness == 0 else 512))
  lamps = to_mesh_axes(visibility.disc(np.asarray(direction, np.float64), softness)).astype(np.float32)
  seen = [visibility.lit(scene.vertices, scene.triangles, points, lamp, side) * (normal @ lamp > 0) for lamp in lamps]
  visible = np.ones(scene.depth.shape, np.float32)
  visible[rows, columns] = np.mean(seen, axis=0)
  return visible


def radiance(scene: Scene, light: np.ndarray, lamp: Lamp | None = None, gloss: float = 0.0) -> np.ndarray:
  """Linear light that reaches the camera, `[S, S, 3]` float32, not clipped.

  Args:
    scene: from `geometry`.
    light: `[9]`, or `[3, 9]` for one light a channel.
    lamp: a lamp with shadows, on top of `light`.
    gloss: 0 for the exact albedo x shading; 1 for the shine of skin and wet eyes.
  """
  light = np.asarray(light, np.float32)
  if light.shape not in ((9,), (3, 9)):
    raise ValueError(f"a light must be [9] or [3, 9], not {list(light.shape)}")
  lights = np.atleast_2d(light)
  shading = np.maximum(_shade(scene.normal, lights) - scene.occlusion @ lights.T, 0)
  lamplight = 0.0
  if lamp is not None:
    lamplight = shadow(scene, lamp.direction, lamp.softness)[..., None] * np.float32(lamp.strength)
    shading = shading + lamplight * _facing(scene.normal, lamp.direction)
  linear = scene.albedo * shading
  if gloss:
    linear = linear + np.float32(gloss) * _shine(scene, lights, lamp, lamplight)
  return np.where(scene.foreground[..., None], linear, scene.backdrop)


def _shade(directions: np.ndarray, lights: np.ndarray) -> np.ndarray:
  """Shading `[S, S, K]` of lights `[K, 9]`."""
  return np.stack([sh_lib.shading(directions, light) for light in lights], axis=-1)


def _facing(directions: np.ndarray, towards: np.ndarray) -> np.ndarray:
  return np.maximum(directions @ np.asarray(towards, np.float32), 0)[..., None]


def _shine(scene, lights, lamp, lamplight):
  """Reflection at the surface: broad on skin, and on the eyes a sharp one of the brightest direction."""
  eyes = scene.cornea.any(axis=-1, keepdims=True)
  skin = np.isin(scene.label, [Label.SKIN, Label.FEATURE, Label.EAR])[..., None] & ~eyes
  reflected = _mirrored(scene.normal)
  fresnel = 0.025 + 0.06 * (1 - np.clip(-scene.normal[..., 1:2], 0, 1)) ** 4
  even = np.eye(9, dtype=np.float32)[0]
  open_share = 1 - scene.occlusion[..., :1] / sh_lib.shading(scene.normal, even)[..., None]
  shine = skin * fresnel * np.clip(open_share, 0, 1) * np.maximum(_shade(reflected, lights), 0)
  brightest = lights.mean(axis=0)[[3, 1, 2]]
  brightest = brightest / max(np.linalg.norm(brightest), 1e-6)
  if lamp is not None:
    brightest = lamp.direction
    shine = shine + 0.035 * skin * lamplight * _facing(reflected, lamp.direction) ** 12
  return shine + eyes * (0.003 + 0.9 * _facing(_mirrored(scene.cornea), brightest) ** 150)


def _mirrored(normal: np.ndarray) -> np.ndarray:
  """The direction that a mirror with this normal shows to the camera."""
  return -2 * normal[..., 1:2] * normal - np.float32([0, -1, 0])


def render(scene: Scene, light: np.ndarray, lamp: Lamp | None = None, gloss: float = 0.0) -> np.ndarray:
  """A photo: uint8 sRGB `[S, S, 3]`; the arguments are those of `radiance`.

  Lambertian in linear light: the pixel is sRGB(albedo x shading), clipped. A ratio image in linear light relights it
  exactly, but for shine, shadows and what is clipped; the published one, which multiplies L of Lab, does not.
  """
  linear = np.clip(radiance(scene, light, lamp, gloss), 0, 1)
  return srgb.from_linear(_smooth_edges(scene, linear))


def _smooth_edges(scene: Scene, linear: np.ndarray) -> np.ndarray:
  """Averages where the surface jumps, which a pixel of a camera would see both sides of."""
  depth = np.where(scene.foreground, scene.depth, -1e4)
  nearest, farthest = (fold(depth, np.ones((3, 3), np.uint8)) for fold in (cv2.dilate, cv2.erode))
  cos = np.maximum(-scene.normal[..., 1], 0.05)
  steep = 3 * np.sqrt(1 - np.minimum(cos, 1) ** 2) / cos
  jumps = nearest - farthest > steep + 4 * max(1.0, scene.millimetre)
  return np.where(jumps[..., None], cv2.GaussianBlur(linear, (0, 0), 0.8), linear)
