r"""The `unproven` first-order radius of a ball, made rigorous by a cover of cells.

"box" reads the exposed component m1 of the gradient as a lower bound, which throws away
that ||m|| is known: where m1 is larger, less is left to be orthogonal. "unproven" uses
m1 = -exposed only, and rests on the observation that this is the worst one. Here every
m1 that the ball allows is covered. Units: sigma = 1; k is the l2 circumradius of the
threat ball of radius R, U bounds the dual norm of m, exposed = U / k, r = k R.

Proof. First, a perturbation delta of the ball has l2 length at most r and |delta . m|
<= R U. Averaging f by the Ornstein-Uhlenbeck kernel along a w orthogonal to m keeps p
and m, and carries delta to any longer delta' = delta + t w without a change of the
probability there. So only length r needs a proof, with the same delta . m, hence with
m1 = delta . m / r in [-exposed, exposed]: a shorter delta only has a smaller |m1| when
it is lengthened. Second, let a cell [left, right] hold m1. Then, for a of either sign
and the orthogonal part m2,

    a m1 >= min(a left, a right),                  (1)
    m2 >= sqrt(length^2 - max(left^2, right^2)).   (2)

Weak duality with these, b >= 0 and c >= 0 gives a lower bound D of the probability at
delta'. If D > 1/2 in every cell of a cover of [-exposed, exposed], all of the ball is
safe. Neither part compares two radii or two angles, so nothing need be monotone in r or
in m1: smaller balls are inside this one. In one dimension there is no w; the claim is
for two and more.

Reference: ours.
"""

import functools
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jax.typing import ArrayLike
from numpy.typing import NDArray

from robustjax import _validate
from robustjax._precision import float64_on_cpu
from robustjax.smoothing.radii import dual, first_order, newton, proof
from robustjax.smoothing.radii.dual import (
    DEVICE,
    HOST,
    Constraints,
    DualValue,
    Multipliers,
)
from robustjax.smoothing.radii.l2 import worst_interval
from robustjax.special.normal import normal_pdf

_NUM_NODES = 64  # on each side, to find multipliers
_STEPS = 8  # Newton steps in every round
_SETTLING = 2  # rounds without a split at the end
_NEAR = 1.05  # cells whose radius exceeds the smallest by this factor can wait
_SPLIT_SHARE = 4  # of the cells of a certificate one in four is halved in a round
_MOST_SHRINK = 0.7  # of b in one step
_BATCHES = (32, 512)  # numbers of cells that are compiled
_SMALL = 1e-9  # perpendicular parts below it count as zero


def cell_radius(
    p_lower: ArrayLike,
    exposed: ArrayLike,
    length_lower: ArrayLike,
    *,
    sigma: ArrayLike = 1.0,
    max_cells: int = 32,
) -> NDArray[np.float64]:
    """Largest l2 length at which a ball is certified, with m known up to its direction.

    [host] All is in units of the noise: m = sigma * (gradient of the probability of
    class A). In a ball with l2 circumradius k whose dual norm of m is at most U, pass
    exposed = U / k and divide the result by k. Elementwise. Rigorous, and between the
    "box" and the "unproven" radius, to which more cells come closer. About 30 to 100
    times the time of a "box" radius.

    Guarantee:
        The smoothed classifier predicts A at every x + delta of the ball, if the three
        bounds hold and the input has two coordinates or more. Every cell is proved by
        one float64 value of its dual, up to a measured error of the quadrature. Never
        below the "box" radius.

    Edge cases:
        ===================================  ==========================================
        Input                                Result
        ===================================  ==========================================
        p_lower <= 1/2, or any NaN           0, abstains
        length_lower <= exposed              the "box" radius
        ===================================  ==========================================

    Args:
        p_lower: lower bounds of the probability of class A, in [0, 1], any shape.
        exposed: upper bounds of |m1|, at least 0, of a shape that broadcasts.
        length_lower: lower bounds of the l2 norm of m, of a shape that broadcasts.
        sigma: noise level, positive; the radius has its units.
        max_cells: cells that may cover the range of m1.

    Returns:
        Radii >= 0 in float64.

    Raises:
        TypeError: if max_cells is not an integer.
        ValueError: if an argument is out of range.

    Example:
        >>> print(f"{cell_radius(0.9, 0.0623, 0.1719):.2f}")
        2.12

    Reference:
        Ours; the dual of the worst case is that of Mohapatra et al. (2020), arXiv
        2010.06651.
    """
    _validate.integer(1, max_cells=max_cells)
    _validate.positive(sigma=sigma)
    arrays = (np.asarray(v, np.float64) for v in (p_lower, exposed, length_lower))
    p, bound, length = np.broadcast_arrays(*arrays)
    if (bound < 0).any():
        raise ValueError(f"Expected exposed >= 0, got {exposed}.")
    q = np.maximum(1 - p, np.finfo(np.float64).epsneg)
    longest = normal_pdf(HOST.ndtri(q), xp=HOST.xp)  # ||m|| <= phi(ndtri(p))
    bound, length = np.minimum(bound, longest), np.minimum(length, longest)
    rest = np.sqrt(np.maximum(length**2 - bound**2, 0.0))
    best = np.array(first_order.first_order_radius(p, -bound, rest), ndmin=1)
    rows = np.flatnonzero((p > 0.5) & (rest > _SMALL))
    if rows.size:
        known = (v.ravel()[rows] for v in (q, bound, length, best))
        best.ravel()[rows] = _cover(*known, max_cells=max_cells)
    return best.reshape(p.shape) * np.asarray(sigma, np.float64)


class _Cells(NamedTuple):
    """Cells of all certificates, `[m]` each."""

    row: Any  # the certificate that a cell belongs to
    left: Any
    right: Any
    multipliers: Any  # [m, 3]
    radius: Any  # that the cell would prove by itself, roughly


class _Bounds(NamedTuple):
    """What is known for m1 in a cell, `[m]` each."""

    q: Any
    left: Any
    right: Any
    perpendicular: Any

    def constraints(self, a: Any, xp: Any) -> Constraints:
        """The bounds that hold for multipliers with this a."""
        parallel = xp.where(a >= 0, self.left, self.right)  # (1)
        return Constraints(self.q, parallel, self.perpendicular)


def _cover(
    q: NDArray[np.float64],
    exposed: NDArray[np.float64],
    length: NDArray[np.float64],
    radius: NDArray[np.float64],
    *,
    max_cells: int,
) -> NDArray[np.float64]:
    """Radii at least as large as the box `radius`."""
    multipliers = _finite(_in_batches(_box_multipliers, q, exposed, length))
    can_gain = np.flatnonzero(multipliers[:, 0] <= _SMALL)  # else exact = box
    q, exposed, length = (v[can_gain] for v in (q, exposed, length))
    cells = _Cells(
        row=np.arange(can_gain.size),
        left=-exposed,
        right=exposed,
        multipliers=multipliers[can_gain],
        radius=radius[can_gain],
    )
    settled = 0
    while settled < _SETTLING and can_gain.size:
        r = _least(cells.radius, cells.row)
        waits = (cells.radius > _NEAR * r[cells.row]) & (settled == 0)
        cells = _improve(cells, r, np.flatnonzero(~waits), _bounds(cells, q, length))
        num_cells = cells.row.size
        cells = _split(cells, max_cells)
        settled = settled + 1 if cells.row.size == num_cells else 0
    proved = radius.copy()
    if can_gain.size:
        proved[can_gain] = _prove(cells, _bounds(cells, q, length))
    return np.maximum(radius, proved)


@jax.jit
def _box_multipliers(q: jax.Array, exposed: jax.Array, length: jax.Array) -> jax.Array:
    """Multipliers `[m, 3]` of the box radius: one cell, with a >= 0."""
    rest = jnp.sqrt(length**2 - exposed**2)
    known = Constraints(q, -exposed, rest)
    interval = worst_interval(q, -exposed, DEVICE)
    proposal = newton.solve(known, interval, free_parallel=False)
    return jnp.stack(proposal.multipliers, axis=-1)


def _least(radius: NDArray[np.float64], row: NDArray[np.int64]) -> NDArray[np.float64]:
    """What all cells of a certificate prove together, for each certificate."""
    least = np.full(row.max() + 1, dual.max_length(radius.dtype))
    np.minimum.at(least, row, radius)
    return np.maximum(least, 1e-3)


def _improve(
    cells: _Cells, r: NDArray[np.float64], index: NDArray[np.int64], bounds: _Bounds
) -> _Cells:
    """Better multipliers for some cells, at the radius of their certificate."""
    at = r[cells.row[index]]
    known = (v[index] for v in bounds)
    multipliers, value, slope = _in_batches(
        _ascend, cells.multipliers[index], at, *known
    )
    own = at + (value - 0.5) / np.maximum(-slope, 1e-3)
    cells = cells._replace(
        multipliers=cells.multipliers.copy(), radius=cells.radius.copy()
    )
    cells.multipliers[index] = _finite(multipliers)
    cells.radius[index] = np.where(np.isfinite(own), own, 0.0)
    return cells


def _bounds(
    cells: _Cells, q: NDArray[np.float64], length: NDArray[np.float64]
) -> _Bounds:
    farthest = np.maximum(cells.left**2, cells.right**2)
    rest = np.sqrt(np.maximum(length[cells.row] ** 2 - farthest, 0.0))  # (2)
    return _Bounds(q[cells.row], cells.left, cells.right, rest)


def _finite(multipliers: NDArray[np.float64]) -> NDArray[np.float64]:
    return np.where(np.isfinite(multipliers), multipliers, 1.0)


def _split(cells: _Cells, max_cells: int) -> _Cells:
    """Halves the cells of each certificate that prove least, up to `max_cells`."""
    order = np.lexsort((cells.radius, cells.row))  # by certificate, weakest first
    counts = np.bincount(cells.row)
    first = np.cumsum(counts) - counts
    rank = np.empty_like(order)
    rank[order] = np.arange(order.size) - first[cells.row[order]]
    quota = np.minimum(np.maximum(counts // _SPLIT_SHARE, 1), max_cells - counts)
    weak = np.flatnonzero(rank < quota[cells.row])
    middle = 0.5 * (cells.left[weak] + cells.right[weak])
    right_halves = _Cells(*(v[weak] for v in cells))._replace(left=middle)
    right = cells.right.copy()
    right[weak] = middle
    both = zip(cells._replace(right=right), right_halves, strict=True)
    return _Cells(*map(np.concatenate, both))


@jax.jit
def _ascend(
    multipliers: jax.Array, r: jax.Array, *bounds: jax.Array
) -> tuple[jax.Array, jax.Array, jax.Array]:
    """Newton steps towards the largest D at a fixed r; also D and dD/dr there.

    min(a left, a right) has a kink at a = 0: a step that would cross it ends on it.
    """
    known = _Bounds(*bounds)
    floor = jnp.array([[-jnp.inf, 0.0, 0.0]])
    evaluate = functools.partial(_evaluate, r=r, known=known)

    def step(_: Any, state: Any) -> Any:
        best, at, damping = state
        a = best[:, 0]
        stays = (a == 0) & (at.gradient[:, 0] == 0)
        change = _newton_step(at, a, stays, damping)
        crosses = a * (a + change[:, 0]) < 0
        to_zero = _newton_step(at, a, crosses | stays, damping)
        change = jnp.where(crosses[:, None], to_zero, change)
        shrink = -change[:, 1] / (_MOST_SHRINK * best[:, 1])
        change /= jnp.maximum(shrink, 1.0)[:, None]
        trial = jnp.maximum(best + change, floor)
        new = evaluate(trial)
        is_better = new.value >= at.value

        def keep(new: jax.Array, old: jax.Array) -> jax.Array:
            mask = is_better.reshape(is_better.shape + (1,) * (new.ndim - 1))
            return jnp.where(mask, new, old)

        worse = (best, at, 8 * jnp.maximum(damping, 1e-6))
        return jax.tree.map(keep, (trial, new, 0.1 * damping), worse)

    start = (multipliers, evaluate(multipliers), jnp.zeros_like(r))
    best, at, _ = jax.lax.fori_loop(0, _STEPS, step, start)
    return best, at.value, at.slope


def _evaluate(multipliers: jax.Array, *, r: jax.Array, known: _Bounds) -> DualValue:
    """D with its derivatives; at a = 0, of the one-sided ones that which ascends."""
    a, b, c = multipliers.T
    at = dual.dual_derivatives(
        Multipliers(a, b, c), r, known.constraints(a, jnp), num_nodes=_NUM_NODES
    )
    upward = at.gradient[:, 0]  # with `left` where a = 0
    downward = upward - known.left + known.right
    at_kink = jnp.where(upward > 0, upward, jnp.minimum(downward, 0.0))
    slope_a = jnp.where(a == 0, at_kink, upward)
    return at._replace(gradient=at.gradient.at[:, 0].set(slope_a))


def _newton_step(
    at: DualValue, a: jax.Array, to_zero: jax.Array, damping: jax.Array
) -> jax.Array:
    """The damped Newton step; where `to_zero`, a goes there and its equation drops."""
    scale, matrix, gradient, _ = newton.system(at, a, to_zero, ridge=damping + 1e-12)
    return scale * jnp.linalg.solve(matrix, gradient[..., None])[..., 0]


def _in_batches(function: Any, *arrays: NDArray[np.float64]) -> Any:
    """The results of a jitted function in float64 on the CPU, in few batch sizes."""
    num_rows = arrays[0].shape[0]
    size = next((s for s in _BATCHES if s >= num_rows), _BATCHES[-1])
    parts = []
    with float64_on_cpu():
        for first in range(0, num_rows, size):
            part = [v[first : first + size] for v in arrays]
            missing = size - part[0].shape[0]
            padded = [np.concatenate([v, v[:1].repeat(missing, 0)]) for v in part]
            result = jax.tree.map(np.asarray, function(*padded))
            parts.append(jax.tree.map(lambda v, m=missing: v[: size - m], result))
    return jax.tree.map(lambda *leaves: np.concatenate(leaves), *parts)


def _prove(cells: _Cells, bounds: _Bounds) -> NDArray[np.float64]:
    """Radii that `proof.check` accepts in every cell, else 0.

    The weakest cell says where to try next.
    """
    r = _least(cells.radius, cells.row)
    proved = np.zeros_like(r)
    multipliers = Multipliers(*cells.multipliers.T)
    known = bounds.constraints(multipliers.a, np)
    for _ in range(proof.ATTEMPTS):
        at = r[cells.row]
        passes, step = proof.check(multipliers, at, known)
        is_proved = np.ones(r.shape, bool)
        np.logical_and.at(is_proved, cells.row, passes)
        proved = np.maximum(proved, np.where(is_proved, r, 0.0))
        own = at + step
        r = _least(np.where(np.isfinite(own), own, 0.0), cells.row)
    return proved
