"""The entry script and the package as a user starts them: in a process, a folder and a cache of their own."""

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest
from PIL import Image

import dpr_jax
from dpr_jax.base.native_libraries import is_installed

ROOT = Path(__file__).resolve().parents[2]


@pytest.fixture
def start(tmp_path):
  """Starts Python in an empty folder, with an empty home and cache, and without a network."""
  (tmp_path / "cwd").mkdir()
  kept = {name: value for name, value in os.environ.items() if not name.startswith(("DPR_", "JAX_", "XDG_", "PYTHON"))}
  nowhere = dict.fromkeys(("HTTPS_PROXY", "https_proxy", "HTTP_PROXY", "http_proxy"), "http://127.0.0.1:9")
  home = {"HOME": str(tmp_path / "home"), "XDG_CACHE_HOME": str(tmp_path / "cache")}

  def start(*arguments, **environment):
    return subprocess.run(
      [sys.executable, *arguments],
      cwd=tmp_path / "cwd",
      env=kept | nowhere | home | environment,
      capture_output=True,
      text=True,
      timeout=600,
    )

  return start


@pytest.fixture
def fakes(tmp_path):
  """The environment in which packages cannot be imported, for a reason."""

  def fakes(*names, reason="must not be imported"):
    for name in names:
      (tmp_path / "fake" / name).mkdir(parents=True)
      (tmp_path / "fake" / name / "__init__.py").write_text(f"raise ImportError({reason!r})")
    return {"PYTHONPATH": str(tmp_path / "fake"), "PYTHONDONTWRITEBYTECODE": "1"}

  return fakes


def files(folder: Path) -> set[str]:
  return {str(path.relative_to(folder)) for path in folder.rglob("*") if path.is_file()}


def test_the_demo_is_silent_and_the_second_one_compiles_nothing(start, shared, tmp_path):
  assets = {"DPR_ASSETS": os.pathsep.join([str(shared("reference/dpr")), str(shared("models"))])}
  first = start(ROOT / "relight.py", "--demo", **assets)
  assert first.returncode == 0
  # No terms to show. On a slow machine Matplotlib, which MediaPipe imports, says that it looks for fonts.
  spoken = [line for line in first.stderr.splitlines() if "font cache" not in line]
  assert spoken == []
  assert first.stdout == "demo/astronaut_relit.png and demo/astronaut_sheet.png\n"
  assert files(tmp_path / "cwd") == {"demo/astronaut_relit.png", "demo/astronaut_sheet.png"}
  with Image.open(tmp_path / "cwd/demo/astronaut_relit.png") as image:
    assert image.size == (300, 300)
  with Image.open(tmp_path / "cwd/demo/astronaut_sheet.png") as image:
    assert image.size == (6 * 308 + 8, 300 + 100 + 4 * 8)  # the photo and five lights in a row
  compiled = files(tmp_path / "cache/dpr_jax/xla")
  assert {"encode", "log"} <= {name.split("_")[1] for name in compiled}  # the two halves, jit_encode_..., jit_log_ratio
  sheet = (tmp_path / "cwd/demo/astronaut_sheet.png").read_bytes()

  second = start(ROOT / "relight.py", "--demo", **assets)
  assert (second.returncode, second.stdout, second.stderr) == (0, first.stdout, "")
  assert files(tmp_path / "cache/dpr_jax/xla") == compiled
  assert (tmp_path / "cwd/demo/astronaut_sheet.png").read_bytes() == sheet


def test_the_demo_needs_nothing_but_the_package(start, fakes, tmp_path):
  """No network, no home, and no MediaPipe; what is lost is said in one line, unless the finder was named."""
  lost = "MediaPipe's landmarks are more precise, most of all on heads turned by up to 45 degrees\n"
  first, second = (start(ROOT / "relight.py", "--demo") for _ in range(2))
  if is_installed("mediapipe"):
    because = "face_landmarker.task cannot be fetched (ProxyError)"
    again = f"{because}; the next try is a day after that one"
  else:
    because = again = 'the package mediapipe is not installed (pip install -e ".[mediapipe]")'
  for ended, reason in ((first, because), (second, again)):
    assert (ended.returncode, ended.stdout) == (0, "demo/astronaut_relit.png and demo/astronaut_sheet.png\n")
    assert ended.stderr == f"face finder: embedded, for {reason}. {lost}"
  relit = (tmp_path / "cwd/demo/astronaut_relit.png").read_bytes()
  named = start(ROOT / "relight.py", "--demo", "--face_finder=embedded", **fakes("mediapipe"))
  assert (named.returncode, named.stderr) == (0, "")
  assert (tmp_path / "cwd/demo/astronaut_relit.png").read_bytes() == relit


def test_mediapipe_by_name_is_not_replaced_by_another(start, tmp_path):
  ended = start(ROOT / "relight.py", "--demo", "--face_finder=mediapipe")
  assert (ended.returncode, ended.stdout) == (2, "")
  line = ended.stderr.splitlines()[-1]
  if is_installed("mediapipe"):
    assert line.startswith("relight.py: face_landmarker.task: cannot be fetched from https://storage.googleapis.com/")
  else:
    needed = 'the package is not installed; pip install -e ".[mediapipe]"'
    assert line == f"relight.py: --face_finder mediapipe: {needed}"
  assert not files(tmp_path / "cwd")


def test_weights_that_cannot_be_fetched_are_named_with_their_place(start, tmp_path):
  (tmp_path / "photo.png").touch()
  ended = start(
    ROOT / "relight.py",
    f"--image={tmp_path / 'photo.png'}",
    "--light=left",
    "--out=relit.png",
    "--weights=official-512",
  )
  assert (ended.returncode, ended.stdout) == (2, "")
  *notices, line = ended.stderr.splitlines()
  assert line.startswith("relight.py: trained_model_03.t7: cannot be fetched from https://raw.githubusercontent.com/")
  assert line.endswith("/cache/dpr_jax, or into a folder that DPR_ASSETS names")
  assert all(notice.startswith("Downloading data from") for notice in notices)  # pooch's, so that nobody waits puzzled
  assert files(tmp_path) == {"photo.png"}


def test_a_missing_system_library_is_one_line_with_its_remedy(start, fakes):
  reason = "libGL.so.1: cannot open shared object file: No such file or directory"
  ended = start(ROOT / "relight.py", "--demo", **fakes("cv2", reason=reason))
  assert (ended.returncode, ended.stdout) == (2, "")
  assert ended.stderr == (
    f"relight.py: cv2 needs a system library that is missing here ({reason}); "
    "on Debian or Ubuntu: apt-get install libgl1 libglib2.0-0\n"
  )


_NEEDED = "--image (or --video) and --out are needed, or --demo; --help lists all flags"
_FILM_ALONE = "--video: leave out --image and --grid; one film at a time, under one light"
_DEMO_ALONE = "--demo has a photo and a sheet of its own: leave out --image, --video, --grid and --rotate"
_UNALIGNED = "--background, --replace_background and --passes: not with --no-align, which looks for no persons"


@pytest.mark.parametrize(
  ("arguments", "message"),
  [
    ([], _NEEDED),
    (["--image=x"], _NEEDED),
    (["--out=y", "--light=left"], _NEEDED),
    (["--image=", "--light=left", "--out=y"], _NEEDED),
    (["--image=x", "--light=left", "--out="], _NEEDED),
    (["--demo", "--image=x", "--out=y.png"], _DEMO_ALONE),
    (["--demo", "--grid"], _DEMO_ALONE),
    (["--demo", "--rotate=0"], _DEMO_ALONE),
    (["--demo", "--video=x"], _DEMO_ALONE),
    (["--video=x"], _NEEDED),
    (["--video=x", "--image=x", "--light=left", "--out=y"], _FILM_ALONE),
    (["--video=x", "--grid", "--out=y"], _FILM_ALONE),
    (["--demo", "--strength=4"], "--strength 4: must lie in 0 to 3"),
    (["--demo", "--background=0.5", "--no-align"], _UNALIGNED),
    (["--image=missing.png", "--light=left", "--out=y.png"], "missing.png: cannot be read (No such file or directory)"),
  ],
)
def test_flags_that_do_not_go_together_are_refused_at_once(start, fakes, tmp_path, arguments, message):
  """Before any heavy import."""
  ended = start(ROOT / "relight.py", *arguments, **fakes("cv2", "jax", "mediapipe"))
  assert (ended.returncode, ended.stdout, ended.stderr) == (2, "", f"relight.py: {message}\n")
  assert not files(tmp_path / "cwd")


def test_help_needs_no_heavy_import(start, fakes):
  """It shows the examples and all flags even where nothing else works."""
  ended = start(ROOT / "relight.py", "--help", **fakes("cv2", "jax", "mediapipe"))
  assert (ended.returncode, ended.stderr) == (1, "")  # absl's own exit code
  assert "python relight.py --image=photo.jpg --light=left --out=relit.jpg" in ended.stdout
  flags = ("image", "video", "light", "out", "strength", "intensity", "weights", "size", "face", "rotate")
  switches = ("no_align", "grid", "demo", "overwrite")
  for flag in (*flags, *(f"[no]{switch}" for switch in switches)):
    assert f"\n  --{flag}:" in ended.stdout


def test_the_export_shows_its_flags_without_a_heavy_import(start, fakes):
  ended = start(ROOT / "export_dataset.py", "--help", **fakes("cv2", "jax", "mediapipe", "numba"))
  assert (ended.returncode, ended.stderr) == (1, "")
  assert "python export_dataset.py --source=portraits --out=dataset" in ended.stdout
  for flag in ("source", "out", "normals", "light_estimator", "light_prior", "lights_per_image", "denoise", "runner"):
    assert f"\n  --{flag}:" in ended.stdout


@pytest.mark.parametrize(
  ("arguments", "message"),
  [
    ([], "--out is needed; --help lists all flags"),
    (["--out=o", "--workers=0"], "--workers 0: must be at least 1"),
    (["--out=o", "--pages=-1"], "--pages -1: must be at least 1"),
    (["--out=o", "--colour"], "Unknown command line flag 'colour'"),
    (["--out=o", "--size=big"], "flag --size=big: invalid literal"),
    (["--out=o", "more"], "unexpected argument 'more'; flags begin with --"),
  ],
)
def test_export_flags_that_are_wrong_are_refused_at_once(start, fakes, tmp_path, arguments, message):
  ended = start(ROOT / "export_dataset.py", *arguments, **fakes("cv2", "jax", "mediapipe", "numba"))
  assert (ended.returncode, ended.stdout) == (2, "")
  assert ended.stderr.startswith(f"export_dataset.py: {message}")
  assert ended.stderr.count("\n") == 1
  assert not files(tmp_path / "cwd")


def slow(*values):
  """A case whose message other tests know, of the function that says it."""
  return pytest.param(*values, marks=pytest.mark.slow)


@pytest.mark.parametrize(
  ("arguments", "message"),
  [
    (["--count=0"], "--count 0: must lie in 1 to 1000000000"),
    (["--source=nowhere"], "{cwd}/nowhere: not a readable folder (No such file or directory)"),
    slow(["--source=empty"], "{cwd}/empty: holds no photo (known are JPEG, "),
    slow(["--source="], "--source is empty: give a folder of photos, synthetic or heads"),
    slow(["--normals=guess"], "--normals guess: must be one of face_mesh, tddfa, synthetic"),
    slow(["--light_prior=empty"], "{cwd}/empty: holds no light (.txt, "),
    (["--normals=tddfa", "--light_estimator=fit"], "mb1_120x120.pth: not here; get it from https://"),
    (["--light_estimator=network", "--weights=none.t7"], "weights 'none.t7': no such file or training run; "),
  ],
)
def test_exports_that_cannot_be_stop_before_anything_is_written(start, tmp_path, arguments, message):
  (tmp_path / "cwd" / "empty").mkdir()
  if "--normals=tddfa" in arguments:
    arguments = [*arguments, "--face_finder=embedded"]
  ended = start(ROOT / "export_dataset.py", "--out=dataset", "--size=128", *arguments)
  assert (ended.returncode, ended.stdout) == (2, "")
  assert ended.stderr.startswith("export_dataset.py: " + message.format(cwd=tmp_path / "cwd"))
  assert ended.stderr.count("\n") == 1
  assert not files(tmp_path / "cwd")


_IMPORTED = """
import json, sys
import dpr_jax
steps = [sorted({name.partition(".")[0] for name in sys.modules})]
dpr_jax.relight_fn, dpr_jax.BadInput
steps.append(sorted({name.partition(".")[0] for name in sys.modules}))
print(json.dumps(steps))
"""


def test_imports_are_as_light_as_what_is_used(start):
  ended = start("-c", _IMPORTED, PYTHONPATH=str(ROOT), PYTHONDONTWRITEBYTECODE="1")
  assert ended.stderr == ""
  package, function = (set(names) for names in json.loads(ended.stdout))
  assert not package & {"cv2", "mediapipe", "jax", "flax", "numpy", "scipy", "PIL", "skimage", "av", "pooch", "tqdm"}
  assert "jax" in function
  assert not function & {"cv2", "mediapipe", "skimage", "av", "OpenEXR"}


def test_the_public_names():
  assert set(dpr_jax.__all__) == {
    "BadInput",
    "Light",
    "Relighter",
    "estimate_light",
    "load_params",
    "parse_light",
    "relight_fn",
    "relight_lights",
    "relight_luminance",
  }
  for name in dpr_jax.__all__:
    assert getattr(dpr_jax, name).__name__ == name
    assert name in dir(dpr_jax)
  with pytest.raises(AttributeError, match="module 'dpr_jax' has no attribute 'relight'"):
    dpr_jax.relight  # noqa: B018
