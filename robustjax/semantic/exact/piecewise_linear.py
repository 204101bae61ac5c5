"""A network along a curve that is linear between knots: exact, in float64, on the host.

Between two knots a and b the pixels are linear in one number t. So is every value v up
to the first breakpoints, those of ReLU, abs or max. Where a unit crosses its breakpoint
c, a knot is added, at

    t = a + (c - v(a)) / (v(b) - v(a)) (b - a),

and the next values are linear between the knots that are there then.
"""

import functools
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jax.tree_util import Partial

from robustjax import bounds
from robustjax._precision import float64_on_cpu
from robustjax.bounds import operations, tracing
from robustjax.bounds.graph import Graph

CAPACITY = 512  # knots of a stretch: one shape, so that every layer is compiled once
_CLOSE = 8 * np.finfo(np.float64).eps  # relative: knots nearer than that are one


class TooManyKnotsError(Exception):
    """A stretch has more knots than fit."""


class _Layer(NamedTuple):
    """Values before their breakpoints at knots; linear in between."""

    times: np.ndarray  # [k]
    values: jax.Array  # [filled, *shape]


class _Position(NamedTuple):
    """Where new knots lie between old ones."""

    before: np.ndarray  # [filled], the old knot before
    share: np.ndarray  # [filled], of the way to the one after


def along_curve(
    fn: Partial, curve: Partial, times: np.ndarray
) -> tuple[np.ndarray, np.ndarray]:
    """Knots and outputs of a piecewise linear function along a curve. [host].

    Args:
        fn: maps one example to `[k]`; a `Partial` whose arrays are float64.
        curve: maps a time to an example; linear between the times.
        times: `[n]`, rising.

    Returns:
        Times `[m]` and outputs `[m, k]`, linear in between up to rounding.

    Raises:
        TooManyKnotsError: if there are more than `CAPACITY`.
        UnsupportedError: if a primitive is not piecewise linear, named.
    """
    with float64_on_cpu():
        layers: dict[int, _Layer] = {}
        for bend, breakpoint in sorted(_breakpoints(fn, curve).items()):
            found = _reached(fn, curve, times, layers, bend=bend)
            layers[bend] = _Layer(times, found)
            values = np.asarray(found)[: len(times)] - np.asarray(breakpoint)
            times = _with_crossings(times, values.reshape(len(times), -1))
            if len(times) > CAPACITY:
                raise TooManyKnotsError
        outputs = _reached(fn, curve, times, layers, bend=None)
        return times, np.asarray(outputs)[: len(times)]


@jax.jit
def _breakpoints(fn: Partial, curve: Partial) -> dict[int, jax.Array]:
    """Where the function bends, by the values that do."""
    graph = tracing.trace(fn, _example(curve), casts="ignore")
    kinds: dict[int, Any] = {value: graph.nodes[value - 1] for value in bends(graph)}
    return {
        value: jnp.asarray(node.operation.breakpoint) for value, node in kinds.items()
    }


def bends(graph: Graph) -> list[int]:
    """The values with breakpoints that the output depends on, in order. [host].

    Args:
        graph: from `tracing.trace`.

    Returns:
        Their numbers.

    Raises:
        UnsupportedError: if anything on the way is not piecewise linear.
    """
    found, needed = [], {graph.output}
    for value in range(graph.output, 0, -1):
        if value not in needed:
            continue
        node = graph.nodes[value - 1]
        operation = node.operation
        if isinstance(operation, operations.Narrowed):
            needed.add(node.inputs[0])
            continue
        needed |= set(node.inputs)
        if isinstance(operation, operations.Affine):
            continue
        if getattr(operation, "breakpoint", None) is None:
            name = getattr(operation, "name", "a product of two values")
            raise bounds.UnsupportedError(
                f"Only piecewise linear models have exact radii; {name!r} is not."
            )
        found.append(value)
    return found[::-1]


def _reached(
    fn: Partial,
    curve: Partial,
    times: np.ndarray,
    layers: dict[int, _Layer],
    *,
    bend: int | None,
) -> jax.Array:
    """What the node of a bend takes, or the output, at times; filled up."""
    filled = np.concatenate([times, np.full(CAPACITY - len(times), times[-1])])
    positions = {}
    for at, layer in layers.items():
        index = np.searchsorted(layer.times, filled, side="right") - 1
        index = np.minimum(index, len(layer.times) - 2)
        length = layer.times[index + 1] - layer.times[index]
        share = (filled - layer.times[index]) / length
        positions[at] = layer.values, _Position(index, share)
    return _evaluated(fn, curve, filled, positions, bend=bend)


@functools.partial(jax.jit, static_argnames="bend")
def _evaluated(
    fn: Partial,
    curve: Partial,
    times: jax.Array,
    layers: dict[int, tuple[jax.Array, _Position]],
    *,
    bend: int | None,
) -> jax.Array:
    """What a bend takes, or the output, from the nearest layers that are known."""
    graph = tracing.trace(fn, _example(curve), casts="ignore")
    value = graph.output if bend is None else graph.nodes[bend - 1].inputs[0]
    needed = _needed(graph, value, set(layers))

    def one(time: jax.Array, known: dict[int, jax.Array]) -> jax.Array:
        values: dict[int, jax.Array] = dict(known)
        if 0 in needed:
            values[0] = curve(time)
        for at in sorted(needed - values.keys()):
            node = graph.nodes[at - 1]
            inputs = [values[i] for i in node.inputs if i in values]
            values[at] = node.operation.point(*inputs)
        return values[value]

    known = {}
    for at in needed & layers.keys():
        values_there, (index, share) = layers[at]
        share = share.reshape(-1, *(1,) * (values_there.ndim - 1))
        start = values_there[index]
        between = start + share * (values_there[index + 1] - start)
        operation: Any = graph.nodes[at - 1].operation
        known[at] = jax.vmap(operation.point)(between)
    return jax.vmap(one)(times, known)


def _needed(graph: Graph, value: int, known: set[int]) -> set[int]:
    """The values on the way from known ones to a value, with both ends."""
    met, pending = set(), [value]
    while pending:
        at = pending.pop()
        if at in met:
            continue
        met.add(at)
        if at == 0 or at in known:
            continue
        node = graph.nodes[at - 1]
        is_narrowed = isinstance(node.operation, operations.Narrowed)
        pending += node.inputs[:1] if is_narrowed else node.inputs
    return met


def _with_crossings(times: np.ndarray, values: np.ndarray) -> np.ndarray:
    """The times with those at which an entry of values `[k, n]` changes its sign."""
    is_above = values > 0
    piece, unit = np.nonzero(is_above[1:] != is_above[:-1])
    start, end = values[piece, unit], values[piece + 1, unit]
    share = start / (start - end)
    new = times[piece] + share * (times[piece + 1] - times[piece])
    merged = np.unique(np.concatenate([times, new]))
    merged = merged[(merged >= times[0]) & (merged <= times[-1])]
    step = np.diff(merged, prepend=-np.inf)
    kept = merged[step > _CLOSE * np.maximum(np.abs(merged), times[-1] - times[0])]
    return np.unique(np.append(kept, times[-1]))


def _example(curve: Partial) -> jax.ShapeDtypeStruct:
    found = jax.eval_shape(curve, jax.ShapeDtypeStruct((), np.float64))
    return jax.ShapeDtypeStruct(found.shape, found.dtype)
