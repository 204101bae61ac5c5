"""The script of SynBench: what a run leaves, how it resumes, and what it refuses."""

import dataclasses
import pathlib
import sys
import tempfile
from unittest import mock

import jax
import jax.numpy as jnp
import numpy as np
import pytest
import synbench
from absl.testing import absltest, parameterized

from robustjax import models

_HERE = pathlib.Path(__file__).parent


class RunTest(parameterized.TestCase):
    def setUp(self):
        super().setUp()
        self.folder = pathlib.Path(self.enterContext(tempfile.TemporaryDirectory()))
        self.enterContext(mock.patch.object(sys, "path", [*sys.path, str(_HERE)]))
        self.config = synbench.SynBenchConfig(
            workdir=str(self.folder / "run"),
            train=("0", "1"), model="mlp", hidden=8, max_images=256, pixels=True,
            scales=("1", "2"), num_train="256", num_test=256,
            relative_epsilons=("0", "0.4"), thresholds=("0.6", "0.8"),
        )  # fmt: skip

    def test_a_run_leaves_scores_differences_and_a_page(self):
        with pytest.warns(UserWarning, match="a perfect representation"):
            summary = synbench.run(self.config)
        names = {path.name for path in (self.folder / "run").iterdir()}
        wanted = {"flags.txt", "versions.json", "summary.json", "scores.tsv"}
        self.assertEqual(names - {"models"}, wanted | {
            "encoders", "report.html", "synbench.png"
        })  # fmt: skip
        own = summary["encoders"]
        self.assertEqual(list(own), ["pixels", "untrained", "epochs_1"])
        self.assertEqual(own["pixels"]["num_features"], 64)
        self.assertEqual(own["epochs_1"]["num_features"], 8)
        self.assertGreater(
            own["pixels"]["score"][0][0], own["untrained"]["score"][0][0]
        )
        self.assertBetween(own["epochs_1"]["probe_accuracy"], 0.3, 1.0)
        pairs = [(row["one"], row["other"]) for row in summary["differences"]]
        self.assertLen(pairs, 3 * 2)
        table = (self.folder / "run" / "scores.tsv").read_text().splitlines()
        self.assertLen(table, 1 + 3 * 2 * 2)
        page = (self.folder / "run" / "report.html").read_text()
        for word in ("epochs_1", "ceiling", "RankMe", "base64"):
            self.assertIn(word, page)

    def test_goes_on_with_the_scale_that_is_missing(self):
        config = dataclasses.replace(self.config, train=("0",), pixels=False)
        first = synbench.run(config)["encoders"]["untrained"]
        folder = self.folder / "run" / "encoders" / "untrained"
        (folder / "scale_001.npz").unlink()
        kept = (folder / "scale_000.npz").stat().st_mtime_ns
        again = synbench.run(config)["encoders"]["untrained"]
        self.assertEqual((folder / "scale_000.npz").stat().st_mtime_ns, kept)
        self.assertEqual(again["score"], first["score"])
        with self.assertRaisesRegex(ValueError, "num_test"):
            synbench.run(dataclasses.replace(config, num_test=512))
        (folder / "scale_001.npz").write_bytes(b"PK")
        with self.assertRaisesRegex(ValueError, "damaged"):
            synbench.run(config)

    def test_a_function_of_numpy_arrays_scores_as_the_same_of_jax(self):
        config = dataclasses.replace(
            self.config, train=(), pixels=False, input_shape=("4", "4", "3"),
            feature_fn=("sample_encoders:channel_means",), relative_epsilons=("0",),
        )  # fmt: skip
        traced = synbench.run(config)["encoders"]["sample_encoders.channel_means"]
        name = "sample_encoders:torch_like"
        host = dataclasses.replace(
            config, feature_fn=(name,), on_host=True, workdir=str(self.folder / "host")
        )
        found = synbench.run(host)["encoders"][name.replace(":", ".")]
        np.testing.assert_allclose(found["score"], traced["score"], rtol=1e-6)

    def test_a_vision_transformer_from_a_file(self):
        config = models.vit_config(
            "vit_ti8", resolution=16, width=24, mlp=48, depth=1, heads=2
        )
        module = models.VisionTransformer(config)
        variables = module.init(jax.random.key(0), jnp.zeros((1, 16, 16, 3)))
        path = self.folder / "small.npz"
        models.save_vit(path, config, variables["params"], layout="augreg")
        found = synbench.run(
            dataclasses.replace(
                self.config, train=(), pixels=False, checkpoint=(str(path),),
                num_train="512",
                pixel_mean=("0.5",), pixel_std=("0.5",),
            )
        )  # fmt: skip
        self.assertEqual(found["encoders"]["small"]["num_features"], 24)

    def test_as_many_inputs_as_the_features_ask_for(self):
        config = dataclasses.replace(
            self.config, num_train="auto", train=(), scales=("2",), probe=False
        )
        found = synbench.run(config)["encoders"]["pixels"]
        self.assertEqual(found["num_train"], 2048)
        self.assertEqual(found["notes"], [])
        task = config.task((8, 8, 1), num_features=200)
        self.assertEqual(task.num_train, 4096)

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
        ({"shrinkage": "much"}, "shrinkage"),
        ({"batch_size": 8}, "batch_size"),
    )
    def test_refuses(self, changes, text):
        with self.assertRaisesRegex(ValueError, text):
            dataclasses.replace(self.config, **changes)


if __name__ == "__main__":
    absltest.main()
