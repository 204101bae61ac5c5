"""Distance of a feature from the decision boundary of a linear probe, in float64.

    radius(x) = min over j != k of (l_k - l_j) / |w_k - w_j|_2,   l = W' x + b,

k being the label of x; 0 where another class wins.
"""

import numpy as np
from jax.typing import ArrayLike

from robustjax import _validate
from robustjax.probes.linear import LinearProbe

_UNIT = np.finfo(np.float64).eps / 2  # unit roundoff
_TINY = np.finfo(np.float64).tiny
_BLOCK = 4096  # features at a time


def certified_feature_radius(
    probe: LinearProbe, features: ArrayLike, labels: ArrayLike
) -> np.ndarray:
    """The l2 distance of features to the decision boundary of a linear probe.

    [host] Minimum over j != k of ``(l_k - l_j) / |w_k - w_j|``, k being the label:
    exact for any number of classes, as the region of a class is an intersection of half
    spaces.

    Guarantee:
        Never above the distance of the probe whose weights these are, in exact
        arithmetic: rounding errors of the float64 sums are bounded and taken off, about
        ``1e-16 p |x| |w| / |w_k - w_j|``. A shift of the feature that is shorter does
        not change the class. It says nothing of shifts of the input of the encoder.

    Edge cases:
        0 where another class wins, where there is a tie up to rounding, and where a
        feature or a logit is not finite. A class with the weights of the label and a
        smaller bias is never reached: inf, if all others are like that.

    Args:
        probe: of k >= 2 classes.
        features: `[n, p]`.
        labels: `[n]`, integers in [0, k).

    Returns:
        `[n]` radii, float64, in units of the features.

    Raises:
        ValueError: if shapes do not fit or a label is no class.

    Example:
        >>> probe = LinearProbe(np.array([[0.0, 2.0]]), np.zeros(2))
        >>> radius = certified_feature_radius(probe, np.array([[1.5], [-1.0]]), [1, 1])
        >>> print(radius.round(6))
        [1.5 0. ]

    Reference: elementary.
    """
    weight, bias, x, classes = _checked(probe, features, labels)
    lengths = _lengths_above(weight)
    radius = np.zeros(len(x))
    with np.errstate(all="ignore"):  # what is not finite ends as 0
        for start in range(0, len(x), _BLOCK):
            rows = slice(start, start + _BLOCK)
            radius[rows] = _radius(weight, bias, x[rows], classes[rows], lengths)
    return radius


def robust_probe_accuracy(
    probe: LinearProbe, features: ArrayLike, labels: ArrayLike, *, epsilons: ArrayLike
) -> np.ndarray:
    """Share of features that a probe gets right under every shift up to epsilon.

    [host] Radii are l2, in feature space: `certified_feature_radius` must be larger
    than epsilon. At epsilon 0 it is the accuracy, ties counted as wrong.

    Args:
        probe: of k >= 2 classes.
        features: `[n, p]`.
        labels: `[n]`, integers in [0, k).
        epsilons: lengths, >= 0, of any shape.

    Returns:
        Shares of the shape of epsilons, float64, not above the truth.

    Raises:
        ValueError: if shapes do not fit, or a value is out of range.

    Example:
        >>> probe = LinearProbe(np.array([[0.0, 2.0]]), np.zeros(2))
        >>> x, y = np.array([[1.5], [0.5], [-1.0]]), [1, 1, 1]
        >>> print(robust_probe_accuracy(probe, x, y, epsilons=[0.0, 1.0]).round(4))
        [0.6667 0.3333]

    Reference: elementary.
    """
    _validate.at_least(0, epsilons=epsilons)
    limits = np.asarray(epsilons, np.float64)
    radius = np.sort(certified_feature_radius(probe, features, labels))
    num_above = len(radius) - np.searchsorted(radius, limits.ravel(), side="right")
    return (num_above / len(radius)).reshape(limits.shape)


def _checked(
    probe: LinearProbe, features: ArrayLike, labels: ArrayLike
) -> tuple[np.ndarray, np.ndarray, np.ndarray, np.ndarray]:
    weight, bias, x = (
        np.asarray(v).astype(np.float64) for v in (probe.weight, probe.bias, features)
    )
    classes = np.asarray(labels)
    if bias.ndim != 1 or len(bias) < 2:
        raise ValueError(f"Expected a bias [k] with k >= 2, got shape {bias.shape}.")
    if x.ndim != 2 or not x.size or weight.shape != (x.shape[1], len(bias)):
        raise ValueError(
            f"Expected features [n, p] and weight [p, {len(bias)}], got {x.shape} and "
            f"{weight.shape}."
        )
    if classes.shape != x.shape[:1]:
        raise ValueError(
            f"Expected labels [n] for features {x.shape}, got {classes.shape}."
        )
    _validate.labels(len(bias), labels=classes)
    return weight, bias, x, classes


def _lengths_above(weight: np.ndarray) -> np.ndarray:
    """`[k, k]`, |w_i - w_j| or a little more; by the largest entry, against overflow.

    A difference, a quotient and a square each err by one unit, a sum of p by p units;
    what overflows is infinite, and subnormal products err by half a step each.
    """
    lengths = np.zeros((weight.shape[1],) * 2)
    factor = 1 + 2 * (len(weight) + 8) * _UNIT
    with np.errstate(all="ignore"):
        for row, own in enumerate(weight.T):
            apart = np.abs(weight - own[:, None])
            largest = apart.max(axis=0)
            share = apart / np.where(largest > 0, largest, 1)
            length = largest * np.sqrt((share * share).sum(axis=0)) * factor
            length = np.where(np.isnan(length), np.inf, np.nextafter(length, np.inf))
            lengths[row] = np.where(largest == 0, 0, length)
    return lengths


def _radius(
    weight: np.ndarray,
    bias: np.ndarray,
    x: np.ndarray,
    classes: np.ndarray,
    lengths: np.ndarray,
) -> np.ndarray:
    rows = np.arange(len(x))
    logits = x @ weight + bias
    sizes = np.abs(x) @ np.abs(weight) + np.abs(bias)
    own, own_size = (v[rows, classes][:, None] for v in (logits, sizes))
    error = 2 * (len(weight) + 4) * (_UNIT * (sizes + own_size) + _TINY)
    gap = own - logits - error
    length = lengths[classes]
    distance = np.where(length > 0, np.nextafter(gap / length, 0), np.inf)
    distance = np.where((gap > 0) & np.isfinite(gap), distance, 0)
    distance[rows, classes] = np.inf
    is_finite = np.isfinite(logits).all(axis=1) & np.isfinite(sizes).all(axis=1)
    return np.where(is_finite, distance.min(axis=1), 0)
