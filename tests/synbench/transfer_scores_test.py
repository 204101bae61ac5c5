"""RankMe, LogME and H-score against NumPy on the features and SciPy on the evidence."""

import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from absl.testing import absltest, parameterized
from scipy import optimize, stats

from robustjax import synbench
from robustjax.synbench import transfer_scores

_SCORES = (transfer_scores.rank_me, transfer_scores.log_me, transfer_scores.h_score)
_moments = functools.partial(transfer_scores.numpy_moments, num_classes=4)


def _data(seed, n=40):
    rng, y = np.random.default_rng(seed), np.arange(n) % 4
    noise = rng.normal(size=(n, 5)) @ rng.normal(size=(5, 5))
    return noise + rng.normal(size=(4, 5))[y] + 0.5, y


def _scores(moments):
    return np.array([score(moments) for score in _SCORES])


def _largest_evidence(x, y):
    """Per sample, of Gaussian labels; over alpha and beta, from two starts.

    The covariance of the labels is I / beta + x x' / alpha, in the eigenbasis of x x'.
    """
    values, vectors = np.linalg.eigh(x @ x.T)

    def loss(logs, squares):
        alpha, beta = np.exp(logs)
        variances = 1 / beta + np.maximum(values, 0) / alpha
        return 0.5 * np.sum(np.log(2 * np.pi * variances) + squares / variances)

    covariance = np.eye(len(x)) / 3 + x @ x.T / 2
    expected = -stats.multivariate_normal.logpdf(y, cov=covariance)
    np.testing.assert_allclose(loss(np.log([2, 3]), (y @ vectors) ** 2), expected)
    best = [
        min(
            optimize.minimize(
                loss,
                start,
                args=((1.0 * (y == label)) @ vectors) ** 2,
                method="Nelder-Mead",
                bounds=[(-12, 40), (-3, 12)],
                options={"fatol": 1e-10, "xatol": 1e-6},
            ).fun
            for start in ((1, 1), (30, 1))
        )
        for label in np.unique(y)
    ]
    return -np.mean(best) / len(x)


@jax.jit
def _merged_halves(x, y):
    halves = (
        synbench.feature_moments(x[i::2], y[i::2], num_classes=4) for i in range(2)
    )
    return synbench.merge_moments(*halves)


class OracleTest(parameterized.TestCase):
    @parameterized.parameters("plain", "few samples", "low rank", "empty classes")
    def test_scores_of_the_features_themselves(self, kind):
        for seed in range(5):
            x, y = _data(seed, n=4 if kind == "few samples" else 40)
            if kind == "low rank":
                x[:, 3], x[:, 4] = x[:, 0] - x[:, 1], 0
            if kind != "plain":
                y = 3 * (y % 2)
            moments, values = _moments(x, y), np.linalg.svd(x, compute_uv=False)
            for epsilon in (0.0, 1e-7, 0.1):
                share = np.maximum(values / values.sum() + epsilon, 1e-99)
                expected = np.exp(-share @ np.log(share))
                found = transfer_scores.rank_me(moments, epsilon=epsilon)
                np.testing.assert_allclose(found, expected, rtol=1e-5)
            means = np.stack([x[y == label].mean(axis=0) for label in y])
            total, between = (np.cov(v, rowvar=False) for v in (x, means))
            expected = np.trace(np.linalg.pinv(total, rcond=1e-10) @ between)
            found = transfer_scores.h_score(moments)
            np.testing.assert_allclose(found, expected, rtol=1e-8)
            if kind == "few samples":
                np.testing.assert_allclose(found, 1, rtol=1e-8)  # c - 1, as is said

    @pytest.mark.newest
    def test_log_me_is_the_largest_evidence(self):
        for kind in ("plain", "low rank", "empty classes"):
            x, y = _data(0)
            if kind == "low rank":
                x[:, 3], x[:, 4] = x[:, 0] - x[:, 1], 0
            elif kind == "empty classes":
                y = 3 * (y % 2)
            with self.subTest(kind):
                found = transfer_scores.log_me(_moments(x, y))
                np.testing.assert_allclose(found, _largest_evidence(x, y), rtol=1e-6)

    def test_log_me_is_never_above_the_largest_evidence(self):
        for seed in range(3):
            x, y = _data(seed)
            x *= 10.0 ** np.random.default_rng(seed).uniform(-2, 2, 5)
            found = transfer_scores.log_me(_moments(x, y))
            self.assertLessEqual(found, _largest_evidence(x, y) + 1e-8)

    def test_log_me_without_features(self):
        y = np.array([0, 0, 0, 1] * 10)
        found = transfer_scores.log_me(_moments(np.zeros((40, 5)), y))
        evidence = [
            stats.norm.logpdf(own, scale=np.sqrt(own.mean())).mean()
            for own in (y, 1 - y)
        ]
        np.testing.assert_allclose(found, np.mean(evidence), rtol=1e-12)


class SameScoresTest(parameterized.TestCase):
    def test_of_streams_and_maps(self):
        x, y = _data(1)
        rng, expected = np.random.default_rng(0), _scores(_moments(x, y))
        batches = [_moments(x[i : i + 10], y[i : i + 10]) for i in range(0, 40, 10)]
        with jax.enable_x64(True):  # else they merge in float32
            merged = functools.reduce(jax.jit(synbench.merge_moments), batches)
            np.testing.assert_allclose(_scores(merged), expected, rtol=1e-10)
        padded = _moments(np.r_[x, 9 * x], np.r_[y, np.full(40, -1)])
        np.testing.assert_allclose(_scores(padded), expected, rtol=1e-10)
        turn = np.linalg.qr(rng.normal(size=(5, 5)))[0]
        turned = _scores(_moments(x @ turn, 3 - y))
        np.testing.assert_allclose(turned, expected, rtol=1e-10)
        rank = transfer_scores.rank_me(_moments(1e3 * x, y))
        np.testing.assert_allclose(rank, expected[0], rtol=1e-10)
        mapped = transfer_scores.h_score(_moments(7 + x @ rng.normal(size=(5, 5)), y))
        np.testing.assert_allclose(mapped, expected[2], rtol=1e-10)
        self.assertBetween(expected[2], 0, 3)

    def test_of_devices_and_dtypes(self):
        sets = [_moments(*_data(seed)) for seed in range(3)]
        expected = np.stack([_scores(own) for own in sets], axis=1)
        self.assertEqual(expected.dtype, np.float64)
        stacked = jax.tree.map(lambda *v: jnp.asarray(np.stack(v), jnp.float32), *sets)
        every = jax.jit(jax.vmap(lambda own: [score(own) for score in _SCORES]))
        np.testing.assert_allclose(every(stacked), expected, rtol=1e-3)
        with jax.enable_x64(True):
            double = jax.tree.map(jnp.asarray, sets[0])
            found = [score(double) for score in _SCORES]
        self.assertTrue(all(isinstance(v, np.generic) for v in found))
        np.testing.assert_array_equal(found, expected[:, 0])

    def test_moments_are_those_of_the_device_in_float64(self):
        x, y = _data(0)
        y = np.where(y == 3, -1, y)
        own = _moments(x.astype(np.float32), y)
        self.assertTrue(all(v.dtype == np.float64 for v in own))
        np.testing.assert_array_equal(own.counts, [10, 10, 10, 0])
        means = [x[y == label].mean(axis=0) for label in range(3)]
        np.testing.assert_allclose(own.mean, [*means, np.zeros(5)], rtol=1e-5)
        apart = np.concatenate([x[y == label] - means[label] for label in range(3)])
        np.testing.assert_allclose(own.scatter, apart.T @ apart, rtol=1e-5, atol=1e-5)


class EdgeCaseTest(parameterized.TestCase):
    def test_nothing_to_score(self):
        x, y = _data(0)
        for own in (_moments(x, 0 * y - 1), _moments(0 * x, 0 * y - 1)):
            np.testing.assert_array_equal(_scores(own), [0, np.nan, 0])
        self.assertEqual(transfer_scores.rank_me(_moments(0 * x, y)), 0)
        same = _moments(0 * x + 0.1, y)
        np.testing.assert_allclose(
            transfer_scores.rank_me(same, epsilon=0), 1, rtol=1e-12
        )
        self.assertEqual(transfer_scores.h_score(same), 0)
        one_class = transfer_scores.h_score(_moments(x, 0 * y))
        np.testing.assert_allclose(one_class, 0, atol=1e-14)

    def test_constant_features_add_nothing(self):
        (x, _), y = _data(0), np.arange(40) ** 2 % 7 % 4  # 17, 11, 12: means round
        whole = transfer_scores.h_score(_moments(np.c_[x[:, :3], 0 * x[:, 3:]], y))
        x[:, 3:] = 0.1, 12345.678
        np.testing.assert_allclose(transfer_scores.h_score(_moments(x, y)), whole)
        merged = _merged_halves(x.astype(np.float32), y)
        self.assertEqual(merged.scatter.dtype, jnp.float32)
        found = transfer_scores.h_score(merged)
        np.testing.assert_allclose(found, whole, rtol=1e-4)

    def test_not_finite(self):
        own = _moments(*_data(0))
        for value in (np.nan, np.inf):
            for name in ("mean", "scatter"):
                broken = getattr(own, name).copy()
                broken[1, 1] = value
                found = _scores(own._replace(**{name: broken}))
                self.assertTrue(np.isnan(found).all(), (name, value, found))

    def test_refuses(self):
        own, empty = _moments(*_data(0)), np.zeros((0, 0))
        wrong = (
            own._replace(counts=np.ones(3)),
            own._replace(scatter=np.ones((5, 4))),
            own._replace(mean=np.ones(5)),
            own._replace(mean=np.zeros((4, 0)), scatter=empty),
        )
        for moments in wrong:
            for score in _SCORES:
                with self.assertRaisesRegex(ValueError, r"counts \[c\], mean \[c, p\]"):
                    score(moments)
        with self.assertRaisesRegex(ValueError, "epsilon >= 0"):
            transfer_scores.rank_me(own, epsilon=-1e-7)
        with self.assertRaisesRegex(ValueError, r"labels \[n\], got \(2, 1\)"):
            transfer_scores.numpy_moments([[1.0], [2.0]], [1])


if __name__ == "__main__":
    absltest.main()
