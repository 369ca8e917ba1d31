"""Who is in the photo, and what shape the light sees beyond the face."""

import tracemalloc

import cv2
import numpy as np
import pytest
from skimage import data

from dpr_jax.base.native_libraries import is_installed
from dpr_jax.image.photo import Photo
from dpr_jax.image.photo_writing import write_photo
from dpr_jax.light import sh
from dpr_jax.light.light import tint
from dpr_jax.portrait import backdrops, person, person_shape, portrait
from dpr_jax.portrait.faces import frame_face
from dpr_jax.portrait.lights import parse_light
from dpr_jax.portrait.passes import pass_photos
from dpr_jax.portrait.person import find_person
from dpr_jax.portrait.portrait import PASSES, Portrait
from tests.network.test_hourglass import SMALL_RATIO, random_variables
from tests.portrait.test_portrait import LIGHT_FROM_RIGHT, face_at, levels, stub  # noqa: F401

INSIDE, OUTSIDE = np.array([150.0, 90, 60]), np.array([70.0, 110, 200])
HEIGHT, WIDTH = 300, 260


class Painted:
  """Sees the reddest pixels, roughly: blurred, and a bit too wide, as segmenters do."""

  def people(self, picture):
    red = cv2.resize(picture, (256, 256), interpolation=cv2.INTER_AREA)[..., 0].astype(np.float32)
    rough = cv2.dilate((red > 110).astype(np.float32), np.ones((7, 7)))
    return cv2.GaussianBlur(rough, (0, 0), 4)

  def close(self):
    pass


def figure(*middles, height=HEIGHT, width=WIDTH):
  """Coverage `[h, w]` of heads on shoulders, with a strand of hair half a pixel wide above each."""
  y, x = np.mgrid[:height, :width].astype(np.float32)
  alpha = np.zeros((height, width), np.float32)
  for middle in middles:
    head = np.hypot((x - middle) / 55, (y - 115) / 70)
    shoulders = np.hypot((x - middle) / 95, (y - 300) / 100)
    neck = np.maximum(np.abs(x - middle) - 25, np.abs(y - 190) - 40)
    edge = np.minimum(np.minimum((head - 1) * 60, (shoulders - 1) * 97), neck)
    alpha = np.maximum(alpha, np.clip(0.5 - edge / 2, 0, 1))
    alpha[40:46, int(middle)] = 0.5
  return alpha


def painted(alpha, inside=INSIDE):
  grain = np.random.default_rng(0).normal(0, 2, (*alpha.shape, 1))
  mixed = alpha[..., None] * inside + (1 - alpha[..., None]) * OUTSIDE + grain
  return np.round(np.clip(mixed, 0, 255)).astype(np.uint8)


def found(pixels, face, others=()):
  return find_person(Painted(), pixels, face, frame_face(face, 128), others)


def in_photo(matte, values, shape):
  flags = cv2.INTER_LINEAR | cv2.WARP_INVERSE_MAP
  return cv2.warpAffine(values, matte.matrix, shape[1::-1], flags=flags)


def test_edges_and_strands_are_what_they_cover():
  alpha = figure(130)
  pixels = painted(alpha)
  seen = in_photo(*(lambda matte: (matte, matte.alpha))(found(pixels, face_at(130, 110, 38))), pixels.shape)
  rough = cv2.resize(Painted().people(pixels), (WIDTH, HEIGHT))
  assert np.abs(seen - alpha).mean() < 0.25 * np.abs(rough - alpha).mean()
  assert seen[40:46, 130].mean() == pytest.approx(0.5, abs=0.2)
  assert seen[40:43, 135].max() < 0.1


def test_the_share_of_dark_hair_before_a_bright_wall_is_small():
  """A pixel half covered by what is a tenth as bright gets a tenth of its light from it."""
  alpha = figure(130)
  pixels = painted(alpha, np.array([120.0, 10, 10]))
  matte = found(pixels, face_at(130, 110, 38))
  half = (matte.alpha > 0.4) & (matte.alpha < 0.6)
  linear = [((np.array(colour) / 255 + 0.055) / 1.055) ** 2.4 for colour in ([120, 10, 10], OUTSIDE)]
  own, other = (channels @ [0.2126, 0.7152, 0.0722] for channels in linear)
  assert np.median(matte.share[half]) == pytest.approx(own / (own + other), abs=0.07)
  np.testing.assert_array_equal(matte.share[matte.alpha == 1], 1)
  np.testing.assert_array_equal(matte.share[matte.alpha == 0], 0)


def test_each_face_has_a_person_of_its_own():
  pixels = painted(figure(110, 300, width=420))
  faces = [face_at(110, 110, 38), face_at(300, 110, 38)]
  left, right = (in_photo(m, m.alpha, pixels.shape) for m in (found(pixels, f, [o]) for f, o in (faces, faces[::-1])))
  assert left[115, 110] == right[115, 300] == 1
  assert max(left[:, 230:].max(), right[:, :180].max()) < 1e-3
  both = in_photo(*(lambda matte: (matte, matte.alpha))(found(pixels, faces[0])), pixels.shape)
  assert both[250, 240] == 1  # their shoulders touch: nobody says that these are two


def test_holes_are_filled_but_for_what_the_photo_cuts_off():
  alpha = figure(130)
  y, x = np.mgrid[:HEIGHT, :WIDTH]
  alpha[np.hypot(x - 130, y - 240) < 9] = 0
  alpha[np.hypot(x - 130, y - 300) < 12] = 0
  pixels = painted(alpha)
  matte = found(pixels, face_at(130, 110, 38))
  seen = in_photo(matte, matte.alpha, pixels.shape)
  assert seen[240, 130] == 1
  assert seen[297:, 130].max() < 0.1


def test_where_the_segmenter_sees_nobody_there_is_no_person():
  assert found(painted(np.zeros((HEIGHT, WIDTH))), face_at(130, 110, 38)) is None


def test_without_its_model_no_person_is_looked_for(monkeypatch, capsys):
  def missing(*_):
    raise person.BadInput("selfie_segmentation.tflite cannot be fetched")

  monkeypatch.setattr(person, "asset_at_hand", lambda name: None)
  monkeypatch.setattr(person, "asset_path_within", missing)
  assert person.open_segmenter() is None
  assert capsys.readouterr().err == (
    "people: not looked for, for selfie_segmentation.tflite cannot be fetched. The light ends around the head\n"
  )


def test_published_networks_change_nothing_beside_the_person(stub):  # noqa: F811
  alpha = figure(130)
  pixels = painted(alpha)
  relit = Portrait({}, pixels, [face_at(130, 110, 38)], 128, segmenter=Painted()).relight(LIGHT_FROM_RIGHT)
  beside = cv2.dilate(alpha, np.ones((15, 15))) == 0
  np.testing.assert_array_equal(relit[beside], pixels[beside])
  assert np.abs(levels(relit) - levels(pixels)).max() > 5


@pytest.fixture(scope="module")
def encoded():
  pixels = painted(figure(130))
  return Portrait(random_variables(SMALL_RATIO), pixels, [face_at(130, 110, 38)], 128, segmenter=Painted())


def test_the_whole_person_follows_the_light_and_nothing_else(encoded):
  alpha = figure(130)
  relit = encoded.relight(LIGHT_FROM_RIGHT)
  beside = cv2.dilate(alpha, np.ones((15, 15))) == 0
  np.testing.assert_array_equal(relit[beside], encoded.pixels[beside])
  change = levels(relit).mean(axis=-1) - levels(encoded.pixels).mean(axis=-1)
  assert change[280:, 190:210].mean() > change[280:, 50:70].mean() + 5  # shoulders, beyond the square


def test_a_person_under_its_own_light_stays_as_it_is(encoded):
  relit = encoded.relight(encoded.faces[0].source_light)
  assert np.abs(levels(relit) - levels(encoded.pixels)).max() <= 1


def test_the_outline_is_inflated_and_goes_over_into_what_the_network_sees(encoded):
  face = encoded.faces[0]
  shape = face.person.shape
  np.testing.assert_allclose(np.linalg.norm(shape.normal, axis=-1), 1, atol=1e-5)
  assert shape.normal[..., 1].max() < 0
  row, left, middle, right = (
    int(shape.matrix[axis] @ (*place, 1)) for axis, place in ((1, (0, 285)), (0, (42, 0)), (0, (130, 0)), (0, (218, 0)))
  )
  assert shape.known[row, middle] == 0
  assert shape.normal[row, left, 0] < -0.4
  assert shape.normal[row, right, 0] > 0.4
  assert abs(shape.normal[row, middle, 0]) < 0.1
  relief = shape.depth[row]
  assert relief[middle] > max(relief[left], relief[right]) + 0.02


@pytest.mark.parametrize("gain", [-9.0, 9.0])
def test_what_is_guessed_of_a_shape_changes_within_bounds(encoded, gain):
  person = encoded.faces[0].person
  ratio = portrait._person_log_ratio(person, parse_light("left"), gain) / np.log(2)
  guessed = (person.shape.known == 0) & (person.shape.inside > 0)
  assert guessed.sum() > 1000
  assert -2.05 < ratio[guessed].min() <= ratio[guessed].max() < 1.05
  assert np.abs(ratio[person.shape.known > 0.9]).max() > 3


def test_beyond_the_outline_values_go_on(encoded):
  shape = encoded.faces[0].person.shape
  values = np.where(shape.inside[..., None] > 0, np.float32(0.7), np.float32(-9))
  np.testing.assert_allclose(person_shape.beyond_the_outline(shape, values), 0.7, atol=1e-4)


# The room, and other places.


def test_the_room_takes_its_share_and_is_brighter_on_the_lamps_side(encoded):
  light = parse_light("right")
  alone, half, all_of_it = (levels(encoded.relight(light, background=share)) for share in (0, 0.5, 1))
  pixels = levels(encoded.pixels)
  beside = cv2.dilate(figure(130), np.ones((15, 15))) == 0
  np.testing.assert_array_equal(alone[beside], pixels[beside])
  np.testing.assert_array_equal(half[150, 130], alone[150, 130])
  change, whole = (np.where(beside[..., None], relit - pixels, 0)[:60].mean(axis=(0, 2)) for relit in (half, all_of_it))
  assert change[-20:].mean() > change[:20].mean() + 3
  assert (np.sign(whole[[0, -1]]) == np.sign(change[[0, -1]])).all()
  assert (np.abs(whole[[0, -1]]) > 1.2 * np.abs(change[[0, -1]])).all()
  # Smooth: gray levels of a pixel beside the next, but for the grain.
  smooth = cv2.GaussianBlur((half - pixels)[:40].mean(axis=-1), (0, 0), 4)
  assert np.abs(np.diff(smooth, axis=1)).max() < 1


def test_the_room_comes_and_goes_with_the_faces_of_a_film(encoded):
  """And whose light it follows changes as gradually as their sizes do."""
  light, (face,) = parse_light("right"), encoded.faces

  def room(*faces):
    made = portrait.Portrait.of_framed({}, encoded.pixels, faces)
    return made._room_log_ratio(light, [-1.0, -0.9][: len(faces)])

  def grown(factor):
    return face._replace(framing=face.framing._replace(matrix=face.framing.matrix / factor))

  alone = room(face)
  np.testing.assert_allclose(room(face._replace(presence=0.25)), alone / 4, atol=1e-6)
  assert not room(face._replace(presence=0.0)).any()
  np.testing.assert_allclose(room(face, face._replace(presence=0.0)), alone, atol=1e-5)
  both = [room(face, grown(factor)).mean() for factor in (0.98, 1.0, 1.02)]
  assert both[1] == pytest.approx(alone.mean() + 0.05, abs=1e-3)
  assert max(np.abs(np.diff(both))) < 0.01


def test_a_room_takes_the_colour_of_the_light_also_where_nobody_reaches(encoded):
  """Strips of rows above the head have no person in them."""
  warm = tint(parse_light("left"), np.float32([1.5, 0.95, 0.4]))
  change = encoded.relight(warm, background=1).astype(int) - encoded.pixels
  assert (change[:8, :, 0].mean() - change[:8, :, 2].mean()) > 10


def test_a_backdrop_replaces_what_is_nobodys(encoded):
  backdrop = np.full_like(encoded.pixels, (20, 200, 40))
  relit = encoded.relight(parse_light("right"), backdrop=backdrop)
  alpha = figure(130)
  beside, inside = cv2.dilate(alpha, np.ones((15, 15))) == 0, cv2.erode(alpha, np.ones((9, 9))) == 1
  np.testing.assert_array_equal(relit[beside], backdrop[beside])
  np.testing.assert_allclose(relit[inside], encoded.relight(parse_light("right"))[inside], atol=1)
  # The old wall does not shine through the edge: all there is red or green.
  edge = ~beside & ~inside
  assert relit[edge][:, 2].max() < 100
  with pytest.raises(ValueError, match="a backdrop must be"):
    encoded.relight(parse_light("right"), backdrop=backdrop[1:])


def test_passes_say_what_the_light_sees(encoded):
  passes = encoded.passes(parse_light("right"))
  assert tuple(passes) == PASSES
  inside = cv2.erode(figure(130), np.ones((9, 9))) == 1
  for name, values in passes.items():
    assert values.shape[:2] == encoded.pixels.shape[:2]
    assert values.min() >= 0
    assert values.max() <= 1
    assert np.abs(values[:20]).max() == 0, name
  assert passes["matte"][inside].min() == 1
  np.testing.assert_allclose(np.linalg.norm(2 * passes["normals"][inside] - 1, axis=-1), 1, atol=0.1)
  shoulders = np.s_[285:295]
  assert passes["normals"][shoulders, 205, 0].mean() > 0.6 > 0.4 > passes["normals"][shoulders, 55, 0].mean()
  assert passes["shading"][shoulders, 200].mean() > passes["shading"][shoulders, 60].mean()


def test_passes_are_alike_in_bands_and_16_bits_and_take_little_memory(encoded, monkeypatch):
  whole = encoded.passes(parse_light("right"))
  monkeypatch.setattr(portrait, "_BAND", 64)
  for name, values in encoded.each_pass(parse_light("right"), np.uint16):
    assert (values.dtype, values.shape) == (np.uint16, whole[name].shape)
    np.testing.assert_allclose(values / 65535, whole[name], atol=1e-3)
  photos = dict(pass_photos(encoded, parse_light("right")))
  assert [name for name, photo in photos.items() if not photo.gray] == ["normals"]
  assert photos["depth"].pixels.strides[2] == 0  # three channels in the memory of one
  monkeypatch.setattr(portrait, "_BAND", 16)
  large = Portrait.of_framed({}, np.broadcast_to(np.uint8(0), (2000, 1500, 3)), encoded.faces)
  tracemalloc.start()
  for _, values in large.each_pass(parse_light("right"), np.uint16):
    del values
  peak = tracemalloc.get_traced_memory()[1]
  tracemalloc.stop()
  assert peak < 2000 * 1500 * 8  # of which normals are 6


def test_a_camera_looks_at_the_middle_of_a_map():
  panorama = np.zeros((64, 128, 3), np.float32)
  panorama[28:36, 62:66, 0] = 1
  panorama[28:36, 94:98, 1] = 1  # a quarter to the right
  seen = backdrops.view(panorama, 60, 80)
  assert seen[30, 40, 0] > 0.9
  assert seen[..., 1].max() == 0
  light = environment_light_of(panorama)
  assert light[1] > 0.5  # and what it sees lights the person from behind
  turned = backdrops.view(panorama, 60, 80, 90)
  assert (turned[30, 40] > 0.9).tolist() in ([False, True, False], [False, False, False])
  assert backdrops.view(panorama, 60, 80, 360) == pytest.approx(seen, abs=1e-3)


@pytest.mark.parametrize("suffix", [".hdr", ".exr", ".pic"])
def test_what_is_a_map_as_a_light_is_one_as_a_backdrop(tmp_path, suffix):
  radiance = np.random.default_rng(0).random((16, 32, 3)).astype(np.float32)
  assert cv2.imwrite(str(tmp_path / "map.hdr"), radiance)
  path = (tmp_path / "map.hdr").rename(tmp_path / f"map{suffix.upper()}")  # what is in it says which kind it is
  assert parse_light(str(path)).channels == 3
  assert backdrops.is_environment(str(path))
  assert backdrops.backdrop(str(path), (40, 30, 3), np.uint8).std() > 5


def environment_light_of(panorama):
  """The main direction of a map's red light, `[3]`."""
  numbers = sh.environment(panorama)[0]
  main = np.array([numbers[3], numbers[1], numbers[2]])
  return main / np.linalg.norm(main)


def test_a_picture_covers_the_photo(tmp_path):
  picture = np.zeros((50, 200, 3), np.uint8)
  picture[:, 100:] = 200
  write_photo(tmp_path / "wall.png", Photo(picture))
  seen = backdrops.backdrop(str(tmp_path / "wall.png"), (100, 100, 3), np.uint16)
  assert seen.shape == (100, 100, 3)
  assert seen.dtype == np.uint16
  assert seen[50, 10, 0] == 0
  assert seen[50, 90, 0] == 200 * 257


def test_mediapipes_segmenter_sees_the_astronaut(shared, monkeypatch, capfd):
  if not is_installed("mediapipe"):
    pytest.skip("MediaPipe (extra `mediapipe`) is not installed")
  monkeypatch.setenv("DPR_ASSETS", str(shared("models/selfie_segmentation.tflite").parent))
  segmenter = person.open_segmenter()
  likely = segmenter.people(data.astronaut())
  segmenter.close()
  assert likely.shape == (256, 256)
  assert likely[55, 110] > 0.9  # her face
  assert likely[200, 60] > 0.9  # her suit
  assert likely[20, 220] < 0.1  # the sky
  assert capfd.readouterr().err == ""  # MediaPipe's native code is silent
