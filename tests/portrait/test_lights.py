"""Every light is judged by the sphere it shades, or by numbers worked out here."""

import time

import cv2
import numpy as np
import OpenEXR
import pytest
from skimage import data

from dpr_jax.base.errors import BadInput
from dpr_jax.image import pictures
from dpr_jax.image.photo import Photo
from dpr_jax.image.photo_writing import write_photo
from dpr_jax.light import light as light_lib
from dpr_jax.light import sh
from dpr_jax.light.environment_files import read_environment
from dpr_jax.light.environment_lamps import panorama_light
from dpr_jax.light.light import LUMINANCE_WEIGHTS, MAX_LAMPS
from dpr_jax.network.weights import load_params
from dpr_jax.portrait import framed_face, lights
from dpr_jax.portrait.face_finders import find_faces
from dpr_jax.portrait.faces import Face
from dpr_jax.portrait.lights import PRESETS, environment_light, parse_colour, parse_light
from dpr_jax.portrait.portrait import Portrait

# Where each preset is brightest, as seen in the picture: -1 left or bottom, 1 right or top, 0 in the middle, None free.
SIDES = {
  "front": (0, None),
  "left": (-1, None),
  "right": (1, None),
  "top": (0, 1),
  "bottom": (0, -1),
  "left-top": (-1, 1),
  "right-top": (1, 1),
  "left-bottom": (-1, -1),
  "right-bottom": (1, -1),
  "rembrandt": (-1, 1),
  "rembrandt-right": (1, 1),
  "loop": (-1, 1),
  "loop-right": (1, 1),
  "butterfly": (0, 1),
  "split": (-1, None),
  "split-right": (1, None),
  "flat": (0, 0),
}
MIRROR = np.diag(np.float32([-1, 1, 1]))
NUMBERS = np.array([0.8, -0.31, 0.125, 0.2, 1e-3, -0.04, 7e-2, 0.055, -0.061], np.float32)
COLOURS = np.float32([[1], [0.8], [0.6]]) * NUMBERS + np.arange(27, dtype=np.float32).reshape(3, 9) / 256  # red, ...


def refusal(text, params=None, **wishes):
  """The line with which a light is refused."""
  with pytest.raises(BadInput) as caught:
    parse_light(str(text), params, **wishes)
  line = str(caught.value)
  assert "\n" not in line
  return line


def file_refusal(path, params=None):
  line = refusal(path, params)
  assert line.startswith(f"{path}: ")
  assert len(line) < len(str(path)) + 250
  return line


def every_direction():
  """Unit vectors all around, under 2 degrees apart (a Fibonacci lattice)."""
  n = 20000
  z = 1 - (2 * np.arange(n) + 1) / n
  turn = np.arange(n) * np.pi * (3 - np.sqrt(5))
  return np.stack([np.sqrt(1 - z**2) * np.cos(turn), np.sqrt(1 - z**2) * np.sin(turn), z], axis=-1).astype(np.float32)


def shaded_halves(light):
  """Mean shading of the left, right, bottom and top half of a sphere's visible side."""
  normals = every_direction()
  x, y, z = normals.T
  shade = light_lib.shading(light, normals).mean(axis=-1)
  return [float(shade[half & (y < 0)].mean()) for half in (x < 0, x > 0, z < 0, z > 0)]


def is_plain(light, channels=1, lamps=0):
  """As parse_light promises: a light of NumPy arrays, with so many lamps."""
  light_lib.as_light(light)
  assert {type(part) for part in light} == {np.ndarray}
  assert {part.dtype for part in light} == {np.dtype(np.float32)}
  assert (light.channels, len(light.towards)) == (channels, lamps)
  np.testing.assert_allclose(np.linalg.norm(light.towards, axis=-1), 1, atol=1e-6)
  return True


def assert_lights_equal(one, other, atol=0.0):
  for name, part in one._asdict().items():
    np.testing.assert_allclose(part, getattr(other, name), rtol=0, atol=atol, err_msg=name)


# Presets.


def test_the_presets_are_the_ones_listed_here():
  assert set(PRESETS) == set(SIDES)


@pytest.mark.parametrize("name", SIDES)
def test_presets_light_the_side_they_name(name):
  light = parse_light(name)
  assert is_plain(light, lamps=int(name != "flat"))
  left, right, bottom, top = shaded_halves(light)
  horizontal, vertical = SIDES[name]
  if horizontal:
    assert (right / left) ** horizontal > 1.3
  else:
    assert right == pytest.approx(left, rel=1e-3)
  if vertical:
    assert (top / bottom) ** vertical > 1.3
  elif vertical == 0:
    assert top == pytest.approx(bottom, rel=1e-3)


def test_flat_is_flat():
  np.testing.assert_allclose(light_lib.shading(parse_light("flat"), every_direction()), 1, rtol=1e-6)


@pytest.mark.parametrize("name", sorted(set(SIDES) - {"flat"}))
def test_a_preset_is_a_key_and_a_fill_in_its_ratio(name):
  """What a light meter shows that is held towards the key, and towards the camera with the key off."""
  light, direction = parse_light(name), PRESETS[name]
  towards = sh.direction(direction.azimuth, direction.elevation)
  np.testing.assert_allclose(light.towards[0], towards, atol=1e-6)
  assert light.size[0] == direction.size
  key = light_lib.shading(light._replace(soft=np.zeros((1, 9), np.float32)), towards)
  fill = light_lib.shading(light_lib.soft_light(light.soft), np.float32([0, -1, 0]))
  assert fill / key == pytest.approx(direction.fill, rel=1e-5)


def test_the_presets_are_those_of_a_studio():
  """Dramatic lights have a dark shadow side, gentle ones a light one; and no lamp stands behind the head."""
  ratio = {name: 1 + 1 / light.fill for name, light in PRESETS.items() if light is not None}
  assert 7 < ratio["rembrandt"] < 9
  assert 7 < ratio["split"] < 9
  assert max(ratio.values()) == max(ratio["rembrandt"], ratio["split"])
  assert min(ratio, key=ratio.get) == "front"
  assert 70 <= PRESETS["split"].azimuth <= 75
  assert all(abs(light.azimuth) <= 75 and light.size >= 10 for light in PRESETS.values() if light is not None)


@pytest.mark.parametrize(
  ("name", "mirrored"),
  [
    ("left", "right"),
    ("left-top", "right-top"),
    ("left-bottom", "right-bottom"),
    ("rembrandt", "rembrandt-right"),
    ("loop", "loop-right"),
    ("split", "split-right"),
    *((name, name) for name, (side, _) in SIDES.items() if side == 0),
  ],
)
def test_mirrored_presets_are_mirror_images(name, mirrored):
  assert_lights_equal(parse_light(mirrored), light_lib.rotate(parse_light(name), MIRROR), atol=1e-7)


@pytest.mark.parametrize("spelling", ["left-top", "Left-Top", "LEFT_TOP", "left top", "  left-top\n"])
def test_presets_may_be_spelt_freely(spelling):
  assert_lights_equal(parse_light(spelling), parse_light("left-top"))


@pytest.mark.parametrize("word", ["moon", "", "lefty", "left.", "/no/such/file", "a" * 5000, "a\0b"])
def test_what_is_no_light_lists_the_presets(word):
  line = refusal(word)
  assert line.startswith(f"light {word!r}: neither a file, nor azimuth,elevation[,fill[,size]], nor one of ")
  assert line.partition("nor one of ")[2].split(", ") == sorted(SIDES)


def test_a_folder_is_no_light(tmp_path):
  assert "neither a file" in refusal(tmp_path)


# Directions.


@pytest.mark.parametrize(
  ("text", "towards"),
  [
    ("0,0", (0, -1, 0)),  # the camera
    ("90,0", (-1, 0, 0)),  # image left
    ("-90,0", (1, 0, 0)),
    ("270,0", (1, 0, 0)),
    ("180,0", (0, 1, 0)),  # behind the subject
    ("0,90", (0, 0, 1)),
    ("0,-90", (0, 0, -1)),
    ("30,0", (-0.5, -np.sqrt(0.75), 0)),
    ("0,30", (0, -np.sqrt(0.75), 0.5)),
    ("-45,45", (0.5, -0.5, np.sqrt(0.5))),
  ],
)
def test_a_direction_is_where_the_light_is_brightest(text, towards):
  light = parse_light(f"{text},0")
  assert is_plain(light, lamps=1)
  np.testing.assert_allclose(light.towards[0], towards, atol=1e-6)
  directions = every_direction()
  shade = light_lib.shading(light, directions)[:, 0]
  assert directions[np.argmax(shade)] @ np.array(towards) > np.cos(np.radians(3))


@pytest.mark.parametrize(
  "text", ["65,10", " 65 , 10 ", "65,10,0.25", "65.0,1e1", "+65,10,.25,15", "-295,10,0.25,1.5e1"]
)
def test_directions_may_be_written_freely(text):
  assert_lights_equal(parse_light(text), parse_light("left"), atol=1e-6)


def test_the_third_number_is_the_fill_and_the_fourth_the_size_of_the_lamp():
  hard, soft = parse_light("40,20,0,0.5"), parse_light("40,20,2,60")
  assert not hard.soft.any()
  np.testing.assert_array_equal((hard.irradiance, soft.irradiance), 1)
  np.testing.assert_array_equal((hard.size, soft.size), [[0.5], [60]])
  np.testing.assert_allclose(light_lib.shading(light_lib.soft_light(soft.soft), np.float32([0, -1, 0])), 2, rtol=1e-6)


@pytest.mark.parametrize("text", ["30", "1,2,3,4,5", ",", "30,", ",30", "1,,2", "1;2", "1 2", "left,10", "10deg,20"])
def test_another_count_of_numbers_is_refused(text):
  assert refusal(text).startswith(f"light {text!r}: neither a file")


@pytest.mark.parametrize(
  "text", ["361,0", "-361,0", "0,90.5", "0,-91", "nan,0", "0,nan", "inf,0", "0,-inf", "1e400,0", "nan,nan,nan"]
)
def test_directions_out_of_range_are_refused(text):
  name, limits = ("azimuth", "-360 to 360") if not text.startswith("0") else ("elevation", "-90 to 90")
  assert refusal(text) == f"light {text!r}: {name} must lie in {limits} degrees"


@pytest.mark.parametrize("fill", ["4.01", "-0.01", "nan", "inf", "-inf"])
def test_a_fill_out_of_range_is_refused(fill):
  assert refusal(f"0,0,{fill}") == f"light '0,0,{fill}': fill must lie in 0 to 4 of the key lamp"


@pytest.mark.parametrize("size", ["0.4", "61", "-5", "nan", "inf"])
def test_a_lamp_of_no_size_is_refused(size):
  assert refusal(f"0,0,1,{size}") == f"light '0,0,1,{size}': size must lie in 0.5 to 60 degrees"


# Colours.


@pytest.mark.parametrize("text", ["#ffb070", "#FFB070", " 255,176,112 ", "255 , 176,112"])
def test_colours_are_srgb_of_luminance_1(text):
  colour = parse_colour(text)
  assert colour.dtype == np.float32
  assert colour @ LUMINANCE_WEIGHTS == pytest.approx(1)
  srgb = np.array([255, 176, 112]) / 255
  linear = np.where(srgb <= 0.04045, srgb / 12.92, ((srgb + 0.055) / 1.055) ** 2.4)  # IEC 61966-2-1
  np.testing.assert_allclose(colour / colour[0], linear / linear[0], rtol=1e-4)


def test_white_tints_nothing_however_bright():
  for text in ("#ffffff", "#404040", "1,1,1"):
    np.testing.assert_allclose(parse_colour(text), 1, rtol=1e-6)


@pytest.mark.parametrize(
  "text", ["", "red", "#ffb07", "#ffb0700", "#gggggg", "1,2", "1,2,3,4", "-1,2,3", "1,2,256", "1.5,2,3"]
)
def test_what_is_no_colour_is_refused(text):
  with pytest.raises(BadInput) as caught:
    parse_colour(text)
  assert str(caught.value) == f"color {text!r}: must be #rrggbb, or red,green,blue of 0 to 255"


@pytest.mark.parametrize("text", ["#000000", "0,0,0"])
def test_a_black_lamp_is_refused(text):
  with pytest.raises(BadInput, match="a black lamp gives no light"):
    parse_colour(text)


# Text files.


def as_rows(numbers, separator=" ", end="\n"):
  return "".join(separator.join(str(number) for number in row) + end for row in np.atleast_2d(numbers))


@pytest.mark.parametrize(
  "text",
  [
    as_rows(NUMBERS[:, None]),
    as_rows(NUMBERS),
    as_rows(NUMBERS, ","),
    as_rows(NUMBERS, ", "),
    as_rows(NUMBERS, "\t"),
    as_rows(NUMBERS.reshape(3, 3)),
    as_rows(NUMBERS[:, None], end="\r\n"),
    as_rows(NUMBERS[:, None], end="\n\n"),
    as_rows(NUMBERS).strip(),
    "\n \n" + as_rows(NUMBERS, " ,"),
    "\ufeff" + as_rows(NUMBERS),
  ],
)
@pytest.mark.parametrize("name", ["light.txt", "LIGHT.TXT", "light.csv", "light"])
def test_nine_numbers_are_taken_as_they_are(tmp_path, text, name):
  (tmp_path / name).write_text(text, encoding="utf-8", newline="")
  light = parse_light(str(tmp_path / name))
  assert is_plain(light)
  np.testing.assert_array_equal(light.soft, NUMBERS[None])


@pytest.mark.parametrize(
  "text",
  [
    as_rows(COLOURS),
    as_rows(COLOURS, ","),
    as_rows(COLOURS.reshape(1, 27)),
    as_rows(COLOURS.reshape(27, 1)),
    as_rows(COLOURS, end="\n\n"),
    as_rows(COLOURS.T),
    as_rows(COLOURS.T, ", "),
    as_rows(COLOURS.T, end="\n\n"),
  ],
  ids=["3x9", "3x9 commas", "flat", "column", "3x9 spaced", "9x3", "9x3 commas", "9x3 spaced"],
)
def test_three_colours_are_kept(tmp_path, text):
  (tmp_path / "light.txt").write_text(text)
  light = parse_light(str(tmp_path / "light.txt"))
  assert is_plain(light, channels=3)
  np.testing.assert_array_equal(light.soft, COLOURS)


@pytest.mark.parametrize("number", range(7))
def test_the_authors_lights_are_read(shared, number):
  path = shared("reference/dpr/example_light") / f"rotate_light_0{number}.txt"
  np.testing.assert_array_equal(parse_light(str(path)).soft, np.loadtxt(path).astype(np.float32)[None])


@pytest.mark.parametrize(
  ("content", "what"),
  [
    (b"1 2 3 4 5 6 7 8", "has 8 numbers"),
    (b"1 2 3 4 5 6 7 8 9 10", "has 10 numbers"),
    (b"1 " * 18, "has 18 numbers"),
    (b"", "has 0 numbers"),
    (b"\n\n", "has 0 numbers"),
    (b"0.8 " * 8 + b"bright", "'bright'"),
    (b"x" * 60000, "could not convert"),
    (b"0.8 " * 100000, "has more than 65536 bytes"),
    (b"0.8\x00" * 9, "cannot be read as text"),
    (b"0.8 " * 8 + b"nan", "not finite"),
    (b"0.8 " * 26 + b"-inf", "not finite"),
    (b"0.8 " * 8 + b"1e39", "not finite"),  # beyond float32
    (bytes(range(256)), "cannot be read as text"),
    (b"0 " * 9, "no light: its first number, the brightness, must be positive and is 0"),
    (b"-0.8 " + b"0.1 " * 8, "must be positive and is -0.8"),
    (b"80 " + b"10 " * 8, "the brightness, is 80; those of lights are about 1, at most 5"),
    (b"0.1 " + b"0.9 " * 8, "a number is 9 times the first one, which no light can be"),
  ],
  ids=lambda value: None if isinstance(value, str) else value[:12].decode("latin-1").strip() or "empty",
)
def test_other_text_files_are_refused(tmp_path, content, what):
  (tmp_path / "light.txt").write_bytes(content)
  assert what in file_refusal(tmp_path / "light.txt")


@pytest.mark.parametrize("first", ["", "] ", "x ", "dtype"])
def test_no_text_takes_long(tmp_path, first):
  before = time.process_time()
  for piece in ("x", "x ", "/*", " ", "\n", " \n", "[", "] ", "dtype ", "'", "1 #"):
    (tmp_path / "light.txt").write_text(first + piece * (60000 // len(piece)))
    file_refusal(tmp_path / "light.txt")
  assert time.process_time() - before < 5


@pytest.mark.parametrize("suffix", [".txt", ".csv", ".hdr", ".exr"])
def test_missing_files_and_folders_are_refused(tmp_path, suffix):
  assert "no such file" in file_refusal(tmp_path / f"light{suffix}")
  (tmp_path / f"folder{suffix}").mkdir()
  file_refusal(tmp_path / f"folder{suffix}")
  file_refusal("a" * 5000 + suffix) if suffix in (".hdr", ".exr") else refusal("a" * 5000 + suffix)
  refusal(f"a\0b{suffix}")


# Environment maps.


def panorama_with(*lamps):
  """Radiance 0.25 all around, and lamps: (row, column, RGB). Powers of two, which every format holds exactly."""
  panorama = np.full((32, 64, 3), 0.25, np.float32)
  for row, column, colour in lamps:
    panorama[np.clip(row + np.arange(-2, 2), 0, 31)[:, None], (column + np.arange(-2, 2)) % 64] = colour
  return panorama


def write_environment(path, panorama):
  if path.suffix == ".hdr":
    assert cv2.imwrite(str(path), panorama[..., ::-1])
  else:
    write_exr(path, {"RGB": panorama})
  return path


def write_exr(path, channels, **header):
  header = {"compression": OpenEXR.ZIP_COMPRESSION, "type": OpenEXR.scanlineimage, **header}
  channels = {name: np.ascontiguousarray(pixels) for name, pixels in channels.items()}
  with OpenEXR.File(header, channels) as file:
    file.write(str(path))
  return path


@pytest.mark.parametrize("suffix", [".hdr", ".exr"])
@pytest.mark.parametrize(
  ("row", "column", "towards"),
  [
    (16, 32, (0, 1, 0)),  # the centre: straight behind the subject
    (16, 48, (1, 0, 0)),  # the right quarter: image right
    (16, 16, (-1, 0, 0)),
    (16, 0, (0, -1, 0)),  # the left and right edge: the camera's side
    (8, 16, (-np.sqrt(0.5), 0, np.sqrt(0.5))),
    (24, 48, (np.sqrt(0.5), 0, -np.sqrt(0.5))),
  ],
)
def test_environment_maps_light_from_where_their_lamp_is(tmp_path, suffix, row, column, towards):
  panorama = panorama_with((row, column, 16))
  light = parse_light(str(write_environment(tmp_path / f"map{suffix}", panorama)))
  assert is_plain(light, channels=3, lamps=1)
  np.testing.assert_allclose(light.towards[0], towards, atol=0.02)
  y, z, x = light_lib.harmonics(light)[1, 1:4]
  np.testing.assert_allclose(np.array([x, y, z]) / np.linalg.norm([x, y, z]), towards, atol=0.02)


def test_an_even_environment_is_even_light(tmp_path):
  light = parse_light(str(write_environment(tmp_path / "map.exr", panorama_with())))
  assert is_plain(light, channels=3)
  np.testing.assert_allclose(light.soft, [[0.8, *[0] * 8]] * 3, atol=1e-3)


@pytest.mark.parametrize("suffix", [".hdr", ".exr"])
def test_environments_are_read_as_linear_rgb(tmp_path, suffix):
  panorama = panorama_with((10, 20, (4, 0.5, 1)), (20, 50, (0.125, 2, 8)))
  read = read_environment(str(write_environment(tmp_path / f"map{suffix}", panorama)))
  np.testing.assert_array_equal(read, panorama, strict=True)


def balanced(whole):
  """A projection `[3, 9]` of a map with a quarter of its mean tint, at the brightness of `environment_light`."""
  whole = whole * (whole[:, :1] / (LUMINANCE_WEIGHTS @ whole[:, 0])) ** -0.75
  return whole * (0.8 / (LUMINANCE_WEIGHTS @ whole[:, 0]))


def test_a_colour_cast_is_mostly_taken_off(tmp_path):
  """Of red light four times blue light the fourth root is left; differences from the mean stay."""
  neutral, cast = panorama_with((16, 16, (16, 8, 4))), np.float32([4, 2, 1])
  plain, tinted = (
    parse_light(str(write_environment(tmp_path / f"{name}.exr", panorama)))
    for name, panorama in (("even", panorama_with()), ("cast", panorama_with() * cast))
  )
  np.testing.assert_allclose(plain.soft[:, 0], 0.8, rtol=1e-3)
  assert tinted.soft[0, 0] / tinted.soft[2, 0] == pytest.approx(4**0.25, rel=1e-3)
  light = parse_light(str(write_environment(tmp_path / "lamp.exr", neutral)))
  red, blue = light.irradiance[0, [0, 2]] / light.soft[[0, 2], 0]
  assert red / blue == pytest.approx((16 - 0.25) / (4 - 0.25), rel=0.15)


@pytest.mark.parametrize("suffix", [".hdr", ".exr"])
def test_the_whole_is_the_map_but_for_the_cameras_balance(tmp_path, suffix):
  panorama = panorama_with((16, 16, (16, 0.5, 0.25)), (16, 48, (0.5, 0.25, 32)), (8, 0, (0.5, 16, 0.5)))
  light = parse_light(str(write_environment(tmp_path / f"map{suffix}", panorama)))
  assert is_plain(light, channels=3, lamps=3)
  np.testing.assert_allclose(light_lib.harmonics(light), balanced(sh.environment(panorama)), atol=1e-6)
  green, red, blue = light.irradiance / light.irradiance.max(axis=1, keepdims=True)  # the brightest first
  for colour, channel in ((red, 0), (green, 1), (blue, 2)):
    assert colour[channel] == 1
    assert np.delete(colour, channel).max() < 0.05


def test_all_kinds_of_files_give_the_same_gray_light(tmp_path):
  gray = panorama_with((9, 13, 32))
  rgba = np.dstack([gray, np.zeros_like(gray[..., :1])])  # alpha has no meaning here
  files = [
    write_environment(tmp_path / "map.hdr", gray),
    write_exr(tmp_path / "rgb.exr", {"RGB": gray}),
    write_exr(tmp_path / "half.exr", {"RGB": gray.astype(np.float16)}),
    write_exr(tmp_path / "separate.exr", dict.fromkeys("BGR", gray[..., 0])),
    write_exr(tmp_path / "rgba.exr", {"RGBA": rgba}),
    write_exr(tmp_path / "tiles.exr", {"RGB": gray}, type=OpenEXR.tiledimage, tiles=OpenEXR.TileDescription()),
    write_exr(tmp_path / "plain.EXR", {"RGB": gray}, compression=OpenEXR.NO_COMPRESSION),
    write_exr(tmp_path / "y.exr", {"Y": gray[..., 0]}),
    write_exr(tmp_path / "half_y.exr", {"Y": gray[..., 0].astype(np.float16), "Z": gray[..., 0]}),
  ]
  expected = sh.environment(gray[..., 0])
  for file in files:
    light = parse_light(str(file))
    assert is_plain(light, channels=1 if "y.exr" in file.name else 3, lamps=1)
    np.testing.assert_allclose(
      light_lib.harmonics(light_lib.gray(light))[0],
      expected * (0.8 / expected[0]),
      atol=1e-6,
      err_msg=f"{file.name} differs",
    )


@pytest.mark.parametrize("exposure", [2.0**-140, 2.0**-20, 1.0, 2.0**20, 2.0**122])
def test_exposure_does_not_matter(tmp_path, exposure):
  panorama = panorama_with((9, 13, 32))
  expected = parse_light(str(write_exr(tmp_path / "map.exr", {"RGB": panorama})))
  exposed = parse_light(str(write_exr(tmp_path / "exposed.exr", {"RGB": panorama * np.float32(exposure)})))
  assert_lights_equal(exposed, expected, atol=1e-6)


@pytest.mark.parametrize("suffix", [".hdr", ".exr"])
def test_a_black_environment_is_refused(tmp_path, suffix):
  path = write_environment(tmp_path / f"map{suffix}", np.zeros((8, 16, 3), np.float32))
  assert "is black" in file_refusal(path)


@pytest.mark.parametrize("names", ["Z", "RG", "GB", "A"])
def test_missing_channels_are_refused(tmp_path, names):
  path = write_exr(tmp_path / "map.exr", {name: np.ones((8, 16), np.float32) for name in names})
  assert f"has channels {', '.join(sorted(names))}; an environment map needs R, G, B or Y" in file_refusal(path)


@pytest.mark.parametrize("suffix", [".hdr", ".exr"])
@pytest.mark.parametrize("kept", [0, 1, 8, 60, 400, 0.5, -1])
def test_truncated_environments_are_refused(tmp_path, suffix, kept):
  noise = np.random.default_rng(0).random((32, 64, 3)).astype(np.float32)
  path = write_environment(tmp_path / f"map{suffix}", noise)
  content = path.read_bytes()
  path.write_bytes(content[: int(len(content) * kept) if kept == 0.5 else kept])
  assert "damaged" in file_refusal(path)


@pytest.mark.parametrize("suffix", [".hdr", ".exr"])
@pytest.mark.parametrize("content", [b"a text file", b"#?RADIANCE\n\n-Y 4 +X 8\n", b"v/1\x01\x02\0\0\0 and more"])
def test_other_files_named_like_environments_are_refused(tmp_path, suffix, content):
  (tmp_path / f"map{suffix}").write_bytes(content)
  assert "damaged" in file_refusal(tmp_path / f"map{suffix}")


@pytest.mark.parametrize("suffix", [".hdr", ".exr"])
def test_photos_named_like_environments_are_refused(tmp_path, suffix):
  write_photo(tmp_path / "photo.png", Photo(np.zeros((8, 16, 3), np.uint8)))
  (tmp_path / "photo.png").rename(tmp_path / f"map{suffix}")
  assert "damaged" in file_refusal(tmp_path / f"map{suffix}")


# Their lamps.


def directions_of(height):
  """Of the pixels of a map, `[height, 2 height, 3]`."""
  elevation = np.radians(90 - (np.arange(height) + 0.5) * 180 / height)[:, None]
  longitude = np.radians((np.arange(2 * height) + 0.5) * 180 / height - 180)
  parts = np.cos(elevation) * np.sin(longitude), np.cos(elevation) * np.cos(longitude), np.sin(elevation)
  return np.stack(np.broadcast_arrays(*parts), axis=-1)


def sky_with(*discs, height=256, sky=0.25):
  """Even radiance, and discs: (towards, diameter in degrees, radiance)."""
  finer = max(1, 1024 // height)
  directions = directions_of(finer * height)
  panorama = np.full(directions.shape[:2], sky, np.float32)
  for towards, size, radiance in discs:
    panorama[directions @ towards >= np.cos(np.radians(size / 2))] = radiance
  # A pixel holds the mean over its solid angle, which near the poles is not that over its rows.
  weight = np.sqrt(1 - directions[..., 2:] ** 2)[..., 0].astype(np.float32)
  blocks = (part.reshape(height, finer, 2 * height, finer).sum(axis=(1, 3)) for part in (panorama * weight, weight))
  return np.divide(*blocks)


def angle(one, other):
  """Between unit vectors, in degrees."""
  return np.degrees(np.arccos(np.clip(np.dot(one, other), -1, 1)))


def placed(azimuth, elevation):
  return sh.direction(azimuth, elevation).astype(float)


@pytest.mark.parametrize("towards", [(0, 20), (180, 5), (178, 30), (-90, -50), (70, 89.5), (-30, -90)])
@pytest.mark.parametrize("size", [2, 10, 25])
def test_a_disc_is_a_lamp_of_its_direction_size_and_irradiance(towards, size):
  """Anywhere: across the edges of the map, and at its poles."""
  radiance = 60 / size**2 * 100
  light = panorama_light(sky_with((placed(*towards), size, radiance)))
  assert is_plain(light, lamps=1)
  assert angle(light.towards[0], placed(*towards)) < 0.6
  assert light.size[0] == pytest.approx(size, rel=0.1, abs=0.5)  # a pixel is 0.7
  irradiance = (radiance - 0.25) * np.pi * np.sin(np.radians(size / 2)) ** 2  # of a disc that a surface faces
  assert light.irradiance[0, 0] == pytest.approx(irradiance, rel=0.12)
  even = light_lib.shading(light_lib.soft_light(light.soft), every_direction())
  np.testing.assert_allclose(even, 0.25 * np.pi, rtol=0.1, atol=0.03 * irradiance)


def test_a_sun_is_a_small_lamp_however_it_glows():
  directions = directions_of(256)
  sun = placed(120, 40)
  away = np.degrees(np.arccos(np.clip(directions @ sun, -1, 1)))
  panorama = 0.3 + 20 * np.exp(-away / 4) + 20_000 * (away < 0.6)
  light = panorama_light(panorama.astype(np.float32))
  assert is_plain(light, lamps=1)
  assert angle(light.towards[0], sun) < 0.5
  assert light.size[0] < 4


def in_cone(towards, middle, size):
  return towards @ middle > np.cos(np.radians(size / 2))


def in_box(towards, across, up):
  """In front of the camera; half widths of a pane at distance 1."""
  x, y, z = np.moveaxis(towards, -1, 0)
  return (y < 0) & (np.abs(x) < -across * y) & (np.abs(z) < -up * y)


@pytest.mark.parametrize(
  "panorama",
  [
    lambda towards: np.ones(towards.shape[:2]),
    lambda towards: 1 + 2 * np.maximum(towards[..., 2], 0),  # an overcast sky (CIE), and gray ground
    lambda towards: 0.5 + np.maximum(towards @ placed(40, 30), 0) ** 20,  # the broad glow of a sun behind clouds
    lambda towards: 0.2 + 10 * in_box(towards, 0.6, 0.4),
    lambda towards: 0.1 + 50 * in_box(towards, 0.7, 0.02),
    lambda towards: 0.5 + 0.5 * in_cone(towards, placed(60, 30), 24),
  ],
  ids=["even", "overcast", "glow", "wide window", "tube", "faint"],
)
def test_what_is_broad_long_or_faint_stays_soft(panorama):
  panorama = panorama(directions_of(128)).astype(np.float32)
  light = panorama_light(panorama)
  assert is_plain(light, lamps=0)
  np.testing.assert_allclose(light.soft[0], sh.environment(panorama), atol=1e-6)


def test_bulbs_side_by_side_are_several_lamps():
  bulbs = [(placed(azimuth, 40), 3, 400) for azimuth in (30, 48)]
  light = panorama_light(sky_with(*bulbs))
  assert is_plain(light, lamps=2)
  for towards, _, _ in bulbs:
    assert min(angle(each, towards) for each in light.towards) < 0.5
  np.testing.assert_allclose(light.size, 3, rtol=0.2)


def test_a_window_with_a_cross_in_it_is_one_lamp():
  towards = directions_of(256)
  window = in_box(towards, 0.2, 0.2) & ~in_box(towards, 0.01, 1) & ~in_box(towards, 1, 0.01)
  light = panorama_light(np.where(window, np.float32(40), np.float32(0.25)))
  assert is_plain(light, lamps=1)
  assert angle(light.towards[0], placed(0, 0)) < 0.5
  assert 23 < light.size[0] < 28  # as a disc whose light is as spread as that of a square of 23 degrees


def test_of_many_bulbs_none_is_a_lamp():
  bulbs = [(placed(azimuth, elevation), 2, 500) for azimuth in range(-180, 180, 30) for elevation in (20, 45, 70)]
  assert is_plain(panorama_light(sky_with(*bulbs)), lamps=0)


def test_the_brightest_of_many_lamps_are_kept_the_brightest_first():
  radiances = (300, 700, 500, 400, 600, 350)
  lamps = [(placed(60 * k, 10), 6, radiance) for k, radiance in enumerate(radiances)]
  light = panorama_light(sky_with(*lamps))
  assert is_plain(light, lamps=MAX_LAMPS)
  for towards, k in zip(light.towards, (1, 4, 2, 3), strict=True):
    assert angle(towards, placed(60 * k, 10)) < 0.5
  assert (np.diff(light.irradiance[:, 0]) < 0).all()


@pytest.mark.parametrize("channels", [1, 3])
def test_light_that_becomes_a_lamp_is_taken_from_the_rest(channels):
  """The sum of both is the map's own projection, whatever the map; the soft part alone has the lamps' energy less."""
  noise = np.random.default_rng(0).lognormal(sigma=1.5, size=(64, 128, channels)).astype(np.float32)
  tints = np.linspace(0.5, 2, channels)
  lamps = [sky_with((placed(azimuth, 30), 9, 900), height=64, sky=0) for azimuth in (20, -130)]
  panorama = noise + np.stack([tint * lamps[0] + lamps[1] for tint in tints], axis=-1).astype(np.float32)
  light = panorama_light(panorama if channels == 3 else panorama[..., 0])
  assert is_plain(light, channels, lamps=2)
  whole = np.atleast_2d(sh.environment(panorama).reshape(-1, 9))
  np.testing.assert_allclose(light_lib.harmonics(light), whole, rtol=1e-5, atol=1e-6 * whole.max())
  rest = sh.environment(noise).reshape(-1, 9)
  np.testing.assert_allclose(light.soft[:, 0], rest[:, 0], rtol=0.1)
  np.testing.assert_allclose(light.soft[:, 1:], rest[:, 1:], atol=0.02 * whole[:, 0].max())


@pytest.mark.parametrize("height", [32, 64, 1024])
def test_the_size_of_a_map_hardly_matters(height):
  lamps = (placed(40, 30), 20, 160), (placed(-100, 50), 12, 200)
  expected, light = (panorama_light(sky_with(*lamps, height=each)) for each in (256, height))
  assert len(light.towards) == 2
  assert max(angle(one, other) for one, other in zip(light.towards, expected.towards, strict=True)) < 1
  np.testing.assert_allclose(light.irradiance, expected.irradiance, rtol=0.15)
  np.testing.assert_allclose(light.size, expected.size, rtol=0.2)


def test_a_turned_map_is_a_turned_light(tmp_path):
  panorama = np.zeros((64, 128, 3), np.float32) + sky_with((placed(40, 30), 12, 80), height=64)[..., None]
  panorama[40:50, 100:120] += (4, 2, 1)
  path = write_environment(tmp_path / "map.exr", panorama)
  plain, turned = parse_light(str(path)), parse_light(str(path), env_rotate=90)
  assert_lights_equal(turned, light_lib.rotate(plain, sh.turn(90)), atol=1e-6)
  assert_lights_equal(turned, environment_light(path, rotate=90))
  assert angle(turned.towards[0], placed(130, 30)) < 1
  # Columns run to the right, and the camera's side is at both edges: from there to the left is to the right in the map.
  rolled = parse_light(str(write_environment(tmp_path / "rolled.exr", np.roll(panorama, 32, axis=1))))
  assert_lights_equal(turned, rolled, atol=1e-4)
  assert_lights_equal(parse_light(str(path), env_rotate=360), plain, atol=1e-5)


@pytest.mark.parametrize("text", ["left", "flat", "30,20", "light.txt", "portrait.jpg"])
def test_only_maps_are_turned(tmp_path, text):
  assert refusal(text, env_rotate=30) == f"--env_rotate 30: turns environment maps alone, and {text!r} is none"


SHARED_MAPS = {  # lamps, azimuth from the map's centre to the right, elevation; as its index.csv has the suns
  "park": [(36, 10)],
  "sunrise": [(36, 8)],
  "sky": [(34, 48)],
  "studio": [(-99, 42), (63, 2)],  # a flash, and a softbox
  "esplanade": [(-149, 83), (72, 77)],  # two spotlights in the ceiling
  "city": [],
  "venice": [],
  "sunset": [],  # the sun has set, or nearly
  "dawn": [],
  "apartment": [],  # a wide window
  "night": [],
}


@pytest.mark.parametrize("name", SHARED_MAPS)
def test_lamps_of_maps_as_there_are(shared, name):
  panorama = read_environment(shared("environments") / f"{name}.hdr")
  light = environment_light(shared("environments") / f"{name}.hdr")
  assert is_plain(light, channels=3, lamps=len(SHARED_MAPS[name]))
  for towards, (azimuth, elevation) in zip(light.towards, SHARED_MAPS[name], strict=True):
    assert angle(towards, placed(180 + azimuth, elevation)) < 3
  np.testing.assert_allclose(light_lib.harmonics(light), balanced(sh.environment(panorama)), atol=1e-6)
  assert light_lib.shading(light_lib.soft_light(light.soft), every_direction()).min() > 0


# Portraits.


@pytest.mark.parametrize("suffix", [".jpg", ".PNG", ".tiff"])
def test_a_portrait_needs_params(tmp_path, suffix):
  assert "its params are needed" in file_refusal(tmp_path / f"portrait{suffix}")


def test_a_missing_portrait_is_refused(tmp_path):
  file_refusal(tmp_path / "portrait.jpg", params={})


def test_the_largest_face_gives_the_light(tmp_path, monkeypatch):
  sizes = [(30, 40), (60, 50), (50, 50)]
  faces = [Face(np.array([[100 * i, 10], [100 * i + width, 10 + height]])) for i, (width, height) in enumerate(sizes)]
  seen = []

  estimated = light_lib.soft_light(NUMBERS)
  monkeypatch.setattr(lights, "find_faces", lambda pixels, face_finder: faces if face_finder == "embedded" else [])
  monkeypatch.setattr(framed_face, "estimate_portrait_light", lambda *arguments: seen.append(arguments) or estimated)
  pixels = np.arange(300, dtype=np.uint8).reshape(10, 10, 3)
  write_photo(tmp_path / "portrait.png", Photo(pixels))
  assert parse_light(str(tmp_path / "portrait.png"), {}, "embedded") is estimated
  [(params, given, face)] = seen
  assert params == {}
  np.testing.assert_array_equal(given, pixels)
  assert face is faces[1]


@pytest.fixture(scope="module", params=["default", "official-512"])
def params(request):
  if request.param != "default":
    request.getfixturevalue("shared")("reference/dpr/trained_model_03.t7")
  return load_params(request.param)


@pytest.fixture(scope="module")
def encoded_portrait(params):
  pixels = pictures.astronaut()
  return Portrait(params, pixels, find_faces(pixels))


def test_a_portrait_gives_the_light_on_its_face(tmp_path, params, encoded_portrait):
  write_photo(tmp_path / "portrait.png", Photo(encoded_portrait.pixels))
  light = parse_light(str(tmp_path / "portrait.png"), params)
  assert light_lib.as_light(light).channels == 1
  assert_lights_equal(light, light_lib.as_light(encoded_portrait.faces[0].source_light), atol=1e-5)


def test_the_light_of_a_relit_portrait_is_found_again(tmp_path, params, encoded_portrait):
  found = {}
  for side in ("left", "right"):
    write_photo(tmp_path / f"{side}.png", Photo(encoded_portrait.relight(parse_light(side))))
    found[side] = light_lib.told(parse_light(str(tmp_path / f"{side}.png"), params))[0]
  assert found["left"][3] < -0.1
  assert found["right"][3] > 0.1


def test_a_photo_without_a_face_is_refused(params, tmp_path):
  write_photo(tmp_path / "coffee.png", Photo(data.coffee()))
  assert "no face found" in file_refusal(tmp_path / "coffee.png", params)


@pytest.mark.parametrize("suffix", [".hdr", ".exr"])
def test_a_map_that_is_too_large_is_refused_by_its_header(tmp_path, monkeypatch, suffix):
  path = write_environment(tmp_path / f"map{suffix}", np.ones((8, 16, 3), np.float32))
  assert read_environment(path, max_pixels=128).shape == (8, 16, 3)
  if suffix == ".hdr":
    monkeypatch.setattr(cv2, "imdecode", lambda *_: pytest.fail("decodes"))
  with pytest.raises(BadInput, match=r"map\.\w+: 16 x 8 pixels are more than the 127 allowed"):
    read_environment(path, max_pixels=127)
