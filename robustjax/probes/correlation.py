"""Correlation of a score of models with their accuracies, with intervals.

    interval = tanh(artanh(r) +- quantile((1 + confidence) / 2) sqrt(v)),

v = 1 / (n - 3) for Pearson's r, (1 + r^2 / 2) / (n - 3) for Spearman's rho and
0.437 / (n - 4) for Kendall's tau-b.
"""

import math
from typing import NamedTuple

import numpy as np
from jax.typing import ArrayLike
from scipy import special

from robustjax import _validate


class Correlation(NamedTuple):
    """A coefficient in [-1, 1] and its confidence interval; NaN where undefined."""

    value: float
    lower: float
    upper: float
    num_pairs: int


class Correlations(NamedTuple):
    """Three coefficients of one set of pairs."""

    pearson: Correlation
    spearman: Correlation
    kendall: Correlation


def correlations(
    scores: ArrayLike, accuracies: ArrayLike, *, confidence: float = 0.95
) -> Correlations:
    """Correlations of scores and accuracies of n models, each with an interval.

    [host] Pearson's r, Spearman's rho (average ranks) and Kendall's tau-b. Intervals
    are those of Fisher's z = artanh(value), of variance 1 / (n - 3),
    (1 + rho^2 / 2) / (n - 3) and 0.437 / (n - 4).

    Guarantee:
        None: intervals are approximations, for independent pairs that are jointly
        normal up to monotone maps (Pearson: jointly normal). Models of one family are
        not independent.

    Edge cases:
        A constant argument gives NaN throughout; fewer than four pairs give NaN
        intervals, and n = 4 gives [-1, 1] for tau. A rank coefficient of -1 or 1 has an
        interval from half way to the next possible value: an order that was kept once
        is no proof of a perfect one.

    Args:
        scores: `[n]`, finite.
        accuracies: `[n]`, finite.
        confidence: of the two-sided intervals, in (0, 1).

    Returns:
        `Correlations` of Python floats.

    Raises:
        ValueError: if shapes differ, a value is not finite or confidence out of range.

    Example:
        >>> found = correlations([0.1, 0.4, 0.3, 0.9, 0.5], [0.5, 0.6, 0.5, 0.8, 0.9])
        >>> print(*(round(v, 3) for v in found.pearson))
        0.733 -0.423 0.981 5

    Reference: Fisher (1921), Metron 1; Bonett and Wright (2000), Psychometrika 65, for
        rho; Fieller, Hartley and Pearson (1957), Biometrika 44, for tau. The half step
        at -1 and 1 is ours.
    """
    _validate.open_interval(0, 1, confidence=confidence)
    x, y = (np.asarray(v, np.float64) for v in (scores, accuracies))
    if x.ndim != 1 or x.shape != y.shape:
        raise ValueError(
            f"Expected scores [n] and accuracies [n], got {x.shape} and {y.shape}."
        )
    for name, values in (("scores", x), ("accuracies", y)):
        if not np.isfinite(values).all():
            raise ValueError(f"Expected {name} to be finite, got {values}.")
    n = len(x)
    if n < 2 or x.min() == x.max() or y.min() == y.max():
        nothing = Correlation(math.nan, math.nan, math.nan, n)
        return Correlations(nothing, nothing, nothing)
    quantile = float(special.ndtri(0.5 + 0.5 * confidence))
    ranks = _ranks(x), _ranks(y)
    rho, tau = _pearson(*ranks), _kendall(*ranks)
    rho_step, tau_step = 12 / (n * (n * n - 1)), 4 / (n * (n - 1))
    rho_variance = (1 + rho**2 / 2) / max(n - 3, 1)
    return Correlations(
        _with_interval(_pearson(x, y), n, quantile / math.sqrt(max(n - 3, 1)), 0.0),
        _with_interval(rho, n, quantile * math.sqrt(rho_variance), rho_step / 2),
        _with_interval(
            tau,
            n,
            quantile * math.sqrt(0.437 / (n - 4)) if n > 4 else math.inf,
            tau_step / 2,
        ),
    )


def _with_interval(value: float, n: int, half: float, step: float) -> Correlation:
    """Fisher's interval of half width `half` in z; ends of ranks move by a step."""
    if n < 4:
        return Correlation(value, math.nan, math.nan, n)
    is_end = abs(value) == 1
    if is_end and step == 0:
        return Correlation(value, value, value, n)
    centre = math.atanh(value * (1 - step) if is_end else value)
    lower, upper = math.tanh(centre - half), math.tanh(centre + half)
    if is_end:
        lower, upper = (lower, 1.0) if value > 0 else (-1.0, upper)
    return Correlation(value, lower, upper, n)


def _pearson(x: np.ndarray, y: np.ndarray) -> float:
    """Pearson coefficient of values that are not all equal; clipped to [-1, 1]."""
    a, b = (_centred(v) for v in (x, y))
    value = float(a @ b / math.sqrt((a @ a) * (b @ b)))
    is_end = 1 - abs(value) < 4 * len(x) * np.finfo(np.float64).eps
    return math.copysign(1.0, value) if is_end else value


def _centred(values: np.ndarray) -> np.ndarray:
    """Around the mean, of size 1 or so: no square overflows, no digit is lost."""
    scaled = np.ldexp(values, -np.frexp(np.abs(values).max())[1])  # exact
    apart = scaled - scaled[0]  # first, as the mean of equal digits is rounded
    apart = apart / np.abs(apart).max()
    return apart - apart.mean()


def _ranks(values: np.ndarray) -> np.ndarray:
    """Average ranks, from 0."""
    _, group, sizes = np.unique(values, return_inverse=True, return_counts=True)
    last = np.cumsum(sizes)
    return (last - 0.5 * (sizes + 1))[group]


def _kendall(x: np.ndarray, y: np.ndarray) -> float:
    """tau-b, pair by pair; one row of pairs at a time."""
    agreement, x_untied, y_untied = 0, 0, 0
    for i in range(1, len(x)):
        a, b = np.sign(x[:i] - x[i]), np.sign(y[:i] - y[i])
        agreement += int(a @ b)
        x_untied += int(np.abs(a).sum())
        y_untied += int(np.abs(b).sum())
    return agreement / math.sqrt(x_untied * y_untied)
