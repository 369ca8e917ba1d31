"""Every command, every piece of Python, every link and every picture of the pages in docs/."""

import contextlib
import importlib.util
import json
import os
import re
import runpy
import shlex
import signal
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import NamedTuple

import av
import cv2
import numpy as np
import pytest
from absl import flags
from ml_collections import ConfigDict

from dpr_jax.base import command_line
from dpr_jax.base.assets import ASSETS
from dpr_jax.image.pictures import write_films
from dpr_jax.network import traced
from dpr_jax.portrait import relighter
from dpr_jax.records import split_of
from dpr_jax.train.config import default_config
from tests.conftest import ROOT

DOCS = ROOT / "docs"
NOTES = {"experiments.md"}  # figures for the record, which are no page for users
PAGES = {path.name: path.read_text(encoding="utf-8") for path in sorted(DOCS.glob("*.md")) if path.name not in NOTES}
README = "../README.md"
LINKED = PAGES | {README: (ROOT / "README.md").read_text(encoding="utf-8")}

ENTRIES = (
  "relight.py",
  "export_dataset.py",
  "convert_head.py",
  "train.py",
  "evaluate.py",
  "export_weights.py",
  "export_model.py",
  "app.py",
)
# Written by this project's other programs, or by scripts that are older than make_pictures.py.
OLDER_PICTURES = {"gallery.jpg", "dataset_page.jpg", "learning.jpg", "comparison.jpg", "web_app.jpg"}


class Block(NamedTuple):
  """A fenced block of a page."""

  page: str
  line: int
  language: str
  text: str

  def __str__(self) -> str:
    return f"{self.page}:{self.line}"


def blocks_of(page: str) -> list[Block]:
  found = re.finditer(r"^```(\w*)\n(.*?)^```$", PAGES[page], re.MULTILINE | re.DOTALL)
  return [Block(page, PAGES[page].count("\n", 0, match.start()) + 1, match[1], match[2]) for match in found]


BLOCKS = [block for page in PAGES for block in blocks_of(page)]
# Clients of a running server are tried by test_web_app.py.
PYTHON = [block for block in BLOCKS if block.language == "python" and "gradio_client" not in block.text]
# What a `bash` block shows is run here; what a `console` block shows needs other machines, or days.
RUNNABLE, PLANNED = (
  [(block, line) for block in BLOCKS if block.language == language for line in block.text.splitlines() if line]
  for language in ("bash", "console")
)


def prose_of(page: str) -> str:
  """A page without its fenced blocks."""
  return re.sub(r"^```.*?^```$", "", LINKED[page], flags=re.MULTILINE | re.DOTALL)


def our_command(line: str) -> list[str] | None:
  """Script and arguments of one of our programs, also where it is started by another one; None if there is none."""
  words = shlex.split(line)
  inner = [word.removeprefix("--command=") for word in words if word.startswith("--command=")]
  if inner:
    return our_command(inner[0])
  if "python" not in words or words[words.index("python") + 1] in ("-c", "-m"):
    return None
  return words[words.index("python") + 1 :]


OURS = [line for _, line in RUNNABLE + PLANNED if our_command(line)]
TYPED = [line for _, line in RUNNABLE if our_command(line)]


# ---------------------------------------------------------------------------------------------------------------------
# Flags.

# Parses commands as the scripts do, each in a process of its own, which costs a fork: all imports are done before.
_PARSE = """
import json, os, runpy, sys, traceback
from absl import flags
from dpr_jax.base import command_line
from dpr_jax.train.config import check_config

def parse(script, words):
  sys.argv = [script, *words]  # where a config file's fields are looked for
  runpy.run_path(script, run_name="parsed")
  command_line._parse_flags(sys.argv)
  known = sorted(flags.FLAGS)
  if "config" in known:
    check_config(flags.FLAGS["config"].value)
  return known

answers = []
for script, *words in json.load(sys.stdin):
  reading, writing = os.pipe()
  child = os.fork()
  if child == 0:
    os.dup2(writing, 2)
    status = 1
    try:
      print(json.dumps(parse(script, words)), file=sys.stderr)
      status = 0
    except SystemExit:
      pass
    except BaseException:
      traceback.print_exc()
    sys.stderr.flush()
    os._exit(status)
  os.close(writing)
  with os.fdopen(reading) as said:
    text = said.read()
  answers.append([os.waitpid(child, 0)[1] == 0, text])
print(json.dumps(answers))
"""


def parse(commands: list[list[str]]) -> list[tuple[bool, str]]:
  """For each command whether its flags are right, and the names of all flags, or what is wrong."""
  result = subprocess.run(
    [sys.executable, "-c", _PARSE],
    input=json.dumps(commands),
    cwd=ROOT,
    env=os.environ | {"PYTHONPATH": str(ROOT), "JAX_PLATFORMS": "cpu"},
    capture_output=True,
    text=True,
    check=False,
  )
  assert result.returncode == 0, result.stderr
  return [tuple(answer) for answer in json.loads(result.stdout)]


_WRONG = {
  "relight.py --image=portrait.jpg --lihgt=left --out=relit.jpg": "Unknown command line flag 'lihgt'",
  "train.py --config=dpr --config.data.foldr=dataset --workdir=run": "config.data.foldr: no such field",
  "train.py --config=dpr:fast --workdir=run": "config variant 'fast' is not known",
  "train.py --config=dpr --config.data.size=500 --workdir=run": "config.data.size is 500",
  "export_dataset.py --out=dataset more": "unexpected argument 'more'",
}


@pytest.fixture(scope="module")
def parsed() -> dict[str, tuple[bool, str]]:
  commands = {line: our_command(line) for line in OURS}
  commands |= {line: line.split() for line in _WRONG} | {script: [script] for script in ENTRIES if script != "train.py"}
  commands["train.py"] = ["train.py", "--config=dpr"]
  return dict(zip(commands, parse(list(commands.values())), strict=True))


@pytest.mark.parametrize("line", OURS)
def test_flags_and_config_fields_exist(line, parsed):
  right, said = parsed[line]
  assert right, said


@pytest.mark.parametrize("line", _WRONG)
def test_a_wrong_flag_would_be_noticed(line, parsed):
  right, said = parsed[line]
  assert not right
  assert _WRONG[line] in said


def test_flags_and_fields_in_the_text_exist(parsed):
  known = {name for script in ENTRIES for name in json.loads(parsed[script][1])}
  fields = {f"config.{name}" for name in dotted(default_config())}
  for page in PAGES:
    prose = prose_of(page)
    for name in re.findall(r"`--([a-z][\w-]*)(?!\.)\b", prose):
      assert name.replace("-", "_") in known or name.startswith("config"), f"{page}: --{name}"
    for name in re.findall(r"(?<!/)\bconfig(?:\.[a-z]\w*)+", prose):
      assert name in fields | {"config.json"}, f"{page}: {name}"


def dotted(config: ConfigDict, prefix: str = "") -> Iterator[str]:
  for name, value in config.items():
    yield prefix + name
    if isinstance(value, ConfigDict):
      yield from dotted(value, f"{prefix}{name}.")


@pytest.mark.parametrize("line", [line for _, line in RUNNABLE + PLANNED if not our_command(line)])
def test_other_commands_are_known_ones(line, monkeypatch):
  words = shlex.split(line)
  if words[:3] == ["pip", "install", "-e"]:
    recorded = {}
    monkeypatch.setattr("setuptools.setup", lambda **keywords: recorded.update(keywords))
    monkeypatch.chdir(ROOT)
    runpy.run_path("setup.py")
    assert re.fullmatch(r"\.\[(\w+)\]", words[3])[1] in recorded["extras_require"]
  elif words[:2] == ["python", "-c"]:
    compile(words[2], line, "exec")
  else:
    assert line in (
      *("pip install tensorboard", "tensorboard --logdir run"),
      *("npm ci --prefix web_page", "python -m http.server --directory relight"),
      "git clone --depth=1 https://github.com/ICT-VGL/ICT-FaceKit",
      "git clone --depth=1 https://github.com/makehumancommunity/makehuman",
      "GIT_LFS_SKIP_SMUDGE=1 git clone --depth=1 https://github.com/makehumancommunity/makehuman-assets",
    )


# ---------------------------------------------------------------------------------------------------------------------
# Runs.


@pytest.fixture(scope="module")
def desk(tmp_path_factory, group_photo):
  """A folder with the files that the pages name; what a page itself writes is written as it says."""
  from skimage import data

  folder = tmp_path_factory.mktemp("docs")
  portrait = np.ascontiguousarray(data.astronaut()[:300, 70:370, ::-1])
  assert cv2.imwrite(str(folder / "portrait.jpg"), portrait)
  assert cv2.imwrite(str(folder / "other_portrait.jpg"), np.ascontiguousarray(portrait[:, ::-1]))
  assert cv2.imwrite(str(folder / "group.jpg"), cv2.imread(str(group_photo)))
  write_films(folder / "in.mp4", folder / "in.gif", [np.ascontiguousarray(portrait[..., ::-1])] * 3, 10)
  panorama = np.full((16, 32, 3), 0.2, np.float32)
  panorama[4:8, 2:5] = 20
  assert cv2.imwrite(str(folder / "studio.hdr"), panorama)
  (folder / "portraits").mkdir()
  assert split_of("astronaut.png") == "train"
  assert cv2.imwrite(str(folder / "portraits/astronaut.png"), portrait)
  assert cv2.imwrite(str(folder / "portraits/gray.png"), cv2.cvtColor(portrait, cv2.COLOR_BGR2GRAY))
  (folder / "lights").mkdir()
  (folder / "lights/room.txt").write_text("0.8 0.1 0.1 0 0 0 0 0 0")
  (numbers,) = (block.text for block in blocks_of("lights.md") if block.language == "text")
  (folder / "light.txt").write_text(numbers)
  with contextlib.chdir(folder):
    for block in blocks_of("lights.md"):
      if block.language == "python" and re.search(r"window\.hdr|drawn\.txt", block.text):
        execute(block)
  return folder


@pytest.fixture(scope="module")
def dataset(desk):
  """What the page's own command makes of two photos, one of them gray."""
  (command,) = (line for line in TYPED if "--visualize" in line)
  with contextlib.chdir(desk):
    start(command, "--workers=1")
  return desk / "dataset"


@pytest.fixture(scope="module")
def run(desk):
  """The workdir that the page's train command fills: two minutes."""
  (command,) = (line for line in TYPED if line.endswith("--workdir=run"))
  with contextlib.chdir(desk):
    start_alone(command)
    start_alone(next(line for line in TYPED if "--count=46" in line))
  return desk / "run"


def start(line: str, *more: str) -> None:
  """Runs a command of a page in this process, as its script would."""
  script, *words = our_command(line)
  before, handler = set(flags.FLAGS), signal.getsignal(signal.SIGTERM)
  # Other tests in this process are to compile as they would without this one.
  with pytest.MonkeyPatch.context() as patch:
    patch.setattr(traced, "enable_compilation_cache", lambda: None)
    try:
      names = runpy.run_path(str(ROOT / script), run_name="started")
      patch.setattr(sys, "argv", [script, *words, *more])
      command_line._parse_flags(sys.argv)
      names["main"]()
    finally:
      signal.signal(signal.SIGTERM, handler)
      for module in [name for name in flags.FLAGS.flags_by_module_dict() if name.startswith("dpr_jax.cli.")]:
        sys.modules.pop(module, None)  # which defines its flags anew for the next command
      for name in set(flags.FLAGS) - before:
        delattr(flags.FLAGS, name)


def start_alone(line: str, *more: str) -> str:
  """Runs a command of a page in a process of its own."""
  script, *words = our_command(line)
  result = subprocess.run(
    [sys.executable, str(ROOT / script), *words, *more], capture_output=True, text=True, check=False
  )
  assert result.returncode == 0, result.stderr
  return result.stdout


def flag(line: str, name: str) -> str | None:
  values = [word.partition("=")[2] for word in our_command(line) if word.startswith(f"--{name}=")]
  return values[-1] if values else None


def needs_a_run(line: str) -> bool:
  return (flag(line, "weights") or "").startswith(("run", "mine"))


RELIGHT = [line for line in TYPED if our_command(line)[0] == "relight.py" and not needs_a_run(line)]
WITH_A_RUN = [line for line in TYPED if needs_a_run(line)]
EXPORT = [line for line in TYPED if our_command(line)[0] == "export_dataset.py" and "--visualize" not in line]


@pytest.mark.parametrize("line", RELIGHT)
def test_relight_commands(line, desk, shared, monkeypatch):
  """At a quarter of the pixels."""
  monkeypatch.chdir(desk)
  if "official" in line:
    shared(f"reference/dpr/{ASSETS[flag(line, 'weights')].filename}")
  if flag(line, "video"):
    start(line, "--size=256")
    with av.open(flag(line, "out")) as film:
      assert len(list(film.decode(video=0))) == 3
  elif flag(line, "rotate"):
    start(line, "--size=256", "--rotate=3")  # a shorter film
    assert Path(flag(line, "out")).with_suffix(".gif").stat().st_size > 0
  else:
    start(line, *(["--size=256"] if "official-1024" not in line else []))
    if Path(flag(line, "image")).is_dir():
      assert sorted(path.name for path in Path(flag(line, "out")).iterdir()) == ["astronaut.png", "gray.png"]
      return
    source, relit = cv2.imread(flag(line, "image")), cv2.imread(flag(line, "out"))
    if "--grid" in line:
      assert relit.shape[1] > 3 * source.shape[1]
    else:
      assert relit.shape == source.shape
      assert np.abs(relit.astype(int) - source).mean() > 0.5


def test_the_export_command(dataset):
  assert (dataset / "rejected.csv").read_text() == (
    "id,reason\ngray.png,gray photo: has no colours (--keep_gray takes it)\n"
  )
  assert (dataset / "pages/astronaut.png.jpg").exists()


@pytest.mark.filterwarnings("ignore:the load_module:DeprecationWarning")  # by ml_collections, of recipes
@pytest.mark.parametrize("line", [line for line in TYPED if "--dry_run" in line])
def test_dry_runs(line, desk, monkeypatch, capsys):
  monkeypatch.chdir(desk)
  start(line)
  said = capsys.readouterr().out
  assert "2 photos of " in said or "begins anew" in said
  assert not Path(flag(line, "out") or flag(line, "workdir")).exists() or "export" in line


@pytest.mark.slow
@pytest.mark.parametrize("line", [line for line in EXPORT if "--dry_run" not in line and "--count" not in line])
def test_export_commands(line, desk, monkeypatch):
  monkeypatch.chdir(desk)
  assert "1 portrait: 1 train" in start_alone(line)


@pytest.mark.slow
def test_the_export_of_procedural_faces(desk, tmp_path, monkeypatch):
  monkeypatch.chdir(tmp_path)
  assert "100 portraits: " in start_alone(next(line for line in EXPORT if "--count=100" in line))


@pytest.mark.slow
@pytest.mark.parametrize("line", WITH_A_RUN)
def test_commands_with_a_run(line, run, shared, monkeypatch):
  if "official" in line:
    shared("reference/dpr/trained_model_03.t7")
  monkeypatch.chdir(run.parent)
  if flag(line, "weights") == "mine.npz" and not Path("mine.npz").exists():
    start_alone(next(line for line in WITH_A_RUN if line.startswith("python export_weights.py")))
  start_alone(line)


def test_every_command_is_tried():
  """What a page shows in a `bash` block is run by one of the tests above; if not, it belongs into a `console` block."""
  tried = {*RELIGHT, *WITH_A_RUN, *EXPORT}
  left = [line for line in TYPED if line not in tried]
  assert all("--visualize" in line or our_command(line)[0] == "train.py" for line in left), left


def execute(block: Block) -> dict[str, object]:
  names: dict[str, object] = {"__name__": "docs"}
  # So that a traceback names the page and its line.
  exec(compile("\n" * block.line + block.text, str(DOCS / block.page), "exec"), names)
  return names


TENSORFLOW = [block for block in PYTHON if "tensorflow" in block.text]
READS_DATASET = [block for block in PYTHON if re.search(r'"dataset[/"]', block.text)]


@pytest.mark.parametrize("block", [block for block in PYTHON if block not in TENSORFLOW], ids=str)
def test_python(block, request, tmp_path, monkeypatch, capsys):
  if block in READS_DATASET:
    request.getfixturevalue("dataset")
  if re.search(r'"[\w/]+\.\w+"', block.text) or block in READS_DATASET:  # a file
    monkeypatch.chdir(request.getfixturevalue("desk"))
  if "metrics.jsonl" in block.text:
    monkeypatch.chdir(tmp_path)
    pretend_run(Path("run"))
  if 'Relighter("run' in block.text:
    stand_in_for_a_run(monkeypatch)
  execute(block)
  said = capsys.readouterr().out
  assert ("print(" in block.text) == bool(said)
  if "metrics.jsonl" in block.text:
    assert said == "250 0.5\n"


def pretend_run(workdir: Path) -> None:
  """A workdir with the log of a run; of a real one every line is tested elsewhere."""
  workdir.mkdir()
  scores = {"validation/si_mse": 0.01, "validation/identity_si_mse": 0.02}
  lines = [{"step": 200, "loss": 1.0}, {"step": 250, "loss": 0.9} | scores]
  (workdir / "metrics.jsonl").write_text("".join(json.dumps(line) + "\n" for line in lines))


def stand_in_for_a_run(monkeypatch) -> None:
  """Weights that take minutes to train are stood in for by those of the package."""
  load = relighter.load_params
  monkeypatch.setattr(relighter, "load_params", lambda source: load("default" if source == "run" else source))


@pytest.mark.slow
@pytest.mark.parametrize("block", TENSORFLOW, ids=str)
def test_python_with_tensorflow(block, dataset, monkeypatch):
  """In a process of its own, which TensorFlow keeps for itself."""
  pytest.importorskip("tensorflow")
  monkeypatch.chdir(dataset.parent)
  result = subprocess.run([sys.executable, "-c", block.text], capture_output=True, text=True, check=False)
  assert result.returncode == 0, result.stderr
  assert result.stdout == "b'astronaut.png' (5, 256, 256, 3) (5, 9)\n"


# ---------------------------------------------------------------------------------------------------------------------
# Texts.


def headings_of(text: str) -> list[str]:
  return re.findall(r"^#+ (.*)$", re.sub(r"^```.*?^```$", "", text, flags=re.MULTILINE | re.DOTALL), re.MULTILINE)


def anchor(heading: str) -> str:
  """As GitHub makes it."""
  plain = re.sub(r"\[([^]]*)\]\([^)]*\)", r"\1", heading).replace("`", "")
  return re.sub(r"[^\w\- ]", "", plain.lower()).replace(" ", "-")


@pytest.mark.parametrize("page", LINKED)
def test_links_lead_somewhere(page):
  targets = re.findall(r"\[[^]]*\]\(([^)\s]+)\)", prose_of(page))
  assert targets
  for target in targets:
    if target.startswith("https://"):
      continue
    place, _, name = target.partition("#")
    path = ((DOCS / page).parent / place) if place else DOCS / page
    assert path.exists(), target
    if name:
      assert name in map(anchor, headings_of(path.read_text(encoding="utf-8"))), target


@pytest.mark.parametrize("page", [page for page in PAGES if page != "README.md"])
def test_pages_are_in_the_index_and_list_their_sections(page):
  assert f"]({page})" in PAGES["README.md"]
  sections = re.findall(r"^## (.*)$", prose_of(page), re.MULTILINE)
  assert re.findall(r"^- \[(.*)\]\(#.*\)$", prose_of(page), re.MULTILINE) == sections


@pytest.mark.parametrize("page", PAGES)
def test_pages_are_plain(page):
  assert {block.language for block in blocks_of(page)} <= {"bash", "console", "python", "text"}
  assert len(headings_of(PAGES[page])) == len(set(map(anchor, headings_of(PAGES[page]))))
  for number, line in enumerate(PAGES[page].splitlines(), start=1):
    long = line.startswith(("|", "python ", "srun ", "gcloud ", "JAX_", "XLA_", "CUDA_", "!["))
    assert len(line) <= 120 or long, f"{page}:{number}"
    assert line == line.rstrip(), f"{page}:{number}"


def test_reasons_of_rejection_are_those_that_the_program_gives():
  program = (ROOT / "data_gen/portraits.py").read_text(encoding="utf-8")
  (table,) = re.findall(r"^\| reason \|.*?\n\|.*?\n((?:\|.*\n)+)", PAGES["your_own_dataset.md"], re.MULTILINE)
  reasons = [reason for row in table.splitlines() for reason in row.split(" | ")[0].strip("| .").split("; ")]
  assert len(reasons) > 8
  for reason in reasons:
    assert reason in program, reason


def test_figures_of_training_are_those_of_the_build_notes():
  notes = [row.split("|") for row in (ROOT / "BUILD_NOTES.md").read_text(encoding="utf-8").splitlines()]
  rows = re.findall(r"^\| (?:128|256) pixels.*$", PAGES["training.md"], re.MULTILINE)
  assert len(rows) == 4
  for row in rows:
    name, *numbers = (cell.strip() for cell in row.strip("|").split("|"))
    name = name.replace(" pixels", " px").replace(", with discriminator", " with GAN")
    (theirs,) = ({cell.strip() for cell in cells} for cells in notes if len(cells) > 7 and cells[1].strip() == name)
    assert set(numbers) <= theirs, row


# ---------------------------------------------------------------------------------------------------------------------
# Pictures.


@pytest.fixture(scope="module")
def make_pictures():
  spec = importlib.util.spec_from_file_location("make_pictures", DOCS / "make_pictures.py")
  module = importlib.util.module_from_spec(spec)
  spec.loader.exec_module(module)
  return module


def test_pictures_are_small_and_each_is_shown(make_pictures):
  made = set(make_pictures.PICTURES)
  sizes = {path.name: path.stat().st_size for path in DOCS.iterdir() if path.suffix in (".jpg", ".png")}
  assert set(sizes) == made | OLDER_PICTURES
  assert max(sizes[name] for name in made) < 150_000
  assert max(sizes.values()) < 400_000
  assert sum(sizes[name] for name in made) < 700_000
  for name in made:
    assert any(f"]({name})" in text for text in PAGES.values()), name


_OF_PHOTOS = ("sh_light_face.jpg", "rejected.jpg")


def picture_names() -> list[str]:
  return sorted(re.findall(r'^  "([\w.]+)": \w+,$', (DOCS / "make_pictures.py").read_text(), re.MULTILINE))


@pytest.mark.parametrize("name", picture_names())
def test_pictures_are_what_the_script_makes(name, make_pictures, shared):
  if name in _OF_PHOTOS:
    shared("models/face_landmarker.task")
  made = cv2.imdecode(np.frombuffer(make_pictures.encode(name, make_pictures.PICTURES[name]()), np.uint8), 1)
  stored = cv2.imread(str(DOCS / name))
  assert made.shape == stored.shape
  assert np.abs(made.astype(int) - stored).mean() < 1
