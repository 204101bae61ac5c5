"""Tests for the GTSRB reader: a small copy of its layout, and the real subset."""

import pathlib
import tarfile
import tempfile

import numpy as np
import pytest
from absl.testing import absltest, parameterized
from PIL import Image

from robustjax import data
from tests import real_data

_PIXELS = np.random.default_rng(0).integers(0, 256, (6, 32, 32, 3), np.uint8)
_HEADER = "Filename;Width;Height;Roi.X1;Roi.Y1;Roi.X2;Roi.Y2;ClassId"
_CLASSES = (16, 1, 42, 0)


def _unit(pixels):
    return pixels.astype(np.float32) / np.float32(255)


def _ppm(pixels):
    height, width, _ = pixels.shape
    return f"P6\n# resized\n{width} {height}\n255\n".encode() + pixels.tobytes()


class GtsrbTest(parameterized.TestCase):
    def setUp(self):
        super().setUp()
        self.root = pathlib.Path(self.enterContext(tempfile.TemporaryDirectory()))
        self.base = self.root / "gtsrb" / "GTSRB"

    def write(self, file, content):
        path = self.base / file
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(content)

    def write_train(self):
        self.write("Final_Training/Images/00042/00000_00024.ppm", _ppm(_PIXELS[2]))
        self.write("Final_Training/Images/00007/00001_00024.ppm", _ppm(_PIXELS[1]))
        self.write("Final_Training/Images/00007/00000_00024.ppm", _ppm(_PIXELS[0]))
        self.write("Final_Training/Images/00007/GT-00007.csv", _HEADER.encode())

    def write_test(self, answers="Final_Test/GT-final_test.csv", images=(0, 1, 2)):
        rows = [f"{i:05}.ppm;53;54;6;5;48;49;{c}" for i, c in enumerate(_CLASSES)]
        self.write(answers, "\r\n".join([_HEADER, *rows, ""]).encode())
        for index in images:
            self.write(f"Final_Test/Images/{index:05}.ppm", _ppm(_PIXELS[index]))
        # The official image archive has a list without the classes:
        self.write("Final_Test/Images/GT-final_test.test.csv", b"Filename;Width\n")

    def load(self, split="test"):
        return data.load("gtsrb", split=split, data_dir=self.root)

    @pytest.mark.newest
    def test_train(self):
        self.write_train()
        train = self.load("train")
        np.testing.assert_array_equal(train.images, _unit(_PIXELS[:3]))
        np.testing.assert_array_equal(train.labels, [7, 7, 42])
        self.assertEqual((train.num_classes, train.name), (43, "gtsrb"))

    @parameterized.parameters(
        "Final_Test/GT-final_test.csv",
        "Final_Test/Images/GT-final_test.csv",
        "../GT-final_test.csv",
    )
    def test_test_takes_the_rows_that_have_an_image(self, answers):
        self.write_test(answers)
        test = self.load()
        np.testing.assert_array_equal(test.images, _unit(_PIXELS[:3]))
        np.testing.assert_array_equal(test.labels, _CLASSES[:3])

    def test_archive_reads_like_the_folder(self):
        self.write_train()
        self.write_test()
        unpacked = {split: self.load(split) for split in ("train", "test")}
        folder = pathlib.Path(self.enterContext(tempfile.TemporaryDirectory()))
        (folder / "GTSRB").mkdir()
        with tarfile.open(folder / "GTSRB" / "part.tar.xz", "w:xz") as archive:
            archive.add(self.base, arcname="GTSRB")
        for split, expected in unpacked.items():
            packed = data.load("gtsrb", split=split, data_dir=folder)
            self.assertEqual(data.fingerprint(packed), data.fingerprint(expected))
        self.assertEqual(len(list(folder.rglob("*"))), 2)  # nothing was unpacked

    def test_official_sizes_are_resized(self):
        large = np.kron(_PIXELS[0], np.ones((2, 2, 1), np.uint8))[:51, :60]
        self.write("Final_Training/Images/00003/00000_00000.ppm", _ppm(large))
        resized = Image.fromarray(large).resize((32, 32), Image.Resampling.BILINEAR)
        train = self.load("train")
        np.testing.assert_array_equal(train.images[0], _unit(np.asarray(resized)))

    @parameterized.parameters(
        ((0, 2), "first 2 rows .*00001.ppm is only in one"),
        ((0, 1, 5), "first 3 rows .*00002.ppm is only in one"),
        ((0, 1, 2, 3, 5), "first 5 rows .*00005.ppm is only in one"),
    )
    def test_gaps_are_refused(self, images, message):
        self.write_test(images=images)
        with self.assertRaisesRegex(ValueError, message):
            self.load()

    @parameterized.parameters(
        ("Filename,ClassId\n00000.ppm,1\n", "columns Filename and ClassId"),
        ("Filename;ClassId\n00000.ppm;x\n", "columns Filename and ClassId"),
        ("Filename;ClassId\n00000.ppm\n", "columns Filename and ClassId"),
        ("Filename;ClassId\n00000.ppm;43\n", r"labels in \[0, 42\], got 43"),
    )
    def test_bad_lists_are_refused(self, text, message):
        self.write("GT-final_test.csv", text.encode())
        self.write("Final_Test/Images/00000.ppm", _ppm(_PIXELS[0]))
        with self.assertRaisesRegex(ValueError, message):
            self.load()

    def test_missing_parts_are_named(self):
        site = "benchmark.ini.rub.de"
        with self.assertRaisesRegex(FileNotFoundError, f"No folder gtsrb.*{site}"):
            self.load()
        self.write_train()
        with self.assertRaisesRegex(FileNotFoundError, f"Final_Test/Images.*{site}"):
            self.load()
        self.write("Final_Test/Images/00000.ppm", _ppm(_PIXELS[0]))
        message = f"No GT-final_test.csv in .*{site}"
        with self.assertRaisesRegex(FileNotFoundError, message):
            self.load()

    @parameterized.parameters(
        ("Training/Images/00007/1.png", "train"),
        ("Training/Images/00007/1.PPM", "train"),
        ("Training/Images/7/1.ppm", "train"),
        ("Training/Images/00007/more/1.ppm", "train"),
        ("Test/Images/00003.webp", "test"),
        ("Test/Images/00003.jp2", "test"),
    )
    def test_images_of_another_kind_or_place_are_not_passed_over(self, file, split):
        self.write_train()
        self.write_test()
        self.load(split)
        self.write(f"Final_{file}", _ppm(_PIXELS[0]))
        with self.assertRaisesRegex(ValueError, f"Final_{file}: expected .*ppm, got"):
            self.load(split)

    def test_damaged_image_is_named(self):
        self.write("Final_Training/Images/00003/0.ppm", _ppm(_PIXELS[0])[:-1])
        with self.assertRaisesRegex(ValueError, "00003/0.ppm: expected a complete"):
            self.load("train")


class RealGtsrbTest(absltest.TestCase):
    def test_subsets(self):
        folder = real_data.folder("gtsrb").parent
        train = data.load("gtsrb", split="train", data_dir=folder)
        self.assertEqual(train.images.shape, (1307, 32, 32, 3))
        self.assertEqual(np.unique(train.labels).tolist(), list(range(43)))
        test = data.load("gtsrb", data_dir=folder)
        self.assertEqual(test.images.shape, (1000, 32, 32, 3))
        self.assertEqual(test.labels[:2].tolist(), [16, 1])  # as the official list
        self.assertEqual(test.num_classes, 43)
        nearest = _features(test) @ _features(train).T
        accuracy = np.mean(train.labels[nearest.argmax(1)] == test.labels)
        self.assertGreater(accuracy, 0.4)  # chance is 0.06, the largest class


def _features(dataset):
    """Centred unit vectors: their product is the correlation of two images."""
    flat = dataset.images.reshape(len(dataset.images), -1)
    flat = flat - flat.mean(1, keepdims=True)
    return flat / np.linalg.norm(flat, axis=1, keepdims=True)


if __name__ == "__main__":
    absltest.main()
