"""Plain pickles pass; those that call something, or would take for ever, are refused in a line."""

import io
import pickle

import numpy as np
import pytest

from dpr_jax.base.errors import BadInput
from dpr_jax.base.restricted_pickle import load_pickle


def test_load_pickle_takes_another_allow_list():
  """As needed for the NumPy pickles of the 3DDFA basis."""
  array = np.arange(6.0).reshape(2, 3)
  stream = io.BytesIO(pickle.dumps(array, 4) + b"what follows")
  allowed = {
    ("numpy._core.multiarray", "_reconstruct"): np._core.multiarray._reconstruct,
    ("numpy", "ndarray"): np.ndarray,
    ("numpy", "dtype"): np.dtype,
  }
  np.testing.assert_array_equal(load_pickle(stream, "a.pkl", allowed), array)
  assert stream.read() == b"what follows"
  with pytest.raises(BadInput, match=r"^a\.pkl: the pickle refers to an object outside itself"):
    load_pickle(io.BytesIO(b"\x80\x02NQ."), "a.pkl", {})


def nested(times, make=lambda inner: (inner, inner)):
  value = ()
  for _ in range(times):
    value = make(value)
  return value


@pytest.mark.parametrize(
  ("content", "reason"),
  [
    # A key whose hash takes 2**60 steps, so not made here: an empty tuple, doubled sixty times.
    (b"\x80\x02})" + 60 * b"2\x86" + b"K\x01s.", "a key that is neither a text nor a number"),
    (pickle.dumps({(1, 2): 1}), "a key that is neither a text nor a number"),
    (pickle.dumps([{"a": 1}, {("b",): 2, "c": 3}], 0), "a key that is neither a text nor a number"),
    (pickle.dumps({1}), "a set"),
    (pickle.dumps(frozenset([1])), "a set"),
    (pickle.dumps(nested(101, lambda inner: [inner])), "more than 100 containers in each other"),
    (pickle.dumps(nested(101, lambda inner: {"a": inner})), "more than 100 containers in each other"),
    (pickle.dumps(10**6000), "an integer of 19932 bits"),
    (pickle.dumps(-(10**4000), 0), "an integer of"),
    (b"\x80\x06N.", "the unknown protocol 6"),
    (b"0.", "not a complete pickle"),
    (b"u.", "not a complete pickle"),
  ],
)
def test_pickles_that_would_take_for_ever_are_refused(content, reason):
  with pytest.raises(BadInput) as refused:
    load_pickle(io.BytesIO(content), "weights", {})
  assert reason in str(refused.value)
  assert len(str(refused.value)) < 300


def test_pickles_as_they_are_pass():
  value = {"a": [1, 2.5, None, True], 3: ("x", b"y", {"deep": [[[()]]]}), b"z": -(2**100)}
  for protocol in range(6):
    stream = io.BytesIO(pickle.dumps(value, protocol))
    if protocol < 3:  # which write bytes as a call of a codec
      stream = io.BytesIO(pickle.dumps({"a": value["a"], 3: ("x", {"deep": [[[()]]]})}, protocol))
    assert load_pickle(stream, "weights", {})["a"] == value["a"]
