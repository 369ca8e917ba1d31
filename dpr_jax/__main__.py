"""`python -m dpr_jax COMMAND` is `dpr-jax COMMAND`."""

from dpr_jax.cli.program import main

if __name__ == "__main__":
  main()
