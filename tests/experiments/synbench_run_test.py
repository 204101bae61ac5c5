"""The script of SynBench: what a run leaves, how it resumes, and what it refuses."""

import dataclasses
import functools
import json
import pathlib
import sys
import tempfile
import warnings
from unittest import mock

import jax
import jax.numpy as jnp
import numpy as np
import pytest
import run_folders
import synbench
from absl.testing import absltest, parameterized
from robustjax_experiments.harness import encoders
from robustjax_experiments.reports import synbench as synbench_report

from robustjax import data, models
from robustjax import synbench as synbench_package
from robustjax.results.run_folder import provenance

_load = data.load
_HERE = pathlib.Path(__file__).parent
pytestmark = pytest.mark.filterwarnings("ignore:.*a perfect representation")


def _config(folder):
    """Three encoders of 64 features, which share their programs."""
    return synbench.SynBenchConfig(
        workdir=str(folder),
        train=("0", "1"),
        model="mlp",
        hidden=64,
        max_images=256,
        pixels=True,
        scales=("1", "2"),
        num_train="256",
        num_test=256,
        relative_epsilons=("0", "0.4"),
        thresholds=("0.6", "0.8"),
    )


def _few_digits():
    """A split has 256 images, one batch of the shape that scores take."""

    @functools.cache
    def load(name, **options):
        whole = _load(name, **options)
        return whole._replace(images=whole.images[:256], labels=whole.labels[:256])

    return mock.patch.object(data, "load", load)


@functools.cache
def _finished_run():
    """Files and summary of a run of three encoders, and what it warned of."""
    with (
        tempfile.TemporaryDirectory() as folder,
        run_folders.pictures(are_drawn=True),
        _few_digits(),
        warnings.catch_warnings(record=True) as caught,
    ):
        warnings.simplefilter("always")
        summary = synbench.run(_config(folder))
        return run_folders.read(pathlib.Path(folder)), summary, caught


class RunTest(parameterized.TestCase):
    def setUp(self):
        super().setUp()
        self.folder = pathlib.Path(self.enterContext(tempfile.TemporaryDirectory()))
        self.enterContext(run_folders.pictures(are_drawn=False))
        self.enterContext(_few_digits())
        self.enterContext(mock.patch.object(sys, "path", [*sys.path, str(_HERE)]))
        self.config = _config(self.folder / "run")

    def finished(self):
        """Puts the finished run into the folder of the configuration."""
        files, summary, caught = _finished_run()
        run_folders.write(files, self.config.workdir)
        return summary, caught

    def test_a_run_leaves_scores_differences_and_a_page(self):
        summary, caught = self.finished()
        messages = [str(warning.message) for warning in caught]
        self.assertTrue(any("a perfect representation" in text for text in messages))
        names = {path.name for path in (self.folder / "run").iterdir()}
        wanted = {"flags.txt", "versions.json", "summary.json", "scores.tsv"}
        self.assertEqual(
            names - {"models"},
            wanted | {"encoders", "report.html", "starts", "synbench.png"},
        )
        own = summary["encoders"]
        self.assertEqual(list(own), ["pixels", "untrained", "epochs_1"])
        self.assertEqual(own["pixels"]["num_features"], 64)
        self.assertEqual(own["epochs_1"]["num_features"], 64)
        self.assertGreater(
            own["pixels"]["score"][0][0], own["untrained"]["score"][0][0]
        )
        self.assertBetween(own["epochs_1"]["probe_accuracy"], 0.3, 1.0)
        pairs = [(row["one"], row["other"]) for row in summary["differences"]]
        self.assertLen(pairs, 3 * 2)
        for row in summary["differences"]:
            sides = np.sign([row["lower"], row["upper"]])
            sign = sides[0] if sides[0] == sides[1] else 0
            expected = {1: row["one"], -1: row["other"], 0: "-"}[sign]
            self.assertEqual(row["higher"], expected)
        self.assertIn("pixels", {row["higher"] for row in summary["differences"]})
        table = (self.folder / "run" / "scores.tsv").read_text().splitlines()
        self.assertLen(table, 1 + 3 * 2 * 2)
        page = (self.folder / "run" / "report.html").read_text()
        for word in ("epochs_1", "ceiling", "RankMe", "base64"):
            self.assertIn(word, page)

    @pytest.mark.newest
    def test_goes_on_with_the_scale_that_is_missing(self):
        first, _ = self.finished()
        folder = self.folder / "run" / "encoders" / "untrained"
        (folder / "scale_001.npz").unlink()
        kept = (folder / "scale_000.npz").stat().st_mtime_ns
        again = synbench.run(self.config)
        self.assertEqual((folder / "scale_000.npz").stat().st_mtime_ns, kept)
        for name, own in again["encoders"].items():
            self.assertEqual(own["score"], first["encoders"][name]["score"])
        config = self.config
        with self.assertRaisesRegex(ValueError, "num_test"):
            synbench.run(dataclasses.replace(config, num_test=512))
        (folder / "scale_001.npz").write_bytes(b"PK")
        with self.assertRaisesRegex(ValueError, "damaged"):
            synbench.run(config)

    @pytest.mark.slow
    def test_a_function_of_numpy_arrays_scores_as_the_same_of_jax(self):
        config = dataclasses.replace(
            self.config,
            train=(),
            pixels=False,
            input_shape=("2", "2", "64"),
            feature_fn=("sample_encoders:channel_means",),
        )
        traced = synbench.run(config)["encoders"]["sample_encoders.channel_means"]
        name = "sample_encoders:torch_like"
        host = dataclasses.replace(
            config, feature_fn=(name,), on_host=True, workdir=str(self.folder / "host")
        )
        found = synbench.run(host)["encoders"][name.replace(":", ".")]
        np.testing.assert_allclose(found["score"], traced["score"], rtol=1e-6)

    @pytest.mark.slow
    def test_a_vision_transformer_from_a_file(self):
        config = models.vit_config(
            "vit_ti8", resolution=16, width=64, mlp=64, depth=1, heads=2
        )
        module = models.VisionTransformer(config)
        example = jnp.zeros((1, 16, 16, 3))
        variables = jax.jit(module.init)(jax.random.key(0), example)
        path = self.folder / "small.npz"
        models.save_vit(path, config, variables["params"], layout="augreg")
        found = synbench.run(
            dataclasses.replace(
                self.config,
                train=(),
                pixels=False,
                checkpoint=(str(path),),
                pixel_mean=("0.5",),
                pixel_std=("0.5",),
            )
        )
        self.assertEqual(found["encoders"]["small"]["num_features"], 64)

    def test_as_many_inputs_as_the_features_ask_for(self):
        config = dataclasses.replace(
            self.config, num_train="auto", train=(), probe=False
        )
        found = synbench.run(config)["encoders"]["pixels"]
        self.assertEqual(found["num_train"], 2048)
        self.assertEqual(found["notes"], [])
        task = config.task((8, 8, 1), num_features=200)
        self.assertEqual(task.num_train, 4096)

    def test_other_software_and_missing_plots_are_told(self):
        self.finished()
        other = provenance.environment() | {"numpy": "99.0"}
        config = dataclasses.replace(self.config, allow_version_change=True)
        with (
            mock.patch.object(provenance, "environment", return_value=other),
            run_folders.without_matplotlib(),
            self.assertLogs() as logs,
        ):
            synbench.run(config)
        text = "\n".join(logs.output)
        self.assertRegex(text, "numpy was .* and is now 99.0")
        self.assertIn("no plots without matplotlib", text)

    def test_a_trained_classifier_from_its_folder(self):
        self.finished()
        path = self.folder / "run" / encoders.MODEL_FOLDER / "epochs_1" / "checkpoint"
        facts = json.loads((self.folder / "run" / "versions.json").read_text())["facts"]
        found = encoders._loaded(self.config, str(path))
        self.assertEqual((found.name, found.input_shape), ("checkpoint", (8, 8, 1)))
        self.assertEqual(found.fingerprint, facts["epochs_1"])

    @parameterized.parameters("no_such_module:encoder", "sample_encoders:none")
    def test_a_factory_that_is_not_there_is_named(self, name):
        with self.assertRaisesRegex(ValueError, f"Cannot import --feature_fn={name}"):
            encoders._imported(self.config, name)

    @parameterized.parameters(True, False)
    def test_features_are_a_row_an_input(self, is_on_host):
        images = encoders.Encoder("same", lambda x: x, (2, 2, 1), is_on_host, "")
        with self.assertRaisesRegex(
            ValueError, r"same .* \[16, p\], got \(16, 2, 2, 1\)"
        ):
            synbench._num_features(images)

    def test_scores_on_other_inputs_are_not_compared(self):
        other = ValueError("other inputs")
        with (
            mock.patch.object(synbench_package, "compare_scores", side_effect=other),
            self.assertLogs() as logs,
        ):
            own = dict.fromkeys("ab", mock.Mock())
            self.assertEqual(synbench_report._differences(own), [])
        self.assertIn("a and b are not compared: other inputs", logs.output[0])

    def test_compiled_programs_are_kept_where_told(self):
        config = dataclasses.replace(self.config, compile_cache="programs")
        with (
            mock.patch.object(encoders, "obtain", side_effect=OSError("stop")),
            mock.patch.object(jax.config, "update") as update,
            self.assertRaisesRegex(OSError, "stop"),
        ):
            synbench.run(config)
        update.assert_called_once_with("jax_compilation_cache_dir", "programs")

    @parameterized.parameters(
        ({"workdir": ""}, "workdir"),
        ({"train": (), "pixels": False}, "--train"),
        ({"train": ("1", "1")}, "epochs_1 twice"),
        ({"train": ("one",)}, "train"),
        ({"feature_fn": ("module",)}, "feature_fn"),
        ({"feature_fn": ("a:b",)}, "input_shape"),
        ({"feature_fn": ("a:b",), "input_shape": ("x",)}, "input_shape"),
        ({"scales": ("0.1",), "thresholds": ("0.9",)}, "thresholds"),
        ({"relative_epsilons": ("1",)}, "relative_epsilons"),
        ({"thresholds": ("1.5",)}, "thresholds"),
        ({"num_train": "some"}, "num_train"),
        ({"prior": 1.0}, "prior"),
        ({"shrinkage": "much"}, r"--shrinkage as a number in .* or oas, got 'much'"),
        ({"shrinkage": "2"}, "shrinkage as a number in .*, got 2.0"),
        ({"prior": 0.9}, "thresholds above 0.9, "),
        ({"thresholds": ("0.3",)}, "thresholds above 0.5, "),
        ({"relative_epsilons": ("0", "0.0")}, "relative_epsilons, each once"),
        ({"batch_size": 8}, "batch_size"),
    )
    def test_refuses(self, changes, text):
        with self.assertRaisesRegex(ValueError, text):
            dataclasses.replace(self.config, **changes)


if __name__ == "__main__":
    absltest.main()
