"""Certified accuracy against radius, and certified regions."""

import itertools
import math
from collections.abc import Mapping
from typing import TYPE_CHECKING

import numpy as np
from numpy.typing import ArrayLike

from robustjax import _validate, metrics
from robustjax.plotting import style

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure
    from matplotlib.lines import Line2D

_ORDER_STYLES = (
    dict(label="first order", colour="#0072B2", line="-"),
    dict(label="zeroth order", colour="#D55E00", line="--"),
)
_MAX_COLUMNS = 3
_NORMS = {"l1": "$\\ell_1$", "l2": "$\\ell_2$", "linf": "$\\ell_\\infty$"}
_CHANNELS = ("red", "green", "blue")


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
        norm: of the radii, for the axis; "" names none.
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
    figure = style.new_figure((6.4, 4.0))
    axes = figure.add_subplot()
    styles = itertools.cycle(itertools.product(style.LINE_STYLES, style.COLOURS))
    for (label, run), (line, colour) in zip(runs.items(), styles, strict=False):
        curve = _draw_steps(axes, run, colour=colour, line=line, label=label)
        if alpha is not None:
            _draw_band(axes, run, curve, alpha=alpha, confidence=confidence)
    _finish_curves(axes, norm=norm, max_radius=max_radius)
    if title:
        axes.set_title(title, loc="left", color=style.INK)
    style.add_legend(figure, axes)
    return figure


def certified_accuracy_by_norm(
    correct: ArrayLike,
    zeroth: Mapping[str, ArrayLike],
    first: Mapping[str, ArrayLike],
    *,
    alpha: float | None = None,
    confidence: float = 0.999,
    title: str = "",
) -> "Figure":
    """Certified accuracy of first against zeroth order, one panel a norm.

    [host] The curves are exact, as those of `certified_accuracy_curve`. Above each
    panel are the average certified radii of zeroth and first order, the areas under
    the curves. The panel of linf has a second scale in units of 1/255.

    Args:
        correct: `[n]`, whether the prediction is the label.
        zeroth: norm -> zeroth-order radii `[n]` in input units.
        first: norm -> first-order radii `[n]` of the same norms.
        alpha: failure probability of one certificate, in (0, 1). If given, bands
            reach down to the lower bounds on the true certified accuracy.
        confidence: of those bounds, in (0, 1).
        title: of the figure.

    Returns:
        A matplotlib figure whose panels have the order of `zeroth`.

    Raises:
        ValueError: if there are no norms or no examples, or the norms differ.
        ImportError: if matplotlib is missing.

    Example:
        >>> figure = certified_accuracy_by_norm(
        ...     [1, 1, 0], {"l1": [0.2, 1, 0]}, {"l1": [0.3, 1.2, 0]}
        ... )
        >>> figure.axes[0].get_title(loc="left")
        'ACR 0.400 to 0.500'
    """
    if not zeroth or set(zeroth) != set(first):
        raise ValueError(
            "Expected zeroth and first of the same norms, at least one, got "
            f"{list(zeroth)} and {list(first)}."
        )
    num_columns = 2 if len(zeroth) == 4 else min(len(zeroth), _MAX_COLUMNS)
    num_rows = math.ceil(len(zeroth) / num_columns)
    figure = style.new_figure((max(3.4 * num_columns, 6.4), 0.9 + 3.1 * num_rows))
    for place, norm in enumerate(zeroth):
        axes = figure.add_subplot(num_rows, num_columns, place + 1)
        runs = [(correct, radius[norm]) for radius in (first, zeroth)]
        curves = [
            _draw_steps(axes, run, **style)
            for run, style in zip(runs, _ORDER_STYLES, strict=True)
        ]
        if alpha is not None:
            for run, curve in zip(runs, curves, strict=True):
                _draw_band(axes, run, curve, alpha=alpha, confidence=confidence)
        _finish_curves(axes, norm=norm, max_radius=None)
        if place % num_columns:
            axes.set_ylabel("")
        if norm == "linf":
            _add_level_scale(axes)
        new, old = (metrics.average_certified_radius(*run) for run in runs)
        digits = 4 if norm == "linf" else 3
        summary = f"ACR {old:.{digits}f} to {new:.{digits}f}"
        pad = 20.0 if "linf" in zeroth else 6.0  # above the second scale of linf
        axes.set_title(
            summary, loc="left", y=1.0, pad=pad, color=style.INK, fontsize=10
        )
    if title:
        figure.suptitle(title, color=style.INK)
    style.add_legend(figure, figure.axes[0], is_below=True)
    return figure


def certified_region(
    angles: ArrayLike,
    radii: Mapping[str, ArrayLike],
    *,
    reference: float | None = None,
    max_radius: float | None = None,
    units: str = "units of $\\sigma$",
    title: str = "",
) -> "Figure":
    """Certified regions around a point, in a plane that contains the gradient.

    [host] The point is in the middle, the gradient points to the right. A region is
    given by its radius in every direction, and mirrored on the gradient. Colours follow
    the order of the regions, from dark to light.

    Args:
        angles: `[k]` between the perturbation and the direction *against* the gradient,
            increasing within [0, pi]: 0 is the worst direction.
        radii: label -> radii `[k]` at the angles, >= 0; infinite where nothing ends the
            region.
        reference: radius of a circle to compare with, such as the zeroth-order ball.
        max_radius: half the width of the picture; by default twice the median of all
            finite radii.
        units: of the radii, for the axes.
        title: of the figure.

    Returns:
        A matplotlib figure, to be shown by a notebook or written by `save`.

    Raises:
        ValueError: if there are no regions, or angles or radii are out of range.
        ImportError: if matplotlib is missing.

    Example:
        >>> angles = np.linspace(0, np.pi, 181)
        >>> figure = certified_region(angles, {"ball": np.ones(181)}, units="pixels")
        >>> figure.axes[0].get_xlabel()
        'Along the gradient (pixels)'
    """
    angles = np.asarray(angles, dtype=np.float64)
    regions = {n: np.asarray(r, dtype=np.float64) for n, r in radii.items()}
    _check_regions(angles, regions)
    figure = style.new_figure((5.2, 5.6))
    axes = figure.add_subplot()
    extent = max_radius or 2 * _median(np.concatenate([*regions.values()])) or 1.0
    from matplotlib import colormaps

    shades = colormaps["viridis"](np.linspace(0.0, 0.85, len(regions)))
    for (label, radius), shade in zip(regions.items(), shades, strict=True):
        reached = np.minimum(radius, 20 * extent)
        along, across = -reached * np.cos(angles), reached * np.sin(angles)
        outline = np.append(along, along[::-1]), np.append(across, -across[::-1])
        axes.fill(*outline, facecolor=shade, alpha=0.08)
        axes.plot(*outline, color=shade, linewidth=1.8, label=label)
    if reference is not None:
        turn = np.linspace(0, 2 * np.pi, 361)
        circle = reference * np.cos(turn), reference * np.sin(turn)
        axes.plot(*circle, color="black", linestyle="--", label="zeroth order")
    _draw_gradient(axes, 0.45 * extent)
    _finish_region(axes, extent=extent, units=units)
    if title:
        axes.set_title(title, loc="left", color=style.INK)
    style.add_legend(figure, axes)
    return figure


def _draw_steps(
    axes: "Axes",
    run: tuple[ArrayLike, ArrayLike],
    *,
    colour: str,
    line: str,
    label: str,
) -> "Line2D":
    at, accuracy = _steps(*run)
    (curve,) = axes.step(
        at, accuracy, where="pre", label=label, color=colour, linestyle=line
    )
    return curve


def _draw_band(
    axes: "Axes",
    run: tuple[ArrayLike, ArrayLike],
    curve: "Line2D",
    *,
    alpha: float,
    confidence: float,
) -> None:
    """The band from a curve down to the lower bound on the true accuracy."""
    at, accuracy = curve.get_data()
    lower = metrics.certified_accuracy_lower(
        *run, at, alpha=alpha, confidence=confidence
    )
    lower[-1] = 0.0
    axes.fill_between(
        at,
        lower,
        accuracy,
        step="pre",
        color=curve.get_color(),
        alpha=0.2,
        linewidth=0,
    )


def _steps(correct: ArrayLike, radius: ArrayLike) -> tuple[np.ndarray, np.ndarray]:
    """Corners of the curve: its value up to and including each radius, then zero."""
    is_correct, radius = np.asarray(correct).astype(bool), np.asarray(radius, float)
    _validate.same_length(correct=is_correct, radius=radius)
    certified = radius[is_correct]
    at = np.unique(np.append(certified[np.isfinite(certified)], 0.0))
    accuracy = metrics.certified_accuracy(correct, radius, at)
    return np.append(at, at[-1]), np.append(accuracy, 0.0)


def _check_regions(angles: np.ndarray, regions: Mapping[str, np.ndarray]) -> None:
    if not regions:
        raise ValueError("Expected at least one region to draw, got none.")
    if angles.ndim != 1 or not (
        len(angles) and angles[0] >= 0 and angles[-1] <= np.pi * (1 + 1e-12)
    ):
        raise ValueError(f"Expected angles `[k]` within [0, pi], got {angles}.")
    if not (np.diff(angles) > 0).all():
        raise ValueError(f"Expected increasing angles, got {angles}.")
    for label, radius in regions.items():
        if radius.shape != angles.shape or not (radius >= 0).all():
            raise ValueError(
                f"Expected {len(angles)} radii >= 0 of {label!r}, one an angle, got "
                f"{radius}."
            )


def _median(radii: np.ndarray) -> float:
    finite = radii[np.isfinite(radii)]
    return float(np.median(finite)) if finite.size else 0.0


def _draw_gradient(axes: "Axes", length: float) -> None:
    """The point x and an arrow along the gradient."""
    from matplotlib.patheffects import withStroke

    axes.plot(0, 0, marker="o", color=style.INK, markersize=5)
    arrow = dict(arrowstyle="-|>", color=style.INK, shrinkA=0, shrinkB=0)
    axes.annotate("", (length, 0), (0, 0), arrowprops=arrow)
    for text, at, offset in (("x", 0.0, (-8, -13)), ("gradient", length, (5, -4))):
        axes.annotate(
            text,
            (at, 0),
            offset,
            textcoords="offset points",
            color=style.INK,
            path_effects=[withStroke(linewidth=3, foreground="white")],
        )


def _finish_region(axes: "Axes", *, extent: float, units: str) -> None:
    axes.set_xlim(-extent, extent)
    axes.set_ylim(-extent, extent)
    axes.set_aspect("equal")
    axes.set_xlabel(f"Along the gradient ({units})", color=style.INK)
    axes.set_ylabel(f"Orthogonal to it ({units})", color=style.INK)
    style.finish(axes)


def _finish_curves(axes: "Axes", *, norm: str, max_radius: float | None) -> None:
    """Labels and limits, and a second scale for linf."""
    axes.set_xlabel(f"{_radius_name(norm)} (input units)", color=style.INK)
    axes.set_ylabel("Certified accuracy", color=style.INK)
    axes.set_xlim(0.0, max_radius or 1.02 * axes.dataLim.x1 or 1.0)
    axes.set_ylim(0.0, 1.0)
    style.finish(axes)


def _add_level_scale(axes: "Axes") -> None:
    """A second scale on top, in units of 1/255."""
    from matplotlib.ticker import MaxNLocator

    functions = (lambda radius: radius * 255, lambda level: level / 255)
    levels = axes.secondary_xaxis("top", functions=functions)
    levels.xaxis.set_major_locator(MaxNLocator(5))
    levels.xaxis.set_major_formatter("{x:g}/255")
    levels.tick_params(colors=style.INK, length=0, labelsize="small")
    levels.spines["top"].set_visible(False)


def _radius_name(norm: str) -> str:
    """What an axis calls the radii of a norm, or of a column of another tool."""
    kind, _, part = norm.partition(":")
    if kind == "subspace" and part:
        is_colour = part in _CHANNELS
        return f"Radius in the {part} channel" if is_colour else f"Radius in {part}"
    if norm not in _NORMS and norm[:1] == "l" and norm[1:].replace(".", "").isdigit():
        return f"$\\ell_{{{norm[1:]}}}$ radius"
    return f"{_NORMS.get(norm, norm)} radius" if norm else "Radius"
