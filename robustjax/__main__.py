"""`python -m robustjax --cite METHOD`: the BibTeX entry of the paper of a method."""

import argparse
import importlib.resources
import re
import sys
from collections.abc import Sequence
from typing import NoReturn

import robustjax

_PAPERS = {  # name of a package -> key in references.bib
    "smoothing": "mohapatra2020higher",
    "hidden_cost": "mohapatra2021hidden",
    "semantic": "mohapatra2020towards",
    "bounds": "mohapatra2020towards",
    "synbench": "ko2024gauss",
    "probes": "ko2024gauss",
    "contrastive": "ko2022revisiting",
}


class _Parser(argparse.ArgumentParser):
    """Explains a bad argument in one line."""

    def error(self, message: str) -> NoReturn:
        self.exit(2, f"{self.prog}: {message}\n")


def main(arguments: Sequence[str] | None = None) -> int:
    """Prints a BibTeX entry, or the methods that have one. [host].

    Args:
        arguments: arguments of the command line; default: those of this process.

    Returns:
        The exit status, 0. A bad argument exits with status 2.

    Example:
        >>> main(["--cite", "smoothing"])
        @inproceedings{mohapatra2020higher,
        ...
        0
    """
    parser = _Parser(prog="python -m robustjax", description=__doc__)
    parser.add_argument("--version", action="version", version=robustjax.__version__)
    parser.add_argument(
        "--cite",
        metavar="METHOD",
        nargs="?",
        choices=sorted(_PAPERS),
        help=f"one of {', '.join(_PAPERS)}; without a name, this list",
    )
    options = parser.parse_args(arguments)
    print(_entry(_PAPERS[options.cite]) if options.cite else _list())
    return 0


def _list() -> str:
    """Each method with the title of its paper."""
    rows = []
    for method, key in _PAPERS.items():
        found = re.search(r"title = \{(.*)\},", _entry(key))
        title = re.sub("[{}]", "", found[1]) if found else key
        rows.append(f"{method:<12} {title}")
    return "\n".join(rows)


def _entry(key: str) -> str:
    """The entry of a key, as it stands in the bibliography file."""
    file = importlib.resources.files(robustjax) / "references.bib"
    text = file.read_text(encoding="utf-8")
    found = re.search(rf"^@\w+\{{{key},$.*?^\}}$", text, re.MULTILINE | re.DOTALL)
    if found is None:
        raise ValueError(f"Expected an entry {key} in references.bib, got none.")
    return found[0]


if __name__ == "__main__":
    sys.exit(main())
