"""How long a person waits for the web app: one who uploads a photo, and some who move its light at the same time.

python benchmarks/app_latency.py
python benchmarks/app_latency.py --users=1,4 --seconds=60 --weights=official-512
python benchmarks/app_latency.py --users=4 --seconds=600 --attack=hostile

The first table is of one process: all that a new photo takes, and what a new light for it takes (a photo of 512 pixels
to a side, medians of runs in turn). The second is over HTTP on loopback, the server (`app.py`) in a process of its own:
every user moves the light of a photo of their own as fast as answers come, and each answer is a picture. With --attack
there is a second round, in which somebody else sends the files of that folder, one after another without a pause, as
photos and as environment maps. The last one is memory: of the server at rest, at its highest, and after all requests,
each tenth of them with a new photo; and the highest of it and its decoders together, looked at every second.
"""

import collections
import concurrent.futures
import contextlib
import itertools
import re
import signal
import statistics
import subprocess
import sys
import tempfile
import threading
import time
from pathlib import Path

import gradio_client
import numpy as np
from absl import app, flags, logging
from skimage import data

from dpr_jax.image.color import NEUTRAL
from dpr_jax.image.photo import Photo
from dpr_jax.image.photo_writing import write_photo
from dpr_jax.portrait.lights import Direction
from dpr_jax.web import app as web_app
from dpr_jax.web.service import RelightService, Wish

_WEIGHTS = flags.DEFINE_string("weights", "default", "as for app.py")
_FACE_FINDER = flags.DEFINE_string("face_finder", None, "as for app.py")
_USERS = flags.DEFINE_list("users", ["1", "4"], "how many at a time")
_SECONDS = flags.DEFINE_float("seconds", 60, "for each number of users")
_ATTACK = flags.DEFINE_string("attack", None, "a folder of files that somebody sends in a second round")
_RUNS = flags.DEFINE_integer("runs", 15, "of the first table")
_REQUESTS = flags.DEFINE_integer("requests", 200, "of the third")
_ROOT = Path(__file__).resolve().parent.parent

_PATIENCE = 120  # seconds that a client waits for each answer; its own 5 are not for busy machines
# Of what the page sends with every wish: the map and its rotation, the portrait, and strength, exposure, kelvin, room.
_NO_MAP, _NO_REFERENCE, _DIALS = (None, 0), (None,), (1, 0, NEUTRAL, 0)


def portrait(number: int) -> np.ndarray:
  """The astronaut, `[512, 512, 3]`, another file for every number."""
  pixels = data.astronaut().copy()
  pixels[-1, number % 512] = number // 512
  return pixels


def one_process(folder: Path) -> None:
  moves, whole = [], []
  with RelightService((_WEIGHTS.value,), face_finder=_FACE_FINDER.value) as service:
    for k in range(_RUNS.value + 1):
      path, wish = folder / f"one_{k}.png", Wish(Direction(-60 + 8 * k, 20))
      write_photo(path, Photo(portrait(k)))
      begin = time.perf_counter()
      service.relight_for_screen(path, wish)
      whole.append(time.perf_counter() - begin)
      begin = time.perf_counter()
      service.relight_for_screen(path, Wish(Direction(60 - 8 * k, 10)))
      moves.append(time.perf_counter() - begin)
  whole, moves = (statistics.median(times[1:]) for times in (whole, moves))  # the first ones compile
  print(f"{_WEIGHTS.value}, photo of 512 pixels  |  ms")
  print(f"a new photo (read, find, encode, decode, carry)  |  {1000 * whole:.0f}")
  print(f"a new light (decode, carry)  |  {1000 * moves:.0f}  |  {moves / whole:.2f} of it\n")


def ask(client: gradio_client.Client, photo: Path, azimuth: float) -> float:
  """Seconds until the picture is there."""
  begin = time.perf_counter()
  client.predict(
    gradio_client.handle_file(str(photo)), web_app.LAMP, *Direction(azimuth, 20), *_NO_MAP, *_NO_REFERENCE, *_DIALS,
    _WEIGHTS.value, web_app.ALL_FACES, api_name="/preview",
  )  # fmt: skip
  return time.perf_counter() - begin


def person(address: str, folder: Path, number: int, until: float) -> tuple[list[float], int]:
  """Latencies, and how many requests failed."""
  photo = folder / f"person_{number}.png"
  write_photo(photo, Photo(portrait(1000 + number)), overwrite=True)
  client, times, failed = gradio_client.Client(address, verbose=False, httpx_kwargs={"timeout": _PATIENCE}), [], 0
  while time.monotonic() < until:
    try:
      times.append(ask(client, photo, 90 * np.sin(len(times))))
    except Exception as error:
      failed += 1
      print(f"failed: {error}", file=sys.stderr)
  return times[1:], failed


def attacker(address: str, folder: Path, until: float) -> collections.Counter:
  """How often a file was refused, or answered as if nothing were wrong with it."""
  files, answers = sorted(path for path in Path(_ATTACK.value).iterdir() if path.is_file()), collections.Counter()
  client, good = (
    gradio_client.Client(address, verbose=False, httpx_kwargs={"timeout": _PATIENCE}),
    folder / "attacker.png",
  )
  write_photo(good, Photo(portrait(999)), overwrite=True)
  number = 0
  while time.monotonic() < until:
    file = gradio_client.handle_file(str(files[number // 2 % len(files)]))
    as_map, number = number % 2, number + 1
    photo, kind = (gradio_client.handle_file(str(good)), web_app.MAP) if as_map else (file, web_app.LAMP)
    wishes = [photo, kind, *Direction(10, 20), file if as_map else None, 0, *_NO_REFERENCE, *_DIALS]
    try:
      client.predict(*wishes, _WEIGHTS.value, web_app.ALL_FACES, api_name="/relight")
      answers["answered"] += 1
    except Exception as error:
      answers["refused" if isinstance(error, gradio_client.exceptions.AppError) else type(error).__name__] += 1
  return answers


def over_http(address: str, folder: Path) -> None:
  print("users  |  answers  |  failed  |  a second  |  ms: median  |  90%  |  99%  |  longest")
  for users, attacked in itertools.product(map(int, _USERS.value), (False, True) if _ATTACK.value else (False,)):
    with concurrent.futures.ThreadPoolExecutor(users + 1) as threads:
      until = time.monotonic() + _SECONDS.value
      attack = threads.submit(attacker, address, folder, until) if attacked else None
      people = list(threads.map(person, [address] * users, [folder] * users, range(users), [until] * users))
    times = 1000 * np.concatenate([times for times, _ in people])
    failed = sum(failed for _, failed in people)
    shares = "  |  ".join(f"{np.percentile(times, share):.0f}" for share in (50, 90, 99, 100))
    who = f"{users} and an attacker ({dict(attack.result())})" if attack else users
    print(f"{who}  |  {len(times)}  |  {failed}  |  {len(times) / _SECONDS.value:.1f}  |  {shares}", flush=True)


class Together(threading.Thread):
  """Watches how much memory a process and its children have.

  Attributes:
    highest: MiB.
  """

  def __init__(self, process: subprocess.Popen):
    super().__init__(daemon=True)
    self._process, self.highest = process, 0.0

  def run(self) -> None:
    while self._process.poll() is None:
      with contextlib.suppress(OSError, TypeError):  # one that has just ended
        children = Path(f"/proc/{self._process.pid}/task/{self._process.pid}/children").read_text().split()
        own = memory(self._process.pid, "VmRSS")
        self.highest = max(self.highest, own + sum(memory(child, "VmRSS") for child in children))
      time.sleep(1)


def memory(process: int | str, name: str) -> float:
  """MiB."""
  status = Path(f"/proc/{process}/status").read_text()
  return int(re.search(rf"{name}:\s+(\d+)", status)[1]) / 1024


def main(_) -> None:
  logging.set_verbosity(logging.WARNING)  # else every request is told of
  with tempfile.TemporaryDirectory() as folder:
    folder = Path(folder)
    one_process(folder)
    command = [sys.executable, _ROOT / "app.py", f"--weights={_WEIGHTS.value}"]
    if _FACE_FINDER.value:
      command.append(f"--face_finder={_FACE_FINDER.value}")
    with subprocess.Popen(command, stdout=subprocess.PIPE, text=True, cwd=_ROOT) as server:
      try:
        address = re.search(r"http\S+", server.stdout.readline())[0]
        at_rest, together = memory(server.pid, "VmRSS"), Together(server)
        together.start()
        over_http(address, folder)
        client = gradio_client.Client(address, verbose=False, httpx_kwargs={"timeout": _PATIENCE})
        first = None
        for k in range(_REQUESTS.value):
          photo = folder / f"memory_{k // 10}.png"
          write_photo(photo, Photo(portrait(5000 + k // 10)), overwrite=True)
          ask(client, photo, k)
          first = memory(server.pid, "VmRSS") if k == 9 else first
        after = memory(server.pid, "VmRSS")
        highest = memory(server.pid, "VmHWM")
        print(f"\nserver, MiB  |  at rest {at_rest:.0f}  |  highest {highest:.0f}  |  after 10 more "
              f"requests {first:.0f}  |  after {_REQUESTS.value} {after:.0f}  |  with its decoders "
              f"{together.highest:.0f}")  # fmt: skip
      finally:
        server.send_signal(signal.SIGTERM)


if __name__ == "__main__":
  app.run(main)
