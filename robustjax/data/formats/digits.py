"""The 8 x 8 handwritten digits that come with scikit-learn: no download."""

import numpy as np

from robustjax.data import dataset, optional


def read(*, split: str) -> dataset.Dataset:
    """The 1,797 digits of scikit-learn: every sixth is a test image.

    [host]

    Args:
        split: "train" (1,497 images) or "test" (300 images: 0, 6, 12, ...).

    Returns:
        The split, images `[n, 8, 8, 1]`, 10 classes; pixels are the counts 0 .. 16
        divided by 16.

    Raises:
        ValueError: if scikit-learn is not installed.

    Example:
        >>> read(split="test").images.shape
        (300, 8, 8, 1)
    """
    digits = optional.require("sklearn.datasets", extra="experiments").load_digits()
    is_test = np.arange(len(digits.target)) % 6 == 0
    chosen = is_test if split == "test" else ~is_test
    images = (digits.images[chosen] / 16).astype(np.float32)
    return dataset.from_arrays(
        images, digits.target[chosen], num_classes=10, name="digits"
    )
