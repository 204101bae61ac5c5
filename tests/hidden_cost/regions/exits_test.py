"""Levels of votes against binomial sums, and first exits of known functions."""

import numpy as np
import pytest
from absl.testing import absltest, parameterized
from scipy import stats

from robustjax import smoothing
from robustjax.hidden_cost.regions import exits


class LevelsTest(parameterized.TestCase):
    @parameterized.product(
        num_samples=(1, 20, 337), threshold=(0.1, 0.5, 0.77), alpha=(0.05, 0.3)
    )
    def test_acceptance_region(self, num_samples, threshold, alpha):
        levels = exits.vote_levels(num_samples, threshold, alpha=alpha, num_points=65)
        votes = np.arange(num_samples + 1)
        side = 0.45 * alpha
        lower = smoothing.clopper_pearson_lower(votes, num_samples, alpha=side)
        upper = smoothing.clopper_pearson_upper(votes, num_samples, alpha=side)
        accepted = (lower <= threshold) & (threshold <= upper)
        np.testing.assert_array_equal(
            accepted, (levels.low <= votes) & (votes <= levels.high)
        )
        law = stats.binom(num_samples, threshold)
        self.assertGreaterEqual(law.pmf(votes)[accepted].sum(), 1 - 0.9 * alpha)
        self.assertLessEqual(law.cdf(levels.cut - 1), 0.1 * alpha / 65)
        self.assertGreater(law.cdf(levels.cut), 0.1 * alpha / 65)
        self.assertGreaterEqual(levels.inside / num_samples, threshold)
        self.assertLess((levels.inside - 1) / num_samples, threshold)


class FirstExitTest(parameterized.TestCase):
    def _first_exit(self, is_inside, num_bisections=12):
        grid = np.linspace(0, 4, 9, dtype=np.float32)
        scanned = np.stack([is_inside(np.full(3, t)) for t in grid])
        found = exits.first_exit(
            grid, scanned, is_inside, num_bisections=num_bisections
        )
        return scanned, found

    @pytest.mark.newest
    def test_brackets_the_first_of_several(self):
        ends = np.array([0.3, 1.0, 3.9])
        scanned, found = self._first_exit(lambda t: (t < ends) | (t > ends + 0.7))
        self.assertTrue(((found.inner < ends) & (ends <= found.outer)).all())
        np.testing.assert_allclose(found.outer - found.inner, 0.5 / 2**12)
        np.testing.assert_allclose(found.middle, ends, atol=0.5 / 2**12)
        np.testing.assert_array_equal(exits.crossings(scanned), [2, 2, 1])

    def test_without_exit_and_outside_at_the_start(self):
        always = np.array([True, False, True])
        scanned, found = self._first_exit(lambda t: always)
        np.testing.assert_array_equal(found.inner, [4, 0, 4])
        np.testing.assert_array_equal(found.outer, [np.inf, 0, np.inf])
        np.testing.assert_array_equal(found.middle, [np.inf, 0, np.inf])
        np.testing.assert_array_equal(exits.crossings(scanned), 0)

    def test_stay_within_one_cell_is_missed(self):
        _, found = self._first_exit(lambda t: (t < 1.1) | (t > 1.3))
        np.testing.assert_array_equal(found.outer, np.inf)


if __name__ == "__main__":
    absltest.main()
