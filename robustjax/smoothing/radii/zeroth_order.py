"""Zeroth-order certified radii: what the class probability alone guarantees.

    R = sigma / 2 (Phi^-1(p_A) - Phi^-1(p_B)),   p_B = 1 - p_A where it is not given,
    R_p = R / k_p,   k_p = d^(1/2 - 1/p) for p >= 2, and 1 for p <= 2.

p_A is a lower bound of the probability of class A, p_B an upper bound of that of every
other class.
"""

import functools
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import scipy.special
from jax.typing import ArrayLike
from numpy.typing import NDArray

from robustjax import _validate, norms


def zeroth_order_radius(
    p_lower: ArrayLike,
    *,
    sigma: ArrayLike,
    p_upper: ArrayLike | None = None,
    norm: str = "l2",
    dim: int | None = None,
) -> jax.Array | NDArray[np.float64]:
    """Radius in which a smoothed classifier keeps its class, from class probabilities.

    With p_lower <= P[class A] under N(x, sigma^2 I) noise it is sigma * ndtri(p_lower);
    with p_upper >= P[any other class] also given, sigma / 2 * (ndtri(p_lower) -
    ndtri(p_upper)). In lp the l2 radius is divided by the l2 circumradius of the unit
    ball, d^(1/2 - 1/p) for p >= 2 and 1 for p <= 2. Elementwise.

    [host] for Python and NumPy probabilities, which are computed in float64 whatever
    the x64 flag, and [device] (pure, jittable) for JAX arrays, which keep their dtype
    (float32 at least). Take a published radius from the host: in float32, p_lower
    itself is too coarse near 1.

    Guarantee:
        The smoothed classifier predicts A at every x + delta with norm(delta) < radius,
        if the bounds on the probabilities hold; up to a few units in the last place.

    Edge cases:
        ===================================  =====================================
        Input                                Result
        ===================================  =====================================
        p_lower <= 1/2, no p_upper           0, abstains
        p_lower <= p_upper                   0, abstains
        p_lower = 1 or p_upper = 0           read as the next number inside (0, 1)
        NaN                                  0
        ===================================  =====================================

    Args:
        p_lower: lower bounds of the probability of class A, in [0, 1], any shape.
        sigma: noise level, positive; the radius has its units.
        p_upper: upper bounds of the largest probability of another class.
        norm: "l2", "l1", "linf", "l" and a number, or "subspace" (l2 inside it).
        dim: number of input coordinates, needed for norms beyond l2.

    Returns:
        Radii >= 0, never NaN or infinite, of the shape of p_lower.

    Raises:
        ValueError: if sigma, norm, dim or a concrete probability is out of range.

    Example:
        >>> print(f"{zeroth_order_radius(0.99, sigma=0.5):.6f}")
        1.163174

    Reference:
        Cohen, Rosenfeld and Kolter (2019), ICML, arXiv 1902.02918, Theorem 1.
    """
    _validate.positive(sigma=sigma)
    scale = norms.l2_circumradius(norm, dim)
    values = (p_lower, sigma) if p_upper is None else (p_lower, sigma, p_upper)
    for name, value in (("p_lower", p_lower), ("p_upper", p_upper)):
        known = None if value is None else _validate.concrete(value)
        if known is not None and ((known < 0) | (known > 1)).any():
            raise ValueError(f"Expected {name} in [0, 1], got {value}.")
    if _is_for_device(sigma, p_lower, p_upper):
        inexact = jnp.result_type(jnp.float32, *values[0::2])
        return _device_l2_radius(*(jnp.asarray(v, inexact) for v in values)) / scale
    host = (np.asarray(value, np.float64) for value in values)
    return _l2_radius(*host, xp=np, ndtri=scipy.special.ndtri)[()] / scale


def _is_for_device(sigma: ArrayLike, *probabilities: ArrayLike | None) -> bool:
    """Whether a probability is a JAX array, or anything is traced."""
    is_traced = _validate.concrete(sigma) is None
    return is_traced or any(isinstance(p, jax.Array) for p in probabilities)


def _l2_radius(
    p_lower: Any, sigma: Any, p_upper: Any = None, *, xp: Any, ndtri: Any
) -> Any:
    """The radius: xp is numpy or jax.numpy, ndtri that of the same arrays."""

    def quantile(p: Any) -> Any:
        limits = xp.finfo(p.dtype)
        return ndtri(xp.clip(p, limits.tiny, 1 - limits.epsneg))

    lower = quantile(p_lower)
    upper = -lower if p_upper is None else quantile(p_upper)
    radius = sigma * (lower - upper) / 2
    return xp.where(radius > 0, radius, 0.0)  # 0 also for NaN


_device_l2_radius = jax.jit(
    functools.partial(_l2_radius, xp=jnp, ndtri=jax.scipy.special.ndtri)
)
