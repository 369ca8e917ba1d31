"""`dpr-jax convert-head` of this checkout; what it does, and its flags, are in dpr_jax/cli/convert_head.py."""

from dpr_jax.base import command_line
from dpr_jax.cli.convert_head import main

if __name__ == "__main__":
  command_line.run(main)
