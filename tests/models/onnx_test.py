"""Tests for networks from ONNX files: small ones, and those of VNN-COMP 2021."""

import chex
import jax
import jax.numpy as jnp
import numpy as np
import onnx
import onnx_networks
import pytest
from absl.testing import absltest, parameterized

from robustjax import data, models
from tests import real_data

_WEIGHT, _BIAS, _X = onnx_networks.WEIGHT, onnx_networks.BIAS, onnx_networks.X
_dense = onnx_networks.dense


@jax.jit
def _transformed(model, x):
    """One by one, no example at all, and derivatives of the sum."""
    by_vmap = jax.vmap(model)(x[:, None])[:, 0]
    slopes = jax.grad(lambda *a: model.apply(*a).sum(), argnums=(0, 1))
    return model.apply(model.params, x), by_vmap, model(x[:0]), slopes(model.params, x)


class ModelTest(parameterized.TestCase):
    def setUp(self):
        super().setUp()
        self.expected = np.maximum(_X.reshape(5, 4) @ _WEIGHT.T + _BIAS, 0)

    def assert_close(self, actual, expected):
        np.testing.assert_allclose(actual, expected, rtol=1e-5, atol=1e-6)

    def test_function_of_one_example_becomes_one_of_many(self):
        loaded = [
            onnx_networks.load(_dense((batch, 2, 2))) for batch in (1, "batch", None)
        ]
        for model, found in zip(loaded, onnx_networks.outputs(loaded, _X), strict=True):
            self.assertEqual((model.input_shape, model.output_shape), ((2, 2), (3,)))
            self.assertEqual(model.operators, ("Reshape", "Gemm", "Relu"))
            chex.assert_trees_all_equal(model.params, onnx_networks.PARAMS)
            self.assert_close(found, self.expected)
        onnx_networks.assert_agree((loaded[0], _dense()))

    @parameterized.parameters(
        ((4,), (4,)), ((3, 4), (3, 4)), ((1, 4), (4,)), ((1, 1), (1,)), ((1,), (1,))
    )
    def test_batch_is_a_first_axis_of_several(self, shape, expected):
        model = onnx_networks.load(onnx_networks.single("Relu", shape))
        self.assertEqual((model.input_shape, model.output_shape), (expected, expected))
        x = jax.ShapeDtypeStruct((7, *expected), np.float32)
        self.assertEqual(jax.eval_shape(model, x).shape, (7, *expected))

    @pytest.mark.newest
    def test_transforms(self):
        model = onnx_networks.load(_dense())
        found, by_vmap, none, (by_params, by_x) = _transformed(model, _X)
        self.assert_close(found, self.expected)
        self.assert_close(by_vmap, self.expected)
        self.assertEqual(none.shape, (0, 3))
        active = (self.expected > 0).astype(np.float32)
        self.assert_close(by_params["bias"], active.sum(0))
        self.assert_close(by_x.reshape(5, 4), active @ _WEIGHT)

    def test_apply_fn_is_compiled_once(self):
        model = onnx_networks.load(_dense())

        @jax.jit
        @chex.assert_max_traces(n=1)
        def logits(apply_fn, x):
            return apply_fn(x)

        for _ in range(2):
            self.assert_close(logits(model.apply_fn, _X), self.expected)

    def test_products_run_in_full_precision(self):
        for proto in (
            _dense(),
            onnx_networks.single("Conv", (1, 2, 4, 4), (3, 2, 2, 2)),
        ):
            model = onnx_networks.load(proto)
            x = jnp.zeros((2, *model.input_shape))
            self.assertIn("Precision.HIGHEST", str(jax.make_jaxpr(model)(x)))

    def test_dtype_is_the_widest(self):
        model = onnx_networks.load(_dense())
        half = jax.ShapeDtypeStruct(_X.shape, np.float16)
        self.assertEqual(jax.eval_shape(model, half).dtype, jnp.float32)
        with jax.enable_x64(True):
            wide = jax.tree.map(np.float64, model.params)
            found = jax.eval_shape(model.apply, wide, _X)
            self.assertEqual(found.dtype, jnp.float64)
            self.assertEqual(jax.eval_shape(model, _X).dtype, jnp.float32)

    @parameterized.parameters(
        (_X.reshape(5, 4), r"shape \[n, \*\(2, 2\)\], got float32 of \(5, 4\)"),
        (_X[0, 0], r"got float32 of \(2,\)"),
        (np.ones((5, 2, 2), np.uint8), "as floats .* got uint8"),
    )
    def test_other_inputs_are_refused(self, x, message):
        model = onnx_networks.load(_dense())
        with self.assertRaisesRegex(ValueError, message):
            model(x)
        with self.assertRaisesRegex(ValueError, "Params differ .* in: b2, bias."):
            model.apply({"weight": _WEIGHT, "b2": _BIAS}, _X)


_NETWORKS = (  # of which the folder may hold more, or fewer
    "acasxu/ACASXU_run2a_1_1_batch_2000",
    "cifar10_resnet/onnx/resnet_2b",
    "cifar10_resnet/onnx/resnet_4b",
    "eran/nets/ffnnSIGMOID__Point_6x200",
    "eran/nets/mnist_relu_9_200",
    "marabou-cifar10/nets/cifar10_small",
    "mnistfc/mnist-net_256x2",
    "mnistfc/mnist-net_256x4",
    "mnistfc/mnist-net_256x6",
    "oval21/nets/cifar_base_kw",
    "oval21/nets/cifar_deep_kw",
    "oval21/nets/cifar_wide_kw",
    "test/test_nano",
    "test/test_sat",
    "test/test_small",
    "test/test_tiny",
    "test/test_unsat",
    "verivital/Convnet_avgpool",
    "verivital/Convnet_maxpool",
)
_OVAL = ((0.485, 0.456, 0.406), (0.225,) * 3)
_RESNET = ((0.4914, 0.4822, 0.4465), (0.2471, 0.2435, 0.2616))


def _real_network(name):
    """A network of VNN-COMP 2021; skips where its file is missing."""
    path = real_data.folder("vnncomp2021") / f"{name}.onnx"
    if not path.is_file():
        pytest.skip(f"vnncomp2021/{name}.onnx is not in ROBUSTJAX_DATA_DIR")
    return path, models.load_onnx(path)


class RealNetworksTest(parameterized.TestCase):
    @parameterized.parameters(*_NETWORKS)
    def test_agrees_with_the_reference(self, name):
        path, model = _real_network(name)
        proto = onnx.load(path)
        declared = proto.graph.output[0].type.tensor_type.shape.dim
        self.assertEqual(model.output_shape, (declared[-1].dim_value,))
        # At this scale the logits vary by more than 5 %: some units are alive.
        onnx_networks.assert_agree((model, proto), num_examples=2, scale=0.5)

    @parameterized.parameters(
        ("mnistfc/mnist-net_256x2", "mnist", 500, None, 0.982),
        ("mnistfc/mnist-net_256x4", "mnist", 500, None, 0.974),
        ("marabou-cifar10/nets/cifar10_small", "cifar10", 100, None, 0.61),
        ("cifar10_resnet/onnx/resnet_2b", "cifar10", 60, _RESNET, 44 / 60),
        ("cifar10_resnet/onnx/resnet_4b", "cifar10", 60, _RESNET, 47 / 60),
        ("oval21/nets/cifar_deep_kw", "cifar10", 60, _OVAL, 36 / 60),
    )
    def test_accuracy(self, name, dataset, count, normalization, expected):
        _, model = _real_network(name)
        root = real_data.folder("vnncomp2021").parent
        test = data.load(dataset, data_dir=root)
        x = test.images[:count]
        if normalization is not None:
            mean, std = np.asarray(normalization, np.float32)
            x = np.moveaxis((x - mean) / std, -1, 1)
        logits = jax.jit(model)(x.reshape(count, *model.input_shape))
        accuracy = np.mean(np.argmax(logits, axis=1) == test.labels[:count])
        self.assertAlmostEqual(accuracy, expected, places=6)


if __name__ == "__main__":
    absltest.main()
