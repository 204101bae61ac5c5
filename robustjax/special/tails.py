"""Tails, density, quantile and noncentrality, with exact derivatives.

Derivatives in x and the noncentrality follow from the identities

    dF/dx = f(df),    dF/dnc = -f(df + 2),    df/dnc = (f(df + 2) - f(df)) / 2,
    2 df/dx = f(df - 2) - f(df),    x f(df - 2) = (df - 2) f(df) + nc f(df + 2).

Quantile and noncentrality are roots of h = -sqrt(-2 log F) for p < 1/2 and of
h = sqrt(-2 log(1 - F)) for others, both of which are nearly straight and computed from
logarithms: neither underflows at any p. Newton's method is kept in a bracket.
"""

import math
from collections.abc import Callable
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
from jax.scipy.special import ndtri

from robustjax.special import contour

_LOG_2 = math.log(2.0)
_MAX_STEPS = 100  # of Newton's method or bisection; 8 are usual


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
        nc: noncentrality, of the shape and dtype of x.
        excess: x - nc - df, of the shape and dtype of x.

    Returns:
        The distribution; its derivatives in df and excess are taken as zero, and all
        of them where x is not above 0 or overflows.
    """
    limits = jnp.finfo(x.dtype)
    is_inside = (x >= _smallest(x.dtype)) & (x < 1e-4 * limits.max)
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

    Newton's method in log x between the smallest x of `distribution` and the bound

        P(X >= df + nc + 2 sqrt((df + 2 nc) t) + 2 t) <= exp(-t).

    Below the smallest x, F is a multiple of x^(df / 2).

    Args:
        p: probabilities, of any shape.
        df: degrees of freedom, of the shape and dtype of p.
        nc: noncentrality, of the shape and dtype of p.

    Returns:
        Quantiles; 0 at p = 0, inf at p = 1, NaN outside of [0, 1] and where 100 steps
        did not settle.

    Reference: the bound is Birge (2001), IMS Lecture Notes 36, Lemma 8.1.
    """
    is_inside = (p > 0) & (p < 1)
    p_inside = jnp.where(is_inside, p, 0.5)
    target = _Target(p_inside)
    t = -target.log_tail + 1
    bound = df + nc + 2 * jnp.sqrt((df + 2 * nc) * t) + 2 * t
    least = jnp.full_like(p, _smallest(p.dtype))

    def at(log_x: jax.Array) -> Distribution:
        x = jnp.exp(log_x)
        return distribution(x, df, nc, (x - nc) - df)

    low, high = jnp.log(least), jnp.log(bound)
    log_least = distribution(least, df, nc, (least - nc) - df).log_cdf
    is_below = jnp.log(p_inside) <= log_least
    power = low + (jnp.log(p_inside) - log_least) / (0.5 * df)

    def step(log_x: jax.Array) -> tuple[jax.Array, jax.Array]:
        own = at(log_x)
        rest, log_tail = target.compare(own)
        return rest, rest * jnp.exp(log_tail - own.log_pdf - log_x)

    mean = df + nc
    spread = jnp.log1p(2 * (mean + nc) / (mean * mean))  # of a lognormal like it
    start = jnp.log(mean) - 0.5 * spread + ndtri(p_inside) * jnp.sqrt(spread)
    log_x = _root(step, start, low=low, high=high, scale=jnp.sqrt(spread))
    ends = jnp.where(p == 0, 0.0, jnp.where(p == 1, jnp.inf, jnp.nan))
    found = jnp.exp(jnp.where(is_below, power, log_x))
    return jnp.where(is_inside, found, ends)


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

    Newton's method in nc, between 0 and the bound of the lower tail

        P(X <= df + nc - 2 sqrt((df + 2 nc) t)) <= exp(-t).

    Args:
        p: probabilities in (0, 1), of any shape.
        x: where, of the shape and dtype of p.
        df: degrees of freedom, of the shape and dtype of p.

    Returns:
        Noncentralities >= 0; NaN where even nc = 0 gives less than p.

    Reference: as `quantile`.
    """
    central = distribution(x, df, jnp.zeros_like(x), x - df)
    is_reached = (jnp.exp(central.log_cdf) >= p) & (p > 0)
    p = jnp.where(is_reached, p, 0.5)
    x, df = jnp.where(is_reached, x, 1.0), jnp.where(is_reached, df, 1.0)
    target = _Target(p)

    def step(nc: jax.Array) -> tuple[jax.Array, jax.Array]:
        excess = (x - nc) - df
        rest, log_tail = target.compare(distribution(x, df, nc, excess))
        log_pdf = distribution(x, df + 2.0, nc, excess - 2.0).log_pdf
        return -rest, -rest * jnp.exp(log_tail - log_pdf)

    t = -jnp.log(p)
    high = x + 8 * t + 4 * jnp.sqrt(t * (x + df))
    scale = jnp.sqrt(2 * (df + 2 * x))
    start = x - df + 1 - ndtri(p) * scale
    nc = _root(step, start, low=jnp.zeros_like(x), high=high, scale=scale)
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


class _Target(NamedTuple):
    """A probability, and which tail tells it best."""

    p: jax.Array

    @property
    def log_tail(self) -> jax.Array:
        """Logarithm of the smaller of p and 1 - p."""
        return jnp.where(self.p < 0.5, jnp.log(self.p), jnp.log1p(-self.p))

    def compare(self, at: Distribution) -> tuple[jax.Array, jax.Array]:
        """(h(p) - h) |h|, which is near log p - log F, and the logarithm of the tail.

        Over the derivative of the tail's logarithm it is the step of Newton's method.
        """
        is_lower = self.p < 0.5
        log_tail = jnp.where(is_lower, at.log_cdf, at.log_sf)
        size, wanted = jnp.sqrt(-2 * log_tail), jnp.sqrt(-2 * self.log_tail)
        return jnp.where(is_lower, size - wanted, wanted - size) * size, log_tail


def _smallest(dtype: Any) -> float:
    """Smallest x that `distribution` distinguishes from 0."""
    return 1e4 * float(jnp.finfo(dtype).tiny)


def _root(
    step: Callable[[jax.Array], tuple[jax.Array, jax.Array]],
    start: jax.Array,
    *,
    low: jax.Array,
    high: jax.Array,
    scale: jax.Array,
) -> jax.Array:
    """Where a decreasing function is 0: Newton's method, or the middle of a bracket.

    Args:
        step: from values to the function (its sign counts) and Newton's step.
        start: where to begin; clipped to the bracket.
        low: below the roots.
        high: above the roots.
        scale: over which the function bends. Behind a step of .1 sqrt(eps) scale the
            error is of the order of eps scale.

    Returns:
        Roots; NaN where the last step was longer, after 100 of them.
    """
    eps = jnp.finfo(start.dtype).eps

    def advance(state: Any) -> Any:
        now, low, high, _, count = state
        value, change = step(now)
        low = jnp.where(value > 0, now, low)
        high = jnp.where(value < 0, now, high)
        new = now + change
        room = jnp.maximum(0.1 * eps**0.5 * scale, 4 * eps * (1 + jnp.abs(now)))
        is_inside = (new >= low - room) & (new <= high + room)
        new = jnp.where(is_inside, new, 0.5 * (low + high))
        is_bad = jnp.isnan(low + high)
        return new, low, high, ~(jnp.abs(new - now) <= room) & ~is_bad, count + 1

    def goes_on(state: Any) -> jax.Array:
        return jnp.any(state[3]) & (state[4] < _MAX_STEPS)

    start = jnp.clip(start, low, high)
    first = (start, low, high, jnp.ones_like(start, bool), jnp.int32(0))
    root, _, _, is_moving, _ = jax.lax.while_loop(goes_on, advance, first)
    return jnp.where(is_moving, jnp.nan, jnp.clip(root, low, high))
