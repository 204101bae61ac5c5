"""Locks of files and run folders, which the system frees when their holder ends.

A lock is `flock` on an open file: that of a killed process is no obstacle to the next
start. File systems and platforms without such locks are used without them.
"""

import contextlib
import os
import pathlib
import socket
from collections.abc import Iterator
from typing import IO, Any

FILE_NAME = ".lock"


def take(file: IO[Any]) -> bool:
    """Takes the lock of an open file unless another holder has it.

    [host]

    Args:
        file: an open file; closing it gives the lock back.

    Returns:
        False if it is held elsewhere, in this process or another one.
    """
    try:
        import fcntl
    except ImportError:  # no such locks on this platform
        return True
    try:
        fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        return False
    except OSError:  # a file system without locks
        return True
    return True


@contextlib.contextmanager
def run_folder(folder: str | pathlib.Path, *, process_index: int = 0) -> Iterator[None]:
    """Holds the lock of a run folder, against other starts in the same folder.

    [host] To be taken before anything is computed or trained. Processes that share a
    run take one lock each, by their index.

    Args:
        folder: the run folder, created where needed; gets a file `.lock`.
        process_index: of this process among those that share the run.

    Raises:
        ValueError: if another start holds it; the text names the folder, and the
            process and host of the holder.
        OSError: if the folder or the file cannot be written.
    """
    path = pathlib.Path(folder)
    path.mkdir(parents=True, exist_ok=True)
    name = f"{FILE_NAME}-{process_index:05d}" if process_index else FILE_NAME
    with (path / name).open("a+", encoding="utf-8") as file:
        if not take(file):
            file.seek(0)
            holder = " ".join(file.read(200).split()) or "an unknown process"
            raise ValueError(
                f"workdir={str(folder)!r} is in use by another start ({holder})."
            )
        with contextlib.suppress(OSError):  # the name is a courtesy; disks may be full
            file.truncate(0)
            file.write(f"process {os.getpid()} on {socket.gethostname()}\n")
            file.flush()
        yield
