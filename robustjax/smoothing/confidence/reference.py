"""Bounds of gradient norms as in the public code of the paper, with corrections.

[host] float64. For s = +-1/2 and every unit vector u, <u, s z - m> is taken as
sub-Gaussian with the one constant c = 1/4 + 3 / sqrt(8 pi e). A is the mean of s z over
all N samples in d dimensions, X and Y are those over n_1 even and n_2 odd samples. At
failure probability a, with l = log(2 / a),

    |m|_inf:  max_j |A_j| +- sqrt(2 c / N log(2 d / a)),    (1)
    |m|_1:    |A|_1 +- sqrt(d 2 c / N (d log 2 - log a)),   (2)
    |m|_2:    sqrt(e^2 / 4 + <X, Y> +- t) +- e / 2,         (3)
              e = sqrt(2 c (1 / n_1 + 1 / n_2) l),          (4)
              t = c Q_d(l) / sqrt(n_1 n_2),                 (5)

where <g, h> > Q_d(l) with probability at most exp(-l) for g, h ~ N(0, I_d). Corrected:
the dimension of the part orthogonal to a subspace, the split of the failure
probability, the Chernoff bound Q_d, and a <X, Y> that is negative.
"""

from collections.abc import Mapping

import numpy as np
from numpy.typing import NDArray

from robustjax.smoothing.confidence.moment_sums import HostMoments
from robustjax.smoothing.sampling.subspaces import Subspace

CONSTANT = 0.25 + 3 / np.sqrt(8 * np.pi * np.e)
_TILTS = np.geomspace(1e-5, 0.9999, 4096)  # of which the best is taken
_Array = NDArray[np.float64]


def norm_bounds(
    moments: HostMoments,
    *,
    levels: Mapping[str, float],
    subspaces: Mapping[str, Subspace],
) -> dict[str, _Array]:
    """The bounds that `levels` names, each with its failure probability.

    [host]

    Guarantee:
        Each holds with probability 1 - its level.

    Args:
        moments: sums over the samples of n examples, all with baseline 1/2.
        levels: failure probabilities by name of the bound.
        subspaces: by name.

    Returns:
        float64 `[n]` by name; not yet limited by what the class probability allows.

    Raises:
        ValueError: for another baseline.

    Reference: Mohapatra et al. (2020), arXiv 2010.06651; corrected by us.
    """
    if not (moments.baseline == 0.5).all():
        raise ValueError(
            "Expected baseline=0.5 everywhere for method='reference', got "
            f"{moments.baseline}."
        )
    num, dim = moments.num_even + moments.num_odd, moments.mean.shape[1]
    sizes = np.abs(moments.mean)
    found = {}
    for name, level in levels.items():
        kind, _, space = name.partition(":")
        if kind.startswith("linf"):
            width = np.sqrt(2 * CONSTANT / num * np.log(2 * dim / level))[:, None]
            widths = width + moments.mean_error
            sign = 1 if kind == "linf_upper" else -1
            found[name] = np.max(sizes + sign * widths, axis=1)  # (1)
        elif kind.startswith("l1"):
            log_level = dim * np.log(2) - np.log(level)
            width = np.sqrt(dim * 2 * CONSTANT / num * log_level)
            width = width + moments.mean_error.sum(axis=1)
            sign = 1 if kind == "l1_upper" else -1
            found[name] = sizes.sum(axis=1) + sign * width  # (2)
        else:
            part = subspaces.get(space)
            found[name] = _length(moments, kind, level=level, subspace=part)
    return found


def _length(
    moments: HostMoments, kind: str, *, level: float, subspace: Subspace | None
) -> _Array:
    """Two events at half the level each: noise along m, and noise times noise."""
    x, y, rank = moments.x, moments.y, moments.x.shape[1]
    if subspace is not None and kind == "subspace_upper":
        x, y, rank = subspace.project(x), subspace.project(y), _rank(subspace)
    elif subspace is not None:
        x, y = subspace.complement(x), subspace.complement(y)
        rank = rank - _rank(subspace)
    even, odd = moments.num_even, moments.num_odd
    log_level = np.log(2 / level)
    product = np.sum(x * y, axis=1)
    noise = CONSTANT * _product_quantile(rank, log_level) / np.sqrt(even * odd)  # (5)
    along = np.sqrt(2 * CONSTANT * (1 / even + 1 / odd) * log_level)  # (4)
    # Rounding of x and y moves the product by this much, besides its part along m.
    length = np.linalg.norm(x, axis=1) * moments.y_error
    length += np.linalg.norm(y, axis=1) * moments.x_error
    noise = noise + length + moments.x_error * moments.y_error
    if kind.endswith("upper"):
        return along / 2 + np.sqrt(along**2 / 4 + np.maximum(product + noise, 0))  # (3)
    excess = product - noise
    root = np.sqrt(along**2 / 4 + np.maximum(excess, 0))
    return np.where(excess > 0, root - along / 2, 0.0)  # (3)


def _rank(subspace: Subspace) -> int:
    if subspace.mask is not None:
        return int(np.sum(subspace.mask))
    return int(np.shape(subspace.basis)[1])


def _product_quantile(rank: int, log_level: float) -> float:
    """A t with P[<g, h> > t] <= exp(-log_level), for g and h N(0, I), by Chernoff.

    log E exp(s <g, h>) = -(rank / 2) log(1 - s^2) in `rank` dimensions.
    """
    return float(np.min((log_level - rank / 2 * np.log1p(-(_TILTS**2))) / _TILTS))
