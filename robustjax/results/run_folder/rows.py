"""Rows files: a header, then one tab-separated line an example, appended as it comes.

The first six columns are those that existing analysis scripts read. A line counts
only with its newline, so a writer killed in the middle loses that one row.
"""

import collections
import contextlib
import os
import pathlib
from collections.abc import Iterable, Mapping, Sequence
from typing import IO, Any, NamedTuple, Self

from robustjax.results.run_folder import locks, starts

CUT_OFF = "cut off in the middle"
STANDARD_COLUMNS = ("idx", "label", "predict", "radius", "correct", "time")
_INTEGERS = frozenset({"idx", "label", "predict", "correct"})
_CIRCUMSTANCES = frozenset({"time", starts.COLUMN})


class Rows(NamedTuple):
    """The complete rows of one or several files, as text."""

    columns: tuple[str, ...]
    records: list[tuple[str, ...]]
    left_out: tuple[str, ...] = ()  # lines that are no complete rows, "rows.tsv, ..."

    def indices(self) -> list[int]:
        """The `idx` of every row."""
        return [int(record[0]) for record in self.records]


def file_name(process_index: int, num_processes: int) -> str:
    """Name of the rows file of one process: `rows.tsv` if it is the only one."""
    if num_processes == 1:
        return "rows.tsv"
    return f"rows-{process_index:05d}-of-{num_processes:05d}.tsv"


def part_files(folder: pathlib.Path) -> list[pathlib.Path]:
    """All rows files of a run folder, whatever number of processes wrote them."""
    return sorted([*folder.glob("rows.tsv"), *folder.glob("rows-*-of-*.tsv")])


def read_rows(path: pathlib.Path) -> Rows:
    """Reads the complete rows of a file; a half-written last row is passed over.

    Raises:
        ValueError: if a row before the last one is damaged; the text names the line.
    """
    data = path.read_bytes()
    header, newline, _ = data.partition(b"\n")
    if not newline:
        return Rows((), [])
    columns = _split(header)
    records, good_bytes = _scan(path, data, columns)
    *complete, cut = data[good_bytes:].split(b"\n")
    reasons = [*("no row" for _ in complete), *([CUT_OFF] if cut else [])]
    left_out = [
        f"{path.name}, line {number}: {reason}"
        for number, reason in enumerate(reasons, start=len(records) + 2)
    ]
    return Rows(columns, records, tuple(left_out))


def read_header(path: pathlib.Path) -> tuple[str, ...]:
    """The columns of a rows file; empty if its header is not complete."""
    with path.open("rb") as file:
        header = file.readline()
    return _split(header[:-1]) if header.endswith(b"\n") else ()


def collect(paths: Iterable[pathlib.Path]) -> Rows:
    """Reads several rows files as one, sorted by idx.

    A row that stands in two files, equal in all but its time and its start, is one
    row: a merged `rows.tsv` lies next to the files it was made from, and two launches
    of one run may have computed the same examples.

    Raises:
        ValueError: if the files have different columns or a damaged row.
    """
    columns: tuple[str, ...] = ()
    records: list[tuple[str, ...]] = []
    left_out: tuple[str, ...] = ()
    for path in paths:
        part = read_rows(path)
        left_out += part.left_out
        if columns and part.columns and part.columns != columns:
            raise ValueError(f"{path} has other columns than the files next to it.")
        columns = columns or part.columns
        known = {_result(record, columns) for record in records}
        records += [r for r in part.records if _result(r, columns) not in known]
    records.sort(key=lambda record: int(record[0]))
    return Rows(columns, records, left_out)


def to_text(rows: Rows) -> str:
    """The content of a rows file: header and lines."""
    return "".join("\t".join(record) + "\n" for record in [rows.columns, *rows.records])


class RowsFile:
    """A rows file open for appending by this process alone.

    Opening repairs: a half-written last row is cut off, and `messages` says so.

    Attributes:
        path: the file.
        finished: idx of every row in it.
        messages: what was repaired, one line each.
    """

    def __init__(self, path: pathlib.Path, columns: Sequence[str]) -> None:
        """Opens or creates the file and takes its lock.

        Raises:
            ValueError: if the file is open for writing elsewhere, has other columns,
                a damaged row before the last one, or one idx twice.
            OSError: if it cannot be opened.
        """
        self.path = path
        self.columns = tuple(columns)
        self.finished: set[int] = set()
        self.messages: list[str] = []
        self._file: IO[bytes] = path.open("a+b", buffering=0)
        try:
            if not locks.take(self._file):
                raise ValueError(f"{path} is already open for writing elsewhere.")
            self._resume()
        except (ValueError, OSError):
            self.close()
            raise

    def append(self, rows: Iterable[Mapping[str, Any]]) -> None:
        """Writes rows with one write and waits until the disk has them.

        Floats are written so that reading them gives the same number.

        Args:
            rows: one mapping an example with a value for every column: integers,
                floats, booleans or printable strings.

        Raises:
            ValueError: if a column is missing or unknown, an idx is already there, or
                a value does not fit its column.
            OSError: if the disk is full or fails; rows written before stay intact.
        """
        records = [self._record(row) for row in rows]
        indices = [int(record[0]) for record in records]
        _require_distinct([*self.finished, *indices], self.path)
        self._write("".join("\t".join(record) + "\n" for record in records).encode())
        self.finished.update(indices)

    def close(self) -> None:
        """Closes the file and gives its lock back."""
        self._file.close()

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def _resume(self) -> None:
        self._file.seek(0)
        data = self._file.read()
        header = "\t".join(self.columns).encode() + b"\n"
        if not data.startswith(header):
            if not header.startswith(data):
                raise ValueError(f"{self.path} has other columns than this run writes.")
            self._file.truncate(0)
            self._write(header)
            return
        records, good_bytes = _scan(self.path, data, self.columns)
        indices = [int(record[0]) for record in records]
        _require_distinct(indices, self.path)
        self.finished.update(indices)
        if good_bytes < len(data):
            self._file.truncate(good_bytes)
            self.messages.append(
                f"{self.path}: cut off a half-written row after {len(records)} rows."
            )

    def _record(self, row: Mapping[str, Any]) -> tuple[str, ...]:
        if set(row) != set(self.columns):
            wrong = sorted(set(row) ^ set(self.columns))
            raise ValueError(f"Expected one value per column; see {', '.join(wrong)}.")
        record = tuple(to_field(name, row[name]) for name in self.columns)
        if not _fits(record, self.columns):
            text = dict(zip(self.columns, record, strict=True))
            raise ValueError(f"Expected numbers in the standard columns, got {text}.")
        return record

    def _write(self, data: bytes) -> None:
        descriptor = self._file.fileno()
        good_bytes = os.fstat(descriptor).st_size
        try:
            while data:
                data = data[os.write(descriptor, data) :]
            os.fsync(descriptor)
        except OSError as error:
            with contextlib.suppress(OSError):
                os.ftruncate(descriptor, good_bytes)
            raise OSError(error.errno, error.strerror, str(self.path)) from error


def _result(record: tuple[str, ...], columns: Sequence[str]) -> tuple[str, ...]:
    """What a row says of its example, without when and where it was computed."""
    fields = zip(columns, record, strict=True)
    return tuple(text for name, text in fields if name not in _CIRCUMSTANCES)


def repeated(indices: Iterable[int]) -> list[int]:
    """The indices that occur more than once, sorted."""
    counts = collections.Counter(indices)
    return sorted(index for index, count in counts.items() if count > 1)


def _require_distinct(indices: Iterable[int], path: pathlib.Path) -> None:
    twice = repeated(indices)
    if twice:
        raise ValueError(f"{path}: idx {twice[0]} would be there twice.")


def _scan(
    path: pathlib.Path, data: bytes, columns: Sequence[str]
) -> tuple[list[tuple[str, ...]], int]:
    """The sound records behind the header, and the number of bytes they end at."""
    lines = data.split(b"\n")[:-1]  # what follows the last newline is half-written
    good_bytes = len(lines[0]) + 1
    records: list[tuple[str, ...]] = []
    for number, line in enumerate(lines[1:], start=2):
        record = _split(line)
        if not _fits(record, columns):
            if number == len(lines):
                break
            raise ValueError(f"{path}, line {number} is damaged.")
        records.append(record)
        good_bytes += len(line) + 1
    return records, good_bytes


def _split(line: bytes) -> tuple[str, ...]:
    try:
        return tuple(line.decode("utf-8").split("\t"))
    except UnicodeDecodeError:
        return ()


def _fits(record: Sequence[str], columns: Sequence[str]) -> bool:
    if len(record) != len(columns):
        return False
    try:
        for name, text in zip(columns, record, strict=True):
            if name in _INTEGERS:
                int(text)
            elif name in STANDARD_COLUMNS:
                float(text)
    except ValueError:
        return False
    return True


def to_field(name: str, value: Any) -> str:
    """The text of a value in a rows file; reading it gives the same number.

    [host]

    Args:
        name: of its column, for the error.
        value: an integer, float, boolean or printable string.

    Returns:
        The text.

    Raises:
        ValueError: for any other value.
    """
    value = value.item() if hasattr(value, "item") else value  # NumPy and JAX scalars
    if isinstance(value, int):
        return str(int(value))
    if isinstance(value, float):
        return repr(value)
    if isinstance(value, str) and value.isprintable():
        return value
    raise ValueError(
        f"Expected column {name} to be a number or a printable string, got {value!r}."
    )
