"""Semantic perturbations: how far attributes move, and what images then look like."""

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING

import numpy as np
from numpy.typing import ArrayLike

from robustjax.plotting import style

if TYPE_CHECKING:
    from matplotlib.figure import Figure

_NUM_BINS = 20


def radius_histograms(radii: Mapping[str, tuple[ArrayLike, ArrayLike]]) -> "Figure":
    """Histograms of certified radii and of attacks, one panel an attribute.

    [host]

    Args:
        radii: label with unit -> `(certified, attack)`, finite arrays `[n]`.

    Returns:
        A matplotlib figure.

    Raises:
        ValueError: if no radius is given, or one is not finite.
        ImportError: if matplotlib is missing.

    Example:
        >>> figure = radius_histograms({"hue (turns)": ([0.1, 0.2], [0.1, 0.3])})
        >>> figure.axes[0].get_xlabel()
        'hue (turns)'
    """
    if not radii:
        raise ValueError("Expected radii of at least one attribute, got none.")
    columns = min(len(radii), 3)
    rows = -(-len(radii) // columns)
    figure = style.new_figure((3.4 * columns, 2.6 * rows + 0.3))
    for index, (label, pair) in enumerate(radii.items()):
        certified, attack = (np.asarray(values, float) for values in pair)
        if not (np.isfinite(certified).all() and np.isfinite(attack).all()):
            raise ValueError(f"Expected finite radii, got others of {label}.")
        axes = figure.add_subplot(rows, columns, index + 1)
        largest = max(certified.max(), attack.max(), 1e-9)
        edges = np.linspace(0, largest, _NUM_BINS + 1).tolist()
        axes.hist(
            certified, edges, color=style.COLOURS[0], alpha=0.75, label="certified"
        )
        axes.hist(
            attack,
            edges,
            histtype="step",
            color=style.COLOURS[1],
            label="attack",
            linewidth=1.6,
        )
        axes.set_xlabel(label)
        axes.set_ylabel("images" if index % columns == 0 else "")
        axes.spines[["top", "right"]].set_visible(False)
        if index == 0:
            axes.legend(frameon=False)
    return figure


def image_grid(
    images: Sequence[Sequence[ArrayLike]], titles: Sequence[Sequence[str]]
) -> "Figure":
    """Rows of images with a title above each.

    [host]

    Args:
        images: rows of as many images `[h, w, c]` in [0, 1], c 1 or 3.
        titles: of each image.

    Returns:
        A matplotlib figure.

    Raises:
        ValueError: if rows differ in length, or titles do not match.
        ImportError: if matplotlib is missing.

    Example:
        >>> figure = image_grid([[np.zeros((2, 2, 1))]], [["black"]])
        >>> figure.axes[0].get_title()
        'black'
    """
    lengths = {len(row) for row in (*images, *titles)}
    if len(lengths) != 1 or len(images) != len(titles):
        raise ValueError("Expected rows of one length, and a title for each image.")
    (columns,) = lengths
    figure = style.new_figure((1.7 * columns, 1.9 * len(images)))
    for index, (row, names) in enumerate(zip(images, titles, strict=True)):
        for place, (image, title) in enumerate(zip(row, names, strict=True)):
            axes = figure.add_subplot(len(images), columns, index * columns + place + 1)
            pixels = np.clip(np.asarray(image, float), 0, 1)
            axes.imshow(
                pixels[..., 0] if pixels.shape[-1] == 1 else pixels,
                cmap="gray",
                vmin=0,
                vmax=1,
            )
            axes.set_title(title, fontsize=8)
            axes.set_axis_off()
    return figure
