"""Verification of output properties by branch and bound over boxes of inputs.

An output y is unsafe for a case if rows @ y + offsets <= 0. With lower bounds L of all
rows on a box of inputs, a case is excluded there where

    max_i (L_i + offset_i) > 0,

as one of its inequalities then fails everywhere. All rows of all cases are bounded by
one program, in which what the network does inside is bounded once.
"""

import functools
import heapq
import itertools
import time
from collections.abc import Callable, Iterator, Sequence
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jax.tree_util import Partial
from jax.typing import ArrayLike

from robustjax import _callables, _validate
from robustjax._precision import as_run, cpu, float64_on_cpu, own_copies
from robustjax.bounds import boxes, tracing
from robustjax.bounds.methods import METHODS, linear_bounds

_BATCH = 16  # boxes in a batch, which is padded to this size
_FEW = 64  # inputs; boxes of more come one at a time
_ROWS = (16, 64)  # rows at a time, filled up to one of these
_ULPS = 2 * np.finfo(np.float64).eps  # of a sum of two numbers

_Confirm = Callable[[int, np.ndarray], np.ndarray | None]


class PropertyResult(NamedTuple):
    """Whether outputs are unsafe anywhere in a box; decided in float64 on the host."""

    status: str  # "unsat": nowhere; "sat": at x; "unknown": neither was found
    x: np.ndarray | None  # an input with an unsafe output
    num_bounded: int  # boxes whose outputs were bounded
    open_cases: tuple[int, ...] = ()  # not excluded; of "sat" the one that x meets


def verify_property(
    fn: Callable[[jax.Array], jax.Array],
    lower: ArrayLike,
    upper: ArrayLike,
    *,
    rows: ArrayLike,
    offsets: ArrayLike,
    method: str = "crown",
    num_steps: int = 20,
    max_boxes: int = 1,
    time_limit: float = float("inf"),
) -> PropertyResult:
    """Whether no input of a box has an output y with rows @ y + offsets <= 0.

    [host] All inequalities have to hold for an output to be unsafe, so a box is done
    where one of them fails everywhere. Other boxes are halved along the widest side,
    which pays for a few inputs. Their centres are tried as counterexamples, and the
    corners that lower an inequality most by its gradient at the centre.

    Guarantee:
        "unsat" holds in exact arithmetic, as in `verify`. Of "sat" all inequalities
        hold at x in float64; equality counts.

    Args:
        fn: maps one example to an output `[k]`.
        lower: lower corner of the box.
        upper: upper corner.
        rows: `[m, k]`.
        offsets: `[m]`.
        method: as in `linear_bounds`.
        num_steps: as in `linear_bounds`.
        max_boxes: maximum number of boxes to bound, >= 1; 1 splits nothing.
        time_limit: in seconds, after which no batch is begun.

    Returns:
        A `PropertyResult`.

    Raises:
        ValueError: if shapes do not match, or the box is empty or not finite.
        UnsupportedError: if a primitive has no rule.

    Example:
        >>> fn = lambda x: jnp.stack([x[0] * x[1]])
        >>> box = np.array([-1.0, -1.0]), np.array([1.0, 1.0])
        >>> for least in (0.9, 1.1):  # is x y >= least anywhere?
        ...     found = verify_property(
        ...         fn, *box, rows=[[-1.0]], offsets=[least], max_boxes=500)
        ...     found.status
        'sat'
        'unsat'

    Reference: ours.
    """
    return verify_cases(
        fn,
        [(lower, upper, rows, offsets)],
        method=method,
        num_steps=num_steps,
        max_boxes=max_boxes,
        time_limit=time_limit,
    )


def verify_cases(
    fn: Callable[[jax.Array], jax.Array],
    cases: Sequence[tuple[ArrayLike, ArrayLike, ArrayLike, ArrayLike]],
    *,
    method: str = "crown",
    num_steps: int = 20,
    max_boxes: int = 1,
    time_limit: float = float("inf"),
    confirm: _Confirm | None = None,
) -> PropertyResult:
    """Whether no input is in the box of a case and has an output unsafe for it.

    [host] As `verify_property` for a disjunction. Cases with equal boxes are decided
    together: rows that several have are bounded once, and numbers of rows and boxes are
    filled up to few sizes, so that the same function is compiled once.

    Guarantee:
        As `verify_property`, for all cases. Rows may be off by half an ulp, as of
        decimals.

    Args:
        fn: maps one example to an output `[k]`.
        cases: one or more, each the lower and the upper corner, rows `[m, k]` and
            offsets `[m]` as for `verify_property`; corners are of one shape, m may
            differ and be zero.
        method: as in `linear_bounds`.
        num_steps: as in `linear_bounds`.
        max_boxes: maximum number of boxes to bound for each box of the cases, >= 1; 1
            splits nothing.
        time_limit: in seconds, after which no batch is begun.
        confirm: checks a counterexample: confirm(case, x) gets the index of a case and
            an input of its box whose output is unsafe in float64. It returns this
            input, or another one to report in its place, or None to search on.

    Returns:
        A `PropertyResult`.

    Raises:
        ValueError: if shapes do not match, a box is empty, or anything is not finite.
        UnsupportedError: if a primitive has no rule.

    Example:
        >>> fn = lambda x: jnp.stack([x[0] + x[1]])
        >>> box = np.array([-1.0, -1.0]), np.array([1.0, 1.0])
        >>> cases = [(*box, [[-1.0]], [3.0]), (*box, [[1.0]], [2.0])]
        >>> found = verify_cases(fn, cases)  # x + y >= 3, or x + y <= -2
        >>> found.status, found.x, found.open_cases
        ('sat', array([-1., -1.]), (1,))

    Reference: ours.
    """
    began = time.perf_counter()
    _validate.one_of(METHODS, method=method)
    _validate.integer(1, max_boxes=max_boxes)
    numbers = itertools.count()
    unsafe, queue = _prepared(fn, cases, numbers)
    num_bounded, budget = 0, max_boxes * len(queue)
    run = as_run(_callables.as_partial(fn))
    unresolved: list[_Entry] = []  # boxes that no float64 halves
    with float64_on_cpu():
        moved = jax.device_put(own_copies(run), cpu())
        bound = functools.partial(_bounded, moved, method=method, num_steps=num_steps)
        while queue:
            size = min(_batch(queue[0]), budget - num_bounded, len(queue))
            if size <= 0 or time.perf_counter() - began > time_limit:
                break
            chosen = [heapq.heappop(queue) for _ in range(size)]
            num_bounded += size
            found = _evaluated(bound, chosen, unsafe)
            for case, x in found.candidates:
                point = x if confirm is None else confirm(case, x)
                if point is not None:
                    return PropertyResult("sat", point, num_bounded, (case,))
            for entry, sides in zip(chosen, found.least, strict=True):
                is_open = ~(sides > 0)
                if not is_open.any():
                    continue
                rest = entry._replace(
                    rank=float(np.min(np.nan_to_num(sides[is_open]))),
                    cases=entry.cases[is_open],
                )
                halves = _halves(rest, numbers)
                for half in halves:
                    heapq.heappush(queue, half)
                if not halves:
                    unresolved.append(rest)
    left = [entry.cases for entry in (*queue, *unresolved)]
    if not left:
        return PropertyResult("unsat", None, num_bounded)
    open_cases = tuple(np.unique(np.concatenate(left)).tolist())
    return PropertyResult("unknown", None, num_bounded, open_cases)


class _Unsafe(NamedTuple):
    """The polytopes of all cases; those with fewer inequalities repeat their first."""

    rows: np.ndarray  # [num_rows, k], no two of them equal
    numbers: np.ndarray  # [num_cases, m], of the rows of a case
    offsets: np.ndarray  # [num_cases, m]

    def least(self, lower: np.ndarray, cases: np.ndarray) -> np.ndarray:
        """Lower bounds of max_i (row_i @ y + offset_i), [n], from those of all rows."""
        bounds, offsets = lower[self.numbers[cases]], self.offsets[cases]
        slack = _ULPS * (np.abs(bounds) + np.abs(offsets))
        return np.max(bounds + offsets - slack, axis=1)

    def met(
        self, cases: np.ndarray, part: np.ndarray, values: np.ndarray
    ) -> tuple[np.ndarray, np.ndarray]:
        """Where each case is met best, [n], and the largest of its left sides there.

        Tests those outputs [1 + p, k] that may violate a case: the first, and for each
        of its rows that is in part, [p] sorted, the one that belongs to it.
        """
        index = self.numbers[cases]
        at = np.minimum(np.searchsorted(part, index), len(part) - 1)
        own = np.where(part[at] == index, 1 + at, 0)
        own = np.concatenate([np.zeros_like(own[:, :1]), own], axis=1)
        sides = np.einsum("cik,cjk->cji", self.rows[index], values[own])
        sides = sides + self.offsets[cases][:, None]
        largest = np.where(np.isfinite(sides).all(axis=2), sides.max(axis=2), np.inf)
        best = largest.argmin(axis=1)[:, None]
        return (
            np.take_along_axis(own, best, axis=1)[:, 0],
            np.take_along_axis(largest, best, axis=1)[:, 0],
        )


class _Entry(NamedTuple):
    """A box in the queue, with the cases open there; the lowest rank is next."""

    rank: float
    number: int  # no two are equal
    low: np.ndarray
    high: np.ndarray
    cases: np.ndarray


def _batch(entry: _Entry) -> int:
    return _BATCH if entry.low.size <= _FEW else 1


class _Evaluated(NamedTuple):
    """What is known of a batch of boxes."""

    least: list[np.ndarray]  # of each box the lower bounds for its cases
    candidates: list[tuple[int, np.ndarray]]  # a case and an input that meets it


def _prepared(
    fn: Callable[[jax.Array], jax.Array],
    cases: Sequence[tuple[ArrayLike, ArrayLike, ArrayLike, ArrayLike]],
    numbers: Iterator[int],
) -> tuple[_Unsafe, list[_Entry]]:
    """The polytopes, and each different box with its cases."""
    if not len(cases):
        raise ValueError("Expected one case or more, got none.")
    shared: dict[tuple[bytes, bytes], tuple[np.ndarray, np.ndarray, list[int]]] = {}
    polytopes = []
    for case, (lower, upper, rows, offsets) in enumerate(cases):
        low, high = (np.asarray(corner, np.float64) for corner in (lower, upper))
        boxes.check(low, high)
        shared.setdefault((low.tobytes(), high.tobytes()), (low, high, []))[2].append(
            case
        )
        spec, constant = (np.asarray(v, np.float64) for v in (rows, offsets))
        if spec.ndim != 2 or constant.shape != spec.shape[:1]:
            raise ValueError(
                f"Expected rows [m, k] and offsets [m], got {spec.shape} and "
                f"{constant.shape}."
            )
        if not (np.isfinite(spec).all() and np.isfinite(constant).all()):
            raise ValueError("Expected finite rows and offsets, got NaN or inf.")
        if not len(spec):  # 0 y - 1 <= 0 is met by every y
            spec, constant = np.zeros((1, spec.shape[1])), np.full(1, -1.0)
        polytopes.append((spec, constant))
    shapes = {low.shape for low, _, _ in shared.values()}
    widths = {spec.shape[1] for spec, _ in polytopes}
    if len(shapes) != 1 or len(widths) != 1:
        raise ValueError(
            f"Expected boxes of one shape and rows of one length, got {sorted(shapes)} "
            f"and {sorted(widths)}."
        )
    (shape,), (width,) = shapes, widths
    output = jax.eval_shape(fn, jax.ShapeDtypeStruct(shape, jnp.result_type(float)))
    if output.shape != (width,):
        raise ValueError(
            f"Expected rows [m, k] for outputs of fn of shape {output.shape}, got k = "
            f"{width}."
        )
    entries = [
        _Entry(0.0, next(numbers), low, high, np.asarray(own))
        for low, high, own in shared.values()
    ]
    return _unsafe(polytopes), entries


def _unsafe(polytopes: Sequence[tuple[np.ndarray, np.ndarray]]) -> _Unsafe:
    stacked = np.concatenate([spec for spec, _ in polytopes])
    rows, inverse = np.unique(stacked, axis=0, return_inverse=True)
    counts = np.asarray([len(spec) for spec, _ in polytopes])
    column = np.arange(counts.max())[None]
    starts = np.cumsum(counts) - counts
    at = starts[:, None] + np.where(column < counts[:, None], column, 0)
    offsets = np.concatenate([constant for _, constant in polytopes])
    return _Unsafe(rows, inverse.reshape(-1)[at], offsets[at])


def _evaluated(
    bound: Callable[..., Any], chosen: Sequence[_Entry], unsafe: _Unsafe
) -> _Evaluated:
    """Bounds a batch of boxes, all rows that their cases need."""
    filled = [chosen[i % len(chosen)] for i in range(_batch(chosen[0]))]
    lows, highs = (np.stack([getattr(e, n) for e in filled]) for n in ("low", "high"))
    needed = np.unique(unsafe.numbers[np.concatenate([e.cases for e in chosen])])
    lower = np.full((len(filled), len(unsafe.rows)), -np.inf)
    met: list[tuple[float, int, np.ndarray]] = []
    with np.errstate(invalid="ignore", over="ignore"):
        for first in range(0, len(needed), _ROWS[-1]):
            part = needed[first : first + _ROWS[-1]]
            size = next(size for size in _ROWS if len(part) <= size)
            spec = np.resize(unsafe.rows[part], (size, unsafe.rows.shape[1]))
            found, points, values = map(np.asarray, bound(lows, highs, spec))
            lower[:, part] = found[:, : len(part)]
            for entry, x, y in zip(chosen, points, values, strict=False):
                at, largest = unsafe.met(entry.cases, part, y)
                for i in np.flatnonzero(largest <= 0):
                    met.append((float(largest[i]), int(entry.cases[i]), x[at[i]]))
        met.sort(key=lambda one: one[0])
        least = [
            unsafe.least(row, entry.cases)
            for row, entry in zip(lower, chosen, strict=False)
        ]
    return _Evaluated(least, [(case, x) for _, case, x in met])


@functools.partial(jax.jit, static_argnames=("method", "num_steps"))
def _bounded(
    fn: Partial,
    lower: jax.Array,
    upper: jax.Array,
    spec: jax.Array,
    *,
    method: str,
    num_steps: int,
) -> tuple[jax.Array, jax.Array, jax.Array]:
    """Returns for each box lower bounds [b, s] of the rows, points and their outputs.

    The points [b, 1 + s, ...] are the centre, and for each row the corner that lowers
    it most by its gradient there; entries of the input without one stay in the middle.
    Their outputs are those of the function whose bounds these are, casts left out.
    """
    example = jax.ShapeDtypeStruct(lower.shape[1:], lower.dtype)
    graph = tracing.trace(fn, example, casts="ignore")

    def one(low: jax.Array, high: jax.Array) -> tuple[jax.Array, jax.Array, jax.Array]:
        found = linear_bounds(
            fn,
            low,
            high,
            spec=spec,
            method=method,
            num_steps=num_steps,
            casts="ignore",
            rounding="cover",
        )
        centre = 0.5 * low + 0.5 * high
        back = jax.vjp(graph.at, centre)[1]
        (slopes,) = jax.vmap(back)(spec)
        corners = jnp.where(slopes > 0, low[None], centre[None])
        corners = jnp.where(slopes < 0, high[None], corners)
        points = jnp.concatenate([centre[None], corners])
        return found.lower, points, jax.vmap(graph.at)(points)

    return jax.vmap(one)(lower, upper)


def _halves(entry: _Entry, numbers: Iterator[int]) -> list[_Entry]:
    """The box cut across its widest side; nothing if no float64 is inside of any."""
    low, high = entry.low, entry.high
    middle = 0.5 * low + 0.5 * high
    width = np.where((low < middle) & (middle < high), high - low, 0.0)
    at = np.unravel_index(np.argmax(width), low.shape)
    if not width[at] > 0:
        return []
    below, above = high.copy(), low.copy()
    below[at] = above[at] = middle[at]
    return [
        entry._replace(number=next(numbers), high=below),
        entry._replace(number=next(numbers), low=above),
    ]
