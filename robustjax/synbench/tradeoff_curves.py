"""The curve of margin against accuracy, its area, and the ratio of two areas.

With accuracies a_s and mean scaled bounds b_s of n scales, and threshold t,

    curve(t) = 1/n sum_s b_s [a_s > t],                                            (1)
    area(t) = integral of the curve from t to 1 = 1/n sum_s b_s max(a_s - t, 0),   (2)
    score(t) = area(t) / area(t) of the raw inputs.                                (3)

"grid" replaces the integral by the sum over the 100 points of the public script.
"""

import functools
from collections.abc import Sequence
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jax.scipy.special import ndtr
from jax.typing import ArrayLike

from robustjax import _validate
from robustjax._precision import as_floats, float64_for_numbers
from robustjax.synbench.expected_margins import scaled_bound_of_signal

_Numbers = jax.Array | np.ndarray
Floats = ArrayLike | Sequence[float]

SCALES = tuple(round(0.1 * i, 1) for i in range(1, 50))  # of the class means
THRESHOLDS = (0.6, 0.65, 0.7, 0.75, 0.8, 0.85, 0.9, 0.95, 0.99)  # on the accuracy
GRID = tuple(float(t) for t in np.linspace(0.6, 1, 100))  # of the public script
_SLACK = 1e-9  # a threshold that is a grid point, or a prior, counts as one


def check_thresholds(thresholds: Floats, *, prior: float = 0.5) -> None:
    """Raises ValueError unless concrete thresholds exceed a constant rule's accuracy.

    [host] Always predicting the likelier class has accuracy max(prior, 1 - prior),
    whatever the features are, so areas below it say nothing about them.

    Args:
        thresholds: `[t]`, on the accuracy.
        prior: P(y = 1).
    """
    array = _validate.concrete(thresholds)
    if array is None:
        return
    if array.ndim != 1 or not array.size:
        raise ValueError(f"Expected thresholds [t], one or more, got {thresholds}.")
    floor = max(prior, 1 - prior)
    if not (array > floor + _SLACK).all():
        raise ValueError(
            f"Expected thresholds above {floor:g}, the accuracy of always predicting "
            f"the likelier class, got {thresholds}."
        )


@float64_for_numbers
def bound_curve(
    accuracy: ArrayLike, bound: ArrayLike, *, thresholds: Floats = GRID
) -> _Numbers:
    """Mean bound over all tasks, where a task below the threshold counts as 0.

    [host] for numbers, which are computed in float64, and [device] (pure, jittable,
    vmappable) for JAX arrays.

    Args:
        accuracy: `[..., s]`, of s tasks.
        bound: `[..., s]`, their mean scaled bounds; read only where the accuracy
            exceeds a threshold.
        thresholds: `[t]`, running accuracies.

    Returns:
        `[..., t]`, a step function that falls from the mean bound to 0.

    Example:
        >>> print(bound_curve([0.7, 0.9], [2.0, 1.0], thresholds=[0.6, 0.8, 0.9]))
        [1.5 0.5 0. ]

    Reference: SynBench, Ko et al. (2024), ICML.
    """
    accuracy, bound = as_floats(accuracy, bound)
    return _curve(accuracy, bound, jnp.asarray(thresholds, accuracy.dtype))


@jax.jit
def _curve(accuracy: jax.Array, bound: jax.Array, thresholds: jax.Array) -> jax.Array:
    lines = (1,) * (accuracy.ndim - 1) + (1, -1)
    is_above = accuracy[..., None] > thresholds.reshape(lines)
    return jnp.mean(jnp.where(is_above, bound[..., None], 0), axis=-2)  # (1)


@float64_for_numbers
def curve_area(
    accuracy: ArrayLike,
    bound: ArrayLike,
    *,
    thresholds: Floats = THRESHOLDS,
    mode: str = "exact",
) -> _Numbers:
    """Area under `bound_curve` from each threshold to 1.

    [host] for numbers, which are computed in float64, and [device] (pure, jittable,
    vmappable; differentiable if exact) for JAX arrays.

    Args:
        accuracy: `[..., s]`, of s tasks.
        bound: `[..., s]`, their mean scaled bounds.
        thresholds: `[t]`, lower ends of the area.
        mode: "exact": mean of bound * (accuracy - threshold) where that is positive;
            "grid": the sum over the 100 points of the public script, not an area.

    Returns:
        `[..., t]`.

    Raises:
        ValueError: if the mode is not known.

    Example:
        >>> print(curve_area([0.7, 0.9], [2.0, 1.0], thresholds=[0.6, 0.8]).round(3))
        [0.25 0.05]

    Reference: grid: SynBench, Ko et al. (2024), ICML, as in IBM/synbench; exact: ours.
    """
    _validate.one_of(("exact", "grid"), mode=mode)
    accuracy, bound = as_floats(accuracy, bound)
    lowest = jnp.asarray(thresholds, accuracy.dtype)
    return _area(accuracy, bound, lowest, mode=mode)


@functools.partial(jax.jit, static_argnames="mode")
def _area(
    accuracy: jax.Array, bound: jax.Array, lowest: jax.Array, *, mode: str
) -> jax.Array:
    if mode == "grid":
        grid = jnp.asarray(GRID, bound.dtype)
        curve = _curve(accuracy, bound, grid)
        is_kept = from_threshold(grid[:, None], lowest)
        return jnp.matmul(curve, is_kept.astype(curve.dtype), precision="highest")
    lines = (1,) * (accuracy.ndim - 1) + (1, -1)
    above = accuracy[..., None] - lowest.reshape(lines)
    product = jnp.where(above > 0, bound[..., None], 0) * jnp.maximum(above, 0)
    return jnp.mean(product, axis=-2)  # (2)


def from_threshold(grid: Any, threshold: Any) -> Any:
    """Which points of the grid count, `[..., t]`."""
    return grid >= threshold[None] - _SLACK


def reference_curve(scales: ArrayLike) -> tuple[_Numbers, _Numbers]:
    """Accuracy and mean scaled bound of the best rule on the raw inputs.

    [host] for numbers, which are computed in float64, and [device] (pure, jittable,
    vmappable, differentiable) for JAX arrays.

    Args:
        scales: half distances of the class means in noise standard deviations.

    Returns:
        (accuracy, bound), each of the shape of the scales.

    Example:
        >>> accuracy, bound = reference_curve([1.0, 2.0])
        >>> print(accuracy.round(4), bound.round(4))
        [0.8413 0.9772] [1.2876 1.0276]

    Reference: SynBench, Ko et al. (2024), ICML.
    """
    return _normal_cdf(scales), scaled_bound_of_signal(scales)


@float64_for_numbers
def _normal_cdf(scales: ArrayLike) -> _Numbers:
    return ndtr(as_floats(scales)[0])


@float64_for_numbers
def score_of_curves(
    accuracy: ArrayLike,
    bound: ArrayLike,
    *,
    scales: Floats = SCALES,
    thresholds: Floats = THRESHOLDS,
    mode: str = "exact",
) -> _Numbers:
    """Area that a representation keeps of the area on raw inputs.

    [host] for numbers, which are computed in float64, and [device] (pure, jittable,
    vmappable; differentiable if exact) for JAX arrays.

    Args:
        accuracy: `[..., s]`, of the representation at each scale.
        bound: `[..., s]`, its mean scaled bounds.
        scales: `[s]`, half distances of the class means on raw inputs.
        thresholds: `[t]`, on the accuracy, above 1/2, which a constant reaches.
        mode: "exact" or "grid", see `curve_area`.

    Returns:
        Scores `[..., t]`: 0 where no accuracy exceeds the threshold, 1 for the raw
        inputs themselves; NaN where the raw inputs do not exceed it either.

    Raises:
        ValueError: if the mode is not known, or a concrete threshold is too low.

    Example:
        >>> print(score_of_curves(*reference_curve(SCALES), thresholds=[0.7, 0.9]))
        [1. 1.]

    Reference: SynBench, Ko et al. (2024), ICML.
    """
    check_thresholds(thresholds)
    accuracy, bound = as_floats(accuracy, bound)
    scales = jnp.asarray(scales, accuracy.dtype)
    raw = curve_area(
        ndtr(scales), scaled_bound_of_signal(scales), thresholds=thresholds, mode=mode
    )
    own = curve_area(accuracy, bound, thresholds=thresholds, mode=mode)
    lines = (1,) * (own.ndim - 1) + (-1,)
    return own / raw.reshape(lines)  # (3)


@float64_for_numbers
def finite_sample_ceiling(
    num_features: ArrayLike,
    num_train: ArrayLike,
    *,
    scales: Floats = SCALES,
    thresholds: Floats = THRESHOLDS,
    kept_signal: ArrayLike = 1.0,
    mode: str = "exact",
) -> _Numbers:
    """The score of a perfect Gaussian representation whose rule is estimated.

    [host] for numbers, which are computed in float64, and [device] (pure, jittable,
    vmappable) for JAX arrays. For epsilon 0 and without shrinkage; an asymptotic
    formula in p / n, within .003 of simulation up to p = n / 2.

    Args:
        num_features: p, the number of linearly independent features (the rank of their
            covariance): a number, or `[s]` numbers, one for each scale.
        num_train: n, samples that its rule is made from.
        scales: `[s]`, half distances of the class means on raw inputs.
        thresholds: `[t]`, on the accuracy, above 1/2.
        kept_signal: share of the signal that the representation keeps, in (0, 1].
        mode: "exact" or "grid", see `curve_area`.

    Returns:
        `[t]`; scales with n - 2 <= p add nothing.

    Raises:
        ValueError: if the mode is not known, or a concrete threshold is too low.

    Example:
        >>> print(finite_sample_ceiling(768, 2048, thresholds=[0.6, 0.9]).round(3))
        [0.85  0.804]

    Reference: ours.
    """
    scales, ratio = as_floats(scales, jnp.asarray(num_features) / num_train)
    s = jnp.asarray(kept_signal, scales.dtype) * scales
    deflation = s * s / (s * s + ratio)  # of the scale of the bound
    signal = jnp.sqrt(s * s * deflation * jnp.maximum(1 - ratio, 0))
    bound = scaled_bound_of_signal(signal) * deflation
    is_enough = jnp.asarray(num_train) - 2 > jnp.asarray(num_features)
    bound = jnp.where(is_enough, bound, 0)
    return score_of_curves(
        ndtr(signal), bound, scales=scales, thresholds=thresholds, mode=mode
    )
