import errno
import os
import threading

import pytest

from dpr_jax.base.errors import BadInput
from dpr_jax.base.output_files import atomic_output


def names(folder):
  return sorted(entry.name for entry in folder.iterdir())


def test_writes_a_new_file_and_the_folders_above_it(tmp_path):
  path = tmp_path / "a" / "b" / "table.csv"
  with atomic_output(path) as temporary:
    assert temporary.parent == path.parent
    assert temporary.suffix == ".csv"
    assert temporary.name.startswith(".")
    temporary.write_text("whole")
    assert not path.exists()
  assert path.read_text() == "whole"
  assert names(path.parent) == ["table.csv"]


def test_permissions_are_those_of_an_ordinary_new_file(tmp_path):
  (tmp_path / "ordinary").touch()
  with atomic_output(tmp_path / "ours") as temporary:
    temporary.touch()
  assert (tmp_path / "ours").stat().st_mode == (tmp_path / "ordinary").stat().st_mode


def test_overwrites_only_when_asked(tmp_path):
  path = tmp_path / "x.txt"
  path.write_text("old")
  with pytest.raises(BadInput, match=r"x\.txt: exists already"), atomic_output(path):
    pytest.fail("the block must not run")
  assert path.read_text() == "old"
  with atomic_output(path, overwrite=True) as temporary:
    temporary.write_text("new")
  assert path.read_text() == "new"
  assert names(tmp_path) == ["x.txt"]


def test_a_dangling_link_counts_as_existing(tmp_path):
  path = tmp_path / "x.txt"
  path.symlink_to("nowhere")
  with pytest.raises(BadInput, match="exists already"), atomic_output(path):
    pytest.fail("the block must not run")


@pytest.mark.parametrize("error", [RuntimeError, KeyboardInterrupt])
@pytest.mark.parametrize("old", ["old", None])
def test_a_failing_writer_leaves_everything_as_it_was(tmp_path, error, old):
  path = tmp_path / "x.txt"
  if old:
    path.write_text(old)

  def write():
    with atomic_output(path, overwrite=True) as temporary:
      temporary.write_text("half")
      raise error

  with pytest.raises(error):
    write()
  assert names(tmp_path) == (["x.txt"] if old else [])
  assert not old or path.read_text() == old


@pytest.mark.parametrize("hard_links", [True, False])
def test_a_writer_that_came_first_is_not_overwritten(tmp_path, monkeypatch, hard_links):
  path = tmp_path / "x.txt"
  if not hard_links:
    forbid_hard_links(monkeypatch)

  def write():
    with atomic_output(path) as temporary:
      temporary.write_text("second")
      path.write_text("first")

  with pytest.raises(BadInput, match=r"x\.txt: exists already"):
    write()
  assert path.read_text() == "first"
  assert names(tmp_path) == ["x.txt"]


def test_works_without_hard_links(tmp_path, monkeypatch):
  forbid_hard_links(monkeypatch)
  path = tmp_path / "x.txt"
  with atomic_output(path) as temporary:
    temporary.write_text("whole")
  assert path.read_text() == "whole"
  assert names(tmp_path) == ["x.txt"]


def test_a_failed_move_without_hard_links_gives_the_name_back(tmp_path, monkeypatch):
  def refuse(source, target):
    raise PermissionError(errno.EPERM, "no moves here", str(source))

  forbid_hard_links(monkeypatch)
  monkeypatch.setattr(os, "replace", refuse)
  message = r"x\.txt: cannot be written \(no moves here\)"
  with pytest.raises(BadInput, match=message), atomic_output(tmp_path / "x.txt") as temporary:
    temporary.write_text("whole")
  assert names(tmp_path) == []


@pytest.mark.parametrize("hard_links", [True, False])
def test_of_many_writers_exactly_one_wins(tmp_path, monkeypatch, hard_links):
  if not hard_links:
    forbid_hard_links(monkeypatch)
  path = tmp_path / "x.txt"
  at_once = threading.Barrier(8)
  outcomes = []

  def write(text):
    try:
      with atomic_output(path) as temporary:
        temporary.write_text(text)
        at_once.wait()
      outcomes.append(text)
    except BadInput:
      outcomes.append(None)

  run_threads(write, [str(number) * 10_000 for number in range(8)])
  winners = [text for text in outcomes if text]
  assert len(outcomes) == 8
  assert winners == [path.read_text()]
  assert names(tmp_path) == ["x.txt"]


def test_overwriting_writers_leave_one_whole_file(tmp_path):
  path = tmp_path / "x.txt"
  texts = [str(number) * 10_000 for number in range(8)]

  def write(text):
    for _ in range(20):
      with atomic_output(path, overwrite=True) as temporary:
        temporary.write_text(text)
      assert path.read_text() in texts

  run_threads(write, texts)
  assert names(tmp_path) == ["x.txt"]


def test_bad_places_are_named(tmp_path):
  (tmp_path / "file").touch()
  with pytest.raises(BadInput, match=r"file: cannot be made a folder"), atomic_output(tmp_path / "file" / "x.txt"):
    pytest.fail("the block must not run")
  with pytest.raises(BadInput, match="is a folder"), atomic_output(tmp_path, overwrite=True):
    pytest.fail("the block must not run")


def test_a_full_disk_names_the_output(tmp_path):
  def write():
    with atomic_output(tmp_path / "x.txt") as temporary:
      temporary.write_text("half")
      raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

  with pytest.raises(BadInput, match=r"x\.txt: cannot be written \(No space left on device\)$"):
    write()
  assert names(tmp_path) == []


def test_an_error_about_another_file_is_not_ours(tmp_path):
  with pytest.raises(FileNotFoundError, match="missing-input"), atomic_output(tmp_path / "x.txt"):
    (tmp_path / "missing-input").read_bytes()


def forbid_hard_links(monkeypatch):
  def refuse(source, target):
    raise PermissionError(errno.EPERM, os.strerror(errno.EPERM), str(source), None, str(target))

  monkeypatch.setattr(os, "link", refuse)


def run_threads(target, arguments):
  errors = []

  def guarded(argument):
    try:
      target(argument)
    except BaseException as error:
      errors.append(error)

  threads = [threading.Thread(target=guarded, args=(argument,)) for argument in arguments]
  for thread in threads:
    thread.start()
  for thread in threads:
    thread.join()
  assert not errors
