"""One object behind every door: the same picture, byte for byte, wherever one asks for it."""

import subprocess
import sys
import time
from concurrent.futures import ThreadPoolExecutor

import numpy as np
import pytest
from skimage import data

from dpr_jax import Relighter, load_params, parse_light
from dpr_jax.base.errors import BadInput
from dpr_jax.cli.relight_command import Options, relight
from dpr_jax.film.moving_portrait import MovingPortrait
from dpr_jax.image.photo import Photo, read_photo
from dpr_jax.image.photo_writing import write_photo
from dpr_jax.portrait import relighter as relighter_module
from dpr_jax.portrait.face_finders import find_faces
from dpr_jax.portrait.lights import PRESETS
from dpr_jax.portrait.portrait import Portrait
from dpr_jax.web.service import RelightService, Wish

ASTRONAUT = np.ascontiguousarray(data.astronaut()[:300, 70:370])
LIGHT = "rembrandt"


@pytest.fixture(scope="module")
def photo(tmp_path_factory):
  path = tmp_path_factory.mktemp("photo") / "astronaut.png"
  write_photo(path, Photo(ASTRONAUT))
  return path


@pytest.fixture(scope="module")
def relighter():
  with Relighter() as relighter:
    yield relighter


@pytest.fixture(scope="module")
def relit(relighter, photo):
  return relighter.relight(photo, LIGHT, exposure=-0.5)


def test_every_door_gives_the_same_picture(relighter, relit, photo, tmp_path):
  relight(Options(lights=(LIGHT,), exposure=-0.5), photo, tmp_path / "command.png")
  with RelightService() as service:
    served = service.relight(photo, Wish(PRESETS[LIGHT], exposure=-0.5)).pixels
  params = load_params("default")
  by_hand = Portrait(params, ASTRONAUT, find_faces(ASTRONAUT), segmenter=relighter.segmenter)
  by_hand = by_hand.relight(parse_light(LIGHT), exposure=-0.5)
  assert np.abs(relit.astype(int) - ASTRONAUT).max() > 50
  for found in (read_photo(tmp_path / "command.png").pixels, served, by_hand):
    np.testing.assert_array_equal(found, relit, strict=True)


def test_the_first_frame_of_a_film_is_the_photo_where_the_light_ends_around_the_head(relighter):
  photo = Portrait(relighter.params, ASTRONAUT, relighter.finder.find(ASTRONAUT), relighter.size)
  relit = relighter.relight(photo, LIGHT, exposure=-0.5)
  film = MovingPortrait(relighter.params, relighter.finder, relighter.size)
  frame = relighter.relight(film.see(ASTRONAUT, 0.0), LIGHT, exposure=-0.5)
  np.testing.assert_array_equal(frame, relit, strict=True)


def test_pixels_a_file_and_what_was_encoded(relighter, relit, photo):
  for source in (ASTRONAUT, str(photo), relighter.encode(photo), relighter.encode(photo, face=1)):
    np.testing.assert_array_equal(relighter.relight(source, LIGHT, exposure=-0.5), relit, strict=True)
  light = relighter.light(LIGHT)
  np.testing.assert_array_equal(relighter.relight(ASTRONAUT, light, exposure=-0.5), relit, strict=True)
  np.testing.assert_array_equal(relighter.relight(ASTRONAUT, LIGHT, strength=0.0), ASTRONAUT, strict=True)


def test_the_light_of_a_photo_is_the_one_that_is_transferred(relighter, photo):
  for found, expected in zip(relighter.source_light(ASTRONAUT), relighter.light(str(photo)), strict=True):
    np.testing.assert_allclose(found, expected, atol=1e-5)


def test_what_cannot_be_relit_is_named(relighter, photo, tmp_path):
  write_photo(tmp_path / "wall.png", Photo(np.full((200, 200, 3), 128, np.uint8)))
  with pytest.raises(BadInput, match=r"wall\.png: no face found"):
    relighter.relight(tmp_path / "wall.png", LIGHT)
  with pytest.raises(BadInput, match=r"astronaut\.png: has 1 face, there is no face 2"):
    relighter.relight(photo, LIGHT, face=2)
  with pytest.raises(BadInput, match="light 'moon'"):
    relighter.relight(photo, "moon")
  with pytest.raises(ValueError, match="numbers that are not finite"):
    relighter.relight(photo, np.full(9, np.nan))


def test_a_closed_one_opens_again(photo):
  relighter = Relighter(face_finder="embedded")
  with relighter:
    finder = relighter.finder
    assert relighter.finder is finder
  assert relighter.finder is not finder
  relighter.close()


def test_threads_that_come_first_together_open_one_finder(monkeypatch):
  opened = []

  def slowly(name):
    time.sleep(0.05)
    opened.append(object())
    return opened[-1]

  monkeypatch.setattr(relighter_module, "open_face_finder", slowly)
  relighter = Relighter()
  with ThreadPoolExecutor(4) as threads:
    found = list(threads.map(lambda _: relighter.finder, range(4)))
  assert len(opened) == 1
  assert found == 4 * opened


def test_one_that_nobody_closes_ends_quietly(photo):
  program = f"from dpr_jax import Relighter; print(Relighter().relight({str(photo)!r}, 'left').shape)"
  done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, check=True)
  assert done.stdout == "(300, 300, 3)\n"
  assert all(line.startswith("face finder: ") for line in done.stderr.splitlines())  # which says why it is taken
