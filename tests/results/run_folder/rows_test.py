"""Tests for rows files: exact round trips, repair, full disks, locks."""

import errno
import os
import pathlib
import signal
import subprocess
import sys
import tempfile
import time
from unittest import mock

import children
import numpy as np
import pytest
from absl.testing import absltest, parameterized
from hypothesis import given, settings
from hypothesis import strategies as st

from robustjax import results
from robustjax.results.run_folder import rows

_COLUMNS = (*rows.STANDARD_COLUMNS, "sigma", "norm")
_FLOATS = st.floats(allow_nan=False)
_TEXTS = st.text().filter(str.isprintable)
_ROWS = st.lists(
    st.tuples(st.integers(0, 10**9), _FLOATS, _FLOATS, _FLOATS, _TEXTS),
    unique_by=lambda values: values[0],
)
_WRITE_FOR_EVER = """
import pathlib, sys
from robustjax.results.run_folder import rows
with rows.RowsFile(pathlib.Path(sys.argv[1]), rows.STANDARD_COLUMNS) as file:
    index = len(file.finished)
    while True:
        file.append([dict(idx=index, label=1, predict=1, radius=index / 7, correct=1,
                          time=0.5)])
        index += 1
"""
_WRITE_UNTIL_FULL = """
import errno, pathlib, resource, sys
from robustjax.results.run_folder import rows
with rows.RowsFile(pathlib.Path(sys.argv[1]), rows.STANDARD_COLUMNS) as file:
    resource.setrlimit(resource.RLIMIT_FSIZE, (1000, 1000))
    row = dict(label=1, predict=1, radius=1 / 3, correct=1, time=0.5)
    for index in range(100):
        try:
            file.append([{**row, "idx": index}])
        except OSError as error:
            assert error.filename == sys.argv[1] and "\\n" not in str(error), error
            assert len(file.finished) == index
            sys.exit(index)
"""


def _row(index, **changes):
    row = dict.fromkeys(_COLUMNS, 0) | {"idx": index, "sigma": 0.5, "norm": "l2"}
    return row | changes


class RowsTest(parameterized.TestCase):
    def setUp(self):
        super().setUp()
        self.path = (
            pathlib.Path(self.enterContext(tempfile.TemporaryDirectory())) / "rows.tsv"
        )

    def _write(self, *new_rows):
        with rows.RowsFile(self.path, _COLUMNS) as file:
            file.append(new_rows)

    @given(_ROWS)
    @settings(derandomize=True, deadline=None, max_examples=60)
    def test_rows_round_trip_exactly(self, values):
        with tempfile.TemporaryDirectory() as folder:
            path = pathlib.Path(folder) / "rows.tsv"
            with rows.RowsFile(path, _COLUMNS) as file:
                for i, radius, seconds, sigma, norm in values:
                    row = _row(i, radius=radius, time=seconds, sigma=sigma, norm=norm)
                    file.append([row])
            read = rows.read_rows(path)
            with rows.RowsFile(path, _COLUMNS) as file:
                self.assertEqual(file.finished, {v[0] for v in values})
                self.assertEmpty(file.messages)
        for record, (i, radius, seconds, sigma, norm) in zip(
            read.records, values, strict=True
        ):
            row = dict(zip(read.columns, record, strict=True))
            self.assertEqual(int(row["idx"]), i)
            numbers = [float(row[name]) for name in ("radius", "time", "sigma")]
            self.assertEqual(numbers, [radius, seconds, sigma])
            self.assertEqual(row["norm"], norm)

    @pytest.mark.newest
    def test_numpy_scalars_and_booleans(self):
        self._write(
            _row(
                np.int32(3), correct=np.bool_(True), radius=np.float32(0.1), label=True
            )
        )
        record = dict(zip(_COLUMNS, rows.read_rows(self.path).records[0], strict=True))
        self.assertEqual(record["correct"], "1")
        self.assertEqual(record["label"], "1")
        self.assertEqual(np.float32(record["radius"]), np.float32(0.1))

    def test_every_truncation_loses_one_row_at_most(self):
        self._write(*(_row(i, radius=i / 3) for i in range(3)))
        whole = self.path.read_bytes()
        header_end, third = whole.index(b"\n") + 1, whole.rindex(b"\n", 0, -1) + 1
        for size in range(len(whole) + 1):
            self.path.write_bytes(whole[:size])
            num_whole = max(0, whole[:size].count(b"\n") - 1)
            with rows.RowsFile(self.path, _COLUMNS) as file:
                self.assertEqual(file.finished, set(range(num_whole)))
                at_line_end = size <= header_end or whole[:size].endswith(b"\n")
                self.assertEqual(bool(file.messages), not at_line_end, msg=size)
                file.append([_row(i, radius=i / 3) for i in range(num_whole, 3)])
            self.assertEqual(self.path.read_bytes(), whole)
        self.assertGreater(third, header_end)

    @parameterized.parameters(b"4\t1\n", b"\0\0\0\0", b"4\t0\t0\t0\t0\t0\tx\t\xff\n")
    def test_damaged_last_line_is_cut_off(self, tail):
        self._write(_row(1))
        whole = self.path.read_bytes()
        self.path.write_bytes(whole + tail)
        self.assertEqual(rows.read_rows(self.path).indices(), [1])
        with rows.RowsFile(self.path, _COLUMNS) as file:
            self.assertIn("half-written", file.messages[0])
            self.assertIn(str(self.path), file.messages[0])
        self.assertEqual(self.path.read_bytes(), whole)

    @parameterized.parameters(b"", b"2\t0", b"x\t0\t0\t0\t0\t0\t0\tl2")
    def test_damage_before_the_last_line_is_refused(self, line):
        self._write(_row(1), _row(2), _row(3))
        lines = self.path.read_bytes().split(b"\n")
        lines[2] = line
        self.path.write_bytes(b"\n".join(lines))
        before = self.path.read_bytes()
        for read in (rows.read_rows, lambda path: rows.RowsFile(path, _COLUMNS)):
            with self.assertRaisesRegex(ValueError, "rows.tsv, line 3 is damaged"):
                read(self.path)
        self.assertEqual(self.path.read_bytes(), before)

    def test_other_columns_and_repeated_rows_are_refused(self):
        self._write(_row(1))
        with self.assertRaisesRegex(ValueError, "other columns"):
            rows.RowsFile(self.path, rows.STANDARD_COLUMNS)
        with rows.RowsFile(self.path, _COLUMNS) as file:
            for bad in ([_row(1)], [_row(2), _row(2)]):
                with self.assertRaisesRegex(ValueError, r"idx \d would be there twice"):
                    file.append(bad)
        data = self.path.read_bytes()
        self.path.write_bytes(data + data.split(b"\n")[1] + b"\n")
        with self.assertRaisesRegex(ValueError, "idx 1 would be there twice"):
            rows.RowsFile(self.path, _COLUMNS)

    def test_files_beside_each_other(self):
        """One that has half of its header says nothing; other columns are refused."""
        self._write(_row(1))
        beside = self.path.with_name("rows-00000-of-00002.tsv")
        beside.write_text("\t".join(_COLUMNS))
        self.assertEqual(rows.read_rows(beside), rows.Rows((), []))
        found = rows.collect([beside, self.path])
        self.assertEqual((found.columns, found.indices()), (_COLUMNS, [1]))
        beside.unlink()
        with rows.RowsFile(beside, rows.STANDARD_COLUMNS) as file:
            file.append([dict.fromkeys(rows.STANDARD_COLUMNS, 2)])
        with self.assertRaisesRegex(ValueError, "rows.tsv has other columns than"):
            rows.collect([beside, self.path])

    @parameterized.parameters(
        ({"label": "cat"}, "numbers in the standard columns.*cat"),
        ({"norm": "a\tb"}, "column norm"),
        ({"norm": None}, "column norm.*None"),
        ({"extra": 1}, "extra"),
    )
    def test_bad_values_are_named_and_nothing_is_written(self, change, message):
        with rows.RowsFile(self.path, _COLUMNS) as file:
            with self.assertRaisesRegex(ValueError, message):
                file.append([_row(1), _row(2, **change)])
            self.assertEmpty(file.finished)
        self.assertEmpty(rows.read_rows(self.path).records)

    def test_second_writer_is_refused(self):
        with (
            rows.RowsFile(self.path, _COLUMNS),
            self.assertRaisesRegex(ValueError, "rows.tsv is already open"),
        ):
            rows.RowsFile(self.path, _COLUMNS)
        rows.RowsFile(self.path, _COLUMNS).close()

    def test_full_disk_leaves_the_rows_intact(self):
        real_write = os.write

        def partial_then_full(descriptor, data):
            if len(data) < 10:
                raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))
            return real_write(descriptor, data[:5])

        with rows.RowsFile(self.path, _COLUMNS) as file:
            file.append([_row(1)])
            before = self.path.read_bytes()
            with (
                mock.patch.object(os, "write", partial_then_full),
                self.assertRaisesRegex(OSError, "No space left on device.*rows.tsv"),
            ):
                file.append([_row(2)])
            self.assertEqual(self.path.read_bytes(), before)
            file.append([_row(2)])
        self.assertEqual(rows.read_rows(self.path).indices(), [1, 2])

    def test_file_size_limit_of_the_system(self):
        command = [sys.executable, "-c", _WRITE_UNTIL_FULL, str(self.path)]
        env = children.environment()
        num_rows = subprocess.run(command, check=False, env=env).returncode
        self.assertGreater(num_rows, 10)
        self.assertEqual(rows.read_rows(self.path).indices(), list(range(num_rows)))
        self.assertEqual(self.path.read_bytes()[-1:], b"\n")

    def test_killed_writer_resumes(self):
        for _ in range(2):
            command = [sys.executable, "-c", _WRITE_FOR_EVER, str(self.path)]
            writer = subprocess.Popen(command, env=children.environment())
            size, deadline = self._size(), time.monotonic() + 60
            while self._size() < size + 3000 and time.monotonic() < deadline:
                time.sleep(0.01)
            writer.send_signal(signal.SIGKILL)
            writer.wait()
        with rows.RowsFile(self.path, rows.STANDARD_COLUMNS) as file:
            self.assertGreater(len(file.finished), 100)
        log = results.read_log(self.path)
        np.testing.assert_array_equal(log.columns["idx"], np.arange(len(log)))
        np.testing.assert_array_equal(log.radius(), np.arange(len(log)) / 7)

    def _size(self):
        return self.path.stat().st_size if self.path.exists() else 0


if __name__ == "__main__":
    absltest.main()
