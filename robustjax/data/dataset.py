"""One split of a labelled image data set, checked on the way in.

The position of an image in the arrays is its index in the split (`idx` in the rows of
a run): readers keep the official order and never shuffle.
"""

import hashlib
from typing import NamedTuple

import numpy as np

from robustjax import _validate

_MOST_CLASSES = 2**31  # labels are int32


class Dataset(NamedTuple):
    """One split of a labelled image data set, on the host."""

    images: np.ndarray  # [n, h, w, c], float32 in [0, 1]
    labels: np.ndarray  # [n], int32 in [0, num_classes)
    num_classes: int
    name: str


def from_arrays(
    images: np.ndarray,
    labels: np.ndarray,
    *,
    num_classes: int | None = None,
    name: str = "arrays",
) -> Dataset:
    """A checked data set from plain arrays.

    [host]

    Args:
        images: `[n, h, w, c]` with c = 1, 3 or 4, or `[n, h, w]`; uint8, which is
            divided by 255, or floats in [0, 1].
        labels: `[n]` or `[n, 1]`, integers in [0, num_classes).
        num_classes: number of classes, in [1, 2^31]; the largest label + 1 where not
            given.
        name: what error messages and results call the data set.

    Returns:
        A Dataset with float32 images and int32 labels.

    Raises:
        ValueError: for an empty set, a wrong shape or type, unequal lengths, a pixel
            outside [0, 1], or a label or num_classes out of range.

    Example:
        >>> data = from_arrays(np.full((2, 4, 4), 255, np.uint8), np.array([0, 1]))
        >>> data.images.shape, float(data.images.max()), data.num_classes
        ((2, 4, 4, 1), 1.0, 2)
    """
    images = _unit_images(np.asarray(images), name=name)
    labels = _integer_labels(np.asarray(labels), name=name)
    _validate.same_length(
        **{f"images of {name}": images, f"labels of {name}": labels},
    )
    lowest, highest = int(labels.min()), int(labels.max())
    limit = _MOST_CLASSES if num_classes is None else num_classes
    if not 1 <= limit <= _MOST_CLASSES:
        raise ValueError(
            f"{name}: expected num_classes in [1, {_MOST_CLASSES}], got {limit}."
        )
    if lowest < 0 or highest >= limit:
        wrong = lowest if lowest < 0 else highest
        raise ValueError(f"{name}: expected labels in [0, {limit - 1}], got {wrong}.")
    num_classes = highest + 1 if num_classes is None else num_classes
    return Dataset(images, labels.astype(np.int32), num_classes, name)


def fingerprint(dataset: Dataset) -> str:
    """SHA-256 of the pixels and labels with their shapes and types.

    [host] The name and the place of the files do not enter, so two copies of the same
    data agree; runs whose fingerprints differ must not be merged.

    Args:
        dataset: any Dataset.

    Returns:
        64 hexadecimal digits, the same on every platform.

    Example:
        >>> data = from_arrays(np.zeros((1, 2, 2), np.uint8), np.array([0]))
        >>> fingerprint(data)[:16]
        'ccf33c1589e41718'
    """
    digest = hashlib.sha256()
    for array in (dataset.images, dataset.labels):
        little_endian = np.ascontiguousarray(array, array.dtype.newbyteorder("<"))
        digest.update(f"{array.dtype.name}{array.shape}".encode())
        digest.update(little_endian.data)
    return digest.hexdigest()


def _unit_images(images: np.ndarray, *, name: str) -> np.ndarray:
    images = images[..., None] if images.ndim == 3 else images
    if images.ndim != 4 or images.shape[-1] not in (1, 3, 4):
        raise ValueError(
            f"{name}: expected images [n, h, w, c] with c = 1, 3 or 4 channels last, "
            f"or [n, h, w]; got shape {images.shape}."
        )
    if images.size == 0:
        raise ValueError(f"{name}: expected at least one image, got {images.shape}.")
    if images.dtype == np.uint8:
        return np.divide(images, np.float32(255), dtype=np.float32)
    if images.dtype.kind != "f":
        raise ValueError(
            f"{name}: expected images as uint8 or floats in [0, 1], got {images.dtype}."
        )
    _validate.unit_interval(**{f"images of {name}": images})
    return images.astype(np.float32)


def _integer_labels(labels: np.ndarray, *, name: str) -> np.ndarray:
    labels = labels[:, 0] if labels.ndim == 2 and labels.shape[1] == 1 else labels
    if labels.ndim != 1 or labels.dtype.kind not in "iu":
        raise ValueError(
            f"{name}: expected labels as integers [n], "
            f"got {labels.dtype} {labels.shape}."
        )
    return labels
