"""Second-order spherical harmonics (SH): basis, shading, rotation, conventions.

A light is 9 numbers `[..., 9]`: the projection of the radiance L(w) that arrives from direction w onto the orthonormal
real harmonics, in the order `1, y, z, x, xy, yz, 3z^2-1, xz, x^2-y^2`. Coordinates: x to the image's right, y into the
scene (away from the camera: a normal that faces the camera has y = -1), z up. These are the numbers of the official
network (and of SHTOOLS, without the Condon-Shortley phase). A direction always points *to* where light comes from.

Functions on lights and directions give NumPy for NumPy and jnp for jnp, and can be used under `jit`, `vmap` and `grad`;
`minimum`, `environment` and the pictures are NumPy.
"""

import math
from typing import NamedTuple

import jax
import numpy as np

from dpr_jax.base.arrays import namespace
from dpr_jax.light.panorama import pixel_directions, pixel_solid_angles

Array = jax.Array | np.ndarray

# Python floats, which leave float32 arrays float32.
_SQRT_PI = math.sqrt(math.pi)
_BAND0 = 1 / (2 * _SQRT_PI)
_BAND1 = math.sqrt(3) / (2 * _SQRT_PI)
_BAND2 = math.sqrt(15) / (2 * _SQRT_PI)

# Convolution of a light with the clamped cosine, band by band (Basri & Jacobs 2003; Ramamoorthi & Hanrahan 2001).
LAMBERTIAN = np.repeat([np.pi, 2 * np.pi / 3, np.pi / 4], [1, 3, 5]).astype(np.float32)

# What a mirror that exchanges left and right does to each of the nine numbers: those of harmonics odd in x turn.
MIRROR = np.array([1, 1, 1, -1, -1, 1, 1, -1, 1], np.float32)

# Band 2 as quadratic forms: harmonic k + 4 of direction d is d^T _QUADRATIC[k] d. Traceless and mutually orthogonal.
_QUADRATIC = (
  _BAND2
  * np.array(
    [
      [[0, 1, 0], [1, 0, 0], [0, 0, 0]],
      [[0, 0, 0], [0, 0, 1], [0, 1, 0]],
      np.diag([-1, -1, 2]) / np.sqrt(3),
      [[0, 0, 1], [0, 0, 0], [1, 0, 0]],
      np.diag([1, -1, 0]),
    ]
  )
  / 2
)
_QUADRATIC_NORM = np.sum(_QUADRATIC[0] ** 2)  # the same for all five

# Band 1 stores (y, z, x); as a vector (x, y, z) it is band1[_XYZ], and back vector[_YZX].
_XYZ = np.array([2, 0, 1])
_YZX = np.array([1, 2, 0])


def _check_light(sh: Array) -> None:
  if sh.shape[-1:] != (9,):
    raise ValueError(f"a light must be [..., 9], not {list(sh.shape)}")


def basis(directions: Array) -> Array:
  """The nine harmonics at unit directions `[..., 3]` -> `[..., 9]`."""
  xp = directions.__array_namespace__()
  x, y, z = xp.moveaxis(directions, -1, 0)
  return xp.stack(
    [
      _BAND0 * xp.ones_like(x),
      _BAND1 * y,
      _BAND1 * z,
      _BAND1 * x,
      _BAND2 * x * y,
      _BAND2 * y * z,
      _BAND2 / (2 * math.sqrt(3)) * (3 * z * z - 1),
      _BAND2 * x * z,
      _BAND2 / 2 * (x * x - y * y),
    ],
    axis=-1,
  )


def radiance(sh: Array, directions: Array) -> Array:
  """The light `[9]` that arrives from unit directions `[..., 3]` -> `[...]`."""
  _check_light(sh)
  with jax.default_matmul_precision("highest"):
    return basis(directions) @ sh


def shading(normals: Array, sh: Array) -> Array:
  """Lambertian shading f(N, L) of a white surface (Zhou et al. 2019, equation 2).

  Args:
    normals: unit normals `[..., 3]`.
    sh: one light `[9]`, or several `[K, 9]`.

  Returns:
    `[...]`, or `[..., K]`; negative where second-order SH light goes negative.
  """
  _check_light(sh)
  with jax.default_matmul_precision("highest"):
    return basis(normals) @ (sh * np.broadcast_to(LAMBERTIAN, sh.shape)).T


def rotate(sh: Array, rotation: Array) -> Array:
  """Lights `[..., 9]` turned by `rotation` `[3, 3]`: light from direction d then comes from `rotation @ d`.

  Exact, band by band: band 1 is a vector, band 2 a traceless symmetric matrix. `rotation` may be any orthogonal matrix,
  a mirror included.
  """
  xp = namespace(sh, rotation)
  sh = xp.asarray(sh)
  _check_light(sh)
  dtype = xp.result_type(sh, xp.float32)
  rotation, quadratic = xp.asarray(rotation, dtype), xp.asarray(_QUADRATIC, dtype)
  with jax.default_matmul_precision("highest"):
    band1 = xp.einsum("ij,...j->...i", rotation, sh[..., 1:4][..., _XYZ])[..., _YZX]
    matrix = xp.einsum("...k,kij->...ij", sh[..., 4:], quadratic)
    matrix = xp.einsum("ai,...ij,bj->...ab", rotation, matrix, rotation)
    band2 = xp.einsum("...ij,kij->...k", matrix, quadratic) / float(_QUADRATIC_NORM)
  return xp.concatenate([sh[..., :1], band1, band2], axis=-1)


def turn(degrees: float) -> np.ndarray:
  """The rotation `[3, 3]` about the vertical that carries light from the front to image left, then to the back."""
  c, s = np.cos(np.radians(degrees)), np.sin(np.radians(degrees))
  return np.array([[c, s, 0], [-s, c, 0], [0, 0, 1]], np.float32)


def roll(degrees: float) -> np.ndarray:
  """The rotation `[3, 3]` about the view axis that carries light from image right to the top, then to image left."""
  c, s = np.cos(np.radians(degrees)), np.sin(np.radians(degrees))
  return np.array([[c, 0, -s], [0, 1, 0], [s, 0, c]], np.float32)


def direction(azimuth: Array | float, elevation: Array | float) -> Array:
  """Degrees `[...]`, broadcast against each other -> unit directions `[..., 3]`, float32.

  (0, 0) is the camera; azimuth grows to the image's left, elevation upwards.
  """
  xp = namespace(azimuth, elevation)
  azimuth, elevation = xp.broadcast_arrays(xp.radians(azimuth), xp.radians(elevation))
  level = xp.cos(elevation)
  parts = [-xp.sin(azimuth) * level, -xp.cos(azimuth) * level, xp.sin(elevation)]
  return xp.stack(parts, axis=-1).astype(xp.float32)


def directional(towards: Array, ambient: float = 0.3, dc: float = 0.75) -> Array:
  """A large soft lamp plus even light from everywhere.

  The lamp's radiance is a lobe, max(0, cos) around its direction: as hard as nine numbers can say without going far
  below zero on the other side. With the default ambient share the contrast is that of the authors' example lights.

  Args:
    towards: unit direction to the lamp, `[..., 3]`.
    ambient: the share of the light that is even, 0 (lamp only) to 1 (no lamp).
    dc: the first coefficient, which sets the mean radiance; the networks were trained on 0.7 to 0.9.

  Returns:
    `[..., 9]`.
  """
  xp = namespace(towards)
  harmonics = basis(xp.asarray(towards))
  lamp = harmonics * xp.broadcast_to(LAMBERTIAN / LAMBERTIAN[0], harmonics.shape) * (dc / _BAND0)
  even = xp.broadcast_to(np.eye(9, dtype=np.float32)[0], harmonics.shape) * dc
  return ambient * even + (1 - ambient) * lamp


def minimum(sh: np.ndarray) -> float:
  """The smallest radiance of a light `[9]` over all directions; below 0 no physical light has these 9 numbers.

  Exact. With the light as c + b.d + d^T A d, a minimum on the sphere solves (A - m I) d = -b / 2 with m at most the
  smallest eigenvalue of A; m is the root of |d| = 1 (a trust-region subproblem: Moré & Sorensen 1983).
  """
  from scipy import optimize  # takes a second to import, and relighting a photo does without

  sh = np.asarray(sh, np.float64)
  _check_light(sh)
  b = _BAND1 * sh[1:4][_XYZ]
  eigenvalues, axes = np.linalg.eigh(np.tensordot(sh[4:], _QUADRATIC, 1))
  b = axes.T @ b

  def excess(m):
    return np.sum((b / 2 / (eigenvalues - m)) ** 2) - 1

  smallest, norm = eigenvalues[0], np.linalg.norm(b)
  margin = 1e-12 * max(1.0, norm, np.ptp(eigenvalues))
  if norm <= margin:
    return float(_BAND0 * sh[0] + smallest)
  # |d| falls from infinity at m = smallest to below 1 at m = smallest - |b|/2 - margin, unless b has no part along the
  # lowest axis (the "hard case": the rest of d then lies along that axis).
  if excess(smallest - margin) <= 0:
    d = np.where(eigenvalues - smallest <= margin, 0, -b / 2 / np.maximum(eigenvalues - smallest, margin))
    d[0] = np.sqrt(max(0.0, float(1 - d @ d)))
  else:
    m = optimize.brentq(excess, smallest - norm / 2 - 2 * margin, smallest - margin, xtol=1e-15)
    d = -b / 2 / (eigenvalues - m)
  d /= np.linalg.norm(d)
  return float(_BAND0 * sh[0] + b @ d + eigenvalues @ d**2)


def environment(panorama: np.ndarray) -> np.ndarray:
  """Projects a latitude-longitude environment map onto the harmonics.

  Args:
    panorama: linear radiance, `[H, W]` or `[H, W, C]`, which lies as `dpr_jax.light.panorama` says: its centre is
      straight into the scene (+y), its right quarter image right, its top row up.

  Returns:
    `[9]`, or `[C, 9]`.

  Raises:
    ValueError: wrong shape or non-finite values.
  """
  panorama = np.asarray(panorama, np.float64)
  if panorama.ndim not in (2, 3) or 0 in panorama.shape:
    raise ValueError(f"a panorama must be [H, W] or [H, W, C], not {list(panorama.shape)}")
  if not np.isfinite(panorama).all():
    raise ValueError("the panorama has values that are not finite")
  size = panorama.shape[:2]
  harmonics = basis(pixel_directions(*size)) * pixel_solid_angles(*size)[..., None]
  return np.einsum("hwk,hw...->...k", harmonics, panorama).astype(np.float32)


class Convention(NamedTuple):
  """How somebody else writes a light.

  Attributes:
    axes: `[3, 3]`; row i is their i-th axis in our coordinates (right, into the scene, up).
    order: `[9]`; their k-th coefficient is harmonic number `order[k]` of our order, taken in their axes.
  """

  axes: np.ndarray
  order: np.ndarray


_OUR_ORDER = np.arange(9)
_RIGHT, _INTO, _UP = np.eye(3, dtype=np.float32)

CONVENTIONS = {
  # This project, the official network, SHTOOLS.
  "dpr": Convention(np.stack([_RIGHT, _INTO, _UP]), _OUR_ORDER),
  # Basel Illumination Prior (Egger et al. 2018), as the scalismo-faces renderer defines it: x right, y up, z out of the
  # picture towards the viewer; the same order of harmonics.
  "bip": Convention(np.stack([_RIGHT, _UP, -_INTO]), _OUR_ORDER),
  # SfSNet (Sengupta et al. 2018): 1, z, x, y, 3z^2-1, xz, yz, x^2-y^2, xy; x down, y right, z towards the viewer, which
  # are the axes that the authors of DPR give for it.
  "sfsnet": Convention(np.stack([-_UP, _RIGHT, -_INTO]), np.array([0, 2, 3, 1, 6, 7, 5, 8, 4])),
  # A computer-vision camera, 3DDFA's: x right, y down, z into the scene.
  "camera": Convention(np.stack([_RIGHT, -_UP, _INTO]), _OUR_ORDER),
}


def convert(sh: Array, source: str, target: str = "dpr") -> Array:
  """Lights `[..., 9]` from one of `CONVENTIONS` to another. Exact, both ways.

  Raises:
    ValueError: an unknown convention, or not nine numbers.
  """
  for name in (source, target):
    if name not in CONVENTIONS:
      raise ValueError(f"unknown SH convention {name!r}; known: {', '.join(CONVENTIONS)}")
  given, wanted = CONVENTIONS[source], CONVENTIONS[target]
  sh = namespace(sh).asarray(sh)
  _check_light(sh)
  ours = rotate(sh[..., np.argsort(given.order)], given.axes.T)
  return rotate(ours, wanted.axes)[..., wanted.order]


def sphere_normals(size: int) -> tuple[np.ndarray, np.ndarray]:
  """The half sphere that faces the camera, as a picture `size` pixels wide.

  Returns:
    normals: `[size, size, 3]`, unit length inside the disc, (0, -1, 0) outside it.
    disc: `[size, size]` bool.
  """
  x, z = np.meshgrid(np.linspace(-1, 1, size), np.linspace(1, -1, size))
  disc = x**2 + z**2 <= 1
  x, z = x * disc, z * disc
  y = -np.sqrt(np.maximum(1 - x**2 - z**2, 0))  # rounding may leave the rim just below 0
  return np.stack([x, y, z], axis=-1).astype(np.float32), disc


def sphere_picture(sh: Array, size: int = 256) -> np.ndarray:
  """A white Lambertian sphere under a light `[9]`, as the authors show it: uint8 `[size, size]`, black around the disc.

  Stretched to the full range between the darkest point and the 95th percentile, so it shows where a light comes from,
  not how strong it is.
  """
  normals, disc = sphere_normals(size)
  shade = shading(normals.astype(np.float64), np.asarray(sh))
  shade = np.minimum(shade, np.percentile(shade, 95))
  span = np.ptp(shade)
  stretched = (shade - shade.min()) / span if span > 1e-6 else np.ones_like(shade)
  return (stretched * 255).astype(np.uint8) * disc
