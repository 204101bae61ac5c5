"""Image data sets of the HuggingFace hub, for users with a network or its cache."""

import pathlib
from typing import Any

import numpy as np

from robustjax.data import dataset, optional
from robustjax.data.formats import image_files

_IMAGE_COLUMNS = ("image", "img")
_LABEL_COLUMNS = ("label", "labels", "fine_label")


def read(dataset_id: str, *, split: str) -> dataset.Dataset:
    """One split of an image classification data set on the hub.

    [host]

    Args:
        dataset_id: name on the hub, such as "uoft-cs/cifar10". Code in the repository
            of the data set is never run.
        split: a split of that data set, usually "train" or "test".

    Returns:
        The split, from the column `image` or `img` (8-bit images of one size) and the
        column `label`, `labels` or `fine_label`; called `hf:<dataset_id>`.

    Raises:
        ValueError: if the library `datasets` is not installed, the data set or split
            cannot be loaded, or a column is missing or not as expected.
    """
    library = optional.require("datasets", extra="hf")
    name = f"hf:{dataset_id}"
    try:
        table = library.load_dataset(dataset_id, split=split)
    except (OSError, ValueError) as error:  # the library's texts have several lines
        reason = str(error).partition("\n")[0]
        raise ValueError(
            f"{name}: cannot load the split {split!r}: {reason}"
        ) from error
    image_column = _column(table, _IMAGE_COLUMNS, name=name)
    label_column = _column(table, _LABEL_COLUMNS, name=name)
    _check_files(library, table, image_column, name=name)
    images = [
        _pixels(image, source=f"{name}[{index}]")
        for index, image in enumerate(table[image_column])
    ]
    return dataset.from_arrays(
        image_files.stack(images, sources=[f"{name}[{i}]" for i in range(len(images))]),
        np.asarray(list(table[label_column])),
        num_classes=getattr(table.features[label_column], "num_classes", None),
        name=name,
    )


def _column(table: Any, choices: tuple[str, ...], *, name: str) -> str:
    for column in choices:
        if column in table.column_names:
            return column
    raise ValueError(
        f"{name}: expected a column {' or '.join(choices)}, got {table.column_names}."
    )


def _check_files(library: Any, table: Any, column: str, *, name: str) -> None:
    """Raises for a file with more than 8 bits a channel, which Pillow would cut."""
    if not isinstance(table.features[column], library.Image):
        return
    files = table.cast_column(column, library.Image(decode=False))[column]
    for index, file in enumerate(files):
        content = file["bytes"] or pathlib.Path(file["path"]).read_bytes()
        image_files.check(content, source=f"{name}[{index}]")


def _pixels(image: Any, *, source: str) -> np.ndarray:
    if hasattr(image, "convert"):  # a Pillow image
        return image_files.pixels(image, source=source)
    array = np.asarray(image)
    return array[..., None] if array.ndim == 2 else array
