"""Small ONNX networks for tests, and what onnx itself computes with them."""

import pathlib
import tempfile

import jax
import jax.numpy as jnp
import numpy as np
import onnx
from onnx import TensorProto, helper, numpy_helper
from onnx.reference import ReferenceEvaluator

from robustjax import models


def network(nodes, shape, constants, *, opset=17, **changes):
    """From "x" of a shape (with the batch axis) to "y", whose shape is not declared."""
    options = {
        "inputs": [helper.make_tensor_value_info("x", TensorProto.FLOAT, shape)],
        "outputs": [helper.make_tensor_value_info("y", TensorProto.FLOAT, ["?"])],
        "initializer": [numpy_helper.from_array(v, k) for k, v in constants.items()],
    }
    graph = helper.make_graph(nodes, "network", **options | changes)
    opsets = [helper.make_opsetid("", opset)]
    return helper.make_model(graph, opset_imports=opsets, ir_version=8)


# A small network: relu(W x + b) of inputs of 2 x 2, and five of them.
_RNG = np.random.default_rng(0)
WEIGHT = _RNG.standard_normal((3, 4)).astype(np.float32)
BIAS = _RNG.standard_normal(3).astype(np.float32)
PARAMS = {"weight": WEIGHT, "bias": BIAS}
X = _RNG.random((5, 2, 2), dtype=np.float32)


def dense(shape=(1, 2, 2), **changes):
    """The small network, or with changes of `network`."""
    nodes = [
        helper.make_node("Reshape", ["x", "shape"], ["flat"]),
        helper.make_node("Gemm", ["flat", "weight", "bias"], ["sum"], transB=1),
        helper.make_node("Relu", ["sum"], ["y"]),
    ]
    constants = PARAMS | {"shape": np.array([-1, 4])}
    return network(nodes, shape, constants, **changes)


def single(op_type, shape, *inputs, opset=17, seed=0, **attributes):
    """One operator "node": a shape as input is drawn, a list holds integers."""
    rng = np.random.default_rng(seed)
    constants, names = {}, ["x"]
    for value in inputs:
        if isinstance(value, tuple):
            value = rng.standard_normal(value).astype(np.float32)  # noqa: PLW2901
        elif isinstance(value, list):
            value = np.asarray(value, np.int64)  # noqa: PLW2901
        names.append("" if value is None else f"c{len(names)}")
        if value is not None:
            constants[names[-1]] = value
    node = helper.make_node(op_type, names, ["y"], "node", **attributes)
    return network([node], shape, constants, opset=opset)


def load(proto, *, output=None):
    """The network, by way of a file."""
    with tempfile.TemporaryDirectory() as folder:
        path = pathlib.Path(folder, "net.onnx")
        path.write_bytes(proto.SerializeToString())
        return models.load_onnx(path, output=output)


@jax.jit
def outputs(loaded, x):
    """What several networks give for x, in one program."""
    return [model(x) for model in loaded]


def reference(proto, x):
    """What onnx computes for each example of x alone."""
    evaluator = ReferenceEvaluator(proto)
    (name,) = set(evaluator.input_names) - set(evaluator.rt_inits_)
    return np.stack([evaluator.run(None, {name: example})[0] for example in x])


def in_float64(proto):
    """The same network, computing in float64."""
    proto = onnx.ModelProto.FromString(proto.SerializeToString())
    tensors = [*proto.graph.initializer]
    tensors += [
        attribute.t for node in proto.graph.node for attribute in node.attribute
    ]
    for tensor in tensors:
        if tensor.data_type == TensorProto.FLOAT:
            array = numpy_helper.to_array(tensor).astype(np.float64)
            tensor.CopyFrom(numpy_helper.from_array(array, tensor.name))
    for value in (*proto.graph.input, *proto.graph.output):
        value.type.tensor_type.elem_type = TensorProto.DOUBLE
    return proto


def assert_agree(*pairs, num_examples=3, seed=0, scale=2.0, rtol=1e-5):
    """Compares loaded networks with onnx in float32 and, to 1e-12, in float64.

    Args:
        *pairs: (model, proto); all models run in one compiled program.
        num_examples: inputs of each model.
        seed: of the inputs.
        scale: largest size of an input.
        rtol: in float32, relative to the largest output.
    """
    inputs = []
    for model, _ in pairs:
        rng = np.random.default_rng(seed)
        x = rng.uniform(-scale, scale, (num_examples, *model.graph.shape))
        inputs.append(x.astype(np.float32))
    with jax.enable_x64(True):
        found = _single_and_double(
            [
                (model, _doubled(model.params), x.reshape(-1, *model.input_shape))
                for (model, _), x in zip(pairs, inputs, strict=True)
            ]
        )
    for (model, proto), x, (single, double) in zip(pairs, inputs, found, strict=True):
        assert (single.dtype, double.dtype) == (jnp.float32, jnp.float64), proto
        assert single.shape[1:] == double.shape[1:] == model.output_shape, proto
        name = " ".join(model.operators)
        _compare(single, reference(proto, x), rtol, name)
        wide = reference(in_float64(proto), x.astype(np.float64))
        _compare(double, wide, 1e-12, name)


def _doubled(params):
    return {name: np.asarray(array, np.float64) for name, array in params.items()}


@jax.jit
def _single_and_double(networks):
    return [
        (model(x), model.apply(params, x.astype(jnp.float64)))
        for model, params, x in networks
    ]


def _compare(actual, expected, rtol, name):
    """Relative to the largest number of the result, which sums are rounded for."""
    expected = expected.reshape(actual.shape)
    scale = np.abs(expected).max(initial=1e-3)
    np.testing.assert_allclose(
        actual, expected, rtol=0, atol=rtol * scale, err_msg=name
    )
