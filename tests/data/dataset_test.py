"""Tests for data sets made from plain arrays, and for their fingerprint."""

import hashlib
import pathlib
import tempfile

import numpy as np
import pytest
from absl.testing import absltest, parameterized

from robustjax.data import dataset
from robustjax.data.formats import npz

_LABELS = np.array([0, 2])


def _images(*shape, dtype=np.uint8):
    return np.zeros(shape, dtype)


class FromArraysTest(parameterized.TestCase):
    @pytest.mark.newest
    def test_bytes_become_float32_fractions(self):
        every_byte = np.arange(256, dtype=np.uint8).reshape(1, 16, 16)
        data = dataset.from_arrays(every_byte, np.array([0]))
        self.assertEqual(data.images.dtype, np.float32)
        self.assertEqual(data.images.shape, (1, 16, 16, 1))
        exact = np.arange(256, dtype=np.float64) / 255
        np.testing.assert_array_equal(data.images.ravel(), exact.astype(np.float32))

    @parameterized.parameters(np.float16, np.float32, np.float64)
    def test_floats_pass_unchanged(self, dtype):
        images = np.linspace(0, 1, 24).reshape(2, 2, 2, 3).astype(dtype)
        data = dataset.from_arrays(images, _LABELS)
        np.testing.assert_array_equal(data.images, images.astype(np.float32))
        self.assertEqual(data.images.dtype, np.float32)

    @parameterized.parameters(np.uint8, np.int64)
    def test_labels_and_classes(self, dtype):
        for labels in (_LABELS, _LABELS[:, None]):
            data = dataset.from_arrays(_images(2, 4, 4), labels.astype(dtype))
            np.testing.assert_array_equal(data.labels, _LABELS)
            self.assertEqual(data.labels.dtype, np.int32)
            self.assertEqual(data.num_classes, 3)
        more = dataset.from_arrays(_images(2, 4, 4), _LABELS, num_classes=10)
        self.assertEqual(more.num_classes, 10)

    @parameterized.parameters(
        (np.array([0, 2**31]), r"labels in \[0, 2147483647\], got 2147483648"),
        (np.array([2**32, 3]), r"labels in \[0, 2147483647\], got 4294967296"),
        (np.array([2**63 + 3, 3], np.uint64), "got 9223372036854775811"),
        (np.array([-(2**32), 3]), "got -4294967296"),
        (np.array([-1, 3]), "got -1"),
    )
    def test_labels_that_int32_does_not_hold(self, labels, message):
        with self.assertRaisesRegex(ValueError, message):
            dataset.from_arrays(_images(2, 4, 4), labels)
        folder = self.enterContext(tempfile.TemporaryDirectory())
        path = pathlib.Path(folder, "set.npz")
        np.savez(path, images=_images(2, 4, 4), labels=labels)
        with self.assertRaisesRegex(ValueError, message):
            npz.read(path, split="test", name="set")

    @parameterized.parameters(0, -1, 2**31 + 1)
    def test_numbers_of_classes(self, num_classes):
        with self.assertRaisesRegex(
            ValueError, rf"num_classes in .* got {num_classes}"
        ):
            dataset.from_arrays(_images(2, 4, 4), _LABELS, num_classes=num_classes)
        largest = np.array([0, 2**31 - 1])
        data = dataset.from_arrays(_images(2, 4, 4), largest)
        np.testing.assert_array_equal(data.labels, largest)
        self.assertEqual(data.num_classes, 2**31)

    @parameterized.parameters(
        (_images(2, 3, 8, 8), _LABELS, r"photos: .*channels last.*\(2, 3, 8, 8\)"),
        (_images(2, 64), _LABELS, r"photos: .*\(2, 64\)"),
        (_images(0, 4, 4), _LABELS[:0], "photos: expected at least one image"),
        (_images(2, 4, 4, dtype=np.int32), _LABELS, "uint8 or floats.*int32"),
        (_images(2, 4, 4, dtype=bool), _LABELS, "uint8 or floats.*bool"),
        (np.full((2, 4, 4), 255.0), _LABELS, r"photos in \[0, 1\].*255"),
        (np.full((2, 4, 4), np.nan), _LABELS, r"photos in \[0, 1\].*nan"),
        (np.full((2, 4, 4), -1e-3), _LABELS, r"photos in \[0, 1\].*-0.001"),
        (_images(3, 4, 4), _LABELS, "equal lengths.*photos': 3.*photos': 2"),
        (_images(2, 4, 4), _LABELS / 1.0, "labels as integers.*float64"),
        (_images(2, 4, 4), np.eye(2, dtype=int), r"labels as integers.*\(2, 2\)"),
        (_images(2, 4, 4), np.array([0, -1]), r"labels in \[0, 3\], got -1"),
        (_images(2, 4, 4), np.array([0, 4]), r"labels in \[0, 3\], got 4"),
    )
    def test_bad_arrays_are_named(self, images, labels, message):
        with self.assertRaisesRegex(ValueError, message) as caught:
            dataset.from_arrays(images, labels, num_classes=4, name="photos")
        self.assertNotIn("\n", str(caught.exception))


class FingerprintTest(parameterized.TestCase):
    def test_definition(self):
        images = np.linspace(0, 1, 8, dtype=np.float32).reshape(2, 2, 2, 1)
        data = dataset.from_arrays(images, _LABELS)
        text = b"float32(2, 2, 2, 1)" + images.astype("<f4").tobytes()
        text += b"int32(2,)" + _LABELS.astype("<i4").tobytes()
        self.assertEqual(dataset.fingerprint(data), hashlib.sha256(text).hexdigest())

    def test_depends_on_the_data_alone(self):
        images = np.arange(32, dtype=np.uint8).reshape(2, 4, 4, 1)
        first = dataset.from_arrays(images, _LABELS, name="one")
        same = dataset.from_arrays(images / np.float32(255), _LABELS, name="two")
        flipped = first._replace(images=first.images[:, ::-1, ::-1])
        others = [
            first._replace(images=first.images.reshape(2, 2, 8, 1)),
            first._replace(labels=np.array([0, 1], np.int32)),
            first._replace(images=np.nextafter(first.images, 2)),
            flipped,
        ]
        prints = [dataset.fingerprint(data) for data in (first, *others)]
        self.assertLen(set(prints), 5)
        self.assertEqual(dataset.fingerprint(same), prints[0])
        copied = flipped._replace(images=flipped.images.copy())  # other memory order
        self.assertEqual(dataset.fingerprint(copied), prints[-1])


if __name__ == "__main__":
    absltest.main()
