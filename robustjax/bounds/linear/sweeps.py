"""Linear bounds of many values by one backward program, in a loop over the values.

A pass written out for each value that a nonlinear node takes makes programs that grow
with the square of the depth. Here all passes are one: it starts at the output, and rows
enter where their value stands. With targets t_1 < ... < t_m, part j of the graph goes
from t_j back to t_(j-1), and the pass of t_k goes through

    part k, part k - 1, ..., part 1,

while the parts above are skipped. The loop goes over chunks of rows: first of the
output, from intervals alone; then of all other targets in their order, before each of
which intervals are carried forward again; then of the output once more. Ours.
"""

import functools
import itertools
from collections.abc import Callable, Mapping, Sequence
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from robustjax.bounds import input_sets
from robustjax.bounds.graph import Graph
from robustjax.bounds.input_sets import InputSet
from robustjax.bounds.linear import backward
from robustjax.bounds.linear.backward import Pass
from robustjax.bounds.operations import Interval, Lines

_MOST_ROWS = 128  # in one pass


class Relaxed(NamedTuple):
    """What backward passes need of the values of a graph and of its nodes."""

    known: dict[int, Interval]  # valid bounds of values 0, 1, 2, ...
    lines: dict[int, Lines]  # of results of elementwise functions


Forward = Callable[[Mapping[int, Interval]], Relaxed]
"""From linear bounds of some values to bounds of all of them."""


class Target(NamedTuple):
    """A value that gets linear bounds."""

    value: int
    num_rows: int  # that are bounded, at most as many as it has entries
    most_urgent: Callable[[Interval], jax.Array] | None = None
    """From what is known to the entries that are bounded; None: all."""


class _Todo(NamedTuple):
    """One step of the loop."""

    target: Any  # which; -1: none
    first: Any  # row
    is_new: Any  # whether intervals are carried forward before


def run(
    graph: Graph,
    targets: Sequence[Target],
    forward: Forward,
    *,
    mixes: Mapping[int, jax.Array],
    chunk_size: int | None,
    input_set: InputSet,
    dtype: jax.typing.DTypeLike,
    has_output: bool,
) -> Relaxed:
    """Valid bounds of all values, linear ones of the targets. [device].

    Args:
        graph: from `tracing.trace`.
        targets: in the order of their values, the output last.
        forward: intervals of all values, and lines, from linear bounds of targets.
        mixes: as for `backward.lower_form`, one for all rows.
        chunk_size: number of entries in one pass.
        input_set: as for `input_sets.least`.
        dtype: of the input.
        has_output: whether the output is bounded, too.

    Returns:
        Bounds of all values, and lines.
    """
    entries = _Entries.of(graph, targets)
    most = max(1, *(target.num_rows for target in targets))
    num_rows = chunk_size or min(_MOST_ROWS, most)
    numbers = np.arange(num_rows)

    def step(state: tuple[Relaxed, jax.Array], todo: _Todo) -> tuple[Any, None]:
        relaxed, found = state
        relaxed = jax.lax.cond(
            todo.is_new, lambda: forward(entries.split(found)), lambda: relaxed
        )
        known, rows = relaxed.known, todo.first + numbers
        num_rows_of, first_of = map(jnp.asarray, (entries.num_rows, entries.first))
        is_row = (todo.target >= 0) & (rows < num_rows_of[todo.target])
        chosen = rows
        for which, target in enumerate(targets):
            if target.most_urgent is not None:
                order = target.most_urgent(known[target.value])
                own = order[jnp.minimum(rows, len(order) - 1)]
                chosen = jnp.where(todo.target == which, own, chosen)
        done = _passed(
            graph, targets, todo, relaxed,
            chosen=jnp.where(is_row, chosen, -1), mixes=mixes,
        )  # fmt: skip
        form = backward.ended(graph, done, known=known, total=backward.whole)
        low = input_sets.least(form, known[0], input_set)[:, 0].reshape(2, -1)
        at = jnp.where(is_row, first_of[todo.target] + chosen, entries.size)
        better = jnp.fmax(found.at[:, at].get(mode="fill", fill_value=0.0), low)
        return (relaxed, found.at[:, at].set(better, mode="drop")), None

    nothing = jnp.full((2, entries.size), -jnp.inf, dtype)
    start = _zeros_of(jax.eval_shape(lambda: forward(entries.split(nothing))))
    schedule = _schedule(targets, num_rows, has_output=has_output)
    (relaxed, _), _ = jax.lax.scan(step, (start, nothing), schedule)
    return relaxed


class _Entries(NamedTuple):
    """Where the entries of targets stand, all in one row."""

    first: np.ndarray  # of each target
    num_rows: np.ndarray
    shapes: dict[int, tuple[int, ...]]  # by value
    size: int

    @classmethod
    def of(cls, graph: Graph, targets: Sequence[Target]) -> "_Entries":
        """Those of targets."""
        shapes = {t.value: graph.shape_of(t.value) for t in targets}
        ends = np.cumsum([np.prod(shape, dtype=int) for shape in shapes.values()])
        first = np.concatenate([[0], ends[:-1]])
        return cls(first, np.asarray([t.num_rows for t in targets]), shapes, ends[-1])

    def split(self, found: jax.Array) -> dict[int, Interval]:
        """Bounds by value, from those below and, turned over, above: [2, size]."""
        parts = jnp.split(found, self.first[1:], axis=1)
        return {
            value: (part[0].reshape(shape), -part[1].reshape(shape))
            for (value, shape), part in zip(self.shapes.items(), parts, strict=True)
        }


def _schedule(targets: Sequence[Target], num_rows: int, *, has_output: bool) -> _Todo:
    """The steps; the last one only carries intervals forward."""
    *inside, output = range(len(targets))
    steps = [
        (which, first, first == 0)
        for which in ([output, *inside, output] if has_output else inside)
        for first in range(0, targets[which].num_rows, num_rows)
    ]
    return _Todo(*map(np.asarray, zip(*steps, (-1, 0, True), strict=True)))


def _passed(
    graph: Graph,
    targets: Sequence[Target],
    todo: _Todo,
    relaxed: Relaxed,
    *,
    chosen: jax.Array,
    mixes: Mapping[int, jax.Array],
) -> Pass:
    """The pass of one target: rows of ones and of their negatives, for each entry."""
    dtype = relaxed.known[0][0].dtype
    stops = [0, *(target.value for target in targets)]
    done = None
    for which, (stop, value) in reversed(list(enumerate(itertools.pairwise(stops)))):
        shape = graph.shape_of(value)
        is_own = jnp.where(todo.target == which, chosen, -1)[:, None]
        ones = (is_own == np.arange(np.prod(shape, dtype=int))[None]).astype(dtype)
        seeds = jnp.concatenate([ones, -ones]).reshape(2 * len(ones), *shape)

        part = jax.jit(  # which is traced once for the two uses below
            functools.partial(_through_part, graph, value=value, stop=stop)
        )
        nothing = functools.partial(
            _zeros_of, jax.eval_shape(part, relaxed, mixes, seeds, done)
        )
        done = jax.lax.cond(
            todo.target >= which, part, nothing, relaxed, mixes, seeds, done
        )
    assert done is not None
    return done


def _through_part(
    graph: Graph,
    relaxed: Relaxed,
    mixes: Mapping[int, jax.Array],
    seeds: jax.Array,
    done: Pass | None,
    *,
    value: int,
    stop: int,
) -> Pass:
    """A pass with more rows of a value, gone back to an earlier one."""
    if done is None:
        done = backward.begun({value: seeds})
    else:
        done = backward.joined(done, value, seeds)
    for at in range(value, stop, -1):
        done = backward.through(
            graph,
            at,
            done,
            known=relaxed.known,
            lines=relaxed.lines,
            mixes=mixes,
            total=backward.whole,
        )
    return done


def _zeros_of(structs: Any, *_: Any) -> Any:
    return jax.tree.map(lambda s: jnp.zeros(s.shape, s.dtype), structs)
