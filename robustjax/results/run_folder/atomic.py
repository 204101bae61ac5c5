"""Files that are either complete or absent, whenever the writer is killed."""

import contextlib
import os
import pathlib


def write_text(path: pathlib.Path, text: str) -> None:
    """Writes a small file through a temporary neighbour and a rename.

    [host]

    Raises:
        OSError: if the file cannot be written; an older version then stays intact.
    """
    temporary = path.with_name(f".{path.name}.{os.getpid()}.tmp")
    try:
        with temporary.open("w", encoding="utf-8", newline="\n") as file:
            file.write(text)
            file.flush()
            os.fsync(file.fileno())
        os.replace(temporary, path)
    except OSError as error:
        with contextlib.suppress(OSError):
            temporary.unlink(missing_ok=True)
        raise OSError(error.errno, error.strerror, str(path)) from error
