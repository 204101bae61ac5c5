r"""The gap between the best and the worst class: one procedure for interval and test.

K classes have accuracies p_c, k_c of n_c examples correct. At level alpha, m events
have a probability of at most s = alpha / m each, 2 for each

- class: p_c is outside [L_c, U_c] (Clopper-Pearson),
- the pool of all classes: its accuracy, which lies between the smallest and the largest
  p_c, is outside [L, U],
- class against the rest: the largest odds ratio psi between two classes is below
  Fisher's conditional bound, see `odds_ratios`.

If none occurs, the largest accuracy is at least x and the smallest at most y,

    x = max(L, max_c L_c),   y = min(U, min_c U_c),                               (1)

and their odds ratio is at least psi. A probability q and the one of psi times its odds
differ by

    d(q) = q (1 - q) (psi - 1) / (1 + q (psi - 1)),                               (2)

concave in q, hence smallest where the largest accuracy is x or the smallest is y. So

    gap in [max(0, x - y, min(d(1 - x), d(y))),  max over i != j of U_i - L_j].   (3)

The test of equal classes rejects at level alpha exactly where the lower end is above 0:
where psi > 1 or x > y. So its p-value is, with F the smallest of Fisher's tails,

    min(1, m min(F, min_q max(min_c P[X_c >= k_c], min_c P[X_c <= k_c]))),        (4)

X_c ~ Binomial(n_c, q), c over classes and pool: with a common accuracy q, no bound is
as far off as these.
"""

import math

import numpy as np
from numpy.typing import ArrayLike, NDArray
from scipy import special

from robustjax import _validate
from robustjax.hidden_cost.disparity import odds_ratios
from robustjax.smoothing.confidence import simultaneous

_NUM_BISECTIONS = 50
_NUM_NODES = 4096  # of the mean gap by chance: error at most 1 / 4096

_Counts = NDArray[np.integer]
_Floats = NDArray[np.float64]


def gap_interval(
    num_correct: _Counts, num_examples: _Counts, *, alpha: float
) -> tuple[float, float]:
    """Confidence interval of the largest minus the smallest accuracy of K classes.

    [host]

    Guarantee:
        It holds the true gap with probability at least 1 - alpha, for any numbers of
        examples. It contains the observed gap.

    Args:
        num_correct: `[K]` counts.
        num_examples: `[K]` counts >= 1.
        alpha: failure probability, in (0, 1).

    Returns:
        (lower, upper) in [0, 1]; (0, 0) for one class, which has no gap.
    """
    pairs = _num_pairs_of_events(len(num_examples))
    lower, upper = simultaneous.two_sided_bounds(
        num_correct, num_examples, alpha=alpha, num_intervals=pairs
    )
    pool_lower, pool_upper = simultaneous.mean_bounds(
        num_correct.sum(), int(num_examples.sum()), alpha=alpha, num_intervals=pairs
    )
    log_ratio = odds_ratios.log_ratio_lower(
        num_correct, num_examples, side=alpha / (2 * pairs)
    )
    x, y = max(lower.max(), pool_lower), min(upper.min(), pool_upper)  # (1)
    excess = math.expm1(log_ratio)  # psi - 1
    of_ratio = min(_distance(1 - x, excess), _distance(y, excess))
    between = upper[:, None] - lower
    np.fill_diagonal(between, 0.0)
    return max(0.0, float(x - y), float(of_ratio)), float(between.max())  # (3)


def gap_p_value(num_correct: _Counts, num_examples: _Counts) -> float:
    """P-value of the test that all classes have one accuracy.

    [host] It is below alpha exactly where `gap_interval` starts above 0.

    Guarantee:
        If all classes have one accuracy, it is at most alpha with probability at most
        alpha, for every alpha in (0, 1).

    Args:
        num_correct: `[K]` counts.
        num_examples: `[K]` counts >= 1.

    Returns:
        p in [0, 1]; 1 for one class.

    Example:
        >>> print(f"{gap_p_value(np.array([30, 28, 20]), np.array([30, 30, 30])):.4f}")
        0.0029
    """
    low, high = 0.0, 1.0
    for _ in range(_NUM_BISECTIONS):
        q = (low + high) / 2
        above, below = _least_tails(num_correct, num_examples, q)
        low, high = (q, high) if above < below else (low, q)
    least = min(
        math.exp(odds_ratios.least_log_tail(num_correct, num_examples)),
        *(max(_least_tails(num_correct, num_examples, q)) for q in (low, high)),
    )
    return min(1.0, 2 * _num_pairs_of_events(len(num_examples)) * least)  # (4)


def mean_gap_by_chance(num_examples: _Counts, accuracy: float) -> float:
    """Mean observed gap of classes that all have one accuracy.

    [host] E[max - min] of k_c / n_c, with k_c ~ Binomial(n_c, accuracy) and cdf F_c of
    k_c / n_c, is the integral of 1 - prod F_c - prod (1 - F_c) over [0, 1]. The
    midpoint rule errs by at most 1 / 4096.

    Args:
        num_examples: `[K]` counts >= 1.
        accuracy: of every class, in [0, 1].

    Returns:
        The mean, in [0, 1].
    """
    nodes = (np.arange(_NUM_NODES) + 0.5) / _NUM_NODES
    size, repeats = (a[:, None] for a in np.unique(num_examples, return_counts=True))
    cdf = _at_most(np.floor(nodes * size), size, accuracy)
    all_below = np.prod(cdf**repeats, axis=0)
    none_below = np.prod((1 - cdf) ** repeats, axis=0)
    return float(np.mean(1 - all_below - none_below))


def holm_adjusted(p_values: ArrayLike) -> _Floats:
    """P-values of several tests, adjusted by Holm's step-down correction.

    [host] With p_(1) <= ... <= p_(m), the i-th becomes
    min(1, max over j <= i of (m - j + 1) p_(j)).

    Guarantee:
        Rejecting where the adjusted value is at most alpha rejects any true hypothesis
        with probability at most alpha, however the tests depend on each other. Runs
        on the same images do depend.

    Args:
        p_values: `[m]` in [0, 1].

    Returns:
        float64 `[m]`, in the order given.

    Raises:
        ValueError: if a value is not in [0, 1], or they are not one list.

    Example:
        >>> print(holm_adjusted([0.01, 0.04, 0.03]))
        [0.03 0.06 0.06]

    Reference:
        Holm (1979), Scandinavian Journal of Statistics 6(2), 65-70.
    """
    p = np.asarray(p_values, np.float64)
    if p.ndim != 1:
        raise ValueError(f"Expected p_values as a list [m], got shape {p.shape}.")
    _validate.closed_interval(0, 1, p_values=p)
    order = np.argsort(p, kind="stable")
    adjusted = np.maximum.accumulate(np.arange(len(p), 0, -1) * p[order])
    result = np.empty(len(p))
    result[order] = np.minimum(adjusted, 1.0)
    return result


def _num_pairs_of_events(num_classes: int) -> int:
    """Half of m: classes, pool, and each class against the rest (of two, one)."""
    num_contrasts = num_classes if num_classes > 2 else 1
    return num_classes + 1 + num_contrasts


def _distance(q: float, excess: float) -> float:
    """From q to the probability whose odds are 1 + excess times those of q."""
    return q * (1 - q) * excess / (1 + q * excess)  # (2)


def _least_tails(
    num_correct: _Counts, num_examples: _Counts, q: float
) -> tuple[float, float]:
    """min_c P[X_c >= k_c] and min_c P[X_c <= k_c] at a common accuracy q."""
    k, n = (np.append(a, a.sum()) for a in (num_correct, num_examples))
    return float(_at_least(k, n, q).min()), float(_at_most(k, n, q).min())


def _at_least(k: _Counts, n: _Counts, q: float) -> _Floats:
    """P[Binomial(n, q) >= k]."""
    return np.where(k > 0, special.betainc(np.maximum(k, 1), n - k + 1, q), 1.0)


def _at_most(k: _Counts, n: _Counts, q: float) -> _Floats:
    """P[Binomial(n, q) <= k]."""
    return np.where(k < n, special.betaincc(k + 1, np.maximum(n - k, 1), q), 1.0)
