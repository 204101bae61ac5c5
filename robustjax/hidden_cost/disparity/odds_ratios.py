r"""One class against the rest: exact conditional tests of odds ratios, [host], float64.

X of n examples of a class are correct, t of N in all. Given t, if the odds p / (1 - p)
of the class are psi times those of the rest,

    P[X = x] = w(x) psi^x / sum_j w(j) psi^j,  w(x) = C(n, x) C(N - n, t - x)

(Fisher); psi = 1 is Fisher's exact test. The tail P[X >= k] increases with psi. It
decreases with each further success of the class and each further failure of the rest.
So the test holds as well where the accuracies of the rest differ: if no two classes
have odds whose ratio exceeds psi, the tail at psi is at most s with probability at
most s. Logarithms of factorials round: a tail is right to a part in 10^8 for a million
examples.
"""

from collections.abc import Iterator

import numpy as np
from numpy.typing import NDArray
from scipy import special

_NUM_BISECTIONS = 50
_MOST_LOG_RATIO = 60.0

_Counts = NDArray[np.integer]
_Floats = NDArray[np.float64]
_Tail = tuple[_Counts, _Floats]  # excess over the observed count, log weights


def least_log_tail(num_correct: _Counts, num_examples: _Counts) -> float:
    """Smallest tail, as a logarithm, of Fisher's exact tests of a class with the rest.

    [host]

    Args:
        num_correct: `[K]` counts.
        num_examples: `[K]` counts.

    Returns:
        log of the smallest of the 2 K tails P[X >= k] and P[X <= k] at equal odds.
    """
    return min(_log_tail(tail, 0.0) for tail in _tails(num_correct, num_examples))


def log_ratio_lower(
    num_correct: _Counts, num_examples: _Counts, *, side: float
) -> float:
    """Lower bound of the logarithm of the largest odds ratio between two classes.

    [host]

    Guarantee:
        It fails only where one of 2 K events occurs (2 for K = 2, where the rest is the
        other class), each of a probability of at most `side`.

    Args:
        num_correct: `[K]` counts.
        num_examples: `[K]` counts.
        side: failure probability of each tail, in (0, 1).

    Returns:
        The bound in [0, 60]; above 0 where a tail at equal odds is below `side`.
    """
    level, found = float(np.log(side)), 0.0
    tails = _tails(num_correct, num_examples)
    for tail in sorted(tails, key=lambda tail: _log_tail(tail, 0.0)):
        if _log_tail(tail, found) < level:
            found = _rejected_until(tail, level=level, low=found)
    return found


def _tails(num_correct: _Counts, num_examples: _Counts) -> Iterator[_Tail]:
    """The two tails of each class: it has so much more than observed, or less."""
    total, successes = int(num_examples.sum()), int(num_correct.sum())
    for k, n in zip(num_correct.tolist(), num_examples.tolist(), strict=True):
        x = np.arange(max(0, successes - total + n), min(n, successes) + 1)
        weights = _log_choose(n, x) + _log_choose(total - n, successes - x)
        yield x - k, weights
        yield k - x, weights


def _log_choose(n: int, x: _Counts) -> _Floats:
    return special.gammaln(n + 1) - special.gammaln(x + 1) - special.gammaln(n - x + 1)


def _log_tail(tail: _Tail, log_ratio: float) -> float:
    """Logarithm of P[excess >= 0] at an odds ratio."""
    excess, weights = tail
    terms = weights + log_ratio * excess
    log_sum = np.logaddexp.reduce
    return float(log_sum(terms[excess >= 0]) - log_sum(terms))


def _rejected_until(tail: _Tail, *, level: float, low: float) -> float:
    """Largest log odds ratio, up to bisection, whose tail is below the level."""
    high = _MOST_LOG_RATIO
    for _ in range(_NUM_BISECTIONS):
        middle = (low + high) / 2
        is_rejected = _log_tail(tail, middle) < level
        low, high = (middle, high) if is_rejected else (low, middle)
    return low
