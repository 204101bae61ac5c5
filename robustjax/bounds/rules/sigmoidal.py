"""Rules of functions with inflection points: sine, cosine, silu, mish.

    s x + min_y (f(y) - s y) <= f(x) <= s x + max_y (f(y) - s y),
    s = (f(u) - f(l)) / (u - l),   y in [l, u].

Both lines have the slope of the secant. Their offsets are the extremes of f(y) - s y,
which lie at the ends or where the slope of f is that of the secant.
"""

import functools
import itertools
from collections.abc import Callable, Sequence
from typing import Any

import jax
import jax.numpy as jnp

from robustjax.bounds import operations
from robustjax.bounds.operations import Elementwise, Interval, Lines

_Function = Callable[[jax.Array], jax.Array]
_STEPS = 40  # of the bisection, to the last bit of a float32, past one of a float64


def _parallel_lines(
    f: _Function, lower: jax.Array, upper: jax.Array, points: Sequence[jax.Array]
) -> Lines:
    """Lines of the secant's slope; points in the interval hold the extremes."""
    width = upper - lower
    is_wide = width > 0
    slope = (f(upper) - f(lower)) / jnp.where(is_wide, width, 1.0)
    slope = jnp.where(is_wide, slope, 0.0)
    heights = [f(x) - slope * x for x in (lower, upper, *points)]
    size = jnp.maximum(jnp.abs(lower), jnp.abs(upper))
    most = jnp.maximum(jnp.abs(f(lower)), jnp.abs(f(upper))) + jnp.abs(slope) * size
    rounding = 8 * jnp.finfo(lower.dtype).eps * (1 + most)
    low = functools.reduce(jnp.minimum, heights) - rounding
    high = functools.reduce(jnp.maximum, heights) + rounding
    return Lines(slope, low, slope, high)


def _wave_lines(
    shift: float, f: _Function, lower: jax.Array, upper: jax.Array, mix: jax.Array
) -> Lines:
    """Lines of sine, with x measured from a crest; level over more than half a turn.

    The slope of sin at a crest plus y is -sin(y); it is that of the secant at y = -a
    and pi + a, with a = arcsin(slope).
    """
    del mix
    start = (0.25 - shift) * 2 * jnp.pi  # a crest
    slope = (f(upper) - f(lower)) / jnp.maximum(upper - lower, 1e-30)
    angle = jnp.arcsin(jnp.clip(slope, -1.0, 1.0))
    turn = jnp.floor((lower - start) / (2 * jnp.pi))
    points = [
        jnp.clip(start + y + 2 * jnp.pi * (turn + k), lower, upper)
        for y in (-angle, jnp.pi + angle)
        for k in (-1, 0, 1)
    ]
    lines = _parallel_lines(f, lower, upper, points)
    is_long = upper - lower > jnp.pi
    level = Lines(*(jnp.full_like(lower, v) for v in (0, -1, 0, 1)))
    return Lines(*(jnp.where(is_long, a, b) for a, b in zip(level, lines, strict=True)))


def _wave_bounds(
    shift: float, f: _Function, lower: jax.Array, upper: jax.Array
) -> Interval:
    """Sine by the crests and troughs that lie inside; cosine is shifted by 1/4."""
    turns = [v / (2 * jnp.pi) + shift for v in (lower, upper)]
    slack = 8 * jnp.finfo(lower.dtype).eps * (1 + jnp.abs(turns[0]) + jnp.abs(turns[1]))
    turns = [turns[0] - slack, turns[1] + slack]  # a crest too many does no harm
    has_crest = jnp.floor(turns[1] - 0.25) > jnp.ceil(turns[0] - 0.25) - 1
    has_trough = jnp.floor(turns[1] - 0.75) > jnp.ceil(turns[0] - 0.75) - 1
    ends = f(lower), f(upper)  # NaN at infinity, which says that nothing is known
    return (
        jnp.where(has_trough & ~jnp.isnan(ends[0]), -1.0, jnp.minimum(*ends)),
        jnp.where(has_crest & ~jnp.isnan(ends[1]), 1.0, jnp.maximum(*ends)),
    )


for _name, _f, _shift in (("sin", jnp.sin, 0.0), ("cos", jnp.cos, 0.25)):
    _wave = Elementwise(
        _name,
        _f,
        functools.partial(_wave_bounds, _shift, _f),
        functools.partial(_wave_lines, _shift, _f),
        is_finite=True,
    )
    operations.elementwise(_name, _wave)


def _where_slope_is(
    f: _Function, slope: jax.Array, left: jax.Array, right: jax.Array
) -> tuple[jax.Array, jax.Array]:
    """The ends of what a bisection leaves of an interval on which f' is monotone."""

    def excess(x: jax.Array) -> jax.Array:
        return jax.jvp(f, (x,), (jnp.ones_like(x),))[1] - slope

    is_rising = excess(right) > excess(left)

    def halve(_: int, bracket: tuple[jax.Array, jax.Array]) -> Any:
        left, right = bracket
        half = left + 0.5 * (right - left)
        goes_right = (excess(half) < 0) == is_rising
        return jnp.where(goes_right, half, left), jnp.where(goes_right, right, half)

    return jax.lax.fori_loop(0, _STEPS, halve, (left, right))


def bending_lines(f: _Function, *, bends: Sequence[float]) -> Callable[..., Lines]:
    """Lines of a function whose derivative is monotone between bends. [host].

    Args:
        f: the function, elementwise.
        bends: where its second derivative changes sign, increasing.

    Returns:
        A function of (lower, upper, mix), compiled once.
    """

    @jax.jit
    def lines(lower: jax.Array, upper: jax.Array, mix: jax.Array) -> Lines:
        del mix
        width = upper - lower
        slope = (f(upper) - f(lower)) / jnp.where(width > 0, width, 1.0)
        points: list[jax.Array] = []
        for left, right in itertools.pairwise((-jnp.inf, *bends, jnp.inf)):
            ends = jnp.clip(left, lower, upper), jnp.clip(right, lower, upper)
            points += _where_slope_is(f, slope, *ends)
        return _parallel_lines(f, lower, upper, points)

    return lines


def dipping(f: _Function, *, place: float) -> Callable[..., Interval]:
    """Bounds of a function that falls up to a place and rises behind it. [host].

    Args:
        f: the function, elementwise, z g(z) with a gate g.
        place: where it is least, to a part in a million.
    """

    def bounds(lower: jax.Array, upper: jax.Array) -> Interval:
        ends = f(lower), f(upper)
        bottom = jnp.clip(place, lower, upper)
        least = jnp.minimum(jnp.minimum(*ends), f(bottom))
        error = 1e-6 * abs(place)
        has_bottom = (lower < place + error) & (upper > place - error)
        slack = abs(place) * float(jnp.finfo(lower.dtype).eps + 2e-12)
        return least - jnp.where(has_bottom, slack, 0.0), jnp.maximum(*ends)

    return bounds


def _register(f: Any, *, least: float, bends: Sequence[float]) -> None:
    """A function of JAX that dips once below zero and then rises."""
    bounds = dipping(f, place=least)
    lines = bending_lines(f, bends=bends)
    operation = Elementwise(f.__name__, f, bounds, lines, is_finite=True)
    operations.function(f)(lambda add, _, arguments: add(operation, arguments))


# Where the first and where the second derivative is zero, to the digits of a float64.
_register(
    jax.nn.silu,
    least=-1.2784645427610738,
    bends=(-2.3993572805154677, 2.3993572805154677),
)
_register(
    jax.nn.mish,
    least=-1.1924312145154952,
    bends=(-2.2563763963607931, 1.4905711794854285),
)
