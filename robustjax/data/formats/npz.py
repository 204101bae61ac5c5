"""Data sets in NumPy's npz format."""

import pathlib
import zipfile
import zlib

import numpy as np

from robustjax.data import dataset


def read(path: pathlib.Path, *, split: str, name: str) -> dataset.Dataset:
    """A data set in an npz file.

    [host] The arrays are `x_train, y_train, x_test, y_test`, or `images, labels` for
    both splits alike; shapes and types as for `from_arrays`. A scalar `num_classes` is
    optional; without it the largest label in the file + 1 counts.

    Args:
        path: the file; pickled objects in it raise an error.
        split: "train" or "test".
        name: name of the data set.

    Returns:
        The split.

    Raises:
        FileNotFoundError: if there is no such file.
        ValueError: if the file is damaged, an array is missing or is not as expected.
    """
    images, labels = f"x_{split}", f"y_{split}"
    found = _load(path, {images, "y_train", "y_test", "images", "labels"})
    if images not in found:
        images, labels = "images", "labels"
    if images not in found or labels not in found:
        raise ValueError(
            f"{path}: expected arrays x_{split} and y_{split}, or images and labels; "
            f"of these only {sorted(found)} are there."
        )
    return dataset.from_arrays(
        found[images], found[labels], num_classes=_num_classes(found), name=name
    )


def _load(path: pathlib.Path, wanted: set[str]) -> dict[str, np.ndarray]:
    if not path.is_file():
        raise FileNotFoundError(f"No file {path}")
    if not zipfile.is_zipfile(path):
        raise ValueError(f"{path}: expected a complete npz file (a zip archive).")
    try:
        with np.load(path, allow_pickle=False) as archive:
            keys = (wanted | {"num_classes"}) & set(archive.files)
            return {key: archive[key] for key in keys}
    except (zipfile.BadZipFile, zlib.error, EOFError, ValueError) as error:
        reason = str(error).splitlines()[0]
        raise ValueError(
            f"{path}: expected an npz file of plain arrays; {reason}"
        ) from error


def _num_classes(found: dict[str, np.ndarray]) -> int | None:
    """The stated number, or one more than the largest label of either split."""
    if "num_classes" in found:
        value = found["num_classes"]
        if value.ndim or value.dtype.kind not in "iu":
            raise ValueError(
                f"Expected num_classes as one integer, got {value.dtype} {value.shape}."
            )
        return int(value)
    labels = [found[key] for key in ("y_train", "y_test") if key in found]
    if not all(array.size and array.dtype.kind in "iu" for array in labels):
        return None  # from_arrays says what is wrong with them
    return max((int(array.max()) + 1 for array in labels), default=None)
