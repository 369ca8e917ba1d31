"""Every light is judged by the sphere it shades, or by numbers worked out here."""

import cv2
import jax
import numpy as np
import OpenEXR
import pytest
from skimage import data

from dpr_jax import hourglass, lights, pictures, portrait, sh
from dpr_jax.checkpoints import load_params
from dpr_jax.errors import BadInput
from dpr_jax.faces import Face, find_faces
from dpr_jax.lights import PRESETS, parse_light, read_environment
from dpr_jax.photo import Photo, write_photo
from dpr_jax.portrait import Portrait

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
# The harmonics that are odd in x (x, xy and xz) change sign in a mirror.
NUMBERS = np.array([0.8, -0.31, 0.125, 0.2, 1e-3, -0.04, 7e-2, 0.055, -0.061], np.float32)
COLOURS = np.arange(27, dtype=np.float32).reshape(3, 9) / 8 - 1  # red, green, blue
LUMA = [0.299, 0.587, 0.114]


def refusal(text, params=None):
  """The line with which a light is refused."""
  with pytest.raises(BadInput) as caught:
    parse_light(str(text), params)
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
  shade = sh.shading(normals, light)
  return [float(shade[half & (y < 0)].mean()) for half in (x < 0, x > 0, z < 0, z > 0)]


def is_plain(light):
  """As parse_light promises: a `[9]` array of the caller's own."""
  return light.shape == (9,) and light.dtype == np.float32 and light.flags.writeable and np.isfinite(light).all()


# Presets.


def test_the_presets_are_the_ones_listed_here():
  assert set(PRESETS) == set(SIDES)


@pytest.mark.parametrize("name", SIDES)
def test_presets_light_the_side_they_name(name):
  light = parse_light(name)
  assert is_plain(light)
  assert sh.minimum(light) >= -0.05
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
  np.testing.assert_allclose(parse_light(mirrored), parse_light(name) * sh.MIRROR, atol=1e-6)


@pytest.mark.parametrize("spelling", ["left-top", "Left-Top", "LEFT_TOP", "left top", "  left-top\n"])
def test_presets_may_be_spelt_freely(spelling):
  np.testing.assert_array_equal(parse_light(spelling), parse_light("left-top"))


@pytest.mark.parametrize("word", ["moon", "", "lefty", "left.", "/no/such/file", "a" * 5000, "a\0b"])
def test_what_is_no_light_lists_the_presets(word):
  line = refusal(word)
  assert line.startswith(f"light {word!r}: neither a file, nor azimuth,elevation[,ambient], nor one of ")
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
  light = parse_light(text)
  assert is_plain(light)
  directions = every_direction()
  for seen in (sh.radiance(light, directions), sh.shading(directions, light)):
    assert directions[np.argmax(seen)] @ np.array(towards) > np.cos(np.radians(3))


@pytest.mark.parametrize("text", ["65,10", " 65 , 10 ", "65,10,0.3", "65.0,1e1", "+65,10,.3", "-295,10"])
def test_directions_may_be_written_freely(text):
  np.testing.assert_allclose(parse_light(text), parse_light("left"), atol=1e-6)


def test_ambient_is_the_share_of_even_light():
  lamp, even = parse_light("40,20,0"), parse_light("40,20,1")
  np.testing.assert_allclose(even, [0.75, *[0] * 8], atol=1e-7)
  np.testing.assert_allclose(parse_light("40,20,0.25"), 0.75 * lamp + 0.25 * even, atol=1e-6)
  np.testing.assert_allclose(lamp[0], 0.75, rtol=1e-6)


@pytest.mark.parametrize("text", ["30", "1,2,3,4", ",", "30,", ",30", "1,,2", "1;2", "1 2", "left,10", "10deg,20"])
def test_another_count_of_numbers_is_refused(text):
  assert refusal(text).startswith(f"light {text!r}: neither a file")


@pytest.mark.parametrize(
  "text", ["361,0", "-361,0", "0,90.5", "0,-91", "nan,0", "0,nan", "inf,0", "0,-inf", "1e400,0", "nan,nan,nan"]
)
def test_directions_out_of_range_are_refused(text):
  line = refusal(text)
  assert line == f"light {text!r}: azimuth must lie in -360 to 360 degrees, elevation in -90 to 90"


@pytest.mark.parametrize("ambient", ["1.01", "-0.01", "nan", "inf", "-inf"])
def test_ambient_out_of_range_is_refused(ambient):
  assert refusal(f"0,0,{ambient}") == f"light '0,0,{ambient}': ambient must lie in 0 to 1"


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
  np.testing.assert_array_equal(light, NUMBERS)


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
def test_three_colours_are_made_gray(tmp_path, text):
  (tmp_path / "light.txt").write_text(text)
  light = parse_light(str(tmp_path / "light.txt"))
  assert is_plain(light)
  np.testing.assert_allclose(light, np.array(LUMA) @ COLOURS, rtol=1e-5)


@pytest.mark.parametrize("number", range(7))
def test_the_authors_lights_are_read(shared, number):
  path = shared("reference/dpr/example_light") / f"rotate_light_0{number}.txt"
  np.testing.assert_array_equal(parse_light(str(path)), np.loadtxt(path).astype(np.float32))


@pytest.mark.parametrize(
  ("content", "what"),
  [
    (b"1 2 3 4 5 6 7 8", "has 8 numbers"),
    (b"1 2 3 4 5 6 7 8 9 10", "has 10 numbers"),
    (b"1 " * 18, "has 18 numbers"),
    (b"", "has 0 numbers"),
    (b"\n\n", "has 0 numbers"),
    (b"0.8 " * 8 + b"bright", "'bright'"),
    (b"x" * 100000, "could not convert"),
    (b"0.8\x00" * 9, "could not convert"),
    (b"0.8 " * 8 + b"nan", "not finite"),
    (b"0.8 " * 26 + b"-inf", "not finite"),
    (b"0.8 " * 8 + b"1e39", "not finite"),  # beyond float32
    (bytes(range(256)), "cannot be read as a text file"),
    ("1 2 3 4 5 6 7 8 9".encode("utf-16"), "cannot be read as a text file"),
  ],
  ids=lambda value: None if isinstance(value, str) else value[:12].decode("latin-1").strip() or "empty",
)
def test_other_text_files_are_refused(tmp_path, content, what):
  (tmp_path / "light.txt").write_bytes(content)
  assert what in file_refusal(tmp_path / "light.txt")


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
  assert is_plain(light)
  assert light[0] == pytest.approx(0.8)
  y, z, x = light[1:4] / np.linalg.norm(light[1:4])
  np.testing.assert_allclose((x, y, z), towards, atol=0.02)


def test_an_even_environment_is_even_light(tmp_path):
  light = parse_light(str(write_environment(tmp_path / "map.exr", panorama_with())))
  np.testing.assert_allclose(light, [0.8, *[0] * 8], atol=1e-3)


@pytest.mark.parametrize("suffix", [".hdr", ".exr"])
def test_environments_are_read_as_linear_rgb(tmp_path, suffix):
  panorama = panorama_with((10, 20, (4, 0.5, 1)), (20, 50, (0.125, 2, 8)))
  read = read_environment(str(write_environment(tmp_path / f"map{suffix}", panorama)))
  np.testing.assert_array_equal(read, panorama, strict=True)


@pytest.mark.parametrize("suffix", [".hdr", ".exr"])
def test_colour_in_an_environment_is_made_gray(tmp_path, suffix):
  panorama = panorama_with((16, 16, (16, 0.5, 0.25)), (16, 48, (0.5, 0.25, 16)), (4, 0, (0.5, 16, 0.5)))
  light = parse_light(str(write_environment(tmp_path / f"map{suffix}", panorama)))
  gray = sh.environment(panorama @ np.array(LUMA, np.float32))
  np.testing.assert_allclose(light, gray * (0.8 / gray[0]), atol=1e-6)
  assert light[3] < -0.03  # red weighs more than blue


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
    np.testing.assert_allclose(
      parse_light(str(file)), expected * (0.8 / expected[0]), atol=1e-6, err_msg=f"{file.name} differs"
    )


@pytest.mark.parametrize("exposure", [2.0**-140, 2.0**-20, 1.0, 2.0**20, 2.0**122])
def test_exposure_does_not_matter(tmp_path, exposure):
  panorama = panorama_with((9, 13, 32))
  expected = parse_light(str(write_exr(tmp_path / "map.exr", {"RGB": panorama})))
  exposed = parse_light(str(write_exr(tmp_path / "exposed.exr", {"RGB": panorama * np.float32(exposure)})))
  np.testing.assert_allclose(exposed, expected, atol=1e-6)


@pytest.mark.parametrize("value", [-0.01, np.nan, np.inf, -np.inf])
def test_impossible_radiance_is_refused(tmp_path, value):
  panorama = panorama_with((9, 13, 32))
  panorama[7, 7, 1] = value
  assert "negative or not finite" in file_refusal(write_exr(tmp_path / "map.exr", {"RGB": panorama}))


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

  class Network:
    native_size = 1024

  monkeypatch.setattr(lights, "find_faces", lambda pixels, face_finder: faces if face_finder == "embedded" else [])
  monkeypatch.setattr(hourglass, "network_for", lambda params: Network)
  monkeypatch.setattr(portrait, "estimate_portrait_light", lambda *arguments: seen.append(arguments) or NUMBERS)
  pixels = np.arange(300, dtype=np.uint8).reshape(10, 10, 3)
  write_photo(tmp_path / "portrait.png", Photo(pixels))
  np.testing.assert_array_equal(parse_light(str(tmp_path / "portrait.png"), {}, "embedded"), NUMBERS)
  [(params, given, face, size)] = seen
  assert params == {}
  np.testing.assert_array_equal(given, pixels)
  assert face is faces[1]
  assert size == 1024


@pytest.fixture(scope="module", params=["default", "official-512"])
def params(request):
  if request.param != "default":
    request.getfixturevalue("shared")("reference/dpr/trained_model_03.t7")
  return load_params(request.param)


@pytest.fixture(scope="module")
def encoded_portrait(params):
  pixels = pictures.astronaut()
  return Portrait(params, pixels, find_faces(pixels), hourglass.network_for(params).native_size)


def test_a_portrait_gives_the_light_on_its_face(tmp_path, params, encoded_portrait):
  write_photo(tmp_path / "portrait.png", Photo(encoded_portrait.pixels))
  light = parse_light(str(tmp_path / "portrait.png"), params)
  assert is_plain(light)
  np.testing.assert_allclose(light, encoded_portrait.faces[0].source_light, atol=1e-5)


def test_the_light_of_a_relit_portrait_is_found_again(tmp_path, params, encoded_portrait):
  found = {}
  for side in ("left", "right"):
    write_photo(tmp_path / f"{side}.png", Photo(encoded_portrait.relight(parse_light(side))))
    found[side] = parse_light(str(tmp_path / f"{side}.png"), params)
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


@pytest.mark.parametrize(("network", "dc"), [(hourglass.HourglassNet, 0.75), (hourglass.RatioHourglassNet, 0.95)])
def test_lamps_are_as_bright_as_suits_the_network(network, dc):
  network = network(base_filters=2, light_channels=3)
  shapes = jax.eval_shape(
    network.init,
    jax.random.key(0),
    jax.ShapeDtypeStruct((1, 128, 128, 1), np.float32),
    jax.ShapeDtypeStruct((1, 9), np.float32),
  )
  light = parse_light("left", shapes)
  np.testing.assert_allclose(light, parse_light("left") * (dc / 0.75), rtol=1e-6)
