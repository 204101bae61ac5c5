"""Linear bounds of a whole graph: which values get them, in which order, how many rows.

For an entry v of a value, with `least` over the inputs of the form of a row,

    least(form of +v) <= v <= -least(form of -v),

intersected with the intervals that are known. Every value that a nonlinear node takes
is bounded so, in their order; "alpha" moves the free lines, m in [0, 1], by Adam.
"""

import functools
import math
from collections.abc import Callable, Mapping
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp

from robustjax.bounds import ibp, input_sets, tracing
from robustjax.bounds.graph import Graph, Node
from robustjax.bounds.input_sets import InputSet
from robustjax.bounds.linear import backward, receptive_fields, sweeps
from robustjax.bounds.linear.receptive_fields import Groups
from robustjax.bounds.linear.sweeps import Relaxed, Target
from robustjax.bounds.operations import (
    Affine,
    Contraction,
    Elementwise,
    Interval,
    Narrowed,
    Product,
)

_LEARNING_RATE = 0.1  # of Adam, for numbers in [0, 1]
_MANY = 4  # values whose passes are one program


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
    has_output: bool = False,
) -> Relaxed:
    """Valid bounds of all values: linear ones of what nonlinear nodes take. [device].

    Args:
        graph: from `tracing.trace`.
        box: lower and upper bounds of the input.
        effort: how much is computed.
        input_set: a set inside of the box in which the input lies.
        mixes: where the free lines of nodes lie, `[1, *shape]`, one for all rows;
            default: as `backward.start_mix`.
        has_output: also bound the output, both from these and from intervals alone.

    Returns:
        Bounds of all values, and lines of all nodes.
    """
    ranges = tracing.ranges(graph, box[0].dtype)
    takers = _takers(graph, input_set)
    groups = {v: receptive_fields.groups(graph, v, ranges) for v in takers}
    mixes = mixes or {}
    num_rows = sum(g.num_rows for g in groups.values())
    num_entries = sum(g.row.size for g in groups.values())
    if len(groups) >= _MANY and 2 * num_rows > num_entries:
        targets = [
            _target(graph, value, node, effort.capacity)
            for value, node in takers.items()
            if value != graph.output
        ]
        return sweeps.run(
            graph,
            [*targets, _target(graph, graph.output, None, None)],
            lambda found: _carried(graph, box, _narrowed_by(found), mixes),
            mixes=mixes,
            chunk_size=effort.chunk_size,
            input_set=input_set,
            dtype=box[0].dtype,
            has_output=has_output,
        )

    def refined(value: int, relaxed: Relaxed) -> Interval:
        bounds = relaxed.known[value]
        rows = _most_urgent(groups[value], bounds, takers[value], effort.capacity)
        return _refined(
            graph, relaxed, value, groups[value],
            rows=rows, chunk_size=effort.chunk_size, input_set=input_set, mixes=mixes,
        )  # fmt: skip

    refine = {value: functools.partial(refined, value) for value in groups}
    relaxed = _carried(graph, box, refine, mixes)
    if has_output:
        both = jax.tree.map(
            lambda *ends: jnp.stack(ends), intervals(graph, box), relaxed
        )
        bound = functools.partial(of_output, graph, effort=effort, input_set=input_set)
        lower, upper = jax.vmap(bound)(both)  # one program for the two
        relaxed.known[graph.output] = jnp.max(lower, axis=0), jnp.min(upper, axis=0)
    return relaxed


def intervals(graph: Graph, box: Interval) -> Relaxed:
    """Interval bounds of all values, settled where lines rest on them. [device]."""
    return _carried(graph, box, {}, {})


_Refine = Mapping[int, Callable[[Relaxed], Interval]]


def _carried(
    graph: Graph, box: Interval, refine: _Refine, mixes: Mapping[int, jax.Array]
) -> Relaxed:
    """Intervals of all values, some refined before they are first taken."""
    relaxed, left = Relaxed({0: box}, {}), dict(refine)
    known = relaxed.known
    for index, node in enumerate(graph.nodes, start=1):
        for value in node.inputs:
            if value in left:
                known[value] = left.pop(value)(relaxed)
        if isinstance(node.operation, Elementwise | Product | Contraction):
            for value in _floats(graph, node):  # from which lines are computed
                known[value] = ibp.settled(known[value])
        lines = backward.start_lines(node, known, mix=mixes.get(index))
        if lines is not None:
            relaxed.lines[index] = lines
        known[index] = ibp.through(node, known)
    for value, refined in left.items():
        known[value] = refined(relaxed)
    return relaxed


def _narrowed_by(found: Mapping[int, Interval]) -> _Refine:
    def refined(value: int, relaxed: Relaxed) -> Interval:
        return ibp.narrowed(relaxed.known[value], found[value])

    return {value: functools.partial(refined, value) for value in found}


def _takers(graph: Graph, input_set: InputSet) -> dict[int, Node]:
    """The values that get linear bounds, and the first nonlinear node that takes each.

    Intervals of the input, and of what is affine in the box alone, are exact.
    """
    is_exact = {0} | {
        value
        for value, node in enumerate(graph.nodes, start=1)
        if isinstance(node.operation, Affine) and node.inputs == (0,) and not input_set
    }
    found: dict[int, Node] = {}
    for node in graph.nodes:
        if not isinstance(node.operation, Affine | Narrowed):
            for value in _floats(graph, node) - is_exact:
                found.setdefault(value, node)
    return dict(sorted(found.items()))


def _floats(graph: Graph, node: Node) -> set[int]:
    """The inputs of a node that are no counts or truth values."""
    return {v for v in node.inputs if not v or graph.nodes[v - 1].is_float}


def _target(
    graph: Graph, value: int, node: Node | None, capacity: int | None
) -> Target:
    size = math.prod(graph.shape_of(value))
    if node is None or capacity is None or capacity >= size:
        return Target(value, size)
    groups = receptive_fields.one_by_one(graph.shape_of(value))
    return Target(value, capacity, lambda b: _most_urgent(groups, b, node, capacity))


def of_output(
    graph: Graph,
    relaxed: Relaxed,
    *,
    effort: Effort,
    input_set: InputSet = None,
) -> Interval:
    """Linear bounds of the output. [device].

    Args:
        graph: from `tracing.trace`.
        relaxed: bounds of all values, and lines.
        effort: how much is computed; all rows are.
        input_set: as in `inside`.

    Returns:
        Its lower and upper bounds, none looser than those known.
    """
    groups = receptive_fields.one_by_one(graph.shape_of(graph.output))
    rows = jnp.arange(groups.num_rows)
    return _refined(
        graph,
        relaxed,
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
    relaxed: Relaxed,
    value: int,
    groups: Groups,
    *,
    rows: jax.Array,
    chunk_size: int | None,
    input_set: InputSet,
    mixes: Mapping[int, jax.Array] | None = None,
) -> Interval:
    """Bounds of a value by linear forms of some rows, intersected with those known."""
    known, lines = relaxed

    def lowest(row: jax.Array) -> jax.Array:
        """Lower bounds of a row's entries and of their negatives, [2, cells]."""
        total = groups.total_of(row)
        chosen = (groups.row == row).astype(known[0][0].dtype)
        signed = jnp.stack([chosen, -chosen])
        form = backward.lower_form(
            graph, signed, value, known=known, lines=lines, mixes=mixes, total=total
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
    if not len(rows):
        return known[graph.output]
    starts = {
        index: mix
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
            bounds = {v: ibp.intersect(found.known[v], known[v]) for v in known}
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
