"""Polytopes inside a box: the smallest value of a linear form, by the dual program.

For inputs x of the box [l, u], with centre c and radius r, and A x + b <= 0, weak
duality gives for all multipliers m >= 0

    w . x >= (w + A' m) . c - |w + A' m| . r + b . m,

and the maximum over m is the minimum of the linear program. Mehrotra's equations,

    A y + b + s = 0,   w + A' m - p + q = 0,   s m = y p = (1 - y) q = t,

with y in [0, 1] for the box, are followed by Newton's method from t = 1 down; the best
m on the way is kept. The bound holds for each of them. Large multipliers of steep
constraints magnify rounding, so a few roundings of b . m and of A' m are subtracted
from it in any case.

Reference:
    Wright (1997), Primal-Dual Interior-Point Methods, chapters 1 and 10.
"""

from typing import Any, NamedTuple

import jax
import jax.numpy as jnp

from robustjax.bounds import ibp
from robustjax.bounds.linear.backward import LinearForm, Total
from robustjax.bounds.operations import Interval

_NUM_STEPS = 20  # each one divides t by about ten
_CENTRING = 0.1  # the aim of a step, in units of t
_TO_THE_WALL = 0.99  # share of the way to a bound of a step that would cross it
_ROUNDINGS = 16  # of the terms of constraints, which large multipliers magnify
_HIGHEST = jax.lax.Precision.HIGHEST


class Polytope(NamedTuple):
    """Inputs with rows . x + offsets <= 0, sums over all entries of the input."""

    rows: jax.Array  # [m, ...] as the input
    offsets: jax.Array  # [m]


class _Program(NamedTuple):
    """Minimise w . y for y in [0, 1] with rows . y + offsets <= 0."""

    weight: jax.Array  # [n]
    rows: jax.Array  # [m, n]
    offsets: jax.Array  # [m]
    rounding: jax.Array  # [m], what a multiplier costs, see `_ROUNDINGS`


class _Point(NamedTuple):
    """Where the interior-point method is: all numbers but those of y are positive."""

    y: jax.Array  # [n], in (0, 1)
    slack: jax.Array  # [m], s
    multiplier: jax.Array  # [m]
    of_low: jax.Array  # [n], p
    of_high: jax.Array  # [n], q


def least(
    form: LinearForm, box: Interval, polytope: Polytope, *, total: Total
) -> jax.Array:
    """Minimum of each row over the part of a polytope that lies inside a box. [device].

    A constraint ties entries of different cells together, so each cell gets a row.

    Args:
        form: the rows.
        box: lower and upper bounds of the input.
        polytope: the constraints.
        total: how the numbers of a row are summed.

    Returns:
        `[rows, cells]`, lower bounds. Where no input of the box meets the constraints,
        they may be of any size.
    """
    weight = _apart(form.weight, total)  # [rows, cells, n]
    low, high = (end.reshape(-1) for end in box)
    offsets = jnp.asarray(polytope.offsets, weight.dtype)
    rows = jnp.asarray(polytope.rows, weight.dtype).reshape(len(offsets), -1)
    size, eps = ibp.size_of((low, high)), jnp.finfo(weight.dtype).eps
    smallest = ibp.least_size(weight.dtype)
    terms = _dot(jnp.abs(rows), size) + jnp.abs(offsets) + smallest  # [m]
    constants = jax.lax.stop_gradient((rows, offsets, _ROUNDINGS * eps * terms))
    box = jax.lax.stop_gradient((low, high))

    def best(one: jax.Array) -> jax.Array:
        return _multipliers(_Program(jax.lax.stop_gradient(one), *constants), box)

    multiplier = jax.vmap(jax.vmap(best))(weight)
    moved = weight + _dot(multiplier, rows)
    centre, radius = 0.5 * (low + high), 0.5 * (high - low)
    found = _dot(moved, centre) - _dot(jnp.abs(moved), radius)
    found += _dot(multiplier, offsets) - _ROUNDINGS * eps * _dot(multiplier, terms)
    if form.rounding:
        rounding = form.rounding + 4 * (len(rows) + 4) * eps
        slack = _dot(jnp.abs(weight) + smallest, size) + _dot(multiplier, terms)
        found -= rounding * slack
    return found + form.bias


def _apart(weight: jax.Array, total: Total) -> jax.Array:
    """The weights of each cell alone, zero elsewhere, [rows, cells, n]."""
    cells = jax.eval_shape(lambda entries: total(0, entries), weight)
    transpose = jax.linear_transpose(lambda entries: total(0, entries), weight)

    def of_cell(chosen: jax.Array) -> jax.Array:
        (is_inside,) = transpose(jnp.broadcast_to(chosen[None], cells.shape))
        return jnp.where(is_inside != 0, weight, 0.0).reshape(len(weight), -1)

    return jax.vmap(of_cell, out_axes=1)(jnp.eye(cells.shape[1], dtype=cells.dtype))


def _multipliers(program: _Program, box: Interval) -> jax.Array:
    """Multipliers [m] for x in a box [n], zero if no better ones are found."""
    low, width = box[0], box[1] - box[0]
    weight, rows = program.weight * width, program.rows * width[None]
    scale = _nonzero(jnp.max(jnp.abs(weight), initial=0.0))
    scales = _nonzero(jnp.max(jnp.abs(rows), axis=1, initial=0.0))
    program = _Program(
        weight / scale,
        rows / scales[:, None],
        (program.offsets + _dot(program.rows, low)) / scales,
        program.rounding / scales,
    )

    def step(state: Any, _: None) -> tuple[Any, None]:
        point, best, bound = state
        point = _newton(program, point)
        here = _dual(program, point.multiplier)
        is_better = here > bound  # false for NaN
        best = jnp.where(is_better, point.multiplier, best)
        return (point, best, jnp.where(is_better, here, bound)), None

    nothing = jnp.zeros_like(scales)
    start = (_start(program), nothing, _dual(program, nothing))
    (_, best, _), _ = jax.lax.scan(step, start, length=_NUM_STEPS)
    return best * (scale / scales)


def _start(program: _Program) -> _Point:
    """The middle of the box, with dual numbers that meet their equation."""
    y = jnp.full_like(program.weight, 0.5)
    multiplier = jnp.ones_like(program.offsets)
    reduced = program.weight + _dot(program.rows.T, multiplier)
    slack = jnp.maximum(-(_dot(program.rows, y) + program.offsets), 1.0)
    return _Point(
        y,
        slack,
        multiplier,
        jnp.maximum(reduced, 0.0) + 1,
        jnp.maximum(-reduced, 0.0) + 1,
    )


def _newton(program: _Program, at: _Point) -> _Point:
    """One step towards the point whose products are a tenth of those here."""
    rows, left = program.rows, 1 - at.y  # left: to the upper end
    products = at.y * at.of_low, left * at.of_high, at.slack * at.multiplier
    size = sum(len(p) for p in products)
    aim = _CENTRING * sum(map(jnp.sum, products)) / size
    primal = _dot(rows, at.y) + program.offsets + at.slack
    dual = program.weight + _dot(rows.T, at.multiplier) - at.of_low + at.of_high
    curvature = at.of_low / at.y + at.of_high / left
    pull = -dual + aim / at.y - at.of_low - aim / left + at.of_high
    matrix = jnp.matmul(rows / curvature[None], rows.T, precision=_HIGHEST)
    matrix += jnp.diag(at.slack / at.multiplier)
    wanted = primal + _dot(rows, pull / curvature) + aim / at.multiplier - at.slack
    d_multiplier = jnp.linalg.solve(matrix, wanted)
    d_y = (pull - _dot(rows.T, d_multiplier)) / curvature
    d_low = (aim - products[0] - at.of_low * d_y) / at.y
    d_high = (aim - products[1] + at.of_high * d_y) / left
    d_slack = (aim - products[2] - at.slack * d_multiplier) / at.multiplier
    forward = _share((at.y, d_y), (left, -d_y), (at.slack, d_slack))
    up = _share((at.multiplier, d_multiplier), (at.of_low, d_low), (at.of_high, d_high))
    return _Point(
        at.y + forward * d_y,
        at.slack + forward * d_slack,
        at.multiplier + up * d_multiplier,
        at.of_low + up * d_low,
        at.of_high + up * d_high,
    )


def _share(*numbers_and_moves: tuple[jax.Array, jax.Array]) -> jax.Array:
    """The share of a move after which all numbers are still positive, at most 1."""
    shares = [
        jnp.min(
            jnp.where(move < 0, -x / jnp.where(move < 0, move, 1.0), jnp.inf),
            initial=jnp.inf,
        )
        for x, move in numbers_and_moves
    ]
    return jnp.minimum(_TO_THE_WALL * jnp.min(jnp.stack(shares)), 1.0)


def _dual(program: _Program, multiplier: jax.Array) -> jax.Array:
    reduced = program.weight + _dot(program.rows.T, multiplier)
    constant = _dot(program.offsets - program.rounding, multiplier)
    return jnp.sum(jnp.minimum(reduced, 0.0)) + constant


def _dot(first: jax.Array, second: jax.Array) -> jax.Array:
    return jnp.matmul(first, second, precision=_HIGHEST)


def _nonzero(scale: jax.Array) -> jax.Array:
    return jnp.where(scale > 0, scale, 1.0)
