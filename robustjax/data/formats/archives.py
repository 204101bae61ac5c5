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
from typing import IO, NamedTuple

_DAMAGE = (
    tarfile.TarError,
    gzip.BadGzipFile,
    lzma.LZMAError,
    zlib.error,
    EOFError,
)


class Entry(NamedTuple):
    """A file or a folder below a root."""

    name: str  # relative to the root, with forward slashes
    read: Callable[[], bytes] | None  # the content of a file; None for a folder

    @property
    def is_hidden(self) -> bool:
        """Whether the name, or that of a folder above, starts with a dot."""
        return any(part.startswith(".") for part in self.name.split("/"))


def entries(root: pathlib.Path) -> Iterator[Entry]:
    """Every file and every folder below a folder or inside a tar archive.

    [host] In an archive, a link stands for the file that it names. A name that occurs
    twice is given twice; the later one replaces the earlier when it is unpacked.

    Args:
        root: a folder, or a tar archive with any compression.

    Yields:
        An `Entry`. In an archive its `read` is valid only until the next one is asked
        for, and the order is the archive's.

    Raises:
        ValueError: if a file is not an archive or is truncated, or a link in it names
            no file of the archive.
        OSError: if a folder cannot be listed.
    """
    for name, read in _folder(root) if root.is_dir() else _archive(root):
        path = pathlib.PurePosixPath(name)
        if path.name:  # the root itself has none
            yield Entry(str(path), read)


def walk(root: pathlib.Path) -> Iterator[tuple[str, Callable[[], bytes]]]:
    """Every visible file below a folder or inside a tar archive.

    [host]

    Args:
        root: as in `entries`.

    Yields:
        The name relative to root and a function that reads the content, as in
        `entries`.

    Raises:
        ValueError, OSError: as in `entries`.
    """
    for entry in entries(root):
        if entry.read is not None and not entry.is_hidden:
            yield entry.name, entry.read


_Found = tuple[str, Callable[[], bytes] | None]


def _folder(root: pathlib.Path) -> Iterator[_Found]:
    for parent, folders, files in os.walk(root, followlinks=True, onerror=_raise):
        folders.sort()
        yield pathlib.Path(parent).relative_to(root).as_posix(), None
        for file in sorted(files):
            path = pathlib.Path(parent, file)
            yield path.relative_to(root).as_posix(), path.read_bytes


def _raise(error: OSError) -> None:
    raise error


def _archive(path: pathlib.Path) -> Iterator[_Found]:
    with _named(path), tarfile.open(path) as archive:
        for member in archive:
            if member.isdir():
                yield member.name, None
                continue
            if member.issym() or member.islnk():
                _open(path, archive, member).close()  # raises where it names no file
            yield member.name, functools.partial(_extract, path, archive, member)
        _check_end(archive)


def _check_end(archive: tarfile.TarFile) -> None:
    """Raises unless the second zero block follows the one that ended the loop.

    The standard library takes a truncated or garbled header for the end. Reading to
    the last byte has the checksums of the compression verified as well.
    """
    rest = b""
    if archive.fileobj:
        archive.fileobj.seek(archive.offset + tarfile.BLOCKSIZE)
        rest = archive.fileobj.read(-1)
    if rest[: tarfile.BLOCKSIZE] != bytes(tarfile.BLOCKSIZE):
        raise tarfile.ReadError("no end marker")


def _extract(
    path: pathlib.Path, archive: tarfile.TarFile, member: tarfile.TarInfo
) -> bytes:
    with _named(path), _open(path, archive, member) as file:
        return file.read()


def _open(
    path: pathlib.Path, archive: tarfile.TarFile, member: tarfile.TarInfo
) -> IO[bytes]:
    try:
        file = archive.extractfile(member)
    except KeyError:  # a link to a name that the archive does not have
        file = None
    if file is None:
        raise ValueError(
            f"{path}: expected {member.name} to be a file, or a link to one in the "
            "archive."
        )
    return file


@contextlib.contextmanager
def _named(path: pathlib.Path) -> Iterator[None]:
    try:
        yield
    except _DAMAGE as error:
        reason = str(error).partition(":\n")[0]
        raise ValueError(
            f"{path}: expected a complete tar archive, got a damaged one ({reason})."
        ) from error
