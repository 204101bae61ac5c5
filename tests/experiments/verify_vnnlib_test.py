"""The script that decides VNN-LIB properties, on those with known answers."""

import contextlib
import csv
import dataclasses
import pathlib
import shutil
import tempfile
from unittest import mock

import numpy as np
import pytest
import verify_vnnlib
from absl.testing import absltest, parameterized
from onnx import helper
from real_data import folder as data_folder
from robustjax_experiments.studies import vnnlib_decision

from robustjax import bounds, data, models
from robustjax.results.run_folder import provenance
from tests import compilations
from tests.models import onnx_networks


def _folder():
    return data_folder("vnncomp2021") / "test"


def _network(bias=0.0):
    """[x] to [x, -relu(x)] + bias, the same bytes each time."""
    constants = {
        "w": np.asarray([[1, -1, 1]], np.float32),
        "v": np.asarray([[1, 0], [-1, 0], [0, -1]], np.float32),
        "b": np.full(2, bias, np.float32),
    }
    nodes = [
        helper.make_node("MatMul", ["x", "w"], ["h"]),
        helper.make_node("Relu", ["h"], ["r"]),  # relu(x), relu(-x), relu(x)
        helper.make_node("Gemm", ["r", "v", "b"], ["y"]),
    ]
    proto = onnx_networks.network(nodes, [1, 1], constants)
    return proto.SerializeToString(deterministic=True)


def _property(low, high, unsafe=""):
    return (
        "(declare-const X_0 Real)(declare-const Y_0 Real)(declare-const Y_1 Real)"
        f"(assert (>= X_0 {low}))(assert (<= X_0 {high})){unsafe}"
    )


class RunTest(parameterized.TestCase):
    def setUp(self):
        super().setUp()
        self.folder = pathlib.Path(self.enterContext(tempfile.TemporaryDirectory()))
        self.workdir = self.folder / "run"

    def _config(self, **options):
        settings = {
            "workdir": str(self.workdir), "timeout": 120.0, "num_steps": 5,
            "attack_steps": 40, "attack_restarts": 3,
        }  # fmt: skip
        return verify_vnnlib.VnnlibConfig(**(settings | options))

    def _list(self, *names):
        """A list of instances, with paths to the folder of the data."""
        path = self.folder / "instances.csv"
        lines = [f"{_folder() / a},{_folder() / b},60\n" for a, b in names]
        path.write_text("".join(lines))
        return str(path)

    def _own(self, *texts, rows=None, network=None):
        """A list of the network of this file with properties of these texts."""
        (self.folder / "net.onnx").write_bytes(network or _network())
        names = [f"p{number}.vnnlib" for number in range(len(texts))]
        for name, text in zip(names, texts, strict=True):
            (self.folder / name).write_text(text)
        path = self.folder / "own.csv"
        path.write_text("\n".join(rows or [f"net.onnx,{name}" for name in names]))
        return str(path)

    def _statuses(self, *texts, **options):
        config = self._config(instances=self._own(*texts), workdir="", **options)
        return [row["status"] for row in verify_vnnlib.run(config)]

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
        self.assertEqual(again[0], rows[0])
        with path.open(newline="") as file:
            self.assertLen(list(csv.DictReader(file)), 2)
        other = self._config(instances=self._list(names[1]))
        with self.assertRaisesRegex(ValueError, "answers of another list"):
            verify_vnnlib.run(other)

    def test_answers_belong_to_contents_and_settings(self):
        unsafe = "(assert (>= Y_0 2))"
        text = _property(0, 1, unsafe)
        first = self._config(instances=self._own(text), timeout=0.0)
        (row,) = verify_vnnlib.run(first)
        self.assertEqual((row["status"], row["timeout"]), ("unsat", 60.0))
        moved = self.folder / "elsewhere"
        moved.mkdir()
        for path in self.folder.glob("*.*"):
            shutil.copy(path, moved)
        elsewhere = str(moved / "own.csv")
        (same,) = verify_vnnlib.run(dataclasses.replace(first, instances=elsewhere))
        self.assertEqual(same, row)
        for options, message in (
            ({"network": _network(5.0)}, "number 0, net.onnx .* onnx_sha256 is "),
            ({"text": _property(0, 3, unsafe)}, "vnnlib_sha256 is "),
            ({"rows": ["net.onnx,p0.vnnlib,61"]}, "timeout is 60.0 there and 61.0"),
            ({"rows": ["no.onnx,p0.vnnlib"]}, "onnx_sha256 is .* and unknown here"),
        ):
            own = {"text": text} | options
            self._own(own.pop("text"), **own)
            with self.assertRaisesRegex(ValueError, message):
                verify_vnnlib.run(first)
        self._own(text)
        for name, value in (("method", "crown"), ("seed", 1), ("max_boxes", 7)):
            with self.assertRaisesRegex(ValueError, f"another run: --{name}"):
                verify_vnnlib.run(dataclasses.replace(first, **{name: value}))
        self.assertEqual(verify_vnnlib.run(first), [row])

    def test_a_folder_of_another_kind_is_left_alone(self):
        self.workdir.mkdir()
        (self.workdir / "results.csv").write_text("number,onnx,vnnlib,status\n")
        config = self._config(instances=self._own(_property(0, 1)))
        with self.assertRaisesRegex(ValueError, "is not a run .* results.csv"):
            verify_vnnlib.run(config)

    def test_one_bad_instance_does_not_stop_the_list(self):
        good = _property(0, 1, "(assert (>= Y_0 2))")
        names = ["no.onnx,p0.vnnlib", "net.onnx,p1.vnnlib", "net.onnx,p0.vnnlib"]
        path = self._own(good, "(assert", rows=names)
        config = self._config(instances=path)
        rows = verify_vnnlib.run(config)
        self.assertEqual([r["status"] for r in rows], ["error", "error", "unsat"])
        self.assertRegex(rows[0]["reason"], "no.onnx")
        self.assertRegex(rows[1]["reason"], "p1.vnnlib:1: this '.' is not closed")
        (self.folder / "no.onnx").write_bytes(_network(5.0))
        with self.assertRaisesRegex(ValueError, "1 instances .* number 1: .*p1.vnnlib"):
            verify_vnnlib.main(config)
        with (self.workdir / "results.csv").open(newline="") as file:
            written = [row["status"] for row in csv.DictReader(file)]
        self.assertEqual(written, ["sat", "error", "unsat"])

    def test_files_that_change_while_they_are_read(self):
        config = self._config(instances=self._own(_property(0, 1)), workdir="")
        with self.assertRaisesRegex(ValueError, "net.onnx changed while it was read"):
            vnnlib_decision.load(self.folder / "net.onnx", "0" * 64)
        read = data.read_vnnlib

        def changing(path):
            found = read(path)
            path.write_text(_property(0, 2))
            return found

        with mock.patch.object(data, "read_vnnlib", changing):
            (row,) = verify_vnnlib.run(config)
        self.assertEqual(row["status"], "error")
        self.assertRegex(row["reason"], "p0.vnnlib changed while it was read")

    def test_the_oldest_network_is_forgotten(self):
        path = self.folder / "net.onnx"
        known = {"_MOST_NETWORKS": 1, "_NETWORKS": {}}
        with mock.patch.multiple(vnnlib_decision, **known):
            for bias in (0.0, 5.0):
                path.write_bytes(_network(bias))
                content = vnnlib_decision.digest(path)
                model = vnnlib_decision.load(path, content)
            self.assertEqual(vnnlib_decision._NETWORKS, {content: model})

    def test_answers_with_other_columns_are_refused(self):
        config = self._config(instances=self._own(_property(2, 1)))
        other = provenance.environment() | {"numpy": "99.0"}
        with mock.patch.object(provenance, "environment", return_value=other):
            verify_vnnlib.run(config)
        path = self.workdir / "results.csv"
        path.write_text(path.read_text().replace("seconds", "minutes", 1))
        config = dataclasses.replace(config, allow_version_change=True)
        with (
            self.assertLogs() as logs,
            self.assertRaisesRegex(ValueError, "results.csv: expected the columns num"),
        ):
            verify_vnnlib.run(config)
        self.assertIn("numpy was 99.0", logs.output[0])

    def test_cases_that_bounds_exclude_are_not_attacked(self):
        """Where there are many; and nothing is attacked when the time is over."""
        safe, unsafe = "(>= Y_0 2)", "(>= Y_0 0.99)"
        text = _property(0, 1, f"(assert (or {safe} {unsafe}))")
        bounded = bounds.PropertyResult("unknown", None, 2, open_cases=(1,))
        config = self._config(instances=self._own(text), workdir="")
        with (
            mock.patch.object(vnnlib_decision, "_MANY_CASES", 1),
            mock.patch.object(bounds, "verify_cases", return_value=bounded),
            mock.patch.object(
                vnnlib_decision, "_attacked", return_value=np.ones(1)
            ) as attacked,
        ):
            (row,) = verify_vnnlib.run(config)
        self.assertEqual((row["status"], row["boxes"]), ("sat", 2))
        (slot,) = attacked.call_args.args[2]
        self.assertEqual((slot[0], slot[1].offsets.tolist()), (1, [0.99]))
        over = mock.Mock(seconds_left=lambda: 0.0)
        effort = mock.Mock(seed=0, attack_restarts=1)
        self.assertIsNone(vnnlib_decision._attacked(over, effort, [slot]))

    def test_a_path_that_names_no_file_does_not_stop_the_list(self):
        good = _property(0, 1, "(assert (>= Y_0 2))")
        rows = [
            "net.onnx,.,10", ".,p0.vnnlib,10", "net.onnx,..", "/,/",
            f"net.onnx,{'n' * 300}", "net.onnx,a\0b", "a\0b,p0.vnnlib",
            "loop,p0.vnnlib", "net.onnx,p0.vnnlib",
        ]  # fmt: skip
        self._own(good, rows=rows)
        (self.folder / "loop").symlink_to("loop")
        with contextlib.chdir(self.folder):  # so that the name of "." is empty
            config = self._config(instances="own.csv")
            found = [row["status"] for row in verify_vnnlib.run(config)]
            again = [row["status"] for row in verify_vnnlib.run(config)]
        self.assertEqual(found, ["error"] * 8 + ["unsat"])
        self.assertEqual(again, found)

    def test_nothing_satisfies_a_contradiction(self):
        """Whatever the network is, which is not run, but has to fit."""
        texts = [
            _property(0, 1, "(assert false)"),
            _property(0, 1, "(assert (<= 1 (* 0 Y_0)))"),
            _property(2, 1),
            _property(0, 1, "(assert (> X_0 1))"),
        ]
        with mock.patch.object(bounds, "verify_cases"):
            self.assertEqual(self._statuses(*texts), ["unsat"] * 4)
        other = _property(2, 1).replace("(declare-const Y_1 Real)", "")
        self.assertEqual(self._statuses(other), ["error"])

    def test_equality_no_output_and_strict_limits(self):
        texts = {
            _property(-1, 1, "(assert (>= Y_1 0))"): "sat",  # dead units
            _property(0, 1, "(assert (>= Y_0 1))"): "sat",  # at a face
            _property(0, 1, "(assert (> Y_0 1))"): "unknown",  # not there, nor excluded
            _property(0, 1, "(assert (> Y_0 1.001))"): "unsat",
            _property(0, 1, "(assert (< X_0 1))(assert (>= Y_0 1))"): "unknown",
            _property(0.5, 0.5, "(assert (<= Y_0 0.5))"): "sat",  # a point
            _property(0.5, 0.5, "(assert (<= Y_0 0.4))"): "unsat",
            _property(0, 1): "sat",  # every input is
            _property(0, 1, "(assert (or (>= Y_0 5) (<= X_0 0.5)))"): "sat",
        }
        self.assertEqual(self._statuses(*texts, max_boxes=50), [*texts.values()])

    def test_decimals_that_are_no_float64(self):
        """0.1 lies between two of them, 0.1 - 8.3e-18 and 0.1 + 5.6e-18."""
        texts = {
            _property(0, "0.1", "(assert (>= Y_0 0.100000000000000002))"): "unknown",
            _property(0, "0.1", "(assert (>= Y_0 0.1))"): "unknown",  # at 0.1 alone
            _property("0.1", "0.1", "(assert (<= Y_0 0.1000001))"): "sat",
            _property("0.1", "0.1", "(assert (<= Y_0 0.0999999))"): "unsat",
            _property(
                "0.1", "0.1", "(assert (<= Y_0 0.099999999999999992))"
            ): "unknown",
            _property("0.1", "0.1"): "sat",
        }
        self.assertEqual(self._statuses(*texts, max_boxes=50), [*texts.values()])

    @pytest.mark.slow
    def test_a_second_property_compiles_nothing(self):
        self._statuses(_property(-1, 1, "(assert (>= Y_0 0.5))(assert (>= Y_1 0))"))
        branches = " ".join(f"(and (>= Y_0 {i}) (<= Y_1 Y_0))" for i in range(2, 14))
        cut = "(and (<= X_0 0.5) (>= Y_0 1))"
        with compilations.counted() as compiled:
            found = self._statuses(_property(-1, 1, f"(assert (or {branches} {cut}))"))
        self.assertEqual(found, ["unsat"])
        self.assertEmpty(compiled)

    def test_many_disjuncts_are_decided(self):
        branches = [f"(and (>= X_0 {i / 9999}) (>= Y_0 2))" for i in range(1_000)]
        safe = _property(0, 1, f"(assert (or {' '.join(branches)}))")
        branches[700] = "(and (<= X_0 0.25) (<= Y_0 -0.5))"
        branches[900] = "(>= Y_0 0.75)"
        unsafe = _property(0, 1, f"(assert (or {' '.join(branches)}))")
        self.assertEqual(self._statuses(safe, unsafe), ["unsat", "sat"])

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

    @pytest.mark.slow
    def test_published_verdicts_of_mnistfc(self):
        folder = data_folder("vnncomp2021") / "mnistfc"
        network = folder / "mnist-net_256x2.onnx"
        path = self.folder / "instances.csv"
        names = ["prop_2_0.03", "prop_4_0.03", "prop_7_0.03", "prop_3_0.05"]
        path.write_text("".join(f"{network},{folder / n}.vnnlib\n" for n in names))
        config = self._config(instances=str(path), attack_steps=200, attack_restarts=10)
        found = [row["status"] for row in verify_vnnlib.run(config)]
        self.assertEqual(found, ["unsat", "unsat", "sat", "sat"])

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
