"""Functions of JAX, run by ONNX Runtime on the CPU."""

import contextlib
import functools
import hashlib
import threading
from collections.abc import Callable
from pathlib import Path
from typing import Any

import jax
import numpy as np

from dpr_jax.base.assets import cache_folder
from dpr_jax.base.errors import BadInput
from dpr_jax.base.output_files import atomic_output
from dpr_jax.network import traced
from dpr_jax.network.weights import digest


class OnnxEngine:
  """Converts each function once for each kind of arguments, and keeps the models in the user's cache folder.

  Attributes:
    params: of the network; part of every model.
  """

  def __init__(self, params: Any):
    """Looks for ONNX Runtime.

    Args:
      params: from `load_params`.

    Raises:
      BadInput: the extra `onnx` is not installed.
    """
    try:
      import onnx
      import onnxruntime
    except ModuleNotFoundError as error:
      raise BadInput(f"engine onnx: {error.name} is missing (pip install 'dpr_jax[onnx]')") from None
    del onnx
    self.params = params
    self._open = functools.partial(onnxruntime.InferenceSession, providers=["CPUExecutionProvider"])
    self._sessions: dict[tuple, tuple] = {}
    self._converting = threading.Lock()

  def call(self, function: Callable, params: Any, *arguments, **static) -> Any:
    """`function(params, *arguments, **static)`, as NumPy arrays.

    Args:
      function: jitted.
      params: the engine's own.
      *arguments: pytrees of float32 arrays.
      **static: the function's static arguments.
    """
    if params is not self.params:
      raise ValueError("an engine runs the network that it was opened with")
    leaves, tree = jax.tree.flatten(arguments)
    leaves = [np.ascontiguousarray(leaf, np.float32) for leaf in leaves]
    key = (function.__name__, tuple(sorted(static.items())), tree, tuple(leaf.shape for leaf in leaves))
    with self._converting:
      if key not in self._sessions:
        self._sessions[key] = self._session(function, key, static)
    session, results = self._sessions[key]
    inputs = {each.name: leaves[int(each.name[1:])] for each in session.get_inputs()}
    return jax.tree.unflatten(results, session.run([f"y{k:03}" for k in range(results.num_leaves)], inputs))

  def _session(self, function: Callable, key: tuple, static: dict) -> tuple:
    name, _, tree, shapes = key
    structs = [jax.ShapeDtypeStruct(shape, np.float32) for shape in shapes]
    names = [f"x{k:03}" for k in range(len(shapes))]
    results = jax.tree.structure(
      jax.eval_shape(functools.partial(function, self.params, **static), *jax.tree.unflatten(tree, structs))
    )

    def named(values: dict) -> dict:
      given = jax.tree.unflatten(tree, [values[name] for name in names])
      return {f"y{k:03}": leaf for k, leaf in enumerate(jax.tree.leaves(function(self.params, *given, **static)))}

    told = (name, key[1], str(tree), shapes, jax.__version__, traced.sources(), self._digest)
    path = cache_folder() / "onnx" / f"{name}-{hashlib.sha256(repr(told).encode()).hexdigest()[:32]}.onnx"
    try:
      return self._open(path.read_bytes()), results
    except Exception:  # no such file, or one that is damaged: converted, and written anew
      pass
    from dpr_jax.portable.jaxpr_to_onnx import convert

    model = convert(named, dict(zip(names, structs, strict=True))).SerializeToString()
    _keep(path, model)
    return self._open(model), results

  @functools.cached_property
  def _digest(self) -> str:
    return digest(self.params)


def _keep(path: Path, model: bytes) -> None:
  with contextlib.suppress(BadInput), atomic_output(path, overwrite=True) as aside:  # where it can be written to
    aside.write_bytes(model)
