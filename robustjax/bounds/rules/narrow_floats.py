"""Results in narrower floats than bounds have: bfloat16 and float16 inside of float32.

A result z in floats with the machine epsilon e, of the smallest normal number t, is

    |rounded(z) - z| <= e / 2 |z| + t,   nothing is known beyond the largest number.

Bounds themselves are computed in the floats of the box. Each operation rounds its
result once; matrix products and sums of narrow floats are accumulated in float32 at
least, as XLA does on CPUs, GPUs and TPUs.
"""

from collections.abc import Callable, Sequence
from typing import Any

import jax
import jax.numpy as jnp

from robustjax.bounds import operations
from robustjax.bounds.operations import Add, Bounded, Elementwise, Interval, Lines

_EXACT = (  # they give numbers that they are given, or small whole ones
    "abs", "broadcast_in_dim", "ceil", "clamp", "concatenate", "copy", "cummax",
    "cummin", "dynamic_slice", "dynamic_update_slice", "floor", "gather", "max", "min",
    "name", "neg", "optimization_barrier", "pad", "reduce_max", "reduce_min",
    "reduce_window_max", "reduce_window_min", "reshape", "rev", "round", "scatter",
    "select_n", "sharding_constraint", "sign", "slice", "sort", "split", "squeeze",
    "stack", "stop_gradient", "tile", "top_k", "transpose", "unstack",
)  # fmt: skip


def are_narrower(dtype: Any, wide: Any) -> bool:
    """Whether floats of a dtype hold less digits than those of another. [host]."""
    is_float = jnp.issubdtype(dtype, jnp.floating)
    return bool(is_float and jnp.finfo(dtype).eps > jnp.finfo(wide).eps)


def is_exact(equation: Any) -> bool:
    """Whether an equation of a jaxpr cannot round. [host]."""
    name = equation.primitive.name
    if name == "convert_element_type":
        return bool(equation.invars[0].aval.dtype == jnp.bool_)
    return name in _EXACT


def rounding_to(dtype: Any) -> Elementwise:
    """The rounding to floats of a dtype, either way. [host]."""
    limits = jnp.finfo(dtype)

    def point(x: jax.Array) -> jax.Array:
        return x.astype(dtype).astype(x.dtype)

    return _rounding(
        point, eps=float(limits.eps), tiny=float(limits.tiny), most=float(limits.max)
    )


@operations.rule("reduce_precision")
def _fewer_bits(add: Add, bind: Any, arguments: Sequence[Any]) -> Bounded:
    """The rounding to floats of fewer bits."""
    digits, exponents = bind.params["mantissa_bits"], bind.params["exponent_bits"]
    largest = 2 ** (exponents - 1) - 1
    own = _rounding(
        bind,
        eps=2.0**-digits,
        tiny=2.0 ** (1 - largest),
        most=(2 - 2.0**-digits) * 2.0**largest,
    )
    return add(own, arguments)


def _rounding(
    point: Callable[[jax.Array], jax.Array], *, eps: float, tiny: float, most: float
) -> Elementwise:
    share = eps / 2 * (1 + 2**-6)  # with what the bounds round

    def bounds(lower: jax.Array, upper: jax.Array) -> Interval:
        low = lower - share * jnp.abs(lower) - tiny
        high = upper + share * jnp.abs(upper) + tiny
        is_lost = (low < -most) | (high > most)
        return jnp.where(is_lost, -jnp.inf, low), jnp.where(is_lost, jnp.inf, high)

    def lines(lower: jax.Array, upper: jax.Array, mix: jax.Array) -> Lines:
        del mix
        low, high = bounds(lower, upper)
        side = jnp.where(lower >= 0, 1.0, jnp.where(upper <= 0, -1.0, 0.0))
        side = side.astype(lower.dtype)
        size = jnp.maximum(jnp.abs(lower), jnp.abs(upper))
        slack = jnp.where(side == 0, share * size, 0.0) + tiny
        is_lost = jnp.isinf(low) | jnp.isinf(high)
        return Lines(
            jnp.where(is_lost, 0.0, 1 - share * side),
            jnp.where(is_lost, -jnp.inf, -slack),
            jnp.where(is_lost, 0.0, 1 + share * side),
            jnp.where(is_lost, jnp.inf, slack),
        )

    return Elementwise("rounding", point, bounds, lines)
