"""Distribution functions and zeta functions, which rise or fall in each argument.

    P(a, x), Q(a, x)     regularised incomplete gamma functions, a > 0, x >= 0,
    I_x(a, b)            regularised incomplete beta function, a, b > 0, 0 <= x <= 1,
    zeta(s, q)           Hurwitz zeta function, s > 1, q > 0.

P rises in x and falls in a: it is the probability that a gamma variable G of shape a is
at most x, and adding an independent gamma variable to G adds to a. In the same way I_x
is that of a beta variable G / (G + H), which grows with G, of shape a, and shrinks with
H, of shape b. Each term of zeta(s, q) = q^-s + zeta(s, q + 1) is monotone on its own:
zeta(s, q + 1), the sum over k of (k + q + 1)^-s, falls in both arguments; q^-s is
extreme in a corner of the box, as s log q is bilinear in s and log q.

Reference:
    NIST Digital Library of Mathematical Functions, 8.2 (incomplete gamma), 8.17
    (incomplete beta) and 25.11 (Hurwitz zeta), https://dlmf.nist.gov.
"""

import functools
import itertools
from collections.abc import Callable, Sequence
from typing import Any

import jax
import jax.numpy as jnp

from robustjax.bounds import ibp, operations
from robustjax.bounds.operations import Add, Bounded, Interval, IntervalOnly
from robustjax.bounds.rules import affine

_ULPS = 256  # that JAX's values may be off, absolutely below one


def _intervals(arguments: Sequence[Any], given: Sequence[Interval]) -> list[Interval]:
    """One an argument: those that are given, and constants."""
    rest, dtype = iter(given), given[0][0].dtype
    return [
        next(rest) if isinstance(a, Bounded) else (jnp.asarray(a, dtype),) * 2
        for a in arguments
    ]


def _known(
    is_inside: jax.Array, given: Sequence[Interval], found: Interval
) -> Interval:
    """Bounds with what is rounded; nothing is known outside of a domain."""
    low, high = found
    eps = _ULPS * jnp.finfo(low.dtype).eps
    low, high = low - eps * (1 + jnp.abs(low)), high + eps * (1 + jnp.abs(high))
    is_lost = functools.reduce(jnp.logical_or, map(ibp.is_unknown, given), ~is_inside)
    return jnp.where(is_lost, -jnp.inf, low), jnp.where(is_lost, jnp.inf, high)


def _probability(*signs: int, is_inside: Callable[..., jax.Array]) -> Any:
    """A rule of a function with values in [0, 1].

    Args:
        signs: for each argument whether the function rises or falls in it.
        is_inside: of one interval an argument, whether it is in the domain.
    """

    def rule(add: Add, bind: Any, arguments: Sequence[Any]) -> Bounded:
        affine.check_floats(arguments)

        def bounds(*given: Interval) -> Interval:
            ends = _intervals(arguments, given)
            low = bind(*(e[s < 0] for e, s in zip(ends, signs, strict=True)))
            high = bind(*(e[s > 0] for e, s in zip(ends, signs, strict=True)))
            low, high = _known(is_inside(*ends), given, (low, high))
            is_known = low > -jnp.inf
            return (
                jnp.where(is_known, jnp.maximum(low, 0.0), low),
                jnp.where(is_known, jnp.minimum(high, 1.0), high),
            )

        point = affine.of_bounded(bind, arguments)
        return add(IntervalOnly(bind.primitive.name, point, bounds), arguments)

    return rule


def _of_gamma(a: Interval, x: Interval) -> jax.Array:
    return (a[0] > 0) & (x[0] >= 0)


def _of_beta(a: Interval, b: Interval, x: Interval) -> jax.Array:
    return (a[0] > 0) & (b[0] > 0) & (x[0] >= 0) & (x[1] <= 1)


operations.rule("igamma")(_probability(-1, 1, is_inside=_of_gamma))
operations.rule("igammac")(_probability(1, -1, is_inside=_of_gamma))
operations.rule("regularized_incomplete_beta")(
    _probability(-1, 1, 1, is_inside=_of_beta)
)


@operations.rule("zeta")
def _zeta(add: Add, bind: Any, arguments: Sequence[Any]) -> Bounded:
    """The sum of bounds of the first term and of the others."""
    affine.check_floats(arguments)

    def bounds(*given: Interval) -> Interval:
        s, q = _intervals(arguments, given)
        is_inside = (s[0] > 1) & (q[0] > 0)
        first = [jnp.power(b, -a) for a, b in itertools.product(s, q)]
        low = functools.reduce(jnp.minimum, first) + bind(s[1], q[1] + 1)
        high = functools.reduce(jnp.maximum, first) + bind(s[0], q[0] + 1)
        return _known(is_inside, given, (low, high))

    point = affine.of_bounded(bind, arguments)
    return add(IntervalOnly("zeta", point, bounds), arguments)
