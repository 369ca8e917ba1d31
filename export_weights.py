"""`dpr-jax weights` of this checkout; what it does, and its flags, are in dpr_jax/cli/weights.py."""

from dpr_jax.base import command_line
from dpr_jax.cli.weights import export as main

if __name__ == "__main__":
  command_line.run(main)
