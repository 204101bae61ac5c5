"""Merging: the files of several processes, or several runs over disjoint examples."""

import itertools
import math
import pathlib
from collections.abc import Collection, Iterable, Mapping, Sequence
from typing import Any

from robustjax.results.run_folder import atomic, provenance, rows, starts


def merge_parts(
    folder: pathlib.Path, *, expected: Iterable[int] | None = None
) -> pathlib.Path:
    """Gathers the rows files of a run folder in `rows.tsv`, sorted by idx.

    [host]

    Args:
        folder: a run folder whose processes have ended.
        expected: indices that have to be there, all of them and no others.

    Returns:
        The path of `rows.tsv`.

    Raises:
        ValueError: if an idx is there twice, is missing or was not expected.
    """
    merged = rows.collect(rows.part_files(folder))
    _refuse_repeated(merged, folder)
    if expected is not None:
        _refuse_gaps(merged, set(expected), folder)
    atomic.write_text(folder / "rows.tsv", rows.to_text(merged))
    return folder / "rows.tsv"


def merge_runs(
    runs: Sequence[str | pathlib.Path],
    *,
    output: str | pathlib.Path,
    allow_gaps: bool = False,
    allow_version_change: bool = False,
) -> pathlib.Path:
    """Merges runs of one configuration over disjoint examples into a new run.

    [host] Flags may differ only where the runs themselves say that it does not matter
    (operational and range flags); data, model and columns have to be equal. The new
    folder keeps the flags that all runs share, and the starts of all runs, numbered
    through.

    Args:
        runs: run folders.
        output: folder to create; it must be new or empty.
        allow_gaps: accept holes in the evenly spaced sequence of indices.
        allow_version_change: accept runs of different software or hardware.

    Returns:
        The path of the new folder.

    Raises:
        ValueError: if the runs do not belong together, an idx is there twice, there
            are gaps, software or hardware differ, or output is not empty.
        FileNotFoundError: if a folder is not a run.

    Example:
        >>> import tempfile
        >>> from robustjax.results import open_run, read_log
        >>> names = ["idx", "label", "predict", "radius", "correct", "time"]
        >>> how = {"flags": {}, "flags_text": "", "facts": {}, "columns": names}
        >>> with tempfile.TemporaryDirectory() as folder:
        ...     parts = [f"{folder}/first", f"{folder}/second"]
        ...     for index, part in enumerate(parts):
        ...         with open_run(part, **how) as run:
        ...             run.append([dict(zip(names, [index, 3, 3, 0.5, 1, 0.1]))])
        ...     len(read_log(merge_runs(parts, output=f"{folder}/whole")))
        2
    """
    folders = [pathlib.Path(run) for run in runs]
    output = pathlib.Path(output)
    if not folders:
        raise ValueError("Expected at least one run, got none.")
    if output.exists() and any(output.iterdir()):
        raise ValueError(f"output={str(output)!r} is not empty.")
    identities = [provenance.read_identity(folder) for folder in folders]
    _refuse_strangers(folders, identities)
    if not allow_version_change:
        _refuse_other_versions(folders, identities)
    history = [starts.read(folder) for folder in folders]
    merged = _concatenate(folders, _offsets(history))
    _refuse_repeated(merged, output)
    if not allow_gaps:
        _refuse_gaps(merged, _evenly_spaced(merged.indices()), output)
    shared = _shared(identities)
    shared.versions["merged_from"] = [str(folder) for folder in folders]
    _write_run(output, folders[0], shared, merged)
    for one in itertools.chain.from_iterable(map(_in_order, history)):
        starts.record(output, one)
    return output


def _refuse_strangers(
    folders: Sequence[pathlib.Path], identities: Sequence[provenance.Identity]
) -> None:
    first = identities[0]
    ignored = {*first.operational, *first.range_flags}
    for folder, other in zip(folders[1:], identities[1:], strict=True):
        wrong = provenance.differences(other, first, ignored=ignored)
        if wrong:
            raise ValueError(
                f"{folder} does not belong to {folders[0]}: {'; '.join(wrong)}."
            )


def _refuse_other_versions(
    folders: Sequence[pathlib.Path], identities: Sequence[provenance.Identity]
) -> None:
    for folder, other in zip(folders[1:], identities[1:], strict=True):
        changes = provenance.changed_versions(other.versions, identities[0].versions)
        if changes:
            raise ValueError(
                f"{folder} was computed otherwise than {folders[0]}, and numbers may "
                f"differ: {'; '.join(changes)}. --allow_version_change merges them all "
                "the same, and keeps the starts of both."
            )


def _in_order(history: Mapping[int, dict[str, Any]]) -> list[dict[str, Any]]:
    """Starts 1, 2, ... up to the last one; one that cannot be read is empty."""
    return [history.get(number, {}) for number in range(1, max(history, default=0) + 1)]


def _offsets(history: Sequence[Mapping[int, dict[str, Any]]]) -> list[int]:
    """How many starts come before those of each run."""
    return [0, *itertools.accumulate(len(_in_order(one)) for one in history)][:-1]


def _renumbered(part: rows.Rows, offset: int) -> list[tuple[str, ...]]:
    if starts.COLUMN not in part.columns:
        return part.records
    at = part.columns.index(starts.COLUMN)
    return [(*r[:at], str(int(r[at]) + offset), *r[at + 1 :]) for r in part.records]


def _concatenate(folders: Sequence[pathlib.Path], offsets: Sequence[int]) -> rows.Rows:
    columns: tuple[str, ...] = ()
    records: list[tuple[str, ...]] = []
    for folder, offset in zip(folders, offsets, strict=True):
        part = rows.collect(rows.part_files(folder))
        if not part.records:
            raise ValueError(f"{folder} holds no rows.")
        if columns and part.columns != columns:
            raise ValueError(f"{folder} has other columns than {folders[0]}.")
        columns = part.columns
        records += _renumbered(part, offset)
    return rows.Rows(columns, sorted(records, key=lambda record: int(record[0])))


def _refuse_repeated(merged: rows.Rows, where: pathlib.Path) -> None:
    twice = rows.repeated(merged.indices())
    if twice:
        raise ValueError(f"{where}: {_listed(twice)} would be there more than once.")


def _refuse_gaps(merged: rows.Rows, expected: set[int], where: pathlib.Path) -> None:
    present = set(merged.indices())
    if expected - present:
        raise ValueError(f"{where}: {_listed(expected - present)} missing.")
    if present - expected:
        raise ValueError(f"{where}: {_listed(present - expected)} not expected.")


def _evenly_spaced(indices: Sequence[int]) -> set[int]:
    """The arithmetic sequence that sorted indices are taken from, without holes."""
    steps = [b - a for a, b in itertools.pairwise(indices)]
    if not steps:
        return set(indices)
    return set(range(indices[0], indices[-1] + 1, math.gcd(*steps)))


def _shared(identities: Sequence[provenance.Identity]) -> provenance.Identity:
    """The first identity with only those flags that all runs have alike."""
    first = identities[0]
    alike = {
        name: value
        for name, value in first.flags.items()
        if all(other.flags.get(name) == value for other in identities)
    }
    return first._replace(flags=alike)


def _write_run(
    output: pathlib.Path,
    first: pathlib.Path,
    shared: provenance.Identity,
    merged: rows.Rows,
) -> None:
    output.mkdir(parents=True, exist_ok=True)
    provenance.write_identity(output, shared)
    dropped = provenance.read_identity(first).flags.keys() - shared.flags.keys()
    lines = (first / "flags.txt").read_text(encoding="utf-8").splitlines()
    kept = [line for line in lines if not _sets_one_of(line, dropped)]
    atomic.write_text(output / "flags.txt", "".join(line + "\n" for line in kept))
    atomic.write_text(output / "rows.tsv", rows.to_text(merged))


def _sets_one_of(line: str, names: Collection[str]) -> bool:
    name = line.strip().lstrip("-").partition("=")[0]
    return name in names or name.removeprefix("no") in names


def _listed(indices: Collection[int]) -> str:
    shown = ", ".join(str(index) for index in sorted(indices)[:5])
    more = f" and {len(indices) - 5} more" if len(indices) > 5 else ""
    return f"idx {shown}{more}"
