"""Figures of disparity against their definitions, coin tosses and simulation."""

import itertools

import numpy as np
import pytest
from absl.testing import absltest, parameterized
from scipy import stats

from robustjax.smoothing import disparity, disparity_statistics


def _disparity(num_examples, num_correct, *, worst_k=3, num_bootstrap=2000):
    return disparity_statistics.disparity_of(
        np.asarray(num_correct).astype(np.int64),
        np.asarray(num_examples),
        alpha=0.05,
        worst_k=worst_k,
        num_bootstrap=num_bootstrap,
        seed=0,
    )


def _shares(labels, predictions, *, num_classes):
    return disparity.classwise_report(
        labels, predictions, num_classes=num_classes, num_bootstrap=1
    ).shares


class DisparityTest(parameterized.TestCase):
    @pytest.mark.newest
    def test_figures_of_known_accuracies(self):
        accuracy = np.array([0.9, 0.5, 0.7, 0.3, 0.6])
        report = _disparity([100] * 5, 100 * accuracy, worst_k=2)
        np.testing.assert_allclose(report.gap, 0.6)
        np.testing.assert_allclose(report.std, np.sqrt(0.04))
        np.testing.assert_allclose(report.min_max_ratio, 1 / 3)
        np.testing.assert_allclose(report.worst_k_mean, 0.4)
        self.assertEqual((report.worst_class, report.best_class), (3, 0))

    def test_gini_is_the_mean_absolute_difference(self):
        values = np.random.default_rng(0).random(17)
        pairs = [abs(a - b) for a, b in itertools.product(values, values)]
        oracle = np.mean(pairs) / (2 * values.mean())
        np.testing.assert_allclose(disparity_statistics.gini(values), oracle)
        np.testing.assert_allclose(disparity_statistics.gini(np.eye(10)[3]), 0.9)
        self.assertEqual(disparity_statistics.gini(np.full(7, 0.1)), 0)

    def test_total_variation_and_divergence_are_of_the_decided_predictions(self):
        labels = np.repeat([0, 1, 2], [50, 30, 20])
        predictions = np.repeat([0, 1, 2, -1], [40, 16, 24, 20])
        decided, prior = np.array([0.5, 0.2, 0.3]), np.array([0.4, 0.4, 0.2])
        shares = disparity.classwise_report(
            labels, predictions, num_classes=3, prior=prior
        ).shares
        np.testing.assert_allclose(shares.total_variation, 0.2)
        np.testing.assert_allclose(shares.kl_divergence, stats.entropy(decided, prior))
        np.testing.assert_allclose(shares.share, [0.4, 0.16, 0.24])

    def test_gap_by_chance_is_that_of_equal_classes(self):
        n, k = np.array([30, 80, 50, 50, 120]), np.array([20, 70, 25, 40, 90])
        report = _disparity(n, k, num_bootstrap=20_000)
        rng = np.random.default_rng(5)
        accuracy = [  # coins tossed for every example
            np.mean(rng.random((20_000, size)) < k.sum() / n.sum(), axis=1)
            for size in n
        ]
        gaps = np.ptp(accuracy, axis=0)
        error = np.std(gaps) / np.sqrt(20_000)
        np.testing.assert_allclose(report.chance_gap, np.mean(gaps), atol=5 * error)
        share_below = np.mean(gaps <= report.chance_gap_upper)
        np.testing.assert_allclose(share_below, 0.95, atol=0.01)

    def test_equal_classes_stay_below_the_gap_by_chance(self):
        rng = np.random.default_rng(0)
        n = np.array([50] * 10)
        hits = []
        for k in rng.binomial(n, 0.6, (300, 10)):
            report = _disparity(n, k, num_bootstrap=500)
            hits.append([report.gap <= report.chance_gap_upper, report.gap_lower == 0])
        below, is_zero_possible = np.mean(hits, axis=0)
        self.assertBetween(below, 0.9, 0.985)
        self.assertGreaterEqual(is_zero_possible, 0.95)

    def test_bootstrap_interval_corrects_the_bias_of_the_gap(self):
        """The quantiles of resampled gaps themselves cover only .64 here."""
        p = np.array([0.72, 0.81, 0.52, 0.46, 0.51, 0.53, 0.72, 0.73, 0.82, 0.76])
        n, rng = np.full(10, 50), np.random.default_rng(0)
        hits, gaps, widths = [], [], []
        for k in rng.binomial(n, p, (400, 10)):
            report = _disparity(n, k, num_bootstrap=500)
            low, high = report.gap_bootstrap_lower, report.gap_bootstrap_upper
            hits.append(low <= 0.36 <= high)
            gaps.append(report.gap)
            widths.append([high - low, report.gap_upper - report.gap_lower])
        self.assertGreater(np.mean(gaps), 0.36 + 0.05)  # the bias
        self.assertGreater(np.mean(hits), 0.83)
        bootstrap, exact = np.mean(widths, axis=0)
        self.assertLess(bootstrap, 0.6 * exact)

    def test_bootstrap_interval_of_large_classes_is_the_normal_one(self):
        n, k = np.array([20_000, 20_000]), np.array([10_000, 16_000])
        report = _disparity(n, k, num_bootstrap=20_000)
        half = 1.96 * np.sqrt((0.25 + 0.16) / 20_000)
        actual = [report.gap_bootstrap_lower, report.gap_bootstrap_upper]
        np.testing.assert_allclose(actual, [0.3 - half, 0.3 + half], atol=0.05 * half)


class CollapseTest(parameterized.TestCase):
    def test_collapse_is_found(self):
        labels = np.repeat(np.arange(10), 50)
        shares = _shares(labels, np.where(labels < 9, 6, 9), num_classes=10)
        self.assertEqual(shares.absorbing, (6,))
        self.assertEqual(shares.vanished, (0, 1, 2, 3, 4, 5, 7, 8))

    @parameterized.parameters(
        (2, 0.667, (), ()), (2, 0.78, (0,), ()), (2, 0.9, (0,), (1,))
    )
    def test_of_two_classes_one_can_absorb(self, num_classes, share, absorbing, gone):
        labels = np.repeat([0, 1], 200)
        predictions = np.where(np.arange(400) < share * 400, 0, 1)
        shares = _shares(labels, predictions, num_classes=num_classes)
        self.assertEqual((shares.absorbing, shares.vanished), (absorbing, gone))

    def test_levels_double_and_quarter_the_odds(self):
        """Just beyond them a million examples suffice, just before they do not."""
        n, prior = 1_000_000, np.full(10, 0.1)
        for share, is_named in ((0.1835, True), (0.18, False)):
            count = np.full(10, n // 20)
            count[3] = share * n
            found = disparity_statistics.shares_of(
                count, num_examples=n, prior=prior, alpha=0.05
            )
            self.assertEqual(found.absorbing, (3,) if is_named else ())
        for share, is_named in ((0.0265, True), (0.0275, False)):
            count = np.full(10, n // 20)
            count[3] = share * n
            found = disparity_statistics.shares_of(
                count, num_examples=n, prior=prior, alpha=0.05
            )
            self.assertEqual(found.vanished, (3,) if is_named else ())

    def test_few_examples_and_rare_classes_are_not_accused(self):
        self.assertEqual(_shares([0, 1], [0, 0], num_classes=2).absorbing, ())
        labels = np.repeat([0, 1, 2], [5000, 4900, 100])
        predictions = np.where(np.arange(10_000) < 9600, labels, 2)
        shares = _shares(labels, predictions, num_classes=4)
        self.assertGreater(shares.lower[2], 3 * shares.prior[2])
        self.assertEqual((shares.absorbing, shares.vanished), ((), ()))

    def test_a_class_without_examples_can_absorb(self):
        labels = np.repeat(np.arange(5), 100)
        predictions = np.where(np.arange(500) % 2 == 0, 7, labels)
        shares = _shares(labels, predictions, num_classes=8)
        self.assertEqual(shares.absorbing, (7,))


if __name__ == "__main__":
    absltest.main()
