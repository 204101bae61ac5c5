"""Odds ratios of a class against the rest, against SciPy and by brute force."""

import itertools

import numpy as np
from absl.testing import absltest, parameterized
from scipy import stats

from robustjax.hidden_cost.disparity import odds_ratios


class OddsRatioTest(parameterized.TestCase):
    @parameterized.parameters(
        ((18, 9), (20, 20), 0.05), ((3, 40), (9, 60), 0.01), ((7, 7), (10, 10), 0.2)
    )
    def test_bound_of_two_classes_is_that_of_scipy(self, k, n, side):
        (a, c), (b, d) = k, np.subtract(n, k)
        found = stats.contingency.odds_ratio(np.array([[a, b], [c, d]]))
        interval = found.confidence_interval(1 - 2 * side)
        oracle = max(0, np.log(interval.low), -np.log(interval.high))
        actual = odds_ratios.log_ratio_lower(np.array(k), np.array(n), side=side)
        np.testing.assert_allclose(actual, oracle, rtol=1e-5, atol=1e-9)

    def test_tail_at_the_bound_is_the_side(self):
        """By the noncentral hypergeometric distribution, of the best of all tails."""
        k, n, side = np.array([28, 30, 12, 25]), np.array([30, 33, 30, 40]), 0.01
        ratio = np.exp(odds_ratios.log_ratio_lower(k, n, side=side))
        self.assertGreater(ratio, 2)
        more, less = (
            [stats.nchypergeom_fisher(n.sum(), size, k.sum(), r) for size in n]
            for r in (ratio, 1 / ratio)
        )
        tails = [law.sf(count - 1) for law, count in zip(more, k, strict=True)]
        tails += [law.cdf(count) for law, count in zip(less, k, strict=True)]
        np.testing.assert_allclose(min(tails), side, rtol=1e-6)

    def test_least_tail_is_that_of_fisher(self):
        k, n = np.array([50, 41, 70]), np.array([50, 60, 80])
        tails = [
            stats.fisher_exact(
                [[a, b - a], [k.sum() - a, (n - k).sum() - b + a]], alternative=side
            )[1]
            for a, b in zip(k, n, strict=True)
            for side in ("less", "greater")
        ]
        actual = np.exp(odds_ratios.least_log_tail(k, n))
        np.testing.assert_allclose(actual, min(tails), rtol=1e-9)

    @parameterized.parameters(1.0, 2.5)
    def test_an_unequal_rest_fails_no_more_often(self, ratio):
        """The tail of a class is valid if no odds of the rest are far below its own."""
        n, side = np.array([9, 8, 5]), 0.15
        k = np.array(list(itertools.product(*(range(size + 1) for size in n))))
        law = stats.nchypergeom_fisher(n.sum(), n[0], k.sum(axis=1), ratio)
        is_rejected = law.sf(k[:, 0] - 1) < side
        rejected = []
        lows = np.linspace(0.02, 0.95, 12)
        for low, t, u in itertools.product(lows, (0, 0.5, 1), (0, 1)):
            high = ratio * low / (1 - low + ratio * low)
            p = [high, low + t * (high - low), low + u * (high - low)]
            rejected.append(np.prod(stats.binom.pmf(k, n, p), axis=1) @ is_rejected)
        self.assertLessEqual(max(rejected), side)
        self.assertGreater(max(rejected), side / 4)


if __name__ == "__main__":
    absltest.main()
