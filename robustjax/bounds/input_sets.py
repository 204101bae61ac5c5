"""Sets of inputs inside a box, and the smallest value of a linear form over them.

With w+ = max(w, 0) and w- = min(w, 0), for inputs between planes over a cell of p, and
for a union of boxes,

    min w . x >= min over p of (w+ . lower_slope + w- . upper_slope) . p
                 + w+ . lower_offset + w- . upper_offset,
    min w . x  = min over boxes of (w . centre - |w| . radius).

Balls and polytopes have duals: see `sets.balls` and `sets.polytopes`.
"""

from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jax.typing import ArrayLike

from robustjax import _validate
from robustjax.bounds import boxes, ibp
from robustjax.bounds.boxes import Layout
from robustjax.bounds.linear import backward
from robustjax.bounds.linear.backward import LinearForm, Total
from robustjax.bounds.operations import Interval
from robustjax.bounds.sets import balls, polytopes
from robustjax.bounds.sets.balls import L1Ball, L2Ball
from robustjax.bounds.sets.polytopes import Polytope

NORMS = ("l1", "l2", "linf")


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


InputSet = AffineInputs | UnionOfBoxes | L1Ball | L2Ball | Polytope | None


class NormBall(NamedTuple):
    """A ball cut by the valid range, as `linear_bounds` takes it."""

    lower: jax.Array  # [...] as the input, of a box that holds all of it
    upper: jax.Array
    input_set: L1Ball | L2Ball | None  # None for linf, which is the box itself


def norm_ball(
    x: ArrayLike,
    epsilon: ArrayLike,
    *,
    norm: str = "linf",
    valid_range: tuple[float, float] | None = (0.0, 1.0),
) -> NormBall:
    """The inputs within epsilon of x in a norm that lie in the valid range.

    [device] Pure, jittable, vmappable, differentiable.

    Guarantee:
        Every x' in the valid range with `|(x' - x) / epsilon|` <= 1 lies in the box and
        in the set, with x and epsilon in the dtype of x: the box is rounded outward.

    Args:
        x: one example, of any shape, inside of the valid range.
        epsilon: radius in input units, >= 0: a number, or an array that broadcasts
            against x. Entries of radius 0 keep their value. Where radii differ, the
            ball has them as its half-axes.
        norm: "linf", "l2" or "l1".
        valid_range: minimum and maximum value of an input; None: no limits.

    Returns:
        A `NormBall`: lower and upper corner, and an `input_set` of `linear_bounds`.

    Raises:
        ValueError: if the norm is unknown, epsilon is negative or does not broadcast,
            or x is outside of the valid range.

    Example:
        >>> x = jnp.array([0.5, 0.5, 1.0])
        >>> lower, upper, ball = norm_ball(x, 0.25, norm="l2")
        >>> print(upper[2], ball.radius)  # the valid range ends at 1
        1.0 [0.25 0.25 0.25]

    Reference: ours.
    """
    _validate.one_of(NORMS, norm=norm)
    _validate.at_least(0, epsilon=epsilon)
    centre = jnp.asarray(x)
    if not jnp.issubdtype(centre.dtype, jnp.floating):
        raise ValueError(f"Expected x to be floats, got {centre.dtype}.")
    known = _validate.concrete(centre)
    if known is not None and valid_range is not None:
        is_inside = (valid_range[0] <= known) & (known <= valid_range[1])
        if not is_inside.all():
            raise ValueError(f"Expected x inside of valid_range {valid_range}.")
    boxes.check_broadcasts(centre.shape, epsilon=epsilon)
    radius = jnp.broadcast_to(jnp.asarray(epsilon, centre.dtype), centre.shape)
    eps = jnp.finfo(centre.dtype).eps
    lower, upper = centre - radius, centre + radius
    lower = jnp.where(radius > 0, lower - eps * jnp.abs(lower), centre)
    upper = jnp.where(radius > 0, upper + eps * jnp.abs(upper), centre)
    if valid_range is not None:
        lower, upper = (jnp.clip(end, *valid_range) for end in (lower, upper))
    if norm == "linf":
        return NormBall(lower, upper, None)
    kind = L2Ball if norm == "l2" else L1Ball
    return NormBall(lower, upper, kind(centre, radius))


def arranged(input_set: InputSet, layout: Layout) -> InputSet:
    """A set of trees as one of the array that they are bounded as. [device].

    Args:
        input_set: arrays as the array; or a ball whose centre, and radius unless it is
            a number, are trees as the input.
        layout: of the trees.

    Returns:
        The set, of arrays.

    Raises:
        ValueError: if the array is made of several leaves and the set no ball of trees.
    """
    if isinstance(input_set, L1Ball | L2Ball):
        centre, radius = input_set
        if jax.tree.structure(centre) == layout.structure:
            if jax.tree.structure(radius) == layout.structure:
                radius = layout.array(jax.tree.map(_like, radius, centre))
            return input_set._replace(centre=layout.array(centre), radius=radius)
    if input_set is not None and len(layout.shapes) > 1:
        raise ValueError(
            "Expected an L1Ball or L2Ball whose centre is a tree as lower, for several "
            f"leaves that are bounded; got {type(input_set).__name__}."
        )
    return input_set


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
        `[rows, cells]`, lower bounds, none below that of the box; exact up to rounding
        for all sets but `AffineInputs`.
    """
    found = backward.least(form, box, total=total)
    if input_set is None:
        return found
    if isinstance(input_set, UnionOfBoxes):
        of_pieces = jax.vmap(lambda *piece: backward.least(form, piece, total=total))
        inside = jnp.min(of_pieces(*input_set), axis=0)
    elif isinstance(input_set, L1Ball | L2Ball):
        inside = balls.least(form, box, input_set, total=total)
    elif isinstance(input_set, Polytope):
        inside = polytopes.least(form, box, input_set, total=total)
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


def _like(number: ArrayLike, array: ArrayLike) -> jax.Array:
    return jnp.broadcast_to(jnp.asarray(number), np.shape(array))
