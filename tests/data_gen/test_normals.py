"""Normals carried on to the frame: against the published result, a direct solver, and what a ball must give."""

import cv2
import numpy as np
import pytest
from scipy import sparse
from scipy.sparse.linalg import spsolve

from data_gen.face_maps import FaceMaps, Label
from data_gen.normals import extend_to_frame, harmonic_fill
from dpr_jax.base.errors import BadInput

NO_LANDMARKS = np.zeros((0, 2))


def angle(a, b):
  return np.degrees(np.arccos(np.clip(np.sum(a * b, axis=-1, dtype=np.float64), -1, 1)))


def ball(height, width, centre=(0.5, 0.5), radius=0.35):
  """A ball as a face; the centre and the radius are shares of the picture's sides and of the smaller side."""
  y, x = np.mgrid[:height, :width].astype(np.float64)
  u, v = (np.stack([x - centre[0] * width, y - centre[1] * height]) + 0.5) / (radius * min(height, width))
  face = u**2 + v**2 < 0.99
  normal = np.stack([u, -np.sqrt(np.maximum(1 - u**2 - v**2, 0)), -v], axis=-1)
  label = np.where(face, Label.SKIN, Label.BACKGROUND).astype(np.uint8)
  depth = np.where(face, radius * min(height, width) * -normal[..., 1], -np.inf).astype(np.float32)
  normal = np.where(face[..., None], normal, 0).astype(np.float32)
  return FaceMaps(normal, label, NO_LANDMARKS, NO_LANDMARKS, depth)


def from_picture(path):
  """The published 8-bit normals, which are cut, not rounded; their axes are x right, y down, z into the scene."""
  x, y, z = np.moveaxis((cv2.imread(str(path)).astype(np.float32) + 0.5) / 255 * 2 - 1, -1, 0)
  normal = np.stack([x, z, -y], axis=-1)
  length = np.linalg.norm(normal, axis=-1, keepdims=True)
  return normal / np.maximum(length, 1e-6), length[..., 0]


def test_published_result(shared):
  folder = shared("reference/ri_render/result/imgHQ00000/warp")
  normal, length = from_picture(folder / "normal.png")
  published = np.round(cv2.imread(str(folder / "label.png"), cv2.IMREAD_GRAYSCALE) / 255 * 13)
  label = np.select([np.isin(published, [1, 2]), published == 3], [Label.EAR, Label.NECK], Label.SKIN)
  # The published mask is closed over pinholes that have no normal.
  label[(cv2.imread(str(folder / "mask.png"), cv2.IMREAD_GRAYSCALE) == 0) | (length < 0.5)] = Label.BACKGROUND
  depth = np.zeros(label.shape, np.float32)
  maps = FaceMaps(np.where(label[..., None], normal, 0), label.astype(np.uint8), NO_LANDMARKS, NO_LANDMARKS, depth)
  extended, mask = extend_to_frame(maps)
  expected, _ = from_picture(folder / "full_normal_faceRegion_faceBoundary_extend.png")
  difference = angle(extended, expected)
  assert 0.29 < mask.mean() < 0.3  # the published rule gives 0.2971
  assert difference[mask].mean() <= 0.1
  assert difference[~mask].mean() <= 0.4
  assert np.percentile(difference, 99) <= 2


def direct(values, known):
  """The five-point equations by sparse factorisation."""
  index = np.full(known.shape, -1)
  index[~known] = np.arange((~known).sum())
  y, x = np.nonzero(~known)
  matrix, right = 4 * sparse.identity(len(y), format="csr"), np.zeros((len(y), 3))
  for dy, dx in ((0, 1), (1, 0), (0, -1), (-1, 0)):
    neighbour = index[y + dy, x + dx]
    row = np.flatnonzero(neighbour >= 0)
    matrix = matrix - sparse.csr_matrix((np.ones(len(row)), (row, neighbour[row])), matrix.shape)
    right += np.where((neighbour < 0)[:, None], values[y + dy, x + dx], 0)
  solution = values.copy()
  solution[~known] = spsolve(matrix.tocsc(), right)
  return solution


@pytest.mark.parametrize("shape", [(90, 131), (64, 64), (40, 150)])
def test_harmonic_fill_against_a_direct_solve(shape):
  """An irregular face with a mouth, a slit, single pixels and a nook, whose values are rough."""
  rng = np.random.default_rng(0)
  height, width = shape
  known = np.zeros(shape, bool)
  known[[0, -1]] = known[:, [0, -1]] = True
  known |= cv2.GaussianBlur(rng.normal(size=shape), (0, 0), 5) > 0.03
  known[height // 3 : height // 2, width // 3 : width // 2] = False
  known[height // 2, 5:-5] = False
  known[rng.integers(0, height, 5), rng.integers(0, width, 5)] = True
  values = rng.uniform(-1, 1, (*shape, 3))
  filled = harmonic_fill(values, known)
  assert 0.2 < known.mean() < 0.9
  np.testing.assert_array_equal(filled[known], values[known].astype(np.float32))
  np.testing.assert_allclose(filled, direct(values, known), atol=2e-3)


def test_harmonic_functions_are_their_own_fill():
  y, x = np.mgrid[:260, :331] / 100
  values = np.stack([1 + x - 2 * y, x * y, x**2 - y**2], axis=-1)  # harmonic on the five-point grid too
  known = np.zeros(x.shape, bool)
  known[[0, -1]] = known[:, [0, -1]] = True
  known[100:130, 90:200] = True
  start = np.where(known[..., None], values, 1e6)
  np.testing.assert_allclose(harmonic_fill(start, known), values, atol=1e-3)


def test_harmonic_fill_at_full_size():
  """The residual of 280,000 unknowns, and the maximum principle."""
  known = np.zeros((552, 552), bool)
  known[[0, -1]] = known[:, [0, -1]] = True
  cv2.ellipse(mask := known.astype(np.uint8), (240, 300), (120, 160), 15, 0, 360, 1, -1)
  known = mask.astype(bool)
  values = cv2.GaussianBlur(np.random.default_rng(1).normal(size=(552, 552, 3)), (0, 0), 8)
  values /= np.linalg.norm(values, axis=-1, keepdims=True)
  filled = harmonic_fill(values, known).astype(np.float64)
  residual = 4 * filled - sum(np.roll(filled, shift, axis) for axis in (0, 1) for shift in (-1, 1))
  assert np.abs(residual[~known]).max() < 5e-4
  assert np.abs(residual[~known]).mean() < 1e-6
  assert np.all(filled.max(axis=(0, 1)) <= values[known].max(axis=0) + 1e-3)
  assert np.all(filled.min(axis=(0, 1)) >= values[known].min(axis=0) - 1e-3)


def test_harmonic_fill_needs_a_border():
  known = np.ones((20, 30), bool)
  known[7, 0] = False
  with pytest.raises(ValueError, match="border"):
    harmonic_fill(np.zeros((20, 30, 3)), known)


@pytest.mark.parametrize(("height", "width"), [(128, 128), (256, 256), (301, 222), (175, 400), (1024, 768)])
def test_unit_everywhere_and_the_face_untouched(height, width):
  maps = ball(height, width)
  normal, mask = extend_to_frame(maps)
  assert normal.shape == (height, width, 3)
  assert normal.dtype == np.float32
  np.testing.assert_allclose(np.linalg.norm(normal, axis=-1), 1, atol=1e-5)
  assert normal[..., 1].max() < 0
  np.testing.assert_allclose(normal[mask], maps.normal[mask], atol=1e-6)
  # Erosion by a square: a disc loses it along each axis.
  edge = 16 * np.sqrt(height * width) / 1024
  columns = np.flatnonzero(mask.any(axis=0))
  assert abs(np.ptp(columns) + 1 - (2 * 0.35 * min(height, width) * np.sqrt(0.99) - 2 * edge)) < 4


def test_a_ball_radiates():
  """Round a ball normals point away from its centre, ever flatter; there is no seam where the face ends."""
  normal, mask = extend_to_frame(ball(256, 256))
  y, x = np.mgrid[:256, :256] - 127.5
  away = np.degrees(np.abs(np.angle(np.exp(1j * (np.arctan2(-normal[..., 2], normal[..., 0]) - np.arctan2(y, x))))))
  assert away[~mask].max() < 4
  assert -np.median(normal[128, :5, 1]) < -normal[128, 60, 1]
  steps = np.maximum(angle(normal[1:, 1:], normal[:-1, 1:]), angle(normal[1:, 1:], normal[1:, :-1]))
  assert steps[~mask[1:, 1:]].max() < 3  # as on the ball itself near the face's edge


def test_sizes_agree():
  """What comes out of a photo does not hang on its resolution."""
  small, _ = extend_to_frame(ball(200, 200, (0.45, 0.55)))
  large, _ = extend_to_frame(ball(800, 800, (0.45, 0.55)))
  shrunk = cv2.resize(large, (200, 200), interpolation=cv2.INTER_AREA)
  shrunk /= np.linalg.norm(shrunk, axis=-1, keepdims=True)
  assert angle(small, shrunk).mean() < 2
  assert angle(small, shrunk).max() < 5


def test_ears_and_neck_are_dropped():
  maps = ball(256, 256)
  x = np.arange(256)
  label = maps.label.copy()
  label[(label > 0) & (x < 80)] = Label.EAR
  label[(label > 0) & (x[:, None] > 180)] = Label.NECK
  label[(label > 0) & (x[:, None] < 90) & (x > 150)] = Label.FEATURE
  normal, mask = extend_to_frame(maps._replace(label=label))
  whole_normal, whole = extend_to_frame(maps)
  assert not mask[:, :84].any()
  assert not mask[177:].any()
  kept = (slice(60, 170), slice(90, 190))
  np.testing.assert_array_equal(mask[kept], whole[kept])
  np.testing.assert_array_equal(normal[mask], whole_normal[mask])


def test_pinholes_do_not_grow():
  """At 1024 pixels: pinholes of the rasteriser get the normals about them, and nothing is eroded there."""
  maps = ball(1024, 1024)
  expected, whole = extend_to_frame(maps)
  holes = np.random.default_rng(3).integers(400, 620, (30, 2))
  label, normal = maps.label.copy(), maps.normal.copy()
  label[tuple(holes.T)] = Label.BACKGROUND
  normal[tuple(holes.T)] = 0
  normal[500:502, 500:502] = [0, 1, 0]  # turned away
  filled, mask = extend_to_frame(maps._replace(label=label, normal=normal))
  assert 0 < (whole & ~mask).sum() <= 9 * 30 + 16
  assert not mask[tuple(holes.T)].any()
  assert not mask[500:502, 500:502].any()
  assert angle(filled, expected).max() < 1


@pytest.mark.parametrize("centre", [(0.22, 0.5), (0.75, 0.8), (0.5, 0.97)])
def test_faces_off_the_centre(centre):
  """The published pipeline drops a photo whose centre is not on the face."""
  normal, mask = extend_to_frame(ball(256, 256, centre, 0.2))
  assert mask.any()
  np.testing.assert_allclose(np.linalg.norm(normal, axis=-1), 1, atol=1e-5)
  assert np.mean(normal[:, -1, 0]) > 0.3  # right
  assert np.mean(normal[:, 0, 0]) < -0.3
  assert np.mean(normal[0, :, 2]) > 0.3  # up


def test_an_open_mouth_in_the_centre():
  maps = ball(256, 256)
  label = maps.label.copy()
  label[120:150, 110:146] = Label.BACKGROUND
  normal, mask = extend_to_frame(maps._replace(label=label))
  assert not mask[128, 128]
  assert angle(normal, extend_to_frame(maps)[0])[110:160, 100:156].mean() < 3


def test_a_face_that_fills_the_picture():
  maps = ball(128, 128, radius=1.5)
  normal, mask = extend_to_frame(maps)
  assert mask.all()
  np.testing.assert_allclose(normal, maps.normal, atol=1e-6)


def test_portraits_without_usable_normals():
  maps = ball(128, 128)
  broken = maps.normal.copy()
  broken[64, 64, 1] = np.nan
  with pytest.raises(BadInput, match="not all finite"):
    extend_to_frame(maps._replace(normal=broken))
  for label in (Label.BACKGROUND, Label.EAR, Label.NECK):
    with pytest.raises(BadInput, match="no face is left"):
      extend_to_frame(maps._replace(label=np.full_like(maps.label, label)))
  with pytest.raises(BadInput, match="no face is left"):
    extend_to_frame(maps._replace(normal=-maps.normal))
  with pytest.raises(BadInput, match="no face is left"):
    extend_to_frame(ball(128, 128, radius=0.02))
