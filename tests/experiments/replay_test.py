"""Rows are recomputed from model, data and seed, to the bit."""

import contextlib
import csv
import io
import json
import pathlib
import random
import tempfile
from unittest import mock

import certify_test
import first_order_run_test
import numpy as np
import pytest
import run_folders
import sample_classifiers
from absl.testing import absltest, parameterized
from scipy import stats

from robustjax import results
from robustjax.results import commands, replay
from robustjax.results.run_folder import provenance
from tests.results import sample_runs


def _seed(chosen, num_rows):
    """A seed with which one drawn row of some is one of those chosen."""
    return next(
        seed
        for seed in range(99)
        if random.Random(seed).sample(range(num_rows), 1)[0] in chosen
    )


_FIRST_BATCH = _seed(range(10), 20)


def _edit(folder, change, place=3):
    """Changes fields of one row."""
    rows = run_folders.rows(folder, without=())
    rows[place] |= change
    with (folder / "rows.tsv").open("w", newline="") as file:
        writer = csv.DictWriter(file, rows[0], delimiter="\t", lineterminator="\n")
        writer.writeheader()
        writer.writerows(rows)
    return rows[place]


class ReplayTest(certify_test.InFolder):
    """Runs of order 0: 20 images in two batches."""

    def setUp(self):
        super().setUp()
        self.finished()
        self.run_folder = pathlib.Path(self.config.workdir)

    def replayed(self):
        """The outcome of a draw that falls into the first batch."""
        return results.replay_run(self.run_folder, num_rows=1, seed=_FIRST_BATCH)

    @pytest.mark.newest
    def test_all_rows_agree_to_the_bit(self):
        outcome = results.replay_run(self.run_folder, num_rows=99)
        self.assertEqual(outcome, (tuple(range(20)), (), 20, ()))

    def test_only_batches_with_a_drawn_row_are_recomputed(self):
        for batch in (range(10), range(10, 20)):
            outcome = results.replay_run(
                self.run_folder, num_rows=1, seed=_seed(batch, 20)
            )
            self.assertEqual(outcome, (tuple(batch), (), 10, ()))

    def test_rows_of_a_run_that_has_not_ended(self):
        rows = self.run_folder / "rows.tsv"
        rows.write_text("".join(rows.read_text().splitlines(keepends=True)[:7]))
        outcome = results.replay_run(self.run_folder, num_rows=99)
        self.assertEqual(outcome, (tuple(range(6)), (), 6, ()))

    def test_counts_that_verify_cannot_find(self):
        """With bounds and radii that follow from them, and without a summary."""
        count = 1990
        p_lower = stats.beta.ppf(0.001, count, 2000 - count + 1)
        radius = 0.25 * stats.norm.ppf(p_lower)
        row = _edit(
            self.run_folder,
            {
                "count": count,
                "runner_up_count": 10,
                "p_lower": p_lower,
                "p_upper": 1 - p_lower,
                "radius": radius,
                "radius_linf": radius / 8,
            },
        )
        (self.run_folder / "summary.json").unlink()
        outcome = results.verify_run(self.run_folder)
        self.assertEmpty(outcome.findings)
        self.assertStartsWith(outcome.unchecked[0], "count, runner_up_count")
        findings = self.replayed().findings
        self.assertRegex("\n".join(findings), rf"idx {row['idx']}: count is 1990, rec")
        for line in findings:
            self.assertStartsWith(line, "idx 3: ")

    def test_any_changed_field_is_found(self):
        changes = (
            ("predict", -1), ("label", 11), ("num_invalid", 1), ("num_selection", 1000),
            ("sigma", 0.5), ("dim", 65), ("radius_linf", 0.5), ("norm", "l1"),
        )  # fmt: skip
        for place, (name, value) in enumerate(changes):
            _edit(self.run_folder, {name: value}, place)
        findings = self.replayed().findings
        for place, ((name, value), line) in enumerate(
            zip(changes, findings, strict=True)
        ):
            self.assertStartsWith(line, f"idx {place}: {name} is {value}, recomputed ")

    def test_other_hardware_may_decide_ties_otherwise(self):
        """Three votes may fall otherwise, four may not."""
        rows = run_folders.rows(self.run_folder)
        for place, votes in ((3, 3), (4, 4)):
            change = {"count": int(rows[place]["count"]) - votes}
            _edit(self.run_folder, change, place)
        environment = provenance.environment() | {"device_kind": "abacus"}
        with mock.patch.object(provenance, "environment", return_value=environment):
            outcome = self.replayed()
        (finding,) = outcome.findings
        self.assertStartsWith(finding, "idx 4: count is ")
        self.assertEqual(outcome.num_exact, 8)
        (reason,) = outcome.reasons
        self.assertIn("is now abacus", reason)

    def test_rows_know_their_start(self):
        """Only those of another software may differ."""
        starts = self.run_folder / "starts"
        entry = json.loads((starts / "00001.json").read_text())
        (starts / "00002.json").write_text(json.dumps(entry | {"jax": "0.1"}))
        rows = run_folders.rows(self.run_folder)
        for place in (3, 4):
            change = {"count": int(rows[place]["count"]) - 1, "start": place - 2}
            _edit(self.run_folder, change, place)
        outcome = self.replayed()
        self.assertLen(outcome.findings, 1)
        self.assertStartsWith(outcome.findings[0], "idx 3: count")
        self.assertLen(outcome.reasons, 1)

    def test_another_model_is_refused_and_a_moved_one_accepted(self):
        for name in ("farthest_mean", "nearest_mean"):
            model = {"apply_fn": f"sample_classifiers:{name}"}
            is_other = name == "farthest_mean"
            with (
                self.assertRaisesRegex(ValueError, "model is not that of the run")
                if is_other
                else contextlib.nullcontext()
            ):
                results.replay_run(self.run_folder, num_rows=1, model=model)
        changed = mock.patch(
            "sample_classifiers.nearest_mean", sample_classifiers.farthest_mean
        )
        with (
            changed,
            self.assertRaisesRegex(ValueError, "model is not that of the run"),
        ):
            results.replay_run(self.run_folder, num_rows=1)

    @parameterized.parameters(
        ("facts", "data", "0" * 64, "data set digits is another one here"),
        ("facts", "noise", "0 0 0 0 0 0", "other noise from --seed=0"),
        ("flags", "seed", "7", "other noise from --seed=7"),
        ("flags", "sigma", "x", "--sigma as float, got 'x'"),
        ("merged_from", "a", "b", "is merged; replay the runs"),
    )
    def test_other_facts_are_refused(self, part, name, value, text):
        path = self.run_folder / "versions.json"
        content = json.loads(path.read_text())
        content.setdefault(part, {})[name] = value
        path.write_text(json.dumps(content))
        with self.assertRaisesRegex(ValueError, text):
            results.replay_run(self.run_folder, num_rows=1)

    def test_bad_arguments(self):
        with self.assertRaisesRegex(ValueError, "num_rows >= 1"):
            results.replay_run(self.run_folder, num_rows=0)
        with self.assertRaisesRegex(ValueError, "Unknown model 'keras'"):
            results.replay_run(self.run_folder, num_rows=1, model={"keras": "x"})
        for kind, name in (("onnx", "gone.onnx"), ("checkpoint", "gone")):
            with self.assertRaisesRegex(FileNotFoundError, name):
                results.replay_run(self.run_folder, num_rows=1, model={kind: name})
        with self.assertRaisesRegex(FileNotFoundError, "is not a run"):
            results.replay_run(self.folder, num_rows=1)

    def test_command(self):
        def called(*arguments):
            output = io.StringIO()
            with contextlib.redirect_stdout(output):
                status = commands.main(["replay", str(self.run_folder), *arguments])
            return status, output.getvalue()

        first = ("--rows=1", f"--seed={_FIRST_BATCH}")
        name = "--apply_fn=sample_classifiers:nearest_mean"
        status, output = called(*first, name)
        self.assertEqual(status, 0)
        self.assertEqual(
            output,
            f"{self.run_folder}: 10 rows recomputed from model, data and seed "
            "(1 drawn, with the rest of their batches): agree to the bit\n",
        )
        _, output = called("--rows=20")
        self.assertIn(": 20 rows recomputed from model, data and seed: agree", output)
        changed = mock.patch.object(
            provenance, "changed_versions", return_value=["why"]
        )
        row = run_folders.rows(self.run_folder)[4]
        _edit(self.run_folder, {"count": int(row["count"]) - 1}, 4)
        with changed:
            status, output = called(*first)
        self.assertEqual(status, 0)
        self.assertIn("numbers may differ, as why\n", output)
        self.assertIn("batches): agree, 9 of them to the bit\n", output)
        _edit(self.run_folder, {"label": 0})
        with changed:
            status, output = called(*first)
        self.assertEqual(status, 1)
        self.assertIn("idx 3: label is 0", output)
        self.assertIn("10 rows recomputed from model, data and seed (1 ", output)
        self.assertIn("batches): 1 problems\n", output)


class RefusalTest(parameterized.TestCase):
    @parameterized.parameters(
        ((), "run holds no rows"),
        ((1,), "flags of a certification run, got none named"),
    )
    def test_runs_that_cannot_be_replayed(self, indices, text):
        folder = pathlib.Path(self.enterContext(tempfile.TemporaryDirectory()), "run")
        sample_runs.write_run(folder, indices)
        with self.assertRaisesRegex(ValueError, text):
            results.replay_run(folder, num_rows=1)

    @parameterized.parameters(
        ("count", "7", "10", True),
        ("count", "6", "10", False),
        ("count", "x", "10", False),
        ("dual_upper_l2", "0.5", "0.50049", True),
        ("dual_upper_l2", "0.5", "0.502", False),
        ("dual_upper_l2", "x", "0.5", False),
        ("predict", "-1", "3", True),
        ("predict", "2", "3", False),
    )
    def test_what_other_hardware_explains(self, name, logged, new, is_near):
        self.assertEqual(replay._is_near(name, logged, new), is_near)


class WeightedReplayTest(first_order_run_test.InFolder):
    """Runs whose rows rest on float32 sums."""

    @parameterized.parameters("soft", "adaptive", "adaptive first order")
    def test_all_rows_agree_to_the_bit(self, kind):
        self.finished(kind)
        outcome = results.replay_run(self.config.workdir, num_rows=99)
        num_rows = len(run_folders.rows(self.config.workdir))
        self.assertEqual(outcome[1:], ((), num_rows, ()))
        self.assertLen(outcome.indices, num_rows)

    def test_gradients_that_verify_cannot_find(self):
        """All other fields and rows of the batch agree to the bit."""
        self.finished()
        folder = pathlib.Path(self.config.workdir)
        upper = float(run_folders.rows(folder)[3]["dual_upper_l1"])
        _edit(folder, {"dual_upper_l1": np.nextafter(upper, 0)})
        outcome = results.replay_run(folder, num_rows=1, seed=_seed((3, 4, 5), 6))
        self.assertEqual((outcome.indices, outcome.num_exact), ((3, 4, 5), 2))
        self.assertLen(outcome.findings, 1)
        self.assertStartsWith(outcome.findings[0], "idx 3: dual_upper_l1 is ")

    @pytest.mark.slow
    def test_fewer_devices(self):
        """Sums in another order differ by rounding, and by no more."""
        self.finished()
        folder = pathlib.Path(self.config.workdir)
        for place, factor in ((3, 1.0005), (4, 1.01)):
            upper = float(run_folders.rows(folder)[place]["dual_upper_l1"])
            _edit(folder, {"dual_upper_l1": factor * upper}, place)
        with mock.patch.object(replay, "_num_devices", return_value=99):
            outcome = results.replay_run(folder, num_rows=1, seed=_seed((3, 4, 5), 6))
        self.assertEqual(outcome.indices, (3, 4, 5))
        self.assertLen(outcome.findings, 1)
        self.assertStartsWith(outcome.findings[0], "idx 4: dual_upper_l1 is ")
        self.assertRegex(
            outcome.reasons[0], "99 devices shared the samples, . are here"
        )


if __name__ == "__main__":
    absltest.main()
