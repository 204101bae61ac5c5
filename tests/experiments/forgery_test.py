"""Forged runs: whatever is changed in a finished run, `verify` finds by name.

One table for each kind of run. Each forgery is put into a row of its own, so that one
verification tells that all of them are found, and that no other row is suspected.
"""

import csv
import functools
import json
import math
import pathlib

import certify_test
import first_order_run_test
import numpy as np
import pytest
import run_folders
from absl.testing import absltest, parameterized
from scipy import stats

from robustjax import results


def _consistent(p_lower, **changes):
    """A change with the l2 and linf radii that p_lower gives, sigma 0.25, d = 64."""
    radius = 0.25 * stats.norm.ppf(p_lower)
    claims = {"p_lower": p_lower, "p_upper": 1 - p_lower, "radius": radius}
    return claims | {"radius_linf": radius / 8} | changes


_HARD = (  # order 0, hard votes, norms l2 and linf, 20 images
    ({"label": 10, "correct": 0}, "label is not a class"),
    ({"label": -2, "correct": 0}, "label is not a class"),
    ({"predict": 10, "correct": 0}, "predict is neither a class"),
    ({"predict": -2, "correct": 0}, "predict is neither a class"),
    ({"predict": -1, "correct": 0}, "l2 radius .* is above the recomputed 0.0"),
    ({"correct": 7}, "correct does not tell"),
    ({"radius": 3.0}, "l2 radius 3.0 is above"),
    ({"radius_linf": 3.0}, "linf radius 3.0 is above"),
    ({"radius": math.nan}, "l2 radius nan"),
    ({"radius": math.inf}, "l2 radius inf is above"),
    ({"time": -1.0}, "time is not"),
    ({"time": math.nan}, "time is not"),
    ({"count": 1500, "runner_up_count": 500}, "p_lower .* is above"),
    ({"count": 2001}, "counts do not add up"),
    ({"count": 10**15}, "counts do not add up"),
    ({"count": -1}, "counts do not add up"),
    ({"count": 1900, "runner_up_count": 5}, "counts do not add up"),
    ({"runner_up_count": 2001}, "counts do not add up"),
    ({"num_invalid": 2001}, "counts do not add up"),
    ({"num_invalid": -1}, "counts do not add up"),
    ({"num_selection": 1000}, "num_selection is not 100"),
    ({"num_selection": 0}, "num_selection is below 1"),
    ({"num_estimation": 10**6}, "num_estimation is not 2000"),
    ({"num_estimation": 0}, "num_estimation is below 1"),
    ({"alpha": 0.05}, "alpha is not 0.001"),
    ({"alpha": 0.0}, "alpha is not between"),
    ({"alpha": math.nan}, "alpha is not between"),
    ({"sigma": 0.5}, "sigma is not 0.25"),
    ({"sigma": float(np.nextafter(0.25, 1))}, "sigma is not 0.25"),
    ({"sigma": -0.25}, "sigma is not positive"),
    ({"sigma": 1e308}, "sigma is not 0.25"),
    ({"norm": "linf"}, "norm is not l2"),
    ({"norm": "foo"}, "norm is not l2"),
    ({"order": 1}, "order is not 0"),
    ({"order": 2}, "order is neither"),
    ({"runner_up": "bonferroni"}, "runner_up is not complement"),
    ({"runner_up": "foo"}, "runner_up is unknown"),
    ({"num_classes": 2, "label": 1, "predict": 1}, "num_classes is not 10"),
    ({"num_classes": -1}, "num_classes is below 2"),
    ({"num_classes": 10**15}, "num_classes is not 10"),
    ({"dim": 1}, "dim is not 64"),
    ({"dim": 0}, "dim is below 1"),
    ({"p_lower": 0.9999}, "p_lower 0.9999 is above"),
    ({"p_lower": math.nan}, "p_lower nan"),
    ({"p_upper": 0.0}, "p_upper 0.0 is not"),
    (_consistent(0.9999, bound="betting"), "bound is not clopper_pearson"),
    (_consistent(0.9999, bound="betting"), "above what the hard votes allow"),
    ({"bound": "sequence"}, "bound is not clopper_pearson"),
    ({"bound": "foo"}, "bound is unknown"),
    ({"stage": 1}, "stage is that of an adaptive run"),
    ({"stage": -1}, "stage is negative"),
    ({"stage": 10**15}, "stage is not 0"),
    ({"form": "unproven"}, "form is not box"),
    ({"form": "foo"}, "form is unknown"),
    ({"simultaneous": 0}, "simultaneous is not 1"),
    ({"simultaneous": 2}, "simultaneous is neither"),
    ({"failed": 1}, "predicts, although its sums"),
    ({"failed": 3}, "failed is neither"),
    ({"start": 7}, "start is not one of those in the folder"),
    ({"start": -1}, "start is not one of those in the folder"),
)
_FIRST_ORDER = (  # norms l2, l1, linf and a subspace, 6 images
    ({"zeroth_radius_l1": 9.0}, "zeroth_radius_l1 9.0 is above"),
    ({"zeroth_radius_linf": 0.0}, "zeroth_radius_linf 0.0 is not"),
    ({"zeroth_radius_subspace:top": math.nan}, "zeroth_radius_subspace:top nan"),
    ({"dual_norm_l2": -1.0}, "dual_norm_l2 is not a length"),
    ({"dual_norm_l1": math.nan}, "dual_norm_l1 is not a length"),
    ({"dual_norm_l1": 0.6}, "dual_norm_l1 is above dual_upper_l1 by more than noise"),
    ({"dual_norm_l2": 0.6}, "dual_norm_l2 is above dual_upper_l2 by more than noise"),
    ({"dual_norm_linf": 9.0}, "dual_norm_linf is above dual_upper_linf by more"),
    ({"dual_norm_subspace:top": 0.6}, "dual_norm_subspace:top is above dual_upper_sub"),
    ({"dual_norm_linf": 0.0}, "dual_norm_linf is not between dual_norm_l1 and"),
    ({"dual_norm_l1": 0.0}, "dual_norm_linf is not between dual_norm_l1 and"),
    ({"p_lower": 0.9999999}, "p_lower 0.9999999 is above the recomputed"),
    ({"p_lower": 0.1}, "p_lower 0.1 is not the recomputed"),
    (
        {"dual_upper_l2": 0.01, "length_lower_l2": 0.05},
        "dual_upper_l2 is below what length_lower_l2",
    ),
    (
        {"dual_upper_linf": 0.01, "length_lower_linf": 0.05},
        "dual_upper_linf is below what length_lower_linf",
    ),
    ({"dual_upper_l1": -1.0}, "dual_upper_l1 is not a length"),
    ({"dual_upper_linf": 1e9}, "dual_upper_linf is above the longest"),
    ({"dual_upper_subspace:top": math.inf}, "dual_upper_subspace:top is not a length"),
    ({"length_lower_l1": 9.0}, "length_lower_l1 is above the longest"),
    ({"length_lower_l1": math.nan}, "length_lower_l1 is not a length"),
    ({"radius_subspace:top": 9.0}, "subspace:top radius 9.0 is above"),
    ({"form": "unproven"}, "form is not box"),
    ({"simultaneous": 0}, "simultaneous is not 1"),
    ({"order": 0}, "order is not 1"),
    ({"bound": "sequence"}, "bound is that of counts of an adaptive run"),
    ({"bound": "betting"}, "bound is not clopper_pearson"),
    ({"stage": 1}, "stage is not 0"),
    ({"runner_up": "bonferroni"}, "runner_up is not complement, although"),
)
_SOFT = (  # order 1, soft votes
    ({"bound": "clopper_pearson"}, "bound is not betting"),
    ({"p_lower": 0.9999, "p_upper": 1 - 0.9999}, "above what the hard votes allow"),
    ({"p_lower": -0.5}, "p_lower is negative"),
    ({"p_lower": math.nan}, "p_lower is above"),
    ({"p_upper": 0.0}, "p_upper 0.0 is not"),
)
_ADAPTIVE = (  # order 0
    ({"bound": "clopper_pearson"}, "bound is not sequence"),
    ({"num_estimation": 10**6}, "num_estimation is above --max_samples=8000"),
    ({"stage": 1}, "stage is that of an adaptive run of order 1"),
)
_ADAPTIVE_FIRST_ORDER = (
    ({"stage": 4}, "stage is not that of num_estimation"),
    ({"stage": 0}, "stage is not that of num_estimation"),
    ({"num_estimation": 8_001}, "num_estimation is above --max_samples=8000"),
)


class _Forged(first_order_run_test.InFolder):
    def setUp(self):
        super().setUp()
        self.run_folder = pathlib.Path(self.config.workdir)

    def rows(self):
        return run_folders.rows(self.run_folder, without=())

    def write(self, rows):
        with (self.run_folder / "rows.tsv").open("w", newline="") as file:
            writer = csv.DictWriter(file, rows[0], delimiter="\t", lineterminator="\n")
            writer.writeheader()
            writer.writerows(rows)

    def findings(self):
        return results.verify_run(self.run_folder).findings

    def check_table(self, table):
        """Every forgery is found in its row by name, and no other row is suspected."""
        self.assertEmpty(self.findings())
        sound = self.rows()
        places = [i for i, row in enumerate(sound) if row["correct"] == "1"]
        self.assertNotEmpty(places)
        for first in range(0, len(table), len(places)):
            forged = dict(zip(places, table[first:], strict=False))
            rows = [row | forged.get(i, ({},))[0] for i, row in enumerate(sound)]
            self.write(rows)
            found = self.findings()
            for place, (change, text) in forged.items():
                pattern = f"(?m)^idx {sound[place]['idx']}: .*{text}"
                self.assertRegex("\n".join(found), pattern, change)
            suspected = {line.split(":")[0] for line in found if line[:3] == "idx"}
            expected = {f"idx {sound[place]['idx']}" for place in forged}
            self.assertEqual(suspected, expected)


class RowsTest(_Forged):
    def finished_hard(self):
        run_folders.write(certify_test._finished_run()[0], self.run_folder)

    @pytest.mark.newest
    def test_hard_votes(self):
        self.finished_hard()
        self.check_table(_HARD)

    def test_labels(self):
        self.finished_hard()
        self.write(
            [
                row
                | {
                    "label": (int(row["label"]) + 1) % 10,
                    "predict": -1,
                    "radius": 0.0,
                    "radius_linf": 0.0,
                    "correct": 0,
                }
                for row in self.rows()
            ]
        )
        found = [line for line in self.findings() if line.startswith("idx")]
        text = "label is not that of the data set"
        self.assertEqual(found, [f"idx {i}: {text}" for i in range(20)])
        outcome = results.verify_run(self.run_folder, with_data=False)
        self.assertNotIn(text, "\n".join(outcome.findings))
        self.assertIn("label, num_classes, dim", "\n".join(outcome.unchecked))

    def test_first_order(self):
        self._check_kind("first order")

    @parameterized.parameters("soft", "adaptive", "adaptive first order")
    @pytest.mark.slow
    def test_other_kinds(self, kind):
        self._check_kind(kind)

    def _check_kind(self, kind):
        self.finished(kind)
        self.check_table(
            {
                "first order": _FIRST_ORDER,
                "soft": _SOFT,
                "adaptive": _ADAPTIVE,
                "adaptive first order": _ADAPTIVE_FIRST_ORDER,
            }[kind]
        )

    @parameterized.parameters(0.9999999, 0.1)
    def test_a_wrong_p_lower_is_that_and_nothing_else(self, p_lower):
        """Gradients and radii are judged by the one that follows from the counts."""
        self.finished("first order")
        rows = self.rows()
        self.write([rows[0] | {"p_lower": p_lower}, *rows[1:]])
        (finding,) = self.findings()
        self.assertRegex(finding, rf"^idx 0: p_lower {p_lower} is .* the recomputed 0")


class ExamplesTest(_Forged):
    def setUp(self):
        super().setUp()
        run_folders.write(certify_test._finished_run()[0], self.run_folder)

    @parameterized.parameters(20, 10**15, -3)
    def test_index_outside_of_the_range_flags(self, index):
        for with_data in (True, False):
            rows = self.rows()
            self.write([*rows[:-1], rows[-1] | {"idx": index}])
            outcome = results.verify_run(self.run_folder, with_data=with_data)
            text = "\n".join(outcome.findings)
            self.assertRegex(text, f"idx {index}: idx is (not one|negative)")

    @parameterized.parameters(0, 7, 19)
    def test_dropped_rows(self, place):
        (self.run_folder / "summary.json").unlink()
        rows = self.rows()
        self.write(rows[:place] + rows[place + 1 :])
        self.assertEqual(
            self.findings(), (f"1 of 20 examples have no row: idx {place}",)
        )

    def test_dropped_rows_without_the_data(self):
        """The largest index shows how many there are at least."""
        (self.run_folder / "summary.json").unlink()
        self.write(self.rows()[3:15])
        outcome = results.verify_run(self.run_folder, with_data=False)
        text = "3 of 15 examples have no row: idx 0, 1, 2"
        self.assertEqual(outcome.findings, (text,))
        self.assertIn("behind the last row", "\n".join(outcome.unchecked))

    def test_rows_twice(self):
        self.write([*self.rows(), self.rows()[3]])
        self.assertIn("idx 3 is there more than once", self.findings())

    @parameterized.parameters(
        ("radius_linf", None, "column radius_linf is missing"),
        ("norm", None, "column norm is missing"),
        ("radius_l1", 9.0, "column radius_l1 is not one of this run"),
        ("radius_foo", 9.0, "column radius_foo: foo is not a norm"),
        ("zeroth_radius_l2", 9.0, "column zeroth_radius_l2 is not one of this run"),
        ("count", "many", "column count: not all entries are integers"),
        ("count", 10**30, "column count: not all entries are integers"),
        ("p_lower", "high", "column p_lower: not all entries are numbers"),
        ("dim", "x", "column dim: not all entries are numbers"),
    )
    def test_columns(self, name, value, text):
        rows = [row | {name: value} for row in self.rows()]
        if value is None:
            rows = [{k: v for k, v in row.items() if k != name} for row in rows]
        self.write(rows)
        self.assertIn(text, "\n".join(self.findings()))

    def test_columns_that_nobody_knows_are_named(self):
        self.write([row | {"comment": "fine"} for row in self.rows()])
        outcome = results.verify_run(self.run_folder)
        self.assertEmpty(outcome.findings)
        self.assertIn("columns comment", outcome.unchecked)


class FilesTest(_Forged):
    """Files that are edited, cut or removed."""

    def setUp(self):
        super().setUp()
        run_folders.write(certify_test._finished_run()[0], self.run_folder)

    @parameterized.parameters(
        ("sigma=0.25", "sigma=0.5", "flags.txt: --sigma is '0.5'"),
        ("--sigma=0.25", "", "flags.txt: --sigma is missing"),
        ("--sigma=0.25", "--sigma=0.25\n--sigma=1", "flags.txt: --sigma is '1'"),
        ("alpha=0.001", "alpha=0.0001", "flags.txt: --alpha is '0.0001'"),
        ("votes=hard", "votes=soft", "flags.txt: --votes is 'soft'"),
    )
    def test_flags_file(self, old, new, text):
        path = self.run_folder / "flags.txt"
        path.write_text(path.read_text().replace(old, new))
        self.assertRegex("\n".join(self.findings()), text)

    @parameterized.parameters(
        ("facts", "data", "0" * 64, "data is not the fingerprint"),
        ("facts", "noise", "0 0 0 0 0 0", "noise is not that of --seed=0"),
        ("flags", "seed", "1", "noise is not that of --seed=1"),
        ("flags", "seed", "-1", "noise is not that of --seed=-1"),
        ("flags", "norms", "l2,l1", "column radius_l1 is missing"),
        ("flags", "max_examples", "30", "10 of 30 examples have no row"),
        ("flags", "alpha", "x", "alpha is not x"),
        ("flags", "max_samples", "x", "flags.txt: --max_samples"),
        ("flags", "skip", "0", "flags.txt: --skip"),
    )
    def test_versions_file(self, part, name, value, text):
        path = self.run_folder / "versions.json"
        content = json.loads(path.read_text())
        content[part][name] = value
        path.write_text(json.dumps(content))
        self.assertRegex("\n".join(self.findings()), text)

    @parameterized.parameters(
        ("skip", "abc", "Expected --skip as int, got 'abc'"),
        ("skip", "0", "Expected --skip >= 1, got 0"),
        ("skip", None, ""),
        ("start", "-1", "Expected --start >= 0, got -1"),
        ("max_examples", "1e3", "Expected --max_examples as int, got '1e3'"),
        ("max_samples", "many", "Expected --max_samples as int, got 'many'"),
        ("num_estimation", "", "Expected --num_estimation as int, got ''"),
        ("sigma", "x", "Expected --sigma as float, got 'x'"),
        ("simultaneous", "yes", "Expected --simultaneous as bool, got 'yes'"),
    )
    def test_flags_that_do_not_parse(self, name, value, text):
        """They are told, and the rows that are there show which one is missing."""
        (self.run_folder / "summary.json").unlink()
        rows = self.rows()
        self.write(rows[:7] + rows[8:])
        path = self.run_folder / "versions.json"
        content = json.loads(path.read_text())
        content["flags"][name] = value
        if value is None:
            del content["flags"][name]
        path.write_text(json.dumps(content))
        lines = (self.run_folder / "flags.txt").read_text().splitlines()
        kept = [line for line in lines if not line.startswith(f"--{name}=")]
        text_of_flags = "\n".join([*kept, f"--{name}={value}"])
        (self.run_folder / "flags.txt").write_text(text_of_flags)
        for with_data in (True, False):
            outcome = results.verify_run(self.run_folder, with_data=with_data)
            found = "\n".join(outcome.findings)
            self.assertIn(text and f"versions.json: {text}", found)
            self.assertIn("1 of 20 examples have no row: idx 7", found)

    def test_rows_alone_show_what_may_be_missing(self):
        rows = self.rows()
        self.write(rows[:7] + rows[8:])
        outcome = results.verify_run(self.run_folder / "rows.tsv")
        self.assertEmpty(outcome.findings)
        text = "on purpose: 1 of 20 examples have no row: idx 7"
        self.assertIn(text, "\n".join(outcome.unchecked))

    @parameterized.parameters("flags.txt", "summary.json")
    def test_files_that_are_not_there(self, name):
        before = results.verify_run(self.run_folder)
        (self.run_folder / name).unlink()
        after = results.verify_run(self.run_folder)
        self.assertEqual(after.findings, before.findings)
        self.assertEqual(
            {*after.unchecked} - {*before.unchecked}, {f"{name}, which is not there"}
        )

    def test_lines_that_are_no_rows(self):
        path = self.run_folder / "rows.tsv"
        whole = path.read_bytes()
        path.write_bytes(whole + b"20\t3\t")  # as a kill may leave it
        outcome = results.verify_run(self.run_folder)
        self.assertEmpty(outcome.findings)
        text = "rows.tsv, line 22: cut off in the middle; it is left out"
        self.assertIn(text, outcome.unchecked)
        path.write_bytes(whole + b"garbage\n")
        text = "rows.tsv, line 22: no row; it is left out"
        self.assertEqual(self.findings(), (text,))
        path.write_bytes(whole.replace(b"\n7\t", b"\ngarbage\n7\t"))
        with self.assertRaisesRegex(ValueError, "rows.tsv, line 9 is damaged"):
            self.findings()

    @parameterized.parameters(
        ("num_examples", 21),
        ("abstention_rate", 0.5),
        ("num_invalid", 1),
        ("failed", [3]),
        ("seconds", -1.0),
        ("norms.l2.average_certified_radius", 9.0),
        ("norms.linf.certified_accuracy.0.0", 1.5),
        ("norms.l2.certified_accuracy_lower.0.0", 1.5),
    )
    def test_summary(self, name, value):
        path = self.run_folder / "summary.json"
        summary = json.loads(path.read_text())
        *parents, last = name.replace(".0.0", ".0_0").split(".")
        parent = functools.reduce(dict.__getitem__, parents, summary)
        self.assertIn(last.replace("_0", ".0"), parent)
        parent[last.replace("_0", ".0")] = value
        path.write_text(json.dumps(summary))
        (finding,) = self.findings()
        self.assertIn(f"summary.json: {name} is {value}", finding)


if __name__ == "__main__":
    absltest.main()
