"""Linear bounds of a whole graph: which values get them, in which order, how many rows.

For an entry v of a value, with `least` over the inputs of the form of a row,

    least(form of +v) <= v <= -least(form of -v),

intersected with the intervals that are known. Every value that a nonlinear node takes
is bounded so, in their order; "alpha" moves the free lines, m in [0, 1], by Adam.
"""

import functools
import math
from collections.abc import Mapping
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp

from robustjax.bounds import backward, ibp, input_sets, receptive_fields
from robustjax.bounds.graph import Graph, Node
from robustjax.bounds.input_sets import InputSet
from robustjax.bounds.operations import (
    Affine,
    Contraction,
    Elementwise,
    Interval,
    Narrowed,
    Product,
)
from robustjax.bounds.receptive_fields import Groups

_LEARNING_RATE = 0.1  # of Adam, for numbers in [0, 1]


class Effort(NamedTuple):
    """How much is computed, and how much at a time."""

    capacity: int | None = None  # rows of each value inside, None: all
    chunk_size: int | None = None  # rows at a time, None: all


def inside(
    graph: Graph,
    box: Interval,
    *,
    effort: Effort,
    input_set: InputSet = None,
    mixes: Mapping[int, jax.Array] | None = None,
) -> dict[int, Interval]:
    """Valid bounds of all values: linear ones of what nonlinear nodes take. [device].

    Args:
        graph: from `tracing.trace`.
        box: lower and upper bounds of the input.
        effort: how much is computed.
        input_set: a set inside of the box in which the input lies.
        mixes: where the free lines of nodes lie, `[1, *shape]`, one for all rows;
            default: as `backward.start_mix`.

    Returns:
        Lower and upper bounds of values 0, 1, 2, ...
    """
    known = {0: box}
    refined = functools.partial(
        _refined,
        graph,
        known,
        chunk_size=effort.chunk_size,
        input_set=input_set,
        mixes=mixes,
    )
    ranges = receptive_fields.ranges(graph, box[0].dtype)
    is_exact = {0}  # intervals are, up to the first nonlinearity
    for index, node in enumerate(graph.nodes, start=1):
        if not isinstance(node.operation, Affine | Narrowed):
            for value in _floats(node, known) - is_exact:
                groups = receptive_fields.groups(graph, value, ranges)
                rows = _most_urgent(groups, known[value], node, effort.capacity)
                known[value] = refined(value, groups, rows=rows)
                is_exact.add(value)  # as exact as it will be
            _settle(node, known)
        known[index] = ibp.through(node, known)
        if isinstance(node.operation, Affine) and node.inputs == (0,) and not input_set:
            is_exact.add(index)
    return known


def intervals(graph: Graph, box: Interval) -> dict[int, Interval]:
    """Interval bounds of all values, settled where lines rest on them. [device]."""
    known = dict(enumerate(ibp.propagate(graph, box)))
    for node in graph.nodes:
        _settle(node, known)
    return known


def _floats(node: Node, known: Mapping[int, Interval]) -> set[int]:
    """The inputs of a node that are no counts or truth values."""
    return {
        value
        for value in node.inputs
        if jnp.issubdtype(known[value][0].dtype, jnp.floating)
    }


def _settle(node: Node, known: dict[int, Interval]) -> None:
    """Settles the bounds from which the lines of a node are computed."""
    if isinstance(node.operation, Elementwise | Product | Contraction):
        for value in _floats(node, known):
            known[value] = ibp.settled(known[value])


def of_output(
    graph: Graph,
    known: dict[int, Interval],
    *,
    effort: Effort,
    input_set: InputSet = None,
) -> Interval:
    """Linear bounds of the output. [device].

    Args:
        graph: from `tracing.trace`.
        known: valid bounds of all values.
        effort: how much is computed; all rows are.
        input_set: as in `inside`.

    Returns:
        Its lower and upper bounds, none looser than those known.
    """
    groups = receptive_fields.one_by_one(graph.shape_of(graph.output))
    rows = jnp.arange(groups.num_rows)
    return _refined(
        graph,
        known,
        graph.output,
        groups,
        rows=rows,
        chunk_size=effort.chunk_size,
        input_set=input_set,
    )


def _most_urgent(
    groups: Groups, bounds: Interval, node: Node, capacity: int | None
) -> jax.Array:
    """The rows whose better bounds do most for a node: widest open entries first."""
    if capacity is None or capacity >= groups.num_rows:
        return jnp.arange(groups.num_rows)
    width = bounds[1] - bounds[0]
    if isinstance(node.operation, Elementwise):
        width = jnp.where(node.operation.is_settled(*bounds), -1.0, width)
    widest = jnp.full(groups.num_rows, -jnp.inf, width.dtype).at[groups.row].max(width)
    return jax.lax.top_k(widest, capacity)[1]


def _refined(
    graph: Graph,
    known: dict[int, Interval],
    value: int,
    groups: Groups,
    *,
    rows: jax.Array,
    chunk_size: int | None,
    input_set: InputSet,
    mixes: Mapping[int, jax.Array] | None = None,
) -> Interval:
    """Bounds of a value by linear forms of some rows, intersected with those known."""

    def lowest(row: jax.Array) -> jax.Array:
        """Lower bounds of a row's entries and of their negatives, [2, cells]."""
        total = functools.partial(groups.total, row)
        chosen = (groups.row == row).astype(known[0][0].dtype)
        signed = jnp.stack([chosen, -chosen])
        form = backward.lower_form(
            graph, signed, value, known=known, mixes=mixes, total=total
        )
        return input_sets.least(form, known[0], input_set, total=total)

    if chunk_size is None:
        low = jax.vmap(lowest)(rows)
    else:
        low = jax.lax.map(lowest, rows, batch_size=chunk_size)
    nothing = jnp.full((1, *low.shape[1:]), -jnp.inf, low.dtype)
    at = jnp.full(groups.num_rows, len(rows)).at[rows].set(jnp.arange(len(rows)))
    found = jnp.concatenate([low, nothing])[at[groups.row], :, groups.cell]
    return ibp.narrowed(known[value], (found[..., 0], -found[..., 1]))


def optimised(
    graph: Graph,
    known: dict[int, Interval],
    *,
    num_steps: int,
    effort: Effort,
    is_inside_free: bool,
    input_set: InputSet = None,
) -> Interval:
    """Bounds of the output with lines that Adam moves; the best of each is kept.

    [device] Every row of the output has lines of its own. Those that bound the values
    inside are one for all rows, as there are many.

    Args:
        graph: from `tracing.trace`.
        known: valid bounds of all values.
        num_steps: of Adam.
        effort: how much is computed.
        is_inside_free: also move the lines that bound the values inside.
        input_set: as in `inside`.

    Returns:
        Lower and upper bounds, none looser than those of `of_output`.
    """
    import optax

    dtype = known[0][0].dtype
    rows = both_signs(graph, dtype)
    starts = {
        index: mix[None]
        for index, node in enumerate(graph.nodes, start=1)
        if (mix := backward.start_mix(node, known)) is not None
    }
    own = {i: jnp.broadcast_to(m, (len(rows), *m.shape[1:])) for i, m in starts.items()}

    def bound(mixes: _Mixes) -> jax.Array:
        bounds = known
        if is_inside_free:
            found = inside(
                graph, known[0], effort=effort, input_set=input_set, mixes=mixes.inside
            )
            bounds = {v: ibp.intersect(found[v], known[v]) for v in known}
            bounds[0] = known[0]
        form = backward.lower_form(
            graph, rows, graph.output, known=bounds, mixes=mixes.output
        )
        return input_sets.least(form, known[0], input_set)[:, 0]

    def loss(mixes: _Mixes) -> tuple[jax.Array, jax.Array]:
        low = bound(mixes)
        return -jnp.sum(jnp.where(jnp.isfinite(low), low, 0.0)), low

    optimizer = optax.adam(_LEARNING_RATE)

    def step(state: Any, _: Any) -> tuple[Any, None]:
        mixes, inner, best = state
        gradient, low = jax.grad(loss, has_aux=True)(mixes)
        gradient = jax.tree.map(jnp.nan_to_num, gradient)
        updates, inner = optimizer.update(gradient, inner)
        mixes = jax.tree.map(lambda m, u: jnp.clip(m + u, 0.0, 1.0), mixes, updates)
        return (mixes, inner, jnp.fmax(best, low)), None

    mixes = _Mixes(own, starts if is_inside_free else {})
    first = (mixes, optimizer.init(mixes), jnp.full(len(rows), -jnp.inf, dtype))
    (mixes, _, best), _ = jax.lax.scan(step, first, length=num_steps)
    best = jnp.fmax(best, bound(mixes)).reshape(2, *graph.shape_of(graph.output))
    return ibp.narrowed(known[graph.output], (best[0], -best[1]))


class _Mixes(NamedTuple):
    """Where free lines lie, by node."""

    output: dict[int, jax.Array]  # [rows, *shape], of the pass from the output
    inside: dict[int, jax.Array]  # [1, *shape], of all other passes


def both_signs(graph: Graph, dtype: jax.typing.DTypeLike) -> jax.Array:
    """A row for each entry of the output, then for its negative. [device].

    Args:
        graph: from `tracing.trace`.
        dtype: of the rows.

    Returns:
        `[2 * entries, *shape of the output]`.
    """
    shape = graph.shape_of(graph.output)
    size = math.prod(shape)
    identity = jnp.eye(size, dtype=dtype).reshape(size, *shape)
    return jnp.concatenate([identity, -identity])
