"""The largest radius that any multipliers prove: a damped Newton method on the device.

The radius that multipliers prove is the r at which their dual value falls to 1/2. Each
step solves the optimality conditions and D = 1/2 together, in (a, b, c, r),

    dD/da = dD/db = dD/dc = 0,   D(a, b, c; r) = 1/2,

and is kept if the radius proved so far, r + (D - 1/2) / |dD/dr|, does not shrink. That
tangent can promise too much, so a step that was not kept is followed by one in r alone.
It starts from the collinear worst case. The result is only a proposal: `first_order`
proves it.

Reference: ours.
"""

from typing import Any, NamedTuple

import jax
import jax.numpy as jnp

from robustjax.smoothing.radii import dual
from robustjax.smoothing.radii.dual import Constraints, DualValue, Multipliers
from robustjax.special.normal import normal_pdf

_NUM_NODES = 64  # on each side: D to 1e-9 for all but the sharpest cases
_MAX_STEPS = 48  # 24 are enough for 20,000 random boxes; a free a needs more
_MOST_LENGTH = 0.3  # that r may change in one step
_MOST_SHRINK = 0.7  # of b in one step
SMALL = 1e-9  # perpendicular parts below it count as zero: there the interval is best


class Proposal(NamedTuple):
    """Multipliers and the radius that they prove, up to rounding."""

    multipliers: Multipliers
    r: jax.Array


class _State(NamedTuple):
    multipliers: jax.Array  # [m, 3]
    r: jax.Array  # [m]
    dual: DualValue
    proved: jax.Array  # [m], the radius that the multipliers prove
    damping: jax.Array  # [m]
    is_stale: jax.Array  # [m], the last step was not kept, and r is not where D is 1/2
    is_done: jax.Array  # [m]
    step: jax.Array


def solve(known: Constraints, interval: Any, *, free_parallel: bool) -> Proposal:
    """Multipliers with nearly the largest provable radius, for `[m]` certificates.

    `free_parallel` lets a be negative, which needs the exact parallel component.
    """
    multipliers, r = _start(known, interval)
    first = _evaluate(multipliers, r, known)
    proved, no = _proved(r, first), jnp.zeros(r.shape, bool)
    is_flat = known.perpendicular <= SMALL  # no b would ever settle
    state = _State(
        multipliers, r, first, proved, jnp.zeros_like(r), no, is_flat, jnp.int32(0)
    )

    def goes_on(state: _State) -> jax.Array:
        return (state.step < _MAX_STEPS) & ~jnp.all(state.is_done)

    state = jax.lax.while_loop(
        goes_on, lambda state: _improve(state, known, free_parallel), state
    )
    return Proposal(Multipliers(*state.multipliers.T), state.proved)


def _start(known: Constraints, interval: Any) -> tuple[jax.Array, jax.Array]:
    """The chord through both ends of the interval; b by the perpendicular moment."""
    low, high, r = interval
    at_low, at_high = (jnp.exp(r * (z - 0.5 * r)) for z in (low, high))
    a = (at_high - at_low) / (high - low)
    crossing = sum(
        normal_pdf(z) / jnp.abs(r * likelihood - a)
        for z, likelihood in ((low, at_low), (high, at_high))
    )
    b = jnp.maximum(known.perpendicular, 1e-9) / crossing
    return jnp.stack([a, b, at_high - a * high], axis=-1), r


def _evaluate(multipliers: jax.Array, r: jax.Array, known: Constraints) -> DualValue:
    return dual.dual_derivatives(
        Multipliers(*multipliers.T), r, known, num_nodes=_NUM_NODES
    )


def _proved(r: jax.Array, at: DualValue) -> jax.Array:
    """Where D falls to 1/2 along its tangent in r."""
    return r + (at.value - 0.5) / jnp.maximum(-at.slope, 1e-3)


def _improve(state: _State, known: Constraints, free_parallel: bool) -> _State:
    change, growth = _newton(state, free_parallel)
    change = jnp.where(state.is_stale[:, None], 0.0, change)
    growth = jnp.where(state.is_stale, _clip(state.proved - state.r), growth)
    longest = dual.max_length(state.r.dtype)
    shrink = -change[:, 1] / (_MOST_SHRINK * state.multipliers[:, 1])
    share = 1 / jnp.maximum(shrink, 1.0)
    multipliers = state.multipliers + share[:, None] * change
    floor = jnp.array([[-jnp.inf if free_parallel else 0.0, 0.0, 0.0]], change.dtype)
    multipliers = jnp.maximum(multipliers, floor)
    r = jnp.clip(state.r + share * growth, 1e-3, longest)
    new = _evaluate(multipliers, r, known)
    proved = _proved(r, new)
    slack = 4 * jnp.finfo(r.dtype).eps
    is_better = (proved >= state.proved - slack) | state.is_stale
    gain = jnp.where(is_better, proved - state.proved, jnp.inf)
    is_done = state.is_done | (
        (jnp.abs(gain) <= slack) & (jnp.abs(r - state.r) <= 64 * slack)
    )

    def keep(new: jax.Array, old: jax.Array) -> jax.Array:
        keeps = is_better & ~state.is_done
        aligned = keeps.reshape(keeps.shape + (1,) * (new.ndim - 1))
        return jnp.where(aligned, new, old)

    better = state._replace(
        multipliers=multipliers,
        r=r,
        dual=new,
        proved=proved,
        damping=jnp.where(state.is_stale, 1.0, 0.1) * state.damping,
        is_stale=jnp.zeros_like(is_done),
    )
    worse = state._replace(
        damping=8 * jnp.maximum(state.damping, 1e-6),
        is_stale=jnp.abs(state.proved - state.r) > 64 * slack,
    )
    kept: _State = jax.tree.map(keep, better, worse)
    return kept._replace(is_done=is_done, step=state.step + 1)


def _newton(state: _State, free_parallel: bool) -> tuple[jax.Array, jax.Array]:
    """Changes of the multipliers `[m, 3]` and of r `[m]`; a stops at zero."""
    change, growth = _step(state, holds_a=jnp.zeros(state.r.shape, bool))
    if free_parallel:
        return change, growth
    leaves = state.multipliers[:, 0] + change[:, 0] <= 0
    bound_change, bound_growth = _step(state, holds_a=leaves)
    return (
        jnp.where(leaves[:, None], bound_change, change),
        jnp.where(leaves, bound_growth, growth),
    )


def _step(state: _State, *, holds_a: jax.Array) -> tuple[jax.Array, jax.Array]:
    """Solves g + H change + cross growth = 0 and D + g change + slope growth = 1/2.

    Where a is held, its change takes it to zero, and its equation drops out.
    """
    at = state.dual
    ridge = state.damping + 500 * jnp.finfo(state.r.dtype).eps
    scale, matrix, gradient, is_free = system(
        at, state.multipliers[:, 0], holds_a, ridge=ridge
    )
    cross = scale * at.cross * is_free
    still = _solve3(matrix, gradient)
    moving = _solve3(matrix, cross)
    own = scale * at.gradient
    growth = (0.5 - at.value - jnp.sum(own * still, -1)) / (
        at.slope + jnp.sum(own * moving, -1)
    )
    growth = _clip(growth)
    return scale * (still + moving * growth[:, None]), growth


class System(NamedTuple):
    """Linear equations of a Newton step, in multipliers divided by `scale`."""

    scale: jax.Array  # [m, 3]
    matrix: jax.Array  # [m, 3, 3], symmetric and positive
    right: jax.Array  # [m, 3]
    is_free: jax.Array  # [m, 3], 1 or 0


def system(
    at: DualValue, a: jax.Array, holds_a: jax.Array, *, ridge: jax.Array
) -> System:
    """The equations -H change = g of a damped Newton step in (a, b, c). [device].

    Args:
        at: derivatives of the dual value, `[m]` rows.
        a: `[m]` multipliers a.
        holds_a: `[m]`, where the step takes a to zero, and its equation drops out.
        ridge: `[m]`, added to the diagonal, which is 1 otherwise.

    Returns:
        A `System`.
    """
    scale = jax.lax.rsqrt(
        jnp.maximum(-jnp.diagonal(at.hessian, axis1=1, axis2=2), 1e-30)
    )
    curvature = -at.hessian * scale[:, :, None] * scale[:, None, :]
    fixed = jnp.where(holds_a, -a / scale[:, 0], 0.0)
    is_free = 1.0 - jnp.stack([holds_a, *[jnp.zeros_like(holds_a)] * 2], -1)
    gradient = (scale * at.gradient - curvature[:, :, 0] * fixed[:, None]) * is_free
    gradient = gradient.at[:, 0].add(fixed)
    matrix = curvature * is_free[:, :, None] * is_free[:, None, :]
    diagonal = ridge[:, None] * is_free + 1.0 - is_free
    matrix += diagonal[:, None, :] * jnp.eye(3, dtype=matrix.dtype)[None]
    return System(scale, matrix, gradient, is_free)


def _clip(growth: jax.Array) -> jax.Array:
    return jnp.clip(growth, -_MOST_LENGTH, _MOST_LENGTH)


def _solve3(matrix: jax.Array, right: jax.Array) -> jax.Array:
    """Solves symmetric positive 3 x 3 systems `[m, 3, 3]` by elimination."""
    rows = [matrix[:, i] for i in range(3)]
    values = [right[:, i] for i in range(3)]
    for i in range(3):
        for j in range(i + 1, 3):
            factor = rows[j][:, i] / rows[i][:, i]
            rows[j] = rows[j] - factor[:, None] * rows[i]
            values[j] = values[j] - factor * values[i]
    solution: list[Any] = [None] * 3
    for i in reversed(range(3)):
        known = sum(rows[i][:, j] * solution[j] for j in range(i + 1, 3))
        solution[i] = (values[i] - known) / rows[i][:, i]
    return jnp.stack(solution, axis=-1)
