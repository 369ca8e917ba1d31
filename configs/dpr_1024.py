"""The recipe dpr_1024, which lies in dpr_jax/configs and installs with the package, by its path in a checkout."""

from dpr_jax.configs.dpr_1024 import get_config as get_config
