"""The German Traffic Sign Recognition Benchmark (43 classes) in its official layout.

Training images are `Final_Training/Images/CCCCC/*.ppm` with CCCCC the class, test
images `Final_Test/Images/*.ppm` with their classes in the semicolon-separated
`GT-final_test.csv`, which is a separate download and may lie anywhere in the folder.
"""

import csv
import io
import pathlib
import re

import numpy as np

from robustjax.data import dataset
from robustjax.data.formats import archives, image_files

_NUM_CLASSES = 43
_SIZE = (32, 32)
_FOLDERS = {"train": "Final_Training/Images", "test": "Final_Test/Images"}
_LAYOUTS = {"train": "CCCCC/NAME.ppm", "test": "NAME.ppm"}
_IMAGES = {
    "train": re.compile(rf"(?:.*/)?{_FOLDERS['train']}/(\d{{5}}/[^/]+\.ppm)"),
    "test": re.compile(rf"(?:.*/)?{_FOLDERS['test']}/([^/]+\.ppm)"),
}
_ANSWERS = re.compile(r"(?:.*/)?GT-final_test\.csv")


def read(folder: pathlib.Path, *, split: str) -> dataset.Dataset:
    """One split of GTSRB, from unpacked files or from `*.tar.xz` archives.

    [host] Images that are not 32 x 32 are resized (Pillow, bilinear, whole image: the
    region of interest is not cut out). Training images come by class and file name,
    test images in the order of the list. A part of the test set is read where it is a
    beginning of the list: rows after the last image are left out, a gap is an error,
    so the position of an image is always its row in the official list.

    Args:
        folder: holds the layout above, below `GTSRB/` or not, or archives of it.
        split: "train" or "test".

    Returns:
        The split, images `[n, 32, 32, 3]`, 43 classes.

    Raises:
        FileNotFoundError: if there are no images of the split or no list of classes.
        ValueError: if a file is damaged, an image is of another kind or in another
            place, or images and list do not agree.
    """
    images, answers = _gather(folder, split)
    if not images:
        raise FileNotFoundError(f"No PPM images in {_FOLDERS[split]} of {folder}")
    files = sorted(images)
    if split == "train":
        labels = [int(file.partition("/")[0]) for file in files]
    else:
        files, labels = _listed(answers, images, folder)
    return dataset.from_arrays(
        np.stack([images[file] for file in files]),
        np.array(labels),
        num_classes=_NUM_CLASSES,
        name="gtsrb",
    )


def _gather(
    folder: pathlib.Path, split: str
) -> tuple[dict[str, np.ndarray], bytes | None]:
    images: dict[str, np.ndarray] = {}
    answers = None
    for root in (folder, *sorted(folder.glob("*.tar.xz"))):
        for file, read_content in archives.walk(root):
            if match := _IMAGES[split].fullmatch(file):
                images[match[1]] = image_files.decode(
                    read_content(), source=f"{root}/{file}", size=_SIZE
                )
            elif _ANSWERS.fullmatch(file):
                answers = read_content()
            elif _is_misplaced(file, split):
                raise ValueError(
                    f"{root}/{file}: expected the images of {_FOLDERS[split]} as "
                    f"{_LAYOUTS[split]}, got another one."
                )
        if images and (answers is not None or split == "train"):
            break  # unpacked files win over archives
    return images, answers


def _is_misplaced(file: str, split: str) -> bool:
    """Whether an image below the folder of the split is not where or what it should."""
    is_image = image_files.is_readable(file) or image_files.is_other_image(file)
    return is_image and f"/{_FOLDERS[split]}/" in f"/{file}"


def _listed(
    answers: bytes | None, images: dict[str, np.ndarray], folder: pathlib.Path
) -> tuple[list[str], list[int]]:
    """Files and labels of the rows that have an image, in the order of the list."""
    if answers is None:
        raise FileNotFoundError(f"No GT-final_test.csv in {folder}")
    try:
        rows = csv.DictReader(io.StringIO(answers.decode()), delimiter=";")
        labels = {row["Filename"]: int(row["ClassId"]) for row in rows}
    except (KeyError, TypeError, ValueError, csv.Error) as error:
        raise ValueError(
            f"{folder}: expected columns Filename and ClassId with integers "
            f"in GT-final_test.csv, got {error!r}."
        ) from error
    files = list(labels)[: len(images)]
    missing = [file for file in files if file not in images]
    if missing or len(files) < len(images):
        wrong = missing[0] if missing else max(images.keys() - labels.keys())
        raise ValueError(
            f"{folder}: expected the test images to be the first {len(images)} rows "
            f"of GT-final_test.csv, but {wrong} is only in one of the two."
        )
    return files, [labels[file] for file in files]
