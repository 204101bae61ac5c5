"""Arrays bounded by planes over a few parameters, and operations on them.

For a curve with values v_i at breakpoints t_i, the upper line of minimum area has

    slope s = that of the concave envelope in the middle of the ends,   (1)
    offset  = max_i (v_i - s t_i),                                      (2)

so it is above all knots whatever s is. Products of a <= x <= b and c <= y <= d lie
between McCormick's planes,

    x y >= c x + a y - a c,                                             (3)

and three like it.
"""

from collections.abc import Callable, Sequence
from typing import NamedTuple

import jax
import jax.numpy as jnp

from robustjax._precision import settled

Curve = Callable[[jax.Array], jax.Array]
_Pair = tuple[jax.Array, jax.Array]


class Sheet(NamedTuple):
    """Intervals of an array, and slope . parameters + offset on both sides of it."""

    lower: jax.Array  # [*s]
    upper: jax.Array  # [*s]
    lower_slope: jax.Array  # [d, *s]
    lower_offset: jax.Array  # [*s]
    upper_slope: jax.Array  # [d, *s]
    upper_offset: jax.Array  # [*s]


def constant(values: jax.Array, *, num_parameters: int) -> Sheet:
    """An array that does not move. [device]."""
    flat = jnp.zeros((num_parameters, *values.shape), values.dtype)
    return Sheet(values, values, flat, values, flat, values)


def parameter(index: int, low: jax.Array, high: jax.Array, *, like: jax.Array) -> Sheet:
    """A parameter of the cell, as an array of the shape of another. [device]."""
    zeros = jnp.zeros_like(like)
    slope = jnp.zeros((len(low), *like.shape), like.dtype).at[index].set(1.0)
    return Sheet(zeros + low[index], zeros + high[index], slope, zeros, slope, zeros)


def of_curve(
    along: jax.Array, values: jax.Array, *, slack: jax.Array | float = 0.0
) -> Sheet:
    """Lines of least area around curves that are linear between knots. [device].

    Args:
        along: `[k, h, w]` or `[k, h, w, c]`, knots in order, the ends among them.
        values: `[k, h, w, c]` at the knots.
        slack: `[k, h, w, c]` that the curve may be away from the lines between knots.

    Returns:
        A sheet over one parameter.
    """
    along = along if along.ndim == values.ndim else along[..., None]
    along = jnp.broadcast_to(along, values.shape)
    slope, offset = _line_above(along, values + slack)
    lower_slope, lower_offset = _line_above(along, slack - values)
    return Sheet(
        jnp.min(values - slack, axis=0),
        jnp.max(values + slack, axis=0),
        -lower_slope[None],
        -lower_offset,
        slope[None],
        offset,
    )


def _line_above(along: jax.Array, values: jax.Array) -> _Pair:
    """The line above all knots that is lowest in the middle of the ends.

    Such a line touches the concave envelope there. Its offset is that which all knots
    need, whatever the slope.
    """
    middle = 0.5 * (along[0] + along[-1])
    left, right = along[:, None], along[None, :]
    is_chord = (left < middle[None, None]) & (middle[None, None] < right)
    run = jnp.where(is_chord, right - left, 1.0)
    slopes = (values[None, :] - values[:, None]) / run
    heights = values[:, None] + slopes * (middle[None, None] - left)
    heights = jnp.where(is_chord, heights, -jnp.inf)
    flat = heights.reshape(-1, *middle.shape)
    best = jnp.argmax(flat, axis=0)[None]
    chord = jnp.take_along_axis(slopes.reshape(flat.shape), best, axis=0)[0]
    peak, slope_there = _at_middle(along, values, middle)
    is_peak = peak >= jnp.max(flat, axis=0)
    slope = jnp.where(is_peak, slope_there, chord)
    # Settled, or the offset may be that of another chord than the slope in use.
    slope = settled(jnp.where(along[0] < along[-1], slope, 0.0))  # (1)
    return slope, jnp.max(values - slope[None] * along, axis=0)  # (2)


def _at_middle(along: jax.Array, values: jax.Array, middle: jax.Array) -> _Pair:
    """The value of a knot in the middle, and a slope between those on both sides."""
    is_there = along == middle[None]
    peak = jnp.max(jnp.where(is_there, values, -jnp.inf), axis=0)
    way = along - middle[None]
    slopes = (values - peak[None]) / jnp.where(way == 0, 1.0, way)
    down = jnp.max(jnp.where(way > 0, slopes, -jnp.inf), axis=0)
    up = jnp.min(jnp.where(way < 0, slopes, jnp.inf), axis=0)
    return peak, 0.5 * (down + up)


def lifted(sheet: Sheet, indices: Sequence[int], num_parameters: int) -> Sheet:
    """A sheet over some parameters as one over more of them. [device]."""

    def lift(slope: jax.Array) -> jax.Array:
        none = jnp.zeros((num_parameters, *slope.shape[1:]), slope.dtype)
        return none.at[jnp.asarray(indices, int)].set(slope[: len(indices)])

    return sheet._replace(
        lower_slope=lift(sheet.lower_slope), upper_slope=lift(sheet.upper_slope)
    )


def plus(first: Sheet, second: Sheet) -> Sheet:
    """The sum. [device]."""
    return Sheet(*(a + b for a, b in zip(first, second, strict=True)))


def narrowed(sheet: Sheet, low: jax.Array, high: jax.Array) -> Sheet:
    """A sheet whose intervals also follow from its planes. [device]."""
    return sheet._replace(
        lower=jnp.maximum(
            sheet.lower, _least(sheet.lower_slope, sheet.lower_offset, low, high)
        ),
        upper=jnp.minimum(
            sheet.upper, -_least(-sheet.upper_slope, -sheet.upper_offset, low, high)
        ),
    )


def _least(
    slope: jax.Array, offset: jax.Array, low: jax.Array, high: jax.Array
) -> jax.Array:
    """Minimum of slope . parameters + offset over the cell."""
    corner = (-1, *(1,) * offset.ndim)
    ends = slope * low.reshape(corner), slope * high.reshape(corner)
    return jnp.sum(jnp.minimum(*ends), axis=0) + offset


def clipped(sheet: Sheet) -> Sheet:
    """The array clipped to [0, 1]. [device]."""
    ends = sheet.lower, sheet.upper
    knots = jnp.stack([ends[0], jnp.clip(0.0, *ends), jnp.clip(1.0, *ends), ends[1]])
    lines = of_curve(knots, jnp.clip(knots, 0.0, 1.0))
    # All slopes are in [0, 1], so planes keep their side.
    low, high = lines.lower_slope[0], lines.upper_slope[0]
    return Sheet(
        lines.lower,
        lines.upper,
        low[None] * sheet.lower_slope,
        low * sheet.lower_offset + lines.lower_offset,
        high[None] * sheet.upper_slope,
        high * sheet.upper_offset + lines.upper_offset,
    )


def product(first: Sheet, second: Sheet, *, corners: _Pair) -> Sheet:
    """The product, by McCormick's planes; of two the better in the centre. [device].

    Args:
        first: a factor.
        second: the other one.
        corners: `[d]` each, the lower and the upper one of the cell.

    Returns:
        A sheet of the broadcast shape.
    """
    (a, b), (c, d) = first[:2], second[:2]
    ends = jnp.stack([a * c, a * d, b * c, b * d])
    lower, upper = jnp.min(ends, axis=0), jnp.max(ends, axis=0)
    centre = 0.5 * (corners[0] + corners[1])

    def plane(at_first: jax.Array, at_second: jax.Array, side: int) -> _Pair:
        """at_second * first + at_first * second - at_first * at_second, or beyond."""
        parts = _scaled(first, at_second, side), _scaled(second, at_first, side)
        slope, offset = (p + q for p, q in zip(*parts, strict=True))
        return slope, offset - at_first * at_second  # (3)

    def better(one: _Pair, other: _Pair, side: int) -> _Pair:
        there = [jnp.tensordot(centre, s, axes=1) + o for s, o in (one, other)]
        # They often tie there; settled, or a slope goes with the other's offset.
        is_first = settled(side * (there[0] - there[1])) <= 0
        slope = jnp.where(is_first[None], one[0], other[0])
        return slope, jnp.where(is_first, one[1], other[1])

    below = better(plane(a, c, -1), plane(b, d, -1), -1)
    above = better(plane(b, c, 1), plane(a, d, 1), 1)
    return Sheet(lower, upper, *below, *above)


def _scaled(sheet: Sheet, factor: jax.Array, side: int) -> _Pair:
    """The plane on a side (1: above) of factor * sheet."""
    is_same = (factor >= 0) == (side > 0)
    slope = jnp.where(is_same[None], sheet.upper_slope, sheet.lower_slope)
    offset = jnp.where(is_same, sheet.upper_offset, sheet.lower_offset)
    return factor[None] * slope, factor * offset


def bilinear(corners: Sequence[jax.Array], first: _Pair, second: _Pair) -> Sheet:
    """A bilinear function of two parameters by its values at four corners. [device].

    Args:
        corners: at (low, low), (low, high), (high, low) and (high, high).
        first: low and high of the first parameter.
        second: those of the second one.

    Returns:
        A sheet over both, whose intervals are exact.
    """
    a, b, c, d = corners
    low = jnp.stack([first[0], second[0]])
    high = jnp.stack([first[1], second[1]])
    size = jnp.where(high > low, high - low, 1.0)
    x, y = (parameter(k, low, high, like=a) for k in (0, 1))
    # With u = (x - low) / size and v = (y - low) / size:
    # a + (c - a) u + (b - a) v + cross u v.
    cross = (a - b - c + d) / (size[0] * size[1])
    twist = product(x, y, corners=(low, high))
    lines = [_scaled(twist, cross, side) for side in (-1, 1)]
    steep = jnp.stack(
        [(c - a) / size[0] - cross * low[1], (b - a) / size[1] - cross * low[0]]
    )
    flat = a - steep[0] * low[0] - steep[1] * low[1] - cross * low[0] * low[1]
    return Sheet(
        jnp.min(jnp.stack(corners), axis=0),
        jnp.max(jnp.stack(corners), axis=0),
        lines[0][0] + steep,
        lines[0][1] + flat,
        lines[1][0] + steep,
        lines[1][1] + flat,
    )
