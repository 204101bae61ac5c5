"""Rules of scattering, of choosing by the bounded values, and of sorting with keys.

An index that depends on the bounded input is bounded itself: argmax is one of the
entries whose upper bound reaches the largest lower one, and exceeds those before,

    possible = {k : u_k >= max_j l_j, u_k > max_{j < k} l_j},
    min possible <= argmax <= max possible,

and what is taken at such an index lies between the smallest and the largest entry.
"""

from collections.abc import Callable, Sequence
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from robustjax.bounds import ibp, operations
from robustjax.bounds.operations import Add, Affine, Bounded, Interval, IntervalOnly
from robustjax.bounds.rules import affine, ordering

_SIGNS = {
    "scatter": 1,
    "scatter-add": 1,
    "scatter_add": 1,
    "scatter-sub": -1,
    "scatter_sub": -1,
}
_PLACES = "Bounds cannot follow places that depend on the bounded input."


@operations.rule(*_SIGNS)
def _scatter(add: Add, bind: Any, arguments: Sequence[Any]) -> Bounded:
    """Affine in the array and in what is put into it, at constant places."""
    array, indices, updates = arguments
    if isinstance(indices, Bounded):
        raise operations.UnsupportedError(_PLACES)
    sign = _SIGNS[bind.primitive.name]
    if bind.primitive.name != "scatter":
        affine.check_floats([array, updates])
    terms = [
        a if isinstance(a, Bounded) else np.zeros(jnp.shape(a), jnp.result_type(a))
        for a in (array, updates)
    ]
    of_radius = [terms[0], indices, terms[1]]
    point = affine.of_bounded(bind, arguments)
    radius = affine.of_bounded(_added(bind) if sign < 0 else bind, of_radius)
    signs = tuple(
        s
        for s, a in zip((1, sign), (array, updates), strict=True)
        if isinstance(a, Bounded)
    )
    return add(Affine(point, radius, signs=signs), arguments)


def _added(bind: Any) -> Callable[..., jax.Array]:
    """A scatter of differences with sums in their place."""

    def call(array: Any, indices: Any, updates: Any) -> jax.Array:
        return bind(array, indices, -updates)

    return call


@operations.rule("scatter-mul", "scatter_mul")
def _scatter_product(add: Add, bind: Any, arguments: Sequence[Any]) -> Bounded:
    array, indices, factors = arguments
    if isinstance(indices, Bounded) or isinstance(factors, Bounded):
        raise operations.UnsupportedError(_PLACES)
    affine.check_floats([array, factors])
    return affine.scaled(
        add, lambda x, f: bind(x, indices, f), [array, jnp.asarray(factors)]
    )


@operations.rule("argmax", "argmin")
def _winner(add: Add, bind: Any, arguments: Sequence[Any]) -> Bounded:
    """The first of the largest, or of the smallest."""
    (axis,) = bind.params["axes"]
    dtype, is_largest = bind.params["index_dtype"], bind.primitive.name == "argmax"

    def bounds(ends: Interval) -> Interval:
        if ends[0].dtype == jnp.bool_:
            ends = ends[0].astype(jnp.int32), ends[1].astype(jnp.int32)
        low, high = operations.outward(ends)
        low, high = (low, high) if is_largest else (-high, -low)
        possible = high >= jnp.max(low, axis=axis, keepdims=True)
        possible &= high > _best_before(low, axis)  # the first of equal ones wins
        is_lost = jnp.any(ibp.is_unknown(ends), axis=axis, keepdims=True)  # NaN wins
        possible = possible | is_lost
        count = possible.shape[axis]
        shape = [count if k == axis else 1 for k in range(possible.ndim)]
        places = jnp.arange(count, dtype=dtype).reshape(shape)
        first = jnp.min(jnp.where(possible, places, count - 1), axis=axis)
        last = jnp.max(jnp.where(possible, places, 0), axis=axis)
        return first.astype(dtype), last.astype(dtype)

    return add(IntervalOnly(bind.primitive.name, bind, bounds), arguments)


def _best_before(x: jax.Array, axis: int) -> jax.Array:
    """The largest of the entries in front of each; of none, the smallest number."""
    is_float = jnp.issubdtype(x.dtype, jnp.floating)
    least = -jnp.inf if is_float else jnp.iinfo(x.dtype).min
    best = jax.lax.cummax(x, axis=axis)
    best = jax.lax.slice_in_dim(best, 0, x.shape[axis] - 1, axis=axis)
    start = jnp.full_like(jax.lax.slice_in_dim(x, 0, 1, axis=axis), least)
    return jnp.concatenate([start, best], axis=axis)


@operations.rule("top_k")
def _top(add: Add, bind: Any, arguments: Sequence[Any]) -> list[Bounded]:
    """The largest rise with every entry; their places are anywhere."""
    values = IntervalOnly(
        "top_k",
        lambda x: bind(x)[0],
        ordering.in_order(lambda x: bind(x)[0]),
    )
    axis = bind.params.get("axis", -1)
    places = _anywhere("top_k", lambda x: bind(x)[1], arguments[0].shape[axis])
    return [add(values, arguments), add(places, arguments)]


@operations.rule("sort")
def _sort(add: Add, bind: Any, arguments: Sequence[Any]) -> list[Bounded]:
    """Sorted keys rise with every entry; what goes with them comes from anywhere."""
    axis = bind.params["dimension"]
    if len(arguments) == 1:
        values = IntervalOnly(
            "sort", lambda x: bind(x)[0], ordering.in_order(lambda x: bind(x)[0])
        )
        return [add(values, arguments)]
    keys, *others = arguments
    if bind.params["num_keys"] != 1 or not isinstance(keys, Bounded):
        raise operations.UnsupportedError(
            "Bounds cannot follow a sort by several keys, or by constant ones."
        )
    found = [
        add(
            IntervalOnly(
                "sort",
                lambda x: jax.lax.sort(x, dimension=axis),
                ordering.in_order(lambda x: jax.lax.sort(x, dimension=axis)),
            ),
            [keys],
        )
    ]
    for number, other in enumerate(others, start=1):
        found.append(_carried(add, bind, arguments, number=number, other=other))
    return found


def _carried(
    add: Add, bind: Any, arguments: Sequence[Any], *, number: int, other: Any
) -> Bounded:
    """What a sort by keys moves along: one of the entries of the axis."""
    axis = bind.params["dimension"]

    def bounds(*intervals: Interval) -> Interval:
        rest = iter(intervals)
        ends = [next(rest) if isinstance(a, Bounded) else (a, a) for a in arguments]
        low, high = (jnp.asarray(e) for e in ends[number])
        return (
            jnp.broadcast_to(jnp.min(low, axis=axis, keepdims=True), low.shape),
            jnp.broadcast_to(jnp.max(high, axis=axis, keepdims=True), high.shape),
        )

    point = affine.of_bounded(lambda *a: bind(*a)[number], arguments)
    return add(IntervalOnly("sort", point, bounds), arguments)


def _anywhere(name: str, point: Callable[..., Any], count: int) -> IntervalOnly:
    """An index of an axis, of which nothing else is known."""

    def bounds(ends: Interval) -> Interval:
        place = point(ends[0])
        return jnp.zeros_like(place), jnp.full_like(place, count - 1)

    return IntervalOnly(name, point, bounds)


@operations.rule("gather")
def _gather(add: Add, bind: Any, arguments: Sequence[Any]) -> Bounded:
    """Entries at constant places; at bounded ones, anything between the extremes."""
    array, indices = arguments
    if not isinstance(indices, Bounded):
        return affine.move(add, bind, arguments)
    mode = bind.params["mode"]
    if mode == jax.lax.GatherScatterMode.FILL_OR_DROP:
        raise operations.UnsupportedError(
            "Bounds cannot follow indices that fill in where they are out of bounds; "
            "take with mode='clip'."
        )

    def bounds(*intervals: Interval) -> Interval:
        low, high = (
            intervals[0] if isinstance(array, Bounded) else (jnp.asarray(array),) * 2
        )
        shape = jax.eval_shape(
            bind, jax.ShapeDtypeStruct(low.shape, low.dtype), _struct(indices)
        ).shape
        return jnp.full(shape, jnp.min(low)), jnp.full(shape, jnp.max(high))

    point = affine.of_bounded(bind, arguments)
    return add(IntervalOnly("gather", point, bounds), arguments)


def _struct(argument: Bounded) -> jax.ShapeDtypeStruct:
    return jax.ShapeDtypeStruct(argument.shape, argument.dtype)
