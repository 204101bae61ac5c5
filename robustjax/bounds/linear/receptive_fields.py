"""Receptive fields of entries, and which entries can share backward rows.

Along every axis of the input, an entry depends on numbers from `first` to `last` alone,
as behind a convolution. Entries whose ranges are apart do not meet anywhere on the way
back to the input, so one row can carry all of them: the sums that a row gives are taken
cell by cell, a cell an entry. The number of rows is then the number of entries that see
one place, not that of all entries. Ours; patches as in Xu et al. (2020), arXiv
2002.12920, serve the same end.
"""

import math
from collections.abc import Callable, Sequence
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from robustjax.bounds.graph import Graph
from robustjax.bounds.linear import backward
from robustjax.bounds.linear.backward import Total
from robustjax.bounds.tracing import Range

_LEAST_ENTRIES = 64  # fewer are as fast one by one


class Groups(NamedTuple):
    """Entries of a value by the row that carries them."""

    row: np.ndarray  # [*shape of the value]
    cell: np.ndarray  # [*shape of the value], where in the row's sums
    num_rows: int
    total_of: Callable[[jax.Array], Total]
    """From a row to its sums, (value, numbers [2, *shape of that value]) -> by cell
    [2, cells]."""


def one_by_one(shape: tuple[int, ...]) -> Groups:
    """A row an entry. [host]."""
    size = math.prod(shape)
    return Groups(
        np.arange(size).reshape(shape),
        np.zeros(shape, int),
        size,
        lambda _: backward.whole,
    )


def groups(graph: Graph, value: int, known: list[list[Range]] | None) -> Groups:
    """Rows for the entries of a value, shared where that saves at least half. [host].

    Args:
        graph: from `tracing.trace`.
        value: whose entries are bounded.
        known: from `tracing.ranges`.

    Returns:
        `Groups`; one by one where little is gained.
    """
    alone = one_by_one(graph.shape_of(value))
    if known is None or alone.num_rows < _LEAST_ENTRIES:
        return alone
    axes = [
        axis
        for axis, (first, last) in enumerate(known[value])
        if np.max(last - first) + 1 < graph.shape[axis]
    ]
    dims = {}
    for at in _way_back(graph, value):
        dims[at] = [_varies_along(known[at][axis].first) for axis in axes]
        moving = [d for along in dims[at] for d in along]
        if len(set(moving)) < len(moving) or any(len(along) > 1 for along in dims[at]):
            return alone
    if not axes:
        return alone
    shared = _shared(known, value, axes, dims)
    return shared if 2 * shared.num_rows <= alone.num_rows else alone


def _shared(
    known: list[list[Range]],
    value: int,
    axes: Sequence[int],
    dims: dict[int, list[list[int]]],
) -> Groups:
    """Groups whose rows carry entries that are apart along the axes."""
    shape = known[value][0].first.shape
    tracks = [_tracks(known[value][axis]) for axis in axes]
    track = np.stack([t.track.ravel() for t in tracks], axis=1)
    cell = np.stack([t.cell.ravel() for t in tracks], axis=1)
    rank = _ranks(np.concatenate([track, cell], axis=1))
    keys, row = np.unique(
        np.concatenate([track, rank[:, None]], axis=1), axis=0, return_inverse=True
    )
    counts = tuple(t.starts.shape[1] for t in tracks)
    owners = {
        at: [
            _owners(t.starts, known[at][axis].first, along)
            for t, axis, along in zip(tracks, axes, alongs, strict=True)
        ]
        for at, alongs in dims.items()
    }

    def total_of(row: jax.Array) -> Total:
        chosen = jnp.asarray(keys)[row]
        found: dict[Any, jax.Array] = {}  # many values have their entries alike

        def owner(at: int, which: int, dtype: Any) -> jax.Array:
            table = owners[at][which]
            key = which, table.shape, table.tobytes(), dtype
            if key not in found:
                found[key] = jnp.asarray(table, dtype)[chosen[which]]
            return found[key]

        def total(at: int, numbers: jax.Array) -> jax.Array:
            operands: list[Any] = [numbers, list(range(numbers.ndim))]
            cells = range(numbers.ndim, numbers.ndim + len(axes))
            for which, along in enumerate(dims[at]):
                places = [*(d + 1 for d in along), cells[which]]
                operands += [owner(at, which, numbers.dtype), places]
            summed = jnp.einsum(
                *operands, [0, *cells], precision=jax.lax.Precision.HIGHEST
            )
            return summed.reshape(len(numbers), -1)

        return total

    return Groups(
        row.reshape(shape),
        np.ravel_multi_index(tuple(cell.T), counts).reshape(shape),
        len(keys),
        total_of,
    )


class _Tracks(NamedTuple):
    """Ranges along one axis, on as few tracks as keep those of one track apart."""

    track: np.ndarray  # [*shape of the value]
    cell: np.ndarray  # [*shape of the value], the place on the track
    starts: np.ndarray  # [tracks, cells], where the ranges of a track begin


def _tracks(entries: Range) -> _Tracks:
    pairs = np.stack([entries.first.ravel(), entries.last.ravel()], axis=1)
    distinct, index = np.unique(pairs, axis=0, return_inverse=True)
    members: list[list[int]] = []  # of each track
    for number, (first, _) in enumerate(distinct):
        free = (m for m in members if distinct[m[-1], 1] < first)
        track = next(free, None)
        if track is None:
            members.append([number])
        else:
            track.append(number)
    starts = np.full((len(members), max(map(len, members))), np.iinfo(np.int64).max)
    place = np.empty((len(distinct), 2), int)
    for track_number, numbers in enumerate(members):
        starts[track_number, : len(numbers)] = distinct[numbers, 0]
        place[numbers] = [(track_number, cell) for cell in range(len(numbers))]
    track, cell = place[index.ravel()].T.reshape(2, *entries.first.shape)
    return _Tracks(track, cell, starts)


def _ranks(keys: np.ndarray) -> np.ndarray:
    """0, 1, 2, ... among equal rows of keys."""
    _, index = np.unique(keys, axis=0, return_inverse=True)
    order = np.argsort(index.ravel(), kind="stable")
    ordered = index.ravel()[order]
    begins = np.searchsorted(ordered, ordered)
    rank = np.empty(len(order), int)
    rank[order] = np.arange(len(order)) - begins
    return rank


def _owners(starts: np.ndarray, first: np.ndarray, along: list[int]) -> np.ndarray:
    """[tracks, entries along a dimension, cells]: 1 where a cell holds an entry.

    What an entry of the track depends on has its range inside of that entry's range, so
    it lies between that start and the next one.
    """
    line = np.moveaxis(first, along[0], 0) if along else first
    line = line.reshape(first.shape[along[0]] if along else 1, -1)[:, 0]
    cells = np.stack([np.searchsorted(s, line, side="right") - 1 for s in starts])
    table = cells[..., None] == np.arange(starts.shape[1])
    return table if along else table[:, 0]


def _varies_along(first: np.ndarray) -> list[int]:
    """The dimensions of a value along which its ranges move."""
    return [d for d in range(first.ndim) if np.any(np.diff(first, axis=d))]


def _way_back(graph: Graph, value: int) -> set[int]:
    """The values that rows of a value meet on the way to the input, with the ends."""
    met, pending = set(), [value]
    while pending:
        at = pending.pop()
        if at not in met:
            met.add(at)
            pending += graph.nodes[at - 1].inputs if at else ()
    return met
