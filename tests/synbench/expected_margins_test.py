"""Mean margins of correct inputs: noted values, quadrature, samples, limits."""

import itertools

import jax
import jax.numpy as jnp
import numeric_derivatives
import numpy as np
import pytest
from absl.testing import absltest, parameterized
from scipy import integrate, stats

from robustjax import synbench

_slopes = jax.jit(jax.vmap(jax.grad(synbench.scaled_bound_of_signal)))


class ScaledBoundTest(parameterized.TestCase):
    """All arrays have six entries, so that every function is compiled once."""

    @pytest.mark.newest
    def test_noted_values_by_accuracy(self):
        accuracy = np.array([0.6, 0.7, 0.75, 0.9, 0.99, 0.999])
        expected = [
            3.541589047299, 1.947183922469, 1.628181668867, 1.152157862262,
            1.011572368888, 1.001090681931,
        ]  # fmt: skip
        bound = synbench.expected_scaled_bound(accuracy)
        np.testing.assert_allclose(bound, expected, rtol=1e-12)
        back = synbench.accuracy_of_scaled_bound(bound)
        np.testing.assert_allclose(back, accuracy, rtol=1e-12)
        single = synbench.expected_scaled_bound(jnp.asarray(accuracy, jnp.float32))
        self.assertEqual(single.dtype, jnp.float32)
        np.testing.assert_allclose(single, expected, rtol=2e-5)

    def test_noted_values_by_signal(self):
        signal = np.array([0.1, 2, 3, 4.9, 0, -1])
        expected = [
            8.353317485058, 1.027623931339, 1.001479279681, 1.000000497747, np.inf,
            np.nan,
        ]  # fmt: skip
        found = synbench.scaled_bound_of_signal(signal)
        np.testing.assert_allclose(found, expected, rtol=1e-12)
        single = synbench.scaled_bound_of_signal(jnp.asarray(signal, jnp.float32))
        np.testing.assert_allclose(single, expected, rtol=2e-5)

    def test_is_the_mean_of_a_truncated_normal(self):
        signals = np.array([0.05, 0.2, 0.7, 1.3, 2.5, 6.0])
        found = synbench.scaled_bound_of_signal(signals)
        for r, own in zip(signals, found, strict=True):
            above = integrate.quad(lambda u, r=r: u * stats.norm.pdf(u - r), 0, r + 12)
            expected = above[0] / (stats.norm.cdf(r) * r)
            np.testing.assert_allclose(own, expected, rtol=1e-10)

    def test_ends(self):
        found = synbench.expected_scaled_bound([0.5, 1.0, 0.499, 1.1, 0.0, np.nan])
        np.testing.assert_array_equal(found, [np.inf, 1, *[np.nan] * 4])
        found = synbench.accuracy_of_scaled_bound([np.inf, 1, 0.9, -1, 0, np.nan])
        np.testing.assert_array_equal(found, [0.5, 1, *[np.nan] * 4])
        far = jnp.array([0, 12, 40, -1, 300, -0.0], jnp.float32)
        found = synbench.scaled_bound_of_signal(far)
        np.testing.assert_array_equal(found, [np.inf, 1, 1, np.nan, 1, np.inf])

    def test_the_inverse_reaches_both_ends(self):
        for signals in np.geomspace(1e-6, 7.5, 60).reshape(10, 6):
            bounds = synbench.scaled_bound_of_signal(signals)
            back = synbench.accuracy_of_scaled_bound(bounds)
            np.testing.assert_allclose(back, stats.norm.cdf(signals), rtol=1e-10)

    def test_derivatives(self):
        def bounds(accuracy, signal, bound):
            return (
                synbench.expected_scaled_bound(accuracy),
                synbench.scaled_bound_of_signal(signal),
                synbench.accuracy_of_scaled_bound(bound),
            )

        numeric_derivatives.assert_close(bounds, 0.7, 1.3, 1.4)
        slopes = _slopes(jnp.array([0.0, 0.1, 9.0], jnp.float32))
        self.assertTrue(np.isfinite(slopes).all())


class ExpectedMarginTest(parameterized.TestCase):
    def test_is_the_mean_over_correct_samples(self):
        """A million samples, the same noise for both priors; 4 standard errors."""
        mean, covariance = np.array([1.0, -0.4]), np.array([[1.0, 0.3], [0.3, 2.0]])
        weight = np.array([0.8, 0.1])
        rng = np.random.default_rng(0)
        uniform = rng.random(1_000_000)
        noise = rng.standard_normal((len(uniform), 2)) @ (
            np.linalg.cholesky(covariance).T @ weight
        )
        for prior, offset in itertools.product((0.5, 0.3), (0.0, 0.4)):
            signs = np.where(uniform < prior, 1, -1)
            margin = weight @ mean + signs * (noise - offset)
            correct = margin[margin > 0]
            error = correct.std() / np.sqrt(len(correct))
            found = synbench.expected_margin(
                weight, mean, covariance, offset=offset, prior=prior
            )
            length = np.linalg.norm(weight)
            self.assertLess(abs(found.distance * length - correct.mean()), 4 * error)
            np.testing.assert_allclose(
                found.scaled, found.distance * length / (weight @ mean), rtol=1e-12
            )

    def test_is_a_function_of_the_accuracy_alone_for_equal_priors(self):
        rng = np.random.default_rng(1)
        for _ in range(20):
            root, mean = rng.normal(size=(2, 2)), rng.normal(size=2)
            weight = rng.normal(size=2)
            weight *= np.sign(weight @ mean)
            covariance = root @ root.T
            signal = weight @ mean / np.sqrt(weight @ covariance @ weight)
            found = synbench.expected_margin(weight, mean, covariance).scaled
            accuracy = np.full(6, stats.norm.cdf(signal))
            if accuracy[0] < 1 - 1e-6:  # else it does not tell the signal
                expected = synbench.expected_scaled_bound(accuracy)[0]
                np.testing.assert_allclose(found, expected, rtol=1e-9)

    def test_isotropic(self):
        found = synbench.expected_margin([2.0, 0.0], [1.5, 0.0], 4.0).distance
        r = 0.75
        expected = 1.5 + 2 * stats.norm.pdf(r) / stats.norm.cdf(r)
        np.testing.assert_allclose(found, expected, rtol=1e-12)


if __name__ == "__main__":
    absltest.main()
