"""The largest radius that any multipliers prove: a damped Newton method on the device.

The radius that multipliers prove is the r at which their dual value falls to 1/2. Each
step solves the optimality conditions and D = 1/2 together, in (a, b, c, r), and is kept
if the radius proved so far, r + (D - 1/2) / |dD/dr|, does not shrink. The start is the
collinear worst case. Whatever comes out is only a proposal: `first_order` proves it.

Reference: ours.
"""

from typing import Any, NamedTuple

import jax
import jax.numpy as jnp

from robustjax.smoothing import dual
from robustjax.smoothing.dual import DEVICE, Constraints, DualValue, Multipliers

_NUM_NODES = 64  # on each side: D to 1e-9 for all but the sharpest cases
_MAX_STEPS = 32  # 20 are enough for 20,000 random certificates; twice for a free a
_MOST_LENGTH = 0.3  # that r may change in one step
_MOST_SHRINK = 0.7  # of b in one step


class Proposal(NamedTuple):
    """Multipliers and the radius that they prove, up to rounding."""

    multipliers: Multipliers
    r: jax.Array


class _State(NamedTuple):
    """The best multipliers so far, and the next to be tried."""

    multipliers: jax.Array  # [m, 3]
    r: jax.Array  # [m]
    dual: DualValue
    proved: jax.Array  # [m], the radius that the multipliers prove
    damping: jax.Array  # [m]
    next_multipliers: jax.Array  # [m, 3]
    next_r: jax.Array  # [m]
    is_done: jax.Array  # [m]
    step: jax.Array


def solve(known: Constraints, interval: Any, *, free_parallel: bool) -> Proposal:
    """Multipliers with nearly the largest provable radius, for `[m]` certificates.

    `free_parallel` lets a be negative, which needs the exact parallel component.
    """
    multipliers, r = _start(known, interval)
    nothing = jnp.zeros_like(r)
    state = _State(
        multipliers=multipliers,
        r=r,
        dual=jax.tree.map(
            lambda leaf: jnp.zeros(leaf.shape, leaf.dtype),
            jax.eval_shape(_evaluate, multipliers, r, known),
        ),
        proved=nothing - jnp.inf,
        damping=nothing,
        next_multipliers=multipliers,
        next_r=r,
        is_done=nothing > 0,
        step=jnp.int32(0),
    )

    most_steps = (2 if free_parallel else 1) * _MAX_STEPS

    def goes_on(state: _State) -> jax.Array:
        return (state.step < most_steps) & ~jnp.all(state.is_done)

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
        dual.density(z, DEVICE) / jnp.abs(r * likelihood - a)
        for z, likelihood in ((low, at_low), (high, at_high))
    )
    b = jnp.maximum(known.perpendicular, 1e-9) / crossing
    return jnp.stack([a, b, at_high - a * high], axis=-1), r


def _evaluate(multipliers: jax.Array, r: jax.Array, known: Constraints) -> DualValue:
    return dual.dual_derivatives(
        Multipliers(*multipliers.T), r, known, num_nodes=_NUM_NODES
    )


def _proved(multipliers: jax.Array, r: jax.Array, at: DualValue) -> jax.Array:
    """Where D falls to 1/2 along a tangent in r on which the multipliers scale with r.

    As L - 1 does; with fixed ones D bends sharply where r is short and b small.
    """
    scaling = (multipliers - jnp.array([[0.0, 0.0, 1.0]], r.dtype)) / r[:, None]
    slope = at.slope + jnp.sum(at.gradient * scaling, axis=-1)
    return r + (at.value - 0.5) / jnp.maximum(-slope, 1e-3)


def _improve(state: _State, known: Constraints, free_parallel: bool) -> _State:
    """Keeps what was proposed if it proves more, and proposes the next."""
    new = _evaluate(state.next_multipliers, state.next_r, known)
    proved = _proved(state.next_multipliers, state.next_r, new)
    slack = 4 * jnp.finfo(proved.dtype).eps
    is_better = proved >= state.proved - slack
    is_done = state.is_done | (
        (jnp.abs(proved - state.proved) <= slack)
        & (jnp.abs(state.next_r - state.r) <= 64 * slack)
    )

    def keep(new: jax.Array, old: jax.Array) -> jax.Array:
        keeps = is_better & ~state.is_done
        return jnp.where(keeps.reshape(keeps.shape + (1,) * (new.ndim - 1)), new, old)

    multipliers, r, best, proved, damping = jax.tree.map(
        keep,
        (state.next_multipliers, state.next_r, new, proved, 0.1 * state.damping),
        (*state[:4], 8 * jnp.maximum(state.damping, 1e-6)),
    )
    state = state._replace(
        multipliers=multipliers, r=r, dual=best, proved=proved, damping=damping,
        is_done=is_done, step=state.step + 1,
    )  # fmt: skip
    change, growth = _newton(state, free_parallel)
    shrink = -change[:, 1] / (_MOST_SHRINK * multipliers[:, 1])
    share = 1 / jnp.maximum(shrink, 1.0)
    floor = jnp.array([[-jnp.inf if free_parallel else 0.0, 0.0, 0.0]], change.dtype)
    return state._replace(
        next_multipliers=jnp.maximum(multipliers + share[:, None] * change, floor),
        next_r=jnp.clip(r + share * growth, 1e-3, dual.max_length(r.dtype)),
    )


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
    scale = jax.lax.rsqrt(
        jnp.maximum(-jnp.diagonal(at.hessian, axis1=1, axis2=2), 1e-30)
    )
    curvature = -at.hessian * scale[:, :, None] * scale[:, None, :]
    fixed = jnp.where(holds_a, -state.multipliers[:, 0] / scale[:, 0], 0.0)
    is_free = 1.0 - jnp.stack([holds_a, *[jnp.zeros_like(holds_a)] * 2], -1)
    gradient = (scale * at.gradient - curvature[:, :, 0] * fixed[:, None]) * is_free
    gradient = gradient.at[:, 0].add(fixed * (1.0 - is_free[:, 0]))
    cross = scale * at.cross * is_free
    matrix = curvature * is_free[:, :, None] * is_free[:, None, :]
    eps = jnp.finfo(matrix.dtype).eps
    ridge = state.damping + 500 * eps
    diagonal = ridge[:, None] * is_free + 1.0 - is_free
    matrix += diagonal[:, None, :] * jnp.eye(3, dtype=matrix.dtype)[None]
    still = _solve3(matrix, gradient)
    moving = _solve3(matrix, cross)
    own = scale * at.gradient
    growth = (0.5 - at.value - jnp.sum(own * still, -1)) / (
        at.slope + jnp.sum(own * moving, -1)
    )
    growth = jnp.clip(growth, -_MOST_LENGTH, _MOST_LENGTH)
    return scale * (still + moving * growth[:, None]), growth


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
