"""The web app as another program asks it, and as a person sees it in a headless browser."""

import concurrent.futures
import io
import os
import re
import shutil
import signal
import struct
import subprocess
import sys
import tempfile
import threading
import time
import zlib
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

pytest.importorskip("gradio", reason="Gradio (extra `app`) is not installed")

import gradio_client
import httpx

from dpr_jax.image.photo import Photo, read_photo
from dpr_jax.image.photo_writing import write_photo
from dpr_jax.image.pictures import astronaut
from dpr_jax.light import light as light_lib
from dpr_jax.network.weights import load_params
from dpr_jax.portrait.lights import PRESETS, Direction, parse_light, studio_light
from dpr_jax.portrait.portrait import PASSES
from dpr_jax.web import app as web_app
from dpr_jax.web.service import RelightService
from dpr_jax.web.upload_folder import UploadFolder

# Gradio and its client leave sockets and event loops to the garbage collector.
pytestmark = pytest.mark.filterwarnings(
  "ignore::ResourceWarning", "ignore::pytest.PytestUnraisableExceptionWarning", "ignore::DeprecationWarning"
)

CHROMIUM = shutil.which("chromium") or shutil.which("chromium-browser")
REBOUND = "rebound.evil.example"  # a name of somebody else's that leads to this machine
# As root there is no sandbox, and there is no network to look for updates in.
CHROMIUM_FLAGS = (
  "--no-sandbox",
  "--disable-gpu",
  "--disable-quic",
  "--no-first-run",
  "--disable-background-networking",
  "--disable-component-update",
  "--disable-sync",
  f"--host-resolver-rules=MAP {REBOUND} 127.0.0.1",
  "--no-proxy-server",  # it would resolve that name itself
)
FACE = np.s_[90:180, 110:200]  # of the astronaut
PATIENCE = 600  # seconds; what takes so long does not come, however busy the machine is
MAX_MEGABYTES = 2


@pytest.fixture(scope="module")
def service():
  with RelightService(("default",), max_pixels=4_000_000) as service:
    yield service


@pytest.fixture(scope="module")
def address(service):
  with web_app.serving(service, max_megabytes=MAX_MEGABYTES) as address:
    yield address


@pytest.fixture(scope="module")
def client(address):
  return new_client(address)


def new_client(address):
  return gradio_client.Client(address, verbose=False, download_files=True, httpx_kwargs={"timeout": PATIENCE})


@pytest.fixture(scope="module")
def photos(tmp_path_factory):
  """The astronaut, and a wall without a face."""
  folder = tmp_path_factory.mktemp("photos")
  write_photo(folder / "astronaut.png", Photo(astronaut()))
  write_photo(folder / "wall.png", Photo(np.full((300, 300, 3), 128, np.uint8)))
  return folder


def wishes(photo, /, **changed):
  """What an endpoint is asked, in its order."""
  asked = {
    "photo": None if photo is None else gradio_client.handle_file(str(photo)),
    "kind": web_app.LAMP,
    "azimuth": 65,
    "elevation": 10,
    "fill": 0.25,
    "size": 15,
    "environment": None,
    "env_rotate": 0,
    "reference": None,
    "strength": 1,
    "exposure": 0,
    "kelvin": 6504,
    "background": 0,
    "weights": "default",
    "face": web_app.ALL_FACES,
  }
  assert changed.keys() <= asked.keys()
  return list((asked | changed).values())


def leans_left(pixels):
  """How much brighter the left half of the face is than the right one."""
  left, right = np.hsplit(np.asarray(pixels)[FACE].mean(axis=-1), 2)
  return left.mean() / right.mean()


def refusal(client, *asked, endpoint="/relight"):
  with pytest.raises(Exception) as refused:
    client.predict(*asked, api_name=endpoint)
  return str(refused.value)


# As another program asks.


def test_another_program_gets_the_photo_relit_in_full(client, photos, service):
  left, right = (
    read_photo(client.predict(*wishes(photos / "astronaut.png", azimuth=azimuth), api_name="/relight")).pixels
    for azimuth in (65, -65)
  )
  assert left.shape == (300, 300, 3)
  assert leans_left(left) > 1.15 > 0.9 > leans_left(right)
  wish = web_app.Wish(Direction(65, 10, 0.25, 15))
  np.testing.assert_array_equal(left, service.relight(photos / "astronaut.png", wish).pixels)


def test_the_endpoints_tell_what_they_take(client):
  told = client.view_api(return_format="dict")["named_endpoints"]
  assert set(told) == {"/passes", "/preview", "/relight", "/turn"}
  assert len(told["/relight"]["parameters"]) == len(wishes(None))


def test_a_preview_tells_the_lights_too(client, photos, service):
  pictures, target, source = client.predict(*wishes(photos / "astronaut.png"), api_name="/preview")
  assert leans_left(read_photo(pictures[1]).pixels) > 1.1
  assert_is_light(target["light"], studio_light(Direction(65, 10, 0.25, 15)))
  assert_is_light(source["light"], service.source_light(photos / "astronaut.png"))
  assert (target["lamp"], source["lamp"]) == (True, False)
  assert [target[name] for name in Direction._fields] == [65, 10, 0.25, 15]


def assert_is_light(lists, light):
  """The lists of a light that the page is told."""
  assert lists.keys() == light._asdict().keys()
  for name, part in light._asdict().items():
    np.testing.assert_allclose(np.reshape(lists[name], part.shape), part, atol=1e-5, err_msg=name)


def test_even_light_has_no_lamp(client, photos, service):
  changed = {"kind": web_app.EVEN, "kelvin": 3000}
  _, target, _ = client.predict(*wishes(photos / "astronaut.png", **changed), api_name="/preview")
  assert target["lamp"] is False
  assert_is_light(target["light"], service.light(web_app.Wish(None, kelvin=3000)))


def test_every_dial_of_a_program_turns_something(client, photos, tmp_path):
  from tests.portrait.test_lights import write_environment

  panorama = np.full((32, 64, 3), 0.1, np.float32)
  panorama[12:16, :2] = 50
  path = write_environment(tmp_path / "map.hdr", panorama)
  of_map = {"kind": web_app.MAP, "environment": gradio_client.handle_file(str(path))}
  for before, changed in (
    ({}, {"fill": 0.9}),
    ({"fill": 0}, {"size": 60}),
    ({}, {"exposure": -1}),
    ({}, {"kelvin": 2500}),
    ({}, {"strength": 0.3}),
    (of_map, {"env_rotate": 90}),
  ):
    pictures = [
      client.predict(*wishes(photos / "astronaut.png", **dials), api_name="/preview")[0][1]
      for dials in (before, before | changed)
    ]
    one, other = (read_photo(picture).pixels[FACE].astype(int) for picture in pictures)
    assert np.abs(one - other).mean() > 0.2, changed


def test_the_room_takes_its_share(client, photos):
  wall = np.s_[30:80, 8:38]
  before, after = (
    read_photo(
      client.predict(*wishes(photos / "astronaut.png", azimuth=-65, background=share), api_name="/relight")
    ).pixels
    for share in (0, 0.8)
  )
  np.testing.assert_array_equal(before[wall], astronaut()[wall])
  assert np.abs(after[wall].astype(int) - astronaut()[wall]).mean() > 3


@pytest.mark.parametrize("suffix", [".exr", ".webp"])
def test_a_photo_comes_back_as_its_own_kind(client, tmp_path, suffix):
  write_photo(tmp_path / f"astronaut{suffix}", Photo(astronaut()))
  name = client.predict(*wishes(tmp_path / f"astronaut{suffix}"), api_name="/relight")
  assert Path(name).name == f"astronaut_relit{suffix}"
  relit = read_photo(name).pixels
  assert relit.dtype == (np.float32 if suffix == ".exr" else np.uint8)
  assert leans_left(relit) > 1.1


def test_passes_are_files_of_16_bits_or_a_line_that_tells_what_lacks(client, photos, service):
  photo, wish = photos / "astronaut.png", web_app.Wish(Direction(65, 10, 0.25, 15))
  if not service._encoded(photo, None, None).has_shapes:
    assert "passes: need weights that know shape" in refusal(client, *wishes(photo), endpoint="/passes")
    return
  expected = dict(service.passes(photo, wish))
  files = client.predict(*wishes(photo), api_name="/passes")
  assert [Path(file).name for file in files] == [f"astronaut_{name}.png" for name in PASSES]
  for file, values in zip(files, expected.values(), strict=True):
    np.testing.assert_array_equal(read_photo(file).pixels, values.pixels, strict=True)


def test_a_turn_is_a_film_of_sixty_frames(client, photos):
  import av

  mp4, gif = client.predict(*wishes(photos / "astronaut.png"), api_name="/turn")
  with av.open(mp4["video"] if isinstance(mp4, dict) else mp4) as film:
    frames = [frame.to_ndarray(format="rgb24") for frame in film.decode(video=0)]
  assert len(frames) == 60
  assert leans_left(frames[0]) > 1.1 > 0.95 > leans_left(frames[30])
  with Image.open(gif) as animation:
    assert animation.n_frames > 30  # Pillow joins frames that are alike


def test_the_light_of_another_portrait(client, photos, tmp_path):
  lit = client.predict(*wishes(photos / "astronaut.png", azimuth=-65), api_name="/relight")
  changed = {"kind": web_app.PORTRAIT, "reference": gradio_client.handle_file(lit)}
  relit = read_photo(client.predict(*wishes(photos / "astronaut.png", **changed), api_name="/relight")).pixels
  assert leans_left(relit) < 0.95


def test_the_page_for_other_programs_is_right(address, photos, tmp_path, monkeypatch):
  page = (Path(__file__).parents[2] / "docs" / "web_app.md").read_text(encoding="utf-8")
  (program,) = re.findall(r"^```python\n(.*?)^```$", page, re.MULTILINE | re.DOTALL)
  assert "http://127.0.0.1:7860" in program
  (tmp_path / "portrait.jpg").write_bytes((photos / "astronaut.png").read_bytes())
  monkeypatch.chdir(tmp_path)
  names = {}
  exec(program.replace("http://127.0.0.1:7860", address), names)
  assert leans_left(read_photo(names["relit"]).pixels) > 1.1


# What must not happen.


@pytest.mark.parametrize(
  ("changed", "message"),
  [
    ({"azimuth": 400}, "azimuth 400: must lie in -360 to 360"),
    ({"elevation": 91}, "elevation 91: must lie in -90 to 90"),
    ({"elevation": "up"}, "elevation: must be a number"),
    ({"kelvin": None}, "kelvin: must be a number"),
    ({"face": ["face 1"]}, "face: must be a text of at most 200 letters"),
    ({"reference": 5}, "reference: must be a file that was uploaded"),
    ({"fill": -1}, "less than minimum value 0"),
    ({"size": 90}, "greater than maximum value 60"),
    ({"exposure": 4}, "greater than maximum value 3"),
    ({"kind": web_app.EVEN, "azimuth": None}, "azimuth None: must lie in -360 to 360"),
    ({"strength": 9}, "greater than maximum value 2"),
    ({"background": -1}, "less than minimum value 0"),
    ({"kelvin": 100}, "less than minimum value 2000"),
    ({"weights": "official-512"}, "official-512"),
    ({"face": "face 2"}, "astronaut.png: has 1 face, there is no face 2"),
    ({"face": "../../etc"}, "../../etc"),
    ({"kind": web_app.MAP}, "upload an environment map first"),
    ({"kind": web_app.PORTRAIT}, "upload the portrait"),
  ],
)
def test_what_makes_no_sense_is_told_in_a_line(client, photos, changed, message):
  assert message in refusal(client, *wishes(photos / "astronaut.png", **changed))


def test_a_photo_without_a_face_is_told_without_the_folders_of_the_server(client, photos):
  assert refusal(client, *wishes(photos / "wall.png")) == "wall.png: no face found"
  assert "there is no photo yet" in refusal(client, *wishes(None))


def raw_answer(address, **changed):
  """What a client of somebody else's is told, who sends what ours would not."""
  url = f"{address}gradio_api/call/relight"
  joined = httpx.post(url, json={"data": wishes(None, **changed)}, timeout=PATIENCE)
  if joined.status_code != 200:
    return joined.text
  return httpx.get(f"{url}/{joined.json()['event_id']}", timeout=PATIENCE).text


def uploaded(address, path):
  """A file as it lies on the server, as its own page would name it."""
  with path.open("rb") as file:
    [place] = httpx.post(f"{address}gradio_api/upload", files={"files": (path.name, file)}, timeout=PATIENCE).json()
  return {"path": place, "meta": {"_type": "gradio.FileData"}}


@pytest.mark.parametrize("mark", [{}, {"meta": {"_type": "gradio.FileData"}, "orig_name": "x.png"}])
@pytest.mark.parametrize("part", ["photo", "reference", "environment"])
def test_a_path_of_the_server_is_never_opened(address, photos, part, mark, tmp_path, capfd):
  (tmp_path / "face.png").write_bytes((photos / "astronaut.png").read_bytes())
  (tmp_path / "sky.hdr").write_bytes(
    b"#?RADIANCE\nFORMAT=32-bit_rle_rgbe\n\n-Y 1 +X 2\n" + bytes([99, 99, 99, 130] * 2)
  )
  asked = {"photo": uploaded(address, photos / "astronaut.png")} if part != "photo" else {}
  asked["kind"] = {"photo": web_app.LAMP, "reference": web_app.PORTRAIT, "environment": web_app.MAP}[part]
  upload = Path(uploaded(address, photos / "astronaut.png")["path"])
  places = ["/etc/passwd", "/proc/self/environ", "/dev/zero", str(tmp_path / "face.png"), str(tmp_path / "sky.hdr"), ""]
  places += [str(upload.parent.parent / ".." / tmp_path.relative_to("/") / "face.png"), str(upload.parent)]
  for place in places:
    message = raw_answer(address, **asked, **{part: {"path": place} | mark})
    assert "event: error" in message, place
    assert "was not uploaded to this server, or is there no longer" in message
  assert "event: complete" in raw_answer(address, photo={"path": str(upload)} | mark)
  told = "".join(capfd.readouterr())
  assert "Traceback" not in told
  assert str(tmp_path) not in told


@pytest.mark.parametrize(
  ("changed", "message"),
  [
    ({"photo": "/etc/passwd"}, "photo: must be a file that was uploaded"),
    ({"photo": {"path": None}}, "photo: must be a file that was uploaded"),
    ({"photo": {"path": "/etc/passwd", "meta": "x"}}, "photo: must be a file that was uploaded"),
    ({"photo": {"path": "/etc/passwd", "is_stream": True}}, "photo: must be a file that was uploaded"),
    ({"photo": {"path": "/etc/passwd", "url": ["secret"]}}, "photo: must be a file that was uploaded"),
    ({"photo": [{"path": "/etc/passwd"}]}, "photo: must be a file that was uploaded"),
    ({"azimuth": {"secret": "secret"}}, "azimuth: must be a number"),
    ({"azimuth": True}, "azimuth: must be a number"),
    ({"azimuth": 10**400}, "azimuth: must be a number"),
    ({"fill": "0.5"}, "fill: must be a number"),
    ({"kind": {"secret": 1}}, "kind: must be a text"),
    ({"weights": "secret" * 1000}, "weights: must be a text of at most 200 letters"),
  ],
)
def test_wrong_types_get_a_line_and_no_traceback(address, changed, message, capfd):
  url = f"{address}gradio_api/call/relight"
  answer = httpx.post(url, json={"data": wishes(None, **changed)}, timeout=PATIENCE)
  assert answer.status_code == 422
  [problem] = answer.json()["detail"]
  assert f"{problem['parameter_name']}: {problem['message']}".startswith(message)
  assert capfd.readouterr() == ("", "")


def test_bodies_of_the_wrong_shape_get_a_line_and_no_traceback(address, capfd):
  bodies = [
    {},
    {"data": None},
    {"data": []},
    {"data": wishes(None) * 2},
    {"data": wishes(None), "fn_index": 999, "session_hash": "x"},
    {"data": wishes(None), "fn_index": -1, "session_hash": "x"},
    {"data": wishes(None), "fn_index": "relight", "session_hash": ["secret"]},
    {"data": wishes(None), "event_data": "secret", "fn_index": None, "session_hash": "x"},
  ]
  for place in ("call/relight", "queue/join", "call/secret"):
    for body in bodies:
      answer = httpx.post(f"{address}gradio_api/{place}", json=body, timeout=PATIENCE)
      assert 400 <= answer.status_code < 500 or (place == "call/relight" and "fn_index" in body), (place, body)
  for body in (b"", b"{", b"[" * 200_000, b'{"data": "' + b"x" * 2**18 + b'"}'):
    answer = httpx.post(f"{address}gradio_api/queue/join", content=body, timeout=PATIENCE)
    assert 400 <= answer.status_code < 500
  told = "".join(capfd.readouterr())
  assert "Traceback" not in told
  assert "secret" not in told


def test_pages_of_other_sites_reach_nothing(address, photos):
  """DNS rebinding shows in the host, a page that asks across sites in the origin."""
  own = address.removeprefix("http://").rstrip("/")
  port = own.rpartition(":")[2]
  join = {"data": wishes(None), "fn_index": 0, "session_hash": "x"}
  for headers in (
    {"Host": f"rebound.evil.example:{port}"},
    {"Host": f"rebound.evil.example:{port}", "Origin": f"http://rebound.evil.example:{port}"},
    {"Origin": "http://evil.example"},
    {"Origin": "null"},
    {"Origin": "http://localhost:1"},
  ):
    for attempt in (
      lambda headers: httpx.get(address, headers=headers),
      lambda headers: httpx.get(f"{address}config", headers=headers),
      lambda headers: httpx.post(f"{address}gradio_api/queue/join", json=join, headers=headers),
      lambda headers: httpx.post(f"{address}gradio_api/upload", files={"files": b"x"}, headers=headers),
    ):
      assert attempt(headers).status_code == 403, headers
  page = httpx.get(address)
  assert page.status_code == 200
  assert (page.headers["x-content-type-options"], page.headers["x-frame-options"]) == ("nosniff", "DENY")
  assert httpx.get(address, headers={"Host": f"localhost:{port}"}).status_code == 200


def test_no_address_is_fetched(client, photos, monkeypatch):
  from gradio import processing_utils

  fetched = []
  monkeypatch.setattr(processing_utils, "async_ssrf_protected_download", lambda *asked, **_: fetched.append(asked))
  for changed in ({"photo": 0}, {"environment": 6, "kind": web_app.MAP}, {"reference": 8, "kind": web_app.PORTRAIT}):
    (position,) = (value for value in changed.values() if isinstance(value, int))
    asked = wishes(photos / "astronaut.png", **{name: value for name, value in changed.items() if name == "kind"})
    asked[position] = {"path": "http://example.org/face.png", "meta": {"_type": "gradio.FileData"}}
    assert "upload the file itself, not its address" in refusal(client, *asked)
  assert fetched == []


def png_that_claims(width, height):
  def chunk(kind, data):
    return struct.pack(">I", len(data)) + kind + data + struct.pack(">I", zlib.crc32(kind + data))

  header = struct.pack(">IIBBBBB", width, height, 8, 2, 0, 0, 0)
  return (
    b"\x89PNG\r\n\x1a\n" + chunk(b"IHDR", header) + chunk(b"IDAT", zlib.compress(bytes(1000))) + chunk(b"IEND", b"")
  )


def test_a_decompression_bomb_is_refused_by_its_header(client, tmp_path):
  bomb = tmp_path / "bomb.png"
  bomb.write_bytes(png_that_claims(30_000, 30_000))
  assert refusal(client, *wishes(bomb)) == "bomb.png: 30000 x 30000 pixels are more than the 4000000 allowed"


def test_nothing_is_unpickled(client, photos, tmp_path):
  import pickle

  class Trap:
    def __reduce__(self):
      return (Path(tmp_path / "sprung").touch, ())

  for name in ("trap.png", "trap.npz", "trap.hdr"):
    (tmp_path / name).write_bytes(pickle.dumps(Trap()))
  assert "not a photo" in refusal(client, *wishes(tmp_path / "trap.png"))
  assert "not a photo" in refusal(client, *wishes(tmp_path / "trap.npz"))
  changed = {"kind": web_app.MAP, "environment": gradio_client.handle_file(str(tmp_path / "trap.hdr"))}
  assert "not a Radiance HDR file" in refusal(client, *wishes(photos / "astronaut.png", **changed))
  assert not (tmp_path / "sprung").exists()


def test_a_file_that_is_too_large_is_not_taken(client, tmp_path):
  large = tmp_path / "large.png"
  large.write_bytes(bytes(MAX_MEGABYTES * 2**20 + 1))
  assert "413" in refusal(client, *wishes(large)) or "exceeds" in refusal(client, *wishes(large))


def test_the_failure_of_one_is_no_trouble_to_others(address, photos):
  """Two at a time, each with a session of its own; half of them ask for what cannot be."""
  clients = [new_client(address) for _ in range(4)]

  def ask(k):
    if k % 2:
      return refusal(clients[k], *wishes(photos / "wall.png"))
    return leans_left(read_photo(clients[k].predict(*wishes(photos / "astronaut.png"), api_name="/relight")).pixels)

  with concurrent.futures.ThreadPoolExecutor(4) as threads:
    answers = list(threads.map(ask, range(4)))
  assert answers[1] == answers[3] == "wall.png: no face found"
  assert answers[0] == answers[2] > 1.15


def test_the_queue_is_bounded(service, photos, monkeypatch):
  """Three are worked on, one more may wait, whatever they ask for; who comes then is told so."""
  done, at_work, most = threading.Event(), [], []

  def wait(made):
    at_work.append(1)
    most.append(len(at_work))
    done.wait(PATIENCE)
    at_work.pop()
    return made

  monkeypatch.setattr(service, "relight", lambda *_: wait(Photo(astronaut())))
  monkeypatch.setattr(service, "relight_for_screen", lambda *_: wait(astronaut()))
  monkeypatch.setattr(service, "source_light", lambda *_: light_lib.even_light())
  done.set()  # what the start asks for
  with web_app.serving(service, waiting=1) as address:
    done.clear()
    clients = [new_client(address) for _ in range(8)]
    names = ["/relight", "/preview"] * 4
    jobs = [
      client.submit(*wishes(photos / "astronaut.png"), api_name=name)
      for client, name in zip(clients, names, strict=True)
    ]
    finished, _ = concurrent.futures.wait([job.future for job in jobs], PATIENCE, concurrent.futures.FIRST_COMPLETED)
    assert finished
    done.set()
    errors = [job.exception(timeout=PATIENCE) for job in jobs]
  refused = [str(error) for error in errors if error is not None]
  assert 1 <= len(refused) <= 5
  assert all("queue" in message.lower() for message in refused)
  assert max(most) <= 3


def test_films_that_wait_hold_up_nobody_else(service, photos, monkeypatch):
  done = threading.Event()
  monkeypatch.setattr(service, "turn", lambda *_: done.wait(PATIENCE) and iter([astronaut()]))
  with web_app.serving(service, waiting=4) as address:
    photo, url = uploaded(address, photos / "astronaut.png"), f"{address}gradio_api/call/turn"
    answers = [httpx.post(url, json={"data": wishes(None, photo=photo)}, timeout=PATIENCE) for _ in range(33)]
    codes = [answer.status_code for answer in answers]
    assert set(codes) == {200, 503}
    assert 4 <= codes.count(200) <= 5  # four wait, and one is being made
    assert "Queue is full" in answers[-1].text
    assert "event: complete" in raw_answer(address, photo=photo)
    done.set()
    event = answers[0].json()["event_id"]
    assert "event: complete" in httpx.get(f"{url}/{event}", timeout=PATIENCE).text


@pytest.mark.skipif(not hasattr(signal, "pthread_kill"), reason="no signals to threads on this system")
def test_a_stop_signal_is_noticed_whichever_thread_gets_it():
  script = """
import signal, threading
from dpr_jax.cli import app

stop = app._note_stop_signals()
to_itself = lambda: signal.pthread_kill(threading.get_ident(), signal.SIGTERM)
threading.Timer(0.2, to_itself).start()  # when the main thread waits
app._wait_for(stop)
print(stop, {signal.getsignal(number) for number in (signal.SIGINT, signal.SIGTERM)} == {signal.SIG_DFL})
"""
  done = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, timeout=60)
  assert (done.returncode, done.stdout, done.stderr) == (0, "[15] True\n", "")  # a second one ends it at once


@pytest.mark.nightly
def test_sigterm_under_a_full_queue_ends_cleanly(photos, tmp_path):
  command = [sys.executable, "app.py", "--waiting=6", "--face_finder=embedded"]
  environment = os.environ | {"TMPDIR": str(tmp_path), "PYTHONUNBUFFERED": "1"}
  root = Path(__file__).parents[2]
  server = subprocess.Popen(
    command, cwd=root, env=environment, text=True, stdout=subprocess.PIPE, stderr=(tmp_path / "log").open("w")
  )
  try:
    address = server.stdout.readline().removeprefix("serving at ").strip()
    photo = uploaded(address, photos / "astronaut.png")
    answers = [
      httpx.post(f"{address}gradio_api/call/{name}", json={"data": wishes(None, photo=photo)}, timeout=PATIENCE)
      for name in ["turn"] * 9 + ["relight"] * 40
    ]
    assert {answer.status_code for answer in answers} == {200, 503}
    server.send_signal(signal.SIGTERM)
    assert server.wait(PATIENCE) == 0
  finally:
    server.kill()
  assert (tmp_path / "log").read_text() == ""
  assert not list(tmp_path.glob("dpr_jax_app_*"))


def test_it_listens_on_this_machine_alone_and_leaves_no_files(service, photos, tmp_path, monkeypatch):
  monkeypatch.setattr(tempfile, "tempdir", str(tmp_path))
  with web_app.serving(service) as address:
    assert address.startswith("http://127.0.0.1:")
    new_client(address).predict(*wishes(photos / "astronaut.png"), api_name="/relight")
    assert len(list(tmp_path.rglob("*.png"))) >= 3  # the example, what was uploaded, and what was made
  assert not list(tmp_path.glob("dpr_jax_app_*"))
  assert not list(Path(web_app.__file__).parent.glob("*.pyi"))


def test_files_are_removed_after_an_hour(service, tmp_path):
  write_photo(tmp_path / "example.png", Photo(astronaut()))
  page = web_app.build(service, UploadFolder(tmp_path, 2**20), tmp_path / "example.png")
  frequency, age = page.delete_cache
  assert (frequency, age) == (60, 3600)


# As a person sees it.


@pytest.fixture(scope="module")
def chromium():
  if CHROMIUM is None:
    pytest.skip("Chromium is not installed (Debian: apt-get install chromium)")
  playwright = pytest.importorskip("playwright.sync_api", reason="Playwright (extra `test`) is not installed")
  with playwright.sync_playwright() as driver:
    browser = driver.chromium.launch(executable_path=CHROMIUM, args=CHROMIUM_FLAGS)
    yield browser
    browser.close()


@pytest.fixture
def visit(chromium, address):
  """Opens the page, and waits for its first picture; at the end nothing must have gone wrong in it."""
  pages, problems = [], []

  def visit(width=1280, height=1000):
    page = chromium.new_page(viewport={"width": width, "height": height})
    pages.append(page)
    page.set_default_timeout(1000 * PATIENCE)
    page.on("pageerror", lambda error: problems.append(str(error)))
    page.on(
      "request", lambda request: request.url.startswith((address, "data:", "blob:")) or problems.append(request.url)
    )
    page.goto(address)
    page.wait_for_selector("#result img:nth-of-type(1)")
    return page

  yield visit
  for page in pages:
    page.close()
  assert problems == []


def after(page):
  """The relit picture of the page, `[H, W, 3]`."""
  sources = page.locator("#result img").evaluate_all("images => images.map(image => image.src)")
  relit = [source for source in sources if "/file=" in source][-1]
  return np.asarray(Image.open(io.BytesIO(page.request.get(relit).body())).convert("RGB")), relit


def wait_for_another(page, source, shows=lambda picture: True):
  """A picture other than `source` that `shows` is true of: while a light is dragged, several come."""
  until = time.monotonic() + PATIENCE
  while time.monotonic() < until:
    picture, now = after(page)
    if now != source and shows(picture):
      return picture, now
    page.wait_for_timeout(100)
  pytest.fail("the picture does not become what it should")


def drag(page, right, up):
  """From the middle of the sphere, in its radii."""
  box = page.locator("#target canvas").bounding_box()
  centre, radius = (box["x"] + box["width"] / 2, box["y"] + box["height"] / 2), 0.76 * box["width"] / 2
  page.mouse.move(*centre)
  page.mouse.down()
  for k in range(1, 9):
    page.mouse.move(centre[0] + right * radius * k / 8, centre[1] - up * radius * k / 8)
    page.wait_for_timeout(20)
  page.mouse.up()


def test_the_first_view_shows_a_result(visit):
  page = visit()
  picture, _ = after(page)
  assert picture.shape == (300, 300, 3)
  assert leans_left(picture) > 1.1  # it begins with light from the left


def test_the_light_follows_the_hand(visit):
  page = visit()
  _, source = after(page)
  drag(page, 0.85, 0.1)
  _, source = wait_for_another(page, source, lambda picture: leans_left(picture) < 0.92)
  assert "right" in page.locator("#target .says").inner_text()
  page.get_by_text("More", exact=True).click()
  assert float(page.locator("#azimuth input").input_value()) < -40
  drag(page, -0.85, 0.1)
  _, source = wait_for_another(page, source, lambda picture: leans_left(picture) > 1.1)
  page.locator("#target canvas").focus()
  for _ in range(20):
    page.keyboard.press("ArrowRight")
  wait_for_another(page, source, lambda picture: leans_left(picture) < 1)
  assert "right" in page.locator("#target .says").inner_text()


def test_the_sphere_of_the_page_is_lit_as_ours(visit):
  """The page computes its lamp and fill by itself, to be quick: they are those of `lights.studio_light`."""
  page = visit()
  drag(page, -0.5, 0.5)
  says, drawn = page.locator("#target").evaluate(  # both at once
    """element => [
      element.querySelector(".says").innerText,  // "35° left, 30° up"
      Array.from(element.querySelector("canvas").getContext("2d").getImageData(0, 0, 256, 256).data),
    ]"""
  )
  azimuth, elevation = (int(part.split("°")[0]) for part in says.split(", "))
  size, light = 256, studio_light(PRESETS["left"]._replace(azimuth=azimuth, elevation=elevation))
  drawn = np.array(drawn, np.uint8).reshape(size, size, 4)
  at = (np.arange(size) + 0.5 - size / 2) / (size / 2 * 0.76)
  x, z = np.meshgrid(at, -at)
  disc = x**2 + z**2 <= 1
  normals = np.stack([x, -np.sqrt(np.maximum(1 - x**2 - z**2, 0)), z], axis=-1)
  shade = light_lib.shading(light, normals)[..., 0]
  expected = 18 + 230 * np.sqrt(np.maximum(shade - shade[disc].min(), 0) / np.ptp(shade[disc]))
  off = np.abs(drawn[..., 0] - expected)[x**2 + z**2 < 0.97]  # the rim is smooth
  assert np.median(off) <= 1
  assert (off > 12).mean() < 0.05  # the knob


def test_a_preset_and_a_slider(visit):
  page = visit()
  _, source = after(page)
  page.locator("#preset input").click()
  page.get_by_role("option", name="split-right", exact=True).click()
  picture, source = wait_for_another(page, source, lambda picture: leans_left(picture) < 0.8)
  contrast = picture[FACE].std()
  page.locator("#fill input[type=number]").fill("0.9")
  page.locator("#fill input[type=number]").press("Enter")
  picture, source = wait_for_another(page, source, lambda picture: picture[FACE].std() < contrast)
  brightness = picture[FACE].mean()
  page.locator("#exposure input[type=number]").fill("-1")
  page.locator("#exposure input[type=number]").press("Enter")
  picture, source = wait_for_another(page, source, lambda picture: picture[FACE].mean() < 0.85 * brightness)
  wall = picture[30:80, 8:38].mean()
  page.locator("#background input[type=number]").fill("1")
  page.locator("#background input[type=number]").press("Enter")
  wait_for_another(page, source, lambda picture: np.abs(picture[30:80, 8:38].mean() - wall) > 3)


def test_the_preset_without_a_lamp(visit):
  page = visit()
  _, source = after(page)
  page.locator("#preset input").click()
  page.get_by_role("option", name="flat", exact=True).click()
  _, source = wait_for_another(page, source, lambda picture: leans_left(picture) < 1.1)
  assert page.locator("#target .says").inner_text() == "drag to place a lamp instead"
  drag(page, -0.85, 0.1)
  wait_for_another(page, source, lambda picture: leans_left(picture) > 1.1)
  assert "left" in page.locator("#target .says").inner_text()


def upload(page, part, path):
  with page.expect_file_chooser() as chooser:
    page.locator(f"#{part} button[aria-label*=upload i], #{part} button:has-text('Upload')").first.click()
  chooser.value.set_files(path)


def test_a_photo_is_uploaded_relit_and_taken_home(visit, photos, tmp_path):
  page = visit()
  _, source = after(page)
  mirrored = tmp_path / "mirrored.png"
  write_photo(mirrored, Photo(np.ascontiguousarray(astronaut()[:, ::-1])))
  page.locator("#photo input[type=file]").first.set_input_files(mirrored)
  _, source = wait_for_another(page, source)
  page.locator("#save").click()
  link = page.locator("#saved a").first
  link.wait_for()
  with page.expect_download() as download:
    link.click()
  assert download.value.suggested_filename == "mirrored_relit.png"
  assert read_photo(download.value.path()).pixels.shape == (300, 300, 3)


def test_the_light_of_a_portrait_is_carried_over(visit, photos, tmp_path, service):
  wish = web_app.Wish(PRESETS["right"])
  write_photo(tmp_path / "lit.png", service.relight(photos / "astronaut.png", wish))
  page = visit()
  _, source = after(page)
  page.get_by_text("Other lights").click()
  page.locator("#reference input[type=file]").first.set_input_files(tmp_path / "lit.png")
  wait_for_another(page, source, lambda picture: leans_left(picture) < 0.97)
  light = parse_light(str(tmp_path / "lit.png"), load_params("default"))
  assert light_lib.told(light)[0, 3] > 0  # from the right


def test_a_photo_without_a_face_raises_a_toast_and_changes_nothing(visit, photos):
  page = visit()
  _, source = after(page)
  page.locator("#photo input[type=file]").first.set_input_files(photos / "wall.png")
  toast = page.get_by_text("wall.png: no face found")
  toast.first.wait_for()
  assert toast.count() == 1
  assert after(page)[1] == source


def test_a_browser_that_was_led_here_by_another_name_or_page_gets_nothing(chromium, address):
  port = address.rstrip("/").rpartition(":")[2]
  page = chromium.new_page()
  answer = page.goto(f"http://{REBOUND}:{port}/")
  assert (answer.status, "does not go by that name" in page.content()) == (403, True)
  ask = """async address => {
    const body = JSON.stringify({data: [], fn_index: 0, session_hash: "x"});
    try { return await (await fetch(address + "gradio_api/queue/join", {method: "POST", mode: "MODE", body})).text(); }
    catch (error) { return "" + error; }
  }"""
  for mode in ("cors", "no-cors"):
    told = page.evaluate(ask.replace("MODE", mode), address)
    assert told == "" or "Failed to fetch" in told, told
  framed = "address => new Promise(done => { const frame = document.createElement('iframe'); frame.src = address;" + (
    "frame.onload = () => done(frame.contentDocument); document.body.append(frame); })"
  )
  assert page.evaluate(framed, address) is None
  page.close()


def test_on_a_phone_the_face_comes_first_and_nothing_sticks_out(visit):
  page = visit(390, 844)
  boxes = {name: page.locator(f"#{name}").bounding_box() for name in ("result", "target", "fill", "photo")}
  assert boxes["result"]["y"] < boxes["target"]["y"] < boxes["fill"]["y"] < boxes["photo"]["y"]
  assert boxes["target"]["y"] < 844  # the lamp is within reach while the face is seen
  assert page.evaluate("document.documentElement.scrollWidth") <= 390
