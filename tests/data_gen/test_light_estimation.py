"""Source lights: the cone of non-negative lights, optimality, outliers, the reference face, bad input."""

import functools

import numpy as np
import pytest
from scipy import integrate, io, optimize

from data_gen import light_estimation
from data_gen.light_estimation import estimate_light, fit_light, make_estimator, moment_matrix
from data_gen.normals import face_mask
from data_gen.portraits import ProceduralFaces
from data_gen.synthesis import skin_mask
from dpr_jax.base.errors import BadInput
from dpr_jax.base.native_libraries import import_native
from dpr_jax.image.color import luminance_of_lightness, photo_luminance
from dpr_jax.light import sh
from dpr_jax.network.networks import Traits
from dpr_jax.network.weights import load_params
from dpr_jax.portrait.relighting import estimate_light as relight_estimate

cv2 = import_native("cv2")

REFERENCE = "reference/ri_render"
BASIS_SCALE = sh.LAMBERTIAN.astype(np.float64)


def random_directions(rng, count):
  directions = rng.normal(size=(count, 3))
  return directions / np.linalg.norm(directions, axis=-1, keepdims=True)


def lamps(directions, powers):
  """Nine numbers of point lights."""
  return powers @ sh.basis(directions)


def head(size=200):
  """The front of an ellipsoid, as a normal map and a mask that spares the contour."""
  normal, _ = sh.sphere_normals(size)
  facing = -normal[..., 1] > 0.25
  normal = normal * [1.1, 1.0, 0.8]
  return (normal / np.linalg.norm(normal, axis=-1, keepdims=True)).astype(np.float32), facing


def angle(light, truth):
  """Degrees between dominant directions."""
  a, b = light[1:4], truth[1:4]
  return np.degrees(np.arccos(np.clip(a @ b / np.linalg.norm(a) / np.linalg.norm(b), -1, 1)))


def relative_error(light, truth, normals):
  """Root mean square of the shading's error over normals `[N, 3]`, against the true shading of the same mean."""
  wrong, right = (sh.shading(normals, np.asarray(sh_, np.float64)) for sh_ in (light, truth))
  wrong, right = wrong / wrong.mean(), right / right.mean()
  return np.sqrt(np.mean((wrong - right) ** 2) / np.mean(right**2))


# ---------------------------------------------------------------------------------------------------------------------
# The cone of non-negative lights.


def test_moment_matrix_by_quadrature():
  points, weights = integrate.lebedev_rule(35)
  directions = points.T
  radiance = np.exp(directions @ [1.5, -0.7, 0.4]) * (1 + directions[:, 0] * directions[:, 2])
  harmonics = sh.basis(directions)
  light = (weights * radiance) @ harmonics
  moments = np.einsum("n,ni,nj->ij", weights * radiance, harmonics[:, :4], harmonics[:, :4])
  np.testing.assert_allclose(moment_matrix(light), moments, atol=1e-12)


def test_moment_matrix_against_the_released_one(shared):
  released = io.loadmat(shared(f"{REFERENCE}/step_6/C.mat"))["C"]
  ours = np.stack([moment_matrix(unit) for unit in np.eye(9)], axis=-1)
  halved = (released + released.transpose(1, 0, 2)) / 2  # what the official pipeline does to it
  for channel in (0, 2, 6):
    np.testing.assert_allclose(halved[..., channel], ours[..., channel], atol=1e-12)
  for channel in (1, 3, 4, 5, 7):  # one of two mirrored entries was forgotten
    np.testing.assert_allclose(released[..., channel] + released[..., channel].T, ours[..., channel], atol=1e-12)
    assert np.count_nonzero(np.abs(released[..., channel]) > 1e-9) == 1
  assert not released[..., 8].any()
  np.testing.assert_allclose(np.diag(ours[..., 8]), np.array([0, -1, 0, 1]) * np.sqrt(3 / (20 * np.pi)), atol=1e-12)


def test_moment_matrix_tells_non_negative_lights():
  rng = np.random.default_rng(0)
  for _ in range(20):
    light = lamps(random_directions(rng, 12), rng.uniform(0, 1, 12))
    moments = moment_matrix(light)
    np.testing.assert_allclose(np.trace(moments), 4 * moments[0, 0], rtol=1e-12)
    assert np.linalg.eigvalsh(moments)[0] > 0
    # Of all lights c + t * light, those below a point lamp's are impossible: (1 + d.w)^2 has a negative integral.
  lamp = lamps(random_directions(rng, 1), np.ones(1))
  np.testing.assert_allclose(np.linalg.eigvalsh(moment_matrix(lamp)), [0, 0, 0, 1 / np.pi], atol=1e-12)
  assert np.linalg.eigvalsh(moment_matrix(lamp - 0.01 * np.eye(9)[0]))[0] < 0


# ---------------------------------------------------------------------------------------------------------------------
# The fit is the minimum.


def equations(kind, rng):
  """Shading `[N]` and normals `[N, 3]` of the front half; `kind` says what pulls the light out of the cone."""
  normals = random_directions(rng, 600)
  normals[:, 1] = -np.abs(normals[:, 1])
  towards = random_directions(rng, 1)[0]
  shading = {
    "lamp": np.maximum(normals @ towards, 0),
    "hard": np.maximum(normals @ towards, 0) ** 6 + 0.01,
    "noise": rng.uniform(0, 1, 600) ** 3,
    "two-faced": 0.1 + (normals @ towards) ** 4,
  }[kind]
  return shading, normals


@pytest.mark.parametrize("seed", range(3))
@pytest.mark.parametrize("kind", ["lamp", "hard", "noise", "two-faced"])
def test_fit_satisfies_the_optimality_conditions(kind, seed):
  shading, normals = equations(kind, np.random.default_rng(seed))
  shading /= shading.mean()
  light = fit_light(shading, normals, robust=False)
  assert np.linalg.eigvalsh(moment_matrix(light))[0] > -1e-12
  basis = sh.basis(normals) * BASIS_SCALE
  gradient = basis.T @ (basis @ light - shading) / len(shading)
  # No direction's light would lower the error, and the light that is there has nothing to gain from being scaled.
  assert sh.minimum(gradient) > -1e-5
  assert abs(gradient @ light) < 1e-5
  # So also against a slow reference: non-negative lamps in many directions.
  lamps_seen = basis @ sh.basis(random_directions(np.random.default_rng(9), 3000)).T
  _, residual = optimize.nnls(lamps_seen, shading)
  assert np.linalg.norm(basis @ light - shading) <= residual + 1e-6


def test_the_constraint_binds_where_least_squares_leaves_the_cone():
  binding = 0
  for seed in range(3):
    shading, normals = equations("hard", np.random.default_rng(seed))
    free = np.linalg.lstsq(sh.basis(normals) * BASIS_SCALE, shading / shading.mean(), rcond=None)[0]
    fitted = fit_light(shading, normals, robust=False)
    if np.linalg.eigvalsh(moment_matrix(free))[0] >= 0:
      np.testing.assert_allclose(fitted, free, atol=1e-3)
    else:
      binding += 1
      assert np.linalg.eigvalsh(moment_matrix(fitted))[0] < 1e-6
  assert binding


def test_fit_recovers_a_light_from_a_whole_sphere():
  rng = np.random.default_rng(1)
  normals = random_directions(rng, 4000)
  for _ in range(5):
    truth = lamps(random_directions(rng, 6), rng.uniform(0.2, 1, 6))
    shading = sh.shading(normals, truth)
    for robust, tolerance in ((False, 1e-4), (True, 0.06)):
      light = fit_light(0.4 * shading, normals, robust=robust)
      np.testing.assert_allclose(light * shading.mean(), truth, atol=tolerance * np.abs(truth).max())


def test_fit_of_normals_that_are_all_alike():
  light = fit_light(np.full(200, 0.5), np.tile([0.0, -1.0, 0.0], (200, 1)))
  assert np.isfinite(light).all()
  assert 0.9 < sh.shading(np.array([0.0, -1.0, 0.0]), light) < 1.1


# ---------------------------------------------------------------------------------------------------------------------
# Faces with truth.


def face_photo(rng, normal, skin):
  """A lit head with uneven skin, a beard, a fringe, highlights and a cast shadow, and its light."""
  towards = sh.direction(rng.uniform(-70, 70), rng.uniform(-20, 60)).astype(np.float64)
  ambient = rng.uniform(0.05, 0.25)
  truth = sh.basis(towards) + ambient * np.sqrt(4 * np.pi) * np.eye(9)[0]
  lamp = np.maximum(normal @ towards, 0)
  rows, columns = np.mgrid[: len(skin), : len(skin)] / len(skin)
  shadow = (columns - 0.5 + 0.12 * np.sign(towards[0])) ** 2 + (rows - 0.55) ** 2 < 0.08**2
  albedo = 1 + 0.05 * cv2.GaussianBlur(rng.normal(size=skin.shape), (0, 0), 6) * 20
  albedo *= np.where(rows > rng.uniform(0.72, 0.85), rng.uniform(0.35, 0.7), 1)
  albedo *= np.where(rows < rng.uniform(0.15, 0.25), rng.uniform(0.2, 0.5), 1)
  half = towards + np.array([0, -1, 0])
  half /= np.linalg.norm(half)
  highlight = rng.uniform(0.2, 0.8) * np.maximum(normal @ half, 0) ** 30
  luminance = (np.where(shadow, 0, lamp) + ambient * np.pi) * albedo + highlight
  luminance += 0.01 * rng.normal(size=skin.shape)
  luminance *= rng.uniform(0.35, 0.55) / luminance[skin].mean()
  return np.clip(luminance, 0, 1).astype(np.float32), truth


def test_robust_fit_against_truth():
  rng = np.random.default_rng(0)
  normal, skin = head()
  errors = {True: [], False: []}
  for _ in range(20):
    luminance, truth = face_photo(rng, normal, skin)
    for robust, found in errors.items():
      light = estimate_light(luminance, normal, skin, robust=robust)
      found.append((angle(light, truth), relative_error(light, truth, normal[skin])))
  (robust_angle, robust_error), (plain_angle, plain_error) = (
    np.mean(errors[robust], axis=0) for robust in (True, False)
  )
  print(f"robust {robust_angle:.1f} deg {robust_error:.3f}, plain {plain_angle:.1f} deg {plain_error:.3f}")
  assert robust_angle < 25
  assert robust_error < 0.12
  assert robust_angle < 0.5 * plain_angle
  assert robust_error < 0.8 * plain_error


def test_hair_beard_and_highlights_hardly_count():
  """A quarter of the skin; a third is more than the biweight bears."""
  rng = np.random.default_rng(0)
  luminance, normal, skin = lit_head()
  truth = sh.directional(sh.direction(30, 20))
  luminance *= 1 + 0.02 * rng.normal(size=skin.shape).astype(np.float32)
  luminance[:30] *= 0.2
  luminance[180:] *= 0.5
  luminance[90:110, 90:110] = 1
  light = estimate_light(luminance, normal, skin)
  assert angle(light, truth) < 5
  assert relative_error(light, truth, normal[skin]) < 0.01


@pytest.fixture(scope="module")
def reference_face(shared):
  """Luminance, normals (ours), skin and light of the one face whose every stage was published."""
  folder = shared(REFERENCE)
  warped = folder / "result/imgHQ00000/warp"
  photo = cv2.imread(str(folder / "data/imgHQ00000.png"))
  denoised = cv2.fastNlMeansDenoisingColored(photo, None, 5, 3, 3, 21)
  luminance = cv2.cvtColor(denoised, cv2.COLOR_BGR2LAB)[..., 0].astype(np.float32) / 255
  # 8 bits; blue, green and red hold x right, y down and z into the scene.
  x, y, z = np.moveaxis(cv2.imread(str(warped / "full_normal_faceRegion_faceBoundary_extend.png")) / 127.5 - 1, -1, 0)
  normal = np.stack([x, z, -y], axis=-1)
  normal /= np.linalg.norm(normal, axis=-1, keepdims=True)
  # The parser's labels were published only as colours laid over the photo, half and half; skin is yellow.
  overlay = cv2.imread(str(folder / "face_parsing/imgHQ00000_combine_label.png")).astype(int)
  parsed = (np.abs(2 * overlay - photo - [0, 255, 255]) <= 3).all(axis=-1)
  projected = np.round(cv2.imread(str(warped / "label.png"))[..., 0] / 255 * 13) == 13
  skin = cv2.erode((parsed & projected).astype(np.uint8), np.ones((11, 11), np.uint8)) > 0
  return luminance, normal.astype(np.float32), skin, np.loadtxt(folder / "relighting/imgHQ00000/ori_sh.txt")


@pytest.mark.parametrize(("robust", "mean", "worst"), [(False, 0.02, 0.06), (True, 0.05, 0.15)])
def test_reference_face(reference_face, robust, mean, worst):
  luminance, normal, skin, published = reference_face
  light = estimate_light(luminance, normal, skin, robust=robust)
  difference = np.abs(sh.shading(normal[skin], light.astype(np.float64)) - sh.shading(normal[skin], published))
  print(f"{robust=} mean {difference.mean():.3f} 95% {np.percentile(difference, 95):.3f} max {difference.max():.3f}")
  assert difference.mean() < mean
  assert difference.max() < worst


# ---------------------------------------------------------------------------------------------------------------------
# The contract.


def lit_head():
  normal, skin = head()
  return sh.shading(normal, sh.directional(sh.direction(30, 20))).astype(np.float32) * 0.5, normal, skin


def test_the_light_is_scaled_to_the_skin():
  luminance, normal, skin = lit_head()
  light = estimate_light(luminance, normal, skin)
  assert light.shape == (9,)
  assert light.dtype == np.float32
  np.testing.assert_allclose(sh.shading(normal[skin], light).mean(), 1, atol=2e-3)  # 10,000 of 29,000 pixels
  np.testing.assert_allclose(estimate_light(0.3 * luminance, normal, skin), light, atol=1e-5)
  np.testing.assert_allclose(estimate_light(luminance, 0.3 * normal, skin), light, atol=1e-5)


def test_the_same_photo_gives_the_same_bytes_and_nothing_but_skin_counts():
  luminance, normal, skin = lit_head()
  light = estimate_light(luminance, normal, skin)
  luminance[~skin] = np.nan
  normal[~skin] = np.nan
  assert estimate_light(luminance, normal, skin).tobytes() == light.tobytes()


@pytest.mark.parametrize(
  ("spoil", "message"),
  [
    (lambda luminance, normal, skin: skin.__setitem__(slice(None), False), "only 0 pixels of skin"),
    (lambda luminance, normal, skin: skin.reshape(-1).__setitem__(slice(20_040, None), False), "pixels of skin"),
    (lambda luminance, normal, skin: luminance.fill(0), "black"),
    (lambda luminance, normal, skin: luminance.fill(0.5), "one and the same luminance"),
    (lambda luminance, normal, skin: luminance.__setitem__((100, slice(None)), np.nan), "luminance .* not finite"),
    (lambda luminance, normal, skin: normal.fill(np.nan), "normals that are zero or not finite"),
    (lambda luminance, normal, skin: normal.fill(0), "normals that are zero or not finite"),
  ],
)
def test_photos_without_a_light(spoil, message):
  luminance, normal, skin = lit_head()
  rows = np.zeros_like(skin)
  rows[100:101] = True
  if "pixels of skin" in message and "only" not in message:
    skin &= rows
  else:
    skin |= rows
  spoil(luminance, normal, skin)
  with pytest.raises(BadInput, match=message) as error:
    estimate_light(luminance, normal, skin)
  assert "\n" not in str(error.value)


def test_wrong_shapes():
  luminance, normal, skin = lit_head()
  for arguments in [(luminance[1:], normal, skin), (luminance, normal[..., :2], skin), (luminance, normal, skin * 1)]:
    with pytest.raises(ValueError, match="must be") as error:
      estimate_light(*arguments)
    assert not isinstance(error.value, BadInput)


# ---------------------------------------------------------------------------------------------------------------------
# The three ways.


def picture(luminance):
  return np.repeat((luminance[..., None] * 255).astype(np.uint8), 3, axis=-1)


def test_make_estimator_fit():
  luminance, normal, skin = lit_head()
  light = make_estimator("fit")(picture(luminance), luminance, normal, skin)
  np.testing.assert_array_equal(light, estimate_light(luminance, normal, skin))


def test_a_dark_photo_in_linear_light_has_a_light():
  """In linear light a tenth of L is a thousandth of white, and its 8 bits are far apart."""
  luminance, normal, skin = lit_head()
  light = estimate_light(luminance, normal, skin)
  np.testing.assert_allclose(estimate_light(1e-3 * luminance, normal, skin), light, atol=1e-5)


@functools.cache
def lit_face(id):
  """Of a procedural face in linear light: L, linear luminance, exact normals, skin and light."""
  source = ProceduralFaces(8, 128, 0, find=False)
  source.open()
  (portrait,) = source.load(id)
  lightness = photo_luminance(portrait.pixels)
  skin = skin_mask(portrait.truth.maps, face_mask(portrait.truth.maps))
  return lightness, luminance_of_lightness(lightness), portrait.truth.normal, skin, portrait.truth.light


def test_in_linear_light_a_fit_explains_a_photo_and_in_lightness_it_does_not():
  errors = []
  for number in range(8):
    lightness, luminance, normal, skin, truth = lit_face(f"face-{number:08d}")
    fits = (estimate_light(photo, normal, skin) for photo in (luminance, lightness))
    errors.append([relative_error(light, truth, normal[skin]) for light in fits])
  linear, published = np.mean(errors, axis=0)
  print(f"shading of the skin off by {linear:.3f} in linear light, by {published:.3f} in lightness")
  assert linear < 0.03
  assert linear < 0.25 * published


@pytest.mark.parametrize("ratio", ["linear", "published"])
def test_a_networks_light_is_carried_over_to_the_other_kind(monkeypatch, ratio):
  """A network that is right in its own kind, as far as nine numbers go, is nearly right in the other one."""
  own, carried = [], []
  for number in range(4):
    lightness, luminance, normal, skin, _ = lit_face(f"face-{number:08d}")
    seen = {"linear": estimate_light(luminance, normal, skin), "published": estimate_light(lightness, normal, skin)}
    (other,) = set(seen) - {ratio}
    for kind, errors in ((ratio, own), (other, carried)):
      monkeypatch.setattr(
        light_estimation, "_relighting_network", lambda weights, kind=kind, seen=seen: lambda *_: (seen[kind], kind)
      )
      photo = luminance if ratio == "linear" else lightness
      light = make_estimator("network", ratio=ratio)(None, photo, normal, skin)
      assert light.dtype == np.float32
      np.testing.assert_allclose(sh.shading(normal[skin], light).mean(), 1, atol=2e-3)
      errors.append(relative_error(light, seen[ratio], normal[skin]))
    uncarried = relative_error(seen[other], seen[ratio], normal[skin])
    assert errors[-1] < 0.5 * uncarried
  np.testing.assert_allclose(own, 0, atol=1e-6)
  assert np.mean(carried) < 0.03


def test_make_estimator_network(shared, obama):
  weights = str(shared("reference/dpr/trained_model_03.t7"))
  estimate = make_estimator("network", ratio="published", weights=weights)
  pixels = obama[:700, :700]
  luminance = pixels.mean(axis=-1) / 255
  normal, skin = head(700)
  light = estimate(pixels, luminance, normal, skin)
  assert light.dtype == np.float32
  np.testing.assert_allclose(sh.shading(normal[skin], light).mean(), 1, atol=2e-3)
  official = relight_estimate(load_params("official-512"), cv2.resize(pixels, (512, 512)).astype(np.float32) / 255)
  assert angle(light, np.asarray(official)) < 5  # another way to make it smaller
  assert light[0] > 0 > light[1]  # from the front


def test_make_estimator_sfsnet(shared, monkeypatch):
  from data_gen import sfsnet

  variables = sfsnet.load_variables(shared("reference/sfsnet/random_weights.pth"))
  monkeypatch.setattr(sfsnet, "load_variables", lambda: variables)
  luminance, normal, skin = lit_head()
  truth = sh.directional(sh.direction(30, 20))
  windows = []
  answers = iter([4 * truth, -truth])
  monkeypatch.setattr(sfsnet, "sfsnet_light", lambda variables, pixels: windows.append(pixels.shape) or next(answers))
  estimate = make_estimator("sfsnet", ratio="published")
  light = estimate(picture(luminance), luminance, normal, skin)
  np.testing.assert_allclose(light / light[0], truth / truth[0], rtol=1e-5, atol=1e-6)
  np.testing.assert_allclose(sh.shading(normal[skin], light).mean(), 1, atol=2e-3)
  with pytest.raises(BadInput, match="leaves the skin dark"):
    estimate(picture(luminance), luminance, normal, skin)
  assert windows == [(200, 200, 3)] * 2  # the head fills the picture


def test_networks_are_not_asked_about_photos_without_skin(shared, monkeypatch):
  from data_gen import sfsnet

  monkeypatch.setattr(sfsnet, "sfsnet_light", lambda variables, pixels: pytest.fail("asked"))
  luminance, normal, skin = lit_head()
  variables = sfsnet.load_variables(shared("reference/sfsnet/random_weights.pth"))
  monkeypatch.setattr(sfsnet, "load_variables", lambda: variables)
  estimate = make_estimator("sfsnet")
  with pytest.raises(BadInput, match="pixels of skin"):
    estimate(picture(luminance), luminance, normal, np.zeros_like(skin))


def test_unknown_estimator():
  with pytest.raises(BadInput, match="unknown light estimator 'guess', expected one of fit, sfsnet, network"):
    make_estimator("guess")


def test_color_networks_are_refused(monkeypatch):
  monkeypatch.setattr("dpr_jax.network.weights.load_params", lambda source: {})
  monkeypatch.setattr("dpr_jax.network.networks.traits_of", lambda params: Traits("colour", 512, 16, 27, 64))
  with pytest.raises(BadInput, match="27 numbers"):
    light_estimation.make_estimator("network", weights="colour.t7")
