"""Metrics of certified predictions: certified accuracy and its lower bound.

With radii R_i of n examples, and c_i = 1 where the prediction is the label, else 0,

    certified accuracy at r = share of the examples with c_i = 1 and R_i >= r,
    its lower bound = certified accuracy - Q / n,   Q a quantile of Binomial(n, alpha),
    ACR = 1/n sum_i c_i R_i.

All functions are [host], NumPy float64, over arrays `[n]` with one entry an example.
"""

import numpy as np
from numpy.typing import ArrayLike

from robustjax import _validate


def certified_accuracy(
    correct: ArrayLike, radius: ArrayLike, at: ArrayLike
) -> np.ndarray:
    """Share of examples that are correct with a certified radius of at least r.

    [host] At r = 0 this is the share on which the smoothed classifier certifiably
    returns the label: an abstention counts as an error.

    Args:
        correct: `[n]`, whether the prediction is the label.
        radius: `[n]`, certified radii in input units; NaN certifies nothing.
        at: radii r at which to evaluate, any shape.

    Returns:
        Array of the shape of `at`, in [0, 1].

    Raises:
        ValueError: if the arrays are empty or of different lengths.

    Example:
        >>> print(certified_accuracy([1, 1, 0, 1], [0.5, 0.2, 0.9, 0.0], [0, 0.2, 0.6]))
        [0.75 0.5  0.  ]
    """
    correct, radius = _examples(correct, radius)
    certified = np.sort(radius[correct & ~np.isnan(radius)])
    below = np.searchsorted(certified, np.asarray(at, dtype=np.float64), side="left")
    return (len(certified) - below) / len(correct)


def certified_accuracy_lower(
    correct: ArrayLike,
    radius: ArrayLike,
    at: ArrayLike,
    *,
    alpha: float,
    confidence: float = 0.999,
    method: str = "exact",
) -> np.ndarray:
    """Lower bound on the certified accuracy that the test set truly has.

    [host] Each certificate is wrong with probability at most alpha, independently of
    the others, so the wrong ones among n number at most the binomial quantile Q =
    min{k: P[Binomial(n, alpha) <= k] >= confidence}, and the bound is the certified
    accuracy minus Q / n, or 0.

    Guarantee:
        With probability at least `confidence` over the noise of the run it holds for
        all r at once, about these n examples and not about the population they come
        from. `method="reference"` has no such guarantee: its Bernstein constant is
        too small (at n = 1e4 and alpha = 1 - confidence = .001 it fails with
        probability .00158).

    Args:
        correct: `[n]`, whether the prediction is the label.
        radius: `[n]`, certified radii in input units.
        at: radii r at which to evaluate, any shape.
        alpha: failure probability of one certificate, in (0, 1).
        confidence: of the bound, in (0, 1).
        method: "exact", or "reference" for the expression of Cohen et al.

    Returns:
        Array of the shape of `at`, in [0, 1].

    Raises:
        ValueError: if an argument is out of range.

    Example:
        >>> print(certified_accuracy_lower([1] * 999 + [0], [1.0] * 1000, 0.5,
        ...                                alpha=0.001))
        0.994

    Reference:
        Cohen, Rosenfeld and Kolter (2019), arXiv 1902.02918, for "reference".
    """
    _validate.open_interval(0, 1, alpha=alpha, confidence=confidence)
    _validate.one_of(("exact", "reference"), method=method)
    measured = certified_accuracy(correct, radius, at)
    num_examples = np.size(np.asarray(correct))
    if method == "exact":
        loss = _binomial_quantile(confidence, num_examples, alpha) / num_examples
    else:
        log_term = -np.log1p(-confidence) / num_examples
        loss = alpha + np.sqrt(alpha * (1 - alpha) * log_term) + log_term / 3
    return np.maximum(measured - loss, 0.0)


def average_certified_radius(correct: ArrayLike, radius: ArrayLike) -> float:
    """Mean radius over all examples, 0 where the prediction is wrong (ACR).

    [host]

    Args:
        correct: `[n]`, whether the prediction is the label.
        radius: `[n]`, certified radii in input units.

    Returns:
        The mean, in input units.

    Example:
        >>> average_certified_radius([1, 0], [0.5, 0.9])
        0.25

    Reference:
        Zhai et al. (2020), MACER, arXiv 2001.02378.
    """
    correct, radius = _examples(correct, radius)
    return float(np.mean(np.where(correct, radius, 0.0)))


def abstention_rate(predict: ArrayLike) -> float:
    """Share of the predictions `[n]` that are -1, an abstention.

    [host]

    Args:
        predict: predicted classes `[n]`.

    Returns:
        A share in [0, 1].

    Example:
        >>> abstention_rate([3, -1, 7, 2])
        0.25
    """
    predict = np.asarray(predict)
    if predict.size == 0:
        raise ValueError("Expected predictions of at least one example, got none.")
    return float(np.mean(predict == -1))


def _examples(correct: ArrayLike, radius: ArrayLike) -> tuple[np.ndarray, np.ndarray]:
    correct = np.asarray(correct).astype(bool)
    radius = np.asarray(radius, dtype=np.float64)
    _validate.same_length(correct=correct, radius=radius)
    if correct.size == 0:
        raise ValueError("Expected at least one example, got none.")
    return correct, radius


def _binomial_quantile(level: float, num_trials: int, probability: float) -> int:
    """Smallest k with P[Binomial(num_trials, probability) <= k] >= level."""
    from scipy import special

    cdf = special.bdtr(np.arange(num_trials + 1), num_trials, probability)
    return int(np.searchsorted(cdf, level, side="left"))
