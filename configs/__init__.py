"""Recipes of training runs: `get_config(arg)` of each module, for `train.py --config=configs/NAME.py:ARG`."""
