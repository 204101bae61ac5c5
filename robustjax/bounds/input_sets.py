"""Sets of inputs inside a box, and the smallest value of a linear form over them.

With w+ = max(w, 0) and w- = min(w, 0), for inputs between planes over a cell of p, and
for a union of boxes,

    min w . x >= min over p of (w+ . lower_slope + w- . upper_slope) . p
                 + w+ . lower_offset + w- . upper_offset,
    min w . x  = min over boxes of (w . centre - |w| . radius).
"""

from typing import NamedTuple

import jax
import jax.numpy as jnp

from robustjax.bounds import backward, ibp
from robustjax.bounds.backward import LinearForm, Total
from robustjax.bounds.operations import Interval


class AffineInputs(NamedTuple):
    """Inputs between affine functions of d parameters that lie in a cell.

    All x for which some p in the cell has lower_slope . p + lower_offset <= x <=
    upper_slope . p + upper_offset in every entry.
    """

    lower_slope: jax.Array  # [d, ...] as the input
    lower_offset: jax.Array  # [...] as the input
    upper_slope: jax.Array  # [d, ...] as the input
    upper_offset: jax.Array  # [...] as the input
    low: jax.Array  # [d], the lower corner of the cell
    high: jax.Array  # [d], the upper corner of the cell


class UnionOfBoxes(NamedTuple):
    """Inputs that lie in one of s boxes."""

    lower: jax.Array  # [s, ...] as the input
    upper: jax.Array  # [s, ...] as the input


InputSet = AffineInputs | UnionOfBoxes | None


def least(
    form: LinearForm,
    box: Interval,
    input_set: InputSet,
    *,
    total: Total = backward.whole,
) -> jax.Array:
    """Minimum of each row over a set inside a box. [device].

    Args:
        form: the rows.
        box: lower and upper bounds of the input.
        input_set: the set; None: the box itself.
        total: how the numbers of a row are summed.

    Returns:
        `[rows, cells]`, lower bounds; exact of boxes and pieces.
    """
    found = backward.least(form, box, total=total)
    if input_set is None:
        return found
    if isinstance(input_set, UnionOfBoxes):
        of_pieces = jax.vmap(lambda *piece: backward.least(form, piece, total=total))
        inside = jnp.min(of_pieces(*input_set), axis=0)
    else:
        inside = _between(form, input_set, total)
    return jnp.fmax(found, inside)


def _between(form: LinearForm, planes: AffineInputs, total: Total) -> jax.Array:
    """Each weight takes the plane on its side; then the cell is a box."""
    above, below = jnp.maximum(form.weight, 0.0), jnp.minimum(form.weight, 0.0)
    offsets = above * planes.lower_offset[None] + below * planes.upper_offset[None]
    found = form.bias + total(0, offsets)
    planes_of = planes.lower_slope, planes.upper_slope, planes.low, planes.high
    for lower, upper, low, high in zip(*planes_of, strict=True):
        slope = total(0, above * lower[None] + below * upper[None])
        found += jnp.minimum(slope * low, slope * high)
    if form.rounding:
        sizes = ibp.magnitude((planes.lower_offset, planes.upper_offset))
        for lower, upper, low, high in zip(*planes_of, strict=True):
            reach = ibp.magnitude((low, high))
            sizes += ibp.magnitude((lower, upper)) * reach
        slack = form.rounding + 4 * len(planes.low) * jnp.finfo(sizes.dtype).eps
        found -= slack * total(0, jnp.abs(form.weight) * sizes[None])
    return found
