"""Contact sheets by geometry and content; films by decoding them again."""

import types

import av
import numpy as np
import pytest
from PIL import Image

from dpr_jax.base.errors import BadInput
from dpr_jax.cli.relight_command import relight_to_films
from dpr_jax.image import pictures
from dpr_jax.image.photo import Photo
from dpr_jax.image.photo_writing import write_photo
from dpr_jax.light import light as light_lib
from dpr_jax.light import sh

_GAP = 8
_GRAY = 104


def lamp(azimuth: float, elevation: float) -> np.ndarray:
  return np.asarray(sh.directional(sh.direction(azimuth, elevation)))


def noise(height: int, width: int, seed: int = 0) -> np.ndarray:
  return np.random.default_rng(seed).integers(0, 256, (height, width, 3), np.uint8)


def psnr(a: np.ndarray, b: np.ndarray) -> float:
  return 10 * np.log10(255**2 / np.mean((a.astype(float) - b) ** 2))


# Shrinking.


@pytest.mark.parametrize("shape", [(1, 1), (30, 40), (40, 30), (99, 100), (100, 100)])
def test_shrink_leaves_small_pictures_alone(shape):
  picture = noise(*shape)
  assert pictures.shrink(picture, 100) is picture


@pytest.mark.parametrize(
  ("shape", "expected"),
  [
    ((101, 101), (100, 100)),
    ((101, 50), (100, 50)),
    ((333, 777), (43, 100)),
    ((777, 333), (100, 43)),
    ((1000, 3), (100, 1)),
    ((2, 5000), (1, 100)),
    ((1, 4001), (1, 100)),
  ],
)
def test_shrink_keeps_the_aspect_and_at_least_one_pixel(shape, expected):
  small = pictures.shrink(noise(*shape), 100)
  assert small.shape == (*expected, 3)
  assert small.dtype == np.uint8


def test_shrink_averages_areas():
  picture = noise(60, 80)
  blocks = picture.reshape(30, 2, 40, 2, 3).mean(axis=(1, 3))
  assert np.abs(pictures.shrink(picture, 40) - blocks).max() <= 0.5


# Contact sheets.


def cell_corners(count: int, columns: int, height: int, width: int) -> list[tuple[int, int]]:
  """Top left corners of the pictures, row by row."""
  down, right = height + max(16, min(height, width) // 3) + 3 * _GAP, width + _GAP
  return [(_GAP + k // columns * down, _GAP + k % columns * right) for k in range(count)]


@pytest.mark.parametrize(
  ("count", "rows", "columns"),
  [
    *((count, 1, count) for count in range(1, 7)),
    *((7, 2, 4), (8, 2, 4), (9, 2, 5), (10, 2, 5), (11, 2, 6), (12, 2, 6), (13, 3, 5)),
  ],
)
@pytest.mark.parametrize("shape", [(60, 45), (31, 90)])
def test_a_sheet_is_rows_of_pictures_over_spheres_and_nothing_else(count, rows, columns, shape):
  height, width = shape
  side = max(16, min(shape) // 3)
  cells = [noise(*shape, seed) for seed in range(count)]
  lights = [lamp(30 * k, 10) if k % 3 else None for k in range(count)]
  sheet = pictures.contact_sheet(cells, lights)
  assert sheet.dtype == np.uint8
  assert sheet.shape == (rows * (height + side + 3 * _GAP) + _GAP, columns * (width + _GAP) + _GAP, 3)
  for (top, left), cell, light in zip(cell_corners(count, columns, *shape), cells, lights, strict=True):
    np.testing.assert_array_equal(sheet[top : top + height, left : left + width], cell)
    sheet[top : top + height, left : left + width] = _GRAY
    ball_top, ball_left = top + height + _GAP, left + (width - side) // 2
    ball = sheet[ball_top : ball_top + side, ball_left : ball_left + side]
    assert (np.ptp(ball) > 100) == (light is not None)
    ball[:] = _GRAY
  np.testing.assert_array_equal(sheet, _GRAY)


@pytest.mark.parametrize("shape", [(1, 1), (1, 300), (300, 1), (512, 13), (10, 10), (17, 16)])
def test_pictures_smaller_than_a_sphere(shape):
  cells = [noise(*shape, seed) for seed in range(2)]
  sheet = pictures.contact_sheet(cells, [None, lamp(90, 0)])
  column = max(16, shape[1])
  assert sheet.shape == (shape[0] + 16 + 4 * _GAP, 2 * column + 3 * _GAP, 3)
  for k, cell in enumerate(cells):
    left = _GAP + k * (column + _GAP) + (column - shape[1]) // 2
    np.testing.assert_array_equal(sheet[_GAP : _GAP + shape[0], left : left + shape[1]], cell)


def test_every_picture_needs_its_light():
  with pytest.raises(ValueError, match="zip"):
    pictures.contact_sheet([noise(30, 30)] * 2, [None])


def sphere(light: np.ndarray) -> np.ndarray:
  """The sphere that the sheet shows, `[S, S]`."""
  sheet = pictures.contact_sheet([noise(150, 150)], [light])
  ball = sheet[150 + 2 * _GAP : -2 * _GAP, 50 + _GAP : -50 - _GAP]
  assert ball.shape == (50, 50, 3)
  assert (ball == ball[..., :1]).all()
  return ball[..., 0].astype(int)


@pytest.mark.parametrize(
  ("azimuth", "elevation", "bright"),
  [(65, 0, (0, -1)), (-65, 0, (0, 1)), (0, 65, (-1, 0)), (0, -65, (1, 0)), (50, 40, (-1, -1)), (-50, -40, (1, 1))],
)
def test_the_sphere_is_bright_where_the_light_comes_from(azimuth, elevation, bright):
  ball = sphere(lamp(azimuth, elevation))
  down, right = np.mgrid[-1:1:50j, -1:1:50j]
  inside = down**2 + right**2 < 0.9
  centroid = [(ball * inside * axis).sum() / (ball * inside).sum() for axis in (down, right)]
  for part, sign in zip(centroid, bright, strict=True):
    assert part * sign > 0.1 if sign else abs(part) < 0.02
  assert ball.max() == 255
  assert ball[inside].min() < 30


def test_the_sphere_is_round_with_a_smooth_rim_and_white_under_even_light():
  ball = sphere(np.eye(9, dtype=np.float32)[0])
  down, right = np.mgrid[-1:1:50j, -1:1:50j] * 0.98  # of pixel centres
  radius = np.hypot(down, right)
  assert (ball[radius < 0.95] == 255).all()
  assert (ball[radius > 1.05] == _GRAY).all()
  rim = ball[(radius > 0.95) & (radius < 1.05)]
  assert ((rim > _GRAY) & (rim < 255)).mean() > 0.3
  np.testing.assert_array_equal(ball, ball[::-1, ::-1])


# Spheres under lights with lamps.


def key_light(azimuth, elevation, fill=0.2):
  return light_lib.key_and_fill(sh.direction(azimuth, elevation), fill, 10)


def test_a_light_of_nine_numbers_is_drawn_as_they_are():
  numbers = np.asarray(lamp(40, 20))
  picture = pictures.sphere(numbers, 64)
  np.testing.assert_array_equal(picture, np.repeat(sh.sphere_picture(numbers, 64)[..., None], 3, axis=-1))
  smooth = np.float32([0.8, -0.1, 0.1, 0.2, 0, 0, 0, 0, 0])  # nowhere negative
  np.testing.assert_array_equal(pictures.sphere(light_lib.soft_light(smooth), 64), pictures.sphere(smooth, 64))


def test_a_sphere_under_a_lamp_has_a_terminator():
  """Half of it is lit by a lamp at the side, and the rest by the fill alone: no nine numbers say so."""
  ball = pictures.sphere(key_light(90, 0, fill=0), 128)[..., 0].astype(int)
  _, disc = sh.sphere_normals(128)
  right = np.arange(128) > 72
  assert (ball[disc & right] == 0).all()
  assert ball[64, 4] > 250
  levels = ball[64, 10:60]
  assert (np.diff(levels) <= 0).all()  # it falls off from the left to the middle
  assert len(set(levels.tolist())) > 30
  assert (ball[~disc] == 0).all()


def test_the_sphere_shows_the_colour_of_lamp_and_fill():
  light = light_lib.tint_lamps(key_light(90, 0, fill=1), np.float32([2, 0.8, 0.2]))
  ball = pictures.sphere(light, 128).astype(float)
  lit, dark = ball[64, 8], ball[64, 90]
  assert lit[0] > 1.2 * lit[1] > 1.4 * lit[2]
  assert dark[0] == pytest.approx(dark[2], abs=2)
  assert dark[0] > 0


def test_even_light_makes_a_white_disc():
  _, disc = sh.sphere_normals(64)
  expected = np.repeat(255 * disc[..., None], 3, axis=-1)
  np.testing.assert_array_equal(pictures.sphere(light_lib.even_light(0.3), 64), expected)


def test_a_sheet_takes_lights_of_both_kinds():
  lights = [key_light(60, 20), np.asarray(lamp(60, 20)), None]
  sheet = pictures.contact_sheet([noise(150, 150)] * 3, lights)
  balls = [sheet[150 + 2 * _GAP : -2 * _GAP, 50 + _GAP + 158 * k : 100 + _GAP + 158 * k] for k in range(3)]
  assert all(ball[:, :25].mean() > ball[:, 25:].mean() + 30 for ball in balls[:2])
  assert (balls[2] == _GRAY).all()
  assert np.abs(balls[0].astype(int) - balls[1]).mean() > 3


# Grids of results.


def gray(height, width, seed=0):
  """Luminance a little beyond [0, 1]."""
  return np.random.default_rng(seed).uniform(-0.1, 1.1, (height, width)).astype(np.float32)


@pytest.mark.parametrize("outputs", [1, 3])
@pytest.mark.parametrize("titled", [False, True])
@pytest.mark.parametrize("shape", [(60, 45), (31, 90)])
def test_a_grid_is_rows_of_faces_and_nothing_else(shape, outputs, titled):
  lights = [lamp(30 * k, 10) for k in range(6)]
  rows = [
    (gray(*shape, 9 * k), lights[k], gray(*shape, 9 * k + 1), lights[3 + k], *more)
    for k in range(3)
    if (more := [gray(*shape, 9 * k + 2 + n) for n in range(outputs)])
  ]
  columns, (height, width), side = 2 + outputs, shape, max(16, min(shape) // 3)
  titles = ["source", "target", *("of a network with a long name" for _ in range(outputs))] if titled else []
  grid = pictures.relighting_grid(rows, titles)
  assert grid.dtype == np.uint8
  top = 24 if titled else 0
  assert grid.shape == (top + 3 * (height + side + 3 * _GAP) + _GAP, columns * (width + _GAP) + _GAP, 3)
  strip, sheet = grid[:top], grid[top:]
  for column in range(columns if titled else 0):
    left = _GAP + column * (width + _GAP)
    assert np.ptp(strip[:, left : left + width]) > 100
    assert (strip[:, left - _GAP : left] == _GRAY).all()
  for corner, (picture, light) in zip(
    cell_corners(3 * columns, columns, *shape),
    [(row[at], row[at + 1] if at < 4 else None) for row in rows for at in (0, 2, *range(4, 4 + outputs))],
    strict=True,
  ):
    down, left = corner
    shown = sheet[down : down + height, left : left + width]
    assert (shown == shown[..., :1]).all()
    assert np.abs(shown[..., 0] - 255 * picture.clip(0, 1)).max() <= 0.51
    shown[:] = _GRAY
    ball_left = left + (width - side) // 2
    ball = sheet[down + height + _GAP :, ball_left:][:side, :side]
    if light is not None:
      expected = pictures.contact_sheet([noise(*shape)], [light])
      np.testing.assert_array_equal(ball, expected[height + 2 * _GAP :, _GAP + (width - side) // 2 :][:side, :side])
    ball[:] = _GRAY
  np.testing.assert_array_equal(sheet, _GRAY)


def test_rows_that_make_no_grid():
  row = (gray(20, 20), lamp(0, 0), gray(20, 20), lamp(9, 0), gray(20, 20))
  other_size = tuple(part[:16, :16] if part.ndim == 2 else part for part in row)
  for rows in ([], [row[:4]], [row, (*row, gray(20, 20))], [row, other_size]):
    with pytest.raises(ValueError, match="a grid needs rows"):
      pictures.relighting_grid(rows)
  with pytest.raises(ValueError, match="2 titles for 3 columns"):
    pictures.relighting_grid([row], ["source", "target"])


# Films.


def wandering(height: int, width: int, count: int) -> list[np.ndarray]:
  """Smooth colour in which a bright patch, top left at first, goes to the right."""
  down, right = np.mgrid[0 : 1 : height * 1j, 0 : 1 : width * 1j]
  frames = []
  for k in range(count):
    patch = np.exp(-((down - 0.2) ** 2 + (right - 0.2 - 0.6 * k / count) ** 2) / 0.02)
    frame = np.stack([120 + 130 * patch, 60 + 120 * down, 40 + 120 * right], axis=-1)
    frames.append(np.round(frame.clip(0, 255)).astype(np.uint8))
  return frames


@pytest.fixture
def films(tmp_path):
  """Writes films of frames: (MP4, GIF)."""

  def films(frames, fps):
    mp4, gif = tmp_path / "film.mp4", tmp_path / "film.gif"
    pictures.write_films(mp4, gif, iter(frames), fps)
    return mp4, gif

  return films


def decode_gif(path) -> tuple[list[np.ndarray], list[int], int]:
  """Frames, their durations in milliseconds, and the number of repetitions (0 is for ever)."""
  with Image.open(path) as image:
    frames, durations = [], []
    for k in range(image.n_frames):
      image.seek(k)
      frames.append(np.asarray(image.convert("RGB")))
      durations.append(image.info["duration"])
    return frames, durations, image.info["loop"]


def boxes(path) -> list[str]:
  """Names of the outermost boxes of an MP4."""
  data, at, names = path.read_bytes(), 0, []
  while at < len(data):
    names.append(data[at + 4 : at + 8].decode())
    at += int.from_bytes(data[at : at + 4])
  return names


@pytest.mark.parametrize(("shape", "fps"), [((96, 128), 10), ((75, 61), 15), ((64, 49), 30)])
def test_the_mp4_plays_the_frames(films, shape, fps):
  frames = wandering(*shape, 7)
  mp4, _ = films(frames, fps)
  even = tuple(side // 2 * 2 for side in shape)
  with av.open(mp4) as container:
    (stream,) = container.streams
    codec = stream.codec_context
    assert (codec.name, codec.pix_fmt) == ("h264", "yuv420p")
    assert (codec.height, codec.width) == even
    assert stream.average_rate == fps
    assert stream.frames == 7
    assert float(stream.duration * stream.time_base) == pytest.approx(7 / fps)
    decoded = list(container.decode(stream))
  assert [frame.time for frame in decoded] == pytest.approx([k / fps for k in range(7)])
  for frame, shown in zip(frames, decoded, strict=True):
    assert psnr(frame[: even[0], : even[1]], shown.to_ndarray(format="rgb24")) > 33


def test_the_mp4_starts_before_it_is_loaded(films):
  mp4, _ = films(wandering(64, 64, 3), 10)
  assert boxes(mp4).index("moov") < boxes(mp4).index("mdat")


def test_the_mp4_says_what_its_colours_mean(films):
  rgb = np.array([200, 60, 40])
  mp4, _ = films([np.full((64, 64, 3), rgb, np.uint8)] * 2, 10)
  with av.open(mp4) as container:
    codec = container.streams.video[0].codec_context
    # BT.709 with black at 16 and white at 235.
    assert (codec.colorspace, codec.color_primaries, codec.color_trc, codec.color_range) == (1, 1, 1, 1)
    luma = next(container.decode(video=0)).to_ndarray()[:64]
  assert abs(luma.mean() - (16 + 219 / 255 * rgb @ (0.2126, 0.7152, 0.0722))) < 1.5


@pytest.mark.parametrize(("fps", "milliseconds"), [(10, 100), (15, 70), (30, 30)])
def test_the_gif_shows_the_frames_for_ever(films, fps, milliseconds):
  frames = wandering(75, 61, 6)
  _, gif = films(frames, fps)
  shown, durations, loop = decode_gif(gif)
  assert loop == 0
  assert durations == [milliseconds] * 6
  for frame, picture in zip(frames, shown, strict=True):
    assert picture.shape == frame.shape
    assert psnr(frame, picture) > 30


def test_a_still_moment_lasts_as_long_in_the_gif(films):
  """Pillow writes equal frames as one that stands longer."""
  first, second = wandering(40, 40, 2)
  _, gif = films([first, first, first, second], 10)
  assert decode_gif(gif)[1] == [300, 100]


def test_the_gif_is_small(films):
  _, gif = films(wandering(320, 640, 2), 10)
  assert [frame.shape for frame in decode_gif(gif)[0]] == [(240, 480, 3)] * 2


# Films of a photo, with a studio that does no work.


class Studio:
  """Relights to frames given beforehand; a frame that is an exception is raised."""

  def __init__(self, frames):
    self.lights = [light_lib.key_and_fill(sh.direction(65, 0), 0.2, 10)]
    self.encoded = []
    self.asked = []
    self._frames = iter(frames)

  def encode(self, pixels, name):
    self.encoded.append((pixels.shape, name))
    return types.SimpleNamespace(pixels=pixels)

  def relight(self, encoded, light):
    self.asked.append(light)
    frame = next(self._frames)
    if isinstance(frame, Exception):
      raise frame
    return frame


@pytest.fixture
def photo(tmp_path):
  write_photo(tmp_path / "photo.png", Photo(noise(40, 48)))
  return tmp_path / "photo.png"


def names(folder):
  return sorted(path.name for path in folder.iterdir())


@pytest.mark.parametrize("suffix", [".mp4", ".gif", ".MP4"])
def test_both_films_are_written_whichever_is_asked_for(photo, suffix):
  relight_to_films(Studio(wandering(40, 48, 3)), photo, photo.with_name(f"a.b{suffix}"), 3, False)
  assert names(photo.parent) == ["a.b.gif", "a.b.mp4", "photo.png"]


@pytest.mark.parametrize("name", ["turn", "turn.png", "john.smith", ".", ".."])
def test_other_names_than_those_of_films_are_refused(photo, name):
  studio = Studio([])
  with pytest.raises(BadInput, match=r"films have the suffix \.mp4 or \.gif"):
    relight_to_films(studio, photo, photo.parent / name, 3, False)
  assert studio.encoded == []


@pytest.mark.parametrize("existing", ["film.mp4", "film.gif"])
def test_neither_film_may_exist(photo, existing):
  (photo.parent / existing).write_bytes(b"old")
  studio = Studio([])
  with pytest.raises(BadInput, match=f"{existing}: exists already"):
    relight_to_films(studio, photo, photo.parent / "film.mp4", 3, False)
  assert studio.encoded == []
  assert names(photo.parent) == sorted([existing, "photo.png"])
  relight_to_films(Studio(wandering(40, 48, 3)), photo, photo.parent / "film.mp4", 3, True)
  assert names(photo.parent) == ["film.gif", "film.mp4", "photo.png"]
  assert all((photo.parent / name).stat().st_size > 100 for name in ("film.gif", "film.mp4"))


@pytest.mark.parametrize("at", [0, 2, 99])  # the encoder writes nothing before some sixty frames
@pytest.mark.parametrize("old", [True, False])
def test_a_frame_that_fails_leaves_everything_as_it_was(photo, at, old):
  folder = photo.parent
  if old:
    for name in ("film.gif", "film.mp4"):
      (folder / name).write_bytes(b"old")
  before = {path.name: path.read_bytes() for path in folder.iterdir()}
  frames = wandering(40, 48, 100)
  frames[at] = RuntimeError("the network failed")
  with pytest.raises(RuntimeError, match="the network failed"):
    relight_to_films(Studio(frames), photo, folder / "film.mp4", 100, True)
  assert {path.name: path.read_bytes() for path in folder.iterdir()} == before


def test_the_light_goes_round_clockwise_from_where_it_is(photo):
  studio = Studio(wandering(40, 48, 8))
  relight_to_films(studio, photo, photo.parent / "film.mp4", 8, False)
  np.testing.assert_allclose(studio.asked[0].towards, studio.lights[0].towards, atol=1e-6)
  right, up = np.array([light.towards[0, [0, 2]] for light in studio.asked]).T
  angle = np.radians(180 - 45 * np.arange(8))  # left, left-top, top, ...
  length = np.hypot(right[0], up[0])
  np.testing.assert_allclose(right, length * np.cos(angle), atol=1e-5)
  np.testing.assert_allclose(up, length * np.sin(angle), atol=1e-5)


@pytest.mark.parametrize(("frames", "fps"), [(2, 10), (40, 10), (60, 15), (120, 30), (3600, 30)])
def test_a_turn_takes_four_seconds_at_a_bearable_rate(photo, monkeypatch, frames, fps):
  asked = []

  def write_films(mp4, gif, pixels, rate):
    asked.append(rate)
    mp4.touch()
    gif.touch()

  monkeypatch.setattr(pictures, "write_films", write_films)
  relight_to_films(Studio([]), photo, photo.parent / "film.mp4", frames, False)
  assert asked == [fps]


def test_a_photo_too_narrow_for_a_film(photo):
  write_photo(photo, Photo(noise(1, 50)), overwrite=True)
  with pytest.raises(BadInput, match=r"photo\.png: too narrow for a film"):
    relight_to_films(Studio([]), photo, photo.parent / "film.mp4", 3, False)


def test_a_large_photo_is_shrunk_to_a_screen(photo):
  write_photo(photo, Photo(noise(30, 2160)), overwrite=True)
  studio = Studio(wandering(40, 48, 2))
  relight_to_films(studio, photo, photo.parent / "film.mp4", 2, False)
  assert studio.encoded == [((15, 1080, 3), str(photo))]
