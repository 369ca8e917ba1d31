"""Fetching, caching and refusing files, against a web server on this machine."""

import contextlib
import functools
import gc
import hashlib
import http.server
import os
import socket
import threading
import time

import pooch
import pytest

from dpr_jax.base import assets
from dpr_jax.base.assets import ASSETS, Asset, asset_path, asset_path_within
from dpr_jax.base.errors import BadInput

CONTENT = b"weights " * 1000
SHA256 = hashlib.sha256(CONTENT).hexdigest()
PATIENCE = 600.0  # seconds; nothing here takes so long, however busy the machine is


@pytest.fixture
def server():
  """A web server; `server.files` maps path -> bytes sent (and claimed length), `server.requests` lists what came."""

  class Handler(http.server.BaseHTTPRequestHandler):
    def do_GET(self):
      self.server.requests.append(self.path)
      if self.path not in self.server.files:
        self.send_error(404)
        return
      content, length = self.server.files[self.path]
      self.send_response(200)
      self.send_header("Content-Length", str(length))
      self.end_headers()
      self.wfile.write(content)

    def log_message(self, *_):
      pass

  with http.server.ThreadingHTTPServer(("127.0.0.1", 0), Handler) as running:
    running.files = {"/thing.bin": (CONTENT, len(CONTENT))}
    running.requests = []
    thread = threading.Thread(target=running.serve_forever, kwargs={"poll_interval": 0.01})
    thread.start()
    yield running
    running.shutdown()
    thread.join()


@pytest.fixture
def cache(tmp_path, monkeypatch):
  """Points the module at an empty cache, and makes it forget what this process has seen."""
  monkeypatch.setenv("DPR_CACHE", str(tmp_path / "cache"))
  monkeypatch.delenv("DPR_ASSETS", raising=False)
  monkeypatch.setenv("NO_PROXY", "127.0.0.1")
  assets._hash_once.cache_clear()
  assets._print_once.cache_clear()
  return tmp_path / "cache"


@pytest.fixture
def register(server, monkeypatch):
  def add(name="thing", sha256=SHA256, terms=None, url=f"http://127.0.0.1:{server.server_port}/thing.bin"):
    monkeypatch.setitem(ASSETS, name, Asset(name=name, filename="thing.bin", url=url, sha256=sha256, terms=terms))

  return add


def refusal(name="thing") -> str:
  with pytest.raises(BadInput) as caught:
    asset_path(name)
  assert "\n" not in str(caught.value)
  assert caught.value.__suppress_context__ or caught.value.__context__ is None
  return str(caught.value)


def test_fetched_once(server, cache, register):
  register()
  path = asset_path("thing")
  assert path == cache / "thing.bin"
  assert path.read_bytes() == CONTENT
  assert asset_path("thing") == path
  assert server.requests == ["/thing.bin"]
  assert os.listdir(cache) == ["thing.bin"]


def test_the_platform_cache_is_the_default(cache, register, monkeypatch, tmp_path):
  register()
  monkeypatch.setenv("DPR_CACHE", "")
  monkeypatch.setattr(pooch, "os_cache", lambda project: tmp_path / "platform" / project)
  assert asset_path("thing") == tmp_path / "platform" / "dpr_jax" / "thing.bin"


def test_a_damaged_file_in_the_cache_is_replaced(server, cache, register):
  register()
  cache.mkdir()
  (cache / "thing.bin").write_bytes(CONTENT[:-1])
  assert asset_path("thing").read_bytes() == CONTENT
  assert len(server.requests) == 1


def test_given_folders_come_first(server, cache, register, monkeypatch, tmp_path):
  register()
  asset_path("thing")
  given = tmp_path / "given"
  given.mkdir()
  (given / "thing.bin").write_bytes(CONTENT)
  monkeypatch.setenv("DPR_ASSETS", os.pathsep.join(["", str(tmp_path / "missing"), str(given)]))
  assert asset_path("thing") == given / "thing.bin"
  (given / "thing.bin").unlink()
  assert asset_path("thing") == cache / "thing.bin"
  assert len(server.requests) == 1


def test_a_given_file_with_other_content_is_refused(server, cache, register, monkeypatch, tmp_path):
  register()
  (tmp_path / "thing.bin").write_bytes(b"other")
  monkeypatch.setenv("DPR_ASSETS", str(tmp_path))
  message = refusal()
  assert message.startswith(f"{tmp_path / 'thing.bin'}: ")
  assert SHA256 in message
  assert hashlib.sha256(b"other").hexdigest() in message
  assert server.requests == []


def test_a_file_that_only_the_user_can_supply(server, cache, register, monkeypatch, tmp_path):
  register(sha256=None)
  message = refusal()
  assert message.startswith("thing.bin: ")
  assert str(cache) in message
  assert f":{server.server_port}/thing.bin" in message
  cache.mkdir()
  (cache / "thing.bin").write_bytes(b"anything")
  assert asset_path("thing") == cache / "thing.bin"
  (tmp_path / "thing.bin").write_bytes(b"something else")
  monkeypatch.setenv("DPR_ASSETS", str(tmp_path))
  assert asset_path("thing") == tmp_path / "thing.bin"
  assert server.requests == []


def test_hashed_once_per_process(cache, register, monkeypatch, tmp_path):
  register()
  given = tmp_path / "thing.bin"
  given.write_bytes(CONTENT)
  monkeypatch.setenv("DPR_ASSETS", str(tmp_path))
  hashed = []
  file_hash = pooch.file_hash
  monkeypatch.setattr(pooch, "file_hash", lambda path: hashed.append(path) or file_hash(path))
  for _ in range(3):
    asset_path("thing")
  assert hashed == [str(given)]
  given.write_bytes(CONTENT + b"changed")
  refusal()
  assert len(hashed) == 2


# requests leaves the socket of a response that it could not read to the garbage collector, which then warns.
@pytest.mark.filterwarnings("ignore::pytest.PytestUnraisableExceptionWarning")
@pytest.mark.parametrize("failure", ["offline", "missing", "other content", "truncated"])
def test_a_failing_download_leaves_nothing(server, cache, register, failure):
  register()
  if failure == "offline":
    register(url="http://127.0.0.1:1/thing.bin")
  elif failure == "missing":
    server.files = {}
  elif failure == "other content":
    server.files["/thing.bin"] = (b"other", 5)
  elif failure == "truncated":
    server.files["/thing.bin"] = (CONTENT[:-1], len(CONTENT))
  message = refusal()
  assert message.startswith("thing.bin: cannot be fetched from http://127.0.0.1:")
  assert ("another file came" in message) == (failure == "other content")
  assert "DPR_ASSETS" in message
  assert os.listdir(cache) == []
  gc.collect()  # so that the warning comes here and not in a later test


# What commands can do without.


def refusal_within(seconds=PATIENCE) -> str:
  with pytest.raises(BadInput) as caught:
    asset_path_within("thing", seconds)
  assert "\n" not in str(caught.value)
  return str(caught.value)


def test_what_can_be_done_without_is_fetched_once_too(server, cache, register, capsys):
  register()
  for _ in range(2):
    assert asset_path_within("thing", PATIENCE) == cache / "thing.bin"
  assert (cache / "thing.bin").read_bytes() == CONTENT
  assert server.requests == ["/thing.bin"]
  assert os.listdir(cache) == ["thing.bin"]
  assert capsys.readouterr().err == f"fetched thing.bin from http://127.0.0.1:{server.server_port}/thing.bin\n"


@pytest.mark.parametrize(
  ("failure", "error"), [("offline", "ConnectionError"), ("missing", "HTTPError"), ("other content", "ValueError")]
)
def test_a_failed_try_is_remembered_for_a_day(server, cache, register, capsys, failure, error):
  register(**({"url": "http://127.0.0.1:1/thing.bin"} if failure == "offline" else {}))
  server.files = {} if failure == "missing" else {"/thing.bin": (b"other", 5)}
  assert refusal_within() == f"thing.bin cannot be fetched ({error})"
  tries = len(server.requests)
  register()
  server.files = {"/thing.bin": (CONTENT, len(CONTENT))}
  assert refusal_within() == f"thing.bin cannot be fetched ({error}); the next try is a day after that one"
  assert len(server.requests) == tries
  assert os.listdir(cache) == ["thing.bin.not-fetched"]
  assert capsys.readouterr().err == ""
  day_ago = time.time() - 24 * 3600 - 1
  os.utime(cache / "thing.bin.not-fetched", (day_ago, day_ago))
  assert asset_path_within("thing", PATIENCE).read_bytes() == CONTENT
  assert os.listdir(cache) == ["thing.bin"]


def test_who_asks_by_name_tries_again(cache, register):
  register(url="http://127.0.0.1:1/thing.bin")
  refusal_within()
  register()
  assert asset_path("thing").read_bytes() == CONTENT
  assert asset_path_within("thing", PATIENCE) == cache / "thing.bin"  # whatever is remembered


def test_a_given_file_counts_whatever_is_remembered(cache, register, monkeypatch, tmp_path):
  register(url="http://127.0.0.1:1/thing.bin")
  refusal_within()
  (tmp_path / "thing.bin").write_bytes(CONTENT)
  monkeypatch.setenv("DPR_ASSETS", str(tmp_path))
  assert asset_path_within("thing", PATIENCE) == tmp_path / "thing.bin"
  (tmp_path / "thing.bin").write_bytes(b"other")
  assert refusal_within().startswith(f"{tmp_path / 'thing.bin'}: not the expected file")


@pytest.mark.parametrize("waits", ["for an answer", "in the middle"])
def test_a_slow_network_is_given_up(cache, register, waits):
  """One that takes connections and says nothing, and one that sends a byte now and then."""
  done = threading.Event()
  with socket.create_server(("127.0.0.1", 0)) as listening:

    def drip():
      with listening.accept()[0] as connection:
        if waits == "in the middle":
          # With a byte every 0.05 seconds at most, this takes ten times as long as the test waits.
          connection.sendall(b"HTTP/1.1 200 OK\r\nContent-Length: 120000\r\n\r\n")
        while not done.wait(0.05):
          with contextlib.suppress(OSError):
            if waits == "in the middle":
              connection.sendall(b"w")

    thread = threading.Thread(target=drip)
    thread.start()
    register(url=f"http://127.0.0.1:{listening.getsockname()[1]}/thing.bin")
    begun = time.monotonic()
    try:
      message = refusal_within(0.4)
      assert time.monotonic() - begun < PATIENCE
    finally:
      done.set()
      thread.join()
  assert message in ("thing.bin cannot be fetched (TimeoutError)", "thing.bin cannot be fetched (ReadTimeout)")
  assert os.listdir(cache) == ["thing.bin.not-fetched"]


def test_what_cannot_be_remembered_is_no_error_of_its_own(cache, register):
  register()
  cache.write_bytes(b"a file where a folder should be")
  assert refusal_within() == "thing.bin cannot be fetched (NotADirectoryError)"


def test_an_unwritable_cache_is_refused(cache, register):
  register()
  cache.write_bytes(b"a file where a folder should be")
  assert str(cache) in refusal()


def test_unknown_names_are_refused():
  assert refusal("official-513").startswith("unknown asset 'official-513', expected one of official-512, ")


def test_terms_are_shown_once_per_machine(cache, register, capsys):
  register(terms="for research only")
  asset_path("thing")
  assert capsys.readouterr().err.splitlines().count("thing: for research only") == 1
  assets._print_once.cache_clear()  # as another process
  asset_path("thing")
  assert capsys.readouterr().err == ""


def test_terms_are_shown_once_per_process_where_they_cannot_be_noted(cache, register, capsys, monkeypatch, tmp_path):
  register(terms="for research only")
  cache.write_bytes(b"a file where a folder should be")
  (tmp_path / "thing.bin").write_bytes(CONTENT)
  monkeypatch.setenv("DPR_ASSETS", str(tmp_path))
  for _ in range(2):
    asset_path("thing")
  assert capsys.readouterr().err == "thing: for research only\n"


def test_free_assets_print_no_terms(cache, register, capsys, monkeypatch, tmp_path):
  register(terms=None)
  (tmp_path / "thing.bin").write_bytes(CONTENT)
  monkeypatch.setenv("DPR_ASSETS", str(tmp_path))
  asset_path("thing")
  assert capsys.readouterr().err == ""
  assert not cache.exists()


@pytest.mark.parametrize(
  ("name", "folder", "research_only"),
  [
    ("official-512", "reference/dpr", True),
    ("official-1024", "reference/dpr", True),
    ("face-landmarker", "models", False),
    ("tddfa-weights-small", "reference/tddfa", False),
    ("tddfa-stats", "reference/tddfa", False),
    ("tddfa-triangles", "reference/tddfa", False),
  ],
)
def test_the_registry(shared, cache, monkeypatch, capsys, name, folder, research_only):
  monkeypatch.setenv("DPR_ASSETS", str(shared(folder)))
  monkeypatch.setattr(pooch, "retrieve", functools.partial(pytest.fail, "went to the network"))
  path = asset_path(name)
  assert ASSETS[name].url.endswith(f"/{path.name}")
  assert ("research use only" in capsys.readouterr().err) == research_only
