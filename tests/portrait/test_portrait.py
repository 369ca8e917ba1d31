"""Around the network: a ramp with a closed form in its place, networks of random weights, the official one."""

import types

import cv2
import jax.numpy as jnp
import numpy as np
import pytest
from scipy import ndimage
from skimage import color, data

from dpr_jax.image import color as color_lib
from dpr_jax.image.photo import as_type, read_photo, to_8_bits
from dpr_jax.light import exposure, sh
from dpr_jax.light import light as light_lib
from dpr_jax.light.light import Light
from dpr_jax.network.networks import Traits
from dpr_jax.network.weights import load_params
from dpr_jax.portrait import edits, framed_face, matte, portrait, whole_photo
from dpr_jax.portrait.faces import OVAL, Face, Framing, frame_face
from dpr_jax.portrait.framed_face import estimate_portrait_light
from dpr_jax.portrait.lights import parse_light
from dpr_jax.portrait.matte import head_weight
from dpr_jax.portrait.portrait import Portrait
from dpr_jax.portrait.square import cut_square
from dpr_jax.portrait.whole_photo import WholePhoto
from tests.network.test_hourglass import SMALL_512, SMALL_RATIO, random_variables

LEFT_EYE = [33, 7, 163, 144, 145, 153, 154, 155, 133, 173, 157, 158, 159, 160, 161, 246]
RIGHT_EYE = [263, 249, 390, 373, 374, 380, 381, 382, 362, 398, 384, 385, 386, 387, 388, 466]
MOUTH_CORNERS = [61, 291]
NOSE_TIP = 1

LIGHT_FROM_RIGHT = np.array([0.8, 0, 0, 0.3, 0, 0, 0, 0, 0], np.float32)
LIGHT_FROM_TOP = np.array([0.8, 0, 0.3, 0, 0, 0, 0, 0, 0], np.float32)
OBLIQUE = np.array([0.8, -0.2, 0.25, -0.15, 0.1, -0.05, 0.02, 0.07, 0.1], np.float32)
SOURCE_LIGHT = np.array([0.7, -0.4, 0.1, 0.2, -0.1, 0.05, 0.15, -0.2, 0.12], np.float32)


# A network with a closed form.


def ramp(light, size):
  """The log ratio that the stub network answers a light with: brighter towards the light, in its upright square."""
  x = np.linspace(-1, 1, size, dtype=np.float32)
  return 1.5 * (light[3] * x - light[2] * x[:, None])


def stub_encode(params, luminance, *, dtype=None):
  return types.SimpleNamespace(luminance=luminance, light=jnp.asarray(SOURCE_LIGHT)[None])


def stub_log_ratio(params, encoding, luminance, target, *, dtype=None):
  size = luminance.shape[1]
  return jnp.stack([ramp(numbers, size) for numbers in np.asarray(target.soft[0])], axis=-1)[None]


def stub_decode(params, encoding, lights, *, size, dtype=None):
  luminance = np.asarray(encoding.luminance[0, ..., 0])
  change = ramp(np.asarray(lights[0]), len(luminance))
  relit = (luminance + whole_photo._RATIO_OFFSET) * np.exp(change) - whole_photo._RATIO_OFFSET
  return jnp.asarray(relit)[None, ..., None]


def stub_network(monkeypatch, log_ratio=stub_log_ratio):
  for module in (portrait, framed_face):
    monkeypatch.setattr(module, "traits_of", lambda params: Traits("HourglassNet", 512, 16, 9, 4, 27))
  for module in (framed_face, whole_photo):
    monkeypatch.setattr(module, "encode_luminance", stub_encode)
  monkeypatch.setattr(portrait, "log_ratio", log_ratio)
  monkeypatch.setattr(whole_photo, "decode_luminance", stub_decode)


@pytest.fixture
def stub(monkeypatch):
  stub_network(monkeypatch)


@pytest.fixture
def no_exposure(monkeypatch):
  """The ratio is then the network's own, as bright as it comes out."""
  monkeypatch.setattr(portrait, "_key", lambda luminance, skin: 1.0)


@pytest.fixture
def no_segmentation(monkeypatch):
  """The weight is then the smooth map alone."""
  monkeypatch.setattr(matte, "_segment", lambda square, outline, head_region: np.ones(square.shape[:2], np.float32))


def face_at(x, y, eye_distance, roll=0.0):
  """A face by hand, its eyes' middle at (x, y), leaning clockwise by `roll` degrees; its square is 4 eye distances."""
  around = np.linspace(0, 2 * np.pi, 16, endpoint=False)
  landmarks = np.tile([0.0, 0.45], (478, 1))
  for outline, side in ((LEFT_EYE, -0.5), (RIGHT_EYE, 0.5)):
    landmarks[outline] = np.column_stack([side + 0.2 * np.cos(around), 0.08 * np.sin(around)])
  landmarks[MOUTH_CORNERS] = [(-0.4, 1.1), (0.4, 1.1)]
  around = np.linspace(0, 2 * np.pi, len(OVAL), endpoint=False)
  landmarks[OVAL] = np.column_stack([1.05 * np.sin(around), 0.4 - 1.35 * np.cos(around)])
  c, s = np.cos(np.radians(roll)), np.sin(np.radians(roll))
  return Face(eye_distance * landmarks @ np.array([[c, s], [-s, c]]) + (x, y))


def smooth_photo(height, width, dtype=np.uint8):
  y, x = np.mgrid[:height, :width] / np.array([height, width])[:, None, None]
  pixels = np.stack([0.35 + 0.2 * x, 0.4 + 0.2 * y, 0.45 + 0.1 * (x + y)], axis=-1)
  return np.round(pixels * np.iinfo(dtype).max).astype(dtype)


def painted_photo(height, width, *faces, dtype=np.uint8):
  """Heads with some texture before a smooth background."""
  pixels = smooth_photo(height, width).astype(np.float32)
  y, x = np.mgrid[:height, :width]
  for face in faces:
    outline = face.landmarks[OVAL]
    centre = outline.mean(axis=0)
    head = np.zeros((height, width), np.uint8)
    cv2.fillConvexPoly(head, np.round(centre + 1.1 * (outline - centre)).astype(np.int32), 1)
    texture = 12 * np.sin(x / 3.1) * np.sin(y / 2.3)
    shade = 30 * (x - centre[0]) / np.ptp(outline[:, 0])
    pixels[head > 0] = (np.array([190, 150, 130]) + (texture + shade)[..., None])[head > 0]
  return np.round(np.clip(pixels, 0, 255) * (np.iinfo(dtype).max / 255)).astype(dtype)


def noise(height, width, dtype=np.uint8):
  return np.random.default_rng(0).integers(0, np.iinfo(dtype).max, (height, width, 3), dtype, endpoint=True)


def levels(pixels):
  """On the scale of 8 bits."""
  return pixels.astype(np.float64) * (255 / np.iinfo(pixels.dtype).max)


def linear(pixels):
  """Linear RGB in [0, 1], by the standard."""
  srgb = levels(pixels) / 255
  return np.where(srgb <= 0.04045, srgb / 12.92, ((srgb + 0.055) / 1.055) ** 2.4)


def luminance(pixels):
  """Linear Y."""
  return linear(pixels) @ light_lib.LUMINANCE_WEIGHTS.astype(np.float64)


def lightness(pixels):
  """L / 100, by scikit-image."""
  return color.rgb2lab(levels(pixels) / 255)[..., 0] / 100


def log_ratio(after, before):
  """Of linear luminance; of what is nearly black nothing."""
  return np.log((luminance(after) + 1e-4) / (luminance(before) + 1e-4))


def in_square(framing, shape, margin=0.0):
  """Which pixels of a photo the framed square reaches, and up to `margin` of its own pixels more."""
  y, x = np.mgrid[: shape[0], : shape[1]]
  square = np.stack([x, y], axis=-1) @ framing.index_matrix[:, :2].T + framing.index_matrix[:, 2]
  return ((square >= -margin) & (square <= framing.size - 1 + margin)).all(axis=-1)


# What stays.


@pytest.mark.parametrize("dtype", [np.uint8, np.uint16])
@pytest.mark.parametrize("roll", [0, 30])
def test_pixels_outside_every_square_stay_bit_for_bit(stub, no_segmentation, dtype, roll):
  pixels = noise(260, 420, dtype)
  faces = [face_at(120, 110, 30, roll), face_at(300, 140, 35, -roll)]
  encoded = Portrait({}, pixels, faces, 128)
  relit = encoded.relight(LIGHT_FROM_RIGHT)
  assert relit.shape == pixels.shape
  assert relit.dtype == dtype
  reached = [in_square(face.framing, pixels.shape, margin=1) for face in encoded.faces]
  outside = ~np.logical_or(*reached)
  assert 0.2 < outside.mean() < 0.9
  np.testing.assert_array_equal(relit[outside], pixels[outside])
  for inside in reached:
    assert (relit[inside] != pixels[inside]).any(axis=-1).mean() > 0.5


@pytest.mark.parametrize("dtype", [np.uint8, np.uint16])
def test_strength_zero_is_the_photo_bit_for_bit(stub, dtype):
  pixels = noise(200, 220, dtype)
  relit = Portrait({}, pixels, [face_at(110, 90, 35)], 128).relight(OBLIQUE, strength=0)
  np.testing.assert_array_equal(relit, pixels, strict=True)
  assert not np.shares_memory(relit, pixels)


def test_the_photo_itself_is_not_touched(stub):
  pixels = noise(200, 220)
  before = pixels.copy()
  pixels.flags.writeable = False
  encoded = Portrait({}, pixels, [face_at(110, 90, 35)], 128)
  relit = encoded.relight(OBLIQUE)
  np.testing.assert_array_equal(pixels, before)
  np.testing.assert_array_equal(encoded.relight(OBLIQUE), relit)
  assert encoded.pixels is pixels


def test_strength_is_the_exponent_of_the_ratio(stub, no_segmentation, no_exposure):
  pixels = smooth_photo(300, 300, np.uint16)
  encoded = Portrait({}, pixels, [face_at(150, 130, 50)], 128)
  on_face = np.s_[105:175, 120:180]
  full = log_ratio(encoded.relight(LIGHT_FROM_RIGHT), pixels)[on_face]
  for strength in (0.5, 1.5, -1):
    part = log_ratio(encoded.relight(LIGHT_FROM_RIGHT, strength), pixels)[on_face]
    np.testing.assert_allclose(part, strength * full, atol=1e-3)


def test_light_scales_all_channels_alike(stub, no_segmentation):
  """As it does in the world: darker skin is no redder."""
  pixels = smooth_photo(300, 300, np.uint16) // 2
  relit = Portrait({}, pixels, [face_at(150, 130, 50)], 128).relight(LIGHT_FROM_RIGHT)
  factor = linear(relit) / linear(pixels)
  np.testing.assert_allclose(factor, np.repeat(factor[..., 1:2], 3, axis=-1), rtol=1e-3)
  assert np.abs(np.log(factor)).max() > 0.3


def test_each_channel_follows_its_own_light(stub, no_segmentation, no_exposure):
  pixels = smooth_photo(300, 300, np.uint16) // 2
  encoded = Portrait({}, pixels, [face_at(150, 130, 50)], 128)
  soft = np.stack([LIGHT_FROM_RIGHT, -0.5 * LIGHT_FROM_TOP, np.zeros(9, np.float32)])
  relit = encoded.relight(light_lib.soft_light(soft))
  for channel, numbers in enumerate(soft):
    alone = encoded.relight(numbers)
    np.testing.assert_allclose(linear(relit)[..., channel], linear(alone)[..., channel], atol=1e-4)
  np.testing.assert_array_equal(encoded.relight(light_lib.soft_light(soft), 0), pixels)


def oval(face, shape):
  mask = np.zeros(shape[:2], np.uint8)
  return cv2.fillConvexPoly(mask, np.round(face.landmarks[OVAL]).astype(np.int32), 1).astype(np.float32)


def key(pixels, face):
  return float(exposure.key(luminance(pixels), oval(face, pixels.shape)))


@pytest.mark.parametrize("stops", [-1.0, 0.0, 0.7])
@pytest.mark.parametrize("brightness", [0.3, 1.0, 2.0])
def test_the_face_keeps_its_key_or_gets_so_many_stops_brighter(stub, no_segmentation, stops, brightness):
  """Whatever the network says of brightness: the stub's ratio is no even one."""
  face = face_at(150, 130, 45)
  pixels = painted_photo(300, 300, face, dtype=np.uint16) // 3
  relit = Portrait({}, pixels, [face], 128).relight(np.float32(brightness) * OBLIQUE, exposure=stops)
  assert key(relit, face) / key(pixels, face) == pytest.approx(2**stops, rel=0.02)


def test_a_black_photo_stays_black(stub):
  pixels = np.zeros((200, 220, 3), np.uint8)
  relit = Portrait({}, pixels, [face_at(110, 90, 35)], 128).relight(OBLIQUE, exposure=3)
  np.testing.assert_array_equal(relit, pixels)


def test_16_bits_agree_with_8(stub):
  face = face_at(130, 110, 50)
  pixels = painted_photo(260, 260, face)
  shallow = Portrait({}, pixels, [face], 128).relight(OBLIQUE)
  deep = Portrait({}, pixels.astype(np.uint16) * 257, [face], 128).relight(OBLIQUE)
  assert deep.dtype == np.uint16
  assert np.abs(levels(deep) - levels(shallow)).max() <= 1
  assert len(np.unique(deep)) > 1000  # not 8 bits in disguise


def test_linear_light_agrees_with_16_bits_and_is_neither_compressed_nor_cut_off(stub, no_segmentation, no_exposure):
  deep, face = smooth_photo(300, 300, np.uint16) // 2, face_at(150, 130, 50)
  spot, reached = np.s_[128:134, 190:196], []
  deep[spot] = 65535
  for brightness in (1, 40):
    pixels = as_type(deep, np.dtype(np.float32))
    pixels[spot] = brightness
    encoded = Portrait({}, pixels, [face], 128)
    relit = encoded.relight(LIGHT_FROM_RIGHT)
    assert relit.dtype == np.float32
    outside = ~in_square(encoded.faces[0].framing, pixels.shape, margin=1)
    np.testing.assert_array_equal(relit[outside], pixels[outside])
    reached.append(relit[spot] / brightness)
  np.testing.assert_allclose(reached[1], reached[0], rtol=1e-5)
  assert np.abs(np.log(reached[0])).max() > 0.15
  expected = Portrait({}, deep, [face], 128).relight(LIGHT_FROM_RIGHT)
  dim = luminance(expected) < 0.7  # beyond, integers approach white
  assert dim.mean() > 0.5
  difference = as_type(relit, np.dtype(np.uint16))[dim].astype(int) - expected[dim]
  assert np.abs(difference).max() <= 1


# What changes, against the closed form.


@pytest.mark.parametrize(
  "light", [LIGHT_FROM_RIGHT, LIGHT_FROM_TOP, -LIGHT_FROM_RIGHT, LIGHT_FROM_RIGHT + LIGHT_FROM_TOP]
)
@pytest.mark.parametrize("roll", [0, 40, -75])
def test_the_ratio_arrives_where_it_belongs(stub, no_segmentation, no_exposure, light, roll):
  """Light from the right brightens the photo's right, however the head leans."""
  pixels = smooth_photo(400, 400, np.uint16) // 2
  face = face_at(200, 180, 60, roll)
  encoded = Portrait({}, pixels, [face], 128)
  matrix = encoded.faces[0].framing.index_matrix
  seen = log_ratio(encoded.relight(light), pixels)
  centre = np.linalg.solve(matrix[:, :2], [63.5, 63.5] - matrix[:, 2])
  half_side = 63.5 * 240 / 128
  y, x = np.mgrid[:400, :400]
  expected = 1.5 * (light[3] * (x - centre[0]) - light[2] * (y - centre[1])) / half_side
  nose = face.landmarks[NOSE_TIP]
  on_face = np.hypot(x - nose[0], y - nose[1]) < 50
  np.testing.assert_allclose(seen[on_face], expected[on_face], atol=5e-3)
  assert (np.abs(seen) <= np.abs(expected) + 5e-3).all()  # and fades away from the face


@pytest.mark.parametrize("turns", [1, 2, 3])
def test_a_photo_turned_with_its_light_is_the_relit_photo_turned(stub, turns):
  face = face_at(150, 130, 45, 12)
  pixels = painted_photo(280, 320, face)
  turned_pixels, landmarks = pixels, face.landmarks
  for _ in range(turns):  # counterclockwise
    landmarks = np.column_stack([landmarks[:, 1], turned_pixels.shape[1] - landmarks[:, 0]])
    turned_pixels = np.rot90(turned_pixels)
  upright = Portrait({}, pixels, [face], 128)
  turned = Portrait({}, np.ascontiguousarray(turned_pixels), [Face(landmarks)], 128)
  relit = upright.relight(OBLIQUE)
  assert np.abs(levels(relit) - levels(pixels)).max() > 20
  light = np.asarray(sh.rotate(OBLIQUE, sh.roll(90 * turns)))
  difference = np.abs(levels(turned.relight(light)) - np.rot90(levels(relit), turns))
  assert difference.max() <= 2
  assert difference.mean() < 0.01
  expected = light_lib.rotate(upright.faces[0].source_light, sh.roll(90 * turns))
  np.testing.assert_allclose(turned.faces[0].source_light.soft, expected.soft, atol=1e-5)


@pytest.mark.parametrize("roll", [0, 40, -130])
def test_the_source_light_is_told_in_the_photos_frame(stub, roll):
  face = face_at(150, 130, 45, roll)
  encoded = Portrait({}, smooth_photo(300, 300), [face], 64)
  expected = np.asarray(sh.rotate(SOURCE_LIGHT, sh.roll(-roll)))  # a head that leans clockwise: so does its light
  for told in (encoded.faces[0].source_light, estimate_portrait_light({}, encoded.pixels, face, 64)):
    assert isinstance(told, Light)
    assert told.towards.shape == (0, 3)
    np.testing.assert_allclose(told.soft, expected[None], atol=1e-5)


@pytest.mark.parametrize("dtype", [np.uint8, np.uint16])
def test_every_level_comes_back_from_linear_light(dtype):
  linear_of, multiply, encoded = edits._arithmetic(np.dtype(dtype))
  levels = np.arange(np.iinfo(dtype).max + 1, dtype=dtype)
  levels = np.column_stack([levels, levels, levels])
  unchanged = multiply(linear_of(levels), np.zeros((len(levels), 1), np.float32))
  np.testing.assert_array_equal(encoded(unchanged), levels)
  fine = np.linspace(0, 1, 100_000, dtype=np.float32)
  exact = color_lib.delinearise(fine) * np.iinfo(dtype).max
  assert np.abs(encoded(fine) - exact).max() < 0.53


@pytest.mark.parametrize("rows", [1, 64, 100000])
def test_strips_do_not_show(stub, monkeypatch, rows):
  faces = [face_at(140, 130, 40, 10), face_at(330, 260, 45)]
  pixels = painted_photo(400, 460, *faces)
  encoded = Portrait({}, pixels, faces, 128)
  expected = encoded.relight(OBLIQUE)
  monkeypatch.setattr(edits, "_STRIP_ROWS", rows)
  difference = np.abs(levels(encoded.relight(OBLIQUE)) - levels(expected))
  assert difference.max() <= 1
  assert difference.mean() < 1e-3


def test_detail_that_the_square_cannot_hold_stays(stub, no_segmentation, no_exposure):
  """The square is 8 times coarser than the photo; the texture has a period of 3 pixels."""
  base = smooth_photo(1024, 1024, np.uint16)
  y, x = np.mgrid[:1024, :1024]
  pixels = base + np.round(3000 * np.sin(2 * np.pi * x / 3) * np.sin(2 * np.pi * y / 3)).astype(np.int64)[..., None]
  pixels = pixels.astype(np.uint16)
  middle = np.s_[400:700, 330:700]

  def detail(photo):
    bright = luminance(photo[middle])
    return bright - ndimage.uniform_filter(bright, 9)

  def kept(relit):
    """The energy of the detail over what it would be if the ratio of the coarse picture multiplied it."""
    gain = np.exp(ndimage.uniform_filter(log_ratio(relit[middle], pixels[middle]), 9))
    assert np.ptp(gain) > 0.2
    return np.sum(detail(relit) ** 2) / np.sum((gain * detail(pixels)) ** 2)

  assert kept(Portrait({}, pixels, [face_at(512, 490, 256)], 128).relight(LIGHT_FROM_RIGHT)) == pytest.approx(
    1, abs=0.02
  )
  assert kept(WholePhoto({}, pixels, 128).relight(LIGHT_FROM_RIGHT).astype(np.uint16) * 257) < 0.05


# Several faces, and the photo's border.


def largest_jump(field):
  return max(np.abs(np.diff(field, axis=axis)).max() for axis in (0, 1))


def weight_in_photo(face, shape):
  y, x = np.mgrid[: shape[0], : shape[1]]
  columns, rows = (
    np.tensordot(face.framing.index_matrix[:, :2], np.stack([x, y]), 1) + face.framing.index_matrix[:, 2, None, None]
  )
  return ndimage.map_coordinates(face.weight, [rows, columns], order=1)


def test_the_order_of_faces_is_irrelevant(stub):
  faces = [face_at(140, 130, 45, 10), face_at(260, 150, 50)]  # their squares overlap
  pixels = painted_photo(300, 400, *faces)
  encoded, reversed_ = Portrait({}, pixels, faces, 128), Portrait({}, pixels, faces[::-1], 128)
  np.testing.assert_array_equal(encoded.relight(OBLIQUE), reversed_.relight(OBLIQUE))
  for face, other in zip(encoded.faces, reversed(reversed_.faces), strict=True):
    np.testing.assert_array_equal(face.framing.matrix, other.framing.matrix)


def test_faces_far_apart_are_relit_as_if_alone(stub):
  faces = [face_at(130, 130, 45, 10), face_at(420, 170, 50)]
  pixels = painted_photo(300, 560, *faces)
  together = Portrait({}, pixels, faces, 128).relight(OBLIQUE)
  for face, part in zip(faces, (np.s_[:, :280], np.s_[:, 280:]), strict=True):
    alone = Portrait({}, pixels, [face], 128).relight(OBLIQUE)
    assert (alone[part] != pixels[part]).mean() > 0.1
    difference = np.abs(levels(together[part]) - levels(alone[part]))
    assert difference.max() <= 1
    assert difference.mean() < 1e-3


def test_overlapping_squares_leave_no_seam(stub, no_segmentation, no_exposure):
  """Cheek to cheek, where one face's square is at its brightest and the other's at its darkest."""
  pixels = smooth_photo(360, 460, np.uint16)
  faces = [face_at(180, 160, 60), face_at(270, 190, 65, 15)]
  encoded = Portrait({}, pixels, faces, 128)
  together = log_ratio(encoded.relight(LIGHT_FROM_RIGHT), pixels)
  alone = [log_ratio(Portrait({}, pixels, [face], 128).relight(LIGHT_FROM_RIGHT), pixels) for face in faces]
  weights = sum(weight_in_photo(face, pixels.shape) for face in encoded.faces)
  assert np.ptp((alone[0] - alone[1])[weights > 1.5]) > 0.1  # they disagree
  # Shares of light add up, not logarithms; for changes as small as these it is nearly the same.
  np.testing.assert_allclose(together, (alone[0] + alone[1]) / np.maximum(weights, 1), atol=0.03)
  assert largest_jump(together) < 1.5 * max(largest_jump(field) for field in alone) < 0.03


@pytest.mark.parametrize("side", ["left", "right", "top", "bottom"])
@pytest.mark.parametrize("cut", [90, 150], ids=["near", "beyond"])
def test_a_face_at_the_border_is_relit_up_to_it(stub, no_segmentation, no_exposure, side, cut):
  """Nothing fades out where the photo ends instead of the square, and nothing jumps."""
  whole = smooth_photo(400, 400, np.uint16)
  face = face_at(200, 190, 60)
  part = {"left": np.s_[:, cut:], "right": np.s_[:, : 400 - cut], "top": np.s_[cut:], "bottom": np.s_[: 400 - cut]}[
    side
  ]
  border_line = {"left": np.s_[:, 0], "right": np.s_[:, -1], "top": np.s_[0], "bottom": np.s_[-1]}[side]
  offset = {"left": (cut, 0), "top": (0, cut)}.get(side, (0, 0))
  light = LIGHT_FROM_RIGHT - 0.5 * LIGHT_FROM_TOP
  pixels = np.ascontiguousarray(whole[part])
  seen = log_ratio(Portrait({}, pixels, [Face(face.landmarks - offset)], 128).relight(light), pixels)
  uncut = log_ratio(Portrait({}, whole, [face], 128).relight(light), whole)[part]
  assert (np.abs(seen) >= np.abs(uncut) - 0.005).all()
  assert largest_jump(seen) < 0.03
  # Well inside the square, whose side is 240, the photo's end changes nothing.
  dy, dx = (grid[part] for grid in np.mgrid[:400, :400] - np.array([196.6, 200])[:, None, None])
  middle = np.maximum(abs(dx), abs(dy)) < 60
  np.testing.assert_allclose(seen[middle], uncut[middle], atol=0.005)
  # The ramp rises from the middle of the square, where the rule puts the centre.
  expected = 1.5 * (light[3] * (dx + 0.5) - light[2] * (dy + 0.5)) / (63.5 * 240 / 128)
  beside_face = (np.minimum(abs(dx), abs(dy)) < 40)[border_line]
  share = seen[border_line][beside_face] / expected[border_line][beside_face]
  assert share.min() > (0.93 if cut == 150 else 0.75)
  assert share.max() < 1.03


def test_a_photo_within_the_square_is_relit_all_over(stub, no_segmentation):
  pixels = smooth_photo(100, 80, np.uint16)
  encoded = Portrait({}, pixels, [face_at(40, 40, 60)], 128)
  np.testing.assert_array_equal(encoded.faces[0].weight, 1)
  seen = log_ratio(encoded.relight(LIGHT_FROM_RIGHT), pixels)
  slope = 1.5 * 0.3 / (63.5 * 240 / 128)
  np.testing.assert_allclose(np.diff(seen, axis=1), slope, atol=2e-3)


@pytest.mark.parametrize("shape", [(1, 1), (2, 3), (5, 300), (300, 5)])
def test_tiny_photos_are_relit(stub, shape):
  pixels = noise(*shape)
  relit = Portrait({}, pixels, [face_at(shape[1] / 2, shape[0] / 2, 60)], 64).relight(OBLIQUE)
  assert relit.shape == pixels.shape


@pytest.mark.parametrize(
  ("pixels", "faces", "what"),
  [
    (np.zeros((8, 8), np.uint8), [face_at(4, 4, 2)], "pixels must be"),
    (np.zeros((8, 8, 4), np.uint8), [face_at(4, 4, 2)], "pixels must be"),
    (np.zeros((8, 8, 1), np.uint8), [face_at(4, 4, 2)], "pixels must be"),
    (np.zeros((1, 8, 8, 3), np.uint8), [face_at(4, 4, 2)], "pixels must be"),
    (np.zeros((8, 8, 3), np.float64), [face_at(4, 4, 2)], "pixels must be"),
    (np.zeros((8, 8, 3), np.int16), [face_at(4, 4, 2)], "pixels must be"),
    (np.zeros((8, 8, 3), np.uint8), [], "at least one face"),
  ],
)
def test_what_is_no_portrait_is_refused(pixels, faces, what):
  with pytest.raises(ValueError, match=what):
    Portrait({}, pixels, faces)


# Cutting the square.


def framing_at(scale, degrees, centre, size):
  """A square of `size` pixels, each `scale` photo pixels wide, around `centre`, turned clockwise."""
  c, s = np.cos(np.radians(degrees)), np.sin(np.radians(degrees))
  linear = np.array([[c, s], [-s, c]]) / scale
  return Framing(np.column_stack([linear, (size - 1) / 2 - linear @ centre]), degrees, size)


def seen_in(framing, offset=(0, 0)):
  """Photo coordinates x, y of the square's pixels, moved by `offset` square pixels."""
  q = np.stack(np.meshgrid(np.arange(framing.size), np.arange(framing.size)), axis=-1) + offset
  return np.moveaxis((q - framing.index_matrix[:, 2]) @ np.linalg.inv(framing.index_matrix[:, :2]).T, -1, 0)


def area_mean(channel, framing, samples=8):
  """What the square's pixels cover of the photo, averaged over many samples."""
  steps = (np.arange(samples) + 0.5) / samples - 0.5
  total = 0
  for offset in np.stack(np.meshgrid(steps, steps), axis=-1).reshape(-1, 2):
    x, y = seen_in(framing, offset)
    total = total + ndimage.map_coordinates(channel.astype(float), [y, x], order=1, mode="mirror")
  return total / samples**2


def test_a_square_at_scale_one_is_a_crop():
  pixels = noise(80, 100)
  framing = Framing(np.array([[1.0, 0, -20], [0, 1, -10]]), 0.0, 64)
  np.testing.assert_array_equal(cut_square(pixels, framing), pixels[10:74, 20:84])


def test_beyond_the_photo_the_photo_is_mirrored():
  pixels = noise(40, 50)
  framing = Framing(np.array([[1.0, 0, 15], [0, 1, 12]]), 0.0, 80)
  padded = np.pad(pixels, ((12, 28), (15, 15), (0, 0)), mode="reflect")
  np.testing.assert_array_equal(cut_square(pixels, framing), padded)


@pytest.mark.parametrize("scale", [0.3, 0.7, 1])
@pytest.mark.parametrize("degrees", [0, 25, -110])
def test_an_enlarged_square_is_interpolated(scale, degrees):
  pixels = noise(120, 120)
  framing = framing_at(scale, degrees, (60.3, 58.8), 64)
  x, y = seen_in(framing)
  for channel, seen in zip(np.moveaxis(pixels, -1, 0), np.moveaxis(cut_square(pixels, framing), -1, 0), strict=True):
    expected = ndimage.map_coordinates(channel.astype(float), [y, x], order=1)
    np.testing.assert_allclose(seen, expected, atol=1.5)


@pytest.mark.parametrize("scale", [1.3, 1.9, 2.01, 3.7, 8.4, 15])
@pytest.mark.parametrize("degrees", [0, 25])
def test_a_shrunk_square_is_averaged(scale, degrees):
  """Fine grain and all; a warp alone would be off by as much as the grain is strong."""
  side = round(64 * scale * 1.5) + 8
  grain = ndimage.gaussian_filter(np.random.default_rng(0).standard_normal((side, side, 3)), (0.6, 0.6, 0))
  pixels = np.clip(127 + 90 * grain, 0, 255).astype(np.uint8)
  framing = framing_at(scale, degrees, (side / 2 - 0.3, side / 2 + 0.4), 64)
  expected = area_mean(pixels[..., 1], framing)
  error = cut_square(pixels, framing)[..., 1] - expected
  assert np.sqrt(np.mean(error**2)) < 5
  assert abs(error.mean()) < 0.5


@pytest.mark.parametrize("scale", [1.5, 1.9, 1.99, 2, 2.5, 3, 4.6, 7.8, 12])
@pytest.mark.parametrize("degrees", [0, 20])
def test_a_checkerboard_becomes_gray(scale, degrees):
  y, x = np.mgrid[:1200, :1200]
  pixels = np.repeat((255 * ((x + y) % 2)).astype(np.uint8)[..., None], 3, axis=2)
  square = cut_square(pixels, framing_at(scale, degrees, (600.3, 600.6), 64)).astype(float)
  assert square.mean() == pytest.approx(127.5, abs=1.5)
  assert square.std() < 12  # of 127; a warp alone leaves 43


@pytest.mark.parametrize("scale", [0.5, 1, 1.7, 2, 3.1, 5, 9.6])
@pytest.mark.parametrize("degrees", [0, 33])
def test_shrinking_moves_nothing(scale, degrees):
  """The centre of a disc stays where the framing puts it, to a twentieth of a pixel of the square."""
  y, x = np.mgrid[:1000, :1000]
  framing = framing_at(scale, degrees, (500.2, 499.6), 64)
  position = np.array([500 + 12 * scale, 500 - 7 * scale])
  disc = np.clip(8 * scale - np.hypot(x - position[0], y - position[1]) + 0.5, 0, 1)
  pixels = np.repeat(np.round(255 * disc).astype(np.uint8)[..., None], 3, axis=2)
  square = cut_square(pixels, framing)[..., 0].astype(float)
  rows, columns = np.mgrid[:64, :64]
  seen = np.array([(square * columns).sum(), (square * rows).sum()]) / square.sum()
  np.testing.assert_allclose(seen, framing.index_matrix[:, :2] @ position + framing.index_matrix[:, 2], atol=0.05)


def test_16_bits_are_rounded_to_8():
  every = np.arange(65536, dtype=np.uint16)
  np.testing.assert_array_equal(to_8_bits(every), np.round(every / 257).astype(np.uint8), strict=True)
  shallow = np.arange(256, dtype=np.uint8)
  np.testing.assert_array_equal(to_8_bits(shallow), shallow, strict=True)


@pytest.mark.parametrize("scale", [0.7, 1, 1.6, 3.3])
def test_a_16_bit_square_is_the_same(scale):
  pixels = noise(300, 300)
  framing = framing_at(scale, 10, (150, 150), 64)
  deep = cut_square(pixels.astype(np.uint16) * 257, framing)
  assert deep.dtype == np.uint8
  assert np.abs(levels(deep) - levels(cut_square(pixels, framing))).max() <= 1


# Where the new light belongs.


def seen_face(pixels, face, size):
  framing = frame_face(face, size)
  return cut_square(pixels, framing), face.landmarks @ framing.matrix[:, :2].T + framing.matrix[:, 2] - 0.5


def border(size):
  edge = np.ones((size, size), bool)
  edge[1:-1, 1:-1] = False
  return edge


def oval_mask(landmarks, size, scale=1.0):
  outline = landmarks[OVAL]
  centre = outline.mean(axis=0)
  mask = np.zeros((size, size), np.uint8)
  return cv2.fillConvexPoly(mask, np.round(centre + scale * (outline - centre)).astype(np.int32), 1) > 0


@pytest.mark.parametrize("size", [16, 128, 512])
def test_the_head_is_weighed_fully_and_the_border_not_at_all(size):
  face = face_at(150, 140, 50)
  square, landmarks = seen_face(painted_photo(300, 300, face), face, size)
  weight = head_weight(square, landmarks, border(size))
  assert weight.shape == (size, size)
  assert weight.dtype == np.float32
  assert weight.min() >= 0
  assert weight.max() <= 1
  x, y = np.round(landmarks[NOSE_TIP]).astype(int)
  assert weight[y, x] > 0.99
  assert (weight[border(size)] == 0).all()


def test_the_weight_ends_where_the_head_ends():
  face = face_at(150, 140, 50)
  square, landmarks = seen_face(painted_photo(300, 300, face), face, 256)
  weight = head_weight(square, landmarks, border(256))
  assert weight[oval_mask(landmarks, 256, 0.9)].min() > 0.9
  # The head is painted 1.1 times the oval. What lies beside it is background; below it might be the neck.
  beside = oval_mask(landmarks, 256, 1.3) & ~oval_mask(landmarks, 256, 1.16)
  beside[150:] = False
  assert weight[beside].max() < 0.05


def test_the_weight_fades_from_the_head_to_the_border(no_segmentation):
  """Along the row through the middle of the head, towards a border inside the photo on the left."""
  _, landmarks = seen_face(np.zeros((300, 300, 3), np.uint8), face_at(150, 140, 50), 512)
  edge = np.zeros((512, 512), bool)
  edge[:, 0] = True
  x, y = landmarks[OVAL].mean(axis=0)
  head_begins = x - 1.3 * 1.05 * 128  # the oval's half width, 1.05 eye distances of a quarter of the side, enlarged
  weight = head_weight(np.zeros((512, 512, 3), np.uint8), landmarks, edge)[round(y - 0.06 * 512)]

  def smooth_step(share):
    share = np.clip(share, 0, 1)
    return share**2 * (3 - 2 * share)

  from_edge = np.arange(512)
  from_head = np.maximum(head_begins - from_edge, 0)
  expected = smooth_step(from_edge / (from_edge + from_head)) * smooth_step(from_edge / (0.15 * 512))
  np.testing.assert_allclose(weight[: int(x)], expected[: int(x)], atol=0.03)


@pytest.mark.parametrize("inside", ["left", "top", "right", "bottom"])
def test_only_borders_inside_the_photo_fade_out(no_segmentation, inside):
  size = 128
  _, landmarks = seen_face(np.zeros((300, 300, 3), np.uint8), face_at(150, 140, 50), size)
  edge = np.zeros((size, size), bool)
  where = {"left": np.s_[:, 0], "top": np.s_[0], "right": np.s_[:, -1], "bottom": np.s_[-1]}
  edge[where[inside]] = True
  weight = head_weight(np.zeros((size, size, 3), np.uint8), landmarks, edge)
  opposite = {"left": "right", "top": "bottom", "right": "left", "bottom": "top"}[inside]
  assert (weight[where[inside]] == 0).all()
  assert weight[where[opposite]].max() > 0.4
  assert largest_jump(weight) < 0.12


@pytest.mark.parametrize(
  "square", [np.zeros((96, 96, 3), np.uint8), np.full((96, 96, 3), 255, np.uint8), noise(96, 96)]
)
@pytest.mark.parametrize("edge", [border(96), np.zeros((96, 96), bool)], ids=["inside", "none inside"])
def test_any_picture_has_a_weight(square, edge):
  _, landmarks = seen_face(np.zeros((300, 300, 3), np.uint8), face_at(150, 140, 50), 96)
  weight = head_weight(square, landmarks, edge)
  assert np.isfinite(weight).all()
  assert weight.min() >= 0
  assert weight.max() <= 1
  x, y = np.round(landmarks[NOSE_TIP]).astype(int)
  assert weight[y, x] > 0.9


def test_the_weight_is_the_same_every_time():
  face = face_at(150, 140, 50)
  square, landmarks = seen_face(painted_photo(300, 300, face), face, 128)
  first = head_weight(square, landmarks, border(128))
  cv2.setRNGSeed(12345)
  cv2.randu(np.zeros((10, 10), np.uint8), 0, 255)
  np.testing.assert_array_equal(head_weight(square, landmarks, border(128)), first)


# Networks of random weights: what is promised holds for any.


@pytest.fixture(scope="module", params=[SMALL_RATIO, SMALL_512], ids=["ratio", "512"])
def any_params(request, quick_compilation):
  """Variables of our network and of the published one."""
  return random_variables(request.param)


LAMP = light_lib.key_and_fill(sh.direction(50, 20), 0.25, 15)
WARM = light_lib.tint_lamps(LAMP, np.float32([1.6, 0.9, 0.3]))
LIGHTS = {"lamp": LAMP, "coloured lamp": WARM, "nine numbers": light_lib.soft_light(OBLIQUE)}


def dim_photo(*faces, shape=(200, 220)):
  """Nothing in it comes near to what would be compressed."""
  return painted_photo(*shape, *faces, dtype=np.uint16) // 3


@pytest.mark.parametrize("name", LIGHTS)
def test_every_face_keeps_its_key_under_any_light(any_params, no_segmentation, name):
  face = face_at(110, 90, 32)
  pixels = dim_photo(face)
  relit = Portrait(any_params, pixels, [face], 128).relight(LIGHTS[name])
  assert np.abs(log_ratio(relit, pixels))[oval(face, pixels.shape) > 0].mean() > 0.01
  assert key(relit, face) / key(pixels, face) == pytest.approx(1, abs=0.1)


def test_a_stop_more_is_twice_the_light(any_params, no_segmentation):
  face = face_at(110, 90, 32)
  pixels = dim_photo(face)
  encoded = Portrait(any_params, pixels, [face], 128)
  one, two = (encoded.relight(WARM, exposure=stops) for stops in (-1.0, 0.0))
  weight = weight_in_photo(encoded.faces[0], pixels.shape)
  fair = (weight > 0.999) & (luminance(two) < 0.7) & (linear(two).max(axis=-1) < 0.98) & (linear(one).min(-1) > 2e-3)
  assert fair.mean() > 0.1
  np.testing.assert_allclose(linear(two)[fair], 2 * linear(one)[fair], rtol=0.02)


def mirror_of(pixels, face):
  """A photo and its face in the mirror; what was left of the face is right of it now."""
  landmarks = face.landmarks * (-1, 1) + (pixels.shape[1], 0)
  for one, other in ((LEFT_EYE, RIGHT_EYE), (MOUTH_CORNERS, MOUTH_CORNERS[::-1])):
    landmarks[one], landmarks[other] = landmarks[other].copy(), landmarks[one].copy()
  return np.ascontiguousarray(pixels[:, ::-1]), Face(landmarks)


@pytest.mark.parametrize("roll", [0, 25])
def test_a_mirrored_photo_under_the_mirrored_light_is_the_mirror_image(quick_compilation, no_segmentation, roll):
  """Of our network, whatever its weights.

  Upright, the square is cut alike from both; leaning, OpenCV cuts it to 1/32 of a pixel, of which random weights make
  much in places.
  """
  params, face = random_variables(SMALL_RATIO), face_at(110, 100, 32, roll)
  pixels = painted_photo(210, 220, face)
  other, mirrored = mirror_of(pixels, face)
  relit = Portrait(params, pixels, [face], 128).relight(LAMP)
  towards_right = LAMP._replace(soft=LAMP.soft * sh.MIRROR, towards=LAMP.towards * np.float32([-1, 1, 1]))
  found = Portrait(params, other, [mirrored], 128).relight(towards_right)
  difference = np.abs(levels(found[:, ::-1]) - levels(relit))
  assert np.abs(levels(relit) - levels(pixels)).max() > 20
  if roll == 0:
    assert difference.max() <= 1
  assert difference.mean() < (0.02 if roll == 0 else 1)


@pytest.mark.parametrize("roll", [0, 25])
def test_under_its_own_light_a_photo_stays_as_it_is(quick_compilation, no_segmentation, roll):
  """As our network estimates it; nothing is subtracted for it."""
  face = face_at(110, 100, 32, roll)
  pixels = painted_photo(210, 220, face)
  encoded = Portrait(random_variables(SMALL_RATIO), pixels, [face], 128)
  own = encoded.faces[0].source_light
  assert own.towards.shape == (1, 3)
  kept = np.abs(levels(encoded.relight(own)) - levels(pixels))
  assert np.percentile(kept, 99.9) <= 1
  assert kept.mean() < 0.1


def test_any_number_of_lamps(quick_compilation, no_segmentation):
  """Lamps that are off change nothing, and four are as good as one."""
  face = face_at(110, 90, 32)
  pixels = dim_photo(face)
  encoded = Portrait(random_variables(SMALL_RATIO), pixels, [face], 128)
  expected = encoded.relight(LAMP)
  for count in (2, 4):
    np.testing.assert_allclose(levels(encoded.relight(light_lib.with_lamps(LAMP, count))), levels(expected), atol=0.1)
  halves = Light(LAMP.soft, *(np.repeat(part, 2, axis=0) for part in LAMP[1:]))._replace(
    irradiance=np.repeat(LAMP.irradiance / 2, 2, axis=0)
  )
  np.testing.assert_allclose(levels(encoded.relight(halves)), levels(expected), atol=0.1)


def test_of_two_faces_each_keeps_its_own_key(any_params, no_segmentation):
  """One of them in the dark."""
  faces = [face_at(90, 100, 26), face_at(280, 100, 26)]
  pixels = dim_photo(*faces, shape=(200, 370))
  pixels[:, 185:] //= 4
  relit = Portrait(any_params, pixels, faces, 128).relight(LAMP)
  assert key(pixels, faces[0]) > 4 * key(pixels, faces[1])
  for face in faces:
    assert key(relit, face) / key(pixels, face) == pytest.approx(1, abs=0.12)


@pytest.mark.parametrize("dtype", [np.uint8, np.uint16])
def test_strength_zero_is_the_photo_whatever_the_network(any_params, dtype):
  face = face_at(110, 90, 32)
  pixels = painted_photo(200, 220, face, dtype=dtype)
  encoded = Portrait(any_params, pixels, [face], 128)
  np.testing.assert_array_equal(encoded.relight(WARM, strength=0, exposure=1.0), pixels, strict=True)
  relit = encoded.relight(WARM)
  assert relit.dtype == dtype
  assert (relit != pixels).mean() > 0.1


# The official networks.


@pytest.fixture(scope="module")
def params(shared):
  return load_params(shared("reference/dpr/trained_model_03.t7"))


@pytest.fixture(scope="module")
def params_1024(shared):
  return load_params(shared("reference/dpr/trained_model_1024_03.t7"))


@pytest.fixture(scope="module")
def encoded_obama(params, finder, obama):
  return Portrait(params, obama, finder.find(obama))


@pytest.fixture(scope="module")
def astronaut(finder):
  return finder.find(data.astronaut())[0]


@pytest.fixture(scope="module")
def encoded_astronaut(params, astronaut):
  return Portrait(params, data.astronaut(), [astronaut])


def halves(face, relit, pixels):
  """Mean log ratio on the left, right, lower and upper half of the face, in the photo's frame."""
  mask = np.zeros(pixels.shape[:2], np.uint8)
  outline = face.landmarks[OVAL]
  y, x = np.nonzero(cv2.fillConvexPoly(mask, np.round(outline).astype(np.int32), 1))
  box = np.s_[y.min() : y.max() + 1, x.min() : x.max() + 1]
  ratio = log_ratio(relit[box], pixels[box])[y - y.min(), x - x.min()]
  centre = outline.mean(axis=0)
  return [ratio[half].mean() for half in (x < centre[0], x > centre[0], y > centre[1], y < centre[1])]


def assert_lit_from(side, face, relit, pixels, margin):
  left, right, below, above = halves(face, relit, pixels)
  more = {"left": left - right, "right": right - left, "top": above - below, "bottom": below - above}[side]
  assert more > margin


@pytest.mark.parametrize(("side", "margin"), [("left", 0.4), ("right", 0.4), ("top", 0.05), ("bottom", 0.1)])
def test_the_named_side_of_a_face_is_lit(finder, obama, encoded_obama, side, margin):
  [face] = finder.find(obama)
  assert_lit_from(side, face, encoded_obama.relight(parse_light(side)), obama, margin)


def test_every_face_of_a_photo_is_lit(shared, params, finder):
  pixels = read_photo(shared("photos/two_faces.jpg")).pixels
  faces = finder.find(pixels)
  encoded = Portrait(params, pixels, faces)
  for side in ("left", "right"):
    relit = encoded.relight(parse_light(side))
    for face in faces:
      assert_lit_from(side, face, relit, pixels, 0.3)
    outside = ~np.logical_or(*(in_square(face.framing, pixels.shape, margin=1) for face in encoded.faces))
    assert outside.mean() > 0.2
    np.testing.assert_array_equal(relit[outside], pixels[outside])


@pytest.fixture(scope="module")
def leaning(params, astronaut):
  """The astronaut turned by 40 degrees clockwise about her face, and the matrix that did it."""
  centre = astronaut.landmarks[OVAL].mean(axis=0)
  matrix = cv2.getRotationMatrix2D(centre.tolist(), -40, 1)
  matrix[:, 2] += 256 - centre
  pixels = cv2.warpAffine(
    data.astronaut(), matrix, (512, 512), flags=cv2.INTER_CUBIC, borderMode=cv2.BORDER_REFLECT_101
  )
  face = Face(astronaut.landmarks @ matrix[:, :2].T + matrix[:, 2])
  return Portrait(params, pixels, [face]), face, matrix


@pytest.mark.parametrize("side", ["left", "right"])
def test_left_is_the_photos_left_for_a_leaning_head(leaning, side):
  encoded, face, _ = leaning
  assert encoded.faces[0].framing.roll == pytest.approx(42.6, abs=1)
  assert_lit_from(side, face, encoded.relight(parse_light(side)), encoded.pixels, 0.2)


def test_the_source_light_of_a_leaning_head_leans(leaning, encoded_astronaut):
  light = leaning[0].faces[0].source_light.soft[0]
  upright = encoded_astronaut.faces[0].source_light.soft[0]
  assert np.abs(light - upright).max() > 0.1
  np.testing.assert_allclose(sh.rotate(light, sh.roll(40)), upright, atol=0.03)


def test_a_leaning_head_under_a_leaning_light_is_the_relit_photo_turned(leaning, encoded_astronaut):
  encoded, _, matrix = leaning
  light = parse_light("left-top")
  relit = encoded.relight(light_lib.rotate(light, sh.roll(-40)))
  turned = cv2.warpAffine(encoded_astronaut.relight(light), matrix, (512, 512), flags=cv2.INTER_CUBIC)
  inside = in_square(encoded.faces[0].framing, relit.shape)
  difference = np.abs(levels(relit) - levels(turned))[inside]
  assert difference.mean() < 1
  assert np.percentile(difference, 99) < 8


def test_a_photo_of_twice_the_size_is_relit_alike(params, finder, obama, no_segmentation):
  """But for the matte, which decides on single pixels."""
  [face] = finder.find(obama)
  large = cv2.resize(obama, None, fx=2, fy=2, interpolation=cv2.INTER_CUBIC)
  light = parse_light("left")
  relit = Portrait(params, large, [Face(2 * face.landmarks)]).relight(light)
  halved = cv2.resize(relit, obama.shape[1::-1], interpolation=cv2.INTER_AREA)
  difference = np.abs(levels(halved) - levels(Portrait(params, obama, [face]).relight(light)))
  assert difference.mean() < 1
  assert np.percentile(difference, 99) < 10


def test_the_light_of_a_portrait_is_estimated_as_it_is_encoded(params, astronaut, encoded_astronaut):
  light = estimate_portrait_light(params, data.astronaut(), astronaut)
  np.testing.assert_allclose(light.soft, encoded_astronaut.faces[0].source_light.soft, atol=1e-6)


def test_the_1024_network_relights_a_smaller_face(params_1024, astronaut):
  pixels = data.astronaut()
  encoded = Portrait(params_1024, pixels, [astronaut], 1024)
  [framed] = encoded.faces
  assert framed.luminance.shape == framed.weight.shape == (1024, 1024)
  assert framed.source_light.soft.shape == (1, 9)
  for side in ("left", "right"):
    relit = encoded.relight(parse_light(side))
    assert_lit_from(side, astronaut, relit, pixels, 0.3)
    outside = ~in_square(framed.framing, pixels.shape, margin=1)
    np.testing.assert_array_equal(relit[outside], pixels[outside])


def test_a_light_of_more_lamps_than_are_rendered_is_refused(stub):
  lamp = light_lib.key_and_fill(np.float32([0, -1, 0]), 0.2, 10)
  five = lamp._replace(
    **{name: np.repeat(getattr(lamp, name), 5, axis=0) for name in ("towards", "irradiance", "size")}
  )
  with pytest.raises(ValueError, match="a light of 5 lamps; at most 4 are rendered"):
    Portrait({}, smooth_photo(120, 160, np.uint8), [face_at(80, 60, 30)], 128).relight(five)


@pytest.mark.parametrize("light", [np.zeros(8), np.zeros((2, 9)), np.zeros(27), np.full(9, np.nan), [np.inf] + [0] * 8])
def test_a_light_that_is_none_is_refused(stub, light):
  pixels = smooth_photo(120, 160, np.uint8)
  with pytest.raises(ValueError, match=r"a soft light must be|not finite"):
    Portrait({}, pixels, [face_at(80, 60, 30)], 128).relight(np.asarray(light))
