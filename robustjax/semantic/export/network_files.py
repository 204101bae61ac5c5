"""Networks of `onnx_nodes` as files.

Constants that are added to a Gemm or Conv become its biases if they are alike at all
places. Others are written as a Gemm of the parameters with zero weights, so that no
operator adds a constant: Marabou 2.0 does so by changing the equation of what it is
added to, which may have other uses, and auto_LiRPA takes the first axis for a batch.
"""

import collections
import pathlib
from collections.abc import Sequence
from typing import Any

import numpy as np

from robustjax.semantic.export.onnx_nodes import INPUT, OUTPUT, Node, Writer

_OPSET, _IR_VERSION = 13, 8  # of 2020, which verifiers read


def library() -> Any:
    """The package onnx. [host].

    Raises:
        ImportError: if it is not installed.
    """
    try:
        import onnx.checker
        import onnx.helper
        import onnx.numpy_helper
    except ImportError as error:
        raise ImportError(
            "ONNX files need onnx: pip install 'robustjax[onnx]'."
        ) from error
    return onnx


def save(
    writer: Writer,
    result: str,
    path: pathlib.Path,
    *,
    num_parameters: int,
    num_outputs: int,
) -> tuple[str, ...]:
    """Writes a network. [host].

    Args:
        writer: holds the nodes.
        result: the name of the output.
        path: the file.
        num_parameters: length of the input.
        num_outputs: length of the output.

    Returns:
        The kinds of its operators, sorted.
    """
    onnx = library()
    writer.nodes = _needed(writer.nodes, result)
    _with_biases(writer)
    _with_variables(writer, num_parameters)
    nodes = [_renamed(node, result) for node in writer.nodes]
    used = {name for node in nodes for name in node.inputs}
    real = onnx.TensorProto.FLOAT
    made = [
        onnx.helper.make_node(
            n.kind, n.inputs, [n.output], name=n.output, **n.attributes
        )
        for n in nodes
    ]
    graph = onnx.helper.make_graph(
        made,
        "semantic",
        [onnx.helper.make_tensor_value_info(INPUT, real, [1, num_parameters])],
        [onnx.helper.make_tensor_value_info(OUTPUT, real, [1, num_outputs])],
        [
            onnx.numpy_helper.from_array(array, name)
            for name, array in writer.constants.items()
            if name in used
        ],
    )
    model = onnx.helper.make_model(
        graph,
        opset_imports=[onnx.helper.make_opsetid("", _OPSET)],
        ir_version=_IR_VERSION,
        producer_name="robustjax",
    )
    onnx.checker.check_model(model, full_check=True)
    path.write_bytes(model.SerializeToString())
    return tuple(sorted({node.kind for node in nodes}))


def _needed(nodes: Sequence[Node], result: str) -> list[Node]:
    """The nodes that the result depends on."""
    needed, kept = {result}, []
    for node in reversed(nodes):
        if node.output in needed:
            needed.update(node.inputs)
            kept.append(node)
    return kept[::-1]


def _renamed(node: Node, result: str) -> Node:
    names = [OUTPUT if name == result else name for name in node.inputs]
    output = OUTPUT if node.output == result else node.output
    return node._replace(inputs=tuple(names), output=output)


def _with_biases(writer: Writer) -> None:
    """Turns sums of a Gemm or Conv and a constant, alike at all places, into biases."""
    uses, made = _uses(writer), {node.output: node for node in writer.nodes}
    for node in list(writer.nodes):
        source = made.get(node.inputs[0])
        if source is None or uses[source.output] > 1 or not _adds(writer, node):
            continue
        constant = writer.constants[node.inputs[1]]
        biases = constant.reshape(len(constant), -1)
        has_none = source.kind == "Conv" and len(source.inputs) == 2
        if np.any(biases != biases[:, :1]) or not (has_none or source.kind == "Gemm"):
            continue
        total = biases[:, 0]
        if not has_none:
            total = total + writer.constants[source.inputs[2]]
        inputs = (*source.inputs[:2], writer.constant(total))
        made[node.output] = source._replace(inputs=inputs, output=node.output)
        del made[source.output]
    writer.nodes = [made[n.output] for n in writer.nodes if n.output in made]


def _with_variables(writer: Writer, num_parameters: int) -> None:
    """Turns other sums with constants into sums of two variables."""
    nodes, writer.nodes = writer.nodes, []
    for node in nodes:
        if not _adds(writer, node):
            writer.nodes.append(node)
            continue
        constant = writer.constants[node.inputs[1]]
        zeros = np.zeros((constant.size, num_parameters))
        name = writer.gemm(INPUT, zeros, constant.ravel())
        other = writer.reshaped(name, (constant.size,), constant.shape)
        writer.nodes.append(node._replace(inputs=(node.inputs[0], other)))


def _adds(writer: Writer, node: Node) -> bool:
    """Whether a node adds a constant."""
    return node.kind == "Add" and node.inputs[1] in writer.constants


def _uses(writer: Writer) -> collections.Counter[str]:
    return collections.Counter(name for node in writer.nodes for name in node.inputs)
