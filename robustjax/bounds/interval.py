"""Interval bounds: forward through the nodes of a graph."""

from collections.abc import Mapping

import jax.numpy as jnp

from robustjax.bounds.operations import (
    Affine,
    Elementwise,
    Interval,
    IntervalOnly,
    Narrowed,
    Product,
)
from robustjax.bounds.propagate import Graph, Node


def propagate(graph: Graph, box: Interval) -> list[Interval]:
    """Interval bounds of every value. [device].

    Args:
        graph: from `propagate.trace`.
        box: lower and upper bounds of the input.

    Returns:
        Lower and upper bounds of values 0, 1, 2, ...
    """
    found = [box]
    for node in graph.nodes:
        found.append(through(node, dict(enumerate(found))))
    return found


def through(node: Node, known: Mapping[int, Interval]) -> Interval:
    """Interval bounds of the result of a node from those of its inputs. [device]."""
    operation = node.operation
    intervals = [known[value] for value in node.inputs]
    if isinstance(operation, Affine) and intervals[0][0].dtype == jnp.bool_:
        lower, upper = zip(*intervals, strict=True)  # truth values, moved or joined
        return operation.point(*lower), operation.point(*upper)
    if isinstance(operation, Affine):
        centres = [0.5 * (lower + upper) for lower, upper in intervals]
        radii = [0.5 * (upper - lower) for lower, upper in intervals]
        centre, radius = operation.point(*centres), operation.radius(*radii)
        return centre - radius, centre + radius
    if isinstance(operation, Product):
        return _product(*intervals)
    if isinstance(operation, Elementwise):
        return operation.bounds(*intervals[0])
    if isinstance(operation, Narrowed):
        return intersect(intervals[0], operation.bounds(*intervals[1:]))
    assert isinstance(operation, IntervalOnly)
    return operation.bounds(*intervals)


def intersect(first: Interval, second: Interval) -> Interval:
    """The tighter of two valid bounds on each side; NaN gives way. [device]."""
    return jnp.fmax(first[0], second[0]), jnp.fmin(first[1], second[1])


def in_order(bounds: Interval) -> Interval:
    """Bounds that crossed by rounding, the other way round. [device].

    Crossed bounds would decide comparisons.
    """
    return jnp.minimum(*bounds), jnp.maximum(*bounds)


def _product(first: Interval, second: Interval) -> Interval:
    corners = [a * b for a in first for b in second]
    low = jnp.minimum(jnp.minimum(*corners[:2]), jnp.minimum(*corners[2:]))
    return low, jnp.maximum(jnp.maximum(*corners[:2]), jnp.maximum(*corners[2:]))
