"""Tests for class folders and archives: image files written here with Pillow."""

import io
import os
import pathlib
import tarfile
import tempfile
from unittest import mock

import numpy as np
import pytest
from absl.testing import absltest, parameterized
from PIL import Image

from robustjax import data
from robustjax.data.formats import archives, image_files
from tests import real_data

_RNG = np.random.default_rng(0)
_COLOUR = _RNG.integers(0, 256, (6, 5, 4, 3), np.uint8)
_GREY = _COLOUR[..., 0]


def _ppm(pixels):
    """A binary PPM by its definition, with a comment in the header."""
    height, width, _ = pixels.shape
    return f"P6\n# made here\n{width} {height}\n255\n".encode() + pixels.tobytes()


def _encoded(pixels, kind, **options):
    buffer = io.BytesIO()
    Image.fromarray(pixels).save(buffer, kind, **options)
    return buffer.getvalue()


class FoldersTest(parameterized.TestCase):
    def setUp(self):
        super().setUp()
        self.root = pathlib.Path(self.enterContext(tempfile.TemporaryDirectory()))

    def write(self, file, content):
        path = self.root / file
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(content)

    def load(self, split="test"):
        return data.load(f"folder:{self.root}", split=split)

    def load_packed(self, with_folders=True):
        """The same tree as an archive, with or without entries for its folders."""
        path = pathlib.Path(self.enterContext(tempfile.TemporaryDirectory()), "x.tar")
        with tarfile.open(path, "w") as archive:
            for file in sorted(self.root.rglob("*")):
                if with_folders or file.is_file():
                    name = file.relative_to(self.root).as_posix()
                    archive.add(file, arcname=name, recursive=False)
        return data.load(f"folder:{path}")

    def assert_pixels(self, dataset, expected):
        expected = expected.astype(np.float32) / np.float32(255)
        np.testing.assert_array_equal(dataset.images, expected)

    @pytest.mark.newest
    def test_classes_and_files_are_sorted_by_name(self):
        self.write("dog/b.ppm", _ppm(_COLOUR[2]))
        self.write("dog/a.png", _encoded(_COLOUR[1], "png"))
        self.write("cat/z.PPM", _ppm(_COLOUR[0]))
        dataset = self.load()
        self.assert_pixels(dataset, _COLOUR[:3])
        np.testing.assert_array_equal(dataset.labels, [0, 1, 1])
        self.assertEqual(dataset.num_classes, 2)
        self.assert_pixels(self.load("train"), _COLOUR[:3])  # nothing is split here

    def test_split_folders_share_their_classes(self):
        self.write("train/a/1.png", _encoded(_COLOUR[0], "png"))
        self.write("train/b/1.png", _encoded(_COLOUR[1], "png"))
        self.write("train/c/1.png", _encoded(_COLOUR[2], "png"))
        self.write("test/c/1.png", _encoded(_COLOUR[3], "png"))
        self.write("stray/1.png", b"is not even opened")
        self.write("stray/2.avif", b"nor is this")
        with pytest.warns(UserWarning, match=": 2 files .*: stray/1.png, stray/2"):
            self.assert_pixels(self.load("train"), _COLOUR[:3])
        with pytest.warns(UserWarning, match=": 2 files .*: stray/1.png, stray/2"):
            test = self.load("test")
        self.assert_pixels(test, _COLOUR[3:4])
        self.assertEqual((test.labels.tolist(), test.num_classes), ([2], 3))

    @parameterized.parameters("webp", "tiff", "TIF", "bmp", "gif", "png", "ppm")
    def test_classes_in_another_format_keep_their_label(self, suffix):
        kind = {"TIF": "tiff"}.get(suffix, suffix)
        options = {"lossless": True} if kind == "webp" else {}
        flat = [np.full((4, 4, 3), value, np.uint8) for value in (0, 80, 160)]
        self.write("a/1.png", _encoded(flat[0], "png"))
        self.write(f"b/1.{suffix}", _encoded(flat[1], kind, **options))
        self.write("c/1.png", _encoded(flat[2], "png"))
        dataset = self.load()
        self.assertEqual((dataset.labels.tolist(), dataset.num_classes), ([0, 1, 2], 3))
        self.assert_pixels(dataset, np.stack(flat))

    @parameterized.product(
        file=("1.avif", "1.JP2", "1.heic", "1.svg", "2.tga"), packed=(False, True)
    )
    def test_images_that_are_not_read_are_named(self, file, packed):
        for name in ("a/1.png", "b/1.png"):
            self.write(name, _encoded(_COLOUR[0], "png"))
        self.write(f"b/{file}", b"image")
        message = f"expected images as .*webp, got b/{file}; convert"
        with self.assertRaisesRegex(ValueError, message):
            self.load_packed() if packed else self.load()

    @parameterized.product(
        files=(
            ("b/notes.txt",),
            ("b/.1.png",),
            ("b/sub/1.png",),
            ("b/1.npy", "b/2.npy"),
            ("b/img1",),
            ("b/1.png/2.png",),
        ),
        packed=("", "with folders", "files alone"),
    )
    def test_class_folders_without_images_are_named(self, files, packed):
        for name in ("a/1.png", "c/1.png"):
            self.write(name, _encoded(_COLOUR[0], "png"))
        for name in files:
            self.write(name, b"x")
        message = "in every class folder, got none in b[.]$"
        with self.assertRaisesRegex(ValueError, message):
            self.load_packed(packed == "with folders") if packed else self.load()

    @parameterized.product(empty=("b", "train/b", "test/b"), packed=(False, True))
    def test_empty_class_folders_are_named(self, empty, packed):
        split, _, _ = empty.rpartition("/")
        other = {"train": "test", "test": "train"}.get(split, "")
        for part, name in ((split, "a"), (other, "a"), (other, "b")):
            if part == split != "" or name == "a":
                file = pathlib.PurePosixPath(part, name, "1.png").as_posix()
                self.write(file, _encoded(_COLOUR[0], "png"))
        (self.root / empty).mkdir(parents=True)
        with self.assertRaisesRegex(ValueError, f"got none in {empty}[.]$"):
            self.load_packed() if packed else self.load()

    @parameterized.parameters("", "with folders", "files alone")
    def test_files_that_are_left_out_are_counted_and_named(self, packed):
        for name in ("a/1.png", "b/1.png"):
            self.write(name, _encoded(_COLOUR[0], "png"))
        others = [".DS_Store", ".git/x/a.png", "a/.1.png", "a/Thumbs.db", "a/x/2.png"]
        for name in [*others, "b/notes.txt", "readme.png"]:
            self.write(name, b"x")
        message = f": 7 files .* left out: {', '.join(others)} and 2 more[.]$"
        with pytest.warns(UserWarning, match=message) as caught:
            dataset = (
                self.load_packed(packed == "with folders") if packed else self.load()
            )
        self.assertEqual((dataset.labels.tolist(), dataset.num_classes), ([0, 1], 2))
        self.assertEqual(caught[0].filename, __file__)

    def test_a_class_may_be_called_train(self):
        for index, name in enumerate(("car", "test", "train")):
            self.write(f"{name}/1.png", _encoded(_COLOUR[index], "png"))
        dataset = self.load()
        self.assert_pixels(dataset, _COLOUR[:3])
        self.assertEqual(dataset.labels.tolist(), [0, 1, 2])
        self.write("train/2.jp2", b"x")
        with self.assertRaisesRegex(ValueError, "got train/2.jp2"):
            self.load()

    @parameterized.parameters("png", "ppm", "bmp")
    def test_grey_images_have_one_channel(self, kind):
        suffix = "pgm" if kind == "ppm" else kind
        self.write(f"a/1.{suffix}", _encoded(_GREY[0], kind))
        self.assert_pixels(self.load(), _GREY[:1, :, :, None])

    def test_jpeg_is_read(self):
        flat = np.full((8, 8, 3), (200, 100, 50), np.uint8)
        self.write("a/1.jpg", _encoded(flat, "jpeg", quality=95))
        np.testing.assert_allclose(self.load().images[0], flat / 255, atol=2.1 / 255)

    def test_archive_reads_like_the_folder(self):
        for split, index in (("train", 0), ("test", 3)):
            self.write(f"{split}/b/1.ppm", _ppm(_COLOUR[index]))
            self.write(f"{split}/a/1.ppm", _ppm(_COLOUR[index + 1]))
        path = pathlib.Path(
            self.enterContext(tempfile.TemporaryDirectory()), "all.tar.xz"
        )
        with tarfile.open(path, "w:xz") as archive:
            archive.add(self.root, arcname=".")
        for split in ("train", "test"):
            packed = data.load(f"folder:{path}", split=split)
            self.assertEqual(
                data.fingerprint(packed), data.fingerprint(self.load(split))
            )

    @parameterized.named_parameters(
        ("size", _ppm(_COLOUR[0, :, :3]), r"a/2.ppm: .*\(5, 4, 3\).*got \(5, 3, 3\)"),
        ("grey", b"P5 4 5 255\n" + _GREY[0].tobytes(), r"a/2.ppm: .*\(5, 4, 1\)"),
        ("truncated", _ppm(_COLOUR[0])[:-7], "a/2.ppm: expected a complete image"),
        ("text", b"hello", "a/2.ppm: expected a complete image"),
        ("empty", b"", "a/2.ppm: expected a complete image"),
        ("bad_header", b"P6 x y 255\n", "a/2.ppm: expected a complete image"),
        (
            "deep",
            _encoded(np.full((5, 4), 7_000, np.uint16), "png"),
            "a/2.ppm: expected 8 bits",
        ),
    )
    def test_bad_images_are_named(self, content, message):
        self.write("a/1.ppm", _ppm(_COLOUR[0]))
        self.write("a/2.ppm", content)
        with self.assertRaisesRegex(ValueError, message):
            self.load()

    def test_missing_images_are_explained(self):
        with self.assertRaisesRegex(FileNotFoundError, "No images.*expected CLASS/"):
            self.load()
        self.write("train/a/1.ppm", _ppm(_COLOUR[0]))
        with self.assertRaisesRegex(FileNotFoundError, "split 'test'.*test/CLASS"):
            self.load()
        with self.assertRaisesRegex(FileNotFoundError, "No /no/such in"):
            data.load("folder:/no/such")

    @parameterized.parameters("", "gz")
    def test_links_and_newer_copies_in_archives_read_as_when_unpacked(
        self, compression
    ):
        path = self.root / "linked.tar"
        with tarfile.open(path, f"w:{compression}") as archive:
            for name, index in (("b/1.ppm", 5), ("a/1.ppm", 0), ("b/1.ppm", 1)):
                content = _ppm(_COLOUR[index])
                info = tarfile.TarInfo(name)
                info.size = len(content)
                archive.addfile(info, io.BytesIO(content))
            for name, kind, target in (
                ("c/1.ppm", tarfile.LNKTYPE, "a/1.ppm"),
                ("d/1.ppm", tarfile.SYMTYPE, "../a/1.ppm"),
            ):
                info = tarfile.TarInfo(name)
                info.type, info.linkname = kind, target
                archive.addfile(info)
        dataset = data.load(f"folder:{path}")
        self.assert_pixels(dataset, _COLOUR[[0, 1, 0, 0]])
        self.assertEqual(dataset.labels.tolist(), [0, 1, 2, 3])

    @parameterized.parameters(
        ("c", "a"), ("c/1.ppm", "../a/2.ppm"), ("c/1.ppm", "/etc/hostname")
    )
    def test_links_that_name_no_file_of_the_archive_are_refused(self, name, target):
        path = self.root / "linked.tar"
        with tarfile.open(path, "w") as archive:
            content = _ppm(_COLOUR[0])
            info = tarfile.TarInfo("a/1.ppm")
            info.size = len(content)
            archive.addfile(info, io.BytesIO(content))
            info = tarfile.TarInfo(name)
            info.type, info.linkname = tarfile.SYMTYPE, target
            archive.addfile(info)
        with self.assertRaisesRegex(ValueError, f"linked.tar: expected {name} to be a"):
            data.load(f"folder:{path}")

    def test_folders_that_cannot_be_listed_are_not_passed_over(self):
        self.write("a/1.png", _encoded(_COLOUR[0], "png"))
        self.write("b/1.png", _encoded(_COLOUR[1], "png"))
        scandir = os.scandir

        def refuse(path):
            if pathlib.Path(path).name == "b":
                raise PermissionError(13, "Permission denied", str(path))
            return scandir(path)

        with (
            mock.patch.object(os, "scandir", refuse),
            self.assertRaisesRegex(PermissionError, "/b'"),
        ):
            self.load()

    @parameterized.parameters("", "gz", "xz")
    def test_damaged_archive_is_named(self, compression):
        path = self.root / "cut.tar"
        with tarfile.open(path, f"w:{compression}") as archive:
            for index in range(3):
                info = tarfile.TarInfo(f"a/{index}.ppm")
                info.size = 30_000
                archive.addfile(info, io.BytesIO(_RNG.bytes(info.size)))
        content = path.read_bytes()
        garbled = bytearray(content)
        garbled[30_720 : 30_720 + 8] = b"\xff" * 8  # the second header, or its bytes
        ends = (0, 40, 31_000, 61_440, 90_000, -1 if compression else 92_160)
        for damaged in (garbled, *(content[:end] for end in ends)):
            path.write_bytes(damaged)
            message = "cut.tar: expected a complete tar archive.*[)].$"
            with self.assertRaisesRegex(ValueError, message) as caught:
                _ = [read() for _, read in archives.walk(path)]
            self.assertNotIn("\n", str(caught.exception))


class RealFolderTest(absltest.TestCase):
    def test_jpeg_pack_is_near_the_lossless_test_batch(self):
        pack = real_data.folder("cifar10-jpeg") / "CIFAR-10-images.tar.xz"
        lossless = data.load("cifar10", data_dir=pack.parents[1])
        cats = lossless.images[lossless.labels == 3]  # file names count inside a class
        found = {}
        for name, read in archives.walk(pack):
            if name.startswith("test/cat/00") and name.endswith(".jpg"):
                found[name] = image_files.decode(read(), source=name)
            if len(found) == 100:
                break
        jpeg = np.stack([found[name] for name in sorted(found)]) / 255
        difference = np.abs(jpeg - cats[:100]).mean(axis=(1, 2, 3))
        self.assertLess(difference.mean(), 7 / 255)
        self.assertLess(difference.max(), 13 / 255)


if __name__ == "__main__":
    absltest.main()
