"""Confidence bounds of probabilities, on the host in float64.

For k successes in n trials (Clopper and Pearson)

    p_lower = quantile alpha of Beta(k, n - k + 1),       0 if k = 0,   (1)
    p_upper = quantile 1 - alpha of Beta(k + 1, n - k),   1 if k = n,   (2)

and for two counts a >= b, whose probabilities may be equal,

    p_value = min(1, 2 P[Binomial(a + b, 1/2) >= a]).                   (3)

float32 is not enough here: 1 - 1e-8 rounds to 1, and the radius to infinity.
"""

import numpy as np
from numpy.typing import ArrayLike, NDArray
from scipy import special

from robustjax import _validate

RUNNER_UP = ("complement", "bonferroni")


def clopper_pearson_lower(
    num_success: ArrayLike, num_trials: ArrayLike, *, alpha: float
) -> NDArray[np.float64]:
    """Exact one-sided lower confidence bound of a binomial success probability.

    [host] The p that solves P[Binomial(num_trials, p) >= num_success] = alpha, the
    alpha-quantile of Beta(num_success, num_trials - num_success + 1). Trials must be
    independent and their number fixed before any outcome is seen. Elementwise.

    Guarantee:
        Whatever the true p, the bound exceeds p with probability at most alpha, up to
        the rounding of the quantile in float64 (about 1e-15). A cast to float32 voids
        this.

    Edge cases:
        ==========================  ============================
        Input                       Result
        ==========================  ============================
        num_success = 0             0.0
        num_success = num_trials    alpha ** (1 / num_trials)
        num_trials = 0              0.0, no evidence
        ==========================  ============================

    Args:
        num_success: integers in [0, num_trials], any shape.
        num_trials: integers >= 0, of a shape that broadcasts.
        alpha: failure probability of one bound, in (0, 1). Over m bounds that must hold
            jointly, pass alpha / m.

    Returns:
        float64 array (a scalar for scalars) of probabilities in [0, 1).

    Raises:
        TypeError: if a count is not an integer.
        ValueError: if a count or alpha is out of range.

    Example:
        >>> print(f"{clopper_pearson_lower(990, 1000, alpha=0.001):.6f}")
        0.976036

    Reference:
        Clopper and Pearson (1934), Biometrika 26(4), 404-413.
    """
    k, n = _counts(num_success, num_trials, alpha=alpha)
    some = k > 0
    bound = special.betaincinv(  # (1)
        np.where(some, k, 1), np.where(some, n - k + 1, 1), alpha
    )
    return np.where(some, bound, 0.0)[()]


def clopper_pearson_upper(
    num_success: ArrayLike, num_trials: ArrayLike, *, alpha: float
) -> NDArray[np.float64]:
    """Exact one-sided upper confidence bound of a binomial success probability.

    [host] The p that solves P[Binomial(num_trials, p) <= num_success] = alpha, the
    (1 - alpha)-quantile of Beta(num_success + 1, num_trials - num_success), computed
    without rounding 1 - alpha. Assumptions and shapes as in `clopper_pearson_lower`.

    Guarantee:
        Whatever the true p, the bound is below p with probability at most alpha.

    Edge cases: 1.0 where num_success = num_trials, also without any trial.

    Args:
        num_success: integers in [0, num_trials], any shape.
        num_trials: integers >= 0, of a shape that broadcasts.
        alpha: failure probability of one bound, in (0, 1).

    Returns:
        float64 array (a scalar for scalars) of probabilities in (0, 1].

    Raises:
        TypeError: if a count is not an integer.
        ValueError: if a count or alpha is out of range.

    Example:
        >>> print(f"{clopper_pearson_upper(99_000, 100_000, alpha=0.001):.6f}")
        0.990945

    Reference:
        Clopper and Pearson (1934), Biometrika 26(4), 404-413.
    """
    k, n = _counts(num_success, num_trials, alpha=alpha)
    some = k < n
    bound = special.betainccinv(  # (2)
        np.where(some, k + 1, 1), np.where(some, n - k, 1), alpha
    )
    return np.where(some, bound, 1.0)[()]


def binomial_test_p_value(
    count: ArrayLike, other_count: ArrayLike
) -> NDArray[np.float64]:
    """Two-sided exact test that two counts come from equal probabilities.

    [host] 2 P[Binomial(count + other_count, 1/2) >= max(count, other_count)], at most
    1; the null distribution is symmetric. Elementwise.

    Args:
        count: integers >= 0, any shape.
        other_count: integers >= 0, of a shape that broadcasts.

    Returns:
        float64 p-values in (0, 1]; 1 for equal counts.

    Raises:
        TypeError: if a count is not an integer.
        ValueError: if a count is negative.

    Example:
        >>> print(f"{binomial_test_p_value(60, 40):.6f}")
        0.056888

    Reference:
        Hung and Fithian (2019), Annals of Statistics 47(2); used by Cohen et al.
        (2019) in PREDICT.
    """
    a, b = np.asarray(count), np.asarray(other_count)
    _counts(a, a + b, alpha=0.5)
    most = np.maximum(a, b)
    tail = special.betainc(np.maximum(most, 1), a + b - most + 1, 0.5)
    return np.where(a == b, 1.0, np.minimum(1.0, 2 * tail))[()]  # (3)


def class_probability_bounds(
    count: ArrayLike,
    runner_up_count: ArrayLike,
    num_samples: ArrayLike,
    *,
    alpha: float,
    num_classes: int,
    runner_up: str = "complement",
) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
    """Joint bounds: class A is at least p_lower, every other class at most p_upper.

    [host] "complement" spends alpha on p_lower and takes p_upper = 1 - p_lower.
    "bonferroni" spends alpha / 2 on p_lower and alpha / (2 K) on the upper bound of
    each of the K = num_classes competitors (the other classes and `invalid`); p_upper
    is the largest of those, or 1 - p_lower where that is less. Elementwise.

    Guarantee: both bounds hold with probability at least 1 - alpha, if class A was
    chosen without looking at these samples.

    Args:
        count: samples won by class A, integers, any shape.
        runner_up_count: samples won by the strongest competitor, integers.
        num_samples: number of independent samples, integers.
        alpha: failure probability, in (0, 1).
        num_classes: number of classes, an integer >= 2.
        runner_up: "complement" or "bonferroni".

    Returns:
        (p_lower, p_upper), float64.

    Raises:
        ValueError: if an argument is out of range or runner_up unknown.

    Example:
        >>> lower, upper = class_probability_bounds(
        ...     450, 300, 1000, alpha=0.001, num_classes=10, runner_up="bonferroni"
        ... )
        >>> print(f"{lower:.4f} {upper:.4f}")
        0.3983 0.3588

    Reference: Cohen et al. (2019) for "complement"; "bonferroni" is ours.
    """
    _validate.integer(2, num_classes=num_classes)
    _validate.one_of(RUNNER_UP, runner_up=runner_up)
    if runner_up == "complement":
        p_lower = clopper_pearson_lower(count, num_samples, alpha=alpha)
        return p_lower, 1 - p_lower
    p_lower = clopper_pearson_lower(count, num_samples, alpha=alpha / 2)
    p_upper = clopper_pearson_upper(
        runner_up_count, num_samples, alpha=alpha / (2 * num_classes)
    )
    return p_lower, np.minimum(p_upper, 1 - p_lower)


def min_num_estimation(
    *, alpha: float, num_classes: int = 2, runner_up: str = "complement"
) -> int:
    """The smallest number of estimation samples that can ever certify.

    [host]

    Args:
        alpha: failure probability, in (0, 1).
        num_classes: number of classes, an integer >= 2.
        runner_up: as in `class_probability_bounds`.

    Returns:
        The smallest n for which n votes of n give p_lower > p_upper.

    Raises:
        ValueError: if an argument is out of range.

    Example:
        >>> min_num_estimation(alpha=0.001)
        10
    """
    n = np.arange(1, 2048)  # alpha / 2 >= 2**-1075 in float64
    p_lower, p_upper = class_probability_bounds(
        n, 0, n, alpha=alpha, num_classes=num_classes, runner_up=runner_up
    )
    return int(n[np.argmax(p_lower > p_upper)])


def min_num_prediction(*, alpha: float) -> int:
    """The smallest number of samples with which `predict` can ever not abstain.

    [host]

    Args:
        alpha: failure probability, in (0, 1).

    Returns:
        The smallest n with 2^(1 - n) <= alpha, the p-value of n votes of n.

    Raises:
        ValueError: if alpha is out of range.

    Example:
        >>> min_num_prediction(alpha=0.001)
        11
    """
    _validate.open_interval(0, 1, alpha=alpha)
    n = np.arange(1, 2048)
    return int(n[np.argmax(binomial_test_p_value(n, 0) <= alpha)])


def _counts(
    num_success: ArrayLike, num_trials: ArrayLike, *, alpha: float
) -> tuple[NDArray[np.int64], NDArray[np.int64]]:
    _validate.open_interval(0, 1, alpha=alpha)
    k, n = np.asarray(num_success), np.asarray(num_trials)
    for name, value in (("num_success", k), ("num_trials", n)):
        if value.dtype.kind not in "iu":
            raise TypeError(f"Expected {name} as integers, got {value.dtype}.")
    k, n = np.broadcast_arrays(k.astype(np.int64), n.astype(np.int64))
    wrong = (k < 0) | (k > n)
    if wrong.any():
        bad_k, bad_n = k[wrong].flat[0], n[wrong].flat[0]
        raise ValueError(
            f"Expected 0 <= num_success <= num_trials, got {bad_k} and {bad_n}."
        )
    return k, n
