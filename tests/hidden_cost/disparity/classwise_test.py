"""Class-wise reports against their definitions, SciPy, exact sums and simulation."""

import jax.numpy as jnp
import numpy as np
import pytest
from absl.testing import absltest, parameterized
from scipy import stats

from robustjax.hidden_cost.disparity import classwise, statistics

_report = classwise.classwise_report


def _examples(num_examples, num_correct):
    """Labels and predictions with these counts; errors go to the next class."""
    n = np.asarray(num_examples)
    labels = np.repeat(np.arange(len(n)), n)
    position = np.concatenate([np.arange(size) for size in n])
    is_correct = position < np.asarray(num_correct)[labels]
    return labels, np.where(is_correct, labels, (labels + 1) % len(n))


def _accuracy_report(num_examples, num_correct, **options):
    labels, predictions = _examples(num_examples, num_correct)
    return _report(labels, predictions, num_classes=len(num_examples), **options)


def _random_data(seed=0, num=400, num_classes=5):
    rng = np.random.default_rng(seed)
    labels = rng.integers(num_classes, size=num)
    guess = rng.integers(-1, num_classes, size=num)
    predictions = np.where(rng.random(num) < 0.2 + 0.15 * labels, labels, guess)
    radii = np.where(predictions < 0, 0.0, rng.random(num))
    return labels, predictions, radii


class ClassFiguresTest(parameterized.TestCase):
    @pytest.mark.newest
    def test_figures_follow_from_their_definitions(self):
        labels, predictions, radii = _random_data()
        at = [0.0, 0.3, 0.9]
        report = _report(labels, predictions, num_classes=5, radii=radii, at_radii=at)
        for c in range(5):
            own = labels == c
            hit = own & (predictions == c)
            self.assertEqual(report.num_examples[c], own.sum())
            self.assertEqual(report.num_correct[c], hit.sum())
            self.assertEqual(report.accuracy[c], hit.sum() / own.sum())
            abstained = np.mean(predictions[own] == -1)
            self.assertEqual(report.abstention_rate[c], abstained)
            self.assertEqual(report.shares.share[c], np.mean(predictions == c))
            self.assertEqual(report.shares.prior[c], np.mean(own))
            average = np.where(hit, radii, 0)[own].mean()
            np.testing.assert_allclose(report.radii.average[c], average)
            np.testing.assert_allclose(
                report.radii.quantiles[c], np.quantile(radii[hit], [0.25, 0.5, 0.75])
            )
            certified = [np.mean(radii[own] * hit[own] >= r) for r in at[1:]]
            np.testing.assert_allclose(report.radii.accuracy[c, 1:], certified)
            self.assertEqual(report.radii.accuracy[c, 0], report.accuracy[c])
        is_correct = predictions == labels
        self.assertEqual(report.overall_accuracy, is_correct.mean())
        self.assertEqual(report.overall_abstention_rate, np.mean(predictions == -1))
        np.testing.assert_allclose(
            report.radii.overall_average, np.mean(radii * is_correct)
        )
        np.testing.assert_allclose(
            report.radii.overall_accuracy,
            [np.mean(is_correct & (radii >= r)) for r in at],
        )

    def test_intervals_are_those_of_scipy_at_their_share_of_alpha(self):
        labels, predictions, radii = _random_data()
        labels[labels == 2] = 3  # four of five classes have examples
        options = dict(num_classes=5, alpha=0.1, radii=radii, at_radii=[0.2, 0.5, 0.7])
        report = _report(labels, predictions, **options)
        for c in (0, 1, 3, 4):
            for k, alpha, interval in (
                (report.num_correct[c], 0.1 / 4, (report.lower, report.upper)),
                (
                    report.num_correct[c],
                    0.1,
                    (report.pointwise_lower, report.pointwise_upper),
                ),
                (
                    np.sum((labels == c) & (predictions == c) & (radii >= 0.5)),
                    0.1 / 12,
                    (report.radii.lower[:, 1], report.radii.upper[:, 1]),
                ),
            ):
                test = stats.binomtest(int(k), int(report.num_examples[c]))
                oracle = test.proportion_ci(1 - alpha)
                actual = [bound[c] for bound in interval]
                np.testing.assert_allclose(actual, [oracle.low, oracle.high], rtol=1e-8)
        decided = int(np.sum(predictions >= 0))
        test = stats.binomtest(int(np.sum(predictions == 2)), decided)
        oracle = test.proportion_ci(0.98)
        actual = [report.shares.lower[2], report.shares.upper[2]]
        np.testing.assert_allclose(actual, [oracle.low, oracle.high], rtol=1e-8)

    def test_class_without_examples_is_reported_as_such(self):
        report = _report(
            [0, 0, 2, 2], [0, 1, 2, -1], num_classes=4, radii=[1, 1, 1, 0], at_radii=[1]
        )
        self.assertEqual(report.empty_classes, (1, 3))
        np.testing.assert_array_equal(report.num_examples, [2, 0, 2, 0])
        for values in (report.accuracy, report.abstention_rate, report.radii.average):
            np.testing.assert_array_equal(np.isnan(values), [0, 1, 0, 1])
        np.testing.assert_array_equal(report.radii.accuracy[:, 0], [0.5, np.nan] * 2)
        np.testing.assert_array_equal([report.lower[1], report.upper[1]], [0, 1])
        figures = report.disparity
        self.assertEqual((figures.gap, figures.std, figures.gini), (0, 0, 0))
        self.assertEqual((figures.min_max_ratio, figures.worst_k_mean), (1, 0.5))
        self.assertEqual(report.shares.kl_divergence, np.inf)  # class 1 is predicted
        self.assertIsNone(report.to_dict()["shares"]["kl_divergence"])
        np.testing.assert_allclose(report.shares.total_variation, 1 / 3)

    def test_nothing_right_and_everything_abstained(self):
        report = _report([0, 0, 1], [-1, -1, -1], num_classes=2, radii=[0, 0, 0])
        figures = report.disparity
        np.testing.assert_array_equal(report.accuracy, [0, 0])
        np.testing.assert_array_equal([figures.min_max_ratio, figures.gini], np.nan)
        shares = report.shares
        np.testing.assert_array_equal(
            [shares.total_variation, shares.kl_divergence], np.nan
        )
        self.assertTrue(np.isnan(report.radii.quantiles).all())
        self.assertEqual((report.overall_abstention_rate, figures.gap), (1, 0))

    def test_a_permutation_of_the_classes_permutes_the_report(self):
        labels, predictions, radii = _random_data(num=2000, num_classes=6)
        permuted = np.array([4, 2, 5, 0, 3, 1])
        options = dict(num_classes=6, radii=radii, at_radii=[0.1, 0.6])
        one = _report(labels, predictions, **options)
        renamed = np.append(permuted, -1)[predictions]
        two = _report(permuted[labels], renamed, **options)
        for name in ("accuracy", "lower", "upper", "abstention_rate", "num_correct"):
            np.testing.assert_array_equal(
                getattr(two, name)[permuted], getattr(one, name)
            )
        for name in ("average", "quantiles", "accuracy", "lower"):
            np.testing.assert_allclose(
                getattr(two.radii, name)[permuted], getattr(one.radii, name), rtol=1e-12
            )
        for name in ("share", "lower", "prior"):
            np.testing.assert_array_equal(
                getattr(two.shares, name)[permuted], getattr(one.shares, name)
            )
        worst, best = one.disparity.worst_class, one.disparity.best_class
        renamed = one.disparity._replace(
            worst_class=permuted[worst], best_class=permuted[best]
        )
        np.testing.assert_allclose(two.disparity, renamed, rtol=1e-12)

    def test_the_order_of_the_examples_does_not_matter(self):
        labels, predictions, radii = _random_data()
        order = np.random.default_rng(1).permutation(len(labels))
        one = _report(labels, predictions, num_classes=5, radii=radii)
        two = _report(
            jnp.asarray(labels[order]),
            jnp.asarray(predictions[order]),
            num_classes=5,
            radii=radii[order],
        )
        self.assertEqual(one.disparity, two.disparity)


class CoverageTest(parameterized.TestCase):
    @parameterized.parameters(((12, 20, 35), 0.05), ((30, 30), 0.2))
    def test_intervals_hold_together_by_exact_sums(self, num_examples, alpha):
        """The joint coverage is a product of sums over all outcomes of a class."""
        n = np.array(num_examples)
        outcomes = [np.minimum(k, n) for k in range(n.max() + 1)]
        reports = [_accuracy_report(n, k, alpha=alpha) for k in outcomes]
        lower = np.array([report.lower for report in reports]).T
        upper = np.array([report.upper for report in reports]).T
        center, half_width = (lower + upper) / 2, (upper - lower) / 2
        accuracies = np.linspace(0.01, 0.99, 99)
        coverage = [[], []]
        for c, size in enumerate(n):
            k = np.arange(size + 1)
            pmf = stats.binom.pmf(k, size, accuracies[:, None])
            distance = np.abs(accuracies[:, None] - center[c, k])
            for values, scale in zip(coverage, (1, 0.5), strict=True):
                is_covered = distance <= scale * half_width[c, k] + 1e-12
                values.append(np.sum(pmf * is_covered, axis=1))
        full, half = (np.min(values, axis=1) for values in coverage)
        self.assertGreaterEqual(np.prod(full), 1 - alpha)  # worst accuracy of each
        self.assertLess(np.prod(full), 1 - alpha / 10)
        self.assertLess(np.prod(half), 1 - alpha)

    def test_gap_interval_holds_and_its_middle_quarter_does_not(self):
        n, p, alpha = np.array([40] * 6), np.array([0.9, 0.8, 0.8, 0.7, 0.4, 0.3]), 0.3
        rng = np.random.default_rng(0)
        hits = []
        for k in rng.binomial(n, p, (60, 6)):
            report = statistics.disparity_of(k, n, alpha=alpha, worst_k=1)
            center = (report.gap_lower + report.gap_upper) / 2
            off = 2 * abs(center - 0.6) / (report.gap_upper - report.gap_lower)
            hits.append([off <= 1, off <= 0.25])
        full, quarter = np.mean(hits, axis=0)
        self.assertGreaterEqual(full, 1 - alpha)
        self.assertLess(quarter, 1 - alpha)

    @parameterized.parameters(True, False)
    def test_share_intervals_hold_together(self, is_stratified):
        """Whether or not the numbers of examples by class are fixed."""
        prior = np.array([0.5, 0.3, 0.2])
        confusion = np.array([[0.7, 0.1, 0.1, 0.1], [0.2, 0.6, 0.2, 0.0],
                              [0.05, 0.9, 0.05, 0.0]])  # fmt: skip
        share = prior @ confusion[:, :3]
        share = share / share.sum()  # of the decided predictions
        rng = np.random.default_rng(0)
        alpha, trials, hits = 0.3, 600, 0
        for _ in range(trials):
            labels = np.repeat(np.arange(3), [100, 60, 40])
            if not is_stratified:
                labels = rng.choice(3, size=200, p=prior)
            cut = np.cumsum(confusion, axis=1)[labels]
            drawn = np.argmax(rng.random((200, 1)) < cut, axis=1)
            predictions = np.where(drawn == 3, -1, drawn)
            shares = statistics.shares_of(
                np.bincount(predictions[predictions >= 0], minlength=3),
                num_examples=200,
                prior=prior,
                alpha=alpha,
            )
            hits += np.all((shares.lower <= share) & (share <= shares.upper))
        self.assertGreaterEqual(hits / trials, 1 - alpha)


class BadInputTest(parameterized.TestCase):
    @parameterized.parameters(
        (dict(labels=[0, 2, 1]), r"labels in \[0, 2\), got 2"),
        (dict(labels=[0, -1, 1]), "labels in .*, got -1"),
        (dict(labels=[0.0, 1.0, 1.0]), "labels to be integers"),
        (dict(labels=[0, 1]), "'labels': 2, 'predictions': 3"),
        (dict(labels=[], predictions=[]), "labels of at least one example"),
        (dict(predictions=[0, 2, 1]), r"predictions in \[-1, 2\), got 2"),
        (dict(predictions=[0, -2, 1]), "predictions in .*, got -2"),
        (dict(predictions=[0.5, 1, 1]), "predictions as integers"),
        (dict(predictions=[[0, 1, 1]]), "predictions as integers"),
        (dict(num_classes=1), "num_classes >= 2, got 1"),
        (dict(alpha=0.0), "alpha .*got 0.0"),
        (dict(alpha=1.0), "alpha .*got 1.0"),
        (dict(radii=[1, 1]), "'radii': 2"),
        (dict(radii=[1, -0.5, 1]), "radii .*got -0.5"),
        (dict(radii=[1, np.nan, 1]), "radii .*got nan"),
        (dict(radii=[1, np.inf, 1]), "radii .*got inf"),
        (dict(at_radii=[0.5]), r"radii with at_radii=\[0.5\]"),
        (dict(radii=[1, 1, 1], at_radii=[-0.5]), "at_radii .*got -0.5"),
        (dict(quantiles=[0.5, 1.5]), "quantiles .*1.5"),
        (dict(prior=[0.5, 0.4]), "prior with sum 1, got sum 0.9"),
        (dict(prior=[1.5, -0.5]), "prior as 2 probabilities"),
        (dict(prior=[1.0]), "prior as 2 probabilities"),
        (dict(worst_k=0), "worst_k >= 1, got 0"),
        (dict(num_reports=0), "num_reports >= 1, got 0"),
    )
    def test_is_refused_by_name(self, change, text):
        arguments = dict(labels=[0, 1, 1], predictions=[0, 1, 0], num_classes=2)
        with self.assertRaisesRegex(ValueError, text):
            _report(**{**arguments, **change})


if __name__ == "__main__":
    absltest.main()
