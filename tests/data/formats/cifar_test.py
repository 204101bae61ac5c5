"""Tests for the CIFAR readers: records written here, and the real subset."""

import csv
import gzip
import pathlib
import tempfile

import numpy as np
import pytest
from absl.testing import absltest, parameterized

from robustjax import data
from robustjax.data.formats import cifar
from tests import real_data

_RNG = np.random.default_rng(0)
_PIXELS = _RNG.integers(0, 256, (4, 32, 32, 3), np.uint8)


def _record(labels, image):
    planes = [bytes(image[:, :, channel].ravel().tolist()) for channel in range(3)]
    return bytes(labels) + b"".join(planes)


class CifarTest(parameterized.TestCase):
    def setUp(self):
        super().setUp()
        self.root = pathlib.Path(self.enterContext(tempfile.TemporaryDirectory()))
        self.cifar10 = self.root / "cifar-10-batches-bin"
        self.cifar100 = self.root / "cifar-100-binary"
        self.cifar10.mkdir()
        self.cifar100.mkdir()

    @pytest.mark.newest
    def test_cifar10_batches_follow_their_numbers(self):
        for number, index in ((10, 3), (2, 1), (1, 0), (3, 2)):
            content = _record([index + 5], _PIXELS[index])
            (self.cifar10 / f"data_batch_{number}.bin").write_bytes(content)
        (self.cifar10 / "batches.meta.txt").write_text("airplane\n")
        train = data.load("cifar10", split="train", data_dir=self.root)
        expected = _PIXELS.astype(np.float32) / np.float32(255)
        np.testing.assert_array_equal(train.images, expected)
        np.testing.assert_array_equal(train.labels, [5, 6, 7, 8])
        self.assertEqual(train.num_classes, 10)

    @parameterized.parameters("train", "test")
    def test_cifar100_reads_fine_labels(self, split):
        pairs = [(19, 99), (0, 7), (4, 0), (1, 50)]
        content = b"".join(map(_record, pairs, _PIXELS))
        (self.cifar100 / f"{split}.bin").write_bytes(content)
        dataset = data.load("cifar100", split=split, data_dir=self.root)
        np.testing.assert_array_equal(dataset.labels, [99, 7, 0, 50])
        expected = _PIXELS.astype(np.float32) / np.float32(255)
        np.testing.assert_array_equal(dataset.images, expected)
        self.assertEqual(dataset.num_classes, 100)
        images, labels = cifar.read_records(
            self.cifar100 / f"{split}.bin", label_bytes=2
        )
        np.testing.assert_array_equal(labels, pairs)
        np.testing.assert_array_equal(images, _PIXELS)

    @parameterized.parameters(
        (b"", "multiple of 3073 .* got 0"),
        (_record([1], _PIXELS[0])[:-1], "multiple of 3073 .* got 3072"),
        (_record([1, 2], _PIXELS[0]), "multiple of 3073 .* got 3074"),
        (_record([10], _PIXELS[0]), r"cifar10: expected labels in \[0, 9\], got 10"),
    )
    def test_damaged_files_are_refused(self, content, message):
        (self.cifar10 / "test_batch.bin").write_bytes(content)
        with self.assertRaisesRegex(ValueError, message):
            data.load("cifar10", data_dir=self.root)

    @parameterized.parameters(
        ("cifar10", "train", "No data_batch_1.bin .*cifar-10-batches-bin"),
        ("cifar10", "test", "No test_batch.bin .*cifar-10-batches-bin"),
        ("cifar100", "train", "No train.bin .*cifar-100-binary"),
    )
    def test_missing_files_are_named(self, name, split, message):
        with self.assertRaisesRegex(FileNotFoundError, f"{message}.*cs.toronto.edu"):
            data.load(name, split=split, data_dir=self.root)


class RealCifarTest(absltest.TestCase):
    def test_class_counts_and_channel_statistics(self):
        folder = real_data.folder("cifar-10-batches-bin").parent
        train = data.load("cifar10", split="train", data_dir=folder)
        test = data.load("cifar10", data_dir=folder)
        np.testing.assert_array_equal(
            np.bincount(train.labels),
            [396, 366, 420, 384, 422, 393, 414, 385, 407, 413],
        )
        np.testing.assert_array_equal(
            np.bincount(test.labels), [103, 89, 100, 103, 90, 86, 112, 102, 106, 109]
        )
        pixels = train.images.astype(np.float64).reshape(-1, 3)
        np.testing.assert_allclose(
            pixels.mean(0), [0.4916, 0.4818, 0.4447], atol=5.1e-5
        )
        np.testing.assert_allclose(pixels.std(0), [0.2471, 0.2440, 0.2625], atol=5.1e-5)

    def test_labels_equal_those_of_published_logs(self):
        logs = real_data.folder("smoothing_logs")
        folder = real_data.folder("cifar-10-batches-bin").parent
        labels = data.load("cifar10", data_dir=folder).labels
        for log, count in (
            ("smoothing_adversarial_cohen/noise_0.25/test/sigma_0.25.gz", 1000),
            ("higher_order/cifar10/resnet110/noise_0.25/results_l1.txt", 999),
            ("locuslab/certify/cifar10/resnet110/noise_0.25/test/sigma_0.25", 50),
        ):
            content = (logs / log).read_bytes()
            text = gzip.decompress(content) if log.endswith(".gz") else content
            rows = csv.DictReader(text.decode().splitlines(), delimiter="\t")
            published = {int(row["idx"]): int(row["label"]) for row in rows}
            inside = [index for index in published if index < len(labels)]
            self.assertLen(inside, count)
            self.assertEqual(
                [published[index] for index in inside], labels[inside].tolist()
            )


if __name__ == "__main__":
    absltest.main()
