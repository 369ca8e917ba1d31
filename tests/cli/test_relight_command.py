"""`relight.py` behind its flags: real weights, a real face, small squares; one run through the entry itself."""

import dataclasses
import functools
import json
import shutil
import subprocess
import sys
from pathlib import Path
from typing import NamedTuple

import av
import cv2
import jax
import numpy as np
import pytest
from PIL import ExifTags, Image
from skimage import data

from dpr_jax.base.assets import ASSETS
from dpr_jax.base.errors import BadInput, BadInputs
from dpr_jax.cli import relight_command
from dpr_jax.cli.relight_command import Options, Studio, relight, relight_film, relight_folder, relight_photo
from dpr_jax.image import pictures
from dpr_jax.image.color import linearise
from dpr_jax.image.photo import Photo, read_photo
from dpr_jax.image.photo_writing import write_photo
from dpr_jax.light import light as light_lib
from dpr_jax.light import sh
from dpr_jax.network.encoding import Encoding
from dpr_jax.network.networks import network_for
from dpr_jax.portrait import relighter, whole_photo
from dpr_jax.portrait.face_finders import choose_face_finder
from dpr_jax.portrait.lights import parse_light
from dpr_jax.portrait.passes import pass_photos
from dpr_jax.portrait.portrait import PASSES, Portrait

ROOT = Path(__file__).resolve().parents[2]

# The astronaut's head and shoulders; the face spans columns 110 to 201.
ASTRONAUT = np.ascontiguousarray(data.astronaut()[:300, 70:370])
MIDDLE = 155
FACE = np.s_[70:178, 110:201]
NUMBERS = np.float32([0.7, -0.31, 0.125, 0.2, 1e-3, -0.04, 7e-2, 0.055, -0.061])
SMALL = Options(lights=("left",), size=256)


def with_(**changes) -> Options:
  """Options of a fast run, with changes."""
  return dataclasses.replace(SMALL, **changes)


def pixels_of(path: Path) -> np.ndarray:
  return read_photo(path).pixels


def contents(folder: Path) -> dict[str, bytes]:
  return {str(path.relative_to(folder)): path.read_bytes() for path in folder.rglob("*") if path.is_file()}


def refusal(*arguments, **wishes) -> str:
  """The message of a run that must be refused."""
  with pytest.raises(BadInput) as caught:
    relight(*arguments, **wishes)
  return str(caught.value)


_load_params_once = functools.cache(relighter.load_params)


@pytest.fixture(autouse=True)
def _surroundings(monkeypatch):
  """Weights are read once for all tests, a third of a fast run otherwise."""
  monkeypatch.setattr(relighter, "load_params", _load_params_once)


@pytest.fixture
def official(shared):
  """Skips without the official networks."""
  for name in ("official-512", "official-1024"):
    shared(f"reference/dpr/{ASSETS[name].filename}")


@pytest.fixture
def photo(tmp_path) -> Path:
  write_photo(tmp_path / "photo.png", Photo(ASTRONAUT))
  return tmp_path / "photo.png"


@pytest.fixture
def idle(monkeypatch):
  """A run that would do any of the costly work fails."""

  def encode(*_):
    pytest.fail("work was begun")

  monkeypatch.setattr(Studio, "encode", encode)


# Options.


@pytest.mark.parametrize(
  ("flag", "value"),
  [
    *(("strength", value) for value in (-0.01, 3.01, float("nan"), float("inf"), -float("inf"))),
    *(("intensity", value) for value in (0, -1, 10.01, float("nan"), float("inf"))),
    *(("background", value) for value in (-0.01, 1.01, float("nan"))),
    *(("exposure", value) for value in (-5.1, 5.1, float("nan"), -float("inf"))),
    *(("temperature", value) for value in (0, 1699, 25_001, float("nan"))),
    *(("env_rotate", value) for value in (-361, 360.5, float("nan"), float("inf"))),
    *(("size", value) for value in (0, -512, 255, 2049)),
    *(("face", value) for value in (0, -1)),
  ],
)
def test_values_out_of_range_are_refused_by_the_flag_name(flag, value):
  with pytest.raises(BadInput, match=rf"^--{flag} {value:g}: "):
    Options(**{flag: value})


def test_a_face_finder_that_there_is_not_is_refused():
  with pytest.raises(BadInput, match=r"^--face_finder dlib: must be one of embedded, mediapipe$"):
    Options(face_finder="dlib")


def test_values_at_the_edge_of_their_range_are_taken():
  Options(strength=0, intensity=1e-6, size=256, face=1, exposure=-5, temperature=1700, env_rotate=-360)
  Options(strength=3, intensity=10, size=2048, exposure=5, temperature=25_000, env_rotate=360)


@pytest.mark.parametrize(
  ("wishes", "message"),
  [
    ({"color": "red"}, "--color 'red': must be #rrggbb, or red,green,blue of 0 to 255"),
    ({"color": "#000000"}, "--color '#000000': a black lamp gives no light"),
    ({"color": "#ffffff", "temperature": 3000}, "--temperature and --color: one of them at a time"),
    *(
      (wish | {"align": False}, "--temperature and --color: not with --no-align, which changes no colours")
      for wish in ({"color": "#ffb070"}, {"temperature": 3000})
    ),
  ],
)
def test_colours_that_a_lamp_cannot_have(wishes, message):
  with pytest.raises(BadInput) as caught:
    Options(**wishes)
  assert str(caught.value) == message


# One photo.


def test_a_photo_is_relit_from_the_side_asked_for(photo):
  relit = {}
  for light in ("left", "right"):
    out = photo.with_name(f"{light}.png")
    relight(Options(lights=(light,)), photo, out)
    relit[light] = pixels_of(out).astype(int)
    assert relit[light].shape == ASTRONAUT.shape
  assert contents(photo.parent).keys() == {"photo.png", "left.png", "right.png"}
  gain = (relit["left"] - relit["right"])[70:178, 110:201].mean(axis=(0, 2))
  assert gain[: MIDDLE - 110].mean() > 50
  assert gain[MIDDLE - 110 :].mean() < -50


def test_strength_0_changes_no_bit(photo):
  relight(with_(strength=0), photo, photo.with_name("out.png"))
  np.testing.assert_array_equal(pixels_of(photo.with_name("out.png")), ASTRONAUT)


def test_strength_is_applied(photo):
  change = {}
  for strength in (1, 0.5):
    relight(with_(strength=strength), photo, photo.with_name(f"{strength}.png"))
    change[strength] = pixels_of(photo.with_name(f"{strength}.png")).astype(float) - ASTRONAUT
  assert 0.3 < np.abs(change[0.5]).mean() / np.abs(change[1]).mean() < 0.7


def key(pixels: np.ndarray) -> float:
  """The 90th percentile of linear luminance over the face."""
  srgb = pixels[FACE] / 255
  linear = np.where(srgb <= 0.04045, srgb / 12.92, ((srgb + 0.055) / 1.055) ** 2.4)
  return float(np.percentile(linear @ [0.2126, 0.7152, 0.0722], 90))


def test_exposure_is_in_stops_above_the_key_of_the_photo(photo):
  keys = {}
  for stops in (-2, -1, 0):  # highlights are too bright to be shown at 0
    out = photo.with_name(f"{stops}.png")
    relight(with_(exposure=stops), photo, out)
    keys[stops] = key(pixels_of(out))
  assert keys[0] == pytest.approx(key(ASTRONAUT), rel=0.15)
  assert keys[-1] == pytest.approx(keys[0] / 2, rel=0.2)
  assert keys[-2] == pytest.approx(keys[-1] / 2, rel=0.05)


def test_intensity_is_exposure_said_otherwise(photo):
  relit = []
  for options in ({"intensity": 0.5}, {"exposure": -1}, {"intensity": 2, "exposure": -2}):
    relight(with_(**options, overwrite=True), photo, photo.with_name("out.png"))
    relit.append(pixels_of(photo.with_name("out.png")))
  np.testing.assert_array_equal(relit[0], relit[1])
  np.testing.assert_array_equal(relit[0], relit[2])


class Sees(Portrait):
  """A photo made ready that notes what it is relit with."""

  has_mattes = True

  def __init__(self):
    pass

  def relight(self, *arguments, **options):
    self.told = arguments, options
    return ASTRONAUT


def relit_with(**options):
  """What `Studio` hands on."""
  seen = Sees()
  with Studio(with_(**options)) as studio:
    studio.relight(seen, studio.lights[0])
  return seen.told


def test_a_backdrop_is_read_once_for_each_shape_of_photo(monkeypatch):
  """A light that goes round asks for it again and again."""
  asked = []

  def backdrop(file, shape, dtype, env_rotate):
    asked.append((file, shape))
    return np.zeros(shape, dtype)

  monkeypatch.setattr(relight_command.backdrops, "backdrop", backdrop)
  seen = Sees()
  with Studio(with_(replace_background="wall.png")) as studio:
    for seen.pixels in (ASTRONAUT, ASTRONAUT, ASTRONAUT[:100], ASTRONAUT[:100]):
      studio.relight(seen, studio.lights[0])
      assert seen.told[1]["backdrop"].shape == seen.pixels.shape
  assert asked == [("wall.png", ASTRONAUT.shape), ("wall.png", ASTRONAUT[:100].shape)]


def test_a_face_is_relit_by_the_light_as_it_is():
  (light, strength), options = relit_with(lights=("rembrandt",), intensity=4, exposure=-0.5, strength=0.7)
  assert strength == 0.7
  assert options == {"exposure": 1.5, "background": 0.0, "backdrop": None}
  for part, expected in zip(light, parse_light("rembrandt"), strict=True):
    np.testing.assert_array_equal(part, expected)


@pytest.mark.parametrize(
  ("options", "what"),
  [
    ({"background": 0.5, "replace_background": "wall.png"}, "one of them at a time"),
    ({"background": 0.5, "align": False}, "not with --no-align"),
    ({"replace_background": "wall.png", "align": False}, "not with --no-align"),
    ({"passes": True, "align": False}, "not with --no-align"),
  ],
)
def test_what_contradicts_persons_is_refused(options, what):
  with pytest.raises(BadInput, match=what):
    Options(**options)


class HalfPortrait(NamedTuple):
  """A portrait whose right half is a person."""

  pixels: np.ndarray
  has_shapes: bool = True

  def each_pass(self, light, dtype):
    half = np.zeros(self.pixels.shape[:2], dtype)
    half[:, half.shape[1] // 2 :] = np.iinfo(dtype).max
    for name in PASSES:
      yield name, np.dstack([half] * 3) // 2 + half[..., None] % 2 if name == "normals" else half


class PassesStudio:
  """Writes passes of a `HalfPortrait`."""

  writes_passes, lights = True, (None,)

  def encode(self, pixels, name):
    return HalfPortrait(pixels)

  def relight(self, encoded, light):
    return encoded.pixels


def test_passes_are_written_beside_the_photo_with_16_bits(photo, tmp_path):
  relight_photo(PassesStudio(), photo, tmp_path / "relit.png", False)
  assert {path.name for path in tmp_path.iterdir()} >= {f"relit_{name}.png" for name in PASSES} | {"relit.png"}
  matte, normals = (read_photo(tmp_path / f"relit_{name}.png") for name in ("matte", "normals"))
  assert matte.gray
  assert not normals.gray
  assert matte.pixels.dtype == normals.pixels.dtype == np.uint16
  assert set(np.unique(matte.pixels)) == {0, 65535}
  assert normals.pixels.max() == 32768
  with pytest.raises(BadInput, match=r"relit_\w+\.png|relit\.png"):
    relight_photo(PassesStudio(), photo, tmp_path / "relit.png", False)


def test_passes_of_two_photos_do_not_share_a_file(tmp_path):
  folder, out = tmp_path / "photos", tmp_path / "out"
  folder.mkdir()
  for name in ("a.jpg", "a.png", "a_matte.png"):
    write_photo(folder / name, Photo(ASTRONAUT))
  with pytest.raises(BadInputs) as caught:
    relight_folder(PassesStudio(), folder, out, True)
  assert [line.partition(": ")[2] for line in str(caught.value).splitlines()[1:]] == [
    "would be written to a_matte.png, as a.jpg is",  # the passes of a.png
    "would be written to a_matte.png, as a.jpg is",  # the photo a_matte.png
  ]
  assert {path.name for path in out.iterdir()} == {"a.jpg", *(f"a_{name}.png" for name in PASSES)}


def test_without_shapes_there_are_no_passes():
  with pytest.raises(BadInput, match="passes: need weights that know shape"):
    pass_photos(HalfPortrait(np.zeros((4, 4, 3), np.uint8), has_shapes=False), None)


def test_without_alignment_numbers_are_the_authors_times_the_intensity(tmp_path, monkeypatch):
  """Digit for digit, as their demo: what the network gets of a text file is its numbers times 0.7."""
  np.savetxt(tmp_path / "light.txt", NUMBERS)
  (light, _), options = relit_with(lights=(str(tmp_path / "light.txt"),), align=False, intensity=0.7)
  assert options == {"brightness": 0.7}
  np.testing.assert_array_equal(light, NUMBERS, strict=True)
  _, options = relit_with(lights=(str(tmp_path / "light.txt"),), align=False, intensity=0.7, exposure=1)
  assert options == {"brightness": pytest.approx(1.4)}
  asked = []
  monkeypatch.setattr(whole_photo, "encode_luminance", lambda *_, dtype: Encoding(None, light[None], ()))
  monkeypatch.setattr(
    whole_photo, "decode_luminance", lambda params, encoding, light, **options: asked.append(light) or 0
  )
  with pytest.raises(IndexError):  # of the stand-in's 0
    whole_photo.WholePhoto({}, ASTRONAUT, 64).relight(light, brightness=0.7)
  np.testing.assert_array_equal(asked[0][0], NUMBERS * np.float32(0.7), strict=True)


def test_without_alignment_our_network_follows_exposure_too(tmp_path):
  """It keeps the key of a photo whatever the brightness of a light."""
  write_photo(tmp_path / "photo.png", Photo(ASTRONAUT))
  relit = []
  for exposure in (0, -2):
    relight(with_(align=False, exposure=exposure, overwrite=True), tmp_path / "photo.png", tmp_path / "out.png")
    relit.append(linearise(pixels_of(tmp_path / "out.png") / np.float32(255)).mean())
  assert relit[1] == pytest.approx(relit[0] / 4, rel=0.15)


def test_without_alignment_a_lamp_is_told_as_its_nine_numbers():
  (light, _), _ = relit_with(lights=("left",), align=False)
  np.testing.assert_array_equal(light, light_lib.told(parse_light("left"))[0], strict=True)
  assert light[0] == pytest.approx(0.75)


# Colours, and maps that turn.


def warmth(pixels: np.ndarray) -> np.ndarray:
  """Red over blue, of the left and the right half of the face."""
  return np.array([half[..., 0].mean() / half[..., 2].mean() for half in np.hsplit(pixels[FACE][:, :90], 2)])


def test_lamps_are_tinted_by_temperature_or_by_colour(photo):
  found = {}
  for name, wishes in {
    "plain": {},
    "bulb": {"temperature": 2700},
    "sky": {"temperature": 12_000},
    "orange": {"color": "#ffb070"},
    "blue": {"color": "60,120,255"},
    "white": {"color": "#808080"},
  }.items():
    relight(with_(**wishes), photo, photo.with_name(f"{name}.png"))
    found[name] = warmth(pixels_of(photo.with_name(f"{name}.png")))
  for name in ("bulb", "orange"):
    assert found[name][0] > 1.15 * found["plain"][0]  # on the lit side
    assert found[name][0] / found["plain"][0] > found[name][1] / found["plain"][1]  # the fill stays white
  for name in ("sky", "blue"):
    assert found[name][0] < 0.95 * found["plain"][0]
  np.testing.assert_allclose(found["white"], found["plain"], rtol=0.01)


def test_the_tint_is_on_the_lamps_of_every_light():
  with Studio(with_(lights=("left", "flat"), temperature=2700)) as studio:
    lamp, even = studio.lights
  assert lamp.channels == 3
  assert lamp.irradiance[0, 0] > 2 * lamp.irradiance[0, 2]
  np.testing.assert_array_equal(lamp.soft, np.repeat(parse_light("left").soft, 3, axis=0))
  assert even.soft[0, 0] > 2 * even.soft[2, 0]  # which has no lamp to tint


@pytest.fixture
def sunny(tmp_path) -> str:
  """A map with a sun high on the camera's side, and sky."""
  panorama = np.full((64, 128, 3), 0.2, np.float32)
  panorama[14:17, :3] = 500
  panorama[:32] += np.float32([0.1, 0.2, 0.4])
  assert cv2.imwrite(str(tmp_path / "sunny.hdr"), panorama[..., ::-1])
  return str(tmp_path / "sunny.hdr")


def test_a_map_is_turned_and_nothing_else(sunny):
  lights = []
  for degrees in (0, 90):
    with Studio(with_(lights=(sunny,), env_rotate=degrees)) as studio:
      lights += studio.lights
  np.testing.assert_allclose(lights[1].towards, lights[0].towards @ sh.turn(90).T, atol=1e-6)
  assert lights[1].towards[0, 0] < -0.6  # from the left now
  with pytest.raises(BadInput, match=r"^--env_rotate 90: turns environment maps alone, and 'left' is none$"):
    Studio(with_(lights=(sunny, "left"), env_rotate=90))


def test_a_face_under_a_map_in_colour(photo, sunny):
  relight(with_(lights=(sunny,), env_rotate=70), photo, photo.with_name("out.png"))
  gain = (pixels_of(photo.with_name("out.png")).astype(int) - ASTRONAUT)[FACE].mean(axis=(0, 2))
  assert gain[: MIDDLE - 110].mean() > gain[MIDDLE - 110 :].mean() + 10


def test_an_existing_output_is_refused_before_any_work(photo, idle):
  out = photo.with_name("out.png")
  out.write_bytes(b"old")
  for wishes in ({}, {"sheet": True}):
    assert refusal(SMALL, photo, out, **wishes) == f"{out}: exists already (--overwrite replaces it)"
  assert out.read_bytes() == b"old"


def test_an_existing_output_is_replaced_when_asked_for(photo):
  out = photo.with_name("out.png")
  out.write_bytes(b"old")
  relight(with_(overwrite=True), photo, out)
  assert pixels_of(out).shape == ASTRONAUT.shape


def test_the_photo_itself_is_replaced_only_when_asked_for(photo):
  before = photo.read_bytes()
  assert "exists already" in refusal(SMALL, photo, photo)
  assert photo.read_bytes() == before
  relight(with_(overwrite=True), photo, photo)
  assert photo.read_bytes() != before
  assert pixels_of(photo).shape == ASTRONAUT.shape


@pytest.mark.parametrize("name", ["out", "out.xyz", "out.gif", "out.mp4"])
@pytest.mark.parametrize("sheet", [False, True])
def test_a_suffix_that_cannot_be_written_is_refused_before_any_work(photo, idle, name, sheet):
  message = refusal(SMALL, photo, photo.with_name(name), sheet=sheet)
  assert message.startswith(f"{photo.with_name(name)}: the suffix must be one of .jpg, .jpeg, .jpe, .jfif, .png,")


def test_missing_folders_are_made(photo):
  out = photo.parent / "a" / "b" / "out.png"
  relight(SMALL, photo, out)
  assert pixels_of(out).shape == ASTRONAUT.shape


def test_places_that_cannot_be_written(photo):
  folder = photo.parent
  assert refusal(SMALL, photo, folder) == f"{folder}: is a folder, not a file to write to"
  assert refusal(SMALL, photo, photo / "out.png").startswith(f"{photo}: cannot be made a folder")
  assert contents(folder).keys() == {"photo.png"}


def test_the_alpha_channel_is_kept(photo):
  alpha = np.random.default_rng(0).integers(0, 256, ASTRONAUT.shape[:2], np.uint8)
  write_photo(photo, Photo(ASTRONAUT, alpha), overwrite=True)
  for options in (SMALL, with_(align=False)):
    relight(options, photo, photo.with_name("out.png"))
    np.testing.assert_array_equal(read_photo(photo.with_name("out.png")).alpha, alpha)
    photo.with_name("out.png").unlink()


def test_gray_stays_gray(photo):
  Image.fromarray(ASTRONAUT).convert("L").save(photo)
  relight(SMALL, photo, photo.with_name("out.png"))
  with Image.open(photo.with_name("out.png")) as image:
    assert image.mode == "L"
    gray = np.asarray(image).astype(int)
  change = gray - pixels_of(photo)[..., 0]
  face = change[70:178, 110:201]
  assert face[:, : MIDDLE - 110].mean() > face[:, MIDDLE - 110 :].mean() + 10


@pytest.mark.parametrize("with_alpha", [False, True])
def test_16_bits_stay_16_bits(photo, with_alpha):
  fine = ASTRONAUT.astype(np.uint16) * 257 + np.random.default_rng(0).integers(-100, 100, ASTRONAUT.shape)
  deep = Photo(fine.clip(0, 65535).astype(np.uint16), fine[..., 0].astype(np.uint16) if with_alpha else None)
  write_photo(photo, deep, overwrite=True)
  relight(SMALL, photo, photo.with_name("out.png"))
  relit = read_photo(photo.with_name("out.png"))
  assert relit.pixels.dtype == np.uint16
  face = relit.pixels[70:178, 110:201]
  inside = (face > 0) & (face < 65535)
  assert inside.mean() > 0.8
  assert (face[inside] % 257 != 0).mean() > 0.98
  np.testing.assert_array_equal(relit.pixels[:5], deep.pixels[:5])  # above the head
  # The same change as of the photo in 8 bits.
  write_photo(photo, Photo(ASTRONAUT), overwrite=True)
  relight(SMALL, photo, photo.with_name("out_8.png"))
  assert np.abs(relit.pixels / 257 - pixels_of(photo.with_name("out_8.png"))).mean() < 0.5
  if with_alpha:
    np.testing.assert_array_equal(relit.alpha, deep.alpha)


def test_16_bits_with_alpha_through_the_authors_8_bit_procedure(photo):
  write_photo(
    photo, Photo(ASTRONAUT.astype(np.uint16) * 257, np.full(ASTRONAUT.shape[:2], 40000, np.uint16)), overwrite=True
  )
  relight(with_(align=False), photo, photo.with_name("out.png"))
  relit = read_photo(photo.with_name("out.png"))
  assert relit.pixels.dtype == np.uint8
  assert (relit.alpha == 156).all()


@pytest.mark.parametrize(
  ("orientation", "undo"),
  [(6, Image.Transpose.ROTATE_90), (8, Image.Transpose.ROTATE_270), (3, Image.Transpose.ROTATE_180)],
)
def test_a_phone_photo_lying_on_its_side_is_relit_upright(photo, orientation, undo):
  exif = Image.Exif()
  exif[ExifTags.Base.Orientation] = orientation
  exif[ExifTags.Base.Model] = "a phone"
  rotated = photo.with_name("phone.jpg")
  Image.fromarray(ASTRONAUT[:, :260]).transpose(undo).save(rotated, exif=exif, quality=95)
  relight(SMALL, rotated, photo.with_name("out.jpg"))
  with Image.open(photo.with_name("out.jpg")) as image:
    assert image.size == (260, 300)
    assert image.getexif().get(ExifTags.Base.Orientation, 1) == 1
    assert image.getexif()[ExifTags.Base.Model] == "a phone"
  # As the same pixels standing upright are.
  write_photo(photo, Photo(pixels_of(rotated)), overwrite=True)
  relight(SMALL, photo, photo.with_name("upright.png"))
  relight(SMALL, rotated, photo.with_name("out.png"))
  np.testing.assert_array_equal(pixels_of(photo.with_name("out.png")), pixels_of(photo.with_name("upright.png")))
  assert np.abs(pixels_of(photo.with_name("out.png")).astype(int) - ASTRONAUT[:, :260]).mean() > 2


def test_jpeg_is_written_in_high_quality(photo):
  relight(SMALL, photo, photo.with_name("out.jpg"))
  relight(SMALL, photo, photo.with_name("out.png"))
  Image.fromarray(ASTRONAUT).save(photo.with_name("95.jpg"), quality=95, subsampling="4:4:4")
  with Image.open(photo.with_name("out.jpg")) as ours, Image.open(photo.with_name("95.jpg")) as reference:
    assert ours.quantization == reference.quantization
    assert [layer[1:3] for layer in ours.layer] == [(1, 1)] * 3  # chroma in full resolution
  error = pixels_of(photo.with_name("out.jpg")).astype(float) - pixels_of(photo.with_name("out.png"))
  assert 10 * np.log10(255**2 / np.mean(error**2)) > 36


@pytest.mark.parametrize(
  ("make", "reason"),
  [
    (lambda path: None, "cannot be read (No such file or directory)"),
    (lambda path: path.write_bytes(b""), "is empty"),
    (lambda path: path.write_text("a text"), "not a photo"),
    (lambda path: path.write_bytes(b"\xff\xd8\xff" + bytes(99)), "damaged, or of an unknown variant"),
    (lambda path: write_photo(path, Photo(np.full((64, 64, 3), 90, np.uint8))), "no face found (--no-align"),
  ],
)
def test_photos_that_cannot_be_used(tmp_path, make, reason):
  make(tmp_path / "in.jpg")
  before = contents(tmp_path)
  message = refusal(SMALL, tmp_path / "in.jpg", tmp_path / "out" / "out.jpg")
  assert message.startswith(f"{tmp_path / 'in.jpg'}: {reason}")
  assert "\n" not in message
  assert contents(tmp_path) == before


def test_a_name_longer_than_the_system_knows(photo):
  assert "too long" in refusal(SMALL, photo.with_name("x" * 300 + ".png"), photo.with_name("out.png"))


# Which faces.


@pytest.fixture
def two_faces(photo) -> tuple[Path, np.ndarray]:
  pixels = np.hstack([ASTRONAUT, ASTRONAUT[:, ::-1]])
  write_photo(photo, Photo(pixels), overwrite=True)
  return photo, pixels


def test_only_the_nth_face_from_the_left_is_relit(two_faces):
  photo, pixels = two_faces
  changed = {}
  for face in (1, 2, None):
    out = photo.with_name(f"{face}.png")
    relight(with_(face=face), photo, out)
    halves = np.hsplit((pixels_of(out) != pixels).any(axis=2), 2)
    changed[face] = [half.mean() > 0.05 if half.any() else False for half in halves]
  assert changed == {1: [True, False], 2: [False, True], None: [True, True]}


def test_a_face_that_is_not_there(two_faces, photo):
  out = photo.with_name("out.png")
  assert refusal(with_(face=3), photo, out) == f"{photo}: has 2 faces, there is no --face 3"
  write_photo(photo, Photo(ASTRONAUT), overwrite=True)
  assert refusal(with_(face=2), photo, out) == f"{photo}: has 1 face, there is no --face 2"
  assert not out.exists()


def test_without_alignment_the_whole_photo_is_relit_face_or_not(tmp_path):
  gradient = np.broadcast_to(np.linspace(60, 200, 90)[:, None, None], (90, 70, 3)).astype(np.uint8)
  write_photo(tmp_path / "sky.png", Photo(gradient))
  relight(with_(align=False), tmp_path / "sky.png", tmp_path / "out.png")
  relit = pixels_of(tmp_path / "out.png")
  assert relit.shape == gradient.shape
  assert (relit != gradient).any(axis=2).mean() > 0.9


def test_without_alignment_there_are_no_faces_to_count():
  with pytest.raises(BadInput, match="--face 2: not with --no-align"):
    with_(face=2, align=False)


# Which network.


@pytest.mark.parametrize(
  ("size", "weights", "name", "side"),
  [
    (None, None, "default", 256),
    (512, None, "default", 512),
    (None, "official-512", "official-512", 512),
    (1023, "official-512", "official-512", 1023),
    (None, "official-1024", "official-1024", 1024),
    (256, "official-1024", "official-1024", 256),
  ],
)
def test_the_network_is_the_one_that_is_named(request, monkeypatch, size, weights, name, side):
  if weights:
    request.getfixturevalue("official")
  loaded = []

  def load_params(source):
    params = load(source)
    loaded.append((source, network_for(params).native_size))
    return params

  def whole_photo(params, pixels, size):
    loaded.append(size)

  load = relighter.load_params
  monkeypatch.setattr(relighter, "load_params", load_params)
  monkeypatch.setattr(relight_command, "WholePhoto", whole_photo)
  with Studio(Options(size=size, weights=weights, align=False)) as studio:
    studio.encode(ASTRONAUT, "astronaut")
  assert loaded == [(name, {"default": 256, "official-512": 512, "official-1024": 1024}[name]), side]


def test_weights_that_are_a_photo(photo):
  write_photo(photo.with_name("weights.jpg"), Photo(ASTRONAUT))
  message = refusal(with_(weights=str(photo.with_name("weights.jpg"))), photo, photo.with_name("out.png"))
  assert message == f"{photo.with_name('weights.jpg')}: not a PyTorch weight file"
  assert "known names are default, official-512" in refusal(with_(weights="offical"), photo, photo.with_name("out.png"))
  assert not photo.with_name("out.png").exists()


# Lights.


def test_lights_that_cannot_be_used(photo):
  out = photo.with_name("out.png")
  assert refusal(with_(lights=("lef",)), photo, out).startswith("light 'lef': neither a file, nor azimuth,elevation")
  assert "no such file" in refusal(with_(lights=("no.txt",)), photo, out)
  assert refusal(with_(lights=()), photo, out).startswith("--light is missing")
  assert contents(photo.parent).keys() == {"photo.png"}


def test_a_light_of_every_kind(photo):
  """The same light as a preset and as a direction, a like one as numbers in a file; and the light of a photo."""
  lights = photo.with_name("left.txt")
  np.savetxt(lights, light_lib.told(parse_light("left")))
  relit = {}
  for light in ("left", "65,10", "65,10,0.25,15", str(lights)):
    out = photo.with_name("out.png")
    relight(with_(lights=(light,), overwrite=True), photo, out)
    relit[light] = pixels_of(out).astype(int)
  for light in ("65,10", "65,10,0.25,15"):
    assert np.abs(relit[light] - relit["left"]).max() <= 1
  assert side_gain(relit[str(lights)], ASTRONAUT) > 10
  # Its own light, transferred, changes a photo less than another.
  relight(with_(lights=(str(photo),), overwrite=True), photo, out)
  assert np.abs(pixels_of(out).astype(int) - ASTRONAUT).mean() < 0.8 * np.abs(relit["left"] - ASTRONAUT).mean()


# Sheets and films.


@pytest.mark.parametrize("lights", [(), ("left", "0,60")])
def test_a_sheet_shows_the_photo_and_every_light(photo, lights):
  relight(with_(lights=lights), photo, photo.with_name("sheet.png"), sheet=True)
  sheet = pixels_of(photo.with_name("sheet.png"))
  with Studio(
    with_(lights=lights or ("left", "left-top", "top", "right-top", "right", "bottom", "rembrandt"))
  ) as studio:
    encoded = studio.encode(ASTRONAUT, "astronaut")
    cells = [ASTRONAUT, *(studio.relight(encoded, light) for light in studio.lights)]
    np.testing.assert_array_equal(sheet, pictures.contact_sheet(cells, [None, *studio.lights]))
  np.testing.assert_array_equal(sheet[8:308, 8:308], ASTRONAUT)


def test_films_begin_with_the_light_asked_for(photo):
  relight(with_(lights=()), photo, photo.with_name("turn.mp4"), film_frames=4)
  relight(SMALL, photo, photo.with_name("left.png"))
  relight(with_(lights=("180,0",)), photo, photo.with_name("other.png"))
  with Image.open(photo.with_name("turn.gif")) as film:
    assert film.n_frames == 4
    first = np.asarray(film.convert("RGB")).astype(float)
  assert first.shape == ASTRONAUT.shape
  still, other = (pixels_of(photo.with_name(f"{name}.png")) for name in ("left", "other"))
  assert np.mean((first - still) ** 2) < 0.5 * np.mean((first - other) ** 2)


def test_a_film_that_fails_half_way_leaves_nothing(photo, monkeypatch):
  relit = Studio.relight
  calls = []

  def fails(self, encoded, light):
    calls.append(light)
    if len(calls) == 3:
      raise MemoryError
    return relit(self, encoded, light)

  monkeypatch.setattr(Studio, "relight", fails)
  with pytest.raises(MemoryError):
    relight(SMALL, photo, photo.with_name("turn.mp4"), film_frames=5)
  assert contents(photo.parent).keys() == {"photo.png"}


# Wishes that exclude each other.


def test_conflicting_wishes_are_refused_before_any_work(photo, monkeypatch):
  def studio(*_):
    pytest.fail("work was begun")

  monkeypatch.setattr(relight_command, "Studio", studio)
  out = photo.with_name("out.png")
  several = with_(lights=("left", "right"))
  assert refusal(SMALL, photo.parent, out, sheet=True).endswith("is a folder; --grid and --rotate take one photo")
  assert refusal(SMALL, photo.parent, out, film_frames=9).endswith("is a folder; --grid and --rotate take one photo")
  assert refusal(several, photo, out) == "more than one --light: only --grid takes several"
  assert refusal(several, photo, out, film_frames=9) == "more than one --light: only --grid takes several"
  assert refusal(SMALL, photo, out, sheet=True, film_frames=9) == "--grid and --rotate: one of them at a time"
  for frames in (1, 0, -5, 3601):
    assert refusal(SMALL, photo, out, film_frames=frames) == f"--rotate {frames}: must lie in 2 to 3600"


# Folders.


def test_a_folder_through_the_entry_good_and_bad(tmp_path):
  folder, out = tmp_path / "in", tmp_path / "out"
  folder.mkdir()
  write_photo(folder / "good.JPG", Photo(ASTRONAUT))
  Image.fromarray(ASTRONAUT).save(folder / "good_too.gif")
  (folder / "text.jpg").write_text("a text")
  write_photo(folder / "wall.png", Photo(np.full((64, 64, 3), 90, np.uint8)))
  (folder / "cut.jpg").write_bytes((folder / "good.JPG").read_bytes()[:5000])
  (folder / "notes.txt").write_text("no photo by its name")
  shutil.copy(folder / "good.JPG", folder / ".hidden.jpg")
  (folder / "below").mkdir()
  shutil.copy(folder / "good.JPG", folder / "below" / "deep.jpg")
  flags = [f"--image={folder}", "--light=left", f"--out={out}", "--size=256", f"--face_finder={choose_face_finder()}"]
  ended = subprocess.run(
    [sys.executable, ROOT / "relight.py", *flags],
    capture_output=True,
    text=True,
    timeout=600,
  )
  assert ended.returncode == 2
  assert ended.stdout == ""
  lines = ended.stderr.splitlines()
  assert lines[0] == f"{folder / 'below'}: passed over: a folder"
  assert lines[1].startswith(f"{folder / 'notes.txt'}: passed over: not a photo")
  assert lines[2] == "relight.py: 2 of 5 photos relit, 3 failed:"
  failures = dict(line.strip().split(": ", 1) for line in lines[3:])
  assert failures.keys() == {str(folder / name) for name in ("cut.jpg", "text.jpg", "wall.png")}
  assert failures[str(folder / "text.jpg")].startswith("not a photo")
  assert failures[str(folder / "wall.png")].startswith("no face found")
  assert "truncated" in failures[str(folder / "cut.jpg")]
  assert contents(out).keys() == {"good.JPG", "good_too.png"}
  for path, source in (("good.JPG", "good.JPG"), ("good_too.png", "good_too.gif")):
    change = pixels_of(out / path).astype(int) - pixels_of(folder / source)
    face = change[70:178, 110:201]
    assert face[:, : MIDDLE - 110].mean() > face[:, MIDDLE - 110 :].mean() + 10


def test_a_folder_of_good_photos(photo, capsys):
  folder = photo.parent / "in"
  for name in ("a.png", "b.webp"):
    write_photo(folder / name, Photo(ASTRONAUT))
  out = photo.parent / "made" / "out"
  relight(SMALL, folder, out)
  assert contents(out).keys() == {"a.png", "b.webp"}
  assert capsys.readouterr().out == f"2 photos relit into {out}\n"


def test_a_second_folder_run_keeps_what_the_first_has_written(photo):
  folder, out = photo.parent / "in", photo.parent / "out"
  for name in ("a.png", "b.png"):
    write_photo(folder / name, Photo(ASTRONAUT))
  write_photo(out / "a.png", Photo(ASTRONAUT[:9, :9]))
  message = refusal(SMALL, folder, out)
  assert message.splitlines() == [
    "1 of 2 photos relit, 1 failed:",
    f"  {out / 'a.png'}: exists already (--overwrite replaces it)",
  ]
  assert pixels_of(out / "a.png").shape == (9, 9, 3)
  assert pixels_of(out / "b.png").shape == ASTRONAUT.shape


def test_a_folder_into_itself_changes_no_photo_unless_asked_to(photo):
  before = contents(photo.parent)
  assert "exists already" in refusal(SMALL, photo.parent, photo.parent)
  assert contents(photo.parent) == before
  relight(with_(overwrite=True), photo.parent, photo.parent)
  assert contents(photo.parent).keys() == before.keys()
  assert contents(photo.parent) != before


def test_photos_that_would_get_one_name_do_not_replace_each_other(photo):
  folder, out = photo.parent / "in", photo.parent / "out"
  write_photo(folder / "a.png", Photo(ASTRONAUT))
  Image.fromarray(ASTRONAUT[:, ::-1]).save(folder / "a.gif")
  message = refusal(with_(overwrite=True), folder, out)
  assert message.splitlines()[1:] == [f"  {folder / 'a.gif'}: would be written to a.png, as a.png is"]
  assert contents(out).keys() == {"a.png"}
  relight(SMALL, folder / "a.png", photo.with_name("alone.png"))
  np.testing.assert_array_equal(pixels_of(out / "a.png"), pixels_of(photo.with_name("alone.png")))


def test_folders_that_cannot_be_used(photo, idle):
  out = photo.with_name("out")
  (photo.parent / "empty").mkdir()
  assert refusal(SMALL, photo.parent / "empty", out).startswith(f"{photo.parent / 'empty'}: holds no photo")
  before = photo.read_bytes()
  for options in (SMALL, with_(overwrite=True)):
    assert refusal(options, photo.parent, photo).startswith(f"{photo}: not a folder")
  assert photo.read_bytes() == before
  assert not out.exists()


# The demo.


def test_the_demo_writes_a_photo_and_a_sheet_and_can_run_again(tmp_path, capsys):
  options = Options(size=256)
  relight_command.demo(options, tmp_path / "demo")
  first = contents(tmp_path / "demo")
  assert first.keys() == {"astronaut_relit.png", "astronaut_sheet.png"}
  for name in first:
    (tmp_path / "demo" / name).write_bytes(b"old")
  relight_command.demo(options, tmp_path / "demo")
  assert contents(tmp_path / "demo") == first
  said = capsys.readouterr().out
  assert all(said.count(str(tmp_path / "demo" / name)) == 2 for name in first)
  relit = pixels_of(tmp_path / "demo" / "astronaut_relit.png")
  assert relit.shape == ASTRONAUT.shape
  assert np.abs(relit.astype(int) - ASTRONAUT).mean() > 2


def test_weights_for_colour_lights_are_refused(official, monkeypatch):
  """The form of the network that takes 27 numbers a light is for training; `relight.py` has gray lights."""
  params = _load_params_once("official-512")
  light = dict(params["params"]["trunk"]["light"], estimate2={"kernel": np.zeros((128, 27))})
  colour = {**params, "params": {**params["params"], "trunk": {**params["params"]["trunk"], "light": light}}}
  monkeypatch.setattr(relighter, "load_params", lambda _: colour)
  with pytest.raises(BadInput, match="take lights of 27 numbers"):
    Studio(Options(lights=("left",), weights="colour.pth"))


# Films.


@pytest.fixture
def clip(tmp_path) -> Path:
  """Half a second of the astronaut, in which nothing moves."""
  with av.open(tmp_path / "clip.mp4", "w") as container:
    stream = container.add_stream("libx264", rate=12, options={"crf": "10"})
    stream.pix_fmt, stream.height, stream.width = "yuv420p", *ASTRONAUT.shape[:2]
    for _ in range(6):
      container.mux(stream.encode(av.VideoFrame.from_ndarray(ASTRONAUT, format="rgb24")))
    container.mux(stream.encode())
  return tmp_path / "clip.mp4"


def frames_of(path: Path) -> np.ndarray:
  with av.open(path) as container:
    return np.stack([frame.to_ndarray(format="rgb24") for frame in container.decode(video=0)]).astype(int)


def side_gain(relit: np.ndarray, source: np.ndarray) -> float:
  """How much more the left half of the face gained than the right one."""
  gain = (relit - source)[70:178, 110:201].mean(axis=(0, 2))
  return gain[: MIDDLE - 110].mean() - gain[MIDDLE - 110 :].mean()


def test_a_film_is_relit_from_the_side_asked_for(clip):
  for light, sign in (("left", 1), ("right", -1)):
    relight_film(with_(lights=(light,)), clip, clip.with_name(f"{light}.mp4"))
    relit, source = frames_of(clip.with_name(f"{light}.mp4")), frames_of(clip)
    assert len(relit) == 6
    assert all(sign * side_gain(after, before) > 30 for after, before in zip(relit, source, strict=True))
  assert contents(clip.parent).keys() == {"clip.mp4", "left.mp4", "right.mp4"}


def test_the_room_of_a_film_takes_its_share(clip):
  """Beside the person, where a film is left as it is without."""
  room, frames = np.s_[:60, 220:], {}
  for background in (0.0, 0.8):
    out = clip.with_name(f"{background}.mp4")
    relight_film(with_(lights=("right",), background=background), clip, out)
    frames[background] = [frame[room].mean() for frame in frames_of(out)]
  own = np.array([frame[room].mean() for frame in frames_of(clip)])
  np.testing.assert_allclose(frames[0.0], own, atol=2)
  assert (np.abs(frames[0.8] - own) > 5).all()
  assert np.ptp(frames[0.8] - own) < 1  # steady


def test_the_light_of_a_film_goes_round(clip):
  out = clip.with_name("turn.mp4")
  relight_film(with_(lights=()), clip, out, turn_frames=4)
  gains = [side_gain(after, before) for after, before in zip(frames_of(out), frames_of(clip), strict=True)]
  assert min(gains[0], gains[4]) > 30
  assert gains[2] < -30
  assert gains[4] == pytest.approx(gains[0], abs=10)


def film_refusal(options, video, out, **wishes) -> str:
  with pytest.raises(BadInput) as caught:
    relight_film(options, video, out, **wishes)
  return str(caught.value)


def test_wishes_that_a_film_cannot_grant_are_refused_before_any_work(clip, monkeypatch):
  monkeypatch.setattr(relight_command, "Studio", lambda _: pytest.fail("work was begun"))
  out = clip.with_name("out.mp4")
  for options, wishes, message in (
    (with_(align=False), {}, "--no-align: not with --video; the faces of a film are followed"),
    (with_(face=2), {}, "--face 2: not with --video, where faces come and go; all are relit"),
    (with_(passes=True), {}, "--replace_background and --passes: not with --video"),
    (with_(lights=()), {}, "--light is missing: a preset, azimuth,elevation, a file or a photo"),
    (with_(lights=("left", "right")), {}, "more than one --light: only --grid takes several"),
    (SMALL, {"turn_frames": 1}, "--rotate 1: must lie in 2 to 3600"),
    (SMALL, {"turn_frames": 3601}, "--rotate 3601: must lie in 2 to 3600"),
  ):
    assert film_refusal(options, clip, out, **wishes) == message
  assert film_refusal(SMALL, clip.parent, out) == f"{clip.parent}: is a folder, not a film"
  assert film_refusal(SMALL, clip, clip) == f"{clip}: exists already (--overwrite replaces it)"
  assert film_refusal(SMALL, clip, out.with_suffix(".gif")).endswith("out.gif: a relit film has the suffix .mp4")
  assert contents(clip.parent).keys() == {"clip.mp4"}


def test_a_film_of_another_light_is_another_run(clip, monkeypatch):
  """The whole light is noted: soft part, lamps, their size and colour, and the exposure."""
  out = clip.with_name("out.mp4")
  with monkeypatch.context() as patched:
    patched.setattr(Studio, "relight", lambda *_: 1 / 0)
    with pytest.raises(ZeroDivisionError):
      relight_film(with_(intensity=2), clip, out)
  noted = json.loads((out.with_name("out.mp4.parts") / "job.json").read_text())
  light = parse_light("left")
  assert noted["light"] == {name: part.tolist() for name, part in light._asdict().items()}
  assert noted["exposure"] == 1
  for other in ({"lights": ("65,10,0.25,10",)}, {"lights": ("65,10,0.3",)}, {"temperature": 3000}):
    assert "(other light)" in film_refusal(with_(**other, intensity=2), clip, out)
  assert "(other exposure)" in film_refusal(SMALL, clip, out)


def test_a_film_goes_on_with_the_finder_that_it_began_with(clip, monkeypatch):
  out, opened, open_one = clip.with_name("out.mp4"), [], relighter.open_face_finder
  monkeypatch.setattr(relighter, "open_face_finder", lambda name: opened.append(name) or open_one(name))
  with monkeypatch.context() as patched:
    patched.setattr(Studio, "relight", lambda *_: 1 / 0)
    with pytest.raises(ZeroDivisionError):
      relight_film(with_(face_finder="embedded"), clip, out)
  note = out.with_name("out.mp4.parts") / "job.json"
  begun = note.read_text()
  note.write_text(begun.replace('"face finder": "embedded"', '"face finder": "mediapipe"'))
  assert "(other face finder)" in film_refusal(with_(face_finder="embedded"), clip, out)
  note.write_text(begun)
  with monkeypatch.context() as patched:
    patched.setattr(Studio, "segmenter", "selfie_segmentation")
    assert "(other person segmenter)" in film_refusal(with_(face_finder="embedded"), clip, out)
  opened.clear()
  relight_film(SMALL, clip, out)
  assert opened == ["embedded"]
  assert len(frames_of(out)) == 6


def test_other_weights_are_another_run(clip, monkeypatch):
  out, loaded = clip.with_name("out.mp4"), relighter.load_params
  with monkeypatch.context() as patched:
    patched.setattr(Studio, "relight", lambda *_: 1 / 0)
    with pytest.raises(ZeroDivisionError):
      relight_film(SMALL, clip, out)
  monkeypatch.setattr(relighter, "load_params", lambda name: jax.tree.map(lambda x: x + 1, loaded(name)))
  assert "(other weights)" in film_refusal(SMALL, clip, out)
  monkeypatch.undo()
  relight_film(SMALL, clip, out)
  assert len(frames_of(out)) == 6
