"""What smoothing costs: accuracy by class, noise in training and test, regions."""

import itertools
import math
from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import ArrayLike

from robustjax.plotting import style

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

_MAX_COLUMNS = 3
_NOISE = "Noise level $\\sigma$ of smoothing"


def accuracy_by_class(
    sigmas: ArrayLike,
    accuracy: Mapping[str, ArrayLike],
    *,
    bounds: Mapping[str, tuple[ArrayLike, ArrayLike]] | None = None,
    needed: Mapping[str, float] | None = None,
    vanishing: float | None = None,
    ylabel: str = "Accuracy of the class",
    title: str = "",
) -> "Figure":
    """Accuracy of every class against the noise level: the hidden cost of a radius.

    [host] With `needed`, vertical lines show how much noise a certified radius needs at
    least, on the axis on which classes are lost.

    Args:
        sigmas: noise levels `[s]`, increasing.
        accuracy: class name -> accuracies `[s]`; NaN leaves a gap.
        bounds: class name -> lower and upper bounds `[s]`, drawn as a band.
        needed: label -> noise level of a vertical line, e.g. of a target radius.
        vanishing: noise level at which a ball-shaped class of typical size would
            vanish, drawn as one more line.
        ylabel: of the accuracies, to tell certified from predicted ones.
        title: of the figure.

    Returns:
        A matplotlib figure, to be shown by a notebook or written by `save`.

    Raises:
        ValueError: if there is no class, or shapes do not match.
        ImportError: if matplotlib is missing.

    Example:
        >>> figure = accuracy_by_class([0, 0.5], {"cat": [0.9, 0.4], "ship": [1, 0.9]})
        >>> figure.axes[0].get_ylabel()
        'Accuracy of the class'
    """
    levels = np.asarray(sigmas, dtype=np.float64)
    _check_series(levels, accuracy)
    figure = style.new_figure((7.2, 4.4))
    axes = figure.add_subplot()
    looks = itertools.cycle(itertools.product(style.LINE_STYLES, style.COLOURS))
    for (name, values), (line, colour) in zip(accuracy.items(), looks, strict=False):
        axes.plot(
            levels,
            values,
            color=colour,
            linestyle=line,
            marker="o",
            markersize=3,
            label=name,
        )
        if bounds and name in bounds:
            axes.fill_between(levels, *bounds[name], color=colour, alpha=0.08)
    for label, sigma in (needed or {}).items():
        _draw_level(axes, sigma, label)
    if vanishing is not None and math.isfinite(vanishing):
        _draw_level(axes, vanishing, "ball vanishes", line=":")
    axes.set_xlabel(_NOISE, color=style.INK)
    axes.set_ylabel(ylabel, color=style.INK)
    axes.set_ylim(0.0, 1.02)
    axes.set_xlim(0.0, 1.03 * max(levels[-1], *(needed or {"": 0.0}).values()))
    if title:
        axes.set_title(title, loc="left", color=style.INK, pad=16)
    style.finish(axes)
    style.add_legend(figure, axes, is_below=True)
    return figure


def noise_heat_map(
    train_sigmas: ArrayLike,
    test_sigmas: ArrayLike,
    values: Mapping[str, ArrayLike],
    *,
    title: str = "",
) -> "Figure":
    """Figures of runs over noise in training (rows) and in smoothing (columns).

    [host] One panel a figure, e.g. accuracy, least class accuracy and gap; the number
    of each run is written into its cell. Equal levels are framed.

    Args:
        train_sigmas: `[t]`.
        test_sigmas: `[s]`.
        values: label -> `[t, s]`, in [0, 1]; NaN for a run that is missing.
        title: of the figure.

    Returns:
        A matplotlib figure, to be shown by a notebook or written by `save`.

    Raises:
        ValueError: if there are no values, or shapes do not match.
        ImportError: if matplotlib is missing.

    Example:
        >>> figure = noise_heat_map([0, 0.5], [0.5], {"gap": [[0.4], [0.1]]})
        >>> figure.axes[0].get_title(loc="left")
        'gap'
    """
    rows, columns = np.asarray(train_sigmas), np.asarray(test_sigmas)
    tables = {label: np.asarray(v, np.float64) for label, v in values.items()}
    shape = (len(rows), len(columns))
    if not tables or any(table.shape != shape for table in tables.values()):
        found = {label: table.shape for label, table in tables.items()}
        raise ValueError(f"Expected values of shape {shape}, got {found}.")
    width = 1.6 + 0.62 * len(columns)
    figure = style.new_figure((width * len(tables), 1.9 + 0.5 * len(rows)))
    for place, (label, table) in enumerate(tables.items()):
        axes = figure.add_subplot(1, len(tables), place + 1)
        axes.imshow(table, cmap="viridis", vmin=0.0, vmax=1.0, aspect="auto")
        for i, j in np.ndindex(*shape):
            _write_cell(
                axes, (i, j), float(table[i, j]), is_equal=rows[i] == columns[j]
            )
        axes.set_xticks(range(len(columns)), [f"{v:g}" for v in columns])
        axes.set_yticks(range(len(rows)), [f"{v:g}" for v in rows])
        axes.set_xlabel("$\\sigma$ of smoothing", color=style.INK)
        if not place:
            axes.set_ylabel("$\\sigma$ in training", color=style.INK)
        axes.set_title(label, loc="left", color=style.INK, fontsize=10)
        axes.tick_params(colors=style.INK, length=0)
        for spine in axes.spines.values():
            spine.set_visible(False)
    if title:
        figure.suptitle(title, color=style.INK)
    return figure


def region_slice(
    slices: Mapping[str, Any],
    *,
    class_names: Sequence[str],
    title: str = "",
) -> "Figure":
    """Decision regions in a plane, without noise and smoothed, side by side.

    [host]

    Args:
        slices: label -> `hidden_cost.SliceMap`, all of one plane: the regions without
            noise are drawn once, then the smoothed ones of each.
        class_names: of the classes.
        title: of the figure.

    Returns:
        A matplotlib figure, to be shown by a notebook or written by `save`.

    Raises:
        ValueError: if there is no slice.
        ImportError: if matplotlib is missing.

    Example:
        >>> import jax
        >>> from robustjax import hidden_cost
        >>> disc = lambda x: jax.numpy.stack(
        ...     [x[:, 0] ** 2 + x[:, 1] ** 2, 1 + 0 * x[:, 0]], -1)
        >>> points = np.array([[0.0, 0.0], [1.0, 0.0], [0.0, 1.0]])
        >>> found = hidden_cost.slice_map(jax.random.key(0), disc, points, sigma=0.5,
        ...                             num_classes=2, resolution=8, num_samples=128)
        >>> figure = region_slice({"sigma 0.5": found}, class_names=["out", "in"])
        >>> [axes.get_title(loc="left") for axes in figure.axes]
        ['no noise', 'sigma 0.5']
    """
    if not slices:
        raise ValueError("Expected at least one slice to draw, got none.")
    from matplotlib.colors import ListedColormap
    from matplotlib.patches import Patch

    first = next(iter(slices.values()))
    panels = {"no noise": first.base}
    panels |= {label: each.smoothed for label, each in slices.items()}
    shades = [*style.CLASS_COLOURS, "#FFFFFF"]
    colours = [shades[i % len(shades)] for i in range(len(class_names))] + ["#FFFFFF"]
    num_columns = min(len(panels), _MAX_COLUMNS)
    num_rows = math.ceil(len(panels) / num_columns)
    figure = style.new_figure((3.3 * num_columns, 0.8 + 3.4 * num_rows))
    extent = (*_edges(first.x), *_edges(first.y))
    for place, (label, labels) in enumerate(panels.items()):
        axes = figure.add_subplot(num_rows, num_columns, place + 1)
        axes.imshow(
            labels,
            origin="lower",
            extent=extent,
            interpolation="nearest",
            cmap=ListedColormap(colours),
            vmin=-0.5,
            vmax=len(colours) - 0.5,
        )
        axes.plot(
            *first.coordinates.T,
            "o",
            color="white",
            markeredgecolor="black",
            markersize=6,
        )
        axes.set_title(label, loc="left", color=style.INK, fontsize=10)
        axes.tick_params(colors=style.INK, length=0, labelsize="small")
        if not place % num_columns:
            axes.set_ylabel("Input units", color=style.INK)
    shown = sorted({int(v) for labels in panels.values() for v in np.unique(labels)})
    names = [*class_names, "not finite"]
    figure.legend(
        handles=[Patch(facecolor=colours[i], label=names[i]) for i in shown],
        loc="outside lower center",
        ncols=min(len(shown), 6),
        frameon=False,
        labelcolor=style.INK,
    )
    if title:
        figure.suptitle(title, color=style.INK)
    return figure


def shrinkage_along_rays(
    base_exit: ArrayLike,
    smoothed_exit: Mapping[str, ArrayLike],
    *,
    title: str = "",
) -> "Figure":
    """How far a class reaches along rays, smoothed against without noise.

    [host] Below the diagonal a region has shrunk along the ray; at zero it is empty.

    Args:
        base_exit: distances `[n]` at which the class ends without noise.
        smoothed_exit: label -> distances `[n]` at which the smoothed class ends; NaN,
            for a start that is not in the smoothed region, is drawn at zero.
        title: of the figure.

    Returns:
        A matplotlib figure, to be shown by a notebook or written by `save`.

    Raises:
        ValueError: if there is nothing to draw, or shapes do not match.
        ImportError: if matplotlib is missing.

    Example:
        >>> figure = shrinkage_along_rays([1.0, 2.0], {"sigma 0.5": [0.8, np.nan]})
        >>> figure.axes[0].get_xlabel()
        'Exit without noise (input units)'
    """
    base = np.asarray(base_exit, np.float64)
    _check_series(base, smoothed_exit)
    figure = style.new_figure((5.4, 4.8))
    axes = figure.add_subplot()
    finite = base[np.isfinite(base)]
    end = 1.05 * float(finite.max(initial=0.0)) or 1.0
    axes.plot([0, end], [0, end], color="#999999", linewidth=1, label="no change")
    looks = zip(smoothed_exit.items(), itertools.cycle(style.COLOURS), strict=False)
    for (label, values), colour in looks:
        reached = np.nan_to_num(np.asarray(values, np.float64), posinf=np.inf)
        axes.plot(
            base, reached, "o", color=colour, markersize=4, alpha=0.6, label=label
        )
    axes.set_xlim(0.0, end)
    axes.set_ylim(-0.02 * end, end)
    axes.set_xlabel("Exit without noise (input units)", color=style.INK)
    axes.set_ylabel("Exit of the smoothed class", color=style.INK)
    if title:
        axes.set_title(title, loc="left", color=style.INK)
    style.finish(axes)
    style.add_legend(figure, axes, is_below=True)
    return figure


def _check_series(at: np.ndarray, series: Mapping[str, ArrayLike]) -> None:
    if not series:
        raise ValueError("Expected at least one series to draw, got none.")
    for label, values in series.items():
        if np.shape(values) != at.shape:
            raise ValueError(
                f"Expected {at.shape} values of {label!r}, got {np.shape(values)}."
            )


def _edges(centres: np.ndarray) -> tuple[float, float]:
    """Outer edges of a row of pixels with these centres."""
    half = 0.5 * (centres[1] - centres[0]) if len(centres) > 1 else 0.5
    return centres[0] - half, centres[-1] + half


def _draw_level(axes: "Axes", sigma: float, label: str, *, line: str = "--") -> None:
    axes.axvline(sigma, color="#777777", linestyle=line, linewidth=1)
    axes.annotate(
        label,
        (sigma, 0.03),
        (3, 0),
        textcoords="offset points",
        fontsize=8,
        color="#555555",
        rotation=90,
        va="bottom",
    )


def _write_cell(
    axes: "Axes", place: tuple[int, int], value: float, *, is_equal: bool
) -> None:
    from matplotlib.patches import Rectangle

    row, column = place
    if math.isfinite(value):
        ink = "black" if value > 0.6 else "white"
        axes.text(
            column, row, f"{value:.2f}", ha="center", va="center", color=ink, fontsize=9
        )
    if is_equal:
        frame = Rectangle((column - 0.47, row - 0.45), 0.94, 0.9, fill=False,
                          edgecolor="white", linewidth=1.6)  # fmt: skip
        axes.add_patch(frame)
