"""Whether a box holds an input whose output is unsafe: branch and bound over inputs."""

import functools
import heapq
import itertools
import time
from collections.abc import Callable
from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jax.tree_util import Partial
from jax.typing import ArrayLike

from robustjax import _callables, _validate
from robustjax._precision import cpu
from robustjax.bounds import boxes
from robustjax.bounds.engine import METHODS, linear_bounds

_BATCH = 16  # boxes at a time; a first one alone


class Exclusion(NamedTuple):
    """Whether outputs are unsafe anywhere in a box; decided in float64 on the host."""

    status: str  # "unsat": nowhere; "sat": at x; "unknown": neither was found
    x: np.ndarray | None  # an input with an unsafe output
    num_bounded: int  # boxes whose outputs were bounded


def exclude(
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
) -> Exclusion:
    """Whether no input of a box has an output y with rows @ y + offsets <= 0.

    [host] All inequalities have to hold for an output to be unsafe, so a box is done
    where one of them fails everywhere. Other boxes are halved along the widest side,
    which pays for a few inputs; their centres are tried as counterexamples.

    Guarantee:
        "unsat" holds in exact arithmetic, as in `verify`. Of "sat" all inequalities
        hold strictly at x in float64.

    Args:
        fn: maps one example to an output `[k]`.
        lower: lower corner of the box.
        upper: upper corner.
        rows: `[m, k]`.
        offsets: `[m]`.
        method: as in `linear_bounds`.
        num_steps: as in `linear_bounds`.
        max_boxes: at most so many boxes are bounded; 1 splits nothing.
        time_limit: in seconds, after which no batch is begun.

    Returns:
        An `Exclusion`.

    Raises:
        ValueError: if shapes do not match, or the box is empty or not finite.
        UnsupportedError: if a primitive has no rule.

    Example:
        >>> fn = lambda x: jnp.stack([x[0] * x[1]])
        >>> box = np.array([-1.0, -1.0]), np.array([1.0, 1.0])
        >>> for least in (0.9, 1.1):  # is x y >= least anywhere?
        ...     exclude(fn, *box, rows=[[-1.0]], offsets=[least], max_boxes=500).status
        'sat'
        'unsat'

    Reference: ours.
    """
    began = time.perf_counter()
    _validate.one_of(METHODS, method=method)
    _validate.integer(1, max_boxes=max_boxes)
    low, high = (np.asarray(corner, np.float64) for corner in (lower, upper))
    boxes.check(low, high)
    spec, constant = (np.asarray(v, np.float64) for v in (rows, offsets))
    if spec.ndim != 2 or constant.shape != spec.shape[:1] or not len(spec):
        raise ValueError(
            f"Expected rows [m, k] and offsets [m], got {spec.shape} and "
            f"{constant.shape}."
        )
    order = itertools.count()
    pending = [(0.0, next(order), low, high)]
    num_bounded = 0
    with jax.enable_x64(True), jax.default_device(cpu()):
        partial = jax.device_put(_callables.as_partial(fn), cpu())
        bound = functools.partial(
            _bounded, partial, spec=spec, offsets=constant, method=method,
            num_steps=num_steps,
        )  # fmt: skip
        while pending:
            size = min(_BATCH if num_bounded else 1, max_boxes - num_bounded)
            if size <= 0 or time.perf_counter() - began > time_limit:
                return Exclusion("unknown", None, num_bounded)
            chosen = [heapq.heappop(pending) for _ in range(min(size, len(pending)))]
            filled = [chosen[i % len(chosen)] for i in range(_BATCH)]
            filled = filled[:1] if len(chosen) == 1 else filled
            lows, highs = (np.stack([box[k] for box in filled]) for k in (2, 3))
            least, at_centre = (np.asarray(v) for v in bound(lows, highs))
            num_bounded += len(chosen)
            for (_, _, a, b), value, centre in zip(
                chosen, least, at_centre, strict=False
            ):
                if np.isfinite(centre) and centre < 0:
                    return Exclusion("sat", 0.5 * (a + b), num_bounded)
                if not value > 0:
                    for half in _halves(a, b):
                        heapq.heappush(
                            pending, (float(np.nan_to_num(value)), next(order), *half)
                        )
    return Exclusion("unsat", None, num_bounded)


@functools.partial(jax.jit, static_argnames=("method", "num_steps"))
def _bounded(
    fn: Partial,
    lower: jax.Array,
    upper: jax.Array,
    *,
    spec: jax.Array,
    offsets: jax.Array,
    method: str,
    num_steps: int,
) -> tuple[jax.Array, jax.Array]:
    """Of each box the best lower bound of a side, and the largest at its centre."""

    def one(low: jax.Array, high: jax.Array) -> tuple[jax.Array, jax.Array]:
        found = linear_bounds(
            fn, low, high, spec=spec, method=method, num_steps=num_steps,
            casts="ignore", rounding="cover",
        )  # fmt: skip
        centre = jnp.matmul(spec, fn(0.5 * (low + high)), precision="highest") + offsets
        unit = jnp.finfo(offsets.dtype).eps  # of the last sum
        slack = 2 * unit * (jnp.abs(found.lower) + jnp.abs(offsets))
        return jnp.max(found.lower + offsets - slack), jnp.max(centre)

    return jax.vmap(one)(lower, upper)


def _halves(low: np.ndarray, high: np.ndarray) -> list[tuple[np.ndarray, np.ndarray]]:
    """The box cut across its widest side."""
    at = np.unravel_index(np.argmax(high - low), low.shape)
    below, above = high.copy(), low.copy()
    below[at] = above[at] = 0.5 * (low[at] + high[at])
    return [(low, below), (above, high)]
