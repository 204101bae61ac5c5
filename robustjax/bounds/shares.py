"""Bounds of softmax: exp(x - max x) has a largest entry of one.

Intervals alone lose that the same x stands on both sides. So a result may carry what it
is, `operations.About`, from its largest entry to the shares of a sum:

    largest(x), x - largest(x) <= 0, exp of that, a sum >= 1, shares in [0, 1].
"""

from collections.abc import Sequence
from typing import Any

import jax.numpy as jnp

from robustjax.bounds.operations import About, Add, Bounded, Interval, Narrowed


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
    return found._replace(about=About("below", found.value, about.axes, x.shape))


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
    return along("sum", found, of=of, axes=axes)


def quotient(add: Add, result: Bounded, *, terms: Sequence[Any]) -> Bounded:
    """In [0, 1], where x is divided by its own sum. [host]."""
    x, sum_of_x = terms
    if _about(sum_of_x, "sum", x) is None:
        return result
    return add(_within(0.0, 1.0), [result, result])


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
