"""Tests for the npz reader on files written here."""

import os
import pathlib
import pickle
import tempfile
from unittest import mock

import numpy as np
import pytest
from absl.testing import absltest, parameterized

from robustjax import data
from robustjax.data.formats import npz

_X = np.arange(5 * 4 * 4, dtype=np.uint8).reshape(5, 4, 4)
_Y = np.array([0, 1, 2, 1, 0])
_KERAS = {"x_train": _X, "y_train": _Y, "x_test": _X[:2], "y_test": _Y[:2]}


class ArraysTest(parameterized.TestCase):
    def setUp(self):
        super().setUp()
        self.folder = pathlib.Path(self.enterContext(tempfile.TemporaryDirectory()))
        self.path = self.folder / "mine.npz"

    def save(self, **content):
        np.savez_compressed(self.path, **content)

    def load(self, split="test"):
        return data.load(str(self.path), split=split)

    def test_a_number_of_classes_that_is_none(self):
        self.save(images=_X, labels=_Y, num_classes=[3])
        with self.assertRaisesRegex(
            ValueError, r"num_classes as one integer, .*\(1,\)"
        ):
            self.load()

    @parameterized.parameters(("train", 5), ("test", 2))
    def test_keras_names(self, split, count):
        self.save(**_KERAS)
        dataset = self.load(split)
        expected = _X[:count, :, :, None].astype(np.float32) / np.float32(255)
        np.testing.assert_array_equal(dataset.images, expected)
        np.testing.assert_array_equal(dataset.labels, _Y[:count])
        self.assertEqual(dataset.num_classes, 3)  # of the file: the test part has 2

    @parameterized.parameters("train", "test")
    def test_images_and_labels(self, split):
        pictures = np.linspace(0, 1, 5 * 48).reshape(5, 4, 4, 3)
        self.save(images=pictures, labels=_Y[:, None])
        dataset = self.load(split)
        np.testing.assert_array_equal(dataset.images, pictures.astype(np.float32))
        self.assertEqual(dataset.num_classes, 3)

    def test_number_of_classes_may_be_stated(self):
        self.save(images=_X, labels=_Y, num_classes=10)
        self.assertEqual(self.load().num_classes, 10)

    @pytest.mark.newest
    def test_relative_path_counts_from_the_data_folder_too(self):
        self.save(**_KERAS)
        given = data.load("mine.npz", data_dir=self.folder)
        with mock.patch.dict(os.environ, ROBUSTJAX_DATA_DIR=str(self.folder)):
            found = data.load("mine.npz")
        self.assertEqual(given.name, "mine.npz")
        self.assertEqual(data.fingerprint(found), data.fingerprint(given))

    @parameterized.parameters(
        ({"x": _X}, r"x_test and y_test, or images and labels; .*\[\]"),
        ({"x_test": _X, "labels": _Y}, r"of these only \['labels', 'x_test'\]"),
        ({"images": _X, "labels": _Y[:3]}, "labels of .*: 3"),
        ({"images": _X, "labels": _Y / 2}, "labels as integers"),
        ({"x_test": _X, "y_test": _Y / 2}, "labels as integers"),
        ({"images": _X.astype(float), "labels": _Y}, r"in \[0, 1\], got a value 2"),
        ({"images": np.zeros((5, 3, 8, 8), np.uint8), "labels": _Y}, "channels last"),
        ({"images": _X, "labels": _Y, "num_classes": 2}, r"labels in \[0, 1\], got 2"),
    )
    def test_bad_content_is_named(self, content, message):
        self.save(**content)
        with self.assertRaisesRegex(ValueError, f"{self.path}.*{message}"):
            self.load()

    def test_pickled_objects_are_refused(self):
        objects = np.array([{"a": 1}, None], dtype=object)
        np.savez(self.path, images=objects, labels=_Y)
        with self.assertRaisesRegex(ValueError, f"{self.path}: .*plain arrays; Object"):
            self.load()
        self.path.write_bytes(pickle.dumps(_KERAS))
        with self.assertRaisesRegex(ValueError, f"{self.path}: .*a zip archive"):
            self.load()

    def test_damaged_file_is_named(self):
        self.save(**_KERAS)
        content = bytearray(self.path.read_bytes())
        for cut in (0, 10, len(content) // 2, len(content) - 1):
            self.path.write_bytes(content[:cut])
            with self.assertRaisesRegex(ValueError, f"{self.path}: expected"):
                self.load()
        content[content.index(b"x_test.npy") + 60] ^= 0xFF  # in the compressed pixels
        self.path.write_bytes(content)
        with self.assertRaisesRegex(ValueError, f"{self.path}: expected an npz"):
            self.load()

    def test_missing_file_says_where_it_was_looked_for(self):
        message = f"No lost.npz in .* or {self.folder}; .*data_dir or ROBUSTJAX"
        with self.assertRaisesRegex(FileNotFoundError, message):
            data.load("lost.npz", data_dir=self.folder)
        with self.assertRaisesRegex(FileNotFoundError, f"No file {self.path}"):
            npz.read(self.path, split="test", name="mine")


if __name__ == "__main__":
    absltest.main()
