"""What an ONNX file computes from shapes and constants is computed while it is read."""

import jax
import jax.numpy as jnp
import numpy as np
import onnx_networks
import pytest
from absl.testing import absltest, parameterized
from onnx import TensorProto, helper

_X = np.random.default_rng(0).standard_normal((3, 2, 4)).astype(np.float32)
_INDEX = {"zero": np.array(0), "axes": np.array([0]), "rest": np.array([-1])}


def _node(op_type, inputs, output="y", **attributes):
    return helper.make_node(op_type, inputs.split(), [output], output, **attributes)


def _load(nodes, constants=(), shape=("batch", 2, 4), **changes):
    return onnx_networks.load(
        onnx_networks.network(nodes, shape, dict(constants), **changes)
    )


def _branch(name, op_type):
    outputs = [helper.make_tensor_value_info(name, TensorProto.FLOAT, None)]
    return helper.make_graph([_node(op_type, "x", name)], name, [], outputs)


class FoldingTest(parameterized.TestCase):
    @pytest.mark.newest
    def test_shapes_of_a_symbolic_batch(self):
        nodes = [
            _node("Relu", "x", "a"),
            _node("Shape", "a", "lengths"),
            _node("Gather", "lengths zero", "count"),
            _node("Unsqueeze", "count axes", "first"),
            _node("Concat", "first rest", "rows", axis=0),
            _node("Reshape", "a rows"),
        ]
        model = _load(nodes, _INDEX)
        self.assertEqual(model.operators, ("Relu", "Reshape"))
        self.assertEqual(list(model.graph.constants), ["rows"])
        np.testing.assert_array_equal(model.graph.constants["rows"], [1, -1])
        self.assertEqual(model.output_shape, (8,))
        found = jax.jit(model)(_X)
        np.testing.assert_array_equal(found, np.maximum(_X, 0).reshape(3, 8))

    def test_floats_of_shapes_are_constants_and_others_are_params(self):
        nodes = [
            _node("Shape", "x", "lengths", start=2),
            _node("Cast", "lengths", "width", to=TensorProto.FLOAT),
            _node("Sqrt", "width", "root"),
            _node("Mul", "scale root", "factor"),
            _node("Mul", "x factor"),
        ]
        model = _load(nodes, {"scale": np.float32(3), "unused": np.float32(1)})
        self.assertEqual(model.operators, ("Mul", "Mul"))
        self.assertEqual(list(model.params), ["scale"])
        self.assertEqual(list(model.graph.constants), ["root"])
        with jax.enable_x64(True):
            found = jax.jit(model)(_X.astype(np.float64))
        self.assertEqual(found.dtype, jnp.float64)
        np.testing.assert_allclose(found, 6 * _X.astype(np.float64), rtol=1e-15)

    def test_floats_that_shapes_depend_on_are_constants(self):
        constants = _INDEX | {"scale": np.array([1, 2.5], np.float32)}
        constants |= {"ends": np.array([0, 1]), "one": np.array([1])}
        nodes = [
            _node("Shape", "x", "lengths", start=1),
            _node("Cast", "lengths", "floats", to=TensorProto.FLOAT),
            _node("Mul", "floats scale", "larger"),
            _node("Floor", "larger", "whole"),
            _node("Cast", "whole", "inner", to=TensorProto.INT64),
            _node("Concat", "one inner", "sizes", axis=0),
            helper.make_node("Resize", ["x", "", "", "sizes"], ["y"], "y"),
        ]
        model = _load(nodes, constants)
        self.assertEqual(model.operators, ("Resize",))
        self.assertEmpty(model.params)
        self.assertEqual(model.output_shape, (2, 10))

    @parameterized.parameters((4, "Relu"), (5, "Neg"))
    def test_branches_of_known_conditions(self, length, expected):
        nodes = [
            _node("Size", "x", "size"),
            _node("Equal", "size eight", "is_eight"),
            _node(
                "If",
                "is_eight",
                then_branch=_branch("then", "Relu"),
                else_branch=_branch("else", "Neg"),
            ),
        ]
        model = _load(nodes, {"eight": np.array(8)}, shape=(1, 2, length))
        self.assertEqual(model.operators, (expected, "Identity"))
        x = np.array([[[-1.0] * length, [2.0] * length]], np.float32)
        functions = {"Relu": np.maximum(x, 0), "Neg": -x}
        np.testing.assert_array_equal(model(x), functions[expected])

    def test_numbers_of_other_types_than_floats(self):
        nodes = [
            _node("ArgMax", "x", "index", axis=2, keepdims=1),
            _node("Mul", "index two", "twice"),
            _node("Cast", "twice", "floats", to=TensorProto.FLOAT),
            _node("Add", "x floats"),
        ]
        found = jax.jit(_load(nodes, {"two": np.array(2)}))(_X)
        expected = _X + 2 * _X.argmax(2)[..., None]
        np.testing.assert_allclose(found, expected, rtol=1e-6)

    @parameterized.parameters(
        (
            "Add",
            2**40,
            r"'y' \(Add\): expected integers of 32 bits in 'c', got .* 10995",
        ),
        ("Reshape", 1, r"'y' \(Reshape\): the shape must be a constant"),
    )
    def test_integers_that_are_computed(self, op_type, value, message):
        nodes = [_node("ArgMax", "x", "index", axis=2)]
        order = "c index" if op_type == "Add" else "x index"
        nodes.append(_node(op_type, order))
        with self.assertRaisesRegex(ValueError, f"net.onnx: node {message}"):
            _load(nodes, {"c": np.array([value])}, shape=(1, 1, 4))

    @parameterized.parameters(
        ("RandomNormal", "", {"shape": [1, 2, 4]}),
        ("RandomUniformLike", "c", {}),
        ("Dropout", "c ratio yes", {"seed": 1}),
    )
    def test_random_constants_are_not_drawn(self, op_type, inputs, attributes):
        nodes = [
            _node(op_type, inputs, "noise", **attributes),
            _node("Add", "x noise"),
        ]
        constants = {"c": np.ones((2, 4), np.float32), "ratio": np.float32(0.5)}
        constants["yes"] = np.array(True)
        with self.assertRaisesRegex(ValueError, r"net.onnx: node 'noise' .*supported"):
            _load(nodes, constants)


if __name__ == "__main__":
    absltest.main()
