"""The one exception that entry scripts turn into a single line and exit code 2."""


class BadInput(ValueError):
  """What the user gave cannot be used.

  The message is one line that names the thing and the place, fit to be printed as it is.
  """
