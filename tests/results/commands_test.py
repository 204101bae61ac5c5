"""Tests for `python -m robustjax.results`."""

import contextlib
import io
import json
import pathlib
import subprocess
import sys
import tempfile

import children
import pytest
from absl.testing import absltest, parameterized

from robustjax.results import commands, tables
from tests import real_data
from tests.results import sample_runs


def _run(*arguments):
    """Exit status, stdout and stderr of a command."""
    output, errors = io.StringIO(), io.StringIO()
    with contextlib.redirect_stdout(output), contextlib.redirect_stderr(errors):
        try:
            status = commands.main([str(argument) for argument in arguments])
        except SystemExit as stop:
            status = stop.code
    return status, output.getvalue(), errors.getvalue()


class CommandsTest(parameterized.TestCase):
    def setUp(self):
        super().setUp()
        self.folder = pathlib.Path(self.enterContext(tempfile.TemporaryDirectory()))

    def _write(self, name, indices=range(5)):
        return sample_runs.write_run(self.folder / name, indices)

    def _write_log(self, name, radius):
        path = self.folder / name
        header = "idx\tlabel\tpredict\tradius\tcorrect\ttime\n"
        path.write_text(f"{header}0\t1\t1\t{radius}\t1\t0:00:01\n1\t1\t-1\t0.0\t0\t2\n")
        return path

    @pytest.mark.newest
    def test_verify(self):
        run, other = self._write("a"), self._write("b")
        status, output, _ = _run("verify", run, other)
        self.assertEqual(status, 0)
        self.assertIn("a: 5 rows recomputed from their counts: agrees", output)
        self.assertIn("a: not checked: count, runner_up_count", output)
        self.assertIn("a: not checked: label, num_classes, dim", output)
        rows_file = other / "rows.tsv"
        rows_file.write_text(rows_file.read_text().replace("\tl2\t0\t", "\tl2\t1\t", 1))
        status, output, _ = _run("verify", run, other)
        self.assertEqual(status, 1)
        self.assertIn("b: idx 0: order 1 needs the columns", output)
        self.assertIn("b: idx 0: p_lower 0.8540580418310696 is above", output)
        self.assertIn("b: 5 rows recomputed from their counts: 3 problems", output)

    def test_one_finding_is_enough(self):
        run = self._write("one")
        lines = (run / "rows.tsv").read_text().splitlines(keepends=True)
        at = lines[0].rstrip("\n").split("\t").index("radius")
        cells = lines[1].split("\t")
        cells[at] = repr(float(cells[at]) + 1e-3)
        (run / "rows.tsv").write_text("".join([lines[0], "\t".join(cells), *lines[2:]]))
        status, output, _ = _run("verify", run)
        self.assertEqual(status, 1, output)
        self.assertIn("one: 5 rows recomputed from their counts: 1 problem", output)

    def test_verify_goes_on_after_a_run_that_cannot_be_read(self):
        sound, forged = self._write("sound"), self._write("forged")
        rows_file = forged / "rows.tsv"
        rows_file.write_text(rows_file.read_text().replace("\t0.001\t", "\t0.5\t", 1))
        status, output, errors = _run("verify", self.folder / "none", forged, sound)
        self.assertEqual(status, 2)
        self.assertRegex(errors, r"^python -m robustjax.results verify: .*none.*\n$")
        self.assertRegex(output, "forged: 5 rows .* problems\n")
        self.assertIn("sound: 5 rows recomputed from their counts: agrees\n", output)

    @parameterized.parameters(
        ("\t0.0\t0\t2", "\t0.0\t1\t2", "line 3, idx 1: Expected correct as 1 where"),
        ("0.5\t1\t0", "nan\t1\t0", "line 2, idx 0: Expected radius as finite"),
    )
    def test_compare_refuses_rows_that_contradict_themselves(self, old, new, message):
        path = self._write_log("one", 0.5)
        path.write_text(path.read_text().replace(old, new))
        status, output, errors = _run("compare", path)
        self.assertEqual((status, output), (2, ""))
        self.assertIn(message, errors)

    def test_merge(self):
        runs = self._write("a", range(3)), self._write("b", range(3, 5))
        merged = self.folder / "merged"
        status, output, _ = _run("merge", *runs, "--output", merged)
        self.assertEqual((status, output), (0, f"{merged}: 5 rows of 2 runs\n"))
        summary = json.loads((merged / "summary.json").read_text())
        self.assertEqual(summary["num_examples"], 5)
        self.assertGreater(len(summary["norms"]["l2"]["certified_accuracy"]), 5)
        self.assertEqual(_run("verify", merged)[0], 0)
        status, _, errors = _run("merge", *runs, "--output", merged)
        self.assertEqual(status, 2)
        self.assertRegex(errors, r"^python -m robustjax.results merge: output=.*\n$")
        far = self._write("far", [9])
        arguments = ("merge", *runs, far, "--output", self.folder / "gaps")
        self.assertEqual(_run(*arguments)[0], 2)
        self.assertEqual(_run(*arguments, "--allow_gaps")[0], 0)
        status, output, _ = _run("verify", self.folder / "gaps")
        self.assertEqual(status, 0)
        self.assertIn("on purpose: 4 of 10 examples have no row: idx 5, 6, 7", output)

    def test_merge_refuses_rows_that_contradict_themselves(self):
        runs = self._write("a", range(3)), self._write("b", range(3, 5))
        rows_file = runs[0] / "rows.tsv"
        header, line, *lines = rows_file.read_text().splitlines(keepends=True)
        fields = line.split("\t")
        forged = "\t".join([*fields[:3], "inf", *fields[4:]])
        rows_file.write_text("".join([header, forged, *lines]))
        status, _, errors = _run("merge", *runs, "--output", self.folder / "merged")
        self.assertEqual(status, 2)
        self.assertIn("idx 0: Expected radius as finite numbers >= 0, got inf", errors)
        self.assertFalse((self.folder / "merged").exists())

    def test_compare_in_markdown(self):
        paths = self._write_log("one", 0.5), self._write_log("two", 0.25)
        status, output, _ = _run("compare", *paths, "--radii", "0,0.25,0.3")
        self.assertEqual(status, 0)
        self.assertEqual(
            output,
            "| run |     0 |  0.25 |   0.3 |    ACR | abstain |\n"
            "| --- | ----: | ----: | ----: | -----: | ------: |\n"
            "| one | 0.500 | 0.500 | 0.500 | 0.2500 |   0.500 |\n"
            "| two | 0.500 | 0.500 | 0.000 | 0.1250 |   0.500 |\n",
        )

    def test_compare_tells_what_is_no_row(self):
        path = self._write_log("one", 0.5)
        path.write_text(path.read_text() + "mean of all: 0.25\n")
        status, _, errors = _run("compare", path)
        self.assertEqual(status, 0)
        self.assertEqual(errors, "one: passed over line 4: mean of all: 0.25\n")

    def test_merge_of_other_software_needs_consent(self):
        runs = self._write("a", range(3)), self._write("b", range(3, 5))
        path = runs[1] / "versions.json"
        path.write_text(json.dumps(json.loads(path.read_text()) | {"jax": "0.1"}))
        arguments = ("merge", *runs, "--output", self.folder / "merged")
        status, _, errors = _run(*arguments)
        self.assertEqual(status, 2)
        self.assertIn("jax was 0.1 and is now", errors)
        self.assertEqual(_run(*arguments, "--allow_version_change")[0], 0)

    def test_compare_takes_a_norm_for_each_run(self):
        path = self.folder / "first_order.txt"
        header = ("idx", "label", "predict", "correct", "radius_L1", "radius_cohen")
        header = (*header, "zeroth_radius_l1")
        rows = [(0, 1, 1, 1, 0.75, 0.5, 0.125), (1, 1, 1, 1, 0.25, 0.25, 0.5)]
        rows.append((2, 1, 0, 0, 2.0, 2.0, 2.0))  # wrong, so it counts nowhere
        lines = ["\t".join(map(str, row)) for row in (header, *rows)]
        path.write_text("\n".join(lines) + "\n")
        figure = self.folder / "curves.svg"
        arguments = ("compare", path, path, "--norm=l1,cohen", "--radii=0.5")
        status, output, _ = _run(*arguments, "--output", figure)
        self.assertEqual(status, 0)
        self.assertIn("| first_order.txt, l1    | 0.333 | 0.3333 |", output)
        self.assertIn("| first_order.txt, cohen | 0.333 | 0.2500 |", output)
        self.assertStartsWith(figure.read_text(), "<?xml")
        names = ("--names=first,zeroth", "--norm=l1,zeroth_l1")
        _, output, _ = _run(*arguments, *names)
        self.assertIn("| first  | 0.333 | 0.3333 |", output)
        self.assertIn("| zeroth | 0.333 | 0.2083 |", output)
        status, _, errors = _run(*arguments[:3], "--norm=l1,l2,cohen")
        self.assertEqual(status, 2)
        self.assertIn("one norm, or one a run", errors)
        status, _, errors = _run(*arguments[:2], "--norm=zeroth_l2")
        self.assertEqual(status, 2)
        self.assertIn("no zeroth_l2 radius; it has: l1, cohen.", errors)

    def test_compare_in_latex(self):
        arguments = (self._write_log("one", 0.5), "--names", "50%_noise")
        _, output, _ = _run("compare", *arguments, "--format", "latex", "--radii", "1")
        self.assertIn("\\begin{tabular}{lrrr}\n\\toprule\nrun & 1 & ACR", output)
        self.assertIn("50\\%\\_noise & 0.000 & 0.2500 & 0.500 \\\\\n", output)

    def test_compare_draws_ours_and_theirs(self):
        figure = self.folder / "figures" / "curves.png"
        paths = self._write("ours"), self._write_log("theirs", 0.5)
        status, output, _ = _run("compare", *paths, "--output", figure)
        self.assertEqual(status, 0)
        self.assertIn("| theirs |", output)
        self.assertStartsWith(figure.read_bytes(), b"\x89PNG")
        status, output, errors = _run("compare", *paths, "--norm", "linf")
        self.assertEqual(status, 2)
        self.assertIn("theirs has no linf radius; it has: l2.", errors)

    def test_published_first_order_log_beside_our_run(self):
        log = real_data.folder("smoothing_logs/higher_order/cifar10/resnet110")
        log = log / "noise_0.50" / "results_l1.txt"
        figure = self.folder / "curves.png"
        status, output, _ = _run(
            "compare",
            *(self._write("ours"), log, log),
            "--norm=l1,l1,cohen",
            "--radii=0,0.25,1",
            "--names=ours,Mohapatra et al.,Mohapatra et al. zeroth order",
            *("--output", figure),
        )
        self.assertEqual(status, 0)
        self.assertIn("| Mohapatra et al.              | 0.649 | 0.624 |", output)
        self.assertIn("| 0.649 | 0.552 | 0.212 | 0.5155 |", output)
        self.assertStartsWith(figure.read_bytes(), b"\x89PNG")

    @parameterized.parameters(
        ([], "required"),
        (["explain"], "invalid choice: 'explain'"),
        (["verify"], "RUN"),
        (["verify", "missing"], "missing"),
        (["verify", "."], "holds no rows.tsv"),
        (["replay"], "RUN"),
        (["replay", "x"], "x is not a run"),
        (["replay", "x", "--rows=0"], "num_rows >= 1, got 0"),
        (["merge", "x"], "--output"),
        (["merge", "x", "--output", "y"], "x is not a run"),
        (["compare", "x", "--radii", "0,x"], "radii like 0,0.25,0.5, got 0,x"),
        (["compare", "x", "--radii=-1"], "radii like 0,0.25,0.5, got -1"),
        (["compare", "x", "--radii=nan"], "got nan"),
        (["compare", "x", "--names", "a,b"], "--names"),
        (["compare", "x", "x"], "--names"),
    )
    def test_usage_errors_are_one_line(self, arguments, message):
        with contextlib.chdir(self.folder):
            status, output, errors = _run(*arguments)
        self.assertEqual((status, output), (2, ""))
        self.assertIn(message, errors)
        self.assertEqual(errors.count("\n"), 1)

    def test_module_runs(self):
        """A process of its own ends with the status of `main`."""
        missing = self.folder / "missing"
        found = subprocess.run(
            [sys.executable, "-m", "robustjax.results", "verify", str(missing)],
            env=children.environment(),
            capture_output=True,
            text=True,
            check=False,
        )
        self.assertEqual((found.returncode, found.stdout), (2, ""))
        self.assertIn(str(missing), found.stderr)
        self.assertEqual(found.stderr.count("\n"), 1)


class ComparisonTest(parameterized.TestCase):
    @parameterized.parameters(
        (0.0, [0.0]),
        (1.0, [0.0, 0.25, 0.5, 0.75, 1.0]),
        (0.03, [0, 0.005, 0.01, 0.015, 0.02, 0.025, 0.03]),
        (3.8, [0, 0.5, 1, 1.5, 2, 2.5, 3, 3.5]),
        (float("inf"), [0.0]),
    )
    def test_radius_grid(self, largest, expected):
        self.assertEqual(tables.radius_grid(largest), expected)

    def test_norms_are_one_a_run(self):
        with self.assertRaisesRegex(ValueError, "equal lengths"):
            tables.accuracy_table({}, norm=["l2"])

    def test_run_names_drop_what_all_share(self):
        names = tables.run_names(["/runs/a/test/s", "/runs/b/test/s"])
        self.assertEqual(names, ["a/test/s", "b/test/s"])
        self.assertEqual(tables.run_names(["runs/a/s"]), ["s"])


if __name__ == "__main__":
    absltest.main()
