"""Sums over samples as confidence bounds take them: float64, with rounding errors.

[host] A sum S of terms t_i that was computed in float32 as S' obeys

    |S - S'| <= SUM_ERROR * sum |t_i|.
"""

import math
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from robustjax.smoothing.sampling.moments import MAX_PROJECTION, Moments

# What float32 can have done to a sum, in units of the sum of the sizes of its terms,
# and to the projection of noise on a vector of length 1.
SUM_ERROR = 1e-5
PROJECTION_ERROR = 1e-5
_FLOATS = (
    "misses_even",
    "misses_odd",
    "sum_even",
    "sum_odd",
    "sum_squares",
    "log_wealth",
    "bets",
    "soft_log_wealth",
)
_Array = NDArray[np.float64]


class HostMoments(NamedTuple):
    """Means of s z over the halves of the samples of n examples with d coordinates.

    Rows with sums that are not finite hold zeros.
    """

    is_finite: NDArray[np.bool_]  # [n]
    baseline: _Array  # [n]
    num_even: _Array  # [n]
    num_odd: _Array  # [n]
    x: _Array  # [n, d], mean over the even samples
    y: _Array  # [n, d], mean over the odd samples
    mean: _Array  # [n, d], mean over all samples
    sum_squares: _Array  # [n, d], no less than the exact sum of (s z)^2 over all
    x_error: _Array  # [n], no less than the length of the error of x
    y_error: _Array  # [n]
    mean_error: _Array  # [n, d], no less than the error of each coordinate
    bets: _Array  # [n, k]
    log_wealth: _Array  # [n, v, 2, k], no more than the exact sums


def is_finite(moments: Moments) -> NDArray[np.bool_]:
    """Which examples have sums without NaN and inf.

    [host] The others cannot be certified.

    Args:
        moments: sums over the samples of n examples.

    Returns:
        Booleans `[n]`.
    """
    num_examples = len(moments.counts)
    finite = np.ones(num_examples, bool)
    for name in _FLOATS:
        values = np.isfinite(np.asarray(getattr(moments, name)))
        finite &= values.all(axis=tuple(range(1, values.ndim)))
    return finite


def from_device(moments: Moments, *, votes: str) -> HostMoments:
    """The sums in float64.

    [host] By the inequality of Cauchy and Schwarz the sizes of k terms that are not
    zero add up to at most sqrt(k sum of squares), which `SUM_ERROR` multiplies.

    Args:
        moments: sums over the samples of n examples.
        votes: "hard" or "soft".

    Returns:
        `HostMoments`.

    Raises:
        ValueError: for a half without samples, or a baseline other than 1 and 1/2.
    """
    finite = is_finite(moments)
    baseline = np.asarray(moments.baseline, np.float64)
    if not np.isin(baseline, (0.5, 1.0)).all():
        raise ValueError(f"Expected baseline as 1 or 0.5, got {moments.baseline}.")
    num_even = np.asarray(moments.num_even, np.float64)
    num_odd = np.asarray(moments.num_odd, np.float64)
    fewest = min(num_even.min(initial=1), num_odd.min(initial=1))
    if fewest < 1:
        raise ValueError(
            "Expected num_samples for an even and an odd block of 128 samples at "
            f"least, got a half with {fewest:.0f}."
        )

    def host(name: str) -> _Array:
        values = np.asarray(getattr(moments, name), np.float64)
        return np.where(finite.reshape(-1, *[1] * (values.ndim - 1)), values, 0.0)

    def flat(name: str) -> _Array:
        values = host(name)
        return values.reshape(len(finite), math.prod(values.shape[1:]))

    num = num_even + num_odd
    squares = flat("sum_squares") * (1 + 4 * SUM_ERROR)
    length = np.sqrt(squares.sum(axis=1))
    misses_even, misses_odd = host("misses_even"), host("misses_odd")
    is_sparse = (baseline == 1) & (votes == "hard")  # s is zero but for misses
    terms_even = np.where(is_sparse, misses_even, num_even)
    terms_odd = np.where(is_sparse, misses_odd, num_odd)
    terms = terms_even + terms_odd
    x, y = flat("sum_even"), flat("sum_odd")
    return HostMoments(
        is_finite=finite,
        baseline=baseline,
        num_even=num_even,
        num_odd=num_odd,
        x=x / num_even[:, None],
        y=y / num_odd[:, None],
        mean=(x + y) / num[:, None],
        sum_squares=squares,
        x_error=SUM_ERROR * np.sqrt(terms_even) * length / num_even,
        y_error=SUM_ERROR * np.sqrt(terms_odd) * length / num_odd,
        mean_error=SUM_ERROR * np.sqrt(terms[:, None] * squares) / num[:, None],
        bets=host("bets"),
        log_wealth=_no_more(
            host("log_wealth"),
            host("bets")[:, None, None, :],
            num_terms=terms_even[:, None, None, None],
            outcome=np.where(baseline == 1, misses_even, num_even / 2),
            largest=(MAX_PROJECTION * baseline)[:, None, None, None],
        ),
    )


def _no_more(
    log_wealth: _Array,
    bets: _Array,
    *,
    num_terms: _Array,
    outcome: _Array,
    largest: _Array,
) -> _Array:
    """Sums of log(1 +- a x) less what rounding may have added; outcome is sum |s|.

    Both signs together are -Q = sum log(1 - (a x)^2) <= -sum (a x)^2, so sum |a x| is
    at most sqrt(num_terms Q); and |log(1 + y)| <= |y| + 2 y^2 for y >= -0.9.
    """
    q = np.maximum(-log_wealth.sum(axis=2, keepdims=True), 0.0)
    sizes = np.sqrt(num_terms * q) + 2 * q
    steepest = bets / (1 - bets * largest)  # of log(1 + a x) in x
    shift = PROJECTION_ERROR * steepest * outcome[:, None, None, None]
    return log_wealth - SUM_ERROR * sizes - shift
