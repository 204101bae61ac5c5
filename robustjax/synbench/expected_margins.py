"""Mean distance of correctly classified Gaussian inputs from the boundary.

A rule w with offset o has k = w'm / A and t = o / A with A = sqrt(w'Sw). With the mass
T(r) = r Phi(r) + phi(r) of a truncated normal, and a its accuracy,

    distance = A / |w| (tau T(k - t) + (1 - tau) T(k + t)) / a,     (1)
    scaled   = (tau T(k - t) + (1 - tau) T(k + t)) / (a k),         (2)
    scaled   = 1 + phi(k) / (k Phi(k))   for tau = 1/2 and o = 0.   (3)
"""

import math
from collections.abc import Callable
from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jax.scipy.special import log_ndtr, ndtr, ndtri
from jax.typing import ArrayLike

from robustjax import _validate
from robustjax._precision import as_floats, float64_for_numbers
from robustjax.synbench import spectrum

_Numbers = jax.Array | np.ndarray
_LOG_ROOT = 0.5 * math.log(2 * math.pi)
_NUM_STEPS = 12  # of Newton's method; 7 reach rounding


class ExpectedMargin(NamedTuple):
    """Means over correctly classified inputs."""

    distance: _Numbers  # l2 distance to the boundary
    scaled: _Numbers  # the same in units of the distance of a class mean (prior 1/2)


@float64_for_numbers
def scaled_bound_of_signal(signal: ArrayLike) -> _Numbers:
    """Mean distance to the boundary of correct inputs, that of the class mean being 1.

    [host] for numbers, which are computed in float64, and [device] (pure, jittable,
    vmappable, differentiable) for JAX arrays. It is 1 + phi(r) / (r Phi(r)) for every
    covariance and every linear rule through the midpoint.

    Args:
        signal: r, the distance of a class mean in noise standard deviations.

    Returns:
        A number >= 1 for each r > 0, inf at 0, NaN below.

    Example:
        >>> print(scaled_bound_of_signal(2.0).round(9))
        1.027623931

    Reference: SynBench, Ko et al. (2024), ICML; as a truncated mean, ours.
    """
    return _scaled_bound(*as_floats(signal))


@jax.jit
def _scaled_bound(r: jax.Array) -> jax.Array:
    safe = jnp.where(r > 0, r, 1)
    excess = jnp.exp(-0.5 * safe * safe - _LOG_ROOT - log_ndtr(safe)) / safe
    return jnp.where(r > 0, 1 + excess, jnp.where(r == 0, jnp.inf, jnp.nan))  # (3)


@float64_for_numbers
def expected_scaled_bound(accuracy: ArrayLike) -> _Numbers:
    """`scaled_bound_of_signal` as a function of the accuracy of the rule.

    [host] for numbers, which are computed in float64, and [device] (pure, jittable,
    vmappable, differentiable) for JAX arrays. In float32 the accuracy cannot say more
    than signals below 5.4: use `scaled_bound_of_signal` where the signal is known.

    Args:
        accuracy: a, of balanced classes.

    Returns:
        E(a): inf at 1/2, falling to 1 at 1; NaN below 1/2 and above 1.

    Example:
        >>> print(expected_scaled_bound([0.5, 0.9, 1.0, 0.4]).round(6))
        [     inf 1.152158 1.             nan]

    Reference: SynBench, Ko et al. (2024), ICML.
    """
    return _bound_of_accuracy(*as_floats(accuracy))


@jax.jit
def _bound_of_accuracy(a: jax.Array) -> jax.Array:
    is_inside = (a >= 0.5) & (a < 1)
    bound = _scaled_bound(ndtri(jnp.where(is_inside, a, 0.75)))
    return jnp.where(is_inside, bound, jnp.where(a == 1, 1.0, jnp.nan))


@float64_for_numbers
def accuracy_of_scaled_bound(bound: ArrayLike) -> _Numbers:
    """The accuracy a with E(a) = bound: the inverse of `expected_scaled_bound`.

    [host] for numbers, which are computed in float64, and [device] (pure, jittable,
    vmappable, differentiable) for JAX arrays.

    Args:
        bound: mean scaled bounds, >= 1.

    Returns:
        Accuracies in [1/2, 1]; NaN for bounds below 1.

    Example:
        >>> print(accuracy_of_scaled_bound(expected_scaled_bound(0.9)).round(9))
        0.9

    Reference: ours.
    """
    return _accuracy_of_bound(*as_floats(bound))


@jax.jit
def _accuracy_of_bound(bound: jax.Array) -> jax.Array:
    is_inside = (bound > 1) & (bound < jnp.inf)
    target = jnp.log(jnp.where(is_inside, bound, 2) - 1)

    def residual(r: jax.Array) -> jax.Array:
        return -0.5 * r * r - _LOG_ROOT - log_ndtr(r) - jnp.log(r) - target

    def step(_: int, log_r: jax.Array) -> jax.Array:
        return log_r - _newton(residual, jnp.exp(log_r))

    start = jnp.where(target > 0, -target, 0.5 * jnp.log(1 - 2 * target))
    log_r = jax.lax.fori_loop(0, _NUM_STEPS, step, jax.lax.stop_gradient(start))
    r = jnp.exp(jax.lax.stop_gradient(log_r))
    r = r * (1 - _newton(residual, r))  # of size zero: carries the derivative
    ends = jnp.where(bound == 1, 1.0, jnp.where(bound == jnp.inf, 0.5, jnp.nan))
    return jnp.where(is_inside, ndtr(r), ends)


def _newton(residual: Callable[[jax.Array], jax.Array], r: jax.Array) -> jax.Array:
    """The step in log r."""
    ratio = jnp.exp(-0.5 * r * r - _LOG_ROOT - log_ndtr(r))  # phi / Phi
    return residual(r) / jax.lax.stop_gradient(-r * r - r * ratio - 1)


@float64_for_numbers
def expected_margin(
    weight: ArrayLike,
    mean: ArrayLike,
    covariance: ArrayLike,
    *,
    offset: ArrayLike = 0.0,
    prior: ArrayLike = 0.5,
) -> ExpectedMargin:
    """Mean distance to the boundary of the inputs that a linear rule gets right.

    [host] for numbers, which are computed in float64, and [device] (pure, jittable,
    vmappable, differentiable) for JAX arrays.

    Args:
        weight: `[p]`, not 0.
        mean: `[p]`, half the difference of the class means.
        covariance: a number, `[p]` variances or a `[p, p]` matrix.
        offset: the rule predicts 1 where weight @ (x - center) > offset.
        prior: P(y = 1), in (0, 1).

    Returns:
        An `ExpectedMargin`. With an offset the unit of the scaled one is still
        ``weight @ mean / |weight|``: our choice for unbalanced classes.

    Raises:
        ValueError: if a concrete prior is out of range, or a concrete covariance is not
            one, as in `robust_bayes`.

    Example:
        >>> found = expected_margin([1.0, 0.0], [1.0, 0.0], [1.0, 1.0])
        >>> print(found.distance.round(4), found.scaled.round(4))
        1.2876 1.2876

    Reference: for equal priors SynBench, Ko et al. (2024), ICML; the others are ours.
    """
    _validate.open_interval(0, 1, prior=prior)
    weight, mean = as_floats(weight, mean)
    covariance, offset, prior = (
        jnp.asarray(v, weight.dtype) for v in (covariance, offset, prior)
    )
    if covariance.ndim == 2:
        spectrum.check_matrix(covariance)
    else:
        _validate.at_least(0, covariance=covariance)
    return _expected_margin(weight, mean, covariance, offset=offset, prior=prior)


@jax.jit
def _expected_margin(
    weight: jax.Array,
    mean: jax.Array,
    covariance: jax.Array,
    *,
    offset: jax.Array,
    prior: jax.Array,
) -> ExpectedMargin:
    rows = covariance @ weight if covariance.ndim == 2 else covariance * weight
    spread = jnp.sqrt(weight @ rows)
    k, t = weight @ mean / spread, offset / spread

    def truncated(r: jax.Array) -> jax.Array:
        return r * ndtr(r) + jnp.exp(-0.5 * r * r - _LOG_ROOT)

    accuracy = prior * ndtr(k - t) + (1 - prior) * ndtr(k + t)
    total = prior * truncated(k - t) + (1 - prior) * truncated(k + t)
    mean_margin = total / accuracy  # in noise standard deviations
    return ExpectedMargin(  # (1), (2)
        mean_margin * spread / jnp.linalg.norm(weight), mean_margin / k
    )
