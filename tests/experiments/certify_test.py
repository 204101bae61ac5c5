"""The certification script: what a run leaves, resumes, refuses and reports."""

import contextlib
import dataclasses
import functools
import io
import json
import os
import pathlib
import shutil
import subprocess
import sys
import tempfile
from unittest import mock

import certify
import children
import jax
import numpy as np
import pytest
import run_folders
import sample_classifiers
from absl import flags
from absl.testing import absltest, parameterized
from robustjax_experiments.configs import fields
from robustjax_experiments.harness import flags_from_config

from robustjax import models, results
from robustjax.results.certification import selection

_SCRIPT = pathlib.Path(certify.__file__)
_HERE = pathlib.Path(__file__).parent
_SAMPLES_PER_CALL = 16_000  # two batches of ten images
_rows = run_folders.rows


def _config(folder: str | pathlib.Path) -> certify.CertifyConfig:
    return certify.CertifyConfig(
        workdir=str(folder),
        apply_fn="sample_classifiers:nearest_mean",
        num_estimation=2_000,
        max_examples=20,
        norms=("l2", "linf"),
        devices=1,
    )


@functools.cache
def _finished_run() -> tuple[run_folders.Files, dict]:
    """Files and summary of the run that most tests start from."""
    with tempfile.TemporaryDirectory() as folder, run_folders.pictures(are_drawn=True):
        summary = certify.run(_config(folder))
        return run_folders.read(pathlib.Path(folder)), summary


class InFolder(parameterized.TestCase):
    """Tests that start from a finished run, in a folder of their own."""

    def setUp(self):
        super().setUp()
        self.folder = pathlib.Path(self.enterContext(tempfile.TemporaryDirectory()))
        self.enterContext(run_folders.pictures(are_drawn=False))
        self.enterContext(mock.patch.object(sys, "path", [*sys.path, str(_HERE)]))
        self.enterContext(
            mock.patch.object(selection, "_SAMPLES_PER_CALL", _SAMPLES_PER_CALL)
        )
        self.config = _config(self.folder / "run")

    def finished(self):
        """Puts the finished run into the folder of the configuration."""
        files, summary = _finished_run()
        run_folders.write(files, self.config.workdir)
        return summary

    def replace(self, **changes):
        return dataclasses.replace(self.config, **changes)


class RunTest(InFolder):
    def test_leaves_a_complete_run(self):
        summary = self.finished()
        names = {path.name for path in pathlib.Path(self.config.workdir).iterdir()}
        self.assertEqual(
            names,
            {
                "curve.png",
                "flags.txt",
                "rows.tsv",
                "starts",
                "summary.json",
                "versions.json",
            },
        )
        rows = _rows(self.config.workdir)
        self.assertEqual([int(row["idx"]) for row in rows], list(range(20)))
        self.assertEqual(
            " ".join(list(rows[0])[:5]), "idx label predict radius correct"
        )
        for row in rows:
            ratio = float(row["radius"]) / 8  # d = 64
            self.assertEqual(float(row["radius_linf"]), ratio)
        self.assertEmpty(results.verify_run(self.config.workdir).findings)
        path = pathlib.Path(self.config.workdir) / "summary.json"
        self.assertEqual(json.loads(path.read_text()), summary)
        self.assertGreater(summary["norms"]["l2"]["average_certified_radius"], 0.3)

    def test_without_matplotlib_there_is_no_curve(self):
        summary = self.finished()
        (self.folder / "run" / "curve.png").unlink()
        with run_folders.without_matplotlib(), self.assertLogs() as logs:
            self.assertEqual(certify.run(self.config), summary)
        self.assertIn("no curve.png without matplotlib", "".join(logs.output))
        self.assertFalse((self.folder / "run" / "curve.png").exists())

    def test_flags_reload_to_the_same_configuration(self):
        config = self.replace(alpha=0.01, radii=("0", "0.5"), distributed=False)
        text = fields.flags_text(config)
        path = self.folder / "flags.txt"
        path.write_text(text)
        values = flags.FlagValues()
        flags_from_config.define_flags(certify.CertifyConfig, flag_values=values)
        flags.DEFINE_string("flagfile", "", "", flag_values=values)
        values(["certify.py", f"--flagfile={path}"])
        again = flags_from_config.config_from_flags(
            certify.CertifyConfig, flag_values=values
        )
        self.assertEqual(again, config)

    @pytest.mark.newest
    def test_resumes_behind_a_cut_line(self):
        self.finished()
        expected = _rows(self.config.workdir)
        rows = pathlib.Path(self.config.workdir) / "rows.tsv"
        lines = rows.read_bytes().splitlines(keepends=True)
        rows.write_bytes(b"".join(lines[:14]) + lines[14][:9])
        certified = []
        real = certify.certify_batch

        def counted(*arguments, batch, **options):
            certified.append(batch)
            return real(*arguments, batch=batch, **options)

        with mock.patch.object(certify, "certify_batch", counted):
            certify.run(self.config)
        self.assertEqual(certified, [list(range(10, 20))])  # the first batch is whole
        self.assertEqual(_rows(self.config.workdir), expected)

    @pytest.mark.slow
    def test_resumes_from_every_kind_of_end(self):
        self.finished()
        expected = _rows(self.config.workdir)
        rows = pathlib.Path(self.config.workdir) / "rows.tsv"
        complete = rows.read_bytes()
        ends = (0, 10, complete.index(b"\n") + 1, len(complete) // 2, -1)
        for end in ends:
            rows.write_bytes(complete[:end])
            certify.run(self.config)
            self.assertEqual(_rows(self.config.workdir), expected)

    @parameterized.parameters(
        dict(devices=4), dict(seed=1), dict(start=1, skip=2, max_examples=10)
    )
    def test_rows_depend_on_the_seed_alone(self, **changes):
        self.finished()
        other = self.replace(workdir=str(self.folder / "other"), **changes)
        certify.run(other)
        by_idx = {row["idx"]: row for row in _rows(self.config.workdir)}
        same = [row == by_idx[row["idx"]] for row in _rows(other.workdir)]
        self.assertEqual(all(same), "seed" not in changes)

    def test_too_few_samples_are_warned_of(self):
        with self.assertLogs(level="WARNING") as logs:
            certify.run(self.replace(num_estimation=12))
        self.assertIn("num_estimation=12 is close to 10", "".join(logs.output))

    @mock.patch.object(selection, "_SAMPLES_PER_CALL", 2**17)
    def test_batches_are_of_one_size_and_cover_all(self):
        for num, num_estimation in ((300, 10_000), (7, 10), (499, 100_000), (1, 1)):
            batches = list(
                selection.batches(list(range(num)), num_samples=num_estimation)
            )
            self.assertLen({len(batch) for batch in batches}, 1)
            kept = [i for batch in batches for i in dict.fromkeys(batch)]
            self.assertEqual(kept, list(range(num)))

    def test_non_finite_logits_are_reported(self):
        config = self.replace(apply_fn="sample_classifiers:sometimes_nan")
        with self.assertLogs(level="WARNING") as logs:
            summary = certify.run(config)
        self.assertGreater(summary["num_invalid"], 0)
        self.assertIn("non-finite", "".join(logs.output))
        self.assertEmpty(results.verify_run(config.workdir).findings)


@functools.cache
def _untrained():
    module = models.create("mlp", num_classes=10, features=())
    return module, jax.jit(module.init)(jax.random.key(0), np.zeros((1, 8, 8, 1)))


class CheckpointTest(InFolder):
    def setUp(self):
        super().setUp()
        self.checkpoint = self.folder / "checkpoint"
        module, variables = _untrained()
        models.save(
            self.checkpoint,
            module,
            variables,
            input_shape=(8, 8, 1),
            training={"sigma": 0.5},
        )
        self.config = self.replace(
            apply_fn="", checkpoint=str(self.checkpoint), num_estimation=500
        )

    def test_another_sigma_is_warned_of(self):
        with self.assertLogs(level="WARNING") as logs:
            certify.run(self.config)
        self.assertIn("trained with sigma 0.5, not 0.25", "".join(logs.output))

    def test_another_checkpoint_in_its_place_is_refused(self):
        certify.run(self.config)
        loaded = models.load(self.checkpoint)
        for changes in (dict(std=0.5), dict()):
            module = models.create("mlp", num_classes=10, features=(), **changes)
            variables = loaded.variables
            if not changes:  # other weights
                variables = jax.tree.map(lambda w: 2 * w, variables)
            shutil.rmtree(self.checkpoint)
            models.save(self.checkpoint, module, variables, input_shape=(8, 8, 1))
            with self.assertRaisesRegex(ValueError, "model is"):
                certify.run(self.config)

    def test_a_safetensors_file_gives_the_same_rows(self):
        loaded = models.load(self.checkpoint)
        path = models.export_safetensors(
            self.folder / "model.safetensors",
            loaded.module,
            loaded.variables,
            input_shape=loaded.input_shape,
        )
        certify.run(self.config)
        other = self.replace(checkpoint=str(path), workdir=str(self.folder / "other"))
        certify.run(other)
        self.assertEqual(_rows(other.workdir), _rows(self.config.workdir))

    def test_bfloat16(self):
        config = self.replace(dtype="bfloat16", sigma=0.5)
        certify.run(config)
        self.assertLen(_rows(config.workdir), 20)

    def test_refuses_another_architecture_data_set_or_a_damaged_file(self):
        with self.assertRaisesRegex(ValueError, "'mlp', not 'cnn'"):
            certify.run(self.replace(model="cnn"))
        np.savez(
            self.folder / "data.npz",
            images=np.zeros((4, 9, 9, 1), np.uint8),
            labels=np.arange(4),
        )
        with self.assertRaisesRegex(ValueError, r"\(8, 8, 1\).*\(9, 9, 1\)"):
            certify.run(self.replace(dataset=str(self.folder / "data.npz")))
        files = [path for path in self.checkpoint.rglob("*") if path.is_file()]
        largest = max(files, key=lambda path: path.stat().st_size)
        largest.write_bytes(largest.read_bytes()[:-1])
        with self.assertRaisesRegex(ValueError, "truncated or corrupt"):
            certify.run(self.config)
        self.assertFalse(pathlib.Path(self.config.workdir).exists())


class RefusalTest(InFolder):
    @parameterized.parameters(
        (dict(sigma=0.0), "sigma"),
        (dict(sigma=float("nan")), "sigma"),
        (dict(alpha=0.0), "alpha"),
        (dict(alpha=1.5), "alpha"),
        (dict(num_estimation=9), "num_estimation >= 10"),
        (dict(norms=("l2", "l0")), "l0"),
        (dict(runner_up="none"), "runner_up"),
        (dict(order=2), "order"),
        (dict(model="vgg"), "vgg"),
        (dict(dtype="float16"), "dtype"),
        (dict(chunk_size=100), "chunk_size"),
        (dict(skip=0), "skip"),
        (dict(start=-1), "start"),
        (dict(radii=("a",)), "radii"),
        (dict(radii=("nan",)), "radii"),
        (dict(radii=("-1",)), "radii"),
        (dict(seed=2**32), "seed < "),
        (dict(seed=-1), "seed"),
        (dict(sigma=1e-50), "sigma"),
        (dict(process_id=1), "--distributed"),
        (dict(norms=("l2", "l2")), "distinct"),
        (dict(workdir=""), "workdir"),
        (dict(apply_fn=""), "--checkpoint"),
        (dict(train=("epochs=3",)), "--train"),
        (dict(apply_fn="", train=("epoch=3",)), "'epoch'"),
        (dict(apply_fn="", train=("epochs=many",)), "epochs as int, got 'many'"),
        (dict(apply_fn="sample_classifiers"), "package.module:factory"),
        (dict(apply_fn="", train=("learning_rate=-1",)), "learning_rate"),
    )
    def test_bad_settings_are_named(self, changes, text):
        with self.assertRaisesRegex(ValueError, text):
            self.replace(**changes)

    @parameterized.parameters(
        (dict(dataset="imagenet22k"), "imagenet22k"),
        (dict(start=300), "start < 300"),
        (dict(apply_fn="nowhere:factory"), "nowhere"),
        (dict(apply_fn="sample_classifiers:absent"), "absent"),
        (dict(apply_fn="sample_classifiers:number"), "int"),
        (dict(apply_fn="sample_classifiers:two_classes"), r"\(128, 10\).*\(128, 2\)"),
        (dict(apply_fn="sample_classifiers:raising"), "failed: KeyError: 'weights'"),
        (dict(apply_fn="sample_classifiers:on_the_host"), "failed: TracerArray"),
        (dict(devices=99), "devices <= "),
    )
    def test_bad_runs_are_refused(self, changes, text):
        with self.assertRaisesRegex(ValueError, text):
            certify.run(self.replace(**changes))

    def test_missing_data_says_where_to_get_them(self):
        with (
            mock.patch.dict(os.environ, ROBUSTJAX_DATA_DIR=str(self.folder)),
            self.assertRaisesRegex(FileNotFoundError, "mnist.*http"),
        ):
            certify.run(self.replace(dataset="mnist"))

    @parameterized.parameters(
        dict(sigma=0.5),
        dict(seed=3),
        dict(num_estimation=999),
        dict(norms=("l2",)),
        dict(apply_fn="sample_classifiers:sometimes_nan"),
    )
    def test_another_run_in_the_folder_is_refused(self, **changes):
        self.finished()
        before = _rows(self.config.workdir)
        with self.assertRaisesRegex(ValueError, next(iter(changes))):
            certify.run(self.replace(**changes))
        self.assertEqual(_rows(self.config.workdir), before)

    def test_another_model_behind_the_same_name_is_refused(self):
        self.finished()
        with (
            mock.patch(
                "sample_classifiers.nearest_mean", sample_classifiers.farthest_mean
            ),
            self.assertRaisesRegex(ValueError, "model is"),
        ):
            certify.run(self.config)

    def test_a_foreign_folder_is_refused_before_training(self):
        workdir = pathlib.Path(self.config.workdir)
        workdir.mkdir()
        (workdir / "thesis.txt").write_text("mine")
        config = self.replace(apply_fn="", train=("epochs=1",))
        with self.assertRaisesRegex(ValueError, "thesis.txt"):
            certify.run(config)
        self.assertLen(list(workdir.iterdir()), 1)

    def test_pixels_out_of_range_are_refused(self):
        path = self.folder / "data.npz"
        for value in (1.5, np.nan):
            images = np.full((4, 8, 8, 1), value, np.float32)
            np.savez(path, images=images, labels=np.arange(4))
            with self.assertRaisesRegex(ValueError, f"{value}"):
                certify.run(self.replace(dataset=str(path)))

    @pytest.mark.slow
    def test_disk_full_leaves_the_rows_so_far(self):
        self.finished()
        expected = _rows(self.config.workdir)
        rows = pathlib.Path(self.config.workdir) / "rows.tsv"
        lines = rows.read_bytes().splitlines(keepends=True)
        rows.write_bytes(b"".join(lines[:7]))
        full = OSError(28, "No space left on device")
        with (
            mock.patch("os.write", side_effect=full),
            self.assertRaisesRegex(OSError, "No space left"),
        ):
            certify.run(self.config)
        self.assertEqual(_rows(self.config.workdir), expected[:6])
        certify.run(self.config)
        self.assertEqual(_rows(self.config.workdir), expected)


class ExitCodeTest(InFolder):
    """Errors of the user end in one line and exit code 2."""

    def _launched(self, *arguments: str) -> list[str]:
        """The lines on stderr of a command that fails, without a process for it."""
        values = flags.FlagValues()
        flags.DEFINE_string("flagfile", "", "", flag_values=values)

        def run(main, *, flags_parser):
            main(flags_parser(sys.argv))

        with (
            mock.patch.object(flags_from_config, "app", mock.Mock(run=run)),
            mock.patch.object(flags_from_config, "jax"),  # whose flags are global
            mock.patch.object(flags_from_config, "_log_briefly"),
            mock.patch.object(sys, "argv", ["certify.py", *arguments]),
            contextlib.redirect_stderr(io.StringIO()) as stderr,
            self.assertRaises(SystemExit) as caught,
        ):
            flags_from_config.launch(
                certify.CertifyConfig, certify.run, flag_values=values
            )
        self.assertEqual(caught.exception.code, 2)
        return stderr.getvalue().splitlines()

    @parameterized.parameters(
        (["--sigma=nan"], "sigma"),
        (["--nonsense=1"], "nonsense"),
        (["--alpha=high"], "alpha"),
        (["stray"], "stray"),
        (["--flagfile=/nowhere.flags"], "nowhere.flags"),
    )
    def test_one_line_names_the_mistake(self, arguments, text):
        lines = self._launched(*arguments, f"--workdir={self.folder / 'run'}")
        self.assertLen(lines, 1)
        self.assertIn(text, lines[0])
        self.assertFalse((self.folder / "run").exists())

    def test_a_file_in_the_place_of_the_folder(self):
        path = self.folder / "file"
        path.write_text("mine")
        lines = self._launched(
            f"--workdir={path}", "--apply_fn=sample_classifiers:nearest_mean"
        )
        self.assertIn(str(path), lines[-1])
        self.assertEqual(path.read_text(), "mine")

    def test_exit_code_of_the_process(self):
        result = subprocess.run(
            [sys.executable, str(_SCRIPT), "--sigma=nan", "--workdir=run"],
            capture_output=True, text=True, check=False, cwd=self.folder,
            env=children.environment(_HERE),
        )  # fmt: skip
        self.assertEqual(result.returncode, 2, result.stderr)
        self.assertRegex(result.stderr, r"\A[^\n]*sigma[^\n]*nan[^\n]*\n\Z")
        self.assertFalse((self.folder / "run").exists())


if __name__ == "__main__":
    absltest.main()
