"""Which images a run works on, and how they are cut into batches."""

import math
from collections.abc import Iterator
from typing import Any

_SAMPLES_PER_CALL = 2**17  # enough for the device to be busy between two rows


def indices(config: Any, num_images: int) -> list[int]:
    """Indices of the images that --start, --skip and --max_examples choose.

    Raises:
        ValueError: if there are none.
    """
    chosen = list(range(config.start, num_images, config.skip))
    if not chosen:
        raise ValueError(
            f"Expected start < {num_images}, the number of {config.split} images of "
            f"{config.dataset}, got {config.start}."
        )
    return chosen[: config.max_examples or None]


def batches(indices: list[int], *, num_samples: int) -> Iterator[list[int]]:
    """Batches of one size, for one compilation; the last repeats its last index."""
    smallest = math.ceil(_SAMPLES_PER_CALL / num_samples)
    sizes = range(min(smallest, len(indices)), min(2 * smallest, len(indices)) + 1)
    size = min(sizes, key=lambda size: (-len(indices) % size, size))
    for first in range(0, len(indices), size):
        batch = indices[first : first + size]
        yield batch + batch[-1:] * (size - len(batch))
