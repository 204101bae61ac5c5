"""The files of a folder, or of a tar archive that is read without unpacking it."""

import contextlib
import functools
import gzip
import lzma
import os
import pathlib
import tarfile
import zlib
from collections.abc import Callable, Iterator

_DAMAGE = (
    tarfile.TarError,
    gzip.BadGzipFile,
    lzma.LZMAError,
    zlib.error,
    EOFError,
)


def walk(root: pathlib.Path) -> Iterator[tuple[str, Callable[[], bytes]]]:
    """Every visible file below a folder or inside a tar archive, once.

    [host]

    Args:
        root: a folder, or a tar archive with any compression.

    Yields:
        The name relative to root, with forward slashes, and a function that reads the
        content. In an archive that function is valid only until the next file is asked
        for, and the order is the archive's.

    Raises:
        ValueError: if an archive is truncated or is none.
    """
    for name, read in _folder(root) if root.is_dir() else _archive(root):
        path = pathlib.PurePosixPath(name)
        if not any(part.startswith(".") for part in path.parts):
            yield str(path), read


def _folder(root: pathlib.Path) -> Iterator[tuple[str, Callable[[], bytes]]]:
    for parent, folders, files in os.walk(root, followlinks=True):
        folders.sort()
        for file in sorted(files):
            path = pathlib.Path(parent, file)
            yield path.relative_to(root).as_posix(), path.read_bytes


def _archive(path: pathlib.Path) -> Iterator[tuple[str, Callable[[], bytes]]]:
    with _named(path), tarfile.open(path) as archive:
        for member in archive:
            if member.isfile():
                yield member.name, functools.partial(_extract, path, archive, member)
        _check_end(archive)


def _check_end(archive: tarfile.TarFile) -> None:
    """Raises unless the second zero block follows the one that ended the loop.

    The standard library takes a truncated or garbled header for the end. Reading to
    the last byte has the checksums of the compression verified as well.
    """
    rest = archive.fileobj.read(-1) if archive.fileobj else b""
    if rest[: tarfile.BLOCKSIZE] != bytes(tarfile.BLOCKSIZE):
        raise tarfile.ReadError("no end marker")


def _extract(
    path: pathlib.Path, archive: tarfile.TarFile, member: tarfile.TarInfo
) -> bytes:
    with _named(path):
        file = archive.extractfile(member)
        return file.read() if file else b""


@contextlib.contextmanager
def _named(path: pathlib.Path) -> Iterator[None]:
    try:
        yield
    except _DAMAGE as error:
        reason = str(error).partition(":\n")[0]
        raise ValueError(
            f"{path}: expected a complete tar archive, got a damaged one ({reason})."
        ) from error
