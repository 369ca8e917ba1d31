"""What has been traced once is not traced again, and gives the same numbers."""

import contextlib
import subprocess
import sys

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


def traces(folder):
  return [path for path in folder.iterdir() if not path.suffix]


def programs(folder):
  return list(folder.glob("*.program"))


def test_a_program_is_all_that_the_next_process_reads(folder, brighten, monkeypatch):
  expected = traced.call(brighten, NUMBERS, LIGHT)
  for path in traces(folder):
    path.unlink()
  another_process()
  monkeypatch.setattr(traced, "_exported", lambda *_: pytest.fail("looked for the trace"))
  found = traced.call(brighten, NUMBERS, LIGHT)
  assert isinstance(found, Light)
  for one, other in zip(found, expected, strict=True):
    np.testing.assert_array_equal(one, other)


def test_what_a_program_returns_keeps_its_structure(folder):
  def nested(numbers, light):
    return (numbers, (light,)), numbers + 1

  for _ in range(2):
    (numbers, (light,)), more = traced.call(nested, NUMBERS, LIGHT)
    assert isinstance(light, Light)
    assert np.shape(light.towards) == (1, 3)
    np.testing.assert_array_equal(more, numbers + 1)
    another_process()
  single = traced.call(lambda numbers: 2 * numbers, NUMBERS)
  np.testing.assert_array_equal(single, 2 * NUMBERS)


def test_programs_are_written_anew_even_if_xla_has_kept_them(folder, brighten, tmp_path):
  """XLA gives back what it kept in a form that cannot be written a second time."""
  with jax_cache(tmp_path / "xla"):
    for _ in range(2):
      expected = traced.call(brighten, NUMBERS, LIGHT)
      (path,) = programs(folder)
      path.unlink()
      another_process()
    traced.call(brighten, NUMBERS, LIGHT)
    another_process()
    np.testing.assert_array_equal(traced.call(brighten, NUMBERS, LIGHT).soft, expected.soft)
    assert len(programs(folder)) == 1


@contextlib.contextmanager
def jax_cache(folder):
  """JAX's own cache of what is compiled, switched on."""
  names = (
    "jax_compilation_cache_dir",
    "jax_persistent_cache_min_compile_time_secs",
    "jax_persistent_cache_min_entry_size_bytes",
  )
  before = {name: getattr(jax.config, name) for name in names}
  try:
    for name, value in zip(names, (str(folder), 0.0, -1), strict=True):
      jax.config.update(name, value)
    yield
  finally:
    for name, value in before.items():
      jax.config.update(name, value)


def test_the_next_process_begins_with_what_this_one_used(folder):
  """Its programs are loaded in another thread before they are asked for."""
  code = """
import sys
import numpy as np
from dpr_jax.light.light import key_and_fill
from dpr_jax.network import traced

def double(light):
  return light._replace(soft=2 * light.soft)

traced.keep_in(__import__("pathlib").Path(sys.argv[1]))
traced.load_ahead()
ahead = [path.name for path in traced._programs._ahead]
light = key_and_fill(np.float32([0, -1, 0]), 0.25, 15)
np.testing.assert_allclose(traced.call(double, light).soft, 2 * light.soft)
print(len(ahead), "flax" in sys.modules, "scipy" in sys.modules)
"""
  said = [
    subprocess.run([sys.executable, "-c", code, str(folder)], check=True, capture_output=True, text=True).stdout
    for _ in range(2)
  ]
  assert said[0].startswith("0 False")
  assert said[1] == "1 False False\n"


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
  assert len(traces(folder)) == len(programs(folder)) == 1


def test_other_shapes_static_arguments_and_code_are_traced_anew(folder, brighten, monkeypatch):
  brighten = jax.jit(brighten.__wrapped__, static_argnames="power")
  traced.call(brighten, NUMBERS, LIGHT)
  shorter = traced.call(brighten, NUMBERS[:3], LIGHT)
  squared = traced.call(brighten, NUMBERS, LIGHT, power=2.0)
  np.testing.assert_allclose(shorter.soft, LIGHT.soft * NUMBERS[:3].sum(), rtol=1e-6)
  np.testing.assert_allclose(squared.soft, LIGHT.soft * NUMBERS.sum() ** 2, rtol=1e-6)
  monkeypatch.setattr(traced, "sources", lambda: "of another version")
  another_process()
  traced.call(brighten, NUMBERS, LIGHT)
  assert len(traces(folder)) == len(programs(folder)) == 4


@pytest.mark.parametrize("content", [b"", b"not a trace", None])
def test_a_damaged_trace_is_written_anew(folder, brighten, content):
  expected = traced.call(brighten, NUMBERS, LIGHT)
  paths = [*traces(folder), *programs(folder)]
  sizes = [len(path.read_bytes()) for path in paths]
  for path, size in zip(paths, sizes, strict=True):
    path.write_bytes(path.read_bytes()[: size // 2] if content is None else content)
  another_process()
  np.testing.assert_array_equal(traced.call(brighten, NUMBERS, LIGHT).soft, expected.soft)
  for path, size in zip(paths, sizes, strict=True):
    assert len(path.read_bytes()) == pytest.approx(size, rel=0.01)  # a program has a name of its own


def test_a_folder_that_cannot_be_written_to_is_none(folder, brighten):
  folder.write_text("a file in its place")
  np.testing.assert_array_equal(traced.call(brighten, NUMBERS, LIGHT).soft, brighten(NUMBERS, LIGHT).soft)


def test_nothing_is_kept_unless_a_command_asks_for_it(tmp_path, brighten, monkeypatch):
  monkeypatch.setattr(traced, "_folder", None)
  monkeypatch.chdir(tmp_path)
  np.testing.assert_array_equal(traced.call(brighten, NUMBERS, LIGHT).soft, brighten(NUMBERS, LIGHT).soft)
  assert not list(tmp_path.iterdir())
