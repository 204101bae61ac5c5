"""The gap between classes: coverage, its test and Holm's correction by brute force."""

import itertools

import numpy as np
import pytest
from absl.testing import absltest, parameterized
from scipy import stats

from robustjax.hidden_cost.disparity import accuracy_gaps, classwise, odds_ratios
from robustjax.smoothing.confidence import simultaneous


def _outcomes(num_examples):
    return np.array(list(itertools.product(*(range(n + 1) for n in num_examples))))


def _coverage(num_examples, accuracy, *, alpha, num_draws, seed=0):
    """Shares of draws whose interval holds the gap, and whose test rejects."""
    n, p = np.asarray(num_examples), np.asarray(accuracy)
    gap, hits = np.ptp(p), []
    for k in np.random.default_rng(seed).binomial(n, p, (num_draws, len(n))):
        lower, upper = accuracy_gaps.gap_interval(k, n, alpha=alpha)
        is_held = lower <= gap + 1e-12 and gap <= upper + 1e-12
        hits.append([is_held, accuracy_gaps.gap_p_value(k, n) < alpha])
    return np.mean(hits, axis=0)


class ExactTest(parameterized.TestCase):
    @parameterized.parameters(((3, 2, 4), 0.4), ((1, 1, 9), 0.7), ((8, 6), 0.3))
    def test_holds_by_sums_over_all_outcomes(self, num_examples, alpha):
        """Coverage at every combination of accuracies, those 0 and 1 included."""
        n, outcomes = np.array(num_examples), _outcomes(num_examples)
        ends = np.array(
            [accuracy_gaps.gap_interval(k, n, alpha=alpha) for k in outcomes]
        )
        p_values = np.array([accuracy_gaps.gap_p_value(k, n) for k in outcomes])
        observed = np.ptp(outcomes / n, axis=1)
        self.assertTrue(np.all(ends[:, 0] <= observed + 1e-12))
        self.assertTrue(np.all(observed <= ends[:, 1] + 1e-12))
        np.testing.assert_array_equal(ends[:, 0] > 0, p_values < alpha)
        grid = np.array([0, 0.02, 0.2, 0.5, 0.8, 0.97, 1])
        for p in itertools.product(grid, repeat=len(n)):
            chance = np.prod(stats.binom.pmf(outcomes, n, p), axis=1)
            gap = np.ptp(p)
            is_held = (ends[:, 0] <= gap + 1e-12) & (gap <= ends[:, 1] + 1e-12)
            self.assertGreaterEqual(chance @ is_held, 1 - alpha)
        for p in np.linspace(0, 1, 21):
            chance = np.prod(stats.binom.pmf(outcomes, n, p), axis=1)
            order = np.argsort(p_values)
            is_last = np.append(np.diff(p_values[order]) > 0, True)
            size = np.cumsum(chance[order])[is_last]
            self.assertTrue(np.all(size <= p_values[order][is_last] + 1e-12))

    def test_test_and_interval_are_one(self):
        rng, agree = np.random.default_rng(3), set()
        for _ in range(40):
            n = rng.integers(1, 60, size=rng.integers(1, 7))
            k = rng.binomial(n, np.clip(rng.normal(0.7, 0.25, len(n)), 0, 1))
            p = accuracy_gaps.gap_p_value(k, n)
            for alpha in (0.5 * p, 0.999999 * p, min(0.9, 1.000001 * p), 0.05, 0.5):
                if p and abs(alpha - p) > 1e-9 * p:
                    lower, upper = accuracy_gaps.gap_interval(k, n, alpha=alpha)
                    self.assertEqual(lower > 0, p < alpha, (k, n, p, alpha))
                    self.assertLessEqual(np.ptp(k / n), upper + 1e-12)
                    agree.add(lower > 0)
        self.assertLen(agree, 2)

    def test_p_value_by_scipy(self):
        rng = np.random.default_rng(1)
        nodes = np.linspace(0, 1, 4001)[:, None]
        for _ in range(5):
            n = rng.integers(5, 40, size=4)
            k = rng.binomial(n, [0.9, 0.8, 0.7, 0.4])
            table = stats.hypergeom(n.sum(), k.sum(), n)
            fisher = min(table.cdf(k).min(), table.sf(k - 1).min())
            all_k, all_n = np.append(k, k.sum()), np.append(n, n.sum())
            above = stats.binom.sf(all_k - 1, all_n, nodes).min(axis=1)
            below = stats.binom.cdf(all_k, all_n, nodes).min(axis=1)
            shared = np.minimum.reduce(np.maximum(above, below))
            oracle = min(1, 18 * min(fisher, shared))  # 2 (4 + 1 + 4) events
            actual = accuracy_gaps.gap_p_value(k, n)
            np.testing.assert_allclose(actual, oracle, rtol=0.02)
            if fisher < shared:
                np.testing.assert_allclose(actual, oracle, rtol=1e-9)

    def test_lower_end_is_the_smallest_gap_the_bounds_allow(self):
        """By search over pairs of a largest and a smallest accuracy."""
        values = np.linspace(0, 1, 1201)
        most, least = values[:, None], values[None, :]
        alpha = 0.2
        for counts in ([[30, 28, 19], [30, 30, 30]], [[95, 60, 3], [100, 70, 9]]):
            k, n = np.array(counts)
            pairs = dict(alpha=alpha, num_intervals=7)
            lower, upper = simultaneous.two_sided_bounds(k, n, **pairs)
            pool = simultaneous.mean_bounds(k.sum(), int(n.sum()), **pairs)
            ratio = np.exp(odds_ratios.log_ratio_lower(k, n, side=alpha / 14))
            is_allowed = (most >= max(lower.max(), pool[0])) & (
                least <= min(upper.min(), pool[1])
            )
            is_allowed &= most * (1 - least) >= ratio * least * (1 - most)
            oracle = np.min((most - least)[is_allowed])
            actual = accuracy_gaps.gap_interval(k, n, alpha=alpha)[0]
            self.assertGreater(actual, 0.02)
            np.testing.assert_allclose(actual, oracle, atol=2 / 1200)

    def test_one_class_has_no_gap(self):
        k, n = np.array([5]), np.array([9])
        self.assertEqual(accuracy_gaps.gap_interval(k, n, alpha=0.1), (0, 0))
        self.assertEqual(accuracy_gaps.gap_p_value(k, n), 1)

    def test_a_rare_class_does_not_hide_the_others(self):
        n = np.array([1000, 1000, 2, 1])
        k = np.array([900, 700, 1, 1])
        self.assertLess(accuracy_gaps.gap_p_value(k, n), 1e-6)
        self.assertGreater(accuracy_gaps.gap_interval(k, n, alpha=0.05)[0], 0.1)

    @pytest.mark.newest
    def test_an_outlier_among_ten_classes_is_found(self):
        p = [0.95] * 9 + [0.7]
        covered, found = _coverage([30] * 10, p, alpha=0.05, num_draws=60)
        self.assertGreaterEqual(covered, 0.95)
        self.assertGreater(found, 0.5)


class SimulatedTest(parameterized.TestCase):
    @parameterized.parameters(
        ([30] * 10, [0.9] * 10),
        ([30] * 10, [0.5] * 10),
        ([30] * 10, [0.95] * 9 + [0.7]),
        ([50] * 10, [0.72, 0.81, 0.52, 0.46, 0.51, 0.53, 0.72, 0.73, 0.82, 0.76]),
        ([3] * 10, [0.6] * 10),
        ([2] * 5, [1, 1, 0.5, 0.5, 0]),
        ([1000, 400, 5, 1], [0.9, 0.85, 0.4, 0.6]),
        ([40] * 6, [1, 1, 1, 0, 0, 0]),
        ([40] * 6, [1] * 6),
        ([40] * 6, [0] * 5 + [0.03]),
        ([5] * 25, [0.8] * 25),
        ([60, 60], [0.8, 0.8]),
        ([60, 60], [0.9, 0.7]),
    )
    @pytest.mark.slow
    def test_coverage_in_1000_draws(self, num_examples, accuracy):
        alpha, draws = 0.1, 1000
        covered, rejected = _coverage(
            num_examples, accuracy, alpha=alpha, num_draws=draws
        )
        self.assertGreaterEqual(covered, 1 - alpha)
        if not np.ptp(accuracy):
            self.assertLessEqual(rejected, alpha)

    @pytest.mark.slow
    def test_coverage_in_1000_draws_with_abstentions(self):
        """An abstention is an error: the accuracies are those of correct answers."""
        labels = np.repeat([0, 1, 2], [60, 40, 8])
        correct, abstain = np.array([0.8, 0.3, 0.1]), np.array([0.1, 0.6, 0.9])
        rng, alpha, hits = np.random.default_rng(0), 0.1, []
        for _ in range(1000):
            u = rng.random(len(labels))
            wrong = (labels + 1) % 3
            predicted = np.where(u < correct[labels], labels, wrong)
            predicted = np.where(u > 1 - abstain[labels], -1, predicted)
            found = classwise.classwise_report(
                labels, predicted, num_classes=3, alpha=alpha
            ).disparity
            hits.append(found.gap_lower <= 0.7 <= found.gap_upper)
        self.assertGreaterEqual(np.mean(hits), 1 - alpha)


class ChanceTest(parameterized.TestCase):
    @parameterized.parameters(((3, 5), 0.3), ((4, 2, 3), 0.9), ((6, 6, 6), 0.5))
    def test_mean_gap_by_sums_over_all_outcomes(self, num_examples, accuracy):
        n, outcomes = np.array(num_examples), _outcomes(num_examples)
        chance = np.prod(stats.binom.pmf(outcomes, n, accuracy), axis=1)
        oracle = chance @ np.ptp(outcomes / n, axis=1)
        actual = accuracy_gaps.mean_gap_by_chance(n, accuracy)
        np.testing.assert_allclose(actual, oracle, atol=1 / 4096)

    @parameterized.parameters(((30, 80, 50, 50, 120), 0.7), ((7,), 0.5), ((9, 9), 1.0))
    def test_mean_gap_by_tossed_coins(self, num_examples, accuracy):
        n, rng = np.array(num_examples), np.random.default_rng(5)
        gaps = np.ptp(rng.binomial(n, accuracy, (20_000, len(n))) / n, axis=1)
        actual = accuracy_gaps.mean_gap_by_chance(n, accuracy)
        error = np.std(gaps) / np.sqrt(20_000)
        np.testing.assert_allclose(actual, gaps.mean(), atol=5 * error + 3e-4)


class HolmTest(parameterized.TestCase):
    def test_is_closed_testing_with_bonferroni(self):
        """A hypothesis falls where every set of hypotheses with it falls."""
        for p in np.random.default_rng(0).beta(0.5, 3, (20, 5)):
            oracle = [
                max(
                    min(1, size * min(p[list(group)]))
                    for size in range(1, 6)
                    for group in itertools.combinations(range(5), size)
                    if i in group
                )
                for i in range(5)
            ]
            np.testing.assert_allclose(accuracy_gaps.holm_adjusted(p), oracle)

    def test_edges(self):
        self.assertEqual(accuracy_gaps.holm_adjusted([]).shape, (0,))
        np.testing.assert_array_equal(accuracy_gaps.holm_adjusted([0, 1, 1]), [0, 1, 1])
        self.assertEqual(accuracy_gaps.holm_adjusted([0.2]), 0.2)

    @parameterized.parameters(
        ([0.5, 1.5], r"p_values in \[0, 1\]"),
        ([np.nan], r"p_values in \[0, 1\]"),
        ([[0.5]], r"p_values as a list \[m\], got shape \(1, 1\)"),
    )
    def test_is_refused_by_name(self, p_values, text):
        with self.assertRaisesRegex(ValueError, text):
            accuracy_gaps.holm_adjusted(p_values)


if __name__ == "__main__":
    absltest.main()
