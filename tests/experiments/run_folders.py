"""Run folders for tests: made once in a module, then copied where a test needs one."""

import contextlib
import csv
import inspect
import pathlib
from collections.abc import Callable, Collection, Mapping
from typing import Any
from unittest import mock

from robustjax import plotting

Files = Mapping[str, bytes]  # by path below the folder


def read(folder: pathlib.Path) -> Files:
    """The files below a folder, small enough to be kept by a module."""
    return {
        path.relative_to(folder).as_posix(): path.read_bytes()
        for path in sorted(folder.rglob("*"))
        if path.is_file()
    }


def write(files: Files, folder: str | pathlib.Path) -> None:
    """Writes what `read` returned below another folder."""
    for name, content in files.items():
        path = pathlib.Path(folder, name)
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(content)


def rows(
    folder: str | pathlib.Path, *, without: Collection[str] = ("time", "start")
) -> list[dict[str, str]]:
    """The rows of a run, without what differs between two launches: when and where."""
    with pathlib.Path(folder, "rows.tsv").open(newline="") as file:
        found = list(csv.DictReader(file, delimiter="\t"))
    return [{k: v for k, v in row.items() if k not in without} for row in found]


def pictures(*, are_drawn: bool) -> contextlib.AbstractContextManager:
    """Whether scripts draw their figures, or only make an empty file for each.

    Drawing takes longer than a small run: one run of a module does it, whose files a
    test looks at, and in coarse pixels.
    """
    return mock.patch.multiple(plotting, **_DRAWING if are_drawn else _BLANK)


def without_matplotlib() -> contextlib.AbstractContextManager:
    """As where it is not installed, for the reports of scripts."""
    return mock.patch("importlib.util.find_spec", return_value=None)


def _only_called(function: Callable) -> Callable:
    """A function that only looks at whether it can be called so, and draws nothing."""
    signature = inspect.signature(function)

    def called(*args: object, **kwargs: object) -> mock.MagicMock:
        signature.bind(*args, **kwargs)
        return mock.MagicMock()

    return called


def _save_coarsely(figure: Any, path: pathlib.Path) -> None:
    figure.savefig(path, dpi=30)


def _save_nothing(figure: object, path: pathlib.Path) -> None:
    pathlib.Path(path).write_bytes(b"")


_DRAWING = {name: getattr(plotting, name) for name in plotting.__all__}
_BLANK = {name: _only_called(function) for name, function in _DRAWING.items()}
_DRAWING |= {"save": _save_coarsely}
_BLANK |= {"save": _save_nothing}
