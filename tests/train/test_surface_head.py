"""The head that joins network and mesh: what it learns, and its recipe from records to weights in small."""

import dataclasses
import os
import subprocess
import sys
import types

import numpy as np
import pytest

from dpr_jax.base.errors import BadInput
from dpr_jax.network.networks import network_for
from dpr_jax.network.shape import Surface
from dpr_jax.network.weights import load_params, save_params
from dpr_jax.train import surface_head
from dpr_jax.train.surface_head import SurfaceViews
from tests.conftest import ROOT
from tests.network.test_hourglass import SMALL_512, SMALL_RATIO, random_variables
from tests.train.test_training_run import write_dataset

pytestmark = pytest.mark.usefixtures("quick_compilation")

CELLS = 8
KNOWING = dataclasses.replace(SMALL_RATIO, knows_surfaces=True)


def unit(vectors):
  return vectors / np.linalg.norm(vectors, axis=-1, keepdims=True)


def views(count, seed):
  """Slopes that the mesh knows but for one lean, always the same, and the network not at all."""
  rng = np.random.default_rng(seed)
  one = np.ones((count, CELLS, CELLS, 1), np.float32)
  slopes = rng.uniform(-0.5, 0.5, (count, 1, 1, 2)) * one
  normal = unit(np.concatenate([slopes[..., :1], -one, slopes[..., 1:]], axis=-1))
  mesh = unit(normal + np.float32([0, 0, 0.5]))
  seen = (rng.normal(size=(count, CELLS, CELLS, 3)), np.float32([0, -1, 0]) * one, 0 * one, one)
  return SurfaceViews(
    *(part.astype(np.float16) for part in (*seen, *seen, mesh, 0 * one, one, normal, 0 * one, one, one))
  )


def test_it_learns_what_is_wrong_with_a_mesh():
  learnt = surface_head.train([views(64, 0)], [views(8, 1)], shares=(1.0,), steps=150, batch=8, seed=0)
  joined, mean = surface_head.mean_errors(learnt, views(16, 2))
  assert joined < 0.75 * mean  # the average over the steps lags behind


def test_a_view_in_a_mirror_is_turned_but_for_what_the_network_saw_there():
  one = views(3, 0)
  plain, mirror = (surface_head._batch(one, slice(0, 2), mirror=flag) for flag in (False, True))
  turned = np.float32([-1, 1, 1])
  np.testing.assert_array_equal(mirror.normal, plain.normal[:, :, ::-1] * turned)
  np.testing.assert_array_equal(mirror.surface.normal, plain.surface.normal[:, :, ::-1] * turned)
  np.testing.assert_array_equal(mirror.features, one.mirror_features[:2])


class Known:
  """A finder of faces that are framed alike, but for those it does not find: every third."""

  name = "known"

  def __init__(self):
    self.asked = 0

  def find(self, pixels):
    assert (pixels.shape, pixels.dtype) == ((256, 256, 3), np.uint8)
    self.asked += 1
    return [] if self.asked % 3 == 0 else [None]


def test_views_are_what_network_and_mesh_say_of_heads_that_were_found(monkeypatch, tmp_path):
  dataset = write_dataset(tmp_path / "faces", train=5, validation=1)
  surface = Surface(*(np.full((1, 64, 64, size), value, np.float32) for size, value in ((3, 0.5), (1, 7.0), (1, 0.0))))
  surface.weight[:, 20:40, 20:40] = 1
  monkeypatch.setattr(surface_head, "mesh_surface", lambda *_: surface)
  params = random_variables(SMALL_RATIO)
  one, again = (surface_head.look_at_heads(params, dataset, "train", Known(), 32, seed=3) for _ in range(2))
  assert len(one.normal) == 22  # of 32
  for ours, theirs in zip(one, again, strict=True):
    np.testing.assert_array_equal(ours, theirs)
  np.testing.assert_allclose(np.linalg.norm(one.normal.astype(np.float32), axis=-1), 1, atol=2e-3)
  assert one.mesh_depth[:, 0].max() == 0  # nothing is known there
  assert one.mesh_depth[:, 30, 30].min() == 7
  assert (one.weight >= 0).all()
  assert one.mask.mean() > 0.05


def test_the_command_gives_weights_a_head(monkeypatch, tmp_path):
  monkeypatch.setattr(surface_head, "_finder_shares", lambda: {"embedded": 1.0})
  calls = []

  def look(params, dataset, split, finder, count, seed):
    calls.append((split, count))
    # As many features as the network has that is taught.
    made = views(min(count, 8), seed)
    features = np.zeros((len(made.normal), CELLS, CELLS, 2 + 16), np.float16)
    return made._replace(seen_features=features, mirror_features=features)

  monkeypatch.setattr(surface_head, "look_at_heads", look)
  learnt = {kind: tree["surface_head"] for kind, tree in random_variables(KNOWING).items()}
  monkeypatch.setattr(surface_head, "train", lambda *_, **__: learnt)
  rendered = types.SimpleNamespace(whole_shape=True)
  monkeypatch.setattr(surface_head, "RecordSource", lambda *_: rendered)
  weights, out = tmp_path / "small.npz", tmp_path / "taught.npz"
  save_params(weights, random_variables(SMALL_RATIO))
  teach = {"dataset": tmp_path, "workdir": tmp_path / "run", "out": out, "views": 32, "steps": 2, "batch": 4}
  surface_head.make_surface_head(str(weights), **teach)
  taught, before = load_params(out), load_params(weights)
  assert network_for(taught).knows_surfaces
  np.testing.assert_array_equal(taught["params"]["stem"]["conv"]["kernel"], before["params"]["stem"]["conv"]["kernel"])
  assert calls == [("train", 32), ("validation", 2)]
  surface_head.make_surface_head(str(out), overwrite=True, **teach)  # taught anew, by the views that were kept
  assert len(calls) == 2
  monkeypatch.setattr(surface_head, "train", lambda *_, **__: pytest.fail("nothing may be learnt now"))
  with pytest.raises(BadInput, match="exists"):
    surface_head.make_surface_head(str(weights), **teach)
  with pytest.raises(BadInput, match="written as"):
    surface_head.make_surface_head(str(weights), **(teach | {"out": tmp_path / "taught.pth"}))
  for other in ({"seed": 1}, {"views": 33}, {"dataset": tmp_path / "others"}):
    with pytest.raises(BadInput, match=r"was made from weights .* take another --workdir"):
      surface_head.make_surface_head(str(weights), overwrite=True, **(teach | other))
  save_params(tmp_path / "other.npz", random_variables(SMALL_RATIO, seed=1))
  with pytest.raises(BadInput, match="was made from weights"):
    surface_head.make_surface_head(str(tmp_path / "other.npz"), overwrite=True, **teach)
  kept = tmp_path / "run" / "train-embedded.npz"
  whole = kept.read_bytes()
  for damaged in (b"", b"PK", whole[: len(whole) // 2]):
    kept.write_bytes(damaged)
    with pytest.raises(BadInput, match=r"train-embedded\.npz: cannot be read"):
      surface_head.make_surface_head(str(weights), overwrite=True, **teach)
  rendered.whole_shape = False
  with pytest.raises(BadInput, match="not of rendered heads"):
    surface_head.make_surface_head(str(weights), overwrite=True, **teach)
  save_params(tmp_path / "published.npz", random_variables(SMALL_512))
  with pytest.raises(BadInput, match="knows shape"):
    surface_head.make_surface_head(str(tmp_path / "published.npz"), overwrite=True, **teach)


def test_the_script_says_what_is_missing():
  environment = os.environ | {"JAX_PLATFORMS": "cpu"}
  for flags, reason in (
    ((), "--weights is needed"),
    (("--weights=a", "--dataset=b", "--workdir=c"), "--out is needed"),
  ):
    run = subprocess.run(
      [sys.executable, "train_surface_head.py", *flags], cwd=ROOT, env=environment, capture_output=True, text=True
    )
    assert run.returncode == 2
    assert reason in run.stderr
    assert run.stderr.count("\n") == 1
