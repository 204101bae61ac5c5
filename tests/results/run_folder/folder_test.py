"""Tests for run folders: start, resume, refusal, several processes."""

import json
import os
import pathlib
import shutil
import tempfile
import threading
from unittest import mock

import jax
import numpy as np
import pytest
from absl.testing import absltest, parameterized

import robustjax
from robustjax import results
from robustjax.results.run_folder import folder, provenance, starts
from tests.results import sample_runs


def _contents(path):
    files = (file for file in path.rglob("*") if file.is_file())
    return {file.relative_to(path).as_posix(): file.read_bytes() for file in files}


def _elsewhere(**versions):
    """Software or hardware that is not that of this test."""
    environment = provenance.environment() | versions
    return mock.patch.object(provenance, "environment", return_value=environment)


def _without_start(rows_file):
    lines = rows_file.read_text().splitlines()
    return [line.rpartition("\t")[0] for line in lines]


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

    def test_repair_is_told(self):
        sample_runs.write_run(self.path, range(3))
        rows_file = self.path / "rows.tsv"
        rows_file.write_bytes(rows_file.read_bytes()[:-4])
        with sample_runs.open_run(self.path) as run:
            self.assertEqual(run.finished, {0, 1})
        self.assertLen(run.messages, 1)
        self.assertIn("half-written row after 2 rows", run.messages[0])

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


class ProvenanceTest(parameterized.TestCase):
    """A run resumed under other software or hardware."""

    def setUp(self):
        super().setUp()
        folder = pathlib.Path(self.enterContext(tempfile.TemporaryDirectory()))
        self.path = folder / "run"

    def _starts(self):
        return results.read_log(self.path).columns["start"].tolist()

    @pytest.mark.newest
    def test_each_start_is_recorded_and_each_row_has_its_number(self):
        sample_runs.write_run(self.path, range(2))
        sample_runs.open_run(self.path).close()  # computes nothing
        with sample_runs.open_run(self.path) as run:
            run.append([sample_runs.row(2)])
            run.append([sample_runs.row(3)])
        self.assertEqual(self._starts(), [1, 1, 2, 2])
        history = starts.read(self.path)
        self.assertEqual(list(history), [1, 2])
        for entry in history.values():
            self.assertEqual(entry["jax"], jax.__version__)
            self.assertContainsSubset(["date", "git", "num_devices"], entry)
            self.assertEqual((entry["process_index"], entry["num_processes"]), (0, 1))

    @parameterized.parameters(
        "robustjax", "jax", "jaxlib", "numpy", "scipy", "device_kind", "git"
    )
    def test_what_may_change_numbers_is_refused(self, name):
        sample_runs.write_run(self.path, range(2))
        before = _contents(self.path)
        was = provenance.environment()[name] or "unknown"
        message = f"computed otherwise.*{name} was {was} and is now 99.0.*--allow_vers"
        known = {"flags": sample_runs.FLAGS, "facts": {}, "operational": ["workdir"]}
        with _elsewhere(**{name: "99.0"}):
            with self.assertRaisesRegex(ValueError, message) as caught:
                sample_runs.open_run(self.path)
            with self.assertRaisesRegex(ValueError, message):
                results.check_run(self.path, **known)
            results.check_run(self.path, **known, allow_version_change=True)
        self.assertNotIn("\n", str(caught.exception))
        self.assertEqual(_contents(self.path), before)

    @parameterized.parameters("python", "platform", "num_devices", "date")
    def test_what_changes_no_number_is_accepted(self, name):
        sample_runs.write_run(self.path, range(2))
        with _elsewhere(**{name: "other"}), sample_runs.open_run(self.path) as run:
            self.assertEmpty(run.messages)

    def test_an_allowed_change_is_recorded_and_not_asked_for_again(self):
        sample_runs.write_run(self.path, range(2))
        with (
            _elsewhere(jax="99.0"),
            sample_runs.open_run(self.path, allow_version_change=True) as run,
        ):
            run.append([sample_runs.row(2)])
        self.assertIn(f"jax was {jax.__version__} and is now 99.0", run.messages[0])
        self.assertEqual(self._starts(), [1, 1, 2])
        versions = [entry["jax"] for entry in starts.read(self.path).values()]
        self.assertEqual(versions, [jax.__version__, "99.0"])
        for version in (jax.__version__, "99.0"):
            with _elsewhere(jax=version), sample_runs.open_run(self.path) as run:
                self.assertEmpty(run.messages)
        with _elsewhere(jax="98.0"), self.assertRaisesRegex(ValueError, "now 98.0"):
            sample_runs.open_run(self.path)

    def test_runs_begun_without_the_column_go_on_without_it(self):
        sample_runs.write_run(self.path, range(2))
        rows_file = self.path / "rows.tsv"
        rows_file.write_text("\n".join([*_without_start(rows_file), ""]))
        shutil.rmtree(self.path / "starts")
        self.assertEmpty(results.verify_run(self.path).findings)
        with sample_runs.open_run(self.path) as run:
            run.append([sample_runs.row(2)])
        self.assertEmpty(run.messages)
        with _elsewhere(jax="99.0"):
            run = sample_runs.open_run(self.path, allow_version_change=True)
            run.close()
        self.assertIn("no column start to tell them apart", run.messages[1])
        self.assertNotIn("start", results.read_log(self.path).columns)
        self.assertEmpty(results.verify_run(self.path).findings)
        self.assertEqual(list(starts.read(self.path)), [1])

    def test_versions_that_an_old_run_does_not_tell_are_passed_over(self):
        sample_runs.write_run(self.path, range(2))
        file = self.path / "versions.json"
        versions = json.loads(file.read_text())
        del versions["numpy"]
        file.write_text(json.dumps(versions))
        sample_runs.open_run(self.path).close()

    def test_starts_at_the_same_time_get_different_numbers(self):
        self.path.mkdir()
        pool = [
            threading.Thread(target=starts.record, args=(self.path, {"i": i}))
            for i in range(8)
        ]
        for thread in pool:
            thread.start()
        for thread in pool:
            thread.join()
        history = starts.read(self.path)
        self.assertEqual(list(history), list(range(1, 9)))
        self.assertEqual({entry["i"] for entry in history.values()}, set(range(8)))

    def test_a_number_that_was_just_taken_is_left_to_its_owner(self):
        self.path.mkdir(parents=True)
        self.assertEqual(starts.record(self.path, {"i": 0}), 1)
        with mock.patch.object(starts, "_files", return_value=[]):  # as seen before
            self.assertEqual(starts.record(self.path, {"i": 1}), 2)
        self.assertEqual(starts.read(self.path), {1: {"i": 0}, 2: {"i": 1}})

    def test_a_start_killed_while_it_was_written(self):
        sample_runs.write_run(self.path, range(2))
        (self.path / "starts" / "00002.json").touch()
        with sample_runs.open_run(self.path) as run:
            run.append([sample_runs.row(2)])
        self.assertEqual(self._starts(), [1, 1, 3])
        self.assertEqual(list(starts.read(self.path)), [1, 3])

    def test_disk_full_leaves_no_start(self):
        with sample_runs.open_run(self.path) as run:
            full = mock.patch.object(os, "fsync", side_effect=OSError(28, "No space"))
            with full, self.assertRaisesRegex(OSError, "No space.*00001.json"):
                run.append([sample_runs.row(2)])
            self.assertEmpty(os.listdir(self.path / "starts"))
            run.append([sample_runs.row(2)])
        self.assertEqual(self._starts(), [1])

    def test_a_column_start_of_ones_own_is_refused(self):
        with self.assertRaisesRegex(ValueError, "without start"):
            sample_runs.open_run(self.path, columns=(*sample_runs.COLUMNS, "start"))

    def test_runs_without_rows(self):
        how = {"flags": {"seed": "1"}, "flags_text": "--seed=1", "facts": {}}
        results.start_run(self.path, **how)
        with _elsewhere(numpy="99.0"):
            with self.assertRaisesRegex(ValueError, "numpy was"):
                results.start_run(self.path, **how)
            (message,) = results.start_run(self.path, **how, allow_version_change=True)
        self.assertIn("is now 99.0", message)
        self.assertEqual(list(starts.read(self.path)), [1, 2])


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
        self.assertEqual(_without_start(merged), _without_start(single / "rows.tsv"))
        self.assertEqual(
            results.read_log(self.path).columns["start"].tolist(), [1, 2, 1, 2, 1]
        )
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
