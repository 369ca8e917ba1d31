"""Loads a pickle of strangers without running anything from it.

A pickle is a program that may call anything. Here it may call only what an explicit allow-list holds; any other name in
it ends the reading, and so does what would hang or exhaust the interpreter.
"""

import contextlib
import io
import pickle
import pickletools
import textwrap
from collections.abc import Callable, Iterator, Mapping
from typing import Any

from dpr_jax.base.errors import BadInput

# The official weights take 13,000 at most. A tuple nested 200,000 deep would exhaust the interpreter's stack.
_MAX_OPERATIONS = 50_000
_DEEPEST = 100  # containers in containers
_MOST_INTEGER_BITS = 128  # the magic number of torch.save has 77
# What may be a key: hashing a tuple takes as long as its nesting lets it, which two hundred bytes make for ever.
_KEY_KINDS = {"int", "int_or_bool", "bool", "str", "bytes", "bytes_or_str", "string", "unicode", "None"}
_SETS = {"EMPTY_SET", "ADDITEMS", "FROZENSET"}
_NEWEST_PROTOCOL = 5


@contextlib.contextmanager
def malformed(source: str, what: str) -> Iterator[None]:
  """Turns whatever goes wrong inside into a one-line `BadInput`; hostile bytes raise nearly every kind of exception."""
  try:
    yield
  except BadInput:
    raise
  except Exception as error:
    reason = textwrap.shorten(f"{type(error).__name__}: {error}", 200)
    raise BadInput(f"{source}: {what} ({reason})") from None


class _RestrictedUnpickler(pickle.Unpickler):
  """Resolves every global from an allow-list and imports nothing."""

  def __init__(self, stream, source, allowed, persistent_load):
    super().__init__(stream, encoding="latin1")  # Python 2 wrote the official files, its `str` holds bytes
    self._source = source
    self._allowed = allowed
    self._persistent_load = persistent_load

  def find_class(self, module, name):
    try:
      return self._allowed[module, name]
    except KeyError:
      unwanted = textwrap.shorten(repr(f"{module}.{name}"[:150]), 150)
      raise BadInput(f"{self._source}: refuses to load global {unwanted}, which weights do not need") from None

  def persistent_load(self, pid):
    if self._persistent_load is None:
      raise BadInput(f"{self._source}: the pickle refers to an object outside itself")
    return self._persistent_load(pid)


class _Checker:
  """Follows a pickle's operations on a stack of kinds and depths, to refuse what would hang or recurse."""

  def __init__(self, source: str):
    self._source = source
    self._stack: list[tuple[str, int]] = []
    self._memo: dict[int, tuple[str, int]] = {}

  def _refuse(self, what: str) -> BadInput:
    return BadInput(f"{self._source}: the pickle holds {what}, which weights do not need")

  def follow(self, opcode: pickletools.OpcodeInfo, argument: Any) -> None:
    """One operation; raises BadInput, or IndexError where the stack has too little on it."""
    if opcode.name in _SETS:
      raise self._refuse("a set")
    if isinstance(argument, int) and argument.bit_length() > _MOST_INTEGER_BITS:
      raise self._refuse(f"an integer of {argument.bit_length()} bits")
    if opcode.name == "PROTO" and argument > _NEWEST_PROTOCOL:
      raise BadInput(f"{self._source}: a pickle of the unknown protocol {argument}")
    if opcode.name in ("PUT", "BINPUT", "LONG_BINPUT", "MEMOIZE"):
      self._memo[len(self._memo) if opcode.name == "MEMOIZE" else argument] = self._stack[-1]
      return
    if opcode.name == "DUP":
      self._stack.append(self._stack[-1])
      return
    if opcode.name in ("GET", "BINGET", "LONG_BINGET"):
      self._stack.append(self._memo[argument])
      return
    taken = self._take(opcode)
    keys = {"SETITEM": taken[1:2], "SETITEMS": taken[1::2], "DICT": taken[::2]}.get(opcode.name, [])
    if any(kind not in _KEY_KINDS for kind, _ in keys):
      raise self._refuse("a key that is neither a text nor a number")
    depth = max((depth for _, depth in taken), default=0) + bool(taken)
    if depth > _DEEPEST:
      raise self._refuse(f"more than {_DEEPEST} containers in each other")
    self._stack += [(each.name, depth) for each in opcode.stack_after]

  def _take(self, opcode: pickletools.OpcodeInfo) -> list[tuple[str, int]]:
    """What an operation takes from the stack, without the mark."""
    before = opcode.stack_before
    if pickletools.markobject not in before:
      place = len(self._stack) - len(before)
    else:
      mark = max(k for k, (kind, _) in enumerate(self._stack) if kind == pickletools.markobject.name)
      place = mark - before.index(pickletools.markobject)
    if place < 0:
      raise IndexError("it takes more from its stack than is there")
    taken = self._stack[place:]
    del self._stack[place:]
    return [each for each in taken if each[0] != pickletools.markobject.name]


def load_pickle(
  stream: io.BytesIO,
  source: str,
  allowed: Mapping[tuple[str, str], object],
  persistent_load: Callable[[Any], Any] | None = None,
) -> Any:
  """Loads one pickle and calls nothing but what `allowed` holds.

  Args:
    stream: in memory, positioned at the pickle; left right behind it.
    source: what to call the file in errors.
    allowed: (module, name) as the file spells them -> the object to use instead. The pickle can call these objects
      with any arguments and try to set any of their attributes, so give immutable ones: instances of a class with
      empty `__slots__`, or types written in C, never a plain function or class.
    persistent_load: resolves persistent ids; without it a pickle that has any is refused.

  Raises:
    BadInput: truncated or not a pickle, it asks for a global that is not allowed, or it holds what would take for ever:
      sets, keys other than texts and numbers, enormous integers, deep nesting.
  """
  start = stream.tell()
  with malformed(source, "not a complete pickle"):
    # The C unpickler allocates what an opcode announces before it looks whether that is there: lengths (checked by
    # genops) and memo indices, which in an honest pickle count up from 0 or 1.
    checker = _Checker(source)
    argument: Any
    for count, (opcode, argument, _) in enumerate(pickletools.genops(stream)):
      if count > _MAX_OPERATIONS:
        raise BadInput(f"{source}: the pickle has more than {_MAX_OPERATIONS} operations, weights need far fewer")
      if opcode.name in ("PUT", "BINPUT", "LONG_BINPUT") and argument > count:
        raise BadInput(f"{source}: the pickle puts object {argument} into its memo after {count} operations")
      checker.follow(opcode, argument)
    end = stream.tell()
  stream.seek(start)
  with malformed(source, "the pickle cannot be loaded"):
    loaded = _RestrictedUnpickler(stream, source, allowed, persistent_load).load()
  stream.seek(end)
  return loaded
