"""Confidence sequences: exact coverage over all sample sizes, and their wealth."""

import functools

import jax.numpy as jnp
import mpmath
import numpy as np
import pytest
from absl.testing import absltest, parameterized
from scipy import stats

from robustjax.smoothing.confidence import binomial, sequences

_LOWER = sequences.binomial_sequence_lower
_UPPER = sequences.binomial_sequence_upper
_CLOPPER_PEARSON = binomial.clopper_pearson_lower
_ALPHA = 0.1
_BETS = np.geomspace(0.004, 0.98, 12).astype(np.float32).astype(np.float64)


@functools.cache
def _table(bound, max_trials: int, min_share: float) -> np.ndarray:
    """bound(k, n) at [n, k] for k >= min_share * n; elsewhere not wanted: NaN."""
    n, k = np.tril_indices(max_trials + 1)
    wanted = (k >= min_share * n) & (n > 0)
    table = np.full((max_trials + 1, max_trials + 1), np.nan)
    table[n[wanted], k[wanted]] = bound(k[wanted], n[wanted], alpha=_ALPHA)
    return table


def _crossing(is_wrong: np.ndarray, p: float) -> float:
    """P[is_wrong[n, successes after n trials] for any n]: the random walk, exactly."""
    alive = np.zeros(is_wrong.shape[1])
    alive[0], crossed = 1.0, 0.0
    for wrong in is_wrong[1:]:
        alive = alive * (1 - p) + np.append(0.0, alive[:-1]) * p
        crossed += alive[wrong].sum()
        alive = np.where(wrong, 0.0, alive)
    np.testing.assert_allclose(alive.sum() + crossed, 1, rtol=1e-12)
    return crossed


def _log_wealth(k: int, n: int, p: mpmath.mpf) -> mpmath.mpf:
    """The definition: an integral over the fraction u, by quadrature."""

    def integrand(u):
        prior = sum(
            weight * b * (1 - u) ** (b - 1)
            for weight, b in ((0.5, 1), (0.25, 16), (0.25, 256))
        )
        return prior * (1 + u * (1 - p) / p) ** k * (1 - u) ** (n - k)

    peak = max((mpmath.mpf(k) / n - p) / (1 - p), 0)
    width = mpmath.sqrt(p / (1 - p) / n)
    knots = {mpmath.mpf(0), mpmath.mpf(1), mpmath.mpf(1) / 16, mpmath.mpf(1) / 256}
    knots |= {peak + j * width for j in range(-24, 25, 2)}
    return mpmath.log(mpmath.quad(integrand, sorted(u for u in knots if 0 <= u <= 1)))


class BinomialSequenceTest(parameterized.TestCase):
    def test_coverage_over_all_sizes_is_exact(self):
        """P[the bound is ever above p in 90 trials], for p from 1/2 on."""
        lower = np.nan_to_num(_table(_LOWER, 90, 0.5))  # fewer successes: below 1/2
        crossing = [_crossing(lower > p, p) for p in np.linspace(0.5, 0.999, 100)]
        self.assertLessEqual(max(crossing), _ALPHA)
        self.assertGreater(max(crossing), 0.35 * _ALPHA)  # and not hopelessly low
        self.assertGreater(np.mean(crossing), 0.25 * _ALPHA)

    @parameterized.parameters(0.01, 0.1, 0.3, 0.5, 0.8, 0.95)
    def test_both_sides_cover_any_probability(self, p):
        lower, upper = _table(_LOWER, 45, 0.0), _table(_UPPER, 45, 0.0)
        self.assertLessEqual(_crossing(lower > p, p), _ALPHA)
        self.assertLessEqual(_crossing(upper < p, p), _ALPHA)

    @parameterized.parameters(0.6, 0.9, 0.97)
    def test_clopper_pearson_at_every_size_fails(self, p):
        lower = np.nan_to_num(_table(_CLOPPER_PEARSON, 300, 0.5))
        self.assertGreater(_crossing(lower > p, p), 2 * _ALPHA)

    @parameterized.parameters(
        (1, 1, 0.3),
        (1, 10, 0.05),
        (70, 100, 1e-3),
        (100, 100, 1e-3),
        (5_500, 10_000, 1e-3),
        (99_000, 100_000, 1e-3),
        (199_817, 200_000, 5e-4),
        (2_010_000, 4_000_000, 1e-3),
        (3_999_990, 4_000_000, 1e-6),
        (4_000_000, 4_000_000, 1e-3),
    )
    def test_wealth_at_the_bound_is_one_over_alpha(self, k, n, alpha):
        with mpmath.workdps(30):
            lower = mpmath.mpf(float(_LOWER(k, n, alpha=alpha)))
            excess = _log_wealth(k, n, lower) + mpmath.log(mpmath.mpf(alpha))
            self.assertGreater(excess, 0)
            self.assertLess(excess, 2e-5)
            upper = mpmath.mpf(float(_UPPER(n - k, n, alpha=alpha)))
            self.assertGreaterEqual(upper, 1 - lower)
            self.assertLess(upper, 1 - lower + mpmath.mpf(10) ** -15)

    @pytest.mark.newest
    def test_monotone_and_never_above_clopper_pearson(self):
        n = 300
        k = np.arange(n + 1)
        lower = _LOWER(k, n, alpha=1e-3)
        self.assertTrue(np.all(np.diff(lower) > 0))
        fixed = _CLOPPER_PEARSON(k, n, alpha=1e-3)
        self.assertTrue(np.all(lower[1:] < fixed[1:]))
        self.assertTrue(np.all(_LOWER(k, n, alpha=1e-2)[1:] > lower[1:]))
        upper = _UPPER(k, n, alpha=1e-3)
        self.assertTrue(
            np.all(upper >= binomial.clopper_pearson_upper(k, n, alpha=1e-3))
        )

    @parameterized.parameters(100, 1_000, 10_000, 100_000, 1_000_000)
    def test_price_over_clopper_pearson(self, n):
        k = np.round(np.array([0.51, 0.6, 0.75, 0.9, 0.99, 0.999, 1]) * n).astype(int)
        distance = k / n - _LOWER(k, n, alpha=1e-3)
        ratio = distance / (k / n - _CLOPPER_PEARSON(k, n, alpha=1e-3))
        self.assertLess(ratio.max(), 1.46)
        self.assertGreater(ratio.min(), 1.2)  # no fixed bet does better than 1.2

    def test_edges_and_shapes(self):
        self.assertEqual(_LOWER(0, 0, alpha=0.1), 0)
        self.assertEqual(_LOWER(0, 10, alpha=0.1), 0)
        self.assertEqual(_UPPER(10, 10, alpha=0.1), 1)
        self.assertEqual(_UPPER(0, 0, alpha=0.1), 1)
        for bound in (_LOWER, _UPPER):
            self.assertEqual(bound([[1], [2]], [5, 6, 7], alpha=0.1).shape, (2, 3))
            self.assertIsInstance(float(bound(3, 5, alpha=0.1)), float)
            self.assertEqual(bound(np.array([], int), 5, alpha=0.1).shape, (0,))
        counts = np.array([7], np.uint8)
        self.assertEqual(_UPPER(counts, 9, alpha=0.1), _UPPER(7, 9, alpha=0.1))

    @parameterized.parameters(
        (dict(num_success=3, num_trials=2), ValueError, "got 3 and 2"),
        (dict(num_success=-1, num_trials=2), ValueError, "got -1 and 2"),
        (dict(num_success=1.0, num_trials=2), TypeError, "num_success"),
        (dict(num_success=1, num_trials=2.5), TypeError, "num_trials"),
        (dict(num_success=1, num_trials=2, alpha=0.0), ValueError, "alpha"),
        (dict(num_success=1, num_trials=2, alpha=float("nan")), ValueError, "alpha"),
    )
    def test_refuses_bad_input(self, arguments, error, text):
        for bound in (_LOWER, _UPPER):
            with self.assertRaisesRegex(error, text):
                bound(**dict(alpha=0.1) | arguments)


def _mean_lower(losses: np.ndarray, *, alpha: float = 1e-3, **options) -> np.ndarray:
    """The bound of the mean of 1 - losses `[..., n]`, from sums in float64."""
    total = np.log1p(-losses[..., None] * _BETS).sum(axis=-2)
    return sequences.bounded_mean_lower(
        total, _BETS, num_samples=losses.shape[-1], alpha=alpha, **options
    )


def _empirical_bernstein(values: np.ndarray, alpha: float) -> float:
    """Maurer and Pontil (2009), Theorem 4."""
    n, log = len(values), np.log(2 / alpha)
    deviation = np.sqrt(2 * values.var(ddof=1) * log / n)
    return values.mean() - deviation - 7 * log / (3 * (n - 1))


class BoundedMeanTest(parameterized.TestCase):
    @parameterized.parameters((8.0, 2.0), (0.5, 0.1))
    def test_coverage_at_all_sizes(self, a, b):
        """Soft votes from Beta(a, b), looked at after every 100 of 1,000."""
        rng, runs, step = np.random.default_rng(3), 2_000, 100
        mean = a / (a + b)
        total, seen = np.zeros((runs, len(_BETS))), np.zeros(runs)
        is_wrong, is_half_wrong = np.zeros((2, runs), bool)
        for n in range(step, 1_001, step):
            losses = rng.beta(b, a, size=(runs, step))
            total += np.log(np.prod(1 - losses[..., None] * _BETS, axis=1))
            seen += losses.sum(axis=1)
            lower = sequences.bounded_mean_lower(
                total, _BETS, num_samples=n, alpha=_ALPHA
            )
            is_wrong |= lower > mean
            is_half_wrong |= (lower + 1 - seen / n) / 2 > mean
        slack = 3 * np.sqrt(_ALPHA * (1 - _ALPHA) / runs)
        self.assertLessEqual(is_wrong.mean(), _ALPHA + slack)
        self.assertGreater(is_wrong.mean(), 0.005)
        self.assertGreater(is_half_wrong.mean(), _ALPHA + slack)

    @parameterized.parameters((100, 1.55), (1_000, 1.55), (10_000, 1.55))
    def test_price_over_clopper_pearson_on_votes(self, n, price):
        k = np.round(np.array([0.55, 0.75, 0.9, 0.99, 1.0]) * n).astype(int)
        total = (n - k)[:, None] * np.log1p(-_BETS)
        lower = sequences.bounded_mean_lower(
            total, _BETS, num_samples=n, alpha=1e-3, relative_error=0
        )
        fixed = _CLOPPER_PEARSON(k, n, alpha=1e-3)
        self.assertTrue(np.all(lower < fixed))
        self.assertTrue(np.all(k / n - lower < price * (k / n - fixed)))

    @parameterized.parameters((9, 1, 300), (90, 10, 1_000), (2, 2, 10_000))
    def test_is_tighter_than_empirical_bernstein_and_adapts(self, a, b, n):
        losses = stats.beta.ppf((np.arange(n) + 0.5) / n, b, a)
        lower = _mean_lower(losses)
        self.assertGreater(lower, _empirical_bernstein(1 - losses, 1e-3))
        votes = np.arange(n) < n * b / (a + b)  # the same mean as 0 or 1
        self.assertGreater(lower, _mean_lower(votes.astype(float)))
        self.assertLess(lower, 1 - losses.mean())

    def test_wealth_at_the_bound_is_one_over_alpha(self):
        losses = np.random.default_rng(0).uniform(0, 0.6, 500)
        lower = _mean_lower(losses, relative_error=0)
        with mpmath.workdps(30):
            wealth = mpmath.fsum(
                mpmath.fprod(
                    (1 - mpmath.mpf(bet) * loss) / (1 - mpmath.mpf(bet) * (1 - lower))
                    for loss in losses
                )
                for bet in _BETS
            ) / len(_BETS)
            self.assertBetween(wealth, 1_000, 1_000 * (1 + 1e-6))

    @parameterized.parameters(0.02, 0.3)
    def test_float32_sums_are_on_the_safe_side(self, scale):
        losses = np.random.default_rng(1).uniform(0, scale, (800, 128)).astype("f")
        bets = jnp.array(_BETS, jnp.float32)[None, None]
        terms = jnp.log1p(-jnp.array(losses)[..., None] * bets)
        total = np.zeros(len(_BETS))
        for block in np.asarray(terms):  # one float32 after the other
            total += np.add.accumulate(block, dtype=np.float32)[-1]
        lower = sequences.bounded_mean_lower(
            total, _BETS, num_samples=losses.size, alpha=1e-3
        )
        exact = _mean_lower(losses.astype(np.float64).ravel(), relative_error=0)
        self.assertLess(lower, exact)
        self.assertLess(exact - lower, 0.02 * (1 - losses.mean() - exact))

    def test_sums_that_are_too_high_are_on_the_safe_side(self):
        losses = np.random.default_rng(2).uniform(0, 0.5, 10_000)
        exact = _mean_lower(losses, relative_error=0)
        total = np.log1p(-losses[:, None] * _BETS).sum(axis=0)
        kwargs = dict(bets=_BETS, num_samples=losses.size, alpha=1e-3)
        high = total * (1 - 0.99 * 2**-16)
        self.assertLess(sequences.bounded_mean_lower(high, **kwargs), exact)
        trusted = sequences.bounded_mean_lower(high, relative_error=0, **kwargs)
        self.assertGreater(trusted, exact)

    def test_edges_and_shapes(self):
        bound = sequences.bounded_mean_lower
        kwargs = dict(bets=_BETS, alpha=0.1)
        self.assertEqual(bound(np.zeros(12), num_samples=0, **kwargs), 0)
        for bad in (np.nan, np.inf, -np.inf):
            total = np.zeros((2, 12))
            total[1, 3] = bad
            first, second = bound(total, num_samples=[100, 100], **kwargs)
            self.assertGreater(first, 0.9)
            self.assertEqual(second, 0)
        many = bound(np.zeros((2, 3, 12)), num_samples=50, **kwargs)
        self.assertEqual(many.shape, (2, 3))
        each = np.broadcast_to(_BETS, (2, 3, 12))
        alike = bound(np.zeros((2, 3, 12)), each, num_samples=50, alpha=0.1)
        np.testing.assert_array_equal(many, alike)

    @parameterized.parameters(
        (dict(bets=[0.0, 0.5]), ValueError, "bets"),
        (dict(bets=[0.5, 1.0]), ValueError, "bets"),
        (dict(bets=[0.5]), ValueError, r"bets of shape \(2,\)"),
        (dict(bets=0.5), ValueError, "bets"),
        (dict(num_samples=1.5), TypeError, "num_samples"),
        (dict(num_samples=-1), ValueError, "num_samples >= 0, got -1"),
        (dict(num_samples=[1, 2]), ValueError, "num_samples"),
        (dict(alpha=1.0), ValueError, "alpha"),
        (dict(relative_error=1.0), ValueError, "relative_error"),
        (dict(relative_error=-0.1), ValueError, "relative_error"),
    )
    def test_refuses_bad_input(self, arguments, error, text):
        good = dict(bets=[0.1, 0.5], num_samples=5, alpha=0.1)
        with self.assertRaisesRegex(error, text):
            sequences.bounded_mean_lower(np.zeros(2), **good | arguments)


class StagesTest(parameterized.TestCase):
    def test_shares_add_up_to_alpha(self):
        shares = sequences.stage_alpha(np.arange(1, 10_001), alpha=1e-3)
        np.testing.assert_allclose(shares[:3], [5e-4, 1e-3 / 6, 1e-3 / 12])
        self.assertLess(shares.sum(), 1e-3)
        self.assertGreater(shares.sum(), 0.999e-3)
        self.assertEqual(sequences.stage_alpha(1, alpha=0.5), 0.25)

    @parameterized.parameters(
        (10_000, 1_000, 2.0, (1024, 2048, 4096, 8192, 10_000)),
        (1_024, 256, 2, (256, 512, 1024)),
        (100, 1_000, 2.0, (100,)),
        (1_000, 1, 1.01, (256, 512, 768, 1000)),
        (1_000, 256, 1e308, (256, 1000)),
        (3_000, 256, 1.5, (256, 512, 768, 1280, 2048, 3000)),
    )
    def test_sizes(self, max_samples, first, factor, expected):
        sizes = sequences.stage_sizes(max_samples, first=first, factor=factor)
        self.assertEqual(sizes, expected)

    @parameterized.parameters(
        (dict(max_samples=0), ValueError, "max_samples >= 1"),
        (dict(max_samples=10.5), TypeError, "max_samples"),
        (dict(first=0), ValueError, "first >= 1"),
        (dict(factor=1.0), ValueError, "factor above 1, got 1.0"),
        (dict(factor=float("nan")), ValueError, "factor"),
        (dict(factor=float("inf")), ValueError, "factor"),
    )
    def test_refuses_bad_sizes(self, arguments, error, text):
        with self.assertRaisesRegex(error, text):
            sequences.stage_sizes(**dict(max_samples=1000, first=256) | arguments)

    @parameterized.parameters(
        (dict(stage=0), ValueError, "stage >= 1, got 0"),
        (dict(stage=1.5), TypeError, "stage"),
        (dict(alpha=2.0), ValueError, "alpha"),
    )
    def test_refuses_bad_stages(self, arguments, error, text):
        with self.assertRaisesRegex(error, text):
            sequences.stage_alpha(**dict(stage=1, alpha=0.1) | arguments)


if __name__ == "__main__":
    absltest.main()
