"""Log-sum-exps: planes for all entries together, in place of lines for each step.

For x in [l, u], numbers p >= 0 that sum to one, and any t > 0,

    sum_j p_j (x_j - log p_j) <= log sum_j exp(x_j)                                (1)
                              <= log t - 1 + sum_j (a_j x_j + b_j) / t,            (2)

(1) by Gibbs' inequality, with equality at x if p = softmax(x); (2) by the tangent of
the logarithm at t, above secants a_j x_j + b_j of the exponentials. We take p and t at
the point l + mix (u - l). Intervals are exact, as the function rises in every entry.

A node has one input, and one line for each of its entries. So the function becomes the
sum of n equal shares; the terms of (1) and (2) are their lines. A line bounds its share
only together with the others: nothing but the sum of all may take the shares.

Reference:
    Wei, Wu, Wu, Zhang, Chen, Weng and Daniel (2023), Convex Bounds on the Softmax
    Function with Applications to Robustness Verification, arXiv 2303.01713, for bounds
    of softmax by log-sum-exps. The planes are ours.
"""

import functools
import math
from collections.abc import Sequence

import jax
import jax.numpy as jnp

from robustjax.bounds import ibp
from robustjax.bounds.operations import (
    Add,
    Affine,
    Bounded,
    Elementwise,
    Interval,
    Lines,
)

_Axes = tuple[int, ...]  # counted from the last one


def log_sum(
    add: Add, x: Bounded, axes: Sequence[int], *, keepdims: bool, sign: int = 1
) -> Bounded:
    """Log sum exp(x) along axes, or its negative. [host].

    Args:
        add: appends an operation.
        x: the bounded value.
        axes: of x, along which exponentials are summed.
        keepdims: whether the axes stay, with one entry.
        sign: 1, or -1 for the negative.
    """
    behind = tuple(axis - len(x.shape) for axis in axes)
    count = math.prod(x.shape[axis] for axis in axes)

    def share(x: jax.Array) -> jax.Array:
        whole = jax.nn.logsumexp(x, axis=behind, keepdims=True)
        return jnp.broadcast_to(whole / count, x.shape)

    def total(shares: jax.Array) -> jax.Array:
        return sign * jnp.sum(shares, axis=behind, keepdims=keepdims)

    def total_radius(radii: jax.Array) -> jax.Array:
        return jnp.sum(radii, axis=behind, keepdims=keepdims)

    bounds = functools.partial(_bounds, behind, count)
    lines = functools.partial(_lines, behind, count)
    shares = add(Elementwise("share of log-sum-exp", share, bounds, lines), [x])
    summed = Affine(total, total_radius, is_linear=True, signs=(sign,))
    return add(summed, [shares])


def ends(interval: Interval, axes: _Axes, *, count: int) -> Interval:
    """Bounds of log sum exp(x) from those of x, with the axes kept. [device].

    Nothing is known where nothing is known of an entry.
    """
    is_lost = jnp.any(ibp.is_unknown(interval), axis=axes, keepdims=True)
    low, high = (jax.nn.logsumexp(x, axis=axes, keepdims=True) for x in interval)
    low = low - _slack(low, count=count)
    high = high + _slack(high, count=count)
    return jnp.where(is_lost, -jnp.inf, low), jnp.where(is_lost, jnp.inf, high)


def unit(count: int, dtype: jax.typing.DTypeLike) -> float:
    """Relative rounding error of a sum of `count` exponentials. [host]."""
    return (count + 16) * float(jnp.finfo(dtype).eps)


def _slack(value: jax.Array, *, count: int) -> jax.Array:
    size = jnp.where(jnp.isfinite(value), 1 + jnp.abs(value), 0.0)
    return unit(count, value.dtype) * size


def _bounds(axes: _Axes, count: int, lower: jax.Array, upper: jax.Array) -> Interval:
    low, high = ends((lower, upper), axes, count=count)
    return (
        jnp.broadcast_to(low / count, lower.shape),
        jnp.broadcast_to(high / count, lower.shape),
    )


def _lines(
    axes: _Axes, count: int, lower: jax.Array, upper: jax.Array, mix: jax.Array
) -> Lines:
    at = _between(lower, upper, mix)
    return Lines(
        *_gibbs(axes, count, at),
        *_secants(axes, count, lower, upper, at),
    )


def _between(lower: jax.Array, upper: jax.Array, mix: jax.Array) -> jax.Array:
    """Points l + mix (u - l); -inf for entries that may be so, as those of masks."""
    has_lower, has_upper = jnp.isfinite(lower), jnp.isfinite(upper)
    low = jnp.where(has_lower, lower, 0.0)
    high = jnp.where(has_upper, upper, low)
    at = (1 - mix) * low + mix * high  # the width may overflow
    return jnp.where(has_lower, at, -jnp.inf)


def _gibbs(axes: _Axes, count: int, at: jax.Array) -> tuple[jax.Array, jax.Array]:
    """Terms of (1), tangent at a point."""
    top = jnp.max(at, axis=axes, keepdims=True)
    is_known = jnp.isfinite(top)
    below = at - jnp.where(is_known, top, 0.0)
    parts = jnp.exp(below)
    whole = jnp.sum(parts, axis=axes, keepdims=True)
    share = parts / whole  # sums to one, however large the numbers are
    own = jnp.where(share > 0, below, 0.0)
    offset = share * (jnp.log(whole) - own)
    size = share * jnp.where(share > 0, jnp.abs(at), 0.0)
    slack = unit(count, at.dtype) * (jnp.abs(offset) + size + 1 / count)
    return (
        jnp.where(is_known, share, 0.0),
        jnp.where(is_known, offset - slack, -jnp.inf),
    )


def _secants(
    axes: _Axes, count: int, lower: jax.Array, upper: jax.Array, at: jax.Array
) -> tuple[jax.Array, jax.Array]:
    """Terms of (2) for x - max u, with t the sum of the secants at a point."""
    top = jnp.max(upper, axis=axes, keepdims=True)
    lower, upper, at = lower - top, upper - top, at - top
    low, high = jnp.exp(lower), jnp.exp(upper)
    width = upper - lower
    is_wide = (width > 0) & jnp.isfinite(width)
    slope = jnp.where(is_wide, (high - low) / jnp.where(is_wide, width, 1.0), 0.0)
    # A slope of zero is that of an end which may be infinite.
    left, right, middle = (
        slope * jnp.where(slope == 0, 0.0, x) for x in (lower, upper, at)
    )
    height = jnp.maximum(low - left, high - right)
    value = height + middle
    t = jnp.sum(value, axis=axes, keepdims=True)
    offset = (height - slope * top + value * (top + jnp.log(t) - 1)) / t
    size = (jnp.abs(left) + (slope + jnp.abs(value)) * (1 + jnp.abs(top))) / t
    slack = unit(count, at.dtype) * (jnp.abs(offset) + size + 1 / count)
    is_known = jnp.isfinite(top) & (t > jnp.finfo(at.dtype).tiny)
    is_known &= jnp.all(jnp.isfinite(offset + slope / t), axis=axes, keepdims=True)
    return (
        jnp.where(is_known, slope / t, 0.0),
        jnp.where(is_known, offset + slack, jnp.inf),
    )
