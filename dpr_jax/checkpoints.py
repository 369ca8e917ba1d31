"""Where weights come from: a name, or a file."""

import os
from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np

from dpr_jax import assets, pytorch_weights
from dpr_jax.errors import BadInput
from dpr_jax.hourglass import network_for

OFFICIAL = ("official-512", "official-1024")


def load_params(source: str | os.PathLike):
  """Weights of a relighting network.

  Args:
    source: "official-512" or "official-1024", the networks of Zhou et al. 2019 (research use only; fetched once from
      the authors' repository, or read from a folder of `DPR_ASSETS`); or the path of a PyTorch file (`.t7`, `.pth`)
      with the keys of the official modules. "default" is reserved for weights that this package will bring along.

  Returns:
    `{"params": ..., "batch_stats": ...}`, float32, for the functions of `dpr_jax.relighting`.

  Raises:
    BadInput: no such name or file, a file that cannot be read, or weights of another network.
  """
  name = os.fspath(source)
  if name == "default":
    raise BadInput(f"weights 'default': none are packaged yet; use one of {', '.join(OFFICIAL)}, or a file")
  path = assets.asset_path(name) if name in OFFICIAL else Path(name)
  if not os.path.isfile(path):  # Path.is_file raises on a name that is too long
    raise BadInput(f"weights {name!r}: no such file; known names are {', '.join(OFFICIAL)}")
  variables = pytorch_weights.dpr_variables(pytorch_weights.read_state_dict(path), str(path))
  _check_against_network(variables, path)
  return jax.tree.map(jnp.asarray, variables)


def _check_against_network(variables, path: Path) -> None:
  """BadInput unless `variables` have exactly the names and shapes of their network, and finite values."""
  try:
    network = network_for(variables)
  except ValueError as error:
    raise BadInput(f"{path}: {error}") from None
  side = network.size_multiple
  expected = jax.eval_shape(
    network.init, jax.random.key(0), jnp.zeros((1, side, side, 1)), jnp.zeros((1, network.light_size))
  )
  given = {jax.tree_util.keystr(key): leaf.shape for key, leaf in jax.tree_util.tree_leaves_with_path(variables)}
  needed = {jax.tree_util.keystr(key): leaf.shape for key, leaf in jax.tree_util.tree_leaves_with_path(expected)}
  for key in sorted(given.keys() | needed.keys()):
    if given.get(key) != needed.get(key):
      raise BadInput(
        f"{path}: weights of another network: {key} is {given.get(key, 'missing')}, not {needed.get(key, 'known')}"
      )
  for key, leaf in jax.tree_util.tree_leaves_with_path(variables):
    if not np.isfinite(leaf).all():
      raise BadInput(f"{path}: {jax.tree_util.keystr(key)} has values that are not finite")
