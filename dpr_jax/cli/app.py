"""Serves the web app: drag the light, see the face change.

dpr-jax app
dpr-jax app --port=8080 --weights=default,official-512
dpr-jax app --host=0.0.0.0 --allowed_hosts=relight.example.org --max_megapixels=24

The page listens on this machine alone unless --host says otherwise. It needs Gradio: pip install "dpr_jax[app]".
"""

import contextlib
import importlib.util
import signal
import socket
from collections.abc import Iterator

from absl import flags

from dpr_jax.base.errors import BadInput

EXTRA = "app"  # of the package, which brings what this command imports

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
  with (
    _stop_signals() as stop,
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
    stop.recv(1)


@contextlib.contextmanager
def _stop_signals() -> Iterator[socket.socket]:
  """Yields a socket from which a byte can be read as soon as SIGINT or SIGTERM has come.

  The system may hand a signal to any thread, and Python then leaves a main thread that waits for an event asleep.
  """
  stop, reached = socket.socketpair()
  with stop, reached:
    reached.setblocking(False)
    signal.set_wakeup_fd(reached.fileno())
    for number in (signal.SIGINT, signal.SIGTERM):
      signal.signal(number, lambda *_: None)
    try:
      yield stop
    finally:
      signal.set_wakeup_fd(-1)
