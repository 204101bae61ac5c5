"""Rules of elementwise functions: exact interval bounds, and lines below and above.

For a convex f on [l, u], with p = l + mix (u - l),

    f(p) + f'(p) (x - p) <= f(x) <= s x + max(f(l) - s l, f(u) - s u),
    s = (f(u) - f(l)) / (u - l),

so rounding of the slope s of the secant cannot make the upper line wrong. For relu and
l < 0 < u the lower line is mix x. Concave functions are turned over.
"""

import functools
import math
from collections.abc import Callable, Sequence
from typing import Any

import jax
import jax.numpy as jnp

from robustjax.bounds import operations
from robustjax.bounds.operations import (
    Add,
    Bounded,
    Elementwise,
    Interval,
    Lines,
)
from robustjax.bounds.rules import affine, gates, normalizing, shares, sigmoidal

_Function = Callable[[jax.Array], jax.Array]
_Bounds = Callable[[jax.Array, jax.Array], Interval]
_Lines = Callable[[jax.Array, jax.Array, jax.Array], Lines]
MOST_POWER = 64
_TANGENT_STEPS = 30  # of the bisection for the tangent through an end


def _secant(f: _Function, lower: jax.Array, upper: jax.Array) -> tuple[Any, Any]:
    """A line above a convex function."""
    low, high = f(lower), f(upper)
    width = upper - lower
    is_wide = width > 0
    slope = jnp.where(is_wide, (high - low) / jnp.where(is_wide, width, 1.0), 0.0)
    lower, upper = (jnp.where(slope == 0, 0.0, v) for v in (lower, upper))  # may be inf
    return slope, jnp.maximum(low - slope * lower, high - slope * upper)


def _tangent(f: _Function, at: jax.Array) -> tuple[Any, Any]:
    value, slope = jax.jvp(f, (at,), (jnp.ones_like(at),))
    return slope, value - slope * at


def _between(lower: jax.Array, upper: jax.Array, mix: jax.Array) -> jax.Array:
    """A finite point of an interval: the width may be infinite, or overflow."""
    most = float(jnp.finfo(lower.dtype).max) / 4
    lower, upper = (jnp.clip(v, -most, most) for v in (lower, upper))
    return lower + mix * (upper - lower)


def _convex_lines(
    f: _Function, lower: jax.Array, upper: jax.Array, mix: jax.Array
) -> Lines:
    return Lines(*_tangent(f, _between(lower, upper, mix)), *_secant(f, lower, upper))


def convex(f: _Function) -> _Lines:
    """Lines of a convex function: a tangent below, the secant above. [host]."""
    return functools.partial(_convex_lines, f)


def concave(f: _Function, *, inner: float = 0.0) -> _Lines:
    """Lines of a concave function: the secant below, a tangent above. [host].

    Args:
        f: the function, elementwise.
        inner: the tangent touches at this share of the upper bound or above, where the
            slope at 0 is infinite.
    """

    def lines(lower: jax.Array, upper: jax.Array, mix: jax.Array) -> Lines:
        slope, offset = _secant(lambda x: -f(x), lower, upper)
        first = jnp.maximum(lower, inner * upper) if inner else lower
        return Lines(-slope, -offset, *_tangent(f, _between(first, upper, mix)))

    return lines


def rising(f: _Function) -> _Bounds:
    """Bounds of a rising function: its values at the ends. [host]."""
    return functools.partial(_rising, f)


def even(f: _Function) -> _Bounds:
    """Bounds of an even function that rises with the size of x. [host]."""
    return functools.partial(_even_bounds, f)


def s_shaped(name: str, f: _Function) -> Elementwise:
    """A rising f, convex below 0 and concave above, odd except for f(0). [host]."""
    lines = jax.jit(functools.partial(_s_shaped_lines, f))
    return Elementwise(name, f, rising(f), lines, is_finite=True)


def _rising(f: _Function, lower: jax.Array, upper: jax.Array) -> Interval:
    return f(lower), f(upper)


def _abs_bounds(lower: jax.Array, upper: jax.Array) -> Interval:
    ends = jnp.abs(lower), jnp.abs(upper)
    crosses = (lower < 0) & (upper > 0)
    return jnp.where(crosses, 0.0, jnp.minimum(*ends)), jnp.maximum(*ends)


def _abs_lines(lower: jax.Array, upper: jax.Array, mix: jax.Array) -> Lines:
    slope = jnp.where(lower >= 0, 1.0, jnp.where(upper <= 0, -1.0, 2 * mix - 1))
    slope = slope.astype(lower.dtype)
    return Lines(slope, jnp.zeros_like(slope), *_secant(jnp.abs, lower, upper))


def _s_shaped_lines(
    f: _Function, lower: jax.Array, upper: jax.Array, mix: jax.Array
) -> Lines:
    """Lines of an increasing f, convex below 0, concave above, odd except for f(0)."""
    middle = f(jnp.zeros((), lower.dtype))

    def turned(x: jax.Array) -> jax.Array:
        return 2 * middle - f(-x)  # f again, computed at -x

    above = _s_shaped_upper(f, lower, upper, mix)
    slope, offset = _s_shaped_upper(turned, -upper, -lower, mix)
    return Lines(slope, 2 * middle - offset, *above)


def _s_shaped_upper(
    f: _Function, lower: jax.Array, upper: jax.Array, mix: jax.Array
) -> tuple[Any, Any]:
    """A tangent right of zero that passes above the lower end, else the secant.

    The secant is right where f is convex, and where even the tangent at the upper end
    passes below the lower one. Elsewhere `mix` moves the tangent between the first
    point that will do and the upper end, and its offset covers rounding.
    """

    def misses(point: jax.Array) -> jax.Array:
        slope, offset = _tangent(f, point)
        return slope * lower + offset < f(lower)

    def halve(_: Any, bracket: Interval) -> Interval:
        left, right = bracket
        half = 0.5 * (left + right)
        short = misses(half)
        return jnp.where(short, half, left), jnp.where(short, right, half)

    left = jnp.maximum(lower, 0.0)
    right = jnp.maximum(upper, left)
    _, touching = jax.lax.fori_loop(0, _TANGENT_STEPS, halve, (left, right))
    first = jnp.where(lower >= 0, lower, touching)
    at = jnp.clip(_between(first, right, mix), first, right)
    slope, offset = _tangent(f, at)
    tangent = slope, jnp.maximum(offset, f(lower) - slope * lower)
    is_secant = (upper <= 0) | ((lower < 0) & misses(right))
    chosen = [
        jnp.where(is_secant, s, t)
        for s, t in zip(_secant(f, lower, upper), tangent, strict=True)
    ]
    return chosen[0], chosen[1]


def _register(primitive: str, f: _Function, lines: Any, bounds: Any = None) -> None:
    found = rising(f) if bounds is None else bounds
    operations.elementwise(primitive, Elementwise(primitive, f, found, lines))


def _larger_side(lower: jax.Array, upper: jax.Array) -> jax.Array:
    """1 where more of the interval lies above zero: minimum area between the lines."""
    return jnp.where(upper > -lower, 1.0, 0.0).astype(lower.dtype)


def at_least(constant: Any) -> Elementwise:
    """max(x, c) of a constant, which may be -inf. [host]."""

    def floor(x: jax.Array) -> jax.Array:
        return jax.lax.broadcast_to_rank(jnp.asarray(constant, x.dtype), x.ndim)

    def point(x: jax.Array) -> jax.Array:
        return jnp.maximum(x, floor(x))

    def lines(lower: jax.Array, upper: jax.Array, mix: jax.Array) -> Lines:
        least = floor(lower)
        slope = jnp.where(lower >= least, 1.0, jnp.where(upper <= least, 0.0, mix))
        slope = slope.astype(lower.dtype)
        offset = jnp.where(slope == 1, 0.0, (1 - slope) * least)
        return Lines(slope, offset, *_secant(point, lower, upper))

    def start(lower: jax.Array, upper: jax.Array) -> jax.Array:
        return _larger_side(lower - constant, upper - constant)

    def is_settled(lower: jax.Array, upper: jax.Array) -> jax.Array:
        return (lower >= constant) | (upper <= constant)

    bounds = rising(point)
    return Elementwise(
        "max",
        point,
        bounds,
        lines,
        start,
        is_settled,
        is_finite=True,
        breakpoint=constant,
    )


RELU = at_least(0.0)
EXP = Elementwise(
    "exp",
    jnp.exp,
    rising(jnp.exp),
    convex(jnp.exp),
)
_register("expm1", jnp.expm1, convex(jnp.expm1))
for _name, _f in (
    ("log1p", jnp.log1p),
    ("log2", jnp.log2),
):
    _register(_name, _f, concave(_f))


def _gate(
    operation: Elementwise, add: Add, bind: Any, arguments: Sequence[Any]
) -> Bounded:
    """A function that multiplies in SiLU and GELU."""
    found = add(operation, arguments)
    return gates.gated(found, arguments[0], gate=operation.name)


for _name, _f in (
    ("tanh", jnp.tanh),
    ("logistic", jax.nn.sigmoid),
    ("erf", jax.scipy.special.erf),
):
    operations.rule(_name)(functools.partial(_gate, s_shaped(_name, _f)))
_LOG = Elementwise("log", jnp.log, rising(jnp.log), concave(jnp.log))
_ABS = Elementwise(
    "abs",
    jnp.abs,
    _abs_bounds,
    _abs_lines,
    _larger_side,
    lambda lower, upper: (lower >= 0) | (upper <= 0),
    is_finite=True,
    breakpoint=0.0,
)


@operations.rule("log")
def _logarithm(add: Add, bind: Any, arguments: Sequence[Any]) -> Bounded:
    return shares.logarithm(add(_LOG, arguments), arguments[0])


@operations.rule("abs")
def _absolute(add: Add, bind: Any, arguments: Sequence[Any]) -> Bounded:
    (x,) = arguments
    return x if shares.is_sum(x) else add(_ABS, arguments)


def _of_function(f: Any, lines: Any) -> None:
    """A rising function of JAX that is made of comparisons inside."""
    operation = Elementwise(f.__name__, f, rising(f), lines(f))
    operations.function(f)(lambda add, _, arguments: add(operation, arguments))


SOFTPLUS = Elementwise(
    "softplus", jax.nn.softplus, rising(jax.nn.softplus), convex(jax.nn.softplus)
)
operations.function(jax.nn.softplus)(lambda add, _, arguments: add(SOFTPLUS, arguments))
_of_function(jax.nn.log_sigmoid, concave)
_ELU = Elementwise(
    "elu",
    jax.nn.elu,
    rising(jax.nn.elu),
    convex(jax.nn.elu),
)


@operations.function(jax.nn.leaky_relu)
def _leaky_relu(add: Add, called: Any, arguments: Sequence[Any]) -> Bounded | None:
    """The function s x + (1 - s) relu(x)."""
    below = _at_minus_one(called, arguments)
    return None if below is None else _bent(add, arguments[0], arguments[0], -below)


@operations.function(jax.nn.elu)
def _elu(add: Add, called: Any, arguments: Sequence[Any]) -> Bounded | None:
    """The function s elu(x) + (1 - s) relu(x), with the elu of slope one at zero."""
    below = _at_minus_one(called, arguments)
    if below is None:
        return None
    curve = add(_ELU, arguments[:1])
    return _bent(add, arguments[0], curve, below / jnp.expm1(-1.0))


def _at_minus_one(called: Any, arguments: Sequence[Any]) -> jax.Array | None:
    """What a function is at -1: it tells a slope that is hidden inside of a call.

    None if the slope depends on the bounded input.
    """
    x, *rest = arguments
    if any(isinstance(a, Bounded) for a in rest):
        return None
    return called(jnp.full(x.shape, -1.0, x.dtype), *rest)[0]


def _bent(add: Add, x: Bounded, curve: Bounded, slope: jax.Array) -> Bounded:
    parts = [
        affine.multiply(add, jnp.multiply, [part, weight])
        for part, weight in ((curve, slope), (add(RELU, [x]), 1 - slope))
    ]
    return affine.plus(add, jnp.add, parts)


def _even_bounds(f: _Function, lower: jax.Array, upper: jax.Array) -> Interval:
    low, high = _abs_bounds(lower, upper)
    return f(low), f(high)


def _square_bounds(lower: jax.Array, upper: jax.Array) -> Interval:
    low, high = _abs_bounds(lower, upper)
    return low * low, high * high


_SQUARE = Elementwise("square", jnp.square, _square_bounds, convex(jnp.square))
operations.named("square", _SQUARE)


@operations.rule("square")
def _square(add: Add, bind: Any, arguments: Sequence[Any]) -> Bounded:
    found = gates.powered(add(_SQUARE, arguments), arguments[0], power=2)
    return normalizing.squared(found, arguments[0])


@operations.rule("one_minus_square")
def _one_minus_square(add: Add, bind: Any, arguments: Sequence[Any]) -> Bounded:
    """1 - x^2: what JAX 0.12 has for the derivative of tanh."""
    return affine.subtract(add, jnp.subtract, [1.0, add(_SQUARE, arguments)])


def _falling_positive(f: _Function) -> Any:
    """Bounds of a function that falls on positive numbers; nothing is known beyond."""

    def bounds(lower: jax.Array, upper: jax.Array) -> Interval:
        is_positive = lower > 0
        return (
            jnp.where(is_positive, f(jnp.where(is_positive, upper, 1.0)), -jnp.inf),
            jnp.where(is_positive, f(jnp.where(is_positive, lower, 1.0)), jnp.inf),
        )

    return bounds


def _reciprocal_bounds(lower: jax.Array, upper: jax.Array) -> Interval:
    has_zero = (lower <= 0) & (upper >= 0)
    low, high = (jnp.where(has_zero, 1.0, v) for v in (lower, upper))
    return (
        jnp.where(has_zero, -jnp.inf, 1 / high),
        jnp.where(has_zero, jnp.inf, 1 / low),
    )


def _reciprocal_lines(lower: jax.Array, upper: jax.Array, mix: jax.Array) -> Lines:
    """Convex above zero, concave below, unknown around it."""
    is_negative = upper < 0
    has_zero = (lower <= 0) & (upper >= 0)
    low, high = (jnp.where(has_zero, 1.0, v) for v in (lower, upper))
    below = concave(jnp.reciprocal)(low, high, mix)
    above = convex(jnp.reciprocal)(low, high, mix)
    lines = Lines(
        *(jnp.where(is_negative, n, p) for n, p in zip(below, above, strict=True))
    )
    return Lines(
        jnp.where(has_zero, 0.0, lines.lower_slope),
        jnp.where(has_zero, -jnp.inf, lines.lower_offset),
        jnp.where(has_zero, 0.0, lines.upper_slope),
        jnp.where(has_zero, jnp.inf, lines.upper_offset),
    )


operations.named(
    "reciprocal",
    Elementwise("reciprocal", jnp.reciprocal, _reciprocal_bounds, _reciprocal_lines),
)
_SQRT = Elementwise("sqrt", jnp.sqrt, rising(jnp.sqrt), concave(jnp.sqrt))
_RSQRT = Elementwise(
    "rsqrt",
    jax.lax.rsqrt,
    _falling_positive(jax.lax.rsqrt),
    convex(jax.lax.rsqrt),
)


@operations.rule("sqrt", "rsqrt")
def _root(add: Add, bind: Any, arguments: Sequence[Any]) -> Bounded:
    is_inverse = bind is not None and bind.primitive.name == "rsqrt"
    found = add(_RSQRT if is_inverse else _SQRT, arguments)
    return normalizing.rooted(found, arguments[0], is_inverse=is_inverse)


operations.named("exp", EXP)


@operations.rule("exp")
def _exponential(add: Add, bind: Any, arguments: Sequence[Any]) -> Bounded:
    return shares.exponential(add(EXP, arguments), arguments[0])


@operations.rule("exp2")
def _power_of_two(add: Add, bind: Any, arguments: Sequence[Any]) -> Bounded:
    """exp(x ln 2), whose product is rounded, and by more where x is large."""
    scaled = affine.multiply(add, jnp.multiply, [arguments[0], math.log(2)])
    return add(EXP, [scaled])


@operations.rule("integer_pow")
def _integer_power(add: Add, bind: Any, arguments: Sequence[Any]) -> Bounded:
    return whole_power(add, arguments[0], power=bind.params["y"])


def whole_power(add: Add, x: Bounded, *, power: int) -> Bounded:
    """x^power of a whole number other than 0. [host].

    Raises:
        UnsupportedError: for 0 and for powers beyond 64, as each factor is rounded.
    """
    if power == 0 or abs(power) > MOST_POWER:
        raise operations.UnsupportedError(f"There is no rule for the power {power}.")
    if power < 0:
        inverse = add(operations.for_name("reciprocal"), [x])
        return inverse if power == -1 else whole_power(add, inverse, power=-power)
    if power == 1:
        return x
    if power == 2:
        return _square(add, None, [x])
    f = functools.partial(jax.lax.integer_pow, y=power)
    if power % 2 == 0:
        return add(Elementwise(f"power {power}", f, even(f), convex(f)), [x])
    lines = sigmoidal.bending_lines(f, bends=(0.0,))
    found = add(Elementwise(f"power {power}", f, rising(f), lines), [x])
    return gates.powered(found, x, power=power)
