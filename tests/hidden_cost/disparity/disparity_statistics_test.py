"""Figures of disparity against their definitions, coin tosses and simulation."""

import itertools

import numpy as np
import pytest
from absl.testing import absltest, parameterized
from scipy import stats

from robustjax.hidden_cost.disparity import classwise, statistics


def _disparity(num_examples, num_correct, *, worst_k=3):
    return statistics.disparity_of(
        np.asarray(num_correct).astype(np.int64),
        np.asarray(num_examples),
        alpha=0.05,
        worst_k=worst_k,
    )


def _shares(labels, predictions, *, num_classes):
    return classwise.classwise_report(
        labels, predictions, num_classes=num_classes
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
        np.testing.assert_allclose(statistics.gini(values), oracle)
        np.testing.assert_allclose(statistics.gini(np.eye(10)[3]), 0.9)
        self.assertEqual(statistics.gini(np.full(7, 0.1)), 0)

    def test_total_variation_and_divergence_are_of_the_decided_predictions(self):
        labels = np.repeat([0, 1, 2], [50, 30, 20])
        predictions = np.repeat([0, 1, 2, -1], [40, 16, 24, 20])
        decided, prior = np.array([0.5, 0.2, 0.3]), np.array([0.4, 0.4, 0.2])
        shares = classwise.classwise_report(
            labels, predictions, num_classes=3, prior=prior
        ).shares
        np.testing.assert_allclose(shares.total_variation, 0.2)
        np.testing.assert_allclose(shares.kl_divergence, stats.entropy(decided, prior))
        np.testing.assert_allclose(shares.share, [0.4, 0.16, 0.24])

    @parameterized.parameters(([50] * 4, 0), ([0, 7, 0], 3), ([20, 30], 0))
    def test_equal_accuracies_have_no_worst_class(self, num_examples, num_correct):
        n = np.asarray(num_examples)
        report = _disparity(n, np.minimum(n, num_correct))
        self.assertEqual((report.gap, report.gap_lower), (0, 0))
        self.assertEqual(report.gap_p_value, 1)
        self.assertIsNone(report.worst_class)
        self.assertIsNone(report.best_class)


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
            count = np.full(10, (1 - share) * n / 9).astype(int)
            count[3] = share * n
            found = statistics.shares_of(count, num_examples=n, prior=prior, alpha=0.05)
            self.assertEqual(found.absorbing, (3,) if is_named else ())
        for share, is_named in ((0.0265, True), (0.0275, False)):
            count = np.full(10, (1 - share) * n / 9).astype(int)
            count[3] = share * n
            found = statistics.shares_of(count, num_examples=n, prior=prior, alpha=0.05)
            self.assertEqual(found.vanished, (3,) if is_named else ())

    def test_few_examples_and_rare_classes_are_not_accused(self):
        self.assertEqual(_shares([0, 1], [0, 0], num_classes=2).absorbing, ())
        labels = np.repeat([0, 1, 2], [5000, 4900, 100])
        predictions = np.where(np.arange(10_000) < 9600, labels, 2)
        shares = _shares(labels, predictions, num_classes=4)
        self.assertGreater(shares.lower[2], 3 * shares.prior[2])
        self.assertEqual((shares.absorbing, shares.vanished), ((), ()))

    def test_a_common_class_that_is_often_predicted_has_not_vanished(self):
        labels = np.repeat([0, 1], [900, 100])
        predictions = np.where(np.arange(1000) < 600, 0, 1)
        self.assertEqual(_shares(labels, predictions, num_classes=2).vanished, ())
        one = np.ones(100, int)
        self.assertEqual(_shares(one, one - one % 2, num_classes=2).vanished, (1,))
        half = np.arange(100) % 2
        self.assertEqual(_shares(one, half, num_classes=2).vanished, ())

    def test_abstentions_are_not_lost_classes(self):
        """Judged are the decided predictions; if there are none, nothing is sure."""
        labels = np.repeat(np.arange(4), 500)
        everything = np.full(2000, -1)
        shares = _shares(labels, everything, num_classes=4)
        self.assertEqual((shares.absorbing, shares.vanished), ((), ()))
        np.testing.assert_array_equal([shares.lower, shares.upper], [[0] * 4, [1] * 4])
        np.testing.assert_array_equal(shares.decided_share, [np.nan] * 4)
        few = np.where(np.arange(2000) % 10 == 0, labels, -1)
        shares = _shares(labels, few, num_classes=4)
        self.assertEqual((shares.absorbing, shares.vanished), ((), ()))
        np.testing.assert_allclose(shares.decided_share, 0.25)
        np.testing.assert_allclose(shares.share, 0.025)
        shares = _shares(labels, np.where(few > 0, 3, few), num_classes=4)
        self.assertEqual((shares.absorbing, shares.vanished), ((3,), (1, 2)))

    def test_classes_named_in_many_reports_need_more(self):
        """All runs of a study: each has its share of the failure probability."""
        labels = np.repeat(np.arange(4), 30)
        predictions = np.where(np.arange(120) % 30 < 12, 2, labels)
        named = [
            classwise.classwise_report(
                labels, predictions, num_classes=4, num_reports=num_reports
            ).shares
            for num_reports in (1, 60)
        ]
        self.assertEqual([each.absorbing for each in named], [(2,), ()])
        n = int(np.sum(predictions == 2))
        oracle = stats.binomtest(n, 120).proportion_ci(1 - 0.05 / 4 / 60)
        actual = named[1].lower[2], named[1].upper[2]
        np.testing.assert_allclose(actual, [oracle.low, oracle.high], rtol=1e-8)

    def test_a_class_without_examples_can_absorb(self):
        labels = np.repeat(np.arange(5), 100)
        predictions = np.where(np.arange(500) % 2 == 0, 7, labels)
        shares = _shares(labels, predictions, num_classes=8)
        self.assertEqual(shares.absorbing, (7,))


if __name__ == "__main__":
    absltest.main()
