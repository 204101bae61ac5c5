"""Class folders: one sub-folder a class, in a folder or in a tar archive.

Files are `CLASS/FILE` or, where the data is split, `train/CLASS/FILE` and
`test/CLASS/FILE`. Other files are left alone.
"""

import pathlib
import re
from typing import NamedTuple

import numpy as np

from robustjax.data import dataset, pictures, trees

_LAYOUT = re.compile(r"(?:(train|test)/)?([^/]+)/[^/]+\.(?i:ppm|pgm|png|jpg|jpeg|bmp)")


class _Picture(NamedTuple):
    split: str | None  # None outside train/ and test/
    class_name: str
    file: str
    pixels: np.ndarray  # [h, w, c], uint8


def read(root: pathlib.Path, *, split: str, name: str) -> dataset.Dataset:
    """A data set in class folders of PPM, PNG, JPEG or BMP images.

    [host] Classes are the sub-folders with images, sorted by name, those of `train/`
    and `test/` together, so that a class without test images keeps the labels aligned.
    Images are sorted by file name within their class.

    Args:
        root: the folder, or a tar archive of it (read in memory).
        split: "train" or "test"; without `train/` and `test/` both are all images.
        name: name of the data set.

    Returns:
        The split: 1 channel for grey images, 3 for colour.

    Raises:
        FileNotFoundError: if there is no such folder or no image of the split in it.
        ValueError: if an image is damaged or not of the size of the first.
    """
    found, classes = _read_pictures(root, split)
    if not found:
        raise FileNotFoundError(
            f"No images of the split {split!r} in {root}: expected CLASS/FILE or "
            f"{split}/CLASS/FILE with PPM, PNG or JPEG files"
        )
    found.sort(key=lambda picture: (picture.class_name, picture.file))
    images = pictures.stack(
        [picture.pixels for picture in found],
        sources=[f"{root}/{picture.file}" for picture in found],
    )
    labels = np.array([classes.index(picture.class_name) for picture in found])
    return dataset.from_arrays(images, labels, num_classes=len(classes), name=name)


def _read_pictures(root: pathlib.Path, split: str) -> tuple[list[_Picture], list[str]]:
    found: list[_Picture] = []
    seen: set[tuple[str | None, str]] = set()
    for file, read_content in trees.walk(root):
        match = _LAYOUT.fullmatch(file)
        if match is None:
            continue
        part, class_name = match.groups()
        seen.add((part, class_name))
        if part in (None, split):
            pixels = pictures.decode(read_content(), source=f"{root}/{file}")
            found.append(_Picture(part, class_name, file, pixels))
    is_split = any(part for part, _ in seen)
    chosen = [picture for picture in found if (picture.split is not None) == is_split]
    classes = {name for part, name in seen if (part is not None) == is_split}
    return chosen, sorted(classes)
