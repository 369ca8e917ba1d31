"""Serves the web app: drag the light, see the face change.

dpr-jax app
dpr-jax app --port=8080 --weights=default,official-512
dpr-jax app --host=0.0.0.0 --allowed_hosts=relight.example.org --max_megapixels=24

The page listens on this machine alone unless --host says otherwise. It needs Gradio: pip install "dpr_jax[app]".
"""

import importlib.util
import signal
import time

from absl import flags

from dpr_jax.base.errors import BadInput

EXTRA = "app"  # of the package, which brings what this command imports
_STOP_SIGNALS = (signal.SIGINT, signal.SIGTERM)
_LOOK_SECONDS = 0.5

_HOST = flags.DEFINE_string("host", "127.0.0.1", "the address to listen at; 0.0.0.0 is reached from other machines")
_PORT = flags.DEFINE_integer("port", None, "where to listen; default: the first free one from 7860 on")
_WEIGHTS = flags.DEFINE_list("weights", ["default"], "what can be chosen, as for relight.py; the first is the default")
_FACE_FINDER = flags.DEFINE_enum(
  "face_finder",
  None,
  ["embedded", "mediapipe"],
  "who looks for faces; default: mediapipe where it is installed and its model is at hand, else embedded",
)
_ALLOWED_HOSTS = flags.DEFINE_list(
  "allowed_hosts",
  [],
  "names or addresses under which browsers reach this server, beside localhost and --host; requests for others are "
  "refused, as pages of other sites would send them",
)
_MAX_MEGABYTES = flags.DEFINE_integer("max_megabytes", 40, "of a file that is uploaded", lower_bound=1)
_MAX_MEGAPIXELS = flags.DEFINE_integer("max_megapixels", 50, "of a photo that is decoded", lower_bound=1)
_FOLDER_MEGABYTES = flags.DEFINE_integer(
  "folder_megabytes", 2048, "of all that was uploaded or made in the last hour", lower_bound=100
)
_WAITING = flags.DEFINE_integer(
  "waiting", 32, "how many requests may wait; three, and one film, are worked on at a time", lower_bound=1
)


def main() -> None:
  if importlib.util.find_spec("gradio") is None:
    raise BadInput('the web app needs Gradio: pip install "dpr_jax[app]"')
  if not _WEIGHTS.value:
    raise BadInput("--weights names none")
  from dpr_jax.network import traced  # seconds, which --help doesn't cost
  from dpr_jax.web import app as web_app
  from dpr_jax.web.service import RelightService

  traced.enable_compilation_cache()
  stop = _note_stop_signals()
  with (
    RelightService(tuple(_WEIGHTS.value), _MAX_MEGAPIXELS.value * 1_000_000, _FACE_FINDER.value) as service,
    web_app.serving(
      service,
      _HOST.value,
      _PORT.value,
      max_megabytes=_MAX_MEGABYTES.value,
      waiting=_WAITING.value,
      hosts=_ALLOWED_HOSTS.value,
      folder_megabytes=_FOLDER_MEGABYTES.value,
    ) as address,
  ):
    print(f"serving at {address}", flush=True)
    _wait_for(stop)


def _note_stop_signals() -> list[int]:
  """A list to which SIGINT and SIGTERM are added as they come."""
  noted: list[int] = []
  for number in _STOP_SIGNALS:
    signal.signal(number, lambda number, _: noted.append(number))
  return noted


def _wait_for(noted: list[int]) -> None:
  """Returns once a signal has been noted; a second one ends the process at once."""
  while not noted:
    time.sleep(_LOOK_SECONDS)  # a signal that the system hands to another thread ends no sleep of this one
  for number in _STOP_SIGNALS:
    signal.signal(number, signal.SIG_DFL)
