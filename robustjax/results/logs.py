"""Logs of certification runs: ours, and those that other tools have published.

All are tab-separated text with a header, read by the names in it; gzip is accepted.
Known columns of others: `radius` (l2; Cohen et al. and their successors), `radius_L1`,
`radius_LInf`, `radius_L2`, `radius_cohen`, `radiusR` (higher-order certification).

Scripts that append to their log write the header again after a restart, and some end
it with lines of averages: neither is a row. An index that is there twice would count
twice in every average, so it raises an error. So does a log whose column `correct`
contradicts `predict` and `label`, or with a radius that is not a number >= 0.
"""

import dataclasses
import gzip
import pathlib
import zlib
from collections.abc import Sequence
from typing import NamedTuple

import numpy as np

from robustjax.results.run_folder import rows

_INTEGERS = frozenset({"idx", "label", "predict", "correct"})
_REQUIRED = ("idx", "label", "predict")
_GZIP_MAGIC = b"\x1f\x8b"
_MAX_EXACT = 2.0**53  # above it float64 skips integers
_RADII = ("radius", "zeroth_radius")  # how the names of columns of radii begin
_SEPARATORS = (",", ";", "|", " ")  # of tables that are not tab-separated


class _Table(NamedTuple):
    """Rows as text, and where each was read."""

    columns: tuple[str, ...]
    records: list[tuple[str, ...]]
    lines: list[int]  # line of each record in the file; empty for a run folder
    skipped: tuple[str, ...]  # lines that are no rows


@dataclasses.dataclass(frozen=True)
class Log:
    """A log with one row an example.

    Attributes:
        path: where it was read.
        columns: name -> array `[n]`; integers, float64 or strings. `time` is in
            seconds, `predict` is -1 where the classifier abstains. `correct` is 1
            where `predict` is the label and not -1; it need not be in the file.
        skipped: lines after the rows that are not rows: "line 12: average 0.5", or in
            a run folder "rows.tsv, line 12: cut off in the middle".
    """

    path: pathlib.Path
    columns: dict[str, np.ndarray]
    skipped: tuple[str, ...] = ()

    def __len__(self) -> int:
        return len(self.columns["idx"])

    @property
    def predict(self) -> np.ndarray:
        """Predicted class, -1 where the smoothed classifier abstains."""
        return self.columns["predict"]

    @property
    def correct(self) -> np.ndarray:
        """Whether the prediction is the label, as booleans."""
        return self.columns["correct"] != 0

    @property
    def radii(self) -> dict[str, np.ndarray]:
        """Certified radii by lower-case norm ("l2", "linf", "cohen"), main one first.

        Raises:
            ValueError: if the rows of the column `radius` are of different norms.
        """
        found: dict[str, np.ndarray] = {}
        for name, values in self.columns.items():
            if name == "radius":
                found = {self._main_norm(): values, **found}
            elif name.startswith("radius"):
                key = name.removeprefix("radius").removeprefix("_").lower()
                found.setdefault(key, values)
        return found

    def radius(self, norm: str = "") -> np.ndarray:
        """Certified radii of one norm, by default of the first that the log has.

        Raises:
            ValueError: if the log has no such radius; the text lists those it has.
        """
        radii = self.radii
        if not radii:
            raise ValueError(f"{self.path} has no column of radii.")
        norm = norm.lower() or next(iter(radii))
        if norm not in radii:
            known = ", ".join(radii)
            raise ValueError(f"{self.path} has no {norm} radius; it has: {known}.")
        return radii[norm]

    def _main_norm(self) -> str:
        norms = np.unique(self.columns.get("norm", np.array(["l2"])))
        if len(norms) > 1:
            raise ValueError(f"{self.path} mixes norms: {', '.join(norms)}.")
        return str(norms[0]) if len(norms) else "l2"


def read_log(path: str | pathlib.Path) -> Log:
    r"""Reads a log file, or all rows of a run folder.

    [host]

    Args:
        path: a run folder, or a tab-separated file with a header, gzip or not. In a
            run folder a half-written last row is passed over; in a file, the header
            where it is written again and lines of text after the last row.

    Returns:
        The log; rows of a folder are sorted by idx.

    Raises:
        FileNotFoundError: if there is no such file, or no rows in the folder.
        ValueError: if the file is not such a log, a row is damaged, an idx is there
            more than once, `correct` is not 1 exactly where `predict` is the label and
            not -1, or a radius is not finite and >= 0; the text names the line.

    Example:
        >>> import pathlib, tempfile
        >>> lines = ["idx label predict radius correct time",
        ...          "20 7 7 0.0829 1 0:00:14.22"]
        >>> with tempfile.TemporaryDirectory() as folder:
        ...     path = pathlib.Path(folder) / "sigma_0.50"
        ...     _ = path.write_text("\n".join(lines).replace(" ", "\t"))
        ...     log = read_log(path)
        >>> print(log.radius("l2"), log.columns["time"])
        [0.0829] [14.22]
    """
    log, table = _log(pathlib.Path(path))
    _refuse_repeated(log, table)
    _refuse_wrong(log, table)
    return log


def read_unchecked(path: str | pathlib.Path) -> Log:
    """Reads a log as `read_log`, but accepts rows that contradict themselves.

    [host] For `verify_run`, which reports an idx that is there twice, a wrong `correct`
    and impossible radii.
    """
    return _log(pathlib.Path(path))[0]


def is_correct(predict: np.ndarray, label: np.ndarray) -> np.ndarray:
    """Where the prediction is the label; abstentions (-1) are never correct. [host]."""
    return (predict == label) & (predict != -1)


def _log(path: pathlib.Path) -> tuple[Log, _Table]:
    table = _read_folder(path) if path.is_dir() else _read_file(path)
    missing = [name for name in _REQUIRED if name not in table.columns]
    if missing:
        reason = _other_separator(table.columns) or f"no column {missing[0]}"
        raise ValueError(f"{path} is not a certification log: {reason}.")
    twice = [name for name in table.columns if table.columns.count(name) > 1]
    if twice:
        raise ValueError(f"{path} has the column {twice[0]} more than once.")
    by_column = zip(*table.records, strict=True) if table.records else ()
    texts = dict(zip(table.columns, by_column, strict=False))
    columns = {n: _parse(path, n, texts.get(n, ()), table) for n in table.columns}
    if "correct" not in columns:
        right = is_correct(columns["predict"], columns["label"])
        columns["correct"] = right.astype(np.int64)
    return Log(path, columns, table.skipped), table


def _other_separator(columns: Sequence[str]) -> str:
    """What to say of a header whose names are separated by something else than tabs."""
    for separator in _SEPARATORS:
        names = {name.strip(' "') for name in columns[0].split(separator)}
        if names.issuperset(_REQUIRED):
            return f"its columns are separated by {separator!r}; expected tabs"
    return ""


def _read_folder(folder: pathlib.Path) -> _Table:
    parts = rows.part_files(folder)
    if not parts:
        raise FileNotFoundError(f"{folder} holds no rows.tsv.")
    found = rows.collect(parts)
    return _Table(found.columns, found.records, [], found.left_out)


def _read_file(path: pathlib.Path) -> _Table:
    lines = _read_text(path).replace("\r\n", "\n").rstrip("\n").split("\n")
    columns = tuple(lines[0].split("\t"))
    numbered = [
        (number, tuple(line.split("\t")))
        for number, line in enumerate(lines[1:], start=2)
        if line.strip() and line != lines[0]
    ]
    skipped: list[str] = []
    while numbered and _is_text(numbered[-1][1], columns):
        number, fields = numbered.pop()
        skipped.insert(0, f"line {number}: {' '.join(fields)}")
    for number, fields in numbered:
        if len(fields) != len(columns):
            raise ValueError(
                f"{path}, line {number}: {len(fields)} fields, expected {len(columns)}."
            )
    records = [fields for _, fields in numbered]
    return _Table(columns, records, [number for number, _ in numbered], tuple(skipped))


def _is_text(fields: Sequence[str], columns: Sequence[str]) -> bool:
    """Whether a line is no row, not even a part of one: it begins with no index."""
    is_index = fields[0].strip().removeprefix("-").isdecimal()
    return len(fields) != len(columns) and not is_index


def _refuse_repeated(log: Log, table: _Table) -> None:
    indices = log.columns["idx"]
    twice = rows.repeated(indices.tolist())
    if not twice:
        return
    first, second = np.flatnonzero(indices == twice[0])[:2]
    where = ""
    if table.lines:
        where = f", in lines {table.lines[first]} and {table.lines[second]}"
    raise ValueError(f"{log.path}: idx {twice[0]} is there more than once{where}.")


def _refuse_wrong(log: Log, table: _Table) -> None:
    """Raises ValueError for the first row that contradicts itself."""
    c = log.columns
    right = is_correct(c["predict"], c["label"])
    expected = "Expected correct as 1 where predict is label and not -1, else 0"
    _refuse_row(log, table, "correct", c["correct"] != right, expected)
    for name in (name for name in c if name.startswith(_RADII)):
        radius = np.array(_numbers(log.path, name, c[name].tolist(), table))
        wrong = ~(np.isfinite(radius) & (radius >= 0))
        _refuse_row(log, table, name, wrong, f"Expected {name} as finite numbers >= 0")


def _refuse_row(
    log: Log, table: _Table, column: str, wrong: np.ndarray, expected: str
) -> None:
    if wrong.any():
        row = int(np.argmax(wrong))
        where = f"line {table.lines[row]}, " if table.lines else ""
        where += f"idx {log.columns['idx'][row]}"
        got = log.columns[column][row]
        raise ValueError(f"{log.path}, {where}: {expected}, got {got}.")


def _read_text(path: pathlib.Path) -> str:
    data = path.read_bytes()
    try:
        if data.startswith(_GZIP_MAGIC):
            data = gzip.decompress(data)
        return data.decode("utf-8-sig")  # a byte order mark is dropped
    except (EOFError, OSError, zlib.error, UnicodeDecodeError):
        raise ValueError(f"{path} is truncated or not a text file.") from None


def _parse(
    path: pathlib.Path, name: str, texts: Sequence[str], table: _Table
) -> np.ndarray:
    if name in _INTEGERS:
        return np.array(_numbers(path, name, texts, table), dtype=np.int64)
    if name == "time" or name.startswith("radius"):
        return np.array(_numbers(path, name, texts, table), dtype=np.float64)
    return _guess(name, texts)


def _numbers(
    path: pathlib.Path, name: str, texts: Sequence[str | float], table: _Table
) -> list[float]:
    """The numbers of a column; an error names the line."""
    found = []
    for place, text in enumerate(texts):
        try:
            found.append(_number(name, text))
        except ValueError as error:
            line = f"line {table.lines[place]}, " if table.lines else ""
            raise ValueError(f"{path}, {line}column {name}: {error}.") from None
    return found


def _number(name: str, text: str | float) -> float:
    if name == "time":
        return _seconds(str(text))
    if name not in _INTEGERS:
        return float(text)
    number = int(text)
    if abs(number) >= 2**63:
        raise ValueError(f"{text} does not fit 64 bits")
    return number


def _guess(name: str, texts: Sequence[str]) -> np.ndarray:
    """Integers where all are, else floats, else strings; counts like 7.0 are 7."""
    try:
        return np.array([int(text) for text in texts], dtype=np.int64)
    except (ValueError, OverflowError):
        pass
    try:
        numbers = np.array([float(text) for text in texts], dtype=np.float64)
    except ValueError:
        return np.array(texts, dtype=np.str_)
    is_exact = np.abs(numbers) <= _MAX_EXACT  # false for NaN
    is_count = name.endswith("count") and np.all(is_exact & (np.mod(numbers, 1) == 0))
    return numbers.astype(np.int64) if is_count else numbers


def _seconds(text: str) -> float:
    """Seconds of `12.5`, `0:00:12.5` or `1 day, 0:00:12.5`."""
    days, separator, clock = text.partition(" day")
    if not separator:
        days, clock = "0", text
    total = 0.0
    for part in clock.lstrip("s, ").split(":"):
        total = 60 * total + float(part)
    return 86_400 * float(days) + total
