"""Logs of certification runs: ours, and those that other tools have published.

All are tab-separated text with a header, read by the names in it; gzip is accepted.
Known columns of others: `radius` (l2; Cohen et al. and their successors), `radius_L1`,
`radius_LInf`, `radius_L2`, `radius_cohen`, `radiusR` (higher-order certification).
"""

import dataclasses
import gzip
import pathlib
import zlib
from collections.abc import Sequence

import numpy as np

from robustjax.results import rows

_INTEGERS = frozenset({"idx", "label", "predict", "correct"})
_GZIP_MAGIC = b"\x1f\x8b"


@dataclasses.dataclass(frozen=True)
class Log:
    """A log with one row an example.

    Attributes:
        path: where it was read.
        columns: name -> array `[n]`; integers, float64 or strings. `time` is in
            seconds, `predict` is -1 where the classifier abstains.
    """

    path: pathlib.Path
    columns: dict[str, np.ndarray]

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
            run folder a half-written last row is passed over.

    Returns:
        The log; rows of a folder are sorted by idx.

    Raises:
        FileNotFoundError: if there is no such file, or no rows in the folder.
        ValueError: if the file is not such a log, or a row is damaged.

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
    path = pathlib.Path(path)
    table = _read_folder(path) if path.is_dir() else _read_file(path)
    missing = [name for name in sorted(_INTEGERS) if name not in table.columns]
    if missing:
        raise ValueError(f"{path} is not a certification log: no column {missing[0]}.")
    by_column = zip(*table.records, strict=True) if table.records else ()
    texts = dict(zip(table.columns, by_column, strict=False))
    return Log(path, {n: _parse(path, n, texts.get(n, ())) for n in table.columns})


def _read_folder(folder: pathlib.Path) -> rows.Rows:
    parts = rows.part_files(folder)
    if not parts:
        raise FileNotFoundError(f"{folder} holds no rows.tsv.")
    return rows.collect(parts)


def _read_file(path: pathlib.Path) -> rows.Rows:
    lines = _read_text(path).replace("\r\n", "\n").rstrip("\n").split("\n")
    columns = tuple(lines[0].split("\t"))
    records = [tuple(line.split("\t")) for line in lines[1:]]
    for number, record in enumerate(records, start=2):
        if len(record) != len(columns):
            raise ValueError(
                f"{path}, line {number}: {len(record)} fields, expected {len(columns)}."
            )
    return rows.Rows(columns, records)


def _read_text(path: pathlib.Path) -> str:
    data = path.read_bytes()
    try:
        if data.startswith(_GZIP_MAGIC):
            data = gzip.decompress(data)
        return data.decode("utf-8")
    except (EOFError, OSError, zlib.error, UnicodeDecodeError):
        raise ValueError(f"{path} is truncated or not a text file.") from None


def _parse(path: pathlib.Path, name: str, texts: Sequence[str]) -> np.ndarray:
    try:
        if name in _INTEGERS:
            return np.array([int(text) for text in texts], dtype=np.int64)
        if name == "time":
            return np.array([_seconds(text) for text in texts], dtype=np.float64)
        if name.startswith("radius"):
            return np.array([float(text) for text in texts], dtype=np.float64)
    except (ValueError, OverflowError) as error:
        raise ValueError(f"{path}, column {name}: {error}.") from None
    return _guess(name, texts)


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
    is_count = name.endswith("count") and np.all(np.mod(numbers, 1) == 0)
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
