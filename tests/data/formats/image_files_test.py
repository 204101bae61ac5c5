"""Tests for image files: written here byte by byte, and by Pillow."""

import io
import struct
import zlib

import numpy as np
import pytest
from absl.testing import absltest, parameterized
from PIL import Image

from robustjax.data.formats import image_files


def _encoded(pixels, kind, **options):
    image = pixels if isinstance(pixels, Image.Image) else Image.fromarray(pixels)
    buffer = io.BytesIO()
    image.save(buffer, kind, **options)
    return buffer.getvalue()


def _png(rows, *, bits, color):
    """A PNG by its definition; rows hold their bytes."""

    def chunk(name, body):
        check = zlib.crc32(name + body)
        return struct.pack(">I", len(body)) + name + body + struct.pack(">I", check)

    header = struct.pack(">IIBBBBB", 2, len(rows), bits, color, 0, 0, 0)
    body = zlib.compress(b"".join(b"\0" + row for row in rows))
    chunks = chunk(b"IHDR", header) + chunk(b"IDAT", body) + chunk(b"IEND", b"")
    return b"\x89PNG\r\n\x1a\n" + chunks


def _tiff(bits, *, photometric, order="<", kind=1, extra=()):
    """A TIFF of one pixel by its definition, uncompressed; bits of each sample."""
    num_bytes = sum(bits) // 8
    values = [(256, [1]), (257, [1]), (258, bits), (259, [1]), (262, [photometric])]
    values += [(273, [8]), (277, [len(bits)]), (278, [1]), (279, [num_bytes])]
    if extra:
        values.append((338, extra))
    values.append((339, [kind] * len(bits)))
    pixel = bytes(range(100, 100 + num_bytes)).ljust(16, b"\0")
    start = 8 + len(pixel)  # of the directory
    end, tables, entries = start + 2 + 12 * len(values) + 4, b"", b""
    for tag, numbers in values:
        packed = struct.pack(f"{order}{len(numbers)}H", *numbers)
        if len(packed) > 4:
            place = struct.pack(f"{order}I", end + len(tables))
            tables += packed
        else:
            place = packed.ljust(4, b"\0")
        entries += struct.pack(f"{order}HHI", tag, 3, len(numbers)) + place
    magic = (b"II" if order == "<" else b"MM") + struct.pack(f"{order}HI", 42, start)
    directory = struct.pack(f"{order}H", len(values)) + entries + bytes(4)
    return magic + pixel + directory + tables


class DepthTest(parameterized.TestCase):
    @parameterized.named_parameters(
        ("grey", 0, 1), ("colour", 2, 3), ("grey_alpha", 4, 2), ("colour_alpha", 6, 4)
    )
    @pytest.mark.newest
    def test_png(self, color, channels):
        rows = [bytes(range(i, i + 2 * channels)) for i in (0, 50)]
        shallow = image_files.decode(_png(rows, bits=8, color=color), source="x")
        stored = np.array([list(row) for row in rows]).reshape(2, 2, channels)
        num_kept = 3 if channels > 2 else 1
        np.testing.assert_array_equal(shallow, stored[..., :num_kept])
        deep = _png([2 * row for row in rows], bits=16, color=color)
        with self.assertRaisesRegex(ValueError, "x: expected 8 bits .*, got 16[.]"):
            image_files.decode(deep, source="x")

    @parameterized.parameters((1, 0b01 << 6), (2, 0b0010 << 4), (4, 0b00000101))
    def test_fewer_bits_are_scaled(self, bits, row):
        pixels = image_files.decode(
            _png([bytes([row])], bits=bits, color=0), source="x"
        )
        largest = 2**bits - 1
        second = (row >> (8 - 2 * bits)) & largest
        self.assertEqual(pixels.ravel().tolist(), [0, second * 255 // largest])

    @parameterized.product(
        magic=("P2", "P3", "P5", "P6"),
        largest=(255, 15, 256, 1_023, 4_095, 65_535),
        comment=("", "# 2 1 255\n", "#\r# 255\n"),
    )
    def test_ppm(self, magic, largest, comment):
        num_values = 6 if magic in ("P3", "P6") else 2
        content = f"{magic}\n{comment}2 {comment}1\n{largest}\n".encode()
        if magic in ("P2", "P3"):
            content += b" ".join([str(largest).encode()] * num_values)
        else:
            content += num_values * (
                struct.pack(">H", largest) if largest > 255 else bytes([largest])
            )
        if largest <= 255:
            pixels = image_files.decode(content, source="x")
            np.testing.assert_array_equal(pixels.ravel(), num_values * [255])
        else:
            bits = {256: 9, 1_023: 10, 4_095: 12, 65_535: 16}[largest]
            with self.assertRaisesRegex(ValueError, f"x: .* channel, got {bits}[.]"):
                image_files.decode(content, source="x")

    @parameterized.parameters(b"P1\n# 1 is black\n3 1\n0 1 0", b"P4\n3 1\n\x40")
    def test_pbm(self, content):
        pixels = image_files.decode(content, source="x")
        self.assertEqual(pixels.ravel().tolist(), [255, 0, 255])

    @parameterized.product(
        kind=((1, 1), (2, 3), (2, 4), (5, 4)), order=("<", ">"), bits=(8, 16)
    )
    def test_tiff(self, kind, order, bits):
        photometric, channels = kind
        content = _tiff([bits] * channels, photometric=photometric, order=order)
        if bits == 8:
            pixels = image_files.decode(content, source="x").ravel()
            if photometric == 5:  # as K = 103 of 255 remain
                expected = [(255 - c) * (255 - 103) / 255 for c in (100, 101, 102)]
                np.testing.assert_allclose(pixels, expected, atol=1)
            else:
                self.assertEqual(pixels.tolist(), list(range(100, 103))[: len(pixels)])
        else:
            with self.assertRaisesRegex(ValueError, "x: .* channel, got 16[.]"):
                image_files.decode(content, source="x")

    @parameterized.named_parameters(
        ("signed", _tiff([8], photometric=1, kind=2), "integers with a sign"),
        ("5_channels", _tiff([8] * 5, photometric=2, extra=[0, 0]), "5 channels"),
        ("12_bits", _tiff([12], photometric=1), "12[.]"),
        ("32_bits", _tiff([32], photometric=1), "32[.]"),
        ("floats", _tiff([32], photometric=1, kind=3), "32[.]"),
        ("pfm", b"Pf 1 1 -1.0\n" + bytes(4), "32[.]"),
        ("cielab", _tiff([8] * 3, photometric=8), "mode LAB"),
    )
    def test_other_samples(self, content, message):
        with self.assertRaisesRegex(ValueError, f"x: expected 8 bits.*got .*{message}"):
            image_files.decode(content, source="x")

    def test_jpeg_of_12_bits(self):
        content = bytearray(_encoded(np.zeros((8, 8, 3), np.uint8), "jpeg"))
        content[content.index(b"\xff\xc0") + 4] = 12
        with self.assertRaisesRegex(ValueError, "x: expected a complete image file"):
            image_files.decode(bytes(content), source="x")


class KindsTest(parameterized.TestCase):
    @parameterized.parameters("gif", "png", "webp", "tiff")
    def test_several_frames_are_refused(self, kind):
        frames = [Image.new("RGB", (4, 5), (60 * i, 0, 0)) for i in range(3)]
        pixels = image_files.decode(_encoded(frames[0], kind), source="x")
        self.assertEqual(pixels.shape, (5, 4, 3))
        moving = _encoded(frames[0], kind, save_all=True, append_images=frames[1:])
        message = "x: expected one picture a file, got 3 frames or pages[.]"
        with self.assertRaisesRegex(ValueError, message):
            image_files.decode(moving, source="x")

    def test_previews_in_a_jpeg_do_not_matter(self):
        main, preview = Image.new("RGB", (16, 8), (200, 0, 0)), Image.new("RGB", (4, 2))
        content = _encoded(main, "mpo", save_all=True, append_images=[preview])
        pixels = image_files.decode(content, source="x")
        self.assertEqual(pixels.shape, (8, 16, 3))
        np.testing.assert_allclose(pixels[0, 0], [200, 0, 0], atol=3)

    def test_orientation_is_not_applied(self):
        exif = Image.Exif()
        exif[0x0112] = 6  # turn by 90 degrees to look at it
        stored = np.arange(24, dtype=np.uint8).reshape(2, 4, 3)
        pixels = image_files.decode(_encoded(stored, "png", exif=exif), source="x")
        np.testing.assert_array_equal(pixels, stored)

    @parameterized.parameters(b"\0\0\0", 1)
    def test_transparency_is_dropped(self, transparency):
        image = Image.new("P", (2, 1), 1)
        image.putpalette([9, 9, 9, 10, 20, 30])
        content = _encoded(image, "png", transparency=transparency)
        self.assertIn("transparency", Image.open(io.BytesIO(content)).info)
        pixels = image_files.decode(content, source="x")
        self.assertEqual(pixels.tolist(), [[[10, 20, 30]] * 2])

    @parameterized.parameters("ico", "tga", "jpeg2000", "pcx")
    def test_other_kinds_of_content_are_refused(self, kind):
        content = _encoded(np.zeros((16, 16, 3), np.uint8), kind)
        with self.assertRaisesRegex(ValueError, "x: expected .* as BMP.*another kind"):
            image_files.decode(content, source="x")

    def test_names(self):
        self.assertTrue(image_files.is_readable("a/B.c.TiFF"))
        self.assertTrue(image_files.is_other_image("a/b.AVIF"))
        for name in ("png", "a.png/b", "a.txt", ".png", "Thumbs.db", "a."):
            self.assertFalse(image_files.is_readable(name), name)
            self.assertFalse(image_files.is_other_image(name), name)

    def test_every_kind_that_pillow_opens_is_read_or_named(self):
        Image.init()
        no_images = {"bufr", "grib", "h5", "hdf", "iim", "mpeg", "mpg"}
        for suffix, kind in Image.registered_extensions().items():
            known = image_files.is_readable(f"x{suffix}") + image_files.is_other_image(
                f"x{suffix}"
            )
            if kind in Image.OPEN and suffix[1:] not in no_images:
                self.assertEqual(known, 1, suffix)


class ModesTest(parameterized.TestCase):
    @parameterized.parameters("RGB", "RGBA", "P", "CMYK", "YCbCr")
    def test_colour_modes_give_three_channels(self, mode):
        image = Image.new("RGB", (4, 5), (255, 0, 0)).convert(mode)
        pixels = image_files.pixels(image, source="x")
        self.assertEqual(pixels.shape, (5, 4, 3))
        np.testing.assert_allclose(pixels[2, 2], [255, 0, 0], atol=1)

    @parameterized.parameters("L", "LA", "1")
    def test_grey_modes_give_one_channel(self, mode):
        image = Image.new("L", (4, 5), 255).convert(mode)
        pixels = image_files.pixels(image, source="x")
        np.testing.assert_array_equal(pixels, np.full((5, 4, 1), 255))

    @parameterized.parameters("I;16", "I", "F")
    def test_deep_images_are_refused(self, mode):
        with self.assertRaisesRegex(ValueError, f"x: expected 8 bits.*mode {mode}"):
            image_files.pixels(Image.new(mode, (4, 5)), source="x")

    def test_resizing_is_bilinear(self):
        ramp = np.repeat(np.arange(0, 200, 20, dtype=np.uint8)[None], 10, axis=0)
        pixels = image_files.decode(_encoded(ramp, "png"), source="x", size=(10, 20))
        centres = (np.arange(20) + 0.5) / 2 - 0.5
        expected = np.interp(centres, np.arange(10), ramp[0])
        np.testing.assert_allclose(pixels[4, :, 0], expected, atol=1)
        upright = _encoded(np.repeat(ramp, 2, axis=0), "png")  # height 20, width 10
        pixels = image_files.decode(upright, source="x", size=(10, 20))
        self.assertEqual(pixels.shape, (10, 20, 1))


if __name__ == "__main__":
    absltest.main()
