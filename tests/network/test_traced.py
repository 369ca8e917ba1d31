"""What has been traced once is not traced again, and gives the same numbers."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from dpr_jax.light.light import Light, key_and_fill
from dpr_jax.network import traced

LIGHT = key_and_fill(np.float32([0, -1, 0]), 0.25, 15)
NUMBERS = np.linspace(0.1, 1, 7, dtype=np.float32)


@pytest.fixture
def folder(tmp_path, monkeypatch):
  """Where traces are kept; what this process has read of them is forgotten between tests."""
  monkeypatch.setattr(traced, "_folder", None)
  traced._kept.cache_clear()
  traced.keep_in(tmp_path / "traced")
  yield tmp_path / "traced"
  traced._kept.cache_clear()


@pytest.fixture
def brighten():
  """A function that counts how often it is traced."""

  @jax.jit
  def brighten(numbers, light, *, power=1.0):
    brighten.traced += 1
    return light._replace(soft=light.soft * jnp.sum(numbers) ** power)

  brighten.traced = 0
  return brighten


def another_process():
  traced._kept.cache_clear()


def test_it_is_traced_once_for_all_processes(folder, brighten):
  expected = brighten(NUMBERS, LIGHT)
  before = brighten.traced
  first = traced.call(brighten, NUMBERS, LIGHT)
  counted = brighten.traced
  another_process()
  second = traced.call(brighten, NUMBERS, LIGHT)
  assert brighten.traced == counted <= before + 1
  for found in (first, second):
    assert isinstance(found, Light)
    np.testing.assert_array_equal(found.soft, expected.soft)
    np.testing.assert_array_equal(found.towards, expected.towards)
  assert len(list(folder.iterdir())) == 1


def test_other_shapes_static_arguments_and_code_are_traced_anew(folder, brighten, monkeypatch):
  brighten = jax.jit(brighten.__wrapped__, static_argnames="power")
  traced.call(brighten, NUMBERS, LIGHT)
  shorter = traced.call(brighten, NUMBERS[:3], LIGHT)
  squared = traced.call(brighten, NUMBERS, LIGHT, power=2.0)
  np.testing.assert_allclose(shorter.soft, LIGHT.soft * NUMBERS[:3].sum(), rtol=1e-6)
  np.testing.assert_allclose(squared.soft, LIGHT.soft * NUMBERS.sum() ** 2, rtol=1e-6)
  monkeypatch.setattr(traced, "_sources", lambda: "of another version")
  another_process()
  traced.call(brighten, NUMBERS, LIGHT)
  assert len(list(folder.iterdir())) == 4


@pytest.mark.parametrize("content", [b"", b"not a trace", None])
def test_a_damaged_trace_is_written_anew(folder, brighten, content):
  expected = traced.call(brighten, NUMBERS, LIGHT)
  (path,) = folder.iterdir()
  whole = path.read_bytes()
  path.write_bytes(whole[: len(whole) // 2] if content is None else content)
  another_process()
  np.testing.assert_array_equal(traced.call(brighten, NUMBERS, LIGHT).soft, expected.soft)
  assert len(path.read_bytes()) == len(whole)


def test_a_folder_that_cannot_be_written_to_is_none(folder, brighten):
  folder.write_text("a file in its place")
  np.testing.assert_array_equal(traced.call(brighten, NUMBERS, LIGHT).soft, brighten(NUMBERS, LIGHT).soft)


def test_nothing_is_kept_unless_a_command_asks_for_it(tmp_path, brighten, monkeypatch):
  monkeypatch.setattr(traced, "_folder", None)
  monkeypatch.chdir(tmp_path)
  np.testing.assert_array_equal(traced.call(brighten, NUMBERS, LIGHT).soft, brighten(NUMBERS, LIGHT).soft)
  assert not list(tmp_path.iterdir())
