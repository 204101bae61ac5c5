"""Two examples of training with noise, in closed form.

Training with noise of level s learns the Bayes rule of the *noised* data; smoothing
needs a rule that is right on *clean* data after noise of level t. These are different
objectives: in the world of two Gaussians noise in training cures what smoothing breaks,
in the world of points it loses a class.

Two Gaussians N(0, v_1 I) and N(0, v_0 I), noised to a = v_1 + s^2 and b = v_0 + s^2, in
d dimensions: the rule gives the inner class the ball of radius R, smoothing leaves r*,

    R^2 = d log(b / a) a b / (b - a),                                         (1)
    accuracies F_d(r*^2 / v_1) and 1 - F_d(r*^2 / v_0)   (F_d: chi-square).   (2)

A point of prior q between two others at distance D: the interval of half width

    h = sigma^2 / D arccosh(q / (1 - q) exp((D / sigma)^2 / 2)).              (3)
"""

from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jax.scipy.special import ndtr
from jax.typing import ArrayLike

from robustjax import _validate, special
from robustjax._precision import as_floats, float64_for_numbers
from robustjax.hidden_cost.closed_forms.balls import smoothed_ball_radius

_Numbers = jax.Array | np.ndarray


class GaussianWorld(NamedTuple):
    """The rule learned from noised Gaussians, smoothed and asked about clean ones."""

    radius: _Numbers  # of the ball that the rule gives to the inner class
    smoothed_radius: _Numbers  # what smoothing leaves of it, NaN for nothing
    inner_accuracy: _Numbers  # of the class with the smaller variance, clean data
    outer_accuracy: _Numbers


class PointWorld(NamedTuple):
    """The rule learned from noised points, smoothed and asked about the points."""

    half_width: _Numbers  # of the interval that the rule gives to the middle, or 0
    middle_probability: _Numbers  # of the middle class at its point
    outer_probability: _Numbers  # of the middle class at the points of the other


@float64_for_numbers
def gaussian_world(
    inner_variance: ArrayLike,
    outer_variance: ArrayLike,
    *,
    train_sigma: ArrayLike,
    test_sigma: ArrayLike,
    dim: ArrayLike,
) -> GaussianWorld:
    """Noise augmentation helps: two centred Gaussians of different size.

    [host] for numbers, which are computed in float64, and [device] (pure, jittable,
    vmappable) for JAX arrays. Both classes are N(0, v I), equally likely. The Bayes
    rule of the data noised with `train_sigma` gives the inner class a ball, and it is
    smoothed with `test_sigma` at threshold 1/2. Accuracy is that on clean data.
    In high dimensions `train_sigma = test_sigma` is right for both classes, too little
    noise in training loses the inner class, too much the outer one.

    Args:
        inner_variance: of the inner class, positive.
        outer_variance: of the outer class, larger.
        train_sigma: noise level in training, >= 0.
        test_sigma: noise level of smoothing, >= 0.
        dim: number of dimensions, >= 1.

    Returns:
        A `GaussianWorld` of the broadcast shape.

    Raises:
        ValueError: if a concrete argument is out of range.

    Example:
        >>> for train_sigma in (0.0, 0.5, 1.0):
        ...     world = gaussian_world(0.25, 1.0, train_sigma=train_sigma,
        ...                            test_sigma=0.5, dim=100)
        ...     print(f"{world.inner_accuracy:.3f} {world.outer_accuracy:.3f}")
        0.155 1.000
        1.000 1.000
        1.000 0.018

    Reference: ours, `docs/papers/hidden_cost.md`, "Training with noise"; in the spirit
        of Mohapatra, Ko, Weng, Chen, Liu and Daniel (2021), Hidden Cost of Randomized
        Smoothing, arXiv 2003.01249, whose own examples we could not access.
    """
    _validate.positive(inner_variance=inner_variance, outer_variance=outer_variance)
    _check_order(inner_variance, outer_variance)
    _validate.at_least(0, train_sigma=train_sigma, test_sigma=test_sigma)
    _validate.at_least(1, dim=dim)
    inner, outer, train, test, dim = as_floats(
        inner_variance, outer_variance, train_sigma, test_sigma, dim
    )
    small, large, gap = inner + train**2, outer + train**2, outer - inner
    radius = jnp.sqrt(dim * jnp.log1p(gap / small) * small * large / gap)  # (1)
    is_smoothed = test > 0
    noise = jnp.where(is_smoothed, test, 1.0)
    smoothed = smoothed_ball_radius(radius, sigma=noise, dim=dim)
    smoothed = jnp.where(is_smoothed, smoothed, radius)
    reach = jnp.nan_to_num(smoothed) ** 2
    return GaussianWorld(  # (2)
        radius,
        smoothed,
        special.ncx2_cdf(reach / inner, dim, 0.0),
        special.ncx2_sf(reach / outer, dim, 0.0),
    )


@float64_for_numbers
def point_world(
    distance: ArrayLike, *, sigma: ArrayLike, prior: ArrayLike = 0.5
) -> PointWorld:
    """Noise augmentation harms: a point between two points of the other class.

    [host] for numbers, which are computed in float64, and [device] (pure, jittable,
    vmappable, differentiable) for JAX arrays. On the line, the middle class sits at 0,
    the other half and half at -distance and +distance. The Bayes rule of the data
    noised with `sigma` gives the middle an interval; it is smoothed with the same
    `sigma`. With equal priors the other class is lost at its own points once sigma /
    distance exceeds 0.9476; with prior .4 the middle one is lost at 0.8501.

    Args:
        distance: between the points of the two classes, positive.
        sigma: noise level of training and of smoothing, positive.
        prior: probability of the middle class, in (0, 1).

    Returns:
        A `PointWorld` of the broadcast shape.

    Raises:
        ValueError: if a concrete argument is out of range.

    Example:
        >>> world = point_world(1.0, sigma=1.0)
        >>> print(f"{world.middle_probability:.3f} {world.outer_probability:.3f}")
        0.722 0.515

    Reference: ours, `docs/papers/hidden_cost.md`, "Training with noise"; in the spirit
        of Mohapatra et al. (2021), arXiv 2003.01249.
    """
    _validate.positive(distance=distance, sigma=sigma)
    _validate.open_interval(0, 1, prior=prior)
    distance, sigma, prior = as_floats(distance, sigma, prior)
    log_ratio = jnp.log(prior) - jnp.log1p(-prior) + 0.5 * (distance / sigma) ** 2
    half_width = sigma**2 / distance * _arccosh_of_exp(log_ratio)  # (3)

    def probability(x: ArrayLike) -> jax.Array:
        return ndtr((half_width - x) / sigma) - ndtr((-half_width - x) / sigma)

    return PointWorld(half_width, probability(0.0), probability(distance))


def _arccosh_of_exp(log_value: jax.Array) -> jax.Array:
    """arccosh(exp(z)) without overflow; 0 for z < 0, where it is not defined."""
    z = jnp.maximum(log_value, 0.0)
    is_inside = z > 0
    inside = jnp.where(is_inside, z, 1.0)
    value = inside + jnp.log1p(jnp.sqrt(-jnp.expm1(-2 * inside)))
    return jnp.where(is_inside, value, 0.0)


def _check_order(inner_variance: ArrayLike, outer_variance: ArrayLike) -> None:
    inner, outer = (_validate.concrete(v) for v in (inner_variance, outer_variance))
    if inner is not None and outer is not None and not (inner < outer).all():
        raise ValueError(
            "Expected inner_variance below outer_variance, got "
            f"{inner_variance} and {outer_variance}."
        )
