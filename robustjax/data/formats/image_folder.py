"""Class folders: one sub-folder a class, in a folder or in a tar archive.

Files are `CLASS/FILE` or, where the data is split, `train/CLASS/FILE` and
`test/CLASS/FILE`. No class folder and no file is passed over without a word: a class
folder without images raises an error, and a warning counts and names what is left out.
"""

import pathlib
import re
import warnings
from collections.abc import Iterator
from typing import NamedTuple

import numpy as np

from robustjax.data import dataset
from robustjax.data.formats import archives, image_files

_FILE = re.compile(r"(?:(train|test)/)?([^/]+)/[^/]+")
_FOLDER = re.compile(r"(?:(train|test)/)?([^/.][^/]*)")  # not hidden, nor the root
_SPLITS = ("train", "test")
_NAMED = 5  # files or folders that a message names


class _Place(NamedTuple):
    """A class folder."""

    split: str | None  # None outside train/ and test/
    class_name: str


class _Tree(NamedTuple):
    """What is below the root."""

    places: set[_Place]  # class folders, also those without images
    images: dict[str, _Place]  # files that are read
    unread: dict[str, _Place]  # images of kinds that are not read
    contents: dict[str, bytes]  # of the images that may belong to the split
    others: set[str]  # files that are no images, or in no class folder


def read(root: pathlib.Path, *, split: str, name: str) -> dataset.Dataset:
    """A data set in class folders of images.

    [host] Classes are the sub-folders, sorted by name, those of `train/` and `test/`
    together, so that a class without a test folder keeps the labels aligned. Images are
    sorted by file name within their class. A warning counts and names the files that
    are left out: hidden ones, those that are no images, those that lie deeper or higher
    in the tree and, where the data is split, those outside `train/` and `test/`.

    Args:
        root: the folder, or a tar archive of it (read in memory).
        split: "train" or "test"; without `train/` and `test/` both are all images.
        name: name of the data set.

    Returns:
        The split: 1 channel for grey images, 3 for colour.

    Raises:
        FileNotFoundError: if there is no such folder or no image of the split in it.
        ValueError: if a class folder has no image, or an image is damaged, of a kind
            that is not read, not as `image_files.decode` expects it, or not of the size
            of the first.
    """
    tree = _gather(root, split)
    everywhere = tree.images | tree.unread
    is_split = any(place.split for place in everywhere.values())
    places = {place for place in tree.places if (place.split is not None) == is_split}
    _check_kinds(root, [f for f, place in tree.unread.items() if place in places])
    found = {
        file: place
        for file, place in tree.images.items()
        if place in places and place.split in (None, split)
    }
    if not found:
        raise FileNotFoundError(
            f"No images of the split {split!r} in {root}: expected CLASS/FILE or "
            f"{split}/CLASS/FILE with PPM, PNG, JPEG or other image files"
        )
    _check_classes(root, places - set(tree.images.values()))
    strays = {file for file, place in everywhere.items() if place not in places}
    _warn_of(root, sorted(tree.others | strays))
    files = sorted(found, key=lambda file: (found[file].class_name, file))
    images = image_files.stack(
        [
            image_files.decode(tree.contents.pop(file), source=f"{root}/{file}")
            for file in files
        ],
        sources=[f"{root}/{file}" for file in files],
    )
    classes = sorted({place.class_name for place in places})
    labels = np.array([classes.index(found[file].class_name) for file in files])
    return dataset.from_arrays(images, labels, num_classes=len(classes), name=name)


def _gather(root: pathlib.Path, split: str) -> _Tree:
    tree = _Tree(set(), {}, {}, {}, set())
    for entry in archives.entries(root):
        tree.places.update(_class_folders(entry))
        if entry.read is None:
            continue
        place = _place_of_image(entry)
        if place is None:
            tree.others.add(entry.name)
            continue
        tree.places.add(place)
        if image_files.is_other_image(entry.name):
            tree.unread[entry.name] = place
            continue
        tree.images[entry.name] = place
        if place.split in (None, split):
            tree.contents[entry.name] = entry.read()
    return tree


def _class_folders(entry: archives.Entry) -> Iterator[_Place]:
    """The class folders that an entry is, or lies in; archives may not list them."""
    path = pathlib.PurePosixPath(entry.name)
    for folder in (path, *path.parents) if entry.read is None else path.parents:
        match = _FOLDER.fullmatch(folder.as_posix())
        if match and folder.as_posix() not in _SPLITS:
            yield _Place(*match.groups())


def _place_of_image(entry: archives.Entry) -> _Place | None:
    """The class folder of an image, whether it is read or not; None for other files."""
    match = _FILE.fullmatch(entry.name)
    is_image = image_files.is_readable(entry.name) or image_files.is_other_image(
        entry.name
    )
    return (
        _Place(*match.groups()) if match and is_image and not entry.is_hidden else None
    )


def _check_kinds(root: pathlib.Path, unread: list[str]) -> None:
    if unread:
        raise ValueError(
            f"{root}: expected images as {', '.join(image_files.SUFFIXES)}, got "
            f"{_listed(sorted(unread))}; convert them, to PNG for example."
        )


def _check_classes(root: pathlib.Path, empty: set[_Place]) -> None:
    if empty:
        names = ["/".join(part for part in place if part) for place in empty]
        raise ValueError(
            f"{root}: expected images in every class folder, got none in "
            f"{_listed(sorted(names))}."
        )


def _warn_of(root: pathlib.Path, left_out: list[str]) -> None:
    if left_out:
        warnings.warn(
            f"{root}: {len(left_out)} files that are no images of a class are left "
            f"out: {_listed(left_out)}.",
            stacklevel=4,  # of data.load
        )


def _listed(names: list[str]) -> str:
    more = f" and {len(names) - _NAMED} more" if len(names) > _NAMED else ""
    return ", ".join(names[:_NAMED]) + more
