"""Tests for the residual networks."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
import random_variables
from absl.testing import absltest, parameterized
from flax import traverse_util

from robustjax import models


class ResNetsTest(parameterized.TestCase):
    @parameterized.parameters(
        # ResNet-20/110 with 1x1 shortcuts; torchvision's resnet50: 25,557,032.
        ("resnet20", (32, 32, 3), 20, 272_474),
        ("resnet110", (32, 32, 3), 110, 1_730_714),
        ("resnet50", (224, 224, 3), 50, 25_557_032),
    )
    def test_size_is_that_of_the_literature(self, name, input_shape, depth, size):
        module = models.create(name, num_classes=1000 if name == "resnet50" else 10)
        params = random_variables.shapes(module, input_shape)["params"]
        self.assertEqual(sum(leaf.size for leaf in jax.tree.leaves(params)), size)
        layers = [
            path
            for path in traverse_util.flatten_dict(params, sep="/")
            if path.endswith("kernel") and "shortcut" not in path
        ]
        self.assertLen(layers, depth)

    def test_stages_halve_the_resolution(self):
        module = models.create("resnet50", num_classes=1000)
        variables = random_variables.shapes(module, (224, 224, 3))
        x = jax.ShapeDtypeStruct((2, 224, 224, 3), jnp.float32)
        _, state = jax.eval_shape(
            lambda v, x: module.apply(v, x, capture_intermediates=True), variables, x
        )
        blocks = state["intermediates"]
        shapes = [
            blocks[f"_Bottleneck_{i}"]["__call__"][0].shape for i in (2, 6, 12, 15)
        ]
        self.assertEqual(
            shapes,
            [(2, 56, 56, 256), (2, 28, 28, 512), (2, 14, 14, 1024), (2, 7, 7, 2048)],
        )


class SmallResNetTest(parameterized.TestCase):
    """Statements about values, on a network that compiles fast."""

    @classmethod
    def setUpClass(cls):
        super().setUpClass()
        cls.x = np.random.default_rng(0).random((6, 8, 8, 3), dtype=np.float32)
        cls.module = models.create("resnet20", num_classes=4, num_blocks=1, width=4)
        cls.variables = random_variables.draw(cls.module, cls.x.shape[1:])
        train = jax.jit(
            lambda v, x: cls.module.apply(v, x, train=True, mutable=["batch_stats"])
        )
        _, updated = train(cls.variables, cls.x)
        cls.trained = {**cls.variables, **updated}
        cls.logits = staticmethod(jax.jit(cls.module.apply))

    def test_training_moves_the_running_statistics_a_tenth_of_the_way(self):
        stem = (self.variables["params"]["Conv_0"]["kernel"], self.x)
        padded = np.pad(stem[1], ((0, 0), (1, 1), (1, 1), (0, 0)))
        windows = np.lib.stride_tricks.sliding_window_view(padded, (3, 3), (1, 2))
        y = np.einsum("nijcab,abcd->nijd", windows, stem[0])
        before = self.variables["batch_stats"]["BatchNorm_0"]["mean"]
        expected = 0.9 * before + 0.1 * y.mean(axis=(0, 1, 2))
        after = self.trained["batch_stats"]["BatchNorm_0"]["mean"]
        np.testing.assert_allclose(after, expected, rtol=1e-5, atol=1e-6)

    @pytest.mark.newest
    def test_inference_uses_the_running_statistics(self):
        together = self.logits(self.trained, self.x)
        reversed_batch = self.logits(self.trained, self.x[::-1])
        np.testing.assert_allclose(together[::-1], reversed_batch, rtol=1e-4, atol=1e-5)
        self.assertFalse(np.allclose(together, self.logits(self.variables, self.x)))
        apply_fn = models.classifier(self.module, self.trained)
        np.testing.assert_allclose(jax.jit(apply_fn)(self.x), together, 1e-5, 1e-6)
        doubled = self.x.copy()
        doubled[1:] *= 2  # the rest of the batch has no influence
        actual = self.logits(self.trained, doubled)[0]
        np.testing.assert_allclose(actual, together[0], rtol=1e-4, atol=1e-5)

    def test_bfloat16_returns_float32_logits(self):
        apply = jax.jit(self.module.clone(dtype="bfloat16").apply)
        logits, exact = (
            apply(self.variables, self.x),
            self.logits(self.variables, self.x),
        )
        self.assertEqual((logits.shape, logits.dtype), ((6, 4), jnp.float32))
        self.assertFalse(np.array_equal(logits, exact))
        np.testing.assert_allclose(logits, exact, atol=0.05 * np.abs(exact).max())


if __name__ == "__main__":
    absltest.main()
