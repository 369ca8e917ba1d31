"""The exception that entry scripts turn into a single line and exit code 2, and how such a line is shown."""

from collections.abc import Iterable

_LONGEST = 300  # letters of a line; its two ends say what and why


class BadInput(ValueError):
  """What the user gave cannot be used.

  The message is one line that names the thing and the place, fit to be shown through `one_line`.
  """


class BadInputs(BadInput):
  """Several things that the user gave cannot be used: a line on all of them, and below it one on each."""

  def __init__(self, message: str, reasons: Iterable[str]):
    super().__init__("\n  ".join([f"{one_line(message)}:", *map(one_line, reasons)]))


def one_line(message: str) -> str:
  """A message as terminals and pages may show it, whatever file names and contents have got into it.

  Letters that are not printable (control characters, marks of direction, bytes that are no text) are escaped as in
  Python. Of more than 300 letters the middle is left out.
  """
  parts = (letter if letter.isprintable() else letter.encode("unicode_escape").decode() for letter in message)
  line = "".join(parts)
  half = _LONGEST // 2
  return line if len(line) <= _LONGEST else f"{line[: half - 3]}...{line[-half:]}"


def reason_of(error: Exception) -> str:
  """What a library says in an exception, on one line; of a long text the first 200 letters."""
  return " ".join(str(error).split())[:200]
