r"""Worst cases under any finite set of linear moment constraints, in the plane.

Units: sigma = 1; z = (z1, z2) is standard normal, z1 along the perturbation, r its
length. Known are moments E[f(z) psi_k(z)] = m_k of the probability f of class A (or >=
m_k). The smallest E[f(z + (r, 0))] = E[f L], L = exp(r z1 - r^2 / 2), is the maximum of
the concave dual

    D(lambda) = lambda . m - E[(lambda . psi(z) - L)_+],                         (1)

with lambda_k >= 0 where m_k is a lower bound. psi = 1 is zeroth order, (1, z1, z2)
first order; (1, z1, z1^2 - 1) adds the second derivative along the perturbation.

*Any* lambda gives D <= the smallest probability. The expectation is the integral of h_+
times 1 + L and the density of z. As h_+ has a kink along an unknown curve, no fixed
rule integrates it well. So it is replaced by the larger

    h Phi(h / w) + w phi(h / w) >= h_+,   h = (lambda . psi(z) - L) / (1 + L),   (2)

analytic for every width w > 0: this lowers D, and the trapezoidal rule then converges
exponentially. What the width costs falls with its square: the multipliers that are
found are evaluated once more, on nodes six times as near and with widths less than half
as large. Nothing is extrapolated to w = 0. What the nodes leave out, more than 7.5
standard deviations away, is part of the loss as well: it is bounded on a coarse rule
that reaches out to 16, and subtracted.

Reference:
    Mohapatra, Ko, Weng, Chen, Liu and Daniel (2020), Higher-Order Certification for
    Randomized Smoothing, arXiv 2010.06651, for the idea. The dual, the quadrature and
    the radius are ours; that the paper's general framework is this one was not checked.
"""

import functools
from collections.abc import Callable, Sequence
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jax.scipy.special import ndtr, ndtri
from jax.typing import ArrayLike

from robustjax import _validate
from robustjax.smoothing.radii.moment_quadrature import Grid, Moments, grid, left_out
from robustjax.special.normal import normal_pdf

_SOLVER_WIDTH = 0.3  # of the smoothing, in changes of h from node to node
_WIDTH = 0.8  # the same, where D is evaluated; aliasing falls as exp(-20 w^2)
_FINER = 6  # times, in each direction, are the nodes nearer there
_FIRST_WIDTH = 0.5  # added to it at the first step
_SHRINKAGE = 0.8  # of that from step to step; faster loses moments that determine f
_COLD_STEPS = 80
_WARM_FIRST_WIDTH, _WARM_SHRINKAGE, _WARM_STEPS = 0.05, 0.5, 24  # from a point nearby
_FIRST_POINTS = (0.005, 0.05, 0.25, 0.5)  # of the march
_MAX_ROUNDS = 200  # of the march to the radius
_LARGEST_MARGIN = 0.1  # above it, multipliers are too large for the dtype
_ROUNDING = 64  # epsilons of the terms that D sums


class WorstCase(NamedTuple):
    """The smallest probability that the constraints leave, and how it was bounded."""

    probability: jax.Array  # [], a lower bound
    multipliers: jax.Array  # [k]
    margin: jax.Array  # [], subtracted for quadrature and rounding


def worst_case_probability(
    moment_functions: Moments,
    values: ArrayLike,
    r: ArrayLike,
    *,
    lower: Sequence[bool] | None = None,
    num_nodes: int = 256,
) -> WorstCase:
    """Smallest probability of class A at a distance, given moments of the classifier.

    [device] Pure, jittable and vmappable over `values` and r; keeps their dtype. Memory
    and time grow with num_nodes^2 times the number of moments.

    Guarantee:
        A lower bound for every f in [0, 1] with these moments, up to the error of the
        quadrature. The smoothed dual is below D whatever the multipliers. What is
        measured and not proved is its aliasing, exponentially small: four times the
        largest difference to a rule of half of the nodes is subtracted. The nodes have
        to resolve the moment functions: they are (15 + r) / (6 num_nodes) apart.
        What lies more than 7.5 standard deviations out is summed up, doubled and
        subtracted, up to 16; functions that grow so fast that more lies beyond, as
        exp(norm(z)^2 / 2) does, give 0. Never below the bound from the first moment
        alone, the first two, and so on, where all values are finite. In float64 and
        with the default nodes the first-order bound is within 1e-4 of the exact one for
        p <= .95 and within 4e-3 at p = .999.

    Args:
        moment_functions: psi, maps points `[..., 2]` to moments `[..., k]`; smooth,
            jittable, one stable object.
        values: m, their expectations under f, `[k]`.
        r: length of the perturbation, positive.
        lower: for each moment whether its value is only a lower bound; default none.
        num_nodes: nodes of the quadrature in each direction.

    Returns:
        The bound in [0, 1], the multipliers that prove it, and the margin. 0 where a
        value is not finite; without meaning where no f has these moments.

    Raises:
        ValueError: if shapes do not match, r is not positive or num_nodes is below 32.

    Example:
        >>> ones = lambda z: z[..., :1] ** 0
        >>> worst = worst_case_probability(ones, [0.9], 1.0, num_nodes=64)
        >>> print(f"{worst.probability:.2f}")
        0.61

    Reference: ours; see the module.
    """
    values, mask = _checked(moment_functions, values, lower, num_nodes)
    _validate.positive(r=r)
    return _worst_case(
        moment_functions,
        values,
        jnp.asarray(r, values.dtype),
        jnp.zeros_like(values),
        lower=mask,
        num_nodes=num_nodes,
        is_warm=False,
    )


def worst_case_radius(
    moment_functions: Moments,
    values: ArrayLike,
    *,
    lower: Sequence[bool] | None = None,
    num_nodes: int = 256,
    tolerance: float = 1e-5,
) -> jax.Array:
    """Distance along z1 up to which class A keeps more than half the probability.

    [device] Pure, jittable and vmappable over `values`; keeps their dtype. The march
    starts at zero and adds ndtri(worst probability) as long as that is more than
    `tolerance`: the zeroth-order radius around the point that has been reached.

    Guarantee:
        Class A has more than half of the probability at every distance below the
        radius, not only at the radius, since ndtri of the probability changes no
        faster than the distance. Nothing need be monotone. It rests on the values of
        `worst_case_probability` and their measured error. For this one direction only.

    Args:
        moment_functions: psi, as in `worst_case_probability`.
        values: their expectations under f, `[k]`.
        lower: for each moment whether its value is only a lower bound; default none.
        num_nodes: nodes of the quadrature in each direction.
        tolerance: the step at which the march ends, positive; with slope -s of the
            probability the radius falls short by tolerance * (1 / (2.5 s) - 1).

    Returns:
        The radius, in units of sigma; 0 where the class is not certified at all. At
        most 200 steps are made.

    Raises:
        ValueError: as `worst_case_probability`.

    Example:
        >>> ones = lambda z: z[..., :1] ** 0
        >>> print(f"{worst_case_radius(ones, [0.9], num_nodes=64):.2f}")
        1.28

    Reference: ours.
    """
    values, mask = _checked(moment_functions, values, lower, num_nodes)
    _validate.positive(tolerance=tolerance)
    return _march(
        moment_functions,
        values,
        jnp.asarray(tolerance, values.dtype),
        lower=mask,
        num_nodes=num_nodes,
    )


def _checked(
    moment_functions: Moments,
    values: ArrayLike,
    lower: Sequence[bool] | None,
    num_nodes: int,
) -> tuple[jax.Array, tuple[bool, ...]]:
    _validate.integer(32, num_nodes=num_nodes)
    array = jnp.asarray(values)
    array = array.astype(jnp.result_type(jnp.float32, array))
    if array.ndim != 1:
        raise ValueError(f"Expected values of shape [k], got {array.shape}.")
    shape = jax.eval_shape(moment_functions, jnp.zeros(2, array.dtype)).shape
    if shape != array.shape:
        raise ValueError(
            f"Expected moment_functions to map [..., 2] to [..., {array.size}], one "
            f"moment for each of the values, got {shape} from one point."
        )
    mask = (False,) * array.size if lower is None else tuple(map(bool, lower))
    if len(mask) != array.size:
        raise ValueError(f"Expected {array.size} entries in lower, got {lower}.")
    return array, mask


@functools.partial(
    jax.jit, static_argnames=("moment_functions", "lower", "num_nodes", "is_warm")
)
def _worst_case(
    moment_functions: Moments,
    values: jax.Array,
    r: jax.Array,
    start: jax.Array,
    *,
    lower: tuple[bool, ...],
    num_nodes: int,
    is_warm: bool,
) -> WorstCase:
    nodes = grid(moment_functions, r, num_nodes)
    finer = functools.partial(grid, moment_functions, r, num_nodes)

    def bounded(is_used: jax.Array) -> WorstCase:
        multipliers = _ascend(
            start, values, nodes, lower=lower, is_used=is_used, is_warm=is_warm
        )
        bound, margin = _bound(multipliers, values, finer)
        outside = left_out(moment_functions, r, multipliers)
        bound, margin = bound - outside, margin + outside
        # D is never above 1: where it seems so, the quadrature has failed.
        is_known = (bound <= 1) & (margin <= _LARGEST_MARGIN)  # False for NaN
        probability = jnp.where(is_known, jnp.maximum(bound, 0.0), 0.0)
        return WorstCase(probability, multipliers, margin)

    used = jnp.tri(values.size, dtype=bool)  # the first moment, the first two, ...
    if is_warm:
        return bounded(used[-1])
    by_number = jax.lax.map(bounded, used)
    best = jnp.argmax(by_number.probability)
    return jax.tree.map(lambda leaf: leaf[best], by_number)


@functools.partial(jax.jit, static_argnames=("moment_functions", "lower", "num_nodes"))
def _march(
    moment_functions: Moments,
    values: jax.Array,
    tolerance: jax.Array,
    *,
    lower: tuple[bool, ...],
    num_nodes: int,
) -> jax.Array:
    worst_case = functools.partial(
        _worst_case, moment_functions, values, lower=lower, num_nodes=num_nodes
    )

    def step_from(probability: jax.Array) -> jax.Array:
        inside = jnp.clip(probability, 0.5, 1 - jnp.finfo(values.dtype).epsneg)
        return jnp.where(probability > 0.5, ndtri(inside), 0.0)

    def advance(state: Any) -> Any:
        r, step, multipliers, count = state
        r = r + step
        worst = worst_case(r, multipliers, is_warm=True)
        return r, step_from(worst.probability), worst.multipliers, count + 1

    def goes_on(state: Any) -> jax.Array:
        return (state[1] > tolerance) & (state[3] < _MAX_ROUNDS)

    # The first point is not the origin, where L = 1; back to it the same bound holds.
    # Near the origin moments that nearly determine f need very large multipliers.
    firsts = jnp.array(_FIRST_POINTS, values.dtype)
    cold = functools.partial(worst_case, start=jnp.zeros_like(values), is_warm=False)
    worsts = jax.lax.map(cold, firsts)
    steps = step_from(worsts.probability)
    steps = jnp.where(steps > firsts, steps, -firsts)
    best = jnp.argmax(firsts + steps)
    first, step = firsts[best], steps[best]
    state = (first, jnp.maximum(step, 0.0), worsts.multipliers[best], jnp.int32(1))
    r, step, _, _ = jax.lax.while_loop(goes_on, advance, state)
    return jnp.where(steps[best] > 0, r + step, 0.0)


def _ascend(
    start: jax.Array,
    values: jax.Array,
    nodes: Grid,
    *,
    lower: tuple[bool, ...],
    is_used: jax.Array,
    is_warm: bool,
) -> jax.Array:
    """Damped Newton steps on the smoothed dual, its width shrinking step by step.

    Multipliers of moments that are not used stay at the start.
    """
    first_width, shrinkage, steps = (
        (_WARM_FIRST_WIDTH, _WARM_SHRINKAGE, _WARM_STEPS)
        if is_warm
        else (_FIRST_WIDTH, _SHRINKAGE, _COLD_STEPS)
    )
    is_lower = jnp.array(lower)

    def step(index: jax.Array, state: Any) -> Any:
        multipliers, damping = state
        extra = first_width * shrinkage ** index.astype(values.dtype)
        excess, width = _smoothing(multipliers, nodes, extra)
        change = _newton_step(
            (excess, width),
            values,
            nodes,
            damping=damping,
            is_free=is_used,
            is_held=is_lower & (multipliers <= 0),
        )
        trial = multipliers + change
        trial = jnp.where(is_lower, jnp.maximum(trial, 0.0), trial)
        old = _smoothed(multipliers, values, nodes, (excess, width))
        new = _smoothed(trial, values, nodes, _smoothing(trial, nodes, extra))
        is_better = new >= old
        return (
            jnp.where(is_better, trial, multipliers),
            jnp.where(is_better, 0.1 * damping, 8 * jnp.maximum(damping, 1e-4)),
        )

    state = (start, jnp.zeros((), values.dtype))
    return jax.lax.fori_loop(0, steps, step, state)[0]


def _newton_step(
    smoothed_excess: tuple[jax.Array, jax.Array],
    values: jax.Array,
    nodes: Grid,
    *,
    damping: jax.Array,
    is_free: jax.Array,
    is_held: jax.Array,
) -> jax.Array:
    """The change of the free multipliers; held ones may only grow."""
    excess, width = smoothed_excess
    contract = functools.partial(jnp.einsum, precision=jax.lax.Precision.HIGHEST)
    t = jnp.clip(excess / width, -37.0, 37.0)
    mass = nodes.weight * ndtr(t)
    edge = nodes.weight * normal_pdf(t) / width
    gradient = values - contract("ij,ijk->k", mass, nodes.moments)
    curvature = contract("ij,ijk,ijl->kl", edge, nodes.moments, nodes.moments)
    is_free = is_free & ~(is_held & (gradient <= 0))
    scale = jax.lax.rsqrt(jnp.maximum(jnp.diag(curvature), 1e-30)) * is_free
    ridge = damping + 100 * jnp.finfo(values.dtype).eps
    matrix = curvature * scale[:, None] * scale[None, :]
    matrix += jnp.diag(jnp.where(is_free, ridge, 1.0))
    return scale * jnp.linalg.solve(matrix, scale * gradient)


def _excess(multipliers: jax.Array, nodes: Grid) -> jax.Array:
    """The h of the module, (lambda . psi - L) / (1 + L), at the nodes `[n, n]`."""
    weighted = jnp.einsum(
        "ijk,k->ij", nodes.moments, multipliers, precision=jax.lax.Precision.HIGHEST
    )
    return weighted - nodes.share


def _change(excess: jax.Array) -> jax.Array:
    """How much h changes from a node to the next."""
    first, second = jnp.gradient(excess)
    return jnp.sqrt(first**2 + second**2 + jnp.finfo(excess.dtype).tiny)


def _smoothing(
    multipliers: jax.Array, nodes: Grid, extra: jax.Array
) -> tuple[jax.Array, jax.Array]:
    """The h at the nodes, and the width that smooths it: larger where h is steep."""
    excess = _excess(multipliers, nodes)
    return excess, _SOLVER_WIDTH * _change(excess) + extra


def _smoothed(
    multipliers: jax.Array,
    values: jax.Array,
    nodes: Grid,
    smoothed_excess: tuple[jax.Array, jax.Array],
) -> jax.Array:
    """D with the positive part replaced by a larger smooth function, less rounding."""
    loss = jnp.sum(nodes.weight * _positive_part(*smoothed_excess))
    return multipliers @ values - loss - _rounding(multipliers, values)


def _rounding(multipliers: jax.Array, values: jax.Array) -> jax.Array:
    """What rounding may add to D; large multipliers are not worth their loss."""
    terms = jnp.abs(multipliers) @ jnp.abs(values) + 1.0
    return _ROUNDING * jnp.finfo(values.dtype).eps * terms


def _positive_part(excess: jax.Array, width: jax.Array) -> jax.Array:
    t = jnp.clip(excess / width, -37.0, 37.0)
    return excess * ndtr(t) + width * normal_pdf(t)  # (2)


def _bound(
    multipliers: jax.Array,
    values: jax.Array,
    finer: Callable[..., Grid],
) -> tuple[jax.Array, jax.Array]:
    """A lower bound of D, and the margin in it, on a finer grid.

    The finer grid consists of shifted ones. Its aliasing is measured by leaving out
    every second row, column, or node of a chequerboard, whichever changes more.
    """

    def loss(shift: jax.Array) -> jax.Array:
        along, across = shift / _FINER
        step = jnp.ones_like(along) / _FINER  # to the next node of the finer grid

        def excess_at(along: jax.Array, across: jax.Array) -> jax.Array:
            return _excess(multipliers, finer(shift=(along, across)))

        excess, first = jax.jvp(lambda a: excess_at(a, across), (along,), (step,))
        _, second = jax.jvp(lambda a: excess_at(along, a), (across,), (step,))
        width = _WIDTH * jnp.hypot(first, second) + 1e-9
        weight = finer(shift=(along, across)).weight
        return jnp.sum(weight * _positive_part(excess, width)) / _FINER**2

    index = np.arange(_FINER)
    shifts = np.stack(np.meshgrid(index, index, indexing="ij"), axis=-1)
    flat = jnp.asarray(shifts.reshape(-1, 2), values.dtype)
    losses = jax.lax.map(loss, flat).reshape(_FINER, _FINER)
    every = jnp.sum(losses)
    row, column = shifts[..., 0], shifts[..., 1]
    kept = (row % 2 == 0, column % 2 == 0, (row + column) % 2 == 0)
    halves = [2 * jnp.sum(losses[is_kept]) for is_kept in kept]
    aliasing = jnp.max(jnp.abs(every - jnp.stack(halves)))
    margin = 4 * aliasing + _rounding(multipliers, values)
    return multipliers @ values - every - margin, margin  # (1)
