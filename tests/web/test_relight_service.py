"""The service with the packaged weights; its memory of what it has computed, with stand-ins."""

import threading
import time
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import numpy as np
import pytest

from dpr_jax.base.errors import BadInput
from dpr_jax.image.color import lamp_colour
from dpr_jax.image.photo import Photo, read_photo
from dpr_jax.image.photo_writing import write_photo
from dpr_jax.image.pictures import astronaut
from dpr_jax.light import light as light_lib
from dpr_jax.light import sh
from dpr_jax.portrait import framed_face
from dpr_jax.portrait.lights import PRESETS, Direction, parse_light
from dpr_jax.web import service as relight_service
from dpr_jax.web.service import RelightService, Wish, _Kept

LEFT, RIGHT = (Wish(Direction(azimuth, 10)) for azimuth in (65, -65))
FACE = np.s_[90:180, 110:200]  # of the astronaut
PATIENCE = 600  # seconds; nothing here takes so long, however busy the machine is


@pytest.fixture(scope="module")
def service():
  with RelightService(("default",)) as service:
    yield service


@pytest.fixture(scope="module")
def photo(tmp_path_factory):
  path = tmp_path_factory.mktemp("photos") / "astronaut.png"
  write_photo(path, Photo(astronaut()))
  return path


def assert_lights_equal(one, other, atol=0.0):
  for name, part in one._asdict().items():
    np.testing.assert_allclose(part, getattr(other, name), rtol=0, atol=atol, err_msg=name)


def leans_left(pixels):
  """How much brighter the left half of the face is than the right one."""
  left, right = np.hsplit(pixels[FACE].mean(axis=-1), 2)
  return left.mean() / right.mean()


def test_it_closes_what_it_opened_though_one_of_them_fails(monkeypatch):
  closed = []

  def close(relighter):
    closed.append(relighter.weights)
    raise OSError("its model is gone")

  monkeypatch.setattr(relight_service.Relighter, "close", close)
  with pytest.raises(OSError, match="its model is gone"), RelightService(("default",)) as service:
    assert service._decoders._idle
  assert closed == ["default"]
  assert not service._decoders._idle


# What is asked of it.


@pytest.mark.parametrize(
  ("wish", "message"),
  [
    (lambda: Wish(Direction(0, 91)), "elevation 91: must lie in -90 to 90"),
    (lambda: Wish(Direction(float("nan"), 0)), "azimuth nan: must lie in -360 to 360"),
    (lambda: Wish(Direction(None, 0)), "azimuth None: must lie in -360 to 360"),
    (lambda: Wish(Direction("0", 0)), "azimuth 0: must lie in -360 to 360"),
    (lambda: Wish(Direction(0, 0, 4.5)), "fill 4.5: must lie in 0 to 4"),
    (lambda: Wish(Direction(0, 0, -0.1)), "fill -0.1: must lie in 0 to 4"),
    (lambda: Wish(Direction(0, 0, 0, 61)), "lamp size 61: must lie in 0.5 to 60"),
    (lambda: Wish(Direction(0, 0, 0, 0)), "lamp size 0: must lie in 0.5 to 60"),
    (lambda: Wish(None, exposure=3.5), "exposure 3.5: must lie in -3 to 3"),
    (lambda: Wish(None, background=1.1), "room 1.1: must lie in 0 to 1"),
    (lambda: Wish(None, exposure=float("nan")), "exposure nan: must lie in -3 to 3"),
    (lambda: Wish(None, env_rotate=400), "rotation of the map 400: must lie in -360 to 360"),
    (lambda: Wish(Direction(0, 0), strength=4), "strength 4: must lie in 0 to 3"),
    (lambda: Wish(Direction(0, 0), kelvin=900), "colour temperature 900: must lie in 1700 to 25000"),
  ],
)
def test_a_wish_has_its_limits(wish, message):
  with pytest.raises(BadInput) as refused:
    wish()
  assert str(refused.value) == message


def test_the_named_side_is_lit_on_the_screen_and_in_full(service, photo):
  on_screen = [service.relight_for_screen(photo, wish) for wish in (LEFT, RIGHT)]
  in_full = [service.relight(photo, wish) for wish in (LEFT, RIGHT)]
  assert leans_left(on_screen[0]) > 1.15 > 0.9 > leans_left(on_screen[1])
  for screen, full in zip(on_screen, in_full, strict=True):
    np.testing.assert_array_equal(screen, full.pixels)  # the astronaut is no larger than a screen


def test_a_photo_is_encoded_once_for_any_number_of_lights(service, photo, tmp_path, monkeypatch):
  copy = tmp_path / "copy.png"
  copy.write_bytes(photo.read_bytes())
  encoded = []
  encode = framed_face.encode_luminance
  monkeypatch.setattr(framed_face, "encode_luminance", lambda *args, **rest: encoded.append(1) or encode(*args, **rest))
  with ThreadPoolExecutor(4) as threads:
    wishes = [Wish(Direction(azimuth, 20)) for azimuth in range(-60, 61, 20)]
    together = list(threads.map(lambda wish: service.relight_for_screen(copy, wish), wishes))
  assert len(encoded) == 1
  for wish, pixels in zip(wishes, together, strict=True):
    np.testing.assert_array_equal(service.relight_for_screen(photo, wish), pixels)


def test_a_large_photo_is_small_on_the_screen_and_whole_in_full(service, tmp_path):
  large = np.repeat(np.repeat(astronaut(), 5, axis=0), 5, axis=1)  # 1,500 pixels to a side
  write_photo(tmp_path / "large.jpg", Photo(large))
  assert service.screen_photo(tmp_path / "large.jpg").shape == (1024, 1024, 3)
  on_screen = service.relight_for_screen(tmp_path / "large.jpg", LEFT)
  in_full = service.relight(tmp_path / "large.jpg", LEFT).pixels
  assert (on_screen.shape, in_full.shape) == ((1024, 1024, 3), (1500, 1500, 3))
  assert leans_left(in_full[::5, ::5]) > 1.15
  shrunk = relight_service.pictures.shrink(in_full, 1024)
  assert np.abs(shrunk.astype(float) - on_screen).mean() < 2


def test_one_face_of_two_can_be_chosen(service, group_photo):
  path = group_photo
  assert service.count_faces(path) == 2
  before = service.screen_photo(path).astype(int)
  changed = [
    np.abs(service.relight_for_screen(path, LEFT, face=face) - before).sum(axis=-1) > 6 for face in (1, 2, None)
  ]
  columns = [np.nonzero(each.any(axis=0))[0].mean() for each in changed]
  assert columns[0] < columns[2] < columns[1]
  assert changed[2].sum() > 1.3 * max(changed[0].sum(), changed[1].sum())


def test_lamps_are_those_of_the_command_line(service):
  for name, direction in PRESETS.items():
    assert_lights_equal(service.light(Wish(direction)), parse_light(name))
  assert_lights_equal(service.light(Wish(Direction(30, 20, 0.4, 9))), parse_light("30,20,0.4,9"))


def test_the_temperature_tints_the_lamps(service):
  warm = service.light(Wish(LEFT.direction, kelvin=2800))
  assert_lights_equal(warm, light_lib.tint_lamps(service.light(LEFT), lamp_colour(2800)))
  np.testing.assert_array_equal(warm.soft[0], warm.soft[2])


def test_lights_of_maps_and_portraits_are_those_of_the_command_line(service, photo, tmp_path):
  from dpr_jax.network.weights import load_params
  from tests.portrait.test_lights import write_environment

  panorama = np.full((32, 64, 3), 0.2, np.float32)
  panorama[5:8, 8:11] = 30
  path = write_environment(tmp_path / "map.hdr", panorama)
  of_map = Wish(Direction(0, 0), environment=Path(path))
  light = service.light(of_map)
  assert_lights_equal(light, parse_light(str(path)))
  assert len(light.towards) == 1
  turned = service.light(Wish(Direction(0, 0), environment=Path(path), env_rotate=-50))
  assert_lights_equal(turned, parse_light(str(path), env_rotate=-50))
  assert_lights_equal(service.light(of_map), light)  # what is kept has not been turned
  of_portrait = service.light(Wish(Direction(0, 0), reference=photo))
  assert_lights_equal(of_portrait, parse_light(str(photo), load_params("default")), atol=1e-5)
  assert_lights_equal(of_portrait, service.source_light(photo), atol=1e-5)


def test_the_light_goes_round(service, photo):
  frames = list(service.turn(photo, LEFT, 4))
  assert len(frames) == 4
  assert np.abs(frames[0].astype(int) - service.relight_for_screen(photo, LEFT)).max() <= 1
  assert leans_left(frames[0]) > 1.1 > 0.95 > leans_left(frames[2])  # half way round it comes from the right
  light = light_lib.rotate(service.light(LEFT), sh.roll(-90))  # a quarter of the way, from above or below
  assert np.abs(frames[1].astype(int) - service._encoded(photo, None, None).relight(light)).max() <= 1


def test_a_warm_lamp_makes_skin_warmer(service, photo):
  white = service.relight_for_screen(photo, LEFT)
  warm = service.relight_for_screen(photo, Wish(LEFT.direction, kelvin=2800))
  red_over_blue = [pixels[FACE][..., 0].mean() / pixels[FACE][..., 2].mean() for pixels in (white, warm)]
  assert red_over_blue[1] > 1.15 * red_over_blue[0]


def test_exposure_is_in_stops(service, photo):
  """A stop less halves linear light, where nothing is too bright to be shown."""
  linear = {}
  for stops in (-1, -2):
    pixels = service.relight_for_screen(photo, Wish(LEFT.direction, exposure=stops))
    srgb = pixels[FACE] / 255
    linear[stops] = np.where(srgb <= 0.04045, srgb / 12.92, ((srgb + 0.055) / 1.055) ** 2.4)
  # Of what the light reaches, most of these pixels: where the matte is coarse, wall and neck keep theirs.
  bright = linear[-1] > 0.02
  assert np.median(linear[-2][bright] / linear[-1][bright]) == pytest.approx(0.5, rel=0.02)


def test_what_cannot_be_relit_is_named(service, photo, group_photo, tmp_path, monkeypatch):
  write_photo(tmp_path / "wall.png", Photo(np.full((200, 200, 3), 120, np.uint8)))
  (tmp_path / "notes.png").write_text("no photo")
  refusals = [
    (lambda: service.count_faces(tmp_path / "wall.png"), "wall.png: no face found"),
    (lambda: service.relight(photo, LEFT, face=2), "astronaut.png: has 1 face, there is no face 2"),
    (lambda: service.relight(photo, LEFT, face=0), "astronaut.png: has 1 face, there is no face 0"),
    (lambda: service.relight(photo, LEFT, "other"), "weights 'other': this server has default"),
    (lambda: service.relight(tmp_path / "notes.png", LEFT), f"{tmp_path / 'notes.png'}: not a photo"),
    (lambda: service.relight(tmp_path / "none.png", LEFT), f"{tmp_path / 'none.png'}: cannot be read"),
  ]
  for attempt, message in refusals:
    with pytest.raises(BadInput) as refused:
      attempt()
    assert str(refused.value).startswith(message)
  monkeypatch.setattr(relight_service, "_MOST_FACES", 1)
  with pytest.raises(BadInput, match=r"two_faces.png: has 2 faces; choose one \(at most 1 are relit together\)"):
    service.relight(group_photo, RIGHT)
  small = RelightService(("default",), max_pixels=300 * 300 - 1)
  with small, pytest.raises(BadInput, match="300 x 300 pixels are more than the 89999 allowed"):
    small.relight(photo, LEFT)


def test_a_photo_keeps_what_belongs_to_it(service, tmp_path):
  pixels = astronaut()
  alpha = np.full((300, 300), 200, np.uint8)
  write_photo(tmp_path / "clear.png", Photo(pixels, alpha=alpha))
  relit = service.relight(tmp_path / "clear.png", LEFT)
  np.testing.assert_array_equal(relit.alpha, read_photo(tmp_path / "clear.png").alpha)


# What it remembers.


def test_the_least_recently_used_is_forgotten_first():
  kept, made = _Kept(100), []

  def get(key, size=40):
    return kept.get(key, lambda: made.append(key) or np.zeros(size, np.uint8))

  get("a"), get("b"), get("a"), get("c")  # no room for three: b goes
  get("a"), get("c")
  assert made == ["a", "b", "c"]
  get("b")
  assert made == ["a", "b", "c", "b"]
  assert get("large", 1000).size == 1000  # given, not kept
  assert kept._bytes == 0
  get("a")
  assert made[-1] == "a"


def test_nothing_is_made_twice_at_a_time():
  kept, started, go_on = _Kept(100), threading.Event(), threading.Event()
  made = []

  def make():
    started.set()
    go_on.wait(PATIENCE)
    made.append(1)
    return np.zeros(1)

  with ThreadPoolExecutor(4) as threads:
    first = threads.submit(kept.get, "key", make)
    started.wait(PATIENCE)
    others = [threads.submit(kept.get, "key", make) for _ in range(3)]
    assert kept.get("other", lambda: np.ones(1)) == 1  # which does not wait
    go_on.set()
    values = [first.result(PATIENCE), *(other.result(PATIENCE) for other in others)]
  assert len(made) == 1
  assert all(value is values[0] for value in values)


def test_a_failure_reaches_its_own_caller_alone():
  kept = _Kept(100)
  failing, waiting = threading.Event(), threading.Event()

  def fail():
    failing.set()
    waiting.wait(PATIENCE)
    raise BadInput("bad")

  with ThreadPoolExecutor(2) as threads:
    first = threads.submit(kept.get, "key", fail)
    failing.wait(PATIENCE)
    second = threads.submit(kept.get, "key", lambda: np.ones(1))
    time.sleep(0.05)  # as a rule it waits by then; if it comes later, it makes its own
    waiting.set()
    with pytest.raises(BadInput, match="bad"):
      first.result(PATIENCE)
    assert second.result(PATIENCE) == 1
  assert kept.get("key", lambda: pytest.fail("is at hand")) == 1
