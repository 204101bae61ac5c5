"""Tests for loading by name: names, splits and the data folder."""

import os
import pathlib
import sys
import tempfile
from unittest import mock

import numpy as np
import pytest
from absl.testing import absltest, parameterized
from sklearn import datasets

from robustjax import data


class LoadTest(parameterized.TestCase):
    @parameterized.parameters("imagenet", "", "MNIST", "cifar", "npz", "folder:", "hf:")
    def test_unknown_names_list_the_known(self, name):
        message = f"Unknown dataset '{name}'; choose one of: digits, mnist.*hf:<id>"
        with self.assertRaisesRegex(ValueError, message):
            data.load(name)

    @parameterized.parameters("digits", "mnist", "x.npz", "folder:x", "nonsense")
    def test_unknown_splits_are_refused(self, name):
        with self.assertRaisesRegex(ValueError, "split 'valid'.*train, test"):
            data.load(name, split="valid")

    @parameterized.parameters(
        ("mnist", "t10k.*mnist/.*yann.lecun.com"),
        ("fashion_mnist", "t10k.*fashion-mnist/.*zalandoresearch"),
        ("cifar10", "test_batch.bin in cifar-10-batches-bin/.*cs.toronto.edu"),
        ("cifar100", "test.bin in cifar-100-binary/.*cs.toronto.edu"),
        ("gtsrb", "GT-final_test.csv in gtsrb/.*benchmark.ini.rub.de"),
    )
    def test_missing_data_is_explained_in_one_line(self, name, message):
        empty = self.enterContext(tempfile.TemporaryDirectory())
        unset = mock.patch.dict(os.environ, ROBUSTJAX_DATA_DIR="")
        for folder, start in (
            (None, "No data folder given"),
            (empty, "No folder .*in"),
        ):
            pattern = f"^{start}.*{message}"
            with unset, self.assertRaisesRegex(FileNotFoundError, pattern) as caught:
                data.load(name, data_dir=folder)
            text = str(caught.exception)
            self.assertRegex(text, "data_dir or ROBUSTJAX_DATA_DIR")
            self.assertNotIn("\n", text)

    def test_argument_wins_over_the_environment(self):
        right, wrong = (
            pathlib.Path(self.enterContext(tempfile.TemporaryDirectory())) for _ in "ab"
        )
        for root, label in ((right, 3), (wrong, 5)):
            folder = root / "cifar-10-batches-bin"
            folder.mkdir()
            (folder / "test_batch.bin").write_bytes(bytes([label]) + bytes(3072))
        with mock.patch.dict(os.environ, ROBUSTJAX_DATA_DIR=str(wrong)):
            self.assertEqual(data.load("cifar10").labels.tolist(), [5])
            self.assertEqual(data.load("cifar10", data_dir=right).labels.tolist(), [3])


class DigitsTest(absltest.TestCase):
    @pytest.mark.newest
    def test_every_sixth_image_is_a_test_image(self):
        source = datasets.load_digits()
        test, train = data.load("digits"), data.load("digits", split="train")
        np.testing.assert_array_equal(test.images[..., 0] * 16, source.images[::6])
        np.testing.assert_array_equal(test.labels, source.target[::6])
        self.assertEqual((len(test.labels), len(train.labels)), (300, 1497))
        rest = np.delete(source.images, np.s_[::6], axis=0)
        np.testing.assert_array_equal(train.images[..., 0] * 16, rest)
        np.testing.assert_array_equal(
            train.labels, np.delete(source.target, np.s_[::6])
        )
        self.assertEqual((test.images.dtype, test.num_classes), (np.float32, 10))

    def test_missing_library_names_the_extra(self):
        absent = mock.patch.dict(sys.modules, {"sklearn.datasets": None})
        message = r"needs sklearn: pip install 'robustjax\[experiments\]'"
        with absent, self.assertRaisesRegex(ValueError, message):
            data.load("digits")


if __name__ == "__main__":
    absltest.main()
