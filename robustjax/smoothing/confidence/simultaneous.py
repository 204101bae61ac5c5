r"""Confidence intervals of several probabilities that hold together, [host], float64.

With m intervals, each side of each fails with probability at most s = alpha / (2 m):

    lower = sup {p : P[Binomial(n, p) >= k] <= s},
    upper = inf {p : P[Binomial(n, p) <= k] <= s}    (Clopper and Pearson).

A count over examples of different classes is not binomial: it adds independent
indicators of unequal probabilities, of mean p. For c >= n p + 1 its tail
P[count >= c] is at most the binomial one (Hoeffding). Only c = 1 is left, where
P[count >= 1] <= n p, hence lower = s / n at k = 1; the upper side mirrors it.
"""

import numpy as np
from numpy.typing import NDArray

from robustjax import _validate
from robustjax.smoothing.confidence import binomial

_Bounds = tuple[NDArray[np.float64], NDArray[np.float64]]


def two_sided_bounds(
    num_success: NDArray[np.integer],
    num_trials: NDArray[np.integer] | int,
    *,
    alpha: float,
    num_intervals: int,
) -> _Bounds:
    """Clopper-Pearson intervals that hold together. [host].

    Guarantee: all `num_intervals` of them hold with probability at least 1 - alpha,
    each side of each failing with probability at most alpha / (2 num_intervals).

    Args:
        num_success: counts, any shape.
        num_trials: counts that broadcast; 0 trials give [0, 1].
        alpha: failure probability of all intervals together, in (0, 1).
        num_intervals: how many are to hold together.

    Returns:
        (lower, upper), of the shape of num_success.
    """
    side = alpha / (2 * num_intervals)
    return (
        binomial.clopper_pearson_lower(num_success, num_trials, alpha=side),
        binomial.clopper_pearson_upper(num_success, num_trials, alpha=side),
    )


def mean_bounds(
    num_success: NDArray[np.integer],
    num_trials: int,
    *,
    alpha: float,
    num_intervals: int,
) -> _Bounds:
    """Intervals of the mean success probability of unequal trials.

    [host]

    Guarantee:
        As for `two_sided_bounds`, where trials are independent but need not have equal
        probabilities; each interval is about their mean. At least two intervals are
        asked for: then s < 1/4, and for c >= 2 a binomial tail P[Binomial >= c] < s
        implies c >= n p + 1, where Hoeffding's inequality applies. (A binomial of
        integer mean c - 1 >= 1 is at least c with probability at least 1/4.)

    Args:
        num_success: counts, any shape.
        num_trials: number of trials of each count; 0 trials give [0, 1].
        alpha: failure probability of all intervals together, in (0, 1).
        num_intervals: how many are to hold together, an integer >= 2.

    Returns:
        (lower, upper), of the shape of num_success.

    Raises:
        ValueError: if num_intervals < 2.

    Reference:
        Hoeffding (1956), Annals of Mathematical Statistics 27(3), 713-721.
    """
    _validate.integer(2, num_intervals=num_intervals)
    lower, upper = two_sided_bounds(
        num_success, num_trials, alpha=alpha, num_intervals=num_intervals
    )
    k, n = np.asarray(num_success), max(num_trials, 1)
    least = alpha / (2 * num_intervals * n)
    return (
        np.where(k == 1, least, lower),
        np.where(k == num_trials - 1, 1 - least, upper),
    )
