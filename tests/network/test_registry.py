"""What the registry says of weights is what the weights, the assets and the model card say."""

import hashlib

import pytest

from dpr_jax.base.assets import ASSETS
from dpr_jax.network.networks import network_for, traits_of
from dpr_jax.network.registry import DEFAULT, WEIGHTS, listing
from dpr_jax.network.weights import load_params
from tests.conftest import ROOT

CARD = (ROOT / "MODEL_CARD.md").read_text(encoding="utf-8")


@pytest.mark.parametrize("weights", WEIGHTS.values(), ids=WEIGHTS)
def test_an_entry_is_true(weights, shared):
  if not weights.file:
    shared(f"reference/dpr/{ASSETS[weights.name].filename}")
  assert hashlib.sha256(weights.path().read_bytes()).hexdigest() == weights.sha256
  params = load_params(weights.name)
  network, traits = network_for(params), traits_of(params)
  assert (type(network).__name__, network.native_size) == (weights.network, weights.native_size)
  assert traits.name == weights.network
  # What is known of it without Flax is what the network says of itself.
  for fact in ("native_size", "size_multiple", "light_size", "base_filters", "gray"):
    assert getattr(traits, fact) == getattr(network, fact), fact
  assert traits.light_channels == getattr(network, "light_channels", None)
  assert traits.shape_cell == getattr(network, "shape_cell", None)
  if weights.scores:
    assert str(weights.scores["si_mse"]) in CARD
    assert f"{weights.scores['ssim']:.3f}" in CARD


def test_only_ours_may_be_used_for_anything():
  assert [name for name, weights in WEIGHTS.items() if weights.licence == "Apache-2.0"] == [DEFAULT]
  assert all("research" in ASSETS[name].terms for name, weights in WEIGHTS.items() if not weights.file)


def test_all_are_listed_with_all_that_is_known():
  paragraphs = listing().split("\n\n")
  for weights, paragraph in zip(WEIGHTS.values(), paragraphs, strict=True):
    known = (weights.name, weights.network, weights.licence, weights.light, weights.trained_on, weights.place)
    assert all(fact in paragraph for fact in (*known, weights.sha256))


def head_of_card(weights):
  """What the Hugging Face hub reads of a model card: the YAML between `---` with which MODEL_CARD.md begins."""
  lines = [
    f"license: {weights.licence.lower()}",
    "library_name: dpr_jax",
    "pipeline_tag: image-to-image",
    "tags: [portrait-relighting, spherical-harmonics, jax]",
  ]
  if weights.scores:
    lines += [
      "model-index:",
      f"- name: {weights.name}",
      "  results:",
      "  - task: {type: image-to-image, name: portrait relighting}",
      "    dataset: {type: extended-yale-b, name: Extended Yale B}",
      "    metrics:",
      f"    - {{type: si-mse, name: si-MSE x 1000, value: {weights.scores['si_mse']}}}",
      f"    - {{type: ssim, name: SSIM, value: {weights.scores['ssim']}}}",
    ]
  return "\n".join(["---", *lines, "---", ""])


def test_the_card_begins_as_the_hub_reads_it():
  entry, head = WEIGHTS[DEFAULT], head_of_card(WEIGHTS[DEFAULT])
  assert CARD.startswith(head), f"MODEL_CARD.md must begin with\n{head}"
  card = pytest.importorskip("huggingface_hub").ModelCard(CARD)
  assert (card.data.license, card.data.library_name) == ("apache-2.0", "dpr_jax")
  assert {result.metric_type: result.metric_value for result in card.data.eval_results} == {
    "si-mse": entry.scores["si_mse"],
    "ssim": entry.scores["ssim"],
  }
  assert card.text.lstrip().startswith("# Model card")
