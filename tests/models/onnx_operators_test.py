"""Every supported operator of ONNX against onnx's own reference."""

import numpy as np
import onnx_networks
import pytest
from absl.testing import absltest, parameterized
from onnx import helper

_IMAGE, _TALL, _LINE, _BLOCK = (1, 4, 7, 9), (1, 2, 9, 6), (1, 4, 11), (1, 2, 5, 6, 5)
_POSITIVE = np.array([0.5, 1.0, 2.0, 0.1], np.float32)
_PIXELS = {"kernel_shape": [3, 2], "strides": [2, 3]}
_SAME = {"kernel_shape": [4, 3], "strides": [2, 2]}  # odd padding in the rows


def _scalar(value):
    return np.asarray(value, np.float32)


def _pair(op_type, shape, inputs, attributes, opset=17):
    proto = onnx_networks.single(op_type, shape, *inputs, opset=opset, **attributes)
    return onnx_networks.load(proto), proto


class OperatorTest(parameterized.TestCase):
    def test_convolutions(self):
        cases = (
            ("Conv", _IMAGE, [(6, 4, 3, 2), (6,)], {}),
            ("Conv", _IMAGE, [(6, 4, 3, 2)], {"kernel_shape": [3, 2]}, 9),
            ("Conv", _IMAGE, [(6, 4, 3, 3), (6,)], {"pads": [1, 0, 2, 1]}),
            ("Conv", _IMAGE, [(6, 2, 3, 3), (6,)], {"group": 2, "strides": [2, 1]}),
            ("Conv", _IMAGE, [(8, 1, 2, 2)], {"group": 4, "dilations": [3, 2]}),
            ("Conv", _IMAGE, [(6, 4, 4, 3)], {"auto_pad": "SAME_UPPER"}),
            ("Conv", _IMAGE, [(6, 4, 4, 2)], {"auto_pad": "SAME_LOWER"}),
            ("Conv", _LINE, [(3, 4, 3), (3,)], {"pads": [2, 0], "strides": [2]}),
            ("Conv", _BLOCK, [(3, 2, 2, 3, 2), (3,)], {"pads": [0, 1, 0, 1, 0, 1]}),
        )
        onnx_networks.assert_agree(*(_pair(*case) for case in cases))

    def test_pools(self):
        cases = (
            ("MaxPool", _IMAGE, [], _PIXELS),
            ("MaxPool", _IMAGE, [], _PIXELS | {"pads": [1, 0, 2, 1]}),
            ("MaxPool", _IMAGE, [], {"kernel_shape": [2, 2], "dilations": [2, 3]}),
            ("MaxPool", _IMAGE, [], _SAME | {"auto_pad": "SAME_UPPER"}),
            ("MaxPool", _IMAGE, [], {"kernel_shape": [4, 3], "auto_pad": "SAME_LOWER"}),
            ("MaxPool", _TALL, [], _PIXELS | {"ceil_mode": 1, "strides": [3, 2]}),
            ("MaxPool", _LINE, [], {"kernel_shape": [3], "storage_order": 1}),
            ("AveragePool", _IMAGE, [], _PIXELS),
            ("AveragePool", _IMAGE, [], _PIXELS | {"pads": [1, 0, 2, 1]}, 7),
            (
                "AveragePool",
                _IMAGE,
                [],
                _PIXELS | {"pads": [1, 1, 2, 0], "count_include_pad": 1},
            ),
            ("AveragePool", _IMAGE, [], _PIXELS | {"auto_pad": "VALID"}),
            ("AveragePool", _IMAGE, [], _SAME | {"auto_pad": "SAME_UPPER"}),
            ("AveragePool", _IMAGE, [], _SAME | {"auto_pad": "SAME_LOWER"}),
            (
                "AveragePool",
                _IMAGE,
                [],
                {"kernel_shape": [2, 2], "dilations": [2, 3], "pads": [1, 1, 1, 1]},
                19,
            ),
            ("AveragePool", _BLOCK, [], {"kernel_shape": [2, 2, 3]}),
            ("GlobalAveragePool", _IMAGE, [], {}),
            ("GlobalAveragePool", _BLOCK, [], {}),
        )
        onnx_networks.assert_agree(*(_pair(*case) for case in cases))

    @pytest.mark.newest
    def test_sums_and_products(self):
        cases = (
            ("Gemm", (1, 5), [(5, 3), (3,)], {}),
            ("Gemm", (1, 5), [(3, 5), (1, 3)], {"transB": 1, "alpha": 0.3}),
            ("Gemm", (5, 1), [(5, 3), (1,)], {"transA": 1, "beta": -1.5}),
            ("Gemm", (1, 5), [(5, 3)], {"alpha": 2.0}, 11),
            ("MatMul", (1, 5), [(5, 3)], {}),
            ("MatMul", (1, 4, 5), [(5, 3)], {}),
            ("MatMul", (1, 2, 4, 5), [(2, 5, 3)], {}),
            ("MatMul", (5,), [(5, 3)], {}),
            ("Add", (1, 4, 5), [(5,)], {}),
            ("Sub", (1, 4, 5), [(4, 1)], {}),
            ("Mul", (1, 4, 5), [()], {}),
            ("Div", (1, 4), [_POSITIVE], {}, 7),
            ("Add", (3,), [(2, 3)], {}),
            (
                "BatchNormalization",
                _IMAGE,
                [(4,), (4,), (4,), _POSITIVE],
                {"epsilon": 0.1, "momentum": 0.5},
            ),
            ("BatchNormalization", _LINE, [(4,), (4,), (4,), _POSITIVE], {}, 14),
            ("BatchNormalization", (1, 4), [(4,), (4,), (4,), _POSITIVE], {}, 15),
        )
        onnx_networks.assert_agree(*(_pair(*case) for case in cases))

    def test_functions_of_numbers(self):
        cases = (
            ("Relu", _LINE, [], {}),
            ("LeakyRelu", _LINE, [], {}),
            ("LeakyRelu", _LINE, [], {"alpha": 0.3}),
            ("Sigmoid", _LINE, [], {}),
            ("Tanh", _LINE, [], {}),
            ("Identity", _LINE, [], {}),
            ("Clip", _LINE, [_scalar(-0.5), _scalar(0.25)], {}),
            ("Clip", _LINE, [None, _scalar(0.25)], {}),
            ("Clip", _LINE, [], {}),
            ("Clip", _LINE, [], {"min": -0.5, "max": 0.25}, 7),
            ("Dropout", _LINE, [_scalar(0.5), np.asarray(False)], {}),
            ("Dropout", _LINE, [], {"ratio": 0.3}, 10),
            ("Softmax", _LINE, [], {}),
            ("Softmax", _LINE, [], {"axis": 1}),
        )
        onnx_networks.assert_agree(*(_pair(*case) for case in cases))

    def test_shapes(self):
        cases = (
            ("Flatten", _IMAGE, [], {}),
            ("Flatten", _IMAGE, [], {"axis": 2}),
            ("Flatten", _IMAGE, [], {"axis": -1}),
            ("Flatten", _IMAGE, [], {"axis": 0}),
            ("Reshape", _IMAGE, [[-1, 12]], {}),
            ("Reshape", _IMAGE, [[0, 2, -1, 7]], {}),
            ("Reshape", _IMAGE, [[1, 252]], {"allowzero": 1}),
            ("Transpose", _IMAGE, [], {"perm": [0, 2, 3, 1]}),
            ("Transpose", _IMAGE, [], {}),
            ("Squeeze", (1, 4, 1, 3), [[2]], {}),
            ("Squeeze", (1, 4, 1, 3), [[-2, 0]], {}),
            ("Squeeze", (1, 4, 1, 3), [], {}),
            ("Squeeze", (1, 4, 1, 3), [], {"axes": [2]}, 11),
            ("Unsqueeze", (1, 4), [[1, -1]], {}),
            ("Unsqueeze", (1, 4), [], {"axes": [0, 3]}, 11),
            ("Concat", _IMAGE, [(1, 3, 7, 9), (1, 1, 7, 9)], {"axis": 1}),
            ("Concat", _IMAGE, [(1, 4, 7, 2)], {"axis": -1}),
            ("Pad", _IMAGE, [[0, 0, 1, 2, 0, 0, 3, 0]], {}),
            ("Pad", _IMAGE, [[0, 1, 0, 2, 0, 0, 3, 0], _scalar(1.5)], {}),
            ("Pad", _IMAGE, [[1, 2, 3, 0], None, [2, -1]], {}, 18),
            ("Pad", _IMAGE, [], {"pads": [0, 0, 1, 2, 0, 0, 3, 0], "value": 0.7}, 9),
        )
        onnx_networks.assert_agree(*(_pair(*case) for case in cases))

    # onnx's own reference has had other ideas of it, so the padding is counted by hand.
    def test_automatic_padding_with_strides(self):
        pairs = []
        for auto_pad, size, strides, pads in (
            ("SAME_UPPER", [4, 4], [2, 3], [1, 0, 2, 1]),
            ("SAME_LOWER", [4, 4], [2, 3], [2, 1, 1, 0]),
            ("SAME_LOWER", [2, 2], [4, 2], [0, 1, 0, 0]),  # rows need none: 4 + 2 < 7
            ("VALID", [3, 2], [2, 2], [0, 0, 0, 0]),
        ):
            shared = {"kernel_shape": size, "strides": strides}
            for op_type in ("Conv", "MaxPool", "AveragePool"):
                kernel = [(6, 4, *size)] if op_type == "Conv" else []
                automatic, explicit = (
                    onnx_networks.single(op_type, _IMAGE, *kernel, **shared | padding)
                    for padding in ({"auto_pad": auto_pad}, {"pads": pads})
                )
                pairs.append((onnx_networks.load(automatic), explicit))
        onnx_networks.assert_agree(*pairs)

    def test_stored_moments_before_training_had_an_attribute(self):
        inputs = [(4,), (4,), (4,), _POSITIVE]
        old, new = (
            onnx_networks.single("BatchNormalization", _LINE, *inputs, opset=opset)
            for opset in (9, 15)  # the reference of 9 mixes in the moments of x
        )
        onnx_networks.assert_agree((onnx_networks.load(old), new))

    def test_moments_of_each_place_are_refused(self):
        places = [_LINE[1:]] * 4
        proto = onnx_networks.single(
            "BatchNormalization", _LINE, *places, opset=7, spatial=0
        )
        with self.assertRaisesRegex(ValueError, r"node 'node' .* spatial = 0 is not"):
            onnx_networks.load(proto)

    def test_softmax_before_13_is_over_all_trailing_axes(self):
        old = onnx_networks.single("Softmax", _LINE, opset=11)
        new = onnx_networks.network(
            [
                helper.make_node("Flatten", ["x"], ["flat"]),
                helper.make_node("Softmax", ["flat"], ["shares"]),
                helper.make_node("Reshape", ["shares", "shape"], ["y"]),
            ],
            _LINE,
            {"shape": np.array(_LINE)},
        )
        onnx_networks.assert_agree((onnx_networks.load(old), new))

    def test_older_versions_have_attributes_instead_of_inputs(self):
        image, row = (1, 4, 3, 5), (1, 12)
        ones, twice = [1.0, 1.0], [2.0, 3.0]
        scales = np.array(ones + twice, np.float32)
        asymmetric = {
            "coordinate_transformation_mode": "asymmetric",
            "nearest_mode": "floor",
        }
        pairs = (
            (("Slice", row, 9, [], {"starts": [1], "ends": [-2], "axes": [1]}),
             ("Slice", row, 17, [[1], [-2], [1]], {})),
            (("ReduceMean", image, 11, [], {"axes": [-1, 1]}),
             ("ReduceMean", image, 18, [[-1, 1]], {})),
            (("ReduceSum", image, 11, [], {"axes": [2], "keepdims": 0}),
             ("ReduceSum", image, 13, [[2]], {"keepdims": 0})),
            (("Upsample", image, 7, [], {"scales": ones + twice}),
             ("Resize", image, 13, [None, scales], asymmetric)),
            (("Upsample", image, 9, [scales], {"mode": "linear"}),
             ("Resize", image, 13, [None, scales], asymmetric | {"mode": "linear"})),
            (("Resize", image, 10, [scales], {}),
             ("Resize", image, 13, [None, scales], asymmetric)),
            (("Split", row, 11, [], {"axis": 1, "split": [12]}),
             ("Split", row, 13, [[12]], {"axis": 1})),
            (("Gather", row, 7, [[0, -1]], {"axis": 1}),
             ("Gather", row, 17, [[0, 11]], {"axis": 1})),
        )  # fmt: skip
        old, new = (
            [
                onnx_networks.single(op_type, shape, *inputs, opset=opset, **attributes)
                for op_type, shape, opset, inputs, attributes in side
            ]
            for side in zip(*pairs, strict=True)
        )
        loaded = map(onnx_networks.load, old)
        onnx_networks.assert_agree(*zip(loaded, new, strict=True))

    def test_number_of_extrema_was_an_attribute_before_10(self):
        node = helper.make_node("TopK", ["x"], ["y", "places"], "node", k=2)
        proto = onnx_networks.network([node], (1, 4), {}, opset=9)
        x = np.array([[0.0, 3.0, 1.0, 2.0], [5.0, 4.0, 5.0, 6.0]], np.float32)
        found = onnx_networks.load(proto)(x)
        np.testing.assert_array_equal(found, [[3, 2], [6, 5]])
        places = onnx_networks.load(proto, output="places")(x)
        np.testing.assert_array_equal(places, [[1, 3], [3, 0]])

    def test_last_windows_stick_out_unless_they_start_in_the_padding(self):
        x = np.array([[[1, 2, 3, 4, 5, 7]]], np.float32)
        for op_type, attributes, expected in (
            ("AveragePool", {}, [2, 4, 6]),
            ("MaxPool", {}, [3, 5, 7]),
            ("AveragePool", {"pads": [1, 1]}, [1.5, 3, 16 / 3, 7]),
            ("MaxPool", {"strides": [4]}, [3, 7]),
            ("MaxPool", {"strides": [4], "pads": [2, 2]}, [1, 5]),
            ("AveragePool", {"pads": [0, 1], "strides": [3]}, [2, 16 / 3]),
            ("AveragePool", {"pads": [0, 1], "strides": [2],
                             "kernel_shape": [4], "count_include_pad": 1},
             [2.5, 19 / 4, 4]),
            ("AveragePool", {"pads": [0, 1], "strides": [5],
                             "kernel_shape": [4], "count_include_pad": 1},
             [2.5, 7 / 2]),
        ):  # fmt: skip
            shared = {"kernel_shape": [3], "strides": [2], "ceil_mode": 1} | attributes
            proto = onnx_networks.single(op_type, x.shape, **shared)
            found = onnx_networks.load(proto)(x).ravel()
            message = f"{op_type} {attributes}"
            np.testing.assert_allclose(found, expected, rtol=1e-6, err_msg=message)

    def test_negative_pads_cut(self):
        proto = onnx_networks.single("Pad", (1, 6), [0, -2, 0, 1])
        actual = onnx_networks.load(proto)(np.arange(12.0).reshape(2, 6))
        np.testing.assert_array_equal(actual, [[2, 3, 4, 5, 0], [8, 9, 10, 11, 0]])

    @parameterized.parameters(
        ("Det", (1, 2, 2), [], {}, "the operator is not supported; these are: Abs, "),
        ("Range", (), [np.float32(9), np.float32(1)], {}, "where its inputs are known"),
        ("Conv", _IMAGE, [(6, 4, 3, 2)], {"kernel_shape": [2, 2]}, "kernel_shape"),
        ("Conv", _IMAGE, [(6, 4, 3, 2)], {"auto_pad": "ALL"}, "auto_pad 'ALL'"),
        (
            "Conv",
            _IMAGE,
            [(6, 4, 3, 2)],
            {"auto_pad": "VALID", "pads": [1, 1, 1, 1]},
            "auto_pad 'VALID'",
        ),
        ("Pad", _IMAGE, [[0] * 8], {"mode": "mirror"}, "mode 'mirror'"),
        ("Resize", (1, 2), [None, np.ones(2, np.float32)], {"mode": "area"}, "'area'"),
        ("Gather", (1, 2), [[2]], {"axis": 1}, r"outside of \[-2, 2\)"),
        ("Split", (1, 2), [[1]], {"axis": 1}, "expected 1 pieces .* length 2, got"),
        ("Cast", (1, 2), [], {"to": 17}, "element type 17"),
        ("Dropout", _LINE, [None, np.asarray(True)], {}, "training_mode = 1"),
        (
            "BatchNormalization",
            _LINE,
            [(4,), (4,), (4,), _POSITIVE],
            {"training_mode": 1},
            "training_mode = 1",
        ),
        ("MatMul", (1, 4), [(5, 3)], {}, "5"),
        ("Gemm", (1, 4), [(5, 3)], {}, "5"),
        ("Add", (1, 4), [(5,)], {}, "4"),
        ("Concat", _IMAGE, [(1, 1, 3, 3)], {"axis": 1}, "oncatenate"),
        ("Reshape", _IMAGE, [[1, 13]], {}, "13"),
        ("Reshape", (1, 2), [(2,)], {}, "shape must be integers"),
        ("Squeeze", (1, 2), [[1]], {}, "2"),
        ("Transpose", (1, 2), [], {"perm": [0, 0]}, "perm"),
    )
    def test_what_is_refused_names_the_node(
        self, op_type, shape, inputs, attributes, message
    ):
        proto = onnx_networks.single(op_type, shape, *inputs, **attributes)
        where = rf"net.onnx: node 'node' \({op_type}\): "
        with self.assertRaisesRegex(ValueError, f"{where}(?s:.*){message}"):
            onnx_networks.load(proto)


if __name__ == "__main__":
    absltest.main()
