"""What every request passes before the web app sees it: whose page it comes from, what it is after, and its size.

An ASGI middleware. A refusal is a status and one line; neither it nor any error of the app writes what was sent to the
log.
"""

import asyncio
import contextlib
import ipaddress
import json
import logging
import re
import traceback
from collections.abc import Callable, Sequence
from typing import Any, NamedTuple
from urllib.parse import urlsplit

from starlette.datastructures import Headers, MutableHeaders
from starlette.responses import JSONResponse

from dpr_jax.base.errors import BadInput, one_line
from dpr_jax.web.upload_folder import UploadFolder

LOOPBACK = ("localhost", "127.0.0.1", "::1")

_MOST_JSON_BYTES = 2**18
_MULTIPART_BYTES = 2**14  # around a file that is uploaded
_BODY_SECONDS = 120  # for a request to arrive in full
_MOST_REQUESTS = 400  # at a time; every open page holds one or two

# What the page and clients need. Gradio has more: it records, fetches addresses and writes code for developers.
_API = r"/gradio_api/"
_READ = re.compile(
  r"/|/config/?|/theme\.css|/favicon\.ico|/manifest\.json|/robots\.txt|/(assets|static|svelte)/.+|"
  + _API
  + r"(info/?|openapi\.json|app_id/?|startup-events|theme\.css|upload_progress|user/?|token/?|login_check/?|queue/data"
  r"|queue/status|heartbeat/\w+|call/(v2/)?\w+/\w+|file=(?!\w\w+:).+)"
)
_UPLOAD = re.compile(_API + "upload")
_ASK = re.compile(_API + r"(queue/join|cancel|reset|call/(v2/)?\w+)")

_HEADERS = {
  "X-Content-Type-Options": "nosniff",
  "X-Frame-Options": "DENY",
  "Content-Security-Policy": "frame-ancestors 'none'",
  "Cross-Origin-Resource-Policy": "same-origin",
  "Referrer-Policy": "same-origin",
}

_log = logging.getLogger(__name__)


class _Refused(Exception):
  """A status and one line for whoever sent the request."""

  def __init__(self, status: int, line: str):
    super().__init__(line)
    self.status, self.line = status, one_line(line)


class HostName(NamedTuple):
  """A host as browsers write it: in small letters, addresses without brackets; and its port, or None."""

  name: str
  port: int | None


def host_name(text: str) -> HostName | None:
  """Of a `Host` header or an entry of a list of hosts; None where it is neither a name nor an address."""
  with contextlib.suppress(ValueError):
    if re.fullmatch(r"[\w.-]+(:\d+)?|\[[0-9a-fA-F:.]+\](:\d+)?", text, re.ASCII):
      parts = urlsplit(f"//{text}")
      return HostName(parts.hostname.rstrip("."), parts.port) if parts.hostname else None
    return HostName(str(ipaddress.IPv6Address(text)), None)
  return None


class Gate:
  """Lets through what belongs to the page, from the page itself or from programs.

  Args:
    app: what answers.
    folder: where uploads go.
    hosts: the names under which this server may be asked for, as of `allowed_hosts`.
    max_bytes: of a request that uploads a file, beside what multipart adds to it.
  """

  def __init__(self, app: Callable, folder: UploadFolder, hosts: Sequence[str], max_bytes: int):
    self._app, self._folder, self._hosts = app, folder, frozenset(hosts)
    self._most_upload_bytes = max_bytes + _MULTIPART_BYTES
    self._requests = 0

  async def __call__(self, scope: dict, receive: Callable, send: Callable) -> None:
    if scope["type"] == "lifespan":
      await self._app(scope, receive, send)
    elif scope["type"] == "http":
      await self._answer(scope, receive, send)
    elif scope["type"] == "websocket":
      await send({"type": "websocket.close"})  # which nothing here needs

  async def _answer(self, scope: dict, receive: Callable, send: Callable) -> None:
    begun = False

    async def send_with_headers(message: dict) -> None:
      nonlocal begun
      if message["type"] == "http.response.start":
        begun = True
        MutableHeaders(scope=message).update(_HEADERS)
      await send(message)

    self._requests += 1
    try:
      await self._pass_on(scope, receive, send_with_headers)
    except _Refused as refused:
      answer = JSONResponse({"detail": refused.line, "error": refused.line}, refused.status)
    except Exception as error:
      answer = JSONResponse({"detail": "this request cannot be answered"}, 400)
      log_error("a request", error)
    else:
      return
    finally:
      self._requests -= 1
    if not begun:
      await answer(scope, receive, send_with_headers)

  async def _pass_on(self, scope: dict, receive: Callable, send: Callable) -> None:
    if self._requests > _MOST_REQUESTS:
      raise _Refused(429, "too many requests at a time; try again later")
    headers, path, method = Headers(scope=scope), scope["path"], scope["method"]
    self._check_host(headers)
    if method in ("GET", "HEAD", "OPTIONS") and _READ.fullmatch(path):
      await self._app(scope, receive, send)
    elif method == "POST" and _ASK.fullmatch(path):
      body = await _body(headers, receive, _MOST_JSON_BYTES, self._folder)
      _check_json(body)
      await self._app(scope, _replayed(body, receive), send)
    elif method == "POST" and _UPLOAD.fullmatch(path):
      await self._pass_upload_on(scope, headers, receive, send)
    else:
      raise _Refused(404, "there is nothing at this address")

  async def _pass_upload_on(self, scope: dict, headers: Headers, receive: Callable, send: Callable) -> None:
    limit = _announced(headers, self._most_upload_bytes)
    try:
      with self._folder.used(), contextlib.ExitStack() as room:
        await asyncio.to_thread(room.enter_context, self._folder.reserved(limit))
        await self._app(scope, _bounded(receive, limit, self._folder), send)
    except BadInput as error:
      raise _Refused(503 if self._folder.closing else 429, str(error)) from None

  def _check_host(self, headers: Headers) -> None:
    """Pages of other sites reach this server through the browser of somebody who can: by a name of their own that
    leads here (DNS rebinding), which shows in `Host`, or by its address, which shows in `Origin`.
    """
    hosts = headers.getlist("host")
    host = host_name(hosts[0]) if len(hosts) == 1 else None
    if host is None or host.name not in self._hosts:
      raise _Refused(403, "this server does not go by that name (app.py --allowed_hosts)")
    for origin in headers.getlist("origin"):
      if not self._is_own(origin, host):
        raise _Refused(403, "requests from pages of other sites are not answered")
    if headers.get("sec-fetch-site") == "cross-site" and headers.get("sec-fetch-mode") != "navigate":
      raise _Refused(403, "requests from pages of other sites are not answered")

  def _is_own(self, origin: str, host: HostName) -> bool:
    """A proxy may ask under another name than the browser did: both must be allowed then, and neither be this machine,
    where other servers have pages, too.
    """
    with contextlib.suppress(ValueError):
      scheme, at, place = origin.partition("://")
      if at and scheme in ("http", "https") and (own := host_name(place)):
        if own.name == host.name:
          default = {"http": 80, "https": 443}[scheme]
          behind_proxy = host.port is None and own.name not in LOOPBACK
          return behind_proxy or (own.port or default) == (host.port or default)
        return own.name in self._hosts and own.name not in LOOPBACK
    return False


def allowed_hosts(host: str, named: Sequence[str] = ()) -> tuple[str, ...]:
  """The names under which a server may be asked for: of this machine, where it listens, and those that are named.

  Raises:
    BadInput: one of them is no name of a host.
  """
  names = list(LOOPBACK)
  for text in (*named, *(() if host in ("0.0.0.0", "::", "[::]") else (host,))):
    parsed = host_name(text.strip())
    if parsed is None or parsed.port is not None:
      raise BadInput(f"--allowed_hosts {text!r}: must be the name or the address of a host, without a port")
    names.append(parsed.name)
  return tuple(dict.fromkeys(names))


def log_error(of: str, error: Exception) -> None:
  """One line on an error that nobody foresaw: what and where, but not its message, which may hold what was sent."""
  frames = traceback.extract_tb(error.__traceback__)
  places = ", ".join(f"{frame.filename}:{frame.lineno}" for frame in frames[-3:])
  _log.error("%s failed: %s at %s", of, type(error).__name__, places)


def _announced(headers: Headers, limit: int) -> int:
  """How many bytes a request says that it has, or `limit` where it does not say."""
  text = headers.get("content-length")
  if text is None:
    return limit
  if not re.fullmatch(r"\d{1,18}", text, re.ASCII):
    raise _Refused(400, "the length of the request is no number")
  if int(text) > limit:
    raise _Refused(413, f"the request is too large: {text} bytes, at most {limit} are taken")
  return int(text)


def _bounded(receive: Callable, limit: int, folder: UploadFolder) -> Callable:
  """`receive`, which refuses more than `limit` bytes, to wait for ever, or until after the end of the server."""
  loop = asyncio.get_running_loop()
  until, taken, whole = loop.time() + _BODY_SECONDS, 0, False

  async def bounded() -> dict:
    nonlocal taken, whole
    if whole:
      return await receive()  # whether the client has gone, for which an answer may wait long
    while True:
      with contextlib.suppress(TimeoutError):
        message = await asyncio.wait_for(receive(), min(1, max(until - loop.time(), 0.001)))
        break
      if folder.closing:
        raise _Refused(503, "this server stops")
      if loop.time() > until:
        raise _Refused(408, f"the request did not arrive within {_BODY_SECONDS} seconds")
    taken += len(message.get("body", b""))
    if taken > limit:
      raise _Refused(413, f"the request is too large: at most {limit} bytes are taken")
    whole = not message.get("more_body", False)
    return message

  return bounded


async def _body(headers: Headers, receive: Callable, limit: int, folder: UploadFolder) -> bytes:
  _announced(headers, limit)
  receive, parts = _bounded(receive, limit, folder), []
  while True:
    message = await receive()
    if message["type"] != "http.request":
      raise _Refused(400, "the request ends before it is complete")
    parts.append(message.get("body", b""))
    if not message.get("more_body", False):
      return b"".join(parts)


def _replayed(body: bytes, receive: Callable) -> Callable:
  given = False

  async def replayed() -> dict:
    nonlocal given
    if given:
      return await receive()
    given = True
    return {"type": "http.request", "body": body, "more_body": False}

  return replayed


def _check_json(body: bytes) -> None:
  try:
    asked: Any = json.loads(body)
  except (ValueError, RecursionError):
    raise _Refused(400, "the request is not JSON") from None
  if not isinstance(asked, dict):
    raise _Refused(422, "the request must be a JSON object")
