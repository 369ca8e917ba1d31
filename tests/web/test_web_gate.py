"""What the gate lets through, before an app that tells what it has been given."""

import asyncio
import logging

import pytest

pytest.importorskip("starlette", reason="Gradio (extra `app`) is not installed")

import httpx
from starlette.requests import Request
from starlette.responses import PlainTextResponse

from dpr_jax.base.errors import BadInput
from dpr_jax.web import gate as web_gate
from dpr_jax.web.gate import Gate, HostName, allowed_hosts, host_name
from dpr_jax.web.upload_folder import UploadFolder

JOIN, UPLOAD = "/gradio_api/queue/join", "/gradio_api/upload"
MOST = 1000


async def tell(scope, receive, send):
  request = Request(scope, receive)
  body = await request.body()
  if b"explode" in body:
    raise ValueError(f"cannot use {body}")
  await PlainTextResponse(f"{request.method} {len(body)}")(scope, receive, send)


@pytest.fixture
def gate(tmp_path):
  return Gate(tell, UploadFolder(tmp_path, 100_000), allowed_hosts("127.0.0.1", ["relight.example.org"]), MOST)


def ask(gate, method="GET", path="/", host="127.0.0.1:7860", body=None, **headers):
  async def answer():
    transport = httpx.ASGITransport(gate, raise_app_exceptions=False)
    async with httpx.AsyncClient(transport=transport, base_url="http://127.0.0.1:7860") as client:
      named = {name.replace("_", "-"): value for name, value in headers.items()}
      return await client.request(method, path, content=body, headers={"host": host} | named)

  return asyncio.run(answer())


@pytest.mark.parametrize(
  ("host", "allowed"),
  [
    ("127.0.0.1:7860", True),
    ("localhost", True),
    ("LOCALHOST:7860", True),
    ("localhost.:7860", True),
    ("[::1]:7860", True),
    ("relight.example.org", True),
    ("evil.example", False),
    ("evil.example:7860", False),
    ("localhost.evil.example", False),
    ("127.0.0.1.evil.example", False),
    ("127.0.0.1@evil.example", False),
    ("evil.example@127.0.0.1", False),
    ("localhost:x", False),
    ("localhost/", False),
    ("", False),
    ("0.0.0.0", False),
    ("192.168.0.7", False),
  ],
)
def test_only_under_its_own_names(gate, host, allowed):
  answer = ask(gate, host=host)
  assert answer.status_code == (200 if allowed else 403)
  if not allowed:
    assert answer.json()["detail"] == "this server does not go by that name (app.py --allowed_hosts)"


@pytest.mark.parametrize(
  ("host", "origin", "allowed"),
  [
    ("127.0.0.1:7860", "http://127.0.0.1:7860", True),
    ("localhost:7860", "http://localhost:7860", True),
    ("localhost:7860", "http://localhost:8000", False),
    ("localhost:7860", "http://localhost", False),
    ("localhost", "http://localhost:8000", False),
    ("127.0.0.1:7860", "http://localhost:7860", False),
    ("127.0.0.1:7860", "http://evil.example", False),
    ("127.0.0.1:7860", "http://evil.example:7860", False),
    ("127.0.0.1:7860", "http://127.0.0.1:7860.evil.example", False),
    ("127.0.0.1:7860", "null", False),
    ("127.0.0.1:7860", "file://", False),
    ("127.0.0.1:7860", "", False),
    ("127.0.0.1:7860", "https://relight.example.org", True),  # of a proxy that does not hand the name on
    ("relight.example.org", "https://relight.example.org", True),
    ("relight.example.org", "https://relight.example.org:8443", True),
    ("relight.example.org:7860", "http://relight.example.org:9000", False),
    ("relight.example.org", "http://localhost", False),
  ],
)
@pytest.mark.parametrize("path", [JOIN, UPLOAD, "/gradio_api/call/relight"])
def test_pages_of_other_sites_are_not_answered(gate, host, origin, allowed, path):
  answer = ask(gate, "POST", path, host, b"{}", origin=origin)
  assert answer.status_code == (200 if allowed else 403)


def test_what_browsers_say_of_other_sites_counts(gate):
  assert ask(gate, sec_fetch_site="cross-site", sec_fetch_mode="no-cors").status_code == 403
  assert ask(gate, sec_fetch_site="cross-site", sec_fetch_mode="navigate").status_code == 200  # a link to the page
  assert ask(gate, sec_fetch_site="same-origin", sec_fetch_mode="cors").status_code == 200


def test_every_answer_bears_its_headers(gate):
  for answer in (ask(gate), ask(gate, host="evil.example"), ask(gate, "POST", JOIN, body=b'{"explode": 1}')):
    assert answer.headers["x-content-type-options"] == "nosniff"
    assert answer.headers["x-frame-options"] == "DENY"
    assert answer.headers["content-security-policy"] == "frame-ancestors 'none'"
    assert answer.headers["cross-origin-resource-policy"] == "same-origin"


@pytest.mark.parametrize(
  ("method", "path"),
  [
    ("GET", "/gradio_api/file=http://example.org/a.png"),
    ("GET", "/gradio_api/file=file:/etc/passwd"),
    ("GET", "/gradio_api/proxy=http://example.org"),
    ("GET", "/gradio_api/dev/reload"),
    ("GET", "/gradio_api/vibe-code"),
    ("GET", "/monitoring"),
    ("POST", "/gradio_api/vibe-edit"),
    ("POST", "/gradio_api/process_recording"),
    ("POST", "/gradio_api/run/relight"),
    ("POST", "/login"),
    ("POST", "/"),
    ("PUT", "/"),
    ("DELETE", "/gradio_api/upload"),
  ],
)
def test_only_what_the_page_needs_is_there(gate, method, path):
  assert ask(gate, method, path).status_code == 404


def test_bodies_are_bounded_whatever_they_say_of_themselves(gate, monkeypatch):
  monkeypatch.setattr(web_gate, "_MOST_JSON_BYTES", 100)
  monkeypatch.setattr(web_gate, "_MULTIPART_BYTES", 0)
  gate._most_upload_bytes = MOST

  async def in_parts(size):
    for _ in range(size):
      yield b" "

  assert ask(gate, "POST", JOIN, body=b" " * 98 + b"{}").text == "POST 100"
  assert ask(gate, "POST", JOIN, body=b" " * 99 + b"{}").status_code == 413
  assert ask(gate, "POST", JOIN, body=in_parts(101)).status_code == 413
  assert ask(gate, "POST", UPLOAD, body=bytes(MOST)).text == f"POST {MOST}"
  assert ask(gate, "POST", UPLOAD, body=bytes(MOST + 1)).status_code == 413
  assert ask(gate, "POST", UPLOAD, body=in_parts(MOST + 1)).status_code == 413
  assert ask(gate, "POST", UPLOAD, body=in_parts(MOST)).text == f"POST {MOST}"


def test_room_is_given_back(gate, tmp_path):
  for _ in range(200):  # of them 1,000 bytes each, where 100,000 fit at a time
    assert ask(gate, "POST", UPLOAD, body=bytes(MOST)).status_code == 200
  gate._folder._max_bytes = MOST - 1
  answer = ask(gate, "POST", UPLOAD, body=bytes(MOST))
  assert answer.status_code == 429
  assert answer.json()["detail"] == "too much has been uploaded to this server; try again in 60 seconds"


@pytest.mark.parametrize(
  ("body", "status"), [(b"", 400), (b"{", 400), (b"\xff", 400), (b"[" * 100_000, 400), (b"[]", 422), (b'"x"', 422)]
)
def test_what_is_no_json_object_gets_a_line(gate, body, status):
  answer = ask(gate, "POST", JOIN, body=body)
  assert answer.status_code == status
  assert answer.json()["detail"].startswith("the request")


def test_a_request_that_does_not_arrive_is_given_up(gate, monkeypatch):
  monkeypatch.setattr(web_gate, "_BODY_SECONDS", 0.2)

  async def stuck():
    yield b"{"
    await asyncio.sleep(60)

  for path in (JOIN, UPLOAD):
    assert ask(gate, "POST", path, body=stuck()).status_code == 408


def test_too_many_at_a_time_are_told_so(gate, monkeypatch):
  monkeypatch.setattr(web_gate, "_MOST_REQUESTS", 0)
  assert ask(gate).status_code == 429


def test_an_error_is_logged_without_what_was_sent(gate, caplog):
  with caplog.at_level(logging.INFO):
    answer = ask(gate, "POST", JOIN, body=b'{"explode": "secret"}')
  assert answer.status_code == 400
  assert "secret" not in answer.text
  assert "ValueError" in caplog.text
  assert "secret" not in caplog.text


def test_hosts_are_names_or_addresses():
  assert host_name("Example.ORG:80") == HostName("example.org", 80)
  assert host_name("[2001:DB8::1]") == HostName("2001:db8::1", None)
  assert host_name("2001:db8:0::1") == HostName("2001:db8::1", None)
  assert allowed_hosts("0.0.0.0", ["A.example"]) == ("localhost", "127.0.0.1", "::1", "a.example")
  assert allowed_hosts("192.168.0.7") == ("localhost", "127.0.0.1", "::1", "192.168.0.7")
  for text in ("a.example:80", "http://a.example", "", "*", "a b"):
    with pytest.raises(BadInput, match="must be the name or the address of a host"):
      allowed_hosts("127.0.0.1", [text])
