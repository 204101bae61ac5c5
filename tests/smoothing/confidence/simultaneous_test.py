"""Intervals that hold together: unequal trials by exact sums."""

import numpy as np
from absl.testing import absltest, parameterized

from robustjax.smoothing.confidence import simultaneous


def _poisson_binomial(probabilities):
    """Probabilities of 0, 1, ... successes."""
    pmf = np.ones(1)
    for p in probabilities:
        pmf = np.convolve(pmf, [1 - p, p])
    return pmf


class MeanBoundsTest(parameterized.TestCase):
    @parameterized.parameters((2, 0.98), (3, 0.5), (12, 0.1))
    def test_each_side_fails_no_more_often_than_its_share(self, num_intervals, alpha):
        """For all trials in one, equal trials, and mixtures of both."""
        side, rng = alpha / (2 * num_intervals), np.random.default_rng(0)
        n, tight = 7, 0.0
        lower, upper = simultaneous.mean_bounds(
            np.arange(n + 1), n, alpha=alpha, num_intervals=num_intervals
        )
        cases = [np.eye(n)[0] * p for p in np.linspace(0, 1, 201)]
        cases += [np.full(n, p) for p in np.linspace(0, 1, 101)]
        cases += list(rng.beta(0.3, 0.3, (200, n)))
        cases += [np.eye(n)[0] * (n * bound - 1e-12) for bound in lower[1:2]]
        for p in [*cases, *(1 - p for p in cases)]:
            pmf, mean = _poisson_binomial(p), np.mean(p)
            failures = pmf @ (lower > mean + 1e-15), pmf @ (upper < mean - 1e-15)
            self.assertLessEqual(max(failures), side * (1 + 1e-9))
            tight = max(tight, *failures)
        self.assertGreater(tight, 0.9 * side)

    def test_one_success_of_unequal_trials(self):
        """Clopper-Pearson fails here: all of the mean may be in one trial."""
        options = dict(alpha=0.5, num_intervals=2)
        one = np.array(1)
        lower, _ = simultaneous.mean_bounds(one, 50, **options)
        binomial, _ = simultaneous.two_sided_bounds(one, 50, **options)
        np.testing.assert_allclose(50 * lower, 0.125)
        self.assertGreater(50 * binomial, 0.133)
        _, upper = simultaneous.mean_bounds(np.array(49), 50, **options)
        np.testing.assert_allclose(1 - upper, lower)

    def test_no_trials_and_too_few_intervals(self):
        bounds = simultaneous.mean_bounds(
            np.zeros(3, int), 0, alpha=0.1, num_intervals=3
        )
        np.testing.assert_array_equal(bounds, [[0] * 3, [1] * 3])
        with self.assertRaisesRegex(ValueError, "num_intervals >= 2, got 1"):
            simultaneous.mean_bounds(np.array(1), 5, alpha=0.1, num_intervals=1)


if __name__ == "__main__":
    absltest.main()
