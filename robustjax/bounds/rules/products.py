"""Rules of products along an axis, and of running log-sum-exps.

    prod(x) = (x_1 x_2) (x_3 x_4) ...,   running: p_k = p_{k-1} x_k,

pair by pair where there are few, with planes for each pair; of many only intervals are
known. A running log-sum-exp rises in every entry.
"""

from collections.abc import Sequence
from typing import Any

import jax
import jax.numpy as jnp

from robustjax.bounds import ibp, operations
from robustjax.bounds.operations import Add, Bounded, Interval, IntervalOnly
from robustjax.bounds.rules import affine, ordering

_FEW = 16  # factors


def _of_intervals(first: Interval, second: Interval) -> Interval:
    low, high = _loose(*ibp.product(first, second))
    unknown = ibp.is_unknown(first) | ibp.is_unknown(second)
    return jnp.where(unknown, -jnp.inf, low), jnp.where(unknown, jnp.inf, high)


def _loose(low: jax.Array, high: jax.Array) -> Interval:
    """Bounds with what a product, or a logarithm near zero, rounds."""
    limits = jnp.finfo(low.dtype)
    size = jnp.maximum(jnp.abs(low), jnp.abs(high))
    slack = jnp.where(jnp.isfinite(size), 4 * limits.eps * size + limits.tiny, 0.0)
    return low - slack, high + slack


@operations.rule("reduce_prod")
def _reduce_product(add: Add, bind: Any, arguments: Sequence[Any]) -> Bounded:
    (x,) = arguments
    affine.check_floats(arguments)
    axes = sorted(bind.params["axes"], reverse=True)
    if 0 in x.shape or max(x.shape[axis] for axis in axes) > _FEW:
        return add(IntervalOnly("reduce_prod", bind, _reduced(axes)), arguments)
    for axis in axes:
        factors = affine.slices(add, x, axis=axis)
        while len(factors) > 1:
            rest = factors[len(factors) // 2 * 2 :]
            pairs = zip(factors[::2], factors[1::2], strict=False)
            factors = [affine.multiply(add, jnp.multiply, pair) for pair in pairs]
            factors += rest
        x = factors[0]
    return x


def _reduced(axes: Sequence[int]) -> Any:
    def bounds(ends: Interval) -> Interval:
        low, high = ends
        for axis in axes:
            running = jax.lax.associative_scan(_of_intervals, (low, high), axis=axis)
            low, high = (
                jax.lax.index_in_dim(end, -1, axis, keepdims=False) for end in running
            )
        return low, high

    return bounds


@operations.rule("cumprod")
def _running_product(add: Add, bind: Any, arguments: Sequence[Any]) -> Bounded:
    (x,) = arguments
    affine.check_floats(arguments)
    axis, is_reversed = bind.params["axis"], bind.params["reverse"]
    if x.shape[axis] > _FEW or 0 in x.shape:

        def bounds(ends: Interval) -> Interval:
            return jax.lax.associative_scan(
                _of_intervals, ends, axis=axis, reverse=is_reversed
            )

        return add(IntervalOnly("cumprod", bind, bounds), arguments)
    factors = affine.slices(add, x, axis=axis)
    if is_reversed:
        factors = factors[::-1]
    products = [factors[0]]
    for factor in factors[1:]:
        pair = [products[-1], factor]
        products.append(affine.multiply(add, jnp.multiply, pair))
    return affine.stacked(add, products[::-1] if is_reversed else products, axis=axis)


@operations.rule("polynomial")
def _polynomial(add: Add, bind: Any, arguments: Sequence[Any]) -> Bounded:
    """Horner's scheme, from the highest coefficient down: JAX 0.12 has a primitive."""
    x, *coefficients = arguments
    found = coefficients[-1]
    for coefficient in coefficients[-2::-1]:
        scaled = affine.multiply(add, jnp.multiply, [found, x])
        found = affine.plus(add, jnp.add, [scaled, coefficient])
    return found


@operations.rule("cumlogsumexp")
def _running_log_sum(add: Add, bind: Any, arguments: Sequence[Any]) -> Bounded:
    in_order = ordering.in_order(bind)

    def bounds(ends: Interval) -> Interval:
        low, high = _loose(*in_order(ends))
        slack = 4 * arguments[0].shape[bind.params["axis"]] * jnp.finfo(low.dtype).eps
        return low - slack, high + slack

    return add(IntervalOnly("cumlogsumexp", bind, bounds), arguments)
