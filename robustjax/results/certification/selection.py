"""Which images a run certifies, and how they are cut into batches.

Rows depend on the batches in the last bits only: forward passes and sums of gradients
take several images at once. `replay` cuts them as the run did.
"""

import math
from collections.abc import Iterator, Sequence

_SAMPLES_PER_CALL = 2**17  # enough for the device to be busy between two rows


def indices(num_images: int, *, start: int, skip: int, max_examples: int) -> range:
    """Indices start, start + skip, ... of the images of a run.

    [host]

    Args:
        num_images: size of the data set.
        start: first index, >= 0.
        skip: distance of neighbours, >= 1.
        max_examples: maximum number of indices (0 = all).

    Returns:
        The indices, increasing; empty if start is past the end.
    """
    return range(start, num_images, skip)[: max_examples or None]


def batches(indices: Sequence[int], *, num_samples: int) -> Iterator[list[int]]:
    """Batches of one size, for one compilation; the last repeats its last index.

    [host]

    Args:
        indices: of the images, all of them.
        num_samples: largest number of noise samples of an image.

    Yields:
        Lists of indices of equal length.
    """
    smallest = math.ceil(_SAMPLES_PER_CALL / num_samples)
    sizes = range(min(smallest, len(indices)), min(2 * smallest, len(indices)) + 1)
    size = min(sizes, key=lambda size: (-len(indices) % size, size))
    for first in range(0, len(indices), size):
        batch = list(indices[first : first + size])
        yield batch + batch[-1:] * (size - len(batch))
