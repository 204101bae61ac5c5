"""Mean margins of correct inputs: noted values, quadrature, samples, limits."""

import jax
import jax.numpy as jnp
import numpy as np
from absl.testing import absltest, parameterized
from jax.test_util import check_grads
from scipy import integrate, stats

from robustjax import gaussian


class ScaledBoundTest(parameterized.TestCase):
    @parameterized.parameters(
        (0.6, 3.541589047299),
        (0.7, 1.947183922469),
        (0.75, 1.628181668867),
        (0.9, 1.152157862262),
        (0.99, 1.011572368888),
        (0.999, 1.001090681931),
    )
    def test_noted_values_by_accuracy(self, accuracy, expected):
        bound = gaussian.expected_scaled_bound(accuracy)
        np.testing.assert_allclose(bound, expected, rtol=1e-12)
        back = gaussian.accuracy_of_scaled_bound(bound)
        np.testing.assert_allclose(back, accuracy, rtol=1e-12)
        single = gaussian.expected_scaled_bound(jnp.float32(accuracy))
        np.testing.assert_allclose(single, expected, rtol=2e-5)

    @parameterized.parameters(
        (0.1, 8.353317485058), (2, 1.027623931339), (3, 1.001479279681),
        (4.9, 1.000000497747),
    )  # fmt: skip
    def test_noted_values_by_signal(self, signal, expected):
        found = gaussian.scaled_bound_of_signal(float(signal))
        np.testing.assert_allclose(found, expected, rtol=1e-12)
        single = gaussian.scaled_bound_of_signal(jnp.float32(signal))
        np.testing.assert_allclose(single, expected, rtol=2e-5)

    def test_is_the_mean_of_a_truncated_normal(self):
        for r in (0.05, 0.7, 2.5, 6.0):
            above = integrate.quad(lambda u, r=r: u * stats.norm.pdf(u - r), 0, r + 12)
            expected = above[0] / (stats.norm.cdf(r) * r)
            found = gaussian.scaled_bound_of_signal(r)
            np.testing.assert_allclose(found, expected, rtol=1e-10)

    def test_ends(self):
        found = gaussian.expected_scaled_bound([0.5, 1.0, 0.499, 1.1, 0.0])
        np.testing.assert_array_equal(found, [np.inf, 1, np.nan, np.nan, np.nan])
        found = gaussian.accuracy_of_scaled_bound([np.inf, 1.0, 0.9])
        np.testing.assert_array_equal(found, [0.5, 1, np.nan])
        with_signal = gaussian.scaled_bound_of_signal(jnp.float32([0, 12, 40, -1]))
        np.testing.assert_array_equal(with_signal, [np.inf, 1, 1, np.nan])

    def test_the_inverse_reaches_both_ends(self):
        signals = np.geomspace(1e-6, 7.5, 60)
        bounds = gaussian.scaled_bound_of_signal(signals)
        back = gaussian.accuracy_of_scaled_bound(bounds)
        np.testing.assert_allclose(back, stats.norm.cdf(signals), rtol=1e-10)

    def test_derivatives(self):
        with jax.enable_x64(True):
            for fn, at in (
                (gaussian.expected_scaled_bound, 0.7),
                (gaussian.scaled_bound_of_signal, 1.3),
                (gaussian.accuracy_of_scaled_bound, 1.4),
            ):
                check_grads(fn, (jnp.asarray(at),), order=1)
        slopes = jax.vmap(jax.grad(gaussian.scaled_bound_of_signal))(
            jnp.float32([0.0, 0.1, 9.0])
        )
        self.assertTrue(np.isfinite(slopes).all())


class ExpectedMarginTest(parameterized.TestCase):
    @parameterized.product(prior=(0.5, 0.3), offset=(0.0, 0.4))
    def test_is_the_mean_over_correct_samples(self, prior, offset):
        mean, covariance = np.array([1.0, -0.4]), np.array([[1.0, 0.3], [0.3, 2.0]])
        weight = np.array([0.8, 0.1])
        rng = np.random.default_rng(0)
        y = rng.random(1_000_000) < prior
        x = rng.multivariate_normal(np.zeros(2), covariance, len(y))
        x += np.where(y, 1, -1)[:, None] * mean
        margin = np.where(y, 1, -1) * (x @ weight - offset)
        correct = margin[margin > 0]
        error = correct.std() / np.sqrt(len(correct))
        found = gaussian.expected_margin(
            weight, mean, covariance, offset=offset, prior=prior
        )
        length = np.linalg.norm(weight)
        self.assertLess(abs(found.distance * length - correct.mean()), 4 * error)
        np.testing.assert_allclose(
            found.scaled, found.distance * length / (weight @ mean), rtol=1e-12
        )

    def test_is_a_function_of_the_accuracy_alone_for_equal_priors(self):
        rng = np.random.default_rng(1)
        for _ in range(5):
            root, mean = rng.normal(size=(3, 3)), rng.normal(size=3)
            weight = rng.normal(size=3)
            weight *= np.sign(weight @ mean)
            covariance = root @ root.T
            accuracy = gaussian.linear_accuracy(weight, mean, covariance)
            found = gaussian.expected_margin(weight, mean, covariance).scaled
            expected = gaussian.expected_scaled_bound(accuracy)
            np.testing.assert_allclose(found, expected, rtol=1e-9)

    def test_isotropic(self):
        found = gaussian.expected_margin([2.0, 0.0], [1.5, 0.0], 4.0).distance
        r = 0.75
        expected = 1.5 + 2 * stats.norm.pdf(r) / stats.norm.cdf(r)
        np.testing.assert_allclose(found, expected, rtol=1e-12)


if __name__ == "__main__":
    absltest.main()
