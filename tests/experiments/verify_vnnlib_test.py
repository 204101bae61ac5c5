"""The script that decides VNN-LIB properties, on those with known answers."""

import csv
import dataclasses
import pathlib
import tempfile

import numpy as np
import pytest
import verify_vnnlib
from absl.testing import absltest, parameterized
from real_data import folder as data_folder

from robustjax import data, models


def _folder():
    return data_folder("vnncomp2021") / "test"


class RunTest(parameterized.TestCase):
    def setUp(self):
        super().setUp()
        self.workdir = pathlib.Path(self.enterContext(tempfile.TemporaryDirectory()))

    def _config(self, **options):
        settings = {"workdir": str(self.workdir), "timeout": 120.0, "num_steps": 5}
        return verify_vnnlib.VnnlibConfig(**(settings | options))

    def _list(self, *names):
        """A list of instances, with paths to the folder of the data."""
        path = self.workdir / "instances.csv"
        lines = [f"{_folder() / a},{_folder() / b},60\n" for a, b in names]
        path.write_text("".join(lines))
        return str(path)

    def test_answers_are_kept_and_taken_up_again(self):
        names = [(f"test_{n}.onnx", f"test_{n}.vnnlib") for n in ("nano", "tiny")]
        config = self._config(instances=self._list(*names))
        rows = verify_vnnlib.run(config)
        self.assertEqual([row["status"] for row in rows], ["unsat", "unsat"])
        path = self.workdir / "results.csv"
        lines = path.read_text().splitlines(keepends=True)
        path.write_text("".join(lines[:2]))
        again = verify_vnnlib.run(config)
        self.assertEqual([row["status"] for row in again], ["unsat", "unsat"])
        self.assertEqual(again[0]["seconds"], str(rows[0]["seconds"]))
        with path.open(newline="") as file:
            self.assertLen(list(csv.DictReader(file)), 2)
        other = self._config(instances=self._list(names[1]))
        with self.assertRaisesRegex(ValueError, "answers of another list"):
            verify_vnnlib.run(other)

    @pytest.mark.newest
    def test_a_counterexample_is_unsafe(self):
        onnx, vnnlib = _folder() / "test_sat.onnx", _folder() / "test_prop.vnnlib"
        config = self._config(onnx=str(onnx), vnnlib=str(vnnlib))
        (row,) = verify_vnnlib.run(config)
        self.assertEqual(row["status"], "sat")
        x = np.load(self.workdir / "counterexample_0.npz")["x"]
        y = np.asarray(models.load_onnx(onnx)(x[None].astype(np.float32))).ravel()
        is_unsafe = [
            np.all(case.rows @ y + case.offsets < 0)
            and np.all((case.lower <= x.ravel()) & (x.ravel() <= case.upper))
            for case in data.read_vnnlib(vnnlib).cases
        ]
        self.assertTrue(any(is_unsafe))

    @pytest.mark.slow
    def test_a_property_that_holds(self):
        config = self._config(
            onnx=str(_folder() / "test_unsat.onnx"),
            vnnlib=str(_folder() / "test_prop.vnnlib"),
        )
        (row,) = verify_vnnlib.run(config)
        self.assertEqual(row["status"], "unsat")

    def test_files_that_do_not_fit(self):
        config = self._config(
            onnx=str(_folder() / "test_sat.onnx"),
            vnnlib=str(_folder() / "test_nano.vnnlib"),
        )
        with self.assertRaisesRegex(ValueError, "5 inputs and 5 outputs"):
            verify_vnnlib.run(config)

    @parameterized.parameters(
        ({}, "--instances, or both"),
        ({"onnx": "a.onnx"}, "--instances, or both"),
        ({"onnx": "a.onnx", "vnnlib": "b", "method": "lp"}, "method"),
        ({"instances": "a.csv", "timeout": -1.0}, "timeout"),
    )
    def test_refuses_settings(self, options, text):
        with self.assertRaisesRegex(ValueError, text):
            dataclasses.replace(verify_vnnlib.VnnlibConfig(**options))


if __name__ == "__main__":
    absltest.main()
