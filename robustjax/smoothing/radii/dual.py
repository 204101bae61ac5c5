r"""The dual of the worst case under a class probability and its gradient.

Units: sigma = 1. In the plane of the perturbation (z1, length r) and of the part of the
gradient orthogonal to it (z2), V is the smallest probability of class A at distance r,
over all f in [0, 1] with E f = p, E z1 f = parallel and E z2 f = perpendicular. With
the likelihood ratio L and q = 1 - p,

    L = exp(r z1 - r^2 / 2),                  (1)
    A = L - a z1 - c,                         (2)
    D = 1 - (c q - a parallel - b perpendicular)
          - E[A Phi(A / b) + b phi(A / b)],   (3)
    V = max over (a, b, c), b > 0, of D.

Weak duality: *any* multipliers give D <= V, and if a, b, c >= 0 the three constraints
may be lower bounds. So multipliers can only be too weak, never wrong. The expectation
over z1 is a Gauss-Legendre rule. A is convex, so f switches at two points at most; the
rule is stretched around each of them by

    z1 = root + width sinh(s).                (4)

The functions take the namespace of their arrays: `HOST` (NumPy and SciPy, float64) or
`DEVICE` (JAX, any dtype, jittable). All arguments are arrays of one shape.

Reference:
    Mohapatra, Ko, Weng, Chen, Liu and Daniel (2020), Higher-Order Certification for
    Randomized Smoothing, arXiv 2010.06651, for the worst case. The dual in this form
    and the quadrature are ours.
"""

import functools
from collections.abc import Callable
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
import scipy.special

from robustjax.special.normal import normal_pdf

_ROOT_STEPS = 16  # 26 / 2^16: the roots only place the nodes


class ArrayNamespace(NamedTuple):
    """Where a formula is evaluated."""

    xp: Any
    ndtr: Callable[[Any], Any]
    ndtri: Callable[[Any], Any]
    reach: float  # standard deviations that the integral over z1 reaches out


HOST = ArrayNamespace(np, scipy.special.ndtr, scipy.special.ndtri, reach=13.0)
DEVICE = ArrayNamespace(jnp, jax.scipy.special.ndtr, jax.scipy.special.ndtri, reach=9.0)


class Multipliers(NamedTuple):
    """Multipliers of the parallel, the perpendicular and the probability constraint."""

    a: Any
    b: Any
    c: Any


class Constraints(NamedTuple):
    """What is known of f: q = 1 - p and the two components of the gradient."""

    q: Any
    parallel: Any
    perpendicular: Any


class DualValue(NamedTuple):
    """D with its derivatives, in the multipliers and in r."""

    value: Any  # [...]
    gradient: Any  # [..., 3]
    hessian: Any  # [..., 3, 3]
    slope: Any  # [...], dD/dr at fixed multipliers
    cross: Any  # [..., 3], d gradient / dr


def max_length(dtype: Any) -> float:
    """The largest r for which no likelihood ratio in reach overflows."""
    return 6.0 if jnp.finfo(dtype).bits <= 32 else 25.0


def bisect(
    is_left: Callable[[Any], Any],
    low: Any,
    high: Any,
    *,
    steps: int,
    arrays: ArrayNamespace,
) -> tuple[Any, Any]:
    """Brackets of the points where `is_left` turns from true to false, elementwise."""

    def halve(_: Any, bracket: tuple[Any, Any]) -> tuple[Any, Any]:
        low, high = bracket
        middle = 0.5 * (low + high)
        left = is_left(middle)
        return (
            arrays.xp.where(left, middle, low),
            arrays.xp.where(left, high, middle),
        )

    if arrays is DEVICE:
        return jax.lax.fori_loop(0, steps, halve, (low, high))
    bracket = (low, high)
    for step in range(steps):
        bracket = halve(step, bracket)
    return bracket


def dual_value(
    multipliers: Multipliers,
    r: Any,
    known: Constraints,
    *,
    num_nodes: int,
    arrays: ArrayNamespace,
) -> Any:
    """D alone, with 2 num_nodes evaluations of its integrand."""
    terms = _terms(multipliers, r, num_nodes=num_nodes, arrays=arrays)
    return _value(multipliers, known, terms, arrays)


def dual_and_slope(
    multipliers: Multipliers,
    r: Any,
    known: Constraints,
    *,
    num_nodes: int,
    arrays: ArrayNamespace,
) -> tuple[Any, Any]:
    """D and dD/dr at fixed multipliers."""
    terms = _terms(multipliers, r, num_nodes=num_nodes, arrays=arrays)
    return _value(multipliers, known, terms, arrays), _slope(r, terms, arrays)


def dual_derivatives(
    multipliers: Multipliers, r: Any, known: Constraints, *, num_nodes: int
) -> DualValue:
    """D with first and second derivatives, on the device."""
    terms = _terms(multipliers, r, num_nodes=num_nodes, arrays=DEVICE)
    z, weight, likelihood, t, complement, bell = terms
    moments = jnp.stack([z, t, jnp.ones_like(z)], axis=-1)  # [..., nodes, 3]
    sharpness = (weight * bell / multipliers.b[..., None])[..., None] * moments
    growth = (z - r[..., None]) * likelihood  # dL/dr
    contract = functools.partial(jnp.einsum, precision=jax.lax.Precision.HIGHEST)
    mean = functools.partial(contract, "...n,...n->...", weight)
    return DualValue(
        value=_value(multipliers, known, terms, DEVICE),
        gradient=jnp.stack(
            [
                known.parallel + mean(z * complement),
                known.perpendicular - mean(bell),
                mean(complement) - known.q,
            ],
            axis=-1,
        ),
        hessian=-contract("...ni,...nj->...ij", sharpness, moments),
        slope=_slope(r, terms, DEVICE),
        cross=contract("...ni,...n->...i", sharpness, growth),
    )


class _Terms(NamedTuple):
    """The integrand at the nodes, `[..., nodes]` each."""

    z: Any
    weight: Any  # of the rule, times the density of z
    likelihood: Any
    t: Any  # A / b
    complement: Any  # Phi(A / b), the probability that f = 0
    bell: Any  # phi(A / b)


def _terms(
    multipliers: Multipliers, r: Any, *, num_nodes: int, arrays: ArrayNamespace
) -> _Terms:
    xp = arrays.xp
    z, weight = _rule(multipliers, r, num_nodes=num_nodes, arrays=arrays)
    a, b, c = (value[..., None] for value in multipliers)
    likelihood = _likelihood(z, r[..., None], xp)
    t = (likelihood - a * z - c) / b  # (2)
    bell = normal_pdf(xp.clip(t, -37.0, 37.0), xp=arrays.xp)
    return _Terms(
        z, weight * normal_pdf(z, xp=arrays.xp), likelihood, t, arrays.ndtr(t), bell
    )


def _value(
    multipliers: Multipliers, known: Constraints, terms: _Terms, arrays: ArrayNamespace
) -> Any:
    a, b, c = multipliers
    loss = terms.t * terms.complement + terms.bell
    return (  # (3)
        1.0
        - (c * known.q - a * known.parallel - b * known.perpendicular)
        - b * arrays.xp.sum(terms.weight * loss, axis=-1)
    )


def _slope(r: Any, terms: _Terms, arrays: ArrayNamespace) -> Any:
    growth = (terms.z - r[..., None]) * terms.likelihood
    return -arrays.xp.sum(terms.weight * growth * terms.complement, axis=-1)


def _likelihood(z: Any, r: Any, xp: Any) -> Any:
    return xp.exp(r * (z - 0.5 * r))  # (1)


def _rule(
    multipliers: Multipliers, r: Any, *, num_nodes: int, arrays: ArrayNamespace
) -> tuple[Any, Any]:
    """Nodes and weights `[..., 2 num_nodes]` for the integral over z1."""
    a, _, c = multipliers
    xp = arrays.xp
    low, high = xp.full_like(r, -arrays.reach), r + arrays.reach
    tiny = xp.finfo(r.dtype).tiny
    lowest = xp.log(xp.maximum(a, tiny) / r) / r + 0.5 * r  # where A is least
    lowest = xp.clip(lowest, low, high)

    def is_positive(z: Any) -> Any:
        return _likelihood(z, r, xp) > a * z + c

    roots = (
        bisect(is_positive, low, lowest, steps=_ROOT_STEPS, arrays=arrays)[0],
        bisect(
            lambda z: ~is_positive(z), lowest, high, steps=_ROOT_STEPS, arrays=arrays
        )[0],
    )
    parts = [
        _stretched((start, stop), root, _width(root, multipliers, r, xp), num_nodes, xp)
        for start, stop, root in zip((low, lowest), (lowest, high), roots, strict=True)
    ]
    return tuple(xp.concatenate(part, axis=-1) for part in zip(*parts, strict=True))


def _width(root: Any, multipliers: Multipliers, r: Any, xp: Any) -> Any:
    """The length over which Phi(A / b) switches at a root of A."""
    a, b, _ = multipliers
    likelihood = _likelihood(root, r, xp)
    tiny = xp.finfo(r.dtype).tiny
    steepness = xp.maximum(xp.abs(r * likelihood - a), xp.maximum(b, tiny))
    curvature = xp.maximum(r * r * likelihood, xp.maximum(2 * b, tiny))
    switch = xp.minimum(b / steepness, xp.sqrt(2 * b / curvature))
    return xp.clip(switch, 1e-12, 1.0)


@functools.cache
def _legendre(num_nodes: int) -> tuple[np.ndarray, np.ndarray]:
    """Nodes and weights of Gauss and Legendre on [-1, 1]."""
    return np.polynomial.legendre.leggauss(num_nodes)


def _stretched(
    ends: tuple[Any, Any], root: Any, width: Any, num_nodes: int, xp: Any
) -> tuple[Any, Any]:
    """The rule over z = root + width sinh(s), from end to end."""
    x, weight = (
        xp.asarray(v, root.dtype).reshape((1,) * root.ndim + (-1,))
        for v in _legendre(num_nodes)
    )
    first, last = (xp.arcsinh((end - root) / width) for end in ends)
    half = (0.5 * (last - first))[..., None]
    s = (0.5 * (first + last))[..., None] + half * x
    root, width = root[..., None], width[..., None]
    return root + width * xp.sinh(s), half * weight * width * xp.cosh(s)  # (4)
