"""Tests for class folders and archives: image files written here with Pillow."""

import io
import pathlib
import tarfile
import tempfile

import numpy as np
import pytest
from absl.testing import absltest, parameterized
from PIL import Image

from robustjax import data
from robustjax.data import pictures, trees
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

    def assert_pixels(self, dataset, expected):
        expected = expected.astype(np.float32) / np.float32(255)
        np.testing.assert_array_equal(dataset.images, expected)

    @pytest.mark.newest
    def test_classes_and_files_are_sorted_by_name(self):
        self.write("dog/b.ppm", _ppm(_COLOUR[2]))
        self.write("dog/a.png", _encoded(_COLOUR[1], "png"))
        self.write("cat/z.PPM", _ppm(_COLOUR[0]))
        for other in ("dog/notes.txt", "readme.png", "dog/.hidden.png", ".git/x/a.png"):
            self.write(other, b"not an image")
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
        self.write("stray/1.png", _encoded(_COLOUR[4], "png"))
        self.assert_pixels(self.load("train"), _COLOUR[:3])
        test = self.load("test")
        self.assert_pixels(test, _COLOUR[3:4])
        self.assertEqual((test.labels.tolist(), test.num_classes), ([2], 3))

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
                _ = [read() for _, read in trees.walk(path)]
            self.assertNotIn("\n", str(caught.exception))


class PicturesTest(parameterized.TestCase):
    @parameterized.parameters("RGB", "RGBA", "P", "CMYK", "YCbCr")
    def test_colour_modes_give_three_channels(self, mode):
        image = Image.new("RGB", (4, 5), (255, 0, 0)).convert(mode)
        pixels = pictures.pixels(image, source="x")
        self.assertEqual(pixels.shape, (5, 4, 3))
        np.testing.assert_allclose(pixels[2, 2], [255, 0, 0], atol=1)

    @parameterized.parameters("L", "LA", "1")
    def test_grey_modes_give_one_channel(self, mode):
        image = Image.new("L", (4, 5), 255).convert(mode)
        pixels = pictures.pixels(image, source="x")
        np.testing.assert_array_equal(pixels, np.full((5, 4, 1), 255))

    @parameterized.parameters("I;16", "I", "F")
    def test_deep_images_are_refused(self, mode):
        with self.assertRaisesRegex(ValueError, f"x: expected 8 bits.*mode {mode}"):
            pictures.pixels(Image.new(mode, (4, 5)), source="x")

    def test_resizing_is_bilinear(self):
        ramp = np.repeat(np.arange(0, 200, 20, dtype=np.uint8)[None], 10, axis=0)
        pixels = pictures.decode(_encoded(ramp, "png"), source="x", size=(10, 20))
        centres = (np.arange(20) + 0.5) / 2 - 0.5
        expected = np.interp(centres, np.arange(10), ramp[0])
        np.testing.assert_allclose(pixels[4, :, 0], expected, atol=1)
        upright = _encoded(np.repeat(ramp, 2, axis=0), "png")  # height 20, width 10
        pixels = pictures.decode(upright, source="x", size=(10, 20))
        self.assertEqual(pixels.shape, (10, 20, 1))


class RealFolderTest(absltest.TestCase):
    def test_jpeg_pack_is_near_the_lossless_test_batch(self):
        pack = real_data.folder("cifar10-jpeg") / "CIFAR-10-images.tar.xz"
        lossless = data.load("cifar10", data_dir=pack.parents[1])
        cats = lossless.images[lossless.labels == 3]  # file names count inside a class
        found = {}
        for name, read in trees.walk(pack):
            if name.startswith("test/cat/00") and name.endswith(".jpg"):
                found[name] = pictures.decode(read(), source=name)
            if len(found) == 100:
                break
        jpeg = np.stack([found[name] for name in sorted(found)]) / 255
        difference = np.abs(jpeg - cats[:100]).mean(axis=(1, 2, 3))
        self.assertLess(difference.mean(), 7 / 255)
        self.assertLess(difference.max(), 13 / 255)


if __name__ == "__main__":
    absltest.main()
