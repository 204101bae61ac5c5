"""Bessel functions, polygamma functions and exponential integrals.

    exp(-|x|) I_0(x)    is even and falls with |x|,
    exp(-|x|) I_1(x)    is odd, rises up to a peak and falls behind it,
    I_0(x)              is even and convex,
    psi^(m)(x)          on x > 0, m >= 1, is (-1)^(m + 1) times a falling convex one,
    Ei(x)               falls on x < 0 and rises on x > 0,
    E_n(x)              falls on x > 0,
    exp(x^2) erfc(x)    falls, as does the inverse of erfc on [0, 2].

The first two from I_0' = I_1, I_1' = I_0 - I_1 / x and I_1 < I_0. The derivative of
exp(-x) I_1 has the sign of x / (1 + x) - r with r = I_1 / I_0, which solves r' = 1 -
r / x - r^2. Where the two are equal, r' - (x / (1 + x))' = (x - 1) / (1 + x)^2; so r,
which is the smaller one near zero, becomes the larger one once, behind x = 1. The
others are sums and integrals of positive terms that fall in x; exp(x^2) erfc(x) is a
multiple of the integral of exp(-t^2 - 2 t x) over t > 0.

Reference:
    NIST Digital Library of Mathematical Functions, 10.29 and 10.37 (Bessel functions),
    5.15 (polygamma functions), 6.2 and 8.19 (exponential integrals), 7.7 (erfc),
    https://dlmf.nist.gov.
"""

import functools
from collections.abc import Callable, Sequence
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jax.scipy import special

from robustjax import _validate
from robustjax.bounds import operations
from robustjax.bounds.operations import Add, Bounded, Elementwise, Interval, Lines
from robustjax.bounds.rules import affine, curves, elementwise

_PEAK = 1.5451534949757535  # of exp(-x) I_1(x)
_ORDERS = (1, 2, 3)  # of exponential integrals with a rule
_ULPS = 64  # that JAX's values may be off, absolutely below one
_Function = Callable[[jax.Array], jax.Array]


def _loose(interval: Interval) -> Interval:
    low, high = interval
    eps = _ULPS * jnp.finfo(low.dtype).eps
    return low - eps * (1 + jnp.abs(low)), high + eps * (1 + jnp.abs(high))


def _falling_sides(f: _Function, lower: jax.Array, upper: jax.Array) -> Interval:
    """Bounds of an even function that falls with the size of x."""
    low, high = elementwise.even(f)(lower, upper)
    return _loose((high, low))


def _peaked(f: _Function, lower: jax.Array, upper: jax.Array) -> Interval:
    """Bounds of an odd function that rises from its bottom at -p to its peak at p."""
    places = (lower, upper, *(jnp.clip(p, lower, upper) for p in (-_PEAK, _PEAK)))
    values = [f(x) for x in places]
    return _loose(
        (functools.reduce(jnp.minimum, values), functools.reduce(jnp.maximum, values))
    )


for _name, _f, _bounds in (
    ("bessel_i0e", special.i0e, _falling_sides),
    ("bessel_i1e", special.i1e, _peaked),
):
    operations.elementwise(
        _name, Elementwise(_name, _f, functools.partial(_bounds, _f))
    )
_I0 = Elementwise(
    "i0", special.i0, elementwise.even(special.i0), elementwise.convex(special.i0)
)
operations.function(jnp.i0)(lambda add, _, arguments: add(_I0, arguments))


@operations.rule("polygamma")
def _polygamma(add: Add, bind: Any, arguments: Sequence[Any]) -> Bounded:
    """Monotone for every order, and convex for odd ones: order 0 is digamma."""
    order, x = arguments
    if isinstance(order, Bounded):
        raise operations.UnsupportedError(
            "Bounds cannot follow an order that depends on the bounded input."
        )
    shape = jnp.broadcast_shapes(jnp.shape(order), x.shape)

    def orders(x: jax.Array) -> jax.Array:
        return jnp.broadcast_to(jnp.asarray(order, x.dtype), x.shape)

    def f(x: jax.Array) -> jax.Array:
        return bind(orders(x), x)

    def bounds(lower: jax.Array, upper: jax.Array) -> Interval:
        ends = f(lower), f(upper)
        return _loose((jnp.minimum(*ends), jnp.maximum(*ends)))

    def lines(lower: jax.Array, upper: jax.Array, mix: jax.Array) -> Lines:
        is_odd = orders(lower) % 2 == 1
        convex, concave = (
            shape(f)(lower, upper, mix)
            for shape in (elementwise.convex, elementwise.concave)
        )
        return Lines(
            *(jnp.where(is_odd, a, b) for a, b in zip(convex, concave, strict=True))
        )

    def is_inside(lower: jax.Array, upper: jax.Array) -> jax.Array:
        del upper
        number = orders(lower)
        return (lower > 0) & (number >= 0) & (number == jnp.floor(number))

    operation = Elementwise("polygamma", f, bounds, lines)
    spread = affine.spread(add, x, shape)
    return add(curves.on(is_inside, 1.0, operation), [spread])


def _expi_bounds(lower: jax.Array, upper: jax.Array) -> Interval:
    """Falling to -inf at zero, and rising from there."""
    ends = special.expi(lower), special.expi(upper)
    has_zero = (lower <= 0) & (upper >= 0)
    low, high = _loose((jnp.minimum(*ends), jnp.maximum(*ends)))
    return jnp.where(has_zero, -jnp.inf, low), high


_EXPI = Elementwise("expi", special.expi, _expi_bounds)
operations.function(special.expi)(lambda add, _, arguments: add(_EXPI, arguments))


def _of_order(order: float) -> Elementwise:
    f = functools.partial(special.expn, order)

    def bounds(lower: jax.Array, upper: jax.Array) -> Interval:
        is_inside = lower >= 0
        low, high = (f(jnp.where(is_inside, x, 1.0)) for x in (upper, lower))
        low, high = _loose((low, high))
        return (
            jnp.where(is_inside, low, -jnp.inf),
            jnp.where(is_inside, high, jnp.inf),
        )

    return Elementwise(f"expn {order}", f, bounds)


for _order in _ORDERS:
    _integral = _of_order(_order)
    operations.function(functools.partial(special.expn, _order))(
        lambda add, _, arguments, f=_integral: add(f, arguments)
    )


@operations.function(special.expn, name="_expn")
def _integral_of(add: Add, called: Any, arguments: Sequence[Any]) -> Bounded | None:
    """The integral of a constant order, which is an argument in JAX 0.12."""
    order, x = arguments
    known = None if isinstance(order, Bounded) else _validate.concrete(order)
    if known is None or known.size != 1 or float(known) not in _ORDERS:
        return None
    return add(_of_order(int(known)), [x])


_FALLING = {"erfcx": (-np.inf, np.inf), "erfcinv": (0.0, 2.0)}  # of JAX 0.12


def _falling_on(f: _Function, least: float, most: float) -> Elementwise:
    def bounds(lower: jax.Array, upper: jax.Array) -> Interval:
        is_inside = (lower >= least) & (upper <= most)
        low, high = _loose((f(upper), f(lower)))
        return (
            jnp.where(is_inside, low, -jnp.inf),
            jnp.where(is_inside, high, jnp.inf),
        )

    return Elementwise(f.__name__, f, bounds)


for _name, _ends in _FALLING.items():
    if hasattr(special, _name):
        _f = getattr(special, _name)
        _operation = _falling_on(_f, *_ends)
        operations.function(_f, name=f"_{_name}")(
            lambda add, _, arguments, f=_operation: add(f, arguments)
        )
