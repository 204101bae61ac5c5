"""Tests for merging runs over disjoint examples."""

import json
import pathlib
import tempfile

import numpy as np
import pytest
from absl.testing import absltest, parameterized

from robustjax import results
from robustjax.results.run_folder import starts
from tests.results import sample_runs


class MergingTest(parameterized.TestCase):
    def setUp(self):
        super().setUp()
        self.folder = pathlib.Path(self.enterContext(tempfile.TemporaryDirectory()))
        self.output = self.folder / "merged"

    def _run(self, name, indices, **changes):
        flags = {"start": str(indices[0]), "workdir": name} | changes.pop("flags", {})
        return sample_runs.write_run(
            self.folder / name, indices, flags=flags, **changes
        )

    @pytest.mark.newest
    def test_merged_run_is_the_run_over_all_examples(self):
        parts = [self._run("b", range(4, 9)), self._run("a", range(4))]
        self.assertEqual(results.merge_runs(parts, output=self.output), self.output)
        whole = self._run("whole", range(9))
        merged, expected = (results.read_log(p).columns for p in (self.output, whole))
        self.assertEqual(merged.pop("start").tolist(), [2] * 4 + [1] * 5)
        self.assertEqual(expected.pop("start").tolist(), [1] * 9)
        for name, values in expected.items():
            np.testing.assert_array_equal(merged[name], values)
        flags = (self.output / "flags.txt").read_text()
        self.assertEqual(flags, "--sigma=0.5\n--alpha=0.001\n")
        versions = json.loads((self.output / "versions.json").read_text())
        self.assertEqual(versions["flags"], {"sigma": "0.5", "alpha": "0.001"})
        self.assertEqual(versions["merged_from"], [str(part) for part in parts])
        self.assertEmpty(results.verify_run(self.output).findings)

    def test_starts_are_numbered_through(self):
        """Rows of all runs keep to what they were computed with."""
        first, second = self._run("a", range(2)), self._run("b", range(3, 5))
        with sample_runs.open_run(first, flags={"start": "0"}) as run:
            run.append([sample_runs.row(2)])
        results.merge_runs([first, second], output=self.output)
        self.assertEqual(
            results.read_log(self.output).columns["start"].tolist(), [1, 1, 2, 3, 3]
        )
        history = starts.read(self.output)
        expected = [*starts.read(first).values(), *starts.read(second).values()]
        self.assertEqual(list(history.values()), expected)
        self.assertEmpty(results.verify_run(self.output).findings)

    def test_runs_of_other_software_need_consent(self):
        first, second = self._run("a", range(2)), self._run("b", range(2, 4))
        file = second / "versions.json"
        versions = json.loads(file.read_text()) | {"jaxlib": "99.0"}
        file.write_text(json.dumps(versions))
        with self.assertRaisesRegex(ValueError, "b was computed otherwise.*99.0"):
            results.merge_runs([first, second], output=self.output)
        self.assertFalse(self.output.exists())
        results.merge_runs(
            [first, second], output=self.output, allow_version_change=True
        )
        self.assertLen(results.read_log(self.output), 4)

    def test_strided_and_interleaved_ranges_have_no_gaps(self):
        parts = [self._run("a", range(0, 100, 40)), self._run("b", range(20, 100, 40))]
        results.merge_runs(parts, output=self.output)
        indices = results.read_log(self.output).columns["idx"]
        self.assertEqual(indices.tolist(), [0, 20, 40, 60, 80])

    def test_one_run_of_one_row(self):
        results.merge_runs([self._run("a", [7])], output=self.output)
        self.assertEqual(results.read_log(self.output).columns["idx"].tolist(), [7])

    def test_runs_made_before_starts_were_recorded(self):
        parts = [self._run("b", range(3, 5)), self._run("a", range(3))]
        with self.assertRaisesRegex(ValueError, "a has other columns than .*b"):
            self._drop_start(parts[1])
            results.merge_runs(parts, output=self.output)
        self._drop_start(parts[0])
        results.merge_runs(parts, output=self.output)
        columns = results.read_log(self.output).columns
        self.assertEqual(columns["idx"].tolist(), [*range(5)])
        self.assertNotIn("start", columns)

    def _drop_start(self, run):
        path = run / "rows.tsv"
        lines = path.read_text().splitlines()
        path.write_text("".join(line.rpartition("\t")[0] + "\n" for line in lines))

    def test_gaps_need_consent(self):
        parts = [self._run("a", range(3)), self._run("b", range(5, 7))]
        with self.assertRaisesRegex(ValueError, "merged: idx 3, 4 missing"):
            results.merge_runs(parts, output=self.output)
        self.assertFalse(self.output.exists())
        results.merge_runs(parts, output=self.output, allow_gaps=True)
        self.assertLen(results.read_log(self.output), 5)

    @parameterized.parameters(
        ({"flags": {"sigma": "1.0"}}, "--sigma is 1.0 there and 0.5 here"),
        ({"facts": {"data": "d2", "model": "m1"}}, "data is d2 there and d1 here"),
    )
    def test_strangers_are_refused(self, change, message):
        parts = [self._run("a", range(3)), self._run("b", range(3, 5), **change)]
        with self.assertRaisesRegex(ValueError, f"b does not belong to .*a: {message}"):
            results.merge_runs(parts, output=self.output)
        self.assertFalse(self.output.exists())

    def test_duplicates_are_refused(self):
        first, second = self._run("a", range(3)), self._run("b", range(2, 5))
        for parts in ([first, second], [first, first]):
            with self.assertRaisesRegex(ValueError, "idx .* more than once"):
                results.merge_runs(parts, output=self.output)

    def test_bad_folders(self):
        run = self._run("a", range(2))
        empty = self.folder / "empty"
        empty.mkdir()
        with self.assertRaisesRegex(FileNotFoundError, "empty is not a run"):
            results.merge_runs([run, empty], output=self.output)
        with self.assertRaisesRegex(ValueError, "output=.* is not empty"):
            results.merge_runs([run], output=run)
        with self.assertRaisesRegex(ValueError, "at least one run"):
            results.merge_runs([], output=self.output)
        sample_runs.open_run(empty).close()
        with self.assertRaisesRegex(ValueError, "empty holds no rows"):
            results.merge_runs([empty], output=self.output)


if __name__ == "__main__":
    absltest.main()
