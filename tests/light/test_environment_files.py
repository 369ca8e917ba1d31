"""Environment maps as other programs write them; the files are made here by hand or by OpenEXR."""

import numpy as np
import OpenEXR
import pytest

from dpr_jax.base.errors import BadInput
from dpr_jax.light.environment_files import read_environment

HEAD = b"#?RADIANCE\n# made by hand\nFORMAT=32-bit_rle_rgbe\nEXPOSURE=1.0\n\n"


@pytest.fixture
def panorama():
  """`[8, 16, 3]`, exact in RGBE: whole numbers of up to eight bits, times a power of two."""
  rng = np.random.default_rng(0)
  return rng.integers(128, 256, (8, 16, 3)).astype(np.float32) / 64 * 2.0 ** rng.integers(-3, 4, (8, 16, 1))


def rgbe(pixels):
  exponent = np.frexp(pixels.max(axis=-1, keepdims=True))[1]
  mantissa = np.ldexp(pixels, 8 - exponent)
  assert (mantissa == np.rint(mantissa)).all()
  return np.concatenate([mantissa, exponent + 128], axis=-1).astype(np.uint8)


def new_runs(lines):
  """Each channel of each line for itself: a run where four are alike, else as it is."""
  coded = b""
  for line in lines:
    coded += bytes([2, 2, len(line) >> 8, len(line) & 255])
    for channel in line.T:
      for part in np.split(channel, range(4, len(channel), 4)):
        coded += bytes([128 + len(part), part[0]] if (part == part[0]).all() else [len(part), *part])
  return coded


def old_runs(lines):
  """Pixels, in which 1, 1, 1, n repeats."""
  coded, last, count = b"", None, 0
  for pixel in [*lines.reshape(-1, 4).tolist(), None]:
    if pixel == last:
      count += 1
      continue
    while count:
      coded += bytes([1, 1, 1, count & 255])
      count >>= 8
    coded, last = coded + bytes(pixel or b""), pixel
  return coded


def hdr(tmp_path, size, data, head=HEAD):
  path = tmp_path / "map.hdr"
  path.write_bytes(head + size + b"\n" + data)
  return path


@pytest.mark.parametrize("coding", [new_runs, old_runs, lambda lines: lines.tobytes()], ids=["new", "old", "flat"])
@pytest.mark.parametrize("first", "YX")
@pytest.mark.parametrize("across", "+-")
@pytest.mark.parametrize("down", "+-")
def test_radiance_begins_at_any_corner_along_either_axis(tmp_path, panorama, down, across, first, coding):
  panorama[2:4] = panorama[2, 0]  # something to repeat
  lines = rgbe(panorama)[:: 1 if down == "-" else -1, :: 1 if across == "+" else -1]
  size = f"{down}Y 8 {across}X 16"
  if first == "X":
    lines, size = lines.swapaxes(0, 1), f"{across}X 16 {down}Y 8"
  np.testing.assert_array_equal(read_environment(hdr(tmp_path, size.encode(), coding(lines))), panorama)


def test_long_repetitions_of_the_old_kind(tmp_path):
  """Two in a row count as digits to the base of 256."""
  lines = np.broadcast_to(np.uint8([128, 64, 32, 129]), (20, 40, 4)).copy()
  lines[-1, -1] = [128, 128, 128, 129]
  coded = old_runs(lines)
  assert len(coded) == 4 * 4
  read = read_environment(hdr(tmp_path, b"-Y 20 +X 40", coded))
  np.testing.assert_array_equal(read[0, 0], [1, 0.5, 0.25])
  np.testing.assert_array_equal(read[-1, -1], [1, 1, 1])
  assert (read[:, :-1] == read[0, 0]).all()


@pytest.mark.parametrize(
  ("head", "size", "data"),
  [
    (b"#?RADIANCE\n-Y 1 +X 2\nFORMAT=32-bit_rle_rgbe\n\n", b"-Y 12000 +X 24000", b"\x02\x02\x5d\xc0"),
    (b"#?RADIANCE\n\n", b"-Y 1" + b"0" * 5000 + b" +X 2", b""),
    (b"#?RADIANCE\n\n", b"-Y 8 +Y 16", bytes(512)),
    (b"#?RADIANCE\n\n", b"-Y 0 +X 16", bytes(512)),
    (b"#?RADIANCE\n\n", b"-Y 8 +X 16", bytes(511)),
    (b"#?RADIANCE\n\n", b"-Y 8 +X 16", b"\1\1\1\5" * 128),  # a repetition of nothing
    (b"#?RADIANCE\n\n", b"-Y 8 +X 16", b"\2\3\4\5" + b"\1\1\1\xff" * 5),  # beyond all bounds
    (b"#?RADIANCE\n\n", b"-Y 8 +X 16", b"\2\3\4\5" + b"\1\1\1\x80"),  # beyond the picture
    (b"#?RADIANCE\n\n", b"-Y 8 +X 16", b"\2\2\0\x10" + b"\x90\1" * 3),
    (b"#?RADIANCE\nFORMAT=32-bit_rle_xyze\n\n", b"-Y 8 +X 16", bytes(512)),
    (b"RADIANCE\n\n", b"-Y 8 +X 16", bytes(512)),
    (b"#?RADIANCE\n", b"-Y 8 +X 16", bytes(512)),
  ],
)
def test_damaged_and_hostile_radiance_gets_a_line(tmp_path, head, size, data, capfd):
  with pytest.raises(BadInput) as refused:
    read_environment(hdr(tmp_path, size, data, head))
  assert "\n" not in str(refused.value)
  assert capfd.readouterr() == ("", "")


def test_more_pixels_than_a_file_can_hold_are_refused(tmp_path):
  path = hdr(tmp_path, b"-Y 8000 +X 16000", b"\x02\x02\x3e\x80")
  with pytest.raises(BadInput, match=r"16000 x 8000 pixels in .* bytes are more than such a map can have"):
    read_environment(path)


def exr(tmp_path, channels, window=(0, 0), display=(16, 8), parts=()):
  path = tmp_path / "map.exr"
  height, width = next(iter(channels.values())).shape

  def header(width, height, left, top):
    low, high = (left, top), (left + width - 1, top + height - 1)
    return {
      "compression": OpenEXR.ZIP_COMPRESSION,
      "type": OpenEXR.scanlineimage,
      "dataWindow": (np.int32(low), np.int32(high)),
      "displayWindow": (np.int32([0, 0]), np.int32([display[0] - 1, display[1] - 1])),
    }

  first = OpenEXR.Part(header(width, height, *window), channels, "first")
  rest = [
    OpenEXR.Part(header(each.shape[1], each.shape[0], 0, 0), {"Z": each}, f"part{k}") for k, each in enumerate(parts)
  ]
  OpenEXR.File([first, *rest]).write(str(path))
  return path


def named(panorama, *names):
  return {name: np.ascontiguousarray(panorama[..., k], dtype=np.float32) for k, name in enumerate(names)}


@pytest.mark.parametrize(("left", "top"), [(0, 0), (3, 2), (-2, -1), (12, 5), (-14, 6), (40, 0)])
def test_the_data_window_lies_in_the_display_window(tmp_path, panorama, left, top):
  expected = np.zeros((8, 16, 3), np.float32)
  for y in range(8):
    for x in range(16):
      if 0 <= y - top < 6 and 0 <= x - left < 10:
        expected[y, x] = panorama[y - top, x - left]
  read = read_environment(exr(tmp_path, named(panorama[:6, :10], "R", "G", "B"), (left, top)))
  np.testing.assert_array_equal(read, expected)


@pytest.mark.parametrize(
  "names",
  [
    ("R", "G", "B"),
    ("r", "g", "b"),
    ("sky.R", "sky.G", "sky.B"),
    ("ViewLayer.Combined.R", "ViewLayer.Combined.G", "ViewLayer.Combined.B"),
    ("red", "green", "blue"),
  ],
)
def test_colours_are_found_under_the_names_that_programs_give(tmp_path, panorama, names):
  channels = named(panorama, *names) | {"ViewLayer.Depth.Z": np.ones((8, 16), np.float32)}
  np.testing.assert_array_equal(read_environment(exr(tmp_path, channels)), panorama)


def test_of_several_layers_the_picture_counts_or_all_are_named(tmp_path, panorama):
  picture = named(panorama, "L.Combined.R", "L.Combined.G", "L.Combined.B")
  others = named(0 * panorama, "L.Normal.R", "L.Normal.G", "L.Normal.B")
  np.testing.assert_array_equal(read_environment(exr(tmp_path, picture | others)), panorama)
  with pytest.raises(BadInput, match="has layers a, b; an environment map is one of them"):
    read_environment(exr(tmp_path, named(panorama, "a.R", "a.G", "a.B") | named(panorama, "b.R", "b.G", "b.B")))
  assert read_environment(exr(tmp_path, named(panorama[..., :1], "y"))).shape == (8, 16)


def test_all_parts_and_channels_count(tmp_path, panorama):
  path = exr(tmp_path, named(panorama, "R", "G", "B"), parts=[np.zeros((20, 20), np.float32)])
  assert read_environment(path, max_pixels=400).shape == (8, 16, 3)
  with pytest.raises(BadInput, match="20 x 20 pixels are more than the 399 allowed"):
    read_environment(path, max_pixels=399)
  with pytest.raises(BadInput, match="1984 values in 5 parts of up to 3 channels; at most 1600"):
    read_environment(exr(tmp_path, named(panorama, "R", "G", "B"), parts=[np.zeros((20, 20), np.float32)] * 4), 400)
  many = {f"c{k}": np.zeros((8, 16), np.float32) for k in range(60)} | named(panorama, "R", "G", "B")
  with pytest.raises(BadInput, match="8064 values in 1 parts of up to 63 channels; at most 512"):
    read_environment(exr(tmp_path, many), 128)
  with pytest.raises(BadInput, match="900 x 8 pixels are more than"):
    read_environment(exr(tmp_path, named(panorama, "R", "G", "B"), display=(900, 8)), 400)


def test_stray_values_are_mended_with_a_note(tmp_path):
  panorama = np.full((32, 64, 3), 2, np.float32)
  panorama[3, 4], panorama[5, 6], panorama[7, 8] = np.nan, np.inf, -np.inf
  panorama[9, 10] = -0.0001
  notes = []
  read = read_environment(exr(tmp_path, named(panorama, "R", "G", "B"), display=(64, 32)), note=notes.append)
  for place, expected in (((3, 4), 0), ((5, 6), 65504), ((7, 8), 0), ((9, 10), 0), ((0, 0), 2)):
    np.testing.assert_array_equal(read[place], expected)
  assert np.isfinite(read).all()
  assert read.min() == 0
  assert [note.split(": ")[1] for note in notes] == [
    "9 values of the environment map are not finite; taken as 0, infinite ones as 65504",
    "3 values of the environment map are negative; taken as 0",
  ]


@pytest.mark.parametrize(("value", "reason"), [(np.nan, "not finite"), (np.inf, "not finite"), (-1, "negative")])
def test_more_than_stray_values_are_refused(tmp_path, value, reason):
  panorama = np.full((32, 64, 3), 2, np.float32)
  panorama[:4] = value
  with pytest.raises(BadInput, match=reason):
    read_environment(exr(tmp_path, named(panorama, "R", "G", "B"), display=(64, 32)))


def test_of_a_gray_map_as_few_are_strays(tmp_path):
  panorama = np.full((32, 64), 2, np.float32)
  panorama[3, 4] = np.nan
  assert read_environment(exr(tmp_path, {"Y": panorama}, display=(64, 32)), note=lambda _: None)[3, 4] == 0
  panorama[:, 5] = np.nan
  with pytest.raises(BadInput, match="33 values that are not finite"):
    read_environment(exr(tmp_path, {"Y": panorama}, display=(64, 32)))


@pytest.mark.parametrize(
  ("width", "height", "name"),
  [
    (12, 16, "a vertical cross of a cube"),
    (16, 12, "a horizontal cross of a cube"),
    (16, 16, "an angular map or mirror ball"),
    (48, 8, "a strip of cube faces"),
    (8, 48, "a strip of cube faces"),
    (60, 16, "a part of the sphere"),
  ],
)
def test_what_is_no_latitude_longitude_map_is_named(tmp_path, width, height, name):
  path = hdr(tmp_path, f"-Y {height} +X {width}".encode(), np.full((height, width, 4), 128, np.uint8).tobytes())
  with pytest.raises(BadInput, match=f"{width} x {height} pixels, perhaps {name}: not a latitude-longitude map"):
    read_environment(path)


def test_the_odd_maps(shared):
  window = read_environment(shared("cases/odd/window.hdr"))
  np.testing.assert_array_equal(read_environment(shared("cases/odd/plusY.hdr")), window)
  np.testing.assert_array_equal(read_environment(shared("cases/odd/oldrle.hdr")), window)
  full, notes = read_environment(shared("cases/odd/full.exr")), []
  assert full[20, 12].max() > 1
  cropped = read_environment(shared("cases/odd/cropped.exr"))
  np.testing.assert_array_equal(cropped[16:34, 8:28], full[16:34, 8:28])
  for name in ("infsun", "onenan", "tinyneg"):
    assert np.isfinite(read_environment(shared(f"cases/odd/{name}.exr"), note=notes.append)).all()
  assert len(notes) == 3
  for name in ("odd/angular_probe.hdr", "odd/vertical_cross.hdr", "hostile/chan.exr", "hostile/parts.exr"):
    with pytest.raises(BadInput):
      read_environment(shared(f"cases/{name}"))


def test_nothing_that_openexr_says_of_a_damaged_file_reaches_the_user(tmp_path, capfd):
  path = tmp_path / "map.exr"
  radiance = np.ones((32, 64, 3), np.float16)
  OpenEXR.File({"compression": OpenEXR.ZIP_COMPRESSION, "type": OpenEXR.scanlineimage}, {"RGB": radiance}).write(
    str(path)
  )
  content = bytearray(path.read_bytes())
  content[-20:] = bytes(20)
  place = content.index(b"screenWindowWidth") + 40
  content[place : place + 24] = b"\xff" * 24  # where lines of pixels lie
  path.write_bytes(content)
  print("before")
  with pytest.raises(BadInput, match="damaged"):
    read_environment(path)
  print("after")
  assert capfd.readouterr() == ("before\nafter\n", "")
