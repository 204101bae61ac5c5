"""Image files and Pillow images as uint8 arrays `[h, w, c]`."""

import io
from collections.abc import Sequence
from typing import Any

import numpy as np

from robustjax.data import extras

_GREY = ("1", "L", "LA")
_COLOUR = ("P", "PA", "RGB", "RGBA", "RGBX", "CMYK", "YCbCr")


def decode(
    content: bytes, *, source: str, size: tuple[int, int] | None = None
) -> np.ndarray:
    """The pixels of a PPM, PNG, JPEG or other image file that Pillow reads.

    [host]

    Args:
        content: the bytes of the file.
        source: name of the file, for messages.
        size: (height, width) to resize to (bilinear) where the image differs.

    Returns:
        uint8 `[h, w, 1]` for a grey image, `[h, w, 3]` for colour; alpha is dropped.

    Raises:
        ValueError: if the image is damaged or has more than 8 bits a channel.
    """
    pil = extras.require("PIL.Image", extra="experiments")
    try:
        image = pil.open(io.BytesIO(content))
        image.load()
    except (OSError, SyntaxError, ValueError, EOFError) as error:
        # Pillow's own text shows the address of the buffer, so it is not repeated.
        raise ValueError(
            f"{source}: expected a complete image file, got a damaged one."
        ) from error
    if size is not None and image.size != size[::-1]:
        image = image.resize(size[::-1], pil.Resampling.BILINEAR)
    return pixels(image, source=source)


def pixels(image: Any, *, source: str) -> np.ndarray:
    """The pixels of a Pillow image.

    [host]

    Args:
        image: a `PIL.Image.Image` with 8 bits a channel.
        source: name of the image, for messages.

    Returns:
        uint8 `[h, w, 1]` for a grey image, `[h, w, 3]` for colour; alpha is dropped.

    Raises:
        ValueError: if it has more than 8 bits a channel.
    """
    if image.mode not in _GREY + _COLOUR:
        raise ValueError(
            f"{source}: expected 8 bits a channel, got an image of mode {image.mode}."
        )
    if image.mode in _GREY:
        return np.asarray(image.convert("L"))[..., None]
    return np.asarray(image.convert("RGB"))


def stack(images: Sequence[np.ndarray], *, sources: Sequence[str]) -> np.ndarray:
    """Images of one shape as `[n, h, w, c]`.

    [host]

    Args:
        images: arrays `[h, w, c]`.
        sources: their names, for messages.

    Returns:
        The array `[n, h, w, c]`.

    Raises:
        ValueError: if shapes differ; names the first image that does.
    """
    for image, source in zip(images, sources, strict=True):
        if image.shape != images[0].shape:
            raise ValueError(
                f"{source}: expected the shape {images[0].shape} of {sources[0]}, "
                f"got {image.shape}; resize all images to one size and colour mode."
            )
    return np.stack(images)
