"""Tests for reading logs, ours and those of other tools."""

import gzip
import pathlib
import tempfile

import numpy as np
import pytest
from absl.testing import absltest, parameterized

from robustjax import results
from robustjax.results import logs
from tests.results import sample_runs

_CERTIFY = """idx label predict radius correct time
0 3 -1 0.0 0 0:00:13.736080
20 7 7 0.0734 1 15.5
40 1 2 0.5 0 1:02:03
60 1 1 0.25 1 1_day,_0:00:01.5
"""
_HIGHER_ORDER = """\
idx label count predict radiusR radius_L1 radius_L2 radius_cohen correct time
1 8 199817.0 8 0.0 0.363 0.366 0.365 1 0:00:28.5
"""


def _tabs(text):
    return text.replace(" ", "\t").replace("_day,_", " day, ")


class LogsTest(parameterized.TestCase):
    def setUp(self):
        super().setUp()
        self.path = (
            pathlib.Path(self.enterContext(tempfile.TemporaryDirectory())) / "log"
        )

    def _read(self, text):
        self.path.write_bytes(text.encode() if isinstance(text, str) else text)
        return results.read_log(self.path)

    @parameterized.parameters("plain", "gzip", "windows", "no newline at the end")
    def test_certification_log(self, form):
        data = _tabs(_CERTIFY).encode()
        data = {
            "plain": data,
            "gzip": gzip.compress(data),
            "windows": data.replace(b"\n", b"\r\n"),
            "no newline at the end": data.rstrip(),
        }[form]
        log = self._read(data)
        self.assertLen(log, 4)
        np.testing.assert_array_equal(log.columns["idx"], [0, 20, 40, 60])
        np.testing.assert_array_equal(log.predict, [-1, 7, 2, 1])
        np.testing.assert_array_equal(log.correct, [False, True, False, True])
        np.testing.assert_array_equal(log.radius("l2"), [0.0, 0.0734, 0.5, 0.25])
        np.testing.assert_allclose(
            log.columns["time"], [13.73608, 15.5, 3723.0, 86401.5], rtol=1e-15
        )

    def test_higher_order_log_is_read_by_name(self):
        log = self._read(_tabs(_HIGHER_ORDER))
        self.assertEqual(list(log.radii), ["r", "l1", "l2", "cohen"])
        self.assertEqual(log.radius("L1"), [0.363])
        self.assertEqual(log.radius("cohen"), [0.365])
        self.assertEqual(log.columns["count"].dtype, np.int64)
        with self.assertRaisesRegex(ValueError, "no linf radius; it has: r, l1, l2"):
            log.radius("linf")

    def test_header_written_again_and_a_byte_order_mark(self):
        """As scripts leave it that append to their log after a restart."""
        header, *lines = _tabs(_CERTIFY).splitlines(keepends=True)
        whole = self._read("".join([header, *lines]))
        again = self._read("\ufeff" + "".join([header, *lines[:2], header, *lines[2:]]))
        self.assertEmpty(again.skipped)
        for name, values in whole.columns.items():
            np.testing.assert_array_equal(again.columns[name], values)

    def test_log_without_a_column_correct(self):
        log = self._read(_tabs(_CERTIFY.replace("correct", "Sta_correct")))
        np.testing.assert_array_equal(log.correct, [False, True, False, True])
        log = self._read(_tabs("idx label predict\n0 -1 -1\n1 0 0\n"))
        np.testing.assert_array_equal(log.correct, [False, True])

    @parameterized.parameters(
        ("3 -1 0.0 0", "3 -1 0.0 1", "line 2, idx 0: .* not -1, else 0, got 1"),
        ("3 -1 0.0 0", "-1 -1 0.0 1", "line 2, idx 0: Expected correct"),
        ("1 2 0.5 0", "1 2 0.5 1", "line 4, idx 40: Expected correct"),
        ("7 7 0.0734 1", "7 7 0.0734 0", "line 3, idx 20: .* got 0"),
        ("7 7 0.0734 1", "7 7 0.0734 7", "line 3, idx 20: .* got 7"),
        ("0.0734", "nan", "line 3, idx 20: Expected radius as finite .* got nan"),
        ("0.0734", "-1e-9", "line 3, idx 20: Expected radius .* got -1e-09"),
        ("0.5 0", "inf 0", "line 4, idx 40: Expected radius .* got inf"),
        ("0.5 0", "-inf 0", "line 4, idx 40: Expected radius .* got -inf"),
    )
    def test_rows_that_contradict_themselves_are_named(self, old, new, message):
        text = _tabs(_CERTIFY.replace(old, new))
        with self.assertRaisesRegex(ValueError, message):
            self._read(text)
        log = logs.read_unchecked(self.path)  # which `verify` reports on
        self.assertLen(log, 4)

    @parameterized.parameters("radius_L1", "radiusR", "zeroth_radius_l1")
    def test_all_columns_of_radii_are_checked(self, name):
        for value in ("nan", "inf", "-1", "much"):
            text = (
                f"idx label predict radius {name}\n0 1 1 0.5 0.5\n1 1 1 0.5 {value}\n"
            )
            with self.assertRaisesRegex(ValueError, f"line 3, .*{name}"):
                self._read(_tabs(text))

    @parameterized.parameters(",", ";", "|", " ")
    def test_other_separators_are_named(self, separator):
        message = rf"columns are separated by '\{separator}'; expected tabs"
        for quote in ("", '"'):
            header = _CERTIFY.replace("label", f"{quote}label{quote}")
            with self.assertRaisesRegex(ValueError, message):
                self._read(header.replace(" ", separator))

    def test_lines_of_summary_are_passed_over_and_told(self):
        ends = "\nAverage certified radius 0.2\n# accuracy\t0.5\n"
        log = self._read(_tabs(_CERTIFY) + ends)
        self.assertLen(log, 4)
        self.assertEqual(
            log.skipped,
            ("line 7: Average certified radius 0.2", "line 8: # accuracy 0.5"),
        )

    def test_large_counts_are_no_integers(self):
        """A float64 that no integer of 64 bits equals stays a float."""
        text = _HIGHER_ORDER.replace("199817.0", "1e30")
        self.assertEqual(self._read(_tabs(text)).columns["count"], [1e30])

    def test_run_folder_with_an_index_twice(self):
        folder = sample_runs.write_run(self.path, [4, 2])
        rows_file = folder / "rows.tsv"
        lines = rows_file.read_text().splitlines(keepends=True)
        rows_file.write_text("".join([*lines, lines[1]]))
        with self.assertRaisesRegex(ValueError, "idx 4 is there more than once"):
            results.read_log(folder)

    def test_prediction_log_has_no_radius(self):
        log = self._read(_tabs("idx label predict correct time\n1 2 2 1 0.5\n"))
        with self.assertRaisesRegex(ValueError, "no column of radii"):
            log.radius()

    @pytest.mark.newest
    def test_run_folder(self):
        folder = sample_runs.write_run(self.path, [4, 2, 3])
        log = results.read_log(folder)
        np.testing.assert_array_equal(log.columns["idx"], [2, 3, 4])
        self.assertEqual(list(log.radii), ["l2", "l1", "linf"])
        for name in ("radius", "p_lower", "radius_linf", "time"):
            expected = [sample_runs.row(i)[name] for i in (2, 3, 4)]
            np.testing.assert_array_equal(log.columns[name], expected)
        rows_file = folder / "rows.tsv"
        rows_file.write_bytes(rows_file.read_bytes()[:-1])  # the row of index 3
        log = results.read_log(folder)
        np.testing.assert_array_equal(log.columns["idx"], [2, 4])
        self.assertEqual(log.skipped, ("rows.tsv, line 4: cut off in the middle",))
        sound = rows_file.read_bytes().rpartition(b"\n")[0] + b"\n"
        for garbage, reasons in (
            (b"x\n", ("no row",)),
            (b"x\ny", ("no row", "cut off in the middle")),
        ):
            rows_file.write_bytes(sound + garbage)
            expected = [f"rows.tsv, line {4 + i}: {r}" for i, r in enumerate(reasons)]
            self.assertEqual(list(results.read_log(folder).skipped), expected)

    def test_main_norm_is_the_one_that_the_rows_name(self):
        header = "idx label predict radius correct time norm radius_l2"
        log = self._read(_tabs(header + "\n1 2 2 0.1 1 0.5 linf 0.8\n"))
        self.assertEqual(log.radius(), [0.1])
        self.assertEqual(log.radius("linf"), [0.1])
        self.assertEqual(log.radius("l2"), [0.8])
        row = "1 2 2 0.1 1 0.5 {} 0.8\n"
        other = row.format("l1").replace("1", "3", 1)
        log = self._read(_tabs(header + "\n" + row.format("linf") + other))
        with self.assertRaisesRegex(ValueError, "mixes norms: l1, linf"):
            log.radius()

    @parameterized.parameters(
        ("", "not a certification log: no column idx"),
        ("a,b\n1,2\n", "not a certification log"),
        (_CERTIFY + "80 1\n", "line 6: 2 fields, expected 6"),
        (_CERTIFY.replace("0.0734", "abc"), "line 3, column radius.*abc"),
        (_CERTIFY.replace("15.5", "0:x"), "line 3, column time.*x"),
        (_CERTIFY.replace(" 3 ", " cat "), "line 2, column label.*cat"),
        (_CERTIFY.replace("40 1", f"{2**63} 1"), "line 4, column idx.*64 bits"),
        (_CERTIFY + "20 7 7 0.07 1 9\n", "idx 20 is there .* in lines 3 and 6"),
        (_CERTIFY + _CERTIFY, "idx 0 is there more than once, in lines 2 and 7"),
        (_CERTIFY.replace("40 1 2", "mean 1 2"), "line 4, column idx.*mean"),
        ("idx label predict radius radius\n", "column radius more than once"),
        (b"\xff\xfe\x00", "truncated or not a text file"),
        (gzip.compress(b"idx" * 1000)[:-9], "truncated or not a text file"),
    )
    def test_bad_files_are_named(self, content, message):
        content = _tabs(content) if isinstance(content, str) else content
        with self.assertRaisesRegex(ValueError, message) as caught:
            self._read(content)
        self.assertIn(str(self.path), str(caught.exception))
        self.assertNotIn("\n", str(caught.exception))

    def test_missing_files(self):
        with self.assertRaisesRegex(FileNotFoundError, str(self.path)):
            results.read_log(self.path)
        self.path.mkdir()
        with self.assertRaisesRegex(FileNotFoundError, "holds no rows.tsv"):
            results.read_log(self.path)


if __name__ == "__main__":
    absltest.main()
