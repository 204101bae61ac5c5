"""Rules of comparisons and of choices that depend on the bounded input.

    x < y  is certain where u_x < l_y, and possible where l_x < u_y.

Bounds of a truth value: False, True stands for either. Only intervals are known. What
is not known to be a number may be NaN, which is neither less nor more than any.
"""

import functools
from collections.abc import Sequence
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from robustjax.bounds import ibp, operations
from robustjax.bounds.operations import About, Add, Bounded, Interval, IntervalOnly
from robustjax.bounds.rules import affine, shares

_GREATER = {"gt": False, "ge": False, "lt": True, "le": True}  # with the sides turned
_TOTAL = ("lt_to", "le_to")  # an order in which -0 is below 0, and NaN above all


@operations.rule(*_GREATER, *_TOTAL, "eq", "ne")
def _compare(add: Add, bind: Any, arguments: Sequence[Any]) -> Bounded:
    """Certain where the farthest bounds agree, possible where the nearest do."""
    shape = jnp.broadcast_shapes(*(jnp.shape(_stand_in(a)) for a in arguments))
    spread = [
        affine.spread(add, a, shape) if isinstance(a, Bounded) else a for a in arguments
    ]
    name = bind.primitive.name
    are_bounded = all(isinstance(a, Bounded) for a in spread)
    is_same = are_bounded and spread[0].value == spread[1].value

    def bounds(*intervals: Interval) -> Interval:
        rest = iter(intervals)
        (a, b), (c, d) = (
            operations.outward(next(rest)) if isinstance(v, Bounded) else (v, v)
            for v in spread
        )
        is_number = ~functools.reduce(jnp.logical_or, map(ibp.is_unknown, intervals))
        if name in ("eq", "ne"):
            meet = (a <= d) & (c <= b)
            is_equal = is_number & (is_same | ((a == b) & (c == d) & (a == c)))
            return (is_equal, meet) if name == "eq" else (~meet, ~is_equal)
        if name in _TOTAL:
            return jnp.less(b, c) & is_number, jnp.less_equal(a, d)
        if _GREATER[name]:
            return bind(b, c) & is_number, bind(a, d)
        return bind(a, d) & is_number, bind(b, c)

    return add(IntervalOnly(name, affine.of_bounded(bind, spread), bounds), spread)


def _stand_in(argument: Any) -> Any:
    return jnp.empty(argument.shape) if isinstance(argument, Bounded) else argument


@operations.rule("is_finite")
def _is_finite(add: Add, bind: Any, arguments: Sequence[Any]) -> Bounded:
    """Certain where both bounds are finite; possible anywhere."""

    def bounds(ends: Interval) -> Interval:
        certain = bind(ends[0]) & bind(ends[1])
        return certain, jnp.ones_like(certain)

    (x,) = arguments
    found = add(IntervalOnly("is_finite", bind, bounds), arguments)
    return found._replace(about=About("finite", x.value, (), x.shape))


@operations.rule("not")
def _not(add: Add, bind: Any, arguments: Sequence[Any]) -> Bounded:
    if arguments[0].dtype != jnp.bool_:
        raise operations.UnsupportedError("Bounds cannot follow bits of integers.")
    turned = IntervalOnly("not", bind, lambda x: (bind(x[1]), bind(x[0])))
    return add(turned, arguments)


@operations.rule("and", "or")
def _both(add: Add, bind: Any, arguments: Sequence[Any]) -> Bounded:
    """Rising in both."""
    if any(jnp.result_type(a.dtype) != jnp.bool_ for a in arguments):
        raise operations.UnsupportedError("Bounds cannot follow bits of integers.")

    def bounds(*intervals: Interval) -> Interval:
        point = affine.of_bounded(bind, arguments)
        return point(*(x[0] for x in intervals)), point(*(x[1] for x in intervals))

    joined = IntervalOnly(
        bind.primitive.name, affine.of_bounded(bind, arguments), bounds
    )
    return add(joined, arguments)


@operations.rule("xor")
def _either(add: Add, bind: Any, arguments: Sequence[Any]) -> Bounded:
    """Certain where both are certain and differ."""
    if any(jnp.result_type(a.dtype) != jnp.bool_ for a in arguments):
        raise operations.UnsupportedError("Bounds cannot follow bits of integers.")

    def bounds(*intervals: Interval) -> Interval:
        rest = iter(intervals)
        (a, b), (c, d) = (
            next(rest) if isinstance(v, Bounded) else (v, v) for v in arguments
        )  # certain, possible
        return (a & ~d) | (~b & c), (b & ~c) | (~a & d)

    point = affine.of_bounded(bind, arguments)
    return add(IntervalOnly("xor", point, bounds), arguments)


@operations.rule("reduce_and", "reduce_or")
def _any_or_all(add: Add, bind: Any, arguments: Sequence[Any]) -> Bounded:
    """Rising in every entry."""
    if arguments[0].dtype != jnp.bool_:
        raise operations.UnsupportedError("Bounds cannot follow bits of integers.")
    joined = IntervalOnly(
        bind.primitive.name, bind, lambda ends: (bind(ends[0]), bind(ends[1]))
    )
    return add(joined, arguments)


@operations.rule("select_n")
def _choose(add: Add, bind: Any, arguments: Sequence[Any]) -> Bounded:
    """All that a choice can be: the hull of the cases that are possible."""
    which, *cases = arguments
    if not isinstance(which, Bounded):
        return affine.join(add, bind, arguments)
    if which.dtype != jnp.bool_:
        return hull(add, which, cases)

    def bounds(choice: Interval, *intervals: Interval) -> Interval:
        rest = iter(intervals)
        (a, b), (c, d) = (
            next(rest) if isinstance(v, Bounded) else (v, v) for v in cases
        )
        certain, possible = (jnp.broadcast_to(v, jnp.shape(a)) for v in choice)
        low = jnp.where(certain, c, jnp.where(possible, jnp.minimum(a, c), a))
        high = jnp.where(certain, d, jnp.where(possible, jnp.maximum(b, d), b))
        return low, high

    chosen = IntervalOnly("select_n", affine.of_bounded(bind, arguments), bounds)
    return shares.shift(add(chosen, arguments), which, cases)


def _truth(add: Add, bind: Any, arguments: Sequence[Any]) -> Bounded:
    """A truth value as a number, 0 or 1."""
    number = IntervalOnly("truth", bind, lambda x: (bind(x[0]), bind(x[1])))
    return add(number, arguments)


@operations.rule("convert_element_type")
def _convert(add: Add, bind: Any, arguments: Sequence[Any]) -> Bounded:
    if arguments[0].dtype == jnp.bool_ and bind.params["new_dtype"] != jnp.bool_:
        return _truth(add, bind, arguments)
    return affine.convert(add, bind, arguments)


def hull(add: Add, which: Bounded, cases: Sequence[Any]) -> Bounded:
    """What a choice by a bounded index may give. [host]."""

    def point(index: jax.Array, *bounded: jax.Array) -> jax.Array:
        rest = iter(bounded)
        values = [next(rest) if isinstance(c, Bounded) else c for c in cases]
        chosen = values[0]
        for k, value in enumerate(values[1:], start=1):
            chosen = jnp.where(index >= k, value, chosen)
        return chosen

    def bounds(of_index: Interval, *intervals: Interval) -> Interval:
        rest = iter(intervals)
        ends = [next(rest) if isinstance(c, Bounded) else (c, c) for c in cases]
        first, last = (v.astype(jnp.int32) for v in of_index)
        last_case = len(cases) - 1
        lows, highs = [], []
        for k, (a, b) in enumerate(ends):
            starts = (first <= k) | (k == last_case)  # beyond the ends: the last one
            is_possible = starts & ((last >= k) | (k == 0))
            lows.append(jnp.where(is_possible, a, jnp.inf))
            highs.append(jnp.where(is_possible, b, -jnp.inf))
        return (
            functools.reduce(jnp.minimum, lows),
            functools.reduce(jnp.maximum, highs),
        )

    for case in cases:
        dtype = case.dtype if hasattr(case, "dtype") else np.result_type(case)
        if not jnp.issubdtype(dtype, jnp.floating):
            raise operations.UnsupportedError(
                f"Bounds cannot follow a choice between {dtype}."
            )
    return add(IntervalOnly("cond", point, bounds), [which, *cases])
