"""Tests for checkpoints in folders."""

import json
import pathlib
import shutil
import subprocess
import sys
import tempfile

import children
import flax.linen as nn
import jax
import numpy as np
import pytest
import random_variables
from absl.testing import absltest, parameterized

from robustjax import models

_SHAPE = (8, 8, 1)
_TRAINING = {"sigma": 0.25, "dataset": "digits", "metrics": {"loss": 0.5}}


class CheckpointsTest(parameterized.TestCase):
    @classmethod
    def setUpClass(cls):
        super().setUpClass()
        cls.module = models.create(
            "resnet20", num_classes=4, mean=0.3, num_blocks=1, width=4
        )
        cls.variables = random_variables.draw(cls.module, _SHAPE)

    def setUp(self):
        super().setUp()
        folder = self.enterContext(tempfile.TemporaryDirectory())
        self.path = pathlib.Path(folder) / "deep" / "model"

    def _save(self):
        return models.save(
            self.path,
            self.module,
            self.variables,
            input_shape=_SHAPE,
            training=_TRAINING,
        )

    @pytest.mark.newest
    def test_round_trip_keeps_everything(self):
        self.assertEqual(self._save(), self.path)
        loaded = models.load(self.path, expect="resnet20")
        self.assertEqual(loaded.module, self.module)
        self.assertEqual(loaded.name, "resnet20")
        self.assertEqual((loaded.num_classes, loaded.input_shape), (4, _SHAPE))
        self.assertEqual(loaded.training, _TRAINING)
        self.assertEqual(loaded.fingerprint, models.fingerprint(self.variables))
        self.assertIn("batch_stats", loaded.variables)
        jax.tree.map(
            np.testing.assert_array_equal, loaded.variables, dict(self.variables)
        )
        for leaf in jax.tree.leaves(loaded.variables):
            self.assertIsInstance(leaf, jax.Array)
        expected = models.classifier(self.module, loaded.variables)
        self.assertEqual(
            jax.tree.structure(loaded.apply_fn), jax.tree.structure(expected)
        )

    def test_loads_in_another_process_with_other_devices(self):
        """Which then holds neither the code of training nor onnx."""
        self._save()
        code = (
            "from robustjax import models; import jax, sys; print("
            "models.load(sys.argv[1]).fingerprint, jax.device_count(),"
            "{'training', 'onnx'} & {*sys.modules})"
        )
        command = [sys.executable, "-c", code, str(self.path)]
        environment = children.environment(XLA_FLAGS="")
        output = subprocess.check_output(command, env=environment, text=True)
        self.assertEqual(
            output.split(), [models.fingerprint(self.variables), "1", "set()"]
        )

    def test_never_overwrites(self):
        self._save()
        with self.assertRaisesRegex(FileExistsError, "model exists"):
            self._save()

    def test_refuses_a_foreign_module_before_writing(self):
        with self.assertRaisesRegex(ValueError, "got Dense"):
            models.save(self.path, nn.Dense(2), self.variables, input_shape=_SHAPE)
        self.assertFalse(self.path.parent.exists())

    def test_interrupted_save_is_no_checkpoint_and_can_be_repeated(self):
        partial = self.path.with_name("model.partial")
        partial.mkdir(parents=True)
        (partial / "left over").touch()
        with self.assertRaisesRegex(FileNotFoundError, "No checkpoint at.*model.json"):
            models.load(self.path)
        self._save()
        self.assertEqual(models.load(self.path).name, "resnet20")
        self.assertFalse(partial.exists())

    def test_manifest_tells_without_the_weights(self):
        self._save()
        shutil.rmtree(self.path / "variables")
        manifest = models.manifest(self.path)
        self.assertEqual(manifest["name"], "resnet20")
        self.assertEqual(manifest["training"]["sigma"], 0.25)

    def test_every_truncated_or_missing_file_is_named(self):
        self._save()
        files = [f for f in self.path.rglob("*") if f.is_file() and f.stat().st_size]
        self.assertGreater(len(files), 3)
        for file in files:
            content = file.read_bytes()
            file.write_bytes(content[: len(content) // 2])
            with self.assertRaisesRegex(ValueError, file.name) as caught:
                models.load(self.path)
            self.assertNotIn("\n", str(caught.exception))
            file.unlink()
            with self.assertRaisesRegex(FileNotFoundError, file.name):
                models.load(self.path)
            file.write_bytes(content)
        models.load(self.path)

    def test_other_architecture_is_named(self):
        self._save()
        with self.assertRaisesRegex(ValueError, "model 'resnet20', not 'cnn'"):
            models.load(self.path, expect="cnn")

    @parameterized.parameters(
        ({"format": 99}, "format 99, expected 1"),
        ({"options": {"num_classes": 5}}, "'params/.*expected"),
        ({"name": "vgg"}, "Unknown model 'vgg'"),
        ({"fingerprint": "0"}, "corrupt"),
    )
    def test_edited_description_is_refused(self, changes, message):
        self._save()
        file = self.path / "model.json"
        description = json.loads(file.read_text())
        changes = dict(changes)
        if "options" in changes:
            changes["options"] = description["options"] | changes["options"]
        file.write_text(json.dumps(description | changes))
        with self.assertRaisesRegex(ValueError, message):
            models.load(self.path)

    def test_description_without_a_field_is_refused(self):
        self._save()
        file = self.path / "model.json"
        description = json.loads(file.read_text())
        del description["input_shape"]
        file.write_text(json.dumps(description))
        with self.assertRaisesRegex(ValueError, "lacks input_shape"):
            models.load(self.path)


class FingerprintTest(parameterized.TestCase):
    def test_depends_on_names_shapes_types_and_values_only(self):
        tree = {"params": {"b": np.ones(4, np.float32), "a": np.zeros(2, np.float32)}}
        same = {"params": dict(reversed(tree["params"].items()))}
        others = [
            {"params": {**tree["params"], "a": np.float32([0, 1e-30])}},
            {"params": {**tree["params"], "a": np.zeros((2, 1), np.float32)}},
            {"params": {**tree["params"], "a": np.zeros(2, np.int32)}},
            {"params": {"b": tree["params"]["b"], "c": tree["params"]["a"]}},
        ]
        digests = {models.fingerprint(other) for other in [tree, *others]}
        self.assertLen(digests, 5)
        on_device = jax.tree.map(jax.numpy.asarray, same)
        self.assertEqual(models.fingerprint(on_device), models.fingerprint(tree))


if __name__ == "__main__":
    absltest.main()
