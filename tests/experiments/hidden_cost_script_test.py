"""The study of what smoothing costs: rows, resume, regions, logs, report, refusals."""

import dataclasses
import functools
import json
import pathlib
import re
import subprocess
import sys
import tempfile
import unittest
from unittest import mock

import children
import hidden_cost
import jax
import numpy as np
import pytest
import run_folders
import sample_classifiers
from absl.testing import absltest, parameterized
from robustjax_experiments.reports import hidden_cost as hidden_cost_report
from robustjax_experiments.studies import decision_regions

from robustjax import data, results, smoothing
from tests import real_data

_HERE = pathlib.Path(__file__).parent
_SCRIPT = pathlib.Path(hidden_cost.__file__)
_LOG = "idx\tlabel\tpredict\tradius\tcorrect\ttime\n"


_rows = run_folders.rows


def _config(folder: str | pathlib.Path) -> hidden_cost.HiddenCostConfig:
    return hidden_cost.HiddenCostConfig(
        workdir=str(folder),
        apply_fn="sample_classifiers:nearest_mean",
        sigmas=("0.5", "0", "0.25"),
        num_samples=200,
        max_examples=40,
        num_rays=4,
        num_ray_samples=64,
        resolution=6,
    )


@functools.cache
def _finished_run() -> tuple[run_folders.Files, dict, str]:
    """Files, summary and log lines of the run that most tests start from."""
    case = unittest.TestCase()
    with (
        tempfile.TemporaryDirectory() as folder,
        run_folders.pictures(are_drawn=True),
        case.assertLogs(level="INFO") as logs,
    ):
        summary = hidden_cost.run(_config(folder))
        return run_folders.read(pathlib.Path(folder)), summary, "".join(logs.output)


class _InFolder(parameterized.TestCase):
    def setUp(self):
        super().setUp()
        self.folder = pathlib.Path(self.enterContext(tempfile.TemporaryDirectory()))
        self.enterContext(run_folders.pictures(are_drawn=False))
        self.enterContext(mock.patch.object(sys, "path", [*sys.path, str(_HERE)]))
        self.config = _config(self.folder / "run")

    def finished(self):
        """Puts the finished run into the folder of the configuration."""
        files, summary, _ = _finished_run()
        run_folders.write(files, self.config.workdir)
        return summary

    def replace(self, **changes):
        return dataclasses.replace(self.config, **changes)

    def log(self, name, *lines):
        path = self.folder / name
        path.write_text(
            _LOG + "".join(line.replace(" ", "\t") + "\n" for line in lines)
        )
        return str(path)


class RunTest(_InFolder):
    def test_leaves_a_complete_run(self):
        summary = self.finished()
        log = _finished_run()[2]
        self.assertIn("sigmas are taken in increasing order", log)
        workdir = pathlib.Path(self.config.workdir)
        names = {path.name for path in workdir.iterdir()}
        expected = {
            "rows.tsv", "summary.json", "report.html", "regions.npz", "flags.txt",
            "hidden_cost.png", "certified_by_class.png", "radii_by_class.png",
            "rays.png", "slice.png",
        }  # fmt: skip
        self.assertLessEqual(expected, names)
        self.assertNotIn("heat_map.png", names)  # one model only
        self.assertEqual([run["sigma"] for run in summary["runs"]], [0, 0.25, 0.5])
        written = json.loads((workdir / "summary.json").read_text())
        self.assertEqual(written["runs"][2]["findings"], summary["runs"][2]["findings"])
        page = (workdir / "report.html").read_text()
        self.assertNotRegex(page, r"(?i)https?:|<script|<link|url\(|src=\"(?!data:)")
        self.assertEqual(page.count("data:image/png;base64,"), 5)
        found = decision_regions.load(workdir)
        self.assertEqual([list(found.rays), list(found.slices)], 2 * [[0.25, 0.5]])
        self.assertTrue(np.all(found.labels != found.targets))
        for part in ("Findings", "All runs", "Regions along rays", "test 0.25"):
            self.assertIn(part, page)

    def test_rows_are_those_of_certify(self):
        self.finished()
        rows = _rows(self.config.workdir)
        self.assertLen(rows, 3 * 40)
        digits = data.load("digits", split="test")
        apply_fn = sample_classifiers.nearest_mean()
        certified = smoothing.certify(
            jax.random.key(0),
            apply_fn,
            digits.images[:40],
            sigma=0.5,
            num_classes=10,
            num_estimation=200,
        )
        own = [row for row in rows if row["test_sigma"] == "0.5"]
        self.assertEqual([int(r["image"]) for r in own], list(range(40)))
        np.testing.assert_array_equal(
            [int(row["predict"]) for row in own], certified.prediction
        )
        np.testing.assert_array_equal(
            [float(row["radius"]) for row in own], certified.radius["l2"]
        )
        most = np.argmax(certified.counts, axis=-1)
        np.testing.assert_array_equal([int(row["plurality"]) for row in own], most)
        plain = [row for row in rows if float(row["test_sigma"]) == 0]
        found = np.argmax(jax.jit(apply_fn)(digits.images[:40]), axis=-1)
        np.testing.assert_array_equal([int(row["predict"]) for row in plain], found)
        self.assertEqual({float(row["radius"]) for row in plain}, {0.0})

    def test_summary_is_the_report_of_the_rows(self):
        runs = self.finished()["runs"]
        for sigma, run in (("0.25", runs[1]), ("0.5", runs[2])):
            rows = [r for r in _rows(self.config.workdir) if r["test_sigma"] == sigma]
            labels, most, correct = (
                np.array([int(r[k]) for r in rows])
                for k in ("label", "plurality", "correct")
            )
            predicted = run["predicted"]
            self.assertEqual(predicted["overall_accuracy"], np.mean(labels == most))
            for i in np.unique(labels):
                own = np.mean(most[labels == i] == i)
                self.assertEqual(predicted["accuracy"][i], own)
            self.assertEqual(run["certified"]["overall_accuracy"], np.mean(correct))
        self.assertLess(np.mean(correct), predicted["overall_accuracy"])  # abstentions

    def test_resumes_and_refuses_other_flags(self):
        self.finished()
        workdir = pathlib.Path(self.config.workdir)
        before = (workdir / "rows.tsv").read_text()
        with mock.patch.object(decision_regions, "measure") as measure:
            hidden_cost.run(self.replace(target_radii=("0.1",)))  # changes no row
            measure.assert_not_called()
        self.assertEqual((workdir / "rows.tsv").read_text(), before)
        with self.assertRaisesRegex(ValueError, "num_samples"):
            hidden_cost.run(self.replace(num_samples=300))

    @pytest.mark.newest
    def test_goes_on_where_it_was_killed(self):
        self.finished()
        path = pathlib.Path(self.config.workdir) / "rows.tsv"
        whole = _rows(self.config.workdir)
        lines = path.read_text().splitlines(keepends=True)
        path.write_text("".join(lines[:70]) + lines[70][:9])
        hidden_cost.run(self.config)
        self.assertEqual(_rows(self.config.workdir), whole)

    @pytest.mark.slow
    def test_damaged_regions_are_measured_again(self):
        self.finished()
        path = pathlib.Path(self.config.workdir) / "regions.npz"
        good = decision_regions.load(path.parent)
        path.write_bytes(path.read_bytes()[:200])
        hidden_cost.run(self.config)
        again = decision_regions.load(path.parent)
        for sigma in (0.25, 0.5):
            for name in ("base_exit", "smoothed_exit", "upper"):
                np.testing.assert_array_equal(
                    getattr(again.rays[sigma], name), getattr(good.rays[sigma], name)
                )

    @pytest.mark.slow
    def test_rays_of_a_linear_classifier_end_where_they_did(self):
        """Between two classes it is a plane, which smoothing does not move."""
        hidden_cost.run(self.replace(sigmas=("0.1",), num_ray_samples=500, num_rays=30))
        found = decision_regions.load(pathlib.Path(self.config.workdir))
        rays = found.rays[0.1]
        is_covered = (rays.lower <= rays.base_exit) & (rays.base_exit <= rays.upper)
        self.assertGreaterEqual(np.mean(is_covered), 0.8)
        self.assertTrue(np.all(found.labels != found.targets))


class TrainTest(_InFolder):
    @pytest.mark.slow
    def test_trains_one_model_for_each_level(self):
        config = self.replace(
            apply_fn="",
            model="mlp",
            train=("epochs=3",),
            train_sigmas=("0", "0.5"),
            sigmas=("0", "0.5"),
            max_examples=60,
        )
        summary = hidden_cost.run(config)
        names = {path.name for path in pathlib.Path(config.workdir).iterdir()}
        expected = {"model_0", "model_0.5", "heat_map.png", "equal_noise.png"}
        self.assertLessEqual(expected, names)
        self.assertEqual(
            [run["name"] for run in summary["runs"]],
            [f"train {s}, test {t}" for s in ("0", "0.5") for t in ("0", "0.5")],
        )
        self.assertLen(_rows(config.workdir), 4 * 60)
        hidden_cost.run(config)  # finds its models

    @pytest.mark.slow
    def test_the_flag_file_shows_the_cost(self):
        """A class is lost that was trained on less noise than it is smoothed with.

        Of the levels of the file only those that are looked at, and no regions.
        """
        flags = _SCRIPT.parent / "flags" / "hidden_cost_digits.flags"
        command = [sys.executable, str(_SCRIPT), f"--flagfile={flags}"]
        done = subprocess.run(
            [*command, f"--workdir={self.folder / 'run'}", "--num_rays=0",
             "--train_sigmas=0,0.5", "--sigmas=0.5,1.5"],
            capture_output=True, text=True, check=False, env=children.environment(),
        )  # fmt: skip
        self.assertEqual(done.returncode, 0, done.stderr)
        summary = json.loads((self.folder / "run" / "summary.json").read_text())
        runs = {run["name"]: run["predicted"] for run in summary["runs"]}
        lost, kept = runs["train 0, test 1.5"], runs["train 0.5, test 0.5"]
        self.assertGreater(lost["disparity"]["gap_lower"], 0.5)
        self.assertNotEmpty(lost["shares"]["vanished"])
        self.assertNotEmpty(lost["shares"]["absorbing"])
        self.assertGreater(kept["overall_accuracy"], 0.95)
        self.assertEmpty(kept["shares"]["vanished"])


class LogsTest(_InFolder):
    def test_reports_on_logs(self):
        logs = [
            self.log("a", "0 0 0 0.5 1 1.0", "1 1 0 0.2 0 1.0", "2 2 -1 0.0 0 1.0"),
            self.log("b", "0 0 0 0.4 1 1.0", "1 1 1 0.3 1 1.0"),
        ]
        config = hidden_cost.HiddenCostConfig(
            workdir=self.config.workdir,
            from_logs=(f"first={logs[0]}", logs[1]),
            class_names=("<cat>", "dog", "frog"),
        )
        summary = hidden_cost.run(config)
        self.assertEqual([r["name"] for r in summary["runs"]], ["first", logs[1]])
        first = summary["runs"][0]["certified"]
        np.testing.assert_array_equal(first["accuracy"], [1, 0, 0])
        self.assertAlmostEqual(first["overall_abstention_rate"], 1 / 3)
        self.assertIsNone(summary["runs"][1]["certified"]["accuracy"][2])
        page = (pathlib.Path(config.workdir) / "report.html").read_text()
        self.assertIn("&lt;cat&gt;", page)
        self.assertNotIn("<cat>", page)

    def write_runs(self, counts):
        """A log a run: so many correct of 40 images of each of two classes."""
        entries = []
        for name, correct in counts.items():
            lines = [
                f"{40 * c + i} {c} {c if i < most else 1 - c} 0.5 {int(i < most)} 1.0"
                for c, most in enumerate(correct)
                for i in range(40)
            ]
            entries.append(f"{name}={self.log(name, *lines)}")
        config = hidden_cost.HiddenCostConfig(
            workdir=self.config.workdir, from_logs=tuple(entries)
        )
        summary = hidden_cost.run(config)
        page = (pathlib.Path(config.workdir) / "report.html").read_text()
        return summary, re.findall("<li>(.*?)</li>", page)

    def test_the_largest_gap_is_one_that_chance_does_not_explain(self):
        """Of three runs with a gap one is unequal after Holm's correction for seven."""
        counts = {f"equal {i}": (30, 30) for i in range(4)}
        counts |= {"lucky": (30, 20), "unequal": (40, 20), "close": (40, 33)}
        summary, findings = self.write_runs(counts)
        found = {run["name"]: run for run in summary["runs"]}
        self.assertStartsWith(findings[0], "In 1 of 7 runs the gap between classes is")
        self.assertIn("Holm&#x27;s correction for 7 runs", findings[0])
        self.assertStartsWith(findings[1], "The largest of them: unequal. Accuracies")
        for name, is_unequal in (("unequal", True), ("lucky", False), ("close", False)):
            figures = found[name]["certified"]["disparity"]
            adjusted = found[name]["gap_p_value_holm"]
            self.assertEqual(adjusted < 0.05, is_unequal)
            self.assertGreaterEqual(adjusted, figures["gap_p_value"])

    def test_a_larger_gap_of_a_rare_class_is_not_named(self):
        """The largest gap of all may be chance where a class has few images."""
        lines = [f"{i} 0 0 0.5 1 1.0" for i in range(3)] + ["3 1 0 0.5 0 1.0"]
        rare = self.log("rare", *lines)
        counts = {f"run {i}": (36, 14) for i in range(6)}
        _, findings = self.write_runs(counts)
        self.assertIn("In 6 of 6 runs", findings[0])
        self.assertLen(findings, 7)
        entries = [f"{name}={self.folder / name}" for name in counts]
        config = hidden_cost.HiddenCostConfig(
            workdir=str(self.folder / "more"), from_logs=(*entries, f"rare={rare}")
        )
        gaps = [
            run["certified"]["disparity"]["gap"]
            for run in hidden_cost.run(config)["runs"]
        ]
        self.assertEqual(np.argmax(gaps), 6)
        page = (self.folder / "more" / "report.html").read_text()
        self.assertIn("In 6 of 7 runs", page)
        self.assertIn("The largest of them: run 0.", page)

    def test_no_gap_is_named_where_chance_explains_all(self):
        counts = {f"run {i}": (30, 29 - i) for i in range(7)}
        _, findings = self.write_runs(counts)
        self.assertLen(findings, 1)
        self.assertStartsWith(findings[0], "In 0 of 7 runs")

    def test_everything_abstained_leaves_nothing_to_compare(self):
        lines = [f"{i} {i % 3} -1 0.0 0 1.0" for i in range(300)]
        config = hidden_cost.HiddenCostConfig(
            workdir=self.config.workdir,
            from_logs=(f"log={self.log('log', *lines)}",),
            num_classes=3,
        )
        (run,) = hidden_cost.run(config)["runs"]
        self.assertEqual(
            run["findings"], ["Every prediction abstains: there is nothing to compare."]
        )
        self.assertIsNone(run["certified"]["disparity"]["worst_class"])
        page = (pathlib.Path(config.workdir) / "report.html").read_text()
        self.assertNotIn("vanished", page)
        self.assertNotIn("nan", re.sub('data:image[^"]*', "", page))

    def test_published_mismatched_log(self):
        root = real_data.folder("smoothing_logs")
        place = "locuslab/certify/cifar10/resnet110/noise_0.12/test/sigma_0.50"
        names = ("plane", "auto", "bird", "cat", "deer", "dog", "frog", "horse", "ship",
                 "truck")  # fmt: skip
        config = hidden_cost.HiddenCostConfig(
            workdir=self.config.workdir,
            from_logs=(f"log={root / place}",),
            class_names=names,
        )
        findings = hidden_cost.run(config)["runs"][0]["findings"]
        self.assertTrue(any(re.match("Class frog absorbs.*90.0%", f) for f in findings))
        page = (pathlib.Path(config.workdir) / "report.html").read_text()
        self.assertIn("Class frog absorbs others: it takes 90.0%", page)

    def test_without_matplotlib_there_are_no_pictures(self):
        with run_folders.without_matplotlib(), self.assertLogs() as logs:
            found = hidden_cost_report._pictures(mock.Mock(), self.folder)
        self.assertEqual(found, [])
        self.assertIn("no plots without matplotlib", logs.output[0])

    def test_refuses_bad_logs(self):
        missing = self.folder / "missing"
        missing.write_text("idx\tlabel\tradius\tcorrect\n0\t1\t0.5\t1\n")
        good = self.log("good", "0 7 0 0.5 0 1.0")
        for entries, changes, text in (
            ([str(missing)], {}, "no column predict"),
            ([good], dict(num_classes=5), "labels in .0, 5."),
            ([good], dict(class_names=("a",)), "8 class_names, got 1"),
            ([f"a={good}", f"a={good}"], {}, "distinct names"),
        ):
            workdir = str(self.folder / f"run{text[:3]}")
            config = hidden_cost.HiddenCostConfig(
                workdir=workdir, from_logs=tuple(entries), **changes
            )
            with self.assertRaisesRegex(ValueError, text):
                hidden_cost.run(config)


class RefusalTest(_InFolder):
    @parameterized.parameters(
        (dict(workdir=""), "workdir"),
        (dict(sigmas=()), "sigmas"),
        (dict(sigmas=("0.5", "-1")), "sigmas as numbers >= 0, got 0.5,-1"),
        (dict(sigmas=("a",)), "sigmas"),
        (dict(train_sigmas=("0.5",)), "--train and --train_sigmas"),
        (dict(train=("epochs=1",)), "--train and --train_sigmas"),
        (dict(apply_fn=""), "one of --checkpoint"),
        (dict(from_logs=("a",)), "from_logs without a model"),
        (dict(num_samples=0), "num_samples"),
        (dict(alpha=0.0), "alpha"),
        (dict(certificate_alpha=1.0), "certificate_alpha"),
        (dict(chunk_size=100), "chunk_size"),
        (dict(num_rays=-1), "num_rays"),
    )
    def test_bad_settings(self, changes, text):
        with self.assertRaisesRegex(ValueError, text):
            self.replace(**changes)

    def test_bad_class_names_are_found_before_the_report(self):
        self.finished()
        with self.assertRaisesRegex(ValueError, "10 class_names"):
            hidden_cost.run(self.replace(class_names=("a", "b")))

    def test_results_tool_says_what_the_folder_is(self):
        self.finished()
        self.assertLen(results.read_log(self.config.workdir), 3 * 40)


if __name__ == "__main__":
    absltest.main()
