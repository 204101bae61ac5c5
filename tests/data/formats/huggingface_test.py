"""Tests for `hf:` names with a stand-in for the `datasets` library."""

import io
import pathlib
import sys
import tempfile
import types
from unittest import mock

import numpy as np
import pytest
from absl.testing import absltest, parameterized
from PIL import Image

from robustjax import data

_PIXELS = np.random.default_rng(0).integers(0, 256, (3, 5, 4, 3), np.uint8)


class _Table:
    """Columns by name, and features, as a loaded data set of the library has them."""

    def __init__(self, columns, num_classes=None, files=None):
        self._files = files
        self._columns = columns
        self.column_names = list(columns)
        feature = _Image() if files else types.SimpleNamespace()
        if num_classes:
            feature.num_classes = num_classes
        self.features = dict.fromkeys(columns, feature)

    def __getitem__(self, column):
        return self._columns[column]

    def cast_column(self, column, feature):
        assert not feature.decode
        return _Table({column: self._files})


class _Image:
    """The type of a column of images, decoded or as files."""

    def __init__(self, decode=True):
        self.decode = decode


def _library(table):
    library = types.ModuleType("datasets")
    library.Image = _Image
    library.load_dataset = mock.Mock(
        **{"side_effect" if isinstance(table, Exception) else "return_value": table}
    )
    return mock.patch.dict(sys.modules, datasets=library)


class HuggingFaceTest(parameterized.TestCase):
    @parameterized.product(
        image=("image", "img"), label=("label", "labels", "fine_label")
    )
    def test_pillow_images_and_column_names(self, image, label):
        pictures = [Image.fromarray(pixels) for pixels in _PIXELS]
        table = _Table({"id": [1, 2, 3], image: pictures, label: [4, 0, 2]}, 7)
        with _library(table):
            dataset = data.load("hf:owner/name", split="validation")
            sys.modules["datasets"].load_dataset.assert_called_once_with(
                "owner/name", split="validation"
            )
        expected = _PIXELS.astype(np.float32) / np.float32(255)
        np.testing.assert_array_equal(dataset.images, expected)
        np.testing.assert_array_equal(dataset.labels, [4, 0, 2])
        self.assertEqual((dataset.num_classes, dataset.name), (7, "hf:owner/name"))

    @pytest.mark.newest
    def test_arrays_grey_images_and_unnamed_classes(self):
        grey = _PIXELS[..., 0]
        for images in (list(grey), [Image.fromarray(pixels) for pixels in grey]):
            with _library(_Table({"image": images, "label": [1, 0, 1]})):
                dataset = data.load("hf:grey")
            expected = grey[..., None].astype(np.float32) / np.float32(255)
            np.testing.assert_array_equal(dataset.images, expected)
            self.assertEqual(dataset.num_classes, 2)

    @parameterized.parameters("bytes", "path")
    def test_files_with_16_bits_are_refused(self, kept_as):
        """The library hands on what Pillow opens, which is cut to 8 bits."""
        folder = pathlib.Path(self.enterContext(tempfile.TemporaryDirectory()))
        images, files = [], []
        for index, largest in enumerate((255, 65_535)):
            pixels = _PIXELS[0].astype(">u2" if largest > 255 else np.uint8)
            content = f"P6 4 5 {largest}\n".encode() + pixels.tobytes()
            images.append(Image.open(io.BytesIO(content)))
            path = folder / f"{index}.ppm"
            path.write_bytes(content)
            file = {"bytes": content, "path": None}
            if kept_as == "path":
                file = {"bytes": None, "path": str(path)}
            files.append(file)
        self.assertEqual([image.mode for image in images], ["RGB", "RGB"])
        for count in (1, 2):
            columns = {"image": images[:count], "label": [0, 0][:count]}
            with _library(_Table(columns, 2, files[:count])):
                if count == 1:
                    self.assertLen(data.load("hf:a/b").images, 1)
                    continue
                message = r"hf:a/b\[1\]: expected 8 bits a channel, got 16"
                with self.assertRaisesRegex(ValueError, message):
                    data.load("hf:a/b")

    @parameterized.parameters(
        (
            {"text": ["a"], "label": [0]},
            r"column image or img, got \['text', 'label'\]",
        ),
        ({"image": [_PIXELS[0]], "y": [0]}, "column label or labels or fine_label"),
        ({"img": [_PIXELS[0], _PIXELS[1, :3]], "label": [0, 0]}, r"hf:a/b\[1\]: "),
        ({"img": [_PIXELS[0]], "label": [-1]}, r"hf:a/b: .*labels in .*got -1"),
    )
    def test_bad_columns_are_named(self, columns, message):
        with _library(_Table(columns, 5)), self.assertRaisesRegex(ValueError, message):
            data.load("hf:a/b")

    @parameterized.parameters(
        ConnectionError("no network\nmore text"), ValueError("no network\nmore text")
    )
    def test_failed_download_is_one_line(self, error):
        message = "^hf:a/b: cannot load the split 'test': no network$"
        with _library(error), self.assertRaisesRegex(ValueError, message):
            data.load("hf:a/b")

    def test_missing_library_names_the_extra(self):
        absent = mock.patch.dict(sys.modules, datasets=None)
        message = r"needs datasets: pip install 'robustjax\[hf\]'"
        with absent, self.assertRaisesRegex(ValueError, message):
            data.load("hf:a/b")


if __name__ == "__main__":
    absltest.main()
