"""Tests for merging runs over disjoint examples."""

import json
import pathlib
import tempfile

import pytest
from absl.testing import absltest, parameterized

from robustjax import results
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
        self.assertEqual(
            (self.output / "rows.tsv").read_bytes(), (whole / "rows.tsv").read_bytes()
        )
        flags = (self.output / "flags.txt").read_text()
        self.assertEqual(flags, "--sigma=0.5\n--alpha=0.001\n")
        versions = json.loads((self.output / "versions.json").read_text())
        self.assertEqual(versions["flags"], {"sigma": "0.5", "alpha": "0.001"})
        self.assertEqual(versions["merged_from"], [str(part) for part in parts])
        self.assertEmpty(results.verify_run(self.output).findings)

    def test_strided_and_interleaved_ranges_have_no_gaps(self):
        parts = [self._run("a", range(0, 100, 40)), self._run("b", range(20, 100, 40))]
        results.merge_runs(parts, output=self.output)
        indices = results.read_log(self.output).columns["idx"]
        self.assertEqual(indices.tolist(), [0, 20, 40, 60, 80])

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
