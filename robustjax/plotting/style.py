"""What all figures share: size, colours, grid, legend, and the file they end in."""

import math
import pathlib
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

# Okabe and Ito (2008), distinguishable with any colour vision; without pale yellow.
COLOURS = (
    "#0072B2",
    "#D55E00",
    "#009E73",
    "#CC79A7",
    "#E69F00",
    "#56B4E9",
    "#000000",
)
# Tol (2021), light and muted, for areas.
CLASS_COLOURS = (
    "#88CCEE", "#CC6677", "#DDCC77", "#117733", "#332288", "#AA4499", "#44AA99",
    "#999933", "#882255", "#BBBBBB",
)  # fmt: skip
LINE_STYLES = ("-", "--", ":", "-.")
INK = "#333333"
_LEGEND_CHARACTERS = 72  # that fit in one row, with 8 for each line sample


def save(figure: "Figure", path: str | pathlib.Path) -> None:
    """Writes a figure; the suffix of the path chooses png, pdf or svg.

    [host]

    Args:
        figure: a figure of this package, or any other of matplotlib.
        path: path of the file; missing parent folders are made.

    Raises:
        ValueError: if the suffix is not of a known format.
        OSError: if the file cannot be written.

    Example:
        >>> import tempfile
        >>> with tempfile.TemporaryDirectory() as folder:
        ...     save(new_figure((3.0, 2.0)), f"{folder}/empty.png")
        ...     print([path.name for path in pathlib.Path(folder).iterdir()])
        ['empty.png']
    """
    path = pathlib.Path(path)
    path.parent.mkdir(parents=True, exist_ok=True)
    figure.savefig(path, dpi=200)


def new_figure(size: tuple[float, float]) -> "Figure":
    """Returns an empty figure of this size in inches, without pyplot."""
    try:
        from matplotlib.figure import Figure
    except ImportError as error:
        message = "Figures need matplotlib: pip install 'robustjax[plot]'."
        raise ImportError(message) from error
    return Figure(figsize=size, layout="constrained")


def finish(axes: "Axes") -> None:
    """A light grid, and no more frame than the axes need."""
    axes.grid(color="#E5E5E5", linewidth=0.8)
    axes.set_axisbelow(True)
    axes.tick_params(colors=INK, length=0)
    axes.tick_params(axis="x", pad=6)  # away from the zero of the other axis
    for side, spine in axes.spines.items():
        spine.set_visible(side in ("left", "bottom"))
        spine.set_color("#999999")


def add_legend(figure: "Figure", axes: "Axes", *, is_below: bool = False) -> None:
    """A legend of the curves of some axes, above or below the data."""
    labels = {line: str(line.get_label()) for line in axes.get_lines()}
    curves = [line for line, label in labels.items() if label[0] != "_"]
    width = max(len(labels[line]) for line in curves) + 8
    capacity = _LEGEND_CHARACTERS * figure.get_figwidth() / 6.4
    num_rows = math.ceil(len(curves) / max(1, capacity // width))
    figure.legend(
        handles=curves,
        loc="outside lower left" if is_below else "outside upper left",
        ncols=math.ceil(len(curves) / num_rows),
        frameon=False,
        labelcolor=INK,
    )
