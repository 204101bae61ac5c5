"""Gaussian smoothing of boxes, slabs, half-spaces and regions of the line.

    p(x) = prod_j (Phi((upper_j - x_j) / sigma) - Phi((lower_j - x_j) / sigma)),   (1)
    sigma_0 = -h / Phi^-1((1 - tau^(1/d)) / 2)   for a cube of half side h.        (2)

A box factors into intervals. Sides may be infinite: one finite pair is a slab, one
finite end a half-space, whose boundary no noise moves.
"""

import jax
import jax.numpy as jnp
import numpy as np
from jax.scipy.special import ndtr, ndtri
from jax.typing import ArrayLike

from robustjax import _validate
from robustjax._precision import as_floats, float64_for_numbers

_Numbers = jax.Array | np.ndarray
_BEYOND = 40.0  # standard deviations: the tails are 0 and 1 here


@float64_for_numbers
def box_class_probability(
    x: ArrayLike, *, lower: ArrayLike, upper: ArrayLike, sigma: ArrayLike
) -> _Numbers:
    """Probability that Gaussian noise ends inside a box with axis-parallel sides.

    [host] for numbers, which are computed in float64, and [device] (pure, jittable,
    vmappable, differentiable) for JAX arrays, which keep their dtype. Its logarithm is
    concave in x.

    Args:
        x: points `[..., d]`.
        lower: lower ends of the sides, `[..., d]`; -inf for none.
        upper: upper ends, `[..., d]`; inf for none.
        sigma: noise level, positive, a number or `[...]`.

    Returns:
        Probabilities `[...]`; 0 where a lower end is above its upper one.

    Raises:
        ValueError: if a concrete sigma is not positive.

    Example:
        >>> inside = box_class_probability([0.0, 5.0], lower=[-1, -np.inf],
        ...                                upper=[1, np.inf], sigma=1.0)
        >>> print(f"{inside:.6f}")  # a slab
        0.682689

    Reference: elementary.
    """
    _validate.positive(sigma=sigma)
    expand_dims = jnp.expand_dims if isinstance(sigma, jax.Array) else np.expand_dims
    x, lower, upper, sigma = as_floats(x, lower, upper, expand_dims(sigma, -1))
    mass = _interval_mass(_scaled(lower, x, sigma), _scaled(upper, x, sigma))
    return jnp.prod(jnp.maximum(mass, 0.0), axis=-1)  # (1)


@float64_for_numbers
def cube_vanishing_sigma(
    half_side: ArrayLike, *, dim: ArrayLike, threshold: ArrayLike = 0.5
) -> _Numbers:
    """Noise level beyond which a class inside a cube reaches the threshold nowhere.

    [host] for numbers and [device] for JAX arrays. It falls with the logarithm of the
    dimension only: a cube is much larger than its inscribed ball.

    Args:
        half_side: half the side of the cube, positive.
        dim: number of dimensions, >= 1.
        threshold: probability that the class needs, as in `smoothed_ball_radius`.

    Returns:
        Noise levels of the broadcast shape.

    Raises:
        ValueError: if a concrete argument is out of range.

    Example:
        >>> print(f"{cube_vanishing_sigma(1.0, dim=10):.10f}")
        0.5458827010

    Reference: ours, `docs/papers/hidden_cost.md`, "Boxes and the line".
    """
    _validate.positive(half_side=half_side)
    _validate.at_least(1, dim=dim)
    _validate.open_interval(0, 1, threshold=threshold)
    half_side, dim, threshold = as_floats(half_side, dim, threshold)
    miss = -0.5 * jnp.expm1(jnp.log(threshold) / dim)  # one side: (1 - tau^(1/d)) / 2
    return -half_side / ndtri(miss)  # (2)


@float64_for_numbers
def half_space_class_probability(distance: ArrayLike, *, sigma: ArrayLike) -> _Numbers:
    """Probability that Gaussian noise stays on the own side of a plane.

    [host] for numbers and [device] for JAX arrays. 1/2 on the plane for every sigma:
    the boundary of a half-space does not move.

    Args:
        distance: signed distance from the plane, positive inside.
        sigma: noise level, positive.

    Returns:
        Probabilities of the broadcast shape.

    Raises:
        ValueError: if a concrete sigma is not positive.

    Example:
        >>> print(half_space_class_probability(0.0, sigma=3.0))
        0.5

    Reference: elementary.
    """
    _validate.positive(sigma=sigma)
    distance, sigma = as_floats(distance, sigma)
    return ndtr(distance / sigma)


@float64_for_numbers
def line_class_probabilities(
    x: ArrayLike,
    *,
    cuts: ArrayLike,
    labels: ArrayLike,
    num_classes: int,
    sigma: ArrayLike,
) -> _Numbers:
    """Class probabilities of a classifier of the line that is constant between cuts.

    [host] for numbers and [device] for JAX arrays. The smallest world in which
    plurality and majority differ: between two neighbours of other classes, a class is
    the most likely one for longer than it is the likely one.

    Args:
        x: points `[...]`.
        cuts: increasing, `[m]`.
        labels: classes of the m + 1 intervals, integers in [0, num_classes).
        num_classes: number of classes, >= 2.
        sigma: noise level, positive.

    Returns:
        Probabilities `[..., num_classes]` that add up to one.

    Raises:
        ValueError: if the numbers of cuts and labels do not fit, cuts do not increase,
            or another argument is out of range.

    Example:
        >>> p = line_class_probabilities(0.5, cuts=[-1.0, 0.5, 2.0],
        ...                              labels=[0, 1, 2, 0], num_classes=3, sigma=1.0)
        >>> print(p.round(4))
        [0.1336 0.4332 0.4332]

    Reference: elementary.
    """
    _validate.positive(sigma=sigma)
    _validate.integer(2, num_classes=num_classes)
    _check_line(cuts, labels, num_classes)
    x, sigma = as_floats(x, sigma)
    ends = jnp.pad(jnp.asarray(cuts, x.dtype), 1, constant_values=(-jnp.inf, jnp.inf))
    scaled = _scaled(ends, x[..., None], sigma[..., None])
    mass = _interval_mass(scaled[..., :-1], scaled[..., 1:])
    own = jax.nn.one_hot(jnp.asarray(labels), num_classes, dtype=x.dtype)
    return jnp.matmul(mass, own, precision=jax.lax.Precision.HIGHEST)


def _check_line(cuts: ArrayLike, labels: ArrayLike, num_classes: int) -> None:
    if np.ndim(cuts) != 1 or np.shape(labels) != (np.shape(cuts)[0] + 1,):
        raise ValueError(
            "Expected cuts [m] and one more label, got shapes "
            f"{np.shape(cuts)} and {np.shape(labels)}."
        )
    known = _validate.concrete(cuts)
    if known is not None and not (np.diff(known) > 0).all():
        raise ValueError(f"Expected cuts to increase, got {cuts}.")
    _validate.labels(num_classes, labels=labels)


def _scaled(end: jax.Array, x: jax.Array, sigma: jax.Array) -> jax.Array:
    """(end - x) / sigma; a constant for infinite ends, so that derivatives are 0."""
    end, x, sigma = jnp.broadcast_arrays(end, x, sigma)
    is_finite = jnp.isfinite(end)
    scaled = (jnp.where(is_finite, end, 0.0) - x) / sigma
    return jnp.where(is_finite, scaled, _BEYOND * jnp.sign(end))


def _interval_mass(low: jax.Array, high: jax.Array) -> jax.Array:
    """Phi(high) - Phi(low), from the tail where it does not cancel."""
    is_right = low > 0
    return jnp.where(is_right, ndtr(-low) - ndtr(-high), ndtr(high) - ndtr(low))
