"""Photos of a folder, framed or rejected by name; procedural faces that never change."""

import itertools
import os
import shutil

import cv2
import numpy as np
import pytest
from PIL import Image
from skimage import data

from data_gen.face_mesh import head_pose
from data_gen.portraits import (
  SMALLEST_SQUARE,
  PhotoFolder,
  ProceduralFaces,
  Rejection,
  check_usable,
  generator,
  scale_face,
)
from data_gen.procedural_faces import draw_face, geometry
from dpr_jax.base.errors import BadInput
from dpr_jax.image.color import linear_to_lab, linearise, srgb_to_lab
from dpr_jax.light import sh
from dpr_jax.portrait.face_finders import open_face_finder
from dpr_jax.portrait.faces import Face, frame_face
from dpr_jax.portrait.square import cut_square


@pytest.fixture(scope="module")
def portrait():
  """scikit-image's astronaut with some room around the head, 1024 x 1024."""
  return cv2.resize(data.astronaut()[:220, 115:335], (1024, 1024), interpolation=cv2.INTER_CUBIC)


@pytest.fixture(scope="module")
def finder():
  """The one that the sources take where none is named."""
  with open_face_finder() as finder:
    yield finder


@pytest.fixture
def folder(tmp_path, portrait):
  """A folder that holds one good portrait, half size."""
  Image.fromarray(portrait).resize((512, 512)).save(tmp_path / "good.png")
  return tmp_path


def load(folder, id, size=256, **options):
  source = PhotoFolder(folder, size, **options)
  source.open()
  try:
    return list(source.load(id))
  finally:
    source.close()


def refusal(folder, id, **options) -> str:
  with pytest.raises(BadInput) as caught:
    load(folder, id, **options)
  assert "\n" not in str(caught.value)
  return str(caught.value)


def test_ids_are_paths_below_the_folder(tmp_path):
  for name in ("b.jpg", "a.PNG", "a.jpg", "a.jpg.jpg", "sub/a.jpg", "notes.txt", ".hidden.jpg", ".git/c.jpg"):
    (tmp_path / name).parent.mkdir(exist_ok=True)
    (tmp_path / name).touch()
  source = PhotoFolder(tmp_path, 256)
  assert source.ids == ["a.PNG", "a.jpg", "a.jpg.jpg", "b.jpg", "sub/a.jpg"]
  assert [tuple(each) for each in source.rejected] == [("notes.txt", "is empty")]


def test_what_looks_like_photos_but_is_none_is_named(tmp_path):
  (tmp_path / "good.jpg").touch()
  (tmp_path / "nowhere.jpg").symlink_to(tmp_path / "missing.jpg")
  (tmp_path / "round.jpg").symlink_to(tmp_path / "round.jpg")
  (tmp_path / "linked").symlink_to(tmp_path.parent)
  os.mkfifo(tmp_path / "queue.png")
  with open(os.fsencode(tmp_path) + b"/lat\xe9in.jpg", "wb"):
    pass
  source = PhotoFolder(tmp_path, 256)
  assert source.ids == ["good.jpg"]
  assert source.rejected == [
    ("lat\\udce9in.jpg", "file name: not UTF-8"),
    ("linked", "link to a folder: not followed"),
    ("nowhere.jpg", "not a file, or a link to nowhere"),
    ("queue.png", "not a file, or a link to nowhere"),
    ("round.jpg", "not a file, or a link to nowhere"),
  ]


@pytest.mark.parametrize("make", [lambda path: None, lambda path: path.mkdir(), lambda path: path.touch()])
def test_a_folder_without_photos_is_refused(tmp_path, make):
  path = tmp_path / "portraits"
  make(path)
  with pytest.raises(BadInput, match=str(path)):
    _ = PhotoFolder(path, 256).ids


def test_a_framed_face_is_where_a_new_look_finds_it(folder, finder):
  (framed,) = load(folder, "good.png", size=512)
  assert framed.id == "good.png"
  assert framed.pixels.shape == (512, 512, 3)
  (seen,) = finder.find(framed.pixels)
  assert np.abs(framed.face.landmarks - seen.landmarks).mean() < 2.5
  assert np.abs(framed.face.landmarks.mean(axis=0) - seen.landmarks.mean(axis=0)).max() < 1.5
  assert np.ptp(framed.face.depth) == pytest.approx(np.ptp(seen.depth), rel=0.1)
  # CelebA-HQ's framing again gives nearly the same square: the cut has neither shifted nor scaled the face.
  np.testing.assert_allclose(frame_face(framed.face, 512).matrix, [[1, 0, 0], [0, 1, 0]], atol=1.5)


def test_half_a_pixel_is_not_lost_when_a_small_photo_grows(tmp_path, portrait, finder):
  (face,) = finder.find(portrait)
  small = cv2.resize(portrait, (160, 160), interpolation=cv2.INTER_AREA)
  Image.fromarray(small).save(tmp_path / "small.png")
  framing = frame_face(scale_face(face, 160 / 1024), 1024)
  linear, shift = framing.matrix[:, :2], framing.matrix[:, 2]
  framed = load(tmp_path, "small.png", size=1024)[0]
  # A white dot in the photo lands where its landmark is said to lie.
  x, y = 80, 70
  dotted = np.zeros_like(small)
  dotted[y, x] = 255
  spot = cut_square(dotted, framing)[..., 0].astype(float)
  centre = np.array([(spot.sum(axis=axis) @ np.arange(1024)) / spot.sum() for axis in (0, 1)])
  np.testing.assert_allclose(centre, linear @ (x + 0.5, y + 0.5) + shift - 0.5, atol=0.05)
  expected = face.landmarks * 160 / 1024 @ linear.T + shift
  assert np.abs(framed.face.landmarks - expected).mean() < 12  # found anew in a small photo: 2 of its pixels


def test_aligned_photos_are_only_resized(folder, portrait):
  (framed,) = load(folder, "good.png", size=256, aligned=True)
  expected = cv2.resize(np.asarray(Image.open(folder / "good.png")), (256, 256), interpolation=cv2.INTER_AREA)
  np.testing.assert_array_equal(framed.pixels, expected)
  assert framed.face.box.min() > 0
  assert framed.face.box.max() < 256
  Image.fromarray(portrait[:, 100:900]).save(folder / "tall.png")
  assert refusal(folder, "tall.png", aligned=True) == "800 x 1024 pixels: --aligned takes square portraits"


def test_several_faces_the_largest_or_all(tmp_path, portrait):
  crowd = np.full((600, 1000, 3), 90, np.uint8)
  crowd[50:562, 40:552] = cv2.resize(portrait, (512, 512), interpolation=cv2.INTER_AREA)
  crowd[100:500, 580:980] = cv2.resize(portrait, (400, 400), interpolation=cv2.INTER_AREA)
  Image.fromarray(crowd).save(tmp_path / "two.png")
  (largest,) = load(tmp_path, "two.png")
  first, second = load(tmp_path, "two.png", all_faces=True)
  assert (largest.id, first.id, second.id) == ("two.png", "two.png#1", "two.png#2")
  np.testing.assert_array_equal(largest.pixels, first.pixels)
  assert np.abs(first.pixels.astype(int) - second.pixels).mean() < 25  # the same person, seen smaller


def test_photos_that_cannot_be_used_say_why(folder, portrait):
  (folder / "text.jpg").write_text("not a picture")
  good = (folder / "good.png").read_bytes()
  (folder / "cut.png").write_bytes(good[: len(good) // 2])
  (folder / "empty.png").touch()
  Image.fromarray(portrait).convert("L").convert("RGB").save(folder / "gray.png")
  noise = np.random.default_rng(0).integers(0, 255, (300, 300, 3), np.uint8)
  Image.fromarray(noise).save(folder / "noise.png")
  large = np.zeros((8001, 8000, 3), np.uint8)
  assert cv2.imwrite(str(folder / "large.png"), large)
  for id in ("text.jpg", "cut.png", "empty.png", "large.png"):
    reason = refusal(folder, id)
    assert reason.startswith("not a usable picture: ")
    assert str(folder) not in reason
  assert "8000 x 8001 pixels are more than the 64000000 allowed" in refusal(folder, "large.png")
  assert refusal(folder, "gray.png").startswith("gray photo")
  assert refusal(folder, "noise.png") == "no face found"
  assert len(load(folder, "gray.png", keep_gray=True)) == 1


def rejection(folder, id) -> str:
  (result,) = load(folder, id)
  assert isinstance(result, Rejection)
  assert result.id == id
  return result.reason


def test_a_face_that_cannot_be_used_says_why(folder, portrait, finder):
  (face,) = finder.find(portrait)
  left, _, right, _ = face.box.astype(int)
  Image.fromarray(portrait[:, : (3 * right + left) // 4]).save(folder / "cut.png")
  assert rejection(folder, "cut.png") == "face cut by the photo's border"
  Image.fromarray(cv2.resize(portrait, (90, 90), interpolation=cv2.INTER_AREA)).save(folder / "tiny.png")
  assert rejection(folder, "tiny.png").startswith("tiny face: ")


def test_the_smallest_square_is_the_limit(portrait, finder):
  (face,) = finder.find(portrait)
  side = 1 / np.sqrt(np.linalg.det(frame_face(face, 1).matrix[:, :2]))
  for factor, usable in ((SMALLEST_SQUARE * 1.01 / side, True), (SMALLEST_SQUARE * 0.99 / side, False)):
    small = Face(face.landmarks * factor, face.depth * factor)
    if usable:
      check_usable(portrait, small)
    else:
      with pytest.raises(BadInput, match="tiny face"):
        check_usable(portrait, small)


def test_a_head_turned_too_far_is_a_profile(portrait, finder):
  (face,) = finder.find(portrait)
  now, centre = head_pose(face).yaw, face.box.reshape(2, 2).mean(axis=0)
  for yaw, usable in ((55, True), (-55, True), (65, False), (-65, False)):
    turn = np.radians(yaw - now)
    x, y = (face.landmarks - centre).T
    x, depth = np.cos(turn) * x + np.sin(turn) * face.depth, np.cos(turn) * face.depth - np.sin(turn) * x
    turned = Face(np.stack([x, y], axis=-1) + centre, depth)
    if usable:
      check_usable(portrait, turned)
    else:
      with pytest.raises(BadInput, match=r"profile: the head is turned by 6\d degrees, more than 60"):
        check_usable(portrait, turned)


def procedural(id="face-00000003", seed=0, size=128, find=False, ratio="linear"):
  source = ProceduralFaces(5, size, seed, find=find, ratio=ratio)
  source.open()
  (portrait,) = source.load(id)
  source.close()
  return portrait


def test_procedural_faces_depend_on_seed_and_id_alone():
  first, again = procedural(), procedural()
  np.testing.assert_array_equal(first.pixels, again.pixels)
  np.testing.assert_array_equal(first.truth.maps.normal, again.truth.maps.normal)
  assert (procedural(seed=1).pixels != first.pixels).any()
  assert (procedural("face-00000004").pixels != first.pixels).any()
  assert ProceduralFaces(3, 128, 0, find=False).ids == ("face-00000000", "face-00000001", "face-00000002")


def scene_of(portrait):
  """The scene of one of `procedural`, without its light."""
  return geometry(draw_face(generator(0, "face", portrait.id)), len(portrait.pixels))


def test_a_procedural_face_is_albedo_times_shading():
  """In linear light, to the rounding of 8 bits."""
  portrait = procedural(size=256)
  scene = scene_of(portrait)
  linear = scene.albedo * sh.shading(portrait.truth.normal, portrait.truth.light)[..., None]
  low, high = (linearise(np.clip(portrait.pixels + half, 0, 255) / 255) for half in (-0.55, 0.55))
  right = (low <= linear) & (linear <= high)
  assert right[scene.foreground].all()
  assert scene.foreground.mean() > 0.4


def test_a_procedural_face_of_the_published_kind_is_albedo_times_shading_in_lightness():
  portrait = procedural(size=256, ratio="published")
  scene = scene_of(portrait)
  albedo = linear_to_lab(scene.albedo)[..., 0]
  lightness = srgb_to_lab(portrait.pixels / np.float32(255))[..., 0]
  shading = sh.shading(portrait.truth.normal, portrait.truth.light)
  skin = (scene.label == 1) & (albedo * shading < 90)
  assert np.abs(lightness - albedo * shading)[skin].max() < 0.5
  assert (portrait.pixels != procedural(size=256).pixels).any()


def test_procedural_faces_are_not_overexposed():
  for id, ratio in itertools.product(("face-00000000", "face-00000002", "face-00000004"), ("linear", "published")):
    portrait = procedural(id, ratio=ratio)
    skin = portrait.truth.maps.label == 1
    assert (portrait.pixels[skin] == 255).any(axis=-1).mean() < 0.03


def test_a_procedural_face_can_be_found():
  portrait = procedural(size=256, find=True)
  assert portrait.face.landmarks.shape == (478, 2)
  eyes = portrait.truth.maps.landmarks[:2].mean(axis=0)
  assert np.hypot(*(portrait.face.landmarks[[468, 473]].mean(axis=0) - eyes)) < 12


def test_a_folder_is_searched_with_its_folders(folder):
  (folder / "sub").mkdir()
  shutil.copy(folder / "good.png", folder / "sub/other.png")
  assert PhotoFolder(folder, 128).ids == ["good.png", "sub/other.png"]
  assert load(folder, "sub/other.png", size=128)[0].id == "sub/other.png"
