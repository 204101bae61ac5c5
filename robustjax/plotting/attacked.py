"""Accuracy of several classifiers under several attacks."""

from collections.abc import Mapping
from typing import TYPE_CHECKING

import numpy as np
from numpy.typing import ArrayLike

from robustjax.plotting import style

if TYPE_CHECKING:
    from matplotlib.figure import Figure

_SPREAD = 0.5  # of the attacks of one classifier, in units of its row


def accuracy_under_attack(
    accuracies: Mapping[str, Mapping[str, ArrayLike]], *, title: str = ""
) -> "Figure":
    """A row of dots a classifier, one dot an attack, with the spread over seeds.

    [host]

    Args:
        accuracies: classifier -> attack -> accuracies `[seeds]` in [0, 1]; the attacks
            of the first one are drawn. Bars are standard deviations.
        title: of the figure.

    Returns:
        A matplotlib figure, to be shown by a notebook or written by `save`.

    Raises:
        ValueError: if there is nothing to draw, or an attack is missing.
        ImportError: if matplotlib is missing.

    Example:
        >>> figure = accuracy_under_attack({"SimCLR": {"clean": [0.97, 0.98]}})
        >>> [text.get_text() for text in figure.axes[0].get_yticklabels()]
        ['SimCLR']
    """
    first: Mapping[str, ArrayLike] = next(iter(accuracies.values()), {})
    if not first:
        raise ValueError("Expected at least one classifier and attack, got none.")
    for name, own in accuracies.items():
        if set(own) != set(first):
            raise ValueError(
                f"Expected attacks {', '.join(first)} of {name}, got {', '.join(own)}."
            )
    figure = style.new_figure((7.2, 1.4 + 0.42 * len(accuracies)))
    axes = figure.add_subplot()
    rows = np.arange(len(accuracies))
    offsets = _SPREAD * (np.arange(len(first)) / max(len(first) - 1, 1) - 0.5)
    for index, attack in enumerate(first):
        values = [np.asarray(own[attack], np.float64) for own in accuracies.values()]
        spread = [v.std(ddof=1) if v.size > 1 else 0.0 for v in values]
        dots = axes.errorbar(
            [v.mean() for v in values],
            rows + offsets[index],
            xerr=spread,
            fmt="o",
            markersize=5,
            linewidth=1.4,
            capsize=2,
            color=style.COLOURS[index % len(style.COLOURS)],
        )
        dots[0].set_label(attack)
    axes.set_yticks(rows, list(accuracies))
    axes.set_ylim(len(accuracies) - 0.5, -0.5)  # the first on top
    axes.set_xlim(0.0, 1.02)
    axes.set_xlabel("Accuracy", color=style.INK)
    if title:
        axes.set_title(title, loc="left", color=style.INK, pad=16)
    style.finish(axes)
    style.add_legend(figure, axes, is_below=True)
    return figure
