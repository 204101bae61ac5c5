"""Samples of a Gaussian pair and their streamed moments."""

import functools
import itertools

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from absl.testing import absltest, parameterized

from robustjax import synbench

_KEY = jax.random.key(0)
_sample = jax.jit(
    synbench.sample, static_argnames=("num_samples", "valid_range", "is_stratified")
)
_shrinkage = jax.jit(synbench.oas_shrinkage)

_MEAN = np.array([1.0, -2.0, 0.5], np.float32)
_ROOT = np.array([[1.0, 0, 0], [0.5, 1.5, 0], [0, -0.3, 0.2]], np.float32)
_FACTORS = np.array([[1.0, 0.5, 0.0], [0.0, 0.2, -1.0]], np.float32)
_VARIANCES = np.array([0.5, 1.0, 3.0], np.float32)


@jax.jit
def _whole_and_parts(mean, starts):
    draw = functools.partial(synbench.sample, _KEY, mean)
    sizes = (32, 16, 22)
    parts = [draw(num_samples=n, start=s) for n, s in zip(sizes, starts, strict=True)]
    return draw(num_samples=70), parts


@functools.partial(jax.jit, static_argnames="num_samples")
def _moments_by_covariance(num_samples):
    """Mean of the labels, moments and covariance of samples of each kind."""
    kinds = {
        "identity": None,
        "number": 2.0,
        "variances": _VARIANCES,
        "matrix": _ROOT @ _ROOT.T,
        "factors": synbench.FactorCovariance(_VARIANCES, _FACTORS),
    }
    found = {}
    for kind, covariance in kinds.items():
        x, y = synbench.sample(
            _KEY,
            _MEAN,
            num_samples=num_samples,
            covariance=covariance,
            prior=0.3,
            center=0.5,
        )
        moments = synbench.feature_moments(x, y)
        found[kind] = y.mean(), moments, synbench.pooled_covariance(moments)
    return found


class SampleTest(parameterized.TestCase):
    @pytest.mark.newest
    def test_batches_are_parts_of_one_sequence(self):
        whole, parts = _whole_and_parts(np.ones((3, 2), np.float32), (0, 32, 48))
        joined = jax.tree.map(lambda *leaves: np.concatenate(leaves), *parts)
        np.testing.assert_array_equal(joined.x, whole.x)
        np.testing.assert_array_equal(joined.y, whole.y)

    def test_moments_are_those_asked_for(self):
        n, covariances = 100_000, {
            "identity": np.eye(3),
            "number": 2 * np.eye(3),
            "variances": np.diag(_VARIANCES),
            "matrix": _ROOT @ _ROOT.T,
            "factors": np.diag(_VARIANCES) + _FACTORS.T @ _FACTORS,
        }  # fmt: skip
        found = _moments_by_covariance(num_samples=n)
        for kind, expected in covariances.items():
            with self.subTest(kind):
                share, moments, own = jax.tree.map(np.asarray, found[kind])
                self.assertLess(abs(share - 0.3), 4 * np.sqrt(0.21 / n))
                sizes = np.sqrt(np.diag(expected) / n / 0.3)
                for label, sign in enumerate((-1, 1)):
                    gap = abs(moments.mean[label] - (0.5 + sign * _MEAN))
                    np.testing.assert_array_less(gap, 5 * sizes)
                error = np.outer(*[np.sqrt(np.diag(expected))] * 2) * 5 * np.sqrt(2 / n)
                np.testing.assert_array_less(abs(own - expected), error)

    def test_noise_is_normal_and_independent(self):
        x = np.asarray(_sample(_KEY, np.zeros(2, "f"), num_samples=50_000).x)
        self.assertEqual(x.dtype, np.float32)
        self.assertLess(abs(float((x**4).mean()) - 3), 0.1)
        products = (x[1:] * x[:-1]).mean(axis=0)
        np.testing.assert_array_less(abs(products), 5 / np.sqrt(50_000))
        self.assertLess(abs((x[:, 0] * x[:, 1]).mean()), 5 / np.sqrt(50_000))

    def test_stratified_shares_are_exact(self):
        for prior in (0.5, 0.3, 0.75):
            _, y = _sample(
                _KEY, np.ones(1), num_samples=200, prior=prior, is_stratified=True
            )
            counts = np.cumsum(y)
            errors = abs(counts - prior * np.arange(1, 201))
            np.testing.assert_array_less(errors, 1.0001)
            self.assertEqual(counts[-1], round(200 * prior))

    def test_clips_to_the_valid_range(self):
        x, _ = _sample(
            _KEY, np.ones(2), num_samples=100, center=0.5, valid_range=(0.0, 1.0)
        )
        x = np.asarray(x)
        self.assertTrue(((x >= 0) & (x <= 1)).all())
        self.assertGreater((x == 0).mean(), 0.1)

    def test_jit_vmap_and_grad(self):
        def mean_of_ones(mean):
            x, y = synbench.sample(_KEY, mean, num_samples=64)
            return jnp.sum(x * y[:, None]) / jnp.sum(y)

        both = jax.value_and_grad(mean_of_ones)
        means = np.arange(6, dtype=np.float32).reshape(3, 2)
        values, slopes = jax.jit(jax.vmap(both))(means)
        value, slope = jax.jit(both)(means[2])
        np.testing.assert_allclose(values[2], value, rtol=1e-5)
        np.testing.assert_allclose(slopes, 1, rtol=1e-5)
        np.testing.assert_allclose(slope, 1, rtol=1e-5)

    def test_refuses(self):
        for options, text in (
            ({"num_samples": 0}, "num_samples"),
            ({"num_samples": 5, "prior": 0.0}, "prior"),
            ({"num_samples": 5, "start": 3}, "start"),
            ({"num_samples": 5, "start": -16}, "start"),
            ({"num_samples": 5, "covariance": np.ones(3)}, "covariance"),
        ):
            with self.assertRaisesRegex(ValueError, text):
                jax.eval_shape(lambda o=options: synbench.sample(_KEY, np.ones(2), **o))
        with self.assertRaisesRegex(ValueError, "dimension"):
            synbench.sample(_KEY, 1.0, num_samples=3)


@jax.jit
def _merged_parts(x, y):
    merged = None
    for low, high in itertools.pairwise([0, 10, 11, 60, 100]):
        own = synbench.feature_moments(x[low:high], y[low:high], num_classes=3)
        merged = own if merged is None else synbench.merge_moments(merged, own)
    return merged, synbench.pooled_covariance(merged)


class MomentsTest(parameterized.TestCase):
    def test_merged_batches_are_the_whole_far_from_zero(self):
        rng = np.random.default_rng(0)
        x = 1e6 + rng.normal(size=(100, 4))
        y = rng.integers(0, 3, 100)
        with jax.enable_x64(True):
            merged, covariance = jax.tree.map(np.asarray, _merged_parts(x, y))
        mean = np.stack([x[y == c].mean(axis=0) for c in range(3)])
        centred = x - mean[y]
        scatter = centred.T @ centred
        np.testing.assert_array_equal(merged.counts, np.bincount(y))
        np.testing.assert_allclose(merged.mean, mean, rtol=1e-14)
        np.testing.assert_allclose(merged.scatter, scatter, rtol=1e-7, atol=1e-6)
        np.testing.assert_allclose(covariance, scatter / 97, atol=1e-7)

    def test_empty_classes_and_padding(self):
        x = np.array([[1.0], [3.0], [9.0]], np.float32)
        found = jax.jit(synbench.feature_moments)(x, np.array([0, 0, -1]))
        np.testing.assert_array_equal(found.counts, [2, 0])
        np.testing.assert_array_equal(found.mean, [[2], [0]])
        np.testing.assert_array_equal(found.scatter, [[2]])

    def test_labels_beyond_int32_are_of_no_class(self):
        x = np.array([[1.0], [3.0], [9.0]], np.float32)
        labels = np.array([1, 2**32, 2**40 + 1])
        on_device = jax.jit(lambda x: synbench.feature_moments(x, labels))
        for found in (on_device(x), synbench.numpy_moments(x, labels)):
            np.testing.assert_array_equal(found.counts, [0, 1])

    def test_shrinkage_is_that_of_scikit_learn(self):
        from sklearn import covariance

        rng = np.random.default_rng(0)
        for n, p in ((20, 5), (30, 40), (500, 5)):
            x = rng.normal(size=(n, p)) * np.linspace(0.5, 3, p)
            centred = x - x.mean(axis=0)
            with jax.enable_x64(True):
                own = _shrinkage(centred.T @ centred / n, num_samples=float(n))
            expected = covariance.oas(x)[1]
            np.testing.assert_allclose(float(own), expected, rtol=1e-10)
        with self.assertRaisesRegex(ValueError, "num_samples"):
            synbench.oas_shrinkage(np.eye(2), num_samples=0)

    def test_refuses_other_shapes(self):
        with self.assertRaisesRegex(ValueError, "features"):
            synbench.feature_moments(np.ones((3, 2)), np.zeros(2, int))


if __name__ == "__main__":
    absltest.main()
