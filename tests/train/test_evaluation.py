"""Evaluation against numbers worked out by hand: known outputs, scikit-image's Lab and SSIM, plain NumPy."""

import json
import math
import os
import subprocess
import sys

import cv2
import jax
import jax.numpy as jnp
import numpy as np
import pytest
import skimage.color
from PIL import Image
from skimage.metrics import structural_similarity

from dpr_jax import records, relight_luminance
from dpr_jax.base.errors import BadInput
from dpr_jax.image.color import photo_luminance
from dpr_jax.light import sh
from dpr_jax.light.light import nine_numbers
from dpr_jax.network.hourglass import HourglassNet, HourglassNet1024
from dpr_jax.network.ratio_network import RatioHourglassNet
from dpr_jax.train import evaluation, metrics
from dpr_jax.train.augmentation import Augmentation
from dpr_jax.train.evaluation import Evaluator, identity, light_side

pytestmark = pytest.mark.usefixtures("quick_compilation")

SIDE = 32
SIDES = {
  "front": (0, 0),
  "left": (90, 0),
  "right": (-90, 0),
  "above": (0, 90),
  "below": (0, -90),
  "behind": (180, 0),
}


def lamp(azimuth, elevation=0.0):
  return np.asarray(sh.directional(sh.direction(azimuth, elevation)), np.float32)


def picture(rng, side=SIDE):
  """Smooth colours, `[side, side, 3]` uint8."""
  coarse = rng.integers(30, 250, (4, 4, 3)).astype(np.uint8)
  return cv2.resize(coarse, (side, side), interpolation=cv2.INTER_LINEAR)


def make_record(seed, lights, names=None, side=SIDE, **changes):
  rng = np.random.default_rng(seed)
  mask = np.zeros((side, side), bool)
  mask[side // 4 : -side // 8, side // 4 : -side // 4] = True
  normal = np.zeros((side, side, 3), np.float32)
  normal[..., 1] = -1
  record = records.Record(
    id=f"face {seed}",
    original=picture(rng, side),
    relit=np.stack([picture(rng, side) for _ in lights]),
    target_lights=np.stack(lights),
    source_light=lamp(rng.uniform(-60, 60), rng.uniform(-30, 60)),
    normal=normal,
    depth=np.zeros((side, side), np.float32),
    mask=mask,
    light_names=tuple(names or (f"light {seed} {k}" for k in range(len(lights)))),
  )
  return record._replace(**changes)


def write(folder, faces, split="test", count=1):
  """A split in `count` shards."""
  folder.mkdir(exist_ok=True)
  payloads = [records.encode_record(face, normal_bits=8) for face in faces]
  for index in range(count):
    records.write_tfrecords(folder / records.shard_filename(split, index, count), payloads[index::count])
  return folder


@pytest.fixture(scope="module")
def faces():
  """Five faces under three lights, all from different sides."""
  angles = iter(np.linspace(-170, 170, 15))
  return [make_record(seed, [lamp(next(angles), 10 * seed) for _ in range(3)]) for seed in range(5)]


@pytest.fixture(scope="module")
def folder(faces, tmp_path_factory):
  return write(tmp_path_factory.mktemp("evaluation") / "dataset", faces)


def luminance(pixels):
  return skimage.color.rgb2lab(pixels)[..., 0] / 100


def by_hand(prediction, target, mask):
  """The three scores in float64, from their definitions."""
  p, t = prediction[mask], target[mask]
  scale = (p @ t) / (p @ p)
  _, full = structural_similarity(
    prediction, target, data_range=1, gaussian_weights=True, sigma=1.5, use_sample_covariance=False, full=True
  )
  inside = mask.copy()
  inside[:5] = inside[-5:] = inside[:, :5] = inside[:, -5:] = False
  return {"l1": np.abs(p - t).mean(), "si_mse": np.square(scale * p - t).mean(), "ssim": full[inside].mean()}


def mean_by_hand(pairs):
  scores = [by_hand(*pair) for pair in pairs]
  return {name: np.mean([score[name] for score in scores]) for name in scores[0]}


def assert_scores(summary, expected):
  # scikit-image's Lab takes the white point from other decimals.
  for name, value in expected.items():
    assert summary[name] == pytest.approx(value, rel=1e-3, abs=1e-6), name


# The baseline.


@pytest.mark.parametrize("whole", [False, True])
def test_the_identity_baseline(faces, folder, whole):
  summary = Evaluator(folder, "test", whole_picture=whole).evaluate(identity).summary()
  pairs = [(luminance(face.original), luminance(relit), face.mask | whole) for face in faces for relit in face.relit]
  assert_scores(summary, mean_by_hand(pairs))
  assert summary["pairs"] == 15
  assert "light_angle" not in summary
  assert "sources" not in summary


def test_a_mask_makes_a_difference(folder):
  inside, whole = (
    Evaluator(folder, "test", whole_picture=whole).evaluate(identity).summary() for whole in (False, True)
  )
  assert all(abs(inside[name] - whole[name]) > 1e-3 * abs(whole[name]) for name in ("l1", "si_mse", "ssim"))


# Networks that are known.


class Oracle:
  """Knows what every face looks like under every light, and the source's light turned by some degrees."""

  def __init__(self, faces, degrees=0.0, size=SIDE):
    self.known, self.shapes, self.degrees = {}, set(), degrees
    for face in faces:
      images = [self.image(pixels, size) for pixels in (face.original, *face.relit)]
      lights = [face.source_light, *face.target_lights]
      for source, own in zip(images, lights, strict=True):
        targets = {light.tobytes(): image for light, image in zip(lights, images, strict=True)}
        self.known[source.tobytes()] = own, targets

  @staticmethod
  def image(pixels, size):
    return photo_luminance(Augmentation(size).resize(pixels))

  def __call__(self, sources, lights):
    self.shapes.add((sources.shape, lights.shape))
    relit = np.empty((len(lights), *sources.shape), np.float32)
    estimated = np.empty((len(sources), 9), np.float32)
    for b, source in enumerate(sources):
      own, targets = self.known[source[..., 0].tobytes()]
      estimated[b] = 2 * sh.rotate(own, sh.roll(self.degrees))
      for t in range(len(lights)):
        relit[t, b, ..., 0] = targets[lights[t, b].tobytes()]
    return relit, estimated


PERFECT = {"l1": 0, "si_mse": 0, "ssim": 1}


def test_a_perfect_network(faces, folder):
  summary = Evaluator(folder, "test").evaluate(Oracle(faces)).summary()
  assert_scores(summary, PERFECT)
  assert (summary["pairs"], summary["sources"]) == (15, 5)
  # Twice the light: how bright it is cannot be seen, and does not count.
  assert summary["light_angle"] == pytest.approx(0, abs=0.1)
  assert summary["light_error"] == pytest.approx(0, abs=1e-6)


def test_a_source_light_that_is_turned(faces, folder):
  summary = Evaluator(folder, "test").evaluate(Oracle(faces, degrees=30)).summary()
  expected, errors = [], []
  for face in faces:
    true, turned = face.source_light, sh.rotate(face.source_light, sh.roll(30))
    a, b = (light[[3, 1, 2]] for light in (true, turned))
    expected.append(np.degrees(np.arccos(a @ b / np.linalg.norm(a) / np.linalg.norm(b))))
    errors.append(np.linalg.norm(turned - true) / np.linalg.norm(true))
  assert summary["light_error"] == pytest.approx(np.mean(errors), rel=1e-4)
  assert 5 < np.mean(expected) < 30
  assert summary["light_angle"] == pytest.approx(np.mean(expected), rel=1e-4)


def test_a_light_that_gives_no_light_has_no_error(folder):
  """Nothing can be said of a light that is dark as a whole; and that is not taken for a good score."""
  dark = np.tile(np.float32([-0.1, 0.2, 0, 0, 0, 0, 0, 0, 0]), (5, 1))
  summary = Evaluator(folder, "test").evaluate(lambda s, lights: (identity(s, lights)[0], dark[: len(s)])).summary()
  assert math.isnan(summary["light_error"])


@pytest.mark.parametrize("factor", [0.5, 1.0])
def test_si_mse_does_not_see_a_factor_and_l1_does(folder, factor):
  evaluator = Evaluator(folder, "test")
  plain = evaluator.evaluate(identity).summary()
  scaled = evaluator.evaluate(lambda sources, lights: identity(np.float32(factor) * sources, lights)).summary()
  assert scaled["si_mse"] == pytest.approx(plain["si_mse"], rel=1e-5)
  assert (scaled["l1"] == plain["l1"]) == (factor == 1)


@pytest.mark.parametrize("batch", [1, 2, 3, 4, 5, 64])
@pytest.mark.parametrize("cached", [True, False])
def test_a_padded_batch_counts_what_is_there(faces, folder, monkeypatch, batch, cached):
  """And every batch is of one shape, so that a network is compiled once."""
  reference = Evaluator(folder, "test").evaluate(identity)
  monkeypatch.setattr(evaluation, "_BATCH_PIXELS", batch * SIDE**2)
  monkeypatch.setattr(evaluation, "_CACHE_BYTES", 2**30 if cached else 0)
  oracle, evaluator = Oracle(faces), Evaluator(folder, "test")
  assert evaluator.evaluate(identity).pairs == reference.pairs
  summary = evaluator.evaluate(oracle).summary()
  assert_scores(summary, PERFECT)
  assert (summary["pairs"], summary["sources"]) == (15, 5)
  assert oracle.shapes == {((min(batch, 5), SIDE, SIDE, 1), (3, min(batch, 5), 9))}


@pytest.mark.parametrize("relit_sources", [False, True])
def test_faces_with_more_and_fewer_lights(tmp_path, relit_sources):
  counts = (2, 5, 1, 2)
  faces = [make_record(seed, [lamp(40 * k + 7 * seed) for k in range(count)]) for seed, count in enumerate(counts)]
  oracle, evaluator = Oracle(faces), Evaluator(write(tmp_path, faces), "test", relit_sources=relit_sources)
  scores = evaluator.evaluate(oracle)
  assert_scores(scores.summary(), PERFECT)
  assert len(oracle.shapes) == 1
  # K targets of the photo; with relit sources, K - 1 of each of the K others.
  pairs = [count**2 if relit_sources else count for count in counts]
  assert len(scores.pairs) == sum(pairs)
  assert len(scores.sources) == (4 + 2 + 5 + 2 if relit_sources else 4)
  assert scores.summary()["light_error"] == pytest.approx(0, abs=1e-6)
  names = [pair["name"] for pair in scores.pairs]
  for face, count in zip(faces, counts, strict=True):
    assert all(names.count(name) == (count if relit_sources else 1) for name in face.light_names)


def test_shards_and_a_limit(faces, folder, tmp_path):
  several = Evaluator(write(tmp_path, faces, "validation", count=2), "validation")
  whole = Evaluator(folder, "test").evaluate(identity).pairs
  assert sorted(pair["l1"] for pair in several.evaluate(identity).pairs) == sorted(pair["l1"] for pair in whole)
  limited = Evaluator(folder, "test", limit=2)
  assert limited.num_faces == 2
  assert limited.evaluate(identity).pairs == whole[:6]
  assert Evaluator(folder, "test", limit=99).num_faces == 5


@pytest.mark.parametrize("size", [16, 48])
def test_another_size(faces, folder, size):
  evaluator = Evaluator(folder, "test", size)
  assert_scores(evaluator.evaluate(Oracle(faces, size=size)).summary(), PERFECT)
  how = cv2.INTER_AREA if size < SIDE else cv2.INTER_LINEAR
  for face, record in zip(evaluator.faces(), faces, strict=True):
    assert face.images.shape == (4, size, size)
    assert face.mask.shape == (size, size)
    assert abs(face.mask.mean() - record.mask.mean()) < 0.05
    np.testing.assert_allclose(
      face.images[0], luminance(cv2.resize(record.original, (size, size), interpolation=how)), atol=1e-4
    )


# Networks.


def variables_of(network, seed=0):
  """Random weights of a size that keeps outputs apart; initialising a network takes many times as long."""
  rng, side = np.random.default_rng(seed), network.size_multiple
  shapes = jax.eval_shape(network.init, jax.random.key(0), jnp.zeros((1, side, side, 1)), jnp.zeros((1, 9)))

  def draw(path, leaf):
    if path[-1].key in ("var", "scale"):
      return np.ones(leaf.shape, np.float32)
    return rng.normal(0, 1 / np.sqrt(max(1, np.prod(leaf.shape[:-1]))), leaf.shape).astype(np.float32)

  variables = jax.tree_util.tree_map_with_path(draw, shapes)
  if "trunk" in variables["params"]:  # the estimate of a light is to be one: of a positive first coefficient
    estimate = variables["params"]["trunk"]["light"]
    for name in ("estimate1", "estimate2"):
      estimate[name]["kernel"] = np.abs(estimate[name]["kernel"])
  return variables


@pytest.fixture(scope="module")
def tiny():
  return variables_of(HourglassNet(base_filters=2, light_channels=3))


@pytest.mark.parametrize(
  ("network", "size"),
  [
    (HourglassNet(base_filters=2, light_channels=3), SIDE),
    (HourglassNet1024(base_filters=2, light_channels=3), SIDE),
    (RatioHourglassNet(base_filters=2), 2 * SIDE),
  ],
  ids=["512", "1024", "ratio"],
)
def test_a_network_pair_by_pair(folder, network, size):
  variables = variables_of(network)
  found = Evaluator(folder, "test", size).run(variables)
  expected, lights = [], []
  for face in Evaluator(folder, "test", size).faces():
    for target, light in zip(face.images[1:], face.lights[1:], strict=True):
      relit, estimated = relight_luminance(variables, jnp.asarray(face.images[:1, ..., None]), jnp.asarray(light[None]))
      expected.append(by_hand(np.asarray(relit[0, ..., 0], np.float64), target.astype(np.float64), face.mask))
    lights.append((np.asarray(nine_numbers(estimated))[0], face.lights[0]))
  for name in ("l1", "si_mse", "ssim"):
    assert found[name] == pytest.approx(np.mean([score[name] for score in expected]), rel=1e-3)
  angles = [metrics.light_angle(prediction=ours, target=true) for ours, true in lights]
  assert found["light_angle"] == pytest.approx(np.mean(angles), rel=1e-3)
  errors = [np.linalg.norm(ours / ours[0] - true / true[0]) / np.linalg.norm(true / true[0]) for ours, true in lights]
  assert found["light_error"] == pytest.approx(np.mean(errors), rel=1e-3)


def test_a_run_is_repeated_exactly_and_compiles_once(folder, tiny):
  evaluation._relight.clear_cache()
  evaluator = Evaluator(folder, "test")
  first = evaluator.run(tiny)
  assert evaluator.run(tiny) == first
  other = evaluator.run(variables_of(HourglassNet(base_filters=2, light_channels=3), seed=1))
  assert evaluation._relight._cache_size() == 1
  identities = {f"identity_{name}": value for name, value in evaluator.evaluate(identity).summary().items()}
  for run in (first, other):
    assert set(run) == {"l1", "si_mse", "ssim", "light_angle", "light_error"} | {
      "identity_l1",
      "identity_si_mse",
      "identity_ssim",
    }
    assert all(isinstance(value, float) and math.isfinite(value) for value in run.values())
    assert all(run[name] == identities[name] for name in run if name.startswith("identity_"))
  assert other["l1"] != first["l1"]


_ON_FOUR_DEVICES = """
import json, pickle, sys
import jax
from dpr_jax.network.weights import load_params
from dpr_jax.train.evaluation import Evaluator
assert jax.device_count() == 4
print(json.dumps(Evaluator(sys.argv[1], "test", 64).run(load_params("official-512"))))
"""


def test_four_devices_find_what_one_finds(folder, shared):
  shared("reference/dpr/trained_model_03.t7")
  flags = os.environ.get("XLA_FLAGS", "") + " --xla_force_host_platform_device_count=4"
  environment = os.environ | {"XLA_FLAGS": flags, "JAX_PLATFORMS": "cpu"}
  command = [sys.executable, "-c", _ON_FOUR_DEVICES, str(folder)]
  ended = subprocess.run(command, env=environment, capture_output=True, text=True, timeout=600, check=True)
  from dpr_jax import load_params

  expected = Evaluator(folder, "test", 64).run(load_params("official-512"))
  assert json.loads(ended.stdout) == pytest.approx(expected, rel=1e-4)


# Target lights in groups.


@pytest.mark.parametrize("side", SIDES)
def test_the_side_of_a_light(side):
  for off in (-35, 0, 35):
    azimuth, elevation = SIDES[side]
    assert light_side(lamp(azimuth, elevation + off)) == side
  assert light_side(np.float32(0.01) * lamp(*SIDES[side]) + np.eye(9, dtype=np.float32)[0]) == "even"


def test_lights_by_their_side(tmp_path):
  """With a score that tells the lights apart: how bright the relit image is against a black output."""
  sides, levels = list(SIDES), (40, 80, 120, 160, 200, 240)
  lights = [lamp(*SIDES[side]) for side in sides]
  relit = np.stack([np.full((SIDE, SIDE, 3), level, np.uint8) for level in levels])
  faces = [make_record(seed, lights, relit=relit) for seed in range(2)]
  scores = Evaluator(write(tmp_path, faces), "test").evaluate(lambda s, lights: (np.zeros((6, *s.shape)), None))
  groups = scores.summary()["by_direction"]
  assert list(groups) == ["front", "left", "right", "above", "below", "behind"]
  for side, level in zip(sides, levels, strict=True):
    assert groups[side]["pairs"] == 2
    assert groups[side]["l1"] == pytest.approx(luminance(np.full((1, 1, 3), level, np.uint8)).item(), abs=1e-4)


@pytest.mark.parametrize("relit_sources", [False, True])
@pytest.mark.parametrize("recur", [True, False])
def test_lights_by_their_name_where_faces_share_them(tmp_path, recur, relit_sources):
  lights = [lamp(0), lamp(90)]
  faces = [make_record(seed, lights, ("hall", "street") if recur else None) for seed in range(3)]
  summary = Evaluator(write(tmp_path, faces), "test", relit_sources=relit_sources).evaluate(identity).summary()
  assert ("by_name" in summary) == recur
  if recur:
    # The same lights, once by name and once by side.
    assert summary["by_name"]["hall"] == summary["by_direction"]["front"]
    assert summary["by_name"]["street"] == summary["by_direction"]["left"]
    assert summary["by_name"]["hall"]["pairs"] == (6 if relit_sources else 3)


def test_a_light_without_direction_has_no_angle(tmp_path):
  even = np.eye(9, dtype=np.float32)[0]
  faces = [make_record(0, [lamp(0)], source_light=even), make_record(1, [lamp(0)], source_light=lamp(90))]
  evaluator = Evaluator(write(tmp_path, faces), "test")
  found = evaluator.evaluate(lambda s, lights: (identity(s, lights)[0], np.stack([lamp(0)] * len(s)))).summary()
  assert found["light_angle"] == pytest.approx(90, abs=1e-3)
  assert found["sources"] == 2


# What cannot be evaluated.


def refusal(*arguments, **keywords):
  with pytest.raises(BadInput) as caught:
    Evaluator(*arguments, **keywords)
  assert "\n" not in str(caught.value)
  return str(caught.value)


def test_wrong_arguments(folder, tmp_path):
  assert refusal(folder, "tests") == "--split tests: must be one of train, validation, test"
  assert refusal(folder, "train") == f"{folder}: holds no dpr-train.tfrecord-*"
  assert refusal(tmp_path / "no", "test").startswith(f"{tmp_path / 'no'}: not a readable folder")
  assert refusal(folder, "test", limit=0) == "--limit 0: must be at least 1"
  for size in (0, -16, 4096):
    assert refusal(folder, "test", size) == f"--size {size}: must lie in 16 to 2048"


def test_records_that_cannot_be_compared(tmp_path):
  wide = make_record(0, [lamp(0)])
  wide = wide._replace(
    **{name: getattr(wide, name)[: SIDE // 2] for name in ("original", "normal", "depth", "mask")},
    relit=wide.relit[:, :16],
  )
  assert "'face 0': is not square (16 x 32 pixels" in refusal(write(tmp_path / "wide", [wide]), "test")
  bare = make_record(1, [lamp(0)], mask=np.zeros((SIDE, SIDE), bool))
  assert "'face 1': its mask marks no face" in refusal(write(tmp_path / "bare", [bare]), "test")


def test_a_damaged_record_is_named_or_skipped(faces, tmp_path, monkeypatch):
  write(tmp_path, faces)
  (shard,) = tmp_path.iterdir()
  data, offset = bytearray(shard.read_bytes()), int(records.record_offsets(shard)[3])
  data[offset + 500] ^= 1
  shard.write_bytes(data)
  place = f"{shard}: record 3 (counted from 0) is damaged"
  assert refusal(tmp_path, "test").startswith(place)
  assert Evaluator(tmp_path, "test", limit=3).num_faces == 3
  for cache in (2**30, 0):
    monkeypatch.setattr(evaluation, "_CACHE_BYTES", cache)
    scores = Evaluator(tmp_path, "test", on_corrupt="skip").evaluate(identity)
    assert len(scores.pairs) == 12
    assert "light 3 0" not in {pair["name"] for pair in scores.pairs}
  with pytest.raises(BadInput, match="record 3 "):
    Evaluator(tmp_path, "test").evaluate(identity)  # found on the way, without a cache


# Tables and files.


def test_report_and_grid(faces, folder, tmp_path, tiny, monkeypatch):
  """Of two networks side by side."""
  others = {"a": tiny, "b": variables_of(HourglassNet(base_filters=2, light_channels=3), seed=1)}
  monkeypatch.setattr(evaluation, "load_params", others.__getitem__)
  table = evaluation.evaluate(["a", "identity", "b", "a"], folder, out=tmp_path / "out", num_pictures=3)
  assert sorted(path.name for path in (tmp_path / "out").iterdir()) == ["evaluation.json", "evaluation.png"]
  report = json.loads((tmp_path / "out" / "evaluation.json").read_text())
  assert list(report["weights"]) == ["identity", "a", "b"]
  assert {key: report[key] for key in ("split", "faces", "size", "region")} == {
    "split": "test",
    "faces": 5,
    "size": SIDE,
    "region": "face",
  }
  evaluator = Evaluator(folder, "test")
  for name, variables in others.items():
    summary, found = evaluator.run(variables), report["weights"][name]
    assert all(found[score] == summary[score] for score in ("l1", "si_mse", "ssim", "light_angle", "light_error"))
    assert all(report["weights"]["identity"][score] == summary[f"identity_{score}"] for score in ("l1", "si_mse"))
    row = next(line for line in table.splitlines() if line.split()[:1] == [name])
    share = summary["si_mse"] / summary["identity_si_mse"]
    assert row.split()[1:5] == [
      f"{summary['l1']:.4f}",
      f"{1000 * summary['si_mse']:.3f}",
      f"{share:.3f}",
      f"{summary['ssim']:.4f}",
    ]
  heads = [line for line in table.splitlines() if "si-MSE x 1000" in line]
  assert len(heads) == 2  # overall, and by direction; the names are all different
  assert heads[1].split()[-3:] == ["identity", "a", "b"]
  with Image.open(tmp_path / "out" / "evaluation.png") as image:
    sheet = np.asarray(image)
  # Titles, then three rows of four pictures, each over a place for its sphere.
  assert sheet.shape == (24 + 8 + 3 * (SIDE + 16 + 24), 4 * (SIDE + 8) + 8, 3)
  kept = evaluator.evaluate(evaluation.network_relight(tiny), num_pictures=3).outputs
  for index, record in enumerate(faces[:3]):
    top = 24 + 8 + index * (SIDE + 16 + 24)
    cells = [sheet[top : top + SIDE, 8 + k * (SIDE + 8) :][:, :SIDE, 0] for k in range(4)]
    assert np.abs(cells[0] - 255 * luminance(record.original)).max() <= 0.6
    assert np.abs(cells[1] - 255 * luminance(record.relit[index])).max() <= 0.6  # another target for every face
    target, output = kept[index]
    assert target == 1 + index
    assert np.abs(cells[2] - 255 * output).max() <= 0.6
    assert np.ptp(cells[2]) > 20
    assert np.abs(cells[3].astype(int) - cells[2]).max() > 20


def test_existing_outputs_are_kept(folder, tmp_path):
  (tmp_path / "evaluation.png").write_text("old")
  with pytest.raises(BadInput, match=r"evaluation\.png: exists already \(--overwrite replaces it\)"):
    evaluation.evaluate(["identity"], folder, out=tmp_path)
  assert [path.name for path in tmp_path.iterdir()] == ["evaluation.png"]
  evaluation.evaluate(["identity"], folder, out=tmp_path, overwrite=True)
  assert (tmp_path / "evaluation.png").read_bytes()[:4] == b"\x89PNG"
  report = json.loads((tmp_path / "evaluation.json").read_text())
  assert list(report["weights"]) == ["identity"]


def test_a_network_that_outputs_no_numbers(folder, tmp_path, tiny, monkeypatch):
  broken = jax.tree.map(lambda leaf: leaf * np.float32(np.nan), tiny)
  monkeypatch.setattr(evaluation, "load_params", lambda name: broken)
  with np.errstate(invalid="ignore"):
    table = evaluation.evaluate(["broken"], folder, out=tmp_path)
  report = json.loads((tmp_path / "evaluation.json").read_text())
  assert report["weights"]["broken"]["si_mse"] is None
  assert report["weights"]["identity"]["si_mse"] > 0
  assert next(line for line in table.splitlines() if line.startswith("broken")).split()[1:] == ["-"] * 6


@pytest.mark.parametrize(
  ("network", "size", "reason"),
  [
    (HourglassNet(base_filters=2), 40, "take images whose side is a multiple of 16, not of 40 pixels"),
    (HourglassNet1024(base_filters=2), 48, "take images whose side is a multiple of 32, not of 48 pixels"),
    (RatioHourglassNet(base_filters=2), 96, "take images whose side is a multiple of 64, not of 96 pixels"),
    (HourglassNet(base_filters=2, gray=False), 32, "take lights of 27 numbers; here a light is gray, 9 numbers"),
  ],
)
def test_networks_that_do_not_fit(folder, monkeypatch, network, size, reason):
  shapes = jax.eval_shape(
    network.init, jax.random.key(0), jnp.zeros((1, 64, 64, 1)), jnp.zeros((1, network.light_size))
  )
  monkeypatch.setattr(evaluation, "load_params", lambda name: shapes)
  with pytest.raises(BadInput, match=f"weights 'these': {reason}"):
    evaluation.evaluate(["these"], folder, size=size)
