"""Confidence bounds of the norms of the gradient of a smoothed class probability.

[host] float64, from the sums of `moments.Moments`. With z the noise in units of sigma
and f the outcome of class A, of probability p = E f,

    m = E[z f(z)] = sigma times the gradient of p,   |m|_2 <= phi(Phi^-1(p)),

so p >= p_lower >= 1/2 limits all norms of m: `docs/confidence_budget.md`, "Implied
bounds". `tight_bounds` and `reference` add what the samples show.
"""

import functools
import math
from collections.abc import Collection, Mapping
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray
from scipy import special

from robustjax import _validate, norms
from robustjax.smoothing.confidence import (
    binomial,
    budget,
    moment_sums,
    reference,
    sequences,
    tight_bounds,
)
from robustjax.smoothing.confidence.moment_sums import SUM_ERROR
from robustjax.smoothing.sampling.moments import SOFT_BETS, VOTES, Moments
from robustjax.smoothing.sampling.subspaces import Subspace
from robustjax.special.normal import normal_pdf

_Array = NDArray[np.float64]


class GradientBounds(NamedTuple):
    """Norms of m = sigma * gradient of n examples: confidence bounds and estimates.

    Arrays `[n]`, or `[n]` by name of a subspace. A bound that was not asked for is
    trivial: 0, or the largest value that `p_lower` allows.
    """

    p_lower: _Array  # lower bound of the probability of class A
    l2_lower: _Array
    l2_upper: _Array
    l1_lower: _Array
    l1_upper: _Array
    linf_lower: _Array
    linf_upper: _Array
    subspace_upper: dict[str, _Array]  # length of the projection on the subspace
    complement_lower: dict[str, _Array]  # length of the rest
    l2: _Array  # estimate, sqrt(max(<X, Y>, 0)) of two halves; <X, Y> is unbiased
    l1: _Array  # estimate, from the mean over all samples: noise makes it too large
    linf: _Array  # as l1
    subspace: dict[str, _Array]  # as l2

    def dual_upper(self, norm: str, *, dim: int) -> _Array:
        """Upper bound on the dual norm of m, which limits a ball's exposure to it.

        [host] The dual of lp is lq, 1/p + 1/q = 1. In a subspace it is the length of
        the projection. For q < 2 it is at most dim^(1/q - 1/2) times the length.

        Args:
            norm: as in `budget.needed_bounds`, whose bounds are to be there.
            dim: number of input coordinates.

        Returns:
            float64 `[n]`.

        Raises:
            ValueError: for a norm that is not known.

        Reference: ours for lp; `docs/confidence_budget.md`, "Implied bounds". Mohapatra
            et al. (2020), arXiv 2010.06651, for others.
        """
        _validate.integer(1, dim=dim)
        name = norms.subspace_name(norm)
        if name is not None:
            return self.subspace_upper[name]
        q = norms.dual_exponent(norms.exponent(norm))
        upper = _interpolated(q, self.l1_upper, self.l2_upper, self.linf_upper)
        if q >= 2:
            return upper
        return np.minimum(upper, self.l2_upper * dim ** (1 / q - 0.5))

    def dual_estimate(self, norm: str) -> _Array:
        """Estimate of the dual norm of m, float64 `[n]`; norms as in `dual_upper`."""
        name = norms.subspace_name(norm)
        if name is not None:
            return self.subspace[name]
        q = norms.dual_exponent(norms.exponent(norm))
        return _interpolated(q, self.l1, self.l2, self.linf)


def _interpolated(q: float, l1: _Array, l2: _Array, linf: _Array) -> _Array:
    """Lyapunov's inequality, what ||m||_q is at most, from three of its norms.

    ||m||_q <= ||m||_2^(2/q) ||m||_inf^(1 - 2/q) for q >= 2, and
    ||m||_q <= ||m||_1^(2/q - 1) ||m||_2^(2 - 2/q) for q <= 2.
    """
    if math.isinf(q):
        return linf
    if q >= 2:
        return l2 ** (2 / q) * linf ** (1 - 2 / q)
    return l1 ** (2 / q - 1) * l2 ** (2 - 2 / q)


def gradient_norm_bounds(
    moments: Moments,
    *,
    alpha: float,
    method: str = "tight",
    subspaces: Mapping[str, Subspace] | None = None,
    bounds: Collection[str] | None = None,
    votes: str = "hard",
) -> GradientBounds:
    """Confidence bounds of norms of sigma * gradient of the class probability.

    [host] Half of alpha pays for `p_lower` and half for the bounds asked for, shared
    as `budget.split` tells. "tight" bounds a length by the product of two e-values: of
    bets on the even samples along the direction that the odd ones found, and of the odd
    ones along the unknown gradient. From above, l1 and linf norms are the product of m
    with one fixed vector, so one scalar width does for them. "reference" is the public
    code of the paper, corrected.

    Guarantee:
        All bounds asked for and `p_lower` hold together with probability at least
        1 - alpha, if class A and the baselines were fixed before the samples. Rounding
        of the float32 sums is on the safe side.

    Edge cases:
        ==============================  =============================================
        Input                           Result
        ==============================  =============================================
        sums that are not finite        p_lower 0 and trivial bounds
        p_lower below 1/2               p_lower limits no norm
        moments without bets            bounds that know the variance from p_lower only
        ==============================  =============================================

    Args:
        moments: sums over the samples of n examples.
        alpha: failure probability of everything together, in (0, 1).
        method: "tight" or "reference", which needs baseline 1/2.
        subspaces: by name, in the order in which the moments were made.
        bounds: names as in `budget.needed_bounds`, each a share of alpha; default: all.
        votes: "hard" where f is 0 or 1, "soft" where it is between.

    Returns:
        `GradientBounds` in float64.

    Raises:
        ValueError: if an argument is unknown or out of range, a half has no samples, or
            the moments were made for other subspaces or votes.

    Example:
        >>> moments = Moments(  # of a half-space with p = 0.99, in one dimension
        ...     counts=np.array([[99_000, 1_000, 0]]), num_even=np.array([50_000]),
        ...     num_odd=np.array([50_000]), misses_even=np.array([500.0]),
        ...     misses_odd=np.array([500.0]), sum_even=np.array([[1_333.0]]),
        ...     sum_odd=np.array([[1_333.0]]), sum_squares=np.array([[7_200.0]]),
        ...     log_wealth=np.zeros((1, 1, 2, 8)), bets=np.zeros((1, 8)),
        ...     baseline=np.ones(1), selected=np.zeros(1, np.int32),
        ...     soft_log_wealth=np.zeros((1, 24)),
        ... )
        >>> found = gradient_norm_bounds(moments, alpha=0.001, bounds=["l2_upper"])
        >>> print(f"{found.l2[0]:.4f} <= {found.l2_upper[0]:.4f}")
        0.0267 <= 0.0291

    Reference: ours; proofs in `docs/confidence_budget.md`, "Lengths: two e-values in
        one event" and "l1 and linf norms: one direction is enough". "reference" is
        Mohapatra et al. (2020), arXiv 2010.06651.
    """
    _validate.open_interval(0, 1, alpha=alpha)
    _validate.one_of(VOTES, votes=votes)
    subspaces = dict(subspaces or {})
    known = budget.all_bounds(subspaces)
    wanted = known if bounds is None else tuple(bounds)
    for bound in wanted:
        _validate.one_of(known, bound=bound)
    shares = budget.split(dict.fromkeys(wanted), alpha=alpha, method=method)
    p_lower = class_probability_lower(moments, alpha=shares.probability, votes=votes)
    return given_probability(
        p_lower,
        moments,
        levels=shares.gradient,
        method=method,
        subspaces=subspaces,
        votes=votes,
    )


def given_probability(
    p_lower: _Array,
    moments: Moments,
    *,
    levels: Mapping[str, float],
    method: str,
    subspaces: Mapping[str, Subspace],
    votes: str,
) -> GradientBounds:
    """`gradient_norm_bounds` with a bound of the class probability that is known.

    [host]

    Args:
        p_lower: float64 `[n]`, from `class_probability_lower` of the same moments.
        moments: as in `gradient_norm_bounds`.
        levels: failure probability of each bound, by name.
        method: as there.
        subspaces: as there.
        votes: as there.

    Returns:
        The bounds. They and `p_lower` hold together with probability at least 1 minus
        the levels and the failure probability of `p_lower`.
    """
    _check_parts(moments, subspaces)
    sums = moment_sums.from_device(moments, votes=votes)
    p_lower = np.where(sums.is_finite, p_lower, 0.0)
    largest = normal_pdf(special.ndtri(np.maximum(p_lower, 0.5)), xp=np)
    if method == "tight":
        found = tight_bounds.norm_bounds(
            sums,
            p_lower=p_lower,
            largest=largest,
            levels=levels,
            subspaces=subspaces,
        )
    else:
        found = reference.norm_bounds(sums, levels=levels, subspaces=subspaces)
    limited = _limited(found, sums, largest=largest, subspaces=subspaces)
    return GradientBounds(
        p_lower=p_lower, **limited, **_estimates(sums, subspaces=subspaces)
    )


def _check_parts(moments: Moments, subspaces: Mapping[str, Subspace]) -> None:
    """Raises ValueError unless `moments` has bets for these subspaces, in order."""
    if moments.part_lengths is None or not np.any(moments.bets):
        return
    lengths = np.asarray(moments.part_lengths, np.float64)
    sums = np.asarray(moments.sum_odd, np.float64)
    y = sums.reshape(len(sums), math.prod(sums.shape[1:]))
    parts = [y]
    for space in subspaces.values():
        parts += [space.project(y), space.complement(y)]
    expected = np.linalg.norm(np.stack(parts, axis=1), axis=-1)
    is_same = expected.shape == lengths.shape and not np.any(
        np.abs(lengths - expected) > 1e-3 * expected[:, :1]  # not so for NaN
    )
    if not is_same:
        raise ValueError(
            "Expected the subspaces that the moments were made for, in their order, "
            f"got {', '.join(subspaces) or 'none'}."
        )


def class_probability_lower(moments: Moments, *, alpha: float, votes: str) -> _Array:
    """Lower confidence bound on the probability of class A, or its mean soft vote.

    [host]

    Args:
        moments: sums over the samples of n examples.
        alpha: its failure probability.
        votes: "hard" or "soft".

    Returns:
        float64 `[n]`; of sums that are not finite it means nothing.

    Raises:
        ValueError: if the moments were made for other votes.
    """
    counts = np.asarray(moments.counts)
    num = counts.sum(axis=1)
    misses = np.asarray(moments.misses_even, np.float64) + moments.misses_odd
    if votes == "soft":
        wealth = np.asarray(moments.soft_log_wealth, np.float64)
        if ((misses > 0) & (wealth == 0).all(axis=1)).any():
            raise ValueError("Expected moments of soft votes for votes='soft'.")
        return sequences.bounded_mean_lower(
            wealth, SOFT_BETS, num_samples=num, alpha=alpha
        )
    selected = np.asarray(moments.selected)[:, None]
    won = np.take_along_axis(counts, selected, axis=1)[:, 0]
    if (np.abs(num - won - misses) > 0.5 + SUM_ERROR * num).any():
        raise ValueError("Expected moments of hard votes for votes='hard'.")
    return binomial.clopper_pearson_lower(won, num, alpha=alpha)


def _limited(
    found: Mapping[str, _Array],
    sums: moment_sums.HostMoments,
    *,
    largest: _Array,
    subspaces: Mapping[str, Subspace],
) -> dict[str, Any]:
    """The bounds after all that they imply of each other, trivial where not finite."""
    root = np.sqrt(sums.mean.shape[1])

    def lower(name: str, *least: _Array) -> _Array:
        bound = np.maximum(found.get(name, 0.0), 0.0)
        bound = functools.reduce(np.maximum, least, bound)
        return np.where(sums.is_finite, bound, 0.0)

    def upper(name: str, limit: _Array) -> _Array:
        bound = np.minimum(found.get(name, limit), limit)
        return np.where(sums.is_finite, bound, limit)

    linf_lower = np.minimum(lower("linf_lower"), largest)
    l2_lower = np.minimum(lower("l2_lower", linf_lower), largest)
    l2_upper = upper("l2_upper", largest)
    complement = {
        name: np.minimum(lower(f"complement_lower:{name}"), largest)
        for name in subspaces
    }
    return {
        "l2_lower": l2_lower,
        "l2_upper": l2_upper,
        "l1_lower": np.minimum(lower("l1_lower", l2_lower), root * largest),
        "l1_upper": upper("l1_upper", root * l2_upper),
        "linf_lower": linf_lower,
        "linf_upper": upper("linf_upper", l2_upper),
        "complement_lower": complement,
        "subspace_upper": {
            name: upper(
                f"subspace_upper:{name}",
                np.sqrt(np.maximum(l2_upper**2 - rest**2, 0.0)),
            )
            for name, rest in complement.items()
        },
    }


def _estimates(
    sums: moment_sums.HostMoments, *, subspaces: Mapping[str, Subspace]
) -> dict[str, Any]:
    def length(x: _Array, y: _Array) -> _Array:
        return np.sqrt(np.maximum(np.sum(x * y, axis=1), 0.0))

    sizes = np.abs(sums.mean)
    return {
        "l2": length(sums.x, sums.y),
        "l1": sizes.sum(axis=1),
        "linf": sizes.max(axis=1),
        "subspace": {
            name: length(space.project(sums.x), space.project(sums.y))
            for name, space in subspaces.items()
        },
    }
