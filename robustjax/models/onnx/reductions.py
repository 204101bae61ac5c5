"""Operators of ONNX that reduce axes.

The axes were an attribute before version 18 (of ReduceSum before 13), and are an input
since. Without any, all axes are reduced, or none if `noop_with_empty_axes` is 1.
"""

import math
from collections.abc import Callable, Sequence
from typing import Any

import jax
import jax.numpy as jnp
from jax import lax

from robustjax.models.onnx import shaping

_Rule = Callable[..., jax.Array]


def _reduction(function: _Rule, before: _Rule = lambda x: x) -> _Rule:
    """A rule from a function of an array, its axes and whether these are kept.

    Args:
        function: the reduction.
        before: what the operator is where no axis is reduced, of each number.
    """

    def apply(
        x: jax.Array,
        which: Any = None,
        *,
        axes: Sequence[int] | None = None,
        keepdims: int = 1,
        noop_with_empty_axes: int = 0,
    ) -> jax.Array:
        axes = axes if which is None else shaping.integers("axes", which)
        if not axes and noop_with_empty_axes:
            return before(x)
        axes = tuple(a % x.ndim for a in axes) if axes else tuple(range(x.ndim))
        return function(x, axes, keepdims=bool(keepdims))

    return apply


def _sum(x: jax.Array, axes: tuple[int, ...], *, keepdims: bool) -> jax.Array:
    return jnp.sum(x, axes, keepdims=keepdims, dtype=x.dtype)


def _mean(x: jax.Array, axes: tuple[int, ...], *, keepdims: bool) -> jax.Array:
    count = math.prod(x.shape[axis] for axis in axes)
    return _sum(x, axes, keepdims=keepdims) / jnp.asarray(count, x.dtype)


def _sum_of_squares(
    x: jax.Array, axes: tuple[int, ...], *, keepdims: bool
) -> jax.Array:
    return _sum(jnp.square(x), axes, keepdims=keepdims)


def _l1(x: jax.Array, axes: tuple[int, ...], *, keepdims: bool) -> jax.Array:
    return _sum(jnp.abs(x), axes, keepdims=keepdims)


def _l2(x: jax.Array, axes: tuple[int, ...], *, keepdims: bool) -> jax.Array:
    return jnp.sqrt(_sum_of_squares(x, axes, keepdims=keepdims))


def _log_sum(x: jax.Array, axes: tuple[int, ...], *, keepdims: bool) -> jax.Array:
    return jnp.log(_sum(x, axes, keepdims=keepdims))


def _log_sum_exp(x: jax.Array, axes: tuple[int, ...], *, keepdims: bool) -> jax.Array:
    return jax.nn.logsumexp(x, axes, keepdims=keepdims)


def _product(x: jax.Array, axes: tuple[int, ...], *, keepdims: bool) -> jax.Array:
    return jnp.prod(x, axes, keepdims=keepdims, dtype=x.dtype)


def _extremum(reduce: _Rule, of_booleans: _Rule) -> _Rule:
    """The largest or smallest entry; of no entry, the type's farthest number."""

    def apply(x: jax.Array, axes: tuple[int, ...], *, keepdims: bool) -> jax.Array:
        if x.dtype == bool:
            return of_booleans(x, axes, keepdims=keepdims)
        y = reduce(x, axes)
        return jnp.expand_dims(y, axes) if keepdims else y

    return apply


RULES: dict[str, _Rule] = {
    "ReduceL1": _reduction(_l1, jnp.abs),
    "ReduceL2": _reduction(_l2, jnp.abs),
    "ReduceLogSum": _reduction(_log_sum, jnp.log),
    "ReduceLogSumExp": _reduction(_log_sum_exp),
    "ReduceMax": _reduction(_extremum(lax.reduce_max, jnp.any)),
    "ReduceMean": _reduction(_mean),
    "ReduceMin": _reduction(_extremum(lax.reduce_min, jnp.all)),
    "ReduceProd": _reduction(_product),
    "ReduceSum": _reduction(_sum),
    "ReduceSumSquare": _reduction(_sum_of_squares, jnp.square),
}
