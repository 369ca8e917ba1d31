"""Recipes of training runs: `get_config(arg)` of each module, for `dpr-jax train --config=NAME:ARG`."""
