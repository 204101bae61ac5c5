"""Tests for the IDX reader: bytes written here, and the real MNIST."""

import gzip
import pathlib
import struct
import tempfile

import numpy as np
import pytest
from absl.testing import absltest, parameterized

from robustjax import data
from robustjax.data.formats import idx
from tests import real_data

_PIXELS = np.random.default_rng(0).integers(0, 256, (5, 4, 3), np.uint8)
_LABELS = [3, 1, 4, 1, 9]
_IMAGE_FILE = struct.pack(">IIII", 2051, 5, 4, 3) + _PIXELS.tobytes()
_LABEL_FILE = struct.pack(">II", 2049, 5) + bytes(_LABELS)


class IdxTest(parameterized.TestCase):
    def setUp(self):
        super().setUp()
        self.folder = pathlib.Path(
            self.enterContext(tempfile.TemporaryDirectory()), "mnist"
        )
        self.folder.mkdir()

    def write(self, name, content):
        (self.folder / name).write_bytes(content)
        return self.folder / name

    @parameterized.parameters(("", bytes), (".gz", gzip.compress))
    def test_reads_plain_and_gzipped(self, suffix, pack):
        self.write(f"t10k-images-idx3-ubyte{suffix}", pack(_IMAGE_FILE))
        self.write(f"t10k-labels-idx1-ubyte{suffix}", pack(_LABEL_FILE))
        test = data.load("mnist", data_dir=self.folder.parent)
        np.testing.assert_array_equal(
            test.images, _PIXELS[..., None].astype(np.float32) / np.float32(255)
        )
        np.testing.assert_array_equal(test.labels, _LABELS)
        self.assertEqual((test.num_classes, test.name), (10, "mnist"))

    def test_fashion_mnist_has_its_own_folder(self):
        self.write("t10k-images-idx3-ubyte", _IMAGE_FILE)
        self.write("t10k-labels-idx1-ubyte", _LABEL_FILE)
        self.folder.rename(self.folder.with_name("fashion-mnist"))
        test = data.load("fashion_mnist", data_dir=self.folder.parent)
        self.assertEqual((test.labels.tolist(), test.name), (_LABELS, "fashion_mnist"))

    @pytest.mark.newest
    def test_gzip_is_known_by_content_not_by_name(self):
        path = self.write("images", gzip.compress(_IMAGE_FILE))
        np.testing.assert_array_equal(idx.read_array(path, rank=3), _PIXELS)

    @parameterized.named_parameters(
        ("truncated", _IMAGE_FILE[:-1], "60 bytes .* got 59"),
        ("trailing", _IMAGE_FILE + b"x", "60 bytes .* got 61"),
        ("header_only_half", _IMAGE_FILE[:9], "magic 00000803"),
        ("empty", b"", "an empty file"),
        ("labels", _LABEL_FILE, "magic 00000803.*got 00000801"),
        ("floats", b"\0\0\x0d\x03" + _IMAGE_FILE[4:], "got 00000d03"),
        ("huge_header", struct.pack(">IIII", 2051, *[2**32 - 1] * 3), "got 0"),
        ("cut_gzip", gzip.compress(_IMAGE_FILE)[:-9], "complete gzip file"),
        ("gzip_garbage", gzip.compress(_IMAGE_FILE) + b"x", "complete gzip file"),
        ("gzip_header_only", b"\x1f\x8b\x08\0\0\0\0\0\0\0", "complete gzip file"),
    )
    def test_damaged_files_are_named(self, content, message):
        path = self.write("broken", content)
        with self.assertRaisesRegex(ValueError, f"{path}: expected .*{message}"):
            idx.read_array(path, rank=3)

    def test_images_and_labels_must_agree(self):
        self.write("train-images-idx3-ubyte", _IMAGE_FILE)
        self.write("train-labels-idx1-ubyte", struct.pack(">II", 2049, 4) + b"\1\2\3\4")
        with self.assertRaisesRegex(ValueError, "equal lengths.*mnist': 5.*mnist': 4"):
            data.load("mnist", split="train", data_dir=self.folder.parent)

    def test_missing_file_says_where_to_get_it(self):
        self.write("t10k-images-idx3-ubyte", _IMAGE_FILE)
        message = f"No t10k-labels-idx1-ubyte .*in {self.folder}.*data_dir.*yann.lecun"
        with self.assertRaisesRegex(FileNotFoundError, message):
            data.load("mnist", data_dir=self.folder.parent)


_TRAIN_COUNTS = [5923, 6742, 5958, 6131, 5842, 5421, 5918, 6265, 5851, 5949]
_TEST_COUNTS = [980, 1135, 1032, 1010, 982, 892, 958, 1028, 974, 1009]


class RealMnistTest(absltest.TestCase):
    def test_counts_pixels_and_class_means(self):
        folder = real_data.folder("mnist").parent
        train = data.load("mnist", split="train", data_dir=folder)
        test = data.load("mnist", data_dir=folder)
        for mnist, counts in ((train, _TRAIN_COUNTS), (test, _TEST_COUNTS)):
            np.testing.assert_array_equal(np.bincount(mnist.labels), counts)
            self.assertEqual(mnist.images.shape, (sum(counts), 28, 28, 1))
        sums, squares = [], 0.0
        for k in range(10):
            part = train.images[train.labels == k].reshape(-1, 784)
            sums.append(part.sum(0, dtype=np.float64))
            squares += float(np.einsum("ij,ij->", part, part))
        mean = np.sum(sums) / train.images.size
        deviation = np.sqrt(squares / train.images.size - mean**2)
        self.assertAlmostEqual(mean, 0.13066, places=5)
        self.assertAlmostEqual(deviation, 0.30811, places=5)
        means = np.stack(sums) / np.array(_TRAIN_COUNTS)[:, None]
        scores = test.images.reshape(-1, 784) @ means.T.astype(np.float32)
        scores -= (means**2).sum(1)[None] / 2
        accuracy = np.mean(scores.argmax(1) == test.labels)
        self.assertBetween(accuracy, 0.80, 0.84)  # 0.82 in the literature

    def test_fashion_labels_equal_an_independent_list(self):
        folder = real_data.folder("fashion-mnist")
        labels = idx.read_array(folder / "t10k-labels-idx1-ubyte.gz", rank=1)
        table = gzip.decompress(
            (folder / "fashion_test_first500.csv.gz").read_bytes()
        ).decode()
        expected = [int(row.partition(",")[0]) for row in table.splitlines()]
        np.testing.assert_array_equal(labels[:500], expected)
        np.testing.assert_array_equal(np.bincount(labels), np.full(10, 1000))


if __name__ == "__main__":
    absltest.main()
