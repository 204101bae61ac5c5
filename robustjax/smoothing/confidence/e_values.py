"""Bounds of the length of a vector m from two independent estimates X and Y of it.

[host] float64. An e-value of a candidate is a statistic, never negative, with mean at
most 1 if the candidate is the truth. Given Y, the samples behind X give an e-value W_1
of <m, v> in the known direction v = Y / |Y|. Y itself gives one, W_2, of <m - Y, u> in
the unknown direction u = m / |m|. With r = |m|,

    r^2 = |Y| c + r b,   c = <m, v>,   b = <m - Y, u>,                          (1)
    P[W_1(c) W_2(b) >= 1 / alpha] <= alpha   (Markov's inequality),             (2)
    upper bound = sup {r : W_1(c) W_2(r - |Y| c / r) < 1 / alpha for some c}.   (3)

So one event, not two, bounds the length. Proof: `docs/confidence_budget.md`, "Lengths:
two e-values in one event".
"""

from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

IDLE_SHARE = 0.05  # of an e-value that is never staked, so that it cannot vanish
_MAX_COMPONENT = 0.4  # |<m, v>| <= |m| <= 0.3990, the normal density at 0
_INNER_STEPS = 26
_OUTER_STEPS = 32
_Array = NDArray[np.float64]


class Evidence(NamedTuple):
    """log(sum_k exp(intercept_k + n growth(tilt_k b))): convex and increasing in b.

    growth(y) is y for exponential e-values and -log(1 - y), which is more, for bets.
    """

    intercept: _Array  # [n, k], log of the weight plus what was observed
    tilt: _Array  # [n, k], >= 0
    num_samples: _Array  # [n]
    is_bet: bool

    def at(self, b: _Array) -> tuple[_Array, _Array]:
        """Its value and its derivative at the candidates b. [host].

        Args:
            b: `[n]`; for bets at most 1 / tilt.

        Returns:
            Two float64 arrays `[n]`.
        """
        y = self.tilt * b[:, None]
        growth, speed = (-np.log1p(-y), 1 / (1 - y)) if self.is_bet else (y, 1.0)
        n = self.num_samples[:, None]
        exponent = self.intercept + n * growth
        top = exponent.max(axis=1)
        share = np.exp(exponent - top[:, None])
        total = share.sum(axis=1)
        slope = np.sum(share * n * self.tilt * speed, axis=1) / total
        return top + np.log(total), slope


class Lengths(NamedTuple):
    """n lengths r = |m| to bound; `sign` is 1 for upper bounds and -1 for lower ones.

    r^2 = |Y| c + sign r b with c = <m, v> and b = sign <m - Y, m> / r. `known` tests
    sign c, which may be off by `known_slack`, and `unknown` b, off by `unknown_slack`.
    """

    sign: _Array  # [n]
    estimate: _Array  # [n], |Y|
    known: Evidence
    known_slack: _Array  # [n]
    unknown: Evidence
    unknown_slack: _Array  # [n]
    largest: _Array  # [n], a bound of r that holds anyway
    log_level: _Array  # [n], log of 1 / (failure probability)


def solve(lengths: Lengths) -> _Array:
    """The bounds: between accepted and rejected lengths, at the last one rejected.

    [host] Bisection in r. Whether r is rejected is decided by a lower bound of a
    convex minimum, so an unfinished iteration loosens a bound and never tightens it.

    Guarantee:
        Each bound fails with probability at most exp(-log_level), if both e-values of
        its row are such.

    Args:
        lengths: what is known of them.

    Returns:
        float64 `[n]` in [0, largest].

    Reference: ours; proof in `docs/confidence_budget.md`, "Lengths: two e-values in one
        event".
    """
    is_upper = lengths.sign > 0
    low, high = np.zeros_like(lengths.largest), lengths.largest
    for _ in range(_OUTER_STEPS):
        middle = (low + high) / 2
        is_high = _is_rejected(lengths, middle) == is_upper
        low, high = np.where(is_high, low, middle), np.where(is_high, middle, high)
    return np.where(is_upper, high, low)  # (3)


def _is_rejected(lengths: Lengths, r: _Array) -> NDArray[np.bool_]:
    """Whether the product of the e-values is large whatever c is."""
    low, high = np.zeros_like(r), np.full_like(r, _MAX_COMPONENT)
    for _ in range(_INNER_STEPS):
        middle = (low + high) / 2
        rises = _product(lengths, r, middle)[1] > 0
        low, high = np.where(rises, low, middle), np.where(rises, middle, high)
    value, slope = _product(lengths, r, low)
    smallest = value + np.minimum(slope, 0) * (high - low)  # tangents lie below
    # Where c <= 0, the e-value that falls with it is worth its idle share at least.
    at_zero = np.where(
        lengths.sign > 0,
        lengths.unknown.at(r - lengths.unknown_slack)[0],
        lengths.known.at(-lengths.known_slack)[0],
    )
    smallest = np.minimum(smallest, at_zero + np.log(IDLE_SHARE))
    return smallest >= lengths.log_level  # (2)


def _product(lengths: Lengths, r: _Array, c: _Array) -> tuple[_Array, _Array]:
    """Logarithm of the product of the e-values, and its derivative in c."""
    sign, ratio = lengths.sign, lengths.estimate / r
    known, known_slope = lengths.known.at(sign * c - lengths.known_slack)
    b = sign * (r - ratio * c)  # (1)
    unknown, unknown_slope = lengths.unknown.at(b - lengths.unknown_slack)
    return known + unknown, sign * (known_slope - ratio * unknown_slope)
