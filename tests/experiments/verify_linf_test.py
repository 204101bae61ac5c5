"""The verification script: what a run leaves, resumes and refuses."""

import dataclasses
import functools
import pathlib
import sys
import tempfile
from unittest import mock

import jax
import numpy as np
import pytest
import run_folders
import sample_classifiers
import verify_linf
from absl.testing import absltest, parameterized
from onnx import helper
from real_data import folder as data_folder

from tests.models import onnx_networks

_HERE = pathlib.Path(__file__).parent
_NETWORK = ("vnncomp2021", "mnistfc", "mnist-net_256x2.onnx")


def _config(folder):
    return verify_linf.VerifyConfig(
        workdir=str(folder),
        apply_fn="sample_classifiers:nearest_mean",
        max_examples=12,
        batch_size=5,
        limit=0.2,
        attack_steps=10,
        attack_restarts=2,
    )


@functools.cache
def _finished_run():
    """Files and summary of the run that most tests start from."""
    with tempfile.TemporaryDirectory() as folder, run_folders.pictures(are_drawn=True):
        summary = verify_linf.run(_config(folder))
        return run_folders.read(pathlib.Path(folder)), summary


class RunTest(parameterized.TestCase):
    def setUp(self):
        super().setUp()
        self.folder = pathlib.Path(self.enterContext(tempfile.TemporaryDirectory()))
        self.enterContext(run_folders.pictures(are_drawn=False))
        self.enterContext(mock.patch.object(sys, "path", [*sys.path, str(_HERE)]))
        self.config = _config(self.folder / "run")

    def finished(self):
        """Puts the finished run into the folder of the configuration."""
        files, summary = _finished_run()
        run_folders.write(files, self.config.workdir)
        return summary

    def _rows(self):
        return run_folders.rows(self.folder / "run")

    def test_of_a_linear_classifier_proof_and_attack_meet(self):
        summary = self.finished()
        names = {path.name for path in (self.folder / "run").iterdir()}
        self.assertEqual(
            names,
            {
                "flags.txt",
                "rows.tsv",
                "starts",
                "summary.json",
                "verified.png",
                "versions.json",
            },
        )
        rows = self._rows()
        self.assertEqual([int(row["idx"]) for row in rows], list(range(12)))
        for row in rows:
            radius, attack = float(row["radius"]), float(row["attack_radius"])
            if row["correct"] == "0":
                self.assertEqual((radius, attack), (0.0, 0.0))
                continue
            self.assertLessEqual(radius, attack)
            self.assertGreater(radius, min(attack, 0.2) - 0.004)
            self.assertGreater(float(row["margin"]), 0)
        self.assertEqual(summary["above_attack"], [])
        self.assertGreater(summary["closed"], 0.5)
        accuracy = summary["certified_accuracy"]["0"]
        self.assertEqual(accuracy, summary["accuracy"])

    @pytest.mark.newest
    def test_goes_on_where_it_was(self):
        whole = self.finished()
        rows = self._rows()
        path = self.folder / "run" / "rows.tsv"
        lines = path.read_text().splitlines(keepends=True)
        path.write_text("".join(lines[:8]) + lines[8][:5])
        again = verify_linf.run(self.config)
        self.assertEqual(self._rows(), rows)
        self.assertEqual(whole["mean_attack_radius"], again["mean_attack_radius"])
        with self.assertRaisesRegex(ValueError, "limit"):
            verify_linf.run(dataclasses.replace(self.config, limit=0.3))

    @pytest.mark.slow
    def test_an_onnx_network_gives_the_rows_of_the_same_function(self):
        self.finished()
        means = np.asarray(sample_classifiers.nearest_mean().args[0])
        offsets = -np.sum(means**2, axis=1) / 2
        nodes = [
            helper.make_node("Flatten", ["x"], ["flat"]),
            helper.make_node("Gemm", ["flat", "means", "offsets"], ["y"], transB=1),
        ]
        path = self.folder / "net.onnx"
        constants = {"means": means, "offsets": offsets}
        network = onnx_networks.network(nodes, (1, 8, 8, 1), constants)
        path.write_bytes(network.SerializeToString())
        config = dataclasses.replace(
            self.config,
            apply_fn="",
            onnx=str(path),
            workdir=str(self.folder / "net"),
            max_examples=5,
        )
        verify_linf.run(config)
        found = run_folders.rows(config.workdir)
        for row, expected in zip(found, self._rows()[:5], strict=True):
            self.assertEqual(row["predict"], expected["predict"])
            for name in ("radius", "attack_radius", "margin"):
                self.assertAlmostEqual(float(row[name]), float(expected[name]), 4)

    @pytest.mark.slow
    def test_a_published_onnx_network(self):
        path = data_folder(_NETWORK[0]).joinpath(*_NETWORK[1:])
        config = dataclasses.replace(
            self.config,
            apply_fn="",
            onnx=str(path),
            dataset="mnist",
            max_examples=5,
            limit=0.05,
            num_halvings=6,
        )
        summary = verify_linf.run(config)
        self.assertEqual(summary["accuracy"], 1.0)
        self.assertGreater(summary["mean_certified_radius"], 0.01)

    @parameterized.parameters(
        ({"method": "magic"}, "method 'magic'"),
        ({"limit": 0.0}, "limit"),
        ({"epsilons": ("a",)}, "epsilons"),
        ({"onnx": "net.onnx"}, "exactly one|Expected one of"),
        ({"apply_fn": "", "onnx": "net.onnx", "dtype": "bfloat16"}, "--dtype"),
        ({"workdir": ""}, "workdir"),
    )
    def test_refuses_settings(self, change, text):
        with self.assertRaisesRegex(ValueError, text):
            dataclasses.replace(self.config, **change)

    def test_compiled_programs_are_kept_where_told(self):
        config = dataclasses.replace(
            self.config, compile_cache="programs", dataset="gone.npz"
        )
        with (
            mock.patch.object(jax.config, "update") as update,
            self.assertRaisesRegex(FileNotFoundError, "gone.npz"),
        ):
            verify_linf.run(config)
        names = {call.args[0]: call.args[1] for call in update.call_args_list}
        self.assertEqual(names["jax_compilation_cache_dir"], "programs")
        self.assertEqual(names["jax_persistent_cache_min_compile_time_secs"], 0)

    def test_an_operation_without_a_rule_is_named(self):
        config = dataclasses.replace(
            self.config, apply_fn="sample_classifiers:gamma_derivatives", max_examples=2
        )
        text = "'igamma_grad_a'.*sample_classifiers.py"
        with self.assertRaisesRegex(ValueError, text):
            verify_linf.run(config)


class ReportTest(absltest.TestCase):
    def test_a_proof_beyond_an_attack_is_an_error(self):
        """The report is the last check of the bounds."""
        from robustjax_experiments.reports import linf as linf_report

        from robustjax import results

        with tempfile.TemporaryDirectory() as folder:
            config = verify_linf.VerifyConfig(
                workdir=folder, apply_fn="sample_classifiers:nearest_mean"
            )
            log = results.Log(
                pathlib.Path(folder),
                {
                    "idx": np.arange(2),
                    "predict": np.zeros(2, int),
                    "correct": np.ones(2, int),
                    "radius": np.array([0.1, 0.3]),
                    "attack_radius": np.array([0.2, 0.2]),
                    "time": np.zeros(2),
                    "arithmetic": np.array(["float64"] * 2),
                },
            )
            run = mock.Mock(path=pathlib.Path(folder))
            self.enterContext(mock.patch.object(results, "read_log", return_value=log))
            with self.assertRaisesRegex(ValueError, r"defect: idx \[1\]"):
                linf_report.write_report(config, run)
            log.columns["radius"][1] = 0.15
            with run_folders.without_matplotlib(), self.assertLogs() as logs:
                summary = linf_report.write_report(config, run)
        self.assertIn("no verified.png without matplotlib", logs.output[0])
        self.assertEqual(summary["above_attack"], [])


if __name__ == "__main__":
    absltest.main()
