"""Tails, density, quantile and noncentrality, with exact derivatives.

Derivatives in x and the noncentrality follow from the identities

    dF/dx = f(df),    dF/dnc = -f(df + 2),    df/dnc = (f(df + 2) - f(df)) / 2,
    2 df/dx = f(df - 2) - f(df),    x f(df - 2) = (df - 2) f(df) + nc f(df + 2).
"""

import math
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
from jax.scipy.special import ndtri

from robustjax.special import contour

_LOG_2 = math.log(2.0)
_MAX_STEPS = 60  # of Newton's method; 8 are usual
_LONGEST_STEP = 4.0  # in log x


class Distribution(NamedTuple):
    """Logarithms of the two tails and of the density at x."""

    log_cdf: jax.Array
    log_sf: jax.Array
    log_pdf: jax.Array


@jax.custom_jvp
@jax.jit
def distribution(
    x: jax.Array, df: jax.Array, nc: jax.Array, excess: jax.Array
) -> Distribution:
    """The noncentral chi-square distribution at x, for df >= 1. [device].

    Below df = 2 by F(df) = F(df + 2) + 2 f(df + 2).

    Args:
        x: where, of any shape.
        df: degrees of freedom, of the shape and dtype of x.
        nc: noncentrality, likewise.
        excess: x - nc - df, likewise.

    Returns:
        The distribution; its derivatives in df and excess are taken as zero, and all
        of them where x is not above 0 or overflows.
    """
    limits = jnp.finfo(x.dtype)
    is_inside = (x > 1e4 * limits.tiny) & (x < 1e-4 * limits.max)
    inside = jnp.where(is_inside, x, 1.0)
    is_low = df < 2
    lift = jnp.where(is_low, 2.0, 0.0).astype(x.dtype)
    excess = jnp.where(is_inside, excess, (inside - nc) - df) - lift
    at = contour.integrate(inside, df + lift, nc, excess=excess)
    near = jnp.where(at.is_upper, at.tail, -at.tail)
    near += jnp.where(at.is_upper, -lift, lift) * at.density
    log_near = jnp.log(near) + at.log_scale
    log_far = jnp.log1p(-jnp.exp(jnp.minimum(log_near, 0.0)))
    log_pdf = jnp.log(at.density) + at.log_scale
    log_pdf = jax.lax.cond(
        jnp.any(is_low),
        lambda: jnp.where(is_low, _lowered(inside, df, nc, excess, log_pdf), log_pdf),
        lambda: log_pdf,
    )

    at_zero = jnp.where(
        df < 2, jnp.inf, jnp.where(df > 2, -jnp.inf, -0.5 * nc - _LOG_2)
    )

    def fill(value: jax.Array, below: Any, above: float) -> jax.Array:
        beyond = jnp.where(x < 1, below, jnp.where(x >= 1, above, jnp.nan))
        return jnp.where(is_inside, value, beyond)

    return Distribution(
        fill(jnp.where(at.is_upper, log_far, log_near), -jnp.inf, 0.0),
        fill(jnp.where(at.is_upper, log_near, log_far), 0.0, -jnp.inf),
        fill(log_pdf, jnp.where(x == 0, at_zero, -jnp.inf), -jnp.inf),
    )


def _lowered(
    x: jax.Array, df: jax.Array, nc: jax.Array, excess: jax.Array, by_two: jax.Array
) -> jax.Array:
    """Logarithm of f(df) from f(df + 2), f(df + 4) and the excess of df + 2."""
    at = contour.integrate(x, df + 4, nc, excess=excess - 2)
    by_four = jnp.log(at.density) + at.log_scale
    return jnp.logaddexp(jnp.log(df) + by_two, jnp.log(nc) + by_four) - jnp.log(x)


@distribution.defjvp
def _distribution_jvp(primals: Any, tangents: Any) -> tuple[Any, Any]:
    x, df, nc, excess = primals
    at = distribution(*primals)
    log_raised = distribution(x, df + 2.0, nc, excess - 2.0).log_pdf
    is_inside = (x > 0) & jnp.isfinite(at.log_pdf)
    raised = jnp.exp(jnp.where(is_inside, log_raised - at.log_pdf, 0.0))
    by_x, _, by_nc, _ = tangents

    def of_tail(log_tail: jax.Array) -> jax.Array:
        log_ratio = jnp.where(is_inside, at.log_pdf - log_tail, -jnp.inf)
        return jnp.exp(log_ratio) * (by_x - raised * by_nc)

    slope = 0.5 * ((df - 2.0 + nc * raised) / jnp.where(is_inside, x, 1.0) - 1.0)
    of_density = slope * by_x + 0.5 * (raised - 1.0) * by_nc
    change = Distribution(
        of_tail(at.log_cdf),
        -of_tail(at.log_sf),
        jnp.where(is_inside, of_density, 0.0),
    )
    return at, change


@jax.custom_jvp
@jax.jit
def quantile(p: jax.Array, df: jax.Array, nc: jax.Array) -> jax.Array:
    """The x with P(X <= x) = p. [device].

    Newton's method on ndtri(P(X <= x)) in log x, where both tails are nearly straight.

    Args:
        p: probabilities, of any shape.
        df: degrees of freedom, of the shape and dtype of p.
        nc: noncentrality, likewise.

    Returns:
        Quantiles; 0 at p = 0, inf at p = 1, NaN outside of [0, 1].
    """
    is_inside = (p > 0) & (p < 1)
    score = ndtri(jnp.where(is_inside, p, 0.5))
    tolerance = 256 * jnp.finfo(p.dtype).eps

    def advance(state: Any) -> Any:
        log_x, _, count = state
        x = jnp.exp(log_x)
        at = distribution(x, df, nc, (x - nc) - df)
        own, log_bell = _score(at)
        step = (score - own) * jnp.exp(log_bell - at.log_pdf - log_x)
        step = jnp.clip(step, -_LONGEST_STEP, _LONGEST_STEP)
        change = jnp.max(jnp.nan_to_num(jnp.abs(step)), initial=0.0)
        return log_x + step, change, count + 1

    def goes_on(state: Any) -> jax.Array:
        return (state[1] > tolerance) & (state[2] < _MAX_STEPS)

    mean = df + nc
    spread = jnp.log1p(2 * (mean + nc) / (mean * mean))  # of a lognormal like it
    start = jnp.log(mean) - 0.5 * spread + score * jnp.sqrt(spread)
    first = (start, jnp.asarray(jnp.inf, p.dtype), jnp.int32(0))
    log_x, _, _ = jax.lax.while_loop(goes_on, advance, first)
    ends = jnp.where(p == 0, 0.0, jnp.where(p == 1, jnp.inf, jnp.nan))
    return jnp.where(is_inside, jnp.exp(log_x), ends)


@quantile.defjvp
def _quantile_jvp(primals: Any, tangents: Any) -> tuple[Any, Any]:
    p, df, nc = primals
    x = quantile(p, df, nc)
    log_pdf = distribution(x, df, nc, (x - nc) - df).log_pdf
    raised = distribution(x, df + 2.0, nc, (x - nc) - df - 2.0).log_pdf
    by_p, _, by_nc = tangents
    return x, by_p * jnp.exp(-log_pdf) + by_nc * jnp.exp(raised - log_pdf)


@jax.custom_jvp
@jax.jit
def noncentrality(p: jax.Array, x: jax.Array, df: jax.Array) -> jax.Array:
    """The nc with P(X <= x) = p. [device].

    Newton's method on ndtri(P(X <= x)), which is nearly straight in nc, clipped to a
    bracket.

    Args:
        p: probabilities in (0, 1), of any shape.
        x: where, of the shape and dtype of p.
        df: degrees of freedom, likewise.

    Returns:
        Noncentralities >= 0; NaN where even nc = 0 gives less than p.
    """
    central = distribution(x, df, jnp.zeros_like(x), x - df)
    is_reached = (jnp.exp(central.log_cdf) >= p) & (p > 0)
    score = ndtri(jnp.where(is_reached, p, 0.5))
    x, df = jnp.where(is_reached, x, 1.0), jnp.where(is_reached, df, 1.0)
    tolerance = 64 * jnp.finfo(p.dtype).eps

    def advance(state: Any) -> Any:
        nc, low, high, _, count = state
        excess = (x - nc) - df
        own, log_bell = _score(distribution(x, df, nc, excess))
        log_pdf = distribution(x, df + 2.0, nc, excess - 2.0).log_pdf
        is_short = own > score  # nc has to grow
        low, high = jnp.where(is_short, nc, low), jnp.where(is_short, high, nc)
        new = jnp.clip(nc + (own - score) * jnp.exp(log_bell - log_pdf), low, high)
        change = jnp.max(jnp.abs(new - nc) / (1 + nc), initial=0.0)
        return new, low, high, change, count + 1

    def goes_on(state: Any) -> jax.Array:
        return (state[3] > tolerance) & (state[4] < _MAX_STEPS)

    low = jnp.zeros_like(x)
    high = x + 80 * jnp.sqrt(x + df + 80)
    start = jnp.clip(x - df + 1 - score * jnp.sqrt(2 * (df + 2 * x)), low, high)
    first = (start, low, high, jnp.asarray(jnp.inf, p.dtype), jnp.int32(0))
    nc = jax.lax.while_loop(goes_on, advance, first)[0]
    return jnp.where(is_reached, nc, jnp.nan)


@noncentrality.defjvp
def _noncentrality_jvp(primals: Any, tangents: Any) -> tuple[Any, Any]:
    p, x, df = primals
    nc = noncentrality(p, x, df)
    excess = (x - nc) - df
    log_pdf = distribution(x, df, nc, excess).log_pdf
    raised = distribution(x, df + 2.0, nc, excess - 2.0).log_pdf
    by_p, by_x, _ = tangents
    return nc, by_x * jnp.exp(log_pdf - raised) - by_p * jnp.exp(-raised)


def _score(at: Distribution) -> tuple[jax.Array, jax.Array]:
    """The normal deviate with the same tails, and the logarithm of its density."""
    is_lower = at.log_cdf < at.log_sf
    tail = jnp.exp(jnp.where(is_lower, at.log_cdf, at.log_sf))
    own = jnp.clip(jnp.where(is_lower, 1.0, -1.0) * ndtri(tail), -38.0, 38.0)
    return own, -0.5 * (own * own + math.log(2 * math.pi))
