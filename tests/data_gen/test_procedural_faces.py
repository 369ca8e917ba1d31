"""Procedural faces against their own depth, closed forms, a detector that has never seen them, and themselves."""

import functools
import hashlib
import json
import subprocess
import sys

import cv2
import numpy as np
import pytest

from data_gen.face_maps import Label
from data_gen.procedural_faces import (
  HAIR_STYLES,
  RANGES,
  Lamp,
  ProceduralFace,
  Scene,
  draw_face,
  geometry,
  radiance,
  render,
  shadow,
)
from data_gen.procedural_faces.head import head
from data_gen.procedural_faces.paint import skin_color
from data_gen.rasterize import to_scene_axes
from dpr_jax.image import color
from dpr_jax.light import sh as sh_lib
from dpr_jax.portrait.faces import frame_face
from tests.conftest import ROOT

LEFT_PUPIL, RIGHT_PUPIL, NOSE, LEFT_CORNER, RIGHT_CORNER = range(5)  # of Scene.landmarks
LEFT_IRIS, RIGHT_IRIS, NOSE_TIP, MOUTH = 468, 473, 4, [61, 291]  # of MediaPipe's; left and right as in the picture
LIGHT = sh_lib.directional(sh_lib.direction(40, 25), dc=0.8)


def drawn(seed):
  return draw_face(np.random.default_rng(seed))


@functools.cache
def plain():
  """Everything in the middle of its range, seen from the front."""
  middle = {name: (low + high) / 2 for name, (low, high) in RANGES.items()}
  return drawn(0)._replace(**middle | {"beard": 0.0, "mouth_open": 0.0, "smile": 0.0, "hair_style": "short"})


@functools.cache
def scene_of(size=256, **changes):
  return geometry(plain()._replace(**changes), size)


def inside(mask, pixels):
  return cv2.erode(mask.astype(np.uint8), np.ones((2 * pixels + 1, 2 * pixels + 1), np.uint8)) > 0


def degrees_between(a, b):
  return np.degrees(np.arccos(np.clip(np.sum(a * b, axis=-1), -1, 1)))


def photo(seed, size=256):
  """A portrait as the dataset will hold it, and its scene."""
  rng = np.random.default_rng(seed)
  scene = geometry(draw_face(rng), size, occluded=seed % 2 == 0)
  towards = sh_lib.direction(rng.uniform(-60, 60), rng.uniform(0, 45))
  if seed % 3:
    return render(scene, sh_lib.directional(towards, 0.3, rng.uniform(0.7, 0.9)), gloss=0.7), scene
  return render(scene, sh_lib.directional(towards, 0.7, 0.5), Lamp(towards, 0.7), gloss=0.7), scene


def test_a_seed_gives_the_same_bytes_in_another_process():
  command = (
    "import hashlib, numpy as np; from data_gen.procedural_faces import *; from dpr_jax.light import sh;"
    "scene = geometry(draw_face(np.random.default_rng(7)), 128);"
    "print(hashlib.sha256(render(scene, sh.directional(sh.direction(40, 25), dc=0.8)).tobytes()).hexdigest())"
  )
  elsewhere = subprocess.run([sys.executable, "-c", command], cwd=ROOT, capture_output=True, text=True, check=True)
  here = render(geometry(drawn(7), 128), LIGHT)
  assert elsewhere.stdout.strip() == hashlib.sha256(here.tobytes()).hexdigest()


def test_json_keeps_a_face():
  face = drawn(3)
  kept = ProceduralFace(**json.loads(json.dumps(face._asdict())))
  np.testing.assert_array_equal(render(geometry(kept, 128), LIGHT), render(geometry(face, 128), LIGHT))
  assert drawn(4) != face


def test_drawn_faces_stay_in_their_ranges_and_differ():
  faces = [drawn(seed) for seed in range(200)]
  for name, (low, high) in RANGES.items():
    values = np.array([getattr(face, name) for face in faces])
    assert low <= values.min()
    assert values.max() <= high
    assert np.ptp(values) > 0.5 * (high - low), name
  assert {face.hair_style for face in faces} == set(HAIR_STYLES)
  assert np.histogram([face.skin_tone for face in faces], 4, (0, 1))[0].min() > 30


def test_skin_tones_run_from_light_to_dark():
  luminance = np.array([skin_color(tone) for tone in np.linspace(0, 1, 50)]) @ [0.2126, 0.7152, 0.0722]
  assert np.all(np.diff(luminance) < 0)
  # Human skin reflects about 4 to 60 % of red, and little less of the luminance (Angelopoulou 2001).
  assert luminance[0] > 0.5
  assert luminance[-1] < 0.05


@pytest.mark.parametrize("seed", range(3))
def test_normals_are_those_of_the_depth(seed):
  scene = geometry(drawn(seed), 512)
  length = np.linalg.norm(scene.normal, axis=-1)
  np.testing.assert_allclose(length[scene.foreground], 1, atol=1e-5)
  assert not length[~scene.foreground].any()
  assert scene.normal[scene.foreground][:, 1].max() <= 0  # all to the camera
  skin = inside((scene.label == Label.SKIN) & (scene.normal[..., 1] < -0.5), 4)
  down, right = np.gradient(np.where(scene.foreground, scene.depth, 0))
  finite = to_scene_axes(np.stack([-right, -down, np.ones_like(down)], axis=-1))
  finite /= np.linalg.norm(finite, axis=-1, keepdims=True)
  error = degrees_between(finite, scene.normal)[skin]
  assert np.median(error) < 0.5
  assert np.percentile(error, 95) < 3  # creases are narrower than the difference


def test_eyeballs_are_spheres():
  scene = scene_of(512)
  eyes = scene.cornea.any(axis=-1)
  rows, columns = np.nonzero(eyes)
  for pupil in scene.landmarks[[LEFT_PUPIL, RIGHT_PUPIL]]:
    near = np.hypot(columns - pupil[0], rows - pupil[1]) < 15 * scene.millimetre
    points = np.stack([columns, rows, scene.depth[rows, columns]], axis=1)[near]
    centres = points - 12.2 * scene.millimetre * to_scene_axes(scene.normal[rows, columns][near])
    assert near.sum() > 500
    assert np.ptp(centres, axis=0).max() < 0.01


def test_a_photo_is_albedo_times_shading():
  scene = scene_of()
  shading = np.maximum(sh_lib.shading(scene.normal, LIGHT), 0)[..., None]
  exact = np.where(scene.foreground[..., None], scene.albedo * shading, scene.backdrop)
  np.testing.assert_allclose(radiance(scene, LIGHT), exact, rtol=1e-5)
  level = render(scene, LIGHT).astype(np.float64)
  low, high = (color.linearise(np.clip(level + half, 0, 255) / 255) for half in (-0.51, 0.51))
  skin = inside(scene.label == Label.SKIN, 2)
  right = (low <= exact.clip(0, 1)) & (exact.clip(0, 1) <= high)
  assert right[skin].mean() > 0.99  # the rest are edges that render smooths


def test_light_adds_up():
  scene = scene_of()
  front, side = (sh_lib.directional(sh_lib.direction(angle, 10), ambient=0.6, dc=0.4) for angle in (0, 60))
  skin = scene.label == Label.SKIN
  together = radiance(scene, front + side)[skin]
  np.testing.assert_allclose(together, (radiance(scene, front) + radiance(scene, side))[skin], atol=1e-6)
  np.testing.assert_allclose(
    radiance(scene, np.stack([front, side, front]))[skin][:, 1], radiance(scene, side)[skin, 1]
  )


def test_photos_are_well_exposed():
  for tone, low, high in ((0.1, 0.55, 0.95), (0.9, 0.12, 0.4)):
    scene = scene_of(skin_tone=tone)
    gray = render(scene, LIGHT)[scene.label == Label.SKIN].mean() / 255
    assert low < gray < high


def ball_over_plane(size=200, radius=20.0, height=60.0):
  """A sphere that floats over the middle of a plane that faces the camera."""
  angle, polar = np.meshgrid(np.linspace(0, 2 * np.pi, 80), np.linspace(0, np.pi, 40))
  ball = np.stack([np.sin(polar) * np.cos(angle), np.sin(polar) * np.sin(angle), np.cos(polar)], axis=-1)
  ball = radius * ball.reshape(-1, 3) + [size / 2, size / 2, height]
  corner = (np.arange(39)[:, None] * 80 + np.arange(79)).reshape(-1, 1)
  triangles = np.concatenate([corner + np.array([0, 80, 1]), corner + np.array([1, 80, 81])])
  plane = np.array([[0, 0, 0], [size, 0, 0], [0, size, 0], [size, size, 0]])
  triangles = np.concatenate([triangles, len(ball) + np.array([[0, 1, 2], [1, 3, 2]])])
  empty = np.zeros((size, size, 3), np.float32)
  return Scene(
    normal=np.broadcast_to(np.float32([0, -1, 0]), (size, size, 3)),
    albedo=empty,
    label=np.zeros((size, size), np.uint8),
    depth=np.zeros((size, size), np.float32),
    foreground=np.ones((size, size), bool),
    cornea=empty,
    occlusion=np.zeros((size, size, 9), np.float32),
    backdrop=empty,
    landmarks=np.zeros((7, 2)),
    vertices=np.concatenate([ball, plane]).astype(np.float32),
    triangles=triangles.astype(np.int32),
    millimetre=1.0,
  )


def distance_from_shadow(size, radius, height, towards):
  """Of every pixel of `ball_over_plane`, in pixels, from the ray through the middle of the ball, minus its radius."""
  towards = np.array([towards[0], -towards[2], -towards[1]])
  rows, columns = np.mgrid[0:size, 0:size]
  to_ball = np.stack([size / 2 - columns, size / 2 - rows, np.full((size, size), height)], axis=-1)
  return np.linalg.norm(np.cross(to_ball, towards), axis=-1) - radius


@pytest.mark.parametrize(("azimuth", "elevation"), [(0, 0), (30, 20), (-40, 10)])
def test_the_shadow_of_a_ball(azimuth, elevation):
  towards = sh_lib.direction(azimuth, elevation)
  seen = shadow(ball_over_plane(), towards)
  outside = distance_from_shadow(200, 20, 60, towards)
  assert seen[outside < -2].max() == 0
  assert seen[outside > 2].min() == 1
  # A lamp of 5 degrees softens the edge by about 60 tan(5 degrees) = 5 pixels to both sides, and no further.
  soft = shadow(ball_over_plane(), towards, softness=5.0)
  assert soft[outside < -10].max() == 0
  assert soft[outside > 10].min() == 1
  assert len(np.unique(soft[np.abs(outside) < 4].round(1))) > 5


def test_the_nose_casts_its_shadow_away_from_the_lamp():
  scene = scene_of()
  x, y = scene.landmarks[NOSE].astype(int)
  mm = round(scene.millimetre)
  beside = {
    sign: (slice(y - 3 * mm, y + 3 * mm), slice(x + sign * 22 * mm - mm, x + sign * 22 * mm + mm)) for sign in (-1, 1)
  }
  from_left = shadow(scene, sh_lib.direction(60, 15))
  assert from_left[beside[-1]].mean() > 0.95
  assert from_left[beside[1]].mean() < 0.2


def test_occlusion_is_the_light_that_shadows_take():
  scene = geometry(plain(), 128, occluded=True)
  light = sh_lib.directional(sh_lib.direction(20, 70), ambient=0.5)  # from above: under chin and nose it is dark
  directions = np.random.default_rng(0).normal(size=(120, 3))
  directions = (directions / np.linalg.norm(directions, axis=1, keepdims=True)).astype(np.float32)
  taken = np.zeros(scene.depth.shape)
  for towards, arriving in zip(directions, sh_lib.radiance(light, directions), strict=True):
    hidden = np.maximum(scene.normal @ towards, 0) * (1 - shadow(scene, towards))
    taken += hidden * arriving * 4 * np.pi / len(directions)
  skin = inside(scene.label == Label.SKIN, 1) & ~scene.cornea.any(axis=-1)
  occlusion = scene.occlusion @ light
  assert np.abs(occlusion - taken)[skin].mean() < 0.01
  assert np.polyfit(taken[skin], occlusion[skin], 1)[0] == pytest.approx(1, abs=0.3)
  assert np.corrcoef(occlusion[skin], taken[skin])[0, 1] > 0.85
  assert not scene_of(128).occlusion.any()


def test_light_is_found_again_in_the_skin():
  """The truth explains the photo to the end: its normals and albedo give back all nine numbers of the light."""
  scene = scene_of(512, skin_tone=0.3)
  skin = scene.label == Label.SKIN
  basis = sh_lib.basis(scene.normal[skin]) * sh_lib.LAMBERTIAN
  shading = radiance(scene, LIGHT)[skin] / scene.albedo[skin]
  found, *_ = np.linalg.lstsq(basis, shading.mean(axis=-1), rcond=None)
  np.testing.assert_allclose(found, LIGHT, atol=1e-3)


@pytest.mark.parametrize("style", HAIR_STYLES)
def test_labels(style):
  scene = scene_of(hair_style=style)
  assert set(np.unique(scene.label)) == set(Label) if style != "long" else {*Label} - {Label.EAR}
  assert not scene.label[~scene.foreground].any()
  x, y = scene.landmarks.round().astype(int).T
  assert (scene.label[y, x][[LEFT_PUPIL, RIGHT_PUPIL, LEFT_CORNER + 2]] == [Label.FEATURE] * 2 + [Label.SKIN]).all()
  assert 0.2 < (scene.label == Label.SKIN).mean() < 0.5
  assert np.all(scene.albedo[scene.foreground] > 0)
  assert scene.albedo.max() < 1


def test_the_head_turns_as_it_says():
  def nose_from_eyes(**pose):
    marks = scene_of(128, **pose).landmarks
    return marks[NOSE] - marks[[LEFT_PUPIL, RIGHT_PUPIL]].mean(axis=0)

  straight = nose_from_eyes()
  assert nose_from_eyes(yaw=20.0)[0] > straight[0] + 3  # to the picture's right
  assert nose_from_eyes(pitch=12.0)[1] < straight[1] - 3  # up
  left, right = scene_of(128, roll=8.0).landmarks[[LEFT_PUPIL, RIGHT_PUPIL]]
  assert np.degrees(np.arctan2(right[1] - left[1], right[0] - left[0])) == pytest.approx(8)  # clockwise


@pytest.mark.parametrize("extreme", [0, 1], ids=["lowest", "highest"])
def test_no_parameter_folds_the_face(extreme):
  for name, limits in RANGES.items():
    face = plain()._replace(**{name: limits[extreme]})
    grid = head(face, 120)
    assert np.isfinite(grid.points).all(), name
    on_face = (np.abs(grid.chart[..., 2]) < 60) & (grid.chart[..., 3] > 3) & (grid.chart[..., 3] < 12)
    assert grid.normals[..., 2][on_face].min() > 0, name
  everything = plain()._replace(**{name: limits[extreme] for name, limits in RANGES.items()})
  for style in HAIR_STYLES:
    scene = geometry(everything._replace(hair_style=style), 128)
    assert np.isfinite(radiance(scene, LIGHT, gloss=1.0)).all()


def test_a_wrong_light_is_refused():
  with pytest.raises(ValueError, match=r"\[9\] or \[3, 9\]"):
    radiance(scene_of(128), np.ones(8))


def find_faces(finder, seeds, size=256):
  """Of photos: landmarks that MediaPipe finds, or None, with the scene."""
  for seed in seeds:
    pixels, scene = photo(seed, size)
    found = finder.find(pixels)
    yield (found[0] if found else None), scene


def check_found(finds, size=256):
  found = [(face, scene) for face, scene in finds if face]
  for face, scene in found:
    seen = face.landmarks[[LEFT_IRIS, RIGHT_IRIS, NOSE_TIP]] - 0.5
    assert np.hypot(*(seen - scene.landmarks[:3]).T).max() < 0.05 * size
    mouth = face.landmarks[MOUTH].mean(axis=0) - 0.5
    assert np.hypot(*(mouth - scene.landmarks[3:5].mean(axis=0))) < 0.05 * size
    framing = frame_face(face, size)
    assert np.hypot(*framing.matrix[0, :2]) == pytest.approx(1, abs=0.06)
    middle = framing.matrix @ [size / 2, size / 2, 1]
    assert np.abs(middle - size / 2).max() < 0.04 * size
  return len(found)


def test_a_face_detector_finds_them_where_they_are(finder):
  finds = list(find_faces(finder, range(12)))
  assert check_found(finds) >= 11


@pytest.mark.slow
def test_a_face_detector_finds_95_of_100(finder):
  finds = list(find_faces(finder, range(1000, 1100)))
  assert check_found(finds) >= 95
