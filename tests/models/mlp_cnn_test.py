"""Tests for the small classifiers and the normalisation they share."""

import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest
import random_variables
from absl.testing import absltest, parameterized

from robustjax import models


@functools.partial(jax.jit, static_argnums=0)
def _logits(module, variables, x):
    return module.apply(variables, x)


def _dense(layer, x):
    return x @ np.float64(layer["kernel"]) + np.float64(layer["bias"])


def _strided_conv(layer, x):
    """3x3 convolution of stride 2 on an even grid, one pixel padded at the end."""
    kernel, (n, height, width, _) = np.float64(layer["kernel"]), x.shape
    x = np.pad(x, ((0, 0), (0, 1), (0, 1), (0, 0)))
    y = np.zeros((n, height // 2, width // 2, kernel.shape[-1]))
    for i in range(height // 2):
        for j in range(width // 2):
            patch = x[:, 2 * i : 2 * i + 3, 2 * j : 2 * j + 3]
            y[:, i, j] = np.einsum("nabc,abcd->nd", patch, kernel)
    return y + np.float64(layer["bias"])


def _relu(x):
    return np.maximum(x, 0)


class SmallTest(parameterized.TestCase):
    def setUp(self):
        super().setUp()
        self.x = np.random.default_rng(0).random((3, 8, 8, 2), dtype=np.float32)

    def test_mlp_equals_its_definition(self):
        module = models.create("mlp", num_classes=5, mean=0.5, std=0.2, features=(7,))
        variables = random_variables.draw(module, self.x.shape[1:])
        params = variables["params"]
        hidden = _relu(_dense(params["Dense_0"], (self.x - 0.5).reshape(3, -1) / 0.2))
        np.testing.assert_allclose(
            _logits(module, variables, self.x),
            _dense(params["head"], hidden),
            rtol=1e-4,
            atol=1e-5,
        )
        features = jax.jit(models.features_of(module, variables))(self.x)
        np.testing.assert_allclose(features, hidden, rtol=1e-4, atol=1e-5)

    @pytest.mark.newest
    def test_cnn_equals_its_definition(self):
        mean, std = np.array([0.2, 0.7]), np.array([0.5, 0.25])
        module = models.create(
            "cnn", num_classes=5, mean=[*mean], std=[*std], features=(4, 6), hidden=7
        )
        variables = random_variables.draw(module, self.x.shape[1:])
        params = variables["params"]
        h = _relu(_strided_conv(params["Conv_0"], (self.x - mean) / std))
        h = _relu(_strided_conv(params["Conv_1"], h)).reshape(3, -1)
        h = _relu(_dense(params["Dense_0"], h))
        np.testing.assert_allclose(
            _logits(module, variables, self.x),
            _dense(params["head"], h),
            rtol=1e-4,
            atol=1e-5,
        )

    @parameterized.parameters("mlp", "cnn")
    def test_normalisation_is_inside(self, name):
        plain = models.create(name, num_classes=3)
        variables = random_variables.draw(plain, self.x.shape[1:])
        shifted = models.create(name, num_classes=3, mean=(0.25, 0.5), std=2.0)
        np.testing.assert_allclose(
            _logits(shifted, variables, 2 * self.x + np.float32([0.25, 0.5])),
            _logits(plain, variables, self.x),
            rtol=1e-4,
            atol=1e-5,
        )

    def test_wrong_number_of_channel_means_is_named(self):
        module = models.create("cnn", num_classes=3, mean=(0.1, 0.2, 0.3))
        with self.assertRaisesRegex(ValueError, "length 1 or 2.*0.3"):
            random_variables.shapes(module, self.x.shape[1:])

    @parameterized.parameters("mlp", "cnn")
    def test_bfloat16_keeps_params_and_logits_in_float32(self, name):
        module = models.create(name, num_classes=3, dtype=jnp.bfloat16)
        variables = random_variables.draw(module, self.x.shape[1:])
        logits = _logits(module, variables, self.x)
        self.assertEqual(logits.dtype, jnp.float32)
        dtypes = jax.tree.map(
            lambda leaf: leaf.dtype, random_variables.shapes(module, (8, 8, 2))
        )
        self.assertEqual(set(jax.tree.leaves(dtypes)), {np.dtype("float32")})
        exact = _logits(module.clone(dtype="float32"), variables, self.x)
        self.assertFalse(np.array_equal(logits, exact))  # it did compute in bfloat16
        np.testing.assert_allclose(logits, exact, atol=0.03 * np.abs(exact).max())


if __name__ == "__main__":
    absltest.main()
