"""What each primitive of JAX that the networks use is in ONNX: `RULES`, from its name to what adds its nodes.

A rule gets the graph, the equation and the values of its inputs, and returns the value of its output, or a list of
them.
"""

import math
from collections.abc import Callable
from typing import Any

import numpy as np
from jax.extend import core
from jax.lax import GatherScatterMode

from dpr_jax.network.hourglass import EPSILON
from dpr_jax.portable.onnx_graph import Convolution, Graph, Value, broadcast_shape, is_known, same

Inputs = list[Value]

_UNARY = {
  "abs": "Abs",
  "atan": "Atan",
  "ceil": "Ceil",
  "cos": "Cos",
  "exp": "Exp",
  "floor": "Floor",
  "log": "Log",
  "logistic": "Sigmoid",
  "neg": "Neg",
  "not": "Not",
  "sign": "Sign",
  "sin": "Sin",
  "sqrt": "Sqrt",
  "tanh": "Tanh",
}
_BINARY = {
  "add": "Add",
  "and": "And",
  "div": "Div",
  "eq": "Equal",
  "ge": "GreaterOrEqual",
  "gt": "Greater",
  "le": "LessOrEqual",
  "lt": "Less",
  "max": "Max",
  "min": "Min",
  "mul": "Mul",
  "or": "Or",
  "pow": "Pow",
  "sub": "Sub",
}
_REDUCTIONS = {"reduce_max": "ReduceMax", "reduce_min": "ReduceMin", "reduce_sum": "ReduceSum"}
_NHWC_TO_NCHW, _NCHW_TO_NHWC = (0, 3, 1, 2), (0, 2, 3, 1)


def _elementwise(graph: Graph, op: str, *inputs: Value, **attributes) -> Value:
  return graph.node(op, inputs, broadcast_shape(*(value.shape for value in inputs)), **attributes)


def _unary(op: str) -> Callable:
  return lambda graph, equation, inputs: _elementwise(graph, op, *inputs)


def _binary(op: str) -> Callable:
  def rule(graph: Graph, equation: core.JaxprEqn, inputs: Inputs) -> Value:
    if op in ("And", "Or") and equation.outvars[0].aval.dtype != np.bool_:
      raise NotImplementedError(f"{op} of numbers has no counterpart in ONNX here")
    folded = _folded(graph, op, *inputs)
    if folded is not None:
      return folded
    if op == "Max" and inputs[1].array is not None and not inputs[1].array.any() and inputs[1].shape == ():
      return _elementwise(graph, "Relu", inputs[0])
    return _elementwise(graph, op, *inputs)

  return rule


def _folded(graph: Graph, op: str, left: Value, right: Value) -> Value | None:
  """A factor or an offset for each channel as part of the convolution before it; None where there is none."""
  convolution, other = (left.folds, right.array) if left.folds is not None else (right.folds, left.array)
  if convolution is None or other is None or op not in ("Add", "Sub", "Mul", "Div"):
    return None
  channels = len(convolution.bias)
  if other.size != 1 and other.shape != (1, 1, 1, channels):
    return None
  numbers = np.broadcast_to(other.reshape(-1), channels).astype(np.float32)
  kernel, bias = convolution.kernel, convolution.bias
  if op == "Mul":
    kernel, bias = kernel * numbers, bias * numbers
  elif left.folds is None and op == "Sub":
    kernel, bias = -kernel, numbers - bias
  elif left.folds is None and op == "Div":
    return None
  elif op == "Div":
    kernel, bias = kernel / numbers, bias / numbers
  else:
    bias = bias + numbers if op == "Add" else bias - numbers
  return convolution.make(kernel, bias)


def _convolution(graph: Graph, equation: core.JaxprEqn, inputs: Inputs) -> Value:
  parameters = equation.params
  dimensions = parameters["dimension_numbers"]
  layout = (dimensions.lhs_spec, dimensions.rhs_spec, dimensions.out_spec)
  plain = all(
    all(number == 1 for number in np.ravel(parameters[name]))
    for name in ("lhs_dilation", "feature_group_count", "batch_group_count")
  )
  if layout != ((0, 3, 1, 2), (3, 2, 0, 1), (0, 3, 1, 2)) or not plain or inputs[1].array is None:
    raise NotImplementedError("a convolution other than of NHWC by a known HWIO kernel has no counterpart in ONNX here")
  x, shape = inputs[0], equation.outvars[0].aval.shape
  (top, bottom), (left, right) = parameters["padding"]

  def make(kernel: np.ndarray, bias: np.ndarray) -> Value:
    name: list[str] = []

    def emit() -> str:
      if not name:
        nchw = graph.transpose(graph.broadcast(x, equation.invars[0].aval.shape), _NHWC_TO_NCHW)
        weights = [graph.constant(kernel.transpose(3, 2, 0, 1)), graph.constant(bias)]
        result = graph.node(
          "Conv",
          [nchw, *weights],
          tuple(shape[axis] for axis in _NHWC_TO_NCHW),
          pads=[top, left, bottom, right],
          strides=list(parameters["window_strides"]),
          dilations=list(parameters["rhs_dilation"]),
        )
        name.append(graph.name(graph.transpose(result, _NCHW_TO_NHWC)))
      return name[0]

    return Value(tuple(shape), emit=emit, folds=Convolution(make, kernel, bias))

  kernel = np.asarray(inputs[1].array, np.float32)
  return make(kernel, np.zeros(kernel.shape[-1], np.float32))


def instance_norm(graph: Graph, value: Value, channels: int) -> Value:
  """`hourglass.instance_norm` of NHWC."""
  ones = graph.constant(np.ones(channels, np.float32))
  zeros = graph.constant(np.zeros(channels, np.float32))
  nchw = graph.transpose(value, _NHWC_TO_NCHW)
  normal = graph.node("InstanceNormalization", [nchw, ones, zeros], nchw.shape, epsilon=EPSILON)
  return graph.transpose(normal, _NCHW_TO_NHWC)


def _max_pool(graph: Graph, equation: core.JaxprEqn, inputs: Inputs) -> Value:
  parameters = equation.params
  window, strides, padding = (parameters[f"{k}"] for k in ("window_dimensions", "window_strides", "padding"))
  plain = all(
    number == 1 for name in ("base_dilation", "window_dilation") for number in parameters[name]
  ) and not np.any(padding)
  if len(window) != 4 or (window[0], window[3]) != (1, 1) or not plain:
    raise NotImplementedError("a pooling other than of NHWC without padding has no counterpart in ONNX here")
  shape = equation.outvars[0].aval.shape
  nchw = graph.transpose(graph.broadcast(inputs[0], equation.invars[0].aval.shape), _NHWC_TO_NCHW)
  pooled = graph.node(
    "MaxPool",
    [nchw],
    tuple(shape[axis] for axis in _NHWC_TO_NCHW),
    kernel_shape=list(window[1:3]),
    strides=list(strides[1:3]),
  )
  return graph.transpose(pooled, _NCHW_TO_NHWC)


def _broadcast_in_dim(graph: Graph, equation: core.JaxprEqn, inputs: Inputs) -> Value:
  """Only new dimensions of 1; those that are repeated stay 1 for as long as ONNX broadcasts by itself."""
  to, source = equation.params["shape"], inputs[0]
  shape = [1] * len(to)
  for axis, size in zip(equation.params["broadcast_dimensions"], source.shape, strict=True):
    shape[axis] = size
  return graph.reshape(source, tuple(shape))


def _reshape(graph: Graph, equation: core.JaxprEqn, inputs: Inputs) -> Value:
  source, before, after = inputs[0], equation.invars[0].aval.shape, equation.outvars[0].aval.shape
  if equation.params.get("dimensions") is not None:
    raise NotImplementedError("a reshape that transposes has no counterpart in ONNX here")
  factors = _repeats(source.shape, before, after)
  if factors is not None:
    small = graph.reshape(source, tuple(source.shape[axis] for axis in (0, 1, 3, 5)))
    nchw = graph.transpose(small, _NHWC_TO_NCHW)
    scales = graph.constant([1, 1, *factors], np.float32)
    larger = graph.node(
      "Resize",
      [nchw, graph.constant([], np.float32), scales],
      tuple(after[axis] for axis in _NHWC_TO_NCHW),
      mode="nearest",
      coordinate_transformation_mode="asymmetric",
      nearest_mode="floor",
    )
    return graph.transpose(larger, _NCHW_TO_NHWC)
  return graph.reshape(graph.broadcast(source, before), after)


def _repeats(own: tuple, before: tuple, after: tuple) -> tuple[int, int] | None:
  """Of `[B, h, k, w, l, C]` whose k and l are repetitions, and which become `[B, hk, wl, C]`: k and l."""
  if len(own) != 6 or len(after) != 4 or not same((own[2], own[4]), (1, 1)):
    return None
  rows, columns = before[2], before[4]
  merged = (before[0], before[1] * rows, before[3] * columns, before[5])
  kept = same([own[k] for k in (0, 1, 3, 5)], [before[k] for k in (0, 1, 3, 5)])
  return (rows, columns) if kept and same(merged, after) else None


def _squeeze(graph: Graph, equation: core.JaxprEqn, inputs: Inputs) -> Value:
  gone = {axis % len(inputs[0].shape) for axis in equation.params["dimensions"]}
  return graph.reshape(inputs[0], tuple(size for axis, size in enumerate(inputs[0].shape) if axis not in gone))


def _transpose(graph: Graph, equation: core.JaxprEqn, inputs: Inputs) -> Value:
  return graph.transpose(inputs[0], equation.params["permutation"])


def _slice(graph: Graph, equation: core.JaxprEqn, inputs: Inputs) -> Value:
  parameters, value, whole = equation.params, inputs[0], equation.invars[0].aval.shape
  strides = parameters["strides"] or (1,) * len(whole)
  cut = [
    (start, limit, axis, stride)
    for axis, (start, limit, stride) in enumerate(
      zip(parameters["start_indices"], parameters["limit_indices"], strides, strict=True)
    )
    if not (_is(start, 0) and same((limit,), (whole[axis],)) and stride == 1) and not _is(value.shape[axis], 1)
  ]
  return _cut(graph, value, cut, equation.outvars[0].aval.shape)


def _cut(graph: Graph, value: Value, cut: list[tuple], result: tuple) -> Value:
  """Parts from, to, along an axis, in steps; of a result with these dimensions."""
  if not cut:
    return value
  axes = {axis for _, _, axis, _ in cut}
  shape = tuple(result[axis] if axis in axes else size for axis, size in enumerate(value.shape))
  return graph.node("Slice", [value, *(graph.sizes(numbers) for numbers in zip(*cut, strict=True))], shape)


def _is(size: Any, number: int) -> bool:
  return is_known(size) and size == number


def _split(graph: Graph, equation: core.JaxprEqn, inputs: Inputs) -> list[Value]:
  value = graph.broadcast(inputs[0], equation.invars[0].aval.shape)
  shapes = [variable.aval.shape for variable in equation.outvars]
  sizes = equation.params["sizes"]
  if len(sizes) == 1:
    return [value]
  return graph.node_of_several("Split", [value, graph.sizes(sizes)], shapes, axis=int(equation.params["axis"]))


def _concatenate(graph: Graph, equation: core.JaxprEqn, inputs: Inputs) -> Value:
  axis = int(equation.params["dimension"])
  given = [(value, v.aval.shape) for value, v in zip(inputs, equation.invars, strict=True)]
  # A 0 in a shape means something else to ONNX; what is empty adds nothing.
  whole = [graph.broadcast(value, shape) for value, shape in given if not _is(shape[axis], 0)]
  return whole[0] if len(whole) == 1 else graph.node("Concat", whole, equation.outvars[0].aval.shape, axis=axis)


def _stack(graph: Graph, equation: core.JaxprEqn, inputs: Inputs) -> Value:
  axis, whole = equation.params["axis"], []
  for value, variable in zip(inputs, equation.invars, strict=True):
    shape = variable.aval.shape
    whole.append(graph.reshape(graph.broadcast(value, shape), (*shape[:axis], 1, *shape[axis:])))
  return graph.node("Concat", whole, equation.outvars[0].aval.shape, axis=int(axis))


def _pad(graph: Graph, equation: core.JaxprEqn, inputs: Inputs) -> Value:
  padding = equation.params["padding_config"]
  if any(inside or low < 0 or high < 0 for low, high, inside in padding):
    raise NotImplementedError("a padding that cuts or that lies between elements has no counterpart in ONNX here")
  pads = graph.constant([low for low, _, _ in padding] + [high for _, high, _ in padding], np.int64)
  value = graph.broadcast(inputs[0], equation.invars[0].aval.shape)
  return graph.node("Pad", [value, pads, inputs[1]], equation.outvars[0].aval.shape)


def _rev(graph: Graph, equation: core.JaxprEqn, inputs: Inputs) -> Value:
  axes = list(equation.params["dimensions"])
  value = graph.broadcast(inputs[0], equation.invars[0].aval.shape)
  least = np.iinfo(np.int64).min
  vectors = [
    graph.constant(numbers, np.int64) for numbers in ([-1] * len(axes), [least] * len(axes), axes, [-1] * len(axes))
  ]
  return graph.node("Slice", [value, *vectors], value.shape)


def _reduction(op: str) -> Callable:
  def rule(graph: Graph, equation: core.JaxprEqn, inputs: Inputs) -> Value:
    value = graph.broadcast(inputs[0], equation.invars[0].aval.shape)
    axes = graph.constant(equation.params["axes"], np.int64)
    shape = equation.outvars[0].aval.shape
    return graph.node(op, [value, axes], shape, keepdims=0)

  return rule


def _dot_general(graph: Graph, equation: core.JaxprEqn, inputs: Inputs) -> Value:
  """A product of matrices `[batch, M, K]` and `[batch, K, N]`, which both sides are brought into."""
  (contracted, batched) = equation.params["dimension_numbers"]
  left, right = (graph.broadcast(value, v.aval.shape) for value, v in zip(inputs, equation.invars, strict=True))
  shape, last = equation.outvars[0].aval.shape, len(left.shape) - 1
  if not batched[0] and tuple(contracted[0]) == (last,) and tuple(contracted[1]) == (0,) and len(right.shape) == 2:
    return graph.node("MatMul", [left, right], shape)
  free = [
    [axis for axis in range(len(side.shape)) if axis not in (*summed, *kept)]
    for side, summed, kept in zip((left, right), contracted, batched, strict=True)
  ]

  def size(side: Value, axes: Any) -> Any:
    return math.prod(side.shape[axis] for axis in axes)

  own, theirs = [*batched[0], *free[0], *contracted[0]], [*batched[1], *contracted[1], *free[1]]
  lead = (size(left, batched[0]),) if batched[0] else ()
  matrix = graph.reshape(graph.transpose(left, own), (*lead, size(left, free[0]), size(left, contracted[0])))
  other = graph.reshape(graph.transpose(right, theirs), (*lead, size(right, contracted[1]), size(right, free[1])))
  product = graph.node("MatMul", [matrix, other], (*lead, size(left, free[0]), size(right, free[1])))
  return graph.reshape(product, shape)


def _iota(graph: Graph, equation: core.JaxprEqn, inputs: Inputs) -> Value:
  """A count along one dimension; where it is as large as the batch, counted when the model runs."""
  parameters = equation.params
  axis, shape = parameters["dimension"], parameters["shape"]
  numbers = _count(graph, shape[axis])
  place = [1] * len(shape)
  place[axis] = shape[axis]
  return graph.reshape(graph.cast(numbers, parameters["dtype"]), tuple(place))


def _count(graph: Graph, size: Any) -> Value:
  """0, 1, ... below a dimension, int64."""
  if is_known(size):
    return graph.constant(np.arange(size), np.int64)
  limit = graph.node("Squeeze", [graph.sizes([size])], ())
  return graph.node("Range", [graph.constant(0, np.int64), limit, graph.constant(1, np.int64)], (size,))


def _gather(graph: Graph, equation: core.JaxprEqn, inputs: Inputs) -> Value:
  """`dynamic_slice`, also of a batch, and `take_along_axis`: elements by where they lie in the flattened operand."""
  numbers, slices = equation.params["dimension_numbers"], equation.params["slice_sizes"]
  operand, indices = (graph.broadcast(value, v.aval.shape) for value, v in zip(inputs, equation.invars, strict=True))
  whole, result = operand.shape, equation.outvars[0].aval.shape
  own = len(numbers.operand_batching_dims)  # the leading dimensions, one for one with those of the indices
  if indices.array is not None and len(indices.shape) == 1:
    cut = list(zip(indices.array.tolist(), numbers.start_index_map, strict=True))
    return graph.reshape(_cut(graph, operand, [(at, at + slices[axis], axis, 1) for at, axis in cut], slices), result)
  leading = tuple(range(own))
  if (numbers.operand_batching_dims, numbers.start_indices_batching_dims) != (leading, leading) or own > 1:
    raise NotImplementedError("a gather other than along a batch has no counterpart in ONNX here")
  if not all(is_known(size) for size in (*whole[own:], *slices)):
    raise NotImplementedError("a gather across the batch has no counterpart in ONNX here")
  outer = [axis for axis in range(len(result)) if axis not in numbers.offset_dims]
  inner = [axis for axis in range(own, len(whole)) if axis not in numbers.collapsed_slice_dims]
  strides = [math.prod(whole[axis + 1 :]) for axis in range(len(whole))]
  place = tuple(result[axis] if axis in outer else 1 for axis in range(len(result)))
  start, inside = _starts(graph, equation, indices, strides)
  within = np.zeros([1] * len(result), np.int64)
  for axis, of_result in zip(inner, numbers.offset_dims, strict=True):
    steps = [1] * len(result)
    steps[of_result] = slices[axis]
    within = within + strides[axis] * np.arange(slices[axis]).reshape(steps)
  where = _elementwise(graph, "Add", graph.reshape(start, place), graph.constant(within))
  where = graph.broadcast(where, result)
  flat = (*whole[:own], math.prod(whole[own:]))
  if own:
    rows = graph.reshape(where, (result[0], math.prod(result[1:])))
    found = graph.node("GatherElements", [graph.reshape(operand, flat), rows], rows.shape, axis=1)
  else:
    found = graph.node("Gather", [graph.reshape(operand, flat), where], result, axis=0)
  found = graph.reshape(found, result)
  if inside is None:
    return found
  fill = graph.constant(equation.params["fill_value"], equation.invars[0].aval.dtype)
  return _elementwise(graph, "Where", graph.reshape(inside, place), found, fill)


def _starts(graph: Graph, equation: core.JaxprEqn, indices: Value, strides: list[int]) -> tuple[Value, Value | None]:
  """Where each slice of a gather starts in the flattened operand, and, where it matters, whether it lies inside."""
  numbers, slices, mode = (equation.params[name] for name in ("dimension_numbers", "slice_sizes", "mode"))
  axes = np.array(numbers.start_index_map)
  last = np.array([equation.invars[0].aval.shape[axis] - slices[axis] for axis in axes], np.int64)
  indices, inside = graph.cast(indices, np.int64), None
  highest, lowest = graph.constant(last), graph.constant(np.zeros_like(last))
  clipped = _elementwise(graph, "Min", _elementwise(graph, "Max", indices, lowest), highest)
  if mode == GatherScatterMode.FILL_OR_DROP:
    outside = graph.cast(_different(graph, equation, [clipped, indices]), np.int64)
    axis = graph.constant([len(indices.shape) - 1], np.int64)
    inside = graph.node("ReduceSum", [outside, axis], indices.shape[:-1], keepdims=0)
    inside = _elementwise(graph, "Equal", inside, graph.constant(0, np.int64))
  steps = graph.constant([strides[axis] for axis in axes], np.int64)
  axis = graph.constant([len(indices.shape) - 1], np.int64)
  scaled = _elementwise(graph, "Mul", clipped, steps)
  return graph.node("ReduceSum", [scaled, axis], indices.shape[:-1], keepdims=0), inside


def _sort(graph: Graph, equation: core.JaxprEqn, inputs: Inputs) -> list[Value]:
  parameters = equation.params
  if parameters["num_keys"] != 1:
    raise NotImplementedError("a sort by more than one key has no counterpart in ONNX here")
  axis = parameters["dimension"]
  key, *others = (graph.broadcast(value, v.aval.shape) for value, v in zip(inputs, equation.invars, strict=True))
  count = graph.sizes([key.shape[axis]])
  # Of equal elements the first comes first.
  ordered, index = graph.node_of_several("TopK", [key, count], [key.shape] * 2, axis=axis, largest=0, sorted=1)
  return [ordered, *(graph.node("GatherElements", [other, index], other.shape, axis=axis) for other in others)]


def _cumsum(graph: Graph, equation: core.JaxprEqn, inputs: Inputs) -> Value:
  value = graph.broadcast(inputs[0], equation.invars[0].aval.shape)
  axis = graph.constant(equation.params["axis"], np.int64)
  return graph.node("CumSum", [value, axis], value.shape, reverse=int(equation.params["reverse"]))


def _select(graph: Graph, equation: core.JaxprEqn, inputs: Inputs) -> Value:
  which, *cases = inputs
  if len(cases) != 2 or equation.invars[0].aval.dtype != np.bool_:
    raise NotImplementedError("a select among more than two has no counterpart in ONNX here")
  return _elementwise(graph, "Where", which, cases[1], cases[0])


def _different(graph: Graph, equation: core.JaxprEqn, inputs: Inputs) -> Value:
  return _elementwise(graph, "Not", _elementwise(graph, "Equal", *inputs))


def _convert(graph: Graph, equation: core.JaxprEqn, inputs: Inputs) -> Value:
  to = equation.params["new_dtype"]
  return inputs[0] if equation.invars[0].aval.dtype == to else graph.cast(inputs[0], to)


def _integer_pow(graph: Graph, equation: core.JaxprEqn, inputs: Inputs) -> Value:
  exponent = equation.params["y"]
  if exponent == 2:
    return _elementwise(graph, "Mul", inputs[0], inputs[0])
  if exponent == 3:
    return _elementwise(graph, "Mul", _elementwise(graph, "Mul", inputs[0], inputs[0]), inputs[0])
  return _elementwise(graph, "Pow", inputs[0], graph.constant(exponent, np.float32))


def _square(graph: Graph, equation: core.JaxprEqn, inputs: Inputs) -> Value:
  return _elementwise(graph, "Mul", inputs[0], inputs[0])


def _rsqrt(graph: Graph, equation: core.JaxprEqn, inputs: Inputs) -> Value:
  return _elementwise(graph, "Reciprocal", _elementwise(graph, "Sqrt", inputs[0]))


def _log1p(graph: Graph, equation: core.JaxprEqn, inputs: Inputs) -> Value:
  return _elementwise(graph, "Log", _elementwise(graph, "Add", inputs[0], graph.constant(1, np.float32)))


def _clamp(graph: Graph, equation: core.JaxprEqn, inputs: Inputs) -> Value:
  low, value, high = inputs
  return _elementwise(graph, "Min", _elementwise(graph, "Max", value, low), high)


def _atan2(graph: Graph, equation: core.JaxprEqn, inputs: Inputs) -> Value:
  """ONNX has the arc tangent of a quotient only; 0 of (0, 0)."""
  y, x = inputs
  zero, pi = graph.constant(0, np.float32), graph.constant(math.pi, np.float32)
  both = _elementwise(graph, "And", _elementwise(graph, "Equal", y, zero), _elementwise(graph, "Equal", x, zero))
  quotient = _elementwise(graph, "Div", y, _elementwise(graph, "Where", both, graph.constant(1, np.float32), x))
  half = _elementwise(graph, "Atan", quotient)
  turn = _elementwise(graph, "Where", _elementwise(graph, "Less", y, zero), _elementwise(graph, "Neg", pi), pi)
  behind = _elementwise(graph, "Where", _elementwise(graph, "Less", x, zero), turn, zero)
  return _elementwise(graph, "Add", half, behind)


_SPECIAL = {
  "atan2": _atan2,
  "clamp": _clamp,
  "convert_element_type": _convert,
  "integer_pow": _integer_pow,
  "log1p": _log1p,
  "ne": _different,
  "rsqrt": _rsqrt,
  "select_n": _select,
  "square": _square,
}
_SHAPED = {
  "broadcast_in_dim": _broadcast_in_dim,
  "concatenate": _concatenate,
  "conv_general_dilated": _convolution,
  "cumsum": _cumsum,
  "dot_general": _dot_general,
  "expand_dims": _reshape,
  "gather": _gather,
  "iota": _iota,
  "pad": _pad,
  "reduce_window_max": _max_pool,
  "reshape": _reshape,
  "rev": _rev,
  "slice": _slice,
  "sort": _sort,
  "split": _split,
  "squeeze": _squeeze,
  "stack": _stack,
  "transpose": _transpose,
}
# These work on each element by itself, so that a dimension of 1 may stand for a larger one.
ELEMENTWISE = frozenset({*_UNARY, *_BINARY, *_SPECIAL})
RULES: dict[str, Callable] = {
  **{name: _unary(op) for name, op in _UNARY.items()},
  **{name: _binary(op) for name, op in _BINARY.items()},
  **{name: _reduction(op) for name, op in _REDUCTIONS.items()},
  **_SPECIAL,
  **_SHAPED,
}
