"""The IDX format of MNIST and Fashion-MNIST, plain or gzipped.

A big-endian header (two zero bytes, the type code 8 for unsigned bytes, the rank, then
one 32-bit size an axis) followed by the bytes, last axis fastest.
"""

import gzip
import math
import pathlib
import struct
import zlib

import numpy as np

from robustjax.data import dataset

_FILES = {"train": "train", "test": "t10k"}


def read_array(path: str | pathlib.Path, *, rank: int) -> np.ndarray:
    """One IDX file of unsigned bytes.

    [host]

    Args:
        path: the file; gzip is recognised by its content, not by its name.
        rank: number of axes the file must have: 3 for images, 1 for labels.

    Returns:
        uint8 array of the shape in the header.

    Raises:
        ValueError: for another magic number, a truncated file or trailing bytes.
    """
    raw = _content(pathlib.Path(path))
    start = 4 + 4 * rank
    magic = struct.pack(">HBB", 0, 8, rank)
    if raw[:4] != magic or len(raw) < start:
        raise ValueError(
            f"{path}: expected an IDX file of unsigned bytes and rank {rank} "
            f"(magic {magic.hex()}), got {raw[:4].hex() or 'an empty file'}."
        )
    shape = struct.unpack(f">{rank}I", raw[4:start])
    if len(raw) - start != math.prod(shape):
        raise ValueError(
            f"{path}: expected {math.prod(shape)} bytes for the shape {shape} of its "
            f"header, got {len(raw) - start}."
        )
    return np.frombuffer(raw, np.uint8, offset=start).reshape(shape)


def read(folder: pathlib.Path, *, split: str, name: str) -> dataset.Dataset:
    """One split of a data set in MNIST's four files, each plain or `.gz`.

    [host]

    Args:
        folder: holds `train-images-idx3-ubyte`, `train-labels-idx1-ubyte` and the two
            `t10k-` files of the test split.
        split: "train" or "test".
        name: name of the data set.

    Returns:
        The split, 10 classes, in the order of the files.

    Raises:
        FileNotFoundError: if a file is missing.
        ValueError: if a file is damaged or the two do not belong together.
    """
    prefix = _FILES[split]
    images = read_array(_find(folder, f"{prefix}-images-idx3-ubyte"), rank=3)
    labels = read_array(_find(folder, f"{prefix}-labels-idx1-ubyte"), rank=1)
    return dataset.from_arrays(images, labels, num_classes=10, name=name)


def _find(folder: pathlib.Path, file: str) -> pathlib.Path:
    for path in (folder / file, folder / f"{file}.gz"):
        if path.is_file():
            return path
    raise FileNotFoundError(f"No {file} or {file}.gz in {folder}")


def _content(path: pathlib.Path) -> bytes:
    raw = path.read_bytes()
    if not raw.startswith(b"\x1f\x8b"):
        return raw
    try:
        return gzip.decompress(raw)
    except (gzip.BadGzipFile, zlib.error, EOFError) as error:
        raise ValueError(
            f"{path}: expected a complete gzip file, got a damaged one ({error})."
        ) from error
