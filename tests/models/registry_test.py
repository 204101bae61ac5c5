"""Tests for models by name and for the classifier made of one."""

import chex
import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
import pytest
import random_variables
from absl.testing import absltest, parameterized

from robustjax import models
from robustjax.models import registry


class CreateTest(parameterized.TestCase):
    @parameterized.parameters(*models.names())
    def test_describe_rebuilds_an_equal_module(self, name):
        module = models.create(
            name, num_classes=7, mean=(0.1, 0.2), std=0.5, dtype="bfloat16"
        )
        described, options = registry.describe(module)
        self.assertEqual(described, name)
        self.assertEqual(models.create(described, **options), module)
        self.assertNotEqual(models.create(described, **options | {"std": 1}), module)

    @parameterized.parameters(
        ({"name": "vgg"}, "model 'vgg'.*mlp, cnn, resnet20, resnet110, resnet50"),
        ({"depth": 3}, "'depth' of model 'cnn'.*features, hidden"),
        ({"num_classes": 1}, "num_classes >= 2, got 1"),
        ({"mean": float("nan")}, "mean.*nan"),
        ({"std": (1.0, 0.0)}, r"std.*\(1.0, 0.0\)"),
        ({"std": ()}, "std"),
        ({"dtype": "float64"}, "dtype 'float64'.*float32, bfloat16"),
        ({"precision": "best"}, "precision 'best'.*highest"),
    )
    def test_bad_argument_is_named(self, changes, message):
        with self.assertRaisesRegex(ValueError, message):
            models.create(**{"name": "cnn", "num_classes": 10} | changes)

    def test_precision_reaches_the_layers(self):
        module = models.create("cnn", num_classes=3, precision="highest")
        variables = random_variables.shapes(module, (8, 8, 1))
        jaxpr = str(jax.make_jaxpr(module.apply)(variables, jnp.zeros((1, 8, 8, 1))))
        self.assertEqual(jaxpr.count("Precision.HIGHEST"), 8)  # two for each layer

    def test_describe_refuses_a_foreign_module(self):
        with self.assertRaisesRegex(ValueError, "got Dense"):
            registry.describe(nn.Dense(3))


class ClassifierTest(parameterized.TestCase):
    def setUp(self):
        super().setUp()
        self.x = np.random.default_rng(0).random((3, 4, 4, 1), dtype=np.float32)

    def _apply_fn(self, seed):
        module = models.create("mlp", num_classes=5, features=(6,))
        variables = random_variables.draw(module, self.x.shape[1:], seed=seed)
        return models.classifier(module, variables), module, variables

    @pytest.mark.newest
    def test_equals_the_module_in_inference_and_differentiates(self):
        apply_fn, module, variables = self._apply_fn(0)

        @jax.jit
        def outputs(apply_fn, variables, x):
            grad = jax.grad(lambda x: apply_fn(x)[:, 0].sum())(x)
            return apply_fn(x), module.apply(variables, x, train=False), grad

        found, expected, grad = outputs(apply_fn, variables, self.x)
        np.testing.assert_array_equal(found, expected)
        self.assertTrue(np.isfinite(grad).all())
        self.assertTrue(np.any(grad))
        np.testing.assert_allclose(jax.jit(apply_fn)(self.x), expected, 1e-5)

    def test_other_weights_do_not_compile_again(self):
        @jax.jit
        @chex.assert_max_traces(n=1)
        def logits(apply_fn, x):
            return apply_fn(x)

        one, two = (logits(self._apply_fn(seed)[0], self.x) for seed in (0, 1))
        self.assertFalse(np.array_equal(one, two))

    def test_logits_are_float32_for_any_module(self):
        class Foreign(nn.Module):
            @nn.compact
            def __call__(self, x, *, train=False):
                return nn.Dense(2, dtype=jnp.bfloat16)(x.reshape((len(x), -1)))

        module = Foreign()
        variables = random_variables.draw(module, self.x.shape[1:])
        found = jax.eval_shape(models.classifier(module, variables), self.x)
        self.assertEqual(found.dtype, jnp.float32)


if __name__ == "__main__":
    absltest.main()
