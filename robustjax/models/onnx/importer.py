"""Networks in ONNX files as pure JAX functions.

A file describes a network for a batch of fixed size, mostly one. It is evaluated just
so, on a batch of one example, and `jax.vmap` makes of that a function of many: what a
network does to its batch axis (reshape, flatten, squeeze) keeps its meaning.

Files are only parsed. Functions and operators of other domains raise an error, and
so does data outside the file.
"""

import dataclasses
import gzip
import os
import pathlib
import zlib
from collections.abc import Mapping
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from robustjax.models.onnx import operators

_DOMAINS = ("", "ai.onnx")
_OPSETS = (7, 28)  # older sums and products broadcast by rules of their own
_STATIC = {"static": True}


@dataclasses.dataclass(frozen=True)
class _Node:
    """An operator with its attributes, and the names of what it reads and writes."""

    place: str  # file, name and operator, for messages
    function: Any
    inputs: tuple[str, ...]  # "" for one that is left out
    output: str

    def value(self, values: Mapping[str, Any]) -> Any:
        """The output, from all values that are known."""
        for name in self.inputs:
            if name and name not in values:
                raise ValueError(f"{self.place}: input {name!r} is not computed.")
        try:
            return self.function(*(values[n] if n else None for n in self.inputs))
        except (TypeError, ValueError, IndexError) as error:
            raise ValueError(f"{self.place}: {error}") from error


@dataclasses.dataclass(frozen=True, eq=False)
class _Graph:
    """A network for one example; known by its identity, as a function is."""

    input: str
    shape: tuple[int, ...]  # of the input, with the batch axis
    output: str
    nodes: tuple[_Node, ...]
    integers: dict[str, np.ndarray]  # constants that give shapes, axes and the like

    def __call__(self, params: Mapping[str, jax.Array], example: jax.Array) -> Any:
        values = {**self.integers, **params, self.input: example.reshape(self.shape)}
        for node in self.nodes:
            values[node.output] = node.value(values)
        return values[self.output]


@jax.tree_util.register_dataclass
@dataclasses.dataclass(frozen=True, eq=False)
class OnnxModel:
    """A network from an ONNX file: call it as `model(x)` or `model.apply(params, x)`.

    Also a pytree, with the arrays of `params` as leaves.
    """

    params: dict[str, jax.Array] = dataclasses.field(repr=False)  # float32
    input_shape: tuple[int, ...] = dataclasses.field(metadata=_STATIC)  # of one example
    output_shape: tuple[int, ...] = dataclasses.field(metadata=_STATIC)  # of one
    operators: tuple[str, ...] = dataclasses.field(metadata=_STATIC)  # in their order
    graph: _Graph = dataclasses.field(metadata=_STATIC, repr=False)

    def __call__(self, x: jax.Array) -> jax.Array:
        """The network with its own params, see `apply`. [device]."""
        return self.apply(self.params, x)

    def apply(self, params: Mapping[str, jax.Array], x: jax.Array) -> jax.Array:
        """The network with given params, such as its own in float64.

        [device] Pure and jittable. It computes in the widest dtype of params and x,
        with matrix products and convolutions in full precision.

        Args:
            params: arrays with the names and shapes of those in `self.params`.
            x: `[n, *input_shape]` floats. Their range is the network's, not always
                [0, 1]: put the normalisation it was trained with in front.

        Returns:
            `[n, *output_shape]`, the logits `[n, k]` of a classifier.

        Raises:
            ValueError: if x has another shape or holds integers, or params other names.
        """
        x = jnp.asarray(x)
        if x.shape[1:] != self.input_shape or not jnp.issubdtype(x.dtype, jnp.floating):
            raise ValueError(
                f"Expected x as floats of shape [n, *{self.input_shape}], "
                f"got {x.dtype} of {x.shape}."
            )
        if params.keys() != self.params.keys():
            names = ", ".join(sorted(params.keys() ^ self.params.keys()))
            raise ValueError(f"Params differ from those of the file in: {names}.")
        dtype = jnp.result_type(x, *params.values())
        cast = {name: jnp.asarray(array, dtype) for name, array in params.items()}

        def one(example: jax.Array) -> jax.Array:
            return self.graph(cast, example).reshape(self.output_shape)

        return jax.vmap(one)(x.astype(dtype))

    @property
    def apply_fn(self) -> jax.tree_util.Partial:
        """The network as a `Partial` with its params as leaves, for all methods."""
        return jax.tree_util.Partial(self.apply, self.params)


def load_onnx(path: str | os.PathLike[str]) -> OnnxModel:
    """Reads a network from an ONNX file, plain or gzipped.

    [host] The network has one input and one output, of float32. If the first of several
    axes of either has length 1 or a symbolic one, it is the batch and is left out of
    the shapes. All other lengths must be in the file. Dropout and batch normalisation
    are those of inference.

    Args:
        path: the file; the version of its operator set is in [7, 28].

    Returns:
        The network, with its params on the default device.

    Raises:
        FileNotFoundError: if there is no such file.
        ImportError: if onnx is not installed.
        ValueError: if the file is damaged or holds what is not supported. The text
            names the file, and the node with its operator.

    Example:
        >>> import tempfile
        >>> from onnx import parser
        >>> text = '<ir_version: 8, opset_import: ["": 17]> relu (float[1,3] x) => '
        >>> net = parser.parse_model(text + "(float[1,3] y) { y = Relu(x) }")
        >>> with tempfile.NamedTemporaryFile() as file:
        ...     _ = file.write(net.SerializeToString()), file.flush()
        ...     model = load_onnx(file.name)
        >>> model(jnp.array([[-1.0, 0.0, 2.0]])).tolist()
        [[0.0, 0.0, 2.0]]
    """
    path = pathlib.Path(path)
    proto = _parse(path)
    constants = _constants(path, proto.graph)
    params = {k: jnp.asarray(v) for k, v in constants.items() if v.dtype == np.float32}
    (opset,) = (o.version for o in proto.opset_import if o.domain in _DOMAINS)
    source, shape = _input(path, proto.graph, constants)
    graph = _Graph(
        input=source,
        shape=shape,
        output=_output(path, proto.graph),
        nodes=tuple(
            _node(path, node, opset)
            for node in proto.graph.node
            if node.op_type != "Constant"
        ),
        integers={k: v for k, v in constants.items() if k not in params},
    )
    result = jax.eval_shape(graph, params, jax.ShapeDtypeStruct(shape, jnp.float32))
    return OnnxModel(
        params=params,
        input_shape=_of_one_example(shape),
        output_shape=_of_one_example(result.shape),
        operators=tuple(node.op_type for node in proto.graph.node),
        graph=graph,
    )


def _library() -> Any:
    """The package onnx, with the modules that are used here."""
    try:
        import onnx.checker
        import onnx.numpy_helper
    except ImportError as error:
        raise ImportError(
            "ONNX files need onnx: pip install 'robustjax[onnx]'."
        ) from error
    return onnx


def _parse(path: pathlib.Path) -> Any:
    """The content of a file that is valid by the standard and complete in itself."""
    onnx = _library()
    from google.protobuf import message  # onnx brings it along

    raw = path.read_bytes()
    try:
        plain = gzip.decompress(raw) if raw.startswith(b"\x1f\x8b") else raw
        proto = onnx.load_model_from_string(plain)
    except (message.DecodeError, gzip.BadGzipFile, zlib.error, EOFError) as error:
        raise ValueError(f"{path}: expected an ONNX file ({error}).") from error
    _refuse_foreign_parts(path, proto)
    try:
        onnx.checker.check_model(proto)
    except onnx.checker.ValidationError as error:
        raise ValueError(f"{path}: {error}") from error
    return proto


def _refuse_foreign_parts(path: pathlib.Path, proto: Any) -> None:
    """Raises ValueError for data in other files and for operators of other domains."""
    graph = proto.graph
    external = _library().TensorProto.EXTERNAL
    tensors = [*graph.initializer, *(a.t for n in graph.node for a in n.attribute)]
    for tensor in tensors:
        if tensor.data_location == external:
            raise ValueError(f"{path}: tensor {tensor.name!r} is in another file.")
    for node in graph.node:
        if node.domain not in _DOMAINS:
            raise ValueError(f"{_place(path, node)}: foreign domain {node.domain!r}.")
    if proto.functions or graph.sparse_initializer:
        raise ValueError(f"{path}: functions and sparse tensors are not supported.")
    opsets = [o.version for o in proto.opset_import if o.domain in _DOMAINS]
    if len(opsets) != 1 or not _OPSETS[0] <= opsets[0] <= _OPSETS[1]:
        raise ValueError(f"{path}: expected an opset in {_OPSETS}, got {opsets}.")


def _constants(path: pathlib.Path, graph: Any) -> dict[str, np.ndarray]:
    """Initializers and the outputs of Constant nodes, by name."""
    read = _library().numpy_helper.to_array
    arrays = {tensor.name: read(tensor) for tensor in graph.initializer}
    for node in graph.node:
        if node.op_type == "Constant":
            arrays[node.output[0]] = _value(path, node)
    for name, array in arrays.items():
        if array.dtype != np.float32 and array.dtype.kind not in "iub":
            raise ValueError(
                f"{path}: constant {name!r}: expected float32, got {array.dtype}."
            )
    return arrays


def _value(path: pathlib.Path, node: Any) -> np.ndarray:
    """The array that a Constant node holds."""
    for name, value in _attributes(node).items():
        if name == "value":
            return _library().numpy_helper.to_array(value)
        if name in ("value_float", "value_floats"):
            return np.asarray(value, np.float32)
        if name in ("value_int", "value_ints"):
            return np.asarray(value, np.int64)
    raise ValueError(f"{_place(path, node)}: its value is not supported.")


def _input(
    path: pathlib.Path, graph: Any, constants: Mapping[str, np.ndarray]
) -> tuple[str, tuple[int, ...]]:
    """Name and shape of the input, a batch of one example."""
    sources = [value for value in graph.input if value.name not in constants]
    if len(sources) != 1 or len(graph.output) != 1:
        counts = f"{len(sources)} and {len(graph.output)}"
        raise ValueError(f"{path}: expected one input and one output, got {counts}.")
    name, tensor = sources[0].name, sources[0].type.tensor_type
    if tensor.elem_type != _library().TensorProto.FLOAT or not tensor.HasField("shape"):
        raise ValueError(f"{path}: expected input {name!r} as float32 with a shape.")
    shape = [axis.dim_value for axis in tensor.shape.dim]  # 0 where it is symbolic
    if len(shape) > 1 and shape[0] < 1:
        shape[0] = 1
    if not all(length > 0 for length in shape):
        raise ValueError(
            f"{path}: expected input {name!r} of fixed shape, got {shape}."
        )
    return name, tuple(shape)


def _output(path: pathlib.Path, graph: Any) -> str:
    """Name of the output: the first one of some node, the others are not computed."""
    name = graph.output[0].name
    if name not in {node.output[0] for node in graph.node}:
        raise ValueError(f"{path}: output {name!r} is not computed.")
    return name


def _of_one_example(shape: tuple[int, ...]) -> tuple[int, ...]:
    """The shape without the batch axis, if there is one."""
    return shape[1:] if len(shape) > 1 and shape[0] == 1 else shape


def _attributes(node: Any) -> dict[str, Any]:
    value = _library().helper.get_attribute_value
    return {attribute.name: value(attribute) for attribute in node.attribute}


def _place(path: pathlib.Path, node: Any) -> str:
    name = node.name or next(iter(node.output), "")
    return f"{path}: node {name!r} ({node.op_type})"


def _node(path: pathlib.Path, node: Any, opset: int) -> _Node:
    place = _place(path, node)
    if node.op_type == "BatchNormalization" and len(node.output) > 1:
        raise ValueError(f"{place}: outputs of training are not supported.")
    try:
        function = operators.bind(node.op_type, _attributes(node), opset=opset)
    except ValueError as error:
        raise ValueError(f"{place}: {error}") from None
    return _Node(place, function, tuple(node.input), node.output[0])
