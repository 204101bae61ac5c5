"""Confidence widths of a mean of noise times outcome along one fixed direction.

[host] float64. One term is x = s <z, u> with z ~ N(0, I), u a unit vector and s the
outcome of a classifier minus a baseline: s in [-1, 0] for baseline 1, in [-1/2, 1/2]
for baseline 1/2. Its expectation is <m, u> with m = E[z s] = E[z f]. For n terms

    P[<m, u> > mean(x) + w] <= exp(-l),   w = min over a of (G(a) + l / n) / a,   (1)

for any G(a) >= log E exp(a (x - E x)) and log E exp(-a (x - E x)):

    baseline 1:    G(a) = min over k of k q + E[(exp(a y) - 1 - a y - k)_+],      (2)
    baseline 1/2:  G(a) = c(a) a^2 / 2,                                           (3)

with y ~ N(0, 1), q >= E[1 - f] and c(a) the `subgaussian_constant`. Proofs:
`docs/confidence_budget.md`, "Deviation along a fixed direction".
"""

import functools

import numpy as np
from numpy.typing import ArrayLike, NDArray
from scipy import special

from robustjax.smoothing.sampling import noise_blocks
from robustjax.special.normal import normal_pdf

# Constants, since the exponents to choose from must not depend on the samples.
TILTS = np.geomspace(3e-4, 4.0, 200)
_THRESHOLDS = np.linspace(0.0, 8.0, 401)
_FALLBACK = 0.40219
_SECOND_MOMENTS = np.geomspace(0.35, 2e-4, 8)  # that the empirical bets are made for
_LARGEST_STAKE = 0.9  # tilt times the largest term
_REFINEMENTS = 3
_NEWTON_STEPS = 60
_Array = NDArray[np.float64]


def subgaussian_constant(max_tilt: ArrayLike) -> _Array:
    """The c in log E exp(a (x - E x)) <= c a^2 / 2 for |a| <= max_tilt, baseline 1/2.

    [host] 1/4, the variance, plus 0.0525 max_tilt up to max_tilt = 1/2, and 0.40219,
    above the supremum over all a, beyond.

    Args:
        max_tilt: numbers >= 0, any shape.

    Returns:
        float64 array of the same shape.

    Example:
        >>> print(*subgaussian_constant([0.0, 0.1, 1.0]))
        0.25 0.25525 0.40219

    Reference: ours; proof in `docs/confidence_budget.md`, "Deviation along a fixed
        direction".
    """
    tilt = np.asarray(max_tilt, np.float64)
    return np.where(tilt <= 0.5, 0.25 + 0.0525 * tilt, _FALLBACK)


def tilt_costs(q_upper: ArrayLike, *, baseline: ArrayLike = 1.0) -> _Array:
    """Upper bounds of log E exp(a (x - E x)) and the same for -a, a in `TILTS`.

    [host] Baseline 1: an upper bound of E[e (exp(a w) - 1 - a w)], w ~ N(0, 1), over
    all e = -s in [0, 1] with E e <= q_upper. Baseline 1/2: c a^2 / 2 with c the
    `subgaussian_constant` of a, whatever q_upper is. Increasing in q_upper.

    Args:
        q_upper: upper bounds of E e, in [0, 1], any shape.
        baseline: 1 or 1/2, of a shape that broadcasts.

    Returns:
        float64 `[..., 200]`.

    Reference: ours; proof in `docs/confidence_budget.md`, "Deviation along a fixed
        direction".
    """
    q, baseline = np.broadcast_arrays(np.asarray(q_upper, np.float64), baseline)
    slopes, intercepts, breaks = _lines()
    costs = np.empty((*q.shape, len(TILTS)))
    for i in range(len(TILTS)):  # a constant number of tables, each for all q
        line = np.searchsorted(breaks[i], -q)
        costs[..., i] = slopes[i, line] * q + intercepts[i, line]  # (2)
    half = subgaussian_constant(TILTS) * TILTS**2 / 2  # (3)
    return np.where((baseline == 1)[..., None], costs, half)


def scalar_width(
    q_upper: ArrayLike,
    num_samples: ArrayLike,
    *,
    log_level: float,
    baseline: ArrayLike = 1.0,
) -> _Array:
    """One-sided confidence width of the mean of x along any one fixed direction.

    [host] The minimum of (cost(a) + log_level / n) / a over `TILTS`, with the costs of
    `tilt_costs`.

    Guarantee:
        For every fixed unit vector u the mean of n independent x falls below <m, u> by
        more than the width with probability at most exp(-log_level), if E e <= q_upper;
        so does -x below -<m, u>. Increasing in q_upper: an upper confidence bound may
        stand for E e, and its event carries all widths.

    Args:
        q_upper: upper bounds of E e, in [0, 1], any shape.
        num_samples: numbers n >= 1, of a shape that broadcasts.
        log_level: log of 1 / (failure probability), positive.
        baseline: 1 or 1/2, of a shape that broadcasts.

    Returns:
        float64 array of positive widths.

    Example:
        >>> print(f"{scalar_width(0.01, 100_000, log_level=np.log(8000)):.6f}")
        0.003905

    Reference: ours; proof in `docs/confidence_budget.md`, "Deviation along a fixed
        direction".
    """
    per_sample = log_level / np.asarray(num_samples, np.float64)
    costs = tilt_costs(q_upper, baseline=baseline)
    return np.min((costs + per_sample[..., None]) / TILTS, axis=-1)  # (1)


def empirical_width(
    sum_squares: ArrayLike, num_samples: ArrayLike, *, log_level: float
) -> _Array:
    """One-sided confidence width of a coordinate's mean, from its second moment.

    [host] The w at which the mixture of 8 bets against a mean that is w off reaches
    exp(log_level), each bet bounded from below through log(1 - y) >= -y - k y^2. The
    bets are fixed by n and log_level alone. Baseline 1.

    Guarantee:
        For any one fixed coordinate the mean of n independent x = s z_j, with z_j
        counted as zero beyond `noise_blocks.MAX_NOISE`, falls below its expectation by
        more than the width with probability at most exp(-log_level); so does -x.

    Args:
        sum_squares: sums of x^2, `[..., d]`.
        num_samples: numbers n >= 1, `[...]`.
        log_level: log of 1 / (failure probability), positive.

    Returns:
        float64 `[..., d]` positive widths.

    Example:
        >>> print(f"{empirical_width([100.0], 10_000, log_level=8.0)[0]:.5f}")
        0.00783

    Reference: ours; proof in `docs/confidence_budget.md`, "l1 and linf norms: one
        direction is enough". The bets are those of Waudby-Smith and Ramdas (2024), JRSS
        B 86(1).
    """
    squares = np.asarray(sum_squares, np.float64)
    n = np.asarray(num_samples, np.float64)[..., None]
    tilts = [np.sqrt(2 * log_level / (n * v)) for v in _SECOND_MOMENTS]
    tilts = [np.minimum(a, _LARGEST_STAKE / noise_blocks.MAX_NOISE) for a in tilts]
    stakes = [a * noise_blocks.MAX_NOISE for a in tilts]
    curvatures = [
        a**2 * (-c - np.log1p(-c)) / c**2 for a, c in zip(tilts, stakes, strict=True)
    ]
    target = log_level + np.log(len(tilts))
    bets = [(a * n, k * squares) for a, k in zip(tilts, curvatures, strict=True)]
    width = functools.reduce(np.minimum, ((target + k) / g for g, k in bets))
    for _ in range(_REFINEMENTS):  # Newton's method from above, on a convex function
        shares = [np.exp(g * width - k - target) for g, k in bets]
        total = sum(shares)
        slope = sum(s * g for s, (g, _) in zip(shares, bets, strict=True)) / total
        width = width - np.maximum(np.log(total), 0) / slope
    return width


@functools.cache
def _lines() -> tuple[_Array, _Array, _Array]:
    """For each tilt a, lines k q + E[(g - k)_+] with g = exp(a w) - 1 - a w, k = g(t).

    Each bounds the cost from above, whatever q. Also where the best line changes, -q.
    """
    a, t = TILTS[:, None], _THRESHOLDS
    k = np.expm1(a * t) - a * t
    below = -_negative_root(k, start=a * t) / a  # g is above k outside [below, t]
    mass = special.ndtr(-t) + special.ndtr(below)
    excess = (
        np.exp(a**2 / 2) * (special.ndtr(a - t) + special.ndtr(below - a))
        - (1 + k) * mass
        - a * (normal_pdf(t, xp=np) - normal_pdf(below, xp=np))
    )
    excess = np.maximum(excess, 0) + 1e-14 * (1 + k) * mass  # more than rounding takes
    breaks = np.diff(excess, axis=1) / np.diff(k, axis=1)
    return k, excess, np.maximum.accumulate(breaks, axis=1)


def _negative_root(k: _Array, *, start: _Array) -> _Array:
    """The y >= 0 with exp(-y) - 1 + y = k, by Newton's method from a y below it."""
    y = start
    for _ in range(_NEWTON_STEPS):
        slope = -np.expm1(-y)
        step = (np.expm1(-y) + y - k) / np.where(slope > 0, slope, 1)
        y = y - np.where(slope > 0, step, 0)
    return y
