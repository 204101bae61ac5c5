"""Exported networks against the transforms, properties against exact radii."""

import functools
import importlib.util
import itertools
import pathlib
import tempfile
import warnings

import jax
import jax.numpy as jnp
import numpy as np
import onnx
import onnx.reference
import pytest
from absl.testing import absltest, parameterized
from fixed_images import class_of, fixed_image, tiny_net

from robustjax import bounds, data, models, semantic
from robustjax.semantic import parameter_ranges
from robustjax.semantic.export import onnx_nodes

_OF_RELU = {"Add", "Conv", "Gemm", "Relu", "Reshape", "Transpose"}
_ATTRIBUTES = (
    "saturation", "lightness", "brightness", "contrast", "shear", "translation_rows",
    "translation_columns", "hue+brightness", "translation_rows+brightness",
)  # fmt: skip


def _conv_net(x):
    """Strides, dilation, groups, pooling and skip connections."""
    rng = np.random.default_rng(3)

    def conv(x, channels, stride=(1, 1), dilation=(1, 1), groups=1):
        kernel = rng.normal(size=(3, 2, x.shape[-1] // groups, channels)) / 3
        return jax.lax.conv_general_dilated(
            x,
            kernel.astype(np.float32).astype(x.dtype),
            stride,
            "SAME",
            rhs_dilation=dilation,
            dimension_numbers=("NHWC", "HWIO", "NHWC"),
            feature_group_count=groups,
        )

    y = conv(x - 0.5, 4)
    y = jax.nn.relu(y + 0.25) + jnp.clip(y, -0.25, 0.5)
    y = jax.nn.relu(conv(y, 4, dilation=(1, 2))) + y + 0.125
    y = conv(y, 4, stride=(2, 1), groups=2)
    pool = functools.partial(jax.lax.reduce_window, padding="SAME")
    y = pool(y, -np.inf, jax.lax.max, (1, 2, 2, 1), (1, 1, 2, 1))
    y = pool(y, 0.0, jax.lax.add, (1, 1, 2, 1), (1, 1, 2, 1))
    last = rng.normal(size=(y[0].size, 3)).astype(np.float32)
    return y.reshape(len(y), -1) @ last.astype(y.dtype)


def _odd_net(x):
    """Many ways to move entries, and functions that are not piecewise linear."""
    rng = np.random.default_rng(4)
    mean, spread = jnp.array([0.4, 0.5, 0.6]), jnp.array([0.2, 0.3, 0.25])
    y = (x - mean[None, None, None]) / spread[None, None, None]
    y = jnp.pad(y, ((0, 0), (1, 1), (0, 1), (0, 0)), constant_values=0.25)
    y = jnp.concatenate([y[:, ::-1], jnp.full_like(y, 0.5), jnp.abs(y)], axis=-1)
    is_even = jnp.arange(y.shape[2])[None, None, :, None] % 2 == 0
    y = jnp.where(is_even, y, 0.5 - y)
    y = jnp.minimum(y[:, :, 1:], jnp.take(y, np.array([4, 0, 2, 1, 3]), axis=2))
    y = jnp.max(y.reshape(len(y), 3, 2, 5, 9), axis=2)
    y = jax.nn.leaky_relu(y - jnp.mean(y, axis=(1, 2), keepdims=True))
    y = y / jnp.sqrt(jnp.var(y, axis=(1, 2, 3), keepdims=True) + 0.5)
    y = jnp.cumsum(y.transpose(0, 3, 1, 2), axis=2)
    y = jnp.tanh(y) * jax.nn.sigmoid(y) + y**2
    weight = rng.normal(size=(3, 9, 5, 3)).astype(np.float32).astype(y.dtype)
    return jnp.einsum("nchw,hcwk->nk", y, weight) + 0.1


_NETS = {"tiny": tiny_net(), "conv": _conv_net, "odd": _odd_net}


@functools.cache
def _folder():
    return tempfile.TemporaryDirectory()


@functools.cache
def _exported(attribute, net="tiny", limit=None):
    path = f"{_folder().name}/{attribute}_{net}_{limit}.onnx"
    return semantic.export_onnx(
        _NETS[net],
        fixed_image(),
        class_of(_NETS["tiny"], fixed_image()),
        attribute=attribute,
        limit=limit,
        path=path,
    )


def _logits(moves, net, attribute):
    """Those of the model at moved images, in float64."""
    with jax.enable_x64(True):
        return np.asarray(_logits_of(np.asarray(moves, np.float64), net, attribute))


@functools.partial(jax.jit, static_argnames=("net", "attribute"))
def _logits_of(moves, net, attribute):
    moved = jax.vmap(lambda move: attribute(fixed_image(), move))(moves)
    return _NETS[net](moved)


def _moves(attribute, count=61):
    """Moves within the default limits, float32, with zero and the ends."""
    ranges = np.array(parameter_ranges.resolve(semantic.attribute(attribute), None))
    rng = np.random.default_rng(0)
    moves = rng.uniform(-ranges[:, 0], ranges[:, 1], size=(count, len(ranges)))
    moves[0], moves[1], moves[2] = -ranges[:, 0], ranges[:, 1], 0
    return moves.astype(np.float32)


def _by_reference(path, moves):
    run = onnx.reference.ReferenceEvaluator(str(path)).run
    return run(None, {"parameters": moves})[0]


class NetworkTest(parameterized.TestCase):
    @parameterized.parameters(
        ("hue", "tiny"), ("brightness_contrast", "tiny"), ("lightness", "conv")
    )
    def test_numbers_are_those_of_the_model_at_the_moved_image(self, attribute, net):
        self._check(attribute, net)

    @parameterized.parameters(
        *((attribute, "tiny") for attribute in _ATTRIBUTES), ("hue", "odd")
    )
    @pytest.mark.slow
    def test_numbers_of_other_attributes_and_nets(self, attribute, net):
        self._check(attribute, net)

    def _check(self, attribute, net):
        found, moves = _exported(attribute, net), _moves(attribute)
        wanted = _logits(moves, net, semantic.attribute(attribute))
        slack = 1e-5 * max(1.0, np.abs(wanted).max())
        close = functools.partial(np.testing.assert_allclose, rtol=0, atol=slack)
        close(np.asarray(models.load_onnx(found.onnx)(jnp.asarray(moves))), wanted)
        one_by_one = [_by_reference(found.onnx, moves[k : k + 1]) for k in range(4)]
        close(np.concatenate(one_by_one), wanted[:4])
        close(_by_reference(found.onnx, moves[:4]), wanted[:4])  # a batch
        self.assertEqual(set(found.operators) <= _OF_RELU, net != "odd")

    @pytest.mark.newest
    def test_operators_are_used_as_all_verifiers_read_them(self):
        for found in (_exported("hue"), _exported("lightness", "conv")):
            model = onnx.load(found.onnx)
            onnx.checker.check_model(model, full_check=True)
            self.assertEqual(model.opset_import[0].version, 13)
            constants = {tensor.name for tensor in model.graph.initializer}
            kinds = {node.op_type for node in model.graph.node}
            self.assertEqual(tuple(sorted(kinds)), found.operators)
            for node in model.graph.node:
                values = {
                    a.name: onnx.helper.get_attribute_value(a) for a in node.attribute
                }
                if node.op_type == "Add":
                    self.assertEmpty(constants & set(node.input))
                if node.op_type == "Gemm":
                    self.assertLen(node.input, 3)
                if node.op_type == "Conv":
                    self.assertNotIn("dilations", values)
                perm = list(values.get("perm", ()))
                self.assertEqual([perm[p] for p in perm], list(range(len(perm))))

    @parameterized.parameters(("edge", 1.5), ("reflect", (0.0, 2.5)))
    @pytest.mark.slow
    def test_padding_and_limits_of_one_side(self, padding, limit):
        moving = semantic.attribute(
            "translation_columns", sampling=semantic.Sampling(padding=padding)
        )
        path = f"{_folder().name}/{padding}.onnx"
        found = semantic.export_onnx(
            _NETS["tiny"], fixed_image(), 0, attribute=moving, limit=limit, path=path
        )
        left, right = np.broadcast_to(limit, 2)
        moves = np.linspace(-left, right, 41, dtype=np.float32)[:, None]
        actual = models.load_onnx(found.onnx)(jnp.asarray(moves))
        wanted = _logits(moves, "tiny", moving)
        np.testing.assert_allclose(actual, wanted, rtol=1e-5, atol=1e-5)


class OrderTest(absltest.TestCase):
    def test_every_order_of_axes_by_transpositions_that_are_their_own_inverses(self):
        array = np.arange(2 * 3 * 4 * 5).reshape(2, 3, 4, 5)
        for order in itertools.permutations(range(4)):
            writer = onnx_nodes.Writer()
            tensor = onnx_nodes.Tensor("x", array.shape, (0, 1, 2, 3), array.shape)
            dims = tuple(array.shape[axis] for axis in order)
            result, values = writer.arranged(tensor, order, dims), {"x": array[None]}
            for node in writer.nodes:
                value = values[node.inputs[0]]
                if node.kind == "Transpose":
                    perm = node.attributes["perm"]
                    self.assertEqual([perm[p] for p in perm], list(range(len(perm))))
                    values[node.output] = value.transpose(perm)
                else:
                    shape = writer.constants[node.inputs[1]]
                    values[node.output] = value.reshape(shape)
            np.testing.assert_array_equal(values[result][0], array.transpose(order))


class PropertyTest(parameterized.TestCase):
    def test_limits_and_losses_of_two_parameters(self):
        limit = ((0.125, 0.25), (0.0, 1.0))
        found = _exported("brightness_contrast", limit=limit)
        label = class_of(_NETS["tiny"], fixed_image())
        wished = data.read_vnnlib(found.vnnlib)
        self.assertEqual((wished.num_inputs, wished.num_outputs), (2, 3))
        losses = []
        for case in wished.cases:
            np.testing.assert_array_equal(case.lower, [-0.125, 0.0])
            np.testing.assert_array_equal(case.upper, [0.25, 1.0])
            np.testing.assert_array_equal(case.offsets, [0.0])
            losses.append(case.rows[0])  # unsafe: y_label - y_j <= 0
        wanted = [np.eye(3)[label] - np.eye(3)[j] for j in range(3) if j != label]
        np.testing.assert_array_equal(losses, wanted)

    @parameterized.parameters((0.9, "unsat"), (1.1, "sat"))
    def test_verdicts_are_those_of_the_exact_radius(self, share, status):
        exact, label = _exact()
        found = _exported("lightness", limit=(share * exact.left, 0.0))
        model = models.load_onnx(found.onnx)
        cases = data.read_vnnlib(found.vnnlib).cases
        result = bounds.verify_cases(
            bounds.single(model), cases, method="ibp", max_boxes=4096
        )
        self.assertEqual(result.status, status)
        if status == "sat":
            logits = _logits(result.x[None], "tiny", semantic.attribute("lightness"))
            self.assertNotEqual(int(np.argmax(logits[0])), label)

    def test_two_classes(self):
        path = f"{_folder().name}/two.onnx"
        found = semantic.export_onnx(
            lambda x: jnp.stack([x[:, 0, 0, 0], 0.6 - x[:, 0, 0, 0]], axis=-1),
            np.full((1, 1, 1), 0.5),
            0,
            attribute="brightness",
            path=path,
        )
        (case,) = data.read_vnnlib(found.vnnlib).cases
        np.testing.assert_array_equal(case.rows, [[1.0, -1.0]])


@functools.cache
def _exact():
    label = class_of(_NETS["tiny"], fixed_image())
    found = semantic.exact_radius(
        _NETS["tiny"], fixed_image(), label, attribute="lightness"
    )
    return found, label


class ErrorTest(parameterized.TestCase):
    @parameterized.parameters(
        ({"attribute": "rotation"}, "piecewise linear.*'rotation'"),
        ({"attribute": "hue+lightness"}, "piecewise linear"),
        ({"attribute": "hue+contrast"}, "piecewise linear"),
        ({"attribute": "translation"}, "piecewise linear"),
        ({"limit": 0.0}, "limit above 0"),
        ({"limit": 0.6}, "half a turn|Half a turn"),
        ({"path": "net.vnnlib"}, "end in .onnx"),
        ({"label": 3}, "label"),
        ({"image": fixed_image(channels=1)}, "colour image"),
        ({"apply_fn": lambda x: x[:, 0, 0, :1]}, "several logits"),
    )
    def test_bad_arguments_are_named(self, changed, text):
        arguments = {
            "apply_fn": _NETS["tiny"],
            "image": fixed_image(),
            "label": 0,
            "attribute": "hue",
            "path": f"{_folder().name}/bad.onnx",
        }
        arguments |= changed
        first = [arguments.pop(name) for name in ("apply_fn", "image", "label")]
        with self.assertRaisesRegex(ValueError, text):
            semantic.export_onnx(*first, **arguments)
        self.assertFalse(pathlib.Path(_folder().name, "bad.onnx").exists())

    @parameterized.parameters(
        (lambda x: jax.nn.softmax(x[:, 0, 0]), "share of log-sum-exp"),
        (lambda x: jax.nn.silu(x[:, 0, 0]), "silu"),
        (lambda x: jnp.sort(x[:, 0, 0]), "sort"),
        (lambda x: jnp.floor(x[:, 0, 0]), "floor"),
        (lambda x: jnp.maximum(x[:, 0, 0], np.array([[-np.inf, 0, 0]])), "finite"),
        (lambda x: jnp.cumsum(jnp.tile(x, (1, 20, 20, 1)), axis=1)[:, 0, 0], "cumsum"),
    )
    def test_operations_without_a_form_are_named(self, model, text):
        with self.assertRaisesRegex(bounds.UnsupportedError, text):
            semantic.export_onnx(
                model,
                fixed_image(),
                0,
                attribute="brightness",
                path=f"{_folder().name}/bad.onnx",
            )


_HAS_MARABOU = importlib.util.find_spec("maraboupy") is not None


@absltest.skipUnless(_HAS_MARABOU, "maraboupy is not installed")
class MarabouTest(parameterized.TestCase):
    @parameterized.parameters((0.98, "unsat"), (1.02, "sat"))
    @pytest.mark.slow
    def test_verdicts_are_those_of_the_exact_radius(self, share, status):
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # TensorFlow is not there
            from maraboupy import Marabou
        model, image = _NETS["tiny"], fixed_image()
        label = class_of(model, image)
        exact = semantic.exact_radius(model, image, label, attribute="hue")
        found = _exported("hue", limit=(0.0, share * exact.right))
        network = Marabou.read_onnx(str(found.onnx))
        verdict, values, _ = network.solve(
            verbose=False,
            options=Marabou.createOptions(verbosity=0, timeoutInSeconds=300),
            propertyFilename=str(found.vnnlib),
        )
        self.assertEqual(verdict, status)
        if status == "sat":
            move = np.array([[values[int(network.inputVars[0].ravel()[0])]]])
            logits = _logits(move, "tiny", semantic.attribute("hue"))
            self.assertNotEqual(int(np.argmax(logits[0])), label)


if __name__ == "__main__":
    absltest.main()
