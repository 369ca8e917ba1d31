"""A short round of the fuzzer: the same inputs each time, of every reader."""

import itertools

import pytest
from absl import flags

from benchmarks import fuzz

INPUTS = 15

# Commands that other tests start in this process have flags of the same names.
for flag in flags.FLAGS.get_flags_for_module(fuzz.__name__):
  delattr(flags.FLAGS, flag.name)


@pytest.mark.parametrize("name", list(fuzz.READERS))
def test_what_is_not_read_is_refused_in_one_line(name, tmp_path):
  reader = fuzz.READERS[name]
  outcomes = {
    number: fuzz.outcome(reader, content, tmp_path)
    for number, content in enumerate(itertools.islice(fuzz.inputs(reader, 1), INPUTS))
  }
  assert {number: each for number, each in outcomes.items() if each not in ("read", "refused")} == {}
  assert "refused" in outcomes.values()


def test_seeds_are_read_and_inputs_are_the_same_again(tmp_path):
  for name, reader in fuzz.READERS.items():
    for content in reader.seeds():
      whole = content if reader.wrap is None else reader.wrap(content)
      assert fuzz.outcome(reader, whole, tmp_path) == "read", name
    if name in ("light", "photo"):
      one, other = (next(fuzz.inputs(reader, 3, 17)) for _ in range(2))
      assert one == other


def test_what_escapes_is_a_fault(tmp_path):
  def fail(path):
    raise KeyError("a name")

  assert fuzz.outcome(fuzz.Reader(".txt", list, fail), b"", tmp_path).startswith("KeyError at test_fuzz.py:")
  lines = fuzz.Reader(".txt", list, lambda path: (_ for _ in ()).throw(fuzz.BadInput("one\ntwo")))
  assert "2 lines" in fuzz.outcome(lines, b"", tmp_path)
