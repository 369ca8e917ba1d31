"""A graph of ONNX nodes as it grows: values, constants, and the one size that a file leaves open, the batch."""

import dataclasses
import itertools
from collections.abc import Callable, Sequence
from typing import Any

import numpy as np
import onnx
from onnx import helper, numpy_helper

OPSET = 18

Dimension = Any  # an int, or JAX's symbolic dimension
Shape = tuple[Dimension, ...]


@dataclasses.dataclass(eq=False)
class Value:
  """What an edge of the graph carries.

  Attributes:
    shape: its own dimensions; a dimension of 1 may stand for any size, as ONNX broadcasts.
    array: what it is where that is known before the model runs.
    emit: adds the nodes that give it, and returns its name; None for a constant.
    folds: a convolution that may still take up a factor and an offset for each channel, or None.
    whole: what this is a reshaped form of, or None.
  """

  shape: Shape
  array: np.ndarray | None = None
  emit: Callable[[], str] | None = None
  folds: "Convolution | None" = None
  whole: "Value | None" = None


@dataclasses.dataclass(frozen=True)
class Convolution:
  """A convolution whose kernel and bias are known.

  Attributes:
    make: gives the value for a kernel `[k, l, I, O]` and a bias `[O]`.
    kernel: as of now.
    bias: as of now.
  """

  make: Callable[[np.ndarray, np.ndarray], Value]
  kernel: np.ndarray
  bias: np.ndarray


class Graph:
  """Nodes in an order in which they can run.

  Attributes:
    nodes: so far.
    batch: JAX's symbol for the batch; None where all sizes are known.
  """

  def __init__(self, batch: Dimension | None, parent: "Graph | None" = None):
    self.nodes: list[onnx.NodeProto] = []
    self.batch = batch
    self._top = self if parent is None else parent._top
    if parent is None:
      self.initializers: dict[tuple, onnx.TensorProto] = {}
      self._names = itertools.count()
      self._batch_size: Value | None = None

  def inner(self) -> "Graph":
    """The body of a loop, which sees all values of this graph."""
    return Graph(self.batch, self)

  def new_name(self) -> str:
    """One that no other value has."""
    return f"v{next(self._top._names)}"

  def name(self, value: Value) -> str:
    """The name of a value, which is in the graph from now on."""
    if value.emit is None:
      return self._initializer(value.array)
    name = value.emit()
    value.emit = lambda: name
    return name

  def named(self, name: str, shape: Shape) -> Value:
    """A value that is in the graph already."""
    return Value(tuple(shape), emit=lambda: name)

  def constant(self, array: Any, dtype: Any = None) -> Value:
    """A value that is known."""
    array = np.asarray(array, dtype)
    return Value(array.shape, array)

  def sizes(self, shape: Sequence[Dimension]) -> Value:
    """Dimensions as a vector of int64, the batch as large as it is when the model runs."""
    if all(is_known(size) for size in shape):
      return self.constant([int(size) for size in shape], np.int64)
    parts = [self._size(size) for size in shape]
    return self.node("Concat", parts, (len(parts),), axis=0)

  def _size(self, size: Dimension) -> Value:
    if is_known(size):
      return self.constant([int(size)], np.int64)
    factor = times(size, self.batch)
    whole = self._top._batch_size
    return whole if factor == 1 else self.node("Mul", [whole, self.constant([factor], np.int64)], (1,))

  def batch_is_of(self, value: Value) -> None:
    """The batch is the first dimension of this input."""
    shape = self.node("Shape", [value], (1,), start=0, end=1)
    self._top._batch_size = shape

  def node(self, op: str, inputs: Sequence[Value], shape: Shape, **attributes) -> Value:
    """Adds a node with one output of this shape."""
    [output] = self.node_of_several(op, inputs, [shape], **attributes)
    return output

  def node_of_several(self, op: str, inputs: Sequence[Value], shapes: Sequence[Shape], **attributes) -> list[Value]:
    """Adds a node with an output of each of these shapes."""
    names = [self.new_name() for _ in shapes]
    self.nodes.append(helper.make_node(op, [self.name(value) for value in inputs], names, **attributes))
    return [self.named(name, shape) for name, shape in zip(names, shapes, strict=True)]

  def _initializer(self, array: np.ndarray) -> str:
    array = np.asarray(array)
    key = (array.dtype.str, array.shape, array.tobytes())
    known = self._top.initializers
    if key not in known:
      known[key] = numpy_helper.from_array(array, self.new_name())
    return known[key].name

  # What more than one primitive needs.

  def broadcast(self, value: Value, shape: Shape) -> Value:
    """A value as large as it is said to be: its dimensions of 1 repeated."""
    if same(value.shape, shape):
      return value
    if value.array is not None and all(is_known(size) for size in shape):
      return self.constant(np.broadcast_to(value.array, shape))
    return self.node("Expand", [value, self.sizes(shape)], tuple(shape))

  def reshape(self, value: Value, shape: Shape) -> Value:
    """The same elements, in their order, under other dimensions."""
    if same(value.shape, shape):
      return value
    if value.whole is not None and same(value.whole.shape, shape):
      return value.whole
    if value.array is not None:
      return self.constant(value.array.reshape([int(size) for size in shape]))
    sizes = [int(size) if is_known(size) else -1 for size in shape]
    target = self.constant(sizes, np.int64) if sizes.count(-1) < 2 else self.sizes(shape)
    reshaped = self.node("Reshape", [value, target], tuple(shape))
    reshaped.whole = value.whole or value
    return reshaped

  def transpose(self, value: Value, order: Sequence[int]) -> Value:
    """Dimensions in another order."""
    if list(order) == sorted(order):
      return value
    if value.array is not None:
      return self.constant(value.array.transpose(order))
    return self.node("Transpose", [value], tuple(value.shape[axis] for axis in order), perm=list(order))

  def cast(self, value: Value, dtype: Any) -> Value:
    """Another type of numbers."""
    if value.array is not None:
      return self.constant(value.array.astype(dtype))
    return self.node("Cast", [value], value.shape, to=helper.np_dtype_to_tensor_dtype(np.dtype(dtype)))

  def used(self, outputs: Sequence[str]) -> list[onnx.NodeProto]:
    """The nodes on which the outputs depend."""
    needed, kept = set(outputs), []
    for node in reversed(self.nodes):
      if needed & set(node.output):
        kept.append(node)
        needed |= set(node.input) | outer_names(node)
    return kept[::-1]


def outer_names(node: onnx.NodeProto) -> set[str]:
  """What the bodies of a loop read; some of it may be their own."""
  bodies = [attribute.g for attribute in node.attribute if attribute.type == onnx.AttributeProto.GRAPH]
  return {name for body in bodies for inner in body.node for name in (*inner.input, *outer_names(inner))} | {
    output.name for body in bodies for output in body.output
  }


def is_known(size: Dimension) -> bool:
  """Whether a dimension is a number."""
  return isinstance(size, (int, np.integer))


def same(one: Shape, other: Shape) -> bool:
  """Whether two shapes are equal, symbols included."""
  return len(one) == len(other) and all(is_known(a) == is_known(b) and a == b for a, b in zip(one, other, strict=True))


def times(size: Dimension, batch: Dimension) -> int:
  """How many times the batch a dimension is.

  Raises:
    ValueError: it is no multiple of it up to eight.
  """
  for factor in range(1, 9):
    if size == factor * batch:
      return factor
  raise ValueError(f"a dimension of {size} is no small multiple of the batch")


def broadcast_shape(*shapes: Shape) -> Shape:
  """What elementwise operations make of values of one rank, or numbers."""
  rank = max(map(len, shapes))
  padded = [(1,) * (rank - len(shape)) + tuple(shape) for shape in shapes]
  return tuple(next((s for s in sizes if not (is_known(s) and s == 1)), 1) for sizes in zip(*padded, strict=True))
