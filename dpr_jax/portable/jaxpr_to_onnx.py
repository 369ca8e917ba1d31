"""JAX functions as ONNX models: one rule for each primitive that the networks use, and a refusal of all others.

What does not depend on the inputs is computed now. A normalisation behind a convolution, a factor and an offset for
each channel, becomes part of its kernel and bias.
"""

from collections.abc import Callable, Mapping, Sequence
from typing import Any

import jax
import numpy as np
import onnx
from jax import export
from jax.extend import core
from onnx import helper

from dpr_jax.portable.onnx_graph import OPSET, Graph, Value, is_known, outer_names
from dpr_jax.portable.onnx_primitives import ELEMENTWISE, RULES, instance_norm

BATCH = "batch"
# Primitives that only name a function, and the parameter that holds it.
_CALLS = {
  "jit": "jaxpr",
  "pjit": "jaxpr",
  "closed_call": "call_jaxpr",
  "custom_jvp_call": "call_jaxpr",
  "custom_vjp_call": "call_jaxpr",
  "remat2": "jaxpr",
}
# Computed by NumPy: JAX would compile each of them first.
_QUICK = {
  "abs": np.abs,
  "add": np.add,
  "and": np.logical_and,
  "div": np.divide,
  "eq": np.equal,
  "ge": np.greater_equal,
  "gt": np.greater,
  "le": np.less_equal,
  "lt": np.less,
  "max": np.maximum,
  "min": np.minimum,
  "mul": np.multiply,
  "ne": np.not_equal,
  "neg": np.negative,
  "rsqrt": lambda x: 1 / np.sqrt(x),
  "select_n": lambda which, no, yes: np.where(which, yes, no),
  "sub": np.subtract,
}
# Their rules add no nodes for a constant.
_FREE = ("broadcast_in_dim", "convert_element_type", "iota", "reshape", "squeeze", "transpose")
_UNCHANGED = ("stop_gradient", "copy", "copy_p", "optimization_barrier")
# Version 9 is read by ONNX Runtime 1.15 and later.
_IR_VERSION = 9


def symbolic_batch() -> Any:
  """The dimension that stands for any number of photos in the shapes of arguments of `convert`."""
  [batch] = export.symbolic_shape(BATCH)
  return batch


def convert(
  function: Callable,
  arguments: Mapping[str, jax.ShapeDtypeStruct],
  *,
  batch: Any = None,
  metadata: Mapping[str, str] | None = None,
) -> onnx.ModelProto:
  """A function of named arrays as an ONNX model.

  Args:
    function: takes a dict with the names of `arguments`, and returns a dict of arrays: inputs and outputs of the model.
    arguments: shapes and types; float32, dimensions may be `batch`.
    batch: from `symbolic_batch`, or None: all sizes are fixed.
    metadata: pairs of texts that the file carries.

  Raises:
    NotImplementedError: the function uses a primitive that is not known here; it is named.
  """
  traced = jax.jit(function).trace(dict(arguments))
  names = sorted(arguments)  # as JAX flattens a dict
  graph = Graph(batch)
  inputs = [graph.named(name, arguments[name].shape) for name in names]
  if batch is not None:
    graph.batch_is_of(
      next(value for value in inputs if value.shape and not is_known(value.shape[0]) and value.shape[0] == batch)
    )
  closed = traced.jaxpr
  results = _run(graph, closed.jaxpr, [graph.constant(const) for const in closed.consts], inputs)
  outputs = sorted(traced.out_info)
  for name, value, aval in zip(outputs, results, closed.out_avals, strict=True):
    whole = graph.broadcast(value, aval.shape)
    graph.nodes.append(helper.make_node("Identity", [graph.name(whole)], [name]))
  nodes = graph.used(outputs)
  read = {name for node in nodes for name in (*node.input, *outer_names(node))}
  made = helper.make_graph(
    nodes,
    "dpr_jax",
    [_described(name, arguments[name]) for name in names],
    [_described(name, traced.out_info[name]) for name in outputs],
    [tensor for tensor in graph.initializers.values() if tensor.name in read],
  )
  model = helper.make_model(
    made, opset_imports=[helper.make_opsetid("", OPSET)], producer_name="dpr_jax", ir_version=_IR_VERSION
  )
  helper.set_model_props(model, dict(metadata or {}))
  onnx.checker.check_model(model)
  return model


def _described(name: str, array: Any) -> onnx.ValueInfoProto:
  sizes = [int(size) if is_known(size) else str(size) for size in array.shape]
  return helper.make_tensor_value_info(name, helper.np_dtype_to_tensor_dtype(np.dtype(array.dtype)), sizes)


def _run(graph: Graph, jaxpr: core.Jaxpr, consts: Sequence[Value], arguments: Sequence[Value]) -> list[Value]:
  """The outputs of a jaxpr, whose primitives become nodes of the graph."""
  values: dict[Any, Value] = {}

  def read(variable: Any) -> Value:
    if isinstance(variable, core.Literal):
      return graph.constant(variable.val, variable.aval.dtype)
    return values[variable]

  values.update(zip(jaxpr.constvars, consts, strict=True))
  values.update(zip(jaxpr.invars, arguments, strict=True))
  for equation in jaxpr.eqns:
    results = _apply(graph, equation, [read(variable) for variable in equation.invars])
    values.update(zip(equation.outvars, results, strict=True))
  return [read(variable) for variable in jaxpr.outvars]


def _apply(graph: Graph, equation: core.JaxprEqn, inputs: list[Value]) -> list[Value]:
  name = equation.primitive.name
  if name in _UNCHANGED:
    return inputs
  if name in _CALLS:
    if equation.params.get("name") == instance_norm.__name__:  # of `hourglass`: one node
      aval = equation.invars[0].aval
      return [instance_norm(graph, graph.broadcast(inputs[0], aval.shape), aval.shape[-1])]
    called = equation.params[_CALLS[name]]
    jaxpr, consts = (called.jaxpr, called.consts) if isinstance(called, core.ClosedJaxpr) else (called, ())
    return _run(graph, jaxpr, [graph.constant(const) for const in consts], inputs)
  if name == "scan":
    return _scan(graph, equation, inputs)
  if name not in RULES:
    raise NotImplementedError(f"the primitive {name!r} of JAX has no counterpart in ONNX here")
  if name not in _FREE and all(value.array is not None for value in inputs):
    computed = _computed(graph, equation, [value.array for value in inputs])
    if computed is not None:
      return computed
  results = RULES[name](graph, equation, inputs)
  return results if isinstance(results, list) else [results]


def _computed(graph: Graph, equation: core.JaxprEqn, arrays: list[np.ndarray]) -> list[Value] | None:
  """What an operation makes of constants; None where that is as large as the batch."""
  name, dtype = equation.primitive.name, equation.outvars[0].aval.dtype
  if name in _QUICK and np.issubdtype(equation.invars[-1].aval.dtype, np.floating):
    return [graph.constant(_QUICK[name](*arrays), dtype)]
  if name in ELEMENTWISE:
    arrays = list(np.broadcast_arrays(*arrays))  # of what is as large as the batch, one element
  elif not all(is_known(size) for variable in equation.outvars for size in variable.aval.shape):
    return None
  else:
    arrays = [np.broadcast_to(array, v.aval.shape) for array, v in zip(arrays, equation.invars, strict=True)]
  results = equation.primitive.bind(*map(np.array, arrays), **equation.params)
  results = results if equation.primitive.multiple_results else [results]
  shapes = [arrays[0].shape] if name in ELEMENTWISE else [r.shape for r in results]
  return [graph.constant(np.asarray(r).reshape(shape)) for r, shape in zip(results, shapes, strict=True)]


def _scan(graph: Graph, equation: core.JaxprEqn, inputs: list[Value]) -> list[Value]:
  """A loop of so many rounds, some of whose values each round hands to the next, and some of which it collects."""
  parameters, avals = equation.params, [variable.aval for variable in equation.invars]
  if parameters["reverse"]:
    raise NotImplementedError("a scan of JAX that runs backwards has no counterpart in ONNX here")
  constants, carried = parameters["num_consts"], parameters["num_consts"] + parameters["num_carry"]
  whole = [graph.broadcast(value, aval.shape) for value, aval in zip(inputs, avals, strict=True)]
  for value in whole:
    graph.name(value)  # outside of the loop
  body = graph.inner()
  index = body.named(body.new_name(), ())
  going = body.new_name()
  carries = [body.named(body.new_name(), aval.shape) for aval in avals[constants:carried]]
  slices = [body.node("Gather", [value, index], tuple(value.shape[1:]), axis=0) for value in whole[carried:]]
  jaxpr = parameters["jaxpr"]
  results = _run(
    body, jaxpr.jaxpr, [body.constant(const) for const in jaxpr.consts], [*whole[:constants], *carries, *slices]
  )
  given = []
  for value, aval in zip(results, jaxpr.out_avals, strict=True):
    name = body.new_name()
    body.nodes.append(helper.make_node("Identity", [body.name(body.broadcast(value, aval.shape))], [name]))
    given.append((name, aval))
  still = body.new_name()
  body.nodes.append(helper.make_node("Identity", [going], [still]))
  inside = helper.make_graph(
    body.used([still, *(name for name, _ in given)]),
    "body",
    [
      helper.make_tensor_value_info(body.name(index), onnx.TensorProto.INT64, []),
      helper.make_tensor_value_info(going, onnx.TensorProto.BOOL, []),
      *(_described(body.name(c), aval) for c, aval in zip(carries, avals[constants:carried], strict=True)),
    ],
    [helper.make_tensor_value_info(still, onnx.TensorProto.BOOL, []), *(_described(*each) for each in given)],
  )
  rounds = graph.constant(parameters["length"], np.int64)
  return graph.node_of_several(
    "Loop",
    [rounds, graph.constant(True, np.bool_), *whole[constants:carried]],
    [variable.aval.shape for variable in equation.outvars],
    body=inside,
  )
