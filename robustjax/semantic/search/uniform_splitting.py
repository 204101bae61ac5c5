"""Uniform splitting, as in the reference code: fixed cells outwards, for comparison.

    right = n w for the first cell [n w, (n + 1) w] that is not proven, or the limit,

left the same to the other side.
"""

from collections.abc import Callable
from typing import NamedTuple

import jax
import numpy as np
from jax.tree_util import Partial
from jax.typing import ArrayLike

from robustjax import _validate, bounds
from robustjax._precision import as_run
from robustjax.semantic import attributes, color, parameter_ranges
from robustjax.semantic.attributes import Attribute
from robustjax.semantic.search import cell_bounds, cell_grids

_BATCH = 8


class Preset(NamedTuple):
    """Published settings of the reference code."""

    attribute: str
    limit: float
    width: float
    subdivisions: int


PRESETS = {
    "cifar_hue": Preset("hue", 0.5, 0.2 / 6, 1),
    "mnist_rotation": Preset("rotation", 100.0, 0.5, 100),
}
"""Settings in the README of JeetMo/Semantify-NN: attribute, limit, width of a cell
and subdivisions. Hue is in turns; its eps 3 and delta 0.2 are sextants."""


class SplitRange(NamedTuple):
    """The range that cells of one width prove; float64 on the host."""

    left: float  # the label wins on [-left, right]
    right: float
    num_bounded: int


def certify_split(
    apply_fn: Callable[[jax.Array], jax.Array],
    image: ArrayLike,
    label: int,
    *,
    attribute: str | Attribute,
    width: float,
    limit: float | tuple[float, float] | None = None,
    subdivisions: int = 1,
    relaxation: str = "pixel_box",
    method: str = "crown",
    targets: str = "all",
) -> SplitRange:
    """The range proven by cells of one width, from zero outwards to the first failure.

    [host] Explicit splitting of Semantify-NN; with subdivisions also its implicit one:
    each cell is the union of that many boxes of pixels, which share the relaxations
    inside of the model. `certify` proves more and is faster; this is for comparison.

    Guarantee:
        As `certify`, on [-left, right].

    Args:
        apply_fn: as in `certify`.
        image: `[h, w, c]` in [0, 1].
        label: the class, an integer.
        attribute: of one parameter.
        width: of a cell, in the unit of the attribute.
        limit: how far to go, to both sides or (left, right).
        subdivisions: boxes whose union a cell is; only with boxes of pixels.
        relaxation: as in `certify`.
        method: as in `bounds.linear_bounds`.
        targets: as in `certify`.

    Returns:
        A `SplitRange`, ends of cells; 0 where the first cell fails.

    Raises:
        ValueError: for an image, attribute, limit or option that does not suit.
        UnsupportedError: if the model has an operation without a rule.

    Example:
        >>> import jax.numpy as jnp
        >>> def model(x):
        ...     brightness = x[:, 0, 0, 0]
        ...     return jnp.stack([brightness, 1.05 - brightness], axis=1)
        >>> image = np.full((1, 1, 1), 0.75)
        >>> found = certify_split(model, image, 0, attribute="brightness", width=0.1)
        >>> print(round(found.left, 6), found.right)
        0.2 1.0

    Reference: Mohapatra et al. (2020), arXiv 1912.09533.
    """
    _validate.positive(width=width)
    _validate.integer(1, subdivisions=subdivisions)
    _validate.one_of(cell_bounds.RELAXATIONS, relaxation=relaxation)
    if subdivisions > 1 and relaxation != "pixel_box":
        raise ValueError("Expected relaxation='pixel_box' with subdivisions.")
    moving = attributes.resolve(attribute)
    if len(moving.names) > 1:
        raise ValueError(f"Expected one parameter, got {moving.name!r}.")
    ((left, right),) = parameter_ranges.resolve(moving, limit)
    x = color.on_host(image, is_color=moving.is_color)
    fn = as_run(bounds.single(apply_fn))
    spec = cell_bounds.margin_spec(fn, x, label, targets=targets)
    lines = [_ends(end, width) for end in (-left, right)]
    cells = [np.stack([line[:-1], line[1:]], axis=1)[:, :, None] for line in lines]
    widths = cell_grids.straightened_widths(
        moving, np.sort(np.concatenate(cells), axis=1)
    )
    how = cell_bounds.How(moving, widths, relaxation, method, subdivisions)
    reached, num_bounded = [], 0
    for line, own in zip(lines, cells, strict=True):
        kept, bounded = _first_failure(fn, x, np.sort(own, axis=1), spec, how)
        reached.append(float(abs(line[kept])))
        num_bounded += bounded
    return SplitRange(reached[0], reached[1], num_bounded)


def _ends(end: float, width: float) -> np.ndarray:
    """Ends of cells from zero outwards, of one `linspace`; the last may be narrower."""
    count = int(np.floor(abs(end) / width * (1 + 1e-12)))
    whole = np.linspace(0.0, np.sign(end) * count * width, count + 1)
    rest = abs(end) - count * width
    return np.append(whole, end) if rest > 1e-9 * width else whole


def _first_failure(
    fn: Partial,
    image: np.ndarray,
    cells: np.ndarray,
    spec: np.ndarray,
    how: cell_bounds.How,
) -> tuple[int, int]:
    """How many cells are proven before the first that is not, and how many bounded."""
    for first in range(0, len(cells), _BATCH):
        own = cells[first : first + _BATCH]
        filled = np.resize(own, (_BATCH, *own.shape[1:]))
        is_proven = (
            cell_bounds.of_cells(fn, image, filled, spec=spec, how=how)[: len(own)] > 0
        )
        if not is_proven.all():
            return first + int(np.argmin(is_proven)), first + len(own)
    return len(cells), len(cells)
