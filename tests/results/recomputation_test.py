"""Tests for recomputing runs from their counts."""

import json
import pathlib
import tempfile

import numpy as np
import pytest
from absl.testing import absltest, parameterized
from scipy import stats

from robustjax import results, smoothing
from robustjax.results.checks import settings
from robustjax.smoothing import adaptive
from robustjax.smoothing.radii import norm_balls
from robustjax.smoothing.sampling import vote_counts
from tests.results import sample_runs

_CERTIFIED = next(i for i in range(50) if sample_runs.row(i)["predict"] == 1)
_ABSTAINED = next(i for i in range(50) if sample_runs.row(i)["predict"] == -1)

_RADII = ("radius", "radius_l1", "radius_linf")
_GRADIENT = {  # bounds of a gradient that is small everywhere
    f"{name}_{norm}": value
    for norm, upper in (("l2", 0.11), ("l1", 0.02), ("linf", 0.5))
    for name, value in (("dual_upper", upper), ("length_lower", 0.1))
}


def _first_order_row():
    """Of order 1: SciPy's bound at alpha / 2, radii above those of order 0."""
    row = sample_runs.row(0) | {"order": 1, **_GRADIENT}
    count, num = row["count"], row["num_estimation"]
    p_lower = stats.beta.ppf(0.001 / 2, count, num - count + 1)
    row |= {"p_lower": p_lower, "p_upper": 1 - p_lower}
    for norm, column in zip(("l2", "l1", "linf"), _RADII, strict=True):
        first = smoothing.norm_radius(
            p_lower,
            row[f"dual_upper_{norm}"],
            row[f"length_lower_{norm}"],
            norm=norm,
            dim=64,
            sigma=0.5,
        )
        zeroth = 0.5 * stats.norm.ppf(p_lower) / (8 if norm == "linf" else 1)
        assert first > 1.01 * zeroth
        row[column] = float(first)
    return row


class VerificationTest(parameterized.TestCase):
    def setUp(self):
        super().setUp()
        self.path = (
            pathlib.Path(self.enterContext(tempfile.TemporaryDirectory())) / "run"
        )

    def _findings(self, *rows):
        with sample_runs.open_run(self.path, columns=tuple(rows[0])) as run:
            run.append(rows)
        outcome = results.verify_run(self.path)
        self.assertEqual(outcome.num_rows, len(rows))
        return "\n".join(outcome.findings)

    def test_sample_rows_follow_from_scipy(self):
        """The rows of these tests are right, so that verifying them means something."""
        row = sample_runs.row(_CERTIFIED)
        k, n = row["count"], row["num_estimation"]
        p_lower = stats.beta.ppf(0.001, k, n - k + 1)
        radius = 0.5 * stats.norm.ppf(p_lower)
        np.testing.assert_allclose(row["p_lower"], p_lower, rtol=1e-12)
        np.testing.assert_allclose(row["radius"], radius, rtol=1e-11)
        np.testing.assert_allclose(row["radius_linf"], radius / 8, rtol=1e-11)

    @parameterized.parameters("complement", "bonferroni")
    def test_sound_run_agrees(self, form):
        rows = [sample_runs.row(i, form=form) for i in range(200)]
        self.assertEqual(self._findings(*rows), "")
        predictions = {row["predict"] for row in rows}
        self.assertEqual(predictions, {-1, 1})
        self.assertEmpty(results.verify_run(self.path / "rows.tsv").findings)

    @pytest.mark.newest
    def test_rows_of_other_settings_are_sound_but_not_of_this_run(self):
        rows = [
            sample_runs.row(0),
            sample_runs.row(1, form="bonferroni"),
            sample_runs.row(2, alpha=0.05),
        ]
        expected = "idx 2: alpha is not 0.001, as the flags of the run say"
        self.assertEqual(self._findings(*rows), expected)
        self.assertEmpty(results.verify_run(self.path / "rows.tsv").findings)

    @parameterized.parameters("radius", "radius_l1", "radius_linf")
    def test_radius_above_is_found(self, column):
        row = sample_runs.row(_CERTIFIED)
        norm = {"radius": "l2"}.get(column, column.removeprefix("radius_"))
        row[column] *= 1 + 1e-11
        found = self._findings(row, sample_runs.row(99))
        self.assertRegex(found, rf"^idx {_CERTIFIED}: {norm} radius .* is above .*$")

    @parameterized.parameters((1 - 1e-11, False), (1 - 1e-8, True), (np.nan, True))
    def test_radius_below_is_found_unless_it_is_rounding(self, factor, is_found):
        row = sample_runs.row(_CERTIFIED)
        row["radius"] *= factor
        self.assertEqual("l2 radius" in self._findings(row), is_found)

    @parameterized.parameters(
        ({"count": 600}, "p_lower .* is above"),
        ({"count": 1}, "counts do not add up"),
        ({"p_lower": 0.999}, "p_lower 0.999 is above"),
        ({"p_upper": 0.4}, "p_upper 0.4 is above"),
        ({"alpha": 0.0001}, "radius .* is above"),
        ({"sigma": 0.4}, "radius .* is above"),
        ({"dim": 65}, "linf radius .* is above"),
        ({"correct": 0, "label": 1}, "correct does not tell"),
        ({"order": 1}, "order 1 needs the columns dual_upper_l2, length_lower_l2"),
        ({"order": 2}, "order is neither 0 nor 1"),
        ({"count": 1001}, "counts do not add up"),
        ({"runner_up_count": -1}, "counts do not add up"),
        ({"num_invalid": 2000}, "counts do not add up"),
        ({"predict": -1, "correct": 0}, "l2 radius .* is above the recomputed 0.0"),
    )
    def test_changed_columns_are_found(self, change, message):
        found = self._findings(sample_runs.row(_CERTIFIED) | change)
        self.assertRegex(found, f"idx {_CERTIFIED}: .*{message}")

    def test_prediction_without_evidence_is_found(self):
        change = {"predict": 1, "label": 0, "correct": 0}
        found = self._findings(sample_runs.row(_ABSTAINED) | change)
        self.assertIn("predicts, but the counts certify no l2 radius", found)

    def test_order_one_rests_on_half_of_alpha_and_the_gradient(self):
        changes = (
            {"p_lower": sample_runs.row(0)["p_lower"]},  # of the whole alpha
            {"dual_upper_l1": 0.05},
            {"length_lower_l1": 0.0},
            {"radius_linf": 0.1},
        )
        sound = _first_order_row()
        rows = [sound | {"idx": i} | change for i, change in enumerate(({}, *changes))]
        found = self._findings(*rows).splitlines()
        for line in (
            "idx 1: p_lower .* is above",
            "idx 2: l1 radius .* is above",
            "idx 3: l1 radius .* is above",
            "idx 4: linf radius 0.1 is above",
        ):
            self.assertRegex(found.pop(0), line)
        self.assertEmpty(found)

    @parameterized.parameters(
        ({}, ""),
        ({"p_lower": 0.75}, "p_lower 0.75 is above the recomputed 0.0"),
        ({"p_upper": 0.25}, "p_upper 0.25 is not the recomputed 1.0"),
        ({"predict": 1}, "predicts, although its sums were not finite"),
    )
    def test_failed_rows_certify_nothing(self, change, message):
        """Counts of votes are no evidence where other sums were not finite."""
        row = sample_runs.row(_CERTIFIED) | {"failed": 1, "predict": -1, "label": 0}
        row |= dict.fromkeys(("correct", "radius", "radius_l1", "radius_linf"), 0)
        found = self._findings(row | {"p_lower": 0.0, "p_upper": 1.0} | change)
        self.assertIn(message, found)
        self.assertEqual(bool(found), bool(message))

    def test_abstention_with_evidence_is_sound(self):
        change = dict.fromkeys(("correct", "radius", "radius_l1", "radius_linf"), 0)
        row = sample_runs.row(_CERTIFIED) | change | {"predict": -1}
        self.assertEqual(self._findings(row), "")

    def test_repeated_rows_are_found(self):
        self._findings(sample_runs.row(1), sample_runs.row(2))
        rows_file = self.path / "rows.tsv"
        lines = rows_file.read_text().splitlines(keepends=True)
        rows_file.write_text("".join([*lines, lines[1]]))
        findings = results.verify_run(self.path).findings
        self.assertEqual(findings, ("idx 1 is there more than once",))

    def test_summary_must_follow_from_the_rows(self):
        self._findings(*(sample_runs.row(i) for i in range(20)))
        log = results.read_log(self.path)
        summary = results.summarise(log, radii=[0, 0.25, 0.5])
        summary["mood"] = 3.0
        path = self.path / "summary.json"
        path.write_text(json.dumps(summary))
        outcome = results.verify_run(self.path)
        self.assertEmpty(outcome.findings)
        self.assertIn("summary.json: mood", outcome.unchecked)
        summary["norms"]["l2"]["certified_accuracy"]["0.25"] += 0.01
        summary["num_examples"] = 21
        path.write_text(json.dumps(summary))
        first, second = results.verify_run(self.path).findings
        self.assertIn("num_examples is 21, the rows give 20", first)
        self.assertIn("norms.l2.certified_accuracy.0.25 is", second)
        summary = results.summarise(log, radii=[0])
        summary["norms"]["l2"] |= {"certified_accuracy_lower": [0.4]}
        summary["norms"]["l1"] |= {"average_certified_radius": "large"}
        path.write_text(json.dumps(summary))
        first, second = results.verify_run(self.path).findings
        self.assertIn("l2.certified_accuracy_lower is [0.4], the rows give 'a", first)
        self.assertIn("l1.average_certified_radius is 'large', the rows", second)
        for text in ("{", "[]", '{"norms": {"l2": 3}}'):
            path.write_text(text)
            (finding,) = results.verify_run(self.path).findings
            self.assertEqual(finding, "summary.json is not a summary of a run")

    @parameterized.parameters(
        ("alpha", "column alpha: not all entries are numbers"),
        ("num_estimation", "column num_estimation: not all entries are integers"),
        ("runner_up", f"idx {_CERTIFIED}: runner_up is unknown"),
    )
    def test_unreadable_settings(self, column, message):
        found = self._findings(sample_runs.row(_CERTIFIED) | {column: "x"})
        self.assertIn(message, found)

    def test_logs_without_counts_are_refused(self):
        self.path.write_text("idx\tlabel\tpredict\tradius\tcorrect\ttime\n")
        with self.assertRaisesRegex(ValueError, "no column alpha to verify from"):
            results.verify_run(self.path)

    def test_a_data_set_that_is_gone_is_told(self):
        sample_runs.write_run(self.path, [1], flags={"dataset": "gone.npz"})
        told = "\n".join(results.verify_run(self.path).unchecked)
        self.assertRegex(told, r"No gone.npz in .*data_dir")

    def test_software_that_differs_between_rows_is_told(self):
        sample_runs.write_run(self.path, [1])
        file = self.path / "starts" / "00002.json"
        first = json.loads(file.with_name("00001.json").read_text())
        with sample_runs.open_run(self.path) as run:
            run.append([sample_runs.row(2)])
        file.write_text(json.dumps(first | {"jaxlib": "99.0"}))
        told = "\n".join(results.verify_run(self.path).unchecked)
        self.assertRegex(told, "rows of different starts would be equal: jaxlib .*99.0")

    def test_run_without_rows(self):
        sample_runs.open_run(self.path).close()
        self.assertEqual(results.verify_run(self.path)[:2], (0, ("there are no rows",)))


class ConstantsTest(absltest.TestCase):
    def test_those_of_verification_are_those_of_certification(self):
        """Kept apart, so that reading results does not load JAX."""
        self.assertEqual(settings._STAGES, adaptive._STAGES.keywords)
        self.assertEqual(settings._BLOCK, vote_counts.BLOCK_SIZE)
        self.assertEqual(settings._FORMS, norm_balls.FORMS)


class SummaryTest(absltest.TestCase):
    def test_figures(self):
        path = self.enterContext(tempfile.TemporaryDirectory()) + "/run"
        log = results.read_log(sample_runs.write_run(path, range(50)))
        summary = results.summarise(log, radii=[0, 0.5], confidence=0.99)
        rows = [sample_runs.row(i) for i in range(50)]
        self.assertEqual(summary["num_examples"], 50)
        self.assertEqual(
            summary["abstention_rate"], np.mean([row["predict"] == -1 for row in rows])
        )
        self.assertEqual(list(summary["norms"]), ["l2", "l1", "linf"])
        figures = summary["norms"]["l2"]
        accuracy = np.mean([row["correct"] for row in rows])
        self.assertEqual(figures["certified_accuracy"]["0.0"], accuracy)
        loss = stats.binom.ppf(0.99, 50, 0.001) / 50
        self.assertAlmostEqual(
            figures["certified_accuracy_lower"]["0.0"], accuracy - loss
        )
        self.assertAlmostEqual(
            figures["average_certified_radius"],
            np.mean([row["correct"] * row["radius"] for row in rows]),
        )

    def test_lower_bound_is_that_of_the_largest_alpha(self):
        path = self.enterContext(tempfile.TemporaryDirectory()) + "/run"
        rows = [sample_runs.row(i, alpha=(0.001, 0.05)[i == 7]) for i in range(20)]
        with sample_runs.open_run(path) as run:
            run.append(rows)
        summary = results.summarise(results.read_log(path), radii=[0], confidence=0.9)
        figures = summary["norms"]["l2"]
        loss = stats.binom.ppf(0.9, 20, 0.05) / 20
        self.assertGreater(loss, stats.binom.ppf(0.9, 20, 0.001) / 20)
        self.assertAlmostEqual(
            figures["certified_accuracy_lower"]["0.0"],
            figures["certified_accuracy"]["0.0"] - loss,
        )


if __name__ == "__main__":
    absltest.main()
