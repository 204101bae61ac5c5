"""Tests for ONNX files: their tensors, functions and outputs, and what is rejected."""

import gzip
import pathlib
import sys
import tempfile
from unittest import mock

import chex
import jax
import jax.numpy as jnp
import numpy as np
import onnx_networks
import pytest
from absl.testing import absltest, parameterized
from onnx import TensorProto, helper, numpy_helper

from robustjax import models

_RNG = np.random.default_rng(0)
_WEIGHT, _BIAS, _X = onnx_networks.WEIGHT, onnx_networks.BIAS, onnx_networks.X
_dense = onnx_networks.dense


def _value(name, shape, kind=TensorProto.FLOAT):
    return helper.make_tensor_value_info(name, kind, shape)


class FileTest(parameterized.TestCase):
    def setUp(self):
        super().setUp()
        folder = self.enterContext(tempfile.TemporaryDirectory())
        self.path = pathlib.Path(folder, "net.onnx")

    def load(self, content):
        self.path.write_bytes(content)
        return models.load_onnx(str(self.path))

    def test_gzip_is_known_by_content(self):
        packed = self.load(gzip.compress(_dense().SerializeToString()))
        onnx_networks.assert_agree((packed, _dense()))

    def test_constants_are_nodes_or_initializers_also_listed_as_inputs(self):
        nodes = [
            helper.make_node(
                "Constant", [], ["w"], value=numpy_helper.from_array(_BIAS)
            ),
            helper.make_node("Constant", [], ["half"], value_float=0.5),
            helper.make_node("Constant", [], ["list"], value_floats=[1.0, 2.0, 4.0]),
            helper.make_node("Constant", [], ["axes"], value_ints=[0]),
            helper.make_node("Constant", [], ["length"], value_int=3),
            helper.make_node("Mul", ["x", "w"], ["a"]),
            helper.make_node("Mul", ["a", "half"], ["b"]),
            helper.make_node("Add", ["b", "list"], ["c"]),
            helper.make_node("Add", ["c", "bias"], ["d"]),
            helper.make_node("Identity", ["length"], ["shape"]),
            helper.make_node("Unsqueeze", ["d", "axes"], ["e"]),
            helper.make_node("Reshape", ["e", "shape"], ["y"]),
        ]
        inputs = [_value("x", (1, 3)), _value("bias", (3,))]
        constants = {"bias": _BIAS}
        proto = onnx_networks.network(nodes, None, constants, inputs=inputs)
        model = onnx_networks.load(proto)
        self.assertEqual(sorted(model.params), ["bias", "half", "list", "w"])
        x = _RNG.random((4, 3), dtype=np.float32)
        expected = x * _BIAS / 2 + np.array([[1, 2, 4]]) + _BIAS
        np.testing.assert_allclose(jax.jit(model)(x), expected, rtol=1e-5, atol=1e-6)

    def test_unused_second_outputs_do_no_harm(self):
        nodes = [
            helper.make_node("Dropout", ["x"], ["a", "mask"]),
            helper.make_node("MaxPool", ["a"], ["y", "which"], kernel_shape=[2]),
        ]
        model = onnx_networks.load(onnx_networks.network(nodes, (1, 1, 4), {}))
        actual = jax.jit(model)(np.array([[[1.0, 3.0, 2.0, 0.0]]], np.float32))
        np.testing.assert_array_equal(actual, [[[3, 3, 2]]])

    @parameterized.named_parameters(
        ("empty", b"", "expected an opset"),
        ("text", b"no protobuf at all", "expected an ONNX file"),
        (
            "cut",
            _dense().SerializeToString()[:-9],
            "expected an ONNX file",
        ),
        ("cut_gzip", gzip.compress(b"x" * 99)[:-9], "expected an ONNX file"),
        (
            "opset",
            _dense(opset=6).SerializeToString(),
            r"expected an opset in \(7, 28\), got \[6\]",
        ),
        (
            "future",
            _dense(opset=99).SerializeToString(),
            r"expected .* got \[99\]",
        ),
    )
    def test_damaged_files_are_named(self, content, message):
        with self.assertRaisesRegex(ValueError, f"net.onnx: {message}"):
            self.load(content)

    def test_missing_file_and_missing_package(self):
        with self.assertRaisesRegex(FileNotFoundError, "net.onnx"):
            models.load_onnx(self.path)
        with (
            mock.patch.dict(sys.modules, {"onnx": None, "onnx.checker": None}),
            self.assertRaisesRegex(ImportError, r"pip install 'robustjax\[onnx\]'"),
        ):
            models.load_onnx(self.path)

    def test_functions_of_the_file_are_inlined(self):
        twice = helper.make_function(
            "org",
            "twice",
            ["a"],
            ["b"],
            [helper.make_node("Add", ["a", "a"], ["b"])],
            [helper.make_opsetid("", 17)],
        )
        proto = _dense()
        proto.graph.node[0].input[0] = "doubled"
        node = helper.make_node("twice", ["x"], ["doubled"], domain="org")
        proto.graph.node.insert(0, node)
        proto.functions.append(twice)
        proto.opset_import.append(helper.make_opsetid("org", 1))
        model = self.load(proto.SerializeToString())
        self.assertEqual(model.operators, ("Add", "Reshape", "Gemm", "Relu"))
        expected = np.maximum(2 * _X.reshape(5, 4) @ _WEIGHT.T + _BIAS, 0)
        np.testing.assert_allclose(jax.jit(model)(_X), expected, rtol=1e-5, atol=1e-6)

    def test_operators_are_expanded_where_the_standard_defines_them(self):
        shape = (1, 2, 3, 4)  # example, head, place, feature
        nodes = [helper.make_node("Attention", ["x", "x", "x"], ["y"])]
        model = onnx_networks.load(onnx_networks.network(nodes, shape, {}, opset=23))
        self.assertContainsSubset(("MatMul", "Softmax"), model.operators)
        x = _RNG.standard_normal((5, *shape[1:])).astype(np.float32)
        scores = x @ x.swapaxes(2, 3) / 2
        weights = np.exp(scores) / np.exp(scores).sum(-1, keepdims=True)
        np.testing.assert_allclose(jax.jit(model)(x), weights @ x, rtol=1e-5, atol=1e-6)

    def test_sparse_tensors_are_refused(self):
        proto = _dense()
        proto.graph.sparse_initializer.add()
        with self.assertRaisesRegex(ValueError, "net.onnx: sparse tensors are not"):
            self.load(proto.SerializeToString())

    def external(self, location, *, written=None):
        """The dense network, its weight in another file."""
        folder = self.path.parent
        folder.joinpath(written or location).write_bytes(_WEIGHT.tobytes())
        proto = _dense()
        tensor = proto.graph.initializer[0]
        tensor.ClearField("raw_data")
        tensor.data_location = TensorProto.EXTERNAL
        tensor.external_data.add(key="location", value=location)
        return self.load(proto.SerializeToString())

    def test_data_in_other_files_of_the_folder(self):
        model = self.external("weights.bin")
        chex.assert_trees_all_equal(model.params, onnx_networks.PARAMS)

    def test_data_elsewhere_are_refused(self):
        with tempfile.TemporaryDirectory() as elsewhere:
            secret = pathlib.Path(elsewhere, "secret")
            secret.write_bytes(_WEIGHT.tobytes())
            self.path.with_name("link").symlink_to(secret)
            above = f"../{secret.parent.name}/secret"
            for location in (str(secret), above, "link"):
                message = f"'weight': expected its data .* got '{location}'"
                with self.assertRaisesRegex(ValueError, message):
                    self.external(location, written="other")
        with self.assertRaisesRegex(ValueError, "data file 'none' is missing"):
            self.external("none", written="other")
        with self.assertRaisesRegex(ValueError, "net.onnx: .*weight"):
            self.path.with_name("short").write_bytes(b"12")
            self.external("short", written="other")

    @pytest.mark.newest
    def test_outputs_by_name(self):
        outputs = [_value("y", (1, 3)), _value("sum", (1, 3))]
        self.path.write_bytes(_dense(outputs=outputs).SerializeToString())
        loaded = {
            name: models.load_onnx(self.path, output=name)
            for name in ("y", "sum", "flat")
        }
        self.assertEqual(loaded["flat"].operators, ("Reshape",))
        self.assertEmpty(loaded["flat"].params)
        rows = _X.reshape(5, 4)
        totals = rows @ _WEIGHT.T + _BIAS
        expected = {"y": np.maximum(totals, 0), "sum": totals, "flat": rows}
        found = onnx_networks.outputs(list(loaded.values()), _X)
        for name, value in zip(loaded, found, strict=True):
            np.testing.assert_allclose(value, expected[name], rtol=1e-5, atol=1e-6)
        for name in ("x", "z"):
            with self.assertRaisesRegex(ValueError, f"output '{name}' is not computed"):
                models.load_onnx(self.path, output=name)

    @parameterized.parameters(np.float16, np.float64)
    def test_weights_of_other_widths(self, dtype):
        constants = {
            "weight": _WEIGHT.astype(dtype) / 3,
            "bias": _BIAS.astype(dtype),
        }
        kind = helper.np_dtype_to_tensor_dtype(np.dtype(dtype))
        nodes = _dense().graph.node
        inputs = [_value("x", (1, 2, 2), kind)]
        constants["shape"] = np.array([-1, 4])
        proto = onnx_networks.network(nodes, None, constants, inputs=inputs)
        proto.graph.output[0].type.tensor_type.elem_type = kind
        model = onnx_networks.load(proto)
        wide = {name: np.asarray(v, np.float64) for name, v in model.params.items()}
        for name in ("weight", "bias"):  # no number changes
            np.testing.assert_array_equal(wide[name], constants[name].astype(float))
        rows = _X.reshape(5, 4).astype(np.float64)
        expected = np.maximum(rows @ wide["weight"].T + wide["bias"], 0)
        found = jax.jit(model)(_X)
        self.assertEqual(found.dtype, jnp.result_type(*model.params.values()))
        np.testing.assert_allclose(found, expected, rtol=1e-5, atol=1e-6)
        if dtype == np.float64:
            with jax.enable_x64(True):
                exact = jax.jit(model)(_X)
            np.testing.assert_allclose(exact, expected, rtol=1e-14, atol=1e-14)

    @parameterized.named_parameters(
        (
            "symbolic",
            dict(shape=(1, "rows", 2)),
            r"'x' of fixed shape, got \[1, 0, 2\]",
        ),
        ("unknown_length", dict(shape=(None,)), r"fixed shape, got \[0\]"),
        (
            "two_inputs",
            dict(inputs=[_value("x", (1, 4)), _value("z", (1,))]),
            r"expected one input, got 2: \['x', 'z'\]",
        ),
        (
            "two_outputs",
            dict(outputs=[_value("y", (1,)), _value("sum", (1,))]),
            r"expected one output .*, got 2 outputs: \['y', 'sum'\]",
        ),
        (
            "wrong_type",
            dict(inputs=[_value("x", (1, 4), TensorProto.INT64)]),
            "input 'x' as floats",
        ),
        ("no_such_output", dict(outputs=[_value("q", (1,))]), "output 'q'"),
    )
    def test_networks_of_another_kind_are_refused(self, changes, message):
        with self.assertRaisesRegex(ValueError, f"net.onnx: (?s:.*){message}"):
            self.load(_dense(**changes).SerializeToString())

    @parameterized.named_parameters(
        ("domain", ("Relu", ["x"], ["y"]), dict(domain="org"), "foreign domain 'org'"),
        ("unknown", ("Relv", ["x"], ["y"]), {}, "No Op registered for Relv"),
        ("attribute", ("Relu", ["x"], ["y"]), dict(slope=1), "attribute: slope"),
        (
            "constant",
            ("Constant", [], ["y"]),
            dict(value_string="text"),
            "its value is not supported",
        ),
        ("second", ("Dropout", ["x"], ["a", "y"]), {}, "output 'y' is not computed"),
        (
            "random",
            ("RandomNormal", [], ["y"]),
            dict(shape=[1, 3]),
            "the operator is not supported",
        ),
        (
            "training",
            ("BatchNormalization", ["x", *"abcd"], ["y", "m", "v"]),
            {},
            "outputs of training",
        ),
    )
    def test_nodes_of_another_kind_are_refused(self, node, attributes, message):
        constants = dict.fromkeys("abcd", _BIAS) if "a" in node[1] else {}
        node = helper.make_node(*node, "node7", **attributes)
        proto = onnx_networks.network([node], (1, 3), constants)
        with self.assertRaisesRegex(ValueError, f"net.onnx: (?s:.*){message}"):
            self.load(proto.SerializeToString())

    def test_second_outputs_are_not_computed(self):
        nodes = [
            helper.make_node("MaxPool", ["x"], ["a", "which"], kernel_shape=[2]),
            helper.make_node("Add", ["a", "which"], ["y"], "sum"),
        ]
        proto = onnx_networks.network(nodes, (1, 1, 4), {})
        message = r"node 'sum' \(Add\): input 'which' is not computed"
        with self.assertRaisesRegex(ValueError, message):
            self.load(proto.SerializeToString())


if __name__ == "__main__":
    absltest.main()
