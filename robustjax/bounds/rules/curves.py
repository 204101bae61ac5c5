"""Rules of smooth functions with a shape of their own, some on a part of the line.

Where a function is not defined, nothing is known. On its domain it is one of

    s-shaped     rising, convex below 0 and concave above: atan, asinh, -erfc,
    bending      rising with other bends, between parallel lines: sinh, asin, atanh,
                 erf_inv, tan, cbrt,
    convex or concave:   cosh, acosh, log gamma, digamma, x^y for a constant y.

The others are made of these: acos(x) = pi / 2 - asin(x), x^y = exp(y log x),

    hypot(x, y) = sqrt(x^2 + y^2),   log(exp(x) + exp(y)) = y + softplus(x - y),

and a function that is linear between knots, less any line, is extreme at a knot or at
an end of the interval.
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
from robustjax.bounds.operations import (
    Add,
    Bounded,
    Elementwise,
    Interval,
    IntervalOnly,
    Lines,
    Narrowed,
)
from robustjax.bounds.rules import affine, elementwise, gates, sigmoidal

_Function = Callable[[jax.Array], jax.Array]
_Domain = Callable[[jax.Array, jax.Array], jax.Array]
_LGAMMA_LEAST = 1.461632144968362341  # where digamma is zero


def on(is_inside: _Domain, safe: float, operation: Elementwise) -> Elementwise:
    """A function on a part of the line; elsewhere nothing is known of it. [host].

    Args:
        is_inside: of lower and upper bounds, whether the interval is in the domain.
        safe: a point of the domain.
        operation: on the domain.
    """

    def bounds(lower: jax.Array, upper: jax.Array) -> Interval:
        known = is_inside(lower, upper)
        low, high = operation.bounds(*_moved(known, lower, upper))
        return jnp.where(known, low, -jnp.inf), jnp.where(known, high, jnp.inf)

    def lines(lower: jax.Array, upper: jax.Array, mix: jax.Array) -> Lines:
        assert operation.lines is not None
        known = is_inside(lower, upper)
        found = operation.lines(*_moved(known, lower, upper), mix)
        nothing = (0.0, -jnp.inf, 0.0, jnp.inf)
        return Lines(
            *(jnp.where(known, v, n) for v, n in zip(found, nothing, strict=True))
        )

    def _moved(known: jax.Array, lower: jax.Array, upper: jax.Array) -> Interval:
        return jnp.where(known, lower, safe), jnp.where(known, upper, safe)

    return operation._replace(bounds=bounds, lines=lines, is_finite=False)


def _above(least: float) -> _Domain:
    return lambda lower, upper: lower > least


def _within(least: float, most: float) -> _Domain:
    return lambda lower, upper: (lower >= least) & (upper <= most)


def _bending(name: str, f: _Function) -> Elementwise:
    lines = sigmoidal.bending_lines(f, bends=(0.0,))
    return Elementwise(name, f, elementwise.rising(f), lines)


def _concave(name: str, f: _Function) -> Elementwise:
    return Elementwise(name, f, elementwise.rising(f), elementwise.concave(f))


for _name, _f in (("atan", jnp.arctan), ("asinh", jnp.arcsinh)):
    operations.elementwise(_name, elementwise.s_shaped(_name, _f))
for _name, _f in (("sinh", jnp.sinh), ("cbrt", jnp.cbrt)):
    operations.elementwise(_name, _bending(_name, _f))
for _name, _f in (
    ("asin", jnp.arcsin),
    ("atanh", jnp.arctanh),
    ("erf_inv", jax.lax.erf_inv),
):
    operations.elementwise(_name, on(_within(-1.0, 1.0), 0.0, _bending(_name, _f)))
_QUANTILE = Elementwise(
    "ndtri",
    special.ndtri,
    elementwise.rising(special.ndtri),
    sigmoidal.bending_lines(special.ndtri, bends=(0.5,)),
)
_QUANTILE = on(_within(0.0, 1.0), 0.5, _QUANTILE)
operations.function(special.ndtri, name="_ndtri")(  # of JAX 0.12
    lambda add, _, arguments: add(_QUANTILE, arguments)
)
operations.elementwise("acosh", on(_above(1.0), 2.0, _concave("acosh", jnp.arccosh)))


def _loosened(bounds: Callable[..., Interval]) -> Callable[..., Interval]:
    """Bounds of a function whose values are right to an absolute error near a zero."""

    def moved(lower: jax.Array, upper: jax.Array) -> Interval:
        low, high = bounds(lower, upper)
        slack = 16 * jnp.finfo(lower.dtype).eps
        return low - slack, high + slack

    return moved


def _lgamma_bounds(lower: jax.Array, upper: jax.Array) -> Interval:
    ends = jax.lax.lgamma(lower), jax.lax.lgamma(upper)
    bottom = jax.lax.lgamma(jnp.clip(_LGAMMA_LEAST, lower, upper))
    return jnp.minimum(jnp.minimum(*ends), bottom), jnp.maximum(*ends)


for _smooth in (
    _concave("digamma", jax.lax.digamma),
    Elementwise(
        "lgamma", jax.lax.lgamma, _lgamma_bounds, elementwise.convex(jax.lax.lgamma)
    ),
):
    _loose = _smooth._replace(bounds=_loosened(_smooth.bounds))
    operations.elementwise(_smooth.name, on(_above(0.0), 1.0, _loose))
operations.elementwise(
    "cosh",
    Elementwise(
        "cosh", jnp.cosh, elementwise.even(jnp.cosh), elementwise.convex(jnp.cosh)
    ),
)


def _is_first_branch(lower: jax.Array, upper: jax.Array) -> jax.Array:
    slack = 8 * jnp.finfo(lower.dtype).eps
    return (lower > -jnp.pi / 2 + slack) & (upper < jnp.pi / 2 - slack)


operations.elementwise("tan", on(_is_first_branch, 0.0, _bending("tan", jnp.tan)))


@operations.rule("acos")
def _arccosine(add: Add, bind: Any, arguments: Sequence[Any]) -> Bounded:
    """acos(x) = pi / 2 - asin(x)."""
    rule = operations.for_primitive("asin")
    assert rule is not None
    return affine.subtract(add, jnp.subtract, [jnp.pi / 2, rule(add, bind, arguments)])


_ERFC_TURNED = elementwise.s_shaped("erfc", lambda x: jax.lax.erfc(-x))


@operations.rule("erfc")
def _complement(add: Add, bind: Any, arguments: Sequence[Any]) -> Bounded:
    """erfc(x) = f(-x) of an s-shaped f, which keeps the digits of its tail."""
    found = add(_ERFC_TURNED, [affine.negate(add, jnp.negative, arguments)])
    return gates.gated(found, arguments[0], gate="erfc")


@operations.rule("atan2")
def _angle(add: Add, bind: Any, arguments: Sequence[Any]) -> Bounded:
    """The angle of a box that does not meet the cut is extreme in a corner."""

    def bounds(*intervals: Interval) -> Interval:
        rest = iter(intervals)
        y, x = (
            next(rest) if isinstance(a, Bounded) else (jnp.asarray(a), jnp.asarray(a))
            for a in arguments
        )
        corners = [bind(*jnp.broadcast_arrays(a, b)) for a in y for b in x]
        low = functools.reduce(jnp.minimum, corners)
        high = functools.reduce(jnp.maximum, corners)
        is_cut = (y[0] <= 0) & (y[1] >= 0) & (x[0] <= 0)
        half = jnp.asarray(jnp.pi, low.dtype) * (1 + jnp.finfo(low.dtype).eps)
        return jnp.where(is_cut, -half, low), jnp.where(is_cut, half, high)

    shape = jnp.broadcast_shapes(*(jnp.shape(_shape_of(a)) for a in arguments))
    spread = [
        affine.spread(add, a, shape) if isinstance(a, Bounded) else a for a in arguments
    ]
    return add(IntervalOnly("atan2", affine.of_bounded(bind, spread), bounds), spread)


def _shape_of(argument: Any) -> Any:
    return np.empty(argument.shape) if isinstance(argument, Bounded) else argument


@operations.rule("pow")
def _power(add: Add, bind: Any, arguments: Sequence[Any]) -> Bounded:
    """x^y of a constant y by its shape on x >= 0, others as exp(y log x)."""
    base, exponent = arguments
    if not isinstance(exponent, Bounded):
        known = _validate.concrete(exponent)
        if known is not None and known.size and np.all(known == known.flat[0]):
            whole = float(known.flat[0])
            if whole.is_integer() and 0 < abs(whole) <= elementwise.MOST_POWER:
                return elementwise.whole_power(add, base, power=int(whole))
        shape = jnp.broadcast_shapes(base.shape, jnp.shape(exponent))
        return add(_power_of(exponent), [affine.spread(add, base, shape)])
    logarithm: Any = None
    if isinstance(base, Bounded):
        rule = operations.for_primitive("log")
        assert rule is not None
        logarithm = rule(add, bind, [base])
    else:
        logarithm = jnp.log(base)
    scaled = affine.multiply(add, jnp.multiply, [exponent, logarithm])
    return add(elementwise.EXP, [scaled])


def _power_of(exponent: Any) -> Elementwise:
    """x^y on x >= 0 (x > 0 for y < 0), convex unless 0 < y < 1, then concave."""

    def exponents(x: jax.Array) -> jax.Array:
        return jnp.broadcast_to(jnp.asarray(exponent, x.dtype), x.shape)

    def power(x: jax.Array) -> jax.Array:
        return jnp.power(x, exponents(x))

    def bounds(lower: jax.Array, upper: jax.Array) -> Interval:
        ends = power(lower), power(upper)
        return jnp.minimum(*ends), jnp.maximum(*ends)

    def lines(lower: jax.Array, upper: jax.Array, mix: jax.Array) -> Lines:
        y = exponents(lower)
        is_convex = (y <= 0) | (y >= 1)
        shapes = [
            shape(lower, upper, mix)
            for shape in (
                elementwise.convex(power),
                elementwise.concave(power, inner=1e-6),  # roots have no slope at 0
            )
        ]
        return Lines(
            *(jnp.where(is_convex, a, b) for a, b in zip(*shapes, strict=True))
        )

    def is_inside(lower: jax.Array, upper: jax.Array) -> jax.Array:
        del upper
        return (lower > 0) | ((lower >= 0) & (exponents(lower) >= 0))

    return on(is_inside, 1.0, Elementwise("pow", power, bounds, lines))


def _as_arrays(add: Add, arguments: Sequence[Any]) -> list[Any] | None:
    """Bounded floats and constants in one shape; None for counts."""
    bounded = [a for a in arguments if isinstance(a, Bounded)]
    if not all(jnp.issubdtype(a.dtype, jnp.floating) for a in bounded):
        return None
    shape = jnp.broadcast_shapes(*(jnp.shape(_shape_of(a)) for a in arguments))
    return [
        affine.spread(add, a, shape)
        if isinstance(a, Bounded)
        else jnp.broadcast_to(jnp.asarray(a, bounded[0].dtype), shape)
        for a in arguments
    ]


def _corners(
    f: Callable[..., jax.Array], arguments: Sequence[Any], given: Sequence[Interval]
) -> Interval:
    """A function that rises in all arguments, at their lower and upper bounds."""
    low, high = (
        affine.of_bounded(f, arguments)(*(x[side] for x in given)) for side in (0, 1)
    )
    slack = 16 * jnp.finfo(low.dtype).eps
    return low - slack * jnp.abs(low), high + slack * jnp.abs(high)


@operations.function(jnp.hypot)
def _hypotenuse(add: Add, called: Any, arguments: Sequence[Any]) -> Bounded | None:
    sides = _as_arrays(add, arguments)
    if sides is None:
        return None
    squares = [
        affine.multiply(add, jnp.multiply, [side, side])
        if isinstance(side, Bounded)
        else jnp.square(side)
        for side in sides
    ]
    root: Any = operations.for_primitive("sqrt")
    found = root(add, None, [affine.plus(add, jnp.add, squares)])

    def bounds(*given: Interval) -> Interval:
        sizes = [elementwise.even(_same)(*x) for x in given]
        lengths = [s if isinstance(s, Bounded) else jnp.abs(s) for s in sides]
        return _corners(jnp.hypot, lengths, sizes)

    return add(Narrowed(bounds), [found, *sides])


def _same(x: jax.Array) -> jax.Array:
    return x


@operations.function(jnp.logaddexp)
def _log_of_two(add: Add, called: Any, arguments: Sequence[Any]) -> Bounded | None:
    terms = _as_arrays(add, arguments)
    if terms is None:
        return None
    # A constant may be -inf: the other one is subtracted from it.
    x, y = terms if isinstance(terms[1], Bounded) else terms[::-1]
    excess = add(elementwise.SOFTPLUS, [affine.subtract(add, jnp.subtract, [x, y])])
    found = affine.plus(add, jnp.add, [y, excess])

    def bounds(*given: Interval) -> Interval:
        return _corners(jnp.logaddexp, terms, given)

    return add(Narrowed(bounds), [found, *terms])


_MOST_KNOTS = 256


@operations.function(jnp.interp, name="_interp")
def _between_knots(add: Add, called: Any, arguments: Sequence[Any]) -> Bounded | None:
    """Constant knots and values; constant beyond the ends."""
    x, *constants = arguments
    if not isinstance(x, Bounded) or len(constants) != 2:
        return None
    if any(isinstance(a, Bounded) for a in constants):
        return None
    knots, values = map(jnp.asarray, constants)
    if not 1 < knots.size <= _MOST_KNOTS:
        return None
    is_defined = jnp.all(jnp.diff(knots) > 1e-6) & jnp.all(jnp.isfinite(values))
    edge = jnp.full_like(knots[:1], jnp.inf)
    places = jnp.concatenate([-edge, knots, edge])

    def f(x: jax.Array) -> jax.Array:
        return jnp.interp(x, knots.astype(x.dtype), values.astype(x.dtype))

    def excess(
        slope: jax.Array, lower: jax.Array, upper: jax.Array
    ) -> tuple[jax.Array, jax.Array]:
        """Extremes of f(x) - slope x, with what is rounded."""
        shape = (*lower.shape, len(places))
        low, high, own, at = (
            jnp.broadcast_to(v, shape)
            for v in (
                lower[..., None], upper[..., None], slope[..., None],
                places.astype(lower.dtype),
            )
        )  # fmt: skip
        at = jnp.clip(at, low, high)
        steep = own * jnp.where(own == 0, 0.0, at)
        heights = f(at) - steep
        most = jnp.max(jnp.abs(steep), axis=-1) + jnp.max(jnp.abs(values))
        slack = 16 * jnp.finfo(lower.dtype).eps * most
        return (
            jnp.where(is_defined, jnp.min(heights, axis=-1) - slack, -jnp.inf),
            jnp.where(is_defined, jnp.max(heights, axis=-1) + slack, jnp.inf),
        )

    def bounds(lower: jax.Array, upper: jax.Array) -> Interval:
        return excess(jnp.zeros_like(lower), lower, upper)

    def lines(lower: jax.Array, upper: jax.Array, mix: jax.Array) -> Lines:
        del mix
        width = upper - lower
        is_wide = (width > 0) & jnp.isfinite(width)
        slope = (f(upper) - f(lower)) / jnp.where(is_wide, width, 1.0)
        slope = jnp.where(is_wide, slope, 0.0)
        low, high = excess(slope, lower, upper)
        return Lines(slope, low, slope, high)

    return add(Elementwise("interp", f, bounds, lines), [x])
