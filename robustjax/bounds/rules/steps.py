"""Rules of functions that jump: rounding, signs and remainders.

    floor, ceil, round, sign   rise, so bounds are the values at the ends,
    rem(x, c) = x - c trunc(x / c)   is a line where x / c has one whole part.

and where x / c has several, or c is not constant, it has the sign of x and is no larger
in size than x and c. A search in sorted numbers counts those that are below. Near a
jump, rounding may decide the side; intervals are moved outward there.
"""

import functools
from collections.abc import Callable, Sequence
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from robustjax.bounds import ibp, operations
from robustjax.bounds.operations import (
    Add,
    Affine,
    Bounded,
    Elementwise,
    Interval,
    IntervalOnly,
    Lines,
)
from robustjax.bounds.rules import affine


def _jumping(
    f: Callable[[jax.Array], jax.Array], lower: jax.Array, upper: jax.Array
) -> Interval:
    """Interval of an increasing step function, whose jumps rounding may shift."""
    low, high = operations.outward((lower, upper))
    return f(low), f(high)


for _name, _f in (("floor", jnp.floor), ("ceil", jnp.ceil), ("sign", jnp.sign)):
    operations.elementwise(
        _name, Elementwise(_name, _f, functools.partial(_jumping, _f))
    )


@operations.rule("round")
def _round(add: Add, bind: Callable[..., Any], arguments: Sequence[Any]) -> Bounded:
    """Rising, whichever way halves are rounded."""
    bounds = functools.partial(_jumping, bind)
    return add(Elementwise("round", bind, bounds), arguments)


@operations.rule("rem")
def _remainder(add: Add, bind: Any, arguments: Sequence[Any]) -> Bounded:
    """The remainder by a constant, of the sign of x."""
    x, divisor = arguments
    affine.check_floats(arguments)
    if isinstance(divisor, Bounded):
        return _by_bounded(add, bind, arguments)
    shape = jnp.broadcast_shapes(x.shape, jnp.shape(divisor))

    def point(x: jax.Array) -> jax.Array:
        return bind(x, jnp.broadcast_to(jnp.asarray(divisor, x.dtype), x.shape))

    def pieces(lower: jax.Array, upper: jax.Array) -> tuple[Any, Any, Any]:
        size = jnp.abs(jnp.broadcast_to(jnp.asarray(divisor, lower.dtype), lower.shape))
        low, high = operations.outward((lower, upper))
        first, last = jnp.trunc(low / size), jnp.trunc(high / size)
        return size, first, (first == last) & (size > 0) & (size < jnp.inf)

    def bounds(lower: jax.Array, upper: jax.Array) -> Interval:
        size, whole, is_one = pieces(lower, upper)
        slack = rounding(lower, upper)
        low = jnp.where(
            is_one, lower - whole * size - slack, jnp.where(lower < 0, -size, 0.0)
        )
        high = jnp.where(
            is_one, upper - whole * size + slack, jnp.where(upper > 0, size, 0.0)
        )
        is_defined = (size > 0) & (size < jnp.inf)
        return (
            jnp.where(is_defined, low, -jnp.inf),
            jnp.where(is_defined, high, jnp.inf),
        )

    def rounding(lower: jax.Array, upper: jax.Array) -> jax.Array:
        """What a difference of larger terms rounds; none in the first piece."""
        _, whole, _ = pieces(lower, upper)
        size = jnp.maximum(jnp.abs(lower), jnp.abs(upper))
        return jnp.where(whole == 0, 0.0, 8 * jnp.finfo(lower.dtype).eps * size)

    def lines(lower: jax.Array, upper: jax.Array, mix: jax.Array) -> Lines:
        del mix
        size, whole, is_one = pieces(lower, upper)
        slack = rounding(lower, upper)
        low, high = bounds(lower, upper)
        slope = is_one.astype(lower.dtype)
        return Lines(
            slope,
            jnp.where(is_one, -whole * size - slack, low),
            slope,
            jnp.where(is_one, -whole * size + slack, high),
        )

    operation = Elementwise("rem", point, bounds, lines)
    return add(operation, [affine.spread(add, x, shape)])


def _by_bounded(add: Add, bind: Any, arguments: Sequence[Any]) -> Bounded:
    """The remainder by a bounded number: the divisor may be zero, which gives NaN."""
    shape = jnp.broadcast_shapes(*(jnp.shape(_stand_in(a)) for a in arguments))
    spread = [
        affine.spread(add, a, shape) if isinstance(a, Bounded) else a for a in arguments
    ]

    def bounds(*given: Interval) -> Interval:
        rest = iter(given)
        (a, b), (c, d) = (
            next(rest) if isinstance(v, Bounded) else (jnp.asarray(v),) * 2
            for v in spread
        )
        size = jnp.maximum(jnp.abs(c), jnp.abs(d))
        low = jnp.where(a >= 0, 0.0, -jnp.minimum(size, jnp.abs(a)))
        high = jnp.where(b <= 0, 0.0, jnp.minimum(size, jnp.abs(b)))
        is_lost = (c <= 0) & (d >= 0)
        is_lost |= ~(jnp.isfinite(a) & jnp.isfinite(b))
        return jnp.where(is_lost, -jnp.inf, low), jnp.where(is_lost, jnp.inf, high)

    return add(IntervalOnly("rem", affine.of_bounded(bind, spread), bounds), spread)


def _stand_in(argument: Any) -> Any:
    return np.empty(argument.shape) if isinstance(argument, Bounded) else argument


@operations.function(jnp.signbit)
def _is_negative(add: Add, called: Any, arguments: Sequence[Any]) -> Bounded | None:
    """The sign of zero is not known, nor that of what may be no number."""
    (x,) = arguments
    if not jnp.issubdtype(x.dtype, jnp.floating):
        return None

    def bounds(ends: Interval) -> Interval:
        low, high = operations.outward(ends)
        return (high < 0) & ~ibp.is_unknown(ends), low <= 0

    return add(IntervalOnly("signbit", jnp.signbit, bounds), arguments)


def _search(
    side: str, add: Add, called: Any, arguments: Sequence[Any]
) -> Bounded | None:
    """How many of sorted numbers are below x, as a sum of truth values."""
    array, x = arguments
    if isinstance(array, Bounded) or not jnp.issubdtype(x.dtype, jnp.floating):
        return _any_count(side, add, arguments)
    compare = jnp.less if side == "left" else jnp.less_equal
    is_sorted = jnp.all(jnp.diff(jnp.asarray(array)) >= 0)  # not so with NaN

    def below(x: jax.Array) -> jax.Array:
        shape = (*x.shape, *jnp.shape(array))
        numbers = jnp.broadcast_to(jnp.asarray(array, x.dtype), shape)
        return compare(numbers, jnp.broadcast_to(x[..., None], shape))

    def bounds(ends: Interval) -> Interval:
        low, high = operations.outward(ends)
        is_known = is_sorted & ~ibp.is_unknown(ends)[..., None]
        return below(low) & is_known, below(high) | ~is_known

    def total(counts: jax.Array) -> jax.Array:
        return jnp.sum(counts, axis=-1, dtype=jnp.int32)

    are_below = add(IntervalOnly("searchsorted", below, bounds), [x])
    counts = add(IntervalOnly("truth", _as_count, _counted), [are_below])
    return add(Affine(total, total, is_linear=True, signs=(1,)), [counts])


def _as_count(is_true: jax.Array) -> jax.Array:
    return is_true.astype(jnp.int32)


def _counted(ends: Interval) -> Interval:
    return _as_count(ends[0]), _as_count(ends[1])


def _any_count(side: str, add: Add, arguments: Sequence[Any]) -> Bounded:
    """Where the numbers depend on the input."""
    array, _ = arguments

    def point(array: jax.Array, x: jax.Array) -> jax.Array:
        return jnp.searchsorted(array, x, side=side).astype(jnp.int32)

    of_bounded = affine.of_bounded(point, arguments)

    def bounds(*given: Interval) -> Interval:
        found = jax.eval_shape(of_bounded, *(x[0] for x in given))
        return jnp.zeros_like(found), jnp.full_like(found, array.shape[0])

    return add(IntervalOnly("searchsorted", of_bounded, bounds), arguments)


for _side in ("left", "right"):
    operations.function(functools.partial(jnp.searchsorted, side=_side))(
        functools.partial(_search, _side)
    )
