"""Rules of maximum, minimum, pooling and sorting.

    max(x, y) = y + relu(x - y),   min(x, y) = -max(-x, -y).

The largest of few is that of pairs of pairs, for which there are lines; of many only
intervals are known.
"""

from collections.abc import Callable, Sequence
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from robustjax import _validate
from robustjax.bounds import ibp, operations
from robustjax.bounds.operations import (
    Add,
    Affine,
    Bounded,
    Interval,
    IntervalOnly,
    Narrowed,
)
from robustjax.bounds.rules import affine, elementwise, normalizing, shares

_FEW = 16  # more would need more than four rounds of pairs, each with bounds of its own


@operations.rule("max")
def maximum(add: Add, bind: Any, arguments: Sequence[Any]) -> Bounded:
    """max(x, y) = y + relu(x - y). [host]."""
    if _are_integers(arguments):
        return _of_integers(add, bind, arguments)
    first, second = arguments
    if not isinstance(first, Bounded):
        first, second = second, first
    if not isinstance(second, Bounded):
        known = _validate.concrete(second)
        if (
            known is not None
            and np.all(known <= 0)
            and normalizing.is_never_negative(first)
        ):
            return first
        if known is not None and np.all(known == -np.inf):
            return affine.spread(
                add, first, jnp.broadcast_shapes(first.shape, known.shape)
            )
        shape = jnp.broadcast_shapes(first.shape, jnp.shape(second))
        return add(elementwise.at_least(second), [affine.spread(add, first, shape)])
    shape = jnp.broadcast_shapes(first.shape, second.shape)
    first, second = (affine.spread(add, v, shape) for v in (first, second))
    excess = affine.subtract(add, jnp.subtract, [first, second])
    excess = add(elementwise.RELU, [excess])
    larger = affine.plus(add, jnp.add, [second, excess])
    return add(Narrowed(_larger_ends), [larger, first, second])


def _larger_ends(first: Interval, second: Interval) -> Interval:
    return jnp.maximum(first[0], second[0]), jnp.maximum(first[1], second[1])


@operations.rule("min")
def _minimum(add: Add, bind: Callable[..., Any], arguments: Sequence[Any]) -> Bounded:
    """min(x, y) = -max(-x, -y)."""
    if _are_integers(arguments):
        return _of_integers(add, bind, arguments)
    turned = [
        affine.negate(add, jnp.negative, [a]) if isinstance(a, Bounded) else -a
        for a in arguments
    ]
    return affine.negate(add, jnp.negative, [maximum(add, bind, turned)])


@operations.rule("clamp")
def _clamp(add: Add, bind: Callable[..., Any], arguments: Sequence[Any]) -> Bounded:
    low, x, high = arguments
    if _are_integers(arguments):
        return _of_integers(add, bind, arguments)
    return _minimum(add, bind, [maximum(add, bind, [x, low]), high])


def _are_integers(arguments: Sequence[Any]) -> bool:
    return all(jnp.issubdtype(jnp.result_type(a.dtype), jnp.integer) for a in arguments)


def _of_integers(
    add: Add, bind: Callable[..., Any], arguments: Sequence[Any]
) -> Bounded:
    """A function that rises in every integer."""
    point = affine.of_bounded(bind, arguments)

    def bounds(*intervals: Interval) -> Interval:
        return point(*(x[0] for x in intervals)), point(*(x[1] for x in intervals))

    return add(IntervalOnly("integers", point, bounds), arguments)


def _taken(add: Add, x: Bounded, indices: np.ndarray, axis: int) -> Bounded:
    """Entries of an array by constant indices along an axis, sliced where they can be.

    A gather has a scatter for its transpose, which is slow to compile and to run.
    """
    first, step = (
        int(indices[0]),
        int(indices[1] - indices[0]) if indices.size > 1 else 1,
    )
    is_regular = step > 0 and np.all(np.diff(indices) == step)

    def take(values: jax.Array) -> jax.Array:
        if is_regular:
            limit = int(indices[-1]) + 1
            return jax.lax.slice_in_dim(values, first, limit, step, axis)
        return jnp.take(values, indices, axis=axis)

    return add(Affine(take, take, is_linear=True, signs=(1,)), [x])


def _along(add: Add, x: Bounded, axis: int) -> Bounded:
    """The largest along an axis, of which one entry stays.

    Round by round the larger of each pair of neighbours, all pairs in one node.
    """
    while x.shape[axis] > 1:
        count = x.shape[axis]
        pairs = np.arange(0, count - 1, 2)
        first, second = (_taken(add, x, pairs + k, axis) for k in (0, 1))
        larger = maximum(add, jnp.maximum, [first, second])
        if count % 2:
            left = _taken(add, x, np.asarray([count - 1]), axis)
            larger = affine.concatenated(add, [larger, left], axis=axis)
        x = larger
    return x


def _largest_of(add: Add, candidates: list[Bounded]) -> Bounded:
    """Entry by entry the largest of arrays of one shape."""
    if len(candidates) > 3:  # fewer nodes if they are one array
        stacked = affine.stacked(add, candidates, axis=0)
        return affine.slices(add, _along(add, stacked, 0), axis=0)[0]
    largest = candidates[0]
    for candidate in candidates[1:]:
        largest = maximum(add, jnp.maximum, [largest, candidate])
    return largest


@operations.rule("reduce_max")
def _reduce_max(add: Add, bind: Any, arguments: Sequence[Any]) -> Bounded:
    """The largest along axes, the last one first."""
    (x,) = arguments
    axes = sorted(bind.params["axes"], reverse=True)
    is_float = jnp.issubdtype(x.dtype, jnp.floating)
    most = max((x.shape[axis] for axis in axes), default=0)
    if most > _FEW or 0 in x.shape or not is_float:
        found = _in_order(add, bind, arguments)
        return shares.along("largest", found, of=x, axes=axes)
    result = x
    for axis in axes:
        result = _along(add, result, axis)
        result = affine.slices(add, result, axis=axis)[0]
    return shares.along("largest", result, of=x, axes=axes)


@operations.rule("reduce_window_max")
def _window_max(add: Add, bind: Any, arguments: Sequence[Any]) -> Bounded:
    """The largest in windows, axis by axis.

    An index that falls into the padding is moved to the next one that does not, which
    is in the same window.
    """
    (x,), params = arguments, bind.params
    dilations = (*params["base_dilation"], *params["window_dilation"])
    if set(dilations) != {1} or max(params["window_dimensions"]) > _FEW:
        return _in_order(add, bind, arguments)
    for axis, size in enumerate(params["window_dimensions"]):
        (low, high), stride = params["padding"][axis], params["window_strides"][axis]
        length = x.shape[axis]
        first = np.arange(0, length + low + high - size + 1, stride) - low
        if not len(first) or np.any(first + size <= 0) or np.any(first >= length):
            return _in_order(add, bind, arguments)
        indices = [np.clip(first + k, 0, length - 1) for k in range(size)]
        x = _largest_of(add, [_taken(add, x, i, axis) for i in indices])
    return x


@operations.rule("reduce_min", "reduce_window_min")
def _smallest(add: Add, bind: Any, arguments: Sequence[Any]) -> Bounded:
    """min(x) = -max(-x)."""
    largest = _reduce_max if bind.primitive.name == "reduce_min" else _window_max
    turned = affine.negate(add, jnp.negative, arguments)

    def of_turned(x: jax.Array) -> jax.Array:
        return -bind(-x)

    found = largest(add, _Turned(of_turned, bind), [turned])
    return affine.negate(add, jnp.negative, [found])


class _Turned:
    """A smallest as the largest of negatives, with the parameters of its primitive."""

    def __init__(self, point: Callable[..., Any], bind: Any) -> None:
        self.point, self.primitive, self.params = point, bind.primitive, bind.params

    def __call__(self, x: jax.Array) -> jax.Array:
        return self.point(x)


@operations.rule("cummax", "cummin")
def _in_order(add: Add, bind: Any, arguments: Sequence[Any]) -> Bounded:
    """Rising in every entry."""
    return add(IntervalOnly(bind.primitive.name, bind, in_order(bind)), arguments)


def in_order(f: Callable[[Any], Any]) -> Callable[[Interval], Interval]:
    """Bounds of a function that rises in every entry: its values at the bounds. [host].

    Where nothing is known of an entry, nothing is known of any: NaN moves others aside.
    """

    def bounds(ends: Interval) -> Interval:
        low, high = f(ends[0]), f(ends[1])
        is_lost = jnp.any(ibp.is_unknown(ends))
        return jnp.where(is_lost, -jnp.inf, low), jnp.where(is_lost, jnp.inf, high)

    return bounds
