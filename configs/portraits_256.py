"""The recipe portraits_256, which lies in dpr_jax/configs and installs with the package, by its path in a checkout."""

from dpr_jax.configs.portraits_256 import get_config as get_config
