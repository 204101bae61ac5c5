"""The binary version of CIFAR-10 and CIFAR-100.

A record is the label bytes (one in CIFAR-10; coarse, then fine in CIFAR-100) and 3072
pixel bytes: 1024 red, 1024 green, 1024 blue, each plane row by row.
"""

import pathlib
import re

import numpy as np

from robustjax.data import dataset

_PIXELS = 3 * 32 * 32
_TRAIN_FILE = re.compile(r"data_batch_(\d+)\.bin")


def read_records(
    path: str | pathlib.Path, *, label_bytes: int
) -> tuple[np.ndarray, np.ndarray]:
    """All records of one file, however many there are.

    [host]

    Args:
        path: the file.
        label_bytes: 1 for CIFAR-10, 2 for CIFAR-100.

    Returns:
        uint8 images `[n, 32, 32, 3]` and uint8 labels `[n, label_bytes]`.

    Raises:
        ValueError: if the size is not a whole number of records.
    """
    raw = np.frombuffer(pathlib.Path(path).read_bytes(), np.uint8)
    size = label_bytes + _PIXELS
    if raw.size == 0 or raw.size % size:
        raise ValueError(
            f"{path}: expected a multiple of {size} bytes (one record), got {raw.size}."
        )
    records = raw.reshape(-1, size)
    planes = records[:, label_bytes:].reshape(-1, 3, 32, 32)
    return planes.transpose(0, 2, 3, 1), records[:, :label_bytes]


def read_cifar10(folder: pathlib.Path, *, split: str) -> dataset.Dataset:
    """CIFAR-10: `test_batch.bin`, or every `data_batch_*.bin` present.

    [host]

    Args:
        folder: the folder `cifar-10-batches-bin`.
        split: "train" (the batches in the order of their numbers) or "test".

    Returns:
        The split, 10 classes.

    Raises:
        FileNotFoundError: if there is no file of the split.
        ValueError: if a file is truncated or has a label above 9.
    """
    return _read(
        _cifar10_files(folder, split), label_bytes=1, num_classes=10, name="cifar10"
    )


def read_cifar100(folder: pathlib.Path, *, split: str) -> dataset.Dataset:
    """CIFAR-100 with its fine labels: `train.bin` or `test.bin`.

    [host]

    Args:
        folder: the folder `cifar-100-binary`.
        split: "train" or "test".

    Returns:
        The split, 100 classes.

    Raises:
        FileNotFoundError: if the file of the split is missing.
        ValueError: if it is truncated or has a label above 99.
    """
    files = [_existing(folder / f"{split}.bin")]
    return _read(files, label_bytes=2, num_classes=100, name="cifar100")


def _read(
    files: list[pathlib.Path], *, label_bytes: int, num_classes: int, name: str
) -> dataset.Dataset:
    batches = [read_records(file, label_bytes=label_bytes) for file in files]
    images = np.concatenate([images for images, _ in batches])
    labels = np.concatenate([labels[:, -1] for _, labels in batches])
    return dataset.from_arrays(images, labels, num_classes=num_classes, name=name)


def _cifar10_files(folder: pathlib.Path, split: str) -> list[pathlib.Path]:
    if split == "test":
        return [_existing(folder / "test_batch.bin")]
    numbered = {
        int(match[1]): path
        for path in folder.iterdir()
        if (match := _TRAIN_FILE.fullmatch(path.name))
    }
    if not numbered:
        raise FileNotFoundError(f"No data_batch_1.bin ... data_batch_5.bin in {folder}")
    return [path for _, path in sorted(numbered.items())]


def _existing(path: pathlib.Path) -> pathlib.Path:
    if not path.is_file():
        raise FileNotFoundError(f"No {path.name} in {path.parent}")
    return path
