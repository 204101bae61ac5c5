"""What is known of a run: its rows, its flags, its data."""

import pathlib
from collections.abc import Iterator, Mapping
from typing import TYPE_CHECKING, NamedTuple

import numpy as np

from robustjax.results import logs
from robustjax.results.run_folder import provenance

if TYPE_CHECKING:
    from robustjax import data


class Run(NamedTuple):
    """A run as it is checked; what is not known is empty or None."""

    log: logs.Log
    flags: Mapping[str, str]
    facts: Mapping[str, str]
    dataset: "data.Dataset | None"
    reason: str  # why there is no dataset
    is_merged: bool = False  # from several runs, which may differ in some flags

    @property
    def path(self) -> pathlib.Path:
        """The run folder, or the rows file."""
        return self.log.path

    def findings(self, wrong: np.ndarray, text: str) -> Iterator[str]:
        """One line for each row of a mask. [host]."""
        for index in self.log.columns["idx"][wrong]:
            yield f"idx {index}: {text}"

    def rows(self, mask: np.ndarray) -> "Run":
        """The run with some of its rows. [host]."""
        columns = {name: values[mask] for name, values in self.log.columns.items()}
        return self._replace(log=logs.Log(self.log.path, columns))

    def integer_flag(self, name: str) -> int | None:
        """The value of a flag, None if the run does not tell it or it is no integer."""
        try:
            return int(self.flags[name])
        except (KeyError, ValueError):
            return None


def read(log: logs.Log, *, data_dir: str | None, with_data: bool) -> Run:
    """Reads the flags of a run, and its data set where it can be loaded.

    [host]

    Args:
        log: the rows.
        data_dir: folder of the data; default: that of the flags.
        with_data: whether to load the data set.

    Returns:
        What is known.

    Raises:
        ValueError: if `versions.json` is not that of a run.
    """
    if not (log.path / provenance.FILE_NAME).is_file():
        return Run(log, {}, {}, None, "a rows file alone does not name its data set")
    known = provenance.read_identity(log.path)
    dataset, reason = None, "the data set was not loaded"
    if with_data:
        dataset, reason = _load(known.flags, data_dir)
    is_merged = "merged_from" in known.versions
    return Run(log, known.flags, known.facts, dataset, reason, is_merged)


def _load(
    flags: Mapping[str, str], data_dir: str | None
) -> "tuple[data.Dataset | None, str]":
    from robustjax import data

    if "dataset" not in flags:
        return None, "the flags name no data set"
    try:
        dataset = data.load(
            flags["dataset"],
            split=flags.get("split", "test"),
            data_dir=data_dir or flags.get("data_dir") or None,
        )
    except (ValueError, OSError, ImportError) as error:
        return None, " ".join(str(error).split())
    return dataset, ""
