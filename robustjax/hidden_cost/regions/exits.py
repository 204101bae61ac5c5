"""First exits of functions of a distance, and the vote counts that mark them.

[host] Many rays at once: arrays run over the rays. With p(t) the probability of the
class at distance t, estimated by votes(t) of n samples,

    exit = inf {t >= 0 : p(t) < tau},   estimated by inf {t : votes(t) < tau n}.
"""

import bisect
from collections.abc import Callable
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from robustjax.smoothing.confidence import binomial

Distances = NDArray[np.float32]
_CUT_SHARE = 0.1  # of alpha, for grid points where p >= threshold is ruled out


class VoteLevels(NamedTuple):
    """Numbers of votes, of a fixed number of samples, to compare with."""

    inside: int  # minimum number of votes with a share >= threshold
    low: int  # p = threshold is accepted where low <= votes <= high
    high: int
    cut: int  # fewer are too few for p >= threshold at any of the grid points


def vote_levels(
    num_samples: int, threshold: float, *, alpha: float, num_points: int
) -> VoteLevels:
    """Levels of the votes for a class whose probability may be the threshold.

    [host]

    Guarantee:
        Where p = threshold, votes lie in [low, high] except with probability at most
        9/10 alpha. Over `num_points` fixed points with p >= threshold, and however
        their votes depend on each other, fewer than `cut` are seen at any of them with
        probability at most alpha/10. Together: alpha.

    Args:
        num_samples: noise samples at a point.
        threshold: a probability, in (0, 1).
        alpha: failure probability, in (0, 1).
        num_points: number of points of the grid.

    Returns:
        The `VoteLevels`; low <= inside, and cut <= low.

    Example:
        >>> vote_levels(1000, 0.5, alpha=0.05, num_points=65)
        VoteLevels(inside=500, low=468, high=532, cut=440)
    """

    def least(is_enough: Callable[[int], bool]) -> int:
        return bisect.bisect_left(range(num_samples + 1), True, key=is_enough)

    def may_reach(k: int, alpha: float) -> bool:
        upper = binomial.clopper_pearson_upper(k, num_samples, alpha=alpha)
        return bool(upper >= threshold)

    def surely_exceeds(k: int, alpha: float) -> bool:
        lower = binomial.clopper_pearson_lower(k, num_samples, alpha=alpha)
        return bool(lower > threshold)

    side = (1 - _CUT_SHARE) * alpha / 2
    return VoteLevels(
        inside=least(lambda k: k / num_samples >= threshold),
        low=least(lambda k: may_reach(k, side)),
        high=least(lambda k: surely_exceeds(k, side)) - 1,
        cut=least(lambda k: may_reach(k, _CUT_SHARE * alpha / num_points)),
    )


class Exit(NamedTuple):
    """Brackets of the first exits: still inside at `inner`, outside at `outer`."""

    inner: NDArray[np.float64]  # [n], the end of the grid where it is not left
    outer: NDArray[np.float64]  # [n], then inf

    @property
    def middle(self) -> NDArray[np.float64]:
        """The best guess. [host]."""
        return (self.inner + self.outer) / 2


def first_exit(
    grid: Distances,
    scanned: NDArray[np.bool_],
    is_inside: Callable[[Distances], NDArray[np.bool_]],
    *,
    num_bisections: int,
) -> Exit:
    """Brackets the first distances at which n rays are outside.

    [host] Bisects the first cell of the grid that ends outside. What is left and
    entered again within one cell is missed.

    Args:
        grid: ascending distances `[g]`, from 0 on.
        scanned: `[g, n]`, whether each ray is inside at each of them.
        is_inside: maps distances `[n]`, one a ray, to booleans `[n]`.
        num_bisections: how often to halve.

    Returns:
        The `Exit`; 0 for a ray that starts outside.

    Example:
        >>> grid = np.arange(5, dtype=np.float32)
        >>> found = first_exit(
        ...     grid, grid[:, None] < 2.7, lambda t: t < 2.7, num_bisections=2
        ... )
        >>> print(found.inner, found.outer)
        [2.5] [2.75]
    """
    index = np.argmin(scanned, axis=0)
    inner, outer = grid[np.maximum(index - 1, 0)], grid[index]
    for _ in range(num_bisections):
        middle = (inner + outer) / 2
        inside = is_inside(middle)
        inner, outer = np.where(inside, middle, inner), np.where(inside, outer, middle)
    never = scanned.all(axis=0)
    return Exit(
        np.where(never, grid[-1], inner).astype(np.float64),
        np.where(never, np.inf, outer).astype(np.float64),
    )


def crossings(scanned: NDArray[np.bool_]) -> NDArray[np.int32]:
    """How often each ray changes sides between neighbours of the grid.

    [host]

    Args:
        scanned: `[g, n]`, whether each ray is inside at each point of the grid.

    Returns:
        int32 `[n]`.

    Example:
        >>> print(crossings(np.array([[True], [False], [True], [True]])))
        [2]
    """
    return np.sum(scanned[1:] != scanned[:-1], axis=0, dtype=np.int32)
