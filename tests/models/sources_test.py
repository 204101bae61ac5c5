"""Classifiers that do not suit a data set are refused before anything is computed."""

import pathlib
import tempfile

import numpy as np
import onnx_networks
import random_variables
from absl.testing import absltest, parameterized

from robustjax import data, models
from robustjax.models import sources


def _dataset(height, num_classes):
    images = np.zeros((2, height, 2, 1), np.uint8)
    return data.from_arrays(images, [0, 0], num_classes=num_classes, name="mine")


class SourcesTest(parameterized.TestCase):
    def setUp(self):
        super().setUp()
        self.folder = pathlib.Path(self.enterContext(tempfile.TemporaryDirectory()))

    @parameterized.parameters(
        (
            3,
            4,
            r"net.safetensors takes images \(2, 2, 1\), those of mine are \(3, 2, 1",
        ),
        (2, 3, "net.safetensors has 4 classes, mine has 3"),
    )
    def test_checkpoints(self, height, num_classes, text):
        module = models.create("mlp", num_classes=4, features=(2,))
        path = str(self.folder / "net.safetensors")
        variables = random_variables.draw(module, (2, 2, 1))
        models.export_safetensors(path, module, variables, input_shape=(2, 2, 1))
        with self.assertRaisesRegex(ValueError, text):
            sources.from_checkpoint(path, _dataset(height, num_classes))

    @parameterized.parameters(
        (3, 4, r"net.onnx takes inputs \(4,\), the images of mine are \(3, 2, 1\)"),
        (2, 3, r"net.onnx gives outputs \(4,\), mine has 3 classes"),
    )
    def test_onnx_networks(self, height, num_classes, text):
        path = self.folder / "net.onnx"
        network = onnx_networks.single("Relu", (1, 4))
        path.write_bytes(network.SerializeToString())
        with self.assertRaisesRegex(ValueError, text):
            sources.from_onnx(str(path), _dataset(height, num_classes))


if __name__ == "__main__":
    absltest.main()
