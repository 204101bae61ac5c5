"""Bounds of softmax: the shares that exp(x) has of its sum.

Intervals alone lose that the same x stands on both sides. So a result may carry what it
is, `operations.About`, from its largest entry to the shares of a sum:

    largest(x), x - largest(x) <= 0, exp of that, a sum >= 1, shares in [0, 1].

Shares of few entries are computed from differences, without the largest entry,

    p_i = 1 / (1 + sum over j != i of exp(x_j - x_i)),

which falls in every difference: intervals of p are exact, and linear bounds have lines
of exp and of 1 / s to go through. Differences may be infinite, as those of masks are.
"""

import math
from collections.abc import Sequence
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from robustjax.bounds import ibp, operations
from robustjax.bounds.operations import (
    About,
    Add,
    Affine,
    Bounded,
    Interval,
    Narrowed,
)

_FEW = 64  # entries: every two of them have a difference
_MOST_DIFFERENCES = 2**17


def along(kind: str, result: Bounded, *, of: Bounded, axes: Any) -> Bounded:
    """A result as the largest entry, or the sum, of a value along axes. [host]."""
    return result._replace(about=About(kind, of.value, _in_order(axes), of.shape))


def moved(result: Bounded, argument: Bounded) -> Bounded:
    """What a result is that has the numbers of an argument, in their order. [host]."""
    about = argument.about
    if about is not None and result.shape in (_kept(about), _without(about)):
        return result._replace(about=about)
    return result


def difference(add: Add, result: Bounded, *, terms: Sequence[Any]) -> Bounded:
    """At most zero, where the largest entry of x itself is subtracted. [host]."""
    x, largest = terms
    about = _about(largest, "largest", x)
    if about is None:
        return result
    found = add(_within(-jnp.inf, 0.0), [result, result])
    below = About("below", found.value, about.axes, x.shape, source=x)
    return found._replace(about=below)


def exponential(result: Bounded, x: Bounded) -> Bounded:
    """Exponential of values that are <= 0, and 0 somewhere along the axes. [host]."""
    if x.about is None or x.about.kind != "below":
        return result
    return result._replace(about=x.about._replace(kind="peak", value=result.value))


def total(add: Add, result: Bounded, *, of: Bounded, axes: Any) -> Bounded:
    """At least one, where a value has an entry of one along the axes. [host]."""
    about = of.about
    if about is None or about.kind != "peak" or about.axes != _in_order(axes):
        return result
    found = add(_within(1.0, jnp.inf), [result, result])
    own = About("sum", of.value, _in_order(axes), of.shape, source=about.source)
    return found._replace(about=own)


def quotient(add: Add, result: Bounded, *, terms: Sequence[Any]) -> Bounded:
    """In [0, 1], where x is divided by its own sum. [host]."""
    x, sum_of_x = terms
    about = _about(sum_of_x, "sum", x)
    if about is None:
        return result
    if isinstance(about.source, Bounded) and len(about.axes) == 1:
        (axis,) = about.axes
        num_differences = math.prod(about.shape) * about.shape[axis]
        if about.shape[axis] <= _FEW and num_differences <= _MOST_DIFFERENCES:
            return _of_differences(add, about.source, axis)
    return add(_within(0.0, 1.0), [result, result])


def _of_differences(add: Add, x: Bounded, axis: int) -> Bounded:
    """The shares of few entries."""
    count = x.shape[axis]
    same = np.eye(count, dtype=bool).reshape(
        [count if k in (axis, axis + 1) else 1 for k in range(len(x.shape) + 1)]
    )

    def differences(others: jax.Array, own: jax.Array) -> jax.Array:
        apart = jnp.expand_dims(others, axis) - jnp.expand_dims(own, axis + 1)
        return jnp.where(same, 0.0, apart)

    def radius(others: jax.Array, own: jax.Array) -> jax.Array:
        return differences(others, -own)

    def total(terms: jax.Array) -> jax.Array:
        return jnp.sum(terms, axis=axis + 1)

    apart = Affine(differences, radius, is_linear=True, signs=(1, -1))
    terms = add(operations.for_name("exp"), [add(apart, [x, x])])
    whole = add(Affine(total, total, is_linear=True, signs=(1,)), [terms])
    shares = add(operations.for_name("reciprocal"), [whole])

    def bounds(of_x: Interval) -> Interval:
        low, high = of_x
        least = 1 / total(jnp.exp(differences(high, low)))
        most = 1 / total(jnp.exp(differences(low, high)))
        limits = jnp.finfo(low.dtype)
        slack = 4 * (count + 16) * limits.eps
        is_lost = jnp.any(ibp.is_unknown(of_x), axis=axis, keepdims=True)
        least = jnp.maximum(least * (1 - slack) - limits.tiny, 0.0)
        most = jnp.minimum(most * (1 + slack) + limits.tiny, 1.0)
        return jnp.where(is_lost, -jnp.inf, least), jnp.where(is_lost, jnp.inf, most)

    return add(Narrowed(bounds), [shares, x])


def _about(argument: Any, kind: str, x: Any) -> About | None:
    """What an argument is, if it is of that kind and of x.

    It lies along x: a primitive takes two arrays of one rank, or a scalar, so its shape
    is that of x with ones for the axes.
    """
    about = argument.about if isinstance(argument, Bounded) else None
    if about is None or not isinstance(x, Bounded):
        return None
    is_it = about.kind == kind and about.value == x.value
    return about if is_it else None


def _in_order(axes: Any) -> tuple[int, ...]:
    return tuple(sorted(int(axis) for axis in axes))


def _kept(about: About) -> tuple[int, ...]:
    return tuple(1 if k in about.axes else n for k, n in enumerate(about.shape))


def _without(about: About) -> tuple[int, ...]:
    return tuple(n for k, n in enumerate(about.shape) if k not in about.axes)


def _within(low: float, high: float) -> Narrowed:
    """A range in which a value lies if it is a number."""

    def bounds(of_result: Interval) -> Interval:
        return jnp.full_like(of_result[0], low), jnp.full_like(of_result[1], high)

    return Narrowed(bounds)
