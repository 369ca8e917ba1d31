"""What the entry scripts share, in processes of their own: tiny scripts that import absl and `command_line` only."""

import dataclasses
import json
import subprocess
import sys
from collections.abc import Callable, Sequence
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[2]

_SCRIPT = '''"""The first line of the help."""
import json
import logging as standard_logging
import sys
from absl import flags, logging
from dpr_jax.base import command_line
from dpr_jax.base.errors import BadInput, BadInputs
from dpr_jax.base.native_libraries import MissingSystemLibrary

flags.DEFINE_string("image", None, "a photo")
flags.DEFINE_string("out", None, "where to write")
flags.DEFINE_multi_string("light", [], "several")
flags.DEFINE_integer("size", None, "pixels")
flags.DEFINE_float("strength", 1.0, "exponent")
flags.DEFINE_bool("no_align", False, "as the authors")
flags.DEFINE_bool("overwrite", False, "replace")
flags.DEFINE_integer("two_word_flag", 0, "two underscores")

def main():
  {body}

command_line.run(main)
'''
_PRINT_FLAGS = (
  "ours = flags.FLAGS.flags_by_module_dict()[sys.argv[0]]\n"
  "  print(json.dumps({flag.name: flag.value for flag in ours if flag.value != flag.default}))"
)


@dataclasses.dataclass
class Ended:
  """What a script left behind."""

  code: int
  out: str
  err: str


@pytest.fixture
def run(tmp_path) -> Callable[..., Ended]:
  """Runs a script with a body and arguments; a script that could not even start has failed."""

  def run(arguments: Sequence[str], body: str = _PRINT_FLAGS) -> Ended:
    script = tmp_path / "entry.py"
    script.write_text(_SCRIPT.replace("{body}", body))
    ended = subprocess.run(
      [sys.executable, "-W", "error", script, *arguments],
      env={"PYTHONPATH": str(ROOT), "PYTHONDONTWRITEBYTECODE": "1"},
      capture_output=True,
      text=True,
      timeout=600,
    )
    return Ended(ended.returncode, ended.stdout, ended.stderr)

  return run


@pytest.fixture
def parse(run) -> Callable[..., dict]:
  """The flags that are not at their defaults, for arguments that must be accepted in silence."""

  def parse(*arguments: str) -> dict:
    ended = run(arguments)
    assert (ended.code, ended.err) == (0, "")
    return json.loads(ended.out)

  return parse


@pytest.mark.parametrize(
  ("arguments", "expected"),
  [
    (["--no-align"], {"no_align": True}),
    (["--no_align"], {"no_align": True}),
    (["--no-align=true", "--overwrite=false"], {"no_align": True}),
    (["--two-word-flag=3"], {"two_word_flag": 3}),
    (["--two_word-flag", "4"], {"two_word_flag": 4}),
    (["--light=left-top", "--out=a--b.png"], {"light": ["left-top"], "out": "a--b.png"}),
    (["--image", "my-photo.jpg", "--out", "a--b-c.png"], {"image": "my-photo.jpg", "out": "a--b-c.png"}),
    (["--out=--a-b=c--d.png"], {"out": "--a-b=c--d.png"}),
    (["--light", "-30,10"], {"light": ["-30,10"]}),
    (["--light=-30,-10", "--light", "right-bottom"], {"light": ["-30,-10", "right-bottom"]}),
    (["--strength", "-1e-1"], {"strength": -0.1}),
    (["-light=left-top"], {"light": ["left-top"]}),
    (["--size=512", "--"], {"size": 512}),
    ([], {}),
  ],
)
def test_flags_in_every_spelling(parse, arguments, expected):
  assert parse(*arguments) == expected


@pytest.mark.parametrize(
  ("arguments", "message"),
  [
    (["--lihgt=left"], "Unknown command line flag 'lihgt'. Did you mean: light ?"),
    (["--no-such-thing"], "Unknown command line flag 'no_such_thing'"),
    (["--size=abc"], "flag --size=abc: invalid literal for int() with base 10: 'abc'"),
    (["--strength=much"], "flag --strength=much: could not convert string to float: 'much'"),
    (["--no-align=perhaps"], "flag --no_align=perhaps: "),
    (["--size"], "Missing value for flag --size"),
    (["photo-1.jpg"], "unexpected argument 'photo-1.jpg'"),
    (["--size=512", "a.jpg", "b.jpg"], "unexpected argument 'a.jpg'"),
    (["--", "--no-align"], "unexpected argument '--no-align'"),
  ],
)
def test_a_command_line_that_cannot_be_understood_is_one_line(run, arguments, message):
  ended = run(arguments)
  assert (ended.code, ended.out) == (2, "")
  assert ended.err.startswith(f"entry.py: {message}")
  assert ended.err.count("\n") == 1


@pytest.mark.parametrize("error", ["BadInput", "MissingSystemLibrary"])
def test_what_the_user_can_mend_is_one_line(run, error):
  ended = run([], f"raise {error}('photo.jpg: is empty')")
  assert (ended.code, ended.out, ended.err) == (2, "", "entry.py: photo.jpg: is empty\n")


@pytest.mark.parametrize("error", ["ValueError", "ImportError"])  # the classes which those two are derived from
def test_what_only_we_can_mend_shows_where_it_happened(run, error):
  ended = run([], f"raise {error}('a bug')")
  assert ended.code == 1
  assert ended.err.startswith("Traceback")
  assert f"raise {error}('a bug')" in ended.err
  assert ended.err.endswith(f"{error}: a bug\n")


def test_help_shows_the_usage_and_every_flag(run):
  ended = run(["--help"], "print('must not run')")
  assert (ended.code, ended.err) == (1, "")  # absl's own exit code
  assert "The first line of the help." in ended.out
  for flag in ("--image", "--light", "--size", "--strength", "--[no]no_align", "--[no]overwrite", "--two_word_flag"):
    assert f"\n  {flag}:" in ended.out
  assert "must not run" not in ended.out


_SPEAK = "logging.info('from absl'); standard_logging.getLogger('jax').info('from jax'); logging.warning('a warning')"


@pytest.mark.parametrize("arguments", [[], ["--verbosity=0"], ["-v=0"]])
def test_information_is_logged_only_when_asked_for(run, arguments):
  ended = run(arguments, _SPEAK)
  assert ended.code == 0
  assert ("from absl" in ended.err, "from jax" in ended.err) == (bool(arguments), bool(arguments))
  assert "a warning" in ended.err


def test_the_exit_code_of_main_is_kept(run):
  assert run([], "raise SystemExit(5)").code == 5


def test_a_message_is_one_line_of_300_letters_whatever_got_into_it(run):
  ended = run([], r"raise BadInput('a\nb\x1b[31m\u202e\udce9' + 5000 * 'c' + ': is empty')")
  assert ended.code == 2
  [line] = ended.err.splitlines()
  message = line.removeprefix("entry.py: ")
  assert message.startswith(r"a\nb\x1b[31m\u202e\udce9ccc")
  assert message.endswith("ccc: is empty")
  assert len(message) == 300
  ended = run([], r"raise BadInputs('2 failed', ['a\nb', 400 * 'c'])")
  assert [len(line) for line in ended.err.splitlines()] == [len("entry.py: 2 failed:"), len(r"  a\nb"), 302]
