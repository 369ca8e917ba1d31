"""Keeps what tracing a function gives, so that a second process need not trace it again (`jax.export`).

XLA's own cache keeps what is compiled; but to ask it, JAX first has to run all the Python of a network, which takes
longer than the network. On a CPU the compiled program is kept beside the trace (`programs`), and is all that is read.
"""

import contextlib
import functools
import hashlib
import os
import secrets
import types
from collections.abc import Callable, Mapping
from pathlib import Path

import jax
from jax import export

import dpr_jax
from dpr_jax.base.assets import cache_folder
from dpr_jax.base.errors import BadInput
from dpr_jax.base.output_files import atomic_output
from dpr_jax.light.light import Light
from dpr_jax.network.encoding import Encoding
from dpr_jax.network.programs import Programs
from dpr_jax.network.shape import RatioEncoding, Shape, Surface

_CONTAINERS = (Encoding, Light, RatioEncoding, Shape, Surface)
for _part in _CONTAINERS:
  export.register_namedtuple_serialization(_part, serialized_name=f"dpr_jax.{_part.__name__}")
_programs = Programs(_CONTAINERS)

_folder: Path | None = None


def enable_compilation_cache() -> None:
  """Keeps what JAX traces and XLA compiles, so that a second run starts fast."""
  keep_in(cache_folder() / "traced")
  if not os.environ.get("JAX_COMPILATION_CACHE_DIR"):
    jax.config.update("jax_compilation_cache_dir", str(cache_folder() / "xla"))
  jax.config.update("jax_persistent_cache_min_compile_time_secs", 0.0)
  jax.config.update("jax_persistent_cache_min_entry_size_bytes", -1)


def load_ahead() -> None:
  """Begins to load, in another thread, the programs that the last process used; after `enable_compilation_cache`.

  The first use of a device: what has to be configured before that comes before this.
  """
  if _folder is not None and _programs.are_kept():
    _programs.load_ahead(_folder)


def keep_in(folder: Path | None) -> None:
  """From now on `call` looks into a folder of this user's, and writes into it; None: nothing is kept."""
  global _folder
  _folder = folder


def call(
  function: Callable, *arguments, compiler_options: Mapping[str, str | bool] = types.MappingProxyType({}), **static
):
  """`function(*arguments, **static)`, compiled, and traced by this process only if no other one has done so.

  Args:
    function: what it returns must be arrays, in the containers that are registered here.
    *arguments: pytrees of arrays.
    compiler_options: for XLA, as `jax.jit` takes them; `function` must not be jitted then.
    **static: the function's static arguments.
  """
  options, named = tuple(sorted(compiler_options.items())), tuple(sorted(static.items()))
  if _folder is None:
    return (_compiled(function, named, options) if options else functools.partial(function, **static))(*arguments)
  leaves, tree = jax.tree.flatten(arguments)
  shapes = tuple((tuple(leaf.shape), str(jax.dtypes.canonicalize_dtype(leaf.dtype))) for leaf in leaves)
  return _kept(_folder, function, named, options, tree, shapes)(*arguments)


@functools.cache
def _compiled(function: Callable, static: tuple, options: tuple) -> Callable:
  return jax.jit(functools.partial(function, **dict(static)), compiler_options=dict(options))


@functools.cache
def _kept(folder: Path, function: Callable, static: tuple, options: tuple, tree, shapes: tuple) -> Callable:
  name = function.__name__
  told = (name, static, str(tree), shapes, jax.__version__, jax.default_backend(), sources())
  path = folder / f"{name}-{hashlib.sha256(repr(told).encode()).hexdigest()[:32]}"
  if not _programs.are_kept():
    return _exported(path, function, static, options, tree, shapes)
  file = _programs.file_of(path, options)
  if (program := _programs.read(file)) is None:
    # Under a name that XLA's cache does not know: a program that was read from there cannot be written again.
    jitted = _exported(path, function, static, options, tree, shapes, f"_{secrets.token_hex(4)}")
    arguments = jax.tree.unflatten(tree, [jax.ShapeDtypeStruct(*shape) for shape in shapes])
    program = jitted.lower(*arguments).compile()
    _programs.write(file, program, arguments)
  return program


def _exported(
  path: Path, function: Callable, static: tuple, options: tuple, tree, shapes: tuple, suffix: str = ""
) -> Callable:
  """What is kept as a file, jitted; traced and written first where there is none."""
  try:
    return _jitted(export.deserialize(bytearray(path.read_bytes())), function.__name__ + suffix, options)
  except Exception:  # no such file, or one that is damaged: traced, and written anew
    pass
  arguments = jax.tree.unflatten(tree, [jax.ShapeDtypeStruct(*shape) for shape in shapes])
  exported = export.export(jax.jit(functools.partial(function, **dict(static))))(*arguments)
  with contextlib.suppress(BadInput), atomic_output(path, overwrite=True) as aside:  # where it can be written to
    aside.write_bytes(exported.serialize())
  return _jitted(exported, function.__name__ + suffix, options)


def _jitted(exported: export.Exported, name: str, options: tuple) -> Callable:
  """Under the function's own name, by which XLA's cache and profiles know it."""

  def called(*arguments):
    return exported.call(*arguments)

  called.__name__ = name
  # A program that is kept is called with all arguments, whether it needs them or not.
  return jax.jit(called, compiler_options=dict(options) or None, keep_unused=True)


@functools.cache
def sources() -> str:
  """Of this package's code: another one may trace to something else."""
  digest = hashlib.sha256()
  for path in sorted(Path(dpr_jax.__file__).parent.glob("**/*.py")):
    digest.update(path.read_bytes())
  return digest.hexdigest()
