"""What a run leaves to read: one line of JSON a step, TensorBoard files, pictures; across resumes each step once."""

import errno
import importlib.util
import json
import os
import resource
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
from PIL import Image
from tensorboardX.proto.event_pb2 import Event

from dpr_jax import records
from dpr_jax.base.errors import BadInput
from dpr_jax.train.log import Stopwatch, TrainingLog, write_picture

ROOT = Path(__file__).resolve().parents[2]
PICTURE = np.arange(48 * 32 * 3, dtype=np.uint8).reshape(48, 32, 3)


def steps(workdir: Path) -> list[int]:
  return [json.loads(line)["step"] for line in (workdir / "metrics.jsonl").read_text().splitlines()]


def events(workdir: Path) -> list[Event]:
  """All events in the order of their files; the framing is that of TFRecord."""
  files = sorted((workdir / "tensorboard").iterdir())
  return [Event.FromString(payload) for file in files for payload in records.read_tfrecords(file)]


def test_a_step_is_one_line_with_every_number(tmp_path):
  with TrainingLog(tmp_path, first_step=0, num_steps=3) as log:
    log.write(1, {"loss": 0.5, "validation/l1": 0.25})
    # Nothing waits in a buffer: a kill now would lose none of it.
    assert json.loads((tmp_path / "metrics.jsonl").read_text()) == {"step": 1, "loss": 0.5, "validation/l1": 0.25}
    log.write(2, {"loss": 0.1 + 0.2})
  assert json.loads((tmp_path / "metrics.jsonl").read_text().splitlines()[1])["loss"] == 0.1 + 0.2
  scalars = {(event.step, value.tag): value.simple_value for event in events(tmp_path) for value in event.summary.value}
  assert scalars == {(1, "train/loss"): 0.5, (1, "validation/l1"): 0.25, (2, "train/loss"): pytest.approx(0.3)}


def test_steps_that_are_made_again_appear_once(tmp_path):
  with TrainingLog(tmp_path, first_step=0, num_steps=9) as log:
    for step in range(1, 7):
      log.write(step, {"loss": float(step)})
  with (tmp_path / "metrics.jsonl").open("a") as file:
    file.write('{"step": 3, "lo')  # what a kill leaves
  with TrainingLog(tmp_path, first_step=4, num_steps=9) as log:
    assert steps(tmp_path) == [1, 2, 3, 4]
    for step in range(5, 8):
      log.write(step, {"loss": 10.0 * step})
  assert steps(tmp_path) == [1, 2, 3, 4, 5, 6, 7]
  lines = [json.loads(line) for line in (tmp_path / "metrics.jsonl").read_text().splitlines()]
  assert [line["loss"] for line in lines] == [1, 2, 3, 4, 50, 60, 70]
  assert [event.step for event in events(tmp_path) if event.session_log.status] == [1, 5]
  assert [path.name for path in tmp_path.iterdir() if path.name.startswith(".")] == []


def test_an_untouched_file_is_not_rewritten(tmp_path):
  with TrainingLog(tmp_path, first_step=0, num_steps=9) as log:
    log.write(1, {"loss": 1.0})
  before = (tmp_path / "metrics.jsonl").stat().st_ino
  with TrainingLog(tmp_path, first_step=1, num_steps=9):
    assert (tmp_path / "metrics.jsonl").stat().st_ino == before


@pytest.mark.slow
def test_tensorboard_reads_the_files_and_forgets_what_was_made_again(tmp_path):
  if importlib.util.find_spec("tensorboard") is None:
    pytest.skip("TensorBoard is not installed")
  for first in (0, 2):
    with TrainingLog(tmp_path, first_step=first, num_steps=4) as log:
      for step in range(first + 1, 4):
        log.write(step, {"loss": float(first + step)})
      log.picture(3, "samples", PICTURE)
  program = """
import sys
from tensorboard.backend.event_processing.event_accumulator import EventAccumulator
accumulator = EventAccumulator(sys.argv[1])
accumulator.Reload()
print([(scalar.step, scalar.value) for scalar in accumulator.Scalars("train/loss")])
print([(image.step, image.height, image.width) for image in accumulator.Images("samples")])
"""
  done = subprocess.run([sys.executable, "-c", program, str(tmp_path / "tensorboard")], capture_output=True, text=True)
  assert done.stdout.splitlines() == ["[(1, 1.0), (2, 2.0), (3, 5.0)]", "[(3, 48, 32)]"], done.stderr


def test_no_tensorflow_and_no_torch_is_imported():
  program = """
import sys
import dpr_jax.train.log
print([name for name in ("tensorflow", "tensorboard", "torch", "jax") if name in sys.modules])
"""
  done = subprocess.run([sys.executable, "-c", program], cwd=ROOT, capture_output=True, text=True)
  assert (done.stdout, done.stderr) == ("[]\n", "")


def test_pictures_are_files_and_events(tmp_path):
  with TrainingLog(tmp_path, first_step=0, num_steps=9) as log:
    log.picture(7, "samples", PICTURE)
  with Image.open(tmp_path / "samples" / "step_00000007.png") as image:
    assert (np.asarray(image) == PICTURE).all()
  (image,) = [value.image for event in events(tmp_path) for value in event.summary.value]
  assert (image.height, image.width, image.colorspace) == (48, 32, 3)


def test_without_a_terminal_lines_take_the_place_of_the_bar(tmp_path, capsys):
  with TrainingLog(tmp_path, first_step=0, num_steps=3) as log:
    log.write(2, {"loss": 0.123456, "skips_on": 4})
    log.advance()
    log.say("a note")
  out, err = capsys.readouterr()
  assert out == "step 2 of 3: loss 0.1235, skips_on 4\na note\n"
  assert err == ""


def test_on_a_terminal_the_line_stays_and_the_bar_is_short(tmp_path, capsys, monkeypatch):
  numbers = {
    "corrupt_records": 0,
    "validation/l1": 0.5,
    "skips_on": 4,
    "images_per_second": 8.0,
    "light": 2.0,
    "loss": 3,
  }
  monkeypatch.setattr("sys.stderr.isatty", lambda: True, raising=False)
  with TrainingLog(tmp_path, first_step=0, num_steps=3) as log:
    log.write(2, numbers)
    log.advance(2)
  out, err = capsys.readouterr()
  line = "loss 3, light 2, images_per_second 8, skips_on 4, validation/l1 0.5, corrupt_records 0"
  assert f"step 2 of 3: {line}\n" in out
  assert "loss 3, images_per_second 8, skips_on 4]" in err
  assert "validation" not in err


def test_both_files_are_closed_where_one_cannot_be(tmp_path, monkeypatch):
  log = TrainingLog(tmp_path, first_step=0, num_steps=3)
  metrics, close, closed = log._metrics, log._events.close, []

  class Full:
    def close(self):
      metrics.close()
      raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

  log._metrics = Full()
  monkeypatch.setattr(log._events, "close", lambda: closed.append(close()))
  with pytest.raises(BadInput, match=r"the log cannot be written \(No space left"):
    log.__exit__(None, None, None)
  assert len(closed) == 1


def test_a_silent_log_writes_nothing(tmp_path, capsys, monkeypatch):
  monkeypatch.chdir(tmp_path)
  with TrainingLog(None, first_step=0, num_steps=3) as log:
    log.write(1, {"loss": 1.0})
    log.picture(1, "samples", PICTURE)
    log.advance()
    log.say("a note")
  assert list(tmp_path.iterdir()) == []
  assert capsys.readouterr() == ("", "")


@pytest.mark.parametrize("number", [float("nan"), float("inf")])
def test_what_is_not_finite_never_gets_into_the_file(tmp_path, number):
  with TrainingLog(tmp_path, first_step=0, num_steps=3) as log, pytest.raises(ValueError):
    log.write(1, {"loss": number})
  assert (tmp_path / "metrics.jsonl").read_text() == ""


def test_a_full_disk_is_one_line(tmp_path):
  _, hard = resource.getrlimit(resource.RLIMIT_FSIZE)
  program = f"""
import resource, sys
from pathlib import Path
from dpr_jax.base.errors import BadInput
from dpr_jax.train.log import TrainingLog
resource.setrlimit(resource.RLIMIT_FSIZE, (2000, {hard}))
try:
  with TrainingLog(Path(sys.argv[1]), first_step=0, num_steps=900) as log:
    for step in range(900):
      log.write(step, {{"loss": 1.0}})
except BadInput as error:
  print(step > 5, error)
"""
  done = subprocess.run([sys.executable, "-c", program, str(tmp_path)], cwd=ROOT, capture_output=True, text=True)
  assert done.stdout.splitlines()[-1] == f"True {tmp_path}: the log cannot be written (File too large)", done.stderr
  assert done.stderr == ""


def test_a_place_that_cannot_be_written_is_named(tmp_path):
  (tmp_path / "metrics.jsonl").mkdir()
  with pytest.raises(BadInput, match=r"metrics\.jsonl: cannot be read"):
    TrainingLog(tmp_path, first_step=0, num_steps=3)
  (tmp_path / "file").touch()
  with pytest.raises(BadInput, match="file"):
    write_picture(tmp_path / "file" / "picture.png", PICTURE)


def test_the_stopwatch_counts_images_and_waiting(monkeypatch):
  now = [100.0]
  monkeypatch.setattr("dpr_jax.train.log.time.monotonic", lambda: now[0])
  watch = Stopwatch()
  assert watch.numbers(8) == {}
  watch.steps += 5
  watch.add_wait(0.5)
  now[0] += 2
  assert watch.numbers(8) == {"images_per_second": 20.0, "input_wait_share": 0.25}
  watch.restart()
  assert watch.numbers(8) == {}
