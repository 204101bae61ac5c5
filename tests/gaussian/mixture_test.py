"""Samples of a Gaussian pair and their streamed moments."""

import itertools

import jax
import jax.numpy as jnp
import numpy as np
from absl.testing import absltest, parameterized

from robustjax import gaussian

_KEY = jax.random.key(0)


class SampleTest(parameterized.TestCase):
    def test_batches_are_parts_of_one_sequence(self):
        mean = jnp.ones((3, 2))
        whole = gaussian.sample(_KEY, mean, num_samples=70)
        parts = [
            gaussian.sample(_KEY, mean, num_samples=n, start=start)
            for start, n in ((0, 32), (32, 16), (48, 22))
        ]
        joined = jax.tree.map(lambda *leaves: np.concatenate(leaves), *parts)
        np.testing.assert_array_equal(joined.x, whole.x)
        np.testing.assert_array_equal(joined.y, whole.y)

    @parameterized.parameters("identity", "number", "variances", "matrix", "factors")
    def test_moments_are_those_asked_for(self, kind):
        mean = jnp.array([1.0, -2.0, 0.5])
        root = jnp.array([[1.0, 0, 0], [0.5, 1.5, 0], [0, -0.3, 0.2]])
        factors = jnp.array([[1.0, 0.5, 0.0], [0.0, 0.2, -1.0]])
        variances = jnp.array([0.5, 1.0, 3.0])
        covariance, expected = {
            "identity": (None, np.eye(3)),
            "number": (2.0, 2 * np.eye(3)),
            "variances": (variances, np.diag(variances)),
            "matrix": (root @ root.T, root @ root.T),
            "factors": (
                gaussian.FactorCovariance(variances, factors),
                np.diag(variances) + factors.T @ factors,
            ),
        }[kind]
        n = 100_000
        x, y = gaussian.sample(
            _KEY, mean, num_samples=n, covariance=covariance, prior=0.3, center=0.5
        )
        self.assertLess(abs(float(y.mean()) - 0.3), 4 * np.sqrt(0.21 / n))
        found = gaussian.feature_moments(x, y)
        sizes = np.sqrt(np.diag(expected) / n / 0.3)
        np.testing.assert_array_less(abs(found.mean[1] - (0.5 + mean)), 5 * sizes)
        np.testing.assert_array_less(abs(found.mean[0] - (0.5 - mean)), 5 * sizes)
        error = np.outer(*[np.sqrt(np.diag(expected))] * 2) * 5 * np.sqrt(2 / n)
        own = np.asarray(gaussian.pooled_covariance(found))
        np.testing.assert_array_less(abs(own - expected), error)

    def test_noise_is_normal_and_independent(self):
        x, _ = gaussian.sample(_KEY, jnp.zeros(2), num_samples=50_000)
        self.assertLess(abs(float((x**4).mean()) - 3), 0.1)
        products = np.asarray(x[1:] * x[:-1]).mean(axis=0)
        np.testing.assert_array_less(abs(products), 5 / np.sqrt(50_000))

    @parameterized.parameters(0.5, 0.3, 0.75)
    def test_stratified_shares_are_exact(self, prior):
        _, y = gaussian.sample(
            _KEY, jnp.ones(1), num_samples=200, prior=prior, is_stratified=True
        )
        counts = np.cumsum(y)
        np.testing.assert_array_less(abs(counts - prior * np.arange(1, 201)), 1.0001)
        self.assertEqual(counts[-1], round(200 * prior))

    def test_clips_to_the_valid_range(self):
        x, _ = gaussian.sample(
            _KEY, jnp.ones(2), num_samples=100, center=0.5, valid_range=(0.0, 1.0)
        )
        self.assertTrue(bool(((x >= 0) & (x <= 1)).all()))
        self.assertGreater(float((x == 0).mean()), 0.1)

    def test_jit_vmap_and_grad(self):
        def mean_of_ones(mean):
            x, y = gaussian.sample(_KEY, mean, num_samples=64)
            return jnp.sum(x * y[:, None]) / jnp.sum(y)

        means = jnp.arange(6.0).reshape(3, 2)
        found = jax.jit(jax.vmap(mean_of_ones))(means)
        np.testing.assert_allclose(found[2], mean_of_ones(means[2]), rtol=1e-5)
        np.testing.assert_allclose(jax.grad(mean_of_ones)(means[1]), 1, rtol=1e-5)

    def test_refuses(self):
        for options, text in (
            ({"num_samples": 0}, "num_samples"),
            ({"num_samples": 5, "prior": 0.0}, "prior"),
            ({"num_samples": 5, "start": 3}, "start"),
            ({"num_samples": 5, "covariance": jnp.ones(3)}, "covariance"),
        ):
            with self.assertRaisesRegex(ValueError, text):
                gaussian.sample(_KEY, jnp.ones(2), **options)
        with self.assertRaisesRegex(ValueError, "dimension"):
            gaussian.sample(_KEY, 1.0, num_samples=3)


class MomentsTest(parameterized.TestCase):
    def test_merged_batches_are_the_whole_far_from_zero(self):
        rng = np.random.default_rng(0)
        with jax.enable_x64(True):
            x = 1e6 + rng.normal(size=(100, 4))
            y = rng.integers(0, 3, 100)
            cuts = [0, 10, 11, 60, 100]
            merged = None
            for low, high in itertools.pairwise(cuts):
                own = gaussian.feature_moments(x[low:high], y[low:high], num_classes=3)
                merged = own if merged is None else gaussian.merge_moments(merged, own)
            mean = np.stack([x[y == c].mean(axis=0) for c in range(3)])
            centred = x - mean[y]
            np.testing.assert_array_equal(merged.counts, np.bincount(y))
            np.testing.assert_allclose(merged.mean, mean, rtol=1e-14)
            np.testing.assert_allclose(
                merged.scatter, centred.T @ centred, rtol=1e-7, atol=1e-6
            )
            covariance = np.asarray(gaussian.pooled_covariance(merged))
        np.testing.assert_allclose(covariance, centred.T @ centred / 97, atol=1e-7)

    def test_empty_classes_and_padding(self):
        x = jnp.array([[1.0], [3.0], [9.0]])
        found = gaussian.feature_moments(x, jnp.array([0, 0, -1]))
        np.testing.assert_array_equal(found.counts, [2, 0])
        np.testing.assert_array_equal(found.mean, [[2], [0]])
        np.testing.assert_array_equal(found.scatter, [[2]])

    def test_shrinkage_is_that_of_scikit_learn(self):
        from sklearn import covariance

        rng = np.random.default_rng(0)
        for n, p in ((20, 5), (30, 40), (500, 8)):
            x = rng.normal(size=(n, p)) * np.linspace(0.5, 3, p)
            centred = x - x.mean(axis=0)
            with jax.enable_x64(True):
                own = gaussian.oas_shrinkage(centred.T @ centred / n, num_samples=n)
            expected = covariance.oas(x)[1]
            np.testing.assert_allclose(float(own), expected, rtol=1e-10)

    def test_refuses_other_shapes(self):
        with self.assertRaisesRegex(ValueError, "features"):
            gaussian.feature_moments(jnp.ones((3, 2)), jnp.zeros(2, int))


if __name__ == "__main__":
    absltest.main()
