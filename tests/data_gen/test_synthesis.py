"""From portrait to record: what is known comes back, settings that make no sense are refused, the published face."""

import dataclasses

import cv2
import numpy as np
import pytest

from data_gen import arap, srgb, synthesis
from data_gen.face_maps import FaceMaps, Label
from data_gen.normals import fill_to_frame
from data_gen.portraits import Rejection, generator
from data_gen.procedural_faces import draw_face, geometry
from data_gen.rasterize import rasterize, to_scene_axes, vertex_normals
from data_gen.synthesis import RELIGHT, Settings, Synthesis, denoise, relight, skin_mask
from data_gen.target_lights import TargetLight
from dpr_jax.base.errors import BadInput
from dpr_jax.image import color, ratio
from dpr_jax.light import sh

PHOTO = {"source": "photos", "normals": "face_mesh", "light_estimator": "fit"}


def relit_face(**settings):
  """A procedural face, relit, without denoising."""
  with Synthesis(Settings(count=3, size=128, denoise="none", normal_bits=16, **settings)) as ready:
    (result,) = ready.relit("face-00000001")
  return result


@pytest.fixture(scope="module")
def relit():
  """As a portrait is relit by default: in linear light."""
  return relit_face()


@pytest.fixture(scope="module")
def relit_as_published():
  return relit_face(ratio="published")


def luminance(pixels):
  """L / 100, by OpenCV."""
  return cv2.cvtColor(pixels, cv2.COLOR_RGB2LAB)[..., 0].astype(np.float32) / 255


def linear_luminance(pixels):
  return color.linearise(pixels / np.float32(255)) @ np.float32([0.2126, 0.7152, 0.0722])


def test_relit_is_what_the_face_looks_like_under_the_target_light(relit):
  """Exact normals and light: the ratio image and a new rendering under the record's lights are the same, in 8 bits."""
  portrait, maps, record = relit
  scene = geometry(draw_face(generator(0, "face", record.id)), 128)
  np.testing.assert_array_equal(maps.normal, scene.normal)
  for pixels, light in zip(record.relit, record.target_lights, strict=True):
    linear = scene.albedo * sh.shading(portrait.truth.normal, light)[..., None]
    # Where nothing is clipped or too dark for 8 bits, in the photo and in the relit one.
    good = scene.foreground & (linear.max(axis=-1) < 0.98) & (portrait.pixels.min(axis=-1) > 25)
    difference = np.abs(pixels.astype(int) - srgb.from_linear(linear))[good]
    assert good.mean() > 0.3
    assert difference.max() <= 2
    assert difference.mean() < 0.5


def test_as_published_it_is_the_same_in_lightness(relit_as_published):
  portrait, _, record = relit_as_published
  source = sh.shading(portrait.truth.normal, record.source_light)
  for pixels, light in zip(record.relit, record.target_lights, strict=True):
    target = sh.shading(portrait.truth.normal, light)
    expected = luminance(portrait.pixels) * target / source
    good = (luminance(portrait.pixels) > 0.1) & (luminance(portrait.pixels) < 0.95) & (expected < 0.95) & (target > 0.1)
    assert good.mean() > 0.3
    assert np.abs(luminance(pixels) - expected)[good].mean() < 0.015


def test_the_lit_side_of_the_face_keeps_the_key_of_the_photo(relit, relit_as_published):
  def keys(record):
    return [np.percentile(linear_luminance(p)[record.mask], 90) for p in (record.original, *record.relit)]

  before, *after = keys(relit.record)
  np.testing.assert_allclose(after, before, rtol=0.02)
  # As published a light is as bright as it is.
  before, *after = keys(relit_as_published.record)
  assert np.abs(np.log(np.array(after) / before)).max() > 0.2
  np.testing.assert_array_less(0.69, relit_as_published.record.target_lights[:, 0])
  np.testing.assert_array_less(relit_as_published.record.target_lights[:, 0], 0.91)


def test_a_light_is_as_bright_as_the_picture_that_it_lit(relit):
  """Its own light, dimmed, gives the photo back and is told as the photo's own; what leaves a face dark stays dark."""
  record = relit.record
  behind = np.float32([0.75, 2, 0, 0, 0, 0, 0, 0, 0])  # less than nothing from the front
  targets = [TargetLight("", light, None) for light in (0.3 * record.source_light, behind)]
  pixels, (own, bright) = relight(record.original, record.normal, record.mask, record.source_light, targets)
  np.testing.assert_allclose(own.sh, record.source_light, rtol=1e-5)
  assert np.abs(pixels[0].astype(int) - record.original).max() <= 1
  np.testing.assert_allclose(bright.sh, 8 * behind, rtol=1e-6)
  assert linear_luminance(pixels[1])[record.mask].mean() < 0.2 * linear_luminance(record.original)[record.mask].mean()


def test_red_green_and_blue_are_multiplied_alike(relit):
  """Under white light a colour keeps its hue; beyond sRGB it is drawn towards its luminance, which stays."""
  skin, bright = np.uint8([180, 120, 90]), np.uint8([250, 150, 60])
  pixels = np.stack([skin, skin, bright, bright])[None]
  normal = np.tile(np.float32([0, -1, 0]), (1, 4, 1))
  source = sh.directional(sh.direction(0, 0), ambient=0.5).astype(np.float32)
  mask = np.array([[True, True, False, False]])
  # The key of the mask stays, and with it all factors are 1; then the normals turn two pixels aside.
  normal[0, [1, 3]] = sh.direction(60, 0)
  side = sh.directional(sh.direction(60, 0), ambient=0.5).astype(np.float32)
  (picture,), (light,) = relight(pixels, normal, mask, source, [TargetLight("", side, None)])
  factor = sh.shading(normal[0], light.sh) / sh.shading(normal[0], source)
  linear = color.linearise(pixels[0] / 255) * factor[:, None]
  assert linear[1].max() < 1 < linear[3].max()
  np.testing.assert_allclose(picture[0, :2], srgb.from_linear(linear[:2]), atol=1)
  expected = min(1, linear[3] @ [0.2126, 0.7152, 0.0722])
  assert linear_luminance(picture[0, 3]) == pytest.approx(expected, abs=0.01)
  chroma = np.ptp(picture[0, 3].astype(int))
  assert 0 < chroma < np.ptp(bright.astype(int))
  assert picture[0, 3, 0] >= picture[0, 3, 1] >= picture[0, 3, 2]


def test_the_record_of_a_procedural_face_is_the_truth(relit):
  portrait, maps, record = relit
  np.testing.assert_array_equal(record.original, portrait.pixels)
  np.testing.assert_array_equal(record.normal, portrait.truth.normal)
  np.testing.assert_array_equal(record.source_light, portrait.truth.light)
  assert maps is portrait.truth.maps
  assert np.isin(maps.label[record.mask], (Label.SKIN, Label.FEATURE)).all()
  assert len(set(record.light_names)) == 5
  assert record.ratio == "linear"


@pytest.mark.parametrize("kind", ratio.KINDS)
def test_light_from_a_side_brightens_that_side(relit, kind):
  record = relit.record
  sides = [
    TargetLight("", sh.directional(sh.direction(azimuth, 0), ambient=0.3).astype(np.float32), None)
    for azimuth in (70, -70)
  ]
  pictures = RELIGHT[kind](record.original, record.normal, record.mask, record.source_light, sides).pixels
  from_left, from_right = pictures.astype(float)
  difference = (from_left - from_right).mean(axis=-1)
  face = np.argwhere(record.mask)
  middle = int(np.median(face[:, 1]))
  assert difference[:, :middle][record.mask[:, :middle]].mean() > 20
  assert difference[:, middle:][record.mask[:, middle:]].mean() < -20


def test_a_portrait_depends_on_nothing_but_itself():
  def payloads(ready, id):
    return [ready.encode(result.record) for result in ready.relit(id)]

  with Synthesis(Settings(count=3, size=128)) as ready:
    alone = payloads(ready, "face-00000002")
    payloads(ready, "face-00000000")
    assert payloads(ready, "face-00000002") == alone
  with Synthesis(Settings(count=3, size=128, seed=1)) as ready:
    assert payloads(ready, "face-00000002") != alone


@pytest.mark.parametrize(
  ("settings", "message"),
  [
    ({**PHOTO, "face_finder": "dlib"}, "--face_finder dlib: must be one of embedded, mediapipe"),
    ({"face_finder": "embedded"}, "--face_finder: exact normals need no face to be found"),
    ({"normals": "guess"}, "--normals guess: must be one of face_mesh, tddfa, synthetic"),
    ({"ratio": "gamma"}, "--ratio gamma: must be one of linear, published"),
    ({"light_estimator": "guess"}, "--light_estimator guess: must be one of fit, sfsnet, network, truth"),
    ({"denoise": "much"}, "--denoise much"),
    ({"image_format": "gif"}, "--image_format gif"),
    ({"normal_bits": 12}, "--normal_bits 12: must be one of 8, 16"),
    ({"light_convention": "up"}, "--light_convention up"),
    ({"size": 63}, "--size 63: must lie in 64 to 2048"),
    ({"size": 2049}, "--size 2049"),
    ({"count": 0}, "--count 0"),
    ({"lights_per_image": 0}, "--lights_per_image 0"),
    ({"quality": 101}, "--quality 101"),
    ({"shard_megabytes": 0}, "--shard_megabytes 0"),
    ({"shard_megabytes": float("nan")}, "--shard_megabytes nan"),
    ({"source": "photos"}, "--normals synthetic: photos have none"),
    ({**PHOTO, "light_estimator": "truth"}, "--light_estimator truth: nobody knows"),
    ({"arap": True}, "--arap: exact normals"),
    ({"source": ""}, "--source is empty"),
    ({**PHOTO, "aligned": True, "all_faces": True}, "--all_faces: not with --aligned"),
  ],
)
def test_settings_that_make_no_sense(settings, message):
  with pytest.raises(BadInput) as caught:
    Settings(**settings)
  assert str(caught.value).startswith(message)


def test_denoising():
  rng = np.random.default_rng(0)
  clean = np.repeat(np.repeat(rng.integers(60, 200, (8, 8, 3)), 16, axis=0), 16, axis=1)
  noisy = np.clip(clean + rng.normal(0, 3, clean.shape), 0, 255).astype(np.uint8)
  np.testing.assert_array_equal(denoise(noisy, "none"), noisy)
  error = {method: np.abs(denoise(noisy, method) - clean.astype(float)).mean() for method in ("none", "fast", "nlm")}
  assert error["fast"] < 0.7 * error["none"]
  assert error["nlm"] < 0.7 * error["none"]
  assert np.abs(denoise(noisy, "fast").astype(float) - denoise(noisy, "nlm")).mean() < 0.5 * error["none"]


def test_the_published_denoising(shared):
  """OpenCV's function expects blue, green, red."""
  image = cv2.imread(str(shared("reference/ri_render/data/imgHQ00000.png")))[300:500, 300:500]
  expected = cv2.fastNlMeansDenoisingColored(image, None, 5, 3, 3, 21)
  np.testing.assert_array_equal(denoise(image[..., ::-1].copy(), "nlm")[..., ::-1], expected)


def test_skin_keeps_away_from_features_and_edges():
  label = np.full((256, 256), Label.SKIN, np.uint8)
  label[100:120, 100:120] = Label.FEATURE
  mask = np.zeros_like(label, bool)
  mask[50:200, 50:200] = True
  none = np.zeros((0, 2))
  skin = skin_mask(
    FaceMaps(np.zeros((256, 256, 3), np.float32), label, none, none, np.zeros((256, 256), np.float32)), mask
  )
  assert not skin[99:121, 99:121].any()
  assert not skin[:51].any()
  assert skin[60, 60]
  assert 0.9 * (mask.sum() - 400) < skin.sum() < mask.sum() - 400


@pytest.mark.parametrize("kind", ratio.KINDS)
def test_coloured_lights_change_chroma_and_not_luminance(relit, kind):
  record = relit.record
  gray = sh.directional(sh.direction(20, 20), ambient=0.6).astype(np.float32)
  warm = np.stack([1.3 * gray, gray, 0.55 * gray])
  weight = np.array([0.299, 0.587, 0.114], np.float32)
  warm *= gray[0] / (weight @ warm)[0]
  targets = [TargetLight("", gray, None), TargetLight("", gray, warm), TargetLight("", gray, np.stack([gray] * 3))]
  pictures, lights = RELIGHT[kind](record.original, record.normal, record.mask, record.source_light, targets)
  plain, tinted, white = pictures
  mask = record.mask & (luminance(plain) < 0.8)
  assert np.abs(luminance(tinted) - luminance(plain))[mask].mean() < 0.01
  blue_to_red = [image[mask][:, 2].mean() / image[mask][:, 0].mean() for image in (plain, tinted, white)]
  assert blue_to_red[1] < 0.8 * blue_to_red[0]
  assert blue_to_red[2] == pytest.approx(blue_to_red[0], rel=0.03)
  # Gray and colours of a light are made brighter alike.
  np.testing.assert_allclose(weight @ lights[1].color, lights[1].sh, rtol=1e-5)


def test_what_is_wrong_with_a_portrait_rejects_it_by_name(monkeypatch):
  def refuse(maps):
    raise BadInput("no face is left")

  with Synthesis(Settings(count=3, size=128)) as ready:
    monkeypatch.setattr(synthesis.normals, "face_mask", refuse)
    assert list(ready.relit("face-00000001")) == [Rejection("face-00000001", "no face is left")]


def test_normals_that_are_not_numbers_reject_the_portrait(monkeypatch):
  with Synthesis(Settings(count=3, size=128)) as ready:
    face_maps = ready._face_maps

    def broken(portrait):
      maps = face_maps(portrait)
      normal = maps.normal.copy()
      normal[64, 64] = np.nan
      return maps._replace(normal=normal)

    monkeypatch.setattr(ready, "_face_maps", broken)
    (rejection,) = ready.relit("face-00000001")
  assert rejection == Rejection("face-00000001", "the face's normals are not all finite")


@pytest.mark.parametrize("kind", ratio.KINDS)
def test_the_networks_own_estimate(shared, kind):
  shared("reference/dpr/trained_model_03.t7")
  settings = Settings(count=1, size=256, ratio=kind, light_estimator="network", weights="official-512")
  with Synthesis(settings) as ready:
    (result,) = ready.relit("face-00000000")
  assert result.record.source_light.shape == (9,)
  skin = skin_mask(result.maps, result.record.mask)
  assert sh.shading(result.record.normal[skin], result.record.source_light).mean() == pytest.approx(1, abs=2e-3)


# ---------------------------------------------------------------------------------------------------------------------
# The published face, with normals in floating point.


@pytest.fixture(scope="module")
def float_normals(shared):
  """The reference face's normals inside its published mask, before they were cut to 8 bits: rendered from the published
  mesh, warped by the published ARAP result.
  """
  root = shared("reference/ri_render")
  face = root / "result/imgHQ00000"
  lines = [line.split() for line in (face / "imgHQ00000.obj").read_text().splitlines() if line]
  vertices = np.array([line[1:4] for line in lines if line[0] == "v"], float)[:, [1, 0, 2]]  # the file has y first
  triangles = np.array([line[1:4] for line in lines if line[0] == "f"], int) - 1
  owner = np.arange(len(vertices))  # the published loader gives some vertices a neighbour's normal
  owner[triangles[:, [0, 2, 1]].ravel()] = triangles.ravel()
  rendered, _ = rasterize(vertices, triangles, to_scene_axes(vertex_normals(vertices, triangles)[owner]), 1024, 1024)

  lines = [line.split() for line in (face / "render/triangle.txt").read_text().splitlines()]
  rest = np.array([line[1:] for line in lines if line[0] == "v"], float)
  flat = np.array([line[1:] for line in lines if line[0] == "f"], int) - 1
  lines = [line.split() for line in (face / "render/arap.obj").read_text().splitlines()]
  moved = np.array([line[1:3] for line in lines if line[0] == "v"], float)
  # Their texture coordinates are divided by the width less one, and multiplied by the width.
  places = arap.rest_coordinates(rest, moved, flat, 1024, 1024) * np.float32(1024 / 1023)
  normal = cv2.remap(rendered, places, None, cv2.INTER_LINEAR)
  normal /= np.maximum(np.linalg.norm(normal, axis=-1, keepdims=True), 1e-6)

  label = np.round(cv2.imread(str(face / "warp/label.png"), cv2.IMREAD_GRAYSCALE) / 255 * 13)
  mask = (cv2.imread(str(face / "warp/mask.png"), cv2.IMREAD_GRAYSCALE) > 0) & ~np.isin(label, [1, 2, 3])
  mask = cv2.erode(mask.astype(np.uint8), np.ones((9, 9), np.uint8), iterations=4).astype(bool)
  return fill_to_frame(normal, mask), mask


def test_published_relit_portraits_from_float_normals(float_normals, shared):
  """Within the face, where float normals can be had: what lies outside was solved by the authors on a faulty grid."""
  normal, mask = float_normals
  root = shared("reference/ri_render")
  folder = root / "relighting/imgHQ00000"
  image = cv2.fastNlMeansDenoisingColored(cv2.imread(str(root / "data/imgHQ00000.png")), None, 5, 3, 3, 21)
  lab = cv2.cvtColor(image, cv2.COLOR_BGR2LAB)
  source = np.loadtxt(folder / "ori_sh.txt").astype(np.float32)
  targets = np.stack([np.loadtxt(folder / f"imgHQ00000_light_{k:02d}.txt") for k in range(5)]).astype(np.float32)
  lightness = lab[..., 0].astype(np.float32) / 255
  ours = ratio.relight_luminance(lightness, normal, source, targets, kind="published")
  for k in range(5):
    relit = cv2.cvtColor(np.dstack([(ours[k] * 255).astype(np.uint8), lab[..., 1:]]), cv2.COLOR_LAB2BGR)
    difference = cv2.absdiff(relit, cv2.imread(str(folder / f"imgHQ00000_{k:02d}.png")))
    print(f"target light {k}: {difference[mask].mean():.4f} levels inside the face, {difference.mean():.3f} everywhere")
    assert difference[mask].mean() <= 0.05
    assert difference.mean() <= 0.35


def test_the_whole_chain_on_the_published_face(float_normals, shared, tmp_path):
  """Their photo through our own mesh, fit and ratio: other normals, yet nearly their light and their pictures."""
  root = shared("reference/ri_render")
  shared("models/face_landmarker.task")
  (tmp_path / "imgHQ00000.png").symlink_to(root / "data/imgHQ00000.png")
  settings = Settings(
    source=str(tmp_path),
    aligned=True,
    normals="face_mesh",
    ratio="published",
    light_estimator="fit",
    denoise="nlm",
  )
  folder = root / "relighting/imgHQ00000"
  with Synthesis(settings) as ready:
    lights = [
      TargetLight("", np.loadtxt(folder / f"imgHQ00000_light_{k:02d}.txt").astype(np.float32), None) for k in range(5)
    ]
    ready._lights = type("Published", (), {"draw": lambda self, rng, count: lights})()
    (result,) = ready.relit("imgHQ00000.png")
  normal, mask = float_normals
  both = mask & result.record.mask
  angle = np.degrees(np.arccos(np.clip((normal * result.record.normal).sum(axis=-1), -1, 1)))[both].mean()
  published = sh.shading(normal[both], np.loadtxt(folder / "ori_sh.txt").astype(np.float32))
  ours = sh.shading(result.record.normal[both], result.record.source_light)
  correlation = np.corrcoef(published, ours)[0, 1]
  print(f"normals {angle:.1f} degrees from 3DDFA's, shading correlates {correlation:.2f} with the published one")
  assert angle < 20
  assert correlation > 0.5
  for k in range(5):
    expected = cv2.imread(str(folder / f"imgHQ00000_{k:02d}.png"))[..., ::-1]
    assert np.abs(result.record.relit[k].astype(int) - expected)[both].mean() < 25


def test_as_published_the_chroma_of_a_portrait_stays(relit_as_published):
  """The paper relights L alone."""
  record = relit_as_published.record
  for pixels in record.relit:
    before, after = (color.srgb_to_lab(p.astype(np.float32) / 255) for p in (record.original, pixels))
    good = record.mask & (after[..., 0] > 20) & (after[..., 0] < 70)
    if good.sum() > 50:
      assert np.abs(before - after)[..., 1:][good].mean() < 3


@pytest.mark.parametrize(
  ("settings", "earlier", "named"),
  [
    ({}, None, None),  # the faces are known
    ({}, "embedded", None),
    (PHOTO, None, "chosen"),
    (PHOTO, "embedded", "embedded"),
    ({**PHOTO, "face_finder": "mediapipe"}, "embedded", "mediapipe"),
    ({"normals": "face_mesh", "light_estimator": "fit"}, None, "chosen"),
  ],
)
def test_the_face_finder_is_named_once(monkeypatch, settings, earlier, named):
  monkeypatch.setattr(synthesis, "choose_face_finder", lambda: "chosen")
  monkeypatch.setattr(synthesis, "FACE_FINDERS", ("embedded", "mediapipe", "chosen"))
  assert synthesis.with_face_finder(Settings(**settings), earlier).face_finder == named


def test_settings_can_be_written_down():
  settings = Settings()
  assert Settings(**dataclasses.asdict(settings)) == settings
