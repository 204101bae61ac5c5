"""Tests for the statistics of certification runs."""

import numpy as np
import pytest
from absl.testing import absltest, parameterized
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy import stats

from robustjax import metrics

_EXAMPLES = st.lists(
    st.tuples(st.booleans(), st.sampled_from([0.0, 0.1, 0.25, 0.5, 1.0, np.inf])),
    min_size=1,
    max_size=30,
)
_AT = np.array([[0.0, 0.1, 0.2], [0.25, 0.5, 2.0]])


def _bound(num_wrong_free, *, n, alpha, confidence, method="exact"):
    """The bound where `num_wrong_free` of n examples are certified."""
    correct = np.arange(n) < num_wrong_free
    return metrics.certified_accuracy_lower(
        correct, np.ones(n), 0.5, alpha=alpha, confidence=confidence, method=method
    )


def _miss_probability(*, n, alpha, method):
    """P[bound > truth] where no example truly is certified, each wrong w.p. alpha.

    This is the worst case: the bound is then wrong if the false certificates, which
    are Binomial(n, alpha), exceed the loss that it subtracts.
    """
    confidence = 1 - alpha
    full = _bound(n, n=n, alpha=alpha, confidence=confidence, method=method)
    wrong = np.arange(n + 1)
    pmf = stats.binom.pmf(wrong, n, alpha)
    return float(np.sum(pmf[wrong / n - (1 - float(full)) > 1e-12]))


class StatisticsTest(parameterized.TestCase):
    @given(_EXAMPLES)
    @settings(derandomize=True, deadline=None, max_examples=100)
    def test_certified_accuracy_matches_a_loop(self, examples):
        correct, radius = zip(*examples, strict=True)
        actual = metrics.certified_accuracy(correct, radius, _AT)
        expected = [
            [sum(c and r >= at for c, r in examples) / len(examples) for at in line]
            for line in _AT
        ]
        np.testing.assert_allclose(actual, expected, rtol=1e-15)
        self.assertEqual(
            metrics.certified_accuracy(correct, radius, 0.0), np.mean(correct)
        )

    @pytest.mark.newest
    def test_average_radius_matches_the_area_under_the_curve(self):
        rng = np.random.default_rng(0)
        correct, radius = rng.random(500) < 0.7, rng.exponential(size=500)
        at = np.linspace(0, 12, 120_001)
        curve = metrics.certified_accuracy(correct, radius, at)
        average = metrics.average_certified_radius(correct, radius)
        self.assertAlmostEqual(average, np.trapezoid(curve, at), places=4)

    def test_unusual_radii(self):
        accuracy = metrics.certified_accuracy([1, 1, 0], [np.nan, np.inf, np.inf], 9.0)
        self.assertAlmostEqual(float(accuracy), 1 / 3)
        average = metrics.average_certified_radius([1, 0], [0.5, np.inf])
        self.assertEqual(average, 0.25)

    @parameterized.parameters(
        (100, 0.05), (500, 0.001), (1000, 0.01), (10_000, 0.001), (300, 0.3)
    )
    def test_loss_is_the_binomial_quantile(self, n, alpha):
        for confidence in (0.5, 0.95, 0.999):
            expected = max(0, 1 - stats.binom.ppf(confidence, n, alpha) / n)
            actual = _bound(n, n=n, alpha=alpha, confidence=confidence)
            self.assertAlmostEqual(float(actual), expected, places=14)

    @parameterized.parameters(
        (100, 0.05), (1000, 0.01), (1000, 0.001), (10_000, 0.01), (10_000, 0.001)
    )
    def test_exact_bound_misses_at_most_as_promised(self, n, alpha):
        self.assertLessEqual(_miss_probability(n=n, alpha=alpha, method="exact"), alpha)

    def test_reference_bound_misses_more_often(self):
        miss = _miss_probability(n=10_000, alpha=0.001, method="reference")
        self.assertAlmostEqual(miss, 0.00158, places=5)

    def test_lower_bound_never_falls_below_zero(self):
        self.assertEqual(_bound(2, n=100, alpha=0.2, confidence=0.9), 0.0)

    @parameterized.parameters(
        ({"alpha": 0.0}, "alpha"),
        ({"alpha": 0.1, "confidence": 1.0}, "confidence"),
        ({"alpha": 0.1, "method": "normal"}, "method 'normal'"),
    )
    def test_bad_arguments_of_the_bound(self, options, message):
        with self.assertRaisesRegex(ValueError, message):
            metrics.certified_accuracy_lower([1], [1.0], 0.0, **options)

    def test_bad_arrays(self):
        with self.assertRaisesRegex(ValueError, "at least one example"):
            metrics.certified_accuracy([], [], 0.0)
        with self.assertRaisesRegex(ValueError, "lengths.*'correct': 2, 'radius': 1"):
            metrics.average_certified_radius([1, 0], [0.5])
        with self.assertRaisesRegex(ValueError, "at least one example"):
            metrics.abstention_rate([])


if __name__ == "__main__":
    absltest.main()
