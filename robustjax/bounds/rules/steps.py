"""Rules of functions that jump: rounding, signs and remainders.

    floor, ceil, round, sign   rise, so bounds are the values at the ends,
    rem(x, c) = x - c trunc(x / c)   is a line where x / c has one whole part.

Near a jump, rounding may decide the side; intervals are moved outward there.
"""

import functools
from collections.abc import Callable, Sequence
from typing import Any

import jax
import jax.numpy as jnp

from robustjax.bounds import operations
from robustjax.bounds.operations import Add, Bounded, Elementwise, Interval, Lines
from robustjax.bounds.rules import affine


def _jumping(
    f: Callable[[jax.Array], jax.Array], lower: jax.Array, upper: jax.Array
) -> Interval:
    """Interval of an increasing step function, whose jumps rounding may shift."""
    low, high = operations.outward((lower, upper))
    return f(low), f(high)


for _name, _f in (("floor", jnp.floor), ("ceil", jnp.ceil), ("sign", jnp.sign)):
    operations.elementwise(
        _name, Elementwise(_name, _f, functools.partial(_jumping, _f))
    )


@operations.rule("round")
def _round(add: Add, bind: Callable[..., Any], arguments: Sequence[Any]) -> Bounded:
    """Rising, whichever way halves are rounded."""
    bounds = functools.partial(_jumping, bind)
    return add(Elementwise("round", bind, bounds), arguments)


@operations.rule("rem")
def _remainder(add: Add, bind: Any, arguments: Sequence[Any]) -> Bounded:
    """The remainder by a constant, of the sign of x."""
    x, divisor = arguments
    if isinstance(divisor, Bounded):
        raise operations.UnsupportedError(
            "Bounds cannot follow a remainder by what depends on the bounded input."
        )
    affine.check_floats(arguments)
    shape = jnp.broadcast_shapes(x.shape, jnp.shape(divisor))

    def point(x: jax.Array) -> jax.Array:
        return bind(x, jnp.broadcast_to(jnp.asarray(divisor, x.dtype), x.shape))

    def pieces(lower: jax.Array, upper: jax.Array) -> tuple[Any, Any, Any]:
        size = jnp.abs(jnp.broadcast_to(jnp.asarray(divisor, lower.dtype), lower.shape))
        low, high = operations.outward((lower, upper))
        first, last = jnp.trunc(low / size), jnp.trunc(high / size)
        return size, first, (first == last) & (size > 0) & (size < jnp.inf)

    def bounds(lower: jax.Array, upper: jax.Array) -> Interval:
        size, whole, is_one = pieces(lower, upper)
        slack = rounding(lower, upper)
        low = jnp.where(
            is_one, lower - whole * size - slack, jnp.where(lower < 0, -size, 0.0)
        )
        high = jnp.where(
            is_one, upper - whole * size + slack, jnp.where(upper > 0, size, 0.0)
        )
        is_defined = (size > 0) & (size < jnp.inf)
        return (
            jnp.where(is_defined, low, -jnp.inf),
            jnp.where(is_defined, high, jnp.inf),
        )

    def rounding(lower: jax.Array, upper: jax.Array) -> jax.Array:
        """What a difference of larger terms rounds; none in the first piece."""
        _, whole, _ = pieces(lower, upper)
        size = jnp.maximum(jnp.abs(lower), jnp.abs(upper))
        return jnp.where(whole == 0, 0.0, 8 * jnp.finfo(lower.dtype).eps * size)

    def lines(lower: jax.Array, upper: jax.Array, mix: jax.Array) -> Lines:
        del mix
        size, whole, is_one = pieces(lower, upper)
        slack = rounding(lower, upper)
        low, high = bounds(lower, upper)
        slope = is_one.astype(lower.dtype)
        return Lines(
            slope,
            jnp.where(is_one, -whole * size - slack, low),
            slope,
            jnp.where(is_one, -whole * size + slack, high),
        )

    operation = Elementwise("rem", point, bounds, lines)
    return add(operation, [affine.spread(add, x, shape)])
