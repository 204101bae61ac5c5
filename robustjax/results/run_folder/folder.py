"""The run folder: started once, resumed with the same flags only."""

import pathlib
import time
from collections.abc import Collection, Iterable, Mapping, Sequence
from typing import Any, Self

from robustjax import _validate
from robustjax.results import summaries
from robustjax.results.run_folder import atomic, merging, provenance, rows, starts

_START_TIMEOUT = 120.0  # seconds that other processes wait for process 0


class RunFolder:
    """A run folder open for appending; make one with `open_run`.

    Attributes:
        path: the folder.
        messages: what was repaired or changed since the last start, one line each;
            scripts log them.
    """

    def __init__(
        self,
        path: pathlib.Path,
        rows_file: rows.RowsFile,
        *,
        finished_elsewhere: frozenset[int],
        messages: Sequence[str],
        versions: Mapping[str, Any],
    ) -> None:
        self.path = path
        self.messages = (*messages, *rows_file.messages)
        self._rows_file = rows_file
        self._elsewhere = finished_elsewhere
        self._versions = versions
        self._start: dict[str, int] | None = None

    @property
    def finished(self) -> frozenset[int]:
        """Indices of the examples whose rows are written, by whichever process."""
        return self._elsewhere | self._rows_file.finished

    def append(self, new_rows: Iterable[Mapping[str, Any]]) -> None:
        """Writes rows (one mapping an example) and waits until the disk has them.

        Floats are written so that reading them gives the same number. The first call
        records this start in the folder; its number is the last column of each row.

        Raises:
            ValueError: if an idx is already there, a column is missing or unknown, or
                a value does not fit its column.
            OSError: if the disk is full or fails; rows written before stay intact.
        """
        new_rows = list(new_rows)
        known = [row["idx"] for row in new_rows if row.get("idx") in self._elsewhere]
        if known:
            raise ValueError(f"{self.path}: idx {known[0]} would be there twice.")
        if self._start is None:
            number = starts.record(self.path, self._versions)
            has_column = starts.COLUMN in self._rows_file.columns
            self._start = {starts.COLUMN: number} if has_column else {}
        self._rows_file.append([{**row, **self._start} for row in new_rows])

    def merge(self, expected: Iterable[int] | None = None) -> pathlib.Path:
        """Gathers the rows of all processes in `rows.tsv`, sorted by idx.

        Ends the writing of this process. To be called by process 0, after the others
        have finished. The files of the processes stay where they are.

        Args:
            expected: indices that have to be there, all of them and no others.

        Returns:
            The path of `rows.tsv`.

        Raises:
            ValueError: if an idx is there twice, is missing or was not expected.
        """
        self.close()
        return merging.merge_parts(self.path, expected=expected)

    def write_summary(self, summary: Mapping[str, Any]) -> pathlib.Path:
        """Writes `summary.json`; numbers that are not finite become null."""
        return summaries.write_summary(self.path, summary)

    def close(self) -> None:
        """Ends the writing of rows and gives the lock of the file back."""
        self._rows_file.close()

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()


def open_run(
    workdir: str | pathlib.Path,
    *,
    flags: Mapping[str, str],
    flags_text: str,
    columns: Sequence[str],
    facts: Mapping[str, str],
    operational: Collection[str] = (),
    range_flags: Collection[str] = (),
    expected_entries: Collection[str] = (),
    allow_version_change: bool = False,
    process_index: int = 0,
    num_processes: int = 1,
) -> RunFolder:
    """Starts a run in a new or empty folder, or resumes the run that is there.

    [host] Process 0 writes `versions.json` and `flags.txt`; the others wait for them.
    An existing run is resumed only with equal flags and facts, by any number of
    processes, and only with software and hardware that it has rows of already, unless
    `allow_version_change`. Nothing is ever overwritten.

    Args:
        workdir: the folder, created where needed.
        flags: value of every flag as text.
        flags_text: the same as `--name=value` lines, which `--flagfile` reads back.
        columns: of the rows, beginning with idx label predict radius correct time. The
            column `start` is added, except to a run that was begun without it.
        facts: what else decides the rows, e.g. fingerprints of the data and model.
        operational: flags that do not change any row, e.g. workdir and devices.
        range_flags: flags that only choose the examples; `merge_runs` lets them differ.
        expected_entries: names that may lie in the folder before the run starts, e.g.
            that of a trained model.
        allow_version_change: continue a run of other software or hardware.
        process_index: of this process, in [0, num_processes).
        num_processes: how many processes share the run.

    Returns:
        The folder, open for appending; a context manager.

    Raises:
        ValueError: if the folder holds something else or another run (each differing
            flag is named with both values), was made with other software or hardware,
            is open elsewhere, or a row is damaged.
        OSError: if the folder cannot be written, or process 0 does not start the run.

    Example:
        >>> import tempfile
        >>> names = ["idx", "label", "predict", "radius", "correct", "time"]
        >>> row = dict(zip(names, [7, 3, 3, 0.5, 1, 0.1]))
        >>> with tempfile.TemporaryDirectory() as folder:
        ...     with open_run(folder, flags={"sigma": "0.5"}, flags_text="--sigma=0.5",
        ...                   columns=names, facts={}) as run:
        ...         run.append([row])
        ...         print(sorted(run.finished))
        [7]
    """
    _validate.integer(1, num_processes=num_processes)
    _validate.integer(0, process_index=process_index)
    if process_index >= num_processes:
        raise ValueError(f"Expected {process_index=} below {num_processes=}.")
    if tuple(columns[: len(rows.STANDARD_COLUMNS)]) != rows.STANDARD_COLUMNS:
        raise ValueError(f"Expected columns to begin {rows.STANDARD_COLUMNS}.")
    if starts.COLUMN in columns:
        raise ValueError(f"Expected columns without {starts.COLUMN}, which is added.")
    path = pathlib.Path(workdir)
    here = _identity(flags, facts, operational, range_flags)
    messages = _begin(
        path,
        here,
        flags_text=flags_text,
        expected_entries=expected_entries,
        allow_version_change=allow_version_change,
        is_first=process_index == 0,
    )
    own = path / rows.file_name(process_index, num_processes)
    elsewhere = rows.collect(part for part in rows.part_files(path) if part != own)
    all_columns = _columns(path, columns)
    if messages and starts.COLUMN not in all_columns:
        messages.append(f"{path}: its rows have no column start to tell them apart.")
    process = {"process_index": process_index, "num_processes": num_processes}
    return RunFolder(
        path,
        rows.RowsFile(own, all_columns),
        finished_elsewhere=frozenset(elsewhere.indices()),
        messages=messages,
        versions=here.versions | process,
    )


def start_run(
    workdir: str | pathlib.Path,
    *,
    flags: Mapping[str, str],
    flags_text: str,
    facts: Mapping[str, str],
    operational: Collection[str] = (),
    range_flags: Collection[str] = (),
    expected_entries: Collection[str] = (),
    allow_version_change: bool = False,
    is_first: bool = True,
) -> list[str]:
    """Makes a folder a run, or checks that it is the same run, without rows.

    [host] What `open_run` does first; alone for runs whose results are no rows of
    examples. It records the start.

    Args:
        workdir: the folder, created where needed.
        flags: as for `open_run`.
        flags_text: as for `open_run`.
        facts: as for `open_run`.
        operational: as for `open_run`.
        range_flags: as for `open_run`.
        expected_entries: as for `open_run`.
        allow_version_change: as for `open_run`.
        is_first: whether this process writes `versions.json` and `flags.txt`.

    Returns:
        What software and hardware has changed, one line each.

    Raises:
        ValueError: if the folder holds something else or another run, or one of other
            software or hardware.
        OSError: if the folder cannot be written, or process 0 does not start the run.

    Example:
        >>> import tempfile
        >>> how = {"flags": {"seed": "1"}, "flags_text": "--seed=1", "facts": {}}
        >>> with tempfile.TemporaryDirectory() as folder:
        ...     start_run(folder, **how), start_run(folder, **how)
        ([], [])
    """
    path = pathlib.Path(workdir)
    here = _identity(flags, facts, operational, range_flags)
    messages = _begin(
        path,
        here,
        flags_text=flags_text,
        expected_entries=expected_entries,
        allow_version_change=allow_version_change,
        is_first=is_first,
    )
    starts.record(path, here.versions)
    return messages


def check_run(
    workdir: str | pathlib.Path,
    *,
    flags: Mapping[str, str],
    facts: Mapping[str, str],
    operational: Collection[str] = (),
    expected_entries: Collection[str] = (),
    allow_version_change: bool = False,
) -> None:
    """Raises the errors of `open_run`; writes nothing.

    [host] For scripts, before they train or load anything.

    Args:
        workdir: the folder; it need not exist.
        flags: as for `open_run`.
        facts: those that are known already.
        operational: as for `open_run`.
        expected_entries: as for `open_run`.
        allow_version_change: as for `open_run`.

    Raises:
        ValueError: if the folder holds something else or another run, or one of other
            software or hardware.
        NotADirectoryError: if it is a file.

    Example:
        >>> import tempfile
        >>> with tempfile.TemporaryDirectory() as folder:
        ...     _ = start_run(folder, flags={"sigma": "0.5"}, flags_text="", facts={})
        ...     check_run(folder, flags={"sigma": "1.0"}, facts={})
        Traceback (most recent call last):
        ValueError: workdir=... is another run: --sigma is 0.5 there and 1.0 here.
    """
    path = pathlib.Path(workdir)
    if path.exists() and not path.is_dir():
        raise NotADirectoryError(f"workdir={str(path)!r} is a file, not a folder.")
    if (path / provenance.FILE_NAME).exists():
        there = provenance.read_identity(path)
        known = {name: there.facts[name] for name in facts if name in there.facts}
        here = _identity(flags, facts, operational, ())
        _refuse_another(path, there._replace(facts=known), here)
        _changed_versions(path, there, here, is_allowed=allow_version_change)
    elif path.is_dir():
        _refuse_foreign(path, expected_entries)


def _identity(
    flags: Mapping[str, str],
    facts: Mapping[str, str],
    operational: Collection[str],
    range_flags: Collection[str],
) -> provenance.Identity:
    return provenance.Identity(
        flags={name: str(value) for name, value in flags.items()},
        facts={name: str(value) for name, value in facts.items()},
        operational=tuple(operational),
        range_flags=tuple(range_flags),
        versions=provenance.environment(),
    )


def _columns(path: pathlib.Path, columns: Sequence[str]) -> tuple[str, ...]:
    """The columns with that of the start, unless the run was begun without it."""
    headers = [rows.read_header(part) for part in rows.part_files(path)]
    return tuple(columns) if tuple(columns) in headers else (*columns, starts.COLUMN)


def _begin(
    path: pathlib.Path,
    here: provenance.Identity,
    *,
    flags_text: str,
    expected_entries: Collection[str],
    allow_version_change: bool,
    is_first: bool,
) -> list[str]:
    """Makes the folder a run or checks that it is this run; returns what changed."""
    path.mkdir(parents=True, exist_ok=True)
    _start(path, here, expected_entries, is_first=is_first)
    there = provenance.read_identity(path)
    _refuse_another(path, there, here)
    messages = _changed_versions(path, there, here, is_allowed=allow_version_change)
    if is_first and not (path / "flags.txt").exists():
        atomic.write_text(path / "flags.txt", flags_text.rstrip("\n") + "\n")
    return messages


def _start(
    path: pathlib.Path,
    here: provenance.Identity,
    expected_entries: Collection[str],
    *,
    is_first: bool,
) -> None:
    """Makes the folder a run unless it is one; raises if it holds other files."""
    if (path / provenance.FILE_NAME).exists():
        return
    _refuse_foreign(path, expected_entries)
    if is_first:
        provenance.write_identity(path, here)
    else:
        _wait_for(path / provenance.FILE_NAME)


def _refuse_foreign(path: pathlib.Path, expected_entries: Collection[str]) -> None:
    names = sorted(entry.name for entry in path.iterdir())
    others = [name for name in names if name[0] != "." and name not in expected_entries]
    if others:
        raise ValueError(
            f"workdir={str(path)!r} is not a run and not empty: it holds {others[0]}."
        )


def _refuse_another(
    path: pathlib.Path, there: provenance.Identity, here: provenance.Identity
) -> None:
    wrong = provenance.differences(there, here, ignored=here.operational)
    if wrong:
        raise ValueError(f"workdir={str(path)!r} is another run: {'; '.join(wrong)}.")


def _changed_versions(
    path: pathlib.Path,
    there: provenance.Identity,
    here: provenance.Identity,
    *,
    is_allowed: bool,
) -> list[str]:
    """Raises ValueError for software or hardware that the run has not used.

    A change that was allowed once is part of the run, and is not asked for again.
    """
    known = [there.versions, *starts.read(path).values()]
    changes = [
        provenance.changed_versions(versions, here.versions) for versions in known
    ]
    if not all(changes):
        return []
    if not is_allowed:
        raise ValueError(
            f"workdir={str(path)!r} was computed otherwise, and numbers may differ: "
            f"{'; '.join(changes[0])}. --allow_version_change continues it all the "
            "same, and records it."
        )
    return [f"{path}: {text}." for text in changes[0]]


def _wait_for(path: pathlib.Path) -> None:
    deadline = time.monotonic() + _START_TIMEOUT
    while not path.exists():
        if time.monotonic() > deadline:
            raise TimeoutError(f"Process 0 did not write {path}.")
        time.sleep(0.1)
