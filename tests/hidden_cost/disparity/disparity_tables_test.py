"""Class-wise reports as JSON, as rows of a table and as sentences."""

import json

import numpy as np
import pytest
from absl.testing import absltest, parameterized

from robustjax.hidden_cost.disparity import classwise, tables

_report = classwise.classwise_report


def _data():
    rng = np.random.default_rng(0)
    labels, predictions = rng.integers(5, size=200), rng.integers(-1, 5, size=200)
    return labels, predictions, rng.random(200)


class OutputTest(parameterized.TestCase):
    def test_dict_is_json(self):
        labels, predictions, radii = _data()
        report = _report(labels, predictions, num_classes=7, radii=radii, at_radii=[1])
        text = json.dumps(report.to_dict(), allow_nan=False)
        loaded = json.loads(text)
        self.assertIsNone(loaded["accuracy"][6])
        self.assertEqual(loaded["accuracy"][:5], report.accuracy[:5].tolist())
        self.assertEqual(loaded["radii"]["at"], [1.0])
        self.assertLen(loaded["radii"]["quantiles"], 7)
        self.assertIsNone(
            _report(labels, predictions, num_classes=5).to_dict()["radii"]
        )

    def test_rows(self):
        labels, predictions, radii = _data()
        report = _report(
            labels, predictions, num_classes=6, radii=radii, at_radii=[0, 0.5]
        )
        rows = tables.classwise_rows(report, class_names=list("abcdef"))
        json.dumps(rows, allow_nan=False)
        self.assertLen(rows, 7)
        self.assertEqual([row["class"] for row in rows], [*"abcdef", "all"])
        self.assertEqual(rows[1]["certified_at_0.5"], report.radii.accuracy[1, 1])
        self.assertEqual(rows[1]["radius_quantile_0.25"], report.radii.quantiles[1, 0])
        self.assertEqual(rows[-1]["accuracy"], report.overall_accuracy)
        self.assertEqual(rows[-1]["average_radius"], report.radii.overall_average)
        self.assertEqual(rows[5]["note"], "no examples")
        self.assertIsNone(rows[5]["accuracy"])

    @pytest.mark.newest
    def test_findings(self):
        labels = np.repeat([0, 1, 2], [100, 100, 0])
        report = _report(labels, np.zeros(200, int), num_classes=3)
        names = ["cat", "dog", "frog"]
        gap, absorbing, vanished, empty = tables.classwise_findings(
            report, class_names=names
        )
        self.assertIn("0.0% (class dog) to 100.0% (class cat), a gap of 100.0", gap)
        self.assertIn("cat absorbs others: it takes 100.0%", absorbing)
        self.assertIn("dog has vanished: it takes 0.0%", vanished)
        self.assertEqual(empty, "No examples of: frog.")
        self.assertIn("test of equal classes: p < 1e-6). Equal classes would", gap)
        with self.assertRaisesRegex(ValueError, "3 class_names, got 2"):
            tables.classwise_findings(report, class_names=names[:2])

    @parameterized.parameters(
        ([0, 0, 1], [-1] * 3, "Every prediction abstains: there is nothing to compare"),
        ([1, 1, 1], [0, 1, 1], "Only class 1 has examples: there is nothing to comp"),
        ([0, 1, 1], [1, 0, -1], "All classes have accuracy 0.0%: there is no gap .at "),
        ([0, 1, 1], [0, 1, 1], "All classes have accuracy 100.0%: there is no gap .at"),
        ([0, 0, 1], [0, 1, 1], "run from 50.0% .class 0. to .*equal classes: p = 1.."),
    )
    def test_first_finding_of_few_examples(self, labels, predictions, text):
        report = _report(labels, predictions, num_classes=2)
        findings = tables.classwise_findings(report)
        self.assertRegex(findings[0], text)
        self.assertFalse(any("vanished" in finding for finding in findings))

    def test_shares_of_many_reports_say_so(self):
        labels = np.repeat([0, 1], 100)
        report = _report(labels, np.zeros(200, int), num_classes=2, num_reports=30)
        findings = tables.classwise_findings(report)
        self.assertIn("with confidence 0.95 in all 30 reports), its prior", findings[1])


if __name__ == "__main__":
    absltest.main()
