"""The page as a person sees it, in a headless browser: it relights as this package does, and sends nothing anywhere."""

import functools
import http.server
import io
import shutil
import threading

import cv2
import numpy as np
import pytest
from PIL import Image
from skimage import data

from dpr_jax import Relighter
from dpr_jax.base.errors import BadInput
from dpr_jax.portrait.square import warp_to_photo
from web_page import files

CHROMIUM = shutil.which("chromium") or shutil.which("chromium-browser")
# As root there is no sandbox; WebGL is computed by the CPU.
CHROMIUM_FLAGS = (
  "--no-sandbox",
  "--use-angle=swiftshader",
  "--enable-unsafe-swiftshader",
  "--disable-background-networking",
  "--disable-component-update",
  "--no-proxy-server",
)
PATIENCE = 300  # seconds; what takes so long does not come, however busy the machine is


class Quiet(http.server.SimpleHTTPRequestHandler):
  """A plain server of files."""

  def log_message(self, *_):
    pass


@pytest.fixture(scope="module")
def address(tmp_path_factory):
  """Of the page, served by what comes with Python."""
  pytest.importorskip("onnx", reason="onnx (extra `onnx`) is not installed")
  if not files.RUNTIME.is_dir():
    pytest.skip("the npm package onnxruntime-web is not installed (npm ci --prefix web_page)")
  if CHROMIUM is None:
    pytest.skip("Chromium is not installed")
  folder = tmp_path_factory.mktemp("page")
  files.build(folder)
  with serving(functools.partial(Quiet, directory=str(folder))) as port:
    yield f"http://127.0.0.1:{port}/"


class serving:  # noqa: N801 (used like a function)
  """Serves on a free port of this machine for as long as the block lasts."""

  def __init__(self, handler):
    self._server = http.server.ThreadingHTTPServer(("127.0.0.1", 0), handler)
    self._thread = threading.Thread(target=self._server.serve_forever)

  def __enter__(self):
    self._thread.start()
    return self._server.server_port

  def __exit__(self, *_):
    self._server.shutdown()
    self._thread.join()
    self._server.server_close()


@pytest.fixture(scope="module")
def page(address):
  """The page, open; at the end nothing must have gone wrong in it, and nothing have been asked of anybody else."""
  playwright = pytest.importorskip("playwright.sync_api", reason="Playwright (extra `test`) is not installed")
  problems = []
  with playwright.sync_playwright() as driver:
    browser = driver.chromium.launch(executable_path=CHROMIUM, args=CHROMIUM_FLAGS)
    page = browser.new_page(viewport={"width": 1200, "height": 900})
    page.set_default_timeout(1000 * PATIENCE)
    page.on("pageerror", lambda error: problems.append(str(error)))

    def look_at(request):
      """What the page's own policy has stopped was asked of nobody."""
      if not request.url.startswith((address, "data:", "blob:")) and request.failure != "csp":
        problems.append(f"{request.url}: {request.failure}")

    page.context.on("requestfinished", look_at)
    page.context.on("requestfailed", look_at)
    page.goto(address)
    yield page
    browser.close()
  assert problems == []


@pytest.fixture(scope="module")
def relighter():
  with Relighter(face_finder="embedded") as relighter:
    yield relighter


@pytest.fixture(scope="module")
def photo():
  """A portrait of 640 x 560 pixels, the head leaning."""
  return np.ascontiguousarray(cv2.resize(data.astronaut()[:448], (640, 560), interpolation=cv2.INTER_CUBIC))


def png(pixels):
  return {"name": "photo.png", "mimeType": "image/png", "buffer": cv2.imencode(".png", pixels[..., ::-1])[1].tobytes()}


def saved(page):
  with page.expect_download() as download:
    page.click("#save-png")
  with open(download.value.path(), "rb") as file:
    return download.value.suggested_filename, np.asarray(Image.open(io.BytesIO(file.read())).convert("RGB"))


def test_a_photo_is_relit_as_by_the_package(page, relighter, photo):
  page.set_input_files("#file", png(photo))
  page.wait_for_selector("#picture:visible")
  page.select_option("#preset", "left")
  name, relit = saved(page)
  assert (name, relit.shape) == ("photo_relit.png", photo.shape)
  portrait = relighter.encode(photo)
  expected = relighter.relight(portrait, "left")
  (face,) = portrait.faces
  skin = warp_to_photo(face.skin, face.framing.index_matrix, 0, 0, photo.shape) > 0.5
  change, difference = (np.abs(relit.astype(int) - other) for other in (photo, expected))
  assert change[skin].mean() > 10
  assert difference[skin].mean() < 1
  assert difference.mean() < 0.2  # matte included
  away = warp_to_photo(face.weight, face.framing.index_matrix, 0, 0, photo.shape) == 0
  assert (change[away].max(), away.mean() > 0.3) == (0, True)


def test_the_lamp_follows_the_hand_and_the_keys(page, photo):
  page.set_input_files("#file", png(photo))
  page.wait_for_selector("#light:enabled")
  box = page.locator("#sphere").bounding_box()
  page.mouse.move(box["x"] + box["width"] / 2, box["y"] + box["height"] / 2)
  page.mouse.down()
  page.mouse.move(box["x"] + 0.8 * box["width"], box["y"] + 0.5 * box["height"], steps=5)
  page.mouse.up()
  page.wait_for_selector("#words:has-text('right')")
  assert page.input_value("#preset") == ""
  before = page.locator("#sphere").get_attribute("aria-valuenow")
  page.locator("#sphere").press("ArrowLeft")
  page.wait_for_selector(f"#sphere[aria-valuenow='{int(before) + 5}']")
  page.click("#original")
  assert page.get_attribute("#original", "aria-pressed") == "true"
  page.click("#original")


@pytest.mark.parametrize(
  ("name", "content", "says"),
  [
    ("wall.png", None, "No face found in this photo."),
    ("letter.txt", b"Dear Sir", "This is not a picture that the browser can open."),
    ("empty.png", b"", "This is not a picture that the browser can open."),
  ],
)
def test_what_cannot_be_used_is_said_in_one_line(page, name, content, says):
  if content is None:
    content = png(np.full((200, 300, 3), 128, np.uint8))["buffer"]
  page.set_input_files("#file", {"name": name, "mimeType": "application/octet-stream", "buffer": content})
  page.wait_for_selector("#error:not(:empty)")
  assert page.inner_text("#error") == says


def test_nothing_can_be_sent_to_anybody_else(page):
  """Neither by the page nor by its worker, though another server of this machine would take it."""
  asked = []

  class Taker(Quiet):
    def do_GET(self):
      asked.append(self.path)
      self.send_response(200)
      self.send_header("Access-Control-Allow-Origin", "*")
      self.end_headers()

    do_POST = do_GET  # noqa: N815 (so http.server asks)

  with serving(Taker) as port:
    send = f"fetch('http://127.0.0.1:{port}/photo').then(() => 'sent', () => 'refused')"
    assert page.evaluate(send) == "refused"
    (worker,) = page.workers
    assert worker.evaluate(send) == "refused"
    page.evaluate(f"void (new Image().src = 'http://127.0.0.1:{port}/picture')")
    page.evaluate(f"navigator.sendBeacon('http://127.0.0.1:{port}/beacon', 'x')")  # says whether it is queued, no more
    page.wait_for_timeout(300)
  assert asked == []


def test_without_the_runtime_nothing_is_built(tmp_path):
  with pytest.raises(BadInput, match=r"ort\.wasm\.min\.mjs: missing \(npm ci --prefix web_page\)"):
    files.build(tmp_path / "page", runtime=tmp_path)
  assert not (tmp_path / "page").exists()
