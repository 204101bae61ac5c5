"""Tables of certified accuracy of several runs, for papers and read-me files."""

import math
import os
import pathlib
from collections.abc import Mapping, Sequence

import numpy as np

from robustjax import _validate, metrics
from robustjax.results import logs


def run_names(paths: Sequence[str | pathlib.Path]) -> list[str]:
    """Short names of runs: their paths without the folders that all share."""
    texts = [os.path.abspath(path) for path in paths]
    shared = os.path.commonpath([os.path.dirname(text) for text in texts])
    return [os.path.relpath(text, shared) for text in texts]


def radius_grid(largest: float) -> list[float]:
    """Evenly spaced round radii from 0 to at most `largest`, about ten of them.

    [host]

    Args:
        largest: the largest radius of interest, >= 0.

    Returns:
        The radii, increasing.

    Example:
        >>> radius_grid(0.9)
        [0.0, 0.1, 0.2, 0.3, 0.4, 0.5, 0.6, 0.7, 0.8, 0.9]
    """
    if not (math.isfinite(largest) and largest > 0):
        return [0.0]
    power = 10.0 ** math.floor(math.log10(largest / 10))
    steps = (power * factor for factor in (1, 2.5, 5, 10))
    step = next(step for step in steps if largest / step < 10)
    return [float(f"{step * i:.6g}") for i in range(math.floor(largest / step) + 1)]


def radius_by_name(log: logs.Log, norm: str) -> np.ndarray:
    """Certified radii of a norm, or of order 0 in a run of order 1, as "zeroth_l1".

    [host]

    Args:
        log: of a run.
        norm: as in `Log.radius`, or "zeroth_" and the norm.

    Returns:
        Radii `[n]` in input units.

    Raises:
        ValueError: if the log has no such radii.
    """
    order, _, of = norm.lower().partition("_")
    column = f"zeroth_radius_{of}"
    if order == "zeroth" and column in log.columns:
        return log.columns[column]
    return log.radius(norm)


def accuracy_table(
    runs: Mapping[str, logs.Log],
    *,
    norm: str | Sequence[str] = "l2",
    radii: Sequence[float] = (),
) -> list[list[str]]:
    """Builds the cells of the table: a header, then one line per run.

    [host]

    Args:
        runs: name -> log.
        norm: whose radii are compared, as in `Log.radius`, or "zeroth_l1" for those of
            order 0 in a run of order 1; or one for each run, in their order.
        radii: columns of the table, in input units; by default a round grid up to the
            largest certified radius.

    Returns:
        Rows of text: run, certified accuracy at every radius, ACR, share abstained.

    Raises:
        ValueError: if a log has no rows or no radius of that norm, or if the norms
            are not one a run.

    Example:
        >>> names = ["idx", "label", "predict", "correct", "radius"]
        >>> rows = np.array([[0, 4, 4, 1, 0.4], [1, 7, 7, 1, 1.0], [2, 7, -1, 0, 0.0]])
        >>> log = logs.Log(pathlib.Path("a"), dict(zip(names, rows.T)))
        >>> print(to_markdown(accuracy_table({"a": log}, radii=[0.0, 0.5])))
        | run |     0 |   0.5 |    ACR | abstain |
        | --- | ----: | ----: | -----: | ------: |
        | a   | 0.667 | 0.333 | 0.4667 |   0.333 |
    """
    norms = [norm] * len(runs) if isinstance(norm, str) else norm
    _validate.same_length(runs=list(runs), norm=norms)
    parts = [(*run, n) for run, n in zip(runs.items(), norms, strict=True)]
    if not len(radii):
        radii = radius_grid(max(_largest_radius(log, n) for _, log, n in parts))
    header = ["run", *(f"{r:g}" for r in radii), "ACR", "abstain"]
    return [header, *(_line(name, log, n, radii) for name, log, n in parts)]


def to_markdown(table: Sequence[Sequence[str]]) -> str:
    """Formats the table in Markdown, with aligned columns.

    [host]

    Args:
        table: rows of cells, the header first, as from `accuracy_table`.

    Returns:
        The text, one line a row, without a last newline.

    Example:
        >>> print(to_markdown([["run", "0"], ["a", "0.50"]]))
        | run |    0 |
        | --- | ---: |
        | a   | 0.50 |
    """
    widths = [max(len(cell) for cell in column) for column in zip(*table, strict=True)]
    lines = [
        "| " + " | ".join(_padded(row, widths)) + " |" for row in [table[0], *table[1:]]
    ]
    rule = ["-" * widths[0], *("-" * (width - 1) + ":" for width in widths[1:])]
    return "\n".join([lines[0], "| " + " | ".join(rule) + " |", *lines[1:]])


def to_latex(table: Sequence[Sequence[str]]) -> str:
    r"""Formats the table in LaTeX, for the package booktabs.

    [host]

    Args:
        table: rows of cells, the header first, as from `accuracy_table`.

    Returns:
        A tabular environment; special characters are escaped.

    Example:
        >>> print(to_latex([["run", "0"], ["a_1", "0.50"]]))
        \begin{tabular}{lr}
        \toprule
        run & 0 \\
        \midrule
        a\_1 & 0.50 \\
        \bottomrule
        \end{tabular}
    """
    lines = [" & ".join(_escaped(cell) for cell in row) + r" \\" for row in table]
    columns = "l" + "r" * (len(table[0]) - 1)
    return "\n".join(
        [
            rf"\begin{{tabular}}{{{columns}}}",
            r"\toprule",
            lines[0],
            r"\midrule",
            *lines[1:],
            r"\bottomrule",
            r"\end{tabular}",
        ]
    )


def _line(name: str, log: logs.Log, norm: str, radii: Sequence[float]) -> list[str]:
    radius = radius_by_name(log, norm)
    accuracy = metrics.certified_accuracy(log.correct, radius, radii)
    average = metrics.average_certified_radius(log.correct, radius)
    abstained = metrics.abstention_rate(log.predict)
    return [
        name,
        *(f"{value:.3f}" for value in accuracy),
        f"{average:.4f}",
        f"{abstained:.3f}",
    ]


def _largest_radius(log: logs.Log, norm: str) -> float:
    return float(np.max(radius_by_name(log, norm), where=log.correct, initial=0.0))


def _padded(row: Sequence[str], widths: Sequence[int]) -> list[str]:
    first, *numbers = row
    padded = [cell.rjust(w) for cell, w in zip(numbers, widths[1:], strict=True)]
    return [first.ljust(widths[0]), *padded]


def _escaped(text: str) -> str:
    for symbol in "_%&#$":
        text = text.replace(symbol, f"\\{symbol}")
    return text
