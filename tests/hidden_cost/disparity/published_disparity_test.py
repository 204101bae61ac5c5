"""Class-wise figures of published logs, as they were counted from the files before."""

import numpy as np
import pytest
from absl.testing import absltest, parameterized

from robustjax import results
from robustjax.hidden_cost.disparity import classwise, tables
from tests import real_data

_FULL = "smoothing_adversarial_cohen/noise_{0}/test/sigma_{0}.gz"
_SUBSET = "locuslab/certify/cifar10/resnet110/noise_{}/test/sigma_{}"
_CLASSES = ["plane", "auto", "bird", "cat", "deer"]
_CLASSES += ["dog", "frog", "horse", "ship", "truck"]
_CAT, _FROG = _CLASSES.index("cat"), _CLASSES.index("frog")

_FULL_FIGURES = (
    dict(sigma="0.12", accuracy=0.8317, abstention=0.0324,
         by_class=".859 .924 .758 .671 .826 .717 .895 .856 .910 .901",
         gap=0.253, std=0.0832, ratio=0.726, average=0.276, worst=(0.641, 0.700)),
    dict(sigma="0.25", accuracy=0.7665, abstention=0.0795,
         by_class=".813 .890 .649 .554 .733 .648 .837 .817 .884 .840",
         gap=0.336, std=0.1088, ratio=0.622, average=0.424, worst=(0.523, 0.585)),
    dict(sigma="0.50", accuracy=0.6568, abstention=0.1523,
         by_class=".718 .806 .518 .455 .512 .525 .723 .726 .824 .761",
         gap=0.369, std=0.1313, ratio=0.552, average=0.525, worst=(0.424, 0.486)),
    dict(sigma="1.00", accuracy=0.4715, abstention=0.2955,
         by_class=".568 .620 .286 .222 .282 .336 .597 .529 .689 .586",
         gap=0.467, std=0.1618, ratio=0.322, average=0.511, worst=(0.197, 0.249)),
)  # fmt: skip
_SUBSET_FIGURES = (
    dict(train="0.25", accuracy=0.334, gap=0.806, known=dict(cat=0.018, truck=0.824),
         absorbing=["truck", "frog"], vanished=["cat"]),
    dict(train="0.50", accuracy=0.652, gap=0.397, known={}, absorbing=[], vanished=[]),
    dict(train="1.00", accuracy=0.436, gap=0.577,
         known=dict(ship=0.827, cat=0.250, dog=0.250), absorbing=[], vanished=[]),
)  # fmt: skip


def _report(path, **options):
    log = results.read_log(real_data.folder("smoothing_logs") / path)
    return classwise.classwise_report(
        log.columns["label"],
        log.predict,
        num_classes=10,
        radii=log.radius("l2"),
        **options,
    )


def _numbers(text):
    return [float(number) for number in text.split()]


class PublishedDisparityTest(parameterized.TestCase):
    @parameterized.parameters(*_FULL_FIGURES)
    def test_full_test_set(
        self,
        *,
        sigma,
        accuracy,
        abstention,
        by_class,
        gap,
        std,
        ratio,
        average,
        worst,
    ):
        report = _report(_FULL.format(sigma))
        figures = report.disparity
        np.testing.assert_array_equal(report.num_examples, 1000)
        self.assertEqual(report.overall_accuracy, accuracy)
        self.assertEqual(report.overall_abstention_rate, abstention)
        np.testing.assert_array_equal(report.accuracy, _numbers(by_class))
        self.assertEqual(round(figures.gap, 3), gap)
        self.assertEqual(round(figures.std, 4), std)
        self.assertEqual(round(figures.min_max_ratio, 3), ratio)
        self.assertEqual(round(report.radii.overall_average, 3), average)
        self.assertEqual(figures.worst_class, _CAT)
        bounds = report.pointwise_lower[_CAT], report.pointwise_upper[_CAT]
        self.assertEqual(tuple(np.round(bounds, 3)), worst)
        self.assertLess(report.lower[_CAT], bounds[0])
        self.assertGreater(figures.gap_lower, 4 * figures.chance_gap)
        self.assertLess(figures.gap_p_value, 1e-30)
        self.assertEqual((report.shares.absorbing, report.shares.vanished), ((), ()))

    def test_radii_and_shares_at_sigma_1(self):
        report = _report(_FULL.format("1.00"), at_radii=[0, 0.5, 1.0])
        average = ".796 .738 .222 .165 .177 .359 .520 .646 .867 .615"
        np.testing.assert_array_equal(
            np.round(report.radii.average, 3), _numbers(average)
        )
        shares = dict(zip(_CLASSES, np.round(report.shares.share, 3), strict=True))
        known = dict(bird=0.05, cat=0.046, deer=0.047, dog=0.054, frog=0.099)
        self.assertLessEqual({**known, "ship": 0.095}.items(), shares.items())
        np.testing.assert_allclose(
            report.radii.overall_accuracy, [0.4715, 0.3377, 0.2213]
        )
        np.testing.assert_array_equal(report.radii.accuracy[:, 0], report.accuracy)
        np.testing.assert_allclose(
            report.radii.accuracy.mean(axis=0), report.radii.overall_accuracy
        )

    @pytest.mark.newest
    def test_collapse_where_training_noise_is_too_small(self):
        report = _report(_SUBSET.format("0.12", "0.50"))
        self.assertEqual(round(report.overall_accuracy, 3), 0.118)
        self.assertEqual(report.accuracy[_FROG], 1.0)
        self.assertEqual(report.shares.share[_FROG], 0.790)
        self.assertEqual(np.sum(report.accuracy <= 0.04), 8)
        self.assertEqual(np.sum(report.accuracy == 0), 5)
        self.assertEqual(report.shares.absorbing, (_FROG,))
        findings = tables.classwise_findings(report, class_names=_CLASSES)
        self.assertIn("frog absorbs others: it takes 90.0% of the", findings[1])
        vanished = [_CLASSES[i] for i in report.shares.vanished]
        self.assertEqual(vanished, ["plane", "auto", "cat", "dog", "horse", "ship"])
        self.assertEqual(tables.classwise_rows(report)[6]["predicted"], 0.79)

    @parameterized.parameters(*_SUBSET_FIGURES)
    def test_other_training_noise(
        self, *, train, accuracy, gap, known, absorbing, vanished
    ):
        report = _report(_SUBSET.format(train, "0.50"))
        self.assertEqual(round(report.overall_accuracy, 3), accuracy)
        self.assertEqual(round(report.disparity.gap, 3), gap)
        for name, value in known.items():
            self.assertEqual(round(report.accuracy[_CLASSES.index(name)], 3), value)
        names = np.array(_CLASSES)
        self.assertEqual(list(names[list(report.shares.absorbing)]), absorbing)
        self.assertEqual(list(names[list(report.shares.vanished)]), vanished)


if __name__ == "__main__":
    absltest.main()
