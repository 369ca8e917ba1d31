"""`dpr-jax export-model` of this checkout; what it does, and its flags, are in dpr_jax/cli/export_model.py."""

from dpr_jax.base import command_line
from dpr_jax.cli.export_model import main

if __name__ == "__main__":
  command_line.run(main)
