"""Packages in native code: what is hidden from an import is hidden from it alone."""

import sys
import threading
import types

from dpr_jax.base import native_libraries
from dpr_jax.base.native_libraries import import_native, is_installed


def test_nothing_is_hidden_from_opencv(monkeypatch):
  """It is asked for by threads that decode, while others import."""

  def hidden(name):
    raise AssertionError(f"{name} was hidden")

  monkeypatch.setattr(native_libraries, "_hidden", hidden)
  monkeypatch.setattr(native_libraries, "_postponed", hidden)
  assert import_native("cv2") is sys.modules["cv2"]


def test_modules_are_hidden_once_however_many_import(tmp_path, monkeypatch):
  monkeypatch.syspath_prepend(tmp_path)
  for name in ("tensorflow", "matplotlib", "matplotlib.pyplot"):
    monkeypatch.delitem(sys.modules, name, raising=False)
  count, failed = 8, []
  for k in range(count):
    seconds = 0.02 if k % 2 else 0.01
    (tmp_path / f"mediapipe_{k}.py").write_text(
      f"import sys, time\ntime.sleep({seconds})\nhidden = sys.modules['tensorflow']"
    )

  def load(k):
    try:
      assert import_native(f"mediapipe_{k}").hidden is None
    except BaseException as error:
      failed.append(error)

  threads = [threading.Thread(target=load, args=[k]) for k in range(count)]
  for thread in threads:
    thread.start()
  for thread in threads:
    thread.join()
  assert not failed
  assert "tensorflow" not in sys.modules


def test_what_is_installed_is_known_without_an_import(monkeypatch):
  assert is_installed("numpy")
  assert not is_installed("no_such_package")
  monkeypatch.setitem(sys.modules, "hidden_package", None)
  assert not is_installed("hidden_package")
  monkeypatch.setitem(sys.modules, "stand_in", types.ModuleType("stand_in"))
  assert is_installed("stand_in")
