"""Data sets by name."""

import functools
import os
import pathlib
from collections.abc import Callable
from typing import NamedTuple

from robustjax import _validate
from robustjax.data.dataset import Dataset
from robustjax.data.formats import (
    cifar,
    digits,
    gtsrb,
    huggingface,
    idx,
    image_folder,
    npz,
)

_SPLITS = ("train", "test")


class _Official(NamedTuple):
    """Where an official data set lies in the data folder and comes from."""

    read: Callable[..., Dataset]  # (folder, *, split)
    folders: tuple[str, ...]  # the first that exists is read
    files: str
    site: str


_IDX_FILES = "{train,t10k}-{images-idx3,labels-idx1}-ubyte[.gz]"
_CIFAR_SITE = "https://www.cs.toronto.edu/~kriz/cifar.html"
_OFFICIAL = {
    "mnist": _Official(
        functools.partial(idx.read, name="mnist"),
        ("mnist", "MNIST/raw"),
        _IDX_FILES,
        "http://yann.lecun.com/exdb/mnist",
    ),
    "fashion_mnist": _Official(
        functools.partial(idx.read, name="fashion_mnist"),
        ("fashion-mnist", "fashion_mnist", "FashionMNIST/raw"),
        _IDX_FILES,
        "https://github.com/zalandoresearch/fashion-mnist",
    ),
    "cifar10": _Official(
        cifar.read_cifar10,
        ("cifar-10-batches-bin",),
        "data_batch_*.bin and test_batch.bin",
        f"{_CIFAR_SITE} (binary version)",
    ),
    "cifar100": _Official(
        cifar.read_cifar100,
        ("cifar-100-binary",),
        "train.bin and test.bin",
        f"{_CIFAR_SITE} (binary version)",
    ),
    "gtsrb": _Official(
        gtsrb.read,
        ("gtsrb", "GTSRB"),
        "Final_Training/, Final_Test/ and GT-final_test.csv",
        "https://benchmark.ini.rub.de",
    ),
}
_NAMES = ("digits", *_OFFICIAL, "<path>.npz", "folder:<path>", "hf:<id>")


def load(
    name: str, *, split: str = "test", data_dir: str | os.PathLike[str] | None = None
) -> Dataset:
    """One split of a data set by its name.

    [host]

    ========================  =========================================================
    name                      what is read
    ========================  =========================================================
    `digits`                  8 x 8 digits, embedded in scikit-learn
    `mnist`, `fashion_mnist`  IDX files, plain or gzipped
    `cifar10`, `cifar100`     the binary versions; any number of records
    `gtsrb`                   PPM files, unpacked or in a `.tar.xz`, resized to 32 x 32
    `<path>.npz`              `x_train, y_train, x_test, y_test` or `images, labels`
    `folder:<path>`           class folders of images, or a tar archive of them
    `hf:<id>`                 a data set of the HuggingFace hub (needs a network)
    ========================  =========================================================

    Args:
        name: a name of the table. A relative path counts from the current folder, then
            from the data folder.
        split: "train" or "test"; for `hf:` any split of that data set.
        data_dir: the data folder, which holds the official folders (such as `mnist/`);
            the environment variable ROBUSTJAX_DATA_DIR where not given.

    Returns:
        Images, float32 `[n, h, w, c]` in [0, 1], and int32 labels, in official order,
        so that the position of an image is its index in the split.

    Raises:
        ValueError: for an unknown name or split, or damaged files.
        FileNotFoundError: if the data is not there; the text says which files are
            looked for, where, and from where to get them.

    Example:
        >>> test = load("digits")
        >>> test.images.shape, test.num_classes
        ((300, 8, 8, 1), 10)
    """
    root = data_dir or os.environ.get("ROBUSTJAX_DATA_DIR")
    data_folder = pathlib.Path(root).expanduser() if root else None
    kind, _, place = name.partition(":")
    if kind == "hf" and place:
        return huggingface.read(place, split=split)
    _validate.one_of(_SPLITS, split=split)
    if name == "digits":
        return digits.read(split=split)
    if kind == "folder" and place:
        return image_folder.read(_existing(place, data_folder), split=split, name=name)
    if name.endswith(".npz"):
        return npz.read(_existing(name, data_folder), split=split, name=name)
    if name not in _OFFICIAL:
        _validate.one_of(_NAMES, dataset=name)
    return _load_official(name, split, data_folder)


def _load_official(name: str, split: str, data_folder: pathlib.Path | None) -> Dataset:
    official = _OFFICIAL[name]
    try:
        return official.read(_official_folder(official, data_folder), split=split)
    except FileNotFoundError as error:
        raise FileNotFoundError(
            f"{error}. Data set {name!r} needs {official.files} in "
            f"{official.folders[0]}/ of the folder given by data_dir or "
            f"ROBUSTJAX_DATA_DIR; get them from {official.site}."
        ) from None


def _official_folder(
    official: _Official, data_folder: pathlib.Path | None
) -> pathlib.Path:
    if data_folder is None:
        raise FileNotFoundError("No data folder given")
    for folder in official.folders:
        if (data_folder / folder).is_dir():
            return data_folder / folder
    raise FileNotFoundError(
        f"No folder {' or '.join(official.folders)} in {data_folder}"
    )


def _existing(path: str, data_folder: pathlib.Path | None) -> pathlib.Path:
    """The path from here, or from the data folder where only that exists."""
    roots = [pathlib.Path()] if data_folder is None else [pathlib.Path(), data_folder]
    for root in roots:
        if (found := root / pathlib.Path(path).expanduser()).exists():
            return found
    places = " or ".join(str(root.resolve()) for root in roots)
    raise FileNotFoundError(
        f"No {path} in {places}; give a path that exists, or its data folder by "
        f"data_dir or ROBUSTJAX_DATA_DIR."
    )
