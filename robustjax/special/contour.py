r"""Contour quadrature of the noncentral chi-square distribution.

With t = 1 / (1 - 2 s), the Laplace inversion of its moment generating function along
t = exp(v(theta) + i theta) is

    tail = 1 / (2 pi) int_{-pi}^{pi} exp(E) (1 - i v') / (t - 1) dtheta,
    E = (nc t + x / t) / 2 + (df / 2) log t - (nc + x) / 2,

the upper tail if v(0) > 0, minus the lower one if v(0) < 0. On the steepest path the
integrand is a bell of width 1 / sqrt(S), S^2 = (df / 2)^2 + nc x, for all df and nc. A
midpoint rule of one size therefore serves from df = 2 to millions.

Reference:
    Laplace inversion on a steepest path is classical; this path, its clearance of the
    pole and the cancellation-free exponent are ours.
"""

import math
from typing import NamedTuple

import jax
import jax.numpy as jnp

_SMALL_DF = 10.0  # below it the bell has heavier tails


class Tail(NamedTuple):
    """One tail of the distribution and its density, both times exp(-log_scale)."""

    is_upper: jax.Array
    tail: jax.Array
    density: jax.Array
    log_scale: jax.Array


class _Rule(NamedTuple):
    num_nodes: int
    reach: float  # of the nodes, in widths of the bell
    clearance: float  # of the path from the pole, in widths


_FLOAT32 = _Rule(48, 6.0, 1.0)
_FLOAT64 = _Rule(64, 8.6, 1.2)
_FLOAT64_SMALL_DF = _Rule(200, 14.0, 1.2)


def integrate(x: jax.Array, df: jax.Array, nc: jax.Array, *, excess: jax.Array) -> Tail:
    """A tail and the density at x > 0, for df >= 2 and nc >= 0. [device].

    Args:
        x: where, of any shape.
        df: degrees of freedom, of the shape and dtype of x.
        nc: noncentrality, of the shape and dtype of x.
        excess: x - nc - df, of the shape and dtype of x; an argument, since callers may
            know it more exactly than a difference of rounded numbers.

    Returns:
        The tail beyond x as seen from the mean, with the density.
    """
    arguments = (x, df, nc, excess)
    if jnp.finfo(x.dtype).bits <= 32:
        return _midpoint_rule(*arguments, rule=_FLOAT32)
    return jax.lax.cond(
        jnp.all(df >= _SMALL_DF),
        lambda *given: _midpoint_rule(*given, rule=_FLOAT64),
        lambda *given: _midpoint_rule(*given, rule=_FLOAT64_SMALL_DF),
        *arguments,
    )


def _midpoint_rule(
    x: jax.Array, df: jax.Array, nc: jax.Array, excess: jax.Array, *, rule: _Rule
) -> Tail:
    half = 0.5 * df
    sharpness = jnp.sqrt(half * half + nc * x)  # S
    width = jax.lax.rsqrt(sharpness)
    span = jnp.minimum(jnp.pi, rule.reach * width)
    middle = (jnp.arange(rule.num_nodes, dtype=x.dtype) + 0.5) / rule.num_nodes
    theta = span[..., None] * jnp.expand_dims(middle, tuple(range(x.ndim)))
    shift = _crossing(x, half, sharpness, excess)
    is_upper = shift > 0
    clear = jnp.maximum(jnp.abs(shift), rule.clearance * width)
    shift = jax.lax.stop_gradient(jnp.where(is_upper, clear, -clear))
    x, half, nc, excess, sharpness, shift = (
        value[..., None] for value in (x, half, nc, excess, sharpness, shift)
    )
    sin, cos = jnp.sin(theta), jnp.cos(theta)
    haversine = jnp.sin(0.5 * theta) ** 2

    # The path t = exp(v + i theta).
    turn = half * theta / sin
    root = jnp.sqrt(turn * turn + nc * x)
    v = shift + jnp.log((half + sharpness) / (turn + root))
    slope = -half * (sin - theta * cos) / (sin * sin) / root
    length = jnp.exp(v)

    # E, and the largest of its real parts apart.
    real = (
        0.5 * (nc * _exp_rest(v) + x * _exp_rest(-v) - excess * v)
        - (nc * length + x / length) * haversine
    )
    imaginary = 0.5 * (nc * jnp.expm1(v) - x * jnp.expm1(-v) - excess) * sin
    imaginary += half * (theta - sin)
    log_scale = jnp.max(real, axis=-1, keepdims=True)
    size = jnp.exp(real - log_scale)

    # exp(i Im E) (1 - i v'), over t - 1 for the tail, over t for the density.
    along = jnp.cos(imaginary) + slope * jnp.sin(imaginary)
    across = jnp.sin(imaginary) - slope * jnp.cos(imaginary)
    pole = jnp.expm1(v) - 2 * length * haversine, length * sin
    over_pole = (along * pole[0] + across * pole[1]) / (pole[0] ** 2 + pole[1] ** 2)
    over_t = (along * cos + across * sin) / length
    step = span / (math.pi * rule.num_nodes)
    return Tail(
        is_upper,
        step * jnp.sum(size * over_pole, axis=-1),
        0.5 * step * jnp.sum(size * over_t, axis=-1),
        log_scale[..., 0],
    )


def _crossing(
    x: jax.Array, half: jax.Array, sharpness: jax.Array, excess: jax.Array
) -> jax.Array:
    """Logarithm of t where the steepest path meets the real axis."""
    return jnp.where(
        x > half,
        jnp.log1p(x * excess / ((x - half + sharpness) * (half + sharpness))),
        jnp.log(x / (half + sharpness)),
    )


def _exp_rest(v: jax.Array) -> jax.Array:
    """exp(v) - 1 - v, without cancellation at small v."""
    series = jnp.zeros_like(v)
    for k in range(14, 1, -1):
        series = series * v + 1 / math.factorial(k)
    return jnp.where(jnp.abs(v) < 0.3, series * v * v, jnp.expm1(v) - v)
