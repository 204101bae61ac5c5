"""`make bench-device` resumes, drops what does not fit, and its cases run on a CPU."""

import json
import pathlib
import tempfile

import pytest
from absl.testing import absltest

from benchmarks import device, device_cases


def _case(name, *, seconds=1.0, **row):
    return device_cases.Case(name, seconds, lambda: row)


class BenchDeviceTest(absltest.TestCase):
    def setUp(self):
        super().setUp()
        folder = self.enterContext(tempfile.TemporaryDirectory())
        self.path = pathlib.Path(folder, "bench", "device.json")
        self.report = device.Report.open(self.path, small=True)

    def _reopened(self, *, small=True):
        return device.Report.open(self.path, small=small)

    @pytest.mark.newest
    def test_a_stopped_run_resumes_behind_its_last_row(self):
        def stop():
            raise KeyboardInterrupt

        stopped = [_case("first", value=1), device_cases.Case("second", 1.0, stop)]
        with self.assertRaises(KeyboardInterrupt):
            device.measure(self.report, stopped, seconds=60)
        resumed = self._reopened()
        again = [device_cases.Case("first", 1.0, stop), _case("second", value=2)]
        self.assertEmpty(device.measure(resumed, again, seconds=60))
        rows = {"first": {"value": 1}, "second": {"value": 2}}
        self.assertEqual(json.loads(self.path.read_text())["rows"], rows)
        self.assertEmpty(self._reopened(small=False).rows)  # other sizes, other run

    def test_what_does_not_fit_is_dropped_and_named(self):
        cases = [_case("long", seconds=90, value=1), _case("short", value=2)]
        dropped = device.measure(self.report, cases, seconds=60)
        self.assertEqual(dropped, ["long"])
        self.assertEqual(list(self.report.rows), ["short"])
        self.assertIn("Dropped for want of time: long.", self.report.markdown(dropped))

    def test_an_error_is_a_row_and_is_tried_again(self):
        def fail():
            raise ValueError("of the device")

        failing = [device_cases.Case("a", 1.0, fail), _case("b", value=2)]
        device.measure(self.report, failing, seconds=60)
        self.assertEqual(self.report.rows["a"], {"error": "ValueError: of the device"})
        self.assertEqual(self.report.rows["b"], {"value": 2})
        device.measure(self._reopened(), [_case("a", value=3)], seconds=60)
        self.assertEqual(self._reopened().rows["a"], {"value": 3})

    def test_the_table_has_a_header_for_each_kind_of_row(self):
        for name, row in (("a", {"x": 1}), ("b", {"x": 2000}), ("c", {"y": 0.5})):
            self.report.add(name, row)
        lines = self.report.markdown(()).splitlines()
        self.assertIn(self.report.setting["device"], lines[0])
        self.assertEqual(
            lines[2:],
            [
                "| case | x |",
                "| --- | --- |",
                "| a | 1 |",
                "| b | 2,000 |",
                "",
                "| case | y |",
                "| --- | --- |",
                "| c | 0.5 |",
            ],
        )

    def test_names_are_unique_and_the_first_minutes_hold_exactness_and_speed(self):
        cases = device_cases.cases()
        self.assertLen({case.name for case in cases}, len(cases))
        spent = 0.0
        within = []
        for case in cases:
            spent += case.seconds
            if spent <= 660:
                within.append(case.name)
        for word in ("noise", "votes", "moments", "resnet20, float32", "certify"):
            self.assertTrue(any(name.startswith(word) for name in within), word)

    @pytest.mark.slow
    def test_every_case_runs_at_a_fraction_of_its_size(self):
        cases = device_cases.cases(small=True)
        self.assertEmpty(device.measure(self.report, cases, seconds=1e6))
        for name, row in self.report.rows.items():
            with self.subTest(name):
                self.assertNotIn("error", row)
        rows = self.report.rows
        self.assertEqual(rows["noise against the CPU"]["largest difference in ulp"], 0)
        self.assertEqual(rows["votes, precision highest"]["moved against the CPU"], 0)
        self.assertEqual(rows["retraces"]["compiled again"], 0)


if __name__ == "__main__":
    absltest.main()
