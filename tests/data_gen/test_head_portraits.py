"""The source `heads`: pictures against their own truth, what is drawn for training and for tests, and its errors."""

import numpy as np
import pytest

from data_gen import normals, relief
from data_gen.face_maps import Label
from data_gen.heads import environments, people, pigments, portraits
from data_gen.heads.buffers import OPAQUE, ambient_occlusion, averaged, rasterize_fragments
from data_gen.synthesis import HEADS, Settings, Synthesis
from dpr_jax import records
from dpr_jax.base.errors import BadInput
from dpr_jax.image.color import linearise
from dpr_jax.light import sh
from dpr_jax.light.light import LUMINANCE_WEIGHTS
from dpr_jax.portrait.faces import frame_face

SIZE = 96


@pytest.fixture(scope="module")
def model(shared):
  shared("heads/makehuman_hair/hair_on_ict.npz")
  return people.load_people_model(shared("heads"))


def draw(model, number=3, size=SIZE, environments=()):
  return portraits.portrait(model, list(environments), size, 0, f"head-{number:08d}")


@pytest.fixture(scope="module")
def portrait(model):
  return draw(model)


def luminance(pixels):
  return linearise(pixels.astype(np.float32) / 255) @ LUMINANCE_WEIGHTS


def test_a_head_depends_on_seed_and_id_alone(model, portrait):
  again, other = draw(model), draw(model, 4)
  np.testing.assert_array_equal(again.pixels, portrait.pixels)
  np.testing.assert_array_equal(again.truth.normal, portrait.truth.normal)
  assert not np.array_equal(other.pixels, portrait.pixels)


def test_a_change_of_light_is_the_ratio_of_shadings(model, monkeypatch):
  """The identity that training relies on: the picture is albedo times shading."""
  monkeypatch.setattr(portraits, "_sensor", lambda rng, linear: linear)
  monkeypatch.setattr(portraits, "_glint", lambda rng, normal: np.zeros(len(normal), np.float32))

  def light_from(side):
    light = np.float32([0.8, -0.2, 0.1, 0.25 * side, 0, 0, 0, 0, 0])
    monkeypatch.setattr(portraits, "_draw_light", lambda rng, prior, environments, surface: (light, None))
    return draw(model)

  left, right = light_from(-1), light_from(1)
  both = np.stack([left.pixels, right.pixels])
  told = (both.max(axis=-1) < 255) & (luminance(both) > 0.02)  # 8 bits say little of the rest
  face = normals.face_mask(left.truth.maps) & told.all(axis=0)
  before, after = luminance(left.pixels)[face], luminance(right.pixels)[face]
  shadings = [sh.shading(side.truth.normal, side.truth.light)[face] for side in (left, right)]
  np.testing.assert_allclose(after / before, shadings[1] / shadings[0], rtol=0.06)
  assert np.median(np.abs(after / before / (shadings[1] / shadings[0]) - 1)) < 0.01
  assert np.ptp(shadings[1] / shadings[0]) > 0.3


def test_normals_are_the_slopes_of_the_depth(portrait):
  truth = portrait.truth
  face = normals.face_mask(truth.maps) & (truth.maps.label == Label.SKIN)
  down, right = np.gradient(np.where(np.isfinite(truth.depth), truth.depth, 0))
  slopes = np.stack([-right, -np.ones_like(right), down], axis=-1)
  slopes /= np.linalg.norm(slopes, axis=-1, keepdims=True)
  angle = np.degrees(np.arccos(np.clip((slopes * truth.normal).sum(axis=-1), -1, 1)))[face]
  assert np.median(angle) < 6
  np.testing.assert_allclose(np.linalg.norm(truth.normal, axis=-1), 1, atol=1e-5)


def test_the_relief_is_the_true_depth_and_falls_back_behind_it(portrait):
  maps, depth = portrait.truth.maps, portrait.truth.depth
  height = relief.extend_to_frame(maps, depth)
  face, known = maps.label != Label.BACKGROUND, np.isfinite(depth)
  assert known.sum() > 1.2 * face.sum()  # hair and shoulders
  expected = (depth - depth[face].mean()) / SIZE
  assert np.median(np.abs(height - expected)[known]) < 0.005
  assert height[~known].mean() < height[known].mean() - 0.1
  assert np.abs(height).max() <= 1


def test_faces_are_framed_as_those_of_photos_are(model):
  for number in range(3):
    head = draw(model, number)
    framing = frame_face(head.face, SIZE)
    np.testing.assert_allclose(framing.matrix, [[1, 0, 0], [0, 1, 0]], atol=0.12 * SIZE)
    assert abs(framing.roll) < 0.1
    assert abs(framing.matrix[0, 0] - 1) < 0.1


def test_the_mask_holds_the_face_and_neither_ears_nor_hair(model):
  for number in range(3):
    head = draw(model, number)
    mask = normals.face_mask(head.truth.maps)
    row, column = np.nonzero(mask)
    low, high = head.face.landmarks.min(axis=0), head.face.landmarks.max(axis=0)
    assert low[0] - 1 <= column.min() <= column.max() <= high[0] + 1
    assert low[1] - 1 <= row.min() <= row.max() <= high[1] + 1
    assert 0.1 < mask.mean() < 0.4


def test_light_is_soft(portrait):
  face = normals.face_mask(portrait.truth.maps)
  shading = sh.shading(portrait.truth.normal, portrait.truth.light)[face]
  assert np.percentile(shading, 10) > 0.2 * shading.mean()


def test_training_and_tests_share_neither_hair_nor_maps(model, shared):
  held_out = people.STYLES["held out"]
  assert not {*people.STYLES["training"]} & {*held_out}
  assert not {*model.hair} & {*held_out}
  maps = [environments.load_environments(shared("environments"), held_out=which) for which in (False, True)]
  names = [{each.name for each in group} for group in maps]
  assert names[1] == {*environments.HELD_OUT_MAPS}
  assert names[0]
  assert not names[0] & names[1]


def test_skin_darkens_with_melanin_and_reddens_with_blood():
  colour = pigments.skin_colour(np.array([0.01, 0.05, 0.2, 0.4]), np.full(4, 0.02))
  assert (np.diff(colour, axis=0) < 0).all()
  pale, flushed = pigments.skin_colour(np.full(2, 0.02), np.array([0.01, 0.08]))
  assert flushed[0] / flushed[1] > 1.3 * pale[0] / pale[1]
  for lightness in (0.06, 0.2, 0.45):
    melanin = pigments.melanin_of_luminance(lightness)
    assert abs(pigments.skin_colour(melanin, 0.02) @ LUMINANCE_WEIGHTS - lightness) < 0.01


def test_the_nearest_triangle_is_shown_and_a_frayed_edge_has_holes():
  vertices = np.array([[-1, 40, 0], [40, 40, 0], [-1, -1, 0], [-1, 40, 1], [40, 40, 1], [-1, -1, 1]], np.float32)
  triangles, opaque = np.array([[0, 1, 2], [3, 4, 5]], np.int32), np.tile(np.float32([0, 0, OPAQUE]), (6, 1))
  shown = rasterize_fragments(vertices, triangles, np.zeros(2, bool), opaque, 32)
  assert (shown.triangle == 1).all()
  np.testing.assert_allclose(shown.gather(vertices)[:, 0], shown.place % 32, atol=1e-4)
  frayed = opaque.copy()
  frayed[3:] = [[0, 0, 0.5], [60, 0, 0.5], [0, 60, 0.5]]
  torn = rasterize_fragments(vertices, triangles, np.zeros(2, bool), frayed, 32)
  assert 0.3 < (torn.triangle == 1).mean() < 0.7
  whole = averaged(shown.place, np.ones((len(shown.place), 1)), 16, 2)
  assert whole.sum() == pytest.approx(len(shown.place) / 4)


def test_a_corner_gets_less_light_than_a_plane():
  depth = np.maximum(np.abs(np.arange(64.0) - 32), 0)[None].repeat(64, 0)
  flat, towards = np.zeros((64, 64)), np.tile(np.float32([0, 0, 1]), (64, 64, 1))
  np.testing.assert_allclose(ambient_occlusion(flat, towards, 12), 1)
  seen = ambient_occlusion(depth, towards, 12)
  assert seen[32, 32] < 0.7
  nothing = np.where(np.arange(64)[:, None] < 32, -np.inf, flat)
  np.testing.assert_allclose(ambient_occlusion(nothing, towards, 12), 1)


def test_records_of_heads_are_made_and_read(model, monkeypatch, shared):
  monkeypatch.setenv("DPR_SHARED", str(shared("heads").parent))
  monkeypatch.setattr(portraits, "load_people_model", lambda folder: model)
  monkeypatch.setattr(portraits, "load_environments", lambda folder, held_out: [])
  settings = Settings(source=HEADS, count=2, size=64, lights_per_image=1, denoise="none")
  with Synthesis(settings) as synthesis:
    assert synthesis.source.ids == ("head-00000000", "head-00000001")
    (relit,) = synthesis.relit(synthesis.source.ids[1])
    record = records.decode_record(synthesis.encode(relit.record))
  assert (record.ratio, record.original.shape) == ("linear", (64, 64, 3))
  np.testing.assert_allclose(record.source_light, relit.portrait.truth.light)
  assert record.mask.any()


def test_what_heads_cannot_have_is_refused(monkeypatch):
  with pytest.raises(BadInput, match="--normals face_mesh"):
    Settings(source=HEADS, normals="face_mesh", light_estimator="fit")
  with pytest.raises(BadInput, match="--ratio published"):
    Settings(source=HEADS, ratio="published")
  monkeypatch.setenv("DPR_ASSETS", "/nowhere")
  monkeypatch.setenv("DPR_SHARED", "/nowhere")
  with pytest.raises(BadInput, match="DPR_ASSETS"):
    portraits.RenderedHeads(1, 64, 0)
