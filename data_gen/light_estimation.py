"""The light that a portrait was taken in, as nine SH numbers (Zhou et al. 2019, section 3.1).

Three ways behind one interface, `make_estimator`:

- `fit`: from pixels and normals, under the paper's constraint that the nine numbers come from some non-negative light.
- `sfsnet`: SfSNet's light output (Sengupta et al. 2018).
- `network`: what the relighting network itself sees in the photo.

A light is a factor on whatever its ratio image multiplies (`dpr_jax.image.ratio.KINDS`): `fit` explains the luminance
that it is given, linear Y or L. SfSNet and the published relighting networks were trained on lights in L, ours on
lights in linear luminance; where the other is wanted, theirs are carried over.

A ratio image divides by the source shading, so the scale of the source light sets the brightness of every relit image.
All three scale theirs to a mean shading of 1 over the skin: the albedo is then the mean luminance of the skin.
"""

from collections.abc import Callable

import numpy as np

from dpr_jax.base.errors import BadInput
from dpr_jax.base.native_libraries import import_native
from dpr_jax.image import color
from dpr_jax.light import sh
from dpr_jax.light.light import Light, harmonics

cv2 = import_native("cv2")

# (pixels [H, W, 3] uint8 RGB, luminance [H, W], normal [H, W, 3], skin [H, W] bool) -> light [9]
Estimator = Callable[[np.ndarray, np.ndarray, np.ndarray, np.ndarray], np.ndarray]

ESTIMATORS = ("fit", "sfsnet", "network")

_MAX_EQUATIONS = 10_000
_MIN_SKIN_PIXELS = 100

# Tukey's biweight at 95% efficiency for Gaussian errors, and the reweightings after which a face changes no more.
_TUKEY = 4.685
_REWEIGHTINGS = 6
_TYPICAL_SCALE, _LEAST_SCALE = 0.1, 1e-4  # of the residuals, in shading, before the first fit and for rounding

# A Gaussian prior on the light, against errors of the scale that the residuals show. It says little of band 1 and
# nothing of the mean. A face shows normals of the front half only, where e.g. y and y^2 look alike: without a prior a
# few outliers turn the light around although the shading hardly changes.
_PRECISION = np.diag(np.repeat([0, 0.2, 1.0], [1, 3, 5]))


# ---------------------------------------------------------------------------------------------------------------------
# Lights that come from something.


def _triple_products() -> np.ndarray:
  """Integrals over the sphere of Y_k Y_i Y_j, `[9, 4, 4]`; i and j of degree 0 and 1."""
  # The vertices of an icosahedron integrate degree 5 exactly with equal weights, and this is degree 4.
  golden = (1 + np.sqrt(5)) / 2
  corners = [(0, a, b * golden) for a in (-1, 1) for b in (-1, 1)]
  vertices = np.array([np.roll(corner, shift) for corner in corners for shift in range(3)]) / np.hypot(1, golden)
  harmonics = sh.basis(vertices)
  return np.einsum("nk,ni,nj->kij", harmonics, harmonics[:, :4], harmonics[:, :4]) * (4 * np.pi / len(vertices))


_TRIPLE_PRODUCTS = _triple_products()


def moment_matrix(light: np.ndarray) -> np.ndarray:
  """The moments of a light in the harmonics of degree 0 and 1: entry (i, j) is the integral of L Y_i Y_j.

  Nine numbers belong to some non-negative light if and only if this matrix is positive semi-definite: a polynomial of
  degree 2 that is non-negative on the sphere is a sum of squares of polynomials of degree 1 (Hilbert), and the matrix
  is positive semi-definite if and only if the light's integral against every such square is non-negative. The truncated
  light itself, `sh.radiance`, may still be negative in places.

  Args:
    light: `[9]`.

  Returns:
    `[4, 4]` symmetric, rows and columns in the order 1, y, z, x. The last three diagonal entries sum to three times the
    first.
  """
  return np.tensordot(light, _TRIPLE_PRODUCTS, 1)


def _nonnegative_quadratic(hessian: np.ndarray, linear: np.ndarray) -> np.ndarray:
  """Minimises light' H light / 2 - linear' light over the lights `[9]` whose moment matrix is positive semi-definite.

  A barrier method (Nesterov & Nemirovskii 1994): Newton's method on the objective minus mu log det M(light), mu falling
  to 1e-10. At its end the objective is at most 4 mu above the minimum, with mu M^-1 as the certificate.
  """
  light = np.linalg.solve(hessian, linear)
  if np.linalg.eigvalsh(moment_matrix(light))[0] >= 0:
    return light
  light, mu = np.eye(9)[0] * max(linear[0] / hessian[0, 0], 1e-3), 0.1
  while True:
    products = np.linalg.inv(moment_matrix(light)) @ _TRIPLE_PRODUCTS
    gradient = hessian @ light - linear - mu * np.trace(products, axis1=1, axis2=2)
    curvature = hessian + mu * products.reshape(9, 16) @ products.transpose(0, 2, 1).reshape(9, 16).T
    step = np.linalg.solve(curvature, -gradient)
    decrement = np.sqrt(max(-gradient @ step, 0) / mu)
    # The damped step cannot leave the cone, nor can the full one once the decrement is below 1 (self-concordance).
    light = light + (step if decrement < 0.25 else step / (1 + decrement))
    if decrement < 0.5:
      if mu <= 1e-10:
        return light
      mu /= 10


# ---------------------------------------------------------------------------------------------------------------------
# The fit.


def fit_light(luminance: np.ndarray, normals: np.ndarray, *, robust: bool = True) -> np.ndarray:
  """Fits a non-negative light to luminances, with their mean as the one albedo (Zhou et al. 2019, section 3.1).

  Args:
    luminance: `[N]`, with a positive mean; its scale does not matter.
    normals: `[N, 3]`, unit length.
    robust: iteratively reweighted by Tukey's biweight, so that hair, beards, highlights and cast shadows weigh little,
      and with a prior for soft light where the normals leave the light open. False: least squares, as
      published.

  Returns:
    `[9]` float64.
  """
  basis = sh.basis(np.asarray(normals, np.float64)) * sh.LAMBERTIAN.astype(np.float64)
  shading = np.asarray(luminance, np.float64) / np.mean(luminance, dtype=np.float64)
  scale, weights = _TYPICAL_SCALE, np.ones(len(shading))
  if not robust:
    # The prior far below what pixels can tell, so that normals that are all alike can be solved too.
    return _nonnegative_quadratic(*_quadratic(basis, shading, weights, _LEAST_SCALE))
  for _ in range(_REWEIGHTINGS):
    residuals = np.abs(shading - basis @ np.linalg.solve(*_quadratic(basis, shading, weights, scale)))
    scale = max(1.4826 * np.median(residuals), _LEAST_SCALE)
    weights = np.square(np.maximum(1 - np.square(residuals / (_TUKEY * scale)), 0))
  return _nonnegative_quadratic(*_quadratic(basis, shading, weights, scale))


def _quadratic(
  basis: np.ndarray, shading: np.ndarray, weights: np.ndarray, scale: float
) -> tuple[np.ndarray, np.ndarray]:
  """Weighted least squares and the prior as a quadratic `[9, 9]` and a linear term `[9]`."""
  weighted = basis * (weights / weights.sum())[:, None]
  return weighted.T @ basis + scale**2 * _PRECISION, weighted.T @ shading


def _skin_equations(luminance: np.ndarray, normal: np.ndarray, skin: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
  """Luminance `[N]` and unit normals `[N, 3]` of the skin, evenly thinned to `_MAX_EQUATIONS`."""
  if skin.dtype != bool or skin.ndim != 2 or luminance.shape != skin.shape or normal.shape != (*skin.shape, 3):
    raise ValueError(
      f"luminance {list(luminance.shape)}, normal {list(normal.shape)} and skin {list(skin.shape)} ({skin.dtype}) must "
      "be [H, W], [H, W, 3] and [H, W] bool"
    )
  places = np.flatnonzero(skin)
  if len(places) < _MIN_SKIN_PIXELS:
    raise BadInput(f"only {len(places)} pixels of skin, a light needs {_MIN_SKIN_PIXELS}")
  places = places[np.linspace(0, len(places) - 1, min(len(places), _MAX_EQUATIONS)).astype(np.intp)]
  luminance, normals = luminance.reshape(-1)[places], normal.reshape(-1, 3)[places]
  if not np.isfinite(luminance).all():
    raise BadInput("the luminance of the skin has values that are not finite")
  if luminance.max() <= 0:
    raise BadInput("the skin is black, which says nothing about the light")
  if np.ptp(luminance) < luminance.max() / 255:
    raise BadInput("the skin has one and the same luminance everywhere, which says nothing about the light")
  lengths = np.linalg.norm(normals, axis=-1, keepdims=True)
  if not (np.isfinite(normals).all() and (lengths > 0).all()):
    raise BadInput("the skin has normals that are zero or not finite")
  return luminance, normals / lengths


def _scale_to_skin(light: np.ndarray, normals: np.ndarray) -> np.ndarray:
  """Scales a light `[9]` to a mean shading of 1 over normals `[N, 3]`; float32."""
  mean = float(sh.shading(normals, np.asarray(light, np.float64)).mean())
  if not mean > 0:
    raise BadInput(f"the estimated light leaves the skin dark (mean shading {mean:.3g})")
  return (light / mean).astype(np.float32)


def estimate_light(luminance: np.ndarray, normal: np.ndarray, skin: np.ndarray, *, robust: bool = True) -> np.ndarray:
  """The light of a photo from its skin: `fit_light` on at most 10,000 pixels, spread evenly, nothing drawn at random.

  Args:
    luminance: linear Y or L / 100, in [0, 1], `[H, W]`: the light is a factor on it.
    normal: `[H, W, 3]`, any positive length on the skin.
    skin: `[H, W]` bool; best without the pixels along its contour, where normals are unreliable.
    robust: as for `fit_light`.

  Returns:
    `[9]` float32, its mean shading over the skin is 1.

  Raises:
    BadInput: fewer than 100 pixels of skin, black or of one luminance, or normals there that are zero or not finite.
    ValueError: wrong shapes.
  """
  luminance, normals = _skin_equations(luminance, normal, skin)
  return _scale_to_skin(fit_light(luminance, normals, robust=robust), normals)


# ---------------------------------------------------------------------------------------------------------------------
# The three ways.


def make_estimator(name: str, *, ratio: str = "linear", weights: str = "official-512") -> Estimator:
  """One of the three ways to estimate a light, made ready for any number of photos.

  Args:
    name: one of `ESTIMATORS`.
    ratio: one of `dpr_jax.image.ratio.KINDS`: what the light shall be a factor on.
    weights: of the relighting network, for `network`; as for `dpr_jax.network.weights.load_params`.

  Returns:
    (pixels `[H, W, 3]` uint8 RGB, framed as CelebA-HQ does; luminance, of the kind that `ratio` multiplies, normal and
    skin as for `estimate_light`) -> light `[9]` float32, scaled to a mean shading of 1 over the skin. It raises as
    `estimate_light` does, and `BadInput` where a network's light leaves the skin dark.

  Raises:
    BadInput: unknown name, or weights that cannot be used.
  """
  match name:
    case "fit":
      return lambda pixels, luminance, normal, skin: estimate_light(luminance, normal, skin)
    case "sfsnet":
      estimate = _sfsnet()
    case "network":
      estimate = _relighting_network(weights)
    case _:
      raise BadInput(f"unknown light estimator {name!r}, expected one of {', '.join(ESTIMATORS)}")

  def scaled(pixels, luminance, normal, skin):
    luminance, normals = _skin_equations(luminance, normal, skin)
    light, kind = estimate(pixels, skin)
    light = _scale_to_skin(light, normals)
    return light if kind == ratio else _scale_to_skin(_carried_over(light, luminance, normals, ratio), normals)

  return scaled


def _carried_over(light: np.ndarray, luminance: np.ndarray, normals: np.ndarray, ratio: str) -> np.ndarray:
  """The light under which skin looks as under another one that is a factor on the other of L and linear luminance.

  Args:
    light: `[9]`, of mean shading 1 over the skin.
    luminance: of the skin, `[N]`, of the kind that `ratio` multiplies.
    normals: of the skin, `[N, 3]`.
    ratio: of the result.

  Returns:
    `[9]`, fitted to what skin of one albedo looks like under `light`.
  """
  there, back = color.lightness_of_luminance, color.luminance_of_lightness
  if ratio == "published":
    there, back = back, there
  albedo = there(luminance).mean()
  return fit_light(back(albedo * np.maximum(sh.shading(normals, light), 0)), normals)


# (pixels [H, W, 3] uint8 RGB, skin [H, W] bool) -> light [9], and the kind of ratio whose light it is.
_NetworkEstimator = Callable[[np.ndarray, np.ndarray], tuple[np.ndarray, str]]


def _sfsnet() -> _NetworkEstimator:
  from data_gen import sfsnet  # imports Flax

  variables = sfsnet.load_variables()
  return lambda pixels, skin: (sfsnet.sfsnet_light(variables, pixels[sfsnet.face_window(skin)]), "published")


def _relighting_network(weights: str) -> _NetworkEstimator:
  from dpr_jax.network.networks import traits_of
  from dpr_jax.network.weights import load_params
  from dpr_jax.portrait import relighting  # imports Flax

  params = load_params(weights)
  network = traits_of(params)
  if not network.gray:
    raise BadInput(f"weights {weights!r}: give lights of {network.light_size} numbers; here a light is gray, 9 numbers")
  size = network.native_size

  def estimate(pixels, skin):
    interpolation = cv2.INTER_AREA if len(pixels) > size else cv2.INTER_LINEAR
    resized = cv2.resize(pixels, (size, size), interpolation=interpolation)
    light = relighting.estimate_light(params, resized.astype(np.float32) / 255)
    if isinstance(light, Light):  # our network sees linear light
      return np.asarray(harmonics(light))[0], "linear"
    return np.asarray(light), "published"

  return estimate
