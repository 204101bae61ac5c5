"""Confidence bounds for sampling that stops early, on the host in float64.

A confidence sequence bounds a mean after every sample at once, so that one may look
after each sample and stop at any time. The sequences here bet. For each candidate mean
p_0 there is a wealth, a product of factors, one for each sample, or an average of such
products. The factors are not negative, and have a mean of at most 1 if p_0 is right:

    M_n(p_0) = F_1(p_0) ... F_n(p_0),   P[M_n(p) >= 1 / alpha for some n] <= alpha,
    lower bound after n samples = sup {p_0 : M_n(p_0) >= 1 / alpha},

by Ville's inequality. At any sample size the wealth falls as the candidate rises. So if
the largest rejected candidate is above the true mean, the true mean is rejected too.

What no confidence sequence covers (norms of gradients, say) is estimated at a few sizes
that are fixed beforehand, each with its share of alpha: `stage_sizes`, `stage_alpha`.
"""

import itertools
from collections.abc import Callable

import numpy as np
from numpy.typing import ArrayLike, NDArray
from scipy import special

from robustjax import _validate
from robustjax.smoothing.confidence import binomial

_PRIOR_SHAPE = np.array([1.0, 16.0, 256.0])
_PRIOR_WEIGHT = np.array([0.5, 0.25, 0.25])
_STAGE_MULTIPLE = 256  # an even and an odd block of samples
_Array = NDArray[np.float64]


def binomial_sequence_lower(
    num_success: ArrayLike, num_trials: ArrayLike, *, alpha: float
) -> _Array:
    """Lower confidence bound of a success probability, valid at all sample sizes.

    [host] For k successes in n trials the wealth of the candidate p0 is

        M(p0) = E_u[ (1 + u (1 - p0) / p0)^k (1 - u)^(n - k) ],

    the likelihood ratio of the failure probability (1 - u) (1 - p0) against 1 - p0. The
    fraction u has the prior Beta(1, b) with b = 1, 16, 256, mixed with weights 1/2,
    1/4, 1/4; so the success probability has the prior Beta(1, b), cut off below p0. The
    bound is the largest p0 with M(p0) >= 1 / alpha. Elementwise.

    Guarantee:
        For independent trials with success probability p, the bound exceeds p at any
        sample size at all with probability at most alpha: stopping may depend on the
        bounds, and the largest of them so far is a bound too. (The factor of one trial
        has mean 1 + u (p / p0 - 1), at most 1 where p <= p0, and M falls in p0 for
        every u.) Rounding errors are on the safe side.

    Price: the distance to num_success / num_trials, over that of Clopper-Pearson, which
    is valid at one size only (alpha = 0.001):

        =========  =====  =====  =====  =====
        successes  n=100  n=1e4  n=1e5  n=1e6
        =========  =====  =====  =====  =====
        60 %       1.33   1.41   1.44   1.42
        90 %       1.36   1.41   1.43   1.44
        99 %       1.39   1.42   1.42   1.43
        all        1.40   1.43   1.43   1.43
        =========  =====  =====  =====  =====

    Args:
        num_success: integers in [0, num_trials], any shape.
        num_trials: integers >= 0, of a shape that broadcasts.
        alpha: failure probability over all sample sizes together, in (0, 1).

    Returns:
        float64 array (a scalar for scalars) of probabilities in [0, 1), never above
        `clopper_pearson_lower`; 0 without any success.

    Raises:
        TypeError: if a count is not an integer.
        ValueError: if a count or alpha is out of range.

    Example:
        >>> print(f"{binomial_sequence_lower(990, 1000, alpha=0.001):.4f}")
        0.9704

    Reference:
        Ville (1939) for the inequality; Robbins (1970), Annals of Mathematical
        Statistics 41(5), for mixtures. The prior is ours.
    """
    # Markov's inequality at this one size: no p0 above Clopper-Pearson is rejected.
    above = binomial.clopper_pearson_lower(num_success, num_trials, alpha=alpha)
    return _binomial_bound(num_success, num_trials, above=above, alpha=alpha)[()]


def binomial_sequence_upper(
    num_success: ArrayLike, num_trials: ArrayLike, *, alpha: float
) -> _Array:
    """Upper confidence bound of a success probability, valid at all sample sizes.

    [host] One minus the lower bound of the failure probability, see
    `binomial_sequence_lower`.

    Guarantee:
        The bound is below p at any sample size at all with probability at most alpha.

    Args:
        num_success: integers in [0, num_trials], any shape.
        num_trials: integers >= 0, of a shape that broadcasts.
        alpha: failure probability over all sample sizes together, in (0, 1).

    Returns:
        float64 array (a scalar for scalars) of probabilities in (0, 1]; 1 without any
        failure.

    Raises:
        TypeError: if a count is not an integer.
        ValueError: if a count or alpha is out of range.

    Example:
        >>> print(f"{binomial_sequence_upper(10, 1000, alpha=0.001):.4f}")
        0.0296
    """
    above = 1 - binomial.clopper_pearson_upper(num_success, num_trials, alpha=alpha)
    num_failure = np.subtract(num_trials, num_success, dtype=np.float64)
    lower = _binomial_bound(num_failure, num_trials, above=above, alpha=alpha)
    return np.nextafter(1 - lower, 1)[()]


def bounded_mean_lower(
    log_wealth: ArrayLike,
    bets: ArrayLike,
    *,
    num_samples: ArrayLike,
    alpha: float,
    relative_error: float = 2.0**-16,
) -> _Array:
    """Lower confidence bound of the mean of values in [0, 1], such as soft votes.

    [host] For values f_i, losses e_i = 1 - f_i and bets b_j the sums are
    S_j = sum_i log(1 - b_j e_i). The wealth of the candidate mean p is

        M(p) = mean_j exp(S_j - n log(1 - b_j (1 - p))),

    and the bound is the largest p with M(p) >= 1/alpha. It adapts to the variance of
    the values. Clopper-Pearson is not valid for them: they are not counts.

    Guarantee:
        If every f_i has mean p given the ones before it, the bound exceeds p at any
        sample size at all with probability at most alpha, for bets that are fixed
        beforehand. (The factor (1 - b e) / (1 - b (1 - p)) is positive with mean 1, and
        M falls in p.) Sums with a relative error up to `relative_error` and the
        rounding here are on the safe side.

    Edge cases: 0 without samples and where a sum is not finite (NaN, inf).

    Args:
        log_wealth: `[..., k]`, the sums S_j. In float32, add them in blocks and the
            blocks with compensation: all terms have one sign, so that the relative
            error of a sum of 128 is below the default of `relative_error`.
        bets: `[k]` or `[..., k]`, the b_j in (0, 1) as they were used, with their
            rounding. A geometric grid from 0.004 to 0.98 suits a hundred to a million
            samples.
        num_samples: `[...]`, the number n of values, integers >= 0.
        alpha: failure probability over all sample sizes together, in (0, 1).
        relative_error: of the sums, in [0, 1).

    Returns:
        float64 `[...]` of means in [0, 1).

    Raises:
        TypeError: if num_samples is not an integer.
        ValueError: if an argument is out of range or shapes do not fit.

    Example:
        >>> losses = np.linspace(0, 0.2, 1000)
        >>> bets = np.geomspace(0.004, 0.98, 12)
        >>> sums = np.log1p(-np.outer(losses, bets)).sum(axis=0)
        >>> lower = bounded_mean_lower(sums, bets, num_samples=1000, alpha=0.001)
        >>> print(f"{lower:.4f}")
        0.8896

    Reference:
        Waudby-Smith and Ramdas (2024), Journal of the Royal Statistical Society B
        86(1), for betting; the mixture of constant bets on losses is ours.
    """
    _validate.open_interval(0, 1, alpha=alpha)
    total, bet = np.asarray(log_wealth, np.float64), np.asarray(bets, np.float64)
    n = np.asarray(num_samples)
    if n.dtype.kind not in "iu":
        raise TypeError(f"Expected num_samples as integers, got {n.dtype}.")
    if (n < 0).any():
        raise ValueError(f"Expected num_samples >= 0, got {n.min()}.")
    if not ((bet > 0) & (bet < 1)).all():
        raise ValueError(f"Expected bets in (0, 1), got {bet}.")
    if not 0 <= relative_error < 1:
        raise ValueError(f"Expected relative_error in [0, 1), got {relative_error}.")
    if bet.ndim == 0 or bet.shape not in (total.shape[-1:], total.shape):
        raise ValueError(
            f"Expected bets of shape {total.shape[-1:]} or {total.shape} to suit "
            f"log_wealth, got {bet.shape}."
        )
    if n.ndim and n.shape != total.shape[:-1]:
        raise ValueError(
            f"Expected num_samples of shape {total.shape[:-1]}, got {n.shape}."
        )
    n = np.broadcast_to(n, total.shape[:-1]).astype(np.float64)
    is_finite = np.isfinite(total).all(axis=-1, keepdims=True)
    total = np.where(is_finite, total, 0.0)
    total = total - relative_error / (1 - relative_error) * np.abs(total)
    total = np.where(is_finite, total, -np.inf)
    log_share = -np.log(total.shape[-1])

    def log_wealth_of(p: _Array) -> _Array:
        fall = n[..., None] * np.log1p(-bet * (1 - p[..., None]))
        return np.logaddexp.reduce(total - fall + log_share, axis=-1)

    threshold = _log_threshold(n, alpha=alpha)
    return _largest(lambda p: log_wealth_of(p) >= threshold, above=np.ones(n.shape))[()]


def stage_alpha(stage: ArrayLike, *, alpha: float) -> _Array:
    """The share of alpha for one stage of a schedule, alpha / (k (k + 1)).

    [host] The shares of all stages k = 1, 2, ... add up to alpha. Elementwise.

    Args:
        stage: integers k >= 1, any shape.
        alpha: failure probability of all stages together, in (0, 1).

    Returns:
        float64 array (a scalar for scalars).

    Raises:
        TypeError: if a stage is not an integer.
        ValueError: if a stage or alpha is out of range.

    Example:
        >>> print(stage_alpha([1, 2, 3], alpha=0.12).round(4).tolist())
        [0.06, 0.02, 0.01]
    """
    _validate.open_interval(0, 1, alpha=alpha)
    k = np.asarray(stage)
    if k.dtype.kind not in "iu":
        raise TypeError(f"Expected stage as integers, got {k.dtype}.")
    if (k < 1).any():
        raise ValueError(f"Expected stage >= 1, got {k.min()}.")
    k = k.astype(np.float64)
    return (alpha / (k * (k + 1)))[()]


def stage_sizes(
    max_samples: int, *, first: int, factor: float = 2.0
) -> tuple[int, ...]:
    """Sample sizes n_1 < n_2 < ... of the stages of a schedule, up to `max_samples`.

    [host] Each is about `factor` times the one before. They depend on no sample, which
    is what makes a bound at each with `stage_alpha` valid.

    Args:
        max_samples: the last size, an integer >= 1.
        first: the first size, an integer >= 1.
        factor: ratio of neighbours, above 1.

    Returns:
        Increasing integers. All but the last are multiples of 256, rounded up: an even
        and an odd block of 128 samples.

    Raises:
        TypeError: if a size is not an integer.
        ValueError: if an argument is out of range.

    Example:
        >>> stage_sizes(10_000, first=1000)
        (1024, 2048, 4096, 8192, 10000)
    """
    _validate.integer(1, max_samples=max_samples, first=first)
    if not 1 < factor < np.inf:
        raise ValueError(f"Expected a finite factor above 1, got {factor}.")

    def multiple(size: float) -> int:
        return int(-(-size // _STAGE_MULTIPLE)) * _STAGE_MULTIPLE

    def following(size: int, _: object) -> int:
        return max(multiple(min(factor * size, max_samples)), size + _STAGE_MULTIPLE)

    sizes = itertools.accumulate(itertools.repeat(multiple(first)), following)
    return (*itertools.takewhile(lambda n: n < max_samples, sizes), int(max_samples))


def _binomial_bound(
    num_success: ArrayLike, num_trials: ArrayLike, *, above: _Array, alpha: float
) -> _Array:
    k, n = np.broadcast_arrays(
        np.asarray(num_success, np.float64), np.asarray(num_trials, np.float64)
    )
    threshold = _log_threshold(n, alpha=alpha)
    return _largest(lambda p: _log_ratio(k, n, p) >= threshold, above=above)


def _log_ratio(k: _Array, n: _Array, p: _Array) -> _Array:
    """Log of M(p) for k successes in n trials, by the incomplete beta function."""
    k, p = k[..., None], p[..., None]
    rest = n[..., None] - k + _PRIOR_SHAPE
    # The posterior mass above p; subnormal values are inexact, and less is safe.
    mass = special.betaincc(k + 1, rest, p)
    mass = np.where(mass > 1e-300, mass, 0.0)
    with np.errstate(divide="ignore"):
        log_mass = np.log(_PRIOR_WEIGHT * _PRIOR_SHAPE * mass)
    log_null = special.xlogy(k, p) + special.xlog1py(rest, -p)
    return np.logaddexp.reduce(
        log_mass + special.betaln(k + 1, rest) - log_null, axis=-1
    )


def _log_threshold(num_samples: _Array, *, alpha: float) -> _Array:
    """log(1 / alpha), and more than the rounding error of a log wealth in float64."""
    return -np.log(alpha) + 1e-9 + 1e-12 * num_samples


def _largest(
    is_rejected: Callable[[_Array], NDArray[np.bool_]], *, above: _Array
) -> _Array:
    """The largest rejected p in (0, above) by bisection, a rejected one; else 0."""
    low, high = np.zeros(np.shape(above)), np.asarray(above, np.float64)
    for _ in range(50):
        middle = 0.5 * (low + high)
        rejected = is_rejected(middle)
        low, high = np.where(rejected, middle, low), np.where(rejected, high, middle)
    return low
