"""Cells of the parameters of an attribute: where a search begins, and areas."""

import functools
import itertools
import math
from collections.abc import Callable, Sequence

import jax
import numpy as np

from robustjax import _callables, bounds
from robustjax.semantic import counterexamples
from robustjax.semantic.attributes import TRANSLATION, Attribute

# The widest cells worth bounding, in the unit of each parameter.
_WIDEST = {"rotation": 2.0, "scale": 0.05, "shear": 0.1, "hue": 1 / 24}
_WIDEST_OTHER = 0.25
_NUM_ALONG = 33  # points of the grid an area is measured on, an axis


def first_cells(
    attribute: Attribute, ranges: Sequence[tuple[float, float]]
) -> np.ndarray:
    """Cells `[n, 2, d]` that cover the limits; zero is a corner, not inside. [host].

    Args:
        attribute: what moves.
        ranges: from `limits.resolve`.

    Returns:
        The cells. Moves of pixels are cut at whole pixels.
    """
    edges = [
        _edges(name, left, right)
        for name, (left, right) in zip(attribute.names, ranges, strict=True)
    ]
    intervals = [list(itertools.pairwise(line)) for line in edges]
    cells = [np.array(sides).T for sides in itertools.product(*intervals)]
    return np.array(cells).reshape(-1, 2, len(ranges))


def _edges(name: str, left: float, right: float) -> np.ndarray:
    if name in TRANSLATION:
        whole = np.arange(-math.floor(left), math.floor(right) + 1)
        return np.unique(np.concatenate([[-left], whole, [right]]))
    widest = _WIDEST.get(name, _WIDEST_OTHER)
    sides = [
        np.linspace(0.0, end, max(math.ceil(abs(end) / widest), 1) + 1)
        for end in (-left, right)
    ]
    return np.unique(np.concatenate(sides))


def straightened_widths(attribute: Attribute, cells: np.ndarray) -> tuple[float, ...]:
    """The largest widths of cells, of a scale in 1 / (1 + delta). [host]."""
    widths = []
    for name, (low, high) in zip(
        attribute.names, np.moveaxis(cells, 2, 0).swapaxes(1, 2), strict=True
    ):
        straight = (1 / (1 + high), 1 / (1 + low)) if name == "scale" else (low, high)
        widths.append(round(float(np.max(straight[1] - straight[0])) * (1 + 1e-9), 12))
    return tuple(widths)


def kept_area(
    apply_fn: Callable[[jax.Array], jax.Array],
    image: np.ndarray,
    label: int,
    *,
    attribute: Attribute,
    ranges: Sequence[tuple[float, float]],
) -> float:
    """Part of a grid of the limits on which the model keeps the label. [host]."""
    lines = [
        (np.arange(_NUM_ALONG) + 0.5) / _NUM_ALONG * (left + right) - left
        for left, right in ranges
    ]
    moves = np.stack(np.meshgrid(*lines), axis=-1).reshape(-1, len(ranges))
    fn = bounds.single(_callables.as_partial(apply_fn))
    model = counterexamples.Model(fn, attribute, image, label)
    return float(np.mean(~model.is_lost(moves)))


def connected_area(cells: np.ndarray, ranges: Sequence[tuple[float, float]]) -> float:
    """Part of the volume of the limits in cells connected with zero. [host]."""
    if not len(cells):
        return 0.0
    reached = np.all((cells[:, 0] <= 0) & (cells[:, 1] >= 0), axis=1)
    pending = list(np.flatnonzero(reached))
    while pending:
        cell = cells[pending.pop()]
        touches = np.all((cells[:, 0] <= cell[1]) & (cells[:, 1] >= cell[0]), axis=1)
        new = np.flatnonzero(touches & ~reached)
        reached[new] = True
        pending += list(new)
    volumes = np.prod(cells[reached, 1] - cells[reached, 0], axis=1)
    whole = functools.reduce(lambda v, r: v * (r[0] + r[1]), ranges, 1.0)
    return float(min(volumes.sum() / whole, 1.0)) if whole > 0 else 0.0
