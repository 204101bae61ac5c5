"""The starts of a run: when, where and with which software its rows were computed.

`versions.json` describes the first start. Each start of a process that computes a row
leaves `starts/00001.json`, `starts/00002.json`, ..., and the column `start` of a row
holds that number, so rows of different software or hardware can be distinguished.
"""

import contextlib
import json
import os
import pathlib
from collections.abc import Mapping
from typing import Any

FOLDER = "starts"
COLUMN = "start"


def record(folder: pathlib.Path, versions: Mapping[str, Any]) -> int:
    """Writes a start into a run folder.

    [host] Processes that share the folder get different numbers: a file is created by
    one of them only.

    Args:
        folder: the run folder.
        versions: what describes the start, as JSON takes it.

    Returns:
        The number of the start, 1 for the first.

    Raises:
        OSError: if the file cannot be written.
    """
    path = folder / FOLDER
    path.mkdir(exist_ok=True)
    number = max((int(file.stem) for file in _files(folder)), default=0) + 1
    while not _create(path / f"{number:05d}.json", versions):
        number += 1
    return number


def read(folder: pathlib.Path) -> dict[int, dict[str, Any]]:
    """The starts of a run by number; one killed while it was written is left out.

    [host] Empty for runs made before starts were recorded.

    Args:
        folder: the run folder.

    Returns:
        Number -> what describes the start.
    """
    found = {}
    for file in _files(folder):
        with contextlib.suppress(ValueError):
            content = json.loads(file.read_text(encoding="utf-8"))
            if isinstance(content, dict):
                found[int(file.stem)] = content
    return found


def _files(folder: pathlib.Path) -> list[pathlib.Path]:
    files = (folder / FOLDER).glob("*.json")
    return sorted(file for file in files if file.stem.isdecimal())


def _create(path: pathlib.Path, versions: Mapping[str, Any]) -> bool:
    """Writes a file unless another process has it."""
    try:
        file = path.open("x", encoding="utf-8", newline="\n")
    except FileExistsError:
        return False
    try:
        with file:
            file.write(json.dumps(dict(versions), indent=2) + "\n")
            file.flush()
            os.fsync(file.fileno())
    except OSError as error:
        with contextlib.suppress(OSError):
            path.unlink(missing_ok=True)
        raise OSError(error.errno, error.strerror, str(path)) from error
    return True
