"""What the commands share: flags with dashes or underscores, one line for every error, exit codes."""

import importlib.util
import os
import re
import sys
from collections.abc import Callable, Sequence
from pathlib import Path
from types import ModuleType

from absl import app, flags, logging

import dpr_jax
from dpr_jax.base.errors import BadInput, BadInputs, one_line
from dpr_jax.base.native_libraries import MissingSystemLibrary

EXIT_BAD_INPUT = 2
EXIT_INTERRUPTED = 130  # as shells count: 128 + SIGINT

# Packages that an installation may lack, and the extra that brings them.
EXTRAS = {
  "av": "film",
  "gradio": "app",
  "google_crc32c": "data",
  "igl": "data",
  "numba": "data",
  "tensorflow_datasets": "data",
  "grain": "train",
  "huggingface_hub": "hub",
  "onnx": "onnx",
  "onnxruntime": "onnx",
  "orbax": "train",
  "tensorboardX": "train",
}
# Extras that bring others.
_INCLUDED = {"app": ("film",), "train": ("data",)}


def run(main: Callable[[], None]) -> None:
  """Parses the flags, runs `main`, and exits: 0, or 2 after one line on stderr that says what and where.

  Where `main` is of another module than the script that was started, `--help` shows that module's docstring and flags.
  """
  _speak_for(sys.modules[main.__module__])
  app.run(lambda _: _report(main), flags_parser=_parse_flags)


def _speak_for(module: ModuleType) -> None:
  """Gives this program the docstring and the flags of a module."""
  program = sys.modules["__main__"]
  if module is program:
    return
  script = Path(sys.argv[0]).name
  said = script if script.startswith("dpr-jax") else f"python {script}"
  program.__doc__ = (module.__doc__ or "").replace(
    f"dpr-jax {module.__name__.rpartition('.')[2].replace('_', '-')}", said
  )
  for flag in flags.FLAGS.get_flags_for_module(module.__name__):
    flags.FLAGS.register_key_flag_for_module(sys.argv[0], flag)


def fail(message: str) -> None:
  """Prints one line and exits with 2."""
  _end(one_line(message))


def _end(shown: str) -> None:
  print(f"{Path(sys.argv[0]).name}: {shown}", file=sys.stderr)
  sys.exit(EXIT_BAD_INPUT)


def _report(main: Callable[[], None]) -> None:
  if not flags.FLAGS["verbosity"].present:
    logging.set_verbosity(logging.WARNING)  # JAX informs of every backend that it does not find
  try:
    main()
  except BadInputs as error:
    _end(str(error))
  except (BadInput, MissingSystemLibrary) as error:
    fail(str(error))
  except ModuleNotFoundError as error:
    package = (error.name or "").partition(".")[0]
    if package not in EXTRAS:
      raise
    extra = getattr(sys.modules[main.__module__], "EXTRA", EXTRAS[package])
    fail(missing_packages(package, extra))
  except KeyboardInterrupt:
    print("interrupted", file=sys.stderr)
    sys.exit(EXIT_INTERRUPTED)


def missing_packages(package: str, extra: str) -> str:
  """One line on a package that is not installed, and on what else is not that the same command may need.

  Args:
    package: the package that could not be imported.
    extra: the extra that the command needs, or that the package belongs to.
  """
  needed = {extra, EXTRAS[package], *_INCLUDED.get(extra, ())}
  missing = sorted({package, *(name for name, of in EXTRAS.items() if of in needed and not _is_installed(name))})
  brings = extra if EXTRAS[package] in (extra, *_INCLUDED.get(extra, ())) else f"{extra},{EXTRAS[package]}"
  if len(missing) == 1:
    return f'this needs the package {package}, of an extra: pip install "dpr_jax[{brings}]"'
  return f'this needs the packages {", ".join(missing)}, of an extra: pip install "dpr_jax[{brings}]"'


def _is_installed(package: str) -> bool:
  try:
    return importlib.util.find_spec(package) is not None
  except ValueError:  # it was looked for, and is not there
    return False


def _parse_flags(argv: Sequence[str]) -> list[str]:
  """Absl's parser, for which `--no-align` is `--no_align`; anything left over is an error."""
  spelled: list[str] = []
  for position, word in enumerate(argv):
    if word == "--":
      spelled += argv[position:]
      break
    name, equals, value = word.partition("=")
    spelled.append(name.replace("-", "_").replace("__", "--", 1) + equals + value if word.startswith("--") else word)
  try:
    rest = flags.FLAGS([_with_recipe(word) for word in spelled], known_only=False)
  except flags.Error as error:
    if "parsing config file" in str(error):
      fail(config_problem(error, spelled))
    fail(" ".join(str(error).removeprefix("FATAL Flags parsing error:").split()))
  except Exception as error:  # of a config file, which runs as soon as a flag sets one of its fields
    fail(config_problem(error, spelled))
  if len(rest) > 1:
    fail(f"unexpected argument {rest[1]!r}; flags begin with --")
  return rest


def _with_recipe(word: str) -> str:
  """`--config=NAME` or `--config=configs/NAME.py`, with or without `:VARIANT`: a recipe of this package has a path."""
  path, colon, variant = word.removeprefix("--config=").partition(":")
  recipe = Path(dpr_jax.__file__).with_name("configs") / f"{Path(path).stem}.py"
  known = word.startswith("--config=") and path in (recipe.stem, f"configs/{recipe.name}")
  if not known or os.path.isfile(path) or not recipe.is_file():
    return word
  return f"--config={recipe}{colon}{variant}"


def config_problem(error: Exception, words: Sequence[str] | None = None) -> str:
  """One line on what a config file raised, or on a flag that sets a field which the config doesn't have.

  Args:
    error: what `ml_collections.config_flags` let pass.
    words: the command line, by default that of this process.
  """
  if isinstance(error, BadInput):
    return str(error)
  words, text = sys.argv if words is None else words, " ".join(str(error).replace("\\n", " ").split())
  if isinstance(error, (AttributeError, KeyError)):
    for word in words:
      name, _, field = word.partition("=")[0].partition(".")
      if name.lstrip("-") in ("config", "noconfig") and any(part in text for part in field.split(".") if part):
        meant = re.search(r'Did you mean "(\w+)"', text)
        return f"{name}.{field}: no such field" + (f"; did you mean {meant[1]}?" if meant else "")
  given = next((word for word in words if word.startswith("--config=")), "--config")
  if isinstance(error, (flags.Error, OSError)):  # with a traceback, or a list of all the places, in the message
    return f"{given}: {str(error).strip().splitlines()[-1].strip().removeprefix('dpr_jax.base.errors.BadInput: ')}"
  return f"{given}: {type(error).__name__}: {text}"
