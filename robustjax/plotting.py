"""Figures of robustness: certified accuracy against radius.

Needs matplotlib (`pip install robustjax[plot]`), which is imported on use. Figures are
made without pyplot, so nothing global changes and no display is needed.
"""

import itertools
import math
import pathlib
from collections.abc import Mapping
from typing import TYPE_CHECKING

import numpy as np
from numpy.typing import ArrayLike

from robustjax.results import statistics

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

# Okabe and Ito (2008), told apart with any colour vision; without its pale yellow.
_COLOURS = (
    "#0072B2",
    "#D55E00",
    "#009E73",
    "#CC79A7",
    "#E69F00",
    "#56B4E9",
    "#000000",
)
_LINE_STYLES = ("-", "--", ":", "-.")
_INK = "#333333"
_LEGEND_CHARACTERS = 72  # that fit beside each other, with 6 for each line sample
_NORMS = {"l1": "$\\ell_1$", "l2": "$\\ell_2$", "linf": "$\\ell_\\infty$"}


def certified_accuracy_curve(
    runs: Mapping[str, tuple[ArrayLike, ArrayLike]],
    *,
    norm: str = "l2",
    alpha: float | None = None,
    confidence: float = 0.999,
    max_radius: float | None = None,
    title: str = "",
) -> "Figure":
    """Certified accuracy against radius, one step curve a run.

    [host] The curves are exact: each steps down at every certified radius of its run.

    Args:
        runs: label -> `(correct, radius)`, arrays `[n]`, radii in input units.
        norm: of the radii, for the axis.
        alpha: failure probability of one certificate, in (0, 1). If given, a band
            reaches down to the lower bound on the true certified accuracy.
        confidence: of that bound, in (0, 1).
        max_radius: end of the horizontal axis; by default the largest correct radius.
        title: of the figure.

    Returns:
        A matplotlib figure, to be shown by a notebook or written by `save`.

    Raises:
        ValueError: if there are no runs, or a run has no examples.
        ImportError: if matplotlib is missing.

    Example:
        >>> figure = certified_accuracy_curve({"sigma 0.5": ([1, 1, 0], [0.2, 1, 0])})
        >>> figure.axes[0].get_ylabel()
        'Certified accuracy'
    """
    if not runs:
        raise ValueError("Expected at least one run to draw, got none.")
    figure, axes = _new_figure()
    styles = itertools.cycle(itertools.product(_LINE_STYLES, _COLOURS))
    for (label, (correct, radius)), (line, colour) in zip(
        runs.items(), styles, strict=False
    ):
        at, accuracy = _steps(correct, radius)
        axes.step(at, accuracy, where="pre", label=label, color=colour, linestyle=line)
        if alpha is not None:
            lower = statistics.certified_accuracy_lower(
                correct, radius, at, alpha=alpha, confidence=confidence
            )
            lower[-1] = 0.0
            axes.fill_between(
                at, lower, accuracy, step="pre", color=colour, alpha=0.2, linewidth=0
            )
    _finish(figure, axes, norm=norm, title=title, max_radius=max_radius)
    return figure


def save(figure: "Figure", path: str | pathlib.Path) -> None:
    """Writes a figure; the suffix of the path chooses png, pdf or svg.

    [host]

    Raises:
        ValueError: if the suffix is not of a known format.
        OSError: if the file cannot be written.
    """
    path = pathlib.Path(path)
    path.parent.mkdir(parents=True, exist_ok=True)
    figure.savefig(path, dpi=200)


def _new_figure() -> "tuple[Figure, Axes]":
    try:
        from matplotlib.figure import Figure
    except ImportError as error:
        message = "Figures need matplotlib: pip install 'robustjax[plot]'."
        raise ImportError(message) from error
    figure = Figure(figsize=(6.4, 4.0), layout="constrained")
    return figure, figure.add_subplot()


def _steps(correct: ArrayLike, radius: ArrayLike) -> tuple[np.ndarray, np.ndarray]:
    """Corners of the curve: its value up to and including each radius, then zero."""
    is_correct = np.asarray(correct).astype(bool)
    certified = np.asarray(radius, dtype=np.float64)[is_correct]
    at = np.unique(np.append(certified[np.isfinite(certified)], 0.0))
    accuracy = statistics.certified_accuracy(correct, radius, at)
    return np.append(at, at[-1]), np.append(accuracy, 0.0)


def _finish(
    figure: "Figure",
    axes: "Axes",
    *,
    norm: str,
    title: str,
    max_radius: float | None,
) -> None:
    """Labels, limits, a light grid, and a legend outside of the data."""
    axes.set_xlabel(f"{_NORMS.get(norm, norm)} radius (input units)", color=_INK)
    axes.set_ylabel("Certified accuracy", color=_INK)
    axes.set_xlim(0.0, max_radius or 1.02 * axes.dataLim.x1 or 1.0)
    axes.set_ylim(0.0, 1.0)
    axes.grid(color="#E5E5E5", linewidth=0.8)
    axes.set_axisbelow(True)
    axes.tick_params(colors=_INK, length=0)
    for side, spine in axes.spines.items():
        spine.set_visible(side in ("left", "bottom"))
        spine.set_color("#999999")
    if title:
        axes.set_title(title, loc="left", color=_INK)
    _add_legend(figure, axes)


def _add_legend(figure: "Figure", axes: "Axes") -> None:
    lengths = [len(str(line.get_label())) for line in axes.get_lines()]
    most_columns = max(1, _LEGEND_CHARACTERS // (max(lengths) + 6))
    num_rows = math.ceil(len(lengths) / most_columns)
    figure.legend(
        loc="outside upper left",
        ncols=math.ceil(len(lengths) / num_rows),
        frameon=False,
        labelcolor=_INK,
    )
