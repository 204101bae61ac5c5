"""Gaussian smoothing of a decision region that is a circular cone.

For half-angle theta in d dimensions, a point t below the apex and rho from the axis,
and a threshold tau, in units of sigma,

    p(t, rho) = E[F_{d-1}(tan(theta)^2 max(t + u, 0)^2; rho^2)],   u ~ N(0, 1),   (1)
    t* = sigma s with p(s, 0) = tau.                                              (2)

A class whose region lies inside the cone reaches tau only deeper than t*: narrow
regions recede, the faster the higher the dimension, for tau = 1/2 by about
sigma cot(theta) sqrt(d). They never vanish.
"""

import functools
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jax.scipy.special import ndtr, ndtri
from jax.typing import ArrayLike

from robustjax import _validate, special
from robustjax._precision import as_floats, float64_for_numbers
from robustjax.special.normal import normal_pdf

_Numbers = jax.Array | np.ndarray
_REACH = 8.5  # standard deviations that the rule reaches out
_NODES, _WEIGHTS = np.polynomial.legendre.leggauss(96)
_MAX_STEPS = 60  # of Newton's method; 6 are usual


@float64_for_numbers
def cone_class_probability(
    depth: ArrayLike,
    *,
    offset: ArrayLike = 0.0,
    half_angle: ArrayLike,
    sigma: ArrayLike,
    dim: ArrayLike,
) -> _Numbers:
    """Probability that Gaussian noise ends inside a circular cone, elementwise.

    [host] for numbers, which are computed in float64, and [device] (pure, jittable,
    vmappable, differentiable in depth, offset, half_angle and sigma) for JAX arrays,
    which keep their dtype. With 96 Gauss-Legendre nodes, over the noise along the axis
    for narrow cones and over that across it for wide ones; absolute error below 1e-10
    in float64, 1e-5 in float32.

    Args:
        depth: of the point below the apex along the axis; negative outside.
        offset: distance of the point from the axis, >= 0.
        half_angle: between the axis and the boundary, radians, in (0, pi / 2).
        sigma: noise level, positive, in the units of depth.
        dim: number of dimensions, >= 2.

    Returns:
        Probabilities of the broadcast shape.

    Raises:
        ValueError: if a concrete argument is out of range.

    Example:
        >>> p = cone_class_probability(2.0, offset=0.5, half_angle=np.pi / 6, sigma=1.0,
        ...                            dim=2)
        >>> print(f"{p:.10f}")
        0.6420759269

    Reference: ours, `docs/papers/hidden_cost.md`, "Cones"; in the spirit of Mohapatra,
        Ko, Weng, Chen, Liu and Daniel (2021), Hidden Cost of Randomized Smoothing,
        arXiv 2003.01249.
    """
    _check(half_angle, sigma, dim)
    _validate.at_least(0, offset=offset)
    depth, offset, angle, sigma, dim = as_floats(depth, offset, half_angle, sigma, dim)
    return _probability(depth / sigma, offset / sigma, angle, dim)


@float64_for_numbers
def cone_apex_shift(
    half_angle: ArrayLike,
    *,
    sigma: ArrayLike,
    dim: ArrayLike,
    threshold: ArrayLike = 0.5,
) -> _Numbers:
    """Depth below the apex of a cone at which its class reaches the threshold.

    [host] for numbers, which are computed in float64, and [device] (pure, jittable,
    vmappable, differentiable in half_angle, sigma and threshold) for JAX arrays.

    Guarantee:
        A class whose region lies inside such a cone reaches the threshold nowhere above
        this depth, on the axis or off it.

    Args:
        half_angle: between the axis and the boundary, radians, in (0, pi / 2).
        sigma: noise level, positive; the shift is proportional to it.
        dim: number of dimensions, >= 2.
        threshold: probability that the class needs, as in `smoothed_ball_radius`.

    Returns:
        Depths of the broadcast shape, in the units of sigma; negative where a small
        threshold lets the region grow beyond the apex.

    Raises:
        ValueError: if a concrete argument is out of range.

    Example:
        >>> print(f"{cone_apex_shift(np.pi / 6, sigma=1.0, dim=3072):.6f}")
        95.974997

    Reference: ours, `docs/papers/hidden_cost.md`, "Cones"; in the spirit of Mohapatra
        et al. (2021), arXiv 2003.01249.
    """
    _check(half_angle, sigma, dim)
    _validate.open_interval(0, 1, threshold=threshold)
    angle, sigma, dim, threshold = as_floats(half_angle, sigma, dim, threshold)
    return sigma * _apex_shift(threshold, angle, dim)  # (2)


def _check(half_angle: ArrayLike, sigma: ArrayLike, dim: ArrayLike) -> None:
    _validate.open_interval(0, np.pi / 2, half_angle=half_angle)
    _validate.positive(sigma=sigma)
    _validate.at_least(2, dim=dim)


@jax.jit
def _probability(
    depth: jax.Array, offset: jax.Array, angle: jax.Array, dim: jax.Array
) -> jax.Array:
    """The probability for sigma = 1."""
    is_narrow = angle < np.pi / 4
    narrow = _over_axis(depth, offset, jnp.where(is_narrow, angle, 0.5), dim)
    wide = _over_cross_section(depth, offset, jnp.where(is_narrow, 1.0, angle), dim)
    return jnp.where(is_narrow, narrow, wide)


def _over_axis(
    depth: jax.Array, offset: jax.Array, angle: jax.Array, dim: jax.Array
) -> jax.Array:
    """The integral over u along the axis of phi(u) P(|across| <= tan (depth + u))."""
    low = jnp.clip(-depth, -_REACH, _REACH)
    u, weight = _gauss_legendre(low, jnp.full_like(low, _REACH))
    reach = jnp.tan(angle)[..., None] * jnp.maximum(depth[..., None] + u, 0.0)
    inside = special.ncx2_cdf(
        reach**2, dim[..., None] - 1, jnp.square(offset)[..., None]
    )
    return jnp.sum(weight * normal_pdf(u) * inside, axis=-1)  # (1)


def _over_cross_section(
    depth: jax.Array, offset: jax.Array, angle: jax.Array, dim: jax.Array
) -> jax.Array:
    """The integral over the distance w from the axis of f(w) Phi(depth - w cot)."""
    freedom = dim - 1
    middle = jnp.sqrt(freedom + offset**2)
    low = jnp.maximum(middle - _REACH, 0.0)
    w, weight = _gauss_legendre(low, middle + _REACH)
    density = (
        2
        * w
        * special.ncx2_pdf(w**2, freedom[..., None], jnp.square(offset)[..., None])
    )
    inside = ndtr(depth[..., None] - w / jnp.tan(angle)[..., None])
    return jnp.sum(weight * density * inside, axis=-1)


def _gauss_legendre(low: jax.Array, high: jax.Array) -> tuple[jax.Array, jax.Array]:
    """Nodes and weights `[..., 96]` between the ends."""
    half = 0.5 * (high - low)[..., None]
    ones = (1,) * low.ndim
    nodes, weights = (
        jnp.asarray(v, low.dtype).reshape(*ones, -1) for v in (_NODES, _WEIGHTS)
    )
    return low[..., None] + half * (1 + nodes), half * weights


@jax.custom_jvp
@jax.jit
def _apex_shift(threshold: jax.Array, angle: jax.Array, dim: jax.Array) -> jax.Array:
    """Newton's method on ndtri(probability), which is concave in the depth (Ehrhard).

    A step that leaves the bracket is replaced by a bisection.
    """
    score = ndtri(threshold)
    cotangent = 1 / jnp.tan(angle)
    tolerance = 64 * jnp.finfo(threshold.dtype).eps

    def advance(state: Any) -> Any:
        depth, low, high, _, count = state
        p, slope = _with_slope(depth, angle, dim)
        own = jnp.clip(ndtri(p), -_REACH, _REACH)
        is_shallow = own < score
        low = jnp.where(is_shallow, depth, low)
        high = jnp.where(is_shallow, high, depth)
        new = depth + (score - own) * normal_pdf(own) / jnp.maximum(slope, 1e-30)
        new = jnp.where((low <= new) & (new <= high), new, 0.5 * (low + high))
        change = jnp.nan_to_num(jnp.abs(new - depth) / (1 + jnp.abs(depth)))
        return new, low, high, jnp.max(change, initial=0.0), count + 1

    def goes_on(state: Any) -> jax.Array:
        return (state[3] > tolerance) & (state[4] < _MAX_STEPS)

    # The cone lies in a half-space, so the depth is above the score. At `high`, noise
    # along and across the axis miss with at most (1 - threshold) / 2 each, since
    # P(chi_k > sqrt(k) + b) <= exp(-b^2 / 2). The start takes sqrt(d - 5/3) for the
    # distance from the axis, nearly its median, and 1/2 for its variance.
    half_miss = 0.5 * (1 - threshold)
    beyond = jnp.sqrt(-2 * jnp.log(half_miss))
    high = cotangent * (jnp.sqrt(dim - 1) + beyond) - ndtri(half_miss)
    spread = jnp.sqrt(1 + 0.5 * cotangent**2)
    start = jnp.clip(cotangent * jnp.sqrt(dim - 5 / 3) + score * spread, score, high)
    first = (start, score, high, jnp.asarray(jnp.inf, start.dtype), jnp.int32(0))
    return jax.lax.while_loop(goes_on, advance, first)[0]


@_apex_shift.defjvp
def _apex_shift_jvp(primals: Any, tangents: Any) -> tuple[jax.Array, jax.Array]:
    _, angle, dim = primals
    depth = _apex_shift(*primals)
    _, slope = _with_slope(depth, angle, dim)
    across = functools.partial(_probability, depth, jnp.zeros_like(depth), dim=dim)
    _, by_angle = jax.jvp(lambda a: across(angle=a), (angle,), (tangents[1],))
    return depth, (tangents[0] - by_angle) / slope


def _with_slope(
    depth: jax.Array, angle: jax.Array, dim: jax.Array
) -> tuple[jax.Array, jax.Array]:
    """The probability on the axis and its derivative in the depth."""

    def on_axis(t: jax.Array) -> jax.Array:
        return _probability(t, jnp.zeros_like(t), angle, dim)

    return jax.jvp(on_axis, (depth,), (jnp.ones_like(depth),))
