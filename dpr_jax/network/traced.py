"""Keeps what tracing a function gives, so that a second process need not trace it again (`jax.export`).

XLA's own cache keeps what is compiled; but to ask it, JAX first has to run all the Python of a network, which takes
longer than the network.
"""

import contextlib
import functools
import hashlib
import os
from collections.abc import Callable
from pathlib import Path

import jax
from jax import export

import dpr_jax
from dpr_jax.base.assets import cache_folder
from dpr_jax.base.errors import BadInput
from dpr_jax.base.output_files import atomic_output
from dpr_jax.light.light import Light
from dpr_jax.network.encoding import Encoding
from dpr_jax.network.ratio_network import RatioEncoding, Shape, Surface

for _part in (Encoding, Light, RatioEncoding, Shape, Surface):
  export.register_namedtuple_serialization(_part, serialized_name=f"dpr_jax.{_part.__name__}")

_folder: Path | None = None


def enable_compilation_cache() -> None:
  """Keeps what JAX traces and XLA compiles, so that a second run starts fast."""
  keep_in(cache_folder() / "traced")
  if not os.environ.get("JAX_COMPILATION_CACHE_DIR"):
    jax.config.update("jax_compilation_cache_dir", str(cache_folder() / "xla"))
  jax.config.update("jax_persistent_cache_min_compile_time_secs", 0.0)
  jax.config.update("jax_persistent_cache_min_entry_size_bytes", -1)


def keep_in(folder: Path | None) -> None:
  """From now on `call` looks into a folder of this user's, and writes into it; None: nothing is kept."""
  global _folder
  _folder = folder


def call(function: Callable, *arguments, **static):
  """`function(*arguments, **static)`, traced by this process only if no other one has done so.

  Args:
    function: jitted; what it returns must be arrays, in the containers that are registered here.
    *arguments: pytrees of arrays.
    **static: the function's static arguments.
  """
  if _folder is None:
    return function(*arguments, **static)
  leaves, tree = jax.tree.flatten(arguments)
  shapes = tuple((tuple(leaf.shape), str(jax.dtypes.canonicalize_dtype(leaf.dtype))) for leaf in leaves)
  return _kept(_folder, function, tuple(sorted(static.items())), tree, shapes)(*arguments)


@functools.cache
def _kept(folder: Path, function: Callable, static: tuple, tree, shapes: tuple) -> Callable:
  name = function.__name__
  told = (name, static, str(tree), shapes, jax.__version__, jax.default_backend(), _sources())
  path = folder / f"{name}-{hashlib.sha256(repr(told).encode()).hexdigest()[:32]}"
  try:
    return _jitted(export.deserialize(bytearray(path.read_bytes())), name)
  except Exception:  # no such file, or one that is damaged: traced, and written anew
    pass
  arguments = jax.tree.unflatten(tree, [jax.ShapeDtypeStruct(*shape) for shape in shapes])
  exported = export.export(jax.jit(functools.partial(function, **dict(static))))(*arguments)
  with contextlib.suppress(BadInput), atomic_output(path, overwrite=True) as aside:  # where it can be written to
    aside.write_bytes(exported.serialize())
  return _jitted(exported, name)


def _jitted(exported: export.Exported, name: str) -> Callable:
  """Under the function's own name, by which XLA's cache and profiles know it."""

  def called(*arguments):
    return exported.call(*arguments)

  called.__name__ = name
  return jax.jit(called)


@functools.cache
def _sources() -> str:
  """Of this package's code: another one may trace to something else."""
  digest = hashlib.sha256()
  for path in sorted(Path(dpr_jax.__file__).parent.glob("**/*.py")):
    digest.update(path.read_bytes())
  return digest.hexdigest()
