"""`dpr-jax train` of this checkout; what it does, and its flags, are in dpr_jax/cli/train.py."""

from dpr_jax.base import command_line
from dpr_jax.cli.train import main

if __name__ == "__main__":
  command_line.run(main)
