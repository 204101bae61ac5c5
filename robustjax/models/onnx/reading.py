"""ONNX files as parsed networks that are complete in themselves.

A file is plain or gzipped. Tensors may lie in files next to it, which are read only
from its own folder. Functions of the file are inlined, and operators that this package
does not compute are expanded where the standard defines them by others. Nothing of a
file is executed.
"""

import gzip
import pathlib
import zlib
from collections.abc import Collection, Iterator, Mapping
from typing import Any

import jax.numpy as jnp
import numpy as np

DOMAINS = ("", "ai.onnx")
_OPSETS = (7, 28)  # older sums and products broadcast by rules of their own


def library() -> Any:
    """The package onnx, with the modules that are used here.

    Raises:
        ImportError: if onnx is not installed.
    """
    try:
        import onnx.checker
        import onnx.external_data_helper
        import onnx.inliner
        import onnx.numpy_helper
        import onnx.shape_inference
    except ImportError as error:
        raise ImportError(
            "ONNX files need onnx: pip install 'robustjax[onnx]'."
        ) from error
    return onnx


def parse(path: pathlib.Path, known: Collection[str]) -> Any:
    """The content of a file that is valid by the standard.

    Args:
        path: the file.
        known: operators that need no expansion.

    Raises:
        FileNotFoundError: if there is no such file.
        ImportError: if onnx is not installed.
        ValueError: if the file is damaged, or holds what is not supported.
    """
    onnx = library()
    from google.protobuf import message  # onnx brings it along

    raw = path.read_bytes()
    try:
        plain = gzip.decompress(raw) if raw.startswith(b"\x1f\x8b") else raw
        proto = onnx.load_model_from_string(plain)
    except (message.DecodeError, gzip.BadGzipFile, zlib.error, EOFError) as error:
        raise ValueError(f"{path}: expected an ONNX file ({error}).") from error
    version(path, proto)
    _refuse_foreign(path, proto.graph, {(f.domain, f.name) for f in proto.functions})
    if proto.graph.sparse_initializer:
        raise ValueError(f"{path}: sparse tensors are not supported.")
    for tensor in _tensors(proto.graph):
        if tensor.data_location == onnx.TensorProto.EXTERNAL:
            _read_external(path, tensor)
    try:
        onnx.checker.check_model(proto)
    except onnx.checker.ValidationError as error:
        raise ValueError(f"{path}: {error}") from error
    proto = _expanded(path, proto, known)
    _refuse_foreign(path, proto.graph, set())
    return proto


def version(path: pathlib.Path, proto: Any) -> int:
    """Version of the operator set of a network.

    Raises:
        ValueError: if it is not supported.
    """
    opsets = [o.version for o in proto.opset_import if o.domain in DOMAINS]
    if len(opsets) != 1 or not _OPSETS[0] <= opsets[0] <= _OPSETS[1]:
        raise ValueError(f"{path}: expected an opset in {_OPSETS}, got {opsets}.")
    return int(opsets[0])


def constants(path: pathlib.Path, graph: Any) -> dict[str, np.ndarray]:
    """Initializers and the outputs of Constant nodes, by name.

    Raises:
        ValueError: if a constant does not hold numbers.
    """
    read = library().numpy_helper.to_array
    arrays = {tensor.name: np.asarray(read(tensor)) for tensor in graph.initializer}
    for node in graph.node:
        if node.op_type == "Constant":
            arrays[node.output[0]] = _value(path, node)
    for name, array in arrays.items():
        kind = array.dtype
        if not (
            is_floating(array) or kind.kind == "b" or jnp.issubdtype(kind, jnp.integer)
        ):
            raise ValueError(
                f"{path}: constant {name!r}: expected floats, integers or booleans, "
                f"got {array.dtype}."
            )
    return arrays


def is_floating(array: Any) -> bool:
    """Whether an array holds floating-point numbers, of any width."""
    return bool(jnp.issubdtype(array.dtype, jnp.floating))


def attributes(node: Any) -> dict[str, Any]:
    """Values of the attributes of a node, by name."""
    value = library().helper.get_attribute_value
    return {attribute.name: value(attribute) for attribute in node.attribute}


def place(path: pathlib.Path, node: Any) -> str:
    """File, name and operator of a node, for messages."""
    name = node.name or next(iter(node.output), "")
    return f"{path}: node {name!r} ({node.op_type})"


def nodes_within(graph: Any) -> Iterator[Any]:
    """All nodes of a graph, and those of the graphs in their attributes."""
    for node in graph.node:
        yield node
        for attribute in node.attribute:
            for inner in (attribute.g, *attribute.graphs):
                yield from nodes_within(inner)


def _refuse_foreign(
    path: pathlib.Path, graph: Any, functions: Collection[tuple[str, str]]
) -> None:
    """Raises ValueError for operators that are of other domains, and no functions."""
    for node in nodes_within(graph):
        is_function = (node.domain, node.op_type) in functions
        if node.domain not in DOMAINS and not is_function:
            raise ValueError(f"{place(path, node)}: foreign domain {node.domain!r}.")


def _tensors(graph: Any) -> Iterator[Any]:
    """All tensors of a graph and of the graphs within it."""
    yield from graph.initializer
    for node in graph.node:
        for attribute in node.attribute:
            yield from (attribute.t, *attribute.tensors)
            for inner in (attribute.g, *attribute.graphs):
                yield from _tensors(inner)


def _read_external(path: pathlib.Path, tensor: Any) -> None:
    """Reads the data of a tensor from a file in the folder of the network."""
    onnx = library()
    info = onnx.external_data_helper.ExternalDataInfo(tensor)
    folder = path.resolve().parent
    target = pathlib.Path(folder, info.location)
    if target.is_symlink() or folder not in target.resolve().parents:
        raise ValueError(
            f"{path}: tensor {tensor.name!r}: expected its data in a file of the same "
            f"folder, got {info.location!r}."
        )
    if not target.is_file():
        raise ValueError(
            f"{path}: tensor {tensor.name!r}: its data file {info.location!r} is "
            "missing."
        )
    try:
        onnx.external_data_helper.load_external_data_for_tensor(tensor, str(folder))
    except (ValueError, OSError, onnx.checker.ValidationError) as error:
        raise ValueError(f"{path}: tensor {tensor.name!r}: {error}") from error
    tensor.data_location = onnx.TensorProto.DEFAULT
    del tensor.external_data[:]


def _expanded(path: pathlib.Path, proto: Any, known: Collection[str]) -> Any:
    """The network with its functions inlined, and operators that are not known."""
    onnx = library()
    unknown = {
        node.op_type
        for node in nodes_within(proto.graph)
        if node.domain in DOMAINS and node.op_type not in known
    }
    defined = unknown & {
        schema.name
        for schema in onnx.defs.get_all_schemas()
        if schema.domain == "" and _has_definition(schema)
    }
    if not defined:
        return onnx.inliner.inline_local_functions(proto) if proto.functions else proto
    keep = [("", name) for name in known]
    options = {"exclude": True, "inline_schema_functions": True}
    try:
        return onnx.inliner.inline_selected_functions(_typed(proto), keep, **options)
    except (RuntimeError, TypeError):  # a type is missing, or onnx is too old for it
        raise ValueError(
            f"{path}: operators {sorted(defined)} could not be expanded into "
            "operators that are supported."
        ) from None


def _has_definition(schema: Any) -> bool:
    """Whether the standard defines an operator by other operators.

    Args:
        schema: of the operator.
    """
    return bool(schema.has_function or schema.has_context_dependent_function)


def _typed(proto: Any) -> Any:
    """The network with types of all tensors, which some definitions depend on."""
    onnx = library()
    typed = onnx.shape_inference.infer_shapes(proto)
    for tensor in typed.graph.initializer:
        kind = tensor.data_type, list(tensor.dims)
        value = onnx.helper.make_tensor_value_info(tensor.name, *kind)
        typed.graph.value_info.append(value)
    return typed


def _value(path: pathlib.Path, node: Any) -> np.ndarray:
    """The array that a Constant node holds."""
    kinds: Mapping[str, Any] = {
        "value_float": np.float32,
        "value_floats": np.float32,
        "value_int": np.int64,
        "value_ints": np.int64,
    }
    for name, value in attributes(node).items():
        if name == "value":
            return np.asarray(library().numpy_helper.to_array(value))
        if name in kinds:
            return np.asarray(value, kinds[name])
    raise ValueError(f"{place(path, node)}: its value is not supported.")
