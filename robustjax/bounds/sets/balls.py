"""Balls inside a box: the smallest value of a linear form, by a dual of one number.

In the box [l, u] and the ball |(x - c) / r|_p <= 1, with the dual exponent q, each
split of the weights w = v + z gives

    w . x >= (minimum over the box of v . x) + z . c - |r z|_q,

and one split gives the minimum. With the room of an entry in units of its radius,
up = (u - c) / r and down = (c - l) / r, it is

    z = clip(w, -m up / r, m down / r)   with m = |r z|_2           for p = 2,
    z = clip(w, -m / r, m / r)           with m = max over i of r z  for p = 1,

where for p = 1 the entries with r |w| > m have rooms that add up to one. The bound
holds for every m, so it does not depend on how well m is solved for.

Reference:
    Boyd and Vandenberghe (2004), Convex Optimization, section 5.2, weak duality.
    Michelot (1986), A Finite Algorithm for Finding the Projection of a Point onto the
    Canonical Simplex of R^n, for the iteration of p = 2. The split by cells is ours.
"""

from typing import NamedTuple

import jax
import jax.numpy as jnp

from robustjax.bounds import ibp
from robustjax.bounds.linear import backward
from robustjax.bounds.linear.backward import LinearForm, Total
from robustjax.bounds.operations import Interval

_NUM_SOLVES = 16  # of p = 2: each one moves one entry or more to an end of the box


class L2Ball(NamedTuple):
    """Inputs with sum of ((x - centre) / radius)^2 <= 1; where radius is 0 x = centre.

    A radius for each entry makes the ball an ellipsoid along the axes.
    """

    centre: jax.Array  # [...] as the input
    radius: jax.Array  # >= 0, a number or [...] as the input


class L1Ball(NamedTuple):
    """Inputs with sum `|x - centre| / radius` <= 1; where radius is 0 x = centre."""

    centre: jax.Array  # [...] as the input
    radius: jax.Array  # >= 0, a number or [...] as the input


class _Entries(NamedTuple):
    """Weights with what the ball allows each of them, [rows or 1, *shape]."""

    weight: jax.Array
    radius: jax.Array
    down: jax.Array  # room in units of the radius, at most 2
    up: jax.Array

    @property
    def room(self) -> jax.Array:
        """The room in the direction that lowers the form."""
        return jnp.where(self.weight > 0, self.down, self.up)

    @property
    def size(self) -> jax.Array:
        """By how much the form falls if an entry moves by its radius."""
        return jnp.abs(self.weight) * self.radius


def least(
    form: LinearForm, box: Interval, ball: L1Ball | L2Ball, *, total: Total
) -> jax.Array:
    """Minimum of each row over the part of a ball that lies inside a box. [device].

    Args:
        form: the rows.
        box: lower and upper bounds of the input.
        ball: centre and radius.
        total: how the numbers of a row are summed.

    Returns:
        `[rows, cells]`, lower bounds.
    """
    centre = jnp.asarray(ball.centre, form.weight.dtype)[None]
    radius = jnp.asarray(ball.radius, form.weight.dtype)
    radius = jnp.broadcast_to(radius, ball.centre.shape)[None]
    unit = jnp.where(radius > 0, radius, 1.0)
    down, up = (
        jnp.minimum(room / unit, 2.0)  # beyond 1 the ball ends first
        for room in (centre - box[0][None], box[1][None] - centre)
    )
    entries = _Entries(form.weight, radius, down, up)
    if isinstance(ball, L2Ball):
        unit = _unit(entries, total)
        part = _part(entries, _multiplier_of_l2(entries, unit, total), total)
        shares = part * radius / _spread(unit, part, total)
        # The smallest number under the root covers squares that are flushed to zero.
        reach = unit * jnp.sqrt(total(0, shares**2 + jnp.finfo(part.dtype).tiny))
    else:
        reach = _multiplier_of_l1(entries, total)
        whole = jnp.ones_like(down)
        part = _part(entries._replace(down=whole, up=whole), reach, total)
    rest = form._replace(weight=form.weight - part)
    found = total(0, part * centre) - reach
    if form.rounding:
        smallest = ibp.least_size(part.dtype)
        sizes = jnp.maximum(ibp.size_of(box)[None], jnp.abs(centre) + radius + smallest)
        weights = jnp.abs(form.weight) + jnp.abs(part) + smallest
        found -= form.rounding * total(0, weights * sizes)
    return backward.least(rest, box, total=total) + found


def _part(entries: _Entries, multiplier: jax.Array, total: Total) -> jax.Array:
    """What the ball takes of the weights, for any multiplier [rows, cells]."""
    is_free = entries.radius > 0
    spread = _spread(multiplier, entries.weight, total)
    unit = jnp.where(is_free, entries.radius, 1.0)
    low, high = (
        jnp.where(is_free, spread * room / unit, jnp.inf)
        for room in (entries.up, entries.down)
    )
    return jnp.clip(entries.weight, -low, high)


def _unit(entries: _Entries, total: Total) -> jax.Array:
    """The sum of sizes of each cell, in which squares of sizes do not overflow."""
    whole = jax.lax.stop_gradient(total(0, entries.size))
    return jnp.where(whole > 0, whole, 1.0)


def _multiplier_of_l2(entries: _Entries, unit: jax.Array, total: Total) -> jax.Array:
    """m^2 (1 - sum of room^2 at the ends of the box) = sum of size^2 elsewhere.

    From above: with a smaller m more entries reach an end, until none is added. The
    bound is flat in m at the solution, so m is held fixed in derivatives.
    """
    entries = jax.lax.stop_gradient(entries)
    squares = (entries.size / _spread(unit, entries.size, total)) ** 2
    rooms = entries.room**2

    def step(_: int, multiplier: jax.Array) -> jax.Array:
        is_inside = _part(entries, multiplier, total) == entries.weight
        used = total(0, jnp.where(is_inside, 0.0, rooms))
        left = jnp.maximum(1.0 - used, jnp.finfo(used.dtype).eps)
        inside = total(0, jnp.where(is_inside, squares, 0.0))
        return unit * jnp.sqrt(inside / left)

    start = unit * jnp.sqrt(total(0, squares))
    return jax.lax.fori_loop(0, _NUM_SOLVES, step, start)


def _multiplier_of_l1(entries: _Entries, total: Total) -> jax.Array:
    """The largest size at which the rooms of all larger sizes do not exceed one.

    By bisection to the last bit, then the size between the ends, with its derivative.
    """
    sizes, rooms = jax.lax.stop_gradient((entries.size, entries.room))

    def halve(_: int, ends: Interval) -> Interval:
        low, high = ends
        middle = 0.5 * (low + high)
        is_larger = sizes > _spread(middle, sizes, total)
        is_too_low = total(0, jnp.where(is_larger, rooms, 0.0)) > 1
        return jnp.where(is_too_low, middle, low), jnp.where(is_too_low, high, middle)

    most = total(0, sizes)
    num_halvings = jnp.finfo(sizes.dtype).nmant + 8
    ends = jax.lax.fori_loop(0, num_halvings, halve, (jnp.zeros_like(most), most))
    low, high = (_spread(end, sizes, total) for end in ends)
    is_between = (low < sizes) & (sizes <= high)
    count = total(0, is_between.astype(sizes.dtype))
    mean = total(0, jnp.where(is_between, entries.size, 0.0)) / jnp.maximum(count, 1.0)
    return jnp.where(count > 0, mean, ends[1])


def _spread(numbers: jax.Array, like: jax.Array, total: Total) -> jax.Array:
    """Numbers of cells, [rows, cells], at all entries of each cell, [rows, *shape]."""
    (found,) = jax.linear_transpose(lambda entry: total(0, entry), like)(numbers)
    return found
