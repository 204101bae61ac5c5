"""Bounds of softmax and of its logarithms: the shares that exp(x) has of its sum.

Intervals alone lose that the same x stands on both sides. So a result may carry what it
is, `operations.About`, from its largest entry on,

    largest(x), x - largest(x) <= 0, exp of that, a sum >= 1, its logarithm,

and what these are put together to is computed from log-sum-exps, see `log_sums`,

    log sum_j exp(x_j),   log p_i = -log sum_j exp(x_j - x_i),   p_i = exp(log p_i),

without the largest entry. If there are many entries, not every two have a difference
and log p_i = x_i - log sum_j exp(x_j). Entries may be infinite, as those of masks are.
"""

import functools
import math
from collections.abc import Sequence
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from robustjax import _validate
from robustjax.bounds import ibp, operations
from robustjax.bounds.operations import (
    About,
    Add,
    Affine,
    Bounded,
    Interval,
    Narrowed,
)
from robustjax.bounds.rules.special import log_sums

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


def shift(result: Bounded, which: Bounded, cases: Sequence[Any]) -> Bounded:
    """The largest entry, or 0 where that is not finite. [host]."""
    zero, largest = cases
    if not isinstance(largest, Bounded) or isinstance(zero, Bounded):
        return result
    known, about = _validate.concrete(zero), largest.about
    is_it = which.about == About("finite", largest.value, (), largest.shape)
    if not is_it or about is None or about.kind != "largest":
        return result
    if known is None or np.any(known):
        return result
    return result._replace(about=about._replace(kind="shift"))


def difference(add: Add, result: Bounded, *, terms: Sequence[Any]) -> Bounded:
    """At most zero, where the largest entry of x itself is subtracted. [host]."""
    x, largest = terms
    shifted = _about(largest, "shift", x)
    if shifted is not None:
        kept = About("shifted", result.value, shifted.axes, x.shape, source=x)
        return result._replace(about=kept)
    about = _about(largest, "largest", x)
    if about is None:
        return _logarithm_of_share(add, result, terms)
    found = add(_within(-jnp.inf, 0.0), [result, result])
    below = About("below", found.value, about.axes, x.shape, source=x)
    return found._replace(about=below)


def exponential(result: Bounded, x: Bounded) -> Bounded:
    """Exponential of values that are <= 0, and 0 somewhere along the axes. [host]."""
    kinds = {"below": "peak", "shifted": "weight"}
    if x.about is None or x.about.kind not in kinds:
        return result
    own = x.about._replace(kind=kinds[x.about.kind], value=result.value)
    return result._replace(about=own)


def total(add: Add, result: Bounded, *, of: Bounded, axes: Any) -> Bounded:
    """At least one, where a value has an entry of one along the axes. [host]."""
    about = of.about
    if about is None or about.axes != _in_order(axes):
        return result
    if about.kind == "share":
        slack = log_sums.unit(math.prod(about.shape), result.dtype)
        return add(_within(1 - slack, 1 + slack), [result, result])
    if about.kind not in ("peak", "weight"):
        return result
    found = result
    if about.kind == "peak":
        found = add(_within(1.0, jnp.inf), [result, result])
    return found._replace(about=about._replace(kind="sum", value=of.value))


def is_sum(x: Bounded) -> bool:
    """Whether a value is a sum of exponentials, which is its absolute value. [host]."""
    return x.about is not None and x.about.kind == "sum"


def logarithm(result: Bounded, x: Bounded) -> Bounded:
    """Logarithm of a sum of exponentials. [host]."""
    if not is_sum(x):
        return result
    assert x.about is not None
    return result._replace(about=x.about._replace(kind="log of sum"))


def restored(add: Add, terms: Sequence[Any]) -> Bounded | None:
    """The log-sum-exp of x, where its largest entry is added again. [host]."""
    for logarithm, largest in (terms, terms[::-1]):
        about = logarithm.about if isinstance(logarithm, Bounded) else None
        if about is None or about.kind != "log of sum":
            continue
        other = largest.about if isinstance(largest, Bounded) else None
        if other is None or other.kind not in ("largest", "shift"):
            continue
        is_same = (other.value, other.axes) == (about.source.value, about.axes)
        if is_same and logarithm.shape == largest.shape:
            keepdims = logarithm.shape != _without(about)
            return log_sums.log_sum(add, about.source, about.axes, keepdims=keepdims)
    return None


def quotient(add: Add, result: Bounded, *, terms: Sequence[Any]) -> Bounded:
    """Shares in [0, 1] that sum to one, where x is divided by its own sum. [host]."""
    x, sum_of_x = terms
    about = _about(sum_of_x, "sum", x)
    if about is None:
        return result
    logarithms = _log_shares(add, about.source, about.axes)
    shares = add(operations.for_name("exp"), [logarithms])
    limits = functools.partial(_limits, about.axes)
    found = add(Narrowed(limits), [shares, shares])
    own = About("share", found.value, about.axes, about.shape)
    return found._replace(about=own)


def _logarithm_of_share(add: Add, result: Bounded, terms: Sequence[Any]) -> Bounded:
    """(x - largest) - log sum exp(x - largest) = log p."""
    x, logarithm = terms
    if not (isinstance(x, Bounded) and isinstance(logarithm, Bounded)):
        return result
    first, second = x.about, logarithm.about
    if first is None or first.kind not in ("below", "shifted"):
        return result
    if second is None or second.kind != "log of sum" or result.shape != x.shape:
        return result
    if (first.source.value, first.axes) != (second.source.value, second.axes):
        return result
    return _log_shares(add, first.source, first.axes)


def _log_shares(add: Add, x: Bounded, axes: tuple[int, ...]) -> Bounded:
    """The logarithms of shares, with intervals by the ends of all entries."""
    counts = [x.shape[axis] for axis in axes]
    num_differences = math.prod(x.shape) * counts[0]
    is_few = len(axes) == 1 and counts[0] <= _FEW
    if is_few and num_differences <= _MOST_DIFFERENCES:
        found = _of_differences(add, x, axes[0])
    else:
        whole = log_sums.log_sum(add, x, axes, keepdims=True)
        minus = Affine(_minus, jnp.add, is_linear=True, signs=(1, -1))
        found = add(minus, [x, whole])
    return add(Narrowed(functools.partial(_ends, axes)), [found, x])


def _of_differences(add: Add, x: Bounded, axis: int) -> Bounded:
    """The logarithms of shares of few entries."""
    count = x.shape[axis]
    same = np.eye(count, dtype=bool).reshape(
        [count if k in (axis, axis + 1) else 1 for k in range(len(x.shape) + 1)]
    )

    def differences(others: jax.Array, own: jax.Array) -> jax.Array:
        others, own = jnp.expand_dims(others, axis), jnp.expand_dims(own, axis + 1)
        are_masked = jnp.isneginf(others) & jnp.isneginf(own)
        return jnp.where(same | are_masked, 0.0, _minus(others, own))

    def radius(others: jax.Array, own: jax.Array) -> jax.Array:
        sums = jnp.expand_dims(others, axis) + jnp.expand_dims(own, axis + 1)
        return jnp.where(same, 0.0, sums)

    apart = Affine(differences, radius, is_linear=True, signs=(1, -1))
    apart_by = add(apart, [x, x])
    return log_sums.log_sum(add, apart_by, [axis + 1], keepdims=False, sign=-1)


def _minus(x: jax.Array, other: jax.Array) -> jax.Array:
    """X - other; NaN if one of them is +inf: then there are no shares."""
    is_lost = jnp.isposinf(x) | jnp.isposinf(other)
    return jnp.where(is_lost, jnp.nan, x - other)


def _ends(axes: tuple[int, ...], of_x: Interval) -> Interval:
    """Bounds of log p, which rises in its own entry and falls in all others.

    Where all entries may be -inf, or one +inf, there may be no shares.
    """
    low, high = of_x
    add_up = functools.partial(jnp.sum, axis=axes, keepdims=True)
    unit = log_sums.unit(math.prod(low.shape[axis] for axis in axes), low.dtype)
    limits = jnp.finfo(low.dtype)
    top = jnp.max(high, axis=axes, keepdims=True)
    least, most = jnp.exp(low - top), jnp.exp(high - top)
    all_least, all_most = add_up(least), add_up(most)
    others_most = jnp.maximum(all_most - most, 0.0) + unit * all_most + limits.tiny
    others_least = jnp.maximum(all_least - least - unit * all_least, 0.0)
    lower = low - top - jnp.log(others_most + least)
    upper = high - top - jnp.log(others_least + most)
    lower = lower - jnp.where(jnp.isfinite(lower), unit * (1 + jnp.abs(lower)), 0.0)
    upper = upper + jnp.where(jnp.isfinite(upper), unit * (1 + jnp.abs(upper)), 0.0)
    is_lost = jnp.any(ibp.is_unknown(of_x), axis=axes, keepdims=True)
    is_lost |= ~(jnp.isfinite(top) & (top > -limits.max))
    return (
        jnp.where(is_lost | jnp.isnan(lower), -jnp.inf, lower),
        jnp.where(is_lost, jnp.inf, jnp.fmin(upper, 0.0)),
    )


def _limits(axes: tuple[int, ...], of_shares: Interval) -> Interval:
    """In [0, 1], and what the others leave of one."""
    low, high = of_shares
    unit = log_sums.unit(math.prod(low.shape[axis] for axis in axes), low.dtype)
    others_low, others_high = (
        jnp.sum(side, axis=axes, keepdims=True) - side for side in (low, high)
    )
    return (
        jnp.fmax(1 - others_high - 4 * unit * (1 + jnp.abs(others_high)), 0.0),
        jnp.fmin(1 - others_low + 4 * unit * (1 + jnp.abs(others_low)), 1.0),
    )


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
