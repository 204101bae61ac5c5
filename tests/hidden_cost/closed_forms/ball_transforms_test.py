"""Balls under noise: derivatives, dtypes, transformations and bad input."""

import itertools

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from absl.testing import absltest, parameterized

from robustjax import hidden_cost


def _radius(v, dim):
    return hidden_cost.smoothed_ball_radius(v[0], sigma=v[1], threshold=v[2], dim=dim)


def _probability(v):
    return hidden_cost.ball_class_probability(v[0], radius=v[1], sigma=v[2], dim=4)


def _vanishing(v):
    return hidden_cost.ball_vanishing_sigma(v[0], dim=4, threshold=v[3])


def _needed(v):
    return hidden_cost.min_sigma_for_radius(v[0], num_samples=500, alpha=v[3])


def _best(v):
    samples = dict(num_samples=500, alpha=v[3])
    return hidden_cost.best_center_certificate(v[0], dim=4, **samples).radius


def _curvature(v):
    return hidden_cost.curvature_shift(v[:2], sigma=v[2])


class DerivativeTest(parameterized.TestCase):
    def setUp(self):
        super().setUp()
        self.enterContext(jax.enable_x64(True))
        self.enterContext(jax.default_device(jax.devices("cpu")[0]))

    @pytest.mark.slow
    def test_of_the_radius(self):
        """Printed, against differences, and steeper towards the vanishing point."""
        at = hidden_cost.smoothed_ball_radius(1.0, sigma=0.02, dim=784)
        self.assertAlmostEqual(at, 0.8287190330741256, delta=1e-13)
        slopes = jax.jit(jax.grad(_radius))
        printed = float(slopes(np.array([1.0, 0.02, 0.5]), 784.0)[1])
        self.assertAlmostEqual(printed, -18.8999, delta=5e-5)
        for dim, share in itertools.product((1, 2, 10, 150528), (0.3, 0.9, 0.99)):
            sigma = share * hidden_cost.ball_vanishing_sigma(1.0, dim=dim)
            point = np.array([1.0, sigma, 0.5])
            own = np.asarray(slopes(point, float(dim)))
            for k, unit in enumerate(np.eye(3)):
                step = 1e-6 * point * unit
                change = _radius(point + step, dim) - _radius(point - step, dim)
                difference = change / (2e-6 * point[k])
                np.testing.assert_allclose(own[k], difference, rtol=2e-5, atol=1e-7)
        vanishing = hidden_cost.ball_vanishing_sigma(1.0, dim=10)
        near = [
            float(slopes(np.array([1.0, vanishing * (1 - gap), 0.5]), 10.0)[1])
            for gap in (1e-4, 1e-6, 1e-8)
        ]
        np.testing.assert_allclose(np.divide(near[1:], near[:-1]), 10.0, rtol=0.02)

    @parameterized.parameters(_needed, _curvature)
    def test_others_against_differences(self, function):
        self._check(function)

    @parameterized.parameters(_probability, _vanishing, _best)
    @pytest.mark.slow
    def test_distributions_against_differences(self, function):
        """Compositions of rules that the tests of `special` hold to SciPy."""
        slopes = self._check(function)
        if function is _probability:
            self.assertEqual(slopes(np.array([0.0, 1.0, 0.5, 0.0]))[0], 0.0)

    def _check(self, function):
        point, step = np.array([0.8, 1.1, 0.3, 0.4]), 1e-6
        slopes = jax.jit(jax.grad(function))
        difference = [
            (function(point + step * e) - function(point - step * e)) / (2 * step)
            for e in np.eye(4)
        ]
        np.testing.assert_allclose(slopes(point), difference, rtol=1e-7, atol=1e-8)
        return slopes


_OF_ONE_NUMBER = (
    lambda v: hidden_cost.ball_class_probability(v, radius=1.0, sigma=0.3, dim=3),
    lambda v: hidden_cost.smoothed_ball_radius(1.0, sigma=v, dim=3),
    lambda v: hidden_cost.ball_vanishing_sigma(1.0, dim=3, threshold=v),
    lambda v: hidden_cost.ball_radius_bounds(1.0, sigma=v, dim=3)[0],
    lambda v: hidden_cost.curvature_shift([1.0, 2.0], sigma=v),
    lambda v: hidden_cost.max_certified_quantile(num_samples=100, alpha=v),
    lambda v: hidden_cost.min_sigma_for_radius(v, num_samples=100, alpha=0.1),
    lambda v: (
        hidden_cost.best_center_certificate(v, dim=3, num_samples=100, alpha=0.1).radius
    ),
)


class ContractTest(parameterized.TestCase):
    @parameterized.parameters(*_OF_ONE_NUMBER)
    def test_numbers_are_float64_and_arrays_keep_their_dtype(self, function):
        for x64 in (False, True):
            with jax.enable_x64(x64):
                self.assertIsInstance(function(0.5), np.float64)
                self.assertEqual(function(np.float32(0.5)), function(0.5))
        with jax.enable_x64(True):
            kept = jax.eval_shape(function, jnp.asarray(0.5, jnp.float64))
        self.assertEqual(kept.dtype, jnp.float64)

    @parameterized.parameters(*_OF_ONE_NUMBER)
    def test_shapes_under_jit_and_vmap(self, function):
        with jax.enable_x64(True):
            at = jnp.ones((2, 3), jnp.float32)
            out = jax.eval_shape(jax.jit(jax.vmap(function)), at)
        self.assertEqual((out.shape, out.dtype), ((2, 3), jnp.float32))

    @pytest.mark.newest
    def test_nan_where_nothing_is_left(self):
        """The vanishing level is .6501."""
        for sigma, is_empty in ((0.3, False), (0.65, False), (0.651, True), (9, True)):
            r = hidden_cost.smoothed_ball_radius(1.0, sigma=sigma, dim=3)
            self.assertEqual(bool(np.isnan(r)), is_empty)
        grown = hidden_cost.smoothed_ball_radius(1.0, sigma=0.1, dim=1, threshold=0.1)
        self.assertGreater(grown, 1.0)

    @parameterized.parameters(
        ("ball_class_probability", dict(radius=0.0), "radius"),
        ("ball_class_probability", dict(sigma=-1.0), "sigma"),
        ("smoothed_ball_radius", dict(radius=-1.0), "radius"),
        ("smoothed_ball_radius", dict(sigma=0.0), "sigma"),
        ("smoothed_ball_radius", dict(sigma=[0.1, np.nan]), "sigma"),
        ("smoothed_ball_radius", dict(dim=0.5), "dim"),
        ("smoothed_ball_radius", dict(threshold=1.0), "threshold"),
        ("smoothed_ball_radius", dict(threshold=0.0), "threshold"),
        ("ball_vanishing_sigma", dict(radius=np.inf), "radius"),
        ("ball_vanishing_sigma", dict(dim=0), "dim"),
        ("ball_vanishing_sigma", dict(threshold=-0.1), "threshold"),
        ("ball_radius_bounds", dict(dim=0), "dim"),
        ("ball_radius_bounds", dict(sigma=0.0), "sigma"),
        ("curvature_shift", dict(sigma=0.0), "sigma"),
        ("max_certified_quantile", dict(num_samples=0), "num_samples"),
        ("max_certified_quantile", dict(num_samples=0.5), "num_samples"),
        ("max_certified_quantile", dict(alpha=0.0), "alpha"),
        ("min_sigma_for_radius", dict(radius=0.0), "radius"),
        ("min_sigma_for_radius", dict(alpha=1.0), "alpha"),
        ("best_center_certificate", dict(radius=-1.0), "radius"),
        ("best_center_certificate", dict(dim=0), "dim"),
        ("best_center_certificate", dict(num_samples=0), "num_samples"),
        ("best_center_certificate", dict(alpha=1.0), "alpha"),
    )
    def test_refuses(self, name, bad, text):
        first = {
            "ball_class_probability": "distance",
            "curvature_shift": "curvatures",
        }.get(name, "radius")
        good = {
            "ball_class_probability": dict(distance=0.5, radius=1.0, sigma=1.0, dim=3),
            "smoothed_ball_radius": dict(radius=1.0, sigma=1.0, dim=3),
            "ball_vanishing_sigma": dict(radius=1.0, dim=3),
            "ball_radius_bounds": dict(radius=1.0, sigma=1.0, dim=3),
            "curvature_shift": dict(curvatures=[1.0], sigma=1.0),
            "max_certified_quantile": dict(num_samples=10, alpha=0.1),
            "min_sigma_for_radius": dict(radius=1.0, num_samples=10, alpha=0.1),
            "best_center_certificate": dict(
                radius=1.0, dim=3, num_samples=10, alpha=0.1
            ),
        }[name]
        arguments = good | bad
        positional = [arguments.pop(first)] if first in arguments else []
        with self.assertRaisesRegex(ValueError, f"Expected {text} "):
            getattr(hidden_cost, name)(*positional, **arguments)


if __name__ == "__main__":
    absltest.main()
