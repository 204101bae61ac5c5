"""Confidence bounds against mpmath, the binomial sum, and their exact coverage."""

import mpmath
import numpy as np
import pytest
from absl.testing import absltest, parameterized
from scipy import stats

from robustjax import smoothing
from robustjax.smoothing.confidence import binomial

_LOWER = smoothing.clopper_pearson_lower
_UPPER = smoothing.clopper_pearson_upper


def _tail(k: int, n: int, p: mpmath.mpf) -> mpmath.mpf:
    """P[Binomial(n, p) >= k], an incomplete beta function by its continued fraction."""
    a, b = mpmath.mpf(k), mpmath.mpf(n - k + 1)
    if p > (a + 1) / (a + b + 2):
        return 1 - _beta_fraction(b, a, 1 - p)
    return _beta_fraction(a, b, p)


def _beta_fraction(a: mpmath.mpf, b: mpmath.mpf, x: mpmath.mpf) -> mpmath.mpf:
    log_beta = mpmath.loggamma(a) + mpmath.loggamma(b) - mpmath.loggamma(a + b)
    front = mpmath.exp(a * mpmath.log(x) + b * mpmath.log(1 - x) - log_beta) / a
    value, c, d = mpmath.mpf(1), mpmath.mpf(1), mpmath.mpf(0)
    for i in range(100_000):  # Lentz; converges in about sqrt(max(a, b)) steps
        m = i // 2
        if i == 0:
            term = mpmath.mpf(1)
        elif i % 2 == 0:
            term = m * (b - m) * x / ((a + 2 * m - 1) * (a + 2 * m))
        else:
            term = -(a + m) * (a + b + m) * x / ((a + 2 * m) * (a + 2 * m + 1))
        d = 1 / (1 + term * d)
        c = 1 + term / c
        value *= c * d
        if i > 0 and abs(1 - c * d) < mpmath.mpf(10) ** -40:
            return front * (value - 1)
    raise ArithmeticError("no convergence")


def _mpmath_lower(k: int, n: int, alpha: float, start: float) -> mpmath.mpf:
    """The p with tail alpha: Newton steps in 50 digits from a value nearby."""
    p = mpmath.mpf(float(start))
    log_beta = mpmath.loggamma(k) + mpmath.loggamma(n - k + 1) - mpmath.loggamma(n + 1)
    for _ in range(2):
        log_slope = (k - 1) * mpmath.log(p) + (n - k) * mpmath.log(1 - p) - log_beta
        p -= (_tail(k, n, p) - mpmath.mpf(alpha)) / mpmath.exp(log_slope)
    return p


class ClopperPearsonTest(parameterized.TestCase):
    @parameterized.parameters(
        (1, 10, 0.05),
        (5, 10, 0.001),
        (9, 10, 0.3),
        (60, 100, 1e-3),
        (99, 100, 1e-8),
        (501, 1000, 5e-4),
        (99_000, 100_000, 1e-3),
        (50_500, 100_000, 1e-3),
        (199_817, 200_000, 5e-4),
        (2_000_001, 4_000_000, 1e-3),
        (3_999_000, 4_000_000, 1e-6),
        (3_999_999, 4_000_000, 1e-3),
        (7, 4_000_000, 1e-3),
    )
    def test_lower_and_upper_match_mpmath(self, k, n, alpha):
        lower, upper = _LOWER(k, n, alpha=alpha), _UPPER(n - k, n, alpha=alpha)
        with mpmath.workdps(50):
            exact = _mpmath_lower(k, n, alpha, lower)
            self.assertLess(abs(_tail(k, n, exact) / alpha - 1), 1e-20)
        np.testing.assert_allclose(lower, float(exact), rtol=1e-12)
        np.testing.assert_allclose(upper, float(1 - exact), rtol=1e-12)

    @parameterized.parameters((3, 20), (10, 20), (19, 20), (700, 1000), (990, 1000))
    def test_lower_solves_the_sum_of_the_binomial_pmf(self, k, n):
        for alpha in (0.1, 1e-3):
            p = mpmath.mpf(float(_LOWER(k, n, alpha=alpha)))
            with mpmath.workdps(40):
                tail = mpmath.fsum(
                    mpmath.binomial(n, j) * p**j * (1 - p) ** (n - j)
                    for j in range(k, n + 1)
                )
            np.testing.assert_allclose(float(tail), alpha, rtol=1e-12)

    @parameterized.parameters(
        (99_000, 100_000, 0.001, 0.9889893403774748),
        (100_000, 100_000, 0.001, 0.9999309248330094),
        (100, 100, 0.001, 0.933254300796991),
        (93_657, 100_000, 0.001, 0.9341538120021029),
        (49_179, 100_000, 0.001, 0.486900252426689),
        (99, 100, 0.05, 0.9534401885464611),
        (0, 10, 0.05, 0.0),
        (199_817, 200_000, 0.0005, 0.9988404725183879),
        (198_000, 200_000, 0.0005, 0.9892466977024927),
        (1_250_000, 1_250_000, 0.001, 0.9999944738110462),
    )
    def test_lower_has_its_published_values(self, k, n, alpha, expected):
        np.testing.assert_allclose(_LOWER(k, n, alpha=alpha), expected, rtol=1e-12)

    def test_upper_has_its_published_value(self):
        upper = _UPPER(99_000, 100_000, alpha=0.001)
        np.testing.assert_allclose(upper, 0.9909445314129196, rtol=1e-12)

    @parameterized.parameters((100, 0.05), (100, 0.001), (1000, 0.001), (7, 0.2))
    def test_exact_coverage(self, n, alpha):
        """The probability of a bound on the wrong side, summed over all outcomes."""
        k = np.arange(n + 1)
        lower, upper = _LOWER(k, n, alpha=alpha), _UPPER(k, n, alpha=alpha)
        for p in np.linspace(0.001, 0.999, 999):
            pmf = stats.binom.pmf(k, n, p)
            self.assertLessEqual(pmf[lower > p].sum(), alpha * (1 + 1e-9))
            self.assertLessEqual(pmf[upper < p].sum(), alpha * (1 + 1e-9))

    def test_edges_shapes_and_monotonicity(self):
        k = np.arange(0, 1001, dtype=np.int32)
        lower = _LOWER(k, 1000, alpha=1e-3)
        self.assertEqual(lower.dtype, np.float64)
        self.assertTrue(np.all(np.diff(lower) > 0))
        self.assertEqual(_LOWER(0, 0, alpha=0.1), 0.0)
        self.assertEqual(_UPPER(0, 0, alpha=0.1), 1.0)
        self.assertEqual(_UPPER(5, 5, alpha=0.1), 1.0)
        np.testing.assert_allclose(_LOWER(50, 50, alpha=1e-3), 1e-3 ** (1 / 50))
        self.assertEqual(_LOWER([[1], [2]], [5, 6, 7], alpha=0.1).shape, (2, 3))
        self.assertIsInstance(float(_LOWER(3, 5, alpha=0.1)), float)

    @parameterized.parameters(
        (dict(num_success=3, num_trials=2), ValueError, "got 3 and 2"),
        (dict(num_success=-1, num_trials=2), ValueError, "got -1 and 2"),
        (dict(num_success=1.0, num_trials=2), TypeError, "num_success"),
        (dict(num_success=1, num_trials=2.5), TypeError, "num_trials"),
    )
    def test_refuses_bad_counts(self, arguments, error, text):
        for bound in (_LOWER, _UPPER):
            with self.assertRaisesRegex(error, text):
                bound(**arguments, alpha=0.1)

    @parameterized.parameters(0.0, 1.0, -0.1, float("nan"))
    def test_refuses_bad_alpha(self, alpha):
        with self.assertRaisesRegex(ValueError, "alpha"):
            _LOWER(1, 2, alpha=alpha)


class ProtocolTest(parameterized.TestCase):
    @parameterized.parameters(
        (60, 40, 0.05688793364098089),
        (66, 34, 0.0017899303914868528),
        (480, 520, 0.2174482932041415),
        (0, 0, 1.0),
        (5, 5, 1.0),
        (11, 0, 2**-10),
    )
    def test_p_value_has_its_published_values(self, a, b, expected):
        p_value = binomial.binomial_test_p_value(a, b)
        np.testing.assert_allclose(p_value, expected, rtol=1e-12)
        if a + b:
            oracle = stats.binomtest(a, a + b, 0.5).pvalue
            np.testing.assert_allclose(p_value, oracle, rtol=1e-10)

    @parameterized.parameters(
        (0.001, 10, 11), (0.0005, 11, 12), (0.5, 2, 2), (0.05, 5, 6)
    )
    def test_smallest_numbers_of_samples(self, alpha, certify, predict):
        self.assertEqual(smoothing.min_num_estimation(alpha=alpha), certify)
        self.assertEqual(smoothing.min_num_prediction(alpha=alpha), predict)

    def test_smallest_bonferroni_number_is_the_first_that_separates(self):
        kwargs = dict(alpha=0.01, num_classes=10, runner_up="bonferroni")
        n = smoothing.min_num_estimation(**kwargs)
        for samples, separates in ((n - 1, False), (n, True)):
            lower, upper = smoothing.class_probability_bounds(
                samples, 0, samples, **kwargs
            )
            self.assertEqual(bool(lower > upper), separates)

    def test_bonferroni_bounds_are_those_of_their_shares(self):
        """Half of alpha, a share for each other column, and probabilities sum to 1."""
        count, other = (v.ravel() for v in np.meshgrid(np.arange(51), np.arange(51)))
        fits = count + other <= 50
        count, other = count[fits], other[fits]
        lower, upper = smoothing.class_probability_bounds(
            count, other, 50, alpha=0.01, num_classes=4, runner_up="bonferroni"
        )
        np.testing.assert_array_equal(lower, _LOWER(count, 50, alpha=0.005))
        own = _UPPER(other, 50, alpha=0.01 / 8)
        np.testing.assert_array_equal(upper, np.minimum(own, 1 - lower))
        self.assertTrue(np.any(own > 1 - lower))

    @pytest.mark.newest
    def test_bonferroni_bounds_hold_jointly_by_simulation(self):
        p = np.array([0.4, 0.3, 0.2, 0.1])  # the last one counts invalid samples
        n, alpha, trials = 500, 0.05, 20_000
        counts = np.random.default_rng(0).multinomial(n, p, size=trials)
        lower, upper = smoothing.class_probability_bounds(
            counts[:, 0],
            counts[:, 1:].max(axis=1),
            n,
            alpha=alpha,
            num_classes=3,
            runner_up="bonferroni",
        )
        misses = np.mean((lower > p[0]) | (upper < p[1]))
        self.assertLessEqual(misses, alpha + 3 * np.sqrt(alpha / trials))
        self.assertGreater(np.mean(lower > upper), 0.5)  # certifies without majority

    def test_unknown_form_is_refused(self):
        with self.assertRaisesRegex(ValueError, "runner_up 'both'"):
            smoothing.class_probability_bounds(
                1, 1, 2, alpha=0.1, num_classes=2, runner_up="both"
            )


if __name__ == "__main__":
    absltest.main()
