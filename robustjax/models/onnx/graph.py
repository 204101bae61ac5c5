"""Networks of ONNX files as lists of operators that are computed one by one.

Much of an exported file computes shapes: how long an axis is, what a slice ends at.
All of it is known once the batch holds one example. It is computed here with NumPy by
the reference implementation of onnx while the file is read, as are floating-point
constants that only such values are made of. Nodes that remain depend on the input or
on the parameters, and read those values as NumPy arrays.
"""

import collections
import dataclasses
import pathlib
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from robustjax.models.onnx import operators, reading

_RANDOM = {"Bernoulli", "Dropout", "Multinomial"}
_RANDOM |= {
    f"Random{kind}{like}" for kind in ("Normal", "Uniform") for like in ("", "Like")
}


def _eye_like(x: Any, *, k: int = 0, dtype: int | None = None) -> np.ndarray:
    to_dtype = reading.library().helper.tensor_dtype_to_np_dtype
    rows, columns = x.shape
    return np.eye(rows, columns, k, x.dtype if dtype is None else to_dtype(dtype))


_OF_SHAPES: dict[
    str, Callable[..., np.ndarray]
] = {  # operators that read nothing but the shape of their input
    "EyeLike": _eye_like,
    "Shape": lambda x, start=0, end=None: np.asarray(x.shape[start:end], np.int64),
    "Size": lambda x: np.asarray(x.size, np.int64),
}


@dataclasses.dataclass(frozen=True)
class Node:
    """An operator with its attributes, and the names of what it reads and writes."""

    place: str  # file, name and operator, for messages
    op_type: str
    function: Callable[..., Any]
    inputs: tuple[str, ...]  # "" for one that is left out
    outputs: tuple[str, ...]

    def values(self, known: Mapping[str, Any], dtype: Any) -> dict[str, Any]:
        """The outputs that are computed, by name.

        Args:
            known: all values that are known.
            dtype: of the floating-point numbers.

        Raises:
            ValueError: if an input is not computed, or does not suit the operator.
        """
        for name in self.inputs:
            if name and name not in known:
                raise ValueError(f"{self.place}: input {name!r} is not computed.")
        arguments = (known[name] if name else None for name in self.inputs)
        keywords = {"dtype": dtype} if self.op_type in operators.TYPED else {}
        try:
            results = self.function(*arguments, **keywords)
        except (TypeError, ValueError, IndexError) as error:
            raise ValueError(f"{self.place}: {error}") from error
        results = results if isinstance(results, tuple) else (results,)
        return {k: v for k, v in zip(self.outputs, results, strict=False) if k}


@dataclasses.dataclass(frozen=True, eq=False)
class Graph:
    """A network for one example; known by its identity, as a function is."""

    input: str
    shape: tuple[int, ...]  # of the input, with the batch axis
    output: str
    nodes: tuple[Node, ...]
    constants: dict[str, np.ndarray]  # what does not depend on the parameters

    def __call__(self, params: Mapping[str, jax.Array], example: jax.Array) -> Any:
        """The output for one example. [device]."""
        floats = {
            name: array.astype(example.dtype)
            for name, array in self.constants.items()
            if reading.is_floating(array)
        }
        values = {**self.constants, **floats, **params}
        values[self.input] = example.reshape(self.shape)
        for node in self.nodes:
            values.update(node.values(values, example.dtype))
        return jnp.asarray(values[self.output])


def fold(
    path: pathlib.Path,
    proto: Any,
    *,
    source: tuple[str, tuple[int, ...]],
    to: str,
) -> tuple[Graph, dict[str, np.ndarray], tuple[int, ...]]:
    """A parsed network up to a tensor, with what depends on no input computed.

    Args:
        path: the file, for messages.
        proto: its content.
        source: name and shape of the input.
        to: name of the tensor to compute.

    Returns:
        The network, its parameters by name, and the shape of the tensor.

    Raises:
        ValueError: if a node is not supported, or the tensor is not computed.
    """
    name, shape = source
    arrays = reading.constants(path, proto.graph)
    wanted = _wanted(proto.graph, name)
    constants = {
        k: v for k, v in arrays.items() if k in wanted or not reading.is_floating(v)
    }
    params = {k: v for k, v in arrays.items() if k not in constants}
    folder = _Folder(path, reading.version(path, proto), to)

    def run(traced: Mapping[str, Any], example: Any) -> Any:
        values = {**constants, **traced, name: example}
        folder.compute(proto.graph.node, values)
        if to not in values or to == name:
            raise ValueError(f"{path}: output {to!r} is not computed.")
        constants.update({k: v for k, v in values.items() if isinstance(v, np.ndarray)})
        return jnp.asarray(values[to])

    like = {k: jax.ShapeDtypeStruct(v.shape, jnp.float32) for k, v in params.items()}
    result = jax.eval_shape(run, like, jax.ShapeDtypeStruct(shape, jnp.float32))
    nodes = _needed(folder.live, to)
    read = {to}.union(*(node.inputs for node in nodes))
    graph = Graph(
        input=name,
        shape=shape,
        output=to,
        nodes=nodes,
        constants={k: v for k, v in constants.items() if k in read},
    )
    return graph, {k: v for k, v in params.items() if k in read}, result.shape


@dataclasses.dataclass(frozen=True)
class _Folder:
    """Computes the values of nodes, and lists those that have to be computed later."""

    path: pathlib.Path
    opset: int
    to: str  # the tensor after which nothing is computed
    live: list[Node] = dataclasses.field(default_factory=list)

    def compute(self, nodes: Sequence[Any], values: dict[str, Any]) -> None:
        """Adds the outputs of all nodes to the values."""
        waiting = collections.deque(nodes)
        while waiting and self.to not in values:
            node = waiting.popleft()
            read = [name for name in node.input if name]
            is_known = all(isinstance(values.get(k), np.ndarray) for k in read)
            if node.op_type == "Constant":
                continue
            if node.op_type == "If" and is_known:
                waiting.extendleft(reversed(self._branch(node, values)))
            elif node.op_type in _OF_SHAPES and read[0] in values:
                count, options = _OF_SHAPES[node.op_type], reading.attributes(node)
                values[node.output[0]] = count(values[read[0]], **options)
            elif is_known and node.op_type not in _RANDOM:
                values.update(self._constant(node, values))
            else:
                self.live.append(self._node(node))
                _check_width(self.live[-1], values)
                values.update(self.live[-1].values(values, jnp.float32))

    def _branch(self, node: Any, values: dict[str, Any]) -> list[Any]:
        """The nodes of the branch that a known condition chooses."""
        is_true = values[node.input[0]].item()
        branch = reading.attributes(node)["then_branch" if is_true else "else_branch"]
        values.update(reading.constants(self.path, branch))
        make = reading.library().helper.make_node
        names = zip(branch.output, node.output, strict=True)
        ends = [make("Identity", [inner.name], [outer]) for inner, outer in names]
        return [*branch.node, *ends]

    def _constant(self, node: Any, values: Mapping[str, Any]) -> dict[str, np.ndarray]:
        """The outputs of a node whose inputs are constants."""
        from onnx.reference import ReferenceEvaluator

        feeds = {name: values[name] for name in node.input if name}
        try:
            evaluator = ReferenceEvaluator(node, opsets={"": self.opset})
            results = evaluator.run(None, feeds)
        except Exception as error:  # of any kind: it runs the operator
            where = reading.place(self.path, node)
            raise ValueError(f"{where}: {error}") from error
        found = zip([name for name in node.output if name], results, strict=False)
        return {name: np.asarray(value) for name, value in found}

    def _node(self, node: Any) -> Node:
        where = reading.place(self.path, node)
        if node.op_type == "BatchNormalization" and len(node.output) > 1:
            raise ValueError(f"{where}: outputs of training are not supported.")
        try:
            function = operators.bind(
                node.op_type,
                reading.attributes(node),
                opset=self.opset,
                num_outputs=len(node.output),
            )
        except ValueError as error:
            raise ValueError(f"{where}: {error}") from None
        names = tuple(node.input), tuple(node.output)
        return Node(where, node.op_type, function, *names)


def _wanted(graph: Any, source: str) -> set[str]:
    """Names of tensors that have to be constants, and of all they are made of."""
    nodes = list(graph.node)
    dependent = {source}
    for node in nodes:
        if node.op_type not in _OF_SHAPES and dependent.intersection(node.input):
            dependent.update(node.output)
    wanted: set[str] = set()
    for node in reading.nodes_within(graph):
        positions = operators.CONSTANT_INPUTS.get(node.op_type, ())
        found = {node.input[i] for i in positions if i < len(node.input)}
        wanted |= found - dependent - {""}
    for node in reversed(nodes):
        if node.op_type not in _OF_SHAPES and wanted.intersection(node.output):
            wanted |= set(node.input) - {""}
    return wanted


def _needed(nodes: Sequence[Node], output: str) -> tuple[Node, ...]:
    """The nodes that an output depends on."""
    wanted, needed = {output}, []
    for node in reversed(nodes):
        if wanted.intersection(node.outputs):
            needed.append(node)
            wanted.update(node.inputs)
    return tuple(reversed(needed))


def _check_width(node: Node, values: Mapping[str, Any]) -> None:
    """Raises ValueError for integers that a computation in 32 bits would change."""
    positions = operators.CONSTANT_INPUTS.get(node.op_type, ())
    limits = np.iinfo(np.int32)
    for position, name in enumerate(node.inputs):
        array = values.get(name)
        if position in positions or not isinstance(array, np.ndarray):
            continue
        if array.dtype.kind in "iu" and array.size:
            low, high = int(array.min()), int(array.max())
            if low < limits.min or high > limits.max:
                raise ValueError(
                    f"{node.place}: expected integers of 32 bits in {name!r}, got "
                    f"values in [{low}, {high}]."
                )
