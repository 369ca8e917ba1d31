"""`dpr-jax COMMAND --flags`: the one program that an installation brings."""

import importlib
import sys

import dpr_jax
from dpr_jax.base import command_line

PROGRAM = "dpr-jax"
COMMANDS = {
  "relight": "relight photos and films",
  "export": "make a dataset of relit portraits",
  "convert-head": "make head and hair for an export of rendered heads",
  "train": "train a network on a dataset",
  "evaluate": "measure networks on held-out faces",
  "app": "serve the web app",
  "export-model": "write a network as ONNX or StableHLO files",
  "weights": "list the weights that have a name, or write a run's as one file or to a hub (--push)",
}


def main() -> None:
  """Starts the command that the first word names."""
  name, *words = sys.argv[1:] or ["--help"]
  if name in ("--help", "-h", "help"):
    print(_help())
  elif name == "--version":
    print(f"{PROGRAM} {dpr_jax.__version__}")
  elif name not in COMMANDS:
    sys.argv[0] = PROGRAM
    command_line.fail(f"unknown command {name!r}; known are {', '.join(COMMANDS)}")
  else:
    command = importlib.import_module(f"dpr_jax.cli.{name.replace('-', '_')}")
    sys.argv = [f"{PROGRAM} {name}", *words]
    command_line.run(command.main)


def _help() -> str:
  rows = "\n".join(f"  {name:<12} {what}" for name, what in COMMANDS.items())
  return f"{PROGRAM} COMMAND --flags\n\n{rows}\n\n{PROGRAM} COMMAND --help lists the flags of a command."
