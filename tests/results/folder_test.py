"""Tests for run folders: start, resume, refusal, several processes."""

import json
import os
import pathlib
import tempfile
import threading
from unittest import mock

import jax
import numpy as np
import pytest
from absl.testing import absltest, parameterized

import robustjax
from robustjax import results
from robustjax.results import folder, identity
from tests.results import sample_runs


def _contents(path):
    return {file.name: file.read_bytes() for file in path.iterdir()}


class FolderTest(parameterized.TestCase):
    def setUp(self):
        super().setUp()
        self.path = (
            pathlib.Path(self.enterContext(tempfile.TemporaryDirectory()))
            / "runs"
            / "first"
        )

    @pytest.mark.newest
    def test_start_writes_flags_and_versions(self):
        sample_runs.open_run(self.path).close()
        text = (self.path / "flags.txt").read_text()
        self.assertEqual(text, "--sigma=0.5\n--alpha=0.001\n--start=0\n--workdir=a\n")
        versions = json.loads((self.path / "versions.json").read_text())
        self.assertEqual(versions["robustjax"], robustjax.__version__)
        self.assertEqual(versions["jax"], jax.__version__)
        self.assertEqual(versions["numpy"], np.__version__)
        self.assertEqual(versions["num_devices"], jax.device_count())
        self.assertEqual(versions["facts"], sample_runs.FACTS)
        self.assertContainsSubset(
            ["jaxlib", "scipy", "python", "device_kind", "git", "date"], versions
        )
        self.assertEqual(
            sorted(os.listdir(self.path)), ["flags.txt", "rows.tsv", "versions.json"]
        )

    def test_resume_continues(self):
        sample_runs.write_run(self.path, range(3))
        before = _contents(self.path)
        with sample_runs.open_run(self.path, flags={"workdir": "b"}) as run:
            self.assertEqual(run.finished, {0, 1, 2})
            self.assertEmpty(run.messages)
            self.assertEqual(_contents(self.path), before)
            run.append([sample_runs.row(3)])
            self.assertEqual(run.finished, {0, 1, 2, 3})
        log = results.read_log(self.path)
        expected = [sample_runs.row(i)["radius_linf"] for i in range(4)]
        np.testing.assert_array_equal(log.radius("linf"), expected)

    def test_repair_and_new_versions_are_told(self):
        sample_runs.write_run(self.path, range(3))
        rows_file = self.path / "rows.tsv"
        rows_file.write_bytes(rows_file.read_bytes()[:-4])
        environment = identity.environment() | {"jax": "99.0"}
        with (
            mock.patch.object(identity, "environment", return_value=environment),
            sample_runs.open_run(self.path) as run,
        ):
            self.assertEqual(run.finished, {0, 1})
        old, cut = run.messages
        self.assertIn(f"jax was {jax.__version__} and is now 99.0", old)
        self.assertIn("half-written row after 2 rows", cut)

    @parameterized.parameters(
        ({"flags": {"sigma": "0.25"}}, "--sigma is 0.5 there and 0.25 here"),
        ({"flags": {"start": "5"}}, "--start is 0 there and 5 here"),
        ({"flags": {"new": "1"}}, "--new is unset there and 1 here"),
        (
            {"facts": {"data": "d2", "model": "m2"}},
            "data is d1 there and d2 here; model is m1 there and m2 here",
        ),
    )
    def test_another_run_is_refused_and_not_touched(self, change, message):
        sample_runs.write_run(self.path, range(2))
        before = _contents(self.path)
        with self.assertRaisesRegex(ValueError, message) as caught:
            sample_runs.open_run(self.path, **change)
        self.assertNotIn("\n", str(caught.exception))
        self.assertEqual(_contents(self.path), before)

    @parameterized.parameters("thesis.tex", "flags.txt", "rows.tsv")
    def test_folder_with_other_things_is_refused_and_not_touched(self, name):
        self.path.mkdir(parents=True)
        (self.path / name).write_text("mine")
        with self.assertRaisesRegex(ValueError, f"not a run and not empty.*{name}"):
            sample_runs.open_run(self.path)
        self.assertEqual(_contents(self.path), {name: b"mine"})

    @parameterized.parameters("mine", '{"robustjax": "1"}', "[]")
    def test_versions_file_of_somebody_else_is_refused(self, text):
        self.path.mkdir(parents=True)
        (self.path / "versions.json").write_text(text)
        with self.assertRaisesRegex(ValueError, "does not describe a robustjax run"):
            sample_runs.open_run(self.path)
        self.assertEqual((self.path / "versions.json").read_text(), text)

    def test_expected_and_hidden_entries_are_accepted(self):
        (self.path / "checkpoint").mkdir(parents=True)
        (self.path / ".versions.json.7.tmp").touch()
        sample_runs.open_run(self.path, expected_entries=["checkpoint"]).close()

    def test_killed_between_the_two_files(self):
        sample_runs.open_run(self.path).close()
        (self.path / "flags.txt").unlink()
        sample_runs.open_run(self.path).close()
        self.assertStartsWith((self.path / "flags.txt").read_text(), "--sigma")

    def test_file_in_place_of_the_folder(self):
        self.path.parent.mkdir(parents=True)
        self.path.write_text("mine")
        with self.assertRaisesRegex(OSError, str(self.path)):
            sample_runs.open_run(self.path)
        with self.assertRaises(OSError):
            sample_runs.open_run(self.path / "below")

    @pytest.mark.skipif(os.geteuid() == 0, reason="root may write anywhere")
    def test_no_permission(self):
        self.path.mkdir(parents=True)
        self.path.chmod(0o500)
        with self.assertRaisesRegex(PermissionError, str(self.path)):
            sample_runs.open_run(self.path)

    def test_full_disk_at_the_start(self):
        with (
            mock.patch.object(os, "fsync", side_effect=OSError(28, "No space")),
            self.assertRaisesRegex(OSError, "No space.*versions.json"),
        ):
            sample_runs.open_run(self.path)
        self.assertEmpty(os.listdir(self.path))

    @parameterized.parameters(
        ({"process_index": 2, "num_processes": 2}, "process_index=2"),
        ({"columns": ["idx", "radius"]}, "columns to begin"),
    )
    def test_bad_arguments(self, change, message):
        with self.assertRaisesRegex(ValueError, message):
            sample_runs.open_run(self.path, **change)

    def test_summary_is_plain_json(self):
        with sample_runs.open_run(self.path) as run:
            run.write_summary({"a": np.float32(0.5), "b": [np.nan, 1], "c": {0.25: 2}})
        summary = json.loads((self.path / "summary.json").read_text())
        self.assertEqual(summary, {"a": 0.5, "b": [None, 1], "c": {"0.25": 2}})

    def test_full_disk_keeps_the_older_summary(self):
        with sample_runs.open_run(self.path) as run:
            run.write_summary({"a": 1})
            before = _contents(self.path)
            with (
                mock.patch.object(os, "fsync", side_effect=OSError(28, "No space")),
                self.assertRaisesRegex(OSError, "No space.*summary.json"),
            ):
                run.write_summary({"a": 2})
            self.assertEqual(_contents(self.path), before)


class ProcessesTest(absltest.TestCase):
    def setUp(self):
        super().setUp()
        self.path = (
            pathlib.Path(self.enterContext(tempfile.TemporaryDirectory())) / "run"
        )

    def _write(self, process_index, num_processes, indices):
        return sample_runs.write_run(
            self.path, indices, process_index=process_index, num_processes=num_processes
        )

    def test_two_processes_merge_into_one_file(self):
        self._write(0, 2, [0, 2, 4])
        self._write(1, 2, [1, 3])
        with sample_runs.open_run(self.path, num_processes=2) as run:
            self.assertEqual(run.finished, {0, 1, 2, 3, 4})
            merged = run.merge(expected=range(5))
        single = sample_runs.write_run(self.path.parent / "single", range(5))
        self.assertEqual(merged.read_bytes(), (single / "rows.tsv").read_bytes())
        self.assertLen(results.read_log(self.path), 5)
        with sample_runs.open_run(self.path) as run:  # with one process, and again
            self.assertEqual(run.finished, {0, 1, 2, 3, 4})
            run.merge(expected=range(5))

    def test_resume_with_another_number_of_processes(self):
        self._write(0, 2, [0, 2])
        self._write(1, 2, [1])
        with sample_runs.open_run(self.path) as run:
            self.assertEqual(run.finished, {0, 1, 2})
            with self.assertRaisesRegex(ValueError, "idx 2 would be there twice"):
                run.append([sample_runs.row(2)])
            run.append([sample_runs.row(3)])
            run.merge(expected=range(4))
        self.assertEqual(
            results.read_log(self.path).columns["idx"].tolist(), [0, 1, 2, 3]
        )

    def test_merge_refuses_gaps_strangers_and_duplicates(self):
        self._write(0, 2, [0, 2])
        run = sample_runs.open_run(self.path, num_processes=2)
        with self.assertRaisesRegex(ValueError, "idx 1, 3 missing"):
            run.merge(expected=range(4))
        with self.assertRaisesRegex(ValueError, "idx 2 not expected"):
            run.merge(expected=[0])
        part = self.path / "rows-00000-of-00002.tsv"
        other = part.read_text().replace("\tcomplement\t", "\tbonferroni\t")
        (self.path / "rows-00001-of-00002.tsv").write_text(other)
        with self.assertRaisesRegex(ValueError, "idx 0, 2 would be there more"):
            run.merge(expected=[0, 2])
        self.assertFalse((self.path / "rows.tsv").exists())

    def test_rows_that_differ_in_time_alone_are_one(self):
        """Two launches of one run may have computed the same example."""
        self._write(0, 2, [0, 2])
        run = sample_runs.open_run(self.path, num_processes=2)
        part = self.path / "rows-00000-of-00002.tsv"
        again = part.read_text().replace("\t0.0\t", "\t7.5\t", 1)
        self.assertNotEqual(again, part.read_text())
        (self.path / "rows-00001-of-00002.tsv").write_text(again)
        run.merge(expected=[0, 2])

    def test_check_run_refuses_what_open_run_would(self):
        known = {"flags": sample_runs.FLAGS, "facts": {"data": "d1"}}
        results.check_run(self.path, **known)
        self.assertFalse(self.path.exists())
        sample_runs.write_run(self.path, range(3))
        results.check_run(self.path, **known)
        with self.assertRaisesRegex(ValueError, "--sigma is 0.5 there and 1 here"):
            results.check_run(
                self.path, flags=sample_runs.FLAGS | {"sigma": "1"}, facts={}
            )
        with self.assertRaisesRegex(ValueError, "data is d1 there and d2 here"):
            results.check_run(self.path, flags=sample_runs.FLAGS, facts={"data": "d2"})
        with self.assertRaisesRegex(NotADirectoryError, "workdir=.*rows.tsv"):
            results.check_run(self.path / "rows.tsv", **known)
        with self.assertRaisesRegex(ValueError, "not a run and not empty"):
            results.check_run(self.path.parent, **known)

    def test_second_process_waits_for_the_first(self):
        opened = []
        second = threading.Thread(
            target=lambda: opened.append(
                sample_runs.open_run(self.path, process_index=1, num_processes=2)
            )
        )
        second.start()
        second.join(0.3)
        self.assertEmpty(opened)
        sample_runs.open_run(self.path, num_processes=2).close()
        second.join(30)
        opened[0].close()
        self.assertTrue((self.path / "rows-00001-of-00002.tsv").exists())

    def test_first_process_never_comes(self):
        with (
            mock.patch.object(folder, "_START_TIMEOUT", 0.0),
            self.assertRaisesRegex(OSError, "Process 0 did not write .*versions.json"),
        ):
            sample_runs.open_run(self.path, process_index=1, num_processes=2)


if __name__ == "__main__":
    absltest.main()
