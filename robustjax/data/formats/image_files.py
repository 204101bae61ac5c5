"""Image files and Pillow images as uint8 arrays `[h, w, c]`.

Pillow opens several kinds of files with more than 8 bits a channel as if they had 8, so
the number of bits is read from the header of the file.

- Alpha and transparency are dropped; pixels keep the stored colour.
- CMYK and YCbCr become RGB as Pillow converts them, without colour profiles.
- An orientation in EXIF data is not applied: rows are as stored.
- JPEG files with previews (MPO) give their main image. Other files with several frames
  or pages raise an error, as there is no telling which one is meant.
"""

import contextlib
import io
import pathlib
import re
import struct
from collections.abc import Iterator, Sequence
from typing import Any

import numpy as np

from robustjax.data import optional

SUFFIXES = (
    *("apng", "bmp", "dib", "gif", "jfif", "jpe", "jpeg", "jpg"),
    *("pbm", "pgm", "png", "pnm", "ppm", "tif", "tiff", "webp"),
)
_FORMATS = ("BMP", "DIB", "GIF", "JPEG", "PNG", "PPM", "TIFF", "WEBP")
_OTHER_SUFFIXES = (  # of images whose number of bits is not looked up here
    *("avif", "avifs", "blp", "bw", "cr2", "cur", "dcm", "dcx", "dds", "dng", "emf"),
    *("eps", "exr", "fit", "fits", "flc", "fli", "ftc", "ftu", "gbr", "hdr", "heic"),
    *("heif", "icb", "icns", "ico", "im", "j2c", "j2k", "jp2", "jpc", "jpf", "jpx"),
    *("jxl", "msp", "nef", "pam", "pcd", "pcx", "pfm", "ps", "psd", "pxr", "qoi"),
    *("ras", "raw", "rgb", "rgba", "sgi", "svg", "svgz", "tga", "vda", "vst", "wmf"),
    *("xbm", "xpm"),
)
_GREY = ("1", "L", "LA")
_COLOUR = ("P", "PA", "RGB", "RGBA", "RGBX", "CMYK", "YCbCr")
_MOST_CHANNELS = 4
_TIFF_BITS, _TIFF_SAMPLE_FORMAT, _UNSIGNED = 258, 339, 1  # tags, a sample format


def is_readable(file: str) -> bool:
    """Whether a file is called like an image that `decode` reads.

    [host]

    Args:
        file: its name.

    Returns:
        True if it ends in one of `SUFFIXES`, in small or capital letters.
    """
    return _suffix(file) in SUFFIXES


def is_other_image(file: str) -> bool:
    """Whether a file is called like an image of a kind that `decode` does not read.

    [host]

    Args:
        file: its name.

    Returns:
        True for .avif, .jp2, .heic and the like.
    """
    return _suffix(file) in _OTHER_SUFFIXES


def check(content: bytes, *, source: str) -> None:
    """Raises unless the header is that of one image with up to 8 bits a channel.

    [host]

    Args:
        content: the bytes of the file.
        source: name of the file, for messages.

    Raises:
        ValueError: as `decode`.
    """
    with _named_damage(source):
        _opened(content)


def decode(
    content: bytes, *, source: str, size: tuple[int, int] | None = None
) -> np.ndarray:
    """The pixels of a PPM, PNG, JPEG, BMP, GIF, TIFF or WebP file.

    [host]

    Args:
        content: the bytes of the file.
        source: name of the file, for messages.
        size: (height, width) to resize to (bilinear) where the image differs.

    Returns:
        uint8 `[h, w, 1]` for a grey image, `[h, w, 3]` for colour; alpha is dropped.

    Raises:
        ValueError: if the image is damaged or of another kind, has more than 8 bits a
            channel or more than 4 channels, or several frames.
    """
    pil = optional.require("PIL.Image", extra="experiments")
    with _named_damage(source):
        image = _opened(content)
        image.load()
    image = _plain(image, source=source)
    if size is not None and image.size != size[::-1]:
        image = image.resize(size[::-1], pil.Resampling.BILINEAR)
    return _array(image)


def pixels(image: Any, *, source: str) -> np.ndarray:
    """The pixels of a Pillow image that was opened elsewhere.

    [host] Whether its file had more bits than the image is not known any more: `decode`
    tells, from the file.

    Args:
        image: a `PIL.Image.Image` with 8 bits a channel.
        source: name of the image, for messages.

    Returns:
        uint8 `[h, w, 1]` for a grey image, `[h, w, 3]` for colour; alpha is dropped.

    Raises:
        ValueError: if it has more than 8 bits a channel.
    """
    return _array(_plain(image, source=source))


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


def _suffix(file: str) -> str:
    return pathlib.PurePath(file).suffix.lower().removeprefix(".")


class _OtherImageError(Exception):
    """An image that is complete, but not what is expected."""


@contextlib.contextmanager
def _named_damage(source: str) -> Iterator[None]:
    pil = optional.require("PIL.Image", extra="experiments")
    damage = (OSError, SyntaxError, ValueError, EOFError, struct.error)
    try:
        yield
    except _OtherImageError as error:
        raise ValueError(f"{source}: {error}") from None
    except (*damage, pil.DecompressionBombError) as error:
        # Pillow's own text shows the address of the buffer, so it is not repeated.
        raise ValueError(
            f"{source}: expected a complete image file as {', '.join(_FORMATS)}, got a "
            "damaged one or another kind."
        ) from error


def _opened(content: bytes) -> Any:
    pil = optional.require("PIL.Image", extra="experiments")
    image = pil.open(io.BytesIO(content), formats=_FORMATS)
    if other := _other_than_8_bits(image, content):
        raise _OtherImageError(f"expected 8 bits a channel, got {other}.")
    frames = 1 if image.format == "MPO" else getattr(image, "n_frames", 1)
    if frames > 1:
        raise _OtherImageError(
            f"expected one picture a file, got {frames} frames or pages."
        )
    return image


def _other_than_8_bits(image: Any, content: bytes) -> str:
    """What is in the file instead of up to 8 bits a channel, if it is.

    Pillow does not open JPEG of 12 bits; BMP, GIF and WebP have at most 8 bits.
    """
    bits, channels = [8], len(image.getbands())
    if image.format == "PNG":
        bits = [content[content.index(b"IHDR") + len("IHDR") + 8]]  # behind the size
    elif image.format == "PPM":
        bits = [_ppm_bits(content)]
    elif image.format == "TIFF":
        bits = image.tag_v2.get(_TIFF_BITS, (1,))
        channels = max(channels, len(bits))
        kinds = image.tag_v2.get(_TIFF_SAMPLE_FORMAT, (_UNSIGNED,))
        if max(bits) <= 8 and set(kinds) != {_UNSIGNED}:
            return "integers with a sign"
    if max(bits) > 8:
        return f"{max(bits)}"
    if channels > _MOST_CHANNELS:
        return f"{channels} channels, more than colour and alpha"
    return ""


def _ppm_bits(content: bytes) -> int:
    """Bits of the largest value that a PBM, PGM or PPM file declares."""
    fields = re.sub(rb"#[^\r\n]*[\r\n]?", b"", content).split(None, 4)
    if fields[0] in (b"P1", b"P4"):  # black and white, without a largest value
        return 1
    return 32 if fields[0] == b"Pf" else int(fields[3]).bit_length()


def _plain(image: Any, *, source: str) -> Any:
    """The image in mode L or RGB."""
    if image.mode not in _GREY + _COLOUR:
        raise ValueError(
            f"{source}: expected 8 bits a channel, grey or RGB, got an image of mode "
            f"{image.mode}."
        )
    if image.mode == "P" and "transparency" in image.info:
        image = image.convert("RGBA")
    return image.convert("L" if image.mode in _GREY else "RGB")


def _array(image: Any) -> np.ndarray:
    array = np.asarray(image)
    return array[..., None] if array.ndim == 2 else array
