"""A function of few parameters t, as a network of the operators in `onnx_nodes`.

Every value of the graph that bounds are carried through is kept as

    value = columns t + factor tensor + offset,

with a tensor of the file. Affine functions act on the three parts apart: on columns and
offset here, in float64, and on the tensor in the file. A value is put together where
something is done to it that is not affine. So everything before the first ReLU is one
matrix, and sums with constants are one.
"""

import functools
import math
from collections.abc import Callable, Sequence
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from robustjax.bounds import UnsupportedError, operations
from robustjax.bounds.graph import Graph, Node
from robustjax.semantic.export import linear_maps, single_steps
from robustjax.semantic.export.onnx_nodes import INPUT, Tensor, Writer

_MOST_WEIGHTS = 2**22  # of a matrix in place of a linear function without own form
_CURVES = {
    "tanh": "Tanh", "logistic": "Sigmoid", "erf": "Erf", "exp": "Exp", "log": "Log",
    "sqrt": "Sqrt", "reciprocal": "Reciprocal", "softplus": "Softplus", "sin": "Sin",
    "cos": "Cos", "elu": "Elu",
}  # fmt: skip


class _Value(NamedTuple):
    """Columns times the parameters, plus a tensor, plus an offset."""

    offset: np.ndarray  # [*shape] float64
    columns: np.ndarray | None = None  # [d, *shape] float64
    tensor: Tensor | None = None


def write(graph: Graph, writer: Writer) -> str:
    """Writes a graph of one vector of parameters. [host].

    Args:
        graph: from `tracing.trace` in float64, outside of transformations of JAX.
        writer: gets the nodes.

    Returns:
        The name of the result.

    Raises:
        UnsupportedError: if an operation has no form in the file; names it.
    """
    composition = _Composition(writer, graph.shape[0])
    for node in graph.nodes:
        composition.add(node)
    result = composition.whole(graph.output)
    return writer.arranged(result, range(len(result.shape)), result.shape)


class _Composition:
    """The values so far, in the order of the graph."""

    def __init__(self, writer: Writer, num_parameters: int) -> None:
        self._writer = writer
        self._values = [_Value(np.zeros(num_parameters), np.eye(num_parameters))]

    def add(self, node: Node) -> None:
        """Adds the result of a node."""
        self._values.append(self._result(node))

    def whole(self, number: int) -> Tensor:
        """A value put together, as a tensor with factor one."""
        value = self._values[number]
        tensor = _whole(self._writer, value)
        if value.tensor is not None:  # what is of the parameters alone stays so
            self._values[number] = _of(tensor)
        return tensor

    def _result(self, node: Node) -> _Value:
        operation = node.operation
        if isinstance(operation, operations.Narrowed):
            return self._values[node.inputs[0]]
        if isinstance(operation, operations.Affine) and node.is_float:
            inputs = [self._values[number] for number in node.inputs]
            return _affine(self._writer, operation.point, inputs)
        if isinstance(operation, operations.Product):
            return self._applied("Mul", *map(self.whole, node.inputs))
        return self._curve(operation, node.inputs[0])

    def _curve(self, operation: Any, number: int) -> _Value:
        """A function of single numbers."""
        name = getattr(operation, "name", "an operation on integers")
        bends_at = getattr(operation, "breakpoint", None)
        if name == "max" and bends_at is not None:
            return self._larger(number, np.asarray(bends_at, np.float64))
        if name == "abs":  # 2 relu(x) - x
            x = self.whole(number)
            twice = self._writer.entrywise("Relu", x)._replace(factor=2.0)
            return _of(self._writer.added(twice, x._replace(factor=-1.0)))
        if name == "square":
            x = self.whole(number)
            return self._applied("Mul", x, x)
        if isinstance(operation, operations.Elementwise) and name in _CURVES:
            return self._applied(_CURVES[name], self.whole(number))
        raise UnsupportedError(f"There is no form for {name!r} in a network file.")

    def _applied(self, kind: str, *tensors: Tensor) -> _Value:
        return _of(self._writer.entrywise(kind, *tensors))

    def _larger(self, number: int, least: np.ndarray) -> _Value:
        """The larger of a value and a constant, relu(x - c) + c."""
        value = self._values[number]
        least = np.broadcast_to(least, value.offset.shape)
        if not np.any(least):
            return self._applied("Relu", self.whole(number))
        excess = _whole(self._writer, value._replace(offset=value.offset - least))
        return self._applied("Relu", excess)._replace(offset=least)


def _of(tensor: Tensor) -> _Value:
    return _Value(np.zeros(tensor.shape), None, tensor)


def _whole(writer: Writer, value: _Value) -> Tensor:
    """The value as a tensor with factor one."""
    offset, columns, tensor = value
    if tensor is None:
        name = _of_parameters(writer, columns, offset)
        return writer.tensor(
            name, (offset.size,), shape=offset.shape, axes=range(offset.ndim)
        )
    x = writer.with_factor(tensor)
    offset = x.in_memory(offset)
    if columns is not None:
        name = _of_parameters(writer, [x.in_memory(c) for c in columns], offset)
        other = writer.tensor(
            name, (offset.size,), shape=x.dims, axes=range(len(x.dims))
        ).name
    elif np.any(offset):
        other = writer.constant(offset)
    else:
        return x
    return x._replace(name=writer.node("Add", x.name, other))


def _of_parameters(writer: Writer, columns: Any, offset: np.ndarray) -> str:
    """Columns `[d, ...]` times the parameters plus an offset, as a vector."""
    if columns is None:
        columns = np.zeros((1, offset.size))
    weights = np.stack([np.ravel(column) for column in columns], axis=1)
    return writer.gemm(INPUT, weights, offset.ravel())


def _affine(
    writer: Writer, point: Callable[..., jax.Array], inputs: Sequence[_Value]
) -> _Value:
    """An affine function, of the three parts."""
    offset, push = jax.linearize(point, *(value.offset for value in inputs))
    columns = None
    if any(value.columns is not None for value in inputs):
        count = max(len(v.columns) for v in inputs if v.columns is not None)
        given = [
            np.zeros((count, *v.offset.shape)) if v.columns is None else v.columns
            for v in inputs
        ]
        columns = np.asarray(jax.vmap(push)(*given))
    tensor = _linear(writer, point, push, inputs)
    return _Value(np.asarray(offset), columns, tensor)


def _linear(
    writer: Writer,
    point: Callable[..., jax.Array],
    push: Callable[..., jax.Array],
    inputs: Sequence[_Value],
) -> Tensor | None:
    """The linear part of an affine function, of the tensors."""
    tensors = [value.tensor for value in inputs]
    if all(x is None for x in tensors):
        return None
    structs = [jax.ShapeDtypeStruct(v.offset.shape, v.offset.dtype) for v in inputs]
    step = single_steps.single(point, structs)
    found = None if step is None else linear_maps.written(writer, step, tensors)
    if found is not None:
        return found
    name = "a linear function" if step is None else step.name
    terms = []
    for number, x in enumerate(tensors):
        if x is not None:
            part = functools.partial(_of_one, push, structs, number)
            terms.append(_by_matrix(writer, part, x, name=name))
    return functools.reduce(writer.added, terms)


def _of_one(
    push: Callable[..., jax.Array],
    structs: Sequence[jax.ShapeDtypeStruct],
    number: int,
    x: jax.Array,
) -> jax.Array:
    """A linear function of several inputs where all but one are zero."""
    zeros = [jnp.zeros(struct.shape, struct.dtype) for struct in structs]
    return push(*(x if i == number else zero for i, zero in enumerate(zeros)))


def _by_matrix(
    writer: Writer, function: Callable[[jax.Array], jax.Array], x: Tensor, *, name: str
) -> Tensor:
    """A linear function as a matrix."""
    example = jax.ShapeDtypeStruct(x.shape, np.float64)
    shape = jax.eval_shape(function, example).shape
    num_in, num_out = math.prod(x.shape), math.prod(shape)
    if num_in * num_out > _MOST_WEIGHTS:
        raise UnsupportedError(
            f"There is no form for {name!r} in a network file but a matrix of "
            f"{num_out} x {num_in} numbers, which is too large."
        )
    basis = jnp.eye(num_in).reshape(num_in, *x.shape)
    weights = np.asarray(jax.vmap(function)(basis)).reshape(num_in, num_out).T
    flat = writer.arranged(x, range(len(x.shape)), (num_in,))
    made = writer.gemm(flat, x.factor * weights, None)
    return writer.tensor(made, (num_out,), shape=shape, axes=range(len(shape)))
