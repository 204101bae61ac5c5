"""Gaussian smoothing of a decision region that is a ball, in closed form.

For a ball of radius R in d dimensions, a point at distance r from its centre and a
threshold tau, with F_d(x; nc) the noncentral chi-square distribution function,

    p(r) = F_d((R / sigma)^2; (r / sigma)^2),                                     (1)
    r* solves p(r*) = tau,                                                        (2)
    sigma_0 = R / sqrt(quantile tau of chi-square_d),                             (3)
    sqrt(R^2 - d sigma^2) <= r* <= sqrt(R^2 - (d - 1) sigma^2)   for tau = 1/2.   (4)

A class whose region lies inside the ball loses everything outside of the smoothed ball,
r <= r*, and vanishes at sigma_0, about R / sqrt(d). So the functions here bound the
fate of every bounded region. Intervals are balls with dim = 1.

The largest radius that n samples can certify at all is

    Phi^-1(alpha^(1/n)) sigma.                                                    (5)
"""

from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jax.scipy.special import ndtri
from jax.typing import ArrayLike

from robustjax import _validate, special
from robustjax._precision import as_floats, float64_for_numbers

_Numbers = jax.Array | np.ndarray


class CenterCertificate(NamedTuple):
    """The noise level with the largest certificate at a ball's centre."""

    sigma: _Numbers
    radius: _Numbers


@float64_for_numbers
def ball_class_probability(
    distance: ArrayLike, *, radius: ArrayLike, sigma: ArrayLike, dim: ArrayLike
) -> _Numbers:
    """Probability that Gaussian noise ends inside a ball, elementwise.

    [host] for numbers, which are computed in float64, and [device] (pure, jittable,
    vmappable, differentiable) for JAX arrays, which keep their dtype. In any dimension
    by `special.ncx2_cdf`.

    Args:
        distance: of the point from the centre, >= 0.
        radius: of the ball, positive.
        sigma: noise level, positive, in the same units.
        dim: number of dimensions, >= 1.

    Returns:
        Probabilities of the broadcast shape.

    Raises:
        ValueError: if a concrete radius, sigma or dim is out of range.

    Example:
        >>> p = ball_class_probability(0.0, radius=1.0, sigma=0.018, dim=3072)
        >>> print(f"{p:.6f}")
        0.576199

    Reference: ours; elementary.
    """
    _check(radius, sigma, dim)
    distance, radius, sigma, dim = as_floats(distance, radius, sigma, dim)
    x, nc = (radius / sigma) ** 2, (distance / sigma) ** 2
    excess = ((radius - distance) / sigma) * ((radius + distance) / sigma) - dim
    return special.ncx2_cdf(x, dim, nc, excess=excess)  # (1)


@float64_for_numbers
def smoothed_ball_radius(
    radius: ArrayLike, *, sigma: ArrayLike, dim: ArrayLike, threshold: ArrayLike = 0.5
) -> _Numbers:
    """Radius of the ball in which a class that owns a ball keeps its probability.

    [host] for numbers, which are computed in float64, and [device] (pure, jittable,
    vmappable, differentiable in radius, sigma and threshold) for JAX arrays. The
    derivative is infinite where the region vanishes.

    Guarantee:
        A class whose region lies inside a ball of this radius reaches the threshold
        nowhere outside of the concentric ball of the returned radius.

    Args:
        radius: of the ball that holds the region of the class, positive.
        sigma: noise level, positive, in the same units.
        dim: number of dimensions, >= 1.
        threshold: probability that the class needs: 1/2 for a certificate, 1/K to be
            the most likely of K classes at all. Below 1/2 the region may grow.

    Returns:
        Radii of the broadcast shape; NaN where nothing is left.

    Raises:
        ValueError: if a concrete argument is out of range.

    Example:
        >>> print(f"{smoothed_ball_radius(1.0, sigma=0.02, dim=784):.6f}")
        0.828719
        >>> print(smoothed_ball_radius(1.0, sigma=0.04, dim=784))
        nan

    Reference: ours, `docs/papers/hidden_cost.md`, "Balls"; in the spirit of Mohapatra,
        Ko, Weng, Chen, Liu and Daniel (2021), Hidden Cost of Randomized Smoothing,
        arXiv 2003.01249.
    """
    _check(radius, sigma, dim, threshold)
    radius, sigma, dim, threshold = as_floats(radius, sigma, dim, threshold)
    return sigma * jnp.sqrt(  # (2)
        special.ncx2_noncentrality(threshold, (radius / sigma) ** 2, dim)
    )


@float64_for_numbers
def ball_vanishing_sigma(
    radius: ArrayLike, *, dim: ArrayLike, threshold: ArrayLike = 0.5
) -> _Numbers:
    """Noise level beyond which a class inside a ball reaches the threshold nowhere.

    [host] for numbers, which are computed in float64, and [device] (pure, jittable,
    vmappable, differentiable) for JAX arrays. About R / sqrt(d); for threshold 1/2
    between R / sqrt(d) and R / sqrt(d - 2/3).

    Args:
        radius: of the ball that holds the region of the class, positive.
        dim: number of dimensions, >= 1.
        threshold: as in `smoothed_ball_radius`.

    Returns:
        Noise levels of the broadcast shape.

    Raises:
        ValueError: if a concrete argument is out of range.

    Example:
        >>> print(f"{ball_vanishing_sigma(1.0, dim=3072):.10f}")
        0.0180441539

    Reference: ours, `docs/papers/hidden_cost.md`, "Balls"; in the spirit of Mohapatra
        et al. (2021), arXiv 2003.01249.
    """
    _check(radius, 1.0, dim, threshold)
    radius, dim, threshold = as_floats(radius, dim, threshold)
    return radius / jnp.sqrt(special.chi2_ppf(threshold, dim))  # (3)


@float64_for_numbers
def ball_radius_bounds(
    radius: ArrayLike, *, sigma: ArrayLike, dim: ArrayLike
) -> tuple[_Numbers, _Numbers]:
    """Elementary bounds of `smoothed_ball_radius` at threshold 1/2.

    [host] for numbers and [device] for JAX arrays. sqrt(R^2 - d sigma^2) and
    sqrt(R^2 - (d - 1) sigma^2): what a reader can compute by hand.

    Args:
        radius: of the ball, positive.
        sigma: noise level, positive.
        dim: number of dimensions, >= 1.

    Returns:
        The lower and the upper bound, 0 where they are the root of a negative number.

    Raises:
        ValueError: if a concrete argument is out of range.

    Example:
        >>> lower, upper = ball_radius_bounds(1.0, sigma=0.02, dim=784)
        >>> print(f"{lower:.4f} {upper:.4f}")
        0.8285 0.8287

    Reference: ours, `docs/papers/hidden_cost.md`, "Balls"; checked on a grid, from
        bounds of the median of the noncentral chi-square distribution.
    """
    _check(radius, sigma, dim)
    radius, sigma, dim = as_floats(radius, sigma, dim)

    def rest(freedom: jax.Array) -> jax.Array:
        square = radius**2 - freedom * sigma**2
        return jnp.sqrt(jnp.where(square > 0, square, 0.0))

    return rest(dim), rest(dim - 1)  # (4)


@float64_for_numbers
def curvature_shift(curvatures: ArrayLike, *, sigma: ArrayLike) -> _Numbers:
    """How far a smooth boundary moves inwards under little noise, at threshold 1/2.

    [host] for numbers and [device] for JAX arrays. sigma^2 / 2 times the sum of the
    principal curvatures, up to O(sigma^4): smoothing is a step of curvature flow.

    Args:
        curvatures: principal curvatures at the point, `[..., d - 1]`, positive where
            the region is convex, in one over the units of sigma.
        sigma: noise level, positive.

    Returns:
        Distances `[...]`, negative where the boundary moves outwards.

    Raises:
        ValueError: if a concrete sigma is not positive.

    Example:
        >>> print(f"{curvature_shift([1.0, 1.0], sigma=0.1):.4f}")  # the unit sphere
        0.0100

    Reference: ours, `docs/papers/hidden_cost.md`, "Any region".
    """
    _validate.positive(sigma=sigma)
    total, sigma = as_floats(np.sum(curvatures, axis=-1), sigma)
    return 0.5 * sigma**2 * total


@float64_for_numbers
def max_certified_quantile(*, num_samples: ArrayLike, alpha: ArrayLike) -> _Numbers:
    """The largest radius that samples can certify, in units of sigma.

    [host] for numbers and [device] for JAX arrays. It is reached where all samples
    agree: Phi^-1(alpha^(1/n)), Clopper-Pearson's bound at n of n.

    Args:
        num_samples: n, >= 1.
        alpha: failure probability, in (0, 1).

    Returns:
        Numbers of the broadcast shape; 0 where so few samples certify nothing.

    Raises:
        ValueError: if a concrete argument is out of range.

    Example:
        >>> print(f"{max_certified_quantile(num_samples=100_000, alpha=0.001):.10f}")
        3.8114565634

    Reference: Cohen, Rosenfeld and Kolter (2019), arXiv 1902.02918, section 3.2.
    """
    _check_samples(num_samples, alpha)
    num_samples, alpha = as_floats(num_samples, alpha)
    missing = -jnp.expm1(jnp.log(alpha) / num_samples)  # 1 - alpha^(1/n)
    return jnp.maximum(-ndtri(missing), 0.0)  # (5)


@float64_for_numbers
def min_sigma_for_radius(
    radius: ArrayLike, *, num_samples: ArrayLike, alpha: ArrayLike
) -> _Numbers:
    """Minimum noise level at which a radius can be certified at all.

    [host] for numbers and [device] for JAX arrays. The radius over
    `max_certified_quantile`: what makes a user raise sigma, and classes vanish.

    Args:
        radius: that is to be certified, positive, in input units.
        num_samples: noise samples for a certificate, >= 1.
        alpha: failure probability, in (0, 1).

    Returns:
        Noise levels of the broadcast shape; inf where so few samples certify nothing.

    Raises:
        ValueError: if a concrete argument is out of range.

    Example:
        >>> print(f"{min_sigma_for_radius(1.0, num_samples=100_000, alpha=1e-3):.4f}")
        0.2624

    Reference: ours.
    """
    _validate.positive(radius=radius)
    _check_samples(num_samples, alpha)
    radius, num_samples, alpha = as_floats(radius, num_samples, alpha)
    return radius / max_certified_quantile(num_samples=num_samples, alpha=alpha)


@float64_for_numbers
def best_center_certificate(
    radius: ArrayLike, *, dim: ArrayLike, num_samples: ArrayLike, alpha: ArrayLike
) -> CenterCertificate:
    """The largest radius that can be certified at the centre of a ball-shaped class.

    [host] for numbers and [device] for JAX arrays. More noise raises the cap that the
    samples set, until the class itself disappears: all n samples have to agree. In high
    dimensions it is about 3.8 R / sqrt(d), while the true robust radius is R.

    Args:
        radius: of the ball, positive.
        dim: number of dimensions, >= 1.
        num_samples: noise samples for a certificate, >= 1.
        alpha: failure probability, in (0, 1).

    Returns:
        The best noise level, and the certified radius there, exact class probabilities
        assumed.

    Raises:
        ValueError: if a concrete argument is out of range.

    Example:
        >>> best = best_center_certificate(1.0, dim=784, num_samples=10**5, alpha=1e-3)
        >>> print(f"{best.sigma:.8f} {best.radius:.8f}")
        0.03254688 0.12405102

    Reference: ours, `docs/papers/hidden_cost.md`, "Balls".
    """
    _check(radius, 1.0, dim)
    _check_samples(num_samples, alpha)
    radius, dim, num_samples, alpha = as_floats(radius, dim, num_samples, alpha)
    agreement = jnp.exp(jnp.log(alpha) / num_samples)
    sigma = ball_vanishing_sigma(radius, dim=dim, threshold=agreement)
    quantile = max_certified_quantile(num_samples=num_samples, alpha=alpha)
    return CenterCertificate(sigma, quantile * sigma)


def _check(
    radius: ArrayLike, sigma: ArrayLike, dim: ArrayLike, threshold: ArrayLike = 0.5
) -> None:
    _validate.positive(radius=radius, sigma=sigma)
    _validate.at_least(1, dim=dim)
    _validate.open_interval(0, 1, threshold=threshold)


def _check_samples(num_samples: ArrayLike, alpha: ArrayLike) -> None:
    _validate.at_least(1, num_samples=num_samples)
    _validate.open_interval(0, 1, alpha=alpha)
