"""Interval bounds: forward through the nodes of a graph.

For a value x in [l, u], with centre c and radius r,

    affine, z = J x + b:   [J c + b - |J| r, J c + b + |J| r],                 (1)
    rising f:              [f(l), f(u)],                                       (2)
    product x y:           the smallest and the largest product of two ends.   (3)

Every bound is a number: a lower one is below infinity, an upper one above its negative.
[-inf, inf] says that nothing is known, not even whether there is a number, as of the
logarithm of a range that reaches below zero. No rule narrows it, and it decides no
comparison.
"""

from collections.abc import Mapping
from typing import Any

import jax
import jax.numpy as jnp

from robustjax.bounds.graph import Graph, Node
from robustjax.bounds.operations import (
    Affine,
    Contraction,
    Elementwise,
    Interval,
    IntervalOnly,
    Narrowed,
    Product,
)

_CHAIN = 3  # products that are computed together
_ULPS = 64  # that the value of an elementwise function may be off


def propagate(graph: Graph, box: Interval) -> list[Interval]:
    """Interval bounds of every value. [device].

    Args:
        graph: from `tracing.trace`.
        box: lower and upper bounds of the input.

    Returns:
        Lower and upper bounds of values 0, 1, 2, ...
    """
    found, depths = [box], [0]
    for node in graph.nodes:
        ends = through(node, dict(enumerate(found)))
        is_product = isinstance(node.operation, Product)
        depths.append(is_product + max(depths[value] for value in node.inputs))
        # In a longer chain, XLA computes each product again wherever it is used.
        is_last = is_product and depths[-1] % _CHAIN == 0
        found.append(settled(ends) if is_last else ends)
    return found


def through(node: Node, known: Mapping[int, Interval]) -> Interval:
    """Interval bounds of the result of a node from those of its inputs. [device]."""
    operation = node.operation
    intervals = [known[value] for value in node.inputs]
    if isinstance(operation, Affine):
        return _numbers(*_through_affine(node, operation, intervals))
    if isinstance(operation, IntervalOnly | Contraction):
        return _numbers(*operation.bounds(*intervals))
    if isinstance(operation, Narrowed):
        found = intersect(intervals[0], operation.bounds(*intervals[1:]))
        sources = intervals[1:]
    elif isinstance(operation, Product):
        found, sources = product(*intervals), intervals
        if node.unit:
            sizes = magnitude(intervals[0]) * magnitude(intervals[1])
            sizes += least_size(sizes.dtype)
            found = _apart(found, _ULPS * node.unit * sizes)
    else:
        assert isinstance(operation, Elementwise)
        found, sources = operation.bounds(*intervals[0]), intervals  # (2)
        if node.unit and operation.breakpoint is None:
            sizes = magnitude(found) + least_size(found[0].dtype)
            found = _apart(found, _ULPS * node.unit * sizes)
    for source in sources:
        found = _unless(is_unknown(source), *found)
    return _numbers(*found)


def _through_affine(
    node: Node, operation: Affine, intervals: list[Interval]
) -> Interval:
    """By the ends where signs are known, else in centre and radius form."""
    if operation.signs is None:
        centres = [0.5 * (lower + upper) for lower, upper in intervals]
        radii = [0.5 * (upper - lower) for lower, upper in intervals]
        centre, radius = operation.point(*centres), operation.radius(*radii)
        found = centre - radius, centre + radius  # (1)
    else:
        low, high = (
            operation.point(
                *(
                    interval[(side + (sign < 0)) % 2]
                    for interval, sign in zip(intervals, operation.signs, strict=True)
                )
            )
            for side in (0, 1)
        )
        if 0 in operation.signs:
            found = jnp.minimum(low, high), jnp.maximum(low, high)
        else:
            found = low, high
    if node.unit and jnp.issubdtype(found[0].dtype, jnp.floating):
        found = _apart(found, node.rounding * size_of_terms(node, intervals))
    return found


def size_of_terms(node: Node, intervals: list[Interval]) -> jax.Array:
    """Upper bound on the sum of absolute terms of an affine node. [device].

    Without their signs: with the rounding of the node it bounds the error of the sum.

    Args:
        node: of a graph.
        intervals: bounds of its inputs.

    Returns:
        Numbers >= 0 of the shape of its result.
    """
    operation = node.operation
    assert isinstance(operation, Affine)
    sizes = operation.radius(*(size_of(ends) for ends in intervals))
    sizes += least_size(sizes.dtype)
    if operation.is_linear:
        return sizes
    zeros = [jnp.zeros_like(lower) for lower, _ in intervals]
    return sizes + jnp.abs(operation.point(*zeros))


def least_size(dtype: Any) -> float:
    """What is rounded as if it were so large: below, numbers are flushed to zero."""
    return float(jnp.finfo(dtype).tiny / jnp.finfo(dtype).eps)


def size_of(interval: Interval) -> jax.Array:
    """At least the magnitude of numbers, and of what they may be flushed from."""
    size = magnitude(interval)
    if not jnp.issubdtype(size.dtype, jnp.floating):
        return size
    return jnp.maximum(size, least_size(size.dtype))


def magnitude(interval: Interval) -> jax.Array:
    """The largest absolute value. [device]."""
    return jnp.maximum(jnp.abs(interval[0]), jnp.abs(interval[1]))


def is_unknown(interval: Interval) -> jax.Array:
    """Where nothing is known, not even whether there is a number. [device]."""
    return (interval[0] == -jnp.inf) & (interval[1] == jnp.inf)


def intersect(first: Interval, second: Interval) -> Interval:
    """The tighter of two valid bounds on each side; NaN gives way. [device]."""
    return jnp.fmax(first[0], second[0]), jnp.fmin(first[1], second[1])


def narrowed(known: Interval, found: Interval) -> Interval:
    """Intervals with what linear forms say; these see no NaN. [device]."""
    return _unless(is_unknown(known), *_numbers(*intersect(known, found)))


@jax.custom_jvp
def settled(bounds: Interval) -> Interval:
    """Bounds in order that are the same numbers wherever they are used. [device].

    Those that cross by rounding would decide comparisons. And where slope and offset of
    a line rest on a comparison with a bound, both need the same outcome: sorting keeps
    a compiler from computing the bound again, see `_precision.settled`.
    """
    lower, upper = jax.lax.sort(jnp.stack(bounds), dimension=0)
    return lower, upper


@settled.defjvp
def _settled_jvp(primals: Any, tangents: Any) -> Any:
    (bounds,), (moves,) = primals, tangents
    is_turned = bounds[0] > bounds[1]
    low, high = moves
    turned = jnp.where(is_turned, high, low), jnp.where(is_turned, low, high)
    return settled(bounds), turned


def _apart(bounds: Interval, slack: jax.Array) -> Interval:
    return bounds[0] - slack, bounds[1] + slack


def _unless(condition: jax.Array, lower: jax.Array, upper: jax.Array) -> Interval:
    """Bounds; nothing is known where a condition holds."""
    return jnp.where(condition, -jnp.inf, lower), jnp.where(condition, jnp.inf, upper)


def _numbers(lower: jax.Array, upper: jax.Array) -> Interval:
    """Bounds as said above, of those that overflow or are NaN."""
    if not jnp.issubdtype(lower.dtype, jnp.floating):
        return lower, upper
    largest = jnp.finfo(lower.dtype).max
    low, high = jnp.minimum(lower, largest), jnp.maximum(upper, -largest)
    return _unless(jnp.isnan(low) | jnp.isnan(high), low, high)


def product(first: Interval, second: Interval) -> Interval:
    """The hull of the products of ends; NaN, 0 times infinity, is nothing. [device]."""
    corners = [a * b for a in first for b in second]
    low = jnp.minimum(jnp.minimum(*corners[:2]), jnp.minimum(*corners[2:]))
    return low, jnp.maximum(jnp.maximum(*corners[:2]), jnp.maximum(*corners[2:]))  # (3)
