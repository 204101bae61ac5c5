"""First-order certified radii: what the class probability and its gradient guarantee.

    R = sigma sup {r : V(r) > 1/2},   V(r) >= D(a, b, c; r) for any multipliers,

with V the smallest probability of class A at distance r and D its dual, see `dual`. The
solver proposes multipliers; the last step evaluates D, in float64 on the host, at the
radius itself. By weak duality that is a proof, whatever the solver did.
"""

import functools
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jax.typing import ArrayLike
from numpy.typing import NDArray

from robustjax import _validate
from robustjax._precision import float64_on_cpu
from robustjax.smoothing.radii import dual, newton, proof, zeroth_order
from robustjax.smoothing.radii.dual import (
    DEVICE,
    HOST,
    ArrayNamespace,
    Constraints,
    Multipliers,
)
from robustjax.smoothing.radii.l2 import worst_interval
from robustjax.special.normal import normal_pdf

FORMS = ("box", "unproven")
_BATCHES = (2048, 256, 64)  # sizes that are compiled
_STARTS = (0.0, 0.05, 0.3, 2.0)  # least radius of a start; a free a needs all of them


def first_order_radius(
    p_lower: ArrayLike,
    parallel: ArrayLike,
    perpendicular: ArrayLike,
    *,
    sigma: ArrayLike = 1.0,
    form: str = "box",
) -> jax.Array | NDArray[np.float64]:
    """Radius along a direction, from the class probability and its gradient.

    All is in units of the noise: m = sigma * (gradient of the probability p of class
    A), which is at most phi(ndtri(p)) long. `parallel` is the component of m along the
    perturbation, negative towards the decision boundary; `perpendicular` the length of
    the rest. Elementwise.

    "box" takes all three as lower bounds: the probability is at least `p_lower`, the
    components at least `parallel` and `perpendicular`. "unproven" takes `parallel` as
    exact, which gives larger radii, up to infinity, in that one direction.

    [host] for Python and NumPy numbers: computed in float64 whatever the x64 flag, and
    proved by one evaluation of the dual on the host. [device] (pure, jittable) for JAX
    arrays, which keep their dtype (float32 at least); float32 radii keep a margin that
    costs about 1e-3.

    Guarantee:
        "box": the smoothed classifier predicts A at x + t * direction for all t below
        the radius, if the three bounds hold. It is never below the zeroth-order radius
        at `p_lower` (on the host; a relative 1e-5 less in float32), nor above the
        largest radius that the three bounds allow. How it covers a whole ball:
        `norm_radius` and the documentation of the paper.
        "unproven": for the one direction, if `parallel` is exact; that it covers
        shorter perturbations is a numerical observation for directions that do not
        point away from the boundary.

    Edge cases:
        ===================================  ==========================================
        Input                                Result
        ===================================  ==========================================
        p_lower <= 1/2, or any NaN           0, abstains
        parallel > 0, "box"                  read as 0
        perpendicular < 0                    read as 0
        longer than phi(ndtri(p_lower))      cut to it
        ===================================  ==========================================

    Args:
        p_lower: lower bounds of the probability of class A, in [0, 1], any shape.
        parallel: component of m along the perturbation, of a shape that broadcasts.
        perpendicular: length of m orthogonal to it, of a shape that broadcasts.
        sigma: noise level, positive; the radius has its units.
        form: "box" or "unproven".

    Returns:
        Radii >= 0.

    Raises:
        ValueError: if form is unknown, or sigma or a concrete p_lower is out of range.

    Example:
        >>> print(f"{first_order_radius(0.99, -0.01, 0.02):.6f}")
        2.727061

    Reference: Mohapatra, Ko, Weng, Chen, Liu and Daniel (2020), arXiv 2010.06651, for
        the worst case; the solver and the proof are ours,
        `docs/papers/higher_order_proof.md`, "Proof".
    """
    _validate.one_of(FORMS, form=form)
    _validate.positive(sigma=sigma)
    known = _validate.concrete(p_lower)
    if known is not None and ((known < 0) | (known > 1)).any():
        raise ValueError(f"Expected p_lower in [0, 1], got {p_lower}.")
    values = (p_lower, parallel, perpendicular)
    free = form == "unproven"
    if any(isinstance(v, jax.Array) for v in (*values, sigma)):
        dtype = jnp.result_type(jnp.float32, *values)
        traced = jnp.broadcast_arrays(*(jnp.asarray(v, dtype) for v in values))
        return sigma * _device_radius(*traced, free_parallel=free)
    arrays = np.broadcast_arrays(*(np.asarray(v, np.float64) for v in values))
    unit = _host_radius(*(a.ravel() for a in arrays), free_parallel=free)
    return (unit.reshape(arrays[0].shape) * np.asarray(sigma, np.float64))[()]


def _host_radius(
    p_lower: NDArray[np.float64],
    parallel: NDArray[np.float64],
    perpendicular: NDArray[np.float64],
    *,
    free_parallel: bool,
) -> NDArray[np.float64]:
    """Radii `[m]` in float64, batch by batch."""
    parts, first = [], 0
    while first < p_lower.size:
        rest = p_lower.size - first
        size = next((s for s in _BATCHES if s <= rest), _BATCHES[-1])
        part = slice(first, first + size)
        first += size
        parts.append(
            _host_batch(
                p_lower[part],
                parallel[part],
                perpendicular[part],
                size=size,
                free_parallel=free_parallel,
            )
        )
    return np.concatenate([np.zeros(0), *parts])


def _host_batch(
    p_lower: NDArray[np.float64],
    parallel: NDArray[np.float64],
    perpendicular: NDArray[np.float64],
    *,
    size: int,
    free_parallel: bool,
) -> NDArray[np.float64]:
    known, is_valid = _constraints(
        p_lower, parallel, perpendicular, free_parallel=free_parallel, arrays=HOST
    )
    interval = worst_interval(known.q, np.minimum(known.parallel, 0.0), HOST)
    padded = [np.pad(v, (0, size - v.size), mode="edge") for v in known]
    with float64_on_cpu():
        proposal = _propose(Constraints(*padded), free_parallel=free_parallel)
    best = interval.radius
    for index in range(_num_starts(free_parallel)):
        multipliers, r = jax.tree.map(
            lambda v, index=index: np.asarray(v)[index, : p_lower.size], proposal
        )
        proved = _prove(multipliers, r, known, free_parallel=free_parallel)
        best = np.maximum(best, proved)
    if free_parallel:
        best = np.maximum(best, _half_space_radius(known, HOST))
    unit = zeroth_order.zeroth_order_radius(np.where(is_valid, p_lower, 0.5), sigma=1.0)
    return np.where(is_valid, np.maximum(best, unit), 0.0)


@functools.partial(jax.jit, static_argnames="free_parallel")
def _propose(known: Constraints, *, free_parallel: bool) -> newton.Proposal:
    """Proposals from every start, `[starts, m]`."""
    interval = worst_interval(known.q, jnp.minimum(known.parallel, 0.0), DEVICE)

    def from_start(least_radius: jax.Array) -> newton.Proposal:
        start = interval._replace(radius=jnp.maximum(interval.radius, least_radius))
        return newton.solve(known, start, free_parallel=free_parallel)

    starts = jnp.array(_STARTS[: _num_starts(free_parallel)], known.q.dtype)
    return jax.vmap(from_start)(starts)


def _num_starts(free_parallel: bool) -> int:
    return len(_STARTS) if free_parallel else 1


@functools.partial(jax.jit, static_argnames="free_parallel")
def _device_radius(
    p_lower: jax.Array,
    parallel: jax.Array,
    perpendicular: jax.Array,
    *,
    free_parallel: bool,
) -> jax.Array:
    """The radius in the dtype of its arguments, with a margin for their rounding."""
    shape, dtype = p_lower.shape, p_lower.dtype
    known, is_valid = _constraints(
        p_lower.ravel(),
        parallel.ravel(),
        perpendicular.ravel(),
        free_parallel=free_parallel,
        arrays=DEVICE,
    )
    interval = worst_interval(known.q, jnp.minimum(known.parallel, 0.0), DEVICE)
    proposal = _propose(known, free_parallel=free_parallel)
    proved = jax.vmap(proof.largest_on_device, (0, 0, None))(
        proposal.multipliers, proposal.r, known
    )
    proved = jnp.where(known.perpendicular > newton.SMALL, jnp.max(proved, axis=0), 0.0)
    best = jnp.maximum(interval.radius, proved)
    eps = jnp.finfo(dtype).eps
    if free_parallel and dtype.itemsize == 8:  # float32 cannot tell a half-space
        best = jnp.maximum(best, _half_space_radius(known, DEVICE))
    best = jnp.maximum(best * (1 - 32 * eps) - 500 * eps, 0.0)
    return jnp.where(is_valid, best, 0.0).reshape(shape)


def _constraints(
    p_lower: Any,
    parallel: Any,
    perpendicular: Any,
    *,
    free_parallel: bool,
    arrays: ArrayNamespace,
) -> tuple[Constraints, Any]:
    """The constraints cut to what is possible, and where there is something to prove.

    Where there is not, harmless constraints stand in.
    """
    xp = arrays.xp
    limits = xp.finfo(p_lower.dtype)
    is_valid = (p_lower > 0.5) & ~xp.isnan(parallel) & ~xp.isnan(perpendicular)
    q = xp.where(is_valid, xp.maximum(1.0 - p_lower, limits.epsneg), 0.25)
    longest = normal_pdf(arrays.ndtri(q), xp=arrays.xp)  # phi(ndtri(p)) = phi(ndtri(q))
    most = longest if free_parallel else 0.0
    known = Constraints(
        q,
        xp.where(is_valid, xp.clip(parallel, -longest, most), 0.0),
        xp.where(is_valid, xp.clip(perpendicular, 0.0, longest), 0.0),
    )
    return known, is_valid


def _half_space_radius(known: Constraints, arrays: ArrayNamespace) -> Any:
    """ndtri(p) / cos(theta) where the gradient is as long as only a half-space's is."""
    xp = arrays.xp
    quantile = -arrays.ndtri(known.q)
    longest = normal_pdf(quantile, xp=arrays.xp)
    length = xp.hypot(known.parallel, known.perpendicular)
    eps = xp.finfo(longest.dtype).eps
    cosine = -known.parallel / xp.maximum(length, xp.finfo(longest.dtype).tiny)
    along = xp.where(cosine > eps, quantile / xp.maximum(cosine, eps), xp.inf)
    return xp.where(length >= longest * (1 - 16 * eps), along, 0.0)


def _prove(
    multipliers: Multipliers,
    r: NDArray[np.float64],
    known: Constraints,
    *,
    free_parallel: bool,
) -> NDArray[np.float64]:
    """The largest radius near r that `proof.check` accepts, 0 where it accepts none.

    Ends where the step behind a radius that passed is short.
    """
    proved = np.zeros_like(r)
    a, b, c = (np.where(np.isfinite(v), v, 1.0) for v in multipliers)
    a = a if free_parallel else np.maximum(a, 0.0)
    multipliers = Multipliers(a, np.maximum(b, 1e-12), np.maximum(c, 0.0))
    r = np.where(np.isfinite(r), np.maximum(r, 1e-3), 1e-3)
    pending = np.flatnonzero(known.perpendicular > newton.SMALL)
    for _ in range(proof.ATTEMPTS):
        if not pending.size:
            break
        own = [_take(values, pending) for values in (multipliers, known)]
        at = np.clip(r[pending], 1e-3, dual.max_length(r.dtype))
        is_proved, step = proof.check(own[0], at, own[1])
        proved[pending] = np.maximum(proved[pending], np.where(is_proved, at, 0.0))
        r[pending] = at + step
        pending = pending[~is_proved | (np.abs(step) > 1e-8)]
    return proved


def _take(values: Any, index: NDArray[np.int64]) -> Any:
    return type(values)(*(value[index] for value in values))
