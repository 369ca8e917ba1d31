"""The server's folder: what counts as uploaded, what has to make room, and what killed servers leave."""

import os
import shutil
import subprocess
import sys
import tempfile
import threading
import time
from pathlib import Path

import pytest

from dpr_jax.base.errors import BadInput
from dpr_jax.web import upload_folder
from dpr_jax.web.upload_folder import UploadFolder


@pytest.fixture
def folder(tmp_path):
  (tmp_path / "uploads").mkdir()
  return UploadFolder(tmp_path / "uploads", 1000)


def put(folder, name, size, age=0):
  path = folder.path / name / "photo.png"
  path.parent.mkdir()
  path.write_bytes(bytes(size))
  os.utime(path, (time.time() - age, time.time() - age))
  return path


def test_what_was_uploaded_is_accepted_and_counts_as_used(folder):
  path = put(folder, "a", 10, age=500)
  assert folder.accept(str(path)) == path
  assert time.time() - path.stat().st_mtime < 60


def test_nothing_else_is_accepted(folder, tmp_path):
  outside = tmp_path / "secret.png"
  outside.write_bytes(b"secret")
  put(folder, "a", 10)
  (folder.path / "link.png").symlink_to(outside)
  (folder.path / "circle.png").symlink_to(folder.path / "circle.png")
  (folder.path / "elsewhere").symlink_to(tmp_path)
  os.mkfifo(folder.path / "pipe.png")
  twin = tmp_path / "uploads2"
  twin.mkdir()
  (twin / "photo.png").write_bytes(b"secret")
  places = [
    outside,
    tmp_path / "none.png",
    folder.path,
    folder.path / "a",
    folder.path / "none.png",
    folder.path / "link.png",
    folder.path / "circle.png",
    folder.path / "elsewhere" / "secret.png",
    folder.path / "pipe.png",
    folder.path / ".." / "secret.png",
    twin / "photo.png",
    "/dev/zero",
    "/proc/self/environ",
    "",
    "photo.png",
    "\0",
    "\ud800",
    "x" * 5000,
  ]
  for place in places:
    with pytest.raises(BadInput) as refused:
      folder.accept(place)
    message = str(refused.value)
    assert message.endswith("was not uploaded to this server, or is there no longer"), place
    assert str(tmp_path) not in message
    assert "\n" not in message
    assert len(message) < 200


def test_the_least_recently_used_makes_room(folder):
  kept = put(folder, "kept", 300, age=900)
  folder.keep_all()
  new, old, older = (put(folder, name, 300, age) for name, age in (("new", 0), ("old", 100), ("older", 200)))
  with folder.reserved(100):
    assert [path.exists() for path in (new, old, older, kept)] == [True, True, True, True]
    with folder.reserved(200):
      assert [path.exists() for path in (new, old, older, kept)] == [True, True, False, True]
      assert not older.parent.exists()
  with folder.reserved(600):
    assert [path.exists() for path in (new, old, kept)] == [True, False, True]
  with pytest.raises(BadInput, match="too much has been uploaded"), folder.reserved(800):
    pass
  assert new.exists()  # it may be in use
  with folder.reserved(700):  # what was refused is not counted
    pass


def test_what_nobody_has_used_for_an_hour_goes(folder):
  path = put(folder, "a", 10, age=4000)
  assert folder.new_path("made.png").parent.is_dir()
  assert not path.exists()


def test_a_folder_is_private_and_gone_afterwards(tmp_path, monkeypatch):
  monkeypatch.setattr(tempfile, "tempdir", str(tmp_path))
  with upload_folder.opened(1000) as folder:
    assert folder.path.stat().st_mode & 0o777 == 0o700
    put(folder, "a", 10)
    with upload_folder.opened(1000) as other:  # which leaves the folder of a server that runs alone
      assert (folder.path / "a" / "photo.png").exists()
      assert other.path != folder.path
  assert not list(tmp_path.iterdir())


def test_whoever_is_at_work_in_a_folder_comes_to_an_end_before_it_goes(tmp_path, monkeypatch):
  monkeypatch.setattr(tempfile, "tempdir", str(tmp_path))
  begun, written = threading.Event(), []

  def work(folder):
    with folder.used():
      begun.set()
      time.sleep(0.3)
      path = folder.path / "late" / "photo.png"
      path.parent.mkdir(parents=True, exist_ok=True)
      path.write_bytes(b"a photo")
      written.append(path)

  with upload_folder.opened(1000) as folder:
    worker = threading.Thread(target=work, args=[folder])
    worker.start()
    assert begun.wait(10)
  assert written
  assert list(tmp_path.iterdir()) == []
  with pytest.raises(BadInput, match="this server stops"), folder.used():
    pass
  worker.join()


def test_a_folder_that_cannot_be_removed_is_tried_again_and_then_left_to_the_next_server(tmp_path, monkeypatch):
  monkeypatch.setattr(tempfile, "tempdir", str(tmp_path))
  monkeypatch.setattr(upload_folder, "_REMOVE_SECONDS", 0.1)
  remove, failures = shutil.rmtree, 3

  def remove_at_last(path, ignore_errors):
    nonlocal failures
    failures -= 1
    if failures < 0:
      remove(path, ignore_errors=ignore_errors)

  monkeypatch.setattr(shutil, "rmtree", remove_at_last)
  with upload_folder.opened(1000):
    pass
  assert list(tmp_path.iterdir()) == []
  failures = 10**9
  with upload_folder.opened(1000) as folder:
    pass
  assert sorted(tmp_path.iterdir()) == [folder.path, folder.path.with_suffix(".lock")]
  failures = 0
  with upload_folder.opened(1000) as folder:
    assert sorted(tmp_path.iterdir()) == [folder.path, folder.path.with_suffix(".lock")]
  assert list(tmp_path.iterdir()) == []


def test_the_folder_of_a_killed_server_is_swept_at_the_next_start(tmp_path, monkeypatch):
  program = (
    "import os, signal, pathlib, dpr_jax.web.upload_folder as u\n"
    "with u.opened(1000) as f: (f.path / 'face.png').write_bytes(b'x'); os.kill(os.getpid(), signal.SIGKILL)"
  )
  environment = os.environ | {"TMPDIR": str(tmp_path)}
  subprocess.run([sys.executable, "-c", program], env=environment, cwd=Path(__file__).parents[2], timeout=600)
  assert list(tmp_path.rglob("face.png"))
  victim = tmp_path / "victim"
  victim.mkdir()
  (victim / "file").touch()
  (tmp_path / "dpr_jax_app_0.lock").touch()
  (tmp_path / "dpr_jax_app_0").symlink_to(victim)
  monkeypatch.setattr(tempfile, "tempdir", str(tmp_path))
  with upload_folder.opened(1000):
    assert not list(tmp_path.rglob("face.png"))
  assert (victim / "file").exists()
