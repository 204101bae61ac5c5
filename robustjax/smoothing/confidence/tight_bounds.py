"""Bounds of gradient norms by e-values and by single fixed directions.

[host] float64. With A the mean of s z over all samples, X and Y those over the even and
the odd ones, d coordinates, and the widths w of `concentration`,

    linf_upper = max_j (|A_j| + w_j),       linf_lower = max_j (|A_j| - w_j),
    l1_upper = |A|_1 + sqrt(d) w,           l1_lower = <X, sign(Y)> - sqrt(d) w,

while bounds of lengths are those of `e_values`. Ours; the proofs are in
`docs/confidence_budget.md`, "Lengths: two e-values in one event" and "l1 and linf
norms: one direction is enough".
"""

from collections.abc import Callable, Mapping, Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray

from robustjax.smoothing.confidence import concentration
from robustjax.smoothing.confidence.e_values import IDLE_SHARE, Evidence, Lengths, solve
from robustjax.smoothing.confidence.moment_sums import PROJECTION_ERROR, HostMoments
from robustjax.smoothing.sampling.moments import MAX_PROJECTION
from robustjax.smoothing.sampling.noise_blocks import MAX_NOISE
from robustjax.smoothing.sampling.subspaces import Subspace
from robustjax.special.normal import normal_pdf

# Exponents of the e-values that do not bet, over sqrt(2 log_level / n), for baseline 1
# and for 1/2: along the unknown direction of m, and along a known one.
_UNKNOWN_TILTS = (np.geomspace(0.6, 12.0, 6), np.geomspace(0.5, 1.8, 6))
_KNOWN_TILTS = (np.geomspace(1.0, 14.0, 6), np.geomspace(1.0, 2.0, 6))
_Array = NDArray[np.float64]


def norm_bounds(
    moments: HostMoments,
    *,
    p_lower: _Array,
    largest: _Array,
    levels: Mapping[str, float],
    subspaces: Mapping[str, Subspace],
) -> dict[str, _Array]:
    """The bounds that `levels` names, each with its failure probability.

    [host]

    Guarantee:
        Each holds with probability 1 - its level where the class probability is at
        least p_lower.

    Args:
        moments: sums over the samples of n examples.
        p_lower: `[n]` lower bounds of the class probability.
        largest: `[n]` lengths that m cannot exceed with such a class probability.
        levels: failure probabilities by name of the bound.
        subspaces: by name, in the order of the directions in `moments`.

    Returns:
        float64 `[n]` by name; those of l1 and linf are not yet limited to `largest`.

    Raises:
        ValueError: if the directions with bets are not those of the subspaces.
    """
    num_directions = moments.log_wealth.shape[1]
    is_other = bool(subspaces) and num_directions != 1 + 2 * len(subspaces)
    if moments.bets.any() and is_other:
        raise ValueError(
            f"Expected the subspaces that the moments were made for, got "
            f"{len(subspaces)} for {num_directions} directions."
        )
    found = _lengths(
        moments, p_lower=p_lower, largest=largest, levels=levels, subspaces=subspaces
    )
    other = {
        "linf_upper": _linf_upper,
        "linf_lower": _linf_lower,
        "l1_upper": _l1_upper,
        "l1_lower": _l1_lower,
    }
    for name, bound in other.items():
        if name in levels:
            found[name] = bound(moments, 1 - p_lower, -np.log(levels[name]))
    return found


def _linf_upper(moments: HostMoments, q_upper: _Array, log_level: float) -> _Array:
    """The largest coordinate of m is one fixed coordinate of one fixed sign."""
    widths = _coordinate_widths(moments, q_upper, log_level)
    return np.max(np.abs(moments.mean) + widths, axis=1)


def _linf_lower(moments: HostMoments, q_upper: _Array, log_level: float) -> _Array:
    """Any coordinate may be the one that shows: both signs of all of them count."""
    num = 2 * moments.mean.shape[1]
    widths = _coordinate_widths(moments, q_upper, log_level + np.log(num))
    return np.max(np.abs(moments.mean) - widths, axis=1)


def _l1_upper(moments: HostMoments, q_upper: _Array, log_level: float) -> _Array:
    """The l1 norm of m is its product with one fixed vector of signs."""
    num, dim = moments.num_even + moments.num_odd, moments.mean.shape[1]
    width = concentration.scalar_width(
        q_upper, num, log_level=log_level, baseline=moments.baseline
    )
    observed = np.sum(np.abs(moments.mean) + moments.mean_error, axis=1)
    return observed + np.sqrt(dim) * width


def _l1_lower(moments: HostMoments, q_upper: _Array, log_level: float) -> _Array:
    """It is no less than the product with the signs of Y, fixed for the even half."""
    width = concentration.scalar_width(
        q_upper, moments.num_even, log_level=log_level, baseline=moments.baseline
    )
    observed = np.sum(np.sign(moments.y) * moments.x, axis=1)
    dim = moments.mean.shape[1]
    return observed - np.sqrt(dim) * (width + moments.x_error)


def _coordinate_widths(
    moments: HostMoments, q_upper: _Array, log_level: float
) -> _Array:
    """Widths of the mean over all samples `[n, d]`, for any one coordinate and sign."""
    num = moments.num_even + moments.num_odd
    is_one = moments.baseline == 1
    widths = np.empty_like(moments.mean)
    widths[is_one] = normal_pdf(MAX_NOISE, xp=np) + concentration.empirical_width(
        moments.sum_squares[is_one], num[is_one], log_level=log_level
    )
    widths[~is_one] = concentration.scalar_width(
        q_upper[~is_one], num[~is_one], log_level=log_level, baseline=0.5
    )[:, None]
    return widths + moments.mean_error


def _lengths(
    moments: HostMoments,
    *,
    p_lower: _Array,
    largest: _Array,
    levels: Mapping[str, float],
    subspaces: Mapping[str, Subspace],
) -> dict[str, _Array]:
    """All bounds of lengths, solved as rows of one problem."""
    parts: dict[str, tuple[int, Callable[[_Array], _Array]]]
    parts = dict.fromkeys(("l2_upper", "l2_lower"), (0, lambda v: v))
    for i, (name, space) in enumerate(subspaces.items()):
        parts[f"subspace_upper:{name}"] = (1 + 2 * i, space.project)
        parts[f"complement_lower:{name}"] = (2 + 2 * i, space.complement)
    wanted = [name for name in parts if name in levels]
    if not wanted:
        return {}
    costs = concentration.tilt_costs(1 - p_lower, baseline=moments.baseline)
    rows = [
        length_problem(
            moments,
            costs,
            largest=largest,
            sign=1.0 if name.partition(":")[0].endswith("upper") else -1.0,
            direction=parts[name][0],
            project=parts[name][1],
            log_level=-np.log(levels[name]),
        )
        for name in wanted
    ]
    found = solve(_stack(rows)).reshape(len(wanted), -1)
    return dict(zip(wanted, found, strict=True))


def length_problem(
    moments: HostMoments,
    costs: _Array,
    *,
    largest: _Array,
    sign: float,
    direction: int,
    project: Callable[[_Array], _Array],
    log_level: float,
) -> Lengths:
    """What is known of the length of m, or of a part of it.

    [host]

    Args:
        moments: sums over the samples of n examples.
        costs: `[n, 200]`, as `concentration.tilt_costs` makes them.
        largest: `[n]` lengths that m cannot exceed.
        sign: 1 for an upper bound, -1 for a lower one.
        direction: index of the direction that was bet on.
        project: the orthogonal projection on the part.
        log_level: log of 1 / (failure probability).

    Returns:
        One bound for each example to solve for.
    """
    x, y = project(moments.x), project(moments.y)
    estimate = np.linalg.norm(y, axis=1)
    per_length = np.divide(
        1.0, estimate, out=np.zeros_like(estimate), where=estimate > 0
    )
    num_even, num_odd = moments.num_even, moments.num_odd
    baseline = moments.baseline
    tilts, cost = _choose(
        costs, _UNKNOWN_TILTS, baseline=baseline, num=num_odd, log_level=log_level
    )
    unknown = _evidence(-num_odd[:, None] * cost, tilts, num_odd, is_bet=False)
    if moments.bets.any():
        wealth = moments.log_wealth[:, direction, 1 if sign > 0 else 0]
        known = _evidence(wealth, moments.bets, num_even, is_bet=True)
        misdirected = np.linalg.norm(moments.y, axis=1) * per_length * largest
        known_slack = normal_pdf(MAX_PROJECTION, xp=np) + PROJECTION_ERROR * misdirected
    else:
        tilts, cost = _choose(
            costs, _KNOWN_TILTS, baseline=baseline, num=num_even, log_level=log_level
        )
        observed = sign * np.sum(x * y, axis=1) * per_length
        exponent = -num_even[:, None] * (tilts * observed[:, None] + cost)
        known = _evidence(exponent, tilts, num_even, is_bet=False)
        known_slack = moments.x_error
    return Lengths(
        sign=np.full_like(estimate, sign),
        estimate=estimate,
        known=known,
        known_slack=known_slack,
        unknown=unknown,
        unknown_slack=moments.y_error,
        largest=largest,
        log_level=np.full_like(estimate, log_level),
    )


def _choose(
    costs: _Array,
    multiples: tuple[_Array, _Array],
    *,
    baseline: _Array,
    num: _Array,
    log_level: float,
) -> tuple[_Array, _Array]:
    """Tilts `[n, k]` that suit the level and the number of samples, and their costs."""
    tilts = np.where((baseline == 1)[:, None], *multiples)
    tilts = tilts * np.sqrt(2 * log_level / num)[:, None]
    index = np.searchsorted(concentration.TILTS, tilts)
    index = np.minimum(index, len(concentration.TILTS) - 1)
    return concentration.TILTS[index], np.take_along_axis(costs, index, axis=1)


def _evidence(
    exponent: _Array, tilts: _Array, num_samples: _Array, *, is_bet: bool
) -> Evidence:
    """The mean of k e-values, and a share that is never staked."""
    num, k = exponent.shape
    idle = np.full((num, 1), np.log(IDLE_SHARE))
    played = exponent + np.log((1 - IDLE_SHARE) / k)
    return Evidence(
        intercept=np.concatenate([played, idle], axis=1),
        tilt=np.concatenate([tilts, np.zeros((num, 1))], axis=1),
        num_samples=num_samples,
        is_bet=is_bet,
    )


def _stack(rows: Sequence[Lengths]) -> Lengths:
    """Rows of several bounds as one problem."""

    def stack(parts: Sequence[Any]) -> Any:
        if isinstance(parts[0], bool):
            return parts[0]
        if isinstance(parts[0], tuple):
            fields = [stack(values) for values in zip(*parts, strict=True)]
            return type(parts[0])(*fields)
        return np.concatenate(parts)

    return stack(rows)
