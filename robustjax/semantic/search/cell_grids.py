"""Cells of the parameters of an attribute: where a search begins, and areas.

    area = volume of the proven cells connected with zero / volume of the limits,

over the parameters that can move.
"""

import itertools
import math
from collections.abc import Callable, Sequence

import jax
import numpy as np

from robustjax import bounds
from robustjax._precision import as_run
from robustjax.semantic import parameter_ranges
from robustjax.semantic.attributes import TRANSLATION, Attribute
from robustjax.semantic.search import counterexamples

# The widest cells worth bounding, in the unit of each parameter.
_WIDEST = {"rotation": 2.0, "scale": 0.05, "shear": 0.1, "hue": 1 / 24}
_WIDEST_OTHER = 0.25
# The widest that are bounded, in the parameters of planes; inf: any. They fix shapes of
# compiled programs, so they do not depend on limits.
_BOUNDED = {
    "rotation": 2.0,
    "scale": 0.125,
    "shear": 0.1,
    "hue": 1 / 24,
    "translation_rows": 1.0,
    "translation_columns": 1.0,
}
_MOST_CELLS = 4096  # of all first cells together
_NUM_ALONG = 33  # points of the grid an area is measured on, an axis


def first_cells(
    attribute: Attribute,
    ranges: Sequence[tuple[float, float]],
    *,
    known: Sequence[tuple[float, float]] | None = None,
) -> np.ndarray:
    """Cells `[n, 2, d]` that cover the limits; zero is a corner, not inside. [host].

    Args:
        attribute: what moves.
        ranges: from `parameter_ranges.resolve`; a parameter whose limits are zero stays
            there.
        known: smaller limits; what is inside of them is left out.

    Returns:
        The cells, at most about 4096. Moves of pixels are cut at whole pixels.
    """
    counts = np.array(
        [
            [_count(name, end) for end in ends]
            for name, ends in zip(attribute.names, ranges, strict=True)
        ]
    )
    while np.prod(counts.sum(axis=1), dtype=np.float64) > _MOST_CELLS:
        longest = int(np.argmax(counts.sum(axis=1)))
        counts[longest] = np.ceil(counts[longest] / 2)
    inner = known or [(0.0, 0.0)] * len(ranges)
    edges = [
        np.unique(
            [
                *_side(name, -ends[0], num[0]),
                *_side(name, ends[1], num[1]),
                -cut[0],
                cut[1],
            ]
        )
        for name, ends, num, cut in zip(
            attribute.names, ranges, counts, inner, strict=True
        )
    ]
    intervals = [
        list(itertools.pairwise(line)) or [(line[0], line[0])] for line in edges
    ]
    cells = [np.array(sides).T for sides in itertools.product(*intervals)]
    found = np.array(cells).reshape(-1, 2, len(ranges))
    return found if known is None else found[~_inside(found, known)]


def _count(name: str, end: float) -> int:
    """How many cells to one side."""
    widest = 1.0 if name in TRANSLATION else _WIDEST.get(name, _WIDEST_OTHER)
    return min(math.ceil(end / widest), _MOST_CELLS)


def _side(name: str, end: float, count: int) -> np.ndarray:
    """The edges from zero to an end."""
    if not count:
        return np.zeros(1)
    if name not in TRANSLATION:
        return np.linspace(0.0, end, count + 1)
    step = math.ceil(abs(end) / count)
    return np.append(np.sign(end) * np.arange(0.0, abs(end), step), end)


def _inside(cells: np.ndarray, ranges: Sequence[tuple[float, float]]) -> np.ndarray:
    """Which cells lie inside of limits."""
    left, right = np.array(ranges).T
    return np.all((cells[:, 0] >= -left) & (cells[:, 1] <= right), axis=1)


def bounded_widths(attribute: Attribute) -> tuple[float, ...]:
    """The widest cells that searches bound, in the parameters of planes. [host]."""
    return tuple(_BOUNDED.get(name, math.inf) for name in attribute.names)


def nearest_share(
    cells: np.ndarray, ranges: Sequence[tuple[float, float]]
) -> np.ndarray:
    """Which share of the limits the nearest move of each cell takes. [host]."""
    return parameter_ranges.share_of(np.clip(0.0, cells[:, 0], cells[:, 1]), ranges)


def covers(cells: np.ndarray, ranges: Sequence[tuple[float, float]]) -> bool:
    """Whether every move within the limits lies in a cell; exact. [host].

    Args:
        cells: `[n, 2, d]`.
        ranges: from `parameter_ranges.resolve`.

    Returns:
        True if the closed cells have the whole box of limits as their union.
    """
    left, right = np.array(ranges, np.float64).T
    pending = [(np.stack([-left, right]), np.asarray(cells, np.float64))]
    while pending:
        box, near = pending.pop()
        touches = (near[:, 0] <= box[1]) & (near[:, 1] >= box[0])
        # A cell that shares no more than a face with the box covers none of its inside.
        overlaps = (near[:, 0] < box[1]) & (near[:, 1] > box[0])
        near = near[np.all(np.where(box[0] < box[1], overlaps, touches), axis=1)]
        if not len(near):
            return False
        holds = (near[:, 0] <= box[0]) & (near[:, 1] >= box[1])
        if np.all(holds, axis=1).any():
            continue
        axis, cut = _cut(box, near)
        for end in (0, 1):
            half = box.copy()
            half[1 - end, axis] = cut
            pending.append((half, near))
    return True


def _cut(box: np.ndarray, cells: np.ndarray) -> tuple[int, float]:
    """The axis and the middle one of the edges of cells inside of a box."""
    is_inside = (cells > box[0]) & (cells < box[1])
    axis = int(np.argmax(is_inside.sum(axis=(0, 1))))
    edges = np.unique(cells[:, :, axis][is_inside[:, :, axis]])
    return axis, float(edges[len(edges) // 2])


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
    fn = as_run(bounds.single(apply_fn))
    model = counterexamples.Model(fn, attribute, image, label)
    return float(np.mean(~model.is_lost(moves)))


def connected_area(cells: np.ndarray, ranges: Sequence[tuple[float, float]]) -> float:
    """Part of the volume of the limits in cells connected with zero. [host].

    Parameters whose limits are zero do not count.
    """
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
    sizes = np.array([left + right for left, right in ranges])
    widths = (cells[reached, 1] - cells[reached, 0])[:, sizes > 0]
    volumes = np.prod(widths / sizes[sizes > 0], axis=1)
    return float(min(volumes.sum(), 1.0))
