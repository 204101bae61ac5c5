"""Networks in ONNX files as pure JAX functions.

A file describes a network for a batch of fixed size, mostly one. It is evaluated just
so, on a batch of one example, and `jax.vmap` makes of that a function of many: what a
network does to its batch axis (reshape, flatten, squeeze) keeps its meaning.

Numbers of all floating-point types are computed in one type, that of `apply`. Casts
between them are therefore left out, and numbers of 16 bits are widened, which changes
none of them.
"""

import dataclasses
import os
import pathlib
from collections.abc import Mapping
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from robustjax.models.onnx import graph as graphs
from robustjax.models.onnx import operators, reading

_STATIC = {"static": True}


@jax.tree_util.register_dataclass
@dataclasses.dataclass(frozen=True, eq=False)
class OnnxModel:
    """A network from an ONNX file: call it as `model(x)` or `model.apply(params, x)`.

    Also a pytree, with the arrays of `params` as leaves.
    """

    params: dict[str, jax.Array] = dataclasses.field(repr=False)  # float32 or float64
    input_shape: tuple[int, ...] = dataclasses.field(metadata=_STATIC)  # of one example
    output_shape: tuple[int, ...] = dataclasses.field(metadata=_STATIC)  # of one
    operators: tuple[str, ...] = dataclasses.field(metadata=_STATIC)  # in their order
    graph: graphs.Graph = dataclasses.field(metadata=_STATIC, repr=False)

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


def load_onnx(path: str | os.PathLike[str], *, output: str | None = None) -> OnnxModel:
    """Reads a network from an ONNX file, plain or gzipped.

    [host] The network has one input of floats. If the first of several axes of the
    input or the output has length 1 or a symbolic one, it is the batch and is left out
    of the shapes. All other lengths must be in the file. Dropout and batch
    normalisation are those of inference. Shapes and what is made of them are computed
    while the file is read, with NumPy.

    All floating-point numbers are computed in one type, see `OnnxModel.apply`, and
    casts between such types are left out. Weights of 16 bits become float32. Weights of
    float64 stay NumPy arrays of float64 in `params`; they are rounded to float32
    wherever JAX computes in 32 bits. Data of tensors may be in other files of the same
    folder.

    Args:
        path: the file; the version of its operator set is in [7, 28].
        output: name of the tensor to compute, an output of the network or any tensor
            within. None for the only output.

    Returns:
        The network, with its params on the default device.

    Raises:
        FileNotFoundError: if there is no such file.
        ImportError: if onnx is not installed.
        ValueError: if the file is damaged, holds what is not supported, or has several
            outputs and none is named. The text names the file, and the node with its
            operator.

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
    proto = reading.parse(path, operators.names())
    source, shape = _input(path, proto.graph)
    output = _output(path, proto.graph) if output is None else output
    graph, arrays, result = graphs.fold(path, proto, source=(source, shape), to=output)
    return OnnxModel(
        params={name: _param(array) for name, array in arrays.items()},
        input_shape=_of_one_example(shape),
        output_shape=_of_one_example(result),
        operators=tuple(node.op_type for node in graph.nodes),
        graph=graph,
    )


def _input(path: pathlib.Path, graph: Any) -> tuple[str, tuple[int, ...]]:
    """Name and shape of the input, a batch of one example."""
    stored = {tensor.name for tensor in graph.initializer}
    sources = [value for value in graph.input if value.name not in stored]
    if len(sources) != 1:
        names = [value.name for value in sources]
        raise ValueError(f"{path}: expected one input, got {len(sources)}: {names}.")
    name, tensor = sources[0].name, sources[0].type.tensor_type
    kinds = reading.library().TensorProto
    floats = (kinds.FLOAT, kinds.DOUBLE, kinds.FLOAT16, kinds.BFLOAT16)
    if tensor.elem_type not in floats or not tensor.HasField("shape"):
        raise ValueError(f"{path}: expected input {name!r} as floats with a shape.")
    shape = [axis.dim_value for axis in tensor.shape.dim]  # 0 where it is symbolic
    if len(shape) > 1 and shape[0] < 1:
        shape[0] = 1
    if not all(length > 0 for length in shape):
        raise ValueError(
            f"{path}: expected input {name!r} of fixed shape, got {shape}."
        )
    return name, tuple(shape)


def _output(path: pathlib.Path, graph: Any) -> str:
    """Name of the only output."""
    names = [value.name for value in graph.output]
    if len(names) != 1:
        raise ValueError(
            f"{path}: expected one output or the argument output, got {len(names)} "
            f"outputs: {names}."
        )
    return str(names[0])


def _param(array: np.ndarray) -> Any:
    """A parameter in the type it is kept in."""
    return array if array.dtype == np.float64 else jnp.asarray(array, jnp.float32)


def _of_one_example(shape: tuple[int, ...]) -> tuple[int, ...]:
    """The shape without the batch axis, if there is one."""
    return shape[1:] if len(shape) > 1 and shape[0] == 1 else shape
