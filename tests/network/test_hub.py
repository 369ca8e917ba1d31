"""Weights of the Hugging Face hub: put there and fetched again, from a server of its protocol on this machine."""

import base64
import dataclasses
import hashlib
import http.server
import json
import re
import threading
import urllib.parse

import jax
import numpy as np
import pytest
from absl import flags

from dpr_jax.base.errors import BadInput
from dpr_jax.network import hub, registry
from dpr_jax.network import weights as checkpoints
from dpr_jax.network.weights import load_params, read_safetensors, save_params

constants = pytest.importorskip("huggingface_hub.constants")

VARIABLES = {"params": {"stem": {"kernel": np.float16([[1, 2], [3, 4]])}}}


class LocalHub(http.server.ThreadingHTTPServer):
  """Repositories in memory, as far as `dpr_jax.network.hub` speaks with them.

  Attributes:
    repositories: name -> commits, each file name -> content.
    private: names of private repositories.
    size: what it says that files have; None says the truth.
  """

  def __init__(self):
    super().__init__(("127.0.0.1", 0), _Handler)
    self.repositories, self.private, self.size = {}, set(), None

  @property
  def endpoint(self):
    return f"http://127.0.0.1:{self.server_port}"


class _Handler(http.server.BaseHTTPRequestHandler):
  def log_message(self, *_):
    pass

  def do_HEAD(self):
    self.do_GET()

  def do_GET(self):
    match = re.fullmatch(r"/([^/]+/[^/]+)/resolve/([^/]+)/(.+)", urllib.parse.unquote(self.path))
    commits = self.server.repositories.get(match[1]) if match else None
    if not commits:
      self._answer(404, {}, {"X-Error-Code": "RepoNotFound"})
      return
    number = len(commits) if match[2] == "main" else int(match[2], 16)
    if match[3] not in commits[number - 1]:
      self._answer(404, {}, {"X-Error-Code": "EntryNotFound", "X-Repo-Commit": f"{number:040x}"})
      return
    content = commits[number - 1][match[3]]
    headers = {"X-Repo-Commit": f"{number:040x}", "ETag": f'"{hashlib.sha256(content).hexdigest()}"'}
    if self.server.size:
      headers["X-Linked-Size"] = str(self.server.size)
    self._answer(200, content, headers)

  def do_POST(self):
    body = self.rfile.read(int(self.headers.get("Content-Length", 0))) if "Content-Length" in self.headers else b""
    if "chunked" in self.headers.get("Transfer-Encoding", ""):
      while size := int(self.rfile.readline(), 16):
        body += self.rfile.read(size)
        self.rfile.readline()
      self.rfile.readline()
    if self.headers.get("Authorization") != "Bearer right":
      self._answer(401, {"error": "Invalid credentials"})
    elif self.path == "/api/repos/create":
      wanted = json.loads(body)
      name = f"{wanted['organization']}/{wanted['name']}"
      if name in self.server.repositories:
        self._answer(409, {"url": f"{self.server.endpoint}/{name}"})
        return
      self.server.repositories[name] = []
      if wanted.get("private") or wanted.get("visibility") == "private":
        self.server.private.add(name)
      self._answer(200, {"url": f"{self.server.endpoint}/{name}"})
    elif self.path == "/api/validate-yaml":
      self._answer(200, {"errors": [], "warnings": []})
    elif match := re.fullmatch(r"/api/models/(.+)/preupload/main", self.path):
      files = [file | {"uploadMode": "regular", "shouldIgnore": False} for file in json.loads(body)["files"]]
      self._answer(200, {"files": files})
    elif match := re.fullmatch(r"/api/models/(.+)/commit/main", self.path):
      commits = self.server.repositories[match[1]]
      lines = [json.loads(line) for line in body.splitlines()]
      added = [line["value"] for line in lines if line["key"] == "file"]
      commits.append(
        (commits[-1] if commits else {}) | {file["path"]: base64.b64decode(file["content"]) for file in added}
      )
      address = f"{self.server.endpoint}/{match[1]}/commit/{len(commits):040x}"
      self._answer(200, {"success": True, "commitOid": f"{len(commits):040x}", "commitUrl": address, "hookOutput": ""})
    else:
      self._answer(404, {"error": self.path})

  def _answer(self, status, content, headers=None):
    data = content if isinstance(content, bytes) else json.dumps(content).encode()
    self.send_response(status)
    for name, value in ({"Content-Length": str(len(data))} | (headers or {})).items():
      self.send_header(name, value)
    self.end_headers()
    if self.command != "HEAD":
      self.wfile.write(data)


@pytest.fixture
def local_hub(tmp_path, monkeypatch):
  server = LocalHub()
  monkeypatch.setenv("HF_ENDPOINT", server.endpoint)
  monkeypatch.setenv("HF_TOKEN", "right")
  monkeypatch.setattr(constants, "HF_HUB_CACHE", str(tmp_path / "cache"))
  thread = threading.Thread(target=server.serve_forever)
  thread.start()
  yield server
  server.shutdown()
  server.server_close()
  thread.join()


@pytest.fixture
def weights(tmp_path):
  save_params(tmp_path / "mine.safetensors", VARIABLES)
  return tmp_path / "mine.safetensors"


def refusal(call, *arguments):
  with pytest.raises(BadInput) as caught:
    call(*arguments)
  assert "\n" not in str(caught.value)
  assert len(str(caught.value)) < 500
  return str(caught.value)


def test_what_is_put_there_comes_back(local_hub, weights, tmp_path):
  address = hub.push("hf:me/mine", weights)
  assert address.startswith(f"{local_hub.endpoint}/me/mine/commit/")
  assert local_hub.private == {"me/mine"}
  assert local_hub.repositories["me/mine"] == [{hub.FILE: weights.read_bytes()}]
  fetched = hub.fetch("hf:me/mine")
  assert fetched.read_bytes() == weights.read_bytes()
  jax.tree.map(np.testing.assert_array_equal, read_safetensors(fetched), VARIABLES)
  first = weights.read_bytes()
  save_params(weights, jax.tree.map(np.negative, VARIABLES), overwrite=True)
  (tmp_path / "card.md").write_text("---\nlicense: apache-2.0\n---\n# Mine\n")
  hub.push("hf:me/mine", weights, tmp_path / "card.md")
  assert local_hub.repositories["me/mine"][1].keys() == {hub.FILE, "README.md"}
  assert hub.fetch("hf:me/mine").read_bytes() == weights.read_bytes()
  assert hub.fetch(f"hf:me/mine@{1:040x}").read_bytes() == first  # a commit stays what it was


def test_without_a_network_the_cache_answers(local_hub, weights, monkeypatch):
  hub.push("hf:me/mine", weights)
  hub.fetch("hf:me/mine")
  monkeypatch.setattr(constants, "HF_HUB_OFFLINE", True)
  assert hub.fetch("hf:me/mine").read_bytes() == weights.read_bytes()
  assert "out of reach" in refusal(hub.fetch, "hf:me/other")


@pytest.mark.parametrize("address", ["hf:", "hf:name", "hf:a/b/c", "hf:a/b@", "hf:a/b?c", "hf:https://a/b", "hf:a/b\n"])
def test_what_is_no_repository_s_name_asks_nobody(address, weights, monkeypatch):
  monkeypatch.setattr(hub, "_hub", lambda: pytest.fail("asks"))
  assert "OWNER/NAME" in refusal(hub.push, address, weights)
  assert "OWNER/NAME" in refusal(load_params, address)


def test_what_the_hub_refuses_is_one_line(local_hub, weights, monkeypatch):
  assert refusal(load_params, "hf:me/nowhere").startswith("hf:me/nowhere: the Hugging Face hub refuses")
  hub.push("hf:me/mine", weights)
  local_hub.repositories["me/mine"][0] = {"pytorch_model.bin": b"a pickle"}
  assert hub.FILE in refusal(load_params, "hf:me/mine")  # and nothing else is asked for
  assert "no such file" in refusal(hub.push, "hf:me/mine", weights, weights.with_name("nowhere.md"))
  monkeypatch.setenv("HF_TOKEN", "wrong")
  assert "hf:me/mine: " in refusal(hub.push, "hf:me/mine", weights)


def test_a_file_larger_than_any_weights_is_not_fetched(local_hub, weights, tmp_path):
  hub.push("hf:me/mine", weights)
  local_hub.size = 2**28 + 1
  assert "268435457 bytes, more than any weights have" in refusal(load_params, "hf:me/mine")
  assert not list((tmp_path / "cache").rglob(hub.FILE))


def test_weights_of_another_network_are_refused(local_hub, weights):
  hub.push("hf:me/mine", weights)
  assert "params are of none of the relighting networks" in refusal(load_params, "hf:me/mine")


@pytest.fixture
def command(monkeypatch):
  """`dpr-jax weights` with these flags."""
  before = set(flags.FLAGS)
  from dpr_jax.cli import weights as module

  def command(**values):
    with pytest.MonkeyPatch.context() as patch:
      for name in ("WEIGHTS", "OUT", "PUSH", "CARD", "OVERWRITE"):
        patch.setattr(module, f"_{name}", type("Flag", (), {"value": values.get(name.lower())}))
      module.main()

  yield command
  for name in set(flags.FLAGS) - before:
    delattr(flags.FLAGS, name)
  import sys

  sys.modules.pop(module.__name__, None)


def test_the_command_puts_weights_there(local_hub, command, weights, capsys, monkeypatch, tmp_path):
  monkeypatch.setattr(checkpoints, "load_params", lambda source: VARIABLES)
  command(weights="run", push="hf:me/mine", out=str(tmp_path / "again.safetensors"))
  said = capsys.readouterr().out.splitlines()
  assert said[0] == str(tmp_path / "again.safetensors")
  assert said[1].startswith(local_hub.endpoint)
  assert local_hub.repositories["me/mine"][0][hub.FILE] == weights.read_bytes()
  assert "research use only" in refusal(lambda: command(weights="official-512", push="hf:me/theirs"))
  theirs = tmp_path / "renamed.t7"
  theirs.write_bytes(b"a file of theirs")
  checksum = hashlib.sha256(theirs.read_bytes()).hexdigest()
  named = registry.WEIGHTS["official-512"]
  monkeypatch.setitem(registry.WEIGHTS, "official-512", dataclasses.replace(named, sha256=checksum))
  assert "research use only" in refusal(lambda: command(weights=str(theirs), push="hf:me/theirs"))
  missing = {"push": "hf:me/theirs", "out": str(tmp_path / "early.npz"), "card": str(tmp_path / "nowhere.md")}
  assert "nowhere.md: no such file" in refusal(lambda: command(weights="run", **missing))
  assert not (tmp_path / "early.npz").exists()  # found before anything is written
  assert "OWNER/NAME" in refusal(lambda: command(weights="run", push="me/theirs"))
  assert "goes with --push" in refusal(lambda: command(weights="run", out="o.npz", card="card.md"))
  assert set(local_hub.repositories) == {"me/mine"}
