"""Tests for the exchange of weights as safetensors."""

import json
import pathlib
import tempfile

import jax
import numpy as np
import pytest
import random_variables
import safetensors
from absl.testing import absltest, parameterized
from safetensors import numpy as safetensors_numpy

from robustjax import models

_SHAPE = (8, 8, 1)


class TensorsTest(parameterized.TestCase):
    @classmethod
    def setUpClass(cls):
        super().setUpClass()
        cls.module = models.create("cnn", num_classes=4, std=0.5, features=(3,))
        cls.variables = random_variables.draw(cls.module, _SHAPE)

    def setUp(self):
        super().setUp()
        folder = pathlib.Path(self.enterContext(tempfile.TemporaryDirectory()))
        self.path = models.export_safetensors(
            folder / "model.safetensors",
            self.module,
            self.variables,
            input_shape=_SHAPE,
            training={"sigma": 0.5},
        )

    def _rewrite(self, change_arrays=None, **changes):
        """Writes the file again with changed arrays or a changed description."""
        with safetensors.safe_open(self.path, framework="np") as file:
            description = json.loads(file.metadata()["robustjax"])
        arrays = safetensors_numpy.load_file(self.path)
        if change_arrays:
            change_arrays(arrays)
        metadata = {"robustjax": json.dumps(description | changes)}
        safetensors_numpy.save_file(arrays, self.path, metadata=metadata)

    @pytest.mark.newest
    def test_round_trip(self):
        loaded = models.import_safetensors(self.path, expect="cnn")
        self.assertEqual(loaded.module, self.module)
        self.assertEqual(loaded.training, {"sigma": 0.5})
        self.assertEqual(loaded.input_shape, _SHAPE)
        jax.tree.map(np.testing.assert_array_equal, loaded.variables, self.variables)

    def test_names_are_flat(self):
        arrays = safetensors_numpy.load_file(self.path)
        self.assertIn("params/Conv_0/kernel", arrays)
        kernel = self.variables["params"]["Conv_0"]["kernel"]
        np.testing.assert_array_equal(arrays["params/Conv_0/kernel"], kernel)

    @parameterized.parameters(
        (lambda a: a.pop("params/head/bias"), "lacks 'params/head/bias'"),
        (lambda a: a.update(x=np.zeros(1)), "holds 'x', which the model has not"),
        (
            lambda a: a.update({"params/Conv_0/bias": np.zeros(9, np.float32)}),
            r"'params/Conv_0/bias' \(9,\), expected \(3,\)",
        ),
        (
            lambda a: a.update({"params/Conv_0/bias": np.ones(3, np.float32)}),
            "corrupt",
        ),
    )
    def test_first_difference_is_named(self, change_arrays, message):
        self._rewrite(change_arrays)
        with self.assertRaisesRegex(ValueError, message):
            models.import_safetensors(self.path)

    def test_other_architecture_is_named(self):
        with self.assertRaisesRegex(ValueError, "model 'cnn', not 'mlp'"):
            models.import_safetensors(self.path, expect="mlp")

    def test_truncated_file_is_named(self):
        self.path.write_bytes(self.path.read_bytes()[:-5])
        with self.assertRaisesRegex(ValueError, "Cannot read .*model.safetensors"):
            models.import_safetensors(self.path)

    def test_file_of_another_tool_is_refused(self):
        safetensors_numpy.save_file({"a": np.zeros(1)}, self.path)
        with self.assertRaisesRegex(ValueError, "no 'robustjax' metadata"):
            models.import_safetensors(self.path)

    def test_missing_and_existing_files(self):
        with self.assertRaisesRegex(FileNotFoundError, "nowhere"):
            models.import_safetensors(self.path.with_name("nowhere"))
        with self.assertRaisesRegex(FileExistsError, "model.safetensors exists"):
            models.export_safetensors(
                self.path, self.module, self.variables, input_shape=_SHAPE
            )


if __name__ == "__main__":
    absltest.main()
