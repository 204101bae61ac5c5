"""The script of semantic verification: what a run leaves, resumes and refuses."""

import dataclasses
import functools
import pathlib
import sys
import tempfile
from unittest import mock

import compilations
import numpy as np
import pytest
import run_folders
import verify_semantic
from absl.testing import absltest, parameterized
from robustjax_experiments.harness import image_run
from robustjax_experiments.reports import semantic as semantic_report

from robustjax import results

_HERE = pathlib.Path(__file__).parent


def _config(folder):
    return verify_semantic.SemanticConfig(
        workdir=str(folder),
        apply_fn="sample_classifiers:nearest_mean",
        max_examples=3,
        attributes=("brightness", "rotation", "shear+contrast"),
        limit=("rotation:10", "shear:0.1", "contrast:0.1"),
        max_cells=60,
    )


@functools.cache
def _finished_run():
    """Files and summary of the run that most tests start from."""
    with tempfile.TemporaryDirectory() as folder, run_folders.pictures(are_drawn=True):
        summary = verify_semantic.run(_config(folder))
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

    def test_certificates_and_attacks_meet(self):
        summary = self.finished()
        names = {path.name for path in (self.folder / "run").iterdir()}
        wanted = {"flags.txt", "rows.tsv", "starts", "summary.json", "versions.json"}
        self.assertEqual(names, wanted | {"radii.png", "ends.png"})
        own = summary["attributes"]
        self.assertEqual(own["brightness"]["way"], "exact")
        self.assertEqual(own["rotation"]["way"], "search")
        self.assertEqual(own["rotation"]["closed"], 1.0)
        for row in self._rows():
            for attribute in self.config.attributes:
                radius, attack = (
                    float(row[f"{attribute}:{name}"]) for name in ("radius", "attack")
                )
                self.assertLessEqual(radius, attack)
            if row["correct"] == "0":
                self.assertEqual(float(row["radius"]), 0.0)
            else:
                self.assertGreater(float(row["rotation:right"]), 1.0)

    @pytest.mark.newest
    def test_goes_on_where_it_was(self):
        self.finished()
        rows = self._rows()
        path = self.folder / "run" / "rows.tsv"
        lines = path.read_text().splitlines(keepends=True)
        path.write_text("".join(lines[:3]) + lines[3][:5])
        verify_semantic.run(self.config)
        for before, after in zip(rows, self._rows(), strict=True):
            for name in before:
                if not name.endswith(":seconds"):
                    self.assertEqual(before[name], after[name])
        with self.assertRaisesRegex(ValueError, "limit"):
            verify_semantic.run(dataclasses.replace(self.config, limit=()))

    @pytest.mark.slow
    def test_another_image_compiles_nothing(self):
        config = dataclasses.replace(
            self.config,
            workdir=str(self.folder / "other"),
            attributes=("rotation",),
            limit=(),
        )
        columns = verify_semantic._columns(config)
        with image_run.open_run(config, columns=columns, operational=()) as opened:
            verify_semantic._row(config, opened, 0)
            with compilations.counted() as programs:
                verify_semantic._row(config, opened, 1)
        self.assertEmpty(programs)

    def test_limits(self):
        for name, wanted in (
            ("brightness", [(1.0, 1.0)]),
            ("rotation", [(10.0, 10.0)]),
            ("shear+contrast", [(0.1, 0.1), (0.1, 0.1)]),
        ):
            (moving,) = [a for a in self.config.moving() if a.name == name]
            self.assertEqual(self.config.limit_of(moving), wanted)

    @parameterized.parameters(
        ({"attributes": ("tint",), "limit": ()}, "Unknown attribute"),
        ({"attributes": ("scale", "scale"), "limit": ()}, "each once"),
        ({"limit": ("hue:0.2",)}, "of attributes that move"),
        ({"limit": ("rotation:far",)}, "name:number"),
        ({"attributes": ("hue",), "limit": ("hue:0.7",)}, "0.5"),
        ({"mode": "guess"}, "mode 'guess'"),
        ({"padding": "wrap"}, "padding 'wrap'"),
        ({"workdir": ""}, "workdir"),
        ({"onnx": "net.onnx"}, "Expected one of"),
    )
    def test_refuses_settings(self, change, text):
        with self.assertRaisesRegex(ValueError, text):
            verify_semantic.run(dataclasses.replace(self.config, **change))

    def test_colours_need_three_channels(self):
        config = dataclasses.replace(self.config, attributes=("hue",), limit=())
        with self.assertRaisesRegex(ValueError, "hue need images with three channels"):
            verify_semantic.run(config)

    def test_a_model_that_is_not_piecewise_linear_has_no_exact_range(self):
        config = dataclasses.replace(
            self.config,
            apply_fn="sample_classifiers:gamma_derivatives",
            mode="exact",
            attributes=("brightness",),
            limit=(),
        )
        with self.assertRaisesRegex(ValueError, "igamma_grad_a"):
            verify_semantic.run(config)


class ReportTest(absltest.TestCase):
    def test_a_proof_beyond_an_attack_is_an_error(self):
        with tempfile.TemporaryDirectory() as folder:
            config = verify_semantic.SemanticConfig(
                workdir=folder, apply_fn="a:b", attributes=("brightness",)
            )
            columns = {f"brightness:{c}": np.zeros(2) for c in semantic_report.COLUMNS}
            columns["brightness:radius"] = np.array([0.1, 0.3])
            columns["brightness:attack"] = np.array([0.2, 0.2])
            columns |= {
                "idx": np.arange(2),
                "correct": np.ones(2, int),
                "time": np.zeros(2),
                "predict": np.zeros(2, int),
                "radius": np.zeros(2),
            }
            log = results.Log(pathlib.Path(folder), columns)
            run = mock.Mock(path=pathlib.Path(folder))
            self.enterContext(mock.patch.object(results, "read_log", return_value=log))
            with self.assertRaisesRegex(ValueError, r"defect: .*\[1\]"):
                semantic_report.write_report(config, run, mock.Mock())
            columns["brightness:radius"][1] = 0.15
            with run_folders.without_matplotlib(), self.assertLogs() as logs:
                summary = semantic_report.write_report(config, run, mock.Mock())
        self.assertIn("no plots without matplotlib", logs.output[0])
        self.assertEqual(summary["attributes"]["brightness"]["above_attack"], [])


if __name__ == "__main__":
    absltest.main()
